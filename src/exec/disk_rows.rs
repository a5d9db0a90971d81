//! Rows of a batch that wait on the local disk, since they do not fit into memory.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, make_array};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::DiskManager;

use crate::error::Result;
use crate::memory::local_disk::{Moved, NewFile, SpilledFile, read_at};

/// Rows that are being moved. They have numbered slots, each of which can be read by itself.
#[derive(Debug)]
pub(crate) struct RowsToDisk {
    file: NewFile,
    /// How much is written.
    at: u64,
    extents: Vec<Extent>,
}

/// Rows of a slot that were written together.
#[derive(Debug, Clone, Copy)]
struct Extent {
    slot: usize,
    offset: u64,
    length: usize,
}

impl RowsToDisk {
    pub(crate) fn create(disk: &Arc<DiskManager>) -> Result<Self> {
        Ok(Self { file: NewFile::create(disk, Moved::Rows)?, at: 0, extents: Vec::new() })
    }

    /// Adds rows to a slot.
    pub(crate) fn push(&mut self, slot: usize, rows: &RecordBatch) -> DataFusionResult<()> {
        let rows = compact(rows)?;
        let mut writer =
            StreamWriter::try_new(Vec::with_capacity(rows.get_array_memory_size()), rows.schema_ref())?;
        writer.write(&rows)?;
        let bytes = writer.into_inner()?;
        self.file.write(&bytes)?;
        self.extents.push(Extent { slot, offset: self.at, length: bytes.len() });
        self.at += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<DiskRows> {
        // Stable: what was pushed first comes first.
        self.extents.sort_by_key(|extent| extent.slot);
        Ok(DiskRows { file: self.file.finish()?, extents: self.extents })
    }
}

/// Rows that were moved.
#[derive(Debug)]
pub(crate) struct DiskRows {
    file: SpilledFile,
    /// By slot.
    extents: Vec<Extent>,
}

impl DiskRows {
    /// Which pieces the rows of a slot are, in the order in which they were pushed.
    pub(crate) fn slot(&self, slot: usize) -> Range<usize> {
        let first = self.extents.partition_point(|extent| extent.slot < slot);
        first..self.extents.partition_point(|extent| extent.slot <= slot)
    }

    /// How many bytes the rows of a slot have.
    pub(crate) fn bytes(&self, slot: usize) -> usize {
        self.extents[self.slot(slot)].iter().map(|extent| extent.length).sum()
    }

    /// How many pieces all rows are in.
    pub(crate) fn pieces(&self) -> usize {
        self.extents.len()
    }

    /// The rows of a piece. Reads from the disk.
    pub(crate) fn piece(&self, piece: usize) -> DataFusionResult<RecordBatch> {
        let Extent { offset, length, .. } = self.extents[piece];
        let mut bytes = vec![0; length];
        read_at(&self.file.file, offset, &mut bytes).map_err(|error| Moved::Rows.failed("read", error))?;
        let mut reader = StreamReader::try_new(bytes.as_slice(), None)?;
        match reader.next() {
            Some(rows) => Ok(rows?),
            None => Ok(RecordBatch::new_empty(reader.schema())),
        }
    }
}

/// How many bytes rows have: of arrays that share memory with others, what is theirs.
pub(crate) fn size_of_rows(rows: &RecordBatch) -> usize {
    rows.columns().iter().map(size_of_array).sum()
}

fn size_of_array(array: &ArrayRef) -> usize {
    let part = |values: &ArrayRef, from: usize, to: usize| size_of_array(&values.slice(from, to - from));
    let values = match array.data_type() {
        DataType::Utf8View => array.len() * 16 + array.as_string_view().total_buffer_bytes_used(),
        DataType::BinaryView => array.len() * 16 + array.as_binary_view().total_buffer_bytes_used(),
        DataType::Struct(_) => array.as_struct().columns().iter().map(size_of_array).sum(),
        DataType::FixedSizeList(..) => size_of_array(array.as_fixed_size_list().values()),
        DataType::List(_) => {
            let (values, ends) = (array.as_list::<i32>().values(), array.as_list::<i32>().value_offsets());
            size_of_val(ends) + part(values, ends[0] as usize, ends[array.len()] as usize)
        }
        DataType::LargeList(_) => {
            let (values, ends) = (array.as_list::<i64>().values(), array.as_list::<i64>().value_offsets());
            size_of_val(ends) + part(values, ends[0] as usize, ends[array.len()] as usize)
        }
        DataType::Map(..) => {
            let ends = array.as_map().value_offsets();
            let entries: ArrayRef = Arc::new(array.as_map().entries().clone());
            size_of_val(ends) + part(&entries, ends[0] as usize, ends[array.len()] as usize)
        }
        _ => {
            return array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size());
        }
    };
    values + array.nulls().map_or(0, |_| array.len().div_ceil(8))
}

