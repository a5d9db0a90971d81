//! What a batch changed in a table.

use super::bytes::{ByteRows, RowBytes};
use super::table::{Found, NEVER, StateTable, Visit, VisitKeys};
use crate::error::Result;

/// Rows that were put or removed, in that order of calls.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) keys: ByteRows,
    pub(super) subkeys: ByteRows,
    /// Empty for rows that were removed.
    pub(super) values: ByteRows,
    pub(super) kinds: Vec<Change>,
    /// Everything with an expiry up to this one is gone.
    pub(super) expired: Option<i64>,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Removed,
    /// With its expiry.
    Put(Option<i64>),
}

impl Changes {
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// How many bytes keys, subkeys and values have.
    pub(super) fn bytes(&self) -> usize {
        self.keys.bytes() + self.subkeys.bytes() + self.values.bytes()
    }

    pub(super) fn push(&mut self, key: &[u8], subkey: &[u8], value: &[u8], change: Change) {
        self.keys.push(key);
        self.subkeys.push(subkey);
        self.values.push(value);
        self.kinds.push(change);
    }
}

/// Whether a row that was changed so is gone when all that expired by `expired` is.
pub(super) fn is_expired(change: Change, expired: Option<i64>) -> bool {
    match (change, expired) {
        (Change::Put(Some(expiry)), Some(expired)) => expiry <= expired && expiry != NEVER,
        _ => false,
    }
}

/// A table that remembers what was changed in it.
#[derive(Debug)]
pub(super) struct LoggedTable {
    table: Box<dyn StateTable>,
    changes: Changes,
}

impl LoggedTable {
    pub(super) fn new(table: Box<dyn StateTable>) -> Self {
        Self { table, changes: Changes::default() }
    }

    /// What was changed since the last call.
    pub(super) fn take_changes(&mut self) -> Changes {
        let expired = self.changes.expired;
        std::mem::replace(&mut self.changes, Changes { expired, ..Changes::default() })
    }

    /// Says that all that expired by `expired` is gone already.
    pub(super) fn set_expired(&mut self, expired: Option<i64>) {
        self.changes.expired = expired;
    }
}

impl StateTable for LoggedTable {
    fn get(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>, found: &mut Found) -> Result<()> {
        self.table.get(keys, subkeys, found)
    }

    fn get_all(&mut self, keys: &dyn RowBytes, visit: &mut VisitKeys<'_>) -> Result<()> {
        self.table.get_all(keys, visit)
    }

    fn put(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: Option<&dyn RowBytes>,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        self.table.put(keys, subkeys, values, expiries)?;
        for row in 0..keys.len() {
            let subkey = subkeys.map_or(&[][..], |subkeys| subkeys.row(row));
            let expiry = expiries.map(|expiries| expiries[row]);
            self.changes.push(keys.row(row), subkey, values.row(row), Change::Put(expiry));
        }
        Ok(())
    }

    fn remove(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>) -> Result<()> {
        self.table.remove(keys, subkeys)?;
        for row in 0..keys.len() {
            let subkey = subkeys.map_or(&[][..], |subkeys| subkeys.row(row));
            self.changes.push(keys.row(row), subkey, &[], Change::Removed);
        }
        Ok(())
    }

    fn expire(&mut self, upto: i64, visit: &mut Visit<'_>) -> Result<()> {
        self.table.expire(upto, visit)?;
        self.changes.expired = self.changes.expired.max(Some(upto));
        Ok(())
    }

    fn scan(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        self.table.scan(visit)
    }

    fn len(&self) -> u64 {
        self.table.len()
    }

    fn first_expiry(&self) -> Option<i64> {
        self.table.first_expiry()
    }

    fn last_expiry(&self) -> Option<i64> {
        self.table.last_expiry()
    }

    fn memory(&self) -> usize {
        self.table.memory()
    }

    fn disk(&self) -> u64 {
        self.table.disk()
    }

    fn set_memory_limit(&mut self, bytes: usize) {
        self.table.set_memory_limit(bytes);
    }
}
