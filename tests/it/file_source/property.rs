//! Whatever is done to a file, DROPMALFORMED gives the rows of the lines that are good on their own.

use std::collections::BTreeMap;

use datafusion::arrow::csv;
use datafusion::arrow::record_batch::RecordBatch;
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::{Input, ab, rows, set};

/// What is done to a file of good records.
#[derive(Debug, Clone)]
enum Damage {
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Delete(prop::sample::Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<prop::sample::Index>;
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\"\\{}[],:\n\r'0x#".to_vec())];
    prop_oneof![
        (place(), byte.clone()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        (place(), prop::collection::vec(byte, 1..6)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (place(), 1_usize..40).prop_map(|(at, count)| Damage::Delete(at, count)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    match damage {
        Damage::Replace(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Damage::Insert(at, inserted) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, inserted.iter().copied());
        }
        Damage::Delete(at, count) => {
            let at = at.index(bytes.len());
            bytes.drain(at..(at + count).min(bytes.len()));
        }
    }
}

fn json_file(values: &[(Option<i64>, String)]) -> Vec<u8> {
    let line = |(a, b): &(Option<i64>, String)| format!("{}\n", serde_json::json!({"a": a, "b": b}));
    values.iter().map(line).collect::<String>().into_bytes()
}

fn csv_file(values: &[(Option<i64>, String)]) -> Vec<u8> {
    let line = |(a, b): &(Option<i64>, String)| {
        let a = a.map(|a| a.to_string()).unwrap_or_default();
        format!("{a},\"{}\"\r\n", b.replace('"', "\"\"").replace(['\n', '\r'], " "))
    };
    values.iter().map(line).collect::<String>().into_bytes()
}

/// The rows of the lines that `read` finds to be one row each, given nothing else.
fn line_by_line(bytes: &[u8], read: impl Fn(&[u8]) -> Option<String>) -> Vec<String> {
    let mark = b"\xef\xbb\xbf";
    let bytes = bytes.strip_prefix(mark).unwrap_or(bytes);
    let mut rows: Vec<String> = bytes.split(|byte| *byte == b'\n').filter_map(read).collect();
    rows.sort();
    rows
}

/// The row of a line of JSON, by serde's parser: each column is the field of its name, or else the only one
/// whose name differs in case.
pub(super) fn read_json(line: &[u8]) -> Option<String> {
    let object: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(line).ok()?;
    let field = |name: &str| {
        if let Some(value) = object.get(name) {
            return Some(value.get());
        }
        let mut alike = object.iter().filter(|(key, _)| key.to_lowercase() == name);
        let value = alike.next().map_or("null", |(_, value)| value.get());
        if alike.next().is_some() { None } else { Some(value) }
    };
    let text = |raw: &str| serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_string());
    let a = match field("a")? {
        "null" => "-".to_string(),
        raw => whole(&text(raw))?.to_string(),
    };
    let b = match field("b")? {
        "null" => "-".to_string(),
        raw => text(raw),
    };
    Some(format!("{a}|{b}"))
}

/// A whole number, with nothing but zeros behind the point once the exponent has moved it.
fn whole(text: &str) -> Option<i64> {
    if let Ok(value) = text.parse() {
        return Some(value);
    }
    text.parse::<f64>().ok().filter(|_| text.ends_with(|last: char| last.is_ascii_digit()))?;
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: i64 = exponent.parse().ok()?;
    let mut digits = format!("{whole}{fraction}");
    let shift = exponent - fraction.len() as i64;
    if digits.trim_start_matches('-').bytes().all(|digit| digit == b'0') {
        return Some(0);
    }
    for _ in 0..shift.min(40) {
        digits.push('0');
    }
    for _ in 0..(-shift).clamp(0, 400) {
        digits = digits.strip_suffix('0')?.to_string();
    }
    digits.parse().ok()
}

pub(super) fn read_csv(line: &[u8]) -> Option<String> {
    // Alone, a line with an open quote would end with the file.
    let line = [line, b"\n1,end\n"].concat();
    let mut reader = csv::ReaderBuilder::new(ab()).with_header(false).build(line.as_slice()).ok()?;
    let rows = reader.next()?.ok()?;
    let last = super::rows(&[rows.slice(rows.num_rows() - 1, 1)]);
    let is_one = rows.num_rows() == 2 && last == ["1|end"] && reader.next().is_none();
    is_one.then(|| super::rows(&[rows.slice(0, 1)]).remove(0))
}

async fn dropped(format: &str, bytes: &[u8], batch_size: usize, partitions: usize) -> Vec<String> {
    let lines = [("header", "false"), ("multiLine", "false")];
    let options = if format == "csv" { &lines[..] } else { &[] };
    dropped_of(format, options, bytes, batch_size, partitions).await
}

async fn dropped_of(
    format: &str,
    options: &[(&str, &str)],
    bytes: &[u8],
    batch_size: usize,
    partitions: usize,
) -> Vec<String> {
    let input = Input::new();
    set(&input.session, "datafusion.execution.batch_size", &batch_size.to_string());
    set(&input.session, "datafusion.optimizer.repartition_file_min_size", "1");
    input.write("f", 1, bytes);
    let options = [options, &[("mode", "DROPMALFORMED")]].concat();
    let reader = input.source(format, &ab(), &options).await;
    let batch = reader.plan().await;
    reader.read_with(&batch, None, partitions).await.unwrap()
}

fn quoted_csv_file(values: &[(Option<i64>, String)]) -> Vec<u8> {
    let line = |(a, b): &(Option<i64>, String)| {
        let a = a.map(|a| a.to_string()).unwrap_or_default();
        format!("{a},\"{}\"\r\n", b.replace('"', "\"\""))
    };
    values.iter().map(line).collect::<String>().into_bytes()
}

async fn strictly(format: &str, bytes: &[u8], batch_size: usize) -> Option<Vec<String>> {
    let input = Input::new();
    set(&input.session, "datafusion.execution.batch_size", &batch_size.to_string());
    input.write("f", 1, bytes);
    let options: &[(&str, &str)] = if format == "csv" { &[("header", "false")] } else { &[] };
    input.source(format, &ab(), options).await.all().await.ok()
}

/// All rows, if every line that is not blank is one.
fn all_json(bytes: &[u8]) -> Option<Vec<String>> {
    let lines = bytes.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.iter().all(|byte| b" \t\r".contains(byte)));
    let mut rows = lines.map(read_json).collect::<Option<Vec<_>>>()?;
    rows.sort();
    Some(rows)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn dropping_malformed_records_is_reading_line_by_line(
        values in prop::collection::vec((any::<Option<i64>>(), "[ -~äß\u{1F600}\n]{0,20}"), 0..40),
        damages in prop::collection::vec(damage(), 0..12),
        batch_size in 1_usize..20,
        partitions in 1_usize..5,
    ) {
        for format in ["json", "csv"] {
            let mut bytes = if format == "json" { json_file(&values) } else { csv_file(&values) };
            damages.iter().for_each(|damage| apply(&mut bytes, damage));
            let naive = match format {
                "json" => line_by_line(&bytes, read_json),
                _ => line_by_line(&bytes, read_csv),
            };
            let read = block_on(dropped(format, &bytes, batch_size, partitions));
            prop_assert_eq!(&read, &naive, "{}: {:?}", format, String::from_utf8_lossy(&bytes));
        }
    }

    /// Where a file is cut whose values hold line breaks, nothing is lost and nothing comes twice, however damaged
    /// it is.
    #[test]
    fn parts_of_a_file_have_the_rows_of_the_whole(
        values in prop::collection::vec((any::<Option<i64>>(), "[ -~äß\n\r]{0,20}"), 0..40),
        damages in prop::collection::vec(damage(), 0..8),
        escape in any::<bool>(),
        batch_size in 1_usize..20,
        partitions in 2_usize..9,
    ) {
        let mut bytes = quoted_csv_file(&values);
        damages.iter().for_each(|damage| apply(&mut bytes, damage));
        let options = [("header", "false"), ("escape", "\\")];
        let options = if escape { &options[..] } else { &options[..1] };
        let whole = block_on(dropped_of("csv", options, &bytes, batch_size, 1));
        let parts = block_on(dropped_of("csv", options, &bytes, batch_size, partitions));
        prop_assert_eq!(whole, parts, "{:?}", String::from_utf8_lossy(&bytes));
    }

    /// In FAILFAST mode, what can be read is what others read, and what they cannot read is an error.
    /// (Arrow also reads a value whose quote is never closed.)
    #[test]
    fn what_is_read_is_what_others_read(
        values in prop::collection::vec((any::<Option<i64>>(), "[ -~äß\n]{0,20}"), 0..40),
        damages in prop::collection::vec(damage(), 0..3),
        batch_size in 1_usize..20,
    ) {
        for format in ["json", "csv"] {
            let mut bytes = if format == "json" { json_file(&values) } else { quoted_csv_file(&values) };
            damages.iter().for_each(|damage| apply(&mut bytes, damage));
            if bytes.starts_with(b"\xef\xbb\xbf") {
                continue;
            }
            let theirs: Option<Vec<String>> = match format {
                "json" => all_json(&bytes),
                _ => {
                    let reader = csv::ReaderBuilder::new(ab()).build(bytes.as_slice()).unwrap();
                    reader.collect::<Result<Vec<RecordBatch>, _>>().ok().map(|batches| rows(&batches))
                }
            };
            let mine = block_on(strictly(format, &bytes, batch_size));
            match (mine, theirs) {
                (Some(mine), Some(theirs)) => prop_assert_eq!(mine, theirs),
                (Some(mine), None) => prop_assert!(false, "{} {:?}: {:?}", format, String::from_utf8_lossy(&bytes), mine),
                (None, Some(_)) => prop_assert!(format == "csv" && !damages.is_empty()),
                (None, None) => {}
            }
        }
    }
}
