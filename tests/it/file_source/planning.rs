//! Which files a batch takes, in which order, and what is remembered of them.

use datafusion::arrow::datatypes::DataType;
use serde_json::json;
use serde_json::value::RawValue;
use tidemill::source::{Admission, SourceBatch};

use super::{Input, Reader, ab, expected, json_lines, path_of, paths, schema};

/// Ten files, each with one row; `f3` was modified at second 3.
fn ten() -> Input {
    let input = Input::new();
    for index in [7, 2, 9, 0, 4, 1, 8, 3, 6, 5] {
        input.write(&format!("f{index}"), index, json_lines(index as i64..index as i64 + 1));
    }
    input
}

async fn drained_paths(reader: &Reader) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let batch = reader.plan().await;
        if batch.is_empty() {
            return all;
        }
        all.push(paths(&batch).join(" "));
    }
}

#[tokio::test]
async fn oldest_first_ties_by_path() {
    let input = Input::new();
    for (name, second) in [("c", 1), ("b", 1), ("a", 2), ("d", 0)] {
        input.write(name, second, "{}\n");
    }
    let reader = input.source("json", &ab(), &[]).await;
    let batch = reader.plan().await;
    assert_eq!(paths(&batch), ["d", "b", "c", "a"]);
    assert_eq!((batch.start, batch.end), (json!(null), json!({"logOffset": 0})));
    assert!(reader.plan().await.is_empty());
}

#[tokio::test]
async fn limits_by_files_and_bytes() {
    let input = ten();
    let reader = input.source("json", &ab(), &[("maxFilesPerTrigger", "4")]).await;
    assert_eq!(drained_paths(&reader).await, ["f0 f1 f2 f3", "f4 f5 f6 f7", "f8 f9"]);

    let size = json_lines(0..1).len();
    for (bytes, batches) in [(1, 10), (size, 10), (3 * size, 4), (1 << 30, 1)] {
        let reader = input.source("json", &ab(), &[("maxBytesPerTrigger", &bytes.to_string())]).await;
        assert_eq!(drained_paths(&reader).await.len(), batches, "{bytes} bytes");
    }
}

#[tokio::test]
async fn a_batch_takes_everything_if_told_so() {
    let input = ten();
    let reader = input.source("json", &ab(), &[("maxFilesPerTrigger", "4")]).await;
    reader.plan().await;
    input.write("older", 0, "{}\n");
    let batch = reader.source.plan(Admission::Everything).await.unwrap();
    assert_eq!(paths(&batch).join(" "), "older f4 f5 f6 f7 f8 f9");
}

#[tokio::test]
async fn newest_first_looks_again_before_each_batch() {
    let input = ten();
    let options = [("latestFirst", "true"), ("maxFilesPerTrigger", "3")];
    let reader = input.source("json", &ab(), &options).await;
    assert_eq!(paths(&reader.plan().await), ["f9", "f8", "f7"]);
    input.write("newer", 100, "{}\n");
    assert_eq!(paths(&reader.plan().await), ["newer", "f6", "f5"]);
    assert_eq!(drained_paths(&reader).await, ["f4 f3 f2", "f1 f0"], "age does not matter");
}

#[tokio::test]
async fn listed_files_are_used_up_before_looking_again() {
    let input = ten();
    let reader = input.source("json", &ab(), &[("maxFilesPerTrigger", "5")]).await;
    reader.plan().await;
    input.write("late but old", 0, "{}\n");
    assert_eq!(paths(&reader.plan().await).join(" "), "f5 f6 f7 f8 f9");
    assert_eq!(paths(&reader.plan().await), ["late but old"]);

    // One file left of a batch of nine is not worth keeping, so it comes with those that are new.
    let reader = input.source("json", &ab(), &[("maxFilesPerTrigger", "10")]).await;
    reader.plan().await;
    input.write("z", 200, "{}\n");
    assert_eq!(paths(&reader.plan().await).join(" "), "f9 z");
    let keeping = [("maxFilesPerTrigger", "10"), ("discardCachedInputRatio", "0")];
    let reader = input.source("json", &ab(), &keeping).await;
    reader.plan().await;
    input.write("zz", 300, "{}\n");
    assert_eq!(paths(&reader.plan().await).join(" "), "f9 z");
}

