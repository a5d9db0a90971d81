//! Where a file source is, and what its progress says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use serde_json::{Value, json};

use super::found_columns::{FoundColumns, MISSING_COLUMNS, NEW_COLUMNS};
use super::location::FileLocation;
use super::nested::{column_of, shown};
use super::pinned::{CORRUPT_FILES, MISSING_FILES};
use super::queue::FileQueue;
use super::records::{MALFORMED_ROWS, MALFORMED_ROWS_KEPT};
use crate::error::{Error, Result};

/// The metric of files that are not read because they are older than `maxFileAge`.
pub(super) const IGNORED_BY_AGE: &str = "numFilesIgnoredByAge";
/// The metric of files that have changed since they were read, and are not read again.
pub(super) const CHANGED_FILES: &str = "numChangedFiles";
/// The metrics of files that were listed and not read yet, under the names that Databricks gives them.
const FILES_OUTSTANDING: &str = "numFilesOutstanding";
const BYTES_OUTSTANDING: &str = "numBytesOutstanding";

/// What the progress report says of the source.
#[derive(Debug, Default)]
pub(super) struct Report {
    latest: Mutex<Value>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    /// The scans of one batch, and that batch's end.
    scans: Mutex<(Value, Vec<WatchedScan>)>,
    /// Missing columns that were warned of.
    warned: Mutex<BTreeSet<String>>,
    /// New columns that were warned of.
    told: Mutex<BTreeSet<String>>,
}

/// What a scan counts in.
type WatchedScan = (ExecutionPlanMetricsSet, Arc<FoundColumns>);

impl Report {
    /// A scan of the batch that ends at `end` counts in `metrics`, and finds columns.
    pub(super) fn watch(&self, end: &Value, metrics: &ExecutionPlanMetricsSet, found: Arc<FoundColumns>) {
        let mut scans = lock(&self.scans);
        if scans.0 != *end {
            *scans = (end.clone(), Vec::new());
        }
        scans.1.push((metrics.clone(), found));
    }

    /// Columns that files of the batch have, and that the table may not have.
    pub(super) fn new_columns(&self) -> BTreeSet<String> {
        lock(&self.scans).1.iter().flat_map(|(_, found)| found.new_columns()).collect()
    }

    /// Counts and warns of `new` columns, each once per start.
    pub(super) fn tell_new_columns(&self, new: &BTreeSet<String>, source: &FileLocation) {
        if new.is_empty() {
            return;
        }
        lock(&self.counts).insert(NEW_COLUMNS, new.len() as u64);
        let mut told = lock(&self.told);
        let more: Vec<&String> = new.iter().filter(|name| !told.contains(*name)).collect();
        if more.is_empty() {
            return;
        }
        let word = match more.as_slice() {
            [path] if column_of(path).is_some() => "a field",
            [_] => "a column",
            _ => "columns",
        };
        let names = more.iter().map(|path| shown(path)).collect::<Vec<_>>().join("', '");
        tracing::warn!(
            "files in '{source}' have {word} that the table does not have, and that is not read: '{names}'. To take \
             new columns in, set schemaEvolution to addNewColumns (or to rescue, to keep them as JSON in one \
             column; to none, to hear no more of it)"
        );
        told.extend(new.iter().cloned());
    }

    /// The newest offset that is known.
    pub(super) fn latest(&self) -> Value {
        lock(&self.latest).clone()
    }

    /// `end` is the newest offset now.
    pub(super) fn move_to(&self, end: Value) {
        *lock(&self.latest) = end;
    }

    /// Adds to a counter of the next report.
    pub(super) fn count(&self, name: &'static str, more: usize) {
        *lock(&self.counts).entry(name).or_default() += more as u64;
    }

    /// So much is listed and not taken.
    pub(super) fn outstanding(&self, queue: &FileQueue) {
        let mut counts = lock(&self.counts);
        counts.insert(FILES_OUTSTANDING, queue.len() as u64);
        counts.insert(BYTES_OUTSTANDING, queue.bytes());
    }

    /// The counters since the last report.
    pub(super) fn take(&self) -> BTreeMap<String, String> {
        let counts = std::mem::take(&mut *lock(&self.counts));
        let mut metrics: BTreeMap<String, String> =
            counts.into_iter().map(|(name, count)| (name.to_string(), count.to_string())).collect();
        let (_, scans) = std::mem::take(&mut *lock(&self.scans));
        for name in [MALFORMED_ROWS, MALFORMED_ROWS_KEPT, MISSING_FILES, CORRUPT_FILES] {
            // Each scan of the batch reads all of it and so meets the same records and files.
            let count = scans
                .iter()
                .filter_map(|(scan, _)| scan.clone_inner().sum_by_name(name))
                .map(|m| m.as_usize())
                .max();
            if let Some(count) = count.filter(|count| *count > 0) {
                metrics.insert(name.to_string(), count.to_string());
            }
        }
        let missing: BTreeSet<String> = scans.iter().flat_map(|(_, found)| found.missing()).collect();
        if !missing.is_empty() {
            metrics.insert(MISSING_COLUMNS.to_string(), missing.len().to_string());
            self.warn_of(missing);
        }
        metrics
    }

    /// Once per start and column, for it stays so in most cases.
    fn warn_of(&self, missing: BTreeSet<String>) {
        let mut warned = lock(&self.warned);
        for column in missing {
            if warned.insert(column.clone()) {
                tracing::warn!(
                    "no file of the batch has the column '{column}', which is null in all its rows. Columns \
                     are found by name; check how the files spell it"
                );
            }
        }
    }
}

/// The offset after batch `last`.
pub(super) fn offset(last: Option<u64>) -> Value {
    last.map_or(Value::Null, |last| json!({ "logOffset": last }))
}

/// The batch that ends at an offset.
pub(super) fn batch_of(offset: &Value) -> Result<Option<u64>> {
    match offset {
        Value::Null => Ok(None),
        offset => offset
            .get("logOffset")
            .and_then(Value::as_u64)
            .map(Some)
            .ok_or_else(|| Error::damaged("offsets", format!("'{offset}' is no offset of a file source"))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
