//! File formats and their options, in DataFusion's spelling and in Spark's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::datatypes::TimeUnit;
use datafusion::catalog::Session;
use datafusion::common::config::{
    ConfigFileType, CsvOptions, JsonOptions, TableOptions, TableParquetOptions,
};
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;

use encoding_rs::{Encoding, UTF_8};

use super::foreign::instead_of;
use super::options::{COLUMNS, COMMON, RECORDS};
use super::parquet::CheckedFormat;
use super::records::csv::CsvDialect;
use super::values::{Pattern, ValueRules};
use crate::error::{Error, Result};
use crate::options::{Options, nearest};

/// The formats' names.
pub(super) const NAMES: &[&str] = &[
    "json",
    "csv",
    "parquet",
    "text",
    "arrow",
    #[cfg(feature = "avro")]
    "avro",
];

/// A format with everything that decides how its files are read.
#[derive(Debug, Clone)]
pub(super) enum Format {
    /// One JSON object per line.
    Json(JsonOptions),
    /// One JSON array of objects, or one object, per file.
    JsonDocument(JsonOptions),
    /// Comma-separated values.
    Csv(Box<CsvOptions>, Arc<CsvDialect>),
    /// Lines.
    Text,
    /// Parquet.
    Parquet(Box<TableParquetOptions>),
    /// Arrow IPC, files and streams.
    Arrow,
    /// Avro object container files.
    #[cfg(feature = "avro")]
    Avro,
}

/// What [`FormatSpec::parse`] makes of a format's name and the options given for it.
#[derive(Debug, Clone)]
pub(super) struct FormatSpec {
    /// The format's name.
    pub(super) name: &'static str,
    /// How to read it.
    pub(super) format: Format,
    /// How files are compressed; `None`: as their names say.
    pub(super) compression: Option<FileCompressionType>,
    /// How text is written; `None` is UTF-8.
    pub(super) encoding: Option<&'static Encoding>,
    /// How values are read.
    pub(super) values: ValueRules,
    /// The options that decide what the rows are, by lower-case name.
    pub(super) row_options: BTreeMap<String, String>,
}

impl FormatSpec {
    /// Takes the options of the format `name` out of `options`; the rest are the source's own. An
    /// option that neither knows is an error.
    pub(super) fn parse(name: &str, options: &Options, session: &dyn Session) -> Result<(Self, Options)> {
        let name = known_format(name)?;
        let mut table = session.default_table_options();
        if let Some(file_type) = config_type(name) {
            table.set_config_format(file_type);
        }
        let (source, given) = split(name, options, &table)?;
        let (mut compression, mut encoding) = (None, None);
        let mut row_options = BTreeMap::new();
        let mut values = ValueRules::default();
        let mut enforce = false;
        for (option, (key, value)) in &given {
            if key == COMPRESSION {
                compression = Some(parse_compression(option, value)?);
                row_options.insert("compression".into(), value.trim().to_ascii_lowercase());
                continue;
            }
            if key == ENCODING {
                encoding = Encoding::for_label(value.trim().as_bytes()).filter(|it| *it != UTF_8);
                let is_known = encoding.is_some() || Encoding::for_label(value.trim().as_bytes()).is_some();
                if !is_known {
                    let expected =
                        "expected the name of an encoding such as UTF-8, ISO-8859-1, windows-1252 or UTF-16";
                    return Err(Error::option(option, value, expected));
                }
                row_options.extend(encoding.map(|it| ("encoding".to_string(), it.name().to_lowercase())));
                continue;
            }
            if key == ENFORCE_SCHEMA {
                // It decides which files are refused, not what rows the others give.
                enforce = value.eq_ignore_ascii_case("true");
                continue;
            }
            if !set_value_rule(&mut values, option, key, value)? {
                let settings = HashMap::from([(key.clone(), value.clone())]);
                table.alter_with_string_hash_map(&settings).map_err(|error| {
                    let expected = match ONE_BYTE.contains(&key.as_str()) {
                        true => "one ASCII character".to_string(),
                        false => reason_of(&error.strip_backtrace()),
                    };
                    Error::option(option, value, format!("expected {expected}"))
                })?;
            }
            row_options.insert(key.clone(), value.clone());
        }
        if compression.is_some() && !matches!(name, "json" | "csv" | "text") {
            return Err(Error::Invalid(format!(
                "option 'compression' does not apply to {name} files, which say themselves how they are \
                 compressed. Leave it out"
            )));
        }
        let format = match name {
            "json" if table.json.newline_delimited => Format::Json(table.json),
            "json" => Format::JsonDocument(table.json),
            "csv" => {
                let dialect = CsvDialect::new(&table.csv, session.config_options(), enforce)?;
                Format::Csv(Box::new(table.csv), Arc::new(dialect))
            }
            "text" => Format::Text,
            "arrow" => Format::Arrow,
            #[cfg(feature = "avro")]
            "avro" => Format::Avro,
            _ => {
                // Times without a unit, which Spark writes by default. Nanoseconds do not reach all of its years.
                table.parquet.global.coerce_int96.get_or_insert_with(|| "us".into());
                Format::Parquet(Box::new(table.parquet))
            }
        };
        Ok((Self { name, format, compression, encoding, values, row_options }, source))
    }

