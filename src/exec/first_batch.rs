//! Rows for the first batch alone.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{EmptyRecordBatchStream, ExecutionPlan};

use super::node::Behaviour;
use super::task::Task;

/// Gives the rows of its input in the first batch, and reads nothing in others.
#[derive(Debug)]
pub(crate) struct FirstBatch {
    pub(crate) schema: SchemaRef,
}

impl Behaviour for FirstBatch {
    fn name(&self) -> &'static str {
        "FirstBatchExec"
    }

    fn describe(&self) -> String {
        "initial state".into()
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn execute(
        self: &Arc<Self>,
        input: Option<&Arc<dyn ExecutionPlan>>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        if !Task::of(&context)?.batch.is_first {
            return Ok(Box::pin(EmptyRecordBatchStream::new(self.schema())));
        }
        let input = input.ok_or_else(|| internal_datafusion_err!("a first batch without its rows"))?;
        input.execute(partition, context)
    }
}
