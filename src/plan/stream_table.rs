//! Unbounded tables as DataFusion sees them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::TableReference;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableScan, TableType,
};
use datafusion::physical_plan::ExecutionPlan;

use super::watermark::Watermark;
use crate::error::{Error, Result};
use crate::source::SourceProvider;

/// An unbounded table in a DataFusion catalog or plan. It can be queried only by a streaming query:
/// scanning it in a batch query fails with advice.
#[derive(Debug, Clone)]
pub struct StreamTable {
    provider: Arc<dyn SourceProvider>,
    watermark: Option<DeclaredWatermark>,
    /// The statement that made it.
    definition: Option<Arc<str>>,
}

/// The watermark that belongs to a table, whoever reads it.
#[derive(Debug, Clone)]
struct DeclaredWatermark {
    table: TableReference,
    column: String,
    delay: Duration,
    /// The rows of the table with the watermark.
    plan: Arc<LogicalPlan>,
}

impl StreamTable {
    /// The unbounded table that `provider` describes.
    pub fn new(provider: Arc<dyn SourceProvider>) -> Self {
        Self { provider, watermark: None, definition: None }
    }

    /// This table, made by the statement `definition`.
    #[must_use]
    pub(crate) fn with_definition(self, definition: &str) -> Self {
        Self { definition: Some(definition.into()), ..self }
    }

    /// This table, to be registered as `table`, with `column` as the event time: rows may come `delay`
    /// later than the newest one. Every query over the table has this watermark.
    ///
    /// # Errors
    /// If there is no such column, or if it is not a `TIMESTAMP`.
    pub fn with_watermark(self, table: TableReference, column: &str, delay: Duration) -> Result<Self> {
        let plain = provider_as_source(Arc::new(Self::new(Arc::clone(&self.provider))));
        let scan = LogicalPlanBuilder::scan(table.clone(), plain, None)?.build()?;
        let plan = Arc::new(Watermark::try_new(scan, column, delay)?.into_plan());
        let watermark = DeclaredWatermark { table, column: column.into(), delay, plan };
        Ok(Self { watermark: Some(watermark), ..self })
    }

    /// `other` with the watermark of this table, if it has one.
    ///
    /// # Errors
    /// As [`StreamTable::with_watermark`].
    pub(crate) fn give_watermark_to(&self, other: StreamTable) -> Result<StreamTable> {
        match &self.watermark {
            Some(DeclaredWatermark { table, column, delay, .. }) => {
                other.with_watermark(table.clone(), column, *delay)
            }
            None => Ok(other),
        }
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

    fn get_table_definition(&self) -> Option<&str> {
        self.definition.as_deref()
    }

    /// The scan below the watermark is of this table without it.
    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        self.watermark.as_ref().map(|watermark| Cow::Borrowed(watermark.plan.as_ref()))
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
