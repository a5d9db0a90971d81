//! The lengths that `window()` is given.

use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result as DataFusionResult;

use super::windows::Windows;
use crate::options::parse_duration;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The windows that the arguments after the time describe: size, slide and start.
pub(crate) fn windows_of(lengths: &[Option<&ScalarValue>]) -> DataFusionResult<Windows> {
    let length = |position: usize, what: &str| match lengths.get(position) {
        None => Ok(None),
        Some(None) => plan_err!("window(): the {what} must be a constant such as '10 minutes'"),
        Some(Some(value)) => micros(value, what).map(Some),
    };
    let size = match length(0, "size")? {
        Some(size) if size > 0 => size,
        Some(_) => return plan_err!("window(): the size must be greater than 0"),
        None => return plan_err!("window() needs a time and a size such as '10 minutes'"),
    };
    let slide = length(1, "slide")?.unwrap_or(size);
    let start = length(2, "start")?.unwrap_or(0);
    if slide <= 0 {
        return plan_err!("window(): the slide must be greater than 0");
    }
    if slide > size {
        return plan_err!(
            "window(): the slide must not be greater than the size, or rows between two windows would be in \
             none"
        );
    }
    if start.unsigned_abs() >= slide.unsigned_abs() {
        return plan_err!(
            "window(): the start must be nearer to 0 than the slide is; windows start every slide anyway"
        );
    }
    Windows::try_new(size, slide, start)
}

/// A length in microseconds, which only a start may have below zero.
fn micros(value: &ScalarValue, what: &str) -> DataFusionResult<i64> {
    let micros = match value {
        ScalarValue::Utf8(Some(text))
        | ScalarValue::LargeUtf8(Some(text))
        | ScalarValue::Utf8View(Some(text)) => from_text(text),
        ScalarValue::IntervalMonthDayNano(Some(value))
            if value.months == 0 && value.nanoseconds % 1_000 == 0 =>
        {
            i64::from(value.days)
                .checked_mul(MICROS_PER_DAY)
                .and_then(|days| days.checked_add(value.nanoseconds / 1_000))
        }
        ScalarValue::IntervalDayTime(Some(value)) => {
            let millis = i64::from(value.milliseconds) * 1_000;
            i64::from(value.days).checked_mul(MICROS_PER_DAY).and_then(|days| days.checked_add(millis))
        }
        ScalarValue::IntervalMonthDayNano(Some(value)) if value.months != 0 => {
            return plan_err!(
                "window(): the {what} has months, which are not all equally long. Give it in days, or group \
                 by date_trunc('month', …)"
            );
        }
        _ => None,
    };
    match micros {
        Some(micros) => Ok(micros),
        None => plan_err!(
            "window(): the {what} {value} is not a length of time such as '10 minutes' or INTERVAL '10' \
             MINUTE, in whole microseconds"
        ),
    }
}

/// A length in microseconds, if `text` is one.
pub(super) fn from_text(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, length) = match text.strip_prefix('-') {
        Some(length) => (-1, length),
        None => (1, text),
    };
    let length = parse_duration(length)?;
    if length.subsec_nanos() % 1_000 != 0 {
        return None;
    }
    Some(sign * i64::try_from(length.as_micros()).ok()?)
}
