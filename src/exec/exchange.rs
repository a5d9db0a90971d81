//! Bringing rows to the state partition of their key.

use std::sync::Arc;

use datafusion::arrow::compute::interleave_record_batch;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;

use super::disk_rows::RowsToDisk;
use super::keyed_rows::{BUCKETS, DividedRows, KeyedRows, Partitions, bucket_of};
use super::room::{Room, Space};
use super::stateful::Stateful;
use super::workers::panicked;
use crate::error::Result;
use crate::state::partition_of;

/// The most rows that are moved to the disk together.
const MOVED_ROWS: usize = 8192;

/// Divides the rows that come by the input `number` of `operator` among its state partitions, to each in their
/// order. They have a share of the room for `many`.
pub(crate) async fn divide(
    (operator, number): (Arc<Stateful>, usize),
    mut rows: SendableRecordBatchStream,
    space: Space,
    many: usize,
) -> Result<DividedRows> {
    let partitions = nothing(operator.operator.state_partitions);
    let room = space.share(many);
    let mut dividing = Dividing { operator, number, space, partitions, room, bytes: 0, moved: None };
    while let Some(batch) = rows.next().await.transpose()? {
        if batch.num_rows() > 0 && !dividing.add(batch)? {
            dividing = dividing.make_room().await?;
        }
    }
    drop(rows);
    dividing.finish().await
}

/// No rows for any of `partitions`.
fn nothing(partitions: usize) -> Partitions {
    std::iter::repeat_with(Vec::new).take(partitions).collect()
}

/// What was divided so far.
struct Dividing {
    operator: Arc<Stateful>,
    /// Of its inputs, that which the rows come by.
    number: usize,
    space: Space,
    /// The newest rows.
    partitions: Partitions,
    room: Room,
    /// How many bytes all rows have.
    bytes: u64,
    /// The rows before.
    moved: Option<RowsToDisk>,
}

impl Dividing {
    /// Adds rows. Whether there was room for them.
    fn add(&mut self, rows: RecordBatch) -> DataFusionResult<bool> {
        let rows = self.operator.inputs[self.number].keyed(self.number, rows)?;
        let bytes = rows.size();
        self.bytes += bytes as u64;
        divide_batch(rows, &mut self.partitions)?;
        Ok(self.room.take(bytes))
    }

    /// Moves all rows to the disk.
    async fn make_room(mut self) -> Result<Self> {
        let moved = tokio::task::spawn_blocking(move || {
            self.move_rows()?;
            Ok(self)
        });
        moved.await.map_err(panicked)?
    }

    fn move_rows(&mut self) -> DataFusionResult<()> {
        let moved = match &mut self.moved {
            Some(moved) => moved,
            none => none.insert(RowsToDisk::create(&self.space.disk)?),
        };
        for (partition, rows) in self.partitions.iter_mut().enumerate() {
            let rows = std::mem::take(rows);
            let mut buckets: Vec<Vec<(usize, usize)>> = vec![Vec::new(); BUCKETS];
            for (batch, rows) in rows.iter().enumerate() {
                for (row, hash) in rows.hashes.iter().enumerate() {
                    buckets[bucket_of(*hash)].push((batch, row));
                }
            }
            let batches: Vec<&RecordBatch> = rows.iter().map(|rows| &rows.rows).collect();
            for (bucket, places) in buckets.iter().enumerate() {
                for places in places.chunks(MOVED_ROWS) {
                    let rows = match batches[0].num_columns() {
                        0 => without_columns(batches[0], places.len())?,
                        _ => interleave_record_batch(&batches, places)?,
                    };
                    moved.push(partition * BUCKETS + bucket, &rows)?;
                }
            }
        }
        self.room.clear();
        Ok(())
    }

    /// There are no more. If some rows were moved, all are.
    async fn finish(mut self) -> Result<DividedRows> {
        if self.moved.is_some() {
            self = self.make_room().await?;
        }
        let moved = self.moved.map(RowsToDisk::finish).transpose()?;
        Ok(DividedRows {
            input: self.number,
            partitions: self.partitions,
            moved,
            bytes: self.bytes,
            room: self.room,
        })
    }
}

/// So many rows as those of `like`, which have no columns.
fn without_columns(like: &RecordBatch, rows: usize) -> DataFusionResult<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(like.schema(), Vec::new(), &options)?)
}

fn divide_batch(rows: KeyedRows, into: &mut Partitions) -> DataFusionResult<()> {
    let count = rows.hashes.len();
    let mut places: Vec<Vec<u32>> = vec![Vec::new(); into.len()];
    for (row, hash) in (0u32..).zip(&rows.hashes) {
        places[partition_of(*hash, into.len())].push(row);
    }
    if let Some(all) = places.iter().position(|places| places.len() == count) {
        into[all].push(rows);
        return Ok(());
    }
    for (partition, places) in into.iter_mut().zip(places) {
        if !places.is_empty() {
            partition.push(rows.take(places)?);
        }
    }
    Ok(())
}
