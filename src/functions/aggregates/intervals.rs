//! `sum` of intervals that says when the result does not fit.
//!
//! Months, days and the time within a day are added up apart, exactly, so that it matters neither in which
//! order nor in which batches they come. DataFusion lets each of them wrap around.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array, IntervalDayTimeArray,
    IntervalMonthDayNanoArray, IntervalYearMonthArray,
};
use datafusion::arrow::datatypes::{
    DataType, Decimal128Type, Field, FieldRef, Int64Type, IntervalDayTime, IntervalDayTimeType,
    IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, IntervalYearMonthType,
};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::sum_result::SumResult;
use super::totals::{beyond_all_types, filtered};

/// A sum of intervals: months, days, and nanoseconds or, of intervals without these, milliseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Total {
    months: i64,
    days: i64,
    time: i128,
}

impl Total {
    fn add(&mut self, other: Total, sign: i64) -> DataFusionResult<()> {
        let sum = |a: i64, b: i64| a.checked_add(b.checked_mul(sign)?);
        let total = || {
            Some(Total {
                months: sum(self.months, other.months)?,
                days: sum(self.days, other.days)?,
                time: self.time.checked_add(other.time.checked_mul(i128::from(sign))?)?,
            })
        };
        *self = total().ok_or_else(beyond_all_types)?;
        Ok(())
    }
}

/// The columns of the state of a sum.
pub(super) fn fields(name: &str) -> Vec<FieldRef> {
    let field = |part, data_type| Arc::new(Field::new(format_state_name(name, part), data_type, true));
    vec![
        field("months", DataType::Int64),
        field("days", DataType::Int64),
        field("time", DataType::Decimal128(38, 0)),
    ]
}

/// The values of `column`, `None` for null.
fn values(column: &ArrayRef) -> DataFusionResult<Vec<Option<Total>>> {
    fn of<T: Copy>(values: impl Iterator<Item = Option<T>>, total: fn(T) -> Total) -> Vec<Option<Total>> {
        values.map(|value| value.map(total)).collect()
    }
    Ok(match column.data_type() {
        DataType::Interval(IntervalUnit::YearMonth) => {
            of(column.as_primitive::<IntervalYearMonthType>().iter(), |months| Total {
                months: months.into(),
                ..Total::default()
            })
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            of(column.as_primitive::<IntervalDayTimeType>().iter(), |value| Total {
                months: 0,
                days: value.days.into(),
                time: value.milliseconds.into(),
            })
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            of(column.as_primitive::<IntervalMonthDayNanoType>().iter(), |value| Total {
                months: value.months.into(),
                days: value.days.into(),
                time: value.nanoseconds.into(),
            })
        }
        other => return internal_err!("{other} is no interval"),
    })
}

fn states(columns: &[ArrayRef]) -> DataFusionResult<Vec<Option<Total>>> {
    let [months, days, time] = columns else { return internal_err!("a sum of {} columns", columns.len()) };
    let (months, days) = (months.as_primitive::<Int64Type>(), days.as_primitive::<Int64Type>());
    let parts = months.iter().zip(days).zip(time.as_primitive::<Decimal128Type>());
    let total = |((months, days), time): ((Option<i64>, Option<i64>), Option<i128>)| {
        Some(Total { months: months?, days: days?, time: time? })
    };
    Ok(parts.map(total).collect())
}

fn as_states(totals: &[Option<Total>]) -> DataFusionResult<Vec<ArrayRef>> {
    let part =
        |part: fn(&Total) -> i64| Int64Array::from_iter(totals.iter().map(|total| total.as_ref().map(part)));
    let time = Decimal128Array::from_iter(totals.iter().map(|total| total.map(|total| total.time)));
    Ok(vec![
        Arc::new(part(|total| total.months)),
        Arc::new(part(|total| total.days)),
        Arc::new(time.with_precision_and_scale(38, 0)?),
    ])
}

