//! Observing rows on their way.

use datafusion::logical_expr::Expr;
use datafusion::prelude::DataFrame;

use crate::error::Result;
use crate::plan::Observe as ObserveNode;

/// Metrics of the rows of a data frame, told with the progress of each batch.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidemill::Result<()> {
/// use datafusion::functions_aggregate::expr_fn::{count, max};
/// use tidemill::prelude::*;
///
/// let session = Session::new();
/// let ticks = session.read_stream().format("rate").option("rowsPerSecond", 1000).load(None).await?;
/// let ticks = ticks.observe("ticks", vec![count(lit(1)).alias("rows"), max(col("value")).alias("newest")])?;
/// let query = ticks.write_stream().format("noop").trigger(Trigger::Once).start(None).await?;
/// query.await_termination().await?;
/// let progress = query.last_progress().expect("a batch");
/// assert_eq!(progress.observed_metrics["ticks"]["rows"], progress.num_input_rows);
/// # Ok(())
/// # }
/// ```
pub trait Observe: Sized {
    /// Has `metrics` computed of the rows of each batch at this point, whatever becomes of them above: they are in
    /// [`observed_metrics`](crate::StreamingQueryProgress::observed_metrics), under `name`, and the rows are what
    /// they were (Spark's `Dataset.observe`).
    ///
    /// A metric is an expression over aggregates of the rows, such as `count(lit(1)).alias("rows")` or
    /// `sum(col("bytes")) / count(lit(1))`, and is called as its alias says. One that cannot be computed, such as
    /// that quotient in a batch without rows, is null. A batch that is run again has the same metrics again, and
    /// one that fails has none.
    ///
    /// Over bounded tables the rows pass, and nothing is told.
    ///
    /// # Errors
    /// If the name is empty or taken below, if there is no metric, or if one has no aggregate, one with
    /// `DISTINCT` or `ORDER BY`, a column beside aggregates, a subquery, or a function that gives something else
    /// each time.
    fn observe(self, name: &str, metrics: Vec<Expr>) -> Result<Self>;
}

impl Observe for DataFrame {
    fn observe(self, name: &str, metrics: Vec<Expr>) -> Result<Self> {
        let (state, plan) = self.into_parts();
        Ok(DataFrame::new(state, ObserveNode::try_new(plan, name, metrics)?.into_plan()))
    }
}
