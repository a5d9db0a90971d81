//! Files in a directory: Parquet, JSON, CSV, text and Arrow, exactly once for every reader.

#[cfg(feature = "avro")]
mod avro;
mod bounded;
mod encode;
mod existing;
mod layout;
mod listing;
mod manifest;
mod merge;
mod messages;
mod names;
mod options;
mod partition;
mod protobuf;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::session_state::SessionState;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use self::existing::ExistingOutput;
use self::layout::Layout;
use self::manifest::Manifest;
use self::merge::{Merges, Merging, Output};
use self::writer::{FileWriter, Shared};
use super::{OutputMode, Sink, SinkBatch, SinkWriter};
use crate::checkpoint::location_of;
use crate::checkpoint::records::SinkDefinition;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::storage::Storage;

pub(crate) use self::bounded::{ArrowFiles, BoundedWrites};
pub(super) use self::encode::LineFormat;
pub use self::messages::MessageEncoder;
pub(crate) use self::options::writer_options;
pub(crate) use self::partition::{NULL_DIRECTORY, escape_directory};

/// How many storage calls for independent files run at once.
const PARALLEL_CALLS: usize = 16;

/// A file format that [`FileSink`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputFormat {
    /// Apache Parquet.
    Parquet,
    /// One JSON object per line.
    Json,
    /// Comma-separated values.
    Csv,
    /// The lines of one string column.
    Text,
    /// Arrow IPC files.
    Arrow,
}

impl OutputFormat {
    /// All formats.
    pub const ALL: [OutputFormat; 5] = [Self::Parquet, Self::Json, Self::Csv, Self::Text, Self::Arrow];

    /// The name in SQL and in options, lower case.
    pub fn name(self) -> &'static str {
        match self {
            OutputFormat::Parquet => "parquet",
            OutputFormat::Json => "json",
            OutputFormat::Csv => "csv",
            OutputFormat::Text => "text",
            OutputFormat::Arrow => "arrow",
        }
    }
}

impl fmt::Display for OutputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for OutputFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| {
            let names = Self::ALL.map(OutputFormat::name).join(", ");
            Error::Invalid(format!("'{text}' is not a file format that can be written; there are {names}"))
        })
    }
}

/// The sink in messages: `the parquet sink`.
fn sink_name(format: OutputFormat) -> String {
    format!("the {format} sink")
}

/// Appends the rows of each batch to a directory, as files.
///
/// **Exactly once, for every reader.** Files are staged below `.tidemill/` in the output
/// directory, under names that no reader of files takes for data, and made durable there. Only
/// when the batch is committed are they renamed to their final names. So a plain directory
/// listing (DuckDB, pandas, `ls`) sees each committed row once and never a row of a batch that did
/// not end well; no manifest has to be read, as Spark's `_spark_metadata` must be. The files of a
/// batch appear one after the other. After a crash between the commit and the renames,
/// [`Sink::recover`] does what is left of them.
///
/// **Names** are `part-<partition>-<batch>-<query>[-<number>]` and the extension of codec and
/// format, e.g. `part-00000-0000000012-6f0c8a5294f54b6e9d0b3f6a2d1c7e10.zstd.parquet`. They are never used twice, also not
/// by other queries that write to the same directory. A batch without rows writes no file.
///
/// **Partition columns** become directories `column=value/`, with values written and escaped as
/// Spark and Hive do, and are left out of the files. Null and the empty string share the directory
/// `__HIVE_DEFAULT_PARTITION__`. With more values than files can stay open (64 per writer), rows
/// are gathered in memory and a value may get several files per batch.
///
/// **Options** are those of DataFusion's own writers (with or without `format.`: `compression`,
/// `max_row_group_size`, `delimiter`, `compression::column`, …), with the session's settings as
/// defaults, so that a Parquet file has the same properties as one that `COPY` wrote; and these:
///
/// | option | formats | meaning |
/// |---|---|---|
/// | `maxRecordsPerFile` | all | the most rows in a file, exact; 0 or less is no limit |
/// | `targetFileSize` | all | a file is closed by the rows, 8192 at a time, that bring it to this size or beyond it. The size is estimated from what is encoded so far: Parquet counts pages that are not compressed yet, and a codec of whole files keeps back up to a few hundred kB |
/// | `compactAfter` | all | once a directory has so many small files of batches that the checkpoint does not have any more, they become one file, at once for every reader. On local disks of Linux and macOS; small is what is below `targetFileSize`, 128 MiB if that is not set |
/// | `existingOutput` | all | what to do at the first start if another query has written to the directory, or this one with a checkpoint that is gone: `warn` (default), `allow`, `refuse` |
/// | `compression` | all | `none`, and for parquet `snappy`, `gzip`, `zstd`, `brotli`, `lz4`, `lz4_raw` (default: the session's, `zstd(3)`); for json, csv and text `gzip`, `bzip2`, `xz`, `zstd` (default: none); for arrow `lz4` (default) and `zstd`. A level is given as `zstd(5)` for parquet, else with `compression_level` |
/// | `header`, `sep`, `quoteAll`, `nullValue`, `ignoreLeadingWhiteSpace`, `ignoreTrailingWhiteSpace` | csv | as in Spark; the default of `header` is DataFusion's `datafusion.catalog.has_header`, true |
/// | `ignoreNullFields` | json | `false` writes nulls out; default true, as in Spark |
///
/// **Memory** of a writer is bounded by about 64 MiB for encoding and 32 MiB for gathering, and is
/// registered with the session's memory pool; under pressure row groups get smaller. Dictionary
/// columns are written by value in Arrow files, which cannot hold changing dictionaries.
#[derive(Debug)]
pub struct FileSink {
    format: OutputFormat,
    url: Url,
    schema: SchemaRef,
    partition_by: Vec<String>,
    reading_options: BTreeMap<String, String>,
    existing: ExistingOutput,
    shared: Arc<Shared>,
    merging: Option<Merging>,
    missing: Mutex<Option<Missing>>,
}

