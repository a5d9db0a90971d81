//! Files of state, read no further than is needed.

use std::sync::Arc;

use bytes::Bytes;

use super::change_log::Changes;
use super::manifest::Segment;
use super::segment::{Block, TRAILER, index_length, parse, parse_index};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// Files up to this size are read at once.
const SMALL: u64 = 256 << 10;
/// How much of the end of a larger file is read first: the index is mostly there.
const TAIL: u64 = 16 << 10;

/// A file whose index was read.
#[derive(Debug)]
pub(super) struct SegmentFile {
    storage: Arc<dyn Storage>,
    pub(super) path: Arc<str>,
    pub(super) blocks: Vec<Block>,
    /// All of a small file.
    whole: Option<Bytes>,
}

impl SegmentFile {
    /// Opens the file that a manifest names.
    ///
    /// # Errors
    /// [`Error::CheckpointDamaged`] if it is not there or not as it was written; those of the storage.
    pub(super) async fn open(storage: &Arc<dyn Storage>, segment: &Segment) -> Result<Self> {
        let (path, length) = (segment.file.as_str(), segment.bytes);
        let (blocks, whole) = if length <= SMALL {
            let file = storage.read(path).await?.ok_or_else(|| lost(path))?;
            (parse(path, &file)?, Some(file))
        } else {
            let mut end = range(&**storage, path, length - TAIL, length).await?;
            let index = end.len().checked_sub(TRAILER).and_then(|trailer| index_length(&end[trailer..]));
            // A wrong number does not let the whole of a large file be read.
            let index = index.map_or(0, |index| index as u64).min(length);
            if index > end.len() as u64 {
                end = range(&**storage, path, length - index, length).await?;
            }
            let begin = end.len() - usize::try_from(index).unwrap_or(0).min(end.len());
            (parse_index(path, &end[begin..], length)?, None)
        };
        Ok(Self { storage: Arc::clone(storage), path: path.into(), blocks, whole })
    }

    /// The bytes of a block.
    ///
    /// # Errors
    /// As for [`SegmentFile::open`].
    pub(super) async fn read(&self, block: &Block) -> Result<Bytes> {
        let (start, end) = (block.start, block.start.saturating_add(block.length));
        match &self.whole {
            Some(whole) => {
                // The index was checked against the length.
                let limit = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(whole.len());
                Ok(whole.slice(limit(start)..limit(end)))
            }
            None => range(&*self.storage, &self.path, start, end).await,
        }
    }

    /// The rows of a block.
    ///
    /// # Errors
    /// As for [`SegmentFile::open`].
    pub(super) async fn rows(&self, block: &Block) -> Result<Changes> {
        block.decode(&self.path, &self.read(block).await?)
    }
}

async fn range(storage: &dyn Storage, path: &str, start: u64, end: u64) -> Result<Bytes> {
    storage.read_range(path, start..end).await?.ok_or_else(|| lost(path))
}

fn lost(path: &str) -> Error {
    const LOST: &str = "a commit record names it, and it is not there; restore it from a copy of the checkpoint, \
                        or start with a new checkpoint";
    Error::damaged(path, LOST)
}
