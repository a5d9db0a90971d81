//! Copying a checkpoint while its query goes on.
//!
//! Files never change, so a copy is consistent if it holds what belongs to one moment. `metadata` is copied last:
//! what is cut off before is no checkpoint.
//!
//! Sinks, and whoever else tells queries apart, go by the id. So a copy, which may run beside the original, is another
//! query, whose sink has nothing of the batches so far; a backup, which takes the original's place, is the same one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::history::cover;
use super::log::Checkpoint;
use super::read::{self, numbers, ranges};
use super::records::{CommitRecord, CopyOf, Metadata};
use super::{frame, layout, location};
use crate::error::{Error, Result};
use crate::id::{IdGenerator, RandomIds};
use crate::storage::{Created, Storage};

/// How many times the files are looked at anew, because the query has removed some meanwhile.
const ATTEMPTS: usize = 20;
/// Larger files are copied piece by piece.
const PIECE: u64 = 8 << 20;

/// A checkpoint that was copied, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The last batch of it that is done; `None` if none is.
    pub last_batch: Option<u64>,
    /// How many files it has.
    pub files: u64,
    /// How long they are together.
    pub bytes: u64,
}

/// The files of a checkpoint at one moment, with their lengths.
struct Snapshot {
    last_batch: Option<u64>,
    files: BTreeMap<String, u64>,
    metadata: Metadata,
}

/// Who the query of a copy is.
#[derive(Clone, Copy)]
enum Identity {
    Same,
    New(Uuid),
}

/// Why a look at the files, or a copy, has to be begun anew.
enum Stopped {
    /// A file has vanished.
    Gone,
    Error(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Stopped::Error(error)
    }
}

/// What [`copy`] would copy. Changes nothing.
///
/// # Errors
/// [`Error::Invalid`] if there is no checkpoint; [`Error::CheckpointDamaged`] if a file is.
pub async fn copying(from: &dyn Storage) -> Result<Copied> {
    for _ in 0..ATTEMPTS {
        if let Some(snapshot) = unless_gone(snapshot(from).await)? {
            return Ok(snapshot.summary());
        }
    }
    Err(too_busy(from))
}

/// Copies the checkpoint in `from` to `to`, where there must be none: all that a start needs, and the batches
/// that can be gone back to. A query may run on it meanwhile; the copy is of one moment between two batches.
///
/// The copy is a query of its own, with an id of its own, that goes on where the original was: both may run. Its
/// first start says where its results go.
///
/// # Errors
/// As [`copying`], and [`Error::Invalid`] if there is a checkpoint in `to` or `to` is `from`.
pub async fn copy(from: &dyn Storage, to: &dyn Storage) -> Result<Copied> {
    copy_as(Identity::New(RandomIds.next_id()), from, to).await
}

/// Like [`copy`], but the copy is the same query: it is there to take the place of the original. Only one of the two
/// may run from then on, for to a sink they are one.
///
/// # Errors
/// As [`copy`].
pub async fn back_up(from: &dyn Storage, to: &dyn Storage) -> Result<Copied> {
    copy_as(Identity::Same, from, to).await
}

async fn copy_as(identity: Identity, from: &dyn Storage, to: &dyn Storage) -> Result<Copied> {
    if location::same_place(
        &location::location_of(to.url(), to.url()),
        &location::location_of(from.url(), to.url()),
    ) {
        return Err(Error::Invalid("a checkpoint cannot be copied to where it is".into()));
    }
    if to.size(layout::METADATA).await?.is_some() {
        return Err(Error::Invalid(format!("there is a checkpoint in '{}' already", to.url())));
    }
    for _ in 0..ATTEMPTS {
        if let Some(copied) = unless_gone(copy_once(identity, from, to).await)? {
            return Ok(copied);
        }
    }
    Err(too_busy(from))
}

async fn copy_once(identity: Identity, from: &dyn Storage, to: &dyn Storage) -> Result<Copied, Stopped> {
    let snapshot = snapshot(from).await?;
    for (path, size) in snapshot.files.iter().filter(|(path, _)| *path != layout::METADATA) {
        match (identity, layout::directory(path)) {
            // What they say is in `metadata`.
            (Identity::New(_), layout::DEFINITION) => {}
            (Identity::New(_), layout::COMMITS) => copy_commit(from, to, path).await?,
            _ => copy_file(from, to, path, *size).await?,
        }
    }
    // Of an attempt before this one.
    for directory in [layout::OFFSETS, layout::COMMITS] {
        for stray in to.list(directory).await? {
            if !snapshot.files.contains_key(&stray.path) {
                to.delete(&stray.path).await?;
            }
        }
    }
    match identity {
        Identity::Same => copy_file(from, to, layout::METADATA, snapshot.files[layout::METADATA]).await?,
        Identity::New(id) => {
            let copy_of = Some(CopyOf { id: snapshot.metadata.id, is_new: true });
            let metadata = Metadata { id, copy_of, ..snapshot.metadata.clone() };
            create(to, layout::METADATA, frame::encode(&metadata)?).await?;
        }
    }
    Ok(snapshot.summary())
}

/// Copies the commit of a batch whose rows the sink of the original has.
async fn copy_commit(from: &dyn Storage, to: &dyn Storage, path: &str) -> Result<(), Stopped> {
    let Some(mut commit) = read::record::<CommitRecord>(from, path).await? else { return Err(Stopped::Gone) };
    (commit.query_id, commit.copied) = (None, true);
    (commit.sink, commit.late) = (Value::Null, Vec::new());
    create(to, path, frame::encode(&commit)?).await
}

