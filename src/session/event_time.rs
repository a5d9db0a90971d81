//! Event time on data frames.

use std::time::Duration;

use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::DataFrame;

use crate::error::{Error, Result};
use crate::options::parse_delay;
use crate::plan::{Deduplicate, Watermark};

/// How much later than the newest row a row may come: a [`Duration`], or text such as
/// `10 minutes`, `1 hour 30 seconds` or `2 months` (31 days each).
pub trait IntoDelay {
    /// The length of time.
    ///
    /// # Errors
    /// If the text is none, or the length is negative.
    fn into_delay(self) -> Result<Duration>;
}

impl IntoDelay for Duration {
    fn into_delay(self) -> Result<Duration> {
        Ok(self)
    }
}

impl IntoDelay for &str {
    fn into_delay(self) -> Result<Duration> {
        parse_delay(self).map_err(|reason| Error::option("delay", self, reason))
    }
}

impl IntoDelay for &String {
    fn into_delay(self) -> Result<Duration> {
        self.as_str().into_delay()
    }
}

impl IntoDelay for String {
    fn into_delay(self) -> Result<Duration> {
        self.as_str().into_delay()
    }
}

/// Event time and deduplication for data frames, over unbounded tables and bounded ones alike.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidemill::Result<()> {
/// use datafusion::functions_aggregate::expr_fn::count;
/// use tidemill::prelude::*;
///
/// let session = Session::new();
/// let clicks = session.read_stream().format("rate").load(None).await?;
/// let counts = clicks
///     .with_watermark("timestamp", "10 minutes")?
///     .aggregate(vec![window(col("timestamp"), "5 minutes").alias("w")], vec![count(col("value"))])?;
/// assert_eq!(counts.schema().field(0).name(), "w");
/// # Ok(())
/// # }
/// ```
pub trait EventTime: Sized {
    /// Says that `column` is the time at which each row happened, and that no row is to be waited for
    /// that is more than `delay` older than the newest row seen so far.
    ///
    /// Windows and groups over the column are then given out once, when they are complete
    /// (append mode), and what has been given out is forgotten. Rows that come later are dropped by
    /// operators with state, and counted. `docs/event-time.md` says how exactly.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tidemill::Result<()> {
    /// use std::time::Duration;
    /// use tidemill::prelude::*;
    ///
    /// let session = Session::new();
    /// let ticks = session.read_stream().format("rate").load(None).await?;
    /// let ticks = ticks.with_watermark("timestamp", Duration::from_secs(600))?;
    /// let error = ticks.with_watermark("timestamp", "10 minutes").unwrap_err();
    /// assert!(error.to_string().contains("already"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If there is no such column, if it is not a top-level `TIMESTAMP`, if the delay is not a length
    /// of time of at least nothing, or if the rows have a watermark already.
    fn with_watermark(self, column: &str, delay: impl IntoDelay) -> Result<Self>;

    /// Only the first row of those that agree in `columns`, or in all columns if none are given.
    ///
    /// The values seen are remembered for ever, unless one of the columns is the event time, or a
    /// window or rounding of it: then they are forgotten when the watermark has passed them.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tidemill::Result<()> {
    /// use tidemill::prelude::*;
    ///
    /// let session = Session::new();
    /// let payments = session.context().sql("SELECT * FROM (VALUES (1, 'a'), (1, 'a'), (2, 'a')) AS t (id, who)").await?;
    /// assert_eq!(payments.clone().drop_duplicates(&["id"])?.count().await?, 2);
    /// assert_eq!(payments.drop_duplicates(&["who"])?.count().await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If there is no such column.
    fn drop_duplicates(self, columns: &[&str]) -> Result<Self>;

    /// Like [`drop_duplicates`](Self::drop_duplicates), but values are remembered only until the
    /// watermark has passed the event time of their first row by the watermark's delay: for sources
    /// that repeat a row at most so much later.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tidemill::Result<()> {
    /// use tidemill::prelude::*;
    ///
    /// let session = Session::new();
    /// let ticks = session.read_stream().format("rate").load(None).await?;
    /// let once = ticks
    ///     .clone()
    ///     .with_watermark("timestamp", "1 hour")?
    ///     .drop_duplicates_within_watermark(&["value"])?;
    /// assert_eq!(once.schema().fields().len(), 2);
    /// assert!(ticks.drop_duplicates_within_watermark(&["value"]).is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If there is no such column, or no event-time column.
    fn drop_duplicates_within_watermark(self, columns: &[&str]) -> Result<Self>;
}

impl EventTime for DataFrame {
    fn with_watermark(self, column: &str, delay: impl IntoDelay) -> Result<Self> {
        let delay = delay.into_delay()?;
        extend(self, |plan| Ok(Watermark::try_new(plan, column, delay)?.into_plan()))
    }

    fn drop_duplicates(self, columns: &[&str]) -> Result<Self> {
        extend(self, |plan| Ok(Deduplicate::try_new(plan, columns, false)?.into_plan()))
    }

    fn drop_duplicates_within_watermark(self, columns: &[&str]) -> Result<Self> {
        extend(self, |plan| Ok(Deduplicate::try_new(plan, columns, true)?.into_plan()))
    }
}

fn extend(frame: DataFrame, f: impl FnOnce(LogicalPlan) -> Result<LogicalPlan>) -> Result<DataFrame> {
    let (state, plan) = frame.into_parts();
    Ok(DataFrame::new(state, f(plan)?))
}
