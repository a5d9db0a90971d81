//! `min` and `max` of structs: fields are compared one after the other, and null is the largest value of each, as in
//! DuckDB and PostgreSQL. For DataFusion a null field is neither less nor more than others, so that the result depends
//! on the order of rows.

use std::fmt;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array, new_null_array};
use datafusion::arrow::compute::{SortOptions, take};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::row::{OwnedRow, Row, RowConverter, SortField};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::replacement::Accumulators;
use super::totals::filtered;
use crate::functions::ordered_values;

/// Whether values of this type are, or hold, structs.
pub(super) fn has_structs(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(_) => true,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            has_structs(item.data_type())
        }
        _ => false,
    }
}

pub(super) fn accumulators(largest: bool, data_type: &DataType) -> DataFusionResult<Accumulators> {
    let order = || Order::new(largest, data_type);
    Ok(Accumulators {
        groups: Box::new(GroupExtremes { order: order()?, best: Vec::new() }),
        one: Box::new(Extreme { order: order()?, best: None }),
    })
}

/// The order of values.
struct Order {
    largest: bool,
    data_type: DataType,
    rows: RowConverter,
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("data_type", &self.data_type).finish_non_exhaustive()
    }
}

impl Order {
    fn new(largest: bool, data_type: &DataType) -> DataFusionResult<Self> {
        let nulls_last = SortOptions { descending: false, nulls_first: false };
        let field = SortField::new_with_options(data_type.clone(), nulls_last);
        Ok(Self { largest, data_type: data_type.clone(), rows: RowConverter::new(vec![field])? })
    }

    /// Calls `each` with the number and the bytes of every value that is not null.
    fn for_each(&self, values: &ArrayRef, mut each: impl FnMut(usize, Row<'_>)) -> DataFusionResult<()> {
        let values = ordered_values(values)?;
        let rows = self.rows.convert_columns(std::slice::from_ref(&values))?;
        (0..values.len()).filter(|row| values.is_valid(*row)).for_each(|row| each(row, rows.row(row)));
        Ok(())
    }

    /// Keeps `row` if it is better than what is there.
    fn keep(&self, best: &mut Option<OwnedRow>, row: Row<'_>) {
        let is_better = best.as_ref().is_none_or(|best| match self.largest {
            true => row > best.row(),
            false => row < best.row(),
        });
        if is_better {
            *best = Some(row.owned());
        }
    }

    fn values(&self, best: &[Option<OwnedRow>]) -> DataFusionResult<ArrayRef> {
        let mut number = 0;
        let places: UInt32Array = best
            .iter()
            .map(|best| {
                number += u32::from(best.is_some());
                best.as_ref().map(|_| number - 1)
            })
            .collect();
        let found = best.iter().flatten().map(OwnedRow::row);
        match self.rows.convert_rows(found)?.pop() {
            Some(values) if number > 0 => Ok(take(&values, &places, None)?),
            _ => Ok(new_null_array(&self.data_type, best.len())),
        }
    }
}

#[derive(Debug)]
struct Extreme {
    order: Order,
    best: Option<OwnedRow>,
}

impl Accumulator for Extreme {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        let Self { order, best } = self;
        order.for_each(&values[0], |_, row| order.keep(best, row))
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        self.update_batch(states)
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        ScalarValue::try_from_array(&self.order.values(std::slice::from_ref(&self.best))?, 0)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.best.as_ref().map_or(0, |best| best.as_ref().len())
    }
}

#[derive(Debug)]
struct GroupExtremes {
    order: Order,
    best: Vec<Option<OwnedRow>>,
}

impl GroupsAccumulator for GroupExtremes {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DataFusionResult<()> {
        let Self { order, best } = self;
        best.resize(total, None);
        order.for_each(&filtered(&values[0], filter)?, |number, row| {
            order.keep(&mut best[groups[number]], row);
        })
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> DataFusionResult<()> {
        self.update_batch(states, groups, None, total)
    }

    fn state(&mut self, emit: EmitTo) -> DataFusionResult<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit)?])
    }

    fn evaluate(&mut self, emit: EmitTo) -> DataFusionResult<ArrayRef> {
        let best = emit.take_needed(&mut self.best);
        self.order.values(&best)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> DataFusionResult<Vec<ArrayRef>> {
        Ok(vec![filtered(&values[0], filter)?])
    }

    fn size(&self) -> usize {
        let rows = self.best.iter().flatten().map(|best| best.as_ref().len()).sum::<usize>();
        self.best.capacity() * size_of::<Option<OwnedRow>>() + rows
    }
}
