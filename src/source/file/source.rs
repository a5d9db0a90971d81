//! One run's reader of a directory of files.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use object_store::ObjectStore;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::clean::Cleaner;
use super::entry::{Entry, FileEntry, Forgotten, files, to_raw};
use super::listing::{Listing, list};
use super::pinned::{CORRUPT_FILES, MISSING_FILES};
use super::queue::{FileQueue, Limit, UnreadFile};
use super::records::MALFORMED_ROWS;
use super::scan::FileScan;
use super::seen::{SeenFiles, forget_threshold_ms};
use super::{FileTable, options::CleanSource};
use crate::error::{Error, Result};
use crate::source::{Admission, Source, SourceBatch, SourceContext, SourceScan};

/// The metric of files that are not read because they are older than `maxFileAge`.
const IGNORED_BY_AGE: &str = "numFilesIgnoredByAge";
/// The metrics of files that were listed and not read yet, under the names that Databricks gives them.
const FILES_OUTSTANDING: &str = "numFilesOutstanding";
const BYTES_OUTSTANDING: &str = "numBytesOutstanding";

/// A file source, for one run of one query; Spark's `FileStreamSource`.
///
/// Offsets count batches: `{"logOffset":0}` is the end of the first. The files of a batch are its
/// entries; a file is new if it is not among the entries of any earlier batch.
#[derive(Debug)]
pub(super) struct FileStreamSource {
    table: Arc<FileTable>,
    context: SourceContext,
    store: Arc<dyn ObjectStore>,
    cleaner: Cleaner,
    progress: tokio::sync::Mutex<Progress>,
    report: Arc<Report>,
    /// The newest modification time among the files of batches that are surely recorded.
    recorded_newest_ms: Mutex<Option<i64>>,
}

/// How far the source has read.
#[derive(Debug)]
struct Progress {
    seen: SeenFiles,
    queue: FileQueue,
    /// The last batch's offset; `None` before the first.
    last: Option<u64>,
    /// Whether what is in the queue is all that this run will ever read.
    is_fixed: bool,
}

/// What the progress report says of the source.
#[derive(Debug, Default)]
pub(super) struct Report {
    latest: Mutex<Value>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    /// The metrics of the scans of one batch, and that batch's end.
    scans: Mutex<(Value, Vec<ExecutionPlanMetricsSet>)>,
}

impl Report {
    /// A scan of the batch that ends at `end` counts in `metrics`.
    pub(super) fn watch(&self, end: &Value, metrics: &ExecutionPlanMetricsSet) {
        let mut scans = lock(&self.scans);
        if scans.0 != *end {
            *scans = (end.clone(), Vec::new());
        }
        scans.1.push(metrics.clone());
    }

    fn outstanding(&self, queue: &FileQueue) {
        let mut counts = lock(&self.counts);
        counts.insert(FILES_OUTSTANDING, queue.len() as u64);
        counts.insert(BYTES_OUTSTANDING, queue.bytes());
    }

    fn take(&self) -> BTreeMap<String, String> {
        let counts = std::mem::take(&mut *lock(&self.counts));
        let mut metrics: BTreeMap<String, String> =
            counts.into_iter().map(|(name, count)| (name.to_string(), count.to_string())).collect();
        let (_, scans) = std::mem::take(&mut *lock(&self.scans));
        for name in [MALFORMED_ROWS, MISSING_FILES, CORRUPT_FILES] {
            // Each scan of the batch reads all of it and so meets the same records and files.
            let count = scans
                .iter()
                .filter_map(|scan| scan.clone_inner().sum_by_name(name))
                .map(|m| m.as_usize())
                .max();
            if let Some(count) = count.filter(|count| *count > 0) {
                metrics.insert(name.to_string(), count.to_string());
            }
        }
        metrics
    }
}

