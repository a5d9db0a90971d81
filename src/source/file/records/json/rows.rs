//! Objects as rows.

use std::sync::Arc;

use datafusion::arrow::array::{Array, RecordBatchOptions};
use datafusion::arrow::datatypes::{Fields, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;

use super::columns::{FirstFlaw, Flaw, Names, Record, StructColumn};
use super::text::{Broken, Token};
use crate::source::file::records::columns::RecordColumns;
use crate::source::file::records::decoder::no_value;
use crate::source::file::records::strangers::Strangers;
use crate::source::file::values::ValueRules;

/// Rows that were read and not given out yet.
pub(super) struct Rows {
    schema: SchemaRef,
    columns: StructColumn,
    /// How many of the columns are those of records; one more takes what no column takes.
    record_columns: usize,
    /// Positions of the columns that hold no nulls.
    required: Vec<usize>,
    scratch: Vec<u8>,
}

impl Rows {
    /// Reads the decoded ones among `columns`; `strangers` takes what no column takes.
    pub(super) fn new(
        columns: &RecordColumns,
        rules: &ValueRules,
        strangers: Strangers,
    ) -> Result<Self, ArrowError> {
        let position = |column| columns.decoded.iter().position(|decoded| *decoded == column);
        let names = columns.record.fields().iter().enumerate();
        let names = Names::new(names.map(|(column, field)| (field.name().as_str(), position(column))));
        let schema = Arc::clone(&columns.decoded_schema);
        let record_columns = columns.decoded.len();
        let fields: Fields = schema.fields().iter().take(record_columns).cloned().collect();
        let root = StructColumn::new(&fields, names, rules)
            .ok_or_else(|| ArrowError::NotYetImplemented(format!("JSON as {schema}")))?
            .with_strangers(strangers);
        let required = columns.required.clone();
        Ok(Self { schema, columns: root, record_columns, required, scratch: Vec::new() })
    }

    pub(super) fn len(&self) -> usize {
        self.columns.len()
    }

    /// Reads one object, of which `text` holds nothing else.
    pub(super) fn read(&mut self, text: &[u8]) -> Result<(), Flaw> {
        let before = self.columns.len();
        let result = self.read_object(text, None).and_then(|()| match self.first_missing() {
            Some(column) => Err(Flaw::Value(no_value(self.schema.field(column).name()))),
            None => Ok(()),
        });
        if result.is_err() {
            self.columns.truncate(before);
        }
        result
    }

    /// Reads one object, with null for every value that does not fit: the column and what is wrong, if
    /// anything is. What is no object is a row of nulls.
    pub(super) fn salvage(&mut self, text: &[u8]) -> Option<(Option<String>, String)> {
        let before = self.columns.len();
        let mut flaws = FirstFlaw::default();
        let whole = self.read_object(text, Some(&mut flaws));
        if let Err(flaw) = whole {
            self.columns.truncate(before);
            // An object without members is nothing but nulls.
            let _ = self.read_object(b"{}", None);
            return Some((None, reason_of(flaw)));
        }
        let flaw = flaws.0.map(|(column, reason)| (Some(column), reason));
        flaw.or_else(|| {
            let column = self.first_missing()?;
            Some((Some(self.schema.field(column).name().clone()), no_value(self.schema.field(column).name())))
        })
    }

    fn read_object(&mut self, text: &[u8], flaws: Option<&mut FirstFlaw>) -> Result<(), Flaw> {
        let text = std::str::from_utf8(text)
            .map_err(|_| Flaw::Broken(Broken::Wrong("it is not valid UTF-8".into())))?;
        let mut record = Record::new(text, std::mem::take(&mut self.scratch));
        match record.cursor.value()? {
            Token::Object => self.columns.read(&mut record, flaws)?,
            _ => return Err(Flaw::Broken(Broken::Wrong("it is no object".into()))),
        }
        if record.cursor.peek().is_some() {
            return Err(Flaw::Broken(Broken::Wrong("there is more on the line than one record".into())));
        }
        self.scratch = record.scratch;
        Ok(())
    }

    fn first_missing(&self) -> Option<usize> {
        self.required.iter().copied().find(|column| self.columns.ends_with_null(*column))
    }

    /// Forgets the rows so far.
    pub(super) fn clear(&mut self) {
        self.columns.truncate(0);
    }

    /// The rows so far, leaving none.
    pub(super) fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let rows = self.columns.finish(None)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let (_, mut columns, _) = rows.into_parts();
        columns.extend(self.columns.strangers().and_then(Strangers::finish));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }

    /// Positions of the columns that some object had.
    pub(super) fn found(&self) -> impl Iterator<Item = usize> {
        let is_found = |column: &usize| *column >= self.record_columns || self.columns.was_found(*column);
        (0..self.schema.fields().len()).filter(is_found)
    }

    /// Paths of fields that nothing takes.
    pub(super) fn strangers(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.columns.paths_of_strangers("", &mut paths);
        paths
    }
}

/// What is wrong, in words.
pub(super) fn reason_of(flaw: Flaw) -> String {
    match flaw {
        Flaw::Broken(Broken::Ended) => "it ends inside of the record".into(),
        Flaw::Broken(Broken::Wrong(reason)) | Flaw::Value(reason) => reason,
    }
}
