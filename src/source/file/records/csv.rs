//! Comma-separated values.

use std::ops::Range;
use std::sync::Arc;

use csv_core::Reader;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatchOptions, new_null_array};
use datafusion::arrow::csv::reader::Decoder;
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;

use super::columns::RecordColumns;
pub(in crate::source::file) use super::csv_dialect::CsvDialect;
use super::csv_dialect::CsvFields;
use super::csv_feeding::{Reused, finish, take_record};
use super::csv_fields::{FieldPlan, as_read, is_read_exactly};
use super::decoder::{Fed, RecordDecoder, Salvaged, Stop, line_end, no_value, reason, shorten};
use super::strangers::{Strangers, json_text};
use crate::source::file::values::{Scalar, ValueRules, cannot_be_read, leaf};

/// As many records as are decoded at once where one of them may be malformed.
const TOGETHER: usize = 64;

/// Decodes CSV records, whose fields are named by a header or found by position. Unless the dialect says that every line is a record, quoted
/// values may hold line breaks.
pub(super) struct CsvDecoder {
    dialect: Arc<CsvDialect>,
    columns: Arc<RecordColumns>,
    rules: ValueRules,
    /// The fields of a record.
    plan: FieldPlan,
    strangers: Strangers,
    batch_size: usize,
    decoder: Decoder,
    /// Whether the decoder knows that nothing follows.
    finished: bool,
    /// Lines taken in since the last flush, where lines are records.
    lines: u64,
    /// What malformed records are found with among others, and taken apart.
    careful: Reused,
    tokenizer: Reader,
    /// What reads a single field of each decoded column.
    fields: Vec<Reused>,
}

/// Whether CSV fields can be read as `data_type`.
pub(in crate::source::file) fn can_be_read(data_type: &DataType) -> bool {
    leaf(data_type, &ValueRules::default()).is_some()
}

/// The values of `texts`; the error says what is wrong with the first that is none.
fn typed(texts: &ArrayRef, data_type: &DataType, rules: &ValueRules) -> Result<ArrayRef, ArrowError> {
    let mut values = leaf(data_type, rules)
        .ok_or_else(|| ArrowError::NotYetImplemented(format!("CSV fields as {data_type}")))?;
    for text in texts.as_string::<i32>() {
        match text.map(Scalar::Text) {
            Some(text) => values
                .push(text)
                .map_err(|why| ArrowError::ParseError(shorten(&cannot_be_read(text, data_type, why))))?,
            None => values.push_null(),
        }
    }
    Ok(values.finish())
}

impl CsvDecoder {
    /// Decodes the decoded ones among `columns`; `strangers` takes other fields.
    pub(super) fn new(
        dialect: Arc<CsvDialect>,
        columns: Arc<RecordColumns>,
        rules: ValueRules,
        strangers: Strangers,
        batch_size: usize,
    ) -> Self {
        let plan = FieldPlan::by_position(&columns);
        let decoder = dialect.decoder(&plan.schema, &plan.read, batch_size);
        let tokenizer = dialect.tokenizer();
        let fields = columns.decoded.iter().map(|_| Reused::default()).collect();
        Self {
            dialect,
            columns,
            rules,
            plan,
            strangers,
            batch_size,
            decoder,
            finished: false,
            lines: 0,
            careful: Reused::default(),
            tokenizer,
            fields,
        }
    }

