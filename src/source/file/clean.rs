//! Cleaning up behind a query (`cleanSource`).

use std::sync::Arc;

use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::FileTable;
use super::entry::FileEntry;
use super::location::FileLocation;

/// How many files are moved or deleted at a time.
const CONCURRENCY: usize = 10;

/// Moves or deletes files whose rows are durable in the sink. Failures are warnings, as in Spark: the
/// rows are safe either way.
#[derive(Debug)]
pub(super) struct Cleaner {
    action: Action,
    store: Arc<dyn ObjectStore>,
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
        Self { action: table.clean_up().clone(), store, location: Arc::clone(table.location()) }
    }

    /// Cleans up after `files`. Doing it again does no harm.
    pub(super) async fn clean(&self, files: &[FileEntry<'_>]) {
        if let Action::Keep = self.action {
            return;
        }
        futures::stream::iter(files.iter().map(|file| self.clean_one(&file.path)))
            .for_each_concurrent(CONCURRENCY, |cleaned| cleaned)
            .await;
    }

    async fn clean_one(&self, path: &str) {
        let Ok(from) = self.location.object_path(path) else { return };
        let result = match &self.action {
            Action::Keep => Ok(()),
            Action::Delete => self.store.delete(&from).await,
            Action::Archive(directory) => match Path::parse(format!("{directory}/{path}")) {
                Ok(to) => self.archive(&from, &to).await,
                Err(error) => Err(error.into()),
            },
        };
        match result {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => {
                let file = self.location.display(&from);
                tracing::warn!(file, %error, "could not clean up an input file that was read");
            }
        }
    }

    async fn archive(&self, from: &Path, to: &Path) -> object_store::Result<()> {
        match self.store.rename(from, to).await {
            // Stores without renaming copy and delete; they may have been interrupted in between.
            Err(object_store::Error::NotFound { path, source }) => match self.store.head(to).await {
                Ok(_) => Ok(()),
                Err(_) => {
                    tracing::warn!(file = %path, "could not archive an input file: it has gone");
                    Err(object_store::Error::NotFound { path, source })
                }
            },
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    async fn cleaned(action: Action, times: usize) -> Vec<String> {
        let store = Arc::new(InMemory::new());
        for path in ["in/a", "in/k=1/b", "in/c"] {
            store.put(&Path::from(path), "x".into()).await.unwrap();
        }
        let location = Arc::new(FileLocation::parse("memory:///in/").unwrap());
        let cleaner = Cleaner { action, store: Arc::clone(&store) as _, location };
        let entry = |path: &'static str| FileEntry {
            path: path.into(),
            size: 1,
            modified_ms: 0,
            etag: None,
            from_log: false,
        };
        for _ in 0..times {
            cleaner.clean(&[entry("a"), entry("k=1/b"), entry("gone")]).await;
        }
        let mut left: Vec<String> =
            store.list(None).map(|object| object.unwrap().location.to_string()).collect().await;
        left.sort();
        left
    }

    #[tokio::test]
    async fn cleaning_up_can_be_repeated() {
        for times in [1, 3] {
            assert_eq!(cleaned(Action::Keep, times).await, ["in/a", "in/c", "in/k=1/b"]);
            assert_eq!(cleaned(Action::Delete, times).await, ["in/c"]);
            let archive = Action::Archive(Path::from("old/done"));
            assert_eq!(cleaned(archive, times).await, ["in/c", "old/done/a", "old/done/k=1/b"]);
        }
    }
}
