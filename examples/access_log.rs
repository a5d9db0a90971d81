//! Hits per status and ten minutes: `cargo run --release --example access_log -- [LOGS]`.
//!
//! Reads a web server's logs, a file per batch. Ten minutes are counted once they are over by the
//! watermark, five minutes after the newest line; lines that come later than that are dropped, and
//! the program says how many there were.

use datafusion::functions_aggregate::expr_fn::count;
use tidemill::prelude::*;

/// Address, time, request and status of Apache's common and combined formats.
const LINE: &str = r#"^(\S+) \S+ \S+ \[([^\]]+)\] "([^"]*)" (\d{3}) "#;

/// The query over the logs in a directory: `window_start`, `status` and `hits`.
pub async fn hits(session: &Session, logs: &str) -> tidemill::Result<DataFrame> {
    let lines = session.read_stream().format("text").option("maxFilesPerTrigger", 1).load(logs).await?;
    let parsed =
        lines.select_exprs(&[&format!("regexp_match(value, '{LINE}') AS line")])?.select_exprs(&[
            "to_timestamp(line[2], '%d/%b/%Y:%H:%M:%S %z') AS time",
            "CAST(line[4] AS INT) AS status",
        ])?;
    let hits = parsed
        .with_watermark("time", "5 minutes")?
        .aggregate(vec![window(col("time"), "10 minutes"), col("status")], vec![count(lit(1)).alias("hits")])?
        .select_exprs(&["window['start'] AS window_start", "status", "hits"])?;
    Ok(hits)
}

#[tokio::main]
async fn main() -> tidemill::Result<()> {
    let logs = std::env::args().nth(1).unwrap_or_else(|| "examples/data/access_log".into());
    let session = Session::new();
    let query = hits(&session, &logs)
        .await?
        .write_stream()
        .format("console")
        .option("numRows", 100)
        .trigger(Trigger::AvailableNow)
        .start(None)
        .await?;
    query.await_termination().await?;

    let batches = query.recent_progress();
    let operators = batches.iter().flat_map(|batch| &batch.state_operators);
    let late: u64 = operators.filter_map(|operator| operator["numRowsDroppedByWatermark"].as_u64()).sum();
    println!("{} batches, {late} lines dropped because they came too late", batches.len());
    Ok(())
}
