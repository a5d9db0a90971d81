//! Which columns go into the files and which become directories.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use super::super::columns::check_names_differ;
use crate::error::{Error, Result};
use crate::options::nearest;

/// The columns of a sink, divided.
#[derive(Debug)]
pub(super) struct Layout {
    /// The columns in the files.
    pub file_schema: SchemaRef,
    /// The columns that become directories, in the order of the directories.
    pub key_schema: SchemaRef,
    file_columns: Vec<usize>,
    key_columns: Vec<usize>,
}

impl Layout {
    /// Fails if a partition column is missing, named twice, or of a type that has no text form,
    /// and if no column is left for the files.
    pub fn try_new(schema: &Schema, partition_by: &[String], sink: &str) -> Result<Self> {
        check_names(schema, sink)?;
        let mut key_columns = Vec::with_capacity(partition_by.len());
        for name in partition_by {
            key_columns.push(key_column(schema, name, &key_columns)?);
        }
        let file_columns: Vec<usize> =
            (0..schema.fields().len()).filter(|index| !key_columns.contains(index)).collect();
        if file_columns.is_empty() {
            return Err(Error::Invalid(format!(
                "{sink} has no columns left to write: all of them are partition columns. \
                 Select one more, or partition by fewer"
            )));
        }
        let file_schema = Arc::new(schema.project(&file_columns)?);
        let key_schema = Arc::new(schema.project(&key_columns)?);
        Ok(Self { file_schema, key_schema, file_columns, key_columns })
    }

    /// Replaces dictionaries in the files by their values, for formats that cannot hold a
    /// dictionary that changes from batch to batch.
    pub fn without_dictionaries(mut self) -> Self {
        self.file_schema = plain_schema(&self.file_schema);
        self
    }

    /// Whether rows are split into directories.
    pub fn is_partitioned(&self) -> bool {
        !self.key_columns.is_empty()
    }

    /// Divides `rows` into key columns and a batch of the file's schema. Columns of another type
    /// are cast; a value that does not fit is an error, never a null.
    pub fn divide(&self, rows: &RecordBatch) -> Result<(Vec<ArrayRef>, RecordBatch)> {
        let width = self.file_columns.len() + self.key_columns.len();
        if rows.num_columns() != width {
            return Err(Error::Invalid(format!(
                "the file sink was given rows of {} columns, but it was made for {width}",
                rows.num_columns()
            )));
        }
        let keys = conform(rows, &self.key_columns, &self.key_schema)?;
        let columns = conform(rows, &self.file_columns, &self.file_schema)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok((keys, RecordBatch::try_new_with_options(self.file_schema.clone(), columns, &options)?))
    }
}

fn conform(rows: &RecordBatch, columns: &[usize], schema: &Schema) -> Result<Vec<ArrayRef>> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let fields = schema.fields().iter().zip(columns);
    fields
        .map(|(field, &index)| {
            let column = rows.column(index);
            if column.data_type() == field.data_type() {
                return Ok(Arc::clone(column));
            }
            cast_with_options(column, field.data_type(), &strict).map_err(|error| {
                Error::Invalid(format!(
                    "column '{}' of the result has type {}, but the file sink was made for {}: {error}",
                    field.name(),
                    column.data_type(),
                    field.data_type()
                ))
            })
        })
        .collect()
}

fn check_names(schema: &Schema, sink: &str) -> Result<()> {
    if schema.fields().is_empty() {
        return Err(Error::Invalid(format!("{sink} needs at least one column to write")));
    }
    check_names_differ(schema, sink)
}

fn key_column(schema: &Schema, name: &str, earlier: &[usize]) -> Result<usize> {
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let Some(index) = names.iter().position(|candidate| *candidate == name) else {
        let hint = match nearest(name, &names) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("there are {}", names.join(", ")),
        };
        return Err(Error::Invalid(format!("there is no column '{name}' to partition by; {hint}")));
    };
    if earlier.contains(&index) {
        return Err(Error::Invalid(format!("partition column '{name}' is named twice; name it once")));
    }
    if !has_text_form(schema.field(index).data_type()) {
        return Err(Error::Invalid(format!(
            "column '{name}' of type {} cannot be partitioned by, because its values have no text form for a \
             directory name. Cast it to a string in the query",
            schema.field(index).data_type()
        )));
    }
    Ok(index)
}

