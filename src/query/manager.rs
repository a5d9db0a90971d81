//! All queries of a session.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::select_all;
use uuid::Uuid;

use super::handle::{QueryShared, StreamingQuery};
use super::listener::{QueryIdle, QueryStarted, QueryTerminated, StreamingQueryListener};
use super::progress::StreamingQueryProgress;
use crate::error::{Error, Result, StreamingQueryException};
use crate::state::SharedMemory;

/// Checkpoints in use by this process, by URL.
static CHECKPOINTS_IN_USE: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The streaming queries of a session: [`Session::streams`](crate::Session::streams).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use tidemill::prelude::*;
///
/// let session = Session::new();
/// assert!(session.streams().active().is_empty());
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct StreamingQueryManager {
    inner: Arc<ManagerInner>,
}

#[derive(Debug, Default)]
struct ManagerInner {
    active: Mutex<Vec<Arc<QueryShared>>>,
    terminated: Mutex<Terminated>,
    listeners: Mutex<Vec<(u64, Arc<dyn StreamingQueryListener>)>>,
    next_listener: std::sync::atomic::AtomicU64,
    state_memory: Arc<SharedMemory>,
    ended: tokio::sync::Notify,
    measures_operators: AtomicBool,
}

/// What became of the runs that ended since the last [`StreamingQueryManager::reset_terminated`].
#[derive(Debug, Default)]
struct Terminated {
    any: bool,
    first_failure: Option<StreamingQueryException>,
}

/// The number under which a listener was added, to remove it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerId(u64);

impl StreamingQueryManager {
    /// The memory that the state of all queries shares.
    pub(crate) fn state_memory(&self) -> &Arc<SharedMemory> {
        &self.inner.state_memory
    }

    /// The queries that are running, in the order in which they were started.
    pub fn active(&self) -> Vec<StreamingQuery> {
        lock(&self.inner.active)
            .iter()
            .filter(|shared| shared.is_active())
            .map(|shared| StreamingQuery { shared: Arc::clone(shared) })
            .collect()
    }

    /// The running query with this id.
    pub fn get(&self, id: Uuid) -> Option<StreamingQuery> {
        self.active().into_iter().find(|query| query.id() == id)
    }

    /// The running query of this name.
    pub fn get_by_name(&self, name: &str) -> Option<StreamingQuery> {
        self.active().into_iter().find(|query| query.name() == Some(name))
    }

    /// Returns when any query of the session has ended since the session was made or
    /// [`StreamingQueryManager::reset_terminated`] was called; with the error of the first that
    /// failed. Waits for the first query if none was started yet.
    pub async fn await_any_termination(&self) -> Result<()> {
        loop {
            // Registered before looking, so that an end in between is not missed.
            let ended = self.inner.ended.notified();
            let (any, failed) = {
                let terminated = lock(&self.inner.terminated);
                (terminated.any, terminated.first_failure.clone())
            };
            if let Some(exception) = failed {
                return Err(Error::StreamFailed(exception));
            }
            if any {
                return Ok(());
            }
            ended.await;
        }
    }

