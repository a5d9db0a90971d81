//! Arrow IPC files and streams.
//!
//! DataFusion's own reader takes columns by position and one kind per scan; this one takes them by
//! name, so that a file with other columns gives the right values or an error, and tells files from
//! streams by their first bytes.

use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::{FileReader, StreamReader};
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

const FILE_MAGIC: &[u8; 6] = b"ARROW1";

/// Reads Arrow IPC files and streams.
#[derive(Debug, Clone)]
pub(super) struct ArrowIpcSource {
    table: TableSchema,
    projection: SplitProjection,
    metrics: ExecutionPlanMetricsSet,
}

impl ArrowIpcSource {
    /// Reads all columns of `table`.
    pub(super) fn new(table: TableSchema) -> Self {
        let projection = SplitProjection::unprojected(&table);
        Self { table, projection, metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl FileSource for ArrowIpcSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        _: &FileScanConfig,
        _: usize,
    ) -> DataFusionResult<Arc<dyn FileOpener>> {
        let schema = Arc::new(self.table.file_schema().project(&self.projection.file_indices)?);
        let opener = Arc::new(ArrowIpcOpener { store, schema });
        ProjectionOpener::try_new(self.projection.clone(), opener, self.table.file_schema())
    }

    fn table_schema(&self) -> &TableSchema {
        &self.table
    }

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
        "arrow"
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

struct ArrowIpcOpener {
    store: Arc<dyn ObjectStore>,
    /// The wanted columns.
    schema: SchemaRef,
}

impl FileOpener for ArrowIpcOpener {
    fn open(&self, file: PartitionedFile) -> DataFusionResult<FileOpenFuture> {
        let store = Arc::clone(&self.store);
        let schema = Arc::clone(&self.schema);
        Ok(Box::pin(async move {
            let result = store.get(file.path()).await?;
            let part = Part::of(&file);
            let (source, batches) = match result.payload {
                GetResultPayload::File(file, _) => read(BufReader::new(file), &schema, part)?,
                GetResultPayload::Stream(_) => read(Cursor::new(result.bytes().await?), &schema, part)?,
            };
            let adapter = BatchAdapterFactory::new(schema).make_adapter(&source)?;
            let adapted = batches.map(move |batch| adapter.adapt_batch(&batch?));
            Ok(futures::stream::iter(adapted).boxed())
        }))
    }
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// The part of a file that is to be read: batch `i` of `n` counts as lying at `i / n` of its bytes,
/// so that adjoining ranges share the batches without looking at the footer together.
#[derive(Debug, Clone, Copy)]
struct Part {
    size: u128,
    start: u128,
    end: u128,
}

impl Part {
    fn of(file: &PartitionedFile) -> Self {
        let (start, end) = file.range();
        Self { size: u128::from(file.object_meta.size), start: start.into(), end: end.into() }
    }

    /// The batches, of `count`, in this part.
    fn batches(self, count: usize) -> std::ops::Range<usize> {
        let first_at = |at: u128| (at * count as u128).div_ceil(self.size.max(1)) as usize;
        let end = if self.end >= self.size { count } else { first_at(self.end) };
        first_at(self.start).min(end)..end
    }
}

/// Opens `input` and gives its columns among those wanted, and its batches with only these columns.
fn read<R: Read + Seek + Send + 'static>(
    mut input: R,
    wanted: &Schema,
    part: Part,
) -> Result<(SchemaRef, Batches), ArrowError> {
    let mut magic = [0; FILE_MAGIC.len()];
    let is_file = input.read_exact(&mut magic).is_ok() && &magic == FILE_MAGIC;
    input.seek(SeekFrom::Start(0))?;
    if is_file {
        let found = FileReader::try_new(&mut input, None)?.schema();
        let columns = columns_of(&found, wanted);
        input.seek(SeekFrom::Start(0))?;
        let mut reader = FileReader::try_new(input, Some(columns.clone()))?;
        let batches = part.batches(reader.num_batches());
        if !batches.is_empty() {
            reader.set_index(batches.start)?;
        }
        Ok((Arc::new(found.project(&columns)?), Box::new(reader.take(batches.len()))))
    } else {
        let found = StreamReader::try_new(&mut input, None)?.schema();
        let columns = columns_of(&found, wanted);
        input.seek(SeekFrom::Start(0))?;
        // A stream can be read only from its start.
        let rows = if part.start == 0 { usize::MAX } else { 0 };
        let reader = StreamReader::try_new(input, Some(columns.clone()))?;
        Ok((Arc::new(found.project(&columns)?), Box::new(reader.take(rows))))
    }
}

fn columns_of(found: &Schema, wanted: &Schema) -> Vec<usize> {
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
