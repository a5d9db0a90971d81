//! One meaning of equal: `0.0` and `-0.0` are one value.
//!
//! DataFusion groups by this meaning, but compares, joins, partitions and counts distinct values bit by
//! bit. Here what is compared, grouped, joined or sorted is made canonical before. NaN is left as it is:
//! it equals NaN of the same bits everywhere. But where values are put in order it is larger than all numbers,
//! also with the sign that processors give it.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::{
    AggregateFunction, Between, Case, InList, InSubquery, Sort as SortExpr,
};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Distinct, DistinctOn, Expr, ExprSchemable, GroupingSet, Join, LogicalPlan,
    LogicalPlanBuilder, Operator, Sort, lit, when,
};
use datafusion::optimizer::AnalyzerRule;

use super::rewrite_expressions;
use crate::functions::{canonical, has_floats, ordered};

/// Makes canonical what is compared. Runs when the types are known.
#[derive(Debug)]
pub(super) struct Equality;

impl AnalyzerRule for Equality {
    fn name(&self) -> &str {
        "equality"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|plan| {
            let stored = filtered_stored_columns(&plan);
            let plan = rewrite_expressions(plan, &|expr, schema| {
                expr.transform_up(|expr| comparison(expr, schema, &stored))
            })?;
            plan.transform_data(node)
        })?;
        Ok(rewritten.data)
    }
}

/// `expr`, canonical if there are floats in it.
fn key(expr: Expr, schema: &DFSchema) -> Expr {
    match expr {
        Expr::Alias(mut alias) => {
            *alias.expr = key(*alias.expr, schema);
            Expr::Alias(alias)
        }
        expr if is_float(&expr, schema) => canonical(expr),
        expr => expr,
    }
}

/// `expr` as a value that others come before or after, if there are floats in it.
fn order_key(expr: Expr, schema: &DFSchema) -> Expr {
    match is_float(&expr, schema) {
        true => ordered(expr),
        false => expr,
    }
}

/// The columns that a filter is over and that stand so in files or other tables. Filters that compare these with
/// literals are left as they are: files are skipped by them.
fn filtered_stored_columns(plan: &LogicalPlan) -> HashSet<Column> {
    let inputs = match plan {
        LogicalPlan::Filter(_) | LogicalPlan::Join(_) => plan.inputs(),
        _ => vec![],
    };
    let mut found = HashSet::new();
    for input in inputs {
        let columns = input.schema().columns().into_iter().zip(stored(input));
        found.extend(columns.filter(|(_, is_stored)| *is_stored).map(|(column, _)| column));
    }
    found
}

/// Of each column of `plan`, whether it stands so in a table.
fn stored(plan: &LogicalPlan) -> Vec<bool> {
    let width = plan.schema().fields().len();
    match plan {
        LogicalPlan::TableScan(_) => vec![true; width],
        LogicalPlan::Projection(projection) => {
            let (below, schema) = (stored(&projection.input), projection.input.schema());
            let is_stored = |expr: &Expr| match without_alias(expr) {
                Expr::Column(column) => schema.index_of_column(column).is_ok_and(|index| below[index]),
                _ => false,
            };
            projection.expr.iter().map(is_stored).collect()
        }
        LogicalPlan::SubqueryAlias(_) | LogicalPlan::Filter(_) | LogicalPlan::Extension(_) => {
            match plan.inputs().as_slice() {
                [input] if input.schema().fields().len() == width => stored(input),
                _ => vec![false; width],
            }
        }
        LogicalPlan::Join(join) => {
            let both: Vec<bool> = stored(&join.left).into_iter().chain(stored(&join.right)).collect();
            if both.len() == width { both } else { vec![false; width] }
        }
        _ => vec![false; width],
    }
}

fn without_alias(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => without_alias(&alias.expr),
        expr => expr,
    }
}

fn is_float(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|data_type| has_floats(&data_type))
}

/// Whether `expr` is a number other than zero, which equals only itself.
fn is_no_zero(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => *value != 0.0,
        Expr::Literal(ScalarValue::Float32(Some(value)), _) => *value != 0.0,
        Expr::Cast(cast) => is_no_zero_decimal(&cast.expr),
        _ => false,
    }
}

fn is_no_zero_decimal(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(value)), _) => *value != 0,
        Expr::Literal(ScalarValue::Decimal128(Some(value), _, _), _) => *value != 0,
        _ => false,
    }
}