impl FileSink {
    /// A sink of `format` into the directory `url`, which `storage` is rooted at. `schema` is that
    /// of the query's result and `partition_by` names columns of it.
    ///
    /// Fails for an unknown or bad option, for a column whose type the format cannot hold, and for
    /// partition columns that do not exist or have no text form.
    pub fn try_new(
        format: OutputFormat,
        url: Url,
        storage: Arc<dyn Storage>,
        schema: SchemaRef,
        partition_by: Vec<String>,
        mut options: Options,
        session: &SessionState,
    ) -> Result<Self> {
        let existing = ExistingOutput::take(&mut options)?;
        let merging = Merging::take(&mut options, storage.as_ref())?;
        let mut layout = Layout::try_new(&schema, &partition_by, &sink_name(format))?;
        if format == OutputFormat::Arrow {
            layout = layout.without_dictionaries();
        }
        let encoding = options::encoding(format, &layout, &options, session)?;
        let limits = options::limits(&options)?;
        let reading_options = options::for_readers(format, &options, session)?;
        let runtime = Arc::clone(session.runtime_env());
        let shared = Arc::new(Shared { storage, layout, encoding, limits, runtime });
        Ok(Self {
            format,
            url,
            schema,
            partition_by,
            reading_options,
            existing,
            shared,
            merging,
            missing: Mutex::default(),
        })
    }

    /// What merges work with.
    fn output(&self) -> Output<'_> {
        Output { shared: &self.shared, url: &self.url }
    }

    /// Completes the publication of the last committed batch, and removes what is staged up to it.
    async fn recover_batch(
        &self,
        query_id: Uuid,
        last: u64,
        prepared: &Value,
        merges: Option<&mut Merges>,
    ) -> Result<()> {
        let manifest = Manifest::read(last, prepared)?;
        let mut staged = self.staged(&names::query_prefix(query_id)).await?;
        let (moves, published) = manifest.left_to_publish(&staged);
        if let Some(merges) = merges.filter(|_| !moves.is_empty()) {
            self.output().refuse_later(merges, last, &manifest).await?;
        }
        self.rename(&moves).await?;
        let missing = self.find_missing(last, published).await?;
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = missing;
        // What is published is among it: some disks keep the old name when the power goes.
        staged.retain(|path| names::batch_of(path).is_some_and(|batch| batch <= last));
        self.remove(staged).await
    }

    async fn rename(&self, moves: &[(String, String)]) -> Result<()> {
        if moves.is_empty() {
            return Ok(());
        }
        let renamed = self.shared.storage.rename(moves).await;
        // Also after an error, because some of the files may be in place.
        listing::forget(&self.shared.runtime, &self.url);
        self.shared.explained(renamed).await
    }

    /// Removes staged files, several at a time.
    async fn remove(&self, paths: impl IntoIterator<Item = String>) -> Result<()> {
        stream::iter(paths)
            .map(|path| async move { self.shared.storage.delete(&path).await })
            .buffer_unordered(PARALLEL_CALLS)
            .try_collect()
            .await
    }

    /// The staged files whose names start with `prefix`.
    async fn staged(&self, prefix: &str) -> Result<BTreeSet<String>> {
        let files = self.shared.storage.list(names::STAGING).await?;
        Ok(files.into_iter().map(|file| file.path).filter(|path| path.starts_with(prefix)).collect())
    }

    /// A file that is not staged any more was published. If it is gone from its place too, somebody
    /// moved, compacted or deleted it since, which is theirs to do; but it is worth a word.
    async fn find_missing(&self, batch_id: u64, published: Vec<&str>) -> Result<Option<Missing>> {
        let sizes = stream::iter(published.into_iter().map(str::to_string))
            .map(|path| async move { Ok((self.shared.storage.size(&path).await?, path)) })
            .buffered(PARALLEL_CALLS);
        let missing: Vec<String> = sizes
            .try_filter_map(|(size, path)| async move { Ok::<_, Error>(size.is_none().then_some(path)) })
            .try_collect()
            .await?;
        let files = missing.len();
        Ok(missing.into_iter().next().map(|first| Missing { batch_id, files, first }))
    }

    /// Says which files are missing, with the first batch that comes after theirs: once, however often a start has found
    /// nothing to do.
    fn report_missing(&self) {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Missing { batch_id, files, first }) = missing {
            tracing::warn!(
                sink = %self.url,
                batch_id,
                files,
                "files of the last batch, '{first}' among them, are not where they were published; \
                 taking it that they were moved or deleted since"
            );
        }
    }
}

