//! The table for rows without subkeys, in memory.

use super::arena::Arena;
use super::bytes::RowBytes;
use super::expiries::Expiries;
use super::hash::hash_key;
use super::index::{Index, Place, Probe};
use super::table::{Found, NEVER, Visit};
use crate::error::Result;

/// How many keys are looked up at the same time: memory answers several questions as fast as one.
const GROUP: usize = 64;

/// Rows by key: an index over records that are written one after the other.
#[derive(Debug)]
pub(super) struct ArenaTable {
    index: Index,
    arena: Arena,
    expiries: Expiries,
    rows: u64,
    /// Pages that are mostly dead.
    sparse: Vec<usize>,
}

impl Default for ArenaTable {
    fn default() -> Self {
        Self {
            index: Index::new(),
            arena: Arena::default(),
            expiries: Expiries::default(),
            rows: 0,
            sparse: Vec::new(),
        }
    }
}

impl ArenaTable {
    /// Calls `each` with the position of every key, its probe, and where its record is.
    fn for_each(
        &mut self,
        keys: &dyn RowBytes,
        mut each: impl FnMut(&mut Self, usize, Probe, Option<Place>),
    ) {
        let mut probes = Vec::with_capacity(GROUP);
        let mut start = 0;
        while start < keys.len() {
            let end = (start + GROUP).min(keys.len());
            probes.clear();
            probes.extend((start..end).map(|row| self.index.probe(hash_key(keys.row(row)))));
            // First the slots, then the records: each of these loops waits for memory about once.
            let guesses: Vec<Option<Place>> = probes.iter().map(|probe| self.index.guess(*probe)).collect();
            let touched = guesses.iter().flatten().fold(0u32, |sum, place| sum ^ self.arena.touch(*place));
            std::hint::black_box(touched);
            for row in start..end {
                let probe = probes[row - start];
                let place = self.find(probe, keys.row(row));
                each(self, row, probe, place);
            }
            start = end;
        }
    }

    fn find(&self, probe: Probe, key: &[u8]) -> Option<Place> {
        self.index.find(probe, |place| self.arena.get(place).key == key)
    }

    pub(super) fn get(&mut self, keys: &dyn RowBytes, found: &mut Found) {
        found.clear();
        self.for_each(keys, |table, row, _, place| {
            if let Some(place) = place {
                found.values.push(table.arena.get(place).value);
                found.positions.push(row);
            }
        });
    }

    /// The row of one key.
    pub(super) fn one(&self, key: &[u8]) -> Option<(&[u8], Option<i64>)> {
        let place = self.find(self.index.probe(hash_key(key)), key)?;
        let record = self.arena.get(place);
        Some((record.value, record.expiry()))
    }

    pub(super) fn put(&mut self, keys: &dyn RowBytes, values: &dyn RowBytes, expiries: Option<&[i64]>) {
        self.for_each(keys, |table, row, probe, place| {
            let expiry = expiries.map_or(NEVER, |expiries| expiries[row]);
            table.put_one(probe, place, keys.row(row), values.row(row), expiry);
        });
        self.tidy();
    }

    fn put_one(&mut self, probe: Probe, place: Option<Place>, key: &[u8], value: &[u8], expiry: i64) {
        self.expiries.note(expiry);
        let Some(old) = place else {
            let place = self.arena.add(key, value, expiry);
            self.index.insert(probe, place);
            self.expires(expiry, place);
            self.rows += 1;
            return;
        };
        let before = self.arena.get(old).expiry;
        if self.arena.overwrite(old, value, expiry) {
            if !Expiries::same(before, expiry) {
                self.expires(expiry, old);
            }
            return;
        }
        let new = self.arena.add(key, value, expiry);
        self.index.replace(probe, old, new);
        self.expires(expiry, new);
        self.kill(old);
    }

    pub(super) fn remove(&mut self, keys: &dyn RowBytes) {
        self.for_each(keys, |table, _, probe, place| {
            if let Some(place) = place {
                table.index.remove(probe, place);
                table.kill(place);
                table.rows -= 1;
            }
        });
        self.tidy();
    }

    fn expires(&mut self, expiry: i64, place: Place) {
        self.expiries.add(expiry, (place, self.arena.generation(place)));
    }

    fn kill(&mut self, place: Place) {
        self.sparse.extend(self.arena.kill(place));
    }

    pub(super) fn expire(&mut self, upto: i64, visit: &mut Visit<'_>) -> Result<()> {
        while let Some((bucket, places)) = self.expiries.take(upto) {
            let mut later = Vec::new();
            for (place, generation) in places {
                let Some(record) = self.arena.alive(place, generation) else { continue };
                if record.expiry > upto {
                    // Of this bucket still, or of another by now.
                    if record.expiry != NEVER && Expiries::same(record.expiry, Expiries::start(bucket)) {
                        later.push((place, generation));
                    }
                    continue;
                }
                visit(record.key, &[], record.value, record.expiry())?;
                let probe = self.index.probe(hash_key(record.key));
                self.index.remove(probe, place);
                self.kill(place);
                self.rows -= 1;
            }
            let is_past = Expiries::is_past(bucket, upto);
            self.expiries.put_back(bucket, later);
            if !is_past {
                break;
            }
        }
        self.tidy();
        Ok(())
    }

    pub(super) fn scan(&self, visit: &mut Visit<'_>) -> Result<()> {
        for page in 0..self.arena.pages() {
            for place in self.arena.live_in(page) {
                let record = self.arena.get(place);
                visit(record.key, &[], record.value, record.expiry())?;
            }
        }
        Ok(())
    }

    /// Moves the last live records out of pages that are mostly dead.
    fn tidy(&mut self) {
        while let Some(page) = self.sparse.pop() {
            for place in self.arena.live_in(page) {
                let record = self.arena.get(place);
                let (key, value, expiry) = (record.key.to_vec(), record.value.to_vec(), record.expiry);
                let new = self.arena.add(&key, &value, expiry);
                self.index.replace(self.index.probe(hash_key(&key)), place, new);
                self.expires(expiry, new);
                // The page is empty when its last record is gone, and is given back then.
                self.arena.kill(place);
            }
        }
    }

    /// Every record, with the hash of its key.
    pub(super) fn places(&self) -> impl Iterator<Item = (u64, Place)> {
        (0..self.arena.pages())
            .flat_map(|page| self.arena.live_in(page))
            .map(|place| (hash_key(self.arena.get(place).key), place))
    }

    /// The record at one of those places: key, value, expiry.
    pub(super) fn at(&self, place: Place) -> (&[u8], &[u8], i64) {
        let record = self.arena.get(place);
        (record.key, record.value, record.expiry)
    }

    pub(super) fn len(&self) -> u64 {
        self.rows
    }

    pub(super) fn first_expiry(&self) -> Option<i64> {
        self.expiries.first()
    }

    pub(super) fn last_expiry(&self) -> Option<i64> {
        self.expiries.last()
    }

    pub(super) fn memory(&self) -> usize {
        self.index.memory() + self.arena.memory() + self.expiries.memory()
    }
}
