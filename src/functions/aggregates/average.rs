//! `avg` of decimals and durations from exact sums, rounded half up.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray, UInt64Array};
use datafusion::arrow::buffer::NullBuffer;
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
use super::replacement::{Accumulation, Accumulators};
use super::sum::{exact_type, sum_fields};
use super::totals::{
    GroupTotals, Number, beyond_all_types, exact, filtered, limit, low_and_carry, rows_as_states, total,
};
use crate::functions::checked::overflow;

pub(super) static BUILD: Averages = Averages;

#[derive(Debug)]
pub(super) struct Averages;

impl Accumulation for Averages {
    fn state_fields(&self, args: &StateFieldsArgs) -> Option<Vec<FieldRef>> {
        let input = args.input_fields.first()?.data_type();
        // Averages of integers and floats are those of floats.
        if args.is_distinct || !(input.is_decimal() || matches!(input, DataType::Duration(_))) {
            return None;
        }
        let count = Field::new(format_state_name(args.name, "count"), DataType::UInt64, true);
        let [sum, carry] = sum_fields(args.name, input);
        Some(vec![Arc::new(count), sum, carry])
    }

    fn wrap(&self, accumulator: Box<dyn Accumulator>, args: &AccumulatorArgs) -> Box<dyn Accumulator> {
        let input = args.expr_fields[0].data_type();
        if !args.is_distinct || !input.is_decimal() {
            return accumulator;
        }
        let Ok(quotient) = Quotient::new(args.name, input, args.return_type()) else { return accumulator };
        macro_rules! distinct {
            ($type:ty) => {
                Box::new(Distinct::<$type, _>::new(
                    accumulator,
                    Average::<$type> { sum: i256::ZERO, rows: 0, quotient, kind: PhantomData },
                ))
            };
        }
        exact_type!(input, distinct, accumulator)
    }

    fn accumulators(&self, args: &AccumulatorArgs) -> DataFusionResult<Accumulators> {
        let input = args.expr_fields[0].data_type();
        let quotient = Quotient::new(args.name, input, args.return_type())?;
        macro_rules! accumulators {
            ($type:ty) => {
                Ok(Accumulators {
                    groups: Box::new(GroupAverages::<$type> {
                        totals: GroupTotals::new(),
                        counts: Vec::new(),
                        quotient: quotient.clone(),
                    }),
                    one: Box::new(Average::<$type> { sum: i256::ZERO, rows: 0, quotient, kind: PhantomData }),
                })
            };
        }
        exact_type!(input, accumulators, internal_err!("no exact average of {input}"))
    }
}

/// From sums and counts to averages.
#[derive(Debug, Clone)]
struct Quotient {
    /// The call, for messages.
    name: String,
    /// The type of the sum.
    input: DataType,
    data_type: DataType,
    /// What the sum is multiplied by, to have the digits of the average.
    factor: i256,
    limit: Option<i256>,
}

impl Quotient {
    fn new(name: &str, input: &DataType, data_type: &DataType) -> DataFusionResult<Self> {
        let digits = scale(data_type) - scale(input);
        let Ok(digits) = u32::try_from(digits) else {
            return internal_err!("an average of {input} as {data_type}");
        };
        Ok(Self {
            name: name.into(),
            input: input.clone(),
            data_type: data_type.clone(),
            factor: i256::from_i128(10).wrapping_pow(digits),
            limit: limit(data_type),
        })
    }

    fn of<N: Number>(&self, sum: i256, count: u64) -> DataFusionResult<N> {
        let too_large = || overflow(&self.name, &self.data_type, "the average is too large");
        let scaled = sum.checked_mul(self.factor).ok_or_else(too_large)?;
        let average = match scaled.to_i128() {
            Some(scaled) => i256::from_i128(rounded(scaled, i128::from(count))),
            None => rounded_wide(scaled, i256::from_i128(i128::from(count))),
        };
        let narrow = N::truncate(average);
        let fits = self.limit.is_none_or(|limit| average.wrapping_abs() < limit);
        if fits && narrow.widen() == average { Ok(narrow) } else { Err(too_large()) }
    }
}

fn scale(data_type: &DataType) -> i32 {
    match data_type {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => i32::from(*scale),
        _ => 0,
    }
}

/// `sum / count`, rounded half up.
fn rounded(sum: i128, count: i128) -> i128 {
    let (quotient, rest) = (sum / count, (sum % count).abs());
    if rest < count - rest { quotient } else { quotient + sum.signum() }
}

