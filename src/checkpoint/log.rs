//! A checkpoint in the hands of one run of its query.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use uuid::Uuid;

use super::fence::{Fence, Placed, concurrent};
use super::history::Segment;
use super::read::{self, Failure};
use super::records::{CommitRecord, Metadata, OffsetsRecord, QueryDefinition};
use super::recovered::Recovered;
use super::{frame, layout};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// How often a start reads the checkpoint anew while an earlier run still merges files.
const READ_ATTEMPTS: usize = 3;

/// A checkpoint that this run owns until a later start takes it over.
///
/// Per batch it does five storage calls: look at the fence and create `offsets/N`; look at the
/// fence, create `commits/N`, and look at the fence again. Looking before spares a later run the
/// trouble of finding a batch that is not its own. Looking after the commit is what makes it count:
/// a run that slept through the life of another could find the name free again because it was
/// purged.
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) fence: Fence,
    progress: Mutex<Progress>,
    pub(super) upkeep: tokio::sync::Mutex<Upkeep>,
}

/// What the batches came to, and which of their files there are.
#[derive(Debug, Default)]
pub(super) struct Progress {
    has_metadata: bool,
    planned: Option<u64>,
    pub(super) committed: Option<u64>,
    pub(super) offsets: BTreeSet<u64>,
    pub(super) commits: BTreeSet<u64>,
}

/// What maintenance knows.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// The segments in use, per source, without gaps from batch 0 on.
    pub(super) segments: Vec<Vec<Segment>>,
    /// Files that are not needed any more.
    pub(super) redundant: Vec<String>,
    /// How many groups of segments were found too large to merge, per source.
    pub(super) full_groups: Vec<usize>,
    /// Whether the last maintenance left nothing undone.
    pub(super) settled: bool,
}

impl Checkpoint {
    /// Reads who the query is, with the columns that it has now, without taking the checkpoint over; `None` if
    /// there is none.
    ///
    /// # Errors
    /// [`Error::CheckpointDamaged`] if it is there and cannot be read.
    pub async fn read_metadata(storage: &dyn Storage) -> Result<Option<Metadata>> {
        read::metadata(storage).await
    }

