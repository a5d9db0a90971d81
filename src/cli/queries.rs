//! The queries of the command, for those who look on from outside: what is said of them, stopping them, and
//! starting them again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tidemill::sql::{SqlSession, StartedQuery};
use tidemill::{Error, Result, StopMode, Trigger, mask_secrets};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::history::{Histories, History, Range, now_ms};

/// The queries of a session.
#[derive(Debug)]
pub(super) struct Queries {
    sql: Arc<SqlSession>,
    histories: Arc<Histories>,
    /// Those that were stopped from outside, or have failed and would have gone on: the command stays for them.
    held: Mutex<BTreeSet<String>>,
    restarted: UnboundedSender<StartedQuery>,
    /// Whether all statements of the script have run.
    is_ready: AtomicBool,
    /// The newest batches as they were sent, so that each is written once, however many have subscribed.
    encoded: Mutex<VecDeque<(String, u64, Arc<str>)>>,
}

/// How many batches are kept as they were sent.
const MOST_ENCODED: usize = 32;

impl Queries {
    /// The queries that are started in `sql` from now on, and those of them that are started again.
    pub(super) fn of(sql: &Arc<SqlSession>) -> (Arc<Self>, UnboundedReceiver<StartedQuery>) {
        let histories = Arc::<Histories>::default();
        let streams = sql.session().streams();
        streams.add_listener(Arc::clone(&histories) as _);
        streams.measure_operators(true);
        let (restarted, restarts) = unbounded_channel();
        let queries = Self {
            sql: Arc::clone(sql),
            histories,
            held: Mutex::default(),
            restarted,
            is_ready: AtomicBool::new(false),
            encoded: Mutex::default(),
        };
        (Arc::new(queries), restarts)
    }

    /// The session that they run in.
    pub(super) fn sql(&self) -> &Arc<SqlSession> {
        &self.sql
    }

    pub(super) fn histories(&self) -> &Histories {
        &self.histories
    }

    /// Notes that all that is to be started has been.
    pub(super) fn set_ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
    }

    /// Whether all that is to be started has been.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    fn held(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a query that has ended may be started again by somebody.
    pub(super) fn keeps_any(&self) -> bool {
        !self.held().is_empty()
    }

    /// Keeps the command for the query `name`, which has failed.
    pub(super) fn hold(&self, name: &str) {
        self.held().insert(name.to_string());
    }

    /// The newest runs.
    pub(super) fn all(&self) -> Vec<StartedQuery> {
        self.sql.started_queries()
    }

    /// Whether the query was not started again after this run.
    pub(super) fn is_newest(&self, run: &StartedQuery) -> bool {
        self.all().iter().any(|newest| newest.query.run_id() == run.query.run_id())
    }

    /// The newest run of the query `name`.
    pub(super) fn get(&self, name: &str) -> Option<StartedQuery> {
        self.all().into_iter().find(|started| started.query.name() == Some(name))
    }

    /// Batch `batch` of the query `name` as `encode` writes it, which may have done so for somebody else.
    pub(super) fn encoded(&self, name: &str, batch: u64, encode: impl FnOnce() -> String) -> Arc<str> {
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((.., text)) = encoded.iter().find(|known| known.0 == name && known.1 == batch) {
            return Arc::clone(text);
        }
        let text: Arc<str> = encode().into();
        encoded.push_back((name.to_string(), batch, Arc::clone(&text)));
        if encoded.len() > MOST_ENCODED {
            encoded.pop_front();
        }
        text
    }

    /// Ends a query after its batch in flight. One that has ended by itself has ended.
    pub(super) async fn stop(&self, name: &str) -> Result<()> {
        let started = self.get(name).ok_or_else(|| no_such_query(name))?;
        if !started.query.is_active() {
            return Err(Error::Invalid(format!("the streaming query '{name}' has ended already")));
        }
        self.hold(name);
        started.query.stop(StopMode::Finish).await
    }

    /// Starts a query again that has ended.
    pub(super) async fn restart(&self, name: &str) -> Result<()> {
        let before = self.get(name).map_or(0, |started| started.query.restarts());
        let started = self.sql.restart(name).await?;
        self.histories.add_restarts(name, before);
        // What a run keeps in memory begins anew.
        self.encoded.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| known.0 != name);
        // Fails only if nobody waits for the end of the queries, as in the shell.
        let _ = self.restarted.send(started);
        self.held().remove(name);
        Ok(())
    }

    /// The names of the queries that have failed.
    pub(super) fn failed(&self) -> Vec<String> {
        let all = self.all();
        let failed = all.iter().filter(|started| state(started) == "failed");
        failed.filter_map(|started| started.query.name().map(str::to_string)).collect()
    }

    /// What is said of all of them.
    pub(super) fn summaries(&self) -> Vec<Value> {
        let now_ms = now_ms();
        let summary = |started: &StartedQuery| {
            let name = started.query.name().unwrap_or_default();
            self.histories.read(name, |history| summary(started, history, now_ms))
        };
        self.all().iter().map(summary).collect()
    }

    /// All that is said of one.
    pub(super) fn details(&self, name: &str, range: Range) -> Result<Value> {
        let started = self.get(name).ok_or_else(|| no_such_query(name))?;
        let now_ms = now_ms();
        let history = self.histories.get(name);
        let mut details = summary(&started, &history, now_ms);
        details["sql"] = started.definition.as_str().into();
        details["explain"] = mask_secrets(started.query.explain()).into();
        details["plan"] = json!(started.query.last_plan());
        details["lastProgress"] = masked(json!(started.query.last_progress()));
        details["history"] = history.chart(range, now_ms);
        details["error"] = error_in_full(&started).into();
        Ok(details)
    }

    /// The reports of the newest batches of the query `name`, oldest first.
    pub(super) fn progress(&self, name: &str) -> Result<Value> {
        let started = self.get(name).ok_or_else(|| no_such_query(name))?;
        Ok(masked(json!(started.query.recent_progress())))
    }
}

