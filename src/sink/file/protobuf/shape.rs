//! As what the columns of rows are written.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Fields};

use crate::protobuf::descriptor::{FieldInfo, Kind, Message, TIMESTAMP, Types, wrapped};

/// Messages within one another, at most.
const MAX_DEPTH: usize = 50;

type Outcome<T> = Result<T, String>;

/// A field of a message that a column is written to.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) number: u32,
    /// The position of the column.
    pub(super) column: usize,
    /// Whether a value of zero is written: otherwise it is what is read where there is none.
    pub(super) has_presence: bool,
    pub(super) is_required: bool,
    pub(super) shape: Shape,
}

/// How the values of a column are written.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    Double,
    Float,
    Int32(Coding),
    Int64(Coding),
    UInt32(Coding),
    UInt64(Coding),
    Bool,
    Text,
    Bytes,
    /// By the numbers of names.
    Enum(Arc<HashMap<String, i32>>),
    /// `google.protobuf.Timestamp`.
    Time,
    /// A message around one value.
    Wrapped(Box<Shape>),
    Message(Vec<Member>),
    List(Box<Shape>),
    Map(Box<Shape>, Box<Shape>),
}

/// How a whole number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Plain,
    ZigZag,
    Fixed,
}

/// The fields of `message` that `columns` are written to, in the order of their numbers.
pub(super) fn members(
    message: &Message,
    types: &Types,
    columns: &Fields,
    depth: usize,
) -> Outcome<Vec<Member>> {
    if depth > MAX_DEPTH {
        return Err("messages are too deep within one another".into());
    }
    let mut found = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter().enumerate() {
        let named = |is: &dyn Fn(&str) -> bool| message.fields.iter().find(|field| is(&field.name));
        let field = named(&|name| name == column.name())
            .or_else(|| named(&|name| name.eq_ignore_ascii_case(column.name())))
            .ok_or_else(|| {
                format!("it has no field for the column '{}'. Leave that column out", column.name())
            })?;
        let shape = Shape::of_field(field, types, column.data_type(), depth)
            .map_err(|reason| format!("field '{}': {reason}", field.name))?;
        found.push(Member {
            name: field.name.clone(),
            number: field.number,
            column: index,
            has_presence: field.has_presence,
            is_required: field.is_required,
            shape,
        });
    }
    found.sort_by_key(|member| member.number);
    if let Some(pair) = found.windows(2).find(|pair| pair[0].number == pair[1].number) {
        return Err(format!("two columns are both its field '{}'", pair[0].name));
    }
    let is_missing = |field: &&FieldInfo| {
        field.is_required && found.binary_search_by_key(&field.number, |member| member.number).is_err()
    };
    match message.fields.iter().find(is_missing) {
        Some(field) => Err(format!("its field '{}' is required, and there is no such column", field.name)),
        None => Ok(found),
    }
}

