//! The order of the real binary's system calls, as `strace` sees them: nothing is built on what a
//! power cut could still take back.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::support::harness::{Place, id_lines};
use crate::support::oracle;

const CALLS: &str = "openat,write,pwrite64,writev,fsync,fdatasync,sync_file_range,syncfs,sync,rename,renameat,\
                     renameat2,link,linkat,mkdir,mkdirat";
const FILES: i64 = 3;

/// A system call that succeeded, and between which lines of the trace it ran.
#[derive(Debug)]
struct Call {
    name: String,
    /// The files it names: of the descriptor, or of the paths.
    paths: Vec<String>,
    began: usize,
    ended: usize,
}

impl Call {
    fn is_sync_of(&self, path: &str) -> bool {
        matches!(self.name.as_str(), "fsync" | "fdatasync") && self.paths == [path]
    }

    fn is_write_to(&self, path: &str) -> bool {
        matches!(self.name.as_str(), "write" | "pwrite64" | "writev") && self.paths == [path]
    }

    /// Whether it gives a file the name `path`.
    fn names(&self, path: &str) -> bool {
        (self.name.starts_with("rename") || self.name.starts_with("link")) && self.paths[1] == path
    }
}

/// Runs a small job of the real binary and gives its calls; `None` if they cannot be traced here.
fn trace(place: &Place, durability: &str) -> Option<Vec<Call>> {
    let traces = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    if !traces.is_ok_and(|ended| ended.status.success()) {
        eprintln!(
            "SKIPPED: strace is not installed or may not trace; the order of system calls is not checked"
        );
        return None;
    }
    for file in 0..FILES {
        place.put(&format!("in/{file}.json"), id_lines([file * 2, file * 2 + 1]));
    }
    let sql = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE input (id BIGINT) STORED AS JSON LOCATION '{}' OPTIONS ('maxFilesPerTrigger' '1');
         CREATE EXTERNAL TABLE output STORED AS PARQUET PARTITIONED BY (parity) LOCATION '{}';
         CREATE STREAMING QUERY etl CHECKPOINT LOCATION '{}' OPTIONS ('durability' '{durability}')
         AS INSERT INTO output SELECT id, id % 2 AS parity FROM input;",
        place.text("in"),
        place.text("out"),
        place.text("checkpoint"),
    );
    place.put("job.sql", sql);
    let ended = Command::new("strace")
        .args(["-f", "-y", "-s", "16", "-e", &format!("trace={CALLS}"), "-o"])
        .arg(place.path("trace"))
        .arg(env!("CARGO_BIN_EXE_tidemill"))
        .arg("run")
        .arg(place.path("job.sql"))
        .args(["--trigger", "available-now", "--progress", "none"])
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(place.ids(), (0..FILES * 2).collect::<Vec<_>>());
    let calls = parse(&std::fs::read_to_string(place.path("trace")).unwrap());
    assert!(calls.len() > 50, "only {} calls were traced", calls.len());
    Some(calls)
}

/// The calls in `strace -f -y -o` output, in the order in which they ended. A call during which
/// another thread did something takes two lines.
fn parse(text: &str) -> Vec<Call> {
    let mut open: BTreeMap<&str, (String, usize)> = BTreeMap::new();
    let mut calls = Vec::new();
    for (line, content) in text.lines().enumerate() {
        let Some((process, content)) = content.split_once(' ') else { continue };
        let content = content.trim_start();
        if let Some(begun) = content.strip_suffix("<unfinished ...>") {
            open.insert(process, (begun.to_string(), line));
        } else if let Some((_, rest)) =
            content.strip_prefix("<... ").and_then(|rest| rest.split_once("resumed>"))
        {
            if let Some((begun, began)) = open.remove(process) {
                calls.extend(call(&format!("{begun}{rest}"), began, line));
            }
        } else {
            calls.extend(call(content, line, line));
        }
    }
    calls
}

fn call(text: &str, began: usize, ended: usize) -> Option<Call> {
    let (name, arguments) = text.split_once('(')?;
    let (arguments, result) = arguments.rsplit_once(" = ")?;
    if result.starts_with('-') {
        return None;
    }
    let descriptor = || arguments.split_once('<').and_then(|(_, rest)| rest.split(['>', ',']).next());
    let mut quoted: Vec<String> = arguments.split('"').skip(1).step_by(2).map(str::to_string).collect();
    let paths = match name {
        "write" | "pwrite64" | "writev" | "fsync" | "fdatasync" => vec![descriptor()?.to_string()],
        _ => std::mem::take(&mut quoted),
    };
    Some(Call { name: name.to_string(), paths, began, ended })
}

/// What the trace says about the files of a job.
struct Trace<'a> {
    calls: &'a [Call],
}

impl Trace<'_> {
    fn find(&self, what: &str, is_it: impl Fn(&Call) -> bool) -> &Call {
        self.calls.iter().find(|call| is_it(call)).unwrap_or_else(|| panic!("there is no {what}"))
    }

    /// The line at which `path` was there for good: written, synced, named, and its directory
    /// synced, in this order.
    fn durable(&self, path: &str) -> usize {
        let naming = self.find(&format!("link or rename to {path}"), |call| call.names(path));
        let temporary = &naming.paths[0];
        let sync = self
            .last_before(&format!("fsync of {temporary}"), naming.began, |call| call.is_sync_of(temporary));
        let write = self
            .last_before(&format!("write to {temporary}"), naming.began, |call| call.is_write_to(temporary));
        assert!(write.ended < sync.began, "{temporary} was written to after its fsync");
        self.synced_after(parent(path), naming.ended)
    }

    /// The line at which the directory was synced after `line`.
    fn synced_after(&self, directory: &str, line: usize) -> usize {
        let sync = self.find(&format!("fsync of {directory} after line {line}"), |call| {
            call.is_sync_of(directory) && call.began > line
        });
        sync.ended
    }

    fn last_before(&self, what: &str, line: usize, is_it: impl Fn(&Call) -> bool) -> &Call {
        let found = self.calls.iter().rev().find(|call| call.ended < line && is_it(call));
        found.unwrap_or_else(|| panic!("there is no {what} before line {line}"))
    }
}

