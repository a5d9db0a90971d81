//! The table for rows without subkeys, in memory.

use super::arena::Arena;
use super::bytes::{ByteRows, RowBytes};
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
    /// Where rows are that were put since changes were last forgotten, and are marked; some of them may
    /// be dead by now.
    put: Vec<(Place, u32)>,
    /// The keys of rows that were there and are not any more.
    removed: ByteRows,
}

impl Default for ArenaTable {
    fn default() -> Self {
        Self {
            index: Index::new(),
            arena: Arena::default(),
            expiries: Expiries::default(),
            rows: 0,
            put: Vec::new(),
            removed: ByteRows::default(),
        }
    }
}

impl ArenaTable {
    /// Calls `each` with the position of every key, its probe, and where its record is.
    fn for_each(
        &mut self,
        keys: &dyn RowBytes,
        each: impl FnMut(&mut Self, usize, Probe, Option<Place>) -> Result<()>,
    ) -> Result<()> {
        self.for_each_hashed(keys, |row| hash_key(keys.row(row)), each)
    }

    /// The same; `hash` gives the hash of each key.
    fn for_each_hashed(
        &mut self,
        keys: &dyn RowBytes,
        hash: impl Fn(usize) -> u64,
        mut each: impl FnMut(&mut Self, usize, Probe, Option<Place>) -> Result<()>,
    ) -> Result<()> {
        let mut probes = Vec::with_capacity(GROUP);
        let mut start = 0;
        while start < keys.len() {
            let end = (start + GROUP).min(keys.len());
            probes.clear();
            probes.extend((start..end).map(|row| self.index.probe(hash(row))));
            // First the slots, then the records: each of these loops waits for memory about once.
            let guesses: Vec<Option<Place>> = probes.iter().map(|probe| self.index.guess(*probe)).collect();
            let touched = guesses.iter().flatten().fold(0, |sum, place| sum ^ self.arena.touch(*place));
            std::hint::black_box(touched);
            for row in start..end {
                let probe = probes[row - start];
                let place = self.find(probe, keys.row(row));
                each(self, row, probe, place)?;
            }
            start = end;
        }
        Ok(())
    }

    fn find(&self, probe: Probe, key: &[u8]) -> Option<Place> {
        self.index.find(probe, |place| self.arena.get(place).key == key)
    }

    pub(super) fn get(&mut self, keys: &dyn RowBytes, found: &mut Found) -> Result<()> {
        found.clear();
        self.for_each(keys, |table, row, _, place| {
            if let Some(place) = place {
                found.values.push(table.arena.get(place).value);
                found.positions.push(row);
            }
            Ok(())
        })
    }

    /// As `get`, for keys with these hashes, and where their rows are.
    pub(super) fn lookup(&mut self, keys: &dyn RowBytes, hashes: &[u64], found: &mut Found) -> Result<()> {
        found.clear();
        found.places.reserve(hashes.len());
        self.for_each_hashed(
            keys,
            |row| hashes[row],
            |table, row, _, place| {
                if let Some(place) = place {
                    found.values.push(table.arena.get(place).value);
                    found.positions.push(row);
                }
                found.places.push(place);
                Ok(())
            },
        )
    }

    /// As `put`, for keys with these hashes and places, each there once.
    pub(super) fn replace(
        &mut self,
        keys: &dyn RowBytes,
        hashes: &[u64],
        places: &[Option<Place>],
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        for row in 0..keys.len() {
            let expiry = expiries.map_or(NEVER, |expiries| expiries[row]);
            let probe = self.index.probe(hashes[row]);
            self.put_one(probe, places[row], keys.row(row), values.row(row), expiry)?;
        }
        self.tidy();
        Ok(())
    }

    /// The row of one key.
    pub(super) fn one(&self, key: &[u8]) -> Option<(&[u8], Option<i64>)> {
        let place = self.find(self.index.probe(hash_key(key)), key)?;
        let record = self.arena.get(place);
        Some((record.value, record.expiry()))
    }

    pub(super) fn put(
        &mut self,
        keys: &dyn RowBytes,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        self.for_each(keys, |table, row, probe, place| {
            let expiry = expiries.map_or(NEVER, |expiries| expiries[row]);
            table.put_one(probe, place, keys.row(row), values.row(row), expiry)
        })?;
        self.tidy();
        Ok(())
    }

    fn put_one(
        &mut self,
        probe: Probe,
        place: Option<Place>,
        key: &[u8],
        value: &[u8],
        expiry: i64,
    ) -> Result<()> {
        self.expiries.note(expiry);
        let Some(old) = place else {
            let place = self.arena.add(key, value, expiry)?;
            self.index.insert(probe, place);
            self.expires(expiry, place);
            self.changed(place);
            self.rows += 1;
            return Ok(());
        };
        let before = self.arena.get(old).expiry;
        if self.arena.overwrite(old, value, expiry) {
            self.changed(old);
            if !Expiries::same(before, expiry) {
                self.expires(expiry, old);
            }
            return Ok(());
        }
        let new = self.arena.add(key, value, expiry)?;
        self.index.replace(probe, old, new);
        self.expires(expiry, new);
        self.changed(new);
        self.arena.kill(old);
        Ok(())
    }

    fn changed(&mut self, place: Place) {
        if self.arena.mark(place) {
            self.put.push((place, self.arena.generation(place)));
        }
    }

    pub(super) fn remove(&mut self, keys: &dyn RowBytes) -> Result<()> {
        self.for_each(keys, |table, row, probe, place| {
            if let Some(place) = place {
                table.removed.push(keys.row(row));
                table.index.remove(probe, place);
                table.arena.kill(place);
                table.rows -= 1;
            }
            Ok(())
        })?;
        self.tidy();
        Ok(())
    }

