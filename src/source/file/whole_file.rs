//! Binary files of batches, Arrow IPC and Avro, read from their beginning.
//!
//! Columns are matched by name, missing ones are null, and types are cast where the plan's type can
//! take the file's (DataFusion's schema adapter).

use std::io::{BufRead, BufReader, Cursor, Seek};
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener, FileScanConfig, FileSource};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr_adapter::BatchAdapterFactory;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion_datasource::{PartitionedFile, TableSchema};
use futures::StreamExt;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt};

use super::arrow_ipc;
#[cfg(feature = "avro")]
use super::avro;

/// A format of such files.
#[derive(Debug, Clone, Copy)]
pub(super) enum WholeFileFormat {
    /// Arrow IPC, files and streams.
    Arrow,
    /// Avro object container files.
    #[cfg(feature = "avro")]
    Avro,
}

/// The bytes of a file.
pub(super) type Input = Box<dyn ReadSeek>;

/// What can be read from any place.
pub(super) trait ReadSeek: BufRead + Seek + Send {}

impl<T: BufRead + Seek + Send> ReadSeek for T {}

/// The batches of a file.
pub(super) type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// Reads such files.
#[derive(Debug, Clone)]
pub(super) struct WholeFileSource {
    format: WholeFileFormat,
    table: TableSchema,
    projection: SplitProjection,
    metrics: ExecutionPlanMetricsSet,
}

impl WholeFileSource {
    /// Reads all columns of `table`.
    pub(super) fn new(format: WholeFileFormat, table: TableSchema) -> Self {
        let projection = SplitProjection::unprojected(&table);
        Self { format, table, projection, metrics: ExecutionPlanMetricsSet::new() }
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
        let opener = WholeFileOpener { format: self.format, store, schema };
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
    /// The wanted columns.
    schema: SchemaRef,
}

impl FileOpener for WholeFileOpener {
    fn open(&self, file: PartitionedFile) -> DataFusionResult<FileOpenFuture> {
        let format = self.format;
        let store = Arc::clone(&self.store);
        let wanted = Arc::clone(&self.schema);
        Ok(Box::pin(async move {
            let part = Part::of(&file);
            let result = store.get(file.path()).await?;
            let input: Input = match result.payload {
                GetResultPayload::File(file, _) => Box::new(BufReader::new(file)),
                GetResultPayload::Stream(_) => Box::new(Cursor::new(result.bytes().await?)),
            };
            let (found, batches) = match format {
                WholeFileFormat::Arrow => arrow_ipc::read(input, &wanted, part)?,
                #[cfg(feature = "avro")]
                WholeFileFormat::Avro => avro::read(input, &wanted)?,
            };
            let adapter = BatchAdapterFactory::new(wanted).make_adapter(&found)?;
            let adapted = batches.map(move |batch| adapter.adapt_batch(&batch?));
            Ok(futures::stream::iter(adapted).boxed())
        }))
    }
}

/// The part of a file that is to be read: batch `i` of `n` counts as lying at `i / n` of its bytes,
/// so that adjoining ranges share the batches without looking at the footer together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    size: u128,
    start: u128,
    end: u128,
}

impl Part {
    fn of(file: &PartitionedFile) -> Self {
        let (start, end) = file.range();
        Self { size: u128::from(file.object_meta.size), start: start.into(), end: end.into() }
    }

    /// Whether the part begins where the file does.
    pub(super) fn is_first(self) -> bool {
        self.start == 0
    }

    /// The batches, of `count`, in this part.
    pub(super) fn batches(self, count: usize) -> std::ops::Range<usize> {
        let first_at = |at: u128| (at * count as u128).div_ceil(self.size.max(1)) as usize;
        let end = if self.end >= self.size { count } else { first_at(self.end) };
        first_at(self.start).min(end)..end
    }
}

/// The positions in `found` of the wanted columns.
pub(super) fn columns_of(found: &Schema, wanted: &Schema) -> Vec<usize> {
    let wanted = |name: &str| wanted.field_with_name(name).is_ok();
    (0..found.fields().len()).filter(|column| wanted(found.field(*column).name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_share_the_batches() {
        for count in [0, 1, 2, 7, 100] {
            for cuts in [vec![0, 10], vec![0, 1, 10], vec![0, 3, 6, 10], (0..=10).collect::<Vec<u128>>()] {
                let read: Vec<usize> = cuts
                    .windows(2)
                    .flat_map(|cut| Part { size: 10, start: cut[0], end: cut[1] }.batches(count))
                    .collect();
                assert_eq!(read, (0..count).collect::<Vec<_>>(), "{count} batches cut at {cuts:?}");
            }
        }
    }
}
