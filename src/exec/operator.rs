//! What stateful operators have in common.

use std::fmt;

use datafusion::arrow::datatypes::Field;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::recorded;

/// What one stateful operator did in a batch, all its partitions together.
#[derive(Debug, Default)]
pub(crate) struct OperatorCounters {
    rows_updated: AtomicU64,
    rows_removed: AtomicU64,
    rows_dropped_by_watermark: AtomicU64,
    duplicate_rows_dropped: AtomicU64,
}

impl OperatorCounters {
    pub(crate) fn add_updated(&self, rows: usize) {
        self.rows_updated.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_removed(&self, rows: usize) {
        self.rows_removed.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_late(&self, rows: usize) {
        self.rows_dropped_by_watermark.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_duplicates(&self, rows: usize) {
        self.duplicate_rows_dropped.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Rows of state that were inserted or replaced.
    pub(crate) fn updated(&self) -> u64 {
        self.rows_updated.load(Ordering::Relaxed)
    }

    /// Rows of state that were removed.
    pub(crate) fn removed(&self) -> u64 {
        self.rows_removed.load(Ordering::Relaxed)
    }

    /// Input rows that came too late.
    pub(crate) fn late(&self) -> u64 {
        self.rows_dropped_by_watermark.load(Ordering::Relaxed)
    }

    /// Input rows that were there before.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicate_rows_dropped.load(Ordering::Relaxed)
    }
}

/// Which of a query's stateful operators it is, and over how many state partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OperatorId {
    /// From 0, in plan order.
    pub(crate) id: usize,
    /// How many partitions its state has, and its input must have.
    pub(crate) state_partitions: usize,
}

impl fmt::Display for OperatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operator={}, statePartitions={}", self.id, self.state_partitions)
    }
}

/// Columns as the definition of an operator records them.
pub(crate) fn columns<'a>(fields: impl IntoIterator<Item = &'a Field>) -> Value {
    fields
        .into_iter()
        .map(|field| json!({"name": field.name(), "dataType": recorded(field.data_type())}))
        .collect()
}
