//! Telling what the queries do.

use std::collections::{HashMap, VecDeque};
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tidemill::sql::StartedQuery;
use tidemill::{
    QueryIdle, QueryStarted, QueryTerminated, RunTotals, StreamingQueryListener, StreamingQueryProgress,
    Trigger,
};
use uuid::Uuid;

use super::ProgressMode;
use super::exit::is_unread;
use super::text::{count, duration, number, per_second, presentable, rate, to_stderr};

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

/// How one run of a query is told about.
#[derive(Debug)]
struct Run {
    started: Instant,
    /// The rows of the last minute, batch by batch.
    recent: VecDeque<(Instant, u64)>,
    totals: RunTotals,
    bar: Option<ProgressBar>,
}

/// How far back the rate of input looks.
const RECENT: Duration = Duration::from_secs(60);

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
        self.suspend(|| to_stderr(&format!("error: {}", presentable(error))));
    }

    /// Draws no more bars: all queries have ended.
    pub(super) fn finish(&self) {
        self.runs().values_mut().for_each(Run::finish);
    }

    /// What `query` has done, in one line, and in further ones which rows are flawed or left out and why
    /// nothing came.
    pub(super) fn summary(&self, query: &StartedQuery) -> String {
        let name = query.query.name().unwrap_or("query").to_string();
        let place = query.location.clone().unwrap_or_else(|| query.target.clone());
        let has_failed = query.query.exception().is_some_and(|exception| !is_unread(&exception));
        let failed = if has_failed { "failed after " } else { "" };
        let totals = query.query.totals();
        if totals.batches == 0 {
            return match has_failed {
                true => format!("{name}: failed, nothing was written to {place}"),
                false => format!("{name}: nothing new, {place} is up to date"),
            };
        }
        let done = in_words(&totals, query.query.running_time());
        let mut summary = format!("{name}: {failed}{done}, in {place}");
        totals.flaws().iter().for_each(|flaw| summary += &format!("\n{name}: {flaw}"));
        if totals.left_out.late_rows > 0 {
            summary += " (late by the watermark; lateRowsPath keeps them)";
        }
        if let Some(waiting) = totals.waiting.as_ref().filter(|_| !has_failed) {
            summary +=
                &format!("\n{name}: not final yet: {} of state; {waiting}", count(totals.state_rows, "row"));
            if query.trigger == Trigger::AvailableNow {
                summary += " (or the option flushOnEnd is true)";
            }
        }
        summary
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<Uuid, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    fn new(bar: Option<ProgressBar>) -> Self {
        Self { started: Instant::now(), recent: VecDeque::new(), totals: RunTotals::default(), bar }
    }

    fn add(&mut self, progress: &StreamingQueryProgress) {
        let now = Instant::now();
        self.recent.push_back((now, progress.num_input_rows));
        while self.recent.front().is_some_and(|(time, _)| now - *time > RECENT) {
            self.recent.pop_front();
        }
        self.totals.add(progress);
    }

    /// How many rows per second came in of late.
    fn input_rate(&self) -> String {
        let rows = self.recent.iter().map(|(_, rows)| rows).sum();
        rate(rows, self.started.elapsed().min(RECENT))
    }

    /// For a line that is kept up to date.
    fn message(&self, progress: &StreamingQueryProgress) -> String {
        let mut message = format!(
            "batch {}, {} so far, {} in, {} processed",
            progress.batch_id,
            count(self.totals.input_rows, "row"),
            self.input_rate(),
            per_second(progress.processed_rows_per_second)
        );
        self.totals.flaws().iter().for_each(|flaw| message += &format!(", {flaw}"));
        if let Some(watermark) = &self.totals.watermark {
            message += &format!(", watermark {watermark}");
        }
        message
    }

    /// Removes the bar; a second time does nothing.
    fn finish(&mut self) {
        self.bar.take().iter().for_each(ProgressBar::finish_and_clear);
    }
}

/// What a run has done in `took`.
fn in_words(totals: &RunTotals, took: Duration) -> String {
    let mut parts = vec![
        if totals.batches == 1 { "1 batch".into() } else { format!("{} batches", number(totals.batches)) },
        format!("{} in", count(totals.input_rows, "row")),
    ];
    parts.extend(totals.output_rows.map(|rows| format!("{} out", count(rows, "row"))));
    if totals.files > 0 {
        parts.push(count(totals.files, "file"));
    }
    parts.push(format!("{} ({})", duration(took), rate(totals.input_rows, took)));
    parts.join(", ")
}

/// The sink of rows that are looked at as they come.
const LIVE: &str = "ForeachBatchSink";

/// Whether the batch's rows go to the terminal.
fn prints(progress: &StreamingQueryProgress) -> bool {
    let sink = progress.sink.description.as_str();
    sink == LIVE || sink.starts_with("ConsoleSink")
}

/// A line about one batch.
fn line(progress: &StreamingQueryProgress) -> String {
    let mut line = format!(
        "{}: batch {}: {} in {} (",
        progress.name.as_deref().unwrap_or("query"),
        progress.batch_id,
        count(progress.num_input_rows, "row"),
        duration(Duration::from_millis(progress.batch_duration)),
    );
    if let Some(rate) = progress.input_rows_per_second {
        line += &format!("{} in, ", per_second(rate));
    }
    line += &format!("{} processed)", per_second(progress.processed_rows_per_second));
    let mut totals = RunTotals::default();
    totals.add(progress);
    totals.flaws().iter().for_each(|flaw| line += &format!(", {flaw}"));
    line
}

impl StreamingQueryListener for Monitor {
    fn on_query_started(&self, event: &QueryStarted) {
        let bar = match &self.style {
            Style::Bars(bars) => {
                let bar = bars.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {wide_msg}") {
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
        match &self.style {
            // The console sink writes to the same terminal, where a bar would be in its way.
            Style::Bars(_) if prints(progress) => {
                run.bar.take().iter().for_each(ProgressBar::finish_and_clear);
            }
            Style::Bars(_) => {
                if let Some(bar) = &run.bar {
                    bar.set_message(run.message(progress));
                }
            }
            // Its rows are shown as they come.
            Style::Lines | Style::Json if progress.sink.description == LIVE => {}
            Style::Lines => to_stderr(&line(progress)),
            Style::Json => to_stderr(&progress.to_json()),
            Style::Quiet => {}
        }
    }

    fn on_query_idle(&self, event: &QueryIdle) {
        if let Some(run) = self.runs().get(&event.run_id)
            && let Some(bar) = &run.bar
        {
            bar.set_message(format!("{} so far, waiting for more", count(run.totals.input_rows, "row")));
        }
    }

    fn on_query_terminated(&self, event: &QueryTerminated) {
        if let Some(run) = self.runs().get_mut(&event.run_id) {
            run.finish();
        }
    }
}
