//! Reading batches: in parts, in parallel, and when files do not stay as they were.

use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use datafusion::datasource::MemTable;
use datafusion::parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use datafusion::physical_plan::ExecutionPlanProperties;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use tidemill::Error;
use tidemill::clock::SystemClock;
use tidemill::source::file::FileTable;
use tidemill::source::{Admission, SourceContext};
use url::Url;

use super::formats::{batch, ipc_file, ipc_stream, parquet, parquet_with};
use super::{Input, QUERY, Reader, ab, execute, expected, json_lines, schema, set};

/// Lets the smallest files be cut.
fn cut_everything(input: &Input) {
    set(&input.session, "datafusion.optimizer.repartition_file_min_size", "1");
}

#[tokio::test]
async fn rows_do_not_depend_on_partitions_or_batches() {
    let csv = |rows: std::ops::Range<i64>| -> String { rows.map(|a| format!("{a},row {a}\r\n")).collect() };
    let text = |rows: std::ops::Range<i64>| -> String { rows.map(|a| format!("{a}|row {a}\n")).collect() };
    for (format, options) in [
        ("json", &[][..]),
        ("json", &[("mode", "PERMISSIVE")]),
        ("csv", &[("header", "false"), ("multiLine", "false")]),
        ("csv", &[("header", "false")]),
        ("csv", &[("header", "false"), ("mode", "DROPMALFORMED"), ("multiLine", "false")]),
        ("text", &[]),
    ] {
        let input = Input::new();
        cut_everything(&input);
        set(&input.session, "datafusion.execution.batch_size", "7");
        for (index, range) in [0..100, 100..101, 101..101, 101..250].into_iter().enumerate() {
            let content = match format {
                "json" => json_lines(range),
                "csv" => csv(range),
                _ => text(range),
            };
            input.write(&format!("f{index}"), index as u64, content.trim_end());
        }
        let columns = if format == "text" { schema(&[("line", DataType::Utf8)]) } else { ab() };
        for partitions in [1, 2, 3, 8, 50] {
            let reader = input.source(format, &columns, options).await;
            let batch = reader.plan().await;
            let read = reader.read_with(&batch, None, partitions).await.unwrap();
            assert_eq!(read, expected(0..250), "{format} {options:?} in {partitions} partitions");
        }
        for max_files in ["1", "2", "3"] {
            let options = [options, &[("maxFilesPerTrigger", max_files)]].concat();
            let reader = input.source(format, &columns, &options).await;
            let mut all = reader.drain().await.concat();
            all.sort();
            assert_eq!(all, expected(0..250), "{format} {max_files} files at a time");
        }
    }
}

