//! Cleaning up behind a query (`cleanSource`).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use object_store::path::Path;
use object_store::{CopyMode, CopyOptions, ObjectStore, ObjectStoreExt};

use super::FileTable;
use super::archive::{Cleaned, finish, move_across};
use super::disk::{self, version_on_disk};
use super::entry::{FileEntry, Version};
use super::location::FileLocation;
use crate::storage::disk::{Disk, StdDisk};

/// How many files are moved or deleted at a time.
const CONCURRENCY: usize = 10;
/// How much of two objects is compared at a time.
const COMPARED_BYTES: u64 = 4 << 20;

/// Moves or deletes files whose rows are durable in the sink. Failures are warnings, as in Spark: the
/// rows are safe either way.
///
/// Only the very file that was read is touched: what has come under its name since stays where it is,
/// and a file in the archive is never replaced.
#[derive(Debug)]
pub(super) struct Cleaner {
    action: Action,
    store: Arc<dyn ObjectStore>,
    is_disk: bool,
    location: Arc<FileLocation>,
}

/// What is done with a file.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// Nothing.
    Keep,
    /// It is deleted.
    Delete,
    /// It is moved below this directory of the same store, with the path it has below the base.
    Archive(Path),
}

impl Cleaner {
    pub(super) fn new(table: &FileTable, store: Arc<dyn ObjectStore>) -> Self {
        let action = table.clean_up().clone();
        Self {
            action,
            is_disk: disk::is_read_by(store.as_ref()),
            store,
            location: Arc::clone(table.location()),
        }
    }

    /// Cleans up after `files`. Doing it again does no harm.
    pub(super) async fn clean(&self, files: &[FileEntry<'_>]) {
        if let Action::Keep = self.action {
            return;
        }
        let cleaning: Vec<_> = files.iter().map(|file| self.clean_one(file)).collect();
        let cleaned: Vec<_> = futures::stream::iter(cleaning).buffer_unordered(CONCURRENCY).collect().await;
        let failed: Vec<_> = cleaned.into_iter().flatten().collect();
        // Each start tries again: a line for every file would be very many.
        if let Some((file, error)) = failed.first() {
            tracing::warn!(file, %error, files = failed.len(), "could not clean up input files that were read");
        }
    }

    /// Gives the file and what was wrong if it could not be cleaned up.
    async fn clean_one(&self, read: &FileEntry<'_>) -> Option<(String, object_store::Error)> {
        let from = self.location.object_path(&read.path).ok()?;
        let file = self.location.display(&from);
        let cleaned = match self.targets(read) {
            Ok(targets) if self.is_disk => self.clean_on_disk(read.version(), &from, targets).await,
            Ok(targets) => self.clean_in_store(&read.version(), &from, targets).await,
            Err(error) => Err(error.into()),
        };
        match cleaned {
            Ok(Cleaned::Done) | Err(object_store::Error::NotFound { .. }) => {}
            Ok(Cleaned::Replaced(how)) => tracing::warn!(
                file,
                "did not clean up an input file: what is there is not what was read, for {how}. It is read if its size or \
                 its time is another one (touch)"
            ),
            Ok(Cleaned::NoRoom) => tracing::warn!(
                file,
                "did not archive an input file: the archive has other files under its names"
            ),
            Err(error) => return Some((file, error)),
        }
        None
    }

    /// The names that the file may get in the archive, the first free one of which it gets.
    fn targets(&self, read: &FileEntry<'_>) -> Result<Vec<Path>, object_store::path::Error> {
        let Action::Archive(directory) = &self.action else { return Ok(Vec::new()) };
        let (parent, name) = match read.path.rsplit_once('/') {
            Some((parent, name)) => (format!("{directory}/{parent}"), name),
            None => (directory.to_string(), &*read.path),
        };
        let dot = name.char_indices().skip(1).find(|(_, c)| *c == '.').map_or(name.len(), |(at, _)| at);
        let (stem, extension) = name.split_at(dot);
        let of_its_time = format!("{stem}-{}{extension}", read.modified_ms);
        [name, &of_its_time].into_iter().map(|name| Path::parse(format!("{parent}/{name}"))).collect()
    }

    async fn clean_on_disk(
        &self,
        read: Version,
        from: &Path,
        targets: Vec<Path>,
    ) -> object_store::Result<Cleaned> {
        let (from, shown) = (disk::path_of(from), from.to_string());
        let targets: Vec<PathBuf> = targets.iter().map(disk::path_of).collect();
        let cleaned = tokio::task::spawn_blocking(move || clean_on_disk(&StdDisk, &read, &from, &targets));
        cleaned.await?.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => object_store::Error::NotFound { path: shown, source: Box::new(error) },
            _ => object_store::Error::Generic { store: "disk", source: Box::new(error) },
        })
    }

    /// Stores have no renaming that refuses to replace: a copy that does, then the deletion. What an
    /// interruption in between leaves is found to be the same content the next time.
    async fn clean_in_store(
        &self,
        read: &Version,
        from: &Path,
        targets: Vec<Path>,
    ) -> object_store::Result<Cleaned> {
        if let Some(how) = self.difference(read, from).await? {
            return Ok(Cleaned::Replaced(how));
        }
        if !targets.is_empty() && !self.copy_to_first_free(from, &targets).await? {
            return Ok(Cleaned::NoRoom);
        }
        match self.difference(read, from).await? {
            Some(how) => Ok(Cleaned::Replaced(how)),
            None => self.store.delete(from).await.map(|()| Cleaned::Done),
        }
    }

    async fn difference(&self, read: &Version, from: &Path) -> object_store::Result<Option<String>> {
        Ok(read.difference(&Version::from(&self.store.head(from).await?)))
    }

    /// Whether the content of `from` is under one of `targets` afterwards.
    async fn copy_to_first_free(&self, from: &Path, targets: &[Path]) -> object_store::Result<bool> {
        for target in targets {
            let create = CopyOptions { mode: CopyMode::Create, ..CopyOptions::default() };
            match self.store.copy_opts(from, target, create).await {
                Ok(()) => return Ok(true),
                Err(object_store::Error::AlreadyExists { .. }) => {}
                Err(
                    object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. },
                ) => match self.store.head(target).await {
                    Err(object_store::Error::NotFound { .. }) => {
                        return self.store.copy(from, target).await.map(|()| true);
                    }
                    found => drop(found?),
                },
                Err(error) => return Err(error),
            }
            if self.is_same_content(from, target).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn is_same_content(&self, a: &Path, b: &Path) -> object_store::Result<bool> {
        let (size, other) = (self.store.head(a).await?.size, self.store.head(b).await?.size);
        if size != other {
            return Ok(false);
        }
        let mut at = 0;
        while at < size {
            let range = at..size.min(at + COMPARED_BYTES);
            let (left, right) = (
                self.store.get_range(a, range.clone()).await?,
                self.store.get_range(b, range.clone()).await?,
            );
            if left != right {
                return Ok(false);
            }
            at = range.end;
        }
        Ok(true)
    }
}

