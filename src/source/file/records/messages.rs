//! Messages of a queue: each is one record, read as the records of files are.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{Array, BinaryArray, RecordBatchOptions, UInt32Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::Session;

#[cfg(feature = "avro")]
use super::avro::{AvroMessages, WriterSchemas};
use super::bad_messages::BadMessage;
use super::columns::RecordColumns;
use super::csv::CsvDecoder;
use super::debezium::{self, DEBEZIUM};
use super::decoder::{MessageDecoder, reason, shorten};
use super::json::JsonDecoder;
use super::protobuf::{PROTOBUF, ProtobufMessages};
use super::strangers::Strangers;
use super::text::TextDecoder;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::source::file::check_columns;
use crate::source::file::format::{Format, FormatSpec};
use crate::source::file::layout::Layout;
use crate::source::file::options::{ParseMode, SourceOptions};

/// Options of files that say something of messages too.
const OPTIONS: &[&str] = &["mode", "columnNameOfCorruptRecord", "badRecordsPath"];

/// How many messages are tried together once a batch of them turned out to hold a malformed one.
const TRY_TOGETHER: usize = 64;

/// How the bytes of messages become columns: `json`, `csv`, `text` or (feature `avro`) `avro`, with the options, types
/// and rules that the format has for files, one record per message; `protobuf`, and `debezium-json`, which are changes
/// of a table.
/// For sources whose rows come as bytes.
///
/// ```
/// use tidemill::arrow::array::{AsArray, BinaryArray};
/// use tidemill::arrow::datatypes::{DataType, Field, Int64Type, Schema};
/// use tidemill::datafusion::prelude::SessionContext;
/// use tidemill::{Options, source::MessageFormat};
///
/// let columns = Schema::new(vec![Field::new("price", DataType::Int64, true)]);
/// let format = MessageFormat::try_new("json", &columns, &Options::default(), &SessionContext::new().state())?;
/// let messages = BinaryArray::from_opt_vec(vec![Some(&b"{\"price\": 7}"[..]), None]);
/// let read = format.reader(&[0])?.read(&messages, |position| format!("message {position}"))?;
/// let prices: Vec<_> = read.rows.column(0).as_primitive::<Int64Type>().iter().collect();
/// assert_eq!(prices, [Some(7), None]);
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MessageFormat {
    spec: Arc<FormatSpec>,
    layout: Arc<Layout>,
    mode: ParseMode,
    /// Whether whoever reads messages writes the malformed ones elsewhere.
    sets_aside: bool,
    /// Whether messages are Debezium's.
    is_change: bool,
    protobuf: Option<ProtobufMessages>,
    #[cfg(feature = "avro")]
    avro: Option<AvroMessages>,
}

/// Rows that were read from messages.
#[derive(Debug)]
pub struct ReadMessages {
    /// One row per message, in their order, without those that are left out.
    pub rows: RecordBatch,
    /// The positions of the messages that have no row (see [`MessageFormat::leaves_out`]), ascending.
    pub dropped: Vec<usize>,
    /// How many messages are malformed, whether they are rows or not.
    pub malformed: u64,
    /// The malformed ones, if the option `badRecordsPath` says that they are to be written elsewhere, which is for
    /// whoever reads them to do ([`BadMessages`](super::BadMessages)).
    pub aside: Vec<BadMessage>,
}

