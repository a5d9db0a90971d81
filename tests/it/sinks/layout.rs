//! Rolling, partition directories, and what they cost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::ListingOptions;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::parquet::file::reader::{FileReader, SerializedFileReader};
use datafusion::prelude::*;
use object_store::local::LocalFileSystem;
use tidemill::sink::{OutputFormat, Sink};
use tidemill::storage::{Durability, LocalStorage, ObjectStorage, Storage};
use url::Url;

use super::storage::TestStorage;
use super::{Output, batch, files, people, visible, visible_ids, write};

fn keyed(keys: ArrayRef) -> RecordBatch {
    let ids = Int64Array::from_iter_values(0..keys.len() as i64);
    RecordBatch::try_from_iter_with_nullable([("key", keys, true), ("id", Arc::new(ids), true)]).unwrap()
}

#[tokio::test]
async fn max_records_per_file_is_exact() {
    let root = tempfile::tempdir().unwrap();
    let output = Output::new(OutputFormat::Json, people(0..1).schema()).option("maxRecordsPerFile", "10");
    let prepared = write(
        &output.sink(root.path()),
        batch(3),
        vec![vec![people(0..4), people(4..25)], vec![people(25..45)]],
    )
    .await;
    let names: Vec<String> = visible(root.path(), ".json");
    assert_eq!(
        names,
        [
            "part-00000-0000000003-000000000000000000000000aaaa0001-1.json",
            "part-00000-0000000003-000000000000000000000000aaaa0001-2.json",
            "part-00000-0000000003-000000000000000000000000aaaa0001.json",
            "part-00001-0000000003-000000000000000000000000aaaa0001-1.json",
            "part-00001-0000000003-000000000000000000000000aaaa0001.json",
        ]
    );
    let rows: Vec<u64> =
        prepared["files"].as_array().unwrap().iter().map(|file| file["rows"].as_u64().unwrap()).collect();
    assert_eq!(rows, [10, 10, 5, 10, 10]);
    assert_eq!(visible_ids(root.path()), (0..45).collect::<Vec<_>>());
}

