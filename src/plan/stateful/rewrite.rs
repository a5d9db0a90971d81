//! Putting operators with state in the place of those that would have to see all rows at once.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchemaRef, ScalarValue};
use datafusion::datasource::source_as_provider;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    Aggregate, EmptyRelation, Expr, ExprSchemable, Extension, FetchType, Join, Limit, LogicalPlan,
    LogicalPlanBuilder, SkipType, Window, lit, when,
};

use super::aggregate::stateful_aggregate;
use super::join::{OPERATORS, delay_below, stateful_join};
use super::node::{Kind, StreamingNode, WatermarkDelay};
use super::recorded_order::{in_order_of, in_recorded_order};
use super::transform::{self, stateful_transform};
use crate::error::{Error, Result};
use crate::exec::codec::RowCodec;
use crate::exec::over::Manner;
use crate::exec::processor::TimeMode;
use crate::plan::bind::BoundTable;
use crate::plan::deduplicate::Deduplicate;
use crate::plan::distinct_sets::with_grand_totals;
use crate::plan::event_time::{EventTimeKey, event_time_key};
use crate::plan::kept::KeptColumns;
use crate::plan::observe::Observe;
use crate::plan::over::Over;
use crate::plan::sessions::session_key;
use crate::plan::top_n::TopN;
use crate::plan::transform::{Transform, event_time};
use crate::plan::watermark::Watermark;
use crate::sink::OutputMode;

/// Microseconds per millisecond.
const MICROS: i64 = 1000;

/// A plan for batches.
#[derive(Debug)]
pub(crate) struct Rewritten {
    pub(crate) plan: LogicalPlan,
    /// Its watermarks, by index.
    pub(crate) watermarks: Vec<WatermarkDelay>,
    /// Whether the time alone makes it give rows or forget state: whether a watermark that advances
    /// is worth a batch without new rows.
    pub(crate) waits_for_watermark: bool,
}

/// `plan`, which is checked, bound and optimised, as one that remembers. Stateful operators are
/// numbered from the leaves up, inputs from left to right. `ttl` says how long after their event time rows are
/// remembered that nothing else lets be forgotten, in microseconds. Rows are kept with their columns in the order of
/// those that are `kept` already.
pub(crate) fn rewrite(
    plan: LogicalPlan,
    mode: OutputMode,
    ttl: Option<i64>,
    kept: &KeptColumns,
) -> Result<Rewritten> {
    let mut rewriter = Rewriter { mode, ttl, kept, operators: 0, watermarks: Vec::new(), waits: false };
    let plan = plan.transform_up(|node| rewriter.node(node))?.data;
    Ok(Rewritten { plan, watermarks: rewriter.watermarks, waits_for_watermark: rewriter.waits })
}

/// `node`; nothing, if it is one of ours above what the optimiser found to have no rows.
fn without_rows(node: LogicalPlan) -> Transformed<LogicalPlan> {
    let is_ours = |extension: &Extension| {
        let node = extension.node.as_any();
        node.is::<Watermark>() || node.is::<Deduplicate>() || node.is::<Transform>() || node.is::<Observe>()
    };
    match &node {
        LogicalPlan::Extension(extension) if is_ours(extension) => match extension.node.inputs().as_slice() {
            [LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, .. }), ..] => {
                let schema = Arc::clone(extension.node.schema());
                let nothing = EmptyRelation { produce_one_row: false, schema };
                Transformed::yes(LogicalPlan::EmptyRelation(nothing))
            }
            _ => Transformed::no(node),
        },
        _ => Transformed::no(node),
    }
}

/// What is known of the plan so far.
pub(super) struct Rewriter<'a> {
    pub(super) mode: OutputMode,
    ttl: Option<i64>,
    kept: &'a KeptColumns,
    operators: usize,
    watermarks: Vec<WatermarkDelay>,
    waits: bool,
}

