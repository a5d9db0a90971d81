//! `IN` over subqueries with SQL's three values, wherever it stands.
//!
//! DataFusion makes joins of such conditions (apache/datafusion, `decorrelate_predicate_subquery.rs`). Where
//! `NOT IN` alone is what a filter asks for, its join knows the nulls of one pair of columns; with a constant on
//! the left, nulls are left out below the join, and in a correlated subquery those of other columns count, too.
//! Anywhere else null is taken for false, and so `NOT IN` for true. Here the former become `NOT EXISTS`, and the
//! latter a `CASE` that counts; so does what stands in a column of the result, for which DataFusion has no plan. What
//! stands in a group, a sort or a window function is a column below it.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue, Spans, internal_err, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions_aggregate::expr_fn::{count, max, min};
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Expr, ExprFunctionExt, ExprSchemable, Filter, GroupingSet, Limit, LogicalPlan,
    LogicalPlanBuilder, Operator, Subquery, lit, when,
};
use datafusion::optimizer::AnalyzerRule;

use super::bind::reads_stream;
use super::computed_below::computed_below;
use super::values::rewrite_expressions;

/// Puts conditions over subqueries so that they mean the same after optimisation. Comes before types are
/// found out.
#[derive(Debug)]
pub(crate) struct Subqueries;

impl AnalyzerRule for Subqueries {
    fn name(&self) -> &str {
        "tidemill_subqueries"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Filter(filter) => of_filter(filter),
            LogicalPlan::Projection(_) => of_columns(node),
            LogicalPlan::Aggregate(_) | LogicalPlan::Sort(_) | LogicalPlan::Window(_) => {
                computed_below(node, &is_over_subquery, |columns| of_columns(columns).data())
            }
            node => Ok(Transformed::no(node)),
        })
        .data()
    }
}

/// `node` with conditions over subqueries as values.
fn of_columns(node: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
    rewrite_expressions(node, &|expr, schema| {
        expr.transform_down(|expr| of_value(expr, schema, Place::Column))
    })
}

/// Whether `expr` is one that DataFusion has no plan for in a group, a sort or a window function.
fn is_over_subquery(expr: &Expr) -> bool {
    match expr {
        Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => true,
        Expr::ScalarSubquery(subquery) => !subquery.outer_ref_columns.is_empty(),
        _ => false,
    }
}

/// Where a condition stands.
#[derive(Clone, Copy)]
enum Place {
    /// In a filter, in which DataFusion can join.
    Filter,
    /// In a column of the result.
    Column,
}

fn of_filter(filter: Filter) -> DataFusionResult<Transformed<LogicalPlan>> {
    let schema = Arc::clone(filter.input.schema());
    let mut changed = false;
    let predicate = filter.predicate.transform_down(|expr| Ok(as_in(expr)))?;
    changed |= predicate.transformed;
    let mut conditions = split_conjunction_owned(predicate.data);
    for condition in &mut conditions {
        let rewritten = match whole_in(condition) {
            Some((condition, true)) if !is_known_join(condition) => {
                Transformed::yes(none_may_be_equal(condition, &schema)?)
            }
            Some(_) => continue,
            None => of_condition(std::mem::take(condition), &schema)?,
        };
        changed |= rewritten.transformed;
        *condition = rewritten.data;
    }
    if gives_a_row_of_nothing(&filter.input) && !reads_stream(&filter.input) {
        let (held, free): (Vec<Expr>, Vec<Expr>) = conditions.into_iter().partition(is_without_columns);
        if let Some(held) = conjunction(held) {
            return Ok(Transformed::yes(above_all(held, conjunction(free), filter.input)?));
        }
        conditions = free;
    }
    let predicate = conjunction(conditions).unwrap_or_else(|| lit(true));
    let filter = LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?);
    Ok(if changed { Transformed::yes(filter) } else { Transformed::no(filter) })
}

/// The condition of a filter, if it is `IN` or `NOT IN` and no more, and whether it is `NOT IN`.
fn whole_in(condition: &Expr) -> Option<(&InSubquery, bool)> {
    match condition {
        Expr::InSubquery(condition) => Some((condition, condition.negated)),
        Expr::Not(inner) => match inner.as_ref() {
            Expr::InSubquery(condition) => Some((condition, !condition.negated)),
            _ => None,
        },
        _ => None,
    }
}

/// Whether DataFusion's join is right for `NOT IN`. It knows of nulls only what it needs for one pair of columns.
fn is_known_join(condition: &InSubquery) -> bool {
    !condition.expr.column_refs().is_empty() && condition.subquery.outer_ref_columns.is_empty()
}

