//! DataFusion's own readers, reading pinned files and naming the file in every error.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::{FileOpener, FileScanConfig, FileSource, ParquetSource};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::filter_pushdown::FilterPushdownPropagation;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, PhysicalExpr};
use datafusion_datasource::morsel::{Morsel, MorselPlan, MorselPlanner, Morselizer};
use datafusion_datasource::{PartitionedFile, TableSchema};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::ObjectStore;
use object_store::path::Path;

use super::fit::FileColumns;
use super::format::{Format, FormatSpec};
use super::judge::{Judge, JudgedFile};
use super::layout::as_planned;
use super::panics;
use super::parquet::{CheckedFiles, PartPlanner, texts_of};
use super::pinned::{BatchFiles, PinnedStore};
use super::rescued::with_file;

/// A reader of DataFusion's, over the files of one batch.
#[derive(Clone)]
pub(super) struct GuardedSource {
    inner: Arc<dyn FileSource>,
    files: Arc<BatchFiles>,
    columns: Arc<FileColumns>,
    spec: Arc<FormatSpec>,
    /// Keeps footers of Parquet files that are read in several parts.
    footers: Option<Arc<FileMetadataCache>>,
    judged: Option<JudgedScan>,
}

/// A scan whose rows are judged: `inner` gives one column more than it, the verdicts.
#[derive(Clone)]
pub(super) struct JudgedScan {
    pub(super) judge: Arc<Judge>,
    /// The columns of the table without it, and the projection to those that are wanted.
    pub(super) table: TableSchema,
    pub(super) projection: ProjectionExprs,
}

impl GuardedSource {
    /// `inner`, reading `files` only.
    pub(super) fn new(
        inner: Arc<dyn FileSource>,
        files: Arc<BatchFiles>,
        columns: Arc<FileColumns>,
        spec: Arc<FormatSpec>,
        footers: Option<Arc<FileMetadataCache>>,
    ) -> Self {
        Self { inner, files, columns, spec, footers, judged: None }
    }

    /// The same whose rows are judged.
    pub(super) fn judged(self, judged: JudgedScan) -> Self {
        Self { judged: Some(judged), ..self }
    }

    fn around(&self, inner: Arc<dyn FileSource>) -> Self {
        Self { inner, ..self.clone() }
    }

