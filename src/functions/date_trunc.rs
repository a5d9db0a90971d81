//! DataFusion's `date_trunc`, also for times that nanoseconds do not reach.
//!
//! It computes in nanoseconds, whatever the unit of its times is, and fails beyond the year 2262, which
//! `9999-12-31`, the usual mark for an end that is not known, is.

use std::sync::{Arc, LazyLock};

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike};
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, TimeUnit};
use datafusion::common::{ScalarValue, exec_datafusion_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions::datetime;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl};

use super::inner::described_by_inner;
use super::units::unit_nanos;

pub(super) static DATE_TRUNC: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(DateTrunc { inner: datetime::date_trunc() })));

const UNITS: [&str; 10] =
    ["microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year"];

/// Gives what DataFusion's function gives, and computes itself where that fails.
#[derive(Debug, PartialEq, Eq, Hash)]
struct DateTrunc {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for DateTrunc {
    described_by_inner!();

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let arguments = args.args.clone();
        let failed = match self.inner.invoke_with_args(args) {
            Err(failed) => failed,
            truncated => return truncated,
        };
        let [ColumnarValue::Scalar(unit), times] = arguments.as_slice() else { return Err(failed) };
        let (Some(Some(unit)), DataType::Timestamp(_, _)) = (unit.try_as_str(), times.data_type()) else {
            return Err(failed);
        };
        if !UNITS.contains(&unit.to_lowercase().as_str()) {
            return Err(exec_datafusion_err!(
                "date_trunc knows no unit '{unit}': there are {}",
                UNITS.join(", ")
            ));
        }
        match times {
            ColumnarValue::Array(times) => Ok(ColumnarValue::Array(truncated(unit, times)?)),
            ColumnarValue::Scalar(time) => {
                let truncated = truncated(unit, &time.to_array()?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&truncated, 0)?))
            }
        }
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> DataFusionResult<SortProperties> {
        self.inner.output_ordering(input)
    }
}

/// `times`, which are timestamps, truncated to `unit`.
fn truncated(unit: &str, times: &ArrayRef) -> DataFusionResult<ArrayRef> {
    let DataType::Timestamp(tick, zone) = times.data_type() else {
        return Err(exec_datafusion_err!("date_trunc of {}", times.data_type()));
    };
    let zone = zone.as_deref().map(str::parse::<Tz>).transpose()?;
    let ticks = cast(times, &DataType::Int64)?;
    let ticks = ticks.as_primitive::<Int64Type>().iter().map(|time| {
        let Some(time) = time else { return Ok(None) };
        let truncated = truncate(unit, time, *tick, zone).ok_or_else(|| {
            exec_datafusion_err!(
                "date_trunc('{unit}', …) has no result for a time of {time} {tick} since 1970: it is out of range"
            )
        });
        truncated.map(Some)
    });
    let ticks = ticks.collect::<DataFusionResult<Int64Array>>()?;
    Ok(cast(&ticks, times.data_type())?)
}

/// `None` if there is no such time.
fn truncate(unit: &str, time: i64, tick: TimeUnit, zone: Option<Tz>) -> Option<i64> {
    let nanos = unit_nanos(tick);
    let per_second = 1_000_000_000 / nanos;
    let whole = |length: i64| Some(time - time.rem_euclid(length));
    match unit.to_lowercase().as_str() {
        "microsecond" => return whole((1_000 / nanos).max(1)),
        "millisecond" => return whole((1_000_000 / nanos).max(1)),
        "second" => return whole(per_second),
        "minute" => return whole(per_second.checked_mul(60)?),
        _ => {}
    }
    let utc = DateTime::from_timestamp(time.div_euclid(per_second), 0)?;
    let local = zone.map_or(utc.naive_utc(), |zone| utc.with_timezone(&zone).naive_local());
    let start = start_of(&unit.to_lowercase(), local)?;
    let seconds = match zone {
        None => start.and_utc().timestamp(),
        Some(zone) => {
            let offset = zone.offset_from_utc_datetime(&utc.naive_utc()).fix();
            match zone.from_local_datetime(&start) {
                chrono::LocalResult::Single(start) => start.timestamp(),
                chrono::LocalResult::Ambiguous(one, other) => {
                    if one.offset().fix() == offset {
                        one.timestamp()
                    } else {
                        other.timestamp()
                    }
                }
                // The clocks went forward over it.
                chrono::LocalResult::None => {
                    let hours = TimeDelta::hours(3);
                    zone.from_local_datetime(&start.checked_sub_signed(hours)?).single()?.timestamp()
                        + 3 * 3600
                }
            }
        }
    };
    seconds.checked_mul(per_second)
}

