//! How a CSV file is written, and where its records and fields are.

use std::ops::Range;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder, Terminator};
use datafusion::arrow::csv;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::config::{ConfigOptions, CsvOptions};
use regex::Regex;

use super::decoder::{line_end, without_line_end};
use crate::error::{Error, Result};

/// The options of CSV files that decide how they are read.
#[derive(Debug, Clone)]
pub(in crate::source::file) struct CsvDialect {
    pub(super) delimiter: u8,
    pub(super) quote: u8,
    pub(super) escape: Option<u8>,
    comment: Option<u8>,
    pub(super) terminator: Option<u8>,
    has_header: bool,
    enforce_schema: bool,
    truncated_rows: bool,
    null_regex: Option<Regex>,
    /// Whether every line is a record: values hold no line breaks.
    line_records: bool,
}

/// A record taken apart.
#[derive(Debug)]
pub(super) struct CsvFields {
    /// The unquoted fields.
    pub(super) fields: Vec<Vec<u8>>,
    /// Whether every quote is closed.
    pub(super) closed: bool,
    /// Whether nothing follows the record.
    pub(super) whole: bool,
}

impl CsvDialect {
    /// Takes the dialect from DataFusion's options; `enforce_schema` lets headers go unchecked.
    pub(in crate::source::file) fn new(
        options: &CsvOptions,
        config: &ConfigOptions,
        enforce_schema: bool,
    ) -> Result<Self> {
        let null_regex = options.null_regex.as_deref().map(|text| {
            Regex::new(text).map_err(|error| Error::option("null_regex", text, error.to_string()))
        });
        if let (Some(comment), Some(terminator)) = (options.comment, options.terminator)
            && terminator != b'\n'
        {
            return Err(Error::option(
                "comment",
                char::from(comment),
                "comments end where a line does, so they cannot be used with another terminator",
            ));
        }
        Ok(Self {
            delimiter: options.delimiter,
            quote: options.quote,
            escape: options.escape,
            comment: options.comment,
            terminator: options.terminator,
            has_header: options.has_header.unwrap_or(config.catalog.has_header),
            enforce_schema,
            truncated_rows: options.truncated_rows.unwrap_or(false),
            null_regex: null_regex.transpose()?,
            // Not the session's default, which is to cut files into parts at line breaks in values.
            line_records: options.newlines_in_values == Some(false),
        })
    }

    /// Whether every line is a record, so that a file can be read in parts.
    pub(in crate::source::file) fn has_line_records(&self) -> bool {
        self.line_records
    }

    /// Whether it can be told by the quotes before it where a record begins. Those in comments are none.
    pub(in crate::source::file) fn has_quotes_alone(&self) -> bool {
        self.comment.is_none()
    }

    /// Whether records with too few fields are good: the missing ones are null.
    pub(super) fn allows_truncated_rows(&self) -> bool {
        self.truncated_rows
    }

    /// The byte that ends a line.
    pub(in crate::source::file) fn terminator(&self) -> u8 {
        self.terminator.unwrap_or(b'\n')
    }

    /// Arrow's decoder for records with the columns of `schema`, giving those in `projection`.
    pub(super) fn decoder(
        &self,
        schema: &SchemaRef,
        projection: &[usize],
        rows: usize,
    ) -> csv::reader::Decoder {
        let mut builder = csv::ReaderBuilder::new(std::sync::Arc::clone(schema))
            .with_header(false)
            .with_delimiter(self.delimiter)
            .with_quote(self.quote)
            .with_truncated_rows(self.truncated_rows)
            .with_batch_size(rows)
            .with_projection(projection.to_vec());
        if let Some(terminator) = self.terminator {
            builder = builder.with_terminator(terminator);
        }
        if let Some(escape) = self.escape {
            builder = builder.with_escape(escape);
        }
        if let Some(comment) = self.comment {
            builder = builder.with_comment(comment);
        }
        if let Some(null_regex) = &self.null_regex {
            builder = builder.with_null_regex(null_regex.clone());
        }
        builder.build_decoder()
    }

    /// Arrow's decoder for one field in plain spelling, with the same idea of nulls.
    pub(super) fn field_decoder(&self, schema: SchemaRef) -> csv::reader::Decoder {
        let mut builder = csv::ReaderBuilder::new(schema).with_header(false).with_batch_size(1);
        if let Some(null_regex) = &self.null_regex {
            builder = builder.with_null_regex(null_regex.clone());
        }
        builder.build_decoder()
    }

    /// The tokenizer that Arrow's decoder uses, set up alike. To make one takes longer than to take a record apart.
    pub(super) fn tokenizer(&self) -> Reader {
        let mut builder = ReaderBuilder::new();
        builder.delimiter(self.delimiter).quote(self.quote).escape(self.escape).comment(self.comment);
        if let Some(terminator) = self.terminator {
            builder.terminator(Terminator::Any(terminator));
        }
        builder.build()
    }

