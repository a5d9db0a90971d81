//! The file source, driven directly: what it plans, and what reading gives.

mod cleaning;
mod compared;
mod decimals;
mod doors;
mod formats;
mod listing;
mod malformed;
mod misfits;
mod mutated;
mod parquet_sizes;
mod planning;
mod property;
mod reading;
mod types;
mod uuids;
mod values;
mod written_by_others;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use serde_json::Value;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tidemill::clock::SystemClock;
use tidemill::source::file::FileTable;
use tidemill::source::{Admission, Source, SourceBatch, SourceContext, SourceProvider, SourceScan};
use tidemill::{Error, Options, Result};
use uuid::Uuid;

const QUERY: Uuid = Uuid::from_u128(7);

/// A directory of input files and a session to read them in.
struct Input {
    dir: TempDir,
    session: SessionContext,
}

impl Input {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), session: SessionContext::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file that was modified `second` seconds after 2020 began.
    fn write(&self, name: &str, second: u64, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        self.touch(name, second);
    }

    fn touch(&self, name: &str, second: u64) {
        let file = std::fs::File::options().write(true).open(self.path(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_836_800 + second)).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    /// The path of the directory, with `below` appended.
    fn text(&self, below: &str) -> String {
        format!("{}/{below}", self.dir.path().display())
    }

    async fn resolve(
        &self,
        format: &str,
        below: &str,
        schema: Option<SchemaRef>,
        options: &[(&str, &str)],
    ) -> Result<Arc<dyn SourceProvider>> {
        let options: Options = options.iter().copied().collect();
        let state = self.session.state();
        FileTable::resolve(format, &self.text(below), schema, Vec::new(), options, &state).await
    }

    /// A source over the whole directory.
    async fn source(&self, format: &str, schema: &SchemaRef, options: &[(&str, &str)]) -> Reader {
        let provider = self.resolve(format, "", Some(Arc::clone(schema)), options).await.unwrap();
        self.reader(&provider)
    }

    /// A source over the whole directory whose columns are inferred.
    async fn inferred(&self, format: &str, options: &[(&str, &str)]) -> Reader {
        let provider = self.resolve(format, "", None, options).await.unwrap();
        self.reader(&provider)
    }

    fn reader(&self, provider: &Arc<dyn SourceProvider>) -> Reader {
        let state = self.session.state();
        let context = SourceContext {
            query_id: QUERY,
            runtime: Arc::clone(state.runtime_env()),
            clock: Arc::new(SystemClock),
        };
        Reader { source: provider.create(context).unwrap(), session: self.session.clone() }
    }
}

/// A source and the session it is read in.
struct Reader {
    source: Arc<dyn Source>,
    session: SessionContext,
}

impl Reader {
    async fn plan(&self) -> SourceBatch {
        self.source.plan(Admission::Limited).await.unwrap()
    }

    fn scan(
        &self,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        partitions: usize,
    ) -> Arc<dyn SourceScan> {
        self.source.scan(&self.session.state(), projection, filters, partitions).unwrap()
    }

    fn context(&self) -> Arc<TaskContext> {
        self.session.task_ctx()
    }

    /// The rows of `batch`, sorted.
    async fn read(&self, batch: &SourceBatch) -> Result<Vec<String>> {
        self.read_with(batch, None, 2).await
    }

    async fn read_with(
        &self,
        batch: &SourceBatch,
        projection: Option<&Vec<usize>>,
        partitions: usize,
    ) -> Result<Vec<String>> {
        let scan = self.scan(projection, &[], partitions);
        let plan = scan.read(batch, &self.context())?;
        assert!(plan.output_partitioning().partition_count() <= partitions);
        let batches = execute(plan, self.context()).await?;
        for rows in &batches {
            assert_eq!(rows.schema().fields(), scan.schema().fields());
        }
        Ok(rows(&batches))
    }

    /// Plans and reads one batch after another until there is nothing new.
    async fn drain(&self) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        loop {
            let batch = self.plan().await;
            if batch.is_empty() {
                return all;
            }
            all.push(self.read(&batch).await.unwrap());
            self.source.commit(&batch).await.unwrap();
        }
    }

    /// Plans and reads everything that is there.
    async fn all(&self) -> Result<Vec<String>> {
        let batch = self.source.plan(Admission::Everything).await?;
        self.read(&batch).await
    }
}

/// Runs every partition of a plan.
async fn execute(plan: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    for partition in 0..plan.output_partitioning().partition_count() {
        let stream = plan.execute(partition, Arc::clone(&context)).map_err(Error::from)?;
        batches.extend(stream.try_collect::<Vec<_>>().await.map_err(Error::from)?);
    }
    Ok(batches)
}

/// Rows as text, values separated by `|`, nulls as `-`, sorted.
fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("-");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<ArrayFormatter> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let values: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            rows.push(values.join("|"));
        }
    }
    rows.sort();
    rows
}

fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    let field = |(name, data_type): &(&str, DataType)| Field::new(*name, data_type.clone(), true);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// `a BIGINT, b VARCHAR`.
fn ab() -> SchemaRef {
    schema(&[("a", DataType::Int64), ("b", DataType::Utf8)])
}

/// A Parquet file that says that it has more than there is memory for.
pub(crate) fn with_many_lengths() -> Vec<u8> {
    parquet_sizes::with_many_lengths()
}

/// A Parquet file that says that it has more values than it has.
pub(crate) fn with_fewer_values() -> Vec<u8> {
    parquet_sizes::with_fewer_values()
}

/// The paths of the files of a batch.
fn paths(batch: &SourceBatch) -> Vec<String> {
    batch.entries.iter().map(|entry| path_of(entry)).collect()
}

fn path_of(entry: &RawValue) -> String {
    let entry: Value = serde_json::from_str(entry.get()).unwrap();
    entry["p"].as_str().unwrap().to_string()
}

fn json_lines(range: std::ops::Range<i64>) -> String {
    range.map(|a| format!("{{\"a\":{a},\"b\":\"row {a}\"}}\n")).collect()
}

fn expected(range: std::ops::Range<i64>) -> Vec<String> {
    let mut rows: Vec<String> = range.map(|a| format!("{a}|row {a}")).collect();
    rows.sort();
    rows
}

/// A setting of the session.
fn set(session: &SessionContext, name: &str, value: &str) {
    let state = session.state_ref();
    let mut state = state.write();
    state.config_mut().options_mut().set(name, value).unwrap();
}
