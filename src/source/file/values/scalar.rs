//! Single values, and what is said of those that do not fit.

use std::fmt;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, TimeUnit};

/// A value as a file holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::source::file) enum Scalar<'a> {
    /// A truth value.
    Bool(bool),
    /// A number, as it is written.
    Number(&'a str),
    /// A text.
    Text(&'a str),
}

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Bool(value) => write!(f, "{value}"),
            Scalar::Number(text) => f.write_str(text),
            Scalar::Text(text) => write!(f, "'{text}'"),
        }
    }
}

/// A column that grows by one value at a time, and can be cut back when a record turns out to be
/// malformed.
pub(in crate::source::file) trait Leaf: Send {
    /// How many values there are.
    fn len(&self) -> usize;

    /// Adds a value; the error says what is wrong with it, and nothing was added.
    fn push(&mut self, value: Scalar<'_>) -> Result<(), &'static str>;

    /// Adds a null.
    fn push_null(&mut self);

    /// Takes all values from the one numbered `len` on away.
    fn truncate(&mut self, len: usize);

    /// The values so far, leaving none.
    fn finish(&mut self) -> ArrayRef;
}

/// What is wrong with `value` in a column of `data_type`.
pub(in crate::source::file) fn cannot_be_read(value: Scalar<'_>, data_type: &DataType, why: &str) -> String {
    let name = type_name(data_type);
    if why.is_empty() {
        format!("{value} cannot be read as {name}")
    } else {
        format!("{value} cannot be read as {name}: {why}")
    }
}

/// The name that SQL has for a type.
pub(in crate::source::file) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::UInt8 => "TINYINT UNSIGNED".into(),
        DataType::UInt16 => "SMALLINT UNSIGNED".into(),
        DataType::UInt32 => "INT UNSIGNED".into(),
        DataType::UInt64 => "BIGINT UNSIGNED".into(),
        DataType::Float32 => "FLOAT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "BYTEA".into(),
        DataType::Date32 | DataType::Date64 => "DATE".into(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".into(),
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => format!("DECIMAL({p},{s})"),
        DataType::Timestamp(unit, None) => match unit {
            TimeUnit::Nanosecond => "TIMESTAMP".into(),
            unit => format!("TIMESTAMP({})", digits_of(*unit)),
        },
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE".into(),
        other => other.to_string(),
    }
}

/// Digits behind the point of a second.
pub(in crate::source::file) fn digits_of(unit: TimeUnit) -> u32 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}
