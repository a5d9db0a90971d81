//! Scalar subqueries over streams: `SELECT …, (SELECT max(v) FROM s)`, and what counts them.
//!
//! DataFusion computes an uncorrelated subquery once, beside the plan that it is in. Over a stream it is a join
//! with what the subquery gives so far, and like other joins right where both come as wholes or each row for good.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, Projection, Subquery};
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::{AnalyzerRule, OptimizerConfig, OptimizerContext, OptimizerRule};

use super::bind::reads_stream;
use super::subqueries::Subqueries;
use super::window_calls::unused_name;
use crate::error::Error;

/// The column of a subquery's value.
const VALUE: &str = "__subquery_value";

/// DataFusion numbers what it makes of subqueries; those that it meets when it optimises begin with 1.
const FIRST_NUMBER: usize = 1000;

/// `plan` with joins in the place of scalar subqueries over streams, and of `IN` and `EXISTS` over them in columns.
/// Those that cannot be joins stay. Whether there were any.
pub(super) fn with_scalar_joins(plan: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
    if !has_subqueries(&plan)? {
        return Ok(Transformed::no(plan));
    }
    // It makes scalar ones of conditions that no join stands for.
    let plan = Subqueries.analyze(plan, &ConfigOptions::default())?;
    let mut options = ConfigOptions::default();
    options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    let context = OptimizerContext::new_with_config_options(Arc::new(options));
    context.alias_generator().update_min_id(FIRST_NUMBER);
    plan.transform_up_with_subqueries(|node| of_node(node, &context))
}

/// Whether there are subqueries over streams in expressions of `plan`.
fn has_subqueries(plan: &LogicalPlan) -> DataFusionResult<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                found |= match expr {
                    Expr::ScalarSubquery(subquery) => reads_stream(&subquery.subquery),
                    Expr::InSubquery(condition) => reads_stream(&condition.subquery.subquery),
                    Expr::Exists(condition) => reads_stream(&condition.subquery.subquery),
                    Expr::SetComparison(condition) => reads_stream(&condition.subquery.subquery),
                    _ => false,
                };
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

fn of_node(node: LogicalPlan, context: &OptimizerContext) -> DataFusionResult<Transformed<LogicalPlan>> {
    let subqueries = match &node {
        LogicalPlan::Filter(_) | LogicalPlan::Projection(_) => subqueries_in(&node)?,
        _ => Vec::new(),
    };
    let Some(input) = node.inputs().first().map(|input| (*input).clone()).filter(|_| !subqueries.is_empty())
    else {
        return Ok(Transformed::no(node));
    };
    if subqueries.iter().any(|subquery| subquery.subquery.max_rows().is_none_or(|rows| rows > 1)) {
        return Err(several_rows().into());
    }
    let columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    let mut taken = input.schema().field_names();
    let values: Vec<Column> =
        subqueries.iter().map(|_| Column::new_unqualified(unused_name(VALUE, &mut taken))).collect();
    let named = subqueries.iter().zip(&values).map(|(subquery, value)| named(subquery, &value.name));
    let all = columns.iter().cloned().chain(named.collect::<DataFusionResult<Vec<_>>>()?).collect();
    let beside = LogicalPlan::Projection(Projection::try_new(all, Arc::new(input))?);
    let joined = ScalarSubqueryToJoin::new().rewrite(beside, context)?;
    if !joined.transformed {
        return Ok(Transformed::no(node));
    }
    let with_values = |expr: Expr| {
        expr.transform_down(|expr| {
            let place = match &expr {
                Expr::ScalarSubquery(subquery) => subqueries.iter().position(|known| known == subquery),
                _ => None,
            };
            Ok(match place {
                Some(place) => Transformed::yes(Expr::Column(values[place].clone())),
                None => Transformed::no(expr),
            })
        })
    };
    let names = NamePreserver::new(&node);
    let joined = Arc::new(joined.data);
    let node = match node {
        LogicalPlan::Filter(filter) => {
            let filter = Filter::try_new(with_values(filter.predicate)?.data, joined)?;
            Projection::try_new(columns, Arc::new(LogicalPlan::Filter(filter)))?
        }
        LogicalPlan::Projection(projection) => {
            let exprs = projection.expr.into_iter().map(|expr| {
                let name = names.save(&expr);
                Ok(with_values(expr)?.update_data(|expr| name.restore(expr)).data)
            });
            Projection::try_new(exprs.collect::<DataFusionResult<Vec<_>>>()?, joined)?
        }
        other => return Ok(Transformed::no(other)),
    };
    Ok(Transformed::yes(LogicalPlan::Projection(node)))
}

/// `subquery`, and its column, as `name`: beside it, there may be others of the name that the column has.
fn named(subquery: &Subquery, name: &str) -> DataFusionResult<Expr> {
    let columns = subquery.subquery.schema().columns().into_iter();
    let columns: Vec<Expr> = columns.map(|column| Expr::Column(column).alias(name)).collect();
    let input = Arc::clone(&subquery.subquery);
    let plan = Arc::new(LogicalPlan::Projection(Projection::try_new(columns, input)?));
    Ok(Expr::ScalarSubquery(subquery.with_plan(plan)).alias(name))
}

/// The scalar subqueries over streams in the expressions of `node`, each once.
fn subqueries_in(node: &LogicalPlan) -> DataFusionResult<Vec<Subquery>> {
    let mut found: Vec<Subquery> = Vec::new();
    node.apply_expressions(|expr| {
        expr.apply(|expr| {
            if let Expr::ScalarSubquery(subquery) = expr
                && reads_stream(&subquery.subquery)
                && !found.contains(subquery)
            {
                found.push(subquery.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(found)
}

fn several_rows() -> Error {
    Error::UnsupportedQuery {
        operator: "a scalar subquery over an unbounded table that is not aggregated".into(),
        reason: "it would give a row more with every row that comes".into(),
        advice: "Aggregate in it without GROUP BY, e.g. (SELECT max(x) FROM …); or join the two".into(),
    }
}
