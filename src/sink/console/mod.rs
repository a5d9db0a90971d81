//! Results on the terminal, as tables or as JSON lines.

mod table;

use std::fmt;
use std::io::{self, Seek, Write};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::arrow::json;
use serde_json::{Value, json};
use tempfile::SpooledTempFile;
use uuid::Uuid;

use self::table::{Table, TableStyle};
use super::columns::check_names_differ;
use super::file::LineFormat;
use super::report::total_rows;
use super::{OutputMode, Sink, SinkBatch, SinkDistribution, SinkWriter};
use crate::checkpoint::records::SinkDefinition;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::storage::Storage;

/// A batch whose text is longer waits on the disk.
const MOST_IN_MEMORY: usize = 1 << 20;

/// The first key of each JSON object.
const BATCH_ID: &str = "batchId";

/// Where a [`ConsoleSink`] prints to. Several sinks may share it: what one sink prints at once is
/// never torn apart.
pub type Console = Arc<Mutex<dyn Write + Send>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Table(TableStyle),
    Json,
}

/// Prints each batch, by default to standard output: Spark's `console` format.
///
/// | option | meaning |
/// |---|---|
/// | `numRows` | the most rows that are shown of a batch; default 20 |
/// | `truncate` | `true` (default) cuts values to 20 characters, a number to that many, `false` or 0 not at all |
/// | `format` | `table` (default) or `json` |
///
/// With `format` = `json` every row is printed as one JSON object on a line of its own,
/// with the batch number as `batchId` first and then the columns in order; nulls are written out,
/// so that all rows have the same keys. `numRows` and `truncate` do not apply.
///
/// A batch is printed when all of it was read and nothing speaks against it, and before it is committed: after a crash a
/// batch may be printed again.
pub struct ConsoleSink {
    schema: SchemaRef,
    style: Style,
    output: Console,
    /// What is to be printed of the batch that was written last.
    written: Arc<Mutex<Option<Written>>>,
    /// The query that it prints for.
    query: Option<String>,
}

/// The text of a batch.
struct Written {
    batch: SinkBatch,
    text: SpooledTempFile,
}

impl fmt::Debug for ConsoleSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleSink").field("style", &self.style).finish_non_exhaustive()
    }
}

impl ConsoleSink {
    /// A sink for rows of `schema` that prints to standard output. Fails for bad options, and with
    /// `format` = `json` for columns that JSON cannot hold, that have one name or are called `batchId`.
    pub fn try_new(schema: SchemaRef, options: &Options) -> Result<Self> {
        options.deny_unknown("the console sink", &["numRows", "truncate", "format"])?;
        let num_rows = options.parse("numRows", "a whole number")?.unwrap_or(20);
        let table = Style::Table(TableStyle { num_rows, truncate: truncate(options)? });
        let style = match options.get("format") {
            None => table,
            Some(format) if format.eq_ignore_ascii_case("table") => table,
            Some(format) if format.eq_ignore_ascii_case("json") => Style::Json,
            Some(format) => return Err(Error::option("format", format, "expected table or json")),
        };
        if style == Style::Json {
            if schema.column_with_name(BATCH_ID).is_some() {
                return Err(Error::Invalid(format!(
                    "the console sink gives each row the key '{BATCH_ID}', which is also a column of the result; \
                     rename the column with AS in the query"
                )));
            }
            check_names_differ(&schema, "the console sink")?;
            json_lines().check(&schema, "the console sink")?;
        }
        let output = Arc::new(Mutex::new(io::stdout()));
        Ok(Self { schema, style, output, written: Arc::default(), query: None })
    }

    /// The same sink, naming the query in the heading of each batch.
    pub fn with_query_name(self, name: Option<String>) -> Self {
        Self { query: name, ..self }
    }

    /// The same sink, printing to `output`.
    pub fn with_output(self, output: Console) -> Self {
        Self { output, ..self }
    }
}

