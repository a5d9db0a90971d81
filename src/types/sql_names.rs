//! What SQL calls Arrow's types.

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};

/// The name that SQL has for a type: `CREATE TABLE` makes a column of it from that, as far as there is such a name.
/// Arrow has several types for what is one in SQL, as for texts. Types that SQL cannot name have Arrow's name.
///
/// ```
/// use datafusion::arrow::datatypes::DataType;
/// assert_eq!(tidemill::sql_type_name(&DataType::new_list(DataType::Int64, true)), "BIGINT[]");
/// ```
pub fn sql_type_name(data_type: &DataType) -> String {
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
        DataType::Interval(_) => "INTERVAL".into(),
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => format!("DECIMAL({p},{s})"),
        DataType::Timestamp(unit, None) => match unit {
            TimeUnit::Nanosecond => "TIMESTAMP".into(),
            unit => format!("TIMESTAMP({})", digits_of(*unit)),
        },
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE".into(),
        DataType::Dictionary(_, values) => sql_type_name(values),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) => list_of(item),
        DataType::FixedSizeList(item, _) => list_of(item),
        DataType::Struct(fields) => {
            let field = |field: &std::sync::Arc<Field>| {
                format!("{} {}", quoted(field.name()), sql_type_name(field.data_type()))
            };
            format!("STRUCT<{}>", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                let [key, value] = [&fields[0], &fields[1]].map(|field| sql_type_name(field.data_type()));
                format!("MAP<{key}, {value}>")
            }
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}

fn list_of(item: &Field) -> String {
    format!("{}[]", sql_type_name(item.data_type()))
}

/// A name as it is written, in quotes unless it is a plain one.
fn quoted(name: &str) -> String {
    let is_plain = name.starts_with(|letter: char| letter.is_ascii_lowercase() || letter == '_')
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_');
    if is_plain { name.to_string() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Digits behind the point of a second.
pub(crate) fn digits_of(unit: TimeUnit) -> u32 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}
