//! Finding new files.

use std::collections::HashSet;

use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore};

use super::location::FileLocation;
use super::pattern::{FilePattern, SPARK_LOG, Verdict};
use super::queue::UnreadFile;
use super::seen::{Novelty, PathHash, SeenFiles};
use super::spark_metadata;
use super::walk::LocalWalk;
use crate::error::{Error, Result};

/// What a listing found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Files that were not taken yet.
    pub(super) new: Vec<UnreadFile>,
    /// Files that were not taken and never will be, because they are too old.
    pub(super) too_old: Vec<UnreadFile>,
    /// Hashes of all files, if they were asked for.
    pub(super) all: Option<HashSet<PathHash>>,
    /// Whether the files come from the log of a Spark file sink.
    pub(super) from_log: bool,
}

impl Listing {
    fn add(&mut self, file: UnreadFile, seen: &SeenFiles) {
        if let Some(all) = &mut self.all {
            all.insert(seen.hash(&file.path));
        }
        match seen.judge(&file.path, file.modified_ms) {
            Novelty::New => self.new.push(file),
            Novelty::TooOld => self.too_old.push(file),
            Novelty::Seen | Novelty::Ignored => {}
        }
    }
}

/// Lists the files of a source. The listing is streamed: only files that are new are kept.
pub(super) async fn list(
    store: &dyn ObjectStore,
    location: &FileLocation,
    pattern: &FilePattern,
    seen: &SeenFiles,
) -> Result<Listing> {
    let all = seen.wants_to_shrink().then(HashSet::new);
    let mut listing = Listing { all, ..Listing::default() };
    let mut judge = Judge { pattern, log: Vec::new(), misplaced: None };
    match LocalWalk::of(store, location) {
        Some(walk) => list_disk(walk, location, seen, &mut judge, &mut listing).await?,
        None => list_store(store, location, seen, &mut judge, &mut listing).await?,
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
        if let Verdict::Misplaced(reason) = pattern.judge(&file.path) {
            return Err(Error::InputFile { file: file.path.into(), reason });
        }
        listing.add(file, seen);
    }
    Ok(listing)
}

/// Decides about listed files, and collects what a listing shows besides input.
struct Judge<'a> {
    pattern: &'a FilePattern,
    /// Names of files in the log of a Spark file sink.
    log: Vec<String>,
    /// The first file that does not fit the table, and why. Reported only if there is no log, which
    /// would not name it.
    misplaced: Option<(String, String)>,
}

impl Judge<'_> {
    /// Whether the file at `path` is input.
    fn takes(&mut self, path: &str) -> bool {
        match self.pattern.judge(path) {
            Verdict::Take => return true,
            Verdict::Skip => {}
            Verdict::SparkLog => self.log.push(path[SPARK_LOG.len() + 1..].to_string()),
            Verdict::Misplaced(reason) => {
                self.misplaced.get_or_insert_with(|| (path.to_string(), reason));
            }
        }
        false
    }
}

async fn list_store(
    store: &dyn ObjectStore,
    location: &FileLocation,
    seen: &SeenFiles,
    judge: &mut Judge<'_>,
    listing: &mut Listing,
) -> Result<()> {
    let failed = |error| Error::storage("list", location.base_url().as_str(), error);
    let mut objects = store.list(Some(location.base()));
    while let Some(object) = objects.try_next().await.map_err(failed)? {
        let Some(path) = location.relative(&object.location) else { continue };
        if judge.takes(path) {
            listing.add(unread(path, &object, location.is_local()), seen);
        }
    }
    Ok(())
}

/// The same on the local disk, where only files that are new are looked at.
async fn list_disk(
    mut walk: LocalWalk,
    location: &FileLocation,
    seen: &SeenFiles,
    judge: &mut Judge<'_>,
    listing: &mut Listing,
) -> Result<()> {
    loop {
        let mut paths = walk.next().await?;
        if paths.is_empty() {
            return Ok(());
        }
        paths.retain(|path| judge.takes(path));
        if let Some(all) = &mut listing.all {
            all.extend(paths.iter().map(|path| seen.hash(path)));
        }
        paths.retain(|path| seen.is_unseen(path));
        for path in &paths {
            location.object_path(path)?;
        }
        for file in walk.look_at(paths).await? {
            listing.add(file, seen);
        }
    }
}

fn unread(path: &str, object: &ObjectMeta, is_local: bool) -> UnreadFile {
    // The tag of a local file is its inode, which no copy of the directory keeps.
    let etag = if is_local { None } else { object.e_tag.as_deref() };
    UnreadFile {
        path: path.into(),
        size: object.size,
        modified_ms: object.last_modified.timestamp_millis(),
        etag: etag.map(Into::into),
        from_log: false,
    }
}
