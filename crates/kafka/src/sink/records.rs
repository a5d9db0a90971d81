//! Rows of a result as records of Kafka.

use std::sync::{Arc, OnceLock};

use tidemill::arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, new_null_array};
use tidemill::arrow::compute::cast;
use tidemill::arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use tidemill::datafusion::execution::session_state::SessionState;
use tidemill::sink::MessageEncoder;
use tidemill::{Error, Options, Result};

use super::super::columns::headers_field;
use super::super::formats::{AVRO, Formats};
use super::super::registry::{self, Registry};

/// The columns of records: what is sent, and what is staged.
pub(super) fn record_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
        // Null for the one that the option names.
        Field::new("topic", DataType::Utf8, true),
        // Null for one that the client chooses.
        Field::new("partition", DataType::Int32, true),
        headers_field(),
    ]))
}

/// Names and values, in their order; names may come again.
pub(super) type Headers<'a> = Vec<(&'a str, Option<&'a [u8]>)>;

/// One record.
pub(super) struct Record<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) topic: Option<&'a str>,
    pub(super) partition: Option<i32>,
    pub(super) headers: Option<Headers<'a>>,
}

/// Records that have the columns of [`record_schema`].
pub(super) struct Records<'a> {
    keys: &'a BinaryArray,
    values: &'a BinaryArray,
    rows: &'a RecordBatch,
}

impl<'a> Records<'a> {
    pub(super) fn new(rows: &'a RecordBatch) -> Self {
        Self { keys: rows.column(0).as_binary(), values: rows.column(1).as_binary(), rows }
    }

    pub(super) fn get(&self, row: usize) -> Record<'a> {
        let topics = self.rows.column(2).as_string::<i32>();
        let partitions = self.rows.column(3).as_primitive::<Int32Type>();
        Record {
            key: self.keys.is_valid(row).then(|| self.keys.value(row)),
            value: self.values.is_valid(row).then(|| self.values.value(row)),
            topic: topics.is_valid(row).then(|| topics.value(row)),
            partition: partitions.is_valid(row).then(|| partitions.value(row)),
            headers: self.headers(row),
        }
    }

    fn headers(&self, row: usize) -> Option<Headers<'a>> {
        let lists = self.rows.column(4).as_list::<i32>();
        if lists.is_null(row) {
            return None;
        }
        let ends = lists.value_offsets();
        let entries = lists.values().as_struct();
        let (names, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_binary::<i32>());
        let range = ends[row] as usize..ends[row + 1] as usize;
        Some(range.map(|at| (names.value(at), values.is_valid(at).then(|| values.value(at)))).collect())
    }
}

/// How the key or the value of a record is made.
#[derive(Debug, Clone)]
enum Part {
    /// It is this column.
    Column(usize),
    /// Of these columns, by a format.
    Format(Vec<usize>, Box<MessageEncoder>),
    /// Of these columns, by a format whose schema is registered.
    Registered(Vec<usize>, Box<Registered>),
}

/// A format whose schema has a number, once it is asked for.
#[derive(Debug, Clone)]
struct Registered {
    registry: Registry,
    subject: String,
    /// Whether the schema is registered if it is not yet.
    registers: bool,
    encoder: MessageEncoder,
    /// With the number.
    ready: OnceLock<MessageEncoder>,
}

impl Registered {
    /// Takes its options out of `options`.
    fn parse(
        registry: &Registry,
        topic: &str,
        part: &str,
        schema: &SchemaRef,
        mut options: Options,
        session: &SessionState,
    ) -> Result<Self> {
        let registers = options.flag("auto.register.schemas", true)?;
        options.take("auto.register.schemas");
        let (subject, strategy) = (options.take("subject"), options.take("subject.name.strategy"));
        let encoder = MessageEncoder::try_new(AVRO, schema, &options, session)?;
        let mut naming = Options::default();
        subject.into_iter().for_each(|subject| naming.set("subject", subject));
        strategy.into_iter().for_each(|strategy| naming.set("subject.name.strategy", strategy));
        let subject = registry::subject(&mut naming, topic, part, encoder.avro_schema().unwrap_or_default())?;
        Ok(Self { registry: registry.clone(), subject, registers, encoder, ready: OnceLock::new() })
    }

