//! The options of the file sink: Spark's names, and those of DataFusion's own writers.

use std::collections::{BTreeMap, HashMap};

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use datafusion::arrow::ipc::{CompressionType, MetadataVersion};
use datafusion::arrow::json;
use datafusion::common::config::{ConfigFileType, CsvOptions, TableOptions};
use datafusion::common::file_options::csv_writer::CsvWriterOptions;
use datafusion::common::file_options::parquet_writer::parse_compression_string;
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::execution::session_state::SessionState;

use super::encode::{Compression, FileEncoding, FormatEncoding, LineFormat, ParquetFormat};
use super::layout::Layout;
use super::{OutputFormat, sink_name};
use crate::error::{Error, Result, in_words};
use crate::options::Options;

/// Options of every format, besides `compression`.
const MAX_RECORDS: &str = "maxRecordsPerFile";
const TARGET_SIZE: &str = "targetFileSize";
const IGNORE_NULL_FIELDS: &str = "ignoreNullFields";

/// Spark's names for options of DataFusion's CSV writer, where they differ.
const CSV_ALIASES: [(&str, &str); 6] = [
    ("sep", "delimiter"),
    ("header", "has_header"),
    ("quoteAll", "quote_style"),
    ("nullValue", "null_value"),
    ("ignoreLeadingWhiteSpace", "ignore_leading_whitespace"),
    ("ignoreTrailingWhiteSpace", "ignore_trailing_whitespace"),
];

/// Options of DataFusion's Parquet writer that may be set for single columns, as `name::column`.
const PARQUET_COLUMN_OPTIONS: [&str; 7] = [
    "bloom_filter_enabled",
    "encoding",
    "dictionary_enabled",
    "compression",
    "statistics_enabled",
    "bloom_filter_fpp",
    "bloom_filter_ndv",
];

/// When a file is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// The most rows in a file.
    pub rows: Option<u64>,
    /// The size, in bytes, at which a file is closed.
    pub bytes: Option<u64>,
}

/// The limits in `options`.
pub(super) fn limits(options: &Options) -> Result<Limits> {
    let rows = options.parse::<i64>(MAX_RECORDS, "a whole number; 0 or less for no limit")?;
    let bytes = options.bytes(TARGET_SIZE)?;
    if bytes == Some(0) {
        return Err(Error::option(TARGET_SIZE, 0, "expected a size such as '128mb'"));
    }
    Ok(Limits { rows: rows.and_then(|rows| u64::try_from(rows).ok()).filter(|rows| *rows > 0), bytes })
}

/// How files of `format` with the file columns of `layout` are encoded under `options`, where the
/// session's settings are the defaults.
pub(super) fn encoding(
    format: OutputFormat,
    layout: &Layout,
    options: &Options,
    session: &SessionState,
) -> Result<FileEncoding> {
    let schema = layout.file_schema.clone();
    let table = |kind| table_options(format, kind, options, session);
    let format = match format {
        OutputFormat::Parquet => {
            let parquet = ParquetFormat::try_new(table(ConfigFileType::PARQUET)?.parquet, &schema)?;
            FormatEncoding::Parquet(Box::new(parquet))
        }
        OutputFormat::Csv => {
            let csv = table(ConfigFileType::CSV)?.csv;
            let compression = Compression::try_new(csv.compression, csv.compression_level)?;
            FormatEncoding::Lines(csv_format(csv, session)?, compression)
        }
        OutputFormat::Json => {
            let json = table(ConfigFileType::JSON)?.json;
            if !json.newline_delimited {
                let reason = "the json sink writes one object per line; leave it at true";
                return Err(Error::option("newline_delimited", false, reason));
            }
            let explicit_nulls = !options.flag(IGNORE_NULL_FIELDS, true)?;
            let builder = json::WriterBuilder::new().with_explicit_nulls(explicit_nulls);
            let compression = Compression::try_new(json.compression, json.compression_level)?;
            FormatEncoding::Lines(LineFormat::Json(builder), compression)
        }
        OutputFormat::Text => {
            check_text(&schema)?;
            check_known(format, &plain_keys(), options)?;
            let codec = match plain_option(options, "compression") {
                Some(value) => line_codec(value)?,
                None => CompressionTypeVariant::UNCOMPRESSED,
            };
            let level = compression_level(options)?;
            FormatEncoding::Lines(LineFormat::Text, Compression::try_new(codec, level)?)
        }
        OutputFormat::Arrow => {
            check_known(format, &plain_keys(), options)?;
            FormatEncoding::Arrow(arrow_options(options)?)
        }
    };
    let encoding = FileEncoding { schema, format };
    check_types(&encoding)?;
    Ok(encoding)
}

