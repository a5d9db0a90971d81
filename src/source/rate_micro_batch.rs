//! `rate-micro-batch`: so many rows per batch, however fast batches run.

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
use crate::error::{Error, Result};
use crate::options::Options;
use crate::storage::Storage;
use crate::types::columns;

const OPTIONS: &[&str] = &["rowsPerBatch", "numPartitions", "startTimestamp", "advanceMillisPerBatch"];

const DEFAULT_ADVANCE_MS: i64 = 1000;

/// An unbounded table `(timestamp TIMESTAMP, value BIGINT)` that gives the same rows in the same
/// batches whenever it is read, as Spark's `rate-micro-batch` source does: with `rowsPerBatch` 1000,
/// batch 0 has the values 0 to 999, all with the timestamp `startTimestamp`; batch 1 has 1000 to
/// 1999, `advanceMillisPerBatch` later; and so on, without end.
///
/// [`Trigger::AvailableNow`](crate::Trigger::AvailableNow) and
/// [`Trigger::Once`](crate::Trigger::Once) run one batch. `rowsPerBatch`, `advanceMillisPerBatch` and
/// `numPartitions` may change between restarts, `startTimestamp` may not.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidemill::Result<()> {
/// use tidemill::prelude::*;
///
/// let session = Session::new();
/// let rows =
///     session.read_stream().format("rate-micro-batch").option("rowsPerBatch", 10).load(None).await?;
/// let query = rows
///     .write_stream()
///     .format("memory")
///     .query_name("numbers")
///     .trigger(Trigger::AvailableNow)
///     .start(None)
///     .await?;
/// query.await_termination().await?;
/// assert_eq!(session.context().table("numbers").await?.count().await?, 10);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RateMicroBatchTable {
    pace: Pace,
    num_partitions: Option<usize>,
}

impl RateMicroBatchTable {
    /// The format's names: Spark's, and one that SQL takes without quotes.
    pub const FORMATS: [&str; 2] = ["rate-micro-batch", "rate_micro_batch"];

    /// The table that `options` describe: `rowsPerBatch` (required), `startTimestamp` (0) and
    /// `advanceMillisPerBatch` (1000), both in milliseconds, and `numPartitions` (as many as the
    /// session plans with, and never more).
    ///
    /// # Errors
    /// If an option is missing or unknown, or its value is not valid.
    pub fn try_new(options: &Options) -> Result<Self> {
        options.deny_unknown("the rate-micro-batch source", OPTIONS)?;
        let Some(rows_per_batch) = options.positive("rowsPerBatch")? else {
            return Err(Error::Invalid(
                "the rate-micro-batch source needs the option 'rowsPerBatch': how many rows a batch has"
                    .into(),
            ));
        };
        let Ok(rows_per_batch) = i64::try_from(rows_per_batch) else {
            return Err(Error::option("rowsPerBatch", rows_per_batch, "there are not so many BIGINTs"));
        };
        let start_ms = millis(options, "startTimestamp")?.unwrap_or(0);
        let advance_ms = millis(options, "advanceMillisPerBatch")?.unwrap_or(DEFAULT_ADVANCE_MS);
        Ok(Self {
            pace: Pace { rows_per_batch, start_ms, advance_ms },
            num_partitions: generated::num_partitions(options)?,
        })
    }
}

/// An option that counts milliseconds.
fn millis(options: &Options, name: &str) -> Result<Option<i64>> {
    let expected = "a number of milliseconds, 0 or more";
    match options.parse::<i64>(name, expected)? {
        Some(value) if value < 0 => Err(Error::option(name, value, format!("expected {expected}"))),
        Some(value) if nanos(value).is_none() => {
            Err(Error::option(name, value, "timestamps end in the year 2262"))
        }
        value => Ok(value),
    }
}

/// Which rows are in which batch.
#[derive(Debug, Clone, Copy)]
struct Pace {
    rows_per_batch: i64,
    start_ms: i64,
    advance_ms: i64,
}

impl Pace {
    /// Where the batch after `start` ends; `None` if values or timestamps would not fit their types.
    fn next(self, start: Option<Offset>) -> Option<Offset> {
        let start = self.begin(start);
        let offset = start.offset.checked_add(self.rows_per_batch)?;
        let timestamp = start.timestamp.checked_add(self.advance_ms)?;
        nanos(timestamp).map(|_| Offset { offset, timestamp })
    }

    fn begin(self, start: Option<Offset>) -> Offset {
        start.unwrap_or(Offset { offset: 0, timestamp: self.start_ms })
    }
}

