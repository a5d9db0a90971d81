//! Which rows of a batch are of the same group.

use hashbrown::HashTable;

use crate::state::{ByteRows, RowBytes};

/// Groups, in the order in which they come, by the bytes of their keys.
#[derive(Debug)]
pub(crate) struct Groups {
    numbers: HashTable<usize>,
    /// The key of each group.
    pub(crate) keys: ByteRows,
    /// The hash of each key.
    pub(crate) hashes: Vec<u64>,
}

impl Groups {
    /// For the groups of so many rows.
    pub(crate) fn of_rows(rows: usize) -> Self {
        Self {
            numbers: HashTable::with_capacity(rows),
            keys: ByteRows::default(),
            hashes: Vec::with_capacity(rows),
        }
    }

    /// The group of each of these rows.
    pub(crate) fn add(&mut self, keys: &dyn RowBytes, hashes: &[u64]) -> Vec<usize> {
        let mut groups = Vec::with_capacity(hashes.len());
        for (row, hash) in hashes.iter().enumerate() {
            let key = keys.row(row);
            let (known, known_hashes) = (&self.keys, &self.hashes);
            let is_it = |group: &usize| known_hashes[*group] == *hash && known.row(*group) == key;
            let entry = self.numbers.entry(*hash, is_it, |group| known_hashes[*group]);
            match entry {
                hashbrown::hash_table::Entry::Occupied(group) => groups.push(*group.get()),
                hashbrown::hash_table::Entry::Vacant(vacant) => {
                    let group = self.hashes.len();
                    vacant.insert(group);
                    groups.push(group);
                    self.keys.push(key);
                    self.hashes.push(*hash);
                }
            }
        }
        groups
    }

    /// How many groups there are.
    pub(crate) fn len(&self) -> usize {
        self.hashes.len()
    }
}

/// Some rows in another order.
#[derive(Clone, Copy)]
pub(crate) struct Reordered<'a> {
    pub(crate) rows: &'a dyn RowBytes,
    /// Which row comes at each place.
    pub(crate) order: &'a [usize],
}

impl RowBytes for Reordered<'_> {
    fn len(&self) -> usize {
        self.order.len()
    }

    fn row(&self, index: usize) -> &[u8] {
        self.rows.row(self.order[index])
    }
}
