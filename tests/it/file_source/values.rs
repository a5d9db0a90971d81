//! Values are what the file says, or an error says that they are not.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    StructArray,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use tidemill::{Error, Result};

use super::formats::{ipc_file, ipc_stream, parquet};
use super::{Input, ab, rows, schema};

async fn read(
    format: &str,
    content: impl AsRef<[u8]>,
    columns: &SchemaRef,
    options: &[(&str, &str)],
) -> Result<Vec<String>> {
    let input = Input::new();
    input.write("f", 1, content);
    input.source(format, columns, options).await.all().await
}

/// The error of reading one file, which it names.
async fn refused(
    format: &str,
    content: impl AsRef<[u8]>,
    columns: &SchemaRef,
    options: &[(&str, &str)],
) -> String {
    let error = read(format, content, columns, options).await.unwrap_err();
    assert!(matches!(error, Error::BadRecord { .. } | Error::InputFile { .. }), "{error:?}");
    assert!(error.to_string().contains("/f'"), "{error}");
    error.to_string()
}

/// The same rows in every format that has types of its own.
fn binary_files(batch: &RecordBatch) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("parquet", parquet(batch, 2)),
        ("arrow", ipc_file(std::slice::from_ref(batch))),
        ("arrow", ipc_stream(std::slice::from_ref(batch))),
        #[cfg(feature = "avro")]
        ("avro", super::formats::avro(batch)),
    ]
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .unwrap()
}

#[tokio::test]
async fn json_documents() {
    let whole = [("multiLine", "true")];
    for (text, expected) in [
        ("[{\"a\":1,\n\"b\":\"x\"},\n {\"a\":2}]", vec!["1|x", "2|-"]),
        ("{\"a\":1,\n \"b\":\"x\"\n}\n", vec!["1|x"]),
        ("\u{feff}[]\n", vec![]),
    ] {
        assert_eq!(read("json", text, &ab(), &whole).await.unwrap(), expected, "{text}");
    }
    for (text, reason) in [
        ("[{\"a\":1},{\"a\":2}]\n[{\"a\":3}]\n", "line 2: there is more behind"),
        ("{\"a\":1}\n{\"a\":2}\n", "set multiLine to false"),
        ("[{\"a\":1},\n{\"a\":2}", "it was cut"),
        ("[{\"a\":1}\n{\"a\":2}]", "line 2: a comma is missing"),
        ("hello", "neither an array of objects nor an object"),
        (" \n", "no JSON"),
        ("[{\"a\":1},]", "a comma stands before the end"),
    ] {
        let error = refused("json", text, &ab(), &whole).await;
        assert!(error.contains(reason), "{text}: {error}");
        // Damage to the document is no matter of single records.
        let error = refused("json", text, &ab(), &[("multiLine", "true"), ("mode", "DROPMALFORMED")]).await;
        assert!(error.contains(reason), "{text}: {error}");
    }
    let partly = "[{\"a\":1},{\"a\":2.5},\n7,{\"a\":3}] x";
    let error = refused("json", "[{\"a\":1},\n{\"a\":2.5}]", &ab(), &whole).await;
    assert!(error.contains("line 2, column 'a': 2.5 cannot be read as BIGINT"), "{error}");
    for batch_size in ["1", "2", "3", "100"] {
        let input = Input::new();
        super::set(&input.session, "datafusion.execution.batch_size", batch_size);
        input.write("f", 1, partly);
        let options = [("multiLine", "true"), ("mode", "DROPMALFORMED"), ("ignoreCorruptFiles", "true")];
        let reader = input.source("json", &ab(), &options).await;
        assert_eq!(reader.all().await.unwrap(), ["1|-", "3|-"], "{batch_size}");
        let metrics = reader.source.take_metrics();
        assert_eq!((metrics["numMalformedRows"].as_str(), metrics["numCorruptFiles"].as_str()), ("2", "1"));
    }
    let long: String = (0..5000).map(|a| format!("{{\"a\":{a},\n \"b\":\"row {a}\"}},\n")).collect();
    let long = format!("[{}]", long.trim_end_matches(",\n"));
    assert_eq!(read("json", &long, &ab(), &whole).await.unwrap(), super::expected(0..5000));
}

