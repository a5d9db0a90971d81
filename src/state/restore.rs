//! From the files of a checkpoint back to tables.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};

use super::bytes::{ByteRows, RowBytes};
use super::change_log::{Change, ChangedRows, Changes, is_expired};
use super::changing_table::ChangingTable;
use super::hash::{hash_key, partition_of};
use super::manifest::Manifest;
use super::merge::off_thread;
use super::operator_rows::{Bucket, OperatorRows};
use super::segment_file::SegmentFile;
use crate::error::{Error, Result};
use crate::storage::Storage;

/// How many rows are put into a table at a time.
const CHUNK: usize = 4096;
/// How many files are opened at the same time.
const CONCURRENT_OPENS: usize = 16;

/// Makes an empty table.
pub(super) type MakeTable = Arc<dyn Fn(usize) -> Box<dyn ChangingTable> + Send + Sync>;

type Tables = Arc<Vec<Mutex<Box<dyn ChangingTable>>>>;

/// The tables of all operators, by operator, then partition. Bucket by bucket, for all that the files
/// hold need not fit into memory, on all cores.
///
/// # Errors
/// [`Error::CheckpointDamaged`] if a file that the manifest names is missing or damaged; those of the
/// storage and of the tables.
pub(super) async fn restore(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    operators: usize,
    partitions: usize,
    make: MakeTable,
) -> Result<Vec<Box<dyn ChangingTable>>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut opening = Vec::with_capacity(manifest.segments.len());
    for segment in &manifest.segments {
        opening.push(SegmentFile::open(storage, segment));
    }
    let files: Vec<SegmentFile> = stream::iter(opening).buffered(CONCURRENT_OPENS).try_collect().await?;
    for file in &files {
        if let Some(block) = file.blocks.iter().find(|block| block.operator as usize >= operators) {
            let problem = format!("it has rows of operator {}, which there is not", block.operator);
            return Err(Error::damaged(&*file.path, problem));
        }
    }
    let tables: Tables = Arc::new((0..operators * partitions).map(|table| Mutex::new(make(table))).collect());
    for number in 0..operators {
        let Ok(operator) = u32::try_from(number) else { break };
        let expired = manifest.operators.get(number).and_then(|known| known.expired);
        let rows = OperatorRows::open(&files, operator).await?;
        let mut restoring = Vec::new();
        for bucket in rows.buckets() {
            let (rows, tables) = (&rows, Arc::clone(&tables));
            let mine = number * partitions..(number + 1) * partitions;
            restoring.push(async move {
                let content = rows.bucket(bucket).await?;
                off_thread(move || replay(content, bucket as usize, expired, &tables[mine])).await
            });
        }
        stream::iter(restoring).buffer_unordered(threads).try_collect::<()>().await?;
    }
    let tables = Arc::into_inner(tables)
        .ok_or_else(|| Error::Invalid("state is still being restored, which is a bug".into()))?;
    Ok(tables.into_iter().map(|table| table.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
}

/// Makes the changes of a bucket in the tables of an operator's partitions.
fn replay(
    bucket: Bucket,
    number: usize,
    expired: Option<i64>,
    tables: &[Mutex<Box<dyn ChangingTable>>],
) -> Result<()> {
    bucket.oldest_first(&mut |changes, rows| {
        let mut divided = vec![Vec::new(); tables.len()];
        let mut divide = |row: usize| {
            divided[partition_of(hash_key(changes.keys.row(row)), tables.len())].push(row);
        };
        match rows {
            Some(rows) => rows.iter().for_each(|row| divide(*row)),
            None => (0..changes.len()).for_each(divide),
        }
        // Beginning with different ones, buckets seldom wait for one another.
        for partition in (0..tables.len()).map(|index| (index + number) % tables.len()) {
            let mut table = tables[partition].lock().unwrap_or_else(PoisonError::into_inner);
            apply(changes, &divided[partition], expired, table.as_mut())?;
        }
        Ok(())
    })
}

/// Rows of one kind that can be handed to a table together.
#[derive(Default)]
struct Run {
    keys: ByteRows,
    subkeys: ByteRows,
    values: ByteRows,
    expiries: Vec<i64>,
}

/// Makes the changes of some rows in `table`, in their order.
fn apply(
    changes: &Changes,
    rows: &[usize],
    expired: Option<i64>,
    table: &mut dyn ChangingTable,
) -> Result<()> {
    let mut run = Run::default();
    let mut kind = None;
    for row in rows {
        let change = changes.kinds[*row];
        // It may be there with an earlier expiry, and must not stay with that.
        let change = if is_expired(change, expired) { Change::Removed } else { change };
        let this = std::mem::discriminant(&change);
        let has_expiry = matches!(change, Change::Put(Some(_)));
        if kind.is_some_and(|kind| kind != (this, has_expiry)) || run.keys.len() == CHUNK {
            run.flush(kind.is_some_and(|(kind, _)| kind == std::mem::discriminant(&Change::Removed)), table)?;
        }
        kind = Some((this, has_expiry));
        run.keys.push(changes.keys.row(*row));
        run.subkeys.push(changes.subkeys.row(*row));
        run.values.push(changes.values.row(*row));
        if let Change::Put(Some(expiry)) = change {
            run.expiries.push(expiry);
        }
    }
    run.flush(kind.is_some_and(|(kind, _)| kind == std::mem::discriminant(&Change::Removed)), table)
}

impl Run {
    fn flush(&mut self, removed: bool, table: &mut dyn ChangingTable) -> Result<()> {
        if !self.keys.is_empty() {
            if removed {
                table.remove(&self.keys, Some(&self.subkeys))?;
            } else {
                let expiries = Some(self.expiries.as_slice()).filter(|expiries| !expiries.is_empty());
                table.put(&self.keys, Some(&self.subkeys), &self.values, expiries)?;
            }
        }
        // They are as they were.
        table.forget_changes();
        self.keys.clear();
        self.subkeys.clear();
        self.values.clear();
        self.expiries.clear();
        Ok(())
    }
}
