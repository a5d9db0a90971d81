//! Results as a table in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use serde_json::{Value, json};
use uuid::Uuid;

use super::columns::check_names_differ;
use super::report::total_rows;
use super::{OutputMode, Sink, SinkBatch, SinkWriter};
use crate::checkpoint::records::SinkDefinition;
use crate::error::{Error, Result};
use crate::storage::Storage;

/// The published results of a query, as a table that SQL can read.
///
/// A query over it sees whole batches only: those that were published when it was planned.
#[derive(Debug)]
pub struct MemoryTable {
    schema: SchemaRef,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    /// The published rows by batch.
    published: BTreeMap<u64, Vec<RecordBatch>>,
    /// Batches that are written, but not committed yet.
    staged: BTreeMap<u64, Staged>,
}

#[derive(Debug)]
struct Staged {
    batch: SinkBatch,
    /// By partition.
    rows: BTreeMap<usize, Vec<RecordBatch>>,
}

impl MemoryTable {
    fn new(schema: SchemaRef) -> Self {
        Self { schema, content: Mutex::default() }
    }

    /// The published rows, oldest batch first.
    pub fn rows(&self) -> Vec<RecordBatch> {
        self.content().published.values().flatten().cloned().collect()
    }

    /// The published rows of the batches from `from` on that are kept, by batch. In complete mode that is the last
    /// one, whose rows take the place of those before.
    pub fn batches(&self, from: u64) -> Vec<(u64, Vec<RecordBatch>)> {
        self.content().published.range(from..).map(|(batch, rows)| (*batch, rows.clone())).collect()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // No code that could panic runs under the lock, and every change is complete in itself.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage(&self, batch: SinkBatch, partition: usize, rows: Vec<RecordBatch>) {
        let mut content = self.content();
        let new = || Staged { batch, rows: BTreeMap::new() };
        let staged = content.staged.entry(batch.batch_id).or_insert_with(new);
        if staged.batch != batch {
            // An earlier run of the batch left it here.
            *staged = new();
        }
        staged.rows.insert(partition, rows);
    }

    fn publish(&self, batch_id: u64) {
        let mut content = self.content();
        let Some(staged) = content.staged.remove(&batch_id) else { return };
        if staged.batch.output_mode == OutputMode::Complete {
            content.published.clear();
        }
        content.published.insert(batch_id, staged.rows.into_values().flatten().collect());
    }

    fn abort(&self, batch: SinkBatch) {
        let mut content = self.content();
        if content.staged.get(&batch.batch_id).is_some_and(|staged| staged.batch == batch) {
            content.staged.remove(&batch.batch_id);
        }
    }
}

#[async_trait]
impl TableProvider for MemoryTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let source = MemorySourceConfig::try_new(&[self.rows()], self.schema(), projection.cloned())?
            .with_limit(limit)
            .with_show_sizes(state.config_options().explain.show_sizes);
        Ok(DataSourceExec::from_data_source(source))
    }
}

/// Keeps results in memory, as a table: Spark's `memory` format.
///
/// Append and update add the rows of each batch (an update shows a key once per batch that changed
/// it, as in Spark 4.3); complete replaces all rows. Running a batch again replaces what it gave
/// before. The rows are gone when the process ends.
#[derive(Debug)]
pub struct MemorySink {
    table: Arc<MemoryTable>,
}

impl MemorySink {
    /// A sink for rows of `schema`, with an empty table.
    ///
    /// # Errors
    /// [`Error::Invalid`] if two columns have one name: such a table could not be read.
    pub fn try_new(schema: SchemaRef) -> Result<Self> {
        check_names_differ(&schema, "the memory sink")?;
        Ok(Self { table: Arc::new(MemoryTable::new(schema)) })
    }

    /// The table of the results, to be registered under the query's name.
    pub fn table(&self) -> Arc<MemoryTable> {
        Arc::clone(&self.table)
    }
}

#[async_trait]
impl Sink for MemorySink {
    fn description(&self) -> String {
        "MemorySink".to_string()
    }

    fn definition(&self, _checkpoint: &dyn Storage) -> SinkDefinition {
        SinkDefinition {
            format: "memory".to_string(),
            location: None,
            columns: Vec::new(),
            partition_by: Vec::new(),
            options: Default::default(),
        }
    }

    fn check_output_mode(&self, _mode: OutputMode) -> Result<()> {
        Ok(())
    }

    fn shows_only_published(&self) -> bool {
        true
    }

    fn is_ephemeral(&self) -> bool {
        true
    }

    fn results(&self) -> Option<Arc<dyn TableProvider>> {
        Some(self.table())
    }

    async fn recover(&self, _query_id: Uuid, _last: Option<(u64, &Value)>) -> Result<()> {
        Ok(())
    }

    async fn writer(&self, batch: SinkBatch, partition: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(MemoryWriter { table: self.table(), batch, partition, rows: Vec::new() }))
    }

    async fn prepare(&self, batch: SinkBatch, reports: Vec<Value>) -> Result<Value> {
        if reports.is_empty() && batch.output_mode == OutputMode::Complete {
            // No writer was opened, which is to say that the complete result is empty.
            self.table.stage(batch, 0, Vec::new());
        }
        Ok(total_rows(&reports))
    }

    async fn publish(&self, batch_id: u64, _prepared: &Value) -> Result<()> {
        self.table.publish(batch_id);
        Ok(())
    }

    async fn abort(&self, batch: SinkBatch) -> Result<()> {
        self.table.abort(batch);
        Ok(())
    }
}

struct MemoryWriter {
    table: Arc<MemoryTable>,
    batch: SinkBatch,
    partition: usize,
    rows: Vec<RecordBatch>,
}

#[async_trait]
impl SinkWriter for MemoryWriter {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let schema = self.table.schema();
        let rows = RecordBatch::try_new(Arc::clone(&schema), rows.columns().to_vec()).map_err(|error| {
            Error::Invalid(format!("the memory sink was made for other rows than it was given: {error}"))
        })?;
        self.rows.push(rows);
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<Value> {
        let count: usize = self.rows.iter().map(RecordBatch::num_rows).sum();
        self.table.stage(self.batch, self.partition, self.rows);
        Ok(json!({ "numRows": count }))
    }
}
