//! Values of Arrow's columns as serde reads them.

use std::fmt;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Date64Type, DurationMicrosecondType, DurationMillisecondType,
    DurationNanosecondType, DurationSecondType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::arrow::util::display::array_value_to_string;
use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// Why a row cannot be read as a type.
#[derive(Debug)]
pub(super) struct CellError(String);

impl fmt::Display for CellError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CellError {}

impl serde::de::Error for CellError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

fn in_column(name: &str, error: &CellError) -> CellError {
    CellError(format!("column '{name}': {error}"))
}

type Read<T> = Result<T, CellError>;

/// A row of a batch.
///
/// A struct is read by the names of its fields, a tuple in the order of the columns, and the row of a single
/// column as that value.
pub(super) struct RowCells<'a> {
    pub(super) batch: &'a RecordBatch,
    pub(super) row: usize,
    /// Where the fields of the struct that is read mostly are.
    pub(super) known: &'a KnownFields,
}

/// The columns of the fields of a struct, looked up once.
#[derive(Debug, Default)]
pub(super) struct KnownFields(std::cell::OnceCell<(&'static [&'static str], Vec<usize>)>);

impl KnownFields {
    /// Which columns of `batch` have these names.
    fn columns(&self, fields: &'static [&'static str], batch: &RecordBatch) -> Option<&[usize]> {
        let (known, columns) = self.0.get_or_init(|| {
            let schema = batch.schema_ref();
            let named = |name: &&str| schema.fields().iter().position(|field| field.name() == name);
            (fields, fields.iter().filter_map(named).collect())
        });
        std::ptr::eq(*known, fields).then_some(columns.as_slice())
    }
}

impl<'a> RowCells<'a> {
    fn only(&self) -> Read<Cell<'a>> {
        match self.batch.columns() {
            [only] => Ok(Cell { array: only, row: self.row }),
            columns => Err(CellError(format!(
                "a row of {} columns is read as a struct, a map or a tuple, not as a single value",
                columns.len()
            ))),
        }
    }

    fn all(&self) -> NamedCells<'a> {
        NamedCells { batch: self.batch, row: self.row, columns: None, at: 0 }
    }
}

macro_rules! forward_to_the_only_cell {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
            self.only()?.$method(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for RowCells<'_> {
    type Error = CellError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        visitor.visit_map(self.all())
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        visitor.visit_map(self.all())
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        let columns = self.known.columns(fields, self.batch);
        visitor.visit_map(NamedCells { batch: self.batch, row: self.row, columns, at: 0 })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        visitor.visit_seq(Cells { columns: self.batch.columns(), row: self.row, at: 0 })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Read<V::Value> {
        if len != self.batch.num_columns() {
            return Err(CellError(format!(
                "a row of {} columns cannot be read as a tuple of {len}",
                self.batch.num_columns()
            )));
        }
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Read<V::Value> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Read<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.batch.columns() {
            [only] => Cell { array: only, row: self.row }.deserialize_option(visitor),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Read<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        self.only()?.deserialize_enum(name, variants, visitor)
    }

    forward_to_the_only_cell! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32
        deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_identifier
    }
}

/// Some columns of a row by name.
struct NamedCells<'a> {
    batch: &'a RecordBatch,
    row: usize,
    /// Which; all of them if it is not said.
    columns: Option<&'a [usize]>,
    at: usize,
}

impl NamedCells<'_> {
    fn column(&self) -> Option<usize> {
        match self.columns {
            Some(columns) => columns.get(self.at).copied(),
            None => (self.at < self.batch.num_columns()).then_some(self.at),
        }
    }
}

impl<'de> MapAccess<'de> for NamedCells<'_> {
    type Error = CellError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Read<Option<K::Value>> {
        let Some(column) = self.column() else { return Ok(None) };
        let name: StrDeserializer<'_, CellError> =
            self.batch.schema_ref().field(column).name().as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Read<V::Value> {
        let Some(column) = self.column() else {
            return Err(CellError("a value was asked for without its name".into()));
        };
        self.at += 1;
        let name = || self.batch.schema_ref().field(column).name();
        seed.deserialize(Cell { array: self.batch.column(column), row: self.row })
            .map_err(|error| in_column(name(), &error))
    }
}

/// The values of one row of some columns, in order.
struct Cells<'a> {
    columns: &'a [ArrayRef],
    row: usize,
    at: usize,
}

