//! One partition's writer: rows in, staged files out.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::future::try_join_all;
use serde_json::Value;

use super::encode::{Encoder, FileEncoding};
use super::layout::Layout;
use super::manifest::{Manifest, ManifestFile};
use super::names::FileName;
use super::options::Limits;
use super::partition::{Drain, Splitter};
use crate::error::{Error, Result};
use crate::sink::{SinkBatch, SinkWriter};
use crate::storage::{Storage, StorageWriter};

/// The most files that one writer keeps open.
const OPEN_FILES: usize = 64;

/// The most files whose last bytes are made durable at once.
const SEALED_FILES: usize = 16;

/// What the encoders of one writer may hold. Beyond it the largest ends its row group.
const MEMORY_BYTES: usize = 64 << 20;

/// Below this, ending row groups would cost more than the memory is worth, whatever the pool says.
const SMALL_BYTES: usize = 4 << 20;

/// The most rows that are encoded between two looks at limits and memory; DataFusion's batches
/// are no longer than this unless configured otherwise.
const SLICE_ROWS: usize = 8192;

/// What all writers of a sink share.
#[derive(Debug)]
pub(super) struct Shared {
    pub storage: Arc<dyn Storage>,
    pub layout: Layout,
    pub encoding: FileEncoding,
    pub limits: Limits,
    pub runtime: Arc<RuntimeEnv>,
}

impl Shared {
    /// What it means that a call of the storage ended so.
    pub async fn explained<T>(&self, result: Result<T>) -> Result<T> {
        let Err(error) = result else { return result };
        if !self.storage.is_gone().await {
            return Err(error);
        }
        Err(Error::OutputRemoved { output: self.storage.url().to_string() })
    }
}

/// A file that rows are being added to.
struct OpenFile {
    directory: String,
    name: FileName,
    rows: u64,
    /// As of the last write.
    memory: usize,
    /// When it was last written to, for closing the one that has waited longest.
    used: u64,
    encoder: Box<dyn Encoder>,
    storage: Box<dyn StorageWriter>,
}

impl OpenFile {
    async fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.encoder.write(rows)?;
        self.rows += rows.num_rows() as u64;
        self.pass_on().await
    }

    async fn flush(&mut self) -> Result<()> {
        self.encoder.flush()?;
        self.pass_on().await
    }

    async fn pass_on(&mut self) -> Result<()> {
        for chunk in self.encoder.take() {
            self.storage.write(chunk).await?;
        }
        self.memory = self.encoder.memory();
        Ok(())
    }

    fn is_full(&self, limits: &Limits) -> bool {
        limits.rows.is_some_and(|rows| self.rows >= rows)
            || limits.bytes.is_some_and(|bytes| self.encoder.size() >= bytes)
    }
}

/// A file whose bytes are all written, but not yet durable.
struct SealedFile {
    sequence: u64,
    from: String,
    to: String,
    rows: u64,
    storage: Box<dyn StorageWriter>,
}

impl SealedFile {
    async fn finish(self) -> Result<(u64, ManifestFile)> {
        let bytes = self.storage.finish().await?;
        Ok((self.sequence, ManifestFile { from: self.from, to: self.to, rows: self.rows, bytes }))
    }
}

/// Writes the rows of one partition of one batch into as few files as the limits allow. No file
/// is opened before there is a row for it, so that none is ever empty.
pub(super) struct FileWriter {
    shared: Arc<Shared>,
    batch: SinkBatch,
    partition: usize,
    extension: String,
    splitter: Option<Splitter>,
    open: HashMap<String, OpenFile>,
    sealed: Vec<SealedFile>,
    files: Vec<(u64, ManifestFile)>,
    next_sequence: u64,
    clock: u64,
    reservation: MemoryReservation,
}

impl FileWriter {
    pub fn new(shared: Arc<Shared>, batch: SinkBatch, partition: usize) -> Self {
        let splitter =
            shared.layout.is_partitioned().then(|| Splitter::new(shared.layout.key_schema.clone()));
        let extension = shared.encoding.extension();
        let reservation =
            MemoryConsumer::new(format!("FileSink[{partition}]")).register(&shared.runtime.memory_pool);
        Self {
            shared,
            batch,
            partition,
            extension,
            splitter,
            open: HashMap::new(),
            sealed: Vec::new(),
            files: Vec::new(),
            next_sequence: 0,
            clock: 0,
            reservation,
        }
    }

    /// Adds `rows` to the files of their directories.
    async fn add(&mut self, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let (keys, rows) = self.shared.layout.divide(&rows)?;
        let Some(splitter) = &mut self.splitter else {
            return self.append(String::new(), rows).await;
        };
        if let Some((directory, rows)) = splitter.push(&keys, rows)? {
            return self.append(directory, rows).await;
        }
        if splitter.is_full(OPEN_FILES) {
            let waiting = splitter.drain();
            return self.append_all(waiting).await;
        }
        Ok(())
    }

