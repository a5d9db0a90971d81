//! Times from before zones had offsets of whole minutes.

use chrono::{DateTime, Offset, SecondsFormat, TimeZone, Utc};
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::array::{Array, AsArray, Int64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, TimeUnit};

/// The first of January 1973. The last zone with seconds in its offset was Liberia's until 1972.
const LAST_SECONDS: i64 = 94_694_400;

/// The times of an array some of which have an offset with seconds. ISO 8601 writes offsets in hours and
/// minutes, so that a text with such an offset would be that of another instant.
pub(super) struct LocalMeanTimes {
    values: Int64Array,
    unit: TimeUnit,
    zone: Tz,
}

impl LocalMeanTimes {
    /// `None` if all times of `array` can be written with their offset.
    pub(super) fn of(array: &dyn Array) -> Option<Self> {
        let DataType::Timestamp(unit, Some(zone)) = array.data_type() else { return None };
        // Offsets that are written as such have no seconds.
        if !zone.starts_with(|first: char| first.is_ascii_alphabetic()) {
            return None;
        }
        let values = cast(array, &DataType::Int64).ok()?.as_primitive::<Int64Type>().clone();
        let end = LAST_SECONDS * per_second(*unit);
        if values.values().iter().all(|value| *value >= end) {
            return None;
        }
        let times = Self { values, unit: *unit, zone: zone.parse().ok()? };
        (0..times.values.len()).any(|index| times.instant(index).is_some()).then_some(times)
    }

    /// The text, in UTC, of the time at `index` if its offset has seconds.
    pub(super) fn in_utc(&self, index: usize) -> Option<String> {
        self.instant(index).map(|instant| instant.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }

    fn instant(&self, index: usize) -> Option<DateTime<Utc>> {
        if self.values.is_null(index) {
            return None;
        }
        let value = self.values.value(index);
        let per_second = per_second(self.unit);
        let nanos = value.rem_euclid(per_second) * (1_000_000_000 / per_second);
        let instant =
            DateTime::from_timestamp(value.div_euclid(per_second), u32::try_from(nanos).unwrap_or_default())?;
        let offset = self.zone.offset_from_utc_datetime(&instant.naive_utc()).fix();
        (offset.local_minus_utc() % 60 != 0).then_some(instant)
    }
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}
