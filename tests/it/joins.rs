//! Joins of streams, where more is known than what `stateful` checks of all queries: which bounds of time are
//! found, what is kept and shown, and that the order in which rows come does not matter.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::util::display::array_value_to_string;
use tidemill::prelude::*;
use tidemill::source::memory::MemoryStream;
use tidemill::sql::SqlOutcome;
use tidemill::{DataStreamWriter, Error, SourceFactory, SourceRequest};

use crate::support::probe::Probe;

/// A row: a number, a key, seconds; `None` for null.
type Event = (i64, Option<i64>, Option<i64>);

fn columns() -> SchemaRef {
    let time = |unit, zone: Option<&str>| DataType::Timestamp(unit, zone.map(Into::into));
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("k", DataType::Int64, true),
        Field::new("ts", time(TimeUnit::Microsecond, None), true),
        Field::new("until", time(TimeUnit::Microsecond, None), true),
        Field::new("berlin", time(TimeUnit::Millisecond, Some("Europe/Berlin")), true),
    ]))
}

fn rows(events: &[Event]) -> RecordBatch {
    let times: Vec<Option<i64>> =
        events.iter().map(|event| event.2.map(|seconds| seconds * 1_000_000)).collect();
    let until = times.iter().map(|time| time.map(|time| time + 5_000_000));
    let berlin = times.iter().map(|time| time.map(|time| time / 1000));
    let berlin = datafusion::arrow::array::TimestampMillisecondArray::from_iter(berlin);
    let columns_of: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(events.iter().map(|event| event.0))),
        Arc::new(Int64Array::from_iter(events.iter().map(|event| event.1))),
        Arc::new(TimestampMicrosecondArray::from(times.clone())),
        Arc::new(TimestampMicrosecondArray::from_iter(until)),
        Arc::new(berlin.with_timezone("Europe/Berlin")),
    ];
    RecordBatch::try_new(columns(), columns_of).unwrap()
}

#[derive(Debug)]
struct Feed(MemoryStream);

#[async_trait::async_trait]
impl SourceFactory for Feed {
    async fn create(&self, _: SourceRequest) -> tidemill::Result<Arc<dyn tidemill::source::SourceProvider>> {
        Ok(Arc::new(self.0.clone()))
    }
}

/// Two streams `a` and `b`, with watermarks at their newest times, and what a query over them gave.
struct World {
    streams: [MemoryStream; 2],
    folder: tempfile::TempDir,
    probe: Probe,
}

impl World {
    fn new() -> Self {
        let streams = [MemoryStream::new(columns()), MemoryStream::new(columns())];
        Self { streams, folder: tempfile::tempdir().unwrap(), probe: Probe::default() }
    }

    fn checkpoint(&self) -> String {
        self.folder.path().join("checkpoint").to_str().unwrap().to_string()
    }

    async fn frame(&self, session: &Session, sql: &str, timed: [&str; 2]) -> tidemill::Result<DataFrame> {
        self.probe.register(session);
        for ((name, stream), time) in ["a", "b"].into_iter().zip(&self.streams).zip(timed) {
            session.register_source(name, Arc::new(Feed(stream.clone())));
            let mut table = session.read_stream().format(name).load(None).await?;
            if !time.is_empty() {
                table = table.with_watermark(time, "0 seconds")?;
            }
            session.context().register_table(name, table.into_view())?;
        }
        Ok(session.context().sql(sql).await?)
    }

    async fn explain(&self, sql: &str, timed: [&str; 2]) -> tidemill::Result<String> {
        let session = Session::new();
        self.frame(&session, sql, timed).await?.write_stream().format("noop").explain(None).await
    }

    async fn start(&self, sql: &str, end: bool) -> tidemill::Result<(Session, StreamingQuery)> {
        let session = Session::new();
        let writer = self.frame(&session, sql, ["ts", "ts"]).await?.write_stream().format("probe");
        let writer = match end {
            true => writer.trigger(Trigger::AvailableNow).option("flushOnEnd", "true"),
            false => writer.trigger(Trigger::AtOnce),
        };
        let writer = writer.option("checkpointLocation", self.checkpoint()).option("durability", "process");
        Ok((session, writer.start(None).await?))
    }

