//! What must hold after any accident, once the query has been run again to its end.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use datafusion::execution::runtime_env::RuntimeEnv;
use tidemill::Environment;
use tidemill::checkpoint::verify;
use tidemill::storage::{DefaultStorageProvider, Durability, StorageProvider};
use url::Url;

use super::committed::commits;
use super::harness::Place;
use super::oracle::{self, Columns, Row};

/// The machine's own disks.
pub fn disks() -> Arc<dyn StorageProvider> {
    Arc::new(DefaultStorageProvider::new(Arc::new(RuntimeEnv::default())))
}

/// An environment whose storages come from `storages`.
pub fn environment(storages: Arc<dyn StorageProvider>) -> Environment {
    Environment { storages: Some(storages), ..Environment::default() }
}

/// The URL of a local directory.
pub fn directory_url(path: &str) -> Url {
    Url::from_directory_path(path).unwrap()
}

/// What a query has to have done by its end, however often it was interrupted.
#[derive(Debug, Clone)]
pub struct Expected {
    pub format: &'static str,
    pub columns: Columns<'static>,
    pub rows: Vec<Row>,
    /// How many batches there are; `None` if that depends on the accident.
    pub batches: Option<u64>,
}

impl Expected {
    /// Checks the output and the checkpoint of `place`, which are on the machine's own disk.
    pub async fn check(&self, place: &Place) -> Result<(), String> {
        oracle::same(place.rows(self.format, self.columns), self.rows.clone())?;
        let staged = oracle::hidden(&place.path("out"));
        if !staged.is_empty() {
            return Err(format!("left behind in the output: {staged:?}"));
        }
        let commits = commits(&place.path("checkpoint"));
        let contiguous = commits.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        if !contiguous || self.batches.is_some_and(|batches| commits.last() != Some(&(batches - 1))) {
            return Err(format!("commits {commits:?} instead of {:?} of them", self.batches));
        }
        self.check_checkpoint(&*disks(), &place.text("checkpoint")).await
    }

    /// Checks the checkpoint alone, wherever it is.
    pub async fn check_checkpoint(&self, storages: &dyn StorageProvider, at: &str) -> Result<(), String> {
        let text = |error: tidemill::Error| error.to_string();
        let storage = storages.open(&directory_url(at), Durability::Disk).map_err(text)?;
        let report = verify(&*storage).await.map_err(text)?;
        if !report.findings.is_empty() || self.batches.is_some_and(|batches| report.batches != batches) {
            return Err(format!("expected {:?} batches: {report}", self.batches));
        }
        Ok(())
    }
}

/// Copies a directory with everything in it, modification times included, as `cp -a` does.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
            let modified = entry.metadata().unwrap().modified().unwrap();
            fs::File::options().write(true).open(&target).unwrap().set_modified(modified).unwrap();
        }
    }
}

impl Place {
    /// A place of its own with a copy of these directories, as far as they exist.
    pub fn copy_of(&self, directories: &[&str]) -> Place {
        let place = Place::default();
        for directory in directories.iter().filter(|directory| self.path(directory).exists()) {
            copy_tree(&self.path(directory), &place.path(directory));
        }
        place
    }

    /// A place of its own with a copy of everything in this one.
    pub fn copy(&self) -> Place {
        self.copy_of(&["in", "out", "checkpoint"])
    }
}
