//! What was changed in a table, and all of its rows in the order of runs.

use std::borrow::Cow;
use std::ops::Range;

use super::recent::At;
use super::{GROUP, MemoryTable};
use crate::state::bytes::RowBytes;
use crate::state::change_log::{Change, ChangedRow, ChangedRows, bucket_of};
use crate::state::changing_table::ChangingTable;
use crate::state::hash::hash_key;
use crate::state::index::Place;

/// All rows of a table by hash, key and subkey.
pub(crate) struct SortedRows<'a> {
    table: &'a MemoryTable,
    /// The hash of every row, and where it is.
    order: Vec<(u64, Place)>,
    at: usize,
}

impl MemoryTable {
    /// All rows by hash, key and subkey, but for those that are recent.
    pub(in crate::state) fn sorted(&self) -> SortedRows<'_> {
        let mut order: Vec<(u64, Place)> = Vec::with_capacity(self.rows as usize);
        order.extend(self.places().map(|place| (hash_key(self.arena.get(place).key), place)));
        order.sort_unstable_by(|one, other| {
            let name = |place| {
                let record = self.arena.get(place);
                (record.key, record.subkey)
            };
            one.0.cmp(&other.0).then_with(|| name(one.1).cmp(&name(other.1)))
        });
        SortedRows { table: self, order, at: 0 }
    }
}

impl<'a> SortedRows<'a> {
    /// The hash, bytes (key, subkey, value) and expiry of the row that it is at.
    pub(in crate::state) fn row(&self) -> Option<(u64, [&'a [u8]; 3], i64)> {
        let (hash, place) = self.order.get(self.at)?;
        let record = self.table.arena.get(*place);
        Some((*hash, [record.key, record.subkey, record.value], record.expiry))
    }

    /// Goes to the next row.
    pub(in crate::state) fn advance(&mut self) {
        self.at += 1;
    }
}

/// What was changed: removed rows first, for they may be there again.
struct MemoryChanges<'a> {
    table: &'a MemoryTable,
    /// Where those are that were put.
    put: Vec<Place>,
    /// The bucket of each of these.
    buckets: Cow<'a, [u8]>,
    /// Where those are that were added.
    added: Vec<At>,
}

/// Which of the changes is meant.
enum Which {
    Removed(usize),
    Put(usize),
    Added(At),
}

impl MemoryChanges<'_> {
    fn which(&self, index: usize) -> Which {
        let Some(put) = index.checked_sub(self.table.removed.0.len()) else { return Which::Removed(index) };
        put.checked_sub(self.put.len()).map_or(Which::Put(put), |added| Which::Added(self.added[added]))
    }
}

impl ChangedRows for MemoryChanges<'_> {
    fn len(&self) -> usize {
        self.table.removed.0.len() + self.put.len() + self.added.len()
    }

    fn bucket(&self, index: usize) -> u32 {
        match self.which(index) {
            Which::Removed(index) => bucket_of(self.table.removed.0.row(index)),
            Which::Put(index) => u32::from(self.buckets[index]),
            Which::Added(at) => bucket_of(self.table.recent.record(at).key),
        }
    }

    fn touch(&self, rows: Range<usize>) {
        let touched = rows.fold(0, |sum, row| match self.which(row) {
            Which::Removed(_) => sum,
            Which::Put(index) => sum ^ self.table.arena.touch(self.put[index]),
            Which::Added(at) => sum ^ self.table.recent.touch(at),
        });
        std::hint::black_box(touched);
    }

    fn row(&self, index: usize) -> ChangedRow<'_> {
        let record = match self.which(index) {
            Which::Removed(index) => {
                let (keys, subkeys) = &self.table.removed;
                return ChangedRow {
                    key: keys.row(index),
                    subkey: subkeys.row(index),
                    value: &[],
                    change: Change::Removed,
                };
            }
            Which::Put(index) => self.table.arena.get(self.put[index]),
            Which::Added(at) => self.table.recent.record(at),
        };
        let change = Change::Put(record.expiry());
        ChangedRow { key: record.key, subkey: record.subkey, value: record.value, change }
    }
}

impl ChangingTable for MemoryTable {
    fn changes(&self) -> Box<dyn ChangedRows + '_> {
        let added = self.recent.changed();
        if self.arena.lost_marks() == 0 {
            let put = self.put.iter().map(|stamp| stamp.place()).collect();
            let buckets = Cow::Borrowed(self.put_buckets.as_slice());
            return Box::new(MemoryChanges { table: self, put, buckets, added });
        }
        let put = self.put.iter().zip(&self.put_buckets);
        let alive = put.filter_map(|(stamp, bucket)| Some((self.arena.alive(*stamp)?, *bucket)));
        let (put, buckets): (Vec<Place>, Vec<u8>) = alive.unzip();
        Box::new(MemoryChanges { table: self, put, buckets: Cow::Owned(buckets), added })
    }

    fn changed(&self) -> usize {
        self.put.len() + self.removed.0.len() + self.recent.changes()
    }

    fn forget_changes(&mut self) {
        for stamps in std::mem::take(&mut self.put).chunks(GROUP) {
            let touched = stamps.iter().fold(0, |sum, stamp| sum ^ self.arena.peek(*stamp));
            std::hint::black_box(touched);
            for place in stamps.iter().filter_map(|stamp| self.arena.alive(*stamp)).collect::<Vec<_>>() {
                self.arena.unmark(place);
            }
        }
        self.put_buckets = Vec::new();
        self.arena.forget_lost_marks();
        self.removed = Default::default();
        self.recent.forget_changes();
    }
}
