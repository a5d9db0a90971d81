//! Columns that grow by one value at a time.

use std::sync::Arc;

use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, NullArray, NullBufferBuilder,
    PrimitiveArray, StringArray,
};
use datafusion::arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Decimal256Type, DecimalType,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time64NanosecondType, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::number::{self, Digits, NotExact, Surplus};
use super::rules::ValueRules;
use super::scalar::{Leaf, Scalar};
use super::time;

/// An empty column of `data_type`, unless it is one that no text or number can be read as.
pub(in crate::source::file) fn leaf(data_type: &DataType, rules: &ValueRules) -> Option<Box<dyn Leaf>> {
    Some(match data_type {
        DataType::Null => Box::new(Nulls(0)),
        DataType::Boolean => Box::new(Bools::default()),
        DataType::Int8 => integers::<Int8Type>(data_type),
        DataType::Int16 => integers::<Int16Type>(data_type),
        DataType::Int32 => integers::<Int32Type>(data_type),
        DataType::Int64 => integers::<Int64Type>(data_type),
        DataType::UInt8 => integers::<UInt8Type>(data_type),
        DataType::UInt16 => integers::<UInt16Type>(data_type),
        DataType::UInt32 => integers::<UInt32Type>(data_type),
        DataType::UInt64 => integers::<UInt64Type>(data_type),
        DataType::Duration(TimeUnit::Second) => integers::<DurationSecondType>(data_type),
        DataType::Duration(TimeUnit::Millisecond) => integers::<DurationMillisecondType>(data_type),
        DataType::Duration(TimeUnit::Microsecond) => integers::<DurationMicrosecondType>(data_type),
        DataType::Duration(TimeUnit::Nanosecond) => integers::<DurationNanosecondType>(data_type),
        DataType::Float32 => Primitives::<Float32Type, _>::leaf(data_type, |value| {
            float(
                value,
                |text| text.parse().ok(),
                f32::is_infinite,
                [f32::NAN, f32::INFINITY, f32::NEG_INFINITY],
            )
        }),
        DataType::Float64 => Primitives::<Float64Type, _>::leaf(data_type, |value| {
            float(
                value,
                |text| text.parse().ok(),
                f64::is_infinite,
                [f64::NAN, f64::INFINITY, f64::NEG_INFINITY],
            )
        }),
        DataType::Decimal128(p, s) => decimals::<Decimal128Type>(data_type, *p, *s),
        DataType::Decimal256(p, s) => decimals::<Decimal256Type>(data_type, *p, *s),
        DataType::Date32 => dates(rules),
        DataType::Time64(TimeUnit::Nanosecond) => {
            Primitives::<Time64NanosecondType, _>::leaf(data_type, |value| match value {
                Scalar::Text(text) => time::time_of_day(text),
                _ => Err(""),
            })
        }
        DataType::Timestamp(unit, zone) => {
            let zone = zone.as_ref().map(|zone| zone.parse::<Tz>()).transpose().ok()?;
            timestamps(data_type, *unit, zone, rules)
        }
        DataType::Utf8 => Box::new(Texts::default()),
        DataType::Binary => Box::new(Bytes::default()),
        DataType::LargeUtf8 | DataType::Utf8View => Cast::leaf(Box::new(Texts::default()), data_type),
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            let width =
                if let DataType::FixedSizeBinary(width) = data_type { Some(*width as usize) } else { None };
            Cast::leaf(Box::new(Bytes { width, ..Bytes::default() }), data_type)
        }
        DataType::Float16 => Cast::leaf(leaf(&DataType::Float32, rules)?, data_type),
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => {
            Cast::leaf(leaf(&DataType::Decimal128(*p, *s), rules)?, data_type)
        }
        DataType::Date64 => Cast::leaf(dates(rules), data_type),
        DataType::Time32(_) | DataType::Time64(_) => {
            Cast::leaf(leaf(&DataType::Time64(TimeUnit::Nanosecond), rules)?, data_type)
        }
        _ => return None,
    })
}

