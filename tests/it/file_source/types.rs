//! What a value of a file becomes in a column of each type: the tables of `docs/types.md` are made here, and
//! checked to be current. `TIDEMILL_UPDATE_DOCS=1` writes them.

use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
    RecordBatch, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, TimeUnit};

use super::formats::{ipc_file, parquet};
use super::{Input, schema};

const DECLARED: [(&str, DataType); 11] = [
    ("BOOLEAN", DataType::Boolean),
    ("INT", DataType::Int32),
    ("BIGINT", DataType::Int64),
    ("BIGINT UNSIGNED", DataType::UInt64),
    ("FLOAT", DataType::Float32),
    ("DOUBLE", DataType::Float64),
    ("DECIMAL(10,2)", DataType::Decimal128(10, 2)),
    ("VARCHAR", DataType::Utf8),
    ("DATE", DataType::Date32),
    ("TIME", DataType::Time64(TimeUnit::Nanosecond)),
    ("TIMESTAMP(3)", DataType::Timestamp(TimeUnit::Millisecond, None)),
];

const JSON: [&str; 20] = [
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

const CSV: [&str; 14] = [
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
    "2024-02-29",
    "2024-02-29T23:30:00.1239-05:00",
    "12:30:00.5",
];

fn binary() -> Vec<(&'static str, ArrayRef)> {
    const INSTANT: i64 = 1_709_249_400_123_900;
    let decimal = |value| Decimal128Array::from(vec![value]).with_precision_and_scale(10, 3).unwrap();
    vec![
        ("boolean `true`", Arc::new(BooleanArray::from(vec![true]))),
        ("int32 `-5`", Arc::new(Int32Array::from(vec![-5]))),
        ("int64 `9007199254740993`", Arc::new(Int64Array::from(vec![9_007_199_254_740_993]))),
        ("double `5.0`", Arc::new(Float64Array::from(vec![5.0]))),
        ("double `4.9`", Arc::new(Float64Array::from(vec![4.9]))),
        ("double `1e300`", Arc::new(Float64Array::from(vec![1e300]))),
        ("double `NaN`", Arc::new(Float64Array::from(vec![f64::NAN]))),
        ("decimal `5.000`", Arc::new(decimal(5000))),
        ("decimal `1.005`", Arc::new(decimal(1005))),
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
            format!("`{}`", rows[0])
        }
        Err(_) => "error".to_string(),
    }
}

fn head(first: &str) -> String {
    let names: Vec<&str> = DECLARED.iter().map(|(name, _)| *name).collect();
    format!("| {first} | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(DECLARED.len()))
}

async fn text_table(format: &str, values: &[&str]) -> String {
    let mut table = head(if format == "json" { "JSON" } else { "CSV" });
    for value in values {
        let (content, options) = match format {
            "json" => (format!("{{\"v\":{value}}}\n"), &[][..]),
            _ => (format!("{value}\n"), &[("header", "false")][..]),
        };
        write!(table, "| `{value}` |").unwrap();
        for (_, data_type) in &DECLARED {
            write!(table, " {} |", cell(format, content.as_bytes(), data_type, options).await).unwrap();
        }
        table.push('\n');
    }
    table
}

async fn binary_table() -> String {
    let mut table = head("Parquet, Arrow, Avro");
    for (name, values) in binary() {
        let batch = RecordBatch::try_from_iter_with_nullable([("v", values, true)]).unwrap();
        let files = [
            ("parquet", parquet(&batch, 10)),
            ("arrow", ipc_file(std::slice::from_ref(&batch))),
            #[cfg(feature = "avro")]
            ("avro", super::formats::avro(&batch)),
        ];
        write!(table, "| {name} |").unwrap();
        for (declared, data_type) in &DECLARED {
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
    let made =
        [text_table("json", &JSON).await, text_table("csv", &CSV).await, binary_table().await].join("\n");
    if std::env::var_os("TIDEMILL_UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{prose}{MARK}\n{made}")).unwrap();
    } else {
        assert_eq!(tables.trim(), made.trim(), "run this test with TIDEMILL_UPDATE_DOCS=1");
    }
}
