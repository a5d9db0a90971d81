//! Values of answers that PostgreSQL writes otherwise than the encoder does: numbers of many digits, and years that
//! have not four.

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use datafusion::logical_expr::LogicalPlan;
use datafusion_postgres::pgwire::api::Type;
use datafusion_postgres::pgwire::api::results::{FieldFormat, FieldInfo, QueryResponse, Response};
use datafusion_postgres::pgwire::error::{PgWireError, PgWireResult};
use datafusion_postgres::pgwire::messages::data::DataRow;
use futures::{StreamExt, stream};

use super::wire_types::is_long_decimal;

/// How a value is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edit {
    /// The text of a number becomes its binary form.
    Number,
    /// `-4713-11-24` becomes `4714-11-24 BC`, and `+12345-01-01` loses its sign.
    Year,
}

/// Has the rows of `response`, which is that of `plan`, in the form that clients of PostgreSQL read.
pub(super) fn as_postgres_has_them(response: &mut Response, plan: &LogicalPlan) {
    let Response::Query(QueryResponse { row_schema, data_rows, .. }) = response else { return };
    let is_long = |index: usize| {
        plan.schema().fields().get(index).is_some_and(|field| is_long_decimal(field.data_type()))
    };
    let mut edits = Vec::with_capacity(row_schema.len());
    let fields: Vec<FieldInfo> = row_schema
        .iter()
        .enumerate()
        .map(|(index, field)| {
            let is_text = field.format() == FieldFormat::Text;
            let is_time = [Type::DATE, Type::TIMESTAMP, Type::TIMESTAMPTZ].contains(field.datatype());
            edits.push(match (is_long(index), is_text) {
                (true, false) => Some(Edit::Number),
                (false, true) if is_time => Some(Edit::Year),
                _ => None,
            });
            match is_long(index) {
                true => FieldInfo::new(field.name().to_string(), None, None, Type::NUMERIC, field.format()),
                false => field.clone(),
            }
        })
        .collect();
    if (0..fields.len()).any(is_long) {
        *row_schema = Arc::new(fields);
    }
    if edits.iter().all(Option::is_none) {
        return;
    }
    let rows = std::mem::replace(data_rows, stream::empty().boxed());
    *data_rows = rows.map(move |row| row.and_then(|row| edited(row, &edits))).boxed();
}

fn edited(row: DataRow, edits: &[Option<Edit>]) -> PgWireResult<DataRow> {
    let broken = || PgWireError::ApiError("a row ends in the middle of a value".into());
    let (mut rest, mut data) = (row.data, BytesMut::new());
    for edit in edits {
        if rest.remaining() < 4 {
            return Err(broken());
        }
        let length = rest.get_i32();
        let Ok(length) = usize::try_from(length) else {
            // Null.
            data.put_i32(length);
            continue;
        };
        if rest.remaining() < length {
            return Err(broken());
        }
        let value = rest.split_to(length);
        let text = std::str::from_utf8(&value).ok();
        let value = match (edit, text) {
            (Some(Edit::Number), Some(text)) => BytesMut::from(binary(text).as_slice()),
            (Some(Edit::Year), Some(text)) => match with_era(text) {
                Some(text) => BytesMut::from(text.as_str()),
                None => value,
            },
            _ => value,
        };
        data.put_i32(i32::try_from(value.len()).map_err(|_| broken())?);
        data.put_slice(&value);
    }
    Ok(DataRow::new(data, row.field_count))
}

/// A date or timestamp with its year as PostgreSQL writes it; `None` if that is as it is.
fn with_era(text: &str) -> Option<String> {
    if let Some(late) = text.strip_prefix('+') {
        return Some(late.to_string());
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None if text.starts_with("0000-") => (1, text),
        None => return None,
    };
    let (year, rest) = digits.split_once('-')?;
    // There is no year 0 before the first one.
    let before = 1 - sign * year.parse::<i64>().ok()?;
    Some(format!("{before:04}-{rest} BC"))
}

/// The binary form of a number: its digits to the base 10,000.
fn binary(text: &str) -> Vec<u8> {
    let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
    let fill = |length: usize| "0".repeat((4 - length % 4) % 4);
    let all = format!("{}{whole}{decimals}{}", fill(whole.len()), fill(decimals.len()));
    let of_four = |four: &[u8]| four.iter().fold(0, |number, digit| number * 10 + i16::from(digit - b'0'));
    let groups: Vec<i16> = all.as_bytes().chunks(4).map(of_four).collect();
    let before = groups.iter().take_while(|group| **group == 0).count();
    let behind = groups.iter().rev().take_while(|group| **group == 0).count();
    let groups = groups.get(before..groups.len() - behind).unwrap_or_default();
    // Of decimals there are at most 76 digits.
    let short = |number: usize| i16::try_from(number).unwrap_or(i16::MAX);
    let weight = if groups.is_empty() { 0 } else { short(whole.len().div_ceil(4)) - 1 - short(before) };
    let mut bytes = Vec::with_capacity(8 + 2 * groups.len());
    bytes.put_i16(short(groups.len()));
    bytes.put_i16(weight);
    bytes.put_u16(if is_negative && !groups.is_empty() { 0x4000 } else { 0 });
    bytes.put_i16(short(decimals.len()));
    groups.iter().for_each(|group| bytes.put_i16(*group));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn years_are_written_as_postgresql_does() {
        for (text, expected) in [
            ("0000-12-31", Some("0001-12-31 BC")),
            ("-0001-01-01", Some("0002-01-01 BC")),
            ("-4713-11-24", Some("4714-11-24 BC")),
            ("-0043-03-15 12:00:00.000000", Some("0044-03-15 12:00:00.000000 BC")),
            ("+12345-01-01", Some("12345-01-01")),
            ("2024-01-01", None),
            ("0001-01-01", None),
        ] {
            assert_eq!(with_era(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn numbers_have_the_binary_form_of_the_server() {
        // As `SELECT numeric_send(…)` gives them.
        for (text, expected) in [
            ("0", "0000000000000000"),
            ("0.000", "0000000000000003"),
            ("1", "00010000000000000001"),
            ("-12345.678", "0003000140000003000109291a7c"),
            ("0.00012", "0002ffff00000005000107d0"),
            ("10000", "00010001000000000001"),
        ] {
            let hex: String = binary(text).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected, "{text}");
        }
    }
}
