//! Formats that consist of text records: JSON lines, CSV and text.
//!
//! They are read with Arrow's decoders, like DataFusion's own readers read them, but record by
//! record where it matters: a record is the same record however a file is cut into parts, and a
//! malformed one is found, named, dropped, kept with nulls or put aside, as `mode` says.

#[cfg(feature = "avro")]
mod avro;
mod bad_messages;
mod bad_records;
mod bytes;
mod columns;
pub(super) mod csv;
mod csv_dialect;
mod csv_feeding;
mod csv_fields;
mod csv_infer;
mod csv_parts;
mod csv_seen;
mod debezium;
mod decoder;
pub(super) mod json;
mod messages;
mod protobuf;
mod reader;
pub(super) mod strangers;
mod text;

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener, FileScanConfig, FileSource};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use datafusion_datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion_datasource::{FileRange, PartitionedFile, TableSchema};
use futures::StreamExt;
use object_store::ObjectStore;

#[cfg(feature = "avro")]
pub use self::avro::WriterSchemas;
pub use self::bad_messages::{BadMessage, BadMessageFiles, BadMessageWriter, BadMessages};
pub use self::bad_records::retried_name;
pub(super) use self::bad_records::{BadRecordFiles, BadRecordWriter, Place, ReadAs};
pub(super) use self::bytes::ByteSource;
use self::columns::RecordColumns;
use self::csv::CsvDecoder;
use self::csv_dialect::CsvDialect;
pub(super) use self::csv_dialect::separator_line;
pub(super) use self::csv_infer::infer_csv;
use self::csv_parts::whole_records;
pub(super) use self::csv_seen::CsvColumn;
use self::decoder::RecordDecoder;
pub(super) use self::decoder::{no_value, shorten};
use self::json::{DocumentDecoder, JsonDecoder};
pub use self::messages::{MessageFormat, MessageReader, ReadMessages};
use self::reader::{ReaderContext, RecordReader};
use self::strangers::Strangers;
use self::text::TextDecoder;
use super::format::{Format, FormatSpec};
use super::found_columns::FoundColumns;
use super::layout::{Apart, as_planned};
use super::options::ParseMode;
use super::pinned::{BatchFiles, PinnedStore, is_cut};

/// Counts records that did not fit the schema.
pub(super) const MALFORMED_ROWS: &str = "numMalformedRows";
/// Counts those of them that are rows all the same, with nulls for what does not fit.
pub(super) const MALFORMED_ROWS_KEPT: &str = "numMalformedRowsKept";

/// How the records of a table are read; the same for all its scans and batches.
#[derive(Debug, Clone)]
pub(super) struct RecordRules {
    pub(super) spec: Arc<FormatSpec>,
    pub(super) mode: ParseMode,
    /// Columns of the file that are no fields of its records.
    pub(super) apart: Apart,
    /// The positions of NOT NULL columns among those of the file.
    pub(super) required: Vec<usize>,
}

/// Reads the records of the files of one batch.
#[derive(Debug, Clone)]
pub(super) struct RecordSource {
    rules: Arc<RecordRules>,
    table: TableSchema,
    projection: SplitProjection,
    files: Arc<BatchFiles>,
    found: Arc<FoundColumns>,
    /// Where malformed records go, and the store it is in.
    bad_records: Option<(BadRecordFiles, Arc<dyn ObjectStore>)>,
    batch_size: usize,
    metrics: ExecutionPlanMetricsSet,
    malformed: Count,
    kept: Count,
}

impl RecordSource {
    /// Reads `files`, giving `projection` of the columns of `table`.
    pub(super) fn new(
        rules: Arc<RecordRules>,
        table: TableSchema,
        projection: &ProjectionExprs,
        files: Arc<BatchFiles>,
        found: Arc<FoundColumns>,
        bad_records: Option<(BadRecordFiles, Arc<dyn ObjectStore>)>,
        metrics: ExecutionPlanMetricsSet,
    ) -> Self {
        let projection = SplitProjection::new(table.file_schema(), projection);
        let malformed = MetricBuilder::new(&metrics).global_counter(MALFORMED_ROWS);
        let kept = MetricBuilder::new(&metrics).global_counter(MALFORMED_ROWS_KEPT);
        // DataFusion says how large batches are before it opens a file.
        Self {
            rules,
            table,
            projection,
            files,
            found,
            bad_records,
            batch_size: 8192,
            metrics,
            malformed,
            kept,
        }
    }
}