pub(super) fn is_comparison(operator: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(operator, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// Whether values are put in order by the operator.
fn is_order(operator: Operator) -> bool {
    matches!(operator, Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq)
}

fn comparison(
    expr: Expr,
    schema: &DFSchema,
    stored: &HashSet<Column>,
) -> DataFusionResult<Transformed<Expr>> {
    let boxed = |expr: Box<Expr>| Box::new(key(*expr, schema));
    let in_order = |expr: Box<Expr>| Box::new(order_key(*expr, schema));
    let all = |exprs: Vec<Expr>| exprs.into_iter().map(|expr| key(expr, schema)).collect::<Vec<_>>();
    let needs_no_key = |left: &Expr, operator: Operator, right: &Expr| {
        let is_stored = |expr: &Expr| match expr {
            Expr::Cast(cast) => matches!(&*cast.expr, Expr::Column(column) if stored.contains(column)),
            expr => matches!(expr, Expr::Column(column) if stored.contains(column)),
        };
        let with_number =
            |number: &Expr, other: &Expr| is_no_zero(number) && (!is_order(operator) || is_stored(other));
        with_number(left, right) || with_number(right, left)
    };
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if is_comparison(op)
                && (is_float(&left, schema) || is_float(&right, schema))
                && !needs_no_key(&left, op, &right) =>
        {
            let (left, right) = match is_order(op) {
                true => (in_order(left), in_order(right)),
                false => (boxed(left), boxed(right)),
            };
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
        }
        Expr::Between(Between { expr, negated, low, high }) if is_float(&expr, schema) => {
            let (low, high) = (in_order(low), in_order(high));
            Transformed::yes(Expr::Between(Between { expr: in_order(expr), negated, low, high }))
        }
        Expr::ScalarFunction(mut call) if matches!(call.func.name(), "greatest" | "least") => {
            call.args = call.args.into_iter().map(|arg| order_key(arg, schema)).collect();
            Transformed::yes(Expr::ScalarFunction(call))
        }
        Expr::InList(InList { expr, list, negated }) if is_float(&expr, schema) => {
            Transformed::yes(Expr::InList(InList { expr: boxed(expr), list: all(list), negated }))
        }
        Expr::InSubquery(InSubquery { expr, mut subquery, negated }) if is_float(&expr, schema) => {
            subquery.subquery = Arc::new(canonical_list(Arc::unwrap_or_clone(subquery.subquery))?);
            Transformed::yes(Expr::InSubquery(InSubquery { expr: boxed(expr), subquery, negated }))
        }
        Expr::Case(Case { expr: Some(expr), when_then_expr, else_expr }) if is_float(&expr, schema) => {
            let cases = when_then_expr.into_iter().map(|(when, then)| (boxed(when), then)).collect();
            Transformed::yes(Expr::Case(Case { expr: Some(boxed(expr)), when_then_expr: cases, else_expr }))
        }
        Expr::ScalarFunction(call) if call.func.name() == "nullif" && is_float(&call.args[0], schema) => {
            let [value, other] = call.args.as_slice() else {
                return Ok(Transformed::no(Expr::ScalarFunction(call)));
            };
            let same = key(value.clone(), schema).eq(key(other.clone(), schema));
            let null = lit(ScalarValue::try_from(value.get_type(schema)?)?);
            Transformed::yes(when(same, null).otherwise(value.clone())?)
        }
        Expr::AggregateFunction(AggregateFunction { func, mut params })
            if params.distinct || func.name() == "approx_distinct" =>
        {
            params.args = all(params.args);
            params.order_by = sort_keys(params.order_by, schema);
            Transformed::yes(Expr::AggregateFunction(AggregateFunction { func, params }))
        }
        // What is `WITHIN GROUP` is an argument.
        Expr::AggregateFunction(AggregateFunction { func, mut params })
            if !params.order_by.is_empty() && !func.supports_within_group_clause() =>
        {
            params.order_by = sort_keys(params.order_by, schema);
            Transformed::yes(Expr::AggregateFunction(AggregateFunction { func, params }))
        }
        Expr::WindowFunction(mut call) => {
            call.params.partition_by = all(call.params.partition_by);
            call.params.order_by = sort_keys(call.params.order_by, schema);
            if call.params.distinct || call.fun.name() == "approx_distinct" {
                call.params.args = all(call.params.args);
            }
            Transformed::yes(Expr::WindowFunction(call))
        }
        other => Transformed::no(other),
    })
}

fn sort_keys(exprs: Vec<SortExpr>, schema: &DFSchema) -> Vec<SortExpr> {
    exprs.into_iter().map(|sort| SortExpr { expr: order_key(sort.expr, schema), ..sort }).collect()
}

