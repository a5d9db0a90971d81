//! The values of columns, ready to be written row by row.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array,
    ListArray, MapArray, StringArray, StructArray, TimestampNanosecondArray, UInt32Array, UInt64Array,
};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::arrow::util::display::FormatOptions;

use super::shape::{Coding, Member, Shape};

const NANOS_PER_SECOND: i64 = 1_000_000_000;

type Outcome<T> = Result<T, String>;

/// The fields of messages.
pub(super) struct Members<'a> {
    members: Vec<(&'a Member, Column<'a>)>,
}

/// Values that are written in one way.
struct Column<'a> {
    shape: &'a Shape,
    values: Values<'a>,
}

enum Values<'a> {
    Double(Float64Array),
    Float(Float32Array),
    Int32(Int32Array, Coding),
    Int64(Int64Array, Coding),
    UInt32(UInt32Array, Coding),
    UInt64(UInt64Array, Coding),
    Bool(BooleanArray),
    Text(StringArray),
    Bytes(BinaryArray),
    Enum(StringArray, &'a HashMap<String, i32>),
    Time(TimestampNanosecondArray),
    Wrapped(Box<Column<'a>>),
    Message(StructArray, Members<'a>),
    List(ListArray, Box<Column<'a>>),
    Map(MapArray, Box<Column<'a>>, Box<Column<'a>>),
}

impl<'a> Members<'a> {
    pub(super) fn new(members: &'a [Member], columns: &[ArrayRef]) -> Outcome<Self> {
        let member = |member: &'a Member| {
            let column = Column::new(&member.shape, &columns[member.column]);
            let column = column.map_err(|reason| format!("field '{}': {reason}", member.name))?;
            Ok::<_, String>((member, column))
        };
        Ok(Self { members: members.iter().map(member).collect::<Outcome<_>>()? })
    }

    /// Adds the fields of a row.
    pub(super) fn write(&self, row: usize, message: &mut Vec<u8>) -> Outcome<()> {
        for (member, column) in &self.members {
            if column.is_null(row) {
                if member.is_required {
                    return Err(format!("field '{}' is null in a row, and required", member.name));
                }
                continue;
            }
            if member.has_presence || !column.is_zero(row) {
                let written = column.write_field(member.number, row, message);
                written.map_err(|reason| format!("field '{}': {reason}", member.name))?;
            }
        }
        Ok(())
    }
}

impl<'a> Column<'a> {
    fn new(shape: &'a Shape, values: &ArrayRef) -> Outcome<Self> {
        let of = |data_type: DataType| cast_exactly(values, &data_type);
        let values = match shape {
            Shape::Double => Values::Double(of(DataType::Float64)?.as_primitive().clone()),
            Shape::Float => Values::Float(of(DataType::Float32)?.as_primitive().clone()),
            Shape::Int32(coding) => Values::Int32(of(DataType::Int32)?.as_primitive().clone(), *coding),
            Shape::Int64(coding) => Values::Int64(of(DataType::Int64)?.as_primitive().clone(), *coding),
            Shape::UInt32(coding) => Values::UInt32(of(DataType::UInt32)?.as_primitive().clone(), *coding),
            Shape::UInt64(coding) => Values::UInt64(of(DataType::UInt64)?.as_primitive().clone(), *coding),
            Shape::Bool => Values::Bool(values.as_boolean().clone()),
            Shape::Text => Values::Text(of(DataType::Utf8)?.as_string().clone()),
            Shape::Bytes => Values::Bytes(of(DataType::Binary)?.as_binary().clone()),
            Shape::Enum(numbers) => Values::Enum(of(DataType::Utf8)?.as_string().clone(), numbers),
            Shape::Time => {
                let zone = match values.data_type() {
                    DataType::Timestamp(_, zone) => zone.clone(),
                    _ => None,
                };
                let nanos = of(DataType::Timestamp(TimeUnit::Nanosecond, zone))?;
                Values::Time(nanos.as_primitive().clone())
            }
            Shape::Wrapped(shape) => Values::Wrapped(Box::new(Column::new(shape, values)?)),
            Shape::Message(members) => {
                let rows = values.as_struct().clone();
                let members = Members::new(members, rows.columns())?;
                Values::Message(rows, members)
            }
            Shape::List(shape) => {
                let lists = as_lists(values)?;
                let items = Column::new(shape, lists.values())?;
                Values::List(lists, Box::new(items))
            }
            Shape::Map(key, value) => {
                let maps = values.as_map().clone();
                let (keys, values) = (Column::new(key, maps.keys())?, Column::new(value, maps.values())?);
                Values::Map(maps, Box::new(keys), Box::new(values))
            }
        };
        Ok(Self { shape, values })
    }

    fn array(&self) -> &dyn Array {
        match &self.values {
            Values::Double(values) => values,
            Values::Float(values) => values,
            Values::Int32(values, _) => values,
            Values::Int64(values, _) => values,
            Values::UInt32(values, _) => values,
            Values::UInt64(values, _) => values,
            Values::Bool(values) => values,
            Values::Text(values) | Values::Enum(values, _) => values,
            Values::Bytes(values) => values,
            Values::Time(values) => values,
            Values::Wrapped(values) => values.array(),
            Values::Message(values, _) => values,
            Values::List(values, _) => values,
            Values::Map(values, ..) => values,
        }
    }

    fn is_null(&self, row: usize) -> bool {
        self.array().is_null(row)
    }

    /// Whether the value is the one that is read where there is none. Floats are so by their bits: -0 is written.
    fn is_zero(&self, row: usize) -> bool {
        match &self.values {
            Values::Double(values) => values.value(row).to_bits() == 0,
            Values::Float(values) => values.value(row).to_bits() == 0,
            Values::Int32(values, _) => values.value(row) == 0,
            Values::Int64(values, _) => values.value(row) == 0,
            Values::UInt32(values, _) => values.value(row) == 0,
            Values::UInt64(values, _) => values.value(row) == 0,
            Values::Bool(values) => !values.value(row),
            Values::Text(values) => values.value(row).is_empty(),
            Values::Bytes(values) => values.value(row).is_empty(),
            Values::Enum(values, numbers) => numbers.get(values.value(row)) == Some(&0),
            Values::Time(_) | Values::Wrapped(_) | Values::Message(..) => false,
            // No element is no field.
            Values::List(..) | Values::Map(..) => false,
        }
    }

    /// Adds a field with the value of a row.
    fn write_field(&self, number: u32, row: usize, message: &mut Vec<u8>) -> Outcome<()> {
        match &self.values {
            Values::List(lists, items) => {
                // Numbers are written together.
                let (is_packed, mut packed) = (items.shape.wire_type() != 2, Vec::new());
                for item in range(lists.value_offsets(), row) {
                    if items.is_null(item) {
                        return Err("an element of the list is null, which Protobuf does not have".into());
                    }
                    if is_packed {
                        items.write(item, &mut packed)?;
                    } else {
                        items.write_field(number, item, message)?;
                    }
                }
                if !packed.is_empty() {
                    tag(number, 2, message);
                    delimited(&packed, message);
                }
                Ok(())
            }
            Values::Map(maps, keys, values) => {
                for entry in range(maps.value_offsets(), row) {
                    if values.is_null(entry) {
                        return Err("a value of the map is null, which Protobuf does not have".into());
                    }
                    let mut body = Vec::new();
                    keys.write_field(1, entry, &mut body)?;
                    values.write_field(2, entry, &mut body)?;
                    tag(number, 2, message);
                    delimited(&body, message);
                }
                Ok(())
            }
            _ => {
                tag(number, self.shape.wire_type(), message);
                self.write(row, message)
            }
        }
    }

    /// Adds the value of a row, without its number.
    fn write(&self, row: usize, message: &mut Vec<u8>) -> Outcome<()> {
        match &self.values {
            Values::Double(values) => message.extend(values.value(row).to_le_bytes()),
            Values::Float(values) => message.extend(values.value(row).to_le_bytes()),
            Values::Int32(values, coding) => match (values.value(row), coding) {
                (value, Coding::Fixed) => message.extend(value.to_le_bytes()),
                (value, Coding::ZigZag) => varint(zigzag(i64::from(value)), message),
                // Those below zero are as long as numbers of 64 bits.
                (value, Coding::Plain) => varint(i64::from(value) as u64, message),
            },
            Values::Int64(values, coding) => match (values.value(row), coding) {
                (value, Coding::Fixed) => message.extend(value.to_le_bytes()),
                (value, Coding::ZigZag) => varint(zigzag(value), message),
                (value, Coding::Plain) => varint(value as u64, message),
            },
            Values::UInt32(values, coding) => match (values.value(row), coding) {
                (value, Coding::Fixed) => message.extend(value.to_le_bytes()),
                (value, _) => varint(u64::from(value), message),
            },
            Values::UInt64(values, coding) => match (values.value(row), coding) {
                (value, Coding::Fixed) => message.extend(value.to_le_bytes()),
                (value, _) => varint(value, message),
            },
            Values::Bool(values) => message.push(u8::from(values.value(row))),
            Values::Text(values) => delimited(values.value(row).as_bytes(), message),
            Values::Bytes(values) => delimited(values.value(row), message),
            Values::Enum(values, numbers) => {
                let name = values.value(row);
                // One without a name is read as its number.
                let number = numbers.get(name).copied().or_else(|| name.parse().ok());
                let number: i32 = number.ok_or_else(|| format!("'{name}' is no value of the enum"))?;
                varint(i64::from(number) as u64, message);
            }
            Values::Time(values) => {
                let nanos = values.value(row);
                let mut body = Vec::new();
                let (seconds, rest) =
                    (nanos.div_euclid(NANOS_PER_SECOND), nanos.rem_euclid(NANOS_PER_SECOND));
                for (number, part) in [(1, seconds), (2, rest)] {
                    if part != 0 {
                        tag(number, 0, &mut body);
                        varint(part as u64, &mut body);
                    }
                }
                delimited(&body, message);
            }
            Values::Wrapped(value) => {
                let mut body = Vec::new();
                if !value.is_zero(row) {
                    value.write_field(1, row, &mut body)?;
                }
                delimited(&body, message);
            }
            Values::Message(_, members) => {
                let mut body = Vec::new();
                members.write(row, &mut body)?;
                delimited(&body, message);
            }
            Values::List(..) | Values::Map(..) => return Err("lists are not within one another".into()),
        }
        Ok(())
    }
}

/// `values` as `data_type`, or an error if one of them does not fit.
fn cast_exactly(values: &ArrayRef, data_type: &DataType) -> Outcome<ArrayRef> {
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    cast_with_options(values, data_type, &options).map_err(|error| error.to_string())
}

fn as_lists(values: &ArrayRef) -> Outcome<ListArray> {
    let item = match values.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => item,
        other => return Err(format!("{other} is no list")),
    };
    let item = Arc::new(Field::new("item", item.data_type().clone(), true));
    Ok(cast_exactly(values, &DataType::List(item))?.as_list().clone())
}

fn range(ends: &[i32], row: usize) -> std::ops::Range<usize> {
    ends[row] as usize..ends[row + 1] as usize
}

fn tag(number: u32, kind: u8, message: &mut Vec<u8>) {
    varint(u64::from(number) << 3 | u64::from(kind), message);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn varint(mut value: u64, message: &mut Vec<u8>) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn delimited(bytes: &[u8], message: &mut Vec<u8>) {
    varint(bytes.len() as u64, message);
    message.extend_from_slice(bytes);
}
