//! `OVER (name …)`: windows that go on from one of `WINDOW name AS (…)`.
//!
//! DataFusion knows `OVER name`, and passes over the name in the other.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, NamedWindowDefinition, NamedWindowExpr, Query, Select, SetExpr, VisitMut, VisitorMut,
    WindowSpec, WindowType,
};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::diagnostics::error_at;
use crate::error::Error;

/// Puts what the named windows say into those that name them; breaks with an error where there is none of a name, or
/// where they contradict one another. `at` is the place of the statement.
pub(super) struct NamedWindows {
    pub(super) at: Location,
}

impl VisitorMut for NamedWindows {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let mut bodies = vec![query.body.as_mut()];
        while let Some(body) = bodies.pop() {
            match body {
                SetExpr::Select(select) => {
                    let mut calls = Calls { known: self.windows(select)?, depth: 0, at: self.at };
                    select.visit(&mut calls)?;
                    if let Some(order) = query.order_by.as_mut() {
                        order.visit(&mut calls)?;
                    }
                }
                SetExpr::SetOperation { left, right, .. } => bodies.extend([left.as_mut(), right.as_mut()]),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}

impl NamedWindows {
    /// The named windows of `select`, as a whole each.
    fn windows(&self, select: &mut Select) -> ControlFlow<Error, Vec<(Ident, WindowSpec)>> {
        let mut known: Vec<(Ident, WindowSpec)> = Vec::new();
        for NamedWindowDefinition(name, window) in &mut select.named_window {
            if let NamedWindowExpr::WindowSpec(spec) = window {
                of_named(spec, &known, self.at)?;
                known.push((name.clone(), spec.clone()));
            }
        }
        ControlFlow::Continue(known)
    }
}

/// The calls of one query.
struct Calls {
    known: Vec<(Ident, WindowSpec)>,
    /// How many subqueries are around: their windows are their own.
    depth: usize,
    at: Location,
}

impl VisitorMut for Calls {
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
        match expr {
            Expr::Function(call) if self.depth == 0 => match &mut call.over {
                Some(WindowType::WindowSpec(spec)) => of_named(spec, &self.known, self.at),
                _ => ControlFlow::Continue(()),
            },
            _ => ControlFlow::Continue(()),
        }
    }
}

/// `spec` with what the window says that it names, if it names one.
fn of_named(spec: &mut WindowSpec, known: &[(Ident, WindowSpec)], at: Location) -> ControlFlow<Error> {
    let Some(name) = spec.window_name.take() else { return ControlFlow::Continue(()) };
    let at = match name.span.start {
        Location { line: 0, .. } => at,
        found => found,
    };
    let failed = |message: String| ControlFlow::Break(error_at(message, at));
    let is_it = |known: &Ident| match name.quote_style {
        None => known.value.eq_ignore_ascii_case(&name.value),
        Some(_) => known.value == name.value,
    };
    let Some((_, named)) = known.iter().find(|(known, _)| is_it(known)) else {
        return failed(format!("there is no window {name}: define it before, by WINDOW {name} AS (…)"));
    };
    if !spec.partition_by.is_empty() {
        return failed(format!("a window that goes on from {name} has its PARTITION BY: leave it out here"));
    }
    if !spec.order_by.is_empty() && !named.order_by.is_empty() {
        return failed(format!("the window {name} has an ORDER BY: leave it out there or here"));
    }
    if named.window_frame.is_some() {
        return failed(format!(
            "the window {name} has a frame, so nothing can be added to it: write OVER {name}"
        ));
    }
    spec.partition_by = named.partition_by.clone();
    if spec.order_by.is_empty() {
        spec.order_by = named.order_by.clone();
    }
    ControlFlow::Continue(())
}
