//! Where the windows of a column of times begin.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, ListArray, PrimitiveArray, StructArray,
};
use datafusion::arrow::buffer::{OffsetBuffer, ScalarBuffer};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Int64Type, TimeUnit};
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result as DataFusionResult;

use super::finality::{WINDOW_END, WINDOW_START, unit_micros};

/// Windows of one size that begin at regular intervals. All lengths are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Hash)]
pub(crate) struct Windows {
    /// From the start of a window to its end.
    pub(crate) size: i64,
    /// From the start of a window to that of the next; at most the size.
    pub(crate) slide: i64,
    /// How far after the epoch one of the windows starts.
    pub(crate) start: i64,
}

/// [`Windows`] in the ticks of a unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticks {
    pub(super) size: i64,
    pub(super) slide: i64,
    pub(super) start: i64,
}

impl Windows {
    /// Whether every time is in exactly one window.
    pub(crate) fn is_tumbling(&self) -> bool {
        self.size == self.slide
    }

    /// The type of the starts and ends of the windows of times of `data_type`: the same, unless its
    /// unit is too coarse for them.
    pub(crate) fn time_type(&self, data_type: &DataType) -> DataFusionResult<DataType> {
        let DataType::Timestamp(unit, zone) = data_type else {
            return plan_err!("window() needs a TIMESTAMP, found {data_type}");
        };
        let tick = unit_micros(*unit);
        let fits = [self.size, self.slide, self.start].iter().all(|length| length % tick == 0);
        let unit = if fits { *unit } else { TimeUnit::Microsecond };
        Ok(DataType::Timestamp(unit, zone.clone()))
    }

    fn ticks(&self, time_type: &DataType) -> DataFusionResult<Ticks> {
        let scale = |length: i64| match time_type {
            DataType::Timestamp(TimeUnit::Nanosecond, _) => length.checked_mul(1_000),
            DataType::Timestamp(unit, _) => Some(length / unit_micros(*unit)),
            _ => None,
        };
        match (scale(self.size), scale(self.slide), scale(self.start)) {
            (Some(size), Some(slide), Some(start)) => Ok(Ticks { size, slide, start }),
            _ => exec_err!("windows of {} us are too long for {time_type}", self.size),
        }
    }

    /// For each time the start of the newest window that it is in; null for null.
    pub(crate) fn newest(&self, times: &ArrayRef) -> DataFusionResult<ArrayRef> {
        let time_type = self.time_type(times.data_type())?;
        let ticks = self.ticks(&time_type)?;
        let times = as_ticks(times, &time_type)?;
        let starts: Vec<i64> = times.values().iter().copied().map(ticks.newest()).collect();
        Ok(cast(&Int64Array::new(starts.into(), times.nulls().cloned()), &time_type)?)
    }

    /// For each time the starts of all windows that it is in, the newest first; null for null.
    pub(crate) fn all(&self, times: &ArrayRef) -> DataFusionResult<ListArray> {
        let time_type = self.time_type(times.data_type())?;
        let Ticks { size, slide, .. } = self.ticks(&time_type)?;
        let mut newest = self.ticks(&time_type)?.newest();
        let times = as_ticks(times, &time_type)?;
        let mut starts = Vec::with_capacity(times.len().saturating_mul(self.most()));
        let mut offsets = Vec::with_capacity(times.len() + 1);
        offsets.push(0_i32);
        for (row, time) in times.values().iter().enumerate() {
            if times.is_valid(row) {
                let mut next = Some(newest(*time));
                while let Some(start) = next.filter(|start| time.saturating_sub(*start) < size) {
                    starts.push(start);
                    next = start.checked_sub(slide);
                }
            }
            let Ok(offset) = i32::try_from(starts.len()) else {
                return exec_err!("a batch of {} rows is in too many windows of {size}", times.len());
            };
            offsets.push(offset);
        }
        let starts = cast(&Int64Array::from(starts), &time_type)?;
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Ok(ListArray::try_new(start_field(time_type), offsets, starts, times.nulls().cloned())?)
    }

    /// In how many windows a time can be.
    fn most(&self) -> usize {
        usize::try_from((self.size - 1) / self.slide + 1).unwrap_or(1)
    }
}

impl Ticks {
    /// The start of the newest window that a time is in. Times come mostly in order, so that the
    /// window of the one before is tried before anything is divided.
    pub(super) fn newest(self) -> impl FnMut(i64) -> i64 {
        let Ticks { slide, start, .. } = self;
        let mut last = start;
        move |time| {
            let since = time.wrapping_sub(last);
            if !(0..slide).contains(&since) {
                last = time.saturating_sub(time.saturating_sub(start).rem_euclid(slide));
            }
            last
        }
    }
}

fn as_ticks(times: &ArrayRef, time_type: &DataType) -> DataFusionResult<PrimitiveArray<Int64Type>> {
    let times = cast(&cast(times, time_type)?, &DataType::Int64)?;
    Ok(times.as_primitive::<Int64Type>().clone())
}

/// The items of a list of starts.
pub(crate) fn start_field(time_type: DataType) -> Arc<Field> {
    Arc::new(Field::new_list_field(time_type, true))
}

/// The fields of windows whose starts and ends are of `time_type`.
pub(crate) fn window_fields(time_type: &DataType) -> Fields {
    [WINDOW_START, WINDOW_END].map(|name| Field::new(name, time_type.clone(), true)).to_vec().into()
}

/// Windows of `size` microseconds that begin at `starts`; null for null.
pub(crate) fn windows_from(starts: &ArrayRef, size: i64) -> DataFusionResult<ArrayRef> {
    let time_type = starts.data_type();
    let size = Windows { size, slide: size, start: 0 }.ticks(time_type)?.size;
    let ends = cast(starts, &DataType::Int64)?;
    let ends: Int64Array = ends.as_primitive::<Int64Type>().unary(|start| start.saturating_add(size));
    let columns = vec![Arc::clone(starts), cast(&ends, time_type)?];
    Ok(Arc::new(StructArray::try_new(window_fields(time_type), columns, starts.nulls().cloned())?))
}

/// The type of the last moment in windows of `end_type`, which has microseconds.
pub(crate) fn last_moment_type(end_type: &DataType) -> DataFusionResult<DataType> {
    match end_type {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => Ok(end_type.clone()),
        DataType::Timestamp(_, zone) => Ok(DataType::Timestamp(TimeUnit::Microsecond, zone.clone())),
        other => plan_err!("window_time() needs a window, found one that ends at a {other}"),
    }
}

/// One microsecond before the end of each window; null for null.
pub(crate) fn last_moments(windows: &ArrayRef) -> DataFusionResult<ArrayRef> {
    let Some(windows) = windows.as_struct_opt() else {
        return exec_err!("window_time() needs a window, found {}", windows.data_type());
    };
    let Some(ends) = windows.column_by_name(WINDOW_END) else {
        return exec_err!("window_time() needs a window, found {}", windows.data_type());
    };
    let moment_type = last_moment_type(ends.data_type())?;
    let microsecond = match moment_type {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => 1_000,
        _ => 1,
    };
    let ends = as_ticks(ends, &moment_type)?;
    let moments: Int64Array = ends.unary(|end| end.saturating_sub(microsecond));
    let nulls = datafusion::arrow::buffer::NullBuffer::union(moments.nulls(), windows.nulls());
    let moments = Int64Array::new(moments.values().clone(), nulls);
    Ok(cast(&moments, &moment_type)?)
}
