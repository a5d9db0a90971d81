//! Arrow IPC files.

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::ipc::writer::{FileWriter, IpcWriteOptions};

use super::Encoder;
use super::chunks::Chunks;
use crate::error::Result;

/// Encodes one Arrow IPC file; each batch becomes one record batch of the file.
pub(super) struct ArrowEncoder {
    writer: FileWriter<Chunks>,
}

impl ArrowEncoder {
    pub fn try_new(schema: &Schema, options: IpcWriteOptions) -> Result<Self> {
        Ok(Self { writer: FileWriter::try_new_with_options(Chunks::default(), schema, options)? })
    }
}

impl Encoder for ArrowEncoder {
    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        Ok(self.writer.write(rows)?)
    }

    fn size(&self) -> u64 {
        self.writer.get_ref().total()
    }

    fn memory(&self) -> usize {
        self.writer.get_ref().held()
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.writer.get_mut().take()
    }

    fn finish(self: Box<Self>) -> Result<Vec<Bytes>> {
        Ok(self.writer.into_inner()?.finish())
    }
}
