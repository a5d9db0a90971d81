//! `FROM t` without `SELECT`, which is all of its columns, as in DuckDB.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Query, SelectFlavor, SelectItem, SetExpr, VisitorMut, WildcardAdditionalOptions,
};

/// Gives each `FROM t` that it visits its `SELECT *`.
pub(super) struct SelectAll;

impl VisitorMut for SelectAll {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let mut bodies = vec![query.body.as_mut()];
        while let Some(body) = bodies.pop() {
            match body {
                SetExpr::Select(select) if select.flavor == SelectFlavor::FromFirstNoSelect => {
                    select.flavor = SelectFlavor::Standard;
                    select.projection = vec![SelectItem::Wildcard(WildcardAdditionalOptions::default())];
                }
                // Queries inside of it are visited by themselves.
                SetExpr::SetOperation { left, right, .. } => bodies.extend([left.as_mut(), right.as_mut()]),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}
