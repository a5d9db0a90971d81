//! `rate`: so many rows per second, for trying things out and measuring.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::logical_expr::Expr;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::generated::{self, GeneratedRows, GeneratedScan, Generator, nanos, no_offset};
use super::{Admission, Source, SourceBatch, SourceContext, SourceProvider, SourceScan};
use crate::checkpoint::records::SourceDefinition;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::storage::Storage;
use crate::types::columns;

const OPTIONS: &[&str] = &["rowsPerSecond", "rampUpTime", "numPartitions"];

const MILLIS_PER_SECOND: i64 = 1000;

/// An unbounded table `(timestamp TIMESTAMP, value BIGINT)` of rows that are generated at a steady
/// rate, as Spark's `rate` source does: values count from 0, timestamps are spread evenly over the
/// time that a batch covers.
///
/// An offset is a number of whole seconds since the query was first started. That moment is part of
/// every offset, so a query that is started again on its checkpoint continues the same sequence and
/// first gives the rows of the time in which it did not run. To record it, the first batch runs at
/// once and is empty, as in Spark. The rows of a batch depend on its offsets alone: a rerun gives the
/// same rows.
///
/// The rows of a table belong to the rate they were made with, so `rowsPerSecond` and `rampUpTime`
/// cannot be changed between restarts; `numPartitions` can.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidemill::Result<()> {
/// use tidemill::prelude::*;
///
/// let session = Session::new();
/// let rows = session.read_stream().format("rate").option("rowsPerSecond", 1000).load(None).await?;
/// let query = rows.write_stream().format("noop").start(None).await?;
/// query.stop(StopMode::Finish).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RateTable {
    speed: Speed,
    num_partitions: Option<usize>,
}

impl RateTable {
    /// The format's name.
    pub const FORMAT: &str = "rate";

    /// The table that `options` describe: `rowsPerSecond` (1), `rampUpTime` (0 seconds; fractions of
    /// a second are cut off) and `numPartitions` (as many as the session plans with, and never
    /// more).
    ///
    /// # Errors
    /// If an option is unknown or its value is not valid.
    pub fn try_new(options: &Options) -> Result<Self> {
        options.deny_unknown("the rate source", OPTIONS)?;
        let rows_per_second = options.positive("rowsPerSecond")?.unwrap_or(1);
        let Ok(rows_per_second) = i64::try_from(rows_per_second) else {
            return Err(Error::option("rowsPerSecond", rows_per_second, "there are not so many BIGINTs"));
        };
        let ramp_up = options.duration("rampUpTime")?.unwrap_or_default();
        let ramp_up_seconds = i64::try_from(ramp_up.as_secs()).unwrap_or(i64::MAX);
        if ramp_up_seconds > i64::MAX / rows_per_second {
            let most = i64::MAX / rows_per_second;
            let reason = format!("at {rows_per_second} rows per second values end after {most} seconds");
            return Err(Error::option("rampUpTime", options.get("rampUpTime").unwrap_or_default(), reason));
        }
        Ok(Self {
            speed: Speed { rows_per_second, ramp_up_seconds },
            num_partitions: generated::num_partitions(options)?,
        })
    }
}

/// How many rows there are at which time.
#[derive(Debug, Clone, Copy)]
struct Speed {
    rows_per_second: i64,
    ramp_up_seconds: i64,
}

impl Speed {
    /// How many rows there are `seconds` after the start; `None` if more than can be counted.
    ///
    /// As Spark's `RateStreamProvider.valueAtSecond`: in each second of the ramp-up the speed grows
    /// by `rowsPerSecond / (rampUpTime + 1)`, a whole number.
    fn rows_at(self, seconds: i64) -> Option<i64> {
        let growth = i128::from(self.rows_per_second / (self.ramp_up_seconds.saturating_add(1)));
        let ramped = i128::from(seconds.min(self.ramp_up_seconds));
        let steady = i128::from(seconds.saturating_sub(self.ramp_up_seconds).max(0));
        let ramp_up = growth * (ramped * (ramped + 1) / 2);
        i64::try_from(ramp_up + steady * i128::from(self.rows_per_second)).ok()
    }

