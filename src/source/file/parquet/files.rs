//! Opens files whose footers, indexes and pages are looked over.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::{
    CachedParquetMetaData, DefaultParquetFileReaderFactory,
};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache};
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::{AsyncFileReader, MetadataFetch};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::{
    FooterTail, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader,
};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_datasource::PartitionedFile;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use super::footer::{check_bytes, check_groups, check_indexes, chunk_range};
use super::{Result, contained, damaged, floats, pages, texts, zones};

/// The files of a store.
#[derive(Clone)]
pub(in crate::source::file) struct CheckedFiles {
    store: Arc<dyn ObjectStore>,
    /// Keeps footers of files that are opened several times.
    footers: Option<Arc<FileMetadataCache>>,
    /// Names of columns that are read as text.
    texts: Arc<BTreeSet<String>>,
    /// The files that are open. DataFusion lets one reader read the footer and another, if there are filters, the pages.
    open: Arc<Mutex<HashMap<Path, Weak<Opened>>>>,
}

impl fmt::Debug for CheckedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckedFiles").field("store", &self.store).finish_non_exhaustive()
    }
}

impl CheckedFiles {
    pub(in crate::source::file) fn new(
        store: Arc<dyn ObjectStore>,
        footers: Option<Arc<FileMetadataCache>>,
    ) -> Self {
        Self { store, footers, texts: Arc::default(), open: Arc::default() }
    }

    /// The same, where columns with these names are read as text.
    pub(in crate::source::file) fn reading(self, texts: BTreeSet<String>) -> Self {
        Self { texts: Arc::new(texts), ..self }
    }

    /// What a file says of itself. `hint`: how many bytes from its end are asked for first.
    pub(super) async fn metadata(
        &self,
        file: &ObjectMeta,
        hint: Option<usize>,
        indexes: PageIndexPolicy,
    ) -> Result<Arc<ParquetMetaData>> {
        let known = self.known(file);
        let has_indexes =
            |known: &ParquetMetaData| known.column_index().is_some() && known.offset_index().is_some();
        if let Some(known) = &known {
            // Others may have read it without looking.
            check_groups(known, file.size)?;
        }
        let metadata = match known {
            Some(known) if indexes == PageIndexPolicy::Skip || has_indexes(&known) => return Ok(known),
            Some(known) => known,
            None => Arc::new(self.footer(file, hint).await?),
        };
        let metadata = match indexes {
            PageIndexPolicy::Skip => metadata,
            _ => Arc::new(self.with_indexes(file, metadata, indexes).await?),
        };
        if let Some(footers) = &self.footers {
            let entry = Arc::new(CachedParquetMetaData::new(Arc::clone(&metadata)));
            footers.put(&file.location, CachedFileMetadataEntry::new(file.clone(), entry));
        }
        Ok(metadata)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Path, Weak<Opened>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, file: &ObjectMeta) -> Option<Arc<ParquetMetaData>> {
        let entry = self.footers.as_ref()?.get(&file.location).filter(|entry| entry.is_valid_for(file))?;
        let metadata = entry.file_metadata.as_any().downcast_ref::<CachedParquetMetaData>()?;
        let metadata = metadata.parquet_metadata();
        // Others may have put it there.
        (!floats::are_told(metadata)).then(|| Arc::clone(metadata))
    }

    async fn footer(&self, file: &ObjectMeta, hint: Option<usize>) -> Result<ParquetMetaData> {
        const TAIL: u64 = 8;
        let size = file.size;
        let wanted = (hint.unwrap_or_default() as u64).clamp(TAIL, size.max(TAIL));
        let Some(start) = size.checked_sub(wanted) else {
            return Err(damaged(format!("{size} bytes are too few for a Parquet file")));
        };
        let end = self.bytes(file, start..size).await?;
        let Some((rest, tail)) = end.split_last_chunk::<{ TAIL as usize }>() else {
            return Err(damaged("it is shorter than it was"));
        };
        let tail = FooterTail::try_new(tail)?;
        if tail.is_encrypted_footer() {
            return Err(ParquetError::General("it is encrypted, and such files cannot be read".into()));
        }
        let length = tail.metadata_length();
        let description = match rest.len().checked_sub(length) {
            Some(start) => end.slice(start..rest.len()),
            None => {
                let start = (size - TAIL).checked_sub(length as u64);
                let start = start.ok_or_else(|| damaged("its footer would begin before it"))?;
                self.bytes(file, start..size - TAIL).await?
            }
        };
        check_bytes(&description, size)?;
        let metadata = contained(|| ParquetMetaDataReader::decode_metadata(&description))?;
        check_groups(&metadata, size)?;
        zones::told(floats::untold(metadata)?)
    }

    async fn with_indexes(
        &self,
        file: &ObjectMeta,
        metadata: Arc<ParquetMetaData>,
        policy: PageIndexPolicy,
    ) -> Result<ParquetMetaData> {
        let mut reader = ParquetMetaDataReader::new_with_metadata(metadata.as_ref().clone())
            .with_page_index_policy(policy);
        reader.load_page_index(Indexes { files: self, file, metadata: &metadata }).await?;
        reader.finish()
    }

