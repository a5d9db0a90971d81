//! Parquet as other engines write it: times without a unit, and texts that nobody says are texts.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema};
use datafusion::parquet::column::writer::ColumnWriter;
use datafusion::parquet::data_type::{ByteArray, Int96};
use datafusion::parquet::file::metadata::KeyValue;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::parquet::file::writer::SerializedFileWriter;
use datafusion::parquet::schema::parser::parse_message_type;
use tidemill::Error;

use super::parquet_sizes::rows_of;
use super::{Input, schema};

/// A file of one column.
fn file(column: &str, write: impl Fn(&mut ColumnWriter<'_>)) -> Vec<u8> {
    file_saying(column, WriterProperties::default(), write)
}

fn file_saying(column: &str, said: WriterProperties, write: impl Fn(&mut ColumnWriter<'_>)) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(&format!("message m {{ required {column}; }}")).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(said)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut values = group.next_column().unwrap().unwrap();
    write(values.untyped());
    values.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

/// Microseconds since 1970 as INT96: nanoseconds of the day and the Julian day.
fn int96(micros: i64) -> Int96 {
    const MICROS_PER_DAY: i64 = 86_400_000_000;
    const EPOCH: i64 = 2_440_588;
    let nanos = micros.rem_euclid(MICROS_PER_DAY) as u64 * 1000;
    let day = (micros.div_euclid(MICROS_PER_DAY) + EPOCH) as u32;
    let mut time = Int96::new();
    time.set_data(nanos as u32, (nanos >> 32) as u32, day);
    time
}

fn times(micros: &[i64]) -> Vec<u8> {
    let times: Vec<Int96> = micros.iter().map(|micros| int96(*micros)).collect();
    file("int96 ts", |writer| match writer {
        ColumnWriter::Int96ColumnWriter(writer) => {
            writer.write_batch(&times, None, None).unwrap();
        }
        _ => panic!("not what was asked for"),
    })
}

fn bytes(texts: &[&[u8]], logical: &str) -> Vec<u8> {
    let texts: Vec<ByteArray> = texts.iter().map(|text| ByteArray::from(text.to_vec())).collect();
    file(&format!("binary s{logical}"), |writer| match writer {
        ColumnWriter::ByteArrayColumnWriter(writer) => {
            writer.write_batch(&texts, None, None).unwrap();
        }
        _ => panic!("not what was asked for"),
    })
}

fn one(name: &str, kind: DataType) -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new(name, kind, true)]))
}

/// Years that nanoseconds do not reach are in all warehouses: 9999-12-31 stands for "for ever".
#[tokio::test]
async fn times_of_all_years_are_read() {
    let input = Input::new();
    // 0001-01-01, 1970-01-01 00:00:00.000001, 9999-12-31 23:59:59.999999.
    input.write("f.parquet", 1, times(&[-62_135_596_800_000_000, 1, 253_402_300_799_999_999]));
    let expected = ["0001-01-01T00:00:00", "1970-01-01T00:00:00.000001", "9999-12-31T23:59:59.999999"];
    let at = input.text("f.parquet");
    assert_eq!(rows_of(format!("SELECT * FROM '{at}' ORDER BY ts")).await.unwrap(), expected);
    let kind = rows_of(format!("SELECT arrow_typeof(ts) AS t FROM '{at}' LIMIT 1")).await.unwrap();
    assert_eq!(kind, ["Timestamp(µs)"]);
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let read = input.source("parquet", &one("ts", micros), &[]).await.all().await.unwrap();
    assert_eq!(read, expected);
    // Those that a column cannot hold are not others.
    let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
    let read = input.source("parquet", &one("ts", nanos.clone()), &[]).await.all().await;
    assert!(
        matches!(&read, Err(Error::InputFile { reason, .. }) if reason.contains("out of range")),
        "{read:?}"
    );
    let input = Input::new();
    input.write("f.parquet", 1, times(&[1]));
    let read = input.source("parquet", &one("ts", nanos), &[]).await.all().await.unwrap();
    assert_eq!(read, ["1970-01-01T00:00:00.000001"]);
}

/// Text that is none is undefined behaviour in Rust, and no other reader takes the files that are made of it.
#[tokio::test]
async fn bytes_that_are_read_as_text_are_text() {
    for logical in ["", " (STRING)"] {
        let input = Input::new();
        input.write("f.parquet", 1, bytes(&["añ".as_bytes(), b"", b"abc"], logical));
        let read = input.source("parquet", &one("s", DataType::Utf8), &[]).await.all().await.unwrap();
        assert_eq!(read, ["", "abc", "añ"]);
        let table =
            |at: &str| format!("CREATE EXTERNAL TABLE t (s VARCHAR) STORED AS PARQUET LOCATION '{at}'; ");
        let query = format!("{}SELECT * FROM t", table(&input.text("f.parquet")));
        assert_eq!(rows_of(query).await.unwrap().len(), 3);

        let input = Input::new();
        input.write("f.parquet", 1, bytes(&[b"abc", b"\xff\xfe", b"d"], logical));
        let read = input.source("parquet", &one("s", DataType::Utf8), &[]).await.all().await;
        assert!(matches!(&read, Err(Error::InputFile { .. })), "{read:?}");
        let query = format!("{}SELECT upper(s) FROM t", table(&input.text("f.parquet")));
        assert!(rows_of(query).await.is_err());
        let read = input.source("parquet", &one("s", DataType::Binary), &[]).await.all().await;
        assert_eq!(read.is_ok(), logical.is_empty(), "{read:?}");
    }
}

/// As Arrow writes them: milliseconds, and beside them what they were.
#[tokio::test]
async fn dates_of_whole_seconds_are_those_of_their_zone() {
    for unit in [TimeUnit::Second, TimeUnit::Millisecond] {
        let zoned = DataType::Timestamp(unit, Some("America/New_York".into()));
        let was = Schema::new(vec![Field::new("t", zoned, false)]);
        let said = KeyValue::new(ARROW_SCHEMA_META_KEY.to_string(), encode_arrow_schema(&was));
        let said = WriterProperties::builder().set_key_value_metadata(Some(vec![said])).build();
        let content = file_saying("int64 t (TIMESTAMP(MILLIS,true))", said, |writer| match writer {
            ColumnWriter::Int64ColumnWriter(writer) => {
                // Midnight in UTC.
                writer.write_batch(&[1_709_164_800_000], None, None).unwrap();
            }
            _ => panic!("not what was asked for"),
        });
        let input = Input::new();
        input.write("a.parquet", 1, content);
        let dates = input.source("parquet", &schema(&[("t", DataType::Date32)]), &[]).await;
        assert_eq!(dates.all().await.unwrap(), ["2024-02-28"], "{unit:?}");
    }
}
