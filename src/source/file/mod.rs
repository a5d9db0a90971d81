//! Directories of files as unbounded tables: every file is read once, in one batch, exactly once.
//!
//! The semantics are those of Spark's file source; `docs/spark-differences.md` says where they are
//! not.

mod archive;
mod arrow_ipc;
#[cfg(feature = "avro")]
mod avro;
#[cfg(feature = "avro")]
mod avro_shape;
mod batches;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod bell;
mod clean;
mod deal;
mod digits;
mod disk;
mod entry;
mod fit;
mod fitting;
mod foreign;
mod format;
mod found_columns;
mod guard;
mod infer;
mod judge;
mod known;
mod layout;
mod listing;
mod location;
mod nested;
mod news;
mod options;
mod panics;
mod parquet;
mod partitions;
mod pattern;
mod pinned;
mod place;
mod queue;
mod records;
mod report;
mod rescued;
mod scan;
mod seen;
mod settle;
mod sniff;
mod source;
mod spark_metadata;
mod steady;
mod uuids;
mod values;
mod verdict;
mod walk;
mod watch;
mod whole_file;

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::execution::session_state::SessionState;
use serde_json::json;
use url::Url;

use self::clean::Action;
use self::format::{Format, FormatSpec, undescribed};
use self::infer::{FoundPartitions, Inference};
use self::known::Known;
pub(crate) use self::known::KnownColumns;
use self::layout::{Layout, RESCUED_COLUMN};
use self::location::{FileLocation, Selection};
use self::options::{CleanSource, Evolution, ParseMode, SourceOptions};
pub(crate) use self::parquet::{CheckedScans, ParquetFiles};
use self::pattern::FilePattern;
pub(crate) use self::place::{has_files, is_pattern};
#[cfg(feature = "avro")]
pub use self::records::WriterSchemas;
pub(crate) use self::records::json::JsonValues;
pub use self::records::{
    BadMessage, BadMessageFiles, BadMessageWriter, BadMessages, MessageFormat, MessageReader, ReadMessages,
    retried_name,
};
use self::records::{csv, json};
use self::sniff::sniff;
use self::source::FileStreamSource;
use super::{Source, SourceContext, SourceProvider};
use crate::checkpoint::location_of;
use crate::checkpoint::records::{PARTITIONS, SourceDefinition};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::storage::{Storage, path_below};

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
/// | `changedFiles` | warn | `warn`, `fail` or `read` again: files that have changed since they were read |
/// | `minFileAge` | 2 s | how long a file that may still be being written must have stayed as it is |
/// | `allowMissingPath` | false | wait for a path where there is nothing yet |
/// | `modifiedAfter`, `modifiedBefore` | none | only files of that time |
/// | `startingFrom` | earliest | `latest` passes over the files of the first start |
/// | `schemaEvolution` | warn | columns of files that the table does not have: `none`, `warn`, `addNewColumns` (the table gets them) or `rescue` (their values go to the column `_rescued_data`, as JSON). Given columns: none. All formats but text |
/// | `ignoreMissingFiles` | false | leave out files that have gone when they are read |
/// | `ignoreCorruptFiles` | false | leave out what follows the point from which a file cannot be decoded |
/// | `includeMetadata` | false | add the column `_metadata`, which a given schema can also name |
/// | `mode` | FAILFAST | `FAILFAST`, `PERMISSIVE` or `DROPMALFORMED` |
/// | `columnNameOfCorruptRecord` | `_corrupt_record` | the column that takes the text of malformed records, if the schema has it |
/// | `badRecordsPath` | none | leave malformed records out and write them to files below this |
///
/// Options of the format are DataFusion's (`format.has_header`, or without the prefix), or Spark's:
/// `header`, `sep`, `quote`, `escape`, `comment`, `nullValue`, `multiLine`, `lineSep`, `enforceSchema`
/// for csv, `multiLine` for json, `compression` and `encoding` for json, csv and text. Of csv files whose columns
/// are not given, separator and header are told by the first file, unless options say them. Without `compression`, files
/// called `.gz`, `.bz2`, `.xz` and `.zst` are taken to be compressed. `timestampFormat`, `dateFormat` and
/// `epochUnit` say how times are written, in all formats but text.
///
/// # Records
///
/// - json: one object per line; blank lines are passed over. With `multiLine` a file is one array of
///   objects, or one object. Of a repeated key the last counts.
/// - csv: columns are found by the names in the header; without one, or with `enforceSchema`, by position. A
///   header that names none of them is an error. Quoted values may hold line breaks; with `multiLine` set to false every
///   line is a record, so that large files can be read in parts.
/// - text: one column, called `value` unless the schema names it.
///
/// Missing columns are null. Names are found without regard to case if only one is meant. What a value
/// becomes in a column of another type is a table in `docs/types.md`; what cannot be read as the column's
/// type, or is null where the column is NOT NULL, is malformed.
///
/// Files without content are taken when they have some. A file must not change once it was taken: what
/// was listed is what is read, or the query fails and names the file.
#[derive(Debug)]
pub struct FileTable {
    location: Arc<FileLocation>,
    pattern: FilePattern,
    spec: Arc<FormatSpec>,
    options: SourceOptions,
    layout: Layout,
    /// The columns that were given, if they were.
    declared: Option<SchemaRef>,
    /// Whether the columns that directories give were named, rather than found.
    names_partitions: bool,
    clean_up: Action,
    bad_records: Option<FileLocation>,
}

