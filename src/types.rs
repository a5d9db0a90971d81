//! Arrow's types as checkpoints record them and as SQL calls them.

mod sql_names;

use std::sync::Arc;

use datafusion::arrow::datatypes::{
    DataType, Field, FieldRef, IntervalUnit, Schema, SchemaRef, TimeUnit, UnionFields, UnionMode,
};

use crate::checkpoint::records::ColumnDefinition;
use crate::checkpoint::types::{ColumnType, Interval, Part, Unit, Variant};
use crate::error::{Error, Result};

pub(crate) use sql_names::digits_of;
pub use sql_names::sql_type_name;

/// Columns as a checkpoint records them.
pub(crate) fn columns<'a>(fields: impl IntoIterator<Item = &'a FieldRef>) -> Vec<ColumnDefinition> {
    let column = |field: &FieldRef| ColumnDefinition {
        name: field.name().clone(),
        data_type: recorded(field.data_type()),
        nullable: field.is_nullable(),
    };
    fields.into_iter().map(column).collect()
}

/// The Arrow schema that recorded columns describe.
pub(crate) fn schema(columns: &[ColumnDefinition]) -> Result<SchemaRef> {
    let fields = columns
        .iter()
        .map(|column| Ok(Field::new(&column.name, data_type(&column.data_type)?, column.nullable)))
        .collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

/// A type as a checkpoint records it. What else Arrow keeps with fields, their metadata, is not of the type.
pub(crate) fn recorded(data_type: &DataType) -> ColumnType {
    match data_type {
        DataType::Null => ColumnType::Null,
        DataType::Boolean => ColumnType::Boolean,
        DataType::Int8 => ColumnType::Int8,
        DataType::Int16 => ColumnType::Int16,
        DataType::Int32 => ColumnType::Int32,
        DataType::Int64 => ColumnType::Int64,
        DataType::UInt8 => ColumnType::UInt8,
        DataType::UInt16 => ColumnType::UInt16,
        DataType::UInt32 => ColumnType::UInt32,
        DataType::UInt64 => ColumnType::UInt64,
        DataType::Float16 => ColumnType::Float16,
        DataType::Float32 => ColumnType::Float32,
        DataType::Float64 => ColumnType::Float64,
        DataType::Date32 => ColumnType::Date32,
        DataType::Date64 => ColumnType::Date64,
        DataType::Time32(unit) => ColumnType::Time32 { unit: unit_of(*unit) },
        DataType::Time64(unit) => ColumnType::Time64 { unit: unit_of(*unit) },
        DataType::Timestamp(unit, zone) => {
            ColumnType::Timestamp { unit: unit_of(*unit), zone: zone.as_deref().map(str::to_string) }
        }
        DataType::Duration(unit) => ColumnType::Duration { unit: unit_of(*unit) },
        DataType::Interval(IntervalUnit::YearMonth) => ColumnType::Interval { unit: Interval::YearMonth },
        DataType::Interval(IntervalUnit::DayTime) => ColumnType::Interval { unit: Interval::DayTime },
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            ColumnType::Interval { unit: Interval::MonthDayNano }
        }
        DataType::Decimal32(precision, scale) => {
            ColumnType::Decimal32 { precision: *precision, scale: *scale }
        }
        DataType::Decimal64(precision, scale) => {
            ColumnType::Decimal64 { precision: *precision, scale: *scale }
        }
        DataType::Decimal128(precision, scale) => {
            ColumnType::Decimal128 { precision: *precision, scale: *scale }
        }
        DataType::Decimal256(precision, scale) => {
            ColumnType::Decimal256 { precision: *precision, scale: *scale }
        }
        DataType::Utf8 => ColumnType::Utf8,
        DataType::LargeUtf8 => ColumnType::LargeUtf8,
        DataType::Utf8View => ColumnType::Utf8View,
        DataType::Binary => ColumnType::Binary,
        DataType::LargeBinary => ColumnType::LargeBinary,
        DataType::BinaryView => ColumnType::BinaryView,
        DataType::FixedSizeBinary(size) => ColumnType::FixedSizeBinary { size: *size },
        DataType::List(of) => ColumnType::List(part(of).into()),
        DataType::LargeList(of) => ColumnType::LargeList(part(of).into()),
        DataType::ListView(of) => ColumnType::ListView(part(of).into()),
        DataType::LargeListView(of) => ColumnType::LargeListView(part(of).into()),
        DataType::FixedSizeList(of, size) => ColumnType::FixedSizeList { of: part(of).into(), size: *size },
        DataType::Struct(fields) => ColumnType::Struct(fields.iter().map(|field| part(field)).collect()),
        DataType::Map(entries, sorted) => ColumnType::Map { entries: part(entries).into(), sorted: *sorted },
        DataType::Union(fields, mode) => ColumnType::Union {
            dense: *mode == UnionMode::Dense,
            of: fields.iter().map(|(id, field)| Variant { id, part: part(field) }).collect(),
        },
        DataType::Dictionary(keys, values) => {
            ColumnType::Dictionary { keys: recorded(keys).into(), values: recorded(values).into() }
        }
        DataType::RunEndEncoded(ends, values) => {
            ColumnType::RunEndEncoded { ends: part(ends).into(), values: part(values).into() }
        }
    }
}