impl Generator for Pace {
    fn rows(&self, batch: &SourceBatch) -> Result<GeneratedRows> {
        let damaged = || no_offset(&batch.end, "rate-micro-batch source");
        let start = self.begin(Offset::parse(&batch.start)?);
        let end = Offset::parse(&batch.end)?.ok_or_else(damaged)?;
        if start.offset > end.offset || nanos(start.timestamp).is_none() {
            return Err(damaged());
        }
        let values = start.offset..end.offset;
        Ok(GeneratedRows { values, first_ms: start.timestamp, millis_per_row: 0.0 })
    }
}

impl SourceProvider for RateMicroBatchTable {
    fn schema(&self) -> SchemaRef {
        generated::schema()
    }

    fn schema_is_inferred(&self) -> bool {
        false
    }

    fn with_schema(&self, _: SchemaRef) -> Result<Arc<dyn SourceProvider>> {
        Err(Error::Invalid("the columns of the rate-micro-batch source are fixed".into()))
    }

    fn format(&self) -> &str {
        Self::FORMATS[0]
    }

    fn description(&self) -> String {
        format!(
            "RateMicroBatchSource[rowsPerBatch={}, numPartitions={}, startTimestamp={}, \
             advanceMillisPerBatch={}]",
            self.pace.rows_per_batch,
            generated::partitions_text(self.num_partitions),
            self.pace.start_ms,
            self.pace.advance_ms
        )
    }

    fn definition(&self, _: &dyn Storage) -> SourceDefinition {
        SourceDefinition {
            format: Self::FORMATS[0].into(),
            location: None,
            columns: columns(generated::schema().fields()),
            inferred: false,
            // All else is in the offsets; only the first batch begins with an option.
            options: BTreeMap::from([("starttimestamp".to_string(), self.pace.start_ms.to_string())]),
        }
    }

    fn create(&self, _: SourceContext) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(RateMicroBatchSource {
            pace: Arc::new(self.pace),
            num_partitions: self.num_partitions,
            position: Mutex::default(),
        }))
    }
}

/// What the checkpoint holds, in Spark's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Offset {
    /// How many rows there were until here.
    offset: i64,
    /// The timestamp of the rows that come next, in milliseconds since the epoch.
    timestamp: i64,
}

impl Offset {
    /// `None` before the first batch.
    fn parse(value: &Value) -> Result<Option<Self>> {
        let damaged = || no_offset(value, "rate-micro-batch source");
        let offset: Option<Self> = Deserialize::deserialize(value).map_err(|_| damaged())?;
        match offset {
            Some(Self { offset: ..0, .. } | Self { timestamp: ..0, .. }) => Err(damaged()),
            offset => Ok(offset),
        }
    }
}

/// An offset as the checkpoint holds it: `null` before the first batch.
fn recorded(offset: Option<Offset>) -> Value {
    offset.map_or(Value::Null, |at| json!({"offset": at.offset, "timestamp": at.timestamp}))
}

/// Where one run is.
#[derive(Debug)]
struct RateMicroBatchSource {
    pace: Arc<Pace>,
    num_partitions: Option<usize>,
    position: Mutex<Position>,
}

#[derive(Debug, Default)]
struct Position {
    /// Up to where batches were planned; nothing before the first.
    taken: Option<Offset>,
    /// Whether the run is to end, and if so, whether its one batch was planned.
    one_batch: Option<bool>,
}

impl RateMicroBatchSource {
    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Source for RateMicroBatchSource {
    async fn restore(&self, end: Value, _: Vec<Box<RawValue>>) -> Result<()> {
        self.position().taken = Offset::parse(&end)?;
        Ok(())
    }

    async fn prepare_available_now(&self) -> Result<()> {
        self.position().one_batch = Some(false);
        Ok(())
    }

    async fn plan(&self, _: Admission) -> Result<SourceBatch> {
        let mut position = self.position();
        let start = recorded(position.taken);
        if position.one_batch == Some(true) {
            return Ok(SourceBatch { end: start.clone(), start, entries: Vec::new() });
        }
        let Some(end) = self.pace.next(position.taken) else {
            return Err(Error::Invalid(format!(
                "the rate-micro-batch source cannot count on after {start}: there are no more BIGINTs, or no \
                 later TIMESTAMPs. Start with a new checkpoint"
            )));
        };
        position.taken = Some(end);
        position.one_batch = position.one_batch.map(|_| true);
        Ok(SourceBatch { start, end: recorded(Some(end)), entries: Vec::new() })
    }

    fn latest_offset(&self) -> Value {
        recorded(self.position().taken)
    }

    fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        partitions: usize,
    ) -> Result<Arc<dyn SourceScan>> {
        let pace = Arc::clone(&self.pace);
        Ok(Arc::new(GeneratedScan::new(pace, projection, partitions, self.num_partitions)?))
    }

