//! `--listen`: a page about the queries, metrics, and an interface for programs, over HTTP.

mod api;
mod guard;
mod metrics;
mod page;
mod state;
mod subscribe;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use tokio::net::TcpListener;

use super::exit::Exit;
use super::queries::Queries;
use guard::Guard;

pub(super) use guard::TOKEN;

/// An answer that says what was wrong.
type Problem = (StatusCode, Json<serde_json::Value>);

fn problem(status: StatusCode, reason: &str) -> Problem {
    (status, Json(json!({ "error": reason })))
}

/// Takes requests at `address` until the process ends; gives where, as a URL.
pub(super) async fn listen(address: &str, queries: Arc<Queries>) -> Result<String, Exit> {
    let cannot = |error: std::io::Error| Exit::failed(format!("cannot listen on '{address}': {error}"));
    let listener = TcpListener::bind(with_host(address)).await.map_err(cannot)?;
    let local = listener.local_addr().map_err(cannot)?;
    let guard = Arc::new(Guard::new(local, std::env::var(TOKEN).ok()));
    let site = router(queries).layer(from_fn(errors_as_json)).layer(from_fn_with_state(guard, guard::check));
    let service = site.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, service).await {
            tracing::error!(%error, "the page is not served any more");
        }
    });
    let shown = match local.ip().is_unspecified() {
        true => SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), local.port()),
        false => local,
    };
    Ok(format!("http://{shown}"))
}

/// A port alone is one of this machine for itself.
pub(super) fn with_host(address: &str) -> String {
    match address.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None if address.bytes().all(|digit| digit.is_ascii_digit()) => format!("127.0.0.1:{address}"),
        None => address.to_string(),
    }
}

fn router(queries: Arc<Queries>) -> Router {
    let pages =
        page::FILES.iter().fold(Router::new(), |site, file| site.route(file.path, get(|| file.serve())));
    pages
        .route("/metrics", get(metrics::metrics))
        .route("/health", get(api::health))
        .route("/ready", get(api::ready))
        .route("/api/queries", get(api::queries))
        .route("/api/queries/{name}", get(api::query))
        .route("/api/queries/{name}/progress", get(api::progress))
        .route("/api/queries/{name}/state", get(state::state))
        .route("/api/queries/{name}/subscribe", get(subscribe::subscribe))
        .route("/api/queries/{name}/stop", post(api::stop))
        .route("/api/queries/{name}/restart", post(api::restart))
        .fallback(nothing_here)
        .with_state(queries)
}

/// What the server itself refuses, it says in plain text, or not at all.
async fn errors_as_json(request: Request, next: Next) -> Response {
    /// Its reasons are short.
    const MOST: usize = 10_000;
    let response = next.run(request).await;
    let status = response.status();
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let reason = axum::body::to_bytes(body, MOST).await.unwrap_or_default();
    let reason = String::from_utf8_lossy(&reason);
    let reason = if reason.is_empty() { status.canonical_reason().unwrap_or_default() } else { &reason };
    let (kind, answer) = problem(status, reason).into_response().into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(kind.headers);
    Response::from_parts(parts, answer)
}

async fn nothing_here() -> Response {
    problem(StatusCode::NOT_FOUND, "there is nothing here; see /api/queries, /metrics, /health and /ready")
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_not_open_to_others() {
        assert_eq!(with_host("8080"), "127.0.0.1:8080");
        assert_eq!(with_host(":8080"), "0.0.0.0:8080");
        assert_eq!(with_host("10.0.0.1:80"), "10.0.0.1:80");
    }
}
