//! The files of state in a checkpoint (`docs/checkpoint-format.md`): what one batch changed, or what
//! several did, merged.
//!
//! A file is a line that says what it is, blocks, an index of the blocks, and a trailer. A block holds
//! changed rows of one operator, in the order in which they were changed. Where an operator has many
//! rows they are divided by a checksum of their keys into [`BUCKETS`] buckets, so that files can be
//! merged and restored bucket by bucket, with no more than one bucket in memory.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::block::{self, BlockRows, Reader};
use super::change_log::{BUCKETS, ChangedRow, ChangedRows, Changes};
use crate::error::{Error, Result};

/// The first line of a file.
pub(super) const MAGIC: &[u8] = b"tidemill-state 2\n";
/// Number of blocks (u32), CRC32C of the index and that number (u32), length of the file (u64), CRC32C
/// of everything before it (u32).
pub(super) const TRAILER: usize = 4 + 4 + 8 + 4;
/// Operator, bucket, rows (u32 each), length of the block (u64), its CRC32C (u32).
const ENTRY: usize = 4 + 4 + 4 + 8 + 4;

/// The bucket of blocks in which rows are not divided.
pub(super) const UNDIVIDED: u32 = u32::MAX;
/// From how many bytes on an operator's rows are divided.
pub(super) const DIVIDE_FROM: usize = 1 << 20;

/// How many bytes of rows are dealt out to buckets at a time, about.
const AT_ONCE: usize = 64 << 20;
/// How many rows are fetched from memory at a time.
const TILE: usize = 64;

/// The rows of each bucket, by bucket.
pub(super) fn by_bucket(changes: &dyn ChangedRows) -> Vec<Vec<usize>> {
    let mut buckets = vec![Vec::new(); BUCKETS as usize];
    for row in 0..changes.len() {
        buckets[changes.bucket(row) as usize].push(row);
    }
    buckets
}

/// A block to be written.
#[derive(Debug, Clone)]
pub(super) struct NewBlock {
    pub(super) bucket: u32,
    pub(super) rows: u32,
    pub(super) packed: Bytes,
}

impl NewBlock {
    pub(super) fn of(bucket: u32, rows: &BlockRows) -> Result<Self> {
        let packed = Bytes::from(rows.pack()?);
        let rows = u32::try_from(rows.len()).map_err(|_| {
            Error::Invalid(format!("{} rows of state are too many for one block", rows.len()))
        })?;
        Ok(Self { bucket, rows, packed })
    }

    /// A block of all rows.
    pub(super) fn of_all(bucket: u32, changes: &dyn ChangedRows) -> Result<Self> {
        let mut rows = BlockRows::default();
        for_each(changes, &mut |_, row| rows.push(row));
        Self::of(bucket, &rows)
    }
}

