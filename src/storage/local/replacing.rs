//! One file in the place of several, by exchanging their directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use async_trait::async_trait;

use super::{LocalStorage, failed, found, parent};
use crate::error::{Error, Result};
use crate::storage::replace::{NewContent, Replaced, directories, entries, is_settled, settle};
use crate::storage::{Replacing, StoredFile};

/// Whether this system lets directories change places.
pub(super) const IS_POSSIBLE: bool =
    cfg!(any(target_os = "linux", target_os = "android", target_vendor = "apple"));

#[async_trait]
impl Replacing for LocalStorage {
    async fn directories(&self) -> Result<Vec<String>> {
        self.blocking("list", self.dir("")?, |_, root| {
            if found(fs::symlink_metadata(root)).map_err(failed("stat", root))?.is_none() {
                return Ok(Vec::new());
            }
            let below = |directory: &Path| Some(directory.strip_prefix(root).ok()?.to_str()?.to_string());
            Ok(directories(root)?.iter().filter_map(|directory| below(directory)).collect())
        })
        .await
    }

    async fn files(&self, dir: &str) -> Result<Vec<StoredFile>> {
        let path = self.dir(dir)?;
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        self.blocking("list", path, move |_, path| {
            if found(fs::symlink_metadata(path)).map_err(failed("stat", path))?.is_none() {
                return Ok(Vec::new());
            }
            let files = entries(path)?.into_iter().filter(|(_, known)| known.is_file());
            let file = |(name, known): (_, fs::Metadata)| StoredFile {
                path: format!("{prefix}{name}"),
                size: known.len(),
            };
            Ok(files.map(file).collect())
        })
        .await
    }

    async fn replace(&self, files: &[String], from: &str, to: &str) -> Result<Replaced> {
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_string();
        let files: Vec<String> = files.iter().map(|path| name(path)).collect();
        let (from, to) = (self.path(from)?, self.path(to)?);
        self.blocking("replace files in", to, move |inner, to| {
            let absolute = |path: &Path| path.canonicalize().map_err(failed("find", path));
            // Links above the output are not what is exchanged.
            let root = absolute(&inner.root)?;
            let directory = match parent(to)?.strip_prefix(&inner.root) {
                Ok(below) => root.join(below),
                Err(_) => return Err(Error::Invalid(format!("'{}' is not below the output", to.display()))),
            };
            let new = NewContent::begin(&root, &directory)?;
            let placed = new.place().join(to.file_name().unwrap_or_default());
            fs::rename(&from, &placed).map_err(failed("move", &from))?;
            // However durable this storage is: it takes the place of files that may be.
            fs::File::open(&placed).and_then(|file| file.sync_all()).map_err(failed("sync", &placed))?;
            new.show(&files.iter().map(String::as_str).collect::<BTreeSet<_>>())
        })
        .await
    }

    async fn remove(&self, replaced: &Replaced) -> Result<()> {
        let replaced = replaced.clone();
        self.blocking("remove", self.dir("")?, move |_, _| replaced.remove()).await
    }

    async fn is_settled(&self) -> Result<bool> {
        self.blocking("look beside", self.dir("")?, |_, root| {
            found(root.canonicalize())
                .map_err(failed("find", root))?
                .map_or(Ok(true), |root| is_settled(&root))
        })
        .await
    }

    async fn settle(&self) -> Result<()> {
        self.blocking("clean up", self.dir("")?, |_, root| {
            match found(root.canonicalize()).map_err(failed("find", root))? {
                Some(root) => settle(&root),
                None => Ok(()),
            }
        })
        .await
    }
}
