//! What the footer says of the file.

use std::ops::Range;

use datafusion::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

use super::thrift::{Kind, Reader};
use super::{Result, damaged};

/// Fails if the description of a file of `size` bytes speaks of more than there can be.
pub(super) fn check_bytes(bytes: &[u8], size: u64) -> Result<()> {
    const SCHEMA: i64 = 2;
    Reader::new(bytes).structure(|number, kind, reader| {
        if (number, kind) != (SCHEMA, Kind::LIST) {
            return Ok(false);
        }
        let (kind, count) = reader.list()?;
        if kind != Kind::STRUCT {
            return Err(damaged("its columns are no columns"));
        }
        for _ in 0..count {
            check_element(reader, count, size)?;
        }
        Ok(true)
    })
}

/// Fails if an element of a schema of `count` elements has more children than that, or values longer than the file.
fn check_element(reader: &mut Reader<'_>, count: u64, size: u64) -> Result<()> {
    const TYPE_LENGTH: i64 = 2;
    const NUM_CHILDREN: i64 = 5;
    reader.structure(|number, kind, reader| {
        let most = match number {
            TYPE_LENGTH => size,
            NUM_CHILDREN => count,
            _ => return Ok(false),
        };
        let value = reader.integer_of(kind)?;
        match u64::try_from(value) {
            Ok(value) if value <= most => Ok(true),
            _ => Err(damaged(format!("its schema speaks of {value} where there can be {most} at most"))),
        }
    })
}

/// Fails if numbers of rows contradict one another, or chunks lie outside of the file.
pub(super) fn check_groups(metadata: &ParquetMetaData, size: u64) -> Result<()> {
    let mut rows = 0_i64;
    for group in metadata.row_groups() {
        rows = rows.saturating_add(group.num_rows());
        for column in group.columns() {
            let chunk = chunk_range(column).filter(|range| range.end <= size).ok_or_else(|| {
                damaged(format!("column '{}' lies outside of it", column.column_path().string()))
            })?;
            // Where there is a dictionary the place is not used. Writers of groups without rows give none.
            let values_at = u64::try_from(column.data_page_offset()).ok();
            let is_empty = column.num_values() == 0 && group.num_rows() == 0;
            if !is_empty && values_at.is_none_or(|at| !(chunk.start..=chunk.end).contains(&at)) {
                return Err(damaged(format!(
                    "the values of column '{}' are not where the column is",
                    column.column_path().string()
                )));
            }
            let (values, group_rows) = (column.num_values(), group.num_rows());
            let is_flat = column.column_descr().max_rep_level() == 0;
            if group_rows < 0 || values < group_rows || (is_flat && values != group_rows) {
                return Err(damaged(format!(
                    "column '{}' has {values} values for {group_rows} rows",
                    column.column_path().string()
                )));
            }
        }
    }
    let said = metadata.file_metadata().num_rows();
    if rows != said {
        return Err(damaged(format!("its groups have {rows} rows, and it says that there are {said}")));
    }
    Ok(())
}

/// Where the pages of a column are.
pub(super) fn chunk_range(column: &ColumnChunkMetaData) -> Option<Range<u64>> {
    let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
    let start = u64::try_from(start).ok()?;
    Some(start..start.checked_add(u64::try_from(column.compressed_size()).ok()?)?)
}

/// Fails if the indexes among `bytes`, which are those of the file from `start` on, speak of more pages than there
/// can be.
pub(super) fn check_indexes(metadata: &ParquetMetaData, start: u64, bytes: &[u8]) -> Result<()> {
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let offset_index = column.offset_index_offset().zip(column.offset_index_length());
        let column_index = column.column_index_offset().zip(column.column_index_length());
        for (offset, length) in offset_index.into_iter().chain(column_index) {
            let outside = || damaged("a page index lies outside of it");
            let offset = u64::try_from(offset).map_err(|_| outside())?;
            let end = u64::try_from(length).ok().and_then(|length| offset.checked_add(length));
            let end = end.ok_or_else(outside)?;
            if offset < start || end > start + bytes.len() as u64 {
                // It is not among those that were asked for.
                continue;
            }
            let index = &bytes[(offset - start) as usize..(end - start) as usize];
            Reader::new(index).structure(|_, _, _| Ok(false))?;
        }
    }
    Ok(())
}
