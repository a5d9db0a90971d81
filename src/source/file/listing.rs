//! Finding new files.

use std::collections::HashSet;
use std::path::PathBuf;

use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore};

use super::location::FileLocation;
use super::options::ModifiedWindow;
use super::pattern::{FilePattern, SPARK_LOG, Verdict};
use super::queue::UnreadFile;
use super::seen::{Novelty, PathHash, SeenFiles};
use super::settle::Settling;
use super::spark_metadata;
use super::walk::LocalWalk;
use crate::error::{Error, Result};

/// What a listing found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Files that were not taken yet, and are complete.
    pub(super) new: Vec<UnreadFile>,
    /// Files that are not any more what they were when they were taken.
    pub(super) changed: Vec<UnreadFile>,
    /// Files that were not taken and never will be, because they are too old.
    pub(super) too_old: Vec<UnreadFile>,
    /// Complete files without content. They are taken when they have some.
    pub(super) empty: Vec<Box<str>>,
    /// Hashes of all files, if they were asked for.
    pub(super) all: Option<HashSet<PathHash>>,
    /// Whether the files come from the log of a Spark file sink.
    pub(super) from_log: bool,
    /// Links that were not followed because they lead to a directory they lie in.
    pub(super) loops: Vec<PathBuf>,
    /// Whether there are files that were not modified at the right time.
    has_others: bool,
}

impl Listing {
    /// Whether there is no complete file, whatever would become of it.
    pub(super) fn is_nothing(&self) -> bool {
        let files = [&self.new, &self.changed, &self.too_old];
        files.iter().all(|files| files.is_empty()) && self.empty.is_empty() && !self.has_others
    }

    fn add(&mut self, file: UnreadFile, rules: &Rules<'_>) {
        if let Some(all) = &mut self.all {
            all.insert(rules.seen.hash(&file.path));
        }
        if !rules.window.contains(file.modified_ms) {
            self.has_others = true;
            return;
        }
        match rules.seen.judge(&file) {
            Novelty::New | Novelty::Changed { was_empty: true } if file.size == 0 => {
                self.empty.push(file.path);
            }
            Novelty::New | Novelty::Changed { was_empty: true } => self.new.push(file),
            Novelty::Changed { was_empty: false } => self.changed.push(file),
            Novelty::TooOld => self.too_old.push(file),
            Novelty::Seen | Novelty::Ignored => {}
        }
    }
}

/// What decides which files are new.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) pattern: &'a FilePattern,
    pub(super) seen: &'a SeenFiles,
    pub(super) window: ModifiedWindow,
    /// Whether the disk is asked about files that were taken, too, for they may have changed. Stores say
    /// it without being asked.
    pub(super) look_at_known: bool,
    /// Whether files are taken whose directories name more columns than the table has: such directories came later.
    pub(super) takes_deeper: bool,
}

/// Lists the files of a source. The listing is streamed: only files that are new are kept.
pub(super) async fn list(
    store: &dyn ObjectStore,
    location: &FileLocation,
    rules: Rules<'_>,
    settling: &mut Settling,
) -> Result<Listing> {
    let all = rules.seen.wants_to_shrink().then(HashSet::new);
    let mut listing = Listing { all, ..Listing::default() };
    let mut judge = Judge { rules, log: Vec::new(), misplaced: None };
    match LocalWalk::of(store, location) {
        Some(walk) => {
            settling.begin();
            list_disk(walk, location, rules, settling, &mut judge, &mut listing).await?;
            settling.end();
        }
        None => list_store(store, location, rules, &mut judge, &mut listing).await?,
    }
    if judge.log.is_empty() {
        return match judge.misplaced {
            None => Ok(listing),
            Some((path, reason)) => {
                let file = location.display(&location.object_path(&path)?);
                Err(Error::InputFile { file, reason })
            }
        };
    }
    let mut listing =
        Listing { all: listing.all.map(|_| HashSet::new()), from_log: true, ..Listing::default() };
    for file in spark_metadata::read(store, location, &judge.log).await? {
        match rules.pattern.judge(&file.path) {
            Verdict::Deeper(_) if rules.takes_deeper => {}
            Verdict::Deeper(reason) | Verdict::Misplaced(reason) => {
                return Err(Error::InputFile { file: file.path.into(), reason });
            }
            Verdict::Take | Verdict::Skip | Verdict::SparkLog => {}
        }
        listing.add(file, &rules);
    }
    Ok(listing)
}