/// `NOT IN` for a filter: there is no row that is equal, or may be.
fn none_may_be_equal(condition: &InSubquery, schema: &DFSchema) -> DataFusionResult<Expr> {
    let nulls = may_be_null(&condition.expr, schema) || has_nulls(condition)?;
    let (rows, column) = rows_and_column(&condition.subquery)?;
    let outer = outer_reference(condition.expr.as_ref().clone(), schema)?;
    let mut outer_ref_columns = condition.subquery.outer_ref_columns.clone();
    outer_ref_columns.extend(outer_references(&outer));
    let equal = column.eq(outer);
    let equal = if nulls { Expr::IsNotFalse(Box::new(equal)) } else { equal };
    let subquery = Arc::new(LogicalPlanBuilder::from(rows).filter(equal)?.build()?);
    let subquery = Subquery { subquery, outer_ref_columns, spans: Spans::new() };
    Ok(Expr::Exists(Exists { subquery, negated: true }))
}

/// `expr`, of which a filter asks whether it is true: null and false are one.
fn of_condition(expr: Expr, schema: &DFSchema) -> DataFusionResult<Transformed<Expr>> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let left = of_condition(*left, schema)?;
            let right = of_condition(*right, schema)?;
            let changed = left.transformed || right.transformed;
            let both = BinaryExpr { left: Box::new(left.data), op, right: Box::new(right.data) };
            let both = Expr::BinaryExpr(both);
            Ok(if changed { Transformed::yes(both) } else { Transformed::no(both) })
        }
        expr if is_plain_in(&expr) => Ok(Transformed::no(expr)),
        expr => expr.transform_down(|expr| of_value(expr, schema, Place::Filter)),
    }
}

/// `expr`, if it is a condition over a subquery, with each of its three values.
fn of_value(expr: Expr, schema: &DFSchema, place: Place) -> DataFusionResult<Transformed<Expr>> {
    let done = |expr| Ok(Transformed::new(expr, true, TreeNodeRecursion::Jump));
    match (as_in(expr).data, place) {
        (Expr::IsTrue(condition), Place::Filter) if is_plain_in(&condition) => {
            Ok(Transformed::new(Expr::IsTrue(condition), false, TreeNodeRecursion::Jump))
        }
        (Expr::InSubquery(condition), _) => {
            let negated = condition.negated;
            let is_in = three_valued(condition, schema, place)?;
            done(if negated { Expr::Not(Box::new(is_in)) } else { is_in })
        }
        (Expr::Exists(Exists { subquery, negated }), Place::Column) => {
            let rows = count_of(Arc::clone(&subquery.subquery), None, subquery.outer_ref_columns)?;
            done(if negated { rows.eq(lit(0_i64)) } else { rows.gt(lit(0_i64)) })
        }
        (Expr::SetComparison(comparison), Place::Column) => done(compared(comparison)?),
        (expr, _) => Ok(Transformed::no(expr)),
    }
}

/// `= ANY` as `IN` and `<> ALL` as `NOT IN`, which they are; and the rows of `UNION ALL` under one name: DataFusion takes
/// each part's for a column of its own.
fn as_in(expr: Expr) -> Transformed<Expr> {
    match expr {
        Expr::InSubquery(mut condition) if matches!(*condition.subquery.subquery, LogicalPlan::Union(_)) => {
            let rows = LogicalPlanBuilder::from(Arc::clone(&condition.subquery.subquery)).alias(IN);
            match rows.and_then(LogicalPlanBuilder::build) {
                Ok(rows) => {
                    condition.subquery.subquery = Arc::new(rows);
                    Transformed::yes(Expr::InSubquery(condition))
                }
                Err(_) => Transformed::no(Expr::InSubquery(condition)),
            }
        }
        Expr::SetComparison(SetComparison {
            expr,
            subquery,
            op: Operator::Eq,
            quantifier: SetQuantifier::Any,
        }) => Transformed::yes(Expr::InSubquery(InSubquery::new(expr, subquery, false))),
        Expr::SetComparison(SetComparison {
            expr,
            subquery,
            op: Operator::NotEq,
            quantifier: SetQuantifier::All,
        }) => Transformed::yes(Expr::InSubquery(InSubquery::new(expr, subquery, true))),
        expr => Transformed::no(expr),
    }
}

