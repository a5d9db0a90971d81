//! Every format, read back with DataFusion's own readers.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array, Int64Array,
    ListArray, RecordBatch, StringArray, StringViewArray, StructArray, TimestampMicrosecondArray,
};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
use datafusion::assert_batches_sorted_eq;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::execution::options::ArrowReadOptions;
use datafusion::parquet::file::metadata::ParquetMetaData;
use datafusion::parquet::file::reader::{FileReader, SerializedFileReader};
use datafusion::prelude::*;
use tidemill::sink::{OutputFormat, OutputMode, Sink};

use super::storage::TestStorage;
use super::{Output, QUERY, batch, files, people, stage, visible, write};

/// One column per kind of type.
fn typed() -> RecordBatch {
    let item = Arc::new(Field::new("x", DataType::Int64, true));
    let inner: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
    let list =
        ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), Some(2)]), None, Some(vec![])]);
    let dictionary: DictionaryArray<Int32Type> = vec![Some("a"), None, Some("a")].into_iter().collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("ratio", Arc::new(Float64Array::from(vec![Some(0.5), None, Some(-1e9)]))),
        ("text", Arc::new(StringArray::from(vec![Some("a,\"b\"\n€"), None, Some("plain")]))),
        ("view", Arc::new(StringViewArray::from(vec![Some("a string longer than twelve"), None, Some("s")]))),
        ("day", Arc::new(Date32Array::from(vec![Some(19_782), None, Some(0)]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_700_000_000_123_456), None, Some(0)]))),
        (
            "price",
            Arc::new(
                Decimal128Array::from(vec![Some(1250), None, Some(-1)])
                    .with_precision_and_scale(9, 2)
                    .unwrap(),
            ),
        ),
        ("list", Arc::new(list)),
        ("struct", Arc::new(StructArray::from(vec![(item, inner)]))),
        ("code", Arc::new(dictionary)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .unwrap()
}

async fn collect(frame: DataFrame) -> RecordBatch {
    let frame = frame.sort_by(vec![col("id")]).unwrap();
    let schema = Arc::new(frame.schema().as_arrow().clone());
    concat_batches(&schema, &frame.collect().await.unwrap()).unwrap()
}

fn path(root: &Path) -> String {
    format!("{}/", root.display())
}

/// The rows of `back` in the types of `rows`.
fn assert_same(rows: &RecordBatch, back: &RecordBatch) {
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        let other = back.column_by_name(field.name()).unwrap();
        let other = datafusion::arrow::compute::cast(other, field.data_type()).unwrap();
        let (column, other) = if matches!(field.data_type(), DataType::Dictionary(..)) {
            let plain = |array: &ArrayRef| datafusion::arrow::compute::cast(array, &DataType::Utf8).unwrap();
            (plain(column), plain(&other))
        } else {
            (column.clone(), other)
        };
        assert_eq!(&column, &other, "{}", field.name());
    }
}

#[tokio::test]
async fn parquet_round_trip() {
    let root = tempfile::tempdir().unwrap();
    let rows = typed();
    let sink = Output::new(OutputFormat::Parquet, rows.schema()).sink(root.path());
    let prepared = write(&sink, batch(0), vec![vec![rows.slice(0, 2)], vec![rows.slice(2, 1)]]).await;
    assert_eq!(prepared["numRows"], 3);
    assert_eq!(prepared["metrics"]["numFiles"], 2);
    let names = visible(root.path(), ".zstd.parquet");
    assert_eq!(
        names,
        [
            "part-00000-0000000000-000000000000000000000000aaaa0001.zstd.parquet",
            "part-00001-0000000000-000000000000000000000000aaaa0001.zstd.parquet"
        ]
    );
    let bytes: u64 = names.iter().map(|name| fs::metadata(root.path().join(name)).unwrap().len()).sum();
    assert_eq!(prepared["metrics"]["numBytes"], bytes);
    let context = SessionContext::new();
    let frame = context.read_parquet(path(root.path()), ParquetReadOptions::default()).await.unwrap();
    assert_same(&rows, &collect(frame).await);
}

