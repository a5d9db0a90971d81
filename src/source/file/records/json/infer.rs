//! Finding out the columns of JSON files.

use std::collections::HashMap;

use datafusion::arrow::datatypes::{DataType, Field, Fields};

use super::columns::Flaw;
use super::document::{Place, Step};
use super::lines::is_blank;
use super::rows::reason_of;
use super::text::{Broken, Cursor, Token, unescape};
use crate::source::file::records::bytes::ByteSource;
use crate::source::file::records::decoder::line_end;
use crate::source::file::values::Numbers;

/// The fields that were seen, in the order in which they came first, with what they held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::source::file) struct Object {
    fields: Vec<(String, Kind)>,
    positions: HashMap<String, usize>,
}

/// What a field held. A field with values of several kinds is text, as in Spark.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Null,
    Bool,
    Number(Numbers),
    Text,
    Object(Object),
    List(Box<Kind>),
}

impl Kind {
    fn merge(self, other: Kind) -> Kind {
        match (self, other) {
            (Kind::Null, kind) | (kind, Kind::Null) => kind,
            (Kind::Number(a), Kind::Number(b)) => Kind::Number(a.and(b)),
            (Kind::Object(mut a), Kind::Object(b)) => {
                a.merge(b);
                Kind::Object(a)
            }
            (Kind::List(a), Kind::List(b)) => Kind::List(Box::new(a.merge(*b))),
            (a, b) if a == b => a,
            _ => Kind::Text,
        }
    }

    fn data_type(&self) -> DataType {
        match self {
            // A column without any value so far holds text; it may get values later.
            Kind::Null | Kind::Text => DataType::Utf8,
            Kind::Bool => DataType::Boolean,
            Kind::Number(numbers) => numbers.data_type(),
            Kind::Object(object) => DataType::Struct(object.fields()),
            Kind::List(item) => DataType::new_list(item.data_type(), true),
        }
    }
}

impl Object {
    /// Adds what `other` has seen.
    pub(in crate::source::file) fn merge(&mut self, other: Object) {
        other.fields.into_iter().for_each(|(name, kind)| self.add(name, kind));
    }

    fn add(&mut self, name: String, kind: Kind) {
        match self.positions.get(&name) {
            Some(position) => {
                let known = &mut self.fields[*position].1;
                *known = std::mem::replace(known, Kind::Null).merge(kind);
            }
            None => {
                self.positions.insert(name.clone(), self.fields.len());
                self.fields.push((name, kind));
            }
        }
    }

    /// The columns that hold what was seen.
    pub(in crate::source::file) fn fields(&self) -> Fields {
        self.fields.iter().map(|(name, kind)| Field::new(name, kind.data_type(), true)).collect()
    }

    fn observe(&mut self, text: &[u8]) -> Result<(), Broken> {
        if std::str::from_utf8(text).is_err() {
            return Err(Broken::Wrong("it is not valid UTF-8".into()));
        }
        let mut cursor = Cursor::new(text, 0);
        if cursor.value()? != Token::Object {
            return Err(Broken::Wrong(
                "it is no object. If it is a JSON array, set multiLine to true".into(),
            ));
        }
        let object = read_object(&mut cursor, text)?;
        if cursor.peek().is_some() {
            return Err(Broken::Wrong("there is more on the line than one record".into()));
        }
        self.merge(object);
        Ok(())
    }
}

fn read_object(cursor: &mut Cursor<'_>, text: &[u8]) -> Result<Object, Broken> {
    let mut object = Object::default();
    let mut first = true;
    while let Some(key) = cursor.key(first)? {
        first = false;
        let mut name = Vec::new();
        unescape(&text[key.at], &mut name)?;
        let kind = read_kind(cursor, text)?;
        object.add(String::from_utf8_lossy(&name).into_owned(), kind);
    }
    Ok(object)
}

/// Columns of columns, at most, that are worth having; what lies deeper is text.
const MAX_LEVELS: usize = 50;

fn read_kind(cursor: &mut Cursor<'_>, text: &[u8]) -> Result<Kind, Broken> {
    Ok(match cursor.value()? {
        Token::Null => Kind::Null,
        Token::Bool(_) => Kind::Bool,
        Token::Number(at) => Kind::Number(Numbers::of(&String::from_utf8_lossy(&text[at]))),
        Token::Text(_) => Kind::Text,
        token if cursor.depth() > MAX_LEVELS => {
            cursor.skip_rest(token)?;
            Kind::Text
        }
        Token::Object => Kind::Object(read_object(cursor, text)?),
        Token::List => {
            let mut item = Kind::Null;
            let mut first = true;
            while cursor.item(first)? {
                first = false;
                item = item.merge(read_kind(cursor, text)?);
            }
            Kind::List(Box::new(item))
        }
    })
}

