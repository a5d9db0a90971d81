//! Which of the files below a base directory belong to the source. Pure.

use globset::{GlobBuilder, GlobMatcher};

use super::location::Selection;
use super::partitions::partition_directory;
use crate::error::{Error, Result};

/// The log that Spark's file sink keeps of the files it finished.
pub(super) const SPARK_LOG: &str = "_spark_metadata";

/// What is to be done with a listed file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is part of the source.
    Take,
    /// It is not.
    Skip,
    /// It is a file of the log of a Spark file sink, which says better than a listing which files
    /// are complete.
    SparkLog,
    /// It is, but its directories name a column more than the table has; says so.
    Deeper(String),
    /// It looks like input, but its directories do not fit the table; says how.
    Misplaced(String),
}

/// The rules, with Spark's meaning.
#[derive(Debug, Clone)]
pub(super) struct FilePattern {
    selection: Selection,
    glob: Option<GlobMatcher>,
    name: Option<GlobMatcher>,
    recursive: bool,
    partition_columns: Vec<String>,
}

impl FilePattern {
    /// `name_filter` is `pathGlobFilter`, `recursive` is `recursiveFileLookup`.
    pub(super) fn new(selection: &Selection, name_filter: Option<&str>, recursive: bool) -> Result<Self> {
        let glob = match selection {
            Selection::Glob(glob) => Some(matcher("path", glob)?),
            Selection::Directory | Selection::File(_) => None,
        };
        let name = name_filter.map(|filter| matcher("pathGlobFilter", filter)).transpose()?;
        Ok(Self { selection: selection.clone(), glob, name, recursive, partition_columns: Vec::new() })
    }

    /// The same rules for a table with these columns in its directories.
    pub(super) fn with_partition_columns(mut self, columns: Vec<String>) -> Self {
        self.partition_columns = columns;
        self
    }

    /// Judges the file at `path` below the base.
    pub(super) fn judge(&self, path: &str) -> Verdict {
        if let Selection::File(file) = &self.selection {
            // Named for itself, it may be called what it likes.
            return if path == file { Verdict::Take } else { Verdict::Skip };
        }
        if path.split('/').any(is_hidden) {
            let in_log = path.strip_prefix(SPARK_LOG).is_some_and(|rest| rest.starts_with('/'));
            let in_log = in_log && self.selection == Selection::Directory;
            return if in_log { Verdict::SparkLog } else { Verdict::Skip };
        }
        if !self.selects(path) {
            return Verdict::Skip;
        }
        if self.recursive {
            return Verdict::Take;
        }
        self.check_directories(path)
    }

    /// Whether the path is selected, whatever its partition directories are.
    pub(super) fn selects(&self, path: &str) -> bool {
        let (directories, name) = path.rsplit_once('/').unwrap_or(("", path));
        if let Selection::File(file) = &self.selection {
            return path == file;
        }
        if path.split('/').any(is_hidden) || self.name.as_ref().is_some_and(|filter| !filter.is_match(name)) {
            return false;
        }
        let below = match &self.glob {
            Some(glob) if glob.is_match(path) => return true,
            Some(glob) => match below_matching_directory(glob, directories) {
                Some(below) => below,
                None => return false,
            },
            None => directories,
        };
        self.recursive || below.is_empty() || below.split('/').all(|name| partition_directory(name).is_some())
    }

    /// Every `k=v` directory must be a partition column, and every partition column a directory.
    fn check_directories(&self, path: &str) -> Verdict {
        let directories = path.rsplit_once('/').map_or("", |(directories, _)| directories);
        let mut expected = self.partition_columns.iter();
        for (column, _) in directories.split('/').filter_map(partition_directory) {
            match expected.next() {
                Some(name) if *name == column => {}
                Some(name) => {
                    return Verdict::Misplaced(format!(
                        "its directory names the column '{column}' where the table has '{name}'"
                    ));
                }
                None => {
                    return Verdict::Deeper(format!(
                        "its directory names the column '{column}', which was not a partition column when \
                         the source started. Name it in PARTITIONED BY, or set recursiveFileLookup to true \
                         to take no columns from directories"
                    ));
                }
            }
        }
        match expected.next() {
            None => Verdict::Take,
            Some(name) => Verdict::Misplaced(format!(
                "it lies in no directory '{name}=…', which gives the partition column '{name}'. Put it into one, or set \
                 recursiveFileLookup to true to take no columns from directories"
            )),
        }
    }
}

/// The part of `directories` below the shallowest directory that `glob` matches.
fn below_matching_directory<'a>(glob: &GlobMatcher, directories: &'a str) -> Option<&'a str> {
    let ends = directories.match_indices('/').map(|(index, _)| index).chain([directories.len()]);
    ends.filter(|end| *end > 0)
        .find(|end| glob.is_match(&directories[..*end]))
        .map(|end| directories[end..].trim_start_matches('/'))
}

