//! From columns to bytes: first how long every row is, then each column into all rows.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, GenericByteArray, GenericByteViewArray,
    GenericListArray, OffsetSizeTrait, StructArray, UnionArray,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{ByteArrayType, ByteViewType, DataType};
use datafusion::common::internal_err;
use datafusion::error::Result as DataFusionResult;

use super::Purpose;
use super::native::{Native, with_native};
use crate::state::{ByteRows, RowBytes};

/// What a column that is null begins with, and the end of a list.
pub(super) const NULL: u8 = 0;
/// What a column that has a value begins with, and an element of a list.
pub(super) const VALUE: u8 = 1;
/// What `0` in text that has an end becomes, after the `0`.
pub(super) const ESCAPED: u8 = 255;

pub(super) fn supports(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => supports(field.data_type()),
        DataType::Dictionary(_, values) => supports(values),
        DataType::Struct(fields) => fields.iter().all(|field| supports(field.data_type())),
        DataType::Union(fields, _) => fields.iter().all(|(_, field)| supports(field.data_type())),
        _ => true,
    }
}

/// The type whose bytes those of `data_type` are, if it only stores the same values otherwise.
pub(super) fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => plain(values),
        DataType::RunEndEncoded(_, values) => plain(values.data_type()),
        DataType::ListView(field) => DataType::List(field.clone()),
        DataType::LargeListView(field) => DataType::LargeList(field.clone()),
        other => other.clone(),
    }
}

/// The rows of `columns`.
pub(super) fn rows(columns: &[ArrayRef], rows: usize, purpose: Purpose) -> DataFusionResult<ByteRows> {
    let last = columns.len().wrapping_sub(1);
    let columns = columns.iter().enumerate().map(|(index, array)| column(array, purpose, index == last));
    join(&columns.collect::<DataFusionResult<Vec<_>>>()?, rows)
}

/// The rows of `columns` as parts of other rows.
fn inner_rows(columns: &[ArrayRef], rows: usize, purpose: Purpose) -> DataFusionResult<ByteRows> {
    let columns = columns.iter().map(|array| column(array, purpose, false));
    join(&columns.collect::<DataFusionResult<Vec<_>>>()?, rows)
}

fn join(columns: &[Box<dyn Column>], rows: usize) -> DataFusionResult<ByteRows> {
    let widths: Option<Vec<usize>> = columns.iter().map(|column| column.width()).collect();
    if let Some(widths) = widths {
        let width: usize = widths.iter().sum();
        let mut data = vec![0; width * rows];
        let mut from = 0;
        for (column, own) in columns.iter().zip(widths) {
            column.write_every(&mut data, width, from);
            from += own;
        }
        return Ok(ByteRows::of_width(data, width, rows));
    }
    let mut ends = vec![0; rows];
    columns.iter().for_each(|column| column.add_lengths(&mut ends));
    let mut at = Vec::with_capacity(rows);
    let mut total = 0;
    for end in &mut ends {
        at.push(total);
        total += *end;
        *end = total;
    }
    let mut data = vec![0; total];
    columns.iter().for_each(|column| column.write(&mut data, &mut at));
    if at != ends {
        return internal_err!("a row of state was written with another length than was computed");
    }
    Ok(ByteRows::of_parts(data, ends))
}

/// A column that is to be written.
trait Column {
    /// How long the bytes of every row are, if that is the same.
    fn width(&self) -> Option<usize> {
        None
    }

    /// Adds to the length of each row.
    fn add_lengths(&self, lengths: &mut [usize]);

    /// Writes the bytes of each row where `at` says, and moves that behind them.
    fn write(&self, data: &mut [u8], at: &mut [usize]);

    /// Writes the bytes of each row `from` bytes behind its start; all have `width` bytes.
    fn write_every(&self, data: &mut [u8], width: usize, from: usize) {
        let mut at: Vec<usize> = (0..data.len() / width.max(1)).map(|row| row * width + from).collect();
        self.write(data, &mut at);
    }
}

fn column(array: &ArrayRef, purpose: Purpose, is_last: bool) -> DataFusionResult<Box<dyn Column>> {
    let plain = plain(array.data_type());
    if plain == *array.data_type() {
        return plain_column(array, purpose, is_last);
    }
    plain_column(&cast(array, &plain)?, purpose, is_last)
}