#[tokio::test]
async fn surplus_digits_are_rounded_in_every_format() {
    let columns = schema(&[("d", DataType::Decimal128(10, 2))]);
    let expected = ["-0.01", "-2.00", "1.01", "2.00"];
    let json = "{\"d\":1.995}\n{\"d\":1.005}\n{\"d\":\"-0.005\"}\n{\"d\":-199.5e-2}\n";
    assert_eq!(read("json", json, &columns, &[]).await.unwrap(), expected);
    assert_eq!(read("csv", "d\n1.995\n1.005\n-0.005\n-199.5e-2\n", &columns, &[]).await.unwrap(), expected);
    let decimals =
        Decimal128Array::from(vec![1995, 1005, -5, -1995]).with_precision_and_scale(10, 3).unwrap();
    for (format, content) in binary_files(&batch(vec![("d", Arc::new(decimals))])) {
        assert_eq!(read(format, content, &columns, &[]).await.unwrap(), expected, "{format}");
    }
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["1.995", "1.005", "-0.005", "-199.5e-2"]));
    for (format, content) in binary_files(&batch(vec![("d", texts)])) {
        assert_eq!(read(format, content, &columns, &[]).await.unwrap(), expected, "{format}");
    }

    for number in ["123456789", "99999999.995", "1e8"] {
        let error = refused("json", format!("{{\"d\":{number}}}"), &columns, &[]).await;
        assert!(error.contains("line 1, column 'd'") && error.contains("more digits"), "{error}");
        let error = refused("csv", format!("d\n{number}\n"), &columns, &[]).await;
        assert!(error.contains("line 2, column 'd'") && error.contains("more digits"), "{error}");
    }
    let wide = Decimal128Array::from(vec![99_999_999_995]).with_precision_and_scale(12, 3).unwrap();
    for (format, content) in binary_files(&batch(vec![("d", Arc::new(wide))])) {
        refused(format, content, &columns, &[]).await;
    }
}

#[tokio::test]
async fn fractions_are_no_integers_in_any_format() {
    let columns = schema(&[("a", DataType::Int64)]);
    for (text, column) in [("4.9", "a"), ("1e-1", "a"), ("1e19", "a")] {
        let error = refused("json", format!("{{\"a\":1}}\n{{\"a\":{text}}}"), &columns, &[]).await;
        assert!(error.contains(&format!("line 2, column '{column}'")), "{error}");
        refused("csv", format!("a\n{text}\n"), &columns, &[]).await;
    }
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 4.9]));
    let whole: ArrayRef = Arc::new(Float64Array::from(vec![1.0, -5.0]));
    for ((format, bad), (_, good)) in
        binary_files(&batch(vec![("a", floats)])).into_iter().zip(binary_files(&batch(vec![("a", whole)])))
    {
        let error = refused(format, bad, &columns, &[]).await;
        assert!(error.contains("column 'a': 4.9 cannot be read as BIGINT: it has a fraction"), "{error}");
        assert_eq!(read(format, good, &columns, &[]).await.unwrap(), ["-5", "1"]);
    }
}

#[tokio::test]
async fn numbers_that_are_not_finite() {
    let columns = schema(&[("x", DataType::Float64)]);
    let expected = ["-inf", "-inf", "NaN", "NaN", "inf", "inf", "inf"];
    let json = "{\"x\":\"NaN\"}\n{\"x\":NaN}\n{\"x\":\"Infinity\"}\n{\"x\":Infinity}\n{\"x\":+INF}\n{\"x\":-Infinity}\n{\"x\":\"-INF\"}";
    assert_eq!(read("json", json, &columns, &[]).await.unwrap(), expected);
    let csv = "x\nNaN\nnan\nInf\nInfinity\ninf\n-Inf\n-Infinity\n";
    assert_eq!(read("csv", csv, &columns, &[]).await.unwrap(), expected);
    for text in ["1e400", "-1e999"] {
        refused("json", format!("{{\"x\":{text}}}"), &columns, &[]).await;
        refused("csv", format!("x\n{text}\n"), &columns, &[]).await;
    }
}

