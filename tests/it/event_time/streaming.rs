//! When a streaming query gives out its groups, for every way to make a key of the event time,
//! against a watermark that is kept by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, TimeUnit};
use tidemill::prelude::*;
use tidemill::source::SourceProvider;
use tidemill::source::memory::MemoryStream;
use tidemill::sql::SqlSession;
use tidemill::{SourceFactory, SourceRequest};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// 2024-02-28 00:00:00 UTC, so that days and months end soon.
const BEGIN: i64 = 19_781 * DAY;
/// The delay of the watermark.
const DELAY: i64 = 10 * MINUTE;

/// A group: the value of its key in microseconds, and from which watermark on it is final.
type Group = (i64, i64);

/// A way to group by time, and the groups that a time is in.
struct Case {
    sql: &'static str,
    groups: fn(i64) -> Vec<Group>,
}

fn floor(time: i64, size: i64) -> i64 {
    time.div_euclid(size) * size
}

fn hops(time: i64, size: i64, slide: i64) -> Vec<Group> {
    let newest = floor(time, slide);
    let starts = (0..=size / slide).map(|number| newest - number * slide);
    starts.filter(|start| time < start + size).map(|start| (start, start + size)).collect()
}

fn month(time: i64) -> Group {
    let (march, april) = (BEGIN + 2 * DAY, BEGIN + 33 * DAY);
    let starts = [march - 29 * DAY, march, april, april + 30 * DAY];
    let next = starts.iter().position(|start| time < *start).unwrap();
    (starts[next - 1], starts[next])
}

const CASES: [Case; 16] = [
    Case { sql: "SELECT ts AS k, count(*) FROM s GROUP BY ts", groups: |t| vec![(t, t)] },
    Case {
        sql: "SELECT w['start'], n FROM (SELECT window(ts, '10 minutes') AS w, count(*) AS n FROM s GROUP BY w)",
        groups: |t| vec![(floor(t, 10 * MINUTE), floor(t, 10 * MINUTE) + 10 * MINUTE)],
    },
    Case {
        sql: "SELECT window(ts, '10 minutes', '4 minutes')['start'] AS k, count(*) FROM s \
              GROUP BY window(ts, '10 minutes', '4 minutes')",
        groups: |t| hops(t, 10 * MINUTE, 4 * MINUTE),
    },
    Case {
        sql: "SELECT w['start'], count(*) FROM (SELECT window(ts, '1 hour') AS w FROM s) GROUP BY w",
        groups: |t| vec![(floor(t, HOUR), floor(t, HOUR) + HOUR)],
    },
    Case {
        sql: "SELECT window(ts, '1 hour')['end'] AS k, count(*) FROM s GROUP BY k",
        groups: |t| vec![(floor(t, HOUR) + HOUR, floor(t, HOUR) + HOUR)],
    },
    Case {
        sql: "SELECT window_start, count(*) FROM TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' HOUR, INTERVAL '5' MINUTE) \
              GROUP BY window_start",
        groups: |t| {
            let start = floor(t - 5 * MINUTE, HOUR) + 5 * MINUTE;
            vec![(start, start + HOUR)]
        },
    },
    Case {
        sql: "SELECT window_end, count(*) FROM HOP(TABLE s, DESCRIPTOR(ts), INTERVAL '20' MINUTE, INTERVAL '1' HOUR) \
              GROUP BY window_start, window_end",
        groups: |t| hops(t, HOUR, 20 * MINUTE).into_iter().map(|(_, end)| (end, end)).collect(),
    },
    Case {
        sql: "SELECT date_bin(INTERVAL '7 minutes', ts) AS k, count(*) FROM s GROUP BY k",
        groups: |t| vec![(floor(t, 7 * MINUTE), floor(t, 7 * MINUTE) + 7 * MINUTE)],
    },
    Case {
        sql: "SELECT k, count(*) FROM (SELECT date_trunc('hour', ts) AS k FROM s WHERE id >= 0) GROUP BY k",
        groups: |t| vec![(floor(t, HOUR), floor(t, HOUR) + HOUR)],
    },
    Case {
        sql: "SELECT date_trunc('month', ts) AS k, count(*) FROM s GROUP BY k",
        groups: |t| vec![month(t)],
    },
    Case {
        sql: "SELECT CAST(ts AS DATE) AS k, count(*) FROM s GROUP BY k",
        groups: |t| vec![(floor(t, DAY), floor(t, DAY) + DAY)],
    },
    Case {
        sql: "SELECT k, count(*) FROM (SELECT CAST(ts AS TIMESTAMP(0)) AS k FROM s) GROUP BY k",
        groups: |t| vec![(floor(t, SECOND), floor(t, SECOND) + SECOND)],
    },
    // A window of windows: the counts of the first are added up in the second.
    Case {
        sql: "SELECT h['start'], n FROM (SELECT window(w, '1 hour') AS h, sum(n) AS n FROM \
              (SELECT window(ts, '10 minutes') AS w, id % 3, count(*) AS n FROM s GROUP BY w, id % 3) GROUP BY h)",
        groups: |t| vec![(floor(t, HOUR), floor(t, HOUR) + HOUR)],
    },
    Case {
        sql: "SELECT DISTINCT window(ts, '30 minutes')['start'], CAST(1 AS BIGINT) FROM s",
        groups: |t| vec![(floor(t, 30 * MINUTE), floor(t, 30 * MINUTE) + 30 * MINUTE)],
    },
    Case {
        sql: "SELECT DISTINCT ON (date_trunc('hour', ts)) date_trunc('hour', ts), CAST(1 AS BIGINT) FROM s",
        groups: |t| vec![(floor(t, HOUR), floor(t, HOUR) + HOUR)],
    },
    Case {
        sql: "SELECT window(ts, '1 hour')['start'] AS k, count(DISTINCT id % 1) FROM s GROUP BY k",
        groups: |t| vec![(floor(t, HOUR), floor(t, HOUR) + HOUR)],
    },
];