#[tokio::test]
async fn large_files_are_cut_and_small_batches_are_not() {
    let input = Input::new();
    input.write("f", 1, json_lines(0..2000));
    let reader = input.source("json", &ab(), &[]).await;
    let batch = reader.plan().await;
    let partitions = |reader: &Reader, planned| {
        let plan = reader.scan(None, &[], planned).read(&batch, &reader.context()).unwrap();
        plan.output_partitioning().partition_count()
    };
    assert_eq!(partitions(&reader, 4), 1, "a small file stays whole");
    cut_everything(&input);
    assert_eq!(partitions(&reader, 4), 4);
    set(&input.session, "datafusion.optimizer.repartition_file_scans", "false");
    assert_eq!(partitions(&reader, 4), 1);
    assert!(reader.scan(None, &[], 4).is_small(&batch));

    let many = Input::new();
    for index in 0..10 {
        many.write(&format!("f{index}"), 1, json_lines(0..1));
    }
    let reader = many.source("json", &ab(), &[]).await;
    let batch = reader.plan().await;
    let plan = reader.scan(None, &[], 4).read(&batch, &reader.context()).unwrap();
    assert_eq!(plan.output_partitioning().partition_count(), 4);
    let large = Input::new();
    large.write("f", 1, vec![b'\n'; 2 << 20]);
    let reader = large.source("json", &ab(), &[]).await;
    let batch = reader.plan().await;
    assert!(!reader.scan(None, &[], 4).is_small(&batch));
    assert!(reader.read(&batch).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_replaced_file_is_never_read_as_the_old_one() {
    for format in ["json", "csv", "text", "parquet", "arrow"] {
        let input = Input::new();
        input.write("f", 1, json_lines(0..3));
        let columns = if format == "text" { schema(&[("line", DataType::Utf8)]) } else { ab() };
        let options: &[(&str, &str)] = &[("ignoreMissingFiles", "true"), ("ignoreCorruptFiles", "true")];
        let reader = input.source(format, &columns, options).await;
        let batch = reader.plan().await;
        for (content, second) in [(json_lines(3..6), 2), (json_lines(0..4), 1), (String::new(), 1)] {
            input.write("f", second, content);
            let error = reader.read(&batch).await.unwrap_err();
            let message = error.to_string();
            assert!(matches!(error, Error::InputFile { .. }), "{format}: {message}");
            assert!(message.contains("changed since it was listed"), "{format}: {message}");
            assert!(message.contains(&input.text("f")), "{message}");
        }
    }
}

/// What was read of it before may be of another content than what is read now.
#[tokio::test]
async fn a_file_that_is_written_again_while_it_is_read_is_an_error() {
    let (rows, others) = (batch(0..60_000), batch(60_000..120_000));
    let slices = |rows: &datafusion::arrow::array::RecordBatch| {
        (0..8).map(|at| rows.slice(at * 7500, 7500)).collect::<Vec<_>>()
    };
    let mut files = vec![
        ("json", json_lines(0..60_000).into_bytes(), json_lines(60_000..120_000).into_bytes()),
        ("parquet", parquet(&rows, 7500), parquet(&others, 7500)),
        ("arrow", ipc_file(&slices(&rows)), ipc_file(&slices(&others))),
        ("arrow", ipc_stream(&slices(&rows)), ipc_stream(&slices(&others))),
    ];
    #[cfg(feature = "avro")]
    files.push(("avro", super::formats::avro(&rows), super::formats::avro(&others)));
    for (format, content, other) in files {
        let input = Input::new();
        input.write("f", 1, &content);
        let options = [("ignoreCorruptFiles", "true"), ("mode", "DROPMALFORMED")];
        let reader = input.source(format, &ab(), &options).await;
        let batch = reader.plan().await;
        let plan = reader.scan(None, &[], 1).read(&batch, &reader.context()).unwrap();
        let mut rows = plan.execute(0, reader.context()).unwrap();
        let first = rows.try_next().await.unwrap().unwrap();
        assert!(first.num_rows() < 60_000, "{format}");
        // In its place, as `cp` does.
        let mut file = std::fs::File::options().write(true).open(input.path("f")).unwrap();
        std::io::Write::write_all(&mut file, &other).unwrap();
        file.set_len(other.len() as u64).unwrap();
        input.touch("f", 2);
        let error = Error::from(rows.try_collect::<Vec<_>>().await.unwrap_err());
        assert!(matches!(error, Error::InputFile { .. }), "{format}: {error}");
        assert!(error.to_string().contains("changed since it was listed"), "{format}: {error}");
        assert!(reader.source.is_outdated(&batch).await, "{format}");
    }
}

#[tokio::test]
async fn a_file_that_is_put_back_is_read() {
    let input = Input::new();
    input.write("f", 1, json_lines(0..3));
    let reader = input.source("json", &ab(), &[]).await;
    let batch = reader.plan().await;
    input.remove("f");
    let error = reader.read(&batch).await.unwrap_err().to_string();
    assert!(error.contains("disappeared since it was listed"), "{error}");
    input.write("f", 1, json_lines(0..3));
    assert_eq!(reader.read(&batch).await.unwrap(), expected(0..3));
}

#[tokio::test]
async fn missing_files_can_be_left_out() {
    for format in ["json", "parquet"] {
        let input = Input::new();
        input.write("f", 1, json_lines(0..3));
        input.write("g", 2, json_lines(3..4));
        let reader = input.source(format, &ab(), &[("ignoreMissingFiles", "true")]).await;
        let batch = reader.plan().await;
        input.remove("f");
        if format == "parquet" {
            input.remove("g");
            assert!(reader.read(&batch).await.unwrap().is_empty());
            assert_eq!(reader.source.take_metrics()["numMissingFiles"], "2");
        } else {
            assert_eq!(reader.read(&batch).await.unwrap(), expected(3..4));
            assert_eq!(reader.source.take_metrics()["numMissingFiles"], "1");
            assert!(!reader.source.take_metrics().contains_key("numMissingFiles"));
        }
    }
}

/// Rows come in the order of the files, whatever the number of partitions and the sizes of the files.
#[tokio::test]
async fn partitions_one_after_the_other_give_the_files_in_order() {
    for gzip in [false, true] {
        let input = Input::new();
        let mut next = 0;
        for file in 0..70 {
            let rows = [1, 40, 3, 400][file as usize % 4];
            let lines = json_lines(next..next + rows);
            next += rows;
            if gzip && file % 3 == 0 {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                std::io::Write::write_all(&mut encoder, lines.as_bytes()).unwrap();
                input.write(&format!("f{file:02}.json.gz"), 1, encoder.finish().unwrap());
            } else {
                input.write(&format!("f{file:02}.json"), 1, lines);
            }
        }
        set(&input.session, "datafusion.optimizer.repartition_file_min_size", "1");
        let reader = input.source("json", &ab(), &[]).await;
        let batch = reader.plan().await;
        for partitions in [1, 2, 3, 16, 100] {
            let plan = reader.scan(Some(&vec![0]), &[], partitions).read(&batch, &reader.context()).unwrap();
            let mut rows: Vec<i64> = Vec::new();
            for partition in 0..plan.output_partitioning().partition_count() {
                let stream = plan.execute(partition, reader.context()).unwrap();
                for batch in stream.try_collect::<Vec<_>>().await.unwrap() {
                    rows.extend(batch.column(0).as_primitive::<Int64Type>().values());
                }
            }
            assert_eq!(rows, (0..next).collect::<Vec<_>>(), "{partitions} partitions");
        }
    }
}

/// One file is work for all cores, also if its values hold line breaks, or it is one group of rows.
#[tokio::test]
async fn a_file_is_read_by_all_partitions() {
    let properties =
        || WriterProperties::builder().set_data_page_row_count_limit(50).set_write_batch_size(50);
    let group = |properties: WriterPropertiesBuilder| parquet_with(&batch(0..1000), properties.build());
    let lines: String = (0..1000).map(|a| format!("{a},\"row {a}\"\r\n")).collect();
    let broken: String = (0..1000).map(|a| format!("{a},\"row\n{a}\"\n")).collect();
    for (format, content) in [
        ("csv", lines.into_bytes()),
        ("csv", broken.into_bytes()),
        ("parquet", group(properties())),
        (
            "parquet",
            group(properties().set_dictionary_enabled(false).set_writer_version(WriterVersion::PARQUET_2_0)),
        ),
        ("parquet", group(properties().set_offset_index_disabled(true))),
        ("parquet", group(properties().set_max_row_group_row_count(Some(300)))),
    ] {
        let input = Input::new();
        cut_everything(&input);
        input.write("f", 1, content);
        let options: &[(&str, &str)] = if format == "csv" { &[("header", "false")] } else { &[] };
        let reader = input.source(format, &ab(), options).await;
        let planned = reader.plan().await;
        for partitions in [1, 2, 3, 4, 7] {
            let plan =
                reader.scan(Some(&vec![0]), &[], partitions).read(&planned, &reader.context()).unwrap();
            assert_eq!(plan.output_partitioning().partition_count(), partitions);
            let mut rows: Vec<i64> = Vec::new();
            for partition in 0..partitions {
                let stream = plan.execute(partition, reader.context()).unwrap();
                let before = rows.len();
                for batch in stream.try_collect::<Vec<_>>().await.unwrap() {
                    rows.extend(batch.column(0).as_primitive::<Int64Type>().values());
                }
                let (share, read) = (1000 / partitions, rows.len() - before);
                assert!(read * 3 > share * 2 && read * 2 < share * 3, "{format}: {read} of {share} rows");
            }
            assert_eq!(rows, (0..1000).collect::<Vec<_>>(), "{format} in {partitions} partitions");
            let both = reader.read_with(&planned, None, partitions).await.unwrap();
            assert_eq!(both.len(), 1000);
        }
    }
}

#[tokio::test]
async fn metadata_tells_of_each_rows_file() {
    let input = Input::new();
    input.write("k=1/a b.json", 7, json_lines(0..1));
    let provider = input.resolve("json", "", Some(ab()), &[("includeMetadata", "true")]).await.unwrap();
    let reader = input.reader(&provider);
    let batch = reader.plan().await;
    let plan = reader.scan(Some(&vec![3, 0]), &[], 1).read(&batch, &reader.context()).unwrap();
    let read = execute(plan, reader.context()).await.unwrap();
    let metadata = read[0].column(0).as_struct();
    let text = |column: usize| metadata.column(column).as_string::<i32>().value(0).to_string();
    assert_eq!(text(0), format!("file://{}", input.text("k=1/a%20b.json")));
    assert_eq!(text(1), "a b.json");
    let size = metadata.column(2).as_primitive::<Int64Type>().value(0);
    assert_eq!(size, json_lines(0..1).len() as i64);
    let modified = metadata.column(3).as_primitive::<TimestampMicrosecondType>().value(0);
    assert_eq!(modified, 1_577_836_807_000_000);
    // It can be all that is asked for, and still counts good records only.
    for (format, header) in [("json", None), ("csv", Some(("header", "false"))), ("text", None)] {
        let columns = if format == "text" { schema(&[("line", DataType::Utf8)]) } else { ab() };
        let mut options =
            vec![("includeMetadata", "true"), ("recursiveFileLookup", "true"), ("mode", "DROPMALFORMED")];
        options.extend(header);
        let reader = input.source(format, &columns, &options).await;
        let batch = reader.plan().await;
        let last = reader.scan(None, &[], 1).schema().fields().len() - 1;
        let read = reader.read_with(&batch, Some(&vec![last]), 1).await.unwrap();
        assert_eq!(read.len(), usize::from(format != "csv"), "{format}: {read:?}");
    }
}

#[tokio::test]
async fn queries_over_the_same_files_do_not_disturb_one_another() {
    let input = Input::new();
    input.write("f", 1, json_lines(0..100));
    let first = input.source("json", &ab(), &[]).await;
    let batch = first.plan().await;
    input.write("f", 2, json_lines(100..200));
    let second = input.source("json", &ab(), &[]).await;
    let newer = second.plan().await;
    let table = Arc::new(MemTable::try_new(ab(), vec![vec![]]).unwrap());
    input.session.register_table("other", table).unwrap();
    let (old, new, other) =
        tokio::join!(first.read(&batch), second.read(&newer), input.session.table("other"));
    assert!(old.unwrap_err().to_string().contains("changed"));
    assert_eq!(new.unwrap(), expected(100..200));
    assert!(other.is_ok());
}

#[tokio::test]
async fn object_stores() {
    let input = Input::new();
    let store = Arc::new(InMemory::new());
    let url = Url::parse("memory://bucket/").unwrap();
    input.session.register_object_store(&url, Arc::clone(&store) as _);
    for (name, rows) in [("in/k=1/f.json", 0..200), ("in/k=2/g.json", 200..300)] {
        store.put(&Path::from(name), PutPayload::from(json_lines(rows))).await.unwrap();
    }
    let state = input.session.state();
    for (text, columns, count) in [("memory://bucket/in", 3, 300), ("memory://bucket/in/k=1/*", 2, 200)] {
        let provider = FileTable::resolve("json", text, Some(ab()), Vec::new(), Default::default(), &state)
            .await
            .unwrap();
        assert_eq!(provider.schema().fields().len(), columns);
        let context = SourceContext {
            query_id: QUERY,
            runtime: Arc::clone(state.runtime_env()),
            clock: Arc::new(SystemClock),
        };
        let reader = Reader { source: provider.create(context).unwrap(), session: input.session.clone() };
        let batch = reader.source.plan(Admission::Limited).await.unwrap();
        assert!(batch.entries[0].get().contains("\"e\":"), "tags are remembered");
        cut_everything(&input);
        for partitions in [1, 4] {
            assert_eq!(reader.read_with(&batch, None, partitions).await.unwrap().len(), count);
        }
    }
    let unknown =
        FileTable::resolve("json", "s3://x/", Some(ab()), Vec::new(), Default::default(), &state).await;
    assert!(unknown.is_err());
}

#[tokio::test]
async fn names_may_hold_any_character() {
    let input = Input::new();
    let names = ["a b", "a%20b", "a+b", "ä\u{1F600}", "a&b=c", "[x]", "{y}", "q?*", "k=v", "'\"", "a#b"];
    for (index, name) in names.into_iter().enumerate() {
        input.write(name, 1, json_lines(index as i64..index as i64 + 1));
    }
    let options = [("recursiveFileLookup", "true"), ("includeMetadata", "true"), ("cleanSource", "delete")];
    let reader = input.source("json", &ab(), &options).await;
    let batch = reader.plan().await;
    let read = reader.read_with(&batch, Some(&vec![0, 1]), 2).await.unwrap();
    assert_eq!(read, expected(0..names.len() as i64));
    reader.source.commit(&batch).await.unwrap();
    assert_eq!(std::fs::read_dir(input.path("")).unwrap().count(), 0);
}