    /// Adds rows to the streams, and lets the query read them.
    async fn add(&self, query: &StreamingQuery, a: &[Event], b: &[Event]) -> Vec<String> {
        let before = self.probe.record_batches().len() as u64;
        for (stream, events) in self.streams.iter().zip([a, b]) {
            if !events.is_empty() {
                stream.add_data(rows(events)).unwrap();
            }
        }
        query.process_all_available().await.unwrap();
        texts(self.probe.record_batches().range(before..).flat_map(|(_, rows)| rows))
    }

    /// All that the query has given when everything is read and final.
    async fn finish(&self, sql: &str) -> Vec<String> {
        let (_session, query) = self.start(sql, true).await.unwrap();
        query.await_termination().await.unwrap();
        texts(self.probe.record_batches().values().flatten())
    }

    async fn state(&self, operator: usize) -> (Vec<String>, Vec<String>) {
        let sql = format!("SELECT * FROM state('{}', {operator})", self.checkpoint());
        let Some(SqlOutcome::Rows(frame)) = Session::new().sql(&sql).await.unwrap().pop() else {
            panic!("{sql} gives no rows");
        };
        let names = frame.schema().fields().iter().map(|field| field.name().clone()).collect();
        (names, texts(&frame.collect().await.unwrap()))
    }
}

fn texts<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> Vec<String> {
    let mut found = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cell = |column: &Arc<dyn Array>| match array_value_to_string(column, row).unwrap() {
                empty if empty.is_empty() => "-".to_string(),
                text => text,
            };
            found.push(batch.columns().iter().map(cell).collect::<Vec<_>>().join(" "));
        }
    }
    found.sort();
    found
}

/// When rows of a side are forgotten, as `EXPLAIN` says it: by which spans after which columns.
fn finals(plan: &str, side: &str) -> Vec<String> {
    let line = plan.lines().find(|line| line.contains("StatefulJoin:")).unwrap();
    let (_, rest) = line.split_once(&format!("{side}_final=")).unwrap();
    let own = rest.split(", right_final=").next().unwrap();
    if own.starts_with("never") {
        return vec!["never".into()];
    }
    let calls = own.split("final_at[").skip(1);
    let calls = calls.map(|call| call.split_once(']').unwrap());
    calls.map(|(span, rest)| format!("{span}{}", rest.split_inclusive(')').next().unwrap())).collect()
}

