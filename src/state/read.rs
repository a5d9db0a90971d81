//! The state of a committed batch, without a query that uses it.

use std::sync::Arc;

use serde_json::Value;

use super::bytes::{ByteRows, RowBytes};
use super::change_log::{Change, ChangedRows, Changes};
use super::manifest::Manifest;
use super::merge::{Gone, newest, off_thread};
use super::operator_rows::OperatorRows;
use super::segment_file::SegmentFile;
use super::table::NEVER;
use crate::error::{Error, Result};
use crate::storage::Storage;

/// Some rows of an operator.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct StateRows {
    /// Their keys.
    pub keys: ByteRows,
    /// Their subkeys; empty where there is none.
    pub subkeys: ByteRows,
    /// Their values.
    pub values: ByteRows,
    /// When they expire, in microseconds; `None` for those that never do.
    pub expiries: Vec<Option<i64>>,
}

impl Manifest {
    /// What a commit record says of the state in its field `state`; `null` says that there is none.
    ///
    /// # Errors
    /// [`Error::CheckpointDamaged`] if it is not what a query writes there.
    pub fn from_record(state: &Value) -> Result<Self> {
        match state {
            Value::Null => Ok(Self::default()),
            state => serde_json::from_value(state.clone()).map_err(|error| {
                Error::damaged("commits", format!("a record does not say where the state is: {error}"))
            }),
        }
    }
}

/// Calls `each` with all rows of an operator, counted from 0, as of the commit record with this
/// manifest: some at a time, in no particular order, and the next ones when it is done. Only those, a 64th
/// part of a large state, are held in memory. A running query is not disturbed.
///
/// # Errors
/// [`Error::CheckpointDamaged`] if a file is missing or damaged; those of `each`.
pub async fn read_state<F: Future<Output = Result<()>>>(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    operator: usize,
    mut each: impl FnMut(StateRows) -> F,
) -> Result<()> {
    let expired = manifest.operators.get(operator).and_then(|known| known.expired);
    let Ok(operator) = u32::try_from(operator) else { return Ok(()) };
    let mut files = Vec::with_capacity(manifest.segments.len());
    for segment in &manifest.segments {
        files.push(SegmentFile::open(storage, segment).await?);
    }
    let all = OperatorRows::open(&files, operator).await?;
    for bucket in all.buckets() {
        let bucket = all.bucket(bucket).await?;
        let gone = Gone { expired, is_oldest: true };
        let newest = off_thread(move || Ok(rows(&newest(bucket, gone)?))).await?;
        if !newest.keys.is_empty() {
            each(newest).await?;
        }
    }
    Ok(())
}

fn rows(changes: &Changes) -> StateRows {
    let mut rows = StateRows::default();
    for row in 0..changes.len() {
        if let Change::Put(expiry) = changes.kinds[row] {
            rows.keys.push(changes.keys.row(row));
            rows.subkeys.push(changes.subkeys.row(row));
            rows.values.push(changes.values.row(row));
            rows.expiries.push(expiry.filter(|expiry| *expiry != NEVER));
        }
    }
    rows
}
