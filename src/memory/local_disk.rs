//! Files on the local disk that rows are moved to which do not fit into memory: where, how many bytes, and until when is DataFusion's
//! to say (`datafusion.runtime.temp_directory`, `max_temp_directory_size`).

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use datafusion::execution::DiskManager;
use datafusion::execution::spill_file::{SpillFile, SpillWriter};

use crate::error::{Error, Result};

const BUFFER: usize = 1 << 18;

/// What is moved.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moved {
    /// Rows of state.
    State,
    /// Rows that are on their way through a batch.
    Rows,
}

impl Moved {
    /// An error of the disk in reading what was moved to it.
    pub(crate) fn failed(self, operation: &'static str, error: io::Error) -> Error {
        let what = match self {
            Moved::State => "state that was moved to the local disk",
            Moved::Rows => "rows of a batch that were moved to the local disk",
        };
        Error::storage(operation, what, error)
    }

    /// What would need less of the disk.
    fn instead(self) -> &'static str {
        match self {
            Moved::State => "raise stateMemoryLimit",
            Moved::Rows => "give the session more memory",
        }
    }

    /// An error in moving it to the disk.
    fn failed_to_move(self, operation: &'static str, file: Option<&Path>, error: io::Error) -> Error {
        let error = unwrapped(error);
        let instead = self.instead();
        let advice = match (error.kind(), self) {
            (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => format!(
                "free some space, name a directory with more in datafusion.runtime.temp_directory (TMPDIR if that \
                 is not set), or {instead}"
            ),
            _ if is_too_many_files(&error) => format!(
                "the process may have no more files open: raise the limit (ulimit -n), set fewer statePartitions, \
                 or {instead}"
            ),
            (_, Moved::State) => format!(
                "state that does not fit into stateMemoryLimit is moved there: name a directory that can be \
                 written in datafusion.runtime.temp_directory, or {instead}"
            ),
            (_, Moved::Rows) => format!(
                "rows of a batch that do not fit into memory are moved there: name a directory that can be written \
                 in datafusion.runtime.temp_directory, or {instead}"
            ),
        };
        located(operation, file, io::Error::new(error.kind(), format!("{error} ({advice})")))
    }
}

fn located(operation: &'static str, file: Option<&Path>, error: io::Error) -> Error {
    match file {
        Some(file) => Error::storage(operation, file.display().to_string(), error),
        None => Error::storage(operation, "a temporary file on the local disk", error),
    }
}

/// The error of the operating system, which DataFusion's writers wrap.
fn unwrapped(error: io::Error) -> io::Error {
    match error.downcast::<datafusion::error::DataFusionError>() {
        Ok(wrapped) => io_error(wrapped),
        Err(error) => error,
    }
}

/// EMFILE and ENFILE, which have no kind of their own.
fn is_too_many_files(error: &io::Error) -> bool {
    cfg!(unix) && matches!(error.raw_os_error(), Some(23 | 24))
}

/// A file that is written. Its name is gone when it is finished, and itself when nobody has it open, even if
/// the process is killed.
pub(crate) struct NewFile {
    what: Moved,
    // First: what is in its buffer is written when it is dropped, and counted.
    writer: BufWriter<Box<dyn SpillWriter>>,
    named: Arc<dyn SpillFile>,
}

impl fmt::Debug for NewFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewFile").field("path", &self.named.path()).finish_non_exhaustive()
    }
}

impl NewFile {
    pub(crate) fn create(disk: &Arc<DiskManager>, what: Moved) -> Result<Self> {
        let failed =
            |error: datafusion::error::DataFusionError| what.failed_to_move("create", None, io_error(error));
        let purpose = match what {
            Moved::State => "moving state that does not fit into memory",
            Moved::Rows => "moving rows of a batch that do not fit into memory",
        };
        let named = disk.create_tmp_file(purpose).map_err(failed)?;
        let writer = named.open_writer().map_err(failed)?;
        Ok(Self { what, named, writer: BufWriter::with_capacity(BUFFER, writer) })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer
            .write_all(bytes)
            .map_err(|error| self.what.failed_to_move("write", self.named.path(), error))
    }

    pub(crate) fn finish(mut self) -> Result<SpilledFile> {
        self.writer.flush().map_err(|error| self.what.failed_to_move("write", self.named.path(), error))?;
        let path = self.named.path().ok_or_else(|| {
            Error::Invalid(
                "rows can be moved to local files only, and the DiskManager of the session has none".into(),
            )
        })?;
        let file = File::open(path).map_err(|error| self.what.failed_to_move("open", Some(path), error))?;
        #[cfg(unix)]
        if let Err(error) = std::fs::remove_file(path) {
            tracing::debug!(path = %path.display(), %error, "a temporary file keeps its name until it is closed");
        }
        Ok(SpilledFile { file, _named: self.named })
    }
}

fn io_error(error: datafusion::error::DataFusionError) -> io::Error {
    match error {
        datafusion::error::DataFusionError::IoError(error) => error,
        error => io::Error::other(error.strip_backtrace()),
    }
}

/// A file that was written.
pub(crate) struct SpilledFile {
    pub(crate) file: File,
    /// Counted as used until this is dropped.
    _named: Arc<dyn SpillFile>,
}

impl fmt::Debug for SpilledFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

/// Reads all of `into` from `offset` on, wherever others are reading.
#[cfg(unix)]
pub(crate) fn read_at(file: &File, offset: u64, into: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

/// Reads all of `into` from `offset` on, wherever others are reading.
#[cfg(windows)]
pub(crate) fn read_at(file: &File, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, into, offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset += read as u64;
        into = &mut into[read..];
    }
    Ok(())
}
