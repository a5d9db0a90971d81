//! Results on standard output.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use datafusion::arrow::array::{Array, StringArray};
use datafusion::arrow::csv;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::arrow::util::pretty::pretty_format_batches_with_options;
use datafusion::prelude::DataFrame;
use futures::StreamExt;
use tidemill::{Error, Result};

use super::exit::Exit;
use super::monitor::Monitor;
use super::text::without_controls;

/// How many rows make up one table at least; a longer result comes as several, so that it need not
/// be held in memory.
const ROWS_PER_TABLE: usize = 10_000;
/// How much is written before looking whether it is still wanted.
const PIECE: usize = 16 * 1024;

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON array of objects
    Json,
    /// Comma-separated, with the names of the columns first
    Csv,
    /// A JSON object per line
    Ndjson,
}

/// Why a result was not printed whole.
#[derive(Debug)]
pub(super) enum PrintError {
    /// The query failed.
    Query(Error),
    /// Standard output cannot be written to.
    Output(io::Error),
}

impl<E: Into<Error>> From<E> for PrintError {
    fn from(error: E) -> Self {
        PrintError::Query(error.into())
    }
}

impl From<PrintError> for Exit {
    fn from(error: PrintError) -> Self {
        match error {
            PrintError::Query(error) => error.into(),
            PrintError::Output(error) => Exit::output(&error),
        }
    }
}

/// How many rows a result has, and how many of them were printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Printed {
    pub(super) rows: u64,
    pub(super) shown: u64,
}

/// Where and how results are printed.
#[derive(Debug, Clone)]
pub(super) struct Printer {
    monitor: Arc<Monitor>,
    pub(super) format: Format,
    /// Tables with a line per value.
    pub(super) expanded: bool,
    /// The most rows that are printed of a result on the terminal: files get all of them, and so do pagers.
    pub(super) limit: Option<u64>,
    /// Instead of standard output.
    pub(super) file: Option<Arc<File>>,
    /// Whether a pager reads the file, and shows it on the terminal.
    pub(super) is_paged: bool,
    /// Set by whoever no longer wants to see the rest.
    pub(super) stopped: Arc<AtomicBool>,
}

impl Printer {
    pub(super) fn new(monitor: Arc<Monitor>, format: Format) -> Self {
        Self {
            monitor,
            format,
            expanded: false,
            limit: None,
            file: None,
            is_paged: false,
            stopped: Arc::default(),
        }
    }

    /// Runs a query and prints its rows as they come.
    pub(super) async fn rows(&self, frame: DataFrame) -> Result<Printed, PrintError> {
        let mut printed = Printed::default();
        let limit = self.limit.filter(|_| self.file.is_none());
        let mut stream = frame.execute_stream().await?;
        let mut table = Table::new(self, stream.schema());
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            if self.stopped.load(Ordering::Relaxed) {
                break;
            }
            printed.rows += batch.num_rows() as u64;
            let wanted = limit.map_or(u64::MAX, |limit| limit.saturating_sub(printed.shown));
            let take = batch.num_rows().min(usize::try_from(wanted).unwrap_or(usize::MAX));
            printed.shown += take as u64;
            if take > 0 {
                table.push(batch.slice(0, take))?;
            }
            // Rows may come without a pause, and somebody may want to end this.
            tokio::task::yield_now().await;
        }
        table.finish()?;
        Ok(printed)
    }

    /// Prints rows.
    pub(super) fn batches(&self, batches: &[RecordBatch]) -> Result<Printed, PrintError> {
        let Some(first) = batches.first() else { return Ok(Printed::default()) };
        let mut table = Table::new(self, first.schema());
        batches.iter().try_for_each(|batch| table.push(batch.clone()))?;
        table.finish()?;
        let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        Ok(Printed { rows, shown: rows })
    }

    /// Begins to print a result whose columns are those of `schema`.
    pub(super) fn table(&self, schema: SchemaRef) -> Table<'_> {
        Table::new(self, schema)
    }

    /// Prints text beside the progress.
    pub(super) fn text(&self, text: &str) -> io::Result<()> {
        self.bytes(text.as_bytes())
    }

    fn bytes(&self, bytes: &[u8]) -> io::Result<()> {
        if let Some(file) = &self.file {
            return match file.as_ref().write_all(bytes) {
                // Whoever turns pages may leave before the last one.
                Err(error) if self.is_paged && error.kind() == io::ErrorKind::BrokenPipe => {
                    self.stopped.store(true, Ordering::Relaxed);
                    Ok(())
                }
                written => written,
            };
        }
        self.monitor.suspend(|| {
            let mut stdout = io::stdout().lock();
            for piece in bytes.chunks(PIECE) {
                if self.stopped.load(Ordering::Relaxed) {
                    stdout.write_all(b"\n")?;
                    break;
                }
                stdout.write_all(piece)?;
            }
            stdout.flush()
        })
    }

    /// Whether what is printed reaches a terminal, which must not be given orders by data.
    fn is_terminal(&self) -> bool {
        self.is_paged || (self.file.is_none() && io::stdout().is_terminal())
    }
}

