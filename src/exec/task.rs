//! One execution of one stage of a batch.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use tokio::sync::Notify;

use super::batch::Batch;
use super::event_time::EventTimeSummary;
use super::measured::Measured;
use super::observed::Observed;
use super::operator::OperatorCounters;
use super::report::{Finished, TaskReport};
use super::room::Space;
use super::row_buffer::{HeldRows, RowBuffer};
use crate::error::{Error, Result};
use crate::source::BatchNumber;

/// What a stateful operator gave, by state partition.
pub(crate) type Results = Arc<[HeldRows]>;

/// What the nodes of a stage find in the task context: the batch that they belong to, what the stages below
/// have given, and where they note what goes into the task's report.
pub(crate) struct Task {
    pub(crate) batch: Arc<Batch>,
    /// By operator, for those whose results are read here.
    inputs: BTreeMap<usize, Results>,
    /// Where rows wait that are noted.
    space: Space,
    notes: Mutex<Notes>,
    /// Whenever a stream that has to be read to its end has come there, or was let go before.
    changed: Notify,
}

/// What was noted so far.
#[derive(Default)]
struct Notes {
    report: TaskReport,
    /// The late rows of each operator, if they are kept.
    late_rows: BTreeMap<usize, RowBuffer>,
    /// The streams that have to be read to their end, by number and partition.
    streams: BTreeMap<(usize, usize), Reading>,
    /// How long they computed, by number, if that is to be noted.
    times: BTreeMap<usize, Duration>,
    /// Why the first of them to fail did.
    failure: Option<Error>,
    /// Whether nobody asks for the report any more.
    closed: bool,
}

/// How far a stream that has to be read to its end is.
enum Reading {
    /// Somebody is reading it.
    Open,
    /// Whoever read it wants no more of it.
    Dropped(SendableRecordBatchStream),
    /// There is nothing more, or it failed.
    Ended,
}

impl Task {
    pub(crate) fn new(batch: Arc<Batch>, inputs: BTreeMap<usize, Results>, space: Space) -> Self {
        Self { batch, inputs, space, notes: Mutex::default(), changed: Notify::new() }
    }

    /// A light context for this task, in the session of `session`; functions and formats are already
    /// resolved in the plan.
    pub(crate) fn context(self: &Arc<Self>, session: &TaskContext) -> Arc<TaskContext> {
        let number = Arc::new(BatchNumber(self.batch.identity.batch_id));
        let config = session.session_config().clone().with_extension(Arc::clone(self)).with_extension(number);
        Arc::new(TaskContext::new(
            None,
            session.session_id(),
            config,
            Default::default(),
            Default::default(),
            Default::default(),
            Default::default(),
            session.runtime_env(),
        ))
    }

