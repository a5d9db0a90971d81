//! What one batch is about, handed to operators through the task context.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;

use super::event_time::{EventTimes, Watermarks};
use super::operator::OperatorCounters;
use crate::error::{Error, Result};
use crate::sink::SinkBatch;
use crate::source::SourceBatch;
use crate::state::StateStore;

/// One batch: its identity and the new rows of every source. A session-config extension, so that
/// plans cached across batches find the current one.
#[derive(Debug)]
pub(crate) struct Epoch {
    /// Which batch of which query.
    pub(crate) batch: SinkBatch,
    /// What each source reads, by source index.
    pub(crate) inputs: Vec<EpochInput>,
    /// What the stateful operators remember; without operators and thus tables for most queries.
    pub(crate) state: Arc<StateStore>,
    /// What counts as late, and what is final.
    pub(crate) watermarks: Watermarks,
    /// What was seen of the event time at each watermark of the plan.
    pub(crate) event_times: Vec<EventTimes>,
    /// What each stateful operator did.
    pub(crate) operators: Vec<OperatorCounters>,
    /// The late rows of each operator, if they are to be kept.
    pub(crate) late_rows: Option<Vec<Mutex<Vec<RecordBatch>>>>,
}

/// One source's part of a batch.
#[derive(Debug)]
pub(crate) struct EpochInput {
    /// The rows to read.
    pub(crate) batch: SourceBatch,
    /// How many rows were read so far, counted by every scan of the source.
    rows: AtomicU64,
}

impl EpochInput {
    pub(crate) fn new(batch: SourceBatch) -> Self {
        Self { batch, rows: AtomicU64::new(0) }
    }

    pub(crate) fn add_rows(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// A copy as it is now.
    pub(crate) fn snapshot(&self) -> Self {
        Self { batch: self.batch.clone(), rows: AtomicU64::new(self.rows()) }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

impl Epoch {
    /// Keeps late rows of an operator, if they are to be kept.
    pub(crate) fn add_late_rows(
        &self,
        operator: usize,
        rows: impl FnOnce() -> DataFusionResult<RecordBatch>,
    ) -> DataFusionResult<()> {
        if let Some(kept) = self.late_rows.as_ref().and_then(|late| late.get(operator)) {
            let rows = rows()?;
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(rows);
        }
        Ok(())
    }

    /// The late rows of an operator that were kept.
    pub(crate) fn take_late_rows(&self, operator: usize) -> Vec<RecordBatch> {
        let kept = self.late_rows.as_ref().and_then(|late| late.get(operator));
        kept.map(|kept| std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner)))
            .unwrap_or_default()
    }

    /// A light context for this batch; functions and formats are already resolved in the plan.
    pub(crate) fn task_context(self: &Arc<Self>, state: &SessionState) -> Arc<TaskContext> {
        let config = state.config().clone().with_extension(Arc::clone(self));
        Arc::new(TaskContext::new(
            None,
            state.session_id().to_string(),
            config,
            Default::default(),
            Default::default(),
            Default::default(),
            Default::default(),
            Arc::clone(state.runtime_env()),
        ))
    }

    /// The batch that `context` belongs to.
    pub(crate) fn of(context: &TaskContext) -> Result<Arc<Epoch>> {
        context.session_config().get_extension::<Epoch>().ok_or_else(|| {
            Error::Invalid("a plan of a streaming query can be executed only by its query".into())
        })
    }
}
