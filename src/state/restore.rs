//! From the files of a checkpoint back to tables.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::bytes::{ByteRows, RowBytes};
use super::change_log::{Change, Changes, is_expired};
use super::hash::{hash_key, partition_of};
use super::manifest::{Manifest, Segment};
use super::segment;
use super::table::StateTable;
use crate::error::{Error, Result};
use crate::storage::Storage;

/// How many rows are put into a table at a time.
const CHUNK: usize = 4096;

/// Makes an empty table.
pub(super) type MakeTable = Arc<dyn Fn() -> Box<dyn StateTable> + Send + Sync>;

/// The tables of all operators, by operator, then partition.
pub(super) async fn restore(
    storage: &dyn Storage,
    manifest: &Manifest,
    operators: usize,
    partitions: usize,
    make: MakeTable,
) -> Result<Vec<Box<dyn StateTable>>> {
    let expired: Arc<Vec<Option<i64>>> =
        Arc::new(manifest.operators.iter().map(|operator| operator.expired).collect());
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(partitions).max(1);
    let part = |thread: usize| {
        let mine = (thread..partitions).step_by(threads);
        Part::new(operators, partitions, mine, Arc::clone(&expired), &make)
    };
    let mut parts: Vec<Part> = (0..threads).map(part).collect();
    // One file at a time, for all of them need not fit into memory.
    for segment in &manifest.segments {
        let file = read(storage, segment).await?;
        let mut tasks = JoinSet::new();
        for mut part in parts.drain(..) {
            let (path, file) = (segment.file.clone(), file.clone());
            tasks.spawn_blocking(move || part.replay(&path, &file).map(|()| part));
        }
        while let Some(part) = tasks.join_next().await {
            parts.push(part.map_err(|error| Error::Invalid(format!("restoring state failed: {error}")))??);
        }
    }
    let mut tables: Vec<Option<Box<dyn StateTable>>> = (0..operators * partitions).map(|_| None).collect();
    for part in parts {
        for (index, table) in part.tables.into_iter().enumerate().filter(|(_, table)| table.is_some()) {
            tables[index] = table;
        }
    }
    Ok(tables.into_iter().map(|table| table.unwrap_or_else(|| make())).collect())
}

/// The bytes of a file.
pub(super) async fn read(storage: &dyn Storage, segment: &Segment) -> Result<Bytes> {
    const LOST: &str = "a commit record names it, and it is not there; restore it from a copy of the checkpoint, \
                        or start with a new checkpointLocation";
    storage.read(&segment.file).await?.ok_or_else(|| Error::damaged(&segment.file, LOST))
}

/// The partitions that one thread restores.
struct Part {
    partitions: usize,
    expired: Arc<Vec<Option<i64>>>,
    /// By operator, then partition; `None` for those of other threads.
    tables: Vec<Option<Box<dyn StateTable>>>,
}

impl Part {
    fn new(
        operators: usize,
        partitions: usize,
        mine: impl Iterator<Item = usize> + Clone,
        expired: Arc<Vec<Option<i64>>>,
        make: &MakeTable,
    ) -> Self {
        let mut tables: Vec<Option<Box<dyn StateTable>>> =
            (0..operators * partitions).map(|_| None).collect();
        for operator in 0..operators {
            for partition in mine.clone() {
                tables[operator * partitions + partition] = Some(make());
            }
        }
        Self { partitions, expired, tables }
    }

    fn replay(&mut self, path: &str, file: &[u8]) -> Result<()> {
        for block in segment::blocks(path, file)? {
            let operator = block.operator as usize;
            let first = operator * self.partitions;
            if first >= self.tables.len() {
                return Err(Error::damaged(
                    path,
                    format!("it has rows of operator {operator}, which there is not"),
                ));
            }
            let changes = block.decode(path)?;
            let mut rows = vec![Vec::new(); self.partitions];
            for row in 0..changes.len() {
                rows[partition_of(hash_key(changes.keys.row(row)), self.partitions)].push(row);
            }
            let expired = self.expired.get(operator).copied().flatten();
            for (table, rows) in self.tables[first..].iter_mut().zip(rows) {
                if let Some(table) = table {
                    apply(&changes, &rows, expired, table.as_mut())?;
                }
            }
        }
        Ok(())
    }
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
fn apply(changes: &Changes, rows: &[usize], expired: Option<i64>, table: &mut dyn StateTable) -> Result<()> {
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
    fn flush(&mut self, removed: bool, table: &mut dyn StateTable) -> Result<()> {
        if !self.keys.is_empty() {
            if removed {
                table.remove(&self.keys, Some(&self.subkeys))?;
            } else {
                let expiries = Some(self.expiries.as_slice()).filter(|expiries| !expiries.is_empty());
                table.put(&self.keys, Some(&self.subkeys), &self.values, expiries)?;
            }
        }
        self.keys.clear();
        self.subkeys.clear();
        self.values.clear();
        self.expiries.clear();
        Ok(())
    }
}