fn rounded_wide(sum: i256, count: i256) -> i256 {
    let (quotient, rest) = (sum.wrapping_div(count), sum.wrapping_rem(count).wrapping_abs());
    match rest < count.wrapping_sub(rest) {
        true => quotient,
        false => quotient.wrapping_add(sum.signum()),
    }
}

#[derive(Debug)]
struct GroupAverages<T: ArrowPrimitiveType> {
    totals: GroupTotals<T>,
    counts: Vec<u64>,
    quotient: Quotient,
}

impl<T: ArrowPrimitiveType + Send> GroupsAccumulator for GroupAverages<T>
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
        self.totals.add(&values[0], groups, filter, total)?;
        self.counts.resize(total, 0);
        let values = filtered(&values[0], filter)?;
        for (row, group) in groups.iter().enumerate() {
            self.counts[*group] += u64::from(values.is_valid(row));
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> DataFusionResult<()> {
        self.totals.merge(&states[1..], groups, total)?;
        self.counts.resize(total, 0);
        for (group, count) in groups.iter().zip(states[0].as_primitive::<UInt64Type>()) {
            self.counts[*group] += count.unwrap_or_default();
        }
        Ok(())
    }

    fn state(&mut self, emit: EmitTo) -> DataFusionResult<Vec<ArrayRef>> {
        let counts = UInt64Array::from(emit.take_needed(&mut self.counts));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(counts)];
        columns.extend(self.totals.state(emit, &self.quotient.input));
        Ok(columns)
    }

    fn evaluate(&mut self, emit: EmitTo) -> DataFusionResult<ArrayRef> {
        let counts = emit.take_needed(&mut self.counts);
        let (low, carries, _) = self.totals.take(emit);
        let mut averages = Vec::with_capacity(low.len());
        for (group, count) in counts.iter().enumerate() {
            averages.push(match count {
                0 => T::Native::truncate(i256::ZERO),
                count => {
                    let carry = carries.get(group).copied().unwrap_or_default();
                    self.quotient.of(exact(low[group], carry)?, *count)?
                }
            });
        }
        let nulls = NullBuffer::from_iter(counts.iter().map(|count| *count > 0));
        let averages = PrimitiveArray::<T>::new(averages.into(), Some(nulls));
        Ok(Arc::new(averages.with_data_type(self.quotient.data_type.clone())))
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> DataFusionResult<Vec<ArrayRef>> {
        let sums = rows_as_states::<T>(&values[0], filter, &self.quotient.input)?;
        let counts: UInt64Array =
            (0..sums[0].len()).map(|row| Some(u64::from(sums[0].is_valid(row)))).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(counts)];
        columns.extend(sums);
        Ok(columns)
    }

    fn size(&self) -> usize {
        self.totals.size() + self.counts.capacity() * size_of::<u64>()
    }
}

/// The average of one group, or of a window.
#[derive(Debug)]
struct Average<T> {
    sum: i256,
    rows: u64,
    quotient: Quotient,
    kind: PhantomData<fn() -> T>,
}

impl<T: ArrowPrimitiveType + Debug> OfTotal for Average<T>
where
    T::Native: Number,
{
    fn take_total(&mut self, sum: i256, rows: u64) {
        (self.sum, self.rows) = (sum, rows);
    }
}

impl<T: ArrowPrimitiveType + Debug> Accumulator for Average<T>
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
        let [counts, sums, carries] = states else {
            return internal_err!("an average of {} columns", states.len());
        };
        let sums = sums.as_primitive::<T>().iter().zip(carries.as_primitive::<Int32Type>());
        for ((sum, carry), count) in sums.zip(counts.as_primitive::<UInt64Type>()) {
            let Some(sum) = sum else { continue };
            let sum = exact(sum, carry.unwrap_or_default())?;
            self.sum = self.sum.checked_add(sum).ok_or_else(beyond_all_types)?;
            self.rows += count.unwrap_or_default();
        }
        Ok(())
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        let (low, carry) = low_and_carry::<T::Native>(self.sum)?;
        let sum = (self.rows > 0).then_some(low);
        let sum = PrimitiveArray::<T>::from_iter([sum]).with_data_type(self.quotient.input.clone());
        Ok(vec![
            ScalarValue::UInt64(Some(self.rows)),
            ScalarValue::try_from_array(&sum, 0)?,
            ScalarValue::Int32((carry != 0).then_some(carry)),
        ])
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        if self.rows == 0 {
            return ScalarValue::try_from(&self.quotient.data_type);
        }
        let average = self.quotient.of::<T::Native>(self.sum, self.rows)?;
        let average = PrimitiveArray::<T>::from_iter([Some(average)]);
        ScalarValue::try_from_array(&average.with_data_type(self.quotient.data_type.clone()), 0)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
