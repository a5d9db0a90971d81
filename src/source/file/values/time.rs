//! Dates and times from text and numbers.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, TimeZone, Timelike, Utc};
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::compute::kernels::cast_utils::{Parser, string_to_datetime};
use datafusion::arrow::datatypes::{Date32Type, Time64NanosecondType, TimeUnit};

use super::number::{NotExact, Surplus, is_number, scaled};
use super::pattern::{Parsed, Zone};
use super::rules::ValueRules;
use crate::types::digits_of;

const NO_TIME: &str = "it is no time in ISO 8601, such as 2024-02-29T12:00:00. Set timestampFormat if times \
                       are written in another way";
const NO_PATTERN_TIME: &str = "it is not written as timestampFormat says";
const NO_UNIT: &str = "a number can be seconds or parts of them. Set epochUnit to say what it counts";
const OUT_OF_RANGE: &str = "it is out of range";
const LEAP_SECOND: &str = "its second is 60, which no time here has";

/// The instant or local time that `text` tells, as a count of `unit` since 1970. A text without an offset
/// tells the time in `zone`; parts finer than `unit` are cut off.
pub(super) fn timestamp_of_text(
    text: &str,
    unit: TimeUnit,
    zone: Option<Tz>,
    rules: &ValueRules,
) -> Result<i64, &'static str> {
    if let Some(pattern) = &rules.timestamp_format {
        if let Some(parsed) = pattern.parse(text) {
            return in_zone(&parsed, zone).and_then(|time| count(time, unit)).ok_or(OUT_OF_RANGE);
        }
        return match rules.epoch_unit {
            Some(epoch) if is_number(text) => timestamp_of_number(text, unit, Some(epoch)),
            _ => Err(NO_PATTERN_TIME),
        };
    }
    if let Some(local) = plain_iso(text)
        && (zone.is_none() || text.ends_with('Z'))
    {
        return count(local.and_utc(), unit).ok_or(OUT_OF_RANGE);
    }
    let time = match zone {
        Some(zone) => string_to_datetime(&zone, text).ok().map(|time| time.to_utc()),
        None => string_to_datetime(&Utc, text).ok(),
    };
    match (time, rules.epoch_unit) {
        (Some(time), _) if is_leap(&time) => Err(LEAP_SECOND),
        (Some(time), _) => count(time, unit).ok_or(OUT_OF_RANGE),
        (None, Some(epoch)) if is_number(text) => timestamp_of_number(text, unit, Some(epoch)),
        (None, _) => Err(NO_TIME),
    }
}

/// Whether it is a second 60, for which there is no count since 1970.
fn is_leap(time: &impl Timelike) -> bool {
    time.nanosecond() >= 1_000_000_000
}

/// `yyyy-mm-ddThh:mm:ss`, with or without a fraction and `Z`: what nearly all files hold. Years of more
/// digits have a sign, as ISO 8601 says and sinks write them.
fn plain_iso(text: &str) -> Option<NaiveDateTime> {
    const SHAPE: &[u8; 15] = b"-00-00T00:00:00";
    const NANO_DIGITS: usize = 9;
    let text = text.strip_suffix('Z').unwrap_or(text).as_bytes();
    let (year, rest) = match text {
        [sign @ (b'+' | b'-'), digits @ ..] => {
            let length =
                digits.iter().position(|byte| *byte == b'-').filter(|length| (4..=6).contains(length))?;
            let year = number(&digits[..length])? as i32;
            (if *sign == b'-' { -year } else { year }, &digits[length..])
        }
        _ => {
            let (year, rest) = text.split_at_checked(4)?;
            (number(year)? as i32, rest)
        }
    };
    let (head, fraction) = rest.split_at_checked(SHAPE.len())?;
    let fits = head.iter().zip(SHAPE).all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b' '),
        other => byte == other,
    });
    if !fits {
        return None;
    }
    let nanos = match fraction {
        [] => 0,
        [b'.', digits @ ..] if (1..=NANO_DIGITS).contains(&digits.len()) => {
            number(digits)? * 10_u32.pow((NANO_DIGITS - digits.len()) as u32)
        }
        _ => return None,
    };
    let two = |at: usize| u32::from(head[at] - b'0') * 10 + u32::from(head[at + 1] - b'0');
    let date = NaiveDate::from_ymd_opt(year, two(1), two(4))?;
    date.and_hms_nano_opt(two(7), two(10), two(13), nanos)
}

/// A number of at most nine digits, and nothing else.
fn number(digits: &[u8]) -> Option<u32> {
    let is_number = digits.len() < 10 && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| digits.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0')))
}

