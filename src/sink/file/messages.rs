//! Rows as messages of a queue: each is one message, written as files of the format are.

use datafusion::arrow::array::{BinaryArray, BinaryBuilder, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::session_state::SessionState;

use super::OutputFormat;
#[cfg(feature = "avro")]
use super::avro::AvroEncoding;
use super::encode::{FormatEncoding, LineFormat};
use super::layout::Layout;
use super::options::encoding;
use super::protobuf::{PROTOBUF, ProtobufEncoding};
use crate::error::{Error, Result};
use crate::options::Options;

/// How rows become the bytes of messages: `json`, `csv`, `text` or (feature `avro`) `avro`, with the options that the
/// format has for files, or `protobuf`. For sinks that write bytes.
///
/// ```
/// use std::sync::Arc;
/// use tidemill::arrow::array::{Int64Array, RecordBatch};
/// use tidemill::datafusion::prelude::SessionContext;
/// use tidemill::{Options, sink::MessageEncoder};
///
/// let rows = RecordBatch::try_from_iter([("price", Arc::new(Int64Array::from(vec![7, 8])) as _)])?;
/// let state = SessionContext::new().state();
/// let json = MessageEncoder::try_new("json", &rows.schema(), &Options::default(), &state)?;
/// assert_eq!(json.encode(&rows)?.value(1), b"{\"price\":8}");
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MessageEncoder {
    format: MessageEncoding,
}

#[derive(Debug, Clone)]
enum MessageEncoding {
    Lines(LineFormat),
    Protobuf(ProtobufEncoding),
    #[cfg(feature = "avro")]
    Avro(Box<AvroEncoding>),
}

impl MessageEncoder {
    /// The formats there are.
    pub const FORMATS: &'static [&'static str] = &[
        "json",
        "csv",
        "text",
        PROTOBUF,
        #[cfg(feature = "avro")]
        "avro",
    ];

    /// Writes rows with the columns of `schema` as `format`.
    ///
    /// # Errors
    /// If there is no such format, if it cannot hold a column, or if an option is unknown, not valid or one of files
    /// alone.
    pub fn try_new(
        format: &str,
        schema: &SchemaRef,
        options: &Options,
        session: &SessionState,
    ) -> Result<Self> {
        let format = format.to_ascii_lowercase();
        let output = match format.as_str() {
            "json" => OutputFormat::Json,
            "csv" => OutputFormat::Csv,
            "text" => OutputFormat::Text,
            PROTOBUF => {
                let mut rest = options.clone();
                let protobuf = ProtobufEncoding::parse(schema, &mut rest)?;
                rest.deny_unknown("protobuf messages", &["descFilePath", "messageName"])?;
                return Ok(Self { format: MessageEncoding::Protobuf(protobuf) });
            }
            #[cfg(feature = "avro")]
            "avro" => {
                let mut rest = options.clone();
                let avro = AvroEncoding::parse(schema, &mut rest)?;
                rest.deny_unknown("avro messages", &["avroSchema", "recordName", "recordNamespace"])?;
                return Ok(Self { format: MessageEncoding::Avro(Box::new(avro)) });
            }
            _ => {
                return Err(Error::Invalid(format!(
                    "messages cannot be written as '{format}'. Known formats: {}",
                    Self::FORMATS.join(", ")
                )));
            }
        };
        let mut options = options.clone();
        if let Some(compression) = options.get("compression") {
            let reason = "it is for files; messages are compressed by the queue, if at all";
            return Err(Error::option("compression", compression, reason));
        }
        if output == OutputFormat::Csv {
            if options.flag("header", false)? {
                return Err(Error::option("header", true, "a message is one record and has no header"));
            }
            options.set("header", false);
        }
        let layout = Layout::try_new(schema, &[], &format!("{format} messages"))?;
        match encoding(output, &layout, &options, session)?.format {
            FormatEncoding::Lines(format, _) => Ok(Self { format: MessageEncoding::Lines(format) }),
            _ => Err(Error::Invalid(format!("{format} is no format of messages"))),
        }
    }

    /// A message for each of `rows`.
    ///
    /// # Errors
    /// If a value has no text.
    pub fn encode(&self, rows: &RecordBatch) -> Result<BinaryArray> {
        let format = match &self.format {
            MessageEncoding::Lines(format) => format,
            MessageEncoding::Protobuf(protobuf) => return protobuf.encode(rows),
            #[cfg(feature = "avro")]
            MessageEncoding::Avro(avro) => return avro.encode(rows),
        };
        let mut bytes = Vec::new();
        format.encode(rows, false, &mut bytes)?;
        let mut messages = BinaryBuilder::with_capacity(rows.num_rows(), bytes.len());
        if memchr::memchr_iter(b'\n', &bytes).count() == rows.num_rows() {
            bytes
                .split_inclusive(|byte| *byte == b'\n')
                .for_each(|line| messages.append_value(without_end(line)));
        } else {
            // Values have line breaks, or lines end otherwise.
            for row in 0..rows.num_rows() {
                bytes.clear();
                format.encode(&rows.slice(row, 1), false, &mut bytes)?;
                messages.append_value(without_end(&bytes));
            }
        }
        Ok(messages.finish())
    }

    /// The Avro schema that messages are written with, if they are Avro's.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tidemill::arrow::array::{Int64Array, RecordBatch};
    /// use tidemill::datafusion::prelude::SessionContext;
    /// use tidemill::{Options, sink::MessageEncoder};
    ///
    /// let rows = RecordBatch::try_from_iter([("price", Arc::new(Int64Array::from(vec![7])) as _)])?;
    /// let state = SessionContext::new().state();
    /// let avro = MessageEncoder::try_new("avro", &rows.schema(), &Options::default(), &state)?;
    /// assert!(avro.avro_schema().is_some_and(|schema| schema.contains("price")));
    /// assert_eq!(avro.encode(&rows)?.value(0), [14]);
    /// assert_eq!(avro.with_schema_id(5).encode(&rows)?.value(0), [0, 0, 0, 0, 5, 14]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[cfg(feature = "avro")]
    pub fn avro_schema(&self) -> Option<&str> {
        match &self.format {
            MessageEncoding::Lines(_) | MessageEncoding::Protobuf(_) => None,
            MessageEncoding::Avro(avro) => Some(&avro.schema),
        }
    }

    /// The same with messages that begin with `id`, the number that a registry gave to
    /// [`MessageEncoder::avro_schema`]; those of other formats stay what they are.
    #[cfg(feature = "avro")]
    pub fn with_schema_id(mut self, id: u32) -> Self {
        if let MessageEncoding::Avro(avro) = &mut self.format {
            avro.id = Some(id);
        }
        self
    }
}

fn without_end(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}
