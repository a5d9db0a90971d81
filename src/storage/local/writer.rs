//! Streaming files on a local disk.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Inner, failed, off_thread, parent};
use crate::error::{Error, Result};
use crate::storage::StorageWriter;
use crate::storage::disk::DiskFile;

/// Small writes are gathered up to this size, so that each hop to a blocking thread is worth it.
const BUFFER_BYTES: usize = 1024 * 1024;

pub(super) struct LocalWriter {
    inner: Arc<Inner>,
    path: PathBuf,
    /// `None` once a write failed: what the file holds is unknown then.
    file: Option<Box<dyn DiskFile>>,
    buffer: Vec<u8>,
    written: u64,
}

impl LocalWriter {
    pub(super) fn new(inner: Arc<Inner>, path: PathBuf, file: Box<dyn DiskFile>) -> Self {
        Self { inner, path, file: Some(file), buffer: Vec::new(), written: 0 }
    }

    fn take_file(&mut self) -> Result<Box<dyn DiskFile>> {
        self.file.take().ok_or_else(|| {
            Error::storage("write", self.path.display().to_string(), "an earlier write to this file failed")
        })
    }
}

#[async_trait]
impl StorageWriter for LocalWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let mut file = self.take_file()?;
        self.written += data.len() as u64;
        if self.buffer.len() + data.len() < BUFFER_BYTES {
            self.buffer.extend_from_slice(&data);
            self.file = Some(file);
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let (file, buffer) = off_thread("write", self.path.clone(), move |path| {
            for part in [buffer.as_slice(), &data].into_iter().filter(|part| !part.is_empty()) {
                file.write(part).map_err(failed("write", path))?;
            }
            buffer.clear();
            Ok((file, buffer))
        })
        .await?;
        self.file = Some(file);
        self.buffer = buffer;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<u64> {
        let mut file = self.take_file()?;
        let Self { inner, path, buffer, written, .. } = *self;
        off_thread("finish", path, move |path| {
            inner.usable()?;
            if !buffer.is_empty() {
                file.write(&buffer).map_err(failed("write", path))?;
            }
            if inner.sync {
                file.sync().map_err(failed("sync", path))?;
            }
            drop(file);
            inner.sync_dir(parent(path)?)?;
            Ok(written)
        })
        .await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let Self { inner, path, file, .. } = *self;
        off_thread("abort", path, move |path| {
            drop(file);
            super::found(inner.disk.unlink(path)).map_err(failed("delete", path))?;
            Ok(())
        })
        .await
    }
}