#[tokio::test]
async fn arrow_round_trip_with_changing_dictionaries() {
    for codec in ["lz4", "zstd", "none"] {
        let root = tempfile::tempdir().unwrap();
        let rows = typed();
        let other: DictionaryArray<Int32Type> = vec![Some("b"), Some("c"), None].into_iter().collect();
        let mut columns = rows.columns().to_vec();
        columns[0] = Arc::new(Int64Array::from(vec![4, 5, 6]));
        columns[10] = Arc::new(other);
        let more = RecordBatch::try_new(rows.schema(), columns).unwrap();
        let output = Output::new(OutputFormat::Arrow, rows.schema()).option("compression", codec);
        write(&output.sink(root.path()), batch(0), vec![vec![rows.clone(), more.clone()]]).await;
        assert_eq!(visible(root.path(), ".arrow").len(), 1);
        let context = SessionContext::new();
        let frame = context.read_arrow(path(root.path()), ArrowReadOptions::default()).await.unwrap();
        assert_same(&concat_batches(&rows.schema(), [&rows, &more]).unwrap(), &collect(frame).await);
    }
}

fn codecs() -> [(&'static str, &'static str, FileCompressionType); 5] {
    [
        ("none", "", FileCompressionType::UNCOMPRESSED),
        ("gzip", ".gz", FileCompressionType::GZIP),
        ("bzip2", ".bz2", FileCompressionType::BZIP2),
        ("xz", ".xz", FileCompressionType::XZ),
        ("zstd", ".zst", FileCompressionType::ZSTD),
    ]
}

#[tokio::test]
async fn json_round_trip_with_every_codec() {
    let rows = typed();
    for (codec, extension, kind) in codecs() {
        let root = tempfile::tempdir().unwrap();
        let output = Output::new(OutputFormat::Json, rows.schema()).option("compression", codec);
        write(&output.sink(root.path()), batch(0), vec![vec![rows.slice(0, 1), rows.slice(1, 2)]]).await;
        let extension = format!(".json{extension}");
        assert_eq!(visible(root.path(), &extension).len(), 1, "{codec}");
        let mut fields: Vec<Field> =
            rows.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
        // The reader knows no dictionaries.
        fields[10] = Field::new("code", DataType::Utf8, true);
        let schema = Schema::new(fields);
        let options =
            JsonReadOptions::default().schema(&schema).file_extension(&extension).file_compression_type(kind);
        let context = SessionContext::new();
        let frame = context.read_json(path(root.path()), options).await.unwrap();
        assert_same(&rows, &collect(frame).await);
    }
}

