//! Reads one file, or part of one, record by record.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::metrics::Count;
use datafusion_datasource::PartitionedFile;
use object_store::{ObjectStore, ObjectStoreExt};

use super::bad_records::{BadRecordWriter, Place};
use super::bytes::{ByteSource, terminators_before};
use super::columns::RecordColumns;
use super::decoder::{RecordDecoder, Stop, shorten, without_line_end};
use crate::error::{Error, Result};
use crate::source::file::found_columns::FoundColumns;
use crate::source::file::options::ParseMode;
use crate::source::file::pinned::BatchFiles;

/// How many bytes are asked for at a time: few enough that they are still at hand when they are decoded.
const CHUNK: usize = 32 << 10;
/// How many records are tried together once a batch of them turned out to hold a malformed one.
const TRY_TOGETHER: usize = 64;
/// Some editors put this before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What a reader works with besides its file.
pub(super) struct ReaderContext {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) files: Arc<BatchFiles>,
    pub(super) file: PartitionedFile,
    pub(super) columns: Arc<RecordColumns>,
    pub(super) found: Arc<FoundColumns>,
    pub(super) mode: ParseMode,
    pub(super) malformed: Count,
    /// Those of them that are rows.
    pub(super) kept: Count,
    pub(super) bad_records: Option<BadRecordWriter>,
    /// Ends a line.
    pub(super) terminator: u8,
    /// Rows per batch.
    pub(super) batch_size: usize,
}

/// A file, or part of one, as batches of rows.
///
/// Good records cost what Arrow's decoder costs. Their bytes are kept until their batch is decoded;
/// only if it turns out to hold a malformed record are they looked at again, in small groups and then
/// one by one.
pub(super) struct RecordReader {
    context: ReaderContext,
    bytes: ByteSource,
    decoder: Box<dyn RecordDecoder>,
    buffer: Vec<u8>,
    /// Where in `buffer` the first record is that no batch holds yet.
    start: usize,
    /// How many bytes from there on were fed to the decoder.
    fed: usize,
    /// Lines of this part that went before `start`.
    lines: u64,
    /// Lines of the file that go before this part, once they had to be counted.
    lines_before: Option<u64>,
    /// Whether the header is still to come.
    at_start: bool,
    /// Whether all bytes are in `buffer`.
    end: bool,
    /// Whether a record in `buffer` is known to be malformed.
    trouble: bool,
    done: bool,
    /// Whether there was any record that is not malformed.
    has_good_records: bool,
}

impl RecordReader {
    /// Begins to read `bytes`, the part of the file that is asked for.
    pub(super) async fn open(
        context: ReaderContext,
        bytes: ByteSource,
        decoder: Box<dyn RecordDecoder>,
    ) -> Result<Self> {
        let mut reader = Self::new(context, bytes, decoder);
        if !reader.at_start && reader.decoder.needs_header() {
            reader.read_header().await?;
        }
        Ok(reader)
    }

    fn new(context: ReaderContext, bytes: ByteSource, decoder: Box<dyn RecordDecoder>) -> Self {
        let (start, end) = context.file.range();
        let capacity = usize::try_from(end - start).unwrap_or(CHUNK).min(CHUNK);
        Self {
            at_start: start == 0,
            lines_before: (start == 0).then_some(0),
            context,
            bytes,
            decoder,
            buffer: Vec::with_capacity(capacity + 1),
            start: 0,
            fed: 0,
            lines: 0,
            end: false,
            trouble: false,
            done: false,
            has_good_records: false,
        }
    }

