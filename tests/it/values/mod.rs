//! What values mean: arithmetic, aggregates over any number of batches, equality, and values as text.

mod aggregates;
mod arithmetic;
mod bounded;
mod dates;
mod equality;
mod null_times;
mod subqueries;
mod text;
mod upstream;
mod writes;

use std::path::Path;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::parquet::arrow::ArrowWriter;
use tidemill::Session;
use tidemill::sql::SqlSession;

use crate::support::harness::put;

/// The rows of `batches` as text, values separated by spaces.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    let mut lines = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter();
        let columns: Vec<_> =
            columns.map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        lines.extend((0..batch.num_rows()).map(|row| {
            columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" ")
        }));
    }
    lines
}

/// What a batch query gives in a session of its own, or its error.
async fn batch(sql: &str) -> Result<Vec<String>, String> {
    batch_in(&Session::new(), sql).await
}

async fn batch_in(session: &Session, sql: &str) -> Result<Vec<String>, String> {
    let frame = session.context().sql(sql).await.map_err(|error| error.to_string())?;
    Ok(lines(&frame.collect().await.map_err(|error| error.to_string())?))
}

/// Writes `rows` as a Parquet file.
fn write_parquet(path: &Path, rows: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    put(path, writer.into_inner().unwrap());
}

/// Runs a script in a session of its own.
async fn script(sql: &str) -> Result<(), String> {
    let session = SqlSession::new(Session::new());
    session.run(sql).await.map(drop).map_err(|error| error.to_string())
}
