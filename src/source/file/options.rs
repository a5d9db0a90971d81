//! The options of the file source, with Spark's names and meaning.

use std::collections::BTreeMap;
use std::time::Duration;

use datafusion::arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;

use crate::error::{Error, Result};
use crate::options::Options;

/// Options of every format.
pub(super) const COMMON: &[&str] = &[
    "maxFilesPerTrigger",
    "maxBytesPerTrigger",
    "latestFirst",
    "maxFileAge",
    "maxCachedFiles",
    "discardCachedInputRatio",
    "fileNameOnly",
    "pathGlobFilter",
    "recursiveFileLookup",
    "cleanSource",
    "sourceArchiveDir",
    "ignoreMissingFiles",
    "ignoreCorruptFiles",
    "includeMetadata",
    "changedFiles",
    "minFileAge",
    "allowMissingPath",
    "modifiedAfter",
    "modifiedBefore",
    "startingFrom",
];

/// Options of the formats whose files say which columns they have.
pub(super) const COLUMNS: &[&str] = &["schemaEvolution"];

/// Options that say what becomes of malformed records.
pub(super) const RECORDS: &[&str] = &["mode", "columnNameOfCorruptRecord", "badRecordsPath"];

const DEFAULT_MAX_FILE_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const DEFAULT_MIN_FILE_AGE: Duration = Duration::from_secs(2);
const DEFAULT_DISCARD_RATIO: f64 = 0.2;
const CORRUPT_RECORD: &str = "_corrupt_record";

/// What happens to records that do not fit the schema (`mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ParseMode {
    /// The query fails.
    #[default]
    FailFast,
    /// What does not parse is null; the record's text goes to the corrupt-record column.
    Permissive,
    /// They are left out, and counted.
    DropMalformed,
}

/// What happens about a file that is not any more what it was when it was read (`changedFiles`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ChangedFiles {
    /// It is named in a warning, and counted.
    #[default]
    Warn,
    /// The query fails.
    Fail,
    /// It is read again, as a new file.
    Read,
}

/// What happens about columns of files that the table does not have (`schemaEvolution`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evolution {
    /// Nothing.
    None,
    /// They are named in a warning.
    Warn,
    /// The table gets them.
    AddNewColumns,
    /// Their values are gathered in one column of text.
    Rescue,
}

/// What happens to files once their rows are durable in the sink (`cleanSource`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum CleanSource {
    /// Nothing.
    #[default]
    Off,
    /// They are moved below this path or URL.
    Archive(String),
    /// They are deleted.
    Delete,
}

/// Which files are read at all, by when they were modified (`modifiedAfter`, `modifiedBefore`,
/// `startingFrom`); both ends excluded, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ModifiedWindow {
    pub(super) after_ms: Option<i64>,
    pub(super) before_ms: Option<i64>,
    /// Files that are there at the first start are passed over (`startingFrom latest`).
    pub(super) from_latest: bool,
}

impl ModifiedWindow {
    fn parse(options: &Options) -> Result<Self> {
        let from_latest = match options.get("startingFrom") {
            None => false,
            Some(value) if value.eq_ignore_ascii_case("earliest") => false,
            Some(value) if value.eq_ignore_ascii_case("latest") => true,
            Some(value) => {
                return Err(Error::option("startingFrom", value, "expected earliest or latest"));
            }
        };
        let after_ms = moment(options, "modifiedAfter")?;
        let before_ms = moment(options, "modifiedBefore")?;
        Ok(Self { after_ms, before_ms, from_latest })
    }

    /// Whether a file of this time is read.
    pub(super) fn contains(&self, modified_ms: i64) -> bool {
        self.after_ms.is_none_or(|after| modified_ms > after)
            && self.before_ms.is_none_or(|before| modified_ms < before)
    }
}

/// A moment, in milliseconds since 1970; without a zone it is in UTC.
fn moment(options: &Options, name: &str) -> Result<Option<i64>> {
    let Some(text) = options.get(name) else { return Ok(None) };
    string_to_timestamp_nanos(text).map(|nanos| Some(nanos.div_euclid(1_000_000))).map_err(|_| {
        Error::option(name, text, "expected a time such as 2026-01-31T12:00:00 or 2026-01-31T12:00:00+02:00")
    })
}

/// The options of the file source that do not depend on the format.
#[derive(Debug, Clone)]
pub(super) struct SourceOptions {
    pub(super) max_files: Option<u64>,
    pub(super) max_bytes: Option<u64>,
    pub(super) latest_first: bool,
    /// In milliseconds; `None` if age does not matter.
    pub(super) max_file_age_ms: Option<i64>,
    /// How many unread files of a listing are kept at most.
    pub(super) max_cached_files: usize,
    /// Fewer kept files than this share of a batch are not worth keeping.
    pub(super) discard_ratio: f64,
    pub(super) file_name_only: bool,
    pub(super) path_glob_filter: Option<String>,
    pub(super) recursive: bool,
    pub(super) clean_source: CleanSource,
    pub(super) ignore_missing_files: bool,
    pub(super) ignore_corrupt_files: bool,
    pub(super) include_metadata: bool,
    pub(super) changed_files: ChangedFiles,
    /// How long a file must have stayed as it is that may still be being written.
    pub(super) min_file_age: Duration,
    /// Whether the path may come into being later.
    pub(super) allow_missing_path: bool,
    pub(super) window: ModifiedWindow,
    pub(super) mode: ParseMode,
    pub(super) corrupt_record_column: String,
    pub(super) bad_records_path: Option<String>,
    /// `None` if that depends on whether the columns were given.
    pub(super) evolution: Option<Evolution>,
}