    /// The rows from `start` to `end`, in seconds since `started_ms`; `None` if values or timestamps
    /// would not fit their types.
    fn rows(self, started_ms: i64, start: i64, end: i64) -> Option<GeneratedRows> {
        let at = |seconds: i64| started_ms.checked_add(seconds.checked_mul(MILLIS_PER_SECOND)?);
        let (first_ms, last_ms) = (at(start)?, at(end)?);
        nanos(first_ms)?;
        nanos(last_ms)?;
        let values = self.rows_at(start)?..self.rows_at(end)?;
        let rows = values.end.saturating_sub(values.start).max(1);
        Some(GeneratedRows { values, first_ms, millis_per_row: (last_ms - first_ms) as f64 / rows as f64 })
    }
}

impl SourceProvider for RateTable {
    fn schema(&self) -> SchemaRef {
        generated::schema()
    }

    fn schema_is_inferred(&self) -> bool {
        false
    }

    fn with_schema(&self, _: SchemaRef) -> Result<Arc<dyn SourceProvider>> {
        Err(Error::Invalid("the columns of the rate source are fixed".into()))
    }

    fn format(&self) -> &str {
        Self::FORMAT
    }

    fn description(&self) -> String {
        format!(
            "RateSource[rowsPerSecond={}, rampUpTimeSeconds={}, numPartitions={}]",
            self.speed.rows_per_second,
            self.speed.ramp_up_seconds,
            generated::partitions_text(self.num_partitions)
        )
    }

    fn definition(&self, _: &dyn Storage) -> SourceDefinition {
        let options = [
            ("rowspersecond", self.speed.rows_per_second.to_string()),
            ("rampuptime", format!("{} seconds", self.speed.ramp_up_seconds)),
        ];
        SourceDefinition {
            format: Self::FORMAT.into(),
            location: None,
            columns: columns(generated::schema().fields()),
            inferred: false,
            options: BTreeMap::from(options.map(|(name, value)| (name.to_string(), value))),
        }
    }

    fn create(&self, context: SourceContext) -> Result<Arc<dyn Source>> {
        let position = Position { started_ms: 0, latest: 0, taken: None, last: None };
        Ok(Arc::new(RateSource {
            speed: Arc::new(self.speed),
            num_partitions: self.num_partitions,
            clock: context.clock,
            position: Mutex::new(position),
        }))
    }
}

/// What the checkpoint holds. Spark's offset is the number alone, and its start time a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Offset {
    /// Whole seconds since `start_time`.
    offset: i64,
    /// When the query was first started, in milliseconds since the epoch.
    start_time: i64,
}

impl Offset {
    /// `None` before the first batch.
    fn parse(value: &Value) -> Result<Option<Self>> {
        let offset: Option<Self> =
            Deserialize::deserialize(value).map_err(|_| no_offset(value, "rate source"))?;
        match offset {
            Some(Self { offset: ..0, .. }) => Err(no_offset(value, "rate source")),
            offset => Ok(offset),
        }
    }
}

impl Generator for Speed {
    fn rows(&self, batch: &SourceBatch) -> Result<GeneratedRows> {
        let damaged = || no_offset(&batch.end, "rate source");
        let end = Offset::parse(&batch.end)?.ok_or_else(damaged)?;
        let start = Offset::parse(&batch.start)?.unwrap_or(Offset { offset: 0, ..end });
        if start.start_time != end.start_time || start.offset > end.offset {
            return Err(damaged());
        }
        Speed::rows(*self, end.start_time, start.offset, end.offset).ok_or_else(damaged)
    }
}

/// Where one run is.
#[derive(Debug)]
struct RateSource {
    speed: Arc<Speed>,
    num_partitions: Option<usize>,
    clock: Arc<dyn Clock>,
    position: Mutex<Position>,
}

/// All in seconds since `started_ms`.
#[derive(Debug)]
struct Position {
    started_ms: i64,
    /// The latest second that the clock has shown. It never goes back, even if the clock does.
    latest: i64,
    /// Up to where batches were planned; nothing before the first.
    taken: Option<i64>,
    /// Where the run ends, if it is to end.
    last: Option<i64>,
}