/// What the first `max` records of a file hold. With `tolerant` malformed ones do not count.
pub(in crate::source::file) async fn infer(
    mut bytes: ByteSource,
    is_document: bool,
    max: usize,
    tolerant: bool,
) -> Result<Object, String> {
    const CHUNK: usize = 64 << 10;
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let mut raw = Vec::new();
    let (mut at, mut records, mut object, mut place) = (0, 0, Object::default(), Place::Start);
    loop {
        let wanted = CHUNK.max(raw.len());
        let end = bytes.read(&mut raw, wanted).await.map_err(|error| error.strip_backtrace())?;
        if at == 0 && raw.starts_with(BYTE_ORDER_MARK) {
            at = BYTE_ORDER_MARK.len();
        }
        loop {
            let step = if is_document { place.step(&raw, at, end) } else { line(&raw, at, end) };
            let (item, then) = match step {
                Step::Item(item, then) => (item, then),
                Step::Hungry => break,
                Step::Done => return Ok(object),
                Step::Broken(at, reason) => return Err(at_line(&raw, at, reason)),
            };
            match object.observe(&raw[item.clone()]) {
                Ok(()) => records += 1,
                Err(_) if tolerant || is_blank(&raw[item.clone()]) => {}
                Err(broken) => {
                    let is_cut = !is_document && matches!(broken, Broken::Ended);
                    let mut reason = reason_of(Flaw::Broken(broken));
                    if is_cut {
                        reason += ". If a record has several lines, set multiLine to true";
                    }
                    return Err(at_line(&raw, item.start, reason));
                }
            }
            (at, place) = (item.end, then);
            if records == max {
                return Ok(object);
            }
        }
    }
}

fn line(raw: &[u8], at: usize, end: bool) -> Step {
    match line_end(raw, at, b'\n', end) {
        Some(next) => Step::Item(at..next, Place::Next),
        None if end => Step::Done,
        None => Step::Hungry,
    }
}

fn at_line(raw: &[u8], at: usize, reason: String) -> String {
    format!("line {}: {reason}", memchr::memchr_iter(b'\n', &raw[..at]).count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inferred(lines: &[&str]) -> String {
        let mut object = Object::default();
        lines.iter().for_each(|line| object.observe(line.as_bytes()).unwrap());
        let show = |field: &std::sync::Arc<Field>| format!("{} {}", field.name(), field.data_type());
        object.fields().iter().map(show).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn fields_get_the_type_that_holds_all_their_values() {
        assert_eq!(inferred(&["{\"b\":1,\"a\":\"x\"}", "{\"c\":null}"]), "b Int64, a Utf8, c Utf8");
        assert_eq!(inferred(&["{\"a\":1}", "{\"a\":1.5}"]), "a Float64");
        assert_eq!(inferred(&["{\"a\":1}", "{\"a\":\"x\"}"]), "a Utf8");
        assert_eq!(inferred(&["{\"a\":1}", "{\"a\":true}"]), "a Utf8");
        assert_eq!(inferred(&["{\"a\":true}", "{\"a\":null}"]), "a Boolean");
        assert_eq!(inferred(&["{\"a\":{\"x\":1}}", "{\"a\":\"x\"}"]), "a Utf8");
        assert_eq!(inferred(&["{\"a\":9223372036854775807}"]), "a Int64");
        assert_eq!(inferred(&["{\"a\":9223372036854775808}", "{\"a\":1}"]), "a Decimal128(38, 0)");
        assert_eq!(inferred(&["{\"a\":NaN}"]), "a Float64");
        assert_eq!(inferred(&[&format!("{{\"a\":{}}}", "1".repeat(39))]), "a Utf8");
        assert_eq!(inferred(&["{\"a\":[9007199254740993,0.5]}", "{\"a\":[]}"]), "a List(Decimal128(38, 1))");
        assert_eq!(inferred(&["{\"a\":[1,2.5]}", "{\"a\":[]}"]), "a List(Float64)");
        assert_eq!(
            inferred(&["{\"a\":[{\"x\":1}]}", "{\"a\":[{\"x\":\"y\",\"z\":2}]}"]),
            "a List(Struct(\"x\": Utf8, \"z\": Int64))"
        );
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(900), "]".repeat(900));
        assert!(inferred(&[&deep]).contains("Utf8"));
    }
}
