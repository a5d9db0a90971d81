//! `compactAfter`: small files of old batches become one, while others read them and whatever interrupts it.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::arrow::datatypes::DataType;
use tidemill::prelude::*;

use crate::support::harness::{Input, Job, Place, cause, schema, session};
use crate::support::oracle::visible;
use crate::support::outcome::copy_tree;

/// Writes `files` files of two rows each, one of which comes with a batch.
fn plain_job(place: &Place, files: std::ops::Range<i64>, format: &str) -> Job {
    for file in files {
        let lines = [0, 1].map(|row| format!("{{\"id\":{},\"k\":\"k{row}\"}}\n", file * 2 + row));
        place.put(&format!("in/{file:05}.json"), lines.concat());
    }
    let input = Input::new("input", "json", place.text("in"))
        .schema(schema(&[("id", DataType::Int64), ("k", DataType::Utf8)]));
    Job::new(place).inputs([input]).sql("SELECT id, k FROM input").format(format).files_per_trigger(1)
}

/// The same; batches that are older than the last two are forgotten, and three of their files are one.
fn job(place: &Place, files: std::ops::Range<i64>, format: &str) -> Job {
    plain_job(place, files, format).option("minBatchesToRetain", 2).option("compactAfter", 3)
}

/// The ids that DataFusion reads, sorted.
async fn ids(place: &Place, format: &str, partitioned: bool) -> Vec<i64> {
    let session = Session::new();
    let columns = if format == "text" { "k VARCHAR" } else { "id BIGINT, k VARCHAR" };
    let partitions = if partitioned { "PARTITIONED BY (k)" } else { "" };
    let table = format!(
        "CREATE EXTERNAL TABLE t ({columns}) STORED AS {format} {partitions} LOCATION '{}'",
        place.text("out")
    );
    session.context().sql(&table).await.unwrap().collect().await.unwrap();
    let rows = session.context().sql("SELECT id FROM t ORDER BY id").await.unwrap().collect().await.unwrap();
    let ids = rows.iter().flat_map(|batch| {
        let ids = datafusion::arrow::array::AsArray::as_primitive::<datafusion::arrow::datatypes::Int64Type>(
            batch.column(0),
        );
        ids.values().to_vec()
    });
    ids.collect()
}

/// What is in the folder besides input, output and checkpoint.
fn beside(place: &Place) -> Vec<String> {
    let names = std::fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| !["in", "out", "checkpoint"].contains(&name.as_str())).collect()
}

#[tokio::test]
async fn small_files_of_old_batches_become_one_in_every_format() {
    for (format, options, partitioned) in [
        ("parquet", &[][..], false),
        ("parquet", &[("compression", "snappy")][..], true),
        ("json", &[][..], true),
        ("json", &[("compression", "zstd")][..], false),
        ("csv", &[][..], false),
        ("csv", &[("compression", "gzip")][..], false),
        ("arrow", &[][..], false),
    ] {
        let place = Place::new();
        let mut job = job(&place, 0..12, format);
        for (name, value) in options {
            job = job.option(name, value);
        }
        if partitioned {
            job = job.partition_by(&["k"]);
        }
        job.run(&session()).await.unwrap();
        let what = format!("{format} {options:?}");
        let files = visible(&place.path("out"));
        let merged = files.iter().filter(|file| file.contains("-merged1-0-")).count();
        assert_eq!(merged, if partitioned { 2 } else { 1 }, "{what}: {files:?}");
        // What the checkpoint still has is as it was published.
        for batch in 10..12 {
            assert!(files.iter().any(|file| file.contains(&format!("-{batch:010}-"))), "{what}: {files:?}");
        }
        assert!(files.len() <= merged * 5, "{what}: {files:?}");
        assert_eq!(beside(&place), [""; 0], "{what}");
        if !options.iter().any(|(name, value)| *name == "compression" && *value != "snappy") {
            assert_eq!(ids(&place, format, partitioned).await, (0..24).collect::<Vec<_>>(), "{what}");
        }
    }
}

#[tokio::test]
async fn what_was_merged_is_merged_again_and_no_row_often() {
    let place = Place::new();
    job(&place, 0..120, "json").run(&session()).await.unwrap();
    let files = visible(&place.path("out"));
    assert!(files.len() < 25, "{files:?}");
    assert!(files.iter().any(|file| file.contains("-merged2-") || file.contains("-merged3-")), "{files:?}");
    assert_eq!(ids(&place, "json", false).await, (0..240).collect::<Vec<_>>());
    // A restart finds what earlier runs left, also where it writes nothing itself.
    let again = job(&place, 120..150, "json").option("compactAfter", 2);
    again.run(&session()).await.unwrap();
    assert_eq!(ids(&place, "json", false).await, (0..300).collect::<Vec<_>>());
}

/// What another query is about to publish is below the directory that would change places.
#[tokio::test]
async fn a_directory_of_several_queries_is_left_as_it_is() {
    for theirs in ["part-00000-0000000000-00000000000000000000000000000007.json", ".tidemill/00-00-0-0-0.tmp"]
    {
        let place = Place::new();
        place.put(&format!("out/{theirs}"), "");
        job(&place, 0..12, "json").option("existingOutput", "allow").run(&session()).await.unwrap();
        let files = visible(&place.path("out"));
        assert!(files.iter().all(|file| !file.contains("merged")), "{theirs}: {files:?}");
        assert!(place.path("out").join(theirs).exists(), "{theirs}");
    }
}

