//! Binary files of batches, Arrow IPC and Avro, read from their beginning.
//!
//! Columns become those of the table as `fit` says.

use std::io::{BufReader, Cursor};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatchOptions;
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener, FileScanConfig, FileSource};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr_adapter::PhysicalExprAdapterFactory;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion_datasource::{PartitionedFile, TableSchema};
use futures::StreamExt;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt};

use super::arrow_ipc;
#[cfg(feature = "avro")]
use super::avro;
use super::batches::{Batches, Input, Part};
use super::fit::FileColumns;
use super::steady::SteadyPieces;

/// A format of such files.
#[derive(Debug, Clone, Copy)]
pub(super) enum WholeFileFormat {
    /// Arrow IPC, files and streams.
    Arrow,
    /// Avro object container files.
    #[cfg(feature = "avro")]
    Avro,
}

/// Reads such files.
#[derive(Debug, Clone)]
pub(super) struct WholeFileSource {
    format: WholeFileFormat,
    table: TableSchema,
    projection: SplitProjection,
    columns: Arc<FileColumns>,
    metrics: ExecutionPlanMetricsSet,
}

impl WholeFileSource {
    /// Reads all columns of `table`, made as `columns` says.
    pub(super) fn new(format: WholeFileFormat, table: TableSchema, columns: Arc<FileColumns>) -> Self {
        let projection = SplitProjection::unprojected(&table);
        Self { format, table, projection, columns, metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl FileSource for WholeFileSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        _: &FileScanConfig,
        _: usize,
    ) -> DataFusionResult<Arc<dyn FileOpener>> {
        let schema = Arc::new(self.table.file_schema().project(&self.projection.file_indices)?);
        let columns = Arc::clone(&self.columns);
        let opener = WholeFileOpener { format: self.format, store, columns, schema };
        ProjectionOpener::try_new(self.projection.clone(), Arc::new(opener), self.table.file_schema())
    }

    fn table_schema(&self) -> &TableSchema {
        &self.table
    }

    /// Batches are as large as the files make them; DataFusion cuts those that are too large.
    fn with_batch_size(&self, _: usize) -> Arc<dyn FileSource> {
        Arc::new(self.clone())
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        Some(&self.projection.source)
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        &self.metrics
    }

    fn file_type(&self) -> &str {
        match self.format {
            WholeFileFormat::Arrow => "arrow",
            #[cfg(feature = "avro")]
            WholeFileFormat::Avro => "avro",
        }
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

struct WholeFileOpener {
    format: WholeFileFormat,
    store: Arc<dyn ObjectStore>,
    columns: Arc<FileColumns>,
    /// The wanted columns.
    schema: SchemaRef,
}

impl FileOpener for WholeFileOpener {
    fn open(&self, file: PartitionedFile) -> DataFusionResult<FileOpenFuture> {
        let format = self.format;
        let store = Arc::clone(&self.store);
        let wanted = Arc::clone(&self.schema);
        self.columns.found.note_file();
        let columns = Arc::clone(&self.columns);
        let (maker, table) = (Arc::clone(&self.columns), Arc::clone(&self.schema));
        Ok(Box::pin(async move {
            let part = Part::of(&file);
            let is_small = file.object_meta.size <= SMALL;
            let result = store.get(file.path()).await?;
            let input: Input = match result.payload {
                GetResultPayload::File(file, _) => {
                    Box::new(BufReader::with_capacity(PIECE, SteadyPieces::new(file, &result.meta)))
                }
                GetResultPayload::Stream(_) => Box::new(Cursor::new(result.bytes().await?)),
            };
            let open = move || {
                let choose = |found: &Schema| {
                    columns.note_strangers(found);
                    let needed = columns.needed(found, &wanted);
                    needed.map_err(|error| ArrowError::SchemaError(error.strip_backtrace()))
                };
                match format {
                    WholeFileFormat::Arrow => arrow_ipc::read(input, &choose, part),
                    #[cfg(feature = "avro")]
                    WholeFileFormat::Avro => avro::read(input, &choose),
                }
            };
            let (found, batches) = aside(is_small, open).await??;
            let fitting = fitting(&maker, &table, found)?;
            let rows = futures::stream::try_unfold(batches, move |mut batches: Batches| async move {
                let (next, batches) = aside(is_small, move || (batches.next(), batches)).await?;
                Ok(next.transpose()?.map(|batch| (batch, batches)))
            });
            Ok(rows.map(move |batch: DataFusionResult<_>| fitted(&batch?, &fitting, &table)).boxed())
        }))
    }
}

/// What makes the columns of `table` of those of a file, `found`. (DataFusion's own adapter simplifies them by the columns of
/// the table, where a file may have others.)
fn fitting(
    columns: &FileColumns,
    table: &SchemaRef,
    found: SchemaRef,
) -> DataFusionResult<Vec<Arc<dyn PhysicalExpr>>> {
    let adapter = columns.create(Arc::clone(table), found)?;
    let column =
        |(index, field): (usize, &FieldRef)| adapter.rewrite(Arc::new(Column::new(field.name(), index)));
    table.fields().iter().enumerate().map(column).collect()
}

fn fitted(
    rows: &RecordBatch,
    fitting: &[Arc<dyn PhysicalExpr>],
    table: &SchemaRef,
) -> DataFusionResult<RecordBatch> {
    let columns = fitting.iter().map(|column| column.evaluate(rows)?.into_array(rows.num_rows()));
    let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(table), columns, &options)?)
}

/// How many bytes are read at a time, at least.
const PIECE: usize = 64 << 10;

/// A file of so many bytes is read at once sooner than by handing it over.
const SMALL: u64 = 1 << 20;

/// Does what reads and decodes for a long time where it holds nothing else up, and can be left to itself
/// when the query is stopped.
async fn aside<T: Send + 'static>(
    is_small: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> DataFusionResult<T> {
    if is_small {
        return Ok(work());
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result),
        Err(error) => match error.try_into_panic() {
            // Whoever reads the stream knows what to say.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(DataFusionError::Execution(format!("reading was given up: {error}"))),
        },
    }
}
