//! Expressions that give several rows for one, or look at several rows, where there is one row at a time.
//!
//! DataFusion plans them, and fails when it comes to run them.

use datafusion::common::plan_err;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::window_calls::in_use;

/// `plan`, or why it cannot be run.
pub(crate) fn without_misplaced(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| match part {
                Expr::Unnest(_) => plan_err!(
                    "unnest() gives several rows for one, and cannot stand in {}: write it in the SELECT list of a \
                     subquery, as in SELECT item FROM (SELECT unnest(items) AS item FROM t) WHERE item > 1",
                    place(node)
                ),
                Expr::WindowFunction(_) if matches!(node, LogicalPlan::Filter(_)) => plan_err!(
                    "window functions (OVER) are computed after WHERE and HAVING: write QUALIFY, as in SELECT * FROM t \
                     QUALIFY row_number() OVER (PARTITION BY key ORDER BY time) = 1"
                ),
                _ => Ok(TreeNodeRecursion::Continue),
            })
        })
    })?;
    Ok(plan)
}

/// The clause that `node` comes from.
fn place(node: &LogicalPlan) -> &'static str {
    match node {
        LogicalPlan::Aggregate(_) => "GROUP BY or an aggregate function",
        other => in_use(other),
    }
}
