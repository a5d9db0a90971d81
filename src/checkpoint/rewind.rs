//! Going back to a batch that is done, so that what came after it is done again.
//!
//! Files are created and removed in an order in which every part of the way is a checkpoint that a start can
//! go on with. So the command may be interrupted anywhere, and be repeated.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::fence::{Fence, Placed, concurrent, place};
use super::history::FAN_IN;
use super::log::Checkpoint;
use super::read::{self, Failure, numbers, ranges};
use super::records::{HistoryRecord, Metadata};
use super::{frame, layout};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// A batch that is undone.
#[derive(Debug, Clone, PartialEq)]
pub struct UndoneBatch {
    /// Its number.
    pub batch_id: u64,
    /// What its commit says of the sink, which has its rows; `None` if it was not committed.
    pub sink: Option<Value>,
    /// By source, what it remembers of the batch: the files of a file source.
    pub inputs: Vec<Vec<Value>>,
}

/// What going back to a batch amounts to.
#[derive(Debug)]
pub struct Rewinding {
    /// The batch that is the last one then.
    pub to: u64,
    /// What is undone, oldest first.
    pub undone: Vec<UndoneBatch>,
    histories: Vec<History>,
    offsets: BTreeSet<u64>,
    commits: BTreeSet<u64>,
}

/// What becomes of the history of one source.
#[derive(Debug, Default)]
struct History {
    /// Segments inside others, which mean nothing as long as those are there.
    inner: Vec<(u64, u64)>,
    /// What takes the place of the segment that reaches beyond the batch.
    shorter: Vec<HistoryRecord>,
    /// Segments that reach beyond the batch, the last one first.
    beyond: Vec<(u64, u64)>,
}

/// What [`rewind`] would do. Changes nothing.
///
/// # Errors
/// [`Error::Invalid`] if there is no checkpoint, or if the files of the batch, or of those that are undone, are
/// not there any more; [`Error::CheckpointDamaged`] if a file is.
pub async fn rewinding(storage: &dyn Storage, to: u64) -> Result<Rewinding> {
    let Some(metadata) = Checkpoint::read_metadata(storage).await? else {
        return Err(Error::Invalid(format!("'{}' is not the checkpoint of a query", storage.url())));
    };
    let offsets = numbers(&storage.list(layout::OFFSETS).await?);
    let commits = numbers(&storage.list(layout::COMMITS).await?);
    if !offsets.contains(&to) || !commits.contains(&to) {
        return Err(not_there(to, &offsets, &commits));
    }
    let mut histories = Vec::new();
    for source in 0..metadata.definition.sources.len() {
        histories.push(history(storage, &metadata, source, to, (&offsets, &commits)).await?);
    }
    let beyond = |batches: &BTreeSet<u64>| batches.range(to + 1..).copied().collect::<BTreeSet<u64>>();
    let (offsets, commits) = (beyond(&offsets), beyond(&commits));
    let mut undone = Vec::new();
    for batch_id in offsets.union(&commits).copied() {
        let sink = match commits.contains(&batch_id) {
            true => read::commit(storage, batch_id).await?.map(|commit| commit.sink),
            false => None,
        };
        let planned = read::offsets(storage, batch_id, metadata.definition.sources.len()).await?;
        let sources = planned.into_iter().flat_map(|planned| planned.sources);
        let values = |entries: Vec<Box<RawValue>>| {
            entries.iter().filter_map(|entry| serde_json::from_str(entry.get()).ok()).collect()
        };
        let inputs = sources.map(|source| values(source.entries)).collect();
        undone.push(UndoneBatch { batch_id, sink, inputs });
    }
    Ok(Rewinding { to, undone, histories, offsets, commits })
}

/// Makes the batch `to` the last one that is done: a start goes on after it, and does again what came later.
/// Takes the checkpoint over, as a start does: a run that is still at work on it ends. What the sink has of
/// the batches that are undone stays there.
///
/// # Errors
/// As [`rewinding`], and [`Error::ConcurrentQuery`] if a start has come in between.
pub async fn rewind(storage: Arc<dyn Storage>, run_id: Uuid, to: u64) -> Result<Rewinding> {
    rewind_with(storage, run_id, to, &KeepOutput).await
}