#[tokio::test]
async fn bounds_of_time_are_found_however_they_are_written() {
    let world = World::new();
    for (condition, left, right) in [
        ("a.k = b.k", "never", "never"),
        (
            "b.ts BETWEEN a.ts - INTERVAL '1 minute' AND a.ts + INTERVAL '1 hour'",
            "+3600000000us(a.ts)",
            "+60000000us(b.ts)",
        ),
        ("b.ts >= a.ts AND b.ts < a.ts + INTERVAL '2' SECOND", "+2000000us(a.ts)", "0(b.ts)"),
        ("a.ts > b.ts", "0(a.ts)", "never"),
        ("a.ts < b.ts", "never", "0(b.ts)"),
        ("a.ts + INTERVAL '3 seconds' >= b.ts", "+3000000us(a.ts)", "never"),
        ("a.ts - INTERVAL '3 seconds' >= b.ts", "+-3000000us(a.ts)", "never"),
        (
            "b.ts - INTERVAL '3 seconds' <= a.ts + INTERVAL '1 second' + INTERVAL '1 second'",
            "+5000000us(a.ts)",
            "never",
        ),
        ("INTERVAL '3 seconds' + a.ts >= b.ts", "+3000000us(a.ts)", "never"),
        ("b.ts - a.ts <= INTERVAL '4 seconds'", "+4000000us(a.ts)", "never"),
        ("a.ts - b.ts >= INTERVAL '-4 seconds'", "+4000000us(a.ts)", "never"),
        ("NOT (b.ts > a.ts)", "0(a.ts)", "never"),
        ("a.ts = b.ts", "0(a.ts)", "0(b.ts)"),
        // What is equal to an event time is final with it; what is computed from one is no event time, but bounds it.
        ("a.ts + INTERVAL '1 second' = b.ts", "0(a.ts + ", "+-1000000us(b.ts)"),
        ("b.ts = a.ts + INTERVAL '2 hours'", "0(a.ts + ", "+-7200000000us(b.ts)"),
        ("date_trunc('minute', a.ts) = date_trunc('minute', b.ts)", "", ""),
        // What bounds a time may be any column of the other side.
        ("b.ts BETWEEN a.ts AND a.until", "0(a.until)", "0(b.ts)"),
        ("b.ts <= CAST(a.ts AS TIMESTAMP(9))", "0(CAST(a.ts AS ", "never"),
        // Months are of no fixed length; on the other side they are added to what there is.
        ("b.ts + INTERVAL '1 month' <= a.ts", "never", "never"),
        ("b.ts <= a.ts + INTERVAL '1 month'", "0(a.ts + ", "never"),
        // Bounds of times that are no event times say nothing.
        ("b.until <= a.ts", "never", "never"),
        ("b.ts <= a.ts OR a.k = b.k", "never", "never"),
        ("b.ts <> a.ts", "never", "never"),
    ] {
        let sql = format!("SELECT a.id, b.id FROM a JOIN b ON {condition}");
        let plan = world.explain(&sql, ["ts", "ts"]).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        for (side, expected) in [("left", left), ("right", right)] {
            let found = finals(&plan, side).join(" ");
            assert!(
                found == expected || (!found.contains("never") && found.starts_with(expected)),
                "{sql}: {side}: {found}\n{plan}"
            );
        }
    }
    // Days are of no fixed length where clocks change.
    let sql = "SELECT a.id FROM a JOIN b ON b.berlin <= a.berlin + INTERVAL '24 hours'";
    let plan = world.explain(sql, ["berlin", "berlin"]).await.unwrap();
    assert_eq!(finals(&plan, "left"), ["+86400000000us(a.berlin)"], "{plan}");
    let sql = "SELECT a.id FROM a JOIN b ON b.berlin - INTERVAL '1 day' <= a.berlin";
    let plan = world.explain(sql, ["berlin", "berlin"]).await.unwrap();
    assert_eq!(finals(&plan, "left"), ["never"], "{plan}");
    // Only the other side's watermark counts.
    let sql = "SELECT a.id FROM a LEFT JOIN b ON b.ts <= a.ts AND a.k = b.k";
    world.explain(sql, ["", "ts"]).await.unwrap();
    let Error::UnsupportedQuery { operator, advice, .. } = world.explain(sql, ["ts", ""]).await.unwrap_err()
    else {
        panic!("{sql} is not refused as it should be");
    };
    assert_eq!(operator, "a Left join of two streams without a bound of time");
    assert!(advice.contains("Give the right side a watermark"), "{advice}");
}

/// As drawn in docs/event-time.md.
#[tokio::test]
async fn the_life_of_a_joined_row_is_as_drawn() {
    let world = World::new();
    let sql = "SELECT a.id AS a, b.id AS b FROM a LEFT JOIN b \
               ON a.k = b.k AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '10 seconds'";
    let (_session, query) = world.start(sql, false).await.unwrap();
    assert!(world.add(&query, &[(1, Some(7), Some(100)), (2, Some(8), Some(101))], &[]).await.is_empty());
    assert_eq!(world.add(&query, &[], &[(50, Some(7), Some(104))]).await, ["1 50"]);
    // Both sides have come to 104 at least.
    assert!(world.add(&query, &[(3, None, Some(110))], &[]).await.contains(&"3 -".to_string()));
    assert!(world.add(&query, &[], &[(51, Some(8), Some(103))]).await.is_empty(), "it is late: 103 was over");
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>();
    let (columns, left) = world.state(0).await;
    assert_eq!(columns, names(&["k", "matched", "id", "k_2", "ts", "expires"]), "{left:?}");
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left[0].starts_with("7 true 1 ") && left[1].starts_with("8 false 2 "), "{left:?}");
    let (columns, right) = world.state(1).await;
    assert_eq!(columns, names(&["k", "id", "k_2", "ts", "expires"]), "{right:?}");
    // Nothing that is to come to `a` can be as early as 104 and match.
    let given = world.add(&query, &[(4, Some(9), Some(112))], &[(52, Some(9), Some(112))]).await;
    assert_eq!(given, ["2 -", "4 52"]);
    query.stop(StopMode::Finish).await.unwrap();
}

