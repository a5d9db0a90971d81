//! Values of state as bytes: MessagePack, with structs as maps of their fields.
//!
//! The bytes are in checkpoints, so the format is frozen: it says itself what is in it, so that fields that are
//! added later with a default can be read from values that were written before.

use std::fmt;
use std::fmt::Write;

use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::rows::short_name;
use crate::error::{Error, Result};

/// What a checkpoint says of the format.
pub(super) const ENCODING: &str = "messagePack";

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    rmp_serde::to_vec_named(value)
        .map_err(|error| Error::Invalid(format!("a {} cannot be kept in state: {error}", short_name::<T>())))
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    rmp_serde::from_slice(bytes).map_err(|error| {
        Error::Invalid(format!(
            "a value of state cannot be read as {}: {error}. It is {}",
            short_name::<T>(),
            text(bytes)
        ))
    })
}

/// A value for people, much like JSON.
pub(crate) fn text(bytes: &[u8]) -> String {
    rmp_serde::from_slice::<Text>(bytes).map_or_else(|_| format!("{} bytes", bytes.len()), |text| text.0)
}

struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

macro_rules! as_text {
    ($($method:ident: $type:ty),*) => {
        $(fn $method<E>(self, value: $type) -> std::result::Result<Text, E> {
            Ok(Text(value.to_string()))
        })*
    };
}

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    as_text!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f32: f32, visit_f64: f64);

    fn visit_str<E>(self, value: &str) -> std::result::Result<Text, E> {
        Ok(Text(serde_json::Value::from(value).to_string()))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> std::result::Result<Text, E> {
        let mut text = String::from("0x");
        for byte in value {
            // Writing to a text does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        Ok(Text(text))
    }

    fn visit_unit<E>(self) -> std::result::Result<Text, E> {
        Ok(Text("null".into()))
    }

    fn visit_none<E>(self) -> std::result::Result<Text, E> {
        Ok(Text("null".into()))
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> std::result::Result<Text, D::Error> {
        Text::deserialize(value)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> std::result::Result<Text, D::Error> {
        Text::deserialize(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> std::result::Result<Text, A::Error> {
        let mut texts = Vec::new();
        while let Some(Text(text)) = elements.next_element()? {
            texts.push(text);
        }
        Ok(Text(format!("[{}]", texts.join(","))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Text, A::Error> {
        let mut texts = Vec::new();
        while let Some((Text(key), Text(value))) = entries.next_entry()? {
            texts.push(format!("{key}:{value}"));
        }
        Ok(Text(format!("{{{}}}", texts.join(","))))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Kind {
        Plain,
        Of(i64),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Value {
        name: String,
        some: Option<f64>,
        list: Vec<Kind>,
        map: BTreeMap<i64, ()>,
    }

    fn value() -> Value {
        let list = vec![Kind::Plain, Kind::Of(-3)];
        Value { name: "a\"b".into(), some: Some(1.5), list, map: BTreeMap::from([(7, ())]) }
    }

    /// The format is frozen.
    #[test]
    fn the_bytes_stay_what_they_are() {
        let bytes = encode(&value()).unwrap();
        let expected = b"\x84\xa4name\xa3a\"b\xa4some\xcb\x3f\xf8\0\0\0\0\0\0\xa4list\x92\xa5Plain\x81\xa2Of\xfd\xa3map\x81\x07\xc0";
        assert_eq!(bytes, expected);
        assert_eq!(decode::<Value>(&bytes).unwrap(), value());
        assert_eq!(
            text(&bytes),
            "{\"name\":\"a\\\"b\",\"some\":1.5,\"list\":[\"Plain\",{\"Of\":-3}],\"map\":{7:null}}"
        );
        assert!(decode::<f64>(&encode(&f64::NAN).unwrap()).unwrap().is_nan());
    }

    #[test]
    fn fields_may_be_added_with_a_default() {
        #[derive(Debug, Serialize)]
        struct Old {
            a: i64,
        }
        #[derive(Debug, PartialEq, Deserialize)]
        struct New {
            #[serde(default)]
            b: i64,
            a: i64,
        }
        let bytes = encode(&Old { a: 5 }).unwrap();
        assert_eq!(decode::<New>(&bytes).unwrap(), New { b: 0, a: 5 });
        let error = decode::<String>(&bytes).unwrap_err().to_string();
        assert!(error.ends_with("It is {\"a\":5}"), "{error}");
    }
}
