//! Where inputs and outputs live.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;

/// A directory of this run's own, removed at the end.
#[derive(Debug)]
pub struct Workspace {
    directory: tempfile::TempDir,
}

impl Workspace {
    /// A new directory in `parent`, kept at the end if `keep` says so.
    pub fn new(parent: Option<&Path>, keep: bool) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("tidemill-bench-").disable_cleanup(keep);
        let directory = match parent {
            Some(parent) => {
                std::fs::create_dir_all(parent)?;
                builder.tempdir_in(parent)?
            }
            None => builder.tempdir()?,
        };
        if keep {
            eprintln!("inputs are kept in {}", directory.path().display());
        }
        Ok(Self { directory })
    }

    /// The path of `name`, which may not exist.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The path of the directory `name`, which is empty afterwards. What was written before has
    /// reached the disk when this returns, so that it does not slow down what comes next.
    pub fn empty(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::create_dir_all(&path)?;
        settle()?;
        Ok(path)
    }

    /// Removes the directory `name`.
    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(std::fs::remove_dir_all(self.path(name))?)
    }
}

/// Waits until everything written so far is on the disk.
fn settle() -> Result<()> {
    let status = Command::new("sync").status()?;
    if status.success() { Ok(()) } else { Err(format!("sync ended with {status}").into()) }
}