    /// The rows of what Arrow's decoder read.
    fn rows(&mut self, read: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let wanted = &self.columns.decoded_schema;
        let columns = self.plan.places.iter().zip(wanted.fields()).map(|(place, field)| {
            let Some(column) = place.map(|place| read.column(place)) else {
                return Ok(new_null_array(field.data_type(), read.num_rows()));
            };
            if is_read_exactly(field.data_type()) {
                return Ok(Arc::clone(column));
            }
            typed(column, field.data_type(), &self.rules)
        });
        let mut columns = columns.collect::<Result<Vec<_>, _>>()?;
        if self.columns.are_rescued() {
            let fields = self.plan.rescued.iter();
            let fields: Vec<_> =
                fields.map(|(name, place)| (name, read.column(*place).as_string::<i32>())).collect();
            for row in 0..read.num_rows() {
                self.strangers.begin_row();
                for (name, texts) in fields.iter().filter(|(_, texts)| texts.is_valid(row)) {
                    self.strangers.keep(name, &json_text(texts.value(row)));
                }
                self.strangers.end_row();
            }
            columns.extend(self.strangers.finish());
        }
        if let Some(column) = self.columns.required.iter().find(|column| columns[**column].null_count() > 0) {
            return Err(ArrowError::CsvError(no_value(wanted.field(*column).name())));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(read.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(wanted), columns, &options)
    }

    /// Takes in whatever comes, finding records by quotes.
    fn feed_records(&mut self, raw: &[u8], mut next: usize, end: bool) -> Result<Fed, ArrowError> {
        while self.decoder.capacity() > 0 {
            if next == raw.len() {
                if end && !self.finished {
                    self.finished = true;
                    finish(&mut self.decoder, self.dialect.terminator())?;
                }
                return Ok(Fed { next, because: Stop::Hungry });
            }
            next += self.decoder.decode(&raw[next..])?;
        }
        Ok(Fed { next, because: Stop::Full })
    }

    /// Takes in lines, each of which must be a record.
    fn feed_lines(&mut self, raw: &[u8], mut next: usize, end: bool) -> Result<Fed, ArrowError> {
        while self.decoder.capacity() > 0 {
            let Some(line) = line_end(raw, next, self.dialect.terminator(), end) else {
                return Ok(Fed { next, because: Stop::Hungry });
            };
            if !self.dialect.is_no_record(&raw[next..line]) {
                take_record(&mut self.decoder, &self.dialect, &raw[next..line])?;
            }
            self.lines += 1;
            next = line;
        }
        Ok(Fed { next, because: Stop::Full })
    }

    /// The value of the decoded column numbered `decoded`.
    fn parse_field(
        &mut self,
        decoded: usize,
        field: &FieldRef,
        text: Option<&Vec<u8>>,
    ) -> Result<ArrayRef, String> {
        let Some(text) = text else { return Ok(new_null_array(field.data_type(), 1)) };
        let Ok(text) = std::str::from_utf8(text) else { return Err(not_text(text)) };
        let quoted = format!("\"{}\"\n", text.replace('"', "\"\""));
        let make = || self.dialect.field_decoder(Arc::new(Schema::new(vec![as_read(field)])));
        let parsed =
            self.fields[decoded].read(1, make, |decoder| decoder.decode(quoted.as_bytes()).map(drop));
        let text = Scalar::Text(text);
        let Ok(Some(row)) = parsed else {
            return Err(shorten(&cannot_be_read(text, field.data_type(), "")));
        };
        if is_read_exactly(field.data_type()) {
            return Ok(Arc::clone(row.column(0)));
        }
        typed(row.column(0), field.data_type(), &self.rules).map_err(|error| reason(&error))
    }

    /// Why a record as a whole is malformed.
    fn shape_error(&self, record: &CsvFields) -> Option<String> {
        let columns = self.plan.schema.fields().len();
        let fields = record.fields.len();
        if !record.closed && self.dialect.has_line_records() {
            return Some(
                "a quote is not closed on the line. Set multiLine to true if values hold line breaks".into(),
            );
        }
        if !record.closed {
            return Some("a quote is not closed before the end of the file".into());
        }
        if !record.whole {
            return Some("the line holds a carriage return, which ends a record".into());
        }
        let good = fields == columns || (fields < columns && self.dialect.allows_truncated_rows());
        let whose = if columns == self.columns.record.fields().len() { "table" } else { "header" };
        (!good).then(|| format!("the record has {fields} fields and the {whose} {columns} columns"))
    }

    /// The first field that is no text: its column and what is wrong.
    fn encoding_error(&self, record: &CsvFields) -> Option<(Option<String>, String)> {
        record.fields.iter().zip(self.plan.schema.fields()).find_map(|(text, column)| {
            let reason = std::str::from_utf8(text).err().map(|_| not_text(text))?;
            Some((Some(column.name().clone()), reason))
        })
    }
}

fn not_text(bytes: &[u8]) -> String {
    format!("'{}' is not valid UTF-8", shorten(&String::from_utf8_lossy(bytes)))
}

impl RecordDecoder for CsvDecoder {
    fn header(&mut self, raw: &[u8], end: bool) -> Result<Option<usize>, String> {
        let Some((length, names)) = self.dialect.header(raw, end) else { return Ok(None) };
        if !names.is_empty() {
            self.plan = FieldPlan::by_name(&self.columns, &names)?;
            self.plan.strangers.iter().for_each(|name| self.strangers.note(name));
            self.decoder = self.dialect.decoder(&self.plan.schema, &self.plan.read, self.batch_size);
            self.careful = Reused::default();
        }
        Ok(Some(length))
    }

