//! What a query says about itself, in the JSON field names of Spark 4.3.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

/// What one batch did. Serialises to the JSON that Spark's `StreamingQueryProgress` gives.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StreamingQueryProgress {
    /// The query's id, which survives restarts.
    pub id: Uuid,
    /// The id of this run.
    pub run_id: Uuid,
    /// The query's name.
    pub name: Option<String>,
    /// When the trigger started, ISO 8601 in UTC with milliseconds.
    pub timestamp: String,
    /// The batch.
    pub batch_id: u64,
    /// How long the trigger took, in milliseconds.
    pub batch_duration: u64,
    /// Rows read from all sources.
    pub num_input_rows: u64,
    /// Rows that arrived per second since the trigger before; absent for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_rows_per_second: Option<f64>,
    /// Rows read per second of the trigger's duration.
    pub processed_rows_per_second: f64,
    /// Where the time went, in milliseconds: `latestOffset`, `walCommit`, `queryPlanning`,
    /// `addBatch`, `commitOffsets`, `publish` (making the batch visible), `triggerExecution` (all).
    pub duration_ms: BTreeMap<String, u64>,
    /// Event-time statistics; empty without a watermark.
    pub event_time: BTreeMap<String, String>,
    /// The stateful operators; empty for a stateless query.
    pub state_operators: Vec<Value>,
    /// What [`observe`](crate::Observe::observe) asked for: the metrics of each observation, by its name. Absent
    /// if nothing is observed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub observed_metrics: BTreeMap<String, Map<String, Value>>,
    /// One entry per source.
    pub sources: Vec<SourceProgress>,
    /// The sink.
    pub sink: SinkProgress,
}

/// One source's part of a [`StreamingQueryProgress`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SourceProgress {
    /// What it reads, e.g. `FileSource[file:///data/bids]`.
    pub description: String,
    /// Where the batch started; `null` for the first.
    pub start_offset: Value,
    /// Where it ended.
    pub end_offset: Value,
    /// The newest offset known; `null` if unknown.
    pub latest_offset: Value,
    /// Rows read.
    pub num_input_rows: u64,
    /// Rows that arrived per second since the trigger before; absent for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_rows_per_second: Option<f64>,
    /// Rows read per second of the trigger's duration.
    pub processed_rows_per_second: f64,
    /// Counters of the source, e.g. `numMalformedRows`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, String>,
}

/// The sink's part of a [`StreamingQueryProgress`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SinkProgress {
    /// What it writes to, e.g. `FileSink[file:///out/etl]`.
    pub description: String,
    /// Rows written; -1 if unknown.
    pub num_output_rows: i64,
    /// Counters of the sink, e.g. `numFiles`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, String>,
}

impl StreamingQueryProgress {
    /// The observed metrics that are numbers: observation, metric and value.
    #[cfg(any(feature = "metrics", feature = "cli"))]
    pub fn observed_numbers(&self) -> impl Iterator<Item = (&str, &str, f64)> {
        self.observed_metrics.iter().flat_map(|(observation, metrics)| {
            metrics.iter().filter_map(move |(metric, value)| {
                let number = match value {
                    Value::String(text) => text.parse().ok(),
                    value => value.as_f64(),
                };
                Some((observation.as_str(), metric.as_str(), number?))
            })
        })
    }

    /// The progress as one line of JSON.
    pub fn to_json(&self) -> String {
        // Strings, numbers and maps with string keys always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What a query is doing right now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamingQueryStatus {
    /// In words, e.g. `Processing new data`.
    pub message: String,
    /// Whether there are rows to be processed.
    pub is_data_available: bool,
    /// Whether a batch is being planned or run.
    pub is_trigger_active: bool,
}

/// A time in milliseconds as Spark prints it: `2026-11-21T00:00:28.096Z`.
pub(crate) fn iso_timestamp(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms)
        .map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
        .unwrap_or_else(|| ms.to_string())
}

/// `rows` per second of `millis`; of at least one millisecond, so that the figure stays finite.
pub(crate) fn per_second(rows: u64, millis: u64) -> f64 {
    rows as f64 * 1000.0 / millis.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_has_the_field_names_of_spark() {
        let progress = StreamingQueryProgress {
            id: Uuid::nil(),
            run_id: Uuid::nil(),
            name: Some("etl".into()),
            timestamp: iso_timestamp(1_795_219_228_096),
            batch_id: 1,
            batch_duration: 961,
            num_input_rows: 1,
            input_rows_per_second: Some(0.2),
            processed_rows_per_second: per_second(1, 1000),
            duration_ms: [("addBatch".to_string(), 7)].into(),
            event_time: BTreeMap::new(),
            state_operators: vec![],
            observed_metrics: BTreeMap::new(),
            sources: vec![SourceProgress {
                description: "FileSource[file:///in]".into(),
                start_offset: Value::Null,
                end_offset: serde_json::json!({"logOffset": 0}),
                latest_offset: Value::Null,
                num_input_rows: 1,
                input_rows_per_second: None,
                processed_rows_per_second: 1.0,
                metrics: BTreeMap::new(),
            }],
            sink: SinkProgress {
                description: "NoopSink".into(),
                num_output_rows: -1,
                metrics: BTreeMap::new(),
            },
        };
        assert_eq!(
            progress.to_json(),
            r#"{"id":"00000000-0000-0000-0000-000000000000","runId":"00000000-0000-0000-0000-000000000000","name":"etl","timestamp":"2026-11-21T00:00:28.096Z","batchId":1,"batchDuration":961,"numInputRows":1,"inputRowsPerSecond":0.2,"processedRowsPerSecond":1.0,"durationMs":{"addBatch":7},"eventTime":{},"stateOperators":[],"sources":[{"description":"FileSource[file:///in]","startOffset":null,"endOffset":{"logOffset":0},"latestOffset":null,"numInputRows":1,"processedRowsPerSecond":1.0}],"sink":{"description":"NoopSink","numOutputRows":-1}}"#
        );
    }
}
