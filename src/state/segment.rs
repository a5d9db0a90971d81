//! The files of state in a checkpoint (`docs/checkpoint-format.md`): what one batch changed, or what
//! several did, merged.
//!
//! A file is a line that says what it is, blocks, and a trailer. A block holds changed rows of one
//! operator, in the order in which they were changed. Large files divide the rows of an operator by
//! a checksum of their keys into [`BUCKETS`] blocks each, so that files can be merged bucket by bucket.

use bytes::Bytes;

use super::bytes::{ByteRows, RowBytes};
use super::change_log::{Change, Changes};
use crate::error::{Error, Result};

/// The first line of a file.
const MAGIC: &[u8] = b"tidemill-state 1\n";
/// Length of the file as u64, CRC32C of everything before it as u32.
const TRAILER: usize = 12;
/// Operator, bucket, rows (u32 each), length of the block (u64).
const HEADER: usize = 4 + 4 + 4 + 8;

/// How many blocks the rows of an operator in a large file are divided into.
pub(super) const BUCKETS: u32 = 64;
/// The bucket of blocks in which rows are not divided.
pub(super) const UNDIVIDED: u32 = u32::MAX;
/// From how many rows on an operator's rows are divided.
pub(super) const DIVIDE_FROM: usize = 1 << 15;

/// The bucket that a key belongs to.
pub(super) fn bucket_of(key: &[u8]) -> u32 {
    crc32c::crc32c(key) % BUCKETS
}

/// The blocks of an operator's changed rows, as bytes, divided if there are many.
pub(super) fn encode(operator: u32, changes: &Changes) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if changes.len() < DIVIDE_FROM {
        let all: Vec<usize> = (0..changes.len()).collect();
        encode_block(operator, UNDIVIDED, changes, &all, &mut bytes)?;
        return Ok(bytes);
    }
    let mut buckets = vec![Vec::new(); BUCKETS as usize];
    for row in 0..changes.len() {
        buckets[bucket_of(changes.keys.row(row)) as usize].push(row);
    }
    for (bucket, rows) in (0..).zip(&buckets) {
        encode_block(operator, bucket, changes, rows, &mut bytes)?;
    }
    Ok(bytes)
}

/// Appends a block of some rows of `changes`.
pub(super) fn encode_block(
    operator: u32,
    bucket: u32,
    changes: &Changes,
    rows: &[usize],
    into: &mut Vec<u8>,
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let packed = lz4_flex::block::compress_prepend_size(&encode_rows(changes, rows));
    into.extend_from_slice(&operator.to_le_bytes());
    into.extend_from_slice(&bucket.to_le_bytes());
    into.extend_from_slice(&u32_of(rows.len())?.to_le_bytes());
    into.extend_from_slice(&(packed.len() as u64).to_le_bytes());
    into.extend_from_slice(&packed);
    Ok(())
}

/// A file of these blocks.
pub(super) fn assemble(blocks: &[Vec<u8>]) -> Bytes {
    let content: usize = blocks.iter().map(Vec::len).sum();
    let length = MAGIC.len() + content + TRAILER;
    let mut file = Vec::with_capacity(length);
    file.extend_from_slice(MAGIC);
    blocks.iter().for_each(|block| file.extend_from_slice(block));
    file.extend_from_slice(&(length as u64).to_le_bytes());
    let checksum = crc32c::crc32c(&file);
    file.extend_from_slice(&checksum.to_le_bytes());
    Bytes::from(file)
}

fn u32_of(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(|_| {
        Error::Invalid(format!("state with {number} rows, or a row of so many bytes, is too large"))
    })
}

/// `kinds`, then keys, subkeys, values, then expiries.
fn encode_rows(changes: &Changes, rows: &[usize]) -> Vec<u8> {
    let mut raw = Vec::new();
    raw.extend(rows.iter().map(|row| match changes.kinds[*row] {
        Change::Removed => 0,
        Change::Put(None) => 1,
        Change::Put(Some(_)) => 2,
    }));
    for column in [&changes.keys, &changes.subkeys, &changes.values] {
        encode_column(column, rows, &mut raw);
    }
    for row in rows {
        if let Change::Put(Some(expiry)) = changes.kinds[*row] {
            raw.extend_from_slice(&expiry.to_le_bytes());
        }
    }
    raw
}

/// Byte strings of one length as that length and the bytes, transposed; others as [`VARYING`], their
/// lengths, and the bytes.
fn encode_column(column: &ByteRows, rows: &[usize], raw: &mut Vec<u8>) {
    let mut bytes = Vec::new();
    rows.iter().for_each(|row| bytes.extend_from_slice(column.row(*row)));
    let width = rows.first().map_or(0, |row| column.row(*row).len());
    if rows.iter().all(|row| column.row(*row).len() == width) {
        // Arrow's row format holds no longer rows.
        raw.extend_from_slice(&(width as u32).to_le_bytes());
        let start = raw.len();
        raw.resize(start + bytes.len(), 0);
        transpose(&bytes, width, rows.len(), &mut raw[start..]);
        return;
    }
    raw.extend_from_slice(&VARYING.to_le_bytes());
    for row in rows {
        raw.extend_from_slice(&(column.row(*row).len() as u32).to_le_bytes());
    }
    raw.extend_from_slice(&bytes);
}

/// In place of a length: each row has its own.
const VARYING: u32 = u32::MAX;

/// How many rows are transposed at a time: few enough to stay in the processor's first cache.
const TILE: usize = 64;

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

