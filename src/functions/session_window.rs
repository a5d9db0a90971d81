//! `session_window()`, as in Spark.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, StructArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, DurationMicrosecondType, Field, FieldRef, Int64Type, IntervalMonthDayNanoType, IntervalUnit,
    TimeUnit,
};
use datafusion::common::{exec_err, internal_err, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, lit,
};

use super::finality::{Finality, is_window, tag_of};
use super::lengths::from_text;
use super::windows::{last_moment_type, last_moments, window_fields};

const MICROS_PER_DAY: i64 = 86_400_000_000;

static SESSION_WINDOW: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(SessionWindow::new())));

/// The function as sessions know it.
pub(crate) fn session_window_function() -> Arc<ScalarUDF> {
    Arc::clone(&SESSION_WINDOW)
}

/// The session that a row at `time` is in: a struct of `start` and `end`, the end excluded. Rows of a group
/// that follow one another by at most `gap` are in one session, which ends `gap` after the last of them.
///
/// It is something to group by, alone or with other keys, in output mode append or complete. `gap` is a
/// length of time such as `10 minutes`, without months.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidemill::Result<()> {
/// use datafusion::functions_aggregate::expr_fn::count;
/// use tidemill::prelude::*;
///
/// let session = Session::new();
/// let hits = session.read_stream().format("rate").load(None).await?;
/// let visits = hits
///     .with_watermark("timestamp", "10 seconds")?
///     .aggregate(
///         vec![session_window(col("timestamp"), "1 minute")],
///         vec![count(col("value")).alias("hits")],
///     )?;
/// assert_eq!(visits.schema().field_names(), ["session_window", "hits"]);
/// # Ok(())
/// # }
/// ```
pub fn session_window(time: Expr, gap: &str) -> Expr {
    session_window_by(time, lit(gap))
}

