//! A function as a sink: `cargo run --release --example sink -- OUTPUT`.
//!
//! Each batch goes into a file that is named after it, so that a batch which is repeated after a crash
//! replaces what it had written. Errors of other libraries are wrapped by `Error::other`.

use std::path::PathBuf;

use tidemill::arrow::csv::Writer;
use tidemill::prelude::*;
use tidemill::{Error, Result};

/// Writes the rows of one batch.
async fn write(output: PathBuf, batch: u64, rows: DataFrame) -> Result<()> {
    let rows = rows.collect().await?;
    if rows.iter().all(|rows| rows.num_rows() == 0) {
        return Ok(());
    }
    let (staged, path) = (output.join(format!(".{batch}")), output.join(format!("{batch}.csv")));
    let mut writer = Writer::new(std::fs::File::create(&staged).map_err(Error::other)?);
    for rows in &rows {
        writer.write(rows)?;
    }
    drop(writer);
    std::fs::rename(staged, path).map_err(Error::other)
}

#[tokio::main]
async fn main() -> Result<()> {
    let output = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "out/sink".into()));
    std::fs::create_dir_all(&output).map_err(Error::other)?;
    let session = Session::new();
    let invoices =
        session.read_stream().format("csv").option("header", true).load("examples/data/retail").await?;
    let checkpoint = output.join(".checkpoint").display().to_string();
    let query = invoices
        .filter(col("\"Quantity\"").lt(lit(0)))?
        .write_stream()
        .foreach_batch(move |rows, batch| write(output.clone(), batch, rows))
        .trigger(Trigger::AvailableNow)
        .option("checkpointLocation", checkpoint)
        .start(None)
        .await?;
    query.await_termination().await
}
