//! Window functions whose values for a row are final some time.
//!
//! They are if all rows of the key are final at once, for the key is a window or an event time; or if the rows are in
//! the order of an event time, and the function looks only so far ahead. What is remembered depends on how far it looks
//! back: rows, a time, or, for what counts from the first row on, a total.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, IntervalUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, ExprSchema, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions_aggregate::first_last::{first_value_udaf, last_value_udaf};
use datafusion::logical_expr::expr::{NullTreatment, Sort, WindowFunction};
use datafusion::logical_expr::{
    Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Projection, Window, WindowFrame, WindowFrameBound,
    WindowFrameUnits, WindowFunctionDefinition,
};

use super::bind::reads_stream;
use super::event_time::{EventTimeKey, event_time_key};
use super::window_calls::unused_name;
use crate::error::{Error, Result};
use crate::exec::over::{Manner, Reach};
use crate::exec::top_n::Ranking;
use crate::functions::{definition_of, described, interval, literal, tag_of, tagged};

/// Window functions over rows of a stream, and how their values become final.
#[derive(Debug)]
pub(crate) struct Over {
    pub(crate) keys: Vec<Expr>,
    pub(crate) order: Vec<Sort>,
    pub(crate) functions: Vec<(Expr, Manner)>,
    pub(crate) reach: Reach,
    /// When a row's place among those of its key is final.
    pub(crate) time: EventTimeKey,
    /// What that follows from.
    time_column: Expr,
}

impl Over {
    /// What `window` computes.
    ///
    /// # Errors
    /// If the values of a row would change with rows that come later.
    pub(crate) fn of(window: &Window) -> Result<Self> {
        let calls: Vec<&WindowFunction> = window.window_expr.iter().filter_map(call).collect();
        let (Some(first), true) = (calls.first(), calls.len() == window.window_expr.len()) else {
            return Err(refused("it is no window function", "Write OVER (…) behind a function"));
        };
        calls.iter().try_for_each(|call| check_default(call))?;
        let schema = window.input.schema();
        let (keys, order) = (first.params.partition_by.clone(), first.params.order_by.clone());
        let functions = || window.window_expr.iter().cloned();
        let key = keys.iter().find_map(|key| Some((key.clone(), event_time_key(key, schema)?)));
        if let Some((time_column, time)) = key {
            let functions = functions().map(|function| (function, Manner::Framed)).collect();
            let reach = Reach { whole: true, ..Reach::default() };
            return Ok(Self { keys, order, functions, reach, time, time_column });
        }
        let (time_column, time) = in_order_of_time(order.first(), schema)?;
        let mut reach = Reach::default();
        let mut in_their_manner = Vec::with_capacity(calls.len());
        for (function, call) in functions().zip(calls) {
            let (manner, of_function) = manner(call)?;
            reach = reach.and(of_function);
            in_their_manner.push((as_aggregate(function, manner), manner));
        }
        Ok(Self { keys, order, functions: in_their_manner, reach, time, time_column })
    }
}

/// The call that `expr` is, under a name of its own or not.
fn call(expr: &Expr) -> Option<&WindowFunction> {
    match expr {
        Expr::WindowFunction(call) => Some(call),
        Expr::Alias(alias) => call(&alias.expr),
        _ => None,
    }
}

/// Fails if the value that stands for a row that is not there is another one for each row.
fn check_default(call: &WindowFunction) -> Result<()> {
    let name = call.fun.name();
    match call.params.args.get(2) {
        Some(default) if matches!(name, "lag" | "lead") && literal(default).is_none() => Err(refused(
            &format!("what {name} gives where there is no row is '{default}', which is no constant"),
            &format!("Leave it out, and write coalesce({name}(…) OVER (…), {default})"),
        )),
        _ => Ok(()),
    }
}

/// The first column to sort by, if it is an event time.
fn in_order_of_time(first: Option<&Sort>, schema: &DFSchema) -> Result<(Expr, EventTimeKey)> {
    const ADVICE: &str = "Order by the event time of a watermark (with_watermark, or WATERMARK FOR in CREATE UNBOUNDED EXTERNAL \
                          TABLE), ascending, in output mode append; or have a window(…) or the event time in PARTITION BY; or ask for the \
                          first ranks only (row_number() OVER (PARTITION BY … ORDER BY …) AS n … WHERE n <= 10, or QUALIFY) in \
                          output mode update; or aggregate first and use output mode complete";
    let Some(first) = first else {
        return Err(refused(
            "without ORDER BY its result for a row would change with rows that come later",
            ADVICE,
        ));
    };
    let key = event_time_key(&first.expr, schema).filter(|_| {
        let data_type = first.expr.get_type(schema);
        data_type.is_ok_and(|data_type| matches!(data_type, DataType::Timestamp(..) | DataType::Date32))
    });
    let Some(key) = key.filter(|_| first.asc && !first.nulls_first) else {
        let known = first.expr.try_as_col().and_then(|column| schema.field_from_column(column).ok());
        let text = known.and_then(|field| definition_of(field)).map(str::to_string);
        let reason = format!(
            "its result for a row would change with rows that come later: '{}' does not follow from the event time of a \
             watermark, oldest first, or is no time itself",
            text.unwrap_or_else(|| first.to_string())
        );
        return Err(refused(&reason, ADVICE));
    };
    Ok((first.expr.clone(), key))
}

