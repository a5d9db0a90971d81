//! Dates and times of coarser units beside times of nanoseconds.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, TimestampNanosecondArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, TimeUnit};
use datafusion::common::exec_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::unit_nanos;

const NANOS_PER_DAY: i64 = 86_400_000_000_000;

/// What `time`, a date or a timestamp, is as a timestamp of nanoseconds to be compared with others; null for null. Where
/// those do not reach, before 1677 and after 2262, it is the first or the last that there is: all others are after or
/// before it, as they are of `time`.
pub(crate) fn within_reach(time: Expr) -> Expr {
    ScalarUDF::new_from_impl(WithinReach { signature: Signature::any(1, Volatility::Immutable) })
        .call(vec![time])
}

/// The time that `call` brings within reach, if that is what it does.
pub(crate) fn reached(call: &ScalarFunction) -> Option<&Expr> {
    call.func.inner().is::<WithinReach>().then(|| call.args.first()).flatten()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WithinReach {
    signature: Signature,
}

impl ScalarUDFImpl for WithinReach {
    fn name(&self) -> &str {
        "within_reach"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        let zone = match types.first() {
            Some(DataType::Timestamp(_, zone)) => zone.clone(),
            _ => None,
        };
        Ok(DataType::Timestamp(TimeUnit::Nanosecond, zone))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let times = args.args[0].to_array(args.number_rows)?;
        let (numbers, nanos): (ArrayRef, i64) = match times.data_type() {
            DataType::Date32 => (cast(&times, &DataType::Int32)?, NANOS_PER_DAY),
            DataType::Date64 => (cast(&cast(&times, &DataType::Date32)?, &DataType::Int32)?, NANOS_PER_DAY),
            DataType::Timestamp(unit, _) => (cast(&times, &DataType::Int64)?, unit_nanos(*unit)),
            other => return exec_err!("expected dates or times, found {other}"),
        };
        let numbers = cast(&numbers, &DataType::Int64)?;
        let numbers: &Int64Array = numbers.as_primitive::<Int64Type>();
        let nearest: TimestampNanosecondArray = numbers.unary(|number| number.saturating_mul(nanos));
        Ok(ColumnarValue::Array(Arc::new(nearest.with_data_type(args.return_type().clone()))))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Date32Array, RecordBatch, TimestampMicrosecondArray};
    use datafusion::common::ToDFSchema;
    use datafusion::logical_expr::col;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// The results for `times`, and of what type they are.
    fn brought(times: ArrayRef) -> (Vec<Option<i64>>, DataType) {
        let rows = RecordBatch::try_from_iter([("t", times)]).unwrap();
        let schema = rows.schema().to_dfschema().unwrap();
        let expr = SessionContext::new().create_physical_expr(within_reach(col("t")), &schema).unwrap();
        let times = expr.evaluate(&rows).unwrap().into_array(rows.num_rows()).unwrap();
        let numbers = cast(&times, &DataType::Int64).unwrap();
        (numbers.as_primitive::<Int64Type>().iter().collect(), times.data_type().clone())
    }

    #[test]
    fn what_nanoseconds_do_not_reach_is_at_the_ends() {
        let plain = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let dates = Date32Array::from(vec![Some(0), None, Some(-1), Some(2_932_896), Some(-719_162)]);
        let expected = vec![Some(0), None, Some(-NANOS_PER_DAY), Some(i64::MAX), Some(i64::MIN)];
        assert_eq!(brought(Arc::new(dates)), (expected, plain.clone()));
        let far = 253_402_214_400_000_000;
        let micros = TimestampMicrosecondArray::from(vec![Some(1), None, Some(far), Some(-far)]);
        let expected = vec![Some(1_000), None, Some(i64::MAX), Some(i64::MIN)];
        assert_eq!(brought(Arc::new(micros.clone())), (expected.clone(), plain));
        let zoned = micros.with_timezone("Europe/Berlin");
        let of_zone = DataType::Timestamp(TimeUnit::Nanosecond, Some("Europe/Berlin".into()));
        assert_eq!(brought(Arc::new(zoned)), (expected, of_zone));
    }
}