fn truncate(options: &Options) -> Result<usize> {
    match options.get("truncate").map(str::trim) {
        None => Ok(20),
        Some(value) if value.eq_ignore_ascii_case("true") => Ok(20),
        Some(value) if value.eq_ignore_ascii_case("false") => Ok(0),
        Some(value) => value
            .parse()
            .map_err(|_| Error::option("truncate", value, "expected true, false or a number of characters")),
    }
}

fn json_lines() -> LineFormat {
    LineFormat::Json(json::WriterBuilder::new().with_explicit_nulls(true))
}

/// Writes a JSON object per row and line, as `format` `json` of the console does: with fields that are null, NaN
/// and infinities as texts, and an error for dates and times that have no text.
///
/// ```
/// use std::sync::Arc;
/// use tidemill::arrow::array::{ArrayRef, Float64Array};
/// use tidemill::arrow::record_batch::RecordBatch;
///
/// let x: ArrayRef = Arc::new(Float64Array::from(vec![Some(f64::NAN), None]));
/// let mut text = Vec::new();
/// tidemill::sink::write_json_lines(&RecordBatch::try_from_iter([("x", x)])?, &mut text)?;
/// assert_eq!(text, b"{\"x\":\"NaN\"}\n{\"x\":null}\n");
/// # Ok::<(), tidemill::Error>(())
/// ```
///
/// # Errors
/// If a value has no text, or `out` cannot be written to.
pub fn write_json_lines(rows: &RecordBatch, out: &mut impl Write) -> Result<()> {
    json_lines().encode(rows, true, out)
}

/// Writes a JSON object per row and line, as the file sink does: like [`write_json_lines`], but without fields that
/// are null.
///
/// ```
/// use std::sync::Arc;
/// use tidemill::arrow::array::{ArrayRef, Decimal128Array};
/// use tidemill::arrow::record_batch::RecordBatch;
///
/// let x = Decimal128Array::from(vec![Some(12345678901234567890123456789), None]).with_precision_and_scale(38, 9)?;
/// let mut text = Vec::new();
/// let rows = RecordBatch::try_from_iter([("x", Arc::new(x) as ArrayRef)])?;
/// tidemill::sink::write_json_lines_of_values(&rows, &mut text)?;
/// assert_eq!(text, b"{\"x\":12345678901234567890.123456789}\n{}\n");
/// # Ok::<(), tidemill::Error>(())
/// ```
///
/// # Errors
/// If a value has no text, or `out` cannot be written to.
pub fn write_json_lines_of_values(rows: &RecordBatch, out: &mut impl Write) -> Result<()> {
    LineFormat::Json(json::WriterBuilder::new()).encode(rows, true, out)
}

#[async_trait]
impl Sink for ConsoleSink {
    fn description(&self) -> String {
        match self.style {
            Style::Table(TableStyle { num_rows, truncate }) => {
                format!("ConsoleSink[numRows={num_rows}, truncate={truncate}]")
            }
            Style::Json => "ConsoleSink[format=json]".to_string(),
        }
    }

    fn definition(&self, _checkpoint: &dyn Storage) -> SinkDefinition {
        SinkDefinition {
            format: "console".to_string(),
            location: None,
            columns: Vec::new(),
            partition_by: Vec::new(),
            options: Default::default(),
        }
    }

    fn check_output_mode(&self, _mode: OutputMode) -> Result<()> {
        Ok(())
    }

    fn distribution(&self) -> SinkDistribution {
        SinkDistribution::Single
    }

    fn is_ephemeral(&self) -> bool {
        true
    }

    async fn recover(&self, _query_id: Uuid, _last: Option<(u64, &Value)>) -> Result<()> {
        Ok(())
    }

