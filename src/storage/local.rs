//! A storage on a local disk that keeps its promises through a power cut.
//!
//! The order that POSIX asks for: write a temporary file, fsync it, give it its name, fsync the
//! directory. A new directory's name is made durable before anything is put into it, so that
//! whatever exists inside a directory vouches for the directory itself.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use url::Url;
use uuid::Uuid;

use super::disk::{Disk, StdDisk};
use super::{Created, Durability, Replacing, Storage, StorageWriter, StoredFile, check_path, taken};
use crate::error::{Error, Result};

mod replacing;
mod writer;

/// Temporary files of a `create` that is older than this belong to a process that is gone.
const STALE_AFTER: Duration = Duration::from_secs(60 * 60);

/// How often an operation is tried whose directory somebody else removes at the same time.
const DIRECTORY_ATTEMPTS: usize = 3;

/// A [`Storage`] below a directory of the local file system.
///
/// [`Storage::create`] needs hard links or, where there are none (FAT, some network and FUSE file
/// systems), renames that refuse to replace; a disk with neither is refused rather than trusted.
/// After a failed fsync of a directory the storage refuses to write on, because nobody can know
/// any more what the disk holds; the next start reads what is really there. File systems that do
/// not know fsync on directories are taken to write them through.
#[derive(Debug, Clone)]
pub struct LocalStorage {
    url: Url,
    inner: Arc<Inner>,
    /// Whether it is on the machine's own file system, whose directories can change places.
    is_real: bool,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    sync: bool,
    /// Directories that exist and whose names are durable.
    ready: Mutex<HashSet<PathBuf>>,
    /// Directories in which stale temporary files were looked for.
    swept: Mutex<HashSet<PathBuf>>,
    /// What a failed directory fsync said.
    broken: Mutex<Option<String>>,
    /// Whether the root was there when something was put below it. Once it was, it is not made anew: what is missing
    /// from it then, nobody would miss.
    begun: AtomicBool,
}

impl LocalStorage {
    /// The storage rooted at the directory that the `file:` URL names. It need not exist yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `url` is not the URL of a local directory.
    pub fn new(url: &Url, durability: Durability) -> Result<Self> {
        let storage = Self::on_disk(Arc::new(StdDisk), url, durability)?;
        Ok(Self { is_real: replacing::IS_POSSIBLE, ..storage })
    }

    /// The same on another disk, for tests.
    #[doc(hidden)]
    pub fn on_disk(disk: Arc<dyn Disk>, url: &Url, durability: Durability) -> Result<Self> {
        let not_local = || Error::Invalid(format!("'{url}' is not the URL of a local directory"));
        if url.scheme() != "file" {
            return Err(not_local());
        }
        let root = url.to_file_path().map_err(|()| not_local())?;
        let url = Url::from_directory_path(&root).map_err(|()| not_local())?;
        let inner = Inner {
            disk,
            root,
            sync: durability == Durability::Disk,
            ready: Mutex::default(),
            swept: Mutex::default(),
            broken: Mutex::default(),
            begun: AtomicBool::new(false),
        };
        Ok(Self { url, inner: Arc::new(inner), is_real: false })
    }

    fn path(&self, path: &str) -> Result<PathBuf> {
        check_path(path)?;
        Ok(self.inner.root.join(path))
    }

    fn dir(&self, dir: &str) -> Result<PathBuf> {
        if dir.is_empty() { Ok(self.inner.root.clone()) } else { self.path(dir) }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        path: PathBuf,
        work: impl FnOnce(&Inner, &Path) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        off_thread(operation, path, move |path| work(&inner, path)).await
    }
}

/// Runs `work` where blocking is allowed.
async fn off_thread<T: Send + 'static>(
    operation: &'static str,
    path: PathBuf,
    work: impl FnOnce(&Path) -> Result<T> + Send + 'static,
) -> Result<T> {
    let shown = path.display().to_string();
    match tokio::task::spawn_blocking(move || work(&path)).await {
        Ok(result) => result,
        Err(error) => Err(Error::storage(operation, shown, error)),
    }
}

#[async_trait]
impl Storage for LocalStorage {
    fn url(&self) -> &Url {
        &self.url
    }

    async fn is_gone(&self) -> bool {
        let root = self.inner.root.clone();
        self.blocking("stat", root, |inner, _| Ok(inner.is_gone())).await.unwrap_or(false)
    }

    async fn create(&self, path: &str, body: Bytes) -> Result<Created> {
        let path = self.path(path)?;
        self.blocking("create", path, move |inner, path| inner.create(path, &body)).await
    }