impl MessageFormat {
    /// The formats there are.
    pub const FORMATS: &'static [&'static str] = &[
        "json",
        "csv",
        "text",
        DEBEZIUM,
        PROTOBUF,
        #[cfg(feature = "avro")]
        "avro",
    ];

    /// Reads messages of `format` as `columns`. `options` are those of the format, `mode`,
    /// `columnNameOfCorruptRecord` and `badRecordsPath`.
    ///
    /// # Errors
    /// If there is no such format, if it cannot give a column, or if an option is unknown, not valid or one of
    /// files alone.
    pub fn try_new(format: &str, columns: &Schema, options: &Options, session: &dyn Session) -> Result<Self> {
        let format = format.to_ascii_lowercase();
        #[cfg(feature = "avro")]
        if format == "avro" {
            let mut options = options.clone();
            let avro = AvroMessages::parse(&mut options, None)?;
            return Ok(Self { avro: Some(avro), ..Self::plain(&format, columns, &options, session)? });
        }
        if format == PROTOBUF {
            let mut options = options.clone();
            let protobuf = ProtobufMessages::parse(&mut options)?;
            let this = Self::plain(PROTOBUF, columns, &options, session)?;
            let apart = this.layout.apart();
            let in_record = |column: &usize| !apart.contains(*column);
            let fields = this.layout.schema().fields();
            let record: Vec<_> =
                (0..fields.len()).filter(in_record).map(|column| Arc::clone(&fields[column])).collect();
            protobuf.check(&record.into())?;
            return Ok(Self { protobuf: Some(protobuf), ..this });
        }
        if !Self::FORMATS.contains(&format.as_str()) {
            return Err(Error::Invalid(format!(
                "messages cannot be read as '{format}'. Known formats: {}",
                Self::FORMATS.join(", ")
            )));
        }
        Self::plain(&format, columns, options, session)
    }

    /// The columns that Protobuf messages have which `options` describe; see `docs/kafka.md`.
    ///
    /// ```
    /// use tidemill::{Options, source::MessageFormat};
    ///
    /// let options: Options = [("descFilePath", "no/such/file"), ("messageName", "click")].into_iter().collect();
    /// assert!(MessageFormat::columns_of_protobuf(&options).unwrap_err().to_string().contains("descFilePath"));
    /// ```
    ///
    /// # Errors
    /// If they describe no messages, or if those have no end.
    pub fn columns_of_protobuf(options: &Options) -> Result<SchemaRef> {
        ProtobufMessages::parse(&mut options.clone())?.columns()
    }

    /// The same for messages that begin with the number of the schema that they were written with: `avro`.
    /// Whoever reads them makes known which schemas those are.
    ///
    /// ```
    /// use tidemill::arrow::array::{AsArray, BinaryArray};
    /// use tidemill::arrow::datatypes::{DataType, Field, Int64Type, Schema};
    /// use tidemill::datafusion::prelude::SessionContext;
    /// use tidemill::{Options, source::{MessageFormat, WriterSchemas}};
    ///
    /// let columns = Schema::new(vec![Field::new("price", DataType::Int64, true)]);
    /// let (options, state) = (Options::default(), SessionContext::new().state());
    /// let schemas = WriterSchemas::default();
    /// let format = MessageFormat::with_schemas("avro", &columns, &options, &state, schemas.clone())?;
    /// schemas.add(7, Ok(r#"{"type":"record","name":"r","fields":[{"name":"price","type":"int"}]}"#));
    /// let messages = BinaryArray::from(vec![&[0, 0, 0, 0, 7, 4][..]]);
    /// let read = format.reader(&[0])?.read(&messages, |position| format!("message {position}"))?;
    /// assert_eq!(read.rows.column(0).as_primitive::<Int64Type>().value(0), 2);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`MessageFormat::try_new`], and if messages of the format have no such numbers.
    #[cfg(feature = "avro")]
    pub fn with_schemas(
        format: &str,
        columns: &Schema,
        options: &Options,
        session: &dyn Session,
        schemas: WriterSchemas,
    ) -> Result<Self> {
        let format = format.to_ascii_lowercase();
        if format != "avro" {
            return Err(Error::Invalid(format!(
                "messages of the format {format} have no schemas that are registered; those of avro have"
            )));
        }
        let mut options = options.clone();
        let avro = AvroMessages::parse(&mut options, Some(schemas))?;
        Ok(Self { avro: Some(avro), ..Self::plain(&format, columns, &options, session)? })
    }

    /// The columns that messages with this Avro schema have: the fields of a record, or one called `value`.
    ///
    /// # Errors
    /// If it is no schema, or one that no columns can be made of.
    ///
    /// ```
    /// use tidemill::source::MessageFormat;
    ///
    /// let columns = MessageFormat::columns_of_avro(r#"{"type":"record","name":"r","fields":[
    ///     {"name":"price","type":"int"}]}"#)?;
    /// assert_eq!(columns.field(0).name(), "price");
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[cfg(feature = "avro")]
    pub fn columns_of_avro(schema: &str) -> Result<SchemaRef> {
        crate::avro::columns_of(schema, "value")
            .map_err(|reason| Error::Invalid(format!("the Avro schema of messages: {reason}")))
    }

    fn plain(format: &str, columns: &Schema, options: &Options, session: &dyn Session) -> Result<Self> {
        let (name, is_change) = (format, format == DEBEZIUM);
        let format = match name {
            DEBEZIUM => "json",
            // It has the options of formats that say themselves what types values have.
            PROTOBUF => "arrow",
            name => name,
        };
        let mut options = options.clone();
        if format == "csv" {
            if options.flag("header", false)? {
                return Err(Error::option("header", true, "a message is one record and has no header"));
            }
            options.set("header", false);
        }
        // Not all formats of files have these.
        let mut own = Options::default();
        for option in OPTIONS {
            options.take(option).into_iter().for_each(|value| own.set(*option, value));
        }
        let (spec, rest) = FormatSpec::parse(format, &options, session)?;
        rest.deny_unknown(&format!("{name} messages"), OPTIONS)?;
        for (option, is_set) in
            [("compression", spec.compression.is_some()), ("encoding", spec.encoding.is_some())]
        {
            if is_set {
                let value = options.get(option).unwrap_or_default();
                return Err(Error::option(option, value, "it is for files; messages are plain UTF-8"));
            }
        }
        let SourceOptions { mode, corrupt_record_column, bad_records_path, .. } = SourceOptions::parse(&own)?;
        if is_change {
            debezium::check(columns, &corrupt_record_column)?;
        }
        let layout = Layout::new(columns, &[], false, Some(&corrupt_record_column))?;
        check_columns(&spec, &layout)?;
        Ok(Self {
            spec: Arc::new(spec),
            layout: Arc::new(layout),
            mode,
            sets_aside: bad_records_path.is_some(),
            is_change,
            protobuf: None,
            #[cfg(feature = "avro")]
            avro: None,
        })
    }

    /// The columns. All may hold nulls; a message without a value for one that was NOT NULL is malformed.
    pub fn schema(&self) -> &SchemaRef {
        self.layout.schema()
    }

    /// The options that decide what the rows are, by name, for
    /// [`SourceDefinition`](crate::checkpoint::records::SourceDefinition).
    pub fn row_options(&self) -> BTreeMap<String, String> {
        let mut options = self.spec.row_options.clone();
        if self.mode != ParseMode::default() {
            options.insert("mode".into(), format!("{:?}", self.mode).to_uppercase());
        }
        if self.sets_aside {
            options.insert("badRecordsPath".into(), "in use".into());
        }
        #[cfg(feature = "avro")]
        options.extend(self.avro.iter().flat_map(AvroMessages::row_options));
        options
    }

    /// Whether there may be messages without a row: malformed ones with `mode` = `DROPMALFORMED` or a
    /// `badRecordsPath`, and those without a value that Debezium sends behind a deletion.
    pub fn leaves_out(&self) -> bool {
        self.leaves_malformed_out() || self.is_change
    }

    fn leaves_malformed_out(&self) -> bool {
        self.mode == ParseMode::DropMalformed || self.sets_aside
    }

    /// A reader that gives the columns at the positions `wanted`.
    ///
    /// # Errors
    /// If there is no such column.
    pub fn reader(&self, wanted: &[usize]) -> Result<MessageReader> {
        // Messages that are left out must be the same ones whichever columns are asked for.
        let judge_all = self.leaves_malformed_out();
        let (layout, apart) = (&self.layout, self.layout.apart());
        let columns = RecordColumns::new(layout.schema(), apart, layout.required(), wanted, judge_all)?;
        let columns = Arc::new(columns);
        let strangers = || Strangers::new(None);
        let values = &self.spec.values;
        // Room for as many records as come at a time is made when they come.
        let batch_size = 1;
        let decoder: Box<dyn MessageDecoder> = match &self.spec.format {
            Format::Csv(_, dialect) => Box::new(CsvDecoder::new(
                Arc::clone(dialect),
                Arc::clone(&columns),
                values.clone(),
                strangers(),
                batch_size,
            )),
            Format::Text => Box::new(TextDecoder::new(Arc::clone(&columns.decoded_schema), batch_size)),
            #[cfg(feature = "avro")]
            Format::Avro => {
                let avro =
                    self.avro.as_ref().ok_or_else(|| Error::Invalid("avro messages need a schema".into()))?;
                Box::new(avro.decoder(Arc::clone(&columns), values.clone()))
            }
            Format::Arrow => {
                let protobuf = self.protobuf.as_ref();
                let protobuf =
                    protobuf.ok_or_else(|| Error::Invalid("messages are no files of Arrow's".into()))?;
                Box::new(protobuf.decoder(Arc::clone(&columns), values.clone())?)
            }
            _ => Box::new(JsonDecoder::new(&columns, values, strangers(), batch_size)?),
        };
        let (mode, sets_aside, is_change) = (self.mode, self.sets_aside, self.is_change);
        Ok(MessageReader { columns, decoder, mode, sets_aside, is_change })
    }
}

