//! A query with real input files that writes to a simulated disk.

use std::sync::Arc;

use serde_json::json;
use tidemill::Result;
use tidemill::storage::{Durability, StorageProvider};

use super::harness::{Job, Place, id_lines, session_in};
use super::oracle::{self, Row};
use super::outcome::{Expected, directory_url, environment};
use super::sim_disk::SimDisk;

/// Two rows per batch, to JSON files.
#[derive(Debug)]
pub struct SimQuery {
    job: Job,
    out: String,
    checkpoint: String,
    pub expected: Expected,
    /// Holds the input.
    _place: Place,
}

impl SimQuery {
    /// A query of that many batches.
    pub fn new(batches: i64, durability: &str) -> Self {
        let place = Place::new();
        let ids = |batch: i64| [batch * 10, batch * 10 + 1];
        (0..batches).for_each(|batch| place.put(&format!("in/{batch}.json"), id_lines(ids(batch))));
        // A directory of its own: within one process, no two queries use the same checkpoint.
        let root = place.path("").file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_string();
        let (out, checkpoint) = (format!("/{root}/out"), format!("/{root}/checkpoint"));
        let job = Job::new(&place)
            .format("json")
            .out(Some(out.clone()))
            .option("checkpointLocation", &checkpoint)
            .option("durability", durability)
            .files_per_trigger(1);
        let rows = (0..batches).flat_map(ids).map(|id| Row::from([("id".to_string(), json!(id))])).collect();
        let batches = Some(u64::try_from(batches).unwrap());
        let expected = Expected { format: "json", columns: &[], rows, batches };
        Self { job, out, checkpoint, expected, _place: place }
    }

    /// Runs it to its end.
    pub async fn run(&self, disk: &SimDisk) -> Result<()> {
        self.job.run(&session_in(1, environment(Arc::new(disk.clone())))).await.map(drop)
    }

    /// The rows that a plain reader of the output sees, and the files that it does not see.
    pub async fn output(&self, disk: &SimDisk) -> (Vec<Row>, Vec<String>) {
        let storage = disk.open(&directory_url(&self.out), Durability::Disk).unwrap();
        let mut rows = Vec::new();
        for file in storage.list("").await.unwrap().into_iter().filter(|file| !oracle::is_hidden(&file.path))
        {
            let bytes = storage.read(&file.path).await.unwrap().unwrap();
            rows.extend(oracle::read_bytes(bytes.to_vec(), &file.path, "json", &[]));
        }
        let hidden = storage.list(".tidemill").await.unwrap();
        (rows, hidden.into_iter().map(|file| file.path).collect())
    }

    /// Checks output and checkpoint as they are.
    pub async fn check(&self, disk: &SimDisk) -> Result<(), String> {
        let (rows, staged) = self.output(disk).await;
        oracle::same(rows, self.expected.rows.clone())?;
        if !staged.is_empty() {
            return Err(format!("left behind: {staged:?}"));
        }
        self.expected.check_checkpoint(disk, &self.checkpoint).await
    }

    /// Runs it again to its end, twice, on a disk that has been through something, and checks what
    /// came of it.
    pub async fn heal(&self, disk: &SimDisk) -> Result<(), String> {
        for _ in 0..2 {
            self.run(disk).await.map_err(|error| error.to_string())?;
        }
        self.check(disk).await
    }
}
