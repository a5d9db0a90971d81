//! Sinks: what readers see, before, between and after the steps of a batch.

mod console;
mod crashes;
mod formats;
mod layout;
mod memory;
mod storage;

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::session_state::SessionState;
use datafusion::prelude::SessionContext;
use serde_json::Value;
use tidemill::sink::{FileSink, OutputFormat, OutputMode, Sink, SinkBatch};
use tidemill::storage::Storage;
use tidemill::{Options, Result};
use uuid::Uuid;

use storage::TestStorage;

const QUERY: Uuid = Uuid::from_u128(0xaaaa_0001);

fn batch(batch_id: u64) -> SinkBatch {
    SinkBatch { query_id: QUERY, run_id: Uuid::from_u128(1), batch_id, output_mode: OutputMode::Append }
}

fn options(entries: &[(&str, &str)]) -> Options {
    entries.iter().copied().collect()
}

/// `(id, name)` with one row per id.
fn people(ids: std::ops::Range<i64>) -> RecordBatch {
    let names = StringArray::from_iter(ids.clone().map(|id| (id % 5 != 0).then(|| format!("name {id}"))));
    let columns: [(&str, ArrayRef); 2] =
        [("id", Arc::new(Int64Array::from_iter_values(ids))), ("name", Arc::new(names))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

fn session() -> SessionState {
    SessionContext::new().state()
}

struct Output {
    format: OutputFormat,
    schema: SchemaRef,
    partition_by: Vec<String>,
    options: Options,
}

impl Output {
    fn new(format: OutputFormat, schema: SchemaRef) -> Self {
        Self { format, schema, partition_by: Vec::new(), options: Options::default() }
    }

    fn partition_by(mut self, columns: &[&str]) -> Self {
        self.partition_by = columns.iter().map(|column| column.to_string()).collect();
        self
    }

    fn option(mut self, name: &str, value: &str) -> Self {
        self.options.set(name, value);
        self
    }

    fn sink_on(&self, storage: Arc<dyn Storage>) -> Result<FileSink> {
        self.sink_in(storage, &session())
    }

    fn sink_in(&self, storage: Arc<dyn Storage>, session: &SessionState) -> Result<FileSink> {
        FileSink::try_new(
            self.format,
            storage.url().clone(),
            storage,
            self.schema.clone(),
            self.partition_by.clone(),
            self.options.clone(),
            session,
        )
    }

    fn sink(&self, root: &Path) -> FileSink {
        self.sink_on(Arc::new(TestStorage::new(root))).unwrap()
    }
}

/// Writes one batch up to `prepare`; `partitions` holds the rows of each writer.
async fn stage(sink: &dyn Sink, batch: SinkBatch, partitions: Vec<Vec<RecordBatch>>) -> Result<Value> {
    let mut reports = Vec::new();
    for (partition, rows) in partitions.into_iter().enumerate() {
        let mut writer = sink.writer(batch, partition).await?;
        for rows in rows {
            writer.write(rows).await?;
        }
        reports.push(writer.close().await?);
    }
    sink.prepare(batch, reports).await
}

/// Writes and publishes one batch.
async fn write(sink: &dyn Sink, batch: SinkBatch, partitions: Vec<Vec<RecordBatch>>) -> Value {
    let prepared = stage(sink, batch, partitions).await.unwrap();
    sink.publish(batch.batch_id, &prepared).await.unwrap();
    prepared
}

/// All files below `root`, relative to it, sorted.
fn files(root: &Path) -> Vec<String> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_string());
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

/// The files that a reader of `extension` finds with a plain recursive listing.
fn visible(root: &Path, extension: &str) -> Vec<String> {
    files(root).into_iter().filter(|path| path.ends_with(extension)).collect()
}

/// The sorted ids in all JSON files that a plain listing finds.
fn visible_ids(root: &Path) -> Vec<i64> {
    let mut ids = Vec::new();
    for path in visible(root, ".json") {
        let text = std::fs::read_to_string(root.join(path)).unwrap();
        assert!(!text.is_empty(), "a file without rows");
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            ids.push(row["id"].as_i64().unwrap());
        }
    }
    ids.sort();
    ids
}
