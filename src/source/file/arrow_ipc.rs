//! Arrow IPC files and streams.
//!
//! DataFusion's own reader takes columns by position and one kind per scan; this one takes them by
//! name, so that a file with other columns gives the right values or an error, and tells files from
//! streams by their first bytes.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::convert::fb_to_schema;
use datafusion::arrow::ipc::reader::{FileReader, StreamDecoder, read_footer_length};
use datafusion::arrow::ipc::{
    CompressionType, Message, MessageHeader, MetadataVersion, root_as_footer, root_as_message,
};
use datafusion::arrow::record_batch::RecordBatch;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::batches::{Batches, Choose, Input, Part};

const FILE_MAGIC: &[u8; 6] = b"ARROW1";
/// Where the first message of a file may begin, and where it begins at the latest: behind zeros.
const FIRST_MESSAGE: Range<u64> = 8..1024;

/// Opens `input` and gives its columns among those chosen, and its batches with only these columns.
pub(super) fn read(
    mut input: Input,
    choose: Choose<'_>,
    part: Part,
) -> Result<(SchemaRef, Batches), ArrowError> {
    let mut magic = [0; FILE_MAGIC.len()];
    let is_file = input.read_exact(&mut magic).is_ok() && &magic == FILE_MAGIC;
    input.seek(SeekFrom::Start(0))?;
    if is_file { read_file(input, choose, part) } else { read_stream(input, choose, part) }
}

/// The columns of a file or stream, which the message at its beginning describes. (DataFusion takes a damaged file for a
/// stream, and makes room for as much as the letters at its beginning are as a number.)
pub(super) async fn schema_of(store: &dyn ObjectStore, file: &ObjectMeta) -> Result<Schema, ArrowError> {
    const FIRST_BYTES: u64 = 64 << 10;
    let external = |error| ArrowError::ExternalError(Box::new(error));
    let head = store.get_range(&file.location, 0..file.size.min(FIRST_BYTES)).await.map_err(external)?;
    let mut at = 0;
    if head.starts_with(FILE_MAGIC) {
        at = FIRST_MESSAGE.start as usize;
        while at < FIRST_MESSAGE.end as usize && head.get(at..at + 8).is_some_and(|word| word == [0; 8]) {
            at += 8;
        }
    }
    let word = |at: usize| head.get(at..at + 4).and_then(|word| <[u8; 4]>::try_from(word).ok());
    if word(at) == Some(CONTINUATION) {
        at += 4;
    }
    let no_schema = || ArrowError::IpcError("it holds no schema".into());
    let length = word(at).map(u32::from_le_bytes).filter(|length| *length > 0).ok_or_else(no_schema)?;
    let start = at as u64 + 4;
    let end = start + u64::from(length);
    if end > file.size {
        return Err(outside("its schema"));
    }
    let bytes = match head.get(start as usize..end as usize) {
        Some(bytes) => Bytes::copy_from_slice(bytes),
        None => store.get_range(&file.location, start..end).await.map_err(external)?,
    };
    let message = message(&bytes)?;
    check_version(message.version())?;
    message.header_as_schema().map(fb_to_schema).ok_or_else(no_schema)
}

fn read_file(mut input: Input, choose: Choose<'_>, part: Part) -> Result<(SchemaRef, Batches), ArrowError> {
    check_blocks(&mut input)?;
    input.seek(SeekFrom::Start(0))?;
    let found = FileReader::try_new(&mut input, None)?.schema();
    let columns = choose(&found)?;
    input.seek(SeekFrom::Start(0))?;
    let mut reader = FileReader::try_new(input, Some(columns.clone()))?;
    let batches = part.batches(reader.num_batches());
    if !batches.is_empty() {
        reader.set_index(batches.start)?;
    }
    Ok((Arc::new(found.project(&columns)?), Box::new(reader.take(batches.len()))))
}

