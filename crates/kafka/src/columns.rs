//! Messages as columns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tidemill::arrow::array::{
    ArrayRef, AsArray, BinaryBuilder, BooleanArray, Int32Array, Int32Builder, Int64Array, Int64Builder,
    ListBuilder, RecordBatch, RecordBatchOptions, StringArray, StringBuilder, StructArray, StructBuilder,
    TimestampNanosecondBuilder,
};
use tidemill::arrow::buffer::BooleanBuffer;
use tidemill::arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema, SchemaRef, TimeUnit};
use tidemill::datafusion::catalog::Session;
use tidemill::source::{BadMessage, MessageFormat, MessageReader};
use tidemill::{Error, Options, Result};

use super::formats::{AVRO, Formats};
use super::offsets::Partition;
use super::queue::Taken;
use super::registry::Registered;

/// The column that has what a message has beside the columns of its formats.
pub(super) const METADATA: &str = "_metadata";

/// The option that says where malformed messages go.
const BAD_RECORDS: &str = "badRecordsPath";

const NANOS_PER_MILLI: i64 = 1_000_000;

/// What there is of a message without a format, in this order; Spark's names and, but for the unit, Spark's types.
fn raw_fields(with_headers: bool) -> Fields {
    let mut fields = vec![
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
        Field::new("topic", DataType::Utf8, true),
        Field::new("partition", DataType::Int32, true),
        Field::new("offset", DataType::Int64, true),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Nanosecond, None), true),
        Field::new("timestampType", DataType::Int32, true),
    ];
    if with_headers {
        fields.push(headers_field());
    }
    fields.into()
}

fn header_fields() -> Fields {
    vec![Field::new("key", DataType::Utf8, true), Field::new("value", DataType::Binary, true)].into()
}

/// The headers of messages: names may come several times, values may be null.
pub(super) fn headers_field() -> Field {
    Field::new("headers", DataType::List(Arc::new(Field::new_struct("item", header_fields(), true))), true)
}

/// Messages of one partition: all that there are from one offset up to, and without, another.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) from: i64,
    pub(super) until: i64,
    /// `key`, `value`, `offset`, `timestamp`, `timestampType` and, if wanted, `headers`.
    pub(super) rows: RecordBatch,
    /// When the last of it came.
    pub(super) received: Instant,
}

impl Chunk {
    fn offsets(&self) -> &Int64Array {
        self.rows.column(2).as_primitive::<Int64Type>()
    }

    /// The position of the first message at `offset` or behind it.
    fn position(&self, offset: i64) -> usize {
        self.offsets().values().partition_point(|own| *own < offset)
    }

    /// What it takes, roughly.
    pub(super) fn bytes(&self) -> usize {
        let data = |column: usize| {
            let ends = self.rows.column(column).as_binary::<i32>().value_offsets();
            let bytes = ends.last().zip(ends.first()).map_or(0, |(last, first)| last - first);
            usize::try_from(bytes).unwrap_or(0)
        };
        data(0) + data(1) + self.header_bytes() + self.rows.num_rows() * 32
    }

    fn header_bytes(&self) -> usize {
        let Some(headers) = self.rows.columns().get(HEADERS).map(|headers| headers.as_list::<i32>()) else {
            return 0;
        };
        let (entries, ends) = (headers.values().as_struct(), headers.value_offsets());
        let Some((first, last)) = ends.first().zip(ends.last()) else { return 0 };
        let values = entries.column(1).as_binary::<i32>().value_offsets();
        let bytes = values[*last as usize] - values[*first as usize];
        // Each has a name too, which is short.
        usize::try_from(bytes + (last - first) * 32).unwrap_or(0)
    }

    /// The same without messages before `offset`; `None` if there is nothing else.
    pub(super) fn without_before(self, offset: i64) -> Option<Self> {
        if self.until <= offset {
            return None;
        }
        let at = self.position(offset);
        let rows = self.rows.slice(at, self.rows.num_rows() - at);
        Some(Self { from: self.from.max(offset), rows, ..self })
    }

