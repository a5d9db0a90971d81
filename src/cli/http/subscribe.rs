//! The batches of a query as they are committed, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use datafusion::arrow::record_batch::RecordBatch;
use futures::{Stream, stream};
use serde::Deserialize;

use super::state::as_json;
use super::{Problem, problem};
use crate::cli::queries::Queries;
use crate::cli::subscription::{CommittedBatch, Refused, Subscription};

/// How often something is sent while nothing comes, so that a connection that is gone is noticed.
const ALIVE: Duration = Duration::from_secs(15);

/// Where to begin.
#[derive(Debug, Deserialize)]
pub(super) struct Start {
    from: Option<u64>,
}

/// Sends every committed batch from `from` on, or from after the last one that a browser says it has had, once.
pub(super) async fn subscribe(
    State(queries): State<Arc<Queries>>,
    Path(name): Path<String>,
    Query(Start { from }): Query<Start>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let had = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let from = had.map(|batch| batch.saturating_add(1)).or(from);
    let progress = queries.histories().progress();
    let subscription = Subscription::new(queries.sql(), &name, from, progress).await.map_err(|refused| {
        let status = match refused {
            Refused::Unknown(_) => StatusCode::NOT_FOUND,
            Refused::NotKept(_) => StatusCode::CONFLICT,
            Refused::Gone(_) => StatusCode::GONE,
        };
        problem(status, refused.reason())
    })?;
    let ready = Vec::<CommittedBatch>::new().into_iter();
    let events = stream::unfold((Some(subscription), ready), move |(subscription, mut ready)| {
        let (queries, name) = (Arc::clone(&queries), name.clone());
        async move {
            let mut subscription = subscription?;
            loop {
                if let Some((batch, rows)) = ready.next() {
                    let event = event(&queries, &name, batch, &rows);
                    return Some((Ok::<_, Infallible>(event), (Some(subscription), ready)));
                }
                ready = match subscription.more().await? {
                    Ok(batches) => batches.into_iter(),
                    Err(refused) => {
                        let reason = serde_json::json!({ "error": refused.reason() }).to_string();
                        return Some((Ok(Event::default().event("gone").data(reason)), (None, ready)));
                    }
                };
            }
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)))
}

fn event(queries: &Queries, name: &str, batch: u64, rows: &[RecordBatch]) -> Event {
    let text = queries.encoded(name, batch, || match as_json(rows) {
        Ok(rows) => format!("{{\"batchId\":{batch},\"rows\":{rows}}}"),
        Err(error) => serde_json::json!({ "batchId": batch, "error": error.to_string() }).to_string(),
    });
    Event::default().id(batch.to_string()).event("batch").data(text.as_ref())
}
