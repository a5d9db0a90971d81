//! The life of a run in a few lines of log, at level INFO: its start, a line a minute while it works,
//! and its end.

use std::time::{Duration, Instant};

use super::handle::QueryShared;
use super::progress::StreamingQueryProgress;
use super::totals::RunTotals;

/// How often a run that works says so.
const INTERVAL: Duration = Duration::from_secs(60);

/// What is told of one run.
#[derive(Debug)]
pub(crate) struct RunLog {
    label: String,
    since: Instant,
    recent: RunTotals,
}

impl RunLog {
    /// Tells of the start.
    pub(crate) fn start(shared: &QueryShared, checkpoint: &str, place: &str, next_batch: u64) -> Self {
        let label = shared.label();
        tracing::info!("{label} starts with batch {next_batch}: {place}; checkpoint {checkpoint}");
        Self { label, since: Instant::now(), recent: RunTotals::default() }
    }

    /// Notes a batch; tells of it and those before if the last line was a minute ago.
    pub(crate) fn batch(&mut self, progress: &StreamingQueryProgress) {
        let is_first = self.recent.last_batch.is_none();
        self.recent.add(progress);
        if is_first || self.since.elapsed() >= INTERVAL {
            self.tell();
        }
    }

    /// Tells of the end.
    pub(crate) fn end(&mut self, totals: &RunTotals) {
        tracing::info!("{} ended: {}", self.label, words(totals));
    }

    fn tell(&mut self) {
        let seconds = self.since.elapsed().as_secs_f64().max(0.001);
        let rate = self.recent.input_rows as f64 / seconds;
        tracing::info!("{}: {}, {rate:.0} rows/s in", self.label, words(&self.recent));
        self.since = Instant::now();
        // Not as if nothing had been before.
        self.recent = RunTotals { last_batch: self.recent.last_batch, ..RunTotals::default() };
    }
}

/// `1 row`, `2 rows`.
fn rows(count: u64) -> String {
    match count {
        1 => "1 row".into(),
        count => format!("{count} rows"),
    }
}

fn words(totals: &RunTotals) -> String {
    let mut words = match (totals.batches, totals.last_batch) {
        (0, _) | (_, None) => return "nothing new".into(),
        (1, Some(last)) => format!("batch {last}"),
        (batches, Some(last)) => format!("{batches} batches up to {last}"),
    };
    words += &format!(", {} in", rows(totals.input_rows));
    if let Some(given) = totals.output_rows {
        words += &format!(", {} out", rows(given));
    }
    if totals.state_rows > 0 {
        words += &format!(", {} of state", rows(totals.state_rows));
    }
    if let Some(watermark) = &totals.watermark {
        words += &format!(", watermark {watermark}");
    }
    totals.flaws().iter().for_each(|flaw| words += &format!(", {flaw}"));
    words
}
