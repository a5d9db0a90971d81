//! Parquet and Arrow files of every type, and damaged ones, beside pyarrow, a reader that shares no code with ours:
//! what both read is the same, and what it refuses is refused.
//!
//! Where Python has no pyarrow the tests say so and pass. `TIDEMILL_PYTHON` names another Python,
//! `TIDEMILL_MUTATIONS` another number of files than 300, and `TIDEMILL_DIFFERENCES` a file to tell of what only
//! we refuse.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Command;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, Encoding, ZstdLevel};
use datafusion::parquet::file::properties::{WriterProperties, WriterVersion};

use super::Input;
use super::mutated::{read_mutated, rounds};

fn batch(range: std::ops::Range<i64>) -> RecordBatch {
    let a = Int64Array::from_iter(range.clone().map(|a| (a % 7 != 3).then_some(a * 1_000_003)));
    let b = StringArray::from_iter(range.map(|a| (a % 5 != 1).then(|| format!("row {}", a % 13))));
    let columns: [(&str, ArrayRef); 2] = [("a", Arc::new(a)), ("b", Arc::new(b))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

fn python() -> Option<String> {
    let python = std::env::var("TIDEMILL_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&python).args(["-c", "import pyarrow"]).output();
    if found.is_ok_and(|found| found.status.success()) {
        return Some(python);
    }
    eprintln!("skipped: '{python}' has no pyarrow; TIDEMILL_PYTHON may name one that has");
    None
}

/// Mutates `content`, and compares what is read.
fn compare(format: &'static str, content: &[u8]) {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ours: std::cell::RefCell<BTreeMap<String, Result<Vec<String>, String>>> = Default::default();
    read_mutated(format, content, &[], |round, content, read| {
        let name = format!("{round:06}");
        std::fs::write(folder.path().join(&name), content).unwrap();
        ours.borrow_mut().insert(name, read.map_err(|error| error.to_string()));
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/file_source/read_with_pyarrow.py");
    let output = Command::new(python).arg(script).arg(format).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs = String::from_utf8(output.stdout).unwrap();
    let mut differences = Vec::new();
    let mut only_ours_refuses = Vec::new();
    let mut count = 0;
    for line in theirs.lines() {
        let theirs: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = theirs["file"].as_str().unwrap();
        let rows: Option<Vec<String>> = serde_json::from_value(theirs["rows"].clone()).ok();
        match (&ours.borrow()[name], rows) {
            (Ok(ours), Some(theirs)) if *ours == theirs => {}
            (Err(_), None) => {}
            (Err(error), Some(_)) => only_ours_refuses.push(format!("{format} {name}: {error}")),
            (Ok(ours), theirs_rows) => {
                let why = match &theirs_rows {
                    Some(rows) => {
                        let first = ours.iter().zip(rows).find(|(ours, theirs)| ours != theirs);
                        format!("{first:?}, {} rows", rows.len())
                    }
                    None => theirs["error"].to_string(),
                };
                differences
                    .push(format!("{format} {name}: {} rows read by us, by pyarrow: {why}", ours.len()));
            }
        }
        count += 1;
    }
    assert_eq!(count, ours.borrow().len());
    if let Ok(path) = std::env::var("TIDEMILL_DIFFERENCES") {
        let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
        only_ours_refuses.iter().chain(&differences).for_each(|line| writeln!(file, "{line}").unwrap());
        if !differences.is_empty() {
            writeln!(file, "kept in {}", folder.keep().display()).unwrap();
        }
    }
    assert!(differences.is_empty(), "{} of {count}:\n{}", differences.len(), differences.join("\n"));
}

fn parquet(properties: WriterProperties) -> Vec<u8> {
    let rows = batch(0..60);
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn parquet_files() {
    let groups = || WriterProperties::builder().set_max_row_group_row_count(Some(25));
    compare("parquet", &parquet(groups().build()));
}

#[test]
fn parquet_files_with_pages_of_version_2() {
    let properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_dictionary_enabled(false)
        .set_column_encoding("a".into(), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding("b".into(), Encoding::DELTA_BYTE_ARRAY)
        .set_compression(Compression::SNAPPY);
    compare("parquet", &parquet(properties.build()));
}

#[test]
fn parquet_files_compressed_with_zstd() {
    let zstd = Compression::ZSTD(ZstdLevel::try_new(3).unwrap());
    compare("parquet", &parquet(WriterProperties::builder().set_compression(zstd).build()));
}

fn ipc(codec: Option<CompressionType>, is_file: bool) -> Vec<u8> {
    let batches: Vec<_> = (0..3).map(|index| batch(index * 20..index * 20 + 20)).collect();
    let options = IpcWriteOptions::default().try_with_compression(codec).unwrap();
    let schema = batches[0].schema();
    if is_file {
        let mut writer = FileWriter::try_new_with_options(Vec::new(), &schema, options).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.finish().unwrap();
        return writer.into_inner().unwrap();
    }
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn arrow_files() {
    compare("arrow", &ipc(None, true));
}

#[test]
fn arrow_files_compressed() {
    compare("arrow", &ipc(Some(CompressionType::LZ4_FRAME), true));
    compare("arrow", &ipc(Some(CompressionType::ZSTD), true));
}

#[test]
fn arrow_streams() {
    compare("arrow", &ipc(None, false));
}

/// Columns of random types, lists, structs and maps among them, written in all the ways that pyarrow knows.
#[tokio::test]
async fn files_of_every_type() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/file_source/write_with_pyarrow.py");
    let count = rounds().to_string();
    let output = Command::new(python).arg(script).arg(folder.path()).arg(&count).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut differences = Vec::new();
    let mut found = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("parquet") => "parquet",
            Some("arrow") => "arrow",
            _ => continue,
        };
        found += 1;
        let rows = std::fs::read(format!("{}.rows", path.display())).unwrap();
        let theirs: Vec<String> = serde_json::from_slice(&rows).unwrap();
        let input = Input::new();
        input.write("f", 1, std::fs::read(&path).unwrap());
        match input.inferred(format, &[]).await.all().await {
            Ok(ours) if ours == theirs => {}
            Ok(ours) => {
                let first = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
                differences.push(format!("{}: {first:?}", path.display()));
            }
            Err(error) => differences.push(format!("{}: {error}", path.display())),
        }
    }
    assert_eq!(found.to_string(), count);
    if !differences.is_empty() {
        let kept = folder.keep();
        panic!("{} of {count}, in {}:\n{}", differences.len(), kept.display(), differences.join("\n"));
    }
}
