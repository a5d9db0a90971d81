//! Messages of Protobuf's, by a description of their types.

mod columns;

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{Array, StructArray};
use datafusion::arrow::datatypes::{Fields, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;

use self::columns::Group;
use super::columns::RecordColumns;
use super::decoder::{MessageDecoder, Salvaged, reason};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::protobuf::wire::varint;
use crate::protobuf::{Description, MESSAGE};
use crate::source::file::fitting::{fits, positions};
use crate::source::file::values::{ValueRules, type_name};

/// What the format is called.
pub(super) const PROTOBUF: &str = "protobuf";

const FRAMED: &str = "confluentFraming";

/// What messages are.
#[derive(Debug, Clone)]
pub(super) struct ProtobufMessages {
    description: Description,
    /// Whether messages begin with the number of a schema and the place of their type in it.
    is_framed: bool,
}

impl ProtobufMessages {
    /// Takes its options out of `options`.
    pub(super) fn parse(options: &mut Options) -> Result<Self> {
        let is_framed = options.flag(FRAMED, false)?;
        options.take(FRAMED);
        Ok(Self { description: Description::parse(options)?, is_framed })
    }

    /// The columns that messages have.
    pub(super) fn columns(&self) -> Result<SchemaRef> {
        let group =
            self.group(None).map_err(|reason| Error::option(MESSAGE, &self.description.name, reason))?;
        Ok(Arc::new(Schema::new(group.fields().clone())))
    }

    /// Fails if a column cannot be made of what messages have.
    pub(super) fn check(&self, columns: &Fields) -> Result<()> {
        let wrong = |reason| Error::option(MESSAGE, &self.description.name, reason);
        let group = self.group(Some(columns)).map_err(wrong)?;
        for (field, place) in columns.iter().zip(self.places(&group, columns).map_err(wrong)?) {
            let Some(place) = place else {
                return Err(wrong(format!("it has no field for the column '{}'", field.name())));
            };
            let found = group.fields()[place].data_type();
            if !fits(found, field.data_type()) {
                return Err(wrong(format!(
                    "its field '{}' is of type {}, which cannot be read as {}",
                    field.name(),
                    type_name(found),
                    type_name(field.data_type())
                )));
            }
        }
        Ok(())
    }

    pub(super) fn decoder(
        &self,
        columns: Arc<RecordColumns>,
        rules: ValueRules,
    ) -> std::result::Result<ProtobufDecoder, ArrowError> {
        let group = self.group(Some(columns.decoded_schema.fields())).map_err(ArrowError::ParseError)?;
        let places = self.places(&group, columns.decoded_schema.fields()).map_err(ArrowError::ParseError)?;
        Ok(ProtobufDecoder { messages: self.clone(), group, places, columns, rules })
    }

    fn group(&self, wanted: Option<&Fields>) -> std::result::Result<Group, String> {
        Group::new(
            self.description.types.message(&self.description.name)?,
            &self.description.types,
            wanted,
            0,
        )
    }

    fn places(&self, group: &Group, wanted: &Fields) -> std::result::Result<Vec<Option<usize>>, String> {
        let (wanted, found) = (Schema::new(wanted.clone()), Schema::new(group.fields().clone()));
        positions(&wanted, &found).map_err(|error| error.to_string())
    }
}

/// Decodes messages, one record each.
pub(super) struct ProtobufDecoder {
    messages: ProtobufMessages,
    group: Group,
    /// For each decoded column its position in the group.
    places: Vec<Option<usize>>,
    columns: Arc<RecordColumns>,
    rules: ValueRules,
}

impl ProtobufDecoder {
    fn rows(&mut self, raw: &[u8], records: &[Range<usize>]) -> std::result::Result<StructArray, String> {
        for record in records {
            let message = &raw[record.clone()];
            let message = if self.messages.is_framed { without_frame(message)? } else { message };
            self.group.append(message)?;
        }
        self.group.finish()
    }
}

/// A message without the zero, the four bytes of its schema's number, and the way to its type in that schema.
fn without_frame(message: &[u8]) -> std::result::Result<&[u8], String> {
    let bad = || "it does not begin with the number of its schema (a zero and four bytes)".to_string();
    let mut rest = message.strip_prefix(&[0]).and_then(|rest| rest.get(4..)).ok_or_else(bad)?;
    // Numbers here take signs: the count is twice itself. No steps mean the first type.
    let (count, after) = varint(rest)?;
    rest = after;
    for _ in 0..count >> 1 {
        rest = varint(rest)?.1;
    }
    Ok(rest)
}

impl MessageDecoder for ProtobufDecoder {
    fn decode(&mut self, raw: &[u8], records: &[Range<usize>]) -> Result<RecordBatch, ArrowError> {
        let found = match self.rows(raw, records) {
            Ok(found) => found,
            Err(reason) => {
                // It holds parts of rows.
                let wanted = Some(self.columns.decoded_schema.fields());
                self.group = self.messages.group(wanted).map_err(ArrowError::ParseError)?;
                return Err(ArrowError::ParseError(reason));
            }
        };
        let column = |at: usize| self.places[at].map(|place| found.column(place));
        self.columns.fitted(column, found.len(), &self.rules).map_err(ArrowError::ParseError)
    }

    fn salvage(&mut self, record: &[u8]) -> Result<Salvaged, ArrowError> {
        let why = match self.decode(record, std::slice::from_ref(&(0..record.len()))) {
            Err(error) => reason(&error),
            Ok(_) => "it cannot be read".into(),
        };
        Ok(Salvaged { row: self.columns.nulls()?, column: None, reason: why })
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::BinaryArray;
    use datafusion::arrow::datatypes::{DataType, Field};
    use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

    use super::super::MessageFormat;
    use super::*;

    fn number(tag: u8, value: u8) -> Vec<u8> {
        vec![tag << 3, value]
    }

    fn bytes(tag: u8, value: &[u8]) -> Vec<u8> {
        [vec![tag << 3 | 2, u8::try_from(value.len()).unwrap()], value.to_vec()].concat()
    }

    /// A field's description; `kind` as descriptors number types.
    fn field(name: &str, tag: u8, kind: u8, label: u8, of: &str) -> Vec<u8> {
        let named = if of.is_empty() { vec![] } else { bytes(6, of.as_bytes()) };
        bytes(
            2,
            &[bytes(1, name.as_bytes()), number(3, tag), number(4, label), number(5, kind), named].concat(),
        )
    }

    /// message item { sint32 id = 1; string name = 2; repeated int32 sizes = 3; mood mood = 4; optional bool old = 5;
    ///                map<string, int64> counts = 6; item part = 7; google.protobuf.Timestamp at = 8; }
    fn descriptors() -> tempfile::NamedTempFile {
        let entry =
            [bytes(1, b"E"), field("key", 1, 9, 1, ""), field("value", 2, 3, 1, ""), bytes(7, &number(7, 1))];
        let old = [bytes(1, b"old"), number(3, 5), number(4, 1), number(5, 8), vec![0x88, 1, 1]].concat();
        let item = [
            bytes(1, b"item"),
            field("id", 1, 17, 1, ""),
            field("name", 2, 9, 1, ""),
            field("sizes", 3, 5, 3, ""),
            field("mood", 4, 14, 1, ".shop.mood"),
            bytes(2, &old),
            field("counts", 6, 11, 3, ".shop.item.E"),
            field("part", 7, 11, 1, ".shop.item"),
            field("at", 8, 11, 1, ".google.protobuf.Timestamp"),
            bytes(3, &entry.concat()),
        ];
        let value = |name: &str, value: u8| bytes(2, &[bytes(1, name.as_bytes()), number(2, value)].concat());
        let mood = [bytes(1, b"mood"), value("UP", 0), value("DOWN", 1)].concat();
        let item = item.concat();
        // Longer than one byte of length can say.
        let long = |tag: u8, value: &[u8]| {
            let length = value.len();
            [vec![tag << 3 | 2, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8], value.to_vec()].concat()
        };
        let file = [bytes(2, b"shop"), long(4, &item), bytes(5, &mood), bytes(12, b"proto3")].concat();
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), long(1, &file)).unwrap();
        path
    }

    fn item(name: &str, data_type: DataType) -> Field {
        Field::new(name, data_type, true)
    }

    fn columns() -> Schema {
        let part = DataType::Struct(vec![item("id", DataType::Int64)].into());
        Schema::new(vec![
            item("name", DataType::Utf8),
            item("id", DataType::Int64),
            item("sizes", DataType::List(Arc::new(item("item", DataType::Int32)))),
            item("mood", DataType::Utf8),
            item("old", DataType::Boolean),
            item("part", part),
            item("at", DataType::Timestamp(datafusion::arrow::datatypes::TimeUnit::Nanosecond, None)),
            item(
                "counts",
                DataType::Map(
                    Arc::new(Field::new_struct(
                        "entries",
                        vec![Field::new("key", DataType::Utf8, false), item("value", DataType::Int64)],
                        false,
                    )),
                    false,
                ),
            ),
        ])
    }

    fn format(columns: &Schema, options: &[(&str, &str)]) -> Result<MessageFormat> {
        let path = descriptors();
        let path = path.path().to_str().unwrap();
        let options = [("descFilePath", path)].into_iter().chain(options.iter().copied()).collect();
        let state = datafusion::prelude::SessionContext::new().state();
        MessageFormat::try_new("protobuf", columns, &options, &state)
    }

    fn rows(format: &MessageFormat, messages: Vec<&[u8]>) -> Result<Vec<String>> {
        let wanted: Vec<usize> = (0..format.schema().fields().len()).collect();
        let read =
            format.reader(&wanted)?.read(&BinaryArray::from(messages), |at| format!("message {at}"))?;
        let options = FormatOptions::default().with_null("null");
        let texts: Vec<_> = read
            .rows
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
            .collect();
        let row = |row| texts.iter().map(|text| text.value(row).to_string()).collect::<Vec<_>>().join("|");
        Ok((0..read.rows.num_rows()).map(row).collect())
    }

    #[test]
    fn fields_are_columns() {
        let format = format(&columns(), &[("messageName", "item")]).unwrap();
        let entry = |key: &str, value: u8| bytes(6, &[bytes(1, key.as_bytes()), number(2, value)].concat());
        let full = [
            number(1, 5),
            bytes(2, b"cup"),
            bytes(3, &[1, 2]),
            number(3, 3),
            number(4, 1),
            number(5, 0),
            entry("a", 1),
            entry("b", 2),
            entry("a", 3),
            bytes(7, &number(1, 2)),
            bytes(7, &bytes(2, b"x")),
            bytes(8, &[number(1, 1), number(2, 5)].concat()),
            // A field that is newer than the description.
            number(15, 9),
        ];
        let unknown = number(4, 7);
        let found = rows(&format, vec![&full.concat(), &[], &unknown]).unwrap();
        assert_eq!(
            found,
            [
                "cup|-3|[1, 2, 3]|DOWN|false|{id: 1}|1970-01-01T00:00:01.000000005|{a: 3, b: 2}",
                "|0|[]|UP|null|null|null|{}",
                "|0|[]|7|null|null|null|{}",
            ]
        );
    }

    #[test]
    fn malformed_messages_are_named() {
        let id = Schema::new(vec![item("id", DataType::Int64)]);
        for (message, expected) in [
            (&[8][..], "it ends inside of a field"),
            (&[0x0a, 1, 1], "field 'id': it is written as another type"),
        ] {
            let strict = format(&id, &[("messageName", "shop.item")]).unwrap();
            let error = rows(&strict, vec![&[8, 2], message]).unwrap_err().to_string();
            assert!(error.contains("malformed message at message 1") && error.contains(expected), "{error}");
            let permissive = format(&id, &[("messageName", "shop.item"), ("mode", "PERMISSIVE")]).unwrap();
            assert_eq!(rows(&permissive, vec![&[8, 2], message, &[8, 4]]).unwrap(), ["1", "null", "2"]);
        }
        let framed = format(&id, &[("messageName", "item"), ("confluentFraming", "true")]).unwrap();
        let found = rows(&framed, vec![&[0, 0, 0, 0, 9, 0, 8, 2], &[0, 0, 0, 0, 9, 4, 2, 0, 8, 4]]).unwrap();
        assert_eq!(found, ["1", "2"]);
        assert!(rows(&framed, vec![&[8, 2]]).unwrap_err().to_string().contains("number of its schema"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let of = |name: &str, data_type| Schema::new(vec![item(name, data_type)]);
        for (columns, options, expected) in [
            (of("id", DataType::Int64), &[][..], "messageName the name of the message"),
            (
                of("id", DataType::Int64),
                &[("messageName", "thing")],
                "no message 'thing' in it, but shop.item",
            ),
            (of("x", DataType::Int64), &[("messageName", "item")], "no field for the column 'x'"),
            (of("sizes", DataType::Int64), &[("messageName", "item")], "its field 'sizes' is of type"),
        ] {
            let error = format(&columns, options).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let path = descriptors();
        let options = |name: &str| {
            [("descFilePath", path.path().to_str().unwrap()), ("messageName", name)].into_iter().collect()
        };
        let error = MessageFormat::columns_of_protobuf(&options("item")).unwrap_err().to_string();
        assert!(error.contains("without an end"), "{error}");
        let entry = MessageFormat::columns_of_protobuf(&options("item.E")).unwrap();
        assert_eq!(entry.field(1).data_type(), &DataType::Int64);
    }
}
