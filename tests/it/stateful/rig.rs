//! What a test needs to run a query in batches, kill it, and look at what it gave.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tidemill::checkpoint::records::SinkDefinition;
use tidemill::prelude::*;
use tidemill::sink::{Sink, SinkBatch, SinkWriter};
use tidemill::source::SourceProvider;
use tidemill::source::memory::MemoryStream;
use tidemill::storage::Storage;
use tidemill::{Environment, Result, SinkFactory, SinkRequest, SourceFactory, SourceRequest};
use uuid::Uuid;

use super::model::{NAMES, Rel};
use super::queries::Spec;
use super::values::{Row, Value, rows_of};
use super::wide::Wide;

/// The columns of every stream.
pub fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let columns = [
        ("id", DataType::Int64),
        ("ts", time),
        ("k", DataType::Int64),
        ("name", DataType::Utf8),
        ("v", DataType::Int64),
        ("f", DataType::Float64),
        ("b", DataType::Boolean),
    ];
    Arc::new(Schema::new(columns.map(|(name, kind)| Field::new(name, kind, true)).to_vec()))
}

/// Rows as Arrow's columns.
pub fn batch_of(rows: &[Row]) -> RecordBatch {
    let ints = |column: usize| rows.iter().map(move |row| row[column].int());
    let text = |row: &Row| match &row[3] {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    };
    let flag = |row: &Row| match row[6] {
        Value::Bool(flag) => Some(flag),
        _ => None,
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter(ints(0))),
        Arc::new(TimestampMicrosecondArray::from_iter(ints(1))),
        Arc::new(Int64Array::from_iter(ints(2))),
        Arc::new(StringArray::from_iter(rows.iter().map(text))),
        Arc::new(Int64Array::from_iter(ints(4))),
        Arc::new(Float64Array::from_iter(rows.iter().map(|row| row[5].float()))),
        Arc::new(BooleanArray::from_iter(rows.iter().map(flag))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// The table that streams are joined with.
pub fn names_table() -> RecordBatch {
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(NAMES.iter().map(|(name, _)| *name)));
    let factors: ArrayRef = Arc::new(Int64Array::from_iter_values(NAMES.iter().map(|(_, factor)| *factor)));
    RecordBatch::try_from_iter([("name", names), ("factor", factors)]).unwrap()
}

/// A sink that outlives its queries: what a disk would be to a file sink.
#[derive(Debug, Default, Clone)]
pub struct Capture(Arc<Mutex<Captured>>);

#[derive(Debug, Default)]
struct Captured {
    /// Per batch and run: the rows of each partition.
    staged: BTreeMap<(u64, Uuid), BTreeMap<usize, Vec<RecordBatch>>>,
    /// Per batch: which run gave it, and its rows.
    published: BTreeMap<u64, (Uuid, Vec<Row>)>,
    /// Complete attempts, per batch: rows of every run that got as far as preparing it.
    attempts: BTreeMap<u64, Vec<Vec<Row>>>,
}

impl Captured {
    fn rows(&self, batch: u64, run: Uuid) -> Vec<Row> {
        let partitions = self.staged.get(&(batch, run)).into_iter().flat_map(BTreeMap::values);
        partitions.flat_map(|batches| rows_of(batches)).collect()
    }
}

impl Capture {
    fn lock(&self) -> MutexGuard<'_, Captured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Run and rows of each batch.
    pub fn published(&self) -> BTreeMap<u64, (Uuid, Vec<Row>)> {
        self.lock().published.clone()
    }

    /// The rows that each attempt at a batch gave, in the order of the sink.
    pub fn attempts(&self) -> BTreeMap<u64, Vec<Vec<Row>>> {
        self.lock().attempts.clone()
    }
}

#[async_trait]
impl Sink for Capture {
    fn description(&self) -> String {
        "Capture".into()
    }

    fn definition(&self, _: &dyn Storage) -> SinkDefinition {
        SinkDefinition {
            format: "capture".into(),
            location: None,
            columns: vec![],
            partition_by: vec![],
            options: Default::default(),
        }
    }

    fn check_output_mode(&self, _: OutputMode) -> Result<()> {
        Ok(())
    }

    async fn recover(&self, _: Uuid, last: Option<(u64, &Json)>) -> Result<()> {
        match last {
            Some((batch, prepared)) => self.publish(batch, prepared).await,
            None => Ok(()),
        }
    }

    async fn writer(&self, batch: SinkBatch, partition: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(CaptureWriter { sink: self.clone(), batch, partition, rows: vec![] }))
    }

    async fn prepare(&self, batch: SinkBatch, _: Vec<Json>) -> Result<Json> {
        let mut captured = self.lock();
        let rows = captured.rows(batch.batch_id, batch.run_id);
        let count = rows.len();
        captured.attempts.entry(batch.batch_id).or_default().push(rows);
        Ok(json!({ "run": batch.run_id.to_string(), "numRows": count }))
    }

    async fn publish(&self, batch_id: u64, prepared: &Json) -> Result<()> {
        let run: Uuid = prepared["run"].as_str().unwrap().parse().unwrap();
        let mut captured = self.lock();
        let rows = captured.rows(batch_id, run);
        captured.published.insert(batch_id, (run, rows));
        Ok(())
    }

    async fn abort(&self, batch: SinkBatch) -> Result<()> {
        self.lock().staged.remove(&(batch.batch_id, batch.run_id));
        Ok(())
    }
}

