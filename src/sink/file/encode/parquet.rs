//! Parquet files, written with the properties that DataFusion's `COPY` would use.
//!
//! Parquet has no seconds: Arrow's writer would leave bare numbers of them behind, which are times only to
//! readers that know Arrow's schema.

use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use datafusion::common::config::{ParquetEncryptionOptions, TableParquetOptions};
use datafusion::error::DataFusionError;
use datafusion::parquet::arrow::ArrowSchemaConverter;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_writer::ArrowWriterOptions;
use datafusion::parquet::basic::{Compression, Encoding, Type};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use datafusion::parquet::schema::types::ColumnPath;

use super::Encoder;
use super::chunks::Chunks;
use crate::error::{Error, Result};

/// How Parquet files are written.
#[derive(Debug, Clone)]
pub(in crate::sink::file) struct ParquetFormat {
    properties: WriterProperties,
    skip_arrow_metadata: bool,
    /// The columns as they are stored.
    schema: SchemaRef,
}

impl ParquetFormat {
    /// Takes the options over as DataFusion's own Parquet sink does, but reports what that would
    /// pass over in silence or panic at.
    pub fn try_new(mut options: TableParquetOptions, schema: &SchemaRef) -> Result<Self> {
        check_options(&options)?;
        let schema = &stored_schema(schema)?;
        let skip_arrow_metadata = options.global.skip_arrow_metadata;
        if !skip_arrow_metadata {
            options.arrow_schema(schema);
        }
        let properties = WriterPropertiesBuilder::try_from(&options)?.build();
        check_columns(&options, &properties, schema)?;
        Ok(Self { properties, skip_arrow_metadata, schema: Arc::clone(schema) })
    }

    /// The columns as they are stored.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// `.zstd`, `.snappy`, … as Spark names them; empty without compression.
    pub fn extension(&self) -> &'static str {
        match self.properties.compression(&ColumnPath::new(vec![])) {
            Compression::UNCOMPRESSED => "",
            Compression::SNAPPY => ".snappy",
            Compression::GZIP(_) => ".gz",
            Compression::LZO => ".lzo",
            Compression::BROTLI(_) => ".br",
            Compression::LZ4 => ".lz4",
            Compression::ZSTD(_) => ".zstd",
            Compression::LZ4_RAW => ".lz4raw",
        }
    }
}

/// The columns as Parquet's own types hold them. Fails if they cannot.
pub(in crate::sink::file) fn stored_schema(schema: &SchemaRef) -> Result<SchemaRef> {
    let mut fields = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let stored = stored_field(field).map_err(|data_type| {
            Error::Invalid(format!(
                "the parquet sink cannot write column '{}' of type {}: Parquet has no type for {data_type}. \
                 Cast it in the query: to a number of units that you choose, or to a string",
                field.name(),
                field.data_type()
            ))
        })?;
        fields.push(stored);
    }
    Ok(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())))
}

/// A column as Parquet's own types hold it; the error is the type that has none.
fn stored_field(field: &FieldRef) -> std::result::Result<FieldRef, DataType> {
    let stored = stored_type(field.data_type())?;
    Ok(match stored == *field.data_type() {
        true => Arc::clone(field),
        false => Arc::new(field.as_ref().clone().with_data_type(stored)),
    })
}

fn stored_type(data_type: &DataType) -> std::result::Result<DataType, DataType> {
    use DataType::{
        Date32, Date64, Dictionary, Duration, FixedSizeList, Interval, LargeList, List, Map, Struct, Time32,
        Timestamp, Union,
    };
    Ok(match data_type {
        Duration(_) | Interval(_) | Union(..) => return Err(data_type.clone()),
        Timestamp(TimeUnit::Second, zone) => Timestamp(TimeUnit::Millisecond, zone.clone()),
        Time32(TimeUnit::Second) => Time32(TimeUnit::Millisecond),
        Date64 => Date32,
        List(item) => List(stored_field(item)?),
        LargeList(item) => LargeList(stored_field(item)?),
        FixedSizeList(item, length) => FixedSizeList(stored_field(item)?, *length),
        Struct(fields) => {
            Struct(fields.iter().map(stored_field).collect::<std::result::Result<Fields, _>>()?)
        }
        Map(entries, sorted) => Map(stored_field(entries)?, *sorted),
        Dictionary(keys, values) => Dictionary(keys.clone(), Box::new(stored_type(values)?)),
        other => other.clone(),
    })
}

/// `rows` with the columns of `schema`, as which they are stored.
pub(in crate::sink::file) fn as_stored(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = rows.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| stored(column, field)).collect::<Result<Vec<_>>>()?;
    let length = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &length)?)
}

