//! Expressions that DataFusion computes otherwise than SQL says, made right.
//!
//! Comes after DataFusion has cast the operands of expressions, so that its casts are seen, too.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::{Cast, ScalarFunction, TryCast};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, Projection, Unnest, lit,
};
use datafusion::optimizer::AnalyzerRule;

use super::sortable_keys::with_sortable_keys;
use super::values::rewrite_expressions;
use crate::functions::{
    local_date, named_cast, null_fields, null_safe_field, part_of_any_time, unnamed_cast,
};

/// Puts the right functions in the place of those that are not.
#[derive(Debug)]
pub(crate) struct Corrections;

impl AnalyzerRule for Corrections {
    fn name(&self) -> &str {
        "tidemill_corrections"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        plan.transform_up_with_subqueries(correct).data()
    }
}

fn correct(node: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
    let node = match node {
        LogicalPlan::Unnest(unnest) if !unnest.struct_type_columns.is_empty() => {
            return correct_unnest(unnest);
        }
        node => node,
    };
    with_sortable_keys(node)?.transform_data(correct_expressions)
}

fn correct_expressions(node: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
    let is_filter = matches!(node, LogicalPlan::Filter(_));
    rewrite_expressions(node, &|expr, schema| {
        expr.transform_up(|expr| {
            let corrected = correct_expr(expr, schema);
            corrected.transform_data(|expr| Ok(if is_filter { Transformed::no(expr) } else { truth(expr) }))
        })
    })
}

/// `IS TRUE` and the like as comparisons. DataFusion plans them as such, and expects of the columns that these
/// are never null, which those do not know of themselves.
fn truth(expr: Expr) -> Transformed<Expr> {
    let compared = |expr: Box<Expr>, op, value: bool| {
        Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(expr, op, Box::new(lit(value)))))
    };
    match expr {
        Expr::IsTrue(expr) => compared(expr, Operator::IsNotDistinctFrom, true),
        Expr::IsFalse(expr) => compared(expr, Operator::IsNotDistinctFrom, false),
        Expr::IsNotTrue(expr) => compared(expr, Operator::IsDistinctFrom, true),
        Expr::IsNotFalse(expr) => compared(expr, Operator::IsDistinctFrom, false),
        Expr::IsUnknown(expr) => Transformed::yes(Expr::IsNull(expr)),
        Expr::IsNotUnknown(expr) => Transformed::yes(Expr::IsNotNull(expr)),
        expr => Transformed::no(expr),
    }
}

fn correct_expr(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let is_text = |expr: &Expr| {
        let data_type = expr.get_type(schema);
        matches!(data_type, Ok(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View))
    };
    match expr {
        Expr::ScalarFunction(mut call) => {
            if let Some(function) = null_safe_field(&call.func).or_else(|| part_of_any_time(&call.func)) {
                call.func = function;
                return Transformed::yes(Expr::ScalarFunction(call));
            }
            let ScalarFunction { func, args } = &mut call;
            match args.as_mut_slice() {
                [text] if func.name() == "to_date" && is_text(text) => {
                    Transformed::yes(local_date(std::mem::take(text), false))
                }
                _ => Transformed::no(Expr::ScalarFunction(call)),
            }
        }
        Expr::Cast(Cast { expr, field }) if is_date(field.data_type()) && is_text(&expr) => {
            Transformed::yes(as_date(local_date(*expr, false), field.data_type()))
        }
        Expr::TryCast(TryCast { expr, field }) if is_date(field.data_type()) && is_text(&expr) => {
            Transformed::yes(as_date(local_date(*expr, true), field.data_type()))
        }
        Expr::Cast(cast) => match cast.expr.get_type(schema).ok().and_then(|from| named_cast(&cast, &from)) {
            Some(named) => Transformed::yes(named),
            None => Transformed::no(Expr::Cast(cast)),
        },
        Expr::BinaryExpr(equal) if equal.op == Operator::Eq && is_of_two_tables(&equal) => {
            let plain = |side: Box<Expr>| unnamed_cast(&side).map_or(side, Box::new);
            let (left, right) = (plain(equal.left), plain(equal.right));
            Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left, Operator::Eq, right)))
        }
        expr => Transformed::no(expr),
    }
}

/// Whether a join may have it for its keys, which DataFusion computes beside the columns, and knows only its own casts
/// to have the names of these.
fn is_of_two_tables(equal: &BinaryExpr) -> bool {
    let tables = |side: &Expr| -> BTreeSet<String> {
        side.column_refs()
            .iter()
            .filter_map(|column| column.relation.as_ref())
            .map(ToString::to_string)
            .collect()
    };
    let (left, right) = (tables(&equal.left), tables(&equal.right));
    !left.is_empty() && !right.is_empty() && left.is_disjoint(&right)
}

fn is_date(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Date64)
}

fn as_date(date: Expr, data_type: &DataType) -> Expr {
    match data_type {
        DataType::Date32 => date,
        other => Expr::Cast(Cast::new(Box::new(date), other.clone())),
    }
}

/// `unnest` of structs whose fields are null where they are.
fn correct_unnest(unnest: Unnest) -> DataFusionResult<Transformed<LogicalPlan>> {
    let input = unnest.input.schema();
    let columns = input.iter().enumerate().map(|(index, (qualifier, field))| {
        let column = Expr::Column(Column::from((qualifier, field)));
        match unnest.struct_type_columns.contains(&index) {
            true => null_fields(column).alias_qualified(qualifier.cloned(), field.name()),
            false => column,
        }
    });
    let columns: Vec<Expr> = columns.collect();
    let input = LogicalPlan::Projection(Projection::try_new(columns, Arc::clone(&unnest.input))?);
    let options = unnest.options.clone();
    let unnest = Unnest::try_new(Arc::new(input), unnest.exec_columns, options)?;
    Ok(Transformed::yes(LogicalPlan::Unnest(unnest)))
}
