//! `tidemill compact`: many small files become few, and readers see every row once at any time.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Folder;

fn job(format: &str, partitioned: &str) -> String {
    format!(
        "CREATE UNBOUNDED EXTERNAL TABLE input (id BIGINT, k VARCHAR) STORED AS JSON LOCATION 'in' OPTIONS \
         ('maxFilesPerTrigger' '1');
         CREATE EXTERNAL TABLE output STORED AS {format} {partitioned} LOCATION 'out';
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'cp' OPTIONS ('durability' 'process')
         AS INSERT INTO output SELECT id, k FROM input;"
    )
}

fn run(folder: &Folder, arguments: &[&str]) -> String {
    let (code, out, err) = folder.run(arguments);
    assert_eq!(code, 0, "{arguments:?}: {err}");
    out
}

/// The names of all files below `out`.
fn files(folder: &Folder) -> Vec<String> {
    let root = folder.0.path().join("out");
    let all = walkdir::WalkDir::new(&root).sort_by_file_name().into_iter().flatten();
    let files = all.filter(|entry| entry.file_type().is_file());
    files.map(|entry| entry.path().strip_prefix(&root).unwrap().display().to_string()).collect()
}

fn rows(folder: &Folder, format: &str, partitioned: &str) -> String {
    let table = format!(
        "CREATE EXTERNAL TABLE o (id BIGINT, k VARCHAR) STORED AS {format} {partitioned} LOCATION 'out'"
    );
    run(folder, &["sql", "--format", "csv", "-c", &format!("{table}; SELECT id, k FROM o ORDER BY id")])
}

#[test]
fn files_are_merged_and_rows_stay() {
    for (format, partitioned) in
        [("PARQUET", ""), ("JSON", "PARTITIONED BY (k)"), ("CSV", ""), ("PARQUET", "PARTITIONED BY (k)")]
    {
        let folder = Folder::new();
        folder.write("job.sql", &job(format, partitioned));
        for file in 0..6 {
            let lines: String = (0..4)
                .map(|row| format!("{{\"id\":{},\"k\":\"{}\"}}\n", file * 4 + row, ["a", "b"][row % 2]))
                .collect();
            folder.write(&format!("in/{file}.json"), &lines);
        }
        run(&folder, &["run", "job.sql", "--progress", "none"]);
        let (before, there) = (files(&folder), rows(&folder, format, partitioned));
        let per_directory = if partitioned.is_empty() { 1 } else { 2 };
        assert!(before.len() >= 6 * per_directory && there.lines().count() == 25, "{format}: {before:?}");
        let dry = run(&folder, &["compact", "out", "--dry-run"]);
        assert!(dry.contains("would merge 6 files into 1") && files(&folder) == before, "{format}: {dry}");
        let told = run(&folder, &["compact", "out"]);
        assert!(told.contains("merged 6 files into 1"), "{format}: {told}");
        let after = files(&folder);
        assert_eq!(after.len(), per_directory, "{format}: {after:?}");
        assert_eq!(rows(&folder, format, partitioned), there, "{format} {partitioned}");
        assert!(run(&folder, &["compact", "out"]).contains("there is nothing to merge"), "{format}");

        // The query goes on, beside what was merged.
        folder.write("in/9.json", "{\"id\":99,\"k\":\"a\"}\n");
        run(&folder, &["run", "job.sql", "--progress", "none"]);
        assert_eq!(rows(&folder, format, partitioned), format!("{there}99,a\n"), "{format}");
        let hidden = std::fs::read_dir(folder.0.path()).unwrap().flatten();
        let hidden: Vec<_> = hidden
            .map(|entry| entry.file_name())
            .filter(|name| name.to_string_lossy().starts_with('.'))
            .collect();
        assert!(hidden.is_empty(), "{hidden:?}");
    }
}

/// The rows of one listing; `None` if the directory was replaced while it was listed, or a file between the listing
/// and its opening.
fn listed(directory: &Path) -> Option<Vec<String>> {
    let which = || std::fs::metadata(directory).unwrap().ino();
    let before = which();
    let names: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    if which() != before {
        return None;
    }
    let mut rows = Vec::new();
    for path in names.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        rows.extend(std::fs::read_to_string(path).ok()?.lines().map(str::to_string));
    }
    rows.sort();
    Some(rows)
}

