//! The trigger loop of one run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use datafusion::arrow::datatypes::FieldRef;
use futures::future::{select_all, try_join_all};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::task::JoinHandle;
use tracing::{Instrument, debug_span};

use super::batch::{BatchRunner, PlannedBatch, Ran, Stopwatch};
use super::input_limit::InputLimit;
use super::listener::QueryIdle;
use super::log::RunLog;
use super::manager::StreamingQueryManager;
use super::progress::iso_timestamp;
use super::report::{TriggerTimes, progress};
use super::settings::FLUSH_ON_END;
use super::timers::Timers;
use super::trigger::{Trigger, until_next_tick};
use super::watermark::WatermarkTracker;
use crate::checkpoint::records::{OffsetsRecord, SourceOffset};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::exec::stateful::Expires;
use crate::source::{Admission, SourceBatch};

/// How long to wait before looking for new rows again, at least (Spark's `pollingDelay`).
const POLLING_DELAY: Duration = Duration::from_millis(10);
/// …and how long at most, once nothing has come for ten times as long, if looking costs little.
const IDLE_POLLING_DELAY: Duration = Duration::from_millis(200);
/// …and at most, when looking itself takes long.
const LONGEST_POLLING_DELAY: Duration = Duration::from_secs(5);
/// When all sources say when rows arrive, it is looked all the same, after so long.
const LOOK_ANYWAY: Duration = Duration::from_secs(10);
/// Between two looks there are so many times as long as the first took, so that listing a large directory
/// does not become what the machine is busy with…
const PAUSE: u32 = 10;
/// …and so many times when nothing has come for long: a query that has nothing to do costs next to nothing.
const IDLE_PAUSE: u32 = 1000;
/// Timers are not more precise than that.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
/// How often listeners hear that there is nothing to do (Spark's `noDataProgressEventInterval`).
const IDLE_EVENT_INTERVAL: Duration = Duration::from_secs(10);

/// One run of a query, for one call of [`Execution::run`].
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) runner: BatchRunner,
    pub(crate) manager: StreamingQueryManager,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) trigger: Trigger,
    /// For progress reports, one per source.
    pub(crate) descriptions: Vec<String>,
    /// Settings recorded with every batch, see [`OffsetsRecord::conf`].
    pub(crate) conf: BTreeMap<String, String>,
    pub(crate) min_batches_to_retain: u64,
    /// The next batch to plan.
    pub(crate) next_batch: u64,
    /// A batch that a crash interrupted: it runs again with exactly its old offsets.
    pub(crate) rerun: Option<PlannedBatch>,
    pub(crate) tracker: WatermarkTracker,
    /// The watermark of the last batch that was planned; 0 before the first.
    pub(crate) last_watermark_ms: i64,
    /// When the last batch was planned, in milliseconds since the epoch.
    pub(crate) last_time_ms: i64,
    /// The timers that go by the time of the batches.
    pub(crate) timers: Timers,
    /// Whether the end of an available-now run makes everything final.
    pub(crate) flush_on_end: bool,
    /// Where the last batch that was planned ends, per source.
    pub(crate) ends: Vec<Value>,
    /// Whether sources are asked for new rows.
    pub(crate) reads: bool,
    /// Whether the next batch, if it has no rows, makes everything final.
    pub(crate) is_flushing: bool,
    /// Whether there was such a batch since rows came, be it in this run or in an earlier one.
    pub(crate) has_flushed: bool,
    /// How much a batch may read where nothing else limits it; `None` if it need not fit into memory.
    pub(crate) input_limit: Option<InputLimit>,
    pub(crate) previous_trigger_ms: Option<i64>,
    /// Whether what earlier runs left in the sink has been removed.
    pub(crate) is_tidy: bool,
    pub(crate) maintenance: Option<JoinHandle<Result<()>>>,
    pub(crate) log: RunLog,
}

/// How an execution ended that did not fail.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The trigger or a stop ended it.
    Done,
    /// It has to be opened anew from the checkpoint, which it still owns: an earlier run's last write
    /// came after it had been read. With the error that says so.
    Overlapped(Error),
    /// It has to be opened anew with these columns more, per source.
    NewColumns(Vec<Vec<FieldRef>>),
    /// The batch that is planned has to be let go, and then it has to be opened anew: its input has changed.
    Outdated(Error),
}

