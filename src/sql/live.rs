//! Looking at an unbounded table: a `SELECT` over it as a streaming query that keeps nothing.

use datafusion::prelude::DataFrame;
use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{Expr, LimitClause, Query, Statement as SqlStatement, Value};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::ast::{Located, Statement};
use super::execute::SqlSession;
use super::names::Names;
use super::planning::Planner;
use crate::error::Result;
use crate::plan::is_unbounded;
use crate::query::Trigger;

/// A `SELECT` over unbounded tables, and how many of its rows are wanted.
#[derive(Debug)]
pub struct LiveQuery {
    /// The query, without its limit.
    pub frame: DataFrame,
    /// The number after `LIMIT`.
    pub limit: Option<u64>,
    /// When its batches run.
    pub trigger: Trigger,
}

impl SqlSession {
    /// `statement` as a query whose rows can be looked at as they come; `None` if it is not a `SELECT`
    /// over unbounded tables.
    ///
    /// # Errors
    /// [`Error::Sql`](crate::Error::Sql) if it cannot be planned.
    pub async fn live_query(&self, statement: &Located<Statement>) -> Result<Option<LiveQuery>> {
        let Some(mut query) = select(&statement.value).cloned() else { return Ok(None) };
        let limit = take_limit(&mut query);
        let planner = Planner::new(self.session(), Location::new(statement.line, statement.column));
        let frame = planner.plan_streaming(&query, Names::AsWritten, None).await?;
        let trigger = self.trigger.unwrap_or_default();
        Ok(is_unbounded(frame.logical_plan()).then_some(LiveQuery { frame, limit, trigger }))
    }
}

fn select(statement: &Statement) -> Option<&Query> {
    let Statement::DataFusion(statement) = statement else { return None };
    let DataFusionStatement::Statement(statement) = statement.as_ref() else { return None };
    match statement.as_ref() {
        SqlStatement::Query(query) => Some(query),
        _ => None,
    }
}

/// Takes a plain number of rows out of `query`; any other limit stays.
fn take_limit(query: &mut Query) -> Option<u64> {
    let Some(LimitClause::LimitOffset { limit: Some(Expr::Value(value)), offset: None, limit_by }) =
        &query.limit_clause
    else {
        return None;
    };
    let Value::Number(number, _) = &value.value else { return None };
    let limit = number.to_string().parse().ok().filter(|_| limit_by.is_empty())?;
    query.limit_clause = None;
    Some(limit)
}