/// Whether nothing in a directory of this name is ever looked at.
pub(super) fn is_never_read(directory: &str) -> bool {
    is_hidden(directory) && directory != SPARK_LOG
}

/// Whether a directory of the source at `path` is passed over, with all below it.
pub(super) fn is_passed_over(path: &str) -> bool {
    path.split('/').any(is_hidden)
}

/// Spark's rule (`HadoopFSUtils.shouldFilterOutPathName`): `_x` and `.x` are not data, `_k=v` is,
/// and `x._COPYING_` is not finished.
fn is_hidden(name: &str) -> bool {
    (name.starts_with('_') && !name.contains('=')) || name.starts_with('.') || name.ends_with("._COPYING_")
}

fn matcher(option: &str, glob: &str) -> Result<GlobMatcher> {
    GlobBuilder::new(glob)
        .literal_separator(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| Error::option(option, glob, format!("it is no glob pattern: {}", error.kind())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(selection: Selection) -> FilePattern {
        FilePattern::new(&selection, None, false).unwrap()
    }

    #[test]
    fn a_directory_is_its_files_and_partition_directories() {
        let plain = pattern(Selection::Directory);
        for (path, verdict) in [
            ("a.json", Verdict::Take),
            ("sub/a.json", Verdict::Skip),
            (".hidden", Verdict::Skip),
            ("_tmp", Verdict::Skip),
            ("_tmp/a.json", Verdict::Skip),
            ("a.json._COPYING_", Verdict::Skip),
            ("_spark_metadata/0", Verdict::SparkLog),
            ("sub/_spark_metadata/0", Verdict::Skip),
        ] {
            assert_eq!(plain.judge(path), verdict, "{path}");
        }
        assert!(matches!(plain.judge("y=1/a.json"), Verdict::Deeper(_)));

        let by_year = plain.with_partition_columns(vec!["y".into(), "_m".into()]);
        for (path, taken) in [
            ("y=1/_m=2/a.json", true),
            ("y=1/a.json", false),
            ("a.json", false),
            ("y=1/_m=2/z=3/a.json", false),
            ("_m=2/y=1/a.json", false),
        ] {
            assert_eq!(by_year.judge(path) == Verdict::Take, taken, "{path}");
        }
        assert!(matches!(by_year.judge("y=1/_m=2/z=3/a.json"), Verdict::Deeper(_)));
        assert!(matches!(by_year.judge("_m=2/y=1/a.json"), Verdict::Misplaced(_)));
        assert_eq!(by_year.judge("y=1/plain/a.json"), Verdict::Skip);
    }

    #[test]
    fn globs_match_files_or_directories() {
        let glob = |text: &str| pattern(Selection::Glob(text.into()));
        let taken = |text: &str, path: &str| glob(text).judge(path) == Verdict::Take;
        assert!(taken("*.json", "a.json"));
        assert!(!taken("*.json", "a.csv"));
        assert!(!taken("*.json", "sub/a.json"));
        assert!(taken("*", "sub/a.json"), "a directory that matches is read");
        assert!(!taken("*", "sub/deeper/a.json"), "but not its subdirectories");
        assert!(taken("2024-{01,02}", "2024-02/x"));
        assert!(!taken("2024-{01,02}", "2024-03/x"));
        assert!(taken("s[ab]?/x.*", "sa1/x.json"));
        assert!(taken("**/x.json", "a/b/x.json"));
        let by_year = glob("y=20*").with_partition_columns(vec!["y".into()]);
        assert_eq!(by_year.judge("y=2024/a.json"), Verdict::Take);
        assert_eq!(by_year.judge("y=1999/a.json"), Verdict::Skip);
        assert!(FilePattern::new(&Selection::Glob("[a".into()), None, false).is_err());
    }

    #[test]
    fn name_filter_recursion_and_single_files() {
        let recursive = FilePattern::new(&Selection::Directory, Some("*.csv"), true).unwrap();
        for (path, taken) in [
            ("a.csv", true),
            ("sub/deep/b.csv", true),
            ("y=1/c.csv", true),
            ("sub/b.json", false),
            ("sub/_x/b.csv", false),
        ] {
            assert_eq!(recursive.judge(path) == Verdict::Take, taken, "{path}");
        }
        let file = pattern(Selection::File("_a.csv".into()));
        assert_eq!(file.judge("_a.csv"), Verdict::Take);
        assert_eq!(file.judge("b.csv"), Verdict::Skip);
    }
}
