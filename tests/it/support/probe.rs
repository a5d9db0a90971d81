//! A sink that keeps each batch by itself, for tests of what happens batch by batch.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use datafusion::arrow::record_batch::RecordBatch;
use serde_json::{Value, json};
use tidemill::checkpoint::records::SinkDefinition;
use tidemill::sink::{OutputMode, Sink, SinkBatch, SinkWriter};
use tidemill::storage::Storage;
use tidemill::{Error, Result, Session, SinkFactory, SinkRequest};
use uuid::Uuid;

use super::oracle::{Row, rows_of};

/// A handle of the sink; all clones see the same batches.
#[derive(Clone, Default)]
pub struct Probe {
    state: Arc<State>,
}

/// What a test does while a batch is written.
type Hook = Box<dyn Fn(u64) -> Result<()> + Send + Sync>;

#[derive(Default)]
struct State {
    staged: Mutex<BTreeMap<(Uuid, u64), Vec<RecordBatch>>>,
    published: Mutex<BTreeMap<u64, Vec<RecordBatch>>>,
    on_prepare: Mutex<Option<Hook>>,
    hold: Mutex<Option<u64>>,
    held: AtomicBool,
    partitions: Mutex<BTreeMap<u64, usize>>,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

impl Probe {
    /// A probe that queries of `session` write to with the format `probe`.
    pub fn of(session: &Session) -> Self {
        let probe = Self::default();
        probe.register(session);
        probe
    }

    /// Lets queries of `session` write here too.
    pub fn register(&self, session: &Session) {
        session.register_sink("probe", Arc::new(self.clone()));
    }

    /// Has `hook` called with the number of each batch, after its rows and before its commit.
    pub fn on_prepare(&self, hook: impl Fn(u64) -> Result<()> + Send + Sync + 'static) {
        *self.state.on_prepare.lock().unwrap() = Some(Box::new(hook));
    }

    /// Lets the writers of a batch wait for ever before they take a row.
    pub fn hold(&self, batch: Option<u64>) {
        *self.state.hold.lock().unwrap() = batch;
    }

    /// Whether a writer waits.
    pub fn is_held(&self) -> bool {
        self.state.held.load(Ordering::SeqCst)
    }

    /// The rows of every published batch.
    pub fn batches(&self) -> BTreeMap<u64, Vec<Row>> {
        let published = self.state.published.lock().unwrap();
        published.iter().map(|(batch, rows)| (*batch, rows.iter().flat_map(rows_of).collect())).collect()
    }

    /// The rows of every published batch, as they came.
    pub fn record_batches(&self) -> BTreeMap<u64, Vec<RecordBatch>> {
        self.state.published.lock().unwrap().clone()
    }

    /// The rows of one published batch.
    pub fn rows(&self, batch: u64) -> Vec<Row> {
        self.batches().remove(&batch).unwrap_or_else(|| panic!("batch {batch} was not published"))
    }

    /// How many writers each batch had.
    pub fn writers(&self) -> BTreeMap<u64, usize> {
        self.state.partitions.lock().unwrap().clone()
    }
}

impl SinkFactory for Probe {
    fn create(&self, _: SinkRequest) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Sink for Probe {
    fn description(&self) -> String {
        "Probe".into()
    }

    fn definition(&self, _: &dyn Storage) -> SinkDefinition {
        SinkDefinition {
            format: "probe".into(),
            location: None,
            columns: vec![],
            partition_by: vec![],
            options: Default::default(),
        }
    }

    fn check_output_mode(&self, _: OutputMode) -> Result<()> {
        Ok(())
    }

    async fn recover(&self, _: Uuid, last: Option<(u64, &Value)>) -> Result<()> {
        if let Some((batch, prepared)) = last {
            self.publish(batch, prepared).await?;
        }
        Ok(())
    }

    async fn writer(&self, batch: SinkBatch, _: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(ProbeWriter { probe: self.clone(), batch, rows: Vec::new() }))
    }

    async fn prepare(&self, batch: SinkBatch, reports: Vec<Value>) -> Result<Value> {
        self.state.partitions.lock().unwrap().insert(batch.batch_id, reports.len());
        if let Some(hook) = self.state.on_prepare.lock().unwrap().as_ref() {
            hook(batch.batch_id)?;
        }
        let rows: u64 = reports.iter().filter_map(Value::as_u64).sum();
        Ok(json!({"numRows": rows, "run": batch.run_id}))
    }

    async fn publish(&self, batch: u64, prepared: &Value) -> Result<()> {
        let run = prepared["run"].as_str().and_then(|run| run.parse().ok());
        let run = run.ok_or_else(|| Error::Invalid(format!("batch {batch} was not prepared here")))?;
        let staged = self.state.staged.lock().unwrap().remove(&(run, batch));
        if let Some(rows) = staged {
            self.state.published.lock().unwrap().insert(batch, rows);
        }
        Ok(())
    }

    async fn abort(&self, batch: SinkBatch) -> Result<()> {
        self.state.staged.lock().unwrap().remove(&(batch.run_id, batch.batch_id));
        Ok(())
    }
}

struct ProbeWriter {
    probe: Probe,
    batch: SinkBatch,
    rows: Vec<RecordBatch>,
}

#[async_trait]
impl SinkWriter for ProbeWriter {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        let held = *self.probe.state.hold.lock().unwrap();
        if held == Some(self.batch.batch_id) {
            self.probe.state.held.store(true, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        self.rows.push(rows);
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<Value> {
        let rows: usize = self.rows.iter().map(RecordBatch::num_rows).sum();
        let key = (self.batch.run_id, self.batch.batch_id);
        self.probe.state.staged.lock().unwrap().entry(key).or_default().extend(self.rows);
        Ok(json!(rows))
    }
}
