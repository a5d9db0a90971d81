//! The rows of one operator in several files, bucket by bucket.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::change_log::{BUCKETS, ChangedRows, Changes};
use super::segment::{Block, DIVIDE_FROM, UNDIVIDED, by_bucket};
use super::segment_file::SegmentFile;
use crate::error::Result;

/// How many blocks are read at the same time.
const CONCURRENT_READS: usize = 16;

/// The changed rows of one operator in some files.
#[derive(Debug)]
pub(super) struct OperatorRows<'a> {
    /// Oldest first.
    parts: Vec<Part<'a>>,
    is_divided: bool,
}

#[derive(Debug)]
enum Part<'a> {
    Divided(&'a SegmentFile, Block),
    /// Blocks that are not divided are small, and are decoded once.
    Undivided(Arc<Undivided>),
}

#[derive(Debug)]
struct Undivided {
    changes: Changes,
    /// Empty if no part is divided.
    buckets: Vec<Vec<usize>>,
}

impl<'a> OperatorRows<'a> {
    /// The rows of `operator` in `files`, oldest first.
    ///
    /// # Errors
    /// Those of the storage, and damaged files.
    pub(super) async fn open(files: &'a [SegmentFile], operator: u32) -> Result<Self> {
        let mut blocks = Vec::new();
        for file in files {
            blocks.extend(
                file.blocks.iter().filter(|block| block.operator == operator).map(|block| (file, *block)),
            );
        }
        let mut reads = Vec::new();
        for (file, block) in &blocks {
            if block.bucket == UNDIVIDED {
                reads.push(file.rows(block));
            }
        }
        let decoded: Vec<Changes> = stream::iter(reads).buffered(CONCURRENT_READS).try_collect().await?;
        let bytes: usize = decoded.iter().map(ChangedRows::bytes).sum();
        let is_divided = bytes >= DIVIDE_FROM || blocks.iter().any(|(_, block)| block.bucket != UNDIVIDED);
        let mut decoded = decoded.into_iter().map(|changes| {
            let buckets = if is_divided { by_bucket(&changes) } else { Vec::new() };
            Part::Undivided(Arc::new(Undivided { changes, buckets }))
        });
        let parts = blocks.into_iter().filter_map(|(file, block)| match block.bucket {
            UNDIVIDED => decoded.next(),
            _ => Some(Part::Divided(file, block)),
        });
        Ok(Self { parts: parts.collect(), is_divided })
    }

    /// The buckets that there are: all, or [`UNDIVIDED`].
    pub(super) fn buckets(&self) -> RangeInclusive<u32> {
        if self.is_divided { 0..=BUCKETS - 1 } else { UNDIVIDED..=UNDIVIDED }
    }

    /// What there is of a bucket.
    ///
    /// # Errors
    /// Those of the storage.
    pub(super) async fn bucket(&self, bucket: u32) -> Result<Bucket> {
        let mut reads = Vec::new();
        for part in &self.parts {
            match part {
                Part::Divided(_, block) if block.bucket != bucket => {}
                part => reads.push(part.read()),
            }
        }
        let parts = stream::iter(reads).buffered(CONCURRENT_READS).try_collect().await?;
        Ok(Bucket { bucket: Some(bucket).filter(|_| self.is_divided), parts })
    }
}

impl Part<'_> {
    async fn read(&self) -> Result<BucketPart> {
        Ok(match self {
            Self::Divided(file, block) => {
                BucketPart::Packed(Arc::clone(&file.path), *block, file.read(block).await?)
            }
            Self::Undivided(rows) => BucketPart::Undivided(Arc::clone(rows)),
        })
    }
}

/// The changed rows of one bucket, as they are in the files.
#[derive(Debug)]
pub(super) struct Bucket {
    /// `None` if rows are not divided.
    bucket: Option<u32>,
    /// Oldest first.
    parts: Vec<BucketPart>,
}

#[derive(Debug)]
enum BucketPart {
    /// With the path of the file.
    Packed(Arc<str>, Block, Bytes),
    Undivided(Arc<Undivided>),
}

impl Bucket {
    /// How many changed rows there are.
    pub(super) fn len(&self) -> usize {
        let rows = self.parts.iter().map(|part| match (part, self.bucket) {
            (BucketPart::Packed(_, block, _), _) => block.rows as usize,
            (BucketPart::Undivided(rows), Some(bucket)) => rows.buckets[bucket as usize].len(),
            (BucketPart::Undivided(rows), None) => rows.changes.len(),
        });
        rows.sum()
    }

    /// Calls `each` with all parts, oldest first, and the rows in each that belong to the bucket, oldest
    /// first; `None` for all rows. No more than one part is decoded at a time.
    ///
    /// # Errors
    /// Damaged files, and those of `each`.
    pub(super) fn oldest_first(self, each: &mut EachPart<'_>) -> Result<()> {
        let bucket = self.bucket;
        self.parts.into_iter().try_for_each(|part| part.visit(bucket, each))
    }

    /// The same, newest parts first; still the oldest row of each part first.
    ///
    /// # Errors
    /// As for [`Bucket::oldest_first`].
    pub(super) fn newest_first(self, each: &mut EachPart<'_>) -> Result<()> {
        let bucket = self.bucket;
        self.parts.into_iter().rev().try_for_each(|part| part.visit(bucket, each))
    }
}

/// What is called with a part of a bucket.
pub(super) type EachPart<'a> = dyn FnMut(&Changes, Option<&[usize]>) -> Result<()> + 'a;

impl BucketPart {
    fn visit(self, bucket: Option<u32>, each: &mut EachPart<'_>) -> Result<()> {
        match (self, bucket) {
            (Self::Packed(path, block, packed), _) => each(&block.decode(&path, &packed)?, None),
            (Self::Undivided(rows), None) => each(&rows.changes, None),
            (Self::Undivided(rows), Some(bucket)) => {
                each(&rows.changes, rows.buckets.get(bucket as usize).map(Vec::as_slice))
            }
        }
    }
}
