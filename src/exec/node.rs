//! The frame of Tidemill's plan nodes: each says what it does with a partition, and this makes a DataFusion
//! plan of it.

use std::fmt::{self, Debug};
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::internal_datafusion_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions, SchedulingType,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PhysicalExpr,
    PlanProperties,
};
use futures::TryStreamExt;

/// What a node does; the same for all partitions.
pub(crate) trait Behaviour: Debug + Send + Sync + Sized + 'static {
    /// The name of the plan node.
    fn name(&self) -> &'static str;

    /// What `EXPLAIN` shows after the name.
    fn describe(&self) -> String;

    /// The columns it gives.
    fn schema(&self) -> SchemaRef;

    /// The expressions it evaluates.
    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        Vec::new()
    }

    /// How many partitions it gives, over an input with so many; a leaf has none.
    fn partitions(&self, inputs: usize) -> usize {
        inputs
    }

    /// The same for the next batch, if anything of it belongs to one.
    fn fresh(&self) -> Option<Self> {
        None
    }

    /// The rows of one partition. `input` is what is below; a leaf has nothing there.
    fn execute(
        self: &Arc<Self>,
        input: Option<&Arc<dyn ExecutionPlan>>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream>;
}

/// What is below a node.
pub(crate) type Inputs = [Arc<dyn ExecutionPlan>];

/// A plan node that behaves like this.
///
/// To DataFusion it is bounded, because one batch is, and it says nothing of its rows: what is true of one
/// batch is not of the next, and a plan is made for all.
#[derive(Debug)]
pub(crate) struct Node<B> {
    behaviour: Arc<B>,
    /// What is below: nothing below a leaf, and several only below an operator with state.
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    /// Shared by all resets of the node, so that resetting a plan recomputes nothing.
    properties: Arc<PlanProperties>,
}

impl<B: Behaviour> Node<B> {
    /// A node without anything below.
    pub(crate) fn leaf(behaviour: B) -> Arc<dyn ExecutionPlan> {
        Self::make(Arc::new(behaviour), Vec::new())
    }

    /// A node over `input`.
    pub(crate) fn over(input: Arc<dyn ExecutionPlan>, behaviour: B) -> Arc<dyn ExecutionPlan> {
        Self::over_all(vec![input], behaviour)
    }

    /// A node over several inputs.
    pub(crate) fn over_all(inputs: Vec<Arc<dyn ExecutionPlan>>, behaviour: B) -> Arc<dyn ExecutionPlan> {
        Self::make(Arc::new(behaviour), inputs)
    }

    fn make(behaviour: Arc<B>, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Arc<dyn ExecutionPlan> {
        let partitions = inputs.first().map_or(0, |input| input.output_partitioning().partition_count());
        let properties = PlanProperties::new(
            EquivalenceProperties::new(behaviour.schema()),
            Partitioning::UnknownPartitioning(behaviour.partitions(partitions)),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(match inputs.is_empty() {
            false => SchedulingType::NonCooperative,
            true => SchedulingType::Cooperative,
        });
        Arc::new(Self { behaviour, inputs, properties: Arc::new(properties) })
    }

    /// What `plan` does, if it is such a node.
    pub(crate) fn of(plan: &Arc<dyn ExecutionPlan>) -> Option<&Arc<B>> {
        plan.downcast_ref::<Self>().map(|node| &node.behaviour)
    }

    /// What `plan` does and what is below it, if it is such a node.
    pub(crate) fn parts(plan: &Arc<dyn ExecutionPlan>) -> Option<(&Arc<B>, &Inputs)> {
        let node = plan.downcast_ref::<Self>()?;
        Some((&node.behaviour, &node.inputs))
    }
}

impl<B: Behaviour> DisplayAs for Node<B> {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.behaviour.name(), self.behaviour.describe())
    }
}

impl<B: Behaviour> ExecutionPlan for Node<B> {
    fn name(&self) -> &str {
        self.behaviour.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        self.inputs.iter().map(|_| false).collect()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        self.behaviour.expressions().into_iter().try_fold(TreeNodeRecursion::Continue, |_, expr| f(expr))
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let behaviour = Arc::clone(&self.behaviour);
        Ok(match options.children_properties {
            ChildrenPropertiesMode::Keep => {
                Arc::new(Self { behaviour, inputs: children, properties: Arc::clone(&self.properties) })
            }
            ChildrenPropertiesMode::Recompute => Self::make(behaviour, children),
        })
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn reset_state(self: Arc<Self>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let behaviour = self.behaviour.fresh().map_or_else(|| Arc::clone(&self.behaviour), Arc::new);
        let (inputs, properties) = (self.inputs.clone(), Arc::clone(&self.properties));
        Ok(Arc::new(Self { behaviour, inputs, properties }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        self.behaviour.execute(self.inputs.first(), partition, context)
    }
}

/// The rows of `input`'s partition, each batch as `change` makes it.
pub(crate) fn map_rows(
    input: Option<&Arc<dyn ExecutionPlan>>,
    partition: usize,
    context: Arc<TaskContext>,
    schema: SchemaRef,
    change: impl FnMut(RecordBatch) -> DataFusionResult<RecordBatch> + Send + 'static,
) -> DataFusionResult<SendableRecordBatchStream> {
    let input = input.ok_or_else(|| internal_datafusion_err!("a node without its input"))?;
    let mut change = change;
    let rows = input.execute(partition, context)?.and_then(move |batch| std::future::ready(change(batch)));
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::replace_children_if_necessary;

    use super::*;

    #[derive(Debug)]
    struct Nothing(SchemaRef);

    impl Behaviour for Nothing {
        fn name(&self) -> &'static str {
            "NothingExec"
        }

        fn describe(&self) -> String {
            String::new()
        }

        fn schema(&self) -> SchemaRef {
            Arc::clone(&self.0)
        }

        fn execute(
            self: &Arc<Self>,
            input: Option<&Arc<dyn ExecutionPlan>>,
            partition: usize,
            context: Arc<TaskContext>,
        ) -> DataFusionResult<SendableRecordBatchStream> {
            map_rows(input, partition, context, self.schema(), Ok)
        }
    }

    /// As when the sides of a join below are swapped.
    #[test]
    fn an_input_with_more_partitions_is_read_in_as_many() {
        let schema = Arc::new(Schema::empty());
        let input = |partitions| -> Arc<dyn ExecutionPlan> {
            Arc::new(EmptyExec::new(Arc::clone(&schema)).with_partitions(partitions))
        };
        let plan = Node::over(input(1), Nothing(Arc::clone(&schema)));
        let plan = replace_children_if_necessary(plan, vec![input(3)]).unwrap();
        assert_eq!(plan.output_partitioning().partition_count(), 3);
        let plan = replace_children_if_necessary(plan, vec![input(3)]).unwrap();
        assert_eq!(plan.output_partitioning().partition_count(), 3);
    }
}