    async fn create_while(
        &self,
        held: &str,
        path: &str,
        body: Bytes,
        afterwards: bool,
    ) -> Result<Option<Created>> {
        let (held, path) = (self.path(held)?, self.path(path)?);
        // In one go: going to another thread and back takes as long as what is to be done there.
        self.blocking("create", path, move |inner, path| {
            if inner.size(&held)?.is_none() {
                return Ok(None);
            }
            let created = inner.create(path, &body)?;
            let is_held = !afterwards || inner.size(&held)?.is_some();
            Ok(is_held.then_some(created))
        })
        .await
    }

    async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let path = self.path(path)?;
        self.blocking("read", path, |inner, path| {
            Ok(found(inner.disk.read(path)).map_err(failed("read", path))?.map(Bytes::from))
        })
        .await
    }

    async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        let path = self.path(path)?;
        self.blocking("read", path, |inner, path| {
            Ok(found(inner.disk.read_range(path, range)).map_err(failed("read", path))?.map(Bytes::from))
        })
        .await
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        let path = self.path(path)?;
        self.blocking("stat", path, |inner, path| inner.size(path)).await
    }

    async fn list(&self, dir: &str) -> Result<Vec<StoredFile>> {
        let path = self.dir(dir)?;
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        self.blocking("list", path, move |inner, path| inner.list(path, &prefix)).await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let path = self.path(path)?;
        self.blocking("delete", path, |inner, path| {
            found(inner.disk.unlink(path)).map_err(failed("delete", path))?;
            Ok(())
        })
        .await
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn StorageWriter>> {
        let path = self.path(path)?;
        let file = self
            .blocking("open", path.clone(), |inner, path| {
                inner.usable()?;
                inner.in_dir(parent(path)?, || inner.disk.create(path))?.map_err(failed("open", path))
            })
            .await?;
        Ok(Box::new(writer::LocalWriter::new(Arc::clone(&self.inner), path, file)))
    }

    async fn rename(&self, moves: &[(String, String)]) -> Result<()> {
        let moves = moves
            .iter()
            .map(|(from, to)| Ok((self.path(from)?, self.path(to)?)))
            .collect::<Result<Vec<_>>>()?;
        self.blocking("rename below", self.inner.root.clone(), move |inner, _| inner.rename(&moves)).await
    }

    async fn remove_empty_dir(&self, dir: &str) -> Result<()> {
        let path = self.dir(dir)?;
        self.blocking("remove directory", path, |inner, path| {
            lock(&inner.ready).remove(path);
            match inner.disk.rmdir(path) {
                Err(error) if !is_kept(&error) => Err(failed("remove directory", path)(error)),
                _ => Ok(()),
            }
        })
        .await
    }

    fn replacing(&self) -> Option<&dyn Replacing> {
        self.is_real.then_some(self)
    }
}

impl Inner {
    fn size(&self, path: &Path) -> Result<Option<u64>> {
        let entry = found(self.disk.entry(path)).map_err(failed("stat", path))?;
        Ok(entry.filter(|entry| entry.is_file).map(|entry| entry.len))
    }

    fn create(&self, path: &Path, body: &[u8]) -> Result<Created> {
        self.usable()?;
        let dir = parent(path)?;
        let temp = dir.join(temp_name(path));
        let named = self.write_temp(&temp, dir, body).and_then(|()| {
            self.sweep(dir, &temp);
            self.give_name(&temp, path)
        });
        // Gone already if it was renamed; if it cannot be removed it is swept later.
        let _ = self.disk.unlink(&temp);
        let created = named?;
        // Also if somebody else created it: that name may not be durable yet.
        self.sync_dir(dir)?;
        Ok(created)
    }

    fn write_temp(&self, temp: &Path, dir: &Path, body: &[u8]) -> Result<()> {
        let mut file = self.in_dir(dir, || self.disk.create_new(temp))?.map_err(failed("create", temp))?;
        file.write(body).map_err(failed("write", temp))?;
        if self.sync {
            file.sync().map_err(failed("sync", temp))?;
        }
        Ok(())
    }

    /// Makes the finished file `temp` appear as `path`, unless there is a file of that name.
    fn give_name(&self, temp: &Path, path: &Path) -> Result<Created> {
        use io::ErrorKind::{AlreadyExists, InvalidInput, PermissionDenied, Unsupported};
        match self.disk.link(temp, path) {
            Ok(()) => return Ok(Created::New),
            Err(error) if error.kind() == AlreadyExists => return Ok(Created::Exists),
            // What Linux says on file systems without hard links is EPERM.
            Err(error) if matches!(error.kind(), PermissionDenied | Unsupported) => {}
            Err(error) => return Err(failed("link", path)(error)),
        }
        match self.disk.rename_new(temp, path) {
            Ok(()) => Ok(Created::New),
            Err(error) if error.kind() == AlreadyExists => Ok(Created::Exists),
            Err(error) if matches!(error.kind(), InvalidInput | Unsupported) => {
                let advice = "this file system has neither hard links nor renames that refuse to replace, \
                              so two writers could not be told apart; use a directory on another disk";
                Err(Error::storage("create", path.display().to_string(), advice))
            }
            Err(error) => Err(failed("rename", path)(error)),
        }
    }

