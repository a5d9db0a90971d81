//! Durable files under one root: what checkpoints and file sinks write through.
//!
//! One small trait stands between the engine and every disk or object store, so that tests can
//! count each call, crash at it, tear it, or take the power away ([`Storage`]'s contract says what
//! must survive). Reading *input* does not go through here: that is DataFusion's business.

#[doc(hidden)]
pub mod disk;
mod exchange;
mod local;
mod location;
mod object;
mod provider;
mod replace;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use url::Url;

use crate::error::{Error, Result};

pub use exchange::exchange_directories;
pub use local::LocalStorage;
pub use location::{parse_location, path_below};
pub use object::ObjectStorage;
pub use provider::DefaultStorageProvider;
pub(crate) use provider::object_store_of;
pub use replace::{NewContent, REPLACED_STAYS, Replaced, directories, entries, settle};

/// What has to survive when a call returns `Ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A power cut: data and directory entries are fsynced.
    #[default]
    Disk,
    /// A crash of the process only: nothing is fsynced (`durability=process`).
    Process,
}

/// What [`Storage::create`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The file did not exist and now holds exactly the given bytes.
    New,
    /// A file of this name exists already; it was not touched. It is durable by now, so that a
    /// caller who finds its own bytes there can go on.
    Exists,
}

/// A file that [`Storage::list`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// The path below the root, with `/` between parts.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
}

/// Files below one root, with the few operations that exactly-once needs.
///
/// Paths are relative to the root, with `/` between parts, never absolute, never with `..`.
/// Missing directories are made as needed. An `Err` may be ambiguous: the operation may or may not
/// have taken effect, and callers find out by reading.
#[async_trait]
pub trait Storage: Debug + Send + Sync {
    /// The root, for messages and for comparing two storages.
    fn url(&self) -> &Url;

    /// Whether the root was there and is not any more: somebody has removed or moved it since this storage has
    /// written there. Stores without directories cannot tell.
    async fn is_gone(&self) -> bool {
        false
    }

    /// Creates `path` with `body`, atomically: no reader ever sees a part of it, and of several
    /// callers exactly one gets [`Created::New`]. Durable when it returns.
    async fn create(&self, path: &str, body: Bytes) -> Result<Created>;

    /// Does what [`Storage::create`] does if `held` is there; `None` if it is not, be it before, so that nothing was
    /// created, or, if that is asked for, `afterwards`. A storage that can do all of it at once does so.
    async fn create_while(
        &self,
        held: &str,
        path: &str,
        body: Bytes,
        afterwards: bool,
    ) -> Result<Option<Created>> {
        if self.size(held).await?.is_none() {
            return Ok(None);
        }
        let created = self.create(path, body).await?;
        let is_held = !afterwards || self.size(held).await?.is_some();
        Ok(is_held.then_some(created))
    }

    /// The whole of `path`, or `None` if there is no such file.
    async fn read(&self, path: &str) -> Result<Option<Bytes>>;

    /// The bytes of `path` in `range`, which begins inside; fewer if the file ends before. `None` if there
    /// is no such file.
    async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>>;

    /// The length of `path`, or `None` if there is no such file.
    async fn size(&self, path: &str) -> Result<Option<u64>>;

    /// The files directly in `dir` (`""` is the root), sorted by path; empty if there is no such
    /// directory. Left-overs of unfinished [`Storage::create`] calls are not shown.
    ///
    /// The names it gives are durable when it returns: a process that was killed may have left
    /// names that only the page cache knows, and nothing may be built on those.
    async fn list(&self, dir: &str) -> Result<Vec<StoredFile>>;

    /// Removes `path`; it is no error if it is gone already. Need not be durable.
    async fn delete(&self, path: &str) -> Result<()>;

    /// Opens `path` for writing from the start; an old file of that name is replaced. Only
    /// [`StorageWriter::finish`] makes the content durable.
    async fn writer(&self, path: &str) -> Result<Box<dyn StorageWriter>>;

