//! A stream that a program, or a test, adds rows to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::Session;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::{Admission, Source, SourceBatch, SourceContext, SourceProvider, SourceScan};
use crate::checkpoint::records::SourceDefinition;
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::types::columns;

/// An unbounded table in memory, with the name and meaning of Spark's `MemoryStream`: rows are added
/// with [`MemoryStream::add_data`], and every query over it reads them in the order in which they
/// were added. Each trigger takes everything that is there.
///
/// It keeps all rows for as long as it lives, so a query can be stopped and started again on its
/// checkpoint within one process. In another process the rows are gone, and a query that had read
/// some of them is refused.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidemill::Result<()> {
/// use std::sync::Arc;
/// use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
/// use tidemill::prelude::*;
/// use tidemill::{StreamTable, source::memory::MemoryStream};
///
/// let prices: ArrayRef = Arc::new(Int64Array::from(vec![10, 1200]));
/// let rows = RecordBatch::try_from_iter([("price", prices)])?;
/// let bids = MemoryStream::new(rows.schema());
/// let session = Session::new();
/// let frame = session.context().read_table(Arc::new(StreamTable::new(Arc::new(bids.clone()))))?;
/// let query = frame
///     .filter(col("price").gt(lit(1000)))?
///     .write_stream()
///     .format("memory")
///     .query_name("dear")
///     .start(None)
///     .await?;
/// bids.add_data(rows)?;
/// query.process_all_available().await?;
/// assert_eq!(session.context().table("dear").await?.count().await?, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MemoryStream {
    schema: SchemaRef,
    rows: Arc<Mutex<Vec<RecordBatch>>>,
    /// How many times rows were added.
    length: Arc<watch::Sender<usize>>,
}

impl MemoryStream {
    /// A stream of rows of `schema`, empty at first.
    pub fn new(schema: SchemaRef) -> Self {
        Self { schema, rows: Arc::default(), length: Arc::new(watch::Sender::new(0)) }
    }

    /// Adds rows; gives the offset after them: how many times rows were added.
    ///
    /// # Errors
    /// If the rows are of another schema.
    pub fn add_data(&self, rows: RecordBatch) -> Result<u64> {
        if rows.schema().fields() != self.schema.fields() {
            return Err(Error::Invalid(format!(
                "rows of ({}) cannot be added to a MemoryStream of ({})",
                names(&rows.schema()),
                names(&self.schema)
            )));
        }
        let mut all = self.lock();
        all.push(rows);
        self.length.send_replace(all.len());
        Ok(all.len() as u64)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RecordBatch>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn between(&self, batch: &SourceBatch) -> Result<Vec<RecordBatch>> {
        let (start, end) = (offset(&batch.start)?, offset(&batch.end)?);
        let all = self.lock();
        all.get(start..end).map(<[RecordBatch]>::to_vec).ok_or_else(|| gone(end, all.len()))
    }
}

fn names(schema: &SchemaRef) -> String {
    let fields: Vec<String> =
        schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    fields.join(", ")
}

/// A recorded offset; `null`, before the first batch, is 0.
fn offset(value: &Value) -> Result<usize> {
    match value {
        Value::Null => Ok(0),
        value => value
            .as_u64()
            .and_then(|offset| usize::try_from(offset).ok())
            .ok_or_else(|| Error::damaged("offsets", format!("'{value}' is no offset of a MemoryStream"))),
    }
}

fn gone(end: usize, length: usize) -> Error {
    Error::Invalid(format!(
        "the query had read its MemoryStream up to offset {end}, but the stream ends at {length}: its rows \
         were lost with the process that held them. Start with a new checkpoint"
    ))
}

impl SourceProvider for MemoryStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn schema_is_inferred(&self) -> bool {
        false
    }

    fn with_schema(&self, _: SchemaRef) -> Result<Arc<dyn SourceProvider>> {
        Err(Error::Invalid("the columns of a MemoryStream are fixed".into()))
    }

    fn format(&self) -> &str {
        "memory"
    }

    fn description(&self) -> String {
        format!("MemoryStream[{}]", names(&self.schema))
    }

    fn definition(&self, _: &dyn Storage) -> SourceDefinition {
        SourceDefinition {
            format: "memory".into(),
            location: None,
            columns: columns(self.schema.fields()),
            inferred: false,
            options: Default::default(),
        }
    }

    fn create(&self, _: SourceContext) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(MemoryReader { stream: self.clone(), position: Mutex::default() }))
    }
}

/// Where one run is in a [`MemoryStream`].
#[derive(Debug)]
struct MemoryReader {
    stream: MemoryStream,
    position: Mutex<Position>,
}

