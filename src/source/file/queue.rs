//! Files that were listed and not yet taken.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// A listed file that was not taken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnreadFile {
    /// The path below the base.
    pub(super) path: Box<str>,
    /// Its length in bytes.
    pub(super) size: u64,
    /// When it was modified, in milliseconds since 1970.
    pub(super) modified_ms: i64,
    /// Its tag, where the checkpoint remembers tags.
    pub(super) etag: Option<Box<str>>,
    /// Its inode on the local disk, and when that was changed, in nanoseconds since 1970.
    pub(super) inode: Option<(u64, i64)>,
    /// Whether the log of a Spark file sink listed it.
    pub(super) from_log: bool,
}

/// How much a batch may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// Everything.
    None,
    /// At most so many files.
    Files(u64),
    /// So many files that their sizes add up to at most this, but always one.
    Bytes(u64),
}

/// Unread files, oldest (or newest) first, ties by path.
///
/// A heap: taking `k` of `n` files costs `k log n`, whatever the listing's order was.
#[derive(Debug)]
pub(super) struct FileQueue {
    heap: BinaryHeap<Ranked>,
    latest_first: bool,
    bytes: u64,
}

#[derive(Debug)]
struct Ranked {
    file: UnreadFile,
    latest_first: bool,
}

impl Ranked {
    fn key(&self) -> (i64, &str) {
        (self.file.modified_ms, &self.file.path)
    }
}

impl Ord for Ranked {
    /// The greatest comes out of the heap first.
    fn cmp(&self, other: &Self) -> Ordering {
        if self.latest_first {
            self.key().cmp(&other.key())
        } else {
            Reverse(self.key()).cmp(&Reverse(other.key()))
        }
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

impl FileQueue {
    /// An empty queue.
    pub(super) fn new(latest_first: bool) -> Self {
        Self { heap: BinaryHeap::new(), latest_first, bytes: 0 }
    }

    /// Replaces the content by the files of a new listing.
    pub(super) fn refill(&mut self, files: Vec<UnreadFile>) {
        self.bytes = files.iter().map(|file| file.size).sum();
        let latest_first = self.latest_first;
        self.heap = files.into_iter().map(|file| Ranked { file, latest_first }).collect();
    }

    /// Adds more files of the same listing.
    pub(super) fn add(&mut self, files: Vec<UnreadFile>) {
        self.bytes += files.iter().map(|file| file.size).sum::<u64>();
        let latest_first = self.latest_first;
        self.heap.extend(files.into_iter().map(|file| Ranked { file, latest_first }));
    }

    /// Takes the next files that `wanted` still wants, as many as `limit` allows.
    pub(super) fn take(&mut self, limit: Limit, wanted: impl Fn(&UnreadFile) -> bool) -> Vec<UnreadFile> {
        let mut taken = Vec::new();
        let mut taken_bytes: u64 = 0;
        while let Some(next) = self.heap.peek() {
            if wanted(&next.file) {
                let fits = match limit {
                    Limit::None => true,
                    Limit::Files(files) => (taken.len() as u64) < files,
                    Limit::Bytes(bytes) => {
                        taken.is_empty() || taken_bytes.saturating_add(next.file.size) <= bytes
                    }
                };
                if !fits {
                    break;
                }
            }
            let Some(Ranked { file, .. }) = self.heap.pop() else { break };
            self.bytes -= file.size;
            if wanted(&file) {
                taken_bytes = taken_bytes.saturating_add(file.size);
                taken.push(file);
            }
        }
        taken
    }

    /// Keeps only the next `count` files.
    pub(super) fn truncate(&mut self, count: usize) {
        if self.heap.len() > count {
            let kept: Vec<_> = (0..count).map_while(|_| self.heap.pop()).collect();
            self.bytes = kept.iter().map(|ranked| ranked.file.size).sum();
            self.heap = kept.into();
        }
    }

    /// Whether so little is left that it is not worth keeping (`discardCachedInputRatio`): a new
    /// listing is then likely to fill the next batch better.
    pub(super) fn is_worth_little(&self, limit: Limit, ratio: f64) -> bool {
        match limit {
            Limit::None => true,
            Limit::Files(files) => (self.heap.len() as f64) < files as f64 * ratio,
            Limit::Bytes(bytes) => (self.bytes as f64) < bytes as f64 * ratio,
        }
    }

    /// Empties the queue.
    pub(super) fn clear(&mut self) {
        self.heap.clear();
        self.bytes = 0;
    }

    /// How many files wait.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// How many bytes wait.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, modified_ms: i64, size: u64) -> UnreadFile {
        UnreadFile { path: path.into(), size, modified_ms, etag: None, inode: None, from_log: false }
    }

    fn filled(latest_first: bool) -> FileQueue {
        let mut queue = FileQueue::new(latest_first);
        queue.refill(vec![file("c", 3, 30), file("b", 1, 20), file("a", 1, 10), file("d", 2, 40)]);
        queue
    }

    fn names(files: &[UnreadFile]) -> String {
        files.iter().map(|file| file.path.as_ref()).collect()
    }

    #[test]
    fn oldest_first_ties_by_path() {
        let mut queue = filled(false);
        assert_eq!(queue.bytes(), 100);
        assert_eq!(names(&queue.take(Limit::Files(3), |_| true)), "abd");
        assert_eq!((queue.len(), queue.bytes()), (1, 30));
        assert_eq!(names(&queue.take(Limit::Files(3), |_| true)), "c");
        assert!(queue.is_empty());
        assert_eq!(names(&filled(true).take(Limit::None, |_| true)), "cdba");
    }

    #[test]
    fn bytes_take_at_least_one_file() {
        let mut queue = filled(false);
        assert_eq!(names(&queue.take(Limit::Bytes(30), |_| true)), "ab");
        assert_eq!(names(&queue.take(Limit::Bytes(1), |_| true)), "d");
        assert_eq!(names(&queue.take(Limit::Bytes(u64::MAX), |_| true)), "c");
    }

    #[test]
    fn unwanted_files_are_passed_over_and_count_nothing() {
        let mut queue = filled(false);
        assert_eq!(names(&queue.take(Limit::Files(2), |file| &*file.path != "a")), "bd");
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn little_left_is_worth_little() {
        let mut queue = filled(false);
        assert!(!queue.is_worth_little(Limit::Files(20), 0.2));
        assert!(queue.is_worth_little(Limit::Files(21), 0.2));
        assert!(queue.is_worth_little(Limit::Bytes(501), 0.2));
        assert!(!queue.is_worth_little(Limit::Bytes(500), 0.2));
        queue.truncate(2);
        assert_eq!((queue.len(), queue.bytes()), (2, 30));
        queue.clear();
        assert!(!queue.is_worth_little(Limit::Files(1), 0.0));
    }
}
