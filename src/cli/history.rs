//! What the queries have done since the command was started: sums for metrics, and points of the last hour for
//! charts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tidemill::{QueryStarted, QueryTerminated, RunTotals, StreamingQueryListener, StreamingQueryProgress};
use tokio::sync::watch;

/// The phases of a batch, as progress names them, in their order.
pub(super) const PHASES: [&str; 6] =
    ["latestOffset", "walCommit", "queryPlanning", "addBatch", "commitOffsets", "publish"];

/// The upper bounds of the buckets that durations of batches are counted in, in milliseconds.
pub(super) const DURATION_BOUNDS: [u64; 14] =
    [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 60_000];

/// A length of time that charts show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// The last five minutes, second by second.
    Live,
    /// The last hour, in steps of ten seconds.
    Hour,
}

impl Range {
    /// Seconds between two points.
    const fn step(self) -> u64 {
        match self {
            Range::Live => 1,
            Range::Hour => 10,
        }
    }

    const fn points(self) -> u64 {
        match self {
            Range::Live => 300,
            Range::Hour => 360,
        }
    }
}

/// Listens to all queries of a session.
#[derive(Debug, Default)]
pub(super) struct Histories {
    queries: Mutex<BTreeMap<String, History>>,
    /// How many batches and runs have ended, for those who wait for more.
    progress: watch::Sender<u64>,
}

/// What a query has done, all its runs in this process together.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    pub(super) runs: u64,
    pub(super) failures: u64,
    pub(super) totals: RunTotals,
    /// Milliseconds in each phase.
    pub(super) phases_ms: [u64; PHASES.len()],
    pub(super) duration_ms: u64,
    /// How many batches took at most as long as each of [`DURATION_BOUNDS`], and longer than the one before.
    pub(super) durations: [u64; DURATION_BOUNDS.len()],
    /// The report of the last batch.
    pub(super) last: Option<Arc<StreamingQueryProgress>>,
    /// When the last batch was done, in milliseconds since the epoch.
    pub(super) last_ms: u64,
    pub(super) state_bytes: u64,
    pub(super) state_disk_bytes: u64,
    /// How far the watermark was behind the clock after the last batch.
    pub(super) lag_ms: Option<i64>,
    live: Points,
    hour: Points,
}

/// What was done in one step of a chart.
#[derive(Debug, Clone, Default)]
struct Point {
    /// Its number: seconds since the epoch by those of a step.
    number: u64,
    batches: u64,
    rows: u64,
    late_rows: u64,
    duration_ms: u64,
    phases_ms: [u64; PHASES.len()],
    state_rows: u64,
    state_bytes: u64,
    lag_ms: Option<i64>,
}

/// Oldest first; steps in which nothing was done are left out.
type Points = VecDeque<Point>;

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// ISO 8601 as progress has it, in milliseconds since the epoch.
fn milliseconds(time: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(time).ok().map(|time| time.timestamp_millis())
}

impl History {
    /// Counts starts of a run after it had failed, which nobody is told of as the end of a run.
    pub(super) fn add_restarts(&mut self, count: u64) {
        self.runs += count;
        self.failures += count;
    }
}

impl Histories {
    /// Counts those of a run that has ended.
    pub(super) fn add_restarts(&self, name: &str, count: u64) {
        self.queries().entry(name.to_string()).or_default().add_restarts(count);
    }

    /// What is known of each query, by name.
    pub(super) fn all(&self) -> BTreeMap<String, History> {
        self.queries().clone()
    }

    /// What is known of the query `name`.
    pub(super) fn get(&self, name: &str) -> History {
        self.queries().get(name).cloned().unwrap_or_default()
    }

    /// Changes whenever a batch is done or a run has ended.
    pub(super) fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Does `read` with what is known of the query `name`.
    pub(super) fn read<T>(&self, name: &str, read: impl FnOnce(&History) -> T) -> T {
        read(self.queries().get(name).unwrap_or(&History::default()))
    }

