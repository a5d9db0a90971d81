//! Keys that window functions and aggregates are sorted by, as columns.
//!
//! DataFusion asks of what is computed in a key in which range it is, and fails if that is compared or combined and
//! there is no telling: `ORDER BY length(k) > 2`. Then it does not know the order that it has sorted by itself.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::computed_below::computed_below;

/// `node`, in which no key has a range that is asked for in vain.
pub(super) fn with_sortable_keys(node: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
    let exprs = match &node {
        LogicalPlan::Window(window) => &window.window_expr,
        LogicalPlan::Aggregate(aggregate) => &aggregate.aggr_expr,
        _ => return Ok(Transformed::no(node)),
    };
    let keys: Vec<Expr> = exprs.iter().flat_map(keys_of).filter(is_doubtful).collect();
    match keys.is_empty() {
        true => Ok(Transformed::no(node)),
        false => computed_below(node, &|part| keys.contains(part), Ok),
    }
}

/// What the rows of the function that `expr` calls are sorted by.
fn keys_of(expr: &Expr) -> Vec<Expr> {
    let sorted = |order: &[Sort]| order.iter().map(|sort| sort.expr.clone()).collect::<Vec<_>>();
    match expr.clone().unalias() {
        Expr::WindowFunction(call) => {
            [call.params.partition_by.clone(), sorted(&call.params.order_by)].concat()
        }
        Expr::AggregateFunction(call) if !call.func.supports_within_group_clause() => {
            sorted(&call.params.order_by)
        }
        _ => Vec::new(),
    }
}

/// Whether `key` combines values of which DataFusion may not know the range.
fn is_doubtful(key: &Expr) -> bool {
    let is_known = |part: &Expr| {
        matches!(
            part,
            Expr::Column(_)
                | Expr::Literal(..)
                | Expr::Cast(_)
                | Expr::Alias(_)
                | Expr::BinaryExpr(_)
                | Expr::Negative(_)
        )
    };
    let has = |is: &dyn Fn(&Expr) -> bool| key.exists(|part| Ok(is(part))).unwrap_or(true);
    has(&|part| matches!(part, Expr::BinaryExpr(_))) && has(&|part| !is_known(part))
}