/// Fails for columns that the format cannot hold, before the query starts.
fn check_types(encoding: &FileEncoding) -> Result<()> {
    if let FormatEncoding::Lines(format, _) = &encoding.format {
        let name = match format {
            LineFormat::Json(_) => OutputFormat::Json,
            LineFormat::Csv { .. } => OutputFormat::Csv,
            LineFormat::Text => OutputFormat::Text,
        };
        format.check(&encoding.schema, &sink_name(name))?;
    }
    encoding.encoder().map(|_| ())
}

/// What DataFusion's own writer of `format` has to know of the options of a table, in its terms. Those of
/// readers are left out, and those that only a [`super::FileSink`] has.
pub(crate) fn writer_options(
    format: OutputFormat,
    options: &[(String, String)],
) -> Result<HashMap<String, String>> {
    let kind = match format {
        OutputFormat::Parquet => ConfigFileType::PARQUET,
        OutputFormat::Csv => ConfigFileType::CSV,
        OutputFormat::Json => ConfigFileType::JSON,
        OutputFormat::Text | OutputFormat::Arrow => return Ok(HashMap::new()),
    };
    let mut table = TableOptions::new();
    table.set_config_format(kind);
    let keys = keys(&table);
    let mut found = HashMap::new();
    for (name, value) in options.iter().filter(|(name, _)| !is_own(name)) {
        let one = Options::from_iter([(name.as_str(), value.as_str())]);
        if check_known(format, &keys, &one).is_ok() {
            let (key, value) = datafusion_option(format, name, value)?;
            found.insert(format!("format.{key}"), value);
        }
    }
    Ok(found)
}

