//! Lines of text.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatchOptions, StringBuilder, new_null_array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;

use super::decoder::{Fed, RecordDecoder, Salvaged, Stop, line_end, without_line_end};

/// Decodes each line, empty ones too, to the one column of the schema. Lines end in `\n` or `\r\n`.
pub(super) struct TextDecoder {
    /// One text column, or none if only rows are to be counted.
    schema: SchemaRef,
    batch_size: usize,
    lines: Vec<Range<usize>>,
}

impl TextDecoder {
    /// Decodes to the columns of `schema`, of which there is at most one.
    pub(super) fn new(schema: SchemaRef, batch_size: usize) -> Self {
        Self { schema, batch_size, lines: Vec::new() }
    }

    fn rows(&self, raw: &[u8], lines: &[Range<usize>]) -> Result<RecordBatch, ArrowError> {
        let mut columns = Vec::with_capacity(1);
        if !self.schema.fields().is_empty() {
            let bytes = lines.iter().map(ExactSizeIterator::len).sum();
            let mut values = StringBuilder::with_capacity(lines.len(), bytes);
            for line in lines {
                let text = std::str::from_utf8(without_line_end(&raw[line.clone()]));
                values.append_value(text.map_err(|error| ArrowError::ParseError(error.to_string()))?);
            }
            columns.push(self.typed(Arc::new(values.finish()))?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(lines.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }

    fn typed(&self, values: ArrayRef) -> Result<ArrayRef, ArrowError> {
        cast(&values, self.schema.field(0).data_type())
    }
}

impl RecordDecoder for TextDecoder {
    fn feed(&mut self, raw: &[u8], mut next: usize, end: bool) -> Fed {
        loop {
            if self.lines.len() == self.batch_size {
                return Fed { next, because: Stop::Full };
            }
            let Some(line) = line_end(raw, next, b'\n', end) else {
                return Fed { next, because: Stop::Hungry };
            };
            self.lines.push(next..line);
            next = line;
        }
    }

    fn fed_lines(&self) -> Option<u64> {
        Some(self.lines.len() as u64)
    }

    fn flush(&mut self, raw: &[u8]) -> Result<Option<RecordBatch>, ArrowError> {
        let lines = std::mem::take(&mut self.lines);
        (!lines.is_empty()).then(|| self.rows(raw, &lines)).transpose()
    }

    fn reset(&mut self) -> Result<(), ArrowError> {
        self.lines.clear();
        Ok(())
    }

    fn split(&self, raw: &[u8], end: bool, max: usize) -> Vec<Range<usize>> {
        let mut records = Vec::new();
        let mut start = 0;
        while records.len() < max
            && let Some(line) = line_end(raw, start, b'\n', end)
        {
            records.push(start..line);
            start = line;
        }
        records
    }

    fn decode(&mut self, raw: &[u8], records: &[Range<usize>]) -> Result<RecordBatch, ArrowError> {
        self.rows(raw, records)
    }

    fn salvage(&mut self, _record: &[u8]) -> Result<Salvaged, ArrowError> {
        let columns = self.schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let row = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        let column = self.schema.fields().first().map(|field| field.name().clone());
        Ok(Salvaged { row, column, reason: "the line is not valid UTF-8".into() })
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Array, AsArray};
    use datafusion::arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn decoder(data_type: DataType) -> TextDecoder {
        TextDecoder::new(Arc::new(Schema::new(vec![Field::new("value", data_type, true)])), 3)
    }

    #[test]
    fn every_line_is_a_row() {
        let mut decoder = decoder(DataType::Utf8);
        let raw = "ä\r\n\nc\rd\nlast".as_bytes();
        let full = decoder.feed(raw, 0, false);
        assert_eq!(full.because, Stop::Full);
        let rows = decoder.flush(&raw[..full.next]).unwrap().unwrap();
        let values: Vec<_> = rows.column(0).as_string::<i32>().iter().flatten().collect();
        assert_eq!(values, ["ä", "", "c\rd"]);
        assert_eq!(decoder.feed(raw, full.next, false).next, full.next);
        decoder.feed(&raw[full.next..], 0, true);
        assert_eq!(decoder.flush(&raw[full.next..]).unwrap().unwrap().num_rows(), 1);
    }

    #[test]
    fn bytes_that_are_no_text() {
        let mut decoder = decoder(DataType::Utf8View);
        let raw = b"a\xff\nb\n";
        decoder.feed(raw, 0, true);
        assert!(decoder.flush(raw).is_err());
        let salvaged = decoder.salvage(b"a\xff\n").unwrap();
        assert!(salvaged.row.column(0).is_null(0), "no text is made up");
    }
}
