//! Being told what a query does: `cargo run --release --example listener`.

use std::sync::Arc;

use tidemill::prelude::*;
use tidemill::{QueryTerminated, StreamingQueryListener, StreamingQueryProgress};

#[derive(Debug)]
struct Printer;

impl StreamingQueryListener for Printer {
    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        println!(
            "batch {}: {} rows in {} ms",
            progress.batch_id, progress.num_input_rows, progress.batch_duration
        );
    }

    fn on_query_terminated(&self, event: &QueryTerminated) {
        match &event.exception {
            Some(exception) => println!("{exception}"),
            None => println!("done"),
        }
    }
}

#[tokio::main]
async fn main() -> tidemill::Result<()> {
    let session = Session::new();
    session.streams().add_listener(Arc::new(Printer));
    let query = session
        .read_stream()
        .format("csv")
        .option("header", true)
        .option("maxFilesPerTrigger", 2)
        .load("examples/data/retail")
        .await?
        .select_columns(&["InvoiceNo", "Country"])?
        .write_stream()
        .format("memory")
        .query_name("invoices")
        .trigger(Trigger::AvailableNow)
        .start(None)
        .await?;
    query.await_termination().await?;

    let by_country = "SELECT \"Country\", count(*) AS lines FROM invoices GROUP BY 1 ORDER BY 2 DESC LIMIT 5";
    session.context().sql(by_country).await?.show().await?;
    Ok(())
}
