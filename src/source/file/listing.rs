//! Finding new files.

use std::collections::HashSet;

use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore};

use super::location::FileLocation;
use super::pattern::{FilePattern, SPARK_LOG, Verdict};
use super::queue::UnreadFile;
use super::seen::{Novelty, PathHash, SeenFiles};
use super::spark_metadata;
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
    let failed = |error| Error::storage("list", location.base_url().as_str(), error);
    let mut listing = Listing { all: seen.wants_to_shrink().then(HashSet::new), ..Listing::default() };
    let mut log = Vec::new();
    let mut misplaced = None;
    let mut objects = store.list(Some(location.base()));
    while let Some(object) = objects.try_next().await.map_err(failed)? {
        let Some(path) = location.relative(&object.location) else { continue };
        match pattern.judge(path) {
            Verdict::Take => listing.add(unread(path, &object, location.is_local()), seen),
            Verdict::Skip => {}
            Verdict::SparkLog => log.push(path[SPARK_LOG.len() + 1..].to_string()),
            Verdict::Misplaced(reason) => {
                // Reported only if there is no log, which would not name it.
                misplaced.get_or_insert_with(|| Error::InputFile {
                    file: location.display(&object.location),
                    reason,
                });
            }
        }
    }
    if log.is_empty() {
        return misplaced.map_or(Ok(listing), Err);
    }
    let mut listing =
        Listing { all: listing.all.map(|_| HashSet::new()), from_log: true, ..Listing::default() };
    for file in spark_metadata::read(store, location, &log).await? {
        if let Verdict::Misplaced(reason) = pattern.judge(&file.path) {
            return Err(Error::InputFile { file: file.path.into(), reason });
        }
        listing.add(file, seen);
    }
    Ok(listing)
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
