//! The physical plans of streaming nodes.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, internal_datafusion_err, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use datafusion::physical_planner::{
    DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner, create_window_expr,
};

use super::join::{JoinNode, PlanningJoin};
use super::node::{Kind, StreamingNode};
use super::transform::plan_transform;
use crate::exec::aggregate::{GrandTotals, Partials, StatefulAggregate};
use crate::exec::codec::RowCodec;
use crate::exec::deduplicate::{Repeated, StatefulDeduplicate};
use crate::exec::late::LateFilter;
use crate::exec::limit::StatefulLimit;
use crate::exec::node::Node;
use crate::exec::observe::Observe as ObserveRows;
use crate::exec::operator::OperatorId;
use crate::exec::over::{Function, Manner, OverParts, Reach, StatefulOver};
use crate::exec::sessions::StatefulSessions;
use crate::exec::sort_column::SortColumn;
use crate::exec::stateful::{Stateful, StatefulWork};
use crate::exec::top_n::{Ranking, StatefulTopN};
use crate::exec::watermark::EventTimeWatermark;
use crate::plan::observe::Observe;
use crate::plan::static_tables::StaticTablePlanner;
use crate::plan::transform::Transform;
use crate::sink::OutputMode;

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
        // In the small plan, what all state partitions give is one partition for what is above.
        let small = session.config().target_partitions() == 1;
        if let (Some(join), [left, right]) = (node.as_any().downcast_ref::<JoinNode>(), inputs) {
            let planning = PlanningJoin {
                join,
                inputs: [left, right],
                physical: &|expr, schema| planner.create_physical_expr(expr, schema, session, context),
                state_partitions: self.state_partitions,
                small,
            };
            return planning.plan().map(Some);
        }
        if let Some(transform) = node.as_any().downcast_ref::<Transform>() {
            let physical =
                |expr: &Expr, schema: &DFSchema| planner.create_physical_expr(expr, schema, session, context);
            return plan_transform(transform, inputs, &physical, self.state_partitions, small).map(Some);
        }
        if let (Some(observe), [input]) = (node.as_any().downcast_ref::<Observe>(), inputs) {
            let Some((index, observation)) = observe.observation() else {
                return internal_err!("an observation that is not bound to a run");
            };
            let schema = observe.input().schema();
            let columns = observe.columns().iter();
            let columns =
                columns.map(|column| planner.create_physical_expr(column, schema, session, context));
            let behaviour = ObserveRows {
                index: *index,
                observation: Arc::clone(observation),
                columns: columns.collect::<DataFusionResult<_>>()?,
                schema: input.schema(),
            };
            return Ok(Some(Node::over(Arc::clone(input), behaviour)));
        }
        let (Some(node), [input]) = (node.as_any().downcast_ref::<StreamingNode>(), inputs) else {
            return Ok(None);
        };
        let schema = node.input.schema();
        let physical = |expr: &Expr| planner.create_physical_expr(expr, schema, session, context);
        let (plain, functions) = match &node.kind {
            Kind::Over { functions, .. } => {
                node.expressions.split_at(node.expressions.len() - functions.len())
            }
            _ => (node.expressions.as_slice(), [].as_slice()),
        };
        let expressions = plain.iter().map(physical).collect::<DataFusionResult<Vec<_>>>()?;
        let window = |expr: &Expr| create_window_expr(expr, schema, session.execution_props(), context);
        let functions = match &node.kind {
            Kind::Over { functions: manners, .. } => functions
                .iter()
                .zip(manners)
                .map(|(expr, manner)| {
                    let filter = running_filter(expr, *manner).map(physical).transpose()?;
                    let expr = window(expr)?;
                    Ok(Function { manner: *manner, expr, filter })
                })
                .collect::<DataFusionResult<Vec<_>>>()?,
            _ => Vec::new(),
        };
        let planning = Planning {
            node,
            input: Arc::clone(input),
            expressions,
            functions,
            state_partitions: self.state_partitions,
            small,
        };
        planning.plan().map(Some)
    }
}

/// Which rows a running aggregate counts.
fn running_filter(expr: &Expr, manner: Manner) -> Option<&Expr> {
    let expr = match expr {
        Expr::Alias(alias) => alias.expr.as_ref(),
        expr => expr,
    };
    match (expr, manner) {
        (Expr::WindowFunction(call), Manner::Running { .. }) => call.params.filter.as_deref(),
        _ => None,
    }
}

