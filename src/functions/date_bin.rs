//! DataFusion's `date_bin`, quicker for times that come mostly in order, and for times of all years.

use std::sync::{Arc, LazyLock};

use chrono::{DateTime, Datelike, Months, Utc};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, TimeUnit};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions::datetime;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl};

use super::inner::described_by_inner;
use super::units::unit_nanos;
use super::windows::Ticks;

pub(crate) const NANOS_PER_DAY: i128 = 86_400_000_000_000;
const NANOS_PER_SECOND: i128 = 1_000_000_000;

pub(super) static DATE_BIN: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(DateBin { inner: datetime::date_bin() })));

/// Gives what DataFusion's function gives, which divides for every row, but for times that it has no bin for.
/// Whatever is not an array of timestamps in bins of a constant length is left to that.
#[derive(Debug, PartialEq, Eq, Hash)]
struct DateBin {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for DateBin {
    described_by_inner!();

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        if let Some(bins) = bins(&args.args)? {
            return Ok(ColumnarValue::Array(bins));
        }
        let given = args.args.clone();
        let found = self.inner.invoke_with_args(args)?;
        match far_times(&given, &found) {
            Some(far) => far.add_to(found),
            None => Ok(found),
        }
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> DataFusionResult<SortProperties> {
        self.inner.output_ordering(input)
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

/// Times that have no bin of DataFusion's, which computes in nanoseconds and so has null for all times before 1677 and
/// after 2262.
struct FarTimes {
    times: ArrayRef,
    unit: TimeUnit,
    months: i32,
    nanos: i128,
    origin: i64,
}

/// The times of a call that gave `found`, if some have no bin.
fn far_times(args: &[ColumnarValue], found: &ColumnarValue) -> Option<FarTimes> {
    let (length, times, origin) = match args {
        [ColumnarValue::Scalar(length), times] => (length, times, 0),
        [
            ColumnarValue::Scalar(length),
            times,
            ColumnarValue::Scalar(ScalarValue::TimestampNanosecond(Some(origin), _)),
        ] => (length, times, *origin),
        _ => return None,
    };
    let DataType::Timestamp(unit, _) = times.data_type() else { return None };
    let (months, nanos) = interval(length).filter(|(months, nanos)| *months > 0 || *nanos > 0)?;
    let times = match (times, found) {
        (ColumnarValue::Array(times), ColumnarValue::Array(bins))
            if bins.null_count() > times.null_count() =>
        {
            Arc::clone(times)
        }
        (ColumnarValue::Scalar(time), ColumnarValue::Scalar(bin)) if bin.is_null() && !time.is_null() => {
            time.to_array().ok()?
        }
        _ => return None,
    };
    Some(FarTimes { times, unit, months, nanos, origin })
}

impl FarTimes {
    /// The bins `found`, and those of the other times.
    fn add_to(&self, found: ColumnarValue) -> DataFusionResult<ColumnarValue> {
        let (is_scalar, found) = match found {
            ColumnarValue::Scalar(bin) => (true, bin.to_array()?),
            ColumnarValue::Array(bins) => (false, bins),
        };
        let ticks = cast(&self.times, &DataType::Int64)?;
        let bins = cast(&found, &DataType::Int64)?;
        let (ticks, bins) = (ticks.as_primitive::<Int64Type>(), bins.as_primitive::<Int64Type>());
        let bin = |(time, bin): (Option<i64>, Option<i64>)| match (time, bin) {
            (Some(time), None) => self.bin(time).map(Some),
            (_, bin) => Ok(bin),
        };
        let bins = ticks.iter().zip(bins).map(bin).collect::<DataFusionResult<Int64Array>>()?;
        let bins = cast(&bins, self.times.data_type())?;
        Ok(match is_scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&bins, 0)?),
            false => ColumnarValue::Array(bins),
        })
    }

    /// The start of the bin of a time. One that would begin before all times of the type begins with them, as windows
    /// do.
    fn bin(&self, ticks: i64) -> DataFusionResult<i64> {
        let (tick, origin) = (i128::from(unit_nanos(self.unit)), i128::from(self.origin));
        let time = i128::from(ticks) * tick;
        let start = match self.months {
            0 => Some(origin + (time - origin).div_euclid(self.nanos) * self.nanos),
            months => month_bin(time, origin, months),
        };
        match start {
            Some(start) => Ok(i64::try_from(start / tick).unwrap_or(i64::MIN)),
            None => exec_err!(
                "date_bin: the time {ticks} ({:?}s since 1970) is in no month that can be told",
                self.unit
            ),
        }
    }
}

