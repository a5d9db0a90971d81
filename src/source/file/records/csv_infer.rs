//! Finding out the columns of CSV files.

use bytes::Bytes;
use datafusion::arrow::datatypes::Schema;
use datafusion::catalog::Session;
use datafusion::common::config::CsvOptions;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use futures::{Stream, stream};

use super::ByteSource;
use super::csv_dialect::CsvDialect;

/// How much is read at a time, unless a record is longer.
const CHUNK_BYTES: usize = 64 << 10;

/// The columns of a file, of its first `max` records. DataFusion's inference takes what it is given for whole
/// records, and cuts files at any line break itself, also inside quotes.
pub(in crate::source::file) async fn infer_csv(
    bytes: ByteSource,
    options: &CsvOptions,
    dialect: &CsvDialect,
    session: &dyn Session,
    max: usize,
) -> DataFusionResult<Schema> {
    let format = CsvFormat::default().with_options(options.clone());
    let (schema, _) = format.infer_schema_from_stream(session, max, whole_records(bytes, dialect)).await?;
    Ok(schema)
}

/// The bytes of a file, a few whole records at a time.
fn whole_records(
    bytes: ByteSource,
    dialect: &CsvDialect,
) -> impl Stream<Item = DataFusionResult<Bytes>> + '_ {
    stream::try_unfold((bytes, Vec::new(), false), move |(mut bytes, mut buffer, mut is_end)| async move {
        loop {
            if is_end {
                let rest = Bytes::from(std::mem::take(&mut buffer));
                return Ok((!rest.is_empty()).then_some((rest, (bytes, buffer, is_end))));
            }
            let wanted = CHUNK_BYTES.max(buffer.len());
            is_end = bytes.read(&mut buffer, wanted).await?;
            let records = dialect.split(&buffer, false, usize::MAX);
            if let Some(end) = records.last().map(|last| last.end).filter(|_| !is_end) {
                let rest = buffer.split_off(end);
                return Ok::<_, DataFusionError>(Some((Bytes::from(buffer), (bytes, rest, is_end))));
            }
        }
    })
}
