//! The table: rows in memory over rows in runs.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::JoinHandle;

use datafusion::execution::DiskManager;

use super::cover::{Cover, MemoryRows, Older};
use super::merge::merge;
use super::row::{Mark, Row, Sorted, is_expired};
use super::run::{Block, Chunk, Run, RunRows};
use crate::error::Result;
use crate::state::bytes::{ByteRows, RowBytes};
use crate::state::hash_key;
use crate::state::memory_table::MemoryTable;
use crate::state::moved::Moving;
use crate::state::table::{Found, NEVER, StateTable, Visit, VisitKeys};

pub(super) type Name = (Vec<u8>, Vec<u8>);

/// By name what look-ups in runs found.
pub(super) type Looked = hashbrown::HashMap<Name, Option<Older>, foldhash::fast::FixedState>;

/// A table that keeps to a limit of memory, by moving rows to the local disk.
#[derive(Debug)]
pub struct SpillTable {
    /// Rows that are not in a run yet. Their values begin with their [`Cover`], unless they are raw.
    pub(super) memory: MemoryTable,
    /// Whether there has never been a run: a table whose rows fit costs no more than one in memory.
    pub(super) is_raw: bool,
    /// How much memory a table without rows takes.
    pub(super) empty: usize,
    /// Whether rows in memory may be other than [`Cover::New`].
    pub(super) marked: bool,
    /// Newest first.
    pub(super) runs: Vec<LiveRun>,
    pub(super) merging: Option<Merging>,
    pub(super) disk: Arc<DiskManager>,
    pub(super) limit: usize,
    pub(super) rows: u64,
    pub(super) expired: Option<i64>,
    last_expiry: Option<i64>,
    /// What the last look-up found in the runs, for the put that mostly follows.
    pub(super) looked: Looked,
    pub(super) spills: u64,
    /// Changes of rows that are not in memory any more, or were changed in memory since.
    pub(super) moving: Option<Moving>,
}

#[derive(Debug)]
pub(super) struct LiveRun {
    pub(super) run: Arc<Run>,
    /// What of the rows by expiry has not expired yet.
    pub(super) chunks: Vec<Chunk>,
}

/// Runs that are being made one, on a thread of its own.
#[derive(Debug)]
pub(super) struct Merging {
    pub(super) runs: Vec<Arc<Run>>,
    pub(super) thread: JoinHandle<Result<Run>>,
}

/// What there is of a name.
#[derive(Debug, Clone, Copy)]
enum Known {
    Memory(Cover),
    Runs(Option<Older>),
}

pub(super) fn subkey_of(subkeys: Option<&dyn RowBytes>, row: usize) -> &[u8] {
    subkeys.map_or(&[], |subkeys| subkeys.row(row))
}

impl SpillTable {
    /// A table that takes at most about `limit` bytes of memory and puts the rest on `disk`.
    pub fn new(limit: usize, disk: Arc<DiskManager>) -> Self {
        let memory = MemoryTable::default();
        let empty = memory.memory();
        Self {
            memory,
            is_raw: true,
            empty,
            marked: false,
            runs: Vec::new(),
            merging: None,
            disk,
            limit,
            rows: 0,
            expired: None,
            last_expiry: None,
            looked: Looked::default(),
            spills: 0,
            moving: None,
        }
    }

    /// How often rows were moved to the disk.
    pub fn spills(&self) -> u64 {
        self.spills
    }

    /// Whether all rows are in memory and as plain as they can be.
    fn is_plain(&self) -> bool {
        self.runs.is_empty() && !self.marked
    }

