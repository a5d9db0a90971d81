//! Disks that are full, broken or not ours: an error that names the operation and the path, nothing
//! half-done in sight, and a restart that goes on as if nothing had been.

use std::path::{Path, PathBuf};
use std::process::Command;

use tidemill::Error;

use crate::support::harness::{Place, cause, ids};
use crate::support::oracle;
use crate::support::sim_disk::{DiskFault, SimDisk};
use crate::support::sim_query::SimQuery;

/// EIO, EACCES and ENOSPC.
const CODES: [i32; 3] = [5, 13, 28];

#[tokio::test]
async fn an_error_of_the_disk_names_operation_and_path_and_does_no_harm() {
    let query = SimQuery::new(2, "disk");
    let undisturbed = SimDisk::new();
    query.run(&undisturbed).await.unwrap();
    let mut failed = 0;
    for step in 0..undisturbed.steps() {
        for code in CODES {
            let disk = SimDisk::new();
            disk.fail_at(step, DiskFault::Error(code));
            let result = query.run(&disk).await;
            // What is visible is that of whole batches, whether or not the run has failed.
            let visible = ids(query.output(&disk).await.0);
            assert!(
                [&[][..], &[0, 1], &[0, 1, 10, 11]].contains(&&visible[..]),
                "{visible:?} after {code} at step {step}"
            );
            if let Err(error) = result {
                failed += 1;
                check_error(cause(&error), code, step);
            }
            // The fault comes only once: the disk is healed.
            if let Err(problem) = query.heal(&disk).await {
                panic!("after {code} at step {step}: {problem}");
            }
        }
    }
    // Only tidying up may fail without failing the query.
    assert!(failed > undisturbed.steps() * CODES.len() / 2, "only {failed} runs failed");
}

fn check_error(error: &Error, code: i32, step: usize) {
    let Error::Storage { operation, path, .. } = error else {
        panic!("not a storage error after {code} at step {step}: {error:?}");
    };
    assert!(!operation.is_empty() && path.starts_with('/'), "{error}");
    // As itself, or as the reason why the disk is not trusted any more.
    assert!(
        error.to_string().contains(&format!("(os error {code})")),
        "after {code} at step {step}: {error}"
    );
}

/// The real binary, running `sql` as far as there is input.
fn tidemill(script: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.arg("run").arg(script).args(["--trigger", "available-now", "--progress", "none"]);
    command
}

fn script(place: &Place, out: &str, checkpoint: &str) {
    let sql = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE input (id BIGINT, text VARCHAR) STORED AS JSON LOCATION '{}';
         CREATE EXTERNAL TABLE output STORED AS JSON LOCATION '{out}';
         CREATE STREAMING QUERY etl CHECKPOINT LOCATION '{checkpoint}' AS INSERT INTO output SELECT id, text FROM input;",
        place.text("in"),
    );
    place.put("job.sql", sql);
}

/// Rows of about 100 bytes.
fn lines(ids: std::ops::Range<i64>) -> String {
    let text = "x".repeat(80);
    ids.map(|id| format!("{{\"id\":{id},\"text\":\"{text}\"}}\n")).collect()
}

/// Rows that take about 100 kB.
fn large_input(place: &Place) {
    place.put("in/0.json", lines(0..1000));
}

#[test]
fn the_binary_survives_a_limit_on_file_sizes() {
    let place = Place::new();
    large_input(&place);
    script(&place, &place.text("out"), &place.text("checkpoint"));
    // RLIMIT_FSIZE: a larger file kills the process with SIGXFSZ, in the middle of a write.
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 16 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_tidemill")]);
    limited.args(tidemill(&place.path("job.sql")).get_args());
    let ended = limited.output().unwrap();
    assert!(!ended.status.success());
    assert_eq!(oracle::visible(&place.path("out")), Vec::<String>::new());

    assert!(tidemill(&place.path("job.sql")).output().unwrap().status.success());
    assert_eq!(ids(place.rows("json", &[])), (0..1000).collect::<Vec<_>>());
    assert_eq!(oracle::hidden(&place.path("out")), Vec::<String>::new());
}