/// The time that `number` counts from 1970 on, as a count of `unit`.
pub(super) fn timestamp_of_number(
    number: &str,
    unit: TimeUnit,
    epoch: Option<TimeUnit>,
) -> Result<i64, &'static str> {
    let epoch = epoch.ok_or(NO_UNIT)?;
    let scale = i64::from(digits_of(unit)) - i64::from(digits_of(epoch));
    match scaled::<i128>(number, scale, Surplus::Cut) {
        Ok(value) => i64::try_from(value).ok().filter(|value| in_calendar(*value, unit)).ok_or(OUT_OF_RANGE),
        Err(NotExact::TooLarge) => Err(OUT_OF_RANGE),
        Err(_) => Err(""),
    }
}

/// A count of `from` as one of `to`, cut down to it; `None` if it is out of range.
pub(in crate::source::file) fn in_unit(value: i64, from: TimeUnit, to: TimeUnit) -> Option<i64> {
    let (from, to_digits) = (digits_of(from), digits_of(to));
    let value = if from > to_digits {
        value.div_euclid(10_i64.pow(from - to_digits))
    } else {
        value.checked_mul(10_i64.pow(to_digits - from))?
    };
    in_calendar(value, to).then_some(value)
}

/// Whether the time is one that can be told as a date.
fn in_calendar(value: i64, unit: TimeUnit) -> bool {
    let seconds = value.div_euclid(10_i64.pow(digits_of(unit)));
    (DateTime::<Utc>::MIN_UTC.timestamp()..=DateTime::<Utc>::MAX_UTC.timestamp()).contains(&seconds)
}

fn in_zone(parsed: &Parsed, zone: Option<Tz>) -> Option<DateTime<Utc>> {
    let local = parsed.local();
    match (parsed.zone, zone) {
        (Some(Zone::Offset(offset)), _) => Some(offset.from_local_datetime(&local).single()?.to_utc()),
        (Some(Zone::Named(zone)), _) | (None, Some(zone)) => {
            Some(zone.from_local_datetime(&local).earliest()?.to_utc())
        }
        (None, None) => Some(local.and_utc()),
    }
}

fn count(time: DateTime<Utc>, unit: TimeUnit) -> Option<i64> {
    match unit {
        TimeUnit::Second => Some(time.timestamp()),
        TimeUnit::Millisecond => Some(time.timestamp_millis()),
        TimeUnit::Microsecond => Some(time.timestamp_micros()),
        TimeUnit::Nanosecond => time.timestamp_nanos_opt(),
    }
}

/// The date that `text` tells, in days since 1970. Of a text with a time it is the date written there,
/// whatever its offset.
pub(super) fn date_of_text(text: &str, rules: &ValueRules) -> Result<i32, &'static str> {
    const DATE_LENGTH: usize = 10;
    if let Some(pattern) = &rules.date_format {
        return match pattern.parse(text) {
            Some(parsed) => Ok(days(parsed.date())),
            None => Err("it is not written as dateFormat says"),
        };
    }
    let has_time = text.len() > DATE_LENGTH && !text.starts_with(['+', '-']);
    let is_time = || plain_iso(text).is_some() || string_to_datetime(&Utc, text).is_ok();
    let date = match text.get(..DATE_LENGTH) {
        Some(date) if has_time && is_time() => Date32Type::parse(date),
        _ if has_time => None,
        _ => Date32Type::parse(text),
    };
    let date = date.ok_or(
        "it is no date in ISO 8601, such as 2024-02-29. Set dateFormat if dates are written \
                           in another way",
    )?;
    date_in_calendar(date)
}

/// Days since 1970.
pub(super) fn date_of_number(days: i128) -> Result<i32, &'static str> {
    date_in_calendar(i32::try_from(days).map_err(|_| OUT_OF_RANGE)?)
}

fn date_in_calendar(date: i32) -> Result<i32, &'static str> {
    if (days(NaiveDate::MIN)..=days(NaiveDate::MAX)).contains(&date) { Ok(date) } else { Err(OUT_OF_RANGE) }
}

fn days(date: NaiveDate) -> i32 {
    let epoch = NaiveDate::default();
    date.num_days_from_ce() - epoch.num_days_from_ce()
}

/// The time of day that `text` tells, in nanoseconds.
pub(super) fn time_of_day(text: &str) -> Result<i64, &'static str> {
    if text.split(':').nth(2).is_some_and(|seconds| seconds.starts_with("60")) {
        return Err(LEAP_SECOND);
    }
    Time64NanosecondType::parse(text)
        .filter(|_| text.contains(':'))
        .ok_or("it is no time of day, such as 12:00:00.5")
}

#[cfg(test)]
mod tests {
    use super::super::pattern::Pattern;
    use super::*;

    fn nanos(text: &str) -> Option<i64> {
        timestamp_of_text(text, TimeUnit::Nanosecond, None, &ValueRules::default()).ok()
    }

