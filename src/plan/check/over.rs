//! Window functions.

use datafusion::logical_expr::{Expr, Window};

use super::aggregate::check_types;
use super::{Flow, refuse};
use crate::error::Result;
use crate::plan::over::Over;
use crate::sink::OutputMode;

/// How rows come with the values of window functions: each once, when they are final.
pub(super) fn check(window: &Window, input: Flow, mode: OutputMode) -> Result<Flow> {
    if input != Flow::Append {
        return refuse(
            "a window function (OVER) over an aggregation, in output mode update",
            "a row of the aggregation may change, and the values of the rows around it with it",
            "Use output mode complete, or append with a watermark",
        );
    }
    let over = Over::of(window)?;
    if mode == OutputMode::Complete {
        return refuse(
            "a window function (OVER) over an unbounded table, in output mode complete",
            "the query has no aggregation, so its whole result would have to be kept and written again with every \
             batch",
            "Use output mode append",
        );
    }
    let order = over.order.iter().map(|order| &order.expr);
    let clause = |key: &Expr| format!("PARTITION BY or ORDER BY {key}");
    check_types(over.keys.iter().chain(order), window.input.schema(), clause)?;
    Ok(Flow::Append)
}
