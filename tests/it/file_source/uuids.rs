//! UUIDs, and bytes of a fixed length, as text.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, FixedSizeBinaryArray, RecordBatch};
use datafusion::arrow::datatypes::DataType;
use datafusion::parquet::basic::{LogicalType, Repetition, Type as PhysicalType};
use datafusion::parquet::data_type::{FixedLenByteArray, FixedLenByteArrayType};
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::parquet::file::writer::SerializedFileWriter;
use datafusion::parquet::schema::types::Type;
use uuid::Uuid;

use super::formats::{ipc_file, parquet};
use super::{Input, schema};

type Encode = fn(&RecordBatch) -> Vec<u8>;

const UUID: &str = "123e4567-e89b-12d3-a456-426614174000";

/// A file of the column `v`, 16 bytes that are said to be a UUID.
fn parquet_uuid() -> Vec<u8> {
    let column = Type::primitive_type_builder("v", PhysicalType::FIXED_LEN_BYTE_ARRAY)
        .with_length(16)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(Some(LogicalType::Uuid))
        .build()
        .unwrap();
    let root = Type::group_type_builder("root").with_fields(vec![Arc::new(column)]).build().unwrap();
    let mut writer =
        SerializedFileWriter::new(Vec::new(), Arc::new(root), Arc::new(WriterProperties::default())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let value = FixedLenByteArray::from(Uuid::parse_str(UUID).unwrap().as_bytes().to_vec());
    column.typed::<FixedLenByteArrayType>().write_batch(&[value], None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

/// A file of records with the field `v`, of which `value` is the only one.
#[cfg(feature = "avro")]
fn avro_of(field: &str, value: &[u8]) -> Vec<u8> {
    const SYNC: [u8; 16] = [7; 16];
    let schema = format!(r#"{{"type":"record","name":"r","fields":[{{"name":"v","type":{field}}}]}}"#);
    let length = |length: usize| {
        let mut zigzag = length << 1;
        let mut bytes = Vec::new();
        while zigzag > 0x7f {
            bytes.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        bytes.push(zigzag as u8);
        bytes
    };
    let mut file = b"Obj\x01".to_vec();
    file.extend(length(1));
    for text in ["avro.schema", &schema] {
        file.extend(length(text.len()));
        file.extend_from_slice(text.as_bytes());
    }
    file.push(0);
    file.extend_from_slice(&SYNC);
    file.extend(length(1));
    file.extend(length(value.len()));
    file.extend_from_slice(value);
    file.extend_from_slice(&SYNC);
    file
}

async fn as_text(format: &str, content: Vec<u8>) -> [Vec<String>; 3] {
    let input = Input::new();
    input.write("f", 1, content);
    let table = schema(&[("v", DataType::Utf8)]);
    let read =
        async |options: &[(&str, &str)]| input.source(format, &table, options).await.all().await.unwrap();
    [
        read(&[]).await,
        read(&[("mode", "DROPMALFORMED")]).await,
        input.inferred(format, &[]).await.all().await.unwrap(),
    ]
}

#[tokio::test]
async fn uuids_of_parquet_files_have_dashes_as_text() {
    let bytes = UUID.replace('-', "");
    assert_eq!(as_text("parquet", parquet_uuid()).await, [[UUID], [UUID], [bytes.as_str()]]);
}

#[cfg(feature = "avro")]
#[tokio::test]
async fn uuids_of_avro_files_are_the_text_that_they_are_there() {
    let text = |uuid: &str| [&[72], uuid.as_bytes()].concat();
    let kind = r#"{"type":"string","logicalType":"uuid"}"#;
    assert_eq!(as_text("avro", avro_of(kind, &text(UUID))).await, [[UUID], [UUID], [UUID]]);
    let upper = UUID.to_uppercase();
    let upper = upper.as_str();
    assert_eq!(as_text("avro", avro_of(kind, &text(upper))).await, [[upper], [upper], [upper]]);
    let optional = avro_of(&format!(r#"["null",{kind}]"#), &[&[2], text(UUID).as_slice()].concat());
    assert_eq!(as_text("avro", optional).await, [[UUID], [UUID], [UUID]]);
    // Since 1.12 they may be 16 bytes.
    let fixed = r#"{"type":"fixed","name":"u","size":16,"logicalType":"uuid"}"#;
    let uuid = Uuid::parse_str(UUID).unwrap();
    let found = as_text("avro", avro_of(fixed, uuid.as_bytes())).await;
    let bytes = UUID.replace('-', "");
    assert_eq!(found, [[UUID], [UUID], [bytes.as_str()]]);
}

#[tokio::test]
async fn bytes_of_a_fixed_length_are_text_like_others() {
    let rows = |values: &[&[u8]]| {
        let values = FixedSizeBinaryArray::try_from_iter(values.iter()).unwrap();
        RecordBatch::try_from_iter([("v", Arc::new(values) as ArrayRef)]).unwrap()
    };
    let table = schema(&[("v", DataType::Utf8)]);
    let encoders: &[(&str, Encode)] = &[
        ("parquet", |rows| parquet(rows, 3)),
        ("arrow", |rows| ipc_file(std::slice::from_ref(rows))),
        #[cfg(feature = "avro")]
        ("avro", super::formats::avro),
    ];
    for (format, encode) in encoders {
        let input = Input::new();
        input.write("f", 1, encode(&rows(&[b"abc", b"\xc3\xa9x"])));
        assert_eq!(input.source(format, &table, &[]).await.all().await.unwrap(), ["abc", "éx"], "{format}");
        input.write("f", 1, encode(&rows(&[b"abc", b"\xffxy"])));
        assert!(input.source(format, &table, &[]).await.all().await.is_err(), "{format}");
        let sound = input.source(format, &table, &[("mode", "DROPMALFORMED")]).await.all().await.unwrap();
        assert_eq!(sound, ["abc"], "{format}");
    }
}
