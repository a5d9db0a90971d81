//! A table in memory.

mod chains;
mod changes;
mod recent;
#[cfg(test)]
mod tests;

use self::recent::Recent;
use super::arena::{Arena, Record, Stamp};
use super::bytes::{ByteRows, RowBytes};
use super::change_log::bucket_of;
use super::expiries::Expiries;
use super::hash::{hash_key, hash_row};
use super::index::{Index, Place};
use super::table::{Found, NEVER, StateTable, Visit, VisitKeys};
use crate::error::Result;

pub(super) use changes::SortedRows;

/// How many keys are looked up at the same time: memory answers several questions as fast as one.
const GROUP: usize = 64;

/// All rows in memory: an index over records that are written one after the other. Those of a key that have
/// subkeys are linked.
///
/// There is one place in the index for each row. It is found by the key if the row has no subkey or is the first
/// of its key, and otherwise by both.
///
/// Rows that were added ([`StateTable::add`]) are apart from those as long as they are recent.
#[derive(Debug)]
pub struct MemoryTable {
    index: Index,
    arena: Arena,
    expiries: Expiries,
    /// How many rows there are, but for the recent ones.
    rows: u64,
    recent: Recent,
    /// Rows that were put since changes were last forgotten, and are marked; some of them may be dead by now.
    put: Vec<Stamp>,
    /// The bucket of each of them.
    put_buckets: Vec<u8>,
    /// The keys and subkeys of rows that were there and are not any more.
    removed: (ByteRows, ByteRows),
}

impl Default for MemoryTable {
    fn default() -> Self {
        Self {
            index: Index::new(),
            arena: Arena::default(),
            expiries: Expiries::default(),
            rows: 0,
            recent: Recent::default(),
            put: Vec::new(),
            put_buckets: Vec::new(),
            removed: Default::default(),
        }
    }
}

/// What a row is known by.
#[derive(Debug, Clone, Copy)]
struct Name<'a> {
    key: &'a [u8],
    subkey: &'a [u8],
    /// The key's.
    hash: u64,
}

impl<'a> Name<'a> {
    fn of(record: Record<'a>) -> Self {
        Self { key: record.key, subkey: record.subkey, hash: hash_key(record.key) }
    }

    fn is_that_of(&self, record: Record<'_>) -> bool {
        record.key == self.key && record.subkey == self.subkey
    }
}

fn subkey_of(subkeys: Option<&dyn RowBytes>, row: usize) -> &[u8] {
    subkeys.map_or(&[], |subkeys| subkeys.row(row))
}

