//! Numbers in text, exactly.
//!
//! A number is an optional sign, digits with an optional point, and an optional exponent. It becomes a
//! whole number of units of `10^-scale` without passing through a floating-point number, so that no
//! digit is lost on the way.

use datafusion::arrow::datatypes::i256;

/// What happens to digits that a column has no place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surplus {
    /// They must be zeros.
    Refuse,
    /// The number is rounded, halves away from zero, as CAST does.
    Round,
    /// They are cut off.
    Cut,
}

/// Why a text is not the number that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotExact {
    /// It is no number.
    NoNumber,
    /// It has digits that there is no place for.
    Fraction,
    /// It is too large.
    TooLarge,
}

/// An integer that digits can be put together in.
pub(super) trait Digits: Copy {
    const ZERO: Self;
    /// This number with one more digit.
    fn with_digit(self, digit: u8) -> Option<Self>;
    /// This number plus one.
    fn plus_one(self) -> Option<Self>;
    /// This number with the other sign.
    fn negated(self) -> Self;
}

impl Digits for i128 {
    const ZERO: Self = 0;

    fn with_digit(self, digit: u8) -> Option<Self> {
        self.checked_mul(10)?.checked_add(i128::from(digit))
    }

    fn plus_one(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn negated(self) -> Self {
        -self
    }
}

impl Digits for i256 {
    const ZERO: Self = i256::ZERO;

    fn with_digit(self, digit: u8) -> Option<Self> {
        self.checked_mul(i256::from_i128(10))?.checked_add(i256::from_i128(i128::from(digit)))
    }

    fn plus_one(self) -> Option<Self> {
        self.checked_add(i256::ONE)
    }

