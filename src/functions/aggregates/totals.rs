//! Exact sums of integers and decimals: what does not fit into the type is carried.
//!
//! An intermediate sum may leave the range of the type and come back: whether the result fits depends
//! neither on the order of rows nor on how they were divided into batches.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, AsArray, BooleanArray, Int32Array, PrimitiveArray,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::nullif;
use datafusion::arrow::datatypes::{ArrowPrimitiveType, DataType, Int32Type, i256};
use datafusion::common::internal_err;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_expr::NullState;

/// A number that is added up.
pub(super) trait Number: Copy + Send + Sync + 'static {
    /// How many bits it has; the carry counts what is beyond them.
    const BITS: u8;

    fn widen(self) -> i256;

    /// The lowest bits of `value`.
    fn truncate(value: i256) -> Self;

    fn is_below(self, other: Self) -> bool;

    /// The sum of `values`, if it has one.
    fn total(values: &[Self]) -> Option<i256>;
}

macro_rules! number {
    ($native:ty, $bits:literal, $total:expr) => {
        impl Number for $native {
            const BITS: u8 = $bits;

            fn widen(self) -> i256 {
                i256::from_i128(i128::from(self))
            }

            fn truncate(value: i256) -> Self {
                value.as_i128() as $native
            }

            fn is_below(self, other: Self) -> bool {
                self < other
            }

            fn total(values: &[Self]) -> Option<i256> {
                Some(i256::from_i128(values.chunks(1 << 16).map($total).sum()))
            }
        }
    };
}

number!(i32, 32, |chunk: &[i32]| i128::from(chunk.iter().map(|value| i64::from(*value)).sum::<i64>()));
// The halves of the numbers are added up apart, which the compiler does for several at once.
number!(i64, 64, |chunk: &[i64]| {
    let high: i64 = chunk.iter().map(|value| value >> 32).sum();
    let low: i64 = chunk.iter().map(|value| value & 0xFFFF_FFFF).sum();
    (i128::from(high) << 32) + i128::from(low)
});
number!(u64, 64, |chunk: &[u64]| {
    let high: u64 = chunk.iter().map(|value| value >> 32).sum();
    let low: u64 = chunk.iter().map(|value| value & 0xFFFF_FFFF).sum();
    (i128::from(high) << 32) + i128::from(low)
});

impl Number for i128 {
    const BITS: u8 = 128;

    fn widen(self) -> i256 {
        i256::from_i128(self)
    }

    fn truncate(value: i256) -> Self {
        value.as_i128()
    }

    fn is_below(self, other: Self) -> bool {
        self < other
    }

    fn total(values: &[Self]) -> Option<i256> {
        let narrow = values.iter().try_fold(0_i128, |sum, value| sum.checked_add(*value));
        match narrow {
            Some(sum) => Some(i256::from_i128(sum)),
            None => values.iter().try_fold(i256::ZERO, |sum, value| sum.checked_add(i256::from_i128(*value))),
        }
    }
}

impl Number for i256 {
    const BITS: u8 = 255;

    fn widen(self) -> i256 {
        self
    }

    fn truncate(value: i256) -> Self {
        value
    }

    fn is_below(self, other: Self) -> bool {
        self < other
    }

    fn total(values: &[Self]) -> Option<i256> {
        values.iter().try_fold(i256::ZERO, |sum, value| sum.checked_add(*value))
    }
}

/// The sum of the values of `column` that are not null, and how many they are.
pub(super) fn total<T: ArrowPrimitiveType>(column: &PrimitiveArray<T>) -> DataFusionResult<(i256, u64)>
where
    T::Native: Number,
{
    let values = column.values();
    let sum = match column.nulls() {
        None => T::Native::total(values),
        Some(nulls) => nulls.valid_slices().try_fold(i256::ZERO, |sum, (start, end)| {
            sum.checked_add(T::Native::total(&values[start..end])?)
        }),
    };
    let sum = sum.ok_or_else(beyond_all_types)?;
    Ok((sum, (column.len() - column.null_count()) as u64))
}

/// The error of a sum that not even 256 bits can hold.
pub(super) fn beyond_all_types() -> DataFusionError {
    DataFusionError::Execution("arithmetic overflow: a sum has more than 76 digits".into())
}

/// The sum that `low` bits and a carry stand for.
pub(super) fn exact<N: Number>(low: N, carry: i32) -> DataFusionResult<i256> {
    if carry == 0 {
        return Ok(low.widen());
    }
    // Only numbers of less than 256 bits have a carry.
    let carried = i256::from_i128(i128::from(carry)) << N::BITS;
    low.widen().checked_add(carried).ok_or_else(beyond_all_types)
}

/// The lowest bits of a sum, and the carry.
pub(super) fn low_and_carry<N: Number>(sum: i256) -> DataFusionResult<(N, i32)> {
    let low = N::truncate(sum);
    let rest = sum.wrapping_sub(low.widen());
    let carry = if rest == i256::ZERO { Some(0) } else { (rest >> N::BITS).to_i128() };
    let carry = carry.and_then(|carry| i32::try_from(carry).ok()).ok_or_else(beyond_all_types)?;
    Ok((low, carry))
}

