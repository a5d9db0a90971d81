//! One run's reader of a directory of files.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use datafusion::arrow::datatypes::FieldRef;
use datafusion::catalog::Session;
use datafusion::logical_expr::Expr;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;
use serde_json::value::RawValue;

use super::FileTable;
use super::clean::{Action, Cleaner};
use super::entry::{Entry, FileEntry, Forgotten, Version, files, to_raw};
use super::listing::{self, Listing, Rules};
use super::location::Selection;
use super::news::News;
use super::options::{ChangedFiles, CleanSource};
use super::queue::{FileQueue, Limit, UnreadFile};
use super::report::{CHANGED_FILES, IGNORED_BY_AGE, Report, batch_of, offset};
use super::scan::FileScan;
use super::seen::{Novelty, SeenFiles, forget_threshold_ms};
use super::settle::Settling;
use crate::error::{Error, Result};
use crate::source::{Admission, Source, SourceBatch, SourceContext, SourceScan, Told};

/// Files that were taken are looked at again this often, to see whether they have changed…
const LOOK_AT_KNOWN_EVERY: Duration = Duration::from_secs(1);
/// …or after so many times as long as the last such look took.
const LOOK_AT_KNOWN_COST: u32 = 20;

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
    told: Arc<Told>,
    /// The newest modification time among the files of batches that are surely recorded.
    recorded_newest_ms: Mutex<Option<i64>>,
    /// Whether the last listing left files for later that may not be complete.
    is_waiting: AtomicBool,
    /// Whether the kernel tells of everything that happens to the files.
    is_watched: AtomicBool,
}

/// How far the source has read.
#[derive(Debug)]
struct Progress {
    seen: SeenFiles,
    queue: FileQueue,
    settling: Settling,
    /// The last batch's offset; `None` before the first.
    last: Option<u64>,
    /// Whether what is in the queue is all that this run will ever read.
    is_fixed: bool,
    /// When files that were taken are looked at again; `None` before the first time.
    next_look_at_known: Option<Instant>,
    /// Links and empty files of the last listing, which were told of.
    told: HashSet<PathBuf>,
    /// Files of the last listing that have changed, until the next batch is planned: if one that is planned already is
    /// run first, they may be the reason to plan that anew.
    changed: Vec<UnreadFile>,
    /// Whether the last listing has shown no file at all.
    is_nothing_there: bool,
}

impl FileStreamSource {
    pub(super) fn new(table: Arc<FileTable>, context: SourceContext) -> Result<Self> {
        let store = table.location().store(&context.runtime)?;
        let (options, told) = (table.options(), Told::of(context.query_id));
        let progress = Progress {
            seen: SeenFiles::new(options.max_file_age_ms, options.file_name_only),
            queue: FileQueue::new(options.latest_first),
            settling: Settling::new(options.min_file_age),
            last: None,
            is_fixed: false,
            next_look_at_known: None,
            told: HashSet::new(),
            changed: Vec::new(),
            is_nothing_there: false,
        };
        Ok(Self {
            cleaner: Cleaner::new(&table, Arc::clone(&store)),
            report: Arc::new(Report::new(Arc::clone(&told), table.location())),
            told,
            table,
            context,
            store,
            progress: tokio::sync::Mutex::new(progress),
            recorded_newest_ms: Mutex::new(None),
            is_waiting: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
        })
    }

