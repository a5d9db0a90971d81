//! Which files were taken already.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use super::queue::UnreadFile;

/// Stands for a path: 128 bits, so that no two of any number of files are taken for the same.
pub(super) type PathHash = [u64; 2];

/// The files that were taken, by 128-bit hashes of their paths, and from which modification time on
/// files can be new at all.
///
/// Age is measured against the newest file taken, not against the clock, as in Spark
/// (`FileStreamSource.SeenFilesMap`): a source that stood still for a month loses nothing.
#[derive(Debug)]
pub(super) struct SeenFiles {
    hashers: [RandomState; 2],
    files: HashMap<PathHash, Taken>,
    /// What stands for the tags by which a store knows their content, where it has tags.
    tags: HashMap<PathHash, u64>,
    /// Files that are too old, which were reported.
    ignored: HashSet<PathHash>,
    newest_ms: Option<i64>,
    max_age_ms: Option<i64>,
    /// Below this, what is not in `files` may have been read and forgotten by an earlier run.
    forgotten_before_ms: Option<i64>,
    name_only: bool,
    /// Files in `files` after the last [`SeenFiles::shrink`].
    after_shrink: usize,
}

/// A file as it was when it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    modified_ms: i64,
    size: u64,
}

/// What a listed file is to the source.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Novelty {
    /// It was not taken before.
    New,
    /// It was, or an earlier run took it and forgot it.
    Seen,
    /// One of its name was taken that was not this one; says whether there was anything in it.
    Changed { was_empty: bool },
    /// It was not, but it is older than `maxFileAge` allows.
    TooOld,
    /// It is too old, and that was reported.
    Ignored,
}

