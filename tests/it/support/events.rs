//! Random input: rows of one table, in files of any format.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
};
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::arrow::ipc::writer::FileWriter;
use datafusion::parquet::arrow::ArrowWriter;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::harness::schema;
use super::oracle::Kind;

/// What the columns of [`Event`]s, and those that queries make of them, are in text files.
pub const COLUMNS: [(&str, Kind); 5] = [
    ("id", Kind::Int),
    ("amount", Kind::Int),
    ("twice", Kind::Int),
    ("flag", Kind::Bool),
    ("ratio", Kind::Float),
];

/// Texts that quoting, escaping and directory names have to get right.
pub const KINDS: [&str; 6] = ["apple", "melon, ripe", "he said \"no\"", "a/b=c", "ü % 100", "zebra"];

/// One row, but for its id, which depends on where it comes to lie.
#[derive(Debug, Clone)]
pub struct Event {
    pub amount: Option<i64>,
    pub kind: Option<&'static str>,
    pub flag: Option<bool>,
    pub ratio: Option<f64>,
    pub tags: Vec<&'static str>,
}

/// Any row.
pub fn event() -> impl Strategy<Value = Event> {
    let text = prop::sample::select(&KINDS[..]);
    let tags = prop::collection::vec(prop::sample::select(&KINDS[..]), 0..3);
    let ratio = prop::option::of((-4..8i32).prop_map(|half| f64::from(half) + 0.5));
    (prop::option::of(-20..20i64), prop::option::of(text), any::<Option<bool>>(), ratio, tags)
        .prop_map(|(amount, kind, flag, ratio, tags)| Event { amount, kind, flag, ratio, tags })
}

/// The columns of a file of `format`; text formats hold no lists.
pub fn event_schema(format: &str) -> SchemaRef {
    let mut columns = vec![
        ("id", DataType::Int64),
        ("amount", DataType::Int64),
        ("kind", DataType::Utf8),
        ("flag", DataType::Boolean),
        ("ratio", DataType::Float64),
    ];
    if format != "csv" {
        columns.push(("tags", DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)))));
    }
    schema(&columns)
}

/// A file of `events`, whose ids are `first_id` and up.
pub fn encode(format: &str, first_id: i64, events: &[Event]) -> Vec<u8> {
    match format {
        "json" => encode_json(first_id, events),
        "csv" => encode_csv(first_id, events),
        "parquet" => {
            let rows = batch(first_id, events);
            let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
            writer.write(&rows).unwrap();
            writer.into_inner().unwrap()
        }
        "arrow" => {
            let rows = batch(first_id, events);
            let mut writer = FileWriter::try_new(Vec::new(), &rows.schema()).unwrap();
            writer.write(&rows).unwrap();
            writer.into_inner().unwrap()
        }
        other => panic!("no encoder for {other}"),
    }
}

fn encode_json(first_id: i64, events: &[Event]) -> Vec<u8> {
    let mut lines = String::new();
    for (event, id) in events.iter().zip(first_id..) {
        let cells: [(&str, Value); 5] = [
            ("amount", json!(event.amount)),
            ("kind", json!(event.kind)),
            ("flag", json!(event.flag)),
            ("ratio", json!(event.ratio)),
            ("tags", json!(event.tags)),
        ];
        let mut row = Map::from_iter([("id".to_string(), json!(id))]);
        // A null may be written or left out.
        let present = cells.into_iter().filter(|(_, value)| !value.is_null() || id % 2 == 0);
        row.extend(present.map(|(name, value)| (name.to_string(), value)));
        lines.push_str(&format!("{}\n", Value::Object(row)));
    }
    lines.into_bytes()
}

fn encode_csv(first_id: i64, events: &[Event]) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["id", "amount", "kind", "flag", "ratio"]).unwrap();
    let text = |value: Option<String>| value.unwrap_or_default();
    for (event, id) in events.iter().zip(first_id..) {
        let cells = [
            id.to_string(),
            text(event.amount.map(|amount| amount.to_string())),
            text(event.kind.map(str::to_string)),
            text(event.flag.map(|flag| flag.to_string())),
            text(event.ratio.map(|ratio| ratio.to_string())),
        ];
        writer.write_record(cells).unwrap();
    }
    writer.into_inner().unwrap()
}

fn batch(first_id: i64, events: &[Event]) -> RecordBatch {
    let mut tags = ListBuilder::new(StringBuilder::new());
    for event in events {
        event.tags.iter().for_each(|tag| tags.values().append_value(tag));
        tags.append(true);
    }
    let last_id = first_id + i64::try_from(events.len()).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(first_id..last_id)),
        Arc::new(events.iter().map(|event| event.amount).collect::<Int64Array>()),
        Arc::new(events.iter().map(|event| event.kind).collect::<StringArray>()),
        Arc::new(events.iter().map(|event| event.flag).collect::<BooleanArray>()),
        Arc::new(events.iter().map(|event| event.ratio).collect::<Float64Array>()),
        Arc::new(tags.finish()),
    ];
    RecordBatch::try_new(event_schema("parquet"), columns).unwrap()
}
