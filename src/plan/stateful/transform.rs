//! Processors of the program's own in plans.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::{DFSchema, ExprSchema, internal_datafusion_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::node::{Kind, StreamingNode};
use crate::error::Error;
use crate::exec::codec::RowCodec;
use crate::exec::first_batch::FirstBatch;
use crate::exec::node::Node;
use crate::exec::operator::OperatorId;
use crate::exec::processor::{StatefulTransform, TimeMode};
use crate::exec::stateful::Stateful;
use crate::plan::event_time::EventTimeKey;
use crate::plan::transform::Transform;

/// How many numbers of operators a processor takes: one for its state, and one for its timers.
pub(super) const OPERATORS: usize = 2;

/// `transform` with state, as operator `operator` and the next. `key` is the event time of its rows, of which it
/// gets none that are late, and `delay` how late rows may come in microseconds.
pub(super) fn stateful_transform(
    transform: &Transform,
    operator: usize,
    key: Option<EventTimeKey>,
    delay: i64,
) -> DataFusionResult<LogicalPlan> {
    for key in &transform.keys {
        let field = transform.input.schema().field_from_column(key)?;
        if !RowCodec::supports(field.data_type()) {
            return Err(Error::UnsupportedQuery {
                operator: format!("a processor with the key {}", key.name),
                reason: format!("values of type {} cannot be kept in state", field.data_type()),
                advice: "Cast it to another type, e.g. VARCHAR".into(),
            }
            .into());
        }
    }
    let input = transform.input.clone();
    let input = match key.filter(|_| transform.time_mode == TimeMode::EventTime) {
        Some(key) => StreamingNode::over(input, Kind::LateFilter { operator }, vec![key.final_at_raw()]),
        None => input,
    };
    Ok(transform.as_operator(input, operator, delay).into_plan())
}

/// An expression over rows of a schema, planned.
pub(super) type ToPhysical<'a> = &'a dyn Fn(&Expr, &DFSchema) -> DataFusionResult<Arc<dyn PhysicalExpr>>;

/// The physical plan of `transform` over `inputs`.
pub(super) fn plan_transform(
    transform: &Transform,
    inputs: &[Arc<dyn ExecutionPlan>],
    physical: ToPhysical<'_>,
    state_partitions: usize,
    small: bool,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let no_number = || internal_datafusion_err!("a processor without its number");
    let id = transform.operator.ok_or_else(no_number)?;
    let keys_of = |plan: &LogicalPlan, keys: &[datafusion::common::Column]| {
        let keys = keys.iter().map(|key| physical(&Expr::Column(key.clone()), plan.schema()));
        keys.collect::<DataFusionResult<Vec<_>>>()
    };
    let [rows, initial @ ..] = inputs else {
        return Err(internal_datafusion_err!("a processor without its input"));
    };
    let keys = keys_of(&transform.input, &transform.keys)?;
    let fields = keys.iter().map(|key| Ok(key.return_field(&rows.schema())?.as_ref().clone()));
    let key_schema = Arc::new(Schema::new(fields.collect::<DataFusionResult<Vec<_>>>()?));
    let mut all = vec![(Arc::clone(rows), keys)];
    if let (Some(plan), [initial]) = (&transform.initial, initial) {
        let behaviour = FirstBatch { schema: initial.schema() };
        all.push((Node::over(Arc::clone(initial), behaviour), keys_of(plan, &transform.initial_keys)?));
    }
    let work = StatefulTransform {
        processor: Arc::clone(&transform.processor),
        inputs: all.iter().map(|(plan, _)| plan.schema()).collect(),
        keys: RowCodec::keys(key_schema.fields().iter().map(AsRef::as_ref))?,
        key_schema,
        schema: Arc::clone(transform.schema_ref().inner()),
        mode: transform.time_mode,
        delay: transform.delay,
    };
    let state_partitions = if transform.keys.is_empty() { 1 } else { state_partitions };
    Stateful::over_all(all, OperatorId { id, state_partitions }, Arc::new(work), small)
}
