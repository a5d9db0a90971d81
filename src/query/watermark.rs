//! How far the event time has come.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::watermark_groups::Groups;
use crate::checkpoint::records::{StreamTime, later};
use crate::error::{Error, Result};
use crate::exec::event_time::EventTimeSummary;

/// Which of several watermarks counts (Spark's `multipleWatermarkPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum WatermarkPolicy {
    /// The one that is furthest behind: no row of any stream is dropped because another is ahead.
    #[default]
    Min,
    /// The one that is furthest ahead.
    Max,
}

impl fmt::Display for WatermarkPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WatermarkPolicy::Min => "min",
            WatermarkPolicy::Max => "max",
        })
    }
}

impl FromStr for WatermarkPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "min" => Ok(WatermarkPolicy::Min),
            "max" => Ok(WatermarkPolicy::Max),
            _ => Err(Error::option("multipleWatermarkPolicy", text, "expected min or max")),
        }
    }
}

/// How long a part of a stream that has been read to its end is waited for, if nothing else is said: rows that come
/// later than that may be late, but a part that gets none any more does not hold the others back.
pub(crate) const GROUP_IDLE_MS: i64 = 10_000;

/// What a batch has seen of the event time of a stream.
#[derive(Debug, Default)]
pub(crate) struct SeenTimes {
    pub(crate) all: EventTimeSummary,
    /// The newest of each of its groups, in milliseconds.
    pub(crate) groups_ms: BTreeMap<String, i64>,
    /// The groups that had more rows than the batch.
    pub(crate) behind: Vec<String>,
}

/// The watermarks of a run. No I/O and no clock here: a trigger says what time it is.
#[derive(Debug)]
pub(crate) struct WatermarkTracker {
    policy: WatermarkPolicy,
    /// By index in the plan.
    streams: Vec<Stream>,
    /// In milliseconds since the epoch; 0 as long as there is none. Never decreases.
    global_ms: i64,
    /// After how long without rows a watermark of the plan is left out of the minimum.
    idle_after_ms: Option<i64>,
    /// After how long without rows a group of a stream is not waited for.
    group_idle_ms: i64,
    /// When the trigger began, on a clock that nobody sets.
    now_ms: i64,
}

#[derive(Debug)]
struct Stream {
    column: String,
    delay_ms: i64,
    /// The largest event time; `None` before the first row.
    newest_ms: Option<i64>,
    /// When there was last a row, or the first run began. Times when no run looked do not count.
    last_row_ms: i64,
    groups: Groups,
}

impl Stream {
    fn watermark_ms(&self) -> Option<i64> {
        let newest_ms = self.groups.furthest_back().unwrap_or(self.newest_ms);
        newest_ms.map(|newest_ms| newest_ms.saturating_sub(self.delay_ms))
    }
}

impl WatermarkTracker {
    /// At the beginning of a query: of each watermark its column and delay in milliseconds.
    pub(crate) fn new<'a>(
        policy: WatermarkPolicy,
        idle_after_ms: Option<i64>,
        delays: impl IntoIterator<Item = (&'a str, i64)>,
    ) -> Self {
        let stream = |(column, delay_ms): (&str, i64)| Stream {
            column: column.to_string(),
            delay_ms,
            newest_ms: None,
            last_row_ms: 0,
            groups: Groups::default(),
        };
        let streams = delays.into_iter().map(stream).collect();
        let group_idle_ms = idle_after_ms.unwrap_or(GROUP_IDLE_MS);
        Self { policy, streams, global_ms: 0, idle_after_ms, group_idle_ms, now_ms: 0 }
    }

    /// In a run that ends, what has been read to its end gets no more rows.
    pub(crate) fn wait_for_no_group(&mut self) {
        self.group_idle_ms = 0;
    }

    /// Goes on from what the checkpoint says, at the time `now`. A stream that is new in the query
    /// begins anew.
    pub(crate) fn resume(&mut self, global_ms: i64, recorded: &[StreamTime], now: Duration) {
        self.global_ms = global_ms;
        self.set_now(now);
        for (index, stream) in self.streams.iter_mut().enumerate() {
            stream.last_row_ms = self.now_ms;
            if let Some(known) = recorded.get(index).filter(|known| known.column == stream.column) {
                stream.newest_ms = known.newest_ms;
                stream.last_row_ms = self.now_ms.saturating_sub(known.idle_ms);
                stream.groups = Groups::resume(&known.groups, self.now_ms);
            }
        }
    }