fn integers<T>(data_type: &DataType) -> Box<dyn Leaf>
where
    T: ArrowPrimitiveType,
    T::Native: TryFrom<i128>,
{
    Primitives::<T, _>::leaf(data_type, |value| match value {
        Scalar::Number(text) | Scalar::Text(text) => {
            let whole = number::whole(text).map_err(|error| match error {
                NotExact::NoNumber => "",
                NotExact::Fraction => "it has a fraction",
                NotExact::TooLarge => "it is out of range",
            })?;
            T::Native::try_from(whole).map_err(|_| "it is out of range")
        }
        Scalar::Bool(_) => Err(""),
    })
}

fn float<T: Copy>(
    value: Scalar<'_>,
    parse: impl Fn(&str) -> Option<T>,
    is_infinite: impl Fn(T) -> bool,
    [nan, infinity, minus_infinity]: [T; 3],
) -> Result<T, &'static str> {
    let text = match value {
        Scalar::Number(text) | Scalar::Text(text) => text,
        Scalar::Bool(_) => return Err(""),
    };
    let starts_as_number =
        text.bytes().next().is_some_and(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.'));
    if starts_as_number && text.bytes().last().is_some_and(|byte| byte.is_ascii_digit() || byte == b'.') {
        let number = parse(text).ok_or("")?;
        return if is_infinite(number) { Err("it is out of range") } else { Ok(number) };
    }
    // As Spark writes and reads them, and as Rust and C do.
    let is = |names: &[&str]| names.iter().any(|name| text.eq_ignore_ascii_case(name));
    if is(&["NaN"]) {
        Ok(nan)
    } else if is(&["Infinity", "Inf", "+Infinity", "+Inf"]) {
        Ok(infinity)
    } else if is(&["-Infinity", "-Inf"]) {
        Ok(minus_infinity)
    } else {
        Err("")
    }
}

fn decimals<T>(data_type: &DataType, precision: u8, scale: i8) -> Box<dyn Leaf>
where
    T: DecimalType,
    T::Native: Digits,
{
    Primitives::<T, _>::leaf(data_type, move |value| match value {
        Scalar::Number(text) | Scalar::Text(text) => {
            let value = number::scaled::<T::Native>(text, i64::from(scale), Surplus::Round);
            let value = value.map_err(|error| match error {
                NotExact::TooLarge => "it has more digits than that",
                NotExact::NoNumber | NotExact::Fraction => "",
            })?;
            if T::is_valid_decimal_precision(value, precision) {
                Ok(value)
            } else {
                Err("it has more digits than that")
            }
        }
        Scalar::Bool(_) => Err(""),
    })
}

fn dates(rules: &ValueRules) -> Box<dyn Leaf> {
    let rules = rules.clone();
    Primitives::<Date32Type, _>::leaf(&DataType::Date32, move |value| match value {
        Scalar::Text(text) => time::date_of_text(text, &rules),
        Scalar::Number(text) => {
            let days = number::whole(text).map_err(|error| match error {
                NotExact::Fraction => "it has a fraction",
                NotExact::TooLarge => "it is out of range",
                NotExact::NoNumber => "",
            })?;
            time::date_of_number(days)
        }
        Scalar::Bool(_) => Err(""),
    })
}

fn timestamps(data_type: &DataType, unit: TimeUnit, zone: Option<Tz>, rules: &ValueRules) -> Box<dyn Leaf> {
    let rules = rules.clone();
    let parse = move |value: Scalar<'_>| match value {
        Scalar::Text(text) => time::timestamp_of_text(text, unit, zone, &rules),
        Scalar::Number(text) => time::timestamp_of_number(text, unit, rules.epoch_unit),
        Scalar::Bool(_) => Err(""),
    };
    match unit {
        TimeUnit::Second => Primitives::<TimestampSecondType, _>::leaf(data_type, parse),
        TimeUnit::Millisecond => Primitives::<TimestampMillisecondType, _>::leaf(data_type, parse),
        TimeUnit::Microsecond => Primitives::<TimestampMicrosecondType, _>::leaf(data_type, parse),
        TimeUnit::Nanosecond => Primitives::<TimestampNanosecondType, _>::leaf(data_type, parse),
    }
}