/// A result that is being printed.
pub(super) struct Table<'a> {
    printer: &'a Printer,
    schema: SchemaRef,
    waiting: Vec<RecordBatch>,
    /// Rows that were printed.
    rows: usize,
    /// Whether anything was printed.
    is_begun: bool,
}

impl<'a> Table<'a> {
    fn new(printer: &'a Printer, schema: SchemaRef) -> Self {
        Self { printer, schema, waiting: Vec::new(), rows: 0, is_begun: false }
    }

    pub(super) fn push(&mut self, rows: RecordBatch) -> Result<(), PrintError> {
        self.waiting.push(rows);
        if self.waiting.iter().map(RecordBatch::num_rows).sum::<usize>() >= ROWS_PER_TABLE {
            self.print()?;
        }
        Ok(())
    }

    /// Prints what has been pushed so far.
    pub(super) fn flush(&mut self) -> Result<(), PrintError> {
        if self.waiting.is_empty() { Ok(()) } else { self.print() }
    }

    /// Prints the rest, or that there is nothing.
    pub(super) fn finish(mut self) -> Result<(), PrintError> {
        if !self.waiting.is_empty() || !self.is_begun {
            self.print()?;
        }
        if self.printer.format == Format::Json {
            let end: &[u8] = if self.rows == 0 { b"[]\n" } else { b"\n]\n" };
            self.printer.bytes(end).map_err(PrintError::Output)?;
        }
        Ok(())
    }

    fn print(&mut self) -> Result<(), PrintError> {
        let mut batches = std::mem::take(&mut self.waiting);
        if batches.is_empty() {
            batches.push(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let text = match self.printer.format {
            Format::Table if self.printer.expanded => records(&batches, self.rows)?.into_bytes(),
            Format::Table => table(&batches)?.into_bytes(),
            Format::Csv => comma_separated(&batches, !self.is_begun)?,
            Format::Ndjson => json_lines(&batches)?,
            Format::Json => elements(&json_lines(&batches)?, self.rows == 0),
        };
        self.is_begun = true;
        self.rows += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        let printed = if self.printer.is_terminal() && self.printer.format == Format::Table {
            self.printer.text(&without_controls(&String::from_utf8_lossy(&text)))
        } else {
            self.printer.bytes(&text)
        };
        printed.map_err(PrintError::Output)
    }
}

fn display() -> FormatOptions<'static> {
    FormatOptions::default().with_null("NULL").with_display_error(true)
}

fn table(batches: &[RecordBatch]) -> Result<String> {
    Ok(format!("{}\n", pretty_format_batches_with_options(batches, &display())?))
}

/// A line per value, below a heading for each row.
fn records(batches: &[RecordBatch], before: usize) -> Result<String> {
    let Some(first) = batches.first() else { return Ok(String::new()) };
    let (schema, options) = (first.schema(), display());
    let width = schema.fields().iter().map(|field| field.name().chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    let mut number = before;
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            number += 1;
            text += &format!("-[ row {number} ]{}\n", "-".repeat(width.saturating_sub(8).max(10)));
            for (field, column) in schema.fields().iter().zip(&columns) {
                text += &format!("{:width$} | {}\n", field.name(), column.value(row));
            }
        }
    }
    Ok(text)
}

