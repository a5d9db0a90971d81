//! An object store that shows what was written to it only when it is asked to.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// What has been written and not been shown.
type Held = Arc<Mutex<Vec<Upload>>>;

#[derive(Debug)]
enum Upload {
    /// A small file, in memory.
    Whole(Path, PutPayload, PutOptions),
    /// The parts of a large one, in the store.
    Parts(Box<dyn MultipartUpload>),
}

/// A store whose new objects appear all at once, as far as that is possible.
#[derive(Debug)]
pub(super) struct StagedStore {
    inner: Arc<dyn ObjectStore>,
    held: Held,
}

impl StagedStore {
    pub(super) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, held: Held::default() }
    }

    /// Shows what was written.
    pub(super) async fn publish(&self) -> Result<()> {
        let mut uploads = self.take().into_iter();
        while let Some(upload) = uploads.next() {
            let published = match upload {
                Upload::Whole(path, payload, options) => match check(self.inner.as_ref(), &path).await {
                    Ok(()) => self.inner.put_opts(&path, payload, options).await.map(drop),
                    Err(error) => Err(error),
                },
                Upload::Parts(mut parts) => parts.complete().await.map(drop),
            };
            if published.is_err() {
                abort(uploads).await;
                return published;
            }
        }
        Ok(())
    }

    /// Removes what was written.
    pub(super) async fn abandon(&self) {
        abort(self.take().into_iter()).await;
    }

    fn take(&self) -> Vec<Upload> {
        std::mem::take(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Aborts what can be aborted: another error is on its way already.
async fn abort(uploads: impl Iterator<Item = Upload>) {
    for upload in uploads {
        if let Upload::Parts(mut parts) = upload
            && let Err(error) = parts.abort().await
        {
            tracing::warn!(%error, "a file that was begun could not be removed");
        }
    }
}

/// Fails if the directory of `location` takes no files though it is there. `object_store` takes such an error for a
/// directory that is missing, makes it, and tries again for ever (`LocalFileSystem`, `/proc`).
async fn check(store: &dyn ObjectStore, location: &Path) -> Result<()> {
    if !store.to_string().starts_with("LocalFileSystem") {
        return Ok(());
    }
    let path = std::path::Path::new("/").join(location.as_ref());
    let made = tokio::task::spawn_blocking(move || {
        let Some(directory) = path.parent().filter(|directory| directory.is_dir()) else { return Ok(()) };
        match tempfile::Builder::new().prefix(".").suffix(".tmp").tempfile_in(directory) {
            // Whatever else is wrong is told where the file is written.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(std::io::Error::other(
                format!("no file can be made in '{}': {error}", directory.display()),
            )),
            _ => Ok(()),
        }
    });
    made.await?.map_err(|error| object_store::Error::Generic { store: "disk", source: Box::new(error) })
}

impl fmt::Display for StagedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for StagedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let upload = Upload::Whole(location.clone(), payload, options);
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(upload);
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        check(self.inner.as_ref(), location).await?;
        let parts = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(StagedUpload { parts: Some(parts), held: Arc::clone(&self.held) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// An upload that is held when it is complete.
#[derive(Debug)]
struct StagedUpload {
    /// Nothing once it is complete.
    parts: Option<Box<dyn MultipartUpload>>,
    held: Held,
}

fn completed() -> object_store::Error {
    object_store::Error::Generic { store: "staged", source: "the upload is complete".into() }
}

#[async_trait]
impl MultipartUpload for StagedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match &mut self.parts {
            Some(parts) => parts.put_part(data),
            None => Box::pin(async { Err(completed()) }),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let parts = self.parts.take().ok_or_else(completed)?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(Upload::Parts(parts));
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        match self.parts.take() {
            Some(mut parts) => parts.abort().await,
            None => Ok(()),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use object_store::local::LocalFileSystem;

    use super::*;

    #[tokio::test]
    async fn directories_that_take_no_files_are_told() {
        let store = LocalFileSystem::new();
        let error = check(&store, &Path::from("proc/x.csv")).await.unwrap_err().to_string();
        assert!(error.contains("no file can be made in '/proc'"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let inside = Path::from_filesystem_path(dir.path()).unwrap();
        check(&store, &inside.clone().join("x")).await.unwrap();
        check(&store, &inside.join("new").join("x")).await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
