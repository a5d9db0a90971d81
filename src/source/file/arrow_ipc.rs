//! Arrow IPC files and streams.
//!
//! DataFusion's own reader takes columns by position and one kind per scan; this one takes them by
//! name, so that a file with other columns gives the right values or an error, and tells files from
//! streams by their first bytes.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::{FileReader, StreamDecoder, read_footer_length};
use datafusion::arrow::ipc::{Block, root_as_footer};
use datafusion::arrow::record_batch::RecordBatch;

use super::whole_file::{Batches, Input, Part, columns_of};

const FILE_MAGIC: &[u8; 6] = b"ARROW1";

/// Opens `input` and gives its columns among those wanted, and its batches with only these columns.
pub(super) fn read(
    mut input: Input,
    wanted: &Schema,
    part: Part,
) -> Result<(SchemaRef, Batches), ArrowError> {
    let mut magic = [0; FILE_MAGIC.len()];
    let is_file = input.read_exact(&mut magic).is_ok() && &magic == FILE_MAGIC;
    input.seek(SeekFrom::Start(0))?;
    if is_file { read_file(input, wanted, part) } else { read_stream(input, wanted, part) }
}

fn read_file(mut input: Input, wanted: &Schema, part: Part) -> Result<(SchemaRef, Batches), ArrowError> {
    check_blocks(&mut input)?;
    input.seek(SeekFrom::Start(0))?;
    let found = FileReader::try_new(&mut input, None)?.schema();
    let columns = columns_of(&found, wanted);
    input.seek(SeekFrom::Start(0))?;
    let mut reader = FileReader::try_new(input, Some(columns.clone()))?;
    let batches = part.batches(reader.num_batches());
    if !batches.is_empty() {
        reader.set_index(batches.start)?;
    }
    Ok((Arc::new(found.project(&columns)?), Box::new(reader.take(batches.len()))))
}

/// Fails unless the footer names blocks that lie in the file. Arrow's reader makes room for a block
/// before it looks at it.
fn check_blocks(input: &mut Input) -> Result<(), ArrowError> {
    const TRAILER: usize = 10;
    let damaged = |what: &str| ArrowError::IpcError(format!("{what} lies outside of the file"));
    let size = input.seek(SeekFrom::End(0))?;
    let mut trailer = [0; TRAILER];
    input.seek(SeekFrom::Start(size.checked_sub(TRAILER as u64).ok_or_else(|| damaged("the footer"))?))?;
    input.read_exact(&mut trailer)?;
    let length = read_footer_length(trailer)?;
    let start = size.checked_sub((length + TRAILER) as u64).ok_or_else(|| damaged("the footer"))?;
    let mut bytes = vec![0; length];
    input.seek(SeekFrom::Start(start))?;
    input.read_exact(&mut bytes)?;
    let footer = root_as_footer(&bytes)
        .map_err(|error| ArrowError::IpcError(format!("the footer cannot be read: {error}")))?;
    let blocks = footer.dictionaries().into_iter().chain(footer.recordBatches()).flatten();
    let lies_inside = |block: &Block| {
        let lengths = [block.offset(), i64::from(block.metaDataLength()), block.bodyLength()];
        let end =
            lengths.into_iter().try_fold(0_u64, |end, length| end.checked_add(u64::try_from(length).ok()?));
        end.is_some_and(|end| end <= size)
    };
    match blocks.into_iter().all(lies_inside) {
        true => Ok(()),
        false => Err(damaged("a batch")),
    }
}

fn read_stream(input: Input, wanted: &Schema, part: Part) -> Result<(SchemaRef, Batches), ArrowError> {
    let mut batches = StreamBatches::new(input);
    let first = batches.next().transpose()?;
    let found = batches.decoder.schema().ok_or_else(|| ArrowError::IpcError("it holds no schema".into()))?;
    let columns = columns_of(&found, wanted);
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
