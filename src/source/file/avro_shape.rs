//! Which bytes are values of an Avro schema.

use std::collections::HashMap;

use serde_json::Value;

/// The shape of a type's values.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    root: Kind,
    /// Types that have names.
    named: Vec<Kind>,
}

#[derive(Debug, Clone)]
enum Kind {
    Fixed(usize),
    /// A byte that is 0 or 1.
    Boolean,
    /// A number of one to ten bytes.
    Long,
    /// A number of 32 bits.
    Int,
    /// A number below this one.
    Below(usize),
    /// A length and as many bytes.
    Bytes,
    /// The same, and they are UTF-8.
    Text,
    Record(Vec<Kind>),
    List(Box<Kind>),
    Map(Box<Kind>),
    Union(Vec<Kind>),
    Named(usize),
}

/// Values within one another, at most.
const MAX_DEPTH: usize = 200;
/// Values that take no bytes, at most, in one list or block.
const MAX_EMPTY: u64 = 1 << 24;

impl Shape {
    /// The shape of the schema in `json`; `None` if it is no schema.
    pub(super) fn parse(json: &str) -> Option<Self> {
        let mut names = Names::default();
        let root = names.kind(&serde_json::from_str(json).ok()?, "", 0)?;
        let named = names.kinds.into_iter().collect::<Option<Vec<_>>>()?;
        Some(Self { root, named })
    }

    /// What follows `count` values in `data`; `None` if there are not so many.
    pub(super) fn skip_all<'a>(&self, count: u64, data: &'a [u8]) -> Option<&'a [u8]> {
        self.skip_many(&self.root, count, data, 0)
    }

    fn skip_many<'a>(&self, kind: &Kind, count: u64, mut data: &'a [u8], depth: usize) -> Option<&'a [u8]> {
        let mut empty = 0;
        for _ in 0..count {
            let rest = self.skip(kind, data, depth)?;
            if rest.len() == data.len() {
                empty += 1;
                if empty > MAX_EMPTY {
                    return None;
                }
            }
            data = rest;
        }
        Some(data)
    }

    fn skip<'a>(&self, kind: &Kind, data: &'a [u8], depth: usize) -> Option<&'a [u8]> {
        if depth > MAX_DEPTH {
            return None;
        }
        match kind {
            Kind::Fixed(length) => data.get(*length..),
            Kind::Boolean => data.split_first().filter(|(byte, _)| **byte <= 1).map(|(_, rest)| rest),
            Kind::Long => long(data).map(|(_, rest)| rest),
            Kind::Int => long(data).filter(|(value, _)| i32::try_from(*value).is_ok()).map(|(_, rest)| rest),
            Kind::Below(end) => {
                let (index, rest) = long(data)?;
                (usize::try_from(index).ok()? < *end).then_some(rest)
            }
            Kind::Bytes => bytes(data).map(|(_, rest)| rest),
            Kind::Text => bytes(data).filter(|(text, _)| str::from_utf8(text).is_ok()).map(|(_, rest)| rest),
            Kind::Record(fields) => {
                fields.iter().try_fold(data, |data, field| self.skip(field, data, depth + 1))
            }
            Kind::List(item) => {
                self.skip_blocks(data, |data, count| self.skip_many(item, count, data, depth + 1))
            }
            Kind::Map(value) => self.skip_blocks(data, |data, count| {
                let entry = Kind::Record(vec![Kind::Text, value.as_ref().clone()]);
                self.skip_many(&entry, count, data, depth + 1)
            }),
            Kind::Union(branches) => {
                let (branch, rest) = long(data)?;
                self.skip(branches.get(usize::try_from(branch).ok()?)?, rest, depth + 1)
            }
            Kind::Named(index) => self.skip(self.named.get(*index)?, data, depth + 1),
        }
    }

    /// Items come in blocks with their number; a negative one is followed by the length in bytes.
    fn skip_blocks<'a>(
        &self,
        mut data: &'a [u8],
        skip: impl Fn(&'a [u8], u64) -> Option<&'a [u8]>,
    ) -> Option<&'a [u8]> {
        loop {
            let (count, mut rest) = long(data)?;
            if count == 0 {
                return Some(rest);
            }
            let mut length = None;
            if count < 0 {
                let (said, after) = long(rest)?;
                (length, rest) = (Some(usize::try_from(said).ok()?), after);
            }
            data = skip(rest, count.unsigned_abs())?;
            if length.is_some_and(|length| rest.len() - data.len() != length) {
                return None;
            }
        }
    }
}

