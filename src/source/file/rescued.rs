//! What no column takes of Parquet, Arrow and Avro files, as one column of JSON.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatchOptions, StringArray};
use datafusion::arrow::compute::{and, not, nullif, or};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::WriterBuilder;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::PhysicalExpr;

use super::layout::RESCUED_COLUMN;
use super::nested::{strangers, taker};
use super::records::strangers::end_of_object;
use crate::text::write_json;

/// The values of some columns of a file as JSON objects, null where all are null.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Rescued {
    columns: Vec<Arc<dyn PhysicalExpr>>,
    names: Vec<String>,
    /// Of columns that a column of the table takes in part, its type: they are rescued where there is more to them.
    taken: Vec<Option<DataType>>,
}

impl Rescued {
    pub(super) fn new(columns: impl Iterator<Item = (Column, Option<DataType>)>) -> Self {
        let mut rescued = Self { columns: Vec::new(), names: Vec::new(), taken: Vec::new() };
        for (column, taken) in columns {
            rescued.names.push(column.name().to_string());
            rescued.columns.push(Arc::new(column));
            rescued.taken.push(taken);
        }
        rescued
    }
}

impl fmt::Display for Rescued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rescued({})", self.names.join(", "))
    }
}

impl PhysicalExpr for Rescued {
    fn data_type(&self, _: &Schema) -> DataFusionResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn nullable(&self, _: &Schema) -> DataFusionResult<bool> {
        Ok(true)
    }

    fn return_field(&self, _: &Schema) -> DataFusionResult<FieldRef> {
        Ok(Arc::new(Field::new(RESCUED_COLUMN, DataType::Utf8, true)))
    }

    fn evaluate(&self, rows: &RecordBatch) -> DataFusionResult<ColumnarValue> {
        let columns = self
            .columns
            .iter()
            .zip(&self.taken)
            .map(|(column, taken)| {
                let values = column.evaluate(rows)?.into_array(rows.num_rows())?;
                match taken {
                    Some(taken) => Ok(nullif(&values, &not(&has_more(&values, taken)?)?)?),
                    None => Ok(values),
                }
            })
            .collect::<DataFusionResult<Vec<_>>>()?;
        Ok(ColumnarValue::Array(Arc::new(objects(&self.names, columns, rows.num_rows())?)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.columns.iter().collect()
    }

    fn with_new_children(
        self: Arc<Self>,
        columns: Vec<Arc<dyn PhysicalExpr>>,
    ) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { columns, ..self.as_ref().clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// In which rows there is more than `taken` takes.
fn has_more(values: &ArrayRef, taken: &DataType) -> Result<BooleanArray, ArrowError> {
    let is_there = |values: &ArrayRef| match values.logical_nulls() {
        Some(nulls) => BooleanArray::new(nulls.inner().clone(), None),
        None => BooleanArray::from(vec![true; values.len()]),
    };
    let (Some(found), DataType::Struct(taken)) = (values.as_struct_opt(), taken) else {
        // Within lists and maps it is not looked for.
        return Ok(is_there(values));
    };
    let mut more = BooleanArray::from(vec![false; values.len()]);
    for (field, column) in found.fields().iter().zip(found.columns()) {
        match taker(field.name(), found.fields(), taken) {
            None => more = or(&more, &is_there(column))?,
            Some(known) => {
                let mut is_partly_new = false;
                strangers("", field.data_type(), known.data_type(), &mut |_| is_partly_new = true);
                if is_partly_new {
                    more = or(&more, &has_more(column, known.data_type())?)?;
                }
            }
        }
    }
    and(&more, &is_there(values))
}

/// The rows as JSON objects of their values, which `names` name; null where all values are null.
pub(super) fn objects(
    names: &[String],
    columns: Vec<ArrayRef>,
    rows: usize,
) -> DataFusionResult<StringArray> {
    let fields: Vec<Field> = names
        .iter()
        .zip(&columns)
        .map(|(name, column)| Field::new(name, column.data_type().clone(), true))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?;
    let mut lines = Vec::new();
    write_json(&batch, &WriterBuilder::new(), &mut lines)?;
    let text = String::from_utf8(lines).map_err(|error| DataFusionError::External(error.into()))?;
    // No line break is within a line: JSON writes those of texts as \\n.
    let mut objects: Vec<Option<&str>> = text.lines().map(|line| (line != "{}").then_some(line)).collect();
    objects.resize(rows, None);
    Ok(StringArray::from(objects))
}

/// The rows with the name of their file in every object of what was rescued.
pub(super) fn with_file(rows: RecordBatch, file: &str) -> DataFusionResult<RecordBatch> {
    let schema: SchemaRef = rows.schema();
    let Ok(position) = schema.index_of(RESCUED_COLUMN) else { return Ok(rows) };
    let Some(texts) = rows.column(position).as_string_opt::<i32>() else { return Ok(rows) };
    let end = end_of_object(file);
    let named: StringArray = texts
        .iter()
        .map(|text| text.map(|text| format!("{}{end}", text.strip_suffix('}').unwrap_or(text))))
        .collect();
    let mut columns = rows.columns().to_vec();
    columns[position] = Arc::new(named);
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Int64Array;

    use super::*;

    #[test]
    fn nulls_are_left_out_and_rows_without_values_are_null() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(1), None, None])),
            Arc::new(StringArray::from(vec![None, Some("a\nb"), None])),
        ];
        let found = objects(&["x".into(), "y".into()], columns, 3).unwrap();
        let texts: Vec<_> = found.iter().collect();
        assert_eq!(texts, [Some("{\"x\":1}"), Some("{\"y\":\"a\\nb\"}"), None]);
        let rows = RecordBatch::try_from_iter([(RESCUED_COLUMN, Arc::new(found) as ArrayRef)]).unwrap();
        let named = with_file(rows, "f").unwrap();
        assert_eq!(named.column(0).as_string::<i32>().value(0), "{\"x\":1,\"_file_path\":\"f\"}");
        assert_eq!(objects(&[], vec![], 2).unwrap().null_count(), 2);
    }
}