/// How the values of `call` are found, and how far they reach.
fn manner(call: &WindowFunction) -> Result<(Manner, Reach)> {
    let ignores_nulls = call.params.null_treatment == Some(NullTreatment::IgnoreNulls);
    let frame = &call.params.window_frame;
    let WindowFunctionDefinition::WindowUDF(function) = &call.fun else {
        return aggregate(frame);
    };
    let name = function.name();
    let steps = || match call.params.args.get(1) {
        None => Some(1),
        Some(steps) => match literal(steps)?.cast_to(&DataType::Int64).ok()? {
            ScalarValue::Int64(Some(steps)) => Some(steps),
            _ => None,
        },
    };
    match name {
        "row_number" => Ok((Manner::Ranked(Ranking::RowNumber), Reach::default())),
        "rank" => Ok((Manner::Ranked(Ranking::Rank), Reach::default())),
        "dense_rank" => Ok((Manner::Ranked(Ranking::DenseRank), Reach::default())),
        "first_value" | "last_value" if ignores_nulls && is_running(frame) => {
            Ok((Manner::Running { with_peers: frame.units != WindowFrameUnits::Rows }, Reach::default()))
        }
        "lag" | "lead" if ignores_nulls => Err(refused(
            &format!("{name} with IGNORE NULLS may look to any row"),
            "Leave IGNORE NULLS out, and rows with nulls by WHERE",
        )),
        "nth_value" if is_running(frame) => Err(refused(
            "nth_value of all rows up to this one would have to keep the first of them for good",
            "Use first_value, or frame it by numbers of rows or lengths of time",
        )),
        "lag" | "lead" => {
            let Some(steps) = steps() else {
                return Err(refused(
                    &format!("how far {name} looks must be known when the query starts"),
                    "Use a number",
                ));
            };
            let steps = if name == "lag" { steps } else { steps.saturating_neg() };
            let rows = |steps: i64| usize::try_from(steps).unwrap_or(0);
            let (rows_before, rows_after) = (rows(steps), rows(steps.saturating_neg()));
            Ok((Manner::Framed, Reach { rows_before, rows_after, ..Reach::default() }))
        }
        "first_value" if is_running(frame) => {
            Ok((Manner::Running { with_peers: frame.units != WindowFrameUnits::Rows }, Reach::default()))
        }
        // It does not look at where the frame starts.
        "last_value" if is_running(frame) => Ok((Manner::Framed, Reach::default())),
        // Also without nulls: these are looked for in the frame.
        "first_value" | "last_value" | "nth_value" => framed(frame),
        _ => Err(refused(
            &format!("{name} depends on how many rows of its key there will ever be"),
            "Have a window(…) of the event time in PARTITION BY, whose rows are all there some time",
        )),
    }
}

/// From the first row up to this one.
fn is_running(frame: &WindowFrame) -> bool {
    let starts_first =
        matches!(frame.start_bound, WindowFrameBound::Preceding(_)) && frame.start_bound.is_unbounded();
    starts_first && frame.end_bound == WindowFrameBound::CurrentRow && frame.units != WindowFrameUnits::Groups
}

fn aggregate(frame: &WindowFrame) -> Result<(Manner, Reach)> {
    if is_running(frame) {
        let with_peers = frame.units != WindowFrameUnits::Rows;
        return Ok((Manner::Running { with_peers }, Reach::default()));
    }
    framed(frame)
}

/// A function that looks at the rows of `frame`.
fn framed(frame: &WindowFrame) -> Result<(Manner, Reach)> {
    if frame.units == WindowFrameUnits::Groups {
        return Err(refused("frames of GROUPS are not supported over streams", "Use ROWS or RANGE"));
    }
    let mut reach = Reach::default();
    for bound in [&frame.start_bound, &frame.end_bound] {
        let (value, is_before) = match bound {
            WindowFrameBound::CurrentRow => continue,
            WindowFrameBound::Preceding(value) => (value, true),
            WindowFrameBound::Following(value) => (value, false),
        };
        if bound.is_unbounded() {
            return Err(refused(
                &format!(
                    "the frame {frame} has no end to one side and another than the row itself to the other"
                ),
                "Frame it by numbers of rows or lengths of time, as ROWS BETWEEN 10 PRECEDING AND CURRENT ROW or RANGE \
                 BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW",
            ));
        }
        let of_bound = match (frame.units, is_before) {
            (WindowFrameUnits::Rows, true) => Reach { rows_before: rows(value, frame)?, ..Reach::default() },
            (WindowFrameUnits::Rows, false) => Reach { rows_after: rows(value, frame)?, ..Reach::default() },
            (_, true) => Reach { micros_before: micros(value, frame)?, ..Reach::default() },
            (_, false) => Reach { micros_after: micros(value, frame)?, ..Reach::default() },
        };
        reach = reach.and(of_bound);
    }
    Ok((Manner::Framed, reach))
}

