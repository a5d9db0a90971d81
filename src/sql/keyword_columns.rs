//! Columns that are called as SQL calls a value: `i.user`, `t.current_date`, `u.session_user`.
//!
//! To the parser such a word is a call without parentheses wherever it stands. Behind the name of a table or of a struct
//! it can only be a column.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr, Function, FunctionArguments, Ident, ObjectNamePart, VisitorMut,
};

/// Takes such words for the columns that they name.
pub(super) struct KeywordColumns;

impl VisitorMut for KeywordColumns {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(call) if call.name.0.len() > 1 => {
                if let Some(names) = words(call) {
                    *expr = Expr::CompoundIdentifier(names);
                }
            }
            Expr::CompoundFieldAccess { root, access_chain } => {
                let fields = access_chain.iter_mut().filter_map(|access| match access {
                    AccessExpr::Dot(field) => Some(field),
                    AccessExpr::Subscript(_) => None,
                });
                let mut all_names = fields.fold(column(root), |names, field| column(field) && names);
                all_names &= access_chain.iter().all(|access| matches!(access, AccessExpr::Dot(_)));
                if all_names {
                    *expr = Expr::CompoundIdentifier(identifiers(root, access_chain));
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Makes `expr` the name of a column if it is a call without parentheses; gives whether it is a name then.
fn column(expr: &mut Expr) -> bool {
    if let Expr::Function(call) = &*expr
        && let Some(names) = words(call)
        && let [name] = names.as_slice()
    {
        *expr = Expr::Identifier(name.clone());
    }
    matches!(expr, Expr::Identifier(_))
}

fn identifiers(root: &Expr, fields: &[AccessExpr]) -> Vec<Ident> {
    let fields = fields.iter().filter_map(|access| match access {
        AccessExpr::Dot(field) => Some(field),
        AccessExpr::Subscript(_) => None,
    });
    let name = |expr: &Expr| match expr {
        Expr::Identifier(name) => Some(name.clone()),
        _ => None,
    };
    std::iter::once(root).chain(fields).filter_map(name).collect()
}

/// The words of a call that has no parentheses.
fn words(call: &Function) -> Option<Vec<Ident>> {
    let is_bare = matches!(call.args, FunctionArguments::None)
        && matches!(call.parameters, FunctionArguments::None)
        && call.over.is_none()
        && call.filter.is_none()
        && call.within_group.is_empty();
    let names = call.name.0.iter().map(ObjectNamePart::as_ident);
    if is_bare { names.map(Option::<&Ident>::cloned).collect() } else { None }
}
