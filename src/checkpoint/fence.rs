//! The fence: which run owns the checkpoint.
//!
//! Each start claims the next generation and then removes the fences of all before it. A run owns
//! the checkpoint as long as its own fence is there. The highest generation is never removed, so
//! a number is never used twice, and a claim that lists itself as the highest cannot be older than
//! one that has read the checkpoint since.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::records::FenceRecord;
use super::{frame, layout};
use crate::error::{Error, Result};
use crate::storage::{Created, Storage};

/// How many other starts may come in between before a claim gives up.
const CLAIM_ATTEMPTS: usize = 100;

/// The claim of one run.
#[derive(Debug)]
pub(super) struct Fence {
    storage: Arc<dyn Storage>,
    path: String,
}

impl Fence {
    /// Takes the checkpoint over. When this returns, no other run passes [`Fence::check`] any more.
    pub(super) async fn claim(storage: Arc<dyn Storage>, run_id: Uuid) -> Result<Self> {
        let body = frame::encode(&FenceRecord { run_id })?;
        let mut highest = generations(&*storage).await?.last().copied().unwrap_or(0);
        for _ in 0..CLAIM_ATTEMPTS {
            let generation = highest + 1;
            let path = layout::fence(generation);
            let placed = place(&*storage, &path, &body).await?;
            let listed = generations(&*storage).await?;
            highest = listed.last().copied().unwrap_or(0).max(generation);
            if placed == Placed::Mine && highest == generation {
                if generation == 1 && storage.url().scheme() != "file" {
                    probe(&*storage, &path, &body, listed.contains(&generation)).await?;
                }
                for older in listed.range(..generation) {
                    storage.delete(&layout::fence(*older)).await?;
                }
                return Ok(Self { storage, path });
            }
        }
        Err(concurrent(&*storage, format!("{CLAIM_ATTEMPTS} other starts claimed it at the same time")))
    }

    /// Creates a file as [`place`] does, if this run owns the checkpoint, and still does `afterwards` if that is
    /// asked for.
    ///
    /// # Errors
    /// [`Error::ConcurrentQuery`] if another run has taken over.
    pub(super) async fn place(&self, path: &str, body: &Bytes, afterwards: bool) -> Result<Placed> {
        let error = match self.storage.create_while(&self.path, path, body.clone(), afterwards).await {
            Ok(Some(Created::New)) => return Ok(Placed::Mine),
            Ok(Some(Created::Exists)) => None,
            Ok(None) => {
                self.check().await?;
                // It is there again, as a disk that comes and goes may have it: as if nothing had been tried.
                return Err(concurrent(&*self.storage, format!("{} was gone for a while", self.path)));
            }
            Err(error) => Some(error),
        };
        let placed = settle(&*self.storage, path, body, error).await?;
        if afterwards {
            self.check().await?;
        }
        Ok(placed)
    }

    /// Fails with [`Error::ConcurrentQuery`] if another run has taken over.
    pub(super) async fn check(&self) -> Result<()> {
        match self.storage.size(&self.path).await? {
            Some(_) => Ok(()),
            None if generations(&*self.storage).await?.is_empty() => Err(Error::damaged(
                &self.path,
                "it is gone, and no later start has taken over: the checkpoint was deleted or moved while the \
                 query was running",
            )),
            None => {
                Err(concurrent(&*self.storage, format!("a later start took it over ({} is gone)", self.path)))
            }
        }
    }
}

/// Whether a store keeps what everything else rests on: that a name is created once, and that what was
/// created is listed. Some that speak the language of those that do say yes to a condition and pass over it.
async fn probe(storage: &dyn Storage, path: &str, body: &Bytes, is_listed: bool) -> Result<()> {
    let missing = match storage.create(path, body.clone()).await? {
        Created::Exists if is_listed => return Ok(()),
        Created::Exists => "it does not list an object that was just put",
        Created::New => "it has put an object twice that was to be created only if it did not exist",
    };
    let reason = format!(
        "this store cannot hold a checkpoint: {missing}, so that two writers could not be told apart. Switch \
         conditional puts on, or use another store or a local disk"
    );
    Err(Error::storage("create", format!("{}{path}", storage.url()), reason))
}

async fn generations(storage: &dyn Storage) -> Result<BTreeSet<u64>> {
    let files = storage.list(layout::FENCE).await?;
    Ok(files.iter().filter_map(|file| layout::number(layout::name(&file.path))).collect())
}

/// Whose a file is after [`place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    /// It holds the given bytes, durably.
    Mine,
    /// Somebody else created it with other bytes.
    Other,
}

/// Creates a file and settles what an ambiguous outcome was by looking at what is there.
pub(super) async fn place(storage: &dyn Storage, path: &str, body: &Bytes) -> Result<Placed> {
    let error = match storage.create(path, body.clone()).await {
        Ok(Created::New) => return Ok(Placed::Mine),
        Ok(Created::Exists) => None,
        Err(error) => Some(error),
    };
    settle(storage, path, body, error).await
}

/// Whose a file is that was there when it was to be created, or with the creation of which something went wrong.
async fn settle(storage: &dyn Storage, path: &str, body: &Bytes, error: Option<Error>) -> Result<Placed> {
    match (storage.read(path).await, error) {
        (Ok(Some(found)), Some(error)) if found == body => {
            // It took effect, but only an answer without error says that it is durable.
            storage.create(path, body.clone()).await.map(|_| Placed::Mine).map_err(|_| error)
        }
        (Ok(Some(found)), None) if found == body => Ok(Placed::Mine),
        (Ok(Some(_)) | Ok(None), None) | (Ok(Some(_)), Some(_)) => Ok(Placed::Other),
        (_, Some(error)) | (Err(error), None) => Err(error),
    }
}

pub(super) fn concurrent(storage: &dyn Storage, reason: impl Into<String>) -> Error {
    Error::ConcurrentQuery { checkpoint: storage.url().to_string(), reason: reason.into() }
}
