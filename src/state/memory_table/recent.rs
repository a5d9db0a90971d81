//! Rows that came lately, in the order in which they came.
//!
//! A row of a join is most often forgotten soon after it came, together with those that came with it. Here a row
//! costs its bytes and two numbers, and is forgotten without being looked for; what stays for long is moved to where
//! the other rows are.

use std::collections::VecDeque;
use std::ops::Range;

use super::Name;
use crate::error::Result;
use crate::state::arena::Record;
use crate::state::bytes::{ByteRows, RowBytes};
use crate::state::hash::{hash_key, hash_row};
use crate::state::table::{NEVER, Visit};

/// How many bunches there are at most: a row is looked for in each.
const BUNCHES: usize = 4;
/// A bunch of so many rows is not added to in the next batch.
const FULL: usize = if cfg!(test) { 1 << 5 } else { 1 << 14 };
/// The first expiry is known for each so many rows.
const BLOCK: usize = if cfg!(test) { 1 << 3 } else { 1 << 10 };

/// Rows in bunches, oldest first. None of them has a name that another one has.
#[derive(Debug, Default)]
pub(super) struct Recent {
    bunches: VecDeque<Bunch>,
    rows: u64,
}

/// What is called with some rows, and whether each of them is a change.
type EachGroup<'a> = dyn FnMut(&[(Record<'_>, bool)]) -> Result<()> + 'a;

/// Where a row is, until the next call that changes anything.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    bunch: usize,
    row: usize,
}

/// Rows that came one after the other.
#[derive(Debug, Default)]
struct Bunch {
    keys: ByteRows,
    subkeys: ByteRows,
    values: ByteRows,
    expiries: Vec<i64>,
    /// The first expiry of each [`BLOCK`] rows, or an earlier one.
    firsts: Vec<i64>,
    by_key: Chains,
    /// By key and subkey; empty until somebody looks for a row so.
    by_name: Chains,
    is_dead: Vec<bool>,
    live: usize,
    /// How many rows, the first ones, are no changes any more.
    durable: usize,
    is_full: bool,
}

impl Recent {
    pub(super) fn len(&self) -> u64 {
        self.rows
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds rows, unless there are as many bunches as there may be; see [`Recent::take_oldest`].
    pub(super) fn add(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: &dyn RowBytes,
        values: &dyn RowBytes,
        expiries: &[i64],
    ) {
        if self.bunches.back().is_none_or(|bunch| !bunch.takes(keys.len())) {
            self.bunches.push_back(Bunch::default());
        }
        if let Some(bunch) = self.bunches.back_mut() {
            bunch.add(keys, subkeys, values, expiries);
            self.rows += keys.len() as u64;
        }
    }

    /// Whether the oldest bunch has to be taken out before so many rows can be added.
    pub(super) fn is_crowded(&self, rows: usize) -> bool {
        self.bunches.len() >= BUNCHES && self.bunches.back().is_some_and(|bunch| !bunch.takes(rows))
    }

    /// Takes out the oldest bunch: calls `each` with its rows, a `group` at a time, and whether they are changes.
    /// Whether there was one.
    pub(super) fn take_oldest(&mut self, group: usize, each: &mut EachGroup<'_>) -> Result<bool> {
        let Some(bunch) = self.bunches.pop_front() else { return Ok(false) };
        self.rows -= bunch.live as u64;
        let rows: Vec<usize> = bunch.alive(0..bunch.len()).collect();
        for rows in rows.chunks(group) {
            let rows = rows.iter().map(|row| (bunch.record(*row), *row >= bunch.durable));
            each(&rows.collect::<Vec<_>>())?;
        }
        Ok(true)
    }

    pub(super) fn record(&self, at: At) -> Record<'_> {
        self.bunches[at.bunch].record(at.row)
    }

    /// Has bytes of a row in the processor's cache.
    pub(super) fn touch(&self, at: At) -> u8 {
        self.bunches[at.bunch].values.touch(at.row)
    }

    /// All rows.
    pub(super) fn all(&self) -> impl Iterator<Item = At> {
        let rows = |(bunch, found): (usize, &'_ Bunch)| {
            let rows: Vec<usize> = found.alive(0..found.len()).collect();
            rows.into_iter().map(move |row| At { bunch, row })
        };
        self.bunches.iter().enumerate().flat_map(rows)
    }

