//! Joins.

use datafusion::common::JoinType;
use datafusion::logical_expr::Join;

use super::super::set_operations::counts_copies;
use super::{Flow, refuse};
use crate::error::Result;

/// Streams may be joined with one another if the rows of both are given for good, and a stream with a table
/// if no result depends on which stream rows come later.
pub(super) fn check(join: &Join, left: Flow, right: Flow) -> Result<Flow> {
    let whole = |flow| matches!(flow, Flow::Whole | Flow::Bounded);
    if whole(left) && whole(right) {
        return Ok(Flow::Whole);
    }
    if counts_copies(join) {
        return refuse(
            "INTERSECT ALL or EXCEPT ALL over an unbounded table",
            "how often a row is there is known only when the stream has ended",
            "Leave ALL out, or use output mode complete over an aggregation",
        );
    }
    match (left, right) {
        // Each row of the result is given once, and for good.
        (Flow::Append, Flow::Append) => Ok(Flow::Append),
        (Flow::Bounded, stream) => check_with_table(join, stream, false),
        (stream, Flow::Bounded) => check_with_table(join, stream, true),
        (Flow::Update, _) | (_, Flow::Update) => refuse(
            "a join of a stream with an aggregation, in output mode update",
            "a row of the aggregation that was joined may change, and what came of it would have to be taken back",
            "Use output mode append with a watermark, so that each row of the aggregation comes once and for good",
        ),
        _ => refuse(
            "a join of a stream with an aggregation, in output mode complete",
            "the whole result of the aggregation would have to be joined with all rows of the stream again with \
             every batch",
            "Use output mode append with a watermark; or aggregate both sides",
        ),
    }
}

fn check_with_table(join: &Join, stream: Flow, left_is_stream: bool) -> Result<Flow> {
    let preserved_side_is_stream = match join.join_type {
        JoinType::Inner => true,
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left_is_stream,
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => !left_is_stream,
        JoinType::Full => false,
    };
    if preserved_side_is_stream {
        return Ok(stream);
    }
    refuse(
        &format!("a {} join that keeps rows of the bounded table", join.join_type),
        "whether such a row has no match is known only when the stream has ended",
        "Put the unbounded table on the side whose rows are kept, or use an inner join",
    )
}
