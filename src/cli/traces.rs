//! Spans of queries, batches and their phases, for a collector of OpenTelemetry.
//!
//! The environment says where it is and what else there is to say, as for every program that has OpenTelemetry's SDK.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;
use ureq::Agent;

use super::exit::Exit;

/// Where spans are sent to, for all signals or for these.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
/// How long sending may take, in milliseconds.
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of the process waits for a collector.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Sends spans as they end, some at a time.
#[derive(Debug)]
pub(super) struct Traces(SdkTracerProvider);

impl Traces {
    /// `None` unless the environment says where to.
    pub(super) fn from_environment() -> Result<Option<Self>, Exit> {
        let is_off = is_set("OTEL_SDK_DISABLED", "true") || is_set("OTEL_TRACES_EXPORTER", "none");
        if is_off || ENDPOINTS.iter().all(|name| value(name).is_none()) {
            return Ok(None);
        }
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(Collector::new())
            .build()
            .map_err(|error| Exit::usage(format!("cannot send traces as {} says: {error}", ENDPOINTS[0])))?;
        let attributes = value("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        let is_named = value("OTEL_SERVICE_NAME").is_some() || attributes.contains("service.name=");
        let resource = match is_named {
            true => Resource::builder(),
            false => Resource::builder().with_service_name(env!("CARGO_PKG_NAME")),
        };
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
        Ok(Some(Self(provider.with_resource(resource.build()).build())))
    }

    /// Takes the engine's spans.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let layer = tracing_opentelemetry::layer().with_tracer(self.0.tracer(env!("CARGO_PKG_NAME")));
        layer.with_filter(filter_fn(|of| of.is_span() && of.target().starts_with("tidemill")))
    }

    /// Sends what has not been sent yet.
    pub(super) fn end(&self) {
        // What went wrong was told.
        let _ = self.0.shutdown_with_timeout(LAST_WORDS);
    }
}

fn value(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn is_set(name: &str, to: &str) -> bool {
    value(name).is_some_and(|value| value.trim().eq_ignore_ascii_case(to))
}

/// The connection to the collector.
#[derive(Debug)]
struct Collector {
    agent: Agent,
    has_failed: AtomicBool,
}

impl Collector {
    fn new() -> Self {
        let timeout = TIMEOUTS.iter().find_map(|name| value(name)?.trim().parse().ok());
        let timeout = timeout.map_or(TIMEOUT, Duration::from_millis);
        let config = Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false);
        Self { agent: config.build().new_agent(), has_failed: AtomicBool::new(false) }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (parts, body) = request.into_parts();
        let (parts, mut body) = self.agent.run(Request::from_parts(parts, body.to_vec()))?.into_parts();
        Ok(Response::from_parts(parts, body.read_to_vec()?.into()))
    }
}

#[async_trait]
impl HttpClient for Collector {
    /// Blocks: it is a thread of the exporter's own that calls it.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let to = request.uri().to_string();
        let sent = self.send(request);
        let reason = match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers {}", response.status())),
            Err(error) => Some(error.to_string()),
        };
        // Once, for as long as it lasts.
        let had_failed = self.has_failed.swap(reason.is_some(), Ordering::Relaxed);
        if let Some(reason) = reason.filter(|_| !had_failed) {
            tracing::warn!("traces do not get to {to}: {reason}");
        }
        Ok(sent?)
    }
}
