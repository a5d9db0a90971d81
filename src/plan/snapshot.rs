//! What is in sources at the moment, as a bounded table.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use uuid::Uuid;

use crate::clock::SystemClock;
use crate::error::{Error, Result};
use crate::source::{Admission, SourceContext, SourceProvider};

/// The rows that a streaming query would read in one batch if it began now: the same values, errors and rules.
/// Every scan looks anew.
#[derive(Debug)]
pub(crate) struct SnapshotTable {
    providers: Vec<Arc<dyn SourceProvider>>,
    schema: SchemaRef,
}

impl SnapshotTable {
    /// The rows of all `providers`, whose columns are those of any of them.
    pub(crate) fn try_new(providers: Vec<Arc<dyn SourceProvider>>) -> Result<Self> {
        let schemas = providers.iter().map(|provider| provider.schema().as_ref().clone());
        let schema = Schema::try_merge(schemas).map_err(|error| {
            Error::Invalid(format!("the locations have different columns: {error}. Give the columns"))
        })?;
        let schema = Arc::new(schema);
        let with_all = |provider: Arc<dyn SourceProvider>| match provider.schema() == schema {
            true => Ok(provider),
            false => provider.with_schema(Arc::clone(&schema)),
        };
        Ok(Self { providers: providers.into_iter().map(with_all).collect::<Result<_>>()?, schema })
    }
}

#[async_trait]
impl TableProvider for SnapshotTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
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
        let mut scans = Vec::with_capacity(self.providers.len());
        for provider in &self.providers {
            // Nothing is written in its name: there is no query.
            let context = SourceContext {
                query_id: Uuid::nil(),
                runtime: Arc::clone(session.runtime_env()),
                clock: Arc::new(SystemClock),
            };
            let source = provider.create(context)?;
            let batch = source.plan(Admission::Everything).await?;
            let partitions = session.config().target_partitions();
            let scan = source.scan(session, projection, filters, partitions)?;
            scans.push(scan.read(&batch, &session.task_ctx())?);
        }
        UnionExec::try_new(scans)
    }
}