    /// Calls `each` with the newest row in the first `runs` runs of each of these names that is in any.
    pub(super) fn look_up(
        &self,
        runs: usize,
        keys: &dyn RowBytes,
        subkeys: Option<&dyn RowBytes>,
        positions: impl Iterator<Item = usize>,
        each: &mut dyn FnMut(usize, &Row<'_>),
    ) -> Result<()> {
        let mut open: Vec<(u64, usize)> =
            positions.map(|position| (hash_key(keys.row(position)), position)).collect();
        // By hash, so that files are read from their beginning to their end.
        open.sort_unstable();
        for live in &self.runs[..runs] {
            let mut block = Block::default();
            let mut kept = 0;
            for index in 0..open.len() {
                let (hash, position) = open[index];
                let name = (keys.row(position), subkey_of(subkeys, position));
                match live.run.find(hash, name, &mut block)? {
                    Some(row) => each(position, &row),
                    None => {
                        open[kept] = (hash, position);
                        kept += 1;
                    }
                }
            }
            open.truncate(kept);
        }
        Ok(())
    }

    fn older(&self, row: &Row<'_>) -> Older {
        match row.mark {
            Mark::Removed => Older { expiry: i64::MIN, is_alive: false },
            _ => Older { expiry: row.expiry, is_alive: !is_expired(row.expiry, self.expired) },
        }
    }

    fn known(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>) -> Result<Vec<Known>> {
        let mut known = vec![Known::Runs(None); keys.len()];
        let mut missing = vec![true; keys.len()];
        let mut found = Found::default();
        self.memory.get(keys, subkeys, &mut found)?;
        for (index, position) in found.positions.iter().enumerate() {
            let (cover, _) = Cover::decode(found.values.row(index), self.is_raw);
            known[*position] = Known::Memory(cover);
            missing[*position] = false;
        }
        if !self.looked.is_empty() {
            for position in 0..keys.len() {
                let name = (keys.row(position).to_vec(), subkey_of(subkeys, position).to_vec());
                if missing[position]
                    && let Some(older) = self.looked.get(&name)
                {
                    known[position] = Known::Runs(*older);
                    missing[position] = false;
                }
            }
        }
        let positions = (0..keys.len()).filter(|position| missing[*position]);
        self.look_up(self.runs.len(), keys, subkeys, positions, &mut |position, row| {
            known[position] = Known::Runs(Some(self.older(row)));
        })?;
        Ok(known)
    }

    fn put_marked(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: Option<&dyn RowBytes>,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        let known = self.known(keys, subkeys)?;
        let before = self.memory.len();
        let mut marked = ByteRows::default();
        let mut value = Vec::new();
        // A name may be there twice.
        let (mut replaced, mut revived) = (HashSet::new(), HashSet::new());
        for (row, known) in known.into_iter().enumerate() {
            let expiry = expiries.map_or(NEVER, |expiries| expiries[row]);
            let name = || (keys.row(row), subkey_of(subkeys, row));
            let cover = match known {
                Known::Memory(cover) => {
                    if cover == Cover::Removed {
                        revived.insert(name());
                    }
                    cover.replaced(expiry)
                }
                Known::Runs(older) => {
                    if older.is_some_and(|older| older.is_alive) {
                        replaced.insert(name());
                    }
                    Cover::over(older, expiry)
                }
            };
            self.marked |= cover != Cover::New;
            value.clear();
            cover.encode(&mut value);
            value.extend_from_slice(values.row(row));
            marked.push(&value);
        }
        self.memory.put(keys, subkeys, &marked, expiries)?;
        self.rows += self.memory.len() - before + revived.len() as u64;
        self.rows -= replaced.len() as u64;
        Ok(())
    }

    fn put_plain(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: Option<&dyn RowBytes>,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        let mut marked = ByteRows::default();
        let mut value = Vec::new();
        for row in 0..values.len() {
            value.clear();
            Cover::New.encode(&mut value);
            value.extend_from_slice(values.row(row));
            marked.push(&value);
        }
        self.memory.put(keys, subkeys, &marked, expiries)?;
        self.rows = self.memory.len();
        Ok(())
    }

    /// Says in memory that these rows are gone.
    pub(super) fn hide(&mut self, keys: &ByteRows, subkeys: &ByteRows) -> Result<()> {
        let mut removed = Vec::new();
        Cover::Removed.encode(&mut removed);
        let values: ByteRows = (0..keys.len()).map(|_| removed.as_slice()).collect();
        self.marked |= !keys.is_empty();
        self.memory.put(keys, Some(subkeys), &values, None)
    }
}

impl StateTable for SpillTable {
    fn get(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>, found: &mut Found) -> Result<()> {
        if self.is_raw {
            return self.memory.get(keys, subkeys, found);
        }
        found.clear();
        self.looked.clear();
        let mut in_memory = Found::default();
        self.memory.get(keys, subkeys, &mut in_memory)?;
        // Of every key where its value is: among those in memory, or among those of the runs.
        const ABSENT: usize = usize::MAX;
        let mut places = vec![ABSENT; keys.len()];
        for (index, position) in in_memory.positions.iter().enumerate() {
            places[*position] = index;
        }
        let mut in_runs = ByteRows::default();
        let first_in_runs = in_memory.positions.len();
        if !self.runs.is_empty() {
            let missing: Vec<usize> = (0..keys.len()).filter(|row| places[*row] == ABSENT).collect();
            let name = |row: usize| (keys.row(row).to_vec(), subkey_of(subkeys, row).to_vec());
            let mut looked: Looked = missing.iter().map(|row| (name(*row), None)).collect();
            self.look_up(self.runs.len(), keys, subkeys, missing.iter().copied(), &mut |position, row| {
                let older = self.older(row);
                looked.insert(name(position), Some(older));
                if older.is_alive {
                    places[position] = first_in_runs + in_runs.len();
                    in_runs.push(row.value);
                }
            })?;
            self.looked = looked;
        }
        for (position, place) in places.into_iter().enumerate().filter(|(_, place)| *place != ABSENT) {
            if place >= first_in_runs {
                found.values.push(in_runs.row(place - first_in_runs));
            } else {
                let (cover, value) = Cover::decode(in_memory.values.row(place), false);
                if cover == Cover::Removed {
                    continue;
                }
                found.values.push(value);
            }
            found.positions.push(position);
        }
        Ok(())
    }

    fn find(&mut self, keys: &dyn RowBytes, hashes: &[u64], found: &mut Found) -> Result<()> {
        if self.is_raw { self.memory.find(keys, hashes, found) } else { self.get(keys, None, found) }
    }

