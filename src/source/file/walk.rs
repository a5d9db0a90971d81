//! Walking a directory on the local disk by names.
//!
//! `object_store` asks the disk about every file that it lists, three times. But files that were
//! taken stay in their directory, and of them nothing but the name matters; names come by the
//! hundred with one call. So here the disk is asked only about files that are new.

use std::io;
use std::path::{MAIN_SEPARATOR, Path, PathBuf};

use chrono::{DateTime, Utc};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use walkdir::{DirEntry, FilterEntry, IntoIter, WalkDir};

use super::location::FileLocation;
use super::pattern::is_never_read;
use super::queue::UnreadFile;
use crate::error::{Error, Result};

/// How many names are handed over at a time.
const CHUNK: usize = 4096;

type Entries = FilterEntry<IntoIter, fn(&DirEntry) -> bool>;

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
        let disk = LocalFileSystem::new();
        // Another store may stand in the local disk's place, and would have to be asked.
        let is_disk = location.is_local() && store.to_string() == disk.to_string();
        if !is_disk || MAIN_SEPARATOR != '/' {
            return None;
        }
        let root = disk.path_to_filesystem(location.base()).ok()?;
        let entries = WalkDir::new(&root).min_depth(1).follow_links(true).into_iter();
        Some(Self { root, entries: Some(entries.filter_entry(is_wanted)) })
    }

    /// The next files, as paths below the base; none at the end.
    pub(super) async fn next(&mut self) -> Result<Vec<String>> {
        let Some(mut entries) = self.entries.take() else { return Ok(Vec::new()) };
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
    pub(super) async fn look_at(&self, paths: Vec<String>) -> Result<Vec<UnreadFile>> {
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

fn next_names(root: &Path, entries: &mut Entries) -> Result<Vec<String>> {
    let mut names = Vec::new();
    while names.len() < CHUNK
        && let Some(entry) = entries.next()
    {
        match entry {
            Ok(entry) if entry.file_type().is_file() => {
                let path = entry.path();
                let below = path.strip_prefix(root).unwrap_or(path);
                let Some(name) = below.to_str() else {
                    if below.iter().any(|part| is_never_read(&part.to_string_lossy())) {
                        continue;
                    }
                    let reason = "its name is not UTF-8. Rename it".to_string();
                    return Err(Error::InputFile { file: path.display().to_string(), reason });
                };
                // What `object_store` takes for its own unfinished files, it does not read.
                if !is_unfinished(name) {
                    names.push(name.to_string());
                }
            }
            Ok(_) => {}
            Err(error) if is_gone(error.io_error()) => {}
            Err(error) => {
                let path = error.path().unwrap_or(root).display().to_string();
                return Err(Error::storage("list", path, error));
            }
        }
    }
    Ok(names)
}

/// `name#1`
fn is_unfinished(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split_once('#')
        .is_some_and(|(_, suffix)| !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_gone(error: Option<&io::Error>) -> bool {
    error.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn look_at(root: &Path, path: String) -> Result<Option<UnreadFile>> {
    let file = root.join(&path);
    let told = std::fs::metadata(&file).and_then(|metadata| Ok((metadata.len(), metadata.modified()?)));
    match told {
        Ok((size, modified)) => Ok(Some(UnreadFile {
            path: path.into(),
            size,
            modified_ms: DateTime::<Utc>::from(modified).timestamp_millis(),
            // The tag of a local file is its inode, which no copy of the directory keeps.
            etag: None,
            from_log: false,
        })),
        Err(error) if is_gone(Some(&error)) => Ok(None),
        Err(error) => Err(Error::storage("list", file.display().to_string(), error)),
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

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
            walked.extend(walk.look_at(names).await.unwrap());
        }
        let objects: Vec<_> = store.list(Some(location.base())).try_collect().await.unwrap();
        let mut listed: Vec<_> = objects
            .iter()
            .map(|object| UnreadFile {
                path: location.relative(&object.location).unwrap().into(),
                size: object.size,
                modified_ms: object.last_modified.timestamp_millis(),
                etag: None,
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

        let (walked, listed) = both(&base).await;
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