#[tokio::test]
async fn a_join_that_forgets_nothing_says_so() {
    let world = World::new();
    let sql = "SELECT a.id, b.id AS other FROM a JOIN b ON a.k = b.k";
    let plan = world.explain(sql, ["ts", "ts"]).await.unwrap();
    assert!(
        plan.contains("left_final=never (its state grows), right_final=never (its state grows)"),
        "{plan}"
    );
    let (_session, query) = world.start(sql, false).await.unwrap();
    world.add(&query, &[(1, Some(1), Some(1))], &[(2, Some(2), Some(2))]).await;
    // Long after, whatever the watermark.
    world.add(&query, &[(3, Some(3), Some(9000))], &[(4, Some(4), Some(9000))]).await;
    assert_eq!(world.add(&query, &[(5, Some(2), Some(3))], &[]).await, ["5 2"]);
    let progress = query.last_progress().unwrap();
    for (operator, name) in progress.state_operators.iter().zip(["joinLeft", "joinRight"]) {
        assert_eq!(operator["operatorName"], name);
        assert_eq!(operator["customMetrics"]["stateGrows"], true, "{operator}");
        assert_eq!(operator["numRowsDroppedByWatermark"], 0, "{operator}");
    }
    query.stop(StopMode::Finish).await.unwrap();
}

/// Rows that are kept for matches are forgotten by the watermark, and give nothing then.
#[tokio::test]
async fn only_rows_that_wait_are_waited_for() {
    for (join, waits) in
        [("JOIN", false), ("LEFT JOIN", true), ("LEFT SEMI JOIN", false), ("LEFT ANTI JOIN", true)]
    {
        let world = World::new();
        let sql = format!(
            "SELECT a.id FROM a {join} b ON a.k = b.k AND b.ts BETWEEN a.ts - INTERVAL '5 seconds' AND a.ts + INTERVAL '5 seconds'"
        );
        let (_session, query) = world.start(&sql, false).await.unwrap();
        world.add(&query, &[(1, Some(1), Some(100))], &[(2, Some(2), Some(100))]).await;
        let progress = query.last_progress().unwrap();
        assert_eq!(progress.event_time.contains_key("waiting"), waits, "{join}: {:?}", progress.event_time);
        query.stop(StopMode::Finish).await.unwrap();
    }
}

const KINDS: [&str; 12] = [
    "SELECT a.id, b.id AS other FROM a JOIN b ON BOUND",
    "SELECT a.id, b.id AS other FROM a LEFT JOIN b ON BOUND",
    "SELECT a.id, b.id AS other FROM a RIGHT JOIN b ON BOUND",
    "SELECT a.id, b.id AS other FROM a FULL JOIN b ON BOUND AND a.id < b.id + 3",
    "SELECT a.id FROM a LEFT SEMI JOIN b ON BOUND",
    "SELECT a.id FROM a LEFT ANTI JOIN b ON BOUND",
    "SELECT a.id FROM a WHERE EXISTS (SELECT 1 FROM b WHERE BOUND)",
    "SELECT a.id FROM a WHERE a.id = 2 OR NOT EXISTS (SELECT 1 FROM b WHERE BOUND)",
    "SELECT a.id FROM a WHERE a.k IN (SELECT b.k FROM b WHERE TIME)",
    "SELECT a.id FROM a WHERE a.k NOT IN (SELECT b.k FROM b WHERE TIME)",
    "SELECT a.id FROM a LEFT JOIN b ON BOUND WHERE b.id IS NULL",
    "SELECT a.id, b.id AS other, c.id AS third FROM a JOIN b ON BOUND \
     LEFT JOIN b AS c ON c.k = b.k AND c.ts BETWEEN b.ts - INTERVAL '2 seconds' AND b.ts + INTERVAL '2 seconds'",
];

fn kind(sql: &str) -> String {
    let time = "b.ts BETWEEN a.ts - INTERVAL '3 seconds' AND a.ts + INTERVAL '4 seconds'";
    sql.replace("BOUND", &format!("a.k = b.k AND {time}")).replace("TIME", time)
}

/// Events of which no two steps' order matters: their times are all within one delay of nothing being late.
const STEPS: [(&[Event], &[Event]); 4] = [
    (&[(1, Some(1), Some(10)), (2, Some(2), Some(11)), (3, None, Some(12))], &[]),
    (&[], &[(11, Some(1), Some(13)), (12, Some(1), Some(13)), (13, None, Some(12))]),
    (&[(4, Some(1), Some(13)), (5, Some(3), None), (6, Some(4), Some(11))], &[(14, Some(4), Some(30))]),
    (&[(7, Some(2), Some(14)), (7, Some(2), Some(14))], &[(15, Some(2), Some(12)), (16, Some(5), None)]),
];

