//! `now()` and its kin per batch.
//!
//! DataFusion folds `now()`, `current_timestamp`, `current_date` and `current_time` to literals
//! when it optimises, which a plan that is optimised once and run for days must not do. They are
//! replaced by functions that give the batch's time, the same for every row of the batch and for
//! every rerun of it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::DateTime;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};

use crate::error::Result;

/// DataFusion's functions of the time at which a query starts, by their primary names.
const TIME_FUNCTIONS: [&str; 3] = ["now", "current_date", "current_time"];

/// The time of the batch that is running, shared by the functions of one query and its loop.
#[derive(Debug, Clone, Default)]
pub(crate) struct BatchTime(Arc<AtomicI64>);

impl BatchTime {
    /// Sets the time for the next batch, in milliseconds since the epoch.
    pub(crate) fn set(&self, ms: i64) {
        self.0.store(ms, Ordering::SeqCst);
    }

    fn get(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// `plan` with every function of the current time giving `time`, under its old column names.
pub(crate) fn use_batch_time(plan: LogicalPlan, time: &BatchTime) -> Result<LogicalPlan> {
    let replaced = plan.transform_up_with_subqueries(|node| {
        // Projections name their columns after their expressions; the names must not change.
        let named = matches!(node, LogicalPlan::Projection(_));
        node.map_expressions(|expr| {
            let name = expr.schema_name().to_string();
            let replaced = expr.transform_up(|expr| Ok(replace(expr, time)))?;
            if !replaced.transformed || !named {
                return Ok(replaced);
            }
            replaced.map_data(|expr| expr.alias_if_changed(name))
        })
    })?;
    Ok(replaced.data)
}

fn replace(expr: Expr, time: &BatchTime) -> Transformed<Expr> {
    match expr {
        Expr::ScalarFunction(call) if TIME_FUNCTIONS.contains(&call.func.name()) => {
            let function = BatchTimeFunction::new(call.func, time.clone());
            let function = Arc::new(ScalarUDF::new_from_impl(function));
            Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function, call.args)))
        }
        expr => Transformed::no(expr),
    }
}

/// One of DataFusion's time functions, asked anew for every batch.
#[derive(Debug)]
struct BatchTimeFunction {
    function: Arc<ScalarUDF>,
    time: BatchTime,
    /// Volatile, for that is what keeps the optimiser from evaluating it.
    signature: Signature,
}

impl BatchTimeFunction {
    fn new(function: Arc<ScalarUDF>, time: BatchTime) -> Self {
        let signature = Signature::new(function.signature().type_signature.clone(), Volatility::Volatile);
        Self { function, time, signature }
    }
}

impl PartialEq for BatchTimeFunction {
    fn eq(&self, other: &Self) -> bool {
        self.function == other.function && Arc::ptr_eq(&self.time.0, &other.time.0)
    }
}

impl Eq for BatchTimeFunction {}

impl Hash for BatchTimeFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.hash(state);
    }
}

impl ScalarUDFImpl for BatchTimeFunction {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> DataFusionResult<DataType> {
        self.function.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        self.function.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let ms = self.time.get();
        let Some(now) = DateTime::from_timestamp_millis(ms) else {
            return Err(DataFusionError::Execution(format!("batch time {ms} ms is out of range")));
        };
        let context = SimplifyContext::builder()
            .with_query_execution_start_time(Some(now))
            .with_config_options(Arc::clone(&args.config_options))
            .build();
        match self.function.simplify(vec![], &context)? {
            ExprSimplifyResult::Simplified(Expr::Literal(value, _)) => {
                Ok(ColumnarValue::Scalar(value.cast_to(args.return_field.data_type())?))
            }
            other => internal_err!("{} did not give a literal but {other:?}", self.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn time_functions_follow_the_batch_and_keep_their_names() {
        let context = SessionContext::new();
        let plan = context
            .sql("SELECT now(), current_date AS d, CAST(now() AS VARCHAR) AS text FROM (VALUES (1))")
            .await
            .unwrap()
            .into_unoptimized_plan();
        let names = plan.schema().field_names();
        let time = BatchTime::default();
        let plan = use_batch_time(plan, &time).unwrap();
        assert_eq!(plan.schema().field_names(), names);
        let state = context.state();
        let plan = state.optimize(&plan).unwrap();
        for (ms, expected) in [(0, "1970-01-01"), (1_700_000_000_000, "2023-11-14")] {
            time.set(ms);
            let physical = state.query_planner().create_physical_plan(&plan, &state).await.unwrap();
            let rows = datafusion::physical_plan::collect(physical, state.task_ctx()).await.unwrap();
            let text = datafusion::arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
            assert_eq!(text.matches(expected).count(), 3, "{text}");
        }
    }
}