#[tokio::test]
async fn target_file_size_rolls_files() {
    for format in [OutputFormat::Json, OutputFormat::Parquet, OutputFormat::Arrow] {
        let root = tempfile::tempdir().unwrap();
        let output = Output::new(format, people(0..1).schema())
            .option("targetFileSize", "100kb")
            .option("compression", "none");
        let batches = (0..10).map(|i| people(i * 8192..(i + 1) * 8192)).collect();
        let prepared = write(&output.sink(root.path()), batch(0), vec![batches]).await;
        let sizes: Vec<u64> = prepared["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| file["bytes"].as_u64().unwrap())
            .collect();
        assert!(sizes.len() >= 5, "{format}: {sizes:?}");
        let (_, full) = sizes.split_last().unwrap();
        // Estimates of what Parquet has not encoded yet may be off by a page or so.
        assert!(full.iter().all(|size| (90 << 10..500 << 10).contains(size)), "{format}: {sizes:?}");
        assert_eq!(prepared["numRows"], 81_920);
    }
}

#[tokio::test]
async fn partitions_read_back_as_hive_partitions() {
    let root = tempfile::tempdir().unwrap();
    let ids = Int64Array::from_iter_values(0..1000);
    let years = Int64Array::from_iter_values((0..1000).map(|i| 2020 + i % 3));
    let names = StringArray::from_iter_values((0..1000).map(|i| format!("n {}", i % 2)));
    let columns: [(&str, ArrayRef); 3] =
        [("year", Arc::new(years)), ("id", Arc::new(ids)), ("name", Arc::new(names))];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let output = Output::new(OutputFormat::Parquet, rows.schema()).partition_by(&["name", "year"]);
    let prepared =
        write(&output.sink(root.path()), batch(0), vec![vec![rows.slice(0, 700), rows.slice(700, 300)]])
            .await;
    assert_eq!(prepared["metrics"]["numFiles"], 6);
    let names = visible(root.path(), ".parquet");
    assert!(names[0].starts_with("name=n 0/year=2020/part-00000-"), "{names:?}");
    let basenames: BTreeSet<&str> = names.iter().map(|name| name.rsplit('/').next().unwrap()).collect();
    assert_eq!(basenames.len(), 6, "names stay unique without their directories");
    let file = SerializedFileReader::new(fs::File::open(root.path().join(&names[0])).unwrap()).unwrap();
    let columns = file.metadata().file_metadata().schema_descr().columns().iter();
    assert_eq!(columns.map(|column| column.name()).collect::<Vec<_>>(), ["id"]);

    let context = SessionContext::new();
    let options = ListingOptions::new(Arc::new(ParquetFormat::default())).with_table_partition_cols(vec![
        ("name".to_string(), DataType::Utf8),
        ("year".to_string(), DataType::Int64),
    ]);
    let location = format!("{}/", root.path().display());
    context.register_listing_table("out", location, options, None, None).await.unwrap();
    let check = "SELECT count(*), count(DISTINCT id), \
                 count(*) FILTER (WHERE year <> 2020 + id % 3 OR name <> concat('n ', id % 2)) FROM out";
    let counts = context.sql(check).await.unwrap().collect().await.unwrap();
    let counts: Vec<i64> =
        counts[0].columns().iter().map(|column| column.as_primitive::<Int64Type>().value(0)).collect();
    assert_eq!(counts, [1000, 1000, 0]);
}

#[tokio::test]
async fn no_value_escapes_its_directory_and_every_value_reads_back() {
    let values = [
        "plain",
        "../up",
        "..",
        ".",
        "/abs",
        "a/b",
        "a\\b",
        "50%",
        "%2F",
        "k=v",
        "zürich 東京 🦀",
        "tab\t",
        " ",
        "a:b",
        "q?*",
        "'\"",
        "{[^]}",
        "#",
        "~|<>`",
        "nul\0",
        "new\nline",
    ];
    let rows = keyed(Arc::new(StringArray::from_iter_values(values)));
    for local in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("nested/out");
        let url = Url::from_directory_path(&out).unwrap();
        let storage: Arc<dyn Storage> = if local {
            Arc::new(LocalStorage::new(&url, Durability::Disk).unwrap())
        } else {
            Arc::new(ObjectStorage::new(Arc::new(LocalFileSystem::new()), &url).unwrap())
        };
        let output = Output::new(OutputFormat::Parquet, rows.schema()).partition_by(&["key"]);
        write(&output.sink_on(storage).unwrap(), batch(0), vec![vec![rows.clone()]]).await;
        let names = files(root.path());
        assert_eq!(names.len(), values.len());
        assert!(
            names.iter().all(|name| name.starts_with("nested/out/key=") && name.matches('/').count() == 3)
        );
        assert_eq!(keys_by_id(&out).await, values);
    }
}

/// The values of the partition column `key`, in order of `id`.
async fn keys_by_id(out: &Path) -> Vec<String> {
    let context = SessionContext::new();
    let options = ListingOptions::new(Arc::new(ParquetFormat::default()))
        .with_table_partition_cols(vec![("key".to_string(), DataType::Utf8)]);
    context.register_listing_table("out", format!("{}/", out.display()), options, None, None).await.unwrap();
    let rows = context.sql("SELECT id, key FROM out").await.unwrap().collect().await.unwrap();
    let mut keys = BTreeMap::new();
    for rows in &rows {
        let text = datafusion::arrow::compute::cast(rows.column(1), &DataType::Utf8).unwrap();
        for (id, key) in
            rows.column(0).as_primitive::<Int64Type>().values().iter().zip(text.as_string::<i32>())
        {
            keys.insert(*id, key.unwrap().to_string());
        }
    }
    keys.into_values().collect()
}

#[tokio::test]
async fn null_has_the_default_partition_alone() {
    let rows = keyed(Arc::new(StringArray::from(vec![Some("a"), None])));
    let root = tempfile::tempdir().unwrap();
    let output = Output::new(OutputFormat::Json, rows.schema()).partition_by(&["key"]);
    write(&output.sink(root.path()), batch(0), vec![vec![rows]]).await;
    let names = visible(root.path(), ".json");
    assert_eq!(names.len(), 2);
    assert!(names[0].starts_with("key=__HIVE_DEFAULT_PARTITION__/"));
    assert_eq!(fs::read_to_string(root.path().join(&names[0])).unwrap(), "{\"id\":1}\n");
    let empty = keyed(Arc::new(StringArray::from(vec![Some("")])));
    let root = tempfile::tempdir().unwrap();
    let refused = super::stage(&output.sink(root.path()), batch(0), vec![vec![empty]]).await;
    assert!(refused.unwrap_err().to_string().contains("column 'key' has the value ''"));
}