    fn replace(
        &mut self,
        keys: &dyn RowBytes,
        hashes: &[u64],
        found: &Found,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        if !self.is_raw {
            return self.put(keys, None, values, expiries);
        }
        let last = expiries.into_iter().flatten().copied().filter(|expiry| *expiry != NEVER).max();
        self.last_expiry = self.last_expiry.max(last);
        self.memory.replace(keys, hashes, found, values, expiries)?;
        self.rows = self.memory.len();
        self.spill_if_due()
    }

    fn get_all(&mut self, keys: &dyn RowBytes, visit: &mut VisitKeys<'_>) -> Result<()> {
        if self.is_raw {
            return self.memory.get_all(keys, visit);
        }
        for position in 0..keys.len() {
            self.all_of(position, keys.row(position), visit)?;
        }
        Ok(())
    }

    fn put(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: Option<&dyn RowBytes>,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        let last = expiries.into_iter().flatten().copied().filter(|expiry| *expiry != NEVER).max();
        self.last_expiry = self.last_expiry.max(last);
        if self.is_raw {
            self.memory.put(keys, subkeys, values, expiries)?;
            self.rows = self.memory.len();
        } else if self.is_plain() {
            self.put_plain(keys, subkeys, values, expiries)?;
        } else {
            self.put_marked(keys, subkeys, values, expiries)?;
        }
        self.spill_if_due()
    }

    fn add(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: &dyn RowBytes,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        if !self.is_raw {
            return self.put(keys, Some(subkeys), values, expiries);
        }
        let last = expiries.into_iter().flatten().copied().filter(|expiry| *expiry != NEVER).max();
        self.last_expiry = self.last_expiry.max(last);
        self.memory.add(keys, subkeys, values, expiries)?;
        self.rows = self.memory.len();
        self.spill_if_due()
    }

    fn remove(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>) -> Result<()> {
        if self.is_plain() {
            self.memory.remove(keys, subkeys)?;
            self.rows = self.memory.len();
            return Ok(());
        }
        let known = self.known(keys, subkeys)?;
        let mut done = HashSet::new();
        let mut removed = (ByteRows::default(), ByteRows::default());
        let mut hidden = (ByteRows::default(), ByteRows::default());
        for (row, known) in known.into_iter().enumerate() {
            let name = (keys.row(row), subkey_of(subkeys, row));
            let to = match known {
                Known::Memory(Cover::New) => &mut removed,
                Known::Memory(Cover::Covers(_) | Cover::Outlived) => &mut hidden,
                Known::Runs(Some(older)) if older.is_alive => &mut hidden,
                Known::Memory(Cover::Removed) | Known::Runs(_) => continue,
            };
            if done.insert(name) {
                to.0.push(name.0);
                to.1.push(name.1);
                self.rows -= 1;
            }
        }
        self.memory.remove(&removed.0, Some(&removed.1))?;
        self.hide(&hidden.0, &hidden.1)?;
        self.spill_if_due()
    }

    fn expire(&mut self, upto: i64, visit: &mut Visit<'_>) -> Result<()> {
        self.take_expired(upto, visit)
    }

    fn scan(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        if self.is_raw {
            return self.memory.scan(visit);
        }
        let mut sources: Vec<Box<dyn Sorted + '_>> =
            vec![Box::new(MemoryRows(self.memory.sorted(), self.is_raw))];
        for live in &self.runs {
            sources.push(Box::new(RunRows::new(Arc::clone(&live.run))?));
        }
        merge(&mut sources, &mut |_, row, _| {
            if row.mark == Mark::Removed || is_expired(row.expiry, self.expired) {
                return Ok(());
            }
            visit(row.key, row.subkey, row.value, Some(row.expiry).filter(|expiry| *expiry != NEVER))
        })
    }

    fn len(&self) -> u64 {
        self.rows
    }

    fn first_expiry(&self) -> Option<i64> {
        let chunks = self.runs.iter().flat_map(|live| &live.chunks).map(|chunk| chunk.next);
        chunks.chain(self.memory.first_expiry()).min()
    }

    fn next_expiry(&self) -> Option<i64> {
        let chunks = self.runs.iter().flat_map(|live| &live.chunks).map(|chunk| chunk.next);
        chunks.chain(self.memory.next_expiry()).min()
    }

    fn last_expiry(&self) -> Option<i64> {
        self.last_expiry
    }

    fn memory(&self) -> usize {
        let runs = self.runs.iter().map(|live| live.run.memory()).sum::<usize>();
        let moving = self.moving.as_ref().map_or(0, Moving::memory);
        let name =
            |(key, subkey): &Name| key.capacity() + subkey.capacity() + size_of::<(Name, Option<Older>)>();
        self.memory.memory() + moving + runs + self.looked.keys().map(name).sum::<usize>()
    }

    fn disk(&self) -> u64 {
        let runs: u64 = self.runs.iter().map(|live| live.run.bytes()).sum();
        runs + self.moving.as_ref().map_or(0, Moving::bytes)
    }

    fn may_wait(&self) -> bool {
        let used = self.memory.memory().saturating_sub(self.empty);
        !self.runs.is_empty() || used > self.limit / 2
    }

    fn set_memory_limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }
}