fn parent(path: &str) -> &str {
    Path::new(path).parent().unwrap().to_str().unwrap()
}

#[test]
fn every_file_is_durable_before_anything_depends_on_it() {
    let place = Place::new();
    let Some(calls) = trace(&place, "disk") else { return };
    let trace = Trace { calls: &calls };
    let checkpoint = |name: &str| place.text(&format!("checkpoint/{name}"));

    trace.durable(&checkpoint("fence/1"));
    let metadata = trace.durable(&checkpoint("metadata"));
    let published = oracle::visible(&place.path("out"));
    let mut previous_batch_visible = metadata;
    for batch in 0..FILES {
        let offsets_named =
            trace.find("offsets", |call| call.names(&checkpoint(&format!("offsets/{batch}"))));
        assert!(
            previous_batch_visible < offsets_named.began,
            "batch {batch} was planned before the one before it was safe"
        );
        let offsets = trace.durable(&checkpoint(&format!("offsets/{batch}")));
        let commit_named = trace.find("commit", |call| call.names(&checkpoint(&format!("commits/{batch}"))));
        assert!(offsets < commit_named.began, "batch {batch} was committed before its offsets were durable");
        let commit = trace.durable(&checkpoint(&format!("commits/{batch}")));

        let files: Vec<&String> =
            published.iter().filter(|name| name.contains(&format!("-{batch:010}-"))).collect();
        assert_eq!(files.len(), 2, "one per parity: {files:?}");
        for file in files {
            let file = place.text(&format!("out/{file}"));
            let publication = trace.find("publication", |call| call.names(&file));
            let staged = &publication.paths[0];
            assert!(staged.contains("/.tidemill/"), "{staged}");
            let written = trace.find("staged write", |call| call.is_write_to(staged));
            assert!(
                offsets < written.began,
                "rows of batch {batch} were written before its offsets were durable"
            );
            let synced =
                trace.last_before("fsync of staged rows", commit_named.began, |call| call.is_sync_of(staged));
            let named = trace.synced_after(parent(staged), synced.ended.min(written.ended));
            assert!(named < commit_named.began, "{staged} could be lost although batch {batch} is committed");
            assert!(
                commit < publication.began,
                "{file} was visible before batch {batch} was committed for good"
            );
            previous_batch_visible = previous_batch_visible.max(trace.durable(&file));
        }
    }
    new_directories_are_synced(&trace, &place.text(""));
}

/// A new directory's name is durable before a file in it is relied on.
fn new_directories_are_synced(trace: &Trace<'_>, root: &str) {
    let mut directories = 0;
    for made in
        trace.calls.iter().filter(|call| call.name.starts_with("mkdir") && call.paths[0].starts_with(root))
    {
        let directory = made.paths[0].trim_end_matches('/');
        let first = trace.calls.iter().find(|call| {
            (call.name.starts_with("link") || call.name.starts_with("rename"))
                && parent(&call.paths[1]) == directory
        });
        if let Some(first) = first {
            let synced = trace.synced_after(parent(directory), made.ended);
            assert!(
                synced < trace.synced_after(directory, first.ended),
                "{directory} could be lost with {first:?} in it"
            );
            directories += 1;
        }
    }
    assert!(directories >= 4, "only {directories} new directories were seen");
}

#[test]
fn durability_process_never_waits_for_the_disk() {
    let place = Place::new();
    let Some(calls) = trace(&place, "process") else { return };
    let syncs: Vec<&Call> = calls.iter().filter(|call| call.name.contains("sync")).collect();
    assert!(syncs.is_empty(), "{syncs:?}");
}

#[test]
fn traces_are_understood() {
    let text = r#"7 openat(AT_FDCWD</w>, "/c/.0.tmp", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0666) = 9</c/.0.tmp>
7 write(9</c/.0.tmp>, "tidemill-checkpo"..., 120) = 120
7 fsync(9</c/.0.tmp> <unfinished ...>
8 write(10</o/x>, "PAR1", 4) = 4
7 <... fsync resumed>) = 0
7 linkat(AT_FDCWD</w>, "/c/.0.tmp", AT_FDCWD</w>, "/c/0", 0) = 0
7 linkat(AT_FDCWD</w>, "/c/.0.tmp", AT_FDCWD</w>, "/c/0", 0) = -1 EEXIST (File exists)
7 fsync(11</c>) = 0
"#;
    let calls = parse(text);
    let shown: Vec<String> = calls
        .iter()
        .map(|call| format!("{} {} {}-{}", call.name, call.paths.join(" "), call.began, call.ended))
        .collect();
    assert_eq!(
        shown,
        [
            "openat /c/.0.tmp 0-0",
            "write /c/.0.tmp 1-1",
            "write /o/x 3-3",
            "fsync /c/.0.tmp 2-4",
            "linkat /c/.0.tmp /c/0 5-5",
            "fsync /c 7-7"
        ]
    );
    assert_eq!(Trace { calls: &calls }.durable("/c/0"), 7);
}