fn rows(value: &ScalarValue, frame: &WindowFrame) -> Result<usize> {
    let number = match value.cast_to(&DataType::UInt64) {
        Ok(ScalarValue::UInt64(Some(number))) => usize::try_from(number).ok(),
        _ => None,
    };
    number.ok_or_else(|| refused(&format!("the frame {frame} is not of numbers of rows"), "Use numbers"))
}

/// Microseconds, rounded up.
fn micros(value: &ScalarValue, frame: &WindowFrame) -> Result<i64> {
    let length = value.cast_to(&DataType::Interval(IntervalUnit::MonthDayNano)).ok();
    let length = length.and_then(|length| match interval(&length)? {
        (0, nanos) => i64::try_from((nanos + 999).div_euclid(1000)).ok(),
        _ => None,
    });
    length.filter(|micros| *micros >= 0).ok_or_else(|| {
        refused(
            &format!("the frame {frame} is not of fixed lengths of time"),
            "Use intervals of days, hours or shorter ones, as RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW",
        )
    })
}

/// The first and the last value of all rows up to one are aggregates, which need not look back.
fn as_aggregate(function: Expr, manner: Manner) -> Expr {
    let Some(known) = call(&function) else { return function };
    let aggregate = match (&known.fun, manner) {
        (WindowFunctionDefinition::WindowUDF(fun), Manner::Running { .. }) => match fun.name() {
            "first_value" => first_value_udaf(),
            "last_value" => last_value_udaf(),
            _ => return function,
        },
        _ => return function,
    };
    let name = function.qualified_name().1;
    let mut running = known.clone();
    running.fun = WindowFunctionDefinition::AggregateUDF(aggregate);
    Expr::from(running).alias(name)
}

fn refused(reason: &str, advice: &str) -> Error {
    Error::UnsupportedQuery {
        operator: "a window function (OVER) over an unbounded table".into(),
        reason: reason.into(),
        advice: advice.into(),
    }
}

/// `function`, called `name`, with its keys and order as `column` makes them.
fn by_columns(function: &Expr, name: &str, column: &mut impl FnMut(&mut Expr)) -> Expr {
    let mut replaced = function.clone().unalias();
    if let Expr::WindowFunction(call) = &mut replaced {
        call.params.partition_by.iter_mut().for_each(&mut *column);
        call.params.order_by.iter_mut().for_each(|order| column(&mut order.expr));
    }
    replaced.alias(name)
}

/// `expr` under a name that nobody knows.
fn as_computed(expr: Expr, name: String) -> Expr {
    let definition = expr.to_string();
    described(expr, definition).alias(name)
}

/// Whether functions of `window` look at rows behind each.
fn looks_ahead(window: &Window) -> bool {
    let calls = window.window_expr.iter().filter_map(call);
    let reaches = calls.filter_map(|call| manner(call).ok());
    reaches.into_iter().any(|(_, reach)| reach.rows_after > 0)
}

/// Whether `windows`, the last first, over rows of `base` can follow one another in another order, and have to: rows
/// that waited for others behind them are not in the order of time any more.
fn ahead_comes_first(windows: &[&Window], base: &DFSchema) -> bool {
    let is_below = |expr: &Expr| expr.column_refs().into_iter().all(|column| base.has_column(column));
    let within_a_time = |function: &Expr| {
        let keys = call(function).map_or(&[][..], |call| call.params.partition_by.as_slice());
        keys.iter().any(|key| event_time_key(key, base).is_some())
    };
    let functions = || windows.iter().flat_map(|window| &window.window_expr);
    let ahead = windows.iter().rev().map(|window| looks_ahead(window));
    functions().all(is_below) && !functions().any(within_a_time) && !ahead.is_sorted()
}