/// The same rows without what others need of the memory that they share with these.
fn compact(rows: &RecordBatch) -> DataFusionResult<RecordBatch> {
    let columns = rows.columns().iter().map(compact_array).collect::<DataFusionResult<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(rows.schema(), columns, &options)?)
}

fn compact_array(array: &ArrayRef) -> DataFusionResult<ArrayRef> {
    match array.data_type() {
        DataType::Utf8View => return Ok(Arc::new(array.as_string_view().gc())),
        DataType::BinaryView => return Ok(Arc::new(array.as_binary_view().gc())),
        other if !has_views(other) => return Ok(Arc::clone(array)),
        _ => {}
    }
    let data = array.to_data();
    let children =
        data.child_data().iter().map(|child| Ok(compact_array(&make_array(child.clone()))?.to_data()));
    let children = children.collect::<DataFusionResult<Vec<_>>>()?;
    Ok(make_array(data.into_builder().child_data(children).build()?))
}

/// Whether there are views below the type itself.
fn has_views(kind: &DataType) -> bool {
    let is_or_has =
        |kind: &DataType| matches!(kind, DataType::Utf8View | DataType::BinaryView) || has_views(kind);
    match kind {
        DataType::Struct(fields) => fields.iter().any(|field| is_or_has(field.data_type())),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => is_or_has(field.data_type()),
        DataType::Dictionary(_, values) => is_or_has(values),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, ListArray, StringArray, StringViewArray, StructArray};
    use datafusion::arrow::compute::take_record_batch;
    use datafusion::arrow::datatypes::{Field, Int32Type};
    use datafusion::execution::runtime_env::RuntimeEnv;

    use super::*;

    fn rows() -> RecordBatch {
        let texts =
            StringViewArray::from_iter_values((0..1000).map(|row| format!("a text of some length {row}")));
        let inner: ArrayRef = Arc::new(texts.clone());
        let field = Arc::new(Field::new("text", DataType::Utf8View, false));
        let columns: [(&str, ArrayRef); 5] = [
            ("number", Arc::new(Int64Array::from_iter((0..1000).map(|row| (row % 3 > 0).then_some(row))))),
            ("text", Arc::new(texts)),
            ("plain", Arc::new(StringArray::from_iter_values((0..1000).map(|row| format!("{row}"))))),
            ("inside", Arc::new(StructArray::from(vec![(field, inner)]))),
            (
                "list",
                Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(
                    (0..1000).map(|row| Some((0..row % 4).map(Some).collect::<Vec<_>>())),
                )),
            ),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn rows_come_back_by_slot_and_in_their_order_and_take_no_more_than_they_need() {
        let all = rows();
        let part = |from: i64, step: i64| {
            let places = Int64Array::from_iter_values((from..1000).step_by(step as usize));
            take_record_batch(&all, &places).unwrap()
        };
        let mut to_disk = RowsToDisk::create(&RuntimeEnv::default().disk_manager).unwrap();
        for (slot, from) in [(3, 0), (0, 1), (3, 2)] {
            to_disk.push(slot, &part(from, 100)).unwrap();
        }
        to_disk.push(7, &all.slice(500, 1)).unwrap();
        let disk = to_disk.finish().unwrap();
        let read = |slot| disk.slot(slot).map(|piece| disk.piece(piece).unwrap()).collect::<Vec<_>>();
        assert_eq!(read(3), [part(0, 100), part(2, 100)]);
        assert_eq!(read(0), [part(1, 100)]);
        assert_eq!(read(7), [all.slice(500, 1)]);
        assert!(read(1).is_empty());
        assert!(disk.bytes(7) < 4000, "{}", disk.bytes(7));
        assert_eq!(disk.pieces(), 4);
    }

    #[test]
    fn memory_that_is_shared_is_counted_once() {
        let all = rows();
        let size = size_of_rows(&all);
        let parts: usize = (0..10).map(|part| size_of_rows(&all.slice(part * 100, 100))).sum();
        // Offsets have one more value than there are rows.
        assert!(parts.abs_diff(size) < size / 5, "{parts} and {size}");
    }
}
