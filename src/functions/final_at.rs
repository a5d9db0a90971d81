//! The watermark from which on a value is final, computed for whole columns.

use std::hash::Hash;
use std::sync::Arc;

use chrono::{DateTime, Days, LocalResult, Months, NaiveDateTime, TimeDelta, TimeZone, Utc};
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, PrimitiveArray};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use datafusion::common::exec_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::finality::{Finality, Span, WINDOW_END};

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The expression that gives the watermark, in microseconds since the epoch, from which on no row
/// can come any more that has the value of `value`; null for null. Beyond the range of time it is
/// `i64::MAX`: never.
///
/// Rows may come so many microseconds after the watermark has passed their event time as `delay` says.
pub(crate) fn final_at(value: Expr, finality: &Finality, delay: i64) -> Expr {
    ScalarUDF::new_from_impl(FinalAt::new(finality.clone(), delay)).call(vec![value])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct FinalAt {
    finality: Finality,
    /// In microseconds.
    delay: i64,
    name: String,
    signature: Signature,
}

impl FinalAt {
    fn new(finality: Finality, delay: i64) -> Self {
        let name = match delay {
            0 => format!("final_at[{finality}]"),
            delay => format!("final_at[{finality}, {delay}us later]"),
        };
        Self { finality, delay, name, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for FinalAt {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let values = args.args[0].to_array(args.number_rows)?;
        let times = match &self.finality {
            Finality::After(span) => after(&values, span)?,
            Finality::Window { .. } | Finality::Session { .. } => {
                let Some(ends) = values.as_struct_opt().and_then(|window| window.column_by_name(WINDOW_END))
                else {
                    return exec_err!("expected windows, found {}", values.data_type());
                };
                // The end of a null window is whatever its slot holds.
                let ends = datafusion::arrow::compute::nullif(ends, &nulls_of(&values)?)?;
                after(&ends, &Span::default())?
            }
        };
        let times = match self.delay {
            0 => times,
            delay => times.unary(|time| time.saturating_add(delay)),
        };
        Ok(ColumnarValue::Array(Arc::new(times)))
    }
}

fn nulls_of(values: &ArrayRef) -> DataFusionResult<datafusion::arrow::array::BooleanArray> {
    Ok(datafusion::arrow::compute::is_null(values)?)
}

/// The instants `span` after `values`, in microseconds since the epoch.
fn after(values: &ArrayRef, span: &Span) -> DataFusionResult<Int64Array> {
    let (instants, zone) = match values.data_type() {
        DataType::Timestamp(unit, zone) => (micros(values, *unit), zone.as_deref()),
        DataType::Date32 => {
            let dates = values.as_primitive::<Date32Type>();
            let zone = zone(span.zone.as_deref())?;
            // A date begins where its zone says, which the sum below has to start from.
            let midnights = dates.unary(|days| i64::from(days).saturating_mul(MICROS_PER_DAY));
            return Ok(map(&midnights, |midnight| {
                let local = DateTime::from_timestamp_micros(midnight)?.naive_utc();
                add(local, span, zone)
            }));
        }
        other => return exec_err!("expected times, found {other}"),
    };
    let zone = self::zone(span.zone.as_deref().or(zone))?;
    if span.months == 0 && (span.days == 0 || zone.is_none()) {
        let micros = i64::from(span.days).saturating_mul(MICROS_PER_DAY).saturating_add(span.micros);
        return Ok(instants.unary(|instant| instant.saturating_add(micros)));
    }
    Ok(map(&instants, |instant| {
        let instant = DateTime::from_timestamp_micros(instant)?;
        match zone {
            None => add(instant.naive_utc(), span, None),
            Some(zone) => add(instant.with_timezone(&zone).naive_local(), span, Some(zone)),
        }
    }))
}

/// `None` is UTC, which is quicker than a zone of that name.
fn zone(name: Option<&str>) -> DataFusionResult<Option<Tz>> {
    match name {
        None | Some("UTC" | "+00:00") => Ok(None),
        Some(name) => Ok(Some(name.parse()?)),
    }
}

/// `local + span` in microseconds since the epoch. Of two instants with the same local time it is
/// the later; a local time that does not exist counts as the next that does.
fn add(local: NaiveDateTime, span: &Span, zone: Option<Tz>) -> Option<i64> {
    let months = Months::new(u32::try_from(span.months).ok()?);
    let days = Days::new(u64::try_from(span.days).ok()?);
    let mut local = local.checked_add_months(months)?.checked_add_days(days)?;
    let instant = match zone {
        None => local.and_utc(),
        Some(zone) => loop {
            match zone.from_local_datetime(&local) {
                LocalResult::Single(time) | LocalResult::Ambiguous(_, time) => {
                    break time.with_timezone(&Utc);
                }
                LocalResult::None => local = local.checked_add_signed(TimeDelta::minutes(15))?,
            }
        },
    };
    instant.timestamp_micros().checked_add(span.micros)
}

/// `f` of every value, computed once for runs of equal values; `i64::MAX` where it gives nothing.
fn map(values: &Int64Array, f: impl Fn(i64) -> Option<i64>) -> Int64Array {
    let mut last = None;
    let times = values.iter().map(|value| {
        let value = value?;
        match last {
            Some((key, time)) if key == value => Some(time),
            _ => {
                let time = f(value).unwrap_or(i64::MAX);
                last = Some((value, time));
                Some(time)
            }
        }
    });
    times.collect()
}

/// Times in microseconds since the epoch, rounded up; the nearest there is if out of range.
fn micros(values: &ArrayRef, unit: TimeUnit) -> PrimitiveArray<Int64Type> {
    match unit {
        TimeUnit::Second => {
            values.as_primitive::<TimestampSecondType>().unary(|time| time.saturating_mul(1_000_000))
        }
        TimeUnit::Millisecond => {
            values.as_primitive::<TimestampMillisecondType>().unary(|time| time.saturating_mul(1_000))
        }
        TimeUnit::Microsecond => values.as_primitive::<TimestampMicrosecondType>().unary(|time| time),
        TimeUnit::Nanosecond => values
            .as_primitive::<TimestampNanosecondType>()
            .unary(|time| time.div_euclid(1_000) + i64::from(time.rem_euclid(1_000) > 0)),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        Date32Array, StructArray, TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray,
    };
    use datafusion::arrow::buffer::NullBuffer;
    use datafusion::arrow::datatypes::Field;
    use datafusion::config::ConfigOptions;

    use super::*;

    fn run(values: ArrayRef, tag: &str) -> Vec<Option<i64>> {
        let function = FinalAt::new(tag.parse().unwrap(), 0);
        let args = ScalarFunctionArgs {
            arg_fields: vec![Arc::new(Field::new("c", values.data_type().clone(), true))],
            number_rows: values.len(),
            args: vec![ColumnarValue::Array(values)],
            return_field: Arc::new(Field::new("f", DataType::Int64, true)),
            config_options: Arc::new(ConfigOptions::default()),
        };
        let times = function.invoke_with_args(args).unwrap().to_array(0).unwrap();
        times.as_primitive::<Int64Type>().iter().collect()
    }

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
    }

    fn times(texts: &[&str], zone: Option<&str>) -> ArrayRef {
        let times: TimestampMicrosecondArray = texts.iter().map(|text| Some(at(text))).collect();
        Arc::new(times.with_timezone_opt(zone))
    }

    #[test]
    fn fixed_spans_of_every_unit() {
        let nanos = TimestampNanosecondArray::from(vec![Some(1), Some(-1), Some(-1_000), None, Some(2_000)]);
        assert_eq!(run(Arc::new(nanos), "0"), [Some(1), Some(0), Some(-1), None, Some(2)]);
        let seconds = TimestampSecondArray::from(vec![Some(-1), Some(i64::MAX), Some(i64::MIN)]);
        assert_eq!(run(Arc::new(seconds), "+10us"), [Some(-999_990), Some(i64::MAX), Some(i64::MIN + 10)]);
    }

    #[test]
    fn calendar_spans_follow_the_zone() {
        let utc = times(&["2024-02-01T00:00:00Z", "1969-12-01T00:00:00Z"], None);
        let expected = [at("2024-03-01T00:00:00Z"), at("1970-01-01T00:00:00Z")].map(Some);
        assert_eq!(run(utc, "+1mon"), expected);
        // The day on which clocks go forward has 23 hours.
        let berlin = times(&["2024-03-31T00:00:00+01:00"], Some("Europe/Berlin"));
        assert_eq!(run(Arc::clone(&berlin), "+1day"), [Some(at("2024-04-01T00:00:00+02:00"))]);
        assert_eq!(run(berlin, "+1day@UTC"), [Some(at("2024-03-31T23:00:00Z"))]);
        // On 2018-11-04 there was no midnight in São Paulo.
        let gap = times(&["2018-11-03T00:00:00-03:00"], Some("America/Sao_Paulo"));
        assert_eq!(run(gap, "+1day"), [Some(at("2018-11-04T01:00:00-02:00"))]);
        // Half past two came twice.
        let twice = times(&["2024-10-26T02:30:00+02:00"], Some("Europe/Berlin"));
        assert_eq!(run(twice, "+1day"), [Some(at("2024-10-27T02:30:00+01:00"))]);
    }

    #[test]
    fn dates_are_final_when_their_day_has_ended_where_they_belong() {
        let dates = || Arc::new(Date32Array::from(vec![Some(0), None, Some(-1)])) as ArrayRef;
        assert_eq!(run(dates(), "+1day@UTC"), [Some(MICROS_PER_DAY), None, Some(0)]);
        let tokyo = at("1970-01-02T00:00:00+09:00");
        assert_eq!(run(dates(), "+1day@Asia/Tokyo"), [Some(tokyo), None, Some(tokyo - MICROS_PER_DAY)]);
        let never = Arc::new(Date32Array::from(vec![i32::MAX]));
        assert_eq!(run(never, "+1day@UTC"), [Some(i64::MAX)]);
    }

    #[test]
    fn windows_are_final_at_their_end() {
        let start: ArrayRef = Arc::new(TimestampSecondArray::from(vec![0, 10, 20]));
        let end: ArrayRef = Arc::new(TimestampSecondArray::from(vec![10, 20, 30]));
        let field = |name: &str| Field::new(name, start.data_type().clone(), false);
        let nulls = NullBuffer::from(vec![true, false, true]);
        let fields = vec![field("start"), field("end")].into();
        let windows = StructArray::new(fields, vec![Arc::clone(&start), end], Some(nulls));
        assert_eq!(run(Arc::new(windows), "window"), [Some(10_000_000), None, Some(30_000_000)]);
    }
}
