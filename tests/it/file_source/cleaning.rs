//! Cleaning up, and directories that a Spark sink wrote.

use std::sync::Arc;

use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::json;
use tidemill::Options;
use tidemill::source::Admission;
use tidemill::source::file::FileTable;
use url::Url;

use super::{Input, ab, expected, json_lines, paths};

fn names(input: &Input, below: &str) -> String {
    let mut names: Vec<String> = std::fs::read_dir(input.path(below))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names.join(" ")
}

#[tokio::test]
async fn files_are_cleaned_up_after_their_batch() {
    for clean in ["delete", "archive"] {
        let input = Input::new();
        input.write("in/a", 1, json_lines(0..1));
        input.write("in/b", 2, json_lines(1..2));
        input.write("in/c", 3, json_lines(2..3));
        let archive = input.text("done");
        let mut options = vec![("cleanSource", clean), ("maxFilesPerTrigger", "2")];
        if clean == "archive" {
            options.push(("sourceArchiveDir", &archive));
        }
        let provider = input.resolve("json", "in", Some(ab()), &options).await.unwrap();
        let reader = input.reader(&provider);
        let batch = reader.plan().await;
        assert_eq!(names(&input, "in"), "a b c", "nothing happens before the commit");
        for _ in 0..2 {
            reader.source.commit(&batch).await.unwrap();
            assert_eq!(names(&input, "in"), "c");
            assert_eq!(names(&input, "done"), if clean == "archive" { "a b" } else { "" });
        }
        assert_eq!(paths(&reader.plan().await), ["c"]);
    }
}

/// Neither its name nor its size nor its time tells the file that was read from the one that is there.
#[cfg(unix)]
#[tokio::test]
async fn another_file_of_the_same_size_and_time_stays() {
    for clean in ["delete", "archive"] {
        let input = Input::new();
        let archive = input.text("done");
        let mut options = vec![("cleanSource", clean)];
        if clean == "archive" {
            options.push(("sourceArchiveDir", &archive));
        }
        for restarts in [false, true] {
            input.write("in/a", 1, json_lines(0..1));
            let provider = input.resolve("json", "in", Some(ab()), &options).await.unwrap();
            let mut reader = input.reader(&provider);
            let batch = reader.plan().await;
            std::fs::remove_file(input.path("in/a")).unwrap();
            input.write("in/a", 1, json_lines(2..3));
            if restarts {
                reader = input.reader(&provider);
                reader.source.restore(batch.end.clone(), batch.entries.clone()).await.unwrap();
            }
            reader.source.commit(&batch).await.unwrap();
            assert_eq!((names(&input, "in").as_str(), names(&input, "done").as_str()), ("a", ""));
            assert_eq!(std::fs::read_to_string(input.path("in/a")).unwrap(), json_lines(2..3));
        }
    }
}

/// On a store it is the tag that tells the file that was read from one of the same size that came in the same
/// millisecond, also after a restart.
#[tokio::test]
async fn another_object_of_the_same_size_stays() {
    for clean in ["delete", "archive"] {
        let input = Input::new();
        let store = Arc::new(InMemory::new());
        input
            .session
            .register_object_store(&Url::parse("memory://bucket/").unwrap(), Arc::clone(&store) as _);
        let put = async |name: &str, rows| {
            store.put(&ObjectPath::from(name), json_lines(rows).into()).await.unwrap();
        };
        let names = async || {
            let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
            let mut names: Vec<String> =
                listed.into_iter().map(|object| object.location.to_string()).collect();
            names.sort();
            names.join(" ")
        };
        let mut options = vec![("cleanSource", clean)];
        if clean == "archive" {
            options.push(("sourceArchiveDir", "memory://bucket/done"));
        }
        put("in/a", 0..1).await;
        put("in/b", 1..2).await;
        let options: Options = options.into_iter().collect();
        let state = input.session.state();
        let provider =
            FileTable::resolve("json", "memory://bucket/in", Some(ab()), Vec::new(), options, &state)
                .await
                .unwrap();
        let mut reader = input.reader(&provider);
        let batch = reader.plan().await;
        assert_eq!(reader.read(&batch).await.unwrap(), expected(0..2));
        assert!(batch.entries.iter().all(|entry| entry.get().contains("\"e\":")), "its tag is remembered");
        put("in/a", 2..3).await;
        for restarts in [false, true] {
            if restarts {
                reader = input.reader(&provider);
                reader.source.restore(batch.end.clone(), batch.entries.clone()).await.unwrap();
            }
            reader.source.commit(&batch).await.unwrap();
            let left = if clean == "archive" { "done/b in/a" } else { "in/a" };
            assert_eq!(names().await, left, "{clean}");
            let kept = store.get(&ObjectPath::from("in/a")).await.unwrap().bytes().await.unwrap();
            assert_eq!(kept, json_lines(2..3).as_bytes());
        }
        // It is a new file, and is cleaned up once it is read.
        let second = reader.plan().await;
        assert_eq!(reader.read(&second).await.unwrap(), expected(2..3));
        reader.source.commit(&second).await.unwrap();
        assert_eq!(names().await, if clean == "archive" { "done/a done/b" } else { "" });
    }
}

