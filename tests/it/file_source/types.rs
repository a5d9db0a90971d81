//! What a value of a file becomes in a column of each type: the tables of `docs/types.md` are made here, and
//! checked to be current. `TIDEMILL_UPDATE_DOCS=1` writes them.

use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int32Array, Int64Array, Int64Builder, ListArray, MapBuilder, RecordBatch, StringArray, StringBuilder,
    StructArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt64Array,
};
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Int64Type, TimeUnit};

use super::formats::{ipc_file, parquet};
use super::{Input, schema};

const DECLARED: [(&str, DataType); 12] = [
    ("BOOLEAN", DataType::Boolean),
    ("INT", DataType::Int32),
    ("BIGINT", DataType::Int64),
    ("BIGINT UNSIGNED", DataType::UInt64),
    ("FLOAT", DataType::Float32),
    ("DOUBLE", DataType::Float64),
    ("DECIMAL(10,2)", DataType::Decimal128(10, 2)),
    ("VARCHAR", DataType::Utf8),
    ("BYTEA", DataType::Binary),
    ("DATE", DataType::Date32),
    ("TIME", DataType::Time64(TimeUnit::Nanosecond)),
    ("TIMESTAMP(3)", DataType::Timestamp(TimeUnit::Millisecond, None)),
];

const JSON: [&str; 22] = [
    "null",
    "true",
    "5",
    "-5",
    "5.0",
    "5e2",
    "4.9",
    "1.005",
    "9007199254740993",
    "1e400",
    "NaN",
    "\"text\"",
    "\"c0ff\"",
    "\"true\"",
    "\"5\"",
    "\"4.9\"",
    "\"Infinity\"",
    "\"2024-02-29\"",
    "\"2024-02-29T23:30:00.1239-05:00\"",
    "\"12:30:00.5\"",
    "{\"x\": 1}",
    "[1, 2]",
];

const CSV: [&str; 15] = [
    "true",
    "5",
    "-5",
    "5.0",
    "5e2",
    "4.9",
    "1.005",
    "9007199254740993",
    "1e400",
    "NaN",
    "text",
    "c0ff",
    "2024-02-29",
    "2024-02-29T23:30:00.1239-05:00",
    "12:30:00.5",
];

/// Values with parts, and those beside them, in columns with parts.
const JSON_PARTS: [&str; 10] = [
    "[1, 2]",
    "[1, 4.9]",
    "[\"1\", null]",
    "[]",
    "{\"x\": 1}",
    "{\"X\": \"1\"}",
    "{\"x\": 1, \"y\": 2}",
    "{\"x\": 4.9}",
    "{}",
    "5",
];

/// Types with parts, as the head of the table has them.
fn declared_parts() -> Vec<(&'static str, DataType)> {
    let x = Field::new("x", DataType::Int32, true);
    let key = Field::new("key", DataType::Utf8, false);
    let value = Field::new("value", DataType::Int32, true);
    let entries = Field::new("entries", DataType::Struct(vec![key, value].into()), false);
    vec![
        ("INT[]", DataType::new_list(DataType::Int32, true)),
        ("STRUCT&lt;x INT&gt;", DataType::Struct(vec![x].into())),
        ("map of text to INT", DataType::Map(Arc::new(entries), false)),
        ("VARCHAR", DataType::Utf8),
    ]
}

fn binary_parts() -> Vec<(&'static str, ArrayRef)> {
    let list = |values: [i64; 2]| {
        ListArray::from_iter_primitive::<Int64Type, _, _>([Some(values.map(Some).to_vec())])
    };
    let doubles = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(1.0), Some(4.9)])]);
    let object = |name: &str, values: ArrayRef| {
        let field = Field::new(name, values.data_type().clone(), true);
        Arc::new(StructArray::new(vec![field].into(), vec![values], None))
    };
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    map.keys().append_value("x");
    map.values().append_value(1);
    map.append(true).unwrap();
    vec![
        ("list of int64 `[1, 2]`", Arc::new(list([1, 2]))),
        ("list of int64 `[1, 3000000000]`", Arc::new(list([1, 3_000_000_000]))),
        ("list of double `[1.0, 4.9]`", Arc::new(doubles)),
        ("struct `{X: 1}` of int64", object("X", Arc::new(Int64Array::from(vec![1])))),
        ("struct `{x: 1}` of text", object("x", Arc::new(StringArray::from(vec!["1"])))),
        ("struct `{x: 4.9}` of double", object("x", Arc::new(Float64Array::from(vec![4.9])))),
        ("struct `{y: 1}` of int64", object("y", Arc::new(Int64Array::from(vec![1])))),
        ("map `{x: 1}` of int64", Arc::new(map.finish())),
        ("int64 `5`", Arc::new(Int64Array::from(vec![5]))),
    ]
}

