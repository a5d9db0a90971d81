//! Messages of Protobuf's as columns: each field has a builder, which takes in what a message has of it.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Float32Builder, Float64Builder, Int32Builder, Int64Builder,
    ListArray, MapArray, NullBufferBuilder, StringBuilder, StructArray, TimestampNanosecondBuilder,
    UInt32Builder, UInt64Builder,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields as ArrowFields};

use crate::protobuf::descriptor::{FieldInfo, Kind, Message, Names, TIMESTAMP, Types, wrapped};
use crate::protobuf::wire::{Fields, Raw, fixed32, fixed64, varint};

/// Messages within one another, at most.
const MAX_DEPTH: usize = 50;

type Outcome<T> = Result<T, String>;

/// The columns of a message type.
pub(super) struct Group {
    fields: ArrowFields,
    columns: Vec<Column>,
    /// The column of the field with a number.
    places: HashMap<u32, usize>,
    nulls: NullBufferBuilder,
    rows: usize,
}

struct Column {
    values: Values,
    /// Null where a message lacks it; zero otherwise.
    has_presence: bool,
}

/// Values that were taken in so far.
enum Values {
    Double(Float64Builder),
    Float(Float32Builder),
    Int32(Int32Builder, Coding),
    Int64(Int64Builder, Coding),
    UInt32(UInt32Builder, Coding),
    UInt64(UInt64Builder, Coding),
    Bool(BooleanBuilder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Enum(StringBuilder, Names),
    /// `google.protobuf.Timestamp`.
    Time(TimestampNanosecondBuilder),
    /// A message around one value, such as `google.protobuf.Int64Value`.
    Wrapped(Box<Values>),
    Message(Box<Group>),
    List {
        ends: Vec<i32>,
        items: Box<Values>,
    },
    Map {
        ends: Vec<i32>,
        keys: Box<Values>,
        values: Box<Values>,
    },
}

/// How a whole number is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Plain,
    ZigZag,
    Fixed,
}

/// What a message has of a field.
#[derive(Clone)]
enum Found<'a> {
    Nothing,
    One(Raw<'a>),
    Many(Vec<Raw<'a>>),
}

impl<'a> Found<'a> {
    fn add(&mut self, value: Raw<'a>) {
        *self = match std::mem::replace(self, Found::Nothing) {
            Found::Nothing => Found::One(value),
            Found::One(first) => Found::Many(vec![first, value]),
            Found::Many(mut all) => {
                all.push(value);
                Found::Many(all)
            }
        };
    }

    fn all(&self) -> &[Raw<'a>] {
        match self {
            Found::Nothing => &[],
            Found::One(value) => std::slice::from_ref(value),
            Found::Many(all) => all,
        }
    }
}

impl Group {
    /// The columns of `message`; with `wanted` only those that have such a name.
    pub(super) fn new(
        message: &Message,
        types: &Types,
        wanted: Option<&ArrowFields>,
        depth: usize,
    ) -> Outcome<Self> {
        if depth > MAX_DEPTH {
            return Err(
                "messages are within one another without an end. Give the table columns, which say how far"
                    .into(),
            );
        }
        let (mut fields, mut columns, mut places) = (Vec::new(), Vec::new(), HashMap::new());
        for field in &message.fields {
            let want = match wanted {
                None => None,
                Some(wanted) => match find(&field.name, wanted) {
                    None => continue,
                    found => found,
                },
            };
            if field.kind == Kind::Group {
                continue;
            }
            let values = Values::of_field(field, types, want.map(|field| field.data_type()), depth)
                .map_err(|reason| format!("field '{}': {reason}", field.name))?;
            fields.push(Arc::new(Field::new(&field.name, values.data_type(), true)));
            places.insert(field.number, columns.len());
            columns.push(Column { values, has_presence: field.has_presence });
        }
        Ok(Self { fields: fields.into(), columns, places, nulls: NullBufferBuilder::new(0), rows: 0 })
    }

    pub(super) fn fields(&self) -> &ArrowFields {
        &self.fields
    }

    /// Takes in a message; what it has of fields that are not wanted is passed over.
    pub(super) fn append(&mut self, message: &[u8]) -> Outcome<()> {
        let mut found = vec![Found::Nothing; self.columns.len()];
        for field in Fields::new(message) {
            let (number, value) = field?;
            if let Some(place) = self.places.get(&number) {
                found[*place].add(value);
            }
        }
        for ((column, found), field) in self.columns.iter_mut().zip(&found).zip(&self.fields) {
            column
                .values
                .append(found, column.has_presence)
                .map_err(|reason| format!("field '{}': {reason}", field.name()))?;
        }
        self.nulls.append_non_null();
        self.rows += 1;
        Ok(())
    }

    fn append_null(&mut self) -> Outcome<()> {
        for column in &mut self.columns {
            column.values.append(&Found::Nothing, true)?;
        }
        self.nulls.append_null();
        self.rows += 1;
        Ok(())
    }

    /// What was taken in, as columns.
    pub(super) fn finish(&mut self) -> Outcome<StructArray> {
        let columns = self.columns.iter_mut().map(|column| column.values.finish());
        let columns = columns.collect::<Outcome<Vec<_>>>()?;
        let rows = std::mem::take(&mut self.rows);
        StructArray::try_new_with_length(self.fields.clone(), columns, self.nulls.finish(), rows)
            .map_err(|error| error.to_string())
    }
}

fn find<'a>(name: &str, wanted: &'a ArrowFields) -> Option<&'a FieldRef> {
    let exact = wanted.iter().find(|field| field.name() == name);
    exact.or_else(|| wanted.iter().find(|field| field.name().eq_ignore_ascii_case(name)))
}

