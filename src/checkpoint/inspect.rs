//! What a checkpoint says of its query, for people. A running query is not disturbed.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use serde_json::Value;
use url::Url;

use super::read::{CONCURRENT_READS, Failure, commit, contents, metadata, numbers, offsets};
use super::records::{Metadata, QueryDefinition};
use super::{Recovery, layout};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// How many of the newest batches are read at most: older ones are merged away in time anyway.
const MOST_BATCHES: usize = 1000;

/// What [`inspect`] found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Inspection {
    /// The query's id.
    pub id: uuid::Uuid,
    /// The version of Tidemill that made the checkpoint.
    pub created_by: String,
    /// What a restart must find unchanged: sources, sink, output mode, stateful operators.
    pub definition: QueryDefinition,
    /// Batches that the checkpoint still has records of, oldest first.
    pub batches: Vec<Batch>,
    /// What a start would do.
    pub restart: Restart,
    /// Files, and their bytes, of the records (not of the state).
    pub record_files: u64,
    /// How long those are together.
    pub record_bytes: u64,
}

/// One batch of an [`Inspection`].
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Batch {
    /// Its number.
    pub batch_id: u64,
    /// Whether it is done.
    pub committed: bool,
    /// When it was planned, in milliseconds since the epoch; `None` if only its commit is left.
    pub planned_ms: Option<i64>,
    /// The watermark that its rows were judged by, 0 without one.
    pub watermark_ms: i64,
    /// Per source, how far it had been read by its end.
    pub ends: Vec<Value>,
    /// Per source, how many files, or what else it counts, it read.
    pub entries: Vec<u64>,
    /// Rows written, if the sink counts them.
    pub output_rows: Option<u64>,
}

/// What a start would do with a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "action")]
#[non_exhaustive]
pub enum Restart {
    /// It would begin at the beginning: no batch has been planned.
    Begin,
    /// All planned batches are done; it would go on with this one.
    #[serde(rename_all = "camelCase")]
    GoOn {
        /// The batch.
        batch_id: u64,
    },
    /// This batch was planned and not committed; it would run again, over the same input.
    #[serde(rename_all = "camelCase")]
    RunAgain {
        /// The batch.
        batch_id: u64,
    },
    /// It would refuse to start.
    #[serde(rename_all = "camelCase")]
    Refuse {
        /// Why.
        reason: String,
    },
}

/// Reads what the checkpoint in `storage` says of its query; `None` if there is none.
///
/// # Errors
/// If something cannot be read. Records that are missing are what [`Restart::Refuse`] says.
pub async fn inspect(storage: &dyn Storage) -> Result<Option<Inspection>> {
    let Some(metadata) = metadata(storage).await? else { return Ok(None) };
    let mut files = storage.list("").await?;
    let planned = storage.list(layout::OFFSETS).await?;
    let committed = storage.list(layout::COMMITS).await?;
    let sources = metadata.definition.sources.len();
    let known: BTreeSet<u64> = numbers(&planned).union(&numbers(&committed)).copied().collect();
    let newest = known.iter().rev().take(MOST_BATCHES).rev().copied();
    let batches: Vec<Batch> = stream::iter(newest.collect::<Vec<_>>())
        .map(|id| batch(storage, id, sources))
        .buffered(CONCURRENT_READS)
        .try_collect()
        .await?;
    files.extend(planned);
    files.extend(committed);
    files.extend(storage.list(layout::FENCE).await?);
    for source in 0..sources {
        files.extend(storage.list(&layout::history(source)).await?);
    }
    let Metadata { id, created_by, definition, .. } = metadata;
    Ok(Some(Inspection {
        id,
        created_by,
        definition,
        batches,
        restart: restart(storage).await?,
        record_files: files.len() as u64,
        record_bytes: files.iter().map(|file| file.size).sum(),
    }))
}

async fn batch(storage: &dyn Storage, batch_id: u64, sources: usize) -> Result<Batch> {
    let planned = offsets(storage, batch_id, sources).await?;
    let committed = commit(storage, batch_id).await?;
    let planned = planned.as_ref();
    let of_sources = planned.map_or(&[][..], |planned| planned.sources.as_slice());
    Ok(Batch {
        batch_id,
        committed: committed.is_some(),
        planned_ms: planned.map(|planned| planned.batch_timestamp_ms),
        watermark_ms: planned.map_or(0, |planned| planned.batch_watermark_ms),
        ends: of_sources.iter().map(|source| source.end.clone()).collect(),
        entries: of_sources.iter().map(|source| source.entries.len() as u64).collect(),
        output_rows: committed.and_then(|commit| commit.sink.get("numRows")?.as_u64()),
    })
}

async fn restart(storage: &dyn Storage) -> Result<Restart> {
    let damage = match contents(storage).await {
        Ok(found) => {
            return Ok(match found.recovered.decision {
                Recovery::Fresh => Restart::Begin,
                Recovery::Next { batch_id, .. } => Restart::GoOn { batch_id },
                Recovery::Rerun { offsets, .. } => Restart::RunAgain { batch_id: offsets.batch_id },
            });
        }
        Err(Failure::Missing(error) | Failure::Error(error)) => error,
    };
    match damage {
        damage @ Error::CheckpointDamaged { .. } => Ok(Restart::Refuse { reason: damage.to_string() }),
        other => Err(other),
    }
}

impl std::fmt::Display for Restart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Restart::Begin => f.write_str("begins with batch 0: none has been planned"),
            Restart::GoOn { batch_id } => {
                write!(f, "goes on with batch {batch_id}: all before it are done")
            }
            Restart::RunAgain { batch_id } => {
                write!(
                    f,
                    "runs batch {batch_id} again, over the same input: it was planned and not committed"
                )
            }
            Restart::Refuse { reason } => write!(f, "is refused: {reason}"),
        }
    }
}

impl Inspection {
    /// Where a recorded place is, seen from the checkpoint at `checkpoint`.
    pub fn place(recorded: Option<&super::records::Location>, checkpoint: &Url) -> Option<String> {
        super::place_of(recorded?, checkpoint).map(String::from)
    }
}