    /// What is before `from`, what is in between, and what is from `until` on.
    pub(super) fn cut(self, from: i64, until: i64) -> (Option<Self>, Self, Option<Self>) {
        let (from, until) = (from.max(self.from), until.min(self.until));
        let (first, last) = (self.position(from), self.position(until));
        let part = |from, until, first: usize, last: usize| Self {
            from,
            until,
            received: self.received,
            rows: self.rows.slice(first, last.saturating_sub(first)),
        };
        let before = (self.from < from).then(|| part(self.from, from, 0, first));
        let after = (until < self.until).then(|| part(until, self.until, last, self.rows.num_rows()));
        (before, part(from, until, first, last), after)
    }
}

/// Which column of a chunk has the headers, if there are any.
const HEADERS: usize = 5;

/// So many bytes are in a chunk, but for those of its last message: offsets into them are numbers of 32 bits.
const MOST_BYTES: usize = 64 << 20;

/// Gathers messages of one partition, in the order of their offsets.
pub(super) struct ChunkBuilder {
    keys: BinaryBuilder,
    values: BinaryBuilder,
    offsets: Int64Builder,
    timestamps: TimestampNanosecondBuilder,
    types: Int32Builder,
    headers: Option<ListBuilder<StructBuilder>>,
    bytes: usize,
}

impl ChunkBuilder {
    pub(super) fn new(with_headers: bool) -> Self {
        let headers = || ListBuilder::new(StructBuilder::from_fields(header_fields(), 0));
        Self {
            keys: BinaryBuilder::new(),
            values: BinaryBuilder::new(),
            offsets: Int64Builder::new(),
            timestamps: TimestampNanosecondBuilder::new(),
            types: Int32Builder::new(),
            headers: with_headers.then(headers),
            bytes: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.offsets.values_slice().is_empty()
    }

    /// Whether what comes next is to go into another one.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= MOST_BYTES
    }

    pub(super) fn add(&mut self, message: &Taken) {
        self.bytes += message.key().map_or(0, <[u8]>::len) + message.value().map_or(0, <[u8]>::len);
        self.keys.append_option(message.key());
        self.values.append_option(message.value());
        self.offsets.append_value(message.offset());
        let (millis, kind) = message.timestamp();
        // What is beyond the years 1677 to 2262 cannot be told.
        self.timestamps.append_option(millis.and_then(|millis| millis.checked_mul(NANOS_PER_MILLI)));
        self.types.append_value(kind);
        let Some(headers) = &mut self.headers else { return };
        let entries = headers.values();
        let mut count = 0;
        message.headers(|name, value| {
            count += 1;
            self.bytes += name.count_bytes() + value.map_or(0, <[u8]>::len);
            if let Some(names) = entries.field_builder::<StringBuilder>(0) {
                names.append_value(name.to_string_lossy());
            }
            if let Some(values) = entries.field_builder::<BinaryBuilder>(1) {
                values.append_option(value);
            }
            entries.append(true);
        });
        // As in Spark, a message without headers has null.
        headers.append(count > 0);
    }

    /// All of it; `from` and `until` are those of the messages.
    pub(super) fn finish(mut self) -> Chunk {
        let offsets = self.offsets.finish();
        let from = offsets.values().first().copied().unwrap_or(0);
        let until = offsets.values().last().map_or(0, |last| last + 1);
        let with_headers = self.headers.is_some();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.keys.finish()),
            Arc::new(self.values.finish()),
            Arc::new(offsets),
            Arc::new(self.timestamps.finish()),
            Arc::new(self.types.finish()),
        ];
        columns.extend(self.headers.map(|mut headers| Arc::new(headers.finish()) as ArrayRef));
        let fields = raw_fields(with_headers);
        let fields: Vec<_> =
            fields.iter().filter(|f| !matches!(f.name().as_str(), "topic" | "partition")).collect();
        let schema = Arc::new(Schema::new(fields.into_iter().cloned().collect::<Vec<_>>()));
        let rows = RecordBatch::try_new(Arc::clone(&schema), columns)
            .unwrap_or_else(|_| RecordBatch::new_empty(schema));
        Chunk { from, until, rows, received: Instant::now() }
    }
}

