//! A stream that never lets the engine take its short way: rows of the smallest batch are spread over
//! all partitions, so that they go through partial aggregation, the exchange and parallel tasks.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::datasource::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use serde_json::Value as Json;
use serde_json::value::RawValue;
use tidemill::checkpoint::records::SourceDefinition;
use tidemill::source::memory::MemoryStream;
use tidemill::source::{Admission, Source, SourceBatch, SourceContext, SourceProvider, SourceScan};
use tidemill::storage::Storage;
use tidemill::{Result, SourceFactory, SourceRequest};

/// A [`MemoryStream`] that is read in parallel however few rows there are. The first rows are in the
/// first partition and so on, so that the order of rows is that of the partitions.
#[derive(Debug, Clone)]
pub struct Wide(pub MemoryStream);

#[async_trait]
impl SourceFactory for Wide {
    async fn create(&self, _: SourceRequest) -> Result<Arc<dyn SourceProvider>> {
        Ok(Arc::new(self.clone()))
    }
}

impl SourceProvider for Wide {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn schema_is_inferred(&self) -> bool {
        false
    }

    fn with_schema(&self, schema: SchemaRef) -> Result<Arc<dyn SourceProvider>> {
        self.0.with_schema(schema)
    }

    fn format(&self) -> &str {
        self.0.format()
    }

    fn description(&self) -> String {
        self.0.description()
    }

    fn definition(&self, checkpoint: &dyn Storage) -> SourceDefinition {
        self.0.definition(checkpoint)
    }

    fn create(&self, context: SourceContext) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(WideReader(self.0.create(context)?)))
    }
}

#[derive(Debug)]
struct WideReader(Arc<dyn Source>);

#[async_trait]
impl Source for WideReader {
    async fn restore(&self, end: Json, entries: Vec<Box<RawValue>>) -> Result<()> {
        self.0.restore(end, entries).await
    }

    async fn prepare_available_now(&self) -> Result<()> {
        self.0.prepare_available_now().await
    }

    async fn plan(&self, admission: Admission) -> Result<SourceBatch> {
        self.0.plan(admission).await
    }

    fn latest_offset(&self) -> Json {
        self.0.latest_offset()
    }

    fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        partitions: usize,
    ) -> Result<Arc<dyn SourceScan>> {
        let all = self.0.scan(session, None, filters, 1)?;
        Ok(Arc::new(WideScan { all, projection: projection.cloned(), partitions: partitions.max(1) }))
    }

    async fn commit(&self, batch: &SourceBatch) -> Result<()> {
        self.0.commit(batch).await
    }
}

#[derive(Debug)]
struct WideScan {
    /// All columns in one partition.
    all: Arc<dyn SourceScan>,
    projection: Option<Vec<usize>>,
    partitions: usize,
}

impl SourceScan for WideScan {
    fn schema(&self) -> SchemaRef {
        let all = self.all.schema();
        match &self.projection {
            Some(columns) => Arc::new(all.project(columns).unwrap()),
            None => all,
        }
    }

    fn read(&self, batch: &SourceBatch, context: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self.all.read(batch, context)?;
        let source = plan.downcast_ref::<DataSourceExec>().unwrap();
        let rows = source.data_source().downcast_ref::<MemorySourceConfig>().unwrap();
        let batches: Vec<RecordBatch> = rows.partitions().iter().flatten().cloned().collect();
        let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let mut partitions = vec![Vec::new(); self.partitions];
        let mut number = 0;
        for batch in &batches {
            for row in 0..batch.num_rows() {
                partitions[number * self.partitions / count].push(batch.slice(row, 1));
                number += 1;
            }
        }
        Ok(MemorySourceConfig::try_new_exec(&partitions, self.all.schema(), self.projection.clone())?)
    }
}
