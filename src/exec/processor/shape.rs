//! What a type looks like to serde, as text, so that a checkpoint can tell when it has changed.
//!
//! A type that serde can read says what it expects when it is read. So it is read from nothing: every question
//! is noted, and answered with some value. An enum is read once for each of its variants. Where a type takes
//! no value that is made up, such as an address in a text, what comes behind it stays unknown (`…`); the same
//! type gives the same text all the same.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

/// How deep it is looked, and how often: types may contain themselves.
const DEPTH: usize = 12;
const PASSES: usize = 256;
const NODES: usize = 4096;

/// The shape of `T`.
pub(super) fn shape_of<T: DeserializeOwned>() -> String {
    let mut shape = Shape::Unknown;
    let mut nodes = 0;
    for _ in 0..PASSES {
        // What it says is in the shape.
        drop(T::deserialize(Tracer { shape: &mut shape, nodes: &mut nodes, depth: 0 }));
        if !shape.has_open_variants() || nodes > NODES {
            break;
        }
    }
    shape.to_string()
}

#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Unknown,
    Plain(&'static str),
    Option(Box<Shape>),
    List(Box<Shape>),
    Tuple(Vec<Shape>),
    Map(Box<(Shape, Shape)>),
    Struct(Vec<(&'static str, Shape)>),
    /// With which variants were looked at.
    Enum(Vec<(&'static str, Shape, bool)>),
}

impl Shape {
    fn has_open_variants(&self) -> bool {
        match self {
            Self::Unknown | Self::Plain(_) => false,
            Self::Option(inner) | Self::List(inner) => inner.has_open_variants(),
            Self::Tuple(parts) => parts.iter().any(Self::has_open_variants),
            Self::Map(entry) => entry.0.has_open_variants() || entry.1.has_open_variants(),
            Self::Struct(fields) => fields.iter().any(|(_, shape)| shape.has_open_variants()),
            Self::Enum(variants) => {
                variants.iter().any(|(_, shape, seen)| !seen || shape.has_open_variants())
            }
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("…"),
            Self::Plain(name) => f.write_str(name),
            Self::Option(inner) => write!(f, "{inner}?"),
            Self::List(inner) => write!(f, "[{inner}]"),
            Self::Tuple(parts) => {
                let parts: Vec<String> = parts.iter().map(Self::to_string).collect();
                write!(f, "({})", parts.join(", "))
            }
            Self::Map(entry) => write!(f, "{{{} => {}}}", entry.0, entry.1),
            Self::Struct(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|(name, shape)| format!("{name}: {shape}")).collect();
                write!(f, "{{{}}}", fields.join(", "))
            }
            Self::Enum(variants) => {
                let variants: Vec<String> = variants
                    .iter()
                    .map(|(name, shape, _)| match shape {
                        Self::Unknown => (*name).to_string(),
                        shape => format!("{name} {shape}"),
                    })
                    .collect();
                f.write_str(&variants.join(" | "))
            }
        }
    }
}

#[derive(Debug)]
struct Stop;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing is there")
    }
}

impl std::error::Error for Stop {}

impl serde::de::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

type Traced<T> = Result<T, Stop>;

struct Tracer<'a> {
    shape: &'a mut Shape,
    nodes: &'a mut usize,
    depth: usize,
}

impl<'a> Tracer<'a> {
    /// Goes into a part of the shape.
    fn inside(shape: &'a mut Shape, nodes: &'a mut usize, depth: usize) -> Traced<Tracer<'a>> {
        *nodes += 1;
        if depth >= DEPTH || *nodes > NODES {
            Err(Stop)
        } else {
            Ok(Tracer { shape, nodes, depth: depth + 1 })
        }
    }
}

