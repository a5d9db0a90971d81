//! What Prometheus reads.
//!
//! Everything is made from what is known of the queries anyway when it is asked for: nothing is counted twice, and
//! a batch costs nothing more for it.

use std::fmt::{Display, Write};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::cli::history::{DURATION_BOUNDS, History, PHASES, now_ms};
use crate::cli::queries::{Queries, state};

/// The version of Prometheus's text format.
const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric of every query.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&History, u64) -> Option<f64>,
}

const fn metric(
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&History, u64) -> Option<f64>,
) -> Metric {
    Metric { name, kind, help, value }
}

/// Seconds of milliseconds.
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

const METRICS: [Metric; 17] = [
    metric(
        "starts_total",
        "counter",
        "Runs of the query in this process, those after a failure included.",
        |of, _| Some(of.runs as f64),
    ),
    metric("failures_total", "counter", "Runs that failed.", |of, _| Some(of.failures as f64)),
    metric("batches_total", "counter", "Batches that are done.", |of, _| Some(of.totals.batches as f64)),
    metric("batch_id", "gauge", "The last batch that is done.", |of, _| Some(of.totals.last_batch? as f64)),
    metric("input_rows_total", "counter", "Rows read.", |of, _| Some(of.totals.input_rows as f64)),
    metric("output_rows_total", "counter", "Rows written.", |of, _| Some(of.totals.output_rows? as f64)),
    metric("late_rows_total", "counter", "Rows that came after the watermark had passed them.", |of, _| {
        Some(of.totals.left_out.late_rows as f64)
    }),
    metric(
        "malformed_rows_total",
        "counter",
        "Records that were left out because they do not fit.",
        |of, _| Some(of.totals.left_out.malformed_rows as f64),
    ),
    metric("input_rows_per_second", "gauge", "Rows read, over the last ten seconds.", |of, now_ms| {
        Some(of.input_rate(now_ms))
    }),
    metric("processed_rows_per_second", "gauge", "Rows of the last batch by its duration.", |of, _| {
        Some(of.last.as_ref()?.processed_rows_per_second)
    }),
    metric("watermark_lag_seconds", "gauge", "How far the watermark was behind the clock.", |of, _| {
        Some(of.lag_ms? as f64 / 1000.0)
    }),
    metric("state_rows", "gauge", "Rows that the query remembers.", |of, _| {
        Some(of.totals.state_rows as f64)
    }),
    metric("state_memory_bytes", "gauge", "Memory that these take.", |of, _| Some(of.state_bytes as f64)),
    metric("state_disk_bytes", "gauge", "Local disk that these take.", |of, _| {
        Some(of.state_disk_bytes as f64)
    }),
    metric("last_batch_timestamp_seconds", "gauge", "When the last batch was done.", |of, _| {
        (of.last_ms > 0).then(|| seconds(of.last_ms))
    }),
    metric("batch_duration_last_seconds", "gauge", "How long the last batch took.", |of, _| {
        Some(seconds(of.last.as_ref()?.batch_duration))
    }),
    metric("batch_input_rows_last", "gauge", "Rows that the last batch read.", |of, _| {
        Some(of.last.as_ref()?.num_input_rows as f64)
    }),
];

pub(super) async fn metrics(State(queries): State<Arc<Queries>>) -> Response {
    ([(header::CONTENT_TYPE, KIND)], render(&queries)).into_response()
}

fn render(queries: &Queries) -> String {
    let mut text = Text::default();
    text.begin("tidemill_build_info", "gauge", "The version of tidemill.");
    text.line("tidemill_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.begin("tidemill_query_state", "gauge", "1 for the state that the query is in.");
    for started in queries.all() {
        let name = started.query.name().unwrap_or_default();
        for word in ["running", "waiting", "restarting", "failed", "stopped"] {
            let is_it = u8::from(state(&started) == word);
            text.line("tidemill_query_state", &[("query", name), ("state", word)], is_it);
        }
    }
    let (mut histories, now_ms) = (queries.histories().all(), now_ms());
    for started in queries.all() {
        let name = started.query.name().unwrap_or_default();
        histories.entry(name.to_string()).or_default().add_restarts(started.query.restarts());
    }
    for Metric { name, kind, help, value } in &METRICS {
        let name = format!("tidemill_query_{name}");
        text.begin(&name, kind, help);
        for (query, history) in &histories {
            if let Some(value) = value(history, now_ms) {
                text.line(&name, &[("query", query)], value);
            }
        }
    }
    let name = "tidemill_query_phase_duration_seconds_total";
    text.begin(name, "counter", "Time spent in each phase of the batches.");
    for (query, history) in &histories {
        for (phase, took) in PHASES.iter().zip(history.phases_ms) {
            text.line(name, &[("query", query), ("phase", phase)], seconds(took));
        }
    }
    let name = "tidemill_query_batch_duration_seconds";
    text.begin(name, "histogram", "How long batches took.");
    for (query, history) in &histories {
        let (bucket, mut count) = (format!("{name}_bucket"), 0);
        for (bound, more) in DURATION_BOUNDS.iter().zip(history.durations) {
            count += more;
            text.line(&bucket, &[("query", query), ("le", &seconds(*bound).to_string())], count);
        }
        text.line(&bucket, &[("query", query), ("le", "+Inf")], history.totals.batches);
        text.line(&format!("{name}_sum"), &[("query", query)], seconds(history.duration_ms));
        text.line(&format!("{name}_count"), &[("query", query)], history.totals.batches);
    }
    let name = "tidemill_query_observed";
    text.begin(name, "gauge", "What the query observes of the rows of the last batch.");
    for (query, history) in &histories {
        let numbers = history.last.iter().flat_map(|last| last.observed_numbers());
        for (observation, metric, value) in numbers {
            let labels = [("query", query.as_str()), ("observation", observation), ("metric", metric)];
            text.line(name, &labels, value);
        }
    }
    if let Some(bytes) = resident_memory() {
        text.begin("process_resident_memory_bytes", "gauge", "Resident memory of the process.");
        text.line("process_resident_memory_bytes", &[], bytes);
    }
    text.0
}

/// How much memory the process has, where the system says so.
fn resident_memory() -> Option<u64> {
    const PAGE: u64 = 4096;
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split(' ').nth(1)?.parse::<u64>().ok()? * PAGE)
}

/// Metrics as text.
#[derive(Debug, Default)]
struct Text(String);

impl Text {
    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.begin("rows", "gauge", "Rows.");
        text.line("rows", &[("query", "a\"b\\c\nd")], 1.5);
        assert_eq!(text.0, "# HELP rows Rows.\n# TYPE rows gauge\nrows{query=\"a\\\"b\\\\c\\nd\"} 1.5\n");
    }
}
