//! Rows of bytes.

/// A sequence of byte strings: the keys, subkeys or values of some rows.
pub trait RowBytes {
    /// How many there are.
    fn len(&self) -> usize;

    /// The one at `index`, which is less than `len`.
    fn row(&self, index: usize) -> &[u8];

    /// How many bytes all of them have.
    fn total(&self) -> usize {
        (0..self.len()).map(|index| self.row(index).len()).sum()
    }

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Byte strings, one after the other in one piece of memory.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ByteRows {
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl ByteRows {
    /// Appends one.
    pub fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.ends.push(self.data.len());
    }

    /// `rows` byte strings of `width` bytes each, one after the other in `data`.
    pub(crate) fn of_width(data: Vec<u8>, width: usize, rows: usize) -> Self {
        Self { data, ends: (1..=rows).map(|row| row * width).collect() }
    }

    /// Byte strings that are one after the other in `data`; `ends` says where each of them ends.
    pub(crate) fn of_parts(data: Vec<u8>, ends: Vec<usize>) -> Self {
        Self { data, ends }
    }

    /// The bytes of all of them.
    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    /// How many bytes they have together.
    pub(super) fn bytes(&self) -> usize {
        self.data.len()
    }

    /// How many bytes of memory they take.
    pub(super) fn memory(&self) -> usize {
        self.data.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    /// Room for `rows` more, with `bytes` bytes together.
    pub(super) fn reserve(&mut self, rows: usize, bytes: usize) {
        self.ends.reserve(rows);
        self.data.reserve(bytes);
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.ends.len()).map(|index| self.row(index))
    }

    /// Removes all; the memory is kept.
    pub fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
    }
}

impl RowBytes for ByteRows {
    fn total(&self) -> usize {
        self.data.len()
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn row(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.data[start..self.ends[index]]
    }
}

impl<B: AsRef<[u8]>> FromIterator<B> for ByteRows {
    fn from_iter<I: IntoIterator<Item = B>>(rows: I) -> Self {
        let mut collected = Self::default();
        rows.into_iter().for_each(|row| collected.push(row.as_ref()));
        collected
    }
}
