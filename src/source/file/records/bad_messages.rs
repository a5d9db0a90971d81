//! Malformed messages of a queue, written aside as malformed records of files are (`badRecordsPath`).

use std::sync::Arc;

use datafusion::execution::TaskContext;
use object_store::ObjectStore;
use uuid::Uuid;

use super::bad_records::{BadRecordFiles, BadRecordWriter, Place};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::source::batch_number;
use crate::source::file::location::{FileLocation, Selection};

/// The option with the place.
const OPTION: &str = "badRecordsPath";

/// A message that was left out because it is malformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadMessage {
    /// Its position among those that were read.
    pub position: usize,
    /// What is wrong with it, and with which column.
    pub reason: String,
}

/// The directory that malformed messages are written to: files of JSON lines, by query, batch and what the source
/// calls the part of the queue, which `tidemill bad-records list` shows. For sources that read messages in parts, each
/// of them once and in order in a batch.
///
/// ```
/// use tidemill::{Options, source::BadMessages};
///
/// assert!(BadMessages::parse(&Options::default())?.is_none());
/// let options: Options = [("badRecordsPath", "bad")].into_iter().collect();
/// assert!(BadMessages::parse(&options)?.is_some());
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct BadMessages {
    location: FileLocation,
}

impl BadMessages {
    /// The place that the option `badRecordsPath` names, if there is one.
    ///
    /// # Errors
    /// If it is no directory.
    pub fn parse(options: &Options) -> Result<Option<Self>> {
        let Some(directory) = options.get(OPTION) else { return Ok(None) };
        let location = FileLocation::parse(&format!("{}/", directory.trim_end_matches('/')))?;
        if !matches!(location.selection(), Selection::Directory) {
            return Err(Error::option(OPTION, directory, "it must be a directory, not a pattern"));
        }
        Ok(Some(Self { location }))
    }

    /// Where those of the batch go that `context` belongs to, of `query`.
    ///
    /// # Errors
    /// If there is no store for the place, or if this is no batch.
    pub fn of_batch(&self, query: Uuid, context: &TaskContext) -> Result<BadMessageFiles> {
        let number = batch_number(context)
            .ok_or_else(|| Error::Invalid("only a batch of a query puts messages aside".into()))?;
        let files = BadRecordFiles {
            store: self.location.store_url().clone(),
            directory: self.location.object_path(&format!("{query}/{number}"))?,
            batch: (query.to_string(), number),
            read: None,
        };
        Ok(BadMessageFiles { files, store: context.runtime_env().object_store(self.location.store_url())? })
    }
}

/// Where the malformed messages of one batch go.
#[derive(Debug, Clone)]
pub struct BadMessageFiles {
    files: BadRecordFiles,
    store: Arc<dyn ObjectStore>,
}

impl BadMessageFiles {
    /// Of those of a part of the queue, by its name: a part of a path.
    ///
    /// # Errors
    /// If it cannot be one.
    pub fn writer(&self, part: &str) -> Result<BadMessageWriter> {
        Ok(BadMessageWriter { writer: self.files.writer(Arc::clone(&self.store), part)? })
    }
}

/// Writes the malformed messages of a part of a queue.
pub struct BadMessageWriter {
    writer: BadRecordWriter,
}

impl std::fmt::Debug for BadMessageWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BadMessageWriter").finish_non_exhaustive()
    }
}

impl BadMessageWriter {
    /// Writes a message: of what (a URL), where there, its bytes, and what is wrong with it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write(&mut self, of: &str, offset: i64, message: &[u8], reason: &str) -> Result<()> {
        let (text, place) = match std::str::from_utf8(message) {
            Ok(text) => (text.to_string(), Place::Offset(offset)),
            Err(_) => (hex(message), Place::BinaryOffset(offset)),
        };
        self.writer.write(of, place, &text, reason).await
    }

    /// Makes the file appear, in place of one that an earlier run of the batch wrote. Without messages there is none.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn finish(self) -> Result<()> {
        self.writer.finish().await
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
