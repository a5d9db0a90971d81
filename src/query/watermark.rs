//! How far the event time has come.

use std::fmt;
use std::str::FromStr;

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

/// The watermarks of a run. No I/O and no clock here.
#[derive(Debug)]
pub(crate) struct WatermarkTracker {
    policy: WatermarkPolicy,
    /// By index in the plan.
    nodes: Vec<Node>,
    /// In milliseconds since the epoch; 0 as long as there is none. Never decreases.
    global_ms: i64,
    /// After how long without rows a watermark of the plan is left out of the minimum.
    idle_after_ms: Option<i64>,
}

#[derive(Debug)]
struct Node {
    delay_ms: i64,
    /// The largest event time less the delay; `None` before the first row of this run.
    watermark_ms: Option<i64>,
    /// When there was last a row, or the run began.
    last_row_ms: i64,
}

impl WatermarkTracker {
    /// At the beginning of a run: `global_ms` is what the checkpoint says. Those of the single
    /// streams begin anew (Spark's rule).
    pub(crate) fn new(
        policy: WatermarkPolicy,
        delays_ms: &[i64],
        global_ms: i64,
        idle_after_ms: Option<i64>,
        now_ms: i64,
    ) -> Self {
        let node = |delay_ms: &i64| Node { delay_ms: *delay_ms, watermark_ms: None, last_row_ms: now_ms };
        Self { policy, nodes: delays_ms.iter().map(node).collect(), global_ms, idle_after_ms }
    }

    /// The watermark that the next batch uses, in milliseconds since the epoch; 0 if there is none.
    pub(crate) fn global_ms(&self) -> i64 {
        self.global_ms
    }

    /// Takes in what a batch has seen; `batch_ms` is the batch's time.
    pub(crate) fn advance(&mut self, seen: &[EventTimeSummary], batch_ms: i64) {
        for (node, seen) in self.nodes.iter_mut().zip(seen) {
            if let Some(max_ms) = seen.max_ms() {
                node.watermark_ms = node.watermark_ms.max(Some(max_ms.saturating_sub(node.delay_ms)));
                node.last_row_ms = node.last_row_ms.max(batch_ms);
            }
        }
        self.global_ms = self.global_ms.max(self.combined(batch_ms));
    }

    /// Whether streams that have become idle by `now_ms` let the watermark advance, which it then has.
    pub(crate) fn leave_idle_behind(&mut self, now_ms: i64) -> bool {
        let combined = self.combined(now_ms);
        let advances = self.idle_after_ms.is_some() && combined > self.global_ms;
        if advances {
            self.global_ms = combined;
        }
        advances
    }

    /// Lets everything up to `upto_ms` be final.
    pub(crate) fn flush(&mut self, upto_ms: i64) {
        self.global_ms = self.global_ms.max(upto_ms);
    }

    fn combined(&self, now_ms: i64) -> i64 {
        let is_idle = |node: &Node| {
            self.idle_after_ms.is_some_and(|idle| now_ms.saturating_sub(node.last_row_ms) >= idle)
        };
        // A stream without rows has watermark 0, as in Spark.
        let watermarks = |with_idle: bool| {
            let counting = self.nodes.iter().filter(move |node| with_idle || !is_idle(node));
            counting.map(|node| node.watermark_ms.unwrap_or(0))
        };
        match self.policy {
            WatermarkPolicy::Max => watermarks(true).max(),
            // When all are idle, nobody is left to wait for.
            WatermarkPolicy::Min => watermarks(false)
                .min()
                .or_else(|| self.nodes.iter().filter_map(|node| node.watermark_ms).max()),
        }
        .unwrap_or(0)
        .max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(max_ms: Option<i64>) -> EventTimeSummary {
        match max_ms {
            None => EventTimeSummary::default(),
            Some(ms) => EventTimeSummary { count: 1, min: ms * 1000, max: ms * 1000 + 999, sum: 0 },
        }
    }

    #[test]
    fn it_is_the_largest_time_less_the_delay_and_never_decreases() {
        let mut tracker = WatermarkTracker::new(WatermarkPolicy::Min, &[10], 0, None, 0);
        for (max_ms, expected) in [(None, 0), (Some(5), 0), (Some(30), 20), (Some(25), 20), (None, 20)] {
            tracker.advance(&[seen(max_ms)], 0);
            assert_eq!(tracker.global_ms(), expected, "{max_ms:?}");
        }
    }

    #[test]
    fn of_several_the_policy_chooses() {
        let run = |policy| {
            let mut tracker = WatermarkTracker::new(policy, &[0, 0], 0, None, 0);
            tracker.advance(&[seen(Some(100)), seen(None)], 0);
            let first = tracker.global_ms();
            tracker.advance(&[seen(Some(200)), seen(Some(50))], 0);
            (first, tracker.global_ms())
        };
        assert_eq!(run(WatermarkPolicy::Min), (0, 50));
        assert_eq!(run(WatermarkPolicy::Max), (100, 200));
    }

    #[test]
    fn an_idle_stream_holds_nothing_back() {
        let mut tracker = WatermarkTracker::new(WatermarkPolicy::Min, &[0, 0], 0, Some(1000), 0);
        tracker.advance(&[seen(Some(100)), seen(Some(50))], 500);
        assert_eq!(tracker.global_ms(), 50);
        tracker.advance(&[seen(Some(200)), seen(None)], 1400);
        assert_eq!(tracker.global_ms(), 50);
        assert!(!tracker.leave_idle_behind(1499));
        assert!(tracker.leave_idle_behind(1500));
        assert_eq!(tracker.global_ms(), 200);
        // When it wakes up its old rows are late.
        tracker.advance(&[seen(None), seen(Some(60))], 1600);
        assert_eq!(tracker.global_ms(), 200);
    }

    #[test]
    fn a_restart_goes_on_from_the_recorded_one() {
        let mut tracker = WatermarkTracker::new(WatermarkPolicy::Min, &[0, 0], 70, None, 0);
        tracker.advance(&[seen(Some(100)), seen(None)], 0);
        assert_eq!(tracker.global_ms(), 70);
    }
}