struct FeedFactory(MemoryStream);

#[async_trait]
impl SourceFactory for FeedFactory {
    async fn create(&self, _: SourceRequest) -> tidemill::Result<Arc<dyn SourceProvider>> {
        Ok(Arc::new(self.0.clone()))
    }
}

fn rows(times: &[i64]) -> RecordBatch {
    let columns: [(&str, ArrayRef); 2] = [
        ("id", Arc::new(Int64Array::from_iter_values(0..times.len() as i64))),
        ("ts", Arc::new(TimestampMicrosecondArray::from_iter_values(times.iter().copied()))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// Times that mostly advance, with some that are late: the same for everybody.
fn batches() -> Vec<Vec<i64>> {
    let mut state = 42_u64;
    let mut random = |below: i64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(state >> 33).unwrap() % below
    };
    let mut now = BEGIN;
    let steps = [5 * MINUTE, 25 * MINUTE, 3 * HOUR, 0, 30 * HOUR, HOUR, 20 * HOUR, 31 * DAY, 5 * MINUTE];
    let batch = |step: i64| {
        now += step;
        // Of equal times there are several, exactly at the edges of windows, too.
        (0..25)
            .map(|_| floor(now - random(90 * MINUTE).pow(2) / (90 * MINUTE), 13 * SECOND + SECOND / 2))
            .collect()
    };
    steps.into_iter().map(batch).collect()
}

/// Everything in the table `out`: key in microseconds, and count.
async fn output(session: &Session) -> Vec<(i64, i64)> {
    let batches = session.context().table("out").await.unwrap().collect().await.unwrap();
    let mut found = Vec::new();
    for batch in &batches {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        let keys = cast(&cast(batch.column(0), &micros).unwrap(), &DataType::Int64).unwrap();
        assert_eq!(keys.null_count(), 0);
        let keys = keys.as_primitive::<Int64Type>().values().to_vec();
        found.extend(
            keys.into_iter().zip(batch.column(1).as_primitive::<Int64Type>().values().iter().copied()),
        );
    }
    found.sort_unstable();
    found
}

async fn run(case: &Case) {
    let sql = SqlSession::new(Session::new());
    let stream = MemoryStream::new(rows(&[]).schema());
    sql.session().register_source("feed", Arc::new(FeedFactory(stream.clone())));
    let table = "CREATE UNBOUNDED EXTERNAL TABLE s (id BIGINT, ts TIMESTAMP(6), WATERMARK FOR ts AS ts - INTERVAL '10' \
                 MINUTE) STORED AS FEED";
    sql.run(table).await.unwrap();
    let frame = sql.streaming_query(case.sql, None).await.unwrap_or_else(|e| panic!("{}: {e}", case.sql));
    let writer = frame.write_stream().format("memory").query_name("out");
    let query = writer.start(None).await.unwrap_or_else(|e| panic!("{}: {e}", case.sql));

    let one_for_all = case.sql.contains("DISTINCT");
    let emits_at_once = case.sql.starts_with("SELECT DISTINCT");
    let mut watermark = 0;
    let mut open = BTreeMap::<Group, i64>::new();
    let mut expected = Vec::new();
    for (number, times) in batches().iter().enumerate() {
        stream.add_data(rows(times)).unwrap();
        query.process_all_available().await.unwrap_or_else(|e| panic!("{}: {e}", case.sql));
        for group in times.iter().flat_map(|time| (case.groups)(*time)).filter(|group| group.1 > watermark) {
            let count = open.entry(group).or_default();
            *count = if one_for_all { 1 } else { *count + 1 };
            if emits_at_once && !expected.contains(&(group.0, 1)) {
                expected.push((group.0, 1));
            }
        }
        watermark = watermark.max(times.iter().max().unwrap() - DELAY);
        // The watermark counts milliseconds.
        watermark = floor(watermark, 1_000);
        open.retain(|group, count| {
            if group.1 <= watermark && !emits_at_once {
                expected.push((group.0, *count));
            }
            group.1 > watermark
        });
        expected.sort_unstable();
        assert_eq!(output(sql.session()).await, expected, "{} after batch {number}", case.sql);
    }
    assert!(expected.len() > 1, "{}: too little came out to tell", case.sql);
    query.stop(StopMode::Finish).await.unwrap();
}

#[tokio::test]
async fn groups_come_out_when_the_watermark_has_passed_them() {
    for case in &CASES {
        run(case).await;
    }
}

/// 2024-01-01 00:00 UTC, and so many minutes past noon.
fn past_noon(minutes: i64) -> i64 {
    19_723 * DAY + 12 * HOUR + minutes * MINUTE
}

/// What a batch shows: its watermark, the rows in state, the rows dropped, and how many rows are given out.
type Shown = (&'static str, i64, i64, i64);

/// Runs `select` over a stream with a watermark ten minutes behind: the rows, in minutes past noon, and what each of the
/// batches shows that follow.
async fn live(sql: &SqlSession, select: &str, steps: &[(&[i64], &[Shown])]) {
    let stream = MemoryStream::new(rows(&[]).schema());
    sql.session().register_source("feed", Arc::new(FeedFactory(stream.clone())));
    let table = "CREATE UNBOUNDED EXTERNAL TABLE s (id BIGINT, ts TIMESTAMP(6), WATERMARK FOR ts AS ts - INTERVAL '10' \
                 MINUTE) STORED AS FEED";
    sql.run(table).await.unwrap();
    let frame = sql.streaming_query(select, None).await.unwrap();
    let query = frame.write_stream().format("memory").query_name("out").start(None).await.unwrap();
    let mut batches = 0;
    for (minutes, expected) in steps {
        let times: Vec<i64> = minutes.iter().map(|minutes| past_noon(*minutes)).collect();
        stream.add_data(rows(&times)).unwrap();
        query.process_all_available().await.unwrap();
        let progress = query.recent_progress();
        let found: Vec<_> = progress[batches..]
            .iter()
            .map(|batch| {
                let state = &batch.state_operators[0];
                let number = |name: &str| state[name].as_i64().unwrap();
                let (open, late) = (number("numRowsTotal"), number("numRowsDroppedByWatermark"));
                (batch.event_time["watermark"].as_str(), open, late, batch.sink.num_output_rows)
            })
            .collect();
        assert_eq!(found, *expected, "after {minutes:?}");
        batches = progress.len();
    }
    query.stop(StopMode::Finish).await.unwrap();
}

/// The example of `docs/event-time.md`, batch by batch.
#[tokio::test]
async fn the_life_of_a_window_is_as_drawn() {
    let sql = SqlSession::new(Session::new());
    let counts = "SELECT window['start'], count(*) AS n FROM (SELECT window(ts, '10 minutes'), id FROM s) \
                  GROUP BY window";
    let steps: [(&[i64], &[Shown]); 4] = [
        (&[2, 7], &[("1970-01-01T00:00:00.000Z", 1, 0, 0), ("2024-01-01T11:57:00.000Z", 1, 0, 0)]),
        (&[14, 3], &[("2024-01-01T11:57:00.000Z", 2, 0, 0), ("2024-01-01T12:04:00.000Z", 2, 0, 0)]),
        // 12:01 is behind the watermark, but its window is not.
        (&[1, 21], &[("2024-01-01T12:04:00.000Z", 3, 0, 0), ("2024-01-01T12:11:00.000Z", 2, 0, 1)]),
        (&[9, 12], &[("2024-01-01T12:11:00.000Z", 2, 1, 0)]),
    ];
    live(&sql, counts, &steps).await;
    assert_eq!(output(sql.session()).await, [(past_noon(0), 4)]);
}

/// Likewise.
#[tokio::test]
async fn the_life_of_a_session_is_as_drawn() {
    let sql = SqlSession::new(Session::new());
    let counts =
        "SELECT session_window['start'], count(*) AS n FROM s GROUP BY session_window(ts, '5 minutes')";
    let steps: [(&[i64], &[Shown]); 4] = [
        (&[0, 8], &[("1970-01-01T00:00:00.000Z", 2, 0, 0), ("2024-01-01T11:58:00.000Z", 2, 0, 0)]),
        (&[4], &[("2024-01-01T11:58:00.000Z", 1, 0, 0)]),
        (&[24], &[("2024-01-01T11:58:00.000Z", 2, 0, 0), ("2024-01-01T12:14:00.000Z", 1, 0, 1)]),
        (&[8, 10], &[("2024-01-01T12:14:00.000Z", 2, 1, 0)]),
    ];
    live(&sql, counts, &steps).await;
    assert_eq!(output(sql.session()).await, [(past_noon(0), 3)]);
}
