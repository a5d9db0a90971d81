//! What a start does while another process runs the same query (`ifRunning`).
//!
//! The checkpoint itself is safe without it: a later start takes it over, and the earlier one ends. A lock
//! beside the records lets a start wait, or leave it, instead.

use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use url::Url;

use crate::error::{Error, Result};
use crate::options::nearest;

/// How often a start that waits looks.
const LOOK: Duration = Duration::from_millis(100);

/// What to do while another process that was given the option, too, runs the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfRunning {
    /// Begin at once; the other one ends.
    TakeOver,
    /// Begin when it has ended.
    Wait,
    /// Fail, with [`Error::ConcurrentQuery`].
    Skip,
}

impl IfRunning {
    /// The option's name.
    pub(crate) const OPTION: &'static str = "ifRunning";

    pub(crate) fn parse(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "takeover" => Ok(IfRunning::TakeOver),
            "wait" => Ok(IfRunning::Wait),
            "skip" => Ok(IfRunning::Skip),
            _ => {
                let hint = nearest(text, &["takeover", "wait", "skip"]);
                let hint = hint.map_or_else(String::new, |near| format!("; did you mean {near}?"));
                Err(Error::option(Self::OPTION, text, format!("expected takeover, wait or skip{hint}")))
            }
        }
    }
}

/// Shows other processes that the query runs, until it is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    /// Nothing while an earlier run has it. Held, and let go when this is dropped.
    #[cfg_attr(not(test), expect(dead_code))]
    lock: Arc<Mutex<Option<File>>>,
    waiting: Option<AbortHandle>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.waiting.iter().for_each(AbortHandle::abort);
    }
}

impl Running {
    /// Does what `policy` says about the checkpoint at `checkpoint`.
    ///
    /// # Errors
    /// [`Error::ConcurrentQuery`] with [`IfRunning::Skip`] if another process runs the query; and if the
    /// checkpoint is not on a local disk, or the lock cannot be made.
    pub(crate) async fn enter(checkpoint: &Url, policy: IfRunning) -> Result<Self> {
        let Ok(directory) = checkpoint.to_file_path() else {
            return Err(Error::option(
                IfRunning::OPTION,
                "…",
                format!(
                    "whether another process runs the query can be told only on local disks, not in '{checkpoint}'"
                ),
            ));
        };
        // Below a directory, where no file of a checkpoint is.
        let path = directory.join(".running").join("lock");
        match (try_lock(&path)?, policy) {
            (Some(file), _) => Ok(Self { lock: Arc::new(Mutex::new(Some(file))), waiting: None }),
            (None, IfRunning::Skip) => Err(Error::ConcurrentQuery {
                checkpoint: checkpoint.to_string(),
                reason: "this start leaves it alone (ifRunning = skip)".into(),
            }),
            (None, IfRunning::Wait) => loop {
                tokio::time::sleep(LOOK).await;
                if let Some(file) = try_lock(&path)? {
                    return Ok(Self { lock: Arc::new(Mutex::new(Some(file))), waiting: None });
                }
            },
            (None, IfRunning::TakeOver) => {
                let lock: Arc<Mutex<Option<File>>> = Arc::default();
                let waiting = tokio::spawn(take_when_free(path, Arc::clone(&lock))).abort_handle();
                Ok(Self { lock, waiting: Some(waiting) })
            }
        }
    }

    /// Whether this run has the lock.
    #[cfg(test)]
    fn is_locked(&self) -> bool {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// The run that was taken over from has it a little longer.
async fn take_when_free(path: PathBuf, lock: Arc<Mutex<Option<File>>>) {
    loop {
        tokio::time::sleep(LOOK).await;
        match try_lock(&path) {
            Ok(None) => {}
            Ok(taken) => {
                *lock.lock().unwrap_or_else(PoisonError::into_inner) = taken;
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "later starts will not notice this run");
                return;
            }
        }
    }
}

fn try_lock(path: &PathBuf) -> Result<Option<File>> {
    let failed = |error: std::io::Error| Error::storage("lock", path.display().to_string(), error);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_directory_path(folder.path()).unwrap();
        let first = Running::enter(&url, IfRunning::Skip).await.unwrap();
        assert!(first.is_locked());
        let refused = Running::enter(&url, IfRunning::Skip).await.unwrap_err();
        assert!(matches!(refused, Error::ConcurrentQuery { .. }), "{refused}");
        let second = Running::enter(&url, IfRunning::TakeOver).await.unwrap();
        assert!(!second.is_locked());
        let waiting = tokio::spawn({
            let url = url.clone();
            async move { Running::enter(&url, IfRunning::Wait).await.map(drop) }
        });
        drop(first);
        while !second.is_locked() && !waiting.is_finished() {
            tokio::time::sleep(LOOK).await;
        }
        drop(second);
        waiting.await.unwrap().unwrap();
        assert!(Running::enter(&url, IfRunning::Skip).await.is_ok());
    }

    #[test]
    fn policies_have_names() {
        assert_eq!(IfRunning::parse("TakeOver").unwrap(), IfRunning::TakeOver);
        let error = IfRunning::parse("wiat").unwrap_err().to_string();
        assert!(error.contains("did you mean wait?"), "{error}");
    }
}