impl FileSource for RecordSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        _: usize,
    ) -> DataFusionResult<Arc<dyn FileOpener>> {
        let file_schema = self.table.file_schema();
        // Rows that are left out must be the same rows whichever columns are asked for.
        let judge_all = self.rules.mode == ParseMode::DropMalformed || self.bad_records.is_some();
        let columns = RecordColumns::new(
            file_schema,
            self.rules.apart,
            &self.rules.required,
            &self.projection.file_indices,
            judge_all,
        )?;
        let opener = RecordOpener {
            store: Arc::new(PinnedStore::new(store, Arc::clone(&self.files))),
            columns: Arc::new(columns),
            source: self.clone(),
        };
        let opener = ProjectionOpener::try_new(self.projection.clone(), Arc::new(opener), file_schema)?;
        Ok(Arc::new(PlannedOpener { inner: opener, schema: config.projected_schema()? }))
    }

    fn table_schema(&self) -> &TableSchema {
        &self.table
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self { batch_size, ..self.clone() })
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        Some(&self.projection.source)
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        &self.metrics
    }

    fn file_type(&self) -> &str {
        self.rules.spec.name
    }

    /// Files are dealt out by the scan, which knows which of them can be read in parts.
    fn supports_repartitioning(&self) -> bool {
        false
    }

    fn try_pushdown_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> DataFusionResult<Option<Arc<dyn FileSource>>> {
        let merged = self.projection.source.try_merge(projection)?;
        let projection = SplitProjection::new(self.table.file_schema(), &merged);
        Ok(Some(Arc::new(Self { projection, ..self.clone() })))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        datafusion::physical_plan::apply_expression_roots(self.projection.source.iter(), f)
    }
}

struct RecordOpener {
    store: Arc<dyn ObjectStore>,
    columns: Arc<RecordColumns>,
    source: RecordSource,
}

impl RecordOpener {
    fn decoder(&self, file: &PartitionedFile) -> DataFusionResult<Box<dyn RecordDecoder>> {
        let columns = &self.columns;
        let batch_size = self.batch_size(file);
        let values = &self.source.rules.spec.values;
        let location = self.source.files.location();
        let url = columns
            .are_rescued()
            .then(|| location.file_url(location.relative(file.path()).unwrap_or(file.path().as_ref())));
        let strangers = Strangers::new(url.as_ref().map(AsRef::as_ref));
        Ok(match &self.source.rules.spec.format {
            Format::Json(_) => Box::new(JsonDecoder::new(columns, values, strangers, batch_size)?),
            Format::JsonDocument(_) => {
                Box::new(DocumentDecoder::new(columns, values, strangers, batch_size)?)
            }
            Format::Csv(_, dialect) => Box::new(CsvDecoder::new(
                Arc::clone(dialect),
                Arc::clone(columns),
                values.clone(),
                strangers,
                batch_size,
            )),
            Format::Text => Box::new(TextDecoder::new(Arc::clone(&columns.decoded_schema), batch_size)),
            other => return Err(DataFusionError::Internal(format!("{other:?} has no records"))),
        })
    }

    /// Decoders make room for a whole batch in advance; a small file needs less.
    fn batch_size(&self, file: &PartitionedFile) -> usize {
        const SHORTEST_RECORD: usize = 8;
        const SMALL: usize = 64 << 10;
        let (start, end) = file.range();
        let bytes = usize::try_from(end - start).unwrap_or(usize::MAX);
        let compressed = self.source.rules.spec.compression_of(file.path().as_ref()).is_compressed();
        let batch_size = self.source.batch_size.max(1);
        if bytes > SMALL || compressed { batch_size } else { batch_size.min(bytes / SHORTEST_RECORD + 1) }
    }

    /// The dialect of `file` if it is cut, and its lines need not be records.
    fn cut(&self, file: &PartitionedFile) -> Option<Arc<CsvDialect>> {
        match &self.source.rules.spec.format {
            Format::Csv(_, dialect) if file.range.is_some() && !dialect.has_line_records() => {
                Some(Arc::clone(dialect))
            }
            _ => None,
        }
    }