impl SourceOptions {
    /// Reads the options, all of whose names are known already.
    pub(super) fn parse(options: &Options) -> Result<Self> {
        let max_files = options.positive("maxFilesPerTrigger")?;
        let max_bytes = options.bytes("maxBytesPerTrigger")?;
        if max_bytes == Some(0) {
            return Err(Error::option("maxBytesPerTrigger", 0, "expected at least one byte"));
        }
        if let (Some(files), Some(_)) = (max_files, max_bytes) {
            return Err(Error::option(
                "maxFilesPerTrigger",
                files,
                "it cannot be used together with maxBytesPerTrigger. Set one of them",
            ));
        }
        let latest_first = options.flag("latestFirst", false)?;
        let max_file_age = options.duration("maxFileAge")?.unwrap_or(DEFAULT_MAX_FILE_AGE);
        // The newest file comes first, so all others would soon be too old to be read at all.
        let ageless = latest_first && (max_files.is_some() || max_bytes.is_some());
        Ok(Self {
            max_files,
            max_bytes,
            latest_first,
            max_file_age_ms: (!ageless).then(|| i64::try_from(max_file_age.as_millis()).unwrap_or(i64::MAX)),
            max_cached_files: options.parse("maxCachedFiles", "a whole number")?.unwrap_or(usize::MAX),
            discard_ratio: discard_ratio(options)?,
            file_name_only: options.flag("fileNameOnly", false)?,
            path_glob_filter: options.get("pathGlobFilter").map(str::to_string),
            recursive: options.flag("recursiveFileLookup", false)?,
            clean_source: clean_source(options)?,
            ignore_missing_files: options.flag("ignoreMissingFiles", false)?,
            ignore_corrupt_files: options.flag("ignoreCorruptFiles", false)?,
            include_metadata: options.flag("includeMetadata", false)?,
            changed_files: changed_files(options)?,
            min_file_age: options.duration("minFileAge")?.unwrap_or(DEFAULT_MIN_FILE_AGE),
            allow_missing_path: options.flag("allowMissingPath", false)?,
            window: ModifiedWindow::parse(options)?,
            mode: mode(options)?,
            corrupt_record_column: options
                .get("columnNameOfCorruptRecord")
                .unwrap_or(CORRUPT_RECORD)
                .to_string(),
            bad_records_path: options.get("badRecordsPath").map(str::to_string),
            evolution: evolution(options)?,
        })
    }
}

impl SourceOptions {
    /// Those that decide what the rows are, as far as they are not what they are by default: a restart
    /// must find them unchanged. Where malformed records go may change, but not whether they do.
    pub(super) fn row_options(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mode = match self.mode {
            ParseMode::FailFast => None,
            ParseMode::Permissive => Some("PERMISSIVE"),
            ParseMode::DropMalformed => Some("DROPMALFORMED"),
        };
        if let Some(mode) = mode {
            found.insert("mode".to_string(), mode.to_string());
        }
        if self.mode == ParseMode::Permissive && self.corrupt_record_column != CORRUPT_RECORD {
            found.insert("columnNameOfCorruptRecord".to_string(), self.corrupt_record_column.clone());
        }
        if self.bad_records_path.is_some() {
            found.insert("badRecordsPath".to_string(), "in use".to_string());
        }
        found
    }
}

fn mode(options: &Options) -> Result<ParseMode> {
    let Some(mode) = options.get("mode") else { return Ok(ParseMode::default()) };
    let parsed = match mode.to_ascii_uppercase().as_str() {
        "FAILFAST" => ParseMode::FailFast,
        "PERMISSIVE" => ParseMode::Permissive,
        "DROPMALFORMED" => ParseMode::DropMalformed,
        _ => return Err(Error::option("mode", mode, "expected FAILFAST, PERMISSIVE or DROPMALFORMED")),
    };
    if options.get("badRecordsPath").is_some() {
        return Err(Error::option(
            "mode",
            mode,
            "it cannot be used together with badRecordsPath, which leaves malformed records out and writes \
             them there. Set one of them",
        ));
    }
    Ok(parsed)
}

fn changed_files(options: &Options) -> Result<ChangedFiles> {
    let Some(value) = options.get("changedFiles") else {
        // What was read is gone from the directory then, so whatever is there is new.
        let cleaned = clean_source(options)? != CleanSource::Off;
        return Ok(if cleaned { ChangedFiles::Read } else { ChangedFiles::Warn });
    };
    match value.to_ascii_lowercase().as_str() {
        "warn" => Ok(ChangedFiles::Warn),
        "fail" => Ok(ChangedFiles::Fail),
        "read" => Ok(ChangedFiles::Read),
        _ => Err(Error::option("changedFiles", value, "expected warn, fail or read")),
    }
}