/// Where a column of the table comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The column of [`raw_fields`] at this position.
    Raw(usize),
    /// The column of the key's format at this position.
    Key(usize),
    /// The column of the value's format at this position.
    Value(usize),
    /// All of [`raw_fields`].
    Metadata,
}

/// How bytes become columns.
#[derive(Debug, Clone)]
enum Decoding {
    /// They are one column.
    Raw,
    Format(Box<MessageFormat>),
    /// The same, with schemas that are registered.
    Registered(Box<MessageFormat>),
}

/// The columns of a table, and how they are made.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    pub(super) schema: SchemaRef,
    origins: Vec<Origin>,
    key: Option<Decoding>,
    value: Option<Decoding>,
    registered: Option<Registered>,
    pub(super) with_headers: bool,
}

impl Columns {
    /// Those of the table that `options` describe, which has the columns `given` if it has formats.
    pub(super) fn new(
        given: Option<&SchemaRef>,
        options: &Options,
        with_headers: bool,
        session: &dyn Session,
    ) -> Result<Self> {
        let formats = Formats::parse(options, &known_options())?;
        if formats.key.is_none() && formats.value.is_none() {
            return Self::raw(given, options, with_headers);
        }
        formats.check_key()?;
        let given = given.filter(|given| !given.fields().is_empty()).ok_or_else(|| {
            Error::Invalid(
                "a kafka table with value.format or key.format needs columns: give them with schema(…), or in SQL \
                 behind the table's name"
                    .into(),
            )
        })?;
        let is_key = |name: &str| formats.key_fields.iter().any(|field| field == name);
        for field in &formats.key_fields {
            if given.index_of(field).is_err() {
                return Err(Error::option("key.fields", field, "there is no such column"));
            }
        }
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let (mut fields, mut origins) = (Vec::new(), Vec::new());
        let metadata = Arc::new(Field::new_struct(METADATA, raw_fields(with_headers), true));
        for field in given.fields() {
            let field = match field.name().as_str() {
                METADATA => {
                    origins.push(Origin::Metadata);
                    Arc::clone(&metadata)
                }
                name => {
                    let part = if is_key(name) { &mut key } else { &mut value };
                    origins.push(if is_key(name) {
                        Origin::Key(part.len())
                    } else {
                        Origin::Value(part.len())
                    });
                    part.push(Arc::clone(field));
                    Arc::new(field.as_ref().clone().with_nullable(true))
                }
            };
            fields.push(field);
        }
        if formats.value.is_none() && !value.is_empty() {
            return Err(Error::Invalid(format!(
                "column '{}' is neither one of key.fields nor does value.format say how it is read",
                value[0].name()
            )));
        }
        if options.flag("includeMetadata", false)? && !origins.contains(&Origin::Metadata) {
            fields.push(metadata);
            origins.push(Origin::Metadata);
        }
        let registered = formats.registry(options)?;
        let registered = registered.map(Registered::new);
        // Of the key as of the value.
        let aside = options.get(BAD_RECORDS);
        let decoding = |format: Option<&String>, part: &str, fields: Vec<_>| {
            let Some(format) = format.filter(|_| !fields.is_empty()) else { return Ok(None) };
            let (columns, mut options) = (Schema::new(fields), formats.options_of(part));
            if let Some(path) = aside.filter(|_| format != "raw") {
                options.set(BAD_RECORDS, path);
            }
            match &registered {
                Some(registered) if format == AVRO => {
                    // It names the columns of a table that was given none.
                    options.take("subject");
                    let schemas = registered.schemas.clone();
                    let format = MessageFormat::with_schemas(format, &columns, &options, session, schemas)?;
                    Ok(Some(Decoding::Registered(Box::new(format))))
                }
                _ => Decoding::new(format, columns, &options, session).map(Some),
            }
        };
        let value = decoding(formats.value.as_ref(), "value.", value)?;
        let key = decoding(formats.key.as_ref(), "key.", key)?;
        for (field, origin) in fields.iter_mut().zip(&origins) {
            let read = match origin {
                Origin::Key(column) => key.as_ref().and_then(|key| key.field(*column)),
                Origin::Value(column) => value.as_ref().and_then(|value| value.field(*column)),
                Origin::Raw(_) | Origin::Metadata => None,
            };
            // What is within lists and structs may be null, too.
            read.into_iter().for_each(|read| *field = read);
        }
        Ok(Self { schema: Arc::new(Schema::new(fields)), origins, key, value, registered, with_headers })
    }

