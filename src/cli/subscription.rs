//! Following a query: each of its batches once, as they are committed.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use tidemill::sink::MemoryTable;
use tidemill::sql::SqlSession;
use tidemill::{QueryTerminated, StreamingQuery, StreamingQueryListener, StreamingQueryProgress};
use tokio::sync::watch;

use super::queries::no_such_query;

/// Changes whenever a batch of any query is done or a run has ended.
#[derive(Debug, Default)]
pub(super) struct Commits(watch::Sender<u64>);

impl Commits {
    /// Those of all queries of `sql` from now on.
    pub(super) fn of(sql: &SqlSession) -> Arc<Self> {
        let commits = Arc::<Self>::default();
        sql.session().streams().add_listener(Arc::clone(&commits) as _);
        commits
    }

    pub(super) fn receiver(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    pub(super) fn note(&self) {
        self.0.send_modify(|count| *count += 1);
    }
}

impl StreamingQueryListener for Commits {
    fn on_query_progress(&self, _: &StreamingQueryProgress) {
        self.note();
    }

    fn on_query_terminated(&self, _: &QueryTerminated) {
        self.note();
    }
}

/// Why a query cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// There is no such query.
    Unknown(String),
    /// It does not keep its batches.
    NotKept(String),
    /// It does not keep the batch to begin with any more.
    Gone(String),
}

impl Refused {
    /// In words.
    pub(super) fn reason(&self) -> &str {
        let (Refused::Unknown(reason) | Refused::NotKept(reason) | Refused::Gone(reason)) = self;
        reason
    }
}

/// A batch and its rows.
pub(super) type CommittedBatch = (u64, Vec<RecordBatch>);

/// What is left of one run of a query.
pub(super) struct Subscription {
    /// The run: what the next one keeps in memory begins anew.
    query: StreamingQuery,
    table: Arc<dyn TableProvider>,
    /// The next batch.
    next: u64,
    /// Whether that one was asked for, and has not come yet.
    is_resuming: bool,
    commits: watch::Receiver<u64>,
}

impl Subscription {
    /// The batches of the query `name` from `from` on, or those that are committed from now on.
    pub(super) async fn new(
        sql: &SqlSession,
        name: &str,
        from: Option<u64>,
        commits: watch::Receiver<u64>,
    ) -> Result<Self, Refused> {
        let started = sql.started_queries().into_iter().find(|started| started.query.name() == Some(name));
        let started = started.ok_or_else(|| Refused::Unknown(no_such_query(name).to_string()))?;
        let table = sql.session().context().table_provider(name).await.ok();
        let Some(table) = table.filter(|table| table.is::<MemoryTable>()) else {
            let format = started.format.to_uppercase();
            return Err(Refused::NotKept(format!(
                "'{name}' writes to {format}; only what a query keeps in a MEMORY table can be subscribed to"
            )));
        };
        let known = batches(&table, 0);
        let oldest = known.first().map(|(batch, _)| *batch);
        let next = match (from, oldest) {
            (Some(from), Some(oldest)) if from < oldest => {
                return Err(gone(from, oldest));
            }
            (Some(from), _) => from,
            (None, _) => known.last().map_or(0, |(batch, _)| batch + 1),
        };
        Ok(Self { query: started.query, table, next, is_resuming: from.is_some(), commits })
    }

    /// The columns of the rows.
    pub(super) fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    /// The batches that have come since, once there are any; nothing more when the run has ended.
    ///
    /// A run that begins with a later batch than the one that was asked for, as after a restart of the process, does
    /// not have those between, and says so instead of leaving them out.
    pub(super) async fn more(&mut self) -> Option<Result<Vec<CommittedBatch>, Refused>> {
        loop {
            // Before looking, so that what comes in between is not missed.
            self.commits.mark_unchanged();
            let is_active = self.query.is_active();
            let found = batches(&self.table, self.next);
            if let (Some((first, _)), Some((last, _))) = (found.first(), found.last()) {
                let asked = std::mem::replace(&mut self.next, last + 1);
                if std::mem::take(&mut self.is_resuming) && *first > asked {
                    return Some(Err(gone(asked, *first)));
                }
                return Some(Ok(found));
            }
            if !is_active {
                return None;
            }
            // Of whichever query: the end of one is one.
            self.commits.changed().await.ok()?;
        }
    }
}

fn gone(batch: u64, oldest: u64) -> Refused {
    Refused::Gone(format!("batch {batch} is not there any more; the oldest that is, is {oldest}"))
}

fn batches(table: &Arc<dyn TableProvider>, from: u64) -> Vec<CommittedBatch> {
    table.downcast_ref::<MemoryTable>().map_or_else(Vec::new, |memory| memory.batches(from))
}