#[tokio::test]
async fn the_archive_must_be_elsewhere() {
    let input = Input::new();
    input.write("in/a", 1, "{}\n");
    for (archive, ok) in [
        (input.text("in"), false),
        (input.text("in/sub"), false),
        (input.text(""), false),
        ("s3://bucket/old".to_string(), false),
        (input.text("*/old"), false),
        (input.text("in/_old"), true),
        (input.text("inner"), true),
    ] {
        let options = [("cleanSource", "archive"), ("sourceArchiveDir", archive.as_str())];
        let resolved = input.resolve("json", "in", Some(ab()), &options).await;
        assert_eq!(resolved.is_ok(), ok, "{archive}");
    }
    // Beside one file that is read, nothing is.
    for (archive, ok) in [("in", false), ("in/sub", true), ("inner", true)] {
        let bad = input.text(archive);
        let resolved = input.resolve("json", "in/a", Some(ab()), &[("badRecordsPath", bad.as_str())]).await;
        assert_eq!(resolved.is_ok(), ok, "{archive}");
    }
}

/// The name of a file that was cleaned up may be used again. Until it is read, nobody touches it.
#[tokio::test]
async fn a_name_that_is_used_again_is_a_new_file() {
    for clean in ["delete", "archive"] {
        for restart in [false, true] {
            let input = Input::new();
            let archive = input.text("done");
            let mut options = vec![("cleanSource", clean)];
            if clean == "archive" {
                options.push(("sourceArchiveDir", &archive));
            }
            let open =
                async || input.reader(&input.resolve("json", "in", Some(ab()), &options).await.unwrap());
            input.write("in/export.json", 1, json_lines(0..1));
            let mut reader = open().await;
            let first = reader.plan().await;
            reader.source.commit(&first).await.unwrap();
            assert_eq!(names(&input, "in"), "");

            input.write("in/export.json", 2, json_lines(1..2));
            if restart {
                reader = open().await;
                reader.source.restore(first.end.clone(), first.entries.clone()).await.unwrap();
            }
            // The clean-up of the last batch is repeated by a start.
            reader.source.commit(&first).await.unwrap();
            assert_eq!(names(&input, "in"), "export.json", "{clean}");
            let second = reader.plan().await;
            assert_eq!(reader.read(&second).await.unwrap(), expected(1..2));
            reader.source.commit(&second).await.unwrap();
            assert_eq!(names(&input, "in"), "");
            let archived = if clean == "archive" { "export-1577836802000.json export.json" } else { "" };
            assert_eq!(names(&input, "done"), archived);
            if clean == "archive" {
                let kept = std::fs::read_to_string(input.path("done/export.json")).unwrap();
                assert_eq!(kept, json_lines(0..1), "what is in the archive stays as it is");
            }
        }
    }
}

fn log_line(path: &str, action: &str, size: usize) -> String {
    json!({
        "path": path, "size": size, "isDir": false, "modificationTime": 1_600_000_000_000_i64,
        "blockReplication": 1, "blockSize": 33_554_432, "action": action,
    })
    .to_string()
}

#[tokio::test]
async fn a_sparks_sink_is_read_through_its_log() {
    let input = Input::new();
    for index in 0..4 {
        input.write(&format!("part-{index}"), 1, json_lines(index..index + 1));
    }
    let size = json_lines(0..1).len();
    let line =
        |index: usize, action: &str| log_line(&format!("file:///elsewhere/out/part-{index}"), action, size);
    input.write("_spark_metadata/0", 1, "v1\nthis is in the compacted one");
    input.write("_spark_metadata/9.compact", 1, format!("v1\n{}\n{}", line(0, "add"), line(1, "add")));
    let reader = input.source("json", &ab(), &[]).await;
    assert_eq!(paths(&reader.plan().await), ["part-0", "part-1"], "parts 2 and 3 are left-overs");
    input.write("_spark_metadata/10", 1, format!("v1\n{}\n", line(2, "add")));
    let batch = reader.plan().await;
    assert_eq!(paths(&batch), ["part-2"]);
    assert_eq!(reader.read(&batch).await.unwrap(), expected(2..3), "the log's time is not the file's");
    input.write("part-2", 1, json_lines(10..13));
    let error = reader.read(&batch).await.unwrap_err().to_string();
    assert!(error.contains("changed"), "{error}");
    input.write("_spark_metadata/11", 1, format!("v1\n{}\n{}", line(3, "add"), line(3, "delete")));
    assert!(reader.plan().await.is_empty());

    let cleaning = input.source("json", &ab(), &[("cleanSource", "delete")]).await;
    let error = cleaning.source.plan(Admission::Limited).await.unwrap_err().to_string();
    assert!(error.contains("cleanSource must be off"), "{error}");
    input.write("_spark_metadata/12", 1, "v7\n");
    let error = reader.source.plan(Admission::Limited).await.unwrap_err().to_string();
    assert!(error.contains("_spark_metadata/12"), "{error}");
}
