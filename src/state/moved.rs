//! Changes of a batch whose rows were moved to the local disk: they wait there for the commit.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::execution::DiskManager;

use super::change_log::ChangedRows;
use super::segment::{DIVIDE_FROM, NewBlock, encode, encode_divided};
use super::segment_writer::PART;
use crate::error::Result;
use crate::memory::local_disk::{Moved, NewFile, SpilledFile, read_at};

/// Changes that are being gathered, as the blocks that the commit writes.
#[derive(Debug)]
pub(super) struct Moving {
    file: NewFile,
    blocks: VecDeque<Extent>,
    bytes: u64,
    /// How many bytes the rows have themselves.
    unpacked: usize,
    rows: usize,
}

#[derive(Debug)]
struct Extent {
    bucket: u32,
    rows: u32,
    length: usize,
}

impl Moving {
    pub(super) fn create(disk: &Arc<DiskManager>) -> Result<Self> {
        Ok(Self {
            file: NewFile::create(disk, Moved::State)?,
            blocks: VecDeque::new(),
            bytes: 0,
            unpacked: 0,
            rows: 0,
        })
    }

    pub(super) fn push(&mut self, changes: &dyn ChangedRows) -> Result<()> {
        // Few rows are read as a whole later; of many, a bucket at a time.
        self.unpacked += changes.bytes();
        let blocks = if self.unpacked < DIVIDE_FROM { encode(changes)? } else { encode_divided(changes)? };
        for NewBlock { bucket, rows, packed } in blocks {
            self.file.write(&packed)?;
            self.bytes += packed.len() as u64;
            self.blocks.push_back(Extent { bucket, rows, length: packed.len() });
        }
        self.rows += changes.len();
        Ok(())
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn memory(&self) -> usize {
        self.blocks.capacity() * size_of::<Extent>()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn finish(self) -> Result<MovedChanges> {
        Ok(MovedChanges { file: self.file.finish()?, blocks: self.blocks, at: 0 })
    }
}

/// All of them, oldest first.
#[derive(Debug)]
pub(super) struct MovedChanges {
    file: SpilledFile,
    /// Those that were not read yet.
    blocks: VecDeque<Extent>,
    at: u64,
}

impl MovedChanges {
    /// Whether reading all of it takes no longer than a thread would to begin.
    pub(super) fn is_small(&self) -> bool {
        self.blocks.iter().map(|block| block.length).sum::<usize>() <= PART
    }

    /// The next blocks, of about `bytes` bytes together; none if that was all. Reads from the disk.
    pub(super) fn next(&mut self, bytes: usize) -> Result<Vec<NewBlock>> {
        let mut next = Vec::new();
        let mut read = 0;
        while read < bytes
            && let Some(Extent { bucket, rows, length }) = self.blocks.pop_front()
        {
            let mut packed = vec![0; length];
            read_at(&self.file.file, self.at, &mut packed)
                .map_err(|error| Moved::State.failed("read", error))?;
            self.at += length as u64;
            read += length;
            next.push(NewBlock { bucket, rows, packed: Bytes::from(packed) });
        }
        Ok(next)
    }
}
