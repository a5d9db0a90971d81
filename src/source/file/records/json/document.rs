//! A JSON document per file (`multiLine`): an array of objects, or a single object.

use std::ops::Range;

use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;

use super::lines::{MAX_BATCH_BYTES, decode, salvage};
use super::rows::Rows;
use super::text::{Broken, Cursor};
use crate::source::file::records::columns::RecordColumns;
use crate::source::file::records::decoder::{Fed, RecordDecoder, Salvaged, Stop};
use crate::source::file::records::strangers::Strangers;
use crate::source::file::values::ValueRules;

/// Where in the document a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Before anything.
    Start,
    /// Behind the `[`.
    First,
    /// Behind an item of the array.
    Next,
    /// Behind the end of the document.
    Closed,
}

/// What comes next in a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// An object, or what stands in the place of one, and the place behind it.
    Item(Range<usize>, Place),
    /// That cannot be told yet.
    Hungry,
    /// Nothing.
    Done,
    /// From this place on it is no JSON document.
    Broken(usize, String),
}

impl Place {
    /// What comes next in `raw` from `at` on; `end` says that nothing follows.
    pub(super) fn step(self, raw: &[u8], at: usize, end: bool) -> Step {
        let mut cursor = Cursor::new(raw, at);
        let Some(byte) = cursor.peek() else { return self.at_end(raw.len(), end) };
        let here = cursor.at();
        match (self, byte) {
            (Place::Closed, _) => {
                return Step::Broken(here, "there is more behind the end of its document. If it holds one object per line, set multiLine to false".into());
            }
            (Place::Start, b'[') => {
                cursor.advance();
                return Place::First.step(raw, cursor.at(), end);
            }
            (Place::Start, b'{') => return item(cursor, Place::Closed, raw, end),
            (Place::Start, _) => {
                return Step::Broken(here, "it holds neither an array of objects nor an object".into());
            }
            (Place::First | Place::Next, b']') => {
                cursor.advance();
                return Place::Closed.step(raw, cursor.at(), end);
            }
            (Place::First, _) => {}
            (Place::Next, b',') => {
                cursor.advance();
                match cursor.peek() {
                    None => return self.at_end(raw.len(), end),
                    Some(b']') => {
                        return Step::Broken(here, "a comma stands before the end of its array".into());
                    }
                    Some(_) => {}
                }
            }
            (Place::Next, _) => {
                return Step::Broken(here, "a comma is missing between two items of its array".into());
            }
        }
        item(cursor, Place::Next, raw, end)
    }

    fn at_end(self, at: usize, end: bool) -> Step {
        match self {
            Place::Closed if end => Step::Done,
            _ if !end => Step::Hungry,
            Place::Start => Step::Broken(at, "it holds no JSON".into()),
            _ => cut(at),
        }
    }
}

fn cut(at: usize) -> Step {
    Step::Broken(at, "it ends in the middle of its document: it was cut, or is still being written".into())
}

fn item(mut cursor: Cursor<'_>, then: Place, raw: &[u8], end: bool) -> Step {
    let start = cursor.at();
    let is_nested = matches!(raw.get(start), Some(b'{' | b'['));
    match cursor.skip() {
        // A number or word may go on.
        Ok(()) if !is_nested && !end && cursor.at() == raw.len() => Step::Hungry,
        Ok(()) => Step::Item(start..cursor.at(), then),
        Err(Broken::Ended) if end => cut(raw.len()),
        Err(Broken::Ended) => Step::Hungry,
        Err(Broken::Wrong(reason)) => Step::Broken(cursor.at().min(raw.len()), reason),
    }
}

/// Decodes the objects of one document.
pub(in crate::source::file::records) struct DocumentDecoder {
    batch_size: usize,
    rows: Rows,
    /// Where the bytes begin that were not flushed yet, and where those that were not fed.
    start: Place,
    place: Place,
}

impl DocumentDecoder {
    /// Decodes the decoded ones among `columns`; `strangers` takes other fields.
    pub(in crate::source::file::records) fn new(
        columns: &RecordColumns,
        rules: &ValueRules,
        strangers: Strangers,
        batch_size: usize,
    ) -> Result<Self, ArrowError> {
        let rows = Rows::new(columns, rules, strangers)?;
        Ok(Self { batch_size, rows, start: Place::Start, place: Place::Start })
    }
}

