//! Names of the columns that a query gives without `AS`.
//!
//! DataFusion calls them what they are computed from, with the tables of all columns in it:
//! `max(bids.price)`, `input.u[name]`, `Int64(1)`. Here they are called what is written, without tables:
//! `max(price)`, `name`, `1`; and in files, whose readers do not all take every name, `max_price`.

use datafusion::sql::parser::{CopyToSource, Statement as DataFusionStatement};
use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr, Ident, Query, Select, SelectItem, SetExpr, Statement, Subscript, TableFactor, Value,
    VisitMut, VisitorMut,
};
use std::ops::ControlFlow;

/// Where the columns go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// To a reader of names as they are written.
    AsWritten,
    /// Into files.
    ForFiles,
}

/// `statement` with names for the columns of its result that have none of their own, as [`SqlSession`](super::SqlSession)
/// gives them.
pub fn with_names(mut statement: DataFusionStatement) -> DataFusionStatement {
    name_results(&mut statement, Names::AsWritten);
    statement
}

/// Names the columns of the result of `statement`, if it has one.
pub(super) fn name_results(statement: &mut DataFusionStatement, names: Names) {
    match statement {
        DataFusionStatement::Statement(statement) => match statement.as_mut() {
            Statement::Query(query) => name_columns(query, names),
            Statement::CreateTable(table) => {
                if let Some(query) = &mut table.query {
                    name_columns(query, Names::AsWritten);
                }
            }
            Statement::CreateView(view) if view.columns.is_empty() => {
                name_columns(&mut view.query, Names::AsWritten);
            }
            _ => {}
        },
        DataFusionStatement::CopyTo(copy) => {
            if let CopyToSource::Query(query) = &mut copy.source {
                name_columns(query, Names::ForFiles);
            }
        }
        _ => {}
    }
}

/// Names the columns of `query` that have no name of their own.
pub(super) fn name_columns(query: &mut Query, names: Names) {
    let mut body = query.body.as_mut();
    loop {
        match body {
            // The first query names the columns of all.
            SetExpr::SetOperation { left, .. } => body = left,
            SetExpr::Query(query) => return name_columns(query, names),
            SetExpr::Select(select) => return name_items(select, names),
            _ => return,
        }
    }
}

fn name_items(select: &mut Select, style: Names) {
    let tables: Vec<String> = select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)))
        .filter_map(table_name)
        .collect();
    let names: Vec<Option<String>> =
        select.projection.iter().map(|item| name_of_item(item, &tables, style)).collect();
    let given = (select.projection.iter().zip(&names)).filter(|(_, name)| name.is_none());
    let given: Vec<String> = given.filter_map(|(item, _)| given_name(item)).collect();
    let mut taken = given.clone();
    let wanted: Vec<String> = names.iter().flatten().cloned().chain(given).collect();
    for (item, name) in select.projection.iter_mut().zip(names) {
        let (SelectItem::UnnamedExpr(expr), Some(name)) = (&*item, name) else { continue };
        let name = match wanted.iter().filter(|other| **other == name).count() {
            1 => Some(name),
            // DataFusion's names do not tell a cast from what is cast.
            _ if cast_column(expr).is_some() => written_name(expr, &tables, style),
            _ if style == Names::ForFiles => Some(name),
            // Two of one name keep those that DataFusion gives them, which tell them apart.
            _ => None,
        };
        if let Some(name) = name {
            let name = if style == Names::ForFiles { unlike(name, &taken) } else { name };
            taken.push(name.clone());
            let alias = Ident::with_quote('"', name);
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        }
    }
}

/// `name`, with a number behind it if it is taken: columns that come later change nothing about those before them.
fn unlike(name: String, taken: &[String]) -> String {
    let numbered = || (2..).map(|number| format!("{name}_{number}")).find(|other| !taken.contains(other));
    match taken.contains(&name) {
        true => numbered().unwrap_or_default(),
        false => name,
    }
}

fn table_name(table: &TableFactor) -> Option<String> {
    let alias = match table {
        TableFactor::Table { alias, .. }
        | TableFactor::Derived { alias, .. }
        | TableFactor::TableFunction { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::UNNEST { alias, .. }
        | TableFactor::NestedJoin { alias, .. } => alias,
        _ => &None,
    };
    match (alias, table) {
        (Some(alias), _) => Some(alias.name.value.to_lowercase()),
        (None, TableFactor::Table { name, .. }) => {
            let last = name.0.last()?.as_ident()?;
            Some(last.value.to_lowercase())
        }
        _ => None,
    }
}

/// The name of an item that is a column or has an alias.
fn given_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => Some(folded(name)),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(names)) => names.last().map(folded),
        _ => None,
    }
}

/// The name to give to an item; `None` if it has one.
fn name_of_item(item: &SelectItem, tables: &[String], style: Names) -> Option<String> {
    let SelectItem::UnnamedExpr(expr) = item else { return None };
    if let Some(field) = field_name(expr, tables) {
        return Some(field);
    }
    if !is_computed(expr) {
        return cast_column(expr);
    }
    written_name(expr, tables, style)
}

/// `expr` as it is written, but for the names of tables.
fn written_name(expr: &Expr, tables: &[String], style: Names) -> Option<String> {
    let mut plain = expr.clone();
    let _ = plain.visit(&mut WithoutTables { tables });
    let text = plain.to_string();
    match style {
        Names::AsWritten => Some(text),
        Names::ForFiles => plain_name(&text),
    }
}

