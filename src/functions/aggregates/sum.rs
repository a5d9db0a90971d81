//! `sum` of integers, decimals, durations and intervals that says when the result does not fit.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, Int32Array, PrimitiveArray};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Field,
    FieldRef, Int32Type, Int64Type, TimeUnit, UInt64Type, i256,
};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::distinct::{Distinct, OfTotal};
use super::intervals::{self, GroupIntervals, Intervals};
use super::replacement::{Accumulation, Accumulators};
use super::sum_result::SumResult;
use super::totals::{
    GroupTotals, Number, beyond_all_types, exact, limit, low_and_carry, rows_as_states, total,
};

/// A sum that does not fit is an error.
pub(super) static CHECKED: Sums = Sums { wraps: false };
/// A sum that does not fit wraps around, as in DataFusion.
pub(super) static WRAPPING: Sums = Sums { wraps: true };

#[derive(Debug)]
pub(super) struct Sums {
    wraps: bool,
}

/// Calls `$helper!(type)` with the Arrow type of an exact sum of `$data_type`, or gives `$otherwise`.
macro_rules! exact_type {
    ($data_type:expr, $helper:ident, $otherwise:expr) => {
        match $data_type {
            DataType::Int64 => $helper!(Int64Type),
            DataType::UInt64 => $helper!(UInt64Type),
            DataType::Decimal32(_, _) => $helper!(Decimal32Type),
            DataType::Decimal64(_, _) => $helper!(Decimal64Type),
            DataType::Decimal128(_, _) => $helper!(Decimal128Type),
            DataType::Decimal256(_, _) => $helper!(Decimal256Type),
            DataType::Duration(TimeUnit::Second) => $helper!(DurationSecondType),
            DataType::Duration(TimeUnit::Millisecond) => $helper!(DurationMillisecondType),
            DataType::Duration(TimeUnit::Microsecond) => $helper!(DurationMicrosecondType),
            DataType::Duration(TimeUnit::Nanosecond) => $helper!(DurationNanosecondType),
            _ => $otherwise,
        }
    };
}
pub(super) use exact_type;

/// The columns of an exact sum of `data_type`.
pub(super) fn sum_fields(name: &str, data_type: &DataType) -> [FieldRef; 2] {
    [
        Arc::new(Field::new(format_state_name(name, "sum"), data_type.clone(), true)),
        Arc::new(Field::new(format_state_name(name, "carry"), DataType::Int32, true)),
    ]
}

impl Sums {
    /// Whether it is a sum of intervals that is not left to DataFusion.
    fn adds_intervals(&self, data_type: &DataType, is_distinct: bool) -> bool {
        matches!(data_type, DataType::Interval(_)) && !is_distinct && !self.wraps
    }
}

impl Accumulation for Sums {
    fn state_fields(&self, args: &StateFieldsArgs) -> Option<Vec<FieldRef>> {
        macro_rules! known {
            ($type:ty) => {
                true
            };
        }
        let known = exact_type!(args.return_type(), known, false);
        if self.adds_intervals(args.return_type(), args.is_distinct) {
            return Some(intervals::fields(args.name));
        }
        (known && !args.is_distinct).then(|| sum_fields(args.name, args.return_type()).into())
    }

    fn wrap(&self, accumulator: Box<dyn Accumulator>, args: &AccumulatorArgs) -> Box<dyn Accumulator> {
        let data_type = args.return_type().clone();
        let result = SumResult { name: args.name.into(), data_type, wraps: self.wraps };
        macro_rules! distinct {
            ($type:ty) => {
                Box::new(Distinct::<$type, _>::new(
                    accumulator,
                    Sum::<$type> { sum: i256::ZERO, rows: 0, result, kind: PhantomData },
                ))
            };
        }
        if !args.is_distinct {
            return accumulator;
        }
        exact_type!(args.return_type(), distinct, accumulator)
    }

    fn accumulators(&self, args: &AccumulatorArgs) -> DataFusionResult<Accumulators> {
        let result =
            SumResult { name: args.name.into(), data_type: args.return_type().clone(), wraps: self.wraps };
        if self.adds_intervals(args.return_type(), args.is_distinct) {
            return Ok(Accumulators {
                groups: Box::new(GroupIntervals::new(result.clone())),
                one: Box::new(Intervals::new(result)),
            });
        }
        macro_rules! accumulators {
            ($type:ty) => {
                Ok(Accumulators {
                    groups: Box::new(GroupSums::<$type> {
                        totals: GroupTotals::new(),
                        result: result.clone(),
                    }),
                    one: Box::new(Sum::<$type> { sum: i256::ZERO, rows: 0, result, kind: PhantomData }),
                })
            };
        }
        exact_type!(args.return_type(), accumulators, internal_err!("no exact sum of {}", args.return_type()))
    }
}

