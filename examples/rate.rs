//! Rows without files: `cargo run --release --example rate`.
//!
//! Ten thousand rows a second, counted every second until Ctrl-C. Give it a checkpoint directory and
//! start it again after a while: it continues with the rows of the time in which it did not run.

use std::sync::Arc;
use std::time::Duration;

use tidemill::prelude::*;
use tidemill::{StreamingQueryListener, StreamingQueryProgress};

#[derive(Debug)]
struct Printer;

impl StreamingQueryListener for Printer {
    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        let Some(source) = progress.sources.first() else { return };
        println!(
            "batch {}: {} rows, up to {}",
            progress.batch_id, progress.num_input_rows, source.end_offset
        );
    }
}

#[tokio::main]
async fn main() -> tidemill::Result<()> {
    let session = Session::new();
    session.streams().add_listener(Arc::new(Printer));
    let rows = session.read_stream().format("rate").option("rowsPerSecond", 10_000).load(None).await?;
    let mut writer = rows
        .filter((col("value") % lit(2)).eq(lit(0)))?
        .write_stream()
        .format("noop")
        .trigger(Trigger::ProcessingTime(Duration::from_secs(1)));
    if let Some(checkpoint) = std::env::args().nth(1) {
        writer = writer.option("checkpointLocation", checkpoint);
    }
    let query = writer.start(None).await?;
    tokio::select! {
        ended = query.await_termination() => ended,
        _ = tokio::signal::ctrl_c() => query.stop(StopMode::Finish).await,
    }
}
