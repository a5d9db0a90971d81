//! Event time in queries that are run once.

use datafusion::common::config::ConfigOptions;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::AnalyzerRule;

use super::bind::reads_stream;
use super::bounded::simplify_bounded;
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
