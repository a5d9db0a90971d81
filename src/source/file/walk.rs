//! Walking a directory on the local disk by names.
//!
//! `object_store` asks the disk about every file that it lists, three times. But files that were
//! taken stay in their directory, and of them nothing but the name matters; names come by the
//! hundred with one call. So here the disk is asked only about files that are new.

use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use object_store::ObjectStore;
use walkdir::{DirEntry, FilterEntry, IntoIter, WalkDir};

use super::disk;
use super::disk::inode;
use super::location::FileLocation;
use super::pattern::is_never_read;
use super::queue::UnreadFile;
use super::settle::DiskFile;
use crate::error::{Error, Result};

/// How many names are handed over at a time.
const CHUNK: usize = 4096;

type Entries = FilterEntry<IntoIter, fn(&DirEntry) -> bool>;

/// What a walk came by, as paths below its root.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) files: Vec<String>,
    pub(super) directories: Vec<String>,
    /// Links that lead to a directory they lie in, which are not followed.
    pub(super) loops: Vec<PathBuf>,
}

impl Names {
    /// Whether the walk is at its end.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.directories.is_empty() && self.loops.is_empty()
    }
}

/// A walk through a directory and all below it, in the order of the disk. Links are followed; what
/// vanishes meanwhile, and links that lead nowhere, are passed over.
pub(super) struct LocalWalk {
    root: PathBuf,
    /// `None` when the walk is at its end.
    entries: Option<Entries>,
}

impl LocalWalk {
    /// A walk through the base of `location`, if that is a directory that `store` reads directly.
    pub(super) fn of(store: &dyn ObjectStore, location: &FileLocation) -> Option<Self> {
        if !location.is_local() || !disk::is_read_by(store) {
            return None;
        }
        let root = disk::path_of(location.base());
        let entries = WalkDir::new(&root).min_depth(1).follow_links(true).into_iter();
        Some(Self { root, entries: Some(entries.filter_entry(is_wanted)) })
    }

    /// Where the walk began.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The next names; none at the end.
    pub(super) async fn next(&mut self) -> Result<Names> {
        let Some(mut entries) = self.entries.take() else { return Ok(Names::default()) };
        let root = self.root.clone();
        let (names, entries) = self
            .off_thread(move || {
                let names = next_names(&root, &mut entries)?;
                Ok((names, entries))
            })
            .await?;
        self.entries = (!names.is_empty()).then_some(entries);
        Ok(names)
    }

    /// Those files that are still there, with what the disk says of them.
    pub(super) async fn look_at(&self, paths: Vec<String>) -> Result<Vec<DiskFile>> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let root = self.root.clone();
        self.off_thread(move || {
            let files = paths.into_iter().map(|path| look_at(&root, path));
            files.filter_map(Result::transpose).collect()
        })
        .await
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(Error::storage("list", self.root.display().to_string(), error)),
        }
    }
}

fn is_wanted(entry: &DirEntry) -> bool {
    !entry.file_type().is_dir() || entry.file_name().to_str().is_none_or(|name| !is_never_read(name))
}

fn next_names(root: &Path, entries: &mut Entries) -> Result<Names> {
    let mut names = Names::default();
    while names.files.len() + names.directories.len() < CHUNK
        && let Some(entry) = entries.next()
    {
        match entry {
            Ok(entry) => {
                let is_file = entry.file_type().is_file();
                if !is_file && !entry.file_type().is_dir() {
                    continue;
                }
                let Some(name) = name_of(root, entry.path())? else { continue };
                let names = if is_file { &mut names.files } else { &mut names.directories };
                names.push(name);
            }
            Err(error) if is_gone(error.io_error()) => {}
            Err(error) if error.loop_ancestor().is_some() => {
                names.loops.extend(error.path().map(Path::to_path_buf))
            }
            Err(error) => {
                let path = error.path().unwrap_or(root).display().to_string();
                return Err(Error::storage("list", path, error));
            }
        }
    }
    Ok(names)
}

/// The path below `root`; `None` if it is none that is ever read.
fn name_of(root: &Path, path: &Path) -> Result<Option<String>> {
    let below = path.strip_prefix(root).unwrap_or(path);
    if let Some(name) = below.to_str() {
        return Ok(Some(name.to_string()));
    }
    if below.iter().any(|part| is_never_read(&part.to_string_lossy())) {
        return Ok(None);
    }
    let reason = "its name is not UTF-8. Rename it".to_string();
    Err(Error::InputFile { file: path.display().to_string(), reason })
}

