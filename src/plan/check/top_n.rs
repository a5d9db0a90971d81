//! The first rows of each key.

use datafusion::logical_expr::Expr;

use super::{Flow, check_columns, refuse, refuse_sort};
use crate::error::Result;
use crate::plan::event_time::event_time_key;
use crate::plan::top_n::TopN;
use crate::sink::OutputMode;

/// How the first rows of each key come.
pub(super) fn check(first: &TopN, input: Flow, mode: OutputMode) -> Result<Flow> {
    let is_unfinished = input == Flow::Update || (input == Flow::Append && mode == OutputMode::Append);
    if first.keys.is_empty() && is_unfinished {
        return refuse_sort();
    }
    match input {
        Flow::Bounded | Flow::Whole => return Ok(input),
        Flow::Update => {
            return refuse(
                "ranks over an aggregation, in output mode update",
                "a row that was ranked may change, and would have to be taken out again",
                "Use output mode complete, or append with a watermark",
            );
        }
        Flow::Append => {}
    }
    let order = first.order.iter().map(|order| order.column.clone());
    let columns = first.keys.iter().cloned().chain(order).collect();
    check_columns(first.input.schema(), columns, "PARTITION BY or ORDER BY")?;
    let schema = first.input.schema();
    let is_final = |key| event_time_key(&Expr::Column(key), schema).is_some();
    match mode {
        OutputMode::Complete => Ok(Flow::Whole),
        OutputMode::Update => Ok(Flow::Update),
        OutputMode::Append if first.keys.iter().cloned().any(is_final) => Ok(Flow::Append),
        OutputMode::Append => refuse(
            "the first ranks of an unbounded table, in output mode append",
            "no rank is ever final: no key of PARTITION BY or DISTINCT ON follows from the event time of a watermark, \
             so that a row that comes later may belong before one that was given",
            "Use output mode update or complete; or define a watermark, and have window(…), date_bin(…) or the event \
             time itself among the keys",
        ),
    }
}
