//! `INTERSECT ALL` and `EXCEPT ALL`, which DataFusion takes for joins.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{Query, SetExpr, SetOperator, SetQuantifier, Spanned, VisitorMut};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::visit::visit_statement;

/// The first operation in `statement` that would give wrong rows: what to say about it, and where its
/// second query starts.
///
/// DataFusion keeps or drops all copies of a row, where SQL counts them (apache/datafusion,
/// `expr/src/logical_plan/builder.rs`, `intersect_or_except`).
pub(super) fn wrong_operation(statement: &mut DataFusionStatement) -> Option<(String, Location)> {
    match visit_statement(statement, &mut Find) {
        ControlFlow::Break(found) => Some(found),
        ControlFlow::Continue(()) => None,
    }
}

struct Find;

impl VisitorMut for Find {
    type Break = (String, Location);

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        find(&query.body)
    }
}

fn find(body: &SetExpr) -> ControlFlow<(String, Location)> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else {
        return ControlFlow::Continue(());
    };
    find(left)?;
    find(right)?;
    let is_all = matches!(set_quantifier, SetQuantifier::All | SetQuantifier::AllByName);
    if !is_all || !matches!(op, SetOperator::Intersect | SetOperator::Except | SetOperator::Minus) {
        return ControlFlow::Continue(());
    }
    ControlFlow::Break((
        format!(
            "{op} ALL is not supported: how often a row is in both queries would not be counted. Use {op} \
             without ALL, or number the copies with row_number() OVER (PARTITION BY all columns) in both queries \
             and use {op} over that"
        ),
        right.span().start,
    ))
}
