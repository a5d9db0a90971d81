//! From `window()` to plans that DataFusion runs quickly.
//!
//! Grouping by structs is slow, so that a group by a window becomes one by the window's start, with
//! the window put together again above it. Sliding windows give several rows for one: a list of
//! starts, unnested. Rows without a time are in no window and are dropped.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, FunctionalDependence, UnnestOptions};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Projection};

use super::bind::reads_stream;
use super::bounded::simplify_bounded;
use super::definitions::{definitions_of, describe_keys, windows_by, with_definitions};
use super::distinct_on::keep_first_rows;
use super::distinct_sets::with_sets_apart;
use super::event_time::finality_of;
use super::over::{with_columns, with_common_columns};
use super::sessions::{session_key, without_sessionless};
use super::top_n::{keep_first_ranks, without_other_times};
use super::union_times::with_common_times;
use super::window_calls::{calls_in, event_time_of, get_field, in_use, refuse, unused_name, window_size};
use crate::error::Result;
use crate::functions::{
    Finality, Span, WINDOW_END, WINDOW_START, WindowCall, Windows, definition_of, described, starts_of,
    tag_of, tagged, window_of, window_start, window_starts, window_time,
};

/// The column of starts that sliding windows are unnested to.
const STARTS: &str = "__window_start";

/// `plan` without calls of `window()` that give several rows or are grouped by, and with every column
/// of a projection, group or union tagged with when it is final, whatever DataFusion's functions,
/// casts and unions say about it. Column names and types stay the same. Watermarks and deduplications of bounded
/// tables become what they are in batch queries, and `DISTINCT ON` over unbounded ones becomes a
/// deduplication.
///
/// # Errors
/// If sliding windows are used where there cannot be several rows for one.
pub(crate) fn expand_windows(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = with_common_columns(keep_first_ranks(keep_first_rows(simplify_bounded(plan)?)?)?)?;
    Ok(rewrite(plan, true)?)
}

/// The same for a plan that is run once, in which nobody asks for tags.
pub(crate) fn expand_windows_in_batch(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    rewrite(plan, false)
}

fn rewrite(plan: LogicalPlan, tags: bool) -> DataFusionResult<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|node| {
        // What an input is called and holds stays the same, but not what its schema says about tags.
        let node = if node.inputs().is_empty() { node } else { node.recompute_schema()? };
        let node = match node {
            LogicalPlan::Aggregate(aggregate) => {
                if !tags && session_key(&aggregate.group_expr, aggregate.input.schema()).is_some() {
                    return refuse(
                        "session_window() groups the rows of streaming queries only: these are of bounded tables. Read \
                         them from an unbounded one, with the trigger AVAILABLE NOW and the option flushOnEnd"
                            .into(),
                    );
                }
                match if tags { with_sets_apart(aggregate)? } else { LogicalPlan::Aggregate(aggregate) } {
                    LogicalPlan::Aggregate(aggregate) => expand_group(aggregate, tags)?,
                    LogicalPlan::Projection(mut projection) => {
                        let LogicalPlan::Aggregate(aggregate) = projection.input.as_ref() else {
                            return refuse("the groups of grouping sets are not there".into());
                        };
                        projection.input = Arc::new(expand_group(aggregate.clone(), tags)?);
                        let Projection { expr, input, .. } = projection;
                        tag_projection(Projection::try_new(expr, input)?)?
                    }
                    other => other,
                }
            }
            LogicalPlan::Projection(projection) => {
                let definitions = if tags { definitions_of(&projection)? } else { Vec::new() };
                let projection = with_definitions(expand_projection(projection)?, definitions)?;
                if tags { tag_projection(projection)? } else { LogicalPlan::Projection(projection) }
            }
            LogicalPlan::Union(union) if tags => with_common_times(union)?,
            LogicalPlan::Window(window) if tags && reads_stream(&window.input) => {
                refuse_sliding(&LogicalPlan::Window(window.clone()))?;
                with_columns(window, tag_projection)?
            }
            other => {
                refuse_sliding(&other)?;
                if tags { without_other_times(other, tag_projection)? } else { other }
            }
        };
        Ok(Transformed::yes(node))
    })?;
    Ok(rewritten.data)
}

