//! Joins of streams, which remember both.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{DFSchema, DFSchemaRef, JoinType, NullEquality, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    Expr, ExprSchemable, Extension, Join, LogicalPlan, UserDefinedLogicalNodeCore,
};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::bounds::{Forgetting, forgetting};
use super::node::{Kind, StreamingNode};
use crate::error::Error;
use crate::exec::codec::RowCodec;
use crate::exec::join::{Condition, JoinSide, Role, StatefulJoin};
use crate::exec::operator::OperatorId;
use crate::exec::stateful::Stateful;

/// A join of two streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JoinNode {
    /// The number of what is remembered of the left side; that of the right is the next.
    pub(super) operator: usize,
    join_type: JoinType,
    pub(super) inputs: [LogicalPlan; 2],
    pub(super) on: Vec<(Expr, Expr)>,
    pub(super) filter: Option<Expr>,
    null_equality: NullEquality,
    /// When rows of each side can be forgotten, over their columns; `None` if they never can.
    finals: [Option<Expr>; 2],
    /// How long after the watermark has passed their event time its rows may come, in microseconds.
    pub(super) delay: i64,
    schema: DFSchemaRef,
}

impl JoinNode {
    /// Of a plan node, if it is one.
    pub(super) fn of(plan: &LogicalPlan) -> Option<&Self> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }
}

/// How long after the watermark has passed their event time rows of `plan` may come, in microseconds: a join
/// gives rows of which one has waited for the other, and a window function those that have waited for later ones.
pub(super) fn delay_below(plan: &LogicalPlan) -> i64 {
    match (JoinNode::of(plan), StreamingNode::of(plan).map(|node| &node.kind)) {
        (Some(join), _) => join.delay,
        (_, Some(Kind::Over { delay, .. })) => *delay,
        _ => plan.inputs().into_iter().map(delay_below).max().unwrap_or(0),
    }
}

/// How many numbers of operators a join takes: one for each side.
pub(super) const OPERATORS: usize = 2;

/// `join` with state: late rows left out below it, and the rows of both sides remembered, as operator
/// `operator` and the next. Also whether it has something to do when the watermark advances. `ttl` is how long after
/// their event time rows are remembered that the condition does not let be forgotten.
pub(super) fn stateful_join(
    join: Join,
    operator: usize,
    ttl: Option<i64>,
) -> DataFusionResult<(LogicalPlan, bool)> {
    let join = without_null_awareness(join)?;
    check_types(&join)?;
    let delays = [delay_below(&join.left), delay_below(&join.right)];
    let [mut of_left, mut of_right] = [true, false].map(|of_left| forgetting(&join, of_left, delays));
    check_bounds(&join, [&of_left, &of_right])?;
    let mut waits = false;
    if let Some(ttl) = ttl {
        waits |= of_left.forget_after(ttl, join.left.schema(), delays[0]);
        waits |= of_right.forget_after(ttl, join.right.schema(), delays[1]);
        check_ttl([&of_left, &of_right])?;
    }
    let Join { left, right, on, filter, join_type, schema, null_equality, .. } = join;
    let mut late_filter = |input: Arc<LogicalPlan>, late: Option<Expr>, operator: usize| {
        let input = Arc::unwrap_or_clone(input);
        let Some(late) = late else { return input };
        waits = true;
        StreamingNode::over(input, Kind::LateFilter { operator }, vec![late])
    };
    // Rows are late for what is remembered of the other side.
    let left = late_filter(left, of_right.late(), operator);
    let right = late_filter(right, of_left.late(), operator + 1);
    let behind = [of_left.behind, of_right.behind].into_iter().flatten();
    let delay = behind.chain(delays).fold(0, i64::max);
    let node = JoinNode {
        operator,
        join_type,
        inputs: [left, right],
        on,
        filter,
        null_equality,
        finals: [of_left.expiry(), of_right.expiry()],
        delay,
        schema,
    };
    Ok((LogicalPlan::Extension(Extension { node: Arc::new(node) }), waits))
}

/// `NOT IN` leaves a row out that equals another, and also one that may: where one of the two is null. With
/// this as a condition it is an anti join like any other, whose rows may all match one another.
fn without_null_awareness(mut join: Join) -> DataFusionResult<Join> {
    if !std::mem::take(&mut join.null_aware) {
        return Ok(join);
    }
    let mut nullable = false;
    for (left, right) in &join.on {
        nullable |= left.nullable(join.left.schema())? || right.nullable(join.right.schema())?;
    }
    if nullable {
        let equal = std::mem::take(&mut join.on).into_iter();
        let equal = equal.map(|(left, right)| left.eq(right).is_not_false());
        join.filter = conjunction(equal.chain(join.filter));
    }
    Ok(join)
}

/// Rows are kept as bytes.
fn check_types(join: &Join) -> DataFusionResult<()> {
    let columns = [&join.left, &join.right].into_iter().flat_map(|side| side.schema().iter());
    for (qualifier, field) in columns {
        if !RowCodec::supports(field.data_type()) {
            let name = qualifier.map_or_else(String::new, |qualifier| format!("{qualifier}."));
            return Err(Error::UnsupportedQuery {
                operator: format!("a join of two streams with the column {name}{}", field.name()),
                reason: format!("values of type {} cannot be kept in state", field.data_type()),
                advice: "Leave the column out below the join, or cast it to another type, e.g. VARCHAR"
                    .into(),
            }
            .into());
        }
    }
    Ok(())
}