/// What a trigger found to do.
#[derive(Debug)]
enum Triggered {
    Batch,
    Nothing,
    Abandoned,
    NewColumns(Vec<Vec<FieldRef>>),
    Outdated(Error),
}

impl Execution {
    /// Runs batches until the trigger or a stop ends it, and tidies up.
    pub(crate) async fn run(&mut self) -> Result<Ended> {
        let ended = match self.run_triggers().await {
            Ok(ended) => Ok(ended),
            Err(error) => self.blame(error).await,
        };
        self.finish_maintenance().await;
        match &ended {
            Ok(Ended::Done) => self.log.end(&self.runner.shared.totals()),
            Ok(Ended::Overlapped(_) | Ended::NewColumns(_) | Ended::Outdated(_)) => return ended,
            Err(_) => {}
        }
        let closed = self.runner.sink.close().await;
        let late_closed = self.runner.late_rows.close().await;
        let ended = ended?;
        closed.and(late_closed).map(|()| ended)
    }

    /// What `error` means. A run that another one has taken over from fails in odd ways, for the other
    /// one tidies up after it; to blame is that there is another one. One that still owns the checkpoint
    /// has met with what an earlier one wrote last.
    async fn blame(&self, error: Error) -> Result<Ended> {
        match (self.runner.checkpoint.check_owner().await, error) {
            (Err(taken_over @ Error::ConcurrentQuery { .. }), error) => {
                tracing::debug!(%error, "failed after another run had taken over");
                Err(taken_over)
            }
            (Err(gone @ Error::CheckpointDamaged { .. }), _) => Err(gone),
            (Ok(()), error @ Error::ConcurrentQuery { .. }) => Ok(Ended::Overlapped(error)),
            (_, error) => Err(error),
        }
    }

    /// The batch being planned or run, for error reports.
    pub(crate) fn current_batch(&self) -> u64 {
        self.next_batch
    }

    async fn run_triggers(&mut self) -> Result<Ended> {
        if self.trigger == Trigger::AvailableNow {
            // That may take a while.
            let prepared =
                try_join_all(self.runner.sources.iter().map(|source| source.prepare_available_now()));
            tokio::select! {
                biased;
                () = self.runner.shared.finish.cancelled() => return Ok(Ended::Done),
                prepared = prepared => prepared?,
            };
        }
        let mut last_idle_event: Option<Duration> = None;
        let mut idle_since = self.clock.elapsed();
        while !self.runner.shared.finish.is_cancelled() {
            let (started_ms, started) = (self.clock.now_ms(), self.clock.elapsed());
            self.tracker.set_now(started);
            let look = self.runner.shared.looks.fetch_add(1, Ordering::SeqCst) + 1;
            let triggered = self.trigger_once(started_ms).await?;
            if matches!(triggered, Triggered::Batch) || self.is_waiting() {
                idle_since = self.clock.elapsed();
            }
            match (triggered, self.trigger) {
                (Triggered::Batch, Trigger::Once) => {
                    // What has come since is for the next run.
                    self.reads = false;
                    if !self.is_worth_an_empty_batch() {
                        return Ok(Ended::Done);
                    }
                }
                (Triggered::NewColumns(columns), _) => return Ok(Ended::NewColumns(columns)),
                (Triggered::Outdated(error), _) => return Ok(Ended::Outdated(error)),
                (Triggered::Abandoned, _) | (_, Trigger::Once) => return Ok(Ended::Done),
                (Triggered::Nothing, Trigger::AvailableNow) if !self.make_all_final() => {
                    return Ok(Ended::Done);
                }
                (Triggered::Nothing, Trigger::AvailableNow) => {}
                (Triggered::Batch, Trigger::AtOnce | Trigger::AvailableNow) => {
                    self.previous_trigger_ms = Some(started_ms);
                }
                (Triggered::Batch, Trigger::ProcessingTime(interval)) => {
                    self.previous_trigger_ms = Some(started_ms);
                    self.await_tick(interval, started_ms, started).await;
                }
                (Triggered::Nothing, trigger) => {
                    self.report_idle(look, &mut last_idle_event);
                    match trigger {
                        Trigger::ProcessingTime(interval) => {
                            self.await_tick(interval, started_ms, started).await;
                        }
                        _ => self.await_rows(self.since(started), self.since(idle_since)).await,
                    }
                }
            }
        }
        Ok(Ended::Done)
    }