async fn create(to: &dyn Storage, path: &str, body: Bytes) -> Result<(), Stopped> {
    if to.create(path, body.clone()).await? == Created::Exists && to.read(path).await? != Some(body) {
        let reason = format!("there is another file '{path}' in '{}' already", to.url());
        return Err(Error::Invalid(reason).into());
    }
    Ok(())
}

fn unless_gone<T>(done: Result<T, Stopped>) -> Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(Stopped::Gone) => Ok(None),
        Err(Stopped::Error(error)) => Err(error),
    }
}

fn too_busy(from: &dyn Storage) -> Error {
    let reason =
        "it removes files faster than they can be read. Give it a larger minBatchesToRetain, or stop it";
    Error::ConcurrentQuery { checkpoint: from.url().to_string(), reason: reason.into() }
}

impl Snapshot {
    fn summary(&self) -> Copied {
        Copied {
            last_batch: self.last_batch,
            files: self.files.len() as u64,
            bytes: self.files.values().sum(),
        }
    }
}

async fn snapshot(storage: &dyn Storage) -> Result<Snapshot, Stopped> {
    let Some(metadata) = Checkpoint::read_metadata(storage).await? else {
        let reason = format!("'{}' is not the checkpoint of a query", storage.url());
        return Err(Error::Invalid(reason).into());
    };
    // In the order in which they come to be: what is listed later can only be younger.
    let offsets = storage.list(layout::OFFSETS).await?;
    let commits = storage.list(layout::COMMITS).await?;
    let (planned, committed) = (numbers(&offsets), numbers(&commits));
    let done: BTreeSet<u64> = planned.intersection(&committed).copied().collect();
    let last = done.last().copied();
    // The batch after it, if it was planned, belongs to it: that is what a start runs again.
    let upto = last.map_or(0, |last| last + 1);
    let mut files = BTreeMap::new();
    let mut take = |path: String, size: u64| files.insert(path, size);
    for source in 0..metadata.definition.sources.len() {
        let listed = storage.list(&layout::history(source)).await?;
        let cover = cover(&ranges(&listed));
        if cover.gap.is_some() || cover.used.iter().any(|(first, end)| *first < upto && *end >= upto) {
            return Err(Stopped::Gone);
        }
        for (first, end) in cover.used.into_iter().filter(|(_, end)| *end < upto) {
            let path = layout::segment(source, first, end);
            let size = listed.iter().find(|file| file.path == path).map_or(0, |file| file.size);
            take(path, size);
        }
    }
    for file in offsets {
        if layout::number(layout::name(&file.path)).is_some_and(|batch| batch <= upto) {
            take(file.path, file.size);
        }
    }
    for file in commits {
        let Some(batch) = layout::number(layout::name(&file.path)).filter(|batch| done.contains(batch))
        else {
            continue;
        };
        let Some(commit) = read::commit(storage, batch).await? else { return Err(Stopped::Gone) };
        for segment in state_files(&commit.state) {
            take(segment.file, segment.bytes);
        }
        take(file.path, file.size);
    }
    // Written before the batches that need them.
    for file in storage.list(layout::DEFINITION).await? {
        if layout::number(layout::name(&file.path)).is_some() {
            take(file.path, file.size);
        }
    }
    let Some(size) = storage.size(layout::METADATA).await? else { return Err(Stopped::Gone) };
    take(layout::METADATA.to_string(), size);
    Ok(Snapshot { last_batch: last, files, metadata })
}

/// As much of the state's manifest as matters here.
#[derive(Debug, Deserialize)]
struct Manifest {
    segments: Vec<StateFile>,
}

#[derive(Debug, Deserialize)]
struct StateFile {
    file: String,
    bytes: u64,
}

fn state_files(manifest: &Value) -> Vec<StateFile> {
    // What does not say where its state is, is damaged in the copy, too.
    serde_json::from_value::<Manifest>(manifest.clone()).map_or_else(|_| Vec::new(), |known| known.segments)
}

/// Copies the state that a commit names.
pub(super) async fn copy_state(from: &dyn Storage, to: &dyn Storage, manifest: &Value) -> Result<()> {
    for StateFile { file, bytes } in state_files(manifest) {
        if unless_gone(copy_file(from, to, &file, bytes).await)?.is_none() {
            return Err(Error::damaged(file, "it is gone, and a commit names it"));
        }
    }
    Ok(())
}

async fn copy_file(from: &dyn Storage, to: &dyn Storage, path: &str, size: u64) -> Result<(), Stopped> {
    if to.size(path).await? == Some(size) {
        // Of an attempt before this one.
        return Ok(());
    }
    if size <= PIECE {
        let Some(body) = from.read(path).await? else { return Err(Stopped::Gone) };
        return create(to, path, body).await;
    }
    let mut writer = to.writer(path).await?;
    let mut at = 0;
    while at < size {
        match from.read_range(path, at..(at + PIECE).min(size)).await {
            Ok(Some(piece)) if !piece.is_empty() => {
                at += piece.len() as u64;
                writer.write(piece).await?;
            }
            ended => {
                writer.abort().await?;
                ended?;
                return Err(Stopped::Gone);
            }
        }
    }
    writer.finish().await?;
    Ok(())
}