    /// Writes what still waits, and makes all files durable.
    async fn finish(&mut self) -> Result<()> {
        if let Some(splitter) = &mut self.splitter {
            let waiting = splitter.drain();
            self.append_all(waiting).await?;
        }
        let mut open: Vec<OpenFile> = self.open.drain().map(|(_, file)| file).collect();
        open.sort_by_key(|file| file.name.sequence);
        for file in open {
            self.seal(file).await?;
        }
        self.finish_sealed().await
    }

    /// Adds `rows` to the open file of `directory`, and to further ones when it is full.
    async fn append(&mut self, directory: String, rows: RecordBatch) -> Result<()> {
        let limits = self.shared.limits;
        let mut current = self.open.remove(&directory);
        let mut offset = 0;
        while offset < rows.num_rows() {
            let mut file = match current.take() {
                Some(file) => file,
                None => self.create(&directory).await?,
            };
            let mut length = SLICE_ROWS.min(rows.num_rows() - offset);
            if let Some(most) = limits.rows {
                length = length.min(usize::try_from(most - file.rows).unwrap_or(usize::MAX));
            }
            file.write(&rows.slice(offset, length)).await?;
            offset += length;
            if file.is_full(&limits) {
                self.seal(file).await?;
            } else {
                current = Some(file);
            }
        }
        if let Some(mut file) = current {
            self.clock += 1;
            file.used = self.clock;
            self.open.insert(directory, file);
        }
        self.bound_memory().await
    }

    async fn append_all(&mut self, mut waiting: Drain) -> Result<()> {
        while let Some((directory, rows)) = waiting.next()? {
            self.append(directory, rows).await?;
        }
        Ok(())
    }

    async fn create(&mut self, directory: &str) -> Result<OpenFile> {
        if self.open.len() >= OPEN_FILES {
            let oldest = self.open.values().min_by_key(|file| file.used).map(|file| file.directory.clone());
            if let Some(file) = oldest.and_then(|directory| self.open.remove(&directory)) {
                self.seal(file).await?;
            }
        }
        let name = FileName { batch: self.batch, partition: self.partition, sequence: self.next_sequence };
        self.next_sequence += 1;
        let encoder = self.shared.encoding.encoder()?;
        let storage = self.shared.storage.writer(&name.staged()).await?;
        Ok(OpenFile { directory: directory.to_string(), name, rows: 0, memory: 0, used: 0, encoder, storage })
    }

    /// Writes the last bytes of `file`. Making them durable is put off, so that several files
    /// wait for the disk together.
    async fn seal(&mut self, file: OpenFile) -> Result<()> {
        let OpenFile { directory, name, rows, encoder, mut storage, .. } = file;
        for chunk in encoder.finish()? {
            storage.write(chunk).await?;
        }
        let mut to = name.published(&self.extension);
        if !directory.is_empty() {
            to = format!("{directory}/{to}");
        }
        self.sealed.push(SealedFile { sequence: name.sequence, from: name.staged(), to, rows, storage });
        if self.sealed.len() >= SEALED_FILES {
            self.finish_sealed().await?;
        }
        Ok(())
    }

    async fn finish_sealed(&mut self) -> Result<()> {
        let sealed = mem::take(&mut self.sealed);
        self.files.extend(try_join_all(sealed.into_iter().map(SealedFile::finish)).await?);
        Ok(())
    }

    /// Keeps the encoders within their bound, and within what the session's memory pool grants:
    /// the largest file ends its row group, or is closed if that frees nothing.
    async fn bound_memory(&mut self) -> Result<()> {
        loop {
            let waiting = self.splitter.as_ref().map_or(0, Splitter::memory);
            let encoding: usize = self.open.values().map(|file| file.memory).sum();
            let granted = self.reservation.try_resize(waiting + encoding).is_ok();
            if encoding <= MEMORY_BYTES && (granted || encoding <= SMALL_BYTES) {
                self.reservation.resize(waiting + encoding);
                return Ok(());
            }
            let largest = self.open.values().max_by_key(|file| file.memory);
            let Some(mut file) =
                largest.map(|file| file.directory.clone()).and_then(|directory| self.open.remove(&directory))
            else {
                return Ok(());
            };
            let before = file.memory;
            file.flush().await?;
            if file.memory <= before / 2 {
                self.open.insert(file.directory.clone(), file);
            } else if self.open.is_empty() {
                // One file is the least there can be, however much its codec needs.
                self.reservation.resize(waiting + file.memory);
                self.open.insert(file.directory.clone(), file);
                return Ok(());
            } else {
                self.seal(file).await?;
            }
        }
    }
}

#[async_trait]
impl SinkWriter for FileWriter {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        let added = self.add(rows).await;
        self.shared.explained(added).await
    }

    async fn close(mut self: Box<Self>) -> Result<Value> {
        let finished = self.finish().await;
        self.shared.explained(finished).await?;
        let mut files = mem::take(&mut self.files);
        files.sort_by_key(|(sequence, _)| *sequence);
        Manifest::new(files.into_iter().map(|(_, file)| file).collect()).write()
    }
}
