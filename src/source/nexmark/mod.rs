//! `nexmark`: the events of an online auction house, as the Nexmark benchmark has them.

mod columns;
mod events;
mod random;
mod scan;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::logical_expr::Expr;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use self::events::{Events, Kind};
use self::scan::NexmarkScan;
use super::generated::{nanos, no_offset, num_partitions, partitions_text};
use super::{Admission, Source, SourceBatch, SourceContext, SourceProvider, SourceScan, columns_of};
use crate::checkpoint::records::SourceDefinition;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::storage::Storage;

const OPTIONS: &[&str] = &[
    "type",
    "events",
    "eventsPerSecond",
    "maxEventsPerTrigger",
    "outOfOrderGroupSize",
    "seed",
    "startTime",
    "numPartitions",
];

/// Events in a second of event time, if the options do not say.
const DEFAULT_RATE: u64 = 10_000;

/// The event time of the first event, if the options do not say: 2015-07-15 00:00 UTC, as in the first Nexmark
/// generators.
const DEFAULT_START_MS: i64 = 1_436_918_400_000;

/// The greatest group within which events are out of order.
const LARGEST_GROUP: u64 = 1_000_000;

/// What an event of the benchmark has on average in bytes, a little over.
const BYTES_PER_EVENT: u64 = 200;

const MILLIS_PER_SECOND: u64 = 1000;

/// An unbounded table of one type of Nexmark's events: persons who register, auctions that they open, or bids.
///
/// Events are numbered from 0; of 50 one is a person, three are auctions, 46 are bids. An event is computed from
/// its number and the seed alone, so tables of the three types that have the same options are parts of one world: the
/// bids of one are for auctions of the other. Offsets count events of all types.
///
/// With the option `events` all of them are there from the start; without it there are more and more, as many a
/// second as `eventsPerSecond` says, from the moment on that the query was first started.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidemill::Result<()> {
/// use tidemill::prelude::*;
///
/// let session = Session::new();
/// let bids =
///     session.read_stream().format("nexmark").option("type", "bid").option("events", 5_000).load(None).await?;
/// let query =
///     bids.write_stream().format("memory").query_name("bids").trigger(Trigger::AvailableNow).start(None).await?;
/// query.await_termination().await?;
/// assert_eq!(session.context().table("bids").await?.count().await?, 4_600);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct NexmarkTable {
    kind: Kind,
    events: Events,
    limits: Limits,
}

/// What may change between restarts.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// How many events there are; without it, as many as the time says.
    total: Option<u64>,
    /// The most events of a batch.
    per_trigger: Option<u64>,
    partitions: Option<usize>,
}

impl NexmarkTable {
    /// The format's name.
    pub const FORMAT: &str = "nexmark";

    /// The table that `options` describe: `type` (`person`, `auction` or `bid`; required), `events` (without end),
    /// `eventsPerSecond` (10,000), `maxEventsPerTrigger`, `outOfOrderGroupSize` (1), `seed` (0), `startTime` in
    /// milliseconds (2015-07-15) and `numPartitions`.
    ///
    /// # Errors
    /// If an option is missing or unknown, or its value is not valid.
    pub fn try_new(options: &Options) -> Result<Self> {
        options.deny_unknown("the nexmark source", OPTIONS)?;
        let kind = match options.get("type") {
            Some(name) => Kind::named(name)
                .ok_or_else(|| Error::option("type", name, "expected person, auction or bid"))?,
            None => {
                return Err(Error::Invalid(
                    "the nexmark source needs the option 'type': person, auction or bid".into(),
                ));
            }
        };
        let group = options.positive("outOfOrderGroupSize")?.unwrap_or(1);
        if group > LARGEST_GROUP || group.is_multiple_of(events::STRIDE) {
            let reason = format!("expected at most {LARGEST_GROUP}, and no multiple of {}", events::STRIDE);
            return Err(Error::option("outOfOrderGroupSize", group, reason));
        }
        let start_ms = options.parse("startTime", "milliseconds since 1970")?.unwrap_or(DEFAULT_START_MS);
        if nanos(start_ms).is_none() {
            return Err(Error::option("startTime", start_ms, "timestamps are between 1677 and 2262"));
        }
        Ok(Self {
            kind,
            events: Events {
                seed: options.parse("seed", "a whole number, 0 or more")?.unwrap_or(0),
                per_second: options.positive("eventsPerSecond")?.unwrap_or(DEFAULT_RATE),
                start_ms,
                group,
            },
            limits: Limits {
                total: options.parse("events", "a whole number, 0 or more")?,
                per_trigger: options.positive("maxEventsPerTrigger")?,
                partitions: num_partitions(options)?,
            },
        })
    }
}

impl SourceProvider for NexmarkTable {
    fn schema(&self) -> SchemaRef {
        columns::schema(self.kind)
    }

