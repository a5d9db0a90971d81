//! Local files that stay as they are while they are read.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::{BoxStream, try_unfold};
use futures::{StreamExt, TryStreamExt};

/// How many bytes are read at a time.
const PIECE: usize = 1 << 20;

/// A file that did not stay as it was from its first byte to its last.
#[derive(Debug, thiserror::Error)]
#[error("it was written to while it was read")]
pub(super) struct ChangedWhileRead;

/// A file, or a part of one, that must stay as it was when it was opened: nothing that is added later is read, and if it
/// is cut or written to, that is an error.
pub(super) struct SteadyFile {
    file: File,
    /// Length and modification time when it was opened.
    opened: (u64, SystemTime),
    remaining: u64,
}

impl SteadyFile {
    pub(super) fn new(file: File) -> std::io::Result<Self> {
        let opened = Self::state(&file)?;
        Ok(Self { file, opened, remaining: opened.0 })
    }

    /// The bytes of `range`.
    pub(super) fn part(mut file: File, range: &Range<u64>) -> std::io::Result<Self> {
        let opened = Self::state(&file)?;
        file.seek(SeekFrom::Start(range.start))?;
        Ok(Self { file, opened, remaining: range.end.saturating_sub(range.start) })
    }

    fn state(file: &File) -> std::io::Result<(u64, SystemTime)> {
        let metadata = file.metadata()?;
        Ok((metadata.len(), metadata.modified()?))
    }
}

impl Read for SteadyFile {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..wanted])?;
        self.remaining -= read as u64;
        let at_end = read == 0 && !buffer.is_empty();
        if at_end && (self.remaining > 0 || Self::state(&self.file)? != self.opened) {
            return Err(std::io::Error::other(ChangedWhileRead));
        }
        Ok(read)
    }
}

/// The bytes of a part of a local file. (`object_store` goes on for ever with a file that has become shorter.)
pub(super) fn part(file: File, range: Range<u64>) -> BoxStream<'static, object_store::Result<Bytes>> {
    let failed = |error: std::io::Error| object_store::Error::Generic {
        store: "LocalFileSystem",
        source: Box::new(error),
    };
    let read = move |steady: Option<SteadyFile>| async move {
        let next = tokio::task::spawn_blocking(move || {
            let Some(mut file) = steady else { return Ok(None) };
            let wanted = PIECE.min(usize::try_from(file.remaining).unwrap_or(PIECE));
            let mut piece = Vec::with_capacity(wanted + 1);
            let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece)?;
            // One that is not full was the last, after which the file was looked at.
            Ok((read > 0).then(|| (Bytes::from(piece), Some(file).filter(|_| read == PIECE))))
        });
        next.await?.map_err(failed)
    };
    let opened = async move {
        let steady = tokio::task::spawn_blocking(move || SteadyFile::part(file, &range));
        Ok::<_, object_store::Error>(try_unfold(Some(steady.await?.map_err(failed)?), read))
    };
    futures::stream::once(opened).try_flatten().boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_while_it_is_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let read = |change: &dyn Fn()| {
            std::fs::write(&path, [b'x'; 100]).unwrap();
            let mut file = SteadyFile::new(File::open(&path).unwrap()).unwrap();
            let mut bytes = vec![0; 50];
            file.read_exact(&mut bytes).unwrap();
            change();
            file.read_to_end(&mut bytes).map(|_| bytes.len())
        };
        assert_eq!(read(&|| {}).unwrap(), 100);
        let later = SystemTime::now() + std::time::Duration::from_secs(1);
        let open = || File::options().write(true).open(&path).unwrap();
        assert!(read(&|| open().set_len(80).unwrap()).is_err());
        assert!(read(&|| open().set_len(120).unwrap()).is_err());
        assert!(read(&|| open().set_modified(later).unwrap()).is_err());
        let replaced = read(&|| {
            std::fs::write(dir.path().join("g"), "new").unwrap();
            std::fs::rename(dir.path().join("g"), &path).unwrap();
        });
        assert_eq!(replaced.unwrap(), 100, "the file that was opened is still whole");
    }

    #[tokio::test]
    async fn a_part_is_read_whole_or_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let length = PIECE * 3;
        let content: Vec<u8> = (0..length).map(|byte| (byte % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let open = || File::open(&path).unwrap();
        for range in [0..length, 7..PIECE, PIECE..2 * PIECE, 5..5, PIECE - 1..length, length..length] {
            let pieces = part(open(), range.start as u64..range.end as u64);
            let pieces: Vec<Bytes> = pieces.try_collect().await.unwrap();
            assert_eq!(pieces.concat(), content[range.clone()], "{range:?}");
        }
        for shorter in [0, PIECE + 5, 2 * PIECE] {
            std::fs::write(&path, &content).unwrap();
            let mut pieces = part(open(), 0..length as u64);
            assert_eq!(pieces.try_next().await.unwrap().unwrap().len(), PIECE);
            File::options().write(true).open(&path).unwrap().set_len(shorter as u64).unwrap();
            let rest: Result<Vec<Bytes>, _> = pieces.try_collect().await;
            assert!(rest.unwrap_err().to_string().contains("written to"), "{shorter}");
        }
    }
}
