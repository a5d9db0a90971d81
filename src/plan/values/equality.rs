//! One meaning of equal: `0.0` and `-0.0` are one value.
//!
//! DataFusion groups by this meaning, but compares, joins, partitions and counts distinct values bit by
//! bit. Here what is compared, grouped, joined or sorted is made canonical before. NaN is left as it is:
//! it equals NaN of the same bits everywhere.

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
use crate::functions::{canonical, has_floats};

/// Makes canonical what is compared. Runs when the types are known.
#[derive(Debug)]
pub(super) struct Equality;

impl AnalyzerRule for Equality {
    fn name(&self) -> &str {
        "equality"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|plan| {
            let plan = rewrite_expressions(plan, &|expr, schema| {
                expr.transform_up(|expr| comparison(expr, schema))
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

fn is_float(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|data_type| has_floats(&data_type))
}

/// Whether `expr` is a number other than zero, which equals only itself. Filters with such literals are
/// left as they are: files are skipped by them.
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

fn comparison(expr: Expr, schema: &DFSchema) -> DataFusionResult<Transformed<Expr>> {
    let boxed = |expr: Box<Expr>| Box::new(key(*expr, schema));
    let all = |exprs: Vec<Expr>| exprs.into_iter().map(|expr| key(expr, schema)).collect::<Vec<_>>();
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if is_comparison(op)
                && (is_float(&left, schema) || is_float(&right, schema))
                && !is_no_zero(&left)
                && !is_no_zero(&right) =>
        {
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left: boxed(left), op, right: boxed(right) }))
        }
        Expr::Between(Between { expr, negated, low, high }) if is_float(&expr, schema) => {
            let (low, high) = (boxed(low), boxed(high));
            Transformed::yes(Expr::Between(Between { expr: boxed(expr), negated, low, high }))
        }
        Expr::InList(InList { expr, list, negated }) if is_float(&expr, schema) => {
            Transformed::yes(Expr::InList(InList { expr: boxed(expr), list: all(list), negated }))
        }
        Expr::InSubquery(InSubquery { expr, mut subquery, negated }) if is_float(&expr, schema) => {
            subquery.subquery = Arc::new(canonical_columns(Arc::unwrap_or_clone(subquery.subquery))?.data);
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
        Expr::WindowFunction(mut call) => {
            call.params.partition_by = all(call.params.partition_by);
            call.params.order_by = sort_keys(call.params.order_by, schema);
            Transformed::yes(Expr::WindowFunction(call))
        }
        other => Transformed::no(other),
    })
}

fn sort_keys(exprs: Vec<SortExpr>, schema: &DFSchema) -> Vec<SortExpr> {
    exprs.into_iter().map(|sort| SortExpr { expr: key(sort.expr, schema), ..sort }).collect()
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
            let sort_expr = sort_expr.map(|sort| sort_keys(sort, input.schema()));
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
