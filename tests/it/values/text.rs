use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Date32Array, Float32Array, Float64Array, Int64Array, ListArray, Time64MicrosecondArray,
    TimestampMillisecondArray, TimestampSecondArray,
};
use datafusion::arrow::datatypes::{DataType, Int32Type};
use datafusion::arrow::record_batch::RecordBatch;

use super::write_parquet;
use crate::support::harness::{Input, Job, Place, schema, session};

/// Writes a file with the column `a` and streams it to `format`; what is in the output, or the error.
async fn written(column: ArrayRef, format: &str) -> Result<String, String> {
    let place = Place::new();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..column.len() as i64));
    let rows = RecordBatch::try_from_iter([("id", ids), ("a", column)]).unwrap();
    write_parquet(&place.path("in/a.parquet"), &rows);
    let input = Input::new("t", "parquet", place.text("in"));
    let mut job = Job::new(&place).inputs([input]).sql("SELECT a FROM t").format(format);
    if format == "console" {
        job = job.out(None).option("format", "json");
    }
    job.run(&session()).await.map_err(|error| error.to_string())?;
    let mut text = String::new();
    for file in crate::support::oracle::visible(&place.path("out")) {
        text.push_str(&std::fs::read_to_string(place.path("out").join(file)).unwrap());
    }
    Ok(text)
}

#[tokio::test]
async fn what_has_no_text_is_an_error_that_names_column_and_row() {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMillisecondArray::from(vec![Some(0), None, Some(i64::MAX)])),
        Arc::new(TimestampSecondArray::from(vec![Some(0), None, Some(i64::MIN)])),
        Arc::new(Date32Array::from(vec![Some(0), None, Some(i32::MAX)])),
        Arc::new(Time64MicrosecondArray::from(vec![Some(0), None, Some(86_400_000_000)])),
    ];
    for column in columns {
        for format in ["json", "csv", "console"] {
            let error = written(Arc::clone(&column), format).await.expect_err(format);
            assert!(error.contains("column 'a'") && error.contains("row 3"), "{format}: {error}");
        }
    }
}

/// Arrow cuts the seconds of an offset off, and gives days that are counted in milliseconds a time.
#[tokio::test]
async fn texts_of_times_denote_the_same_times() {
    let time = "arrow_cast(-2840140800, 'Timestamp(s, \"America/New_York\")')";
    for (value, expected) in [
        (time, "1880-01-01T00:00:00Z"),
        ("arrow_cast(0, 'Timestamp(s, \"America/New_York\")')", "1969-12-31T19:00:00-05:00"),
        ("arrow_cast(arrow_cast(0, 'Int64'), 'Date64')", "1970-01-01"),
    ] {
        for sql in [
            format!("SELECT CAST({value} AS VARCHAR)"),
            format!("SELECT CAST(t AS VARCHAR) FROM (SELECT {value} AS t)"),
        ] {
            assert_eq!(super::batch(&sql).await.unwrap(), [expected], "{sql}");
        }
    }
    let times =
        TimestampSecondArray::from(vec![Some(-2_840_140_800), None]).with_timezone("America/New_York");
    let days = datafusion::arrow::array::Date64Array::from(vec![Some(0), None]);
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("t", Arc::new(times) as ArrayRef, true),
        ("d", Arc::new(days) as ArrayRef, true),
    ])
    .unwrap();
    let place = Place::new();
    let mut writer = datafusion::arrow::ipc::writer::FileWriter::try_new(Vec::new(), &rows.schema()).unwrap();
    writer.write(&rows).unwrap();
    writer.finish().unwrap();
    place.put("in/a.arrow", writer.into_inner().unwrap());
    let sql = tidemill::sql::SqlSession::new(session());
    let read = format!(
        "CREATE EXTERNAL TABLE t (t VARCHAR, d VARCHAR) STORED AS ARROW LOCATION '{}'; SELECT * FROM t",
        place.text("in/")
    );
    let Some(tidemill::sql::SqlOutcome::Rows(frame)) = sql.run(&read).await.unwrap().pop() else { panic!() };
    let read = super::lines(&frame.collect().await.unwrap());
    assert_eq!(read, ["1880-01-01T00:00:00Z 1970-01-01", "NULL NULL"]);
}