/// The start of the hour, day, … in which `time` is.
fn start_of(unit: &str, time: NaiveDateTime) -> Option<NaiveDateTime> {
    let date = time.date();
    let date = match unit {
        "hour" => return date.and_hms_opt(time.hour(), 0, 0),
        "day" => date,
        "week" => date.checked_sub_days(Days::new(date.weekday().num_days_from_monday().into()))?,
        "month" => date.with_day(1)?,
        "quarter" => NaiveDate::from_ymd_opt(date.year(), date.month0() / 3 * 3 + 1, 1)?,
        "year" => NaiveDate::from_ymd_opt(date.year(), 1, 1)?,
        _ => return None,
    };
    date.and_hms_opt(0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(function: &ScalarUDF, unit: &str, time: &ScalarValue) -> Option<ScalarValue> {
        use datafusion::arrow::datatypes::Field;
        let args = [ScalarValue::Utf8(Some(unit.into())), time.clone()];
        let fields = args.iter().map(|arg| Arc::new(Field::new("a", arg.data_type(), true))).collect();
        let args = ScalarFunctionArgs {
            args: args.map(ColumnarValue::Scalar).to_vec(),
            arg_fields: fields,
            number_rows: 1,
            return_field: Arc::new(Field::new("r", time.data_type(), true)),
            config_options: Arc::default(),
        };
        match function.invoke_with_args(args).ok()? {
            ColumnarValue::Scalar(value) => Some(value),
            ColumnarValue::Array(_) => None,
        }
    }

    /// Where DataFusion has a result, this is the same.
    #[test]
    fn near_times_are_truncated_as_datafusion_does() {
        for zone in [None, Some("+05:30"), Some("Europe/Berlin"), Some("America/Sao_Paulo")] {
            let tz: Option<Tz> = zone.map(|zone| zone.parse().unwrap());
            for micros in
                [0, -1, 1_784_578_620_123_456, 1_729_994_400_000_000, 1_540_000_000_999_999, -1e15 as i64]
            {
                let time = ScalarValue::TimestampMicrosecond(Some(micros), zone.map(Into::into));
                for unit in UNITS {
                    let Some(ScalarValue::TimestampMicrosecond(expected, _)) =
                        call(&datetime::date_trunc(), unit, &time)
                    else {
                        panic!("{unit} {time}")
                    };
                    // Its result for seconds before 1970 is that of the next second.
                    if micros >= 0 || !matches!(unit, "microsecond" | "millisecond" | "second" | "minute") {
                        let found = truncate(unit, micros, TimeUnit::Microsecond, tz);
                        assert_eq!(found, expected, "{unit} {time}");
                    }
                }
            }
        }
    }

    #[test]
    fn far_times_are_truncated_too() {
        let end = 253_402_300_799_999_999;
        let time = ScalarValue::TimestampMicrosecond(Some(end), None);
        for (unit, text) in [
            ("microsecond", "9999-12-31 23:59:59.999999"),
            ("second", "9999-12-31 23:59:59"),
            ("hour", "9999-12-31 23:00:00"),
            ("day", "9999-12-31"),
            ("week", "9999-12-27"),
            ("month", "9999-12-01"),
            ("quarter", "9999-10-01"),
            ("year", "9999-01-01"),
        ] {
            let expected = match NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f") {
                Ok(time) => time,
                Err(_) => text.parse::<NaiveDate>().unwrap().and_hms_opt(0, 0, 0).unwrap(),
            };
            let expected = Some(expected.and_utc().timestamp_micros());
            let found = call(&DATE_TRUNC, unit, &time);
            assert_eq!(found, Some(ScalarValue::TimestampMicrosecond(expected, None)), "{unit}");
        }
        assert_eq!(call(&DATE_TRUNC, "minut", &time), None, "there is no such unit");
        let seconds = ScalarValue::TimestampSecond(Some(i64::MAX / 2), None);
        assert_eq!(call(&DATE_TRUNC, "day", &seconds), None);
    }
}