/// Deletes `from`, or moves it to the first of `targets` that is free, in one step: there is nothing
/// that an interruption could leave half done. To another file system it is copied.
fn clean_on_disk(
    disk: &impl Disk,
    read: &Version,
    from: &std::path::Path,
    targets: &[PathBuf],
) -> io::Result<Cleaned> {
    if !targets.is_empty() {
        finish(disk, read, from, targets)?;
    }
    if let Some(how) = read.difference(&version_on_disk(from)?) {
        return Ok(Cleaned::Replaced(how));
    }
    if targets.is_empty() {
        return std::fs::remove_file(from).map(|()| Cleaned::Done);
    }
    for target in targets {
        if let Some(directory) = target.parent() {
            std::fs::create_dir_all(directory)?;
        }
        match disk.rename_new(from, target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                return move_across(disk, read, from, targets);
            }
            // Some disks cannot refuse.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) =>
            {
                if target.try_exists()? {
                    continue;
                }
                std::fs::rename(from, target)?;
            }
            renamed => renamed?,
        }
        // Something may have come under the name at the last moment. It goes back. The move is a change, too.
        let moved = Version { changed_ns: None, ..version_on_disk(target)? };
        let Some(how) = read.difference(&moved) else { return Ok(Cleaned::Done) };
        disk.rename_new(target, from)?;
        return Ok(Cleaned::Replaced(how));
    }
    Ok(Cleaned::NoRoom)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    async fn entry(store: &InMemory, path: &'static str) -> FileEntry<'static> {
        let meta = store.head(&Path::from(format!("in/{path}"))).await.unwrap();
        let modified_ms = meta.last_modified.timestamp_millis();
        FileEntry {
            path: path.into(),
            size: meta.size,
            modified_ms,
            etag: meta.e_tag.map(Into::into),
            inode: None,
            from_log: false,
            passed_over: false,
        }
    }

    fn cleaner(store: &Arc<InMemory>, action: Action) -> Cleaner {
        let location = Arc::new(FileLocation::parse("memory:///in/").unwrap());
        Cleaner { action, store: Arc::clone(store) as _, is_disk: false, location }
    }

    async fn content(store: &InMemory) -> Vec<String> {
        let objects: Vec<_> = store.list(None).map(|object| object.unwrap().location).collect().await;
        let mut all = Vec::new();
        for object in objects {
            let bytes = store.get(&object).await.unwrap().bytes().await.unwrap();
            all.push(format!("{object}={}", String::from_utf8_lossy(&bytes)));
        }
        all.sort();
        all
    }

    async fn stored(files: &[(&str, &'static str)]) -> Arc<InMemory> {
        let store = Arc::new(InMemory::new());
        for (path, content) in files {
            store.put(&Path::from(*path), (*content).into()).await.unwrap();
        }
        store
    }

    #[tokio::test]
    async fn cleaning_up_can_be_repeated() {
        for times in [1, 3] {
            let archive = Action::Archive(Path::from("old/done"));
            for (action, expected) in [
                (Action::Keep, &["in/a=1", "in/c=3", "in/k=1/b=2"][..]),
                (Action::Delete, &["in/c=3"]),
                (archive, &["in/c=3", "old/done/a=1", "old/done/k=1/b=2"]),
            ] {
                let store = stored(&[("in/a", "1"), ("in/k=1/b", "2"), ("in/c", "3")]).await;
                let files = [entry(&store, "a").await, entry(&store, "k=1/b").await];
                let cleaner = cleaner(&store, action);
                for _ in 0..times {
                    cleaner.clean(&files).await;
                }
                assert_eq!(content(&store).await, expected);
            }
        }
    }

    #[tokio::test]
    async fn what_came_under_the_name_stays() {
        for action in [Action::Delete, Action::Archive(Path::from("old"))] {
            let store = stored(&[("in/a", "1")]).await;
            let read = entry(&store, "a").await;
            store.put(&Path::from("in/a"), "2".into()).await.unwrap();
            cleaner(&store, action).clean(&[read]).await;
            assert_eq!(content(&store).await, ["in/a=2"]);
        }
    }

    #[tokio::test]
    async fn the_archive_keeps_what_it_has() {
        let store = stored(&[("in/a.json.gz", "1"), ("old/a.json.gz", "0")]).await;
        let read = entry(&store, "a.json.gz").await;
        let second = format!("old/a-{}.json.gz", read.modified_ms);
        let cleaner = cleaner(&store, Action::Archive(Path::from("old")));
        cleaner.clean(std::slice::from_ref(&read)).await;
        let mut expected = vec![format!("{second}=1"), "old/a.json.gz=0".to_string()];
        expected.sort();
        assert_eq!(content(&store).await, expected);
    }

    /// Cut off after the copy, it finds its copy and only deletes; after a copy of something else it takes
    /// another name.
    #[tokio::test]
    async fn archiving_goes_on_where_it_was_cut_off() {
        for (there, expected) in [("1", &["old/a=1"][..]), ("x", &["old/a-M=1", "old/a=x"])] {
            let store = stored(&[("in/a", "1"), ("old/a", there)]).await;
            let read = entry(&store, "a").await;
            let time = read.modified_ms.to_string();
            for _ in 0..2 {
                cleaner(&store, Action::Archive(Path::from("old"))).clean(std::slice::from_ref(&read)).await;
                let found: Vec<String> =
                    content(&store).await.into_iter().map(|file| file.replace(&time, "M")).collect();
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn on_disk_only_the_file_that_was_read_is_moved() {
        let dir = tempfile::tempdir().unwrap();
        let [from, first, second] =
            ["a.json", "old/x/a.json", "old/x/a-1.json"].map(|name| dir.path().join(name));
        let targets = [first.clone(), second.clone()];
        let text = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
        for (content, at) in [("one", &first), ("two!", &second)] {
            std::fs::write(&from, content).unwrap();
            let read = version_on_disk(&from).unwrap();
            std::fs::write(&from, "another one").unwrap();
            assert!(matches!(clean_on_disk(&StdDisk, &read, &from, &targets).unwrap(), Cleaned::Replaced(_)));
            assert!(matches!(clean_on_disk(&StdDisk, &read, &from, &[]).unwrap(), Cleaned::Replaced(_)));
            assert_eq!(text(&from), "another one");
            std::fs::write(&from, content).unwrap();
            let read = version_on_disk(&from).unwrap();
            assert_eq!(clean_on_disk(&StdDisk, &read, &from, &targets).unwrap(), Cleaned::Done);
            assert_eq!(text(at), content);
        }
        // One of the same size and time that was moved there.
        std::fs::write(&from, "one").unwrap();
        let read = version_on_disk(&from).unwrap();
        let other = dir.path().join("other");
        std::fs::write(&other, "two").unwrap();
        let modified = std::fs::metadata(&from).unwrap().modified().unwrap();
        std::fs::File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
        std::fs::rename(&other, &from).unwrap();
        for targets in [&targets[..], &[]] {
            let cleaned = clean_on_disk(&StdDisk, &read, &from, targets).unwrap();
            assert!(cfg!(not(unix)) || matches!(cleaned, Cleaned::Replaced(_)), "{cleaned:?}");
            assert_eq!(text(&from), "two");
        }
        std::fs::write(&from, "three").unwrap();
        let read = version_on_disk(&from).unwrap();
        assert_eq!(clean_on_disk(&StdDisk, &read, &from, &targets).unwrap(), Cleaned::NoRoom);
        assert_eq!((text(&first), text(&second), text(&from)), ("one".into(), "two!".into(), "three".into()));
        assert_eq!(clean_on_disk(&StdDisk, &read, &from, &[]).unwrap(), Cleaned::Done);
        let gone = clean_on_disk(&StdDisk, &read, &from, &[]).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