    /// Runs one batch if there is one to run.
    async fn trigger_once(&mut self, started_ms: i64) -> Result<Triggered> {
        let mut stopwatch = Stopwatch::start();
        let planned = match self.rerun.take() {
            Some(rerun) => rerun,
            None => match self.plan_batch(&mut stopwatch).await? {
                Some(planned) => planned,
                None => return Ok(Triggered::Nothing),
            },
        };
        let has_rows = planned.inputs.iter().any(|input| !input.is_empty());
        let message = if has_rows { "Processing new data" } else { "No new data but cleaning up state" };
        self.runner.shared.set_status(message, has_rows, true);
        let batch_id = planned.record.batch_id;
        self.last_watermark_ms = planned.record.batch_watermark_ms;
        self.last_time_ms = planned.record.batch_timestamp_ms;
        self.timers.note_batch(self.last_time_ms, has_rows, &self.runner.state);
        let run = self.runner.run(planned, &mut self.tracker, &mut stopwatch);
        let outcome = match run.instrument(debug_span!("batch", batch = batch_id)).await? {
            Ran::Done(outcome) => *outcome,
            Ran::Abandoned => return Ok(Triggered::Abandoned),
            Ran::NewColumns(columns) => return Ok(Triggered::NewColumns(columns)),
            Ran::Outdated(error) => return Ok(Triggered::Outdated(error)),
        };
        self.next_batch = batch_id + 1;
        if let Some(limit) = &mut self.input_limit {
            limit.learn(&outcome.report, &self.runner.space);
        }
        if !self.is_tidy {
            self.runner.tidy(batch_id, &outcome.prepared, &outcome.late).await;
            self.is_tidy = true;
        }
        self.maintain();
        let times =
            TriggerTimes { started_ms, previous_ms: self.previous_trigger_ms, durations: stopwatch.finish() };
        let report = progress(&self.runner, &self.descriptions, batch_id, &outcome, times);
        self.log.batch(&report);
        // One without rows says nothing of where the time goes.
        if has_rows {
            self.runner.shared.set_plan(outcome.report.plan);
        }
        self.runner.shared.add_progress(report.clone());
        self.manager.notify_progress(&report);
        Ok(Triggered::Batch)
    }

    /// Asks every source for new rows and makes the batch durable; `None` if there is nothing to do.
    async fn plan_batch(&mut self, stopwatch: &mut Stopwatch) -> Result<Option<PlannedBatch>> {
        let shared = Arc::clone(&self.runner.shared);
        let admission = match self.trigger {
            Trigger::Once => Admission::Everything,
            _ => self.input_limit.map_or(Admission::Limited, |limit| Admission::Within(limit.bytes())),
        };
        let inputs = match self.reads {
            true => self.ask_sources(admission).instrument(debug_span!("latestOffset")).await?,
            false => self.nothing_new(),
        };
        stopwatch.lap("latestOffset");
        if inputs.iter().all(SourceBatch::is_empty) && !self.is_worth_an_empty_batch() {
            return Ok(None);
        }
        let mut conf = self.conf.clone();
        self.has_flushed &= inputs.iter().all(SourceBatch::is_empty);
        if std::mem::take(&mut self.is_flushing) && inputs.iter().all(SourceBatch::is_empty) {
            conf.insert(FLUSH_ON_END.to_string(), true.to_string());
        }
        let record = OffsetsRecord {
            batch_id: self.next_batch,
            batch_timestamp_ms: self.now_ms(),
            batch_watermark_ms: self.tracker.global_ms(),
            conf,
            sources: inputs
                .iter()
                .enumerate()
                .map(|(source, input)| SourceOffset {
                    start: if self.next_batch == 0 { input.start.clone() } else { Value::Null },
                    end: input.end.clone(),
                    entries: input.entries.clone(),
                    behind: self.groups_behind(source),
                })
                .collect(),
        };
        shared.set_status("Writing offsets to log", true, true);
        self.runner.checkpoint.write_offsets(&record).instrument(debug_span!("walCommit")).await?;
        self.ends = inputs.iter().map(|input| input.end.clone()).collect();
        stopwatch.lap("walCommit");
        Ok(Some(PlannedBatch { record, inputs, late_ms: self.last_watermark_ms }))
    }

    /// Asks all sources at the same time how far the next batch reads.
    async fn ask_sources(&self, admission: Admission) -> Result<Vec<SourceBatch>> {
        match self.descriptions.as_slice() {
            [one] => self.runner.shared.set_status(one, false, true),
            several => self.runner.shared.set_status(&several.join(", "), false, true),
        }
        try_join_all(self.runner.sources.iter().map(|source| source.plan(admission))).await
    }

