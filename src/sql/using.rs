//! `USING` where it cannot be relied on.
//!
//! The column of a `RIGHT` or `FULL JOIN … USING (k)` is that of whichever side has a row. DataFusion takes
//! it for the left side's, which is null where only the right side has one. In `WHERE` it takes it for both,
//! and does not know which is meant: there it is made the left side's, which is right for all other joins.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Query, Select, SetExpr, Spanned,
    TableFactor, TableWithJoins, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::diagnostics::error_at;
use crate::error::Error;

/// Breaks with an error where it visits such a join; `at` is the place of the statement.
pub(super) struct Using {
    pub(super) at: Location,
}

impl VisitorMut for Using {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let mut bodies = vec![query.body.as_mut()];
        while let Some(body) = bodies.pop() {
            match body {
                SetExpr::Select(select) => {
                    select.from.iter().try_for_each(|from| self.check(from))?;
                    say_whose(select);
                }
                SetExpr::SetOperation { left, right, .. } => bodies.extend([left.as_mut(), right.as_mut()]),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => self.check(table_with_joins),
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Using {
    fn check(&self, tables: &TableWithJoins) -> ControlFlow<Error> {
        for join in &tables.joins {
            let (kind, constraint) = match &join.join_operator {
                JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => {
                    ("RIGHT", constraint)
                }
                JoinOperator::FullOuter(constraint) => ("FULL", constraint),
                _ => continue,
            };
            let (written, column) = match constraint {
                JoinConstraint::Using(columns) => ("USING", columns.first()),
                JoinConstraint::Natural => ("NATURAL", None),
                _ => continue,
            };
            let name = column.map_or_else(|| "k".to_string(), ToString::to_string);
            let chosen = match kind {
                "FULL" => format!("coalesce(a.{name}, b.{name}) AS {name}"),
                _ => format!("b.{name}"),
            };
            let at = column.map_or(self.at, |column| column.span().start);
            return ControlFlow::Break(error_at(
                format!(
                    "a {kind} JOIN with {written} would give null for '{name}' where only the right side has a row. \
                     Write ON a.{name} = b.{name}, and select {chosen}"
                ),
                at,
            ));
        }
        ControlFlow::Continue(())
    }
}

/// Puts the left table before the columns of `USING` in `WHERE`.
fn say_whose(select: &mut Select) {
    let Some(condition) = &mut select.selection else { return };
    let mut columns = Vec::new();
    for tables in &select.from {
        // Which table of several the left side's is, is for the planner to find out.
        let ([join], Some(table)) = (tables.joins.as_slice(), name_of(&tables.relation)) else { continue };
        let (JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)) = &join.join_operator
        else {
            continue;
        };
        if let JoinConstraint::Using(names) = constraint {
            columns.extend(names.iter().filter_map(last).map(|column| (column.clone(), table.clone())));
        }
    }
    if !columns.is_empty() {
        // It never breaks.
        let _ = condition.visit(&mut Whose { columns, depth: 0 });
    }
}

/// What a table is called in its query.
fn name_of(table: &TableFactor) -> Option<Ident> {
    match table {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            Some(alias.name.clone())
        }
        TableFactor::Table { name, .. } => last(name).cloned(),
        _ => None,
    }
}

fn last(name: &ObjectName) -> Option<&Ident> {
    name.0.last().and_then(ObjectNamePart::as_ident)
}

/// The columns of one query's `USING`, and the tables they are of.
struct Whose {
    columns: Vec<(Ident, Ident)>,
    /// How many subqueries are around: their names are their own.
    depth: usize,
}

impl VisitorMut for Whose {
    type Break = Error;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let (Expr::Identifier(name), 0) = (&*expr, self.depth)
            && let Some((_, table)) = self.columns.iter().find(|(column, _)| is_same(column, name))
        {
            *expr = Expr::CompoundIdentifier(vec![table.clone(), name.clone()]);
        }
        ControlFlow::Continue(())
    }
}

fn is_same(one: &Ident, other: &Ident) -> bool {
    let name = |ident: &Ident| match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    };
    name(one) == name(other)
}
