//! What a server sends of a table, as columns.

use datafusion::arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, Int16Builder, Int32Builder, Int64Builder, StringBuilder, Time64MicrosecondBuilder,
    TimestampMicrosecondBuilder,
};
use datafusion::arrow::compute::kernels::cast_utils::parse_decimal;
use datafusion::arrow::datatypes::{DataType, Decimal128Type, TimeUnit};
use std::sync::Arc;

use super::catalog::Column;
use super::server::quoted;
use super::types::PgType;
use crate::error::{Error, Result};

/// From 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * 86_400_000_000;

/// How a column is read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reading {
    /// As it stands in `SELECT`.
    pub(super) expression: String,
    /// What it is in Arrow.
    pub(super) data_type: DataType,
}

impl Reading {
    /// How values of `column` are read. What Arrow has no type for is text: numbers of any precision, network
    /// addresses, ranges, …; arrays and composite values are JSON.
    pub(super) fn of(column: &Column) -> Self {
        let name = quoted(&column.name);
        let binary = |data_type| Self { expression: name.clone(), data_type };
        let text = |data_type| Self { expression: format!("{name}::text"), data_type };
        let json = || Self { expression: format!("to_json({name})::text"), data_type: DataType::Utf8 };
        match PgType::named(&column.of, &column.kind) {
            _ if column.of.ends_with("[]") || column.kind == "c" => json(),
            Some(PgType::Numeric) => match column.precision_and_scale() {
                Some((precision, scale))
                    if precision <= 38 && scale >= 0 && scale.unsigned_abs() <= precision =>
                {
                    text(DataType::Decimal128(precision, scale))
                }
                _ => text(DataType::Utf8),
            },
            None | Some(PgType::Text | PgType::Jsonb | PgType::Uuid | PgType::Array(_)) => {
                text(DataType::Utf8)
            }
            Some(
                pg @ (PgType::Bool
                | PgType::Int2
                | PgType::Int4
                | PgType::Int8
                | PgType::Float4
                | PgType::Float8
                | PgType::Bytea
                | PgType::Date
                | PgType::Time
                | PgType::Timestamp
                | PgType::TimestampTz),
            ) => binary(pg.arrow(&DataType::Null)),
        }
    }
}