#[derive(Debug)]
struct GroupSums<T: ArrowPrimitiveType> {
    totals: GroupTotals<T>,
    result: SumResult,
}

impl<T: ArrowPrimitiveType + Send> GroupsAccumulator for GroupSums<T>
where
    T::Native: Number,
{
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DataFusionResult<()> {
        self.totals.add(&values[0], groups, filter, total)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> DataFusionResult<()> {
        self.totals.merge(states, groups, total)
    }

    fn state(&mut self, emit: EmitTo) -> DataFusionResult<Vec<ArrayRef>> {
        Ok(self.totals.state(emit, &self.result.data_type))
    }

    fn evaluate(&mut self, emit: EmitTo) -> DataFusionResult<ArrayRef> {
        let (low, carries, nulls) = self.totals.take(emit);
        let mut fits = carries.iter().all(|carry| *carry == 0);
        if let Some(limit) = limit(&self.result.data_type) {
            // A limit that the type cannot express leaves room for all its values.
            let (above, below) = (T::Native::truncate(limit), T::Native::truncate(limit.wrapping_neg()));
            if above.widen() == limit {
                fits &= low.iter().fold(true, |all, sum| all & sum.is_below(above) & below.is_below(*sum));
            }
        }
        if !fits && !self.result.wraps {
            return Err(self.result.too_large());
        }
        let sums = PrimitiveArray::<T>::new(low.into(), nulls);
        Ok(Arc::new(sums.with_data_type(self.result.data_type.clone())))
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> DataFusionResult<Vec<ArrayRef>> {
        rows_as_states::<T>(&values[0], filter, &self.result.data_type)
    }

    fn size(&self) -> usize {
        self.totals.size()
    }
}

/// The sum of one group, or of a window.
#[derive(Debug)]
struct Sum<T> {
    sum: i256,
    rows: u64,
    result: SumResult,
    kind: PhantomData<fn() -> T>,
}

impl<T: ArrowPrimitiveType + Debug> OfTotal for Sum<T>
where
    T::Native: Number,
{
    fn take_total(&mut self, sum: i256, rows: u64) {
        (self.sum, self.rows) = (sum, rows);
    }
}

impl<T: ArrowPrimitiveType + Debug> Accumulator for Sum<T>
where
    T::Native: Number,
{
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        let (sum, rows) = total(values[0].as_primitive::<T>())?;
        self.sum = self.sum.checked_add(sum).ok_or_else(beyond_all_types)?;
        self.rows += rows;
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        let (sum, rows) = total(values[0].as_primitive::<T>())?;
        self.sum = self.sum.checked_sub(sum).ok_or_else(beyond_all_types)?;
        self.rows = self.rows.saturating_sub(rows);
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        let [sums, carries] = states else { return internal_err!("a sum of {} columns", states.len()) };
        for (sum, carry) in sums.as_primitive::<T>().iter().zip(carries.as_primitive::<Int32Type>()) {
            let Some(sum) = sum else { continue };
            let sum = exact(sum, carry.unwrap_or_default())?;
            self.sum = self.sum.checked_add(sum).ok_or_else(beyond_all_types)?;
            self.rows += 1;
        }
        Ok(())
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        let (low, carry) = low_and_carry::<T::Native>(self.sum)?;
        let nothing = self.rows == 0;
        let sum = if nothing { None } else { Some(low) };
        let carry = if nothing || carry == 0 { None } else { Some(carry) };
        let sum = PrimitiveArray::<T>::from_iter([sum]).with_data_type(self.result.data_type.clone());
        Ok(vec![
            ScalarValue::try_from_array(&sum, 0)?,
            ScalarValue::try_from_array(&Int32Array::from_iter([carry]), 0)?,
        ])
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        if self.rows == 0 {
            return ScalarValue::try_from(&self.result.data_type);
        }
        let low = T::Native::truncate(self.sum);
        let limit = limit(&self.result.data_type);
        let fits = low.widen() == self.sum && limit.is_none_or(|limit| self.sum.wrapping_abs() < limit);
        if !fits && !self.result.wraps {
            return Err(self.result.too_large());
        }
        let sum = PrimitiveArray::<T>::from_iter([Some(low)]).with_data_type(self.result.data_type.clone());
        ScalarValue::try_from_array(&sum, 0)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