fn item_of(data_type: Option<&DataType>) -> Option<&DataType> {
    match data_type {
        Some(DataType::List(item) | DataType::LargeList(item)) => Some(item.data_type()),
        _ => None,
    }
}

impl Values {
    fn of_field(field: &FieldInfo, types: &Types, wanted: Option<&DataType>, depth: usize) -> Outcome<Self> {
        if !field.is_repeated {
            return Self::of_kind(&field.kind, types, wanted, depth);
        }
        if let Kind::Message(name) = &field.kind
            && let entry = types.message(name)?
            && entry.is_entry
        {
            let part = |number: u32| {
                let part = entry.fields.iter().find(|field| field.number == number);
                part.ok_or_else(|| format!("the entry '{name}' of a map has no key or no value"))
            };
            let value = match wanted {
                Some(DataType::Map(entries, _)) => match entries.data_type() {
                    DataType::Struct(fields) => fields.get(1).map(|field| field.data_type()),
                    _ => None,
                },
                _ => None,
            };
            return Ok(Values::Map {
                ends: vec![0],
                keys: Box::new(Self::of_kind(&part(1)?.kind, types, None, depth)?),
                values: Box::new(Self::of_kind(&part(2)?.kind, types, value, depth)?),
            });
        }
        let items = Self::of_kind(&field.kind, types, item_of(wanted), depth)?;
        Ok(Values::List { ends: vec![0], items: Box::new(items) })
    }

    fn of_kind(kind: &Kind, types: &Types, wanted: Option<&DataType>, depth: usize) -> Outcome<Self> {
        use Coding::{Fixed, Plain, ZigZag};
        Ok(match kind {
            Kind::Double => Values::Double(Float64Builder::new()),
            Kind::Float => Values::Float(Float32Builder::new()),
            Kind::Int32 => Values::Int32(Int32Builder::new(), Plain),
            Kind::SInt32 => Values::Int32(Int32Builder::new(), ZigZag),
            Kind::SFixed32 => Values::Int32(Int32Builder::new(), Fixed),
            Kind::Int64 => Values::Int64(Int64Builder::new(), Plain),
            Kind::SInt64 => Values::Int64(Int64Builder::new(), ZigZag),
            Kind::SFixed64 => Values::Int64(Int64Builder::new(), Fixed),
            Kind::UInt32 => Values::UInt32(UInt32Builder::new(), Plain),
            Kind::Fixed32 => Values::UInt32(UInt32Builder::new(), Fixed),
            Kind::UInt64 => Values::UInt64(UInt64Builder::new(), Plain),
            Kind::Fixed64 => Values::UInt64(UInt64Builder::new(), Fixed),
            Kind::Bool => Values::Bool(BooleanBuilder::new()),
            Kind::Text => Values::Text(StringBuilder::new()),
            Kind::Bytes => Values::Bytes(BinaryBuilder::new()),
            Kind::Enum(name) => Values::Enum(StringBuilder::new(), types.names(name)?),
            Kind::Message(name) => return Self::of_message(name, types, wanted, depth),
            Kind::Group => return Err("groups are out of use, and cannot be read".into()),
        })
    }

