//! The first rows of each key, by an order: `row_number() OVER (PARTITION BY … ORDER BY …) <= n` and its kin.
//!
//! A rank changes with the rows that come later; but which rows have one of the first `n` ranks can be kept up
//! to date with `n` rows per key. So a filter on a rank makes the window function below it a [`TopN`].

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, DFSchemaRef, ScalarValue, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions_window::rank::{dense_rank_udwf, rank_udwf};
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::expr::{Sort as SortExpr, WindowFunction};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Distinct, DistinctOn, Expr, ExprSchemable, Extension, FetchType, Filter, LogicalPlan,
    LogicalPlanBuilder, Operator, Projection, SkipType, Sort, UserDefinedLogicalNodeCore, Window,
    WindowFrame, lit,
};

use super::bind::reads_stream;
use super::event_time::event_time_key;
use super::window_calls::unused_name;
use crate::exec::top_n::Ranking;
use crate::functions::{canonical, described, has_floats, literal, ordered, tag_of, tagged};

/// The column with the rank.
const RANK: &str = "__rank";

/// A column to sort by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Hash)]
pub(crate) struct Order {
    pub(crate) column: Column,
    pub(crate) descending: bool,
    pub(crate) nulls_first: bool,
}

/// Those rows of `input` whose rank among the rows with their key is at most `limit`, with the rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopN {
    pub(crate) input: LogicalPlan,
    pub(crate) keys: Vec<Column>,
    pub(crate) order: Vec<Order>,
    pub(crate) limit: u64,
    pub(crate) rank: Ranking,
    /// Columns that are kept though nothing may read them.
    kept: Vec<Column>,
    schema: DFSchemaRef,
}

impl TopN {
    fn over(
        input: LogicalPlan,
        partition: Vec<Expr>,
        order: Vec<SortExpr>,
        (rank, limit): (Ranking, u64),
    ) -> DataFusionResult<LogicalPlan> {
        let mut taken = input.schema().field_names();
        let mut computed = Vec::new();
        let mut column = |expr: Expr| match expr {
            Expr::Column(column) => column,
            expr => {
                let name = unused_name("__rank_by", &mut taken);
                let definition = expr.to_string();
                computed.push(described(expr, definition).alias(&name));
                Column::new_unqualified(name)
            }
        };
        let keys: Vec<Column> = partition.into_iter().map(&mut column).collect();
        let order: Vec<Order> = order
            .into_iter()
            .map(|SortExpr { expr, asc, nulls_first }| Order {
                column: column(expr),
                descending: !asc,
                nulls_first,
            })
            .collect();
        // All columns, of which the optimiser leaves those out that nothing reads: a projection takes them away also
        // where a filter below needs them.
        let columns = input.schema().columns().into_iter().map(Expr::Column).chain(computed).collect();
        let input = LogicalPlan::Projection(Projection::try_new(columns, Arc::new(input))?);
        let schema = with_rank(input.schema())?;
        let node = Self { input, keys, order, limit, rank, kept: Vec::new(), schema };
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
    }

    /// The same, which keeps the columns that are called as those `recorded` whether anything reads them or not. Of
    /// several with one name it has to be all.
    pub(super) fn keeping(&self, recorded: &[String]) -> LogicalPlan {
        let columns = self.input.schema().columns();
        let count = |name: &str| columns.iter().filter(|column| column.name == name).count();
        let recorded_as = |name: &str| recorded.iter().filter(|recorded| *recorded == name).count();
        let is_kept = |column: &&Column| recorded_as(&column.name) >= count(&column.name);
        let kept = columns.iter().filter(is_kept).cloned().collect();
        LogicalPlan::Extension(Extension { node: Arc::new(Self { kept, ..self.clone() }) })
    }