impl Position {
    fn look(&mut self, clock: &dyn Clock) -> i64 {
        let elapsed = clock.now_ms().saturating_sub(self.started_ms).max(0);
        self.latest = self.latest.max(elapsed / MILLIS_PER_SECOND);
        self.latest
    }

    /// An offset as the checkpoint holds it.
    fn recorded(&self, seconds: i64) -> Value {
        json!({"offset": seconds, "startTime": self.started_ms})
    }
}

impl RateSource {
    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Source for RateSource {
    async fn restore(&self, end: Value, _: Vec<Box<RawValue>>) -> Result<()> {
        let end = Offset::parse(&end)?;
        let mut position = self.position();
        position.started_ms = end.map_or_else(|| self.clock.now_ms(), |end| end.start_time);
        position.taken = end.map(|end| end.offset);
        position.latest = position.taken.unwrap_or(0);
        Ok(())
    }

    async fn prepare_available_now(&self) -> Result<()> {
        let mut position = self.position();
        position.last = Some(position.look(self.clock.as_ref()));
        Ok(())
    }

    async fn plan(&self, _: Admission) -> Result<SourceBatch> {
        let mut position = self.position();
        let latest = position.look(self.clock.as_ref());
        let end = position.last.unwrap_or(latest);
        if self.speed.rows(position.started_ms, position.taken.unwrap_or(0), end).is_none() {
            return Err(Error::Invalid(format!(
                "the rate source cannot count on: {end} seconds after its start there are more rows than \
                 BIGINTs, or it is later than a TIMESTAMP can tell. Start with a new checkpoint"
            )));
        }
        let start = position.taken.map_or(Value::Null, |taken| position.recorded(taken));
        position.taken = Some(end);
        Ok(SourceBatch { start, end: position.recorded(end), entries: Vec::new() })
    }

    fn latest_offset(&self) -> Value {
        let position = self.position();
        position.recorded(position.latest)
    }

    fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        partitions: usize,
    ) -> Result<Arc<dyn SourceScan>> {
        let speed = Arc::clone(&self.speed);
        Ok(Arc::new(GeneratedScan::new(speed, projection, partitions, self.num_partitions)?))
    }

    async fn commit(&self, _: &SourceBatch) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;

    fn table(options: &[(&str, &str)]) -> Result<RateTable> {
        RateTable::try_new(&options.iter().copied().collect())
    }

    fn source(table: &RateTable, clock: &Arc<ManualClock>) -> Arc<dyn Source> {
        let clock = Arc::clone(clock) as Arc<dyn Clock>;
        let context = SourceContext { query_id: uuid::Uuid::nil(), runtime: Default::default(), clock };
        table.create(context).unwrap()
    }

    #[test]
    fn the_ramp_up_is_sparks() {
        let rows = |rows_per_second, ramp_up_seconds| {
            let speed = Speed { rows_per_second, ramp_up_seconds };
            (0..7).map(|seconds| speed.rows_at(seconds).unwrap()).collect::<Vec<_>>()
        };
        // The example in Spark's RateStreamProvider.
        assert_eq!(rows(10, 4), [0, 2, 6, 12, 20, 30, 40]);
        assert_eq!(rows(10, 0), [0, 10, 20, 30, 40, 50, 60]);
        assert_eq!(rows(7, 2), [0, 2, 6, 13, 20, 27, 34]);
        // Too slow to grow: nothing until the ramp-up is over.
        assert_eq!(rows(3, 4), [0, 0, 0, 0, 0, 3, 6]);
        let fast = Speed { rows_per_second: i64::MAX, ramp_up_seconds: 0 };
        assert_eq!((fast.rows_at(1), fast.rows_at(2)), (Some(i64::MAX), None));
    }

    #[test]
    fn timestamps_are_spread_over_the_batch() {
        let speed = Speed { rows_per_second: 3, ramp_up_seconds: 0 };
        let rows = speed.rows(1_000, 2, 4).unwrap();
        assert_eq!((rows.values.clone(), rows.first_ms), (6..12, 3_000));
        assert!((rows.millis_per_row - 2_000.0 / 6.0).abs() < 1e-9);
        assert!(speed.rows(i64::MAX / 1_000_000, 0, 1).is_none());
    }

