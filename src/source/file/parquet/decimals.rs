//! Decimals with more digits than their type has, in files that DataFusion reads by itself.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::ColumnarValue;
use datafusion::parquet::basic::{ConvertedType, LogicalType};
use datafusion::parquet::file::metadata::ColumnChunkMetaData;
use datafusion::parquet::file::statistics::Statistics;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use datafusion::physical_plan::PhysicalExpr;

use crate::source::file::digits::{check_digits, has_decimals};

/// Has the digits of columns counted that are given.
#[derive(Debug)]
pub(super) struct CheckedDecimals {
    /// What makes columns of the table of those of a file.
    plain: Arc<dyn PhysicalExprAdapterFactory>,
}

impl CheckedDecimals {
    pub(super) fn new(plain: Arc<dyn PhysicalExprAdapterFactory>) -> Self {
        Self { plain }
    }
}

impl PhysicalExprAdapterFactory for CheckedDecimals {
    fn create(&self, table: SchemaRef, file: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let plain = self.plain.create(table, Arc::clone(&file))?;
        Ok(Arc::new(Columns { plain, file }))
    }
}

/// The columns of one file.
#[derive(Debug)]
struct Columns {
    plain: Arc<dyn PhysicalExprAdapter>,
    file: SchemaRef,
}

impl PhysicalExprAdapter for Columns {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = self.plain.rewrite(expr)?;
        // A comparison is right of such a value, too; and what rows are skipped by must be of plain columns.
        if expr.data_type(&self.file).is_ok_and(|data_type| data_type == DataType::Boolean) {
            return Ok(expr);
        }
        let rewrite = |expr: Arc<dyn PhysicalExpr>| {
            let column = expr.downcast_ref::<Column>().map(|column| (column.index(), column.name()));
            Ok(match column {
                Some((index, name)) if self.has_decimals(index) => {
                    let name = name.to_string();
                    Transformed::yes(Arc::new(Digits { name, input: expr }) as Arc<dyn PhysicalExpr>)
                }
                _ => Transformed::no(expr),
            })
        };
        expr.transform_up(rewrite).data()
    }
}

impl Columns {
    fn has_decimals(&self, column: usize) -> bool {
        self.file.fields().get(column).is_some_and(|field| has_decimals(field.data_type()))
    }
}

/// A column that fails where a decimal has more digits than its type.
#[derive(Debug, Clone)]
struct Digits {
    name: String,
    input: Arc<dyn PhysicalExpr>,
}

impl PartialEq for Digits {
    fn eq(&self, other: &Self) -> bool {
        self.input.eq(&other.input)
    }
}

impl Eq for Digits {}

impl Hash for Digits {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
    }
}

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.input)
    }
}

impl PhysicalExpr for Digits {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.input.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.input.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.input.return_field(schema)
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<ColumnarValue> {
        let values = self.input.evaluate(rows)?.into_array(rows.num_rows())?;
        match check_digits(values.as_ref()) {
            Ok(()) => Ok(ColumnarValue::Array(values)),
            Err(reason) => Err(DataFusionError::Execution(format!("column '{}': {reason}", self.name))),
        }
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let mut digits = self.as_ref().clone();
        if let Some(input) = children.into_iter().next() {
            digits.input = input;
        }
        Ok(Arc::new(digits))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.input.fmt_sql(f)
    }
}

/// Whether the least or the largest value of a column has more digits than its type. They would be taken for answers.
pub(super) fn have_too_many_digits(column: &ColumnChunkMetaData) -> bool {
    let kind = column.column_descr();
    let is_decimal = matches!(kind.logical_type_ref(), Some(LogicalType::Decimal { .. }))
        || kind.converted_type() == ConvertedType::DECIMAL;
    let Some(known) = column.statistics().filter(|_| is_decimal) else { return false };
    let precision = u32::try_from(kind.type_precision()).unwrap_or_default();
    let fits = |bytes: Option<&[u8]>| bytes.is_none_or(|bytes| has_digits(known, bytes, precision));
    !(fits(known.min_bytes_opt()) && fits(known.max_bytes_opt()))
}

fn has_digits(known: &Statistics, bytes: &[u8], precision: u32) -> bool {
    let value = match known {
        Statistics::Int32(_) => bytes.try_into().ok().map(|bytes| i128::from(i32::from_le_bytes(bytes))),
        Statistics::Int64(_) => bytes.try_into().ok().map(|bytes| i128::from(i64::from_le_bytes(bytes))),
        _ => from_big_endian(bytes),
    };
    match (value, 10_u128.checked_pow(precision)) {
        (Some(value), Some(end)) => value.unsigned_abs() < end,
        // Of more than 38 digits nothing is told by these.
        (_, None) => true,
        (None, _) => false,
    }
}

/// The number of these bytes, the highest first; `None` if it has more than 16.
fn from_big_endian(bytes: &[u8]) -> Option<i128> {
    let fill = if bytes.first().is_some_and(|first| first & 0x80 != 0) { 0xff } else { 0 };
    let surplus = bytes.len().saturating_sub(size_of::<i128>());
    let (high, low) = bytes.split_at(surplus);
    if high.iter().any(|byte| *byte != fill) {
        return None;
    }
    let mut all = [fill; size_of::<i128>()];
    all[size_of::<i128>() - low.len()..].copy_from_slice(low);
    Some(i128::from_be_bytes(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_length_are_read() {
        assert_eq!(from_big_endian(&[]), Some(0));
        assert_eq!(from_big_endian(&[0xff]), Some(-1));
        assert_eq!(from_big_endian(&[0x01, 0x00]), Some(256));
        assert_eq!(from_big_endian(&[0xff; 20]), Some(-1));
        assert_eq!(from_big_endian(&[0x01; 17]), None);
    }
}
