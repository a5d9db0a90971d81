//! DataFusion's `date_bin`, quicker for times that come mostly in order.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::functions::datetime;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use super::units::unit_nanos;
use super::windows::Ticks;

pub(crate) const NANOS_PER_DAY: i128 = 86_400_000_000_000;

pub(super) static DATE_BIN: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(DateBin { inner: datetime::date_bin() })));

/// Gives what DataFusion's function gives, which divides for every row. Whatever is not an array of
/// timestamps in bins of a constant length is left to that.
#[derive(Debug, PartialEq, Eq, Hash)]
struct DateBin {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for DateBin {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        self.inner.return_type(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        match bins(&args.args)? {
            Some(bins) => Ok(ColumnarValue::Array(bins)),
            None => self.inner.invoke_with_args(args),
        }
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> DataFusionResult<SortProperties> {
        self.inner.output_ordering(input)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// The starts of the bins of an array of timestamps, if the bins have a constant length of whole ticks
/// and nothing comes near the ends of what DataFusion, which computes in nanoseconds, can express.
fn bins(args: &[ColumnarValue]) -> DataFusionResult<Option<ArrayRef>> {
    let (length, times, origin) = match args {
        [ColumnarValue::Scalar(length), ColumnarValue::Array(times)] => (length, times, 0),
        [
            ColumnarValue::Scalar(length),
            ColumnarValue::Array(times),
            ColumnarValue::Scalar(ScalarValue::TimestampNanosecond(Some(origin), _)),
        ] => (length, times, *origin),
        _ => return Ok(None),
    };
    let (Some((0, nanos)), DataType::Timestamp(unit, _)) = (interval(length), times.data_type()) else {
        return Ok(None);
    };
    let (tick, Ok(nanos)) = (unit_nanos(*unit), i64::try_from(nanos)) else { return Ok(None) };
    if nanos <= 0 || nanos % tick != 0 || origin % tick != 0 {
        return Ok(None);
    }
    let (size, start) = (nanos / tick, origin / tick);
    // A bin's start is less than its length before the time, and a time less than this from the origin.
    let Some(reach) =
        (i64::MAX / tick).checked_sub(size).and_then(|reach| reach.checked_sub(start.saturating_abs()))
    else {
        return Ok(None);
    };
    let ticks = cast(times, &DataType::Int64)?;
    let ticks = ticks.as_primitive::<Int64Type>();
    if !ticks.values().iter().fold(true, |all, time| all & (-reach..=reach).contains(time)) {
        return Ok(None);
    }
    let newest = Ticks { size, slide: size, start }.newest();
    let starts: Vec<i64> = ticks.values().iter().copied().map(newest).collect();
    let starts = Int64Array::new(starts.into(), times.nulls().cloned());
    Ok(Some(cast(&starts, times.data_type())?))
}

/// Months and nanoseconds of an interval; a day counts as 24 hours, as `date_bin` does.
pub(crate) fn interval(value: &ScalarValue) -> Option<(i32, i128)> {
    match value {
        ScalarValue::IntervalMonthDayNano(Some(value)) => {
            Some((value.months, i128::from(value.days) * NANOS_PER_DAY + i128::from(value.nanoseconds)))
        }
        ScalarValue::IntervalDayTime(Some(value)) => {
            let nanos = i128::from(value.milliseconds) * 1_000_000;
            Some((0, i128::from(value.days) * NANOS_PER_DAY + nanos))
        }
        ScalarValue::IntervalYearMonth(Some(months)) => Some((*months, 0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{PrimitiveArray, TimestampNanosecondArray};
    use datafusion::arrow::datatypes::{Field, IntervalDayTime, IntervalMonthDayNano, TimeUnit};
    use datafusion::config::ConfigOptions;
    use proptest::prelude::*;

    use super::*;

    /// What `function` gives for the arguments, or its error.
    fn call(function: &ScalarUDF, args: &[ColumnarValue]) -> Result<ArrayRef, String> {
        let types: Vec<DataType> = args.iter().map(ColumnarValue::data_type).collect();
        let return_type = function.return_type(&types).map_err(|error| error.to_string())?;
        let rows = args.iter().find_map(|arg| match arg {
            ColumnarValue::Array(array) => Some(array.len()),
            ColumnarValue::Scalar(_) => None,
        });
        let rows = rows.unwrap_or(1);
        let field = |(index, data_type)| Arc::new(Field::new(format!("a{index}"), data_type, true));
        let args = ScalarFunctionArgs {
            args: args.to_vec(),
            arg_fields: types.into_iter().enumerate().map(field).collect(),
            number_rows: rows,
            return_field: Arc::new(Field::new("bin", return_type, true)),
            config_options: Arc::new(ConfigOptions::default()),
        };
        let value = function.invoke_with_args(args).map_err(|error| error.to_string())?;
        value.into_array(rows).map_err(|error| error.to_string())
    }

    fn interval() -> impl Strategy<Value = ScalarValue> {
        let nanos = prop_oneof![
            Just(0_i64),
            -5_000_i64..5_000,
            (-90_000_i64..90_000).prop_map(|seconds| seconds * 1_000_000_000),
            (1_i64..5_000).prop_map(|millis| millis * 1_000_000),
            any::<i64>(),
        ];
        let parts =
            (prop_oneof![4 => Just(0_i32), 1 => -2_i32..14], prop_oneof![4 => Just(0_i32), 1 => -2_i32..40]);
        let long = (parts, nanos).prop_map(|((months, days), nanoseconds)| {
            ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months, days, nanoseconds }))
        });
        let short = (-2_i32..40, any::<i32>()).prop_map(|(days, milliseconds)| {
            ScalarValue::IntervalDayTime(Some(IntervalDayTime { days, milliseconds }))
        });
        prop_oneof![5 => long, 1 => short]
    }

    fn times() -> impl Strategy<Value = Vec<Option<i64>>> {
        let near = prop_oneof![-100_000_i64..100_000, (-4_000_000_000_i64..4_000_000_000), any::<i64>()];
        (
            near,
            prop::collection::vec(prop::option::weighted(0.9, -90_000_i64..90_000), 0..40),
            prop::bool::weighted(0.1),
        )
            .prop_map(|(base, steps, extremes)| {
                let mut times: Vec<_> =
                    steps.into_iter().map(|step| step.map(|step| base.saturating_add(step))).collect();
                if extremes {
                    times.extend([Some(i64::MIN), Some(i64::MAX)]);
                }
                times
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn it_gives_what_datafusions_function_gives(
            length in interval(),
            times in times(),
            unit in prop::sample::select(vec![
                TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond,
            ]),
            zone in prop::option::of(Just("+02:00")),
            origin in prop::option::weighted(0.4, prop_oneof![
                -1_000_000_000_000_i64..1_000_000_000_000,
                (-4_000_000_i64..4_000_000).prop_map(|seconds| seconds * 1_000_000_000),
                any::<i64>(),
            ]),
        ) {
            let times: PrimitiveArray<Int64Type> = times.into_iter().collect();
            let times = cast(&times, &DataType::Timestamp(unit, zone.map(Into::into))).unwrap();
            let mut args = vec![ColumnarValue::Scalar(length), ColumnarValue::Array(times)];
            args.extend(origin.map(|origin| {
                ColumnarValue::Scalar(ScalarValue::TimestampNanosecond(Some(origin), None))
            }));
            prop_assert_eq!(call(&DATE_BIN, &args), call(&datetime::date_bin(), &args));
        }
    }

    #[test]
    fn ordinary_bins_are_not_left_to_datafusion() {
        let length = ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, 0, 10)));
        let times =
            TimestampNanosecondArray::from(vec![Some(-11), None, Some(-1), Some(0), Some(19), Some(20)]);
        let args = [ColumnarValue::Scalar(length), ColumnarValue::Array(Arc::new(times))];
        let found = bins(&args).unwrap().expect("a constant length and timestamps");
        let expected =
            TimestampNanosecondArray::from(vec![Some(-20), None, Some(-10), Some(0), Some(10), Some(20)]);
        assert_eq!(found.as_ref(), &expected as &dyn Array);
    }
}
