//! The columns that a query's results really have.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::Optimizer;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, cast};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

/// The columns of `plan`, with the types that its rows will have.
///
/// A union of columns of different types is given a common type only when the plan is analysed;
/// until then it claims the type of its first input. A plan that has errors keeps the types it
/// claims: they show when it is optimised.
pub(crate) fn result_schema(plan: &LogicalPlan, session: &SessionState) -> SchemaRef {
    let claimed = plan.schema().inner();
    let analyzed = session.analyzer().execute_and_check(plan.clone(), session.config_options(), |_, _| {});
    let Ok(analyzed) = analyzed else { return Arc::clone(claimed) };
    let analyzed = with_constants(analyzed.clone(), session).unwrap_or(analyzed);
    if analyzed.schema().fields().len() != claimed.fields().len() {
        return Arc::clone(claimed);
    }
    let fields = claimed.fields().iter().zip(analyzed.schema().fields());
    let fields: Vec<FieldRef> = fields.map(|(claimed, real)| with_type_of(claimed, real)).collect();
    Arc::new(Schema::new_with_metadata(fields, claimed.metadata().clone()))
}

/// `plan` with its constants computed: the types of some functions follow from them, `round(d, 2)` has two
/// digits.
fn with_constants(plan: LogicalPlan, session: &SessionState) -> DataFusionResult<LogicalPlan> {
    let optimizer = Optimizer::with_rules(vec![Arc::new(SimplifyExpressions::new())]);
    let plan = optimizer.optimize(plan, session, |_, _| {})?;
    // The rule leaves the columns of a plan as they were.
    plan.transform_up(|node| node.recompute_schema().map(Transformed::yes)).data()
}

fn with_type_of(claimed: &FieldRef, real: &Field) -> FieldRef {
    if claimed.data_type() == real.data_type() {
        return Arc::clone(claimed);
    }
    let nullable = claimed.is_nullable() || real.is_nullable();
    let field = claimed.as_ref().clone().with_data_type(real.data_type().clone());
    Arc::new(field.with_nullable(nullable))
}

/// `plan`, whose rows come with the types of `schema`.
///
/// The type of some functions follows from constants, which the optimiser computes: `round(d, 1 + 1)` of
/// a decimal has two digits then, and had three before. Sinks were made for what it was before.
pub(super) fn with_types(
    plan: Arc<dyn ExecutionPlan>,
    schema: &Schema,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let given = plan.schema();
    let same = |(given, wanted): (&FieldRef, &FieldRef)| given.data_type() == wanted.data_type();
    if given.fields().len() != schema.fields().len() || given.fields().iter().zip(schema.fields()).all(same) {
        return Ok(plan);
    }
    let columns = given.fields().iter().zip(schema.fields()).enumerate().map(|(index, (field, wanted))| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), index));
        let column = cast(column, &given, wanted.data_type().clone())?;
        Ok(ProjectionExpr { expr: column, alias: field.name().clone() })
    });
    let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
    Ok(Arc::new(ProjectionExec::try_new(columns, plan)?))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::{DataType, Decimal128Type};
    use datafusion::prelude::SessionContext;

    use super::*;

    /// Over the whole registry: what the sink is made for is what comes, or is made so.
    #[tokio::test]
    async fn results_of_all_functions_come_in_the_type_that_was_claimed() {
        let context = SessionContext::new();
        context
            .sql("CREATE TABLE t AS SELECT 1.255::DECIMAL(10, 3) AS d, 3 AS i, 'abc' AS s, now() AS ts")
            .await
            .unwrap();
        let state = context.state();
        let mut names: Vec<&String> = state.scalar_functions().keys().collect();
        names.sort();
        let (mut planned, mut changed) = (0, Vec::new());
        for name in names {
            for column in ["d", "i", "s", "ts"] {
                for more in ["", ", 2", ", 1 + 1", ", 'x'"] {
                    let call = format!("SELECT \"{name}\"({column}{more}) AS result FROM t");
                    let Ok(plan) = state.create_logical_plan(&call).await else { continue };
                    let claimed = result_schema(&plan, &state);
                    let Ok(optimized) = state.optimize(&plan) else { continue };
                    let physical = state.query_planner().create_physical_plan(&optimized, &state).await;
                    let Ok(physical) = physical else { continue };
                    planned += 1;
                    if physical.schema().field(0).data_type() == claimed.field(0).data_type() {
                        continue;
                    }
                    let physical = with_types(physical, &claimed).unwrap();
                    let rows = datafusion::physical_plan::collect(physical, state.task_ctx()).await.unwrap();
                    let found = rows[0].column(0).data_type().clone();
                    assert_eq!(&found, claimed.field(0).data_type(), "{call}");
                    changed.push(name.clone());
                }
            }
        }
        assert!(planned > 500, "{planned}");
        assert!(changed.is_empty(), "their types are told only when constants are known: {changed:?}");
    }

    #[tokio::test]
    async fn rows_of_other_types_are_cast() {
        let context = SessionContext::new();
        let frame = context.sql("SELECT 1.255::DECIMAL(10, 3) AS d, 'a' AS s").await.unwrap();
        let wanted = Schema::new(vec![
            Field::new("d", DataType::Decimal128(10, 2), true),
            Field::new("s", DataType::Utf8, true),
        ]);
        let plan = with_types(frame.create_physical_plan().await.unwrap(), &wanted).unwrap();
        let rows = datafusion::physical_plan::collect(plan, context.task_ctx()).await.unwrap();
        assert_eq!(rows[0].column(0).as_primitive::<Decimal128Type>().value(0), 126);
        assert_eq!(rows[0].schema().field(0).data_type(), wanted.field(0).data_type());
    }
}