    fn terminator(&self) -> u8 {
        match &self.source.rules.spec.format {
            Format::Csv(_, dialect) => dialect.terminator(),
            _ => b'\n',
        }
    }
}

impl FileOpener for RecordOpener {
    fn open(&self, file: PartitionedFile) -> DataFusionResult<FileOpenFuture> {
        let decoder = self.decoder(&file)?;
        let cut = self.cut(&file);
        let compression = self.source.rules.spec.compression_of(file.path().as_ref());
        let encoding = self.source.rules.spec.encoding;
        let files = Arc::clone(&self.source.files);
        let relative = files.location().relative(file.path()).unwrap_or(file.path().as_ref());
        let bad_records = self.source.bad_records.as_ref();
        let bad_records =
            bad_records.map(|(place, store)| place.writer(Arc::clone(store), relative)).transpose()?;
        let mut context = ReaderContext {
            store: Arc::clone(&self.store),
            files: Arc::clone(&files),
            found: Arc::clone(&self.source.found),
            columns: Arc::clone(&self.columns),
            mode: self.source.rules.mode,
            malformed: self.source.malformed.clone(),
            kept: self.source.kept.clone(),
            bad_records,
            terminator: self.terminator(),
            batch_size: self.source.batch_size.max(1),
            file,
        };
        Ok(Box::pin(async move {
            let bytes = match opened(&mut context, cut, compression).await {
                Ok(Some(bytes)) => bytes.written_in(encoding),
                Ok(None) => return Ok(futures::stream::empty().boxed()),
                Err(error) => match files.judge(context.file.path(), error) {
                    Some(error) => return Err(error.into()),
                    None => return Ok(futures::stream::empty().boxed()),
                },
            };
            let reader = RecordReader::open(context, bytes, decoder).await.map_err(DataFusionError::from)?;
            let rows = futures::stream::try_unfold(reader, |mut reader| async move {
                let rows = reader.next().await.map_err(DataFusionError::from)?;
                Ok(rows.map(|rows| (rows, reader)))
            });
            Ok(rows.boxed())
        }))
    }
}

/// Opens a file, or the records that begin in a part of one, if there are any. `cut`: the dialect of a part whose
/// lines need not be records.
async fn opened(
    context: &mut ReaderContext,
    cut: Option<Arc<CsvDialect>>,
    compression: FileCompressionType,
) -> DataFusionResult<Option<ByteSource>> {
    if let Some(dialect) = cut {
        let records = whole_records(&dialect, &context.store, &context.file).await?;
        if records.is_empty() {
            return Ok(None);
        }
        context.file.range = Some(FileRange { start: records.start as i64, end: records.end as i64 });
    }
    if compression != FileCompressionType::UNCOMPRESSED && context.files.ignores_corrupt() {
        check(&context.store, &context.file, compression).await?;
    }
    ByteSource::open(&context.store, &context.file, compression, context.terminator).await.map(Some)
}

/// Fails if the file is not what was compressed: that is known at its end only, and rows that come before are none of
/// intact records. One that is cut is intact up to there.
async fn check(
    store: &Arc<dyn ObjectStore>,
    file: &PartitionedFile,
    compression: FileCompressionType,
) -> DataFusionResult<()> {
    const PIECE: usize = 1 << 20;
    let mut bytes = ByteSource::open(store, file, compression, b'\n').await?;
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        piece.clear();
        match bytes.read(&mut piece, PIECE).await {
            Ok(false) => {}
            Ok(true) => return Ok(()),
            Err(error) if is_cut(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Gives rows under the schema of the scan.
struct PlannedOpener {
    inner: Arc<dyn FileOpener>,
    schema: SchemaRef,
}

impl FileOpener for PlannedOpener {
    fn open(&self, file: PartitionedFile) -> DataFusionResult<FileOpenFuture> {
        let opening = self.inner.open(file)?;
        let schema = Arc::clone(&self.schema);
        Ok(Box::pin(async move {
            let rows = opening.await?;
            Ok(rows.map(move |rows| Ok(as_planned(rows?, &schema)?)).boxed())
        }))
    }
}
