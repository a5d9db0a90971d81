//! Tables that know what a batch changed in them.

use super::bytes::RowBytes;
use super::change_log::ChangedRows;
use super::moved::MovedChanges;
use super::table::{Found, StateTable, Visit, VisitKeys};
use crate::error::Result;

/// A table that knows what was changed in it, without a copy of what is still there.
pub(super) trait ChangingTable: StateTable {
    /// The rows that were put or removed since they were last forgotten, and are not as they were then,
    /// but for those of [`ChangingTable::take_moved`].
    fn changes(&self) -> Box<dyn ChangedRows + '_>;

    /// The older ones of these changes, of rows that were moved to the local disk. They are given once.
    ///
    /// # Errors
    /// Those of that disk.
    fn take_moved(&mut self) -> Result<Option<MovedChanges>> {
        Ok(None)
    }

    /// How many rows were changed, at most.
    fn changed(&self) -> usize;

    /// Says that they are durable.
    fn forget_changes(&mut self);
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

    fn add(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: &dyn RowBytes,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        self.rows.add(keys, subkeys, values, expiries)
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

    fn next_expiry(&self) -> Option<i64> {
        self.rows.next_expiry()
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

    fn may_wait(&self) -> bool {
        self.rows.may_wait()
    }

    fn set_memory_limit(&mut self, bytes: usize) {
        self.rows.set_memory_limit(bytes);
    }
}
