//! The table for rows with subkeys, in memory.

use std::collections::{BTreeMap, BTreeSet};

use super::bytes::RowBytes;
use super::table::{NEVER, Visit};
use crate::error::Result;

/// What a row costs beside its bytes, about.
const OVERHEAD: usize = 128;

pub(super) type Name = (Vec<u8>, Vec<u8>);

/// Rows sorted by key and subkey, so that those of a key are side by side however many there are.
#[derive(Debug, Default)]
pub(super) struct TreeTable {
    rows: BTreeMap<Name, (Vec<u8>, i64)>,
    by_expiry: BTreeSet<(i64, Name)>,
    last_expiry: Option<i64>,
    bytes: usize,
    /// Which rows were put since changes were last forgotten.
    put: BTreeSet<Name>,
    /// Which rows were there and are not any more.
    removed: BTreeSet<Name>,
}

fn expiry_of(expiry: i64) -> Option<i64> {
    Some(expiry).filter(|expiry| *expiry != NEVER)
}

fn size((key, subkey): &Name, value: &[u8], expiry: i64) -> usize {
    let copies = if expiry == NEVER { 1 } else { 2 };
    copies * (key.len() + subkey.len() + OVERHEAD) + value.len()
}

impl TreeTable {
    pub(super) fn get(&self, key: &[u8], subkey: &[u8]) -> Option<&[u8]> {
        // The map is asked with what it holds.
        self.rows.get(&(key.to_vec(), subkey.to_vec())).map(|(value, _)| value.as_slice())
    }

    /// The rows of a key, by subkey.
    pub(super) fn of_key<'a>(
        &'a self,
        key: &'a [u8],
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8], Option<i64>)> {
        self.rows
            .range((key.to_vec(), Vec::new())..)
            .take_while(move |((found, _), _)| found == key)
            .map(|((_, subkey), (value, expiry))| (subkey.as_slice(), value.as_slice(), expiry_of(*expiry)))
    }

    pub(super) fn put(&mut self, key: &[u8], subkey: &[u8], value: &[u8], expiry: i64) {
        let name = (key.to_vec(), subkey.to_vec());
        self.take(&name);
        self.removed.remove(&name);
        self.put.insert(name.clone());
        self.bytes += size(&name, value, expiry);
        if expiry != NEVER {
            self.by_expiry.insert((expiry, name.clone()));
            self.last_expiry = self.last_expiry.max(Some(expiry));
        }
        self.rows.insert(name, (value.to_vec(), expiry));
    }

    pub(super) fn remove(&mut self, key: &[u8], subkey: &[u8]) {
        if self.rows.is_empty() {
            return;
        }
        let name = (key.to_vec(), subkey.to_vec());
        if self.take(&name) {
            self.put.remove(&name);
            self.removed.insert(name);
        }
    }

    /// Takes a row out. Whether it was there.
    fn take(&mut self, name: &Name) -> bool {
        let Some((value, expiry)) = self.rows.remove(name) else { return false };
        self.bytes -= size(name, &value, expiry);
        if expiry != NEVER {
            self.by_expiry.remove(&(expiry, name.clone()));
        }
        true
    }

    pub(super) fn expire(&mut self, upto: i64, visit: &mut Visit<'_>) -> Result<()> {
        while let Some((expiry, name)) = self.by_expiry.pop_first() {
            if expiry > upto {
                self.by_expiry.insert((expiry, name));
                break;
            }
            if let Some((value, _)) = self.rows.remove(&name) {
                self.bytes -= size(&name, &value, expiry);
                visit(&name.0, &name.1, &value, Some(expiry))?;
                if self.put.remove(&name) {
                    // What it was before may have a later expiry.
                    self.removed.insert(name);
                }
            }
        }
        Ok(())
    }

    pub(super) fn scan(&self, visit: &mut Visit<'_>) -> Result<()> {
        for ((key, subkey), (value, expiry)) in &self.rows {
            visit(key, subkey, value, expiry_of(*expiry))?;
        }
        Ok(())
    }

    /// Every row: key, subkey, value, expiry.
    pub(super) fn rows(&self) -> impl Iterator<Item = ([&[u8]; 3], i64)> {
        self.rows.iter().map(|((key, subkey), (value, expiry))| {
            ([key.as_slice(), subkey.as_slice(), value.as_slice()], *expiry)
        })
    }

    /// The names of rows that were removed, and of those that were put, which are there.
    pub(super) fn changes(&self) -> (Vec<&Name>, Vec<&Name>) {
        (self.removed.iter().collect(), self.put.iter().collect())
    }

    /// How many changes there are.
    pub(super) fn count_changes(&self) -> usize {
        self.put.len() + self.removed.len()
    }

    pub(super) fn forget_changes(&mut self) {
        self.put.clear();
        self.removed.clear();
    }

    /// The value and expiry of a row.
    pub(super) fn at(&self, name: &Name) -> Option<(&[u8], Option<i64>)> {
        self.rows.get(name).map(|(value, expiry)| (value.as_slice(), expiry_of(*expiry)))
    }

    pub(super) fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    pub(super) fn first_expiry(&self) -> Option<i64> {
        self.by_expiry.first().map(|(expiry, _)| *expiry)
    }

    pub(super) fn last_expiry(&self) -> Option<i64> {
        self.last_expiry
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes
    }
}

/// Whether any of `subkeys` is not empty.
pub(super) fn has_subkeys(subkeys: Option<&dyn RowBytes>) -> bool {
    subkeys.is_some_and(|subkeys| (0..subkeys.len()).any(|row| !subkeys.row(row).is_empty()))
}