#[test]
fn a_reader_beside_it_sees_every_row_once() {
    let folder = Folder::new();
    let out = folder.0.path().join("out");
    let write = |round: usize| {
        for file in 0..40 {
            folder.write(
                &format!("out/part-{round}-{file:02}.json"),
                &format!("{{\"id\":\"{round}-{file:02}\"}}\n"),
            );
        }
    };
    write(0);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !ended.load(Ordering::SeqCst) {
                if let Some(rows) = listed(&out) {
                    let first: Vec<_> = rows.iter().filter(|row| row.contains("\"0-")).collect();
                    assert_eq!(first.len(), 40, "{rows:?}");
                    assert!(rows.windows(2).all(|pair| pair[0] != pair[1]), "{rows:?}");
                    seen += 1;
                }
            }
            seen
        });
        for round in 1..5 {
            let told = run(&folder, &["compact", "out"]);
            assert!(told.contains("merged"), "{told}");
            write(round);
        }
        ended.store(true, Ordering::SeqCst);
        assert!(reader.join().unwrap() > 5);
    });
}

#[test]
fn what_a_command_left_that_died_is_put_right() {
    let folder = Folder::new();
    // It died before the exchange…
    folder.write("out/a.json", "1\n");
    folder.write("out/b.json", "2\n");
    folder.write(".out.01230123012301230123012301230123.compact/part-compacted-0.json", "1\n2\n");
    folder.write(".out.01230123012301230123012301230123.compact/.compacted", "a.json\nb.json");
    run(&folder, &["compact", "out", "--target-size", "1"]);
    assert_eq!(files(&folder), ["a.json", "b.json"]);
    // …or after it, when another file had come to the old one.
    folder.write(".out.04560456045604560456045604560456.compact/a.json", "1\n");
    folder.write(".out.04560456045604560456045604560456.compact/c.json", "3\n");
    folder.write("out/.compacted", "a.json\nb.json");
    // That of another directory is its own business.
    folder.write(".out.b.07890789078907890789078907890789.compact/a.json", "1\n");
    run(&folder, &["compact", "out", "--target-size", "1"]);
    assert_eq!(files(&folder), ["a.json", "b.json", "c.json"]);
    assert!(!folder.0.path().join(".out.04560456045604560456045604560456.compact").exists());
    assert!(folder.0.path().join(".out.b.07890789078907890789078907890789.compact").exists());

    std::fs::create_dir(folder.0.path().join("out/.tidemill")).unwrap();
    let (code, _, err) = folder.run(&["compact", "out"]);
    assert!(code == 1 && err.contains("a query writes to"), "{err}");
    let (code, _, err) = folder.run(&["compact", "s3://bucket/out"]);
    assert!(code != 0 && err.contains("not on a local disk"), "{err}");
}

/// Every row that a reader finds who passes over hidden files and directories.
fn visible(folder: &Folder) -> Vec<String> {
    let root = folder.0.path().join("out");
    let is_shown = |entry: &walkdir::DirEntry| !entry.file_name().to_string_lossy().starts_with('.');
    let all = walkdir::WalkDir::new(root).into_iter().filter_entry(is_shown).flatten();
    let files = all.filter(|entry| entry.file_type().is_file());
    let mut rows: Vec<String> = files
        .flat_map(|entry| {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            text.lines().map(ToString::to_string).collect::<Vec<_>>()
        })
        .collect();
    rows.sort();
    rows
}

/// Killed at each of its changes of the disk, the command leaves every row there once, and the next finishes it.
#[test]
fn a_kill_at_any_call_loses_no_row() {
    const CALLS: &str =
        "mkdir,mkdirat,link,linkat,rename,renameat,renameat2,unlink,unlinkat,rmdir,fsync,fdatasync";
    let traces = std::process::Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    if !traces.is_ok_and(|ended| ended.status.success()) {
        eprintln!("SKIPPED: strace is not installed or may not trace; compaction is not killed");
        return;
    }
    let names = ["k=a/0.json", "k=a/1.json", "k=a/2.json", "k=b/0.json", "k=b/1.json"];
    let mut killed = 0;
    loop {
        let folder = Folder::new();
        for name in names {
            folder.write(&format!("out/{name}"), &format!("{{\"id\":\"{name}\"}}\n"));
        }
        let before = visible(&folder);
        let inject = format!("inject={CALLS}:signal=SIGKILL:when={}", killed + 1);
        let ended = std::process::Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &format!("trace={CALLS}"), "-e", &inject])
            .args([env!("CARGO_BIN_EXE_tidemill"), "compact", "out"])
            .current_dir(folder.0.path())
            .output()
            .unwrap();
        assert_eq!(visible(&folder), before, "killed at call {}", killed + 1);
        if ended.status.success() {
            break;
        }
        killed += 1;
        assert!(killed < 200, "{ended:?}");
        run(&folder, &["compact", "out"]);
        assert_eq!(visible(&folder), before, "after call {killed}");
        assert_eq!(files(&folder).len(), 2, "after call {killed}: {:?}", files(&folder));
        let beside = std::fs::read_dir(folder.0.path()).unwrap().count();
        assert_eq!(beside, 1, "after call {killed}, something was left beside the directory");
    }
    assert!(killed > 8, "it was killed {killed} times only");
}