#[tokio::test]
async fn csv_round_trip_with_every_codec() {
    let rows = typed().project(&[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
    for (codec, extension, kind) in codecs() {
        let root = tempfile::tempdir().unwrap();
        let output =
            Output::new(OutputFormat::Csv, rows.schema()).option("compression", codec).option("sep", ";");
        write(&output.sink(root.path()), batch(0), vec![vec![rows.slice(0, 1), rows.slice(1, 2)]]).await;
        let extension = format!(".csv{extension}");
        let schema = rows.schema();
        let options = CsvReadOptions::default()
            .schema(schema.as_ref())
            .delimiter(b';')
            .newlines_in_values(true)
            .file_extension(&extension)
            .file_compression_type(kind);
        let context = SessionContext::new();
        let frame = context.read_csv(path(root.path()), options).await.unwrap();
        assert_same(&rows, &collect(frame).await);
    }
}

#[tokio::test]
async fn csv_header_is_the_first_line_of_every_file_or_of_none() {
    for (header, expected) in [("true", "id,name\n1,name 1\n"), ("false", "1,name 1\n")] {
        let root = tempfile::tempdir().unwrap();
        let output = Output::new(OutputFormat::Csv, people(0..1).schema())
            .option("header", header)
            .option("maxRecordsPerFile", "1");
        write(&output.sink(root.path()), batch(0), vec![vec![people(1..4)]]).await;
        let names = visible(root.path(), ".csv");
        assert_eq!(names.len(), 3);
        assert_eq!(fs::read_to_string(root.path().join(&names[2])).unwrap(), expected);
        let all: Vec<_> =
            names.iter().map(|name| fs::read_to_string(root.path().join(name)).unwrap()).collect();
        assert!(all.iter().all(|text| text.starts_with("id,name\n") == (header == "true")), "{all:?}");
    }
}

#[tokio::test]
async fn json_nulls_are_left_out_unless_asked_for() {
    for (ignore, expected) in [("true", "{\"id\":0}\n"), ("false", "{\"id\":0,\"name\":null}\n")] {
        let root = tempfile::tempdir().unwrap();
        let output =
            Output::new(OutputFormat::Json, people(0..1).schema()).option("ignoreNullFields", ignore);
        write(&output.sink(root.path()), batch(0), vec![vec![people(0..1)]]).await;
        let name = visible(root.path(), ".json").remove(0);
        assert_eq!(fs::read_to_string(root.path().join(name)).unwrap(), expected);
    }
}

#[tokio::test]
async fn text_is_one_line_per_row() {
    let line = |array: ArrayRef| RecordBatch::try_from_iter_with_nullable([("line", array, true)]).unwrap();
    let values = vec![Some("first, line"), None, Some(""), Some("läst")];
    let dictionary: DictionaryArray<Int32Type> = values.clone().into_iter().collect();
    let kinds: [ArrayRef; 3] = [
        Arc::new(StringArray::from(values.clone())),
        Arc::new(StringViewArray::from(values.clone())),
        Arc::new(dictionary),
    ];
    for rows in kinds.map(line) {
        let root = tempfile::tempdir().unwrap();
        let sink = Output::new(OutputFormat::Text, rows.schema()).sink(root.path());
        write(&sink, batch(0), vec![vec![rows.clone(), rows]]).await;
        let name = visible(root.path(), ".txt").remove(0);
        let text = fs::read_to_string(root.path().join(name)).unwrap();
        assert_eq!(text, "first, line\n\n\nläst\nfirst, line\n\n\nläst\n");
    }
}

fn metadata(path: &Path) -> ParquetMetaData {
    SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap().metadata().clone()
}

/// What COPY and the sink say about the same rows, without what depends on the file's size.
#[tokio::test]
async fn parquet_files_are_what_copy_writes() {
    let rows = people(0..5000);
    let settings = [
        vec![],
        vec![("compression", "snappy"), ("max_row_group_size", "1000"), ("statistics_enabled", "chunk")],
        vec![("skip_arrow_metadata", "true"), ("compression::name", "gzip(3)"), ("metadata::who", "me")],
        vec![
            ("bloom_filter_enabled::id", "true"),
            ("dictionary_enabled", "false"),
            ("writer_version", "2.0"),
        ],
    ];
    for settings in settings {
        let root = tempfile::tempdir().unwrap();
        let copied = root.path().join("copied.parquet");
        let context = SessionContext::new();
        let config = settings.iter().map(|(name, value)| format!("'format.{name}' '{value}'"));
        let config: Vec<String> = config.collect();
        context.register_batch("rows", rows.clone()).unwrap();
        let with = if config.is_empty() { String::new() } else { format!("OPTIONS ({})", config.join(", ")) };
        let copy = format!("COPY rows TO '{}' STORED AS PARQUET {with}", copied.display());
        context.sql(&copy).await.unwrap().collect().await.unwrap();

        let out = root.path().join("out");
        let mut output = Output::new(OutputFormat::Parquet, rows.schema());
        for (name, value) in &settings {
            output = output.option(&format!("format.{name}"), value);
        }
        write(&output.sink(&out), batch(0), vec![vec![rows.clone()]]).await;
        let written = metadata(&out.join(&visible(&out, ".parquet")[0]));
        let copied = metadata(&copied);
        let (ours, theirs) = (written.file_metadata(), copied.file_metadata());
        assert_eq!(ours.schema_descr(), theirs.schema_descr());
        assert_eq!(ours.created_by(), theirs.created_by());
        assert_eq!(ours.version(), theirs.version());
        let sorted = |pairs: Option<&Vec<datafusion::parquet::file::metadata::KeyValue>>| {
            let mut pairs: Vec<_> = pairs.into_iter().flatten().map(|pair| format!("{pair:?}")).collect();
            pairs.sort();
            pairs
        };
        assert_eq!(sorted(ours.key_value_metadata()), sorted(theirs.key_value_metadata()), "{settings:?}");
        assert_eq!(written.num_row_groups(), copied.num_row_groups());
        for (ours, theirs) in written.row_groups().iter().zip(copied.row_groups()) {
            assert_eq!(ours.num_rows(), theirs.num_rows());
            for (ours, theirs) in ours.columns().iter().zip(theirs.columns()) {
                assert_eq!(ours.compression(), theirs.compression(), "{settings:?}");
                assert_eq!(
                    ours.encodings().collect::<Vec<_>>(),
                    theirs.encodings().collect::<Vec<_>>(),
                    "{settings:?}"
                );
                assert_eq!(ours.statistics(), theirs.statistics());
                assert_eq!(ours.bloom_filter_offset().is_some(), theirs.bloom_filter_offset().is_some());
                assert_eq!(ours.column_index_offset().is_some(), theirs.column_index_offset().is_some());
            }
        }
    }
}

#[tokio::test]
async fn batch_readers_of_the_directory_see_all_batches() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let context = SessionContext::new();
    let output = Output::new(OutputFormat::Parquet, people(0..1).schema());
    let sink = output.sink_in(Arc::new(TestStorage::new(root)), &context.state()).unwrap();
    write(&sink, batch(0), vec![vec![people(1..3)]]).await;
    let create = format!("CREATE EXTERNAL TABLE out STORED AS PARQUET LOCATION '{}'", path(root));
    context.sql(&create).await.unwrap();
    let count = async || context.table("out").await.unwrap().count().await.unwrap();
    assert_eq!(count().await, 2);
    // DataFusion remembers listings for the life of a session; publishing makes it forget them.
    write(&sink, batch(1), vec![vec![people(3..4)]]).await;
    let staged = stage(&sink, batch(2), vec![vec![people(4..5)]]).await.unwrap();
    assert_eq!(count().await, 3);
    let rows = context.sql("SELECT * FROM out").await.unwrap().collect().await.unwrap();
    let expected = [
        "+----+--------+",
        "| id | name   |",
        "+----+--------+",
        "| 1  | name 1 |",
        "| 2  | name 2 |",
        "| 3  | name 3 |",
        "+----+--------+",
    ];
    assert_batches_sorted_eq!(expected, &rows);
    sink.recover(QUERY, Some((2, &staged))).await.unwrap();
    assert_eq!(count().await, 4);
    // The sink's files and DataFusion's own live side by side.
    context.sql("INSERT INTO out VALUES (6, 'six')").await.unwrap().collect().await.unwrap();
    assert_eq!(count().await, 5);
}

#[tokio::test]
async fn a_batch_without_rows_writes_no_file() {
    let root = tempfile::tempdir().unwrap();
    for format in OutputFormat::ALL {
        let rows =
            if format == OutputFormat::Text { people(0..1).project(&[1]).unwrap() } else { people(0..1) };
        let sink = Output::new(format, rows.schema()).sink(root.path());
        let prepared = write(&sink, batch(0), vec![vec![], vec![rows.slice(0, 0)]]).await;
        assert_eq!(prepared["numRows"], 0);
        assert_eq!(prepared["metrics"]["numFiles"], 0);
        assert_eq!(write(&sink, batch(1), vec![]).await["numRows"], 0);
        sink.close().await.unwrap();
    }
    assert_eq!(files(root.path()), [""; 0]);
}

#[tokio::test]
async fn only_append_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let sink = Output::new(OutputFormat::Parquet, people(0..1).schema()).sink(root.path());
    assert!(sink.check_output_mode(OutputMode::Append).is_ok());
    for mode in [OutputMode::Update, OutputMode::Complete] {
        let error = sink.check_output_mode(mode).unwrap_err().to_string();
        assert!(error.starts_with("the parquet sink 'file:///"), "{error}");
        assert!(error.contains(&format!("output mode {mode}")) && error.contains("Use output mode append"));
    }
}
