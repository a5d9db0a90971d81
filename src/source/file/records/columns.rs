//! Which columns of a record are decoded, and how the scan's columns are made of them.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatchOptions, StringBuilder, new_null_array};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;

use super::decoder::no_value;
use crate::source::file::fitting::fit;
use crate::source::file::layout::Apart;
use crate::source::file::values::ValueRules;

/// The columns of a scan over records.
#[derive(Debug, Clone)]
pub(super) struct RecordColumns {
    /// The columns of a record: those of the file without the columns apart.
    pub(super) record: SchemaRef,
    /// The positions in `record` of the columns that are decoded.
    pub(super) decoded: Vec<usize>,
    /// The decoded columns, and behind them the one that takes what no column takes, if that is wanted.
    pub(super) decoded_schema: SchemaRef,
    /// The positions in `decoded` of columns that hold no nulls.
    pub(super) required: Vec<usize>,
    output: Vec<Output>,
    schema: SchemaRef,
}

/// Where a column of the scan comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// From this decoded column.
    Decoded(usize),
    /// It takes the text of malformed records.
    CorruptRecord,
}

impl RecordColumns {
    /// The columns `wanted` of `file`, of which those `apart` are no fields of records and those in `required`
    /// are NOT NULL. With `judge_all` every column is decoded, because a record must be
    /// malformed or not whichever columns are wanted.
    pub(super) fn new(
        file: &Schema,
        apart: Apart,
        required: &[usize],
        wanted: &[usize],
        judge_all: bool,
    ) -> Result<Self, ArrowError> {
        let in_record: Vec<usize> =
            (0..file.fields().len()).filter(|column| !apart.contains(*column)).collect();
        let wants = |column: Option<usize>| column.filter(|column| wanted.contains(column));
        let wants_corrupt_record = wants(apart.corrupt_record).is_some();
        let rescued = wants(apart.rescued);
        let decodes_all = judge_all || wants_corrupt_record;
        // There may be fields within that are rescued, whether or not the column is wanted.
        let may_be_rescued = |column: usize| rescued.is_some() && file.field(column).data_type().is_nested();
        let is_decoded = |position: &usize| {
            let column = in_record[*position];
            decodes_all || wanted.contains(&column) || may_be_rescued(column)
        };
        let decoded: Vec<usize> = (0..in_record.len()).filter(is_decoded).collect();
        let output = wanted
            .iter()
            .map(|column| {
                let position = decoded.iter().position(|position| in_record[*position] == *column);
                let rescued = (rescued == Some(*column)).then_some(decoded.len());
                position.or(rescued).map_or(Output::CorruptRecord, Output::Decoded)
            })
            .collect();
        // Without a column, Arrow's readers of records have no way to say how many rows there are.
        let record = Arc::new(file.project(&in_record)?);
        let decoded_fields = decoded.iter().map(|position| record.field(*position));
        let decoded_fields = decoded_fields.chain(rescued.map(|column| file.field(column)));
        let decoded_schema = Arc::new(Schema::new(decoded_fields.cloned().collect::<Vec<_>>()));
        let is_required = |position: &usize| required.contains(&in_record[decoded[*position]]);
        let required = (0..decoded.len()).filter(is_required).collect();
        Ok(Self {
            record,
            decoded,
            decoded_schema,
            required,
            output,
            schema: Arc::new(file.project(wanted)?),
        })
    }

    /// Whether what no column takes is wanted.
    pub(super) fn are_rescued(&self) -> bool {
        self.decoded_schema.fields().len() > self.decoded.len()
    }

    /// The scan's columns from decoded rows, all of good records.
    pub(super) fn good(&self, decoded: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        self.assemble(decoded, |field_type| new_null_array(field_type, decoded.num_rows()))
    }

    /// The scan's columns from decoded pieces in order; those of one malformed record come with its
    /// text.
    pub(super) fn mixed(&self, pieces: &[(RecordBatch, Option<String>)]) -> Result<RecordBatch, ArrowError> {
        let decoded = concat_batches(&self.decoded_schema, pieces.iter().map(|(rows, _)| rows))?;
        // Nothing to concatenate keeps no count.
        let rows = pieces.iter().map(|(rows, _)| rows.num_rows()).sum();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let decoded = RecordBatch::try_new_with_options(
            Arc::clone(&self.decoded_schema),
            decoded.columns().to_vec(),
            &options,
        )?;
        let mut texts = StringBuilder::new();
        for (rows, text) in pieces {
            match text {
                Some(text) => texts.append_value(text),
                None => texts.append_nulls(rows.num_rows()),
            }
        }
        let texts: ArrayRef = Arc::new(texts.finish());
        self.assemble(&decoded, |field_type| {
            cast(&texts, field_type).unwrap_or_else(|_| new_null_array(field_type, rows))
        })
    }

