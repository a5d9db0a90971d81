//! Rows that are staged in the checkpoint until Kafka has them.

use std::io::Cursor;
use std::sync::Arc;

use tidemill::arrow::array::RecordBatch;
use tidemill::arrow::ipc::reader::StreamReader;
use tidemill::arrow::ipc::writer::StreamWriter;
use tidemill::sink::{STAGED, SinkBatch};
use tidemill::storage::{Storage, StorageWriter};
use tidemill::{Error, Result};

use super::records::record_schema;

/// What one writer stages, as an Arrow stream.
pub(super) struct StagedWriter {
    path: String,
    file: Box<dyn StorageWriter>,
    rows: StreamWriter<Vec<u8>>,
}

impl StagedWriter {
    /// A new file for `partition` of `batch`.
    pub(super) async fn create(
        storage: &Arc<dyn Storage>,
        batch: SinkBatch,
        partition: usize,
    ) -> Result<Self> {
        let path = format!("{STAGED}/{}-{}-{partition}", batch.batch_id, batch.run_id);
        let file = storage.writer(&path).await?;
        Ok(Self { path, file, rows: StreamWriter::try_new(Vec::new(), &record_schema())? })
    }

    pub(super) async fn write(&mut self, records: &RecordBatch) -> Result<()> {
        self.rows.write(records)?;
        let bytes = std::mem::take(self.rows.get_mut());
        self.file.write(bytes.into()).await
    }

    /// The file's name, when it is durable.
    pub(super) async fn finish(mut self) -> Result<String> {
        self.rows.finish()?;
        let bytes = std::mem::take(self.rows.get_mut());
        self.file.write(bytes.into()).await?;
        self.file.finish().await?;
        Ok(self.path)
    }
}

/// The records of a file that was staged.
pub(super) async fn read(storage: &Arc<dyn Storage>, path: &str) -> Result<Vec<RecordBatch>> {
    let damaged = |reason: String| Error::CheckpointDamaged { path: path.to_string(), reason };
    let bytes = storage.read(path).await?.ok_or_else(|| {
        damaged(
            "it is gone, and it has rows that Kafka does not have yet. Restore the checkpoint with it, or set the \
             option ifBatchUnknown of the sink to skip to go on without those rows"
                .into(),
        )
    })?;
    let reader =
        StreamReader::try_new(Cursor::new(bytes), None).map_err(|error| damaged(error.to_string()))?;
    if reader.schema() != record_schema() {
        return Err(damaged("it has other columns than those of records".into()));
    }
    reader.collect::<Result<_, _>>().map_err(|error| damaged(error.to_string()))
}

/// Removes what was staged for batches up to `last`.
pub(super) async fn clean(storage: &Arc<dyn Storage>, last: u64) -> Result<()> {
    for file in storage.list(STAGED).await? {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let batch = name.split('-').next().and_then(|batch| batch.parse::<u64>().ok());
        if batch.is_some_and(|batch| batch <= last) {
            storage.delete(&file.path).await?;
        }
    }
    Ok(())
}
