//! Bringing rows to the state partition of their key.

use datafusion::arrow::array::UInt32Array;
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;

use super::keyed_rows::{KeyedRows, Partitions};
use super::stateful::Divided;
use crate::state::{ByteRows, RowBytes, hash_key, partition_of};

/// No rows for any of `partitions`.
pub(crate) fn nothing(partitions: usize) -> Partitions {
    std::iter::repeat_with(Vec::new).take(partitions).collect()
}

/// Divides the rows that come by the input `number` of an operator among its state partitions, to each in
/// their order.
pub(crate) async fn divide(
    number: usize,
    input: &Divided,
    partitions: usize,
    mut rows: SendableRecordBatchStream,
) -> DataFusionResult<Partitions> {
    let mut divided = nothing(partitions);
    while let Some(batch) = rows.next().await.transpose()? {
        if batch.num_rows() > 0 {
            divide_batch(number, input, batch, &mut divided)?;
        }
    }
    Ok(divided)
}

fn divide_batch(
    number: usize,
    input: &Divided,
    rows: RecordBatch,
    into: &mut Partitions,
) -> DataFusionResult<()> {
    let count = rows.num_rows();
    let columns = input
        .keys
        .iter()
        .map(|key| key.evaluate(&rows)?.into_array(count))
        .collect::<DataFusionResult<Vec<_>>>()?;
    let keys = input.codec.encode(&columns, count)?;
    let hashes: Vec<u64> = (0..count).map(|row| hash_key(keys.row(row))).collect();
    let mut indices: Vec<Vec<u32>> = vec![Vec::new(); into.len()];
    for (index, hash) in (0u32..).zip(&hashes) {
        indices[partition_of(*hash, into.len())].push(index);
    }
    if let Some(all) = indices.iter().position(|indices| indices.len() == count) {
        into[all].push(KeyedRows { input: number, rows, keys: Box::new(keys), hashes });
        return Ok(());
    }
    for (partition, indices) in into.iter_mut().zip(indices) {
        if indices.is_empty() {
            continue;
        }
        let places = || indices.iter().map(|index| *index as usize);
        let keys: ByteRows = places().map(|row| keys.row(row)).collect();
        let hashes = places().map(|row| hashes[row]).collect();
        let rows = take_record_batch(&rows, &UInt32Array::from(indices))?;
        partition.push(KeyedRows { input: number, rows, keys: Box::new(keys), hashes });
    }
    Ok(())
}