/// Reads messages as some columns; see [`MessageFormat::reader`].
pub struct MessageReader {
    columns: Arc<RecordColumns>,
    decoder: Box<dyn MessageDecoder>,
    mode: ParseMode,
    sets_aside: bool,
    is_change: bool,
}

impl std::fmt::Debug for MessageReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MessageReader").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Decoded rows, and of a malformed message its text.
type Piece = (RecordBatch, Option<String>);

impl MessageReader {
    /// The rows of `messages`. One that is null is a row of nulls. `place` says where the message at a
    /// position is, for the error of a malformed one.
    ///
    /// # Errors
    /// If a message is malformed, unless `mode` says what becomes of those.
    pub fn read(&mut self, messages: &BinaryArray, place: impl Fn(usize) -> String) -> Result<ReadMessages> {
        let (raw, ends) = (messages.value_data(), messages.value_offsets());
        let range = |position: usize| {
            let range = ends[position] as usize..ends[position + 1] as usize;
            if self.is_change { debezium::envelope(raw, range) } else { range }
        };
        let positions: Vec<usize> = (0..messages.len()).filter(|row| messages.is_valid(*row)).collect();
        let records: Vec<Range<usize>> = positions.iter().map(|position| range(*position)).collect();
        let mut read = Careful::default();
        let rows = match self.decode(raw, &records) {
            Ok(rows) => self.columns.good(&rows)?,
            Err(_) => {
                let pieces = self.read_with_care(raw, &records, &positions, place, &mut read)?;
                self.columns.mixed(&pieces)?
            }
        };
        let malformed = read.dropped.len() as u64 + read.kept;
        if self.is_change && messages.null_count() > 0 {
            read.dropped.extend((0..messages.len()).filter(|row| messages.is_null(*row)));
            read.dropped.sort_unstable();
        }
        let rows = match messages.null_count() {
            0 => rows,
            _ => with_null_rows(&rows, messages, &read.dropped)?,
        };
        Ok(ReadMessages { rows, dropped: read.dropped, malformed, aside: read.aside })
    }