    /// The columns as they were planned: NOT NULL is kept, and not promised.
    fn with_nulls(&self, schema: &Schema) -> SchemaRef {
        let fields = schema.fields().iter().map(|field| match self.columns.required.contains(field.name()) {
            true => Arc::new(field.as_ref().clone().with_nullable(true)),
            false => Arc::clone(field),
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    fn pin(&self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(PinnedStore::new(store, Arc::clone(&self.files)))
    }
}

impl FileSource for GuardedSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> DataFusionResult<Arc<dyn FileOpener>> {
        self.inner.create_file_opener(self.pin(store), config, partition)
    }

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> DataFusionResult<Box<dyn Morselizer>> {
        let store = self.pin(store);
        let mut by_compression: Vec<(FileCompressionType, Arc<dyn Morselizer>)> = Vec::with_capacity(1);
        for file in config.file_groups.iter().flat_map(|group| group.iter()) {
            let compression = self.spec.compression_of(file.path().as_ref());
            if by_compression.iter().any(|(known, _)| *known == compression) {
                continue;
            }
            let mut config = config.clone();
            config.file_compression_type = compression;
            if self.judged.is_some() {
                // It is for the rows that are left.
                config.limit = None;
            }
            let inner = match self.inner.downcast_ref::<ParquetSource>() {
                Some(parquet) => {
                    let files = CheckedFiles::new(Arc::clone(&store), self.footers.clone());
                    let files = files.reading(texts_of(parquet.table_schema().file_schema()));
                    parquet.clone().with_parquet_file_reader_factory(Arc::new(files)).create_morselizer(
                        Arc::clone(&store),
                        &config,
                        partition,
                    )?
                }
                None => self.inner.create_morselizer(Arc::clone(&store), &config, partition)?,
            };
            by_compression.push((compression, Arc::from(inner)));
        }
        // From elsewhere, whatever is read of a group would be fetched for each part.
        let footers = self.footers.clone().filter(|_| self.files.location().is_local());
        Ok(Box::new(GuardedMorselizer {
            by_compression,
            parts: footers.map(|footers| CheckedFiles::new(store, Some(footers))),
            files: Arc::clone(&self.files),
            spec: Arc::clone(&self.spec),
            schema: self.with_nulls(config.projected_schema()?.as_ref()),
            columns: Arc::clone(&self.columns),
            judge: self.judged.as_ref().map(|judged| Arc::clone(&judged.judge)),
        }))
    }

    fn table_schema(&self) -> &TableSchema {
        self.judged.as_ref().map_or_else(|| self.inner.table_schema(), |judged| &judged.table)
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(self.around(self.inner.with_batch_size(batch_size)))
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.inner.filter()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        match &self.judged {
            Some(judged) => Some(&judged.projection),
            None => self.inner.projection(),
        }
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn file_type(&self) -> &str {
        self.inner.file_type()
    }

    fn fmt_extra(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        self.inner.fmt_extra(format, f)
    }

    /// Files are dealt out by the scan, which knows which of them can be read in parts.
    fn supports_repartitioning(&self) -> bool {
        false
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> DataFusionResult<FilterPushdownPropagation<Arc<dyn FileSource>>> {
        let mut result = self.inner.try_pushdown_filters(filters, config)?;
        result.updated_node = result.updated_node.map(|inner| Arc::new(self.around(inner)) as _);
        Ok(result)
    }

    fn try_pushdown_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> DataFusionResult<Option<Arc<dyn FileSource>>> {
        if self.judged.is_some() {
            return Ok(None);
        }
        let inner = self.inner.try_pushdown_projection(projection)?;
        Ok(inner.map(|inner| Arc::new(self.around(inner)) as _))
    }

    fn reorder_files(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        self.inner.reorder_files(files)
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }
}

struct GuardedMorselizer {
    by_compression: Vec<(FileCompressionType, Arc<dyn Morselizer>)>,
    /// Where footers are of Parquet files that are read in several parts.
    parts: Option<CheckedFiles>,
    files: Arc<BatchFiles>,
    spec: Arc<FormatSpec>,
    schema: SchemaRef,
    columns: Arc<FileColumns>,
    judge: Option<Arc<Judge>>,
}

impl fmt::Debug for GuardedMorselizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedMorselizer").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Morselizer for GuardedMorselizer {
    fn plan_file(&self, file: PartitionedFile) -> DataFusionResult<Box<dyn MorselPlanner>> {
        let guard = Guard {
            path: file.path().clone(),
            files: Arc::clone(&self.files),
            schema: Arc::clone(&self.schema),
            rescues: self.columns.rescues,
            judge: self.judge.clone(),
        };
        if matches!(self.spec.format, Format::Parquet(_)) {
            self.columns.found.note_file();
        }
        let compression = self.spec.compression_of(file.path().as_ref());
        let prepared = self.by_compression.iter().find(|(known, _)| *known == compression);
        let (_, inner) = prepared.ok_or_else(|| {
            DataFusionError::Internal(format!("no reader was prepared for '{}'", guard.path))
        })?;
        let planned = match (&self.parts, &self.spec.format) {
            (Some(parts), Format::Parquet(options)) if file.range.is_some() => {
                let hint = options.global.metadata_size_hint;
                Ok(Box::new(PartPlanner::new(parts.clone(), file, hint, Arc::clone(inner))) as _)
            }
            _ => contained(|| inner.plan_file(file)),
        };
        match planned {
            Ok(planner) => Ok(Box::new(GuardedPlanner { inner: Some(planner), guard })),
            Err(error) => {
                guard.judge(error)?;
                Ok(Box::new(GuardedPlanner { inner: None, guard }))
            }
        }
    }
}

/// Judges what goes wrong with one file.
#[derive(Debug, Clone)]
struct Guard {
    path: Path,
    files: Arc<BatchFiles>,
    /// The columns of the scan.
    schema: SchemaRef,
    /// Whether one of them takes what no other takes.
    rescues: bool,
    judge: Option<Arc<Judge>>,
}

impl Guard {
    /// The rows as they were planned.
    fn rows(&self, rows: RecordBatch) -> DataFusionResult<RecordBatch> {
        let rows = as_planned(rows, &self.schema)?;
        if !self.rescues {
            return Ok(rows);
        }
        let location = self.files.location();
        let file = location.file_url(location.relative(&self.path).unwrap_or(self.path.as_ref()));
        with_file(rows, &file)
    }

    /// `Ok` if the rest of the file is to be left out.
    fn judge(&self, error: DataFusionError) -> DataFusionResult<()> {
        self.files.judge(&self.path, error).map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Plans the work on one file; without `inner` there is none.
#[derive(Debug)]
struct GuardedPlanner {
    inner: Option<Box<dyn MorselPlanner>>,
    guard: Guard,
}

impl MorselPlanner for GuardedPlanner {
    fn plan(self: Box<Self>) -> DataFusionResult<Option<MorselPlan>> {
        let guard = self.guard;
        let Some(inner) = self.inner else { return Ok(None) };
        let mut plan = match contained(|| inner.plan()) {
            Ok(Some(plan)) => plan,
            Ok(None) => return Ok(None),
            Err(error) => return guard.judge(error).map(|()| None),
        };
        let morsels = plan
            .take_morsels()
            .into_iter()
            .map(|inner| Box::new(GuardedMorsel { inner, guard: guard.clone() }) as Box<dyn Morsel>);
        let planners = plan.take_ready_planners().into_iter().map(|inner| {
            Box::new(GuardedPlanner { inner: Some(inner), guard: guard.clone() }) as Box<dyn MorselPlanner>
        });
        let mut guarded = MorselPlan::new().with_morsels(morsels.collect()).with_planners(planners.collect());
        if let Some(pending) = plan.take_pending_planner() {
            guarded.set_pending_planner(async move {
                let planned = AssertUnwindSafe(pending).catch_unwind().await;
                let inner = match planned.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))) {
                    Ok(inner) => Some(inner),
                    Err(error) => guard.judge(error).map(|()| None)?,
                };
                Ok(Box::new(GuardedPlanner { inner, guard }) as Box<dyn MorselPlanner>)
            });
        }
        Ok(Some(guarded))
    }
}

/// Readers of binary formats believe a damaged file, and may find out by panicking.
fn contained<T>(read: impl FnOnce() -> DataFusionResult<T>) -> DataFusionResult<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}

fn without_panics(
    rows: BoxStream<'static, DataFusionResult<RecordBatch>>,
) -> BoxStream<'static, DataFusionResult<RecordBatch>> {
    let contained = AssertUnwindSafe(rows).catch_unwind();
    contained.map(|rows| rows.unwrap_or_else(|panic| Err(panicked(panic.as_ref())))).boxed()
}

