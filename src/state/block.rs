//! How the rows of a block are written (`docs/checkpoint-format.md`): by column, compressed.

use super::bytes::ByteRows;
use super::change_log::{Change, ChangedRow, Changes};
use crate::error::{Error, Result};

/// In place of a length: each row has its own.
const VARYING: u32 = u32::MAX;

/// How many rows are transposed at a time: few enough to stay in the processor's first cache.
const TILE: usize = 64;

/// Rows of a block that is being made: one after the other, each with its key, subkey and value.
#[derive(Debug, Default)]
pub(super) struct BlockRows {
    data: Vec<u8>,
    /// What became of each row, as it is written.
    kinds: Vec<u8>,
    expiries: Vec<i64>,
    /// How long key, subkey and value are in every row, as long as that is so.
    widths: [usize; 3],
    /// How long they are in each row, if that differs.
    lengths: Vec<[u32; 3]>,
}

impl BlockRows {
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(super) fn push(&mut self, row: ChangedRow<'_>) {
        let ChangedRow { key, subkey, value, change } = row;
        let widths = [key.len(), subkey.len(), value.len()];
        if self.kinds.is_empty() {
            self.widths = widths;
        } else if self.lengths.is_empty() && widths != self.widths {
            self.lengths = vec![self.widths.map(length); self.kinds.len()];
        }
        if !self.lengths.is_empty() {
            self.lengths.push(widths.map(length));
        }
        [key, subkey, value].into_iter().for_each(|bytes| self.data.extend_from_slice(bytes));
        self.kinds.push(match change {
            Change::Removed => 0,
            Change::Put(None) => 1,
            Change::Put(Some(_)) => 2,
        });
        if let Change::Put(Some(expiry)) = change {
            self.expiries.push(expiry);
        }
    }

    /// All rows, compressed.
    pub(super) fn pack(&self) -> Result<Vec<u8>> {
        let raw = self.encode();
        if u32::try_from(raw.len()).is_err() {
            return Err(Error::Invalid(format!(
                "{} rows of state with {} bytes are too large",
                self.len(),
                raw.len()
            )));
        }
        Ok(lz4_flex::block::compress_prepend_size(&raw))
    }

    /// What became of each row, then keys, subkeys, values, then expiries.
    fn encode(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(self.data.len() + self.len() + self.expiries.len() * 8 + 12);
        raw.extend_from_slice(&self.kinds);
        match self.lengths.as_slice() {
            [] => {
                let [key, subkey, value] = self.widths;
                let width = key + subkey + value;
                for (at, wide) in [(0, key), (key, subkey), (key + subkey, value)] {
                    encode_of_width(&self.data, wide, self.len(), |row| row * width + at, &mut raw);
                }
            }
            lengths => (0..3).for_each(|column| self.encode_column(lengths, column, &mut raw)),
        }
        self.expiries.iter().for_each(|expiry| raw.extend_from_slice(&expiry.to_le_bytes()));
        raw
    }

    /// Byte strings of one length as that length and the bytes, transposed; others as [`VARYING`], their lengths, and
    /// the bytes.
    fn encode_column(&self, lengths: &[[u32; 3]], column: usize, raw: &mut Vec<u8>) {
        let mut start = 0;
        let starts: Vec<usize> = lengths
            .iter()
            .map(|lengths| {
                let bytes = |lengths: &[u32]| lengths.iter().map(|length| *length as usize).sum::<usize>();
                let at = start + bytes(&lengths[..column]);
                start += bytes(lengths);
                at
            })
            .collect();
        let width = lengths[0][column];
        if lengths.iter().all(|lengths| lengths[column] == width) {
            encode_of_width(&self.data, width as usize, lengths.len(), |row| starts[row], raw);
            return;
        }
        raw.extend_from_slice(&VARYING.to_le_bytes());
        lengths.iter().for_each(|lengths| raw.extend_from_slice(&lengths[column].to_le_bytes()));
        for (start, lengths) in starts.iter().zip(lengths) {
            raw.extend_from_slice(&self.data[*start..start + lengths[column] as usize]);
        }
    }
}