    /// The task that `context` belongs to.
    pub(crate) fn of(context: &TaskContext) -> Result<Arc<Task>> {
        context.session_config().get_extension::<Task>().ok_or_else(|| {
            Error::Invalid("a plan of a streaming query can be executed only by its query".into())
        })
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an operator below gave.
    pub(crate) fn input(&self, operator: usize) -> Option<&Results> {
        self.inputs.get(&operator)
    }

    /// Counts rows that were read from a source.
    pub(crate) fn add_rows(&self, source: usize, rows: usize) {
        *self.notes().report.rows.entry(source).or_default() += rows as u64;
    }

    /// Notes event times that passed a watermark, and how many rows had none.
    pub(crate) fn add_event_times(&self, watermark: usize, seen: EventTimeSummary, untimed: u64) {
        let mut notes = self.notes();
        *notes.report.untimed.entry(watermark).or_default() += untimed;
        let known = notes.report.event_times.entry(watermark).or_default();
        *known = known.and(seen);
    }

    /// Notes what a partition of an observation has seen.
    pub(crate) fn add_observed(&self, observation: usize, partition: usize, observed: Observed) {
        self.notes().report.observed.insert((observation, partition), observed);
    }

    /// Notes the newest event times of groups that passed a watermark.
    pub(crate) fn add_group_times(&self, watermark: usize, newest_ms: BTreeMap<String, i64>) {
        self.notes().report.add_group_times(watermark, newest_ms);
    }

    /// Counts late rows of an operator, and keeps them if they are to be kept.
    pub(crate) fn add_late_rows(
        &self,
        operator: usize,
        count: usize,
        rows: impl FnOnce() -> DataFusionResult<RecordBatch>,
    ) -> DataFusionResult<()> {
        let rows = if self.batch.keeps_late_rows { Some(rows()?) } else { None };
        let mut notes = self.notes();
        let counters = notes.report.operators.entry(operator).or_default();
        counters.add(&OperatorCounters { late: count as u64, ..OperatorCounters::default() });
        match rows {
            Some(rows) => {
                let late_rows = notes.late_rows.entry(operator);
                late_rows.or_insert_with(|| RowBuffer::new(&self.space, 1)).push(rows)
            }
            None => Ok(()),
        }
    }

    /// Notes that somebody has begun to read a partition that has to be read to its end.
    pub(crate) fn opened(&self, number: usize, partition: usize) {
        self.notes().streams.insert((number, partition), Reading::Open);
    }

    /// Notes that a partition has been read to its end.
    pub(crate) fn ended(&self, number: usize, partition: usize) {
        let mut notes = self.notes();
        notes.streams.insert((number, partition), Reading::Ended);
        notes.report.finished.push(Finished::Rows { number, partition });
        drop(notes);
        self.changed.notify_one();
    }

    /// Notes that a partition cannot be read to its end, and gives the error to go on with: an operator may
    /// hand that one to several others, or to none, and what went wrong is to be known as what it is.
    pub(crate) fn failed(&self, number: usize, partition: usize, error: DataFusionError) -> DataFusionError {
        let text = error.strip_backtrace();
        let mut notes = self.notes();
        notes.streams.insert((number, partition), Reading::Ended);
        notes.failure.get_or_insert_with(|| Error::from(error));
        drop(notes);
        self.changed.notify_one();
        DataFusionError::Execution(text)
    }

    /// Notes how long a stream that has to be read to its end has computed.
    pub(crate) fn add_time(&self, number: usize, took: Duration) {
        *self.notes().times.entry(number).or_default() += took;
    }

    /// How long the streams that have to be read to their end have computed, by number.
    pub(crate) fn take_times(&self) -> BTreeMap<usize, Duration> {
        std::mem::take(&mut self.notes().times)
    }

    /// Notes what the operators of the stage did.
    pub(crate) fn add_measured(&self, measured: Vec<Measured>) {
        self.notes().report.measured = measured;
    }

    /// Why a stream that has to be read to its end could not be, if one could not.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.notes().failure.take()
    }

    /// Takes over the rest of a partition that was let go before its end.
    pub(crate) fn dropped(&self, number: usize, partition: usize, rest: SendableRecordBatchStream) {
        let mut notes = self.notes();
        if !notes.closed {
            let before = notes.streams.insert((number, partition), Reading::Dropped(rest));
            drop(notes);
            drop(before);
            self.changed.notify_one();
        }
    }

    /// Whether a partition was read, or begun to be.
    pub(crate) fn was_opened(&self, number: usize, partition: usize) -> bool {
        self.notes().streams.contains_key(&(number, partition))
    }

    /// Whether this partition has been read to its end.
    pub(crate) fn has_ended(&self, number: usize, partition: usize) -> bool {
        matches!(self.notes().streams.get(&(number, partition)), Some(Reading::Ended))
    }

    /// The rests of those of the `partitions` that were let go, as soon as there are any; none when all that
    /// were begun have ended. What is given counts as being read again.
    pub(crate) async fn rests(
        &self,
        number: usize,
        partitions: usize,
    ) -> Vec<(usize, SendableRecordBatchStream)> {
        loop {
            let mut rests = Vec::new();
            let mut open = false;
            for ((_, partition), reading) in self.notes().streams.range_mut((number, 0)..(number, partitions))
            {
                match std::mem::replace(reading, Reading::Open) {
                    Reading::Dropped(rest) => rests.push((*partition, rest)),
                    Reading::Ended => *reading = Reading::Ended,
                    Reading::Open => open = true,
                }
            }
            if !rests.is_empty() || !open {
                return rests;
            }
            // What happened since they were looked at is remembered.
            self.changed.notified().await;
        }
    }

    /// What was noted. What is let go from now on is forgotten.
    ///
    /// # Errors
    /// Those of the local disk, if late rows were moved there.
    pub(crate) fn close(&self) -> Result<TaskReport> {
        let mut notes = self.notes();
        notes.closed = true;
        let (mut report, streams) = (std::mem::take(&mut notes.report), std::mem::take(&mut notes.streams));
        let late_rows = std::mem::take(&mut notes.late_rows);
        drop(notes);
        // They let go of what they read from, which tells this task so.
        drop(streams);
        for (operator, rows) in late_rows {
            report.late_rows.entry(operator).or_default().push(rows.finish()?);
        }
        Ok(report)
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("batch", &self.batch).finish_non_exhaustive()
    }
}
