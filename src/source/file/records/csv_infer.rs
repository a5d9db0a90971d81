//! Finding out the columns of CSV files.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::Session;
use datafusion::common::config::CsvOptions;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use futures::{Stream, TryStreamExt, stream};

use super::ByteSource;
use super::csv_dialect::CsvDialect;

/// How much is read at a time, unless a record is longer.
const CHUNK_BYTES: usize = 64 << 10;

/// The columns of a file, of its first `max` records; with `tolerant` those that have not the fields of the first one are
/// passed over. DataFusion's inference takes what it is given for whole
/// records, and cuts files at any line break itself, also inside quotes.
pub(in crate::source::file) async fn infer_csv(
    bytes: ByteSource,
    options: &CsvOptions,
    dialect: &CsvDialect,
    session: &dyn Session,
    max: usize,
    tolerant: bool,
) -> DataFusionResult<Schema> {
    let format = CsvFormat::default().with_options(options.clone());
    let codes = Arc::new(Mutex::new(Codes { left: max, is_begun: false, columns: Vec::new() }));
    let records = whole_records(bytes, dialect, tolerant).inspect_ok(|records| {
        codes.lock().unwrap_or_else(PoisonError::into_inner).look(records, dialect);
    });
    let (schema, _) = format.infer_schema_from_stream(session, max, records).await?;
    let codes = codes.lock().unwrap_or_else(PoisonError::into_inner);
    let field = |(index, field): (usize, &Arc<Field>)| {
        // As those who read records take the header.
        let field = field.as_ref().clone().with_name(field.name().trim());
        match codes.columns.get(index) {
            Some(true) if field.data_type().is_numeric() => field.with_data_type(DataType::Utf8),
            _ => field,
        }
    };
    Ok(Schema::new(schema.fields().iter().enumerate().map(field).collect::<Vec<_>>()))
}

/// Which columns hold codes of digits, such as `01067`: as a number one would be another one.
struct Codes {
    /// How many records are still to be looked at.
    left: usize,
    /// Whether the header has been passed.
    is_begun: bool,
    columns: Vec<bool>,
}

impl Codes {
    fn look(&mut self, records: &[u8], dialect: &CsvDialect) {
        let skipped = usize::from(!self.is_begun && dialect.has_header());
        self.is_begun = true;
        // Most files have none.
        let may_have = records.windows(2).any(|pair| pair[0] == b'0' && pair[1].is_ascii_digit());
        if !may_have || self.left == 0 {
            return;
        }
        let mut tokenizer = dialect.tokenizer();
        for record in
            dialect.split(records, true, self.left.saturating_add(skipped)).into_iter().skip(skipped)
        {
            self.left -= 1;
            for (column, value) in
                dialect.fields_by(&mut tokenizer, &records[record]).fields.iter().enumerate()
            {
                if is_code(value) {
                    self.columns.resize(self.columns.len().max(column + 1), false);
                    self.columns[column] = true;
                }
            }
        }
    }
}

/// Whether `value` has a zero before other digits, as no number is written.
fn is_code(value: &[u8]) -> bool {
    let digits = value.trim_ascii();
    let digits = digits.strip_prefix(b"-").or_else(|| digits.strip_prefix(b"+")).unwrap_or(digits);
    matches!(digits, [b'0', next, ..] if next.is_ascii_digit())
}

/// The bytes of a file, a few whole records at a time.
fn whole_records(
    bytes: ByteSource,
    dialect: &CsvDialect,
    tolerant: bool,
) -> impl Stream<Item = DataFusionResult<Bytes>> + '_ {
    let mut width = None;
    let mut sound = move |records: Vec<u8>| match tolerant {
        true => sound_records(&records, dialect, &mut width),
        false => records,
    };
    let pieces = stream::try_unfold(
        (bytes, Vec::new(), false, true),
        move |(mut bytes, mut buffer, mut is_end, mut is_first)| async move {
            loop {
                if is_end {
                    let rest = std::mem::take(&mut buffer);
                    return Ok((!rest.is_empty()).then_some((rest, (bytes, buffer, is_end, is_first))));
                }
                let wanted = CHUNK_BYTES.max(buffer.len());
                is_end = bytes.read(&mut buffer, wanted).await?;
                if std::mem::take(&mut is_first) {
                    let mark = if buffer.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
                    buffer.drain(..mark + dialect.separator_line(&buffer[mark..]));
                }
                let records = dialect.split(&buffer, false, usize::MAX);
                if let Some(end) = records.last().map(|last| last.end).filter(|_| !is_end) {
                    let rest = buffer.split_off(end);
                    return Ok::<_, DataFusionError>(Some((buffer, (bytes, rest, is_end, is_first))));
                }
            }
        },
    );
    pieces.map_ok(move |records| Bytes::from(sound(records)))
}

/// Those of `records` that are text and have as many fields as the first one of the file, `width`.
fn sound_records(records: &[u8], dialect: &CsvDialect, width: &mut Option<usize>) -> Vec<u8> {
    let mut sound = Vec::with_capacity(records.len());
    for record in dialect.split(records, true, usize::MAX) {
        let record = &records[record];
        let fields = dialect.fields(record);
        let count = fields.fields.len();
        let width = *width.get_or_insert(count);
        let fits = count == width || (count < width && dialect.allows_truncated_rows());
        if fits && fields.closed && fields.whole && std::str::from_utf8(record).is_ok() {
            sound.extend_from_slice(record);
        }
    }
    sound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_before_digits_are_of_codes() {
        for (value, code) in [
            ("01067", true),
            ("-00", true),
            (" 012", true),
            ("00.5", true),
            ("0", false),
            ("0.5", false),
            ("10", false),
            ("", false),
            ("0x1", false),
        ] {
            assert_eq!(is_code(value.as_bytes()), code, "{value}");
        }
    }
}
