//! Several files of state as one.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::bytes::RowBytes;
use super::change_log::{Change, ChangedRows, Changes, is_expired};
use super::hash::hash_key;
use super::operator_rows::{Bucket, OperatorRows};
use super::pace::Pace;
use super::segment::{NewBlock, operators};
use super::segment_file::SegmentFile;
use super::segment_writer::{SegmentWriter, Written};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// Which rows need not be kept.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Gone {
    /// Rows with an expiry up to this one.
    pub(super) expired: Option<i64>,
    /// Nothing is older than these files: rows that are gone need not be remembered as gone.
    pub(super) is_oldest: bool,
}

/// Merges `files`, oldest first, into the file `path`: of every row only the newest change, without
/// those that are gone (`expired`, by operator, and whether nothing is older). Bucket by bucket, with no
/// more than one in memory, as fast as `pace` allows. `None` if it was given up, because there are no more
/// batches, and it is not `urgent`.
///
/// # Errors
/// Those of the storage, and damaged files. A part of the new file may be there then.
pub(super) async fn merge(
    storage: &dyn Storage,
    files: &[SegmentFile],
    (expired, is_oldest): (&[Option<i64>], bool),
    path: &str,
    (pace, urgent): (&Pace, bool),
) -> Result<Option<Written>> {
    let mut output = SegmentWriter::new(storage, path);
    for operator in operators(files.iter().flat_map(|file| &file.blocks)) {
        let gone = Gone { expired: expired.get(operator as usize).copied().flatten(), is_oldest };
        let rows = OperatorRows::open(files, operator).await?;
        for number in rows.buckets() {
            let bucket = rows.bucket(number).await?;
            let step = pace.start();
            let block = off_thread(move || {
                let newest = newest(bucket, gone)?;
                if newest.len() == 0 { Ok(None) } else { NewBlock::of_all(number, &newest).map(Some) }
            });
            if let Some(block) = block.await? {
                output.push(operator, block).await?;
            }
            if *rows.buckets().end() != number {
                pace.give_way(step).await;
                if pace.has_ended() && !urgent {
                    output.give_up().await?;
                    return Ok(None);
                }
            }
        }
    }
    output.finish().await.map(Some)
}

/// Runs `work` where it may take its time.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let failed = |error| Error::Invalid(format!("reading or merging state failed: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

/// The newest change of every row of a bucket, without those that are gone.
///
/// # Errors
/// Damaged files.
pub(super) fn newest(bucket: Bucket, gone: Gone) -> Result<Changes> {
    // At most; a table that grows hashes all of its keys again.
    let seen = HashTable::with_capacity(bucket.len());
    let mut newest = Newest { gone, seen, rows: Changes::default(), kept: Vec::new() };
    bucket.newest_first(&mut |changes, rows| {
        match rows {
            Some(rows) => rows.iter().rev().for_each(|row| newest.add(changes, *row)),
            None => (0..changes.len()).rev().for_each(|row| newest.add(changes, row)),
        }
        Ok(())
    })?;
    Ok(newest.finish())
}

/// Gathers the first change of every row.
struct Newest {
    gone: Gone,
    seen: HashTable<usize>,
    rows: Changes,
    kept: Vec<bool>,
}

impl Newest {
    fn add(&mut self, changes: &Changes, row: usize) {
        let (key, subkey) = (changes.keys.row(row), changes.subkeys.row(row));
        let rows = &self.rows;
        let entry = self.seen.entry(
            hash(key, subkey),
            |seen| rows.keys.row(*seen) == key && rows.subkeys.row(*seen) == subkey,
            |seen| hash(rows.keys.row(*seen), rows.subkeys.row(*seen)),
        );
        if let Entry::Vacant(vacant) = entry {
            let change = changes.kinds[row];
            let removed = change == Change::Removed || is_expired(change, self.gone.expired);
            vacant.insert(self.rows.len());
            self.kept.push(!(removed && self.gone.is_oldest));
            if removed {
                self.rows.push(key, subkey, &[], Change::Removed);
            } else {
                self.rows.push(key, subkey, changes.values.row(row), change);
            }
        }
    }

    fn finish(self) -> Changes {
        if self.kept.iter().all(|kept| *kept) {
            return self.rows;
        }
        let mut kept = Changes::default();
        for row in (0..self.rows.len()).filter(|row| self.kept[*row]) {
            let rows = &self.rows;
            kept.push(rows.keys.row(row), rows.subkeys.row(row), rows.values.row(row), rows.kinds[row]);
        }
        kept
    }
}

