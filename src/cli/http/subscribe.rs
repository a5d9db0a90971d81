//! The batches of a query as they are committed, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use futures::{Stream, stream};
use serde::Deserialize;
use tidemill::StreamingQuery;
use tidemill::sink::MemoryTable;
use tokio::sync::watch;

use super::state::as_json;
use super::{Problem, problem};
use crate::cli::queries::{Queries, no_such_query};

/// How often something is sent while nothing comes, so that a connection that is gone is noticed.
const ALIVE: Duration = Duration::from_secs(15);

/// Where to begin.
#[derive(Debug, Deserialize)]
pub(super) struct Start {
    from: Option<u64>,
}

/// What is left to be sent to a subscriber.
struct Subscription {
    queries: Arc<Queries>,
    name: String,
    /// The run whose batches are sent; what the next one keeps in memory begins anew.
    query: StreamingQuery,
    table: Arc<dyn TableProvider>,
    /// The next batch.
    next: u64,
    progress: watch::Receiver<u64>,
}

/// Sends every committed batch from `from` on, or from after the last one that a browser says it has had, once.
pub(super) async fn subscribe(
    State(queries): State<Arc<Queries>>,
    Path(name): Path<String>,
    Query(Start { from }): Query<Start>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let not_found = || problem(StatusCode::NOT_FOUND, &no_such_query(&name).to_string());
    let started = queries.get(&name).ok_or_else(not_found)?;
    let table = queries.sql().session().context().table_provider(name.as_str()).await.ok();
    let Some(table) = table.filter(|table| table.is::<MemoryTable>()) else {
        let format = started.format.to_uppercase();
        let reason = format!(
            "'{name}' writes to {format}; only what a query keeps in a MEMORY table can be subscribed to"
        );
        return Err(problem(StatusCode::CONFLICT, &reason));
    };
    let had = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let from = had.map(|batch| batch.saturating_add(1)).or(from);
    let progress = queries.histories().progress();
    let oldest = batches(&table, 0).first().map(|(batch, _)| *batch);
    let next = match (from, oldest) {
        (Some(from), Some(oldest)) if from < oldest => {
            let reason = format!("batch {from} is not there any more; the oldest that is, is {oldest}");
            return Err(problem(StatusCode::GONE, &reason));
        }
        (Some(from), _) => from,
        // What is committed from now on.
        (None, _) => batches(&table, 0).last().map_or(0, |(batch, _)| batch + 1),
    };
    let query = started.query.clone();
    let subscription = Subscription { queries: Arc::clone(&queries), name, query, table, next, progress };
    let events =
        stream::unfold((subscription, Vec::new().into_iter()), |(mut subscription, mut ready)| async move {
            loop {
                if let Some(event) = ready.next() {
                    return Some((Ok::<_, Infallible>(event), (subscription, ready)));
                }
                ready = subscription.more().await?.into_iter();
            }
        });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)))
}

fn batches(table: &Arc<dyn TableProvider>, from: u64) -> Vec<(u64, Vec<RecordBatch>)> {
    table.downcast_ref::<MemoryTable>().map_or_else(Vec::new, |memory| memory.batches(from))
}

impl Subscription {
    /// The events of the batches that have come since, once there are any; nothing more when the run has ended.
    async fn more(&mut self) -> Option<Vec<Event>> {
        loop {
            // Before looking, so that what comes in between is not missed.
            self.progress.mark_unchanged();
            let is_active = self.query.is_active();
            let found = batches(&self.table, self.next);
            if let Some((last, _)) = found.last() {
                self.next = last + 1;
                return Some(found.iter().map(|(batch, rows)| self.event(*batch, rows)).collect());
            }
            if !is_active {
                return None;
            }
            // Of whichever query: the end of one is one.
            self.progress.changed().await.ok()?;
        }
    }

    fn event(&self, batch: u64, rows: &[RecordBatch]) -> Event {
        let text = self.queries.encoded(&self.name, batch, || {
            let rows = as_json(rows).unwrap_or_else(|error| error.to_string().into());
            serde_json::json!({ "batchId": batch, "rows": rows }).to_string()
        });
        Event::default().id(batch.to_string()).event("batch").data(text.as_ref())
    }
}