/// Whether DataFusion's writers have no such option.
fn is_own(name: &str) -> bool {
    [MAX_RECORDS, TARGET_SIZE, IGNORE_NULL_FIELDS].iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// The options of the format that `table` is set to, without `format.`.
fn keys(table: &TableOptions) -> Vec<String> {
    let entries = table.entries().into_iter();
    let keys = entries.filter_map(|entry| entry.key.strip_prefix("format.").map(str::to_string));
    keys.filter(|key| !key.starts_with("crypto")).collect()
}

/// DataFusion's options of `kind`: the session's, changed by `options`.
fn table_options(
    format: OutputFormat,
    kind: ConfigFileType,
    options: &Options,
    session: &SessionState,
) -> Result<TableOptions> {
    let mut table = session.default_table_options();
    table.set_config_format(kind);
    check_known(format, &keys(&table), options)?;
    for (name, value) in options.iter().filter(|(name, _)| !is_own(name)) {
        let (key, value) = datafusion_option(format, name, value)?;
        table
            .set(&format!("format.{key}"), &value)
            .map_err(|error| Error::option(name, &value, in_words(&error)))?;
    }
    Ok(table)
}

/// Fails on the first option that is neither one of `keys`, with or without `format.`, nor one of
/// the sink's own.
fn check_known(format: OutputFormat, keys: &[String], options: &Options) -> Result<()> {
    let context = sink_name(format);
    let mut known = vec![MAX_RECORDS.to_string(), TARGET_SIZE.to_string()];
    match format {
        OutputFormat::Csv => known.extend(CSV_ALIASES.iter().map(|(spark, _)| spark.to_string())),
        OutputFormat::Json => known.push(IGNORE_NULL_FIELDS.to_string()),
        _ => {}
    }
    known.extend(keys.iter().cloned());
    known.extend(keys.iter().map(|key| format!("format.{key}")));
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    for (name, value) in options.iter() {
        if format == OutputFormat::Parquet && is_column_option(name) {
            continue;
        }
        Options::from_iter([(name, value)]).deny_unknown(&context, &known)?;
    }
    Ok(())
}

/// Whether `name` is `option::column` or `metadata::key`.
fn is_column_option(name: &str) -> bool {
    let Some((option, _)) = split_column(name) else { return false };
    option == "metadata" || PARQUET_COLUMN_OPTIONS.contains(&option.as_str())
}

/// `format.option::column` as (option in lower case, column).
fn split_column(name: &str) -> Option<(String, &str)> {
    let (option, column) = name.split_once("::")?;
    let option = option.to_ascii_lowercase();
    Some((option.strip_prefix("format.").unwrap_or(&option).to_string(), column))
}

/// An option in DataFusion's terms: its key below `format.`, and its value.
fn datafusion_option(format: OutputFormat, name: &str, value: &str) -> Result<(String, String)> {
    if let Some((option, column)) = split_column(name) {
        let value = if option == "compression" { parquet_codec(value)? } else { value.to_string() };
        return Ok((format!("{option}::{column}"), value));
    }
    let lower = name.to_ascii_lowercase();
    let mut key = lower.strip_prefix("format.").unwrap_or(&lower).to_string();
    let alias = CSV_ALIASES.iter().find(|(spark, _)| spark.eq_ignore_ascii_case(&lower));
    if let (OutputFormat::Csv, Some((_, datafusion))) = (format, alias) {
        key = datafusion.to_string();
    }
    let value = match (key.as_str(), format) {
        ("compression", OutputFormat::Parquet) => parquet_codec(value)?,
        ("compression", _) => line_codec(value)?.to_string(),
        ("delimiter", _) if value == "\\t" => "\t".to_string(),
        ("quote_style", _) if value.eq_ignore_ascii_case("true") => "always".to_string(),
        ("quote_style", _) if value.eq_ignore_ascii_case("false") => "necessary".to_string(),
        ("has_header" | "ignore_leading_whitespace" | "ignore_trailing_whitespace", _) => {
            value.to_ascii_lowercase()
        }
        _ => value.to_string(),
    };
    Ok((key, value))
}

/// A Parquet codec as DataFusion wants it: Spark's `none`, and codecs without the level that
/// DataFusion insists on, get one.
fn parquet_codec(value: &str) -> Result<String> {
    let codec = match value.trim().to_ascii_lowercase().as_str() {
        "none" => "uncompressed".to_string(),
        "gzip" => "gzip(6)".to_string(),
        "zstd" => "zstd(3)".to_string(),
        "brotli" => "brotli(1)".to_string(),
        other => other.to_string(),
    };
    let reason = "expected none, snappy, gzip, zstd, brotli, lz4 or lz4_raw, with a level as in zstd(5)";
    // DataFusion's parser takes a closing parenthesis for granted.
    if codec.contains('(') != codec.ends_with(')') {
        return Err(Error::option("compression", value, reason));
    }
    match parse_compression_string(&codec) {
        Ok(_) => Ok(codec),
        Err(_) => Err(Error::option("compression", value, reason)),
    }
}

/// A codec for whole files.
fn line_codec(value: &str) -> Result<CompressionTypeVariant> {
    let codec = value.trim();
    if codec.eq_ignore_ascii_case("none") {
        return Ok(CompressionTypeVariant::UNCOMPRESSED);
    }
    codec.parse().map_err(|_| Error::option("compression", value, "expected none, gzip, bzip2, xz or zstd"))
}

fn csv_format(mut csv: CsvOptions, session: &SessionState) -> Result<LineFormat> {
    let header = csv.has_header.unwrap_or(session.config_options().catalog.has_header);
    let escaped = csv.escape.is_some() && csv.double_quote.is_none();
    if escaped {
        // An escape character says how quotes are written; doubling them as well is the default.
        csv.double_quote = Some(false);
    }
    if let Some(terminator) = csv.terminator.filter(|terminator| *terminator != b'\n') {
        // DataFusion's own writer would pass over it.
        let reason = "lines of written files end with a line feed; remove the option";
        return Err(Error::option("terminator", terminator, reason));
    }
    let builder = CsvWriterOptions::try_from(&csv)?.writer_options;
    Ok(LineFormat::Csv { builder, header })
}

/// What a reader has to know of files that do not say it themselves, as far as it is not what it is by
/// default: all files of a directory have to agree on it. How they are compressed, their names say.
pub(super) fn for_readers(
    format: OutputFormat,
    options: &Options,
    session: &SessionState,
) -> Result<BTreeMap<String, String>> {
    if format != OutputFormat::Csv {
        return Ok(BTreeMap::new());
    }
    let mut table = table_options(format, ConfigFileType::CSV, options, session)?;
    let header = table.csv.has_header.unwrap_or(session.config_options().catalog.has_header);
    table.csv.has_header = Some(header);
    let mut plain = TableOptions::new();
    plain.set_config_format(ConfigFileType::CSV);
    plain.csv.has_header = Some(true);
    let settings = |table: &TableOptions| {
        let entries = table.entries().into_iter();
        let named = entries.filter_map(|entry| {
            let key = entry.key.strip_prefix("format.")?;
            let is_compression = key.starts_with("compression");
            let value = entry.value?;
            let value = match (key, value.parse::<u8>()) {
                ("delimiter" | "quote" | "escape" | "terminator" | "comment", Ok(byte)) => {
                    char::from(byte).to_string()
                }
                _ => value,
            };
            Some((key.to_string(), value)).filter(|_| !is_compression)
        });
        named.collect::<BTreeMap<_, _>>()
    };
    let plain = settings(&plain);
    let given = settings(&table).into_iter();
    Ok(given.filter(|(key, value)| plain.get(key) != Some(value)).collect())
}

/// The options of formats that DataFusion has no options for.
fn plain_keys() -> Vec<String> {
    vec!["compression".to_string(), "compression_level".to_string()]
}

fn plain_option<'a>(options: &'a Options, name: &str) -> Option<&'a str> {
    options.get(name).or_else(|| options.get(&format!("format.{name}")))
}

