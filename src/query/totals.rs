//! What a run has done so far, all batches together.

use std::fmt;

use serde_json::Value;

use super::progress::StreamingQueryProgress;

/// The sum of a run's progress reports: [`StreamingQuery::totals`](super::StreamingQuery::totals).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunTotals {
    /// Batches that are done.
    pub batches: u64,
    /// The last of them.
    pub last_batch: Option<u64>,
    /// Rows read.
    pub input_rows: u64,
    /// Rows written; `None` if the sink does not count them.
    pub output_rows: Option<u64>,
    /// Files written.
    pub files: u64,
    /// What did not become a part of the result.
    pub left_out: LeftOut,
    /// Malformed records that are rows all the same, with nulls for what does not fit (`PERMISSIVE`).
    pub malformed_rows_kept: u64,
    /// Rows without an event time: they are in no window, and a group without one is final only at the end of
    /// a run with `flushOnEnd`.
    pub rows_without_time: u64,
    /// Rows of state after the last batch.
    pub state_rows: u64,
    /// The watermark after the last batch, if there is one, ISO 8601.
    pub watermark: Option<String>,
    /// Why some results have not been given yet, if so.
    pub waiting: Option<String>,
}

/// Rows and files that did not become a part of the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftOut {
    /// Rows that came after the watermark had passed them.
    pub late_rows: u64,
    /// Records that do not fit the columns, as far as they were not kept.
    pub malformed_rows: u64,
    /// Files older than `maxFileAge` allows.
    pub old_files: u64,
    /// Files that were gone before they were read.
    pub missing_files: u64,
    /// Files that could not be read to their end.
    pub corrupt_files: u64,
}

impl Default for RunTotals {
    fn default() -> Self {
        Self {
            batches: 0,
            last_batch: None,
            input_rows: 0,
            output_rows: Some(0),
            files: 0,
            left_out: LeftOut::default(),
            malformed_rows_kept: 0,
            rows_without_time: 0,
            state_rows: 0,
            watermark: None,
            waiting: None,
        }
    }
}

impl RunTotals {
    /// Adds the report of the next batch.
    pub fn add(&mut self, progress: &StreamingQueryProgress) {
        self.batches += 1;
        self.last_batch = Some(progress.batch_id);
        self.input_rows += progress.num_input_rows;
        let written = u64::try_from(progress.sink.num_output_rows).ok();
        self.output_rows = self.output_rows.zip(written).map(|(before, written)| before + written);
        self.files += progress.sink.metrics.get("numFiles").and_then(|files| files.parse().ok()).unwrap_or(0);
        self.left_out.add(progress);
        self.malformed_rows_kept += counted(progress, KEPT);
        let untimed = progress.event_time.get(ROWS_WITHOUT_TIME);
        self.rows_without_time += untimed.and_then(|rows| rows.parse::<u64>().ok()).unwrap_or(0);
        let rows = |operator: &Value| operator.get("numRowsTotal").and_then(Value::as_u64);
        self.state_rows = progress.state_operators.iter().filter_map(rows).sum();
        self.watermark = progress.event_time.get("watermark").cloned();
        self.waiting = progress.event_time.get("waiting").cloned();
    }

    /// What rows and files are not in the result, or not as they came, in words: `1 malformed record kept with
    /// nulls`, and last `left out: 3 late rows`.
    pub fn flaws(&self) -> Vec<String> {
        let mut flaws = Vec::new();
        match self.malformed_rows_kept {
            0 => {}
            1 => flaws.push("1 malformed record kept with nulls".to_string()),
            count => flaws.push(format!("{count} malformed records kept with nulls")),
        }
        match self.rows_without_time {
            0 => {}
            1 => flaws.push("1 row without an event time".to_string()),
            count => flaws.push(format!("{count} rows without an event time")),
        }
        if !self.left_out.is_empty() {
            flaws.push(format!("left out: {}", self.left_out));
        }
        flaws
    }
}

/// The counter of rows without an event time.
pub(super) const ROWS_WITHOUT_TIME: &str = "rowsWithoutTime";

/// The counter of malformed records that were kept.
const KEPT: &str = "numMalformedRowsKept";

/// What the counter `name` is in all sources together.
fn counted(progress: &StreamingQueryProgress, name: &str) -> u64 {
    let counts = progress.sources.iter().filter_map(|source| source.metrics.get(name));
    counts.filter_map(|count| count.parse::<u64>().ok()).sum()
}

impl LeftOut {
    fn add(&mut self, progress: &StreamingQueryProgress) {
        let late = |operator: &Value| operator.get("numRowsDroppedByWatermark").and_then(Value::as_u64);
        self.late_rows += progress.state_operators.iter().filter_map(late).sum::<u64>();
        let count = |name| counted(progress, name);
        self.malformed_rows += count("numMalformedRows").saturating_sub(count(KEPT));
        self.old_files += count("numFilesIgnoredByAge");
        self.missing_files += count("numMissingFiles");
        self.corrupt_files += count("numCorruptFiles");
    }

    /// Whether everything became a part of the result.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for LeftOut {
    /// What there is, in words: `3 late rows, 1 malformed row`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.late_rows, "late row"),
            (self.malformed_rows, "malformed row"),
            (self.old_files, "file older than maxFileAge"),
            (self.missing_files, "missing file"),
            (self.corrupt_files, "corrupt file"),
        ];
        for (index, (count, what)) in counts.into_iter().filter(|(count, _)| *count > 0).enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            match what.strip_prefix("file ") {
                Some(rest) if count > 1 => write!(f, "{separator}{count} files {rest}")?,
                _ => write!(f, "{separator}{count} {what}{}", if count == 1 { "" } else { "s" })?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_told_in_words() {
        let left_out = LeftOut { late_rows: 2758, malformed_rows: 1, old_files: 2, ..LeftOut::default() };
        assert_eq!(left_out.to_string(), "2758 late rows, 1 malformed row, 2 files older than maxFileAge");
        assert_eq!(
            LeftOut { old_files: 1, ..LeftOut::default() }.to_string(),
            "1 file older than maxFileAge"
        );
        assert!(LeftOut::default().is_empty() && !left_out.is_empty());
        let kept = RunTotals { malformed_rows_kept: 2, ..RunTotals::default() };
        assert_eq!(kept.flaws(), ["2 malformed records kept with nulls"]);
        let both = RunTotals { malformed_rows_kept: 1, left_out, ..RunTotals::default() };
        assert_eq!(
            both.flaws(),
            ["1 malformed record kept with nulls".to_string(), format!("left out: {left_out}")]
        );
        assert!(RunTotals::default().flaws().is_empty());
    }
}
