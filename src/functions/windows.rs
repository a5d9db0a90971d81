//! Where the windows of a column of times begin.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, ListArray, PrimitiveArray, StructArray,
};
use datafusion::arrow::buffer::{OffsetBuffer, ScalarBuffer};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Int64Type, TimeUnit};
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result as DataFusionResult;

use super::finality::{WINDOW_END, WINDOW_START};
use super::units::{unit_micros, unit_nanos};

/// In how many windows a time may be at most.
const MOST_WINDOWS: i64 = 20_000;

/// The key of the field metadata that says of which windows a column holds the starts. State is kept by
/// these, and means something else by others.
pub(crate) const WINDOWS: &str = "tidemill.windows";

/// Windows of one size that begin at regular intervals. All lengths are in microseconds.
///
/// A window that reaches beyond what its type can express begins, or ends, where that does.
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

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.size)?;
        if !self.is_tumbling() {
            write!(f, " every {}us", self.slide)?;
        }
        if self.start != 0 {
            write!(f, " from {}us", self.start)?;
        }
        Ok(())
    }
}

impl Windows {
    /// The windows of these lengths, unless a time would be in too many of them.
    pub(super) fn try_new(size: i64, slide: i64, start: i64) -> DataFusionResult<Self> {
        let windows = Self { size, slide, start };
        if windows.most() > MOST_WINDOWS {
            return plan_err!(
                "window(): with this size and slide every row would be in {} windows, and {MOST_WINDOWS} are \
                 the most. Use a longer slide",
                windows.most()
            );
        }
        Ok(windows)
    }

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
        let ticks = self.ticks(&time_type)?;
        let mut newest = ticks.newest();
        let times = as_ticks(times, &time_type)?;
        let mut starts = Vec::with_capacity(times.len());
        let mut offsets = Vec::with_capacity(times.len() + 1);
        offsets.push(0_i32);
        for (row, time) in times.values().iter().enumerate() {
            if times.is_valid(row) {
                let first = newest(*time);
                starts.push(first);
                starts.extend(ticks.before(first, *time));
            }
            let Ok(offset) = i32::try_from(starts.len()) else {
                return exec_err!(
                    "a batch of {} rows is in too many windows of {} us",
                    times.len(),
                    self.size
                );
            };
            offsets.push(offset);
        }
        let starts = cast(&Int64Array::from(starts), &time_type)?;
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Ok(ListArray::try_new(start_field(time_type), offsets, starts, times.nulls().cloned())?)
    }

    /// In how many windows a time can be.
    fn most(&self) -> i64 {
        (self.size - 1) / self.slide + 1
    }
}

impl Ticks {
    /// The start of the newest window that a time is in. Times come mostly in order, so that the
    /// window of the one before is tried before anything is divided.
    pub(super) fn newest(self) -> impl FnMut(i64) -> i64 {
        let Ticks { slide, start, .. } = self;
        let phase = start.rem_euclid(slide);
        let mut last = start;
        move |time| {
            // As two's complement numbers without sign, differences of any two times are right.
            if time >= last && time.wrapping_sub(last).cast_unsigned() < slide.cast_unsigned() {
                return last;
            }
            let after_boundary = time.rem_euclid(slide) - phase;
            let since = if after_boundary < 0 { after_boundary + slide } else { after_boundary };
            match time.checked_sub(since) {
                Some(newest) => {
                    last = newest;
                    newest
                }
                // The first window there is, of which only the end can be expressed.
                None => i64::MIN,
            }
        }
    }

    /// The starts of the windows that `time` is in and that start before the one at `start`, the newest
    /// first.
    fn before(self, start: i64, time: i64) -> impl Iterator<Item = i64> {
        let Ticks { size, slide, .. } = self;
        let is_in = move |start: i64| time.wrapping_sub(start).cast_unsigned() < size.cast_unsigned();
        let mut last = start;
        std::iter::from_fn(move || {
            let next = match last.checked_sub(slide) {
                Some(next) => Some(next).filter(|next| is_in(*next)),
                // Windows that start before time does are one.
                None => Some(i64::MIN).filter(|first| {
                    last != *first && time.wrapping_sub(last).cast_unsigned() < size.abs_diff(slide)
                }),
            }?;
            last = next;
            Some(next)
        })
    }
}

