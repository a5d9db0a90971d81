//! Files in, Parquet out, exactly once: `cargo run --release --example etl -- INPUT OUTPUT CHECKPOINT`.
//!
//! Without arguments it reads the days of retail invoices in `examples/data/retail`. Run it again:
//! there is nothing to do. Drop another day into the folder: only that day is processed.

use tidemill::prelude::*;

#[tokio::main]
async fn main() -> tidemill::Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let place = |index: usize, default: &str| given.get(index).cloned().unwrap_or_else(|| default.into());

    let session = Session::new();
    let invoices = session
        .read_stream()
        .format("csv")
        .option("header", true)
        .option("maxFilesPerTrigger", 1)
        .load(place(0, "examples/data/retail"))
        .await?;
    let query = invoices
        .filter(col("\"Quantity\"").gt(lit(0)))?
        .with_column("Revenue", col("\"Quantity\"") * col("\"UnitPrice\""))?
        .write_stream()
        .format("parquet")
        .trigger(Trigger::AvailableNow)
        .option("checkpointLocation", place(2, "checkpoint/example"))
        .start(place(1, "out/example"))
        .await?;
    query.await_termination().await?;

    let batches = query.recent_progress();
    let rows: i64 = batches.iter().map(|batch| batch.sink.num_output_rows).sum();
    println!("{} batches, {rows} rows written", batches.len());
    Ok(())
}