fn plain_column(array: &ArrayRef, purpose: Purpose, is_last: bool) -> DataFusionResult<Box<dyn Column>> {
    let bytes = match (is_last, purpose) {
        (true, _) => Form::Rest,
        (false, Purpose::Keys) => Form::Ended,
        (false, Purpose::Values) => Form::Counted,
    };
    let column: Box<dyn Column> = match array.data_type() {
        DataType::Null => Box::new(Nulls),
        DataType::Boolean => Box::new(Booleans(array.as_boolean().clone())),
        DataType::Utf8 => Box::new(Bytes::new(array.as_string::<i32>().clone(), bytes)),
        DataType::LargeUtf8 => Box::new(Bytes::new(array.as_string::<i64>().clone(), bytes)),
        DataType::Utf8View => Box::new(Bytes::new(array.as_string_view().clone(), bytes)),
        DataType::Binary => Box::new(Bytes::new(array.as_binary::<i32>().clone(), bytes)),
        DataType::LargeBinary => Box::new(Bytes::new(array.as_binary::<i64>().clone(), bytes)),
        DataType::BinaryView => Box::new(Bytes::new(array.as_binary_view().clone(), bytes)),
        DataType::FixedSizeBinary(_) => Box::new(FixedBytes(array.as_fixed_size_binary().clone())),
        DataType::Struct(_) => Box::new(of_struct(array.as_struct(), purpose)?),
        DataType::List(_) => Box::new(of_list(array.as_list::<i32>(), purpose)?),
        DataType::LargeList(_) => Box::new(of_list(array.as_list::<i64>(), purpose)?),
        DataType::Map(..) => {
            let map = array.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            Box::new(Lists::new(map.offsets(), &entries, map.nulls(), purpose)?)
        }
        DataType::FixedSizeList(_, size) => {
            let list = array.as_fixed_size_list();
            let elements = inner_rows(std::slice::from_ref(list.values()), list.values().len(), purpose)?;
            let size = usize::try_from(*size).unwrap_or(0);
            let ranges = (0..list.len()).map(|row| row * size..(row + 1) * size).collect();
            Box::new(Lists { ranges, elements, nulls: array.nulls().cloned(), is_fixed: true })
        }
        DataType::Union(..) => Box::new(of_union(array.as_union(), purpose)?),
        fixed => with_native!(fixed, N => Box::new(Fixed::<N>::new(array, purpose)), _ => {
            return internal_err!("values of type {fixed} cannot be kept in state");
        }),
    };
    Ok(column)
}

fn is_valid(nulls: &Option<NullBuffer>, row: usize) -> bool {
    nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row))
}

/// The nulls of an array that has any.
fn nulls_of(array: &dyn Array) -> Option<NullBuffer> {
    array.nulls().filter(|nulls| nulls.null_count() > 0).cloned()
}

/// Appends bytes to a row.
fn put(data: &mut [u8], at: &mut usize, bytes: &[u8]) {
    data[*at..*at + bytes.len()].copy_from_slice(bytes);
    *at += bytes.len();
}

struct Nulls;

impl Column for Nulls {
    fn width(&self) -> Option<usize> {
        Some(1)
    }

    fn add_lengths(&self, lengths: &mut [usize]) {
        lengths.iter_mut().for_each(|length| *length += 1);
    }

    fn write(&self, data: &mut [u8], at: &mut [usize]) {
        at.iter_mut().for_each(|at| put(data, at, &[NULL]));
    }
}

struct Booleans(BooleanArray);

impl Column for Booleans {
    fn width(&self) -> Option<usize> {
        Some(1)
    }

    fn add_lengths(&self, lengths: &mut [usize]) {
        lengths.iter_mut().for_each(|length| *length += 1);
    }

    fn write(&self, data: &mut [u8], at: &mut [usize]) {
        for (value, at) in self.0.iter().zip(at) {
            put(data, at, &[value.map_or(NULL, |value| VALUE + u8::from(value))]);
        }
    }
}

struct Fixed<N: Native> {
    values: ScalarBuffer<N>,
    nulls: Option<NullBuffer>,
    is_key: bool,
}

impl<N: Native> Fixed<N> {
    fn new(array: &ArrayRef, purpose: Purpose) -> Self {
        let data = array.to_data();
        let values = ScalarBuffer::new(data.buffers()[0].clone(), data.offset(), data.len());
        Self { values, nulls: nulls_of(array), is_key: purpose == Purpose::Keys }
    }

    fn bytes(&self, value: N) -> N::Bytes {
        if self.is_key { value.canonical().encode() } else { value.encode() }
    }
}

impl<N: Native> Column for Fixed<N> {
    fn width(&self) -> Option<usize> {
        self.nulls.is_none().then_some(1 + N::WIDTH)
    }

