//! The leaf of every streaming plan.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions, SchedulingType,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, EmptyRecordBatchStream, ExecutionPlan, ExecutionPlanProperties,
    Partitioning, PhysicalExpr, PlanProperties,
};
use futures::TryStreamExt;

use super::epoch::Epoch;
use crate::source::SourceScan;

/// Reads the new rows of one source: those that the [`Epoch`] in the task context names.
///
/// Bounded to DataFusion, because one batch is. It reports no statistics: they would be those of
/// one batch, and DataFusion plans with them for all.
#[derive(Debug)]
pub(crate) struct StreamScanExec {
    source_index: usize,
    description: String,
    scan: Arc<dyn SourceScan>,
    /// Shared by all resets of this node, so that resetting a plan recomputes nothing.
    properties: Arc<PlanProperties>,
    /// The plan that reads this batch, made by the first partition to be executed.
    reader: Mutex<Option<Arc<dyn ExecutionPlan>>>,
}

impl StreamScanExec {
    pub(crate) fn new(
        source_index: usize,
        description: String,
        scan: Arc<dyn SourceScan>,
        partitions: usize,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(scan.schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Self { source_index, description, scan, properties: Arc::new(properties), reader: Mutex::new(None) }
    }

    /// Which source it reads.
    pub(crate) fn source_index(&self) -> usize {
        self.source_index
    }

    /// The planned scan.
    pub(crate) fn scan(&self) -> &Arc<dyn SourceScan> {
        &self.scan
    }

    fn reader(&self, epoch: &Epoch, context: &TaskContext) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = reader.as_ref() {
            return Ok(Arc::clone(reader));
        }
        let batch = &epoch.inputs[self.source_index].batch;
        let plan = self.scan.read(batch, context)?;
        let partitions = plan.output_partitioning().partition_count();
        let planned = self.properties.output_partitioning().partition_count();
        if partitions > planned {
            // Nobody would execute the others, and their rows would be lost without a word.
            return internal_err!("{} gave {partitions} partitions of {planned}", self.description);
        }
        *reader = Some(Arc::clone(&plan));
        Ok(plan)
    }
}

impl DisplayAs for StreamScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.scan.schema();
        let columns: Vec<&str> = fields.fields().iter().map(|field| field.name().as_str()).collect();
        write!(f, "StreamScanExec: source={}, columns=[{}]", self.description, columns.join(", "))?;
        match self.scan.details() {
            details if details.is_empty() => Ok(()),
            details => write!(f, ", {details}"),
        }
    }
}

impl ExecutionPlan for StreamScanExec {
    fn name(&self) -> &str {
        "StreamScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn reset_state(self: Arc<Self>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self {
            source_index: self.source_index,
            description: self.description.clone(),
            scan: Arc::clone(&self.scan),
            properties: Arc::clone(&self.properties),
            reader: Mutex::new(None),
        }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let epoch = Epoch::of(&context)?;
        if epoch.inputs[self.source_index].batch.is_empty() {
            return Ok(Box::pin(EmptyRecordBatchStream::new(self.schema())));
        }
        let reader = self.reader(&epoch, &context)?;
        if partition >= reader.properties().output_partitioning().partition_count() {
            return Ok(Box::pin(EmptyRecordBatchStream::new(self.schema())));
        }
        let source_index = self.source_index;
        let rows = reader.execute(partition, context)?.inspect_ok(move |rows| {
            epoch.inputs[source_index].add_rows(rows.num_rows() as u64);
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, RecordBatch};
    use datafusion::common::stats::Precision;
    use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::source::memory::MemoryStream;
    use crate::source::{SourceContext, SourceProvider};

    /// DataFusion would answer `count(*)` from exact statistics when it plans, once for all batches.
    #[test]
    fn nothing_is_told_about_a_batch_when_planning() {
        let column = Arc::new(Int64Array::from(vec![1, 2, 3])) as _;
        let rows = RecordBatch::try_from_iter([("a", column)]).unwrap();
        let stream = MemoryStream::new(rows.schema());
        stream.add_data(rows).unwrap();
        let context = SourceContext {
            query_id: uuid::Uuid::nil(),
            runtime: Arc::default(),
            clock: Arc::new(crate::clock::SystemClock),
        };
        let session = SessionContext::new().state();
        let scan = stream.create(context).unwrap().scan(&session, None, &[], 2).unwrap();
        let leaf = StreamScanExec::new(0, stream.description(), scan, 2);
        let statistics = StatisticsContext::new().compute(&leaf, &StatisticsArgs::default()).unwrap();
        assert_eq!(statistics.num_rows, Precision::Absent);
        assert_eq!(statistics.column_statistics[0].max_value, Precision::Absent);
    }
}
