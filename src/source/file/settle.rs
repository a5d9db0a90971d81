//! Telling files that are complete from those that are still being written.
//!
//! A file that is taken while its writer is at work is read in part, or not at all. Its writer is done
//! if the kernel says so, and for certain if it was moved into its place complete. Where nothing is said,
//! as of what was there before the run began, age tells: what has not changed for `minFileAge` is taken to
//! be complete.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::queue::UnreadFile;
use super::watch::{Bell, Watch, Writer};

/// A file on the local disk, as the disk tells of it.
#[derive(Debug)]
pub(super) struct DiskFile {
    pub(super) file: UnreadFile,
    pub(super) modified: SystemTime,
    /// Whether writing was the last that happened to it, rather than a new name, or a time that was set.
    pub(super) was_written_last: bool,
}

/// The files of one source that may not be complete.
#[derive(Debug)]
pub(super) struct Settling {
    min_age: Duration,
    watch: Option<Watch>,
    /// Whether the kernel tells of everything in the directories that the look came by.
    is_watched: bool,
    /// The look that goes on: when it began, and until which word of the kernel.
    look: (SystemTime, u64),
    waiting: HashMap<Box<str>, Sighting>,
    /// Those of them that the look has seen.
    still_waiting: HashMap<Box<str>, Sighting>,
}

/// What there is to wait for.
#[derive(Debug)]
pub(super) struct Outlook {
    /// Rings when something happens; `None` if not everything that happens is told.
    pub(super) bell: Option<Arc<Bell>>,
    /// Whether something has happened already.
    pub(super) has_news: bool,
    /// When the next file is taken to be complete, if nothing happens.
    pub(super) next_of_age: Option<Duration>,
}

/// A file as it was first seen, and when that was.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    size: u64,
    modified: SystemTime,
    since: Instant,
}

impl Sighting {
    /// For how long the file is known to have stayed as it is.
    fn age(&self) -> Duration {
        // Clocks of disks in the network may be wrong.
        self.modified.elapsed().unwrap_or_default().max(self.since.elapsed())
    }
}

impl Settling {
    /// For a run that begins now.
    pub(super) fn new(min_age: Duration) -> Self {
        let now = SystemTime::now();
        Self {
            min_age,
            watch: None,
            is_watched: false,
            look: (now, 0),
            waiting: HashMap::new(),
            still_waiting: HashMap::new(),
        }
    }

    /// From now on the kernel tells of files in `directory`, which is at `path` below the base.
    pub(super) fn watch(&mut self, directory: &Path, path: &str) {
        if self.watch.is_none() {
            self.watch = Watch::new();
        }
        self.is_watched &= self.watch.as_mut().is_some_and(|watch| watch.add(directory, path));
    }

    /// What the last look has left to wait for.
    pub(super) fn outlook(&mut self) -> Outlook {
        let (now, clock) = (Instant::now(), self.look.0);
        let left = |file: &Sighting| {
            let seen = now.saturating_duration_since(file.since);
            seen.max(clock.duration_since(file.modified).unwrap_or_default())
        };
        Outlook {
            bell: self.watch.as_ref().filter(|_| self.is_watched).and_then(Watch::bell),
            has_news: self.watch.as_mut().is_some_and(Watch::has_news),
            next_of_age: self.waiting.values().map(|file| self.min_age.saturating_sub(left(file))).min(),
        }
    }

    /// Begins to look at files.
    pub(super) fn begin(&mut self) {
        let told = self.watch.as_mut().map_or(0, Watch::begin);
        self.is_watched = true;
        self.look = (SystemTime::now(), told);
    }