    fn queries(&self) -> MutexGuard<'_, BTreeMap<String, History>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, name: Option<&String>, change: impl FnOnce(&mut History)) {
        // Those without a name are looked at by whoever started them.
        if let Some(name) = name {
            change(self.queries().entry(name.clone()).or_default());
        }
    }
}

impl StreamingQueryListener for Histories {
    fn on_query_started(&self, event: &QueryStarted) {
        self.change(event.name.as_ref(), |history| history.runs += 1);
    }

    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        self.change(progress.name.as_ref(), |history| history.add(progress, now_ms()));
        self.progress.send_modify(|count| *count += 1);
    }

    fn on_query_terminated(&self, event: &QueryTerminated) {
        if let Some(exception) = &event.exception {
            self.change(exception.name.as_ref(), |history| history.failures += 1);
        }
        self.progress.send_modify(|count| *count += 1);
    }
}

impl History {
    fn add(&mut self, progress: &StreamingQueryProgress, now_ms: u64) {
        self.totals.add(progress);
        let mut batch = RunTotals::default();
        batch.add(progress);
        let sum = |field: &dyn Fn(&Value) -> Option<u64>| -> u64 {
            progress.state_operators.iter().filter_map(field).sum()
        };
        self.state_bytes = sum(&|operator| operator["memoryUsedBytes"].as_u64());
        self.state_disk_bytes = sum(&|operator| operator["customMetrics"]["localDiskBytes"].as_u64());
        let watermark = progress.event_time.get("watermark").and_then(|time| milliseconds(time));
        // The epoch stands for none.
        let watermark = watermark.filter(|time| *time != 0);
        self.lag_ms = watermark.map(|time| i64::try_from(now_ms).unwrap_or(i64::MAX).saturating_sub(time));
        let phases_ms = PHASES.map(|phase| progress.duration_ms.get(phase).copied().unwrap_or_default());
        self.phases_ms.iter_mut().zip(phases_ms).for_each(|(sum, took)| *sum += took);
        self.duration_ms += progress.batch_duration;
        if let Some(bucket) = DURATION_BOUNDS.iter().position(|bound| progress.batch_duration <= *bound) {
            self.durations[bucket] += 1;
        }
        let point = Point {
            number: 0,
            batches: 1,
            rows: progress.num_input_rows,
            late_rows: batch.left_out.late_rows,
            duration_ms: progress.batch_duration,
            phases_ms,
            state_rows: batch.state_rows,
            state_bytes: self.state_bytes,
            lag_ms: self.lag_ms,
        };
        push(&mut self.live, Range::Live, &point, now_ms);
        push(&mut self.hour, Range::Hour, &point, now_ms);
        self.last = Some(Arc::new(progress.clone()));
        self.last_ms = now_ms;
    }

    /// How many rows per second came in the last ten seconds.
    pub(super) fn input_rate(&self, now_ms: u64) -> f64 {
        const SECONDS: u64 = 10;
        let now = now_ms / 1000;
        let recent = self.live.iter().rev().take_while(|point| point.number + SECONDS > now);
        recent.map(|point| point.rows).sum::<u64>() as f64 / SECONDS as f64
    }

