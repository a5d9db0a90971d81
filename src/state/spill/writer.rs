//! Writes runs.

use std::sync::Arc;

use datafusion::execution::DiskManager;

use super::bloom::Bloom;
use super::row::Row;
use super::run::{Chunk, Extent, Run};
use crate::error::Result;
use crate::memory::local_disk::{Moved, NewFile};
use crate::state::NEVER;
use crate::state::hash::hash_row;

/// How large a block becomes: what one look-up reads.
const BLOCK: u64 = 4096;

/// Writes one run.
#[derive(Debug)]
pub(super) struct RunWriter {
    file: NewFile,
    /// How much is written.
    at: u64,
    scratch: Vec<u8>,
    /// Whether rows are added to the last block, and to the last extent.
    is_open: bool,
    run: Parts,
    /// Rows that expire, and where each begins, until there are so many that they make a chunk.
    expiring: Vec<u8>,
    order: Vec<(i64, usize)>,
    chunk_size: usize,
}

#[derive(Debug)]
struct Parts {
    first_hashes: Vec<u64>,
    blocks: Vec<Extent>,
    extents: Vec<Extent>,
    bloom: Bloom,
    chunks: Vec<Chunk>,
    count: u64,
    last_expiry: i64,
    hides: bool,
    last_key: u64,
}

impl RunWriter {
    /// For at most `rows` rows. Up to `chunk_size` bytes of memory are used to sort rows by expiry.
    pub(super) fn new(disk: &Arc<DiskManager>, rows: usize, chunk_size: usize) -> Result<Self> {
        let run = Parts {
            first_hashes: Vec::new(),
            blocks: Vec::new(),
            extents: Vec::new(),
            bloom: Bloom::new(rows),
            chunks: Vec::new(),
            count: 0,
            last_expiry: i64::MIN,
            hides: false,
            last_key: 0,
        };
        Ok(Self {
            file: NewFile::create(disk, Moved::State)?,
            at: 0,
            scratch: Vec::new(),
            is_open: false,
            run,
            expiring: Vec::new(),
            order: Vec::new(),
            chunk_size,
        })
    }

    /// Appends a row; rows come in their order.
    pub(super) fn push(&mut self, hash: u64, row: &Row<'_>) -> Result<()> {
        let run = &mut self.run;
        if !self.is_open {
            run.extents.push(Extent { start: self.at, end: self.at });
        }
        if !self.is_open || run.blocks.last().is_none_or(|block| self.at - block.start >= BLOCK) {
            run.first_hashes.push(hash);
            run.blocks.push(Extent { start: self.at, end: self.at });
            self.is_open = true;
        }
        if run.count == 0 || run.last_key != hash {
            run.bloom.add(hash);
        }
        if !row.subkey.is_empty() {
            run.bloom.add(hash_row(hash, row.subkey));
        }
        run.last_key = hash;
        run.count += 1;
        run.last_expiry = run.last_expiry.max(row.expiry);
        run.hides |= row.mark.hides();
        self.scratch.clear();
        row.encode(&mut self.scratch);
        self.file.write(&self.scratch)?;
        self.at += self.scratch.len() as u64;
        for open in [run.blocks.last_mut(), run.extents.last_mut()].into_iter().flatten() {
            open.end = self.at;
        }
        if row.expiry != NEVER {
            self.order.push((row.expiry, self.expiring.len()));
            self.expiring.extend_from_slice(&self.scratch);
            if self.expiring.len() + self.order.len() * 16 >= self.chunk_size {
                self.end_chunk()?;
            }
        }
        Ok(())
    }

    /// Writes the rows that expire once more, between the others.
    fn end_chunk(&mut self) -> Result<()> {
        self.order.sort_unstable();
        let Some((next, _)) = self.order.first().copied() else { return Ok(()) };
        self.is_open = false;
        let start = self.at;
        for (_, at) in self.order.drain(..) {
            let length = Row::decode(&self.expiring[at..]).map_or(0, |row| row.encoded_len());
            self.file.write(&self.expiring[at..at + length])?;
            self.at += length as u64;
        }
        self.expiring.clear();
        self.run.chunks.push(Chunk { start, end: self.at, next });
        Ok(())
    }

    /// The run of all rows.
    pub(super) fn finish(mut self) -> Result<Run> {
        self.end_chunk()?;
        let Parts { first_hashes, blocks, extents, bloom, chunks, count, last_expiry, hides, .. } = self.run;
        let file = self.file.finish()?;
        let length = self.at;
        Ok(Run { file, length, first_hashes, blocks, extents, bloom, chunks, count, last_expiry, hides })
    }
}
