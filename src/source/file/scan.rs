//! A planned scan over a file source.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::DFSchema;
use datafusion::common::config::ConfigOptions;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::execution::cache::cache_manager::{CacheManager, CacheManagerConfig, FileMetadataCache};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr_rewriter::unnormalize_col;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use datafusion_datasource::{PartitionedFile, TableSchema};
use object_store::ObjectMeta;
use object_store::path::Path;
use uuid::Uuid;

use super::FileTable;
use super::deal::deal;
use super::digits::any_has_decimals;
use super::entry::{FileEntry, files};
use super::fit::{FileColumns, KnownNames};
use super::format::Format;
use super::found_columns::FoundColumns;
use super::guard::{GuardedSource, JudgedScan};
use super::judge::Judge;
use super::layout::METADATA_COLUMN;
use super::options::ParseMode;
use super::parquet::always_adapted;
use super::pinned::{BatchFiles, Tolerance};
use super::records::{BadRecordFiles, ReadAs, RecordRules, RecordSource};
use super::report::{Report, batch_of};
use super::verdict::Judged;
use super::whole_file::{WholeFileFormat, WholeFileSource};
use crate::error::{Error, Result};
use crate::source::{SourceBatch, SourceScan};

/// Up to so many bytes are read fastest by one partition.
const SMALL_BYTES: u64 = 1 << 20;

/// Reads some columns of a file source. Everything but the files is settled once; per batch the files
/// are filled in.
#[derive(Debug)]
pub(super) struct FileScan {
    table: Arc<FileTable>,
    query_id: Uuid,
    report: Arc<Report>,
    projection: ProjectionExprs,
    schema: SchemaRef,
    partitions: usize,
    rules: Arc<RecordRules>,
    /// What Parquet readers skip rows by.
    predicate: Option<Predicate>,
    /// Whether rows are judged that are no text, and what their reader gives then.
    judged: Option<(Judged, TableSchema, ProjectionExprs)>,
    /// The least size of a batch whose files are cut into parts; `None` if files are never cut.
    min_split_bytes: Option<usize>,
}

#[derive(Debug)]
struct Predicate {
    filter: Arc<dyn PhysicalExpr>,
    /// Whether rows are judged one by one while they are read.
    by_row: bool,
}

impl FileScan {
    pub(super) fn new(
        table: Arc<FileTable>,
        query_id: Uuid,
        report: Arc<Report>,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        partitions: usize,
    ) -> Result<Self> {
        let layout = table.layout();
        let schema = match projection {
            None => Arc::clone(layout.schema()),
            Some(columns) => Arc::new(layout.schema().project(columns)?),
        };
        let config = session.config_options();
        let rules = RecordRules {
            spec: Arc::clone(table.spec()),
            mode: table.options().mode,
            apart: layout.apart(),
            required: layout.required().to_vec(),
        };
        let judged = match judged(&table, &schema)? {
            Some(judged) => {
                let (table, projection) = layout.judged(projection)?;
                Some((judged, table, projection))
            }
            None => None,
        };
        Ok(Self {
            projection: layout.projection(projection)?,
            schema,
            partitions: partitions.max(1),
            // Rows must be judged the same whatever the query asks for.
            predicate: if judged.is_some() { None } else { predicate(&table, session, filters)? },
            judged,
            min_split_bytes: min_split_bytes(&table, config),
            rules: Arc::new(rules),
            table,
            query_id,
            report,
        })
    }