#[tokio::test]
async fn times() {
    let ms = schema(&[("t", DataType::Timestamp(TimeUnit::Millisecond, None)), ("d", DataType::Date32)]);
    let json = "{\"t\":\"2024-02-29T12:00:00.1239\",\"d\":\"2024-01-02T00:30:00+02:00\"}";
    assert_eq!(read("json", json, &ms, &[]).await.unwrap(), ["2024-02-29T12:00:00.123|2024-01-02"]);
    let error = refused("json", "{\"t\":1709208000123}", &ms, &[]).await;
    assert!(error.contains("column 't'") && error.contains("epochUnit"), "{error}");
    for (unit, number) in
        [("seconds", "1709208000.123"), ("milliseconds", "1709208000123"), ("us", "1709208000123456")]
    {
        let options = [("epochUnit", unit)];
        let expected = ["2024-02-29T12:00:00.123|-"];
        assert_eq!(read("json", format!("{{\"t\":{number}}}"), &ms, &options).await.unwrap(), expected);
        assert_eq!(read("csv", format!("t,d\n{number},\n"), &ms, &options).await.unwrap(), expected);
    }
    let counts: ArrayRef = Arc::new(Int64Array::from(vec![1_709_208_000_123]));
    for (format, content) in binary_files(&batch(vec![("t", counts)])) {
        let error = refused(format, &content, &ms, &[]).await;
        assert!(error.contains("epochUnit"), "{error}");
        let rows = read(format, &content, &ms, &[("epochUnit", "milliseconds")]).await.unwrap();
        assert_eq!(rows, ["2024-02-29T12:00:00.123|-"], "{format}");
    }
    let error = refused("json", "{\"t\":1709208000123456789}", &ms, &[("epochUnit", "milliseconds")]).await;
    assert!(error.contains("out of range"), "{error}");

    let patterns = [("timestampFormat", "dd.MM.yyyy HH:mm[:ss]"), ("dateFormat", "yyyyMMdd")];
    let expected = ["2024-02-29T12:05:00|2024-03-01"];
    let json = "{\"t\":\"29.02.2024 12:05\",\"d\":\"20240301\"}";
    assert_eq!(read("json", json, &ms, &patterns).await.unwrap(), expected);
    assert_eq!(read("csv", "t,d\n29.02.2024 12:05:00,20240301\n", &ms, &patterns).await.unwrap(), expected);
    let error = refused("json", "{\"t\":\"2024-02-29T12:00:00\"}", &ms, &patterns).await;
    assert!(error.contains("timestampFormat"), "{error}");
    let input = Input::new();
    for (option, value) in [("timestampFormat", "yyyy QQ"), ("dateFormat", "[yyyy"), ("epochUnit", "hours")] {
        let error = input.resolve("json", "", Some(ab()), &[(option, value)]).await.unwrap_err().to_string();
        assert!(error.contains(option), "{error}");
    }
}

#[tokio::test]
async fn names_in_another_case() {
    let inner = |name: &str| DataType::Struct(vec![Field::new(name, DataType::Int64, true)].into());
    let columns = schema(&[("userid", DataType::Int64), ("s", inner("x"))]);
    let expected = ["7|{x: 8}"];
    assert_eq!(read("json", "{\"userId\":7,\"S\":{\"X\":8}}", &columns, &[]).await.unwrap(), expected);
    let x: ArrayRef = Arc::new(Int32Array::from(vec![8]));
    let fields = Fields::from(vec![Field::new("X", DataType::Int32, true)]);
    let s: ArrayRef = Arc::new(StructArray::new(fields, vec![x], None));
    let user: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    let content = batch(vec![("S", s), ("userId", Arc::clone(&user))]);
    for (format, content) in binary_files(&content) {
        let input = Input::new();
        input.write("f", 1, content);
        let reader = input.source(format, &columns, &[]).await;
        let planned = reader.plan().await;
        assert_eq!(reader.read(&planned).await.unwrap(), expected, "{format}");
        assert_eq!(reader.read_with(&planned, Some(&vec![0]), 1).await.unwrap(), ["7"], "{format}");
        assert!(!reader.source.take_metrics().contains_key("missingColumns"), "{format}");
    }
    let both = batch(vec![("userId", Arc::clone(&user)), ("USERID", user)]);
    for (format, content) in binary_files(&both) {
        let error = refused(format, content, &schema(&[("userid", DataType::Int64)]), &[]).await;
        assert!(error.contains("'userId' and 'USERID' can be meant by 'userid'"), "{error}");
    }
    refused("json", "{\"userId\":7,\"USERID\":8}", &columns, &[]).await;
}

