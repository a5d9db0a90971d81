//! Descriptions of Protobuf's messages: what `protoc --include_imports --descriptor_set_out` writes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::wire::{Fields, Raw};

/// A message type.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    pub(crate) fields: Vec<FieldInfo>,
    /// It is an entry of a map, with key and value.
    pub(crate) is_entry: bool,
}

/// A field of a message.
#[derive(Debug, Clone, Default)]
pub(crate) struct FieldInfo {
    pub(crate) name: String,
    pub(crate) number: u32,
    pub(crate) is_repeated: bool,
    /// Whether a message tells one that is not there from one that has the value zero.
    pub(crate) has_presence: bool,
    /// Whether a message without it is none (of `proto2`).
    pub(crate) is_required: bool,
    pub(crate) kind: Kind,
}

/// The type of a field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    Double,
    Float,
    Int64,
    UInt64,
    #[default]
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    Text,
    Bytes,
    UInt32,
    SFixed32,
    SFixed64,
    SInt32,
    SInt64,
    /// By its full name.
    Enum(String),
    Message(String),
    /// Out of use.
    Group,
}

/// The names of an enum's values.
pub(crate) type Names = Arc<BTreeMap<i32, String>>;

/// All types of some files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Types {
    messages: HashMap<String, Message>,
    enums: HashMap<String, Names>,
}

impl Types {
    /// Those of a descriptor set.
    pub(crate) fn parse(set: &[u8]) -> Result<Self, String> {
        let mut types = Self::default();
        for field in Fields::new(set) {
            if let (1, Raw::Bytes(file)) = field? {
                types.file(file)?;
            }
        }
        if types.messages.is_empty() {
            return Err("there is no message in it".into());
        }
        Ok(types)
    }

    /// The message `name`, in full or as far as there is no other, and its full name.
    pub(crate) fn find(&self, name: &str) -> Result<(&str, &Message), String> {
        let name = name.trim_start_matches('.');
        if let Some((name, message)) = self.messages.get_key_value(name) {
            return Ok((name, message));
        }
        let end = format!(".{name}");
        let mut found: Vec<&String> = self.messages.keys().filter(|full| full.ends_with(&end)).collect();
        found.sort_unstable();
        match found.as_slice() {
            [one] => Ok((one, &self.messages[*one])),
            [] => {
                let mut names: Vec<&str> =
                    self.messages.iter().filter(|(_, m)| !m.is_entry).map(|(n, _)| n.as_str()).collect();
                names.sort_unstable();
                names.truncate(20);
                Err(format!("there is no message '{name}' in it, but {}", names.join(", ")))
            }
            [one, other, ..] => Err(format!("both '{one}' and '{other}' can be meant by '{name}'")),
        }
    }

    pub(crate) fn message(&self, name: &str) -> Result<&Message, String> {
        self.messages.get(name).ok_or_else(|| {
            format!("the message '{name}' is missing in it. Let protoc include imports (--include_imports)")
        })
    }

    pub(crate) fn names(&self, name: &str) -> Result<Names, String> {
        self.enums.get(name).cloned().ok_or_else(|| {
            format!("the enum '{name}' is missing in it. Let protoc include imports (--include_imports)")
        })
    }