impl SumResult {
    /// The intervals that `totals` are. What does not fit is an error.
    fn intervals(&self, totals: &[Option<Total>]) -> DataFusionResult<ArrayRef> {
        let small = |part: i64| i32::try_from(part).map_err(|_| self.too_large());
        let each = || totals.iter().copied();
        Ok(match &self.data_type {
            DataType::Interval(IntervalUnit::YearMonth) => {
                let value = |total: Option<Total>| total.map(|total| small(total.months)).transpose();
                Arc::new(each().map(value).collect::<DataFusionResult<IntervalYearMonthArray>>()?)
            }
            DataType::Interval(IntervalUnit::DayTime) => {
                let value = |total: Option<Total>| {
                    let value = |total: Total| {
                        let time = i32::try_from(total.time).map_err(|_| self.too_large())?;
                        Ok(IntervalDayTime::new(small(total.days)?, time))
                    };
                    total.map(value).transpose()
                };
                Arc::new(each().map(value).collect::<DataFusionResult<IntervalDayTimeArray>>()?)
            }
            _ => {
                let value = |total: Option<Total>| {
                    let value = |total: Total| {
                        let time = i64::try_from(total.time).map_err(|_| self.too_large())?;
                        Ok(IntervalMonthDayNano::new(small(total.months)?, small(total.days)?, time))
                    };
                    total.map(value).transpose()
                };
                Arc::new(each().map(value).collect::<DataFusionResult<IntervalMonthDayNanoArray>>()?)
            }
        })
    }
}

/// The sums of many groups.
#[derive(Debug)]
pub(super) struct GroupIntervals {
    totals: Vec<Option<Total>>,
    result: SumResult,
}

impl GroupIntervals {
    pub(super) fn new(result: SumResult) -> Self {
        Self { totals: Vec::new(), result }
    }

    fn add(&mut self, values: &[Option<Total>], groups: &[usize], total: usize) -> DataFusionResult<()> {
        self.totals.resize(total, None);
        for (group, value) in groups.iter().zip(values) {
            if let Some(value) = value {
                self.totals[*group].get_or_insert_default().add(*value, 1)?;
            }
        }
        Ok(())
    }
}

impl GroupsAccumulator for GroupIntervals {
    fn update_batch(
        &mut self,
        columns: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DataFusionResult<()> {
        self.add(&values(&filtered(&columns[0], filter)?)?, groups, total)
    }

    fn merge_batch(&mut self, columns: &[ArrayRef], groups: &[usize], total: usize) -> DataFusionResult<()> {
        self.add(&states(columns)?, groups, total)
    }

    fn state(&mut self, emit: EmitTo) -> DataFusionResult<Vec<ArrayRef>> {
        as_states(&emit.take_needed(&mut self.totals))
    }

    fn evaluate(&mut self, emit: EmitTo) -> DataFusionResult<ArrayRef> {
        self.result.intervals(&emit.take_needed(&mut self.totals))
    }

    fn convert_to_state(
        &self,
        columns: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> DataFusionResult<Vec<ArrayRef>> {
        as_states(&values(&filtered(&columns[0], filter)?)?)
    }

    fn size(&self) -> usize {
        self.totals.capacity() * size_of::<Option<Total>>()
    }
}

/// The sum of one group, or of a window.
#[derive(Debug)]
pub(super) struct Intervals {
    total: Total,
    rows: u64,
    result: SumResult,
}

impl Intervals {
    pub(super) fn new(result: SumResult) -> Self {
        Self { total: Total::default(), rows: 0, result }
    }

    fn sum(&self) -> Option<Total> {
        (self.rows > 0).then_some(self.total)
    }
}

impl Accumulator for Intervals {
    fn update_batch(&mut self, columns: &[ArrayRef]) -> DataFusionResult<()> {
        for value in values(&columns[0])?.into_iter().flatten() {
            self.total.add(value, 1)?;
            self.rows += 1;
        }
        Ok(())
    }

    fn retract_batch(&mut self, columns: &[ArrayRef]) -> DataFusionResult<()> {
        for value in values(&columns[0])?.into_iter().flatten() {
            self.total.add(value, -1)?;
            self.rows = self.rows.saturating_sub(1);
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, columns: &[ArrayRef]) -> DataFusionResult<()> {
        for value in states(columns)?.into_iter().flatten() {
            self.total.add(value, 1)?;
            self.rows += 1;
        }
        Ok(())
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        as_states(&[self.sum()])?.iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        ScalarValue::try_from_array(&self.result.intervals(&[self.sum()])?, 0)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
