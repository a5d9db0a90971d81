//! One batch, from its offsets to its publication.
//!
//! The order of the durable steps is what exactly-once rests on: offsets, rows staged in the sink,
//! commit record, publication. Whatever the batch is interrupted by, the next start finds which of
//! them were reached and goes on from there (`docs/checkpoint-format.md`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::handle::QueryShared;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::records::{CommitRecord, OffsetsRecord};
use crate::error::{Error, Result};
use crate::exec::epoch::{Epoch, EpochInput};
use crate::exec::run::run_batch;
use crate::plan::StreamingPlan;
use crate::sink::{OutputMode, Sink, SinkBatch};
use crate::source::{Source, SourceBatch};

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
}

/// Everything a batch works with; lives as long as the run.
#[derive(Debug)]
pub(crate) struct BatchRunner {
    pub(crate) shared: Arc<QueryShared>,
    pub(crate) checkpoint: Arc<Checkpoint>,
    pub(crate) sources: Vec<Arc<dyn Source>>,
    pub(crate) plan: StreamingPlan,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) output_mode: OutputMode,
}

impl BatchRunner {
    /// Runs the batch that `record`, which is durable already, describes; `inputs` are its rows.
    /// `Ok(None)` if it was given up because the run is being abandoned.
    pub(crate) async fn run(
        &self,
        record: &OffsetsRecord,
        inputs: Vec<SourceBatch>,
        stopwatch: &mut Stopwatch,
    ) -> Result<Option<BatchOutcome>> {
        let batch = SinkBatch {
            query_id: self.shared.id,
            run_id: self.shared.run_id,
            batch_id: record.batch_id,
            output_mode: self.output_mode,
        };
        let epoch = Arc::new(Epoch { batch, inputs: inputs.into_iter().map(EpochInput::new).collect() });
        let prepared = match self.compute(&epoch, record.batch_timestamp_ms, stopwatch).await {
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
        let commit = CommitRecord {
            batch_id: record.batch_id,
            next_batch_watermark_ms: record.batch_watermark_ms,
            sink: prepared.clone(),
            state: Value::Null,
        };
        self.checkpoint.write_commit(&commit).await?;
        stopwatch.lap("commitOffsets");
        self.sink.publish(record.batch_id, &prepared).await?;
        stopwatch.lap("publish");
        for (source, input) in self.sources.iter().zip(&epoch.inputs) {
            if !input.batch.is_empty() {
                source.commit(&input.batch).await?;
            }
        }
        // Abandoned tasks may still hold the epoch; finished ones do not.
        let inputs = match Arc::try_unwrap(epoch) {
            Ok(epoch) => epoch.inputs,
            Err(epoch) => epoch.inputs.iter().map(EpochInput::snapshot).collect(),
        };
        Ok(Some(BatchOutcome { inputs, prepared }))
    }

    /// Everything up to the commit record: rows are staged and durable afterwards. `Ok(None)` if it
    /// was given up because the run is being abandoned.
    async fn compute(
        &self,
        epoch: &Arc<Epoch>,
        time_ms: i64,
        stopwatch: &mut Stopwatch,
    ) -> Result<Option<Value>> {
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
        match run_batch(plan, context, abandon).await? {
            Some(reports) => self.sink.prepare(epoch.batch, reports).await.map(Some),
            None => Ok(None),
        }
    }

    /// Removes what earlier runs, interrupted or overtaken, staged for batches up to this one, which
    /// is published. The next start does it again, so a failure here is worth only a warning.
    pub(crate) async fn tidy(&self, batch_id: u64, prepared: &Value) {
        if let Err(error) = self.sink.recover(self.shared.id, Some((batch_id, prepared))).await {
            tracing::warn!(batch = batch_id, %error, "could not remove what earlier runs had staged");
        }
    }

    /// Removes what a failed or abandoned batch staged. The next start does it again, so a failure
    /// here is worth only a warning.
    async fn discard(&self, batch: SinkBatch) {
        if let Err(error) = self.sink.abort(batch).await {
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