    #[test]
    fn plain_times_are_what_the_general_parser_makes_of_them() {
        for text in [
            "2024-02-29T12:34:56",
            "2024-02-29 12:34:56.5",
            "1969-12-31T23:59:59.999999999",
            "2024-02-29T12:34:56.123456Z",
            "0001-01-01T00:00:00",
            "2023-02-29T00:00:00",
            "2024-13-01T00:00:00",
            "2024-01-01T24:00:00",
            "2024-01-01T23:59:60",
            "2024-01-01T12:00:60.5",
            "2024-01-01T00:00:00.",
            "2024-01-01T00:00:00.1x",
            "2024-01-01T00:00:0é",
        ] {
            let expected = string_to_datetime(&Utc, text).ok().filter(|time| !is_leap(time));
            let expected = expected.and_then(|time| time.timestamp_nanos_opt());
            assert_eq!(nanos(text), expected, "{text}");
        }
    }

    #[test]
    fn years_of_more_digits_have_a_sign() {
        let at = |text, zone| timestamp_of_text(text, TimeUnit::Second, zone, &ValueRules::default());
        assert_eq!(at("+10000-01-01T00:00:00", None), Ok(253_402_300_800));
        assert_eq!(at("+012345-02-28 00:00:01.5Z", Some("+02:00".parse().unwrap())), Ok(327_408_393_601));
        assert_eq!(at("-0001-12-31T23:59:59", None), Ok(-62_167_219_201));
        for text in ["10000-01-01T00:00:00", "+1000000-01-01T00:00:00", "+999-01-01T00:00:00", "-", "+"] {
            assert_eq!(at(text, None), Err(NO_TIME), "{text}");
        }
    }

    #[test]
    fn numbers_need_a_unit() {
        let of = |text, unit, epoch| timestamp_of_number(text, unit, epoch);
        let (s, ms, us) = (TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond);
        assert_eq!(of("1709208000123", ms, None), Err(NO_UNIT));
        assert_eq!(of("1709208000123", us, Some(ms)), Ok(1_709_208_000_123_000));
        assert_eq!(of("1709208000.1239", ms, Some(s)), Ok(1_709_208_000_123));
        assert_eq!(of("1.709208e9", ms, Some(s)), Ok(1_709_208_000_000));
        assert_eq!(of("1709208000123456789", ms, Some(ms)), Err(OUT_OF_RANGE));
        assert_eq!(of("1e400", ms, Some(ms)), Err(OUT_OF_RANGE));
        let rules = ValueRules { epoch_unit: Some(ms), ..ValueRules::default() };
        assert_eq!(timestamp_of_text("1500", us, None, &rules), Ok(1_500_000));
        assert_eq!(timestamp_of_text("1970-01-01T00:00:01", us, None, &rules), Ok(1_000_000));
    }

    #[test]
    fn text_with_an_offset_is_an_instant_and_its_date_the_one_written() {
        assert_eq!(nanos("1970-01-01T02:00:01+02:00"), Some(1_000_000_000));
        assert_eq!(nanos("1970-01-01"), Some(0));
        assert_eq!(nanos("2500-01-01T00:00:00"), None);
        let rules = ValueRules::default();
        for text in
            ["1970-01-02T00:30:00+02:00", "1970-01-02T23:30:00-05:00", "1970-01-02 12:00:00Z", "1970-01-02"]
        {
            assert_eq!(date_of_text(text, &rules), Ok(1), "{text}");
        }
        for text in ["1970-01-02Tx", "1970-01-02T25:00:00", "19700102000000", "", "x", "1970-01-0é"] {
            assert!(date_of_text(text, &rules).is_err(), "{text}");
        }
        let zone: Tz = "+02:00".parse().unwrap();
        let at = |text| timestamp_of_text(text, TimeUnit::Second, Some(zone), &rules);
        assert_eq!(at("1970-01-01T02:00:01"), Ok(1));
        assert_eq!(at("1970-01-01T02:00:01Z"), Ok(7201));
    }

    #[test]
    fn patterns_go_before_everything_else() {
        let rules = ValueRules {
            timestamp_format: Some(Pattern::new("dd.MM.yyyy HH:mm[:ss]").unwrap()),
            date_format: Some(Pattern::new("yyyyMMdd").unwrap()),
            epoch_unit: None,
        };
        let at = |text| timestamp_of_text(text, TimeUnit::Second, None, &rules);
        assert_eq!(at("02.01.1970 00:00"), Ok(86_400));
        assert_eq!(at("02.01.1970 00:00:05"), Ok(86_405));
        assert_eq!(at("1970-01-02T00:00:00"), Err(NO_PATTERN_TIME));
        assert_eq!(date_of_text("19700103", &rules), Ok(2));
        assert!(date_of_text("1970-01-03", &rules).is_err());
    }

    #[test]
    fn counts_change_their_unit_downwards() {
        let (ms, us) = (TimeUnit::Millisecond, TimeUnit::Microsecond);
        assert_eq!(in_unit(-1, us, ms), Some(-1));
        assert_eq!(in_unit(1999, us, ms), Some(1));
        assert_eq!(in_unit(i64::MAX / 10, ms, us), None);
        assert_eq!(in_unit(7, ms, us), Some(7000));
    }
}
