//! Binding a plan to one run of a query: every scan of an unbounded table becomes a scan of the
//! run's own reader of it.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::TableReference;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableScan, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::stream_table::{StreamTable, stream_table_of};
use crate::error::Result;
use crate::exec::node::Node;
use crate::exec::scan::StreamScan;
use crate::source::{Source, SourceProvider};

/// The distinct unbounded tables of `plan`, in plan order. Two scans of the same table (a union
/// with itself, say) share one reader, as in Spark.
pub(crate) fn sources_of(plan: &LogicalPlan) -> Vec<Arc<dyn SourceProvider>> {
    let mut sources: Vec<Arc<dyn SourceProvider>> = Vec::new();
    // The closure never fails, so neither does the walk.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(table) = stream_table_of(scan)
            && position(&sources, table.provider()).is_none()
        {
            sources.push(Arc::clone(table.provider()));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    sources
}

/// A name of the table of each source, in the order of [`sources_of`].
pub(crate) fn tables_of_sources(plan: &LogicalPlan) -> Vec<String> {
    let names = |source| names_of(plan, source).into_iter().next();
    sources_of(plan).iter().filter_map(names).map(|name| name.to_string()).collect()
}

/// The names under which `plan` scans the table `wanted`, each once.
pub(crate) fn names_of(plan: &LogicalPlan, wanted: &Arc<dyn SourceProvider>) -> Vec<TableReference> {
    let mut names = Vec::new();
    // The closure never fails, so neither does the walk.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && stream_table_of(scan).is_some_and(|table| Arc::ptr_eq(table.provider(), wanted))
            && !names.contains(&scan.table_name)
        {
            names.push(scan.table_name.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    names
}

fn position(sources: &[Arc<dyn SourceProvider>], wanted: &Arc<dyn SourceProvider>) -> Option<usize> {
    sources.iter().position(|source| Arc::ptr_eq(source, wanted))
}

/// `plan` with every scan of `from[i]` reading `to(i)` instead, and all schemas above recomputed.
///
/// `to` gives a table of the same columns when a plan is bound to a run, and of the pinned columns
/// when a plan over an inferred schema is put back onto the one its checkpoint knows.
pub(crate) fn replace_tables(
    plan: LogicalPlan,
    from: &[Arc<dyn SourceProvider>],
    to: impl Fn(usize) -> Arc<dyn TableProvider>,
) -> Result<LogicalPlan> {
    let replaced = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::TableScan(scan) = node else {
            if node.inputs().is_empty() {
                return Ok(Transformed::no(node));
            }
            // Column references keep their names; the schemas of nodes above a changed scan do not
            // update by themselves.
            return node.recompute_schema().map(Transformed::yes);
        };
        let Some(index) = stream_table_of(&scan).and_then(|table| position(from, table.provider())) else {
            return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
        };
        let source = provider_as_source(to(index));
        let rebound = TableScanBuilder::new(scan.table_name, source)
            .with_projection(scan.projection)
            .with_filters(scan.filters)
            .with_fetch(scan.fetch)
            .build()?;
        Ok(Transformed::yes(LogicalPlan::TableScan(rebound)))
    })?;
    Ok(replaced.data)
}

/// Whether a scan reads an unbounded table, of a plan that is bound to a run.
pub(super) fn is_bound(scan: &TableScan) -> bool {
    source_as_provider(&scan.source).is_ok_and(|table| table.is::<BoundTable>())
}

/// `plan` over the tables of `pinned` instead of those of `inferred`.
pub(crate) fn pin_schemas(
    plan: LogicalPlan,
    inferred: &[Arc<dyn SourceProvider>],
    pinned: &[Arc<dyn SourceProvider>],
) -> Result<LogicalPlan> {
    replace_tables(plan, inferred, |index| Arc::new(StreamTable::new(Arc::clone(&pinned[index]))))
}

/// `plan` reading from `sources`, which belong to `providers` by position.
pub(crate) fn bind(
    plan: LogicalPlan,
    providers: &[Arc<dyn SourceProvider>],
    sources: &[Arc<dyn Source>],
) -> Result<LogicalPlan> {
    replace_tables(plan, providers, |index| {
        Arc::new(BoundTable {
            source_index: index,
            schema: providers[index].schema(),
            description: providers[index].description(),
            source: Arc::clone(&sources[index]),
        })
    })
}

/// Whether `plan` reads an unbounded table, in a subquery too, whether or not it is bound to a run.
pub(super) fn reads_stream(plan: &LogicalPlan) -> bool {
    let mut found = false;
    // The closure never fails, so neither does the walk.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let is_bound = source_as_provider(&scan.source).is_ok_and(|table| table.is::<BoundTable>());
            found |= is_bound || stream_table_of(scan).is_some();
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

/// An unbounded table as one run reads it.
#[derive(Debug)]
pub(super) struct BoundTable {
    source_index: usize,
    schema: SchemaRef,
    description: String,
    source: Arc<dyn Source>,
}

#[async_trait]
impl TableProvider for BoundTable {
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

    /// `limit` is only a hint and is not used: a cached scan serves every batch.
    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let partitions = state.config().target_partitions();
        let scan = self.source.scan(state, projection, filters, partitions)?;
        let description = self.description.clone();
        Ok(Node::leaf(StreamScan::new(self.source_index, description, scan, partitions)))
    }
}
