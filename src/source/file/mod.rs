//! Directories of files as unbounded tables: every file is read once, in one batch, exactly once.
//!
//! The semantics are those of Spark's file source; `docs/spark-differences.md` says where they are
//! not.

mod arrow_ipc;
#[cfg(feature = "avro")]
mod avro;
mod clean;
mod entry;
mod format;
mod guard;
mod infer;
mod layout;
mod listing;
mod location;
mod options;
mod partitions;
mod pattern;
mod pinned;
mod queue;
mod records;
mod scan;
mod seen;
mod source;
mod spark_metadata;
mod walk;
mod whole_file;

use std::sync::Arc;

use datafusion::arrow::csv;
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::arrow::json;
use datafusion::execution::session_state::SessionState;

use self::clean::Action;
use self::format::{Format, FormatSpec};
use self::infer::Inference;
use self::layout::Layout;
use self::location::{FileLocation, Selection};
use self::options::{CleanSource, ParseMode, SourceOptions};
use self::pattern::FilePattern;
use self::source::FileStreamSource;
use super::{Source, SourceContext, SourceProvider};
use crate::checkpoint::location_of;
use crate::checkpoint::records::SourceDefinition;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::storage::Storage;

/// A directory of files, a glob pattern of such, or a single file, as an unbounded table.
///
/// # Options
///
/// Names are case-insensitive. Where Spark has an option, its name and meaning are Spark's.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `maxFilesPerTrigger`, `maxBytesPerTrigger` | none | how much a batch takes; one of the two. At least one file is taken |
/// | `latestFirst` | false | newest files first |
/// | `maxFileAge` | 7 days | files older than this, measured against the newest file taken, are never taken; of no effect with `latestFirst` and a limit. Ignored files are logged and counted (`numFilesIgnoredByAge`) |
/// | `maxCachedFiles` | all | how many unread files of a listing are kept for the next batches |
/// | `discardCachedInputRatio` | 0.2 | fewer kept files than this share of a batch are listed again instead |
/// | `fileNameOnly` | false | files of the same name are the same file, wherever they are |
/// | `pathGlobFilter` | none | a pattern for file names |
/// | `recursiveFileLookup` | false | read all subdirectories, and take no columns from directories |
/// | `cleanSource`, `sourceArchiveDir` | off | `delete` or `archive` files whose rows are durable in the sink |
/// | `ignoreMissingFiles` | false | leave out files that have gone when they are read |
/// | `ignoreCorruptFiles` | false | leave out what follows the point from which a file cannot be decoded |
/// | `includeMetadata` | false | add the column `_metadata`, which a given schema can also name |
/// | `mode` | FAILFAST | json, csv, text: `FAILFAST`, `PERMISSIVE` or `DROPMALFORMED` |
/// | `columnNameOfCorruptRecord` | `_corrupt_record` | the column that takes the text of malformed records, if the schema has it |
/// | `badRecordsPath` | none | leave malformed records out and write them to files below this |
///
/// Options of the format are DataFusion's (`format.has_header`, or without the prefix), or Spark's:
/// `header`, `sep`, `quote`, `escape`, `comment`, `nullValue`, `multiLine`, `lineSep`, `enforceSchema`
/// for csv, `multiLine` for json, `compression` for json, csv and text. Without `compression`, files
/// called `.gz`, `.bz2`, `.xz` and `.zst` are taken to be compressed.
///
/// # Records
///
/// - json: one object per line; blank lines are passed over. With `multiLine` a file is one array of
///   objects. A number with a fraction is cut off in an integer column, and of a repeated key the last
///   counts, as in DataFusion.
/// - csv: columns are matched by position, and a header that names others is an error, unless
///   `enforceSchema` is set. Quoted values may hold line breaks; with `multiLine` set to false every
///   line is a record, so that large files can be read in parts.
/// - text: one column, called `value` unless the schema names it.
/// - parquet, arrow, avro: columns are matched by name. Missing columns are null, others are passed
///   over, and types are cast where that is possible without loss; a file where it is not is an error.
///   A file of no bytes is an error too: it is most likely not complete.
///
/// A file must not change once it is in the directory: what was listed is what is read, or the query
/// fails and names the file.
#[derive(Debug)]
pub struct FileTable {
    location: Arc<FileLocation>,
    pattern: FilePattern,
    spec: Arc<FormatSpec>,
    options: SourceOptions,
    layout: Layout,
    is_inferred: bool,
    clean_up: Action,
    bad_records: Option<FileLocation>,
}