struct CaptureWriter {
    sink: Capture,
    batch: SinkBatch,
    partition: usize,
    rows: Vec<RecordBatch>,
}

#[async_trait]
impl SinkWriter for CaptureWriter {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        self.rows.push(rows);
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<Json> {
        let key = (self.batch.batch_id, self.batch.run_id);
        self.sink.lock().staged.entry(key).or_default().insert(self.partition, self.rows);
        Ok(Json::Null)
    }
}

/// A source that is a stream of the test.
pub struct FeedFactory(pub MemoryStream);

#[async_trait]
impl SourceFactory for FeedFactory {
    async fn create(&self, _: SourceRequest) -> Result<Arc<dyn SourceProvider>> {
        Ok(Arc::new(self.0.clone()))
    }
}

/// A sink that is the test's.
pub struct CaptureFactory(pub Capture);

impl SinkFactory for CaptureFactory {
    fn create(&self, _: SinkRequest) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(self.0.clone()))
    }
}

/// How a run is set up; nothing of it may change a result.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Of the session.
    pub partitions: usize,
    pub state_partitions: usize,
    pub batch_size: usize,
    pub memory_limit: Option<&'static str>,
    /// Whether even the smallest batch is read in parallel.
    pub wide: bool,
    pub trigger: Trigger,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            partitions: 2,
            state_partitions: 3,
            batch_size: 8192,
            memory_limit: None,
            wide: false,
            trigger: Trigger::AtOnce,
        }
    }
}

/// The world around a query: what it reads, where it writes, and its checkpoint. It stays when the
/// query dies.
#[derive(Debug)]
pub struct World {
    pub spec: Spec,
    pub streams: Vec<MemoryStream>,
    pub sink: Capture,
    pub folder: TempDir,
    /// All that was added, per stream.
    pub fed: Vec<Vec<Vec<Row>>>,
}

impl World {
    pub fn new(spec: Spec) -> Self {
        let streams = vec![MemoryStream::new(schema()), MemoryStream::new(schema())];
        let folder = crate::support::harness::scratch();
        Self { spec, streams, sink: Capture::default(), folder, fed: vec![vec![], vec![]] }
    }

    /// Adds rows to the streams that the query reads.
    pub fn feed(&mut self, rows: &[Vec<Row>]) {
        for stream in self.spec.rel.streams() {
            self.streams[stream].add_data(batch_of(&rows[stream])).unwrap();
            self.fed[stream].push(rows[stream].clone());
        }
    }

    /// Starts the query in a session of its own, which ends it when it is dropped.
    pub async fn start(
        &self,
        environment: Environment,
        setting: &Setting,
    ) -> Result<(Session, StreamingQuery)> {
        let config = SessionConfig::new()
            .with_target_partitions(setting.partitions)
            .with_batch_size(setting.batch_size);
        let context = SessionContext::new_with_config(config);
        let session = Session::with_environment(context, environment);
        session.register_sink("capture", Arc::new(CaptureFactory(self.sink.clone())));
        let frame = frame(&session, &self.spec, &self.streams, setting.wide).await?;
        let mut writer = frame
            .write_stream()
            .format("capture")
            .output_mode(self.spec.mode)
            .trigger(setting.trigger)
            .option("checkpointLocation", self.folder.path().join("checkpoint").to_str().unwrap())
            .option("durability", "process")
            .option("statePartitions", setting.state_partitions);
        if let Some(limit) = setting.memory_limit {
            writer = writer.option("stateMemoryLimit", limit);
        }
        if self.spec.take_greatest {
            writer = writer.option("multipleWatermarkPolicy", "max");
        }
        let query = writer.start(None).await?;
        Ok((session, query))
    }
}

/// The query as a data frame of `session`.
pub async fn frame(
    session: &Session,
    spec: &Spec,
    streams: &[MemoryStream],
    wide: bool,
) -> Result<DataFrame> {
    let context = session.context();
    for (index, stream) in streams.iter().enumerate() {
        let format = format!("feed{index}");
        let factory: Arc<dyn SourceFactory> =
            if wide { Arc::new(Wide(stream.clone())) } else { Arc::new(FeedFactory(stream.clone())) };
        session.register_source(&format, factory);
        let mut table = session.read_stream().format(&format).load(None).await?;
        if let Some(delays) = &spec.delays {
            table = table.with_watermark("ts", format!("{} milliseconds", delays[index]))?;
        }
        if let (Rel::Within(of, columns), true) = (within(&spec.rel), spec.delays.is_some())
            && *of == index
        {
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            let once = table.clone().drop_duplicates_within_watermark(&columns)?;
            context.register_table(format!("within{index}"), once.into_view())?;
        }
        context.register_table(format!("s{index}"), table.into_view())?;
    }
    context.register_batch("names", names_table())?;
    Ok(context.sql(&spec.rel.sql()).await?)
}

/// The deduplication without SQL that is in a query, or the query.
fn within(rel: &Rel) -> &Rel {
    match rel {
        Rel::Within(..) => rel,
        other => {
            other.inputs().into_iter().map(within).find(|rel| matches!(rel, Rel::Within(..))).unwrap_or(rel)
        }
    }
}