#[tokio::test]
async fn columns_that_no_file_has_are_counted() {
    let columns = schema(&[("a", DataType::Int64), ("b", DataType::Utf8), ("gone", DataType::Int64)]);
    let good = batch(vec![("a", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
    let files = binary_files(&good).into_iter().chain([("json", b"{\"a\":1}\n{\"a\":null}\n".to_vec())]);
    for (format, content) in files {
        let input = Input::new();
        input.write("f", 1, content);
        let reader = input.source(format, &columns, &[]).await;
        let batch = reader.plan().await;
        for (projection, missing) in [(None, Some("2")), (Some(vec![0]), None), (Some(vec![0, 1]), Some("1"))]
        {
            reader.read_with(&batch, projection.as_ref(), 1).await.unwrap();
            let metrics = reader.source.take_metrics();
            assert_eq!(metrics.get("missingColumns").map(String::as_str), missing, "{format} {projection:?}");
        }
    }
    // One file that has it is enough, and a file without records says nothing.
    let input = Input::new();
    input.write("a.json", 1, "{\"a\":1,\"gone\":null}\n");
    input.write("b.json", 2, "{\"b\":\"x\"}\n");
    input.write("c.json", 3, "\n");
    let reader = input.source("json", &columns, &[]).await;
    assert_eq!(reader.all().await.unwrap().len(), 2);
    assert!(!reader.source.take_metrics().contains_key("missingColumns"));
}

/// How many columns the JSON `files` lack, as the metrics tell.
async fn missing_columns(columns: &SchemaRef, options: &[(&str, &str)], files: &[&str]) -> Option<String> {
    let input = Input::new();
    for (number, text) in (1..).zip(files) {
        input.write(&format!("{number}.json"), number, text);
    }
    let reader = input.source("json", columns, options).await;
    reader.all().await.unwrap();
    reader.source.take_metrics().remove("missingColumns")
}

#[tokio::test]
async fn columns_of_malformed_records_are_not_missing() {
    let columns = schema(&[("a", DataType::Int64), ("b", DataType::Int64)]);
    for mode in ["PERMISSIVE", "DROPMALFORMED"] {
        let lines: &[_] = &[("mode", mode)];
        let document: &[_] = &[("mode", mode), ("multiLine", "true")];
        for (options, files) in [
            (lines, &["{\"a\":1}\n{\"a\":\"x\",\"b\":2}\n"][..]),
            (lines, &["{\"a\":1}\n{\"b\":\"x\"}\n"]),
            // Behind a malformed record.
            (lines, &["{\"a\":\"x\"}\n{\"a\":1,\"b\":null}\n"]),
            (lines, &["{\"a\":1}\n", "{\"a\":\"x\",\"b\":2}\n"]),
            // Nothing is well-formed.
            (lines, &["{\"a\":\"x\"}\n[1]\n"]),
            (document, &["[1,2]"]),
        ] {
            assert_eq!(missing_columns(&columns, options, files).await, None, "{mode} {files:?}");
        }
        for (options, files) in [
            (lines, &["{\"a\":\"x\"}\n{\"a\":1}\n"][..]),
            (lines, &["{\"a\":1}\n", "{\"a\":\"x\"}\n"]),
            (document, &["[1,{\"a\":1}]"]),
        ] {
            let missing = missing_columns(&columns, options, files).await;
            assert_eq!(missing.as_deref(), Some("1"), "{mode} {files:?}");
        }
    }
}

/// However they are written.
#[tokio::test]
async fn keys_of_maps_come_once() {
    let key = Field::new("key", DataType::Utf8, false);
    let entries = DataType::Struct(vec![key, Field::new("value", DataType::Int64, true)].into());
    let columns = schema(&[("m", DataType::Map(Arc::new(Field::new("entries", entries, false)), false))]);
    let found = read("json", "{\"m\":{\"a\":1,\"\\u0062\":2}}", &columns, &[]).await.unwrap();
    assert_eq!(found, ["{a: 1, b: 2}"]);
    for text in ["{\"m\":{\"a\":1,\"a\":2}}", "{\"m\":{\"a\":1,\"\\u0061\":2}}"] {
        let error = refused("json", text, &columns, &[]).await;
        assert!(error.contains("line 1, column 'm'") && error.contains("twice"), "{error}");
    }
}

fn not_null() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int64, false),
        Field::new("b", DataType::Utf8, true),
    ]))
}

