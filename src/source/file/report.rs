//! Where a file source is, and what its progress says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use serde_json::{Value, json};

use super::found_columns::{FoundColumns, MISSING_COLUMNS, NEW_COLUMNS};
use super::layout::RESCUED_COLUMN;
use super::location::FileLocation;
use super::nested::shown;
use super::pinned::{CORRUPT_FILES, MISSING_FILES};
use super::queue::FileQueue;
use super::records::{MALFORMED_ROWS, MALFORMED_ROWS_KEPT};
use crate::error::{Error, Result};
use crate::source::Told;

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
    told: Arc<Told>,
    source: String,
}

/// What a scan counts in.
type WatchedScan = (ExecutionPlanMetricsSet, Arc<FoundColumns>);

impl Report {
    /// For a start that has been told of this, and the source at `location`.
    pub(super) fn new(told: Arc<Told>, location: &FileLocation) -> Self {
        Self { told, source: location.to_string(), ..Self::default() }
    }

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

    /// Counts `columns` that are not read, and gives those that this start was not told of.
    pub(super) fn untold<'a>(&self, columns: &'a BTreeSet<String>) -> Vec<&'a String> {
        if columns.is_empty() {
            return Vec::new();
        }
        self.count(NEW_COLUMNS, columns.len());
        let is_first = |name: &&String| self.told.is_first(&("new column", &self.source, name));
        columns.iter().filter(is_first).collect()
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
        let missing = scans.iter().flat_map(|(_, found)| found.missing());
        // It is one of ours.
        let missing: BTreeSet<String> = missing.filter(|column| column != RESCUED_COLUMN).collect();
        if !missing.is_empty() {
            metrics.insert(MISSING_COLUMNS.to_string(), missing.len().to_string());
            self.warn_of(missing);
        }
        metrics
    }

    /// Once per start and column, for it stays so in most cases.
    fn warn_of(&self, missing: BTreeSet<String>) {
        for column in missing {
            if self.told.is_first(&("missing column", &self.source, &column)) {
                tracing::warn!(
                    "no file of the batch has the column '{}', which is null in all its rows. Columns \
                     are found by name; check how the files spell it",
                    shown(&column)
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
