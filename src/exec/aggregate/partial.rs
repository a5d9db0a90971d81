//! Partial aggregates: what an aggregation is made of, and putting parts together.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, new_null_array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::GroupsAccumulatorAdapter;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;

use serde_json::{Value, json};

use crate::error::Error;
use crate::exec::codec::RowCodec;
use crate::exec::operator::columns;
use crate::types::recorded;

/// How the partial aggregates of a group are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateLayout {
    /// One row per group, replaced when the group is touched.
    Whole,
    /// One row per group and batch that touched it: aggregates like `array_agg` keep every value, and
    /// writing all of them again with each touch would cost the square of their number.
    Parts,
}

/// The names of the keys in each grouping set of `partial`, if there are sets.
fn grouping_sets(partial: &AggregateExec) -> Vec<Vec<String>> {
    let group = partial.group_expr();
    if group.is_single() {
        return Vec::new();
    }
    let keys = |is_null: &Vec<bool>| {
        let keys = group.expr().iter().zip(is_null).filter(|(_, is_null)| !**is_null);
        keys.map(|((_, name), _)| name.clone()).collect()
    };
    group.groups().iter().map(keys).collect()
}

/// Functions whose state has lists, but of a bounded length.
const BOUNDED_SKETCHES: [&str; 3] =
    ["approx_percentile_cont", "approx_percentile_cont_with_weight", "approx_median"];

/// The aggregates of one operator, and the columns of their partial results: first those of the
/// group's key, then those of the state of each function.
#[derive(Debug)]
pub(crate) struct Partials {
    functions: Vec<Arc<AggregateFunctionExpr>>,
    /// The names of the keys in each grouping set, if there are sets.
    sets: Vec<Vec<String>>,
    /// Which of the state columns belong to each function.
    widths: Vec<Range<usize>>,
    /// The columns of the key.
    pub(crate) key_schema: SchemaRef,
    /// The key's columns as bytes.
    pub(crate) keys: RowCodec,
    /// The columns of the state.
    pub(crate) state_fields: Vec<Arc<Field>>,
    /// The state's columns as bytes.
    pub(crate) states: RowCodec,
    pub(crate) layout: StateLayout,
}

impl Partials {
    /// The partial results that `partial`, an aggregation in partial mode, gives.
    pub(crate) fn of(partial: &AggregateExec) -> DataFusionResult<Self> {
        let functions = partial.aggr_expr().to_vec();
        let mut state_fields = Vec::new();
        let mut widths = Vec::new();
        let mut layout = StateLayout::Whole;
        for function in &functions {
            let fields = function.state_fields()?;
            widths.push(state_fields.len()..state_fields.len() + fields.len());
            check_types(function, &fields)?;
            if grows(function, &fields) {
                layout = StateLayout::Parts;
            }
            state_fields.extend(fields);
        }
        let schema = partial.schema();
        let key_columns = schema
            .fields()
            .len()
            .checked_sub(state_fields.len())
            .ok_or_else(|| internal_datafusion_err!("a partial aggregate without its state"))?;
        let key_schema = Arc::new(Schema::new(schema.fields()[..key_columns].to_vec()));
        let keys = RowCodec::keys(key_schema.fields().iter().map(AsRef::as_ref))?;
        let states = RowCodec::values(state_fields.iter().map(AsRef::as_ref))?;
        let sets = grouping_sets(partial);
        Ok(Self { functions, sets, widths, key_schema, keys, state_fields, states, layout })
    }

    /// The grouping sets as a checkpoint records them, in an order of their own: which is first is nothing to the state.
    pub(crate) fn grouping_sets(&self) -> Value {
        let mut sets: Vec<String> = self.sets.iter().map(|keys| format!("({})", keys.join(", "))).collect();
        sets.sort_unstable();
        sets.into_iter().map(|set| json!({ "name": set })).collect()
    }

    /// The functions, with the columns of their states, as a checkpoint records them.
    pub(crate) fn definition(&self) -> DataFusionResult<Value> {
        let describe = |function: &Arc<AggregateFunctionExpr>| {
            Ok(json!({
                "name": function.name(),
                "dataType": recorded(function.field().data_type()),
                "state": columns(function.state_fields()?.iter().map(AsRef::as_ref)),
            }))
        };
        self.functions.iter().map(describe).collect()
    }

    /// The final results of `rows` groups whose partial results are `states`.
    pub(crate) fn results(&self, states: &[ArrayRef], rows: usize) -> DataFusionResult<Vec<ArrayRef>> {
        let has_keys = !self.key_schema.fields().is_empty();
        let all: Vec<usize> = (0..rows).collect();
        let mut results = Vec::with_capacity(self.functions.len());
        for (function, columns) in self.functions.iter().zip(&self.widths) {
            let states = &states[columns.clone()];
            results.push(match states {
                [state] if is_its_state(function, state) => Arc::clone(state),
                _ => {
                    let mut accumulator = accumulator(function, has_keys)?;
                    accumulator.merge_batch(states, &all, rows)?;
                    accumulator.evaluate(EmitTo::All)?
                }
            });
        }
        Ok(results)
    }

