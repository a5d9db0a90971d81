//! Rows beside their keys.

use std::fmt::{self, Debug};

use datafusion::arrow::record_batch::RecordBatch;

use crate::state::RowBytes;

/// Some rows of one state partition, and what their keys are.
pub(crate) struct KeyedRows {
    /// Which of the operator's inputs they came by.
    pub(crate) input: usize,
    pub(crate) rows: RecordBatch,
    /// The key of each row as bytes.
    pub(crate) keys: Box<dyn RowBytes + Send>,
    /// The hash of each key, see [`hash_key`].
    pub(crate) hashes: Vec<u64>,
}

impl Debug for KeyedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedRows").field("rows", &self.rows.num_rows()).finish_non_exhaustive()
    }
}

/// For each state partition, its rows.
pub(crate) type Partitions = Vec<Vec<KeyedRows>>;
