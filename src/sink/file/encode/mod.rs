//! From rows to the bytes of one file: incremental, synchronous, and without I/O.

mod arrow;
mod chunks;
mod compress;
mod lines;
mod parquet;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::writer::IpcWriteOptions;

use crate::error::Result;

pub(super) use compress::{Compression, LineOutput};
pub(in crate::sink) use lines::LineFormat;
pub(super) use parquet::{ParquetFormat, as_stored, stored_schema};

/// The encoder of one file.
pub(super) trait Encoder: Send {
    /// Encodes `rows`, which have the file's schema.
    fn write(&mut self, rows: &RecordBatch) -> Result<()>;

    /// The size of the file, in bytes, if it ended here; an estimate, because codecs and column
    /// encoders hold rows back.
    fn size(&self) -> u64;

    /// The memory in use, in bytes; an estimate.
    fn memory(&self) -> usize;

    /// Frees as much memory as the format can (Parquet ends the row group).
    fn flush(&mut self) -> Result<()>;

    /// The encoded bytes that are ready for storage, in order.
    fn take(&mut self) -> Vec<Bytes>;

    /// Ends the file and gives the rest of its bytes.
    fn finish(self: Box<Self>) -> Result<Vec<Bytes>>;
}

/// Everything that decides how the bytes of a file look.
#[derive(Debug, Clone)]
pub(super) struct FileEncoding {
    /// The columns in the file.
    pub schema: SchemaRef,
    /// The format with its options.
    pub format: FormatEncoding,
}

/// A format with its options.
#[derive(Debug, Clone)]
pub(super) enum FormatEncoding {
    /// Apache Parquet.
    Parquet(Box<ParquetFormat>),
    /// Arrow IPC file.
    Arrow(IpcWriteOptions),
    /// JSON, CSV or text lines, compressed as a whole.
    Lines(LineFormat, Compression),
}

impl FileEncoding {
    /// The encoder of a new file.
    pub fn encoder(&self) -> Result<Box<dyn Encoder>> {
        Ok(match &self.format {
            FormatEncoding::Parquet(format) => Box::new(parquet::ParquetEncoder::try_new(format)?),
            FormatEncoding::Arrow(options) => {
                Box::new(arrow::ArrowEncoder::try_new(&self.schema, options.clone())?)
            }
            FormatEncoding::Lines(format, compression) => {
                Box::new(lines::LineEncoder::try_new(format.clone(), *compression)?)
            }
        })
    }

    /// The end of the file's name, with its dot: `.zstd.parquet`, `.json.gz`, ….
    pub fn extension(&self) -> String {
        match &self.format {
            FormatEncoding::Parquet(format) => format!("{}.parquet", format.extension()),
            FormatEncoding::Arrow(_) => ".arrow".to_string(),
            FormatEncoding::Lines(format, compression) => {
                let format = match format {
                    LineFormat::Json(_) => ".json",
                    LineFormat::Csv { .. } => ".csv",
                    LineFormat::Text => ".txt",
                };
                format!("{format}{}", compression.extension())
            }
        }
    }
}
