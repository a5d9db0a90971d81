//! What programs ask, and the page.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill::Error;

use super::{Problem, problem};
use crate::cli::history::{Range, now_ms};
use crate::cli::queries::{Queries, no_such_query};

type Site = State<Arc<Queries>>;

/// Which part of the past is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Past {
    range: Option<String>,
}

/// How many of the newest are asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Newest {
    limit: Option<usize>,
}

/// An error of a query that was named, or of what was to be done with it.
pub(super) fn refused(queries: &Queries, name: &str, error: &Error) -> Problem {
    let status = match queries.get(name) {
        None => StatusCode::NOT_FOUND,
        Some(_) if matches!(error, Error::Invalid(_)) => StatusCode::CONFLICT,
        Some(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    problem(status, &tidemill::mask_secrets(&error.to_string()))
}

pub(super) async fn queries(State(queries): Site) -> Json<Value> {
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "nowMs": now_ms(),
        "queries": queries.summaries(),
    }))
}

pub(super) async fn query(
    State(queries): Site,
    Path(name): Path<String>,
    Query(past): Query<Past>,
) -> Result<Json<Value>, Problem> {
    let range = match past.range.as_deref() {
        None | Some("live") => Range::Live,
        Some("hour") => Range::Hour,
        Some(other) => {
            let reason = format!("range = '{other}' is not valid; expected live or hour");
            return Err(problem(StatusCode::BAD_REQUEST, &reason));
        }
    };
    let details = queries.details(&name, range).map_err(|error| refused(&queries, &name, &error))?;
    Ok(Json(details))
}

pub(super) async fn progress(
    State(queries): Site,
    Path(name): Path<String>,
    Query(newest): Query<Newest>,
) -> Result<Json<Value>, Problem> {
    let mut reports = queries.progress(&name).map_err(|error| refused(&queries, &name, &error))?;
    if let (Some(limit), Some(reports)) = (newest.limit, reports.as_array_mut()) {
        reports.drain(..reports.len().saturating_sub(limit));
    }
    Ok(Json(reports))
}

pub(super) async fn stop(State(queries): Site, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    queries.stop(&name).await.map_err(|error| refused(&queries, &name, &error))?;
    Ok(Json(json!({ "name": name, "state": "stopped" })))
}

pub(super) async fn restart(State(queries): Site, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    if queries.get(&name).is_none() {
        return Err(refused(&queries, &name, &no_such_query(&name)));
    }
    // Not to be left halfway when whoever asked hangs up.
    let restarting = {
        let (queries, name) = (Arc::clone(&queries), name.clone());
        tokio::spawn(async move { queries.restart(&name).await })
    };
    let restarted = restarting.await.map_err(|error| Error::Invalid(format!("this is a bug: {error}")));
    restarted.and_then(|restarted| restarted).map_err(|error| refused(&queries, &name, &error))?;
    Ok(Json(json!({ "name": name, "state": "started" })))
}

/// Whether all is well: no query has failed.
pub(super) async fn health(State(queries): Site) -> (StatusCode, Json<Value>) {
    match queries.failed() {
        failed if failed.is_empty() => (StatusCode::OK, Json(json!({ "status": "ok" }))),
        failed => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "failed", "failed": failed }))),
    }
}

/// Whether everything that was to be started runs.
pub(super) async fn ready(State(queries): Site) -> (StatusCode, Json<Value>) {
    match queries.is_ready() {
        true => health(State(queries)).await,
        false => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "starting" }))),
    }
}
