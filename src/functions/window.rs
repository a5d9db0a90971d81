//! `window()` and `window_time()`, as in Spark.

use std::any::Any;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::Array;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{ScalarValue, exec_err, internal_err, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, lit,
};

use super::conditions::condition_functions;
use super::date_bin::DATE_BIN;
use super::date_trunc::DATE_TRUNC;
use super::finality::{Finality, WINDOW_END, is_window, tag_of};
use super::internal::Internal;
use super::lengths::windows_of;
use super::on_arrays::on_arrays;
use super::session_window::{SessionWindow, gap_of, session_window_function};
use super::windows::{Windows, last_moment_type, last_moments, window_fields, windows_from};

static WINDOW: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(WindowFunction::new("window"))));
static TIME_WINDOW_FUNCTION: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(WindowFunction::new(TIME_WINDOW))));
static WINDOW_TIME: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(WindowTimeFunction::new())));

/// `window()` under the name by which scripts are planned. Its results are called what they are
/// computed from, so that they are not taken for a column `window`.
pub(crate) const TIME_WINDOW: &str = "time_window";

/// The functions that every session knows.
pub(crate) fn all_functions() -> Vec<Arc<ScalarUDF>> {
    let mut functions =
        [&*WINDOW, &*TIME_WINDOW_FUNCTION, &*WINDOW_TIME, &*DATE_BIN, &*DATE_TRUNC].map(Arc::clone).to_vec();
    functions.push(session_window_function());
    functions.extend(condition_functions());
    functions
}

/// The window of `size` that `time` is in: a struct of `start` and `end`, the end excluded. Windows
/// are aligned to the epoch, 1970-01-01 00:00:00 UTC.
///
/// `size` is a length of time such as `10 minutes`, without months. A query that is given a wrong
/// one fails when it is planned. The column is called `window`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidemill::Result<()> {
/// use datafusion::functions_aggregate::expr_fn::count;
/// use tidemill::prelude::*;
///
/// let session = Session::new();
/// let hits = session.read_stream().format("rate").load(None).await?;
/// let per_minute = hits
///     .with_watermark("timestamp", "10 seconds")?
///     .aggregate(vec![window(col("timestamp"), "1 minute")], vec![count(col("value")).alias("hits")])?;
/// assert_eq!(per_minute.schema().field_names(), ["window", "hits"]);
/// # Ok(())
/// # }
/// ```
pub fn window(time: Expr, size: &str) -> Expr {
    WINDOW.call(vec![time, lit(size)])
}

/// The windows of `size` that `time` is in, of which one starts every `slide`: a row for each.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidemill::Result<()> {
/// use tidemill::prelude::*;
///
/// let session = Session::new();
/// let rows = session.context().sql("SELECT TIMESTAMP '2024-01-01T00:12:00' AS t").await?;
/// let windows = rows.select(vec![sliding_window(col("t"), "10 minutes", "5 minutes")])?;
/// assert_eq!(windows.count().await?, 2);
/// # Ok(())
/// # }
/// ```
pub fn sliding_window(time: Expr, size: &str, slide: &str) -> Expr {
    WINDOW.call(vec![time, lit(size), lit(slide)])
}

/// Like [`sliding_window`], with windows that start `start` after the epoch and at every `slide` from
/// there: hours that start at a quarter past have the size and slide `1 hour` and the start
/// `15 minutes`.
pub fn sliding_window_from(time: Expr, size: &str, slide: &str, start: &str) -> Expr {
    WINDOW.call(vec![time, lit(size), lit(slide), lit(start)])
}

/// The last moment of a window: one microsecond before its end. It is an event time, too, so that
/// windows of windows can be made.
///
/// ```
/// use tidemill::prelude::*;
///
/// let hour = window(window_time(col("window")), "1 hour");
/// ```
pub fn window_time(window: Expr) -> Expr {
    WINDOW_TIME.call(vec![window])
}

/// A call of [`window`] with its arguments understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WindowCall {
    /// The time, or a window whose last moment is the time.
    pub(crate) time: Expr,
    pub(crate) windows: Windows,
}

impl WindowCall {
    /// The call that `expr` is, if it is one.
    pub(crate) fn of(expr: &Expr) -> DataFusionResult<Option<WindowCall>> {
        let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return Ok(None) };
        let implementation: &dyn Any = func.inner().as_ref();
        let (true, [time, lengths @ ..]) = (implementation.is::<WindowFunction>(), args.as_slice()) else {
            return Ok(None);
        };
        Ok(Some(WindowCall { time: time.clone(), windows: windows_of_exprs(lengths)? }))
    }
}

/// The windows that constant expressions describe: size, slide and start.
pub(crate) fn windows_of_exprs(lengths: &[Expr]) -> DataFusionResult<Windows> {
    let lengths: Vec<Option<ScalarValue>> = lengths.iter().map(literal).collect();
    let lengths: Vec<Option<&ScalarValue>> = lengths.iter().map(Option::as_ref).collect();
    windows_of(&lengths)
}