/// An aggregation over rows that are in windows and sessions, if it is by these.
fn expand_group(aggregate: Aggregate, tags: bool) -> DataFusionResult<LogicalPlan> {
    let aggregate = if tags { tag_groups(aggregate)? } else { aggregate };
    expand_aggregate(without_sessionless(aggregate)?)
}

/// A projection whose window calls, if any, give one row for one.
fn expand_projection(projection: Projection) -> DataFusionResult<Projection> {
    let calls = calls_in(&projection.expr)?;
    if calls.is_empty() {
        return Ok(projection);
    }
    let (input, sliding) = expand_input(projection.input, &calls)?;
    let expr = projection
        .expr
        .into_iter()
        .map(|expr| replace_sliding(expr, &sliding))
        .collect::<DataFusionResult<_>>()?;
    Projection::try_new(expr, Arc::new(input))
}

/// An aggregation that is grouped by the starts of windows instead of windows.
fn expand_aggregate(aggregate: Aggregate) -> DataFusionResult<LogicalPlan> {
    let exprs: Vec<Expr> = aggregate.group_expr.iter().chain(&aggregate.aggr_expr).cloned().collect();
    let calls = calls_in(&exprs)?;
    refuse_ambiguous(&aggregate)?;
    let schema = Arc::clone(&aggregate.schema);
    let (input, sliding) = expand_input(Arc::clone(&aggregate.input), &calls)?;
    let mut starts = Starts { taken: schema.field_names(), found: vec![] };
    let replaced: Vec<Expr> = (aggregate.group_expr.iter().cloned())
        .map(|expr| starts.replace(expr, input.schema(), &sliding))
        .collect::<DataFusionResult<_>>()?;
    let aggregate = if calls.is_empty() && starts.found.is_empty() {
        aggregate
    } else {
        let results = aggregate.aggr_expr.into_iter().map(|expr| replace_sliding(expr, &sliding));
        Aggregate::try_new(Arc::new(input), replaced, results.collect::<DataFusionResult<_>>()?)?
    };
    results_of(aggregate, &schema, &starts.found)
}

/// Fails if a window is called like a column below that others follow from. DataFusion takes it for that
/// column, and has added the others to the keys of the group, unless they are meant to be there.
fn refuse_ambiguous(aggregate: &Aggregate) -> DataFusionResult<()> {
    let input = aggregate.input.schema();
    for key in &aggregate.group_expr {
        if WindowCall::of(&key.clone().unalias())?.is_none() {
            continue;
        }
        let (qualifier, name) = key.qualified_name();
        let is_a_key = |dependence: &FunctionalDependence| match dependence.source_indices.as_slice() {
            [source] => input.qualified_field(*source).1.name() == &name,
            _ => false,
        };
        let others = aggregate.group_expr.iter().any(|other| matches!(other, Expr::Column(_)));
        if qualifier.is_none() && others && input.functional_dependencies().iter().any(is_a_key) {
            return refuse(format!(
                "the window is called like the column '{name}' below, from which other columns follow: DataFusion \
                 would group by these, too. In the subquery, give the column '{name}' another name with AS"
            ));
        }
    }
    Ok(())
}