    /// The decoded columns, made of `found`, which gives what there is of the column at a position, if there is any. The
    /// error says what does not fit.
    pub(super) fn fitted<'a>(
        &self,
        found: impl Fn(usize) -> Option<&'a ArrayRef>,
        rows: usize,
        rules: &ValueRules,
    ) -> Result<RecordBatch, String> {
        let column = |(at, field): (usize, &FieldRef)| {
            let values = match found(at) {
                None => new_null_array(field.data_type(), rows),
                Some(values) => fit(values, field.data_type(), None, rules)
                    .map_err(|reason| format!("column '{}': {reason}", field.name()))?,
            };
            match self.required.contains(&at) && values.logical_null_count() > 0 {
                true => Err(no_value(field.name())),
                false => Ok(values),
            }
        };
        let columns = self.decoded_schema.fields().iter().enumerate().map(column);
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.decoded_schema), columns, &options)
            .map_err(|error| error.to_string())
    }

    /// One row of the decoded columns, all null.
    pub(super) fn nulls(&self) -> Result<RecordBatch, ArrowError> {
        let fields = self.decoded_schema.fields().iter();
        let columns = fields.map(|field| new_null_array(field.data_type(), 1)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        RecordBatch::try_new_with_options(Arc::clone(&self.decoded_schema), columns, &options)
    }

    fn assemble(
        &self,
        decoded: &RecordBatch,
        corrupt_record: impl Fn(&DataType) -> ArrayRef,
    ) -> Result<RecordBatch, ArrowError> {
        let columns = self
            .output
            .iter()
            .zip(self.schema.fields())
            .map(|(output, field)| match output {
                Output::Decoded(position) => Arc::clone(decoded.column(*position)),
                Output::CorruptRecord => corrupt_record(field.data_type()),
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(decoded.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray, Int64Array};
    use datafusion::arrow::datatypes::Field;

    use super::*;

    fn file() -> Schema {
        Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("bad", DataType::LargeUtf8, true),
            Field::new("b", DataType::Int64, true),
        ])
    }

    fn bad() -> Apart {
        Apart { corrupt_record: Some(1), rescued: None }
    }

    fn names(schema: &Schema) -> Vec<&str> {
        schema.fields().iter().map(|field| field.name().as_str()).collect()
    }

    #[test]
    fn only_what_is_needed_is_decoded() {
        let columns =
            |wanted: &[usize], judge_all| RecordColumns::new(&file(), bad(), &[], wanted, judge_all).unwrap();
        assert_eq!(names(&columns(&[2], false).record), ["a", "b"]);
        assert_eq!(names(&columns(&[2], false).decoded_schema), ["b"]);
        assert_eq!(names(&columns(&[2], true).decoded_schema), ["a", "b"]);
        assert_eq!(names(&columns(&[1], false).decoded_schema), ["a", "b"]);
        assert!(columns(&[], false).decoded_schema.fields().is_empty());
    }

    #[test]
    fn what_no_column_takes_comes_behind_the_decoded_columns() {
        let apart = Apart { corrupt_record: None, rescued: Some(1) };
        let columns = |wanted: &[usize]| RecordColumns::new(&file(), apart, &[], wanted, false).unwrap();
        assert_eq!(names(&columns(&[1, 2]).decoded_schema), ["b", "bad"]);
        assert!(columns(&[1, 2]).are_rescued() && !columns(&[2]).are_rescued());
        assert_eq!(names(&columns(&[2]).record), ["a", "b"]);
    }

    #[test]
    fn the_text_of_malformed_records_gets_its_column() {
        let columns = RecordColumns::new(&file(), bad(), &[], &[1, 2], false).unwrap();
        let rows = |values: Vec<i64>| {
            let column: ArrayRef = Arc::new(Int64Array::from(values));
            let schema = Arc::clone(&columns.decoded_schema);
            RecordBatch::try_new(schema, vec![Arc::clone(&column), column]).unwrap()
        };
        let good = columns.good(&rows(vec![1, 2])).unwrap();
        assert_eq!((good.column(0).null_count(), good.num_columns()), (2, 2));
        let mixed = columns.mixed(&[(rows(vec![1]), None), (rows(vec![2]), Some("x".into()))]).unwrap();
        let texts: Vec<_> = mixed.column(0).as_string::<i64>().iter().collect();
        assert_eq!(texts, [None, Some("x")]);
        let none = RecordColumns::new(&file(), bad(), &[], &[], false).unwrap();
        let schema = Arc::clone(&none.decoded_schema);
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let three = RecordBatch::try_new_with_options(schema, vec![], &options).unwrap();
        assert_eq!(none.mixed(&[(three.clone(), None), (three, None)]).unwrap().num_rows(), 6);
    }
}
