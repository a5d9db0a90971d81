//! Messages in Avro's binary encoding, each with the schema that it was written with.
//!
//! A schema is known beforehand, or a message begins with its number: a zero and four bytes, as registries of schemas
//! have it, or eight. All messages of one schema are decoded together, whatever lies between them, and put into order again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use datafusion::arrow::array::{BinaryArray, UInt32Array};
use datafusion::arrow::compute::{concat_batches, take_record_batch};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow_avro::reader::Decoder;

use super::columns::RecordColumns;
use super::decoder::{MessageDecoder, Salvaged, reason};
use crate::avro::{AVRO_SCHEMA, FRAME, as_record, columns_of, decoder as new_decoder, unreadable};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::source::file::avro_shape::Shape;
use crate::source::file::fitting::{fits, positions};
use crate::source::file::values::{ValueRules, type_name};

/// A schema, or why there is none.
type Answer = std::result::Result<Arc<str>, Arc<str>>;

/// The schemas that messages were written with, by the numbers that a registry gave them. Clones share them.
///
/// ```
/// use tidemill::arrow::array::BinaryArray;
/// use tidemill::source::WriterSchemas;
///
/// let schemas = WriterSchemas::default();
/// let messages = BinaryArray::from(vec![&[0, 0, 0, 0, 7, 2][..], &b"anything else"[..]]);
/// assert_eq!(schemas.unknown(&messages), [7].into());
/// schemas.add(7, Ok(r#""long""#));
/// assert!(schemas.unknown(&messages).is_empty());
/// ```
#[derive(Debug, Clone, Default)]
pub struct WriterSchemas {
    by_id: Arc<RwLock<HashMap<u64, Answer>>>,
    has_long_ids: bool,
}

/// The length of what messages begin with whose schemas have numbers of eight bytes.
const LONG_FRAME: usize = FRAME + 4;

impl WriterSchemas {
    /// Of messages that begin with a zero and numbers of eight bytes, as those of Apicurio's own do, instead of four.
    pub fn with_long_ids() -> Self {
        Self { has_long_ids: true, ..Self::default() }
    }

    /// The schema with the number `id`, or why there is none: then its messages are malformed.
    pub fn add(&self, id: u64, schema: std::result::Result<&str, &str>) {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        by_id.insert(id, schema.map(Arc::from).map_err(Arc::from));
    }

    /// The numbers that `messages` name and that nothing is known of yet.
    pub fn unknown(&self, messages: &BinaryArray) -> BTreeSet<u64> {
        let mut last = None;
        let mut ids = BTreeSet::new();
        for message in messages.iter().flatten() {
            let id = self.split_frame(message).map(|(id, _)| id);
            if id != last {
                ids.extend(id);
                last = id;
            }
        }
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        ids.retain(|id| !by_id.contains_key(id));
        ids
    }

    /// The number that a message begins with, and what follows.
    fn split_frame<'a>(&self, message: &'a [u8]) -> Option<(u64, &'a [u8])> {
        if self.has_long_ids {
            let (frame, body) = message.split_first_chunk::<LONG_FRAME>()?;
            return match frame {
                [0, id @ ..] => Some((u64::from_be_bytes(*id), body)),
                _ => None,
            };
        }
        let (frame, body) = message.split_first_chunk::<FRAME>()?;
        match frame {
            [0, id @ ..] => Some((u32::from_be_bytes(*id).into(), body)),
            _ => None,
        }
    }

    fn get(&self, id: u64) -> std::result::Result<Arc<str>, String> {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        match by_id.get(&id) {
            Some(Ok(schema)) => Ok(Arc::clone(schema)),
            Some(Err(why)) => Err(why.to_string()),
            None => Err(format!("the schema {id} is not known")),
        }
    }
}

/// How messages say what they were written with, and what they are read as.
#[derive(Debug, Clone)]
pub(super) struct AvroMessages {
    /// What rows are read as: fields that a message lacks have its defaults. Without numbers, messages were written
    /// with it, too.
    given: Option<Arc<str>>,
    /// Where messages begin with the numbers of their schemas.
    schemas: Option<WriterSchemas>,
}

impl AvroMessages {
    /// Takes its option out of `options`.
    pub(super) fn parse(options: &mut Options, schemas: Option<WriterSchemas>) -> Result<Self> {
        let given: Option<Arc<str>> = options.take(AVRO_SCHEMA).map(Arc::from);
        if let Some(schema) = &given {
            columns_of(schema, "value").map_err(|reason| Error::option(AVRO_SCHEMA, schema, reason))?;
        } else if schemas.is_none() {
            return Err(Error::Invalid(
                "avro messages do not say what they consist of: give the schema that they were written with by the \
                 option avroSchema, or where their schemas are registered (schema.registry.url)"
                    .into(),
            ));
        }
        Ok(Self { given, schemas })
    }

