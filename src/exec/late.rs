//! Leaving late rows out.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, BooleanArray};
use datafusion::arrow::compute::{filter_record_batch, not};
use datafusion::arrow::datatypes::{
    DataType, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::node::{Behaviour, map_rows};
use super::task::Task;

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

impl Behaviour for LateFilter {
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

    fn execute(
        self: &Arc<Self>,
        input: Option<&Arc<dyn ExecutionPlan>>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let task = Task::of(&context)?;
        let filter = task.batch.watermarks.late().map(|late| (late, Arc::clone(self)));
        map_rows(input, partition, context, self.schema(), move |batch| match &filter {
            Some((late, filter)) => filter.filter(batch, *late, &task),
            None => Ok(batch),
        })
    }
}

impl LateFilter {
    /// Whether all event times are after `late`: then no row is late, for none is final before its own
    /// event time. Far cheaper than computing when each is; it may miss that, and for an expiry that is of
    /// something else than one column of times it does.
    fn all_in_time(&self, batch: &RecordBatch, late: i64) -> bool {
        let mut columns = collect_columns(&self.expiry).into_iter();
        let (Some(column), None) = (columns.next(), columns.next()) else { return false };
        let Some(times) = batch.columns().get(column.index()).filter(|times| times.null_count() == 0) else {
            return false;
        };
        let DataType::Timestamp(unit, _) = times.data_type() else { return false };
        match unit {
            TimeUnit::Second => {
                all_after(times.as_primitive::<TimestampSecondType>().values(), late.div_euclid(1_000_000))
            }
            TimeUnit::Millisecond => {
                all_after(times.as_primitive::<TimestampMillisecondType>().values(), late.div_euclid(1_000))
            }
            TimeUnit::Microsecond => {
                all_after(times.as_primitive::<TimestampMicrosecondType>().values(), late)
            }
            // All nanoseconds of the microsecond that is late are.
            TimeUnit::Nanosecond => {
                late.checked_mul(1_000).and_then(|late| late.checked_add(999)).is_some_and(|late| {
                    all_after(times.as_primitive::<TimestampNanosecondType>().values(), late)
                })
            }
        }
    }

    fn filter(&self, batch: RecordBatch, late: i64, task: &Task) -> DataFusionResult<RecordBatch> {
        if self.all_in_time(&batch, late) {
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
        let late = || Ok(filter_record_batch(&batch, &not(&in_time)?)?);
        task.add_late_rows(self.operator, batch.num_rows() - kept, late)?;
        Ok(filter_record_batch(&batch, &in_time)?)
    }
}

/// Whether all times are greater than `late`; false if any is before 1970. Without a branch per row, and
/// with operations that every processor has for several numbers at once.
fn all_after(times: &[i64], late: i64) -> bool {
    late >= 0
        && times.iter().fold(0, |signs, time| signs | time | time.wrapping_sub(late).wrapping_sub(1)) >= 0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use datafusion::arrow::array::{
        ArrayRef, Int64Array, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
        TimestampSecondArray,
    };
    use datafusion::physical_expr::expressions::Column;

    use super::*;

    fn all_in_time(times: ArrayRef, late: i64) -> bool {
        let columns: BTreeMap<&str, ArrayRef> = [("ts", times)].into();
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let expiry = Arc::new(Column::new("ts", 0));
        LateFilter { operator: 0, expiry, schema: batch.schema() }.all_in_time(&batch, late)
    }

    #[test]
    fn a_time_that_may_be_late_is_found_in_every_unit() {
        let late = 5_000_000;
        let seconds = |time| Arc::new(TimestampSecondArray::from(vec![7, time, 9])) as ArrayRef;
        assert!(all_in_time(seconds(6), late) && !all_in_time(seconds(5), late));
        assert!(all_in_time(seconds(6), late + 999_999) && !all_in_time(seconds(5), late + 999_999));
        let millis = |time| Arc::new(TimestampMillisecondArray::from(vec![7_000, time])) as ArrayRef;
        assert!(all_in_time(millis(5_001), late) && !all_in_time(millis(5_000), late + 999));
        let micros = |time| Arc::new(TimestampMicrosecondArray::from(vec![time])) as ArrayRef;
        assert!(all_in_time(micros(late + 1), late) && !all_in_time(micros(late), late));
        let nanos = |time| Arc::new(TimestampNanosecondArray::from(vec![time])) as ArrayRef;
        assert!(all_in_time(nanos(5_000_001_000), late) && !all_in_time(nanos(5_000_000_999), late));
        for far in [i64::MIN, i64::MIN + late, -1, 0] {
            assert!(!all_in_time(micros(far), late), "{far}");
        }
        assert!(all_in_time(micros(i64::MAX), late) && !all_in_time(nanos(i64::MAX), i64::MAX));
        // Whatever an expression makes of null.
        assert!(!all_in_time(Arc::new(TimestampSecondArray::from(vec![Some(7), None])), late));
        assert!(!all_in_time(Arc::new(Int64Array::from(vec![i64::MAX])), late));
    }
}