impl<'de> SeqAccess<'de> for Cells<'_> {
    type Error = CellError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<Option<T::Value>> {
        let Some(array) = self.columns.get(self.at) else { return Ok(None) };
        self.at += 1;
        seed.deserialize(Cell { array, row: self.row }).map(Some)
    }
}

/// One value of a column.
struct Cell<'a> {
    array: &'a ArrayRef,
    row: usize,
}

/// Microseconds for times and lengths of time in a column of this unit.
fn micros(value: i64, unit: TimeUnit) -> Read<i64> {
    let scaled = match unit {
        TimeUnit::Second => value.checked_mul(1_000_000),
        TimeUnit::Millisecond => value.checked_mul(1_000),
        TimeUnit::Microsecond => Some(value),
        TimeUnit::Nanosecond => Some(value.div_euclid(1_000)),
    };
    scaled.ok_or_else(|| CellError(format!("{value} has no number of microseconds")))
}

impl Cell<'_> {
    /// The value as it is written in SQL.
    fn text(&self) -> Read<String> {
        array_value_to_string(self.array, self.row).map_err(|error| CellError(error.to_string()))
    }

    /// A time, or length of time, in microseconds; a date in days. Nothing for values of other types.
    fn time(&self) -> Option<Read<i64>> {
        let (array, row) = (self.array, self.row);
        macro_rules! value {
            ($type:ty, $unit:expr) => {
                micros(i64::from(array.as_primitive::<$type>().value(row)), $unit)
            };
        }
        use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
        Some(match array.data_type() {
            DataType::Timestamp(Second, _) => value!(TimestampSecondType, Second),
            DataType::Timestamp(Millisecond, _) => value!(TimestampMillisecondType, Millisecond),
            DataType::Timestamp(Microsecond, _) => value!(TimestampMicrosecondType, Microsecond),
            DataType::Timestamp(Nanosecond, _) => value!(TimestampNanosecondType, Nanosecond),
            DataType::Time32(Second) => value!(Time32SecondType, Second),
            DataType::Time32(_) => value!(Time32MillisecondType, Millisecond),
            DataType::Time64(Nanosecond) => value!(Time64NanosecondType, Nanosecond),
            DataType::Time64(_) => value!(Time64MicrosecondType, Microsecond),
            DataType::Duration(Second) => value!(DurationSecondType, Second),
            DataType::Duration(Millisecond) => value!(DurationMillisecondType, Millisecond),
            DataType::Duration(Microsecond) => value!(DurationMicrosecondType, Microsecond),
            DataType::Duration(Nanosecond) => value!(DurationNanosecondType, Nanosecond),
            DataType::Date32 => Ok(i64::from(array.as_primitive::<Date32Type>().value(row))),
            DataType::Date64 => Ok(array.as_primitive::<Date64Type>().value(row).div_euclid(86_400_000)),
            _ => return None,
        })
    }

    fn is_decimal(&self) -> bool {
        use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
        matches!(self.array.data_type(), Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..))
    }

    fn is_written_as_text(&self) -> bool {
        self.is_decimal() || (!self.array.is_null(self.row) && self.time().is_some())
    }
}

