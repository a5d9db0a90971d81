//! Subqueries in expressions.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan};

use super::{Flow, flow, refuse};
use crate::error::{Error, Result};
use crate::plan::stream_table::is_unbounded;
use crate::sink::OutputMode;

/// `EXISTS` and `IN` over unbounded tables are joins where they are in a filter, and so have become scalar subqueries
/// and conditions in columns. Elsewhere no subquery may read one.
pub(super) fn check(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        let is_filter = matches!(node, LogicalPlan::Filter(_));
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                let subquery = match expr {
                    Expr::Exists(_) | Expr::InSubquery(_) if is_filter => None,
                    other => subquery_of(other),
                };
                match subquery {
                    Some(subquery) if is_unbounded(subquery) => Err(not_there().into()),
                    _ => Ok(TreeNodeRecursion::Continue),
                }
            })
        })
    })?;
    Ok(())
}

fn not_there() -> Error {
    Error::UnsupportedQuery {
        operator: "a subquery expression over an unbounded table".into(),
        reason: "its value would change with every batch".into(),
        advice: "Keep it to SELECT, WHERE and HAVING of a query in output mode complete; or join the two"
            .into(),
    }
}

/// The error of a query whose subqueries cannot be the joins that they stand for, because of `error`.
pub(super) fn not_as_a_join(error: Error, mode: OutputMode) -> Error {
    let Error::UnsupportedQuery { operator, reason, .. } = error else { return error };
    Error::UnsupportedQuery {
        operator: format!("a subquery expression over an unbounded table, in output mode {mode}"),
        reason: format!(
            "its value would change with every batch, and what was given with it: it would be joined, but {operator}: \
             {reason}"
        ),
        advice: "Use output mode complete, with an aggregation in the query as in the subquery; or have both in equal \
                 windows of event times, as in WHERE window(b.time, '1 minute') = window(a.time, '1 minute'); or write \
                 EXISTS and IN in WHERE, or a join with a bound of time"
            .into(),
    }
}

fn subquery_of(expr: &Expr) -> Option<&LogicalPlan> {
    match expr {
        Expr::Exists(exists) => Some(&exists.subquery.subquery),
        Expr::InSubquery(inside) => Some(&inside.subquery.subquery),
        Expr::ScalarSubquery(subquery) => Some(&subquery.subquery),
        Expr::SetComparison(comparison) => Some(&comparison.subquery.subquery),
        _ => None,
    }
}

/// How the rows of a filter come that may ask for rows of other streams.
pub(super) fn check_filter(filter: &Filter, input: Flow, mode: OutputMode) -> Result<Flow> {
    let mut flows = Vec::new();
    filter.predicate.apply(|expr| {
        if let Some(subquery) = subquery_of(expr).filter(|subquery| is_unbounded(subquery)) {
            flows.push(flow(subquery, mode)?);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if flows.is_empty() || (input == Flow::Append && flows.iter().all(|flow| *flow == Flow::Append)) {
        return Ok(input);
    }
    let is_whole = |flow: &Flow| matches!(flow, Flow::Whole | Flow::Bounded);
    if is_whole(&input) && flows.iter().all(is_whole) {
        return Ok(Flow::Whole);
    }
    refuse(
        "EXISTS or IN between a stream and an aggregation of one",
        "the rows of the aggregation may change, and what came of them would have to be taken back",
        "Use output mode append with a watermark, so that each row of the aggregation comes once and for good; or aggregate \
         both, in output mode complete",
    )
}

/// A bounded table may not be filtered by an unbounded one.
pub(super) fn check_bounded(node: &LogicalPlan) -> Result<()> {
    node.apply_expressions(|expr| {
        expr.apply(|expr| match subquery_of(expr) {
            Some(subquery) if is_unbounded(subquery) => Err(Error::UnsupportedQuery {
                operator: "a subquery expression over an unbounded table, in a filter of a bounded one".into(),
                reason: "whether a row of the bounded table passes is known only when the stream has ended".into(),
                advice: "Select from the unbounded table, and keep EXISTS, IN and scalar subqueries to bounded ones"
                    .into(),
            }
            .into()),
            _ => Ok(TreeNodeRecursion::Continue),
        })
    })?;
    Ok(())
}
