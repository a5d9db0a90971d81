//! Table functions of event time: `TUMBLE`, `HOP` and `CUMULATE` give the rows of a table with the windows they
//! are in, `WITH_WATERMARK` with a watermark, `OBSERVE` with metrics of them in the progress.
//!
//! ```sql
//! TUMBLE(TABLE t, DESCRIPTOR(time), size [, offset])
//! HOP(TABLE t, DESCRIPTOR(time), slide, size [, offset])
//! CUMULATE(TABLE t, DESCRIPTOR(time), step, size [, offset])
//! WITH_WATERMARK(TABLE t, DESCRIPTOR(time), delay)
//! OBSERVE(TABLE t, 'name', metric => aggregate, …)
//! ```
//!
//! The arguments of the first three are those of Flink, in its order, and may be named. `TABLE t` is no
//! expression for the parser: scripts have a subquery in its place when it sees them.

use std::time::Duration;

use datafusion::common::{Column, DFSchema, ScalarValue, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    TableAlias, TableFactor,
};

use super::gap_fill::GapFill;
use crate::functions::{Windows, literal, windows_of_exprs};
use crate::options::parse_delay;
use crate::plan::{AsOf, Observe, Watermark, with_cumulative_window_columns, with_window_columns};

/// Plans these functions, by themselves and inside `TABLE(…)`.
#[derive(Debug)]
pub(super) struct EventTimeTableFunctions;

/// A function, with the names of its arguments.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Function {
    Tumble,
    Hop,
    Cumulate,
    Session,
    GapFill,
    AsOf,
    WithWatermark,
    Observe,
}

impl Function {
    fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "tumble" => Some(Function::Tumble),
            "hop" => Some(Function::Hop),
            "cumulate" => Some(Function::Cumulate),
            "session" => Some(Function::Session),
            "gap_fill" => Some(Function::GapFill),
            "as_of" => Some(Function::AsOf),
            "with_watermark" => Some(Function::WithWatermark),
            "observe" => Some(Function::Observe),
            _ => None,
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Function::Tumble => &["data", "timecol", "size", "offset"],
            Function::Hop => &["data", "timecol", "slide", "size", "offset"],
            Function::Cumulate => &["data", "timecol", "step", "size", "offset"],
            Function::Session => &["data", "timecol", "gap"],
            Function::GapFill => &["data", "timecol", "step", "keys", "locf"],
            Function::AsOf => &["data", "time"],
            Function::WithWatermark => &["data", "timecol", "delay"],
            Function::Observe => &["data", "name"],
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Function::Tumble => "TUMBLE(TABLE t, DESCRIPTOR(time), INTERVAL '10' MINUTE)",
            Function::Hop => "HOP(TABLE t, DESCRIPTOR(time), INTERVAL '5' MINUTE, INTERVAL '10' MINUTE)",
            Function::Cumulate => {
                "CUMULATE(TABLE t, DESCRIPTOR(time), INTERVAL '1' MINUTE, INTERVAL '10' MINUTE)"
            }
            Function::Session => {
                "SELECT key, window_start, window_end, … FROM SESSION(TABLE t, DESCRIPTOR(time), INTERVAL '10' MINUTE) \
                 GROUP BY key, window_start, window_end"
            }
            Function::GapFill => {
                "GAP_FILL(TABLE t, DESCRIPTOR(time), INTERVAL '1' MINUTE, DESCRIPTOR(key), LOCF => DESCRIPTOR(value))"
            }
            Function::AsOf => "a JOIN b FOR SYSTEM_TIME AS OF a.time ON a.key = b.key",
            Function::WithWatermark => "WITH_WATERMARK(TABLE t, DESCRIPTOR(time), INTERVAL '10' MINUTE)",
            Function::Observe => "OBSERVE(TABLE t, 'name', rows => count(*), largest => max(value))",
        }
    }
}