/// All orders of four.
fn orders() -> Vec<[usize; 4]> {
    let mut orders = Vec::new();
    for number in 0..256usize {
        let order = [number % 4, number / 4 % 4, number / 16 % 4, number / 64];
        if (0..4).all(|step| order.contains(&step)) {
            orders.push(order);
        }
    }
    orders
}

/// What DataFusion gives for all rows at once. It does not look at the time of nulls in `NOT IN`, so that is
/// asked for in other words: a row that may be equal is there.
async fn at_once(sql: &str) -> Vec<String> {
    let sql = sql.replace(
        "a.k NOT IN (SELECT b.k FROM b WHERE ",
        "NOT EXISTS (SELECT 1 FROM b WHERE (a.k = b.k) IS NOT FALSE AND ",
    );
    let session = Session::new();
    for (name, pick) in [("a", 0), ("b", 1)] {
        let all = STEPS.map(|step| rows(if pick == 0 { step.0 } else { step.1 }));
        let all = datafusion::arrow::compute::concat_batches(&columns(), &all).unwrap();
        session.context().register_batch(name, all).unwrap();
    }
    texts(&session.context().sql(&sql).await.unwrap().collect().await.unwrap())
}

#[tokio::test]
async fn rows_give_the_same_in_whatever_order_they_come() {
    for sql in KINDS.map(kind) {
        let expected = at_once(&sql).await;
        for order in orders() {
            let world = World::new();
            // The largest time comes last, so that none is late.
            for step in order {
                let (a, b) = STEPS[step];
                for (stream, events) in world.streams.iter().zip([a, b]) {
                    let early: Vec<Event> =
                        events.iter().copied().filter(|event| event.2 != Some(30)).collect();
                    if !early.is_empty() {
                        stream.add_data(rows(&early)).unwrap();
                    }
                }
                let (_session, query) = world.start_slowly(&sql).await;
                query.process_all_available().await.unwrap();
                query.stop(StopMode::Finish).await.unwrap();
            }
            world.streams[1].add_data(rows(&[(14, Some(4), Some(30))])).unwrap();
            assert_eq!(world.finish_slowly(&sql).await, expected, "{sql}, {order:?}");
        }
    }
}

impl World {
    /// With watermarks that are so far behind that nothing is late.
    async fn writer_slowly(&self, session: &Session, sql: &str) -> DataStreamWriter {
        self.probe.register(session);
        for (name, stream) in ["a", "b"].into_iter().zip(&self.streams) {
            session.register_source(name, Arc::new(Feed(stream.clone())));
            let table = session.read_stream().format(name).load(None).await.unwrap();
            let table = table.with_watermark("ts", "10 seconds").unwrap();
            session.context().register_table(name, table.into_view()).unwrap();
        }
        let writer = session.context().sql(sql).await.unwrap().write_stream().format("probe");
        writer.option("checkpointLocation", self.checkpoint()).option("durability", "process")
    }

    async fn start_slowly(&self, sql: &str) -> (Session, StreamingQuery) {
        let session = Session::new();
        let writer = self.writer_slowly(&session, sql).await;
        (session, writer.trigger(Trigger::AtOnce).start(None).await.unwrap())
    }

    async fn finish_slowly(&self, sql: &str) -> Vec<String> {
        let session = Session::new();
        let writer = self.writer_slowly(&session, sql).await;
        let writer = writer.trigger(Trigger::AvailableNow).option("flushOnEnd", "true");
        writer.start(None).await.unwrap().await_termination().await.unwrap();
        texts(self.probe.record_batches().values().flatten())
    }
}

#[tokio::test]
async fn all_rows_in_one_batch_give_what_one_query_over_them_gives() {
    for sql in KINDS.map(kind) {
        let world = World::new();
        for (a, b) in STEPS {
            world.streams[0].add_data(rows(a)).unwrap();
            world.streams[1].add_data(rows(b)).unwrap();
        }
        assert_eq!(world.finish(&sql).await, at_once(&sql).await, "{sql}");
    }
}

