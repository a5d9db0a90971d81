//! The types of PostgreSQL beside those of Arrow.

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};

/// The types of PostgreSQL that values are written and read as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PgType {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    /// Also what has the same binary form: `varchar`, `json`, enums.
    Text,
    Jsonb,
    Uuid,
    Bytea,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    Array(Box<PgType>),
}

impl PgType {
    /// The type that a column of `data_type` is created with.
    pub(super) fn for_column(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => Self::Bool,
            DataType::Int8 | DataType::Int16 | DataType::UInt8 => Self::Int2,
            DataType::Int32 | DataType::UInt16 => Self::Int4,
            DataType::Int64 | DataType::UInt32 => Self::Int8,
            DataType::UInt64
            | DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..) => Self::Numeric,
            DataType::Float16 | DataType::Float32 => Self::Float4,
            DataType::Float64 => Self::Float8,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Self::Text,
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => Self::Bytea,
            DataType::Date32 | DataType::Date64 => Self::Date,
            DataType::Time32(_) | DataType::Time64(_) => Self::Time,
            DataType::Timestamp(_, None) => Self::Timestamp,
            DataType::Timestamp(_, Some(_)) => Self::TimestampTz,
            DataType::Dictionary(_, values) => return Self::for_column(values),
            DataType::List(of) | DataType::LargeList(of) | DataType::FixedSizeList(of, _) => {
                match Self::for_column(of.data_type())? {
                    // Of these the encoder does not know the number that arrays begin with.
                    Self::Array(_) | Self::TimestampTz => return None,
                    of => Self::Array(of.into()),
                }
            }
            _ => return None,
        })
    }

    /// The type that `format_type` calls so, whose `typtype` is `kind`.
    pub(super) fn named(name: &str, kind: &str) -> Option<Self> {
        if let Some(element) = name.strip_suffix("[]") {
            return match Self::named(element, "b")? {
                Self::Jsonb | Self::Uuid | Self::TimestampTz => None,
                Self::Text if element != "text" => None,
                element => Some(Self::Array(element.into())),
            };
        }
        Some(match name {
            "boolean" => Self::Bool,
            "smallint" => Self::Int2,
            "integer" => Self::Int4,
            "bigint" => Self::Int8,
            "real" => Self::Float4,
            "double precision" => Self::Float8,
            "numeric" => Self::Numeric,
            "text" | "character varying" | "json" | "citext" => Self::Text,
            _ if kind == "e" => Self::Text,
            "jsonb" => Self::Jsonb,
            "uuid" => Self::Uuid,
            "bytea" => Self::Bytea,
            "date" => Self::Date,
            "time without time zone" => Self::Time,
            "timestamp without time zone" => Self::Timestamp,
            "timestamp with time zone" => Self::TimestampTz,
            _ => return None,
        })
    }

    /// As in `CREATE TABLE`.
    pub(super) fn name(&self) -> String {
        let name = match self {
            Self::Bool => "boolean",
            Self::Int2 => "smallint",
            Self::Int4 => "integer",
            Self::Int8 => "bigint",
            Self::Float4 => "real",
            Self::Float8 => "double precision",
            Self::Numeric => "numeric",
            Self::Text => "text",
            Self::Jsonb => "jsonb",
            Self::Uuid => "uuid",
            Self::Bytea => "bytea",
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp => "timestamp",
            Self::TimestampTz => "timestamptz",
            Self::Array(of) => return format!("{}[]", of.name()),
        };
        name.into()
    }

    /// Whether every value of `data_type` fits, but for digits of seconds below a microsecond.
    pub(super) fn takes(&self, data_type: &DataType) -> bool {
        let Some(own) = Self::for_column(data_type) else { return false };
        let is_integer = matches!(own, Self::Int2 | Self::Int4 | Self::Int8);
        match self {
            _ if *data_type == DataType::Null => true,
            Self::Int4 => matches!(own, Self::Int2 | Self::Int4),
            Self::Int8 => is_integer,
            Self::Numeric => is_integer || own == Self::Numeric,
            Self::Float8 => matches!(own, Self::Float4 | Self::Float8),
            // Whether it is one shows with each value.
            Self::Jsonb => own == Self::Text,
            Self::Uuid => own == Self::Text || *data_type == DataType::FixedSizeBinary(16),
            _ => own == *self,
        }
    }

    /// The one Arrow type that values of `data_type` are written from.
    pub(super) fn arrow(&self, data_type: &DataType) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int2 => DataType::Int16,
            Self::Int4 => DataType::Int32,
            Self::Int8 => DataType::Int64,
            Self::Float4 => DataType::Float32,
            Self::Float8 => DataType::Float64,
            Self::Numeric => match data_type {
                DataType::Dictionary(_, values) => self.arrow(values),
                DataType::Decimal32(_, scale)
                | DataType::Decimal64(_, scale)
                | DataType::Decimal128(_, scale) => DataType::Decimal128(38, *scale),
                _ => DataType::Decimal128(38, 0),
            },
            Self::Text | Self::Jsonb => DataType::Utf8,
            Self::Uuid => DataType::FixedSizeBinary(16),
            Self::Bytea => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Array(of) => {
                let inner = match data_type {
                    DataType::List(inner)
                    | DataType::LargeList(inner)
                    | DataType::FixedSizeList(inner, _) => inner.data_type(),
                    other => other,
                };
                DataType::List(Field::new("item", of.arrow(inner), true).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_only_where_nothing_is_lost() {
        let list = |of| DataType::List(Field::new("item", of, true).into());
        for (data_type, takes, refuses) in [
            (
                DataType::Int32,
                &["integer", "bigint", "numeric"][..],
                &["smallint", "text", "double precision"][..],
            ),
            (DataType::UInt64, &["numeric"], &["bigint"]),
            (DataType::Float32, &["real", "double precision"], &["numeric"]),
            (
                DataType::Utf8View,
                &["text", "character varying", "json", "jsonb", "uuid"],
                &["bytea", "character", "text[]"],
            ),
            (DataType::FixedSizeBinary(16), &["uuid", "bytea"], &["text"]),
            (DataType::FixedSizeBinary(15), &["bytea"], &["uuid"]),
            (
                DataType::Timestamp(TimeUnit::Nanosecond, None),
                &["timestamp without time zone"],
                &["timestamp with time zone", "date"],
            ),
            (DataType::Null, &["text", "integer"], &[]),
            (list(DataType::Int64), &["bigint[]"], &["bigint", "integer[]", "json"]),
            (list(list(DataType::Int64)), &[], &["bigint[]"]),
        ] {
            let fits = |name: &&&str| PgType::named(name, "b").is_some_and(|pg| pg.takes(&data_type));
            assert!(takes.iter().all(|name| fits(&name)), "{data_type}");
            assert!(!refuses.iter().any(|name| fits(&name)), "{data_type}");
        }
        assert_eq!(PgType::named("mood", "e"), Some(PgType::Text));
    }
}
