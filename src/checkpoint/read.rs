//! Reads what a start has to know of a checkpoint: never all of it, always enough.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join;
use futures::{StreamExt, TryStreamExt, stream};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::history::{Cover, Segment, cover};
use super::records::{CommitRecord, HistoryRecord, Metadata, OffsetsRecord, QueryDefinition};
use super::recovered::{Recovered, Recovery};
use super::recovery::{Decision, Facts, Finding, decide};
use super::{frame, layout};
use crate::error::{Error, Result};
use crate::storage::{Storage, StoredFile};

/// How many files are read at the same time.
pub(super) const CONCURRENT_READS: usize = 16;

/// A checkpoint as a start found it.
pub(super) struct Contents {
    pub(super) recovered: Recovered,
    pub(super) facts: Facts,
    /// The segments in use, per source.
    pub(super) segments: Vec<Vec<Segment>>,
    /// Segments that wider ones made superfluous.
    pub(super) redundant: Vec<String>,
}

/// Why reading stopped.
pub(super) enum Failure {
    /// A file is missing. The maintenance of an earlier run may still be at work, so that the
    /// listings do not fit together.
    Missing(Error),
    /// Anything else.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

impl From<Finding> for Error {
    fn from(finding: Finding) -> Self {
        Error::damaged(finding.path, finding.problem)
    }
}

/// The record in `path`, or `None` if there is no such file.
pub(super) async fn record<T: DeserializeOwned>(storage: &dyn Storage, path: &str) -> Result<Option<T>> {
    storage.read(path).await?.map(|file| frame::decode(path, &file)).transpose()
}

/// Who the query is, as the checkpoint says it last; `None` if it says nothing.
pub(super) async fn metadata(storage: &dyn Storage) -> Result<Option<Metadata>> {
    let Some(mut metadata) = record::<Metadata>(storage, layout::METADATA).await? else { return Ok(None) };
    let newest = numbers(&storage.list(layout::DEFINITION).await?).last().copied();
    if let Some(copy_of) = &mut metadata.copy_of {
        copy_of.is_new = newest.is_none();
    }
    if let Some(newest) = newest {
        let path = layout::definition(newest);
        // None is ever removed while there is metadata.
        let definition: Option<QueryDefinition> = record(storage, &path).await?;
        metadata.definition =
            definition.ok_or_else(|| Error::damaged(path, "it was listed and is not there"))?;
    }
    Ok(Some(metadata))
}

/// The query that the checkpoint was copied from, if it was.
#[cfg(feature = "postgres")]
pub(crate) async fn origin(storage: &dyn Storage) -> Result<Option<uuid::Uuid>> {
    Ok(metadata(storage).await?.and_then(|metadata| metadata.copy_of).map(|copy_of| copy_of.id))
}

/// Whether the plan of `batch_id` is there.
#[cfg(feature = "postgres")]
pub(crate) async fn is_planned(storage: &dyn Storage, batch_id: u64) -> Result<bool> {
    Ok(storage.size(&layout::offsets(batch_id)).await?.is_some())
}

/// `offsets/<batch>`, which must say that it is of that batch and have `sources` sources.
pub(super) async fn offsets(
    storage: &dyn Storage,
    batch_id: u64,
    sources: usize,
) -> Result<Option<OffsetsRecord>> {
    let path = layout::offsets(batch_id);
    let record: Option<OffsetsRecord> = record(storage, &path).await?;
    record.map(|record| check_offsets(&path, record, batch_id, sources)).transpose()
}

pub(super) fn check_offsets(
    path: &str,
    record: OffsetsRecord,
    batch_id: u64,
    sources: usize,
) -> Result<OffsetsRecord> {
    check_id(path, "batch", record.batch_id, batch_id)?;
    if record.sources.len() != sources {
        let found = record.sources.len();
        return Err(Error::damaged(path, format!("it is of {found} sources, and the query has {sources}")));
    }
    Ok(record)
}

/// Fails if a file says another number inside than outside.
pub(super) fn check_id(path: &str, what: &str, inside: u64, outside: u64) -> Result<()> {
    if inside == outside {
        return Ok(());
    }
    Err(Error::damaged(path, format!("it is of {what} {inside}, so it was renamed or copied")))
}

/// `commits/<batch>`, which must say that it is of that batch.
pub(super) async fn commit(storage: &dyn Storage, batch_id: u64) -> Result<Option<CommitRecord>> {
    let path = layout::commit(batch_id);
    let record: Option<CommitRecord> = record(storage, &path).await?;
    if let Some(record) = &record {
        check_id(&path, "batch", record.batch_id, batch_id)?;
    }
    Ok(record)
}

/// A segment of the history, which must say that it covers those batches.
pub(super) async fn segment(
    storage: &dyn Storage,
    source: usize,
    (first, last): (u64, u64),
) -> Result<Option<HistoryRecord>> {
    let path = layout::segment(source, first, last);
    let record: Option<HistoryRecord> = record(storage, &path).await?;
    if let Some(record) = &record {
        check_id(&path, "first batch", record.first_batch, first)?;
        check_id(&path, "last batch", record.last_batch, last)?;
    }
    Ok(record)
}

/// The numbers that name files, among those listed.
pub(super) fn numbers(files: &[StoredFile]) -> BTreeSet<u64> {
    files.iter().filter_map(|file| layout::number(layout::name(&file.path))).collect()
}

/// The ranges that name files, among those listed.
pub(super) fn ranges(files: &[StoredFile]) -> BTreeSet<(u64, u64)> {
    files.iter().filter_map(|file| layout::range(layout::name(&file.path))).collect()
}

/// The last batch that is in the history of every source.
pub(super) fn covered(covers: &[Cover]) -> Option<u64> {
    covers.iter().map(Cover::last).min().flatten()
}

/// Reads everything that a start needs. Listings come first, and in the order in which files come
/// to be, so that what is listed later can only be younger.
pub(super) async fn contents(storage: &dyn Storage) -> Result<Contents, Failure> {
    let has_metadata = storage.list("").await?.iter().any(|file| file.path == layout::METADATA);
    let metadata: Option<Metadata> = if has_metadata {
        Some(expect(metadata(storage).await?, || layout::METADATA.to_string())?)
    } else {
        None
    };
    let mut facts = Facts {
        metadata: has_metadata,
        offsets: numbers(&storage.list(layout::OFFSETS).await?),
        commits: numbers(&storage.list(layout::COMMITS).await?),
        covered: None,
    };
    let sources = metadata.as_ref().map_or(0, |metadata| metadata.definition.sources.len());
    let mut covers = Vec::with_capacity(sources);
    for source in 0..sources {
        covers.push(source_cover(source, &storage.list(&layout::history(source)).await?)?);
    }
    facts.covered = covered(&covers);
    let decision = decide(&facts).map_err(|finding| Failure::Missing(finding.into()))?;

    let batches = batches_to_read(&facts, decision);
    let commits = &facts.commits;
    let mut records: BTreeMap<u64, Batch> = stream::iter(batches)
        .map(|batch| async move {
            let is_committed = commits.contains(&batch);
            Ok::<_, Failure>((batch, self::batch(storage, batch, sources, is_committed).await?))
        })
        .buffered(CONCURRENT_READS)
        .try_collect()
        .await?;
    let (mut history, segments) = segments(storage, &covers).await?;
    for (source, (entries, cover)) in history.iter_mut().zip(&covers).enumerate() {
        let uncovered = cover.last().map_or(0, |last| last + 1);
        for (_, (offsets, _)) in records.range(uncovered..) {
            entries.extend(offsets.sources[source].entries.iter().cloned());
        }
    }
    let redundant = covers.iter().enumerate().flat_map(|(source, cover)| {
        cover.redundant.iter().map(move |(first, last)| layout::segment(source, *first, *last))
    });
    let redundant = redundant.collect();
    if let (Some(metadata), Some((_, Some(commit)))) = (&metadata, records.get(&0)) {
        check_query(metadata, commit)?;
    }
    let recovery = recovery(decision, &mut records)?;
    Ok(Contents {
        recovered: Recovered { metadata, decision: recovery.0, history, last_commit: recovery.1 },
        facts,
        segments,
        redundant,
    })
}

/// What a listed file holds.
pub(super) fn expect<T>(found: Option<T>, path: impl FnOnce() -> String) -> Result<T, Failure> {
    let reason = "it was there before, and reading says that it does not exist";
    found.ok_or_else(|| Failure::Missing(Error::damaged(path(), reason)))
}

/// What the listed segments of a source amount to; fails if one is missing between them.
pub(super) fn source_cover(source: usize, files: &[StoredFile]) -> Result<Cover, Failure> {
    let cover = cover(&ranges(files));
    if let Some((first, last)) = cover.gap {
        let path = layout::segment(source, first, last);
        let reason = "it is missing, or the segments that it was made of: later batches are in the history. \
                      Restore it from a copy of the checkpoint, or start with a new checkpoint";
        return Err(Failure::Missing(Error::damaged(path, reason)));
    }
    Ok(cover)
}

/// Those that no history covers yet, and those that say where the next batch begins.
fn batches_to_read(facts: &Facts, decision: Decision) -> BTreeSet<u64> {
    let uncovered = facts.covered.map_or(0, |covered| covered + 1);
    let mut batches: BTreeSet<u64> = facts.offsets.range(uncovered..).copied().collect();
    match decision {
        Decision::Fresh => {}
        Decision::Next { last } => {
            batches.insert(last);
        }
        Decision::Rerun { batch } => {
            batches.extend(batch.checked_sub(1));
            batches.insert(batch);
        }
    }
    batches
}

/// Per source, the entries of its segments in use and those segments' sizes.
async fn segments(
    storage: &dyn Storage,
    covers: &[Cover],
) -> Result<(Vec<Vec<Box<RawValue>>>, Vec<Vec<Segment>>), Failure> {
    let mut history = Vec::with_capacity(covers.len());
    let mut segments = Vec::with_capacity(covers.len());
    for (source, cover) in covers.iter().enumerate() {
        let records: Vec<HistoryRecord> = stream::iter(cover.used.iter().copied())
            .map(|(first, last)| async move {
                let record = segment(storage, source, (first, last)).await?;
                expect(record, || layout::segment(source, first, last))
            })
            .buffered(CONCURRENT_READS)
            .try_collect()
            .await?;
        segments.push(
            records
                .iter()
                .map(|record| Segment {
                    first: record.first_batch,
                    last: record.last_batch,
                    entries: record.entries.len() as u64,
                })
                .collect(),
        );
        history.push(records.into_iter().flat_map(|record| record.entries).collect());
    }
    Ok((history, segments))
}

/// What counts of the plan of a batch, with its commit if it has one.
type Batch = (OffsetsRecord, Option<CommitRecord>);

/// The batch, whose commit must be there if it `is_committed`.
pub(super) async fn batch(
    storage: &dyn Storage,
    batch: u64,
    sources: usize,
    is_committed: bool,
) -> Result<Batch, Failure> {
    let planned = async { expect(offsets(storage, batch, sources).await?, || layout::offsets(batch)) };
    if !is_committed {
        return Ok((planned.await?, None));
    }
    let committed = async { expect(commit(storage, batch).await?, || layout::commit(batch)) };
    let (planned, committed) = try_join(planned, committed).await?;
    if let Some(let_go) = committed.let_go.as_ref().filter(|let_go| let_go.ends.len() != sources) {
        let found = let_go.ends.len();
        let reason = format!("it is of {found} sources, and the query has {sources}");
        return Err(Error::damaged(layout::commit(batch), reason).into());
    }
    Ok((planned.committed_by(&committed), Some(committed)))
}

/// Fails if the first batch was committed by the query in whose place this one is.
fn check_query(metadata: &Metadata, commit: &CommitRecord) -> Result<(), Failure> {
    match commit.query_id {
        Some(id) if id != metadata.id => {
            let reason = format!(
                "query {id} was still writing it when query {} took the checkpoint over; nothing of it was published: \
                 start with a new checkpoint",
                metadata.id
            );
            Err(Error::damaged(layout::commit(0), reason).into())
        }
        _ => Ok(()),
    }
}

/// How to go on, and the last commit.
fn recovery(
    decision: Decision,
    records: &mut BTreeMap<u64, Batch>,
) -> Result<(Recovery, Option<CommitRecord>), Failure> {
    let mut take = |batch| expect(records.remove(&batch), || layout::offsets(batch));
    let committed = |batch, commit| expect(commit, || layout::commit(batch));
    Ok(match decision {
        Decision::Fresh => (Recovery::Fresh, None),
        Decision::Next { last } => {
            let (last_offsets, last_commit) = take(last)?;
            let last_commit = committed(last, last_commit)?;
            let next = Recovery::Next { batch_id: last + 1, last_offsets, last_commit: last_commit.clone() };
            (next, Some(last_commit))
        }
        Decision::Rerun { batch: 0 } => (Recovery::Rerun { offsets: take(0)?.0, previous: None }, None),
        Decision::Rerun { batch } => {
            let (previous, commit) = take(batch - 1)?;
            let rerun = Recovery::Rerun { offsets: take(batch)?.0, previous: Some(previous) };
            (rerun, Some(committed(batch - 1, commit)?))
        }
    })
}