    #[tokio::test]
    async fn offsets_are_seconds_and_go_on_after_a_restart() {
        let clock = Arc::new(ManualClock::new(5_500));
        let table = table(&[("rowsPerSecond", "10")]).unwrap();
        let first = source(&table, &clock);
        first.restore(Value::Null, vec![]).await.unwrap();
        // The first batch records the start, and has no rows.
        let zero = first.plan(Admission::Limited).await.unwrap();
        assert_eq!((&zero.start, &zero.end), (&Value::Null, &json!({"offset": 0, "startTime": 5_500})));
        assert!(Generator::rows(&table.speed, &zero).unwrap().values.is_empty());
        clock.advance(Duration::from_millis(999));
        assert!(first.plan(Admission::Limited).await.unwrap().is_empty());
        clock.advance(Duration::from_millis(2_001));
        let batch = first.plan(Admission::Limited).await.unwrap();
        assert_eq!((&batch.start, &batch.end), (&zero.end, &json!({"offset": 3, "startTime": 5_500})));
        assert!(first.plan(Admission::Limited).await.unwrap().is_empty());
        assert_eq!(first.latest_offset(), batch.end);

        clock.advance(Duration::from_secs(60));
        let second = source(&table, &clock);
        second.restore(batch.end.clone(), vec![]).await.unwrap();
        second.prepare_available_now().await.unwrap();
        clock.advance(Duration::from_secs(60));
        let next = second.plan(Admission::Limited).await.unwrap();
        assert_eq!((next.start, next.end), (batch.end, json!({"offset": 63, "startTime": 5_500})));
        assert!(second.plan(Admission::Limited).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_clock_that_goes_back_takes_nothing_back() {
        let table = table(&[]).unwrap();
        let behind = source(&table, &Arc::new(ManualClock::new(0)));
        let end = json!({"offset": 9, "startTime": 1_000_000});
        behind.restore(end.clone(), vec![]).await.unwrap();
        let batch = behind.plan(Admission::Limited).await.unwrap();
        assert!(batch.is_empty());
        assert_eq!(batch.end, end);
    }

    #[tokio::test]
    async fn damaged_offsets_are_errors() {
        let table = table(&[]).unwrap();
        for end in [json!(3), json!({"offset": -1, "startTime": 0}), json!({"offset": 1})] {
            let source = source(&table, &Arc::new(ManualClock::new(0)));
            let error = source.restore(end, vec![]).await.unwrap_err();
            assert!(error.to_string().contains("is no offset of a rate source"), "{error}");
        }
        let offset = |offset: i64, start: i64| json!({"offset": offset, "startTime": start});
        for (start, end) in [
            (offset(2, 0), offset(1, 0)),
            (offset(1, 0), offset(2, 7)),
            (Value::Null, offset(i64::MAX, 0)),
            (offset(1, 0), Value::Null),
        ] {
            let batch = SourceBatch { start, end, entries: vec![] };
            assert!(Generator::rows(&table.speed, &batch).is_err(), "{batch:?}");
        }
    }

    #[test]
    fn options_are_checked() {
        for (option, value, expected) in [
            ("rowPerSecond", "1", "did you mean 'rowsPerSecond'?"),
            ("rowsPerSecond", "0", "at least 1"),
            ("rowsPerSecond", "18446744073709551615", "not so many BIGINTs"),
            ("rampUpTime", "soon", "a length of time"),
            ("numPartitions", "0", "at least 1"),
        ] {
            let error = table(&[(option, value)]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let endless = [("rowsPerSecond", "9223372036854775807"), ("rampUpTime", "2s")];
        assert!(table(&endless).unwrap_err().to_string().contains("values end after 1 seconds"));
        let options = [("ROWSPERSECOND", "5"), ("rampUpTime", "2500 ms"), ("numPartitions", "3")];
        let expected = "RateSource[rowsPerSecond=5, rampUpTimeSeconds=2, numPartitions=3]";
        assert_eq!(table(&options).unwrap().description(), expected);
    }
}