    /// The options that decide what the rows are.
    pub(super) fn row_options(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.given.iter().map(|schema| (AVRO_SCHEMA.to_string(), schema.to_string()))
    }

    pub(super) fn decoder(&self, columns: Arc<RecordColumns>, rules: ValueRules) -> AvroDecoder {
        AvroDecoder { messages: self.clone(), columns, rules, writers: BTreeMap::new() }
    }
}

/// Decodes messages, one record each.
pub(super) struct AvroDecoder {
    messages: AvroMessages,
    columns: Arc<RecordColumns>,
    rules: ValueRules,
    /// By the number of the schema; zero is the one that was given, without numbers.
    writers: BTreeMap<u64, Writer>,
}

/// Decodes what was written with one schema.
struct Writer {
    shape: Shape,
    /// `None` if there is no wanted column in it.
    decoder: Option<Decoder>,
    /// For each decoded column its position in what the decoder gives.
    places: Vec<Option<usize>>,
    frame: Vec<u8>,
}

impl Writer {
    fn new(writer: &str, reader: Option<&str>, columns: &RecordColumns) -> std::result::Result<Self, String> {
        let wanted = &columns.decoded_schema;
        // A schema that is no record's is that of the only column.
        let name = wanted.fields().first().map_or("value", |field| field.name());
        let writer = as_record(writer, name)?;
        let reader = reader.map(|reader| as_record(reader, name)).transpose()?;
        let shape = Shape::parse(&writer).ok_or_else(|| unreadable("it has an unknown type"))?;
        let whole = new_decoder(&writer, reader.as_deref(), None)?.schema();
        let found = positions(wanted, &whole).map_err(|error| error.to_string())?;
        for (field, place) in wanted.fields().iter().zip(&found) {
            let Some(place) = place else { continue };
            let data_type = whole.field(*place).data_type();
            if !fits(data_type, field.data_type()) {
                return Err(format!(
                    "column '{}' is of type {} in the schema, which cannot be read as {}",
                    field.name(),
                    type_name(data_type),
                    type_name(field.data_type())
                ));
            }
        }
        let mut read: Vec<usize> = found.iter().copied().flatten().collect();
        read.sort_unstable();
        read.dedup();
        let places = found.iter().map(|place| place.and_then(|place| read.binary_search(&place).ok()));
        let places = places.collect();
        let decoder = match read.is_empty() {
            true => None,
            false => Some(new_decoder(&writer, reader.as_deref(), Some(read))?),
        };
        Ok(Self { shape, decoder, places, frame: Vec::new() })
    }

    fn read<'a>(
        &mut self,
        bodies: impl ExactSizeIterator<Item = &'a [u8]>,
        columns: &RecordColumns,
        rules: &ValueRules,
    ) -> std::result::Result<RecordBatch, String> {
        let count = bodies.len();
        for body in bodies {
            // Arrow's reader believes what a message says of itself; so it is looked through first.
            match self.shape.skip_all(1, body) {
                Some([]) => {}
                Some(rest) => return Err(format!("{} bytes follow what its schema says", rest.len())),
                None => return Err("it does not hold what its schema says".into()),
            }
            let Some(decoder) = &mut self.decoder else { continue };
            self.frame.clear();
            self.frame.extend_from_slice(&[0; FRAME]);
            self.frame.extend_from_slice(body);
            let taken = decoder.decode(&self.frame).map_err(|error| error.to_string())?;
            if taken != self.frame.len() {
                return Err("it does not hold what its schema says".into());
            }
        }
        let rows = match &mut self.decoder {
            Some(decoder) => decoder.flush().map_err(|error| error.to_string())?,
            None => None,
        };
        let column = |at: usize| self.places[at].zip(rows.as_ref()).map(|(place, rows)| rows.column(place));
        columns.fitted(column, count, rules)
    }
}

