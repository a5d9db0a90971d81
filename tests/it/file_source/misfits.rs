//! Values of Parquet, Arrow and Avro files that do not fit the table, in every mode.
//!
//! The oracle is the JSON reader: the same rows as lines of JSON give the same rows, counters and reasons.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Float64Type, SchemaRef};
use serde_json::{Value, json};
use tidemill::Error;

use super::formats::{batch, ipc_file, ipc_stream, parquet};
use super::{Input, ab, expected, schema, set};

type Encode = fn(&RecordBatch) -> Vec<u8>;

const FORMATS: &[(&str, Encode)] = &[
    ("parquet", |rows| parquet(rows, 3)),
    ("arrow", |rows| ipc_file(std::slice::from_ref(rows))),
    ("arrow", |rows| ipc_stream(std::slice::from_ref(rows))),
    #[cfg(feature = "avro")]
    ("avro", super::formats::avro),
];

/// `a` is text, of which most are numbers, and `c` is in no table.
fn texts() -> RecordBatch {
    let text = |values: Vec<Option<&'static str>>| Arc::new(StringArray::from(values)) as ArrayRef;
    RecordBatch::try_from_iter_with_nullable([
        ("a", text(vec![Some("1"), Some("x"), None, Some("4"), Some("5.5"), Some("6"), Some("7")]), true),
        ("b", text(vec![Some("r"), Some("s"), Some("t"), None, Some("v"), Some("w"), Some("y")]), true),
        ("c", text(vec![Some("1"), Some("2"), Some("3"), Some("4"), Some("5"), Some("6"), Some("7")]), true),
    ])
    .unwrap()
}

fn ab_corrupt() -> SchemaRef {
    schema(&[("a", DataType::Int64), ("b", DataType::Utf8), ("_corrupt_record", DataType::Utf8)])
}

#[tokio::test]
async fn each_value_goes_where_mode_says() {
    let as_json: String = (0..texts().num_rows())
        .map(|row| {
            let mut writer = datafusion::arrow::json::LineDelimitedWriter::new(Vec::new());
            writer.write(&texts().slice(row, 1)).unwrap();
            writer.finish().unwrap();
            String::from_utf8(writer.into_inner()).unwrap()
        })
        .collect();
    let lines = Input::new();
    lines.write("f", 1, &as_json);
    let kept = lines.source("json", &ab_corrupt(), &[("mode", "PERMISSIVE")]).await.all().await.unwrap();
    let dropped = lines.source("json", &ab(), &[("mode", "DROPMALFORMED")]).await.all().await.unwrap();
    assert_eq!((kept.len(), dropped.len()), (7, 5));
    for (format, encode) in FORMATS {
        let input = Input::new();
        input.write("f", 1, encode(&texts()));
        let error = input.source(format, &ab(), &[]).await.all().await.unwrap_err();
        assert!(matches!(error, Error::InputFile { .. }), "{format}: {error}");
        assert!(error.to_string().contains("column 'a': 'x' cannot be read as BIGINT"), "{error}");

        let reader = input.source(format, &ab_corrupt(), &[("mode", "PERMISSIVE")]).await;
        let planned = reader.plan().await;
        assert_eq!(reader.read(&planned).await.unwrap(), kept, "{format}");
        let metrics = reader.source.take_metrics();
        assert_eq!((&metrics["numMalformedRows"][..], &metrics["numMalformedRowsKept"][..]), ("2", "2"));
        // The text alone, and nothing at all.
        let texts = reader.read_with(&planned, Some(&vec![2]), 2).await.unwrap();
        assert_eq!(texts.iter().filter(|text| *text != "-").count(), 2);
        assert_eq!(reader.read_with(&planned, Some(&vec![]), 2).await.unwrap().len(), 7);

        let reader = input.source(format, &ab(), &[("mode", "DROPMALFORMED")]).await;
        let planned = reader.plan().await;
        assert_eq!(reader.read(&planned).await.unwrap(), dropped, "{format}");
        assert_eq!(reader.source.take_metrics()["numMalformedRows"], "2");
        for columns in [vec![], vec![1], vec![1, 0]] {
            let rows = reader.read_with(&planned, Some(&columns), 2).await.unwrap();
            assert_eq!(rows.len(), 5, "{format} {columns:?}");
        }
    }
}

#[tokio::test]
async fn a_column_whose_type_can_never_fit_is_null_in_every_row() {
    let flags = || {
        let flags = Arc::new(datafusion::arrow::array::BooleanArray::from(vec![Some(true), None]));
        let texts = Arc::new(StringArray::from(vec!["x", "y"]));
        RecordBatch::try_from_iter_with_nullable([
            ("a", flags as ArrayRef, true),
            ("b", texts as ArrayRef, true),
        ])
        .unwrap()
    };
    for (format, encode) in FORMATS {
        let input = Input::new();
        input.write("f", 1, encode(&batch(0..3)));
        input.write("g", 2, encode(&flags()));
        let read = async |columns: &SchemaRef, mode: &str| {
            input.source(format, columns, &[("mode", mode)]).await.all().await
        };
        let error = read(&ab(), "FAILFAST").await.unwrap_err().to_string();
        assert!(error.contains("is of type BOOLEAN in it, which cannot be read as BIGINT"), "{error}");
        let mut all = expected(0..3);
        all.push("-|y".into());
        all.sort();
        assert_eq!(read(&ab(), "DROPMALFORMED").await.unwrap(), all, "a null fits: {format}");
        let rows = read(&ab_corrupt(), "PERMISSIVE").await.unwrap();
        assert!(rows.contains(&"-|x|{\"a\":true,\"b\":\"x\"}".to_string()), "{format}: {rows:?}");
        assert_eq!(rows.len(), 5);
    }
}