/// Removes what a sink has of batches that are undone.
#[async_trait]
pub trait RemoveOutput: Send + Sync {
    /// Removes what the sink has of `batch`. Of what is not there any more nothing has to be removed.
    async fn remove(&self, batch: &UndoneBatch) -> Result<()>;
}

struct KeepOutput;

#[async_trait]
impl RemoveOutput for KeepOutput {
    async fn remove(&self, _: &UndoneBatch) -> Result<()> {
        Ok(())
    }
}

/// As [`rewind`], and has `output` removed of each batch, the last one first, at a moment at which the batch is planned
/// and not done: cut off anywhere, the next start does it again.
///
/// # Errors
/// As [`rewind`], and what the removal fails with.
pub async fn rewind_with(
    storage: Arc<dyn Storage>,
    run_id: Uuid,
    to: u64,
    output: &dyn RemoveOutput,
) -> Result<Rewinding> {
    rewinding(&*storage, to).await?;
    let fence = Fence::claim(Arc::clone(&storage), run_id).await?;
    // Once more, now that nobody else goes on.
    let plan = rewinding(&*storage, to).await?;
    fence.check().await?;
    for (source, history) in plan.histories.iter().enumerate() {
        history.carry_out(&*storage, source).await?;
    }
    for undone in plan.undone.iter().rev() {
        let batch = undone.batch_id;
        if plan.commits.contains(&batch) {
            storage.delete(&layout::commit(batch)).await?;
            // So that it is durable before anything else is gone.
            storage.list(layout::COMMITS).await?;
        }
        output.remove(undone).await?;
        if plan.offsets.contains(&batch) {
            storage.delete(&layout::offsets(batch)).await?;
        }
    }
    // What is listed is durable, and so is what is not.
    storage.list(layout::COMMITS).await?;
    storage.list(layout::OFFSETS).await?;
    fence.check().await?;
    Ok(plan)
}

fn not_there(to: u64, offsets: &BTreeSet<u64>, commits: &BTreeSet<u64>) -> Error {
    let done: BTreeSet<u64> = offsets.intersection(commits).copied().collect();
    let there = match (done.first(), done.last()) {
        (Some(first), Some(last)) => format!("those from {first} to {last} are"),
        _ => "none is".to_string(),
    };
    Error::Invalid(format!(
        "batch {to} is not among the batches that are done and whose files are still there: {there}. \
         minBatchesToRetain says how many are kept. To begin anew, start with a new checkpoint"
    ))
}

/// What has to become of the history of `source` so that it says nothing of batches after `to`.
async fn history(
    storage: &dyn Storage,
    metadata: &Metadata,
    source: usize,
    to: u64,
    (offsets, commits): (&BTreeSet<u64>, &BTreeSet<u64>),
) -> Result<History> {
    let failed = |failure| match failure {
        Failure::Missing(error) | Failure::Error(error) => error,
    };
    let listed = storage.list(&layout::history(source)).await?;
    let cover = super::history::cover(&ranges(&listed));
    let mut history = History { inner: cover.redundant, ..History::default() };
    // Also those behind a gap, which an interrupted removal may have left.
    history.beyond = ranges(&listed).into_iter().filter(|(_, last)| *last > to).collect();
    history.beyond.retain(|segment| !history.inner.contains(segment));
    history.beyond.sort_unstable_by(|one, other| other.cmp(one));
    let straddling = cover.used.into_iter().find(|(first, last)| *first <= to && to < *last);
    let Some((first, last)) = straddling else { return Ok(history) };

    // Segments end where tens do; the files of batches say the rest.
    let tens = (to + 1) / FAN_IN * FAN_IN;
    if let Some(gone) = (tens..=last).find(|batch| !offsets.contains(batch) || !commits.contains(batch)) {
        let next = (gone + 1).next_multiple_of(FAN_IN) - 1;
        return Err(Error::Invalid(format!(
            "batch {to} cannot be gone back to: what the sources had read by then is only known together with \
             later batches, because the files of batch {gone} are gone. The oldest that can be is batch {next}"
        )));
    }
    if tens <= first {
        return Ok(history);
    }
    let mut later = Vec::new();
    let mut kept = Vec::new();
    for batch in tens..=last {
        let sources = metadata.definition.sources.len();
        let (mut plan, _) = read::batch(storage, batch, sources, true).await.map_err(failed)?;
        let entries = std::mem::take(&mut plan.sources[source].entries);
        if batch > to { later.extend(entries) } else { kept.extend(entries) }
    }
    let record = read::segment(storage, source, (first, last)).await?;
    let record = read::expect(record, || layout::segment(source, first, last)).map_err(failed)?;
    let (entries, missing) = without(record.entries, &later);
    if missing > 0 {
        return Err(Error::Invalid(format!(
            "batch {to} cannot be gone back to: source {source} has let go of {missing} entries of later batches, \
             which are not to be told from those of earlier ones"
        )));
    }
    let (entries, _) = without(entries, &kept);
    history.shorter = divide(first, tens, entries);
    Ok(history)
}