macro_rules! plain {
    ($($method:ident: $name:literal $visit:ident($($value:expr)?);)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Traced<V::Value> {
            *self.shape = Shape::Plain($name);
            visitor.$visit($($value)?)
        })*
    };
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Stop;

    // As MessagePack, in which the values will be.
    fn is_human_readable(&self) -> bool {
        false
    }

    plain! {
        deserialize_bool: "bool" visit_bool(true);
        deserialize_i8: "i8" visit_i8(1);
        deserialize_i16: "i16" visit_i16(1);
        deserialize_i32: "i32" visit_i32(1);
        deserialize_i64: "i64" visit_i64(1);
        deserialize_i128: "i128" visit_i128(1);
        deserialize_u8: "u8" visit_u8(1);
        deserialize_u16: "u16" visit_u16(1);
        deserialize_u32: "u32" visit_u32(1);
        deserialize_u64: "u64" visit_u64(1);
        deserialize_u128: "u128" visit_u128(1);
        deserialize_f32: "f32" visit_f32(1.0);
        deserialize_f64: "f64" visit_f64(1.0);
        deserialize_char: "char" visit_char('1');
        deserialize_str: "text" visit_str("1");
        deserialize_string: "text" visit_str("1");
        deserialize_bytes: "bytes" visit_bytes(&[0; 16]);
        deserialize_byte_buf: "bytes" visit_bytes(&[0; 16]);
        deserialize_any: "any" visit_unit();
        deserialize_ignored_any: "any" visit_unit();
        deserialize_identifier: "text" visit_str("1");
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Traced<V::Value> {
        *self.shape = Shape::Plain("()");
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Traced<V::Value> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Traced<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Traced<V::Value> {
        if !matches!(self.shape, Shape::Option(_)) {
            *self.shape = Shape::Option(Box::new(Shape::Unknown));
        }
        let Shape::Option(inner) = self.shape else { return Err(Stop) };
        match Tracer::inside(inner, self.nodes, self.depth) {
            Ok(inside) => visitor.visit_some(inside),
            Err(Stop) => visitor.visit_none(),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Traced<V::Value> {
        if !matches!(self.shape, Shape::List(_)) {
            *self.shape = Shape::List(Box::new(Shape::Unknown));
        }
        let Shape::List(inner) = self.shape else { return Err(Stop) };
        let parts = std::slice::from_mut(inner.as_mut());
        visitor.visit_seq(Parts { parts, nodes: self.nodes, depth: self.depth, at: 0, is_list: true })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Traced<V::Value> {
        if !matches!(self.shape, Shape::Tuple(_)) {
            *self.shape = Shape::Tuple(vec![Shape::Unknown; len]);
        }
        let Shape::Tuple(parts) = self.shape else { return Err(Stop) };
        visitor.visit_seq(Parts { parts, nodes: self.nodes, depth: self.depth, at: 0, is_list: false })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Traced<V::Value> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Traced<V::Value> {
        if !matches!(self.shape, Shape::Map(_)) {
            *self.shape = Shape::Map(Box::new((Shape::Unknown, Shape::Unknown)));
        }
        let Shape::Map(entry) = self.shape else { return Err(Stop) };
        visitor.visit_map(Entry { entry, nodes: self.nodes, depth: self.depth, at: 0 })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Traced<V::Value> {
        if !matches!(self.shape, Shape::Struct(_)) {
            *self.shape = Shape::Struct(fields.iter().map(|name| (*name, Shape::Unknown)).collect());
        }
        let Shape::Struct(fields) = self.shape else { return Err(Stop) };
        visitor.visit_map(StructFields { fields, nodes: self.nodes, depth: self.depth, at: 0 })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Traced<V::Value> {
        if !matches!(self.shape, Shape::Enum(_)) {
            *self.shape = Shape::Enum(variants.iter().map(|name| (*name, Shape::Unknown, false)).collect());
        }
        let Shape::Enum(variants) = self.shape else { return Err(Stop) };
        let open = variants.iter().position(|(_, shape, seen)| !seen || shape.has_open_variants());
        let Some((name, shape, seen)) = variants.get_mut(open.unwrap_or(0)) else { return Err(Stop) };
        *seen = true;
        visitor.visit_enum(Variant { name, shape, nodes: self.nodes, depth: self.depth })
    }
}

struct Parts<'a> {
    parts: &'a mut [Shape],
    nodes: &'a mut usize,
    depth: usize,
    at: usize,
    /// One element stands for all.
    is_list: bool,
}

impl<'de> SeqAccess<'de> for Parts<'_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Traced<Option<T::Value>> {
        let Some(part) = self.parts.get_mut(self.at) else { return Ok(None) };
        self.at += 1;
        match Tracer::inside(part, self.nodes, self.depth) {
            Ok(inside) => seed.deserialize(inside).map(Some),
            Err(Stop) if self.is_list => Ok(None),
            Err(Stop) => Err(Stop),
        }
    }
}

struct Entry<'a> {
    entry: &'a mut (Shape, Shape),
    nodes: &'a mut usize,
    depth: usize,
    at: usize,
}

impl<'de> MapAccess<'de> for Entry<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Traced<Option<K::Value>> {
        self.at += 1;
        if self.at > 1 {
            return Ok(None);
        }
        match Tracer::inside(&mut self.entry.0, self.nodes, self.depth) {
            Ok(inside) => seed.deserialize(inside).map(Some),
            Err(Stop) => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Traced<V::Value> {
        seed.deserialize(Tracer::inside(&mut self.entry.1, self.nodes, self.depth)?)
    }
}

struct StructFields<'a> {
    fields: &'a mut [(&'static str, Shape)],
    nodes: &'a mut usize,
    depth: usize,
    at: usize,
}

impl<'de> MapAccess<'de> for StructFields<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Traced<Option<K::Value>> {
        let Some((name, _)) = self.fields.get(self.at) else { return Ok(None) };
        let name: StrDeserializer<'_, Stop> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Traced<V::Value> {
        let Some((_, shape)) = self.fields.get_mut(self.at) else { return Err(Stop) };
        self.at += 1;
        seed.deserialize(Tracer::inside(shape, self.nodes, self.depth)?)
    }
}