#[derive(Debug, Default)]
struct Position {
    /// Up to where batches were planned.
    taken: usize,
    /// Where the run ends, if it is to end.
    last: Option<usize>,
}

impl MemoryReader {
    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Offsets as the checkpoint holds them: `null` before anything was read.
fn recorded(offset: usize) -> Value {
    if offset == 0 { Value::Null } else { Value::from(offset) }
}

#[async_trait]
impl Source for MemoryReader {
    async fn restore(&self, end: Value, _: Vec<Box<RawValue>>) -> Result<()> {
        let end = offset(&end)?;
        let length = self.stream.lock().len();
        if end > length {
            return Err(gone(end, length));
        }
        self.position().taken = end;
        Ok(())
    }

    async fn prepare_available_now(&self) -> Result<()> {
        let length = self.stream.lock().len();
        self.position().last = Some(length);
        Ok(())
    }

    async fn plan(&self, _: Admission) -> Result<SourceBatch> {
        let length = self.stream.lock().len();
        let mut position = self.position();
        let end = position.last.unwrap_or(length).max(position.taken);
        let batch = SourceBatch { start: recorded(position.taken), end: recorded(end), entries: Vec::new() };
        position.taken = end;
        Ok(batch)
    }

    fn arrivals(&self) -> Option<BoxFuture<'_, ()>> {
        let taken = self.position().taken;
        let mut length = self.stream.length.subscribe();
        let more = async move {
            // The sender lives as long as the stream, so waiting cannot fail.
            let _ = length.wait_for(|length| *length > taken).await;
        };
        Some(more.boxed())
    }

    fn latest_offset(&self) -> Value {
        recorded(self.stream.lock().len())
    }

    fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        partitions: usize,
    ) -> Result<Arc<dyn SourceScan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.stream.schema.project(columns)?),
            None => Arc::clone(&self.stream.schema),
        };
        Ok(Arc::new(MemoryScan {
            stream: self.stream.clone(),
            schema,
            projection: projection.cloned(),
            partitions: partitions.max(1),
        }))
    }

    async fn commit(&self, _: &SourceBatch) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryScan {
    stream: MemoryStream,
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
    partitions: usize,
}

/// Below this many rows one partition is enough.
const SMALL_BATCH_ROWS: usize = 10_000;

impl SourceScan for MemoryScan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn read(&self, batch: &SourceBatch, _: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        let mut partitions = vec![Vec::new(); self.partitions];
        for (index, rows) in self.stream.between(batch)?.into_iter().enumerate() {
            partitions[index % self.partitions].push(rows);
        }
        let schema = Arc::clone(&self.stream.schema);
        Ok(MemorySourceConfig::try_new_exec(&partitions, schema, self.projection.clone())?)
    }

    fn is_small(&self, batch: &SourceBatch) -> bool {
        self.stream
            .between(batch)
            .is_ok_and(|rows| rows.iter().map(RecordBatch::num_rows).sum::<usize>() <= SMALL_BATCH_ROWS)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Int64Array;

    use super::*;

    fn context() -> SourceContext {
        SourceContext {
            query_id: uuid::Uuid::nil(),
            runtime: Default::default(),
            clock: Arc::new(crate::clock::SystemClock),
        }
    }

    fn rows(name: &str, values: Vec<i64>) -> RecordBatch {
        RecordBatch::try_from_iter([(name, Arc::new(Int64Array::from(values)) as _)]).unwrap()
    }

    #[tokio::test]
    async fn offsets_count_additions_and_available_now_is_a_snapshot() {
        let rows = rows("a", vec![1, 2]);
        let stream = MemoryStream::new(rows.schema());
        let reader = stream.create(context()).unwrap();
        reader.restore(Value::Null, vec![]).await.unwrap();
        assert!(reader.plan(Admission::Limited).await.unwrap().is_empty());
        assert_eq!(stream.add_data(rows.clone()).unwrap(), 1);
        reader.prepare_available_now().await.unwrap();
        stream.add_data(rows.clone()).unwrap();
        let batch = reader.plan(Admission::Limited).await.unwrap();
        assert_eq!((batch.start, batch.end), (Value::Null, Value::from(1)));
        assert!(reader.plan(Admission::Limited).await.unwrap().is_empty());
        assert_eq!(reader.latest_offset(), Value::from(2));
    }

    #[tokio::test]
    async fn rows_lost_with_their_process_are_an_error() {
        let stream = MemoryStream::new(rows("a", vec![1]).schema());
        let error = stream.create(context()).unwrap().restore(Value::from(3), vec![]).await.unwrap_err();
        assert!(error.to_string().contains("up to offset 3"), "{error}");
        let other = rows("b", vec![1]);
        assert!(stream.add_data(other).unwrap_err().to_string().contains("(b Int64)"));
    }
}
