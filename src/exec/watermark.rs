//! Watching the event time go by.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::event_time::EventTimeSummary;
use super::node::{Behaviour, map_rows};
use super::task::Task;

/// Passes rows on, and notes their event times for the next watermark.
#[derive(Debug, Clone)]
pub(crate) struct EventTimeWatermark {
    /// Which of the query's watermarks it is, from 0.
    pub(crate) index: usize,
    /// The event time: a timestamp column.
    pub(crate) column: Arc<dyn PhysicalExpr>,
    /// As in the plan, for `EXPLAIN`.
    pub(crate) delay_ms: i64,
    pub(crate) schema: SchemaRef,
    /// The source whose groups the rows are in: the input then has one more column with these.
    pub(crate) groups_of: Option<usize>,
}

impl Behaviour for EventTimeWatermark {
    fn name(&self) -> &'static str {
        "EventTimeWatermarkExec"
    }

    fn describe(&self) -> String {
        let groups = if self.groups_of.is_some() { ", by group" } else { "" };
        format!("column={}, delay={} ms{groups}", self.column, self.delay_ms)
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.column]
    }

    fn execute(
        self: &Arc<Self>,
        input: Option<&Arc<dyn ExecutionPlan>>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let (task, watermark) = (Task::of(&context)?, Arc::clone(self));
        map_rows(input, partition, context, self.schema(), move |batch| watermark.watch(batch, &task))
    }
}

impl EventTimeWatermark {
    /// The same over an input with one more column, the groups of the rows, which are of `source`.
    pub(crate) fn with_groups(self, source: usize) -> Self {
        Self { groups_of: Some(source), ..self }
    }

    fn watch(&self, batch: RecordBatch, task: &Task) -> DataFusionResult<RecordBatch> {
        let times = self.column.evaluate(&batch)?.into_array(batch.num_rows())?;
        let seen = match self.groups_of {
            None => summary(&times)?,
            Some(_) => {
                let (seen, newest_ms) = summary_by_group(&times, batch.column(batch.num_columns() - 1))?;
                task.add_group_times(self.index, newest_ms);
                seen
            }
        };
        task.add_event_times(self.index, seen, (batch.num_rows() as u64).saturating_sub(seen.count));
        // The input's columns, with the mark on the event time. `with_schema` would refuse to change a
        // mark that the input has already: one that says that this is no event time.
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let schema = Arc::clone(&self.schema);
        let columns = batch.columns()[..schema.fields().len()].to_vec();
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }
}

/// What [`summary`] says, and the newest time of each group, in milliseconds. Rows of a group come together.
fn summary_by_group(
    times: &ArrayRef,
    groups: &ArrayRef,
) -> DataFusionResult<(EventTimeSummary, BTreeMap<String, i64>)> {
    let groups = groups.as_dictionary::<Int32Type>();
    let (keys, names) = (groups.keys(), groups.values().as_string::<i32>());
    let key = |row: usize| keys.is_valid(row).then(|| keys.value(row));
    if names.len() == 1 && keys.null_count() == 0 {
        // As they come from the source.
        let seen = summary(times)?;
        let newest = seen.max_ms().map(|newest_ms| (names.value(0).to_string(), newest_ms));
        return Ok((seen, newest.into_iter().collect()));
    }
    let (mut all, mut newest) = (EventTimeSummary::default(), BTreeMap::new());
    let mut from = 0;
    while from < times.len() {
        let until = (from + 1..times.len()).find(|row| key(*row) != key(from)).unwrap_or(times.len());
        let seen = summary(&times.slice(from, until - from))?;
        all = all.and(seen);
        if let (Some(name), Some(newest_ms)) =
            (key(from).and_then(|key| usize::try_from(key).ok()), seen.max_ms())
        {
            let known = newest.entry(names.value(name).to_string()).or_insert(newest_ms);
            *known = newest_ms.max(*known);
        }
        from = until;
    }
    Ok((all, newest))
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
    let of_parts = match micros.null_count() {
        0 => micros.values().chunks(PART).map(summary_of).reduce(EventTimeSummary::and),
        _ => micros.iter().flatten().map(|time| summary_of(&[time])).reduce(EventTimeSummary::and),
    };
    Ok(of_parts.unwrap_or_default())
}