/// That there is no query called `name`.
pub(super) fn no_such_query(name: &str) -> Error {
    Error::Invalid(format!("there is no streaming query '{name}'"))
}

/// A word for what the query is doing.
pub(super) fn state(started: &StartedQuery) -> &'static str {
    let query = &started.query;
    let status = query.status();
    match () {
        () if query.exception().is_some() => "failed",
        () if !query.is_active() => "stopped",
        () if status.message.starts_with("Restarting") => "restarting",
        () if status.is_trigger_active => "running",
        () => "waiting",
    }
}

fn error_in_full(started: &StartedQuery) -> Option<String> {
    let exception = started.query.exception()?;
    Some(mask_secrets(&exception.to_string()).into_owned())
}

fn trigger(trigger: Trigger) -> String {
    match trigger {
        Trigger::AtOnce => "at once".into(),
        Trigger::Once => "once".into(),
        Trigger::AvailableNow => "available now".into(),
        Trigger::ProcessingTime(interval) => format!("every {}", super::text::duration(interval)),
    }
}

fn summary(started: &StartedQuery, history: &History, now_ms: u64) -> Value {
    let query = &started.query;
    let totals = query.totals();
    let last = query.last_progress();
    let status = query.status();
    let exception = query.exception();
    let error = exception.map(|exception| mask_secrets(&exception.cause.to_string()).into_owned());
    let sources: Vec<&str> =
        last.iter().flat_map(|last| &last.sources).map(|source| source.description.as_str()).collect();
    json!({
        "name": query.name(),
        "id": query.id(),
        "runId": query.run_id(),
        "state": state(started),
        "isActive": query.is_active(),
        "message": mask_secrets(&status.message),
        "isDataAvailable": status.is_data_available,
        "error": error,
        "waiting": totals.waiting,
        "trigger": trigger(started.trigger),
        "sources": sources.iter().map(|source| mask_secrets(source)).collect::<Vec<_>>(),
        "target": started.target,
        "format": started.format,
        "location": started.location.as_deref().map(mask_secrets),
        "checkpoint": mask_secrets(query.checkpoint_location()),
        "runningMs": u64::try_from(query.running_time().as_millis()).unwrap_or(u64::MAX),
        "restarts": query.restarts() + history.runs.saturating_sub(1),
        "batches": totals.batches,
        "batchId": totals.last_batch,
        "inputRows": totals.input_rows,
        "outputRows": totals.output_rows,
        "lateRows": totals.left_out.late_rows,
        "flaws": totals.flaws(),
        "inputRowsPerSecond": if query.is_active() { history.input_rate(now_ms) } else { 0.0 },
        "processedRowsPerSecond": last.as_ref().map(|last| last.processed_rows_per_second),
        "batchDurationMs": last.as_ref().map(|last| last.batch_duration),
        "lastBatchMs": (history.last_ms > 0).then_some(history.last_ms),
        "watermark": totals.watermark,
        "watermarkLagMs": history.lag_ms,
        "stateRows": totals.state_rows,
        "stateBytes": history.state_bytes,
    })
}

/// `value` with its texts masked.
fn masked(value: Value) -> Value {
    match value {
        Value::String(text) => mask_secrets(&text).into(),
        Value::Array(values) => values.into_iter().map(masked).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, masked(value))).collect(),
        other => other,
    }
}
