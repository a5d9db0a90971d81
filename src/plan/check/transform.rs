//! Processors of the program's own.

use datafusion::logical_expr::LogicalPlan;

use super::{Flow, refuse, refuse_node};
use crate::error::Result;
use crate::plan::transform::Transform;
use crate::sink::OutputMode;

/// How the rows of a processor come.
pub(super) fn check(plan: &LogicalPlan, inputs: &[Flow], mode: OutputMode) -> Result<Flow> {
    let (Some(transform), [input, ..]) = (Transform::of(plan), inputs) else { return refuse_node(plan) };
    if *input != Flow::Append {
        return refuse(
            "a processor with state over an aggregation whose rows may change",
            "a row that it was given may change, and it would not know of which it was",
            "Use output mode append, with a watermark; or aggregate in the processor",
        );
    }
    match (transform.output_mode, mode) {
        (OutputMode::Update, OutputMode::Append) => refuse(
            "a processor with OutputMode::Update, in output mode append",
            "its rows take the place of those with the same key, and rows of an append query are never replaced",
            "Use output mode update; or give it OutputMode::Append if every row is a new one",
        ),
        (OutputMode::Update, _) => Ok(Flow::Update),
        _ => Ok(Flow::Append),
    }
}