/// A row that is given when it has no match needs a time when that is known.
fn check_bounds(join: &Join, forgetting: [&Forgetting; 2]) -> DataFusionResult<()> {
    let sides = Role::of(join.join_type).into_iter().zip(forgetting).zip(["left", "right"]);
    for ((role, forgetting), side) in sides {
        if role.waits() && forgetting.finals.is_empty() {
            let other = if side == "left" { "right" } else { "left" };
            return Err(Error::UnsupportedQuery {
                operator: format!("a {} join of two streams without a bound of time", join.join_type),
                reason: format!(
                    "when a row of the {side} side has no match is never known: the condition does not bound an \
                     event time of the {other} side from above"
                ),
                advice: format!(
                    "Give the {other} side a watermark (with_watermark, or WATERMARK FOR in CREATE UNBOUNDED \
                     EXTERNAL TABLE), and add a condition such as {other}.ts <= {side}.ts + INTERVAL '1 hour' or \
                     {other}.ts BETWEEN … AND …, or join by equal windows; or use an inner join"
                ),
            }
            .into());
        }
    }
    Ok(())
}

/// A time to live needs a time. What a query does not ask for is not there any more.
fn check_ttl(forgetting: [&Forgetting; 2]) -> DataFusionResult<()> {
    for (forgetting, side) in forgetting.into_iter().zip(["left", "right"]) {
        if forgetting.finals.is_empty() {
            return Err(Error::UnsupportedQuery {
                operator: "stateTtl, over a join of two streams without a bound of time,".into(),
                reason: format!(
                    "how old the rows of the {side} side are is not known: the query does not use their event time"
                ),
                advice: format!(
                    "Give the {side} side a watermark, and select its event time or name it in the join's condition"
                ),
            }
            .into());
        }
    }
    Ok(())
}

impl Hash for JoinNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.operator.hash(state);
        self.join_type.hash(state);
        self.on.hash(state);
        self.filter.hash(state);
        self.inputs.hash(state);
    }
}

impl PartialOrd for JoinNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for JoinNode {
    fn name(&self) -> &str {
        "StatefulJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.inputs.iter().collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    /// Each is over columns of other nodes, and so not for others to look at.
    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on: Vec<String> = self.on.iter().map(|(left, right)| format!("{left} = {right}")).collect();
        write!(
            f,
            "StatefulJoin: operator={}, type={}, on=[{}]",
            self.operator,
            self.join_type,
            on.join(", ")
        )?;
        if let Some(filter) = &self.filter {
            write!(f, ", filter={filter}")?;
        }
        for (side, expiry) in ["left", "right"].into_iter().zip(&self.finals) {
            match expiry {
                Some(expiry) => write!(f, ", {side}_final={expiry}")?,
                None => write!(f, ", {side}_final=never (its state grows)")?,
            }
        }
        Ok(())
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        match inputs.try_into() {
            Ok(inputs) => Ok(Self { inputs, ..self.clone() }),
            Err(_) => internal_err!("a join needs two inputs"),
        }
    }
}

/// Makes physical expressions over rows of a schema.
type Physical<'a> = &'a (dyn Fn(&Expr, &DFSchema) -> DataFusionResult<Arc<dyn PhysicalExpr>> + Sync);

/// A join that is being planned.
pub(super) struct PlanningJoin<'a> {
    pub(super) join: &'a JoinNode,
    pub(super) inputs: [&'a Arc<dyn ExecutionPlan>; 2],
    pub(super) physical: Physical<'a>,
    pub(super) state_partitions: usize,
    pub(super) small: bool,
}

impl PlanningJoin<'_> {
    pub(super) fn plan(self) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let join = self.join;
        let (left, right) = join.on.iter().cloned().unzip::<_, _, Vec<_>, Vec<_>>();
        let keys = [self.expressions(0, &left)?, self.expressions(1, &right)?];
        let [left_role, right_role] = Role::of(join.join_type);
        let sides = [self.side(0, left_role, &keys[0])?, self.side(1, right_role, &keys[1])?];
        let [left, right] = self.inputs.map(|input| input.schema());
        let condition = match &join.filter {
            None => None,
            Some(filter) => {
                let both = join.inputs[0].schema().join(join.inputs[1].schema())?;
                let expr = (self.physical)(filter, &both)?;
                let fields = left.fields().iter().chain(right.fields()).cloned().collect::<Vec<_>>();
                let both = datafusion::arrow::datatypes::Schema::new(fields);
                Some(Condition::new(expr, &both, left.fields().len())?)
            }
        };
        let state_partitions = if join.on.is_empty() { 1 } else { self.state_partitions };
        let work = StatefulJoin {
            join_type: join.join_type,
            sides,
            condition,
            condition_text: join.filter.as_ref().map(ToString::to_string),
            nulls_equal: join.null_equality == NullEquality::NullEqualsNull,
            schema: Arc::clone(join.schema.inner()),
        };
        let operator = OperatorId { id: join.operator, state_partitions };
        let inputs = self.inputs.map(Arc::clone).into_iter().zip(keys).collect();
        Stateful::over_all(inputs, operator, Arc::new(work), self.small)
    }

    fn expressions(&self, side: usize, exprs: &[Expr]) -> DataFusionResult<Vec<Arc<dyn PhysicalExpr>>> {
        let schema = self.join.inputs[side].schema();
        exprs.iter().map(|expr| (self.physical)(expr, schema)).collect()
    }

    fn side(&self, side: usize, role: Role, keys: &[Arc<dyn PhysicalExpr>]) -> DataFusionResult<JoinSide> {
        let expiry = self.expressions(side, self.join.finals[side].as_slice())?.pop();
        JoinSide::new(role, self.inputs[side].schema(), keys.to_vec(), expiry)
    }
}