impl RelationPlanner for EventTimeTableFunctions {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<RelationPlanning> {
        let Some((function, arguments, alias)) =
            call(&relation).and_then(|(name, rest, alias)| Some((Function::named(&name)?, rest, alias)))
        else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let plan = plan(function, arguments, context)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

/// The call of a table function that `relation` is, if it is one: by itself, or inside `TABLE(…)`.
pub(super) fn call(relation: &TableFactor) -> Option<(String, &[FunctionArg], &Option<TableAlias>)> {
    match relation {
        TableFactor::Table { name, alias, args: Some(args), .. } => {
            Some((name.to_string(), &args.args, alias))
        }
        TableFactor::TableFunction { expr: SqlExpr::Function(call), alias } => match &call.args {
            FunctionArguments::List(FunctionArgumentList { args, .. }) => {
                Some((call.name.to_string(), args, alias))
            }
            _ => None,
        },
        _ => None,
    }
}

fn plan(
    function: Function,
    arguments: &[FunctionArg],
    context: &mut dyn RelationPlannerContext,
) -> DataFusionResult<LogicalPlan> {
    let usage = function.usage();
    if function == Function::Session {
        return plan_err!(
            "the rows of SESSION have no windows of their own, but groups of rows have, of a SELECT that reads nothing \
             else, with the keys of PARTITION BY, if there are any, in GROUP BY. Write {usage}"
        );
    }
    if function == Function::Observe {
        return observe(arguments, context, usage);
    }
    let given = by_position(arguments, function.arguments(), usage)?;
    let by_name = |name: &str| {
        let position = function.arguments().iter().position(|known| *known == name);
        position.and_then(|position| given[position])
    };
    let Some(table) = by_name("data") else { return plan_err!("no table is given; write {usage}") };
    let input = table_of(table, context, usage)?;
    if function == Function::AsOf {
        return match by_name("time").and_then(column_of_another) {
            Some(time) => Ok(AsOf::over(input, time)),
            None => plan_err!("the time of another table is its column; write {usage}"),
        };
    }
    let Some(time) = by_name("timecol").map(descriptor) else {
        return plan_err!("no time column is given; write {usage}");
    };
    let time = context.sql_to_expr(time?.clone(), input.schema())?;
    if function == Function::GapFill {
        let Some(step) = by_name("step") else { return plan_err!("no step is given; write {usage}") };
        let mut columns = |name: &str| match by_name(name) {
            None => Ok(Vec::new()),
            Some(listed) => columns(listed, context, input.schema()),
        };
        let (keys, carried) = (columns("keys")?, columns("locf")?);
        return GapFill { time, step, keys, carried }.over(input, context);
    }
    if function == Function::WithWatermark {
        let Some(delay) = by_name("delay") else { return plan_err!("no delay is given; write {usage}") };
        let delay = delay_of(&context.sql_to_expr(delay.clone(), input.schema())?)?;
        return match time {
            Expr::Column(column) => Ok(Watermark::on_column(input, column, delay)?.into_plan()),
            other => plan_err!("{other} is not a column; write {usage}"),
        };
    }
    let windows = windows(function, &by_name, context, input.schema())?;
    match function {
        Function::Cumulate => with_cumulative_window_columns(input, time, windows),
        _ => with_window_columns(input, time, windows),
    }
}

/// The rows of a table that is an argument.
fn table_of(
    table: &SqlExpr,
    context: &mut dyn RelationPlannerContext,
    usage: &str,
) -> DataFusionResult<LogicalPlan> {
    match table {
        SqlExpr::Subquery(subquery) => {
            let subquery = subquery.clone();
            context.plan(TableFactor::Derived { lateral: false, subquery, alias: None, sample: None })
        }
        other => plan_err!("'{other}' is not a table; write {usage}"),
    }
}

/// `OBSERVE(TABLE t, 'name', metric => aggregate, …)`; a metric without a name is called what it is.
fn observe(
    arguments: &[FunctionArg],
    context: &mut dyn RelationPlannerContext,
    usage: &str,
) -> DataFusionResult<LogicalPlan> {
    let Some((fixed, metrics)) = arguments.split_at_checked(2) else {
        return plan_err!("OBSERVE needs a table, a name and metrics; write {usage}");
    };
    let given = by_position(fixed, Function::Observe.arguments(), usage)?;
    let [Some(table), Some(name)] = given.as_slice() else {
        return plan_err!("OBSERVE needs a table and a name; write {usage}");
    };
    let input = table_of(table, context, usage)?;
    let Some(ScalarValue::Utf8(Some(name))) = literal(&context.sql_to_expr((*name).clone(), input.schema())?)
    else {
        return plan_err!("the name of an observation is a text, not {name}; write {usage}");
    };
    let metrics = metrics.iter().map(|metric| match metric {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(metric)) => {
            context.sql_to_expr(metric.clone(), input.schema())
        }
        FunctionArg::Named { name, arg: FunctionArgExpr::Expr(metric), .. } => {
            let name = column_name(name);
            Ok(context.sql_to_expr(metric.clone(), input.schema())?.alias(name))
        }
        other => plan_err!("the argument '{other}' is not expected here; write {usage}"),
    });
    let metrics = metrics.collect::<DataFusionResult<Vec<_>>>()?;
    Ok(Observe::try_new(input, &name, metrics)?.into_plan())
}

/// The name that is written, in lower case unless it is quoted.
fn column_name(ident: &Ident) -> String {
    match ident.quote_style {
        None => ident.value.to_lowercase(),
        Some(_) => ident.value.clone(),
    }
}

/// The arguments in the order of their `names`, by which they may be given.
pub(super) fn by_position<'a>(
    arguments: &'a [FunctionArg],
    names: &[&str],
    usage: &str,
) -> DataFusionResult<Vec<Option<&'a SqlExpr>>> {
    let mut given: Vec<Option<&SqlExpr>> = vec![None; names.len()];
    for (position, argument) in arguments.iter().enumerate() {
        let (place, value) = match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => (given.get_mut(position), value),
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
                let position = names.iter().position(|known| name.value.eq_ignore_ascii_case(known));
                (position.and_then(|position| given.get_mut(position)), value)
            }
            other => return plan_err!("the argument '{other}' is not expected here; write {usage}"),
        };
        match place {
            Some(place) if place.is_none() => *place = Some(value),
            _ => return plan_err!("the argument '{argument}' is not expected here; write {usage}"),
        }
    }
    Ok(given)
}