/// Times, whose unit is that of `time_type` or a coarser one, in its ticks; the nearest there is if out
/// of range.
fn as_ticks(times: &ArrayRef, time_type: &DataType) -> DataFusionResult<PrimitiveArray<Int64Type>> {
    let (DataType::Timestamp(from, _), DataType::Timestamp(to, _)) = (times.data_type(), time_type) else {
        return exec_err!("expected times, found {}", times.data_type());
    };
    let ticks = cast(times, &DataType::Int64)?;
    let ticks = ticks.as_primitive::<Int64Type>();
    let factor = unit_nanos(*from) / unit_nanos(*to);
    Ok(if factor == 1 { ticks.clone() } else { ticks.unary(|time| time.saturating_mul(factor)) })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The starts of all windows that a time is in, the newest first, as numbers without limits would
    /// give them; those before time begins are one that begins with it.
    fn expected(Ticks { size, slide, start }: Ticks, time: i64) -> Vec<i64> {
        let (size, slide, start, time) =
            (i128::from(size), i128::from(slide), i128::from(start), i128::from(time));
        let newest = time - (time - start).rem_euclid(slide);
        let starts = std::iter::successors(Some(newest), |start| Some(start - slide));
        let starts = starts.take_while(|start| time - start < size);
        let mut starts: Vec<i64> = starts.map(|start| i64::try_from(start).unwrap_or(i64::MIN)).collect();
        starts.dedup();
        starts
    }

    fn any_time() -> impl Strategy<Value = i64> {
        prop_oneof![
            any::<i64>(),
            -1000_i64..1000,
            (0_i64..5000).prop_map(|after| i64::MIN + after),
            (0_i64..5000).prop_map(|before| i64::MAX - before),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn every_time_is_in_its_windows_whatever_came_before(
            times in prop::collection::vec(any_time(), 1..20),
            (slide, more, start) in (1_i64..1000, 0_i64..2000, -1000_i64..1000),
            huge in prop::bool::weighted(0.1),
        ) {
            // Windows as long as time itself.
            let (slide, size) = match huge {
                true => (i64::MAX - slide, i64::MAX - slide),
                false => (slide, slide + more),
            };
            let ticks = Ticks { size, slide, start: start % slide };
            let mut newest = ticks.newest();
            for time in times {
                let first = newest(time);
                let found: Vec<i64> = std::iter::once(first).chain(ticks.before(first, time)).collect();
                prop_assert_eq!(found, expected(ticks, time), "{} {:?}", time, ticks);
            }
        }
    }

    #[test]
    fn times_too_coarse_for_their_windows_do_not_vanish() {
        let times: ArrayRef = Arc::new(datafusion::arrow::array::TimestampSecondArray::from(vec![
            Some(i64::MAX),
            None,
            Some(i64::MIN),
        ]));
        let windows = Windows::try_new(1_500_000, 1_500_000, 0).unwrap();
        let starts = windows.newest(&times).unwrap();
        assert_eq!(starts.data_type(), &DataType::Timestamp(TimeUnit::Microsecond, None));
        assert_eq!((starts.null_count(), starts.is_null(1)), (1, true));
        let ends = windows_from(&starts, windows.size).unwrap();
        assert_eq!(ends.null_count(), 1);
    }

    #[test]
    fn a_row_is_in_no_more_windows_than_can_be_held() {
        assert!(Windows::try_new(20_000, 1, 0).is_ok());
        let error = Windows::try_new(86_400_000_000, 1, 0).unwrap_err().to_string();
        assert!(error.contains("86400000000 windows") && error.contains("longer slide"), "{error}");
    }
}