/// `plan`, in which window functions that are by several keys or orders follow one another over a stream, with these
/// computed below all of them: of what the first gives, only the column that rows have waited for is an event time,
/// which others then find among its columns.
pub(super) fn with_common_columns(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let replaced = plan.transform_down_with_subqueries(|node| {
        let mut windows = Vec::new();
        let mut base = &node;
        while let LogicalPlan::Window(window) = base {
            windows.push(window);
            base = window.input.as_ref();
        }
        if windows.len() < 2 || !reads_stream(base) {
            return Ok(Transformed::no(node));
        }
        let mut taken = node.schema().field_names();
        let mut computed: Vec<(Expr, String)> = Vec::new();
        let mut column = |expr: &mut Expr| {
            let is_below = expr.column_refs().into_iter().all(|column| base.schema().has_column(column));
            if matches!(expr, Expr::Column(_)) || !is_below {
                return;
            }
            let known = computed.iter().find(|(known, _)| known == expr).map(|(_, name)| name.clone());
            let name = known.unwrap_or_else(|| {
                let name = unused_name("__over_by", &mut taken);
                computed.push((expr.clone(), name.clone()));
                name
            });
            *expr = Expr::Column(Column::new_unqualified(name));
        };
        let functions: Vec<Vec<Expr>> = windows
            .iter()
            .map(|window| {
                let names = window.schema.fields().iter().skip(window.input.schema().fields().len());
                let named = window.window_expr.iter().zip(names);
                named.map(|(function, field)| by_columns(function, field.name(), &mut column)).collect()
            })
            .collect();
        let moves = ahead_comes_first(&windows, base.schema());
        if computed.is_empty() && !moves {
            return Ok(Transformed::no(node));
        }
        let columns = base.schema().columns().into_iter().map(Expr::Column);
        let computed = computed.into_iter().map(|(expr, name)| as_computed(expr, name));
        let columns: Vec<Expr> = columns.chain(computed).collect();
        let mut plan = LogicalPlan::Projection(Projection::try_new(columns, Arc::new(base.clone()))?);
        let mut functions: Vec<(bool, Vec<Expr>)> =
            windows.iter().map(|window| moves && looks_ahead(window)).zip(functions).rev().collect();
        functions.sort_by_key(|(ahead, _)| *ahead);
        for (_, functions) in functions {
            plan = LogicalPlan::Window(Window::try_new(functions, Arc::new(plan))?);
        }
        let given: Vec<Expr> = node.schema().columns().into_iter().map(Expr::Column).collect();
        Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(given, Arc::new(plan))?)))
    })?;
    Ok(replaced.data)
}

/// `window` over a stream, whose keys and order are columns, so that their schema says when they are final. Of what
/// comes out, only the column that rows have waited for is still an event time: they may come long after another
/// one's.
pub(super) fn with_columns(
    mut window: Window,
    tagged_projection: impl FnOnce(Projection) -> DataFusionResult<LogicalPlan>,
) -> DataFusionResult<LogicalPlan> {
    let given = Arc::clone(&window.schema);
    let width = window.input.schema().fields().len();
    let mut taken = given.field_names();
    let mut computed: Vec<(Expr, Column)> = Vec::new();
    let mut column = |expr: &mut Expr| {
        if matches!(expr, Expr::Column(_)) {
            return;
        }
        let known = computed.iter().find(|(known, _)| known == expr).map(|(_, column)| column.clone());
        let column = known.unwrap_or_else(|| {
            let column = Column::new_unqualified(unused_name("__over_by", &mut taken));
            computed.push((expr.clone(), column.clone()));
            column
        });
        *expr = Expr::Column(column);
    };
    for (index, function) in window.window_expr.iter_mut().enumerate() {
        *function = by_columns(function, given.field(width + index).name(), &mut column);
    }
    let input = Arc::unwrap_or_clone(window.input);
    let input = match computed.is_empty() {
        true => input,
        false => {
            let columns = input.schema().columns().into_iter().map(Expr::Column);
            let computed = computed.into_iter().map(|(expr, column)| as_computed(expr, column.name));
            let columns: Vec<Expr> = columns.chain(computed).collect();
            tagged_projection(Projection::try_new(columns, Arc::new(input))?)?
        }
    };
    let window = Window::try_new(window.window_expr, Arc::new(input))?;
    let time = match Over::of(&window) {
        Ok(Over { reach: Reach { rows_after: 0, .. }, time_column, .. }) => Some(time_column),
        _ => None,
    };
    let columns: Vec<Expr> = given
        .iter()
        .map(|(qualifier, field)| {
            let column = Expr::Column(Column::from((qualifier, field)));
            match window.schema.field_from_column(&Column::from((qualifier, field))) {
                Ok(inner) if tag_of(inner).is_some() && time.as_ref() != Some(&column) => {
                    tagged(column, None).alias_qualified(qualifier.cloned(), field.name())
                }
                _ => column,
            }
        })
        .collect();
    LogicalPlanBuilder::from(LogicalPlan::Window(window)).project(columns)?.build()
}