    fn of_message(name: &str, types: &Types, wanted: Option<&DataType>, depth: usize) -> Outcome<Self> {
        if name == TIMESTAMP {
            return Ok(Values::Time(TimestampNanosecondBuilder::new()));
        }
        if let Some(kind) = wrapped(name) {
            return Ok(Values::Wrapped(Box::new(Self::of_kind(&kind, types, None, depth)?)));
        }
        let fields = match wanted {
            Some(DataType::Struct(fields)) => Some(fields),
            _ => None,
        };
        Group::new(types.message(name)?, types, fields, depth + 1)
            .map(|group| Values::Message(Box::new(group)))
    }

    fn data_type(&self) -> DataType {
        match self {
            Values::Double(_) => DataType::Float64,
            Values::Float(_) => DataType::Float32,
            Values::Int32(..) => DataType::Int32,
            Values::Int64(..) => DataType::Int64,
            Values::UInt32(..) => DataType::UInt32,
            Values::UInt64(..) => DataType::UInt64,
            Values::Bool(_) => DataType::Boolean,
            Values::Text(_) | Values::Enum(..) => DataType::Utf8,
            Values::Bytes(_) => DataType::Binary,
            Values::Time(_) => DataType::Timestamp(datafusion::arrow::datatypes::TimeUnit::Nanosecond, None),
            Values::Wrapped(values) => values.data_type(),
            Values::Message(group) => DataType::Struct(group.fields.clone()),
            Values::List { items, .. } => DataType::List(item_field(items)),
            Values::Map { keys, values, .. } => DataType::Map(
                Arc::new(Field::new_struct("entries", entry_fields(keys, values), false)),
                false,
            ),
        }
    }

    /// Takes in what a message has of the field.
    fn append(&mut self, found: &Found<'_>, has_presence: bool) -> Outcome<()> {
        match self {
            Values::List { ends, items } => {
                let mut count = 0;
                for value in found.all() {
                    count += items.append_items(*value)?;
                }
                return push_end(ends, count);
            }
            Values::Map { ends, keys, values } => {
                let count = append_entries(found.all(), keys, values)?;
                return push_end(ends, count);
            }
            Values::Message(group) => {
                // One that comes in several parts is all of them together.
                return match found {
                    Found::Nothing => group.append_null(),
                    Found::One(value) => group.append(bytes(*value)?),
                    Found::Many(all) => {
                        let parts = all.iter().map(|value| bytes(*value)).collect::<Outcome<Vec<_>>>()?;
                        group.append(&parts.concat())
                    }
                };
            }
            _ => {}
        }
        // Of several values the last one counts.
        match found.all().last() {
            Some(value) => self.append_value(*value),
            None if has_presence => self.append_null(),
            None => self.append_zero(),
        }
    }

    /// Takes in one value of a list, or those that are packed together; gives how many.
    fn append_items(&mut self, value: Raw<'_>) -> Outcome<usize> {
        let mut packed = match (&mut *self, value) {
            (Values::Text(_) | Values::Bytes(_) | Values::Time(_) | Values::Wrapped(_), _) => None,
            (Values::Message(group), value) => return group.append(bytes(value)?).map(|()| 1),
            (_, Raw::Bytes(packed)) => Some(packed),
            _ => None,
        };
        let Some(rest) = &mut packed else { return self.append_value(value).map(|()| 1) };
        let mut count = 0;
        while !rest.is_empty() {
            let (value, after) = match self.width() {
                Some(8) => fixed64(rest).map(|(value, rest)| (Raw::Fixed64(value), rest))?,
                Some(_) => fixed32(rest).map(|(value, rest)| (Raw::Fixed32(value), rest))?,
                None => varint(rest).map(|(value, rest)| (Raw::Varint(value), rest))?,
            };
            self.append_value(value)?;
            *rest = after;
            count += 1;
        }
        Ok(count)
    }

    /// How many bytes a value takes, if that is always the same.
    fn width(&self) -> Option<usize> {
        match self {
            Values::Double(_) | Values::Int64(_, Coding::Fixed) | Values::UInt64(_, Coding::Fixed) => Some(8),
            Values::Float(_) | Values::Int32(_, Coding::Fixed) | Values::UInt32(_, Coding::Fixed) => Some(4),
            _ => None,
        }
    }