impl FileTable {
    /// Whether the option says which files and rows are read, and when, whatever their format.
    pub(crate) fn has_option(name: &str) -> bool {
        let own = options::COMMON.iter().chain(options::COLUMNS).chain(options::RECORDS);
        own.chain(format::VALUES).any(|option| option.eq_ignore_ascii_case(name))
    }

    /// Whether DataFusion's option, in lower case, says how files of text are written and not how they are read.
    pub(crate) fn is_for_writers(name: &str) -> bool {
        format::is_for_writers(name)
    }

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
        let mut written = options;
        let (spec, options) = FormatSpec::parse(format, &written, session)?;
        let options = SourceOptions::parse(&options)?;
        check_options(&options, &partition_columns)?;
        let location = FileLocation::parse(path)?;
        let store = location.store(session.runtime_env())?;
        let location = location.tell_file_from_directory(store.as_ref()).await?;
        if !options.allow_missing_path {
            location.check_exists(store.as_ref()).await?;
        }
        let filter = options.path_glob_filter.as_deref();
        let pattern = FilePattern::new(location.selection(), filter, options.recursive)?;
        let known = known(session, spec.name, &location)?;
        let partitions = known.as_ref().map(|known| known.partitions.clone()).unwrap_or_default();
        let known = known.filter(|known| known.is_inferred && schema.is_none());
        let tolerant = options.mode != ParseMode::FailFast || options.bad_records_path.is_some();
        let (path, store) = (&location, Arc::clone(&store));
        let ignores_corrupt = options.ignore_corrupt_files;
        let look = Inference {
            session,
            store,
            location: path,
            pattern: &pattern,
            spec: &spec,
            tolerant,
            ignores_corrupt,
        };
        let is_described = schema.is_none() && describe(&mut written, known.as_ref(), &look).await?;
        let store = look.store;
        let spec = if is_described { FormatSpec::parse(format, &written, session)?.0 } else { spec };
        let inference = Inference {
            session,
            store,
            location: path,
            pattern: &pattern,
            spec: &spec,
            tolerant,
            ignores_corrupt,
        };
        let are_named = || partitions.iter().map(|(name, _)| name).eq(&partition_columns);
        let found = match options.recursive {
            true => Vec::new(),
            // They stay when no such directory is there any more.
            false if !partitions.is_empty() && (partition_columns.is_empty() || are_named()) => partitions,
            false => inference.partition_columns().await?,
        };
        let names_partitions = !partition_columns.is_empty();
        let partitions = choose_partitions(partition_columns, found, &location)?;
        let columns = match &schema {
            Some(schema) => schema.as_ref().clone(),
            None => match known {
                Some(known) => known.columns.as_ref().clone(),
                None => inference.schema().await?,
            },
        };
        let layout = lay_out(columns, &partitions, &options, &spec, schema.is_none())?;
        let pattern = pattern.with_partition_columns(partitions.into_iter().map(|(name, _)| name).collect());
        Ok(Arc::new(Self {
            clean_up: clean_up(&options, &location)?,
            bad_records: bad_records(&options, &location)?,
            location: Arc::new(location),
            pattern,
            spec: Arc::new(spec),
            options,
            layout,
            declared: schema,
            names_partitions,
        }))
    }

    /// The columns that the directories at `paths` name, with types that hold all values, as [`FileTable::resolve`]
    /// finds them.
    pub(crate) async fn directory_columns(
        paths: &[String],
        session: &SessionState,
    ) -> Result<Vec<(String, DataType)>> {
        let (spec, _) = FormatSpec::parse("parquet", &Options::default(), session)?;
        let mut found = FoundPartitions::default();
        for path in paths {
            let location = FileLocation::parse(path)?;
            let store = location.store(session.runtime_env())?;
            let location = location.tell_file_from_directory(store.as_ref()).await?;
            let look = Inference {
                session,
                store,
                location: &location,
                pattern: &FilePattern::new(location.selection(), None, false)?,
                spec: &spec,
                tolerant: false,
                ignores_corrupt: false,
            };
            look.observe_directories(&mut found).await?;
        }
        Ok(found.finish())
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

    /// What happens about columns of files that the table does not have.
    fn evolution(&self) -> Evolution {
        // Whoever gave the columns knows that there may be more.
        let default = if self.is_inferred() { Evolution::Warn } else { Evolution::None };
        self.options.evolution.unwrap_or(default)
    }

    fn is_inferred(&self) -> bool {
        self.declared.is_none()
    }

    /// Whether files are new to the table if they have the column, or the field within one, at `path`.
    fn lacks(&self, path: &str) -> bool {
        nested::lacks(self.layout.schema().fields(), path)
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
            declared: self.declared.clone(),
            names_partitions: self.names_partitions,
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
        self.is_inferred()
    }

    fn with_schema(&self, schema: SchemaRef) -> Result<Arc<dyn SourceProvider>> {
        let partitions: Vec<(String, DataType)> = self
            .layout
            .partitions()
            .iter()
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect();
        let columns = schema.as_ref().clone();
        let layout = lay_out(columns, &partitions, &self.options, &self.spec, self.is_inferred())?;
        Ok(Arc::new(Self { layout, ..self.copy() }))
    }

    fn with_partitions(&self, partitions: &[FieldRef]) -> Result<Option<Arc<dyn SourceProvider>>> {
        let names = |fields: &[FieldRef]| fields.iter().map(|field| field.name().clone()).collect::<Vec<_>>();
        let (known, now) = (names(partitions), self.layout.partitions());
        if partitions == now || (self.names_partitions && known != names(now)) {
            return Ok(None);
        }
        let columns = match &self.declared {
            Some(declared) => declared.as_ref().clone(),
            None => {
                let is_file = |field: &&FieldRef| now.iter().all(|other| other.name() != field.name());
                let fields = self.layout.schema().fields().iter().filter(is_file).cloned();
                Schema::new(fields.collect::<Vec<_>>())
            }
        };
        let typed: Vec<(String, DataType)> =
            partitions.iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
        let layout = lay_out(columns, &typed, &self.options, &self.spec, self.is_inferred())?;
        let pattern = self.pattern.clone().with_partition_columns(known);
        Ok(Some(Arc::new(Self { layout, pattern, ..self.copy() })))
    }

    fn columns_may_grow(&self) -> bool {
        matches!(self.evolution(), Evolution::AddNewColumns | Evolution::Rescue)
    }

    fn format(&self) -> &str {
        self.spec.name
    }

    fn description(&self) -> String {
        format!("FileSource[{}]", self.location)
    }

    fn reads_at(&self, directory: &Url) -> bool {
        let base = self.location.base_url();
        let is_above = path_below(directory, base).is_some_and(|path| !path.is_empty());
        let Some(below) = path_below(base, directory) else {
            return is_above && !matches!(self.location.selection(), Selection::File(_));
        };
        match self.location.selection() {
            Selection::File(_) => false,
            Selection::Directory => below.is_empty() || !pattern::is_passed_over(&below),
            Selection::Glob(_) => written_names().any(|name| {
                let file = format!("{below}/{name}");
                self.pattern.selects(file.trim_start_matches('/'))
            }),
        }
    }

    fn definition(&self, checkpoint: &dyn Storage) -> SourceDefinition {
        let mut options = self.spec.row_options.clone();
        options.extend(self.options.row_options());
        let partitions: Vec<&String> = self.layout.partitions().iter().map(|field| field.name()).collect();
        if !partitions.is_empty() {
            options.insert(PARTITIONS.into(), json!(partitions).to_string());
        }
        SourceDefinition {
            format: self.spec.name.to_string(),
            location: Some(location_of(self.location.base_url(), checkpoint.url())),
            columns: crate::types::columns(self.layout.schema().fields()),
            inferred: self.is_inferred(),
            options,
        }
    }

    fn create(&self, context: SourceContext) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(FileStreamSource::new(Arc::new(self.copy()), context)?))
    }
}

