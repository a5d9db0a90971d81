//! Keeping DataFusion's optimiser from moving what is only right where it is.
//!
//! DataFusion optimises a query as if its tables were bounded: whether a filter is applied before or after a
//! grouping, say, makes no difference to a finished table. Over a stream it does wherever the filter may
//! decide otherwise in a later batch, for what was left out below a state is missing there for good. [`hold`]
//! puts [`Barrier`]s under such places before a plan is optimised, and [`release`] takes them out again.
//!
//! DataFusion's rules, one by one, and what becomes of each over a stream:
//!
//! | rule | verdict |
//! |---|---|
//! | `rewrite_set_comparison`, `simplify_expressions`, `common_sub_expression_eliminate` | of single expressions; functions of the time are replaced by volatile ones first ([`batch_time`](super::batch_time)) |
//! | `optimize_unions`, `unions_to_filter` | the same rows; volatile branches are left alone |
//! | `replace_distinct_aggregate` | `DISTINCT` becomes an aggregation without functions, which the rewrite knows; `DISTINCT ON` never gets there ([`distinct_on`](super::distinct_on)) |
//! | `eliminate_join`, `eliminate_filter`, `propagate_empty_relation` | take away only what never gives a row, whatever comes |
//! | `eliminate_limit` | `LIMIT 0` likewise; an offset of 0 without a limit |
//! | `decorrelate_predicate_subquery`, `scalar_subquery_to_join`, `decorrelate_lateral_join` | make joins with bounded tables where the filter was; these tables change, so the filter stays there: **barrier** |
//! | `extract_equijoin_predicate`, `eliminate_cross_join`, `eliminate_outer_join`, `eliminate_duplicated_expr` | the same rows in every batch; volatile conditions are **anchored** |
//! | `filter_null_join_keys` | leaves rows out below a state that no join above ever takes |
//! | `push_down_limit` | a limit counts over the life of the query, and what is below it may leave its rows out in one batch and not in another: **barrier** |
//! | `push_down_filter` | fixed predicates only: **barrier** under volatile ones, under subqueries, and under those without columns, which go below a global aggregation that gives a row all the same; below a watermark, fixed ones that do not read the event time, as in Spark ([`Watermark`](super::watermark::Watermark)); below `DISTINCT ON`, those of its keys ([`Deduplicate`](super::deduplicate::Deduplicate)) |
//! | `single_distinct_aggregation_to_group_by` | removed ([`session_state`](super::session_state)) |
//! | `eliminate_group_by_constant` | the same groups; left alone where two keys have one name ([`group_names`](super::group_names)) |
//! | `extract_leaf_expressions`, `push_down_leaf_projections`, `optimize_projections` | move columns, not rows; `optimize_projections` drops keys that follow from others, which holds for results that are given once too |

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchemaRef, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    ColumnarValue, Expr, Extension, Filter, Join, LogicalPlan, Projection, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, UserDefinedLogicalNodeCore, Volatility,
};

use super::as_of::leaves_rows_out;
use super::bind::reads_stream;
use super::sessions::groups_by_session;
use crate::error::Result;

/// `plan`, which is bound and not optimised yet, with barriers under everything over unbounded tables that
/// the optimiser may not move.
pub(super) fn hold(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(hold_node)?.data)
}

/// `plan`, which is optimised, without barriers.
pub(super) fn release(plan: LogicalPlan) -> Result<LogicalPlan> {
    let released = plan.transform_up(|node| {
        if let Some(barrier) = Barrier::of(&node) {
            return Ok(Transformed::yes(barrier.input.clone()));
        }
        node.map_expressions(|expr| expr.transform_up(|expr| Ok(without_anchor(expr))))
    })?;
    Ok(released.data)
}

fn hold_node(node: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
    if !node.inputs().into_iter().any(reads_stream) {
        return Ok(Transformed::no(node));
    }
    match node {
        LogicalPlan::Filter(filter) => hold_filter(filter),
        LogicalPlan::Join(join) => hold_join(join),
        LogicalPlan::Limit(mut limit) => {
            limit.input = Arc::new(Barrier::over(Arc::unwrap_or_clone(limit.input)));
            Ok(Transformed::yes(LogicalPlan::Limit(limit)))
        }
        LogicalPlan::Projection(projection) if leaves_rows_out(&projection) => hold_rows_left_out(projection),
        // A filter on such a key would evaluate it a second time, to something else.
        LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.iter().any(Expr::is_volatile) => {
            Ok(Transformed::yes(Barrier::over(LogicalPlan::Aggregate(aggregate))))
        }
        // Nor is a filter on a session one on its rows.
        node if groups_by_session(&node) => Ok(Transformed::yes(Barrier::over(node))),
        node => Ok(Transformed::no(node)),
    }
}

