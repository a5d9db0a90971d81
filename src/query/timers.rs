//! When a query has something to do although no rows have come: timers that go by the time of the batches.

use std::time::Duration;

use crate::exec::stateful::Expires;
use crate::plan::StreamingPlan;
use crate::state::StateStore;

/// How much earlier than the truth a table may say that its first row expires, in microseconds.
const COARSE: i64 = 1_000_000;

/// Microseconds per millisecond.
const MICROS: i64 = 1000;

/// The timers of a query's operators.
#[derive(Debug)]
pub(crate) struct Timers {
    /// The operators whose rows are timers.
    waking: Vec<usize>,
    /// Whether anything is forgotten by the time of the batches.
    keeps_time: bool,
    /// When the first row was said to expire as the last batch began, if that was due. What is said of it after the
    /// batch is not true: a table may say so although there is none.
    in_vain: Option<i64>,
    /// Whether the last batch had no rows.
    was_empty: bool,
}

impl Timers {
    pub(crate) fn of(plan: &StreamingPlan) -> Self {
        let waking = plan.expiring(|expires| expires == Expires::WakingByBatchTime);
        let keeps_time = !plan.expiring(Expires::is_by_batch_time).is_empty();
        Self { waking, keeps_time, in_vain: None, was_empty: false }
    }

    /// Whether anything is forgotten by the time of the batches.
    pub(crate) fn keep_time(&self) -> bool {
        self.keeps_time
    }

    /// Whether any is due at this time. A run that `ends` gives them one batch, for while it lasts others may have
    /// become due.
    pub(crate) fn are_due(&self, now_ms: i64, ends: bool, state: &StateStore) -> bool {
        !(ends && self.was_empty) && self.due(state).is_some_and(|due| due <= now_ms.saturating_mul(MICROS))
    }

    /// In how long the next one is due.
    pub(crate) fn until_due(&self, now_ms: i64, state: &StateStore) -> Option<Duration> {
        let left = self.due(state)?.saturating_sub(now_ms.saturating_mul(MICROS)).max(0);
        // Whole milliseconds, and no earlier.
        Some(Duration::from_millis((left as u64).div_ceil(MICROS as u64)))
    }

    /// Notes that a batch of this time begins, which has all that are due expire.
    pub(crate) fn note_batch(&mut self, now_ms: i64, has_rows: bool, state: &StateStore) {
        self.was_empty = !has_rows;
        let is_due = |first: &i64| *first <= now_ms.saturating_mul(MICROS);
        self.in_vain = state.next_expiry(&self.waking).filter(is_due);
    }

    /// When the next one is due, in microseconds.
    fn due(&self, state: &StateStore) -> Option<i64> {
        let first = state.next_expiry(&self.waking)?;
        let is_coarse = self.in_vain == Some(first);
        Some(if is_coarse { first.saturating_add(COARSE) } else { first })
    }
}