/// So few times that their differences to the first add up without overflow, mostly.
const PART: usize = 4096;

/// In one pass: every row of a stream goes through here.
fn summary_of(times: &[i64]) -> EventTimeSummary {
    /// So many are looked at side by side; one alone would wait for the one before.
    const LANES: usize = 4;
    let Some(first) = times.first().copied() else { return EventTimeSummary::default() };
    let (mut mins, mut maxes, mut sums) = ([first; LANES], [first; LANES], [0i64; LANES]);
    let lanes = times.chunks_exact(LANES);
    for (lane, time) in lanes.remainder().iter().enumerate() {
        (mins[lane], maxes[lane]) = (first.min(*time), first.max(*time));
        sums[lane] = time.wrapping_sub(first);
    }
    for times in lanes {
        for lane in 0..LANES {
            mins[lane] = mins[lane].min(times[lane]);
            maxes[lane] = maxes[lane].max(times[lane]);
            sums[lane] = sums[lane].wrapping_add(times[lane].wrapping_sub(first));
        }
    }
    let (min, max) = (mins.into_iter().fold(first, i64::min), maxes.into_iter().fold(first, i64::max));
    let above = sums.into_iter().fold(0, i64::wrapping_add);
    let count = times.len() as u64;
    let sum = match max.abs_diff(min).checked_mul(count).is_some_and(|most| i64::try_from(most).is_ok()) {
        true => i128::from(first) * i128::from(count) + i128::from(above),
        false => times.iter().map(|time| i128::from(*time)).sum(),
    };
    EventTimeSummary { count, min, max, sum }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        DictionaryArray, TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray,
    };

    use super::*;

    #[test]
    fn the_newest_time_of_each_group_is_known() {
        let times: ArrayRef =
            Arc::new(TimestampSecondArray::from(vec![Some(5), Some(9), Some(7), None, Some(1)]));
        let names = [Some("a"), Some("a"), Some("b"), Some("c"), None];
        let groups: ArrayRef = Arc::new(names.into_iter().collect::<DictionaryArray<Int32Type>>());
        let (all, newest) = summary_by_group(&times, &groups).unwrap();
        assert_eq!((all.count, all.max), (4, 9_000_000));
        assert_eq!(newest, BTreeMap::from([("a".to_string(), 9_000), ("b".to_string(), 7_000)]));
    }

    #[test]
    fn every_unit_is_counted_in_microseconds() {
        let seconds: ArrayRef = Arc::new(TimestampSecondArray::from(vec![Some(2), None, Some(-1)]));
        let found = summary(&seconds).unwrap();
        assert_eq!(found, EventTimeSummary { count: 2, min: -1_000_000, max: 2_000_000, sum: 1_000_000 });
        let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_500]).with_timezone("+02:00"));
        assert_eq!(summary(&nanos).unwrap().max, 1);
        let extremes = [i64::MAX, i64::MIN, 7, i64::MAX];
        let far: ArrayRef = Arc::new(TimestampMicrosecondArray::from(extremes.to_vec()));
        let sum = i128::from(i64::MAX) + 6;
        assert_eq!(summary(&far).unwrap(), EventTimeSummary { count: 4, min: i64::MIN, max: i64::MAX, sum });
        let many: Vec<i64> = (0..3 * PART as i64).map(|time| time * 7 - 50_000).collect();
        let sum = many.iter().map(|time| i128::from(*time)).sum();
        let (min, max) = (many[0], many[many.len() - 1]);
        let found = summary(&(Arc::new(TimestampMicrosecondArray::from(many)) as ArrayRef)).unwrap();
        assert_eq!(found, EventTimeSummary { count: 3 * PART as u64, min, max, sum });
        let none: ArrayRef = Arc::new(TimestampSecondArray::from(vec![None]));
        assert_eq!(summary(&none).unwrap(), EventTimeSummary::default());
    }
}
