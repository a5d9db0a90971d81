//! Parquet and Arrow files of every type, and damaged ones, beside pyarrow, a reader that shares no code with ours:
//! what both read is the same, and what it refuses is refused, or the damage lies where it decides no value: all rows
//! are those of the intact file. If several bytes are damaged, that holds for each of them alone: one may decide no value,
//! and another change one in a way that nobody can notice.
//!
//! Where Python has no pyarrow the tests say so and pass. `TIDEMILL_PYTHON` names another Python, and
//! `TIDEMILL_MUTATIONS` another number of files than 300.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, Encoding, ZstdLevel};
use datafusion::parquet::file::properties::{WriterProperties, WriterVersion};

use super::mutated::{read_mutated, rounds};
use super::{Input, ab};

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

/// What we read of a file.
fn read(format: &str, content: &[u8]) -> Read {
    let input = Input::new();
    input.write("f", 1, content);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let read = runtime.block_on(async { input.source(format, &ab(), &[]).await.all().await });
    read.map_err(|error| error.to_string())
}

/// What is read of a file, or why it is not.
type Read = Result<Vec<String>, String>;

/// What pyarrow reads of the files of a folder, by name.
fn read_with_pyarrow(python: &str, format: &str, folder: &Path) -> BTreeMap<String, Read> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/file_source/read_with_pyarrow.py");
    let output = Command::new(python).arg(script).arg(format).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let read = lines.lines().map(|line| {
        let read: serde_json::Value = serde_json::from_str(line).unwrap();
        let rows = serde_json::from_value(read["rows"].clone()).map_err(|_| read["error"].to_string());
        (read["file"].as_str().unwrap().to_string(), rows)
    });
    read.collect()
}

/// How what we read of a damaged file differs from what pyarrow reads; `intact` is what both read of the intact one.
fn difference(ours: &Read, theirs: &Read, intact: &[String]) -> Option<String> {
    match (ours, theirs) {
        // It is damaged, after all.
        (Err(_), _) => None,
        (Ok(ours), Ok(theirs)) if ours == theirs => None,
        (Ok(ours), Err(_)) if ours == intact => None,
        (Ok(ours), Ok(theirs)) => {
            let first = ours.iter().zip(theirs).find(|(ours, theirs)| ours != theirs);
            Some(format!("{} rows, by pyarrow {}: {first:?}", ours.len(), theirs.len()))
        }
        (Ok(ours), Err(error)) => Some(format!("{} rows, by pyarrow {error}", ours.len())),
    }
}

/// `damaged` with one of the bytes in which it differs from `whole`, for each of them; none if it has another length.
fn each_alone(whole: &[u8], damaged: &[u8]) -> Vec<(usize, Vec<u8>)> {
    if whole.len() != damaged.len() {
        return Vec::new();
    }
    let places = (0..whole.len()).filter(|at| whole[*at] != damaged[*at]);
    let alone = |at: usize| {
        let mut content = whole.to_vec();
        content[at] = damaged[at];
        (at, content)
    };
    places.map(alone).collect()
}

/// Mutates `content`, and compares what is read.
fn compare(format: &'static str, content: &[u8]) {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ours: RefCell<BTreeMap<String, Read>> = RefCell::default();
    read_mutated(format, content, &[], |round, content, read| {
        // It is not taken before it has content.
        if !content.is_empty() {
            let name = format!("{round:06}");
            std::fs::write(folder.path().join(&name), content).unwrap();
            ours.borrow_mut().insert(name, read.map_err(|error| error.to_string()));
        }
    });
    let (ours, intact) = (ours.into_inner(), read(format, content).unwrap());
    let theirs = read_with_pyarrow(&python, format, folder.path());
    assert!(theirs.keys().eq(ours.keys()));
    let mut different = BTreeMap::new();
    for (name, ours) in &ours {
        let Some(how) = difference(ours, &theirs[name], &intact) else { continue };
        different.insert(name.clone(), how);
    }
    // Those that each of their damaged bytes explains.
    let alone = tempfile::tempdir().unwrap();
    let mut ours_alone = BTreeMap::new();
    for name in different.keys() {
        let damaged = std::fs::read(folder.path().join(name)).unwrap();
        for (at, single) in each_alone(content, &damaged) {
            let single_name = format!("{name}-{at}");
            std::fs::write(alone.path().join(&single_name), &single).unwrap();
            ours_alone.insert(single_name, read(format, &single));
        }
    }
    let theirs_alone = read_with_pyarrow(&python, format, alone.path());
    different.retain(|name, _| {
        let mut singles =
            ours_alone.iter().filter(|(single, _)| single.split('-').next() == Some(name)).peekable();
        singles.peek().is_none()
            || singles.any(|(single, ours)| difference(ours, &theirs_alone[single], &intact).is_some())
    });
    if different.is_empty() {
        return;
    }
    let told: Vec<String> = different.iter().map(|(name, how)| format!("{format} {name}: {how}")).collect();
    panic!("{} of {} in {}:\n{}", told.len(), ours.len(), folder.keep().display(), told.join("\n"));
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
