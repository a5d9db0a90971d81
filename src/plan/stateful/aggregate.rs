//! Aggregations that remember their groups.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Projection};

use super::join::delay_below;
use super::node::{Kind, StreamingNode};
use super::rewrite::{Rewriter, has_row_format};
use crate::error::Error;
use crate::plan::distinct_sets::Copied;
use crate::plan::event_time::{EventTimeKey, event_time_key};
use crate::plan::group_key::final_key;
use crate::plan::sessions::session_key;
use crate::sink::OutputMode;

/// `aggregate` with state: late rows left out below it, the first of several equal arguments marked
/// for functions over distinct ones, and its groups remembered.
pub(super) fn stateful_aggregate(
    rewriter: &mut Rewriter,
    aggregate: Aggregate,
) -> DataFusionResult<LogicalPlan> {
    let Aggregate { input, group_expr, aggr_expr, .. } = aggregate;
    let sets = group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_)));
    let session = session_key(&group_expr, input.schema());
    let delay = delay_below(&input);
    // In complete mode nothing is ever forgotten, and so nothing is late.
    let key = match rewriter.mode {
        OutputMode::Complete => None,
        _ => match session {
            Some(index) => event_time_key(&group_expr[index], input.schema()).map(|key| (index, key)),
            None => final_key(&group_expr, input.schema()),
        }
        .map(|(index, key)| (index, key.delayed(delay))),
    };
    let late_at = key.as_ref().map(|(_, key)| key);
    let mut input = (*input).clone();
    let placeholder = usize::MAX;
    let mut raw_expiry = None;
    if let Some(key) = late_at {
        (input, raw_expiry) = match without_late_copies(&input, key, placeholder)? {
            Some(filtered) => {
                rewriter.waits_for_watermark();
                (filtered, Some(key.final_at_raw()))
            }
            None => rewriter.expiring(input, placeholder, late_at),
        };
    }
    let mut marks = Marks { expiry: raw_expiry, made: Vec::new(), of_sessions: session.is_some() };
    let aggr_expr = aggr_expr
        .into_iter()
        .map(|expr| marks.make_plain(rewriter, expr, &group_expr, sets, &mut input))
        .collect::<DataFusionResult<Vec<_>>>()?;
    let operator = rewriter.next_operator();
    let input = number_late_filter(input, placeholder, operator)?;
    let plain = Aggregate::try_new(Arc::new(input), group_expr, aggr_expr)?;
    if let Some(session) = session {
        let (mode, delay) = (rewriter.mode, key.map(|_| delay));
        let kind = Kind::Sessions { operator, mode, session, delay };
        return Ok(StreamingNode::over(LogicalPlan::Aggregate(plain), kind, Vec::new()));
    }
    let expiry = key.map(|(index, key)| final_at(&key, index, &plain.schema));
    let node = StreamingNode::over(
        LogicalPlan::Aggregate(plain),
        Kind::Aggregate { operator, mode: rewriter.mode },
        expiry.into_iter().collect(),
    );
    Ok(node)
}

/// When a group is final, over the columns of the result.
fn final_at(key: &EventTimeKey, index: usize, schema: &DFSchema) -> Expr {
    key.final_at_key(Expr::Column(Column::from(schema.qualified_field(index))))
}

/// `input` without late rows if it copies each row for several grouping sets: a late row is one row, however many
/// copies of it there would be. `None` if it does not, or if it depends on the set whether a copy is late.
fn without_late_copies(
    input: &LogicalPlan,
    key: &EventTimeKey,
    operator: usize,
) -> DataFusionResult<Option<LogicalPlan>> {
    let Some(copied) = Copied::of(input) else { return Ok(None) };
    let expiry = key.final_at_raw();
    if expiry.column_refs().into_iter().any(|column| *column == copied.number) {
        return Ok(None);
    }
    let Projection { expr, input: rows, schema, .. } = copied.projection;
    let expiry = expiry.transform(|part| match &part {
        Expr::Column(column) => Ok(Transformed::yes(expr[schema.index_of_column(column)?].clone().unalias())),
        _ => Ok(Transformed::no(part)),
    })?;
    let kind = Kind::LateFilter { operator };
    let filtered = StreamingNode::over(rows.as_ref().clone(), kind, vec![expiry.data]);
    let projection = Projection::try_new(expr.clone(), Arc::new(filtered))?;
    let copies = input.with_new_exprs(input.expressions(), vec![LogicalPlan::Projection(projection)])?;
    Ok(Some(copies))
}

