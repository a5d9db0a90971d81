//! Leaving late rows out.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, BooleanArray};
use datafusion::arrow::compute::{filter_record_batch, min, not};
use datafusion::arrow::datatypes::{
    DataType, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::utils::collect_columns;
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
    /// A time, in microseconds since the epoch, before which no row is final: a row never is before
    /// its own event time. Far cheaper than computing when each is. `None` if the expiry is of something
    /// else than one column of times.
    fn earliest(&self, batch: &RecordBatch) -> Option<i64> {
        let mut columns = collect_columns(&self.expiry).into_iter();
        let (Some(column), None) = (columns.next(), columns.next()) else { return None };
        let times = batch.columns().get(column.index()).filter(|times| times.null_count() == 0)?;
        let DataType::Timestamp(unit, _) = times.data_type() else { return None };
        match unit {
            TimeUnit::Second => min(times.as_primitive::<TimestampSecondType>())?.checked_mul(1_000_000),
            TimeUnit::Millisecond => {
                min(times.as_primitive::<TimestampMillisecondType>())?.checked_mul(1_000)
            }
            TimeUnit::Microsecond => min(times.as_primitive::<TimestampMicrosecondType>()),
            TimeUnit::Nanosecond => {
                min(times.as_primitive::<TimestampNanosecondType>()).map(|time| time.div_euclid(1_000))
            }
        }
    }

    fn filter(&self, batch: RecordBatch, late: i64, epoch: &Epoch) -> DataFusionResult<RecordBatch> {
        if self.earliest(&batch).is_some_and(|earliest| earliest > late) {
            return Ok(batch);
        }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use datafusion::arrow::array::{ArrayRef, TimestampNanosecondArray, TimestampSecondArray};
    use datafusion::physical_expr::expressions::Column;

    use super::*;

    fn earliest(times: ArrayRef) -> Option<i64> {
        let columns: BTreeMap<&str, ArrayRef> = [("ts", times)].into();
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let expiry = Arc::new(Column::new("ts", 0));
        LateFilter { operator: 0, expiry, schema: batch.schema() }.earliest(&batch)
    }

    #[test]
    fn no_row_is_final_before_the_earliest_of_them() {
        assert_eq!(earliest(Arc::new(TimestampSecondArray::from(vec![7, -2, 5]))), Some(-2_000_000));
        assert_eq!(earliest(Arc::new(TimestampNanosecondArray::from(vec![1_999, -1]))), Some(-1));
        // Whatever an expression makes of null.
        assert_eq!(earliest(Arc::new(TimestampSecondArray::from(vec![Some(7), None]))), None);
        assert_eq!(earliest(Arc::new(datafusion::arrow::array::Int64Array::from(vec![7]))), None);
    }
}