/// `entries` less `others`, which are looked for from the end on, and how many of those were not found.
fn without(entries: Vec<Box<RawValue>>, others: &[Box<RawValue>]) -> (Vec<Box<RawValue>>, usize) {
    let mut left: HashMap<&str, usize> = HashMap::new();
    others.iter().for_each(|other| *left.entry(other.get()).or_default() += 1);
    let mut rest: Vec<Box<RawValue>> = Vec::with_capacity(entries.len());
    for entry in entries.into_iter().rev() {
        match left.get_mut(entry.get()).filter(|left| **left > 0) {
            Some(left) => *left -= 1,
            None => rest.push(entry),
        }
    }
    rest.reverse();
    (rest, left.values().sum())
}

/// Segments for the batches from `first` to before `end`, both multiples of ten, as merges make them: all
/// `entries` are in the first one.
fn divide(first: u64, end: u64, entries: Vec<Box<RawValue>>) -> Vec<HistoryRecord> {
    let mut segments = Vec::new();
    let (mut next, mut entries) = (first, Some(entries));
    while next < end {
        let mut width = FAN_IN;
        while next % (width * FAN_IN) == 0 && next + width * FAN_IN <= end {
            width *= FAN_IN;
        }
        let entries = entries.take().unwrap_or_default();
        segments.push(HistoryRecord { first_batch: next, last_batch: next + width - 1, entries });
        next += width;
    }
    segments
}

impl History {
    async fn carry_out(&self, storage: &dyn Storage, source: usize) -> Result<()> {
        remove(storage, source, &self.inner).await?;
        for record in &self.shorter {
            let path = layout::segment(source, record.first_batch, record.last_batch);
            if place(storage, &path, &frame::encode(record)?).await? == Placed::Other {
                return Err(concurrent(storage, format!("it has just written {path}. Stop it first")));
            }
        }
        remove(storage, source, &self.beyond).await
    }
}

async fn remove(storage: &dyn Storage, source: usize, segments: &[(u64, u64)]) -> Result<()> {
    for (first, last) in segments {
        storage.delete(&layout::segment(source, *first, *last)).await?;
    }
    // What is listed is durable, and so is what is not.
    storage.list(&layout::history(source)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(texts: &[&str]) -> Vec<Box<RawValue>> {
        texts.iter().map(|text| RawValue::from_string((*text).to_string()).unwrap()).collect()
    }

    fn texts(entries: &[Box<RawValue>]) -> Vec<&str> {
        entries.iter().map(|entry| entry.get()).collect()
    }

    #[test]
    fn entries_are_taken_out_from_the_end() {
        let (rest, missing) = without(raw(&["1", "2", "1", "3"]), &raw(&["1", "3", "4"]));
        assert_eq!((texts(&rest), missing), (vec!["1", "2"], 1));
    }

    #[test]
    fn segments_are_as_wide_as_can_be() {
        let ranges = |first, end| {
            let segments = divide(first, end, raw(&["1"]));
            assert_eq!(segments[0].entries.len(), 1);
            assert!(segments[1..].iter().all(|segment| segment.entries.is_empty()));
            segments.iter().map(|segment| (segment.first_batch, segment.last_batch)).collect::<Vec<_>>()
        };
        assert_eq!(ranges(0, 10), [(0, 9)]);
        assert_eq!(ranges(0, 230), [(0, 99), (100, 199), (200, 209), (210, 219), (220, 229)]);
        assert_eq!(ranges(900, 1010), [(900, 999), (1000, 1009)]);
        assert_eq!(ranges(0, 1000), [(0, 999)]);
    }
}