impl Rewriter<'_> {
    /// The number of the next operator.
    pub(super) fn next_operator(&mut self) -> usize {
        self.operators += 1;
        self.operators - 1
    }

    /// Notes that an operator has something to do when the watermark advances.
    pub(super) fn waits_for_watermark(&mut self) {
        self.waits = true;
    }

    fn node(&mut self, node: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
        if !node.inputs().iter().any(|input| is_stream(input)) {
            return Ok(without_rows(node));
        }
        // In complete mode an aggregation gives its whole result, so all above is batch work.
        if self.mode == OutputMode::Complete && node.inputs().iter().all(|input| is_whole(input)) {
            if let Some(first) = TopN::of(&node) {
                return first.in_batch().map(Transformed::yes);
            }
            if let LogicalPlan::Aggregate(aggregate) = &node
                && let Some(plan) = with_grand_totals(aggregate)?
            {
                return Ok(Transformed::yes(plan));
            }
            return Ok(Transformed::no(node));
        }
        let keeps_rows = match &node {
            LogicalPlan::Join(join) => is_stream(&join.left) && is_stream(&join.right),
            LogicalPlan::Window(_) => true,
            node => TopN::of(node).is_some(),
        };
        if !keeps_rows {
            return self.operator(node);
        }
        let tables = self.operators..self.operators + node.inputs().len();
        let recorded: Vec<&[String]> = tables.map(|table| self.kept.columns(table)).collect();
        let moved = in_recorded_order(node.clone(), &recorded)?;
        if !moved.transformed {
            return self.operator(node);
        }
        let operator = self.operator(moved.data)?.data;
        in_order_of(operator, &node).map(Transformed::yes)
    }

    /// What remembers in the place of `node`.
    fn operator(&mut self, node: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
        match node {
            LogicalPlan::Aggregate(aggregate) if self.is_distinct(&aggregate) => {
                self.distinct(aggregate).map(Transformed::yes)
            }
            LogicalPlan::Aggregate(aggregate) => stateful_aggregate(self, aggregate).map(Transformed::yes),
            LogicalPlan::Limit(limit) => self.limit(limit).map(Transformed::yes),
            LogicalPlan::Window(window) => self.over(&window).map(Transformed::yes),
            LogicalPlan::Join(join) if is_stream(&join.left) && is_stream(&join.right) => {
                self.join(join).map(Transformed::yes)
            }
            LogicalPlan::Extension(extension) => {
                let node = extension.node.as_any();
                if let Some(watermark) = node.downcast_ref::<Watermark>() {
                    Ok(Transformed::yes(self.watermark(watermark, extension.node.schema())))
                } else if let Some(first) = node.downcast_ref::<TopN>() {
                    let schema = Arc::clone(extension.node.schema());
                    Ok(Transformed::yes(self.top_n(first, schema)))
                } else if let Some(deduplicate) = node.downcast_ref::<Deduplicate>() {
                    self.deduplicate(deduplicate).map(Transformed::yes)
                } else if let Some(transform) = node.downcast_ref::<Transform>() {
                    self.transform(transform).map(Transformed::yes)
                } else {
                    Ok(Transformed::no(LogicalPlan::Extension(extension)))
                }
            }
            other => Ok(Transformed::no(other)),
        }
    }

    fn watermark(&mut self, watermark: &Watermark, schema: &DFSchemaRef) -> LogicalPlan {
        let index = self.watermarks.len();
        let column = watermark.column().clone();
        let delay_ms = i64::try_from(watermark.delay().as_millis()).unwrap_or(i64::MAX);
        self.watermarks.push(WatermarkDelay { column: column.name.clone(), delay_ms });
        let input = watermark.input().clone();
        let node = StreamingNode {
            kind: Kind::Watermark { index, delay_ms },
            expressions: vec![Expr::Column(column)],
            input,
            schema: Arc::clone(schema),
        };
        node.into_plan()
    }

    /// Whether an aggregation only tells which groups there are.
    fn is_distinct(&self, aggregate: &Aggregate) -> bool {
        let sets = aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_)));
        let has_session = session_key(&aggregate.group_expr, aggregate.input.schema()).is_some();
        aggregate.aggr_expr.is_empty() && !sets && !has_session && self.mode != OutputMode::Complete
    }

    /// A group is known, and final, as soon as its first row is there.
    fn distinct(&mut self, aggregate: Aggregate) -> DataFusionResult<LogicalPlan> {
        let Aggregate { input, group_expr, schema, .. } = aggregate;
        let keys: Vec<EventTimeKey> = group_expr.iter().filter_map(|key| self.key(key, &input)).collect();
        let operator = self.next_operator();
        let (input, expiry) = self.expiring((*input).clone(), operator, keys.first());
        let names = schema.iter().map(|(qualifier, field)| (qualifier.cloned(), field.name().clone()));
        let mut columns = Vec::with_capacity(group_expr.len() + 1);
        for (key, (qualifier, name)) in group_expr.into_iter().zip(names) {
            let data_type = key.get_type(input.schema())?;
            columns.push(match &key {
                // As DataFusion's aggregation gives it: the sum is 0.0 for -0.0 too.
                _ if data_type.is_floating() => {
                    (key + lit(ScalarValue::new_zero(&data_type)?)).alias_qualified(qualifier, name)
                }
                Expr::Column(_) => key,
                _ => key.alias_qualified(qualifier, name),
            });
        }
        let width = columns.len();
        // Computed before the projection, for the projection may have lost what it needs.
        if let Some(expiry) = expiry {
            columns.push(expiry.alias(FINAL_COLUMN));
        }
        let projected = LogicalPlanBuilder::from(input).project(columns)?.build()?;
        let all: Vec<Expr> = projected.schema().columns().into_iter().map(Expr::Column).collect();
        let keys = all[..width].to_vec();
        let deduplicated = StreamingNode::over(
            projected,
            Kind::Deduplicate { operator, keys: width, within_watermark: false },
            all,
        );
        LogicalPlanBuilder::from(deduplicated).project(keys)?.build()
    }

    fn deduplicate(&mut self, node: &Deduplicate) -> DataFusionResult<LogicalPlan> {
        let input = node.input().clone();
        let keys: Vec<Expr> = node.columns().iter().cloned().map(Expr::Column).collect();
        let operator = self.next_operator();
        let (input, expiry) = if node.within_watermark() {
            let (key, delay_ms) = self.event_time_of(&input).ok_or_else(|| Error::UnsupportedQuery {
                operator: "drop_duplicates_within_watermark".into(),
                reason: "its input has no watermark, so a key could never be forgotten".into(),
                advice: "Define one with with_watermark(column, delay) before it, or use drop_duplicates"
                    .into(),
            })?;
            let (input, time) = self.expiring(input, operator, Some(&key));
            // Without a time a row would be remembered for ever; as in Spark it counts as one of 1970.
            let delay = delay_ms.saturating_mul(MICROS);
            let until = |time: Expr| {
                when(time.clone().is_null(), lit(delay))
                    .when(time.clone().gt(lit(i64::MAX - delay)), lit(i64::MAX))
                    .otherwise(time + lit(delay))
            };
            (input, time.map(until).transpose()?)
        } else {
            let key = keys.iter().find_map(|key| self.key(key, &input));
            self.expiring(input, operator, key.as_ref())
        };
        let within_watermark = node.within_watermark();
        let kind = Kind::Deduplicate { operator, keys: keys.len(), within_watermark };
        Ok(StreamingNode::over(input, kind, keys.into_iter().chain(expiry).collect()))
    }

    /// `input` without late rows, and when the rest are final, if `key` is what makes them final.
    pub(super) fn expiring(
        &mut self,
        input: LogicalPlan,
        operator: usize,
        key: Option<&EventTimeKey>,
    ) -> (LogicalPlan, Option<Expr>) {
        let Some(key) = key else { return (input, None) };
        self.waits_for_watermark();
        let expiry = key.final_at_raw();
        let filtered = StreamingNode::over(input, Kind::LateFilter { operator }, vec![expiry.clone()]);
        (filtered, Some(expiry))
    }

    fn join(&mut self, join: Join) -> DataFusionResult<LogicalPlan> {
        let (plan, waits) = stateful_join(join, self.operators, self.ttl)?;
        self.operators += OPERATORS;
        self.waits |= waits;
        Ok(plan)
    }

    fn transform(&mut self, transform: &Transform) -> DataFusionResult<LogicalPlan> {
        let operator = self.operators;
        self.operators += transform::OPERATORS;
        if transform.time_mode == TimeMode::EventTime {
            self.waits_for_watermark();
        }
        let time = event_time(&transform.input).map(Expr::Column);
        let key = time.and_then(|time| self.key(&time, &transform.input));
        stateful_transform(transform, operator, key, delay_below(&transform.input))
    }

    fn top_n(&mut self, first: &TopN, schema: DFSchemaRef) -> LogicalPlan {
        let input = first.input.clone();
        let operator = self.next_operator();
        let keys: Vec<Expr> = first.keys.iter().cloned().map(Expr::Column).collect();
        let key = match self.mode {
            OutputMode::Complete => None,
            _ => keys.iter().find_map(|key| self.key(key, &input)),
        };
        let (input, expiry) = self.expiring(input, operator, key.as_ref());
        let kind = Kind::TopN {
            operator,
            mode: self.mode,
            keys: keys.len(),
            order: first.order.iter().map(|order| (order.descending, order.nulls_first)).collect(),
            rank: first.rank,
            limit: first.limit,
        };
        let order = first.order.iter().map(|order| Expr::Column(order.column.clone()));
        let expressions = keys.into_iter().chain(order).chain(expiry).collect();
        StreamingNode { kind, expressions, input, schema }.into_plan()
    }

    fn over(&mut self, window: &Window) -> DataFusionResult<LogicalPlan> {
        let over = Over::of(window)?;
        let operator = self.next_operator();
        if over.functions.iter().any(|(_, manner)| *manner != Manner::Framed) {
            // The second table.
            self.next_operator();
        }
        let input = window.input.as_ref().clone();
        let before = delay_below(&input);
        let (input, expiry) = self.expiring(input, operator, Some(&over.time.delayed(before)));
        let (functions, manners): (Vec<Expr>, Vec<_>) = over.functions.into_iter().unzip();
        let kind = Kind::Over {
            operator,
            keys: over.keys.len(),
            order: over.order.iter().map(|order| (!order.asc, order.nulls_first)).collect(),
            functions: manners,
            reach: over.reach,
            delay: before.saturating_add(over.reach.micros_after),
        };
        let order = over.order.into_iter().map(|order| order.expr);
        let expressions = over.keys.into_iter().chain(order).chain(expiry).chain(functions).collect();
        Ok(StreamingNode { kind, expressions, input, schema: Arc::clone(&window.schema) }.into_plan())
    }

    /// `expr`, a key over the rows of `input`, if it becomes final as the watermark advances.
    fn key(&self, expr: &Expr, input: &LogicalPlan) -> Option<EventTimeKey> {
        Some(event_time_key(expr, input.schema())?.delayed(delay_below(input)))
    }

    /// The column of `plan` that is an event time, and the delay of its watermark.
    fn event_time_of(&self, plan: &LogicalPlan) -> Option<(EventTimeKey, i64)> {
        let columns = plan.schema().columns();
        let key = columns.into_iter().find_map(|column| self.key(&Expr::Column(column), plan))?;
        Some((key, delay_of(plan)?))
    }

    fn limit(&mut self, limit: Limit) -> DataFusionResult<LogicalPlan> {
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) =
            (limit.get_skip_type()?, limit.get_fetch_type()?)
        else {
            return Err(Error::UnsupportedQuery {
                operator: "LIMIT or OFFSET with an expression".into(),
                reason: "its value must be known when the query starts".into(),
                advice: "Use a number".into(),
            }
            .into());
        };
        let operator = self.next_operator();
        let kind = Kind::Limit { operator, skip: skip as u64, fetch: fetch.map(|fetch| fetch as u64) };
        Ok(StreamingNode::over((*limit.input).clone(), kind, Vec::new()))
    }
}

