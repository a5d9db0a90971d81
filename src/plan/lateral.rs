//! `FROM t, UNNEST(t.list)`: a row for each element beside the row that has the list.
//!
//! DataFusion plans it as a join of the table with a subquery that refers to it, which it cannot run. But what the
//! subquery reads is just the one row it is for, so that it can be computed on the rows of the table instead.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, JoinType, ScalarValue, TableReference, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions_nested::expr_fn::array_length;
use datafusion::logical_expr::{
    EmptyRelation, Expr, Filter, Join, LogicalPlan, LogicalPlanBuilder, Projection, Unnest, lit, when,
};

/// `plan` without joins with the elements of lists of the other side.
pub(crate) fn with_lateral_unnest(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let replaced = plan.transform_up_with_subqueries(|node| match &node {
        LogicalPlan::Join(join)
            if matches!(join.join_type, JoinType::Inner | JoinType::Left) && join.on.is_empty() =>
        {
            let replaced = of_join(join)?;
            Ok(replaced.map_or_else(|| Transformed::no(node), Transformed::yes))
        }
        _ => Ok(Transformed::no(node)),
    })?;
    Ok(replaced.data)
}

fn of_join(join: &Join) -> DataFusionResult<Option<LogicalPlan>> {
    let Some(subquery) = subquery(&join.right) else { return Ok(None) };
    let left: Vec<Column> = join.left.schema().columns();
    let keeps_all = join.join_type == JoinType::Left;
    let is_always = |filter: &Expr| matches!(filter, Expr::Literal(ScalarValue::Boolean(Some(true)), _));
    if keeps_all && !join.filter.as_ref().is_none_or(is_always) {
        return plan_err!("LEFT JOIN UNNEST(…) is for all rows: write ON true, and WHERE behind it");
    }
    let table = Table::of(&join.left, has_one_of(subquery, &left)?)?;
    let Some(rows) = beside(subquery, &table, keeps_all)? else { return Ok(None) };
    let inner = subquery.schema().columns().into_iter();
    let right = inner.zip(join.right.schema().iter()).map(|(inner, (qualifier, field))| {
        Expr::Column(inner).alias_qualified(qualifier.cloned(), field.name())
    });
    let own = table.columns.iter().zip(left);
    let own = own
        .map(|(column, Column { relation, name, .. })| named(Expr::Column(column.clone()), relation, &name));
    let columns: Vec<Expr> = own.chain(right).collect();
    let rows = LogicalPlanBuilder::from(rows).project(columns)?;
    Some(match join.filter.clone() {
        Some(filter) => rows.filter(filter)?.build(),
        None => rows.build(),
    })
    .transpose()
}

/// What is computed for each row of another table, under whatever name, if that needs nothing else.
fn subquery(plan: &LogicalPlan) -> Option<&LogicalPlan> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => subquery(&alias.input),
        LogicalPlan::Subquery(subquery) if !subquery.outer_ref_columns.is_empty() => Some(&subquery.subquery),
        _ => None,
    }
}

/// The rows that something is computed for.
struct Table {
    rows: LogicalPlan,
    /// Its columns as they are called in the query, and as they are called here.
    names: Vec<Column>,
    columns: Vec<Column>,
}

impl Table {
    /// `plan`, whose columns have other names if what is computed beside them `has_one_of` theirs.
    fn of(plan: &LogicalPlan, has_one_of: bool) -> DataFusionResult<Self> {
        let (rows, names) = (plan.clone(), plan.schema().columns());
        if !has_one_of {
            return Ok(Self { rows, columns: names.clone(), names });
        }
        let other = |index: usize| format!("__beside_{index}");
        let renamed = names.iter().enumerate();
        let renamed = renamed.map(|(index, column)| Expr::Column(column.clone()).alias(other(index)));
        let rows = LogicalPlan::Projection(Projection::try_new(renamed.collect(), Arc::new(rows))?);
        Ok(Self { columns: rows.schema().columns(), rows, names })
    }