    /// As [`StreamingQueryManager::await_any_termination`], but waits at most for `timeout`; gives
    /// whether a query has ended.
    pub async fn await_any_termination_timeout(&self, timeout: Duration) -> Result<bool> {
        match tokio::time::timeout(timeout, self.await_any_termination()).await {
            Ok(ended) => ended.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Forgets the queries that have ended, so that the next wait is for another one.
    pub fn reset_terminated(&self) {
        *lock(&self.inner.terminated) = Terminated::default();
    }

    /// Returns when all queries that are running now have ended; with the error of the first that
    /// failed, as soon as it fails.
    pub async fn await_all_termination(&self) -> Result<()> {
        let mut waiting: Vec<_> = self
            .active()
            .into_iter()
            .map(|query| Box::pin(async move { query.await_termination().await }))
            .collect();
        while !waiting.is_empty() {
            let (ended, _, others) = select_all(waiting).await;
            ended?;
            waiting = others;
        }
        Ok(())
    }

    /// Has `listener` told of everything that the session's queries do from now on.
    pub fn add_listener(&self, listener: Arc<dyn StreamingQueryListener>) -> ListenerId {
        let id = self.inner.next_listener.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        lock(&self.inner.listeners).push((id, listener));
        ListenerId(id)
    }

    /// Tells this listener nothing more.
    pub fn remove_listener(&self, id: ListenerId) {
        lock(&self.inner.listeners).retain(|(listener, _)| *listener != id.0);
    }

    /// Has queries that are started from now on note what each operator of their plan does in a batch, see
    /// [`StreamingQuery::last_plan`]. It costs a few microseconds a batch.
    pub fn measure_operators(&self, on: bool) {
        self.inner.measures_operators.store(on, Ordering::Relaxed);
    }

    pub(crate) fn measures_operators(&self) -> bool {
        self.inner.measures_operators.load(Ordering::Relaxed)
    }

    /// Fails if a running query has this name.
    pub(crate) fn check_name(&self, name: Option<&str>) -> Result<()> {
        match name {
            Some(name) if self.get_by_name(name).is_some() => Err(Error::Invalid(format!(
                "a streaming query named '{name}' is active in this session already. Stop it first, or \
                 give this one another name"
            ))),
            _ => Ok(()),
        }
    }

    /// Adds a query, unless its name was taken in the meantime.
    pub(crate) fn register(&self, shared: &Arc<QueryShared>) -> Result<()> {
        let mut active = lock(&self.inner.active);
        active.retain(|shared| shared.is_active());
        if shared.name.is_some() && active.iter().any(|other| other.name == shared.name) {
            drop(active);
            return self.check_name(shared.name.as_deref());
        }
        active.push(Arc::clone(shared));
        Ok(())
    }

    /// Takes a query back that was added and will not run.
    pub(crate) fn unregister(&self, shared: &Arc<QueryShared>) {
        lock(&self.inner.active).retain(|other| !Arc::ptr_eq(other, shared));
    }

    /// Moves a query from the active ones to the terminated ones; `end` marks it as ended.
    pub(crate) fn retire(&self, shared: &Arc<QueryShared>, end: impl FnOnce()) {
        self.unregister(shared);
        end();
        {
            let mut terminated = lock(&self.inner.terminated);
            terminated.any = true;
            if terminated.first_failure.is_none() {
                terminated.first_failure = shared.exception();
            }
        }
        self.inner.ended.notify_waiters();
    }

    /// Ends all queries without waiting for the batches in flight.
    pub(crate) fn abandon_all(&self) {
        for shared in lock(&self.inner.active).iter() {
            shared.finish.cancel();
            shared.abandon.cancel();
        }
    }

    /// Tells every listener something. One that panics is its own fault, and nobody else's.
    fn tell(&self, event: impl Fn(&dyn StreamingQueryListener)) {
        let listeners: Vec<_> =
            lock(&self.inner.listeners).iter().map(|(_, listener)| Arc::clone(listener)).collect();
        for listener in listeners {
            if catch_unwind(AssertUnwindSafe(|| event(listener.as_ref()))).is_err() {
                tracing::error!("a listener of streaming queries has panicked; the queries go on");
            }
        }
    }

    pub(crate) fn notify_started(&self, event: &QueryStarted) {
        self.tell(|listener| listener.on_query_started(event));
    }

    pub(crate) fn notify_progress(&self, progress: &StreamingQueryProgress) {
        self.tell(|listener| listener.on_query_progress(progress));
    }

    pub(crate) fn notify_idle(&self, event: &QueryIdle) {
        self.tell(|listener| listener.on_query_idle(event));
    }

    pub(crate) fn notify_terminated(&self, event: &QueryTerminated) {
        self.tell(|listener| listener.on_query_terminated(event));
    }
}

/// A checkpoint that this process uses; free again when dropped.
#[derive(Debug)]
pub(crate) struct CheckpointLease(String);

impl CheckpointLease {
    /// Fails if a query of this process uses the checkpoint at `url`.
    pub(crate) fn take(url: &str) -> Result<Self> {
        if lock(&CHECKPOINTS_IN_USE).insert(url.to_string()) {
            return Ok(Self(url.to_string()));
        }
        Err(Error::ConcurrentQuery {
            checkpoint: url.to_string(),
            reason: "a query of this process uses it. Stop that query first, or give this one a \
                     checkpointLocation of its own"
                .into(),
        })
    }
}

impl Drop for CheckpointLease {
    fn drop(&mut self) {
        lock(&CHECKPOINTS_IN_USE).remove(&self.0);
    }
}
