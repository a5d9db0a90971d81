//! Days and hours around changes of the clock: groups come out when the last instant that DataFusion
//! puts into them has passed, no earlier and no later, and are complete.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::arrow::util::display::array_value_to_string;
use tidemill::prelude::*;
use tidemill::source::SourceProvider;
use tidemill::source::memory::MemoryStream;
use tidemill::{Error, SourceFactory, SourceRequest};

const MINUTE: i64 = 60_000_000;
const STEP: i64 = 15 * MINUTE;
/// How many times there are around each change.
const TIMES: usize = 120;
/// How many of them come at once: not whole hours.
const AT_ONCE: usize = 11;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Zones, each with the instants, in seconds, at which its clocks went forward and back.
const ZONES: [(&str, [i64; 2]); 5] = [
    // 2024-03-10 and 2024-11-03
    ("America/New_York", [1_710_054_000, 1_730_613_600]),
    // 2024-03-31 and 2024-10-27
    ("Europe/Berlin", [1_711_846_800, 1_729_990_800]),
    // By half an hour: 2024-10-05 and 2025-04-05
    ("Australia/Lord_Howe", [1_728_142_200, 1_743_865_200]),
    // At midnight: 2018-11-04 has none, 2019-02-16 two ends
    ("America/Sao_Paulo", [1_541_300_400, 1_550_368_800]),
    // Not in whole hours, and never changed
    ("Asia/Kathmandu", [1_711_846_800, 1_729_990_800]),
];

const GROUPS: [&str; 13] = [
    "ts",
    "window(ts, '1 day')",
    "window(ts, '1 hour')",
    "window(ts, '1 day', '6 hours')",
    "window(ts, '90 minutes')",
    "date_trunc('hour', ts)",
    "date_trunc('day', ts)",
    "date_trunc('week', ts)",
    "date_trunc('month', ts)",
    "date_bin(INTERVAL '1 hour', ts)",
    "date_bin(INTERVAL '1 day', ts)",
    "date_bin(INTERVAL '1 month', ts)",
    "CAST(ts AS DATE)",
];

/// Hours that a change by half an hour cuts have no length that is known beforehand.
const REFUSED: [(&str, &str); 1] = [("date_trunc('hour', ts)", "Australia/Lord_Howe")];

/// A day that begins at one o'clock, for there was no midnight, is given out a day after that.
const LATER: [(&str, &str, i64); 1] = [("date_trunc('day', ts)", "America/Sao_Paulo", HOUR)];

struct Feed(MemoryStream);

#[async_trait]
impl SourceFactory for Feed {
    async fn create(&self, _: SourceRequest) -> tidemill::Result<Arc<dyn SourceProvider>> {
        Ok(Arc::new(self.0.clone()))
    }
}

