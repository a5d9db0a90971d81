//! `SELECT DISTINCT ON (key) … FROM t` over rows that keep coming: the first row of each key.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Distinct, DistinctOn, Expr, LogicalPlan, LogicalPlanBuilder, Projection};

use super::bind::reads_stream;
use super::deduplicate::Deduplicate;
use super::window_calls::unused_name;
use crate::functions::described;

/// `plan` with a deduplication in place of every `DISTINCT ON` over unbounded tables that takes rows
/// as they come. With `ORDER BY` the first row may come last, which a deduplication cannot wait for.
pub(super) fn keep_first_rows(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let replaced = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Distinct(Distinct::On(distinct))
            if distinct.sort_expr.is_none() && reads_stream(&distinct.input) =>
        {
            first_rows(distinct).map(Transformed::yes)
        }
        node => Ok(Transformed::no(node)),
    })?;
    Ok(replaced.data)
}

fn first_rows(distinct: DistinctOn) -> DataFusionResult<LogicalPlan> {
    let DistinctOn { on_expr, select_expr, input, .. } = distinct;
    let mut taken = input.schema().field_names();
    let mut computed = Vec::new();
    let keys = on_expr.into_iter().map(|key| match key {
        Expr::Column(column) => column,
        key => {
            let name = unused_name("__distinct_on", &mut taken);
            let definition = key.to_string();
            computed.push(described(key, definition).alias(&name));
            Column::new_unqualified(name)
        }
    });
    let keys: Vec<Column> = keys.collect();
    let input = if computed.is_empty() {
        Arc::unwrap_or_clone(input)
    } else {
        let columns = input.schema().columns().into_iter().map(Expr::Column).chain(computed);
        LogicalPlanBuilder::from(Arc::unwrap_or_clone(input)).project(columns.collect::<Vec<_>>())?.build()?
    };
    let rows = Deduplicate::by(input, keys).into_plan();
    Ok(LogicalPlan::Projection(Projection::try_new(select_expr, Arc::new(rows))?))
}
