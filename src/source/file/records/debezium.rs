//! Debezium's envelopes: changes of a table as JSON, with or without a schema around them.

use std::ops::Range;

use datafusion::arrow::datatypes::Schema;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// What the format is called.
pub(super) const DEBEZIUM: &str = "debezium-json";

/// What an envelope has.
const FIELDS: &[&str] = &["op", "before", "after", "source", "transaction", "ts_ms", "ts_us", "ts_ns"];

/// Fails unless `columns` are those of envelopes, or take the text of `corrupt` records.
pub(super) fn check(columns: &Schema, corrupt: &str) -> Result<()> {
    let is_strange = |name: &str| !FIELDS.contains(&name) && name != corrupt;
    match columns.fields().iter().find(|field| is_strange(field.name())) {
        None => Ok(()),
        Some(field) => Err(Error::Invalid(format!(
            "a table of {DEBEZIUM} messages has the changes of another table as rows, and not its rows: results so far \
             cannot take back what a change makes untrue. So its columns are {}, with before and after as structs of \
             the columns of that table, and '{}' is none of them. Declare them, and take after['{}']",
            FIELDS.join(", "),
            field.name(),
            field.name()
        ))),
    }
}

/// A message with the schema of its envelope before it (`schemas.enable` of Kafka Connect, on by default).
#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    op: Option<&'a RawValue>,
}

/// Where in `raw` the envelope is of the message in `range`.
pub(super) fn envelope(raw: &[u8], range: Range<usize>) -> Range<usize> {
    let message = &raw[range.clone()];
    match serde_json::from_slice(message) {
        Ok(Wrapped { payload: Some(payload), op: None }) => {
            let start = range.start + (payload.get().as_ptr() as usize - message.as_ptr() as usize);
            start..start + payload.get().len()
        }
        // What it is instead the decoder says.
        _ => range,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_is_found_with_a_schema_around_it_and_without() {
        for (message, expected) in [
            (r#"{"op":"c","after":{"payload":1}}"#, r#"{"op":"c","after":{"payload":1}}"#),
            (r#" {"schema":{"a":[1]}, "payload": {"op":"d"} } "#, r#"{"op":"d"}"#),
            (r#"{"op":"c","payload":{}}"#, r#"{"op":"c","payload":{}}"#),
            ("not json", "not json"),
            (r#"{"schema":null,"payload":null}"#, r#"{"schema":null,"payload":null}"#),
        ] {
            let raw = format!("xx{message}");
            assert_eq!(&raw[envelope(raw.as_bytes(), 2..raw.len())], expected);
        }
    }
}
