//! JSON lines.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatchOptions, new_null_array};
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::ReaderBuilder;
use datafusion::arrow::json::reader::Decoder;
use datafusion::arrow::record_batch::RecordBatch;

use super::decoder::{Fed, RecordDecoder, Salvaged, Stop, line_end, reason};

/// Decodes one JSON object per line. Blank lines are no records, as in Spark.
///
/// Arrow's decoder takes white space between objects for what it is, whether it holds a line break
/// or not; this one gives it one line at a time, so that what a record is does not depend on where a
/// file is cut.
pub(super) struct JsonDecoder {
    schema: SchemaRef,
    batch_size: usize,
    decoder: Decoder,
    rows: usize,
    lines: u64,
}

impl JsonDecoder {
    /// Decodes the columns of `schema`; other fields are passed over.
    pub(super) fn new(schema: SchemaRef, batch_size: usize) -> Result<Self, ArrowError> {
        let decoder = build(&schema, batch_size)?;
        Ok(Self { schema, batch_size, decoder, rows: 0, lines: 0 })
    }
}

fn build(schema: &SchemaRef, batch_size: usize) -> Result<Decoder, ArrowError> {
    ReaderBuilder::new(Arc::clone(schema)).with_batch_size(batch_size).build_decoder()
}

/// Objects and lists within one another, at most; as many as Spark's parser takes.
const MAX_DEPTH: usize = 1000;