    /// What a later run has to know, beside [`WatermarkTracker::global_ms`].
    pub(crate) fn record(&self) -> Vec<StreamTime> {
        let is_timed = self.idle_after_ms.is_some();
        let record = |stream: &Stream| StreamTime {
            column: stream.column.clone(),
            newest_ms: stream.newest_ms,
            idle_ms: if is_timed { self.idle_ms(stream) } else { 0 },
            groups: stream.groups.record(self.now_ms),
        };
        self.streams.iter().map(record).collect()
    }

    /// The watermark that the next batch uses, in milliseconds since the epoch; 0 if there is none.
    pub(crate) fn global_ms(&self) -> i64 {
        self.global_ms
    }

    /// Says when a trigger begins; idle times are measured by it.
    pub(crate) fn set_now(&mut self, now: Duration) {
        self.now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX).max(self.now_ms);
    }

    /// Takes in what a batch has seen.
    pub(crate) fn advance(&mut self, seen: &[SeenTimes]) {
        for (stream, seen) in self.streams.iter_mut().zip(seen) {
            if let Some(max_ms) = seen.all.max_ms() {
                stream.newest_ms = stream.newest_ms.max(Some(max_ms));
                stream.last_row_ms = self.now_ms;
            }
            stream.groups.note_behind(&seen.behind, self.now_ms);
            stream.groups.advance(&seen.groups_ms, self.now_ms);
        }
        self.leave_groups_behind();
        self.global_ms = later(self.global_ms, self.combined());
    }

    /// Takes in, without a batch, which groups of each stream have rows that no batch has had.
    pub(crate) fn note_behind<'a>(&mut self, behind: impl IntoIterator<Item = &'a [String]>) {
        for (stream, behind) in self.streams.iter_mut().zip(behind) {
            stream.groups.note_behind(behind, self.now_ms);
        }
    }

    /// Lets streams, and groups of them, that have become idle hold nothing back any more.
    pub(crate) fn leave_idle_behind(&mut self) {
        if self.leave_groups_behind() || self.idle_after_ms.is_some() {
            self.global_ms = later(self.global_ms, self.combined());
        }
    }

    /// Whether a group is not waited for any more.
    fn leave_groups_behind(&mut self) -> bool {
        let mut left = false;
        for stream in &mut self.streams {
            left |= stream.groups.leave_idle_behind(self.group_idle_ms, self.now_ms);
        }
        left
    }

    /// In how long the next stream becomes idle, seen from the beginning of the trigger.
    pub(crate) fn until_idle(&self) -> Option<Duration> {
        let idle = self.idle_after_ms.into_iter().flat_map(|idle_after_ms| {
            self.streams.iter().map(move |stream| idle_after_ms.saturating_sub(self.idle_ms(stream)))
        });
        let groups = self.streams.iter();
        let groups = groups.filter_map(|stream| stream.groups.until_idle_ms(self.group_idle_ms, self.now_ms));
        let next_ms = idle.chain(groups).filter(|left_ms| *left_ms > 0).min()?;
        Some(Duration::from_millis(next_ms.unsigned_abs()))
    }

    /// Lets everything up to `upto_ms` be final.
    pub(crate) fn flush(&mut self, upto_ms: i64) {
        // 1970 itself would be none.
        self.global_ms = later(self.global_ms, if upto_ms == 0 { 1 } else { upto_ms });
    }

    fn idle_ms(&self, stream: &Stream) -> i64 {
        self.now_ms.saturating_sub(stream.last_row_ms)
    }

    fn combined(&self) -> i64 {
        let is_idle = |stream: &Stream| self.idle_after_ms.is_some_and(|idle| self.idle_ms(stream) >= idle);
        // A stream without rows has watermark 0, and none has one before 1970, as in Spark.
        let watermarks = |with_idle: bool| {
            let counting = self.streams.iter().filter(move |stream| with_idle || !is_idle(stream));
            counting.map(|stream| stream.watermark_ms().unwrap_or(0))
        };
        match self.policy {
            WatermarkPolicy::Max => watermarks(true).max(),
            // When all are idle, nobody is left to wait for.
            WatermarkPolicy::Min => {
                watermarks(false).min().or_else(|| self.streams.iter().filter_map(Stream::watermark_ms).max())
            }
        }
        .unwrap_or(0)
        .max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(max_ms: Option<i64>) -> SeenTimes {
        let all =
            max_ms.map(|ms| EventTimeSummary { count: 1, min: ms * 1000, max: ms * 1000 + 999, sum: 0 });
        SeenTimes { all: all.unwrap_or_default(), ..SeenTimes::default() }
    }

    /// The newest times of groups in a batch, and which of them have more.
    fn seen_of(groups_ms: &[(&str, i64)], behind: &[&str]) -> SeenTimes {
        let newest_ms = groups_ms.iter().map(|(_, ms)| *ms).max();
        SeenTimes {
            groups_ms: groups_ms.iter().map(|(name, ms)| (name.to_string(), *ms)).collect(),
            behind: behind.iter().map(|name| name.to_string()).collect(),
            ..seen(newest_ms)
        }
    }

    /// A tracker of streams with these delays.
    fn tracker(policy: WatermarkPolicy, idle_after_ms: Option<i64>, delays_ms: &[i64]) -> WatermarkTracker {
        WatermarkTracker::new(policy, idle_after_ms, delays_ms.iter().map(|delay_ms| ("ts", *delay_ms)))
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn it_is_the_largest_time_less_the_delay_and_never_decreases() {
        let mut tracker = tracker(WatermarkPolicy::Min, None, &[10]);
        for (max_ms, expected) in [(None, 0), (Some(5), 0), (Some(30), 20), (Some(25), 20), (None, 20)] {
            tracker.advance(&[seen(max_ms)]);
            assert_eq!(tracker.global_ms(), expected, "{max_ms:?}");
        }
    }

    #[test]
    fn at_the_end_times_before_1970_are_final_too() {
        let mut alone = tracker(WatermarkPolicy::Min, None, &[10]);
        alone.advance(&[seen(Some(-90))]);
        assert_eq!(alone.global_ms(), 0);
        for (upto_ms, expected) in [(-50, -50), (-70, -50), (0, 1), (7, 7)] {
            alone.flush(upto_ms);
            assert_eq!(alone.global_ms(), expected);
        }
        alone.advance(&[seen(Some(5))]);
        assert_eq!(alone.global_ms(), 7);
    }

    #[test]
    fn of_several_the_policy_chooses() {
        let run = |policy| {
            let mut tracker = tracker(policy, None, &[0, 0]);
            tracker.advance(&[seen(Some(100)), seen(None)]);
            let first = tracker.global_ms();
            tracker.advance(&[seen(Some(200)), seen(Some(50))]);
            (first, tracker.global_ms())
        };
        assert_eq!(run(WatermarkPolicy::Min), (0, 50));
        assert_eq!(run(WatermarkPolicy::Max), (100, 200));
    }

    #[test]
    fn an_idle_stream_holds_nothing_back() {
        let mut tracker = tracker(WatermarkPolicy::Min, Some(1000), &[0, 0]);
        tracker.set_now(at(500));
        tracker.advance(&[seen(Some(100)), seen(Some(50))]);
        assert_eq!(tracker.global_ms(), 50);
        tracker.set_now(at(1400));
        tracker.advance(&[seen(Some(200)), seen(None)]);
        assert_eq!(tracker.global_ms(), 50);
        for (now, expected) in [(1499, 50), (1500, 200)] {
            tracker.set_now(at(now));
            tracker.leave_idle_behind();
            assert_eq!(tracker.global_ms(), expected);
        }
        // When it wakes up its old rows are late.
        tracker.set_now(at(1600));
        tracker.advance(&[seen(None), seen(Some(60))]);
        assert_eq!(tracker.global_ms(), 200);
    }

    #[test]
    fn a_group_that_is_behind_is_waited_for_and_one_that_has_dried_up_is_not() {
        let mut tracker = tracker(WatermarkPolicy::Min, None, &[10]);
        tracker.advance(&[seen_of(&[("a", 100), ("b", 50)], &["c"])]);
        assert_eq!(tracker.global_ms(), 0, "of c nothing is known yet");
        tracker.advance(&[seen_of(&[("a", 200), ("c", 70)], &["c"])]);
        assert_eq!(tracker.global_ms(), 40);
        assert_eq!(tracker.until_idle(), Some(at(10_000)));
        // However long it takes to read.
        tracker.set_now(at(9_999));
        tracker.advance(&[seen_of(&[("a", 300), ("c", 80)], &["c"])]);
        assert_eq!((tracker.global_ms(), tracker.until_idle()), (40, Some(at(1))));
        tracker.set_now(at(10_000));
        tracker.leave_idle_behind();
        assert_eq!(tracker.global_ms(), 70, "b is not waited for");
        tracker.set_now(at(19_000));
        tracker.advance(&[seen_of(&[("c", 90)], &[])]);
        assert_eq!(tracker.global_ms(), 80);
        // It goes on where it is now, or where the others are.
        tracker.advance(&[seen_of(&[("b", 95)], &[])]);
        assert_eq!(tracker.global_ms(), 80);
        tracker.set_now(at(40_000));
        tracker.leave_idle_behind();
        assert_eq!((tracker.global_ms(), tracker.until_idle()), (290, None), "nobody is left to wait for");
    }

    #[test]
    fn a_run_that_ends_waits_for_what_is_there_and_for_nothing_else() {
        let mut tracker = tracker(WatermarkPolicy::Min, Some(60_000), &[0]);
        tracker.wait_for_no_group();
        tracker.advance(&[seen_of(&[("a", 100), ("b", 50)], &["b"])]);
        assert_eq!(tracker.global_ms(), 50);
        assert!(tracker.record()[0].groups.keys().eq(["b"]), "{:?}", tracker.record());
        tracker.advance(&[seen_of(&[("b", 70)], &[])]);
        assert_eq!(tracker.global_ms(), 100);
        assert!(tracker.record()[0].groups.is_empty());
    }

    #[test]
    fn rows_that_are_known_to_be_there_are_waited_for_without_a_batch() {
        let mut tracker = tracker(WatermarkPolicy::Min, None, &[0]);
        tracker.advance(&[seen_of(&[("a", 100), ("b", 50)], &[])]);
        tracker.set_now(at(11_000));
        tracker.note_behind([["b".to_string()].as_slice()]);
        tracker.leave_idle_behind();
        assert_eq!(tracker.global_ms(), 50);
    }

    /// Whatever was seen, and wherever a restart comes, all that follows is as without it.
    #[test]
    fn a_restart_changes_nothing() {
        let times = [None, Some(5), Some(90), Some(40), None, None, None, Some(300)];
        for policy in [WatermarkPolicy::Min, WatermarkPolicy::Max] {
            for idle_after_ms in [None, Some(250)] {
                let run = |restart: Option<usize>| {
                    let mut kept = tracker(policy, idle_after_ms, &[0, 10]);
                    let mut now = 0;
                    let mut watermarks = Vec::new();
                    for step in 0..times.len() {
                        if restart == Some(step) {
                            // The clock of another process begins somewhere else.
                            now += 123_456;
                            let (global_ms, recorded) = (kept.global_ms(), kept.record());
                            kept = tracker(policy, idle_after_ms, &[0, 10]);
                            kept.resume(global_ms, &recorded, at(now));
                        }
                        now += 100;
                        kept.set_now(at(now));
                        kept.leave_idle_behind();
                        let other = times[times.len() - 1 - step];
                        let groups: Vec<_> =
                            other.map(|ms| (["a", "b", "c"][step % 3], ms)).into_iter().collect();
                        let behind: &[&str] = if step % 2 == 0 { &["b"] } else { &[] };
                        kept.advance(&[seen(times[step]), seen_of(&groups, behind)]);
                        watermarks.push(kept.global_ms());
                    }
                    watermarks
                };
                let undisturbed = run(None);
                assert!(undisturbed.last() > Some(&0));
                for step in 0..times.len() {
                    assert_eq!(run(Some(step)), undisturbed, "{policy} {idle_after_ms:?} {step}");
                }
            }
        }
    }

    #[test]
    fn a_stream_that_is_another_one_now_begins_anew() {
        let mut tracker = tracker(WatermarkPolicy::Min, None, &[0, 0]);
        let known = |column: &str, ms| StreamTime {
            column: column.into(),
            newest_ms: Some(ms),
            idle_ms: 0,
            groups: BTreeMap::new(),
        };
        tracker.resume(70, &[known("ts", 100), known("other", 200)], at(0));
        tracker.advance(&[seen(None), seen(Some(60))]);
        assert_eq!(tracker.global_ms(), 70);
        tracker.advance(&[seen(None), seen(Some(150))]);
        assert_eq!(tracker.global_ms(), 100);
    }

    #[test]
    fn records_of_builds_that_did_not_keep_streams_are_read() {
        let mut tracker = tracker(WatermarkPolicy::Min, None, &[0, 0]);
        tracker.resume(70, &[], at(0));
        tracker.advance(&[seen(Some(100)), seen(None)]);
        assert_eq!(tracker.global_ms(), 70);
    }

    #[test]
    fn times_at_the_ends_of_time_do_not_wrap() {
        let mut tracker = tracker(WatermarkPolicy::Min, Some(1), &[i64::MAX]);
        let summary = |micros| SeenTimes {
            all: EventTimeSummary { count: 1, min: micros, max: micros, sum: 0 },
            ..SeenTimes::default()
        };
        tracker.advance(&[summary(i64::MIN)]);
        assert_eq!(tracker.global_ms(), 0);
        tracker.advance(&[summary(i64::MAX)]);
        assert_eq!(tracker.global_ms(), 0);
        let groups = BTreeMap::new();
        let recorded = [StreamTime { column: "ts".into(), newest_ms: Some(0), idle_ms: i64::MAX, groups }];
        tracker.resume(5, &recorded, Duration::MAX);
        assert_eq!((tracker.global_ms(), tracker.record()[0].idle_ms), (5, i64::MAX));
    }
}