struct Variant<'a> {
    name: &'static str,
    shape: &'a mut Shape,
    nodes: &'a mut usize,
    depth: usize,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Stop;
    type Variant = Variant<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Traced<(V::Value, Variant<'a>)> {
        let name: StrDeserializer<'_, Stop> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Stop;

    fn unit_variant(self) -> Traced<()> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Traced<T::Value> {
        seed.deserialize(Tracer::inside(self.shape, self.nodes, self.depth)?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Traced<V::Value> {
        Tracer::inside(self.shape, self.nodes, self.depth)?.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Traced<V::Value> {
        Tracer::inside(self.shape, self.nodes, self.depth)?.deserialize_struct("", fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    enum Kind {
        Plain,
        One(i64),
        Two(u8, String),
        Named { a: bool, inner: Option<Inner> },
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    enum Inner {
        Left,
        Right(f64),
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Tree {
        value: i64,
        children: Vec<Tree>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Record {
        id: uuid::Uuid,
        kinds: Vec<Kind>,
        names: BTreeMap<String, (i32, f32)>,
        address: std::net::IpAddr,
        more: Option<char>,
    }

    #[test]
    fn types_are_told_apart_by_their_shapes() {
        assert_eq!(shape_of::<i64>(), "i64");
        assert_eq!(shape_of::<Option<Vec<String>>>(), "[text]?");
        assert_eq!(
            shape_of::<Kind>(),
            "Plain | One i64 | Two (u8, text) | Named {a: bool, inner: Left | Right f64?}"
        );
        let record = shape_of::<Record>();
        assert!(record.starts_with("{id: bytes, kinds: [Plain | One i64"), "{record}");
        assert!(record.contains("names: {text => (i32, f32)}"), "{record}");
        // A type without end comes to one.
        let tree = shape_of::<Tree>();
        assert!(tree.starts_with("{value: i64, children: [{value: i64, children: [{"), "{tree}");
        assert_eq!(tree, shape_of::<Tree>());
    }
}