    fn schema_is_inferred(&self) -> bool {
        false
    }

    fn with_schema(&self, _: SchemaRef) -> Result<Arc<dyn SourceProvider>> {
        Err(Error::Invalid("the columns of the nexmark source are fixed".into()))
    }

    fn format(&self) -> &str {
        Self::FORMAT
    }

    fn description(&self) -> String {
        format!(
            "NexmarkSource[type={}, eventsPerSecond={}, seed={}, numPartitions={}]",
            self.kind.name(),
            self.events.per_second,
            self.events.seed,
            partitions_text(self.limits.partitions)
        )
    }

    fn definition(&self, _: &dyn Storage) -> SourceDefinition {
        let options = [
            ("type", self.kind.name().to_string()),
            ("eventspersecond", self.events.per_second.to_string()),
            ("outofordergroupsize", self.events.group.to_string()),
            ("seed", self.events.seed.to_string()),
            ("starttime", self.events.start_ms.to_string()),
        ];
        SourceDefinition {
            format: Self::FORMAT.into(),
            location: None,
            columns: columns_of(&self.schema()),
            inferred: false,
            options: BTreeMap::from(options.map(|(name, value)| (name.to_string(), value))),
        }
    }

    fn create(&self, context: SourceContext) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(NexmarkSource {
            table: self.clone(),
            clock: context.clock,
            position: Mutex::new(Position::default()),
        }))
    }
}

/// What the checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Offset {
    /// How many events of all types there were until here.
    events: u64,
    /// When the query was first started, in milliseconds since the epoch, if events come with the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start_time: Option<i64>,
}

impl Offset {
    /// `None` before the first batch.
    fn parse(value: &Value) -> Result<Option<Self>> {
        Deserialize::deserialize(value).map_err(|_| no_offset(value, "nexmark source"))
    }
}

/// Which events the offsets of `batch` stand for.
fn events_of(batch: &SourceBatch) -> Result<std::ops::Range<u64>> {
    let damaged = || no_offset(&batch.end, "nexmark source");
    let start = Offset::parse(&batch.start)?.map_or(0, |start| start.events);
    let end = Offset::parse(&batch.end)?.ok_or_else(damaged)?.events;
    if start > end {
        return Err(damaged());
    }
    Ok(start..end)
}

/// Where one run is.
#[derive(Debug)]
struct NexmarkSource {
    table: NexmarkTable,
    clock: Arc<dyn Clock>,
    position: Mutex<Position>,
}

#[derive(Debug, Default)]
struct Position {
    started_ms: i64,
    /// Up to where batches were planned; nothing before the first.
    taken: Option<u64>,
    /// How many events there were when they were counted last. It never goes back, even if the clock does.
    seen: u64,
    /// Where the run ends, if it is to end.
    last: Option<u64>,
}

impl NexmarkSource {
    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many events there are by now.
    fn look(&self, position: &mut Position) -> u64 {
        let there = self.table.limits.total.unwrap_or_else(|| {
            let elapsed = u64::try_from(self.clock.now_ms().saturating_sub(position.started_ms)).unwrap_or(0);
            let events = u128::from(elapsed) * u128::from(self.table.events.per_second);
            u64::try_from(events / u128::from(MILLIS_PER_SECOND)).unwrap_or(u64::MAX)
        });
        position.seen = position.seen.max(there);
        position.seen
    }

    /// An offset as the checkpoint holds it: of a table that ends, `null` before anything was read.
    fn recorded(&self, events: Option<u64>, started_ms: i64) -> Value {
        match (events, self.table.limits.total) {
            (None | Some(0), Some(_)) | (None, None) => Value::Null,
            (Some(events), Some(_)) => json!({"events": events}),
            (Some(events), None) => json!({"events": events, "startTime": started_ms}),
        }
    }
}

#[async_trait]
impl Source for NexmarkSource {
    async fn restore(&self, end: Value, _: Vec<Box<RawValue>>) -> Result<()> {
        let end = Offset::parse(&end)?;
        let taken = end.map(|end| end.events);
        // A table that had an end, and has none now, goes on from there.
        let elapsed = u128::from(taken.unwrap_or(0)) * u128::from(MILLIS_PER_SECOND)
            / u128::from(self.table.events.per_second);
        let begun = || self.clock.now_ms().saturating_sub(i64::try_from(elapsed).unwrap_or(i64::MAX));
        let started_ms = end.and_then(|end| end.start_time).unwrap_or_else(begun);
        *self.position() = Position { started_ms, taken, seen: taken.unwrap_or(0), last: None };
        Ok(())
    }

    async fn prepare_available_now(&self) -> Result<()> {
        let mut position = self.position();
        position.last = Some(self.look(&mut position));
        Ok(())
    }