    fn append_value(&mut self, value: Raw<'_>) -> Outcome<()> {
        match (self, value) {
            (Values::Double(to), Raw::Fixed64(bits)) => to.append_value(f64::from_bits(bits)),
            (Values::Float(to), Raw::Fixed32(bits)) => to.append_value(f32::from_bits(bits)),
            // Numbers that are too long are cut off, as Protobuf's own readers do.
            (Values::Int32(to, Coding::Plain), Raw::Varint(value)) => to.append_value(value as i32),
            (Values::Int32(to, Coding::ZigZag), Raw::Varint(value)) => {
                to.append_value(zigzag(value & 0xffff_ffff) as i32)
            }
            (Values::Int32(to, Coding::Fixed), Raw::Fixed32(value)) => to.append_value(value as i32),
            (Values::Int64(to, Coding::Plain), Raw::Varint(value)) => to.append_value(value as i64),
            (Values::Int64(to, Coding::ZigZag), Raw::Varint(value)) => to.append_value(zigzag(value)),
            (Values::Int64(to, Coding::Fixed), Raw::Fixed64(value)) => to.append_value(value as i64),
            (Values::UInt32(to, Coding::Plain), Raw::Varint(value)) => to.append_value(value as u32),
            (Values::UInt32(to, Coding::Fixed), Raw::Fixed32(value)) => to.append_value(value),
            (Values::UInt64(to, Coding::Plain), Raw::Varint(value)) => to.append_value(value),
            (Values::UInt64(to, Coding::Fixed), Raw::Fixed64(value)) => to.append_value(value),
            (Values::Bool(to), Raw::Varint(value)) => to.append_value(value != 0),
            (Values::Text(to), Raw::Bytes(bytes)) => {
                to.append_value(str::from_utf8(bytes).map_err(|_| "its text is not UTF-8")?);
            }
            (Values::Bytes(to), Raw::Bytes(bytes)) => to.append_value(bytes),
            (Values::Enum(to, names), Raw::Varint(value)) => match names.get(&(value as i32)) {
                Some(name) => to.append_value(name),
                // A value that is newer than the description.
                None => to.append_value((value as i32).to_string()),
            },
            (Values::Time(to), Raw::Bytes(message)) => to.append_value(time(message)?),
            (Values::Wrapped(values), Raw::Bytes(message)) => {
                let mut found = Found::Nothing;
                for field in Fields::new(message) {
                    if let (1, value) = field? {
                        found = Found::One(value);
                    }
                }
                values.append(&found, false)?;
            }
            (Values::Message(group), Raw::Bytes(message)) => group.append(message)?,
            _ => return Err("it is written as another type than its description says".into()),
        }
        Ok(())
    }

    fn append_null(&mut self) -> Outcome<()> {
        match self {
            Values::Double(to) => to.append_null(),
            Values::Float(to) => to.append_null(),
            Values::Int32(to, _) => to.append_null(),
            Values::Int64(to, _) => to.append_null(),
            Values::UInt32(to, _) => to.append_null(),
            Values::UInt64(to, _) => to.append_null(),
            Values::Bool(to) => to.append_null(),
            Values::Text(to) | Values::Enum(to, _) => to.append_null(),
            Values::Bytes(to) => to.append_null(),
            Values::Time(to) => to.append_null(),
            Values::Wrapped(values) => values.append_null()?,
            Values::Message(group) => group.append_null()?,
            Values::List { ends, .. } | Values::Map { ends, .. } => push_end(ends, 0)?,
        }
        Ok(())
    }

    /// What a field is that is not there, and does not tell so.
    fn append_zero(&mut self) -> Outcome<()> {
        match self {
            Values::Double(_) | Values::Int64(_, Coding::Fixed) | Values::UInt64(_, Coding::Fixed) => {
                self.append_value(Raw::Fixed64(0))
            }
            Values::Float(_) | Values::Int32(_, Coding::Fixed) | Values::UInt32(_, Coding::Fixed) => {
                self.append_value(Raw::Fixed32(0))
            }
            Values::Text(_) | Values::Bytes(_) => self.append_value(Raw::Bytes(&[])),
            Values::Int32(..)
            | Values::Int64(..)
            | Values::UInt32(..)
            | Values::UInt64(..)
            | Values::Bool(_)
            | Values::Enum(..) => self.append_value(Raw::Varint(0)),
            // Messages always tell.
            _ => self.append_null(),
        }
    }