#[tokio::test]
async fn many_values_share_few_open_files() {
    let root = tempfile::tempdir().unwrap();
    let storage = Arc::new(TestStorage::new(root.path()));
    let rows = 20_000;
    let keys = Int64Array::from_iter_values((0..rows).map(|i| (i * 7919) % 500));
    let all = keyed(Arc::new(keys));
    let output = Output::new(OutputFormat::Json, all.schema()).partition_by(&["key"]);
    let sink = output.sink_on(storage.clone()).unwrap();
    let batches = (0..20).map(|i| all.slice(i * 1000, 1000)).collect();
    let prepared = write(&sink, batch(0), vec![batches]).await;
    // One file per value, although no batch holds more than two rows of it.
    assert_eq!(prepared["metrics"]["numFiles"], 500);
    assert!(storage.most_open() <= 64 + 16, "{}", storage.most_open());
    assert_eq!(visible_ids(root.path()), (0..rows).collect::<Vec<_>>());
}

#[tokio::test]
async fn more_rows_than_may_be_gathered_make_more_files_not_more_memory() {
    let root = tempfile::tempdir().unwrap();
    let storage = Arc::new(TestStorage::new(root.path()));
    let long = "x".repeat(8 << 10);
    let rows = |start: i64| {
        let ids = start..start + 1000;
        let keys = Int64Array::from_iter_values(ids.clone().map(|id| id % 100));
        let columns: [(&str, ArrayRef); 3] = [
            ("key", Arc::new(keys)),
            ("id", Arc::new(Int64Array::from_iter_values(ids))),
            ("text", Arc::new(StringArray::from_iter_values((0..1000).map(|_| &long)))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1 << 30));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool.clone()).build_arc().unwrap();
    let context = SessionContext::new_with_config_rt(SessionConfig::new(), runtime);
    let output = Output::new(OutputFormat::Text, rows(0).schema().project(&[0, 2]).unwrap().into())
        .partition_by(&["key"]);
    let sink = output.sink_in(storage.clone(), &context.state()).unwrap();
    let mut writer = sink.writer(batch(0), 0).await.unwrap();
    let mut most = 0;
    for start in 0..12 {
        writer.write(rows(start * 1000).project(&[0, 2]).unwrap()).await.unwrap();
        most = most.max(pool.reserved());
    }
    let report = writer.close().await.unwrap();
    let prepared = sink.prepare(batch(0), vec![report]).await.unwrap();
    sink.publish(0, &prepared).await.unwrap();
    assert_eq!(prepared["numRows"], 12_000);
    assert!(prepared["metrics"]["numFiles"].as_u64().unwrap() > 100);
    assert!(storage.most_open() <= 64 + 16);
    assert!(most < 160 << 20, "{most}");
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn a_tight_memory_pool_makes_row_groups_smaller_instead_of_failing() {
    let root = tempfile::tempdir().unwrap();
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(6 << 20));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool.clone()).build_arc().unwrap();
    let context = SessionContext::new_with_config_rt(SessionConfig::new(), runtime);
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 1) as i64
    };
    let mut column = || -> ArrayRef { Arc::new(Int64Array::from_iter_values((0..8192).map(|_| random()))) };
    let mut rows = Vec::new();
    for _ in 0..30 {
        let columns: Vec<(String, ArrayRef)> = (0..10).map(|i| (format!("c{i}"), column())).collect();
        rows.push(RecordBatch::try_from_iter(columns).unwrap());
    }
    let output = Output::new(OutputFormat::Parquet, rows[0].schema()).option("compression", "none");
    let sink = output.sink_in(Arc::new(TestStorage::new(root.path())), &context.state()).unwrap();
    let mut writer = sink.writer(batch(0), 0).await.unwrap();
    let mut most = 0;
    for rows in rows {
        writer.write(rows).await.unwrap();
        most = most.max(pool.reserved());
    }
    let report = writer.close().await.unwrap();
    let prepared = sink.prepare(batch(0), vec![report]).await.unwrap();
    sink.publish(0, &prepared).await.unwrap();
    let name = visible(root.path(), ".parquet").remove(0);
    let file = SerializedFileReader::new(fs::File::open(root.path().join(name)).unwrap()).unwrap();
    assert_eq!(file.metadata().file_metadata().num_rows(), 30 * 8192);
    assert!(file.metadata().num_row_groups() >= 3, "{}", file.metadata().num_row_groups());
    assert!(most <= 6 << 20, "{most}");
}