/// Tables take no byte strings of more than 4 GiB.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The `rows` rows that were packed; `None` if that is not what `packed` holds.
pub(super) fn unpack(packed: &[u8], rows: usize) -> Option<Changes> {
    let raw = lz4_flex::block::decompress_size_prepended(packed).ok()?;
    let mut rest = Reader(&raw);
    let kinds = rest.take(rows)?;
    let keys = rest.column(rows)?;
    let subkeys = rest.column(rows)?;
    let values = rest.column(rows)?;
    let kinds = kinds
        .iter()
        .map(|kind| {
            Some(match kind {
                0 => Change::Removed,
                1 => Change::Put(None),
                2 => Change::Put(Some(rest.i64()?)),
                _ => return None,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    rest.0.is_empty().then_some(Changes { keys, subkeys, values, kinds })
}

/// `rows` byte strings of `width` bytes, of which `start` says where in `data` they are.
fn encode_of_width(
    data: &[u8],
    width: usize,
    rows: usize,
    start: impl Fn(usize) -> usize,
    raw: &mut Vec<u8>,
) {
    raw.extend_from_slice(&(width as u32).to_le_bytes());
    let first = raw.len();
    raw.resize(first + width * rows, 0);
    transpose(data, width, rows, start, &mut raw[first..]);
}

/// From `rows` rows of `width` bytes to all first bytes, all second ones, and so on. Most bytes of numbers
/// are the same in all rows, and side by side they take neither room nor time to compress.
fn transpose(from: &[u8], width: usize, rows: usize, place: impl Fn(usize) -> usize, to: &mut [u8]) {
    for start in (0..rows).step_by(TILE) {
        let end = (start + TILE).min(rows);
        let mut places = [0; TILE];
        (start..end).zip(&mut places).for_each(|(row, at)| *at = place(row));
        for byte in 0..width {
            let tile = &mut to[byte * rows + start..byte * rows + end];
            for (place, to) in places.iter().zip(tile) {
                *to = from[place + byte];
            }
        }
    }
}

/// The reverse of [`transpose`].
fn transpose_back(from: &[u8], width: usize, rows: usize) -> Vec<u8> {
    let mut to = vec![0; from.len()];
    for start in (0..rows).step_by(TILE) {
        let end = (start + TILE).min(rows);
        for byte in 0..width {
            let tile = &from[byte * rows + start..byte * rows + end];
            for (row, from) in (start..end).zip(tile) {
                to[row * width + byte] = *from;
            }
        }
    }
    to
}

/// Reads numbers and bytes off the front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// `rows` byte strings.
    fn column(&mut self, rows: usize) -> Option<ByteRows> {
        let width = self.u32()?;
        if width != VARYING {
            let width = width as usize;
            let bytes = self.take(rows.checked_mul(width)?)?;
            return Some(ByteRows::of_width(transpose_back(bytes, width, rows), width, rows));
        }
        let mut lengths = Reader(self.take(rows.checked_mul(4)?)?);
        let mut column = ByteRows::default();
        column.reserve(self.0.len());
        for _ in 0..rows {
            column.push(self.take(lengths.u32()? as usize)?);
        }
        Some(column)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::bytes::RowBytes;
    use crate::state::change_log::ChangedRows;

    /// A block of some of these rows.
    fn pack(changes: &Changes, rows: &[usize]) -> Vec<u8> {
        let mut block = BlockRows::default();
        rows.iter().for_each(|row| block.push(changes.row(*row)));
        block.pack().unwrap()
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let mut changes = Changes::default();
        changes.push(b"key", b"", b"value", Change::Put(None));
        changes.push(b"", b"sub", b"", Change::Put(Some(-7)));
        changes.push(b"gone", b"x", b"", Change::Removed);
        let all = unpack(&pack(&changes, &[0, 1, 2]), 3).unwrap();
        assert_eq!((&all.keys, &all.subkeys), (&changes.keys, &changes.subkeys));
        assert_eq!((&all.values, &all.kinds), (&changes.values, &changes.kinds));
        let one = unpack(&pack(&changes, &[1]), 1).unwrap();
        assert_eq!((one.subkeys.row(0), one.kinds), (&b"sub"[..], vec![Change::Put(Some(-7))]));
        assert!(unpack(&pack(&changes, &[0, 1]), 3).is_none());
    }

    /// Key, subkey and value may each be of one length or not, also from some row on.
    #[test]
    fn each_column_is_written_by_its_lengths() {
        let text = |length: usize, row: usize| vec![(row % 251) as u8; length];
        for varying in 0..8usize {
            let mut changes = Changes::default();
            for row in 0..TILE * 2 + 3 {
                let length = |column: usize| match varying & (1 << column) != 0 && row > TILE {
                    true => row % 7,
                    false => 3 + column,
                };
                let [key, subkey, value] = [0, 1, 2].map(|column| text(length(column), row + column));
                changes.push(&key, &subkey, &value, Change::Put((row % 3 == 0).then_some(row as i64)));
            }
            let rows: Vec<usize> = (0..changes.len()).collect();
            let all = unpack(&pack(&changes, &rows), rows.len()).unwrap();
            assert_eq!((&all.keys, &all.subkeys), (&changes.keys, &changes.subkeys), "{varying}");
            assert_eq!((&all.values, &all.kinds), (&changes.values, &changes.kinds), "{varying}");
        }
    }

    #[test]
    fn rows_of_one_length_are_transposed() {
        let rows = TILE * 2 + 3;
        let from: Vec<u8> = (0..rows * 5).map(|byte| (byte % 251) as u8).collect();
        let mut to = vec![0; from.len()];
        transpose(&from, 5, rows, |row| row * 5, &mut to);
        assert_eq!((to[0], to[1], to[rows]), (from[0], from[5], from[1]));
        assert_eq!(transpose_back(&to, 5, rows), from);
    }
}