/// Decides about listed files, and collects what a listing shows besides input.
struct Judge<'a> {
    rules: Rules<'a>,
    /// Names of files in the log of a Spark file sink.
    log: Vec<String>,
    /// The first file that does not fit the table, and why. Reported only if there is no log, which
    /// would not name it.
    misplaced: Option<(String, String)>,
}

impl Judge<'_> {
    /// Whether the file at `path` is input.
    fn takes(&mut self, path: &str) -> bool {
        match self.rules.pattern.judge(path) {
            Verdict::Take => return true,
            Verdict::Deeper(_) if self.rules.takes_deeper => return true,
            Verdict::Skip => {}
            Verdict::SparkLog => self.log.push(path[SPARK_LOG.len() + 1..].to_string()),
            Verdict::Deeper(reason) | Verdict::Misplaced(reason) => {
                self.misplaced.get_or_insert_with(|| (path.to_string(), reason));
            }
        }
        false
    }
}

async fn list_store(
    store: &dyn ObjectStore,
    location: &FileLocation,
    rules: Rules<'_>,
    judge: &mut Judge<'_>,
    listing: &mut Listing,
) -> Result<()> {
    let failed = |error| Error::storage("list", location.base_url().as_str(), error);
    let mut objects = store.list(Some(location.base()));
    while let Some(object) = objects.try_next().await.map_err(failed)? {
        let Some(path) = location.relative(&object.location) else { continue };
        if judge.takes(path) {
            listing.add(unread(path, &object, location.is_local()), &rules);
        }
    }
    Ok(())
}

/// The same on the local disk, where only files that are new are looked at most of the time.
async fn list_disk(
    mut walk: LocalWalk,
    location: &FileLocation,
    rules: Rules<'_>,
    settling: &mut Settling,
    judge: &mut Judge<'_>,
    listing: &mut Listing,
) -> Result<()> {
    settling.watch(walk.root(), "");
    loop {
        let names = walk.next().await?;
        if names.is_empty() {
            return Ok(());
        }
        listing.loops.extend(names.loops);
        for directory in &names.directories {
            settling.watch(&walk.root().join(directory), directory);
        }
        let mut paths = names.files;
        paths.retain(|path| judge.takes(path));
        if let Some(all) = &mut listing.all {
            all.extend(paths.iter().map(|path| rules.seen.hash(path)));
        }
        paths.retain(|path| rules.look_at_known || rules.seen.is_unseen(path));
        for path in &paths {
            location.object_path(path)?;
        }
        let found = walk.look_at(paths).await?;
        settling.catch_up();
        for found in found {
            let is_known = rules.seen.judge(&found.file) == Novelty::Seen;
            if !is_known && settling.is_complete(&found) {
                listing.add(found.file, &rules);
            }
        }
    }
}

/// Those of `files` that are still what they were when they were listed. Stores are not asked: reading
/// will tell.
pub(super) async fn still_there(
    store: &dyn ObjectStore,
    location: &FileLocation,
    mut files: Vec<UnreadFile>,
) -> Result<Vec<UnreadFile>> {
    let Some(walk) = LocalWalk::of(store, location).filter(|_| !files.is_empty()) else { return Ok(files) };
    let paths = files.iter().map(|file| file.path.to_string()).collect();
    let found = walk.look_at(paths).await?;
    let mut found = found.into_iter().map(|found| found.file).peekable();
    // In their order, less those that are gone.
    files.retain(|file| match found.next_if(|found| found.path == file.path) {
        Some(found) => file.from_log || (found.size, found.modified_ms) == (file.size, file.modified_ms),
        None => false,
    });
    Ok(files)
}

fn unread(path: &str, object: &ObjectMeta, is_local: bool) -> UnreadFile {
    // The tag of a local file is its inode, which no copy of the directory keeps.
    let etag = if is_local { None } else { object.e_tag.as_deref() };
    UnreadFile {
        path: path.into(),
        size: object.size,
        modified_ms: object.last_modified.timestamp_millis(),
        etag: etag.map(Into::into),
        inode: None,
        from_log: false,
    }
}
