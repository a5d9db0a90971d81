//! Local files that stay as they are while they are read.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::{BoxStream, try_unfold};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;

/// How many bytes are read at a time.
const PIECE: usize = 1 << 20;

/// A file that did not stay as it was from its first byte to its last.
#[derive(Debug, thiserror::Error)]
#[error("it was written to while it was read")]
pub(super) struct ChangedWhileRead;

/// A file as it was when it was opened: its length and when it was modified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State(u64, SystemTime);

impl State {
    fn of(object: &ObjectMeta) -> Self {
        Self(object.size, object.last_modified.into())
    }

    /// Fails if `file` is not any more as it was.
    fn check(self, file: &File) -> std::io::Result<()> {
        let metadata = file.metadata()?;
        match Self(metadata.len(), metadata.modified()?) == self {
            true => Ok(()),
            false => Err(std::io::Error::other(ChangedWhileRead)),
        }
    }
}

/// A file, or a part of one, that is read from its beginning to its end and must stay as it was when it was opened:
/// nothing that is added later is read, and if it is cut or written to, that is an error.
pub(super) struct SteadyFile {
    file: File,
    opened: State,
    remaining: u64,
}

impl SteadyFile {
    /// All of `file`, which was opened as `object`.
    pub(super) fn new(file: File, object: &ObjectMeta) -> Self {
        Self { file, opened: State::of(object), remaining: object.size }
    }

    /// The bytes of `range`.
    fn part(mut file: File, object: &ObjectMeta, range: &Range<u64>) -> std::io::Result<Self> {
        file.seek(SeekFrom::Start(range.start))?;
        Ok(Self { file, opened: State::of(object), remaining: range.end.saturating_sub(range.start) })
    }
}

impl Read for SteadyFile {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..wanted])?;
        self.remaining -= read as u64;
        if read == 0 && !buffer.is_empty() {
            self.opened.check(&self.file)?;
            if self.remaining > 0 {
                return Err(std::io::Error::other(ChangedWhileRead));
            }
        }
        Ok(read)
    }
}

/// A file that is read here and there, and must stay as it was when it was opened: after each piece it is looked at.
pub(super) struct SteadyPieces {
    file: File,
    opened: State,
}

impl SteadyPieces {
    /// `file`, which was opened as `object`.
    pub(super) fn new(file: File, object: &ObjectMeta) -> Self {
        Self { file, opened: State::of(object) }
    }

    /// The bytes of `ranges`. Their ends come from what the file says of itself, which may be anything.
    pub(super) fn ranges(mut self, ranges: &[Range<u64>]) -> std::io::Result<Vec<Bytes>> {
        let size = self.opened.0;
        let read = |range: &Range<u64>| {
            if range.start > range.end || range.end > size {
                let reason = format!("bytes {} to {} of {size}", range.start, range.end);
                return Err(std::io::Error::new(ErrorKind::InvalidData, reason));
            }
            let length = usize::try_from(range.end - range.start).map_err(std::io::Error::other)?;
            let mut bytes = vec![0; length];
            self.file.seek(SeekFrom::Start(range.start))?;
            self.file.read_exact(&mut bytes)?;
            Ok(Bytes::from(bytes))
        };
        let bytes = ranges.iter().map(read).collect::<std::io::Result<_>>();
        // What was cut off cannot be read, and is no fault of the disk.
        self.opened.check(&self.file)?;
        bytes
    }
}

impl Read for SteadyPieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.opened.check(&self.file)?;
        Ok(read)
    }
}

impl Seek for SteadyPieces {
    fn seek(&mut self, position: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(position)
    }
}

/// The bytes of a part of a local file that was opened as `object`. (`object_store` goes on for ever with a file that has
/// become shorter.)
pub(super) fn part(
    file: File,
    object: ObjectMeta,
    range: Range<u64>,
) -> BoxStream<'static, object_store::Result<Bytes>> {
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
        let steady = tokio::task::spawn_blocking(move || SteadyFile::part(file, &object, &range));
        Ok::<_, object_store::Error>(try_unfold(Some(steady.await?.map_err(failed)?), read))
    };
    futures::stream::once(opened).try_flatten().boxed()
}

/// The bytes of `ranges` of a local file that was opened as `object`.
pub(super) async fn ranges(
    file: File,
    object: ObjectMeta,
    ranges: &[Range<u64>],
) -> object_store::Result<Vec<Bytes>> {
    let ranges = ranges.to_vec();
    let read = tokio::task::spawn_blocking(move || SteadyPieces::new(file, &object).ranges(&ranges));
    read.await?.map_err(failed)
}