    /// The rows of each of these keys: by the number of the key, then as they came.
    pub(super) fn of_keys(&self, names: &[Name<'_>]) -> Vec<(usize, At)> {
        let mut rows = Vec::new();
        for (bunch, found) in self.bunches.iter().enumerate() {
            let touched = names.iter().fold(0, |sum, name| sum ^ found.peek(name.hash));
            std::hint::black_box(touched);
            for (key, name) in names.iter().enumerate() {
                let first = rows.len();
                let chain = found.by_key.rows(name.hash).filter(|row| found.is(*row, name.key));
                rows.extend(chain.map(|row| (key, At { bunch, row })));
                rows[first..].reverse();
            }
        }
        rows.sort_by_key(|(key, _)| *key);
        rows
    }

    /// The row of a name.
    pub(super) fn find(&mut self, name: Name<'_>) -> Option<At> {
        let hash = hash_row(name.hash, name.subkey);
        self.bunches.iter_mut().enumerate().find_map(|(bunch, found)| {
            found.index_names();
            let mut rows = found.by_name.rows(hash);
            let row = rows.find(|row| found.is(*row, name.key) && found.subkeys.row(*row) == name.subkey)?;
            Some(At { bunch, row })
        })
    }

    /// Removes a row. Whether that is a change, because the row itself is none any more.
    pub(super) fn remove(&mut self, at: At) -> bool {
        let bunch = &mut self.bunches[at.bunch];
        bunch.kill(at.row);
        self.rows -= 1;
        at.row < bunch.durable
    }

    /// Lets go of bunches that are dead, which moves the others.
    pub(super) fn tidy(&mut self) {
        self.bunches.retain(|bunch| bunch.live > 0);
    }

    /// Removes every row that expires by `upto`, after showing it.
    pub(super) fn expire(&mut self, upto: i64, visit: &mut Visit<'_>) -> Result<()> {
        for bunch in &mut self.bunches {
            self.rows -= bunch.expire(upto, visit)?;
        }
        self.tidy();
        Ok(())
    }

    /// An expiry that none of the rows is before.
    pub(super) fn first_expiry(&self) -> Option<i64> {
        let firsts = self.bunches.iter().flat_map(|bunch| &bunch.firsts);
        firsts.copied().min().filter(|first| *first != NEVER)
    }

    /// The first expiry of a row. Looks at all of them.
    pub(super) fn next_expiry(&self) -> Option<i64> {
        self.all().map(|at| self.record(at).expiry).min().filter(|first| *first != NEVER)
    }

    /// The rows that are changes.
    pub(super) fn changed(&self) -> Vec<At> {
        let mut changed = Vec::with_capacity(self.changes());
        for (bunch, found) in self.bunches.iter().enumerate() {
            changed.extend(found.alive(found.durable..found.len()).map(|row| At { bunch, row }));
        }
        changed
    }

    /// How many rows are changes, at most.
    pub(super) fn changes(&self) -> usize {
        self.bunches.iter().map(|bunch| bunch.len() - bunch.durable).sum()
    }

    /// None of the rows is a change any more.
    pub(super) fn forget_changes(&mut self) {
        self.bunches.iter_mut().for_each(Bunch::forget_changes);
    }

    pub(super) fn memory(&self) -> usize {
        self.bunches.iter().map(Bunch::memory).sum()
    }
}

impl Bunch {
    fn len(&self) -> usize {
        self.expiries.len()
    }

    /// Whether so many more rows may be added: they are numbered by 32 bits.
    fn takes(&self, rows: usize) -> bool {
        !self.is_full && self.len() + rows < u32::MAX as usize
    }

    fn add(&mut self, keys: &dyn RowBytes, subkeys: &dyn RowBytes, values: &dyn RowBytes, expiries: &[i64]) {
        for (rows, new) in [(&mut self.keys, keys), (&mut self.subkeys, subkeys), (&mut self.values, values)]
        {
            rows.extend(new);
        }
        for expiry in expiries {
            match self.firsts.last_mut() {
                Some(first) if !self.expiries.len().is_multiple_of(BLOCK) => *first = (*first).min(*expiry),
                _ => self.firsts.push(*expiry),
            }
            self.expiries.push(*expiry);
        }
        self.is_dead.resize(self.len(), false);
        self.live += keys.len();
        let (keys, subkeys) = (&self.keys, &self.subkeys);
        self.by_key.extend(self.expiries.len(), |row| hash_key(keys.row(row)));
        if !self.by_name.is_empty() {
            self.by_name
                .extend(self.expiries.len(), |row| hash_row(hash_key(keys.row(row)), subkeys.row(row)));
        }
    }

