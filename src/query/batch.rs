//! One batch, from its offsets to its publication.
//!
//! The order of the durable steps is what exactly-once rests on: offsets, rows staged in the sink,
//! commit record, publication. Whatever the batch is interrupted by, the next start finds which of
//! them were reached and goes on from there (`docs/checkpoint-format.md`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::datatypes::FieldRef;
use futures::future::{try_join, try_join_all};
use serde_json::{Map, Value};
use tracing::{Instrument, debug_span};

use super::handle::QueryShared;
use super::late_rows::LateRows;
use super::settings::FLUSH_ON_END;
use super::watermark::{SeenTimes, WatermarkTracker};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::records::{CommitRecord, LateRecord, OffsetsRecord};
use crate::error::{Error, Result};
use crate::exec::batch::Batch;
use crate::exec::event_time::Watermarks;
use crate::exec::report::TaskReport;
use crate::exec::room::Space;
use crate::exec::run::BatchRun;
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
    pub(crate) inputs: Vec<SourceBatch>,
    pub(crate) prepared: Value,
    pub(crate) late: Vec<LateRecord>,
    pub(crate) watermark_ms: i64,
    /// What was read, seen and done.
    pub(crate) report: TaskReport,
    /// The metrics of each observation, by its name.
    pub(crate) observed: BTreeMap<String, Map<String, Value>>,
}

/// What has become of a batch.
#[derive(Debug)]
pub(crate) enum Ran {
    /// It is committed and published.
    Done(Box<BatchOutcome>),
    /// It was given up because the run is being abandoned.
    Abandoned,
    /// It was given up because its rows have columns that the tables are to have, per source.
    NewColumns(Vec<Vec<FieldRef>>),
    /// It was given up because its input has changed since it was planned, and nobody has seen anything of it.
    Outdated(Error),
}

/// What computing a batch has come to.
enum Computed {
    Staged(Box<Staged>),
    Abandoned,
    NewColumns(Vec<Vec<FieldRef>>),
}

/// What a batch made durable before its commit record, as that says it.
struct Staged {
    report: TaskReport,
    observed: BTreeMap<String, Map<String, Value>>,
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
    pub(crate) late_rows: Arc<LateRows>,
    /// Where rows wait on their way through a batch.
    pub(crate) space: Space,
    pub(crate) output_mode: OutputMode,
}

impl BatchRunner {
    /// Runs a batch, and moves the watermark by what it has seen.
    pub(crate) async fn run(
        &self,
        planned: PlannedBatch,
        tracker: &mut WatermarkTracker,
        stopwatch: &mut Stopwatch,
    ) -> Result<Ran> {
        let PlannedBatch { record, inputs, late_ms } = planned;
        let watermarks = Watermarks {
            late_ms,
            final_ms: record.batch_watermark_ms,
            nulls_final: record.conf.contains_key(FLUSH_ON_END),
        };
        let batch = Arc::new(Batch {
            identity: SinkBatch {
                query_id: self.shared.id,
                run_id: self.shared.run_id,
                batch_id: record.batch_id,
                output_mode: self.output_mode,
            },
            inputs,
            watermarks,
            keeps_late_rows: self.late_rows.are_kept(),
            measures: self.shared.measures,
            time_ms: record.batch_timestamp_ms,
            is_first: self.state.is_new(),
        });
        let Staged { mut report, observed, prepared, late, state } = match self
            .compute(&batch, record.batch_timestamp_ms, stopwatch)
            .instrument(debug_span!("addBatch"))
            .await
        {
            Ok(Computed::Staged(staged)) => *staged,
            Ok(Computed::Abandoned) => {
                self.discard(batch.identity).await;
                return Ok(Ran::Abandoned);
            }
            Ok(Computed::NewColumns(columns)) => {
                self.discard(batch.identity).await;
                return Ok(Ran::NewColumns(columns));
            }
            Err(error) => {
                self.discard(batch.identity).await;
                let error = self.diagnose(&batch, error).await;
                return match self.is_outdated(&batch, &error).await {
                    true => Ok(Ran::Outdated(error)),
                    false => Err(error),
                };
            }
        };
        stopwatch.lap("addBatch");
        let seen = |watermark| SeenTimes {
            all: report.event_times.get(&watermark).copied().unwrap_or_default(),
            groups_ms: report.group_times.remove(&watermark).unwrap_or_default(),
            behind: self
                .plan
                .source_of_groups(watermark)
                .map_or_else(Vec::new, |source| record.sources[source].behind.clone()),
        };
        tracker.advance(&(0..self.plan.watermarks().len()).map(seen).collect::<Vec<_>>());
        let commit = CommitRecord {
            batch_id: record.batch_id,
            query_id: (record.batch_id == 0).then_some(self.shared.id),
            next_batch_watermark_ms: tracker.global_ms(),
            streams: tracker.record(),
            sink: prepared.clone(),
            late: late.clone(),
            state,
            copied: false,
            let_go: None,
        };
        self.checkpoint.write_commit(&commit).instrument(debug_span!("commitOffsets")).await?;
        stopwatch.lap("commitOffsets");
        self.sink.publish(record.batch_id, &prepared).instrument(debug_span!("publish")).await?;
        self.late_rows.publish(record.batch_id, &late).await?;
        stopwatch.lap("publish");
        for (source, input) in self.sources.iter().zip(&batch.inputs) {
            if !input.is_empty() {
                source.commit(input).await?;
            }
        }
        let (inputs, watermark_ms) = (batch.inputs.clone(), record.batch_watermark_ms);
        Ok(Ran::Done(Box::new(BatchOutcome { inputs, prepared, late, watermark_ms, report, observed })))
    }

