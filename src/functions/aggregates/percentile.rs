//! Percentiles of all parts of a group: DataFusion's accumulators take the first of several parts that
//! are merged at once, and forget the others. And between two values they go by six digits.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef, Float64Type};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions_aggregate::percentile_cont::PercentileCont;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl};
use datafusion::physical_expr::expressions::Literal;

use super::replacement::{Accumulation, Accumulators, Build};

/// How `function` accumulates here, if it is one of DataFusion's that forget parts.
pub(super) fn build(function: &dyn AggregateUDFImpl) -> Option<Build> {
    function.is::<PercentileCont>().then_some(&OneByOne as Build)
}

#[derive(Debug)]
struct OneByOne;

impl Accumulation for OneByOne {
    fn state_fields(&self, _: &StateFieldsArgs) -> Option<Vec<FieldRef>> {
        None
    }

    fn accumulators(&self, args: &AccumulatorArgs) -> DataFusionResult<Accumulators> {
        internal_err!("{} accumulates as DataFusion's does", args.name)
    }

    fn wrap(&self, inner: Box<dyn Accumulator>, args: &AccumulatorArgs) -> Box<dyn Accumulator> {
        Box::new(MergedOneByOne { inner, at: percentile(args), is_distinct: args.is_distinct })
    }
}

/// Which percentile is asked for, from 0 to 1 in ascending order.
fn percentile(args: &AccumulatorArgs) -> Option<f64> {
    let literal = args.exprs.get(1)?.downcast_ref::<Literal>()?;
    let ScalarValue::Float64(Some(at)) = literal.value().cast_to(&DataType::Float64).ok()? else {
        return None;
    };
    let is_descending = args.order_bys.first().is_some_and(|order| order.options.descending);
    Some(if is_descending { 1.0 - at } else { at })
}

#[derive(Debug)]
struct MergedOneByOne {
    inner: Box<dyn Accumulator>,
    at: Option<f64>,
    is_distinct: bool,
}

/// What is `at` of the way through `values`, if they are as many as they may be.
fn between(values: &mut [f64], at: f64) -> Option<f64> {
    let index = at * (values.len().checked_sub(1)? as f64);
    let lower = (index.floor() as usize).min(values.len() - 1);
    let (_, low, above) = values.select_nth_unstable_by(lower, f64::total_cmp);
    let low = *low;
    let Some(high) = above.iter().copied().min_by(f64::total_cmp) else { return Some(low) };
    let fraction = index - lower as f64;
    // Infinities that are equal have nothing between them.
    Some(if fraction == 0.0 || low == high { low } else { low + (high - low) * fraction })
}

impl Accumulator for MergedOneByOne {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        self.inner.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        let rows = states.first().map_or(0, |column| column.len());
        for row in (0..rows).filter(|row| states.iter().all(|column| column.is_valid(*row))) {
            let state: Vec<ArrayRef> = states.iter().map(|column| column.slice(row, 1)).collect();
            self.inner.merge_batch(&state)?;
        }
        Ok(())
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        let Some(at) = self.at else { return self.inner.evaluate() };
        let state = self.inner.state()?;
        let Some(ScalarValue::List(list)) = state.first() else { return self.inner.evaluate() };
        let values = list.values();
        let kind = values.data_type().clone();
        let wide = cast(values, &DataType::Float64)?;
        let mut numbers: Vec<f64> = wide.as_primitive::<Float64Type>().iter().flatten().collect();
        if !self.is_distinct {
            // They were taken out, and a window goes on with them.
            self.inner.merge_batch(&[Arc::clone(list) as ArrayRef])?;
        }
        ScalarValue::Float64(between(&mut numbers, at)).cast_to(&kind)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_digits_of_the_place_count() {
        let values = [128.0, 129.0, 130.0, 131.0];
        assert_eq!(between(&mut values.clone(), 0.416_666_666_666_666_7), Some(129.25));
        assert_eq!(between(&mut values.clone(), 1e-7), Some(128.000_000_3));
        assert_eq!(between(&mut values.clone(), 0.0), Some(128.0));
        assert_eq!(between(&mut values.clone(), 1.0), Some(131.0));
        assert_eq!(between(&mut [], 0.5), None);
        assert_eq!(between(&mut [f64::INFINITY; 2], 0.3), Some(f64::INFINITY));
        assert_eq!(between(&mut [f64::NEG_INFINITY, 1.0], 1.0), Some(1.0));
    }
}
