//! What an operator gave, until the next stage reads it.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{DiskManager, SendableRecordBatchStream};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, stream};

use super::disk_rows::{DiskRows, RowsToDisk, size_of_rows};
use super::room::{Room, Space};
use super::workers::panicked;
use crate::error::Result;

/// Rows that are being given: in memory as long as they have room there.
#[derive(Debug)]
pub(crate) struct RowBuffer {
    /// The newest.
    rows: Vec<RecordBatch>,
    room: Room,
    disk: Arc<DiskManager>,
    /// Those before.
    moved: Option<RowsToDisk>,
    count: u64,
}

impl RowBuffer {
    /// One of `many` that are filled at the same time.
    pub(crate) fn new(space: &Space, many: usize) -> Self {
        Self {
            rows: Vec::new(),
            room: space.share(many),
            disk: Arc::clone(&space.disk),
            moved: None,
            count: 0,
        }
    }

    /// Adds rows. May write to the disk.
    pub(crate) fn push(&mut self, rows: RecordBatch) -> DataFusionResult<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.count += rows.num_rows() as u64;
        let bytes = size_of_rows(&rows);
        if !self.room.take(bytes) {
            self.make_room()?;
            if !self.room.take(bytes) {
                return self.move_rows(&rows);
            }
        }
        self.rows.push(rows);
        Ok(())
    }

    fn make_room(&mut self) -> DataFusionResult<()> {
        for rows in std::mem::take(&mut self.rows) {
            self.move_rows(&rows)?;
        }
        self.room.clear();
        Ok(())
    }

    fn move_rows(&mut self, rows: &RecordBatch) -> DataFusionResult<()> {
        let moved = match &mut self.moved {
            Some(moved) => moved,
            none => none.insert(RowsToDisk::create(&self.disk)?),
        };
        moved.push(0, rows)
    }

    /// There are no more.
    pub(crate) fn finish(self) -> Result<HeldRows> {
        let moved = self.moved.map(RowsToDisk::finish).transpose()?;
        Ok(HeldRows { moved: moved.map(Arc::new), rows: self.rows, count: self.count, _room: self.room })
    }
}

/// Rows that were given.
#[derive(Debug)]
pub(crate) struct HeldRows {
    /// The first of them.
    moved: Option<Arc<DiskRows>>,
    rows: Vec<RecordBatch>,
    count: u64,
    _room: Room,
}

/// Rows that are one batch.
enum Piece {
    Held(RecordBatch),
    Moved(Arc<DiskRows>, usize),
}

impl HeldRows {
    fn pieces(&self) -> impl Iterator<Item = Piece> {
        let moved = self
            .moved
            .iter()
            .flat_map(|moved| (0..moved.pieces()).map(|piece| Piece::Moved(Arc::clone(moved), piece)));
        moved.chain(self.rows.iter().cloned().map(Piece::Held))
    }

    /// All of them, in memory. May read from the disk.
    pub(crate) fn collect(&self) -> DataFusionResult<Vec<RecordBatch>> {
        self.pieces()
            .map(|piece| match piece {
                Piece::Held(rows) => Ok(rows),
                Piece::Moved(disk, piece) => disk.piece(piece),
            })
            .collect()
    }

    /// How many they are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Whether a part of them is on the disk.
    pub(crate) fn were_moved(&self) -> bool {
        self.moved.is_some()
    }
}

/// The rows of `held`, one after the other.
pub(crate) fn stream_of(held: &[HeldRows], schema: SchemaRef) -> SendableRecordBatchStream {
    let pieces: Vec<Piece> = held.iter().flat_map(HeldRows::pieces).collect();
    let rows = stream::iter(pieces).then(|piece| async {
        match piece {
            Piece::Held(rows) => Ok(rows),
            Piece::Moved(disk, piece) => match tokio::task::spawn_blocking(move || disk.piece(piece)).await {
                Ok(rows) => rows,
                Err(error) => Err(DataFusionError::from(panicked(error))),
            },
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}