/// Files of the batch before a run that are not where they were published.
#[derive(Debug)]
struct Missing {
    batch_id: u64,
    files: usize,
    first: String,
}

#[async_trait]
impl Sink for FileSink {
    fn description(&self) -> String {
        format!("FileSink[{}]", self.url)
    }

    fn location(&self) -> Option<&Url> {
        Some(&self.url)
    }

    fn shows_only_published(&self) -> bool {
        true
    }

    fn definition(&self, checkpoint: &dyn Storage) -> SinkDefinition {
        SinkDefinition {
            format: self.format.name().to_string(),
            location: Some(location_of(&self.url, checkpoint.url())),
            columns: crate::types::columns(self.schema.fields()),
            partition_by: self.partition_by.clone(),
            options: self.reading_options.clone(),
        }
    }

    fn check_output_mode(&self, mode: OutputMode) -> Result<()> {
        let advice = match mode {
            OutputMode::Append => return Ok(()),
            OutputMode::Update => {
                "Use output mode append (an aggregation then needs a watermark on the event time it groups by), \
                 or a sink that takes changed rows, such as console or memory"
            }
            OutputMode::Complete => {
                "Use output mode append (an aggregation then needs a watermark on the event time it groups by), \
                 or a sink that replaces its content, such as memory"
            }
        };
        Err(Error::Invalid(format!(
            "{} '{}' does not take output mode {mode}: files are only ever added. {advice}",
            sink_name(self.format),
            self.url
        )))
    }

    async fn recover(&self, query_id: Uuid, last: Option<(u64, &Value)>) -> Result<()> {
        let Some((last, prepared)) = last else {
            return self.existing.check(&self.url, query_id, &self.shared.runtime).await;
        };
        let Some(merging) = &self.merging else {
            // Another run may have merged, and have died, or may be about to.
            self.output().settle().await?;
            return self.recover_batch(query_id, last, prepared, None).await;
        };
        let mut merges = merging.hold().await;
        self.output().recover(&mut merges, query_id).await?;
        self.recover_batch(query_id, last, prepared, Some(&mut *merges)).await
    }

    async fn writer(&self, batch: SinkBatch, partition: usize) -> Result<Box<dyn SinkWriter>> {
        if let Some(merging) = &self.merging {
            merging.begin_batch().await;
        }
        Ok(Box::new(FileWriter::new(Arc::clone(&self.shared), batch, partition)))
    }

    async fn prepare(&self, batch: SinkBatch, reports: Vec<Value>) -> Result<Value> {
        let mut files = Vec::new();
        for report in &reports {
            files.extend(Manifest::read(batch.batch_id, report)?.files);
        }
        Manifest::new(files).write()
    }

    async fn publish(&self, batch_id: u64, prepared: &Value) -> Result<()> {
        self.report_missing();
        let manifest = Manifest::read(batch_id, prepared)?;
        let Some(merging) = &self.merging else { return self.rename(&manifest.moves()).await };
        let mut merges = merging.hold().await;
        self.output().refuse_later(&mut merges, batch_id, &manifest).await?;
        self.rename(&manifest.moves()).await?;
        self.output().batch_published(&mut merges, batch_id, &manifest).await;
        Ok(())
    }

    async fn abort(&self, batch: SinkBatch) -> Result<()> {
        let staged = self.staged(&names::batch_prefix(&batch)).await?;
        self.remove(staged).await?;
        if let Some(merging) = &self.merging {
            self.output().batch_aborted(&mut *merging.hold().await).await;
        }
        Ok(())
    }

    fn is_maintained(&self) -> bool {
        self.merging.is_some()
    }

    async fn maintain(&self, query_id: Uuid, oldest: u64) {
        if let Some(merging) = &self.merging {
            self.output().merge(merging, query_id, oldest).await;
        }
    }

    fn end_maintenance(&self) {
        if let Some(merging) = &self.merging {
            merging.end();
        }
    }

    async fn close(&self) -> Result<()> {
        if let Some(merging) = &self.merging {
            self.output().close(&mut *merging.hold().await).await;
        }
        self.shared.storage.remove_empty_dir(names::STAGING).await
    }
}
