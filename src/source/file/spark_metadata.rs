//! The log that Spark's file sink keeps in `_spark_metadata`: which files are finished.
//!
//! Files that are not in the log are left-overs of failed tasks, so a directory that has a log is
//! read through it.

use std::collections::BTreeMap;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Deserialize;
use url::Url;

use super::location::FileLocation;
use super::partitions::partition_directory;
use super::pattern::SPARK_LOG;
use super::queue::UnreadFile;
use crate::error::{Error, Result};

/// One line of the log (Spark's `SinkFileStatus`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SinkFile {
    path: String,
    size: u64,
    modification_time: i64,
    #[serde(default)]
    is_dir: bool,
    action: String,
}

/// Reads the log whose files are called `names`: `7`, `19.compact`, ….
pub(super) async fn read(
    store: &dyn ObjectStore,
    location: &FileLocation,
    names: &[String],
) -> Result<Vec<UnreadFile>> {
    let mut files = BTreeMap::new();
    for name in current(names) {
        let log = location.object_path(&format!("{SPARK_LOG}/{name}"))?;
        let shown = location.display(&log);
        let bytes = match store.get(&log).await {
            Ok(result) => result.bytes().await,
            Err(error) => Err(error),
        };
        let bytes = bytes.map_err(|error| Error::storage("read", &shown, error))?;
        let damaged = |reason: String| Error::InputFile { file: shown.clone(), reason };
        let text = std::str::from_utf8(&bytes).map_err(|error| damaged(error.to_string()))?;
        apply(text, location, &mut files).map_err(damaged)?;
    }
    Ok(files.into_values().collect())
}

/// The newest compacted log file and those after it, in order; plain ones if none is compacted.
fn current(names: &[String]) -> Vec<&String> {
    let mut batches: Vec<(u64, bool, &String)> = names
        .iter()
        .filter_map(|name| {
            let (number, compact) = match name.strip_suffix(".compact") {
                Some(number) => (number, true),
                None => (name.as_str(), false),
            };
            number.parse().ok().map(|number| (number, compact, name))
        })
        .collect();
    batches.sort_unstable();
    let newest = batches.iter().rposition(|(_, compact, _)| *compact).unwrap_or(0);
    batches[newest..].iter().map(|(_, _, name)| *name).collect()
}

/// Applies one file of the log. The error says what is wrong with it.
fn apply(
    text: &str,
    location: &FileLocation,
    files: &mut BTreeMap<String, UnreadFile>,
) -> std::result::Result<(), String> {
    let mut lines = text.lines();
    match lines.next() {
        Some("v1") => {}
        other => return Err(format!("it is a log of version '{}', not v1", other.unwrap_or_default())),
    }
    for line in lines.filter(|line| !line.trim().is_empty()) {
        let file: SinkFile =
            serde_json::from_str(line).map_err(|error| format!("'{line}' is no entry of a log: {error}"))?;
        if file.is_dir {
            continue;
        }
        let path = below_base(&file.path, location)?;
        match file.action.as_str() {
            "add" => {
                let unread = UnreadFile {
                    path: path.as_str().into(),
                    size: file.size,
                    modified_ms: file.modification_time,
                    etag: None,
                    inode: None,
                    from_log: true,
                };
                files.insert(path, unread);
            }
            "delete" => {
                files.remove(&path);
            }
            other => return Err(format!("'{other}' is neither add nor delete")),
        }
    }
    Ok(())
}

/// The path below the base of a file whose absolute path is in the log. If the directory was moved
/// since, that is the file's name and the partition directories before it.
fn below_base(logged: &str, location: &FileLocation) -> std::result::Result<String, String> {
    let unusable = |error: &dyn std::fmt::Display| format!("'{logged}' is no path: {error}");
    let path = match Url::parse(logged) {
        Ok(url) => Path::from_url_path(url.path()).map_err(|error| unusable(&error))?,
        Err(_) => Path::parse(logged).map_err(|error| unusable(&error))?,
    };
    if let Some(path) = location.relative(&path) {
        return Ok(path.to_string());
    }
    let base = location.base().filename();
    let parts: Vec<&str> = path.as_ref().split('/').collect();
    let Some((name, directories)) = parts.split_last() else { return Err(unusable(&"it is empty")) };
    let partitions = directories
        .iter()
        .rev()
        .take_while(|directory| partition_directory(directory).is_some() && Some(**directory) != base)
        .count();
    let mut below: Vec<&str> = directories[directories.len() - partitions..].to_vec();
    below.push(name);
    Ok(below.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, action: &str) -> String {
        format!(
            r#"{{"path":"{path}","size":5,"isDir":false,"modificationTime":1000,"blockReplication":1,"blockSize":33554432,"action":"{action}"}}"#
        )
    }

    fn paths(texts: &[String], base: &str) -> std::result::Result<Vec<String>, String> {
        let location = FileLocation::parse(base).unwrap();
        let mut files = BTreeMap::new();
        for text in texts {
            apply(text, &location, &mut files)?;
        }
        Ok(files.into_keys().collect())
    }

    #[test]
    fn the_newest_compacted_file_and_those_after_it() {
        let names = ["0", "9.compact", "8", "10", "11", "junk", "2.compact", ".9.crc"].map(String::from);
        assert_eq!(current(&names), ["9.compact", "10", "11"]);
        let plain = ["10", "9", "0"].map(String::from);
        assert_eq!(current(&plain), ["0", "9", "10"]);
        assert!(current(&[]).is_empty());
    }

    #[test]
    fn adding_and_deleting() {
        let first = format!("v1\n{}\n{}", entry("s3://b/out/a", "add"), entry("s3://b/out/k=1/b", "add"));
        let second = format!("v1\n{}\n", entry("s3://b/out/a", "delete"));
        assert_eq!(paths(&[first.clone(), second], "s3://b/out/").unwrap(), ["k=1/b"]);
        assert!(paths(&["v2\n".into()], "s3://b/out/").unwrap_err().contains("v2"));
        assert!(paths(&["v1\n{}".into()], "s3://b/out/").is_err());
        assert!(paths(&[String::new()], "s3://b/out/").is_err());
    }

    #[test]
    fn moved_directories() {
        for (logged, base, expected) in [
            ("file:///old/out/part%200", "/new/place/", "part 0"),
            ("file:///old/out/y=1/m=2/p", "s3://b/out/", "y=1/m=2/p"),
            ("file:///old/y=1/m=2/p", "/new/y=1/", "m=2/p"),
            ("/new/out/x/p", "/new/out/", "x/p"),
        ] {
            let text = format!("v1\n{}", entry(logged, "add"));
            assert_eq!(paths(&[text], base).unwrap(), [expected], "{logged}");
        }
    }
}
