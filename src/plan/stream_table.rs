//! Unbounded tables as DataFusion sees them.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableScan, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::Error;
use crate::source::SourceProvider;

/// An unbounded table in a DataFusion catalog or plan. It can be queried only by a streaming query:
/// scanning it in a batch query fails with advice.
#[derive(Debug, Clone)]
pub struct StreamTable {
    provider: Arc<dyn SourceProvider>,
}

impl StreamTable {
    /// The unbounded table that `provider` describes.
    pub fn new(provider: Arc<dyn SourceProvider>) -> Self {
        Self { provider }
    }

    /// What the table is.
    pub fn provider(&self) -> &Arc<dyn SourceProvider> {
        &self.provider
    }
}

#[async_trait]
impl TableProvider for StreamTable {
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
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::from(Error::UnsupportedQuery {
            operator: format!("a batch query over the unbounded table {}", self.provider.description()),
            reason: "its rows never end".into(),
            advice: "Start it with write_stream().start(…), or in SQL with CREATE STREAMING QUERY … AS \
                     INSERT INTO … SELECT …"
                .into(),
        }))
    }
}

/// The unbounded table that `scan` reads, if it reads one.
pub(crate) fn stream_table_of(scan: &TableScan) -> Option<StreamTable> {
    let provider = source_as_provider(&scan.source).ok()?;
    provider.downcast_ref::<StreamTable>().cloned()
}

/// The names of the unbounded tables that `plan` reads, in subqueries too, in plan order and each
/// once.
pub fn unbounded_tables(plan: &LogicalPlan) -> Vec<String> {
    let mut names = Vec::new();
    // The closure never fails, so neither does the walk.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && stream_table_of(scan).is_some()
        {
            let name = scan.table_name.to_string();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    names
}

/// Whether `plan` reads an unbounded table, in a subquery too.
pub fn is_unbounded(plan: &LogicalPlan) -> bool {
    !unbounded_tables(plan).is_empty()
}
