//! The zones of times of whole seconds.
//!
//! Parquet has no seconds, so Arrow writes milliseconds, and beside the columns what they were. The `parquet` crate takes a
//! zone from there only if the unit is the same, so that these times would be those of UTC, and their dates, too.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef, Fields, Schema, TimeUnit};
use datafusion::arrow::ipc::convert::fb_to_schema;
use datafusion::arrow::ipc::root_as_message;
use datafusion::parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema};
use datafusion::parquet::basic::{LogicalType, TimeUnit as Unit};
use datafusion::parquet::file::metadata::{FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataBuilder};

use super::{Result, contained};

/// `metadata` that says of times of whole seconds that they are in milliseconds, as they are written.
pub(super) fn told(metadata: ParquetMetaData) -> Result<ParquetMetaData> {
    let file = metadata.file_metadata();
    let may_have_seconds = file.schema_descr().columns().iter().any(|column| {
        matches!(column.logical_type_ref(), Some(LogicalType::Timestamp(time)) if time.is_adjusted_to_u_t_c && time.unit == Unit::MILLIS)
    });
    let said = file.key_value_metadata().filter(|_| may_have_seconds);
    let Some(place) = said.and_then(|said| said.iter().position(|entry| entry.key == ARROW_SCHEMA_META_KEY))
    else {
        return Ok(metadata);
    };
    let mut said = said.cloned().unwrap_or_default();
    let Some(columns) = said[place].value.as_deref().and_then(columns_of) else { return Ok(metadata) };
    let in_millis = in_milliseconds(columns.fields());
    if in_millis == *columns.fields() {
        return Ok(metadata);
    }
    let columns = Schema::new_with_metadata(in_millis, columns.metadata().clone());
    said[place] = KeyValue::new(ARROW_SCHEMA_META_KEY.to_string(), encode_arrow_schema(&columns));
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_string),
        Some(said),
        file.schema_descr_ptr(),
        file.column_orders().cloned(),
    );
    Ok(ParquetMetaDataBuilder::new(file).set_row_groups(metadata.row_groups().to_vec()).build())
}

/// The columns that Arrow has put beside those of Parquet; what cannot be read there is found out by who needs it.
fn columns_of(text: &str) -> Option<Schema> {
    let bytes = from_base64(text)?;
    let message = bytes.strip_prefix(&[0xff; 4]).and_then(|rest| rest.get(4..)).unwrap_or(&bytes);
    let read =
        || Ok(root_as_message(message).ok().and_then(|message| message.header_as_schema()).map(fb_to_schema));
    contained(read).ok().flatten()
}

fn in_milliseconds(fields: &Fields) -> Fields {
    let field = |field: &FieldRef| {
        let item = |item: &FieldRef| {
            let items = in_milliseconds(&Fields::from(vec![Arc::clone(item)]));
            items.first().map_or_else(|| Arc::clone(item), Arc::clone)
        };
        let data_type = match field.data_type() {
            DataType::Timestamp(TimeUnit::Second, Some(zone)) => {
                DataType::Timestamp(TimeUnit::Millisecond, Some(Arc::clone(zone)))
            }
            DataType::Struct(fields) => DataType::Struct(in_milliseconds(fields)),
            DataType::List(of) => DataType::List(item(of)),
            DataType::LargeList(of) => DataType::LargeList(item(of)),
            DataType::FixedSizeList(of, size) => DataType::FixedSizeList(item(of), *size),
            DataType::Map(of, sorted) => DataType::Map(item(of), *sorted),
            _ => return Arc::clone(field),
        };
        Arc::new(field.as_ref().clone().with_data_type(data_type))
    };
    fields.iter().map(field).collect()
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for index in 0..4 {
            let digit = match group.get(index) {
                Some(byte @ b'A'..=b'Z') => byte - b'A',
                Some(byte @ b'a'..=b'z') => byte - b'a' + 26,
                Some(byte @ b'0'..=b'9') => byte - b'0' + 52,
                Some(b'+') => 62,
                Some(b'/') => 63,
                Some(_) => return None,
                None => 0,
            };
            bits = (bits << 6) | u32::from(digit);
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_bytes() {
        for (text, bytes) in
            [("", &b""[..]), ("Zg==", b"f"), ("Zm8=", b"fo"), ("Zm9v", b"foo"), ("/+8=", b"\xff\xef")]
        {
            assert_eq!(from_base64(text).unwrap(), bytes, "{text}");
        }
        assert_eq!(from_base64("?"), None);
    }
}