fn evolution(options: &Options) -> Result<Option<Evolution>> {
    let Some(value) = options.get("schemaEvolution") else { return Ok(None) };
    match value.to_ascii_lowercase().as_str() {
        "none" => Ok(Some(Evolution::None)),
        "warn" => Ok(Some(Evolution::Warn)),
        "addnewcolumns" => Ok(Some(Evolution::AddNewColumns)),
        "rescue" => Ok(Some(Evolution::Rescue)),
        _ => Err(Error::option("schemaEvolution", value, "expected none, warn, addNewColumns or rescue")),
    }
}

fn clean_source(options: &Options) -> Result<CleanSource> {
    let archive = options.get("sourceArchiveDir");
    let clean = options.get("cleanSource").unwrap_or("off");
    match (clean.to_ascii_lowercase().as_str(), archive) {
        ("archive", Some(archive)) => Ok(CleanSource::Archive(archive.to_string())),
        ("archive", None) => Err(Error::option(
            "cleanSource",
            clean,
            "it needs sourceArchiveDir, the directory to move files to",
        )),
        ("off", None) => Ok(CleanSource::Off),
        ("delete", None) => Ok(CleanSource::Delete),
        ("off" | "delete", Some(archive)) => Err(Error::option(
            "sourceArchiveDir",
            archive,
            "it has a meaning only with cleanSource 'archive'",
        )),
        _ => Err(Error::option("cleanSource", clean, "expected archive, delete or off")),
    }
}

fn discard_ratio(options: &Options) -> Result<f64> {
    const EXPECTED: &str = "a number from 0 to 1";
    let ratio = options.parse("discardCachedInputRatio", EXPECTED)?.unwrap_or(DEFAULT_DISCARD_RATIO);
    if (0.0..=1.0).contains(&ratio) {
        Ok(ratio)
    } else {
        Err(Error::option("discardCachedInputRatio", ratio, format!("expected {EXPECTED}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<SourceOptions> {
        SourceOptions::parse(&options.iter().copied().collect())
    }

    #[test]
    fn defaults_are_sparks() {
        let options = parse(&[]).unwrap();
        assert_eq!(options.max_file_age_ms, Some(7 * 86_400_000));
        assert_eq!(options.mode, ParseMode::FailFast);
        assert_eq!(options.corrupt_record_column, "_corrupt_record");
        assert_eq!(options.clean_source, CleanSource::Off);
    }

    #[test]
    fn files_that_are_cleaned_up_may_come_again() {
        let changed = |options: &[_]| parse(options).unwrap().changed_files;
        assert_eq!(changed(&[]), ChangedFiles::Warn);
        assert_eq!(changed(&[("cleanSource", "delete")]), ChangedFiles::Read);
        assert_eq!(changed(&[("cleanSource", "delete"), ("changedFiles", "Fail")]), ChangedFiles::Fail);
    }

    #[test]
    fn times_of_modification() {
        let window = |options: &[_]| parse(options).unwrap().window;
        let after =
            window(&[("modifiedAfter", "1970-01-01T00:00:01"), ("modifiedBefore", "1970-01-01 00:00:03Z")]);
        assert_eq!([1000, 1001, 2999, 3000].map(|ms| after.contains(ms)), [false, true, true, false]);
        assert!(window(&[("startingFrom", "LATEST")]).from_latest);
    }

    #[test]
    fn age_does_not_matter_when_the_newest_come_first_in_small_steps() {
        assert!(parse(&[("latestFirst", "true")]).unwrap().max_file_age_ms.is_some());
        let limited = [("latestFirst", "true"), ("maxFilesPerTrigger", "1"), ("maxFileAge", "1d")];
        assert_eq!(parse(&limited).unwrap().max_file_age_ms, None);
    }

    #[test]
    fn contradictions_and_wrong_values_are_refused() {
        for (options, part) in [
            (&[("maxFilesPerTrigger", "1"), ("maxBytesPerTrigger", "1k")][..], "together"),
            (&[("maxFilesPerTrigger", "0")], "at least 1"),
            (&[("maxBytesPerTrigger", "0")], "at least one byte"),
            (&[("cleanSource", "archive")], "sourceArchiveDir"),
            (&[("cleanSource", "move")], "archive, delete or off"),
            (&[("sourceArchiveDir", "x")], "only with"),
            (&[("mode", "LAX")], "FAILFAST, PERMISSIVE"),
            (&[("mode", "PERMISSIVE"), ("badRecordsPath", "x")], "together"),
            (&[("discardCachedInputRatio", "2")], "from 0 to 1"),
            (&[("maxFileAge", "7")], "length of time"),
            (&[("changedFiles", "ignore")], "warn, fail or read"),
            (&[("modifiedAfter", "yesterday")], "expected a time such as"),
            (&[("startingFrom", "now")], "earliest or latest"),
            (&[("schemaEvolution", "failOnNewColumns")], "none, warn, addNewColumns or rescue"),
        ] {
            let error = parse(options).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