    /// How the file named `name` is compressed.
    pub(super) fn compression_of(&self, name: &str) -> FileCompressionType {
        match &self.format {
            Format::Json(_) | Format::JsonDocument(_) | Format::Csv(..) | Format::Text => {
                self.compression.unwrap_or_else(|| compression_by_name(name))
            }
            _ => FileCompressionType::UNCOMPRESSED,
        }
    }

    /// DataFusion's format, to infer schemas with; `None` for text, whose schema is fixed, and for Arrow and Avro, which say it themselves.
    pub(super) fn datafusion(&self, compression: FileCompressionType) -> Option<Arc<dyn FileFormat>> {
        let variant: CompressionTypeVariant = compression.into();
        Some(match &self.format {
            Format::Json(options) | Format::JsonDocument(options) => {
                let options = JsonOptions { compression: variant, ..options.clone() };
                Arc::new(JsonFormat::default().with_options(options))
            }
            Format::Csv(options, _) => {
                let options = CsvOptions { compression: variant, ..options.as_ref().clone() };
                Arc::new(CsvFormat::default().with_options(options))
            }
            Format::Parquet(options) => {
                let format = ParquetFormat::default().with_options(options.as_ref().clone());
                Arc::new(CheckedFormat::new(format))
            }
            #[cfg(feature = "avro")]
            Format::Avro => return None,
            Format::Arrow | Format::Text => return None,
        })
    }

    /// What separates the fields of CSV files.
    pub(super) fn delimiter(&self) -> Option<u8> {
        match &self.format {
            Format::Csv(options, _) => Some(options.delimiter),
            _ => None,
        }
    }

    /// Whether CSV files have a header.
    pub(super) fn has_header(&self) -> bool {
        matches!(&self.format, Format::Csv(_, dialect) if dialect.has_header())
    }

    /// Whether the format consists of text records, read one by one.
    pub(super) fn is_records(&self) -> bool {
        matches!(self.format, Format::Json(_) | Format::JsonDocument(_) | Format::Csv(..) | Format::Text)
    }
}

const COMPRESSION: &str = "format.compression";
const ENCODING: &str = "encoding";
const ENFORCE_SCHEMA: &str = "enforceschema";

/// DataFusion's options that are one byte.
const ONE_BYTE: &[&str] =
    &["format.delimiter", "format.quote", "format.escape", "format.comment", "format.terminator"];

/// Options that say how values are read, in all formats that have types.
pub(super) const VALUES: &[&str] = &["timestampFormat", "dateFormat", "epochUnit"];