    async fn plan(&self, admission: Admission) -> Result<SourceBatch> {
        let mut position = self.position();
        let there = self.look(&mut position);
        let most = match (admission, self.table.limits.per_trigger) {
            (Admission::Everything, _) => u64::MAX,
            (_, Some(most)) => most,
            (Admission::Within(bytes), None) => (bytes / BYTES_PER_EVENT).max(1),
            (Admission::Limited, None) => u64::MAX,
        };
        let start = position.taken.unwrap_or(0);
        let end = position.last.unwrap_or(there).min(start.saturating_add(most)).max(start);
        if !self.table.events.can_count_to(end) {
            return Err(Error::Invalid(format!(
                "the nexmark source cannot count on: the event {end} would be later than a TIMESTAMP can tell. \
                 Start with a new checkpoint, an earlier startTime or more eventsPerSecond"
            )));
        }
        let batch = SourceBatch {
            start: self.recorded(position.taken, position.started_ms),
            end: self.recorded(Some(end), position.started_ms),
            entries: Vec::new(),
        };
        position.taken = Some(end);
        Ok(batch)
    }

    fn latest_offset(&self) -> Value {
        let position = self.position();
        self.recorded(Some(position.seen), position.started_ms)
    }

    fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        partitions: usize,
    ) -> Result<Arc<dyn SourceScan>> {
        let NexmarkTable { kind, events, limits } = &self.table;
        let asked = limits.partitions;
        Ok(Arc::new(NexmarkScan::new(*kind, *events, projection, partitions, asked)?))
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

    fn source(options: &[(&str, &str)], clock: &Arc<ManualClock>) -> Arc<dyn Source> {
        let table = NexmarkTable::try_new(&options.iter().copied().collect()).unwrap();
        let clock = Arc::clone(clock) as Arc<dyn Clock>;
        table
            .create(SourceContext { query_id: uuid::Uuid::nil(), runtime: Default::default(), clock })
            .unwrap()
    }

    #[tokio::test]
    async fn all_events_of_a_table_with_an_end_are_there_at_once() {
        let clock = Arc::new(ManualClock::new(0));
        let options = [("type", "bid"), ("events", "250"), ("maxEventsPerTrigger", "100")];
        let first = source(&options, &clock);
        first.restore(Value::Null, vec![]).await.unwrap();
        let batch = first.plan(Admission::Limited).await.unwrap();
        assert_eq!((&batch.start, &batch.end), (&Value::Null, &json!({"events": 100})));
        let second = source(&options, &clock);
        second.restore(batch.end, vec![]).await.unwrap();
        second.prepare_available_now().await.unwrap();
        assert_eq!(events_of(&second.plan(Admission::Limited).await.unwrap()).unwrap(), 100..200);
        assert_eq!(events_of(&second.plan(Admission::Everything).await.unwrap()).unwrap(), 200..250);
        assert!(second.plan(Admission::Limited).await.unwrap().is_empty());
        assert_eq!(second.latest_offset(), json!({"events": 250}));
        let none = source(&[("type", "bid"), ("events", "0")], &clock);
        none.restore(Value::Null, vec![]).await.unwrap();
        assert!(none.plan(Admission::Limited).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn events_without_end_come_with_the_time_and_go_on_after_a_restart() {
        let clock = Arc::new(ManualClock::new(7_000));
        let options = [("type", "person"), ("eventsPerSecond", "50")];
        let first = source(&options, &clock);
        first.restore(Value::Null, vec![]).await.unwrap();
        let zero = first.plan(Admission::Limited).await.unwrap();
        assert_eq!(zero.end, json!({"events": 0, "startTime": 7_000}));
        clock.advance(Duration::from_millis(2_000));
        let batch = first.plan(Admission::Limited).await.unwrap();
        assert_eq!((&batch.start, &batch.end), (&zero.end, &json!({"events": 100, "startTime": 7_000})));
        clock.advance(Duration::from_secs(10));
        let second = source(&options, &clock);
        second.restore(batch.end, vec![]).await.unwrap();
        assert_eq!(events_of(&second.plan(Admission::Limited).await.unwrap()).unwrap(), 100..600);
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        for (options, expected) in [
            (&[][..], "needs the option 'type'"),
            (&[("type", "bids")][..], "expected person, auction or bid"),
            (&[("type", "bid"), ("outOfOrderGroupSize", "953")][..], "no multiple of 953"),
            (&[("type", "bid"), ("eventsPerSecond", "0")][..], "at least 1"),
            (&[("type", "bid"), ("startTime", "9223372036854775807")][..], "between 1677 and 2262"),
            (&[("type", "bid"), ("event", "1")][..], "did you mean 'events'?"),
        ] {
            let error = NexmarkTable::try_new(&options.iter().copied().collect()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