impl RecordDecoder for DocumentDecoder {
    fn feed(&mut self, raw: &[u8], mut next: usize, end: bool) -> Fed {
        loop {
            if self.rows.len() == self.batch_size || next > MAX_BATCH_BYTES {
                return Fed { next, because: Stop::Full };
            }
            match self.place.step(raw, next, end) {
                Step::Item(item, then) => {
                    if self.rows.read(&raw[item.clone()]).is_err() {
                        return Fed { next, because: Stop::Malformed };
                    }
                    self.place = then;
                    next = item.end;
                }
                Step::Hungry => return Fed { next, because: Stop::Hungry },
                Step::Done => return Fed { next: raw.len(), because: Stop::Hungry },
                Step::Broken(at, reason) => return Fed { next, because: Stop::Broken(at, reason) },
            }
        }
    }

    fn flush(&mut self, _raw: &[u8]) -> Result<Option<RecordBatch>, ArrowError> {
        self.start = self.place;
        if self.rows.len() == 0 { Ok(None) } else { self.rows.finish().map(Some) }
    }

    fn reset(&mut self) -> Result<(), ArrowError> {
        self.place = self.start;
        self.rows.clear();
        Ok(())
    }

    fn split(&self, raw: &[u8], end: bool, max: usize) -> Vec<Range<usize>> {
        let mut records: Vec<Range<usize>> = Vec::new();
        let mut place = self.start;
        while records.len() < max
            && let Step::Item(item, then) = place.step(raw, records.last().map_or(0, |last| last.end), end)
        {
            records.push(item);
            place = then;
        }
        records
    }

    fn passed(&mut self, raw: &[u8]) {
        let is_object = self.start == Place::Start && Cursor::new(raw, 0).peek() == Some(b'{');
        self.start = if is_object { Place::Closed } else { Place::Next };
        self.place = self.start;
    }

    fn finds_breaks(&self) -> bool {
        true
    }

    fn decode(&mut self, raw: &[u8], records: &[Range<usize>]) -> Result<RecordBatch, ArrowError> {
        decode(&mut self.rows, raw, records)
    }

    fn salvage(&mut self, record: &[u8]) -> Result<Salvaged, ArrowError> {
        salvage(&mut self.rows, record)
    }

    fn found(&self) -> Option<Vec<usize>> {
        Some(self.rows.found().collect())
    }

    fn strangers(&mut self) -> Vec<String> {
        self.rows.strangers()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The items of a document that comes in pieces of `step` bytes.
    fn items(text: &str, step: usize) -> Result<Vec<String>, String> {
        let (mut place, mut at, mut known) = (Place::Start, 0, step.min(text.len()));
        let mut items = Vec::new();
        loop {
            match place.step(&text.as_bytes()[..known], at, known == text.len()) {
                Step::Item(item, then) => {
                    items.push(text[item.clone()].to_string());
                    (place, at) = (then, item.end);
                }
                Step::Hungry => known = (known + step).min(text.len()),
                Step::Done => return Ok(items),
                Step::Broken(_, reason) => return Err(reason),
            }
        }
    }

    #[test]
    fn documents_are_arrays_or_objects() {
        for (text, expected) in [
            ("[]", vec![]),
            (" [ ]\n", vec![]),
            ("[{\"a\":1},\n {\"a\":[2,3]} ]\n", vec!["{\"a\":1}", "{\"a\":[2,3]}"]),
            ("{\"a\":\n[1,{}]}\n", vec!["{\"a\":\n[1,{}]}"]),
            ("[12,null,\"]\"]", vec!["12", "null", "\"]\""]),
        ] {
            for step in 1..=text.len() {
                assert_eq!(items(text, step).unwrap(), expected, "{text} {step}");
            }
        }
    }

    #[test]
    fn anything_else_is_an_error_however_the_bytes_come() {
        for (text, reason) in [
            ("", "no JSON"),
            (" \n", "no JSON"),
            ("x", "neither an array"),
            ("7", "neither an array"),
            ("[{\"a\":1}", "cut"),
            ("[{\"a\":1},", "cut"),
            ("[{\"a\":", "cut"),
            ("{\"a\":1", "cut"),
            ("[{}][{}]", "more behind"),
            ("{}\n{}", "set multiLine to false"),
            ("[{}] x", "more behind"),
            ("[{},]", "comma stands"),
            ("[{} {}]", "comma is missing"),
            ("[{\"a\" 1}]", "expected a colon"),
            ("[,{}]", "expected a value"),
        ] {
            for step in 1..=text.len().max(1) {
                let error = items(text, step).unwrap_err();
                assert!(error.contains(reason), "{text} {step}: {error}");
            }
        }
    }
}