fn bytes(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = long(data)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

fn long(data: &[u8]) -> Option<(i64, &[u8])> {
    let mut zigzag = 0_u64;
    for (index, byte) in data.iter().enumerate().take(10) {
        zigzag |= u64::from(byte & 0x7f) << (7 * index).min(63);
        if byte & 0x80 == 0 {
            let value = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
            return Some((value, &data[index + 1..]));
        }
    }
    None
}

/// The named types of a schema; `None` while one is being read.
#[derive(Debug, Default)]
struct Names {
    positions: HashMap<String, usize>,
    kinds: Vec<Option<Kind>>,
}

impl Names {
    fn kind(&mut self, schema: &Value, space: &str, depth: usize) -> Option<Kind> {
        if depth > MAX_DEPTH {
            return None;
        }
        match schema {
            Value::String(name) => self.plain(name, space),
            Value::Array(branches) => {
                let kinds = branches.iter().map(|branch| self.kind(branch, space, depth + 1));
                kinds.collect::<Option<Vec<_>>>().map(Kind::Union)
            }
            Value::Object(object) => {
                let inner = |names: &mut Self, key: &str| names.kind(object.get(key)?, space, depth + 1);
                match object.get("type")? {
                    Value::String(name) => match name.as_str() {
                        "record" | "error" => self.record(object, space, depth),
                        "enum" => {
                            let symbols = object.get("symbols")?.as_array()?.len();
                            self.name(object, space, Kind::Below(symbols))
                        }
                        "fixed" => {
                            let size = usize::try_from(object.get("size")?.as_u64()?).ok()?;
                            self.name(object, space, Kind::Fixed(size))
                        }
                        "array" => inner(self, "items").map(|item| Kind::List(Box::new(item))),
                        "map" => inner(self, "values").map(|value| Kind::Map(Box::new(value))),
                        name => self.plain(name, space),
                    },
                    nested => self.kind(nested, space, depth + 1),
                }
            }
            _ => None,
        }
    }

    fn plain(&self, name: &str, space: &str) -> Option<Kind> {
        Some(match name {
            "null" => Kind::Fixed(0),
            "boolean" => Kind::Boolean,
            "int" => Kind::Int,
            "long" => Kind::Long,
            "float" => Kind::Fixed(4),
            "double" => Kind::Fixed(8),
            "bytes" => Kind::Bytes,
            "string" => Kind::Text,
            name => {
                let position = self.positions.get(&full_name(name, space));
                Kind::Named(*position.or_else(|| self.positions.get(name))?)
            }
        })
    }

    fn reserve(&mut self, object: &serde_json::Map<String, Value>, space: &str) -> Option<(usize, String)> {
        let own = object.get("namespace").and_then(Value::as_str);
        let name = full_name(object.get("name")?.as_str()?, own.unwrap_or(space));
        let space = name.rsplit_once('.').map_or("", |(space, _)| space).to_string();
        self.positions.insert(name, self.kinds.len());
        self.kinds.push(None);
        Some((self.kinds.len() - 1, space))
    }

    fn name(&mut self, object: &serde_json::Map<String, Value>, space: &str, kind: Kind) -> Option<Kind> {
        let (position, _) = self.reserve(object, space)?;
        self.kinds[position] = Some(kind.clone());
        Some(kind)
    }

    fn record(&mut self, object: &serde_json::Map<String, Value>, space: &str, depth: usize) -> Option<Kind> {
        let (position, space) = self.reserve(object, space)?;
        let fields = object.get("fields")?.as_array()?;
        let kinds = fields.iter().map(|field| self.kind(field.get("type")?, &space, depth + 1));
        let record = Kind::Record(kinds.collect::<Option<Vec<_>>>()?);
        self.kinds[position] = Some(record);
        Some(Kind::Named(position))
    }
}

fn full_name(name: &str, space: &str) -> String {
    if name.contains('.') || space.is_empty() { name.to_string() } else { format!("{space}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_long_as_their_schema_says() {
        for (schema, data) in [
            (r#""long""#, &[0x80, 0x01][..]),
            (r#""string""#, &[6, b'a', b'b', b'c']),
            (r#"["null","double"]"#, &[2, 0, 0, 0, 0, 0, 0, 0, 0]),
            (r#"["null","double"]"#, &[0]),
            (r#"{"type":"array","items":"int"}"#, &[4, 1, 2, 0]),
            (r#"{"type":"array","items":"int"}"#, &[3, 4, 1, 2, 0]),
            (r#"{"type":"map","values":"boolean"}"#, &[2, 2, b'k', 1, 0]),
            (r#"{"type":"fixed","name":"f","size":3}"#, &[1, 2, 3]),
            (r#"{"type":"enum","name":"e","symbols":["a"]}"#, &[0]),
            (r#"{"type":"int","logicalType":"date"}"#, &[2]),
            (
                r#"{"type":"record","name":"a.r","fields":[{"name":"x","type":"int"},{"name":"n","type":["null","r"]}]}"#,
                &[2, 2, 4, 0],
            ),
        ] {
            let shape = Shape::parse(schema).unwrap();
            assert_eq!(shape.skip_all(1, data), Some(&[][..]), "{schema}");
            for end in 0..data.len() {
                assert_eq!(shape.skip_all(1, &data[..end]), None, "{schema} {end}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_value_are_refused() {
        for (schema, data) in [
            (r#""boolean""#, &[2][..]),
            (r#""int""#, &[0x80, 0x80, 0x80, 0x80, 0x10]),
            (r#""string""#, &[2, 0xff]),
            (r#"{"type":"map","values":"null"}"#, &[2, 2, 0xff, 0]),
            (r#"{"type":"enum","name":"e","symbols":["a"]}"#, &[2]),
            (r#"{"type":"enum","name":"e","symbols":["a"]}"#, &[1]),
            (r#"["null","long"]"#, &[4, 0]),
        ] {
            assert_eq!(Shape::parse(schema).unwrap().skip_all(1, data), None, "{schema}");
        }
    }

    #[test]
    fn nothing_goes_on_for_ever() {
        let nulls = Shape::parse(r#"{"type":"array","items":"null"}"#).unwrap();
        let mut many = vec![0xff; 9];
        many[8] = 0x7e;
        many.push(0);
        assert_eq!(nulls.skip_all(1, &many), None);
        assert_eq!(Shape::parse(r#""null""#).unwrap().skip_all(u64::MAX, &[]), None);
        let deep = r#"{"type":"record","name":"r","fields":[{"name":"n","type":["null","r"]}]}"#;
        assert_eq!(Shape::parse(deep).unwrap().skip_all(1, &[2; 10_000]), None);
        let endless = r#"{"type":"record","name":"r","fields":[{"name":"n","type":"r"}]}"#;
        assert_eq!(Shape::parse(endless).unwrap().skip_all(1, &[2; 10]), None);
        for bad in ["", "7", r#""unknown""#, r#"{"type":"record"}"#, r#"{"type":"fixed","name":"f"}"#] {
            assert!(Shape::parse(bad).is_none(), "{bad}");
        }
    }
}