fn panicked(panic: &(dyn Any + Send)) -> DataFusionError {
    DataFusionError::Execution(panics::reason(panic))
}

#[derive(Debug)]
struct GuardedMorsel {
    inner: Box<dyn Morsel>,
    guard: Guard,
}

impl Morsel for GuardedMorsel {
    fn into_stream(self: Box<Self>) -> BoxStream<'static, DataFusionResult<RecordBatch>> {
        let guard = self.guard;
        if guard.files.is_left_out(&guard.path) {
            return futures::stream::empty().boxed();
        }
        let rows = without_panics(self.inner.into_stream());
        let judged = match &guard.judge {
            Some(judge) => match judge.file(&guard.files, &guard.path) {
                Ok(judged) => Some(judged),
                Err(error) => return futures::stream::once(futures::future::ready(Err(error))).boxed(),
            },
            None => None,
        };
        let reading = Reading { rows, judged, guard };
        futures::stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|rows| (rows, reading)))
        })
        .boxed()
    }
}

/// The rows of a file as they are read.
struct Reading {
    rows: BoxStream<'static, DataFusionResult<RecordBatch>>,
    judged: Option<JudgedFile>,
    guard: Guard,
}

impl Reading {
    async fn next(&mut self) -> DataFusionResult<Option<RecordBatch>> {
        let judged = match self.rows.next().await {
            Some(Ok(rows)) => match &mut self.judged {
                Some(judged) => Some(judged.rows(rows).await?),
                None => Some(rows),
            },
            Some(Err(error)) => {
                self.guard.judge(error)?;
                None
            }
            None => None,
        };
        if let Some(rows) = judged {
            match self.guard.rows(rows) {
                Ok(rows) => return Ok(Some(rows)),
                Err(error) => self.guard.judge(error)?,
            }
        }
        // It is not asked again.
        match self.judged.take() {
            Some(judged) => judged.finish().await.map(|()| None),
            None => Ok(None),
        }
    }
}
