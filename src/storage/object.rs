//! A storage on an object store.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart,
};
use tokio::io::AsyncWriteExt;
use url::Url;

use super::{Created, Storage, StorageWriter, StoredFile, check_path, taken};
use crate::error::{Error, Result};

/// Objects up to this size are written with a single put, larger ones in parts of this size.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// How many objects are moved at the same time.
const CONCURRENT_MOVES: usize = 8;

/// More than this S3 does not copy.
const COPY_BYTES: u64 = 5 << 30;
/// So many parts are the most that an object is put in.
const MOST_PARTS: u64 = 9_000;
/// How many of them are on their way at the same time.
const CONCURRENT_PARTS: usize = 4;

/// A [`Storage`] below a prefix of an object store.
///
/// A put that succeeded is durable; creating asks the store for a conditional put, and a store
/// that has none is refused. A move is a copy and a delete, unless the store knows better.
#[derive(Debug, Clone)]
pub struct ObjectStorage {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    url: Url,
    /// Larger objects the store may refuse to copy.
    copy_bytes: u64,
}

impl ObjectStorage {
    /// The storage below the path of `url` in `store`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the path of `url` is not a path of an object store.
    pub fn new(store: Arc<dyn ObjectStore>, url: &Url) -> Result<Self> {
        let prefix = Path::from_url_path(url.path())
            .map_err(|error| Error::Invalid(format!("'{url}' is not the URL of a directory: {error}")))?;
        let mut url = url.clone();
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(Self { store, prefix, url, copy_bytes: COPY_BYTES })
    }

    /// The same on a store that copies less, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn copying_at_most(self, bytes: u64) -> Self {
        Self { copy_bytes: bytes, ..self }
    }

    fn path(&self, path: &str) -> Result<Path> {
        check_path(path)?;
        let whole = if self.prefix.is_root() { path.to_string() } else { format!("{}/{path}", self.prefix) };
        Path::parse(whole).map_err(|error| Error::Invalid(format!("'{path}' cannot name an object: {error}")))
    }

    fn failed(
        &self,
        operation: &'static str,
        path: &str,
    ) -> impl FnOnce(object_store::Error) -> Error + use<> {
        let path = format!("{}{path}", self.url);
        move |error| Error::storage(operation, path, error)
    }

    async fn move_one(&self, from: &str, to: &str) -> Result<()> {
        let (source, target) = (self.path(from)?, self.path(to)?);
        use object_store::Error::{AlreadyExists, NotFound, NotImplemented, NotSupported};
        let moved = match self.store.rename_if_not_exists(&source, &target).await {
            // Only the run that owns the checkpoint publishes, so that looking first is nearly as good.
            Err(NotImplemented { .. } | NotSupported { .. }) => match self.size(to).await? {
                None => self.store.rename(&source, &target).await,
                Some(_) => return self.settle(from, to).await,
            },
            moved => moved,
        };
        match moved {
            Err(AlreadyExists { .. }) => self.settle(from, to).await,
            Err(NotFound { .. }) if self.size(to).await?.is_some() => Ok(()),
            Err(error) => match self.size(from).await? {
                Some(size) if size > self.copy_bytes => match self.size(to).await? {
                    None => self.move_in_parts(from, size, to).await,
                    // The store may have looked at the size before.
                    Some(_) => self.settle(from, to).await,
                },
                _ => Err(self.failed("rename", from)(error)),
            },
            Ok(()) => Ok(()),
        }
    }

    /// Moves an object of `size` bytes that the store does not copy.
    async fn move_in_parts(&self, from: &str, size: u64, to: &str) -> Result<()> {
        let part = size.div_ceil(MOST_PARTS).max(PART_BYTES as u64);
        let upload = self.store.put_multipart(&self.path(to)?).await.map_err(self.failed("publish", to))?;
        let mut upload =
            WriteMultipart::new_with_chunk_size(upload, usize::try_from(part).unwrap_or(PART_BYTES));
        for start in (0..size).step_by(usize::try_from(part).unwrap_or(PART_BYTES)) {
            let read = self.read_range(from, start..size.min(start + part)).await;
            let read = read.and_then(|read| {
                read.ok_or_else(|| Error::storage("publish", format!("{}{from}", self.url), "it is gone"))
            });
            let ready = upload.wait_for_capacity(CONCURRENT_PARTS).await.map_err(self.failed("publish", to));
            match (read, ready) {
                (Ok(bytes), Ok(())) => upload.put(bytes),
                (Err(error), _) | (_, Err(error)) => {
                    if let Err(error) = upload.abort().await {
                        tracing::debug!(%error, "could not give up an upload to '{to}'");
                    }
                    return Err(error);
                }
            }
        }
        upload.finish().await.map_err(self.failed("publish", to))?;
        self.delete(from).await
    }

    /// Ends a move to a name that was there already: it was made before up to its last step, or the name
    /// is taken.
    async fn settle(&self, from: &str, to: &str) -> Result<()> {
        let Some(size) = self.size(from).await? else { return Ok(()) };
        let mut same = self.size(to).await? == Some(size);
        let mut start = 0;
        while same && start < size {
            let part = start..size.min(start + PART_BYTES as u64);
            same = self.read_range(from, part.clone()).await? == self.read_range(to, part.clone()).await?;
            start = part.end;
        }
        if same { self.delete(from).await } else { Err(taken(format!("{}{to}", self.url))) }
    }
}