/// What a call of `session_window` is computed by, if `expr` is one: a gap that is known is the same however it is
/// written.
pub(crate) fn session_call(expr: &Expr) -> Option<String> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let ([time, gap], true) = (call.args.as_slice(), call.func.inner().is::<SessionWindow>()) else {
        return None;
    };
    let known = literal(gap).and_then(|gap| gap_of(&gap.to_array().ok()?).ok()?.first().copied()?);
    let gap = known.map_or_else(|| gap.to_string(), |gap| format!("{gap}us"));
    Some(format!("sessions of {time} with gaps of {gap}"))
}

/// Whether `function` is one of ours, which say of their results when they are final. Others may hand
/// on what their arguments say, whatever they have done to them.
pub(crate) fn is_event_time_function(function: &ScalarUDF) -> bool {
    let implementation: &dyn Any = function.inner().as_ref();
    implementation.is::<WindowFunction>()
        || implementation.is::<WindowTimeFunction>()
        || implementation.is::<SessionWindow>()
        || implementation.is::<Internal>()
}

/// The value of a literal, also below an alias or a cast.
pub(crate) fn literal(expr: &Expr) -> Option<ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value.clone()),
        Expr::Alias(alias) => literal(&alias.expr),
        Expr::Cast(cast) => literal(&cast.expr)?.cast_to(cast.field.data_type()).ok(),
        Expr::TryCast(cast) => literal(&cast.expr)?.cast_to(cast.field.data_type()).ok(),
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowFunction {
    name: &'static str,
    signature: Signature,
}

impl WindowFunction {
    fn new(name: &'static str) -> Self {
        Self { name, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for WindowFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn schema_name(&self, arguments: &[Expr]) -> DataFusionResult<String> {
        if self.name != TIME_WINDOW {
            return Ok("window".into());
        }
        let arguments: Vec<String> =
            arguments.iter().map(|argument| argument.schema_name().to_string()).collect();
        Ok(format!("{}({})", self.name, arguments.join(",")))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        let Some((time, lengths)) = types.split_first() else {
            return plan_err!("window() needs a time and a size such as '10 minutes'");
        };
        if !(1..=3).contains(&lengths.len()) {
            return plan_err!(
                "window() takes a time, a size, and perhaps a slide and a start, not {} arguments",
                types.len()
            );
        }
        let time = match time {
            DataType::Timestamp(_, _) => time.clone(),
            DataType::Struct(fields) if is_window(fields) => time.clone(),
            DataType::Null | DataType::Date32 | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            other => return plan_err!("window() needs a TIMESTAMP or a window, found {other}"),
        };
        Ok(std::iter::once(time).chain(lengths.iter().cloned()).collect())
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        internal_err!("the type of a window follows from its size")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        let windows = windows_of(args.scalar_arguments.get(1..).unwrap_or_default())?;
        let Some(time) = args.arg_fields.first() else {
            return plan_err!("window() needs a time and a size such as '10 minutes'");
        };
        let (time_type, tag) = match time.data_type() {
            DataType::Struct(fields) if is_window(fields) => {
                (last_moment_type(fields[1].data_type())?, tag_of(time).map(|_| Finality::at_once()))
            }
            time_type => (time_type.clone(), tag_of(time)),
        };
        let fields = window_fields(&windows.time_type(&time_type)?);
        let field = Field::new(self.name(), DataType::Struct(fields), time.is_nullable());
        Ok(Arc::new(match tag {
            Some(tag) if tag == Finality::at_once() => {
                let tag = Finality::Window { size: Some(windows.size) };
                field.with_metadata(Finality::metadata(Some(&tag)))
            }
            _ => field,
        }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let Some((time, lengths)) = args.args.split_first() else {
            return internal_err!("window() without arguments");
        };
        let lengths: Vec<Option<&ScalarValue>> = lengths
            .iter()
            .map(|length| match length {
                ColumnarValue::Scalar(value) => Some(value),
                ColumnarValue::Array(_) => None,
            })
            .collect();
        let windows = windows_of(&lengths)?;
        if !windows.is_tumbling() {
            return exec_err!(
                "sliding windows give several rows for one, which is possible only in GROUP BY and in a \
                 SELECT list: compute them in a subquery"
            );
        }
        on_arrays(time, |times| {
            let times = if times.data_type().is_nested() { last_moments(times)? } else { Arc::clone(times) };
            windows_from(&windows.newest(&times)?, windows.size)
        })
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowTimeFunction {
    signature: Signature,
}

impl WindowTimeFunction {
    fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for WindowTimeFunction {
    fn name(&self) -> &str {
        "window_time"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        internal_err!("the type of a moment follows from that of the window")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        let Some((window, DataType::Struct(fields))) =
            args.arg_fields.first().map(|window| (window, window.data_type()))
        else {
            return plan_err!("window_time() needs a window, as window() gives it");
        };
        let Some(end) = fields.iter().find(|field| field.name() == WINDOW_END) else {
            return plan_err!(
                "window_time() needs a window, as window() gives it, found {}",
                window.data_type()
            );
        };
        let field = Field::new(self.name(), last_moment_type(end.data_type())?, true);
        Ok(Arc::new(match tag_of(window) {
            Some(_) => field.with_metadata(Finality::metadata(Some(&Finality::at_once()))),
            None => field,
        }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        match args.args.first() {
            Some(window) => on_arrays(window, last_moments),
            None => internal_err!("window_time() without arguments"),
        }
    }
}