/// Names such as file sinks give their files, one for each ending. What is in a file need not be what its name
/// says: lines of JSON are text, too.
fn written_names() -> impl Iterator<Item = String> {
    let lines = ["json", "csv", "txt"].into_iter().flat_map(|format| {
        ["", ".gz", ".bz2", ".xz", ".zst"].into_iter().map(move |codec| format!("{format}{codec}"))
    });
    let codecs = ["", "zstd.", "snappy.", "gz.", "br.", "lz4.", "lz4raw."].into_iter();
    let others = codecs.map(|codec| format!("{codec}parquet")).chain(["arrow".to_string()]);
    let query = "0".repeat(32);
    lines.chain(others).map(move |ending| format!("part-00000-0000000000-{query}.{ending}"))
}

/// Fails on options that contradict the format or one another.
fn check_options(options: &SourceOptions, partition_columns: &[String]) -> Result<()> {
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

/// Adds to the options of CSV files what these look like, as far as nobody has said: as at the first start of the
/// query, if that is known, or else as the first file looks now. Whether anything was added.
async fn describe(options: &mut Options, known: Option<&Known>, inference: &Inference<'_>) -> Result<bool> {
    let unsaid = undescribed(options);
    if !matches!(inference.spec.format, Format::Csv(..)) || !(unsaid.delimiter || unsaid.header) {
        return Ok(false);
    }
    let mut found: Vec<(&str, String)> = Vec::new();
    if let Some(known) = known {
        let options = [("delimiter", unsaid.delimiter), ("has_header", unsaid.header)];
        for (name, _) in options.into_iter().filter(|(_, unsaid)| *unsaid) {
            found.extend(known.options.get(&format!("format.{name}")).map(|value| (name, value.clone())));
        }
    } else if let Some((file, head)) = inference.beginning().await? {
        let given = (!unsaid.delimiter).then(|| inference.spec.delimiter()).flatten();
        let sniffed = sniff(&head, given);
        if unsaid.delimiter && sniffed.delimiter != b',' {
            let delimiter = char::from(sniffed.delimiter).to_string();
            if !sniffed.is_said {
                tracing::warn!(
                    "fields in '{file}' seem to be separated by '{0}', and are read so. To say it, set sep to '{0}'",
                    delimiter.escape_debug()
                );
            }
            found.push(("delimiter", delimiter));
        }
        if unsaid.header && inference.spec.has_header() && !sniffed.has_header {
            tracing::warn!(
                "'{file}' seems to have no header: its first line is read as a record, and columns are called \
                 column_1, column_2, …. If it names the columns, set header to true"
            );
            found.push(("has_header", "false".into()));
        }
    }
    found.iter().for_each(|(name, value)| options.set(*name, value));
    Ok(!found.is_empty())
}

/// What was found out at the first start of a query, if the session knows its checkpoint.
fn known(session: &SessionState, format: &str, location: &FileLocation) -> Result<Option<Known>> {
    match session.config().get_extension::<KnownColumns>() {
        Some(known) => known.find(format, location.base_url()),
        None => Ok(None),
    }
}

/// Where the `columns` of the table come from.
fn lay_out(
    mut columns: Schema,
    partitions: &[(String, DataType)],
    options: &SourceOptions,
    spec: &FormatSpec,
    is_inferred: bool,
) -> Result<Layout> {
    let rescues = options.evolution == Some(Evolution::Rescue);
    if rescues && columns.index_of(RESCUED_COLUMN).is_err() {
        let rescued = Arc::new(Field::new(RESCUED_COLUMN, DataType::Utf8, true));
        columns = Schema::new(columns.fields().iter().cloned().chain([rescued]).collect::<Vec<_>>());
    }
    // A column of that name in binary files is one like others, but where it is asked for.
    let takes_text = spec.is_records() || options.mode == ParseMode::Permissive;
    let corrupt_record = takes_text.then_some(options.corrupt_record_column.as_str());
    let mut layout = Layout::new(&columns, partitions, options.include_metadata, corrupt_record)?;
    if rescues {
        layout = layout.rescuing()?;
    }
    // What files hold now says nothing of those that are written later.
    if is_inferred {
        layout = layout.with_nulls_anywhere();
    }
    check_columns(spec, &layout)?;
    Ok(layout)
}

/// Fails on columns that the format cannot give.
fn check_columns(spec: &FormatSpec, layout: &Layout) -> Result<()> {
    let apart = layout.apart();
    let in_record = |column: &usize| ![apart.corrupt_record, apart.rescued].contains(&Some(*column));
    let file = layout.table().file_schema();
    let record: Vec<usize> = (0..file.fields().len()).filter(in_record).collect();
    let record = file.project(&record)?;
    match &spec.format {
        Format::Text => check_text_column(&record),
        Format::Csv(..) if record.fields().is_empty() => {
            Err(Error::Invalid("a csv table needs at least one column that its files have".into()))
        }
        Format::Csv(..) => each_column(&record, csv::can_be_read),
        Format::Json(_) | Format::JsonDocument(_) => each_column(&record, json::can_be_read),
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

fn each_column(record: &Schema, can_be_read: impl Fn(&DataType) -> bool) -> Result<()> {
    match record.fields().iter().find(|field| !can_be_read(field.data_type())) {
        None => Ok(()),
        Some(field) => Err(Error::Invalid(format!(
            "column '{}' cannot be of type {} in files of this format. Read it as another type and cast it",
            field.name(),
            field.data_type()
        ))),
    }
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
    let (inner, outer) = (parsed.base_url(), source.base_url());
    // What begins with `_` or `.` is not read.
    let is_hidden =
        |path: &str| path.split('/').any(|part| part.starts_with(['_', '.']) && !part.contains('='));
    let is_read = match source.selection() {
        // Directories beside the one file are not.
        Selection::File(_) => path_below(outer, inner).is_some_and(|path| path.is_empty()),
        _ => {
            path_below(outer, inner).is_some_and(|path| !is_hidden(&path))
                || path_below(inner, outer).is_some()
        }
    };
    if is_read {
        return Err(Error::option(
            option,
            directory,
            format!("it must be outside of what the source reads, '{source}'"),
        ));
    }
    Ok(parsed)
}
