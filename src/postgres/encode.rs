//! Rows in the binary form that `COPY` takes.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryBuilder, RecordBatch};
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{
    DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
    TimestampNanosecondType,
};
use pgpq::ArrowToPostgresBinaryEncoder;
use pgpq::encoders::{EncoderBuilder, StringEncoderBuilder};
use pgpq::pg_schema::PostgresType;
use uuid::Uuid;

use super::types::PgType;
use crate::error::{Error, Result};

/// Makes of rows those that are sent: of one Arrow type for each type of PostgreSQL.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    types: Vec<PgType>,
    /// How many characters the columns take, where that is limited.
    widths: Vec<Option<usize>>,
    schema: SchemaRef,
}

impl Rows {
    /// For results of `schema` that go into columns of `types` and `widths`.
    pub(super) fn new(schema: &Schema, types: Vec<PgType>, widths: Vec<Option<usize>>) -> Self {
        let fields = schema.fields().iter().zip(&types);
        let fields = fields.map(|(field, pg)| Field::new(field.name(), pg.arrow(field.data_type()), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Self { types, widths, schema }
    }

    /// The columns of `rows` as they are sent.
    pub(super) fn convert(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let columns = rows.columns().iter().zip(self.schema.fields()).map(|(column, field)| {
            converted(column, field.data_type()).map_err(|error| {
                Error::Invalid(format!("column '{}' cannot be written to PostgreSQL: {error}", field.name()))
            })
        });
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<_>>()?)?;
        for (index, width) in self.widths.iter().enumerate() {
            let texts = rows.column(index).as_string_opt::<i32>();
            let Some((width, texts)) = width.zip(texts) else { continue };
            if let Some(text) = texts.iter().flatten().find(|text| is_cut(text, width)) {
                return Err(Error::Invalid(format!(
                    "column '{}' of PostgreSQL takes {width} characters, and '{text}' has more: blanks at its end would \
                     be cut off. Use rtrim, or a wider column",
                    rows.schema().field(index).name()
                )));
            }
        }
        Ok(rows)
    }

    /// Writes converted rows to one `COPY`.
    pub(super) fn encoder(&self) -> Result<Encoder> {
        let mut encoders = HashMap::new();
        for (field, pg) in self.schema.fields().iter().zip(&self.types) {
            let encoder = match pg {
                PgType::Jsonb => {
                    StringEncoderBuilder::new_with_output(Arc::clone(field), PostgresType::Jsonb)
                        .map(EncoderBuilder::String)
                }
                _ => EncoderBuilder::try_new(Arc::clone(field)),
            };
            encoders.insert(field.name().clone(), encoder.map_err(not_encoded)?);
        }
        let mut encoder = ArrowToPostgresBinaryEncoder::try_new_with_encoders(&self.schema, &encoders)
            .map_err(not_encoded)?;
        let mut buffer = BytesMut::new();
        encoder.write_header(&mut buffer).map_err(not_encoded)?;
        Ok(Encoder { encoder, buffer })
    }
}

/// Whether the server would cut blanks off: other texts that are too long it refuses.
fn is_cut(text: &str, width: usize) -> bool {
    text.len() > width && text.ends_with(' ') && text.chars().count() > width
}

fn not_encoded(error: pgpq::error::ErrorKind) -> Error {
    Error::Invalid(format!("a value cannot be written to PostgreSQL: {error}"))
}

fn converted(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    match (column.data_type(), to) {
        (from, to) if from == to => Ok(Arc::clone(column)),
        (DataType::FixedSizeBinary(16), DataType::FixedSizeBinary(16)) => Ok(Arc::clone(column)),
        (_, DataType::FixedSizeBinary(16)) => uuids(column),
        // To the microsecond that has begun, also before 1970: a cast goes towards 1970.
        (DataType::Timestamp(TimeUnit::Nanosecond, _), DataType::Timestamp(TimeUnit::Microsecond, zone)) => {
            let nanos = column.as_primitive::<TimestampNanosecondType>();
            let micros = nanos.unary::<_, TimestampMicrosecondType>(|nanos| nanos.div_euclid(1000));
            Ok(Arc::new(micros.with_timezone_opt(zone.clone())))
        }
        (DataType::Time64(TimeUnit::Nanosecond), _) => {
            let nanos = cast(column, &DataType::Int64)?;
            let micros = nanos.as_primitive::<Int64Type>().unary::<_, Int64Type>(|nanos| nanos / 1000);
            Ok(cast(&micros, to)?)
        }
        _ => Ok(cast_with_options(column, to, &strict)?),
    }
}

fn uuids(column: &ArrayRef) -> Result<ArrayRef> {
    let texts = cast(column, &DataType::Utf8)?;
    let mut uuids = FixedSizeBinaryBuilder::with_capacity(texts.len(), 16);
    for text in texts.as_string::<i32>() {
        match text.map(|text| Uuid::parse_str(text).map_err(|error| (text, error))).transpose() {
            Ok(Some(uuid)) => uuids.append_value(uuid.as_bytes())?,
            Ok(None) => uuids.append_null(),
            Err((text, error)) => return Err(Error::Invalid(format!("'{text}' is not a UUID: {error}"))),
        }
    }
    Ok(Arc::new(uuids.finish()))
}

/// The bytes of one `COPY`.
pub(super) struct Encoder {
    encoder: ArrowToPostgresBinaryEncoder,
    buffer: BytesMut,
}

/// How many rows are encoded at a time, so that the server has something to do meanwhile.
const ROWS: usize = 1024;

impl Encoder {
    /// The pieces in which `rows` are encoded: their numbers of rows.
    pub(super) fn pieces(rows: &RecordBatch) -> impl Iterator<Item = RecordBatch> {
        let count = rows.num_rows();
        (0..count).step_by(ROWS).map(move |from| rows.slice(from, ROWS.min(count - from)))
    }

    /// What is to be sent for `rows`.
    pub(super) fn encode(&mut self, rows: &RecordBatch) -> Result<Bytes> {
        self.encoder.write_batch(rows, &mut self.buffer).map_err(not_encoded)?;
        Ok(self.buffer.split().freeze())
    }

    /// What is to be sent last.
    pub(super) fn end(mut self) -> Result<Bytes> {
        self.encoder.write_footer(&mut self.buffer).map_err(not_encoded)?;
        Ok(self.buffer.freeze())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{StringArray, TimestampNanosecondArray};

    use super::*;

    #[test]
    fn times_before_1970_are_of_the_microsecond_that_has_begun() {
        let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![Some(-1), Some(1999), None]));
        let micros = converted(&nanos, &DataType::Timestamp(TimeUnit::Microsecond, None)).unwrap();
        let micros: Vec<_> = micros.as_primitive::<TimestampMicrosecondType>().iter().collect();
        assert_eq!(micros, [Some(-1), Some(1), None]);
    }

    #[test]
    fn what_is_no_uuid_is_named() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["00000000-0000-0000-0000-000000000001", "x"]));
        let error = converted(&texts, &DataType::FixedSizeBinary(16)).unwrap_err().to_string();
        assert!(error.starts_with("'x' is not a UUID"), "{error}");
    }
}