/// The column that says when a row of a deduplication is final.
const FINAL_COLUMN: &str = "__final";

/// Whether `plan`, which is bound, reads an unbounded table.
fn is_stream(plan: &LogicalPlan) -> bool {
    contains(plan, &|node| match node {
        LogicalPlan::TableScan(scan) => source_as_provider(&scan.source)
            .is_ok_and(|provider| provider.downcast_ref::<BoundTable>().is_some()),
        _ => false,
    })
}

/// Whether what `plan` gives per batch does not depend on which rows came before: it reads no
/// unbounded table but through an aggregation that gives its whole result.
fn is_whole(plan: &LogicalPlan) -> bool {
    if let Some(node) = StreamingNode::of(plan)
        && let Kind::Aggregate { mode, .. } | Kind::Sessions { mode, .. } | Kind::TopN { mode, .. } =
            node.kind
        && mode == OutputMode::Complete
    {
        return true;
    }
    match plan.inputs().as_slice() {
        [] => !is_stream(plan),
        inputs => inputs.iter().all(|input| is_whole(input)),
    }
}

fn contains(plan: &LogicalPlan, found: &dyn Fn(&LogicalPlan) -> bool) -> bool {
    found(plan) || plan.inputs().iter().any(|input| contains(input, found))
}

/// The longest delay of the watermarks below.
fn delay_of(plan: &LogicalPlan) -> Option<i64> {
    match StreamingNode::of(plan).map(|node| &node.kind) {
        Some(Kind::Watermark { delay_ms, .. }) => Some(*delay_ms),
        _ => plan.inputs().into_iter().filter_map(delay_of).max(),
    }
}

/// Whether `expr` can be told apart from others of the same kind by bytes.
pub(super) fn has_row_format(expr: &Expr, input: &LogicalPlan) -> DataFusionResult<bool> {
    Ok(RowCodec::supports(&expr.get_type(input.schema())?))
}
