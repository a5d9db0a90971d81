//! What is in a source at the moment, as a bounded table.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use uuid::Uuid;

use crate::clock::SystemClock;
use crate::source::{Admission, SourceContext, SourceProvider};

/// The rows that a streaming query would read in one batch if it began now: the same values, errors and rules.
/// Every scan looks anew.
#[derive(Debug)]
pub(crate) struct SnapshotTable {
    provider: Arc<dyn SourceProvider>,
}

impl SnapshotTable {
    pub(crate) fn new(provider: Arc<dyn SourceProvider>) -> Self {
        Self { provider }
    }
}

#[async_trait]
impl TableProvider for SnapshotTable {
    fn schema(&self) -> SchemaRef {
        self.provider.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        // Nothing is written in its name: there is no query.
        let context = SourceContext {
            query_id: Uuid::nil(),
            runtime: Arc::clone(session.runtime_env()),
            clock: Arc::new(SystemClock),
        };
        let source = self.provider.create(context)?;
        let batch = source.plan(Admission::Everything).await?;
        let partitions = session.config().target_partitions();
        let scan = source.scan(session, projection, filters, partitions)?;
        Ok(scan.read(&batch, &session.task_ctx())?)
    }
}
