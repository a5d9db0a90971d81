//! Event time in queries that are run once.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Distinct, DistinctOn, Expr, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use super::bind::reads_stream;
use super::deduplicate::Deduplicate;
use super::watermark::Watermark;
use super::windows::expand_windows_in_batch;

/// Lets batch queries say what streaming queries say: windows are expanded, watermarks are ignored,
/// and the first row of each key is kept.
///
/// The plan of a streaming query is left alone. What it reads from bounded tables is rewritten when
/// its windows are.
#[derive(Debug)]
pub(crate) struct BatchEventTime;

impl AnalyzerRule for BatchEventTime {
    fn name(&self) -> &str {
        "tidemill_event_time"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        if reads_stream(&plan) {
            return Ok(plan);
        }
        expand_windows_in_batch(simplify_bounded(plan)?)
    }
}

/// `plan` without watermarks and deduplications of rows that are all there.
pub(super) fn simplify_bounded(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let simplified = plan.transform_down_with_subqueries(|node| {
        if let Some(watermark) = Watermark::of(&node)
            && !reads_stream(&node)
        {
            return Ok(Transformed::yes(watermark.input().clone()));
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
