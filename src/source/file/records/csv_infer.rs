//! Finding out the columns of CSV files.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use datafusion::arrow::datatypes::Field;
use datafusion::catalog::Session;
use datafusion::common::config::CsvOptions;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use futures::{Stream, TryStreamExt, stream};

use super::ByteSource;
use super::csv_dialect::CsvDialect;
use super::csv_seen::{CsvColumn, Seen};
use crate::source::file::values::ValueRules;

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
    rules: &ValueRules,
) -> DataFusionResult<Vec<CsvColumn>> {
    let format = CsvFormat::default().with_options(options.clone());
    let seen = Arc::new(Mutex::new(Seen::new(max, rules)));
    let records = whole_records(bytes, dialect, tolerant).inspect_ok(|records| {
        seen.lock().unwrap_or_else(PoisonError::into_inner).look(records, dialect);
    });
    let (schema, _) = format.infer_schema_from_stream(session, max, records).await?;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let column = |(number, field): (usize, &Arc<Field>)| {
        // As those who read records take the header.
        seen.column(number, field.as_ref().clone().with_name(field.name().trim()))
    };
    Ok(schema.fields().iter().enumerate().map(column).collect())
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
