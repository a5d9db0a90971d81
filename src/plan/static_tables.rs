//! The parts of a streaming plan that read only bounded tables.
//!
//! Such a part gives the same rows for every batch as long as its tables stay what they are. So it
//! is cut out of the plan, read for itself, and read again only when a table has changed; see
//! [`StaticTables`](super::static_refresh::StaticTables). The rest of the plan, which has a leaf in
//! its place, is planned physically once for all batches.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, internal_err};
use datafusion::datasource::source_as_provider;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};

use super::bind::reads_stream;
use crate::error::Result;
use crate::exec::node::Node;
use crate::exec::static_scan::{StaticPart, StaticTable};

/// A part that was cut out of a plan.
#[derive(Debug)]
pub(super) struct CutPart {
    /// What the plan's leaf gives.
    pub(super) part: Arc<StaticPart>,
    /// What it is to give, optimised.
    pub(super) plan: LogicalPlan,
    /// The tables that it reads, in subqueries too.
    pub(super) tables: Vec<Arc<dyn TableProvider>>,
}

/// `plan`, which is optimised, with a leaf in the place of every largest part that reads bounded
/// tables and nothing else, and that gives the same rows whenever it is asked. Also gives the parts.
pub(super) fn cut(plan: LogicalPlan) -> Result<(LogicalPlan, Vec<CutPart>)> {
    let mut parts = Vec::new();
    let plan = plan.transform_down_with_subqueries(|node| cut_node(node, &mut parts))?.data;
    Ok((plan, parts))
}

fn cut_node(node: LogicalPlan, parts: &mut Vec<CutPart>) -> DataFusionResult<Transformed<LogicalPlan>> {
    match &node {
        // Belongs to the expression that it is in; what it consists of may be cut.
        LogicalPlan::Subquery(_) => return Ok(Transformed::no(node)),
        // Its inner scans are of what it found so far, not of tables.
        LogicalPlan::RecursiveQuery(_) if !is_static(&node)? => {
            return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
        }
        _ if !is_static(&node)? => return Ok(Transformed::no(node)),
        _ => {}
    }
    let (names, tables) = tables_of(&node)?;
    if tables.is_empty() {
        return Ok(Transformed::no(node));
    }
    let schema = Arc::clone(node.schema().inner());
    let part = Arc::new(StaticPart::new(parts.len(), names.join(", "), schema));
    let leaf = StaticTableNode { part: Arc::clone(&part), schema: Arc::clone(node.schema()) };
    parts.push(CutPart { part, plan: node, tables });
    let leaf = LogicalPlan::Extension(Extension { node: Arc::new(leaf) });
    Ok(Transformed::new(leaf, true, TreeNodeRecursion::Jump))
}

/// Whether the rows of `plan` depend on bounded tables alone: not on a source, on what a function
/// happens to give, on the time of the batch, or on a row of the query around it.
fn is_static(plan: &LogicalPlan) -> DataFusionResult<bool> {
    if reads_stream(plan) {
        return Ok(false);
    }
    let mut fixed = true;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                fixed &= !expr.is_volatile_node() && !matches!(expr, Expr::OuterReferenceColumn(..));
                Ok(if fixed { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
            })
        })
    })?;
    Ok(fixed)
}

/// Tables, and their names, each once.
type NamedTables = (Vec<String>, Vec<Arc<dyn TableProvider>>);

/// The tables that `plan` reads.
fn tables_of(plan: &LogicalPlan) -> DataFusionResult<NamedTables> {
    let (mut names, mut tables) = (Vec::new(), Vec::new());
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let name = scan.table_name.to_string();
            if !names.contains(&name) {
                names.push(name);
            }
            tables.push(source_as_provider(&scan.source)?);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok((names, tables))
}

/// The leaf of a logical plan in the place of a part that was cut out.
#[derive(Debug)]
struct StaticTableNode {
    part: Arc<StaticPart>,
    schema: DFSchemaRef,
}

impl PartialEq for StaticTableNode {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.part, &other.part)
    }
}

impl Eq for StaticTableNode {}

impl Hash for StaticTableNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.part).hash(state);
    }
}

impl PartialOrd for StaticTableNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for StaticTableNode {
    fn name(&self) -> &str {
        "StaticTable"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        Vec::new()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticTable: {}", self.part)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        if !inputs.is_empty() {
            return internal_err!("a static table has no inputs");
        }
        Ok(Self { part: Arc::clone(&self.part), schema: Arc::clone(&self.schema) })
    }
}

/// Plans the leaves that [`cut`] puts into a plan.
pub(super) struct StaticTablePlanner;

#[async_trait]
impl ExtensionPlanner for StaticTablePlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        _: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> DataFusionResult<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<StaticTableNode>() else { return Ok(None) };
        Ok(Some(Node::leaf(StaticTable::new(Arc::clone(&node.part)))))
    }
}
