//! From bytes to columns: each column is taken off the front of all rows.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayData, ArrayRef, BinaryViewBuilder, BooleanBuilder, FixedSizeBinaryArray, FixedSizeListArray,
    GenericByteArray, GenericListArray, MapArray, NullArray, NullBufferBuilder, OffsetSizeTrait,
    StringViewBuilder, StructArray, UnionArray, make_array,
};
use datafusion::arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    ArrowNativeType, BinaryType, ByteArrayType, DataType, Field, Fields, LargeBinaryType, LargeUtf8Type,
    UnionFields, UnionMode, Utf8Type,
};
use datafusion::arrow::error::ArrowError;
use datafusion::error::{DataFusionError, Result as DataFusionResult};

use super::Purpose;
use super::encode::{ESCAPED, NULL, VALUE, plain};
use super::native::{Native, with_native};
use crate::error::Error;

/// A null, for what is below one.
const NOTHING: &[u8] = &[NULL];

/// The elements of some lists, one after the other; how many each list has; which lists are null.
type Elements<'a> = (Vec<&'a [u8]>, Vec<usize>, Option<NullBuffer>);

fn damaged() -> DataFusionError {
    Error::damaged("state", "it holds bytes that do not stand for values of its columns").into()
}

/// The columns of `rows`, which have nothing else.
pub(super) fn columns(
    types: &[DataType],
    rows: &mut [&[u8]],
    purpose: Purpose,
) -> DataFusionResult<Vec<ArrayRef>> {
    let mut columns = Vec::with_capacity(types.len());
    for (index, data_type) in types.iter().enumerate() {
        columns.push(Decoder { purpose, is_last: index + 1 == types.len() }.column(data_type, rows)?);
    }
    match rows.iter().all(|row| row.is_empty()) {
        true => Ok(columns),
        false => Err(damaged()),
    }
}

fn take_byte(row: &mut &[u8]) -> DataFusionResult<u8> {
    let (first, rest) = row.split_first().ok_or_else(damaged)?;
    *row = rest;
    Ok(*first)
}

fn take<'a>(row: &mut &'a [u8], length: usize) -> DataFusionResult<&'a [u8]> {
    let (taken, rest) = row.split_at_checked(length).ok_or_else(damaged)?;
    *row = rest;
    Ok(taken)
}

/// Whether there is a value.
fn take_flag(row: &mut &[u8]) -> DataFusionResult<bool> {
    match take_byte(row)? {
        NULL => Ok(false),
        VALUE => Ok(true),
        _ => Err(damaged()),
    }
}

fn take_count(row: &mut &[u8]) -> DataFusionResult<usize> {
    let (mut count, mut shift) = (0u64, 0);
    loop {
        let byte = take_byte(row)?;
        if shift > 56 {
            return Err(damaged());
        }
        count |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return usize::try_from(count).map_err(|_| damaged());
        }
    }
}

fn flags(rows: &mut [&[u8]]) -> DataFusionResult<Option<NullBuffer>> {
    let mut nulls = NullBufferBuilder::new(rows.len());
    for row in rows {
        nulls.append(take_flag(row)?);
    }
    Ok(nulls.finish())
}

fn is_valid(nulls: &Option<NullBuffer>, row: usize) -> bool {
    nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row))
}

#[derive(Clone, Copy)]
struct Decoder {
    purpose: Purpose,
    /// Whether nothing comes behind the column.
    is_last: bool,
}

impl Decoder {
    fn column(self, data_type: &DataType, rows: &mut [&[u8]]) -> DataFusionResult<ArrayRef> {
        let plain = plain(data_type);
        let column = self.plain(&plain, rows)?;
        if plain == *data_type { Ok(column) } else { Ok(cast(&column, data_type)?) }
    }