    fn list(&self, dir: &Path, prefix: &str) -> Result<Vec<StoredFile>> {
        let Some(entries) = found(self.disk.list(dir)).map_err(failed("list", dir))? else {
            return Ok(Vec::new());
        };
        let mut files: Vec<StoredFile> = entries
            .into_iter()
            .filter(|entry| entry.is_file && !is_temp(&entry.name))
            .map(|entry| StoredFile { path: format!("{prefix}{}", entry.name), size: entry.len })
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        // After reading the names, so that none of them is younger than the fsync.
        self.sync_dir_if_there(dir)?;
        Ok(files)
    }

    fn rename(&self, moves: &[(PathBuf, PathBuf)]) -> Result<()> {
        self.usable()?;
        let mut sources = BTreeSet::new();
        let mut targets = BTreeSet::new();
        for (from, to) in moves {
            sources.insert(parent(from)?);
            targets.insert(parent(to)?);
        }
        self.prepare(targets.iter().copied())?;
        for (from, to) in moves {
            self.rename_one(from, to)?;
        }
        // The new names first: on no disk may a file be without either name.
        for dir in &targets {
            self.sync_dir(dir)?;
        }
        for dir in sources.difference(&targets) {
            self.sync_dir_if_there(dir)?;
        }
        Ok(())
    }

