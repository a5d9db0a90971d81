//! What is written otherwise here than PostgreSQL's clients write it.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::Visit;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, ObjectName, Query, Select, SelectItem, SetExpr, Statement, TableFactor, Value,
    VisitMut, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use tidemill::sql::{with_doubles, with_names};

/// Relations of the catalog that hold nothing about tables that are here: their columns have no defaults, no sequences
/// and no collations.
const EMPTY: [&str; 3] = ["pg_attrdef", "pg_sequence", "pg_collation"];

/// `statement` as it is planned; `None` if that is as it is. Columns have the names that the shell shows.
pub(super) fn as_planned(statement: &Statement) -> Option<Statement> {
    let DataFusionStatement::Statement(named) =
        with_names(DataFusionStatement::Statement(Box::new(statement.clone())))
    else {
        return None;
    };
    rewritten(&named).or_else(|| (*named != *statement).then_some(*named))
}

/// `statement` as it is understood here; `None` if that is as it is.
///
/// Literals with an exponent are doubles. DataFusion takes a subquery that gives a value for one that may give several,
/// unless it aggregates: those that SQLAlchemy asks about the columns of a table are null, or are of one row of the
/// catalog.
fn rewritten(statement: &Statement) -> Option<Statement> {
    let mut changed = statement.clone();
    let _ = VisitMut::visit(&mut changed, &mut CatalogValues);
    let changed = match with_doubles(DataFusionStatement::Statement(Box::new(changed))) {
        DataFusionStatement::Statement(changed) => *changed,
        _ => return None,
    };
    (changed != *statement).then_some(changed)
}

struct CatalogValues;

impl VisitorMut for CatalogValues {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Subquery(query) = expr
            && let Some((relation, select)) = of_catalog(query)
        {
            match relation.as_str() {
                "pg_type" => aggregate(select),
                _ if EMPTY.contains(&relation.as_str()) => *expr = null_for(query),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}

/// The relation of the catalog that `query` reads first, and its SELECT.
fn of_catalog(query: &mut Query) -> Option<(String, &mut Select)> {
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let TableFactor::Table { name, .. } = &select.from.first()?.relation else { return None };
    let relation = last(name)?;
    Some((relation, select))
}

fn last(name: &ObjectName) -> Option<String> {
    Some(name.0.last()?.as_ident()?.value.to_lowercase())
}

/// The value of a row as that of a group of one row.
fn aggregate(select: &mut Select) {
    if let [SelectItem::UnnamedExpr(value) | SelectItem::ExprWithAlias { expr: value, .. }] =
        select.projection.as_mut_slice()
        && matches!(value, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
        && let Some(max) = expression(&format!("max({value})"))
    {
        *value = max;
    }
}

/// Null, for what clients ask with the parameters that are in `query`: they will be given values for all of them.
fn null_for(query: &Query) -> Expr {
    let mut parameters = Parameters(Vec::new());
    let _ = Visit::visit(query, &mut parameters);
    let null = Expr::Value(Value::Null.into());
    let mut known = parameters.0.into_iter().map(|parameter| Expr::IsNotNull(Box::new(parameter)));
    let Some(first) = known.next() else { return null };
    let all = known.fold(first, |all, next| Expr::BinaryOp {
        left: Box::new(all),
        op: BinaryOperator::And,
        right: Box::new(next),
    });
    expression(&format!("CASE WHEN {all} THEN CAST(NULL AS VARCHAR) END")).unwrap_or(null)
}

/// Parameters, as what they are cast to.
struct Parameters(Vec<Expr>);

impl Visitor for Parameters {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Cast { expr: inner, .. } = expr
            && matches!(inner.as_ref(), Expr::Value(value) if matches!(value.value, Value::Placeholder(_)))
        {
            self.0.push(expr.clone());
        }
        ControlFlow::Continue(())
    }
}

fn expression(text: &str) -> Option<Expr> {
    Parser::new(&PostgreSqlDialect {}).try_with_sql(text).ok()?.parse_expr().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_catalog_are_planned() {
        let parse = |text: &str| Parser::parse_sql(&PostgreSqlDialect {}, text).unwrap().remove(0);
        for (text, expected) in [
            ("SELECT 1", None),
            ("SELECT 1e300", Some("SELECT CAST('1e300' AS DOUBLE)")),
            (
                "SELECT (SELECT adbin FROM pg_catalog.pg_attrdef WHERE adnum = n) FROM t",
                Some("SELECT NULL FROM t"),
            ),
            (
                "SELECT (SELECT f($1::VARCHAR, $2::INT, seqmin) FROM pg_sequence) FROM t",
                Some(
                    "SELECT CASE WHEN $1::VARCHAR IS NOT NULL AND $2::INT IS NOT NULL THEN CAST(NULL AS VARCHAR) END FROM t",
                ),
            ),
            (
                "SELECT (SELECT typcollation FROM pg_type WHERE oid = n) FROM t",
                Some("SELECT (SELECT max(typcollation) FROM pg_type WHERE oid = n) FROM t"),
            ),
            ("SELECT (SELECT a FROM pg_class) FROM t", None),
        ] {
            let found = rewritten(&parse(text)).map(|statement| statement.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
