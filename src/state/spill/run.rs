//! Rows that were moved to the local disk: sorted, immutable, found by hash.

use std::sync::Arc;

use super::bloom::Bloom;
use super::row::{Row, RowStream, Sorted};
use crate::error::Result;
use crate::memory::local_disk::{Moved, SpilledFile, read_at};
use crate::state::hash::{hash_key, hash_row};

/// A run: one file with the rows by hash, key and subkey, in blocks, and between them chunks of the same
/// rows, those that expire, by expiry.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) file: SpilledFile,
    /// How many bytes that has.
    pub(super) length: u64,
    /// The hash of each block's first row.
    pub(super) first_hashes: Vec<u64>,
    pub(super) blocks: Vec<Extent>,
    /// Blocks with nothing between them.
    pub(super) extents: Vec<Extent>,
    pub(super) bloom: Bloom,
    pub(super) chunks: Vec<Chunk>,
    pub(super) count: u64,
    /// The last expiry of any row; [`NEVER`](crate::state::NEVER) if some row has none.
    pub(super) last_expiry: i64,
    /// Whether some row hides older ones.
    pub(super) hides: bool,
}

/// A part of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// Rows by expiry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    pub(super) start: u64,
    pub(super) end: u64,
    /// The expiry of the first row.
    pub(super) next: i64,
}

/// The block that was read last.
#[derive(Debug, Default)]
pub(super) struct Block {
    number: Option<usize>,
    bytes: Vec<u8>,
}

impl Run {
    pub(super) fn memory(&self) -> usize {
        self.bloom.memory() + self.first_hashes.len() * 24 + self.chunks.len() * 24
    }

    /// How much of the disk it takes.
    pub(super) fn bytes(&self) -> u64 {
        self.length
    }

    fn load(&self, number: usize, block: &mut Block) -> Result<()> {
        if block.number != Some(number) {
            block.number = None;
            let Extent { start, end } = self.blocks[number];
            block.bytes.resize(usize::try_from(end - start).unwrap_or(usize::MAX), 0);
            read_at(&self.file.file, start, &mut block.bytes)
                .map_err(|error| Moved::State.failed("read", error))?;
            block.number = Some(number);
        }
        Ok(())
    }

    /// The block in which the row is, if it is in any.
    fn block_of(&self, hash: u64, name: (&[u8], &[u8]), block: &mut Block) -> Result<usize> {
        let mut low = self.first_hashes.partition_point(|first| *first < hash).saturating_sub(1);
        let mut high = self.first_hashes.partition_point(|first| *first <= hash);
        // More than one only where blocks begin with rows of this hash: a key with very many rows.
        while high > low + 1 {
            let middle = low.midpoint(high);
            self.load(middle, block)?;
            let first = Row::decode(&block.bytes).map(|row| (self.first_hashes[middle], row.name()));
            if first <= Some((hash, name)) { low = middle } else { high = middle }
        }
        Ok(low)
    }

    /// The row with this name; `block` is only used with this run.
    pub(super) fn find<'b>(
        &self,
        hash: u64,
        name: (&[u8], &[u8]),
        block: &'b mut Block,
    ) -> Result<Option<Row<'b>>> {
        if self.first_hashes.first().is_none_or(|first| *first > hash) {
            return Ok(None);
        }
        if !self.bloom.may_have(hash_row(hash, name.1)) {
            return Ok(None);
        }
        let number = self.block_of(hash, name, block)?;
        self.load(number, block)?;
        let mut rest = block.bytes.as_slice();
        while let Some(row) = Row::decode(rest) {
            if row.name() == name {
                return Ok(Some(row));
            }
            rest = &rest[row.encoded_len()..];
        }
        Ok(None)
    }

    /// Calls `each` with the rows of a key, by subkey.
    pub(super) fn of_key(&self, hash: u64, key: &[u8], each: &mut dyn FnMut(Row<'_>)) -> Result<()> {
        if self.first_hashes.first().is_none_or(|first| *first > hash) || !self.bloom.may_have(hash) {
            return Ok(());
        }
        let mut block = Block::default();
        let mut number = self.block_of(hash, (key, &[]), &mut block)?;
        let end = self.first_hashes.partition_point(|first| *first <= hash);
        while number < end {
            self.load(number, &mut block)?;
            let mut rest = block.bytes.as_slice();
            while let Some(row) = Row::decode(rest) {
                if row.key == key {
                    each(row);
                }
                rest = &rest[row.encoded_len()..];
            }
            number += 1;
        }
        Ok(())
    }
}

/// The rows of a run by hash.
#[derive(Debug)]
pub(super) struct RunRows {
    run: Arc<Run>,
    /// Of the extent that it is at.
    stream: RowStream,
    next_extent: usize,
    /// Of the row that it is at.
    hash: Option<u64>,
}

impl RunRows {
    /// Begins with the first row.
    pub(super) fn new(run: Arc<Run>) -> Result<Self> {
        let mut rows = Self { run, stream: RowStream::new(0, 0), next_extent: 0, hash: None };
        rows.advance()?;
        Ok(rows)
    }
}

impl Sorted for RunRows {
    fn row(&self) -> Option<(u64, Row<'_>)> {
        Some((self.hash?, self.stream.row()?))
    }

    fn advance(&mut self) -> Result<()> {
        while !self.stream.advance(&self.run.file.file)? {
            let Some(Extent { start, end }) = self.run.extents.get(self.next_extent) else {
                self.hash = None;
                return Ok(());
            };
            self.stream = RowStream::new(*start, *end);
            self.next_extent += 1;
        }
        self.hash = self.stream.row().map(|row| hash_key(row.key));
        Ok(())
    }
}
