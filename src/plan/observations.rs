//! What computes the metrics of an observation, batch by batch.

use std::sync::Arc;

use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate, LogicalPlan};
use datafusion::optimizer::OptimizerRule;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::create_physical_expr;

use super::observe::{Observe, observed};
use crate::error::{Error, Result};
use crate::exec::observe::{Observation, ObservedFunction};

/// `plan`, which is optimised, with what computes its observations; these also by number. Those of `before`, the plan
/// before it was optimised, that no row can ever reach are given, too: of no rows there are metrics as well.
///
/// # Errors
/// If rows reach one of which the optimiser has found that nothing above it needs them: they would not be read.
pub(super) fn with_observations(
    plan: LogicalPlan,
    before: &LogicalPlan,
    session: &SessionState,
) -> Result<(LogicalPlan, Vec<Arc<Observation>>)> {
    let mut observations: Vec<Arc<Observation>> = Vec::new();
    let plan = plan.transform_up(|node| {
        let Some(observe) = Observe::of(&node) else { return Ok(Transformed::no(node)) };
        let observation = Arc::new(observation(observe, session)?);
        let bound = observe.bound(observations.len(), Arc::clone(&observation));
        observations.push(observation);
        Ok(Transformed::yes(bound.into_plan()))
    })?;
    for observe in observed(before) {
        if !observations.iter().any(|known| known.name == observe.observation_name()) {
            if session
                .optimize(observe.input())?
                .exists(|node| Ok(matches!(node, LogicalPlan::TableScan(_))))?
            {
                return Err(unread(observe.observation_name()));
            }
            observations.push(Arc::new(observation(&observe, session)?));
        }
    }
    Ok((plan.data, observations))
}

fn unread(name: &str) -> Error {
    Error::UnsupportedQuery {
        operator: format!("the observation '{name}'"),
        reason:
            "no result can come of its rows (of a condition that is never true, a limit of 0, or a join with \
                 nothing), so that they would not be read"
                .into(),
        advice: "observe the rows above what lets none of them through, or take that away".into(),
    }
}

/// What computes the metrics of `observe`. They mean what they would mean in a query of the session.
pub(super) fn observation(observe: &Observe, session: &SessionState) -> DataFusionResult<Observation> {
    let analyzed =
        session.analyzer().execute_and_check(observe.summary()?, session.config_options(), |_, _| {})?;
    // Some functions cannot be computed before they are simplified.
    let simplified = analyzed.transform_up(|node| SimplifyExpressions::new().rewrite(node, session))?.data;
    let LogicalPlan::Projection(projection) = simplified else {
        return internal_err!("the metrics of an observation became something else");
    };
    let LogicalPlan::Aggregate(aggregate) = projection.input.as_ref() else {
        return internal_err!("the aggregates of an observation became something else");
    };
    let results = aggregate.schema.as_ref();
    let (props, context) = (session.execution_props(), PhysicalPlanningContext::default());
    let metrics = projection.expr.iter().zip(projection.schema.fields()).map(|(metric, field)| {
        Ok((field.name().clone(), create_physical_expr(metric, results, props, &context)?))
    });
    Ok(Observation {
        name: observe.observation_name().to_string(),
        columns: Arc::clone(aggregate.input.schema().inner()),
        functions: functions(aggregate, session)?,
        results: Arc::clone(aggregate.schema.inner()),
        metrics: metrics.collect::<DataFusionResult<_>>()?,
    })
}

fn functions(aggregate: &Aggregate, session: &SessionState) -> DataFusionResult<Vec<ObservedFunction>> {
    let rows = aggregate.input.schema();
    if !matches!(aggregate.input.as_ref(), LogicalPlan::EmptyRelation(_)) {
        return internal_err!("the columns of an observation became something else");
    }
    let context = PhysicalPlanningContext::default();
    let names = aggregate.schema.fields().iter().map(|field| field.name());
    let function = |(expr, name)| {
        let lowered =
            LoweredAggregateBuilder::new(expr, rows, rows.as_arrow(), session.execution_props(), &context)
                .with_name(name)
                .build()?;
        Ok(ObservedFunction { function: lowered.aggregate, filter: lowered.filter })
    };
    aggregate.aggr_expr.iter().zip(names).map(function).collect()
}
