//! Moving the rows in memory to the local disk, and what they have changed.

use std::sync::Arc;

use super::cover::{MemoryChanges, MemoryRows};
use super::merge::merge_runs;
use super::row::{Mark, Row, Sorted};
use super::run::Run;
use super::table::{LiveRun, Merging, SpillTable};
use super::writer::RunWriter;
use crate::error::{Error, Result};
use crate::memory::local_disk::Moved;
use crate::state::change_log::ChangedRows;
use crate::state::changing_table::ChangingTable;
use crate::state::memory_table::MemoryTable;
use crate::state::moved::{MovedChanges, Moving};
use crate::state::table::StateTable;

/// How many runs there must be before it is worth merging some.
const FAN_IN: usize = 4;
/// The most memory that sorting rows by expiry takes.
const MAX_CHUNK: usize = 8 << 20;

impl SpillTable {
    pub(super) fn spill_if_due(&mut self) -> Result<()> {
        let runs: usize = self.runs.iter().map(|live| live.run.memory()).sum();
        let for_rows = (self.limit / 4 * 3).saturating_sub(runs).max(self.limit / 8);
        let used = self.memory.memory().saturating_sub(self.empty);
        if used > for_rows && !self.memory.is_empty() { self.spill() } else { Ok(()) }
    }

    fn chunk_size(&self) -> usize {
        (self.limit / 8).min(MAX_CHUNK)
    }

    fn spill(&mut self) -> Result<()> {
        self.finish_merging()?;
        self.memory.settle()?;
        let is_oldest = self.runs.is_empty();
        let count = usize::try_from(self.memory.len()).unwrap_or(usize::MAX);
        let mut writer = RunWriter::new(&self.disk, count, self.chunk_size())?;
        let mut rows = MemoryRows(self.memory.sorted(), self.is_raw);
        while let Some((hash, row)) = rows.row() {
            match (is_oldest, row.mark) {
                (true, Mark::Removed) => {}
                (true, _) => writer.push(hash, &Row { mark: Mark::New, ..row })?,
                (false, _) => writer.push(hash, &row)?,
            }
            rows.advance()?;
        }
        let run = writer.finish()?;
        let changes = MemoryChanges(self.memory.changes(), self.is_raw);
        if changes.len() > 0 {
            let moving = match &mut self.moving {
                Some(moving) => moving,
                none => none.insert(Moving::create(&self.disk)?),
            };
            moving.push(&changes)?;
        }
        drop(changes);
        self.memory = MemoryTable::default();
        self.is_raw = false;
        self.marked = false;
        self.looked.clear();
        self.spills += 1;
        if run.count > 0 {
            let chunks = run.chunks.clone();
            self.runs.insert(0, LiveRun { run: Arc::new(run), chunks });
        }
        self.begin_merging()
    }

    fn begin_merging(&mut self) -> Result<()> {
        let mut newer = 0;
        let mut end = None;
        for (index, live) in self.runs.iter().enumerate() {
            if index + 1 >= FAN_IN && newer >= live.run.bytes() {
                end = Some(index + 1);
            }
            newer += live.run.bytes();
        }
        let Some(end) = end else { return Ok(()) };
        let runs: Vec<Arc<Run>> = self.runs[..end].iter().map(|live| Arc::clone(&live.run)).collect();
        let (inputs, disk) = (runs.clone(), Arc::clone(&self.disk));
        let (expired, is_oldest, chunk_size) = (self.expired, end == self.runs.len(), self.chunk_size());
        let thread = std::thread::Builder::new()
            .name("tidemill-state".into())
            .spawn(move || merge_runs(&inputs, expired, is_oldest, &disk, chunk_size))
            .map_err(|error| Moved::State.failed("begin to merge", error))?;
        self.merging = Some(Merging { runs, thread });
        Ok(())
    }

    /// Waits for the runs that are being merged; so what a table does never depends on how fast that is.
    pub(super) fn finish_merging(&mut self) -> Result<()> {
        let Some(Merging { runs, thread }) = self.merging.take() else { return Ok(()) };
        let merged = thread
            .join()
            .map_err(|_| Error::Invalid("merging state on the local disk ended with a panic".into()))??;
        let at = self.runs.iter().position(|live| Arc::ptr_eq(&live.run, &runs[0]));
        if let Some(at) = at {
            let mut live = LiveRun { chunks: merged.chunks.clone(), run: Arc::new(merged) };
            // Meanwhile some more may have expired.
            live.skip(self.expired)?;
            let live = Some(live).filter(|live| live.run.count > 0);
            self.runs.splice(at..at + runs.len(), live);
        }
        Ok(())
    }
}

impl ChangingTable for SpillTable {
    fn changes(&self) -> Box<dyn ChangedRows + '_> {
        Box::new(MemoryChanges(self.memory.changes(), self.is_raw))
    }

    fn take_moved(&mut self) -> Result<Option<MovedChanges>> {
        self.moving.take().map(Moving::finish).transpose()
    }

    fn changed(&self) -> usize {
        self.moving.as_ref().map_or(0, Moving::rows) + self.memory.changed()
    }

    fn forget_changes(&mut self) {
        self.moving = None;
        self.memory.forget_changes();
    }
}