#[tokio::test]
async fn columns_that_are_not_null() {
    let json = "{\"a\":1,\"b\":\"x\"}\n{\"b\":\"y\"}\n{\"a\":null,\"b\":\"z\"}\n";
    let csv = "a,b\n1,x\n,y\n,z\n";
    for (format, text, line) in [("json", json, 2), ("csv", csv, 3)] {
        let error = refused(format, text, &not_null(), &[]).await;
        assert!(
            error.contains(&format!("at line {line}, column 'a': ")) && error.contains("NOT NULL"),
            "{error}"
        );
        let dropped = read(format, text, &not_null(), &[("mode", "DROPMALFORMED")]).await.unwrap();
        assert_eq!(dropped, ["1|x"], "{format}");
        let permissive = read(format, text, &not_null(), &[("mode", "PERMISSIVE")]).await.unwrap();
        assert_eq!(permissive, ["-|y", "-|z", "1|x"], "{format}");
        let input = Input::new();
        let aside = tempfile::tempdir().unwrap();
        input.write("f", 1, text);
        let options = [("badRecordsPath", aside.path().to_str().unwrap())];
        let reader = input.source(format, &not_null(), &options).await;
        assert_eq!(reader.all().await.unwrap(), ["1|x"]);
        assert_eq!(reader.source.take_metrics()["numMalformedRows"], "2");
    }
    let content = |values: Vec<Option<i64>>| {
        let b: ArrayRef = Arc::new(StringArray::from(vec!["x"; values.len()]));
        batch(vec![("a", Arc::new(Int64Array::from(values)) as ArrayRef), ("b", b)])
    };
    let good = binary_files(&content(vec![Some(1), Some(2)]));
    for ((format, good), (_, bad)) in good.into_iter().zip(binary_files(&content(vec![Some(1), None]))) {
        assert_eq!(read(format, good, &not_null(), &[]).await.unwrap(), ["1|x", "2|x"], "{format}");
        let error = refused(format, bad, &not_null(), &[]).await;
        assert!(error.contains("column 'a' is NOT NULL"), "{format}: {error}");
    }
    let without: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    for (format, content) in binary_files(&batch(vec![("b", without)])) {
        refused(format, content, &not_null(), &[]).await;
    }
    // What files hold now is no promise for those written later.
    let input = Input::new();
    let a: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    input.write("f", 1, parquet(&RecordBatch::try_from_iter([("a", a)]).unwrap(), 10));
    let reader = input.inferred("parquet", &[]).await;
    input.write("g", 2, parquet(&batch(vec![("a", Arc::new(Int64Array::from(vec![None])) as ArrayRef)]), 10));
    assert_eq!(reader.all().await.unwrap(), ["-", "1"]);
}

