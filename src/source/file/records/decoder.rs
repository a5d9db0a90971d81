//! What the record formats have in common.

use std::ops::Range;

use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;

/// Decodes the records of one file. `raw` is always the bytes of the file from the first record that
/// was not flushed yet, as far as they are known; `end` says that nothing follows.
pub(super) trait RecordDecoder: Send {
    /// How many bytes at the start of the file are a header, `None` if more bytes are needed to tell.
    /// The error says what is wrong with it.
    fn header(&mut self, _raw: &[u8], _end: bool) -> Result<Option<usize>, String> {
        Ok(Some(0))
    }

    /// Whether a header says what the records are made of, so that it has to be known in every part of a
    /// file.
    fn needs_header(&self) -> bool {
        false
    }

    /// Takes in records from `next` on, until a batch is full or the bytes run out.
    fn feed(&mut self, raw: &[u8], next: usize, end: bool) -> Fed;

    /// How many lines were taken in since the last flush, if that was counted.
    fn fed_lines(&self) -> Option<u64> {
        None
    }

    /// The rows of the records taken in, which are `raw`; `None` if there were none.
    fn flush(&mut self, raw: &[u8]) -> Result<Option<RecordBatch>, ArrowError>;

    /// Forgets what was taken in and not flushed.
    fn reset(&mut self) -> Result<(), ArrowError>;

    /// Where up to `max` whole records are, whether good or malformed. Empty only if there is none.
    fn split(&self, raw: &[u8], end: bool, max: usize) -> Vec<Range<usize>>;

    /// Exactly one row for each of `records`, or an error if any of them is malformed. Must be reset before
    /// it is fed again.
    fn decode(&mut self, raw: &[u8], records: &[Range<usize>]) -> Result<RecordBatch, ArrowError>;

    /// Records that [`RecordDecoder::split`] found were passed over, up to the last byte of `raw`.
    fn passed(&mut self, _raw: &[u8]) {}

    /// Whether [`RecordDecoder::feed`] tells what is wrong where there is no whole record.
    fn finds_breaks(&self) -> bool {
        false
    }

    /// Positions of the decoded columns that some record so far had, be it good or malformed; `None` if
    /// records have all.
    fn found(&self) -> Option<Vec<usize>> {
        None
    }

    /// Names of fields, so far, that no column takes.
    fn strangers(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// What can be made of a malformed record. Must be reset before it is fed again.
    fn salvage(&mut self, record: &[u8]) -> Result<Salvaged, ArrowError>;
}

/// Decodes records that come as such, one by one.
pub(super) trait MessageDecoder: Send {
    /// As [`RecordDecoder::decode`].
    fn decode(&mut self, raw: &[u8], records: &[Range<usize>]) -> Result<RecordBatch, ArrowError>;

    /// As [`RecordDecoder::salvage`].
    fn salvage(&mut self, record: &[u8]) -> Result<Salvaged, ArrowError>;
}

impl<T: RecordDecoder> MessageDecoder for T {
    fn decode(&mut self, raw: &[u8], records: &[Range<usize>]) -> Result<RecordBatch, ArrowError> {
        RecordDecoder::decode(self, raw, records)
    }

    fn salvage(&mut self, record: &[u8]) -> Result<Salvaged, ArrowError> {
        RecordDecoder::salvage(self, record)
    }
}

/// How far [`RecordDecoder::feed`] came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fed {
    /// Bytes of `raw` that are taken in.
    pub(super) next: usize,
    /// Why it stopped.
    pub(super) because: Stop,
}

/// Why [`RecordDecoder::feed`] stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// A batch is full.
    Full,
    /// The bytes ran out.
    Hungry,
    /// A record is malformed; the decoder must be reset.
    Malformed,
    /// From this byte of `raw` on the file is not what it should be.
    Broken(usize, String),
}

/// A malformed record.
#[derive(Debug)]
pub(super) struct Salvaged {
    /// One row; what does not parse is null.
    pub(super) row: RecordBatch,
    /// The first column that does not parse, if it is one column's fault.
    pub(super) column: Option<String>,
    /// What is wrong, with the offending text.
    pub(super) reason: String,
}

/// The message of an error of Arrow's without its kind, and no longer than fits on a line or two.
pub(super) fn reason(error: &ArrowError) -> String {
    let text = match error {
        ArrowError::JsonError(text)
        | ArrowError::CsvError(text)
        | ArrowError::ParseError(text)
        | ArrowError::CastError(text)
        | ArrowError::InvalidArgumentError(text) => text.clone(),
        other => other.to_string(),
    };
    shorten(&text)
}

/// What is wrong with a record without a value in a column that is NOT NULL.
pub(in crate::source::file) fn no_value(column: &str) -> String {
    format!("the column '{column}' is NOT NULL, and the record has no value for it")
}

/// Text that may come from a record, cut to a length that a message can bear.
pub(in crate::source::file) fn shorten(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// The record without the end of its line.
pub(super) fn without_line_end(record: &[u8]) -> &[u8] {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    record.strip_suffix(b"\r").unwrap_or(record)
}

/// Where the line that begins at `start` ends, behind its terminator; `None` if that is not known.
pub(super) fn line_end(raw: &[u8], start: usize, terminator: u8, end: bool) -> Option<usize> {
    let rest = &raw[start..];
    match memchr::memchr(terminator, rest) {
        Some(at) => Some(start + at + 1),
        None if end && !rest.is_empty() => Some(raw.len()),
        None => None,
    }
}
