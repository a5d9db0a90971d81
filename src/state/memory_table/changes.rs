//! What was changed in a table, and all of its rows in the order of runs.

use super::MemoryTable;
use crate::state::bytes::RowBytes;
use crate::state::change_log::{Change, ChangedRow, ChangedRows};
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
    /// All rows by hash, key and subkey.
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
}

impl ChangedRows for MemoryChanges<'_> {
    fn len(&self) -> usize {
        self.table.removed.0.len() + self.put.len()
    }

    fn row(&self, index: usize) -> ChangedRow<'_> {
        let (keys, subkeys) = &self.table.removed;
        match index.checked_sub(keys.len()) {
            None => ChangedRow {
                key: keys.row(index),
                subkey: subkeys.row(index),
                value: &[],
                change: Change::Removed,
            },
            Some(index) => {
                let record = self.table.arena.get(self.put[index]);
                let change = Change::Put(record.expiry());
                ChangedRow { key: record.key, subkey: record.subkey, value: record.value, change }
            }
        }
    }
}

impl ChangingTable for MemoryTable {
    fn changes(&self) -> Box<dyn ChangedRows + '_> {
        let put = self.put.iter().filter_map(|stamp| self.arena.alive(*stamp)).collect();
        Box::new(MemoryChanges { table: self, put })
    }

    fn changed(&self) -> usize {
        self.put.len() + self.removed.0.len()
    }

    fn forget_changes(&mut self) {
        for stamp in std::mem::take(&mut self.put) {
            if let Some(place) = self.arena.alive(stamp) {
                self.arena.unmark(place);
            }
        }
        self.removed = Default::default();
    }
}
