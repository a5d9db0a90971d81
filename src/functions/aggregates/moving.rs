//! Aggregates over a frame that moves, of which nothing is ever taken out again.
//!
//! DataFusion takes the rows that leave a frame out of what it has added up. Of floats that leaves the errors behind,
//! a NaN or an infinity for good, so that a value would depend on what was in frames before it; and many functions
//! cannot do it. Here a value follows from the rows of its frame alone: a short one is aggregated anew; of a long one
//! the states of its first part, each from one of its rows to the end of the part, and that of the rest are merged, so
//! that a row is merged a few times in all (two stacks that are a queue).

use std::collections::VecDeque;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl};
use datafusion::physical_expr::PhysicalSortExpr;
use datafusion::physical_plan::PhysicalExpr;

/// Frames of so many rows are aggregated anew for every row.
const SHORT: usize = 32;

/// The call of a function.
#[derive(Debug)]
pub(super) struct Call {
    function: Arc<dyn AggregateUDFImpl>,
    return_field: FieldRef,
    schema: Schema,
    ignore_nulls: bool,
    order_bys: Vec<PhysicalSortExpr>,
    is_reversed: bool,
    name: String,
    is_distinct: bool,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    expr_fields: Vec<FieldRef>,
}

impl Call {
    pub(super) fn new(function: Arc<dyn AggregateUDFImpl>, args: &AccumulatorArgs) -> Self {
        Self {
            function,
            return_field: Arc::clone(&args.return_field),
            schema: args.schema.clone(),
            ignore_nulls: args.ignore_nulls,
            order_bys: args.order_bys.to_vec(),
            is_reversed: args.is_reversed,
            name: args.name.into(),
            is_distinct: args.is_distinct,
            exprs: args.exprs.to_vec(),
            expr_fields: args.expr_fields.to_vec(),
        }
    }

    /// Of no rows yet.
    fn accumulator(&self) -> DataFusionResult<Box<dyn Accumulator>> {
        self.function.accumulator(AccumulatorArgs {
            return_field: Arc::clone(&self.return_field),
            schema: &self.schema,
            ignore_nulls: self.ignore_nulls,
            order_bys: &self.order_bys,
            is_reversed: self.is_reversed,
            name: &self.name,
            is_distinct: self.is_distinct,
            exprs: &self.exprs,
            expr_fields: &self.expr_fields,
        })
    }

    /// The state of rows of which `before` is the state, then `rows`, then those of which `after` is.
    fn state(&self, before: Option<&State>, rows: &[Rows], after: Option<&State>) -> DataFusionResult<State> {
        let mut accumulator = self.accumulator()?;
        merge(accumulator.as_mut(), before)?;
        rows.iter().try_for_each(|rows| accumulator.update_batch(&rows.columns))?;
        merge(accumulator.as_mut(), after)?;
        accumulator.state()
    }
}

/// Whether a state of these columns is as long as it was, however many rows are in it.
pub(super) fn is_short(state: &[FieldRef]) -> bool {
    state.iter().all(|field| {
        let data_type = field.data_type();
        !data_type.is_nested() && !matches!(data_type, DataType::Binary | DataType::LargeBinary)
    })
}

/// Whether something is added up in a state of these columns of which a part cannot be taken out exactly.
pub(super) fn is_inexact(state: &[FieldRef]) -> bool {
    state.iter().any(|field| field.data_type().is_floating())
}

type State = Vec<ScalarValue>;

fn merge(accumulator: &mut dyn Accumulator, state: Option<&State>) -> DataFusionResult<()> {
    let Some(state) = state else { return Ok(()) };
    let columns = state.iter().map(ScalarValue::to_array).collect::<DataFusionResult<Vec<_>>>()?;
    accumulator.merge_batch(&columns)
}

/// The arguments for some rows.
#[derive(Debug, Clone)]
struct Rows {
    columns: Vec<ArrayRef>,
}

impl Rows {
    fn len(&self) -> usize {
        self.columns.first().map_or(0, |column| column.len())
    }

    fn slice(&self, from: usize, length: usize) -> Self {
        Self { columns: self.columns.iter().map(|column| column.slice(from, length)).collect() }
    }
}

/// The rows of a frame.
#[derive(Debug)]
pub(super) struct Moving {
    call: Call,
    /// Whether states are put together; those that grow with the rows would cost as much as the rows.
    merges: bool,
    rows: VecDeque<Rows>,
    length: usize,
    /// The state of the first rows, as many as there are states, without the first of them, without the first two,
    /// and so on, the shortest first.
    front: Vec<State>,
    /// The state of the rows behind these, and of how many.
    back: Option<State>,
    in_back: usize,
}

impl Moving {
    pub(super) fn new(call: Call, merges: bool) -> Self {
        Self { call, merges, rows: VecDeque::new(), length: 0, front: Vec::new(), back: None, in_back: 0 }
    }

    /// The last `count` rows.
    fn last(&self, mut count: usize) -> Vec<Rows> {
        let mut found = Vec::new();
        for rows in self.rows.iter().rev() {
            if count == 0 {
                break;
            }
            let taken = rows.len().min(count);
            found.push(rows.slice(rows.len() - taken, taken));
            count -= taken;
        }
        found.reverse();
        found
    }

    /// Makes the states of all rows of the frame, each with those behind it.
    fn turn(&mut self) -> DataFusionResult<()> {
        for rows in self.rows.iter().rev() {
            for row in (0..rows.len()).rev() {
                let state = self.call.state(None, &[rows.slice(row, 1)], self.front.last())?;
                self.front.push(state);
            }
        }
        (self.back, self.in_back) = (None, 0);
        Ok(())
    }
}

impl Accumulator for Moving {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        let rows = Rows { columns: values.to_vec() };
        if rows.len() > 0 {
            self.length += rows.len();
            self.rows.push_back(rows);
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        let mut count = values.first().map_or(0, |column| column.len()).min(self.length);
        self.length -= count;
        if count > self.front.len() {
            (self.back, self.in_back) = (None, 0);
        }
        self.front.truncate(self.front.len().saturating_sub(count));
        while let Some(rows) = self.rows.front_mut().filter(|_| count > 0) {
            let length = rows.len();
            if length <= count {
                count -= length;
                self.rows.pop_front();
            } else {
                *rows = rows.slice(count, length - count);
                count = 0;
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        let mut accumulator = self.call.accumulator()?;
        if self.length <= SHORT || !self.merges {
            self.rows.iter().try_for_each(|rows| accumulator.update_batch(&rows.columns))?;
            return accumulator.evaluate();
        }
        if self.front.is_empty() {
            self.turn()?;
        }
        let new = self.last(self.length - self.front.len() - self.in_back);
        if !new.is_empty() {
            self.back = Some(self.call.state(self.back.as_ref(), &new, None)?);
            self.in_back = self.length - self.front.len();
        }
        merge(accumulator.as_mut(), self.front.last())?;
        merge(accumulator.as_mut(), self.back.as_ref())?;
        accumulator.evaluate()
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        self.call.state(None, self.rows.make_contiguous(), None)
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> DataFusionResult<()> {
        internal_err!("the rows of a frame cannot be had of their state")
    }

    fn size(&self) -> usize {
        let of_states = |state: &State| state.iter().map(ScalarValue::size).sum::<usize>();
        let rows: usize = self
            .rows
            .iter()
            .flat_map(|rows| &rows.columns)
            .map(|column| column.to_data().get_slice_memory_size().unwrap_or_default())
            .sum();
        size_of_val(self) + rows + self.front.iter().chain(&self.back).map(of_states).sum::<usize>()
    }
}