    /// Spark's columns.
    fn raw(given: Option<&SchemaRef>, options: &Options, with_headers: bool) -> Result<Self> {
        options.deny_unknown("the kafka source", &known_options())?;
        if let Some(path) = options.get(BAD_RECORDS) {
            return Err(Error::option(
                BAD_RECORDS,
                path,
                "without value.format or key.format no message is malformed",
            ));
        }
        let schema = Arc::new(Schema::new(raw_fields(with_headers)));
        let is_own = |field: &Field| {
            schema.field_with_name(field.name()).is_ok_and(|own| own.data_type() == field.data_type())
        };
        if let Some(given) = given.filter(|given| !given.fields().is_empty())
            && (given.fields().len() != schema.fields().len()
                || !given.fields().iter().all(|field| is_own(field)))
        {
            let names = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
            return Err(Error::Invalid(format!(
                "without the options value.format and key.format the columns of a kafka table are ({}). Leave them \
                 out, or say value.format = json, csv, text, avro or raw",
                names.collect::<Vec<_>>().join(", ")
            )));
        }
        let origins = (0..schema.fields().len()).map(Origin::Raw).collect();
        Ok(Self { schema, origins, key: None, value: None, registered: None, with_headers })
    }

    /// Options that decide what the rows are.
    pub(super) fn row_options(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let of = |part: &'static str, decoding: &Option<Decoding>| {
            let options = match decoding {
                Some(Decoding::Format(format) | Decoding::Registered(format)) => {
                    format.row_options().into_iter().collect()
                }
                _ => Vec::new(),
            };
            options.into_iter().map(move |(name, value)| (format!("{part}.{name}"), value))
        };
        of("key", &self.key).chain(of("value", &self.value))
    }

    /// Makes the columns at the positions `wanted`.
    pub(super) fn maker(&self, wanted: &[usize], malformed: Arc<Malformed>) -> Result<Maker> {
        let schema = Arc::new(self.schema.project(wanted)?);
        let origins: Vec<Origin> = wanted.iter().map(|column| self.origins[*column]).collect();
        let positions =
            |is: fn(Origin) -> Option<usize>| origins.iter().copied().filter_map(is).collect::<Vec<_>>();
        let keys = positions(|origin| if let Origin::Key(column) = origin { Some(column) } else { None });
        let values = positions(|origin| if let Origin::Value(column) = origin { Some(column) } else { None });
        let key = self.key.as_ref().map(|decoding| decoding.reader(&keys)).transpose()?.flatten();
        let value = self.value.as_ref().map(|decoding| decoding.reader(&values)).transpose()?.flatten();
        let registered = self.registered.clone();
        Ok(Maker { schema, origins, key, value, registered, with_headers: self.with_headers, malformed })
    }
}

/// The names of all options of a source, for the error about one that there is not.
fn known_options() -> Vec<&'static str> {
    let prefixes = [super::client::PREFIX, super::registry::PREFIX];
    super::options::OPTIONS.iter().copied().chain(["includeMetadata"]).chain(prefixes).collect()
}

