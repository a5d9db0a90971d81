//! How the rows of a block are written (`docs/checkpoint-format.md`): by column, compressed.

use super::bytes::{ByteRows, RowBytes};
use super::change_log::{Change, ChangedRows, Changes};
use crate::error::{Error, Result};

/// In place of a length: each row has its own.
const VARYING: u32 = u32::MAX;

/// How many rows are transposed at a time: few enough to stay in the processor's first cache.
const TILE: usize = 64;

/// Some rows of `changes`, compressed.
pub(super) fn pack(changes: &dyn ChangedRows, rows: &[usize]) -> Result<Vec<u8>> {
    let raw = encode_rows(changes, rows);
    if u32::try_from(raw.len()).is_err() {
        return Err(Error::Invalid(format!(
            "{} rows of state with {} bytes are too large",
            rows.len(),
            raw.len()
        )));
    }
    Ok(lz4_flex::block::compress_prepend_size(&raw))
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

/// What became of each row, then keys, subkeys, values, then expiries.
fn encode_rows(changes: &dyn ChangedRows, rows: &[usize]) -> Vec<u8> {
    // Each row is looked at once: it may be anywhere in memory.
    let mut columns = Changes::default();
    for rows in rows.chunks(TILE) {
        changes.touch(rows);
        for row in rows.iter().map(|row| changes.row(*row)) {
            columns.push(row.key, row.subkey, row.value, row.change);
        }
    }
    let mut raw = Vec::with_capacity(columns.bytes() + rows.len());
    raw.extend(columns.kinds.iter().map(|kind| match kind {
        Change::Removed => 0,
        Change::Put(None) => 1,
        Change::Put(Some(_)) => 2,
    }));
    for column in [&columns.keys, &columns.subkeys, &columns.values] {
        encode_column(column, &mut raw);
    }
    for kind in &columns.kinds {
        if let Change::Put(Some(expiry)) = kind {
            raw.extend_from_slice(&expiry.to_le_bytes());
        }
    }
    raw
}

/// Byte strings of one length as that length and the bytes, transposed; others as [`VARYING`], their
/// lengths, and the bytes. Tables take none of more than 4 GiB.
fn encode_column(column: &ByteRows, raw: &mut Vec<u8>) {
    let width = column.iter().next().map_or(0, <[u8]>::len);
    if column.iter().all(|row| row.len() == width) {
        raw.extend_from_slice(&(width as u32).to_le_bytes());
        let start = raw.len();
        raw.resize(start + column.bytes(), 0);
        transpose(column.data(), width, column.len(), &mut raw[start..]);
        return;
    }
    raw.extend_from_slice(&VARYING.to_le_bytes());
    for row in column.iter() {
        raw.extend_from_slice(&(row.len() as u32).to_le_bytes());
    }
    raw.extend_from_slice(column.data());
}

/// From `rows` rows of `width` bytes to all first bytes, all second ones, and so on. Most bytes of numbers
/// are the same in all rows, and side by side they take neither room nor time to compress.
fn transpose(from: &[u8], width: usize, rows: usize, to: &mut [u8]) {
    for start in (0..rows).step_by(TILE) {
        let end = (start + TILE).min(rows);
        for byte in 0..width {
            let tile = &mut to[byte * rows + start..byte * rows + end];
            for (row, to) in (start..end).zip(tile) {
                *to = from[row * width + byte];
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
        column.reserve(rows, self.0.len());
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

    #[test]
    fn what_is_packed_is_unpacked() {
        let mut changes = Changes::default();
        changes.push(b"key", b"", b"value", Change::Put(None));
        changes.push(b"", b"sub", b"", Change::Put(Some(-7)));
        changes.push(b"gone", b"x", b"", Change::Removed);
        let all = unpack(&pack(&changes, &[0, 1, 2]).unwrap(), 3).unwrap();
        assert_eq!((&all.keys, &all.subkeys), (&changes.keys, &changes.subkeys));
        assert_eq!((&all.values, &all.kinds), (&changes.values, &changes.kinds));
        let one = unpack(&pack(&changes, &[1]).unwrap(), 1).unwrap();
        assert_eq!((one.subkeys.row(0), one.kinds), (&b"sub"[..], vec![Change::Put(Some(-7))]));
        assert!(unpack(&pack(&changes, &[0, 1]).unwrap(), 3).is_none());
    }

    #[test]
    fn rows_of_one_length_are_transposed() {
        let rows = TILE * 2 + 3;
        let from: Vec<u8> = (0..rows * 5).map(|byte| (byte % 251) as u8).collect();
        let mut to = vec![0; from.len()];
        transpose(&from, 5, rows, &mut to);
        assert_eq!((to[0], to[1], to[rows]), (from[0], from[5], from[1]));
        assert_eq!(transpose_back(&to, 5, rows), from);
    }
}
