//! Progress reports.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::batch::{BatchOutcome, BatchRunner};
use super::progress::{SinkProgress, SourceProgress, StreamingQueryProgress, iso_timestamp, per_second};
use super::totals::ROWS_WITHOUT_TIME;
use crate::exec::event_time::EventTimeSummary;
use crate::exec::stateful::Expires;
use crate::sink::OutputMode;

/// When a trigger ran and how long it took.
#[derive(Debug)]
pub(crate) struct TriggerTimes {
    /// When it started, in milliseconds since the epoch.
    pub(crate) started_ms: i64,
    /// When the trigger before it started, if there was one in this run.
    pub(crate) previous_ms: Option<i64>,
    /// Where the time went.
    pub(crate) durations: BTreeMap<String, u64>,
}

/// The report of a batch that is done.
pub(crate) fn progress(
    runner: &BatchRunner,
    descriptions: &[String],
    batch_id: u64,
    outcome: &BatchOutcome,
    times: TriggerTimes,
) -> StreamingQueryProgress {
    let took = times.durations.get("triggerExecution").copied().unwrap_or_default();
    let since_previous = times
        .previous_ms
        .map(|previous| u64::try_from(times.started_ms.saturating_sub(previous)).unwrap_or(0));
    let arrival_rate = |rows| since_previous.map(|millis| per_second(rows, millis));
    let rows: u64 = outcome.report.rows.values().sum();
    let rows_of = |source| outcome.report.rows.get(&source).copied().unwrap_or_default();
    let sources = runner
        .sources
        .iter()
        .zip(&outcome.inputs)
        .zip(descriptions)
        .enumerate()
        .map(|(index, ((source, input), description))| SourceProgress {
            description: description.clone(),
            start_offset: input.start.clone(),
            end_offset: input.end.clone(),
            latest_offset: source.latest_offset(),
            num_input_rows: rows_of(index),
            input_rows_per_second: arrival_rate(rows_of(index)),
            processed_rows_per_second: per_second(rows_of(index), took),
            metrics: source.take_metrics(),
        })
        .collect();
    StreamingQueryProgress {
        id: runner.shared.id,
        run_id: runner.shared.run_id,
        name: runner.shared.name.clone(),
        timestamp: iso_timestamp(times.started_ms),
        batch_id,
        batch_duration: took,
        num_input_rows: rows,
        input_rows_per_second: arrival_rate(rows),
        processed_rows_per_second: per_second(rows, took),
        duration_ms: times.durations,
        event_time: event_time(runner, outcome),
        state_operators: state_operators(runner, outcome),
        observed_metrics: outcome.observed.clone(),
        sources,
        sink: sink_progress(runner.sink.description(), &outcome.prepared),
    }
}

/// Empty without a watermark; without new rows only the watermark (Spark's rule).
fn event_time(runner: &BatchRunner, outcome: &BatchOutcome) -> BTreeMap<String, String> {
    if runner.plan.watermarks().is_empty() {
        return BTreeMap::new();
    }
    let mut found = BTreeMap::from([("watermark".to_string(), iso_timestamp(outcome.watermark_ms))]);
    if let Some(reason) = waiting(runner, outcome) {
        found.insert("waiting".into(), reason);
    }
    let seen =
        outcome.report.event_times.values().fold(EventTimeSummary::default(), |all, seen| all.and(*seen));
    if seen.count > 0 {
        let iso = |micros: i64| iso_timestamp(micros.div_euclid(1000));
        let average = seen.sum.div_euclid(i128::from(seen.count));
        found.insert("min".into(), iso(seen.min));
        found.insert("max".into(), iso(seen.max));
        found.insert("avg".into(), iso(i64::try_from(average).unwrap_or(seen.max)));
    }
    let untimed: u64 = outcome.report.untimed.values().sum();
    if untimed > 0 {
        found.insert(ROWS_WITHOUT_TIME.into(), untimed.to_string());
    }
    found
}

/// In append mode, why nothing more than this has been given: when the next row of state is final.
fn waiting(runner: &BatchRunner, outcome: &BatchOutcome) -> Option<String> {
    if runner.output_mode != OutputMode::Append || !runner.plan.waits_for_watermark() {
        return None;
    }
    let given = runner.plan.expiring(|expires| !expires.is_by_batch_time() && expires != Expires::Unseen);
    let first = runner.state.first_expiry(&given)?;
    let first_ms = first.div_euclid(1000).saturating_add(i64::from(first.rem_euclid(1000) > 0));
    let delay_ms = runner.plan.watermarks().iter().map(|watermark| watermark.delay_ms).max()?;
    (outcome.watermark_ms == 0 || first_ms > outcome.watermark_ms).then(|| {
        format!(
            "the watermark is at {}; the next results are final when it reaches {}, that is when an event time \
             of {} has been seen",
            iso_timestamp(outcome.watermark_ms),
            iso_timestamp(first_ms),
            iso_timestamp(first_ms.saturating_add(delay_ms)),
        )
    })
}

fn state_operators(runner: &BatchRunner, outcome: &BatchOutcome) -> Vec<Value> {
    let definitions = runner.plan.operators();
    definitions
        .iter()
        .enumerate()
        .map(|(id, definition)| {
            let counters = outcome.report.operators.get(&id).copied().unwrap_or_default();
            let usage = runner.state.usage(id);
            let mut report = json!({
                "operatorName": definition.name,
                "numRowsTotal": usage.rows,
                "numRowsUpdated": counters.updated,
                "numRowsRemoved": counters.removed,
                "memoryUsedBytes": usage.memory,
                "numRowsDroppedByWatermark": counters.late,
                "numShufflePartitions": runner.state.partitions(),
                "numStateStoreInstances": runner.state.partitions(),
                "customMetrics": {
                    "numDroppedDuplicateRows": counters.duplicates,
                    "localDiskBytes": usage.disk,
                },
            });
            if definition.details.get("forgotten").is_some_and(|when| when == "never") {
                report["customMetrics"]["stateGrows"] = true.into();
            }
            report
        })
        .collect()
}

/// Reads the counters that every sink puts into what it prepares: `numRows`, and the numbers in
/// `metrics` if there are any.
fn sink_progress(description: String, prepared: &Value) -> SinkProgress {
    let metrics = prepared.get("metrics").and_then(Value::as_object);
    SinkProgress {
        description,
        num_output_rows: prepared.get("numRows").and_then(Value::as_i64).unwrap_or(-1),
        metrics: metrics
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.to_string()))
            .collect(),
    }
}