    /// Returns when it is worth listing the files again.
    async fn await_files(&self) {
        loop {
            let outlook = self.progress.lock().await.settling.outlook();
            let Some(bell) = outlook.bell.filter(|_| !outlook.has_news) else { return };
            let of_age = async {
                match outlook.next_of_age {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = bell.rung() => {}
                () = of_age => return,
            }
        }
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

    /// Looks for new files. What is odd about any is said once.
    async fn list(&self, progress: &mut Progress, keep: usize) -> Result<()> {
        let started = Instant::now();
        // Where files are cleaned up, one of a known name is most likely another one.
        let are_cleaned = self.table.options().clean_source != CleanSource::Off;
        let look_at_known = are_cleaned || progress.next_look_at_known.is_none_or(|due| due <= started);
        let rules = Rules {
            pattern: self.table.pattern(),
            seen: &progress.seen,
            window: self.table.options().window,
            look_at_known,
            takes_deeper: progress.last.is_some(),
        };
        let settling = &mut progress.settling;
        let listed = listing::list(self.store.as_ref(), self.table.location(), rules, settling).await?;
        if look_at_known {
            let pause = LOOK_AT_KNOWN_EVERY.max(started.elapsed() * LOOK_AT_KNOWN_COST);
            progress.next_look_at_known = Some(Instant::now() + pause);
        }
        self.is_waiting.store(progress.settling.waiting().len() > 0, Ordering::Relaxed);
        self.is_watched.store(progress.settling.outlook().bell.is_some(), Ordering::Relaxed);
        if listed.from_log && self.table.options().clean_source != CleanSource::Off {
            return Err(Error::Invalid(format!(
                "'{}' holds the output of a streaming query, whose log names its files, so cleanSource must be \
                 off",
                self.table.location()
            )));
        }
        self.tell(progress, &listed);
        progress.is_nothing_there = listed.is_nothing() && progress.settling.waiting().len() == 0;
        if matches!(self.table.location().selection(), Selection::Glob(_)) {
            self.tell_of_nothing(progress);
        }
        let Listing { new, changed, too_old, all, .. } = listed;
        if let Some(all) = all {
            progress.seen.shrink(&all);
        }
        if !too_old.is_empty() {
            self.ignore(progress, &too_old);
        }
        if look_at_known || !changed.is_empty() {
            progress.changed = changed;
        }
        progress.queue.refill(new);
        progress.queue.truncate(keep);
        Ok(())
    }

    /// Warns, once, of a place where there is nothing and never was: most likely it is another one that is meant.
    fn tell_of_nothing(&self, progress: &Progress) {
        let (options, location) = (self.table.options(), self.table.location());
        let is_expected = options.allow_missing_path || !progress.is_nothing_there || progress.last.is_some();
        if is_expected || !self.told.is_first(&("nothing", location.to_string())) {
            return;
        }
        let what = match (location.selection(), &options.path_glob_filter) {
            (Selection::Glob(_), _) => format!("no file matches '{location}'"),
            (_, Some(filter)) => format!("no file in '{location}' is called '{filter}'"),
            _ => format!("there is no file in '{location}'"),
        };
        tracing::warn!("{what} yet: there is nothing to read");
    }

    /// As [`Self::list`], for a run that looks once: whether files that have just been written are complete
    /// is waited for, and told of those that are not.
    async fn list_settled(&self, progress: &mut Progress, keep: usize) -> Result<()> {
        self.list(progress, keep).await?;
        if let Some(rest) = progress.settling.rest_of_wait() {
            tokio::time::sleep(rest).await;
            self.list(progress, keep).await?;
        }
        self.tell_of_nothing(progress);
        let mut waiting = progress.settling.waiting();
        let count = waiting.len();
        if let Some(example) = waiting.next() {
            tracing::warn!(
                source = %self.table.location(),
                "{count} files are still being written, e.g. '{example}': they are left for the next run"
            );
        }
        Ok(())
    }

    /// Warns of links that lead in circles, and of empty files that should not be empty.
    fn tell(&self, progress: &mut Progress, listed: &Listing) {
        let is_record_format = self.table.spec().is_records();
        let empty = listed.empty.iter().filter(|_| !is_record_format).map(|path| PathBuf::from(&**path));
        let now: HashSet<PathBuf> = listed.loops.iter().cloned().chain(empty).collect();
        for path in now.difference(&progress.told) {
            let source = self.table.location();
            if listed.loops.contains(path) {
                tracing::warn!(%source, "does not follow the link '{}', which leads back", path.display());
            } else {
                let format = self.table.spec().name;
                tracing::warn!(
                    %source,
                    "'{}' is empty, which no {format} file is: it is read when it has content",
                    path.display()
                );
            }
        }
        progress.told = now;
    }

    fn ignore(&self, progress: &mut Progress, too_old: &[UnreadFile]) {
        let example = &too_old[0].path;
        tracing::warn!(
            source = %self.table.location(),
            "{} files are not read because they are older than maxFileAge allows, e.g. '{example}': they appeared \
             later than files that are much newer. To read such files set maxFileAge to more before they come",
            too_old.len()
        );
        self.report.count(IGNORED_BY_AGE, too_old.len());
        for file in too_old {
            progress.seen.ignore(&file.path);
        }
    }

    /// What becomes of files that have changed since they were read: gives those to be read again.
    fn judge_changed(&self, progress: &mut Progress, changed: Vec<UnreadFile>) -> Result<Vec<UnreadFile>> {
        let example = &changed[0].path;
        match self.table.options().changed_files {
            ChangedFiles::Read => return Ok(changed),
            ChangedFiles::Fail => {
                let location = self.table.location();
                return Err(Error::InputFile {
                    file: location.display(&location.object_path(example)?),
                    reason: "it has changed since it was read, and what it holds now is not read. Put it back as it \
                             was, or set changedFiles to warn or read"
                        .into(),
                });
            }
            ChangedFiles::Warn => {}
        }
        // A file that goes on growing is told of once.
        let base = self.table.location().base_url();
        let untold = changed.iter().filter(|file| self.told.is_first(&("changed", base, &file.path)));
        let untold: Vec<&UnreadFile> = untold.collect();
        if let Some(UnreadFile { path: example, .. }) = untold.first() {
            tracing::warn!(
                source = %self.table.location(),
                "{} files have changed since they were read, e.g. '{example}', and what they hold now is not read: \
                 put new rows into new files, or set changedFiles to read (then the whole file is read again) or fail",
                untold.len()
            );
            self.report.count(CHANGED_FILES, untold.len());
        }
        for file in &changed {
            progress.seen.note_change(file);
        }
        Ok(Vec::new())
    }

    /// Remembers the taken files, and makes a batch of them. `passed_over`: none of them is read.
    fn batch(&self, progress: &mut Progress, taken: &[UnreadFile], passed_over: bool) -> Result<SourceBatch> {
        let start = offset(progress.last);
        if taken.is_empty() && !passed_over {
            return Ok(SourceBatch { end: start.clone(), start, entries: Vec::new() });
        }
        if !passed_over {
            self.news().tell_directories(taken.iter().map(|file| &*file.path));
        }
        let cleans_up = !matches!(self.table.clean_up(), Action::Keep);
        let entries = taken
            .iter()
            .map(|file| {
                to_raw(&FileEntry {
                    path: file.path.as_ref().into(),
                    size: file.size,
                    modified_ms: file.modified_ms,
                    etag: file.etag.as_deref().map(Into::into),
                    inode: file.inode.filter(|_| cleans_up),
                    from_log: file.from_log,
                    passed_over,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        for file in taken {
            progress.seen.add(&file.path, file.modified_ms, file.size, file.etag.as_deref());
        }
        progress.last = Some(progress.last.map_or(0, |last| last + 1));
        let end = offset(progress.last);
        self.report.move_to(end.clone());
        Ok(SourceBatch { start, end, entries })
    }

    /// The files for the next batch, of those that were listed.
    async fn take(
        &self,
        progress: &mut Progress,
        limit: Limit,
        just_listed: bool,
    ) -> Result<Vec<UnreadFile>> {
        let options = self.table.options();
        let seen = &progress.seen;
        // Two files of one listing can be the same file if only names count.
        let mut names = HashSet::new();
        let mut taken = progress.queue.take(limit, |file| seen.judge(file) != Novelty::Seen);
        taken.retain(|file| !options.file_name_only || names.insert(seen.hash(&file.path)));
        if just_listed {
            return Ok(taken);
        }
        // What has changed or gone meanwhile is left to the next listing.
        listing::still_there(self.store.as_ref(), self.table.location(), taken).await
    }

    fn news(&self) -> News<'_> {
        News { table: &self.table, report: &self.report, store: &self.store, runtime: &self.context.runtime }
    }

    fn is_recorded(&self, newest_ms: Option<i64>) {
        let mut recorded = lock(&self.recorded_newest_ms);
        *recorded = (*recorded).max(newest_ms);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
                    progress.seen.add(&file.path, file.modified_ms, file.size, file.etag.as_deref());
                }
                Entry::Forgotten(forgotten) => progress.seen.forget_before(forgotten.before_ms),
            }
        }
        self.is_recorded(newest);
        self.report.move_to(end);
        Ok(())
    }

    async fn prepare_available_now(&self) -> Result<()> {
        let mut progress = self.progress.lock().await;
        self.list_settled(&mut progress, usize::MAX).await?;
        progress.is_fixed = true;
        Ok(())
    }

    async fn plan(&self, admission: Admission) -> Result<SourceBatch> {
        let options = self.table.options();
        let mut progress = self.progress.lock().await;
        let progress = &mut *progress;
        let passes_over = options.window.from_latest && progress.last.is_none();
        let limit = if passes_over { Limit::None } else { self.limit(admission) };
        let list = !progress.is_fixed && (progress.queue.is_empty() || limit == Limit::None);
        if list {
            let batch = match limit {
                Limit::Files(files) => usize::try_from(files).unwrap_or(usize::MAX),
                Limit::None | Limit::Bytes(_) => usize::MAX,
            };
            let keep = options.max_cached_files.saturating_add(batch);
            match admission {
                // There is no next batch that could take what is not complete yet.
                Admission::Everything => self.list_settled(progress, keep).await?,
                Admission::Limited | Admission::Within(_) => self.list(progress, keep).await?,
            }
        }
        if !progress.changed.is_empty() {
            let changed = std::mem::take(&mut progress.changed);
            let again = self.judge_changed(progress, changed)?;
            progress.queue.add(again);
        }
        let taken = self.take(progress, limit, list).await?;
        self.report.outstanding(&progress.queue);
        let forget_rest =
            options.latest_first || progress.queue.is_worth_little(limit, options.discard_ratio);
        if !progress.is_fixed && forget_rest {
            progress.queue.clear();
        }
        self.batch(progress, &taken, passes_over)
    }

    fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Relaxed)
    }

    fn arrivals(&self) -> Option<BoxFuture<'_, ()>> {
        self.is_watched.load(Ordering::Relaxed).then(|| self.await_files().boxed())
    }

    fn latest_offset(&self) -> Value {
        self.report.latest()
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

    async fn is_outdated(&self, batch: &SourceBatch) -> bool {
        let Ok(files) = files(&batch.entries) else { return false };
        for file in files {
            let Ok(path) = self.table.location().object_path(&file.path) else { continue };
            // Of a file that has gone, rows would be lost without a word.
            if let Ok(now) = self.store.head(&path).await
                && file.version().difference(&Version::from(&now)).is_some()
            {
                return true;
            }
        }
        false
    }

    async fn new_columns(&self, batch: &SourceBatch) -> Result<Vec<FieldRef>> {
        self.news().columns(batch).await
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
        self.news().tell();
        self.report.take()
    }
}
