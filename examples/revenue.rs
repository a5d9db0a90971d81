//! Revenue per hour and country: `cargo run --release --example revenue -- [append|update|complete]`.
//!
//! Invoices come as a CSV file per day. With `append`, hours that are over go to Parquet in
//! `out/revenue`, each of them once; run it again and there is nothing new. `update` and `complete`
//! show the same query on the console: the hours that each day changes, or all of them.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::functions_aggregate::expr_fn::sum;
use tidemill::prelude::*;

/// The columns of the files.
pub fn invoice_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("InvoiceNo", DataType::Utf8, true),
        Field::new("StockCode", DataType::Utf8, true),
        Field::new("Description", DataType::Utf8, true),
        Field::new("Quantity", DataType::Int32, true),
        Field::new("InvoiceDate", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("UnitPrice", DataType::Decimal128(10, 3), true),
        Field::new("CustomerID", DataType::Float64, true),
        Field::new("Country", DataType::Utf8, true),
    ]))
}

/// The query over the invoices in a directory: `hour`, `country` and `revenue`.
pub async fn revenue(session: &Session, invoices: &str) -> tidemill::Result<DataFrame> {
    let invoices = session
        .read_stream()
        .format("csv")
        .schema(invoice_schema())
        .option("header", true)
        .option("maxFilesPerTrigger", 1)
        .load(invoices)
        .await?;
    let revenue = invoices
        .with_watermark("InvoiceDate", "1 hour")?
        .select_exprs(&[
            r#"date_trunc('hour', "InvoiceDate") AS hour"#,
            r#""Country" AS country"#,
            r#""Quantity" * "UnitPrice" AS amount"#,
        ])?
        .aggregate(vec![col("hour"), col("country")], vec![sum(col("amount")).alias("revenue")])?;
    Ok(revenue)
}

#[tokio::main]
async fn main() -> tidemill::Result<()> {
    let mode: OutputMode = std::env::args().nth(1).as_deref().unwrap_or("append").parse()?;
    let session = Session::new();
    let revenue = revenue(&session, "examples/data/retail").await?;
    let writer = match mode {
        OutputMode::Complete => revenue.sort_by(vec![col("hour"), col("country")])?,
        _ => revenue,
    };
    let writer = writer.write_stream().output_mode(mode).trigger(Trigger::AvailableNow);
    let query = match mode {
        OutputMode::Append => {
            let checkpointed = writer.format("parquet").option("checkpointLocation", "checkpoint/revenue");
            checkpointed.start("out/revenue").await?
        }
        _ => writer.format("console").start(None).await?,
    };
    query.await_termination().await?;

    let rows: u64 = query.recent_progress().iter().map(|batch| batch.num_input_rows).sum();
    match rows {
        0 => println!("nothing new"),
        rows => println!("{rows} lines of invoices"),
    }
    Ok(())
}