    async fn open(&self) -> Result<()> {
        if self.ready.get().is_none() {
            let schema = self.encoder.avro_schema().unwrap_or_default();
            let id = self.registry.id_of(&self.subject, schema, self.registers).await?;
            // Whoever comes second has the same number.
            let _ = self.ready.set(self.encoder.clone().with_schema_id(id));
        }
        Ok(())
    }
}

/// Makes records of rows.
#[derive(Debug, Clone)]
pub(super) struct RecordEncoder {
    key: Option<Part>,
    value: Part,
    topic: Option<usize>,
    partition: Option<usize>,
    headers: Option<usize>,
}

impl RecordEncoder {
    /// For rows with the columns of `schema`. `keys` are the columns that tell rows apart, if that is known.
    pub(super) fn new(
        schema: &SchemaRef,
        options: &Options,
        topic: Option<&str>,
        keys: &[String],
        session: &SessionState,
    ) -> Result<Self> {
        let formats = Formats::parse(options, super::options::OPTIONS)?;
        let Some(value) = &formats.value else {
            options.deny_unknown("the kafka sink", super::options::OPTIONS)?;
            if let Some(format) = &formats.key {
                return Err(Error::option("key.format", format, "it needs value.format too"));
            }
            return Self::of_columns(schema, topic.is_some());
        };
        let Some(topic) = topic else {
            return Err(Error::Invalid(
                "with value.format all columns are part of the value: say where rows go by the option 'topic'".into(),
            ));
        };
        let registry = formats.registry(options)?;
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let part = |format: &str, columns: Vec<usize>, prefix: &str| {
            let schema = Arc::new(schema.project(&columns)?);
            let options = formats.options_of(prefix);
            if let (Some(registry), AVRO) = (&registry, format) {
                let part = prefix.trim_end_matches('.');
                let registered = Registered::parse(registry, topic, part, &schema, options, session)?;
                return Ok(Part::Registered(columns, Box::new(registered)));
            }
            let encoder = MessageEncoder::try_new(format, &schema, &options, session)?;
            Ok::<_, Error>(Part::Format(columns, Box::new(encoder)))
        };
        let key = match &formats.key {
            None => None,
            Some(format) => {
                let named = if formats.key_fields.is_empty() { keys } else { &formats.key_fields };
                if named.is_empty() {
                    return Err(Error::option(
                        "key.format",
                        format,
                        "say which columns the key has: key.fields = a, b",
                    ));
                }
                let columns = named.iter().map(|name| {
                    schema
                        .index_of(name)
                        .map_err(|_| Error::option("key.fields", name, "the result has no such column"))
                });
                Some(part(format, columns.collect::<Result<_>>()?, "key.")?)
            }
        };
        Ok(Self { key, value: part(value, all, "value.")?, topic: None, partition: None, headers: None })
    }

