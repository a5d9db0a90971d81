//! Rows to nowhere.

use async_trait::async_trait;
use datafusion::arrow::record_batch::RecordBatch;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{OutputMode, Sink, SinkBatch, SinkWriter};
use crate::checkpoint::records::SinkDefinition;
use crate::error::Result;
use crate::storage::Storage;

/// Takes rows of any output mode, counts them, and lets them go: for measuring a query without a
/// sink, as Spark's `noop` format.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoopSink;

#[async_trait]
impl Sink for NoopSink {
    fn description(&self) -> String {
        "NoopSink".to_string()
    }

    fn definition(&self, _checkpoint: &dyn Storage) -> SinkDefinition {
        SinkDefinition {
            format: "noop".to_string(),
            location: None,
            columns: Vec::new(),
            partition_by: Vec::new(),
            options: Default::default(),
        }
    }

    fn check_output_mode(&self, _mode: OutputMode) -> Result<()> {
        Ok(())
    }

    fn shows_only_published(&self) -> bool {
        true
    }

    fn is_ephemeral(&self) -> bool {
        true
    }

    async fn recover(&self, _query_id: Uuid, _last: Option<(u64, &Value)>) -> Result<()> {
        Ok(())
    }

    async fn writer(&self, _batch: SinkBatch, _partition: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(NoopWriter { rows: 0 }))
    }

    async fn prepare(&self, _batch: SinkBatch, reports: Vec<Value>) -> Result<Value> {
        Ok(super::report::total_rows(&reports))
    }

    async fn publish(&self, _batch_id: u64, _prepared: &Value) -> Result<()> {
        Ok(())
    }

    async fn abort(&self, _batch: SinkBatch) -> Result<()> {
        Ok(())
    }
}

struct NoopWriter {
    rows: u64,
}

#[async_trait]
impl SinkWriter for NoopWriter {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        self.rows += rows.num_rows() as u64;
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<Value> {
        Ok(json!({ "numRows": self.rows }))
    }
}
