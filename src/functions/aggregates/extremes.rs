//! `min` and `max` of floats: a NaN is larger than all numbers, wherever it comes. In DataFusion what follows
//! a NaN takes its place, so that the result depends on the order of rows.

use std::fmt::Debug;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float16Type, Float32Type, Float64Type};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use half::f16;

use super::extreme_structs::{self, has_structs};
use super::replacement::{Accumulation, Accumulators};
use super::totals::filtered;

pub(super) static MIN: Extremes = Extremes { largest: false };
pub(super) static MAX: Extremes = Extremes { largest: true };

#[derive(Debug)]
pub(super) struct Extremes {
    largest: bool,
}

impl Accumulation for Extremes {
    fn state_fields(&self, args: &StateFieldsArgs) -> Option<Vec<FieldRef>> {
        let data_type = args.return_type();
        let field = Field::new(format_state_name(args.name, "value"), data_type.clone(), true);
        (data_type.is_floating() || has_structs(data_type)).then(|| vec![Arc::new(field) as FieldRef])
    }

    fn accumulators(&self, args: &AccumulatorArgs) -> DataFusionResult<Accumulators> {
        fn of<T: ArrowPrimitiveType + Debug + Send>(largest: bool) -> Accumulators {
            Accumulators {
                groups: Box::new(GroupExtremes::<T> { largest, best: Vec::new(), seen: Vec::new() }),
                one: Box::new(Extreme::<T> { largest, best: None }),
            }
        }
        Ok(match args.return_type() {
            DataType::Float16 => of::<Float16Type>(self.largest),
            DataType::Float32 => of::<Float32Type>(self.largest),
            DataType::Float64 => of::<Float64Type>(self.largest),
            other if has_structs(other) => return extreme_structs::accumulators(self.largest, other),
            other => return internal_err!("{other} is neither a float nor a struct"),
        })
    }

    fn keeps_statistics(&self) -> bool {
        true
    }

    fn moves_exactly(&self) -> bool {
        true
    }

    fn wrap_sliding(&self, accumulator: Box<dyn Accumulator>, data_type: &DataType) -> Box<dyn Accumulator> {
        match data_type {
            DataType::Float16 => Box::new(OneNan::<Float16Type> { inner: accumulator, nan: f16::NAN }),
            DataType::Float32 => Box::new(OneNan::<Float32Type> { inner: accumulator, nan: f32::NAN }),
            DataType::Float64 => Box::new(OneNan::<Float64Type> { inner: accumulator, nan: f64::NAN }),
            _ => accumulator,
        }
    }
}

/// Gives `inner`, which takes a NaN with a sign for the smallest value, NaNs without one only.
#[derive(Debug)]
struct OneNan<T: ArrowPrimitiveType> {
    inner: Box<dyn Accumulator>,
    nan: T::Native,
}

impl<T: ArrowPrimitiveType> OneNan<T> {
    fn with_one_nan(&self, values: &ArrayRef) -> ArrayRef {
        let is_nan = |value: T::Native| value.partial_cmp(&value).is_none();
        let column = values.as_primitive::<T>();
        match column.values().iter().any(|value| is_nan(*value)) {
            true => Arc::new(column.unary::<_, T>(|value| if is_nan(value) { self.nan } else { value })),
            false => Arc::clone(values),
        }
    }
}

impl<T: ArrowPrimitiveType + Debug> Accumulator for OneNan<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        self.inner.update_batch(&[self.with_one_nan(&values[0])])
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        self.inner.retract_batch(&[self.with_one_nan(&values[0])])
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        self.inner.merge_batch(states)
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        self.inner.evaluate()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.inner.size()
    }
}

/// Whether `new` is to be kept instead of `old`.
fn is_better<N: PartialOrd + Copy>(new: N, old: N, largest: bool) -> bool {
    let is_nan = |value: N| value.partial_cmp(&value).is_none();
    match (is_nan(new), is_nan(old)) {
        (false, false) => {
            if largest {
                new > old
            } else {
                new < old
            }
        }
        (new, old) => new != old && new == largest,
    }
}

/// The extreme of one group, or of a window that grows.
#[derive(Debug)]
struct Extreme<T: ArrowPrimitiveType> {
    largest: bool,
    best: Option<T::Native>,
}

impl<T: ArrowPrimitiveType + Debug> Accumulator for Extreme<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        for value in values[0].as_primitive::<T>().iter().flatten() {
            if self.best.is_none_or(|best| is_better(value, best, self.largest)) {
                self.best = Some(value);
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        self.update_batch(states)
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        ScalarValue::try_from_array(&PrimitiveArray::<T>::from_iter([self.best]), 0)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The extremes of many groups.
#[derive(Debug)]
struct GroupExtremes<T: ArrowPrimitiveType> {
    largest: bool,
    best: Vec<T::Native>,
    /// Which groups have a value.
    seen: Vec<bool>,
}

impl<T: ArrowPrimitiveType + Debug + Send> GroupsAccumulator for GroupExtremes<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DataFusionResult<()> {
        self.best.resize(total, T::Native::default());
        self.seen.resize(total, false);
        let values = filtered(&values[0], filter)?;
        for (group, value) in groups.iter().zip(values.as_primitive::<T>()) {
            let Some(value) = value else { continue };
            if !self.seen[*group] || is_better(value, self.best[*group], self.largest) {
                self.best[*group] = value;
                self.seen[*group] = true;
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> DataFusionResult<()> {
        self.update_batch(states, groups, None, total)
    }

    fn state(&mut self, emit: EmitTo) -> DataFusionResult<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit)?])
    }

    fn evaluate(&mut self, emit: EmitTo) -> DataFusionResult<ArrayRef> {
        let best = emit.take_needed(&mut self.best);
        let seen = NullBuffer::from(emit.take_needed(&mut self.seen));
        Ok(Arc::new(PrimitiveArray::<T>::new(best.into(), Some(seen))))
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> DataFusionResult<Vec<ArrayRef>> {
        Ok(vec![filtered(&values[0], filter)?])
    }

    fn size(&self) -> usize {
        self.best.capacity() * size_of::<T::Native>() + self.seen.capacity()
    }
}
