//! Which files make up the state. No I/O here.

use serde::{Deserialize, Serialize};

/// What a commit record says of the state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// The files, oldest batches first: later rows replace earlier ones.
    pub segments: Vec<Segment>,
    /// The operators, by number.
    pub operators: Vec<OperatorState>,
}

/// One file, of one batch or of several that were merged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Segment {
    /// The path below the checkpoint's root.
    pub file: String,
    /// The first batch whose changes it holds.
    pub first_batch: u64,
    /// The last one.
    pub last_batch: u64,
    /// Changed rows.
    pub rows: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// The state of one operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperatorState {
    /// How many rows there are.
    pub rows: u64,
    /// Rows with an expiry up to this one are gone; microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired: Option<i64>,
}

/// How many files there must be before it is worth merging some that are small together.
const FAN_IN: usize = 12;
/// How many there must be otherwise. Large files are as quick to restore many as one, and merging them
/// takes time.
const LARGE_FAN_IN: usize = 32;
/// What is small together.
const SMALL: u64 = 4 << 20;
/// When there are so many times more changed rows in files than rows that are alive, they are merged.
const GARBAGE: u64 = 3;

/// The files to merge next, if any: always the newest ones. `live` is how many rows the state has.
///
/// As many of them as make the next older file small beside them, so that every row is rewritten a
/// number of times that grows only with the logarithm of the state. And all, if most of what they hold
/// is not alive any more: a restore reads at most a few times what is alive.
pub(super) fn mergeable(segments: &[Segment], live: u64) -> Option<std::ops::Range<usize>> {
    let rows: u64 = segments.iter().map(|segment| segment.rows).sum();
    if segments.len() >= FAN_IN && rows >= live.saturating_mul(GARBAGE) {
        return Some(0..segments.len());
    }
    let mut newer = 0;
    let mut start = None;
    for (index, segment) in segments.iter().enumerate().rev() {
        let together = newer + segment.bytes;
        let fan_in = if together < SMALL { FAN_IN } else { LARGE_FAN_IN };
        if segments.len() - index >= fan_in && newer >= segment.bytes {
            start = Some(index);
        }
        newer = together;
    }
    start.map(|start| start..segments.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte a row.
    fn segment(batch: u64, bytes: u64) -> Segment {
        Segment { file: batch.to_string(), first_batch: batch, last_batch: batch, rows: bytes, bytes }
    }

    /// Runs `batches` batches of `bytes` each, of which at most `live` stay alive. Gives the largest number
    /// of files, the most bytes a restore reads, and how often a byte was written.
    fn run(batches: u64, bytes: u64, live: u64) -> (usize, u64, f64) {
        let (mut files, mut restored, mut written) = (0, 0, 0);
        let mut segments: Vec<Segment> = Vec::new();
        for batch in 0..batches {
            segments.push(segment(batch, bytes));
            written += bytes;
            let alive = live.min((batch + 1) * bytes);
            while let Some(range) = mergeable(&segments, alive) {
                let merged =
                    segments[range.clone()].iter().map(|segment| segment.bytes).sum::<u64>().min(alive);
                written += merged;
                segments.splice(range, [segment(batch, merged)]);
            }
            files = files.max(segments.len());
            restored = restored.max(segments.iter().map(|segment| segment.bytes).sum());
        }
        (files, restored, written as f64 / (batches * bytes) as f64)
    }

    #[test]
    fn files_restores_and_rewriting_are_bounded() {
        const MB: u64 = 1_000_000;
        // (batches, bytes, live bytes, most files, most restored, most copies of a byte)
        for (batches, bytes, live, files, restored, copies) in [
            (100_000, 100, u64::MAX, 26, 10 * MB, 9.0),
            (100_000, 100, MB, 24, 3 * MB, 8.0),
            (10_000, 1_000, 1_000, 12, 12_000, 1.2),
            (10_000, 1_000, 100_000, 20, 300_000, 5.0),
            (31, 5 * MB, u64::MAX, 31, 155 * MB, 1.0),
            (2_000, 5 * MB, u64::MAX, 40, 10_000 * MB, 4.5),
            (2_000, 5 * MB, 100 * MB, 32, 300 * MB, 1.8),
            (2_000, 5 * MB, 5 * MB, 12, 60 * MB, 1.2),
        ] {
            let (most_files, most_restored, written) = run(batches, bytes, live);
            assert!(most_files <= files, "{most_files} files, {bytes} bytes a batch, {live} alive");
            assert!(most_restored <= restored, "{most_restored} bytes, {bytes} bytes a batch, {live} alive");
            assert!(written <= copies, "{written} copies, {bytes} bytes a batch, {live} alive");
        }
    }
}
