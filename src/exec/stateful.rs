//! Operators with state.

use std::fmt::Debug;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::internal_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::batch::Batch;
use super::codec::RowCodec;
use super::keyed_rows::KeyedRows;
use super::node::{Behaviour, Node};
use super::operator::{OperatorCounters, OperatorId};
use crate::checkpoint::records::OperatorDefinition;
use crate::state::StateTable;

/// What an operator does with the rows of one state partition; the same for all batches and partitions.
pub(crate) trait StatefulWork: Debug + Send + Sync {
    /// The name of the plan node.
    fn name(&self) -> &'static str;

    /// What `EXPLAIN` shows after the operator and its keys.
    fn describe(&self) -> String;

    /// The columns it gives.
    fn schema(&self) -> SchemaRef;

    /// The expressions it evaluates.
    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>>;

    /// What its state depends on.
    fn definition(&self) -> OperatorDefinition;

    /// Takes all rows of one state partition in `batch`, in their order, and gives what becomes of them.
    fn run(
        &self,
        rows: Vec<KeyedRows>,
        table: &mut dyn StateTable,
        batch: &Batch,
    ) -> DataFusionResult<Worked>;
}

/// What an operator gave for one state partition.
#[derive(Debug, Default)]
pub(crate) struct Worked {
    pub(crate) rows: Vec<RecordBatch>,
    pub(crate) counters: OperatorCounters,
}

/// The place of an operator with state in a plan. Nothing of it is executed there: the plan is cut at it, see
/// [`Stages`](super::stages::Stages).
#[derive(Debug)]
pub(crate) struct Stateful {
    pub(crate) operator: OperatorId,
    /// Which rows belong together. Without keys, all do.
    pub(crate) keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The keys as bytes.
    pub(crate) codec: RowCodec,
    pub(crate) work: Arc<dyn StatefulWork>,
    /// Whether what all state partitions give is one partition for what is above.
    pub(crate) gathers: bool,
}

impl Stateful {
    /// Does `work` on the rows of `input`, divided by `keys`.
    pub(crate) fn over(
        input: Arc<dyn ExecutionPlan>,
        operator: OperatorId,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        work: Arc<dyn StatefulWork>,
        gathers: bool,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let schema = input.schema();
        let fields =
            keys.iter().map(|key| key.return_field(&schema)).collect::<DataFusionResult<Vec<_>>>()?;
        let codec = RowCodec::keys(fields.iter().map(AsRef::as_ref))?;
        Ok(Node::over(input, Self { operator, keys, codec, work, gathers }))
    }
}

impl Behaviour for Stateful {
    fn name(&self) -> &'static str {
        self.work.name()
    }

    fn describe(&self) -> String {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        format!("{}, keys=[{}]{}", self.operator, keys.join(", "), self.work.describe())
    }

    fn schema(&self) -> SchemaRef {
        self.work.schema()
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.keys.iter().chain(self.work.expressions()).collect()
    }

    fn partitions(&self, _: usize) -> usize {
        if self.gathers { 1 } else { self.operator.state_partitions }
    }

    fn execute(
        self: &Arc<Self>,
        _: Option<&Arc<dyn ExecutionPlan>>,
        _: usize,
        _: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        internal_err!("{} was not cut out of the plan", self.work.name())
    }
}
