//! The root of every streaming plan.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PhysicalExpr,
    PlanProperties,
};
use futures::StreamExt;

use super::epoch::Epoch;
use crate::sink::{Sink, SinkDistribution};

/// Writes each partition of its input with a writer of the sink, and gives one row per writer:
/// `(partition UInt64, report Utf8)`, the report being what the writer's `close` gave, as JSON.
/// Nothing is visible in the sink yet when it ends.
#[derive(Debug)]
pub(crate) struct SinkExec {
    input: Arc<dyn ExecutionPlan>,
    sink: Arc<dyn Sink>,
    properties: Arc<PlanProperties>,
}

impl SinkExec {
    /// Writes `input` to `sink`, through one writer if the sink asks for that.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, sink: Arc<dyn Sink>) -> Self {
        let many = input.output_partitioning().partition_count() > 1;
        let input = if many && sink.distribution() == SinkDistribution::Single {
            Arc::new(CoalescePartitionsExec::new(input)) as Arc<dyn ExecutionPlan>
        } else {
            input
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Self::report_schema()),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { input, sink, properties: Arc::new(properties) }
    }

    fn report_schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("partition", DataType::UInt64, false),
            Field::new("report", DataType::Utf8, false),
        ]))
    }
}

impl DisplayAs for SinkExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SinkExec: sink={}", self.sink.description())
    }
}

impl ExecutionPlan for SinkExec {
    fn name(&self) -> &str {
        "SinkExec"
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
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let (input, sink) = (children.swap_remove(0), Arc::clone(&self.sink));
        Ok(Arc::new(match options.children_properties {
            ChildrenPropertiesMode::Keep => Self { input, sink, properties: Arc::clone(&self.properties) },
            ChildrenPropertiesMode::Recompute => Self::new(input, sink),
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
        let sink = Arc::clone(&self.sink);
        let mut rows = self.input.execute(partition, context)?;
        let written = async move {
            let mut writer = sink.writer(epoch.batch, partition).await?;
            while let Some(batch) = rows.next().await.transpose()? {
                if batch.num_rows() > 0 {
                    writer.write(batch).await?;
                }
            }
            let report = writer.close().await?;
            let columns: Vec<ArrayRef> = vec![
                Arc::new(UInt64Array::from(vec![partition as u64])),
                Arc::new(StringArray::from(vec![report.to_string()])),
            ];
            Ok(RecordBatch::try_new(Self::report_schema(), columns)?)
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), futures::stream::once(written))))
    }
}