/// `value < ANY (…)` and its kin as a value: true, false, or null where it cannot be told. It holds if it does for the
/// least or the largest of the rows; and for all rows if the opposite holds for none.
fn compared(comparison: SetComparison) -> DataFusionResult<Expr> {
    let SetComparison { expr: value, subquery, op, quantifier } = comparison;
    let (op, negated) = match (quantifier, op.negate()) {
        (SetQuantifier::Any, _) => (op, false),
        (SetQuantifier::All, Some(opposite)) => (opposite, true),
        (SetQuantifier::All, None) => {
            return plan_err!("{op} ALL (…) of a subquery is nothing that can be told");
        }
    };
    let (rows, column) = rows_and_column(&subquery)?;
    let outer = || subquery.outer_ref_columns.clone();
    let with = |extreme: Expr| -> DataFusionResult<Expr> {
        let extreme = value_of(Arc::clone(&rows), extreme, outer())?;
        Ok(Expr::BinaryExpr(BinaryExpr::new(value.clone(), op, Box::new(extreme))))
    };
    let holds = match op {
        Operator::Lt | Operator::LtEq => with(max(column.clone()))?,
        Operator::Gt | Operator::GtEq => with(min(column.clone()))?,
        Operator::NotEq => with(min(column.clone()))?.or(with(max(column.clone()))?),
        _ => return plan_err!("{op} ANY (…) of a subquery is nothing that can be told"),
    };
    let unknown = || lit(ScalarValue::Boolean(None));
    let counted = |filter| count_of(Arc::clone(&rows), filter, outer()).map(|rows| rows.gt(lit(0_i64)));
    let any = when(Expr::IsTrue(Box::new(holds)), lit(true))
        .when(Expr::Not(Box::new(counted(None)?)), lit(false))
        .when(value.clone().is_null(), unknown())
        .when(counted(Some(column.is_null()))?, unknown())
        .otherwise(lit(false))?;
    Ok(if negated { Expr::Not(Box::new(any)) } else { any })
}

fn is_plain_in(condition: &Expr) -> bool {
    matches!(condition, Expr::InSubquery(InSubquery { negated: false, .. }))
}

/// Whether the subquery of `condition` may give nulls.
fn has_nulls(condition: &InSubquery) -> DataFusionResult<bool> {
    match condition.subquery.subquery.schema().fields().first() {
        Some(field) => Ok(field.is_nullable()),
        None => internal_err!("a subquery of IN without a column"),
    }
}

/// Whether `expr` may be null. Before types are found out that cannot be told of all.
fn may_be_null(expr: &Expr, schema: &DFSchema) -> bool {
    expr.nullable(schema).unwrap_or(true)
}

/// Whether `condition`, not negated, holds: true, false, or null where it cannot be told.
fn three_valued(condition: InSubquery, schema: &DFSchema, place: Place) -> DataFusionResult<Expr> {
    let nulls_in_it = has_nulls(&condition)?;
    let InSubquery { expr, subquery, .. } = condition;
    let (rows, column) = rows_and_column(&subquery)?;
    let counted = |filter: Option<Expr>| {
        let rows = count_of(Arc::clone(&rows), filter, subquery.outer_ref_columns.clone());
        rows.map(|rows| rows.gt(lit(0_i64)))
    };
    let unknown = lit(ScalarValue::Boolean(None));
    let is_found = match place {
        // This much DataFusion's join tells.
        Place::Filter => {
            let found = InSubquery::new(expr.clone(), subquery.clone(), false);
            Expr::IsTrue(Box::new(Expr::InSubquery(found)))
        }
        Place::Column => {
            let outer = outer_reference(expr.as_ref().clone(), schema)?;
            let mut columns = subquery.outer_ref_columns.clone();
            columns.extend(outer_references(&outer));
            let equal = count_of(Arc::clone(&rows), Some(column.clone().eq(outer)), columns)?;
            equal.gt(lit(0_i64))
        }
    };
    // Nothing is in what is empty, not even null.
    let mut cases = if may_be_null(&expr, schema) {
        let mut cases = when(Expr::Not(Box::new(counted(None)?)), lit(false));
        cases.when(expr.is_null(), unknown.clone()).when(is_found, lit(true))
    } else {
        when(is_found, lit(true))
    };
    if nulls_in_it {
        cases = cases.when(counted(Some(column.is_null()))?, unknown);
    }
    cases.otherwise(lit(false))
}

/// What the rows of the subquery of `IN` are called.
const IN: &str = "__tidemill_in";