/// What `aggregate` gives, under the names of `schema`: with windows in place of their starts, and
/// with no event times among the results of its functions. `first_value(time)` hands on that its
/// argument is one, but a group may be given out long after its first time.
fn results_of(aggregate: Aggregate, schema: &DFSchema, starts: &[Start]) -> DataFusionResult<LogicalPlan> {
    let keys = schema.fields().len() - aggregate.aggr_expr.len();
    let mut changed = false;
    let results = aggregate.schema.columns();
    let columns = schema.iter().enumerate().map(|(index, (qualifier, field))| {
        let known = Column::from((qualifier, field));
        // The keys of grouping sets are called by what they are now.
        if let Some(now) =
            results.get(index).filter(|now| results.len() == schema.fields().len() && **now != known)
            && starts.iter().all(|start| start.window != (qualifier.cloned(), field.name().clone()))
        {
            changed = true;
            return Expr::Column(now.clone()).alias_qualified(qualifier.cloned(), field.name());
        }
        let column = Expr::Column(known);
        let start = starts.iter().find(|start| start.window == (qualifier.cloned(), field.name().clone()));
        let replaced = match start {
            Some(start) => window_of(Expr::Column(Column::new_unqualified(&start.name)), start.size),
            None if index >= keys && tag_of(field).is_some() => tagged(column, None),
            // They are merged then.
            None => match tag_of(field) {
                Some(Finality::Session { timed }) => {
                    tagged(column, timed.then_some(Finality::Window { size: None }))
                }
                _ => return column,
            },
        };
        changed = true;
        replaced.alias_qualified(qualifier.cloned(), field.name())
    });
    let columns: Vec<Expr> = columns.collect();
    let plan = LogicalPlan::Aggregate(aggregate);
    if !changed {
        return Ok(plan);
    }
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?))
}

/// The keys of a group that were windows and are the starts of windows now.
struct Starts {
    /// Names that are in use among the results of the aggregation.
    taken: Vec<String>,
    found: Vec<Start>,
}

struct Start {
    /// What the window was called.
    window: (Option<datafusion::common::TableReference>, String),
    /// What its start is called.
    name: String,
    size: i64,
}

impl Starts {
    /// `key` over rows of `schema`, as the start of a window if it is a window.
    fn replace(&mut self, key: Expr, schema: &DFSchema, sliding: &Option<Sliding>) -> DataFusionResult<Expr> {
        if let Expr::GroupingSet(_) = key {
            // The keys of grouping sets have no names of their own; structs it is.
            return replace_sliding(key, sliding);
        }
        let window = key.qualified_name();
        let unaliased = key.clone().unalias();
        let called = WindowCall::of(&unaliased)?;
        let of_call = if called.is_some() { "window" } else { window.1.as_str() };
        let name = format!("{of_call}_start");
        let (start, size) = match called {
            Some(call) => match sliding {
                Some(sliding) if sliding.call == call => (sliding.start(), call.windows.size),
                _ => {
                    (window_start(event_time_of(&call, schema)?, call.windows, &call.time), call.windows.size)
                }
            },
            None => match window_size(&unaliased, schema) {
                Some(size) => {
                    let definition = unaliased.to_field(schema)?.1;
                    let start = match definition_of(&definition) {
                        Some(definition) => {
                            described(get_field(unaliased, WINDOW_START), definition.to_string())
                        }
                        None => get_field(unaliased, WINDOW_START),
                    };
                    // Tagged, for DataFusion may fetch the field below the watermark.
                    (tagged(start, Some(Finality::After(Span::micros(size)))), size)
                }
                None => return replace_sliding(key, sliding),
            },
        };
        let name = unused_name(&name, &mut self.taken);
        let replaced = start.alias(&name);
        self.found.push(Start { window, name, size });
        Ok(replaced)
    }
}

/// Sliding windows, whose starts are a column.
struct Sliding {
    call: WindowCall,
    column: String,
    /// Whether the time is the event time.
    is_event_time: bool,
}

impl Sliding {
    fn start(&self) -> Expr {
        let finality = Finality::After(Span::micros(self.call.windows.size));
        let column = starts_of(
            Expr::Column(Column::new_unqualified(&self.column)),
            self.call.windows,
            &self.call.time,
        );
        if self.is_event_time { tagged(column, Some(finality)) } else { column }
    }
}