/// Whether the line is nested so deep that describing it, which Arrow does recursively, could
/// exhaust the stack.
fn is_too_deep(line: &[u8]) -> bool {
    // Nearly all lines are told to be harmless without looking at their structure.
    if line.len() <= MAX_DEPTH
        || memchr::memchr2_iter(b'{', b'[', line).take(MAX_DEPTH + 1).count() <= MAX_DEPTH
    {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// Takes in one line: whether it held a record.
fn take_line(decoder: &mut Decoder, line: &[u8]) -> Result<bool, ArrowError> {
    if is_too_deep(line) {
        return Err(ArrowError::JsonError(format!("the record is nested deeper than {MAX_DEPTH} levels")));
    }
    let before = decoder.len();
    let taken = decoder.decode(line)?;
    if decoder.has_partial_record() {
        return Err(ArrowError::JsonError("the line ends inside of the record".into()));
    }
    if taken < line.len() || decoder.len() > before + 1 {
        return Err(ArrowError::JsonError("there is more on the line than one record".into()));
    }
    Ok(decoder.len() > before)
}

impl RecordDecoder for JsonDecoder {
    fn feed(&mut self, raw: &[u8], mut next: usize, end: bool) -> Fed {
        loop {
            if self.rows == self.batch_size {
                return Fed { next, because: Stop::Full };
            }
            let Some(line) = line_end(raw, next, b'\n', end) else {
                return Fed { next, because: Stop::Hungry };
            };
            match take_line(&mut self.decoder, &raw[next..line]) {
                Ok(record) => self.rows += usize::from(record),
                Err(_) => return Fed { next, because: Stop::Malformed },
            }
            self.lines += 1;
            next = line;
        }
    }

    fn fed_lines(&self) -> Option<u64> {
        Some(self.lines)
    }

    fn flush(&mut self, _raw: &[u8]) -> Result<Option<RecordBatch>, ArrowError> {
        (self.rows, self.lines) = (0, 0);
        self.decoder.flush()
    }

    fn reset(&mut self) -> Result<(), ArrowError> {
        (self.rows, self.lines) = (0, 0);
        self.decoder = build(&self.schema, self.batch_size)?;
        Ok(())
    }

    fn split(&self, raw: &[u8], end: bool, max: usize) -> Vec<Range<usize>> {
        let mut records = Vec::new();
        let mut start = 0;
        while records.len() < max
            && let Some(line) = line_end(raw, start, b'\n', end)
        {
            if !raw[start..line].iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) {
                records.push(start..line);
            }
            start = line;
        }
        records
    }

    fn decode(&self, raw: &[u8], records: &[Range<usize>]) -> Result<RecordBatch, ArrowError> {
        let mut decoder = build(&self.schema, records.len())?;
        for record in records {
            take_line(&mut decoder, &raw[record.clone()])?;
        }
        match decoder.flush()? {
            Some(rows) if rows.num_rows() == records.len() => Ok(rows),
            _ => Err(ArrowError::JsonError("the line holds no record".into())),
        }
    }

    fn salvage(&self, record: &[u8]) -> Result<Salvaged, ArrowError> {
        let whole = decode_fields(record, Arc::new(Schema::empty()));
        let mut first_bad = whole.as_ref().err().map(|error| (None, reason(error)));
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            let value = match &whole {
                Ok(_) => decode_field(record, field),
                Err(_) => Ok(new_null_array(field.data_type(), 1)),
            };
            columns.push(value.unwrap_or_else(|error| {
                first_bad.get_or_insert_with(|| (Some(field.name().clone()), field_reason(field, &error)));
                new_null_array(field.data_type(), 1)
            }));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let row = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        let (column, reason) = first_bad.unwrap_or_else(|| (None, "it cannot be decoded".into()));
        Ok(Salvaged { row, column, reason })
    }
}

fn decode_field(record: &[u8], field: &FieldRef) -> Result<ArrayRef, ArrowError> {
    let row = decode_fields(record, Arc::new(Schema::new(vec![Arc::clone(field)])))?;
    Ok(Arc::clone(row.column(0)))
}

fn decode_fields(record: &[u8], schema: SchemaRef) -> Result<RecordBatch, ArrowError> {
    let mut decoder = build(&schema, 1)?;
    take_line(&mut decoder, record)?;
    decoder.flush()?.ok_or_else(|| ArrowError::JsonError("the line holds no record".into()))
}

/// Arrow says which field it was decoding; so does [`Salvaged::column`].
fn field_reason(field: &FieldRef, error: &ArrowError) -> String {
    let text = reason(error);
    let prefix = format!("whilst decoding field '{}': ", field.name());
    text.strip_prefix(&prefix).unwrap_or(&text).to_string()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type};

    use super::*;

    fn decoder(batch_size: usize) -> JsonDecoder {
        let schema =
            Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)]);
        JsonDecoder::new(Arc::new(schema), batch_size).unwrap()
    }

    fn a(batch: &RecordBatch) -> Vec<Option<i64>> {
        batch.column(0).as_primitive::<Int64Type>().iter().collect()
    }

    #[test]
    fn lines_are_records() {
        let mut decoder = decoder(2);
        let raw = b"{\"a\":1}\n\n  \r\n{\"a\":2,\"x\":[{}]}\r\n{\"a\":3}";
        let full = decoder.feed(raw, 0, false);
        assert_eq!(full.because, Stop::Full);
        assert_eq!(a(&decoder.flush(&raw[..full.next]).unwrap().unwrap()), [Some(1), Some(2)]);
        let hungry = decoder.feed(raw, full.next, false);
        assert_eq!(hungry, Fed { next: full.next, because: Stop::Hungry });
        assert_eq!(decoder.feed(raw, full.next, true), Fed { next: raw.len(), because: Stop::Hungry });
        assert_eq!(a(&decoder.flush(&raw[full.next..]).unwrap().unwrap()), [Some(3)]);
        assert!(decoder.flush(b"").unwrap().is_none());
    }

    #[test]
    fn what_is_not_one_object_on_one_line_is_malformed() {
        for line in [
            "{\"a\":1}{\"a\":2}\n",
            "{\"a\":1} x\n",
            "{\"a\":\n",
            "7\n",
            "null\n",
            "[{\"a\":1}]\n",
            "\"text\"\n",
            "{\"a\":1}\n{\"a\"",
            "{'a':1}\n",
            "\u{feff}{\"a\":1}\n",
            "{\"b\":\"\\ud800\"}\n",
        ] {
            let mut decoder = decoder(10);
            let fed = decoder.feed(line.as_bytes(), 0, true);
            let malformed = fed.because == Stop::Malformed || decoder.flush(line.as_bytes()).is_err();
            assert!(malformed, "{line}");
        }
        // A full batch does not hide the second record of its last line.
        let raw = b"{\"a\":1}{\"a\":2}\n";
        assert_eq!(decoder(1).feed(raw, 0, true).because, Stop::Malformed);
    }

    #[test]
    fn good_fields_of_a_malformed_record_are_kept() {
        let decoder = decoder(10);
        let salvaged = decoder.salvage(b"{\"a\":\"x\",\"b\":\"kept\"}\n").unwrap();
        assert_eq!(salvaged.column.as_deref(), Some("a"));
        assert_eq!(salvaged.reason, "failed to parse \"x\" as Int64");
        assert!(salvaged.row.column(0).is_null(0));
        assert_eq!(salvaged.row.column(1).as_string::<i32>().value(0), "kept");

        let broken = decoder.salvage(b"{\"b\":\"lost\"").unwrap();
        assert_eq!((broken.column, broken.row.column(1).is_null(0)), (None, true));
        assert_eq!(broken.reason, "the line ends inside of the record");
    }

    #[test]
    fn numbers_and_repeated_keys_are_taken_as_datafusion_takes_them() {
        let decoder = decoder(10);
        let raw = b"{\"a\":1,\"a\":2}\n{\"a\":\"3\"}\n{\"a\":4.0}\n";
        let rows = decoder.decode(raw, &decoder.split(raw, true, 10)).unwrap();
        assert_eq!(a(&rows), [Some(2), Some(3), Some(4)]);
        for line in ["{\"a\":NaN}\n", "{\"a\":9223372036854775808}\n", "{\"b\":1}\n", "{\"a\":true}\n"] {
            assert!(
                decoder.decode(line.as_bytes(), &decoder.split(line.as_bytes(), true, 1)).is_err(),
                "{line}"
            );
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}\n", "[".repeat(depth), "]".repeat(depth));
        assert!(is_too_deep(nested(200_000).as_bytes()));
        assert!(is_too_deep(nested(1000).as_bytes()));
        assert!(!is_too_deep(nested(999).as_bytes()));
        let wide = format!("{{\"a\":[{}[]]}}\n", "[],".repeat(5000));
        assert!(!is_too_deep(wide.as_bytes()));
        let text = format!("{{\"b\":\"\\\"{}\"}}\n", "[".repeat(5000));
        assert!(!is_too_deep(text.as_bytes()));
        let line = nested(200_000);
        assert_eq!(decoder(1).feed(line.as_bytes(), 0, true).because, Stop::Malformed);
        assert!(decoder(1).salvage(line.as_bytes()).unwrap().reason.contains("deeper than 1000"));
    }

    #[test]
    fn splitting_finds_whole_lines_only() {
        let decoder = decoder(10);
        assert_eq!(decoder.split(b"{}\nx", false, 10), vec![0..3]);
        assert_eq!(decoder.split(b"\n{}\nx", true, 10), vec![1..4, 4..5]);
        assert_eq!(decoder.split(b"{}\n{}\n", true, 1), vec![0..3]);
    }
}
