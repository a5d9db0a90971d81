//! Rows as messages in Avro's binary encoding.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, BinaryArray, BinaryBuilder, DictionaryArray, Int32Array, RecordBatch, StringArray,
    new_null_array,
};
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::util::display::FormatOptions;
use datafusion::arrow_avro::schema::{
    AVRO_ENUM_SYMBOLS_METADATA_KEY, FingerprintStrategy, SCHEMA_METADATA_KEY,
};
use datafusion::arrow_avro::writer::WriterBuilder;
use datafusion::arrow_avro::writer::format::{AvroBinaryFormat, AvroSoeFormat};
use serde_json::{Value, json};

use crate::avro::{AVRO_SCHEMA, as_record, columns_of};
use crate::error::{Error, Result};
use crate::options::Options;

/// How rows become messages of one schema.
#[derive(Debug, Clone)]
pub(super) struct AvroEncoding {
    /// As it is given and registered.
    pub(super) schema: String,
    /// The columns in the types that Arrow's writer wants.
    target: SchemaRef,
    /// What each message begins with, if it has a frame.
    pub(super) id: Option<u32>,
}

impl AvroEncoding {
    /// The encoding of rows with `columns`; takes its options out of `options`.
    pub(super) fn parse(columns: &Schema, options: &mut Options) -> Result<Self> {
        let given = options.take(AVRO_SCHEMA);
        let name = options.take("recordName").unwrap_or_else(|| "topLevelRecord".into());
        let space = options.take("recordNamespace").unwrap_or_default();
        let schema = match &given {
            Some(schema) => schema.clone(),
            None => Names::default().record(&name, &space, columns.fields())?.to_string(),
        };
        let wrong = |reason: String| match &given {
            Some(schema) => Error::option(AVRO_SCHEMA, schema, reason),
            None => Error::Invalid(format!("rows cannot be written as avro: {reason}")),
        };
        // A schema that is no record's is that of the only column.
        let column = columns.fields().first().map_or("value", |field| field.name());
        let target = columns_of(&schema, column).map_err(wrong)?;
        for field in target.fields() {
            if columns.index_of(field.name()).is_err() && !field.is_nullable() {
                let reason = format!("the result has no column '{}', which may not be null", field.name());
                return Err(wrong(reason));
            }
        }
        if let Some(field) = columns.fields().iter().find(|field| target.index_of(field.name()).is_err()) {
            return Err(wrong(format!(
                "it has no field for the column '{}'. Leave that column out",
                field.name()
            )));
        }
        let record = as_record(&schema, column).map_err(wrong)?;
        let metadata = HashMap::from([(SCHEMA_METADATA_KEY.to_string(), record)]);
        let target = Arc::new(Schema::new_with_metadata(target.fields().clone(), metadata));
        Ok(Self { schema, target, id: None })
    }

    /// A message for each of `rows`.
    pub(super) fn encode(&self, rows: &RecordBatch) -> Result<BinaryArray> {
        let columns = self.target.fields().iter().map(|field| {
            let values = match rows.column_by_name(field.name()) {
                Some(values) => as_written(values, field)?,
                None => new_null_array(field.data_type(), rows.num_rows()),
            };
            match !field.is_nullable() && values.logical_null_count() > 0 {
                true => Err(Error::Invalid(format!(
                    "column '{}' is null in a row, which its Avro schema does not allow. Make the field a union with \
                     null, or filter such rows out",
                    field.name()
                ))),
                false => Ok(values),
            }
        });
        let rows = RecordBatch::try_new(Arc::clone(&self.target), columns.collect::<Result<_>>()?)?;
        let builder = WriterBuilder::new(self.target.as_ref().clone());
        let encoder = match self.id {
            Some(id) => builder
                .with_fingerprint_strategy(FingerprintStrategy::Id(id))
                .build_encoder::<AvroSoeFormat>(),
            None => builder.build_encoder::<AvroBinaryFormat>(),
        };
        let failed = |error| Error::Invalid(format!("rows cannot be written as avro: {error}"));
        let mut encoder = encoder.map_err(failed)?;
        encoder.encode(&rows).map_err(failed)?;
        let encoded = encoder.flush();
        let mut messages = BinaryBuilder::with_capacity(rows.num_rows(), encoded.bytes().len());
        encoded.iter().for_each(|message| messages.append_value(message));
        Ok(messages.finish())
    }
}

