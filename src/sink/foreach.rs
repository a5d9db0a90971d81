//! Results to code of the program: Spark's `foreachBatch` and `foreach`.
//!
//! Both are called before the batch is committed, and again with the same rows and number if the process
//! crashes before that: whoever needs each batch once keeps the number with what it writes.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::prelude::DataFrame;
use futures::FutureExt;
use serde_json::{Value, json};
use uuid::Uuid;

use super::report::total_rows;
use super::{OutputMode, Sink, SinkBatch, SinkDistribution, SinkWriter};
use crate::checkpoint::records::SinkDefinition;
use crate::error::{Error, Result};
use crate::storage::Storage;

type Done = Pin<Box<dyn Future<Output = Result<()>> + Send>>;
type BatchFunction = Arc<dyn Fn(DataFrame, u64) -> Done + Send + Sync>;
type MakeWriter = Arc<dyn Fn() -> Box<dyn ForeachWriter> + Send + Sync>;

/// What a program does with the rows of one partition of a batch: Spark's `ForeachWriter`.
///
/// Every partition of every batch gets a writer of its own, which is used from one task:
/// [`open`](ForeachWriter::open), then [`process`](ForeachWriter::process) with batches of rows until there
/// are no more, then [`close`](ForeachWriter::close). `close` comes in any case after an `open` that did
/// not fail, with the error if a `process` failed; but not if the batch is given up because of something
/// else (another partition failed, the query is stopped, the process dies): then the writer is dropped.
///
/// An error, and a panic, fails the batch and so the query, and nothing is committed. After that, and after
/// a crash, the same batch comes again with the same number, but its rows may be divided differently among
/// the partitions. So the number of the partition is of no use to tell what was written before.
#[async_trait]
pub trait ForeachWriter: Send {
    /// A partition of the batch `epoch` begins. `false`: its rows are not wanted.
    async fn open(&mut self, partition: usize, epoch: u64) -> Result<bool>;

    /// Takes the next rows.
    async fn process(&mut self, rows: &RecordBatch) -> Result<()>;

    /// There are no more rows, or `process` has failed with `error`.
    async fn close(&mut self, error: Option<&Error>) -> Result<()>;
}

/// Code of the program that takes the place of a sink of a format.
#[derive(Clone)]
pub(crate) enum OwnCode {
    /// One call per batch.
    Batch(BatchFunction),
    /// A writer per partition.
    Partition(MakeWriter),
}

impl OwnCode {
    pub(crate) fn batch<F, D>(function: F) -> Self
    where
        F: Fn(DataFrame, u64) -> D + Send + Sync + 'static,
        D: Future<Output = Result<()>> + Send + 'static,
    {
        OwnCode::Batch(Arc::new(move |rows, batch| Box::pin(function(rows, batch))))
    }

    pub(crate) fn partition<W: ForeachWriter + 'static>(
        make: impl Fn() -> W + Send + Sync + 'static,
    ) -> Self {
        OwnCode::Partition(Arc::new(move || Box::new(make())))
    }

    /// Keeps the rows of `batch` in what it gives beside, and fails then, so that nothing is committed.
    pub(crate) fn keep(batch: u64) -> (Self, Arc<Mutex<Option<Vec<RecordBatch>>>>) {
        let kept = Arc::new(Mutex::new(None));
        let keep = Arc::clone(&kept);
        let code = Self::batch(move |rows, number| {
            let keep = Arc::clone(&keep);
            async move {
                if number == batch {
                    let rows = rows.collect().await?;
                    *keep.lock().unwrap_or_else(PoisonError::into_inner) = Some(rows);
                }
                Err(Error::Invalid("a batch that is replayed is not committed".into()))
            }
        });
        (code, kept)
    }

    /// The definition of the sink that it is.
    pub(crate) fn definition(&self) -> SinkDefinition {
        SinkDefinition {
            format: self.name().replace('_', "-"),
            location: None,
            columns: Vec::new(),
            partition_by: Vec::new(),
            options: Default::default(),
        }
    }

    /// The method that it was given to.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            OwnCode::Batch(_) => "foreach_batch",
            OwnCode::Partition(_) => "foreach",
        }
    }

    /// The sink for results with the columns of `schema`, of a query of the session `state`.
    pub(crate) fn sink(&self, schema: SchemaRef, state: SessionState) -> Arc<dyn Sink> {
        Arc::new(ForeachSink { code: self.clone(), schema, state })
    }

    /// Runs what the program gave; a panic is an error like any other.
    async fn guard<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|panic| {
            Err(Error::Invalid(format!("the code given to {} panicked: {}", self.name(), said(&*panic))))
        })
    }
}

