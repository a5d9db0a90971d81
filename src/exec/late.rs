//! Leaving late rows out.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, BooleanArray};
use datafusion::arrow::compute::{filter_record_batch, not};
use datafusion::arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::PhysicalExpr;
use futures::{StreamExt, TryStreamExt};

use super::epoch::Epoch;
use super::unary::{Batches, PartitionWork};

/// Drops and counts rows for which the state of the operator above is gone already: those that are
/// final at or before the watermark of the batch before this one.
#[derive(Debug)]
pub(crate) struct LateFilter {
    /// The operator above, whose rows are counted.
    pub(crate) operator: usize,
    /// When a row is final: Int64, in microseconds since the epoch; null for one that never is.
    pub(crate) expiry: Arc<dyn PhysicalExpr>,
    pub(crate) schema: SchemaRef,
}

impl PartitionWork for LateFilter {
    fn name(&self) -> &'static str {
        "LateFilterExec"
    }

    fn describe(&self) -> String {
        format!("operator={}, final={}", self.operator, self.expiry)
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.expiry]
    }

    fn late_rows(&self) -> Option<(usize, SchemaRef)> {
        Some((self.operator, Arc::clone(&self.schema)))
    }

    fn run(self: Arc<Self>, _: usize, rows: SendableRecordBatchStream, epoch: Arc<Epoch>) -> Batches {
        match epoch.watermarks.late() {
            None => rows,
            Some(late) => {
                rows.and_then(move |batch| std::future::ready(self.filter(batch, late, &epoch))).boxed()
            }
        }
    }
}

impl LateFilter {
    fn filter(&self, batch: RecordBatch, late: i64, epoch: &Epoch) -> DataFusionResult<RecordBatch> {
        let times = self.expiry.evaluate(&batch)?.into_array(batch.num_rows())?;
        let times = times.as_primitive::<Int64Type>();
        let values = times.values().iter().map(|time| *time > late);
        let in_time = match times.nulls() {
            None => BooleanArray::from_iter(values.map(Some)),
            Some(_) => {
                BooleanArray::from_iter(times.iter().map(|time| Some(time.is_none_or(|time| time > late))))
            }
        };
        let kept = in_time.true_count();
        if kept == batch.num_rows() {
            return Ok(batch);
        }
        epoch.operators[self.operator].add_late(batch.num_rows() - kept);
        epoch.add_late_rows(self.operator, || Ok(filter_record_batch(&batch, &not(&in_time)?)?))?;
        Ok(filter_record_batch(&batch, &in_time)?)
    }
}
