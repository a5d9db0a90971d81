//! Schemas of Avro's, and the columns that they stand for.

use std::fmt::Display;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow_avro::reader::{Decoder, ReaderBuilder};
use datafusion::arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use serde_json::{Value, json};

/// The option that gives a schema.
pub(crate) const AVRO_SCHEMA: &str = "avroSchema";

/// What a message that names its schema begins with: a zero, and the number of the schema, the highest byte first.
pub(crate) const FRAME: usize = 5;

pub(crate) fn unreadable(error: impl Display) -> String {
    format!("it is not a schema of Avro's that can be read: {error}")
}

/// `schema` as that of a record: any other has one field, called `name`, which takes the same bytes.
pub(crate) fn as_record(schema: &str, name: &str) -> Result<String, String> {
    let mut value: Value = serde_json::from_str(schema).map_err(unreadable)?;
    uuids_as_text(&mut value);
    if value["type"] != "record" {
        value = json!({ "type": "record", "name": "tidemill_value", "fields": [{ "name": name, "type": value }] });
    }
    Ok(value.to_string())
}

/// `schema` with texts for UUIDs that are written as such.
pub(crate) fn with_uuids_as_text(schema: &str) -> Result<String, String> {
    let mut value: Value = serde_json::from_str(schema).map_err(unreadable)?;
    uuids_as_text(&mut value);
    Ok(value.to_string())
}

/// Arrow's reader makes 16 bytes of a UUID; here it is the text that it is in Avro.
fn uuids_as_text(schema: &mut Value) {
    match schema {
        Value::Array(branches) => branches.iter_mut().for_each(uuids_as_text),
        Value::Object(object) => {
            if object.get("type").is_some_and(|of| of == "string") {
                object.shift_remove("logicalType");
            }
            for key in ["type", "items", "values"] {
                object.get_mut(key).into_iter().for_each(uuids_as_text);
            }
            let fields = object.get_mut("fields").and_then(Value::as_array_mut);
            fields.into_iter().flatten().for_each(uuids_as_text);
        }
        _ => {}
    }
}

/// Reads what was written with the record `writer`, behind a frame with the number zero; `columns` are positions of
/// fields of `reader`, or of `writer` without it.
pub(crate) fn decoder(
    writer: &str,
    reader: Option<&str>,
    columns: Option<Vec<usize>>,
) -> Result<Decoder, String> {
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    store.set(Fingerprint::Id(0), AvroSchema::new(writer.to_string())).map_err(unreadable)?;
    let mut builder = ReaderBuilder::new().with_writer_schema_store(store).with_batch_size(usize::MAX);
    if let Some(reader) = reader {
        builder = builder.with_reader_schema(AvroSchema::new(reader.to_string()));
    }
    if let Some(columns) = columns {
        builder = builder.with_projection(columns);
    }
    builder.build_decoder().map_err(unreadable)
}

/// The columns that a schema stands for, in Arrow's types: the fields of a record, or one called `name`.
pub(crate) fn columns_of(schema: &str, name: &str) -> Result<SchemaRef, String> {
    Ok(decoder(&as_record(schema, name)?, None, None)?.schema())
}
