//! Visiting statements of DataFusion, of which sqlparser visits its own parts only.

use std::ops::ControlFlow;

use datafusion::sql::parser::{CopyToSource, Statement};
use datafusion::sql::sqlparser::ast::{VisitMut, VisitorMut};

use crate::error::{Error, Result};

/// Has `visitor` visit the queries and expressions of `statement`.
pub(super) fn visit_statement<V: VisitorMut>(
    statement: &mut Statement,
    visitor: &mut V,
) -> ControlFlow<V::Break> {
    match statement {
        Statement::Statement(statement) => statement.visit(visitor),
        Statement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => query.visit(visitor),
            CopyToSource::Relation(_) => ControlFlow::Continue(()),
        },
        Statement::Explain(explain) => visit_statement(&mut explain.statement, visitor),
        Statement::CreateExternalTable(_) | Statement::Reset(_) => ControlFlow::Continue(()),
    }
}

/// Has `visitor` visit the queries and expressions of `statement`.
///
/// # Errors
/// What it breaks with.
pub(super) fn check_statement<V: VisitorMut<Break = Error>>(
    statement: &mut Statement,
    visitor: &mut V,
) -> Result<()> {
    match visit_statement(statement, visitor) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}
