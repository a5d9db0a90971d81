//! The events of a batch, computed while they are read, by as many partitions as there are.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

use super::columns::{columns, schema};
use super::events::{Events, Kind};
use super::events_of;
use crate::error::Result;
use crate::source::{SourceBatch, SourceScan};

/// Below this many events one partition is enough.
const SMALL_BATCH_EVENTS: u64 = 10_000;

/// Gives some columns of the events of one type.
#[derive(Debug)]
pub(super) struct NexmarkScan {
    part: Part,
    partitions: usize,
    /// Whether the user asked for several partitions.
    is_spread: bool,
}

impl NexmarkScan {
    /// `planned` partitions, or fewer if the user asked for fewer (`numPartitions`).
    pub(super) fn new(
        kind: Kind,
        events: Events,
        projection: Option<&Vec<usize>>,
        planned: usize,
        asked: Option<usize>,
    ) -> Result<Self> {
        let all = schema(kind);
        let schema = match projection {
            Some(columns) => Arc::new(all.project(columns)?),
            None => all,
        };
        Ok(Self {
            part: Part { kind, events, schema, numbers: 0..0 },
            partitions: asked.unwrap_or(planned).min(planned).max(1),
            is_spread: asked.is_some_and(|asked| asked > 1),
        })
    }
}

impl SourceScan for NexmarkScan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.part.schema)
    }

    fn read(&self, batch: &SourceBatch, _: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        let Range { start, end } = events_of(batch)?;
        let each = (end - start).div_ceil(self.partitions as u64);
        let bound = |index: usize| start.saturating_add(each.saturating_mul(index as u64)).min(end);
        let part = |index| {
            let part = Part { numbers: bound(index)..bound(index + 1), ..self.part.clone() };
            Arc::new(part) as Arc<dyn PartitionStream>
        };
        let partitions = (0..self.partitions).map(part).collect();
        let schema = Arc::clone(&self.part.schema);
        Ok(Arc::new(StreamingTableExec::try_new(schema, partitions, None, None, false, None)?))
    }

    fn is_small(&self, batch: &SourceBatch) -> bool {
        !self.is_spread
            && events_of(batch).is_ok_and(|events| events.end - events.start <= SMALL_BATCH_EVENTS)
    }

    fn details(&self) -> String {
        format!("numPartitions={}", self.partitions)
    }
}

/// Events of one type that come with some of the numbers.
#[derive(Debug, Clone)]
struct Part {
    kind: Kind,
    events: Events,
    schema: SchemaRef,
    numbers: Range<u64>,
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut rest = self.clone();
        let size = context.session_config().batch_size().max(1);
        let batches = futures::stream::iter(std::iter::from_fn(move || rest.next_batch(size)));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}

impl Part {
    fn next_batch(&mut self, size: usize) -> Option<DataFusionResult<RecordBatch>> {
        let (events, kind) = (self.events, self.kind);
        let ids: Vec<u64> =
            self.numbers.by_ref().filter_map(|number| events.id(number, kind)).take(size).collect();
        if ids.is_empty() {
            return None;
        }
        let columns = columns(&events, kind, &ids, &self.schema);
        // Without columns (`count(*)`) only the number says how many rows there are.
        let options = RecordBatchOptions::new().with_row_count(Some(ids.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options);
        Some(batch.map_err(Into::into))
    }
}
