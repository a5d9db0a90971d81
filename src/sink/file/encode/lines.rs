//! JSON lines, CSV and text.

use std::io::Write;

use bytes::Bytes;
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, StringArrayType, new_null_array};
use datafusion::arrow::array::{AsArray, cast::as_string_array};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::csv;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::json;
use std::sync::Arc;

use super::Encoder;
use super::compress::{Compression, LineOutput};
use crate::error::{Error, Result};
use crate::text::{check_texts, with_csv_floats, with_csv_times, write_json};

/// How rows become lines.
#[derive(Debug, Clone)]
pub(in crate::sink) enum LineFormat {
    /// One JSON object per row.
    Json(json::WriterBuilder),
    /// Comma-separated values; the header, if any, is the first line of each file.
    Csv {
        /// Separator, quotes, formats of times.
        builder: csv::WriterBuilder,
        /// Whether each file starts with the names of the columns.
        header: bool,
    },
    /// The only column as it is, a line feed after each row; null is an empty line, as in Spark.
    Text,
}

impl LineFormat {
    /// Appends `rows` to `out`. `first` says whether these are the first rows of the file.
    ///
    /// Like DataFusion's own serializers, a writer is made per batch: it holds no state but its
    /// options.
    pub fn encode(&self, rows: &RecordBatch, first: bool, out: &mut impl Write) -> Result<()> {
        match self {
            LineFormat::Json(builder) => write_json(rows, builder, out)?,
            LineFormat::Csv { builder, header } => {
                check_texts(rows)?;
                let mut rows = with_csv_floats(rows)?;
                if builder.timestamp_tz_format().is_none() {
                    rows = with_csv_times(rows)?;
                }
                builder.clone().with_header(*header && first).build(out).write(&rows)?;
            }
            LineFormat::Text => {
                check_texts(rows)?;
                write_text(rows.column(0), out)?;
            }
        }
        Ok(())
    }

    /// Fails if one of the columns of `schema` has a type that cannot be a part of a line; `sink`
    /// is the sink's name for the message. Encodes one row of nulls to find out.
    pub fn check(&self, schema: &Schema, sink: &str) -> Result<()> {
        for field in schema.fields() {
            let nullable = Field::new(field.name(), field.data_type().clone(), true);
            let column = new_null_array(field.data_type(), 1);
            let trial = RecordBatch::try_new(Arc::new(Schema::new(vec![nullable])), vec![column])?;
            self.encode(&trial, true, &mut std::io::sink()).map_err(|error| {
                Error::Invalid(format!(
                    "{sink} cannot write column '{}' of type {}: {error}. Cast it to a string in the query, \
                     or write parquet",
                    field.name(),
                    field.data_type()
                ))
            })?;
        }
        Ok(())
    }
}

fn write_text(column: &ArrayRef, out: &mut impl Write) -> Result<()> {
    match column.data_type() {
        DataType::Utf8 => write_strings(as_string_array(column), out),
        DataType::LargeUtf8 => write_strings(column.as_string::<i64>(), out),
        DataType::Utf8View => write_strings(column.as_string_view(), out),
        _ => {
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            write_strings(as_string_array(&cast_with_options(column, &DataType::Utf8, &strict)?), out)
        }
    }
}

fn write_strings<'a>(column: impl StringArrayType<'a>, out: &mut impl Write) -> Result<()> {
    let mut lines = Vec::with_capacity(16 * column.len());
    for text in column.iter() {
        lines.extend_from_slice(text.unwrap_or_default().as_bytes());
        lines.push(b'\n');
    }
    out.write_all(&lines).map_err(encoding_failed)
}

/// Encodes one file of lines.
pub(super) struct LineEncoder {
    format: LineFormat,
    out: LineOutput,
    first: bool,
}

impl LineEncoder {
    pub fn try_new(format: LineFormat, compression: Compression) -> Result<Self> {
        let out = LineOutput::try_new(compression).map_err(encoding_failed)?;
        Ok(Self { format, out, first: true })
    }
}

impl Encoder for LineEncoder {
    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.format.encode(rows, self.first, &mut self.out)?;
        self.first = false;
        Ok(())
    }

    fn size(&self) -> u64 {
        self.out.total()
    }

    fn memory(&self) -> usize {
        self.out.memory()
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.out.take()
    }

    fn finish(self: Box<Self>) -> Result<Vec<Bytes>> {
        self.out.finish().map_err(encoding_failed)
    }
}

/// The output is memory, so that only the codec itself can fail.
fn encoding_failed(error: std::io::Error) -> Error {
    Error::Invalid(format!("the compression codec failed: {error}"))
}