    /// As a batch query says it, for an input that is there as a whole.
    pub(crate) fn in_batch(&self) -> DataFusionResult<LogicalPlan> {
        let function = match self.rank {
            Ranking::RowNumber => row_number_udwf(),
            Ranking::Rank => rank_udwf(),
            Ranking::DenseRank => dense_rank_udwf(),
        };
        let mut call = WindowFunction::new(function, Vec::new());
        // The node keeps columns as they are; what is equal and in order to it is so here.
        let made = |column: &Column, make: fn(Expr) -> Expr| {
            let column = Expr::Column(column.clone());
            let data_type = column.get_type(self.input.schema());
            if data_type.is_ok_and(|data_type| has_floats(&data_type)) { make(column) } else { column }
        };
        call.params.partition_by = self.keys.iter().map(|key| made(key, canonical)).collect();
        let sort = |order: &Order| made(&order.column, ordered).sort(!order.descending, order.nulls_first);
        call.params.order_by = self.order.iter().map(sort).collect();
        call.params.window_frame = WindowFrame::new(Some(false));
        let call = Expr::from(call);
        let ranked = Expr::Column(Column::new_unqualified(call.schema_name().to_string())).alias(RANK);
        let columns = self.input.schema().columns().into_iter().map(Expr::Column).chain([ranked]);
        LogicalPlanBuilder::from(self.input.clone())
            .window(vec![call])?
            .project(columns.collect::<Vec<_>>())?
            .filter(Expr::Column(Column::new_unqualified(RANK)).lt_eq(lit(self.limit)))?
            .build()
    }

    /// Of a plan node, if it is one.
    pub(crate) fn of(plan: &LogicalPlan) -> Option<&Self> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }
}

/// `columns`, and the rank.
fn with_rank(columns: &DFSchema) -> DataFusionResult<DFSchemaRef> {
    let fields = columns.iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)));
    let rank = Arc::new(Field::new(RANK, DataType::UInt64, false));
    let fields = fields.chain([(None, rank)]).collect();
    Ok(Arc::new(DFSchema::new_with_metadata(fields, columns.metadata().clone())?))
}

/// `plan` with a [`TopN`] in the place of every window function over unbounded tables of which only the first
/// ranks are asked for, of `DISTINCT ON … ORDER BY …`, and below `ORDER BY … LIMIT n`.
pub(super) fn keep_first_ranks(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let replaced = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Filter(filter) if reads_stream(&filter.input) => of_filter(filter),
        LogicalPlan::Distinct(Distinct::On(distinct))
            if distinct.sort_expr.is_some() && reads_stream(&distinct.input) =>
        {
            first_of_each(distinct).map(Transformed::yes)
        }
        LogicalPlan::Limit(limit) if reads_stream(&limit.input) => {
            let (Ok(SkipType::Literal(skip)), Ok(FetchType::Literal(Some(fetch)))) =
                (limit.get_skip_type(), limit.get_fetch_type())
            else {
                return Ok(Transformed::no(LogicalPlan::Limit(limit)));
            };
            let Some(input) = first_of_sorted(&limit.input, skip as u64, fetch as u64)? else {
                return Ok(Transformed::no(LogicalPlan::Limit(limit)));
            };
            Ok(Transformed::yes(input))
        }
        node => Ok(Transformed::no(node)),
    })?;
    Ok(replaced.data)
}

/// `plan`, of which only these rows are asked for, if it sorts; columns may be chosen above that.
fn first_of_sorted(plan: &LogicalPlan, skip: u64, fetch: u64) -> DataFusionResult<Option<LogicalPlan>> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let Some(input) = first_of_sorted(&projection.input, skip, fetch)? else { return Ok(None) };
            let projection = Projection::try_new(projection.expr.clone(), Arc::new(input))?;
            Ok(Some(LogicalPlan::Projection(projection)))
        }
        LogicalPlan::Sort(sort) => first_of_all(sort.clone(), skip, fetch).map(Some),
        _ => Ok(None),
    }
}

/// `ORDER BY … LIMIT fetch OFFSET skip`, without the limit: the ranks are counted.
fn first_of_all(mut sort: Sort, skip: u64, fetch: u64) -> DataFusionResult<LogicalPlan> {
    let columns: Vec<Expr> = sort.input.schema().columns().into_iter().map(Expr::Column).collect();
    let input = Arc::unwrap_or_clone(sort.input);
    let last = skip.saturating_add(fetch);
    let mut first = TopN::over(input, Vec::new(), sort.expr.clone(), (Ranking::RowNumber, last))?;
    if skip > 0 {
        let behind = Expr::Column(Column::new_unqualified(RANK)).gt(lit(skip));
        first = LogicalPlan::Filter(Filter::try_new(behind, Arc::new(first))?);
    }
    sort.input = Arc::new(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(first))?));
    Ok(LogicalPlan::Sort(sort))
}