impl<'de> Deserializer<'de> for Cell<'_> {
    type Error = CellError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let (array, row) = (self.array, self.row);
        if array.is_null(row) {
            return visitor
                .visit_unit()
                .map_err(|error: CellError| CellError(format!("it is null: {error}")));
        }
        if let Some(time) = self.time() {
            return visitor.visit_i64(time?);
        }
        macro_rules! number {
            ($type:ty, $visit:ident) => {
                visitor.$visit(array.as_primitive::<$type>().value(row))
            };
        }
        match array.data_type() {
            DataType::Boolean => visitor.visit_bool(array.as_boolean().value(row)),
            DataType::Int8 => number!(Int8Type, visit_i8),
            DataType::Int16 => number!(Int16Type, visit_i16),
            DataType::Int32 => number!(Int32Type, visit_i32),
            DataType::Int64 => number!(Int64Type, visit_i64),
            DataType::UInt8 => number!(UInt8Type, visit_u8),
            DataType::UInt16 => number!(UInt16Type, visit_u16),
            DataType::UInt32 => number!(UInt32Type, visit_u32),
            DataType::UInt64 => number!(UInt64Type, visit_u64),
            DataType::Float16 => visitor.visit_f32(array.as_primitive::<Float16Type>().value(row).to_f32()),
            DataType::Float32 => number!(Float32Type, visit_f32),
            DataType::Float64 => number!(Float64Type, visit_f64),
            DataType::Utf8 => visitor.visit_str(array.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => visitor.visit_str(array.as_string::<i64>().value(row)),
            DataType::Utf8View => visitor.visit_str(array.as_string_view().value(row)),
            DataType::Binary => visitor.visit_bytes(array.as_binary::<i32>().value(row)),
            DataType::LargeBinary => visitor.visit_bytes(array.as_binary::<i64>().value(row)),
            DataType::BinaryView => visitor.visit_bytes(array.as_binary_view().value(row)),
            DataType::FixedSizeBinary(_) => visitor.visit_bytes(array.as_fixed_size_binary().value(row)),
            DataType::List(_) => visitor.visit_seq(Elements::of(array.as_list::<i32>().value(row))),
            DataType::LargeList(_) => visitor.visit_seq(Elements::of(array.as_list::<i64>().value(row))),
            DataType::FixedSizeList(..) => {
                visitor.visit_seq(Elements::of(array.as_fixed_size_list().value(row)))
            }
            DataType::Struct(_) => {
                let fields = array.as_struct();
                visitor.visit_map(Fields {
                    names: fields.column_names(),
                    columns: fields.columns(),
                    row,
                    at: 0,
                })
            }
            DataType::Map(..) => {
                let entries = array.as_map().value(row);
                let (keys, values) = (Elements::of(entries.column(0).clone()), entries.column(1).clone());
                visitor.visit_map(Entries { keys, values })
            }
            _ if self.is_decimal() => visitor.visit_string(self.text()?),
            DataType::Dictionary(_, plain) => {
                let plain =
                    cast(&array.slice(row, 1), plain).map_err(|error| CellError(error.to_string()))?;
                Cell { array: &plain, row: 0 }.deserialize_any(visitor)
            }
            DataType::RunEndEncoded(_, values) => {
                let plain = cast(&array.slice(row, 1), values.data_type());
                let plain = plain.map_err(|error| CellError(error.to_string()))?;
                Cell { array: &plain, row: 0 }.deserialize_any(visitor)
            }
            other => Err(CellError(format!(
                "values of type {other} cannot be read by serde; cast the column first"
            ))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        if self.array.is_null(self.row) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    /// Times and decimals are written out for those who want text.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        if self.is_written_as_text() && !self.array.is_null(self.row) {
            return visitor.visit_string(self.text()?);
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        if self.is_decimal() && !self.array.is_null(self.row) {
            let text = self.text()?;
            let number = text.parse().map_err(|_| CellError(format!("'{text}' is not a number")))?;
            return visitor.visit_f64(number);
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Read<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        let text: StringDeserializer<CellError> = self.text()?.into_deserializer();
        visitor.visit_enum(text)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 char bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier
    }
}

/// The elements of a list.
struct Elements {
    values: ArrayRef,
    at: usize,
}

impl Elements {
    fn of(values: ArrayRef) -> Self {
        Self { values, at: 0 }
    }
}

impl<'de> SeqAccess<'de> for Elements {
    type Error = CellError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<Option<T::Value>> {
        if self.at == self.values.len() {
            return Ok(None);
        }
        self.at += 1;
        seed.deserialize(Cell { array: &self.values, row: self.at - 1 }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.values.len() - self.at)
    }
}

/// The fields of a struct.
struct Fields<'a> {
    names: Vec<&'a str>,
    columns: &'a [ArrayRef],
    row: usize,
    at: usize,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = CellError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Read<Option<K::Value>> {
        let Some(name) = self.names.get(self.at) else { return Ok(None) };
        let name: StrDeserializer<'_, CellError> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Read<V::Value> {
        let (Some(array), Some(name)) = (self.columns.get(self.at), self.names.get(self.at)) else {
            return Err(CellError("a value was asked for without its name".into()));
        };
        self.at += 1;
        seed.deserialize(Cell { array, row: self.row }).map_err(|error| in_column(name, &error))
    }
}

/// The entries of a map.
struct Entries {
    keys: Elements,
    values: ArrayRef,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = CellError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Read<Option<K::Value>> {
        self.keys.next_element_seed(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Read<V::Value> {
        seed.deserialize(Cell { array: &self.values, row: self.keys.at - 1 })
    }
}

#[cfg(test)]
mod tests;