impl AvroDecoder {
    /// The number of a message's schema, and what follows.
    fn body<'a>(&self, message: &'a [u8]) -> std::result::Result<(u64, &'a [u8]), String> {
        match &self.messages.schemas {
            None => Ok((0, message)),
            Some(schemas) => schemas.split_frame(message).ok_or_else(|| {
                let bytes = if schemas.has_long_ids { "eight" } else { "four" };
                format!("it does not begin with the number of its schema (a zero and {bytes} bytes)")
            }),
        }
    }

    fn writer(&mut self, id: u64) -> std::result::Result<&mut Writer, String> {
        if !self.writers.contains_key(&id) {
            let (given, schemas) = (self.messages.given.as_deref(), &self.messages.schemas);
            let writer = match (schemas, given) {
                (Some(schemas), reader) => Writer::new(&schemas.get(id)?, reader, &self.columns)
                    .map_err(|reason| format!("schema {id}: {reason}"))?,
                (None, given) => Writer::new(given.unwrap_or_default(), None, &self.columns)?,
            };
            self.writers.insert(id, writer);
        }
        self.writers.get_mut(&id).ok_or_else(|| format!("the schema {id} is not known"))
    }

    fn rows(&mut self, raw: &[u8], records: &[Range<usize>]) -> std::result::Result<RecordBatch, String> {
        let mut groups: BTreeMap<u64, Vec<(usize, &[u8])>> = BTreeMap::new();
        for (row, record) in records.iter().enumerate() {
            let (id, body) = self.body(&raw[record.clone()])?;
            groups.entry(id).or_default().push((row, body));
        }
        let columns = Arc::clone(&self.columns);
        let rules = self.rules.clone();
        let mut places = vec![0; records.len()];
        let mut batches = Vec::with_capacity(groups.len());
        let mut next = 0;
        for (id, messages) in groups {
            let read = self.writer(id)?.read(messages.iter().map(|(_, body)| *body), &columns, &rules);
            if read.is_err() {
                // It may hold parts of rows.
                self.writers.remove(&id);
            }
            batches.push(read?);
            for (row, _) in messages {
                places[row] = next;
                next += 1;
            }
        }
        if let [rows] = batches.as_slice() {
            return Ok(rows.clone());
        }
        let rows = concat_batches(&columns.decoded_schema, &batches).map_err(|error| error.to_string())?;
        take_record_batch(&rows, &UInt32Array::from(places)).map_err(|error| error.to_string())
    }
}