    fn needs_header(&self) -> bool {
        self.dialect.has_names()
    }

    fn found(&self) -> Option<Vec<usize>> {
        let columns = self.columns.decoded_schema.fields().len();
        let is_found = |column: &usize| self.plan.places.get(*column).is_none_or(Option::is_some);
        self.plan.is_by_name.then(|| (0..columns).filter(is_found).collect())
    }

    fn strangers(&mut self) -> Vec<String> {
        self.strangers.names().map(str::to_string).collect()
    }

    fn feed(&mut self, raw: &[u8], next: usize, end: bool) -> Fed {
        let fed = if self.dialect.has_line_records() {
            self.feed_lines(raw, next, end)
        } else {
            self.feed_records(raw, next, end)
        };
        fed.unwrap_or(Fed { next, because: Stop::Malformed })
    }

    fn fed_lines(&self) -> Option<u64> {
        self.dialect.has_line_records().then_some(self.lines)
    }

    fn flush(&mut self, _raw: &[u8]) -> Result<Option<RecordBatch>, ArrowError> {
        self.lines = 0;
        let read = self.decoder.flush()?;
        read.map(|read| self.rows(&read)).transpose()
    }

    fn reset(&mut self) -> Result<(), ArrowError> {
        self.decoder = self.dialect.decoder(&self.plan.schema, &self.plan.read, self.batch_size);
        self.finished = false;
        self.lines = 0;
        Ok(())
    }

    fn split(&self, raw: &[u8], end: bool, max: usize) -> Vec<Range<usize>> {
        self.dialect.split(raw, end, max)
    }

    fn decode(&mut self, raw: &[u8], records: &[Range<usize>]) -> Result<RecordBatch, ArrowError> {
        let (dialect, plan) = (&self.dialect, &self.plan);
        let make = || dialect.decoder(&plan.schema, &plan.read, records.len().max(TOGETHER));
        let read = self.careful.read(records.len(), make, |decoder| {
            let mut all = records.iter().map(|record| &raw[record.clone()]);
            all.try_for_each(|record| take_record(decoder, dialect, record))
        })?;
        self.rows(&read.ok_or_else(|| ArrowError::CsvError("there is no record".into()))?)
    }

    /// Missing fields are null and surplus ones dropped, as in Spark (`UnivocityParser`).
    fn salvage(&mut self, record: &[u8]) -> Result<Salvaged, ArrowError> {
        let record = self.dialect.fields_by(&mut self.tokenizer, record);
        let shape = self.shape_error(&record).map(|reason| (None, reason));
        let mut first_bad = shape.or_else(|| self.encoding_error(&record));
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.columns.decoded.len());
        let table = Arc::clone(&self.columns);
        for (decoded, index) in table.decoded.iter().enumerate() {
            let field = &table.record.fields()[*index];
            let place = self.plan.field_of(decoded).filter(|_| record.closed);
            let text = place.and_then(|place| record.fields.get(place));
            columns.push(self.parse_field(decoded, field, text).unwrap_or_else(|reason| {
                first_bad.get_or_insert_with(|| (Some(field.name().clone()), reason));
                new_null_array(field.data_type(), 1)
            }));
        }
        if self.columns.are_rescued() {
            // What is malformed is kept as a whole, if at all.
            columns.push(new_null_array(&DataType::Utf8, 1));
        }
        let schema = Arc::clone(&self.columns.decoded_schema);
        let mut required = self.columns.required.iter();
        let first_bad = first_bad.or_else(|| {
            let name = schema.field(*required.find(|column| columns[**column].is_null(0))?).name();
            Some((Some(name.clone()), no_value(name)))
        });
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let row = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let (column, reason) = first_bad.unwrap_or_else(|| (None, "it cannot be decoded".into()));
        Ok(Salvaged { row, column, reason })
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type};
    use datafusion::common::config::{ConfigOptions, CsvOptions};

    use super::*;
    use crate::source::file::layout::Apart;

