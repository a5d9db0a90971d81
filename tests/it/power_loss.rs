//! The real disk code on a simulated disk whose power goes at every call that changes something:
//! whatever POSIX lets the disk forget, no committed row is lost and none comes twice.

use std::sync::Arc;

use serde_json::json;
use tidemill::storage::{Durability, StorageProvider};

use crate::support::harness::{Job, Place, id_lines, session_in};
use crate::support::oracle::{self, Row};
use crate::support::outcome::{Expected, directory_url, environment};
use crate::support::sim_disk::{DiskFault, Links, SimDisk};

const OUT: &str = "/disk/out";
const CHECKPOINT: &str = "/disk/checkpoint";
const BATCHES: i64 = 3;

/// Real input files, and a query that writes to the simulated disk.
fn setup() -> (Place, Expected) {
    let place = Place::new();
    for id in 0..BATCHES {
        place.put(&format!("in/{id}.json"), id_lines([id * 10, id * 10 + 1]));
    }
    let rows =
        (0..BATCHES).flat_map(|id| [id * 10, id * 10 + 1]).map(|id| Row::from([("id".into(), json!(id))]));
    let batches = u64::try_from(BATCHES).unwrap();
    let expected = Expected { format: "json", columns: &[], rows: rows.collect(), batches };
    (place, expected)
}

fn job(place: &Place, durability: &str) -> Job {
    Job::new(place)
        .format("json")
        .out(Some(OUT.into()))
        .option("checkpointLocation", CHECKPOINT)
        .option("durability", durability)
        .files_per_trigger(1)
}

async fn run(job: &Job, disk: &SimDisk) -> tidemill::Result<()> {
    let session = session_in(1, environment(Arc::new(disk.clone())));
    job.run(&session).await.map(drop)
}

/// The rows that a plain reader of the output sees on `disk`, and the files that it does not see.
async fn output(disk: &SimDisk) -> (Vec<Row>, Vec<String>) {
    let storage = disk.open(&directory_url(OUT), Durability::Disk).unwrap();
    let mut rows = Vec::new();
    for file in storage.list("").await.unwrap().into_iter().filter(|file| !oracle::is_hidden(&file.path)) {
        let bytes = storage.read(&file.path).await.unwrap().unwrap();
        rows.extend(oracle::read_bytes(bytes.to_vec(), &file.path, "json", &[]));
    }
    let hidden = storage.list(".tidemill").await.unwrap();
    (rows, hidden.into_iter().map(|file| file.path).collect())
}

/// Runs the query again to its end on a disk that has been through something, and checks the rest.
async fn heal(job: &Job, disk: &SimDisk, expected: &Expected) -> Result<(), String> {
    for _ in 0..2 {
        run(job, disk).await.map_err(|error| error.to_string())?;
    }
    let (rows, staged) = output(disk).await;
    oracle::same(rows, expected.rows.clone())?;
    if !staged.is_empty() {
        return Err(format!("left behind: {staged:?}"));
    }
    expected.check_checkpoint(disk, CHECKPOINT).await
}

/// Cuts the power at every step of a run, in the given ways; gives the first problem.
async fn cut_everywhere(durability: &str, links: Links, seeds: &[u64]) -> Result<(), String> {
    let (place, expected) = setup();
    let job = job(&place, durability);
    let undisturbed = SimDisk::with_links(links);
    run(&job, &undisturbed).await.unwrap();
    heal(&job, &undisturbed, &expected).await?;
    let steps = undisturbed.steps();
    assert!(steps > 50, "only {steps} steps");

    for step in 0..steps {
        let disk = SimDisk::with_links(links);
        disk.fail_at(step, DiskFault::DieBefore);
        // A step that comes after the query's end disturbs nobody.
        let _ = run(&job, &disk).await;
        for seed in seeds {
            let seed = if *seed < 2 { *seed } else { *seed + step as u64 };
            let disk = disk.after_power_cut(seed);
            let problem = |problem| format!("power cut (seed {seed}) at step {step} of {steps}: {problem}");
            heal(&job, &disk, &expected).await.map_err(problem)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_power_cut_anywhere_loses_and_doubles_nothing() {
    cut_everywhere("disk", Links::Hard, &[0, 1, 2, 100_000]).await.unwrap();
}

#[tokio::test]
async fn a_power_cut_on_a_disk_without_hard_links_loses_and_doubles_nothing() {
    cut_everywhere("disk", Links::ExclusiveRename, &[0, 2]).await.unwrap();
}

#[tokio::test]
async fn without_fsync_a_power_cut_does_damage() {
    // That the tests above could fail: the same run, but with durability=process.
    let problem = cut_everywhere("process", Links::Hard, &[0, 2]).await.unwrap_err();
    assert!(problem.starts_with("power cut"), "{problem}");
}

#[tokio::test]
async fn a_kill_in_the_middle_of_any_disk_operation_loses_and_doubles_nothing() {
    let (place, expected) = setup();
    let job = job(&place, "process");
    let undisturbed = SimDisk::new();
    run(&job, &undisturbed).await.unwrap();
    for step in 0..undisturbed.steps() {
        for fault in [DiskFault::DieBefore, DiskFault::DieAfter, DiskFault::Tear] {
            let disk = SimDisk::new();
            disk.fail_at(step, fault);
            let _ = run(&job, &disk).await;
            let disk = disk.after_kill();
            if let Err(problem) = heal(&job, &disk, &expected).await {
                panic!("after {fault:?} at step {step}: {problem}");
            }
        }
    }
}

#[tokio::test]
async fn what_was_reported_as_done_survives_a_power_cut() {
    let (place, expected) = setup();
    let job = job(&place, "disk");
    let disk = SimDisk::new();
    run(&job, &disk).await.unwrap();
    for seed in 0..20 {
        let disk = disk.after_power_cut(seed);
        let (rows, _) = output(&disk).await;
        oracle::assert_same(rows, expected.rows.clone(), &format!("seed {seed}"));
        expected.check_checkpoint(&disk, CHECKPOINT).await.unwrap();
    }
}