    /// Whether the line holds no record: it is empty or a comment.
    pub(super) fn is_no_record(&self, line: &[u8]) -> bool {
        let line = line.strip_suffix(&[self.terminator()]).unwrap_or(line);
        let line = if self.terminator.is_none() { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
        line.is_empty() || self.comment.is_some_and(|comment| line[0] == comment)
    }

    /// Whether a field of this text has no value.
    pub(super) fn is_null(&self, text: &str) -> bool {
        match &self.null_regex {
            Some(null) => null.is_match(text),
            None => text.is_empty(),
        }
    }

    /// Whether no second record begins on the line of the first.
    pub(super) fn is_one_record(&self, record: &[u8]) -> bool {
        self.terminator.is_some()
            || memchr::memchr(b'\r', without_line_end(record)).is_none()
            || self.fields(record).whole
    }

    /// Where up to `max` whole records are.
    pub(super) fn split(&self, raw: &[u8], end: bool, max: usize) -> Vec<Range<usize>> {
        let mut records = Vec::new();
        let mut tokenizer = self.tokenizer();
        let mut start = 0;
        while records.len() < max {
            let next = if self.line_records {
                line_end(raw, start, self.terminator(), end)
            } else {
                start = self.skip_no_records(raw, start);
                record_end(&mut tokenizer, raw, start, end)
            };
            let Some(next) = next else { break };
            if !self.line_records || !self.is_no_record(&raw[start..next]) {
                records.push(start..next);
            }
            start = next;
        }
        records
    }

    /// The start of the first line from `start` on that is neither empty nor a comment.
    fn skip_no_records(&self, raw: &[u8], mut start: usize) -> usize {
        loop {
            match raw.get(start) {
                Some(b'\r' | b'\n') if self.terminator.is_none() => start += 1,
                Some(byte) if self.terminator == Some(*byte) => start += 1,
                Some(byte) if self.comment == Some(*byte) => match memchr::memchr(b'\n', &raw[start..]) {
                    Some(at) => start += at + 1,
                    None => return raw.len(),
                },
                _ => return start,
            }
        }
    }

    /// Takes a record apart.
    pub(super) fn fields(&self, record: &[u8]) -> CsvFields {
        self.fields_by(&mut self.tokenizer(), record)
    }

    /// The same by a `tokenizer` of this dialect, whatever that has read before.
    pub(super) fn fields_by(&self, tokenizer: &mut Reader, record: &[u8]) -> CsvFields {
        tokenizer.reset();
        let (mut output, mut ends) = (vec![0; record.len() + 1], vec![0; record.len() + 2]);
        let (mut written, mut ended) = (0, 0);
        let mut closed = false;
        let mut whole = true;
        // The record, then an end of line, which an open quote swallows, then the end of the file.
        for input in [record, &[self.terminator()], &[]] {
            let (result, taken, more, more_ends) =
                tokenizer.read_record(input, &mut output[written..], &mut ends[ended..]);
            (written, ended) = (written + more, ended + more_ends);
            if matches!(result, ReadRecordResult::Record) {
                closed = !input.is_empty();
                whole = input[taken..].iter().all(|byte| matches!(byte, b'\r' | b'\n'));
                break;
            }
        }
        let mut from = 0;
        let fields =
            ends[..ended].iter().map(|to| output[std::mem::replace(&mut from, *to)..*to].to_vec()).collect();
        CsvFields { fields, closed, whole }
    }

    /// Whether files begin with a header.
    pub(in crate::source::file) fn has_header(&self) -> bool {
        self.has_header
    }

    /// Whether a header says which fields records have.
    pub(super) fn has_names(&self) -> bool {
        self.has_header && !self.enforce_schema
    }

    /// How many bytes the line takes, at the beginning of a file, that says that its fields are separated as they are.
    pub(super) fn separator_line(&self, raw: &[u8]) -> usize {
        separator_line(raw)
            .filter(|(delimiter, _)| *delimiter == self.delimiter)
            .map_or(0, |(_, length)| length)
    }

    /// How many bytes the header takes, and the names in it if they say which fields records have; `None`
    /// if more bytes are needed to tell.
    pub(super) fn header(&self, raw: &[u8], end: bool) -> Option<(usize, Vec<String>)> {
        if !end
            && raw.len() < SEPARATOR_LINE.len() + 3
            && raw.starts_with(&SEPARATOR_LINE[..raw.len().min(4)])
        {
            return None;
        }
        let said = self.separator_line(raw);
        if !self.has_header {
            return Some((said, Vec::new()));
        }
        let start = self.skip_no_records(raw, said);
        let Some(header_end) = record_end(&mut self.tokenizer(), raw, start, end) else {
            return end.then(|| (raw.len(), Vec::new()));
        };
        let fields =
            if self.enforce_schema { Vec::new() } else { self.fields(&raw[start..header_end]).fields };
        let names = fields.iter().map(|name| String::from_utf8_lossy(name).trim().to_string());
        Some((header_end, names.collect()))
    }
}

/// What a line begins with that programs of tables put before the header: `sep=;`.
const SEPARATOR_LINE: &[u8; 4] = b"sep=";

/// What separates the fields of a file by its first line, which says nothing else, and how long that is.
pub(in crate::source::file) fn separator_line(head: &[u8]) -> Option<(u8, usize)> {
    let rest = head.strip_prefix(SEPARATOR_LINE)?;
    let (delimiter, rest) = rest.split_first()?;
    let end = match rest {
        [b'\r', b'\n', ..] => 2,
        [b'\n', ..] => 1,
        _ => return None,
    };
    delimiter.is_ascii().then_some((*delimiter, SEPARATOR_LINE.len() + 1 + end))
}

/// Where the record at `start` ends; `None` if that is not known or there is none.
fn record_end(tokenizer: &mut Reader, raw: &[u8], start: usize, end: bool) -> Option<usize> {
    tokenizer.reset();
    let (mut output, mut ends) = ([0; 1024], [0; 128]);
    let mut next = start;
    while next < raw.len() {
        let (result, taken, _, _) = tokenizer.read_record(&raw[next..], &mut output, &mut ends);
        next += taken;
        match result {
            ReadRecordResult::Record => return Some(next),
            ReadRecordResult::End => return None,
            ReadRecordResult::InputEmpty
            | ReadRecordResult::OutputFull
            | ReadRecordResult::OutputEndsFull => {}
        }
    }
    (end && start < raw.len()).then_some(raw.len())
}
