//! The leaf of every streaming plan.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::internal_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{EmptyRecordBatchStream, ExecutionPlan, ExecutionPlanProperties};

use super::node::{Behaviour, map_rows};
use super::task::Task;
use crate::source::SourceScan;

/// Reads the new rows of one source: those that the batch names.
pub(crate) struct StreamScan {
    source_index: usize,
    description: String,
    scan: Arc<dyn SourceScan>,
    partitions: usize,
    /// The plan that reads this batch, made by the first partition to be executed.
    reader: Mutex<Option<Arc<dyn ExecutionPlan>>>,
}

impl StreamScan {
    pub(crate) fn new(
        source_index: usize,
        description: String,
        scan: Arc<dyn SourceScan>,
        partitions: usize,
    ) -> Self {
        Self { source_index, description, scan, partitions, reader: Mutex::new(None) }
    }

    /// Which source it reads.
    pub(crate) fn source_index(&self) -> usize {
        self.source_index
    }

    /// The planned scan.
    pub(crate) fn scan(&self) -> &Arc<dyn SourceScan> {
        &self.scan
    }

    fn reader(&self, task: &Task, context: &TaskContext) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = reader.as_ref() {
            return Ok(Arc::clone(reader));
        }
        let plan = self.scan.read(&task.batch.inputs[self.source_index], context)?;
        let partitions = plan.output_partitioning().partition_count();
        if partitions > self.partitions {
            // Nobody would execute the others, and their rows would be lost without a word.
            return internal_err!("{} gave {partitions} partitions of {}", self.description, self.partitions);
        }
        *reader = Some(Arc::clone(&plan));
        Ok(plan)
    }
}

impl fmt::Debug for StreamScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamScan({})", self.describe())
    }
}

impl Behaviour for StreamScan {
    fn name(&self) -> &'static str {
        "StreamScanExec"
    }

    fn describe(&self) -> String {
        let schema = self.scan.schema();
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let details = match self.scan.details() {
            details if details.is_empty() => details,
            details => format!(", {details}"),
        };
        format!("source={}, columns=[{}]{details}", self.description, columns.join(", "))
    }

    fn schema(&self) -> SchemaRef {
        self.scan.schema()
    }

    fn partitions(&self, _: usize) -> usize {
        self.partitions
    }

    fn fresh(&self) -> Option<Self> {
        let (description, scan) = (self.description.clone(), Arc::clone(&self.scan));
        Some(Self::new(self.source_index, description, scan, self.partitions))
    }

    fn execute(
        self: &Arc<Self>,
        _: Option<&Arc<dyn ExecutionPlan>>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let task = Task::of(&context)?;
        if task.batch.inputs[self.source_index].is_empty() {
            return Ok(Box::pin(EmptyRecordBatchStream::new(self.schema())));
        }
        let reader = self.reader(&task, &context)?;
        if partition >= reader.output_partitioning().partition_count() {
            return Ok(Box::pin(EmptyRecordBatchStream::new(self.schema())));
        }
        let source = self.source_index;
        map_rows(Some(&reader), partition, context, self.schema(), move |rows| {
            task.add_rows(source, rows.num_rows());
            Ok(rows)
        })
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, RecordBatch};
    use datafusion::common::stats::Precision;
    use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
    use datafusion::prelude::SessionContext;

    use super::super::node::Node;
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
        let leaf = Node::leaf(StreamScan::new(0, stream.description(), scan, 2));
        let statistics = StatisticsContext::new().compute(leaf.as_ref(), &StatisticsArgs::default()).unwrap();
        assert_eq!(statistics.num_rows, Precision::Absent);
        assert_eq!(statistics.column_statistics[0].max_value, Precision::Absent);
    }
}
