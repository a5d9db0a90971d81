//! Columns that are written in another case than they have: `SELECT InvoiceNo` of a file whose header
//! says `InvoiceNo`.
//!
//! Names without quotes are folded to lower case, as SQL does. Where there is no column of the folded
//! name, but just one that differs from it in nothing but case, that one is meant, as in Spark and DuckDB.

use std::ops::ControlFlow;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, Ident, VisitorMut};

use super::visit::visit_statement;

/// Writes the column that `error`, which planning `statement` gave, does not find as the table has it.
/// False if no column was missing, or none or several may be meant.
pub(super) fn correct_case(statement: &mut Statement, error: &DataFusionError) -> bool {
    let Some((missing, found)) = missing_column(error) else { return false };
    let place = error.iter().next().and_then(|first| first.diagnostic()).and_then(|told| told.span);
    let end = place.map(|span| (span.end.line, span.end.column));
    let mut correction = Correction { missing: &missing, found: &found, end, corrected: 0 };
    let _ = visit_statement(statement, &mut correction);
    if correction.corrected == 0 && end.is_some() {
        // Some expressions lose their place on the way.
        correction.end = None;
        let _ = visit_statement(statement, &mut correction);
    }
    correction.corrected > 0
}

/// The column that is missing, and the name of the only one that may be meant by it.
fn missing_column(error: &DataFusionError) -> Option<(String, String)> {
    let first = error.iter().next().unwrap_or(error);
    let DataFusionError::SchemaError(error, _) = first.find_root() else { return None };
    let SchemaError::FieldNotFound { field, valid_fields } = error.as_ref() else { return None };
    let mut names: Vec<&str> = valid_fields
        .iter()
        .filter(|valid| field.relation.is_none() || valid.relation == field.relation)
        .map(|valid| valid.name.as_str())
        .filter(|name| name.to_lowercase() == field.name)
        .collect();
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [name] => Some((field.name.clone(), (*name).to_string())),
        _ => None,
    }
}

struct Correction<'a> {
    /// The name without quotes, folded.
    missing: &'a str,
    found: &'a str,
    /// Where the name ends, if that is known; else all of it are meant.
    end: Option<(u64, u64)>,
    corrected: usize,
}

impl Correction<'_> {
    fn correct(&mut self, name: &mut Ident) {
        let end = (name.span.end.line, name.span.end.column);
        if name.quote_style.is_none()
            && name.value.to_lowercase() == self.missing
            && self.end.is_none_or(|wanted| wanted == end)
        {
            let span = name.span;
            *name = Ident::with_quote_and_span('"', span, self.found);
            self.corrected += 1;
        }
    }
}

impl VisitorMut for Correction<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) => self.correct(name),
            Expr::CompoundIdentifier(names) => names.iter_mut().for_each(|name| self.correct(name)),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