    async fn writer(&self, batch: SinkBatch, _partition: usize) -> Result<Box<dyn SinkWriter>> {
        let written = Arc::clone(&self.written);
        Ok(match self.style {
            Style::Table(style) => {
                let table = Table::new(style, Arc::clone(&self.schema));
                let heading = match &self.query {
                    Some(name) => format!("Batch: {} of {name}", batch.batch_id),
                    None => format!("Batch: {}", batch.batch_id),
                };
                Box::new(TableWriter { batch, heading, table, written })
            }
            Style::Json => Box::new(JsonWriter::new(batch, &self.schema, written)),
        })
    }

    async fn prepare(&self, batch: SinkBatch, reports: Vec<Value>) -> Result<Value> {
        if let Some(Written { text, .. }) = take(&self.written, batch) {
            print(&self.output, text).await?;
        }
        Ok(total_rows(&reports))
    }

    async fn publish(&self, _batch_id: u64, _prepared: &Value) -> Result<()> {
        Ok(())
    }

    async fn abort(&self, batch: SinkBatch) -> Result<()> {
        drop(take(&self.written, batch));
        Ok(())
    }
}

/// What was written of `batch`.
fn take(written: &Mutex<Option<Written>>, batch: SinkBatch) -> Option<Written> {
    written.lock().unwrap_or_else(PoisonError::into_inner).take_if(|written| written.batch == batch)
}

/// Writes `text` as a whole. A terminal or pipe may make its writer wait, which must not hold up
/// other queries.
async fn print(output: &Console, mut text: SpooledTempFile) -> Result<()> {
    let output = Arc::clone(output);
    let printing = tokio::task::spawn_blocking(move || {
        text.rewind()?;
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        io::copy(&mut text, &mut *output)?;
        output.flush()
    });
    printing.await.map_err(|error| failed(error.into()))?.map_err(failed)
}

fn failed(error: io::Error) -> Error {
    Error::storage("write to", "the console", error)
}

struct TableWriter {
    batch: SinkBatch,
    heading: String,
    table: Table,
    written: Arc<Mutex<Option<Written>>>,
}

#[async_trait]
impl SinkWriter for TableWriter {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        self.table.push(&rows)
    }

    async fn close(self: Box<Self>) -> Result<Value> {
        let rows = self.table.seen();
        let mut text = SpooledTempFile::new(MOST_IN_MEMORY);
        text.write_all(self.table.render(&self.heading)?.as_bytes()).map_err(failed)?;
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Written { batch: self.batch, text });
        Ok(json!({ "numRows": rows }))
    }
}

struct JsonWriter {
    batch: SinkBatch,
    /// `batchId` and the columns.
    schema: SchemaRef,
    format: LineFormat,
    rows: usize,
    text: SpooledTempFile,
    written: Arc<Mutex<Option<Written>>>,
}

impl JsonWriter {
    fn new(batch: SinkBatch, schema: &Schema, written: Arc<Mutex<Option<Written>>>) -> Self {
        let first: FieldRef = Arc::new(Field::new(BATCH_ID, DataType::UInt64, false));
        let fields: Vec<FieldRef> = std::iter::once(first).chain(schema.fields().iter().cloned()).collect();
        let text = SpooledTempFile::new(MOST_IN_MEMORY);
        Self { batch, schema: Arc::new(Schema::new(fields)), format: json_lines(), rows: 0, text, written }
    }
}

#[async_trait]
impl SinkWriter for JsonWriter {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let batch_ids: ArrayRef = Arc::new(UInt64Array::from_value(self.batch.batch_id, rows.num_rows()));
        let columns = std::iter::once(batch_ids).chain(rows.columns().iter().cloned()).collect();
        let mut text = Vec::new();
        self.format.encode(&RecordBatch::try_new(Arc::clone(&self.schema), columns)?, true, &mut text)?;
        self.rows += rows.num_rows();
        self.text.write_all(&text).map_err(failed)
    }

    async fn close(self: Box<Self>) -> Result<Value> {
        let Self { batch, text, rows, written, .. } = *self;
        *written.lock().unwrap_or_else(PoisonError::into_inner) = Some(Written { batch, text });
        Ok(json!({ "numRows": rows }))
    }
}
