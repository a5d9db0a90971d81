//! Rows that are compared with rows: `(a, b) IN ((1, 2), (3, 4))`, `(a, b) IN (SELECT x, y FROM t)`.
//!
//! DataFusion takes `(a, b)` for a struct, which is equal to another also where both have a null, and knows of
//! subqueries of one column only. Here a comparison of rows is one of their values, and one with the rows of a subquery
//! asks whether there is such a row.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Ident, JoinConstraint, JoinOperator, Query, Select, SetExpr, Statement,
    TableFactor, UnaryOperator, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Location;

use super::diagnostics::error_at;
use crate::error::Error;

/// Compares rows by their values; `at` is the place of the statement.
pub(super) struct RowValues {
    pub(super) at: Location,
}

impl VisitorMut for RowValues {
    type Break = Error;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        let ons = select.from.iter_mut().flat_map(|from| &mut from.joins).filter_map(|join| match &mut join
            .join_operator
        {
            JoinOperator::Join(JoinConstraint::On(on))
            | JoinOperator::Inner(JoinConstraint::On(on))
            | JoinOperator::Left(JoinConstraint::On(on))
            | JoinOperator::LeftOuter(JoinConstraint::On(on)) => Some(on),
            _ => None,
        });
        // Above groups, the subquery would have their aggregates in its WHERE.
        select.selection.iter_mut().chain(ons).for_each(|condition| in_condition(condition, true));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match expr {
            Expr::InSubquery { expr: row, .. } if values_of(row).is_some() => {
                return ControlFlow::Break(error_at(
                    "rows are compared with those of a subquery in WHERE and ON only. Elsewhere write \
                     EXISTS (SELECT … WHERE x = a AND y = b)",
                    self.at,
                ));
            }
            Expr::InList { expr: row, list, negated } => {
                let rows: Option<Vec<Expr>> =
                    list.iter().map(|other| compared(row, &BinaryOperator::Eq, other)).collect();
                if let Some(any) = rows.and_then(|rows| joined(rows, &BinaryOperator::Or)) {
                    *expr = if *negated { not(any) } else { any };
                }
            }
            Expr::BinaryOp { left, op, right } => {
                if let Some(by_values) = compared(left, op, right) {
                    *expr = by_values;
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// The values of a row of at least two.
fn values_of(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::Tuple(values) if values.len() > 1 => Some(values),
        Expr::Nested(inner) => values_of(inner),
        _ => None,
    }
}

/// `left op right` by the values of these, if they are rows of as many.
fn compared(left: &Expr, op: &BinaryOperator, right: &Expr) -> Option<Expr> {
    use BinaryOperator::{And, Eq, Gt, GtEq, Lt, LtEq, NotEq, Or};
    let (left, right) = (values_of(left)?, values_of(right)?);
    if left.len() != right.len() {
        return None;
    }
    let pair =
        |index: usize, op: &BinaryOperator| binary(left[index].clone(), op.clone(), right[index].clone());
    let all = |op: &BinaryOperator| (0..left.len()).map(|index| pair(index, op)).collect::<Vec<_>>();
    match op {
        Eq => joined(all(&Eq), &And),
        NotEq => joined(all(&NotEq), &Or),
        Lt | LtEq | Gt | GtEq => {
            let strict = if matches!(op, Lt | LtEq) { Lt } else { Gt };
            let last = left.len() - 1;
            // The first values that differ say it.
            let ordered = (0..last).rev().fold(pair(last, op), |rest, index| {
                let equal = binary(pair(index, &Eq), And, Expr::Nested(Box::new(rest)));
                binary(pair(index, &strict), Or, Expr::Nested(Box::new(equal)))
            });
            Some(Expr::Nested(Box::new(ordered)))
        }
        _ => None,
    }
}

/// Whether any of `conditions` holds.
pub(super) fn any_of(conditions: Vec<Expr>) -> Option<Expr> {
    joined(conditions, &BinaryOperator::Or)
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn not(expr: Expr) -> Expr {
    Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) }
}

/// All of `conditions` in one expression, no deeper than needs be.
fn joined(mut conditions: Vec<Expr>, op: &BinaryOperator) -> Option<Expr> {
    match conditions.len() {
        0 | 1 => conditions.pop(),
        count => {
            let rest = conditions.split_off(count / 2);
            let both = binary(joined(conditions, op)?, op.clone(), joined(rest, op)?);
            Some(Expr::Nested(Box::new(both)))
        }
    }
}

/// Comparisons of rows with subqueries in `condition`, of which is asked whether it is true, or else whether it is
/// false: null is neither.
fn in_condition(condition: &mut Expr, is_true: bool) {
    match condition {
        Expr::Nested(inner) => in_condition(inner, is_true),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => in_condition(expr, !is_true),
        Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
            in_condition(left, is_true);
            in_condition(right, is_true);
        }
        Expr::InSubquery { expr: row, subquery, negated } => {
            if let Some(values) = values_of(row)
                && let Some(found) = exists(values, subquery, *negated == is_true)
            {
                *condition = Expr::Exists { subquery: Box::new(found), negated: *negated };
            }
        }
        _ => {}
    }
}

/// The rows of `subquery` that are equal to the row of `values`, or with those that `may_be`, where nulls are.
fn exists(values: &[Expr], subquery: &Query, may_be: bool) -> Option<Query> {
    let names: Vec<String> = (0..values.len()).map(|index| format!("__tidemill_row_{index}")).collect();
    let frame = format!("SELECT 1 FROM (SELECT 1) AS __tidemill_row ({}) WHERE true", names.join(", "));
    let statement = Parser::parse_sql(&GenericDialect {}, &frame).ok()?.pop()?;
    let Statement::Query(mut query) = statement else { return None };
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let TableFactor::Derived { subquery: rows, .. } = &mut select.from.first_mut()?.relation else {
        return None;
    };
    **rows = subquery.clone();
    let pairs = values.iter().zip(names);
    let pairs = pairs.map(|(value, name)| {
        binary(Expr::Identifier(Ident::new(name)), BinaryOperator::Eq, Expr::Nested(Box::new(value.clone())))
    });
    let equal = joined(pairs.collect(), &BinaryOperator::And)?;
    select.selection = Some(if may_be { Expr::IsNotFalse(Box::new(equal)) } else { equal });
    Some(*query)
}