/// Calls `each` with every row and its number, in their order. They may be anywhere in memory, and each is looked at
/// once.
fn for_each(changes: &dyn ChangedRows, each: &mut dyn FnMut(usize, ChangedRow<'_>)) {
    for start in (0..changes.len()).step_by(TILE) {
        let tile = start..(start + TILE).min(changes.len());
        changes.touch(tile.clone());
        tile.for_each(|row| each(row, changes.row(row)));
    }
}

/// The blocks of an operator's changed rows, divided if there are many.
pub(super) fn encode(changes: &dyn ChangedRows) -> Result<Vec<NewBlock>> {
    if !changes.has_bytes(DIVIDE_FROM) {
        return Ok(vec![NewBlock::of_all(UNDIVIDED, changes)?]);
    }
    encode_divided(changes)
}

/// The blocks of some of an operator's changed rows, if it has many. Rows are dealt out to their buckets one after the
/// other, and to only so many buckets at a time as have no more than about [`AT_ONCE`] bytes.
pub(super) fn encode_divided(changes: &dyn ChangedRows) -> Result<Vec<NewBlock>> {
    let at_once = (BUCKETS as usize * AT_ONCE / changes.bytes_about().max(1)).clamp(1, BUCKETS as usize);
    let mut blocks = Vec::new();
    for first in (0..BUCKETS).step_by(at_once) {
        let mut dealt: Vec<BlockRows> = std::iter::repeat_with(BlockRows::default).take(at_once).collect();
        for_each(changes, &mut |index, row| {
            let bucket = changes.bucket(index);
            if let Some(rows) = bucket.checked_sub(first).and_then(|bucket| dealt.get_mut(bucket as usize)) {
                rows.push(row);
            }
        });
        for (bucket, rows) in (first..).zip(&dealt).filter(|(_, rows)| rows.len() > 0) {
            blocks.push(NewBlock::of(bucket, rows)?);
        }
    }
    Ok(blocks)
}

/// Makes a file of blocks, a part at a time.
#[derive(Debug)]
pub(super) struct Assembler {
    index: Vec<u8>,
    blocks: u32,
    length: u64,
    checksum: u32,
    /// Blocks that [`Assembler::take`] has not given yet.
    parts: Vec<Bytes>,
    waiting: usize,
    pub(super) rows: u64,
}

impl Assembler {
    pub(super) fn new() -> Self {
        let mut new = Self {
            index: Vec::new(),
            blocks: 0,
            length: 0,
            checksum: 0,
            parts: Vec::new(),
            waiting: 0,
            rows: 0,
        };
        new.append(Bytes::from_static(MAGIC));
        new
    }

    fn append(&mut self, bytes: Bytes) {
        self.length += bytes.len() as u64;
        self.checksum = crc32c::crc32c_append(self.checksum, &bytes);
        self.waiting += bytes.len();
        self.parts.push(bytes);
    }

    pub(super) fn push(&mut self, operator: u32, block: NewBlock) {
        let NewBlock { bucket, rows, packed } = block;
        for number in [operator, bucket, rows] {
            self.index.extend_from_slice(&number.to_le_bytes());
        }
        self.index.extend_from_slice(&(packed.len() as u64).to_le_bytes());
        self.index.extend_from_slice(&crc32c::crc32c(&packed).to_le_bytes());
        self.blocks += 1;
        self.rows += u64::from(rows);
        self.append(packed);
    }

    /// How many bytes [`Assembler::take`] would give.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The next bytes of the file.
    pub(super) fn take(&mut self) -> Bytes {
        self.waiting = 0;
        let mut parts = std::mem::take(&mut self.parts);
        if parts.len() == 1 { parts.remove(0) } else { Bytes::from(parts.concat()) }
    }

    /// The last bytes of the file, and how many rows it has.
    pub(super) fn finish(mut self) -> (Bytes, u64) {
        let mut end = std::mem::take(&mut self.index);
        end.extend_from_slice(&self.blocks.to_le_bytes());
        end.extend_from_slice(&crc32c::crc32c(&end).to_le_bytes());
        let length = self.length + end.len() as u64 + 12;
        end.extend_from_slice(&length.to_le_bytes());
        self.append(Bytes::from(end));
        let checksum = self.checksum.to_le_bytes();
        self.append(Bytes::copy_from_slice(&checksum));
        (self.take(), self.rows)
    }
}

/// A file of these blocks.
#[cfg(test)]
pub(super) fn assemble(blocks: Vec<(u32, NewBlock)>) -> Bytes {
    let mut file = Assembler::new();
    blocks.into_iter().for_each(|(operator, block)| file.push(operator, block));
    file.finish().0
}

/// Where a block is in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) operator: u32,
    pub(super) bucket: u32,
    pub(super) rows: u32,
    pub(super) start: u64,
    pub(super) length: u64,
    checksum: u32,
}

