//! Spark's column `window` of a query that is grouped by `window(…)`:
//! `SELECT window.start, count(*) FROM t GROUP BY window(ts, '1 hour') ORDER BY window.start`, the column
//! `session_window` of one by `session_window(…)`, and fields of expressions, `window(ts, '1 hour').start`.

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

/// The functions that give windows, and the columns that are called as they are.
const NAMES: [Named; 2] = [WINDOW, Named("session_window")];
const WINDOW: Named = Named("window");

/// What a function and the column of its values are called.
#[derive(Debug, Clone, Copy)]
struct Named(&'static str);

impl Named {
    /// The call that a key of `select` is: itself, by its position, or by its name.
    fn call_of<'e>(self, key: &'e Expr, select: &'e Select) -> Option<&'e Expr> {
        let item = match key {
            Expr::Value(value) => match &value.value {
                Value::Number(position, _) => {
                    let position: usize = position.parse().ok()?;
                    select.projection.get(position.checked_sub(1)?)
                }
                _ => None,
            },
            Expr::Identifier(name) => select.projection.iter().find(
                |item| matches!(item, SelectItem::ExprWithAlias { alias, .. } if same_name(alias, name)),
            ),
            key => return self.is_call(key).then_some(key),
        };
        match item? {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                self.is_call(expr).then_some(expr)
            }
            _ => None,
        }
    }

    /// Whether the subquery that `table` is has a column of this name.
    fn is_given_by(self, table: &TableFactor) -> bool {
        let TableFactor::Derived { subquery, .. } = table else { return false };
        let mut body = subquery.body.as_ref();
        while let SetExpr::SetOperation { left, .. } = body {
            body = left;
        }
        let SetExpr::Select(select) = body else { return false };
        select.projection.iter().any(|item| match item {
            SelectItem::ExprWithAlias { alias, .. } => self.is_of(alias),
            SelectItem::UnnamedExpr(expr) => self.is_call(expr) || self.is_column(expr),
            _ => false,
        })
    }

    fn is_call(self, expr: &Expr) -> bool {
        match expr {
            Expr::Function(call) => call.over.is_none() && call.name.to_string().eq_ignore_ascii_case(self.0),
            _ => false,
        }
    }

    /// `window.start` is called `start`, and the column as it is written.
    fn name_item(self, item: &mut SelectItem) {
        let SelectItem::UnnamedExpr(expr) = item else { return };
        let name = if self.is_column(expr) { Some(self.0.to_string()) } else { self.field(expr) };
        if let Some(name) = name {
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::new(name) };
        }
    }

    fn is_column(self, expr: &Expr) -> bool {
        matches!(expr, Expr::Identifier(name) if self.is_of(name))
    }

    fn is_of(self, name: &Ident) -> bool {
        name.quote_style.is_none() && name.value.eq_ignore_ascii_case(self.0)
    }

    /// `start` or `end` in `window.start` and `window.end`.
    fn field(self, expr: &Expr) -> Option<String> {
        let Expr::CompoundIdentifier(names) = expr else { return None };
        let [window, field] = names.as_slice() else { return None };
        let field = field.value.to_ascii_lowercase();
        (self.is_of(window) && matches!(field.as_str(), "start" | "end")).then_some(field)
    }
}

/// Puts the call in place of the column.
struct Columns<'a> {
    is_aggregate: &'a dyn Fn(&str) -> bool,
}

impl VisitorMut for Columns<'_> {
    type Break = ();

    /// `ORDER BY` belongs to the query, of which the select is only the body.
    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let SetExpr::Select(select) = query.body.as_ref() else { return ControlFlow::Continue(()) };
        for mut column in NAMES.iter().filter_map(|name| WindowColumn::of(*name, select, self.is_aggregate)) {
            if let Some(order_by) = &mut query.order_by
                && let OrderByKind::Expressions(keys) = &mut order_by.kind
            {
                for key in keys {
                    let _ = key.expr.visit(&mut column);
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for name in NAMES {
            let Some(mut column) = WindowColumn::of(name, select, self.is_aggregate) else { continue };
            for item in &mut select.projection {
                name.name_item(item);
                let _ = item.visit(&mut column);
            }
            if let Some(having) = &mut select.having {
                let _ = having.visit(&mut column);
            }
        }
        ControlFlow::Continue(())
    }
}

/// The column `window` of one select.
struct WindowColumn<'a> {
    name: Named,
    call: Expr,
    /// Whether there is a column of this name below, too: the one that aggregates are about.
    is_below_too: bool,
    is_aggregate: &'a dyn Fn(&str) -> bool,
    /// In how many calls we are in which the name means something else.
    elsewhere: usize,
}

impl<'a> WindowColumn<'a> {
    /// The column of `select`, if it is grouped by just one call of this name.
    fn of(name: Named, select: &Select, is_aggregate: &'a dyn Fn(&str) -> bool) -> Option<Self> {
        let GroupByExpr::Expressions(keys, _) = &select.group_by else { return None };
        let mut calls: Vec<&Expr> = Vec::new();
        for key in keys.iter().flat_map(parts) {
            if let Some(call) = name.call_of(key, select)
                && !calls.contains(&call)
            {
                calls.push(call);
            }
        }
        let [call] = calls.as_slice() else { return None };
        let mut call = (*call).clone();
        let mut mentions = Mentions { name, found: false };
        let _ = call.visit(&mut mentions);
        let is_below_too = mentions.found
            || select.from.iter().any(|from| {
                std::iter::once(&from.relation)
                    .chain(from.joins.iter().map(|join| &join.relation))
                    .any(|table| name.is_given_by(table))
            });
        Some(Self { name, call, is_below_too, is_aggregate, elsewhere: 0 })
    }

    /// Whether `expr` is a call in which `window` does not mean the group's window.
    fn is_elsewhere(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Function(call) => {
                self.name.is_call(expr) || (self.is_below_too && (self.is_aggregate)(&call.name.to_string()))
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
            if self.name.is_column(expr) {
                *expr = self.call.clone();
            } else if let Some(field) = self.name.field(expr) {
                *expr = field_of(self.call.clone(), field);
            }
        }
        ControlFlow::Continue(())
    }
}

/// Whether the column is named anywhere.
struct Mentions {
    name: Named,
    found: bool,
}

impl VisitorMut for Mentions {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.found |= self.name.is_column(expr) || self.name.field(expr).is_some();
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

fn same_name(a: &Ident, b: &Ident) -> bool {
    let folded = |name: &Ident| match name.quote_style {
        None => name.value.to_lowercase(),
        Some(_) => name.value.clone(),
    };
    folded(a) == folded(b)
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
                && WINDOW.is_call(expr)
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
