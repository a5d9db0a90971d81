//! Which plans can run incrementally. A plan that cannot is refused before the query starts, with
//! the operator, the reason and the way out.

use datafusion::common::JoinType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Join, LogicalPlan};

use super::stream_table::{is_unbounded, stream_table_of};
use crate::error::{Error, Result};
use crate::sink::OutputMode;

/// Fails if `plan` cannot run as a streaming query in `mode`.
///
/// The rules are Spark's `UnsupportedOperationChecker` for queries without state: every row of the
/// result must follow from one row of one unbounded table, and from bounded tables.
pub(crate) fn check(plan: &LogicalPlan, mode: OutputMode) -> Result<()> {
    if !is_unbounded(plan) {
        return Err(Error::UnsupportedQuery {
            operator: "a query without an unbounded table".into(),
            reason: "there is nothing to wait for".into(),
            advice: "Run it as a batch query, or read a table from read_stream() or CREATE UNBOUNDED \
                     EXTERNAL TABLE"
                .into(),
        });
    }
    plan.apply(|node| {
        check_node(node)?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    check_subqueries(plan)?;
    if mode == OutputMode::Complete {
        return Err(Error::UnsupportedQuery {
            operator: "output mode complete".into(),
            reason: "the query has no aggregation, so its whole result would have to be kept and written \
                     again with every batch"
                .into(),
            advice: "Use output mode append".into(),
        });
    }
    Ok(())
}

/// One node, whose inputs are checked on their own.
fn check_node(node: &LogicalPlan) -> Result<()> {
    let streaming = node.inputs().iter().any(|input| is_unbounded(input));
    if !streaming {
        return Ok(());
    }
    match node {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Subquery(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::TableScan(_) => Ok(()),
        LogicalPlan::Union(union) => {
            if union.inputs.iter().all(|input| is_unbounded(input)) {
                Ok(())
            } else {
                refuse(
                    "UNION of an unbounded and a bounded table",
                    "the bounded rows would have to be given in exactly one batch",
                    "Write the bounded rows with a batch query, and the stream with a streaming query",
                )
            }
        }
        LogicalPlan::Join(join) => check_join(join),
        LogicalPlan::Aggregate(_) => refuse(
            "an aggregation over an unbounded table",
            "every group would have to be remembered across batches",
            "Write the rows with an append query and aggregate the files it writes with a batch query",
        ),
        LogicalPlan::Distinct(_) => refuse(
            "DISTINCT over an unbounded table",
            "every row would have to be remembered across batches",
            "Write the rows with an append query and remove duplicates when reading the result",
        ),
        LogicalPlan::Window(_) => refuse(
            "a window function (OVER) over an unbounded table",
            "its result for a row would change with rows that come later",
            "Write the rows with an append query and apply the window function to the result",
        ),
        LogicalPlan::Sort(_) => refuse(
            "ORDER BY over an unbounded table",
            "a row that comes later may belong before rows already written",
            "Leave ORDER BY out, and sort when reading the result",
        ),
        LogicalPlan::Limit(_) => refuse(
            "LIMIT or OFFSET over an unbounded table",
            "the rows already given would have to be counted across batches",
            "Leave it out, and limit when reading the result; to take fewer rows per batch, set \
             maxFilesPerTrigger",
        ),
        LogicalPlan::RecursiveQuery(_) => refuse(
            "a recursive query over an unbounded table",
            "it would have to be run over all rows again with every batch",
            "Keep the recursion to bounded tables",
        ),
        LogicalPlan::Extension(extension) => refuse(
            &format!("the operator {} over an unbounded table", extension.node.name()),
            "it is not known to work batch by batch",
            "Leave it out, or apply it to the result",
        ),
        other => refuse(
            &format!("{} over an unbounded table", statement_name(other)),
            "it is a statement of its own, not a query",
            "Give write_stream() a SELECT",
        ),
    }
}

/// A stream may be joined with a table if no result depends on which stream rows come later.
fn check_join(join: &Join) -> Result<()> {
    let (left, right) = (is_unbounded(&join.left), is_unbounded(&join.right));
    if left && right {
        return refuse(
            "a join of two unbounded tables",
            "the rows of both sides would have to be remembered across batches",
            "Write one side with a streaming query of its own and join the files it writes as a bounded table",
        );
    }
    let preserved_side_is_stream = match join.join_type {
        JoinType::Inner => true,
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left,
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right,
        JoinType::Full => false,
    };
    if preserved_side_is_stream {
        return Ok(());
    }
    refuse(
        &format!("a {} join that keeps rows of the bounded table", join.join_type),
        "whether such a row has no match is known only when the stream has ended",
        "Put the unbounded table on the side whose rows are kept, or use an inner join",
    )
}

/// No subquery expression may read an unbounded table.
fn check_subqueries(plan: &LogicalPlan) -> Result<()> {
    plan.apply(|node| {
        node.apply_subqueries(|subquery| {
            if is_unbounded(subquery) {
                refuse(
                    "a subquery expression over an unbounded table",
                    "its value would change with every batch",
                    "Keep EXISTS, IN and scalar subqueries to bounded tables",
                )?;
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(())
}

fn statement_name(plan: &LogicalPlan) -> &'static str {
    match plan {
        LogicalPlan::Dml(_) => "INSERT, UPDATE or DELETE",
        LogicalPlan::Ddl(_) => "a CREATE or DROP statement",
        LogicalPlan::Copy(_) => "COPY",
        LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) => "EXPLAIN",
        _ => "this statement",
    }
}

fn refuse(operator: &str, reason: &str, advice: &str) -> Result<()> {
    Err(Error::UnsupportedQuery { operator: operator.into(), reason: reason.into(), advice: advice.into() })
}

/// Whether `plan` reads bounded tables, in subqueries too. They can change between
/// batches, which is why a plan over them is not planned physically once and for all.
pub(crate) fn reads_bounded_tables(plan: &LogicalPlan) -> bool {
    let mut found = false;
    // The closure never fails, so neither does the walk.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && stream_table_of(scan).is_none()
        {
            found = true;
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}
