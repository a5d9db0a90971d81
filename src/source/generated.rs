//! Rows that are computed from a range of numbers: what the `rate` sources have in common.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, TimestampNanosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

use super::{SourceBatch, SourceScan};
use crate::error::{Error, Result};
use crate::options::Options;

/// The position of `timestamp` in [`schema`]; `value` comes after it.
const TIMESTAMP: usize = 0;

/// Below this many rows one partition is enough.
const SMALL_BATCH_ROWS: u64 = 10_000;

const NANOS_PER_MILLI: i64 = 1_000_000;

/// `timestamp TIMESTAMP NOT NULL, value BIGINT NOT NULL`. Nanoseconds, because that is what
/// DataFusion's `TIMESTAMP` is: literals and other tables compare without casts.
pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Nanosecond, None), false),
        Field::new("value", DataType::Int64, false),
    ]))
}

/// The option `numPartitions`.
pub(super) fn num_partitions(options: &Options) -> Result<Option<usize>> {
    let value = options.positive("numPartitions")?;
    Ok(value.map(|number| usize::try_from(number).unwrap_or(usize::MAX)))
}

/// `numPartitions` as descriptions show it.
pub(super) fn partitions_text(number: Option<usize>) -> String {
    number.map_or_else(|| "default".into(), |number| number.to_string())
}

/// Milliseconds since the epoch as a nanosecond timestamp; `None` beyond the year 2262.
pub(super) fn nanos(millis: i64) -> Option<i64> {
    millis.checked_mul(NANOS_PER_MILLI)
}

/// The rows of one batch. Both ends of the timestamps were checked with [`nanos`].
#[derive(Debug, Clone)]
pub(super) struct GeneratedRows {
    /// The values, ascending; not negative.
    pub(super) values: Range<i64>,
    /// The timestamp of the first value, in milliseconds since the epoch.
    pub(super) first_ms: i64,
    /// How much later each row is than the one before.
    pub(super) millis_per_row: f64,
}

impl GeneratedRows {
    fn len(&self) -> u64 {
        u64::try_from(self.values.end.saturating_sub(self.values.start)).unwrap_or(0)
    }

    /// Rounded to whole milliseconds, as in Spark.
    fn timestamp(&self, value: i64) -> i64 {
        let later = (value.wrapping_sub(self.values.start) as f64 * self.millis_per_row).round() as i64;
        self.first_ms.saturating_add(later).saturating_mul(NANOS_PER_MILLI)
    }

    fn column(&self, column: usize, values: &Int64Array) -> ArrayRef {
        if column != TIMESTAMP {
            return Arc::new(values.clone());
        }
        if self.millis_per_row == 0.0 {
            let same = self.first_ms.saturating_mul(NANOS_PER_MILLI);
            return Arc::new(TimestampNanosecondArray::from_value(same, values.len()));
        }
        let timestamps = values.values().iter().map(|value| self.timestamp(*value));
        Arc::new(TimestampNanosecondArray::from_iter_values(timestamps))
    }
}

/// Which rows the offsets of a batch stand for. Pure: a rerun gives the same rows.
pub(super) trait Generator: Debug + Send + Sync {
    /// The rows after `batch.start`, up to and including `batch.end`.
    fn rows(&self, batch: &SourceBatch) -> Result<GeneratedRows>;
}

/// Gives some columns of the rows of a [`Generator`], dealt out to partitions one by one, as in
/// Spark. Rows are computed while they are read: memory does not depend on the batch's size.
#[derive(Debug)]
pub(super) struct GeneratedScan<G> {
    generator: Arc<G>,
    schema: SchemaRef,
    columns: Vec<usize>,
    partitions: usize,
    /// Whether the user asked for several partitions.
    is_spread: bool,
}