/// Collects the values of a column.
pub(super) enum Values {
    Bool(BooleanBuilder),
    Int2(Int16Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Decimal(Decimal128Builder, u8, i8),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl Values {
    /// For one of the types that [`Reading`] has.
    pub(super) fn new(data_type: &DataType) -> Self {
        match data_type {
            DataType::Boolean => Self::Bool(BooleanBuilder::new()),
            DataType::Int16 => Self::Int2(Int16Builder::new()),
            DataType::Int32 => Self::Int4(Int32Builder::new()),
            DataType::Int64 => Self::Int8(Int64Builder::new()),
            DataType::Float32 => Self::Float4(Float32Builder::new()),
            DataType::Float64 => Self::Float8(Float64Builder::new()),
            DataType::Decimal128(precision, scale) => {
                let builder = Decimal128Builder::new().with_data_type(data_type.clone());
                Self::Decimal(builder, *precision, *scale)
            }
            DataType::Binary => Self::Bytes(BinaryBuilder::new()),
            DataType::Date32 => Self::Date(Date32Builder::new()),
            DataType::Time64(TimeUnit::Microsecond) => Self::Time(Time64MicrosecondBuilder::new()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(data_type.clone()))
            }
            _ => Self::Text(StringBuilder::new()),
        }
    }

    /// Appends a value in its binary form; `None` is null.
    pub(super) fn append(&mut self, value: Option<&[u8]>) -> Result<()> {
        match self {
            Self::Bool(to) => to.append_option(value.map(fixed::<1>).transpose()?.map(|[bit]| bit != 0)),
            Self::Int2(to) => to.append_option(value.map(fixed).transpose()?.map(i16::from_be_bytes)),
            Self::Int4(to) => to.append_option(value.map(fixed).transpose()?.map(i32::from_be_bytes)),
            Self::Int8(to) => to.append_option(value.map(fixed).transpose()?.map(i64::from_be_bytes)),
            Self::Float4(to) => to.append_option(value.map(fixed).transpose()?.map(f32::from_be_bytes)),
            Self::Float8(to) => to.append_option(value.map(fixed).transpose()?.map(f64::from_be_bytes)),
            Self::Decimal(to, precision, scale) => {
                to.append_option(value.map(|value| decimal(text(value)?, *precision, *scale)).transpose()?);
            }
            Self::Text(to) => to.append_option(value.map(text).transpose()?),
            Self::Bytes(to) => to.append_option(value),
            Self::Date(to) => to.append_option(value.map(date).transpose()?),
            Self::Time(to) => to.append_option(value.map(fixed).transpose()?.map(i64::from_be_bytes)),
            Self::Timestamp(to) => to.append_option(value.map(timestamp).transpose()?),
        }
        Ok(())
    }

    /// The column.
    pub(super) fn finish(self) -> ArrayRef {
        match self {
            Self::Bool(mut of) => Arc::new(of.finish()),
            Self::Int2(mut of) => Arc::new(of.finish()),
            Self::Int4(mut of) => Arc::new(of.finish()),
            Self::Int8(mut of) => Arc::new(of.finish()),
            Self::Float4(mut of) => Arc::new(of.finish()),
            Self::Float8(mut of) => Arc::new(of.finish()),
            Self::Decimal(mut of, ..) => Arc::new(of.finish()),
            Self::Text(mut of) => Arc::new(of.finish()),
            Self::Bytes(mut of) => Arc::new(of.finish()),
            Self::Date(mut of) => Arc::new(of.finish()),
            Self::Time(mut of) => Arc::new(of.finish()),
            Self::Timestamp(mut of) => Arc::new(of.finish()),
        }
    }
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N]> {
    value
        .try_into()
        .map_err(|_| Error::Invalid(format!("PostgreSQL sent {} bytes for a value of {N}", value.len())))
}

fn text(value: &[u8]) -> Result<&str> {
    std::str::from_utf8(value)
        .map_err(|error| Error::Invalid(format!("PostgreSQL sent a text that is not UTF-8: {error}")))
}

fn decimal(text: &str, precision: u8, scale: i8) -> Result<i128> {
    let decimals = text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    // Of more decimals it would take only the first.
    let fits = i8::try_from(decimals).is_ok_and(|decimals| decimals <= scale);
    let value = parse_decimal::<Decimal128Type>(text, precision, scale).ok().filter(|_| fits);
    value.ok_or_else(|| {
        Error::Invalid(format!(
            "'{text}' of PostgreSQL is no DECIMAL({precision}, {scale}): leave such rows out with a view"
        ))
    })
}

/// Days since 1970.
fn date(value: &[u8]) -> Result<i32> {
    let days = i32::from_be_bytes(fixed(value)?);
    days.checked_add(EPOCH_DAYS).filter(|_| days != i32::MIN).ok_or_else(|| infinite("date"))
}

/// Microseconds since 1970.
fn timestamp(value: &[u8]) -> Result<i64> {
    let micros = i64::from_be_bytes(fixed(value)?);
    micros.checked_add(EPOCH_MICROS).filter(|_| micros != i64::MIN).ok_or_else(|| infinite("timestamp"))
}

fn infinite(what: &str) -> Error {
    Error::Invalid(format!(
        "a {what} of PostgreSQL is 'infinity' or '-infinity', for which there is no value here: leave such rows out, or \
         replace it, with a view"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(of: &str, kind: &str, modifier: i32) -> (String, DataType) {
        let column = Column {
            name: "A".into(),
            of: of.into(),
            kind: kind.into(),
            modifier,
            is_nullable: true,
            is_required: false,
            is_generated: false,
            is_bytewise: true,
        };
        let Reading { expression, data_type } = Reading::of(&column);
        (expression, data_type)
    }

    #[test]
    fn columns_are_read_as_what_loses_nothing() {
        for (of, kind, modifier, expression, data_type) in [
            ("bigint", "b", -1, "\"A\"", DataType::Int64),
            ("numeric", "b", (10 << 16 | 2) + 4, "\"A\"::text", DataType::Decimal128(10, 2)),
            ("numeric", "b", (50 << 16 | 2) + 4, "\"A\"::text", DataType::Utf8),
            ("numeric", "b", -1, "\"A\"::text", DataType::Utf8),
            ("uuid", "b", -1, "\"A\"::text", DataType::Utf8),
            ("mood", "e", -1, "\"A\"::text", DataType::Utf8),
            ("integer[]", "b", -1, "to_json(\"A\")::text", DataType::Utf8),
            ("address", "c", -1, "to_json(\"A\")::text", DataType::Utf8),
            ("int4range", "r", -1, "\"A\"::text", DataType::Utf8),
        ] {
            assert_eq!(reading(of, kind, modifier), (expression.to_string(), data_type), "{of}");
        }
    }

    #[test]
    fn values_that_are_not_here_are_named() {
        for infinite in [i64::MAX, i64::MIN] {
            let error = timestamp(&infinite.to_be_bytes()).unwrap_err().to_string();
            assert!(error.contains("'infinity'"), "{error}");
        }
        assert!(date(&i32::MAX.to_be_bytes()).is_err() && date(&[0]).is_err());
        assert_eq!(date(&(-EPOCH_DAYS).to_be_bytes()).unwrap(), 0);
        assert!(decimal("NaN", 5, 2).is_err());
        assert_eq!(decimal("-1.5", 5, 2).unwrap(), -150);
    }
}