    /// `expr` with columns of the row itself in place of those of another table.
    fn of_the_row(&self, expr: Expr) -> DataFusionResult<Expr> {
        let replaced = expr.transform(|expr| match expr {
            Expr::OuterReferenceColumn(_, column) => {
                let place = self.names.iter().position(|name| *name == column);
                let column = place.map_or(column, |place| self.columns[place].clone());
                Ok(Transformed::yes(Expr::Column(column)))
            }
            expr => Ok(Transformed::no(expr)),
        })?;
        Ok(replaced.data)
    }
}

/// Whether a part of `plan` has a column that is called as one of `columns`, of whatever table.
fn has_one_of(plan: &LogicalPlan, columns: &[Column]) -> DataFusionResult<bool> {
    plan.exists(|node| {
        let mut names = node.schema().fields().iter().map(|field| field.name());
        Ok(names.any(|name| columns.iter().any(|column| column.name == *name)))
    })
}

/// `plan`, which is for one row, computed for the rows of `table` and with their columns before its own.
fn beside(plan: &LogicalPlan, table: &Table, keeps_all: bool) -> DataFusionResult<Option<LogicalPlan>> {
    match plan {
        LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: true, .. }) => {
            Ok(Some(table.rows.clone()))
        }
        LogicalPlan::Projection(projection) => {
            let Some(input) = beside(&projection.input, table, keeps_all)? else { return Ok(None) };
            let names = projection.schema.iter();
            let own = projection.expr.iter().zip(names).map(|(expr, (qualifier, field))| {
                let expr = table.of_the_row(expr.clone().unalias())?;
                Ok(named(expr, qualifier.cloned(), field.name()))
            });
            let own = own.collect::<DataFusionResult<Vec<_>>>()?;
            let all = table.columns.iter().cloned().map(Expr::Column).chain(own).collect();
            Ok(Some(LogicalPlan::Projection(Projection::try_new(all, Arc::new(input))?)))
        }
        // It would leave rows out that are to be kept.
        LogicalPlan::Filter(_) if keeps_all => Ok(None),
        LogicalPlan::Filter(filter) => {
            let Some(input) = beside(&filter.input, table, keeps_all)? else { return Ok(None) };
            let predicate = table.of_the_row(filter.predicate.clone())?;
            Ok(Some(LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(input))?)))
        }
        LogicalPlan::Unnest(unnest) => {
            let Some(input) = beside(&unnest.input, table, keeps_all)? else { return Ok(None) };
            // A row without elements is joined with none, or with nulls.
            let options = unnest.options.clone().with_preserve_nulls(keeps_all);
            let lists = unnest.exec_columns.clone();
            let input = if keeps_all { with_nulls_for_empty(input, &lists)? } else { input };
            Ok(Some(LogicalPlan::Unnest(Unnest::try_new(Arc::new(input), lists, options)?)))
        }
        _ => Ok(None),
    }
}

/// `plan` with nulls for the lists in `lists` that are empty: nulls are kept, and those are not.
fn with_nulls_for_empty(plan: LogicalPlan, lists: &[Column]) -> DataFusionResult<LogicalPlan> {
    let schema = Arc::clone(plan.schema());
    let columns = schema.iter().map(|(qualifier, field)| {
        let column = Column::from((qualifier, field));
        let is_list = lists.contains(&column)
            && matches!(
                field.data_type(),
                DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)
            );
        let column = Expr::Column(column);
        if !is_list {
            return Ok(column);
        }
        let has_elements = array_length(column.clone()).gt(lit(0_u64));
        Ok(when(has_elements, column).end()?.alias_qualified(qualifier.cloned(), field.name()))
    });
    let columns = columns.collect::<DataFusionResult<Vec<Expr>>>()?;
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?))
}

/// `expr` under this name.
fn named(expr: Expr, qualifier: Option<TableReference>, name: &str) -> Expr {
    match &expr {
        Expr::Column(column) if column.relation == qualifier && column.name == name => expr,
        _ => expr.alias_qualified(qualifier, name),
    }
}
