//! What a batch changed in a table.

use super::bytes::{ByteRows, RowBytes};
use super::table::{Found, NEVER, StateTable, Visit, VisitKeys};
use crate::error::Result;

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Removed,
    /// With its expiry.
    Put(Option<i64>),
}

/// A row that was put or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChangedRow<'a> {
    pub(super) key: &'a [u8],
    pub(super) subkey: &'a [u8],
    /// Empty if it was removed.
    pub(super) value: &'a [u8],
    pub(super) change: Change,
}

/// Rows that were put or removed; of two changes of a row the later one counts.
pub(super) trait ChangedRows {
    fn len(&self) -> usize;

    fn row(&self, index: usize) -> ChangedRow<'_>;

    /// How many bytes keys, subkeys and values have.
    fn bytes(&self) -> usize {
        let length = |row: ChangedRow<'_>| row.key.len() + row.subkey.len() + row.value.len();
        (0..self.len()).map(|index| length(self.row(index))).sum()
    }
}

/// A table that knows what was changed in it, without a copy of what is still there.
pub(super) trait ChangingTable: StateTable {
    /// The rows that were put or removed since they were last forgotten, and are not as they were then.
    fn changes(&self) -> Box<dyn ChangedRows + '_>;

    /// How many those are, at most.
    fn changed(&self) -> usize;

    /// Says that they are durable.
    fn forget_changes(&mut self);
}

/// Changed rows with their bytes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) keys: ByteRows,
    pub(super) subkeys: ByteRows,
    pub(super) values: ByteRows,
    pub(super) kinds: Vec<Change>,
}

impl Changes {
    pub(super) fn push(&mut self, key: &[u8], subkey: &[u8], value: &[u8], change: Change) {
        self.keys.push(key);
        self.subkeys.push(subkey);
        self.values.push(value);
        self.kinds.push(change);
    }

    /// How many bytes of memory they take.
    pub(super) fn memory(&self) -> usize {
        self.keys.memory() + self.subkeys.memory() + self.values.memory() + self.kinds.capacity() * 16
    }
}

impl ChangedRows for Changes {
    fn len(&self) -> usize {
        self.kinds.len()
    }

    fn row(&self, index: usize) -> ChangedRow<'_> {
        ChangedRow {
            key: self.keys.row(index),
            subkey: self.subkeys.row(index),
            value: self.values.row(index),
            change: self.kinds[index],
        }
    }

    fn bytes(&self) -> usize {
        self.keys.bytes() + self.subkeys.bytes() + self.values.bytes()
    }
}

/// Whether a row that was changed so is gone when all that expired by `expired` is.
pub(super) fn is_expired(change: Change, expired: Option<i64>) -> bool {
    match (change, expired) {
        (Change::Put(Some(expiry)), Some(expired)) => expiry <= expired && expiry != NEVER,
        _ => false,
    }
}

/// A table of a query, with what its state is as a whole.
#[derive(Debug)]
pub(super) struct LiveTable {
    pub(super) rows: Box<dyn ChangingTable>,
    /// Everything with an expiry up to this one is gone.
    pub(super) expired: Option<i64>,
}

impl StateTable for LiveTable {
    fn get(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>, found: &mut Found) -> Result<()> {
        self.rows.get(keys, subkeys, found)
    }

    fn find(&mut self, keys: &dyn RowBytes, hashes: &[u64], found: &mut Found) -> Result<()> {
        self.rows.find(keys, hashes, found)
    }

    fn replace(
        &mut self,
        keys: &dyn RowBytes,
        hashes: &[u64],
        found: &Found,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        self.rows.replace(keys, hashes, found, values, expiries)
    }

    fn get_all(&mut self, keys: &dyn RowBytes, visit: &mut VisitKeys<'_>) -> Result<()> {
        self.rows.get_all(keys, visit)
    }

    fn put(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: Option<&dyn RowBytes>,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        self.rows.put(keys, subkeys, values, expiries)
    }

    fn remove(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>) -> Result<()> {
        self.rows.remove(keys, subkeys)
    }

    fn expire(&mut self, upto: i64, visit: &mut Visit<'_>) -> Result<()> {
        self.rows.expire(upto, visit)?;
        self.expired = self.expired.max(Some(upto));
        Ok(())
    }

    fn scan(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        self.rows.scan(visit)
    }

    fn len(&self) -> u64 {
        self.rows.len()
    }

    fn first_expiry(&self) -> Option<i64> {
        self.rows.first_expiry()
    }

    fn last_expiry(&self) -> Option<i64> {
        self.rows.last_expiry()
    }

    fn memory(&self) -> usize {
        self.rows.memory()
    }

    fn disk(&self) -> u64 {
        self.rows.disk()
    }

    fn set_memory_limit(&mut self, bytes: usize) {
        self.rows.set_memory_limit(bytes);
    }
}
