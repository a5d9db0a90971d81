//! Feeding Arrow's decoders of CSV with records that are known to be some.

use datafusion::arrow::csv::reader::Decoder;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;

use super::csv_dialect::CsvDialect;

/// A decoder that is used again, and holds nothing in between. To make one takes longer than to decode a hundred records.
#[derive(Default)]
pub(super) struct Reused(Option<Decoder>);

impl Reused {
    /// What the decoder gives of what it was fed, of at most `rows` records. `make` makes one for so many.
    pub(super) fn read(
        &mut self,
        rows: usize,
        make: impl FnOnce() -> Decoder,
        feed: impl FnOnce(&mut Decoder) -> Result<(), ArrowError>,
    ) -> Result<Option<RecordBatch>, ArrowError> {
        let mut decoder = self.0.take().filter(|decoder| decoder.capacity() >= rows).unwrap_or_else(make);
        let empty = decoder.capacity();
        feed(&mut decoder)?;
        let read = decoder.flush();
        // Records whose values are of another type are let go of before that is found out, those that are no text are not.
        if decoder.capacity() == empty {
            self.0 = Some(decoder);
        }
        read
    }
}

/// Tells the decoder that nothing follows. An end of line first: only an open quote swallows it.
pub(super) fn finish(decoder: &mut Decoder, terminator: u8) -> Result<(), ArrowError> {
    decoder.decode(&[terminator])?;
    let before = decoder.capacity();
    if before > 0 {
        decoder.decode(&[])?;
    }
    if decoder.capacity() < before {
        return Err(ArrowError::CsvError("a quote is not closed".into()));
    }
    Ok(())
}

/// Takes in exactly one record.
pub(super) fn take_record(
    decoder: &mut Decoder,
    dialect: &CsvDialect,
    record: &[u8],
) -> Result<(), ArrowError> {
    let before = decoder.capacity();
    let taken = decoder.decode(record)?;
    if taken == record.len() && decoder.capacity() == before {
        decoder.decode(&[dialect.terminator()])?;
    }
    // A full decoder leaves the second byte of a line's end behind; one that is not full may have
    // begun another record behind a carriage return.
    if decoder.capacity() + 1 != before || !is_line_end(&record[taken..]) || !dialect.is_one_record(record) {
        return Err(ArrowError::CsvError("the line is not one record".into()));
    }
    Ok(())
}

fn is_line_end(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::csv::ReaderBuilder;
    use datafusion::arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    #[test]
    fn what_went_before_makes_no_difference() {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let make = |rows| ReaderBuilder::new(Arc::clone(&schema)).with_batch_size(rows).build_decoder();
        let mut reused = Reused::default();
        let mut made = 0;
        for (text, is_good) in [
            (&b"1\n"[..], true),
            (b"2\n3\n", true),
            (b"x\n", false),
            (b"4\n", true),
            (b"5,6\n", false),
            (b"7\n", true),
            (b"\xff\n", false),
            (b"8\n", true),
            (b"9\n9\n9\n", true),
        ] {
            let lines = text.iter().filter(|byte| **byte == b'\n').count();
            let fresh = || {
                made += 1;
                make(lines.max(2))
            };
            let read = reused.read(lines, fresh, |decoder| decoder.decode(text).map(drop));
            let rows = read.as_ref().ok().map(|rows| rows.as_ref().map_or(0, RecordBatch::num_rows));
            assert_eq!(rows, is_good.then_some(lines), "{text:?}: {read:?}");
        }
        assert_eq!(made, 4, "the first, after two that broke off, and one that is larger");
    }
}