/// A delay as text or as an interval, of which a month counts as 31 days.
fn delay_of(value: &Expr) -> DataFusionResult<Duration> {
    let wrong = |reason: &str| plan_err!("the delay {value}: {reason}");
    let nanos = match literal(value) {
        Some(ScalarValue::IntervalMonthDayNano(Some(delay))) => {
            let days = i64::from(delay.months) * 31 + i64::from(delay.days);
            i128::from(days) * 86_400_000_000_000 + i128::from(delay.nanoseconds)
        }
        Some(ScalarValue::Utf8(Some(text))) => return parse_delay(&text).or_else(wrong),
        _ => return wrong("expected a length of time such as INTERVAL '10' MINUTE"),
    };
    match u64::try_from(nanos) {
        Ok(nanos) => Ok(Duration::from_nanos(nanos)),
        Err(_) => wrong("it must not be negative, nor longer than 500 years"),
    }
}

/// The column in `DESCRIPTOR(column)`, or by itself.
fn descriptor(value: &SqlExpr) -> DataFusionResult<&SqlExpr> {
    match value {
        SqlExpr::Function(call) if call.name.to_string().eq_ignore_ascii_case("descriptor") => {
            match &call.args {
                FunctionArguments::List(FunctionArgumentList { args, .. }) => match args.as_slice() {
                    [FunctionArg::Unnamed(FunctionArgExpr::Expr(column))] => Ok(column),
                    _ => plan_err!("DESCRIPTOR names one column, the time"),
                },
                _ => plan_err!("DESCRIPTOR names one column, the time"),
            }
        }
        SqlExpr::Identifier(_) | SqlExpr::CompoundIdentifier(_) => Ok(value),
        other => plan_err!("'{other}' is not a column; write DESCRIPTOR(column)"),
    }
}

/// A column of a table that is not there yet.
fn column_of_another(value: &SqlExpr) -> Option<Column> {
    match value {
        SqlExpr::Identifier(column) => Some(Column::new_unqualified(column_name(column))),
        SqlExpr::CompoundIdentifier(names) => match names.as_slice() {
            [.., table, column] => Some(Column::new(Some(column_name(table)), column_name(column))),
            _ => None,
        },
        _ => None,
    }
}

/// The columns in `DESCRIPTOR(column, …)`.
fn columns(
    value: &SqlExpr,
    context: &mut dyn RelationPlannerContext,
    schema: &DFSchema,
) -> DataFusionResult<Vec<Column>> {
    let listed: Vec<&SqlExpr> = match value {
        SqlExpr::Function(call) if call.name.to_string().eq_ignore_ascii_case("descriptor") => {
            match &call.args {
                FunctionArguments::List(FunctionArgumentList { args, .. }) => {
                    let column = |arg| match arg {
                        &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref column)) => Ok(column),
                        other => plan_err!("'{other}' is not a column; write DESCRIPTOR(column, …)"),
                    };
                    args.iter().map(column).collect::<DataFusionResult<_>>()?
                }
                _ => return plan_err!("DESCRIPTOR names columns"),
            }
        }
        value => vec![value],
    };
    let column = |expr: &SqlExpr| match context.sql_to_expr(expr.clone(), schema)? {
        Expr::Column(column) => Ok(column),
        other => plan_err!("{other} is not a column; write DESCRIPTOR(column, …)"),
    };
    listed.into_iter().map(column).collect()
}

fn windows<'a>(
    function: Function,
    by_name: &impl Fn(&str) -> Option<&'a SqlExpr>,
    context: &mut dyn RelationPlannerContext,
    schema: &DFSchema,
) -> DataFusionResult<Windows> {
    let mut length =
        |name: &str| by_name(name).map(|value| context.sql_to_expr(value.clone(), schema)).transpose();
    let Some(size) = length("size")? else {
        return plan_err!("no size is given; write {}", function.usage());
    };
    let slide = match function {
        Function::Hop => Some("slide"),
        Function::Cumulate => Some("step"),
        _ => None,
    };
    let slide = match slide {
        None => size.clone(),
        Some(name) => match length(name)? {
            Some(slide) => slide,
            None => return plan_err!("no {name} is given; write {}", function.usage()),
        },
    };
    let offset = length("offset")?;
    if function == Function::Cumulate {
        // Windows start every size, so that an offset may be as long as that.
        let whole: Vec<Expr> = [size.clone(), size.clone()].into_iter().chain(offset).collect();
        let Windows { start, .. } = windows_of_exprs(&whole)?;
        return Ok(Windows { start, ..windows_of_exprs(&[size, slide])? });
    }
    let lengths: Vec<Expr> = [size, slide].into_iter().chain(offset).collect();
    windows_of_exprs(&lengths)
}