#[tokio::test]
async fn rows_are_put_aside_as_objects_with_their_number() {
    for (format, encode) in FORMATS {
        let input = Input::new();
        let elsewhere = tempfile::tempdir().unwrap();
        let aside = elsewhere.path().display().to_string();
        input.write("k=1/f", 1, encode(&batch(0..4)));
        input.write("k=1/g", 2, encode(&texts()));
        set(&input.session, "datafusion.optimizer.repartition_file_min_size", "1");
        let columns = schema(&[("a", DataType::Int64), ("b", DataType::Utf8), ("k", DataType::Int64)]);
        let reader = input.source(format, &columns, &[("badRecordsPath", &aside)]).await;
        let planned = reader.plan().await;
        for columns in [None, Some(vec![1])] {
            // A batch that runs again writes the same again, whatever is asked for.
            let rows = reader.read_with(&planned, columns.as_ref(), 3).await.unwrap();
            assert_eq!(rows.len(), 9, "{format}");
            assert_eq!(reader.source.take_metrics()["numMalformedRows"], "2");
            let directory = elsewhere.path().join(super::QUERY.to_string()).join("0/k=1");
            assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
            let text = std::fs::read_to_string(directory.join("g.json")).unwrap();
            let told: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let path = format!("file://{}", input.text("k=1/g"));
            let expected = [
                json!({"path": path, "row": 2, "record": r#"{"a":"x","b":"s","c":"2"}"#,
                       "reason": "column 'a': 'x' cannot be read as BIGINT"}),
                json!({"path": path, "row": 5, "record": r#"{"a":"5.5","b":"v","c":"5"}"#,
                       "reason": "column 'a': '5.5' cannot be read as BIGINT: it has a fraction"}),
            ];
            assert_eq!(told, expected, "{format}");
        }
    }
}

#[tokio::test]
async fn what_is_wrong_below_the_surface_is_wrong_with_its_row_only() {
    let rows = 100;
    let lists = ListArray::from_iter_primitive::<Float64Type, _, _>(
        (0..rows).map(|row| Some([Some(1.0), Some(if row == 70 { 0.5 } else { f64::from(row) })])),
    );
    let inner: ArrayRef = Arc::new(Float64Array::from_iter((0..rows).map(|row| match row {
        3 => Some(1e300),
        4 => None,
        row => Some(f64::from(row)),
    })));
    let fields = Fields::from(vec![Field::new("x", DataType::Float64, true)]);
    let structs = StructArray::new(fields, vec![inner], None);
    let ids = Int64Array::from_iter_values(0..i64::from(rows));
    let file = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(ids) as ArrayRef, true),
        ("l", Arc::new(lists) as ArrayRef, true),
        ("s", Arc::new(structs) as ArrayRef, true),
    ])
    .unwrap();
    let fields = Fields::from(vec![Field::new("x", DataType::Int64, true)]);
    let columns = schema(&[
        ("id", DataType::Int64),
        ("l", DataType::new_list(DataType::Int64, true)),
        ("s", DataType::Struct(fields)),
    ]);
    for (format, encode) in FORMATS {
        let input = Input::new();
        input.write("f", 1, encode(&file));
        let kept = input.source(format, &columns, &[("mode", "PERMISSIVE")]).await.all().await.unwrap();
        assert_eq!(kept.len(), 100, "{format}");
        assert!(kept.contains(&"70|-|{x: 70}".to_string()), "{format}: {kept:?}");
        assert!(kept.contains(&"3|[1, 3]|-".to_string()), "{format}: {kept:?}");
        assert!(kept.contains(&"99|[1, 99]|{x: 99}".to_string()), "{format}: {kept:?}");
        let dropped = input.source(format, &columns, &[("mode", "DROPMALFORMED")]).await.all().await.unwrap();
        assert_eq!(dropped.len(), 98, "{format}");
    }
}

#[tokio::test]
async fn a_row_without_a_value_that_must_be_there_is_malformed() {
    let strict = Arc::new(datafusion::arrow::datatypes::Schema::new(vec![
        Field::new("a", DataType::Utf8, false),
        Field::new("b", DataType::Utf8, true),
    ]));
    for (format, encode) in FORMATS {
        let input = Input::new();
        input.write("f", 1, encode(&texts()));
        let read = async |mode| input.source(format, &strict, &[("mode", mode)]).await.all().await;
        assert!(read("FAILFAST").await.unwrap_err().to_string().contains("NOT NULL"));
        assert_eq!(read("DROPMALFORMED").await.unwrap().len(), 6, "{format}");
        assert!(read("PERMISSIVE").await.unwrap().contains(&"-|t".to_string()), "{format}");
    }
}