/// The field that `expr` reads from a struct: its name is that of the column.
fn field_name(expr: &Expr, tables: &[String]) -> Option<String> {
    match expr {
        Expr::CompoundIdentifier(names) => {
            let [first, .., last] = names.as_slice() else { return None };
            let is_field = !tables.contains(&first.value.to_lowercase()) && !tables.is_empty();
            // Written as the field is, most likely: it is found in any case.
            is_field.then(|| last.value.clone())
        }
        Expr::CompoundFieldAccess { access_chain, .. } => match access_chain.last()? {
            AccessExpr::Dot(Expr::Identifier(name)) => Some(name.value.clone()),
            AccessExpr::Subscript(Subscript::Index { index: Expr::Value(value) }) => match &value.value {
                Value::SingleQuotedString(name) => Some(name.clone()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// The column that `expr` casts: DataFusion names the result after it and its table.
fn cast_column(expr: &Expr) -> Option<String> {
    let (Expr::Cast { expr: inner, .. } | Expr::Nested(inner)) = expr else { return None };
    match inner.as_ref() {
        Expr::Identifier(name) => Some(folded(name)),
        Expr::CompoundIdentifier(names) => names.last().map(folded),
        inner => cast_column(inner),
    }
}

/// Whether DataFusion would make up a name. Casts have the name of what is cast.
fn is_computed(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Wildcard(_) => false,
        Expr::QualifiedWildcard(_, _) => false,
        // Rows and columns are made of it; it is no column itself.
        Expr::Function(call) => !call.name.to_string().eq_ignore_ascii_case("unnest"),
        Expr::Cast { expr, .. } | Expr::Nested(expr) => is_computed(expr),
        _ => true,
    }
}

fn folded(name: &Ident) -> String {
    match name.quote_style {
        None => name.value.to_lowercase(),
        Some(_) => name.value.clone(),
    }
}

/// Takes the tables out of `table.column`.
struct WithoutTables<'a> {
    tables: &'a [String],
}

impl VisitorMut for WithoutTables<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let is_table = |name: &Ident| self.tables.contains(&name.value.to_lowercase());
        match expr {
            Expr::CompoundIdentifier(names) if is_table(&names[0]) => {
                names.remove(0);
                if let [column] = names.as_slice() {
                    *expr = Expr::Identifier(column.clone());
                }
            }
            Expr::CompoundFieldAccess { root, access_chain } => {
                if let Expr::Identifier(name) = root.as_ref()
                    && is_table(name)
                    && let Some(AccessExpr::Dot(column)) = access_chain.first()
                {
                    **root = column.clone();
                    access_chain.remove(0);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// `text` as a name of letters, digits and `_` that every reader of files takes.
fn plain_name(text: &str) -> Option<String> {
    let mut name = String::new();
    for letter in text.chars().flat_map(char::to_lowercase) {
        match letter {
            letter if letter.is_alphanumeric() => name.push(letter),
            _ if !name.is_empty() && !name.ends_with('_') => name.push('_'),
            _ => {}
        }
    }
    let name = name.trim_end_matches('_');
    let starts_badly = name.starts_with(|first: char| first.is_numeric());
    match name {
        "" => None,
        name if starts_badly => Some(format!("_{name}")),
        name => Some(name.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_for_files_differ_and_do_not_depend_on_what_comes_behind_them() {
        let names = |columns: &str| {
            let sql = format!("COPY (SELECT {columns} FROM t) TO 'x.json'");
            let mut statements = datafusion::sql::parser::DFParser::parse_sql(&sql).unwrap();
            let mut statement = statements.pop_front().unwrap();
            name_results(&mut statement, Names::ForFiles);
            let DataFusionStatement::CopyTo(copy) = statement else { panic!() };
            let CopyToSource::Query(query) = copy.source else { panic!() };
            let SetExpr::Select(select) = *query.body else { panic!() };
            let name = |item: &SelectItem| match item {
                SelectItem::ExprWithAlias { alias, .. } => alias.value.clone(),
                item => item.to_string(),
            };
            select.projection.iter().map(name).collect::<Vec<_>>().join(" ")
        };
        for (columns, expected) in [
            ("p + 1", "p_1"),
            ("p + 1, p - 1, p * 2, p / 2", "p_1 p_1_2 p_2 p_2_2"),
            ("p + 1, p AS p_1, p - 1", "p_1_2 p_1 p_1_3"),
            ("p + 1, p + 1 + 2, p - 1", "p_1 p_1_2 p_1_3"),
            ("-p, p", "p_2 p"),
            ("p, CAST(p AS INT)", "p cast_p_as_int"),
            ("max(p), max(q)", "max_p max_q"),
        ] {
            assert_eq!(names(columns), expected, "{columns}");
        }
    }

    #[test]
    fn names_for_files_are_words() {
        for (text, name) in [
            ("max(price)", Some("max_price")),
            ("count(*)", Some("count")),
            ("count(DISTINCT bidder)", Some("count_distinct_bidder")),
            ("price * 1.19", Some("price_1_19")),
            ("1", Some("_1")),
            ("'-'", None),
        ] {
            assert_eq!(plain_name(text).as_deref(), name, "{text}");
        }
    }
}