/// Whether `key` is an option that says how values are read.
fn set_value_rule(rules: &mut ValueRules, option: &str, key: &str, value: &str) -> Result<bool> {
    let pattern = || {
        Pattern::new(value).map(Some).map_err(|reason| {
            Error::option(option, value, format!("it is no pattern of Spark's for dates and times: {reason}"))
        })
    };
    match key {
        "timestampformat" => rules.timestamp_format = pattern()?,
        "dateformat" => rules.date_format = pattern()?,
        "epochunit" => {
            let unit = match value.to_ascii_lowercase().as_str() {
                "seconds" | "second" | "s" => TimeUnit::Second,
                "milliseconds" | "millisecond" | "millis" | "ms" => TimeUnit::Millisecond,
                "microseconds" | "microsecond" | "micros" | "us" => TimeUnit::Microsecond,
                "nanoseconds" | "nanosecond" | "nanos" | "ns" => TimeUnit::Nanosecond,
                _ => {
                    return Err(Error::option(
                        option,
                        value,
                        "expected seconds, milliseconds, microseconds or nanoseconds",
                    ));
                }
            };
            rules.epoch_unit = Some(unit);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn known_format(name: &str) -> Result<&'static str> {
    let lower = name.to_ascii_lowercase();
    NAMES.iter().find(|known| **known == lower).copied().ok_or_else(|| {
        Error::Invalid(format!(
            "'{name}' is no file format of this build. Known formats: {}",
            NAMES.join(", ")
        ))
    })
}

fn config_type(name: &str) -> Option<ConfigFileType> {
    match name {
        "json" => Some(ConfigFileType::JSON),
        "csv" => Some(ConfigFileType::CSV),
        "parquet" => Some(ConfigFileType::PARQUET),
        _ => None,
    }
}

/// Spark's names for DataFusion's options.
fn aliases(name: &str) -> &'static [(&'static str, &'static str)] {
    match name {
        "csv" => &[
            ("header", "has_header"),
            ("sep", "delimiter"),
            ("nullValue", "null_regex"),
            ("multiLine", "newlines_in_values"),
            ("lineSep", "terminator"),
            ("enforceSchema", "enforceSchema"),
            ("encoding", "encoding"),
            ("charset", "encoding"),
            ("codec", "compression"),
        ],
        "json" => &[
            ("multiLine", "newline_delimited"),
            ("encoding", "encoding"),
            ("charset", "encoding"),
            ("codec", "compression"),
        ],
        "text" => &[
            ("compression", "compression"),
            ("encoding", "encoding"),
            ("charset", "encoding"),
            ("codec", "compression"),
        ],
        _ => &[],
    }
}

/// DataFusion's options that say how text is written, and what may be meant by them.
const WITHOUT_EFFECT: [(&str, Option<&str>); 11] = [
    ("date_format", Some("dateFormat")),
    ("datetime_format", Some("timestampFormat")),
    ("timestamp_format", Some("timestampFormat")),
    ("timestamp_tz_format", Some("timestampFormat")),
    ("time_format", None),
    ("null_value", Some("nullValue")),
    ("quote_style", None),
    ("double_quote", None),
    ("ignore_leading_whitespace", None),
    ("ignore_trailing_whitespace", None),
    ("compression_level", None),
];

/// Fails if two options say the same thing, and not the same of it.
fn check_agree(given: &Given) -> Result<()> {
    let all = || given.iter().map(|(written, (key, value))| (written, key, value));
    let contradiction = all().find_map(|(option, key, value)| {
        let other = all()
            .find(|(other, its_key, its_value)| *other > option && *its_key == key && *its_value != value);
        other.map(|(other, ..)| (option, other))
    });
    match contradiction {
        Some((one, other)) => Err(Error::Invalid(format!(
            "options '{one}' and '{other}' mean the same and contradict one another: leave one out"
        ))),
        None => Ok(()),
    }
}

/// Whether DataFusion's option `name`, in lower case, says how text is written.
pub(super) fn is_for_writers(name: &str) -> bool {
    WITHOUT_EFFECT.iter().any(|(option, _)| *option == name)
}

/// By option as written: DataFusion's key and value.
type Given = BTreeMap<String, (String, String)>;

/// Tells the source's options from the format's.
fn split(format: &str, options: &Options, table: &TableOptions) -> Result<(Options, Given)> {
    let columns = if format == "text" { &[] } else { COLUMNS };
    let own: Vec<&str> = COMMON.iter().chain(columns).chain(RECORDS).copied().collect();
    // Without a format of its own, a table has the options of all formats.
    let keys: Vec<String> = match config_type(format) {
        Some(_) => table.entries().into_iter().map(|entry| entry.key.replacen("format.", "", 1)).collect(),
        None => Vec::new(),
    };
    let mut source = Options::default();
    let mut given = Given::new();
    for (written, value) in options.iter() {
        // DataFusion's SQL puts this prefix before every option that has none.
        let lower = written.to_ascii_lowercase();
        let bare = lower.strip_prefix("format.").unwrap_or(&lower);
        let values = VALUES.iter().filter(|_| format != "text").find(|name| name.eq_ignore_ascii_case(bare));
        let alias = aliases(format).iter().find(|(spark, _)| spark.eq_ignore_ascii_case(bare));
        if let Some(name) = own.iter().find(|name| name.eq_ignore_ascii_case(bare)) {
            source.set(*name, value);
        } else if let Some(name) = values {
            given.insert(written.to_string(), (name.to_ascii_lowercase(), value.to_string()));
        } else if let Some((_, key)) = alias {
            given.insert(written.to_string(), (table_key(key), from_spark(key, written, value)?));
        } else if let Some((_, meant)) = WITHOUT_EFFECT.iter().find(|(name, _)| *name == bare) {
            return Err(Error::UnknownOption {
                option: written.to_string(),
                context: format!("the {format} source (it says how files are written)"),
                suggestion: meant.map(str::to_string),
            });
        } else if keys.iter().any(|key| key == bare) || bare.contains("::") {
            given.insert(written.to_string(), (table_key(bare), literal(bare, value)));
        } else if let Some(instead) = instead_of(bare) {
            return Err(Error::Invalid(format!(
                "there is no option '{written}' of the {format} source: {instead}"
            )));
        } else {
            let known: Vec<&str> = own
                .iter()
                .copied()
                .chain(aliases(format).iter().map(|(spark, _)| *spark))
                .chain(VALUES.iter().filter(|_| format != "text").copied())
                .chain(keys.iter().map(String::as_str).filter(|key| !is_for_writers(key)))
                .collect();
            return Err(Error::UnknownOption {
                option: written.to_string(),
                context: format!("the {format} source"),
                suggestion: nearest(bare, &known).map(str::to_string),
            });
        }
    }
    check_agree(&given)?;
    Ok((source, given))
}

fn table_key(key: &str) -> String {
    match key.to_ascii_lowercase().as_str() {
        own @ (ENFORCE_SCHEMA | ENCODING) => own.into(),
        _ => format!("format.{key}"),
    }
}

/// Translates the value of an option that Spark spells differently; `key` is DataFusion's name.
fn from_spark(key: &str, written: &str, value: &str) -> Result<String> {
    let flag = || match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Error::option(written, value, "expected true or false")),
    };
    Ok(match key {
        // Spark takes an empty field for null whatever the option says.
        "null_regex" => format!("^(?:{})?$", regex::escape(value)),
        "has_header" | "newlines_in_values" | "enforceSchema" => flag()?.to_string(),
        "newline_delimited" => (!flag()?).to_string(),
        _ => literal(key, value),
    })
}

