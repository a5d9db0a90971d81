//! Intervals times numbers, and divided by them: `3 * INTERVAL '1 hour'`, `n * INTERVAL '1' DAY`.
//!
//! DataFusion has no such arithmetic. As in PostgreSQL, a part of a month is of 30 days, and one of a day of 24 hours.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, IntervalMonthDayNanoArray};
use datafusion::arrow::datatypes::{
    DataType, Float64Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit,
};
use datafusion::common::{DFSchema, ScalarValue, exec_datafusion_err, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    cast,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::date_bin::NANOS_PER_DAY;

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);
const DAYS_PER_MONTH: i128 = 30;

/// Plans such arithmetic.
#[derive(Debug)]
pub(crate) struct IntervalFactors;

impl ExprPlanner for IntervalFactors {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> DataFusionResult<PlannerResult<RawBinaryExpr>> {
        let divides = match expr.op {
            BinaryOperator::Multiply => false,
            BinaryOperator::Divide => true,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let (Ok(left), Ok(right)) = (expr.left.get_type(schema), expr.right.get_type(schema)) else {
            return Ok(PlannerResult::Original(expr));
        };
        let is_interval = |data_type: &DataType| matches!(data_type, DataType::Interval(_));
        let (interval, number, number_type) = match (is_interval(&left), is_interval(&right)) {
            (true, false) if right.is_numeric() => (expr.left, expr.right, right),
            (false, true) if left.is_numeric() && !divides => (expr.right, expr.left, left),
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let number_type = if number_type.is_integer() { DataType::Int64 } else { DataType::Float64 };
        let arguments = [with_type(interval, &INTERVAL)?, with_type(number, &number_type)?];
        if let [Expr::Literal(interval, _), Expr::Literal(number, _)] = &arguments {
            let product = product(&interval.to_array()?, &number.to_array()?, divides)?;
            return Ok(PlannerResult::Planned(Expr::Literal(
                ScalarValue::try_from_array(&product, 0)?,
                None,
            )));
        }
        let signature = Signature::any(2, Volatility::Immutable);
        let function = ScalarUDF::new_from_impl(Product { divides, signature });
        Ok(PlannerResult::Planned(function.call(arguments.into())))
    }
}

/// `expr` as values of `data_type`; a literal stays one.
fn with_type(expr: Expr, data_type: &DataType) -> DataFusionResult<Expr> {
    Ok(match expr {
        Expr::Literal(value, metadata) => Expr::Literal(value.cast_to(data_type)?, metadata),
        expr => cast(expr, data_type.clone()),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Product {
    divides: bool,
    signature: Signature,
}

impl ScalarUDFImpl for Product {
    fn name(&self) -> &str {
        if self.divides { "interval_quotient" } else { "interval_product" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(INTERVAL)
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn evaluate_bounds(&self, _: &[&Interval]) -> DataFusionResult<Interval> {
        Interval::make_unbounded(&INTERVAL)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        match ColumnarValue::values_to_arrays(&args.args)?.as_slice() {
            [intervals, numbers] => Ok(ColumnarValue::Array(product(intervals, numbers, self.divides)?)),
            args => internal_err!("{} of {} arguments", self.name(), args.len()),
        }
    }
}

/// Each of `intervals` times its number, or divided by it.
fn product(intervals: &ArrayRef, numbers: &ArrayRef, divides: bool) -> DataFusionResult<ArrayRef> {
    let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
    let whole = numbers.as_primitive_opt::<Int64Type>();
    let parts = numbers.as_primitive_opt::<Float64Type>();
    let of_row = |row: usize| -> DataFusionResult<Option<IntervalMonthDayNano>> {
        if intervals.is_null(row) || numbers.is_null(row) {
            return Ok(None);
        }
        let interval = intervals.value(row);
        let (found, number) = match (whole, parts) {
            (Some(numbers), _) => {
                let number = numbers.value(row);
                (times_whole(interval, number, divides), number.to_string())
            }
            (None, Some(numbers)) => {
                let number = numbers.value(row);
                (times(interval, if divides { number.recip() } else { number }), number.to_string())
            }
            _ => return internal_err!("an interval times {}", numbers.data_type()),
        };
        let sign = if divides { '/' } else { '*' };
        let text = || ScalarValue::IntervalMonthDayNano(Some(interval));
        match found {
            Some(found) => Ok(Some(found)),
            None if divides && number.parse() == Ok(0.0) => {
                Err(exec_datafusion_err!("division by zero in INTERVAL '{}' / {number}", text()))
            }
            None => Err(exec_datafusion_err!(
                "INTERVAL '{}' {sign} {number} is no interval that there is",
                text()
            )),
        }
    };
    let products =
        (0..intervals.len()).map(of_row).collect::<DataFusionResult<IntervalMonthDayNanoArray>>()?;
    Ok(Arc::new(products))
}

/// Exactly; `None` if there is no such interval.
fn times_whole(interval: IntervalMonthDayNano, number: i64, divides: bool) -> Option<IntervalMonthDayNano> {
    let number = i128::from(number);
    let (months, days) = (i128::from(interval.months), i128::from(interval.days));
    let nanos = i128::from(interval.nanoseconds);
    if !divides {
        return of_parts(months * number, days * number, nanos * number);
    }
    let days = days + months.checked_rem(number)? * DAYS_PER_MONTH;
    let nanos = nanos + days % number * NANOS_PER_DAY;
    of_parts(months / number, days / number, nanos / number)
}

fn times(interval: IntervalMonthDayNano, number: f64) -> Option<IntervalMonthDayNano> {
    let months = f64::from(interval.months) * number;
    let days = f64::from(interval.days) * number + months.fract() * DAYS_PER_MONTH as f64;
    let nanos = interval.nanoseconds as f64 * number + days.fract() * NANOS_PER_DAY as f64;
    let all = [months.trunc(), days.trunc(), nanos.round()];
    // What is none, or too large for any of them.
    if all.iter().any(|part| !part.is_finite()) {
        return None;
    }
    let [months, days, nanos] = all.map(|part| part as i128);
    of_parts(months, days, nanos)
}

fn of_parts(months: i128, days: i128, nanos: i128) -> Option<IntervalMonthDayNano> {
    Some(IntervalMonthDayNano {
        months: months.try_into().ok()?,
        days: days.try_into().ok()?,
        nanoseconds: nanos.try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_larger_unit_are_of_smaller_ones() {
        let interval = |months, days, nanoseconds| IntervalMonthDayNano { months, days, nanoseconds };
        const HOUR: i64 = 3_600_000_000_000;
        assert_eq!(times_whole(interval(1, 2, 3), 4, false), Some(interval(4, 8, 12)));
        assert_eq!(times_whole(interval(1, 0, 0), 2, true), Some(interval(0, 15, 0)));
        assert_eq!(times_whole(interval(0, 1, 0), 2, true), Some(interval(0, 0, 12 * HOUR)));
        assert_eq!(
            times_whole(interval(13, 1, HOUR), -2, true),
            Some(interval(-6, -15, -12 * HOUR - HOUR / 2))
        );
        assert_eq!(times_whole(interval(0, 1, 0), 0, true), None);
        assert_eq!(times_whole(interval(0, i32::MAX, 0), 2, false), None);
        assert_eq!(times(interval(0, 1, 0), 1.5), Some(interval(0, 1, 12 * HOUR)));
        assert_eq!(times(interval(1, 0, 0), 0.5), Some(interval(0, 15, 0)));
        assert_eq!(times(interval(0, 0, HOUR), f64::NAN), None);
    }
}
