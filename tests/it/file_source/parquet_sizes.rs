//! Parquet files that say that they have more than they have: none ends the process, and none loses rows silently.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array,
    ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{Field, Int64Type};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, Encoding};
use datafusion::parquet::column::writer::ColumnWriter;
use datafusion::parquet::file::metadata::ParquetMetaDataReader;
use datafusion::parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use datafusion::parquet::file::writer::SerializedFileWriter;
use datafusion::parquet::schema::parser::parse_message_type;
use tidemill::Error;
use tidemill::sql::{SqlOutcome, SqlSession};

use super::formats::batch;
use super::mutated::{mutated, rounds};
use super::{Input, ab, rows};

fn written(rows: &RecordBatch, properties: WriterPropertiesBuilder) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties.build())).unwrap();
    writer.write(rows).unwrap();
    writer.into_inner().unwrap()
}

/// Columns without a dictionary, whose texts have the encoding `texts`.
fn plain(texts: Encoding) -> WriterPropertiesBuilder {
    WriterProperties::builder().set_dictionary_enabled(false).set_column_encoding("b".into(), texts)
}

/// A file with a page of 60 values that says that it has 4,503,599,627,370,495 lengths.
pub(super) fn with_many_lengths() -> Vec<u8> {
    let mut content = written(&batch(0..60), plain(Encoding::DELTA_LENGTH_BYTE_ARRAY));
    let at = lengths(&content);
    content[at..at + 8].copy_from_slice(&MANY);
    content
}

/// As many as no memory has room for, in eight bytes.
const MANY: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x07];

/// Where it says how many lengths there are.
fn lengths(content: &[u8]) -> usize {
    // Blocks of 128 values in four parts, 60 values. Snappy leaves the first bytes as they are.
    let head = [0x80, 0x01, 0x04, 60];
    content.windows(head.len()).position(|found| found == head).unwrap() + 3
}

/// What a stream and a batch query say of the file.
async fn refused(content: &[u8]) -> [String; 2] {
    let input = Input::new();
    input.write("f.parquet", 1, content);
    let read = input.source("parquet", &ab(), &[]).await.all().await;
    let Err(Error::InputFile { reason, .. }) = read else { panic!("{read:?}") };
    let queried = rows_of(format!("SELECT * FROM '{}'", input.text("f.parquet"))).await;
    [reason, queried.unwrap_err()]
}

pub(super) async fn rows_of(query: String) -> Result<Vec<String>, String> {
    let sql = SqlSession::new(tidemill::Session::new());
    let mut outcomes = sql.run(&query).await.map_err(|error| error.to_string())?;
    let Some(SqlOutcome::Rows(frame)) = outcomes.pop() else { return Err("no rows".into()) };
    Ok(rows(&frame.collect().await.map_err(|error| error.to_string())?))
}

/// The only place of `bytes` in `content`.
fn place(content: &[u8], bytes: &[u8]) -> usize {
    let mut places = content.windows(bytes.len()).enumerate().filter(|(_, found)| *found == bytes);
    let (place, _) = places.next().expect("it is there");
    assert_eq!(places.next(), None, "it is there once");
    place
}

#[tokio::test]
async fn more_lengths_than_values_are_no_lengths() {
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for encoding in [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
            for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
                let properties = plain(encoding).set_writer_version(version).set_compression(compression);
                let mut content = written(&batch(0..60), properties);
                let at = lengths(&content);
                content[at..at + 8].copy_from_slice(&MANY);
                for reason in refused(&content).await {
                    let is_told = reason.contains("60 values has 4503599627370495 lengths");
                    assert!(is_told || compression != Compression::UNCOMPRESSED, "{encoding}: {reason}");
                }
            }
        }
    }
}

/// Parquet's reader of texts takes what there is, and so other texts.
#[tokio::test]
async fn a_text_repeats_no_more_than_the_one_before_it_has() {
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        let properties = plain(Encoding::DELTA_BYTE_ARRAY).set_writer_version(version);
        let mut content = written(&batch(0..60), properties);
        let first = lengths(&content) + 1;
        assert_eq!(content[first], 0, "the first text repeats nothing");
        content[first] = 2;
        for reason in refused(&content).await {
            assert!(reason.contains("a text repeats 1 of the 0 bytes before it"), "{reason}");
        }
    }
}

/// With a dictionary nobody looks there, so that it is not seen that the description is damaged.
#[tokio::test]
async fn values_begin_where_their_column_is() {
    let content = written(&batch(0..60), WriterProperties::builder());
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(content.clone())).unwrap();
    let column = metadata.row_group(0).column(0);
    let values_at = column.data_page_offset();
    assert!(column.dictionary_page_offset().is_some_and(|dictionary| dictionary < values_at));
    // As a field of 64 bits, zigzag, in two bytes.
    let varint = |value: i64| [(value << 1) as u8 | 0x80, (value >> 6) as u8];
    let footer = content.len() - 8 - footer_length(&content);
    let at = footer + place(&content[footer..], &[&[0x26], &varint(values_at)[..]].concat());
    let mut outside = content.clone();
    outside[at + 1] ^= 1;
    outside[at + 2] = 0x7f;
    for reason in refused(&outside).await {
        assert!(reason.contains("the values of column 'a' are not where the column is"), "{reason}");
    }
}