/// `values` in the type of `field`.
fn as_written(values: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let unfit = |reason: String| {
        Error::Invalid(format!(
            "column '{}' cannot be written as its Avro schema says: {reason}",
            field.name()
        ))
    };
    if let Some(symbols) = field.metadata().get(AVRO_ENUM_SYMBOLS_METADATA_KEY) {
        let symbols: Vec<String> = serde_json::from_str(symbols).map_err(|error| unfit(error.to_string()))?;
        let texts = cast(values, &DataType::Utf8)?;
        let key = |text: Option<&str>| {
            let Some(text) = text else { return Ok(None) };
            match symbols.iter().position(|symbol| symbol == text).and_then(|at| i32::try_from(at).ok()) {
                Some(key) => Ok(Some(key)),
                None => Err(unfit(format!("'{text}' is none of its symbols ({})", symbols.join(", ")))),
            }
        };
        let keys = texts.as_string::<i32>().iter().map(key).collect::<Result<Int32Array>>()?;
        return Ok(Arc::new(DictionaryArray::try_new(keys, Arc::new(StringArray::from(symbols.clone())))?));
    }
    if values.data_type() == field.data_type() {
        return Ok(Arc::clone(values));
    }
    // What does not fit is an error, not null.
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    cast_with_options(values, field.data_type(), &options).map_err(|error| unfit(error.to_string()))
}

/// Makes a schema of columns. Records that are within others have the names of the way to them.
#[derive(Default)]
struct Names {
    way: Vec<String>,
}

impl Names {
    fn record(&mut self, name: &str, space: &str, fields: &[FieldRef]) -> Result<Value> {
        self.way.push(name.to_string());
        let fields = fields.iter().map(|field| self.field(field)).collect::<Result<Vec<_>>>()?;
        let full = self.way.join("_");
        self.way.pop();
        let mut record = json!({ "type": "record", "name": full });
        if !space.is_empty() {
            record["namespace"] = space.into();
        }
        record["fields"] = fields.into();
        Ok(record)
    }

    fn field(&mut self, field: &Field) -> Result<Value> {
        let name = field.name();
        let is_name = |text: &str| {
            let mut chars = text.chars();
            chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
                && chars.all(|next| next.is_ascii_alphanumeric() || next == '_')
        };
        if !is_name(name) {
            return Err(Error::Invalid(format!(
                "'{name}' is no name that Avro allows (letters, digits and _). Give the column another with AS"
            )));
        }
        Ok(match self.or_null(field)? {
            of if field.is_nullable() => json!({ "name": name, "type": of, "default": null }),
            of => json!({ "name": name, "type": of }),
        })
    }

    fn or_null(&mut self, field: &Field) -> Result<Value> {
        let of = self.kind(field.name(), field.data_type())?;
        Ok(if field.is_nullable() { json!(["null", of]) } else { of })
    }