/// The late filter is below the operator and made before the operator has its number.
fn number_late_filter(plan: LogicalPlan, from: usize, to: usize) -> DataFusionResult<LogicalPlan> {
    if Copied::of(&plan).is_some() {
        let number = |plan| number_late_filter(plan, from, to).map(Transformed::yes);
        return Ok(plan.map_children(|projection| projection.map_children(number))?.data);
    }
    let Some(node) = StreamingNode::of(&plan) else { return Ok(plan) };
    let mut node = node.clone();
    match &mut node.kind {
        Kind::LateFilter { operator } if *operator == from => *operator = to,
        Kind::MarkDistinct { .. } => node.input = number_late_filter(node.input, from, to)?,
        _ => return Ok(plan),
    }
    Ok(node.into_plan())
}

/// The columns that mark first sightings below one aggregation.
struct Marks {
    expiry: Option<Expr>,
    /// Whether the groups are of sessions.
    of_sessions: bool,
    /// The arguments and filter of each, and its column.
    made: Vec<(Vec<Expr>, Option<Expr>, Column)>,
}

impl Marks {
    /// A function over distinct arguments as one over marked rows; any other as it is.
    fn make_plain(
        &mut self,
        rewriter: &mut Rewriter,
        expr: Expr,
        group_expr: &[Expr],
        sets: bool,
        input: &mut LogicalPlan,
    ) -> DataFusionResult<Expr> {
        let name = expr.schema_name().to_string();
        let Expr::AggregateFunction(mut function) = expr.clone().unalias() else { return Ok(expr) };
        if !function.params.distinct {
            return Ok(expr);
        }
        if self.of_sessions {
            return Err(Error::UnsupportedQuery {
                operator: format!("{name} of sessions"),
                reason: "the distinct values of two sessions would have to be united when these are merged"
                    .into(),
                advice: "Use array_agg, or an approximate function such as approx_distinct".into(),
            }
            .into());
        }
        if sets {
            return Err(Error::UnsupportedQuery {
                operator: format!("{name} with grouping sets, over an unbounded table"),
                reason: "the distinct values of every set would have to be remembered apart".into(),
                advice: "Write one query per grouping set".into(),
            }
            .into());
        }
        let mark = self.mark(rewriter, &function, group_expr, input)?;
        function.params.distinct = false;
        function.params.filter = Some(Box::new(Expr::Column(mark)));
        Ok(Expr::AggregateFunction(function).alias(name))
    }

    /// The column that is true for the first row with each value of the arguments.
    fn mark(
        &mut self,
        rewriter: &mut Rewriter,
        function: &AggregateFunction,
        group_expr: &[Expr],
        input: &mut LogicalPlan,
    ) -> DataFusionResult<Column> {
        let arguments = function.params.args.clone();
        let filter = function.params.filter.as_deref().cloned();
        let known = self.made.iter().find(|(args, only, _)| *args == arguments && *only == filter);
        if let Some((_, _, column)) = known {
            return Ok(column.clone());
        }
        for argument in &arguments {
            if !has_row_format(argument, input)? {
                return Err(Error::UnsupportedQuery {
                    operator: format!("DISTINCT {argument} over an unbounded table"),
                    reason: "values of its type cannot be kept in state".into(),
                    advice: "Cast it to another type, e.g. VARCHAR".into(),
                }
                .into());
            }
        }
        let name = format!("__first_{}", self.made.len());
        let mark = Arc::new(Field::new(&name, DataType::Boolean, false));
        let mut fields: Vec<_> =
            input.schema().iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
        fields.push((None, mark));
        let schema = DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?;

        let keys: Vec<Expr> = group_expr.iter().chain(&arguments).map(|key| key.clone().unalias()).collect();
        let kind = Kind::MarkDistinct {
            operator: rewriter.next_operator(),
            keys: keys.len(),
            expires: self.expiry.is_some(),
            forgets_nulls: self.expiry.is_some() && rewriter.mode == OutputMode::Append,
        };
        let expressions = keys.into_iter().chain(self.expiry.clone()).chain(filter.clone()).collect();
        *input =
            StreamingNode { kind, expressions, input: input.clone(), schema: Arc::new(schema) }.into_plan();
        let column = Column::new_unqualified(name);
        self.made.push((arguments, filter, column.clone()));
        Ok(column)
    }
}