/// The parts of a filter that may not move stay above a barrier; the others below it may.
fn hold_filter(filter: Filter) -> DataFusionResult<Transformed<LogicalPlan>> {
    let conditions = split_conjunction_owned(filter.predicate.clone());
    if !conditions.iter().any(may_change) {
        return Ok(Transformed::no(LogicalPlan::Filter(filter)));
    }
    // What refers to a query around becomes the condition of a join there, which it cannot from below a barrier.
    let (held, free): (Vec<Expr>, Vec<Expr>) =
        conditions.into_iter().partition(|condition| may_change(condition) || condition.contains_outer());
    let input = match conjunction(free) {
        Some(free) => Arc::new(LogicalPlan::Filter(Filter::try_new(free, filter.input)?)),
        None => filter.input,
    };
    let columns: Vec<Column> = input.schema().columns().into_iter().take(1).collect();
    let held = held.into_iter().map(|predicate| anchored(predicate, &columns));
    let input = Arc::new(Barrier::over(Arc::unwrap_or_clone(input)));
    Ok(Transformed::yes(match conjunction(held) {
        Some(held) => LogicalPlan::Filter(Filter::try_new(held, input)?),
        None => Arc::unwrap_or_clone(input),
    }))
}

/// The filter right below `projection` does not go below the watermark.
fn hold_rows_left_out(mut projection: Projection) -> DataFusionResult<Transformed<LogicalPlan>> {
    let LogicalPlan::Filter(filter) = projection.input.as_ref() else {
        return Ok(Transformed::no(LogicalPlan::Projection(projection)));
    };
    let mut filter = filter.clone();
    filter.input = Arc::new(Barrier::over(Arc::unwrap_or_clone(filter.input)));
    projection.input = Arc::new(LogicalPlan::Filter(filter));
    Ok(Transformed::yes(LogicalPlan::Projection(projection)))
}

/// The parts of a condition that may not move to one of the sides are made to need both.
fn hold_join(mut join: Join) -> DataFusionResult<Transformed<LogicalPlan>> {
    let Some(filter) = join.filter.take_if(|filter| filter.is_volatile()) else {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    };
    let one_of = |side: &LogicalPlan| side.schema().columns().into_iter().next();
    let columns: Vec<Column> = one_of(&join.left).into_iter().chain(one_of(&join.right)).collect();
    let conditions = split_conjunction_owned(filter).into_iter();
    join.filter = conjunction(conditions.map(|condition| match condition.is_volatile() {
        true => anchor(condition, &columns),
        false => condition,
    }));
    Ok(Transformed::yes(LogicalPlan::Join(join)))
}

/// Whether what `predicate` says of a row may be something else in another batch, or whether it says
/// nothing of the row at all.
pub(super) fn may_change(predicate: &Expr) -> bool {
    let has_no_columns = predicate.column_refs().is_empty() && !matches!(predicate, Expr::Literal(..));
    predicate.is_volatile() || (has_no_columns && !predicate.contains_outer()) || has_subquery(predicate)
}

fn has_subquery(predicate: &Expr) -> bool {
    let is_subquery = |expr: &Expr| {
        Ok(matches!(
            expr,
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_)
        ))
    };
    predicate.exists(is_subquery).unwrap_or(true)
}

/// A predicate without columns passes every node that is a barrier only to columns.
fn anchored(predicate: Expr, columns: &[Column]) -> Expr {
    match predicate.column_refs().is_empty() && !is_in_place(&predicate) && may_change(&predicate) {
        true => anchor(predicate, columns),
        false => predicate,
    }
}

/// Whether the optimiser makes a join of `predicate` where it stands.
fn is_in_place(predicate: &Expr) -> bool {
    match predicate {
        Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => true,
        Expr::Not(inner) => is_in_place(inner),
        _ => false,
    }
}

fn anchor(predicate: Expr, columns: &[Column]) -> Expr {
    let columns = columns.iter().cloned().map(Expr::Column);
    let args = std::iter::once(predicate).chain(columns).collect();
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(Anchor::new())), args))
}

fn without_anchor(expr: Expr) -> Transformed<Expr> {
    match expr {
        Expr::ScalarFunction(mut call) if call.func.inner().is::<Anchor>() => {
            call.args.truncate(1);
            match call.args.pop() {
                Some(predicate) => Transformed::yes(predicate),
                None => Transformed::no(Expr::ScalarFunction(call)),
            }
        }
        expr => Transformed::no(expr),
    }
}

/// Its first argument, whatever the others are. Never evaluated: only the optimiser meets it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Anchor {
    signature: Signature,
}

impl Anchor {
    fn new() -> Self {
        Self { signature: Signature::variadic_any(Volatility::Volatile) }
    }
}

impl ScalarUDFImpl for Anchor {
    fn name(&self) -> &str {
        "__anchor"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        internal_err!("an anchor was left in a plan")
    }
}

/// The rows of its input. No predicate and no limit gets below it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Barrier {
    input: LogicalPlan,
}

impl Barrier {
    fn over(input: LogicalPlan) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(Self { input }) })
    }

    fn of(plan: &LogicalPlan) -> Option<&Self> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }
}

impl PartialOrd for Barrier {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.input.partial_cmp(&other.input)
    }
}

impl UserDefinedLogicalNodeCore for Barrier {
    fn name(&self) -> &str {
        "Barrier"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Barrier")
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        match inputs.pop() {
            Some(input) => Ok(Self { input }),
            None => internal_err!("a barrier needs an input"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}