    fn rename_one(&self, from: &Path, to: &Path) -> Result<()> {
        let exists = |path: &Path| -> Result<bool> {
            Ok(found(self.disk.entry(path)).map_err(failed("stat", path))?.is_some())
        };
        let result = match self.rename_new(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if exists(from)? {
                    // Then it is the target's directory that somebody removed.
                    self.in_dir(parent(to)?, || self.rename_new(from, to))?
                } else if exists(to)? {
                    Ok(())
                } else {
                    Err(error)
                }
            }
            result => result,
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !exists(from)? {
                    return Ok(());
                }
                if !self.are_same(from, to).map_err(failed("compare", to))? {
                    return Err(taken(to.display().to_string()));
                }
                // Some disks keep the old name when the power goes. The new one may be in memory only.
                self.sync_dir(parent(to)?)?;
                self.disk.unlink(from).map_err(failed("delete", from))
            }
            result => result.map_err(failed("rename", from)),
        }
    }

    /// Renames; fails if the new name exists.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        use io::ErrorKind::{AlreadyExists, InvalidInput, Unsupported};
        match self.disk.rename_new(from, to) {
            // Only the run that owns the checkpoint publishes, so that looking first is nearly as good.
            Err(error) if matches!(error.kind(), InvalidInput | Unsupported) => {
                match found(self.disk.entry(to))? {
                    Some(_) => Err(AlreadyExists.into()),
                    None => self.disk.rename(from, to),
                }
            }
            result => result,
        }
    }

    /// Whether two files hold the same.
    fn are_same(&self, one: &Path, other: &Path) -> io::Result<bool> {
        const PART: u64 = 1 << 20;
        let (a, b) = (self.disk.entry(one)?, self.disk.entry(other)?);
        if !a.is_file || !b.is_file || a.len != b.len {
            return Ok(false);
        }
        for from in (0..a.len).step_by(PART as usize) {
            let part = from..a.len.min(from + PART);
            if self.disk.read_range(one, part.clone())? != self.disk.read_range(other, part)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Runs `attempt` in `dir`, which is made first if it is missing.
    fn in_dir<T>(&self, dir: &Path, attempt: impl Fn() -> io::Result<T>) -> Result<io::Result<T>> {
        for _ in 1..DIRECTORY_ATTEMPTS {
            self.prepare([dir])?;
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // Somebody may have removed the directory since it was found to be there.
                    lock(&self.ready).remove(dir);
                }
                result => return Ok(result),
            }
        }
        self.prepare([dir])?;
        Ok(attempt())
    }

    /// Makes sure that the directories exist, durably. Costs nothing from the second time on.
    fn prepare<'a>(&self, dirs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
        let mut missing: BTreeMap<usize, BTreeSet<&Path>> = BTreeMap::new();
        let mut existing = BTreeSet::new();
        for dir in dirs {
            for dir in dir.ancestors() {
                let depth = dir.components().count();
                let is_known = missing.get(&depth).is_some_and(|dirs| dirs.contains(dir));
                if is_known || lock(&self.ready).contains(dir) {
                    break;
                }
                if found(self.disk.entry(dir)).map_err(failed("stat", dir))?.is_some() {
                    existing.insert(dir);
                    break;
                }
                missing.entry(depth).or_default().insert(dir);
            }
        }
        if !missing.is_empty() && self.is_gone() {
            let reason = "the directory was removed or moved while it was written to";
            return Err(Error::storage("write below", self.root.display().to_string(), reason));
        }
        self.vouch_for(&existing)?;
        for dirs in missing.values() {
            for dir in dirs {
                match self.disk.mkdir(dir) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(failed("make directory", dir)(error));
                    }
                    _ => {}
                }
            }
            for parent in dirs.iter().filter_map(|dir| dir.parent()).collect::<BTreeSet<_>>() {
                self.sync_dir(parent)?;
            }
        }
        let mut ready = lock(&self.ready);
        ready.extend(existing.into_iter().chain(missing.into_values().flatten()).map(Path::to_path_buf));
        self.begun.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the root was there before and is not any more.
    fn is_gone(&self) -> bool {
        self.begun.load(Ordering::Relaxed) && matches!(found(self.disk.entry(&self.root)), Ok(None))
    }

    /// Makes the names of directories durable that were there already: a process that was killed
    /// may have made them and not come to the fsync. Of directories that this process may not even
    /// open, none made the entries below them.
    fn vouch_for(&self, dirs: &BTreeSet<&Path>) -> Result<()> {
        if !self.sync {
            return Ok(());
        }
        for parent in dirs.iter().filter_map(|dir| dir.parent()).collect::<BTreeSet<_>>() {
            if let Err(error) = self.disk.sync_dir(parent)
                && error.kind() != io::ErrorKind::PermissionDenied
            {
                self.sync_failed(parent, error)?;
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        if !self.sync {
            return Ok(());
        }
        self.disk.sync_dir(dir).or_else(|error| self.sync_failed(dir, error))
    }

    fn sync_dir_if_there(&self, dir: &Path) -> Result<()> {
        if !self.sync {
            return Ok(());
        }
        found(self.disk.sync_dir(dir)).map(drop).or_else(|error| self.sync_failed(dir, error))
    }

    fn sync_failed(&self, dir: &Path, error: io::Error) -> Result<()> {
        use io::ErrorKind::{InvalidInput, ReadOnlyFilesystem, Unsupported};
        if matches!(error.kind(), InvalidInput | ReadOnlyFilesystem | Unsupported) {
            return Ok(());
        }
        if error.kind() != io::ErrorKind::NotFound {
            *lock(&self.broken) = Some(format!("fsync of '{}' failed ({error})", dir.display()));
        }
        Err(failed("sync directory", dir)(error))
    }

    fn usable(&self) -> Result<()> {
        match &*lock(&self.broken) {
            None => Ok(()),
            Some(reason) => {
                let reason = format!("{reason}, so it is unknown what the disk holds; start the query again");
                Err(Error::storage("write below", self.root.display().to_string(), reason))
            }
        }
    }

    /// Removes what `create` calls of processes long gone left in `dir`; once per directory. `temp`
    /// was written just now and tells the time by the file system's clock.
    fn sweep(&self, dir: &Path, temp: &Path) {
        if !lock(&self.swept).insert(dir.to_path_buf()) {
            return;
        }
        // Best effort: nothing reads these files.
        let (Ok(entries), Ok(now)) = (self.disk.list(dir), self.disk.entry(temp)) else { return };
        for entry in entries.into_iter().filter(|entry| entry.is_file && is_temp(&entry.name)) {
            if now.modified.duration_since(entry.modified).is_ok_and(|age| age > STALE_AFTER) {
                let _ = self.disk.unlink(&dir.join(entry.name));
            }
        }
    }
}

/// `.<name>.<32 hex digits>.tmp`
fn temp_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}.{}.tmp", Uuid::new_v4().simple())
}

fn is_temp(name: &str) -> bool {
    name.strip_prefix('.')
        .and_then(|name| name.strip_suffix(".tmp"))
        .and_then(|name| name.rsplit_once('.'))
        .is_some_and(|(_, id)| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn parent(path: &Path) -> Result<&Path> {
    path.parent().ok_or_else(|| Error::Invalid(format!("'{}' has no parent directory", path.display())))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |error| {
        let file = path.ancestors().skip(1).find(|above| above.is_file());
        let error = match file.filter(|_| error.kind() == io::ErrorKind::NotADirectory) {
            Some(file) => {
                io::Error::new(error.kind(), format!("'{}' is a file, and no directory", file.display()))
            }
            None => error,
        };
        Error::storage(operation, path.display().to_string(), error)
    }
}

/// `None` for what is not there.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why a directory may stay: it is in use, or gone already.
fn is_kept(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotFound};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | NotFound)
}

/// The sets behind these locks are valid after every single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