#[test]
fn the_binary_survives_a_full_disk() {
    let place = Place::new();
    large_input(&place);
    std::fs::create_dir(place.path("small")).unwrap();
    let Some(_mounted) = Mount::tmpfs(place.path("small"), "64k") else {
        eprintln!("SKIPPED the_binary_survives_a_full_disk: no tmpfs can be mounted here");
        return;
    };
    script(&place, &place.text("small/out"), &place.text("checkpoint"));
    let ended = tidemill(&place.path("job.sql")).output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("No space left on device") && stderr.contains("small/out"), "{stderr}");
    assert_eq!(oracle::visible(&place.path("small/out")), Vec::<String>::new());

    let grown =
        Command::new("mount").args(["-o", "remount,size=1m"]).arg(place.path("small")).status().unwrap();
    assert!(grown.success());
    assert!(tidemill(&place.path("job.sql")).output().unwrap().status.success());
    let rows = oracle::read_dir(&place.path("small/out"), "json", &[]);
    assert_eq!(ids(rows), (0..1000).collect::<Vec<_>>());
}

#[test]
fn the_binary_survives_a_full_disk_under_state_that_does_not_fit_into_memory() {
    let place = Place::new();
    large_input(&place);
    std::fs::create_dir(place.path("small")).unwrap();
    let Some(_mounted) = Mount::tmpfs(place.path("small"), "64k") else {
        eprintln!("SKIPPED: no tmpfs can be mounted here");
        return;
    };
    let sql = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE input (id BIGINT, text VARCHAR) STORED AS JSON LOCATION '{}';
         CREATE EXTERNAL TABLE output STORED AS JSON LOCATION '{}';
         CREATE STREAMING QUERY etl CHECKPOINT LOCATION '{}' OPTIONS ('stateMemoryLimit' '20kb')
         AS INSERT INTO output SELECT DISTINCT id, text FROM input;",
        place.text("in"),
        place.text("out"),
        place.text("checkpoint"),
    );
    place.put("job.sql", sql);
    let run = || tidemill(&place.path("job.sql")).env("TMPDIR", place.path("small")).output().unwrap();
    for _ in 0..2 {
        let ended = run();
        let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{stderr}");
        let directory = place.text("small");
        for part in ["No space left on device", &directory, "temp_directory (TMPDIR", "stateMemoryLimit"] {
            assert!(stderr.contains(part), "no '{part}' in: {stderr}");
        }
        assert_eq!(oracle::visible(&place.path("out")), Vec::<String>::new());
        // Files without names: a failed run leaves nothing behind.
        assert_eq!(oracle::walk(&place.path("small")), Vec::<String>::new());
    }
    let grown =
        Command::new("mount").args(["-o", "remount,size=8m"]).arg(place.path("small")).status().unwrap();
    assert!(grown.success());
    let ended = run();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    // Half of the next rows are known.
    place.put("in/1.json", lines(500..1500));
    let ended = run();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(ids(place.rows("json", &[])), (0..1500).collect::<Vec<_>>());
    assert_eq!(oracle::hidden(&place.path("out")), Vec::<String>::new());
}

/// State on the disk in many files, which the process may have few of.
#[test]
fn the_binary_raises_its_limit_of_open_files_as_far_as_it_may() {
    let place = Place::new();
    large_input(&place);
    let sql = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE input (id BIGINT, text VARCHAR) STORED AS JSON LOCATION '{}';
         CREATE EXTERNAL TABLE output STORED AS JSON LOCATION '{}';
         CREATE STREAMING QUERY etl CHECKPOINT LOCATION '{}' OPTIONS ('stateMemoryLimit' '1B', 'statePartitions' 200)
         AS INSERT INTO output SELECT DISTINCT id, text FROM input;",
        place.text("in"),
        place.text("out"),
        place.text("checkpoint"),
    );
    place.put("job.sql", sql);
    let run = |limit: &str| {
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit {limit} 128 && exec \"$0\" \"$@\"")]);
        limited.arg(env!("CARGO_BIN_EXE_tidemill")).args(tidemill(&place.path("job.sql")).get_args());
        limited.output().unwrap()
    };
    // The one that may not be raised.
    let ended = run("-n");
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("raise the limit (ulimit -n)"), "{stderr}");
    assert_eq!(oracle::visible(&place.path("out")), Vec::<String>::new());
    // The one that may.
    let ended = run("-S -n");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(ids(place.rows("json", &[])), (0..1000).collect::<Vec<_>>());
}

/// A file system that is mounted as long as this lives.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: PathBuf, size: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&at);
        mount.output().is_ok_and(|ended| ended.status.success()).then_some(Self(at))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