    fn negated(self) -> Self {
        self.wrapping_neg()
    }
}

/// The parts of a number.
#[derive(Debug, Clone, Copy)]
struct Parts<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (negative, rest) = match bytes.first()? {
            b'-' => (true, &bytes[1..]),
            b'+' => (false, &bytes[1..]),
            _ => (false, bytes),
        };
        let (whole, rest) = leading_digits(rest);
        let (fraction, rest) = match rest.first() {
            Some(b'.') => leading_digits(&rest[1..]),
            _ => (&rest[..0], rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let exponent = match rest.first() {
            None => 0,
            Some(b'e' | b'E') => exponent(&rest[1..])?,
            Some(_) => return None,
        };
        Some(Self { negative, whole, fraction, exponent })
    }

    fn digits(&self) -> impl Iterator<Item = u8> {
        self.whole.iter().chain(self.fraction).map(|digit| digit - b'0')
    }
}

fn leading_digits(bytes: &[u8]) -> (&[u8], &[u8]) {
    let count = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    bytes.split_at(count)
}

fn exponent(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes.first()? {
        b'-' => (true, &bytes[1..]),
        b'+' => (false, &bytes[1..]),
        _ => (false, bytes),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // No text is so long that more than this makes a difference.
    const ENOUGH: i64 = 1 << 40;
    let value = digits
        .iter()
        .fold(0_i64, |value, digit| (value.saturating_mul(10) + i64::from(digit - b'0')).min(ENOUGH));
    Some(if negative { -value } else { value })
}

/// The number in `text` as a count of `10^-scale`.
pub(super) fn scaled<T: Digits>(text: &str, scale: i64, surplus: Surplus) -> Result<T, NotExact> {
    let number = Parts::of(text).ok_or(NotExact::NoNumber)?;
    // So many of the digits count; what follows is surplus.
    let kept = (number.whole.len() as i64).saturating_add(number.exponent).saturating_add(scale);
    let mut value = T::ZERO;
    let mut at = 0_i64;
    let mut is_zero = true;
    let mut round_up = false;
    for digit in number.digits() {
        if at < kept {
            is_zero &= digit == 0;
            value = value.with_digit(digit).ok_or(NotExact::TooLarge)?;
        } else if digit != 0 && surplus == Surplus::Refuse {
            return Err(NotExact::Fraction);
        } else if at == kept {
            round_up = digit >= 5 && surplus == Surplus::Round;
        }
        at += 1;
    }
    // A zero stays one, whatever its exponent.
    while at < kept && !is_zero {
        value = value.with_digit(0).ok_or(NotExact::TooLarge)?;
        at += 1;
    }
    if round_up {
        value = value.plus_one().ok_or(NotExact::TooLarge)?;
    }
    Ok(if number.negative { value.negated() } else { value })
}

/// The whole number in `text`, which may be written with zeros behind a point or with an exponent.
pub(super) fn whole(text: &str) -> Result<i128, NotExact> {
    /// So many digits fit into an `i64`.
    const SHORT: usize = 18;
    let bytes = text.as_bytes();
    let (negative, digits) = match bytes.first() {
        Some(b'-') => (true, &bytes[1..]),
        _ => (false, bytes),
    };
    if (1..=SHORT).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) {
        let value = digits.iter().fold(0_i64, |value, digit| value * 10 + i64::from(digit - b'0'));
        return Ok(i128::from(if negative { -value } else { value }));
    }
    scaled(text, 0, Surplus::Refuse)
}

/// Whether `text` is a number; what `scaled` takes.
pub(super) fn is_number(text: &str) -> bool {
    Parts::of(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_exact_however_they_are_written() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("0e0", Ok(0)),
            ("0e999999999999999999999", Ok(0)),
            ("5.0", Ok(5)),
            ("-5.000", Ok(-5)),
            ("1e3", Ok(1000)),
            ("1.50E+1", Ok(15)),
            ("120e-1", Ok(12)),
            ("9007199254740993", Ok(9_007_199_254_740_993)),
            ("9007199254740993.0", Ok(9_007_199_254_740_993)),
            ("9.223372036854775807e18", Ok(i128::from(i64::MAX))),
            ("-9223372036854775808", Ok(i128::from(i64::MIN))),
            ("18446744073709551615", Ok(i128::from(u64::MAX))),
            ("4.9", Err(NotExact::Fraction)),
            ("1e-1", Err(NotExact::Fraction)),
            ("1e-99999999999", Err(NotExact::Fraction)),
            ("1e40", Err(NotExact::TooLarge)),
            ("1e99999999999999", Err(NotExact::TooLarge)),
            ("", Err(NotExact::NoNumber)),
            ("-", Err(NotExact::NoNumber)),
            (".", Err(NotExact::NoNumber)),
            ("1e", Err(NotExact::NoNumber)),
            ("1e+", Err(NotExact::NoNumber)),
            ("1x", Err(NotExact::NoNumber)),
            ("NaN", Err(NotExact::NoNumber)),
            (" 1", Err(NotExact::NoNumber)),
        ] {
            assert_eq!(whole(text), expected, "{text}");
        }
    }

    #[test]
    fn surplus_digits_are_rounded_half_up_or_cut() {
        for (text, scale, rounded, cut) in [
            ("1.005", 2, 101, 100),
            ("1.995", 2, 200, 199),
            ("-1.995", 2, -200, -199),
            ("-0.005", 2, -1, 0),
            ("0.004999", 2, 0, 0),
            ("5e-1", 0, 1, 0),
            ("5e-2", 0, 0, 0),
            ("49e-2", 0, 0, 0),
            ("9e-1", 0, 1, 0),
            ("1e-30", 2, 0, 0),
            ("12.3e1", 2, 12_300, 12_300),
            ("149", -2, 1, 1),
            ("150", -2, 2, 1),
        ] {
            assert_eq!(scaled::<i128>(text, scale, Surplus::Round), Ok(rounded), "{text}");
            assert_eq!(scaled::<i128>(text, scale, Surplus::Cut), Ok(cut), "{text}");
        }
        let long = "9".repeat(60);
        assert_eq!(scaled::<i128>(&long, 0, Surplus::Round), Err(NotExact::TooLarge));
        assert_eq!(scaled::<i256>(&long, 0, Surplus::Round).unwrap().to_string(), long);
    }
}
