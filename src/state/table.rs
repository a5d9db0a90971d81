//! The contract of a table of state.

use std::fmt::Debug;

use super::bytes::{ByteRows, RowBytes};
use super::index::Place;
use crate::error::Result;

/// Called with rows of a table: `(key, subkey, value, expiry)`. An error ends the walk.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8], &[u8], Option<i64>) -> Result<()> + 'a;

/// Called with rows of given keys: `(position of the key, subkey, value, expiry)`. An error ends the walk.
pub type VisitKeys<'a> = dyn FnMut(usize, &[u8], &[u8], Option<i64>) -> Result<()> + 'a;

/// The expiry of a row that never expires, in a table of rows that do. It counts neither as the first
/// nor as the last.
pub const NEVER: i64 = i64::MAX;

/// What [`StateTable::get`] found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Found {
    /// The values of the keys that were found, in the order of the keys.
    pub values: ByteRows,
    /// For each value, which key it belongs to; ascending.
    pub positions: Vec<usize>,
    /// For each key, where the table has its row, if it says so; see [`StateTable::find`].
    pub(super) places: Vec<Option<Place>>,
}

impl Found {
    /// Removes everything; the memory is kept.
    pub fn clear(&mut self) {
        self.values.clear();
        self.positions.clear();
        self.places.clear();
    }

    /// For keys in another order: `order` says which one comes at each place.
    pub fn reorder(&mut self, order: &[usize]) {
        if !self.places.is_empty() {
            self.places = order.iter().map(|key| self.places[*key]).collect();
        }
    }
}

/// The rows that one operator remembers in one partition.
///
/// A row is identified by its key and subkey; operators with one row per key leave `subkeys` out,
/// which is the same as empty ones. Rows are put and removed in their order. Calls are made by one
/// task at a time, and never while the batch is being committed.
///
/// Errors are those of the local disk that cold rows were moved to. After an error the table may be
/// used no more; the query goes on from its checkpoint.
///
/// Batches of about a thousand keys per call are fastest: they stay in the processor's cache.
pub trait StateTable: Debug + Send {
    /// The rows with these keys, and these subkeys if there are any. `found` is cleared first.
    fn get(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>, found: &mut Found) -> Result<()>;

    /// As `get`, for keys with these hashes, each there once; `found` then also says where their rows are.
    fn find(&mut self, keys: &dyn RowBytes, _hashes: &[u64], found: &mut Found) -> Result<()> {
        self.get(keys, None, found)
    }

    /// As `put`, for keys that were just found, with nothing changed in between.
    fn replace(
        &mut self,
        keys: &dyn RowBytes,
        _hashes: &[u64],
        _found: &Found,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        self.put(keys, None, values, expiries)
    }

    /// Every row of each key, whatever its subkey: `visit(position of the key, subkey, value,
    /// expiry)`; ascending by position, then by subkey as bytes.
    fn get_all(&mut self, keys: &dyn RowBytes, visit: &mut VisitKeys<'_>) -> Result<()>;

    /// Inserts rows, or replaces the value and expiry of those that exist. `expiries` is as long as
    /// `keys`; without it, the rows never expire.
    fn put(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: Option<&dyn RowBytes>,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()>;

    /// As `put`, for rows that are not there, nor were when the batch began, and of which no two have the same name.
    /// Each has a subkey. It is the cheaper, the sooner they expire.
    fn add(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: &dyn RowBytes,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        self.put(keys, Some(subkeys), values, expiries)
    }

    /// Removes rows; no error if one does not exist.
    fn remove(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>) -> Result<()>;

    /// Removes every row whose expiry is at most `upto`, after showing it to `visit`, in no
    /// particular order but the same one whenever the same calls were made. Costs as much as there
    /// are such rows, not as much as there are rows. `upto` never decreases, and no row is put with
    /// an expiry that is not above it.
    fn expire(&mut self, upto: i64, visit: &mut Visit<'_>) -> Result<()>;

    /// Shows every row, in no particular order but the same one whenever the same calls were made.
    fn scan(&mut self, visit: &mut Visit<'_>) -> Result<()>;

    /// How many rows it has.
    fn len(&self) -> u64;

    /// Whether it has no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The smallest expiry of any row; may be lower than the truth, never higher.
    fn first_expiry(&self) -> Option<i64>;

    /// The smallest expiry of any row, which may be lower than the truth only for rows on the disk. May look at all
    /// rows that expire about then.
    fn next_expiry(&self) -> Option<i64> {
        self.first_expiry()
    }

    /// The largest expiry of any row there ever was.
    fn last_expiry(&self) -> Option<i64>;

    /// How many bytes of memory it takes, about.
    fn memory(&self) -> usize;

    /// How many bytes its rows take on the local disk.
    fn disk(&self) -> u64 {
        0
    }

    /// Whether calls may have to wait for the local disk.
    fn may_wait(&self) -> bool {
        false
    }

    /// How many bytes of memory it may take from now on. Tables that keep everything in memory take
    /// no notice.
    fn set_memory_limit(&mut self, _bytes: usize) {}
}