    fn plain(self, data_type: &DataType, rows: &mut [&[u8]]) -> DataFusionResult<ArrayRef> {
        let inner = Self { is_last: false, ..self };
        let column: ArrayRef = match data_type {
            DataType::Null => {
                for row in rows.iter_mut() {
                    if take_flag(row)? {
                        return Err(damaged());
                    }
                }
                Arc::new(NullArray::new(rows.len()))
            }
            DataType::Boolean => booleans(rows)?,
            DataType::Utf8 => self.bytes::<Utf8Type>(rows)?,
            DataType::LargeUtf8 => self.bytes::<LargeUtf8Type>(rows)?,
            DataType::Binary => self.bytes::<BinaryType>(rows)?,
            DataType::LargeBinary => self.bytes::<LargeBinaryType>(rows)?,
            DataType::Utf8View => self.text_views(rows)?,
            DataType::BinaryView => self.binary_views(rows)?,
            DataType::FixedSizeBinary(size) => fixed_bytes(*size, rows)?,
            DataType::Struct(fields) => inner.structs(fields, rows)?,
            DataType::List(field) => Arc::new(inner.lists::<i32>(field, rows)?),
            DataType::LargeList(field) => Arc::new(inner.lists::<i64>(field, rows)?),
            DataType::Map(field, is_sorted) => inner.maps(field, *is_sorted, rows)?,
            DataType::FixedSizeList(field, size) => inner.fixed_lists(field, *size, rows)?,
            DataType::Union(fields, mode) => inner.unions(fields, *mode, rows)?,
            fixed => with_native!(fixed, N => natives::<N>(fixed, rows)?, _ => return Err(damaged())),
        };
        Ok(column)
    }

    /// Calls `each` with the bytes of every row, or `None`.
    fn each_bytes(
        self,
        rows: &mut [&[u8]],
        mut each: impl FnMut(Option<&[u8]>) -> DataFusionResult<()>,
    ) -> DataFusionResult<()> {
        let mut scratch = Vec::new();
        for row in rows {
            let bytes = match take_flag(row)? {
                true => Some(self.take_bytes(row, &mut scratch)?),
                false => None,
            };
            each(bytes)?;
        }
        Ok(())
    }

