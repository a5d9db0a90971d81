//! Writes a file of state, with no more than a part of it in memory.

use super::segment::{Assembler, NewBlock};
use crate::error::Result;
use crate::storage::{Created, Storage, StorageWriter};

/// How many bytes are handed to the storage at a time.
pub(super) const PART: usize = 1 << 20;

/// A file that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// A new file: a small one is created at once, a larger one is written part by part.
pub(super) struct SegmentWriter<'a> {
    storage: &'a dyn Storage,
    path: &'a str,
    file: Assembler,
    writer: Option<Box<dyn StorageWriter>>,
}

impl<'a> SegmentWriter<'a> {
    pub(super) fn new(storage: &'a dyn Storage, path: &'a str) -> Self {
        Self { storage, path, file: Assembler::new(), writer: None }
    }

    pub(super) async fn push(&mut self, operator: u32, block: NewBlock) -> Result<()> {
        self.file.push(operator, block);
        if self.file.waiting() < PART {
            return Ok(());
        }
        let part = self.file.take();
        self.write(part).await
    }

    async fn write(&mut self, part: bytes::Bytes) -> Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(self.storage.writer(self.path).await?),
        };
        writer.write(part).await
    }

    /// Leaves nothing of the file.
    pub(super) async fn give_up(self) -> Result<()> {
        match self.writer {
            Some(writer) => writer.abort().await,
            None => Ok(()),
        }
    }

    /// Writes the end.
    ///
    /// # Errors
    /// Those of the storage. A part of the file may be there then.
    pub(super) async fn finish(mut self) -> Result<Written> {
        let (end, rows) = std::mem::replace(&mut self.file, Assembler::new()).finish();
        if self.writer.is_none() {
            let bytes = end.len() as u64;
            if self.storage.create(self.path, end.clone()).await? == Created::New {
                return Ok(Written { rows, bytes });
            }
            // From a call that seemed to fail; what it wrote may be other than this. Nobody names it yet.
        }
        self.write(end).await?;
        match self.writer {
            Some(writer) => Ok(Written { rows, bytes: writer.finish().await? }),
            None => Ok(Written { rows, bytes: 0 }),
        }
    }
}
