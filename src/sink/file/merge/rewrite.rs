//! The rows of several files of one format in one file, in their order.

use std::io::{self, Cursor, Read};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::BatchCoalescer;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::FileReader;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::DataFusionError;
use datafusion::parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use datafusion::parquet::errors::ParquetError;

use crate::error::{Error, Result};
use crate::sink::file::encode::{Compression, Encoder, FileEncoding, FormatEncoding, LineFormat, LineOutput};

/// How many rows are encoded at once.
const BATCH_ROWS: usize = 8192;

/// What the encoder may hold. Beyond it, it ends its row group.
const MEMORY_BYTES: usize = 64 << 20;

/// A file in the making whose rows come from others.
pub(super) enum Rewrite {
    /// Rows are read and encoded anew, as those of a batch are.
    Rows { encoder: Box<dyn Encoder>, rows: BatchCoalescer, schema: SchemaRef, is_parquet: bool },
    /// Lines are taken over as they are.
    Lines { out: LineOutput, header: Vec<u8>, is_first: bool, compression: Compression },
}

impl Rewrite {
    pub(super) fn new(encoding: &FileEncoding) -> Result<Self> {
        let rows = |schema: &SchemaRef, is_parquet| {
            let rows = BatchCoalescer::new(Arc::clone(schema), BATCH_ROWS);
            Ok(Self::Rows { encoder: encoding.encoder()?, rows, schema: Arc::clone(schema), is_parquet })
        };
        match &encoding.format {
            FormatEncoding::Parquet(format) => rows(format.schema(), true),
            FormatEncoding::Arrow(_) => rows(&encoding.schema, false),
            FormatEncoding::Lines(format, compression) => Ok(Self::Lines {
                out: LineOutput::try_new(*compression).map_err(Error::other)?,
                header: header(format, &encoding.schema)?,
                is_first: true,
                compression: *compression,
            }),
        }
    }

    /// Adds what is in a file; says no, and adds nothing, if that has other columns.
    pub(super) fn add(&mut self, file: Bytes) -> Result<bool> {
        match self {
            Self::Rows { encoder, rows, schema, is_parquet } => {
                let batches =
                    if *is_parquet { parquet_rows(file, schema)? } else { arrow_rows(file, schema)? };
                let Some(batches) = batches else { return Ok(false) };
                for batch in batches {
                    rows.push_batch(batch?)?;
                    encode(encoder.as_mut(), rows)?;
                }
            }
            Self::Lines { out, header, is_first, compression } => {
                let codec = FileCompressionType::from(compression.codec());
                let mut lines = codec.convert_read(Cursor::new(file))?;
                let mut begin = vec![0; header.len()];
                match lines.read_exact(&mut begin) {
                    Ok(()) if begin == *header => {}
                    Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                        return Err(Error::other(error));
                    }
                    _ => return Ok(false),
                }
                if std::mem::take(is_first) {
                    io::Write::write_all(out, header).map_err(Error::other)?;
                }
                io::copy(&mut lines, out).map_err(Error::other)?;
            }
        }
        Ok(true)
    }

    /// The encoded bytes that are ready for storage, in order.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        match self {
            Self::Rows { encoder, .. } => encoder.take(),
            Self::Lines { out, .. } => out.take(),
        }
    }

    /// Ends the file and gives the rest of its bytes.
    pub(super) fn finish(self) -> Result<Vec<Bytes>> {
        match self {
            Self::Rows { mut encoder, mut rows, .. } => {
                rows.finish_buffered_batch()?;
                encode(encoder.as_mut(), &mut rows)?;
                encoder.finish()
            }
            Self::Lines { out, .. } => out.finish().map_err(Error::other),
        }
    }
}

fn encode(encoder: &mut dyn Encoder, rows: &mut BatchCoalescer) -> Result<()> {
    while let Some(batch) = rows.next_completed_batch() {
        encoder.write(&batch)?;
        if encoder.memory() > MEMORY_BYTES {
            encoder.flush()?;
        }
    }
    Ok(())
}

/// What files of `format` begin with.
fn header(format: &LineFormat, schema: &SchemaRef) -> Result<Vec<u8>> {
    let mut header = Vec::new();
    if matches!(format, LineFormat::Csv { header: true, .. }) {
        format.encode(&RecordBatch::new_empty(Arc::clone(schema)), true, &mut header)?;
    }
    Ok(header)
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch>>>;

/// The rows of a Parquet file, if its columns are those of `schema`.
fn parquet_rows(file: Bytes, schema: &SchemaRef) -> Result<Option<Batches>> {
    let open = |options| ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options);
    let mut reader = open(ArrowReaderOptions::new()).map_err(parquet_failed)?;
    if !has_columns(reader.schema(), schema) {
        // Of some types Parquet knows less than Arrow.
        match open(ArrowReaderOptions::new().with_schema(Arc::clone(schema))) {
            Ok(as_given) => reader = as_given,
            Err(_) => return Ok(None),
        }
    }
    let batches = reader.with_batch_size(BATCH_ROWS).build().map_err(parquet_failed)?;
    Ok(Some(conformed(batches, schema)))
}

/// The rows of an Arrow file, if its columns are those of `schema`.
fn arrow_rows(file: Bytes, schema: &SchemaRef) -> Result<Option<Batches>> {
    let reader = FileReader::try_new(Cursor::new(file), None)?;
    let has_columns = has_columns(&reader.schema(), schema);
    Ok(has_columns.then(|| conformed(reader, schema)))
}

fn has_columns(found: &Schema, schema: &Schema) -> bool {
    let columns = |schema: &Schema| {
        let column = |field: &Arc<datafusion::arrow::datatypes::Field>| {
            (field.name().clone(), field.data_type().clone())
        };
        schema.fields().iter().map(column).collect::<Vec<_>>()
    };
    columns(found) == columns(schema)
}

fn conformed(
    batches: impl Iterator<Item = std::result::Result<RecordBatch, ArrowError>> + 'static,
    schema: &SchemaRef,
) -> Batches {
    let schema = Arc::clone(schema);
    Box::new(batches.map(move |batch| {
        let batch = batch?;
        let length = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&schema), batch.columns().to_vec(), &length)?)
    }))
}

fn parquet_failed(error: ParquetError) -> Error {
    Error::from(DataFusionError::ParquetError(Box::new(error)))
}
