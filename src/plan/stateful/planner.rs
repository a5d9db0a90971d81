//! The physical plans of streaming nodes.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::Schema;
use datafusion::catalog::Session;
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use super::node::{Kind, StreamingNode};
use crate::exec::aggregate::{Partials, StatefulAggregate};
use crate::exec::codec::RowCodec;
use crate::exec::deduplicate::{Repeated, StatefulDeduplicate};
use crate::exec::exchange::StateExchangeExec;
use crate::exec::late::LateFilter;
use crate::exec::limit::StatefulLimit;
use crate::exec::operator::OperatorId;
use crate::exec::unary::{PartitionWork, UnaryExec};
use crate::exec::watermark::EventTimeWatermark;
use crate::plan::static_tables::StaticTablePlanner;

/// DataFusion's planner, which knows streaming nodes too.
#[derive(Debug)]
pub(crate) struct StreamingQueryPlanner {
    /// How many partitions the state of an operator has.
    pub(crate) state_partitions: usize,
}

#[async_trait]
impl QueryPlanner for StreamingQueryPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let nodes = StreamingNodePlanner { state_partitions: self.state_partitions };
        DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(nodes), Arc::new(StaticTablePlanner)])
            .create_physical_plan(plan, session)
            .await
    }
}

struct StreamingNodePlanner {
    state_partitions: usize,
}

#[async_trait]
impl ExtensionPlanner for StreamingNodePlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> DataFusionResult<Option<Arc<dyn ExecutionPlan>>> {
        let (Some(node), [input]) = (node.as_any().downcast_ref::<StreamingNode>(), inputs) else {
            return Ok(None);
        };
        let expressions = node
            .expressions
            .iter()
            .map(|expr| planner.create_physical_expr(expr, node.input.schema(), session, context))
            .collect::<DataFusionResult<Vec<_>>>()?;
        let planning = Planning {
            node,
            input: Arc::clone(input),
            expressions,
            state_partitions: self.state_partitions,
            // One output partition in the small plan: all state partitions one after the other.
            small: session.config().target_partitions() == 1,
        };
        planning.plan().map(Some)
    }
}

/// A node that is being planned.
struct Planning<'a> {
    node: &'a StreamingNode,
    input: Arc<dyn ExecutionPlan>,
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    state_partitions: usize,
    small: bool,
}

impl Planning<'_> {
    fn plan(mut self) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let schema = Arc::clone(self.node.schema.inner());
        match self.node.kind {
            Kind::Watermark { index, delay_ms } => {
                let column = self.expression()?;
                self.on_rows(Arc::new(EventTimeWatermark { index, column, delay_ms, schema }))
            }
            Kind::LateFilter { operator } => {
                let expiry = self.expression()?;
                let schema = self.input.schema();
                self.on_rows(Arc::new(LateFilter { operator, expiry, schema }))
            }
            Kind::Aggregate { operator, mode } => self.aggregate(operator, mode),
            Kind::Deduplicate { operator, keys } => {
                let rest = self.expressions.split_off(keys);
                let schema = self.input.schema();
                self.deduplicate(operator, rest.into_iter().next(), Repeated::Drop, schema)
            }
            Kind::MarkDistinct { operator, keys, expires } => {
                let mut rest = self.expressions.split_off(keys).into_iter();
                let expiry = if expires { rest.next() } else { None };
                let mut fields = self.input.schema().fields().to_vec();
                fields.extend(schema.fields().last().cloned());
                let schema = Schema::new_with_metadata(fields, self.input.schema().metadata().clone());
                self.deduplicate(operator, expiry, Repeated::Mark(rest.next()), Arc::new(schema))
            }
            Kind::Limit { operator, skip, fetch } => {
                let operator = OperatorId { id: operator, state_partitions: 1 };
                let schema = self.input.schema();
                let work = StatefulLimit { operator, skip, fetch, schema };
                let input = Arc::new(StateExchangeExec::new(self.input, Vec::new(), 1));
                Ok(Arc::new(UnaryExec::new(input, Arc::new(work))))
            }
        }
    }

    fn expression(&mut self) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
        self.expressions
            .pop()
            .ok_or_else(|| internal_datafusion_err!("a streaming node without its expression"))
    }

    fn on_rows(self, work: Arc<dyn PartitionWork>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(UnaryExec::new(self.input, work)))
    }

    /// Over the state partitions of `keys`: without keys, there is one.
    fn by_key(
        &self,
        input: Arc<dyn ExecutionPlan>,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        work: impl FnOnce(usize) -> DataFusionResult<Arc<dyn PartitionWork>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let partitions = if keys.is_empty() { 1 } else { self.state_partitions };
        let outputs = if self.small { 1 } else { partitions };
        let work = work(partitions)?;
        let input = Arc::new(StateExchangeExec::new(input, keys, partitions));
        Ok(Arc::new(UnaryExec::with_partitions(input, work, outputs)))
    }

    fn deduplicate(
        self,
        operator: usize,
        expiry: Option<Arc<dyn PhysicalExpr>>,
        repeated: Repeated,
        schema: datafusion::arrow::datatypes::SchemaRef,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let input_schema = self.input.schema();
        let fields = self
            .expressions
            .iter()
            .map(|key| Ok(key.return_field(&input_schema)?.as_ref().clone()))
            .collect::<DataFusionResult<Vec<_>>>()?;
        let keys = self.expressions.clone();
        let codec = RowCodec::keys(&fields)?;
        self.by_key(Arc::clone(&self.input), keys.clone(), |state_partitions| {
            let operator = OperatorId { id: operator, state_partitions };
            let key_schema = Arc::new(Schema::new(fields));
            Ok(Arc::new(StatefulDeduplicate { operator, keys, key_schema, codec, repeated, expiry, schema }))
        })
    }

    /// DataFusion has planned the aggregation in two steps; the first is kept, and the second gives
    /// way to one that remembers.
    fn aggregate(
        mut self,
        operator: usize,
        mode: crate::sink::OutputMode,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let not_two_steps = || internal_datafusion_err!("an aggregation that is not planned in two steps");
        let last = self.input.downcast_ref::<AggregateExec>().ok_or_else(not_two_steps)?;
        let partial_plan = Arc::clone(last.input());
        let partial = partial_plan.downcast_ref::<AggregateExec>().ok_or_else(not_two_steps)?;
        let partials = Partials::of(partial)?;
        let schema = last.schema();
        let keys = partials.key_schema.fields().iter().enumerate();
        let keys = keys
            .map(|(index, field)| Arc::new(Column::new(field.name(), index)) as Arc<dyn PhysicalExpr>)
            .collect();
        let expiry = self.expressions.pop();
        self.by_key(Arc::clone(&partial_plan), keys, |state_partitions| {
            let operator = OperatorId { id: operator, state_partitions };
            Ok(Arc::new(StatefulAggregate { operator, partials, schema, mode, expiry }))
        })
    }
}