    fn index_names(&mut self) {
        if self.by_name.is_empty() {
            let (keys, subkeys) = (&self.keys, &self.subkeys);
            self.by_name
                .extend(self.expiries.len(), |row| hash_row(hash_key(keys.row(row)), subkeys.row(row)));
        }
    }

    /// Whether a row is alive and has this key.
    fn is(&self, row: usize, key: &[u8]) -> bool {
        !self.is_dead[row] && self.keys.row(row) == key
    }

    /// Bytes of the newest row of a key with this hash, to have them in the processor's cache.
    fn peek(&self, hash: u64) -> u8 {
        self.by_key.rows(hash).next().map_or(0, |row| self.keys.touch(row))
    }

    fn record(&self, row: usize) -> Record<'_> {
        let (key, subkey, value) = (self.keys.row(row), self.subkeys.row(row), self.values.row(row));
        Record { key, subkey, value, expiry: self.expiries[row] }
    }

    /// Those of some rows that are alive.
    fn alive(&self, rows: Range<usize>) -> impl Iterator<Item = usize> {
        rows.filter(|row| !self.is_dead[*row])
    }

    fn kill(&mut self, row: usize) {
        self.is_dead[row] = true;
        self.live -= 1;
    }

    /// How many rows expired.
    fn expire(&mut self, upto: i64, visit: &mut Visit<'_>) -> Result<u64> {
        let before = self.live;
        for block in 0..self.firsts.len() {
            if self.firsts[block] > upto {
                continue;
            }
            let mut first = NEVER;
            for row in block * BLOCK..self.len().min((block + 1) * BLOCK) {
                let expiry = self.expiries[row];
                if self.is_dead[row] {
                    continue;
                }
                if expiry > upto || expiry == NEVER {
                    first = first.min(expiry);
                    continue;
                }
                visit(self.keys.row(row), self.subkeys.row(row), self.values.row(row), Some(expiry))?;
                self.kill(row);
            }
            self.firsts[block] = first;
        }
        Ok((before - self.live) as u64)
    }

    fn forget_changes(&mut self) {
        self.durable = self.len();
        if self.len() >= FULL && !self.is_full {
            self.is_full = true;
            [&mut self.keys, &mut self.subkeys, &mut self.values]
                .into_iter()
                .for_each(ByteRows::shrink_to_fit);
            self.expiries.shrink_to_fit();
            self.is_dead.shrink_to_fit();
            self.by_key.before.shrink_to_fit();
        }
    }

    fn memory(&self) -> usize {
        let rows: usize = [&self.keys, &self.subkeys, &self.values].into_iter().map(ByteRows::memory).sum();
        let numbers = (self.expiries.capacity() + self.firsts.capacity()) * size_of::<i64>();
        rows + numbers + self.is_dead.capacity() + self.by_key.memory() + self.by_name.memory()
    }
}

/// Rows by hash: for each slot the number of its newest row, and for each row that of the one before it; 0 for none,
/// and otherwise one more than the number.
#[derive(Debug, Default)]
struct Chains {
    heads: Vec<u32>,
    before: Vec<u32>,
}

impl Chains {
    fn is_empty(&self) -> bool {
        self.before.is_empty()
    }

    /// Adds the rows up to `rows`; `hash` gives the hash of each, also of those that are there.
    fn extend(&mut self, rows: usize, hash: impl Fn(usize) -> u64) {
        if rows > self.heads.len() {
            self.heads = vec![0; rows.next_power_of_two().max(BLOCK)];
            self.before.clear();
        }
        let mask = (self.heads.len() as u64).wrapping_sub(1);
        for row in self.before.len()..rows {
            let head = &mut self.heads[(hash(row) & mask) as usize];
            self.before.push(*head);
            *head = row as u32 + 1;
        }
    }

    /// The rows with this hash, and others, newest first.
    fn rows(&self, hash: u64) -> impl Iterator<Item = usize> {
        let mask = (self.heads.len() as u64).wrapping_sub(1);
        let mut at = self.heads.get((hash & mask) as usize).copied().unwrap_or_default();
        std::iter::from_fn(move || {
            let row = (at as usize).checked_sub(1)?;
            at = self.before[row];
            Some(row)
        })
    }

    fn memory(&self) -> usize {
        (self.heads.capacity() + self.before.capacity()) * size_of::<u32>()
    }
}
