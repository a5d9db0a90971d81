//! The handle of a running query, and what it shares with the query's task.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::progress::{StreamingQueryProgress, StreamingQueryStatus};
use super::totals::RunTotals;
use crate::error::{Error, Result, StreamingQueryException};
use crate::exec::measured::OperatorMetrics;

/// How many progress reports [`StreamingQuery::recent_progress`] keeps.
const RECENT_PROGRESS: usize = 100;

/// What [`StreamingQuery::stop`] does with the batch in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StopMode {
    /// Lets it finish and commit.
    #[default]
    Finish,
    /// Gives it up; the next start runs it again with the same input.
    Abandon,
}

/// How far a run has got, for those who wait for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunState {
    /// Set once, at the end.
    pub(crate) ended: bool,
    /// How many times the sources were found to have nothing new, each counted by the number of
    /// the look that found it (see [`QueryShared::looks`]).
    pub(crate) last_empty_look: u64,
}

/// Which run of which query it is.
#[derive(Debug)]
pub(crate) struct QueryIdentity {
    pub(crate) id: Uuid,
    pub(crate) run_id: Uuid,
    pub(crate) name: Option<String>,
    /// The URL of the checkpoint.
    pub(crate) checkpoint: String,
}

/// What a query's task and its handles share.
#[derive(Debug)]
pub(crate) struct QueryShared {
    pub(crate) id: Uuid,
    pub(crate) run_id: Uuid,
    pub(crate) name: Option<String>,
    pub(crate) explain: String,
    /// The URL of the checkpoint.
    pub(crate) checkpoint: String,
    /// Whether it is noted what each operator of the plan does.
    pub(crate) measures: bool,
    started: Instant,
    restarts: AtomicU64,
    /// The look for new rows that was begun last, counted from 1.
    pub(crate) looks: AtomicU64,
    pub(crate) run_state: watch::Sender<RunState>,
    /// Wakes the task from waiting for rows; a trigger's interval it lets pass.
    pub(crate) wake: Notify,
    /// Ends the run after the batch in flight.
    pub(crate) finish: CancellationToken,
    /// Ends the run and gives up the batch in flight.
    pub(crate) abandon: CancellationToken,
    report: Mutex<Report>,
}

#[derive(Debug)]
struct Report {
    status: StreamingQueryStatus,
    progress: VecDeque<StreamingQueryProgress>,
    totals: RunTotals,
    /// How long the run took, once it has ended.
    took: Option<Duration>,
    /// What the operators of the plan did in the last batch, if that is noted.
    plan: Vec<OperatorMetrics>,
    exception: Option<StreamingQueryException>,
}

impl QueryShared {
    pub(crate) fn new(identity: QueryIdentity, explain: String, measures: bool) -> Self {
        let QueryIdentity { id, run_id, name, checkpoint } = identity;
        Self {
            id,
            run_id,
            name,
            explain,
            checkpoint,
            measures,
            started: Instant::now(),
            restarts: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            run_state: watch::Sender::new(RunState::default()),
            wake: Notify::new(),
            finish: CancellationToken::new(),
            abandon: CancellationToken::new(),
            report: Mutex::new(Report {
                status: StreamingQueryStatus {
                    message: "Initializing sources".into(),
                    is_data_available: false,
                    is_trigger_active: false,
                },
                progress: VecDeque::new(),
                totals: RunTotals::default(),
                took: None,
                plan: Vec::new(),
                exception: None,
            }),
        }
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_status(&self, message: &str, data_available: bool, trigger_active: bool) {
        let mut report = self.report();
        // Same message, no new allocation: this runs several times per trigger.
        if report.status.message != message {
            report.status.message = message.to_string();
        }
        report.status.is_data_available = data_available;
        report.status.is_trigger_active = trigger_active;
    }

    pub(crate) fn add_progress(&self, progress: StreamingQueryProgress) {
        let mut report = self.report();
        if report.progress.len() == RECENT_PROGRESS {
            report.progress.pop_front();
        }
        report.totals.add(&progress);
        report.progress.push_back(progress);
    }

    /// Takes what the operators of the plan did in the last batch, if that is noted.
    pub(crate) fn set_plan(&self, plan: Vec<OperatorMetrics>) {
        if self.measures {
            self.report().plan = plan;
        }
    }

    pub(crate) fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Records the end of the run and wakes everybody who waits for it.
    pub(crate) fn end(&self, exception: Option<StreamingQueryException>) {
        let message = match &exception {
            Some(exception) => format!("Terminated with exception: {}", exception.cause),
            None => "Stopped".to_string(),
        };
        let mut report = self.report();
        report.took = Some(self.started.elapsed());
        report.exception = exception;
        drop(report);
        self.set_status(&message, false, false);
        self.run_state.send_modify(|state| state.ended = true);
    }

    pub(crate) fn totals(&self) -> RunTotals {
        self.report().totals.clone()
    }

    /// What to call the query: its name, or else its id.
    pub(crate) fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("query '{name}'"),
            None => format!("query {}", self.id),
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        !self.run_state.borrow().ended
    }