/// Killed at each of its changes of the output, a query that merges its files leaves every row there once, and the next
/// run goes on.
#[test]
fn a_query_that_merges_its_files_may_be_killed_at_any_call() {
    const CALLS: &str = "rename,renameat,renameat2,unlinkat,rmdir,fsync";
    let traces = std::process::Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    if !traces.is_ok_and(|ended| ended.status.success()) {
        eprintln!("SKIPPED: strace is not installed or may not trace; no query is killed while it merges");
        return;
    }
    let merging = job("JSON", "")
        .replace("LOCATION 'out'", "LOCATION 'out' OPTIONS ('compactAfter' '3')")
        .replace("'durability' 'process'", "'durability' 'process', 'minBatchesToRetain' '2'");
    let start = || {
        let folder = Folder::new();
        folder.write("job.sql", &merging);
        (0..9).for_each(|file| folder.write(&format!("in/{file}.json"), &format!("{{\"id\":{file}}}\n")));
        run(&folder, &["run", "job.sql", "--progress", "none"]);
        (9..11).for_each(|file| folder.write(&format!("in/{file}.json"), &format!("{{\"id\":{file}}}\n")));
        folder
    };
    let rows = |folder: &Folder| {
        let mut ids: Vec<u64> = visible(folder)
            .iter()
            .map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap()["id"].as_u64().unwrap())
            .collect();
        ids.sort_unstable();
        ids
    };
    let mut killed = 0;
    loop {
        let folder = start();
        let before = rows(&folder);
        let inject = format!("inject={CALLS}:signal=SIGKILL:when={}", killed + 1);
        let ended = std::process::Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &format!("trace={CALLS}"), "-e", &inject])
            .args([env!("CARGO_BIN_EXE_tidemill"), "run", "job.sql", "--progress", "none"])
            .current_dir(folder.0.path())
            .output()
            .unwrap();
        let found = rows(&folder);
        let what = format!("killed at call {}: {found:?}", killed + 1);
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{what}");
        assert!(before.iter().all(|row| found.contains(row)), "{what}");
        if ended.status.success() {
            assert!(files(&folder).iter().any(|file| file.contains("-merged1-")), "{:?}", files(&folder));
            break;
        }
        killed += 1;
        assert!(killed < 100, "{ended:?}");
        folder.write("in/99.json", "{\"id\":99}\n");
        run(&folder, &["run", "job.sql", "--progress", "none"]);
        assert_eq!(rows(&folder), (0..11).chain([99]).collect::<Vec<_>>(), "after {what}");
        let hidden = std::fs::read_dir(folder.0.path()).unwrap().flatten().map(|entry| entry.file_name());
        let hidden: Vec<_> = hidden.filter(|name| name.to_string_lossy().starts_with('.')).collect();
        assert!(hidden.is_empty(), "after {what}: {hidden:?}");
    }
    assert!(killed > 5, "it was killed {killed} times only");
}

/// Batches that can be gone back to have their files, whatever was merged.
#[test]
fn a_query_that_merges_its_files_can_be_rewound() {
    let folder = Folder::new();
    let merging = job("JSON", "PARTITIONED BY (k)")
        .replace("LOCATION 'out'", "LOCATION 'out' OPTIONS ('compactAfter' '3')")
        .replace("'durability' 'process'", "'durability' 'process', 'minBatchesToRetain' '4'");
    folder.write("job.sql", &merging);
    for file in 0..25 {
        folder.write(&format!("in/{file:02}.json"), &format!("{{\"id\":{file},\"k\":\"a\"}}\n"));
    }
    run(&folder, &["run", "job.sql", "--progress", "none"]);
    let all = rows(&folder, "JSON", "PARTITIONED BY (k)");
    assert!(files(&folder).iter().any(|file| file.contains("-merged")), "{:?}", files(&folder));
    // What batches did whose files were merged is not known any more.
    let (code, _, err) = folder.run(&["checkpoint", "rewind", "cp", "--to", "5", "--remove-output"]);
    assert!(code != 0 && err.contains("batch 5"), "{err}");
    let told = run(&folder, &["checkpoint", "rewind", "cp", "--to", "21", "--remove-output"]);
    assert!(told.contains("These files were removed"), "{told}");
    assert!(!told.contains("not there any more"), "{told}");
    let left = rows(&folder, "JSON", "PARTITIONED BY (k)");
    assert_eq!(left.lines().count(), 21 + 2, "{left}");
    run(&folder, &["run", "job.sql", "--progress", "none"]);
    assert_eq!(rows(&folder, "JSON", "PARTITIONED BY (k)"), all);
    // What it had written is what it writes again.
    let told = run(&folder, &["replay", "cp", "--batch", "24", "--sql", "job.sql", "--diff"]);
    assert!(told.contains("gives the rows that it has written"), "{told}");
}