/// `plan`, if it gives the first rows of each key, with only that key as an event time that says when they are given:
/// they may come long after other times of theirs.
pub(super) fn without_other_times(
    plan: LogicalPlan,
    tagged_projection: impl FnOnce(Projection) -> DataFusionResult<LogicalPlan>,
) -> DataFusionResult<LogicalPlan> {
    let Some(first) = TopN::of(&plan).filter(|first| reads_stream(&first.input)) else { return Ok(plan) };
    let schema = first.input.schema();
    let is_final = |key: &&Column| event_time_key(&Expr::Column((*key).clone()), schema).is_some();
    let Some(awaited) = first.keys.iter().find(is_final) else { return Ok(plan) };
    let mut changed = false;
    let columns = plan.schema().iter().map(|(qualifier, field)| {
        let column = Column::from((qualifier, field));
        if tag_of(field).is_none() || column == *awaited {
            return Expr::Column(column);
        }
        changed = true;
        tagged(Expr::Column(column), None).alias_qualified(qualifier.cloned(), field.name())
    });
    let columns: Vec<Expr> = columns.collect();
    match changed {
        true => tagged_projection(Projection::try_new(columns, Arc::new(plan))?),
        false => Ok(plan),
    }
}

/// Whether `plan` gives the first rows of a stream, of all keys together.
pub(super) fn is_first_of_all(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => is_first_of_all(&projection.input),
        LogicalPlan::Filter(filter) => is_first_of_all(&filter.input),
        plan => TopN::of(plan).is_some_and(|first| first.keys.is_empty()),
    }
}

fn of_filter(filter: Filter) -> DataFusionResult<Transformed<LogicalPlan>> {
    for condition in split_conjunction(&filter.predicate) {
        let Some((column, limit)) = bounded(condition) else { continue };
        let Ok(index) = filter.input.schema().index_of_column(&column) else { continue };
        if let Some(input) = with_limit(&filter.input, index, limit)? {
            return Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(
                filter.predicate,
                Arc::new(input),
            )?)));
        }
    }
    Ok(Transformed::no(LogicalPlan::Filter(filter)))
}

/// The column of which `condition` says that it is at most a number.
fn bounded(condition: &Expr) -> Option<(Column, u64)> {
    let column = |expr: &Expr| match expr.clone().unalias() {
        // As a text, 10 is less than 2.
        Expr::Cast(cast) if cast.field.data_type().is_numeric() => cast.expr.try_as_col().cloned(),
        Expr::Column(column) => Some(column),
        _ => None,
    };
    let number = |expr: &Expr| match literal(expr)?.cast_to(&DataType::Float64).ok()? {
        ScalarValue::Float64(number) => number.filter(|number| (0.0..MOST_RANKS).contains(number)),
        _ => None,
    };
    let upto = |expr: &Expr| Some(number(expr)?.floor() as u64);
    let below = |expr: &Expr| Some((number(expr)?.ceil() as u64).saturating_sub(1));
    match condition {
        Expr::Between(between) if !between.negated => Some((column(&between.expr)?, upto(&between.high)?)),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::LtEq | Operator::Eq if upto(right).is_some() => Some((column(left)?, upto(right)?)),
            Operator::Lt => Some((column(left)?, below(right)?)),
            Operator::GtEq | Operator::Eq => Some((column(right)?, upto(left)?)),
            Operator::Gt => Some((column(right)?, below(left)?)),
            _ => None,
        },
        _ => None,
    }
}

/// Whole numbers below it are exact as floats.
const MOST_RANKS: f64 = (1_u64 << f64::MANTISSA_DIGITS) as f64;

/// `plan`, whose column `index` is at most `limit`, if that is a rank: only rows with these ranks.
fn with_limit(plan: &LogicalPlan, index: usize, limit: u64) -> DataFusionResult<Option<LogicalPlan>> {
    let again = |input: &LogicalPlan, index: usize| -> DataFusionResult<Option<LogicalPlan>> {
        let Some(input) = with_limit(input, index, limit)? else { return Ok(None) };
        plan.with_new_exprs(plan.expressions(), vec![input]).map(Some)
    };
    match plan {
        LogicalPlan::Projection(projection) => match projection.expr[index].clone().unalias() {
            Expr::Column(column) => match projection.input.schema().index_of_column(&column) {
                Ok(index) => again(&projection.input, index),
                Err(_) => Ok(None),
            },
            _ => Ok(None),
        },
        LogicalPlan::SubqueryAlias(alias) => again(&alias.input, index),
        LogicalPlan::Filter(filter) => again(&filter.input, index),
        LogicalPlan::Window(window) => of_window(window, index, limit),
        _ => Ok(None),
    }
}

