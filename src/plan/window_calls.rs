//! Looking for windows in expressions.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions::core::expr_fn;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};

use super::event_time::finality_of;
use crate::error::Error;
use crate::functions::{Finality, WindowCall, window_time};

/// The different calls of `window()` in `exprs`.
pub(super) fn calls_in(exprs: &[Expr]) -> DataFusionResult<Vec<WindowCall>> {
    let mut calls = Vec::new();
    for expr in exprs {
        expr.apply(|expr| {
            if let Some(call) = WindowCall::of(expr)?
                && !calls.contains(&call)
            {
                calls.push(call);
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(calls)
}

/// The time of a call over rows of `schema`, as a timestamp.
pub(super) fn event_time_of(call: &WindowCall, schema: &DFSchema) -> DataFusionResult<Expr> {
    let time = call.time.clone();
    match time.get_type(schema)? {
        DataType::Timestamp(_, _) => Ok(time),
        DataType::Struct(_) => Ok(window_time(time)),
        _ => time.cast_to(&DataType::Timestamp(TimeUnit::Microsecond, None), schema),
    }
}

/// The size of the windows in column `key`, if it holds windows of one size.
pub(super) fn window_size(key: &Expr, schema: &DFSchema) -> Option<i64> {
    match (key, finality_of(key, schema)?) {
        (Expr::Column(_), Finality::Window { size }) => size,
        _ => None,
    }
}

/// A field of a struct.
pub(super) fn get_field(base: Expr, name: &str) -> Expr {
    expr_fn::get_field(base, name)
}

/// `name`, or with a number behind it, so that it differs from those in `taken`; it is added to them.
pub(super) fn unused_name(name: &str, taken: &mut Vec<String>) -> String {
    let numbered = (2..).map(|number: u64| format!("{name}_{number}"));
    let unused = std::iter::once(name.to_string())
        .chain(numbered)
        .find(|candidate| taken.iter().all(|name| name.rsplit('.').next() != Some(candidate)))
        .unwrap_or_else(|| name.to_string());
    taken.push(unused.clone());
    unused
}

/// The clause of SQL that `node` comes from.
pub(super) fn in_use(node: &LogicalPlan) -> &'static str {
    match node {
        LogicalPlan::Filter(_) => "WHERE or HAVING",
        LogicalPlan::Join(_) => "the condition of a join",
        LogicalPlan::Sort(_) => "ORDER BY",
        LogicalPlan::Window(_) => "a window function (OVER)",
        LogicalPlan::Distinct(_) => "DISTINCT ON",
        _ => "this place",
    }
}

/// The error of a query that asks for what windows cannot give.
pub(super) fn refuse<T>(message: String) -> DataFusionResult<T> {
    Err(Error::Invalid(message).into())
}
