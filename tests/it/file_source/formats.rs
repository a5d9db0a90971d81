//! Every format, compressed or not, gives the rows that DataFusion gives for the same files.

use std::io::Write;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, IntervalUnit, TimeUnit};
use datafusion::arrow::ipc::writer::{FileWriter, StreamWriter};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::prelude::{CsvReadOptions, JsonReadOptions, ParquetReadOptions, col, lit};
use tidemill::Error;

use super::parquet_sizes::rows_of;
use super::{Input, ab, execute, expected, json_lines, rows, schema};

fn compressed(extension: &str, content: &str) -> Vec<u8> {
    let content = content.as_bytes();
    match extension {
        "gz" => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(content).unwrap();
            out.finish().unwrap()
        }
        "bz2" => {
            let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            out.write_all(content).unwrap();
            out.finish().unwrap()
        }
        "xz" => {
            let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
            out.write_all(content).unwrap();
            out.finish().unwrap()
        }
        "zst" => zstd::encode_all(content, 1).unwrap(),
        _ => content.to_vec(),
    }
}

pub(super) fn batch(range: std::ops::Range<i64>) -> RecordBatch {
    let b = StringArray::from_iter_values(range.clone().map(|a| format!("row {a}")));
    let columns: [(&str, ArrayRef); 2] =
        [("a", Arc::new(Int64Array::from_iter_values(range))), ("b", Arc::new(b))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

pub(super) fn parquet(rows: &RecordBatch, rows_per_group: usize) -> Vec<u8> {
    parquet_with(rows, WriterProperties::builder().set_max_row_group_row_count(Some(rows_per_group)).build())
}

pub(super) fn parquet_with(rows: &RecordBatch, properties: WriterProperties) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
    writer.write(rows).unwrap();
    writer.into_inner().unwrap()
}

pub(super) fn ipc_file(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = FileWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

pub(super) fn ipc_stream(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn compression_by_name_and_by_option() {
    for format in ["json", "csv", "text"] {
        let by_name = Input::new();
        for (index, extension) in ["json", "gz", "bz2", "xz", "zst"].into_iter().enumerate() {
            let row = index as i64;
            let content = match format {
                "json" => json_lines(row..row + 1),
                "csv" => format!("a,b\n{row},row {row}\n"),
                _ => format!("{row}|row {row}\n"),
            };
            by_name.write(&format!("f.{extension}"), 1, compressed(extension, &content));
        }
        let columns = if format == "text" { schema(&[("line", DataType::Utf8)]) } else { ab() };
        let reader = by_name.source(format, &columns, &[]).await;
        assert_eq!(reader.all().await.unwrap(), expected(0..5), "{format}");
    }
    for (option, extension) in [("gzip", "gz"), ("bzip2", "bz2"), ("XZ", "xz"), ("zstd", "zst"), ("none", "")]
    {
        let by_option = Input::new();
        by_option.write("f.json", 1, compressed(extension, &json_lines(0..9)));
        let reader = by_option.source("json", &ab(), &[("compression", option)]).await;
        assert_eq!(reader.all().await.unwrap(), expected(0..9), "{option}");
    }
}

#[tokio::test]
async fn json_as_datafusion_reads_it() {
    let input = Input::new();
    let odd = "{\"a\":1,\"b\":\"ä \\u00e9\\n\\\"\",\"c\":[1,2],\"d\":{\"e\":1.5,\"f\":null}}\r\n\n\
               {\"b\":\"\u{1F600}\\u0000\",\"c\":[],\"unknown\":{\"x\":[{}]}}\n  {\"a\": 7 , \"d\":{\"e\":-1e3}} ";
    input.write("f.json", 1, odd);
    let reader = input.inferred("json", &[]).await;
    let mine = reader.all().await.unwrap();
    let path = input.text("f.json");
    let frame = input.session.read_json(path, JsonReadOptions::default()).await.unwrap();
    assert_eq!(mine, rows(&frame.collect().await.unwrap()));
    assert_eq!(mine.len(), 3);
}

#[tokio::test]
async fn json_arrays() {
    let input = Input::new();
    input.write("f.json", 1, "[{\"a\":1,\n\"b\":\"x\"},\n {\"a\":2}]");
    input.write("g.json.gz", 2, compressed("gz", "[{\"a\":3}]"));
    let reader = input.source("json", &ab(), &[("multiLine", "true")]).await;
    assert_eq!(reader.all().await.unwrap(), ["1|x", "2|-", "3|-"]);
}

#[tokio::test]
async fn csv_as_datafusion_reads_it() {
    let input = Input::new();
    let text = "n,t,d,ok,s\r\n1,2024-02-29T10:00:00,1.5,true,\"a, \"\"b\"\"\"\r\n,,,,\"line\r\nbreak\"\r\n\
                -3,1969-12-31T23:59:59,1e300,false,\n";
    input.write("f.csv", 1, text);
    let columns = schema(&[
        ("n", DataType::Int32),
        ("t", DataType::Timestamp(TimeUnit::Microsecond, None)),
        ("d", DataType::Float64),
        ("ok", DataType::Boolean),
        ("s", DataType::Utf8),
    ]);
    let reader = input.source("csv", &columns, &[]).await;
    let mine = reader.all().await.unwrap();
    let path = input.text("f.csv");
    let options = CsvReadOptions::new().schema(&columns);
    let frame = input.session.read_csv(path, options).await.unwrap();
    assert_eq!(mine, rows(&frame.collect().await.unwrap()));
    assert_eq!(mine.len(), 3);
    let inferred = input.inferred("csv", &[]).await;
    assert_eq!(inferred.all().await.unwrap().len(), 3);
}

#[tokio::test]
async fn csv_dialects() {
    for (text, options, expected) in [
        ("1;x\n2;'y;z'\n", &[("sep", ";"), ("quote", "'"), ("header", "false")][..], ["1|x", "2|y;z"]),
        ("1\tx\n2\ty\n", &[("delimiter", "\\t"), ("has_header", "false")], ["1|x", "2|y"]),
        ("a,b\n#no\n1,x\nNA,NA\n", &[("comment", "#"), ("nullValue", "NA")], ["-|-", "1|x"]),
        ("a,b\n1,\"x\\\"y\"\n2,z\n", &[("escape", "\\")], ["1|x\"y", "2|z"]),
        ("a,b;1,x;2,y;", &[("lineSep", ";")], ["1|x", "2|y"]),
        ("a\n1\n2\n", &[("truncated_rows", "true")], ["1|-", "2|-"]),
        ("q,r\n1,x\n2,y\n", &[("enforceSchema", "true")], ["1|x", "2|y"]),
    ] {
        let input = Input::new();
        input.write("f.csv", 1, text);
        let reader = input.source("csv", &ab(), options).await;
        assert_eq!(reader.all().await.unwrap(), expected, "{text}");
    }
}

#[tokio::test]
async fn csv_columns_are_found_by_the_names_in_the_header() {
    for (text, options, expected) in [
        ("b,a\nx,1\n", &[][..], "1|x"),
        ("a,b,c\n1,x,2\n", &[("mode", "DROPMALFORMED")], "1|x"),
        ("c,B,d, a \n?,x,?,1\n", &[], "1|x"),
        ("a\n1\n", &[], "1|-"),
        ("b\nx\n", &[], "-|x"),
    ] {
        let input = Input::new();
        input.write("f.csv", 1, text);
        let reader = input.source("csv", &ab(), options).await;
        assert_eq!(reader.all().await.unwrap(), [expected], "{text}");
    }
}

#[tokio::test]
async fn a_header_that_names_no_column_is_an_error() {
    for (text, part) in [
        ("1,x\n", "set header to false; to ignore what headers say, set enforceSchema to true"),
        ("a;b\n1;x\n", "Set sep to ';'"),
        ("a,b,A,a\n1,x,1,1\n", "more than once"),
    ] {
        let input = Input::new();
        input.write("f.csv", 1, text);
        let error = input.source("csv", &ab(), &[]).await.all().await.unwrap_err();
        assert!(matches!(error, Error::InputFile { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("f.csv") && message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn csv_that_nobody_describes_is_read_as_it_looks() {
    for (name, text, columns, expected) in [
        ("f.csv", "n;t\n1,5;x\n2,5;y\n", ["n", "t"], ["1,5|x", "2,5|y"]),
        ("f.tsv", "n\tt\n1\tx, x\n2\ty\n", ["n", "t"], ["1|x, x", "2|y"]),
        ("f.csv", "1|x\n2|y\n", ["column_1", "column_2"], ["1|x", "2|y"]),
        ("f.csv", "a, name \n1,Ann\n2,Bob\n", ["a", "name"], ["1|Ann", "2|Bob"]),
        ("f.csv", "2026-01-01,x\n2026-01-02,y\n", ["column_1", "column_2"], ["2026-01-01|x", "2026-01-02|y"]),
    ] {
        let input = Input::new();
        input.write(name, 1, text);
        let provider = input.resolve("csv", "", None, &[]).await.unwrap();
        let found: Vec<String> =
            provider.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(found, columns, "{text}");
        assert_eq!(input.reader(&provider).all().await.unwrap(), expected, "{text}");
    }
    // What is said is so.
    let input = Input::new();
    input.write("f.csv", 1, "1;x\n2;y\n");
    let provider = input.resolve("csv", "", None, &[("sep", ","), ("header", "true")]).await.unwrap();
    assert_eq!(provider.schema().field(0).name(), "1;x");
}

#[tokio::test]
async fn options_that_would_have_no_effect_are_refused() {
    let input = Input::new();
    input.write("f", 1, "a,b\n1,x\n");
    for (format, option, meant) in [
        ("csv", "date_format", "did you mean 'dateFormat'"),
        ("csv", "format.timestamp_format", "did you mean 'timestampFormat'"),
        ("csv", "null_value", "did you mean 'nullValue'"),
        ("csv", "quote_style", "how files are written"),
        ("csv", "ignore_leading_whitespace", "how files are written"),
        ("json", "compression_level", "how files are written"),
    ] {
        let error = input.resolve(format, "", Some(ab()), &[(option, "1")]).await.unwrap_err().to_string();
        assert!(error.contains(&format!("unknown option '{option}'")) && error.contains(meant), "{error}");
    }
}

#[tokio::test]
async fn text_in_other_encodings_is_read() {
    let latin = b"n,t\n1,na\xefve\n2,\"\xa3\n5\"\n";
    let json = b"{\"n\":1,\"t\":\"na\xefve\"}\n{\"n\":2,\"t\":\"\xa3\\n5\"}\n";
    let utf_16: Vec<u8> =
        "n,t\n1,na\u{ef}ve\n2,\"\u{a3}\n5\"\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (format, encoding, content) in
        [("csv", "ISO-8859-1", &latin[..]), ("csv", "UTF-16LE", &utf_16), ("json", "windows-1252", &json[..])]
    {
        for compressed in [false, true] {
            let input = Input::new();
            let mut bytes = content.to_vec();
            let mut name = format!("f.{format}");
            if compressed {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                std::io::Write::write_all(&mut encoder, content).unwrap();
                bytes = encoder.finish().unwrap();
                name += ".gz";
            }
            input.write(&name, 1, bytes);
            let reader = input.inferred(format, &[("encoding", encoding)]).await;
            assert_eq!(reader.all().await.unwrap(), ["1|na\u{ef}ve", "2|\u{a3}\n5"], "{format} {encoding}");
        }
    }
    let input = Input::new();
    input.write("f.csv", 1, "a\n1\n");
    let error = input.resolve("csv", "", None, &[("encoding", "latin-99")]).await.unwrap_err();
    assert!(error.to_string().contains("name of an encoding"), "{error}");
}

#[tokio::test]
async fn text_is_lines() {
    let input = Input::new();
    input.write("f", 1, "one\r\n\ntwo, 2\n");
    input.write("empty", 2, "");
    let reader = input.inferred("text", &[]).await;
    assert_eq!(reader.all().await.unwrap(), ["", "one", "two, 2"]);
    let wrong = input.resolve("text", "", Some(ab()), &[]).await.unwrap_err().to_string();
    assert!(wrong.contains("one column of text"), "{wrong}");
}

#[tokio::test]
async fn parquet_as_datafusion_reads_it() {
    let input = Input::new();
    input.write("f.parquet", 1, parquet(&batch(0..1000), 100));
    input.write("g.parquet", 2, parquet(&batch(1000..1500), 1000));
    let reader = input.inferred("parquet", &[]).await;
    let mine = reader.all().await.unwrap();
    let frame = input.session.read_parquet(input.text(""), ParquetReadOptions::default()).await.unwrap();
    assert_eq!(mine, rows(&frame.collect().await.unwrap()));
    assert_eq!(mine, expected(0..1500));
}

#[tokio::test]
async fn parquet_skips_what_filters_rule_out() {
    let input = Input::new();
    input.write("f.parquet", 1, parquet(&batch(0..1000), 100));
    let reader = input.inferred("parquet", &[]).await;
    let planned = reader.plan().await;
    let filter = col("a").gt_eq(lit(950_i64));
    let metric = |plan: &Arc<dyn datafusion::physical_plan::ExecutionPlan>, name: &str| {
        plan.metrics().unwrap().sum_by_name(name).map_or(0, |value| value.as_usize())
    };
    let scan = reader.scan(None, std::slice::from_ref(&filter), 1);
    assert!(scan.details().contains("a@0 >= 950"), "{}", scan.details());
    let plan = scan.read(&planned, &reader.context()).unwrap();
    let read = execute(Arc::clone(&plan), reader.context()).await.unwrap();
    assert_eq!(rows(&read), expected(900..1000), "one row group of ten");
    assert!(metric(&plan, "bytes_scanned") > 0);

    super::set(&input.session, "datafusion.execution.parquet.pushdown_filters", "true");
    let plan = reader.scan(None, &[filter], 1).read(&planned, &reader.context()).unwrap();
    let read = execute(Arc::clone(&plan), reader.context()).await.unwrap();
    assert_eq!(rows(&read), expected(950..1000), "rows are judged while they are read");
    assert_eq!(metric(&plan, "pushdown_rows_pruned"), 50);
}

#[tokio::test]
async fn parquet_with_columns_from_directories() {
    let input = Input::new();
    input.write("k=1/f", 1, parquet(&batch(0..10), 100));
    input.write("k=2/f", 2, parquet(&batch(10..20), 100));
    let provider = input.resolve("parquet", "", None, &[("includeMetadata", "true")]).await.unwrap();
    let reader = input.reader(&provider);
    let planned = reader.plan().await;
    let metadata = datafusion::functions::core::expr_fn::get_field(col("_metadata"), "file_size");
    for pushdown in ["false", "true"] {
        super::set(&input.session, "datafusion.execution.parquet.pushdown_filters", pushdown);
        let filters = [col("t.k").eq(lit(2)), col("a").lt(lit(15_i64)), metadata.clone().gt(lit(0_i64))];
        let plan = reader.scan(Some(&vec![0, 1]), &filters, 2).read(&planned, &reader.context()).unwrap();
        let read = rows(&execute(plan, reader.context()).await.unwrap());
        // What the scan does not apply, the plan above it does; it must only not lose rows.
        assert!(expected(10..15).iter().all(|row| read.contains(row)), "{read:?}");
        if pushdown == "true" {
            assert_eq!(read, expected(10..15));
        }
    }
    assert_eq!(
        reader.read_with(&planned, Some(&vec![2]), 1).await.unwrap().concat(),
        "1".repeat(10) + &"2".repeat(10)
    );
}

#[tokio::test]
async fn arrow_files_and_streams() {
    let input = Input::new();
    input.write("file", 1, ipc_file(&[batch(0..10), batch(10..20)]));
    input.write("stream", 2, ipc_stream(&[batch(20..25), batch(25..30)]));
    let reader = input.inferred("arrow", &[]).await;
    let planned = reader.plan().await;
    for partitions in 1..5 {
        super::set(&input.session, "datafusion.optimizer.repartition_file_min_size", "1");
        let read = reader.read_with(&planned, None, partitions).await.unwrap();
        assert_eq!(read, expected(0..30), "{partitions} partitions");
        let only_b = reader.read_with(&planned, Some(&vec![1]), partitions).await.unwrap();
        assert_eq!(only_b.len(), 30);
        assert_eq!(reader.read_with(&planned, Some(&vec![]), partitions).await.unwrap().len(), 30);
    }
}

/// Columns in another order, one more, one missing, and one of another type.
fn drifted() -> RecordBatch {
    let columns: [(&str, ArrayRef); 3] = [
        ("extra", Arc::new(Float64Array::from(vec![0.5, 1.5]))),
        ("b", Arc::new(StringArray::from(vec!["x", "y"]))),
        ("a", Arc::new(Int32Array::from(vec![1, 2]))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[tokio::test]
async fn columns_are_matched_by_name() {
    let columns = schema(&[("a", DataType::Int64), ("b", DataType::Utf8), ("new", DataType::Date32)]);
    for (format, content) in [
        ("parquet", parquet(&drifted(), 10)),
        ("arrow", ipc_file(&[drifted()])),
        ("arrow", ipc_stream(&[drifted()])),
    ] {
        let input = Input::new();
        input.write("f", 1, content);
        let reader = input.source(format, &columns, &[]).await;
        let planned = reader.plan().await;
        assert_eq!(reader.read(&planned).await.unwrap(), ["1|x|-", "2|y|-"], "{format}");
        let swapped = reader.read_with(&planned, Some(&vec![1, 0]), 1).await.unwrap();
        assert_eq!(swapped, ["x|1", "y|2"], "{format}");
    }
}

#[tokio::test]
async fn a_column_of_a_type_that_does_not_fit_is_an_error() {
    let columns = schema(&[("a", DataType::Int64), ("b", DataType::Date32)]);
    for (format, content) in [("parquet", parquet(&drifted(), 10)), ("arrow", ipc_file(&[drifted()]))] {
        let input = Input::new();
        input.write("f", 1, content);
        let error = input.source(format, &columns, &[]).await.all().await.unwrap_err();
        assert!(matches!(error, Error::InputFile { .. }), "{format}: {error}");
        assert!(error.to_string().contains(&input.text("f")), "{error}");
    }
}

#[tokio::test]
async fn columns_are_inferred_nullable_and_never_of_type_null() {
    let input = Input::new();
    input.write("f.json", 1, "{\"a\":1,\"n\":null,\"l\":[null],\"s\":{\"x\":null}}\n");
    input.write("empty.json", 2, "");
    let provider = input.resolve("json", "", None, &[]).await.unwrap();
    let found = provider.schema();
    assert_eq!(found.field_with_name("n").unwrap().data_type(), &DataType::Utf8);
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    assert_eq!(found.field_with_name("l").unwrap().data_type(), &list);
    assert!(found.fields().iter().all(|field| field.is_nullable()));
}

#[tokio::test]
async fn without_schema_and_files_advice_is_given() {
    let input = Input::new();
    input.write("empty", 1, "");
    let later = [("allowMissingPath", "true")];
    for below in ["", "missing/", "*.json"] {
        let error = input.resolve("json", below, None, &later).await.unwrap_err().to_string();
        assert!(error.contains("Give the columns"), "{error}");
    }
    let missing = input.resolve("json", "missing/", Some(ab()), &later).await.unwrap();
    let reader = input.reader(&missing);
    assert!(reader.plan().await.is_empty());
    input.write("missing/f", 1, json_lines(0..2));
    assert_eq!(reader.all().await.unwrap(), expected(0..2));
    input.write("broken", 2, "{");
    let error = input.resolve("json", "", None, &[]).await.unwrap_err().to_string();
    assert!(error.contains(&input.text("broken")), "{error}");
}

#[tokio::test]
async fn types_that_a_format_cannot_give_are_refused() {
    let input = Input::new();
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    for (format, data_type) in [("csv", list), ("json", DataType::Interval(IntervalUnit::YearMonth))] {
        let columns = schema(&[("a", DataType::Int64), ("odd", data_type)]);
        let error = input.resolve(format, "", Some(columns), &[]).await.unwrap_err().to_string();
        assert!(error.contains("'odd'"), "{error}");
    }
    let none = schema(&[]);
    assert!(input.resolve("csv", "", Some(none), &[]).await.is_err());
}

#[cfg(feature = "avro")]
pub(super) fn avro(rows: &RecordBatch) -> Vec<u8> {
    let mut writer =
        datafusion::arrow_avro::writer::AvroWriter::new(Vec::new(), rows.schema().as_ref().clone()).unwrap();
    for start in (0..rows.num_rows()).step_by(10) {
        writer.write(&rows.slice(start, 10.min(rows.num_rows() - start))).unwrap();
    }
    writer.finish().unwrap();
    writer.into_inner()
}

#[cfg(feature = "avro")]
#[tokio::test]
async fn avro_files() {
    let input = Input::new();
    input.write("f.avro", 1, avro(&batch(0..100)));
    input.write("g.avro", 1, avro(&drifted()));
    let reader = input.source("avro", &ab(), &[]).await;
    let mut all = expected(0..100);
    all.extend(["1|x".to_string(), "2|y".to_string()]);
    all.sort();
    let planned = reader.plan().await;
    assert_eq!(reader.read(&planned).await.unwrap(), all);
    assert_eq!(reader.read_with(&planned, Some(&vec![]), 1).await.unwrap().len(), 102);
    let only_b = reader.read_with(&planned, Some(&vec![1]), 3).await.unwrap();
    assert_eq!((only_b.len(), only_b[0].as_str()), (102, "row 0"));
    let inferred = Input::new();
    inferred.write("f.avro", 1, avro(&batch(0..5)));
    assert_eq!(inferred.inferred("avro", &[]).await.all().await.unwrap(), expected(0..5));
}

/// Their items need not stand one after the other.
#[tokio::test]
async fn lists_that_are_views_are_read() {
    let item = Arc::new(Field::new("item", DataType::Int64, true));
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
        Some(vec![Some(4)]),
    ]);
    let kinds = [DataType::ListView(Arc::clone(&item)), DataType::LargeListView(item)];
    for kind in kinds {
        let views = datafusion::arrow::compute::cast(&lists, &kind).unwrap();
        let batch = RecordBatch::try_from_iter_with_nullable([("v", views, true)]).unwrap();
        let input = Input::new();
        input.write("f.arrow", 1, ipc_file(&[batch]));
        let query = format!("SELECT v, v[1] AS first FROM '{}'", input.text("f.arrow"));
        let found = rows_of(query).await.unwrap();
        assert_eq!(found, ["-|-", "[1, -]|1", "[4]|4", "[]|-"], "{kind}");
    }
}
