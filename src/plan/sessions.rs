//! Groups by sessions, which are merged.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};

use super::group_key::group_keys;
use super::window_calls::refuse;
use crate::functions::is_session;

/// Which of the keys of a group over rows of `input` is a session.
pub(super) fn session_key(group_expr: &[Expr], input: &DFSchema) -> Option<usize> {
    let is_one = |key: &&Expr| key.to_field(input).is_ok_and(|(_, field)| is_session(&field));
    group_keys(group_expr).iter().position(is_one)
}

/// `aggregate` without rows that are in no session, for they have no time, or no gap.
pub(super) fn without_sessionless(aggregate: Aggregate) -> DataFusionResult<Aggregate> {
    let schema = aggregate.input.schema();
    if session_key(&aggregate.group_expr, schema).is_none() {
        return Ok(aggregate);
    }
    if aggregate.group_expr.iter().any(|key| matches!(key, Expr::GroupingSet(_))) {
        return refuse("sessions cannot be keys of grouping sets. Write one query per grouping set".into());
    }
    let mut sessions = Vec::new();
    for key in &aggregate.group_expr {
        if is_session(&key.to_field(schema)?.1) {
            sessions.push(key.clone().unalias());
        }
    }
    if sessions.len() > 1 {
        return refuse("a group can be of one session. Write a query for each session_window".into());
    }
    let in_session = conjunction(sessions.into_iter().map(Expr::is_not_null));
    let input = LogicalPlanBuilder::from(Arc::unwrap_or_clone(aggregate.input));
    let input = match in_session {
        Some(condition) => input.filter(condition)?.build()?,
        None => input.build()?,
    };
    Aggregate::try_new(Arc::new(input), aggregate.group_expr, aggregate.aggr_expr)
}

/// Whether `plan` is a group by sessions: a filter on these is not one on the rows below.
pub(super) fn groups_by_session(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            session_key(&aggregate.group_expr, aggregate.input.schema()).is_some()
        }
        _ => false,
    }
}