    async fn bytes(&self, file: &ObjectMeta, range: Range<u64>) -> Result<Bytes> {
        // As ranges, for these are told from those of a file that has changed.
        let read = self.store.get_ranges(&file.location, std::slice::from_ref(&range)).await;
        let read = read.map_err(|error| ParquetError::External(Box::new(error)))?;
        read.into_iter().next().ok_or_else(|| damaged("it is shorter than it was"))
    }
}

impl ParquetFileReaderFactory for CheckedFiles {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> DataFusionResult<Box<dyn AsyncFileReader + Send>> {
        let object = file.object_meta.clone();
        let plain = DefaultParquetFileReaderFactory::new(Arc::clone(&self.store));
        Ok(Box::new(CheckedFile {
            bytes: plain.create_reader(partition, file, hint, metrics)?,
            opened: self.open().get(&object.location).and_then(Weak::upgrade),
            files: self.clone(),
            object,
            hint,
        }))
    }
}

/// Fetches page indexes.
struct Indexes<'a> {
    files: &'a CheckedFiles,
    file: &'a ObjectMeta,
    metadata: &'a ParquetMetaData,
}

impl MetadataFetch for Indexes<'_> {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        async move {
            let start = range.start;
            let bytes = self.files.bytes(self.file, range).await?;
            check_indexes(self.metadata, start, &bytes)?;
            Ok(bytes)
        }
        .boxed()
    }
}

/// A file that is read.
struct CheckedFile {
    bytes: Box<dyn AsyncFileReader + Send>,
    files: CheckedFiles,
    object: ObjectMeta,
    hint: Option<usize>,
    opened: Option<Arc<Opened>>,
}

impl CheckedFile {
    fn note(&mut self, metadata: &Arc<ParquetMetaData>) -> Arc<Opened> {
        let opened = Arc::new(Opened::new(Arc::clone(metadata)));
        let mut open = self.files.open();
        open.retain(|_, other| other.strong_count() > 0);
        open.insert(self.object.location.clone(), Arc::downgrade(&opened));
        drop(open);
        self.opened = Some(Arc::clone(&opened));
        opened
    }

    /// What its bytes are compared with: there are none that are not.
    async fn opened(&mut self) -> Result<Arc<Opened>> {
        if let Some(opened) = &self.opened {
            return Ok(Arc::clone(opened));
        }
        let metadata = self.files.metadata(&self.object, self.hint, PageIndexPolicy::Skip).await?;
        Ok(self.note(&metadata))
    }
}

/// What is known of a file whose footer was read.
#[derive(Debug)]
struct Opened {
    metadata: Arc<ParquetMetaData>,
    /// Where the columns of its groups are, in this order, and which they are.
    chunks: Vec<(Range<u64>, usize, usize)>,
}

impl Opened {
    fn new(metadata: Arc<ParquetMetaData>) -> Self {
        let mut chunks = Vec::new();
        for (group, rows) in metadata.row_groups().iter().enumerate() {
            let ranges = rows.columns().iter().enumerate();
            chunks.extend(ranges.filter_map(|(column, chunk)| Some((chunk_range(chunk)?, group, column))));
        }
        // Of columns that begin at the same place, all but the last are empty.
        chunks.sort_unstable_by_key(|(range, ..)| (range.start, range.end));
        Self { metadata, chunks }
    }

    /// Looks over pages that were read from `range` on.
    fn check(&self, range: &Range<u64>, bytes: &Bytes) -> Result<()> {
        let before = self.chunks.partition_point(|(chunk, ..)| chunk.start <= range.start);
        let Some((chunk, group, column)) = before.checked_sub(1).and_then(|at| self.chunks.get(at)) else {
            return Ok(());
        };
        // What is no part of a column are page indexes and filters.
        if range.start >= chunk.end || range.is_empty() {
            return Ok(());
        }
        if range.end > chunk.end {
            return Err(damaged("a page lies outside of its column"));
        }
        pages::check(self.metadata.row_group(*group).column(*column), bytes, range == chunk)
    }
}

impl AsyncFileReader for CheckedFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        async move {
            let opened = self.opened().await?;
            let bytes = self.bytes.get_bytes(range.clone()).await?;
            check_indexes(&opened.metadata, range.start, &bytes)?;
            opened.check(&range, &bytes)?;
            Ok(bytes)
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        async move {
            let opened = self.opened().await?;
            let bytes = self.bytes.get_byte_ranges(ranges.clone()).await?;
            for (range, bytes) in ranges.iter().zip(&bytes) {
                opened.check(range, bytes)?;
            }
            Ok(bytes)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        async move {
            let indexes = match (options, &self.files.footers) {
                (Some(options), _) => options.column_index_policy(),
                // They are used again.
                (None, Some(_)) => PageIndexPolicy::Optional,
                (None, None) => PageIndexPolicy::Skip,
            };
            let metadata = self.files.metadata(&self.object, self.hint, indexes).await?;
            self.note(&metadata);
            Ok(match texts::told(&metadata, &self.files.texts)? {
                Some(told) => Arc::new(told),
                None => metadata,
            })
        }
        .boxed()
    }
}