impl Decoding {
    fn new(format: &str, columns: Schema, options: &Options, session: &dyn Session) -> Result<Self> {
        if format != "raw" {
            return Ok(Decoding::Format(Box::new(MessageFormat::try_new(
                format, &columns, options, session,
            )?)));
        }
        options.deny_unknown("raw messages", &[])?;
        match columns.fields().as_ref() {
            [field] if matches!(field.data_type(), DataType::Binary) => Ok(Decoding::Raw),
            _ => Err(Error::Invalid(
                "the format raw gives one column, of type BYTEA. For text, use the format text".into(),
            )),
        }
    }

    fn reader(&self, wanted: &[usize]) -> Result<Option<Reading>> {
        Ok(match self {
            _ if wanted.is_empty() && !self.leaves_out() => None,
            Decoding::Raw => Some(Reading::Raw),
            Decoding::Format(format) => Some(Reading::Format(format.reader(wanted)?)),
            Decoding::Registered(format) => Some(Reading::Registered(format.reader(wanted)?)),
        })
    }

    /// The column at a position, as it is read; `None` for one that is as it was declared.
    fn field(&self, column: usize) -> Option<Arc<Field>> {
        match self {
            Decoding::Raw => None,
            Decoding::Format(format) | Decoding::Registered(format) => {
                format.schema().fields().get(column).map(Arc::clone)
            }
        }
    }

    /// Whether there may be no row for a message.
    fn leaves_out(&self) -> bool {
        match self {
            Decoding::Raw => false,
            Decoding::Format(format) | Decoding::Registered(format) => format.leaves_out(),
        }
    }
}

#[derive(Debug)]
enum Reading {
    Raw,
    Format(MessageReader),
    Registered(MessageReader),
}

/// Counts messages that are malformed.
#[derive(Debug, Default)]
pub(super) struct Malformed {
    pub(super) all: AtomicU64,
}

/// Makes columns of chunks.
#[derive(Debug)]
pub(super) struct Maker {
    schema: SchemaRef,
    origins: Vec<Origin>,
    key: Option<Reading>,
    value: Option<Reading>,
    registered: Option<Registered>,
    with_headers: bool,
    malformed: Arc<Malformed>,
}

impl Maker {
    /// Asks for what has to be known before rows are made of `chunk`.
    pub(super) fn prepare(&self, chunk: &Chunk) -> impl Future<Output = Result<()>> + use<> {
        let asking = |(reading, column): (&Option<Reading>, usize)| match reading {
            Some(Reading::Registered(_)) => Some(Arc::clone(chunk.rows.column(column))),
            _ => None,
        };
        let messages: Vec<ArrayRef> =
            [(&self.key, 0), (&self.value, 1)].into_iter().filter_map(asking).collect();
        let registered = self.registered.clone();
        async move {
            if let Some(registered) = registered {
                for messages in messages {
                    registered.prepare(messages.as_binary::<i32>()).await?;
                }
            }
            Ok(())
        }
    }