    /// The reader of `files`; counters go to the metrics it has.
    fn reader(
        &self,
        batch: &SourceBatch,
        files: &[(Path, &FileEntry<'_>)],
        is_split: bool,
        found: &Arc<FoundColumns>,
        context: &TaskContext,
    ) -> Result<Arc<dyn FileSource>> {
        let tolerance = Tolerance {
            missing: self.table.options().ignore_missing_files,
            corrupt: self.table.options().ignore_corrupt_files,
        };
        let pin = |metrics: &ExecutionPlanMetricsSet| {
            Arc::new(BatchFiles::new(Arc::clone(self.table.location()), files, tolerance, metrics))
        };
        if self.table.spec().is_records() {
            let metrics = ExecutionPlanMetricsSet::new();
            let bad_records = self.bad_records(batch, context)?;
            return Ok(Arc::new(RecordSource::new(
                Arc::clone(&self.rules),
                self.table.layout().table().clone(),
                &self.projection,
                pin(&metrics),
                Arc::clone(found),
                bad_records,
                metrics,
            )));
        }
        let columns = self.columns(found);
        let inner = self.datafusion_reader(&columns)?;
        let files = pin(inner.metrics());
        let footers = (is_split && inner.is::<ParquetSource>()).then(footer_cache).transpose()?;
        let mode = self.table.options().mode;
        let metrics = inner.metrics().clone();
        let reader = GuardedSource::new(inner, files, columns, Arc::clone(self.table.spec()), footers);
        if self.judged.is_none() {
            return Ok(Arc::new(reader));
        }
        let bad_records = self.bad_records(batch, context)?;
        let drops = mode == ParseMode::DropMalformed || bad_records.is_some();
        Ok(Arc::new(reader.judged(JudgedScan {
            judge: Arc::new(Judge::new(drops, bad_records, &metrics)),
            table: self.table.layout().table().clone(),
            projection: self.projection.clone(),
        })))
    }

    /// How columns of the table are made of those of binary files.
    fn columns(&self, found: &Arc<FoundColumns>) -> Arc<FileColumns> {
        let layout = self.table.layout();
        let name = |column: &usize| layout.table().file_schema().field(*column).name().clone();
        Arc::new(FileColumns {
            rules: self.table.spec().values.clone(),
            required: layout.required().iter().map(name).collect(),
            found: Arc::clone(found),
            known: KnownNames::of(layout.schema().fields()),
            nested: {
                let fields = layout.schema().fields().iter();
                fields.filter(|field| field.data_type().is_nested()).cloned().collect()
            },
            rescues: layout.apart().rescued.is_some(),
            judged: self.judged.as_ref().map(|(judged, ..)| judged.clone()),
        })
    }

    /// A reader of DataFusion's. A new one for each batch: readers share their metrics with their
    /// clones, and those of all batches would add up.
    fn datafusion_reader(&self, columns: &Arc<FileColumns>) -> Result<Arc<dyn FileSource>> {
        let (table, projection) = match &self.judged {
            Some((_, table, projection)) => (table.clone(), projection),
            None => (self.table.layout().table().clone(), &self.projection),
        };
        let reader: Arc<dyn FileSource> = match &self.table.spec().format {
            Format::Parquet(options) => {
                // It compares the columns with those of a file only if they differ, and that is where NOT
                // NULL is seen to.
                let table = match self.judged {
                    Some(_) => table,
                    None => self.table.layout().table_without_nulls(),
                };
                let mut reader =
                    ParquetSource::new(table).with_table_parquet_options(options.as_ref().clone());
                if let Some(hint) = options.global.metadata_size_hint {
                    reader = reader.with_metadata_size_hint(hint);
                }
                if let Some(predicate) = &self.predicate {
                    reader = reader
                        .with_predicate(Arc::clone(&predicate.filter))
                        .with_pushdown_filters(predicate.by_row);
                } else if any_has_decimals(&self.schema) {
                    reader = always_adapted(reader);
                }
                Arc::new(reader)
            }
            Format::Arrow => {
                Arc::new(WholeFileSource::new(WholeFileFormat::Arrow, table, Arc::clone(columns)))
            }
            #[cfg(feature = "avro")]
            Format::Avro => Arc::new(WholeFileSource::new(WholeFileFormat::Avro, table, Arc::clone(columns))),
            other => return Err(Error::Invalid(format!("{other:?} is read record by record"))),
        };
        reader.try_pushdown_projection(projection)?.ok_or_else(|| {
            Error::Invalid(format!("the {} reader cannot give single columns", self.table.spec().name))
        })
    }

    fn bad_records(
        &self,
        batch: &SourceBatch,
        context: &TaskContext,
    ) -> Result<Option<(BadRecordFiles, Arc<dyn object_store::ObjectStore>)>> {
        let Some(location) = self.table.bad_records() else { return Ok(None) };
        let store = context.runtime_env().object_store(location.store_url())?;
        let number = batch_of(&batch.end)?.unwrap_or_default();
        let directory = location.object_path(&format!("{}/{number}", self.query_id))?;
        let input = self.table.location();
        let filter = self.table.options().path_glob_filter.as_deref();
        let read = ReadAs::new(self.table.spec(), self.table.pattern(), input.selection(), filter);
        let batch = (self.query_id.to_string(), number);
        Ok(Some((
            BadRecordFiles { store: location.store_url().clone(), directory, batch, read: Some(read) },
            store,
        )))
    }

    /// Whether the file can be read in parts.
    fn can_be_cut(&self, file: &PartitionedFile) -> bool {
        let spec = self.table.spec();
        let is_packed = spec.compression_of(file.path().as_ref()).is_compressed();
        // What is put aside is named after the whole file.
        if is_packed || spec.encoding.is_some() || self.table.bad_records().is_some() {
            return false;
        }
        match &spec.format {
            Format::Json(_) | Format::Text => true,
            // A part of it can be found only by looking at what comes before.
            Format::Csv(_, dialect) => {
                dialect.has_line_records() || (dialect.has_quotes_alone() && self.table.location().is_local())
            }
            Format::Parquet(_) => true,
            // Others would have to be fetched whole for each part.
            Format::Arrow => self.table.location().is_local(),
            _ => false,
        }
    }
}

impl SourceScan for FileScan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn read(&self, batch: &SourceBatch, context: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        let entries = files(&batch.entries)?;
        if entries.is_empty() {
            return Ok(Arc::new(EmptyExec::new(self.schema())));
        }
        let location = self.table.location();
        let mut pinned = Vec::with_capacity(entries.len());
        let mut listed = Vec::with_capacity(entries.len());
        for entry in &entries {
            let path = location.object_path(&entry.path)?;
            listed.push(partitioned_file(&path, entry, self.table.layout().constants(location, entry)?)?);
            pinned.push((path, entry));
        }
        let groups = deal(listed, self.partitions, self.min_split_bytes, |file| self.can_be_cut(file));
        let is_split = groups.iter().flat_map(FileGroup::iter).any(|file| file.range.is_some());
        let found = Arc::new(FoundColumns::default());
        let reader = self.reader(batch, &pinned, is_split, &found, context)?;
        self.report.watch(&batch.end, reader.metrics(), Arc::clone(&found));
        let config = FileScanConfigBuilder::new(location.store_url().clone(), reader)
            .with_file_groups(groups)
            .with_expr_adapter(Some(self.columns(&found) as _))
            // Or partitions take files from one another as they become free, and a batch that is run
            // again adds up floating-point numbers in another order.
            .with_preserve_order(true)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn is_small(&self, batch: &SourceBatch) -> bool {
        /// More files than this are worth being opened side by side.
        const FEW: usize = 64;
        if batch.entries.len() > FEW {
            return false;
        }
        match files(&batch.entries) {
            Ok(files) => files.iter().map(|file| file.size).sum::<u64>() <= SMALL_BYTES,
            Err(_) => true,
        }
    }

    fn details(&self) -> String {
        match &self.predicate {
            Some(predicate) => format!("filter={}", predicate.filter),
            None => String::new(),
        }
    }
}

/// How rows of the columns `wanted` are judged, if they are and are no text.
fn judged(table: &FileTable, wanted: &Schema) -> Result<Option<Judged>> {
    let (layout, options) = (table.layout(), table.options());
    let puts_aside = table.bad_records().is_some();
    if table.spec().is_records() || (options.mode == ParseMode::FailFast && !puts_aside) {
        return Ok(None);
    }
    let (file, apart) = (layout.table().file_schema(), layout.apart());
    let is_wanted = |column: &usize| wanted.field_with_name(file.field(*column).name()).is_ok();
    let corrupt_record = apart.corrupt_record.filter(is_wanted);
    // Rows that are left out must be the same rows whichever columns are asked for.
    let judges_all = options.mode == ParseMode::DropMalformed || puts_aside || corrupt_record.is_some();
    let columns = (0..file.fields().len()).filter(|column| !apart.contains(*column));
    let columns: Vec<usize> = columns.filter(|column| judges_all || is_wanted(column)).collect();
    Ok(Some(Judged {
        columns: Arc::new(file.project(&columns)?),
        tells_records: puts_aside || corrupt_record.is_some(),
        corrupt_record: corrupt_record.map(|column| file.field(column).name().clone()),
    }))
}

fn partitioned_file(
    path: &Path,
    entry: &FileEntry<'_>,
    constants: Vec<datafusion::common::ScalarValue>,
) -> Result<PartitionedFile> {
    let meta = object(path, entry)?;
    Ok(PartitionedFile::new_from_meta(meta).with_partition_values(constants))
}

/// The file as it was listed.
pub(super) fn object(path: &Path, entry: &FileEntry<'_>) -> Result<ObjectMeta> {
    let modified = chrono::DateTime::from_timestamp_millis(entry.modified_ms).ok_or_else(|| {
        Error::damaged("offsets", format!("'{}' was modified at an impossible time", entry.path))
    })?;
    Ok(ObjectMeta {
        location: path.clone(),
        last_modified: modified,
        size: entry.size,
        e_tag: entry.etag.as_ref().map(ToString::to_string),
        version: None,
    })
}

fn min_split_bytes(table: &FileTable, config: &ConfigOptions) -> Option<usize> {
    let records_stay_whole = table.spec().is_records() && table.options().ignore_corrupt_files;
    (config.optimizer.repartition_file_scans && !records_stay_whole)
        .then_some(config.optimizer.repartition_file_min_size)
}

/// A cache of Parquet footers for one batch: the parts of a file share its footer.
fn footer_cache() -> Result<Arc<FileMetadataCache>> {
    const LIMIT: usize = 32 << 20;
    let config = CacheManagerConfig { metadata_cache_limit: LIMIT, ..CacheManagerConfig::default() };
    Ok(CacheManager::try_new(&config)?.get_file_metadata_cache())
}

/// What a Parquet reader can skip rows by, as DataFusion's own scans do: statistics and page indexes
/// always, single rows if the session says so (`pushdown_filters`).
fn predicate(table: &FileTable, session: &dyn Session, filters: &[Expr]) -> Result<Option<Predicate>> {
    let Format::Parquet(options) = &table.spec().format else { return Ok(None) };
    let columns = table.layout().table();
    let schema = DFSchema::try_from(Arc::clone(columns.table_schema()))?;
    let physical: Vec<Arc<dyn PhysicalExpr>> = filters
        .iter()
        .filter(|filter| {
            let metadata = filter.column_refs().iter().any(|column| column.name == METADATA_COLUMN);
            !metadata && !filter.is_volatile()
        })
        // The plan above applies every filter again, so one that cannot be used is no loss.
        .filter_map(|filter| session.create_physical_expr(unnormalize_col(filter.clone()), &schema).ok())
        .collect();
    if physical.is_empty() {
        return Ok(None);
    }
    let template = ParquetSource::new(columns.clone()).with_table_parquet_options(options.as_ref().clone());
    let pushed = template.try_pushdown_filters(physical, session.config_options())?.updated_node;
    let pushed = pushed.as_ref().and_then(|source| source.downcast_ref::<ParquetSource>());
    Ok(pushed.and_then(|source| {
        let by_row = source.table_parquet_options().global.pushdown_filters;
        source.filter().map(|filter| Predicate { filter, by_row })
    }))
}
