//! What a checkpoint says was read, from its files alone.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// The record in a checkpoint's file: the JSON between its first and its last line.
pub fn record(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap();
    let body = text.lines().nth(1).unwrap_or_else(|| panic!("{} has no body", path.display()));
    serde_json::from_str(body).unwrap()
}

/// The numbers that name the files of a checkpoint's directory, sorted.
pub fn numbers(directory: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut numbers: Vec<u64> = names.filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// The batches that are committed, sorted.
pub fn commits(checkpoint: &Path) -> Vec<u64> {
    numbers(&checkpoint.join("commits"))
}

/// The files that source `source` read in batch `batch`, as paths below the source's directory.
pub fn files_of(checkpoint: &Path, batch: u64, source: usize) -> Vec<String> {
    let offsets = record(&checkpoint.join(format!("offsets/{batch}")));
    let entries = offsets["sources"][source]["entries"].as_array().cloned().unwrap_or_default();
    entries.iter().filter_map(|entry| entry["p"].as_str().map(str::to_string)).collect()
}

/// All files that source `source` read in committed batches.
pub fn committed_files(checkpoint: &Path, source: usize) -> Vec<String> {
    commits(checkpoint).into_iter().flat_map(|batch| files_of(checkpoint, batch, source)).collect()
}