/// Fails unless the footer names blocks that lie in the file, and their buffers say truly how long they
/// are. Arrow's reader makes room for what they say before it looks at them, and more room than there is
/// ends the process.
fn check_blocks(input: &mut Input) -> Result<(), ArrowError> {
    const TRAILER: usize = 10;
    let size = input.seek(SeekFrom::End(0))?;
    let mut trailer = [0; TRAILER];
    input.seek(SeekFrom::Start(size.checked_sub(TRAILER as u64).ok_or_else(|| outside("the footer"))?))?;
    input.read_exact(&mut trailer)?;
    let length = read_footer_length(trailer)?;
    let start = size.checked_sub((length + TRAILER) as u64).ok_or_else(|| outside("the footer"))?;
    let mut bytes = vec![0; length];
    input.seek(SeekFrom::Start(start))?;
    input.read_exact(&mut bytes)?;
    let footer = root_as_footer(&bytes)
        .map_err(|error| ArrowError::IpcError(format!("the footer cannot be read: {error}")))?;
    check_version(footer.version())?;
    let mut spans = Vec::new();
    let of = |kind, blocks: Option<_>| blocks.into_iter().flatten().map(move |block| (kind, block));
    let dictionaries = of(MessageHeader::DictionaryBatch, footer.dictionaries());
    for (kind, block) in dictionaries.chain(of(MessageHeader::RecordBatch, footer.recordBatches())) {
        let number = |value: i64| u64::try_from(value).map_err(|_| outside("a batch"));
        let offset = number(block.offset())?;
        let length = number(i64::from(block.metaDataLength()))?;
        let body =
            offset.checked_add(length).filter(|body| *body <= size).ok_or_else(|| outside("a batch"))?;
        let body_length = number(block.bodyLength())?;
        let end = body.checked_add(body_length).filter(|end| *end <= size);
        spans.push(offset..end.ok_or_else(|| outside("a batch"))?);
        input.seek(SeekFrom::Start(offset))?;
        let mut message = vec![0; length as usize];
        input.read_exact(&mut message)?;
        // The message follows its length, with a mark before it or not.
        let start = if message.starts_with(&CONTINUATION) { 8 } else { 4 };
        let bytes = message.get(start..).unwrap_or_default();
        let said =
            message.get(start - 4..start).and_then(|said| said.try_into().ok()).map(i32::from_le_bytes);
        if said.and_then(|said| usize::try_from(said).ok()) != Some(bytes.len()) {
            return Err(ArrowError::IpcError("a message and the footer say different lengths of it".into()));
        }
        if u64::try_from(self::message(bytes)?.bodyLength()).ok() != Some(body_length) {
            return Err(ArrowError::IpcError("a batch and the footer say different lengths of it".into()));
        }
        let found = check_message(input, bytes, body, body_length)?;
        // Arrow's reader passes over those that it does not expect, and over the rows in them.
        if found != kind {
            return Err(unexpected(found));
        }
    }
    check_names_all(input, spans, start)
}

/// Fails unless the blocks lie one behind the other, and there is none between them that the footer does not
/// name. Its rows would be lost without a word.
fn check_names_all(input: &mut Input, mut spans: Vec<Range<u64>>, footer: u64) -> Result<(), ArrowError> {
    let mut first = FIRST_MESSAGE.start;
    let mut head = [0; 8];
    while head == [0; 8] && first < footer.min(FIRST_MESSAGE.end) {
        input.seek(SeekFrom::Start(first))?;
        input.read_exact(&mut head)?;
        first += head.len() as u64;
    }
    let [a, b, c, d, length @ ..] = head;
    if [a, b, c, d] != CONTINUATION {
        // Written before Arrow 0.15, when messages had no mark that they are known by.
        return Ok(());
    }
    let mut end = first + u64::from(u32::from_le_bytes(length));
    spans.sort_unstable_by_key(|span| span.start);
    spans.push(footer..footer);
    for span in spans {
        if span.start < end {
            return Err(ArrowError::IpcError("the footer names a batch twice".into()));
        }
        if span.start - end >= head.len() as u64 {
            input.seek(SeekFrom::Start(end))?;
            input.read_exact(&mut head)?;
            if head.starts_with(&CONTINUATION) && head[4..] != [0; 4] {
                return Err(ArrowError::IpcError("the footer does not name all batches".into()));
            }
        }
        end = span.end;
    }
    Ok(())
}