    fn file(&mut self, file: &[u8]) -> Result<(), String> {
        let (mut package, mut syntax) = (String::new(), String::new());
        for field in Fields::new(file) {
            match field? {
                (2, Raw::Bytes(name)) => package = text(name)?,
                (12, Raw::Bytes(name)) => syntax = text(name)?,
                _ => {}
            }
        }
        let always = syntax != "proto3";
        for field in Fields::new(file) {
            match field? {
                (4, Raw::Bytes(message)) => self.add_message(message, &package, always, 0)?,
                (5, Raw::Bytes(values)) => self.add_enum(values, &package)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn add_message(&mut self, bytes: &[u8], space: &str, always: bool, depth: usize) -> Result<(), String> {
        if depth > 50 {
            return Err("its messages are too deep within one another".into());
        }
        let name = full(space, &name_of(bytes)?);
        let mut message = Message::default();
        for field in Fields::new(bytes) {
            match field? {
                (2, Raw::Bytes(field)) => message.fields.push(FieldInfo::parse(field, always)?),
                (3, Raw::Bytes(nested)) => self.add_message(nested, &name, always, depth + 1)?,
                (4, Raw::Bytes(values)) => self.add_enum(values, &name)?,
                (7, Raw::Bytes(options)) => {
                    for option in Fields::new(options) {
                        message.is_entry |= option? == (7, Raw::Varint(1));
                    }
                }
                _ => {}
            }
        }
        self.messages.insert(name, message);
        Ok(())
    }

    fn add_enum(&mut self, bytes: &[u8], space: &str) -> Result<(), String> {
        let mut names = BTreeMap::new();
        for field in Fields::new(bytes) {
            let (2, Raw::Bytes(value)) = field? else { continue };
            let mut number = 0;
            for part in Fields::new(value) {
                if let (2, Raw::Varint(value)) = part? {
                    number = value as i32;
                }
            }
            // Of several names for a number the first is its own.
            names.entry(number).or_insert(name_of(value)?);
        }
        self.enums.insert(full(space, &name_of(bytes)?), Arc::new(names));
        Ok(())
    }
}

impl FieldInfo {
    /// `always`: in this file all fields tell whether they are there.
    fn parse(bytes: &[u8], always: bool) -> Result<Self, String> {
        let mut field = Self { name: name_of(bytes)?, has_presence: always, ..Self::default() };
        let (mut kind, mut of) = (0, String::new());
        for part in Fields::new(bytes) {
            match part? {
                (3, Raw::Varint(number)) => field.number = number as u32,
                (4, Raw::Varint(label)) => {
                    (field.is_required, field.is_repeated) = (label == 2, label == 3);
                }
                (5, Raw::Varint(number)) => kind = number,
                (6, Raw::Bytes(name)) => of = text(name)?.trim_start_matches('.').to_string(),
                // In a oneof, or optional.
                (9 | 17, Raw::Varint(_)) => field.has_presence = true,
                _ => {}
            }
        }
        field.kind = match kind {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::UInt64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            9 => Kind::Text,
            10 => Kind::Group,
            11 => Kind::Message(of),
            12 => Kind::Bytes,
            13 => Kind::UInt32,
            14 => Kind::Enum(of),
            15 => Kind::SFixed32,
            16 => Kind::SFixed64,
            17 => Kind::SInt32,
            18 => Kind::SInt64,
            other => return Err(format!("field '{}' is of a type that there is not ({other})", field.name)),
        };
        Ok(field)
    }
}

/// A time, which is a timestamp in columns.
pub(crate) const TIMESTAMP: &str = "google.protobuf.Timestamp";

/// What is in a message around one value, which in columns is that value.
pub(crate) fn wrapped(message: &str) -> Option<Kind> {
    Some(match message.strip_prefix("google.protobuf.")? {
        "DoubleValue" => Kind::Double,
        "FloatValue" => Kind::Float,
        "Int64Value" => Kind::Int64,
        "UInt64Value" => Kind::UInt64,
        "Int32Value" => Kind::Int32,
        "UInt32Value" => Kind::UInt32,
        "BoolValue" => Kind::Bool,
        "StringValue" => Kind::Text,
        "BytesValue" => Kind::Bytes,
        _ => return None,
    })
}

/// The field 1, which in descriptors is the name.
fn name_of(bytes: &[u8]) -> Result<String, String> {
    for field in Fields::new(bytes) {
        if let (1, Raw::Bytes(name)) = field? {
            return text(name);
        }
    }
    Err("something in it has no name".into())
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a name in it is not UTF-8".into())
}

fn full(space: &str, name: &str) -> String {
    if space.is_empty() { name.to_string() } else { format!("{space}.{name}") }
}