    /// Whether the query has become one with more columns than it had at first.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn has_grown(storage: &dyn Storage) -> Result<bool> {
        Ok(!read::numbers(&storage.list(layout::DEFINITION).await?).is_empty())
    }

    /// The batches whose commit records are there, without taking the checkpoint over.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn committed_batches(storage: &dyn Storage) -> Result<BTreeSet<u64>> {
        Ok(read::numbers(&storage.list(layout::COMMITS).await?))
    }

    /// Reads a commit record without taking the checkpoint over; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::CheckpointDamaged`] if it is there and cannot be read.
    pub async fn read_commit(storage: &dyn Storage, batch_id: u64) -> Result<Option<CommitRecord>> {
        read::commit(storage, batch_id).await
    }

    /// Reads what a batch was planned to read, without taking the checkpoint over; `None` if that is not there.
    ///
    /// # Errors
    /// [`Error::CheckpointDamaged`] if it is there and cannot be read.
    pub async fn read_offsets(storage: &dyn Storage, batch_id: u64) -> Result<Option<OffsetsRecord>> {
        read::record(storage, &layout::offsets(batch_id)).await
    }

    /// Takes the checkpoint over from whichever run had it, and reads how to go on.
    ///
    /// # Errors
    /// [`Error::CheckpointDamaged`], naming the file, if one is missing or not as it was written.
    pub async fn open(storage: Arc<dyn Storage>, run_id: Uuid) -> Result<(Self, Recovered)> {
        let fence = Fence::claim(Arc::clone(&storage), run_id).await?;
        let mut attempt = 1;
        let contents = loop {
            match read::contents(&*storage).await {
                Err(Failure::Missing(_)) if attempt < READ_ATTEMPTS => attempt += 1,
                result => break result,
            }
        };
        // A run that was overtaken meanwhile saw a later one's files come and go.
        fence.check().await?;
        let contents = contents.map_err(|failure| match failure {
            Failure::Missing(error) | Failure::Error(error) => error,
        })?;
        let facts = contents.facts;
        let progress = Progress {
            has_metadata: facts.metadata,
            planned: facts.latest(),
            committed: contents.recovered.last_commit.as_ref().map(|commit| commit.batch_id),
            offsets: facts.offsets,
            commits: facts.commits,
        };
        let upkeep = Upkeep {
            full_groups: vec![0; contents.segments.len()],
            segments: contents.segments,
            redundant: contents.redundant,
            settled: false,
        };
        let checkpoint =
            Self { storage, fence, progress: Mutex::new(progress), upkeep: tokio::sync::Mutex::new(upkeep) };
        Ok((checkpoint, contents.recovered))
    }

    /// Fails if another run has taken the checkpoint over.
    ///
    /// # Errors
    /// [`Error::ConcurrentQuery`] if it has.
    pub async fn check_owner(&self) -> Result<()> {
        self.fence.check().await
    }

    /// The first batch whose commit record is there.
    pub(crate) fn oldest_commit(&self) -> Option<u64> {
        self.progress().commits.first().copied()
    }

    /// The batch that is planned and not committed.
    pub(crate) fn unfinished(&self) -> Option<u64> {
        let progress = self.progress();
        progress.planned.filter(|planned| Some(*planned) != progress.committed)
    }

    /// Writes who the query is, once, before its first batch.
    ///
    /// # Errors
    /// [`Error::ConcurrentQuery`] if another run has written something else.
    pub async fn create_metadata(&self, metadata: &Metadata) -> Result<()> {
        self.write(layout::METADATA, metadata, false).await?;
        self.progress().has_metadata = true;
        let sources = metadata.definition.sources.len();
        let mut upkeep = self.upkeep.lock().await;
        upkeep.segments.resize(sources, Vec::new());
        upkeep.full_groups.resize(sources, 0);
        Ok(())
    }

    /// Writes what the query is from now on: the same, with more columns.
    ///
    /// # Errors
    /// [`Error::ConcurrentQuery`] if another run has taken over or written something else.
    pub(crate) async fn write_definition(&self, definition: &QueryDefinition) -> Result<()> {
        self.fence.check().await?;
        let written = read::numbers(&self.storage.list(layout::DEFINITION).await?);
        let number = written.last().map_or(1, |last| last + 1);
        self.write(&layout::definition(number), definition, true).await
    }

    /// Forgets who the query is and what it planned, so that it may be another one. Only for a checkpoint
    /// without a committed batch, from which nothing has come.
    ///
    /// # Errors
    /// [`Error::ConcurrentQuery`] if another run has taken over.
    pub(crate) async fn start_over(&self) -> Result<()> {
        self.fence.check().await?;
        for planned in self.storage.list(layout::OFFSETS).await? {
            self.storage.delete(&planned.path).await?;
        }
        for grown in self.storage.list(layout::DEFINITION).await? {
            self.storage.delete(&grown.path).await?;
        }
        // What is listed is durable, and so is what is not.
        self.storage.list(layout::OFFSETS).await?;
        self.storage.list(layout::DEFINITION).await?;
        self.storage.delete(layout::METADATA).await
    }

    /// Writes the plan of the next batch. May be repeated with the same record.
    ///
    /// # Errors
    /// [`Error::ConcurrentQuery`] if another run has taken over or planned this batch;
    /// [`Error::Invalid`] if it is not this batch's turn.
    pub async fn write_offsets(&self, record: &OffsetsRecord) -> Result<()> {
        let batch = record.batch_id;
        {
            let progress = self.progress();
            let next = progress.committed.map_or(0, |committed| committed + 1);
            if batch != next || !progress.has_metadata {
                let turn =
                    if progress.has_metadata { format!("batch {next}") } else { "the metadata".to_string() };
                return Err(Error::Invalid(format!(
                    "batch {batch} cannot be planned: it is the turn of {turn}"
                )));
            }
        }
        self.write(&layout::offsets(batch), record, false).await?;
        let mut progress = self.progress();
        progress.planned = Some(batch);
        progress.offsets.insert(batch);
        Ok(())
    }

    /// Writes that the planned batch is done. May be repeated with the same record.
    ///
    /// After an error it is open whether the record is there: what it names must not be removed;
    /// the next start finds out.
    ///
    /// # Errors
    /// [`Error::ConcurrentQuery`] if another run has taken over or committed this batch: then it
    /// must not be published. [`Error::Invalid`] if it is not this batch's turn.
    pub async fn write_commit(&self, record: &CommitRecord) -> Result<()> {
        let batch = record.batch_id;
        {
            let progress = self.progress();
            if progress.planned != Some(batch) {
                return Err(Error::Invalid(format!(
                    "batch {batch} cannot be committed: it was not planned last"
                )));
            }
        }
        self.write(&layout::commit(batch), record, true).await?;
        let mut progress = self.progress();
        progress.committed = Some(batch);
        progress.commits.insert(batch);
        Ok(())
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        // Valid after every single step, so also after a panic in between.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a record if no other run has taken over, be it before, or `afterwards` if that matters.
    async fn write<T: Serialize>(&self, path: &str, record: &T, afterwards: bool) -> Result<()> {
        match self.fence.place(path, &frame::encode(record)?, afterwards).await? {
            Placed::Mine => Ok(()),
            Placed::Other => Err(concurrent(&*self.storage, format!("it has written '{path}' differently"))),
        }
    }
}