    fn decoder(options: CsvOptions, batch_size: usize) -> CsvDecoder {
        let schema =
            Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)]);
        let dialect = CsvDialect::new(&options, &ConfigOptions::default(), false).unwrap();
        let columns = Arc::new(RecordColumns::new(&schema, Apart::default(), &[], &[0, 1], false).unwrap());
        let strangers = Strangers::new(None);
        CsvDecoder::new(Arc::new(dialect), columns, ValueRules::default(), strangers, batch_size)
    }

    fn plain() -> CsvOptions {
        CsvOptions { has_header: Some(false), ..CsvOptions::default() }
    }

    fn lines() -> CsvOptions {
        CsvOptions { newlines_in_values: Some(false), ..plain() }
    }

    /// Feeds everything in pieces of `step` bytes; `Err` if a record is malformed.
    fn read(options: CsvOptions, text: &str, batch_size: usize, step: usize) -> Result<Vec<String>, String> {
        let mut decoder = decoder(options, batch_size);
        let (mut rows, mut start, mut next, mut known) = (Vec::new(), 0, 0, 0);
        loop {
            let end = known == text.len();
            let raw = &text.as_bytes()[start..known];
            let fed = decoder.feed(raw, next - start, end);
            next = start + fed.next;
            if fed.because == Stop::Malformed {
                return Err("malformed".into());
            }
            if fed.because == Stop::Full || end {
                let batch = decoder.flush(&raw[..fed.next]).map_err(|error| error.to_string())?;
                for row in 0..batch.as_ref().map_or(0, RecordBatch::num_rows) {
                    let batch = batch.as_ref().unwrap();
                    let a = batch.column(0).as_primitive::<Int64Type>();
                    let b = batch.column(1).as_string::<i32>();
                    rows.push(format!("{}|{}", a.value(row), b.value(row)));
                }
                start = next;
            }
            if fed.because == Stop::Hungry {
                if end {
                    return Ok(rows);
                }
                known = (known + step).min(text.len());
            }
        }
    }

    #[test]
    fn records_do_not_depend_on_how_the_bytes_come() {
        let text = "1,x\r\n2,\"y\r\nz\"\r\n\r\n3,\"a \"\"b\"\"\"\n4,ü";
        let expected = ["1|x", "2|y\r\nz", "3|a \"b\"", "4|ü"];
        for batch_size in 1..5 {
            for step in 1..text.len() {
                assert_eq!(read(plain(), text, batch_size, step).unwrap(), expected, "{batch_size} {step}");
            }
        }
        let text = "1,x\r\n\n2,\"y\"\r\n3,z";
        for batch_size in 1..5 {
            for step in 1..text.len() {
                assert_eq!(read(lines(), text, batch_size, step).unwrap(), ["1|x", "2|y", "3|z"]);
            }
        }
    }

    #[test]
    fn malformed_records() {
        for text in ["1\n", "1,a,b\n", "x,a\n", "1,\"open\n2,b\n", "1,\"open", "1,\"open\n"] {
            assert!(read(plain(), text, 10, 100).is_err(), "{text}");
            assert!(read(lines(), text, 10, 100).is_err(), "{text}");
        }
        for text in ["1,\"a\nb\"\n", "1,a\r2,b\n", "1,a\r2,b", "1,a\r2,\"b"] {
            assert!(read(lines(), text, 10, 100).is_err(), "{text}");
        }
        assert_eq!(read(plain(), "1,\"a\nb\"\n2,c\r3,d", 10, 100).unwrap(), ["1|a\nb", "2|c", "3|d"]);
        assert_eq!(read(lines(), "1,\"a\rb\"\r\n2,c\r\r\n", 10, 100).unwrap(), ["1|a\rb", "2|c"]);
    }

    #[test]
    fn splitting_and_decoding_agree_with_reading() {
        let text = b"\n1,x\r\n2,\"y\nz\"\n3,w";
        let mut decoder = decoder(plain(), 10);
        let records = decoder.split(text, true, 10);
        assert_eq!(records.len(), 3);
        assert_eq!(decoder.decode(text, &records).unwrap().num_rows(), 3);
        for record in &records {
            assert_eq!(decoder.decode(text, std::slice::from_ref(record)).unwrap().num_rows(), 1);
        }
        assert_eq!(decoder.split(text, false, 10).len(), 2, "the last one may go on");
        assert_eq!(decoder.split(text, true, 1).len(), 1);
        assert!(decoder.split(b"\r\n", true, 10).is_empty());
    }

    #[test]
    fn what_can_be_kept_of_malformed_records() {
        let mut decoder = decoder(plain(), 10);
        for (record, a, b, column, reason) in [
            ("x,kept\n", None, Some("kept"), Some("a"), "'x' cannot be read as BIGINT"),
            ("1\n", Some(1), None, None, "the record has 1 fields and the table 2 columns"),
            ("1,kept,more\n", Some(1), Some("kept"), None, "the record has 3 fields and the table 2 columns"),
            ("1,\"open\n", None, None, None, "a quote is not closed before the end of the file"),
        ] {
            let salvaged = decoder.salvage(record.as_bytes()).unwrap();
            let row = &salvaged.row;
            let number = row.column(0).as_primitive::<Int64Type>().iter().next().unwrap();
            let text = row.column(1).as_string::<i32>().iter().next().unwrap();
            assert_eq!((number, text), (a, b), "{record}");
            assert_eq!((salvaged.column.as_deref(), salvaged.reason.as_str()), (column, reason));
        }
        let not_text = decoder.salvage(b"1,\xff\n").unwrap();
        assert_eq!(not_text.column.as_deref(), Some("b"));
        assert!(not_text.row.column(1).is_null(0));
    }

    #[test]
    fn headers_are_checked() {
        let checked = |options: CsvOptions, text: &str, end| decoder(options, 1).header(text.as_bytes(), end);
        let header = || CsvOptions { has_header: Some(true), ..CsvOptions::default() };
        assert_eq!(checked(header(), "a,b\n1,x\n", false), Ok(Some(4)));
        assert_eq!(checked(header(), "\n A ,\"b\"\r\n", false), Ok(Some(9)), "case and space do not matter");
        assert_eq!(checked(header(), "a,b", true), Ok(Some(3)));
        assert_eq!(checked(header(), "a,b", false), Ok(None));
        assert_eq!(checked(header(), "", true), Ok(Some(0)));
        for (text, reason) in [("1,x\n", "set header to false"), ("a,b,A,a\n", "'a' more than once")] {
            assert!(checked(header(), text, false).unwrap_err().contains(reason), "{text}");
        }
        let truncated = CsvOptions { truncated_rows: Some(true), ..header() };
        assert_eq!(checked(truncated, "a\n", false), Ok(Some(2)));
        assert_eq!(checked(plain(), "1,x\n", false), Ok(Some(0)));
        let comment = CsvOptions { comment: Some(b'#'), ..header() };
        assert_eq!(checked(comment, "# c\na,b\n1,x\n", false), Ok(Some(8)));
    }

    #[test]
    fn fields_are_found_by_the_names_in_the_header() {
        let header = CsvOptions { has_header: Some(true), ..CsvOptions::default() };
        for (text, expected, strangers) in [
            ("B,a\nx,1\n", "1|x", &[][..]),
            ("a\n1\n", "1|", &[]),
            ("c,a,b, d\n7,1,x,\n", "1|x", &["c", "d"]),
        ] {
            let mut decoder = decoder(header.clone(), 10);
            let start = decoder.header(text.as_bytes(), true).unwrap().unwrap();
            let rest = &text.as_bytes()[start..];
            decoder.feed(rest, 0, true);
            let rows = decoder.flush(rest).unwrap().unwrap();
            let (a, b) = (rows.column(0).as_primitive::<Int64Type>(), rows.column(1).as_string::<i32>());
            assert_eq!(format!("{}|{}", a.value(0), b.value(0)), expected);
            assert_eq!(
                (decoder.strangers(), b.is_null(0)),
                (strangers.iter().map(ToString::to_string).collect(), expected.ends_with('|'))
            );
        }
    }

    #[test]
    fn dialects() {
        let odd = CsvOptions {
            delimiter: b';',
            quote: b'\'',
            escape: Some(b'\\'),
            terminator: Some(b'$'),
            null_regex: Some("^NA$".into()),
            ..plain()
        };
        let text = "1;'it\\'s'$2;$$3;x";
        for step in 1..text.len() {
            assert_eq!(read(odd.clone(), text, 2, step).unwrap(), ["1|it's", "2|", "3|x"], "{step}");
        }
        assert!(read(odd.clone(), "NA;x$", 1, 9).is_ok(), "NA is null");
        let comments = CsvOptions { comment: Some(b'#'), ..odd };
        assert!(CsvDialect::new(&comments, &ConfigOptions::default(), false).is_err());
        let comments = CsvOptions { comment: Some(b'#'), ..plain() };
        assert_eq!(read(comments, "#a\n1,x\r\n# b,\"\n2,y\n#", 2, 3).unwrap(), ["1|x", "2|y"]);
    }
}