impl Shape {
    fn of_field(field: &FieldInfo, types: &Types, data_type: &DataType, depth: usize) -> Outcome<Self> {
        if !field.is_repeated {
            return Self::of_kind(&field.kind, types, data_type, depth);
        }
        if let Kind::Message(name) = &field.kind
            && let entry = types.message(name)?
            && entry.is_entry
        {
            let DataType::Map(entries, _) = data_type else {
                return Err(format!("it is a map, which a column of type {data_type} is not"));
            };
            let DataType::Struct(parts) = entries.data_type() else {
                return Err("the map has no entries".into());
            };
            let part = |number: u32, place: usize| {
                let field = entry.fields.iter().find(|field| field.number == number);
                let (field, column) = field.zip(parts.get(place)).ok_or("a map has no key or no value")?;
                Self::of_kind(&field.kind, types, column.data_type(), depth).map(Box::new)
            };
            return Ok(Shape::Map(part(1, 0)?, part(2, 1)?));
        }
        match data_type {
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                Ok(Shape::List(Box::new(Self::of_kind(&field.kind, types, item.data_type(), depth)?)))
            }
            _ => Err(format!("it is repeated, and a column of type {data_type} is no list")),
        }
    }

    fn of_kind(kind: &Kind, types: &Types, data_type: &DataType, depth: usize) -> Outcome<Self> {
        use Coding::{Fixed, Plain, ZigZag};
        let (shape, fits) = match kind {
            Kind::Double => (Shape::Double, data_type.is_floating() || is_exact_in_double(data_type)),
            Kind::Float => (Shape::Float, matches!(data_type, DataType::Float32 | DataType::Float16)),
            Kind::Int32 => (Shape::Int32(Plain), data_type.is_integer()),
            Kind::SInt32 => (Shape::Int32(ZigZag), data_type.is_integer()),
            Kind::SFixed32 => (Shape::Int32(Fixed), data_type.is_integer()),
            Kind::Int64 => (Shape::Int64(Plain), data_type.is_integer()),
            Kind::SInt64 => (Shape::Int64(ZigZag), data_type.is_integer()),
            Kind::SFixed64 => (Shape::Int64(Fixed), data_type.is_integer()),
            Kind::UInt32 => (Shape::UInt32(Plain), data_type.is_integer()),
            Kind::Fixed32 => (Shape::UInt32(Fixed), data_type.is_integer()),
            Kind::UInt64 => (Shape::UInt64(Plain), data_type.is_integer()),
            Kind::Fixed64 => (Shape::UInt64(Fixed), data_type.is_integer()),
            Kind::Bool => (Shape::Bool, matches!(data_type, DataType::Boolean)),
            Kind::Text => (Shape::Text, data_type.is_string()),
            Kind::Bytes => (Shape::Bytes, data_type.is_binary()),
            Kind::Enum(name) => {
                let numbers =
                    types.names(name)?.iter().map(|(number, name)| (name.clone(), *number)).collect();
                (Shape::Enum(Arc::new(numbers)), data_type.is_string())
            }
            Kind::Message(name) => return Self::of_message(name, types, data_type, depth),
            Kind::Group => return Err("groups are out of use, and are not written".into()),
        };
        if fits {
            return Ok(shape);
        }
        Err(format!("a column of type {data_type} cannot be written as {}. Cast it", name_of(kind)))
    }

    fn of_message(name: &str, types: &Types, data_type: &DataType, depth: usize) -> Outcome<Self> {
        match (data_type, wrapped(name)) {
            (DataType::Timestamp(_, _), _) if name == TIMESTAMP => Ok(Shape::Time),
            (DataType::Struct(fields), _) => {
                members(types.message(name)?, types, fields, depth + 1).map(Shape::Message)
            }
            (_, Some(kind)) => {
                Self::of_kind(&kind, types, data_type, depth).map(|shape| Shape::Wrapped(Box::new(shape)))
            }
            _ if name == TIMESTAMP => Err(format!("a column of type {data_type} is no timestamp")),
            _ => Err(format!("it is a message, '{name}', and a column of type {data_type} is no struct")),
        }
    }

    /// The kind of a field with this value on the wire.
    pub(super) fn wire_type(&self) -> u8 {
        match self {
            Shape::Int32(Coding::Fixed) | Shape::UInt32(Coding::Fixed) | Shape::Float => 5,
            Shape::Int64(Coding::Fixed) | Shape::UInt64(Coding::Fixed) | Shape::Double => 1,
            Shape::Int32(_)
            | Shape::Int64(_)
            | Shape::UInt32(_)
            | Shape::UInt64(_)
            | Shape::Bool
            | Shape::Enum(_) => 0,
            _ => 2,
        }
    }
}

fn is_exact_in_double(data_type: &DataType) -> bool {
    use DataType::{Int8, Int16, Int32, UInt8, UInt16, UInt32};
    matches!(data_type, Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32)
}

fn name_of(kind: &Kind) -> String {
    match kind {
        Kind::Text => "string".into(),
        Kind::Enum(name) => format!("the enum '{name}', whose values are texts"),
        kind => format!("{kind:?}").to_lowercase(),
    }
}
