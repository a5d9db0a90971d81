//! Storage that counts what is written through it: how many files, how large, and how long it takes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::execution::runtime_env::RuntimeEnv;
use tidemill::storage::{
    Created, DefaultStorageProvider, Durability, Storage, StorageProvider, StorageWriter, StoredFile,
};
use url::Url;

type Metered<T> = tidemill::Result<T>;

/// What happened to the files of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Files created or written.
    pub objects: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Time in the calls that make them, publication included.
    pub time: Duration,
}

/// Use of storage by kind: `offsets`, `commits`, `history`, … for the checkpoint, by the first part
/// of the path, and `output` for everything a file sink does.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<BTreeMap<String, Usage>>>);

impl Meter {
    /// Everything so far; later calls change nothing in it.
    pub fn snapshot(&self) -> BTreeMap<String, Usage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, path: &str, since: Instant, written: Option<u64>) {
        let kind = match path.split('/').next().unwrap_or_default() {
            kind @ ("offsets" | "commits" | "state" | "history" | "fence" | "metadata") => kind,
            _ => "output",
        };
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !kinds.contains_key(kind) {
            kinds.insert(kind.to_string(), Usage::default());
        }
        if let Some(usage) = kinds.get_mut(kind) {
            usage.time += since.elapsed();
            if let Some(bytes) = written {
                usage.objects += 1;
                usage.bytes += bytes;
            }
        }
    }
}

/// Opens the usual storages and counts what they do.
#[derive(Debug)]
pub struct MeteredProvider {
    storages: DefaultStorageProvider,
    meter: Meter,
}

impl MeteredProvider {
    /// Counts on `meter`.
    pub fn new(runtime: Arc<RuntimeEnv>, meter: Meter) -> Self {
        Self { storages: DefaultStorageProvider::new(runtime), meter }
    }
}

impl StorageProvider for MeteredProvider {
    fn open(&self, url: &Url, durability: Durability) -> Metered<Arc<dyn Storage>> {
        let storage = self.storages.open(url, durability)?;
        Ok(Arc::new(MeteredStorage { storage, meter: self.meter.clone() }))
    }
}

#[derive(Debug)]
struct MeteredStorage {
    storage: Arc<dyn Storage>,
    meter: Meter,
}

#[async_trait]
impl Storage for MeteredStorage {
    fn url(&self) -> &Url {
        self.storage.url()
    }

    async fn create(&self, path: &str, body: Bytes) -> Metered<Created> {
        let (started, bytes) = (Instant::now(), body.len() as u64);
        let created = self.storage.create(path, body).await;
        self.meter.add(path, started, Some(bytes));
        created
    }

    async fn create_while(
        &self,
        held: &str,
        path: &str,
        body: Bytes,
        afterwards: bool,
    ) -> Metered<Option<Created>> {
        let (started, bytes) = (Instant::now(), body.len() as u64);
        let created = self.storage.create_while(held, path, body, afterwards).await;
        self.meter.add(path, started, Some(bytes));
        created
    }

    async fn read(&self, path: &str) -> Metered<Option<Bytes>> {
        self.storage.read(path).await
    }

    async fn read_range(&self, path: &str, range: Range<u64>) -> Metered<Option<Bytes>> {
        self.storage.read_range(path, range).await
    }

    async fn size(&self, path: &str) -> Metered<Option<u64>> {
        self.storage.size(path).await
    }

    async fn list(&self, dir: &str) -> Metered<Vec<StoredFile>> {
        self.storage.list(dir).await
    }

    async fn delete(&self, path: &str) -> Metered<()> {
        self.storage.delete(path).await
    }

    async fn writer(&self, path: &str) -> Metered<Box<dyn StorageWriter>> {
        let started = Instant::now();
        let writer = self.storage.writer(path).await?;
        self.meter.add(path, started, None);
        Ok(Box::new(MeteredWriter { writer, path: path.to_string(), meter: self.meter.clone() }))
    }

    async fn rename(&self, moves: &[(String, String)]) -> Metered<()> {
        let started = Instant::now();
        let renamed = self.storage.rename(moves).await;
        self.meter.add(moves.first().map_or("", |(from, _)| from), started, None);
        renamed
    }

    async fn remove_empty_dir(&self, dir: &str) -> Metered<()> {
        self.storage.remove_empty_dir(dir).await
    }
}

struct MeteredWriter {
    writer: Box<dyn StorageWriter>,
    path: String,
    meter: Meter,
}

#[async_trait]
impl StorageWriter for MeteredWriter {
    async fn write(&mut self, data: Bytes) -> Metered<()> {
        let started = Instant::now();
        let written = self.writer.write(data).await;
        self.meter.add(&self.path, started, None);
        written
    }

    async fn finish(self: Box<Self>) -> Metered<u64> {
        let Self { writer, path, meter } = *self;
        let started = Instant::now();
        let bytes = writer.finish().await?;
        meter.add(&path, started, Some(bytes));
        Ok(bytes)
    }

    async fn abort(self: Box<Self>) -> Metered<()> {
        self.writer.abort().await
    }
}
