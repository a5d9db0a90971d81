//! Rows of bytes.

use datafusion::arrow::array::{Array, BinaryArray};
use datafusion::arrow::row::Rows;

/// A sequence of byte strings: the keys, subkeys or values of some rows.
pub trait RowBytes {
    /// How many there are.
    fn len(&self) -> usize;

    /// The one at `index`, which is less than `len`.
    fn row(&self, index: usize) -> &[u8];

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
    pub(super) fn of_width(data: Vec<u8>, width: usize, rows: usize) -> Self {
        Self { data, ends: (1..=rows).map(|row| row * width).collect() }
    }

    /// How many bytes they have together.
    pub(super) fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Room for `rows` more, with `bytes` bytes together.
    pub(super) fn reserve(&mut self, rows: usize, bytes: usize) {
        self.ends.reserve(rows);
        self.data.reserve(bytes);
    }

    /// Removes all; the memory is kept.
    pub fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
    }
}

impl RowBytes for ByteRows {
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

impl RowBytes for Rows {
    fn len(&self) -> usize {
        self.num_rows()
    }

    fn row(&self, index: usize) -> &[u8] {
        Rows::row(self, index).data()
    }
}

impl RowBytes for BinaryArray {
    fn len(&self) -> usize {
        Array::len(self)
    }

    fn row(&self, index: usize) -> &[u8] {
        self.value(index)
    }
}