    /// The points of a chart as columns, up to `now_ms`; a point in which nothing was done has rates of 0 and no
    /// durations.
    pub(super) fn chart(&self, range: Range, now_ms: u64) -> Value {
        let points = match range {
            Range::Live => &self.live,
            Range::Hour => &self.hour,
        };
        let last = now_ms / 1000 / range.step();
        let first = last.saturating_sub(range.points() - 1);
        let nothing = Point::default();
        // What was there before the first step goes on in it.
        let mut known = points.iter().rev().find(|point| point.number < first);
        let mut next = points.iter().filter(|point| point.number >= first).peekable();
        let mut columns: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for number in first..=last {
            let point = next.next_if(|point| point.number == number);
            known = point.or(known);
            let point = point.unwrap_or(&nothing);
            let per_second = |count: u64| count as f64 / range.step() as f64;
            let per_batch = |sum: u64| (point.batches > 0).then(|| sum as f64 / point.batches as f64);
            // Rows by the time that their batches took.
            let processed =
                (point.rows > 0).then(|| point.rows as f64 * 1000.0 / point.duration_ms.max(1) as f64);
            let mut add = |column, value: Value| columns.entry(column).or_default().push(value);
            add("time", (number * range.step()).into());
            add("inputRowsPerSecond", per_second(point.rows).into());
            add("processedRowsPerSecond", json!(processed));
            add("lateRows", point.late_rows.into());
            for (phase, took) in PHASES.iter().zip(point.phases_ms) {
                add(phase, json!(per_batch(took)));
            }
            let phases: u64 = point.phases_ms.iter().sum();
            add("other", json!(per_batch(point.duration_ms.saturating_sub(phases))));
            add("watermarkLagMs", json!(known.and_then(|point| point.lag_ms)));
            add("stateRows", json!(known.map(|point| point.state_rows)));
            add("stateBytes", json!(known.map(|point| point.state_bytes)));
        }
        json!(columns)
    }
}

/// Adds what a batch did to the step that it falls in.
fn push(points: &mut Points, range: Range, batch: &Point, now_ms: u64) {
    let number = now_ms / 1000 / range.step();
    match points.back_mut() {
        // A clock that was set back goes on in the last step.
        Some(last) if last.number >= number => {
            last.batches += batch.batches;
            last.rows += batch.rows;
            last.late_rows += batch.late_rows;
            last.duration_ms += batch.duration_ms;
            last.phases_ms.iter_mut().zip(batch.phases_ms).for_each(|(sum, took)| *sum += took);
            (last.state_rows, last.state_bytes) = (batch.state_rows, batch.state_bytes);
            last.lag_ms = batch.lag_ms;
        }
        _ => points.push_back(Point { number, ..batch.clone() }),
    }
    // One more than is shown: what was before the first step goes on in it.
    while points.len() > 1 && points[1].number + range.points() <= number {
        points.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(rows: u64, duration_ms: u64) -> Point {
        let phases_ms = [1, 0, 0, duration_ms - 1, 0, 0];
        Point { batches: 1, rows, duration_ms, phases_ms, state_rows: rows, ..Point::default() }
    }

    #[test]
    fn points_are_sums_of_what_was_done_in_a_step_and_only_those_of_the_range_are_kept() {
        let mut history = History::default();
        for (second, rows) in [(1000, 5), (1000, 7), (1002, 1)] {
            push(&mut history.live, Range::Live, &batch(rows, 10), second * 1000);
        }
        let chart = history.chart(Range::Live, 1_003_000);
        let last = |column: &str| chart[column].as_array().unwrap()[296..].to_vec();
        assert_eq!(chart["time"].as_array().unwrap().len(), 300);
        assert_eq!(last("time"), [1000, 1001, 1002, 1003]);
        assert_eq!(last("inputRowsPerSecond"), [12.0, 0.0, 1.0, 0.0]);
        assert_eq!(last("addBatch"), [json!(9.0), json!(null), json!(9.0), json!(null)]);
        // State stays what it is while nothing is done.
        assert_eq!(last("stateRows"), [7, 7, 1, 1]);
        assert_eq!(history.input_rate(1_003_000), 1.3);

        push(&mut history.live, Range::Live, &batch(1, 10), 1_400_000);
        assert_eq!(history.live.len(), 2, "the last one before the range, and the new one");
        let chart = history.chart(Range::Live, 1_400_000);
        assert_eq!(chart["stateRows"][0], 1);
        assert_eq!(chart["inputRowsPerSecond"][0], 0.0);
    }
}
