//! What becomes of rows of Parquet, Arrow and Avro files that do not fit the table (`mode`, `badRecordsPath`).

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, BooleanArray};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use object_store::ObjectStore;
use object_store::path::Path;

use super::pinned::BatchFiles;
use super::records::{BadRecordFiles, BadRecordWriter, MALFORMED_ROWS, MALFORMED_ROWS_KEPT, Place, shorten};

/// Acts on the verdicts of a scan's rows.
#[derive(Debug)]
pub(super) struct Judge {
    /// Whether rows that do not fit are left out.
    drops: bool,
    malformed: Count,
    kept: Count,
    /// Where they go, and the store it is in.
    bad_records: Option<(BadRecordFiles, Arc<dyn ObjectStore>)>,
}

impl Judge {
    /// Counts in `metrics`.
    pub(super) fn new(
        drops: bool,
        bad_records: Option<(BadRecordFiles, Arc<dyn ObjectStore>)>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Self {
        let counter = |name: &'static str| MetricBuilder::new(metrics).global_counter(name);
        let (malformed, kept) = (counter(MALFORMED_ROWS), counter(MALFORMED_ROWS_KEPT));
        Self { drops, malformed, kept, bad_records }
    }

    /// Judges the rows of the file at `path`, from its first.
    pub(super) fn file(self: &Arc<Self>, files: &BatchFiles, path: &Path) -> DataFusionResult<JudgedFile> {
        let location = files.location();
        let relative = location.relative(path).unwrap_or(path.as_ref());
        let bad_records = self.bad_records.as_ref();
        let writer = bad_records
            .map(|(place, store)| place.writer(Arc::clone(store), relative))
            .transpose()
            .map_err(DataFusionError::from)?;
        Ok(JudgedFile { judge: Arc::clone(self), url: location.file_url(relative), writer, rows: 0 })
    }
}

/// The rows of one file.
pub(super) struct JudgedFile {
    judge: Arc<Judge>,
    url: String,
    writer: Option<BadRecordWriter>,
    /// How many were judged.
    rows: u64,
}

impl JudgedFile {
    /// The `judged` rows without their last column, which holds verdicts, and without those that are left out.
    pub(super) async fn rows(&mut self, judged: RecordBatch) -> DataFusionResult<RecordBatch> {
        let verdict = judged.num_columns().saturating_sub(1);
        let rows = judged.project(&(0..verdict).collect::<Vec<_>>())?;
        let first = self.rows + 1;
        self.rows += rows.num_rows() as u64;
        let verdicts = judged.column(verdict);
        let wrong = verdicts.len() - verdicts.null_count();
        if wrong == 0 {
            return Ok(rows);
        }
        self.judge.malformed.add(wrong);
        if let Some(writer) = &mut self.writer {
            let verdicts = verdicts.as_struct();
            let (reasons, records) =
                (verdicts.column(0).as_string::<i32>(), verdicts.column(1).as_string::<i32>());
            for row in (0..verdicts.len()).filter(|row| verdicts.is_valid(*row)) {
                let (place, reason) = (Place::Row(first + row as u64), shorten(reasons.value(row)));
                let written = writer.write(&self.url, place, records.value(row), &reason);
                written.await.map_err(DataFusionError::from)?;
            }
        }
        if self.judge.drops {
            let fits: BooleanArray = (0..verdicts.len()).map(|row| Some(verdicts.is_null(row))).collect();
            return Ok(filter_record_batch(&rows, &fits)?);
        }
        self.judge.kept.add(wrong);
        Ok(rows)
    }

    /// There are no more rows.
    pub(super) async fn finish(self) -> DataFusionResult<()> {
        match self.writer {
            Some(writer) => writer.finish().await.map_err(DataFusionError::from),
            None => Ok(()),
        }
    }
}
