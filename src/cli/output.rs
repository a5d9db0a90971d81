//! Results on standard output.

use std::io::{self, Write};

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::FormatOptions;
use datafusion::arrow::util::pretty::pretty_format_batches_with_options;
use datafusion::prelude::DataFrame;
use futures::StreamExt;
use tidemill::Error;

use super::monitor::Monitor;

/// How many rows make up one table at least; a longer result comes as several, so that it need not
/// be held in memory.
const ROWS_PER_TABLE: usize = 10_000;

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

/// Runs a query and prints its rows as they come; gives their number.
pub(super) async fn print_rows(frame: DataFrame, monitor: &Monitor) -> Result<u64, PrintError> {
    let mut rows = 0;
    let mut stream = frame.execute_stream().await?;
    let empty = RecordBatch::new_empty(stream.schema());
    let mut table = Vec::new();
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        rows += batch.num_rows() as u64;
        table.push(batch);
        if table.iter().map(RecordBatch::num_rows).sum::<usize>() >= ROWS_PER_TABLE {
            print_table(&std::mem::take(&mut table), monitor)?;
        }
    }
    if table.is_empty() && rows == 0 {
        table.push(empty);
    }
    if !table.is_empty() {
        print_table(&table, monitor)?;
    }
    Ok(rows)
}

/// Prints a table.
pub(super) fn print_table(batches: &[RecordBatch], monitor: &Monitor) -> Result<(), PrintError> {
    let options = FormatOptions::default().with_null("NULL").with_display_error(true);
    let table = pretty_format_batches_with_options(batches, &options)?;
    print(&format!("{table}\n"), monitor).map_err(PrintError::Output)
}

/// Prints text beside the progress.
pub(super) fn print(text: &str, monitor: &Monitor) -> io::Result<()> {
    monitor.suspend(|| {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    })
}
