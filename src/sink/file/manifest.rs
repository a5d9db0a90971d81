//! What a batch wrote, as the commit record says it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::names::STAGING;
use crate::error::{Error, Result};

/// The files of a batch, or of one writer of it. Paths are relative to the output directory, so
/// that it can be moved together with the checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    /// The rows in all files.
    pub num_rows: u64,
    /// Totals for the progress.
    pub metrics: Metrics,
    /// The files, by partition and sequence.
    pub files: Vec<ManifestFile>,
}

/// Totals over the files of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metrics {
    /// How many files.
    pub num_files: u64,
    /// Their length in bytes.
    pub num_bytes: u64,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManifestFile {
    /// Where it is staged.
    pub from: String,
    /// Where it is published.
    pub to: String,
    /// Its rows.
    pub rows: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Manifest {
    /// The manifest of `files`, with its totals.
    pub fn new(files: Vec<ManifestFile>) -> Self {
        let num_rows = files.iter().map(|file| file.rows).sum();
        let num_bytes = files.iter().map(|file| file.bytes).sum();
        Self { num_rows, metrics: Metrics { num_files: files.len() as u64, num_bytes }, files }
    }

    /// Reads the manifest of batch `batch_id` back from its commit record. A path that points out
    /// of the output directory is damage, whoever wrote it.
    pub fn read(batch_id: u64, prepared: &Value) -> Result<Self> {
        let damaged = |reason: String| Error::damaged(format!("commits/{batch_id}"), reason);
        let manifest = Self::deserialize(prepared)
            .map_err(|error| damaged(format!("the file sink's manifest cannot be read: {error}")))?;
        for file in &manifest.files {
            let staged = file.from.strip_prefix(STAGING).is_some_and(|rest| rest.starts_with('/'));
            if !staged || !is_inside(&file.from) || !is_inside(&file.to) {
                let reason = format!("the file sink's manifest moves '{}' to '{}'", file.from, file.to);
                return Err(damaged(reason));
            }
        }
        Ok(manifest)
    }

    /// The manifest as JSON, for the commit record.
    pub fn write(&self) -> Result<Value> {
        serde_json::to_value(self)
            .map_err(|error| Error::Invalid(format!("the file sink's manifest cannot be written: {error}")))
    }

    /// All moves from staged to published names.
    pub fn moves(&self) -> Vec<(String, String)> {
        self.files.iter().map(|file| (file.from.clone(), file.to.clone())).collect()
    }

    /// Divides the files by whether they are still in `staged`: the moves that are left to do, and
    /// the published names of the others.
    pub fn left_to_publish<'a>(&'a self, staged: &BTreeSet<String>) -> (Vec<(String, String)>, Vec<&'a str>) {
        let (left, done): (Vec<_>, Vec<_>) = self.files.iter().partition(|file| staged.contains(&file.from));
        let moves = left.into_iter().map(|file| (file.from.clone(), file.to.clone())).collect();
        (moves, done.into_iter().map(|file| file.to.as_str()).collect())
    }
}

fn is_inside(path: &str) -> bool {
    path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(from: &str, to: &str) -> ManifestFile {
        ManifestFile { from: from.to_string(), to: to.to_string(), rows: 2, bytes: 10 }
    }

    #[test]
    fn round_trip() {
        let manifest = Manifest::new(vec![file(".tidemill/a.tmp", "k=1/a"), file(".tidemill/b.tmp", "b")]);
        let value = manifest.write().unwrap();
        assert_eq!(value["numRows"], 4);
        assert_eq!(value["metrics"], json!({"numFiles": 2, "numBytes": 20}));
        assert_eq!(value["files"][0]["to"], "k=1/a");
        assert_eq!(Manifest::read(3, &value).unwrap(), manifest);
    }

    #[test]
    fn paths_that_lead_elsewhere_are_damage() {
        let bad = [
            (".tidemill/a.tmp", "../a"),
            (".tidemill/a.tmp", "/etc/a"),
            (".tidemill/../a.tmp", "a"),
            ("a.tmp", "a"),
            (".tidemillions/a.tmp", "a"),
        ];
        for (from, to) in bad {
            let value = Manifest::new(vec![file(from, to)]).write().unwrap();
            let error = Manifest::read(3, &value).unwrap_err().to_string();
            assert!(error.starts_with("checkpoint file 'commits/3' is damaged"), "{error}");
        }
        assert!(Manifest::read(3, &json!({"rows": 1})).is_err());
    }

    #[test]
    fn files_that_are_no_longer_staged_count_as_published() {
        let manifest = Manifest::new(vec![file(".tidemill/a.tmp", "a"), file(".tidemill/b.tmp", "b")]);
        let staged = BTreeSet::from([".tidemill/b.tmp".to_string()]);
        let (moves, done) = manifest.left_to_publish(&staged);
        assert_eq!(moves, [(".tidemill/b.tmp".to_string(), "b".to_string())]);
        assert_eq!(done, ["a"]);
    }
}