/// Values of one file must not come under the names of another's columns.
#[test]
fn csv_files_with_other_headers_are_not_put_together() {
    let folder = Folder::new();
    folder.write("out/a.csv", "id,k\n1,a\n");
    folder.write("out/b.csv", "k,id\nb,2\n");
    let (code, _, err) = folder.run(&["compact", "out"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("'id,k'") && err.contains("'k,id'") && err.contains("b.csv"), "{err}");
    assert_eq!(files(&folder), ["a.csv", "b.csv"]);
    folder.write("out/b.csv", "id,k\r\n2,b\r\n");
    run(&folder, &["compact", "out"]);
    let there = files(&folder);
    assert_eq!(there.len(), 1, "{there:?}");
    let merged = std::fs::read_to_string(folder.0.path().join("out").join(&there[0])).unwrap();
    assert_eq!(merged, "id,k\n1,a\n2,b\r\n");
}

/// What stands one behind the other must be lines.
#[test]
fn json_that_is_no_lines_is_not_put_together() {
    let folder = Folder::new();
    folder.write("out/a.json", "{\"id\":1}");
    folder.write("out/b.json", "\u{feff}{\"id\":2}\n");
    run(&folder, &["compact", "out"]);
    let there = files(&folder);
    assert_eq!(there.len(), 1, "{there:?}");
    let merged = std::fs::read_to_string(folder.0.path().join("out").join(&there[0])).unwrap();
    assert_eq!(merged, "{\"id\":1}\n{\"id\":2}\n");
    for other in ["[{\"id\":3}]", "{\n  \"id\": 3\n}\n"] {
        folder.write("out/z.json", other);
        let (code, _, err) = folder.run(&["compact", "out"]);
        assert!(code == 1 && err.contains("z.json' does not begin with a JSON object on a line"), "{err}");
        assert_eq!(files(&folder).len(), 2);
    }
}

/// A damaged file is not made part of a good one.
#[test]
fn damaged_files_are_not_put_together() {
    let folder = Folder::new();
    let copy = "COPY (SELECT 1 AS a, 'x' AS b) TO 'out/a.parquet' STORED AS PARQUET";
    run(&folder, &["sql", "-c", copy]);
    std::fs::write(folder.0.path().join("out/b.parquet"), crate::file_source::with_fewer_values()).unwrap();
    let (code, _, err) = folder.run(&["compact", "out"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("have 59 values, and its footer says 60"), "{err}");
    assert_eq!(files(&folder), ["a.parquet", "b.parquet"]);
}

#[test]
fn batches_whose_files_were_merged_cannot_be_gone_back_over() {
    let folder = Folder::new();
    folder.write("job.sql", &job("JSON", ""));
    let input =
        |file: u64| folder.write(&format!("in/{file}.json"), &format!("{{\"id\":{file},\"k\":\"a\"}}\n"));
    (1..=3).for_each(input);
    run(&folder, &["run", "job.sql", "--progress", "none"]);
    run(&folder, &["compact", "out"]);
    let there = rows(&folder, "JSON", "");
    for flags in [&["--remove-output"][..], &[], &["--dry-run"], &["--dry-run", "--remove-output"]] {
        let (code, out, err) = folder.run(&[&["checkpoint", "rewind", "cp", "--to", "0"], flags].concat());
        assert_eq!((code, out.as_str()), (1, ""), "{flags:?}: {err}");
        assert!(err.contains("batch 0 cannot be gone back to: 'part-00000-0000000001-"), "{err}");
        assert!(err.contains("of batch 1 is not there any more, and 'part-compacted-"), "{err}");
    }
    run(&folder, &["run", "job.sql", "--progress", "none"]);
    assert_eq!(rows(&folder, "JSON", ""), there);

    // What came after can be, also when a removal was interrupted; and what is told is so.
    (4..=6).for_each(input);
    run(&folder, &["run", "job.sql", "--progress", "none"]);
    let all = rows(&folder, "JSON", "");
    let new: Vec<_> = files(&folder).into_iter().filter(|file| !file.contains("compacted")).collect();
    assert_eq!(new.len(), 3, "{new:?}");
    std::fs::remove_file(folder.0.path().join("out").join(&new[1])).unwrap();
    let back = ["checkpoint", "rewind", "cp", "--to", "2", "--remove-output"];
    let told = run(&folder, &[&back[..], &["--dry-run"]].concat());
    assert!(told.contains("has 2 rows of that already, in 2 files"), "{told}");
    assert!(told.contains("1 file with 1 row is not there any more, part-00000-0000000004-"), "{told}");
    let told = run(&folder, &back);
    assert!(told.ends_with("These files were removed\n"), "{told}");
    assert_eq!(rows(&folder, "JSON", ""), there);
    run(&folder, &["run", "job.sql", "--progress", "none"]);
    assert_eq!(rows(&folder, "JSON", ""), all);
}
