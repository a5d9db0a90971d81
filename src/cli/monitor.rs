//! Telling what the queries do.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tidemill::sql::StartedQuery;
use tidemill::{QueryIdle, QueryStarted, QueryTerminated, StreamingQueryListener, StreamingQueryProgress};
use uuid::Uuid;

use super::ProgressMode;
use super::exit::is_unread;
use super::text::{count, duration, number, rate, to_stderr};

/// Listens to all queries of a session.
#[derive(Debug)]
pub(super) struct Monitor {
    style: Style,
    runs: Mutex<HashMap<Uuid, Run>>,
}

#[derive(Debug)]
enum Style {
    Bars(MultiProgress),
    Lines,
    Json,
    Quiet,
}

/// What one run of a query has done so far.
#[derive(Debug)]
struct Run {
    started: Instant,
    took: Option<Duration>,
    batches: u64,
    rows_in: u64,
    /// Unknown for some sinks.
    rows_out: Option<u64>,
    files: u64,
    bar: Option<ProgressBar>,
}

impl Monitor {
    /// A monitor that tells progress as `mode` says.
    pub(super) fn new(mode: ProgressMode) -> Arc<Self> {
        let style = match mode {
            ProgressMode::Bar if std::io::stderr().is_terminal() => Style::Bars(MultiProgress::new()),
            ProgressMode::Bar => Style::Lines,
            ProgressMode::Json => Style::Json,
            ProgressMode::None => Style::Quiet,
        };
        Arc::new(Self { style, runs: Mutex::default() })
    }

    /// Runs `write`, which writes to the terminal, while no bars are drawn there.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.style {
            Style::Bars(bars) => bars.suspend(write),
            _ => write(),
        }
    }

    /// Says something for people on standard error, unless programs read it.
    pub(super) fn note(&self, line: &str) {
        if !matches!(self.style, Style::Json) {
            self.suspend(|| to_stderr(line));
        }
    }

    /// Tells of a failure on standard error.
    pub(super) fn error(&self, error: &str) {
        self.suspend(|| to_stderr(&format!("error: {error}")));
    }

    /// Draws no more bars: all queries have ended.
    pub(super) fn finish(&self) {
        self.runs().values_mut().for_each(Run::finish);
    }

    /// What `query` has done, in one line.
    pub(super) fn summary(&self, query: &StartedQuery) -> String {
        let name = query.query.name().unwrap_or("query").to_string();
        let place = query.location.clone().unwrap_or_else(|| query.target.clone());
        let runs = self.runs();
        let has_failed = query.query.exception().is_some_and(|exception| !is_unread(&exception));
        let failed = if has_failed { "failed after " } else { "" };
        match runs.get(&query.query.run_id()) {
            Some(run) if run.batches > 0 => format!("{name}: {failed}{}, in {place}", run.summary()),
            _ if !failed.is_empty() => format!("{name}: failed, nothing new in {place}"),
            _ => format!("{name}: nothing new, {place} is up to date"),
        }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<Uuid, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    fn new(bar: Option<ProgressBar>) -> Self {
        let started = Instant::now();
        Self { started, took: None, batches: 0, rows_in: 0, rows_out: Some(0), files: 0, bar }
    }

    fn add(&mut self, progress: &StreamingQueryProgress) {
        self.batches += 1;
        self.rows_in += progress.num_input_rows;
        let written = u64::try_from(progress.sink.num_output_rows).ok();
        self.rows_out = self.rows_out.zip(written).map(|(before, written)| before + written);
        let files = progress.sink.metrics.get("numFiles").and_then(|files| files.parse().ok());
        self.files += files.unwrap_or(0u64);
    }

    /// Stops the clock and removes the bar; a second time does nothing.
    fn finish(&mut self) {
        self.took.get_or_insert_with(|| self.started.elapsed());
        self.bar.take().iter().for_each(ProgressBar::finish_and_clear);
    }

    fn summary(&self) -> String {
        let took = self.took.unwrap_or_else(|| self.started.elapsed());
        let mut parts = vec![
            if self.batches == 1 { "1 batch".into() } else { format!("{} batches", number(self.batches)) },
            format!("{} in", count(self.rows_in, "row")),
        ];
        parts.extend(self.rows_out.map(|rows| format!("{} out", count(rows, "row"))));
        if self.files > 0 {
            parts.push(count(self.files, "file"));
        }
        parts.push(format!("{} ({})", duration(took), rate(self.rows_in, took)));
        parts.join(", ")
    }
}

impl StreamingQueryListener for Monitor {
    fn on_query_started(&self, event: &QueryStarted) {
        let bar = match &self.style {
            Style::Bars(bars) => {
                let bar = bars.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {msg}") {
                    bar.set_style(style);
                }
                bar.set_prefix(event.name.clone().unwrap_or_else(|| "query".into()));
                bar.set_message("starting");
                bar.enable_steady_tick(Duration::from_millis(120));
                Some(bar)
            }
            _ => None,
        };
        self.runs().insert(event.run_id, Run::new(bar));
    }

    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        let mut runs = self.runs();
        let Some(run) = runs.get_mut(&progress.run_id) else { return };
        run.add(progress);
        let took = Duration::from_millis(progress.batch_duration);
        match &self.style {
            // The console sink writes to the same terminal, where a bar would be in its way.
            Style::Bars(_) if progress.sink.description.starts_with("ConsoleSink") => {
                run.bar.take().iter().for_each(ProgressBar::finish_and_clear);
            }
            Style::Bars(_) => {
                if let Some(bar) = &run.bar {
                    bar.set_message(format!(
                        "batch {}, {} so far, {}",
                        progress.batch_id,
                        count(run.rows_in, "row"),
                        rate(progress.num_input_rows, took)
                    ));
                }
            }
            Style::Lines => to_stderr(&format!(
                "{}: batch {}: {} in {} ({})",
                progress.name.as_deref().unwrap_or("query"),
                progress.batch_id,
                count(progress.num_input_rows, "row"),
                duration(took),
                rate(progress.num_input_rows, took)
            )),
            Style::Json => to_stderr(&progress.to_json()),
            Style::Quiet => {}
        }
    }

    fn on_query_idle(&self, event: &QueryIdle) {
        if let Some(run) = self.runs().get(&event.run_id)
            && let Some(bar) = &run.bar
        {
            bar.set_message(format!("{} so far, waiting for more", count(run.rows_in, "row")));
        }
    }

    fn on_query_terminated(&self, event: &QueryTerminated) {
        if let Some(run) = self.runs().get_mut(&event.run_id) {
            run.finish();
        }
    }
}