    /// What the kernel told while the disk was asked about files must be known before they are judged.
    pub(super) fn catch_up(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.read();
        }
    }

    /// Whether a file is complete, as far as can be told.
    pub(super) fn is_complete(&mut self, file: &DiskFile) -> bool {
        let (now, told) = self.look;
        let path = &file.file.path;
        let writer = self.watch.as_mut().and_then(|watch| watch.writer(path));
        let complete = match writer {
            // The disk was asked about it afterwards.
            Some((Writer::Done, at)) if at <= told => true,
            Some(_) => self.is_of_age(file, now),
            None => !file.was_written_last || self.is_of_age(file, now),
        };
        if complete && let Some(watch) = &mut self.watch {
            watch.forget(path);
        }
        complete
    }

    fn is_of_age(&mut self, file: &DiskFile, now: SystemTime) -> bool {
        if now.duration_since(file.modified).is_ok_and(|age| age >= self.min_age) {
            return true;
        }
        let path = &file.file.path;
        let first = self
            .waiting
            .get(path)
            .filter(|first| first.size == file.file.size && first.modified == file.modified);
        // Clocks of disks in the network may be wrong.
        let first = first.copied().unwrap_or_else(|| Sighting {
            size: file.file.size,
            modified: file.modified,
            since: Instant::now(),
        });
        let of_age = first.since.elapsed() >= self.min_age;
        if !of_age {
            self.still_waiting.insert(path.clone(), first);
        }
        of_age
    }

    /// Ends the look: files that it did not see are gone.
    pub(super) fn end(&mut self) {
        self.waiting = std::mem::take(&mut self.still_waiting);
    }

    /// After how long all files that the last look left for later are complete, if nobody writes to them
    /// any more; `None` if there are none.
    pub(super) fn rest_of_wait(&self) -> Option<Duration> {
        self.waiting.values().map(|file| self.min_age.saturating_sub(file.age())).max()
    }

    /// The files that the last look left for later.
    pub(super) fn waiting(&self) -> impl ExactSizeIterator<Item = &str> {
        self.waiting.keys().map(|path| &**path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_millis(60);

    fn file(path: &str, modified: SystemTime, was_written_last: bool) -> DiskFile {
        let file = UnreadFile {
            path: path.into(),
            size: 1,
            modified_ms: 0,
            etag: None,
            inode: None,
            from_log: false,
        };
        DiskFile { file, modified, was_written_last }
    }

    fn without_kernel() -> Settling {
        Settling::new(AGE)
    }

    fn complete(settling: &mut Settling, file: &DiskFile) -> bool {
        settling.begin();
        settling.catch_up();
        let complete = settling.is_complete(file);
        settling.end();
        complete
    }

    #[test]
    fn without_word_of_the_writer_age_tells() {
        let mut settling = without_kernel();
        let now = SystemTime::now();
        assert!(complete(&mut settling, &file("old", now - AGE, true)));
        assert!(complete(&mut settling, &file("renamed", now + AGE, false)));
        assert_eq!((settling.waiting().len(), settling.rest_of_wait()), (0, None));
        // Who wrote to it before may do so still.
        assert!(!complete(&mut settling, &file("there before the run", now - Duration::from_nanos(1), true)));
        assert!(settling.rest_of_wait().is_some_and(|rest| rest < AGE));

        let fresh = file("fresh", now + Duration::from_secs(60), true);
        assert!(!complete(&mut settling, &fresh));
        assert_eq!(settling.waiting().collect::<Vec<_>>(), ["fresh"]);
        std::thread::sleep(AGE);
        let longer = file("fresh", now + Duration::from_secs(61), true);
        assert!(!complete(&mut settling, &longer), "it was written to");
        std::thread::sleep(AGE);
        assert!(complete(&mut settling, &longer), "whatever the disk's clock says");
        assert_eq!(settling.waiting().len(), 0);
        assert!(Settling::new(Duration::ZERO).is_complete(&fresh));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_knows_better() {
        use std::io::Write as _;

        let dir = tempfile::tempdir().unwrap();
        let mut settling = Settling::new(AGE * 10);
        settling.watch(dir.path(), "");
        let mut writer = std::fs::File::create(dir.path().join("a")).unwrap();
        writer.write_all(b"1").unwrap();
        let old = file("a", SystemTime::now() - AGE * 10, true);
        let fresh = file("a", SystemTime::now() + AGE, true);
        assert!(!complete(&mut settling, &fresh));
        settling.begin();
        drop(writer);
        settling.catch_up();
        assert!(!settling.is_complete(&fresh), "it may have been closed after the disk was asked");
        settling.end();
        assert!(complete(&mut settling, &fresh));
        assert!(complete(&mut settling, &old));
    }
}