    fn take_bytes<'s, 'a: 's>(
        self,
        row: &mut &'a [u8],
        scratch: &'s mut Vec<u8>,
    ) -> DataFusionResult<&'s [u8]> {
        if self.is_last {
            return take(row, row.len());
        }
        if self.purpose == Purpose::Values {
            let count = take_count(row)?;
            return take(row, count);
        }
        scratch.clear();
        loop {
            let end = memchr::memchr(0, row).ok_or_else(damaged)?;
            let part = take(row, end)?;
            take_byte(row)?;
            let goes_on = row.first() == Some(&ESCAPED);
            if !goes_on && scratch.is_empty() {
                return Ok(part);
            }
            scratch.extend_from_slice(part);
            if !goes_on {
                return Ok(scratch);
            }
            take_byte(row)?;
            scratch.push(0);
        }
    }

    fn bytes<T: ByteArrayType>(self, rows: &mut [&[u8]]) -> DataFusionResult<ArrayRef> {
        let mut offsets = Vec::with_capacity(rows.len() + 1);
        let mut values = Vec::new();
        let mut nulls = NullBufferBuilder::new(rows.len());
        offsets.push(T::Offset::default());
        self.each_bytes(rows, |bytes| {
            values.extend_from_slice(bytes.unwrap_or_default());
            nulls.append(bytes.is_some());
            let end = T::Offset::from_usize(values.len());
            offsets.push(end.ok_or(ArrowError::OffsetOverflowError(values.len()))?);
            Ok(())
        })?;
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        let array = GenericByteArray::<T>::try_new(offsets, Buffer::from_vec(values), nulls.finish());
        Ok(Arc::new(array.map_err(|_| damaged())?))
    }

    fn text_views(self, rows: &mut [&[u8]]) -> DataFusionResult<ArrayRef> {
        let mut views = StringViewBuilder::with_capacity(rows.len());
        self.each_bytes(rows, |bytes| {
            let text = bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| damaged())).transpose()?;
            views.append_option(text);
            Ok(())
        })?;
        Ok(Arc::new(views.finish()))
    }

    fn binary_views(self, rows: &mut [&[u8]]) -> DataFusionResult<ArrayRef> {
        let mut views = BinaryViewBuilder::with_capacity(rows.len());
        self.each_bytes(rows, |bytes| {
            views.append_option(bytes);
            Ok(())
        })?;
        Ok(Arc::new(views.finish()))
    }

    fn structs(self, fields: &Fields, rows: &mut [&[u8]]) -> DataFusionResult<ArrayRef> {
        let nulls = flags(rows)?;
        let mut parts = rows.to_vec();
        let mut children = Vec::with_capacity(fields.len());
        for field in fields {
            // Below a null there is nothing.
            let below_null = parts.iter_mut().enumerate().filter(|(row, _)| !is_valid(&nulls, *row));
            below_null.for_each(|(_, part)| *part = NOTHING);
            children.push(self.column(field.data_type(), &mut parts)?);
        }
        for (row, (rest, part)) in rows.iter_mut().zip(parts).enumerate() {
            if is_valid(&nulls, row) {
                *rest = part;
            }
        }
        let array = StructArray::try_new_with_length(fields.clone(), children, nulls, rows.len());
        Ok(Arc::new(array.map_err(|_| damaged())?))
    }

    /// The elements of every list, taken apart: how many each has, and which lists are null.
    fn elements<'a>(self, field: &Field, rows: &mut [&'a [u8]]) -> DataFusionResult<Elements<'a>> {
        let nulls = flags(rows)?;
        let (mut elements, mut lengths) = (Vec::new(), Vec::with_capacity(rows.len()));
        for (index, row) in rows.iter_mut().enumerate() {
            let before = elements.len();
            if is_valid(&nulls, index) {
                while take_flag(row)? {
                    elements.push(self.take_value(field.data_type(), row)?);
                }
            }
            lengths.push(elements.len() - before);
        }
        Ok((elements, lengths, nulls))
    }

    fn lists<O: OffsetSizeTrait>(
        self,
        field: &Arc<Field>,
        rows: &mut [&[u8]],
    ) -> DataFusionResult<GenericListArray<O>> {
        let (mut elements, lengths, nulls) = self.elements(field, rows)?;
        let values = self.column(field.data_type(), &mut elements)?;
        if O::from_usize(values.len()).is_none() {
            return Err(ArrowError::OffsetOverflowError(values.len()).into());
        }
        let offsets = OffsetBuffer::from_lengths(lengths);
        GenericListArray::try_new(Arc::clone(field), offsets, values, nulls).map_err(|_| damaged())
    }

    fn maps(self, field: &Arc<Field>, is_sorted: bool, rows: &mut [&[u8]]) -> DataFusionResult<ArrayRef> {
        let lists = self.lists::<i32>(field, rows)?;
        let (_, offsets, entries, nulls) = lists.into_parts();
        let entries = StructArray::from(entries.to_data());
        let map = MapArray::try_new(Arc::clone(field), offsets, entries, nulls, is_sorted);
        Ok(Arc::new(map.map_err(|_| damaged())?))
    }

    fn fixed_lists(self, field: &Arc<Field>, size: i32, rows: &mut [&[u8]]) -> DataFusionResult<ArrayRef> {
        let nulls = flags(rows)?;
        let per_row = usize::try_from(size).unwrap_or(0);
        let mut elements = Vec::with_capacity(rows.len() * per_row);
        for (index, row) in rows.iter_mut().enumerate() {
            for _ in 0..per_row {
                elements.push(match is_valid(&nulls, index) {
                    true => self.take_value(field.data_type(), row)?,
                    false => NOTHING,
                });
            }
        }
        let values = self.column(field.data_type(), &mut elements)?;
        let array =
            FixedSizeListArray::try_new_with_length(Arc::clone(field), size, values, nulls, rows.len());
        Ok(Arc::new(array.map_err(|_| damaged())?))
    }

    fn unions(self, fields: &UnionFields, mode: UnionMode, rows: &mut [&[u8]]) -> DataFusionResult<ArrayRef> {
        let Some((first, _)) = fields.iter().next() else { return Err(damaged()) };
        let nulls = flags(rows)?;
        let mut ids = Vec::with_capacity(rows.len());
        let mut values = Vec::with_capacity(rows.len());
        for (index, row) in rows.iter_mut().enumerate() {
            // Below a null there is nothing.
            if !is_valid(&nulls, index) {
                ids.push(first);
                values.push(NOTHING);
                continue;
            }
            let id = i8::decode([take_byte(row)?]);
            let field = fields.iter().find(|(known, _)| *known == id).map(|(_, field)| field);
            ids.push(id);
            values.push(self.take_value(field.ok_or_else(damaged)?.data_type(), row)?);
        }
        let mut children = Vec::with_capacity(fields.len());
        let mut offsets = vec![0i32; rows.len()];
        for (id, field) in fields.iter() {
            let mut own: Vec<&[u8]> = Vec::new();
            for (row, value) in values.iter().enumerate() {
                match (mode, ids[row] == id) {
                    (UnionMode::Dense, true) => {
                        offsets[row] = i32::try_from(own.len()).map_err(|_| damaged())?;
                        own.push(value);
                    }
                    (UnionMode::Dense, false) => {}
                    (UnionMode::Sparse, is_own) => own.push(if is_own { value } else { NOTHING }),
                }
            }
            children.push(self.column(field.data_type(), &mut own)?);
        }
        let offsets = (mode == UnionMode::Dense).then(|| ScalarBuffer::from(offsets));
        let array = UnionArray::try_new(fields.clone(), ScalarBuffer::from(ids), offsets, children);
        Ok(Arc::new(array.map_err(|_| damaged())?))
    }

    /// The bytes of one value, with the byte before it.
    fn take_value<'a>(self, data_type: &DataType, row: &mut &'a [u8]) -> DataFusionResult<&'a [u8]> {
        let whole = *row;
        self.skip(data_type, row)?;
        take(&mut { whole }, whole.len() - row.len())
    }

    fn skip(self, data_type: &DataType, row: &mut &[u8]) -> DataFusionResult<()> {
        let data_type = plain(data_type);
        if data_type == DataType::Boolean {
            return take_byte(row).map(|_| ());
        }
        if !take_flag(row)? {
            return Ok(());
        }
        match data_type {
            DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView => self.take_bytes(row, &mut Vec::new()).map(|_| ()),
            DataType::FixedSizeBinary(size) => take(row, usize::try_from(size).unwrap_or(0)).map(|_| ()),
            DataType::Struct(fields) => fields.iter().try_for_each(|field| self.skip(field.data_type(), row)),
            DataType::List(field) | DataType::LargeList(field) | DataType::Map(field, _) => {
                while take_flag(row)? {
                    self.skip(field.data_type(), row)?;
                }
                Ok(())
            }
            DataType::FixedSizeList(field, size) => {
                (0..size).try_for_each(|_| self.skip(field.data_type(), row))
            }
            DataType::Union(fields, _) => {
                let id = i8::decode([take_byte(row)?]);
                let field = fields.iter().find(|(known, _)| *known == id).map(|(_, field)| field);
                self.skip(field.ok_or_else(damaged)?.data_type(), row)
            }
            fixed => with_native!(fixed, N => take(row, N::WIDTH).map(|_| ()), _ => Err(damaged())),
        }
    }
}