    /// Moves each `(from, to)`, durably when it returns. Each single move is atomic; a move whose
    /// `from` is gone and whose `to` is there counts as done, so that the call can be repeated. A `to`
    /// that is there already is never replaced: if it holds the same, only `from` is removed, and
    /// otherwise the move fails.
    async fn rename(&self, moves: &[(String, String)]) -> Result<()>;

    /// Removes the directory `dir` if it is empty; otherwise, and on stores without directories,
    /// does nothing.
    async fn remove_empty_dir(&self, dir: &str) -> Result<()>;

    /// This storage, if it can put one file in the place of several at once.
    fn replacing(&self) -> Option<&dyn Replacing> {
        None
    }
}

/// A storage in which one file can take the place of several, at once for everybody who lists their directory.
#[async_trait]
pub trait Replacing: Send + Sync {
    /// The directories below the root that are not hidden, and the root itself, `""`.
    async fn directories(&self) -> Result<Vec<String>>;

    /// As [`Storage::list`], without its promise that the names are durable.
    async fn files(&self, dir: &str) -> Result<Vec<StoredFile>>;

    /// Moves the file `from`, which is durable, to `to`, and removes `files` of the same directory, in one step for
    /// whoever lists that; durable when it returns. Nothing below a hidden directory of it may be opened meanwhile. What
    /// an interrupted call leaves, [`Replacing::settle`] removes.
    async fn replace(&self, files: &[String], from: &str, to: &str) -> Result<Replaced>;

    /// Removes what was replaced, [`REPLACED_STAYS`] after it was.
    async fn remove(&self, replaced: &Replaced) -> Result<()>;

    /// Whether [`Replacing::settle`] would find nothing to do, if that can be told at one look.
    async fn is_settled(&self) -> Result<bool> {
        Ok(false)
    }

    /// Finishes or takes back what calls of processes left that died.
    async fn settle(&self) -> Result<()>;
}

/// A file that is being written. Dropping it without [`StorageWriter::finish`] leaves at most an
/// unfinished file under the name it was opened with.
#[async_trait]
pub trait StorageWriter: Send {
    /// Appends `data`.
    async fn write(&mut self, data: Bytes) -> Result<()>;

    /// Makes what was written durable and gives its length in bytes.
    async fn finish(self: Box<Self>) -> Result<u64>;

    /// Gives up and removes what was written, as far as possible.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// Opens storages by URL. Tests put a simulated disk here.
pub trait StorageProvider: Debug + Send + Sync {
    /// The storage rooted at the directory `url`.
    fn open(&self, url: &Url, durability: Durability) -> Result<Arc<dyn Storage>>;
}

/// The error of a move to a name that is taken.
fn taken(path: String) -> Error {
    Error::storage(
        "publish",
        path,
        "there is a file of this name already, and it holds something else. Names are used only once, so this \
         output is further than the checkpoint: perhaps the checkpoint was restored from a backup, or copied. \
         Restore both as they were at the same time, or start with a new checkpointLocation",
    )
}

/// Refuses paths that are not names below the root.
fn check_path(path: &str) -> Result<()> {
    let bad = |part: &str| {
        matches!(part, "" | "." | "..") || part.contains('\0') || (cfg!(windows) && part.contains('\\'))
    };
    if path.split('/').any(bad) {
        return Err(Error::Invalid(format!(
            "'{path}' is not a path below a storage root: it must be relative, without empty parts, '.' and '..'"
        )));
    }
    Ok(())
}

/// The URL of the directory that `text` names, see [`parse_location`]; relative paths are taken below
/// the process's working directory.
///
/// # Errors
/// As [`parse_location`], and if there is no working directory.
pub fn resolve_location(text: &str) -> Result<Url> {
    let cwd = std::env::current_dir().map_err(|error| Error::storage("find the directory", ".", error))?;
    parse_location(text, &cwd)
}
