//! What queries do, for whatever collects metrics.

use metrics::{Label, counter, gauge, histogram};
use serde_json::Value;

use super::listener::{QueryTerminated, StreamingQueryListener};
use super::progress::StreamingQueryProgress;

/// Hands what each batch did to the recorder of the [`metrics`](https://docs.rs/metrics) crate that the program has
/// installed: Prometheus, StatsD, OpenTelemetry and others have one.
///
/// Every metric has the label `query`, the query's name, or its id if it has none:
///
/// | name | kind | what |
/// |---|---|---|
/// | `tidemill_batches_total` | counter | batches that are done |
/// | `tidemill_input_rows_total` | counter | rows read |
/// | `tidemill_output_rows_total` | counter | rows written, by sinks that know |
/// | `tidemill_late_rows_total` | counter | rows that came after the watermark had passed them |
/// | `tidemill_batch_duration_seconds` | histogram | how long a batch took |
/// | `tidemill_phase_duration_seconds` | histogram | the same, by `phase` |
/// | `tidemill_state_rows`, `tidemill_state_memory_bytes` | gauge | what the query remembers |
/// | `tidemill_observed` | gauge | observed metrics that are numbers, by `observation` and `metric` |
/// | `tidemill_failures_total` | counter | runs that failed |
///
/// # Examples
/// ```
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
///
/// use tidemill::{MetricsListener, Session};
///
/// let session = Session::new();
/// session.streams().add_listener(Arc::new(MetricsListener::default()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct MetricsListener {}

/// Milliseconds as seconds, the unit of Prometheus.
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

impl StreamingQueryListener for MetricsListener {
    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        let query = progress.name.clone().unwrap_or_else(|| progress.id.to_string());
        let labels = [Label::new("query", query.clone())];
        let of_state = |field: &str| -> u64 {
            let values = progress.state_operators.iter().map(|operator: &Value| operator[field].as_u64());
            values.flatten().sum()
        };
        counter!("tidemill_batches_total", labels.iter()).increment(1);
        counter!("tidemill_input_rows_total", labels.iter()).increment(progress.num_input_rows);
        if let Ok(rows) = u64::try_from(progress.sink.num_output_rows) {
            counter!("tidemill_output_rows_total", labels.iter()).increment(rows);
        }
        counter!("tidemill_late_rows_total", labels.iter()).increment(of_state("numRowsDroppedByWatermark"));
        gauge!("tidemill_state_rows", labels.iter()).set(of_state("numRowsTotal") as f64);
        gauge!("tidemill_state_memory_bytes", labels.iter()).set(of_state("memoryUsedBytes") as f64);
        histogram!("tidemill_batch_duration_seconds", labels.iter()).record(seconds(progress.batch_duration));
        for (observation, metric, value) in progress.observed_numbers() {
            let labels = [
                Label::new("query", query.clone()),
                Label::new("observation", observation.to_string()),
                Label::new("metric", metric.to_string()),
            ];
            gauge!("tidemill_observed", labels.iter()).set(value);
        }
        for (phase, took) in &progress.duration_ms {
            let labels = [Label::new("query", query.clone()), Label::new("phase", phase.clone())];
            histogram!("tidemill_phase_duration_seconds", labels.iter()).record(seconds(*took));
        }
    }

    fn on_query_terminated(&self, event: &QueryTerminated) {
        if let Some(exception) = &event.exception {
            let query = exception.name.clone().unwrap_or_else(|| event.id.to_string());
            counter!("tidemill_failures_total", [Label::new("query", query)].iter()).increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
        SharedString, Unit,
    };
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::query::progress::SinkProgress;

    type Seen = Arc<Mutex<BTreeMap<String, f64>>>;

    /// Sums of what was recorded, and the last values of gauges.
    #[derive(Default)]
    struct Sums(Seen);

    struct Sum(Seen, String);

    impl Sum {
        fn change(&self, change: impl FnOnce(&mut f64)) {
            change(self.0.lock().unwrap().entry(self.1.clone()).or_default());
        }
    }

    impl CounterFn for Sum {
        fn increment(&self, value: u64) {
            self.change(|sum| *sum += value as f64);
        }

        fn absolute(&self, value: u64) {
            self.change(|sum| *sum = value as f64);
        }
    }

    impl GaugeFn for Sum {
        fn increment(&self, value: f64) {
            self.change(|sum| *sum += value);
        }

        fn decrement(&self, value: f64) {
            self.change(|sum| *sum -= value);
        }

        fn set(&self, value: f64) {
            self.change(|sum| *sum = value);
        }
    }

    impl HistogramFn for Sum {
        fn record(&self, value: f64) {
            self.change(|sum| *sum += value);
        }
    }

    impl Sums {
        fn of(&self, key: &Key) -> Arc<Sum> {
            let labels: Vec<&str> = key.labels().map(Label::value).collect();
            Arc::new(Sum(Arc::clone(&self.0), format!("{} {}", key.name(), labels.join(" "))))
        }
    }

    impl Recorder for Sums {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.of(key))
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.of(key))
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(self.of(key))
        }
    }

    #[test]
    fn what_a_batch_did_is_recorded() {
        let quality =
            [("bad", json!(3)), ("rate", json!("0.5")), ("note", json!("none")), ("none", json!(null))];
        let quality = quality.map(|(name, value)| (name.to_string(), value)).into_iter().collect();
        let progress = StreamingQueryProgress {
            id: Uuid::nil(),
            run_id: Uuid::nil(),
            name: Some("hits".into()),
            timestamp: String::new(),
            batch_id: 3,
            batch_duration: 250,
            num_input_rows: 10,
            input_rows_per_second: None,
            processed_rows_per_second: 40.0,
            duration_ms: [("addBatch".to_string(), 200)].into(),
            event_time: BTreeMap::new(),
            state_operators: vec![
                json!({"numRowsTotal": 4, "numRowsDroppedByWatermark": 2}),
                json!({"numRowsTotal": 1}),
            ],
            observed_metrics: [("quality".to_string(), quality)].into(),
            sources: vec![],
            sink: SinkProgress {
                description: "MemorySink".into(),
                num_output_rows: 5,
                metrics: BTreeMap::new(),
            },
        };
        let sums = Sums::default();
        metrics::with_local_recorder(&sums, || {
            let listener = MetricsListener::default();
            listener.on_query_progress(&progress);
            listener.on_query_progress(&progress);
        });
        let expected = [
            ("tidemill_batch_duration_seconds hits", 0.5),
            ("tidemill_batches_total hits", 2.0),
            ("tidemill_input_rows_total hits", 20.0),
            ("tidemill_late_rows_total hits", 4.0),
            ("tidemill_observed hits quality bad", 3.0),
            ("tidemill_observed hits quality rate", 0.5),
            ("tidemill_output_rows_total hits", 10.0),
            ("tidemill_phase_duration_seconds hits addBatch", 0.4),
            ("tidemill_state_memory_bytes hits", 0.0),
            ("tidemill_state_rows hits", 5.0),
        ];
        let expected = expected.map(|(name, sum)| (name.to_string(), sum)).into();
        assert_eq!(*sums.0.lock().unwrap(), expected);
    }
}
