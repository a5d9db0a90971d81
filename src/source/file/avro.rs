//! Avro object container files.
//!
//! DataFusion's own reader takes a file that ends in the middle of a block for one that ends before
//! it, and loses rows; this one looks at the blocks first.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow_avro::reader::{Reader, ReaderBuilder, read_header_info};

use super::whole_file::{Batches, Input, columns_of};

const SYNC_LENGTH: u64 = 16;
const BATCH_SIZE: usize = 8192;

/// Opens `input` and gives its columns among those wanted, and its batches with only these columns.
pub(super) fn read(mut input: Input, wanted: &Schema) -> Result<(SchemaRef, Batches), ArrowError> {
    let records = count_records(&mut input)?;
    let open = || ReaderBuilder::new().with_batch_size(BATCH_SIZE);
    input.seek(SeekFrom::Start(0))?;
    let found = open().build(&mut input)?.schema();
    input.seek(SeekFrom::Start(0))?;
    let columns = columns_of(&found, wanted);
    if columns.is_empty() || columns.len() == found.fields().len() {
        // The reader cannot be asked for no columns; rows are counted by reading them all.
        let schema = Arc::new(found.project(&columns)?);
        let batches = Counted { reader: open().build(input)?, missing: records };
        return Ok((schema, Box::new(batches.map(move |batch| batch?.project(&columns)))));
    }
    let reader = open().with_projection(columns).build(input)?;
    Ok((reader.schema(), Box::new(Counted { reader, missing: records })))
}

/// The batches of a reader, which must be as many rows as were counted.
struct Counted {
    reader: Reader<Input>,
    missing: u64,
}

impl Iterator for Counted {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.reader.next() {
            None if self.missing == 0 => None,
            None => {
                let missing = std::mem::take(&mut self.missing);
                Some(Err(damaged(&format!("{missing} of its records are missing"))))
            }
            Some(Ok(batch)) => {
                self.missing = self.missing.saturating_sub(batch.num_rows() as u64);
                Some(Ok(batch))
            }
            Some(Err(error)) => {
                self.missing = 0;
                Some(Err(error))
            }
        }
    }
}

fn damaged(how: &str) -> ArrowError {
    ArrowError::AvroError(format!("the file is damaged: {how}"))
}

/// Goes from block to block; fails unless the last one ends where the file does. Gives the number of
/// records in them.
fn count_records(input: &mut Input) -> Result<u64, ArrowError> {
    let size = input.seek(SeekFrom::End(0))?;
    input.seek(SeekFrom::Start(0))?;
    let header = read_header_info(&mut *input)?;
    let mut position = header.header_len();
    let mut records: u64 = 0;
    while position < size {
        input.seek(SeekFrom::Start(position))?;
        let (count, count_length) = read_long(input)?;
        let (length, length_length) = read_long(input)?;
        let end = [count_length, length_length, length, SYNC_LENGTH]
            .into_iter()
            .try_fold(position, u64::checked_add)
            .filter(|end| *end <= size)
            .ok_or_else(|| damaged("it ends inside of a block"))?;
        let mut sync = [0; SYNC_LENGTH as usize];
        input.seek(SeekFrom::Start(end - SYNC_LENGTH))?;
        input.read_exact(&mut sync)?;
        if sync != header.sync() {
            return Err(damaged("a block does not end where it says"));
        }
        records = records.saturating_add(count);
        position = end;
    }
    Ok(records)
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
