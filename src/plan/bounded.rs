//! What streaming queries say of tables whose rows are all there.

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Distinct, DistinctOn, Expr, LogicalPlan};

use super::bind::reads_stream;
use super::deduplicate::Deduplicate;
use super::observe::Observe;
use super::watermark::Watermark;

/// `plan` without watermarks, observations and deduplications of rows that are all there.
pub(super) fn simplify_bounded(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let simplified = plan.transform_down_with_subqueries(|node| {
        if let Some(watermark) = Watermark::of(&node)
            && !reads_stream(&node)
        {
            return Ok(Transformed::yes(watermark.input().clone()));
        }
        if let Some(observe) = Observe::of(&node)
            && !reads_stream(&node)
        {
            return Ok(Transformed::yes(observe.input().clone()));
        }
        if let Some(deduplicate) = Deduplicate::of(&node)
            && !reads_stream(&node)
        {
            let input = deduplicate.input();
            let keys = deduplicate.columns().iter().cloned().map(Expr::Column).collect();
            let columns = input.schema().columns().into_iter().map(Expr::Column).collect();
            let distinct = DistinctOn::try_new(keys, columns, None, input.clone().into())?;
            return Ok(Transformed::yes(LogicalPlan::Distinct(Distinct::On(distinct))));
        }
        Ok(Transformed::no(node))
    })?;
    Ok(simplified.data)
}