    fn expires(&mut self, expiry: i64, place: Place) {
        self.expiries.add(expiry, (place, self.arena.generation(place)));
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
                if self.arena.is_marked(place) {
                    // What it was before may have a later expiry.
                    self.removed.push(record.key);
                }
                self.index.remove(probe, place);
                self.arena.kill(place);
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

    /// Moves the last live records out of pages that are mostly dead, and forgets where rows expired once.
    fn tidy(&mut self) {
        if self.expiries.are_stale(self.rows as usize) {
            self.expiries.clear();
            for page in 0..self.arena.pages() {
                for place in self.arena.live_in(page) {
                    self.expiries.add(self.arena.get(place).expiry, (place, self.arena.generation(place)));
                }
            }
        }
        while let Some(places) = self.arena.next_sparse() {
            for place in places {
                let new = self.arena.settle(place);
                let record = self.arena.get(new);
                let (expiry, hash) = (record.expiry, hash_key(record.key));
                self.index.replace(self.index.probe(hash), place, new);
                self.expires(expiry, new);
                if self.arena.is_marked(new) {
                    self.put.push((new, self.arena.generation(new)));
                }
            }
        }
    }

    /// The keys of rows that were removed, and the places of those that were put.
    pub(super) fn changes(&self) -> (&ByteRows, Vec<Place>) {
        let alive = |(place, generation): &(Place, u32)| {
            self.arena.alive(*place, *generation).is_some().then_some(*place)
        };
        (&self.removed, self.put.iter().filter_map(alive).collect())
    }

    /// How many changes there are, at most.
    pub(super) fn count_changes(&self) -> usize {
        self.put.len() + self.removed.len()
    }

    pub(super) fn forget_changes(&mut self) {
        for (place, generation) in std::mem::take(&mut self.put) {
            if self.arena.alive(place, generation).is_some() {
                self.arena.unmark(place);
            }
        }
        self.removed = ByteRows::default();
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
        let changes = self.put.capacity() * size_of::<(Place, u32)>() + self.removed.memory();
        self.index.memory() + self.arena.memory() + self.expiries.memory() + changes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(rows: impl IntoIterator<Item = Vec<u8>>) -> ByteRows {
        rows.into_iter().collect()
    }

    #[test]
    fn hot_rows_of_changing_length_do_not_keep_the_pages_of_cold_ones() -> Result<()> {
        let mut table = ArenaTable::default();
        for batch in 0..10_000u32 {
            let hot = (0..100u32).map(|key| key.to_be_bytes().to_vec());
            let keys = rows(hot.chain([(1000 + batch).to_be_bytes().to_vec()]));
            let values = rows((0..101).map(|row| vec![1; 80 + (batch as usize * 7 + row * 3) % 40]));
            table.put(&keys, &values, None)?;
        }
        let (memory, live) = (table.arena.memory(), table.arena.live());
        assert!(memory <= live * 2, "{memory} bytes for {live}");
        Ok(())
    }

    #[test]
    fn rows_that_are_put_again_and_again_have_one_expiry_each() -> Result<()> {
        let mut table = ArenaTable::default();
        let keys = rows((0..10u32).map(|key| key.to_be_bytes().to_vec()));
        for batch in 0..20_000usize {
            let values = rows((0..10).map(|row| vec![1; 10 + (batch + row) % 50]));
            table.put(&keys, &values, Some(&[86_400_000_000; 10]))?;
        }
        assert!(table.expiries.memory() < 200_000, "{} bytes", table.expiries.memory());
        let mut expired = 0;
        table.expire(86_400_000_000, &mut |_, _, _, _| {
            expired += 1;
            Ok(())
        })?;
        assert_eq!(expired, 10);
        Ok(())
    }

    #[test]
    fn a_large_row_gives_its_page_back_when_it_expires() -> Result<()> {
        let mut table = ArenaTable::default();
        for round in 1..10i64 {
            table.put(&rows([vec![7]]), &rows([vec![0; 3 << 20]]), Some(&[round * 2_000_000]))?;
            assert!(table.memory() >= 3 << 20);
            table.expire(round * 2_000_000, &mut |_, _, _, _| Ok(()))?;
            assert_eq!((table.len(), table.arena.memory()), (0, 0));
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever is written, pages hold at most twice of what is alive, apart from the two that are
        /// written to.
        #[test]
        fn memory_follows_what_is_alive(
            batches in prop::collection::vec((0u16..400, 1u16..300, 0usize..3000, 0u8..8), 1..120),
        ) {
            let mut table = ArenaTable::default();
            for (first, count, length, kind) in batches {
                let keys = rows((first..first + count).map(|key| key.to_be_bytes().to_vec()));
                if kind == 0 {
                    table.remove(&keys)?;
                } else {
                    let length = |key: usize| length + key * usize::from(kind) % 50;
                    let expiries: Vec<i64> =
                        (0..i64::from(count)).map(|row| if row % 3 == 0 { NEVER } else { row }).collect();
                    table.put(&keys, &rows((0..keys.len()).map(|key| vec![9; length(key)])), Some(&expiries))?;
                }
                let (memory, live) = (table.arena.memory(), table.arena.live());
                prop_assert!(memory <= live * 2 + (4 << 20), "{} bytes for {}", memory, live);
                let places = (0..table.arena.pages()).map(|page| table.arena.live_in(page).len()).sum::<usize>();
                prop_assert_eq!(places as u64, table.len());
            }
        }
    }
}