impl<G: Generator> GeneratedScan<G> {
    /// `planned` partitions, or fewer if the user asked for fewer (`numPartitions`).
    pub(super) fn new(
        generator: Arc<G>,
        projection: Option<&Vec<usize>>,
        planned: usize,
        asked: Option<usize>,
    ) -> Result<Self> {
        let all = schema();
        let columns = projection.cloned().unwrap_or_else(|| (0..all.fields().len()).collect());
        Ok(Self {
            generator,
            schema: Arc::new(all.project(&columns)?),
            columns,
            partitions: asked.unwrap_or(planned).min(planned).max(1),
            is_spread: asked.is_some_and(|asked| asked > 1),
        })
    }
}

impl<G: Generator> SourceScan for GeneratedScan<G> {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn read(&self, batch: &SourceBatch, _: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = Arc::new(self.generator.rows(batch)?);
        let partition = |index: usize| {
            Arc::new(Partition {
                rows: Arc::clone(&rows),
                schema: Arc::clone(&self.schema),
                columns: self.columns.clone(),
                index: index as i64,
                step: self.partitions as i64,
            }) as Arc<dyn PartitionStream>
        };
        let partitions = (0..self.partitions).map(partition).collect();
        let schema = Arc::clone(&self.schema);
        Ok(Arc::new(StreamingTableExec::try_new(schema, partitions, None, None, false, None)?))
    }

    fn is_small(&self, batch: &SourceBatch) -> bool {
        !self.is_spread && self.generator.rows(batch).is_ok_and(|rows| rows.len() <= SMALL_BATCH_ROWS)
    }

    fn details(&self) -> String {
        format!("numPartitions={}", self.partitions)
    }
}

/// Every `step`th row, from the `index`th on.
#[derive(Debug)]
struct Partition {
    rows: Arc<GeneratedRows>,
    schema: SchemaRef,
    columns: Vec<usize>,
    index: i64,
    step: i64,
}

impl PartitionStream for Partition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut chunks = Chunks {
            rows: Arc::clone(&self.rows),
            schema: Arc::clone(&self.schema),
            columns: self.columns.clone(),
            next: self.rows.values.start.checked_add(self.index),
            step: self.step,
            size: i64::try_from(context.session_config().batch_size()).unwrap_or(i64::MAX).max(1),
        };
        let batches = futures::stream::iter(std::iter::from_fn(move || chunks.next_batch()));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}

/// What is left of a [`Partition`].
#[derive(Debug)]
struct Chunks {
    rows: Arc<GeneratedRows>,
    schema: SchemaRef,
    columns: Vec<usize>,
    /// The next value; `None` beyond the largest number.
    next: Option<i64>,
    step: i64,
    /// Rows per batch.
    size: i64,
}