/// The parts of Nexmark's query 9: auctions with their bids until they expire, and what was won.
#[tokio::test]
async fn rows_are_forgotten_by_a_time_of_their_own() {
    let world = World::new();
    let sql = "SELECT a.id, b.id AS bid FROM a JOIN b ON a.k = b.k AND b.ts BETWEEN a.ts AND a.until";
    let (_session, query) = world.start(sql, false).await.unwrap();
    world.add(&query, &[(1, Some(1), Some(10)), (2, Some(2), Some(30))], &[(11, Some(1), Some(12))]).await;
    assert_eq!(world.state(0).await.1.len(), 2);
    world.add(&query, &[(3, Some(1), Some(31))], &[(12, Some(2), Some(20))]).await;
    // The first expired at 15.
    let (_, left) = world.state(0).await;
    assert_eq!(left.len(), 2, "{left:?}");
    query.stop(StopMode::Finish).await.unwrap();
}

/// What is above takes no row for late that the join below it still held.
#[tokio::test]
async fn what_is_above_a_join_waits_for_all_that_the_join_holds() {
    let conditions = [
        "date_trunc('minute', a.ts) = date_trunc('minute', b.ts)",
        "date_trunc('month', a.ts) = date_trunc('month', b.ts)",
        "date_bin(INTERVAL '1 minute', a.ts) = date_bin(INTERVAL '1 minute', b.ts)",
        "CAST(a.ts AS DATE) = CAST(b.ts AS DATE)",
        "window(a.ts, '1 minute') = window(b.ts, '1 minute')",
        "date_trunc('minute', b.ts) <= date_trunc('minute', a.ts)",
        "b.ts <= window(a.ts, '1 minute')['end']",
    ];
    let tops = [
        "SELECT count(*) AS n, ts FROM u GROUP BY ts",
        "SELECT DISTINCT 1 AS n, ts FROM u",
        "SELECT n, ts FROM (SELECT 1 AS n, ts, row_number() OVER (PARTITION BY window(ts, '1 second') ORDER BY ts) AS r \
         FROM u) WHERE r = 1",
        "SELECT n, w['start'] AS ts FROM (SELECT count(*) AS n, session_window(ts, '1 second') AS w FROM u \
         GROUP BY session_window(ts, '1 second'))",
    ];
    for condition in conditions {
        for top in tops {
            let world = World::new();
            let sql = format!("WITH u AS (SELECT a.ts FROM a JOIN b ON a.k = b.k AND {condition}) {top}");
            let (_session, query) = world.start(&sql, false).await.unwrap();
            world.add(&query, &[(1, Some(1), Some(5))], &[(9, Some(9), Some(5))]).await;
            world.add(&query, &[(2, Some(2), Some(30))], &[(9, Some(9), Some(30))]).await;
            world.add(&query, &[], &[(3, Some(1), Some(31))]).await;
            query.stop(StopMode::Finish).await.unwrap();
            assert_eq!(world.finish(&sql).await, ["1 1970-01-01T00:00:05"], "{sql}");
        }
    }
    // The row of an outer join that has no match comes even later.
    let world = World::new();
    let sql = "SELECT a.id, u.id FROM a FULL JOIN (SELECT x.id, x.ts FROM b x LEFT JOIN b y \
               ON x.k = y.k - 100 AND date_trunc('minute', x.ts) = date_trunc('minute', y.ts)) u \
               ON u.ts BETWEEN a.ts AND a.ts + INTERVAL '5 seconds'";
    let (_session, query) = world.start(sql, false).await.unwrap();
    world.add(&query, &[(1, Some(1), Some(10))], &[(1, Some(1), Some(10))]).await;
    world.add(&query, &[(2, Some(2), Some(40))], &[(2, Some(2), Some(40))]).await;
    query.stop(StopMode::Finish).await.unwrap();
    assert_eq!(world.finish(sql).await, ["1 1", "2 2"]);
}

#[tokio::test]
async fn another_condition_is_another_query() {
    let world = World::new();
    let sql = |more: &str| format!("SELECT a.id FROM a LEFT JOIN b ON a.k = b.k AND b.ts <= a.ts{more}");
    let (session, query) = world.start(&sql(""), false).await.unwrap();
    world.add(&query, &[(1, Some(1), Some(10))], &[]).await;
    query.stop(StopMode::Finish).await.unwrap();
    drop(session);
    let error = world.start(&sql(" AND a.id < b.id"), false).await.unwrap_err().to_string();
    assert!(error.contains("(joinLeft)") && error.contains("condition"), "{error}");
    let error =
        world.start("SELECT a.id FROM a JOIN b ON a.k = b.k AND b.ts <= a.ts", false).await.unwrap_err();
    assert!(error.to_string().contains("join type"), "{error}");
    // What the rows are called does not matter.
    let other = "SELECT x.id FROM a AS x LEFT JOIN b AS y ON x.k = y.k AND y.ts <= x.ts";
    let (_session, query) = world.start(other, false).await.unwrap();
    query.stop(StopMode::Finish).await.unwrap();
}

