//! Which format files are in, by their names.

use std::path::{Path, PathBuf};

/// Extensions and the formats they stand for.
const EXTENSIONS: [(&str, &str); 12] = [
    ("json", "json"),
    ("jsonl", "json"),
    ("ndjson", "json"),
    ("csv", "csv"),
    ("tsv", "csv"),
    ("parquet", "parquet"),
    ("txt", "text"),
    ("log", "text"),
    ("text", "text"),
    ("arrow", "arrow"),
    ("arrows", "arrow"),
    ("avro", "avro"),
];
const COMPRESSIONS: [&str; 5] = ["gz", "bz2", "xz", "zst", "zstd"];
/// How deep below a directory a file is looked for: partitions are directories.
const LOOK_DEPTH: usize = 4;

/// The format that the extension of `location` stands for (`csv` for `a/b.csv.gz`), or if it is a local
/// directory that of its first file, by name, that is not hidden.
///
/// ```
/// assert_eq!(tidemill::guess_format("in/2026-01-01.jsonl.gz"), Some("json"));
/// assert_eq!(tidemill::guess_format("nowhere"), None);
/// ```
pub fn guess_format(location: &str) -> Option<&'static str> {
    let path = Path::new(location);
    format_of(path).or_else(|| first_file(path, LOOK_DEPTH).and_then(|file| format_of(&file)))
}

/// The format that the extension of `path` stands for, below one of a compression.
fn format_of(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    if COMPRESSIONS.contains(&extension.as_str()) {
        return format_of(Path::new(path.file_stem()?));
    }
    EXTENSIONS.iter().find(|(known, _)| *known == extension).map(|(_, format)| *format)
}

/// The first file below `directory` that is not hidden, by name.
fn first_file(directory: &Path, depth: usize) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(directory).ok()?.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    entries.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| !name.starts_with(['.', '_']))
    });
    entries.sort();
    let (files, directories): (Vec<PathBuf>, Vec<PathBuf>) =
        entries.into_iter().partition(|path| path.is_file());
    let deeper = || directories.iter().find_map(|path| first_file(path, depth.checked_sub(1)?));
    files.into_iter().next().or_else(deeper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_tell_the_format() {
        for (path, format) in [
            ("a/b.json", Some("json")),
            ("a/b.JSONL.gz", Some("json")),
            ("data/*.csv", Some("csv")),
            ("access.log", Some("text")),
            ("a/b", None),
            ("a.gz", None),
            ("a.b/c", None),
        ] {
            assert_eq!(format_of(Path::new(path)), format, "{path}");
        }
    }

    #[test]
    fn the_first_file_of_a_directory_tells_the_format() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(first_file(folder.path(), 1), None);
        std::fs::create_dir_all(folder.path().join("day=1")).unwrap();
        for name in ["_SUCCESS", ".hidden.json", "day=1/a.csv"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(first_file(folder.path(), 1), Some(folder.path().join("day=1/a.csv")));
        assert_eq!(first_file(folder.path(), 0), None);
        assert_eq!(guess_format(folder.path().to_str().unwrap()), Some("csv"));
    }
}
