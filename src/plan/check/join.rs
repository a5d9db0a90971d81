//! Joins.

use datafusion::common::JoinType;
use datafusion::logical_expr::Join;

use super::{Flow, refuse};
use crate::error::Result;

/// A stream may be joined with a table if no result depends on which stream rows come later.
pub(super) fn check(join: &Join, left: Flow, right: Flow) -> Result<Flow> {
    let whole = |flow| matches!(flow, Flow::Whole | Flow::Bounded);
    if whole(left) && whole(right) {
        return Ok(Flow::Whole);
    }
    if left != Flow::Bounded && right != Flow::Bounded {
        return refuse(
            "a join of two unbounded tables",
            "the rows of both sides would have to be remembered across batches",
            "Write one side with a streaming query of its own and join the files it writes as a bounded table; or \
             aggregate both and use output mode complete",
        );
    }
    let left_is_stream = left != Flow::Bounded;
    let preserved_side_is_stream = match join.join_type {
        JoinType::Inner => true,
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left_is_stream,
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => !left_is_stream,
        JoinType::Full => false,
    };
    if preserved_side_is_stream {
        return Ok(if left_is_stream { left } else { right });
    }
    refuse(
        &format!("a {} join that keeps rows of the bounded table", join.join_type),
        "whether such a row has no match is known only when the stream has ended",
        "Put the unbounded table on the side whose rows are kept, or use an inner join",
    )
}