fn part(field: &Field) -> Part {
    Part { name: field.name().clone(), data_type: recorded(field.data_type()), nullable: field.is_nullable() }
}

/// The type that was recorded.
///
/// # Errors
/// [`Error::CheckpointDamaged`] if there is no such type.
pub(crate) fn data_type(recorded: &ColumnType) -> Result<DataType> {
    let unions = |of: &[Variant]| {
        let fields = of.iter().map(|variant| field(&variant.part)).collect::<Result<Vec<_>>>()?;
        UnionFields::try_new(of.iter().map(|variant| variant.id), fields).map_err(|error| {
            Error::damaged("metadata", format!("it names a union that there is not: {error}"))
        })
    };
    Ok(match recorded {
        ColumnType::Null => DataType::Null,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Int8 => DataType::Int8,
        ColumnType::Int16 => DataType::Int16,
        ColumnType::Int32 => DataType::Int32,
        ColumnType::Int64 => DataType::Int64,
        ColumnType::UInt8 => DataType::UInt8,
        ColumnType::UInt16 => DataType::UInt16,
        ColumnType::UInt32 => DataType::UInt32,
        ColumnType::UInt64 => DataType::UInt64,
        ColumnType::Float16 => DataType::Float16,
        ColumnType::Float32 => DataType::Float32,
        ColumnType::Float64 => DataType::Float64,
        ColumnType::Date32 => DataType::Date32,
        ColumnType::Date64 => DataType::Date64,
        ColumnType::Time32 { unit } => DataType::Time32(time_unit(*unit)),
        ColumnType::Time64 { unit } => DataType::Time64(time_unit(*unit)),
        ColumnType::Timestamp { unit, zone } => {
            DataType::Timestamp(time_unit(*unit), zone.as_deref().map(Into::into))
        }
        ColumnType::Duration { unit } => DataType::Duration(time_unit(*unit)),
        ColumnType::Interval { unit } => DataType::Interval(match unit {
            Interval::YearMonth => IntervalUnit::YearMonth,
            Interval::DayTime => IntervalUnit::DayTime,
            Interval::MonthDayNano => IntervalUnit::MonthDayNano,
        }),
        ColumnType::Decimal32 { precision, scale } => DataType::Decimal32(*precision, *scale),
        ColumnType::Decimal64 { precision, scale } => DataType::Decimal64(*precision, *scale),
        ColumnType::Decimal128 { precision, scale } => DataType::Decimal128(*precision, *scale),
        ColumnType::Decimal256 { precision, scale } => DataType::Decimal256(*precision, *scale),
        ColumnType::Utf8 => DataType::Utf8,
        ColumnType::LargeUtf8 => DataType::LargeUtf8,
        ColumnType::Utf8View => DataType::Utf8View,
        ColumnType::Binary => DataType::Binary,
        ColumnType::LargeBinary => DataType::LargeBinary,
        ColumnType::BinaryView => DataType::BinaryView,
        ColumnType::FixedSizeBinary { size } => DataType::FixedSizeBinary(*size),
        ColumnType::List(of) => DataType::List(field(of)?),
        ColumnType::LargeList(of) => DataType::LargeList(field(of)?),
        ColumnType::ListView(of) => DataType::ListView(field(of)?),
        ColumnType::LargeListView(of) => DataType::LargeListView(field(of)?),
        ColumnType::FixedSizeList { of, size } => DataType::FixedSizeList(field(of)?, *size),
        ColumnType::Struct(parts) => {
            DataType::Struct(parts.iter().map(field).collect::<Result<Vec<_>>>()?.into())
        }
        ColumnType::Map { entries, sorted } => DataType::Map(field(entries)?, *sorted),
        ColumnType::Union { dense: true, of } => DataType::Union(unions(of)?, UnionMode::Dense),
        ColumnType::Union { dense: false, of } => DataType::Union(unions(of)?, UnionMode::Sparse),
        ColumnType::Dictionary { keys, values } => {
            DataType::Dictionary(data_type(keys)?.into(), data_type(values)?.into())
        }
        ColumnType::RunEndEncoded { ends, values } => DataType::RunEndEncoded(field(ends)?, field(values)?),
    })
}

