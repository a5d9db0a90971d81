//! What a batch changed in a table.

use std::ops::Range;

use super::bytes::{ByteRows, RowBytes};
use super::table::NEVER;

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

    /// The bucket that a row belongs to in files of state.
    fn bucket(&self, index: usize) -> u32 {
        bucket_of(self.row(index).key)
    }

    /// Has these rows in the processor's cache. They may be anywhere in memory, and several are fetched in the time of
    /// one.
    fn touch(&self, _rows: Range<usize>) {}

    /// How many bytes keys, subkeys and values have.
    fn bytes(&self) -> usize {
        (0..self.len()).map(|index| self.row(index).bytes()).sum()
    }

    /// The same by some of the rows.
    fn bytes_about(&self) -> usize {
        let step = (self.len() / 1_000).max(1);
        let looked_at = self.len().div_ceil(step).max(1);
        let bytes: usize = (0..self.len()).step_by(step).map(|index| self.row(index).bytes()).sum();
        bytes / looked_at * self.len()
    }

    /// Whether keys, subkeys and values have so many bytes. Looks at no more rows than have them.
    fn has_bytes(&self, least: usize) -> bool {
        let mut bytes = 0;
        (0..self.len()).any(|index| {
            bytes += self.row(index).bytes();
            bytes >= least
        })
    }
}

impl ChangedRow<'_> {
    fn bytes(&self) -> usize {
        self.key.len() + self.subkey.len() + self.value.len()
    }
}

/// How many buckets the rows of an operator are divided into in files of state.
pub(super) const BUCKETS: u32 = 64;

/// The bucket that a key belongs to: a part of the format of the files.
pub(super) fn bucket_of(key: &[u8]) -> u32 {
    crc32c::crc32c(key) % BUCKETS
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
