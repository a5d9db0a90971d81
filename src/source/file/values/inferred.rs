//! The type that holds all numbers of a column that was seen.

use datafusion::arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType};

const DECIMAL_DIGITS: usize = DECIMAL128_MAX_PRECISION as usize;

/// Whole numbers up to this one are exact as a `DOUBLE`.
const LARGEST_IN_DOUBLE: u64 = 1 << f64::MANTISSA_DIGITS;

/// What is to be known of numbers that were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::source::file) struct Numbers {
    /// The most digits before the point, and behind it.
    whole: usize,
    fraction: usize,
    /// Whether one is not written as a whole number.
    has_fractions: bool,
    /// Whether a whole number does not fit into a `BIGINT`.
    is_long: bool,
    /// Whether one is a whole number that a `DOUBLE` may not hold.
    has_large: bool,
    /// Whether one is written with an exponent or is none (`NaN`), so that it may be no `DECIMAL`.
    has_floats: bool,
    /// Whether one is larger than any `DOUBLE`.
    is_too_large: bool,
}

impl Numbers {
    /// What is to be known of the number in `text`, in decimal digits.
    pub(in crate::source::file) fn of(text: &str) -> Self {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if !is_plain {
            let is_too_large = digits.bytes().any(|byte| byte.is_ascii_digit())
                && text.parse::<f64>().is_ok_and(f64::is_infinite);
            return Self { has_fractions: true, has_floats: true, is_too_large, ..Self::default() };
        }
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let has_fractions = whole.len() < digits.len();
        let is_whole = fraction.bytes().all(|digit| digit == b'0');
        Self {
            whole: whole.len(),
            fraction: fraction.len(),
            has_fractions,
            is_long: !has_fractions && text.parse::<i64>().is_err(),
            has_large: is_whole && whole.parse::<u64>().map_or(true, |whole| whole > LARGEST_IN_DOUBLE),
            has_floats: false,
            is_too_large: whole.len() > f64::MAX_10_EXP as usize && text.parse().is_ok_and(f64::is_infinite),
        }
    }

    /// What is to be known of these numbers and those of `other`.
    pub(in crate::source::file) fn and(self, other: Self) -> Self {
        Self {
            whole: self.whole.max(other.whole),
            fraction: self.fraction.max(other.fraction),
            has_fractions: self.has_fractions || other.has_fractions,
            is_long: self.is_long || other.is_long,
            has_large: self.has_large || other.has_large,
            has_floats: self.has_floats || other.has_floats,
            is_too_large: self.is_too_large || other.is_too_large,
        }
    }

    /// The type that holds them: whole numbers as they are, others rounded to the nearest if there is none with a place
    /// for all digits. If there is no such number, text.
    pub(in crate::source::file) fn data_type(self) -> DataType {
        match self {
            Self { is_too_large: true, .. } => DataType::Utf8,
            Self { has_fractions: false, is_long: false, .. } => DataType::Int64,
            Self { has_fractions: false, whole: ..=DECIMAL_DIGITS, .. } => {
                DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0)
            }
            Self { has_fractions: true, has_large: false, .. } => DataType::Float64,
            // As a DOUBLE, a whole number would be another one.
            Self { has_fractions: true, has_floats: false, whole, fraction, .. }
                if whole + fraction <= DECIMAL_DIGITS =>
            {
                DataType::Decimal128(DECIMAL128_MAX_PRECISION, i8::try_from(fraction).unwrap_or_default())
            }
            _ => DataType::Utf8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_holds_all_of_them() {
        let decimal = |scale| DataType::Decimal128(38, scale);
        let long = "9".repeat(38);
        let longer = "9".repeat(39);
        for (numbers, expected) in [
            (&["1", "-9223372036854775808", "9223372036854775807"][..], DataType::Int64),
            (&["9223372036854775808", "1"], decimal(0)),
            (&[&long], decimal(0)),
            (&[&longer], DataType::Utf8),
            (&["1", "0.5"], DataType::Float64),
            (&["9007199254740992", "0.5"], DataType::Float64),
            (&["9007199254740993", "0.5"], decimal(1)),
            (&["-9007199254740993.0"], decimal(1)),
            (&["9007199254740993", "0.1234567890123456789012"], decimal(22)),
            (&["9007199254740993", "0.12345678901234567890123"], DataType::Utf8),
            (&["9007199254740993", "1e-3"], DataType::Utf8),
            (&["9007199254740993", "NaN"], DataType::Utf8),
            (&["1e3", "NaN", "-Infinity", "0.12345678901234567890"], DataType::Float64),
            (&["1e400"], DataType::Utf8),
            (&[&format!("{}.5", "9".repeat(400))], DataType::Utf8),
            (&["-1E400", "1"], DataType::Utf8),
        ] {
            let all = numbers.iter().map(|text| Numbers::of(text)).reduce(Numbers::and).unwrap();
            assert_eq!(all.data_type(), expected, "{numbers:?}");
        }
    }
}
