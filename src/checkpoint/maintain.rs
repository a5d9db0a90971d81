//! Keeps a checkpoint small: merges what sources must remember, and removes what is not needed.
//!
//! Each step first makes the new file durable and then removes what it stands for, so that a crash
//! between any two steps leaves at most files too many, which every reader passes over and a later
//! maintenance removes.

use std::ops::Range;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::value::RawValue;

use super::fence::{Placed, place};
use super::history::{FAN_IN, MAX_ENTRIES, Segment, full_groups, mergeable};
use super::log::{Checkpoint, Upkeep};
use super::read::{CONCURRENT_READS, Failure};
use super::records::{HistoryRecord, OffsetsRecord};
use super::{frame, layout, read};
use crate::error::Result;

/// Of some entries of the source with the given index, those that it still needs.
pub type Forget<'a> = dyn Fn(usize, Vec<Box<RawValue>>) -> Vec<Box<RawValue>> + Send + Sync + 'a;

impl Checkpoint {
    /// Merges and purges, at the first call and then after every tenth batch; other calls do nothing.
    /// May run beside everything else that this checkpoint does, be interrupted, and be repeated.
    ///
    /// The last `min_batches_to_retain` (at least one) committed batches keep their files, and so do
    /// batches whose entries are not in the history yet. `forget` sees entries of committed batches
    /// only, a part of them at a time.
    ///
    /// # Errors
    /// [`Error::ConcurrentQuery`](crate::Error::ConcurrentQuery) if another run has taken over; storage
    /// errors and damaged files as they come. The checkpoint stays usable, and the next call goes on
    /// where this one stopped.
    pub async fn maintain(&self, min_batches_to_retain: u64, forget: &Forget<'_>) -> Result<()> {
        let mut upkeep = self.upkeep.lock().await;
        if upkeep.settled && self.next_to_fold(&upkeep).is_none() {
            return Ok(());
        }
        upkeep.settled = false;
        self.fence.check().await?;
        let mut result = self.work(&mut upkeep, min_batches_to_retain, forget).await;
        if let Err(Failure::Missing(_)) = result {
            // The maintenance of an earlier run, begun before this one took over, may have been here.
            self.fence.check().await?;
            result = match self.list_anew(&mut upkeep).await {
                Ok(()) => self.work(&mut upkeep, min_batches_to_retain, forget).await,
                failed => failed,
            };
        }
        result.map_err(|failure| match failure {
            Failure::Missing(error) | Failure::Error(error) => error,
        })?;
        upkeep.settled = true;
        Ok(())
    }

    async fn work(&self, upkeep: &mut Upkeep, retain: u64, forget: &Forget<'_>) -> Result<(), Failure> {
        while let Some(first) = self.next_to_fold(upkeep) {
            self.fold(upkeep, first, forget).await?;
        }
        for source in 0..upkeep.segments.len() {
            self.merge(upkeep, source, forget).await?;
        }
        Ok(self.purge(upkeep, retain).await?)
    }

    /// Takes over the segments that there are by now.
    async fn list_anew(&self, upkeep: &mut Upkeep) -> Result<(), Failure> {
        for source in 0..upkeep.segments.len() {
            let cover = read::source_cover(source, &self.storage.list(&layout::history(source)).await?)?;
            let mut segments = Vec::with_capacity(cover.used.len());
            for (first, last) in cover.used {
                let known =
                    upkeep.segments[source].iter().find(|known| (known.first, known.last) == (first, last));
                segments.push(match known {
                    Some(segment) => *segment,
                    None => {
                        let entries = self.segment(source, first, last).await?.entries.len() as u64;
                        Segment { first, last, entries }
                    }
                });
            }
            upkeep.segments[source] = segments;
            let redundant =
                cover.redundant.into_iter().map(|(first, last)| layout::segment(source, first, last));
            upkeep.redundant.extend(redundant);
        }
        Ok(())
    }

    /// The first batch of the next ten that are committed and not in the history of every source.
    fn next_to_fold(&self, upkeep: &Upkeep) -> Option<u64> {
        let first = upkeep.segments.iter().map(|segments| next_batch(segments)).min()?;
        let committed = self.progress().committed?;
        (first + FAN_IN - 1 <= committed).then_some(first)
    }

    /// Moves the entries of ten batches into the history.
    async fn fold(&self, upkeep: &mut Upkeep, first: u64, forget: &Forget<'_>) -> Result<(), Failure> {
        let sources = upkeep.segments.len();
        let last = first + FAN_IN - 1;
        let mut records: Vec<OffsetsRecord> = stream::iter(first..=last)
            .map(|batch| async move {
                read::batch(&*self.storage, batch, sources, true).await.map(|(offsets, _)| offsets)
            })
            .buffered(CONCURRENT_READS)
            .try_collect()
            .await?;
        for (source, segments) in upkeep.segments.iter_mut().enumerate() {
            // After a crash between two sources, the first has these batches already.
            if next_batch(segments) > first {
                continue;
            }
            let entries = records
                .iter_mut()
                .flat_map(|record| std::mem::take(&mut record.sources[source].entries))
                .collect();
            segments.push(self.store(source, first, last, forget(source, entries)).await?);
        }
        Ok(())
    }

