//! Which columns the files of a batch have: one that none of them has is most likely misspelt, and one that
//! the table does not have is new.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// Counts the columns of the table that no file of the batch had.
pub(super) const MISSING_COLUMNS: &str = "missingColumns";

/// Counts the columns of files that the table does not have.
pub(super) const NEW_COLUMNS: &str = "newColumns";

/// More new columns than this are not worth being told by their names.
const MOST_NEW: usize = 1000;

/// What the files of one batch lack, and what they have that the table has not.
#[derive(Debug, Default)]
pub(super) struct FoundColumns(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Files, or parts of files, that were looked into.
    files: u64,
    /// How many of them lack a column.
    lacking: BTreeMap<String, u64>,
    /// Columns that some record had, though its file may not be counted.
    seen: BTreeSet<String>,
    /// Columns that the table does not have.
    new: BTreeSet<String>,
}

impl FoundColumns {
    /// A file was looked into.
    pub(super) fn note_file(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).files += 1;
    }

    /// It lacks the column `name`.
    pub(super) fn note_lack(&self, name: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.lacking.entry(name.to_string()).or_default() += 1;
    }

    /// A record has the column `name`, be it one of a file that is not counted because all are malformed.
    pub(super) fn note_seen(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).seen.insert(name.to_string());
    }

    /// Some file has the column, or the field within one, at the path `name`, which the table does not have.
    pub(super) fn note_new(&self, name: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.new.len() < MOST_NEW && !counts.new.contains(name) {
            counts.new.insert(name.to_string());
        }
    }

    /// The paths of columns and fields that the table does not have.
    pub(super) fn new_columns(&self) -> BTreeSet<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).new.clone()
    }

    /// The columns that all files lack.
    pub(super) fn missing(&self) -> Vec<String> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let everywhere = counts.lacking.iter().filter(|(_, files)| **files >= counts.files);
        everywhere.map(|(name, _)| name.clone()).filter(|name| !counts.seen.contains(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_that_has_it_is_enough() {
        let columns = FoundColumns::default();
        for lacking in [&["a", "b"][..], &["b"]] {
            columns.note_file();
            lacking.iter().for_each(|name| columns.note_lack(name));
        }
        assert_eq!(columns.missing(), ["b"]);
        columns.note_seen("b");
        assert!(columns.missing().is_empty());
    }
}