impl FileTable {
    /// The formats of this build.
    pub const FORMATS: &'static [&'static str] = format::NAMES;

    /// Describes the table of `format` at `path`, a path on the local disk or a URL, either with a
    /// glob pattern at its end.
    ///
    /// Without a `schema` the columns are inferred from the files that are there.
    /// `partition_columns` name the columns that directories `column=value` give; if there are none,
    /// the directories that are there say which there are. They stay as they are now.
    ///
    /// # Errors
    /// Unknown options and values that cannot be used, with the option's name; a path or pattern that
    /// cannot be read; no schema and no file to infer one from.
    pub async fn resolve(
        format: &str,
        path: &str,
        schema: Option<SchemaRef>,
        partition_columns: Vec<String>,
        options: Options,
        session: &SessionState,
    ) -> Result<Arc<dyn SourceProvider>> {
        let (spec, options) = FormatSpec::parse(format, &options, session)?;
        let options = SourceOptions::parse(&options)?;
        check_options(&spec, &options, &partition_columns)?;
        let location = FileLocation::parse(path)?;
        let store = session.runtime_env().object_store(location.store_url())?;
        let location = location.tell_file_from_directory(store.as_ref()).await?;
        let filter = options.path_glob_filter.as_deref();
        let pattern = FilePattern::new(location.selection(), filter, options.recursive)?;
        let inference = Inference { session, store, location: &location, pattern: &pattern, spec: &spec };
        let found = if options.recursive { Vec::new() } else { inference.partition_columns().await? };
        let partitions = choose_partitions(partition_columns, found, &location)?;
        let is_inferred = schema.is_none();
        let columns = match schema {
            Some(schema) => schema.as_ref().clone(),
            None => inference.schema().await?,
        };
        let corrupt_record = spec.is_records().then_some(options.corrupt_record_column.as_str());
        let layout = Layout::new(&columns, &partitions, options.include_metadata, corrupt_record)?;
        check_columns(&spec, &layout)?;
        let pattern = pattern.with_partition_columns(partitions.into_iter().map(|(name, _)| name).collect());
        Ok(Arc::new(Self {
            clean_up: clean_up(&options, &location)?,
            bad_records: bad_records(&options, &location)?,
            location: Arc::new(location),
            pattern,
            spec: Arc::new(spec),
            options,
            layout,
            is_inferred,
        }))
    }

    fn location(&self) -> &Arc<FileLocation> {
        &self.location
    }

    fn pattern(&self) -> &FilePattern {
        &self.pattern
    }

    fn spec(&self) -> &Arc<FormatSpec> {
        &self.spec
    }

    fn options(&self) -> &SourceOptions {
        &self.options
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn clean_up(&self) -> &Action {
        &self.clean_up
    }

    fn bad_records(&self) -> Option<&FileLocation> {
        self.bad_records.as_ref()
    }

    fn copy(&self) -> Self {
        Self {
            location: Arc::clone(&self.location),
            pattern: self.pattern.clone(),
            spec: Arc::clone(&self.spec),
            options: self.options.clone(),
            layout: self.layout.clone(),
            is_inferred: self.is_inferred,
            clean_up: self.clean_up.clone(),
            bad_records: self.bad_records.clone(),
        }
    }
}

impl SourceProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.layout.schema())
    }

    fn schema_is_inferred(&self) -> bool {
        self.is_inferred
    }

    fn with_schema(&self, schema: SchemaRef) -> Result<Arc<dyn SourceProvider>> {
        let partitions: Vec<(String, DataType)> = self
            .layout
            .partitions()
            .iter()
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect();
        let corrupt_record = self.spec.is_records().then_some(self.options.corrupt_record_column.as_str());
        let layout = Layout::new(&schema, &partitions, self.options.include_metadata, corrupt_record)?;
        check_columns(&self.spec, &layout)?;
        Ok(Arc::new(Self { layout, ..self.copy() }))
    }

    fn format(&self) -> &str {
        self.spec.name
    }

    fn description(&self) -> String {
        format!("FileSource[{}]", self.location)
    }

    fn definition(&self, checkpoint: &dyn Storage) -> SourceDefinition {
        let mut options = self.spec.row_options.clone();
        options.extend(self.options.row_options());
        SourceDefinition {
            format: self.spec.name.to_string(),
            location: Some(location_of(self.location.base_url(), checkpoint.url())),
            columns: crate::types::columns(self.layout.schema().fields()),
            inferred: self.is_inferred,
            options,
        }
    }

    fn create(&self, context: SourceContext) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(FileStreamSource::new(Arc::new(self.copy()), context)?))
    }
}

/// Fails on options that contradict the format or one another.
fn check_options(spec: &FormatSpec, options: &SourceOptions, partition_columns: &[String]) -> Result<()> {
    if matches!(spec.format, Format::JsonArray(_)) {
        let what = match options {
            SourceOptions { bad_records_path: Some(_), .. } => Some("badRecordsPath"),
            SourceOptions { mode: ParseMode::Permissive | ParseMode::DropMalformed, .. } => Some("mode"),
            _ => None,
        };
        if let Some(option) = what {
            return Err(Error::Invalid(format!(
                "option '{option}' needs records that can be told apart, one per line, so it cannot be used with \
                 multiLine. Leave one of them out"
            )));
        }
    }
    if options.recursive && !partition_columns.is_empty() {
        return Err(Error::option(
            "recursiveFileLookup",
            true,
            format!(
                "no columns are taken from directories with it, but the table is partitioned by ({})",
                partition_columns.join(", ")
            ),
        ));
    }
    Ok(())
}