/// `input` with one row for each window of a row, if there are sliding windows among `calls`, and
/// without rows that are in none.
fn expand_input(
    input: Arc<LogicalPlan>,
    calls: &[WindowCall],
) -> DataFusionResult<(LogicalPlan, Option<Sliding>)> {
    let (tumbling, sliding): (Vec<_>, Vec<_>) = calls.iter().partition(|call| call.windows.is_tumbling());
    let mut builder = LogicalPlanBuilder::from(Arc::unwrap_or_clone(input));
    for call in tumbling {
        if call.time.nullable(builder.schema())? {
            builder = builder.filter(call.time.clone().is_not_null())?;
        }
    }
    let call = match sliding.as_slice() {
        [] => return Ok((builder.build()?, None)),
        [call] => (*call).clone(),
        _ => {
            return refuse(
                "several different sliding windows in one SELECT would give each row once for every \
                 combination of windows. Use one of them, or compute the others in queries of their own"
                    .into(),
            );
        }
    };
    let schema = Arc::clone(builder.schema());
    let time = event_time_of(&call, &schema)?;
    let is_event_time = finality_of(&time, &schema) == Some(Finality::at_once());
    let column = unused_name(STARTS, &mut schema.field_names());
    let starts = window_starts(time, call.windows).alias(&column);
    let columns: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).chain([starts]).collect();
    let plan = builder
        .project(columns)?
        .unnest_column_with_options(
            Column::new_unqualified(&column),
            UnnestOptions::new().with_preserve_nulls(false),
        )?
        .build()?;
    Ok((plan, Some(Sliding { call, column, is_event_time })))
}

/// The rows of `input` with the window that `time` is in, for each one if they slide: as columns
/// `window_start`, `window_end` and `window_time`, which are all event times if `time` is.
pub(crate) fn with_window_columns(
    input: LogicalPlan,
    time: Expr,
    windows: Windows,
) -> DataFusionResult<LogicalPlan> {
    let columns = input.schema().columns().into_iter().map(Expr::Column);
    let call = WindowCall { time, windows };
    // Fails on what is no time.
    windows.time_type(&call.time.get_type(input.schema())?)?;
    let columns: Vec<Expr> = columns.collect();
    let (input, sliding) = expand_input(input.into(), std::slice::from_ref(&call))?;
    let start = match &sliding {
        Some(sliding) => sliding.start(),
        None => window_start(event_time_of(&call, input.schema())?, windows, &call.time),
    };
    let window = window_of(start.clone(), windows.size);
    let definition = windows_by(windows, &call.time);
    // Of the start its function says so.
    let mut added = [
        start.alias("window_start"),
        described(get_field(window.clone(), WINDOW_END), definition.clone()).alias("window_end"),
        described(window_time(window), definition).alias("window_time"),
    ];
    for expr in &mut added {
        tag(expr, input.schema())?;
    }
    LogicalPlanBuilder::from(input).project(columns.into_iter().chain(added))?.build()
}

/// The same with windows that all start with the one of the whole size that `time` is in, and end every slide
/// until that one does.
pub(crate) fn with_cumulative_window_columns(
    input: LogicalPlan,
    time: Expr,
    windows: Windows,
) -> DataFusionResult<LogicalPlan> {
    let Windows { size, slide, start } = windows;
    if size % slide != 0 {
        return refuse("the size of CUMULATE is to be a multiple of its step".into());
    }
    let whole = Windows { size, slide: size, start };
    // Windows that slide end where these do, but go on beyond.
    let sliding = with_window_columns(input, time.clone(), windows)?;
    let definition = format!("{} in steps of {slide}us", windows_by(whole, &time));
    let call = WindowCall { time, windows: whole };
    let start = window_start(event_time_of(&call, sliding.schema())?, whole, &call.time);
    let end = get_field(window_of(start.clone(), size), WINDOW_END);
    let columns = sliding.schema().columns();
    let added = columns.len() - 3;
    let columns = columns.into_iter().enumerate().map(|(index, column)| match index {
        // Windows that start together are final one after the other.
        start_column if start_column == added => tagged(start.clone(), None).alias("window_start"),
        end if end > added => {
            let name = column.name.clone();
            described(Expr::Column(column), definition.clone()).alias(name)
        }
        _ => Expr::Column(column),
    });
    let columns: Vec<Expr> = columns.collect();
    let is_in = Expr::Column(Column::new_unqualified("window_end")).lt_eq(end);
    LogicalPlanBuilder::from(sliding).filter(is_in)?.project(columns)?.build()
}

