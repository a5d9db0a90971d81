//! Files on the local disk that rows are moved to: where, how many bytes, and until when is DataFusion's
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

/// An error of the disk in reading rows that were moved to it.
pub(super) fn failed(operation: &'static str, error: io::Error) -> Error {
    Error::storage(operation, "state that was moved to the local disk", error)
}

/// An error in moving rows to the disk.
fn failed_to_move(operation: &'static str, file: Option<&Path>, error: io::Error) -> Error {
    let error = unwrapped(error);
    let advice = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space, name a directory with more in datafusion.runtime.temp_directory (TMPDIR if that is \
             not set), or raise stateMemoryLimit"
        }
        _ if is_too_many_files(&error) => {
            "the process may have no more files open: raise the limit (ulimit -n), set fewer statePartitions, or \
             raise stateMemoryLimit"
        }
        _ => {
            "state that does not fit into stateMemoryLimit is moved there: name a directory that can be written in \
             datafusion.runtime.temp_directory, or raise stateMemoryLimit"
        }
    };
    let error = io::Error::new(error.kind(), format!("{error} ({advice})"));
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
pub(super) struct NewFile {
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
    pub(super) fn create(disk: &Arc<DiskManager>) -> Result<Self> {
        let failed =
            |error: datafusion::error::DataFusionError| failed_to_move("create", None, io_error(error));
        let named = disk.create_tmp_file("moving state that does not fit into memory").map_err(failed)?;
        let writer = named.open_writer().map_err(failed)?;
        Ok(Self { named, writer: BufWriter::with_capacity(BUFFER, writer) })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(|error| failed_to_move("write", self.named.path(), error))
    }

    pub(super) fn finish(mut self) -> Result<SpilledFile> {
        self.writer.flush().map_err(|error| failed_to_move("write", self.named.path(), error))?;
        let path = self.named.path().ok_or_else(|| {
            Error::Invalid(
                "state can be moved to local files only, and the DiskManager of the session has none".into(),
            )
        })?;
        let file = File::open(path).map_err(|error| failed_to_move("open", Some(path), error))?;
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
pub(super) struct SpilledFile {
    pub(super) file: File,
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
pub(super) fn read_at(file: &File, offset: u64, into: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

/// Reads all of `into` from `offset` on, wherever others are reading.
#[cfg(windows)]
pub(super) fn read_at(file: &File, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
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