/// `None` for what is not there.
fn found<T>(result: object_store::Result<T>) -> object_store::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Storage for ObjectStorage {
    fn url(&self) -> &Url {
        &self.url
    }

    async fn create(&self, path: &str, body: Bytes) -> Result<Created> {
        use object_store::Error::{AlreadyExists, NotImplemented, NotSupported};
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.path(path)?, PutPayload::from_bytes(body), options).await {
            Ok(_) => Ok(Created::New),
            Err(AlreadyExists { .. }) => Ok(Created::Exists),
            Err(NotImplemented { .. } | NotSupported { .. }) => {
                let advice = "this store cannot create an object only if it does not exist, so two writers \
                              could not be told apart; switch its conditional puts on or use another store";
                Err(Error::storage("create", format!("{}{path}", self.url), advice))
            }
            Err(error) => Err(self.failed("create", path)(error)),
        }
    }

    async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let object = found(self.store.get(&self.path(path)?).await).map_err(self.failed("read", path))?;
        match object {
            // The object may go between the answer and its body.
            Some(object) => found(object.bytes().await).map_err(self.failed("read", path)),
            None => Ok(None),
        }
    }

    async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        if range.is_empty() {
            return Ok(self.size(path).await?.map(|_| Bytes::new()));
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let object = found(self.store.get_opts(&self.path(path)?, options).await);
        match object.map_err(self.failed("read", path))? {
            // The object may go between the answer and its body.
            Some(object) => found(object.bytes().await).map_err(self.failed("read", path)),
            None => Ok(None),
        }
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        let object = found(self.store.head(&self.path(path)?).await).map_err(self.failed("stat", path))?;
        Ok(object.map(|object| object.size))
    }

    async fn list(&self, dir: &str) -> Result<Vec<StoredFile>> {
        let prefix = if dir.is_empty() { self.prefix.clone() } else { self.path(dir)? };
        let listed = self.store.list_with_delimiter(Some(&prefix)).await;
        let Some(listed) = found(listed).map_err(self.failed("list", dir))? else { return Ok(Vec::new()) };
        let mut files: Vec<StoredFile> = listed
            .objects
            .into_iter()
            .filter_map(|object| {
                let name = object.location.filename()?;
                // Some tools make an object of the directory itself.
                let is_below = object.location != prefix;
                let path = if dir.is_empty() { name.to_string() } else { format!("{dir}/{name}") };
                is_below.then_some(StoredFile { path, size: object.size })
            })
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    async fn delete(&self, path: &str) -> Result<()> {
        found(self.store.delete(&self.path(path)?).await).map_err(self.failed("delete", path))?;
        Ok(())
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn StorageWriter>> {
        let writer = BufWriter::with_capacity(Arc::clone(&self.store), self.path(path)?, PART_BYTES);
        let path = format!("{}{path}", self.url);
        Ok(Box::new(ObjectWriter { writer: Some(writer), path, written: 0 }))
    }

    async fn rename(&self, moves: &[(String, String)]) -> Result<()> {
        let mut pending = Vec::with_capacity(moves.len());
        for (from, to) in moves {
            pending.push(self.move_one(from, to));
        }
        stream::iter(pending).buffer_unordered(CONCURRENT_MOVES).try_collect::<()>().await
    }

    async fn remove_empty_dir(&self, _dir: &str) -> Result<()> {
        Ok(())
    }
}

struct ObjectWriter {
    /// `None` once a write failed: the upload cannot be continued then.
    writer: Option<BufWriter>,
    path: String,
    written: u64,
}

impl ObjectWriter {
    fn take(&mut self) -> Result<BufWriter> {
        self.writer.take().ok_or_else(|| {
            Error::storage("write", self.path.clone(), "an earlier write to this object failed")
        })
    }
}

#[async_trait]
impl StorageWriter for ObjectWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let mut writer = self.take()?;
        self.written += data.len() as u64;
        writer.put(data).await.map_err(|error| Error::storage("write", self.path.clone(), error))?;
        self.writer = Some(writer);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<u64> {
        let mut writer = self.take()?;
        writer.shutdown().await.map_err(|error| Error::storage("write", self.path.clone(), error))?;
        Ok(self.written)
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        match self.writer.take() {
            Some(mut writer) => {
                writer.abort().await.map_err(|error| Error::storage("abort", self.path.clone(), error))
            }
            None => Ok(()),
        }
    }
}
