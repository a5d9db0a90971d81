//! Event time in one batch: what is late, what is final, and what was seen.

/// Microseconds per millisecond: event times are counted in microseconds, watermarks in
/// milliseconds as Spark records them.
const MICROS: i64 = 1000;

/// The two watermarks of a batch (Spark's SPARK-40925).
///
/// Rows are late by the watermark of the batch before, so that what a batch makes final can still be
/// added to by rows of that same batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Watermarks {
    /// In milliseconds since the epoch; 0 if nothing can be late yet.
    pub(crate) late_ms: i64,
    /// In milliseconds since the epoch; 0 if nothing is final yet.
    pub(crate) final_ms: i64,
    /// Whether what has no time, and so waits for none, is final: at the end of a run with `flushOnEnd`.
    pub(crate) nulls_final: bool,
}

impl Watermarks {
    /// Rows that are final at or before this time are late; microseconds since the epoch.
    pub(crate) fn late(self) -> Option<i64> {
        (self.late_ms != 0).then(|| self.late_ms.saturating_mul(MICROS))
    }

    /// What is final at or before this time can be given and forgotten; microseconds since the epoch.
    pub(crate) fn finals(self) -> Option<i64> {
        (self.final_ms != 0).then(|| self.final_ms.saturating_mul(MICROS))
    }
}

/// Count, extremes and sum of some event times, in microseconds since the epoch. Nulls do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct EventTimeSummary {
    pub(crate) count: u64,
    pub(crate) min: i64,
    pub(crate) max: i64,
    pub(crate) sum: i128,
}

impl EventTimeSummary {
    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self.count, other.count) {
            (0, _) => other,
            (_, 0) => self,
            _ => Self {
                count: self.count + other.count,
                min: self.min.min(other.min),
                max: self.max.max(other.max),
                sum: self.sum + other.sum,
            },
        }
    }

    /// The largest time, as a watermark counts it: whole milliseconds, rounded down.
    pub(crate) fn max_ms(self) -> Option<i64> {
        (self.count > 0).then(|| self.max.div_euclid(MICROS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_rounded_down_too() {
        let seen = EventTimeSummary { count: 1, min: -1, max: -1, sum: -1 };
        assert_eq!(seen.max_ms(), Some(-1));
        assert_eq!(EventTimeSummary::default().max_ms(), None);
        assert_eq!(EventTimeSummary::default().and(seen), seen);
    }

    #[test]
    fn without_a_watermark_nothing_is_late_or_final() {
        assert_eq!((Watermarks::default().late(), Watermarks::default().finals()), (None, None));
        let watermarks = Watermarks { late_ms: 1, final_ms: 2, nulls_final: false };
        assert_eq!((watermarks.late(), watermarks.finals()), (Some(1000), Some(2000)));
    }
}
