//! `INTERSECT ALL` and `EXCEPT ALL`, which count copies.
//!
//! DataFusion makes a join of them that keeps or drops all copies of a row (apache/datafusion,
//! `expr/src/logical_plan/builder.rs`, `intersect_or_except`). Here the copies are numbered on both sides, and
//! the number is one more column to join by: of a row that is there m times on the left and n times on the
//! right, the lesser of both is kept, or what m has more.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::common::{Column, DFSchema, JoinType, NullEquality};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::{Expr, ExprFunctionExt, Join, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::AnalyzerRule;

/// Has copies counted. Comes before the optimiser, which makes joins of other queries that look the same.
#[derive(Debug)]
pub(crate) struct SetOperations;

impl AnalyzerRule for SetOperations {
    fn name(&self) -> &str {
        "tidemill_set_operations"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Join(join) if counts_copies(&join) => count_copies(join).map(Transformed::yes),
            node => Ok(Transformed::no(node)),
        })
        .data()
    }
}

/// Whether `join` stands for `INTERSECT ALL` or `EXCEPT ALL`: it compares all columns, with null equal to
/// null, and the rows on its left are not distinct.
pub(super) fn counts_copies(join: &Join) -> bool {
    let is_column = |expr: &Expr, schema: &DFSchema, index: usize| matches!(expr, Expr::Column(column) if *column == Column::from(schema.qualified_field(index)));
    let (left, right) = (join.left.schema(), join.right.schema());
    let width = left.fields().len();
    let mut keys = join.on.iter().enumerate();
    matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.null_equality == NullEquality::NullEqualsNull
        && join.filter.is_none()
        && !is_distinct(&join.left)
        && (width, width) == (right.fields().len(), join.on.len())
        && keys.all(|(index, (a, b))| is_column(a, left, index) && is_column(b, right, index))
}

/// Whether there are no copies in `plan`.
fn is_distinct(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Distinct(_) | LogicalPlan::Extension(_) => true,
        LogicalPlan::Aggregate(aggregate) => aggregate.aggr_expr.is_empty(),
        LogicalPlan::SubqueryAlias(alias) => is_distinct(&alias.input),
        _ => false,
    }
}

fn count_copies(join: Join) -> DataFusionResult<LogicalPlan> {
    let columns = |plan: &LogicalPlan| -> Vec<Column> { plan.schema().columns() };
    let (left, right) = (columns(&join.left), columns(&join.right));
    let key = |columns: &[Column], copy: &str| -> Vec<Column> {
        columns.iter().cloned().chain([Column::new_unqualified(copy)]).collect()
    };
    let keys = (key(&left, LEFT_COPY), key(&right, RIGHT_COPY));
    let counted_left = numbered(&join.left, &left, LEFT_COPY)?;
    let counted_right = numbered(&join.right, &right, RIGHT_COPY)?;
    LogicalPlanBuilder::from(counted_left)
        .join_detailed(counted_right, join.join_type, keys, None, NullEquality::NullEqualsNull)?
        .project(left.into_iter().map(Expr::Column))?
        .build()
}

const LEFT_COPY: &str = "__left_copy";
const RIGHT_COPY: &str = "__right_copy";

/// `plan` with one more column, `name`: the how many-th copy a row is.
fn numbered(plan: &Arc<LogicalPlan>, columns: &[Column], name: &str) -> DataFusionResult<LogicalPlan> {
    let exprs = || columns.iter().cloned().map(Expr::Column);
    let number = row_number().partition_by(exprs().collect()).build()?;
    let copy = Expr::Column(Column::new_unqualified(number.schema_name().to_string())).alias(name);
    LogicalPlanBuilder::from(Arc::clone(plan)).window([number])?.project(exprs().chain([copy]))?.build()
}
