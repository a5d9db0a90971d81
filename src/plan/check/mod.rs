//! Which plans can run incrementally. A plan that cannot is refused before the query starts, with
//! the operator, the reason and the way out.
//!
//! What an operator may be over depends on how its input's rows come, which is followed from the
//! leaves up ([`Flow`]).

mod aggregate;
mod join;
mod over;
mod subqueries;
#[cfg(test)]
mod tests;
mod top_n;
mod transform;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, Union};

use super::deduplicate::Deduplicate;
use super::observe::{self, Observe};
use super::scalar_subqueries::with_scalar_joins;
use super::sessions::groups_by_session;
use super::stream_table::{is_unbounded, stream_table_of};
use super::top_n::{TopN, is_first_of_all};
use super::transform::Transform;
use super::watermark::Watermark;
use super::windows::expand_windows;
use crate::error::{Error, Result};
use crate::sink::OutputMode;

/// How the rows of a part of a plan come, batch by batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// There is no unbounded table below.
    Bounded,
    /// New rows, each once and for good.
    Append,
    /// New values of rows that may have been given before.
    Update,
    /// All rows with every batch.
    Whole,
}

/// Fails if `plan` cannot run as a streaming query in `mode`.
///
/// The rules are those of Spark's `UnsupportedOperationChecker`, less what Spark refuses and this
/// engine can do (`docs/spark-differences.md`).
pub(crate) fn check(plan: &LogicalPlan, mode: OutputMode) -> Result<()> {
    if !is_unbounded(plan) {
        return refuse(
            "a query without an unbounded table",
            "there is nothing to wait for",
            "Run it as a batch query, or read a table from read_stream() or CREATE UNBOUNDED EXTERNAL TABLE",
        );
    }
    check_functions(plan)?;
    observe::check(plan)?;
    let joined = with_scalar_joins(plan.clone())?;
    subqueries::check(&joined.data)?;
    let plan = expand_windows(joined.data)?;
    let flow = match flow(&plan, mode) {
        Err(error) if joined.transformed => return Err(subqueries::not_as_a_join(error, mode)),
        flow => flow?,
    };
    match (flow, mode) {
        (Flow::Whole, _) | (_, OutputMode::Append | OutputMode::Update) => Ok(()),
        (_, OutputMode::Complete) => refuse(
            "output mode complete",
            "the query has no aggregation, so its whole result would have to be kept and written again with \
             every batch",
            "Use output mode append",
        ),
    }
}

