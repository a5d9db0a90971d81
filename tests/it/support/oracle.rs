//! What is in files, read without the engine: `serde_json`, `csv`, and the Parquet and Arrow readers,
//! row by row. What a query must give is computed from these rows in plain Rust.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    TimestampNanosecondType, UInt64Type,
};
use datafusion::arrow::ipc::reader::FileReader;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

/// A row: its columns that are not null, by name.
pub type Row = BTreeMap<String, Value>;

/// What the text of a CSV file or of a directory's name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Int,
    Float,
    Bool,
    Text,
}

impl Kind {
    fn parse(self, text: &str) -> Value {
        match self {
            Kind::Int => json!(text.parse::<i64>().unwrap()),
            Kind::Float => json!(text.parse::<f64>().unwrap()),
            Kind::Bool => json!(text.parse::<bool>().unwrap()),
            Kind::Text => json!(text),
        }
    }
}

/// The columns that files without types of their own have.
pub type Columns<'a> = &'a [(&'a str, Kind)];

/// `rows` as a multiset that two readers can agree on.
pub fn canonical(rows: impl IntoIterator<Item = Row>) -> Vec<String> {
    let mut lines: Vec<String> = rows.into_iter().map(|row| serde_json::to_string(&row).unwrap()).collect();
    lines.sort();
    lines
}

/// Fails with the first differences if `found` and `expected` are not the same multiset.
pub fn assert_same(found: Vec<Row>, expected: Vec<Row>, what: &str) {
    if let Err(difference) = same(found, expected) {
        panic!("{what}: {difference}");
    }
}

/// The first differences between two multisets of rows.
pub fn same(found: Vec<Row>, expected: Vec<Row>) -> Result<(), String> {
    let (found, expected) = (canonical(found), canonical(expected));
    if found == expected {
        return Ok(());
    }
    let (lost, extra) = (without(&expected, &found), without(&found, &expected));
    Err(format!(
        "{} rows instead of {}; missing (or too few): {:?}; not expected (or too many): {:?}",
        found.len(),
        expected.len(),
        &lost[..lost.len().min(5)],
        &extra[..extra.len().min(5)],
    ))
}

/// The lines of `all` that are left when each of `gone` takes one away.
fn without(all: &[String], gone: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    gone.iter().for_each(|line| *counts.entry(line).or_default() += 1);
    all.iter()
        .filter(|line| match counts.get_mut(line) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        })
        .cloned()
        .collect()
}

/// All files below `root`, as paths below it with `/` between parts, sorted.
pub fn walk(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = fs::read_dir(root.join(&dir)) else { continue };
        for entry in entries {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            if entry.path().is_dir() {
                pending.push(path);
            } else {
                files.push(path.to_str().unwrap().to_string());
            }
        }
    }
    files.sort();
    files
}

/// Whether any reader that lists directories skips this path: a part of it starts with `_` or `.`.
pub fn is_hidden(path: &str) -> bool {
    path.split('/').any(|part| part.starts_with(['_', '.']))
}

/// The files below `root` that a plain reader of the directory sees.
pub fn visible(root: &Path) -> Vec<String> {
    walk(root).into_iter().filter(|path| !is_hidden(path)).collect()
}

/// The files below `root` that are hidden from plain readers: what was staged and not yet shown.
pub fn hidden(root: &Path) -> Vec<String> {
    walk(root).into_iter().filter(|path| is_hidden(path)).collect()
}

/// The rows that a plain reader of the directory `root` sees, with the columns that its
/// directories' names hold.
pub fn read_dir(root: &Path, format: &str, columns: Columns<'_>) -> Vec<Row> {
    visible(root).iter().flat_map(|path| read_file(root, path, format, columns)).collect()
}

/// The rows of the file `path` below `root`.
pub fn read_file(root: &Path, path: &str, format: &str, columns: Columns<'_>) -> Vec<Row> {
    let bytes = fs::read(root.join(path)).unwrap();
    read_bytes(bytes, path, format, columns)
}

/// The rows of a file of which only the content and the path below the table's root are known.
pub fn read_bytes(bytes: Vec<u8>, path: &str, format: &str, columns: Columns<'_>) -> Vec<Row> {
    let mut rows = match format {
        "json" => read_json(&bytes),
        "csv" => read_csv(&bytes, columns),
        "text" => read_text(&bytes),
        "parquet" => read_parquet(bytes),
        "arrow" => read_arrow(bytes),
        other => panic!("no oracle for {other}"),
    };
    let directories = partition_values(path, columns);
    rows.iter_mut().for_each(|row| row.extend(directories.clone()));
    rows
}

fn read_json(bytes: &[u8]) -> Vec<Row> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines().filter(|line| !line.trim().is_empty()).map(json_row).collect()
}

fn json_row(line: &str) -> Row {
    let row: Row = serde_json::from_str(line).unwrap();
    row.into_iter().filter(|(_, value)| !value.is_null()).collect()
}

