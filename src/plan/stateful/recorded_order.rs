//! The order in which state has the columns of rows.
//!
//! It is that of the rows of an operator, which follows from how the query is written: from the order in which a
//! subquery gives its columns, say. Where a checkpoint has the same columns in another order, it is that one.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};

/// `node`, whose inputs give their columns in the order that is `recorded` for them, and whether that is another one.
pub(super) fn in_recorded_order(
    node: LogicalPlan,
    recorded: &[&[String]],
) -> DataFusionResult<Transformed<LogicalPlan>> {
    let mut recorded = recorded.iter();
    let moved = node.map_children(|input| match recorded.next().and_then(|names| moved(&input, names)) {
        Some(columns) => {
            let moved = Projection::try_new(columns, Arc::new(input))?;
            Ok(Transformed::yes(LogicalPlan::Projection(moved)))
        }
        None => Ok(Transformed::no(input)),
    })?;
    if moved.transformed { moved.map_data(LogicalPlan::recompute_schema) } else { Ok(moved) }
}

/// `plan` with the columns of `like`, in their order there.
pub(super) fn in_order_of(plan: LogicalPlan, like: &LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let columns = like.schema().columns().into_iter().map(Expr::Column).collect();
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?))
}

/// The columns of `input` as `names` has them, the others behind them; `None` if they are in that order already. Of
/// several columns of one name the first has the first place of that name, and so on.
fn moved(input: &LogicalPlan, names: &[String]) -> Option<Vec<Expr>> {
    let columns = input.schema().columns();
    let place = |index: usize| {
        let name = &columns[index].name;
        let before = columns[..index].iter().filter(|column| column.name == *name).count();
        let mut places = names.iter().enumerate().filter(|(_, recorded)| *recorded == name);
        places.nth(before).map_or(names.len(), |(place, _)| place)
    };
    let mut in_order: Vec<_> = columns.iter().enumerate().collect();
    in_order.sort_by_key(|(index, _)| place(*index));
    let in_order: Vec<&Column> = in_order.into_iter().map(|(_, column)| column).collect();
    let is_moved = in_order.iter().zip(&columns).any(|(moved, column)| *moved != column);
    is_moved.then(|| in_order.into_iter().cloned().map(Expr::Column).collect())
}