    fn kind(&mut self, name: &str, data_type: &DataType) -> Result<Value> {
        let logical = |of: &str, logical: &str| Ok(json!({ "type": of, "logicalType": logical }));
        match data_type {
            DataType::Boolean => Ok("boolean".into()),
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => {
                Ok("int".into())
            }
            DataType::Int64 | DataType::UInt32 => Ok("long".into()),
            DataType::Float16 | DataType::Float32 => Ok("float".into()),
            DataType::Float64 => Ok("double".into()),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok("string".into()),
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => Ok("bytes".into()),
            DataType::Date32 | DataType::Date64 => logical("int", "date"),
            DataType::Time32(TimeUnit::Second | TimeUnit::Millisecond) => logical("int", "time-millis"),
            DataType::Time64(_) => logical("long", "time-micros"),
            DataType::Timestamp(TimeUnit::Second | TimeUnit::Millisecond, _) => {
                logical("long", "timestamp-millis")
            }
            // As Spark does; readers of nanoseconds are rare yet.
            DataType::Timestamp(..) => logical("long", "timestamp-micros"),
            DataType::Decimal128(precision, scale) if *scale >= 0 => Ok(
                json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale }),
            ),
            DataType::Dictionary(_, values) => self.kind(name, values),
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                Ok(json!({ "type": "array", "items": self.within(name, item)? }))
            }
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) if fields.len() == 2 && is_text(fields[0].data_type()) => {
                    Ok(json!({ "type": "map", "values": self.within(name, &fields[1])? }))
                }
                _ => Err(cannot(name, data_type, "the keys of Avro's maps are text")),
            },
            DataType::Struct(fields) => self.record(name, "", fields),
            other => Err(cannot(name, other, "Avro has no such type")),
        }
    }

    /// The type of what is in the list or map `name`.
    fn within(&mut self, name: &str, field: &Field) -> Result<Value> {
        let of = self.kind(name, field.data_type())?;
        Ok(if field.is_nullable() { json!(["null", of]) } else { of })
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn cannot(name: &str, data_type: &DataType, why: &str) -> Error {
    Error::Invalid(format!("column '{name}' of type {data_type} cannot be written as avro: {why}. Cast it"))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, TimestampNanosecondArray};

    use super::super::MessageEncoder;
    use super::*;

    fn rows() -> RecordBatch {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let names: ArrayRef = Arc::new(StringArray::from(vec!["up", "down"]));
        let times: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![5_000, 7_999]));
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("mood", DataType::Utf8, false),
            Field::new("at", times.data_type().clone(), false),
        ]);
        RecordBatch::try_new(Arc::new(schema), vec![ids, names, times]).unwrap()
    }

    fn encoder(options: &[(&str, &str)]) -> Result<MessageEncoder> {
        let options = options.iter().copied().collect();
        let state = datafusion::prelude::SessionContext::new().state();
        MessageEncoder::try_new("avro", &rows().schema(), &options, &state)
    }

    #[test]
    fn rows_are_messages_of_a_schema_made_for_them() {
        let encoder = encoder(&[("recordName", "event"), ("recordNamespace", "shop")]).unwrap();
        let messages = encoder.encode(&rows()).unwrap();
        assert_eq!(messages.value(0), [2, 2, 4, b'u', b'p', 10]);
        assert_eq!(messages.value(1), [0, 8, b'd', b'o', b'w', b'n', 14]);
        let schema: Value = serde_json::from_str(encoder.avro_schema().unwrap()).unwrap();
        assert_eq!((&schema["name"], &schema["namespace"]), (&"event".into(), &"shop".into()));
        let framed = encoder.with_schema_id(258).encode(&rows()).unwrap();
        assert_eq!(framed.value(0), [0, 0, 0, 1, 2, 2, 2, 4, b'u', b'p', 10]);
    }

    #[test]
    fn a_given_schema_says_how_values_are_written() {
        let schema = r#"{"type":"record","name":"r","fields":[
            {"name":"mood","type":{"type":"enum","name":"m","symbols":["down","up"]}},
            {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
            {"name":"more","type":["null","int"]},{"name":"id","type":["null","int"]}]}"#;
        let messages = encoder(&[("avroSchema", schema)]).unwrap().encode(&rows()).unwrap();
        assert_eq!((messages.value(0), messages.value(1)), (&[2, 0, 0, 2, 2][..], &[0, 0, 0, 0][..]));
        for (from, to, expected) in [
            (r#"["null","int"]}]"#, r#""int"}]"#, "column 'id' is null in a row"),
            (r#""down","up""#, r#""down""#, "'up' is none of its symbols (down)"),
        ] {
            let schema = schema.replace(from, to);
            let error = encoder(&[("avroSchema", &schema)]).unwrap().encode(&rows()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for (schema, expected) in [
            (schema.replace("\"mood\"", "\"x\""), "no column 'x'"),
            (schema.replace("\"id\"", "\"x\""), "no field for the column 'id'"),
            ("{".into(), "not a schema of Avro's"),
        ] {
            let error = encoder(&[("avroSchema", &schema)]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
