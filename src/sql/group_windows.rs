//! Windows of groups as other engines write them: `GROUP BY TUMBLE(ts, …)` with `TUMBLE_START(ts, …)`, likewise `HOP`
//! and `SESSION`, and groups of `FROM SESSION(TABLE t, DESCRIPTOR(ts), gap)` by `window_start` and `window_end`.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident,
    ObjectName, OrderByKind, Query, Select, SelectItem, SetExpr, Subscript, TableFactor, Value, VisitMut,
    VisitorMut, WildcardAdditionalOptions,
};

use super::visit::visit_statement;

/// The column of a subquery with the session of each row.
const SESSION: &str = "__session";

/// `statement` with `window` and `session_window` in the place of these.
pub(super) fn with_group_windows(
    mut statement: DataFusionStatement,
    is_aggregate: &dyn Fn(&str) -> bool,
) -> DataFusionStatement {
    let _ = visit_statement(&mut statement, &mut Tables { is_aggregate });
    let _ = visit_statement(&mut statement, &mut Calls);
    statement
}

fn called(name: &str, args: Vec<Expr>) -> Option<Expr> {
    let Expr::Function(mut call) = parsed_call()? else { return None };
    call.name = ObjectName::from(vec![Ident::new(name)]);
    if let FunctionArguments::List(list) = &mut call.args {
        list.args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    }
    Some(Expr::Function(call))
}

/// A call with nothing special about it.
fn parsed_call() -> Option<Expr> {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;
    Parser::new(&GenericDialect {}).try_with_sql("f(x)").ok()?.parse_expr().ok()
}

fn field(root: Expr, name: &str) -> Expr {
    let index = Expr::Value(Value::SingleQuotedString(name.into()).into());
    let access_chain = vec![AccessExpr::Subscript(Subscript::Index { index })];
    Expr::CompoundFieldAccess { root: Box::new(root), access_chain }
}

/// The arguments of a plain call.
fn arguments(call: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(list) = &call.args else { return None };
    let argument = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    match call.over.is_none() && call.filter.is_none() && list.clauses.is_empty() {
        true => list.args.iter().map(argument).collect(),
        false => None,
    }
}

/// `TUMBLE(ts, size)`, `HOP(ts, slide, size)`, `SESSION(ts, gap)`, and their starts, ends and times.
fn window_call(expr: &Expr) -> Option<Expr> {
    let Expr::Function(call) = expr else { return None };
    let name = call.name.to_string().to_ascii_lowercase();
    let (kind, part) = name.split_once('_').unwrap_or((&name, ""));
    let arguments = arguments(call)?;
    let window = match (kind, arguments.as_slice()) {
        ("tumble", [time, size]) => called("window", vec![time.clone(), size.clone()])?,
        ("hop", [time, slide, size]) => called("window", vec![time.clone(), size.clone(), slide.clone()])?,
        ("session", [time, gap]) => called("session_window", vec![time.clone(), gap.clone()])?,
        _ => return None,
    };
    match part {
        "" => Some(window),
        "start" | "end" => Some(field(window, part)),
        "rowtime" => called("window_time", vec![window]),
        _ => None,
    }
}

/// Puts calls in the place of calls.
struct Calls;

impl VisitorMut for Calls {
    type Break = ();

    /// A column without a name is called like the function.
    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) = item
                && let Expr::Function(call) = &*expr
                && window_call(expr).is_some()
            {
                let alias = Ident::new(call.name.to_string().to_ascii_lowercase());
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(call) = window_call(expr) {
            *expr = call;
        }
        ControlFlow::Continue(())
    }
}

/// Puts a subquery with sessions in the place of `SESSION(…)`, where its rows are grouped.
struct Tables<'a> {
    is_aggregate: &'a dyn Fn(&str) -> bool,
}

impl VisitorMut for Tables<'_> {
    type Break = ();

    /// `ORDER BY` belongs to the query, of which the select is only the body.
    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let SetExpr::Select(select) = query.body.as_mut() else { return ControlFlow::Continue(()) };
        if !self.use_sessions(select) {
            return ControlFlow::Continue(());
        }
        if let Some(order_by) = &mut query.order_by
            && let OrderByKind::Expressions(keys) = &mut order_by.kind
        {
            let mut parts = self.parts();
            keys.iter_mut().for_each(|key| {
                let _ = key.expr.visit(&mut parts);
            });
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        self.use_sessions(select);
        ControlFlow::Continue(())
    }
}

impl<'a> Tables<'a> {
    fn parts(&self) -> Parts<'a> {
        Parts { is_aggregate: self.is_aggregate, elsewhere: 0 }
    }

    /// Whether `select` groups sessions, which are then those of a subquery.
    fn use_sessions(&self, select: &mut Select) -> bool {
        let [from] = select.from.as_slice() else { return false };
        let Some((derived, partition)) = sessions_of(&from.relation).filter(|_| from.joins.is_empty()) else {
            return false;
        };
        let GroupByExpr::Expressions(keys, modifiers) = &select.group_by else { return false };
        let by_session = |key: &Expr| part_of(key_of(key, select)).is_some();
        if !modifiers.is_empty() || !keys.iter().any(by_session) {
            return false;
        }
        let session = Expr::Identifier(Ident::new(SESSION));
        let others = keys.iter().filter(|key| !by_session(key)).map(|key| key_of(key, select).clone());
        let others: Vec<Expr> = others.collect();
        if partition.is_some_and(|partition| column_names(&partition) != column_names(&others)) {
            return false;
        }
        let grouped = others.into_iter().chain([session]).collect();
        select.group_by = GroupByExpr::Expressions(grouped, Vec::new());
        select.from[0].relation = derived;
        let mut parts = self.parts();
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) = item
                && let Some(part) = part_of(expr)
            {
                let alias = Ident::new(format!("window_{part}"));
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
            }
            let _ = item.visit(&mut parts);
        }
        if let Some(having) = &mut select.having {
            let _ = having.visit(&mut parts);
        }
        true
    }
}