#[tokio::test]
async fn now_is_fixed_for_available_now() {
    for latest_first in ["false", "true"] {
        let input = ten();
        let options = [("maxFilesPerTrigger", "6"), ("latestFirst", latest_first)];
        let reader = input.source("json", &ab(), &options).await;
        reader.source.prepare_available_now().await.unwrap();
        input.write("after", 5, "{}\n");
        let planned = drained_paths(&reader).await.join(" ");
        assert_eq!(planned.split(' ').count(), 10, "{planned}");
        assert!(!planned.contains("after"));
        assert!(reader.source.plan(Admission::Everything).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn files_that_are_too_old_are_counted() {
    let input = Input::new();
    const DAY: u64 = 86_400;
    input.write("first", 0, "{}\n");
    input.write("second", 30 * DAY, "{}\n");
    let reader = input.source("json", &ab(), &[]).await;
    assert_eq!(paths(&reader.plan().await), ["first", "second"], "at first nothing is too old");
    input.write("old", 23 * DAY - 1, "{}\n");
    input.write("just", 23 * DAY, "{}\n");
    assert_eq!(paths(&reader.plan().await), ["just"]);
    assert_eq!(reader.source.take_metrics()["numFilesIgnoredByAge"], "1");
    input.write("new", 30 * DAY, "{}\n");
    assert_eq!(paths(&reader.plan().await), ["new"]);
    assert!(!reader.source.take_metrics().contains_key("numFilesIgnoredByAge"), "counted once");

    let reader = input.source("json", &ab(), &[("maxFileAge", "60 days")]).await;
    reader.plan().await;
    input.write("older", 0, "{}\n");
    assert_eq!(paths(&reader.plan().await), ["older"]);
}

#[tokio::test]
async fn what_is_waiting_is_reported() {
    let input = ten();
    let reader = input.source("json", &ab(), &[("maxFilesPerTrigger", "4")]).await;
    assert_eq!(reader.source.latest_offset(), json!(null));
    reader.plan().await;
    let metrics = reader.source.take_metrics();
    assert_eq!(metrics["numFilesOutstanding"], "6");
    assert_eq!(metrics["numBytesOutstanding"], (6 * json_lines(0..1).len()).to_string());
    assert_eq!(reader.source.latest_offset(), json!({"logOffset": 0}));
}

#[tokio::test]
async fn names_decide_with_file_name_only() {
    let input = Input::new();
    input.write("x/a", 1, json_lines(1..2));
    input.write("y/a", 2, json_lines(2..3));
    input.write("y/b", 3, json_lines(3..4));
    let options = [("recursiveFileLookup", "true"), ("fileNameOnly", "true")];
    let reader = input.source("json", &ab(), &options).await;
    assert_eq!(paths(&reader.plan().await), ["x/a", "y/b"]);
    input.write("z/b", 4, "{}\n");
    assert!(reader.plan().await.is_empty());
}

#[tokio::test]
async fn filters_recursion_and_hidden_files() {
    let input = Input::new();
    for name in ["a.json", "b.csv", "_c.json", ".d.json", "sub/e.json", "sub/deep/f.json", "_x/g.json"] {
        input.write(name, 1, "{}\n");
    }
    let planned = async |options: &[(&str, &str)]| {
        let batch = input.source("json", &ab(), options).await.plan().await;
        paths(&batch).join(" ")
    };
    assert_eq!(planned(&[]).await, "a.json b.csv");
    assert_eq!(planned(&[("pathGlobFilter", "*.json")]).await, "a.json");
    let recursive = ("recursiveFileLookup", "true");
    assert_eq!(planned(&[recursive]).await, "a.json b.csv sub/deep/f.json sub/e.json");
    assert_eq!(planned(&[recursive, ("pathGlobFilter", "{e,f}.*")]).await, "sub/deep/f.json sub/e.json");
}

#[tokio::test]
async fn globs_and_single_files() {
    let input = Input::new();
    for name in ["a.json", "b.csv", "y=1/c.json", "y=2/d.json", "z/e.json"] {
        input.write(name, 1, "{}\n");
    }
    for (below, expected) in [
        ("*.json", "a.json"),
        ("{a,b}.*", "a.json b.csv"),
        ("y=*/", "y=1/c.json y=2/d.json"),
        ("y=[2-9]/*.json", "y=2/d.json"),
        ("z", "e.json"),
        ("z/", "e.json"),
        ("b.csv", "b.csv"),
        ("nothing*", ""),
    ] {
        let provider = input.resolve("json", below, Some(ab()), &[]).await.unwrap();
        let batch = input.reader(&provider).plan().await;
        assert_eq!(paths(&batch).join(" "), expected, "{below}");
    }
}

#[tokio::test]
async fn partition_directories_become_columns() {
    let input = Input::new();
    input.write("year=2023/m=a%20b/f", 1, json_lines(1..2));
    input.write("year=2024/m=__HIVE_DEFAULT_PARTITION__/f", 2, json_lines(2..3));
    let provider = input.resolve("json", "", Some(ab()), &[]).await.unwrap();
    let columns = provider.schema();
    assert_eq!(columns.field_with_name("year").unwrap().data_type(), &DataType::Int32);
    assert_eq!(columns.field_with_name("m").unwrap().data_type(), &DataType::Utf8);
    let reader = input.reader(&provider);
    assert_eq!(reader.drain().await, [["1|row 1|2023|a b", "2|row 2|2024|-"]]);

    // The schema decides type and position; the directories may be fewer columns than it has.
    let given = schema(&[("m", DataType::Utf8), ("a", DataType::Int64), ("year", DataType::Utf8)]);
    let provider = input.resolve("json", "", Some(given), &[]).await.unwrap();
    let reader = input.reader(&provider);
    let batch = reader.plan().await;
    assert_eq!(reader.read(&batch).await.unwrap(), ["-|2|2024", "a b|1|2023"]);
    let projected = reader.read_with(&batch, Some(&vec![2, 0]), 1).await.unwrap();
    assert_eq!(projected, ["2023|a b", "2024|-"]);

    // A file elsewhere must not be read with made-up values, nor be passed over.
    input.write("stray", 3, json_lines(3..4));
    let error = reader.source.plan(Admission::Limited).await.unwrap_err().to_string();
    assert!(error.contains("stray") && error.contains("year=…"), "{error}");
}

#[tokio::test]
async fn partition_columns_are_fixed_at_the_start() {
    let input = Input::new();
    let reader = input.source("json", &ab(), &[]).await;
    input.write("k=1/f", 1, json_lines(1..2));
    let error = reader.source.plan(Admission::Limited).await.unwrap_err().to_string();
    assert!(error.contains("'k'") && error.contains("PARTITIONED BY"), "{error}");
    let named = schema(&[("a", DataType::Int64), ("k", DataType::Int64)]);
    let state = input.session.state();
    let path = input.text("");
    let provider = tidemill::source::file::FileTable::resolve(
        "json",
        &path,
        Some(named),
        vec!["k".into()],
        Default::default(),
        &state,
    );
    let reader = input.reader(&provider.await.unwrap());
    assert_eq!(reader.drain().await, [["1|1"]]);
    let recursive = input.source("json", &ab(), &[("recursiveFileLookup", "true")]).await;
    assert_eq!(recursive.drain().await, [expected(1..2)]);
}

#[tokio::test]
async fn a_restart_takes_up_where_the_last_run_ended() {
    let input = ten();
    let limited = [("maxFilesPerTrigger", "4")];
    let first = input.source("json", &ab(), &limited).await;
    let mut remembered: Vec<Box<RawValue>> = Vec::new();
    let mut last = None;
    for _ in 0..2 {
        let batch = first.plan().await;
        remembered.extend(batch.entries.clone());
        last = Some(batch.end);
    }
    let second = input.source("json", &ab(), &limited).await;
    second.source.restore(last.clone().unwrap(), remembered).await.unwrap();
    assert_eq!(second.source.latest_offset(), last.unwrap());
    let batch = second.plan().await;
    assert_eq!(paths(&batch), ["f8", "f9"]);
    assert_eq!((batch.start, batch.end), (json!({"logOffset": 1}), json!({"logOffset": 2})));
    assert!(second.plan().await.is_empty());
}

#[tokio::test]
async fn entries_alone_are_enough_to_read_a_batch_again() {
    let input = ten();
    let first = input.source("json", &ab(), &[("maxFilesPerTrigger", "7")]).await;
    let batch = first.plan().await;
    let rows = first.read(&batch).await.unwrap();
    assert_eq!(rows, expected(0..7));
    let again = SourceBatch {
        entries: batch
            .entries
            .iter()
            .map(|raw| RawValue::from_string(raw.get().to_string()).unwrap())
            .collect(),
        ..batch
    };
    let second = input.source("json", &ab(), &[]).await;
    assert_eq!(second.read(&again).await.unwrap(), rows);
}

#[tokio::test]
async fn what_is_forgotten_is_not_read_again() {
    const DAY: u64 = 86_400;
    let input = Input::new();
    for day in 0..20 {
        input.write(&format!("day{day:02}"), day * DAY, json_lines(day as i64..day as i64 + 1));
    }
    let first = input.source("json", &ab(), &[]).await;
    let batch = first.plan().await;
    assert_eq!(first.source.forget(batch.entries.clone()).len(), 20, "nothing is recorded yet");
    first.source.commit(&batch).await.unwrap();
    let kept = first.source.forget(batch.entries.clone());
    assert_eq!(kept.len(), 9, "a week, both ends, and a note of the rest");
    assert!(kept[0].get().contains("forgottenBefore"));
    assert_eq!(path_of(&kept[1]), "day12");
    // Forgetting in parts, and what was forgotten before, comes to the same.
    let mut parts = first.source.forget(batch.entries[..10].to_vec());
    assert_eq!(parts.len(), 1);
    parts.extend(first.source.forget(batch.entries[10..].to_vec()));
    assert_eq!(first.source.forget(parts).iter().map(|raw| raw.get()).collect::<Vec<_>>().join(""), {
        kept.iter().map(|raw| raw.get()).collect::<Vec<_>>().join("")
    });
    // Even if age matters no more, or less.
    for options in [&[][..], &[("maxFileAge", "1000 days")], &[("maxFileAge", "1 day")]] {
        let second = input.source("json", &ab(), options).await;
        second.source.restore(batch.end.clone(), kept.clone()).await.unwrap();
        assert!(second.plan().await.is_empty(), "{options:?}");
    }
}

#[tokio::test]
async fn a_million_entries_are_restored_into_little_memory() {
    let input = ten();
    let reader = input.source("json", &ab(), &[]).await;
    let entries: Vec<Box<RawValue>> = (0..1_000_000)
        .map(|index| {
            let text = format!("{{\"p\":\"f{index}\",\"s\":1,\"m\":{}}}", 1_577_836_800_000_u64 + index);
            RawValue::from_string(text).unwrap()
        })
        .collect();
    reader.source.restore(json!({"logOffset": 3}), entries).await.unwrap();
    assert!(reader.plan().await.is_empty());
    input.write("fresh", 3600, "{}\n");
    assert_eq!(paths(&reader.plan().await), ["fresh"]);
}

#[tokio::test]
async fn descriptions_and_definitions() {
    let input = ten();
    let options = [
        ("maxFilesPerTrigger", "1"),
        ("header", "TRUE"),
        ("sep", ";"),
        ("mode", "PERMISSIVE"),
        // May change between starts.
        ("enforceSchema", "true"),
    ];
    let provider = input.resolve("csv", "*", Some(ab()), &options).await.unwrap();
    assert_eq!(provider.description(), format!("FileSource[file://{}]", input.text("*")));
    assert_eq!((provider.format(), provider.schema_is_inferred()), ("csv", false));
    let root = url::Url::from_directory_path(input.path("checkpoint")).unwrap();
    let storage = tidemill::storage::LocalStorage::new(&root, Default::default()).unwrap();
    let definition = provider.definition(&storage);
    assert_eq!(definition.location.unwrap().path, "..");
    let options: Vec<_> = definition.options.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(options, ["format.delimiter=;", "format.has_header=true", "mode=PERMISSIVE"]);
    let columns: Vec<_> = definition.columns.iter().map(|c| format!("{} {}", c.name, c.data_type)).collect();
    assert_eq!(columns, ["a Int64", "b Utf8"]);
}

#[tokio::test]
async fn a_pinned_schema_replaces_the_inferred_one() {
    let input = ten();
    let provider = input.resolve("json", "", None, &[("includeMetadata", "true")]).await.unwrap();
    assert!(provider.schema_is_inferred());
    input.write("new", 100, "{\"a\":1,\"c\":2}\n");
    let later = input.resolve("json", "", None, &[("includeMetadata", "true")]).await.unwrap();
    assert_ne!(provider.schema(), later.schema());
    let pinned = later.with_schema(provider.schema()).unwrap();
    assert_eq!(pinned.schema(), provider.schema());
    assert!(pinned.schema_is_inferred());
    let reader = input.reader(&pinned);
    assert_eq!(reader.all().await.unwrap().len(), 11);
}

/// Files whose names mean something elsewhere, in patterns and URLs.
#[tokio::test]
async fn odd_names_and_empty_partition_values() {
    let input = Input::new();
    let names =
        ["orders#12", "a%20b#7", "50% off?.json", "x=1&y.json", "größe 東京.json", "[a]*{b}.json", "#3"];
    for (index, name) in names.iter().enumerate() {
        input.write(&format!("year=/{name}"), index as u64, json_lines(index as i64..index as i64 + 1));
    }
    input.write("year=2024/z#9", 9, json_lines(7..8));
    let provider = input.resolve("json", "", None, &[("cleanSource", "delete")]).await.unwrap();
    assert_eq!(provider.schema().field_with_name("year").unwrap().data_type(), &DataType::Int32);
    let reader = input.reader(&provider);
    let batch = reader.plan().await;
    let mut expected: Vec<String> = (0..7).map(|a| format!("{a}|row {a}|-")).collect();
    expected.push("7|row 7|2024".into());
    assert_eq!(reader.read(&batch).await.unwrap(), expected);
    reader.source.commit(&batch).await.unwrap();
    assert_eq!(std::fs::read_dir(input.path("year=")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(input.path("year=2024")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_that_changes_after_its_batch_is_told_of_or_read_again() {
    for (changed, option) in
        [("warn", None), ("warn", Some("warn")), ("fail", Some("fail")), ("read", Some("read"))]
    {
        let input = Input::new();
        input.write("f", 1, json_lines(0..1));
        input.write("g", 1, json_lines(5..6));
        let options: Vec<(&str, &str)> = option.map(|option| ("changedFiles", option)).into_iter().collect();
        let first = input.source("json", &ab(), &options).await;
        let batch = first.plan().await;
        input.write("f", 2, json_lines(0..2));
        // Every start looks at what earlier runs read.
        let reader = input.source("json", &ab(), &options).await;
        reader.source.restore(batch.end.clone(), batch.entries.clone()).await.unwrap();
        let planned = reader.source.plan(Admission::Limited).await;
        match changed {
            "warn" => {
                assert!(planned.unwrap().is_empty());
                assert_eq!(reader.source.take_metrics()["numChangedFiles"], "1");
                assert!(reader.plan().await.is_empty());
                assert!(!reader.source.take_metrics().contains_key("numChangedFiles"), "it is said once");
                let other =
                    input.source("json", &ab(), &[("changedFiles", "warn"), ("cleanSource", "delete")]).await;
                other.source.restore(batch.end.clone(), batch.entries.clone()).await.unwrap();
                for rows in 3..6 {
                    input.write("f", rows, json_lines(0..rows as i64));
                    assert!(other.plan().await.is_empty());
                    let is_first = rows == 3;
                    assert_eq!(
                        other.source.take_metrics().contains_key("numChangedFiles"),
                        is_first,
                        "{rows}"
                    );
                }
            }
            "fail" => {
                let error = planned.unwrap_err().to_string();
                assert!(error.contains(&input.text("f")) && error.contains("changedFiles"), "{error}");
            }
            _ => {
                let again = planned.unwrap();
                assert_eq!(reader.read(&again).await.unwrap(), expected(0..2));
                assert!(reader.plan().await.is_empty());
            }
        }
    }
}

#[tokio::test]
async fn changes_are_seen_while_a_run_goes_on() {
    let input = Input::new();
    input.write("f", 1, json_lines(0..1));
    let reader = input.source("json", &ab(), &[]).await;
    reader.plan().await;
    input.write("f", 2, json_lines(0..2));
    let started = std::time::Instant::now();
    while !reader.source.take_metrics().contains_key("numChangedFiles") {
        assert!(started.elapsed().as_secs() < 60);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(reader.plan().await.is_empty());
    }
}

#[tokio::test]
async fn files_are_read_once_they_have_content() {
    for format in ["json", "csv", "parquet"] {
        let input = Input::new();
        input.write("f", 1, "");
        let options: &[(&str, &str)] = if format == "csv" { &[("header", "false")] } else { &[] };
        let reader = input.source(format, &ab(), options).await;
        assert!(reader.plan().await.is_empty(), "{format}");
        input.write("f", 2, "1,x\n");
        assert_eq!(paths(&reader.plan().await), ["f"], "{format}");
    }
    // A checkpoint of an earlier version may say that an empty file was read.
    let input = Input::new();
    input.write("f", 2, json_lines(0..1));
    let reader = input.source("json", &ab(), &[]).await;
    let entry = RawValue::from_string(r#"{"p":"f","s":0,"m":1577836801000}"#.to_string()).unwrap();
    reader.source.restore(json!({"logOffset": 0}), vec![entry]).await.unwrap();
    assert_eq!(paths(&reader.plan().await), ["f"]);
}

#[tokio::test]
async fn only_files_of_a_time_and_only_new_ones() {
    let input = ten();
    let options = [("modifiedAfter", "2020-01-01T00:00:02"), ("modifiedBefore", "2020-01-01T01:00:06+01:00")];
    let reader = input.source("json", &ab(), &options).await;
    assert_eq!(paths(&reader.plan().await), ["f3", "f4", "f5"]);

    let latest = [("startingFrom", "latest"), ("maxFilesPerTrigger", "1")];
    let first = input.source("json", &ab(), &latest).await;
    let batch = first.plan().await;
    assert_eq!(batch.end, json!({"logOffset": 0}));
    assert!(first.read(&batch).await.unwrap().is_empty());
    assert!(first.plan().await.is_empty());
    let second = input.source("json", &ab(), &latest).await;
    second.source.restore(batch.end, batch.entries).await.unwrap();
    input.write("new", 5, json_lines(20..21));
    let batch = second.plan().await;
    assert_eq!(second.read(&batch).await.unwrap(), expected(20..21));
}

/// A writer that takes its time, in the way of `cp`.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_file_is_taken_when_its_writer_is_done() {
    use std::io::Write as _;

    let input = Input::new();
    let reader = input.source("json", &ab(), &[("minFileAge", "1 hour")]).await;
    assert!(reader.plan().await.is_empty());
    let mut file = std::fs::File::create(input.path("f")).unwrap();
    for a in 0..20 {
        file.write_all(json_lines(a..a + 1).as_bytes()).unwrap();
        assert!(reader.plan().await.is_empty());
        assert!(reader.source.is_waiting());
    }
    drop(file);
    let batch = reader.plan().await;
    assert!(!reader.source.is_waiting());
    assert_eq!(reader.read(&batch).await.unwrap(), expected(0..20));
    // Moved in complete, it is taken at once.
    std::fs::write(input.path(".g"), json_lines(20..21)).unwrap();
    std::fs::rename(input.path(".g"), input.path("g")).unwrap();
    assert_eq!(paths(&reader.plan().await), ["g"]);
}

/// A run begins while a file is being written: no row of it is lost.
#[tokio::test]
async fn a_file_that_is_being_written_when_a_run_begins_is_read_whole() {
    use std::io::Write as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    let input = Input::new();
    input.write("old", 1, json_lines(0..1));
    let mut file = std::fs::File::create(input.path("f")).unwrap();
    file.write_all(json_lines(1..2).as_bytes()).unwrap();
    let options = [("minFileAge", "1 second")];
    let is_done = std::sync::Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let is_done = std::sync::Arc::clone(&is_done);
        move || {
            let mut a = 2;
            while !is_done.load(Ordering::SeqCst) {
                file.write_all(json_lines(a..a + 1).as_bytes()).unwrap();
                a += 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            a
        }
    });
    for admission in [Admission::Limited, Admission::Everything] {
        let reader = input.source("json", &ab(), &options).await;
        if admission == Admission::Limited {
            reader.source.prepare_available_now().await.unwrap();
        }
        assert_eq!(paths(&reader.source.plan(admission).await.unwrap()), ["old"]);
        assert!(reader.source.is_waiting());
        assert!(reader.plan().await.is_empty());
    }
    is_done.store(true, Ordering::SeqCst);
    let end = writer.join().unwrap();
    // It is young still, and nobody has said that it was closed.
    let reader = input.source("json", &ab(), &options).await;
    reader.source.prepare_available_now().await.unwrap();
    let batch = reader.plan().await;
    assert_eq!(paths(&batch), ["old", "f"]);
    assert_eq!(reader.read(&batch).await.unwrap(), expected(0..end));
    // Of age, it is taken at once, and so is what was moved.
    let reader = input.source("json", &ab(), &[("minFileAge", "1 hour")]).await;
    input.touch("f", 3);
    reader.source.prepare_available_now().await.unwrap();
    assert_eq!(paths(&reader.plan().await), ["old", "f"]);
}

#[tokio::test]
async fn a_path_that_is_missing_is_named() {
    let input = Input::new();
    for below in ["inbx/", "inbx", "inbx/*.json"] {
        let error = input.resolve("json", below, Some(ab()), &[]).await.unwrap_err().to_string();
        assert!(error.contains(&input.text("inbx")) && error.contains("allowMissingPath"), "{error}");
        let later = input.resolve("json", below, Some(ab()), &[("allowMissingPath", "true")]).await.unwrap();
        assert!(input.reader(&later).plan().await.is_empty());
    }
    let error = input.resolve("json", "../../s3", Some(ab()), &[]).await.map(drop);
    assert!(error.is_err());
}