    /// The watermark groups of a source that have rows behind the batch that was planned.
    fn groups_behind(&self, source: usize) -> Vec<String> {
        if self.reads && self.runner.plan.watches_groups_of(source) {
            self.runner.sources[source].groups_behind()
        } else {
            Vec::new()
        }
    }

    /// A batch that reads on from the last one, and nothing.
    fn nothing_new(&self) -> Vec<SourceBatch> {
        let inputs = self.ends.iter().map(|end| SourceBatch {
            start: end.clone(),
            end: end.clone(),
            entries: Vec::new(),
        });
        inputs.collect()
    }

    /// With `flushOnEnd`, moves the watermark to where the last row of state is final, and lets groups
    /// without a time be final, too. Whether that is worth a batch: it gives what has become final, which
    /// may be state of further operators.
    fn make_all_final(&mut self) -> bool {
        if !self.flush_on_end || !self.runner.plan.waits_for_watermark() {
            return false;
        }
        // Timers that call for timers would do so for ever.
        let may_wait = |expires: Expires| match expires {
            Expires::ByWatermark | Expires::Unseen => true,
            Expires::WakingByWatermark => !self.has_flushed,
            Expires::ByBatchTime | Expires::WakingByBatchTime => false,
        };
        let last = self.runner.state.last_expiry(&self.runner.plan.expiring(may_wait));
        let last_ms =
            last.map(|last| last.div_euclid(1000).saturating_add(i64::from(last.rem_euclid(1000) > 0)));
        let now_ms = self.tracker.global_ms();
        let moves = last_ms.is_some_and(|last_ms| now_ms == 0 || last_ms > now_ms);
        // What is left without that has no time.
        if !moves && (self.has_flushed || !self.runner.state.has_rows()) {
            return false;
        }
        if let Some(last_ms) = last_ms {
            self.tracker.flush(last_ms);
        }
        self.has_flushed = true;
        self.is_flushing = true;
        true
    }

    /// Whether the watermark alone has something for the plan to do: since the last batch that was
    /// planned, be it by this run or by an earlier one, it has moved.
    fn is_worth_an_empty_batch(&mut self) -> bool {
        let ends = matches!(self.trigger, Trigger::Once | Trigger::AvailableNow);
        if self.timers.are_due(self.now_ms(), ends, &self.runner.state) {
            return true;
        }
        if !self.runner.plan.waits_for_watermark() {
            return false;
        }
        let behind: Vec<Vec<String>> = (0..self.runner.plan.watermarks().len())
            .map(|watermark| self.runner.plan.source_of_groups(watermark))
            .map(|source| source.map_or_else(Vec::new, |source| self.groups_behind(source)))
            .collect();
        self.tracker.note_behind(behind.iter().map(Vec::as_slice));
        self.tracker.leave_idle_behind();
        self.is_flushing || self.tracker.global_ms() != self.last_watermark_ms
    }

    /// The time for the next batch. What is forgotten by it is gone, so that it does not go back where anything is,
    /// even if somebody sets the clock.
    fn now_ms(&self) -> i64 {
        let now_ms = self.clock.now_ms();
        if self.timers.keep_time() { now_ms.max(self.last_time_ms) } else { now_ms }
    }

    /// Merges and purges old checkpoint files beside the next batches, one round at a time.
    fn maintain(&mut self) {
        if self.maintenance.as_ref().is_some_and(|round| !round.is_finished()) {
            return;
        }
        let checkpoint = Arc::clone(&self.runner.checkpoint);
        let state = Arc::clone(&self.runner.state);
        let sources = self.runner.sources.clone();
        let (sink, query_id) = (Arc::clone(&self.runner.sink), self.runner.shared.id);
        let retain = self.min_batches_to_retain;
        self.maintenance = Some(tokio::spawn(async move {
            let forget = |source: usize, entries: Vec<Box<RawValue>>| match sources.get(source) {
                Some(source) => source.forget(entries),
                None => entries,
            };
            let maintained = async {
                checkpoint.maintain(retain, &forget).await?;
                if state.is_empty() && !sink.is_maintained() {
                    return Ok(());
                }
                // Another run may need what this one would remove.
                checkpoint.check_owner().await?;
                // What the commit records that are there name stays there.
                let Some(oldest) = checkpoint.oldest_commit() else { return Ok(()) };
                if sink.is_maintained() {
                    sink.maintain(query_id, oldest).await;
                }
                match state.is_empty() {
                    true => Ok(()),
                    false => state.maintain(oldest).await,
                }
            };
            maintained.await.inspect_err(|error| {
                // Nothing depends on it but tidiness; the next round tries again.
                tracing::warn!(%error, "could not merge old checkpoint files");
            })
        }));
    }