    /// One row for each of `records`.
    fn decode(&mut self, raw: &[u8], records: &[Range<usize>]) -> Result<RecordBatch, ArrowError> {
        let schema = &self.columns.decoded_schema;
        if schema.fields().is_empty() || records.is_empty() {
            // Without a column, readers of records have no way to say how many rows there are.
            let options = RecordBatchOptions::new().with_row_count(Some(records.len()));
            let columns = RecordBatch::new_empty(Arc::clone(schema)).columns().to_vec();
            return RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options);
        }
        self.decoder.decode(raw, records)
    }

    /// Decodes in small groups, and one by one where a message is malformed.
    fn read_with_care(
        &mut self,
        raw: &[u8],
        records: &[Range<usize>],
        positions: &[usize],
        place: impl Fn(usize) -> String,
        read: &mut Careful,
    ) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        for (group, positions) in records.chunks(TRY_TOGETHER).zip(positions.chunks(TRY_TOGETHER)) {
            if let Ok(rows) = self.decode(raw, group) {
                pieces.push((rows, None));
                continue;
            }
            for (record, position) in group.iter().zip(positions) {
                match self.decode(raw, std::slice::from_ref(record)) {
                    Ok(rows) => pieces.push((rows, None)),
                    Err(error) => {
                        let bytes = &raw[record.clone()];
                        pieces.extend(self.malformed(bytes, *position, &error, &place, read)?);
                    }
                }
            }
        }
        Ok(pieces)
    }

    /// What becomes of a malformed message.
    fn malformed(
        &mut self,
        bytes: &[u8],
        position: usize,
        error: &ArrowError,
        place: impl Fn(usize) -> String,
        read: &mut Careful,
    ) -> Result<Option<Piece>> {
        let salvaged = self.decoder.salvage(bytes);
        match self.mode {
            ParseMode::FailFast => {
                let (column, why) = salvaged
                    .map_or_else(|_| (None, reason(error)), |salvaged| (salvaged.column, salvaged.reason));
                if self.sets_aside {
                    let of = column.map_or_else(String::new, |column| format!("column '{column}': "));
                    read.dropped.push(position);
                    read.aside.push(BadMessage { position, reason: format!("{of}{why}") });
                    return Ok(None);
                }
                let column = column.map_or_else(String::new, |column| format!(", column '{column}'"));
                Err(Error::Invalid(format!(
                    "malformed message at {}{column}: {}. Set the option mode to PERMISSIVE to have nulls in its \
                     place, to DROPMALFORMED to leave such messages out, or badRecordsPath to write them elsewhere",
                    place(position),
                    shorten(&why)
                )))
            }
            ParseMode::DropMalformed => {
                read.dropped.push(position);
                Ok(None)
            }
            ParseMode::Permissive => {
                read.kept += 1;
                Ok(Some((salvaged?.row, Some(String::from_utf8_lossy(bytes).into_owned()))))
            }
        }
    }
}

/// What was found while reading with care.
#[derive(Default)]
struct Careful {
    dropped: Vec<usize>,
    aside: Vec<BadMessage>,
    kept: u64,
}

/// `rows` with rows of nulls where messages are null.
fn with_null_rows(
    rows: &RecordBatch,
    messages: &BinaryArray,
    dropped: &[usize],
) -> Result<RecordBatch, ArrowError> {
    let mut dropped = dropped.iter().peekable();
    let mut next = 0;
    let mut places = Vec::with_capacity(messages.len());
    for position in 0..messages.len() {
        if dropped.next_if(|left_out| **left_out == position).is_some() {
            continue;
        }
        let is_there = messages.is_valid(position);
        places.push(is_there.then_some(next));
        next += u32::from(is_there);
    }
    let places = UInt32Array::from(places);
    let columns = rows.columns().iter().map(|column| take(column.as_ref(), &places, None));
    let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
    RecordBatch::try_new_with_options(rows.schema(), columns.collect::<Result<_, _>>()?, &options)
}
