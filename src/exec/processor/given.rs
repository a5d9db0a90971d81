//! The rows that a processor gives.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::json::ReaderBuilder;
use datafusion::arrow::json::reader::Decoder;
use serde::Serialize;

use crate::error::{Error, Result};

/// How many rows are made columns together.
const BATCH: usize = 8192;

/// Rows on their way to columns.
pub(crate) struct GivenRows {
    schema: SchemaRef,
    /// Times are counted in microseconds, as serde gives them.
    in_micros: SchemaRef,
    decoder: Option<Decoder>,
    waiting: usize,
    batches: Vec<RecordBatch>,
}

impl fmt::Debug for GivenRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GivenRows").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl GivenRows {
    pub(crate) fn new(schema: SchemaRef) -> Self {
        let in_micros = in_micros(&schema);
        Self { schema, in_micros, decoder: None, waiting: 0, batches: Vec::new() }
    }

    /// Appends a row.
    pub(super) fn push<T: Serialize>(&mut self, row: &T) -> Result<()> {
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => {
                let builder = ReaderBuilder::new(Arc::clone(&self.in_micros)).with_strict_mode(true);
                none.insert(builder.build_decoder()?)
            }
        };
        decoder.serialize(std::slice::from_ref(row)).map_err(|error| self::misfit(&self.schema, &error))?;
        self.waiting += 1;
        if self.waiting >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Appends rows with exactly these columns.
    pub(super) fn push_batch(&mut self, batch: RecordBatch) -> Result<()> {
        let types = |schema: &Schema| -> Vec<(String, DataType)> {
            schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
        };
        if types(batch.schema_ref()) != types(&self.schema) {
            return Err(Error::Invalid(format!(
                "a batch with the columns ({}) was given where the output schema is ({})",
                text(batch.schema_ref()),
                text(&self.schema)
            )));
        }
        self.flush()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().to_vec();
        self.batches.push(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let Some(decoder) = self.decoder.as_mut().filter(|_| self.waiting > 0) else { return Ok(()) };
        self.waiting = 0;
        let rows = decoder.flush().map_err(|error| misfit(&self.schema, &error))?;
        let Some(rows) = rows else { return Ok(()) };
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let columns = rows.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => Ok(cast_with_options(column, field.data_type(), &strict)?),
        });
        let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        self.batches.push(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?);
        Ok(())
    }

    /// All rows, in the order in which they were given.
    pub(crate) fn finish(mut self) -> Result<Vec<RecordBatch>> {
        self.flush()?;
        Ok(self.batches)
    }
}

/// `rows` as columns.
pub(crate) fn to_batches<T: Serialize>(schema: &SchemaRef, rows: &[T]) -> Result<Vec<RecordBatch>> {
    let mut given = GivenRows::new(Arc::clone(schema));
    rows.iter().try_for_each(|row| given.push(row))?;
    given.finish()
}

fn misfit(schema: &Schema, error: &impl fmt::Display) -> Error {
    Error::Invalid(format!("a row that was given does not fit the output schema ({}): {error}", text(schema)))
}

fn text(schema: &Schema) -> String {
    let columns: Vec<String> =
        schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    columns.join(", ")
}

fn in_micros(schema: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(field_in_micros).collect();
    Arc::new(Schema::new(fields))
}

fn field_in_micros(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Duration(_) => DataType::Duration(TimeUnit::Microsecond),
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::List(element) => DataType::List(field_in_micros(element)),
        DataType::LargeList(element) => DataType::LargeList(field_in_micros(element)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field_in_micros).collect()),
        _ => return Arc::clone(field),
    };
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()))
}