    pub(crate) fn exception(&self) -> Option<StreamingQueryException> {
        self.report().exception.clone()
    }
}

/// A streaming query that was started. Clones are handles of the same run; dropping the last one
/// does not stop it, dropping its session does.
///
/// ```no_run
/// # async fn example() -> tidemill::Result<()> {
/// use tidemill::prelude::*;
///
/// let session = Session::new();
/// let bids = session.read_stream().format("json").load("data/bids").await?;
/// let query = bids
///     .write_stream()
///     .format("parquet")
///     .trigger(Trigger::AvailableNow)
///     .option("checkpointLocation", "checkpoint/etl")
///     .start("out/etl")
///     .await?;
/// query.await_termination().await?;
/// if let Some(progress) = query.last_progress() {
///     println!("{} rows in the last batch", progress.num_input_rows);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct StreamingQuery {
    pub(crate) shared: Arc<QueryShared>,
}

impl StreamingQuery {
    /// The query's id: kept in the checkpoint, the same after every restart.
    pub fn id(&self) -> Uuid {
        self.shared.id
    }

    /// The id of this run: new with every start.
    pub fn run_id(&self) -> Uuid {
        self.shared.run_id
    }

    /// The name given with [`query_name`](crate::DataStreamWriter::query_name).
    pub fn name(&self) -> Option<&str> {
        self.shared.name.as_deref()
    }

    /// Whether the run has not ended yet.
    pub fn is_active(&self) -> bool {
        self.shared.is_active()
    }

    /// What it is doing right now.
    pub fn status(&self) -> StreamingQueryStatus {
        self.shared.report().status.clone()
    }

    /// The report of the newest batch of this run.
    pub fn last_progress(&self) -> Option<StreamingQueryProgress> {
        self.shared.report().progress.back().cloned()
    }

    /// The reports of the newest batches of this run, at most 100, oldest first.
    pub fn recent_progress(&self) -> Vec<StreamingQueryProgress> {
        self.shared.report().progress.iter().cloned().collect()
    }

    /// What this run has done so far, all its batches together.
    pub fn totals(&self) -> RunTotals {
        self.shared.totals()
    }

    /// How many times this run has failed and started again by itself (`restartOnFailure`).
    pub fn restarts(&self) -> u64 {
        self.shared.restarts.load(Ordering::Relaxed)
    }

    /// How long this run has been going on, or went on until its end.
    pub fn running_time(&self) -> Duration {
        self.shared.report().took.unwrap_or_else(|| self.shared.started.elapsed())
    }

    /// Why the run failed, if it did.
    pub fn exception(&self) -> Option<StreamingQueryException> {
        self.shared.exception()
    }

    /// The optimised logical plan and the physical plan.
    pub fn explain(&self) -> &str {
        &self.shared.explain
    }

    /// What each operator of the plan did in the last batch, from the result down to the sources; empty unless
    /// [`StreamingQueryManager::measure_operators`](super::StreamingQueryManager::measure_operators) was
    /// called before the query was started.
    pub fn last_plan(&self) -> Vec<OperatorMetrics> {
        self.shared.report().plan.clone()
    }

    /// The URL of the checkpoint; that of a query without one is a temporary directory.
    pub fn checkpoint_location(&self) -> &str {
        &self.shared.checkpoint
    }

    /// Ends the run and returns when it has ended. Fails if the run had failed before, or fails meanwhile.
    pub async fn stop(&self, mode: StopMode) -> Result<()> {
        self.shared.finish.cancel();
        if mode == StopMode::Abandon {
            self.shared.abandon.cancel();
        }
        self.await_termination().await
    }

    /// Returns when the run has ended by itself or was stopped; with the error if it failed.
    pub async fn await_termination(&self) -> Result<()> {
        let mut state = self.shared.run_state.subscribe();
        // The sender lives as long as this handle, so waiting cannot fail.
        let _ = state.wait_for(|state| state.ended).await;
        self.exception().map_or(Ok(()), |exception| Err(Error::StreamFailed(exception)))
    }

    /// As [`StreamingQuery::await_termination`], but waits at most for `timeout`; gives whether the
    /// run has ended.
    pub async fn await_termination_timeout(&self, timeout: Duration) -> Result<bool> {
        match tokio::time::timeout(timeout, self.await_termination()).await {
            Ok(ended) => ended.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Returns when everything that was there when it was called is processed and committed, or
    /// when the run has ended; with the error if it failed. With a source that never pauses it may
    /// never return. Meant for tests.
    pub async fn process_all_available(&self) -> Result<()> {
        let mut state = self.shared.run_state.subscribe();
        let begun = self.shared.looks.load(Ordering::SeqCst);
        self.shared.wake.notify_one();
        // A look that was under way may have missed what came just before the call.
        let _ = state.wait_for(|state| state.ended || state.last_empty_look > begun).await;
        self.exception().map_or(Ok(()), |exception| Err(Error::StreamFailed(exception)))
    }
}