#[tokio::test]
async fn fields_of_a_null_struct_are_null() {
    let fields =
        Fields::from(vec![Field::new("x", DataType::Int32, false), Field::new("y", DataType::Utf8, false)]);
    let x: ArrayRef = Arc::new(Int32Array::from(vec![1, 0, 3]));
    let y: ArrayRef = Arc::new(StringArray::from(vec!["a", "", "c"]));
    let nulls = NullBuffer::from(vec![true, false, true]);
    let s: ArrayRef = Arc::new(StructArray::new(fields, vec![x, y], Some(nulls)));
    for (format, content) in binary_files(&batch(vec![("s", s)])) {
        let input = Input::new();
        input.write("f", 1, content);
        let provider = input.resolve(format, "", None, &[]).await.unwrap();
        let reader = input.reader(&provider);
        let planned = reader.plan().await;
        let plan = reader.scan(None, &[], 1).read(&planned, &reader.context()).unwrap();
        let batches = super::execute(plan, reader.context()).await.unwrap();
        for column in 0..2 {
            let is_null = |batch: &RecordBatch| {
                let s = batch.column(0).as_any().downcast_ref::<StructArray>().unwrap().clone();
                (0..s.len()).map(|row| s.column(column).is_null(row)).collect::<Vec<_>>()
            };
            let nulls: Vec<bool> = batches.iter().flat_map(is_null).collect();
            assert_eq!(nulls, [false, true, false], "{format}");
        }
        assert_eq!(rows(&batches), ["-", "{x: 1, y: a}", "{x: 3, y: c}"], "{format}");
    }
}

#[tokio::test]
async fn inferred_columns_hold_all_values() {
    let input = Input::new();
    input.write("a.json", 1, "{\"a\":1,\"n\":1,\"big\":12345678901234567890}\n{\"a\":1.50,\"n\":2.5}\n");
    input.write("b.json", 2, "{\"a\":\"x\"}\n{\"a\":true,\"o\":{\"k\":1}}\n{\"o\":\"y\"}\n");
    let reader = input.inferred("json", &[]).await;
    let rows = reader.all().await.unwrap();
    assert_eq!(
        rows,
        ["-|-|-|y", "1.50|2.5|-|-", "1|1.0|12345678901234567890|-", "true|-|-|{\"k\":1}", "x|-|-|-"]
    );
    let documents = Input::new();
    documents.write("a.json", 1, "[{\"a\":1},\n{\"a\":\"x\"}]");
    documents.write("b.json", 1, "{\"b\":[1,null]}");
    let reader = documents.inferred("json", &[("multiLine", "true")]).await;
    assert_eq!(reader.all().await.unwrap(), ["-|[1, -]", "1|-", "x|-"]);
    // Whole numbers stay what they are, beside fractions, too, and in other files.
    let large = "1".repeat(39);
    let numbers = Input::new();
    numbers.write("a.json", 1, format!("{{\"a\":{large},\"b\":9007199254740993,\"c\":1e400,\"d\":[1e3]}}\n"));
    numbers.write("b.json", 2, "{\"a\":1,\"b\":0.25,\"c\":1,\"d\":[9007199254740993,0.5]}\n");
    let rows = numbers.inferred("json", &[]).await.all().await.unwrap();
    let expected =
        [format!("{large}|9007199254740993.00|1e400|[1e3]"), "1|0.25|1|[9007199254740993, 0.5]".to_string()];
    assert_eq!(rows, expected);
    let texts = Input::new();
    texts.write("a.csv", 1, "a,b,c,d,e\n1,9007199254740993,\u{665},2024-02-30,1E400\n");
    texts.write("b.csv", 2, "a,b,c,d,e\n2,0.5,1,2024-02-29,1\n");
    let rows = texts.inferred("csv", &[]).await.all().await.unwrap();
    assert_eq!(rows, ["1|9007199254740993.0|\u{665}|2024-02-30|1E400", "2|0.5|1|2024-02-29|1"]);
    // Malformed records do not count where they are left out.
    let broken = Input::new();
    broken.write("a.json", 1, "{\"a\":1}\n{\"a\"\n");
    let error = broken.resolve("json", "", None, &[]).await.unwrap_err().to_string();
    assert!(error.contains("a.json") && error.contains("line 2"), "{error}");
    assert_eq!(broken.inferred("json", &[("mode", "DROPMALFORMED")]).await.all().await.unwrap(), ["1"]);
}