    /// Spark's columns: `value`, and `key`, `headers`, `topic` and `partition` if there are such.
    fn of_columns(schema: &SchemaRef, has_topic: bool) -> Result<Self> {
        let column = |name: &str, fits: fn(&DataType) -> bool, expected: &str| match schema.index_of(name) {
            Err(_) => Ok(None),
            Ok(index) if fits(schema.field(index).data_type()) => Ok(Some(index)),
            Ok(index) => Err(Error::Invalid(format!(
                "the kafka sink cannot write column '{name}' of type {}: it must be {expected}. Cast it, or say how \
                 rows are written by the option value.format",
                schema.field(index).data_type()
            ))),
        };
        let bytes = "VARCHAR or BYTEA";
        let Some(value) = column("value", is_bytes, bytes)? else {
            return Err(Error::Invalid(
                "the result has no column 'value'. Say how rows are written by the option value.format (json, csv, \
                 text or avro), or give the columns value and, if wanted, key, headers, topic and partition"
                    .into(),
            ));
        };
        let topic = column("topic", is_text, "VARCHAR")?;
        if topic.is_none() && !has_topic {
            return Err(Error::Invalid(
                "the kafka sink does not know where rows go: set the option 'topic', or give a column 'topic'".into(),
            ));
        }
        let is_headers = |data_type: &DataType| match data_type {
            DataType::List(entry) | DataType::LargeList(entry) => {
                matches!(entry.data_type(), DataType::Struct(fields) if fields.len() == 2
                    && is_text(fields[0].data_type()) && is_bytes(fields[1].data_type()))
            }
            _ => false,
        };
        Ok(Self {
            key: column("key", is_bytes, bytes)?.map(Part::Column),
            value: Part::Column(value),
            topic: topic.filter(|_| !has_topic),
            partition: column("partition", DataType::is_integer, "INT")?,
            headers: column(
                "headers",
                is_headers,
                "a list of structs of a name (VARCHAR) and a value (BYTEA)",
            )?,
        })
    }

    /// Finds out what has to be known before rows are encoded.
    pub(super) async fn open(&self) -> Result<()> {
        for part in self.key.iter().chain([&self.value]) {
            if let Part::Registered(_, registered) = part {
                registered.open().await?;
            }
        }
        Ok(())
    }

    /// A record for each of `rows`.
    pub(super) fn encode(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let schema = record_schema();
        let count = rows.num_rows();
        let optional = |column: Option<usize>, at: usize| match column {
            None => Ok(new_null_array(schema.field(at).data_type(), count)),
            Some(column) => Ok::<_, Error>(cast(rows.column(column), schema.field(at).data_type())?),
        };
        let key = match &self.key {
            Some(key) => key.encode(rows)?,
            None => new_null_array(&DataType::Binary, count),
        };
        let topic = optional(self.topic, 2)?;
        if self.topic.is_some() && topic.null_count() > 0 {
            return Err(Error::Invalid(
                "a row has null in the column 'topic', so it goes nowhere. Set the option 'topic', or filter such rows \
                 out"
                    .into(),
            ));
        }
        let partition = optional(self.partition, 3)?;
        let columns = vec![key, self.value.encode(rows)?, topic, partition, self.headers(rows, &schema)?];
        Ok(RecordBatch::try_new(schema, columns)?)
    }

    fn headers(&self, rows: &RecordBatch, schema: &Schema) -> Result<ArrayRef> {
        let data_type = schema.field(4).data_type();
        let Some(column) = self.headers else { return Ok(new_null_array(data_type, rows.num_rows())) };
        let headers = cast(rows.column(column), data_type)?;
        if headers.as_list::<i32>().values().as_struct().column(0).null_count() > 0 {
            return Err(Error::Invalid("a header has null for its name. Leave such headers out".into()));
        }
        Ok(headers)
    }
}

impl Part {
    fn encode(&self, rows: &RecordBatch) -> Result<ArrayRef> {
        match self {
            Part::Column(column) => {
                let column = rows.column(*column);
                let bytes = match column.data_type() {
                    DataType::Binary => Arc::clone(column),
                    data_type if is_text(data_type) => {
                        cast(&cast(column, &DataType::Utf8)?, &DataType::Binary)?
                    }
                    _ => cast(column, &DataType::Binary)?,
                };
                Ok(bytes)
            }
            Part::Format(columns, encoder) => Ok(Arc::new(encoder.encode(&rows.project(columns)?)?)),
            Part::Registered(columns, registered) => {
                let encoder = registered.ready.get().ok_or_else(|| {
                    Error::Invalid("the kafka sink was not opened: its schema has no number yet".into())
                })?;
                Ok(Arc::new(encoder.encode(&rows.project(columns)?)?))
            }
        }
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_bytes(data_type: &DataType) -> bool {
    is_text(data_type) || matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}