/// A value in DataFusion's own spelling; only `\t` and its kin need translating.
fn literal(key: &str, value: &str) -> String {
    match key {
        "delimiter" | "terminator" | "quote" | "escape" | "comment" => unescape(value),
        _ => value.to_string(),
    }
}

fn unescape(value: &str) -> String {
    match value {
        "\\t" => "\t".into(),
        "\\n" => "\n".into(),
        "\\r" => "\r".into(),
        "\\\\" => "\\".into(),
        other => other.into(),
    }
}

/// What CSV files look like that nobody has described: by option of [`FormatSpec::parse`].
pub(super) fn undescribed(options: &Options) -> Undescribed {
    let is_given = |names: &[&str]| {
        options.iter().any(|(name, _)| {
            let name = name.to_ascii_lowercase();
            names.contains(&name.strip_prefix("format.").unwrap_or(&name))
        })
    };
    Undescribed { delimiter: !is_given(&["sep", "delimiter"]), header: !is_given(&["header", "has_header"]) }
}

/// What nobody has said of CSV files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Undescribed {
    pub(super) delimiter: bool,
    pub(super) header: bool,
}

fn parse_compression(option: &str, value: &str) -> Result<FileCompressionType> {
    let spelled = if value.eq_ignore_ascii_case("none") { "uncompressed" } else { value };
    spelled
        .parse()
        .map_err(|_| Error::option(option, value, "expected gzip, bzip2, xz, zstd or uncompressed"))
}

fn compression_by_name(name: &str) -> FileCompressionType {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    match extension.as_str() {
        "gz" | "gzip" => FileCompressionType::GZIP,
        "bz2" => FileCompressionType::BZIP2,
        "xz" => FileCompressionType::XZ,
        "zst" => FileCompressionType::ZSTD,
        _ => FileCompressionType::UNCOMPRESSED,
    }
}

