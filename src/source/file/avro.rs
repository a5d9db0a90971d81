//! Avro object container files.
//!
//! Arrow's reader believes what a block says of itself: of one that holds more than it says it never
//! comes to the end, and of a file that is cut it loses rows. Here each block is looked through before
//! Arrow's reader gets it, uncompressed: so the rows of a damaged file are those of whole blocks.

use std::io::{BufRead, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow_avro::compression::CompressionCodec;
use datafusion::arrow_avro::reader::{HeaderInfo, ReaderBuilder, read_header_info};

use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::avro_shape::Shape;
use super::batches::{Batches, Choose, Input};
use crate::avro::with_uuids_as_text;

const MAGIC: &[u8; 4] = b"Obj\x01";
const SYNC_LENGTH: u64 = 16;
const BATCH_SIZE: usize = 8192;
/// No block is larger when it is unpacked: it would be in memory as a whole.
const MAX_BLOCK: u64 = 1 << 30;

/// Opens `input` and gives its columns among those chosen, and its batches with only these columns.
pub(super) fn read(mut input: Input, choose: Choose<'_>) -> Result<(SchemaRef, Batches), ArrowError> {
    input.seek(SeekFrom::Start(0))?;
    let header = read_header_info(&mut input)?;
    let open = || ReaderBuilder::new().with_batch_size(BATCH_SIZE);
    let found = open().build(plain_header(&header)?.as_slice())?.schema();
    let columns = choose(&found)?;
    let failure = Failure::default();
    let blocks = Blocks::new(input, &header, failure.clone())?;
    if columns.is_empty() || columns.len() == found.fields().len() {
        // The reader cannot be asked for no columns; rows are counted by reading them all.
        let schema = Arc::new(found.project(&columns)?);
        let batches = open().build(blocks)?.map(move |batch| batch?.project(&columns));
        return Ok((schema, then_failure(batches, failure)));
    }
    let reader = open().with_projection(columns).build(blocks)?;
    Ok((reader.schema(), then_failure(reader, failure)))
}

/// The columns of a file, which its header describes.
pub(super) async fn schema_of(store: &dyn ObjectStore, file: &ObjectMeta) -> Result<Schema, ArrowError> {
    const FIRST_BYTES: u64 = 64 << 10;
    let mut length = file.size.min(FIRST_BYTES);
    loop {
        let head = store.get_range(&file.location, 0..length).await;
        let head = head.map_err(|error| ArrowError::ExternalError(Box::new(error)))?;
        match read_header_info(head.as_ref()) {
            Ok(header) => {
                let plain = plain_header(&header)?;
                let reader = ReaderBuilder::new().build(plain.as_slice())?;
                return Ok(Schema::new(unmarked_all(reader.schema().fields())));
            }
            Err(error) if length == file.size => return Err(error.into()),
            // It may be longer than that.
            Err(_) => length = length.saturating_mul(8).min(file.size),
        }
    }
}

fn unmarked_all(fields: &Fields) -> Fields {
    fields.iter().map(unmarked).collect()
}

/// The field without what Avro's schema says of it beside its type: files of other names and notes have the same
/// columns.
fn unmarked(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(unmarked_all(fields)),
        DataType::List(item) => DataType::List(unmarked(item)),
        DataType::Map(entries, sorted) => DataType::Map(unmarked(entries), *sorted),
        other => other.clone(),
    };
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()))
}

/// Why no more blocks are given. Arrow's reader forgets the rows that it has when reading fails, so to it the
/// file ends there.
type Failure = Arc<Mutex<Option<ArrowError>>>;

/// The batches and then the failure, if there was one. Nothing follows an error.
fn then_failure(
    mut batches: impl Iterator<Item = Result<RecordBatch, ArrowError>> + Send + 'static,
    failure: Failure,
) -> Batches {
    let mut failed = false;
    Box::new(std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let next =
            batches.next().or_else(|| failure.lock().unwrap_or_else(PoisonError::into_inner).take().map(Err));
        failed = matches!(next, Some(Err(_)));
        next
    }))
}

fn damaged(how: &str) -> ArrowError {
    ArrowError::AvroError(format!("the file is damaged: {how}"))
}

/// The header of a file whose blocks are not compressed.
fn plain_header(header: &HeaderInfo) -> Result<Vec<u8>, ArrowError> {
    let schema = with_uuids_as_text(&header.writer_schema()?.json_string).map_err(ArrowError::SchemaError)?;
    let mut bytes = MAGIC.to_vec();
    let put = |bytes: &mut Vec<u8>, text: &[u8]| {
        write_long(bytes, text.len() as u64);
        bytes.extend_from_slice(text);
    };
    write_long(&mut bytes, 1);
    put(&mut bytes, b"avro.schema");
    put(&mut bytes, schema.as_bytes());
    write_long(&mut bytes, 0);
    bytes.extend_from_slice(&header.sync());
    Ok(bytes)
}

/// A file as if its blocks were not compressed. Each is looked through before any of it is given.
struct Blocks {
    input: Input,
    /// Where the next block begins, and how long the file is.
    position: u64,
    size: u64,
    sync: [u8; SYNC_LENGTH as usize],
    codec: Option<CompressionCodec>,
    record: Shape,
    /// What is given next.
    ready: Vec<u8>,
    given: usize,
    failure: Failure,
}

