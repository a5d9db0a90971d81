//! Rows in memory, and what they say of those in the runs.

use std::ops::Range;

use super::row::{Mark, Row, Sorted};
use crate::error::Result;
use crate::state::change_log::{Change, ChangedRow, ChangedRows};
use crate::state::memory_table::SortedRows;

/// How a row in memory stands to those in the runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cover {
    New,
    /// With their last expiry.
    Covers(i64),
    Outlived,
    Removed,
}

impl Cover {
    /// That of a row over another one.
    pub(super) fn over(older: Option<Older>, expiry: i64) -> Self {
        match older {
            None => Self::New,
            Some(older) if older.expiry <= expiry => Self::Covers(older.expiry),
            Some(_) => Self::Outlived,
        }
    }

    /// That of a row in the place of this one.
    pub(super) fn replaced(self, expiry: i64) -> Self {
        match self {
            Self::New => Self::New,
            Self::Covers(older) if older <= expiry => self,
            _ => Self::Outlived,
        }
    }

    pub(super) fn encode(self, into: &mut Vec<u8>) {
        into.push(self.mark() as u8);
        if let Self::Covers(older) = self {
            into.extend_from_slice(&older.to_le_bytes());
        }
    }

    /// The cover that a value in memory begins with, and the value.
    pub(super) fn decode(value: &[u8], is_raw: bool) -> (Self, &[u8]) {
        if is_raw {
            return (Self::New, value);
        }
        let Some((mark, rest)) = value.split_first() else { return (Self::New, value) };
        match (Mark::from_byte(*mark), rest.split_first_chunk::<8>()) {
            (Mark::New, _) => (Self::New, rest),
            (Mark::Covers, Some((older, rest))) => (Self::Covers(i64::from_le_bytes(*older)), rest),
            (Mark::Removed, _) => (Self::Removed, rest),
            _ => (Self::Outlived, rest),
        }
    }

    pub(super) fn mark(self) -> Mark {
        match self {
            Self::New => Mark::New,
            Self::Covers(_) => Mark::Covers,
            Self::Outlived => Mark::Outlived,
            Self::Removed => Mark::Removed,
        }
    }
}

/// The newest row of a name in the runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Older {
    /// Lowest if it says that the row was removed.
    pub(super) expiry: i64,
    pub(super) is_alive: bool,
}

/// The rows in memory in the order of runs.
pub(super) struct MemoryRows<'a>(pub(super) SortedRows<'a>, pub(super) bool);

impl Sorted for MemoryRows<'_> {
    fn row(&self) -> Option<(u64, Row<'_>)> {
        let (hash, [key, subkey, value], expiry) = self.0.row()?;
        let (cover, value) = Cover::decode(value, self.1);
        Some((hash, Row { key, subkey, value, expiry, mark: cover.mark() }))
    }

    fn advance(&mut self) -> Result<()> {
        self.0.advance();
        Ok(())
    }
}

/// The changes of rows whose values begin with their [`Cover`].
pub(super) struct MemoryChanges<'a>(pub(super) Box<dyn ChangedRows + 'a>, pub(super) bool);

impl ChangedRows for MemoryChanges<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn bucket(&self, index: usize) -> u32 {
        self.0.bucket(index)
    }

    fn touch(&self, rows: Range<usize>) {
        self.0.touch(rows);
    }

    fn row(&self, index: usize) -> ChangedRow<'_> {
        let row = self.0.row(index);
        match (row.change, Cover::decode(row.value, self.1)) {
            (Change::Removed, _) | (_, (Cover::Removed, _)) => {
                ChangedRow { value: &[], change: Change::Removed, ..row }
            }
            (_, (_, value)) => ChangedRow { value, ..row },
        }
    }
}
