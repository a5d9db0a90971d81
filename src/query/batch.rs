//! One batch, from its offsets to its publication.
//!
//! The order of the durable steps is what exactly-once rests on: offsets, rows staged in the sink,
//! commit record, publication. Whatever the batch is interrupted by, the next start finds which of
//! them were reached and goes on from there (`docs/checkpoint-format.md`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;

use super::handle::QueryShared;
use super::late_rows::LateRows;
use super::watermark::WatermarkTracker;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::records::{CommitRecord, LateRecord, OffsetsRecord};
use crate::error::{Error, Result};
use crate::exec::epoch::{Epoch, EpochInput};
use crate::exec::event_time::{EventTimeSummary, EventTimes, Watermarks};
use crate::exec::operator::OperatorCounters;
use crate::exec::run::run_batch;
use crate::plan::StreamingPlan;
use crate::sink::{OutputMode, Sink, SinkBatch};
use crate::source::{Source, SourceBatch};
use crate::state::StateStore;

/// Times the phases of a trigger, under Spark's names.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    started: Instant,
    lap: Instant,
    phases: BTreeMap<String, u64>,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        let now = Instant::now();
        Self { started: now, lap: now, phases: BTreeMap::new() }
    }

    /// Books the time since the last call on `phase`.
    pub(crate) fn lap(&mut self, phase: &str) {
        let now = Instant::now();
        let millis = u64::try_from((now - self.lap).as_millis()).unwrap_or(u64::MAX);
        *self.phases.entry(phase.to_string()).or_default() += millis;
        self.lap = now;
    }

    /// All phases, with `triggerExecution` for the whole.
    pub(crate) fn finish(mut self) -> BTreeMap<String, u64> {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.phases.insert("triggerExecution".into(), millis);
        self.phases
    }
}

/// What a batch did, for the progress report.
#[derive(Debug)]
pub(crate) struct BatchOutcome {
    pub(crate) inputs: Vec<EpochInput>,
    pub(crate) prepared: Value,
    pub(crate) late: Vec<LateRecord>,
    pub(crate) watermark_ms: i64,
    /// What was seen of event times, all watermarks together.
    pub(crate) event_times: EventTimeSummary,
    pub(crate) operators: Vec<OperatorCounters>,
}

/// What a batch made durable before its commit record, as that says it.
struct Staged {
    prepared: Value,
    late: Vec<LateRecord>,
    state: Value,
}

/// A batch that is to be run: its record, which is durable already, and what follows from others.
#[derive(Debug)]
pub(crate) struct PlannedBatch {
    pub(crate) record: OffsetsRecord,
    /// The rows to read, per source.
    pub(crate) inputs: Vec<SourceBatch>,
    /// The watermark of the batch before: what is final by it is late.
    pub(crate) late_ms: i64,
}

/// Everything a batch works with; lives as long as the run.
#[derive(Debug)]
pub(crate) struct BatchRunner {
    pub(crate) shared: Arc<QueryShared>,
    pub(crate) checkpoint: Arc<Checkpoint>,
    pub(crate) sources: Vec<Arc<dyn Source>>,
    pub(crate) plan: StreamingPlan,
    pub(crate) state: Arc<StateStore>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) late_rows: LateRows,
    pub(crate) output_mode: OutputMode,
}

impl BatchRunner {
    /// Runs a batch, and moves the watermark by what it has seen. `Ok(None)` if it was given up
    /// because the run is being abandoned.
    pub(crate) async fn run(
        &self,
        planned: PlannedBatch,
        tracker: &mut WatermarkTracker,
        stopwatch: &mut Stopwatch,
    ) -> Result<Option<BatchOutcome>> {
        let PlannedBatch { record, inputs, late_ms } = planned;
        let watermarks = Watermarks { late_ms, final_ms: record.batch_watermark_ms };
        let epoch = Arc::new(self.epoch(record.batch_id, inputs, watermarks));
        let batch = epoch.batch;
        let Staged { prepared, late, state } =
            match self.compute(&epoch, record.batch_timestamp_ms, stopwatch).await {
                Ok(Some(prepared)) => prepared,
                Ok(None) => {
                    self.discard(batch).await;
                    return Ok(None);
                }
                Err(error) => {
                    self.discard(batch).await;
                    return Err(self.diagnose(&epoch, error).await);
                }
            };
        stopwatch.lap("addBatch");
        let seen: Vec<EventTimeSummary> = epoch.event_times.iter().map(EventTimes::summary).collect();
        tracker.advance(&seen);
        let commit = CommitRecord {
            batch_id: record.batch_id,
            next_batch_watermark_ms: tracker.global_ms(),
            streams: tracker.record(),
            sink: prepared.clone(),
            late: late.clone(),
            state,
            let_go: None,
        };
        self.checkpoint.write_commit(&commit).await?;
        stopwatch.lap("commitOffsets");
        self.sink.publish(record.batch_id, &prepared).await?;
        self.late_rows.publish(record.batch_id, &late).await?;
        stopwatch.lap("publish");
        for (source, input) in self.sources.iter().zip(&epoch.inputs) {
            if !input.batch.is_empty() {
                source.commit(&input.batch).await?;
            }
        }
        // Abandoned tasks may still hold the epoch; finished ones do not.
        let (inputs, operators) = match Arc::try_unwrap(epoch) {
            Ok(epoch) => (epoch.inputs, epoch.operators),
            Err(epoch) => (epoch.inputs.iter().map(EpochInput::snapshot).collect(), Vec::new()),
        };
        Ok(Some(BatchOutcome {
            inputs,
            prepared,
            late,
            watermark_ms: record.batch_watermark_ms,
            event_times: seen.into_iter().fold(EventTimeSummary::default(), EventTimeSummary::and),
            operators,
        }))
    }

