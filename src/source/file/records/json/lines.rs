//! JSON lines.

use std::ops::Range;

use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;

use super::rows::{Rows, reason_of};
use crate::source::file::records::columns::RecordColumns;
use crate::source::file::records::decoder::{Fed, RecordDecoder, Salvaged, Stop, line_end};
use crate::source::file::records::strangers::Strangers;
use crate::source::file::values::ValueRules;

/// Decodes one JSON object per line. Blank lines are no records, as in Spark.
pub(in crate::source::file::records) struct JsonDecoder {
    batch_size: usize,
    rows: Rows,
    lines: u64,
}

/// So many bytes at most go into one batch, so that no column of text becomes too large.
pub(super) const MAX_BATCH_BYTES: usize = 256 << 20;

impl JsonDecoder {
    /// Decodes the decoded ones among `columns`; `strangers` takes other fields.
    pub(in crate::source::file::records) fn new(
        columns: &RecordColumns,
        rules: &ValueRules,
        strangers: Strangers,
        batch_size: usize,
    ) -> Result<Self, ArrowError> {
        Ok(Self { batch_size, rows: Rows::new(columns, rules, strangers)?, lines: 0 })
    }
}

pub(super) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// One row for each of `records`.
pub(super) fn decode(
    rows: &mut Rows,
    raw: &[u8],
    records: &[Range<usize>],
) -> Result<RecordBatch, ArrowError> {
    rows.clear();
    for record in records {
        rows.read(&raw[record.clone()]).map_err(|flaw| ArrowError::JsonError(reason_of(flaw)))?;
    }
    rows.finish()
}

/// What can be made of a malformed record.
pub(super) fn salvage(rows: &mut Rows, record: &[u8]) -> Result<Salvaged, ArrowError> {
    rows.clear();
    let (column, reason) = rows.salvage(record).unwrap_or_else(|| (None, "it cannot be decoded".into()));
    Ok(Salvaged { row: rows.finish()?, column, reason })
}

impl RecordDecoder for JsonDecoder {
    fn feed(&mut self, raw: &[u8], mut next: usize, end: bool) -> Fed {
        loop {
            if self.rows.len() == self.batch_size || next > MAX_BATCH_BYTES {
                return Fed { next, because: Stop::Full };
            }
            let Some(line) = line_end(raw, next, b'\n', end) else {
                return Fed { next, because: Stop::Hungry };
            };
            let text = &raw[next..line];
            if self.rows.read(text).is_err() && !is_blank(text) {
                return Fed { next, because: Stop::Malformed };
            }
            self.lines += 1;
            next = line;
        }
    }

    fn fed_lines(&self) -> Option<u64> {
        Some(self.lines)
    }

    fn flush(&mut self, _raw: &[u8]) -> Result<Option<RecordBatch>, ArrowError> {
        self.lines = 0;
        if self.rows.len() == 0 { Ok(None) } else { self.rows.finish().map(Some) }
    }

    fn reset(&mut self) -> Result<(), ArrowError> {
        self.lines = 0;
        self.rows.clear();
        Ok(())
    }

