//! Sources of a program's own, whose rows have numbers: a log, a queue that keeps what it had, a table
//! with a growing key.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::Session;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::future::BoxFuture;
use futures::{TryStreamExt, stream};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Admission, Source, SourceBatch, SourceContext, SourceProvider, SourceScan, columns_of};
use crate::checkpoint::records::SourceDefinition;
use crate::error::{Error, Result};
use crate::storage::Storage;

/// Rows that are numbered from 0 without gaps, and that can be read again: that is what exactly-once
/// rests on. [`OffsetTable`] makes an unbounded table of it.
///
/// `examples/source.rs` is a complete one.
#[async_trait]
pub trait OffsetSource: Debug + Send + Sync + 'static {
    /// What it is called in messages and in the checkpoint, lower case.
    fn name(&self) -> &str;

    /// The columns.
    fn schema(&self) -> SchemaRef;

    /// How many rows there are by now. Never fewer than before.
    async fn end(&self) -> Result<u64>;

    /// The rows from number `from` up to, and not including, `to`; the same ones whenever it is asked.
    async fn read(&self, from: u64, to: u64) -> Result<Vec<RecordBatch>>;

    /// The rows before `end` will never be asked for again.
    async fn done(&self, end: u64) -> Result<()> {
        let _ = end;
        Ok(())
    }

    /// Completes when there may be more than `end` rows; see [`Source::arrivals`] for what is promised. `None`:
    /// this cannot tell, and [`OffsetSource::end`] is asked again and again.
    fn arrivals(&self, end: u64) -> Option<BoxFuture<'_, ()>> {
        let _ = end;
        None
    }

    /// The most rows of a batch, unless it is to take everything.
    fn most_rows(&self) -> u64 {
        u64::MAX
    }
}

#[async_trait]
impl<S: OffsetSource + ?Sized> OffsetSource for Arc<S> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn schema(&self) -> SchemaRef {
        (**self).schema()
    }

    async fn end(&self) -> Result<u64> {
        (**self).end().await
    }

    async fn read(&self, from: u64, to: u64) -> Result<Vec<RecordBatch>> {
        (**self).read(from, to).await
    }

    async fn done(&self, end: u64) -> Result<()> {
        (**self).done(end).await
    }

    fn arrivals(&self, end: u64) -> Option<BoxFuture<'_, ()>> {
        (**self).arrivals(end)
    }

    fn most_rows(&self) -> u64 {
        (**self).most_rows()
    }
}

/// An unbounded table over an [`OffsetSource`].
#[derive(Debug, Clone)]
pub struct OffsetTable {
    source: Arc<dyn OffsetSource>,
}

impl OffsetTable {
    /// The table of the rows of `source`.
    pub fn new(source: impl OffsetSource) -> Self {
        Self { source: Arc::new(source) }
    }
}

impl SourceProvider for OffsetTable {
    fn schema(&self) -> SchemaRef {
        self.source.schema()
    }

    fn schema_is_inferred(&self) -> bool {
        false
    }

    fn with_schema(&self, _: SchemaRef) -> Result<Arc<dyn SourceProvider>> {
        Err(Error::Invalid(format!("the columns of the source {} are fixed", self.source.name())))
    }

    fn format(&self) -> &str {
        self.source.name()
    }

    fn description(&self) -> String {
        format!("OffsetSource[{}]", self.source.name())
    }

    fn definition(&self, _: &dyn Storage) -> SourceDefinition {
        SourceDefinition {
            format: self.source.name().into(),
            location: None,
            columns: columns_of(&self.source.schema()),
            inferred: false,
            options: Default::default(),
        }
    }

    fn create(&self, _: SourceContext) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(Reader { source: Arc::clone(&self.source), position: Mutex::default() }))
    }
}

/// Where one run is.
#[derive(Debug)]
struct Reader {
    source: Arc<dyn OffsetSource>,
    position: Mutex<Position>,
}

#[derive(Debug, Default)]
struct Position {
    /// Up to where batches were planned.
    taken: u64,
    /// How many rows there were when they were counted last.
    seen: u64,
    /// Where the run ends, if it is to end.
    last: Option<u64>,
}