fn field(part: &Part) -> Result<FieldRef> {
    Ok(Arc::new(Field::new(&part.name, data_type(&part.data_type)?, part.nullable)))
}

fn unit_of(unit: TimeUnit) -> Unit {
    match unit {
        TimeUnit::Second => Unit::Second,
        TimeUnit::Millisecond => Unit::Millisecond,
        TimeUnit::Microsecond => Unit::Microsecond,
        TimeUnit::Nanosecond => Unit::Nanosecond,
    }
}

fn time_unit(unit: Unit) -> TimeUnit {
    match unit {
        Unit::Second => TimeUnit::Second,
        Unit::Millisecond => TimeUnit::Millisecond,
        Unit::Microsecond => TimeUnit::Microsecond,
        Unit::Nanosecond => TimeUnit::Nanosecond,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind, and its JSON.
    #[test]
    fn types_are_recorded_and_read() -> Result<()> {
        let item = |data_type| Arc::new(Field::new("item", data_type, true));
        let entries = DataType::Struct(
            vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int8, true)].into(),
        );
        let cases = [
            (DataType::Int64, r#""Int64""#),
            (
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                r#"{"Timestamp":{"unit":"Microsecond","zone":"UTC"}}"#,
            ),
            (
                DataType::Timestamp(TimeUnit::Nanosecond, None),
                r#"{"Timestamp":{"unit":"Nanosecond","zone":null}}"#,
            ),
            (DataType::Time32(TimeUnit::Second), r#"{"Time32":{"unit":"Second"}}"#),
            (DataType::Interval(IntervalUnit::MonthDayNano), r#"{"Interval":{"unit":"MonthDayNano"}}"#),
            (DataType::Decimal128(10, 2), r#"{"Decimal128":{"precision":10,"scale":2}}"#),
            (DataType::FixedSizeBinary(4), r#"{"FixedSizeBinary":{"size":4}}"#),
            (
                DataType::List(item(DataType::Date32)),
                r#"{"List":{"name":"item","dataType":"Date32","nullable":true}}"#,
            ),
            (
                DataType::FixedSizeList(item(DataType::Boolean), 3),
                r#"{"FixedSizeList":{"of":{"name":"item","dataType":"Boolean","nullable":true},"size":3}}"#,
            ),
            (
                DataType::Map(Arc::new(Field::new("entries", entries, false)), false),
                concat!(
                    r#"{"Map":{"entries":{"name":"entries","dataType":{"Struct":["#,
                    r#"{"name":"key","dataType":"Utf8","nullable":false},"#,
                    r#"{"name":"value","dataType":"Int8","nullable":true}]},"nullable":false},"sorted":false}}"#
                ),
            ),
            (
                DataType::Dictionary(DataType::Int32.into(), DataType::Utf8View.into()),
                r#"{"Dictionary":{"keys":"Int32","values":"Utf8View"}}"#,
            ),
            (
                DataType::Union(
                    UnionFields::try_new([3], [Field::new("a", DataType::Null, true)])
                        .map_err(|error| Error::Invalid(error.to_string()))?,
                    UnionMode::Dense,
                ),
                concat!(
                    r#"{"Union":{"dense":true,"of":[{"id":3,"#,
                    r#""part":{"name":"a","dataType":"Null","nullable":true}}]}}"#
                ),
            ),
        ];
        for (of, json) in cases {
            let record = recorded(&of);
            assert_eq!(serde_json::to_string(&record).unwrap_or_default(), json);
            assert_eq!(serde_json::from_str::<ColumnType>(json).ok(), Some(record.clone()));
            assert_eq!(data_type(&record)?, of);
        }
        Ok(())
    }

    #[test]
    fn metadata_of_fields_is_not_of_the_type() {
        let with = Field::new("item", DataType::Int32, true).with_metadata([("a".into(), "b".into())].into());
        let without = Field::new("item", DataType::Int32, true);
        assert_eq!(recorded(&DataType::List(with.into())), recorded(&DataType::List(without.into())));
    }
}
