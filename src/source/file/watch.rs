//! What the kernel tells of files that are being written.
//!
//! Whoever writes a file opens and closes it, or moves it in when it is complete. The kernel reports
//! both for the directories that are watched (`inotify`), so that a file can be taken the moment that it
//! is complete and not before. Where there is no such report, [`settle`](super::settle) goes by age.

use std::path::Path;

/// What is known of a file's writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// It has written, and has the file open still.
    Busy,
    /// It has closed the file, or moved it in.
    Done,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod kernel {
    use std::collections::HashMap;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

    use super::{Path, Writer};

    /// Directories beyond this many are not watched: the kernel has a limit for all processes together.
    const MOST_DIRECTORIES: usize = 1000;
    /// For so many looks it is remembered what was told of a file that nobody asked about.
    const REMEMBERED_LOOKS: u64 = 3;

    /// The directories of one source.
    #[derive(Debug)]
    pub(in super::super) struct Watch {
        kernel: OwnedFd,
        /// By the kernel's number: the path below the base.
        directories: HashMap<i32, Box<str>>,
        files: HashMap<Box<str>, Told>,
        /// Counts [`Watch::read`].
        reads: u64,
    }

    #[derive(Debug)]
    struct Told {
        writer: Writer,
        /// The [`Watch::read`] that read the last event.
        at: u64,
        /// The last one in which it was asked for.
        asked: u64,
    }

    impl Watch {
        /// Watches nothing yet; `None` if the kernel has no more room.
        pub(in super::super) fn new() -> Option<Self> {
            let kernel = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
            Some(Self { kernel, directories: HashMap::new(), files: HashMap::new(), reads: 0 })
        }

        /// Watches `directory`, which is at `path` below the base. Does nothing if that cannot be.
        pub(in super::super) fn add(&mut self, directory: &Path, path: &str) {
            let known = self.directories.values().any(|known| **known == *path);
            if known || self.directories.len() >= MOST_DIRECTORIES {
                return;
            }
            let events = WatchFlags::MODIFY
                | WatchFlags::CLOSE_WRITE
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM
                | WatchFlags::DELETE
                | WatchFlags::ONLYDIR;
            if let Ok(number) = inotify::add_watch(&self.kernel, directory, events) {
                self.directories.insert(number, path.into());
            }
        }

        /// Takes note of what has happened since the last time; gives the number of this time.
        pub(in super::super) fn read(&mut self) -> u64 {
            self.reads += 1;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = Reader::new(&self.kernel, &mut buffer);
            while let Ok(event) = reader.next() {
                let events = event.events();
                if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                    // Something was lost, so nothing is known.
                    self.files.clear();
                    continue;
                }
                if events.contains(ReadFlags::IGNORED) {
                    self.directories.remove(&event.wd());
                    continue;
                }
                let Some(directory) = self.directories.get(&event.wd()) else { continue };
                let Some(name) = event.file_name().and_then(|name| name.to_str().ok()) else { continue };
                let path: Box<str> = match &**directory {
                    "" => name.into(),
                    directory => format!("{directory}/{name}").into(),
                };
                let writer = if events.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
                    Writer::Done
                } else if events.contains(ReadFlags::MODIFY) {
                    Writer::Busy
                } else {
                    self.files.remove(&path);
                    continue;
                };
                self.files.insert(path, Told { writer, at: self.reads, asked: self.reads });
            }
            let oldest = self.reads.saturating_sub(REMEMBERED_LOOKS);
            self.files.retain(|_, told| told.asked >= oldest);
            self.reads
        }

        /// What was told of the writer of the file at `path`, and when.
        pub(in super::super) fn writer(&mut self, path: &str) -> Option<(Writer, u64)> {
            let told = self.files.get_mut(path)?;
            told.asked = self.reads;
            Some((told.writer, told.at))
        }

        /// The file is of no interest any more.
        pub(in super::super) fn forget(&mut self, path: &str) {
            self.files.remove(path);
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod kernel {
    use super::{Path, Writer};

    /// There is none here.
    #[derive(Debug)]
    pub(in super::super) enum Watch {}

    impl Watch {
        pub(in super::super) fn new() -> Option<Self> {
            None
        }

        pub(in super::super) fn add(&mut self, _: &Path, _: &str) {}

        pub(in super::super) fn read(&mut self) -> u64 {
            0
        }

        pub(in super::super) fn writer(&mut self, _: &str) -> Option<(Writer, u64)> {
            None
        }

        pub(in super::super) fn forget(&mut self, _: &str) {}
    }
}

pub(super) use self::kernel::Watch;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn writers_are_known_from_their_first_write_to_their_last() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("k=1")).unwrap();
        let mut watch = Watch::new().unwrap();
        watch.add(dir.path(), "");
        watch.add(&dir.path().join("k=1"), "k=1");
        let mut told = |path: &str| {
            watch.read();
            watch.writer(path).map(|(writer, _)| writer)
        };
        let mut file = File::create(dir.path().join("a")).unwrap();
        assert_eq!(told("a"), None);
        file.write_all(b"1").unwrap();
        assert_eq!(told("a"), Some(Writer::Busy));
        drop(file);
        assert_eq!(told("a"), Some(Writer::Done));
        File::options().append(true).open(dir.path().join("a")).unwrap().write_all(b"2").unwrap();
        std::fs::rename(dir.path().join("a"), dir.path().join("k=1/b")).unwrap();
        assert_eq!((told("a"), told("k=1/b")), (None, Some(Writer::Done)));
        for _ in 0..5 {
            told("nobody asks about the other");
        }
        assert_eq!(told("k=1/b"), None);
    }
}
