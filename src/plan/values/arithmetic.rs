//! Arithmetic and aggregates that say when they overflow, and that do not depend on batches.

use datafusion::common::DFSchema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::{AggregateFunction, WindowFunctionDefinition};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use super::{ansi_mode, rewrite_expressions};
use crate::functions::{checked_binary, checked_negation, checked_tree, moving, named_call, replacement};

/// Puts functions that fail, or add up exactly, in the place of those that do not. Runs when the types
/// are known.
#[derive(Debug)]
pub(super) struct CheckedArithmetic;

impl AnalyzerRule for CheckedArithmetic {
    fn name(&self) -> &str {
        "checked_arithmetic"
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        let ansi_mode = ansi_mode(config);
        let rewrite = |expr: Expr, schema: &DFSchema| {
            // From the top down, so that messages show expressions as the user wrote them.
            expr.transform_down(|expr| {
                match ansi_mode.then(|| checked_tree(&expr, schema)).transpose()?.flatten() {
                    Some(tree) => Ok(Transformed::yes(tree)),
                    None => checked(expr, schema, ansi_mode),
                }
            })
        };
        Ok(plan.transform_up_with_subqueries(|plan| rewrite_expressions(plan, &rewrite))?.data)
    }
}

fn checked(expr: Expr, schema: &DFSchema, ansi_mode: bool) -> DataFusionResult<Transformed<Expr>> {
    Ok(match expr {
        Expr::BinaryExpr(binary) if ansi_mode => {
            let is_number = |operand: &Expr| {
                let data_type = operand.get_type(schema);
                data_type.is_ok_and(|data_type| data_type.is_integer() || data_type.is_decimal())
            };
            // The difference of two dates is a number, too.
            let of_numbers = is_number(&binary.left) && is_number(&binary.right);
            let data_type = Expr::BinaryExpr(binary.clone()).get_type(schema);
            match data_type
                .ok()
                .filter(|_| of_numbers)
                .and_then(|data_type| checked_binary(&binary, &data_type))
            {
                Some(checked) => Transformed::yes(checked),
                None => Transformed::no(Expr::BinaryExpr(binary)),
            }
        }
        Expr::Negative(value) if ansi_mode => {
            let data_type = value.get_type(schema);
            match data_type.ok().and_then(|data_type| checked_negation(&value, &data_type)) {
                Some(checked) => Transformed::yes(checked),
                None => Transformed::no(Expr::Negative(value)),
            }
        }
        Expr::ScalarFunction(call) if ansi_mode => {
            let data_type = Expr::ScalarFunction(call.clone()).get_type(schema);
            match data_type.ok().and_then(|data_type| named_call(&call, &data_type)) {
                Some(named) => Transformed::yes(named),
                None => Transformed::no(Expr::ScalarFunction(call)),
            }
        }
        Expr::AggregateFunction(AggregateFunction { func, params }) => {
            // DataFusion makes one of distinct values of a column that it calls `alias1`.
            let name = params.distinct.then(|| func.schema_name(&params)).transpose()?;
            match replacement(&func, ansi_mode, name) {
                Some(func) => Transformed::yes(Expr::AggregateFunction(AggregateFunction { func, params })),
                None => Transformed::no(Expr::AggregateFunction(AggregateFunction { func, params })),
            }
        }
        Expr::WindowFunction(mut call) => {
            if let WindowFunctionDefinition::AggregateUDF(function) = &call.fun {
                let is_left = !call.params.window_frame.is_ever_expanding();
                let moving = || if is_left { moving(function) } else { None };
                if let Some(function) = replacement(function, ansi_mode, None).or_else(moving) {
                    call.fun = WindowFunctionDefinition::AggregateUDF(function);
                    return Ok(Transformed::yes(Expr::WindowFunction(call)));
                }
            }
            Transformed::no(Expr::WindowFunction(call))
        }
        other => Transformed::no(other),
    })
}
