//! What one batch is about.

use super::event_time::Watermarks;
use crate::sink::SinkBatch;
use crate::source::SourceBatch;

/// One batch: its identity, and everything that decides what its stages give. It does not change while they
/// run.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Which batch of which query.
    pub(crate) identity: SinkBatch,
    /// What each source reads, by source index.
    pub(crate) inputs: Vec<SourceBatch>,
    /// What counts as late, and what is final.
    pub(crate) watermarks: Watermarks,
    /// Whether late rows are to be given back, rather than only counted.
    pub(crate) keeps_late_rows: bool,
    /// Whether it is to be noted what each operator of the plan does.
    pub(crate) measures: bool,
    /// When it was planned, in milliseconds since the epoch.
    pub(crate) time_ms: i64,
    /// Whether no batch has left anything in state yet.
    pub(crate) is_first: bool,
}