/// The rows of the subquery of `IN`, and their column.
fn rows_and_column(subquery: &Subquery) -> DataFusionResult<(Arc<LogicalPlan>, Expr)> {
    let rows = match subquery.outer_ref_columns.is_empty() {
        // Its columns may be called as those outside.
        true => LogicalPlanBuilder::from(Arc::clone(&subquery.subquery)).alias(IN)?.build()?,
        false => subquery.subquery.as_ref().clone(),
    };
    match rows.schema().columns().into_iter().next() {
        Some(column) => Ok((Arc::new(rows), Expr::Column(column))),
        None => internal_err!("a subquery of IN without a column"),
    }
}

/// How many rows of `rows` pass `filter`, as a value. Unless it refers to a query around, it is the aggregate's own: one
/// on the rows would leave them out below their watermark, which nobody who wrote the query has asked for.
fn count_of(
    rows: Arc<LogicalPlan>,
    filter: Option<Expr>,
    outer_ref_columns: Vec<Expr>,
) -> DataFusionResult<Expr> {
    match filter {
        Some(filter) if filter.contains_outer() => {
            let rows = LogicalPlanBuilder::from(rows).filter(filter)?.build()?;
            value_of(Arc::new(rows), count(lit(1_i64)), outer_ref_columns)
        }
        Some(filter) => value_of(rows, count(lit(1_i64)).filter(filter).build()?, outer_ref_columns),
        None => value_of(rows, count(lit(1_i64)), outer_ref_columns),
    }
}

/// What `aggregate` gives of all rows of `rows`.
fn value_of(rows: Arc<LogicalPlan>, aggregate: Expr, outer_ref_columns: Vec<Expr>) -> DataFusionResult<Expr> {
    let rows = LogicalPlanBuilder::from(rows);
    // Under a name of its own, for others may be counted beside it.
    let named =
        Expr::Column(Column::new_unqualified(aggregate.schema_name().to_string())).alias("__tidemill_count");
    let subquery = Arc::new(rows.aggregate(Vec::<Expr>::new(), vec![aggregate])?.project([named])?.build()?);
    Ok(Expr::ScalarSubquery(Subquery { subquery, outer_ref_columns, spans: Spans::new() }))
}

/// `expr` as it is written inside of a subquery.
fn outer_reference(expr: Expr, schema: &DFSchema) -> DataFusionResult<Expr> {
    expr.transform(|expr| match expr {
        Expr::Column(column) => {
            let field = schema.qualified_field_from_column(&column)?.1;
            Ok(Transformed::yes(Expr::OuterReferenceColumn(Arc::clone(field), column)))
        }
        expr => Ok(Transformed::no(expr)),
    })
    .data()
}

/// The columns outside that `expr` reads.
fn outer_references(expr: &Expr) -> Vec<Expr> {
    let mut columns = Vec::new();
    // The closure never fails, so neither does the walk.
    let _ = expr.apply(|expr| {
        if matches!(expr, Expr::OuterReferenceColumn(..)) && !columns.contains(expr) {
            columns.push(expr.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    columns
}

/// Whether a filter's condition says the same of all rows, and no rule of the optimiser knows what.
fn is_without_columns(condition: &Expr) -> bool {
    let is_open = |expr: &Expr| {
        matches!(expr, Expr::ScalarSubquery(_) | Expr::ScalarFunction(_) | Expr::Placeholder(_))
    };
    condition.column_refs().is_empty() && condition.exists(|expr| Ok(is_open(expr))).unwrap_or(false)
}

/// Whether `plan` may give a row where there is none below it: the optimiser moves conditions without columns
/// below aggregations, which give their row all the same then.
fn gives_a_row_of_nothing(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(Aggregate { group_expr, .. }) => match group_expr.as_slice() {
            [] => true,
            [Expr::GroupingSet(GroupingSet::Rollup(_) | GroupingSet::Cube(_))] => true,
            [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] => sets.iter().any(Vec::is_empty),
            _ => false,
        },
        LogicalPlan::Projection(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Window(_) => plan.inputs().into_iter().any(gives_a_row_of_nothing),
        _ => false,
    }
}

/// `input` filtered by `free`, and then by `held`, which stays above it: nothing is moved below a limit, be it
/// of more rows than there are.
fn above_all(held: Expr, free: Option<Expr>, input: Arc<LogicalPlan>) -> DataFusionResult<LogicalPlan> {
    let input = match free {
        Some(free) => Arc::new(LogicalPlan::Filter(Filter::try_new(free, input)?)),
        None => input,
    };
    let limit = Limit { skip: None, fetch: Some(Box::new(lit(i64::MAX))), input };
    Ok(LogicalPlan::Filter(Filter::try_new(held, Arc::new(LogicalPlan::Limit(limit)))?))
}
