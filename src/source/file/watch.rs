//! What the kernel tells of files that are being written.
//!
//! Whoever writes a file opens and closes it, or moves it in when it is complete. The kernel reports
//! both for the directories that are watched (`inotify`), so that a file can be taken the moment that it
//! is complete and not before. Where there is no such report, [`settle`](super::settle) goes by age.
//!
//! The same reports say when it is worth listing the directories again. That holds for disks of this
//! machine: of what another one writes to a disk in the network its kernel tells nothing.

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
    use std::sync::Arc;

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

    use super::super::bell::Bell;
    use super::{Path, Writer};

    /// Directories beyond this many are not watched: the kernel has a limit for all processes together.
    const MOST_DIRECTORIES: usize = 1000;
    /// Disks whose files other machines may write: NFS, SMB (three of them), AFS, Ceph, 9P, FUSE, Lustre, GPFS.
    const SHARED_DISKS: [u32; 10] = [
        0x6969,
        0x517b,
        0xff53_4d42,
        0xfe53_4d42,
        0x5346_414f,
        0x00c3_6400,
        0x0102_1997,
        0x6573_5546,
        0x0bd0_0bd0,
        0x4750_4653,
    ];
    /// For so many looks it is remembered what was told of a file that nobody asked about.
    const REMEMBERED_LOOKS: u64 = 3;

    /// The directories of one source.
    #[derive(Debug)]
    pub(in super::super) struct Watch {
        kernel: Arc<OwnedFd>,
        bell: Option<Arc<Bell>>,
        /// Something has happened since [`Watch::begin`] that may have made a file appear, or complete.
        has_news: bool,
        /// By the kernel's number: the path below the base.
        directories: HashMap<i32, Watched>,
        files: HashMap<Box<str>, Told>,
        /// Counts [`Watch::read`].
        reads: u64,
    }

    #[derive(Debug)]
    struct Watched {
        /// Below the base.
        path: Box<str>,
        /// Whether nobody but this machine writes to it.
        is_ours: bool,
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
            let kernel = Arc::new(inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?);
            let bell = Bell::of(Arc::clone(&kernel)).map(Arc::new);
            let (directories, files) = (HashMap::new(), HashMap::new());
            Some(Self { kernel, bell, has_news: false, directories, files, reads: 0 })
        }

        /// Watches `directory`, which is at `path` below the base. Gives whether all that happens in it is
        /// told; if not, [`Watch::read`] may tell of it all the same.
        pub(in super::super) fn add(&mut self, directory: &Path, path: &str) -> bool {
            if self.directories.values().any(|known| *known.path == *path) {
                return self.directories.values().all(|known| known.is_ours || *known.path != *path);
            }
            if self.directories.len() >= MOST_DIRECTORIES {
                return false;
            }
            let events = WatchFlags::CREATE
                | WatchFlags::MODIFY
                | WatchFlags::CLOSE_WRITE
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM
                | WatchFlags::DELETE
                | WatchFlags::ONLYDIR;
            let Ok(number) = inotify::add_watch(&self.kernel, directory, events) else { return false };
            let is_ours = is_on_a_disk_of_our_own(directory);
            self.directories.insert(number, Watched { path: path.into(), is_ours });
            // What came into it before it was watched may not have been seen.
            self.has_news |= !path.is_empty();
            is_ours
        }

        /// Rings when something happens; `None` if that cannot be.
        pub(in super::super) fn bell(&self) -> Option<Arc<Bell>> {
            self.bell.clone()
        }

        /// As [`Watch::read`], before all files are looked at.
        pub(in super::super) fn begin(&mut self) -> u64 {
            let read = self.read();
            self.has_news = false;
            read
        }

        /// Whether it is worth looking at all files again.
        pub(in super::super) fn has_news(&mut self) -> bool {
            self.take_events(self.reads + 1);
            self.has_news
        }

        /// Takes note of what has happened since the last time; gives the number of this time.
        pub(in super::super) fn read(&mut self) -> u64 {
            self.reads += 1;
            self.take_events(self.reads);
            let oldest = self.reads.saturating_sub(REMEMBERED_LOOKS);
            self.files.retain(|_, told| told.asked >= oldest);
            self.reads
        }

        /// Takes note of what has happened as a part of the [`Watch::read`] of that number.
        fn take_events(&mut self, at: u64) {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = Reader::new(&self.kernel, &mut buffer);
            while let Ok(event) = reader.next() {
                let events = event.events();
                if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                    // Something was lost, so nothing is known.
                    self.files.clear();
                    self.has_news = true;
                    continue;
                }
                if events.contains(ReadFlags::IGNORED) {
                    self.directories.remove(&event.wd());
                    self.has_news = true;
                    continue;
                }
                self.has_news |=
                    events.intersects(ReadFlags::CREATE | ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO);
                let Some(Watched { path: directory, .. }) = self.directories.get(&event.wd()) else {
                    continue;
                };
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
                    // A new one, of which nothing is known, or one that is gone.
                    self.files.remove(&path);
                    continue;
                };
                self.files.insert(path, Told { writer, at, asked: at });
            }
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

    fn is_on_a_disk_of_our_own(directory: &Path) -> bool {
        // The kinds of disks are numbers of 32 bits, whatever holds them.
        rustix::fs::statfs(directory).is_ok_and(|disk| !SHARED_DISKS.contains(&(disk.f_type as u32)))
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod kernel {
    use std::sync::Arc;

    use super::{Path, Writer};

    /// There is none here.
    #[derive(Debug)]
    pub(in super::super) enum Bell {}

    impl Bell {
        pub(in super::super) async fn rung(&self) {}
    }

    /// There is none here.
    #[derive(Debug)]
    pub(in super::super) enum Watch {}

    impl Watch {
        pub(in super::super) fn new() -> Option<Self> {
            None
        }

        pub(in super::super) fn add(&mut self, _: &Path, _: &str) -> bool {
            false
        }

        pub(in super::super) fn bell(&self) -> Option<Arc<Bell>> {
            None
        }

        pub(in super::super) fn begin(&mut self) -> u64 {
            0
        }

        pub(in super::super) fn has_news(&mut self) -> bool {
            false
        }

        pub(in super::super) fn read(&mut self) -> u64 {
            0
        }

        pub(in super::super) fn writer(&mut self, _: &str) -> Option<(Writer, u64)> {
            None
        }

        pub(in super::super) fn forget(&mut self, _: &str) {}
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) use self::kernel::Bell;
pub(super) use self::kernel::Watch;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) use super::bell::Bell;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_may_make_a_file_appear_is_news() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut watch = Watch::new().unwrap();
        assert!(watch.add(dir.path(), "") && watch.add(dir.path(), ""));
        assert!(!watch.add(&at("missing"), "missing"));
        watch.begin();
        assert!(!watch.has_news());
        let mut file = File::create(at("a")).unwrap();
        assert!(watch.has_news());
        watch.begin();
        file.write_all(b"1").unwrap();
        assert!(!watch.has_news(), "it is not complete yet");
        drop(file);
        watch.read();
        assert!(watch.has_news(), "what comes while files are looked at is news afterwards");
        for change in ["link", "rename", "directory"] {
            watch.begin();
            assert!(!watch.has_news());
            match change {
                "link" => std::fs::hard_link(at("a"), at("b")).unwrap(),
                "rename" => std::fs::rename(at("a"), at("c")).unwrap(),
                _ => std::fs::create_dir(at("k=1")).unwrap(),
            }
            assert!(watch.has_news());
        }
        watch.begin();
        assert!(watch.add(&at("k=1"), "k=1") && watch.has_news());
        watch.begin();
        std::fs::remove_file(at("b")).unwrap();
        assert!(!watch.has_news());
    }

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