    fn split(&self, raw: &[u8], end: bool, max: usize) -> Vec<Range<usize>> {
        let mut records = Vec::new();
        let mut start = 0;
        while records.len() < max
            && let Some(line) = line_end(raw, start, b'\n', end)
        {
            if !is_blank(&raw[start..line]) {
                records.push(start..line);
            }
            start = line;
        }
        records
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
    use std::sync::Arc;

    use datafusion::arrow::array::{Array, AsArray};
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;
    use crate::source::file::layout::Apart;

    fn columns(fields: Vec<Field>, required: &[usize]) -> Arc<RecordColumns> {
        let wanted: Vec<usize> = (0..fields.len()).collect();
        let file = Schema::new(fields);
        Arc::new(RecordColumns::new(&file, Apart::default(), required, &wanted, false).unwrap())
    }

    fn decoder(batch_size: usize) -> JsonDecoder {
        let fields = vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)];
        JsonDecoder::new(&columns(fields, &[]), &ValueRules::default(), Strangers::default(), batch_size)
            .unwrap()
    }

    fn a(batch: &RecordBatch) -> Vec<Option<i64>> {
        batch.column(0).as_primitive::<Int64Type>().iter().collect()
    }

    fn decode_all(decoder: &mut JsonDecoder, raw: &str) -> Result<RecordBatch, ArrowError> {
        let records = decoder.split(raw.as_bytes(), true, 10);
        decoder.decode(raw.as_bytes(), &records)
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
            "{\"a\":1,}\n",
            "{\"a\":1 \"b\":\"x\"}\n",
            "{\"a\":1,,\"b\":\"x\"}\n",
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
        assert_eq!(decoder(1).feed(b"{\"b\":\"\xff\"}\n", 0, true).because, Stop::Malformed);
    }

    #[test]
    fn good_fields_of_a_malformed_record_are_kept() {
        let mut decoder = decoder(10);
        let salvaged = decoder.salvage(b"{\"a\":\"x\",\"b\":\"kept\"}\n").unwrap();
        assert_eq!(salvaged.column.as_deref(), Some("a"));
        assert_eq!(salvaged.reason, "'x' cannot be read as BIGINT");
        assert!(salvaged.row.column(0).is_null(0));
        assert_eq!(salvaged.row.column(1).as_string::<i32>().value(0), "kept");

        let broken = decoder.salvage(b"{\"b\":\"lost\"").unwrap();
        assert_eq!((broken.column, broken.row.column(1).is_null(0)), (None, true));
        assert_eq!(broken.reason, "it ends inside of the record");

        let nested = decoder.salvage(b"{\"a\":[1,{\"x\":2}],\"b\":\"kept\"}").unwrap();
        assert_eq!(nested.reason, "a list cannot be read as BIGINT");
        assert_eq!(nested.row.column(1).as_string::<i32>().value(0), "kept");
    }

    #[test]
    fn numbers_are_exact_and_of_repeated_keys_the_last_counts() {
        let mut decoder = decoder(10);
        let rows = decode_all(
            &mut decoder,
            "{\"a\":1,\"a\":2}\n{\"a\":\"3\"}\n{\"a\":4.0}\n{\"a\":5e0,\"a\":null}\n",
        )
        .unwrap();
        assert_eq!(a(&rows), [Some(2), Some(3), Some(4), None]);
        for line in
            ["{\"a\":NaN}", "{\"a\":9223372036854775808}", "{\"a\":true}", "{\"a\":4.9}", "{\"a\":{}}"]
        {
            assert!(decode_all(&mut decoder, line).is_err(), "{line}");
        }
        let text = decode_all(
            &mut decoder,
            "{\"b\":1}\n{\"b\":1.50}\n{\"b\":true}\n{\"b\":{\"x\": [1]}}\n{\"b\":\"\\u00e9\"}\n{\"b\":NaN}",
        )
        .unwrap();
        let texts: Vec<_> = text.column(1).as_string::<i32>().iter().flatten().collect();
        assert_eq!(texts, ["1", "1.50", "true", "{\"x\": [1]}", "é", "NaN"]);
    }

    #[test]
    fn keys_match_without_case_if_that_is_unambiguous() {
        let read = |fields: &[&str], raw: &str| {
            let fields = fields.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
            let mut decoder =
                JsonDecoder::new(&columns(fields, &[]), &ValueRules::default(), Strangers::default(), 10)
                    .unwrap();
            decode_all(&mut decoder, raw).map(|rows| a(&rows))
        };
        assert_eq!(read(&["userid"], "{\"userId\":7}\n{\"USERID\":8}").unwrap(), [Some(7), Some(8)]);
        assert_eq!(read(&["groesse"], "{\"GROESSE\":7}").unwrap(), [Some(7)]);
        assert_eq!(read(&["größe"], "{\"GRÖSSE\":6}\n{\"GRÖßE\":7}").unwrap(), [None, Some(7)]);
        assert_eq!(
            read(&["userid"], "{\"userId\":7,\"userid\":8}\n{\"userid\":8,\"userId\":7}").unwrap(),
            [Some(8), Some(8)]
        );
        assert_eq!(read(&["userid"], "{\"userId\":7,\"userId\":8}").unwrap(), [Some(8)]);
        assert!(read(&["userid"], "{\"userId\":7,\"USERID\":8}").is_err());
        assert_eq!(read(&["A", "a"], "{\"a\":1}\n{\"A\":2}").unwrap(), [None, Some(2)]);
        assert_eq!(read(&["ab", "aB"], "{\"AB\":1}").unwrap(), [None], "it could be either");
        assert_eq!(read(&["a"], "{\"\\u0041\":1}").unwrap(), [Some(1)]);
    }

    #[test]
    fn nested_values() {
        let inner = DataType::Struct(vec![Field::new("x", DataType::Int32, true)].into());
        let map = Field::new_map(
            "m",
            "entries",
            Arc::new(Field::new("key", DataType::Utf8, false)),
            Arc::new(Field::new("value", DataType::Int32, true)),
            false,
            true,
        );
        let fields = vec![
            Field::new("s", inner.clone(), true),
            Field::new("l", DataType::new_list(inner, true), true),
            map,
            Field::new_fixed_size_list("f", Field::new("item", DataType::Int32, true), 2, true),
        ];
        let mut decoder =
            JsonDecoder::new(&columns(fields, &[]), &ValueRules::default(), Strangers::default(), 10)
                .unwrap();
        let rows = decode_all(
            &mut decoder,
            "{\"s\":{\"X\":1,\"y\":{}},\"l\":[{\"x\":2},null,{}],\"m\":{\"k\":3,\"n\":null},\"f\":[4,5]}\n{\"s\":null,\"l\":[],\"m\":{}}\n{}",
        )
        .unwrap();
        let shown = datafusion::arrow::util::pretty::pretty_format_batches(&[rows]).unwrap().to_string();
        assert!(shown.contains("| {x: 1} | [{x: 2}, , {x: }] | {k: 3, n: } | [4, 5] |"), "{shown}");
        assert!(shown.contains("|        | []                | {}          |        |"), "{shown}");
        for line in
            ["{\"s\":[]}", "{\"l\":{}}", "{\"m\":{\"a\":1,\"a\":2}}", "{\"f\":[1]}", "{\"l\":[{\"x\":1.5}]}"]
        {
            assert!(decode_all(&mut decoder, line).is_err(), "{line}");
            let line = format!("{},\"m\":{{\"k\":9}}}}", line.trim_end_matches('}'));
            if let Ok(kept) = decoder.salvage(line.as_bytes()) {
                assert!(kept.column.is_some() || kept.row.column(2).is_null(0), "{line}");
            }
        }
    }

    #[test]
    fn columns_without_nulls() {
        let fields = vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)];
        let mut decoder =
            JsonDecoder::new(&columns(fields, &[0]), &ValueRules::default(), Strangers::default(), 10)
                .unwrap();
        assert!(decode_all(&mut decoder, "{\"a\":1}").is_ok());
        for line in ["{\"a\":null}", "{}", "{\"b\":\"kept\"}", "{\"a\":1,\"a\":null}"] {
            assert!(decode_all(&mut decoder, line).is_err(), "{line}");
        }
        let salvaged = decoder.salvage(b"{\"b\":\"kept\"}").unwrap();
        assert_eq!(salvaged.column.as_deref(), Some("a"));
        assert!(salvaged.reason.contains("NOT NULL"), "{}", salvaged.reason);
        assert_eq!(salvaged.row.column(1).as_string::<i32>().value(0), "kept");
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}\n", "[".repeat(depth), "]".repeat(depth));
        let reason = |line: String| decoder(1).salvage(line.as_bytes()).unwrap().reason;
        assert!(reason(nested(200_000)).contains("deeper than 1000"));
        assert!(reason(nested(1000)).contains("deeper than 1000"));
        assert_eq!(reason(nested(999)), "a list cannot be read as BIGINT");
        let wide = format!("{{\"b\":[{}[]]}}\n", "[],".repeat(5000));
        assert_eq!(decoder(1).feed(wide.as_bytes(), 0, true).because, Stop::Full);
        let text = format!("{{\"b\":\"\\\"{}\"}}\n", "[".repeat(5000));
        assert_eq!(decoder(1).feed(text.as_bytes(), 0, true).because, Stop::Full);
    }

    #[test]
    fn splitting_finds_whole_lines_only() {
        let decoder = decoder(10);
        assert_eq!(decoder.split(b"{}\nx", false, 10), vec![0..3]);
        assert_eq!(decoder.split(b"\n{}\nx", true, 10), vec![1..4, 4..5]);
        assert_eq!(decoder.split(b"{}\n{}\n", true, 1), vec![0..3]);
    }
}
