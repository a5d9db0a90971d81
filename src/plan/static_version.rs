//! Telling whether a bounded table has changed.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use datafusion::arrow::array::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::MemTable;
use datafusion::datasource::listing::{ListingTable, ListingTableUrl};
use datafusion::error::Result as DataFusionResult;
use futures::TryStreamExt;
use object_store::ObjectMeta;

/// How long a change of a local file may go unseen in what the disk tells of it: the time of the
/// last change is only as exact as the file system keeps it, two seconds at worst.
const COARSEST_CLOCK: TimeDelta = TimeDelta::seconds(2);

/// What a table consists of at one moment.
#[derive(Debug)]
pub(super) enum TableVersion {
    /// Files.
    Files {
        /// What is known of them, by path.
        files: Vec<ObjectMeta>,
        /// Whether a later change of one of them will show.
        settled: bool,
    },
    /// The rows of a table in memory, by partition.
    Memory(Vec<Vec<RecordBatch>>),
    /// Nothing is known about it, so that it may be another at any time.
    Unknown,
}

impl TableVersion {
    /// What `table` is now.
    pub(super) async fn of(table: &dyn TableProvider, session: &dyn Session) -> DataFusionResult<Self> {
        if let Some(table) = table.downcast_ref::<ListingTable>() {
            return Self::of_files(table, session).await;
        }
        if let Some(table) = table.downcast_ref::<MemTable>() {
            let mut partitions = Vec::with_capacity(table.batches.len());
            for batches in &table.batches {
                partitions.push(batches.read().await.clone());
            }
            return Ok(Self::Memory(partitions));
        }
        Ok(Self::Unknown)
    }

    async fn of_files(table: &ListingTable, session: &dyn Session) -> DataFusionResult<Self> {
        let mut all = Vec::new();
        let mut settled = true;
        let extension = table.options().file_extension.as_str();
        for path in table.table_paths() {
            let store = session.runtime_env().object_store(path)?;
            // Before the listing, for a file may change after it was listed.
            let before = Utc::now();
            let files = path.list_all_files(session, store.as_ref(), extension).await?;
            let files: Vec<ObjectMeta> = files.try_collect().await?;
            settled &= !is_local(path) || !files.iter().any(|file| is_fresh(file.last_modified, before));
            all.extend(files);
        }
        all.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(Self::Files { files: all, settled })
    }

    /// Whether the table is certainly still the same in the `later` version.
    pub(super) fn is_still(&self, later: &Self) -> bool {
        match self {
            Self::Files { settled, .. } => *settled && !self.differs(later),
            Self::Memory(_) => !self.differs(later),
            Self::Unknown => false,
        }
    }

    /// Whether the table has certainly changed until the `later` version.
    pub(super) fn differs(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::Files { files: one, .. }, Self::Files { files: other, .. }) => one != other,
            (Self::Memory(one), Self::Memory(other)) => {
                one.len() != other.len() || one.iter().zip(other).any(|(one, other)| !are_same(one, other))
            }
            (Self::Unknown, Self::Unknown) => false,
            _ => true,
        }
    }
}

fn is_local(path: &ListingTableUrl) -> bool {
    path.scheme() == "file"
}

/// Whether a file may change once more without its time of change telling.
fn is_fresh(modified: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    modified > now - COARSEST_CLOCK
}

/// Whether the batches are the very same: their columns are never changed in place.
fn are_same(one: &[RecordBatch], other: &[RecordBatch]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| {
            one.num_rows() == other.num_rows()
                && one.num_columns() == other.num_columns()
                && one.columns().iter().zip(other.columns()).all(|(one, other)| Arc::ptr_eq(one, other))
        })
}