impl FileStreamSource {
    pub(super) fn new(table: Arc<FileTable>, context: SourceContext) -> Result<Self> {
        let store = context.runtime.object_store(table.location().store_url())?;
        let options = table.options();
        let progress = Progress {
            seen: SeenFiles::new(options.max_file_age_ms, options.file_name_only),
            queue: FileQueue::new(options.latest_first),
            last: None,
            is_fixed: false,
        };
        Ok(Self {
            cleaner: Cleaner::new(&table, Arc::clone(&store)),
            table,
            context,
            store,
            progress: tokio::sync::Mutex::new(progress),
            report: Arc::default(),
            recorded_newest_ms: Mutex::new(None),
        })
    }

    fn limit(&self, admission: Admission) -> Limit {
        let options = self.table.options();
        match (admission, options.max_files, options.max_bytes) {
            (Admission::Everything, ..) => Limit::None,
            (_, Some(files), _) => Limit::Files(files),
            (_, None, Some(bytes)) | (Admission::Within(bytes), None, None) => Limit::Bytes(bytes),
            _ => Limit::None,
        }
    }

    /// Looks for new files. Files that are ignored are reported once.
    async fn list(&self, progress: &mut Progress, keep: usize) -> Result<()> {
        let Listing { new, too_old, all, from_log } =
            list(self.store.as_ref(), self.table.location(), self.table.pattern(), &progress.seen).await?;
        if from_log && self.table.options().clean_source != CleanSource::Off {
            return Err(Error::Invalid(format!(
                "'{}' holds the output of a streaming query, whose log names its files, so cleanSource must be \
                 off",
                self.table.location()
            )));
        }
        if let Some(all) = all {
            progress.seen.shrink(&all);
        }
        if !too_old.is_empty() {
            self.ignore(progress, &too_old);
        }
        progress.queue.refill(new);
        progress.queue.truncate(keep);
        Ok(())
    }

    fn ignore(&self, progress: &mut Progress, too_old: &[UnreadFile]) {
        let example = &too_old[0].path;
        tracing::warn!(
            source = %self.table.location(),
            "{} files are not read because they are older than maxFileAge allows, e.g. '{example}': they appeared \
             later than files that are much newer",
            too_old.len()
        );
        *lock(&self.report.counts).entry(IGNORED_BY_AGE).or_default() += too_old.len() as u64;
        for file in too_old {
            progress.seen.ignore(&file.path);
        }
    }

