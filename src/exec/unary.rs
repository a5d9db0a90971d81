//! The frame of Tidemill's operators with one input: each says what it does with the rows of one
//! partition, and this makes a DataFusion plan of it.

use std::fmt::{self, Debug};
use std::pin::Pin;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PhysicalExpr,
    PlanProperties,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::epoch::Epoch;
use crate::checkpoint::records::OperatorDefinition;

/// The rows that an operator gives for one partition.
pub(crate) type Batches = Pin<Box<dyn Stream<Item = DataFusionResult<RecordBatch>> + Send>>;

/// What an operator does; the same for all batches and partitions.
pub(crate) trait PartitionWork: Debug + Send + Sync {
    /// The name of the plan node.
    fn name(&self) -> &'static str;

    /// What `EXPLAIN` shows after the name.
    fn describe(&self) -> String;

    /// The columns it gives.
    fn schema(&self) -> SchemaRef;

    /// The expressions it evaluates.
    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>>;

    /// For an operator with state: its number, and what its state depends on.
    fn definition(&self) -> Option<(usize, OperatorDefinition)> {
        None
    }

    /// For an operator that leaves late rows out: which operator's they are, and their columns.
    fn late_rows(&self) -> Option<(usize, SchemaRef)> {
        None
    }

    /// Takes the rows of one partition in the batch of `epoch`, and gives what becomes of them. Where
    /// the input was exchanged, `partition` is the state partition.
    fn run(self: Arc<Self>, partition: usize, rows: SendableRecordBatchStream, epoch: Arc<Epoch>) -> Batches;
}

/// Does some work on each partition of its input.
#[derive(Debug)]
pub(crate) struct UnaryExec {
    input: Arc<dyn ExecutionPlan>,
    work: Arc<dyn PartitionWork>,
    properties: Arc<PlanProperties>,
}

impl UnaryExec {
    /// With as many output partitions as the input has.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, work: Arc<dyn PartitionWork>) -> Self {
        let partitions = input.output_partitioning().partition_count();
        Self::with_partitions(input, work, partitions)
    }

    /// With one output partition, for which the input's partitions are worked on one after the other
    /// (fanning out costs more than a small batch does), or with as many as the input has.
    pub(crate) fn with_partitions(
        input: Arc<dyn ExecutionPlan>,
        work: Arc<dyn PartitionWork>,
        partitions: usize,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(work.schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { input, work, properties: Arc::new(properties) }
    }

    /// For an operator with state: its number, and what its state depends on.
    pub(crate) fn definition(&self) -> Option<(usize, OperatorDefinition)> {
        self.work.definition()
    }

    /// For an operator that leaves late rows out: which operator's they are, and their columns.
    pub(crate) fn late_rows(&self) -> Option<(usize, SchemaRef)> {
        self.work.late_rows()
    }

    fn partitions(&self) -> usize {
        self.properties.output_partitioning().partition_count()
    }
}

impl DisplayAs for UnaryExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.work.name(), self.work.describe())
    }
}

impl ExecutionPlan for UnaryExec {
    fn name(&self) -> &str {
        self.work.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        self.work.expressions().into_iter().try_fold(TreeNodeRecursion::Continue, |_, expr| f(expr))
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self {
            input: children.swap_remove(0),
            work: Arc::clone(&self.work),
            properties: Arc::clone(&self.properties),
        }))
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let input = children.swap_remove(0);
        let before = self.input.output_partitioning().partition_count();
        let partitions = match self.partitions() == before {
            true => input.output_partitioning().partition_count(),
            false => self.partitions(),
        };
        Ok(Arc::new(Self::with_partitions(input, Arc::clone(&self.work), partitions)))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let epoch = Epoch::of(&context)?;
        let inputs = self.input.output_partitioning().partition_count();
        let mine = if self.partitions() == inputs { partition..partition + 1 } else { 0..inputs };
        let inputs = mine
            .map(|partition| Ok((partition, self.input.execute(partition, Arc::clone(&context))?)))
            .collect::<DataFusionResult<Vec<_>>>()?;
        let work = Arc::clone(&self.work);
        let rows = stream::iter(inputs)
            .map(move |(partition, rows)| {
                Ok::<_, DataFusionError>(Arc::clone(&work).run(partition, rows, Arc::clone(&epoch)))
            })
            .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.work.schema(), rows)))
    }
}