fn compression_level(options: &Options) -> Result<Option<u32>> {
    plain_option(options, "compression_level")
        .map(|value| {
            value
                .trim()
                .parse()
                .map_err(|_| Error::option("compression_level", value, "expected a whole number"))
        })
        .transpose()
}

/// Arrow files are written as DataFusion writes them, with LZ4 unless another codec is asked for.
fn arrow_options(options: &Options) -> Result<IpcWriteOptions> {
    let value = plain_option(options, "compression").unwrap_or("lz4");
    let codec = match value.trim().to_ascii_lowercase().as_str() {
        "none" | "uncompressed" => None,
        "lz4" | "lz4_frame" => Some(CompressionType::LZ4_FRAME),
        "zstd" => Some(CompressionType::ZSTD),
        _ => return Err(Error::option("compression", value, "expected none, lz4 or zstd")),
    };
    let level = compression_level(options)?.map(|level| i32::try_from(level).unwrap_or(i32::MAX));
    let written = IpcWriteOptions::try_new(64, false, MetadataVersion::V5)?.try_with_compression(codec)?;
    match level {
        None => Ok(written),
        Some(level) => written
            .try_with_compression_level(Some(level))
            .map_err(|error| Error::option("compression_level", level, error.to_string())),
    }
}

/// The text format is the bytes of one string column.
fn check_text(schema: &Schema) -> Result<()> {
    if let [field] = schema.fields().iter().as_slice() {
        let values = match field.data_type() {
            DataType::Dictionary(_, values) => values,
            other => other,
        };
        if matches!(values, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
            return Ok(());
        }
    }
    let columns: Vec<String> =
        schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    Err(Error::Invalid(format!(
        "the text sink writes exactly one string column besides partition columns, not ({}). \
         Select one, e.g. with concat(), or write json or csv",
        columns.join(", ")
    )))
}

#[cfg(test)]
mod tests;
