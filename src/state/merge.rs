//! Several files of state as one.

use std::collections::BTreeSet;

use bytes::Bytes;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::bytes::RowBytes;
use super::change_log::{Change, Changes, is_expired};
use super::hash::hash_key;
use super::segment::{self, BUCKETS, Block, DIVIDE_FROM, UNDIVIDED, bucket_of};
use crate::error::Result;

/// What merging some files gives.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) file: Bytes,
    pub(super) rows: u64,
}

/// Merges `files`, oldest first, each with its path: of every row only the newest change. Rows that
/// expired by `expired` (by operator) are left out, and removals too if nothing is older than these
/// files.
pub(super) fn merge(files: &[(String, Bytes)], expired: &[Option<i64>], is_oldest: bool) -> Result<Merged> {
    let blocks: Vec<Vec<Block<'_>>> =
        files.iter().map(|(path, file)| segment::blocks(path, file)).collect::<Result<_>>()?;
    let operators: BTreeSet<u32> = blocks.iter().flatten().map(|block| block.operator).collect();
    let mut encoded = Vec::new();
    let mut rows = 0;
    for operator in operators {
        let gone = Gone { expired: expired.get(operator as usize).copied().flatten(), is_oldest };
        let of_operator = Inputs::new(files, &blocks, operator)?;
        let divided = of_operator.rows >= DIVIDE_FROM;
        let buckets = if divided { 0..BUCKETS } else { UNDIVIDED..UNDIVIDED };
        for bucket in buckets.chain((!divided).then_some(UNDIVIDED)) {
            let newest = of_operator.newest(bucket, gone)?;
            let all: Vec<usize> = (0..newest.len()).collect();
            let mut bytes = Vec::new();
            segment::encode_block(operator, bucket, &newest, &all, &mut bytes)?;
            rows += newest.len() as u64;
            encoded.push(bytes);
        }
    }
    Ok(Merged { file: segment::assemble(&encoded), rows })
}

/// Calls `each` with the rows of one operator that are alive, a part of them at a time, without holding
/// more of them than a part in memory.
pub(super) fn live_rows(
    files: &[(String, Bytes)],
    operator: u32,
    expired: Option<i64>,
    each: &mut dyn FnMut(&Changes) -> Result<()>,
) -> Result<()> {
    let blocks: Vec<Vec<Block<'_>>> =
        files.iter().map(|(path, file)| segment::blocks(path, file)).collect::<Result<_>>()?;
    let inputs = Inputs::new(files, &blocks, operator)?;
    let gone = Gone { expired, is_oldest: true };
    if inputs.rows < DIVIDE_FROM {
        return each(&inputs.newest(UNDIVIDED, gone)?);
    }
    (0..BUCKETS).try_for_each(|bucket| each(&inputs.newest(bucket, gone)?))
}

/// Which rows need not be kept.
#[derive(Clone, Copy)]
struct Gone {
    expired: Option<i64>,
    is_oldest: bool,
}

/// The blocks of one operator, newest first. Undivided ones are small and are decoded once.
struct Inputs<'a> {
    rows: usize,
    blocks: Vec<Input<'a>>,
}

enum Input<'a> {
    Divided(&'a str, Block<'a>),
    Undivided(Changes),
}