fn of_window(window: &Window, index: usize, limit: u64) -> DataFusionResult<Option<LogicalPlan>> {
    let inner = window.input.schema().fields().len();
    let ([only], Some(0)) = (window.window_expr.as_slice(), index.checked_sub(inner)) else {
        return Ok(None);
    };
    let Expr::WindowFunction(call) = only.clone().unalias() else { return Ok(None) };
    let WindowFunction { fun, params } = *call;
    let rank = match fun.name() {
        "row_number" => Ranking::RowNumber,
        "rank" => Ranking::Rank,
        "dense_rank" => Ranking::DenseRank,
        _ => return Ok(None),
    };
    if params.filter.is_some() || params.distinct {
        return Ok(None);
    }
    let input = window.input.as_ref().clone();
    let columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    let first = TopN::over(input, params.partition_by, params.order_by, (rank, limit))?;
    let (qualifier, field) = window.schema.qualified_field(inner);
    let ranked =
        Expr::Column(Column::new_unqualified(RANK)).alias_qualified(qualifier.cloned(), field.name());
    let columns = columns.into_iter().chain([ranked]).collect();
    Ok(Some(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(first))?)))
}

fn first_of_each(distinct: DistinctOn) -> DataFusionResult<LogicalPlan> {
    let DistinctOn { on_expr, select_expr, sort_expr, input, .. } = distinct;
    let order =
        sort_expr.unwrap_or_default().into_iter().filter(|sort| !on_expr.contains(&sort.expr)).collect();
    let first = TopN::over(Arc::unwrap_or_clone(input), on_expr, order, (Ranking::RowNumber, 1))?;
    Ok(LogicalPlan::Projection(Projection::try_new(select_expr, Arc::new(first))?))
}

impl Hash for TopN {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.input, &self.keys, &self.order, self.limit, self.rank, &self.kept).hash(state);
    }
}

impl PartialOrd for TopN {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for TopN {
    fn name(&self) -> &str {
        "TopN"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    /// The keys, then the columns to sort by, then those that are kept whatever is read.
    fn expressions(&self) -> Vec<Expr> {
        let order = self.order.iter().map(|order| &order.column);
        self.keys.iter().chain(order).chain(&self.kept).cloned().map(Expr::Column).collect()
    }

    /// Those columns of the rows that are read above. The rank is no column of theirs.
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.input.schema().fields().len();
        Some(vec![output_columns.iter().copied().filter(|column| *column < width).collect()])
    }

    /// A filter on the key lets all rows of a key pass or none.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let others = self.schema.columns().into_iter().filter(|column| !self.keys.contains(column));
        others.map(|column| column.name).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.keys.iter().map(Column::name).collect();
        let order: Vec<String> = self.order.iter().map(ToString::to_string).collect();
        write!(
            f,
            "TopN: {}<={}, keys=[{}], order=[{}]",
            self.rank,
            self.limit,
            keys.join(", "),
            order.join(", ")
        )
    }

    fn with_exprs_and_inputs(
        &self,
        exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> DataFusionResult<Self> {
        let (Some(input), None) = (inputs.pop(), inputs.pop()) else {
            return internal_err!("TopN needs one input");
        };
        let mut columns = Vec::with_capacity(exprs.len());
        for expr in exprs {
            let Expr::Column(column) = expr else { return internal_err!("TopN needs columns, found {expr}") };
            columns.push(column);
        }
        let mut order_columns = columns.split_off(self.keys.len().min(columns.len()));
        let kept = order_columns.split_off(self.order.len().min(order_columns.len()));
        let order = self.order.iter().zip(order_columns);
        let order = order.map(|(order, column)| Order { column, ..order.clone() }).collect();
        let schema = with_rank(input.schema())?;
        Ok(Self { input, keys: columns, order, limit: self.limit, rank: self.rank, kept, schema })
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.descending { "DESC" } else { "ASC" };
        let nulls = if self.nulls_first { "FIRST" } else { "LAST" };
        write!(f, "{} {direction} NULLS {nulls}", self.column)
    }
}
