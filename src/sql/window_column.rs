//! Spark's column `window` of a query that is grouped by `window(…)`:
//! `SELECT window.start, count(*) FROM t GROUP BY window(ts, '1 hour') ORDER BY window.start`, and
//! fields of expressions, `window(ts, '1 hour').start`.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr, GroupByExpr, Ident, ObjectName, OrderByKind, Query, Select, SelectItem, SetExpr,
    Subscript, TableFactor, Value, VisitMut, VisitorMut,
};

use super::visit::visit_statement;
use crate::functions::TIME_WINDOW;

/// `statement` with the call in place of the column. `is_aggregate` says which functions are.
pub(super) fn with_calls(
    mut statement: DataFusionStatement,
    is_aggregate: &dyn Fn(&str) -> bool,
) -> DataFusionStatement {
    let _ = visit_statement(&mut statement, &mut Columns { is_aggregate });
    let _ = visit_statement(&mut statement, &mut Calls);
    statement
}

/// Puts the call in place of the column.
struct Columns<'a> {
    is_aggregate: &'a dyn Fn(&str) -> bool,
}

impl VisitorMut for Columns<'_> {
    type Break = ();

    /// `ORDER BY` belongs to the query, of which the select is only the body.
    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let SetExpr::Select(select) = query.body.as_ref()
            && let Some(mut column) = WindowColumn::of(select, self.is_aggregate)
            && let Some(order_by) = &mut query.order_by
            && let OrderByKind::Expressions(keys) = &mut order_by.kind
        {
            for key in keys {
                let _ = key.expr.visit(&mut column);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let Some(mut column) = WindowColumn::of(select, self.is_aggregate) else {
            return ControlFlow::Continue(());
        };
        for item in &mut select.projection {
            name_field(item);
            let _ = item.visit(&mut column);
        }
        if let Some(having) = &mut select.having {
            let _ = having.visit(&mut column);
        }
        ControlFlow::Continue(())
    }
}

/// The column `window` of one select.
struct WindowColumn<'a> {
    call: Expr,
    /// Whether there is a column of this name below, too: the one that aggregates are about.
    is_below_too: bool,
    is_aggregate: &'a dyn Fn(&str) -> bool,
    /// In how many calls we are in which the name means something else.
    elsewhere: usize,
}

impl<'a> WindowColumn<'a> {
    /// The column of `select`, if it is grouped by just one call of `window`.
    fn of(select: &Select, is_aggregate: &'a dyn Fn(&str) -> bool) -> Option<Self> {
        let GroupByExpr::Expressions(keys, _) = &select.group_by else { return None };
        let mut calls: Vec<&Expr> = Vec::new();
        for key in keys.iter().flat_map(parts) {
            if let Some(call) = call_of(key, select)
                && !calls.contains(&call)
            {
                calls.push(call);
            }
        }
        let [call] = calls.as_slice() else { return None };
        let mut call = (*call).clone();
        let mut mentions = Mentions(false);
        let _ = call.visit(&mut mentions);
        let is_below_too = mentions.0
            || select.from.iter().any(|from| {
                std::iter::once(&from.relation)
                    .chain(from.joins.iter().map(|join| &join.relation))
                    .any(gives_window)
            });
        Some(Self { call, is_below_too, is_aggregate, elsewhere: 0 })
    }

    /// Whether `expr` is a call in which `window` does not mean the group's window.
    fn is_elsewhere(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Function(call) => {
                is_window_call(expr) || (self.is_below_too && (self.is_aggregate)(&call.name.to_string()))
            }
            Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => true,
            _ => false,
        }
    }
}

impl VisitorMut for WindowColumn<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.is_elsewhere(expr) {
            self.elsewhere += 1;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.is_elsewhere(expr) {
            self.elsewhere -= 1;
        } else if self.elsewhere == 0 {
            if is_window_column(expr) {
                *expr = self.call.clone();
            } else if let Some(field) = field_of_window(expr) {
                *expr = field_of(self.call.clone(), field);
            }
        }
        ControlFlow::Continue(())
    }
}

/// Whether the column is named anywhere.
struct Mentions(bool);

impl VisitorMut for Mentions {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.0 |= is_window_column(expr) || field_of_window(expr).is_some();
        ControlFlow::Continue(())
    }
}

