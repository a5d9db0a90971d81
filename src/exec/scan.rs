//! The leaf of every streaming plan.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{
    ArrayRef, DictionaryArray, Int32Array, RecordBatch, RecordBatchOptions, StringArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::internal_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{EmptyRecordBatchStream, ExecutionPlan, ExecutionPlanProperties};

use super::node::{Behaviour, map_rows};
use super::task::Task;
use crate::source::{SourceScan, watermark_group};

/// The column with the part of the stream that a row is in, see [`StreamScan::with_groups`].
pub(crate) const WATERMARK_GROUP: &str = "__watermark_group";

/// Reads the new rows of one source: those that the batch names.
pub(crate) struct StreamScan {
    source_index: usize,
    description: String,
    scan: Arc<dyn SourceScan>,
    partitions: usize,
    /// The columns.
    schema: SchemaRef,
    /// Whether the last of them is [`WATERMARK_GROUP`].
    gives_groups: bool,
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
        let (schema, reader) = (scan.schema(), Mutex::new(None));
        Self { source_index, description, scan, partitions, schema, gives_groups: false, reader }
    }

    /// The same with one more column, in which part of the stream each row is, if the source says so.
    pub(crate) fn with_groups(&self) -> Option<Self> {
        if !self.scan.has_watermark_groups() {
            return None;
        }
        let own = self.scan.schema();
        let names = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let mut fields: Vec<_> = own.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(WATERMARK_GROUP, names, true)));
        let schema = Arc::new(Schema::new_with_metadata(fields, own.metadata().clone()));
        let (description, scan) = (self.description.clone(), Arc::clone(&self.scan));
        Some(Self {
            schema,
            gives_groups: true,
            ..Self::new(self.source_index, description, scan, self.partitions)
        })
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
        let schema = &self.schema;
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let details = match self.scan.details() {
            details if details.is_empty() => details,
            details => format!(", {details}"),
        };
        format!("source={}, columns=[{}]{details}", self.description, columns.join(", "))
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn partitions(&self, _: usize) -> usize {
        self.partitions
    }

    fn fresh(&self) -> Option<Self> {
        let (description, scan) = (self.description.clone(), Arc::clone(&self.scan));
        Some(Self {
            schema: Arc::clone(&self.schema),
            gives_groups: self.gives_groups,
            ..Self::new(self.source_index, description, scan, self.partitions)
        })
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
        let (source, groups) = (self.source_index, self.gives_groups.then(|| self.schema()));
        let schema = self.scan.schema();
        let is_plain = !self.scan.has_watermark_groups();
        map_rows(Some(&reader), partition, context, self.schema(), move |rows| {
            task.add_rows(source, rows.num_rows());
            match &groups {
                Some(groups) => with_group(&rows, groups),
                None if is_plain => Ok(rows),
                // What is said of the group is for nobody above.
                None => with_schema(&rows, &schema, rows.columns().to_vec()),
            }
        })
    }
}

/// `rows` with the group that they say that they are in as one more column; null if they do not say it.
fn with_group(rows: &RecordBatch, schema: &SchemaRef) -> DataFusionResult<RecordBatch> {
    let key = watermark_group(rows).map(|_| 0);
    let names = StringArray::from_iter_values(watermark_group(rows));
    let keys: Int32Array = match key {
        Some(key) => vec![key; rows.num_rows()].into(),
        None => Int32Array::new_null(rows.num_rows()),
    };
    let groups: ArrayRef = Arc::new(DictionaryArray::try_new(keys, Arc::new(names))?);
    let mut columns = rows.columns().to_vec();
    columns.push(groups);
    with_schema(rows, schema, columns)
}

fn with_schema(
    rows: &RecordBatch,
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
) -> DataFusionResult<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Int64Array;
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