/// DataFusion's message without its own prefix.
fn reason_of(message: &str) -> String {
    let text = message.split_once(": ").map_or(message, |(_, text)| text);
    format!("a value that DataFusion takes: {text}")
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    fn parse(name: &str, options: &[(&str, &str)]) -> Result<(FormatSpec, Options)> {
        let options = options.iter().copied().collect();
        FormatSpec::parse(name, &options, &SessionContext::new().state())
    }

    fn csv(options: &[(&str, &str)]) -> CsvOptions {
        match parse("csv", options).unwrap().0.format {
            Format::Csv(options, _) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sparks_and_datafusions_spelling_mean_the_same() {
        for options in [
            &[("header", "false"), ("sep", "\\t"), ("quote", "'"), ("comment", "#")][..],
            &[("has_header", "false"), ("delimiter", "\t"), ("QUOTE", "'"), ("comment", "#")],
            &[
                ("format.has_header", "false"),
                ("format.delimiter", "\t"),
                ("format.quote", "'"),
                ("format.comment", "#"),
            ],
        ] {
            let parsed = csv(options);
            assert_eq!(parsed.has_header, Some(false));
            assert_eq!(
                (parsed.delimiter, parsed.quote, parsed.comment),
                (b'\t', b'\'', Some(b'#')),
                "{options:?}"
            );
        }
        assert_eq!(csv(&[("nullValue", "N/A.")]).null_regex.as_deref(), Some(r"^(?:N/A\.)?$"));
    }

    #[test]
    fn the_sources_options_are_told_from_the_formats() {
        let options = [("maxfilespertrigger", "2"), ("format.latestFirst", "true"), ("header", "true")];
        let (spec, source) = parse("csv", &options).unwrap();
        assert_eq!(source.get("maxFilesPerTrigger"), Some("2"));
        assert_eq!(source.get("latestFirst"), Some("true"));
        assert_eq!(source.get("header"), None);
        assert_eq!(spec.row_options, BTreeMap::from([("format.has_header".into(), "true".into())]));
    }

    #[test]
    fn unknown_options_and_wrong_values_are_errors() {
        for (format, option, value, part) in [
            ("json", "maxFilesPerTriger", "1", "did you mean 'maxFilesPerTrigger'"),
            ("csv", "delimeter", ",", "did you mean 'delimiter'"),
            ("json", "header", "true", "unknown option 'header' for the json source"),
            ("parquet", "header", "true", "unknown option"),
            (
                "csv",
                "ignoreLeadingWhiteSpaces",
                "true",
                "unknown option 'ignoreLeadingWhiteSpaces' for the csv source",
            ),
            ("json", "cloudFiles.x", "true", "docs/options.md"),
            ("json", "mergeSchema", "true", "there is no option 'mergeSchema' of the json source: columns"),
            ("csv", "header", "yes", "expected true or false"),
            ("csv", "sep", "::", "option 'sep' = '::' is not valid: expected one ASCII character"),
            ("csv", "QUOTE", "»", "option 'QUOTE' = '»' is not valid: expected one ASCII character"),
            ("csv", "format.escape", "ab", "expected one ASCII character"),
            ("csv", "comment", "//", "expected one ASCII character"),
            ("csv", "lineSep", "ab", "expected one ASCII character"),
            ("csv", "compression", "lzo", "gzip, bzip2"),
            ("parquet", "compression", "gzip", "does not apply"),
            ("csv", "null_regex", "(", "null_regex"),
            ("orc", "header", "true", "no file format"),
        ] {
            let error = parse(format, &[(option, value)]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert!(!error.contains("whitespace'"), "what is refused itself is no suggestion: {error}");
        }
        let error = parse("csv", &[("sep", ";"), ("delimiter", ",")]).unwrap_err().to_string();
        assert!(error.contains("'delimiter' and 'sep' mean the same and contradict one another"), "{error}");
        assert!(parse("csv", &[("sep", "\\t"), ("delimiter", "\t")]).is_ok());
    }

    #[test]
    fn compression_by_option_or_name() {
        let (by_name, _) = parse("json", &[]).unwrap();
        for (name, expected) in [
            ("a.json.gz", FileCompressionType::GZIP),
            ("a.BZ2", FileCompressionType::BZIP2),
            ("a.xz", FileCompressionType::XZ),
            ("a.zst", FileCompressionType::ZSTD),
            ("gz", FileCompressionType::UNCOMPRESSED),
        ] {
            assert_eq!(by_name.compression_of(name), expected, "{name}");
        }
        let (by_option, _) = parse("text", &[("compression", "gzip")]).unwrap();
        assert_eq!(by_option.compression_of("a.json"), FileCompressionType::GZIP);
        let (none, _) = parse("csv", &[("compression", "none")]).unwrap();
        assert_eq!(none.compression_of("a.csv.gz"), FileCompressionType::UNCOMPRESSED);
    }

    #[test]
    fn json_documents() {
        assert!(matches!(parse("json", &[]).unwrap().0.format, Format::Json(_)));
        assert!(matches!(parse("json", &[("multiLine", "true")]).unwrap().0.format, Format::JsonDocument(_)));
        let own = [("format.newline_delimited", "false")];
        assert!(matches!(parse("json", &own).unwrap().0.format, Format::JsonDocument(_)));
    }
}