fn hash(key: &[u8], subkey: &[u8]) -> u64 {
    hash_key(key) ^ hash_key(subkey).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::state::manifest::Segment;
    use crate::state::segment::{DIVIDE_FROM, assemble, encode};
    use crate::storage::{Durability, LocalStorage};
    use url::Url;

    /// Merges files of these changes, and gives all changed rows of the merged file.
    async fn merged(files: &[Changes], expired: &[Option<i64>], is_oldest: bool) -> Vec<(Vec<u8>, Change)> {
        let directory = tempfile::tempdir().unwrap();
        let url = Url::from_directory_path(directory.path()).unwrap();
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(&url, Durability::Process).unwrap());
        let segment = |file: &str, bytes: u64| Segment {
            file: file.to_string(),
            first_batch: 0,
            last_batch: 0,
            rows: 0,
            bytes,
        };
        let mut opened = Vec::new();
        for (index, changes) in files.iter().enumerate() {
            let (path, body) = (
                index.to_string(),
                assemble(encode(changes).unwrap().into_iter().map(|block| (0, block)).collect()),
            );
            let segment = segment(&path, body.len() as u64);
            storage.create(&path, body).await.unwrap();
            opened.push(SegmentFile::open(&storage, &segment).await.unwrap());
        }
        let pace = Pace::default();
        let into = |name| merge(&*storage, &opened, (expired, is_oldest), name, (&pace, false));
        let merged = into("merged").await.unwrap().unwrap();
        let file = SegmentFile::open(&storage, &segment("merged", merged.bytes)).await.unwrap();
        let mut found = Vec::new();
        for block in &file.blocks {
            let changes = file.rows(block).await.unwrap();
            found.extend((0..changes.len()).map(|row| (changes.keys.row(row).to_vec(), changes.kinds[row])));
        }
        assert_eq!(found.len() as u64, merged.rows);
        // Large ones are given up at the end, and leave nothing behind.
        pace.end();
        let is_large = file.blocks.len() > 1;
        assert_eq!(into("again").await.unwrap().is_none(), is_large);
        assert_eq!(storage.size("again").await.unwrap().is_none(), is_large);
        found.sort_by_key(|(key, _)| key.clone());
        found
    }

    fn changes(changes: &[(&[u8], Change)]) -> Changes {
        let mut all = Changes::default();
        for (index, (key, change)) in changes.iter().enumerate() {
            all.push(key, b"", &[u8::try_from(index).unwrap()], *change);
        }
        all
    }

    #[tokio::test]
    async fn the_newest_change_counts_and_what_is_gone_is_left_out() {
        let put = Change::Put(None);
        let files = [
            changes(&[(b"a", put), (b"b", put), (b"c", Change::Put(Some(5))), (b"d", Change::Put(Some(9)))]),
            changes(&[(b"a", Change::Removed), (b"e", put), (b"e", Change::Removed), (b"e", put)]),
        ];
        let all = merged(&files, &[Some(5)], true).await;
        assert_eq!(all, [(b"b".to_vec(), put), (b"d".to_vec(), Change::Put(Some(9))), (b"e".to_vec(), put)]);
        // Something older may still have the rows that are removed.
        let newer = merged(&files, &[Some(5)], false).await;
        assert_eq!(newer.len(), 5);
        assert_eq!(newer[0], (b"a".to_vec(), Change::Removed));
        assert_eq!(newer[2], (b"c".to_vec(), Change::Removed));
    }

    #[tokio::test]
    async fn large_files_are_merged_bucket_by_bucket() {
        let many = |from: u32, to: u32| {
            let mut all = Changes::default();
            for key in from..to {
                all.push(&key.to_be_bytes(), b"", &from.to_be_bytes(), Change::Put(None));
            }
            all
        };
        let size = (DIVIDE_FROM / 8) as u32;
        let found = merged(&[many(0, 2 * size), many(size, 3 * size), many(7, 9)], &[], true).await;
        assert_eq!(found.len() as u32, 3 * size);
        assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0));
        // Small ones that make a large one together.
        let found = merged(&[many(0, size / 2), many(size / 4, size), many(size, 2 * size)], &[], true).await;
        assert_eq!(found.len() as u32, 2 * size);
    }
}