/// A block of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) operator: u32,
    pub(super) bucket: u32,
    pub(super) rows: u32,
    packed: &'a [u8],
}

/// The blocks of the file `path`, whose bytes are `file`.
///
/// # Errors
/// [`Error::CheckpointDamaged`] if it is not exactly as it was written.
pub(super) fn blocks<'a>(path: &str, file: &'a [u8]) -> Result<Vec<Block<'a>>> {
    check(file).map_err(|problem| Error::damaged(path, problem))?;
    let mut rest = Reader(&file[MAGIC.len()..file.len() - TRAILER]);
    let mut found = Vec::new();
    while !rest.0.is_empty() {
        found.push(block(&mut rest).ok_or_else(|| unreadable(path))?);
    }
    Ok(found)
}

fn check(file: &[u8]) -> Result<(), String> {
    const RESTORE: &str = "restore it from a copy of the checkpoint, or start with a new checkpointLocation";
    if file.len() < MAGIC.len() + TRAILER || !file.starts_with(b"tidemill-state ") {
        return Err(format!("it does not begin as a file of state of Tidemill, or is too short; {RESTORE}"));
    }
    let (content, trailer) = file.split_at(file.len() - 4);
    let length = &content[content.len() - 8..];
    let is_whole =
        trailer == crc32c::crc32c(content).to_le_bytes() && length == (file.len() as u64).to_le_bytes();
    if !is_whole {
        return Err(format!("its length or checksum is wrong ({} bytes); {RESTORE}", file.len()));
    }
    if !file.starts_with(MAGIC) {
        let line: Vec<u8> = file.iter().copied().take_while(|byte| *byte != b'\n').take(40).collect();
        return Err(format!(
            "it says '{}', and this build of Tidemill reads 'tidemill-state 1'; use the build that wrote it",
            String::from_utf8_lossy(&line)
        ));
    }
    Ok(())
}

fn unreadable(path: &str) -> Error {
    Error::damaged(path, "it is whole, but not what belongs there")
}

fn block<'a>(rest: &mut Reader<'a>) -> Option<Block<'a>> {
    let mut header = Reader(rest.take(HEADER)?);
    let (operator, bucket, rows) = (header.u32()?, header.u32()?, header.u32()?);
    let length = usize::try_from(header.u64()?).ok()?;
    Some(Block { operator, bucket, rows, packed: rest.take(length)? })
}

impl Block<'_> {
    /// The rows of the block, of the file `path`.
    pub(super) fn decode(&self, path: &str) -> Result<Changes> {
        let raw = lz4_flex::block::decompress_size_prepended(self.packed).map_err(|_| unreadable(path))?;
        self.rows_in(&raw).ok_or_else(|| unreadable(path))
    }

    fn rows_in(&self, raw: &[u8]) -> Option<Changes> {
        let rows = self.rows as usize;
        let mut rest = Reader(raw);
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
        rest.0.is_empty().then_some(Changes { keys, subkeys, values, kinds, expired: None })
    }
}

/// Reads numbers and bytes off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
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

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> Changes {
        let mut changes = Changes::default();
        changes.push(b"key", b"", b"value", Change::Put(None));
        changes.push(b"", b"sub", b"", Change::Put(Some(-7)));
        changes.push(b"gone", b"x", b"", Change::Removed);
        changes
    }

    fn file() -> Bytes {
        let mut one = Vec::new();
        encode_block(4, 1, &changes(), &[1], &mut one).unwrap();
        assemble(&[encode(3, &changes()).unwrap(), one])
    }

    #[test]
    fn what_is_written_is_read() {
        let file = file();
        let blocks = blocks("f", &file).unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!((blocks[0].operator, blocks[0].bucket, blocks[0].rows), (3, UNDIVIDED, 3));
        let all = blocks[0].decode("f").unwrap();
        assert_eq!((&all.keys, &all.subkeys), (&changes().keys, &changes().subkeys));
        assert_eq!((all.values, all.kinds), (changes().values, changes().kinds));
        let one = blocks[1].decode("f").unwrap();
        assert_eq!((one.subkeys.row(0), one.kinds), (&b"sub"[..], vec![Change::Put(Some(-7))]));
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

    #[test]
    fn many_rows_are_divided_by_their_keys() {
        let mut changes = Changes::default();
        for key in 0..DIVIDE_FROM as u32 {
            changes.push(&key.to_be_bytes(), b"", b"v", Change::Put(None));
        }
        let file = assemble(&[encode(0, &changes).unwrap()]);
        let blocks = blocks("f", &file).unwrap();
        assert_eq!(blocks.len(), BUCKETS as usize);
        let mut rows = 0;
        for block in blocks {
            let found = block.decode("f").unwrap();
            rows += found.len();
            assert!((0..found.len()).all(|row| bucket_of(found.keys.row(row)) == block.bucket));
        }
        assert_eq!(rows, DIVIDE_FROM);
    }

    #[test]
    fn every_damaged_bit_and_every_cut_shows() {
        let file = file();
        for at in 0..file.len() * 8 {
            let mut damaged = file.to_vec();
            damaged[at / 8] ^= 1 << (at % 8);
            let found = blocks("state/f", &damaged).map(|_| ()).unwrap_err();
            assert!(matches!(found, Error::CheckpointDamaged { .. }), "bit {at}: {found}");
        }
        for length in 0..file.len() {
            assert!(blocks("state/f", &file[..length]).is_err(), "{length} bytes");
        }
    }
}
