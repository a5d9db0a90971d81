//! A storage on the local disk that can crash at any step, before or after the step takes effect.

use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tidemill::storage::{Created, Storage, StorageWriter, StoredFile};
use tidemill::{Error, Result};
use url::Url;

/// When the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    Never,
    /// Step `n`, counted from 0, does nothing, and neither does anything after it.
    Before(u64),
    /// Step `n` takes effect but does not return, and nothing works after it.
    After(u64),
}

#[derive(Debug)]
struct Counters {
    crash: Crash,
    steps: AtomicU64,
    open: AtomicUsize,
    most_open: AtomicUsize,
    /// Writing beyond this many bytes fails as on a full disk.
    room: AtomicU64,
}

impl Counters {
    fn step<T>(&self, path: &str, effect: impl FnOnce() -> io::Result<T>) -> Result<T> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        let dead = || Error::storage("reach", path, "the process is dead");
        match self.crash {
            Crash::Before(at) if step >= at => return Err(dead()),
            Crash::After(at) if step > at => return Err(dead()),
            _ => {}
        }
        let done = effect().map_err(|error| Error::storage("reach", path, error))?;
        if self.crash == Crash::After(step) { Err(dead()) } else { Ok(done) }
    }
}

#[derive(Debug)]
pub struct TestStorage {
    root: PathBuf,
    url: Url,
    counters: Arc<Counters>,
}

impl TestStorage {
    pub fn new(root: &Path) -> Self {
        Self::with(root, Crash::Never, u64::MAX)
    }

    pub fn crashing(root: &Path, crash: Crash) -> Self {
        Self::with(root, crash, u64::MAX)
    }

    /// A disk with room for so many bytes.
    pub fn with_room(root: &Path, room: u64) -> Self {
        Self::with(root, Crash::Never, room)
    }

    fn with(root: &Path, crash: Crash, room: u64) -> Self {
        let counters = Counters {
            crash,
            steps: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            room: AtomicU64::new(room),
        };
        let url = Url::from_directory_path(root).unwrap();
        Self { root: root.to_path_buf(), url, counters: Arc::new(counters) }
    }

    /// How many steps were taken, tried ones included.
    pub fn steps(&self) -> u64 {
        self.counters.steps.load(Ordering::SeqCst)
    }

    /// The most files that were open for writing at once.
    pub fn most_open(&self) -> usize {
        self.counters.most_open.load(Ordering::SeqCst)
    }

    fn file(&self, path: &str) -> PathBuf {
        assert!(
            !path.split('/').any(|part| matches!(part, "" | "." | "..")),
            "not a path below a root: {path}"
        );
        self.root.join(path)
    }
}

fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Storage for TestStorage {
    fn url(&self) -> &Url {
        &self.url
    }

    async fn create(&self, _path: &str, _body: Bytes) -> Result<Created> {
        panic!("sinks do not write records");
    }

    async fn read(&self, _path: &str) -> Result<Option<Bytes>> {
        panic!("sinks do not read");
    }

    async fn read_range(&self, _path: &str, _range: Range<u64>) -> Result<Option<Bytes>> {
        panic!("sinks do not read");
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        let file = self.file(path);
        self.counters.step(path, || Ok(optional(fs::metadata(file))?.map(|metadata| metadata.len())))
    }

    async fn list(&self, dir: &str) -> Result<Vec<StoredFile>> {
        let directory = self.file(dir);
        self.counters.step(dir, || {
            let mut found = Vec::new();
            for entry in optional(fs::read_dir(directory))?.into_iter().flatten() {
                let entry = entry?;
                let path = format!("{dir}/{}", entry.file_name().to_string_lossy());
                found.push(StoredFile { path, size: entry.metadata()?.len() });
            }
            found.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(found)
        })
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let file = self.file(path);
        self.counters.step(path, || optional(fs::remove_file(file)).map(|_| ()))
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn StorageWriter>> {
        let name = self.file(path);
        let file = self.counters.step(path, || {
            fs::create_dir_all(name.parent().unwrap())?;
            fs::File::create(&name)
        })?;
        let open = self.counters.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.counters.most_open.fetch_max(open, Ordering::SeqCst);
        Ok(Box::new(TestWriter {
            path: path.to_string(),
            name,
            file,
            length: 0,
            counters: self.counters.clone(),
        }))
    }

    /// Each move is a step of its own.
    async fn rename(&self, moves: &[(String, String)]) -> Result<()> {
        for (from, to) in moves {
            let (source, target) = (self.file(from), self.file(to));
            self.counters.step(from, || {
                if !source.exists() && target.exists() {
                    return Ok(());
                }
                fs::create_dir_all(target.parent().unwrap())?;
                fs::rename(source, target)
            })?;
        }
        Ok(())
    }

    async fn remove_empty_dir(&self, dir: &str) -> Result<()> {
        let directory = self.file(dir);
        self.counters.step(dir, || {
            let _ = fs::remove_dir(directory);
            Ok(())
        })
    }
}

struct TestWriter {
    path: String,
    name: PathBuf,
    file: fs::File,
    length: u64,
    counters: Arc<Counters>,
}

impl Drop for TestWriter {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl StorageWriter for TestWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let length = data.len() as u64;
        let room = self.counters.room.load(Ordering::SeqCst);
        let file = &mut self.file;
        self.counters.step(&self.path, || {
            if length > room {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            file.write_all(&data)
        })?;
        self.counters.room.store(room - length, Ordering::SeqCst);
        self.length += length;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<u64> {
        self.counters.step(&self.path, || self.file.sync_all())?;
        Ok(self.length)
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.counters.step(&self.path, || fs::remove_file(&self.name))
    }
}