impl Block {
    /// The rows of the block, of the file `path`, whose bytes are `packed`.
    ///
    /// # Errors
    /// [`Error::CheckpointDamaged`] if it is not exactly as it was written.
    pub(super) fn decode(&self, path: &str, packed: &[u8]) -> Result<Changes> {
        if packed.len() as u64 != self.length || crc32c::crc32c(packed) != self.checksum {
            let (start, end) = (self.start, self.start + self.length);
            return Err(Error::damaged(
                path,
                format!("its bytes {start} to {end} are not what was written; {RESTORE}"),
            ));
        }
        block::unpack(packed, self.rows as usize).ok_or_else(|| unreadable(path))
    }
}

const RESTORE: &str = "restore it from a copy of the checkpoint, or start with a new checkpoint";

fn unreadable(path: &str) -> Error {
    Error::damaged(path, "it is whole, but not what belongs there")
}

/// How many bytes at the end of a file its index takes, from the file's last [`TRAILER`] bytes.
pub(super) fn index_length(trailer: &[u8]) -> Option<usize> {
    let blocks = Reader(trailer).u32()?;
    (blocks as usize).checked_mul(ENTRY)?.checked_add(TRAILER)
}

/// The blocks of the file `path` of `length` bytes, from its last bytes, all from the index on.
///
/// # Errors
/// [`Error::CheckpointDamaged`] if they are not as they were written.
pub(super) fn parse_index(path: &str, end: &[u8], length: u64) -> Result<Vec<Block>> {
    let damaged =
        || Error::damaged(path, format!("its length or the checksum of its index is wrong; {RESTORE}"));
    let (index, trailer) = end.split_at_checked(end.len().saturating_sub(TRAILER)).ok_or_else(damaged)?;
    let mut rest = Reader(trailer);
    let blocks = rest.u32().ok_or_else(damaged)?;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(index), &blocks.to_le_bytes());
    let is_whole = rest.u32() == Some(checksum) && rest.u64() == Some(length);
    if !is_whole || index.len() != blocks as usize * ENTRY {
        return Err(damaged());
    }
    let mut rest = Reader(index);
    let mut start = MAGIC.len() as u64;
    let mut found = Vec::with_capacity(blocks as usize);
    while !rest.0.is_empty() {
        let block = entry(&mut rest, start).ok_or_else(|| unreadable(path))?;
        start = start.checked_add(block.length).ok_or_else(|| unreadable(path))?;
        found.push(block);
    }
    if start + end.len() as u64 != length { Err(unreadable(path)) } else { Ok(found) }
}

fn entry(rest: &mut Reader<'_>, start: u64) -> Option<Block> {
    let (operator, bucket, rows) = (rest.u32()?, rest.u32()?, rest.u32()?);
    Some(Block { operator, bucket, rows, start, length: rest.u64()?, checksum: rest.u32()? })
}

/// The blocks of the file `path`, whose bytes are `file`.
///
/// # Errors
/// [`Error::CheckpointDamaged`] if it is not exactly as it was written.
pub(super) fn parse(path: &str, file: &[u8]) -> Result<Vec<Block>> {
    check(file).map_err(|problem| Error::damaged(path, problem))?;
    let length = index_length(&file[file.len() - TRAILER..]).filter(|length| *length <= file.len());
    let index = &file[file.len() - length.ok_or_else(|| unreadable(path))?..];
    parse_index(path, index, file.len() as u64)
}

fn check(file: &[u8]) -> Result<(), String> {
    if file.len() < MAGIC.len() + TRAILER || !file.starts_with(b"tidemill-state ") {
        return Err(format!("it does not begin as a file of state of Tidemill, or is too short; {RESTORE}"));
    }
    let (content, checksum) = file.split_at(file.len() - 4);
    let length = &content[content.len() - 8..];
    let is_whole =
        checksum == crc32c::crc32c(content).to_le_bytes() && length == (file.len() as u64).to_le_bytes();
    if !is_whole {
        return Err(format!("its length or checksum is wrong ({} bytes); {RESTORE}", file.len()));
    }
    if !file.starts_with(MAGIC) {
        let line: Vec<u8> = file.iter().copied().take_while(|byte| *byte != b'\n').take(40).collect();
        return Err(format!(
            "it says '{}', and this build of Tidemill reads 'tidemill-state 2'; use the build that wrote it",
            String::from_utf8_lossy(&line)
        ));
    }
    Ok(())
}