/// A file whose pages have 59 values, of which its footer says that they are 60: Parquet's reader gives 59.
pub(super) fn with_fewer_values() -> Vec<u8> {
    let mut content = written(&batch(0..60), plain(Encoding::PLAIN));
    // A data page of version 1 has 60 values, zigzag, in PLAIN.
    let page = [0x2c, 0x15, 120, 0x15, 0x00];
    let at = content.windows(page.len()).position(|found| found == page).unwrap();
    content[at + 2] = 118;
    content
}

#[tokio::test]
async fn pages_with_fewer_values_than_the_footer_says() {
    for reason in refused(&with_fewer_values()).await {
        assert!(
            reason.contains("the pages of column 'a' have 59 values, and its footer says 60"),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn a_dictionary_with_more_entries_than_bytes() {
    let mut content = written(&batch(0..60), WriterProperties::builder());
    // A dictionary page has 60 entries, zigzag.
    let head = [0x4c, 0x15, 120];
    let at = content.windows(head.len()).position(|found| found == head).unwrap();
    content.splice(at + 2..at + 3, [0xfe, 0xff, 0xff, 0xff, 0x0f]);
    // What comes behind it is elsewhere now, which is not come to.
    for reason in refused(&content).await {
        assert!(!reason.is_empty());
    }
}

#[tokio::test]
async fn numbers_of_rows_that_contradict_one_another() {
    let content = written(&batch(0..60), plain(Encoding::PLAIN));
    let footer = content.len() - 8 - footer_length(&content);
    // The number of rows follows the schema, and is zigzag 60, before the list of one group.
    let rows = [0x16, 120, 0x19, 0x1c];
    let at = footer + place(&content[footer..], &rows);
    let mut other = content.clone();
    other[at + 1] = 122;
    for reason in refused(&other).await {
        assert!(reason.contains("its groups have 60 rows, and it says that there are 61"), "{reason}");
    }
    // A group as a list of as many as can be.
    let mut groups = content.clone();
    groups[at + 3..at + 9].copy_from_slice(&[0xfc, 0xff, 0xff, 0xff, 0xff, 0x07]);
    for reason in refused(&groups).await {
        assert!(reason.contains("a list of 2147483647 elements goes beyond its end"), "{reason}");
    }
}

/// Some writers make groups without rows, also of tables that have none.
#[tokio::test]
async fn groups_without_rows() {
    let schema =
        Arc::new(parse_message_type("message rows { optional int64 a; optional binary b (UTF8); }").unwrap());
    for groups in [&[0][..], &[0, 2], &[2, 0, 1]] {
        let mut writer =
            SerializedFileWriter::new(Vec::new(), Arc::clone(&schema), Default::default()).unwrap();
        let mut expected = Vec::new();
        for count in groups {
            let mut group = writer.next_row_group().unwrap();
            while let Some(mut column) = group.next_column().unwrap() {
                let levels = vec![1; *count];
                match column.untyped() {
                    _ if *count == 0 => {}
                    ColumnWriter::Int64ColumnWriter(numbers) => {
                        numbers.write_batch(&vec![7; *count], Some(&levels), None).unwrap();
                    }
                    ColumnWriter::ByteArrayColumnWriter(texts) => {
                        texts.write_batch(&vec!["x".into(); *count], Some(&levels), None).unwrap();
                    }
                    _ => unreachable!("the schema has no other columns"),
                }
                column.close().unwrap();
            }
            group.close().unwrap();
            expected.extend(vec!["7|x".to_string(); *count]);
        }
        let content = writer.into_inner().unwrap();
        let input = Input::new();
        input.write("f.parquet", 1, &content);
        let read = input.source("parquet", &ab(), &[]).await.all().await.unwrap();
        assert_eq!(read, expected, "{groups:?}");
        let queried = rows_of(format!("SELECT a, b FROM '{}'", input.text("f.parquet"))).await;
        assert_eq!(queried, Ok(expected), "{groups:?}");
    }
}

fn footer_length(content: &[u8]) -> usize {
    let end = content.len() - 8;
    u32::from_le_bytes(content[end..end + 4].try_into().unwrap()) as usize
}

/// Rows of many types.
fn many_types() -> RecordBatch {
    let count = 40_i64;
    let every = |n: i64| (0..count).map(move |row| row % n != 0);
    let ints: ArrayRef = Arc::new(Int32Array::from_iter(
        (0..count as i32).zip(every(5)).map(|(row, there)| there.then_some(row * 1_003)),
    ));
    let texts: ArrayRef = Arc::new(StringArray::from_iter(
        (0..count).zip(every(7)).map(|(row, there)| there.then(|| format!("text {}", row % 9))),
    ));
    let lists = (0..count).zip(every(3)).map(|(row, there)| {
        there.then(|| (0..row % 4).map(|item| (item != 2).then_some(item * row)).collect::<Vec<_>>())
    });
    let fixed = (0..count).map(|row| row.to_be_bytes());
    let field = |name: &str, column: &ArrayRef| Arc::new(Field::new(name, column.data_type().clone(), true));
    let structure =
        StructArray::from(vec![(field("x", &ints), ints.clone()), (field("y", &texts), texts.clone())]);
    let columns: [(&str, ArrayRef); 9] = [
        ("b", texts),
        ("ints", ints),
        ("longs", Arc::new(Int64Array::from_iter_values((0..count).map(|row| row * row * 77)))),
        ("floats", Arc::new(Float64Array::from_iter_values((0..count).map(|row| row as f64 / 3.0)))),
        ("bools", Arc::new(BooleanArray::from_iter(every(3).map(Some)))),
        (
            "decimals",
            Arc::new(
                Decimal128Array::from_iter_values((0..count).map(|row| i128::from(row) << 70))
                    .with_precision_and_scale(38, 2)
                    .unwrap(),
            ),
        ),
        ("fixed", Arc::new(FixedSizeBinaryArray::try_from_iter(fixed).unwrap())),
        ("lists", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists))),
        ("structures", Arc::new(structure)),
    ];
    let times: ArrayRef =
        Arc::new(TimestampMicrosecondArray::from_iter_values((0..count).map(|row| row << 40)));
    let columns = columns.into_iter().chain([("times", times)]);
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// Every way of writing these.
fn ways() -> Vec<Vec<u8>> {
    let rows = many_types();
    let delta = |texts| {
        plain(texts)
            .set_column_encoding("ints".into(), Encoding::DELTA_BINARY_PACKED)
            .set_column_encoding("longs".into(), Encoding::DELTA_BINARY_PACKED)
            .set_column_encoding("floats".into(), Encoding::BYTE_STREAM_SPLIT)
            .set_column_encoding("fixed".into(), Encoding::DELTA_BYTE_ARRAY)
            .set_column_encoding("structures.y".into(), texts)
    };
    let small = || WriterProperties::builder().set_max_row_group_row_count(Some(15));
    vec![
        written(&rows, small()),
        written(&rows, small().set_data_page_row_count_limit(5).set_write_batch_size(5)),
        written(&rows, delta(Encoding::DELTA_LENGTH_BYTE_ARRAY)),
        written(&rows, delta(Encoding::DELTA_BYTE_ARRAY).set_writer_version(WriterVersion::PARQUET_2_0)),
        written(&rows, delta(Encoding::DELTA_BYTE_ARRAY).set_compression(Compression::SNAPPY)),
        written(&rows, small().set_compression(Compression::LZ4_RAW)),
        written(&rows, small().set_compression(Compression::ZSTD(Default::default()))),
        written(&rows, small().set_compression(Compression::GZIP(Default::default()))),
    ]
}

/// The whole program would end if one of them asked for too much memory.
#[test]
fn damaged_files_of_all_encodings_are_errors_or_rows() {
    let (sender, results) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let input = Input::new();
        for (way, whole) in ways().into_iter().enumerate() {
            for round in 0..rounds() / 8 {
                let mut content = mutated(&whole, round);
                if content.is_empty() {
                    // It is not taken before it has content.
                    content.push(0);
                }
                input.write("f", round, &content);
                let read = runtime.block_on(async {
                    let table = input.resolve("parquet", "", None, &[]).await?;
                    input.reader(&table).all().await
                });
                if let Err(error) = &read {
                    assert!(matches!(error, Error::InputFile { .. }), "{way} {round}: {error:?}");
                }
                let query = format!("SELECT * FROM read_parquet('{}')", input.text("f"));
                // DataFusion's own scan may panic in a task, which is contained.
                let queried = runtime.block_on(async { tokio::spawn(rows_of(query.clone())).await });
                // Filters are pushed down, and then other parts of the file are read, in another way.
                let filtered = format!("{query} WHERE longs >= 0 AND b > ''");
                let _ = runtime.block_on(async { tokio::spawn(rows_of(filtered)).await });
                if let (Ok(read), Ok(Ok(queried))) = (read, queried) {
                    assert_eq!(read, queried, "{way} {round}");
                }
                if sender.send(()).is_err() {
                    return;
                }
            }
        }
    });
    let mut count = 0;
    loop {
        match results.recv_timeout(Duration::from_secs(60)) {
            Ok(()) => count += 1,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the reader does not come to an end"),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    assert_eq!(count, rounds() / 8 * 8);
}