fn is_gone(error: Option<&io::Error>) -> bool {
    error.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn look_at(root: &Path, path: String) -> Result<Option<DiskFile>> {
    let file = root.join(&path);
    let told = std::fs::metadata(&file).and_then(|metadata| Ok((metadata.modified()?, metadata)));
    match told {
        Ok((modified, metadata)) => Ok(Some(DiskFile {
            was_written_last: was_written_last(&metadata),
            modified,
            file: UnreadFile {
                path: path.into(),
                size: metadata.len(),
                modified_ms: DateTime::<Utc>::from(modified).timestamp_millis(),
                // The tag of a local file is its inode, which no copy of the directory keeps.
                etag: None,
                inode: inode(&metadata),
                from_log: false,
            },
        })),
        Err(error) if is_gone(Some(&error)) => Ok(None),
        Err(error) => Err(Error::storage("list", file.display().to_string(), error)),
    }
}

/// A file that gets a new name or another time keeps the time of its last write, but not that of its last
/// change.
#[cfg(unix)]
fn was_written_last(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (metadata.mtime(), metadata.mtime_nsec()) == (metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn was_written_last(_: &std::fs::Metadata) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::local::LocalFileSystem;

    use super::*;

    /// What the walk finds, sorted, beside what `object_store` lists.
    async fn both(base: &Path) -> (Vec<UnreadFile>, Vec<UnreadFile>) {
        let location = FileLocation::parse(&format!("{}/", base.display())).unwrap();
        let store = LocalFileSystem::new();
        let mut walk = LocalWalk::of(&store, &location).unwrap();
        let mut walked = Vec::new();
        loop {
            let names = walk.next().await.unwrap();
            if names.is_empty() {
                break;
            }
            let found = walk.look_at(names.files).await.unwrap().into_iter();
            walked.extend(found.map(|found| UnreadFile { inode: None, ..found.file }));
        }
        let objects: Vec<_> = store.list(Some(location.base())).try_collect().await.unwrap();
        let mut listed: Vec<_> = objects
            .iter()
            .map(|object| UnreadFile {
                path: location.relative(&object.location).unwrap().into(),
                size: object.size,
                modified_ms: object.last_modified.timestamp_millis(),
                etag: None,
                inode: None,
                from_log: false,
            })
            .collect();
        walked.sort_by(|a, b| a.path.cmp(&b.path));
        listed.sort_by(|a, b| a.path.cmp(&b.path));
        (walked, listed)
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_walk_finds_what_object_store_lists() {
        use std::os::unix::fs::symlink;

        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("odd [dir] 100%/é");
        std::fs::create_dir_all(base.join("k=1/l=ü %20")).unwrap();
        for name in ["a.json", "_b", ".c", "d#1", "e#x", "#2", "k=1/l=ü %20/f g.json", "x%41.json"] {
            std::fs::write(base.join(name), name).unwrap();
        }
        std::fs::create_dir(base.join("_spark_metadata")).unwrap();
        std::fs::write(base.join("_spark_metadata/0"), "v1").unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("linked.json"), "12").unwrap();
        symlink(elsewhere.path().join("linked.json"), base.join("link.json")).unwrap();
        symlink(elsewhere.path(), base.join("link_dir")).unwrap();
        symlink(base.join("nowhere"), base.join("broken.json")).unwrap();

        let (mut walked, listed) = both(&base).await;
        let (odd, rest) = walked.into_iter().partition::<Vec<_>, _>(|file| disk::is_shunned(&file.path));
        assert_eq!(odd.iter().map(|file| &*file.path).collect::<Vec<_>>(), ["#2", "d#1"]);
        walked = rest;
        assert_eq!(walked, listed);
        let paths: Vec<_> = walked.iter().map(|file| &*file.path).collect();
        assert!(
            paths.contains(&"link_dir/linked.json") && paths.contains(&"k=1/l=ü %20/f g.json"),
            "{paths:?}"
        );
        assert_eq!(paths.len(), 9, "{paths:?}");
    }

    #[tokio::test]
    async fn more_files_than_are_handed_over_at_once_and_none_at_all() {
        let dir = tempfile::tempdir().unwrap();
        for file in 0..CHUNK + 1 {
            std::fs::write(dir.path().join(file.to_string()), "").unwrap();
        }
        let (walked, listed) = both(dir.path()).await;
        assert_eq!((walked.len(), walked == listed), (CHUNK + 1, true));
        let (walked, listed) = both(&dir.path().join("missing")).await;
        assert_eq!((walked, listed), (vec![], vec![]));
    }

    #[tokio::test]
    async fn directories_that_are_never_read_are_not_entered() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".tidemill")).unwrap();
        std::fs::write(dir.path().join(".tidemill/staged"), "").unwrap();
        let (walked, listed) = both(dir.path()).await;
        assert_eq!((walked.len(), listed.len()), (0, 1));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn links_that_lead_back_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/a"), "").unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("sub/back")).unwrap();
        let location = FileLocation::parse(&format!("{}/", dir.path().display())).unwrap();
        let names = LocalWalk::of(&LocalFileSystem::new(), &location).unwrap().next().await.unwrap();
        assert_eq!((names.files, names.directories), (vec!["sub/a".to_string()], vec!["sub".to_string()]));
        assert_eq!(names.loops, [dir.path().join("sub/back")]);
    }

    #[tokio::test]
    async fn another_store_in_the_disks_place_is_asked_itself() {
        let location = FileLocation::parse("/data/").unwrap();
        let store = object_store::prefix::PrefixStore::new(LocalFileSystem::new(), "");
        assert!(LocalWalk::of(&store, &location).is_none());
        assert!(LocalWalk::of(&LocalFileSystem::new(), &location).is_some());
        let remote = FileLocation::parse("s3://bucket/data/").unwrap();
        assert!(LocalWalk::of(&LocalFileSystem::new(), &remote).is_none());
    }
}
