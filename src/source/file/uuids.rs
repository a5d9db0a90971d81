//! UUIDs that files hold as 16 bytes, as text.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_plan::PhysicalExpr;
use uuid::Uuid;

const WIDTH: i32 = 16;

/// What fields are marked with: by Arrow, and by its reader of Avro.
pub(super) const MARK: (&str, &str) = ("ARROW:extension:name", "arrow.uuid");
const AVRO_MARK: (&str, &str) = ("logicalType", "uuid");

/// Whether `field` holds UUIDs that are read as texts where `wanted` is wanted.
pub(super) fn are_texts(field: &Field, wanted: &DataType) -> bool {
    let is_marked =
        |(key, value): (&str, &str)| field.metadata().get(key).is_some_and(|found| found == value);
    matches!(wanted, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
        && *field.data_type() == DataType::FixedSizeBinary(WIDTH)
        && (is_marked(MARK) || is_marked(AVRO_MARK))
}

/// The values of `field`: texts if they are UUIDs and `wanted` is text, else as they are.
pub(super) fn as_told(values: &ArrayRef, field: &Field, wanted: &DataType) -> ArrayRef {
    if are_texts(field, wanted) { texts(values) } else { Arc::clone(values) }
}

/// With dashes and letters in lower case.
fn texts(values: &ArrayRef) -> ArrayRef {
    let text = |bytes: &[u8]| Uuid::from_slice(bytes).ok().map(|uuid| uuid.hyphenated().to_string());
    let texts = values.as_fixed_size_binary().iter().map(|bytes| bytes.and_then(text));
    Arc::new(StringArray::from_iter(texts))
}

/// A column of UUIDs as one of texts.
#[derive(Debug, Clone)]
pub(super) struct UuidTexts(Arc<dyn PhysicalExpr>);

impl UuidTexts {
    /// The texts of `column`, for which [`are_texts`] must hold.
    pub(super) fn new(column: Arc<dyn PhysicalExpr>) -> Self {
        Self(column)
    }
}

impl PartialEq for UuidTexts {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq(&other.0)
    }
}

impl Eq for UuidTexts {}

impl Hash for UuidTexts {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Display for UuidTexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uuid({})", self.0)
    }
}

impl PhysicalExpr for UuidTexts {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.0.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        let field = self.0.return_field(schema)?;
        Ok(Arc::new(Field::new(field.name(), DataType::Utf8, field.is_nullable())))
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<ColumnarValue> {
        let values = self.0.evaluate(rows)?.into_array(rows.num_rows())?;
        Ok(ColumnarValue::Array(texts(&values)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.0]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self(children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.0)))))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