/// The sums of many groups.
#[derive(Debug)]
pub(super) struct GroupTotals<T: ArrowPrimitiveType> {
    low: Vec<T::Native>,
    /// How often each sum has left the range of the type upwards, less how often downwards. Empty until
    /// one does, and then as long as `low`.
    carries: Vec<i32>,
    seen: NullState,
}

impl<T: ArrowPrimitiveType + Send> GroupTotals<T>
where
    T::Native: Number,
{
    pub(super) fn new() -> Self {
        Self { low: Vec::new(), carries: Vec::new(), seen: NullState::new() }
    }

    pub(super) fn add(
        &mut self,
        values: &ArrayRef,
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DataFusionResult<()> {
        self.resize(total);
        let (low, carries) = (&mut self.low, &mut self.carries);
        let mut beyond = false;
        self.seen.accumulate(groups, values.as_primitive::<T>(), filter, total, |group, value| {
            let sum = low[group];
            low[group] = match sum.add_checked(value) {
                Ok(sum) => sum,
                Err(_) => {
                    carries.resize(low.len(), 0);
                    let carry = if value.is_lt(T::Native::ZERO) { -1 } else { 1 };
                    let carried = carries[group].checked_add(carry);
                    beyond |= T::Native::BITS == <i256 as Number>::BITS || carried.is_none();
                    carries[group] = carried.unwrap_or_default();
                    sum.add_wrapping(value)
                }
            };
        });
        if beyond { Err(beyond_all_types()) } else { Ok(()) }
    }

    /// Adds sums with their carries.
    pub(super) fn merge(
        &mut self,
        states: &[ArrayRef],
        groups: &[usize],
        total: usize,
    ) -> DataFusionResult<()> {
        let [sums, carries] = states else { return internal_err!("a sum of {} columns", states.len()) };
        self.add(sums, groups, None, total)?;
        let carries = carries.as_primitive::<Int32Type>();
        if carries.null_count() == carries.len() {
            return Ok(());
        }
        self.carries.resize(total, 0);
        for (group, carry) in groups.iter().zip(carries.iter()) {
            let carry = carry.unwrap_or_default();
            self.carries[*group] = self.carries[*group].checked_add(carry).ok_or_else(beyond_all_types)?;
        }
        Ok(())
    }

    fn resize(&mut self, total: usize) {
        self.low.resize(total, T::Native::ZERO);
        if !self.carries.is_empty() {
            self.carries.resize(total, 0);
        }
    }

    /// The sums, null for groups without values, and their carries, none of which is not 0 if there
    /// are none.
    pub(super) fn take(&mut self, emit: EmitTo) -> (Vec<T::Native>, Vec<i32>, Option<NullBuffer>) {
        let low = emit.take_needed(&mut self.low);
        let carries = if self.carries.is_empty() { Vec::new() } else { emit.take_needed(&mut self.carries) };
        (low, carries, self.seen.build(emit))
    }

    /// The columns of the state; the sums are of `data_type`.
    pub(super) fn state(&mut self, emit: EmitTo, data_type: &DataType) -> Vec<ArrayRef> {
        let (low, carries, nulls) = self.take(emit);
        let carries = match carries.is_empty() {
            true => Int32Array::new_null(low.len()),
            false => Int32Array::from_iter(carries.into_iter().map(|carry| (carry != 0).then_some(carry))),
        };
        let sums = PrimitiveArray::<T>::new(low.into(), nulls).with_data_type(data_type.clone());
        vec![Arc::new(sums), Arc::new(carries)]
    }

    pub(super) fn size(&self) -> usize {
        self.low.capacity() * size_of::<T::Native>()
            + self.carries.capacity() * size_of::<i32>()
            + self.seen.size()
    }
}

/// `values` of rows as the states of groups of one row each.
pub(super) fn rows_as_states<T: ArrowPrimitiveType>(
    values: &ArrayRef,
    filter: Option<&BooleanArray>,
    data_type: &DataType,
) -> DataFusionResult<Vec<ArrayRef>> {
    let kept = filtered(values, filter)?;
    let sums = kept.as_primitive::<T>().clone().with_data_type(data_type.clone());
    let carries = Int32Array::new_null(sums.len());
    Ok(vec![Arc::new(sums), Arc::new(carries)])
}

/// `values` with nulls where `filter` does not let them pass.
pub(super) fn filtered(values: &ArrayRef, filter: Option<&BooleanArray>) -> DataFusionResult<ArrayRef> {
    let Some(filter) = filter else { return Ok(Arc::clone(values)) };
    let dropped: BooleanArray = filter.iter().map(|keep| Some(keep != Some(true))).collect();
    Ok(nullif(values, &dropped)?)
}

/// The largest number of digits that `data_type` is meant to have, as a power of ten; `None` if all its
/// values are.
pub(super) fn limit(data_type: &DataType) -> Option<i256> {
    match data_type {
        DataType::Decimal32(precision, _)
        | DataType::Decimal64(precision, _)
        | DataType::Decimal128(precision, _)
        | DataType::Decimal256(precision, _) => Some(i256::from_i128(10).wrapping_pow(u32::from(*precision))),
        _ => None,
    }
}