/// What a key of `select` says: itself, or what is at its position or has its name.
fn key_of<'e>(key: &'e Expr, select: &'e Select) -> &'e Expr {
    let item = match key {
        Expr::Value(value) => match &value.value {
            Value::Number(position, _) => {
                let position = position.parse::<usize>().ok().and_then(|position| position.checked_sub(1));
                position.and_then(|position| select.projection.get(position))
            }
            _ => None,
        },
        Expr::Identifier(name) => select.projection.iter().find(
            |item| matches!(item, SelectItem::ExprWithAlias { alias, .. } if alias.value.eq_ignore_ascii_case(&name.value)),
        ),
        _ => None,
    };
    match item {
        Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => expr,
        _ => key,
    }
}

/// The columns that `keys` are, in the order of their names.
fn column_names(keys: &[Expr]) -> Vec<String> {
    let name = |key: &Expr| match key {
        Expr::CompoundIdentifier(names) => {
            names.last().map_or_else(String::new, |name| name.value.to_lowercase())
        }
        key => key.to_string().to_lowercase(),
    };
    let mut names: Vec<String> = keys.iter().map(name).collect();
    names.sort();
    names
}

/// `SELECT *, session_window(ts, gap) AS __session FROM t` for `SESSION(t, ts, gap)`, and what the table is partitioned
/// by, if that is said.
fn sessions_of(table: &TableFactor) -> Option<(TableFactor, Option<Vec<Expr>>)> {
    let (name, args, alias) = match table {
        TableFactor::Table { name, alias, args: Some(args), .. } => (name, &args.args, alias),
        TableFactor::TableFunction { expr: Expr::Function(call), alias } => match &call.args {
            FunctionArguments::List(list) => (&call.name, &list.args, alias),
            _ => return None,
        },
        _ => return None,
    };
    if !name.to_string().eq_ignore_ascii_case("session") {
        return None;
    }
    let places = ["data", "timecol", "gap", "keys"];
    let mut given: [Option<&Expr>; 4] = [None; 4];
    let mut next = 0..;
    for arg in args {
        let (position, value) = match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => (next.next()?, value),
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
                (places.iter().position(|place| name.value.eq_ignore_ascii_case(place))?, value)
            }
            _ => return None,
        };
        *given.get_mut(position)? = Some(value);
    }
    let [Some(Expr::Subquery(rows)), Some(time), Some(gap), keys] = given else { return None };
    let listed = |value: &Expr| match value {
        Expr::Function(call) if call.name.to_string().eq_ignore_ascii_case("descriptor") => arguments(call),
        column => Some(vec![column.clone()]),
    };
    let time = listed(time)?.into_iter().next()?;
    let partition = match keys {
        Some(keys) => Some(listed(keys)?),
        None => None,
    };
    let session = called("session_window", vec![time, gap.clone()])?;
    let mut subquery = rows.as_ref().clone();
    let inner = TableFactor::Derived { lateral: false, subquery: rows.clone(), alias: None, sample: None };
    let SetExpr::Select(select) = selects_all()? else { return None };
    let mut select = *select;
    select.from.first_mut()?.relation = inner;
    select.projection = vec![
        SelectItem::Wildcard(WildcardAdditionalOptions::default()),
        SelectItem::ExprWithAlias { expr: session, alias: Ident::new(SESSION) },
    ];
    (subquery.with, subquery.order_by, subquery.limit_clause) = (None, None, None);
    *subquery.body = SetExpr::Select(Box::new(select));
    let (subquery, alias) = (Box::new(subquery), alias.clone());
    Some((TableFactor::Derived { lateral: false, subquery, alias, sample: None }, partition))
}

/// A select with nothing special about it.
fn selects_all() -> Option<SetExpr> {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;
    let query = Parser::new(&GenericDialect {}).try_with_sql("SELECT * FROM t").ok()?.parse_query().ok()?;
    Some(*query.body)
}

/// `start`, `end` or `time` in `window_start`, `w.window_end` and so on.
fn part_of(expr: &Expr) -> Option<&'static str> {
    let name = match expr {
        Expr::Identifier(name) => name,
        Expr::CompoundIdentifier(names) => names.last()?,
        _ => return None,
    };
    let parts = ["start", "end", "time"].into_iter();
    parts.into_iter().find(|part| name.value.eq_ignore_ascii_case(&format!("window_{part}")))
}

/// Puts parts of the session in the place of columns, except for what aggregates are of.
struct Parts<'a> {
    is_aggregate: &'a dyn Fn(&str) -> bool,
    elsewhere: usize,
}

impl Parts<'_> {
    fn is_elsewhere(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Function(call) => (self.is_aggregate)(&call.name.to_string()),
            Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => true,
            _ => false,
        }
    }
}

impl VisitorMut for Parts<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.elsewhere += usize::from(self.is_elsewhere(expr));
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.is_elsewhere(expr) {
            self.elsewhere -= 1;
        } else if self.elsewhere == 0
            && let Some(part) = part_of(expr)
        {
            let session = Expr::Identifier(Ident::new(SESSION));
            let replaced = match part {
                "time" => called("window_time", vec![session]),
                part => Some(field(session, part)),
            };
            if let Some(replaced) = replaced {
                *expr = replaced;
            }
        }
        ControlFlow::Continue(())
    }
}