    /// The partial results of so many groups without rows, of functions over rows of `input`.
    pub(crate) fn of_no_rows(&self, groups: usize, input: &Schema) -> DataFusionResult<Vec<ArrayRef>> {
        let mut none = self.accumulators()?;
        let all: Vec<usize> = (0..groups).collect();
        // A row for each that does not pass, as DataFusion has it: a group that is only counted has had a value.
        let passes = BooleanArray::from(vec![false; groups]);
        for (function, accumulator) in self.functions.iter().zip(&mut none.accumulators) {
            let mut arguments = function.expressions();
            arguments.extend(function.order_bys().iter().map(|order| Arc::clone(&order.expr)));
            let arguments = arguments
                .iter()
                .map(|argument| Ok(new_null_array(&argument.data_type(input)?, groups)))
                .collect::<DataFusionResult<Vec<_>>>()?;
            accumulator.update_batch(&arguments, &all, Some(&passes), groups)?;
        }
        none.states()
    }

    /// Accumulators without any row.
    pub(crate) fn accumulators(&self) -> DataFusionResult<Accumulators<'_>> {
        let has_keys = !self.key_schema.fields().is_empty();
        let accumulators = self.functions.iter().map(|function| accumulator(function, has_keys));
        let accumulators = accumulators.collect::<DataFusionResult<Vec<_>>>()?;
        Ok(Accumulators { partials: self, accumulators })
    }
}

/// Fails if there are no bytes for the state of `function`.
fn check_types(function: &AggregateFunctionExpr, fields: &[Arc<Field>]) -> DataFusionResult<()> {
    let Some(field) = fields.iter().find(|field| !RowCodec::supports(field.data_type())) else {
        return Ok(());
    };
    Err(Error::UnsupportedQuery {
        operator: format!("{} over an unbounded table", function.name()),
        reason: format!("values of type {} cannot be kept in state", field.data_type()),
        advice: "Aggregate a part of the value, or cast it to another type, e.g. VARCHAR".into(),
    }
    .into())
}

/// Whether the state of `function` grows with the number of rows of a group.
fn grows(function: &AggregateFunctionExpr, fields: &[Arc<Field>]) -> bool {
    let name = function.fun().name();
    let has_lists = fields.iter().any(|field| {
        matches!(field.data_type(), DataType::List(_) | DataType::LargeList(_) | DataType::Map(_, _))
    });
    name == "string_agg" || (has_lists && !BOUNDED_SKETCHES.contains(&name))
}

/// Functions whose result is what they keep.
const RESULT_IS_STATE: [&str; 9] =
    ["count", "sum", "min", "max", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor"];

/// Whether the result of a function is its one column of state.
fn is_its_state(function: &AggregateFunctionExpr, state: &ArrayRef) -> bool {
    RESULT_IS_STATE.contains(&function.fun().name())
        && !function.is_distinct()
        && function.field().data_type() == state.data_type()
}

/// As DataFusion's aggregation chooses, for the states of the two kinds differ: without rows, the one
/// of `avg` has a count of 0 for all rows, and none for groups.
fn accumulator(
    function: &Arc<AggregateFunctionExpr>,
    has_keys: bool,
) -> DataFusionResult<Box<dyn GroupsAccumulator>> {
    if has_keys && function.groups_accumulator_supported() {
        return function.create_groups_accumulator();
    }
    let function = Arc::clone(function);
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
}

/// One accumulator per function.
pub(crate) struct Accumulators<'a> {
    partials: &'a Partials,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
}

impl Accumulators<'_> {
    /// Adds partial results: `states` are the state columns, `groups` says which of the `total`
    /// groups each row belongs to.
    pub(crate) fn merge(
        &mut self,
        states: &[ArrayRef],
        groups: &[usize],
        total: usize,
    ) -> DataFusionResult<()> {
        for (accumulator, columns) in self.accumulators.iter_mut().zip(&self.partials.widths) {
            accumulator.merge_batch(&states[columns.clone()], groups, total)?;
        }
        Ok(())
    }

    /// The partial results of all groups.
    pub(crate) fn states(&mut self) -> DataFusionResult<Vec<ArrayRef>> {
        let mut columns = Vec::new();
        for accumulator in &mut self.accumulators {
            columns.extend(accumulator.state(EmitTo::All)?);
        }
        Ok(columns)
    }

    /// The final results of all groups.
    pub(crate) fn results(&mut self) -> DataFusionResult<Vec<ArrayRef>> {
        self.accumulators.iter_mut().map(|accumulator| accumulator.evaluate(EmitTo::All)).collect()
    }
}