fn comma_separated(batches: &[RecordBatch], with_names: bool) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut writer = csv::WriterBuilder::new().with_header(with_names).build(&mut text);
    for batch in batches {
        writer.write(&with_texts(batch)?)?;
    }
    drop(writer);
    Ok(text)
}

/// `batch` with lists, structs and maps, which have no form of their own in CSV, as texts.
fn with_texts(batch: &RecordBatch) -> Result<RecordBatch> {
    let schema = batch.schema();
    if schema.fields().iter().all(|field| !field.data_type().is_nested()) {
        return Ok(batch.clone());
    }
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if !field.data_type().is_nested() {
            columns.push((field.name(), Arc::clone(column)));
            continue;
        }
        let options = FormatOptions::default();
        let texts = ArrayFormatter::try_new(column.as_ref(), &options)?;
        let text = |row| column.is_valid(row).then(|| texts.value(row).to_string());
        columns.push((field.name(), Arc::new((0..column.len()).map(text).collect::<StringArray>())));
    }
    Ok(RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, column)| (name, column, true)),
    )?)
}

/// A JSON object per row and line.
pub(super) fn json_lines(batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    batches.iter().try_for_each(|batch| tidemill::sink::write_json_lines(batch, &mut text))?;
    Ok(text)
}

/// Lines of JSON as elements of one array. Line breaks inside of values are escaped.
fn elements(lines: &[u8], is_first: bool) -> Vec<u8> {
    let mut text = Vec::with_capacity(lines.len() + 16);
    let mut separator: &[u8] = if is_first { b"[\n" } else { b",\n" };
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        text.extend_from_slice(separator);
        text.extend_from_slice(line);
        separator = b",\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;
    use crate::cli::ProgressMode;

    fn printed(format: Format, expanded: bool, batches: &[RecordBatch]) -> String {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut printer = Printer::new(Monitor::new(ProgressMode::None), format);
        printer.expanded = expanded;
        printer.file = Some(Arc::new(path.reopen().unwrap()));
        printer.batches(batches).unwrap();
        std::fs::read_to_string(path.path()).unwrap()
    }

    #[test]
    fn rows_come_in_the_format_that_was_asked_for() {
        let rows = |n: i64| {
            let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(n), None]));
            let texts: ArrayRef = Arc::new(StringArray::from(vec!["a\n\"b\"", "c,d"]));
            RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("text", texts, true)]).unwrap()
        };
        let both = [rows(1), rows(2)];
        assert_eq!(
            printed(Format::Csv, false, &both),
            "n,text\n1,\"a\n\"\"b\"\"\"\n,\"c,d\"\n2,\"a\n\"\"b\"\"\"\n,\"c,d\"\n"
        );
        let lines = printed(Format::Ndjson, false, &both);
        assert_eq!(lines.lines().count(), 4);
        assert_eq!(lines.lines().nth(1), Some("{\"n\":null,\"text\":\"c,d\"}"));
        let array: serde_json::Value = serde_json::from_str(&printed(Format::Json, false, &both)).unwrap();
        let each: Vec<serde_json::Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(array, serde_json::Value::Array(each));
        assert_eq!(printed(Format::Json, false, &[rows(1).slice(0, 0)]), "[]\n");
        assert_eq!(printed(Format::Csv, false, &[rows(1).slice(0, 0)]), "n,text\n");
        let lists = datafusion::arrow::array::ListArray::from_iter_primitive::<
            datafusion::arrow::datatypes::Int64Type,
            _,
            _,
        >([Some(vec![Some(1), None]), None]);
        let lists =
            RecordBatch::try_from_iter_with_nullable([("l", Arc::new(lists) as ArrayRef, true)]).unwrap();
        assert_eq!(printed(Format::Csv, false, &[lists]), "l\n\"[1, ]\"\n\"\"\n");
        let records = printed(Format::Table, true, &[rows(7).slice(1, 1)]);
        assert_eq!(records, "-[ row 1 ]----------\nn    | NULL\ntext | c,d\n");
    }
}