/// The operators that have rows in some blocks.
pub(super) fn operators<'a>(blocks: impl Iterator<Item = &'a Block>) -> BTreeSet<u32> {
    blocks.map(|block| block.operator).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::bytes::RowBytes;
    use crate::state::change_log::{Change, bucket_of};

    fn changes() -> Changes {
        let mut changes = Changes::default();
        changes.push(b"key", b"", b"value", Change::Put(None));
        changes.push(b"", b"sub", b"", Change::Put(Some(-7)));
        changes.push(b"gone", b"x", b"", Change::Removed);
        changes
    }

    fn file() -> Bytes {
        let mut blocks: Vec<(u32, NewBlock)> =
            encode(&changes()).unwrap().into_iter().map(|block| (3, block)).collect();
        let mut second = BlockRows::default();
        second.push(changes().row(1));
        blocks.push((4, NewBlock::of(1, &second).unwrap()));
        assemble(blocks)
    }

    fn packed<'a>(file: &'a [u8], block: &Block) -> &'a [u8] {
        &file[block.start as usize..(block.start + block.length) as usize]
    }

    #[test]
    fn what_is_written_is_read() {
        let file = file();
        let blocks = parse("f", &file).unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!((blocks[0].operator, blocks[0].bucket, blocks[0].rows), (3, UNDIVIDED, 3));
        let all = blocks[0].decode("f", packed(&file, &blocks[0])).unwrap();
        assert_eq!((&all.keys, &all.kinds), (&changes().keys, &changes().kinds));
        let one = blocks[1].decode("f", packed(&file, &blocks[1])).unwrap();
        assert_eq!(one.subkeys.row(0), b"sub");
    }

    #[test]
    fn many_rows_are_divided_by_their_keys() {
        let mut changes = Changes::default();
        let rows = DIVIDE_FROM / 5 + 1;
        for key in 0..rows as u32 {
            changes.push(&key.to_be_bytes(), b"", b"v", Change::Put(None));
        }
        let file = assemble(encode(&changes).unwrap().into_iter().map(|block| (0, block)).collect());
        let blocks = parse("f", &file).unwrap();
        assert_eq!(blocks.len(), BUCKETS as usize);
        let mut read = 0;
        for block in blocks {
            let found = block.decode("f", packed(&file, &block)).unwrap();
            read += found.len();
            assert!((0..found.len()).all(|row| bucket_of(found.keys.row(row)) == block.bucket));
        }
        assert_eq!(read, rows);
    }

    #[test]
    fn every_damaged_bit_and_every_cut_shows() {
        let file = file();
        let index = index_length(&file[file.len() - TRAILER..]).unwrap();
        for at in 0..file.len() * 8 {
            let mut damaged = file.to_vec();
            damaged[at / 8] ^= 1 << (at % 8);
            let found = parse("state/f", &damaged).map(|_| ()).unwrap_err();
            assert!(matches!(found, Error::CheckpointDamaged { .. }), "bit {at}: {found}");
            // Where only parts are read, those that are wrong are found.
            let end = &damaged[damaged.len() - index..];
            let parts = parse_index("f", end, file.len() as u64).and_then(|blocks| {
                blocks.iter().try_for_each(|block| block.decode("f", packed(&damaged, block)).map(drop))
            });
            let unread = at / 8 < MAGIC.len() || at / 8 >= file.len() - 4;
            assert_eq!(parts.is_ok(), unread, "bit {at}");
        }
        for length in 0..file.len() {
            assert!(parse("state/f", &file[..length]).is_err(), "{length} bytes");
        }
    }
}
