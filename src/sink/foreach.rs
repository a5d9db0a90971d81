//! Results to a function of the program: Spark's `foreachBatch`.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::record_batch::RecordBatch;
use serde_json::{Value, json};
use uuid::Uuid;

use super::report::total_rows;
use super::{OutputMode, Sink, SinkBatch, SinkDistribution, SinkWriter};
use crate::checkpoint::records::SinkDefinition;
use crate::error::Result;
use crate::storage::Storage;

type Done = Pin<Box<dyn Future<Output = Result<()>> + Send>>;
type Function = Arc<dyn Fn(u64, Vec<RecordBatch>) -> Done + Send + Sync>;

/// Gives the rows of each batch, all of them at once and with the batch's number, to a function.
///
/// It is called before the batch is committed, and again with the same rows and number if the process
/// crashes before that: whoever needs each batch once keeps the number with what it writes.
///
/// [`DataStreamWriter::foreach_batch`](crate::DataStreamWriter::foreach_batch) makes one.
#[derive(Clone)]
pub struct ForeachBatchSink {
    function: Function,
}

impl ForeachBatchSink {
    /// A sink that calls `function`; an error of it fails the batch, and the query.
    pub fn new<F, D>(function: F) -> Self
    where
        F: Fn(u64, Vec<RecordBatch>) -> D + Send + Sync + 'static,
        D: Future<Output = Result<()>> + Send + 'static,
    {
        Self { function: Arc::new(move |batch, rows| Box::pin(function(batch, rows))) }
    }
}

impl fmt::Debug for ForeachBatchSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeachBatchSink").finish_non_exhaustive()
    }
}

#[async_trait]
impl Sink for ForeachBatchSink {
    fn description(&self) -> String {
        "ForeachBatchSink".to_string()
    }

    fn definition(&self, _checkpoint: &dyn Storage) -> SinkDefinition {
        SinkDefinition {
            format: "foreach-batch".to_string(),
            location: None,
            columns: Vec::new(),
            partition_by: Vec::new(),
            options: Default::default(),
        }
    }

    fn check_output_mode(&self, _mode: OutputMode) -> Result<()> {
        Ok(())
    }

    fn distribution(&self) -> SinkDistribution {
        SinkDistribution::Single
    }

    fn is_ephemeral(&self) -> bool {
        true
    }

    async fn recover(&self, _query_id: Uuid, _last: Option<(u64, &Value)>) -> Result<()> {
        Ok(())
    }

    async fn writer(&self, batch: SinkBatch, _partition: usize) -> Result<Box<dyn SinkWriter>> {
        let function = Arc::clone(&self.function);
        Ok(Box::new(Writer { batch_id: batch.batch_id, rows: Vec::new(), function }))
    }

    async fn prepare(&self, _batch: SinkBatch, reports: Vec<Value>) -> Result<Value> {
        Ok(total_rows(&reports))
    }

    async fn publish(&self, _batch_id: u64, _prepared: &Value) -> Result<()> {
        Ok(())
    }

    async fn abort(&self, _batch: SinkBatch) -> Result<()> {
        Ok(())
    }
}

struct Writer {
    batch_id: u64,
    rows: Vec<RecordBatch>,
    function: Function,
}

#[async_trait]
impl SinkWriter for Writer {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() > 0 {
            self.rows.push(rows);
        }
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<Value> {
        let rows: usize = self.rows.iter().map(RecordBatch::num_rows).sum();
        (self.function)(self.batch_id, self.rows).await?;
        Ok(json!({ "numRows": rows }))
    }
}
