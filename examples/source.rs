//! A source and a sink of one's own: `cargo run --release --example source`.
//!
//! The source is a log that is kept in memory here and would be a service in real life: its rows have
//! numbers, and can be read again. The sink is a function that is given each batch.

use std::sync::Arc;

use tidemill::arrow::array::{AsArray, RecordBatch, UInt64Array};
use tidemill::arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use tidemill::prelude::*;
use tidemill::source::{OffsetSource, OffsetTable};
use tidemill::{StreamTable, async_trait};

/// The square numbers, of which there are a hundred.
#[derive(Debug)]
struct Squares;

#[async_trait]
impl OffsetSource for Squares {
    fn name(&self) -> &str {
        "squares"
    }

    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("square", DataType::UInt64, false)]))
    }

    async fn end(&self) -> tidemill::Result<u64> {
        Ok(100)
    }

    async fn read(&self, from: u64, to: u64) -> tidemill::Result<Vec<RecordBatch>> {
        let squares = UInt64Array::from_iter_values((from..to).map(|n| n * n));
        Ok(vec![RecordBatch::try_new(self.schema(), vec![Arc::new(squares)])?])
    }
}

#[tokio::main]
async fn main() -> tidemill::Result<()> {
    let session = Session::new();
    let table = StreamTable::new(Arc::new(OffsetTable::new(Squares)));
    session.context().register_table("squares", Arc::new(table))?;
    let query = session
        .query("SELECT square FROM squares WHERE square % 2 = 0")
        .await?
        .write_stream()
        .foreach_batch(|rows, batch| async move {
            let rows = rows.collect().await?;
            let sum: u64 =
                rows.iter().flat_map(|rows| rows.column(0).as_primitive::<UInt64Type>().values()).sum();
            println!("batch {batch}: the even squares add up to {sum}");
            Ok(())
        })
        .trigger(Trigger::AvailableNow)
        .start(None)
        .await?;
    query.await_termination().await
}
