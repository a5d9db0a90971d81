//! Functions that differ by casts alone.
//!
//! DataFusion names an expression without its casts, so that `sum(v)` and `sum(CAST(v AS DOUBLE))` have one name and cannot
//! be columns of one plan. The casts of one of them go through `coalesce`, which is in the name, gives what it is given, and
//! is nothing when the plan is optimised. What is alone of its name keeps it: checkpoints know it.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, OrderBy, OrderByKind, Query, Select, SetExpr, VisitMut, VisitorMut,
};

use super::chains::{call, null};
use super::visit::visit_statement;

/// `statement` in which no two aggregates or window functions of a query differ by casts alone. `is_aggregate` says which
/// functions are aggregates.
pub(super) fn with_cast_names(
    mut statement: DataFusionStatement,
    is_aggregate: &dyn Fn(&str) -> bool,
) -> DataFusionStatement {
    let _ = visit_statement(&mut statement, &mut Queries { is_aggregate });
    statement
}

struct Queries<'a> {
    is_aggregate: &'a dyn Fn(&str) -> bool,
}

impl VisitorMut for Queries<'_> {
    type Break = ();

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.name(&mut query.body, query.order_by.as_mut());
        ControlFlow::Continue(())
    }
}

impl Queries<'_> {
    /// Names the functions of each `SELECT` in `body`, by themselves.
    fn name(&self, body: &mut SetExpr, mut order_by: Option<&mut OrderBy>) {
        let select = match body {
            SetExpr::Select(select) => select,
            // What a union is sorted by are its columns.
            SetExpr::SetOperation { left, right, .. } => {
                self.name(left, None);
                return self.name(right, None);
            }
            _ => return,
        };
        let mut found =
            Functions { is_aggregate: self.is_aggregate, depth: 0, known: Vec::new(), names: false };
        found.look_at(select, order_by.as_deref_mut());
        // Those with fewest casts keep their names.
        found.known.sort_by_key(|known| known.casts);
        if found.known.iter().enumerate().any(|(place, _)| found.before(place) > 0) {
            found.names = true;
            found.look_at(select, order_by);
        }
    }
}

/// A function of a query.
struct Known {
    written: String,
    without_casts: String,
    casts: usize,
}

/// Finds the functions of a query, and then gives them names; not those of queries within it.
struct Functions<'a> {
    is_aggregate: &'a dyn Fn(&str) -> bool,
    depth: usize,
    known: Vec<Known>,
    names: bool,
}

impl Functions<'_> {
    fn look_at(&mut self, select: &mut Select, order_by: Option<&mut OrderBy>) {
        let _ = select.projection.visit(self);
        let _ = select.having.visit(self);
        let _ = select.qualify.visit(self);
        if let Some(OrderBy { kind: OrderByKind::Expressions(keys), .. }) = order_by {
            let _ = keys.visit(self);
        }
    }

    fn is_one(&self, function: &Function) -> bool {
        function.over.is_some() || (self.is_aggregate)(&function.name.to_string())
    }

    /// How many others have the name of the one at `place` and come before it.
    fn before(&self, place: usize) -> usize {
        let name = &self.known[place].without_casts;
        self.known[..place].iter().filter(|known| known.without_casts == *name).count()
    }
}

impl VisitorMut for Functions<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.depth > 0 || !matches!(expr, Expr::Function(function) if self.is_one(function)) {
            return ControlFlow::Continue(());
        }
        let written = expr.to_string();
        let place = self.known.iter().position(|known| known.written == written);
        match (place, self.names) {
            (Some(place), true) => {
                let _ = expr.visit(&mut Renamed { times: self.before(place) });
            }
            (None, false) => {
                let (mut plain, mut casts) = (expr.clone(), WithoutCasts(0));
                let _ = plain.visit(&mut casts);
                self.known.push(Known { written, without_casts: plain.to_string(), casts: casts.0 });
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Takes casts away, and counts them.
struct WithoutCasts(usize);

impl VisitorMut for WithoutCasts {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        while let Expr::Cast { expr: value, .. } | Expr::Nested(value) = &mut *expr {
            let value = value.as_ref().clone();
            self.0 += usize::from(matches!(expr, Expr::Cast { .. }));
            *expr = value;
        }
        ControlFlow::Continue(())
    }
}

/// Puts casts into so many calls of `coalesce`.
struct Renamed {
    times: usize,
}

impl VisitorMut for Renamed {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if matches!(expr, Expr::Cast { .. }) {
            for _ in 0..self.times {
                let cast = std::mem::replace(expr, null());
                *expr = call("coalesce", vec![cast]);
            }
        }
        ControlFlow::Continue(())
    }
}