impl Chunks {
    fn next_batch(&mut self) -> Option<DataFusionResult<RecordBatch>> {
        let start = self.next.filter(|next| *next < self.rows.values.end)?;
        let left = (self.rows.values.end - start - 1) / self.step + 1;
        let length = left.min(self.size);
        let (step, rows) = (self.step, &self.rows);
        self.next = step.checked_mul(length).and_then(|taken| start.checked_add(taken));
        let values = Int64Array::from_iter_values((0..length).map(|index| start + index * step));
        let columns = self.columns.iter().map(|column| rows.column(*column, &values)).collect();
        // Without columns (`count(*)`) only the number says how many rows there are.
        let options = RecordBatchOptions::new().with_row_count(Some(values.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options);
        Some(batch.map_err(Into::into))
    }
}

/// That a recorded offset is none of `source`.
pub(super) fn no_offset(value: &serde_json::Value, source: &str) -> Error {
    Error::damaged("offsets", format!("'{value}' is no offset of a {source}"))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::{Int64Type, TimestampNanosecondType};
    use datafusion::prelude::{SessionConfig, SessionContext};
    use futures::TryStreamExt;
    use serde_json::Value;

    use super::*;

    /// Gives the same rows for every batch.
    #[derive(Debug)]
    struct Fixed(GeneratedRows);

    impl Generator for Fixed {
        fn rows(&self, _: &SourceBatch) -> Result<GeneratedRows> {
            Ok(self.0.clone())
        }
    }

    fn batch() -> SourceBatch {
        SourceBatch { start: Value::Null, end: Value::from(1), entries: vec![] }
    }

    async fn read(scan: &GeneratedScan<Fixed>) -> Vec<Vec<RecordBatch>> {
        let context = SessionContext::new_with_config(SessionConfig::new().with_batch_size(3)).task_ctx();
        let plan = scan.read(&batch(), &context).unwrap();
        let mut partitions = Vec::new();
        for partition in 0..scan.partitions {
            let stream = plan.execute(partition, Arc::clone(&context)).unwrap();
            partitions.push(stream.try_collect().await.unwrap());
        }
        partitions
    }

    fn fixed(values: Range<i64>, millis_per_row: f64) -> Arc<Fixed> {
        Arc::new(Fixed(GeneratedRows { values, first_ms: 7, millis_per_row }))
    }

    #[tokio::test]
    async fn rows_are_dealt_out_in_batches_of_the_sessions_size() {
        let scan = GeneratedScan::new(fixed(10..20, 0.5), None, 2, None).unwrap();
        let partitions = read(&scan).await;
        let sizes: Vec<Vec<usize>> =
            partitions.iter().map(|batches| batches.iter().map(RecordBatch::num_rows).collect()).collect();
        assert_eq!(sizes, [[3, 2], [3, 2]]);
        let values = |partition: usize, batch: usize| {
            partitions[partition][batch].column(1).as_primitive::<Int64Type>().values().to_vec()
        };
        assert_eq!((values(0, 0), values(0, 1)), (vec![10, 12, 14], vec![16, 18]));
        assert_eq!((values(1, 0), values(1, 1)), (vec![11, 13, 15], vec![17, 19]));
        // 7 ms, and half a millisecond for each row since the first, rounded up.
        let timestamps = partitions[1][0].column(0).as_primitive::<TimestampNanosecondType>();
        assert_eq!(timestamps.values().to_vec(), [8_000_000, 9_000_000, 10_000_000]);
    }

    #[tokio::test]
    async fn projections_keep_the_number_of_rows() {
        let generator = fixed(0..10, 0.0);
        let none = GeneratedScan::new(Arc::clone(&generator), Some(&vec![]), 1, None).unwrap();
        let batches = read(&none).await.remove(0);
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 10);
        assert_eq!(batches[0].num_columns(), 0);
        let swapped = GeneratedScan::new(generator, Some(&vec![1, 0]), 1, None).unwrap();
        let batches = read(&swapped).await.remove(0);
        assert_eq!(batches[0].schema(), swapped.schema());
        let timestamps = batches[3].column(1).as_primitive::<TimestampNanosecondType>();
        assert_eq!(timestamps.values().to_vec(), [7_000_000]);
    }

    #[tokio::test]
    async fn the_largest_numbers_do_not_overflow() {
        let scan = GeneratedScan::new(fixed(i64::MAX - 5..i64::MAX, 0.0), None, 4, None).unwrap();
        let batches: Vec<RecordBatch> = read(&scan).await.into_iter().flatten().collect();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 5);
    }

    #[test]
    fn partitions_are_what_was_asked_for_and_no_more_than_planned() {
        let scan = |planned, asked| GeneratedScan::new(fixed(0..10, 0.0), None, planned, asked).unwrap();
        assert_eq!(scan(4, None).details(), "numPartitions=4");
        assert_eq!(scan(4, Some(2)).details(), "numPartitions=2");
        assert_eq!(scan(4, Some(9)).details(), "numPartitions=4");
        // Who asks for several gets them for a small batch too.
        assert!(scan(4, None).is_small(&batch()) && scan(4, Some(1)).is_small(&batch()));
        assert!(!scan(4, Some(2)).is_small(&batch()));
        let large = GeneratedScan::new(fixed(0..10_001, 0.0), None, 1, None).unwrap();
        assert!(!large.is_small(&batch()));
    }
}