fn read_csv(bytes: &[u8], columns: Columns<'_>) -> Vec<Row> {
    let mut reader = csv::ReaderBuilder::new().has_headers(true).from_reader(bytes);
    let names: Vec<String> = reader.headers().unwrap().iter().map(str::to_string).collect();
    reader
        .records()
        .map(|record| {
            let record = record.unwrap();
            let cells = names.iter().zip(record.iter()).filter(|(_, text)| !text.is_empty());
            cells.map(|(name, text)| (name.clone(), kind(columns, name).parse(text))).collect()
        })
        .collect()
}

fn read_text(bytes: &[u8]) -> Vec<Row> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines().map(|line| Row::from([("value".to_string(), json!(line))])).collect()
}

fn read_parquet(bytes: Vec<u8>) -> Vec<Row> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
    reader.build().unwrap().flat_map(|batch| rows_of(&batch.unwrap())).collect()
}

fn read_arrow(bytes: Vec<u8>) -> Vec<Row> {
    let reader = FileReader::try_new(std::io::Cursor::new(bytes), None).unwrap();
    reader.flat_map(|batch| rows_of(&batch.unwrap())).collect()
}

/// The column types that a Parquet file declares, `name:type:null` or `name:type:not null` each.
pub fn parquet_columns(path: &Path) -> Vec<String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let fields = reader.schema().fields().clone();
    let nullable = |nullable| if nullable { "null" } else { "not null" };
    fields
        .iter()
        .map(|field| format!("{}:{}:{}", field.name(), field.data_type(), nullable(field.is_nullable())))
        .collect()
}

fn kind(columns: Columns<'_>, name: &str) -> Kind {
    columns.iter().find(|(column, _)| *column == name).map_or(Kind::Text, |(_, kind)| *kind)
}

/// The values in `country=DE/day=2/…`.
fn partition_values(path: &str, columns: Columns<'_>) -> Row {
    let (directories, _) = path.rsplit_once('/').unwrap_or_default();
    directories
        .split('/')
        .filter_map(|part| part.split_once('='))
        .filter(|(_, text)| *text != "__HIVE_DEFAULT_PARTITION__")
        .map(|(name, text)| (name.to_string(), kind(columns, name).parse(&unescape(text))))
        .collect()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let hex = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// The rows of a record batch.
pub fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let names: Vec<String> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    (0..batch.num_rows())
        .map(|row| {
            let cells = names.iter().zip(batch.columns());
            cells
                .map(|(name, column)| (name.clone(), cell(column, row)))
                .filter(|(_, value)| !value.is_null())
                .collect()
        })
        .collect()
}

fn cell(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Null => Value::Null,
        DataType::Int32 => json!(column.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => json!(column.as_primitive::<Int64Type>().value(row)),
        DataType::UInt64 => json!(column.as_primitive::<UInt64Type>().value(row)),
        DataType::Float64 => json!(column.as_primitive::<Float64Type>().value(row)),
        DataType::Boolean => json!(column.as_boolean().value(row)),
        DataType::Utf8 => json!(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => json!(column.as_string::<i64>().value(row)),
        DataType::Utf8View => json!(column.as_string_view().value(row)),
        DataType::Date32 => json!({"date": column.as_primitive::<Date32Type>().value(row)}),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            json!({"us": column.as_primitive::<TimestampMicrosecondType>().value(row)})
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            json!({"us": column.as_primitive::<TimestampNanosecondType>().value(row) / 1000})
        }
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            (0..items.len()).map(|item| cell(&items, item)).collect()
        }
        DataType::Dictionary(_, _) => {
            let dictionary = column.as_any_dictionary();
            cell(dictionary.values(), dictionary.normalized_keys()[row])
        }
        other => panic!("the oracle knows no {other}"),
    }
}

#[test]
fn differences_are_found() {
    let row = |id: i64| Row::from([("id".to_string(), json!(id))]);
    assert_eq!(same(vec![row(2), row(1)], vec![row(1), row(2)]), Ok(()));
    let lost = same(vec![row(1)], vec![row(1), row(1)]).unwrap_err();
    assert!(
        lost.contains(
            r#"1 rows instead of 2; missing (or too few): ["{\"id\":1}"]; not expected (or too many): []"#
        ),
        "{lost}"
    );
    let doubled = same(vec![row(3), row(3)], vec![row(3)]).unwrap_err();
    assert!(doubled.contains(r#"not expected (or too many): ["{\"id\":3}"]"#), "{doubled}");
}

#[test]
fn hidden_files_are_those_that_plain_readers_skip() {
    assert!(is_hidden("_staging/a.json") && is_hidden("a/.part.json") && !is_hidden("day=1/a_b.json"));
    assert_eq!(
        partition_values("day=1/name=a%2Fb/x.json", &[("day", Kind::Int)]),
        Row::from([("day".to_string(), json!(1)), ("name".to_string(), json!("a/b"))])
    );
}