/// The keys that a part of `GROUP BY` names.
fn parts(key: &Expr) -> Vec<&Expr> {
    match key {
        Expr::GroupingSets(sets) | Expr::Rollup(sets) | Expr::Cube(sets) => {
            sets.iter().flatten().flat_map(parts).collect()
        }
        Expr::Tuple(keys) => keys.iter().flat_map(parts).collect(),
        Expr::Nested(key) => parts(key),
        key => vec![key],
    }
}

/// The call of `window` that a key of `select` is: itself, by its position, or by its name.
fn call_of<'e>(key: &'e Expr, select: &'e Select) -> Option<&'e Expr> {
    let item = match key {
        Expr::Value(value) => match &value.value {
            Value::Number(position, _) => {
                let position: usize = position.parse().ok()?;
                select.projection.get(position.checked_sub(1)?)
            }
            _ => None,
        },
        Expr::Identifier(name) => select
            .projection
            .iter()
            .find(|item| matches!(item, SelectItem::ExprWithAlias { alias, .. } if same_name(alias, name))),
        key => return is_window_call(key).then_some(key),
    };
    match item? {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            is_window_call(expr).then_some(expr)
        }
        _ => None,
    }
}

fn same_name(a: &Ident, b: &Ident) -> bool {
    let folded = |name: &Ident| match name.quote_style {
        None => name.value.to_lowercase(),
        Some(_) => name.value.clone(),
    };
    folded(a) == folded(b)
}

/// Whether the subquery that `table` is has a column `window`.
fn gives_window(table: &TableFactor) -> bool {
    let TableFactor::Derived { subquery, .. } = table else { return false };
    let mut body = subquery.body.as_ref();
    while let SetExpr::SetOperation { left, .. } = body {
        body = left;
    }
    let SetExpr::Select(select) = body else { return false };
    select.projection.iter().any(|item| match item {
        SelectItem::ExprWithAlias { alias, .. } => is_window(alias),
        SelectItem::UnnamedExpr(expr) => is_window_call(expr) || is_window_column(expr),
        _ => false,
    })
}

fn is_window_call(expr: &Expr) -> bool {
    match expr {
        Expr::Function(call) => call.over.is_none() && call.name.to_string().eq_ignore_ascii_case("window"),
        _ => false,
    }
}

/// `window.start` is called `start`.
fn name_field(item: &mut SelectItem) {
    if let SelectItem::UnnamedExpr(expr @ Expr::CompoundIdentifier(_)) = item
        && let Some(field) = field_of_window(expr)
    {
        let alias = Ident::new(field);
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
    }
}

fn is_window_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(name) if is_window(name))
}

fn is_window(name: &Ident) -> bool {
    name.quote_style.is_none() && name.value.eq_ignore_ascii_case("window")
}

/// `start` or `end` in `window.start` and `window.end`.
fn field_of_window(expr: &Expr) -> Option<String> {
    let Expr::CompoundIdentifier(names) = expr else { return None };
    let [window, field] = names.as_slice() else { return None };
    let field = field.value.to_ascii_lowercase();
    (is_window(window) && matches!(field.as_str(), "start" | "end")).then_some(field)
}

fn field_of(root: Expr, field: String) -> Expr {
    Expr::CompoundFieldAccess { root: Box::new(root), access_chain: vec![subscript(field)] }
}

fn subscript(field: String) -> AccessExpr {
    let index = Expr::Value(Value::SingleQuotedString(field).into());
    AccessExpr::Subscript(Subscript::Index { index })
}

/// Has calls of `window` planned under another name. DataFusion takes the key `window` of a group for
/// a column of that name below, and groups by all that the column determines, too.
struct Calls;

impl VisitorMut for Calls {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) = item
                && is_window_call(expr)
            {
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::new("window") };
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(call)
                if call.over.is_none() && call.name.to_string().eq_ignore_ascii_case("window") =>
            {
                call.name = ObjectName::from(vec![Ident::new(TIME_WINDOW)]);
            }
            // DataFusion knows a[1]['b'], but not a[1].b, nor f(x).b.
            Expr::CompoundFieldAccess { root, access_chain } => {
                // Up to the first subscript, `a.b` may be a column of a table.
                let names = match root.as_ref() {
                    Expr::Identifier(_) | Expr::CompoundIdentifier(_) => {
                        access_chain.iter().take_while(|access| matches!(access, AccessExpr::Dot(_))).count()
                    }
                    _ => 0,
                };
                for access in access_chain.iter_mut().skip(names) {
                    if let AccessExpr::Dot(Expr::Identifier(name)) = access {
                        *access = subscript(match name.quote_style {
                            None => name.value.to_lowercase(),
                            Some(_) => name.value.clone(),
                        });
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