/// `column` as it is stored. Fails for what would not be the same afterwards.
fn stored(column: &ArrayRef, field: &FieldRef) -> Result<ArrayRef> {
    if column.data_type() == field.data_type() {
        return Ok(Arc::clone(column));
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let failed = |reason: String| {
        Error::Invalid(format!(
            "column '{}' of type {} has a value that Parquet cannot hold as {}: {reason}",
            field.name(),
            column.data_type(),
            field.data_type()
        ))
    };
    let stored =
        cast_with_options(column, field.data_type(), &strict).map_err(|error| failed(error.to_string()))?;
    // A date may have a time of day, which casts leave out.
    let back = cast_with_options(&stored, column.data_type(), &strict)?;
    match *back == **column {
        true => Ok(stored),
        false => Err(failed("it has a time of day. Cast it to a timestamp or to a date in the query".into())),
    }
}

/// Reports values at which parquet's builder would panic, or that DataFusion would ignore.
fn check_options(options: &TableParquetOptions) -> Result<()> {
    let global = &options.global;
    let not_zero = [
        ("max_row_group_size", Some(global.max_row_group_size)),
        ("write_batch_size", Some(global.write_batch_size)),
        ("column_index_truncate_length", global.column_index_truncate_length),
        ("statistics_truncate_length", global.statistics_truncate_length),
    ];
    for (name, value) in not_zero {
        if value == Some(0) {
            return Err(Error::option(name, 0, "expected a whole number of at least 1"));
        }
    }
    let columns = options.column_specific_options.values();
    let rates = columns.clone().map(|column| column.bloom_filter_fpp).chain([global.bloom_filter_fpp]);
    for rate in rates.flatten() {
        if !(rate > 0.0 && rate < 1.0) {
            return Err(Error::option("bloom_filter_fpp", rate, "expected a number between 0 and 1"));
        }
    }
    let encodings = columns.map(|column| &column.encoding).chain([&global.encoding]);
    for encoding in encodings.flatten() {
        if encoding.to_ascii_lowercase().ends_with("_dictionary") {
            let reason = "dictionaries are chosen with dictionary_enabled; this is the encoding without one";
            return Err(Error::option("encoding", encoding, reason));
        }
    }
    if let Some(statistics) = &global.statistics_enabled
        && !["none", "chunk", "page"].contains(&statistics.to_ascii_lowercase().as_str())
    {
        return Err(Error::option("statistics_enabled", statistics, "expected none, chunk or page"));
    }
    let chunking = &global.content_defined_chunking;
    if chunking.enabled
        && (chunking.min_chunk_size == 0 || chunking.max_chunk_size <= chunking.min_chunk_size)
    {
        return Err(Error::option(
            "content_defined_chunking.max_chunk_size",
            chunking.max_chunk_size,
            "expected 0 < min_chunk_size < max_chunk_size",
        ));
    }
    if options.crypto != ParquetEncryptionOptions::default() {
        return Err(Error::Invalid(
            "the parquet sink does not encrypt; remove the format.crypto options".to_string(),
        ));
    }
    Ok(())
}

/// Checks what is said of single columns: they must exist, and their encodings must suit them.
fn check_columns(
    options: &TableParquetOptions,
    properties: &WriterProperties,
    schema: &SchemaRef,
) -> Result<()> {
    let converter = ArrowSchemaConverter::new().with_coerce_types(properties.coerce_types());
    let parquet = converter.convert(schema).map_err(parquet_failed)?;
    for column in options.column_specific_options.keys() {
        if !parquet.columns().iter().any(|leaf| leaf.path().string() == *column) {
            let names: Vec<_> = parquet.columns().iter().map(|leaf| leaf.path().string()).collect();
            let reason = format!("there is no such column; there are {}", names.join(", "));
            return Err(Error::option("…::column", column, reason));
        }
    }
    for leaf in parquet.columns() {
        let Some(encoding) = properties.encoding(leaf.path()) else { continue };
        if !suits(encoding, leaf.physical_type()) {
            let reason = format!(
                "column '{}' is stored as {}, which has no such encoding; set it for single columns with \
                 encoding::<column>",
                leaf.path().string(),
                leaf.physical_type()
            );
            return Err(Error::option("encoding", encoding, reason));
        }
    }
    Ok(())
}

/// The encodings of the Parquet format by physical type.
fn suits(encoding: Encoding, physical: Type) -> bool {
    match encoding {
        Encoding::PLAIN => true,
        Encoding::RLE => physical == Type::BOOLEAN,
        Encoding::DELTA_BINARY_PACKED => matches!(physical, Type::INT32 | Type::INT64),
        Encoding::DELTA_LENGTH_BYTE_ARRAY => physical == Type::BYTE_ARRAY,
        Encoding::DELTA_BYTE_ARRAY => matches!(physical, Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY),
        Encoding::BYTE_STREAM_SPLIT => matches!(
            physical,
            Type::INT32 | Type::INT64 | Type::FLOAT | Type::DOUBLE | Type::FIXED_LEN_BYTE_ARRAY
        ),
        _ => false,
    }
}

/// Encodes one Parquet file.
pub(super) struct ParquetEncoder {
    writer: ArrowWriter<Chunks>,
    schema: SchemaRef,
}

impl ParquetEncoder {
    pub fn try_new(format: &ParquetFormat) -> Result<Self> {
        let schema = Arc::clone(&format.schema);
        let options = ArrowWriterOptions::new()
            .with_properties(format.properties.clone())
            .with_skip_arrow_metadata(format.skip_arrow_metadata);
        let writer = ArrowWriter::try_new_with_options(Chunks::default(), Arc::clone(&schema), options)
            .map_err(parquet_failed)?;
        Ok(Self { writer, schema })
    }
}

impl Encoder for ParquetEncoder {
    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let is_stored_as_it_is =
            |(column, field): (&ArrayRef, &FieldRef)| column.data_type() == field.data_type();
        if rows.columns().iter().zip(self.schema.fields()).all(is_stored_as_it_is) {
            return self.writer.write(rows).map_err(parquet_failed);
        }
        self.writer.write(&as_stored(rows, &self.schema)?).map_err(parquet_failed)
    }

    fn size(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    fn memory(&self) -> usize {
        self.writer.memory_size() + self.writer.inner().held()
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.flush().map_err(parquet_failed)
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.writer.inner_mut().take()
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Bytes>> {
        self.writer.finish().map_err(parquet_failed)?;
        Ok(mem::take(self.writer.inner_mut()).finish())
    }
}

fn parquet_failed(error: ParquetError) -> Error {
    Error::from(DataFusionError::ParquetError(Box::new(error)))
}
