//! Where a run takes up: what the checkpoint says of the last batch that was planned.

use std::sync::Arc;

use serde_json::Value;

use super::batch::PlannedBatch;
use super::settings::FLUSH_ON_END;
use crate::checkpoint::records::{OffsetsRecord, later};
use crate::checkpoint::{Recovered, Recovery};
use crate::error::Result;
use crate::source::{Source, SourceBatch};

/// Where a run takes up.
pub(super) struct Resumed {
    pub(super) next_batch: u64,
    pub(super) rerun: Option<PlannedBatch>,
    /// The watermark for the next batch to plan.
    pub(super) watermark_ms: i64,
    /// The watermark of the last batch that was planned.
    pub(super) last_watermark_ms: i64,
    /// When it was planned, in milliseconds since the epoch.
    pub(super) last_time_ms: i64,
    /// Where the last batch that was planned ends, per source.
    pub(super) ends: Vec<Value>,
    /// Whether that batch made everything final.
    pub(super) has_flushed: bool,
}

/// Puts the sources where the checkpoint says they are.
pub(super) async fn resume(sources: &[Arc<dyn Source>], recovered: Recovered) -> Result<Resumed> {
    let mut last = Vec::new();
    let (mut last_watermark_ms, mut last_time_ms) = (0, i64::MIN);
    let mut watermark_ms = 0;
    let mut has_flushed = false;
    let (next_batch, ends, rerun) = match recovered.decision {
        Recovery::Fresh => (0, vec![Value::Null; sources.len()], None),
        Recovery::Next { batch_id, last_offsets, last_commit } => {
            last = inputs_of(&last_offsets, vec![Value::Null; sources.len()]);
            last_watermark_ms = last_offsets.batch_watermark_ms;
            last_time_ms = last_offsets.batch_timestamp_ms;
            watermark_ms = later(last_watermark_ms, last_commit.next_batch_watermark_ms);
            has_flushed = is_flush(&last_offsets) && last_commit.let_go.is_none();
            (batch_id, ends_of(&last_offsets), None)
        }
        Recovery::Rerun { offsets, previous } => {
            let starts = previous.as_ref().map_or_else(|| starts_of(&offsets), ends_of);
            let late_ms = previous.as_ref().map_or(0, |previous| previous.batch_watermark_ms);
            watermark_ms = offsets.batch_watermark_ms;
            has_flushed = is_flush(&offsets);
            last_time_ms = offsets.batch_timestamp_ms;
            last_watermark_ms = late_ms;
            let rerun = PlannedBatch { inputs: inputs_of(&offsets, starts), record: offsets, late_ms };
            (rerun.record.batch_id, ends_of(&rerun.record), Some(rerun))
        }
    };
    let mut history = recovered.history.into_iter();
    for (source, end) in sources.iter().zip(&ends) {
        source.restore(end.clone(), history.next().unwrap_or_default()).await?;
    }
    if rerun.is_none() {
        // Its clean-up may have been cut off after the commit.
        for (source, batch) in sources.iter().zip(last).filter(|(_, batch)| !batch.entries.is_empty()) {
            source.commit(&batch).await?;
        }
    }
    Ok(Resumed { next_batch, rerun, watermark_ms, last_watermark_ms, last_time_ms, ends, has_flushed })
}

/// Whether the batch was planned to make everything final.
fn is_flush(record: &OffsetsRecord) -> bool {
    record.conf.contains_key(FLUSH_ON_END)
}

fn starts_of(record: &OffsetsRecord) -> Vec<Value> {
    record.sources.iter().map(|source| source.start.clone()).collect()
}

fn ends_of(record: &OffsetsRecord) -> Vec<Value> {
    record.sources.iter().map(|source| source.end.clone()).collect()
}

fn inputs_of(record: &OffsetsRecord, starts: Vec<Value>) -> Vec<SourceBatch> {
    record
        .sources
        .iter()
        .zip(starts)
        .map(|(source, start)| SourceBatch {
            start,
            end: source.end.clone(),
            entries: source.entries.clone(),
        })
        .collect()
}
