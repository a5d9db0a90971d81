//! What a file says of the floats in it, without what is not so.
//!
//! The least and the largest value of a column are those of its numbers: values that are no number are left out (the
//! format asks for that). For us these are larger than all numbers, as in Spark, so that no file says how large the
//! largest float in it is. Who believes it takes 1.5 and NaN for two times 1.5, and passes over NaN where larger
//! values are asked for. And filters of hashes are of bits, where 0.0 and -0.0 differ, which are one value.
//!
//! Nor is believed what it says of decimals that have more digits than they can.

use datafusion::parquet::basic::{LogicalType, Type};
use datafusion::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use datafusion::parquet::file::statistics::{Statistics, ValueStatistics};
use half::f16;

use super::Result;
use super::decimals::have_too_many_digits;

/// Whether `metadata` says how large the largest floats are, or which there are; or of decimals what cannot be.
pub(super) fn are_told(metadata: &ParquetMetaData) -> bool {
    let mut columns = metadata.row_groups().iter().flat_map(RowGroupMetaData::columns);
    columns.any(|column| (is_float(column) && is_told(column)) || have_too_many_digits(column))
}

/// `metadata` that says neither how large the largest floats are, nor which there are.
pub(super) fn untold(metadata: ParquetMetaData) -> Result<ParquetMetaData> {
    if !are_told(&metadata) {
        return Ok(metadata);
    }
    let mut metadata = metadata.into_builder();
    let mut groups = metadata.take_row_groups();
    let columns = groups.first().map_or(0, RowGroupMetaData::num_columns);
    let is_doubted = |column: &ColumnChunkMetaData| is_float(column) || have_too_many_digits(column);
    // Of all groups, or the largest value of some would be taken for that of the file.
    let doubted: Vec<bool> = (0..columns)
        .map(|at| groups.iter().any(|group| group.columns().get(at).is_some_and(is_doubted)))
        .collect();
    let all = groups.iter_mut().flat_map(|group| group.columns_mut().iter_mut().zip(&doubted));
    for column in all.filter_map(|(column, is_doubted)| is_doubted.then_some(column)) {
        let known = column.statistics().filter(|_| is_float(column)).map(of_smallest);
        let untold = column.clone().into_builder().clear_statistics();
        let untold = untold.set_bloom_filter_offset(None).set_bloom_filter_length(None);
        // Where the index of the pages is: who does not find it does not read it.
        let untold = untold.set_column_index_offset(None).set_column_index_length(None);
        *column = match known {
            Some(known) => untold.set_statistics(known).build()?,
            None => untold.build()?,
        };
    }
    Ok(metadata.set_row_groups(groups).build())
}

fn is_told(column: &ColumnChunkMetaData) -> bool {
    column.statistics().and_then(Statistics::max_bytes_opt).is_some()
        || column.bloom_filter_offset().is_some()
        || column.column_index_offset().is_some()
}

fn is_float(column: &ColumnChunkMetaData) -> bool {
    let column = column.column_descr();
    matches!(column.physical_type(), Type::FLOAT | Type::DOUBLE)
        || column.logical_type_ref() == Some(&LogicalType::Float16)
}

/// The same without the largest value, and without the smallest if that is no number, as some have written it.
fn of_smallest(known: &Statistics) -> Statistics {
    let (distinct, nulls) = (known.distinct_count_opt(), known.null_count_opt());
    let deprecated = known.is_min_max_deprecated();
    match known {
        Statistics::Float(known) => {
            let min = known.min_opt().copied().filter(|min| !min.is_nan());
            ValueStatistics::new(min, None, distinct, nulls, deprecated).into()
        }
        Statistics::Double(known) => {
            let min = known.min_opt().copied().filter(|min| !min.is_nan());
            ValueStatistics::new(min, None, distinct, nulls, deprecated).into()
        }
        Statistics::FixedLenByteArray(known) => {
            let is_number = |bytes: &[u8]| {
                bytes.try_into().is_ok_and(|bytes: [u8; 2]| !f16::from_le_bytes(bytes).is_nan())
            };
            let min = known.min_opt().filter(|min| is_number(min.data())).cloned();
            ValueStatistics::new(min, None, distinct, nulls, deprecated).into()
        }
        // No floats are written so.
        other => other.clone(),
    }
}
