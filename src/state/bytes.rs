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

    /// The length of each and the bytes of all, if they are one after the other and known to be of one length.
    fn of_one_length(&self) -> Option<(usize, &[u8])> {
        None
    }

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Byte strings, one after the other in one piece of memory. As long as all have the same length, they take nothing
/// but their bytes.
#[derive(Debug, Default, Clone)]
pub struct ByteRows {
    data: Vec<u8>,
    rows: usize,
    /// The length of all, as long as it is that.
    width: usize,
    /// Where each ends, if their lengths differ.
    ends: Vec<usize>,
}

impl ByteRows {
    /// Appends one.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.rows == 0 {
            self.width = bytes.len();
        } else if self.ends.is_empty() && bytes.len() != self.width {
            self.ends = (1..=self.rows).map(|row| row * self.width).collect();
        }
        self.data.extend_from_slice(bytes);
        self.rows += 1;
        if !self.ends.is_empty() {
            self.ends.push(self.data.len());
        }
    }

    /// Appends all of `rows`.
    pub(crate) fn extend(&mut self, rows: &dyn RowBytes) {
        match rows.of_one_length() {
            Some((width, data)) if self.rows == 0 || (self.ends.is_empty() && self.width == width) => {
                self.width = width;
                self.data.extend_from_slice(data);
                self.rows += rows.len();
            }
            _ => (0..rows.len()).for_each(|row| self.push(rows.row(row))),
        }
    }

    /// `rows` byte strings of `width` bytes each, one after the other in `data`.
    pub(crate) fn of_width(data: Vec<u8>, width: usize, rows: usize) -> Self {
        Self { data, rows, width, ends: Vec::new() }
    }

    /// Byte strings that are one after the other in `data`; `ends` says where each of them ends.
    pub(crate) fn of_parts(data: Vec<u8>, ends: Vec<usize>) -> Self {
        let width = ends.first().copied().unwrap_or_default();
        let rows = ends.len();
        let is_one_length = ends.iter().zip(1..).all(|(end, row)| *end == row * width);
        Self { data, rows, width, ends: if is_one_length { Vec::new() } else { ends } }
    }

    /// How many bytes they have together.
    pub(super) fn bytes(&self) -> usize {
        self.data.len()
    }

    /// How many bytes of memory they take.
    pub(super) fn memory(&self) -> usize {
        self.data.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    /// Room for so many more bytes.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.data.reserve(bytes);
    }

    /// Gives back memory that is not used.
    pub(super) fn shrink_to_fit(&mut self) {
        self.data.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Has the beginning of one in the processor's cache.
    pub(super) fn touch(&self, index: usize) -> u8 {
        self.row(index).first().copied().unwrap_or_default()
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.rows).map(|index| self.row(index))
    }

    /// Removes all; the memory is kept.
    pub fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
        self.rows = 0;
    }
}

impl PartialEq for ByteRows {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ByteRows {}

impl RowBytes for ByteRows {
    fn total(&self) -> usize {
        self.data.len()
    }

    fn len(&self) -> usize {
        self.rows
    }

    fn row(&self, index: usize) -> &[u8] {
        if self.ends.is_empty() {
            return &self.data[index * self.width..(index + 1) * self.width];
        }
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.data[start..self.ends[index]]
    }

    fn of_one_length(&self) -> Option<(usize, &[u8])> {
        self.ends.is_empty().then_some((self.width, self.data.as_slice()))
    }
}

impl<B: AsRef<[u8]>> FromIterator<B> for ByteRows {
    fn from_iter<I: IntoIterator<Item = B>>(rows: I) -> Self {
        let mut collected = Self::default();
        rows.into_iter().for_each(|row| collected.push(row.as_ref()));
        collected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_length_and_others_are_the_same_rows() {
        let texts = |lengths: &[usize]| -> Vec<Vec<u8>> {
            lengths.iter().enumerate().map(|(row, length)| vec![row as u8; *length]).collect()
        };
        for lengths in [&[][..], &[3, 3, 3], &[0, 0], &[2, 2, 0, 2], &[0, 1], &[4]] {
            let texts = texts(lengths);
            let rows: ByteRows = texts.iter().collect();
            assert_eq!(rows.iter().collect::<Vec<_>>(), texts);
            let mut end = 0;
            let ends = lengths.iter().map(|length| {
                end += length;
                end
            });
            assert_eq!(ByteRows::of_parts(texts.concat(), ends.collect()), rows);
            for more in [&[][..], &[3, 3], &[0, 0], &[1, 2]] {
                let mut all = rows.clone();
                let more: ByteRows = (0..more.len()).map(|row| vec![7; more[row]]).collect();
                all.extend(&more);
                assert_eq!(all.len(), rows.len() + more.len());
                assert_eq!(
                    all.iter().collect::<Vec<_>>(),
                    rows.iter().chain(more.iter()).collect::<Vec<_>>()
                );
                all.clear();
                all.extend(&more);
                assert_eq!(all, more);
            }
        }
    }
}
