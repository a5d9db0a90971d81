//! `PREPARE` and `EXECUTE`: a prepared statement means what it means at once.
//!
//! DataFusion optimises a statement when it is prepared (`SessionContext::execute_logical_plan`), before the rules
//! that say what its expressions mean have seen it, and what can be computed beforehand is computed otherwise. So
//! it is kept from the optimiser, in a node that shows nothing of it but its parameters.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, ParamValues, internal_err, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, Prepare, Statement, UserDefinedLogicalNodeCore,
};
use datafusion::prelude::DataFrame;

/// `plan` with the statement that it prepares, if it does so, kept as it is.
pub(super) fn keep(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    match plan {
        LogicalPlan::Statement(Statement::Prepare(prepare)) => {
            let plan = Arc::unwrap_or_clone(prepare.input);
            let parameters = parameters(&plan)?;
            let kept = Kept { plan, parameters };
            let input = Arc::new(LogicalPlan::Extension(Extension { node: Arc::new(kept) }));
            Ok(LogicalPlan::Statement(Statement::Prepare(Prepare { input, ..prepare })))
        }
        plan => Ok(plan),
    }
}

/// `frame` over the statement that was kept, if it is one, with the values that it is executed with.
pub(super) fn restore(frame: DataFrame) -> DataFusionResult<DataFrame> {
    let LogicalPlan::Extension(Extension { node }) = frame.logical_plan() else { return Ok(frame) };
    let Some(kept) = node.as_any().downcast_ref::<Kept>() else { return Ok(frame) };
    let plan = kept.with_values()?;
    let (state, _) = frame.into_parts();
    Ok(DataFrame::new(state, plan))
}

/// The parameters of `plan`, each once.
fn parameters(plan: &LogicalPlan) -> DataFusionResult<Vec<Expr>> {
    let mut found = Vec::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if matches!(expr, Expr::Placeholder(_)) && !found.contains(expr) {
                    found.push(expr.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    found.sort_by_key(|expr| number(expr).unwrap_or(usize::MAX));
    Ok(found)
}

/// The number of a parameter: 1 for `$1`.
fn number(parameter: &Expr) -> Option<usize> {
    let Expr::Placeholder(parameter) = parameter else { return None };
    parameter.id.strip_prefix('$')?.parse().ok()
}

/// A prepared statement, and its parameters or what they are now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kept {
    plan: LogicalPlan,
    parameters: Vec<Expr>,
}

impl Kept {
    fn with_values(&self) -> DataFusionResult<LogicalPlan> {
        if self.parameters.is_empty() {
            return Ok(self.plan.clone());
        }
        // They keep the names that they had.
        let value = |parameter: &Expr| match parameter.clone().unalias() {
            Expr::Literal(value, _) => Ok(value),
            other => plan_err!("the parameter {other} has no value"),
        };
        let values = self.parameters.iter().map(value).collect::<DataFusionResult<Vec<_>>>()?;
        self.plan.clone().replace_params_with_values(&ParamValues::from(values))
    }
}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.plan.partial_cmp(&other.plan)
    }
}

impl UserDefinedLogicalNodeCore for Kept {
    fn name(&self) -> &str {
        "PreparedStatement"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.plan.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        self.parameters.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PreparedStatement")
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        if !inputs.is_empty() || exprs.len() != self.parameters.len() {
            return internal_err!("a prepared statement has no inputs");
        }
        Ok(Self { plan: self.plan.clone(), parameters: exprs })
    }
}