fn binary() -> Vec<(&'static str, ArrayRef)> {
    const INSTANT: i64 = 1_709_249_400_123_900;
    let decimal = |value| Decimal128Array::from(vec![value]).with_precision_and_scale(11, 3).unwrap();
    vec![
        ("boolean `true`", Arc::new(BooleanArray::from(vec![true]))),
        ("int32 `-5`", Arc::new(Int32Array::from(vec![-5]))),
        ("int64 `9007199254740993`", Arc::new(Int64Array::from(vec![9_007_199_254_740_993]))),
        ("uint64 `18446744073709551615` (not in Avro)", Arc::new(UInt64Array::from(vec![u64::MAX]))),
        ("float `0.1`", Arc::new(Float32Array::from(vec![0.1]))),
        ("double `5.0`", Arc::new(Float64Array::from(vec![5.0]))),
        ("double `4.9`", Arc::new(Float64Array::from(vec![4.9]))),
        ("double `1e300`", Arc::new(Float64Array::from(vec![1e300]))),
        ("double `NaN`", Arc::new(Float64Array::from(vec![f64::NAN]))),
        ("double `Infinity`", Arc::new(Float64Array::from(vec![f64::INFINITY]))),
        ("decimal `5.000`", Arc::new(decimal(5000))),
        ("decimal `1.005`", Arc::new(decimal(1005))),
        ("decimal `99999999.995`", Arc::new(decimal(99_999_999_995))),
        ("text `5`", Arc::new(StringArray::from(vec!["5"]))),
        ("text `4.9`", Arc::new(StringArray::from(vec!["4.9"]))),
        ("text `2024-02-29`", Arc::new(StringArray::from(vec!["2024-02-29"]))),
        ("bytes `abc`", Arc::new(BinaryArray::from(vec![&b"abc"[..]]))),
        ("date `2024-02-29`", Arc::new(Date32Array::from(vec![19782]))),
        ("time `12:30:00`", Arc::new(Time64MicrosecondArray::from(vec![45_000_000_000]))),
        ("timestamp `2024-02-29T23:30:00.123900`", Arc::new(TimestampMicrosecondArray::from(vec![INSTANT]))),
        (
            "the same with time zone UTC",
            Arc::new(TimestampMicrosecondArray::from(vec![INSTANT]).with_timezone("UTC")),
        ),
    ]
}

/// What the only value of a file becomes.
async fn cell(format: &str, content: &[u8], data_type: &DataType, options: &[(&str, &str)]) -> String {
    let input = Input::new();
    input.write("f", 1, content);
    let columns = schema(&[("v", data_type.clone())]);
    match input.source(format, &columns, options).await.all().await {
        Ok(rows) => {
            assert_eq!(rows.len(), 1, "{format}");
            if rows[0] == "-" { "null".to_string() } else { format!("`{}`", rows[0]) }
        }
        Err(_) => "error".to_string(),
    }
}

fn head(first: &str, declared: &[(&'static str, DataType)]) -> String {
    let names: Vec<&str> = declared.iter().map(|(name, _)| *name).collect();
    format!("| {first} | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(declared.len()))
}

async fn text_table(format: &str, values: &[&str], declared: &[(&'static str, DataType)]) -> String {
    let mut table = head(if format == "json" { "JSON" } else { "CSV" }, declared);
    for value in values {
        let (content, options) = match format {
            "json" => (format!("{{\"v\":{value}}}\n"), &[][..]),
            _ => (format!("{value}\n"), &[("header", "false")][..]),
        };
        write!(table, "| `{value}` |").unwrap();
        for (_, data_type) in declared {
            write!(table, " {} |", cell(format, content.as_bytes(), data_type, options).await).unwrap();
        }
        table.push('\n');
    }
    table
}

async fn binary_table(
    values: Vec<(&'static str, ArrayRef)>,
    declared: &[(&'static str, DataType)],
) -> String {
    let mut table = head("Parquet, Arrow, Avro", declared);
    for (name, values) in values {
        let batch = RecordBatch::try_from_iter_with_nullable([("v", values, true)]).unwrap();
        #[allow(unused_mut)]
        let mut files =
            vec![("parquet", parquet(&batch, 10)), ("arrow", ipc_file(std::slice::from_ref(&batch)))];
        #[cfg(feature = "avro")]
        if !name.ends_with("(not in Avro)") {
            files.push(("avro", super::formats::avro(&batch)));
        }
        write!(table, "| {name} |").unwrap();
        for (declared, data_type) in declared {
            let mut cells = Vec::new();
            for (format, content) in &files {
                cells.push(cell(format, content, data_type, &[]).await);
            }
            cells.dedup();
            assert_eq!(cells.len(), 1, "{name} as {declared} is the same in every format: {cells:?}");
            write!(table, " {} |", cells[0]).unwrap();
        }
        table.push('\n');
    }
    table
}

#[tokio::test]
async fn the_tables_in_the_documents_are_current() {
    const MARK: &str = "<!-- Made by tests/it/file_source/types.rs from here on. -->\n";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/types.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (prose, tables) = text.split_once(MARK).unwrap();
    let parts = declared_parts();
    let made = [
        text_table("json", &JSON, &DECLARED).await,
        text_table("csv", &CSV, &DECLARED).await,
        binary_table(binary(), &DECLARED).await,
        text_table("json", &JSON_PARTS, &parts).await,
        binary_table(binary_parts(), &parts).await,
    ]
    .join("\n");
    if std::env::var_os("TIDEMILL_UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{prose}{MARK}\n{made}")).unwrap();
    } else {
        assert_eq!(tables.trim(), made.trim(), "run this test with TIDEMILL_UPDATE_DOCS=1");
    }
}