/// Comes before the length of a message.
const CONTINUATION: [u8; 4] = [0xff; 4];

fn outside(what: &str) -> ArrowError {
    ArrowError::IpcError(format!("{what} lies outside of the file"))
}

fn unexpected(found: MessageHeader) -> ArrowError {
    let name = found.variant_name().unwrap_or("an unknown message");
    ArrowError::IpcError(format!("{name} in a place where it cannot be"))
}

/// Fails unless the messages of a stream lie in the file, and their buffers say truly how long they are.
fn check_stream(input: &mut Input) -> Result<(), ArrowError> {
    let size = input.seek(SeekFrom::End(0))?;
    let (mut position, mut has_schema) = (0, false);
    while position < size {
        input.seek(SeekFrom::Start(position))?;
        let mut word = [0; 4];
        input.read_exact(&mut word)?;
        position += 4;
        if word == CONTINUATION {
            input.read_exact(&mut word)?;
            position += 4;
        }
        let length = u64::from(u32::from_le_bytes(word));
        if length == 0 {
            return Ok(());
        }
        let body = position + length;
        if body > size {
            return Err(outside("a message"));
        }
        let mut bytes = vec![0; length as usize];
        input.read_exact(&mut bytes)?;
        let body_length = message(&bytes)?.bodyLength();
        let body_length = u64::try_from(body_length).map_err(|_| outside("a message"))?;
        // Arrow's reader passes over messages that it does not know, and over the rows in them.
        match check_message(input, &bytes, body, body_length)? {
            MessageHeader::Schema if !has_schema => has_schema = true,
            MessageHeader::RecordBatch | MessageHeader::DictionaryBatch if has_schema => {}
            found => return Err(unexpected(found)),
        }
        // One that is cut is found to be so when it is read.
        position = body.checked_add(body_length).ok_or_else(|| outside("a message"))?;
    }
    Ok(())
}

fn message(bytes: &[u8]) -> Result<Message<'_>, ArrowError> {
    root_as_message(bytes).map_err(|error| ArrowError::IpcError(format!("a message cannot be read: {error}")))
}

/// Fails unless the format is known, as it has been since Arrow 0.8.
fn check_version(version: MetadataVersion) -> Result<(), ArrowError> {
    match version {
        MetadataVersion::V4 | MetadataVersion::V5 => Ok(()),
        MetadataVersion(other) => Err(ArrowError::IpcError(format!("its version {other} is not known"))),
    }
}

/// Buffers begin at multiples of this.
const ALIGNMENT: u64 = 8;

/// Which kind of message it is.
fn check_message(
    input: &mut Input,
    bytes: &[u8],
    body: u64,
    body_length: u64,
) -> Result<MessageHeader, ArrowError> {
    let message = message(bytes)?;
    check_version(message.version())?;
    let batch = message
        .header_as_record_batch()
        .or_else(|| message.header_as_dictionary_batch().and_then(|d| d.data()));
    let Some(batch) = batch else { return Ok(message.header_type()) };
    for node in batch.nodes().into_iter().flatten() {
        // Arrow's reader takes a negative number of nulls for none, and gives values in their places.
        if !(0..=node.length()).contains(&node.null_count()) {
            let (nulls, values) = (node.null_count(), node.length());
            return Err(ArrowError::IpcError(format!("{nulls} of {values} values are said to be null")));
        }
    }
    let codec = batch.compression().map(|compression| compression.codec());
    for buffer in batch.buffers().into_iter().flatten() {
        let (offset, length) = (u64::try_from(buffer.offset()), u64::try_from(buffer.length()));
        let (Ok(offset), Ok(length)) = (offset, length) else { return Err(outside("a buffer")) };
        if offset.checked_add(length).is_none_or(|end| end > body_length) {
            return Err(outside("a buffer"));
        }
        if !offset.is_multiple_of(ALIGNMENT) {
            return Err(ArrowError::IpcError(format!("a buffer begins at byte {offset}, where none can be")));
        }
        if let Some(codec) = codec.filter(|_| length > 0) {
            let mut head = [0; 32];
            let known = head.len().min(length as usize);
            input.seek(SeekFrom::Start(body + offset))?;
            // A body that is cut is found to be so when it is read.
            if input.read_exact(&mut head[..known]).is_ok() {
                check_compressed(&head[..known], length, codec)?;
            }
        }
    }
    Ok(message.header_type())
}