impl SeenFiles {
    /// Nothing seen yet. With `name_only` two files of the same name are the same file.
    pub(super) fn new(max_age_ms: Option<i64>, name_only: bool) -> Self {
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            files: HashMap::new(),
            tags: HashMap::new(),
            ignored: HashSet::new(),
            newest_ms: None,
            max_age_ms,
            forgotten_before_ms: None,
            name_only,
            after_shrink: 0,
        }
    }

    /// Makes room for `count` more files.
    pub(super) fn reserve(&mut self, count: usize) {
        self.files.reserve(count);
    }

    /// The file was taken.
    pub(super) fn add(&mut self, path: &str, modified_ms: i64, size: u64, etag: Option<&str>) {
        let hash = self.hash(path);
        self.take(hash, Taken { modified_ms, size }, etag);
        self.newest_ms = Some(self.newest_ms.map_or(modified_ms, |newest| newest.max(modified_ms)));
    }

    /// The file is too old, and that was reported.
    pub(super) fn ignore(&mut self, path: &str) {
        let hash = self.hash(path);
        self.ignored.insert(hash);
    }

    /// A file that was taken is another one now, and that was reported.
    pub(super) fn note_change(&mut self, file: &UnreadFile) {
        let hash = self.hash(&file.path);
        let taken = Taken { modified_ms: file.modified_ms, size: file.size };
        self.take(hash, taken, file.etag.as_deref());
    }

    /// Whether no file of this name was taken, as far as is remembered.
    pub(super) fn is_unseen(&self, path: &str) -> bool {
        !self.files.contains_key(&self.hash(path))
    }

    /// Files modified before `before_ms` were forgotten.
    pub(super) fn forget_before(&mut self, before_ms: i64) {
        self.forgotten_before_ms =
            Some(self.forgotten_before_ms.map_or(before_ms, |earlier| earlier.max(before_ms)));
    }

    /// What a file is.
    pub(super) fn judge(&self, file: &UnreadFile) -> Novelty {
        let hash = self.hash(&file.path);
        let below = |limit: Option<i64>| limit.is_some_and(|limit| file.modified_ms < limit);
        match self.files.get(&hash) {
            // Names are all that counts, or it is the same file.
            Some(taken) if self.name_only || self.is_same(hash, taken, file) => return Novelty::Seen,
            Some(taken) if !below(self.forgotten_before_ms) && !below(self.threshold_ms()) => {
                return Novelty::Changed { was_empty: taken.size == 0 };
            }
            None if below(self.forgotten_before_ms) => return Novelty::Seen,
            _ => {}
        }
        match (below(self.threshold_ms()), self.ignored.contains(&hash)) {
            (false, _) => Novelty::New,
            (true, false) => Novelty::TooOld,
            (true, true) => Novelty::Ignored,
        }
    }

    /// Whether it is time for [`SeenFiles::shrink`]: rarely enough that it costs nothing on average.
    pub(super) fn wants_to_shrink(&self) -> bool {
        const SLACK: usize = 10_000;
        self.threshold_ms().is_some() && self.files.len() > 2 * self.after_shrink + SLACK
    }

    /// Drops files that are too old to come again and are not among `listed`, hashes of the files
    /// that exist. Changes no answer about a file that exists.
    pub(super) fn shrink(&mut self, listed: &HashSet<PathHash>) {
        if let Some(threshold) = self.threshold_ms() {
            self.files.retain(|hash, taken| taken.modified_ms >= threshold || listed.contains(hash));
            self.files.shrink_to_fit();
            self.tags.retain(|hash, _| self.files.contains_key(hash));
            self.tags.shrink_to_fit();
            self.ignored.retain(|hash| listed.contains(hash));
        }
        self.after_shrink = self.files.len();
    }

    /// Files modified before this are not new.
    fn threshold_ms(&self) -> Option<i64> {
        Some(self.newest_ms?.saturating_sub(self.max_age_ms?))
    }

    fn take(&mut self, hash: PathHash, taken: Taken, etag: Option<&str>) {
        self.files.insert(hash, taken);
        match etag.map(|etag| self.tag(etag)) {
            Some(tag) => self.tags.insert(hash, tag),
            None => self.tags.remove(&hash),
        };
    }

    /// Whether the file is the one that was taken, as far as can be told: what has no tag is told by its size and time.
    fn is_same(&self, hash: PathHash, taken: &Taken, file: &UnreadFile) -> bool {
        let tags = self.tags.get(&hash).zip(file.etag.as_deref());
        (taken.modified_ms, taken.size) == (file.modified_ms, file.size)
            && tags.is_none_or(|(known, etag)| *known == self.tag(etag))
    }

    fn tag(&self, etag: &str) -> u64 {
        let [hasher, _] = &self.hashers;
        hasher.hash_one(etag)
    }

    /// The hash of a path, or of its last part. Random keys: no choice of names can make two collide.
    pub(super) fn hash(&self, path: &str) -> PathHash {
        let key = if self.name_only { path.rsplit('/').next().unwrap_or(path) } else { path };
        self.hashers.each_ref().map(|hasher| hasher.hash_one(key))
    }
}

