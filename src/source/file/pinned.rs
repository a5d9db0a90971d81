//! Files as they were listed: a batch reads these bytes or fails.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, RenameOptions, coalesce_ranges,
};

use super::disk;
use super::entry::{FileEntry, Version};
use super::location::FileLocation;
use super::steady::{self, ChangedWhileRead};
use crate::error::Error;

/// Counts files that were left out because they had gone.
pub(super) const MISSING_FILES: &str = "numMissingFiles";
/// Counts files whose rest was left out because it cannot be decoded.
pub(super) const CORRUPT_FILES: &str = "numCorruptFiles";

/// The files of one batch, and what is done about those that cannot be read.
#[derive(Debug)]
pub(super) struct BatchFiles {
    location: Arc<FileLocation>,
    files: HashMap<Path, PinnedFile>,
    tolerance: Tolerance,
    missing: Count,
    corrupt: Count,
}

/// Which files a batch may do without.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tolerance {
    /// Files that have gone (`ignoreMissingFiles`).
    pub(super) missing: bool,
    /// The rest of files that cannot be decoded (`ignoreCorruptFiles`).
    pub(super) corrupt: bool,
}

/// One file as it was listed.
#[derive(Debug)]
struct PinnedFile {
    listed: Version,
    /// What the store said first against reading it. Readers turn errors into text on their way up.
    fault: Mutex<Option<Fault>>,
    left_out: AtomicBool,
}

#[derive(Debug, Clone)]
enum Fault {
    Missing,
    Changed(String),
    Store(String),
}