impl Reader {
    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As the checkpoint holds it: `null` before anything was read.
fn recorded(offset: u64) -> Value {
    if offset == 0 { Value::Null } else { Value::from(offset) }
}

fn offset(value: &Value) -> Result<u64> {
    match value {
        Value::Null => Ok(0),
        value => value
            .as_u64()
            .ok_or_else(|| Error::damaged("offsets", format!("'{value}' is no number of a row"))),
    }
}

#[async_trait]
impl Source for Reader {
    async fn restore(&self, end: Value, _: Vec<Box<RawValue>>) -> Result<()> {
        let taken = offset(&end)?;
        let there = self.source.end().await?;
        if there < taken {
            return Err(Error::Invalid(format!(
                "the query had read {} up to row {taken}, and it has {there} rows now. Start with a new checkpoint",
                self.source.name()
            )));
        }
        *self.position() = Position { taken, seen: there, last: None };
        Ok(())
    }

    async fn prepare_available_now(&self) -> Result<()> {
        let end = self.source.end().await?;
        self.position().last = Some(end);
        Ok(())
    }

    async fn plan(&self, admission: Admission) -> Result<SourceBatch> {
        let end = self.source.end().await?;
        let most = match admission {
            Admission::Everything => u64::MAX,
            Admission::Limited | Admission::Within(_) => self.source.most_rows().max(1),
        };
        let mut position = self.position();
        position.seen = end;
        let start = position.taken;
        position.taken = position.last.unwrap_or(end).min(start.saturating_add(most)).max(start);
        Ok(SourceBatch { start: recorded(start), end: recorded(position.taken), entries: Vec::new() })
    }

    fn arrivals(&self) -> Option<BoxFuture<'_, ()>> {
        let taken = self.position().taken;
        self.source.arrivals(taken)
    }

    fn latest_offset(&self) -> Value {
        recorded(self.position().seen)
    }

    fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: usize,
    ) -> Result<Arc<dyn SourceScan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.source.schema().project(columns)?),
            None => self.source.schema(),
        };
        Ok(Arc::new(Scan { source: Arc::clone(&self.source), schema, projection: projection.cloned() }))
    }

    async fn commit(&self, batch: &SourceBatch) -> Result<()> {
        self.source.done(offset(&batch.end)?).await
    }
}

#[derive(Debug)]
struct Scan {
    source: Arc<dyn OffsetSource>,
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
}

/// Below this many rows one partition is enough, which is all there is anyway.
const SMALL_BATCH_ROWS: u64 = 10_000;

impl SourceScan for Scan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn read(&self, batch: &SourceBatch, _: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = Rows {
            source: Arc::clone(&self.source),
            schema: self.source.schema(),
            from: offset(&batch.start)?,
            to: offset(&batch.end)?,
        };
        let schema = Arc::clone(&rows.schema);
        let partitions: Vec<Arc<dyn PartitionStream>> = vec![Arc::new(rows)];
        let plan =
            StreamingTableExec::try_new(schema, partitions, self.projection.as_ref(), vec![], false, None)?;
        Ok(Arc::new(plan))
    }

    fn is_small(&self, batch: &SourceBatch) -> bool {
        let rows = offset(&batch.end).ok().zip(offset(&batch.start).ok());
        rows.is_some_and(|(end, start)| end.saturating_sub(start) <= SMALL_BATCH_ROWS)
    }
}

/// The rows of one batch.
#[derive(Debug)]
struct Rows {
    source: Arc<dyn OffsetSource>,
    schema: SchemaRef,
    from: u64,
    to: u64,
}

impl PartitionStream for Rows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (source, from, to) = (Arc::clone(&self.source), self.from, self.to);
        let schema = Arc::clone(&self.schema);
        let rows = async move {
            let rows = if from < to { source.read(from, to).await? } else { Vec::new() };
            let found: u64 = rows.iter().map(|rows| rows.num_rows() as u64).sum();
            if found != to - from {
                return Err(DataFusionError::from(Error::Invalid(format!(
                    "the source {} was asked for the rows {from} to {to} and gave {found}",
                    source.name()
                ))));
            }
            if let Some(other) = rows.iter().find(|rows| rows.schema().fields() != schema.fields()) {
                return Err(DataFusionError::from(Error::Invalid(format!(
                    "the source {} gave rows with the columns {}, which are not its own",
                    source.name(),
                    other.schema()
                ))));
            }
            Ok(stream::iter(rows.into_iter().map(Ok::<_, DataFusionError>)))
        };
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream::once(rows).try_flatten()))
    }
}