/// `expr`, under its old name, with the window that a row was unnested for in place of the call.
fn replace_sliding(expr: Expr, sliding: &Option<Sliding>) -> DataFusionResult<Expr> {
    let Some(sliding) = sliding else { return Ok(expr) };
    let (qualifier, name) = expr.qualified_name();
    let replaced = expr.transform_up(|expr| match WindowCall::of(&expr)? {
        Some(call) if call == sliding.call => {
            Ok(Transformed::yes(window_of(sliding.start(), call.windows.size)))
        }
        _ => Ok(Transformed::no(expr)),
    })?;
    match &replaced.data {
        Expr::GroupingSet(_) => Ok(replaced.data),
        _ if !replaced.transformed => Ok(replaced.data),
        _ => Ok(replaced.data.unalias().alias_qualified(qualifier, name)),
    }
}

/// Fails if there are sliding windows in the expressions of `node`, which gives one row for one.
fn refuse_sliding(node: &LogicalPlan) -> DataFusionResult<()> {
    node.apply_expressions(|expr| {
        for call in calls_in(std::slice::from_ref(expr))? {
            if !call.windows.is_tumbling() {
                return refuse(format!(
                    "sliding windows cannot be used in {}: they give several rows for one. Compute them in \
                     the SELECT list of a subquery",
                    in_use(node)
                ));
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// An aggregation whose keys say when they are final.
fn tag_groups(mut aggregate: Aggregate) -> DataFusionResult<Aggregate> {
    let mut changed = describe_keys(&mut aggregate)?;
    let schema = Arc::clone(aggregate.input.schema());
    // A key is final in those sets only that it is in.
    for key in aggregate.group_expr.iter_mut().filter(|key| !matches!(key, Expr::GroupingSet(_))) {
        changed |= tag(key, &schema)?;
    }
    match changed {
        true => Aggregate::try_new(aggregate.input, aggregate.group_expr, aggregate.aggr_expr),
        false => Ok(aggregate),
    }
}

/// A projection whose columns say when they are final.
fn tag_projection(mut projection: Projection) -> DataFusionResult<LogicalPlan> {
    let mut changed = false;
    let schema = Arc::clone(projection.input.schema());
    for expr in &mut projection.expr {
        changed |= tag(expr, &schema)?;
    }
    Ok(LogicalPlan::Projection(match changed {
        true => Projection::try_new(projection.expr, projection.input)?,
        false => projection,
    }))
}

/// `plan`, in which projections that the optimiser has made say when their columns are final, too.
pub(super) fn tag_again(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let mut changed = false;
    let tagged = plan.transform_up(|node| {
        if let LogicalPlan::Projection(projection) = &node {
            let schema = projection.input.schema();
            let is_untold = |expr: &Expr| {
                let told = expr.to_field(schema).ok().and_then(|(_, field)| tag_of(&field));
                told.is_none() && finality_of(expr, schema).is_some()
            };
            if projection.expr.iter().any(is_untold) {
                changed = true;
                return Ok(Transformed::yes(tag_projection(projection.clone())?));
            }
        }
        if changed { Ok(Transformed::yes(node.recompute_schema()?)) } else { Ok(Transformed::no(node)) }
    })?;
    Ok(tagged.data)
}

/// Makes the schema say of `expr` what is true of it; whether something had to be changed.
fn tag(expr: &mut Expr, schema: &DFSchema) -> DataFusionResult<bool> {
    let finality = finality_of(expr, schema);
    let field = expr.to_field(schema)?.1;
    // DataFusion makes casts, which keep tags, of some functions, which do not.
    let may_become_cast = finality.is_none()
        && matches!(expr.clone().unalias(), Expr::ScalarFunction(_))
        && matches!(field.data_type(), DataType::Timestamp(_, _) | DataType::Date32);
    if tag_of(&field) == finality && !may_become_cast {
        return Ok(false);
    }
    let (qualifier, name) = expr.qualified_name();
    let unaliased = std::mem::take(expr).unalias();
    *expr = tagged(unaliased, finality).alias_qualified(qualifier, name);
    Ok(true)
}

#[cfg(test)]
mod tests;