/// A run that merged has died in the middle of an exchange, and the next one does not merge.
#[tokio::test]
async fn what_a_run_left_is_settled_by_one_that_does_not_merge() {
    let place = Place::new();
    plain_job(&place, 0..3, "json").run(&session()).await.unwrap();
    let left = ".out.0123456789abcdef0123456789abcdef.compact";
    place.put(&format!("{left}/part-00000-0000000009-00000000000000000000000000000007.json"), "");
    place.put(&format!("{left}/.compacted"), "");
    // Nobody's but the user's.
    for mine in [".out.backup.compact/a", ".out.0123.compact"] {
        place.put(mine, "mine");
    }
    plain_job(&place, 3..5, "json").run(&session()).await.unwrap();
    let mut beside = beside(&place);
    beside.sort();
    assert_eq!(beside, [".out.0123.compact", ".out.backup.compact"]);
}

/// The lines of one listing; `None` if a file was replaced between the listing and its opening.
fn listed(directory: &Path) -> Option<Vec<String>> {
    let which = || std::fs::metadata(directory).ok().map(|directory| directory.ino());
    let before = which()?;
    let names: Vec<_> = std::fs::read_dir(directory).ok()?.map(|entry| entry.unwrap().path()).collect();
    // It may have been opened after it was looked at, and before it was replaced.
    if which()? != before {
        return None;
    }
    let mut rows = Vec::new();
    for path in names.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        rows.extend(std::fs::read_to_string(path).ok()?.lines().map(str::to_string));
    }
    Some(rows)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lists_all_the_while_sees_every_row_once() {
    let place = Place::new();
    let job = job(&place, 0..80, "json").option("compactAfter", 2);
    let ended = Arc::new(AtomicBool::new(false));
    let (out, over) = (place.path("out"), Arc::clone(&ended));
    let reader = std::thread::spawn(move || {
        let (mut looks, mut most, mut merged) = (0, 0, false);
        while !over.load(Ordering::SeqCst) {
            let Some(rows) = listed(&out) else { continue };
            let once: BTreeSet<&String> = rows.iter().collect();
            assert_eq!(once.len(), rows.len(), "rows twice");
            assert!(rows.len() >= most, "{} rows after {most}", rows.len());
            (looks, most) = (looks + 1, rows.len());
            merged |= std::fs::read_dir(&out)
                .unwrap()
                .any(|entry| entry.unwrap().file_name().to_string_lossy().contains("-merged"));
        }
        (looks, merged)
    });
    job.run(&session()).await.unwrap();
    ended.store(true, Ordering::SeqCst);
    let (looks, merged) = reader.join().unwrap();
    assert!(looks > 50 && merged, "{looks} looks");
    assert_eq!(listed(&place.path("out")).unwrap().len(), 160);
}

#[tokio::test]
async fn a_checkpoint_from_a_backup_does_not_write_merged_rows_again() {
    let place = Place::new();
    job(&place, 0..5, "json").run(&session()).await.unwrap();
    copy_tree(&place.path("checkpoint"), &place.path("backup"));
    let later = job(&place, 5..30, "json");
    later.run(&session()).await.unwrap();
    let all = visible(&place.path("out"));
    std::fs::remove_dir_all(place.path("checkpoint")).unwrap();
    std::fs::rename(place.path("backup"), place.path("checkpoint")).unwrap();
    for _ in 0..2 {
        let error = later.run(&session()).await.unwrap_err();
        let told = cause(&error).to_string();
        assert!(told.contains("further than the checkpoint"), "{told}");
        assert_eq!(visible(&place.path("out")), all);
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_said_at_the_start_or_once() {
    let place = Place::new();
    for (value, reason) in [("1", "at least 2"), ("x", "compactAfter")] {
        let error =
            job(&place, 0..1, "json").option("compactAfter", value).run(&session()).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let both = job(&place, 0..1, "json").option("maxRecordsPerFile", 5);
    let error = both.run(&session()).await.unwrap_err();
    assert!(error.to_string().contains("set targetFileSize instead"), "{error}");
    // A link cannot change places with a directory: the query goes on, and its files stay as they are.
    let place = Place::new();
    let job = job(&place, 0..15, "json").partition_by(&["k"]);
    for k in ["k0", "k1"] {
        std::fs::create_dir_all(place.path(&format!("elsewhere/{k}"))).unwrap();
        std::fs::create_dir_all(place.path("out")).unwrap();
        let link = place.path(&format!("out/k={k}"));
        std::os::unix::fs::symlink(place.path(&format!("elsewhere/{k}")), link).unwrap();
    }
    job.run(&session()).await.unwrap();
    for k in ["k0", "k1"] {
        assert_eq!(visible(&place.path(&format!("elsewhere/{k}"))).len(), 15);
    }
    assert_eq!(beside(&place), ["elsewhere"]);
}