    fn finish(&mut self) -> Outcome<ArrayRef> {
        let failed = |error: datafusion::arrow::error::ArrowError| error.to_string();
        let take = |ends: &mut Vec<i32>| OffsetBuffer::new(std::mem::replace(ends, vec![0]).into());
        Ok(match self {
            Values::Double(to) => Arc::new(to.finish()),
            Values::Float(to) => Arc::new(to.finish()),
            Values::Int32(to, _) => Arc::new(to.finish()),
            Values::Int64(to, _) => Arc::new(to.finish()),
            Values::UInt32(to, _) => Arc::new(to.finish()),
            Values::UInt64(to, _) => Arc::new(to.finish()),
            Values::Bool(to) => Arc::new(to.finish()),
            Values::Text(to) | Values::Enum(to, _) => Arc::new(to.finish()),
            Values::Bytes(to) => Arc::new(to.finish()),
            Values::Time(to) => Arc::new(to.finish()),
            Values::Wrapped(values) => values.finish()?,
            Values::Message(group) => Arc::new(group.finish()?),
            Values::List { ends, items } => {
                let field = item_field(items);
                Arc::new(ListArray::try_new(field, take(ends), items.finish()?, None).map_err(failed)?)
            }
            Values::Map { ends, keys, values } => {
                let fields = entry_fields(keys, values);
                let field = Arc::new(Field::new_struct("entries", fields.clone(), false));
                let entries = StructArray::try_new(fields, vec![keys.finish()?, values.finish()?], None);
                let entries = entries.map_err(failed)?;
                Arc::new(MapArray::try_new(field, take(ends), entries, None, false).map_err(failed)?)
            }
        })
    }
}

fn item_field(items: &Values) -> FieldRef {
    Arc::new(Field::new("item", items.data_type(), true))
}

fn entry_fields(keys: &Values, values: &Values) -> ArrowFields {
    vec![Field::new("key", keys.data_type(), false), Field::new("value", values.data_type(), true)].into()
}

fn push_end(ends: &mut Vec<i32>, count: usize) -> Outcome<()> {
    let last = ends.last().copied().unwrap_or(0);
    let end = i32::try_from(count).ok().and_then(|count| last.checked_add(count));
    ends.push(end.ok_or("lists are too long")?);
    Ok(())
}

/// Takes in the entries of a map, and gives how many; of several with the same key the last one counts.
fn append_entries(entries: &[Raw<'_>], keys: &mut Values, values: &mut Values) -> Outcome<usize> {
    let mut found: Vec<(Found<'_>, Found<'_>)> = Vec::with_capacity(entries.len());
    let mut places = HashMap::with_capacity(entries.len());
    for entry in entries {
        let (mut key, mut value) = (Found::Nothing, Found::Nothing);
        for field in Fields::new(bytes(*entry)?) {
            match field? {
                (1, raw) => key = Found::One(raw),
                (2, raw) => value.add(raw),
                _ => {}
            }
        }
        let name = match &key {
            Found::One(Raw::Bytes(text)) => (*text, 0),
            Found::One(Raw::Varint(number) | Raw::Fixed64(number)) => (&[][..], *number),
            Found::One(Raw::Fixed32(number)) => (&[][..], u64::from(*number)),
            _ => (&[][..], 0),
        };
        match places.insert(name, found.len()) {
            Some(before) => {
                places.insert(name, before);
                found[before] = (key, value);
            }
            None => found.push((key, value)),
        }
    }
    for (key, value) in &found {
        keys.append(key, false)?;
        match (value, &mut *values) {
            // A message that is not there is one without anything in it.
            (Found::Nothing, Values::Message(group)) => group.append(&[])?,
            (value, values) => values.append(value, false)?,
        }
    }
    Ok(found.len())
}

fn bytes(value: Raw<'_>) -> Outcome<&[u8]> {
    match value {
        Raw::Bytes(bytes) => Ok(bytes),
        _ => Err("it is written as another type than its description says".into()),
    }
}

fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Nanoseconds since 1970.
fn time(message: &[u8]) -> Outcome<i64> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields::new(message) {
        match field? {
            (1, Raw::Varint(value)) => seconds = value as i64,
            (2, Raw::Varint(value)) => nanos = value as i32,
            _ => {}
        }
    }
    let time = seconds.checked_mul(1_000_000_000).and_then(|time| time.checked_add(i64::from(nanos)));
    time.ok_or_else(|| format!("the time {seconds} s is beyond the years 1677 to 2262"))
}
