//! Parts of expressions as columns of a projection below their node.

use std::cell::RefCell;
use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection};

use super::values::rewrite_expressions;
use super::window_calls::unused_name;

/// `plan`, a node with one input, with those of its expressions' parts that are `wanted` as columns below it, which
/// `make` makes of the input's columns and those. What the node gives stays as it is.
pub(super) fn computed_below(
    plan: LogicalPlan,
    wanted: &dyn Fn(&Expr) -> bool,
    make: impl FnOnce(LogicalPlan) -> DataFusionResult<LogicalPlan>,
) -> DataFusionResult<Transformed<LogicalPlan>> {
    let [input] = plan.inputs()[..] else { return Ok(Transformed::no(plan)) };
    let input = input.clone();
    let taken = RefCell::new(input.schema().field_names());
    let computed: RefCell<Vec<(Expr, String)>> = RefCell::default();
    let columns = plan.schema().columns();
    let rewritten = rewrite_expressions(plan, &|expr, _| {
        expr.transform_down(|part| {
            if !wanted(&part) {
                return Ok(Transformed::no(part));
            }
            let mut computed = computed.borrow_mut();
            let known = computed.iter().find(|(known, _)| *known == part).map(|(_, name)| name.clone());
            let name = known.unwrap_or_else(|| {
                let name = unused_name(COMPUTED, &mut taken.borrow_mut());
                computed.push((part, name.clone()));
                name
            });
            let column = Expr::Column(Column::new_unqualified(name));
            Ok(Transformed::new(column, true, TreeNodeRecursion::Jump))
        })
    })?;
    let computed = computed.into_inner();
    if computed.is_empty() {
        return Ok(rewritten);
    }
    let own = input.schema().columns().into_iter().map(Expr::Column);
    let below = own.chain(computed.into_iter().map(|(part, name)| part.alias(name))).collect();
    let input = make(LogicalPlan::Projection(Projection::try_new(below, Arc::new(input))?))?;
    let node = rewritten.data;
    let node = node.with_new_exprs(node.expressions(), vec![input])?;
    let plan = match node {
        LogicalPlan::Aggregate(_) => node,
        node => LogicalPlanBuilder::from(node).project(columns.into_iter().map(Expr::Column))?.build()?,
    };
    Ok(Transformed::yes(plan))
}

/// What such a column is called.
const COMPUTED: &str = "__computed";
