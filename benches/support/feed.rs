//! Rows that were made before the clock started, as an unbounded table: one part of them a trigger.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{MemTable, Session};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use serde_json::Value;
use serde_json::value::RawValue;
use tidemill::checkpoint::records::SourceDefinition;
use tidemill::source::{Admission, Source, SourceBatch, SourceContext, SourceProvider, SourceScan};
use tidemill::storage::Storage;

use super::Result;

/// Rows of a batch in memory: DataFusion's own size.
pub const BATCH_ROWS: u64 = 8_192;
/// Below this many rows one partition is enough.
const SMALL_BATCH_ROWS: usize = 10_000;

/// Rows in memory, divided into triggers.
#[derive(Debug, Clone)]
pub struct Feed {
    schema: SchemaRef,
    triggers: Arc<Vec<Vec<RecordBatch>>>,
}

impl Feed {
    /// `rows` rows, divided evenly into `triggers`. `make` gives those of a range of numbers, which is at
    /// most [`BATCH_ROWS`] long.
    pub fn generate(
        rows: u64,
        triggers: u64,
        make: impl Fn(std::ops::Range<u64>) -> Result<RecordBatch>,
    ) -> Result<Self> {
        let schema = make(0..1)?.schema();
        let mut all = Vec::new();
        for trigger in 0..triggers {
            let (mut first, end) = (rows * trigger / triggers, rows * (trigger + 1) / triggers);
            let mut batches = Vec::new();
            while first < end {
                let next = (first + BATCH_ROWS).min(end);
                batches.push(make(first..next)?);
                first = next;
            }
            all.push(batches);
        }
        Ok(Self { schema, triggers: Arc::new(all) })
    }

    /// Those of each trigger.
    pub fn of(triggers: Vec<Vec<RecordBatch>>) -> Result<Self> {
        let first = triggers.iter().flatten().next().ok_or("a feed without rows")?;
        Ok(Self { schema: first.schema(), triggers: Arc::new(triggers) })
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.triggers.iter().flatten().map(|batch| batch.num_rows() as u64).sum()
    }

    /// The same rows as a bounded table of `partitions` partitions.
    pub fn bounded(&self, partitions: usize) -> Result<MemTable> {
        let batches = self.triggers.iter().flatten().cloned();
        Ok(MemTable::try_new(Arc::clone(&self.schema), spread(batches.collect(), partitions))?)
    }

    fn between(&self, batch: &SourceBatch) -> Vec<RecordBatch> {
        let offset = |value: &Value| value.as_u64().unwrap_or(0) as usize;
        self.triggers[offset(&batch.start)..offset(&batch.end)].concat()
    }
}

/// Neighbouring batches go to the same partition, as files would.
fn spread(mut batches: Vec<RecordBatch>, partitions: usize) -> Vec<Vec<RecordBatch>> {
    let each = batches.len().div_ceil(partitions.max(1));
    (0..partitions).map(|_| batches.drain(..each.min(batches.len())).collect()).collect()
}

impl SourceProvider for Feed {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn schema_is_inferred(&self) -> bool {
        false
    }

    fn with_schema(&self, _: SchemaRef) -> tidemill::Result<Arc<dyn SourceProvider>> {
        Ok(Arc::new(self.clone()))
    }

    fn format(&self) -> &str {
        "feed"
    }

    fn description(&self) -> String {
        "Feed".into()
    }

    fn definition(&self, _: &dyn Storage) -> SourceDefinition {
        SourceDefinition {
            format: "feed".into(),
            location: None,
            columns: Vec::new(),
            inferred: false,
            options: BTreeMap::new(),
        }
    }

    fn create(&self, _: SourceContext) -> tidemill::Result<Arc<dyn Source>> {
        Ok(Arc::new(FeedReader { feed: self.clone(), taken: Mutex::new(0) }))
    }
}

/// Where one run is in a [`Feed`].
#[derive(Debug)]
struct FeedReader {
    feed: Feed,
    taken: Mutex<usize>,
}

/// `null` before anything was read.
fn recorded(offset: usize) -> Value {
    if offset == 0 { Value::Null } else { Value::from(offset) }
}

#[async_trait]
impl Source for FeedReader {
    async fn restore(&self, end: Value, _: Vec<Box<RawValue>>) -> tidemill::Result<()> {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = end.as_u64().unwrap_or(0) as usize;
        Ok(())
    }

    async fn prepare_available_now(&self) -> tidemill::Result<()> {
        Ok(())
    }

    async fn plan(&self, _: Admission) -> tidemill::Result<SourceBatch> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let end = (*taken + 1).min(self.feed.triggers.len());
        let batch = SourceBatch { start: recorded(*taken), end: recorded(end), entries: Vec::new() };
        *taken = end;
        Ok(batch)
    }

    fn latest_offset(&self) -> Value {
        recorded(self.feed.triggers.len())
    }

    fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        partitions: usize,
    ) -> tidemill::Result<Arc<dyn SourceScan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.feed.schema.project(columns)?),
            None => Arc::clone(&self.feed.schema),
        };
        Ok(Arc::new(FeedScan {
            feed: self.feed.clone(),
            schema,
            projection: projection.cloned(),
            partitions,
        }))
    }

    async fn commit(&self, _: &SourceBatch) -> tidemill::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct FeedScan {
    feed: Feed,
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
    partitions: usize,
}

impl SourceScan for FeedScan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn read(&self, batch: &SourceBatch, _: &TaskContext) -> tidemill::Result<Arc<dyn ExecutionPlan>> {
        let partitions = spread(self.feed.between(batch), self.partitions);
        let (schema, projection) = (Arc::clone(&self.feed.schema), self.projection.clone());
        Ok(MemorySourceConfig::try_new_exec(&partitions, schema, projection)?)
    }

    fn is_small(&self, batch: &SourceBatch) -> bool {
        self.feed.between(batch).iter().map(RecordBatch::num_rows).sum::<usize>() <= SMALL_BATCH_ROWS
    }
}