/// The start of the bin of `months` months, one of which begins at `origin`, that `time` is in, in nanoseconds since
/// 1970.
fn month_bin(time: i128, origin: i128, months: i32) -> Option<i128> {
    let (time, origin) = (date_time(time)?, date_time(origin)?);
    let month = |time: &DateTime<Utc>| i64::from(time.year()) * 12 + i64::from(time.month0());
    let shift = |shift: i64| {
        let count = Months::new(u32::try_from(shift.unsigned_abs()).ok()?);
        if shift < 0 { origin.checked_sub_months(count) } else { origin.checked_add_months(count) }
    };
    let months = i64::from(months);
    let distance = (month(&time) - month(&origin)).div_euclid(months) * months;
    let mut start = shift(distance)?;
    if start > time {
        start = shift(distance - months)?;
    }
    Some(i128::from(start.timestamp()) * NANOS_PER_SECOND + i128::from(start.timestamp_subsec_nanos()))
}

fn date_time(nanos: i128) -> Option<DateTime<Utc>> {
    let seconds = i64::try_from(nanos.div_euclid(NANOS_PER_SECOND)).ok()?;
    DateTime::from_timestamp(seconds, nanos.rem_euclid(NANOS_PER_SECOND) as u32)
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
    use datafusion::arrow::array::{
        PrimitiveArray, TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray,
    };
    use datafusion::arrow::datatypes::{Field, IntervalDayTime, IntervalMonthDayNano};
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
            let (ours, theirs) = (call(&DATE_BIN, &args), call(&datetime::date_bin(), &args));
            let [ColumnarValue::Scalar(length), ColumnarValue::Array(times), ..] = args.as_slice() else { unreachable!() };
            let is_long = super::interval(length).is_some_and(|(months, nanos)| months > 0 || nanos > 0);
            match (ours, theirs) {
                (Err(ours), Ok(theirs)) => {
                    prop_assert!(ours.contains("date_bin:") && theirs.null_count() > times.null_count());
                }
                // It has null for times that nanoseconds cannot express. So it stays where bins have no length.
                (Ok(ours), Ok(theirs)) if is_long && theirs.null_count() > times.null_count() => {
                    prop_assert_eq!(ours.nulls(), times.nulls());
                    for row in (0..times.len()).filter(|row| theirs.is_valid(*row)) {
                        let (one, other) = (ours.slice(row, 1), theirs.slice(row, 1));
                        prop_assert_eq!(one.as_ref(), other.as_ref());
                    }
                }
                (ours, theirs) => prop_assert_eq!(ours, theirs),
            }
        }
    }

    #[test]
    fn times_of_all_years_have_bins() {
        let stride = |months, days, nanos| {
            ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(
                months, days, nanos,
            ))))
        };
        let micros = |time: &str| DateTime::parse_from_rfc3339(time).unwrap().timestamp_micros();
        let bin = |stride: ColumnarValue, time: &str| {
            let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![None, Some(micros(time))]));
            let bins = call(&DATE_BIN, &[stride, ColumnarValue::Array(times)]).unwrap();
            assert!(bins.is_null(0));
            let bin = cast(&bins, &DataType::Int64).unwrap().as_primitive::<Int64Type>().value(1);
            DateTime::from_timestamp_micros(bin).unwrap().to_rfc3339()
        };
        for (stride, time, expected) in [
            (stride(0, 1, 0), "9999-12-31T23:59:59.999999Z", "9999-12-31T00:00:00+00:00"),
            (stride(0, 0, 7_000_000_000), "2300-01-01T00:00:03Z", "2299-12-31T23:59:57+00:00"),
            (stride(1, 0, 0), "9999-12-31T23:59:59Z", "9999-12-01T00:00:00+00:00"),
            (stride(7, 0, 0), "1000-05-05T00:00:00Z", "0999-12-01T00:00:00+00:00"),
            (stride(0, 1, 0), "0001-01-01T12:00:00Z", "0001-01-01T00:00:00+00:00"),
            (stride(0, 1, 0), "0000-02-29T12:00:00Z", "0000-02-29T00:00:00+00:00"),
        ] {
            assert_eq!(bin(stride, time), expected, "{time}");
        }
        let far: ArrayRef = Arc::new(TimestampSecondArray::from(vec![i64::MIN]));
        let bins = call(&DATE_BIN, &[stride(0, 1, 0), ColumnarValue::Array(Arc::clone(&far))]).unwrap();
        assert_eq!(&bins, &far, "it is cut off there");
        let error = call(&DATE_BIN, &[stride(1, 0, 0), ColumnarValue::Array(far)]).unwrap_err();
        assert!(error.contains("in no month"), "{error}");
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