/// Values of a fixed width, as `parse` makes them.
struct Primitives<T: ArrowPrimitiveType, P> {
    data_type: DataType,
    parse: P,
    values: Vec<T::Native>,
    nulls: NullBufferBuilder,
}

impl<T, P> Primitives<T, P>
where
    T: ArrowPrimitiveType,
    P: Fn(Scalar<'_>) -> Result<T::Native, &'static str> + Send + 'static,
{
    fn leaf(data_type: &DataType, parse: P) -> Box<dyn Leaf> {
        Box::new(Self {
            data_type: data_type.clone(),
            parse,
            values: Vec::new(),
            nulls: NullBufferBuilder::new(0),
        })
    }
}

impl<T, P> Leaf for Primitives<T, P>
where
    T: ArrowPrimitiveType,
    P: Fn(Scalar<'_>) -> Result<T::Native, &'static str> + Send,
{
    fn len(&self) -> usize {
        self.values.len()
    }

    fn push(&mut self, value: Scalar<'_>) -> Result<(), &'static str> {
        self.values.push((self.parse)(value)?);
        self.nulls.append_non_null();
        Ok(())
    }

    fn push_null(&mut self) {
        self.values.push(T::Native::default());
        self.nulls.append_null();
    }

    fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
        self.nulls.truncate(len);
    }

    fn finish(&mut self) -> ArrayRef {
        let values = std::mem::take(&mut self.values);
        self.values.reserve(values.len());
        let values = PrimitiveArray::<T>::new(ScalarBuffer::from(values), self.nulls.finish());
        Arc::new(values.with_data_type(self.data_type.clone()))
    }
}

struct Bools {
    values: BooleanBufferBuilder,
    nulls: NullBufferBuilder,
}

impl Default for Bools {
    fn default() -> Self {
        Self { values: BooleanBufferBuilder::new(0), nulls: NullBufferBuilder::new(0) }
    }
}

impl Leaf for Bools {
    fn len(&self) -> usize {
        self.values.len()
    }

    fn push(&mut self, value: Scalar<'_>) -> Result<(), &'static str> {
        let value = match value {
            Scalar::Bool(value) => value,
            Scalar::Text(text) if text.eq_ignore_ascii_case("true") => true,
            Scalar::Text(text) if text.eq_ignore_ascii_case("false") => false,
            _ => return Err("it is neither true nor false"),
        };
        self.values.append(value);
        self.nulls.append_non_null();
        Ok(())
    }

    fn push_null(&mut self) {
        self.values.append(false);
        self.nulls.append_null();
    }

    fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
        self.nulls.truncate(len);
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(BooleanArray::new(self.values.finish(), self.nulls.finish()))
    }
}

struct Nulls(usize);

impl Leaf for Nulls {
    fn len(&self) -> usize {
        self.0
    }

    fn push(&mut self, _: Scalar<'_>) -> Result<(), &'static str> {
        Err("the column holds nulls only")
    }

    fn push_null(&mut self) {
        self.0 += 1;
    }

    fn truncate(&mut self, len: usize) {
        self.0 = self.0.min(len);
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(NullArray::new(std::mem::take(&mut self.0)))
    }
}

/// Values of any length, one after the other.
struct Runs {
    ends: Vec<i32>,
    bytes: Vec<u8>,
    nulls: NullBufferBuilder,
}

impl Default for Runs {
    fn default() -> Self {
        Self { ends: vec![0], bytes: Vec::new(), nulls: NullBufferBuilder::new(0) }
    }
}

impl Runs {
    fn len(&self) -> usize {
        self.ends.len() - 1
    }

    fn end(&mut self, is_null: bool) -> Result<(), &'static str> {
        let Ok(end) = i32::try_from(self.bytes.len()) else {
            self.bytes.truncate(self.ends.last().map_or(0, |end| *end as usize));
            return Err("it is longer than 2 GB");
        };
        self.ends.push(end);
        self.nulls.append(!is_null);
        Ok(())
    }

    fn push_null(&mut self) {
        self.ends.push(self.ends.last().copied().unwrap_or_default());
        self.nulls.append_null();
    }

    fn truncate(&mut self, len: usize) {
        self.ends.truncate(len + 1);
        self.bytes.truncate(self.ends.last().map_or(0, |end| *end as usize));
        self.nulls.truncate(len);
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer, Option<NullBuffer>) {
        let Runs { ends, bytes, mut nulls } = std::mem::take(self);
        self.ends.reserve(ends.len());
        self.bytes.reserve(bytes.len());
        (OffsetBuffer::new(ScalarBuffer::from(ends)), Buffer::from_vec(bytes), nulls.finish())
    }
}

/// Texts; numbers and truth values as they are written.
#[derive(Default)]
struct Texts(Runs);

impl Leaf for Texts {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn push(&mut self, value: Scalar<'_>) -> Result<(), &'static str> {
        let text = match value {
            Scalar::Text(text) | Scalar::Number(text) => text,
            Scalar::Bool(true) => "true",
            Scalar::Bool(false) => "false",
        };
        self.0.bytes.extend_from_slice(text.as_bytes());
        self.0.end(false)
    }

    fn push_null(&mut self) {
        self.0.push_null();
    }

    fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    fn finish(&mut self) -> ArrayRef {
        let (ends, bytes, nulls) = self.0.take();
        Arc::new(StringArray::new(ends, bytes, nulls))
    }
}

/// Bytes, written as two hexadecimal digits each.
#[derive(Default)]
struct Bytes {
    runs: Runs,
    width: Option<usize>,
}

impl Leaf for Bytes {
    fn len(&self) -> usize {
        self.runs.len()
    }

    fn push(&mut self, value: Scalar<'_>) -> Result<(), &'static str> {
        const NOT_HEX: &str = "bytes are written as two hexadecimal digits each";
        let Scalar::Text(text) = value else { return Err(NOT_HEX) };
        let digits = text.as_bytes();
        if digits.len() % 2 != 0 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(NOT_HEX);
        }
        if self.width.is_some_and(|width| width * 2 != digits.len()) {
            return Err("it has another number of bytes");
        }
        let digit = |byte: u8| (char::from(byte).to_digit(16).unwrap_or_default()) as u8;
        self.runs.bytes.extend(digits.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])));
        self.runs.end(false)
    }

    fn push_null(&mut self) {
        self.runs.push_null();
    }

    fn truncate(&mut self, len: usize) {
        self.runs.truncate(len);
    }

    fn finish(&mut self) -> ArrayRef {
        let (ends, bytes, nulls) = self.runs.take();
        Arc::new(BinaryArray::new(ends, bytes, nulls))
    }
}

