//! Watching the event time go by.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::{cast, max, min};
use datafusion::arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::PhysicalExpr;
use futures::{StreamExt, TryStreamExt};

use super::epoch::Epoch;
use super::event_time::EventTimeSummary;
use super::unary::{Batches, PartitionWork};

/// Passes rows on, and notes their event times for the next watermark.
#[derive(Debug)]
pub(crate) struct EventTimeWatermark {
    /// Which of the query's watermarks it is, from 0.
    pub(crate) index: usize,
    /// The event time: a timestamp column.
    pub(crate) column: Arc<dyn PhysicalExpr>,
    /// As in the plan, for `EXPLAIN`.
    pub(crate) delay_ms: i64,
    pub(crate) schema: SchemaRef,
}

impl PartitionWork for EventTimeWatermark {
    fn name(&self) -> &'static str {
        "EventTimeWatermarkExec"
    }

    fn describe(&self) -> String {
        format!("column={}, delay={} ms", self.column, self.delay_ms)
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.column]
    }

    fn run(self: Arc<Self>, _: usize, rows: SendableRecordBatchStream, epoch: Arc<Epoch>) -> Batches {
        let schema = self.schema();
        rows.and_then(move |batch| std::future::ready(self.watch(batch, &epoch, &schema))).boxed()
    }
}

impl EventTimeWatermark {
    fn watch(&self, batch: RecordBatch, epoch: &Epoch, schema: &SchemaRef) -> DataFusionResult<RecordBatch> {
        let times = self.column.evaluate(&batch)?.into_array(batch.num_rows())?;
        epoch.event_times[self.index].add(summary(&times)?);
        // The input's columns, with the mark on the event time. `with_schema` would refuse to change a
        // mark that the input has already: one that says that this is no event time.
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)?)
    }
}

/// Count, extremes and sum of timestamps of any unit.
fn summary(times: &ArrayRef) -> DataFusionResult<EventTimeSummary> {
    let zone = match times.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let micros = cast(times, &DataType::Timestamp(TimeUnit::Microsecond, zone))?;
    let micros = cast(&micros, &DataType::Int64)?;
    let micros = micros.as_primitive::<Int64Type>();
    let (Some(min), Some(max)) = (min(micros), max(micros)) else {
        return Ok(EventTimeSummary::default());
    };
    let count = (micros.len() - micros.null_count()) as u64;
    // Differences to the smallest are small: adding those takes a fraction of the time.
    let spread = max.abs_diff(min);
    let above: u128 = match (micros.null_count(), spread.checked_mul(count)) {
        (0, Some(_)) => micros.values().iter().map(|time| time.abs_diff(min)).sum::<u64>().into(),
        _ => micros.iter().flatten().map(|time| u128::from(time.abs_diff(min))).sum(),
    };
    let sum = i128::from(min) * i128::from(count) + above as i128;
    Ok(EventTimeSummary { count, min, max, sum })
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{TimestampNanosecondArray, TimestampSecondArray};

    use super::*;

    #[test]
    fn every_unit_is_counted_in_microseconds() {
        let seconds: ArrayRef = Arc::new(TimestampSecondArray::from(vec![Some(2), None, Some(-1)]));
        let found = summary(&seconds).unwrap();
        assert_eq!(found, EventTimeSummary { count: 2, min: -1_000_000, max: 2_000_000, sum: 1_000_000 });
        let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_500]).with_timezone("+02:00"));
        assert_eq!(summary(&nanos).unwrap().max, 1);
        let none: ArrayRef = Arc::new(TimestampSecondArray::from(vec![None]));
        assert_eq!(summary(&none).unwrap(), EventTimeSummary::default());
    }
}