    fn add_lengths(&self, lengths: &mut [usize]) {
        for (row, length) in lengths.iter_mut().enumerate() {
            *length += if is_valid(&self.nulls, row) { 1 + N::WIDTH } else { 1 };
        }
    }

    fn write(&self, data: &mut [u8], at: &mut [usize]) {
        for (row, (value, at)) in self.values.iter().zip(at).enumerate() {
            if is_valid(&self.nulls, row) {
                put(data, at, &[VALUE]);
                put(data, at, self.bytes(*value).as_ref());
            } else {
                put(data, at, &[NULL]);
            }
        }
    }

    fn write_every(&self, data: &mut [u8], width: usize, from: usize) {
        for (row, value) in data.chunks_exact_mut(width).zip(self.values.iter()) {
            let own = &mut row[from..from + 1 + N::WIDTH];
            own[0] = VALUE;
            own[1..].copy_from_slice(self.bytes(*value).as_ref());
        }
    }
}

struct FixedBytes(FixedSizeBinaryArray);

impl Column for FixedBytes {
    fn add_lengths(&self, lengths: &mut [usize]) {
        for (row, length) in lengths.iter_mut().enumerate() {
            *length += if self.0.is_valid(row) { 1 + self.0.value(row).len() } else { 1 };
        }
    }

    fn write(&self, data: &mut [u8], at: &mut [usize]) {
        for (row, at) in at.iter_mut().enumerate() {
            if self.0.is_valid(row) {
                put(data, at, &[VALUE]);
                put(data, at, self.0.value(row));
            } else {
                put(data, at, &[NULL]);
            }
        }
    }
}

/// Where text or binary ends.
#[derive(Clone, Copy)]
enum Form {
    /// With the row.
    Rest,
    /// At a `0`; those in it are escaped.
    Ended,
    /// After as many bytes as are written before it.
    Counted,
}

/// Text and binary, whatever it is stored in.
trait ByteArray: Array {
    fn bytes(&self, row: usize) -> &[u8];
}

impl<T: ByteArrayType> ByteArray for GenericByteArray<T> {
    fn bytes(&self, row: usize) -> &[u8] {
        self.value(row).as_ref()
    }
}

impl<T: ByteViewType> ByteArray for GenericByteViewArray<T> {
    fn bytes(&self, row: usize) -> &[u8] {
        self.value(row).as_ref()
    }
}

struct Bytes<A> {
    array: A,
    nulls: Option<NullBuffer>,
    form: Form,
    /// Whether any of them has to be escaped.
    has_zeros: bool,
}

impl<A: ByteArray> Bytes<A> {
    fn new(array: A, form: Form) -> Self {
        let nulls = nulls_of(&array);
        let has_zero = |row: usize| is_valid(&nulls, row) && memchr::memchr(0, array.bytes(row)).is_some();
        let has_zeros = matches!(form, Form::Ended) && (0..array.len()).any(has_zero);
        Self { array, nulls, form, has_zeros }
    }

    fn length(&self, bytes: &[u8]) -> usize {
        match self.form {
            Form::Rest => bytes.len(),
            Form::Ended if self.has_zeros => bytes.len() + memchr::memchr_iter(0, bytes).count() + 1,
            Form::Ended => bytes.len() + 1,
            Form::Counted => bytes.len() + count_length(bytes.len()),
        }
    }

    fn put(&self, data: &mut [u8], at: &mut usize, bytes: &[u8]) {
        match self.form {
            Form::Rest => put(data, at, bytes),
            Form::Ended if self.has_zeros => {
                for part in bytes.split_inclusive(|byte| *byte == 0) {
                    put(data, at, part);
                    if part.ends_with(&[0]) {
                        put(data, at, &[ESCAPED]);
                    }
                }
                put(data, at, &[0]);
            }
            Form::Ended => {
                put(data, at, bytes);
                put(data, at, &[0]);
            }
            Form::Counted => {
                let mut left = bytes.len();
                while left > 0x7f {
                    put(data, at, &[left as u8 | 0x80]);
                    left >>= 7;
                }
                put(data, at, &[left as u8]);
                put(data, at, bytes);
            }
        }
    }
}

/// How many bytes a length takes.
fn count_length(length: usize) -> usize {
    let bits = usize::BITS - length.leading_zeros();
    bits.div_ceil(7).max(1) as usize
}

impl<A: ByteArray> Column for Bytes<A> {
    fn add_lengths(&self, lengths: &mut [usize]) {
        for (row, length) in lengths.iter_mut().enumerate() {
            *length += 1;
            if is_valid(&self.nulls, row) {
                *length += self.length(self.array.bytes(row));
            }
        }
    }