    /// The rows of `chunk`, which is of `partition`, and the messages that are to be put aside.
    pub(super) fn make(&mut self, partition: &Partition, chunk: &Chunk) -> Result<(RecordBatch, Vec<Aside>)> {
        let count = chunk.rows.num_rows();
        let mut aside = Vec::new();
        let mut read = |reading: &mut Option<Reading>, column: usize| match reading {
            None => Ok(None),
            Some(Reading::Raw) => Ok(Some((vec![Arc::clone(chunk.rows.column(column))], Vec::new()))),
            Some(Reading::Format(reader) | Reading::Registered(reader)) => {
                let place = |row: usize| format!("{partition}, offset {}", chunk.offsets().value(row));
                let read = reader.read(chunk.rows.column(column).as_binary::<i32>(), place)?;
                self.malformed.all.fetch_add(read.malformed, Ordering::Relaxed);
                aside.extend(read.aside.into_iter().map(|bad| Aside { column, bad }));
                Ok::<_, Error>(Some((read.rows.columns().to_vec(), read.dropped)))
            }
        };
        let key = read(&mut self.key, 0)?;
        let value = read(&mut self.value, 1)?;
        let dropped_of = |part: &Option<(Vec<ArrayRef>, Vec<usize>)>| {
            part.as_ref().map(|(_, dropped)| dropped.clone()).unwrap_or_default()
        };
        let (without_key, without_value) = (dropped_of(&key), dropped_of(&value));
        let is_row = |row: usize, dropped: &[usize]| dropped.binary_search(&row).is_err();
        let rows =
            (0..count).filter(|row| is_row(*row, &without_key) && is_row(*row, &without_value)).count();
        // Of columns that lack the rows `own`, those rows that are left.
        let left = |columns: Vec<ArrayRef>, own: &[usize]| -> Result<Vec<ArrayRef>> {
            let mask = (0..count).filter(|row| is_row(*row, own));
            let mask: Vec<bool> =
                mask.map(|row| is_row(row, &without_key) && is_row(row, &without_value)).collect();
            if mask.iter().all(|kept| *kept) {
                return Ok(columns);
            }
            let mask = BooleanArray::new(BooleanBuffer::from(mask), None);
            let filtered = columns.iter().map(|column| tidemill::arrow::compute::filter(column, &mask));
            Ok(filtered.collect::<Result<Vec<_>, _>>()?)
        };
        let key = key.map(|(columns, own)| left(columns, &own)).transpose()?.unwrap_or_default();
        let value = value.map(|(columns, own)| left(columns, &own)).transpose()?.unwrap_or_default();
        let raw = RawColumns { rows: left(chunk.rows.columns().to_vec(), &[])?, count: rows, partition };
        let (mut keys, mut values) = (key.into_iter(), value.into_iter());
        let mut columns = Vec::with_capacity(self.origins.len());
        for origin in &self.origins {
            let missing = || Error::Invalid("a column of the kafka source was not read".into());
            columns.push(match origin {
                Origin::Raw(column) => raw.column(*column),
                Origin::Key(_) => keys.next().ok_or_else(missing)?,
                Origin::Value(_) => values.next().ok_or_else(missing)?,
                Origin::Metadata => raw.all(self.with_headers)?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        aside.sort_by_key(|aside| aside.bad.position);
        Ok((rows, aside))
    }
}

/// A message of a chunk whose key or value is malformed.
#[derive(Debug)]
pub(super) struct Aside {
    /// Which of both, as a column of the chunk.
    column: usize,
    bad: BadMessage,
}

impl Aside {
    /// Where the message is, what is malformed, and what is wrong with that.
    pub(super) fn of<'a>(&self, chunk: &'a Chunk) -> (i64, &'a [u8], String) {
        let row = self.bad.position;
        let part = if self.column == 0 { "key, " } else { "" };
        let bytes = chunk.rows.column(self.column).as_binary::<i32>().value(row);
        (chunk.offsets().value(row), bytes, format!("{part}{}", self.bad.reason))
    }
}

/// What messages have without a format.
struct RawColumns<'a> {
    /// As in [`Chunk::rows`].
    rows: Vec<ArrayRef>,
    count: usize,
    partition: &'a Partition,
}

impl RawColumns<'_> {
    /// The column of [`raw_fields`] at `position`.
    fn column(&self, position: usize) -> ArrayRef {
        match position {
            2 => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(
                &self.partition.topic,
                self.count,
            ))),
            3 => Arc::new(Int32Array::from(vec![self.partition.id; self.count])),
            before @ (0 | 1) => Arc::clone(&self.rows[before]),
            after => Arc::clone(&self.rows[after - 2]),
        }
    }

    fn all(&self, with_headers: bool) -> Result<ArrayRef> {
        let fields = raw_fields(with_headers);
        let columns = (0..fields.len()).map(|position| self.column(position)).collect();
        Ok(Arc::new(StructArray::try_new_with_length(fields, columns, None, self.count)?))
    }
}