    /// Remembers the taken files, and makes a batch of them.
    fn batch(&self, progress: &mut Progress, taken: &[UnreadFile]) -> Result<SourceBatch> {
        let start = offset(progress.last);
        if taken.is_empty() {
            return Ok(SourceBatch { end: start.clone(), start, entries: Vec::new() });
        }
        let entries = taken
            .iter()
            .map(|file| {
                to_raw(&FileEntry {
                    path: file.path.as_ref().into(),
                    size: file.size,
                    modified_ms: file.modified_ms,
                    etag: file.etag.as_deref().map(Into::into),
                    from_log: file.from_log,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        for file in taken {
            progress.seen.add(&file.path, file.modified_ms);
        }
        progress.last = Some(progress.last.map_or(0, |last| last + 1));
        let end = offset(progress.last);
        *lock(&self.report.latest) = end.clone();
        Ok(SourceBatch { start, end, entries })
    }

    fn is_recorded(&self, newest_ms: Option<i64>) {
        let mut recorded = lock(&self.recorded_newest_ms);
        *recorded = (*recorded).max(newest_ms);
    }
}

/// The offset after batch `last`.
fn offset(last: Option<u64>) -> Value {
    last.map_or(Value::Null, |last| json!({ "logOffset": last }))
}

/// The batch that ends at an offset.
pub(super) fn batch_of(offset: &Value) -> Result<Option<u64>> {
    match offset {
        Value::Null => Ok(None),
        offset => offset
            .get("logOffset")
            .and_then(Value::as_u64)
            .map(Some)
            .ok_or_else(|| Error::damaged("offsets", format!("'{offset}' is no offset of a file source"))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Source for FileStreamSource {
    async fn restore(&self, end: Value, entries: Vec<Box<RawValue>>) -> Result<()> {
        let mut progress = self.progress.lock().await;
        progress.last = batch_of(&end)?;
        progress.seen.reserve(entries.len());
        let mut newest = None;
        for raw in &entries {
            match Entry::parse(raw)? {
                Entry::File(file) => {
                    newest = newest.max(Some(file.modified_ms));
                    progress.seen.add(&file.path, file.modified_ms);
                }
                Entry::Forgotten(forgotten) => progress.seen.forget_before(forgotten.before_ms),
            }
        }
        self.is_recorded(newest);
        *lock(&self.report.latest) = end;
        Ok(())
    }

    async fn prepare_available_now(&self) -> Result<()> {
        let mut progress = self.progress.lock().await;
        self.list(&mut progress, usize::MAX).await?;
        progress.is_fixed = true;
        Ok(())
    }

    async fn plan(&self, admission: Admission) -> Result<SourceBatch> {
        let options = self.table.options();
        let limit = self.limit(admission);
        let mut progress = self.progress.lock().await;
        let progress = &mut *progress;
        if !progress.is_fixed && (progress.queue.is_empty() || limit == Limit::None) {
            let batch = match limit {
                Limit::Files(files) => usize::try_from(files).unwrap_or(usize::MAX),
                Limit::None | Limit::Bytes(_) => usize::MAX,
            };
            let keep = options.max_cached_files.saturating_add(batch);
            self.list(progress, keep).await?;
        }
        let seen = &progress.seen;
        // Two files of one listing can be the same file if only names count.
        let mut names = std::collections::HashSet::new();
        let mut taken = progress.queue.take(limit, |file| seen.is_unseen(&file.path));
        taken.retain(|file| !options.file_name_only || names.insert(seen.hash(&file.path)));
        self.report.outstanding(&progress.queue);
        let forget_rest =
            options.latest_first || progress.queue.is_worth_little(limit, options.discard_ratio);
        if !progress.is_fixed && forget_rest {
            progress.queue.clear();
        }
        self.batch(progress, &taken)
    }

    fn latest_offset(&self) -> Value {
        lock(&self.report.latest).clone()
    }

    fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        partitions: usize,
    ) -> Result<Arc<dyn SourceScan>> {
        let scan = FileScan::new(
            Arc::clone(&self.table),
            self.context.query_id,
            Arc::clone(&self.report),
            session,
            projection,
            filters,
            partitions,
        )?;
        Ok(Arc::new(scan))
    }

    async fn commit(&self, batch: &SourceBatch) -> Result<()> {
        let files = files(&batch.entries)?;
        self.is_recorded(files.iter().map(|file| file.modified_ms).max());
        self.cleaner.clean(&files).await;
        Ok(())
    }

    fn forget(&self, entries: Vec<Box<RawValue>>) -> Vec<Box<RawValue>> {
        let recorded = *lock(&self.recorded_newest_ms);
        let threshold = forget_threshold_ms(recorded.into_iter(), self.table.options().max_file_age_ms);
        let Some(threshold) = threshold else { return entries };
        let mut before = None;
        let mut kept = Vec::with_capacity(entries.len());
        for raw in entries {
            match Entry::parse(&raw) {
                Ok(Entry::File(file)) if file.modified_ms < threshold => before = before.max(Some(threshold)),
                Ok(Entry::Forgotten(earlier)) => before = before.max(Some(earlier.before_ms)),
                // What cannot be read is reported by the next restore, not lost here.
                Ok(Entry::File(_)) | Err(_) => kept.push(raw),
            }
        }
        if let Some(before_ms) = before
            && let Ok(raw) = to_raw(&Forgotten { before_ms })
        {
            kept.insert(0, raw);
        }
        kept
    }

    fn take_metrics(&self) -> BTreeMap<String, String> {
        self.report.take()
    }
}