impl<'a> Inputs<'a> {
    fn new(files: &'a [(String, Bytes)], blocks: &[Vec<Block<'a>>], operator: u32) -> Result<Self> {
        let mut inputs = Self { rows: 0, blocks: Vec::new() };
        for ((path, _), blocks) in files.iter().zip(blocks).rev() {
            for block in blocks.iter().rev().filter(|block| block.operator == operator) {
                inputs.rows += block.rows as usize;
                inputs.blocks.push(match block.bucket {
                    UNDIVIDED => Input::Undivided(block.decode(path)?),
                    _ => Input::Divided(path, *block),
                });
            }
        }
        Ok(inputs)
    }

    /// The newest change of every row in `bucket`, or of all rows.
    fn newest(&self, bucket: u32, gone: Gone) -> Result<Changes> {
        // At most; a table that grows hashes all of its keys again.
        let rows = if bucket == UNDIVIDED { self.rows } else { self.rows / BUCKETS as usize * 5 / 4 };
        let seen = HashTable::with_capacity(rows);
        let mut newest = Newest { gone, seen, rows: Changes::default(), kept: Vec::new() };
        for input in &self.blocks {
            match input {
                Input::Divided(path, block) if bucket == UNDIVIDED || block.bucket == bucket => {
                    newest.add(&block.decode(path)?, UNDIVIDED);
                }
                Input::Divided(..) => {}
                Input::Undivided(changes) => newest.add(changes, bucket),
            }
        }
        Ok(newest.finish())
    }
}

/// Gathers the first change of every row.
struct Newest {
    gone: Gone,
    seen: HashTable<usize>,
    rows: Changes,
    kept: Vec<bool>,
}

impl Newest {
    /// Adds the rows of `bucket`, newest last.
    fn add(&mut self, changes: &Changes, bucket: u32) {
        for row in (0..changes.len()).rev() {
            let (key, subkey) = (changes.keys.row(row), changes.subkeys.row(row));
            if bucket != UNDIVIDED && bucket_of(key) != bucket {
                continue;
            }
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
    use super::*;

    fn file(changes: &[(&[u8], Change)]) -> (String, Bytes) {
        let mut all = Changes::default();
        for (index, (key, change)) in changes.iter().enumerate() {
            all.push(key, b"", &[u8::try_from(index).unwrap()], *change);
        }
        ("f".into(), segment::assemble(&[segment::encode(0, &all).unwrap()]))
    }

    fn rows(merged: &Merged) -> Vec<(Vec<u8>, Change)> {
        let mut found = Vec::new();
        for block in segment::blocks("m", &merged.file).unwrap() {
            let changes = block.decode("m").unwrap();
            found.extend((0..changes.len()).map(|row| (changes.keys.row(row).to_vec(), changes.kinds[row])));
        }
        found.sort_by_key(|(key, _)| key.clone());
        found
    }

    #[test]
    fn the_newest_change_counts_and_what_is_gone_is_left_out() {
        let put = Change::Put(None);
        let files = [
            file(&[(b"a", put), (b"b", put), (b"c", Change::Put(Some(5))), (b"d", Change::Put(Some(9)))]),
            file(&[(b"a", Change::Removed), (b"e", put), (b"e", Change::Removed), (b"e", put)]),
        ];
        let all = merge(&files, &[Some(5)], true).unwrap();
        assert_eq!(
            rows(&all),
            [(b"b".to_vec(), put), (b"d".to_vec(), Change::Put(Some(9))), (b"e".to_vec(), put)]
        );
        assert_eq!(all.rows, 3);
        // Something older may still have the rows that are removed.
        let newer = merge(&files, &[Some(5)], false).unwrap();
        assert_eq!(rows(&newer).len(), 5);
        assert_eq!(rows(&newer)[0], (b"a".to_vec(), Change::Removed));
        assert_eq!(rows(&newer)[2], (b"c".to_vec(), Change::Removed));
    }

    #[test]
    fn large_files_are_merged_bucket_by_bucket() {
        let many = |from: u32, to: u32| {
            let mut all = Changes::default();
            for key in from..to {
                all.push(&key.to_be_bytes(), b"", &from.to_be_bytes(), Change::Put(None));
            }
            ("f".to_string(), segment::assemble(&[segment::encode(0, &all).unwrap()]))
        };
        let size = DIVIDE_FROM as u32;
        let merged = merge(&[many(0, 2 * size), many(size, 3 * size), many(7, 8)], &[], true).unwrap();
        assert_eq!(merged.rows, u64::from(3 * size));
        let found = rows(&merged);
        assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
