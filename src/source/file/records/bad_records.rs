//! Malformed records, written aside (`badRecordsPath`).

use std::sync::Arc;

use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::error::{Error, Result};

/// Where the malformed records of one batch go: one file of JSON lines per input file that has any,
/// named after batch and input file, so that a batch that runs again writes the same files again.
#[derive(Debug, Clone)]
pub(in crate::source::file) struct BadRecordFiles {
    /// The store, as DataFusion's registry knows it.
    pub(in crate::source::file) store: ObjectStoreUrl,
    /// The batch's directory.
    pub(in crate::source::file) directory: Path,
}

impl BadRecordFiles {
    /// The writer for the malformed records of the input file at `relative` below its base.
    pub(in crate::source::file) fn writer(
        &self,
        store: Arc<dyn ObjectStore>,
        relative: &str,
    ) -> Result<BadRecordWriter> {
        let path = format!("{}/{relative}.json", self.directory);
        let path = Path::parse(&path)
            .map_err(|error| Error::option("badRecordsPath", &path, format!("it is no path: {error}")))?;
        Ok(BadRecordWriter { name: format!("{}{path}", self.store.as_str()), store, path, file: None })
    }
}

/// Where a record is in its file, from 1.
#[derive(Debug, Clone, Copy)]
pub(in crate::source::file) enum Place {
    /// Of a file of text.
    Line(u64),
    /// Of a binary file, which has no text: the record is told as a JSON object.
    Row(u64),
}

/// Writes the malformed records of one input file. The file appears, whole, with
/// [`BadRecordWriter::finish`], and only if there was a record.
pub(in crate::source::file) struct BadRecordWriter {
    name: String,
    store: Arc<dyn ObjectStore>,
    path: Path,
    file: Option<BufWriter>,
}

impl BadRecordWriter {
    /// Writes one record: the input file's URL, where the record is in it, its text and what is wrong with it.
    pub(in crate::source::file) async fn write(
        &mut self,
        file: &str,
        place: Place,
        record: &str,
        reason: &str,
    ) -> Result<()> {
        let (unit, number) = match place {
            Place::Line(number) => ("line", number),
            Place::Row(number) => ("row", number),
        };
        let mut text = json!({"path": file, unit: number, "record": record, "reason": reason}).to_string();
        text.push('\n');
        let (store, path) = (&self.store, &self.path);
        let out = self.file.get_or_insert_with(|| BufWriter::new(Arc::clone(store), path.clone()));
        out.write_all(text.as_bytes()).await.map_err(|error| Error::storage("write", &self.name, error))
    }

    /// Makes the file appear, in place of one that an earlier run of the batch wrote.
    pub(in crate::source::file) async fn finish(mut self) -> Result<()> {
        match self.file.take() {
            Some(mut file) => {
                file.shutdown().await.map_err(|error| Error::storage("write", &self.name, error))
            }
            None => Ok(()),
        }
    }
}