/// How the rows of `plan` come in `mode`, or why it cannot run.
fn flow(plan: &LogicalPlan, mode: OutputMode) -> Result<Flow> {
    let inputs = plan.inputs().into_iter().map(|input| flow(input, mode)).collect::<Result<Vec<_>>>()?;
    let is_there = |input: &Flow| matches!(input, Flow::Bounded | Flow::Whole);
    if groups_by_session(plan) && inputs.iter().all(is_there) {
        return refuse(
            "a group by session_window over rows that are there as a whole (a bounded table, or the result of an \
             aggregation, DISTINCT or ranks in output mode complete)",
            "sessions are merged where the rows of a stream arrive",
            "Group the stream itself by session_window, or use output mode append",
        );
    }
    if !inputs.is_empty() && inputs.iter().all(|input| *input == Flow::Bounded) {
        subqueries::check_bounded(plan)?;
        return Ok(Flow::Bounded);
    }
    match (plan, inputs.as_slice()) {
        (LogicalPlan::TableScan(scan), _) => {
            Ok(if stream_table_of(scan).is_some() { Flow::Append } else { Flow::Bounded })
        }
        (_, []) => Ok(Flow::Bounded),
        (
            LogicalPlan::Projection(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Subquery(_)
            | LogicalPlan::Repartition(_)
            | LogicalPlan::Unnest(_),
            [input],
        ) => Ok(*input),
        (LogicalPlan::Filter(filter), [input]) => subqueries::check_filter(filter, *input, mode),
        (LogicalPlan::Union(union), inputs) => check_union(union, inputs),
        (LogicalPlan::Join(join), [left, right]) => join::check(join, *left, *right),
        // In complete mode, what is above an aggregation is batch work over its whole result.
        (
            LogicalPlan::Aggregate(_)
            | LogicalPlan::Distinct(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::Window(_),
            [Flow::Whole],
        ) => Ok(Flow::Whole),
        (LogicalPlan::Aggregate(aggregate), [input]) => aggregate::check(aggregate, *input, mode),
        (LogicalPlan::Distinct(Distinct::All(rows)), [input]) => {
            check_columns(rows.schema(), rows.schema().columns(), "DISTINCT")?;
            distinct(*input, mode)
        }
        (LogicalPlan::Limit(_), [input]) => check_limit(*input),
        (LogicalPlan::Extension(_), inputs) if Transform::of(plan).is_some() => {
            transform::check(plan, inputs, mode)
        }
        // Of the rows that a batch gives.
        (LogicalPlan::Sort(sort), [Flow::Update]) if is_first_of_all(&sort.input) => Ok(Flow::Update),
        (LogicalPlan::Window(window), [input]) => over::check(window, *input, mode),
        (LogicalPlan::Extension(extension), [input]) => {
            let node = extension.node.as_any();
            if let Some(first) = TopN::of(plan) {
                return top_n::check(first, *input, mode);
            }
            if node.is::<Observe>() {
                return Ok(*input);
            }
            if let Some(rows) = node.downcast_ref::<Deduplicate>() {
                check_columns(rows.input().schema(), rows.columns().to_vec(), "drop_duplicates by")?;
            }
            match (node.is::<Watermark>(), node.is::<Deduplicate>(), *input) {
                (true, _, Flow::Append) | (_, true, Flow::Append) => Ok(Flow::Append),
                (true, _, _) => refuse(
                    "a watermark over an aggregation",
                    "its rows may still change",
                    "Define the watermark on the unbounded table, below the aggregation",
                ),
                (_, true, _) => refuse(
                    "drop_duplicates over an aggregation",
                    "a row that was given may change, and its key with it",
                    "Use output mode append, or SELECT DISTINCT in output mode complete",
                ),
                _ => refuse_node(plan),
            }
        }
        _ => refuse_node(plan),
    }
}

/// All of them streams, or each a whole result.
fn check_union(union: &Union, inputs: &[Flow]) -> Result<Flow> {
    let all = |allowed: &[Flow]| inputs.iter().all(|input| allowed.contains(input));
    debug_assert_eq!(union.inputs.len(), inputs.len());
    if all(&[Flow::Append]) {
        return Ok(Flow::Append);
    }
    if all(&[Flow::Append, Flow::Update]) {
        return Ok(Flow::Update);
    }
    if all(&[Flow::Whole, Flow::Bounded]) {
        return Ok(Flow::Whole);
    }
    if inputs.contains(&Flow::Whole) {
        return refuse(
            "UNION of an aggregation and a stream without one, in output mode complete",
            "the rows of the stream would have to be kept and written again with every batch",
            "Aggregate both, or write two queries",
        );
    }
    refuse(
        "UNION of an unbounded and a bounded table",
        "the bounded rows would have to be given in exactly one batch",
        "Write the bounded rows with a batch query, and the stream with a streaming query",
    )
}

/// The columns that tell rows apart are kept as bytes.
fn check_columns(schema: &DFSchema, columns: Vec<Column>, clause: &str) -> Result<()> {
    let columns: Vec<Expr> = columns.into_iter().map(Expr::Column).collect();
    aggregate::check_types(&columns, schema, |column| format!("{clause} {column}"))
}

fn distinct(input: Flow, mode: OutputMode) -> Result<Flow> {
    match (input, mode) {
        (Flow::Append, OutputMode::Complete) => Ok(Flow::Whole),
        (Flow::Append, _) => Ok(Flow::Append),
        _ => refuse(
            "DISTINCT over an aggregation, in output mode update",
            "a row that was given may change, and would have to be taken back",
            "Use output mode complete, or append with a watermark",
        ),
    }
}

fn check_limit(input: Flow) -> Result<Flow> {
    match input {
        // A row once counted stays.
        Flow::Append => Ok(Flow::Append),
        _ => refuse(
            "LIMIT or OFFSET over an aggregation, in output mode update",
            "a row that was given may change, and would still count",
            "Use output mode complete",
        ),
    }
}

fn refuse_sort() -> Result<Flow> {
    refuse(
        "ORDER BY over an unbounded table",
        "a row that comes later may belong before rows already written",
        "Leave ORDER BY out and sort when reading the result; or use output mode complete, with LIMIT or an \
         aggregation",
    )
}

/// Operators that work only on a whole result, or not at all.
fn refuse_node(plan: &LogicalPlan) -> Result<Flow> {
    match plan {
        LogicalPlan::Distinct(_) => refuse(
            "DISTINCT ON over an aggregation",
            "a row that was given may change, and another be the first",
            "Use output mode complete, or append with a watermark",
        ),
        LogicalPlan::Sort(_) => refuse_sort(),
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

/// Functions that are planned and can be evaluated nowhere.
fn check_functions(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| match expr {
                Expr::ScalarFunction(call) if call.func.name() == "input_file_name" => refuse(
                    "input_file_name()",
                    "which file a row comes from is told by a column",
                    "Set the option includeMetadata of the table to true, and select _metadata.file_path or \
                     _metadata.file_name",
                )
                .map_err(Into::into),
                _ => Ok(TreeNodeRecursion::Continue),
            })
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

fn refuse<T>(operator: &str, reason: &str, advice: &str) -> Result<T> {
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