    async fn finish_maintenance(&mut self) {
        if let Some(round) = self.maintenance.take() {
            self.runner.state.end();
            self.runner.sink.end_maintenance();
            // Its error was reported; a round that is interrupted is taken up by the next start.
            let _ = round.await;
        }
    }

    fn since(&self, moment: Duration) -> Duration {
        self.clock.elapsed().saturating_sub(moment)
    }

    fn report_idle(&self, look: u64, last_event: &mut Option<Duration>) {
        let shared = &self.runner.shared;
        shared.set_status("Waiting for data to arrive", false, false);
        if !self.is_waiting() {
            shared.run_state.send_modify(|state| state.last_empty_look = look);
        }
        if last_event.is_none_or(|last| self.since(last) >= IDLE_EVENT_INTERVAL) {
            *last_event = Some(self.clock.elapsed());
            self.manager.notify_idle(&QueryIdle {
                id: shared.id,
                run_id: shared.run_id,
                timestamp: iso_timestamp(self.clock.now_ms()),
            });
        }
    }

    /// Whether a source has something that may not be complete yet.
    fn is_waiting(&self) -> bool {
        self.runner.sources.iter().any(|source| source.is_waiting())
    }

    /// Waits until a source says that rows have arrived. Sources that cannot say that are asked again, the
    /// less often the longer nothing has come.
    async fn await_rows(&self, look_took: Duration, idle: Duration) {
        let looked = self.clock.elapsed();
        let pause = look_took.saturating_mul(PAUSE).min(LONGEST_POLLING_DELAY);
        let idle_pause = look_took.saturating_mul(IDLE_PAUSE);
        let sources = &self.runner.sources;
        let arrivals: Vec<_> = sources.iter().filter_map(|source| source.arrivals()).collect();
        let delay = if arrivals.len() == sources.len() {
            LOOK_ANYWAY.max(idle_pause)
        } else {
            let idle_delay = (idle / 10).min(IDLE_POLLING_DELAY.max(idle_pause));
            pause.max(idle_delay).clamp(POLLING_DELAY, LONGEST_POLLING_DELAY)
        };
        let delay = match self.tracker.until_idle() {
            Some(idle) if self.runner.plan.waits_for_watermark() => delay.min(idle.max(SHORTEST_SLEEP)),
            _ => delay,
        };
        let delay = match self.timers.until_due(self.now_ms(), &self.runner.state) {
            Some(due) => delay.min(due.max(SHORTEST_SLEEP)),
            None => delay,
        };
        let arrived = async {
            if arrivals.is_empty() {
                return std::future::pending().await;
            }
            select_all(arrivals).await;
            let rest = pause.saturating_sub(self.since(looked));
            if rest >= SHORTEST_SLEEP {
                self.clock.sleep(rest).await;
            }
        };
        tokio::select! {
            () = self.runner.shared.finish.cancelled() => {}
            () = self.runner.shared.wake.notified() => {}
            () = arrived => {}
            () = self.clock.sleep(delay) => {}
        }
    }

    /// Waits for the tick after a trigger that began when the clock said `started_ms`.
    async fn await_tick(&self, interval: Duration, started_ms: i64, started: Duration) {
        let took = self.since(started);
        let wait = until_next_tick(interval, started_ms, took);
        if wait.is_zero() {
            // The first batch starts between two ticks, and may pass one without being slow.
            if !interval.is_zero() && took > interval {
                tracing::warn!(
                    "{}: the batch took {} ms, longer than the trigger interval of {} ms: falling behind",
                    self.runner.shared.label(),
                    took.as_millis(),
                    interval.as_millis(),
                );
            }
            return;
        }
        self.runner.shared.set_status("Waiting for next trigger", false, false);
        tokio::select! {
            () = self.runner.shared.finish.cancelled() => {}
            () = self.clock.sleep(wait) => {}
        }
    }
}