/// Like [`session_window`], with a gap of each row's own: an interval, a duration or a text such as
/// `10 minutes`. A row whose gap is null, or not greater than zero, is in no session, and is left out.
pub fn session_window_by(time: Expr, gap: Expr) -> Expr {
    SESSION_WINDOW.call(vec![time, gap])
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionWindow {
    signature: Signature,
}

impl SessionWindow {
    fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// The type of the times of sessions.
fn time_type(time: &DataType) -> DataType {
    match time {
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            DataType::Timestamp(TimeUnit::Nanosecond, zone.clone())
        }
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        other => other.clone(),
    }
}

impl ScalarUDFImpl for SessionWindow {
    fn name(&self) -> &str {
        "session_window"
    }

    fn schema_name(&self, _: &[Expr]) -> DataFusionResult<String> {
        Ok("session_window".into())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        let [time, gap] = types else {
            return plan_err!(
                "session_window() takes a time and a gap such as '10 minutes', not {} arguments",
                types.len()
            );
        };
        let time = match time {
            DataType::Timestamp(_, _) => time.clone(),
            DataType::Struct(fields) if is_window(fields) => time.clone(),
            DataType::Null | DataType::Date32 | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            other => return plan_err!("session_window() needs a TIMESTAMP or a window, found {other}"),
        };
        let gap = match gap {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
            DataType::Duration(_) => DataType::Duration(TimeUnit::Microsecond),
            DataType::Interval(_) | DataType::Null => DataType::Interval(IntervalUnit::MonthDayNano),
            other => {
                return plan_err!(
                    "session_window() needs a gap such as '10 minutes' or INTERVAL '10' MINUTE, found {other}"
                );
            }
        };
        Ok(vec![time, gap])
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        internal_err!("the type of a session follows from that of its time")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        if let Some(Some(gap)) = args.scalar_arguments.get(1)
            && gap_of(&gap.to_array()?)?.first().copied().flatten().is_none_or(|gap| gap <= 0)
        {
            return plan_err!("session_window(): the gap must be greater than 0, not {gap}");
        }
        let Some(time) = args.arg_fields.first() else {
            return plan_err!("session_window() needs a time and a gap such as '10 minutes'");
        };
        let of_time = match time.data_type() {
            DataType::Struct(fields) if is_window(fields) => last_moment_type(fields[1].data_type())?,
            of_time => of_time.clone(),
        };
        let timed = match tag_of(time) {
            Some(Finality::Window { .. }) => true,
            Some(finality) => finality == Finality::at_once(),
            None => false,
        };
        let tag = Finality::Session { timed };
        let field = Field::new(self.name(), DataType::Struct(window_fields(&time_type(&of_time))), true);
        Ok(Arc::new(field.with_metadata(Finality::metadata(Some(&tag)))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let [times, gaps] = args.args.as_slice() else {
            return internal_err!("session_window() without arguments");
        };
        let times = times.to_array(args.number_rows)?;
        let times = if times.data_type().is_nested() { last_moments(&times)? } else { times };
        let gaps = match gaps {
            ColumnarValue::Scalar(gap) => gap_of(&gap.to_array()?)?,
            ColumnarValue::Array(gaps) => gap_of(gaps)?,
        };
        let of_time = time_type(times.data_type());
        let ticks = if matches!(of_time, DataType::Timestamp(TimeUnit::Nanosecond, _)) { 1_000 } else { 1 };
        let starts = cast(&cast(&times, &of_time)?, &DataType::Int64)?;
        let starts = starts.as_primitive::<Int64Type>();
        let gap_at = |row: usize| if gaps.len() == 1 { gaps[0] } else { gaps[row] };
        let ends: Int64Array = starts
            .iter()
            .enumerate()
            .map(|(row, start)| {
                let gap = gap_at(row).filter(|gap| *gap > 0)?.checked_mul(ticks)?;
                start?.checked_add(gap)
            })
            .collect();
        let nulls = ends.nulls().cloned();
        let starts: Int64Array = Int64Array::new(starts.values().clone(), nulls.clone());
        let columns = vec![cast(&starts, &of_time)?, cast(&ends, &of_time)?];
        let sessions = StructArray::try_new(window_fields(&of_time), columns, nulls)?;
        Ok(ColumnarValue::Array(Arc::new(sessions)))
    }
}

/// Gaps in microseconds.
pub(super) fn gap_of(gaps: &ArrayRef) -> DataFusionResult<Vec<Option<i64>>> {
    match gaps.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = cast(gaps, &DataType::Utf8)?;
            let gap = |text: Option<&str>| match text {
                None => Ok(None),
                Some(text) => match from_text(text) {
                    Some(gap) => Ok(Some(gap)),
                    None => exec_err!(
                        "session_window(): the gap '{text}' is not a length of time such as '10 minutes', in whole \
                         microseconds"
                    ),
                },
            };
            texts.as_string::<i32>().iter().map(gap).collect()
        }
        DataType::Duration(_) => {
            let gaps = cast(gaps, &DataType::Duration(TimeUnit::Microsecond))?;
            Ok(gaps.as_primitive::<DurationMicrosecondType>().iter().collect())
        }
        DataType::Null => Ok(vec![None; gaps.len()]),
        _ => {
            let gaps = cast(gaps, &DataType::Interval(IntervalUnit::MonthDayNano))?;
            let gap = |gap: Option<datafusion::arrow::datatypes::IntervalMonthDayNano>| match gap {
                None => Ok(None),
                Some(gap) if gap.months != 0 => {
                    exec_err!(
                        "session_window(): the gap has months, which are not all equally long. Give it in days"
                    )
                }
                Some(gap) => Ok(i64::from(gap.days)
                    .checked_mul(MICROS_PER_DAY)
                    .and_then(|days| days.checked_add(gap.nanoseconds.div_euclid(1_000)))),
            };
            gaps.as_primitive::<IntervalMonthDayNanoType>().iter().map(gap).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn gaps_are_lengths_of_any_kind() {
        let context = SessionContext::new();
        context.register_udf(SESSION_WINDOW.as_ref().clone());
        let time = "TIMESTAMP '2024-01-01T00:00:10'";
        for (gap, expected) in [
            ("'5 seconds'", "2024-01-01T00:00:15"),
            ("INTERVAL '2' MINUTE", "2024-01-01T00:02:10"),
            ("arrow_cast(3, 'Duration(Second)')", "2024-01-01T00:00:13"),
            ("CASE WHEN true THEN INTERVAL '1 second' END", "2024-01-01T00:00:11"),
            ("CASE WHEN random() > 2 THEN '1 second' END", ""),
            ("CASE WHEN random() < 2 THEN '-1 second' END", ""),
        ] {
            let sql = format!("SELECT session_window({time}, {gap})['end'] AS e");
            let rows = context.sql(&sql).await.unwrap().collect().await.unwrap();
            let found =
                datafusion::arrow::util::display::array_value_to_string(rows[0].column(0), 0).unwrap();
            assert_eq!(found, expected, "{gap}");
        }
        for gap in ["'0 seconds'", "'soon'", "INTERVAL '1' MONTH", "5"] {
            let sql = format!("SELECT session_window({time}, {gap}) AS e");
            let error = match context.sql(&sql).await {
                Ok(frame) => frame.collect().await.unwrap_err(),
                Err(error) => error,
            };
            assert!(error.to_string().contains("session_window()"), "{gap}: {error}");
        }
    }
}