    fn write(&self, data: &mut [u8], at: &mut [usize]) {
        for (row, at) in at.iter_mut().enumerate() {
            if is_valid(&self.nulls, row) {
                put(data, at, &[VALUE]);
                self.put(data, at, self.array.bytes(row));
            } else {
                put(data, at, &[NULL]);
            }
        }
    }
}

/// Columns that are encoded already.
struct Nested {
    parts: ByteRows,
    nulls: Option<NullBuffer>,
}

fn of_struct(array: &StructArray, purpose: Purpose) -> DataFusionResult<Nested> {
    Ok(Nested { parts: inner_rows(array.columns(), array.len(), purpose)?, nulls: nulls_of(array) })
}

fn of_union(array: &UnionArray, purpose: Purpose) -> DataFusionResult<Nested> {
    let DataType::Union(fields, _) = array.data_type() else { return internal_err!("a union is none") };
    let mut values: Vec<Option<ByteRows>> = vec![None; 256];
    for (id, _) in fields.iter() {
        let child = array.child(id);
        values[usize::from(id as u8)] = Some(inner_rows(std::slice::from_ref(child), child.len(), purpose)?);
    }
    let mut parts = ByteRows::default();
    let mut part = Vec::new();
    for row in 0..array.len() {
        let id = array.type_id(row);
        part.clear();
        part.extend_from_slice(&id.encode());
        if let Some(values) = &values[usize::from(id as u8)] {
            part.extend_from_slice(values.row(array.value_offset(row)));
        }
        parts.push(&part);
    }
    Ok(Nested { parts, nulls: None })
}

impl Column for Nested {
    fn add_lengths(&self, lengths: &mut [usize]) {
        for (row, length) in lengths.iter_mut().enumerate() {
            *length += if is_valid(&self.nulls, row) { 1 + self.parts.row(row).len() } else { 1 };
        }
    }

    fn write(&self, data: &mut [u8], at: &mut [usize]) {
        for (row, at) in at.iter_mut().enumerate() {
            if is_valid(&self.nulls, row) {
                put(data, at, &[VALUE]);
                put(data, at, self.parts.row(row));
            } else {
                put(data, at, &[NULL]);
            }
        }
    }
}

/// Lists whose elements are encoded already.
struct Lists {
    /// Which of the elements each row has.
    ranges: Vec<Range<usize>>,
    elements: ByteRows,
    nulls: Option<NullBuffer>,
    /// Whether all have as many, so that the end need not be told.
    is_fixed: bool,
}

fn of_list<O: OffsetSizeTrait>(list: &GenericListArray<O>, purpose: Purpose) -> DataFusionResult<Lists> {
    Lists::new(list.offsets(), list.values(), list.nulls(), purpose)
}

impl Lists {
    fn new<O: OffsetSizeTrait>(
        offsets: &OffsetBuffer<O>,
        values: &ArrayRef,
        nulls: Option<&NullBuffer>,
        purpose: Purpose,
    ) -> DataFusionResult<Self> {
        let (first, last) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
        let used = values.slice(first, last - first);
        let elements = inner_rows(&[used], last - first, purpose)?;
        let at = |offset: O| offset.as_usize() - first;
        let ranges = offsets.windows(2).map(|pair| at(pair[0])..at(pair[1])).collect();
        Ok(Self { ranges, elements, nulls: nulls.cloned(), is_fixed: false })
    }
}

impl Column for Lists {
    fn add_lengths(&self, lengths: &mut [usize]) {
        for (row, (range, length)) in self.ranges.iter().zip(lengths).enumerate() {
            *length += 1;
            if is_valid(&self.nulls, row) {
                *length += range.clone().map(|element| self.elements.row(element).len()).sum::<usize>();
                *length += if self.is_fixed { 0 } else { range.len() + 1 };
            }
        }
    }

    fn write(&self, data: &mut [u8], at: &mut [usize]) {
        for (row, (range, at)) in self.ranges.iter().zip(at).enumerate() {
            if !is_valid(&self.nulls, row) {
                put(data, at, &[NULL]);
                continue;
            }
            put(data, at, &[VALUE]);
            for element in range.clone() {
                if !self.is_fixed {
                    put(data, at, &[VALUE]);
                }
                put(data, at, self.elements.row(element));
            }
            if !self.is_fixed {
                put(data, at, &[NULL]);
            }
        }
    }
}