/// The modification time before which files may be forgotten, given those of files that are
/// remembered.
pub(super) fn forget_threshold_ms(
    modified_ms: impl Iterator<Item = i64>,
    max_age_ms: Option<i64>,
) -> Option<i64> {
    Some(modified_ms.max()?.saturating_sub(max_age_ms?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, modified_ms: i64) -> UnreadFile {
        UnreadFile { path: path.into(), size: 1, modified_ms, etag: None, inode: None, from_log: false }
    }

    #[test]
    fn age_is_measured_against_the_newest_file_taken() {
        let mut seen = SeenFiles::new(Some(100), false);
        assert_eq!(seen.judge(&file("old", -1_000_000)), Novelty::New, "nothing was taken yet");
        seen.add("a", 1000, 1, None);
        assert_eq!(seen.judge(&file("a", 1000)), Novelty::Seen);
        assert_eq!(seen.judge(&file("a", 2000)), Novelty::Changed { was_empty: false });
        assert_eq!(seen.judge(&file("b", 900)), Novelty::New);
        assert_eq!(seen.judge(&file("b", 899)), Novelty::TooOld);
        seen.add("c", 5000, 1, None);
        assert_eq!(seen.judge(&file("b", 900)), Novelty::TooOld);
        seen.ignore("b");
        assert_eq!(seen.judge(&file("b", 900)), Novelty::Ignored);
        assert_eq!(seen.judge(&file("b", 5000)), Novelty::New, "another file of this name");
        assert_eq!(seen.judge(&file("a", 1000)), Novelty::Seen);
    }

    #[test]
    fn without_an_age_everything_unseen_is_new() {
        let mut seen = SeenFiles::new(None, false);
        seen.add("a", i64::MAX, 1, None);
        assert_eq!(seen.judge(&file("b", i64::MIN)), Novelty::New);
    }

    #[test]
    fn names_only() {
        let mut seen = SeenFiles::new(None, true);
        seen.add("x/a.json", 1, 1, None);
        assert_eq!(seen.judge(&file("y/a.json", 2)), Novelty::Seen);
        assert_eq!(seen.judge(&file("a.json", 2)), Novelty::Seen);
        assert_eq!(seen.judge(&file("y/b.json", 2)), Novelty::New);
    }

    #[test]
    fn what_an_earlier_run_forgot_is_not_new() {
        let mut seen = SeenFiles::new(Some(1_000_000), false);
        seen.forget_before(500);
        seen.forget_before(400);
        assert_eq!(seen.judge(&file("a", 499)), Novelty::Seen);
        assert_eq!(seen.judge(&file("a", 500)), Novelty::New);
    }

    #[test]
    fn shrinking_changes_no_answer_about_listed_files() {
        let mut seen = SeenFiles::new(Some(10), false);
        for index in 0..20_001 {
            seen.add(&format!("f{index}"), index, 1, None);
        }
        assert!(seen.wants_to_shrink());
        let listed: HashSet<PathHash> = ["f5", "never"].map(|path| seen.hash(path)).into();
        seen.shrink(&listed);
        assert_eq!(seen.files.len(), 12);
        assert!(!seen.wants_to_shrink());
        assert_eq!(seen.judge(&file("f5", 5)), Novelty::Seen);
        assert_eq!(seen.judge(&file("never", 5)), Novelty::TooOld);
        assert_eq!(seen.judge(&file("f19999", 19_999)), Novelty::Seen);
    }

    #[test]
    fn a_million_files_fit_in_little_memory() {
        let mut seen = SeenFiles::new(None, false);
        seen.reserve(1_000_000);
        for index in 0..1_000_000 {
            seen.files.insert([index, index], Taken { modified_ms: 0, size: 0 });
        }
        let bytes = seen.files.capacity() * std::mem::size_of::<(PathHash, Taken)>();
        assert!(bytes < 64 << 20, "{bytes} bytes");
    }

    #[test]
    fn a_file_that_changed_is_told_from_the_one_that_was_taken() {
        let mut seen = SeenFiles::new(Some(100), false);
        seen.add("a", 1000, 1, None);
        seen.add("empty", 1000, 0, None);
        let longer = UnreadFile { size: 2, ..file("a", 1000) };
        assert_eq!(seen.judge(&longer), Novelty::Changed { was_empty: false });
        assert_eq!(seen.judge(&file("empty", 1000)), Novelty::Changed { was_empty: true });
        seen.note_change(&longer);
        assert_eq!(seen.judge(&longer), Novelty::Seen);
        assert_eq!(seen.judge(&file("a", 899)), Novelty::TooOld, "an old file was put in its place");
    }
    #[test]
    fn content_is_told_by_its_tag_where_there_is_one() {
        let mut seen = SeenFiles::new(None, false);
        let tagged = |tag: &str| UnreadFile { etag: Some(tag.into()), ..file("a", 1000) };
        seen.add("a", 1000, 1, Some("x"));
        assert_eq!(seen.judge(&tagged("x")), Novelty::Seen);
        assert_eq!(seen.judge(&file("a", 1000)), Novelty::Seen);
        assert_eq!(seen.judge(&tagged("y")), Novelty::Changed { was_empty: false });
        seen.note_change(&tagged("y"));
        assert_eq!(seen.judge(&tagged("y")), Novelty::Seen);
        seen.add("a", 1000, 1, None);
        assert_eq!(seen.judge(&tagged("x")), Novelty::Seen);
    }
}