/// A column that is put together as another type, from which its own can be told without loss.
struct Cast {
    inner: Box<dyn Leaf>,
    data_type: DataType,
}

impl Cast {
    fn leaf(inner: Box<dyn Leaf>, data_type: &DataType) -> Box<dyn Leaf> {
        Box::new(Self { inner, data_type: data_type.clone() })
    }
}

impl Leaf for Cast {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn push(&mut self, value: Scalar<'_>) -> Result<(), &'static str> {
        self.inner.push(value)
    }

    fn push_null(&mut self) {
        self.inner.push_null();
    }

    fn truncate(&mut self, len: usize) {
        self.inner.truncate(len);
    }

    fn finish(&mut self) -> ArrayRef {
        let values = self.inner.finish();
        // The inner type was chosen so that nothing can go wrong.
        cast(&values, &self.data_type)
            .unwrap_or_else(|_| datafusion::arrow::array::new_null_array(&self.data_type, values.len()))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

    use super::super::scalar::cannot_be_read;
    use super::*;

    /// What one value becomes.
    fn read(value: Scalar<'_>, data_type: DataType) -> Result<String, String> {
        let mut column = leaf(&data_type, &ValueRules::default()).unwrap();
        column.push_null();
        let pushed = column.push(value).map_err(|why| cannot_be_read(value, &data_type, why));
        assert_eq!(column.len(), if pushed.is_ok() { 2 } else { 1 });
        pushed?;
        column.push_null();
        column.truncate(2);
        let values = column.finish();
        assert_eq!((values.data_type(), values.len(), values.is_null(0)), (&data_type, 2, true));
        assert_eq!(column.len(), 0);
        let formatter = ArrayFormatter::try_new(&values, &FormatOptions::default()).unwrap();
        Ok(formatter.value(1).to_string())
    }

    #[test]
    fn numbers() {
        let number = |text, data_type| read(Scalar::Number(text), data_type);
        assert_eq!(number("5.0", DataType::Int8).unwrap(), "5");
        assert_eq!(number("9007199254740993", DataType::Int64).unwrap(), "9007199254740993");
        assert_eq!(
            number("4.9", DataType::Int64).unwrap_err(),
            "4.9 cannot be read as BIGINT: it has a fraction"
        );
        assert_eq!(
            number("300", DataType::UInt8).unwrap_err(),
            "300 cannot be read as TINYINT UNSIGNED: it is out of range"
        );
        assert!(number("-1", DataType::UInt64).is_err());
        assert_eq!(number("1.995", DataType::Decimal128(10, 2)).unwrap(), "2.00");
        assert_eq!(number("1.5", DataType::Decimal64(10, 2)).unwrap(), "1.50");
        assert!(number("99999999.995", DataType::Decimal128(10, 2)).is_err());
        assert!(number("1e38", DataType::Decimal128(38, 0)).is_err());
        assert_eq!(number("1e38", DataType::Decimal256(76, 0)).unwrap(), format!("1{}", "0".repeat(38)));
        assert_eq!(
            number("1e400", DataType::Float64).unwrap_err(),
            "1e400 cannot be read as DOUBLE: it is out of range"
        );
        assert!(number("1e39", DataType::Float32).is_err());
        assert_eq!(number("0.1", DataType::Float64).unwrap(), "0.1");
        assert_eq!(number("19782", DataType::Date32).unwrap(), "2024-02-29");
        assert!(number("19782.5", DataType::Date32).is_err());
        assert!(number("1709208000123", DataType::Date32).is_err());
        assert!(number("1", DataType::Boolean).is_err());
        assert!(number("1", DataType::Time64(TimeUnit::Microsecond)).is_err());
        assert_eq!(number("1.50", DataType::Utf8View).unwrap(), "1.50");
    }

    #[test]
    fn texts() {
        let text = |text, data_type| read(Scalar::Text(text), data_type);
        for (name, expected) in
            [("NaN", "NaN"), ("Infinity", "inf"), ("+INF", "inf"), ("inf", "inf"), ("-Inf", "-inf")]
        {
            assert_eq!(text(name, DataType::Float64).unwrap(), expected);
            assert_eq!(text(name, DataType::Float32).unwrap(), expected);
            assert!(text(name, DataType::Int64).is_err());
            assert!(text(name, DataType::Decimal128(10, 2)).is_err());
        }
        for word in ["", "x", "1x", "-", ".", "infx", "-nan", "0x1", "1_0", " 1"] {
            assert!(text(word, DataType::Float64).is_err(), "{word}");
        }
        assert_eq!(text("1.5", DataType::Float16).unwrap(), "1.5");
        assert_eq!(text("0aFF", DataType::Binary).unwrap(), "0aff");
        assert!(text("0aF", DataType::Binary).is_err());
        assert!(text("0aff", DataType::FixedSizeBinary(3)).is_err());
        assert_eq!(text("0aff", DataType::FixedSizeBinary(2)).unwrap(), "0aff");
        assert_eq!(text("12:00:00.5", DataType::Time32(TimeUnit::Millisecond)).unwrap(), "12:00:00.500");
        assert_eq!(text("2024-02-29T23:00:00-08:00", DataType::Date64).unwrap(), "2024-02-29T00:00:00");
        assert_eq!(text("x", DataType::Utf8).unwrap(), "x");
        assert_eq!(read(Scalar::Bool(true), DataType::LargeUtf8).unwrap(), "true");
        assert!(leaf(&DataType::new_list(DataType::Int8, true), &ValueRules::default()).is_none());
    }
}
