//! Letting a planned batch go, so that the next start plans it anew.
//!
//! A batch that was planned runs again and again exactly as it was planned, until it is committed. If it
//! never can be, because a file has changed since, or because it does not fit into memory, it can be let
//! go: a commit record says that it read nothing. Like every commit it is created once and under the
//! fence, so that it and the commit of a run that is still at work exclude one another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use uuid::Uuid;

use super::layout;
use super::log::Checkpoint;
use super::read::{self, CONCURRENT_READS, Failure, numbers};
use super::records::{CommitRecord, LetGo, Metadata, OffsetsRecord};
use super::recovered::{Recovered, Recovery};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// What has become of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchStatus {
    /// It was planned, and the next start runs it as it was planned.
    Planned,
    /// It is done.
    Committed,
    /// It was planned and let go without being run.
    LetGo,
}

/// A batch of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSummary {
    /// Its number.
    pub batch_id: u64,
    /// When it was planned, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Its watermark, in milliseconds since the epoch; 0 if there was none.
    pub watermark_ms: i64,
    /// What has become of it.
    pub status: BatchStatus,
    /// Per source its format, and how many entries (the file source: files) the plan has of it.
    pub sources: Vec<(String, usize)>,
}

impl BatchSummary {
    fn of(plan: &OffsetsRecord, status: BatchStatus, metadata: &Metadata) -> Self {
        let sources = metadata.definition.sources.iter().zip(&plan.sources);
        Self {
            batch_id: plan.batch_id,
            timestamp_ms: plan.batch_timestamp_ms,
            watermark_ms: plan.batch_watermark_ms,
            status,
            sources: sources.map(|(source, offset)| (source.format.clone(), offset.entries.len())).collect(),
        }
    }
}

/// The batches whose files are still there, oldest first, without taking the checkpoint over. Of those
/// that a running query removes meanwhile it says nothing.
///
/// # Errors
/// [`Error::Invalid`] if there is no checkpoint; [`Error::CheckpointDamaged`] if a file is.
pub async fn batches(storage: &dyn Storage) -> Result<Vec<BatchSummary>> {
    let metadata = metadata_of(storage).await?;
    let sources = metadata.definition.sources.len();
    let planned = numbers(&storage.list(layout::OFFSETS).await?);
    let found: BTreeMap<u64, Option<BatchSummary>> = stream::iter(planned)
        .map(|batch| {
            let metadata = &metadata;
            async move {
                let plan = read::offsets(storage, batch, sources).await?;
                let status = match read::commit(storage, batch).await? {
                    None => BatchStatus::Planned,
                    Some(commit) if commit.let_go.is_some() => BatchStatus::LetGo,
                    Some(_) => BatchStatus::Committed,
                };
                Ok::<_, Error>((batch, plan.map(|plan| BatchSummary::of(&plan, status, metadata))))
            }
        })
        .buffered(CONCURRENT_READS)
        .try_collect()
        .await?;
    let committed: BTreeSet<u64> = numbers(&storage.list(layout::COMMITS).await?);
    let newest = committed.last().copied();
    Ok(found
        .into_values()
        .flatten()
        // Purged between the two looks, or committed after the first.
        .filter(|batch| batch.status != BatchStatus::Planned || newest < Some(batch.batch_id))
        .collect())
}

/// The batch that [`replan`] would let go; `None` if every planned batch is done. Changes nothing.
///
/// # Errors
/// As [`batches`].
pub async fn planned(storage: &dyn Storage) -> Result<Option<BatchSummary>> {
    let metadata = metadata_of(storage).await?;
    let contents = read::contents(storage).await.map_err(|failure| match failure {
        Failure::Missing(error) | Failure::Error(error) => error,
    })?;
    Ok(match contents.recovered.decision {
        Recovery::Rerun { offsets, .. } => Some(BatchSummary::of(&offsets, BatchStatus::Planned, &metadata)),
        Recovery::Fresh | Recovery::Next { .. } => None,
    })
}

/// Lets the batch go that was planned and is not done, so that the next start plans anew what it was to
/// read. Gives that batch, or `None` if there is none. Takes the checkpoint over, as a start does: a run
/// that is still at work on it ends.
///
/// # Errors
/// As those of a start; [`Error::ConcurrentQuery`] if a run has just committed the batch.
pub async fn replan(storage: Arc<dyn Storage>, run_id: Uuid) -> Result<Option<BatchSummary>> {
    let metadata = metadata_of(&*storage).await?;
    let (checkpoint, recovered) = Checkpoint::open(storage, run_id).await?;
    let Recovered { decision: Recovery::Rerun { offsets, previous }, last_commit, .. } = recovered else {
        return Ok(None);
    };
    let summary = BatchSummary::of(&offsets, BatchStatus::LetGo, &metadata);
    checkpoint.write_commit(&let_go(&offsets, previous.as_ref(), last_commit)).await?;
    Ok(Some(summary))
}

/// The commit of a batch that did nothing: all is as the batch before has left it.
fn let_go(
    plan: &OffsetsRecord,
    previous: Option<&OffsetsRecord>,
    last_commit: Option<CommitRecord>,
) -> CommitRecord {
    let let_go = LetGo {
        batch_watermark_ms: previous.map_or(0, |previous| previous.batch_watermark_ms),
        ends: match previous {
            Some(previous) => previous.sources.iter().map(|source| source.end.clone()).collect(),
            None => plan.sources.iter().map(|source| source.start.clone()).collect(),
        },
    };
    let nothing = CommitRecord {
        batch_id: plan.batch_id,
        query_id: None,
        next_batch_watermark_ms: plan.batch_watermark_ms,
        streams: Vec::new(),
        sink: Value::Null,
        late: Vec::new(),
        state: Value::Null,
        copied: false,
        let_go: None,
    };
    let before = last_commit.unwrap_or_else(|| nothing.clone());
    CommitRecord {
        batch_id: nothing.batch_id,
        query_id: None,
        next_batch_watermark_ms: nothing.next_batch_watermark_ms,
        let_go: Some(let_go),
        ..before
    }
}

async fn metadata_of(storage: &dyn Storage) -> Result<Metadata> {
    let metadata = Checkpoint::read_metadata(storage).await?;
    metadata.ok_or_else(|| Error::Invalid(format!("'{}' is not the checkpoint of a query", storage.url())))
}