impl Blocks {
    fn new(mut input: Input, header: &HeaderInfo, failure: Failure) -> Result<Self, ArrowError> {
        let size = input.seek(SeekFrom::End(0))?;
        Ok(Self {
            input,
            position: header.header_len(),
            size,
            sync: header.sync(),
            codec: header.compression()?,
            record: Shape::parse(&header.writer_schema()?.json_string)
                .ok_or_else(|| damaged("its schema cannot be read"))?,
            ready: plain_header(header)?,
            given: 0,
            failure,
        })
    }

    /// Makes the next block ready.
    fn next_block(&mut self) -> Result<(), ArrowError> {
        self.input.seek(SeekFrom::Start(self.position))?;
        let (count, count_length) = read_long(&mut self.input)?;
        let (length, length_length) = read_long(&mut self.input)?;
        let end = [count_length, length_length, length, SYNC_LENGTH]
            .into_iter()
            .try_fold(self.position, u64::checked_add)
            .filter(|end| *end <= self.size)
            .ok_or_else(|| damaged("it ends inside of a block"))?;
        let mut packed = vec![0; length as usize];
        self.input.read_exact(&mut packed)?;
        let mut sync = [0; SYNC_LENGTH as usize];
        self.input.read_exact(&mut sync)?;
        if sync != self.sync {
            return Err(damaged("a block does not end where it says"));
        }
        let data = unpack(packed, self.codec)?;
        match self.record.skip_all(count, &data) {
            Some([]) => {}
            Some(_) => return Err(damaged("a block holds more than the records it counts")),
            None => return Err(damaged("a block holds other records than the file's schema says")),
        }
        self.position = end;
        self.ready.clear();
        self.given = 0;
        if count > 0 {
            write_long(&mut self.ready, count);
            write_long(&mut self.ready, data.len() as u64);
            self.ready.extend_from_slice(&data);
            self.ready.extend_from_slice(&self.sync);
        }
        Ok(())
    }
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Blocks {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        while self.given == self.ready.len() && self.position < self.size {
            if let Err(error) = self.next_block() {
                self.position = self.size;
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        }
        Ok(&self.ready[self.given..])
    }

    fn consume(&mut self, count: usize) {
        self.given += count;
    }
}

fn unpack(packed: Vec<u8>, codec: Option<CompressionCodec>) -> Result<Vec<u8>, ArrowError> {
    let Some(codec) = codec else { return Ok(packed) };
    let mut reader: Box<dyn Read + '_> = match codec {
        CompressionCodec::Deflate => Box::new(flate2::read::DeflateDecoder::new(packed.as_slice())),
        CompressionCodec::Snappy => return unpack_snappy(&packed),
        CompressionCodec::ZStandard => Box::new(zstd::Decoder::new(packed.as_slice())?),
        CompressionCodec::Bzip2 => Box::new(bzip2::read::BzDecoder::new(packed.as_slice())),
        CompressionCodec::Xz => Box::new(liblzma::read::XzDecoder::new(packed.as_slice())),
    };
    let mut data = Vec::new();
    let read = reader.by_ref().take(MAX_BLOCK + 1).read_to_end(&mut data);
    read.map_err(|error| damaged(&format!("a block cannot be unpacked: {error}")))?;
    if data.len() as u64 > MAX_BLOCK { Err(too_large()) } else { Ok(data) }
}

fn too_large() -> ArrowError {
    damaged("a block is larger than 1 GB when it is unpacked")
}

/// Snappy's own format, followed by a checksum of the data.
fn unpack_snappy(packed: &[u8]) -> Result<Vec<u8>, ArrowError> {
    let bad = || damaged("a block cannot be unpacked");
    let (packed, checksum) = packed.split_last_chunk::<4>().ok_or_else(bad)?;
    let length = snap::raw::decompress_len(packed).map_err(|_| bad())?;
    if length as u64 > MAX_BLOCK {
        return Err(too_large());
    }
    let data = snap::raw::Decoder::new().decompress_vec(packed).map_err(|_| bad())?;
    let mut crc = flate2::Crc::new();
    crc.update(&data);
    if crc.sum() == u32::from_be_bytes(*checksum) { Ok(data) } else { Err(bad()) }
}

fn write_long(bytes: &mut Vec<u8>, value: u64) {
    let mut zigzag = value << 1;
    while zigzag > 0x7f {
        bytes.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    bytes.push(zigzag as u8);
}

/// A number in Avro's spelling, which cannot be negative here, and how many bytes it takes.
fn read_long(input: &mut Input) -> Result<(u64, u64), ArrowError> {
    const MAX_BYTES: u64 = 10;
    let mut zigzag: u64 = 0;
    for index in 0..MAX_BYTES {
        let mut byte = [0; 1];
        input.read_exact(&mut byte).map_err(|_| damaged("it ends inside of a block"))?;
        zigzag |= u64::from(byte[0] & 0x7f) << (7 * index).min(63);
        if byte[0] & 0x80 == 0 {
            let negative = zigzag & 1 == 1;
            return if negative {
                Err(damaged("a length is negative"))
            } else {
                Ok((zigzag >> 1, index + 1))
            };
        }
    }
    Err(damaged("a length is no number"))
}
