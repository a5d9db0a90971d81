//! Subqueries in expressions.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan};

use super::{Flow, flow, refuse};
use crate::error::{Error, Result};
use crate::plan::stream_table::is_unbounded;
use crate::sink::OutputMode;

/// `EXISTS` and `IN` over unbounded tables are joins where they are in a filter; elsewhere no subquery may
/// read one.
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
        advice: "Keep scalar subqueries to bounded tables, and write EXISTS and IN over unbounded ones in WHERE; or \
                 join the two"
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
    refuse(
        "EXISTS or IN between a stream and an aggregation of one",
        "the rows of the aggregation may change, and what came of them would have to be taken back",
        "Use output mode append with a watermark, so that each row of the aggregation comes once and for good",
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