/// When a deduplication forgets keys.
struct Forgetting {
    expiry: Option<Arc<dyn PhysicalExpr>>,
    within_watermark: bool,
    /// Whether those without a time are forgotten with the groups without one.
    nulls: bool,
}

/// A node that is being planned.
struct Planning<'a> {
    node: &'a StreamingNode,
    input: Arc<dyn ExecutionPlan>,
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    /// The window functions.
    functions: Vec<Function>,
    state_partitions: usize,
    small: bool,
}

impl Planning<'_> {
    fn plan(mut self) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let schema = Arc::clone(self.node.schema.inner());
        match self.node.kind.clone() {
            Kind::Watermark { index, delay_ms } => {
                let column = self.expression()?;
                Ok(Node::over(
                    self.input,
                    EventTimeWatermark { index, column, delay_ms, schema, groups_of: None },
                ))
            }
            Kind::LateFilter { operator } => {
                let expiry = self.expression()?;
                let schema = self.input.schema();
                Ok(Node::over(self.input, LateFilter { operator, expiry, schema }))
            }
            Kind::Aggregate { operator, mode } => self.aggregate(operator, mode),
            Kind::Sessions { operator, mode, session, delay } => {
                let (partials, schema, input) = self.two_steps()?;
                let mut keys = columns_of(&partials);
                keys.remove(session);
                let work = StatefulSessions::new(partials, session, schema, mode, delay)?;
                self.by_key(operator, input, keys, work)
            }
            Kind::Deduplicate { operator, keys, within_watermark } => {
                let expiry = self.expressions.split_off(keys).into_iter().next();
                let schema = self.input.schema();
                let forgetting = Forgetting { expiry, within_watermark, nulls: false };
                self.deduplicate(operator, forgetting, Repeated::Drop, schema)
            }
            Kind::MarkDistinct { operator, keys, expires, forgets_nulls } => {
                let mut rest = self.expressions.split_off(keys).into_iter();
                let expiry = if expires { rest.next() } else { None };
                let mut fields = self.input.schema().fields().to_vec();
                fields.extend(schema.fields().last().cloned());
                let schema = Schema::new_with_metadata(fields, self.input.schema().metadata().clone());
                let mark = Repeated::Mark(rest.next());
                let forgetting = Forgetting { expiry, within_watermark: false, nulls: forgets_nulls };
                self.deduplicate(operator, forgetting, mark, Arc::new(schema))
            }
            Kind::TopN { operator, mode, keys, order, rank, limit } => {
                self.top_n((operator, mode), keys, &order, (rank, limit))
            }
            Kind::Over { operator, keys, order, reach, .. } => self.over(operator, keys, &order, reach),
            Kind::Limit { operator, skip, fetch } => {
                let work = StatefulLimit { skip, fetch, schema: self.input.schema() };
                self.by_key(operator, Arc::clone(&self.input), Vec::new(), work)
            }
        }
    }

    fn expression(&mut self) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
        self.expressions
            .pop()
            .ok_or_else(|| internal_datafusion_err!("a streaming node without its expression"))
    }

    /// Over the state partitions of `keys`: without keys, there is one.
    fn by_key(
        &self,
        operator: usize,
        input: Arc<dyn ExecutionPlan>,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        work: impl StatefulWork + 'static,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let state_partitions = if keys.is_empty() { 1 } else { self.state_partitions };
        let operator = OperatorId { id: operator, state_partitions };
        Stateful::over(input, operator, keys, Arc::new(work), self.small)
    }

    fn deduplicate(
        self,
        operator: usize,
        forgetting: Forgetting,
        repeated: Repeated,
        schema: SchemaRef,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let input_schema = self.input.schema();
        let fields = self
            .expressions
            .iter()
            .map(|key| Ok(key.return_field(&input_schema)?.as_ref().clone()))
            .collect::<DataFusionResult<Vec<_>>>()?;
        let key_schema = Arc::new(Schema::new(fields));
        let Forgetting { expiry, within_watermark, nulls: forgets_nulls } = forgetting;
        let work =
            StatefulDeduplicate { key_schema, repeated, expiry, within_watermark, forgets_nulls, schema };
        self.by_key(operator, Arc::clone(&self.input), self.expressions.clone(), work)
    }

    fn top_n(
        mut self,
        (operator, mode): (usize, OutputMode),
        keys: usize,
        order: &[(bool, bool)],
        (rank, limit): (Ranking, u64),
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let input_schema = self.input.schema();
        let mut rest = self.expressions.split_off(keys);
        let expiry = rest.split_off(order.len()).pop();
        let field = |expr: &Arc<dyn PhysicalExpr>| expr.return_field(&input_schema);
        let order = sort_columns(rest, order, &input_schema)?;
        let mut fields = input_schema.fields().to_vec();
        fields.extend(self.node.schema.fields().last().cloned());
        let work = StatefulTopN {
            order,
            rank,
            limit,
            keys: self.expressions.iter().map(field).collect::<DataFusionResult<_>>()?,
            values: RowCodec::values(input_schema.fields().iter().map(AsRef::as_ref))?,
            schema: Arc::new(Schema::new_with_metadata(fields, input_schema.metadata().clone())),
            input: input_schema,
            mode,
            expiry,
        };
        self.by_key(operator, Arc::clone(&self.input), self.expressions.clone(), work)
    }

    fn over(
        mut self,
        operator: usize,
        keys: usize,
        order: &[(bool, bool)],
        reach: Reach,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let input = self.input.schema();
        let expiry = self.expression()?;
        let rest = self.expressions.split_off(keys);
        let field = |expr: &Arc<dyn PhysicalExpr>| expr.return_field(&input);
        let mut fields = input.fields().to_vec();
        let added = self.node.schema.fields().iter().skip(fields.len()).cloned();
        fields.extend(added);
        let parts = OverParts {
            order: sort_columns(rest, order, &input)?,
            functions: std::mem::take(&mut self.functions),
            reach,
            keys: self.expressions.iter().map(field).collect::<DataFusionResult<_>>()?,
            schema: Arc::new(Schema::new_with_metadata(fields, input.metadata().clone())),
            expiry,
            input,
        };
        self.by_key(operator, Arc::clone(&self.input), self.expressions.clone(), StatefulOver::new(parts)?)
    }

    /// DataFusion has planned the aggregation in two steps; the first is kept, and the second gives
    /// way to one that remembers: its functions, the columns of its results, and the first step.
    fn two_steps(&self) -> DataFusionResult<(Partials, SchemaRef, Arc<dyn ExecutionPlan>)> {
        let not_two_steps = || internal_datafusion_err!("an aggregation that is not planned in two steps");
        let last = self.input.downcast_ref::<AggregateExec>().ok_or_else(not_two_steps)?;
        let partial_plan = Arc::clone(last.input());
        let partial = partial_plan.downcast_ref::<AggregateExec>().ok_or_else(not_two_steps)?;
        Ok((Partials::of(partial)?, last.schema(), partial_plan))
    }

    fn aggregate(mut self, operator: usize, mode: OutputMode) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let (partials, schema, input) = self.two_steps()?;
        let input = GrandTotals::over(input, &partials)?;
        let keys = columns_of(&partials);
        let expiry = self.expressions.pop();
        let work = StatefulAggregate { partials, schema, mode, expiry };
        self.by_key(operator, input, keys, work)
    }
}

/// What to sort rows of `input` by, each with whether descending and nulls first.
fn sort_columns(
    columns: Vec<Arc<dyn PhysicalExpr>>,
    order: &[(bool, bool)],
    input: &Schema,
) -> DataFusionResult<Vec<SortColumn>> {
    let column = |(expr, (descending, nulls_first)): (Arc<dyn PhysicalExpr>, &(bool, bool))| {
        let field = expr.return_field(input)?;
        SortColumn::new(expr, field, *descending, *nulls_first)
    };
    columns.into_iter().zip(order).map(column).collect()
}

/// The columns of the key of a partial aggregation.
fn columns_of(partials: &Partials) -> Vec<Arc<dyn PhysicalExpr>> {
    let keys = partials.key_schema.fields().iter().enumerate();
    keys.map(|(index, field)| Arc::new(Column::new(field.name(), index)) as Arc<dyn PhysicalExpr>).collect()
}
