//! Functions of distinct values, which DataFusion collects, computed here.

use std::fmt::Debug;
use std::marker::PhantomData;

use datafusion::arrow::array::{ArrayRef, ArrowPrimitiveType, AsArray};
use datafusion::arrow::datatypes::i256;
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::Accumulator;

use super::totals::{Number, total};

/// What follows from an exact sum and the number of values.
pub(super) trait OfTotal: Accumulator {
    fn take_total(&mut self, sum: i256, rows: u64);
}

/// `result` over distinct values of type `T`.
#[derive(Debug)]
pub(super) struct Distinct<T, R> {
    values: Box<dyn Accumulator>,
    result: R,
    kind: PhantomData<fn() -> T>,
}

impl<T, R> Distinct<T, R> {
    /// `values` is DataFusion's accumulator of the call; its state is the list of the values.
    pub(super) fn new(values: Box<dyn Accumulator>, result: R) -> Self {
        Self { values, result, kind: PhantomData }
    }
}

impl<T: ArrowPrimitiveType + Debug, R: OfTotal + Debug> Accumulator for Distinct<T, R>
where
    T::Native: Number,
{
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        self.values.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        self.values.merge_batch(states)
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        self.values.state()
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        let state = self.values.state()?;
        let [ScalarValue::List(values)] = state.as_slice() else {
            return internal_err!("distinct values that are no list");
        };
        let (sum, rows) = total(values.values().as_primitive::<T>())?;
        self.result.take_total(sum, rows);
        self.result.evaluate()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.size()
    }
}