fn node(plan: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => group(aggregate),
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let input = canonical_columns(Arc::unwrap_or_clone(input))?;
            Ok(input.update_data(|input| LogicalPlan::Distinct(Distinct::All(Arc::new(input)))))
        }
        LogicalPlan::Distinct(Distinct::On(DistinctOn {
            on_expr,
            select_expr,
            sort_expr,
            input,
            schema,
        })) => {
            let keys: Vec<Expr> = on_expr.into_iter().map(|expr| key(expr, input.schema())).collect();
            // It begins with the keys, which are to be the same.
            let sort_expr = sort_expr.map(|sort| {
                let (first, rest) = sort.split_at(keys.len().min(sort.len()));
                let first = first.iter().cloned();
                let first = first.map(|sort| SortExpr { expr: key(sort.expr, input.schema()), ..sort });
                first.chain(sort_keys(rest.to_vec(), input.schema())).collect()
            });
            let distinct = DistinctOn { on_expr: keys, select_expr, sort_expr, input, schema };
            Ok(Transformed::yes(LogicalPlan::Distinct(Distinct::On(distinct))))
        }
        LogicalPlan::Sort(Sort { expr, input, fetch }) => {
            let expr = sort_keys(expr, input.schema());
            Ok(Transformed::yes(LogicalPlan::Sort(Sort { expr, input, fetch })))
        }
        LogicalPlan::Join(join) if join.on.iter().any(|(left, _)| is_float(left, join.left.schema())) => {
            let on = join
                .on
                .into_iter()
                .map(|(left, right)| (key(left, join.left.schema()), key(right, join.right.schema())));
            let on = on.collect();
            Ok(Transformed::yes(LogicalPlan::Join(Join { on, ..join })))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// The keys of groups are canonical, and so are the values that are given out for them, under their old
/// names.
fn group(aggregate: Aggregate) -> DataFusionResult<Transformed<LogicalPlan>> {
    let Aggregate { input, group_expr, aggr_expr, schema, .. } = aggregate;
    let input_schema = Arc::clone(input.schema());
    let one = |expr: Expr| key(expr, &input_schema);
    let all = |exprs: Vec<Expr>| exprs.into_iter().map(one).collect::<Vec<_>>();
    let keys: Vec<Expr> = group_expr
        .iter()
        .cloned()
        .map(|expr| match expr {
            Expr::GroupingSet(GroupingSet::Rollup(exprs)) => {
                Expr::GroupingSet(GroupingSet::Rollup(all(exprs)))
            }
            Expr::GroupingSet(GroupingSet::Cube(exprs)) => Expr::GroupingSet(GroupingSet::Cube(all(exprs))),
            Expr::GroupingSet(GroupingSet::GroupingSets(sets)) => {
                Expr::GroupingSet(GroupingSet::GroupingSets(sets.into_iter().map(all).collect()))
            }
            expr => one(expr),
        })
        .collect();
    if keys == group_expr {
        let aggregate = Aggregate::try_new_with_schema(input, group_expr, aggr_expr, schema)?;
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let grouped = LogicalPlan::Aggregate(Aggregate::try_new(input, keys, aggr_expr)?);
    let columns: Vec<Expr> = grouped
        .schema()
        .columns()
        .into_iter()
        .zip(schema.iter())
        .map(|(column, (relation, field))| match &column {
            Column { relation: now, name, .. } if now.as_ref() == relation && name == field.name() => {
                Expr::Column(column)
            }
            _ => Expr::Column(column).alias_qualified(relation.cloned(), field.name()),
        })
        .collect();
    Ok(Transformed::yes(LogicalPlanBuilder::from(grouped).project(columns)?.build()?))
}

/// `plan`, which is the subquery of an `IN`, with its column canonical. Under a name of its own: the column as
/// it is may be needed beside it, where the subquery is correlated by it.
fn canonical_list(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let columns = plan.schema().columns().into_iter();
    let exprs: Vec<Expr> =
        columns.map(|column| canonical(Expr::Column(column)).alias("__tidemill_key")).collect();
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

/// `plan` with all columns that have floats canonical, under their names.
fn canonical_columns(plan: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
    if !plan.schema().fields().iter().any(|field| has_floats(field.data_type())) {
        return Ok(Transformed::no(plan));
    }
    let columns = plan.schema().columns().into_iter().zip(plan.schema().fields());
    let exprs: Vec<Expr> = columns
        .map(|(column, field)| match has_floats(field.data_type()) {
            true => {
                let (relation, name) = (column.relation.clone(), column.name.clone());
                canonical(Expr::Column(column)).alias_qualified(relation, name)
            }
            false => Expr::Column(column),
        })
        .collect();
    Ok(Transformed::yes(LogicalPlanBuilder::from(plan).project(exprs)?.build()?))
}