    /// The next rows; `None` at the end. What cannot be read is an error that names file and line.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while !self.done {
            if self.at_start && !self.skip_header().await? {
                continue;
            }
            if self.trouble {
                if let Some(rows) = self.read_with_care().await? {
                    return Ok(Some(rows));
                }
                continue;
            }
            let fed = self.decoder.feed(&self.buffer[self.start..], self.fed, self.end);
            self.fed = fed.next;
            match fed.because {
                Stop::Malformed => self.trouble = true,
                Stop::Broken(at, reason) => match self.flush(false)? {
                    // They came before.
                    Some(rows) => return Ok(Some(rows)),
                    None if self.trouble => {}
                    None => self.end_broken(at - fed.next, &reason).await?,
                },
                Stop::Hungry if !self.end => self.fill().await?,
                because @ (Stop::Hungry | Stop::Full) => {
                    let may_end = because == Stop::Hungry || !self.decoder.finds_breaks();
                    if let Some(rows) = self.flush(may_end)? {
                        return Ok(Some(rows));
                    }
                }
            }
        }
        self.note_columns();
        if let Some(writer) = self.context.bad_records.take() {
            writer.finish().await?;
        }
        Ok(None)
    }

    /// Tells which columns the records lack. What malformed records lack may be what is wrong with them, so
    /// that on their own they only tell what they have.
    fn note_columns(&mut self) {
        if self.has_good_records {
            self.decoder.strangers().iter().for_each(|name| self.context.found.note_new(name));
        }
        let Some(found) = self.decoder.found() else { return };
        if self.has_good_records {
            self.context.found.note_file();
        }
        for (index, field) in self.context.columns.decoded_schema.fields().iter().enumerate() {
            match found.contains(&index) {
                true => self.context.found.note_seen(field.name()),
                false if self.has_good_records => self.context.found.note_lack(field.name()),
                false => {}
            }
        }
    }

    /// From the byte at `at` on the file is not what it should be; what came before was given.
    async fn end_broken(&mut self, at: usize, reason: &str) -> Result<()> {
        let line = self.line_of(at).await?;
        let error = DataFusionError::Execution(format!("line {line}: {reason}"));
        match self.context.files.judge(self.context.file.path(), error) {
            Some(error) => Err(error),
            None => {
                self.done = true;
                Ok(())
            }
        }
    }

    /// Passes over what comes before the first record; `false` if more bytes are needed to tell.
    async fn skip_header(&mut self) -> Result<bool> {
        if self.raw().len() < BYTE_ORDER_MARK.len() && !self.end {
            self.fill().await?;
            return Ok(false);
        }
        let mark = if self.raw().starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        match self.decoder.header(&self.buffer[self.start + mark..], self.end) {
            Ok(Some(header)) => {
                self.at_start = false;
                self.advance(mark + header);
                Ok(true)
            }
            Ok(None) => {
                self.fill().await?;
                Ok(false)
            }
            Err(reason) => Err(Error::InputFile { file: self.file_name(), reason }),
        }
    }

    /// Has the decoder look at the header of a file of which this is a later part.
    async fn read_header(&mut self) -> Result<()> {
        let file = &self.context.file;
        let (path, size) = (file.path().clone(), file.object_meta.size);
        let mut length = (CHUNK as u64).min(size);
        loop {
            let head = match self.context.store.get_range(&path, 0..length).await {
                Ok(head) => head,
                Err(error) => {
                    let judged = self.context.files.judge(&path, DataFusionError::from(error));
                    self.done = true;
                    return judged.map_or(Ok(()), Err);
                }
            };
            let head = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&head);
            match self.decoder.header(head, length == size) {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => length = (length * 2).min(size),
                Err(reason) => return Err(Error::InputFile { file: self.file_name(), reason }),
            }
        }
    }

    /// Gets more bytes: as many again as wait to be looked at, so that a record of any length is looked
    /// at a bounded number of times.
    async fn fill(&mut self) -> Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let waiting = if self.trouble { self.buffer.len() } else { self.buffer.len() - self.fed };
        let wanted = waiting.max(CHUNK.min(self.buffer.capacity())).max(1);
        match self.bytes.read(&mut self.buffer, wanted).await {
            Ok(end) => {
                self.end = end;
                Ok(())
            }
            Err(error) => self.end_here(error),
        }
    }

    /// Ends the file where it cannot be read any further, if that is asked for. Whole records before
    /// that are kept; what is left of a cut one is no record.
    fn end_here(&mut self, error: DataFusionError) -> Result<()> {
        if let Some(error) = self.context.files.judge(self.context.file.path(), error) {
            return Err(error);
        }
        let whole = self.decoder.split(&self.buffer, false, usize::MAX).last().map_or(0, |last| last.end);
        self.buffer.truncate(whole);
        self.end = true;
        // The decoder was fed part of the cut record.
        self.trouble = true;
        Ok(())
    }

    /// Decodes what was fed, with which the file may have come to its end.
    fn flush(&mut self, may_end: bool) -> Result<Option<RecordBatch>> {
        let lines = self.decoder.fed_lines();
        match self.decoder.flush(&self.buffer[self.start..self.start + self.fed]) {
            Ok(rows) => {
                match lines {
                    Some(lines) => self.advance_over(self.fed, lines),
                    None => self.advance(self.fed),
                }
                self.done = may_end && self.end && self.raw().is_empty();
                self.has_good_records |= rows.is_some();
                let rows = rows.map(|rows| self.context.columns.good(&rows)).transpose();
                rows.map_err(|error| self.broken(error))
            }
            Err(_) => {
                self.trouble = true;
                Ok(None)
            }
        }
    }

    /// Decodes the next whole records, one of which may be malformed.
    async fn read_with_care(&mut self) -> Result<Option<RecordBatch>> {
        let records = self.decoder.split(self.raw(), self.end, self.context.batch_size);
        let Some(last) = records.last() else {
            if self.decoder.finds_breaks() {
                self.decoder.reset().map_err(|error| self.broken(error))?;
                (self.trouble, self.fed) = (false, 0);
            } else if self.end {
                self.done = true;
            } else {
                self.fill().await?;
            }
            return Ok(None);
        };
        let last = last.end;
        let mut pieces = Vec::new();
        for group in records.chunks(TRY_TOGETHER) {
            if let Ok(rows) = self.decoder.decode(&self.buffer[self.start..], group) {
                pieces.push((rows, None));
                continue;
            }
            for record in group {
                let raw = &self.buffer[self.start..];
                match self.decoder.decode(raw, std::slice::from_ref(record)) {
                    Ok(rows) => pieces.push((rows, None)),
                    Err(error) => pieces.extend(self.malformed(record.clone(), &error).await?),
                }
            }
        }
        self.has_good_records |= pieces.iter().any(|(_, malformed)| malformed.is_none());
        self.decoder.passed(&self.buffer[self.start..self.start + last]);
        self.advance(last);
        self.decoder.reset().map_err(|error| self.broken(error))?;
        self.trouble = false;
        self.done = self.end && self.raw().is_empty() && !self.decoder.finds_breaks();
        if pieces.is_empty() {
            return Ok(None);
        }
        self.context.columns.mixed(&pieces).map(Some).map_err(|error| self.broken(error))
    }

    /// What becomes of a malformed record.
    async fn malformed(
        &mut self,
        record: Range<usize>,
        error: &ArrowError,
    ) -> Result<Option<(RecordBatch, Option<String>)>> {
        let line = self.line_of(record.start).await?;
        let bytes = &self.buffer[self.start..][record];
        let salvaged = self.decoder.salvage(bytes).map_err(|_| self.bad_record(line, None, error))?;
        if self.context.mode == ParseMode::FailFast && self.context.bad_records.is_none() {
            return Err(self.bad_record(line, salvaged.column, salvaged.reason));
        }
        self.context.malformed.add(1);
        let text = String::from_utf8_lossy(without_line_end(bytes)).into_owned();
        if let Some(writer) = &mut self.context.bad_records {
            let reason = match &salvaged.column {
                Some(column) => format!("column '{column}': {}", salvaged.reason),
                None => salvaged.reason,
            };
            let location = self.context.files.location();
            let path = self.context.file.path();
            let url = location.file_url(location.relative(path).unwrap_or(path.as_ref()));
            writer.write(&url, Place::Line(line), &text, &reason).await?;
            return Ok(None);
        }
        if self.context.mode != ParseMode::Permissive {
            return Ok(None);
        }
        self.context.kept.add(1);
        Ok(Some((salvaged.row, Some(text))))
    }

    /// The line of the file, from 1, on which the record at `at` begins.
    async fn line_of(&mut self, at: usize) -> Result<u64> {
        let terminator = self.context.terminator;
        let before = match self.lines_before {
            Some(before) => before,
            None => {
                let (start, _) = self.context.file.range();
                let (store, file) = (&self.context.store, &self.context.file);
                let counted = terminators_before(store, file, start, terminator).await;
                let counted = counted.or_else(|error| {
                    // The record is malformed all the same if its line cannot be told.
                    self.context.files.judge(file.path(), error).map_or(Ok(0), Err)
                })?;
                *self.lines_before.insert(counted)
            }
        };
        let here = memchr::memchr_iter(terminator, &self.raw()[..at]).count() as u64;
        Ok(before + self.lines + here + 1)
    }

    /// The bytes from the first record that no batch holds yet.
    fn raw(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Goes on `count` bytes.
    fn advance(&mut self, count: usize) {
        let lines = memchr::memchr_iter(self.context.terminator, &self.raw()[..count]).count();
        self.advance_over(count, lines as u64);
    }

    /// Goes on `count` bytes, which are `lines` lines.
    fn advance_over(&mut self, count: usize, lines: u64) {
        self.lines += lines;
        self.start += count;
        self.fed = 0;
    }

    fn file_name(&self) -> String {
        self.context.files.display(self.context.file.path())
    }

    fn bad_record(&self, line: u64, column: Option<String>, reason: impl ToString) -> Error {
        Error::BadRecord { file: self.file_name(), line, column, reason: shorten(&reason.to_string()) }
    }

    fn broken(&self, error: ArrowError) -> Error {
        Error::InputFile { file: self.file_name(), reason: error.to_string() }
    }
}