#[tokio::test]
async fn rows_without_a_bound_are_forgotten_after_their_time_to_live() {
    let world = World::new();
    let session = Session::new();
    let sql = "SELECT a.id, b.id AS other FROM a JOIN b ON a.k = b.k AND a.ts <> b.ts";
    let writer = world.frame(&session, sql, ["ts", "ts"]).await.unwrap().write_stream().format("probe");
    let writer = writer.option("stateTtl", "10 seconds").option("checkpointLocation", world.checkpoint());
    let query = writer.trigger(Trigger::AtOnce).start(None).await.unwrap();
    assert_eq!(world.add(&query, &[(1, Some(7), Some(100))], &[]).await, Vec::<String>::new());
    let joined = world.add(&query, &[(2, Some(8), Some(105))], &[(50, Some(7), Some(109))]).await;
    assert_eq!(joined, ["1 50"]);
    // The watermark goes to 111, so that the row of 100 is forgotten, and not those of 105 and 109.
    let joined = world.add(&query, &[(3, Some(9), Some(111))], &[(51, Some(9), Some(112))]).await;
    assert_eq!(joined, ["3 51"]);
    // That takes a batch of its own; until then the row may have matches.
    for _ in 0..1000 {
        if world.state(0).await.1.len() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(world.state(0).await.1.len(), 2);
    let joined = world
        .add(&query, &[(4, Some(7), Some(113))], &[(52, Some(7), Some(112)), (53, Some(8), Some(112))])
        .await;
    assert_eq!(joined, ["2 53", "4 50", "4 52"]);
    let progress = query.last_progress().unwrap();
    assert!(
        progress.state_operators.iter().all(|operator| operator["customMetrics"].get("stateGrows").is_none())
    );
    query.stop(StopMode::Finish).await.unwrap();
    let plan = world.explain(sql, ["ts", "ts"]).await.unwrap();
    assert_eq!((finals(&plan, "left"), finals(&plan, "right")), (vec!["never".into()], vec!["never".into()]));
    // Without a time there is none to live.
    let untimed = "SELECT a.id, b.id AS other FROM a JOIN b ON a.k = b.k";
    let session = Session::new();
    let writer = world.frame(&session, untimed, ["ts", "ts"]).await.unwrap().write_stream().format("noop");
    let error = writer.option("stateTtl", "10 seconds").explain(None).await.unwrap_err().to_string();
    assert!(error.contains("event time"), "{error}");
}

/// Whether a null is among the rows is asked of all of them: the watermark goes on without any, too.
#[tokio::test]
async fn conditions_as_values_come_with_the_watermark() {
    for (condition, expected) in [
        ("a.k IN (SELECT b.k FROM b WHERE b.ts = a.ts)", ["1 true", "2 false"]),
        ("a.k NOT IN (SELECT b.k FROM b WHERE b.ts = a.ts)", ["1 false", "2 true"]),
        ("a.id = 1 OR a.k IN (SELECT b.k FROM b WHERE b.ts = a.ts)", ["1 true", "2 false"]),
    ] {
        let world = World::new();
        let sql = format!("SELECT a.id, {condition} AS found FROM a");
        let (_session, query) = world.start(&sql, false).await.unwrap();
        let (a, b) = ((1, Some(7), Some(1)), (2, Some(8), Some(1)));
        let mut given = world.add(&query, &[a, b], &[(50, Some(7), Some(1))]).await;
        given.extend(world.add(&query, &[(3, Some(9), Some(5))], &[(51, Some(9), Some(5))]).await);
        given.extend(world.add(&query, &[(4, Some(9), Some(9))], &[(52, Some(9), Some(9))]).await);
        assert_eq!(given[..2], expected, "{condition}");
        query.stop(StopMode::Finish).await.unwrap();
    }
}