#[tokio::test]
async fn the_ends_of_what_has_a_text_are_written() {
    let last = 253_402_300_799_999;
    let times: ArrayRef =
        Arc::new(TimestampMillisecondArray::from(vec![Some(-62_135_596_800_000), Some(last)]));
    let text = written(Arc::clone(&times), "json").await.unwrap();
    assert_eq!(text, "{\"a\":\"0001-01-01T00:00:00\"}\n{\"a\":\"9999-12-31T23:59:59.999\"}\n");
    let text = written(times, "csv").await.unwrap();
    assert!(text.contains("9999-12-31T23:59:59.999"), "{text}");
}

#[tokio::test]
async fn floats_that_are_no_numbers_look_as_in_spark() {
    let doubles = || -> ArrayRef {
        Arc::new(Float64Array::from(vec![
            Some(f64::NAN),
            Some(f64::INFINITY),
            Some(f64::NEG_INFINITY),
            Some(-0.0),
            Some(1.5),
            None,
        ]))
    };
    let json = written(doubles(), "json").await.unwrap();
    assert_eq!(
        json,
        "{\"a\":\"NaN\"}\n{\"a\":\"Infinity\"}\n{\"a\":\"-Infinity\"}\n{\"a\":-0.0}\n{\"a\":1.5}\n{}\n"
    );
    let csv = written(doubles(), "csv").await.unwrap();
    assert_eq!(csv.lines().collect::<Vec<_>>(), ["a", "NaN", "Inf", "-Inf", "-0.0", "1.5", "\"\""]);
    let singles: ArrayRef = Arc::new(Float32Array::from(vec![f32::NAN, 0.1]));
    assert_eq!(written(singles, "json").await.unwrap(), "{\"a\":\"NaN\"}\n{\"a\":0.1}\n");
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None])]);
    assert_eq!(written(Arc::new(list), "json").await.unwrap(), "{\"a\":[1,null]}\n");
}

/// What JSON is made of beside sinks: a function, and what no column takes of a file.
#[tokio::test]
async fn values_are_the_same_in_every_json() {
    let row = "named_struct('x', CAST('NaN' AS DOUBLE), 'l', [CAST('-inf' AS DOUBLE), CAST(1.5 AS DOUBLE)])";
    let found = super::batch(&format!("SELECT to_json({row}), to_json(CAST('inf' AS FLOAT))")).await.unwrap();
    assert_eq!(found, ["{\"x\":\"NaN\",\"l\":[\"-Infinity\",1.5]} \"Infinity\""]);
    for select in [
        "SELECT to_json(named_struct('d', d)) FROM (SELECT arrow_cast(2147483647, 'Date32') AS d)",
        "SELECT to_json(d) FROM (VALUES (arrow_cast(1, 'Date32')), (arrow_cast(2147483647, 'Date32'))) AS t(d)",
    ] {
        let error = super::batch(select).await.expect_err(select);
        assert!(error.contains("cannot be written as text"), "{select}: {error}");
    }

    let place = Place::new();
    let column = |values: Vec<f64>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let rows = [("id", ids), ("y", column(vec![f64::NAN, f64::INFINITY]))];
    write_parquet(&place.path("in/a.parquet"), &RecordBatch::try_from_iter(rows).unwrap());
    let columns = schema(&[("id", DataType::Int64)]);
    let input = Input::new("t", "parquet", place.text("in")).schema(columns);
    let input = input.option("schemaEvolution", "rescue");
    let job = Job::new(&place).inputs([input]).sql("SELECT id, _rescued_data FROM t").format("json");
    job.run(&session()).await.unwrap();
    let written = crate::support::oracle::visible(&place.path("out"));
    let text = std::fs::read_to_string(place.path("out").join(&written[0])).unwrap();
    assert!(text.contains(r#"\"y\":\"NaN\""#) && text.contains(r#"\"y\":\"Infinity\""#), "{text}");
}