fn failed(error: std::io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(file: &File) -> ObjectMeta {
        let metadata = file.metadata().unwrap();
        ObjectMeta {
            location: "f".into(),
            last_modified: metadata.modified().unwrap().into(),
            size: metadata.len(),
            e_tag: None,
            version: None,
        }
    }

    /// What becomes of `read` half of a file if it is changed in one of these ways: none, it is cut, it grows, it is
    /// written again, it is replaced. Whether it was read all the same.
    fn outcomes(read: &dyn Fn(File, &dyn Fn()) -> bool) -> [bool; 5] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let later = SystemTime::now() + std::time::Duration::from_secs(1);
        let open = || File::options().write(true).open(&path).unwrap();
        let changes: [&dyn Fn(); 5] = [
            &|| {},
            &|| open().set_len(80).unwrap(),
            &|| open().set_len(120).unwrap(),
            &|| open().set_modified(later).unwrap(),
            &|| {
                std::fs::write(dir.path().join("g"), "new").unwrap();
                std::fs::rename(dir.path().join("g"), &path).unwrap();
            },
        ];
        changes.map(|change| {
            std::fs::write(&path, [b'x'; 100]).unwrap();
            read(File::open(&path).unwrap(), change)
        })
    }

    /// The file that was opened is still whole when another has its name.
    const ONLY_THOSE_THAT_STAY: [bool; 5] = [true, false, false, false, true];

    #[test]
    fn a_file_that_changes_while_it_is_read_is_an_error() {
        let read = |file: File, change: &dyn Fn()| {
            let mut file = SteadyFile::new(file.try_clone().unwrap(), &object(&file));
            let mut bytes = vec![0; 50];
            file.read_exact(&mut bytes).unwrap();
            change();
            file.read_to_end(&mut bytes).is_ok_and(|_| bytes.len() == 100)
        };
        assert_eq!(outcomes(&read), ONLY_THOSE_THAT_STAY);
    }

    #[test]
    fn pieces_of_a_file_that_changes_are_an_error() {
        let here_and_there = |file: File, change: &dyn Fn()| {
            let mut file = SteadyPieces::new(file.try_clone().unwrap(), &object(&file));
            let mut bytes = vec![0; 40];
            file.seek(SeekFrom::Start(60)).unwrap();
            file.read_exact(&mut bytes).unwrap();
            change();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_exact(&mut bytes).is_ok()
        };
        assert_eq!(outcomes(&here_and_there), ONLY_THOSE_THAT_STAY);
        let ranges = |file: File, change: &dyn Fn()| {
            let pieces = SteadyPieces::new(file.try_clone().unwrap(), &object(&file));
            change();
            match pieces.ranges(&[0..10, 90..100]) {
                Ok(bytes) => bytes.concat().len() == 20,
                Err(error) => error.get_ref().is_none_or(|inner| !inner.is::<ChangedWhileRead>()),
            }
        };
        assert_eq!(outcomes(&ranges), ONLY_THOSE_THAT_STAY);
    }

    #[tokio::test]
    async fn a_part_is_read_whole_or_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let length = PIECE * 3;
        let content: Vec<u8> = (0..length).map(|byte| (byte % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let part = |range: Range<usize>| {
            let file = File::open(&path).unwrap();
            let object = object(&file);
            part(file, object, range.start as u64..range.end as u64)
        };
        for range in [0..length, 7..PIECE, PIECE..2 * PIECE, 5..5, PIECE - 1..length, length..length] {
            let pieces: Vec<Bytes> = part(range.clone()).try_collect().await.unwrap();
            assert_eq!(pieces.concat(), content[range.clone()], "{range:?}");
        }
        for shorter in [0, PIECE + 5, 2 * PIECE] {
            std::fs::write(&path, &content).unwrap();
            let mut pieces = part(0..length);
            assert_eq!(pieces.try_next().await.unwrap().unwrap().len(), PIECE);
            File::options().write(true).open(&path).unwrap().set_len(shorter as u64).unwrap();
            let rest: Result<Vec<Bytes>, _> = pieces.try_collect().await;
            assert!(rest.unwrap_err().to_string().contains("written to"), "{shorter}");
        }
    }
}
