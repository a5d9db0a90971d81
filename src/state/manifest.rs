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

/// How many files there must be before it is worth merging some.
const FAN_IN: usize = 12;

/// The files to merge next, if any: always the newest ones.
///
/// As many of them as make the next older file small beside them, so that every row is rewritten a
/// number of times that grows only with the logarithm of the state; and as soon as the newer files
/// are as large as the oldest one, all: a restore reads at most about twice what is alive, and
/// the last few batches.
pub(super) fn mergeable(segments: &[Segment]) -> Option<std::ops::Range<usize>> {
    let mut newer = 0;
    let mut start = None;
    for (index, segment) in segments.iter().enumerate().rev() {
        if segments.len() - index >= FAN_IN && newer >= segment.bytes {
            start = Some(index);
        }
        newer += segment.bytes;
    }
    start.map(|start| start..segments.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(batch: u64, bytes: u64) -> Segment {
        Segment { file: batch.to_string(), first_batch: batch, last_batch: batch, rows: 1, bytes }
    }

    /// Runs `batches` batches of `bytes` each, of which at most `live` stay alive when merged. Gives
    /// the largest number of files, the most bytes a restore reads, and how often a byte was written.
    fn run(batches: u64, bytes: u64, live: u64) -> (usize, u64, f64) {
        let (mut files, mut restored, mut written) = (0, 0, 0);
        let mut segments: Vec<Segment> = Vec::new();
        for batch in 0..batches {
            segments.push(segment(batch, bytes));
            written += bytes;
            while let Some(range) = mergeable(&segments) {
                let merged =
                    segments[range.clone()].iter().map(|segment| segment.bytes).sum::<u64>().min(live);
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
        // (batches, bytes, live bytes, most files, most restored, most copies of a byte)
        for (batches, bytes, live, files, restored, copies) in [
            (100_000, 100, u64::MAX, 24, 10_000_000, 9.0),
            (100_000, 100, 1_000_000, 24, 2_010_000, 8.0),
            (10_000, 1_000, 1_000, 12, 12_000, 1.2),
            (10_000, 1_000, 100_000, 20, 210_000, 5.0),
        ] {
            let (most_files, most_restored, written) = run(batches, bytes, live);
            assert!(most_files <= files, "{most_files} files, {bytes} bytes a batch, {live} alive");
            assert!(most_restored <= restored, "{most_restored} bytes, {bytes} bytes a batch, {live} alive");
            assert!(written <= copies, "{written} copies, {bytes} bytes a batch, {live} alive");
        }
    }
}
