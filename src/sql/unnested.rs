//! What the elements of a list are called in `FROM`.

use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{TableAliasColumnDef, TableFactor, VisitorMut};

use super::visit::visit_statement;

/// Has `FROM t, UNNEST(t.list) AS x` give a column `x`, as in PostgreSQL.
pub(super) fn name_elements(statement: &mut Statement) {
    let ControlFlow::Continue(()) = visit_statement(statement, &mut NameElements);
}

struct NameElements;

impl VisitorMut for NameElements {
    type Break = Infallible;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Infallible> {
        if let TableFactor::UNNEST {
            alias: Some(alias),
            array_exprs,
            with_offset: false,
            with_ordinality: false,
            ..
        } = factor
            && alias.columns.is_empty()
            && array_exprs.len() == 1
        {
            alias.columns.push(TableAliasColumnDef { name: alias.name.clone(), data_type: None });
        }
        ControlFlow::Continue(())
    }
}
