//! `USING` where it cannot be relied on.
//!
//! The column of a `RIGHT` or `FULL JOIN … USING (k)` is that of whichever side has a row. DataFusion takes
//! it for the left side's, which is null where only the right side has one.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    JoinConstraint, JoinOperator, Query, SetExpr, Spanned, TableFactor, TableWithJoins, VisitorMut,
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
        let mut bodies = vec![query.body.as_ref()];
        while let Some(body) = bodies.pop() {
            match body {
                SetExpr::Select(select) => select.from.iter().try_for_each(|from| self.check(from))?,
                SetExpr::SetOperation { left, right, .. } => bodies.extend([left.as_ref(), right.as_ref()]),
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
