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
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
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

    /// Whether one output partition has the rows of several input partitions.
    fn is_one_of_many(&self) -> bool {
        self.partitions() != self.input.output_partitioning().partition_count()
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
        options: ReplaceChildrenOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let input = children.swap_remove(0);
        let (work, is_one) = (Arc::clone(&self.work), self.is_one_of_many());
        Ok(Arc::new(match options.children_properties {
            ChildrenPropertiesMode::Keep => Self { input, work, properties: Arc::clone(&self.properties) },
            ChildrenPropertiesMode::Recompute if is_one => Self::with_partitions(input, work, 1),
            ChildrenPropertiesMode::Recompute => Self::new(input, work),
        }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let epoch = Epoch::of(&context)?;
        let inputs = self.input.output_partitioning().partition_count();
        let mine = if self.is_one_of_many() { 0..inputs } else { partition..partition + 1 };
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

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::replace_children_if_necessary;

    use super::*;

    #[derive(Debug)]
    struct Nothing(SchemaRef);

    impl PartitionWork for Nothing {
        fn name(&self) -> &'static str {
            "NothingExec"
        }

        fn describe(&self) -> String {
            String::new()
        }

        fn schema(&self) -> SchemaRef {
            Arc::clone(&self.0)
        }

        fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
            vec![]
        }

        fn run(self: Arc<Self>, _: usize, rows: SendableRecordBatchStream, _: Arc<Epoch>) -> Batches {
            rows
        }
    }

    /// As when the sides of a join below are swapped.
    #[test]
    fn an_input_with_more_partitions_is_read_in_as_many() {
        let schema = Arc::new(Schema::empty());
        let input = |partitions| -> Arc<dyn ExecutionPlan> {
            Arc::new(EmptyExec::new(Arc::clone(&schema)).with_partitions(partitions))
        };
        let plan: Arc<dyn ExecutionPlan> =
            Arc::new(UnaryExec::new(input(1), Arc::new(Nothing(Arc::clone(&schema)))));
        let plan = replace_children_if_necessary(plan, vec![input(3)]).unwrap();
        assert_eq!(plan.output_partitioning().partition_count(), 3);
        let plan = replace_children_if_necessary(plan, vec![input(3)]).unwrap();
        assert_eq!(plan.output_partitioning().partition_count(), 3);
    }
}