fn natives<N: Native>(data_type: &DataType, rows: &mut [&[u8]]) -> DataFusionResult<ArrayRef> {
    let mut values: Vec<N> = Vec::with_capacity(rows.len());
    let mut nulls = NullBufferBuilder::new(rows.len());
    for row in rows.iter_mut() {
        let is_value = take_flag(row)?;
        nulls.append(is_value);
        values.push(match is_value {
            true => N::decode(N::Bytes::try_from(take(row, N::WIDTH)?).map_err(|_| damaged())?),
            false => N::default(),
        });
    }
    let data = ArrayData::builder(data_type.clone())
        .len(rows.len())
        .add_buffer(Buffer::from_vec(values))
        .nulls(nulls.finish())
        .build()
        .map_err(|_| damaged())?;
    Ok(make_array(data))
}

fn booleans(rows: &mut [&[u8]]) -> DataFusionResult<ArrayRef> {
    let mut values = BooleanBuilder::with_capacity(rows.len());
    for row in rows {
        values.append_option(match take_byte(row)? {
            0 => None,
            1 => Some(false),
            2 => Some(true),
            _ => return Err(damaged()),
        });
    }
    Ok(Arc::new(values.finish()))
}

fn fixed_bytes(size: i32, rows: &mut [&[u8]]) -> DataFusionResult<ArrayRef> {
    let width = usize::try_from(size).unwrap_or(0);
    let mut values = Vec::with_capacity(rows.len() * width);
    let mut nulls = NullBufferBuilder::new(rows.len());
    for row in rows.iter_mut() {
        let is_value = take_flag(row)?;
        nulls.append(is_value);
        match is_value {
            true => values.extend_from_slice(take(row, width)?),
            false => values.resize(values.len() + width, 0),
        }
    }
    let (values, nulls) = (Buffer::from_vec(values), nulls.finish());
    let array = FixedSizeBinaryArray::try_new_with_len(size, values, nulls, rows.len());
    Ok(Arc::new(array.map_err(|_| damaged())?))
}
