//! Spark's column `window` of a query that is grouped by `window(…)`:
//! `SELECT window.start, count(*) FROM t GROUP BY window(ts, '1 hour') ORDER BY window.start`.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr, GroupByExpr, Ident, OrderByKind, Query, Select, SelectItem, SetExpr, Statement,
    Subscript, Value, VisitMut, VisitorMut, visit_expressions_mut,
};

/// `statement` with the call in place of the column.
pub(super) fn with_calls(mut statement: DataFusionStatement) -> DataFusionStatement {
    match &mut statement {
        DataFusionStatement::Statement(statement) => {
            let _ = statement.visit(&mut Calls);
        }
        DataFusionStatement::Explain(explain) => {
            let inner = std::mem::replace(explain.statement.as_mut(), nothing());
            *explain.statement = with_calls(inner);
        }
        _ => {}
    }
    statement
}

fn nothing() -> DataFusionStatement {
    DataFusionStatement::Statement(Box::new(Statement::Commit { chain: false, end: false, modifier: None }))
}

struct Calls;

impl VisitorMut for Calls {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let SetExpr::Select(select) = query.body.as_mut() else { return ControlFlow::Continue(()) };
        let Some(call) = window_key(select) else { return ControlFlow::Continue(()) };
        for item in &mut select.projection {
            name_field(item);
            let _ = replace(item, &call);
        }
        if let Some(having) = &mut select.having {
            let _ = replace(having, &call);
        }
        if let Some(order_by) = &mut query.order_by
            && let OrderByKind::Expressions(keys) = &mut order_by.kind
        {
            for key in keys {
                let _ = replace(&mut key.expr, &call);
            }
        }
        ControlFlow::Continue(())
    }
}

/// The call of `window` that `select` is grouped by, if there is just one.
fn window_key(select: &Select) -> Option<Expr> {
    let GroupByExpr::Expressions(keys, _) = &select.group_by else { return None };
    let is_window = |key: &&Expr| match key {
        Expr::Function(call) => call.name.to_string().eq_ignore_ascii_case("window"),
        _ => false,
    };
    let mut calls = keys.iter().filter(is_window);
    let call = calls.next()?;
    calls.next().is_none().then(|| call.clone())
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

fn replace(node: &mut impl VisitMut, call: &Expr) -> ControlFlow<()> {
    visit_expressions_mut(node, |expr| {
        if is_window_column(expr) {
            *expr = call.clone();
        } else if let Some(field) = field_of_window(expr) {
            let index = Expr::Value(Value::SingleQuotedString(field).into());
            let access_chain = vec![AccessExpr::Subscript(Subscript::Index { index })];
            *expr = Expr::CompoundFieldAccess { root: Box::new(call.clone()), access_chain };
        }
        ControlFlow::Continue(())
    })
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