impl MemoryTable {
    /// Calls `each` with the position and name of every row, and where its record is.
    fn for_each(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: Option<&dyn RowBytes>,
        each: impl FnMut(&mut Self, usize, Name<'_>, Option<Place>) -> Result<()>,
    ) -> Result<()> {
        self.for_each_hashed(keys, subkeys, |row| hash_key(keys.row(row)), each)
    }

    /// The same; `hash` gives the hash of each key.
    fn for_each_hashed(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: Option<&dyn RowBytes>,
        hash: impl Fn(usize) -> u64,
        mut each: impl FnMut(&mut Self, usize, Name<'_>, Option<Place>) -> Result<()>,
    ) -> Result<()> {
        let mut names = Vec::with_capacity(GROUP);
        let mut start = 0;
        while start < keys.len() {
            let end = (start + GROUP).min(keys.len());
            names.clear();
            let name = |row| Name { key: keys.row(row), subkey: subkey_of(subkeys, row), hash: hash(row) };
            names.extend((start..end).map(name));
            self.prepare(&names);
            for row in start..end {
                let name = names[row - start];
                let place = self.place_of(name);
                each(self, row, name, place)?;
            }
            start = end;
        }
        Ok(())
    }

    /// Has what is looked at for these names in the processor's cache: first the slots, then the records, and each
    /// of these loops waits for memory about once.
    fn prepare(&self, names: &[Name<'_>]) {
        let guess = |hash| self.index.guess(self.index.probe(hash));
        let mut guesses: Vec<Option<Place>> = names.iter().map(|name| guess(name.hash)).collect();
        let linked = names.iter().filter(|name| !name.subkey.is_empty());
        guesses.extend(linked.map(|name| guess(hash_row(name.hash, name.subkey))));
        let touched = guesses.iter().flatten().fold(0, |sum, place| sum ^ self.arena.touch(*place));
        std::hint::black_box(touched);
    }

    /// The same for rows that were looked up: the records of those that are there, the slots of the others.
    fn prepare_to_write(&self, places: &[Option<Place>], hashes: &[u64]) {
        let touched = places.iter().zip(hashes).fold(0, |sum, (place, hash)| match place {
            Some(place) => sum ^ u64::from(self.arena.touch(*place)),
            None => sum ^ self.index.touch(self.index.probe(*hash)),
        });
        std::hint::black_box(touched);
    }

    /// The same for rows that are to be taken out.
    fn prepare_to_take_out(&self, stamps: &[Stamp]) {
        let touched = stamps.iter().fold(0, |sum, stamp| sum ^ self.arena.peek(*stamp));
        std::hint::black_box(touched);
        let places = stamps.iter().filter_map(|stamp| self.arena.alive(*stamp));
        let touched = places.fold(0, |sum, place| sum ^ self.index.touch(self.index.probe(self.slot(place))));
        std::hint::black_box(touched);
    }

    fn place_of(&self, name: Name<'_>) -> Option<Place> {
        let at = |hash| {
            let is_it = |place| name.is_that_of(self.arena.get(place));
            self.index.find(self.index.probe(hash), is_it)
        };
        match name.subkey {
            [] => at(name.hash),
            subkey => at(hash_row(name.hash, subkey)).or_else(|| at(name.hash)),
        }
    }

    /// By what hash the index has a record.
    fn slot(&self, place: Place) -> u64 {
        let Name { subkey, hash, .. } = Name::of(self.arena.get(place));
        let is_first = || self.arena.links(place).is_some_and(|links| links.is_first);
        if subkey.is_empty() || is_first() { hash } else { hash_row(hash, subkey) }
    }

    fn put_one(&mut self, name: Name<'_>, place: Option<Place>, value: &[u8], expiry: i64) -> Result<()> {
        self.expiries.note(expiry);
        let Name { key, subkey, .. } = name;
        let Some(old) = place else {
            let place = self.insert(name, value, expiry)?;
            self.changed(key, place);
            return Ok(());
        };
        let before = self.arena.get(old).expiry;
        if self.arena.overwrite(old, value, expiry) {
            self.changed(key, old);
            if !Expiries::same(before, expiry) {
                self.expires(expiry, old);
            }
            return Ok(());
        }
        let new = self.arena.add(Record { key, subkey, value, expiry })?;
        if let Some(links) = self.arena.links(old) {
            self.arena.link(new, links);
        }
        self.moved(old, new);
        self.expires(expiry, new);
        self.changed(key, new);
        self.arena.kill(old);
        Ok(())
    }

    /// Adds a row that is not there.
    fn insert(&mut self, name: Name<'_>, value: &[u8], expiry: i64) -> Result<Place> {
        let Name { key, subkey, hash } = name;
        let place = self.arena.add(Record { key, subkey, value, expiry })?;
        let slot = if subkey.is_empty() { hash } else { self.link(name, place) };
        self.index.insert(self.index.probe(slot), place);
        self.expires(expiry, place);
        self.rows += 1;
        Ok(place)
    }

    /// Moves the oldest of the recent rows to the others. Whether there were any.
    fn settle_oldest(&mut self) -> Result<bool> {
        let mut recent = std::mem::take(&mut self.recent);
        let settled = recent.take_oldest(GROUP, &mut |rows| {
            let names: Vec<Name<'_>> = rows.iter().map(|(record, _)| Name::of(*record)).collect();
            self.prepare(&names);
            for ((record, is_change), name) in rows.iter().zip(names) {
                let place = self.insert(name, record.value, record.expiry)?;
                if *is_change {
                    self.changed(record.key, place);
                }
            }
            Ok(())
        });
        self.recent = recent;
        settled
    }

    /// Moves all recent rows to the others.
    pub(super) fn settle(&mut self) -> Result<()> {
        while self.settle_oldest()? {}
        Ok(())
    }

    /// Removes those of these rows that are recent; `each` is called with the number of each, and whether that is a
    /// change. How many there were.
    fn remove_recent(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: Option<&dyn RowBytes>,
        mut each: impl FnMut(&mut Self, Name<'_>, bool),
    ) -> usize {
        let mut removed = 0;
        for row in 0..keys.len() {
            if self.recent.is_empty() {
                break;
            }
            let key = keys.row(row);
            let name = Name { key, subkey: subkey_of(subkeys, row), hash: hash_key(key) };
            if let Some(at) = self.recent.find(name) {
                let is_change = self.recent.remove(at);
                removed += 1;
                each(self, name, is_change);
            }
        }
        if removed > 0 {
            self.recent.tidy();
        }
        removed
    }

    /// A record is at another place, with the links it had.
    fn moved(&mut self, old: Place, new: Place) {
        self.index.replace(self.index.probe(self.slot(new)), old, new);
        self.relink(old, new);
    }

    fn changed(&mut self, key: &[u8], place: Place) {
        if self.arena.mark(place) {
            self.put.push(self.arena.stamp(place));
            self.put_buckets.push(bucket_of(key) as u8);
        }
    }

    fn expires(&mut self, expiry: i64, place: Place) {
        self.expiries.add(expiry, self.arena.stamp(place));
    }

    /// Takes a row out.
    fn take_out(&mut self, place: Place) {
        self.index.remove(self.index.probe(self.slot(place)), place);
        self.unlink(place);
        self.arena.kill(place);
        self.rows -= 1;
    }

    /// The places of all rows.
    fn places(&self) -> impl Iterator<Item = Place> {
        (0..self.arena.pages()).flat_map(|page| self.arena.live_in(page))
    }

    /// Moves the last live records out of pages that are mostly dead, and forgets where rows expired once.
    fn tidy(&mut self) {
        if self.expiries.are_stale(self.rows as usize) {
            self.expiries.clear();
            for page in 0..self.arena.pages() {
                for place in self.arena.live_in(page) {
                    self.expires(self.arena.get(place).expiry, place);
                }
            }
        }
        while let Some(places) = self.arena.next_sparse() {
            for old in places {
                let new = self.arena.settle(old);
                self.moved(old, new);
                self.expires(self.arena.get(new).expiry, new);
                if self.arena.is_marked(new) {
                    self.put.push(self.arena.stamp(new));
                    self.put_buckets.push(bucket_of(self.arena.get(new).key) as u8);
                }
            }
        }
    }
}

impl StateTable for MemoryTable {
    fn get(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>, found: &mut Found) -> Result<()> {
        found.clear();
        self.for_each(keys, subkeys, |table, row, name, place| {
            if let Some(place) = place {
                found.values.push(table.arena.get(place).value);
                found.positions.push(row);
            } else if !table.recent.is_empty()
                && let Some(at) = table.recent.find(name)
            {
                found.values.push(table.recent.record(at).value);
                found.positions.push(row);
            }
            Ok(())
        })
    }

    fn find(&mut self, keys: &dyn RowBytes, hashes: &[u64], found: &mut Found) -> Result<()> {
        found.clear();
        found.places.reserve(hashes.len());
        self.for_each_hashed(
            keys,
            None,
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

    fn replace(
        &mut self,
        keys: &dyn RowBytes,
        hashes: &[u64],
        found: &Found,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        for start in (0..keys.len()).step_by(GROUP) {
            let rows = start..(start + GROUP).min(keys.len());
            self.prepare_to_write(&found.places[rows.clone()], &hashes[rows.clone()]);
            for row in rows {
                let expiry = expiries.map_or(NEVER, |expiries| expiries[row]);
                let name = Name { key: keys.row(row), subkey: &[], hash: hashes[row] };
                self.put_one(name, found.places[row], values.row(row), expiry)?;
            }
        }
        self.tidy();
        Ok(())
    }

    fn get_all(&mut self, keys: &dyn RowBytes, visit: &mut VisitKeys<'_>) -> Result<()> {
        self.visit_keys(keys, visit)
    }

    fn put(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: Option<&dyn RowBytes>,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        // What a row is from now on is written down, whatever it was.
        self.remove_recent(keys, subkeys, |_, _, _| ());
        self.for_each(keys, subkeys, |table, row, name, place| {
            let expiry = expiries.map_or(NEVER, |expiries| expiries[row]);
            table.put_one(name, place, values.row(row), expiry)
        })?;
        self.tidy();
        Ok(())
    }

    fn add(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: &dyn RowBytes,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        let Some(expiries) = expiries else {
            // They are never forgotten.
            for start in (0..keys.len()).step_by(GROUP) {
                let rows = start..(start + GROUP).min(keys.len());
                let name = |row| {
                    let key = keys.row(row);
                    Name { key, subkey: subkeys.row(row), hash: hash_key(key) }
                };
                let names: Vec<Name<'_>> = rows.clone().map(name).collect();
                self.prepare(&names);
                for (row, name) in rows.zip(names) {
                    self.put_one(name, None, values.row(row), NEVER)?;
                }
            }
            return Ok(());
        };
        if self.recent.is_crowded(keys.len()) {
            self.settle_oldest()?;
            self.tidy();
        }
        expiries.iter().for_each(|expiry| self.expiries.note(*expiry));
        self.recent.add(keys, subkeys, values, expiries);
        Ok(())
    }

    fn remove(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>) -> Result<()> {
        let recent = self.remove_recent(keys, subkeys, |table, name, is_change| {
            if is_change {
                table.removed.0.push(name.key);
                table.removed.1.push(name.subkey);
            }
        });
        if recent == keys.len() {
            return Ok(());
        }
        self.for_each(keys, subkeys, |table, _, name, place| {
            if let Some(place) = place {
                table.removed.0.push(name.key);
                table.removed.1.push(name.subkey);
                table.take_out(place);
            }
            Ok(())
        })?;
        self.tidy();
        Ok(())
    }

    fn expire(&mut self, upto: i64, visit: &mut Visit<'_>) -> Result<()> {
        // Those that are changes have never been written down.
        self.recent.expire(upto, visit)?;
        while let Some((bucket, stamps)) = self.expiries.take(upto) {
            let mut later = Vec::new();
            for (number, stamp) in stamps.iter().copied().enumerate() {
                if number.is_multiple_of(GROUP) {
                    self.prepare_to_take_out(&stamps[number..stamps.len().min(number + GROUP)]);
                }
                let Some(place) = self.arena.alive(stamp) else { continue };
                let record = self.arena.get(place);
                if record.expiry > upto {
                    // Of this bucket still, or of another by now.
                    if record.expiry != NEVER && Expiries::same(record.expiry, Expiries::start(bucket)) {
                        later.push(stamp);
                    }
                    continue;
                }
                visit(record.key, record.subkey, record.value, record.expiry())?;
                if self.arena.is_marked(place) {
                    // What it was before may have a later expiry.
                    self.removed.0.push(record.key);
                    self.removed.1.push(record.subkey);
                }
                self.take_out(place);
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

    fn scan(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        for place in self.places() {
            let record = self.arena.get(place);
            visit(record.key, record.subkey, record.value, record.expiry())?;
        }
        for at in self.recent.all() {
            let record = self.recent.record(at);
            visit(record.key, record.subkey, record.value, record.expiry())?;
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.rows + self.recent.len()
    }

    fn first_expiry(&self) -> Option<i64> {
        self.expiries.first().into_iter().chain(self.recent.first_expiry()).min()
    }

    fn next_expiry(&self) -> Option<i64> {
        let next = self.expiries.in_order().find_map(|(bucket, stamps)| {
            let alive = stamps.iter().filter_map(|stamp| self.arena.alive(*stamp));
            let expiries = alive.map(|place| self.arena.get(place).expiry);
            expiries.filter(|expiry| *expiry != NEVER && Expiries::same(*expiry, bucket)).min()
        });
        next.into_iter().chain(self.recent.next_expiry()).min()
    }

    fn last_expiry(&self) -> Option<i64> {
        self.expiries.last()
    }

    fn memory(&self) -> usize {
        let changes = self.put.capacity() * size_of::<Stamp>() + self.put_buckets.capacity();
        let removed = self.removed.0.memory() + self.removed.1.memory();
        let settled = self.index.memory() + self.arena.memory() + self.expiries.memory();
        settled + self.recent.memory() + changes + removed
    }
}