    /// Merges the segments of one source as far as they go.
    async fn merge(&self, upkeep: &mut Upkeep, source: usize, forget: &Forget<'_>) -> Result<(), Failure> {
        loop {
            if let Some(group) = mergeable(&upkeep.segments[source]) {
                let entries =
                    self.entries(source, &upkeep.segments[source][group.clone()], forget, false).await?;
                self.replace(upkeep, source, group, entries.unwrap_or_default()).await?;
                continue;
            }
            // Age makes sources forget, so if the oldest large group has nothing to forget, none has.
            let full = full_groups(&upkeep.segments[source]);
            let Some(oldest) = full.first().filter(|_| full.len() > upkeep.full_groups[source]).cloned()
            else {
                return Ok(());
            };
            match self.entries(source, &upkeep.segments[source][oldest.clone()], forget, true).await? {
                Some(entries) => self.replace(upkeep, source, oldest, entries).await?,
                None => upkeep.full_groups[source] = full.len(),
            }
        }
    }

    /// What is still needed of the entries of some segments. With `only_if_fewer`, `None` as soon as
    /// it shows that this is too much for one segment or as much as before.
    async fn entries(
        &self,
        source: usize,
        segments: &[Segment],
        forget: &Forget<'_>,
        only_if_fewer: bool,
    ) -> Result<Option<Vec<Box<RawValue>>>, Failure> {
        let mut kept = Vec::new();
        for (index, segment) in segments.iter().enumerate() {
            let entries = self.segment(source, segment.first, segment.last).await?.entries;
            let before = entries.len();
            let still_needed = forget(source, entries);
            let is_fewer = still_needed.len() < before;
            kept.extend(still_needed);
            if only_if_fewer && ((index == 0 && !is_fewer) || kept.len() as u64 > MAX_ENTRIES) {
                return Ok(None);
            }
        }
        Ok(Some(kept))
    }

    /// Puts one segment in the place of a group of them.
    async fn replace(
        &self,
        upkeep: &mut Upkeep,
        source: usize,
        group: Range<usize>,
        entries: Vec<Box<RawValue>>,
    ) -> Result<(), Failure> {
        let parts = &upkeep.segments[source][group.clone()];
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(()) };
        let whole = self.store(source, first.first, last.last, entries).await?;
        let parts = upkeep.segments[source].splice(group, [whole]);
        upkeep.redundant.extend(parts.map(|part| layout::segment(source, part.first, part.last)));
        Ok(())
    }

    async fn store(
        &self,
        source: usize,
        first: u64,
        last: u64,
        entries: Vec<Box<RawValue>>,
    ) -> Result<Segment, Failure> {
        let record = HistoryRecord { first_batch: first, last_batch: last, entries };
        let body = frame::encode(&record)?;
        let entries = match place(&*self.storage, &layout::segment(source, first, last), &body).await? {
            Placed::Mine => record.entries.len(),
            // An earlier run was interrupted after it, and its source had forgotten less or more.
            Placed::Other => self.segment(source, first, last).await?.entries.len(),
        };
        Ok(Segment { first, last, entries: entries as u64 })
    }

    async fn segment(&self, source: usize, first: u64, last: u64) -> Result<HistoryRecord, Failure> {
        let record = read::segment(&*self.storage, source, (first, last)).await?;
        read::expect(record, || layout::segment(source, first, last))
    }

    /// The last batch whose files may go.
    fn purgeable(&self, upkeep: &Upkeep, min_batches_to_retain: u64) -> Option<u64> {
        let covered = upkeep.segments.iter().map(|segments| next_batch(segments)).min()?.checked_sub(1)?;
        let old = self.progress().committed?.checked_sub(min_batches_to_retain.max(1))?;
        Some(old.min(covered))
    }

    /// Removes what is not needed. The files of batches go only below what every history covers.
    async fn purge(&self, upkeep: &mut Upkeep, min_batches_to_retain: u64) -> Result<()> {
        while let Some(path) = upkeep.redundant.last() {
            self.storage.delete(path).await?;
            upkeep.redundant.pop();
        }
        let Some(last) = self.purgeable(upkeep, min_batches_to_retain) else { return Ok(()) };
        let (offsets, commits): (Vec<u64>, Vec<u64>) = {
            let progress = self.progress();
            (
                progress.offsets.range(..=last).copied().collect(),
                progress.commits.range(..=last).copied().collect(),
            )
        };
        for batch in offsets {
            self.storage.delete(&layout::offsets(batch)).await?;
            self.progress().offsets.remove(&batch);
        }
        for batch in commits {
            self.storage.delete(&layout::commit(batch)).await?;
            self.progress().commits.remove(&batch);
        }
        Ok(())
    }
}

/// The first batch after those that the segments cover.
fn next_batch(segments: &[Segment]) -> u64 {
    segments.last().map_or(0, |segment| segment.last + 1)
}
