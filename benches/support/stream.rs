//! Running streaming queries and noting when each batch ended.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use datafusion::prelude::{SessionConfig, SessionContext};
use tidemill::prelude::*;
use tidemill::{Environment, StreamingQueryListener, StreamingQueryProgress};

use super::Result;
use super::data::{Format, schema};
use super::metered::{Meter, MeteredProvider, Usage};

/// A batch that ended.
#[derive(Debug, Clone)]
pub struct BatchEnd {
    /// When its progress was reported.
    pub at: Instant,
    /// What was reported.
    pub progress: StreamingQueryProgress,
    /// Use of storage up to then.
    pub usage: BTreeMap<String, Usage>,
}

/// The ends of all batches of a session.
#[derive(Debug)]
pub struct Watch {
    meter: Meter,
    ends: Mutex<Vec<BatchEnd>>,
}

impl Watch {
    /// All ends so far, oldest first.
    pub fn ends(&self) -> Vec<BatchEnd> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl StreamingQueryListener for Watch {
    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        let end = BatchEnd { at: Instant::now(), progress: progress.clone(), usage: self.meter.snapshot() };
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).push(end);
    }
}

/// A session whose batches are watched.
pub fn watched_session() -> (Session, Arc<Watch>) {
    let context = SessionContext::new_with_config(SessionConfig::new());
    let meter = Meter::default();
    let storages = Arc::new(MeteredProvider::new(context.runtime_env(), meter.clone()));
    let environment = Environment { storages: Some(storages), ..Environment::default() };
    let session = Session::with_environment(context, environment);
    let watch = Arc::new(Watch { meter, ends: Mutex::default() });
    session.streams().add_listener(Arc::clone(&watch) as Arc<dyn StreamingQueryListener>);
    (session, watch)
}

/// A query over the bids in a directory.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    /// The format of the bids.
    pub format: Format,
    /// Where they are.
    pub input: &'a Path,
    /// `maxFilesPerTrigger`; no limit if not given.
    pub files_per_trigger: Option<u64>,
    /// `SELECT … FROM bids`
    pub sql: &'a str,
    /// The sink's format.
    pub sink: &'a str,
    /// Where the sink writes; a format that writes to no place ignores it.
    pub output: &'a Path,
    /// Where the checkpoint is.
    pub checkpoint: &'a Path,
    /// `disk` or `process`.
    pub durability: &'a str,
    /// When batches run.
    pub trigger: Trigger,
}

impl Job<'_> {
    /// Starts the query.
    pub async fn start(&self, session: &Session) -> Result<StreamingQuery> {
        let mut reader = session.read_stream().format(self.format.name()).schema(schema());
        if self.format == Format::Csv {
            reader = reader.option("header", true);
        }
        if let Some(files) = self.files_per_trigger {
            reader = reader.option("maxFilesPerTrigger", files);
        }
        let context = session.context();
        context.deregister_table("bids")?;
        context.register_table("bids", reader.table(text(self.input)?).await?)?;
        let writer = context
            .sql(self.sql)
            .await?
            .write_stream()
            .format(self.sink)
            .trigger(self.trigger)
            .option("checkpointLocation", text(self.checkpoint)?)
            .option("durability", self.durability);
        let output = if self.sink == "noop" { None } else { Some(text(self.output)?) };
        Ok(writer.start(output).await?)
    }

    /// Runs the query until it ends by itself; gives the time from describing it to its end.
    pub async fn run(&self, session: &Session) -> Result<Duration> {
        let started = Instant::now();
        self.start(session).await?.await_termination().await?;
        Ok(started.elapsed())
    }
}

/// A path as text.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}
