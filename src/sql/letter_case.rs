//! Columns that are written in another case than they have: `SELECT InvoiceNo` of a file whose header
//! says `InvoiceNo`.
//!
//! Names without quotes are folded to lower case, as SQL does. Where there is no column of the folded
//! name, but just one that differs from it in nothing but case, that one is meant, as in Spark and DuckDB.

use std::ops::ControlFlow;

use datafusion::common::{Column, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Ident, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Select,
    SelectItem, TableFactor, TableWithJoins, VisitorMut,
};

use super::visit::visit_statement;

/// Writes the column that `error`, which planning `statement` gave, does not find as the table has it; `others` are the
/// columns that it may be if the error names none. False if no column was missing, or none or several may be meant.
pub(super) fn correct_case(statement: &mut Statement, error: &DataFusionError, others: &[Column]) -> bool {
    let Some((missing, found)) = missing_column(error, others) else { return false };
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

/// The column that is missing, and those that there are.
fn not_found(error: &DataFusionError) -> Option<(&Column, &[Column])> {
    let first = error.iter().next().unwrap_or(error);
    let DataFusionError::SchemaError(error, _) = first.find_root() else { return None };
    match error.as_ref() {
        SchemaError::FieldNotFound { field, valid_fields } => Some((field, valid_fields)),
        _ => None,
    }
}

/// Whether `error` is that there is no such column where there are none at all: what `UNNEST(t.list)` in `FROM` reads
/// are columns of the tables beside it.
pub(super) fn names_no_columns(error: &DataFusionError) -> bool {
    not_found(error).is_some_and(|(_, valid)| valid.is_empty())
}

/// The column that is missing, and the name of the only one that may be meant by it.
fn missing_column(error: &DataFusionError, others: &[Column]) -> Option<(String, String)> {
    let (field, valid_fields) = not_found(error)?;
    if valid_fields.is_empty() {
        return Some((field.name.to_lowercase(), only(others.iter(), &field.name)?));
    }
    let of_table = |valid: &&Column| field.relation.is_none() || valid.relation == field.relation;
    let found = only(valid_fields.iter().filter(of_table), &field.name);
    if let Some(found) = found {
        return Some((field.name.to_lowercase(), found));
    }
    // What stands before the name is no table, but may be a struct.
    let outer = field.relation.as_ref()?;
    let is_known = valid_fields.iter().any(|valid| valid.relation.as_ref() == Some(outer));
    let table = outer.schema();
    let of_table = |valid: &&Column| {
        table.is_none_or(|table| valid.relation.as_ref().is_some_and(|relation| relation.table() == table))
    };
    let found = only(valid_fields.iter().filter(of_table), outer.table()).filter(|_| !is_known)?;
    Some((outer.table().to_lowercase(), found))
}

/// The one name among `columns` that differs from `name` in nothing but case.
fn only<'a>(columns: impl Iterator<Item = &'a Column>, name: &str) -> Option<String> {
    let mut names: Vec<&str> = columns
        .map(|column| column.name.as_str())
        .filter(|known| known.to_lowercase() == name.to_lowercase() && *known != name)
        .collect();
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [name] => Some((*name).to_string()),
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

impl Correction<'_> {
    /// Names of columns that are no expressions.
    fn correct_select(&mut self, select: &mut Select) {
        for item in &mut select.projection {
            if let SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) = item {
                match &mut options.opt_exclude {
                    Some(ExcludeSelectItem::Single(name)) => self.correct_parts(name),
                    Some(ExcludeSelectItem::Multiple(names)) => {
                        names.iter_mut().for_each(|name| self.correct_parts(name));
                    }
                    None => {}
                }
                if let Some(except) = &mut options.opt_except {
                    self.correct(&mut except.first_element);
                    except.additional_elements.iter_mut().for_each(|name| self.correct(name));
                }
            }
        }
        select.from.iter_mut().for_each(|tables| self.correct_joins(tables));
    }

    fn correct_joins(&mut self, tables: &mut TableWithJoins) {
        for join in &mut tables.joins {
            if let JoinOperator::Join(constraint)
            | JoinOperator::Inner(constraint)
            | JoinOperator::Left(constraint)
            | JoinOperator::LeftOuter(constraint)
            | JoinOperator::Right(constraint)
            | JoinOperator::RightOuter(constraint)
            | JoinOperator::FullOuter(constraint)
            | JoinOperator::Semi(constraint)
            | JoinOperator::LeftSemi(constraint)
            | JoinOperator::Anti(constraint)
            | JoinOperator::LeftAnti(constraint) = &mut join.join_operator
                && let JoinConstraint::Using(names) = constraint
            {
                names.iter_mut().for_each(|name| self.correct_parts(name));
            }
        }
    }

    fn correct_parts(&mut self, name: &mut ObjectName) {
        for part in &mut name.0 {
            if let ObjectNamePart::Identifier(name) = part {
                self.correct(name);
            }
        }
    }
}

impl VisitorMut for Correction<'_> {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        self.correct_select(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::NestedJoin { table_with_joins, .. } = factor {
            self.correct_joins(table_with_joins);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) => self.correct(name),
            Expr::CompoundIdentifier(names) => names.iter_mut().for_each(|name| self.correct(name)),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
