//! Being told what queries do.

use std::fmt::Debug;

use uuid::Uuid;

use super::progress::StreamingQueryProgress;
use crate::error::StreamingQueryException;

/// A query has started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueryStarted {
    /// The query's id, which survives restarts.
    pub id: Uuid,
    /// The id of this run.
    pub run_id: Uuid,
    /// The query's name.
    pub name: Option<String>,
    /// When it started, ISO 8601 in UTC.
    pub timestamp: String,
}

/// A query looked for new rows and found none. Sent at most every ten seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueryIdle {
    /// The query's id, which survives restarts.
    pub id: Uuid,
    /// The id of this run.
    pub run_id: Uuid,
    /// When it looked, ISO 8601 in UTC.
    pub timestamp: String,
}

/// A query has ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct QueryTerminated {
    /// The query's id, which survives restarts.
    pub id: Uuid,
    /// The id of this run.
    pub run_id: Uuid,
    /// Why, if it failed.
    pub exception: Option<StreamingQueryException>,
}

/// Told what the queries of a session do; register it with
/// [`StreamingQueryManager::add_listener`](super::StreamingQueryManager::add_listener).
///
/// Calls for one query come in order, from the query's own task (`on_query_started` from the caller
/// of `start`, before it returns), so a listener must be quick. A panic in it is
/// logged and harms no query.
pub trait StreamingQueryListener: Debug + Send + Sync {
    /// A query has started.
    fn on_query_started(&self, event: &QueryStarted) {
        let _ = event;
    }

    /// A batch is done.
    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        let _ = progress;
    }

    /// There was nothing to do.
    fn on_query_idle(&self, event: &QueryIdle) {
        let _ = event;
    }

    /// A query has ended.
    fn on_query_terminated(&self, event: &QueryTerminated) {
        let _ = event;
    }
}