fn rows(times: &[i64], zone: &str) -> RecordBatch {
    let instants = TimestampMicrosecondArray::from_iter_values(times.iter().copied()).with_timezone(zone);
    let columns: [(&str, ArrayRef); 2] = [
        ("ts", Arc::new(instants)),
        ("instant", Arc::new(Int64Array::from_iter_values(times.iter().copied()))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// Group and number.
async fn collect(context: &SessionContext, sql: &str) -> BTreeMap<String, i64> {
    let mut found = BTreeMap::new();
    for batch in context.sql(sql).await.unwrap().collect().await.unwrap() {
        for row in 0..batch.num_rows() {
            let group = array_value_to_string(batch.column(0), row).unwrap();
            let twice = found.insert(group, batch.column(1).as_primitive::<Int64Type>().value(row));
            assert_eq!(twice, None, "{sql}: a group came out twice");
        }
    }
    found
}

/// The groups of each time.
async fn groups(group: &str, times: &[i64], zone: &str) -> BTreeMap<i64, Vec<String>> {
    let mut found: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    let sql = format!("SELECT instant, {group} AS g FROM s");
    for batch in bounded(times, zone).sql(&sql).await.unwrap().collect().await.unwrap() {
        for row in 0..batch.num_rows() {
            let instant = batch.column(0).as_primitive::<Int64Type>().value(row);
            found.entry(instant).or_default().push(array_value_to_string(batch.column(1), row).unwrap());
        }
    }
    found
}

/// A session with a bounded table `s`.
fn bounded(times: &[i64], zone: &str) -> SessionContext {
    let context = Session::new().context().clone();
    context.register_batch("s", rows(times, zone)).unwrap();
    context
}

/// Times every half an hour from before to after the day of each change.
fn times(changes: [i64; 2]) -> Vec<i64> {
    let around = |change: i64| {
        let begin = (change * 1_000_000).div_euclid(HOUR) * HOUR - 20 * HOUR;
        (0..TIMES as i64).map(move |step| begin + step * 2 * STEP)
    };
    changes.into_iter().flat_map(around).collect()
}

/// From which watermark on each group has all its rows, by asking DataFusion of every quarter of an hour.
async fn ends(group: &str, times: &[i64], zone: &str) -> BTreeMap<String, i64> {
    let mut grid: Vec<i64> = Vec::new();
    for change in times.chunks(TIMES) {
        grid.extend((change[0]..change[TIMES - 1] + 40 * DAY).step_by(STEP as usize));
    }
    let width = if group == "ts" { 0 } else { STEP };
    let of_instants = groups(group, &grid, zone).await.into_iter();
    of_instants.flat_map(|(instant, groups)| groups.into_iter().map(move |g| (g, instant + width))).collect()
}

async fn run(group: &str, zone: &str, changes: [i64; 2]) -> Result<(), String> {
    let times = times(changes);
    let ends = ends(group, &times, zone).await;
    let groups = groups(group, &times, zone).await;
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    let session = Session::new();
    let stream = MemoryStream::new(rows(&[], zone).schema());
    session.register_source("feed", Arc::new(Feed(stream.clone())));
    let table = session.read_stream().format("feed").load(None).await.unwrap();
    let table = table.with_watermark("ts", "0 seconds").unwrap();
    session.context().register_table("s", table.into_view()).unwrap();
    let sql = format!("SELECT {group} AS g, count(*) AS n FROM s GROUP BY 1");
    let frame = session.context().sql(&sql).await.unwrap();
    let started = frame.write_stream().format("memory").query_name("out").start(None).await;
    let query = match started {
        Ok(_) if REFUSED.contains(&(group, zone)) => return Err("it is not refused".into()),
        Ok(query) => query,
        Err(Error::UnsupportedQuery { .. }) if REFUSED.contains(&(group, zone)) => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    let later = LATER.iter().find(|(later, at, _)| (*later, *at) == (group, zone)).map_or(0, |later| later.2);
    let mut waited = false;
    let mut late = 0;
    for times in times.chunks(AT_ONCE) {
        stream.add_data(rows(times, zone)).unwrap();
        query.process_all_available().await.unwrap();
        let reports = query.recent_progress();
        let dropped = |report: &tidemill::StreamingQueryProgress| {
            report.state_operators[0]["numRowsDroppedByWatermark"].as_i64().unwrap()
        };
        late += reports.iter().rev().take(2).map(dropped).sum::<i64>();
        for group in times.iter().flat_map(|time| &groups[time]) {
            *counts.entry(group.clone()).or_default() += 1;
        }
        let watermark = times[times.len() - 1];
        let mut expected = counts.clone();
        expected.retain(|group, _| ends[group] <= watermark);
        let found = collect(session.context(), "SELECT * FROM out").await;
        let due = expected.len();
        expected.retain(|group, _| found.contains_key(group) || ends[group] + later <= watermark);
        waited |= expected.len() < due;
        if found != expected || late > 0 {
            let differ = |a: &BTreeMap<String, i64>, b: &BTreeMap<String, i64>| {
                let some = a.iter().filter(|(group, n)| b.get(*group) != Some(n)).take(3);
                some.map(|(group, n)| format!("{group}: {n}")).collect::<Vec<_>>()
            };
            let (early, missing) = (differ(&found, &expected), differ(&expected, &found));
            return Err(format!("at {watermark}: {late} late, early {early:?}, missing {missing:?}"));
        }
    }
    query.stop(StopMode::Finish).await.unwrap();
    if waited == (later > 0) { Ok(()) } else { Err(format!("none comes {later} us later")) }
}

#[tokio::test]
async fn groups_are_complete_when_clocks_change() {
    let mut problems = Vec::new();
    for (zone, changes) in ZONES {
        for group in GROUPS {
            if let Err(problem) = run(group, zone, changes).await {
                problems.push(format!("{group} in {zone}: {problem}"));
            }
        }
    }
    assert!(problems.is_empty(), "{} went wrong:\n{}", problems.len(), problems.join("\n"));
}