/// Fails unless a compressed buffer of `length` bytes, which begins with `head`, can be as long as it says.
fn check_compressed(head: &[u8], length: u64, codec: CompressionType) -> Result<(), ArrowError> {
    /// How many bytes one byte can stand for, at most.
    const LZ4_RATIO: u64 = 256;
    const ZSTD_RATIO: u64 = 1 << 15;
    let damaged = || ArrowError::IpcError("a compressed buffer does not have the length that it says".into());
    let (prefix, frame) = head.split_first_chunk::<8>().ok_or_else(damaged)?;
    let said = match i64::from_le_bytes(*prefix) {
        // Empty, or not compressed after all.
        0 | -1 => return Ok(()),
        said => u64::try_from(said).map_err(|_| damaged())?,
    };
    let (exact, ratio) = match codec {
        CompressionType::ZSTD => {
            (zstd::zstd_safe::get_frame_content_size(frame).map_err(|_| damaged())?, ZSTD_RATIO)
        }
        _ => (None, LZ4_RATIO),
    };
    let possible = match exact {
        Some(exact) => exact == said && said <= length.saturating_mul(ZSTD_RATIO),
        None => said <= length.saturating_mul(ratio),
    };
    if possible { Ok(()) } else { Err(damaged()) }
}

fn read_stream(mut input: Input, choose: Choose<'_>, part: Part) -> Result<(SchemaRef, Batches), ArrowError> {
    check_stream(&mut input)?;
    input.seek(SeekFrom::Start(0))?;
    let mut batches = StreamBatches::new(input);
    let first = batches.next().transpose()?;
    let found = batches.decoder.schema().ok_or_else(|| ArrowError::IpcError("it holds no schema".into()))?;
    let columns = choose(&found)?;
    let schema = Arc::new(found.project(&columns)?);
    // A stream can be read only from its start.
    let rows = if part.is_first() { usize::MAX } else { 0 };
    let all = first.map(Ok).into_iter().chain(batches).map(move |batch| batch?.project(&columns));
    Ok((schema, Box::new(all.take(rows))))
}

/// The batches of an IPC stream. Unlike Arrow's own reader it makes no more room than there are bytes,
/// whatever the stream says of its lengths.
struct StreamBatches {
    input: Input,
    decoder: StreamDecoder,
    bytes: Buffer,
    is_done: bool,
}

impl StreamBatches {
    fn new(input: Input) -> Self {
        Self { input, decoder: StreamDecoder::new(), bytes: Buffer::default(), is_done: false }
    }

    fn read(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        const CHUNK: u64 = 1 << 20;
        loop {
            if let Some(batch) = self.decoder.decode(&mut self.bytes)? {
                return Ok(Some(batch));
            }
            let mut bytes = Vec::new();
            if (&mut self.input).take(CHUNK).read_to_end(&mut bytes)? == 0 {
                self.decoder.finish()?;
                return Ok(None);
            }
            self.bytes = Buffer::from_vec(bytes);
        }
    }
}

impl Iterator for StreamBatches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let next = self.read().transpose();
        self.is_done = !matches!(next, Some(Ok(_)));
        next
    }
}