    /// Everything up to the commit record: rows are staged, and they and the state durable, afterwards.
    /// Gives what the record says of them.
    async fn compute(&self, batch: &Arc<Batch>, time_ms: i64, stopwatch: &mut Stopwatch) -> Result<Computed> {
        self.plan.batch_time().set(time_ms);
        let abandon = &self.shared.abandon;
        let width = self.plan.width(batch.inputs.iter());
        let (stages, session) = tokio::select! {
            biased;
            () = abandon.cancelled() => return Ok(Computed::Abandoned),
            planned = self.plan.for_batch(width).instrument(debug_span!("queryPlanning")) => planned?,
        };
        stopwatch.lap("queryPlanning");
        let run = BatchRun {
            batch: Arc::clone(batch),
            stages,
            session,
            state: Arc::clone(&self.state),
            sink: Arc::clone(&self.sink),
            space: self.space.clone(),
        };
        let (late_rows, state, identity) =
            (Arc::clone(&self.late_rows), Arc::clone(&self.state), batch.identity);
        // What the batch changed is made durable beside the rest of it: none of it counts before its commit record.
        let keep = move |late| async move {
            try_join(state.write_changes(identity.batch_id), late_rows.write(identity, late)).await
        };
        let Some((mut report, (state, late))) = run.run(width, abandon, keep).await? else {
            return Ok(Computed::Abandoned);
        };
        let new = self.new_columns(batch).await?;
        if new.iter().any(|columns| !columns.is_empty()) {
            return Ok(Computed::NewColumns(new));
        }
        let observed = self.plan.observed(&report)?;
        // Before the sink prepares it, which for some sinks is when it is seen.
        self.check_read(batch).await?;
        let prepared = self.sink.prepare(identity, std::mem::take(&mut report.sink)).await?;
        Ok(Computed::Staged(Box::new(Staged { report, observed, prepared, late, state })))
    }

    /// Fails if what was read is not what the batch is.
    async fn check_read(&self, batch: &Batch) -> Result<()> {
        let inputs = self.sources.iter().zip(&batch.inputs).filter(|(_, input)| !input.is_empty());
        try_join_all(inputs.map(|(source, input)| source.check_read(input))).await.map(|_| ())
    }

    /// Per source, the columns that the rows of the batch have besides, and that its table is to have.
    async fn new_columns(&self, batch: &Batch) -> Result<Vec<Vec<FieldRef>>> {
        // A table of results that somebody looks at keeps its columns.
        let may_grow = self.sink.results().is_none();
        let mut new = Vec::with_capacity(self.sources.len());
        for (source, input) in self.sources.iter().zip(&batch.inputs) {
            let found = may_grow && !input.is_empty();
            new.push(if found { source.new_columns(input).await? } else { Vec::new() });
        }
        Ok(new)
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

    /// Whether the batch failed because its input is not any more what was planned, and can be planned anew
    /// without anybody seeing a row twice.
    async fn is_outdated(&self, batch: &Batch, error: &Error) -> bool {
        let is_of_a_file = matches!(error, Error::InputFile { .. } | Error::BadRecord { .. });
        if !is_of_a_file || !self.sink.shows_only_published() {
            return false;
        }
        for (source, input) in self.sources.iter().zip(&batch.inputs) {
            if !input.is_empty() && source.is_outdated(input).await {
                return true;
            }
        }
        false
    }

    /// Lets the sources say more precisely which of their records is to blame for `error`.
    async fn diagnose(&self, batch: &Batch, error: Error) -> Error {
        let mut error = error;
        for (source, input) in self.sources.iter().zip(&batch.inputs) {
            if !input.is_empty() {
                error = source.diagnose(input, error).await;
            }
        }
        error
    }
}
