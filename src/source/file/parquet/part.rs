//! The rows of a part of a file.
//!
//! Readers of a part read the groups of rows that begin in it. A file of one group, as most tools write them, would be
//! read by one of them alone. So a part is as many of the file's rows as it has of its bytes, and a group may be cut:
//! pages of rows that nobody asks for are passed over.

use std::ops::Range;

use datafusion::parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use datafusion::parquet::file::metadata::ParquetMetaData;

/// The rows of `bytes` of a file of `size` bytes; `None` if its groups should stay whole. Parts that follow one
/// another have rows that do, and together all.
pub(super) fn rows_of(metadata: &ParquetMetaData, bytes: Range<u64>, size: u64) -> Option<RowSelection> {
    // Where values may be lists, rows can be passed over only by reading them.
    let columns = metadata.file_metadata().schema_descr().columns();
    if columns.iter().any(|column| column.max_rep_level() > 0) {
        return None;
    }
    let groups = metadata.row_groups().iter().map(|group| u64::try_from(group.num_rows()).ok());
    let groups: Vec<u64> = groups.collect::<Option<_>>()?;
    let rows: u64 = groups.iter().sum();
    let (start, end) = (row_at(&groups, rows, bytes.start, size), row_at(&groups, rows, bytes.end, size));
    let selectors = [
        RowSelector::skip(usize::try_from(start).ok()?),
        RowSelector::select(usize::try_from(end.saturating_sub(start)).ok()?),
        RowSelector::skip(usize::try_from(rows - end.max(start)).ok()?),
    ];
    Some(selectors.into_iter().filter(|selector| selector.row_count > 0).collect::<Vec<_>>().into())
}

/// The row at which the part that ends at the byte `at` ends, and the next begins. What is near the beginning or the
/// end of a group is there: then less is read twice.
fn row_at(groups: &[u64], rows: u64, at: u64, size: u64) -> u64 {
    const NEAR: u64 = 8;
    let row = (u128::from(rows) * u128::from(at.min(size)) / u128::from(size.max(1))) as u64;
    let mut start = 0;
    for group in groups {
        let end = start + group;
        if row < end {
            return match () {
                () if (row - start) * NEAR <= *group => start,
                () if (end - row) * NEAR <= *group => end,
                () => row,
            };
        }
        start = end;
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_all_rows_once_and_about_as_many_as_bytes() {
        for groups in [&[1_000_u64][..], &[100, 900], &[10, 20, 30, 40, 0, 50], &[], &[1], &[0, 0]] {
            let rows: u64 = groups.iter().sum();
            for size in [1_u64, 7, 1000, u64::MAX] {
                for parts in [1, 2, 3, 16] {
                    let cuts: Vec<u64> = (0..=parts).map(|part| (size / parts) * part).collect();
                    let mut ends: Vec<u64> = cuts.iter().map(|at| row_at(groups, rows, *at, size)).collect();
                    ends.push(row_at(groups, rows, size, size));
                    assert!(ends.is_sorted() && ends[0] == 0, "{ends:?}");
                    assert_eq!(ends.last(), Some(&rows));
                }
            }
        }
        assert_eq!(row_at(&[1000], 1000, 50, 100), 500);
        assert_eq!(row_at(&[500, 500], 1000, 52, 100), 500, "a group is not cut near its beginning");
        assert_eq!(row_at(&[500, 500], 1000, 48, 100), 500, "nor near its end");
    }
}