    async fn commit(&self, _: &SourceBatch) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(options: &[(&str, &str)]) -> Result<RateMicroBatchTable> {
        RateMicroBatchTable::try_new(&options.iter().copied().collect())
    }

    fn source(options: &[(&str, &str)]) -> Arc<dyn Source> {
        let context = SourceContext {
            query_id: uuid::Uuid::nil(),
            runtime: Default::default(),
            clock: Arc::new(crate::clock::SystemClock),
        };
        table(options).unwrap().create(context).unwrap()
    }

    #[tokio::test]
    async fn every_batch_has_its_rows_and_its_time() {
        let options = [("rowsPerBatch", "3"), ("startTimestamp", "500"), ("advanceMillisPerBatch", "20")];
        let first = source(&options);
        first.restore(Value::Null, vec![]).await.unwrap();
        let zero = first.plan(Admission::Limited).await.unwrap();
        assert_eq!((&zero.start, &zero.end), (&Value::Null, &json!({"offset": 3, "timestamp": 520})));
        let one = first.plan(Admission::Everything).await.unwrap();
        assert_eq!((&one.start, &one.end), (&zero.end, &json!({"offset": 6, "timestamp": 540})));
        let pace = table(&options).unwrap().pace;
        let rows: Vec<_> = [&zero, &one]
            .map(|batch| pace.rows(batch).unwrap())
            .map(|rows| (rows.values, rows.first_ms))
            .into();
        assert_eq!(rows, [(0..3, 500), (3..6, 520)]);

        // Another run, with other options, goes on where this one ended.
        let second = source(&[("rowsPerBatch", "10"), ("startTimestamp", "500")]);
        second.restore(one.end, vec![]).await.unwrap();
        second.prepare_available_now().await.unwrap();
        let two = second.plan(Admission::Limited).await.unwrap();
        assert_eq!(two.end, json!({"offset": 16, "timestamp": 1540}));
        assert!(second.plan(Admission::Limited).await.unwrap().is_empty());
        assert_eq!(second.latest_offset(), two.end);
    }

    #[tokio::test]
    async fn the_end_of_numbers_and_of_time_is_an_error() {
        let last = i64::MAX / 1_000_000;
        for end in [json!({"offset": i64::MAX - 1, "timestamp": 0}), json!({"offset": 0, "timestamp": last})]
        {
            let source = source(&[("rowsPerBatch", "2")]);
            source.restore(end, vec![]).await.unwrap();
            let error = source.plan(Admission::Limited).await.unwrap_err();
            assert!(error.to_string().contains("cannot count on"), "{error}");
        }
    }

    #[tokio::test]
    async fn damaged_offsets_are_errors() {
        for end in [json!(3), json!({"offset": -1, "timestamp": 0}), json!({"offset": 1, "timestamp": -1})] {
            let error = source(&[("rowsPerBatch", "2")]).restore(end, vec![]).await.unwrap_err();
            assert!(error.to_string().contains("is no offset of a rate-micro-batch source"), "{error}");
        }
        let at = |offset: i64| json!({"offset": offset, "timestamp": i64::MAX});
        let pace = table(&[("rowsPerBatch", "2")]).unwrap().pace;
        for (start, end) in [(at(2), at(1)), (at(1), at(2)), (at(1), Value::Null)] {
            let batch = SourceBatch { start, end, entries: vec![] };
            assert!(pace.rows(&batch).is_err(), "{batch:?}");
        }
    }

    #[test]
    fn options_are_checked() {
        let error = table(&[]).unwrap_err().to_string();
        assert!(error.contains("needs the option 'rowsPerBatch'"), "{error}");
        for (option, value, expected) in [
            ("rowsPerBatch", "0", "at least 1"),
            ("rowsPerBatch", "9223372036854775808", "not so many BIGINTs"),
            ("startTimestamp", "-1", "0 or more"),
            ("startTimestamp", "9223372036855", "2262"),
            ("advanceMillisPerBatch", "1 second", "a number of milliseconds"),
            ("advanceMilisPerBatch", "1", "did you mean 'advanceMillisPerBatch'?"),
            ("numPartitions", "0", "at least 1"),
        ] {
            let error = table(&[("rowsPerBatch", "1"), (option, value)]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