impl BatchFiles {
    /// Pins `files`; what is left out is counted in `metrics`.
    pub(super) fn new(
        location: Arc<FileLocation>,
        files: &[(Path, &FileEntry<'_>)],
        tolerance: Tolerance,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Self {
        let pin = |(path, entry): &(Path, &FileEntry<'_>)| {
            let file = PinnedFile {
                listed: entry.version(),
                fault: Mutex::new(None),
                left_out: AtomicBool::new(false),
            };
            (path.clone(), file)
        };
        Self {
            location,
            files: files.iter().map(pin).collect(),
            tolerance,
            missing: MetricBuilder::new(metrics).global_counter(MISSING_FILES),
            corrupt: MetricBuilder::new(metrics).global_counter(CORRUPT_FILES),
        }
    }

    /// The file's name in messages.
    pub(super) fn display(&self, path: &Path) -> String {
        self.location.display(path)
    }

    /// Where the files are.
    pub(super) fn location(&self) -> &Arc<FileLocation> {
        &self.location
    }

    /// Whether files that cannot be decoded are left out.
    pub(super) fn ignores_corrupt(&self) -> bool {
        self.tolerance.corrupt
    }

    /// Whether it was decided to leave out (the rest of) a file.
    pub(super) fn is_left_out(&self, path: &Path) -> bool {
        self.files.get(path).is_some_and(|file| file.left_out.load(Ordering::Relaxed))
    }

    /// What reading the file at `path` has come to: `None` if the rest of it is to be left out,
    /// otherwise the error, which names the file.
    pub(super) fn judge(&self, path: &Path, error: DataFusionError) -> Option<Error> {
        let file = self.display(path);
        let fault = self.files.get(path).and_then(|file| lock(&file.fault).clone());
        match fault.or_else(|| self.change_on_disk(path)) {
            Some(Fault::Missing) if self.tolerance.missing => {
                self.leave_out(path, &self.missing, "it has gone")
            }
            Some(Fault::Missing) => Some(Error::InputFile {
                file,
                reason:
                    "it disappeared since it was listed. Put it back, or set ignoreMissingFiles to true to \
                         go on without it"
                        .into(),
            }),
            Some(Fault::Changed(how)) => Some(changed(file, &how)),
            Some(Fault::Store(message)) => Some(Error::storage("read", file, message)),
            None => self.judge_content(path, file, error),
        }
    }

    /// Whether a local file is another one than was listed: what is read of it need not make sense then, and is not to be
    /// taken for what the file holds.
    fn change_on_disk(&self, path: &Path) -> Option<Fault> {
        let listed = self.files.get(path).filter(|_| self.location.is_local())?;
        let now = disk::version_on_disk(&disk::path_of(path)).ok()?;
        let now = Version { inode: None, changed_ns: None, ..now };
        listed.listed.difference(&now).map(Fault::Changed)
    }

    fn judge_content(&self, path: &Path, file: String, error: DataFusionError) -> Option<Error> {
        if let Some(io) = io_errors(&error).find(|io| io.raw_os_error().is_some()) {
            return Some(Error::storage("read", file, io.to_string()));
        }
        if is_change(&error) {
            return Some(changed(file, &ChangedWhileRead.to_string()));
        }
        match Error::from(error) {
            Error::DataFusion(error @ DataFusionError::ResourcesExhausted(_)) => {
                Some(Error::DataFusion(error))
            }
            Error::DataFusion(error) if self.tolerance.corrupt => {
                self.leave_out(path, &self.corrupt, &error.strip_backtrace())
            }
            Error::DataFusion(error) => {
                Some(Error::InputFile { file, reason: plain_reason(&error.strip_backtrace()) })
            }
            error => Some(error),
        }
    }

    fn leave_out(&self, path: &Path, counter: &Count, why: &str) -> Option<Error> {
        let first = self.files.get(path).is_none_or(|file| !file.left_out.swap(true, Ordering::Relaxed));
        if first {
            counter.add(1);
            tracing::warn!(file = self.display(path), "left out (the rest of) an input file: {why}");
        }
        None
    }

    fn record(&self, path: &Path, fault: Fault) {
        if let Some(file) = self.files.get(path) {
            lock(&file.fault).get_or_insert(fault);
        }
    }

    fn record_error(&self, path: &Path, error: &object_store::Error) {
        match error {
            object_store::Error::NotFound { .. } => self.record(path, Fault::Missing),
            error if is_change(error) => self.record(path, Fault::Changed(ChangedWhileRead.to_string())),
            error => self.record(path, Fault::Store(error.to_string())),
        }
    }

    /// Fails if the object is not the one that was listed.
    fn check(&self, path: &Path, now: &ObjectMeta) -> object_store::Result<()> {
        let Some(file) = self.files.get(path) else { return Ok(()) };
        let now = Version::from(now);
        // The tag of a local file is its inode, which is not remembered.
        let Some(how) = file.listed.difference(&now) else { return Ok(()) };
        self.record(path, Fault::Changed(how.clone()));
        Err(object_store::Error::Precondition { path: path.to_string(), source: how.into() })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn changed(file: String, how: &str) -> Error {
    let reason = format!(
        "it changed since it was listed: {how}. A file must stay as it is once it is in the directory of a \
         source; put it back as it was"
    );
    Error::InputFile { file, reason }
}

/// Whether a file did not stay as it was.
fn is_change(error: &(dyn std::error::Error + 'static)) -> bool {
    io_errors(error).any(|io| io.get_ref().is_some_and(|inner| inner.is::<ChangedWhileRead>()))
}

/// Whether a file ended too early.
pub(super) fn is_cut(error: &DataFusionError) -> bool {
    io_errors(error).any(|io| io.kind() == std::io::ErrorKind::UnexpectedEof)
}

/// The I/O errors in the chain of causes.
fn io_errors<'a>(error: &'a (dyn std::error::Error + 'static)) -> impl Iterator<Item = &'a std::io::Error> {
    let first: Option<&'a (dyn std::error::Error + 'static)> = Some(error);
    std::iter::successors(first, |error| error.source()).filter_map(|error| error.downcast_ref())
}

/// DataFusion's text without the words that say only which library found out.
fn plain_reason(text: &str) -> String {
    const NOISE: &[&str] = &[
        "External error: ",
        "External: ",
        "Arrow error: ",
        "Parquet error: ",
        "Parser error: ",
        "Execution error: ",
        "Io error: ",
        "IO error: ",
    ];
    let mut text = text;
    while let Some(rest) = NOISE.iter().find_map(|noise| text.strip_prefix(noise)) {
        text = rest;
    }
    text.to_string()
}

/// An object store that gives only what was listed: reading a file of the batch that has gone or
/// changed fails. One per scan; nothing global knows of it.
#[derive(Debug)]
pub(super) struct PinnedStore {
    inner: Arc<dyn ObjectStore>,
    files: Arc<BatchFiles>,
    is_disk: bool,
}

impl PinnedStore {
    /// `inner`, giving only `files` as they were listed.
    pub(super) fn new(inner: Arc<dyn ObjectStore>, files: Arc<BatchFiles>) -> Self {
        Self { is_disk: disk::is_read_by(inner.as_ref()), inner, files }
    }

    /// `inner`, giving every file as it is, to infer columns from.
    pub(super) fn of_any(inner: Arc<dyn ObjectStore>, location: &FileLocation) -> Self {
        let metrics = ExecutionPlanMetricsSet::new();
        let none = BatchFiles::new(Arc::new(location.clone()), &[], Tolerance::default(), &metrics);
        Self::new(inner, Arc::new(none))
    }
}

impl fmt::Display for PinnedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedStore({})", self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for PinnedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let is_part = options.range.is_some();
        let result = if self.is_disk && disk::is_shunned(location.as_ref()) {
            disk::open(location, options).await
        } else {
            self.inner.get_opts(location, options).await
        };
        let mut result = match result {
            Ok(result) => result,
            Err(error) => {
                // A part that is not there any more is one of a file that has changed.
                if is_part && let Ok(now) = self.inner.head(location).await {
                    self.files.check(location, &now)?;
                }
                self.files.record_error(location, &error);
                return Err(error);
            }
        };
        self.files.check(location, &result.meta)?;
        let stream = match result.payload {
            GetResultPayload::File(file, _) if is_part => {
                steady::part(file, result.meta.clone(), result.range.clone())
            }
            GetResultPayload::Stream(stream) => stream,
            payload => {
                result.payload = payload;
                return Ok(result);
            }
        };
        let (files, path) = (Arc::clone(&self.files), location.clone());
        let watched = stream.inspect_err(move |error| files.record_error(&path, error));
        result.payload = GetResultPayload::Stream(watched.boxed());
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        if self.files.location.is_local() {
            // One open file for all ranges: they are of one and the same file.
            let result = self.get_opts(location, GetOptions::default()).await?;
            if let GetResultPayload::File(file, _) = result.payload {
                let read = steady::ranges(file, result.meta, ranges).await;
                // Anything else may be what the file says of itself.
                return read.inspect_err(|error| {
                    if is_change(error) {
                        self.files.record_error(location, error);
                    }
                });
            }
        }
        let fetch = |range| async move { self.get_range(location, range).await };
        coalesce_ranges(ranges, fetch, OBJECT_STORE_COALESCE_DEFAULT).await
    }

    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> object_store::Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    async fn pinned(tolerance: Tolerance) -> (Arc<InMemory>, PinnedStore, Path, Arc<BatchFiles>) {
        let store = Arc::new(InMemory::new());
        let path = Path::from("in/a.json");
        store.put(&path, PutPayload::from_static(b"0123456789")).await.unwrap();
        let meta = store.head(&path).await.unwrap();
        let entry = FileEntry {
            path: "a.json".into(),
            size: meta.size,
            modified_ms: meta.last_modified.timestamp_millis(),
            etag: meta.e_tag.map(Into::into),
            inode: None,
            from_log: false,
            passed_over: false,
        };
        let location = Arc::new(FileLocation::parse("memory:///in/").unwrap());
        let metrics = ExecutionPlanMetricsSet::new();
        let files = Arc::new(BatchFiles::new(location, &[(path.clone(), &entry)], tolerance, &metrics));
        let dynamic: Arc<dyn ObjectStore> = Arc::clone(&store) as _;
        (store, PinnedStore::new(dynamic, Arc::clone(&files)), path, files)
    }

    fn any_error() -> DataFusionError {
        DataFusionError::Execution("footer is no footer".into())
    }

    #[tokio::test]
    async fn unchanged_files_are_read() {
        let (_, store, path, files) = pinned(Tolerance::default()).await;
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "0123456789");
        let ranges = store.get_ranges(&path, &[1..3, 8..10]).await.unwrap();
        assert_eq!(ranges, ["12", "89"]);
        let error = files.judge(&path, any_error()).unwrap().to_string();
        assert_eq!(error, "input file 'memory:///in/a.json' cannot be read: footer is no footer");
    }

    #[tokio::test]
    async fn a_changed_file_is_never_read() {
        let (inner, store, path, files) = pinned(Tolerance { missing: true, corrupt: true }).await;
        inner.put(&path, PutPayload::from_static(b"9876543210")).await.unwrap();
        assert!(store.get(&path).await.is_err());
        assert!(store.get_range(&path, 0..2).await.is_err());
        assert!(store.get_ranges(&path, std::slice::from_ref(&(0..2))).await.is_err());
        assert!(store.head(&path).await.is_err());
        let error = files.judge(&path, any_error()).unwrap().to_string();
        assert!(error.contains("in/a.json' cannot be read: it changed since it was listed"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_file_can_be_left_out() {
        for ignore in [false, true] {
            let (inner, store, path, files) = pinned(Tolerance { missing: ignore, corrupt: true }).await;
            inner.delete(&path).await.unwrap();
            assert!(store.get(&path).await.is_err());
            let judged = files.judge(&path, any_error());
            assert_eq!(judged.is_none(), ignore);
            assert_eq!(files.is_left_out(&path), ignore);
            assert_eq!((files.missing.value(), files.corrupt.value()), (usize::from(ignore), 0));
            if let Some(error) = judged {
                assert!(error.to_string().contains("disappeared since it was listed"), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn a_corrupt_file_is_counted_once() {
        let (_, _, path, files) = pinned(Tolerance { missing: false, corrupt: true }).await;
        assert!(files.judge(&path, any_error()).is_none());
        assert!(files.judge(&path, any_error()).is_none());
        assert_eq!(files.corrupt.value(), 1);
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_disk_is_no_corruption() {
        let (_, _, path, files) = pinned(Tolerance { missing: true, corrupt: true }).await;
        let disk = DataFusionError::IoError(std::io::Error::from_raw_os_error(5));
        assert!(matches!(files.judge(&path, disk), Some(Error::Storage { .. })));
        let changed = DataFusionError::IoError(std::io::Error::other(ChangedWhileRead));
        let error = files.judge(&path, changed).unwrap().to_string();
        assert!(error.contains("written to while it was read"), "{error}");
        let gzip = DataFusionError::IoError(std::io::ErrorKind::UnexpectedEof.into());
        assert!(files.judge(&path, gzip).is_none());
    }
}