impl fmt::Debug for OwnCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        (None, None) => "without saying why",
    }
}

/// Gives results to code of the program.
#[derive(Debug)]
struct ForeachSink {
    code: OwnCode,
    schema: SchemaRef,
    state: SessionState,
}

#[async_trait]
impl Sink for ForeachSink {
    fn description(&self) -> String {
        match self.code {
            OwnCode::Batch(_) => "ForeachBatchSink".to_string(),
            OwnCode::Partition(_) => "ForeachWriterSink".to_string(),
        }
    }

    fn definition(&self, _checkpoint: &dyn Storage) -> SinkDefinition {
        self.code.definition()
    }

    fn check_output_mode(&self, _mode: OutputMode) -> Result<()> {
        Ok(())
    }

    fn distribution(&self) -> SinkDistribution {
        match self.code {
            OwnCode::Batch(_) => SinkDistribution::Single,
            OwnCode::Partition(_) => SinkDistribution::Any,
        }
    }

    fn is_ephemeral(&self) -> bool {
        true
    }

    async fn recover(&self, _query_id: Uuid, _last: Option<(u64, &Value)>) -> Result<()> {
        Ok(())
    }

    async fn writer(&self, batch: SinkBatch, partition: usize) -> Result<Box<dyn SinkWriter>> {
        let code = self.code.clone();
        match &self.code {
            OwnCode::Batch(function) => Ok(Box::new(BatchWriter {
                batch_id: batch.batch_id,
                rows: Vec::new(),
                function: Arc::clone(function),
                code,
                schema: Arc::clone(&self.schema),
                state: self.state.clone(),
            })),
            OwnCode::Partition(make) => {
                let open = async {
                    let mut writer = make();
                    let is_wanted = writer.open(partition, batch.batch_id).await?;
                    Ok((writer, is_wanted))
                };
                let (writer, is_wanted) = self.code.guard(open).await?;
                Ok(Box::new(PartitionWriter { writer, is_wanted, rows: 0, code }))
            }
        }
    }

    async fn prepare(&self, _batch: SinkBatch, reports: Vec<Value>) -> Result<Value> {
        Ok(total_rows(&reports))
    }

    async fn publish(&self, _batch_id: u64, _prepared: &Value) -> Result<()> {
        Ok(())
    }

    async fn abort(&self, _batch: SinkBatch) -> Result<()> {
        Ok(())
    }
}

/// Collects a batch, and calls the function when it is complete.
struct BatchWriter {
    batch_id: u64,
    rows: Vec<RecordBatch>,
    function: BatchFunction,
    code: OwnCode,
    schema: SchemaRef,
    state: SessionState,
}

#[async_trait]
impl SinkWriter for BatchWriter {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() > 0 {
            self.rows.push(rows);
        }
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<Value> {
        let rows: usize = self.rows.iter().map(RecordBatch::num_rows).sum();
        // What has no nulls in this batch may be described more narrowly than the result.
        let schema = self.rows.first().map_or(self.schema, RecordBatch::schema);
        // The rows are kept, so that they can be read several times.
        let table = MemTable::try_new(schema, vec![self.rows])?;
        let plan = LogicalPlanBuilder::scan("batch", provider_as_source(Arc::new(table)), None)?.build()?;
        let frame = DataFrame::new(self.state, plan);
        let (function, batch_id) = (self.function, self.batch_id);
        self.code.guard(async move { function(frame, batch_id).await }).await?;
        Ok(json!({ "numRows": rows }))
    }
}

/// Gives the rows of a partition to the program's writer.
struct PartitionWriter {
    writer: Box<dyn ForeachWriter>,
    is_wanted: bool,
    rows: usize,
    code: OwnCode,
}

impl PartitionWriter {
    async fn close_for(&mut self, error: Option<&Error>) -> Result<()> {
        let code = self.code.clone();
        code.guard(self.writer.close(error)).await
    }
}

#[async_trait]
impl SinkWriter for PartitionWriter {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        if !self.is_wanted || rows.num_rows() == 0 {
            return Ok(());
        }
        let code = self.code.clone();
        if let Err(error) = code.guard(self.writer.process(&rows)).await {
            if let Err(second) = self.close_for(Some(&error)).await {
                tracing::warn!(%second, "close failed, too, after process had");
            }
            return Err(error);
        }
        self.rows += rows.num_rows();
        Ok(())
    }

    async fn close(mut self: Box<Self>) -> Result<Value> {
        self.close_for(None).await?;
        Ok(json!({ "numRows": self.rows }))
    }
}
