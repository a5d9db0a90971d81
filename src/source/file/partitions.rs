//! Hive-style partition directories, `column=value`. Pure.

use std::borrow::Cow;

use datafusion::arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, TimeUnit};
use datafusion::common::ScalarValue;

/// Whole numbers of any size.
const WHOLE: DataType = DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0);

/// The directory of rows whose value is null.
const NULL_DIRECTORY: &str = "__HIVE_DEFAULT_PARTITION__";

/// Column and value of a directory named `column=value`; both are unescaped (`%20` is a space). The value
/// may be empty.
pub(super) fn partition_directory(name: &str) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let (column, value) = name.split_once('=')?;
    (!column.is_empty()).then(|| (unescape(column), unescape(value)))
}

/// Columns and values of the directories of the file at `path`, in order.
pub(super) fn partitions_of(path: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let directories = path.rsplit_once('/').map_or("", |(directories, _)| directories);
    directories.split('/').filter_map(partition_directory)
}

/// Whether a directory of this text holds rows whose value is null. Other writers say that with nothing.
fn is_null(text: &str) -> bool {
    text.is_empty() || text == NULL_DIRECTORY
}

/// The value of the directory text `text` as `data_type`; `None` if it is no such value.
pub(super) fn partition_value(text: &str, data_type: &DataType) -> Option<ScalarValue> {
    if is_null(text) {
        return ScalarValue::try_from(data_type).ok();
    }
    ScalarValue::try_from_string(text.to_string(), data_type).ok()
}

fn unescape(text: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(text).decode_utf8().unwrap_or(Cow::Borrowed(text))
}

/// Finds the type of a partition column from its values, as Spark does
/// (`PartitioningUtils.inferPartitionColumnValue`): the narrowest of 32- and 64-bit integer, decimal, double,
/// date and timestamp that holds them all, else text. Whole numbers and fractions of seconds stay exact.
#[derive(Debug, Default)]
pub(super) struct TypeInference {
    found: Option<DataType>,
}

impl TypeInference {
    /// Takes one more value into account.
    pub(super) fn observe(&mut self, text: &str) {
        if is_null(text) {
            return;
        }
        let seen = type_of(text);
        self.found = Some(match self.found.take() {
            None => seen,
            Some(found) => common_type(found, seen),
        });
    }

    /// The type of all values seen.
    pub(super) fn finish(self) -> DataType {
        self.found.unwrap_or(DataType::Utf8)
    }
}

fn type_of(text: &str) -> DataType {
    if text.parse::<i32>().is_ok() {
        return DataType::Int32;
    }
    if text.parse::<i64>().is_ok() {
        return DataType::Int64;
    }
    if text.parse::<u64>().is_ok() {
        return DataType::UInt64;
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return if digits.len() <= usize::from(DECIMAL128_MAX_PRECISION) { WHOLE } else { DataType::Utf8 };
    }
    // `parse` also takes `inf`, `NaN` and `infinity`, which are names before they are numbers.
    if text.bytes().any(|byte| byte.is_ascii_digit()) && text.parse().is_ok_and(f64::is_finite) {
        return DataType::Float64;
    }
    let bytes = text.as_bytes();
    let like_a_date = bytes.len() >= 10 && bytes[4] == b'-' && bytes[7] == b'-';
    let fraction = text
        .split_once('.')
        .map_or(0, |(_, fraction)| fraction.bytes().take_while(u8::is_ascii_digit).count());
    let unit = if fraction > 6 { TimeUnit::Nanosecond } else { TimeUnit::Microsecond };
    let timestamp = DataType::Timestamp(unit, None);
    if like_a_date && bytes.len() == 10 && partition_value(text, &DataType::Date32).is_some() {
        DataType::Date32
    } else if like_a_date && partition_value(text, &timestamp).is_some() {
        timestamp
    } else {
        DataType::Utf8
    }
}

fn common_type(a: DataType, b: DataType) -> DataType {
    use DataType::{Float64, Int32, Int64, Timestamp, UInt64, Utf8};
    match (a, b) {
        (a, b) if a == b => a,
        (Int32, Int64) | (Int64, Int32) => Int64,
        (Int32 | Int64 | UInt64 | WHOLE, Int32 | Int64 | UInt64 | WHOLE) => WHOLE,
        (Int32 | Int64, Float64) | (Float64, Int32 | Int64) => Float64,
        (Timestamp(_, None), Timestamp(_, None)) => Timestamp(TimeUnit::Nanosecond, None),
        _ => Utf8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories() {
        let found: Vec<_> = partitions_of("a/y=2024/b/c%20d=e%3Df/g=h=i/x=.json").collect();
        let expected = [("y", "2024"), ("c d", "e=f"), ("g", "h=i")];
        assert_eq!(found, expected.map(|(k, v)| (Cow::from(k), Cow::from(v))));
        assert_eq!(partition_directory("=1"), None);
        assert_eq!(partition_directory("k="), Some(("k".into(), "".into())));
    }

    #[test]
    fn types() {
        let inferred = |values: &[&str]| {
            let mut inference = TypeInference::default();
            values.iter().for_each(|value| inference.observe(value));
            inference.finish()
        };
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
        for (values, expected) in [
            (&["1", "02", NULL_DIRECTORY, ""][..], DataType::Int32),
            (&["1", "3000000000"], DataType::Int64),
            (&["1", "1.5"], DataType::Float64),
            (&["18446744073709551615"], DataType::UInt64),
            (&["18446744073709551615", "-1"], WHOLE),
            (&["99999999999999999999999999999999999999"], WHOLE),
            (&["999999999999999999999999999999999999999"], DataType::Utf8),
            (&["18446744073709551615", "1.5"], DataType::Utf8),
            (&["2024-02-29 10:00:00.123456789"], DataType::Timestamp(TimeUnit::Nanosecond, None)),
            (
                &["2024-02-29 10:00:00", "2024-02-29T10:00:00.1234567"],
                DataType::Timestamp(TimeUnit::Nanosecond, None),
            ),
            (&["2024-02-29"], DataType::Date32),
            (&["2023-02-29"], DataType::Utf8),
            (&["2024-02-29 10:00:00"], timestamp),
            (&["1", "x"], DataType::Utf8),
            (&["1", "2024-02-29"], DataType::Utf8),
            (&["inf", "NaN"], DataType::Utf8),
            (&[], DataType::Utf8),
        ] {
            assert_eq!(inferred(values), expected, "{values:?}");
        }
    }

    #[test]
    fn values() {
        assert_eq!(partition_value("7", &DataType::Int32), Some(ScalarValue::Int32(Some(7))));
        assert_eq!(partition_value("x", &DataType::Int32), None);
        assert_eq!(partition_value(NULL_DIRECTORY, &DataType::Utf8), Some(ScalarValue::Utf8(None)));
        assert_eq!(partition_value("", &DataType::Int32), Some(ScalarValue::Int32(None)));
        assert_eq!(partition_value("1970-01-02", &DataType::Date32), Some(ScalarValue::Date32(Some(1))));
    }
}