fn has_text_form(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => has_text_form(values),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_)
        | DataType::Interval(_)
        | DataType::Null => false,
        other => !other.is_nested(),
    }
}

/// `schema` with every dictionary replaced by the type of its values.
pub(super) fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(plain_field).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// `rows` of `schema` as [`plain_schema`] has it.
pub(super) fn plain_rows(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let columns = rows.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| cast_with_options(column, field.data_type(), &strict));
    let columns = columns.collect::<std::result::Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

fn plain_field(field: &FieldRef) -> FieldRef {
    let plain = plain_type(field.data_type());
    if plain == *field.data_type() {
        return Arc::clone(field);
    }
    let plain = Field::new(field.name(), plain, field.is_nullable());
    Arc::new(plain.with_metadata(field.metadata().clone()))
}

/// `data_type` with every dictionary in it replaced by the type of its values.
fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::List(item) => DataType::List(plain_field(item)),
        DataType::LargeList(item) => DataType::LargeList(plain_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(plain_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries), *sorted),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray, DictionaryArray, Int32Array, Int64Array, StringArray};
    use datafusion::arrow::datatypes::Int32Type;

    use super::*;

    fn schema() -> Schema {
        Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("day", DataType::Date32, true),
            Field::new("tags", DataType::new_list(DataType::Utf8, true), true),
        ])
    }

    fn refusal(schema: &Schema, partition_by: &[&str]) -> String {
        let partition_by: Vec<String> = partition_by.iter().map(|name| name.to_string()).collect();
        Layout::try_new(schema, &partition_by, "the test sink").unwrap_err().to_string()
    }

    #[test]
    fn partition_columns_are_checked() {
        assert!(refusal(&schema(), &["days"]).contains("did you mean 'day'?"));
        assert!(refusal(&schema(), &["day", "day"]).contains("named twice"));
        assert!(refusal(&schema(), &["tags"]).contains("Cast it to a string"));
        let narrow = schema().project(&[0]).unwrap();
        assert!(refusal(&narrow, &["id"]).contains("no columns left"));
        let twice = Schema::new(vec![Field::new("a", DataType::Int64, true); 2]);
        assert!(refusal(&twice, &[]).contains("two columns of the name 'a'"));
    }

    #[test]
    fn a_value_that_does_not_fit_is_an_error() {
        let layout = Layout::try_new(&schema().project(&[0]).unwrap(), &[], "the test sink").unwrap();
        let rows = |column: ArrayRef| RecordBatch::try_from_iter([("id", column)]).unwrap();
        let (_, narrow) = layout.divide(&rows(Arc::new(Int32Array::from(vec![7])))).unwrap();
        assert_eq!(narrow.column(0).as_ref(), &Int64Array::from(vec![7]) as &dyn Array);
        let error = layout.divide(&rows(Arc::new(StringArray::from(vec!["x"])))).unwrap_err().to_string();
        assert!(error.contains("column 'id'"), "{error}");
        assert!(layout.divide(&rows(Arc::new(Int64Array::from(vec![None])))).is_err());
    }

    #[test]
    fn dictionaries_are_replaced_at_any_depth() {
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let inner = Field::new("inner", dictionary.clone(), true);
        let schema = Schema::new(vec![
            Field::new("flat", dictionary, true),
            Field::new("deep", DataType::Struct(vec![inner].into()), true),
        ]);
        let layout = Layout::try_new(&schema, &[], "the test sink").unwrap().without_dictionaries();
        assert!(!format!("{:?}", layout.file_schema).contains("Dictionary"));
        let flat: DictionaryArray<Int32Type> = vec!["a", "b", "a"].into_iter().collect();
        let only = Layout::try_new(&schema.project(&[0]).unwrap(), &[], "the test sink").unwrap();
        let rows = RecordBatch::try_from_iter([("flat", Arc::new(flat) as ArrayRef)]).unwrap();
        let (_, plain) = only.without_dictionaries().divide(&rows).unwrap();
        assert_eq!(plain.column(0).as_string::<i32>(), &StringArray::from(vec!["a", "b", "a"]));
    }
}