    fn epoch(&self, batch_id: u64, inputs: Vec<SourceBatch>, watermarks: Watermarks) -> Epoch {
        let batch = SinkBatch {
            query_id: self.shared.id,
            run_id: self.shared.run_id,
            batch_id,
            output_mode: self.output_mode,
        };
        let operators: Vec<OperatorCounters> =
            self.plan.operators().iter().map(|_| OperatorCounters::default()).collect();
        let event_times = self.plan.watermarks().iter().map(|_| EventTimes::default());
        Epoch {
            batch,
            inputs: inputs.into_iter().map(EpochInput::new).collect(),
            state: Arc::clone(&self.state),
            watermarks,
            event_times: event_times.collect(),
            late_rows: self
                .late_rows
                .are_kept()
                .then(|| operators.iter().map(|_| Mutex::default()).collect()),
            operators,
        }
    }

    /// Everything up to the commit record: rows are staged, and they and the state durable, afterwards.
    /// Gives what the record says of them; `Ok(None)` if it was given up because the run is being
    /// abandoned.
    async fn compute(
        &self,
        epoch: &Arc<Epoch>,
        time_ms: i64,
        stopwatch: &mut Stopwatch,
    ) -> Result<Option<Staged>> {
        let inputs = epoch.inputs.iter().map(|input| &input.batch);
        self.plan.batch_time().set(time_ms);
        let abandon = &self.shared.abandon;
        let (plan, state) = tokio::select! {
            biased;
            () = abandon.cancelled() => return Ok(None),
            planned = self.plan.for_batch(self.plan.width(inputs)) => planned?,
        };
        let context = epoch.task_context(state);
        stopwatch.lap("queryPlanning");
        let Some(reports) = run_batch(plan, context, abandon).await? else { return Ok(None) };
        let prepared = self.sink.prepare(epoch.batch, reports).await?;
        let late = self.late_rows.write(epoch).await?;
        let state = self.state.write_changes(epoch.batch.batch_id).await?;
        Ok(Some(Staged { prepared, late, state }))
    }

    /// Removes what earlier runs, interrupted or overtaken, staged for batches up to this one, which
    /// is published. The next start does it again, so a failure here is worth only a warning.
    pub(crate) async fn tidy(&self, batch_id: u64, prepared: &Value, late: &[LateRecord]) {
        let last = Some((batch_id, prepared));
        let late = Some((batch_id, late));
        let tidied = match self.sink.recover(self.shared.id, last).await {
            Ok(()) => self.late_rows.recover(self.shared.id, late).await,
            failed => failed,
        };
        if let Err(error) = tidied {
            tracing::warn!(batch = batch_id, %error, "could not remove what earlier runs had staged");
        }
    }

    /// Removes what a failed or abandoned batch staged. The next start does it again, so a failure
    /// here is worth only a warning.
    async fn discard(&self, batch: SinkBatch) {
        self.state.poison();
        let discarded = match self.sink.abort(batch).await {
            Ok(()) => self.late_rows.abort(batch).await,
            failed => failed,
        };
        if let Err(error) = discarded {
            tracing::warn!(batch = batch.batch_id, %error, "could not remove what the batch had staged");
        }
    }

    /// Lets the sources say more precisely which of their records is to blame for `error`.
    async fn diagnose(&self, epoch: &Epoch, error: Error) -> Error {
        let mut error = error;
        for (source, input) in self.sources.iter().zip(&epoch.inputs) {
            if !input.batch.is_empty() {
                error = source.diagnose(&input.batch, error).await;
            }
        }
        error
    }
}
