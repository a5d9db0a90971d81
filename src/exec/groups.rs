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

/// Rows by group.
#[derive(Debug)]
pub(crate) struct ByGroup {
    /// Where the rows of each group begin, and the last end.
    starts: Vec<usize>,
    rows: Vec<u32>,
}

impl ByGroup {
    /// The group of each row is given; the rows of a group stay in their order.
    pub(crate) fn new(groups: usize, of_rows: &[usize]) -> Self {
        Self::of_some(groups, (0u32..).zip(of_rows.iter().copied()))
    }

    /// The same for some rows, which are given with their groups.
    pub(crate) fn of_some(groups: usize, rows: impl Iterator<Item = (u32, usize)> + Clone) -> Self {
        let mut starts = vec![0; groups + 1];
        rows.clone().for_each(|(_, group)| starts[group + 1] += 1);
        (0..groups).for_each(|group| starts[group + 1] += starts[group]);
        let mut next = starts.clone();
        let mut by_group = vec![0; starts[groups]];
        for (row, group) in rows {
            by_group[next[group]] = row;
            next[group] += 1;
        }
        Self { starts, rows: by_group }
    }

    /// The rows of a group.
    pub(crate) fn of(&self, group: usize) -> &[u32] {
        &self.rows[self.starts[group]..self.starts[group + 1]]
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