impl MessageDecoder for AvroDecoder {
    fn decode(&mut self, raw: &[u8], records: &[Range<usize>]) -> Result<RecordBatch, ArrowError> {
        self.rows(raw, records).map_err(ArrowError::ParseError)
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
    use datafusion::arrow::array::{Array, AsArray};
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::super::{MessageFormat, ReadMessages};
    use super::*;

    const OLD: &str = r#"{"type":"record","name":"r","fields":[{"name":"id","type":"int"}]}"#;
    const NEW: &str = r#"{"type":"record","name":"r","fields":[
        {"name":"name","type":["null","string"],"default":null},{"name":"id","type":"long"},
        {"name":"mood","type":{"type":"enum","name":"m","symbols":["up","down"]},"default":"up"}]}"#;

    fn format(options: &[(&str, &str)], schemas: Option<WriterSchemas>) -> Result<MessageFormat> {
        let columns = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
            Field::new("mood", DataType::Utf8, true),
        ]);
        let options = options.iter().copied().collect();
        let state = datafusion::prelude::SessionContext::new().state();
        match schemas {
            Some(schemas) => MessageFormat::with_schemas("avro", &columns, &options, &state, schemas),
            None => MessageFormat::try_new("avro", &columns, &options, &state),
        }
    }

    fn rows(format: &MessageFormat, messages: &[Option<&[u8]>]) -> Result<(Vec<String>, ReadMessages)> {
        let messages = BinaryArray::from_opt_vec(messages.to_vec());
        let read = format.reader(&[0, 1, 2])?.read(&messages, |at| format!("message {at}"))?;
        let ids = read.rows.column(0).as_primitive::<Int64Type>();
        let text = |column: usize, row| {
            let column = read.rows.column(column).as_string::<i32>();
            if column.is_valid(row) { column.value(row).to_string() } else { "-".into() }
        };
        let row = |row| match ids.is_valid(row) {
            true => format!("{} {} {}", ids.value(row), text(1, row), text(2, row)),
            false => format!("- {} {}", text(1, row), text(2, row)),
        };
        Ok(((0..read.rows.num_rows()).map(row).collect(), read))
    }

    #[test]
    fn messages_of_several_schemas_keep_their_order() {
        let schemas = WriterSchemas::default();
        schemas.add(1, Ok(OLD));
        schemas.add(9, Ok(NEW));
        let new = |id: u8| [0, 0, 0, 0, 9, 2, 2, b'n', id * 2, 2];
        let messages =
            [Some(&[0, 0, 0, 0, 1, 2][..]), Some(&new(2)), None, Some(&[0, 0, 0, 0, 1, 6]), Some(&new(4))];
        let as_written = format(&[], Some(schemas.clone())).unwrap();
        let (found, _) = rows(&as_written, &messages).unwrap();
        assert_eq!(found, ["1 - -", "2 n down", "- - -", "3 - -", "4 n down"]);
        // With a schema to read as, fields that a message lacks have its defaults.
        let resolved = format(&[("avroSchema", NEW)], Some(schemas)).unwrap();
        let (found, _) = rows(&resolved, &messages).unwrap();
        assert_eq!(found, ["1 - up", "2 n down", "- - -", "3 - up", "4 n down"]);
    }

    #[test]
    fn numbers_of_schemas_may_be_long() {
        let schemas = WriterSchemas::with_long_ids();
        let id = 1_u64 << 40;
        let message = [&[0][..], &id.to_be_bytes(), &[2]].concat();
        let messages = BinaryArray::from(vec![message.as_slice()]);
        assert_eq!(schemas.unknown(&messages), [id].into());
        schemas.add(id, Ok(OLD));
        let format = format(&[], Some(schemas)).unwrap();
        assert_eq!(rows(&format, &[Some(&message)]).unwrap().0, ["1 - -"]);
        let error = rows(&format, &[Some(&[0, 0, 0, 0, 1, 2])]).unwrap_err().to_string();
        assert!(error.contains("a zero and eight bytes"), "{error}");
    }

    #[test]
    fn malformed_messages_are_named_and_go_where_mode_says() {
        let schemas = WriterSchemas::default();
        schemas.add(1, Ok(OLD));
        schemas.add(2, Err("the registry has no schema 2"));
        let good = &[0, 0, 0, 0, 1, 2][..];
        for (bad, expected) in [
            (&[0, 0, 0, 0, 1][..], "it does not hold what its schema says"),
            (&[0, 0, 0, 0, 1, 2, 2], "1 bytes follow what its schema says"),
            (&[0, 0, 0, 0, 2, 2], "the registry has no schema 2"),
            (&[1, 2], "it does not begin with the number of its schema"),
            (&[], "it does not begin with the number of its schema"),
        ] {
            let messages = [Some(good), Some(bad), Some(good)];
            let read = |mode| rows(&format(&[("mode", mode)], Some(schemas.clone())).unwrap(), &messages);
            let error = read("FAILFAST").unwrap_err().to_string();
            assert!(error.contains("malformed message at message 1") && error.contains(expected), "{error}");
            assert_eq!(read("PERMISSIVE").unwrap().0, ["1 - -", "- - -", "1 - -"]);
            let (found, read) = read("DROPMALFORMED").unwrap();
            assert_eq!((found, read.dropped), (vec!["1 - -".to_string(); 2], vec![1]));
        }
    }

    #[test]
    fn schemas_that_cannot_be_are_refused() {
        for (options, expected) in [
            (&[][..], "give the schema that they were written with by the option avroSchema"),
            (&[("avroSchema", "{")], "it is not a schema of Avro's"),
            (&[("avroSchema", r#""longer""#)], "it is not a schema of Avro's"),
            (&[("avroSchema", OLD), ("avroSchemas", "x")], "unknown option 'avroSchemas'"),
        ] {
            let error = format(options, None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let other =
            r#"{"type":"record","name":"r","fields":[{"name":"id","type":{"type":"array","items":"int"}}]}"#;
        let format = format(&[("avroSchema", other)], None).unwrap();
        let error = rows(&format, &[Some(&[0])]).unwrap_err().to_string();
        assert!(error.contains("column 'id' is of type"), "{error}");
    }

    #[test]
    fn a_value_that_is_no_record_is_the_only_column() {
        let columns = Schema::new(vec![Field::new("id", DataType::Utf8, true)]);
        let uuid = r#"{"type":"string","logicalType":"uuid"}"#;
        let options = [("avroSchema", uuid)].into_iter().collect();
        let state = datafusion::prelude::SessionContext::new().state();
        let format = MessageFormat::try_new("avro", &columns, &options, &state).unwrap();
        let messages = BinaryArray::from(vec![&[4, b'a', b'b'][..]]);
        let read = format.reader(&[0]).unwrap().read(&messages, |_| String::new()).unwrap();
        assert_eq!(read.rows.column(0).as_string::<i32>().value(0), "ab");
    }
}