/// The partition columns that were named, or else those that the directories name.
fn choose_partitions(
    named: Vec<String>,
    found: Vec<(String, DataType)>,
    location: &FileLocation,
) -> Result<Vec<(String, DataType)>> {
    if named.is_empty() {
        return Ok(found);
    }
    let found_names: Vec<&String> = found.iter().map(|(name, _)| name).collect();
    if !found.is_empty() && found_names != named.iter().collect::<Vec<_>>() {
        return Err(Error::Invalid(format!(
            "the table is partitioned by ({}), but the directories in '{location}' name ({})",
            named.join(", "),
            found_names.into_iter().cloned().collect::<Vec<_>>().join(", ")
        )));
    }
    let data_type = |name: &String| {
        let found = found.iter().find(|(other, _)| other == name);
        found.map_or(DataType::Utf8, |(_, data_type)| data_type.clone())
    };
    Ok(named.into_iter().map(|name| (name.clone(), data_type(&name))).collect())
}

/// Fails on columns that the format cannot give.
fn check_columns(spec: &FormatSpec, layout: &Layout) -> Result<()> {
    let in_record = |column: &usize| Some(*column) != layout.corrupt_record();
    let file = layout.table().file_schema();
    let record: Vec<usize> = (0..file.fields().len()).filter(in_record).collect();
    let record = file.project(&record)?;
    match &spec.format {
        Format::Text => check_text_column(&record),
        Format::Csv(..) if record.fields().is_empty() => {
            Err(Error::Invalid("a csv table needs at least one column that its files have".into()))
        }
        Format::Csv(..) => {
            let fields = record.fields().iter();
            each_column(fields, |schema| {
                let mut decoder = csv::ReaderBuilder::new(schema).with_batch_size(1).build_decoder();
                decoder.decode(b"\"\"\n").and_then(|_| decoder.flush()).map(|_| ())
            })
        }
        Format::Json(_) | Format::JsonArray(_) => each_column(record.fields().iter(), |schema| {
            json::ReaderBuilder::new(schema).with_batch_size(1).build_decoder().map(|_| ())
        }),
        _ => Ok(()),
    }
}

fn check_text_column(record: &Schema) -> Result<()> {
    match record.fields().as_ref() {
        [field] if matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => {
            Ok(())
        }
        fields => {
            let names: Vec<String> =
                fields.iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
            Err(Error::Invalid(format!(
                "a text table has one column of text, but the schema has ({})",
                names.join(", ")
            )))
        }
    }
}

fn each_column<'a>(
    fields: impl Iterator<Item = &'a Arc<datafusion::arrow::datatypes::Field>>,
    decode: impl Fn(SchemaRef) -> std::result::Result<(), datafusion::arrow::error::ArrowError>,
) -> Result<()> {
    for field in fields {
        decode(Arc::new(Schema::new(vec![Arc::clone(field)]))).map_err(|_| {
            Error::Invalid(format!(
                "column '{}' cannot be of type {} in files of this format. Read it as another type and cast it",
                field.name(),
                field.data_type()
            ))
        })?;
    }
    Ok(())
}

fn clean_up(options: &SourceOptions, location: &FileLocation) -> Result<Action> {
    match &options.clean_source {
        CleanSource::Off => Ok(Action::Keep),
        CleanSource::Delete => Ok(Action::Delete),
        CleanSource::Archive(directory) => {
            let archive = outside("sourceArchiveDir", directory, location)?;
            if archive.store_url() != location.store_url() {
                return Err(Error::option(
                    "sourceArchiveDir",
                    directory,
                    format!(
                        "it must be in the same store as the source, '{}'",
                        location.store_url().as_str()
                    ),
                ));
            }
            Ok(Action::Archive(archive.base().clone()))
        }
    }
}

fn bad_records(options: &SourceOptions, location: &FileLocation) -> Result<Option<FileLocation>> {
    let directory = options.bad_records_path.as_deref();
    directory.map(|directory| outside("badRecordsPath", directory, location)).transpose()
}

/// The directory that `option` names, which must not hold or be held by what the source reads.
fn outside(option: &str, directory: &str, source: &FileLocation) -> Result<FileLocation> {
    let with_slash = format!("{}/", directory.trim_end_matches('/'));
    let parsed = FileLocation::parse(&with_slash)?;
    if !matches!(parsed.selection(), Selection::Directory) {
        return Err(Error::option(option, directory, "it must be a directory, not a pattern"));
    }
    if parsed.store_url() == source.store_url() {
        let (inner, outer) = (parsed.base(), source.base());
        // What begins with `_` or `.` is not read.
        let hidden = inner.prefix_match(outer).is_some_and(|mut rest| {
            rest.any(|part| part.as_ref().starts_with(['_', '.']) && !part.as_ref().contains('='))
        });
        if (inner.prefix_matches(outer) && !hidden) || outer.prefix_matches(inner) {
            return Err(Error::option(
                option,
                directory,
                format!("it must be outside of what the source reads, '{source}'"),
            ));
        }
    }
    Ok(parsed)
}
