//! `window()` on tables, against windows that are found by trying.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Int64Type, TimeUnit};
use datafusion::functions_aggregate::expr_fn::count;
use proptest::prelude::*;
use tidemill::functions::sliding_window_from;
use tidemill::prelude::*;

/// Nanoseconds since the epoch, so that every unit can be told exactly.
type Nanos = i128;

const SECOND: Nanos = 1_000_000_000;

/// Lengths of `window()`: as text, and in nanoseconds.
struct Lengths {
    sql: &'static str,
    size: Nanos,
    slide: Nanos,
    start: Nanos,
}

const fn lengths(sql: &'static str, size: Nanos, slide: Nanos, start: Nanos) -> Lengths {
    Lengths { sql, size, slide, start }
}

const ALL_LENGTHS: [Lengths; 9] = [
    lengths("'10 seconds'", 10 * SECOND, 10 * SECOND, 0),
    lengths("INTERVAL '10' SECOND, INTERVAL '2 seconds'", 10 * SECOND, 2 * SECOND, 0),
    lengths("'10 seconds', '3 seconds'", 10 * SECOND, 3 * SECOND, 0),
    lengths("'7 seconds', '7 seconds', '3 seconds'", 7 * SECOND, 7 * SECOND, 3 * SECOND),
    lengths("'10 seconds', '4 seconds', '-3 seconds'", 10 * SECOND, 4 * SECOND, -3 * SECOND),
    lengths("'1 minute', '7 seconds', '5 seconds'", 60 * SECOND, 7 * SECOND, 5 * SECOND),
    // Not whole seconds: windows of a column of seconds have microseconds then.
    lengths("'1500 milliseconds', '500 ms'", 1_500_000_000, 500_000_000, 0),
    lengths("'3 seconds', '2 seconds', '1 us'", 3 * SECOND, 2 * SECOND, 1_000),
    lengths("'1 day'", 86_400 * SECOND, 86_400 * SECOND, 0),
];

const UNITS: [(TimeUnit, Nanos); 4] = [
    (TimeUnit::Second, SECOND),
    (TimeUnit::Millisecond, 1_000_000),
    (TimeUnit::Microsecond, 1_000),
    (TimeUnit::Nanosecond, 1),
];

/// Every window that `time` is in, by looking at all that are near.
fn windows_of(time: Nanos, lengths: &Lengths) -> Vec<(Nanos, Nanos)> {
    let near = (time - lengths.start) / lengths.slide;
    let reach = lengths.size / lengths.slide + 2;
    (near - reach..=near + reach)
        .map(|number| lengths.start + number * lengths.slide)
        .map(|start| (start, start + lengths.size))
        .filter(|(start, end)| *start <= time && time < *end)
        .collect()
}

/// A table `t` of numbered times, of which every seventh is null.
fn session_with(times: &[i64], unit: TimeUnit, zone: Option<&str>) -> Session {
    let session = Session::new();
    let values: Int64Array = (0..times.len()).map(|i| (i % 7 != 6).then_some(times[i])).collect();
    let times = cast(&values, &DataType::Timestamp(unit, zone.map(Into::into))).unwrap();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..times.len() as i64));
    let batch = RecordBatch::try_from_iter_with_nullable([("id", ids, false), ("ts", times, true)]).unwrap();
    session.context().register_batch("t", batch).unwrap();
    session
}

fn nanos_of(times: &ArrayRef) -> Vec<Nanos> {
    let DataType::Timestamp(unit, _) = times.data_type() else { panic!("{} is no time", times.data_type()) };
    let tick = UNITS.iter().find(|(known, _)| known == unit).unwrap().1;
    let ticks = cast(times, &DataType::Int64).unwrap();
    assert_eq!(ticks.null_count(), 0);
    ticks.as_primitive::<Int64Type>().values().iter().map(|value| Nanos::from(*value) * tick).collect()
}

/// The rows of a query: its Int64 column and the start and end of its window, which come first.
async fn rows(session: &Session, sql: &str) -> Vec<(Nanos, Nanos, i64)> {
    let frame = session.context().sql(sql).await.unwrap();
    assert_eq!(frame.schema().field(0).name(), "window", "{sql}");
    rows_of(frame).await
}

async fn rows_of(frame: DataFrame) -> Vec<(Nanos, Nanos, i64)> {
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let rows = concat_batches(&schema, &frame.collect().await.unwrap()).unwrap();
    let windows = rows.column(0).as_struct();
    assert_eq!(windows.null_count(), 0);
    let [starts, ends] = ["start", "end"].map(|name| nanos_of(windows.column_by_name(name).unwrap()));
    let numbers = rows.column(1).as_primitive::<Int64Type>().values();
    let mut rows: Vec<_> =
        starts.into_iter().zip(ends).zip(numbers).map(|((start, end), n)| (start, end, *n)).collect();
    rows.sort_unstable();
    rows
}

#[tokio::test]
async fn windows_are_those_found_by_trying() {
    let times: Vec<i64> = (-40..40).chain([-86_400, 86_399, 86_400, 1_700_000_000, -3_000_000_017]).collect();
    for (unit, tick) in UNITS {
        for zone in [None, Some("UTC"), Some("Europe/Berlin"), Some("Asia/Kathmandu")] {
            // As many seconds, and as many ticks: both are told apart from the window's edges.
            let scaled = times.iter().map(|time| time * i64::try_from(SECOND / tick).unwrap());
            let times: Vec<i64> = scaled.chain(times.iter().copied()).collect();
            let session = session_with(&times, unit, zone);
            for lengths in &ALL_LENGTHS {
                let mut expected = Vec::new();
                for (id, time) in times.iter().enumerate().filter(|(id, _)| id % 7 != 6) {
                    let windows = windows_of(Nanos::from(*time) * tick, lengths);
                    assert!(!windows.is_empty());
                    expected.extend(windows.into_iter().map(|(start, end)| (start, end, id as i64)));
                }
                expected.sort_unstable();
                let Lengths { sql, .. } = lengths;
                let found = rows(&session, &format!("SELECT window(ts, {sql}), id FROM t")).await;
                assert_eq!(found, expected, "{sql} of {unit:?} {zone:?}");

                let mut counts = BTreeMap::<(Nanos, Nanos), i64>::new();
                expected.iter().for_each(|(start, end, _)| *counts.entry((*start, *end)).or_default() += 1);
                let expected: Vec<_> = counts.into_iter().map(|((start, end), n)| (start, end, n)).collect();
                let query = format!("SELECT window(ts, {sql}), count(*) FROM t GROUP BY window(ts, {sql})");
                assert_eq!(rows(&session, &query).await, expected, "{sql} of {unit:?} {zone:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn random_lengths_and_times(
        size in 1_i64..100_000,
        slide in 1_i64..100_000,
        start in -100_000_i64..100_000,
        times in prop::collection::vec(-1_000_000_i64..1_000_000, 1..50),
    ) {
        // At most about fifty windows to a row.
        let slide = slide.min(size).max(size / 50 + 1);
        let start = start % slide;
        let session = session_with(&times, TimeUnit::Millisecond, None);
        let (size_ns, slide_ns, start_ns) =
            (Nanos::from(size) * 1_000_000, Nanos::from(slide) * 1_000_000, Nanos::from(start) * 1_000_000);
        let lengths = lengths("", size_ns, slide_ns, start_ns);
        let mut expected = BTreeMap::<(Nanos, Nanos), i64>::new();
        for (_, time) in times.iter().enumerate().filter(|(id, _)| id % 7 != 6) {
            for window in windows_of(Nanos::from(*time) * 1_000_000, &lengths) {
                *expected.entry(window).or_default() += 1;
            }
        }
        let expected: Vec<_> = expected.into_iter().map(|((start, end), n)| (start, end, n)).collect();
        let [size, slide, start] = [size, slide, start].map(|length| format!("{length} milliseconds"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found = runtime.block_on(async {
            let key = sliding_window_from(col("ts"), &size, &slide, &start);
            let frame = session.context().table("t").await.unwrap();
            rows_of(frame.aggregate(vec![key], vec![count(col("id"))]).unwrap()).await
        });
        prop_assert_eq!(found, expected);
    }
}

async fn text(session: &Session, sql: &str) -> String {
    let frame = session.context().sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let batches = frame.collect().await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let options = datafusion::arrow::util::display::FormatOptions::default()
        .with_timestamp_format(Some("%H:%M:%S%.f"))
        .with_null("null");
    let mut lines = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| {
                datafusion::arrow::util::display::ArrayFormatter::try_new(column.as_ref(), &options).unwrap()
            })
            .collect();
        for row in 0..batch.num_rows() {
            lines.push(columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join(" "));
        }
    }
    lines.join("\n")
}

#[tokio::test]
async fn windows_can_be_used_like_any_value() {
    let session = session_with(&[0, 5, 12, 21, 22], TimeUnit::Second, None);
    for (sql, expected) in [
        (
            "SELECT window(ts, '10 seconds')['start'], count(*) FROM t GROUP BY 1 ORDER BY 1",
            "00:00:00 2\n00:00:10 1\n00:00:20 2",
        ),
        (
            "SELECT w['end'] AS e, n FROM (SELECT window(ts, '10 seconds') AS w, count(*) AS n FROM t GROUP BY w) \
             WHERE n > 1 ORDER BY e",
            "00:00:10 2\n00:00:30 2",
        ),
        (
            "SELECT window_time(w), n FROM (SELECT window(ts, '10 seconds') AS w, count(*) AS n FROM t GROUP BY w) \
             ORDER BY 1",
            "00:00:09.999999 2\n00:00:19.999999 1\n00:00:29.999999 2",
        ),
        // A window of windows, of which the last moment counts.
        (
            "SELECT window(w, '20 seconds')['start'] AS s, sum(n) FROM \
             (SELECT window(ts, '10 seconds') AS w, count(*) AS n FROM t GROUP BY w) GROUP BY 1 ORDER BY 1",
            "00:00:00 3\n00:00:20 2",
        ),
        (
            "SELECT window(ts, '10 seconds')['start'] AS s, id % 2 AS odd, sum(id) AS n FROM t \
             GROUP BY window(ts, '10 seconds'), id % 2 HAVING sum(id) > 0 ORDER BY s, odd",
            "00:00:00 1 1\n00:00:10 0 2\n00:00:20 0 4\n00:00:20 1 3",
        ),
        ("SELECT count(*) FROM t WHERE window(ts, '10 seconds')['start'] = to_timestamp_seconds(20)", "2"),
        (
            "SELECT DISTINCT window(ts, '10 seconds')['start'] AS s FROM t ORDER BY s DESC",
            "00:00:20\n00:00:10\n00:00:00",
        ),
        ("SELECT max(window(ts, '10 seconds')['end']) FROM t", "00:00:30"),
        (
            "SELECT a.id, b.id FROM t a JOIN t b ON window(a.ts, '10 seconds') = window(b.ts, '10 seconds') \
             WHERE a.id < b.id ORDER BY 1",
            "0 1\n3 4",
        ),
        (
            "SELECT window(ts, '10 seconds')['start'] AS s, count(*) AS n FROM t \
             GROUP BY ROLLUP (window(ts, '10 seconds')) ORDER BY s NULLS LAST",
            "00:00:00 2\n00:00:10 1\n00:00:20 2\nnull 5",
        ),
        ("SELECT window('1970-01-01 00:00:03', '2 seconds')['start']", "00:00:02"),
        ("SELECT window(DATE '1970-01-02', '2 days')['end']", "00:00:00"),
        // Two keys at once, of different sizes.
        (
            "SELECT window(ts, '10 seconds')['start'] AS a, window(ts, '20 seconds')['end'] AS b, count(*) \
             FROM t GROUP BY 1, 2 ORDER BY 1",
            "00:00:00 00:00:20 2\n00:00:10 00:00:20 1\n00:00:20 00:00:40 2",
        ),
        (
            "SELECT w, ww, count(*) FROM (SELECT window(ts, '10 seconds')['start'] AS w, \
             window(ts, '20 seconds')['start'] AS ww FROM t) GROUP BY w, ww ORDER BY w",
            "00:00:00 00:00:00 2\n00:00:10 00:00:00 1\n00:00:20 00:00:20 2",
        ),
        (
            "SELECT id, window(ts, '10 seconds', '5 seconds')['start'] AS s FROM t WHERE id < 2 ORDER BY id, s",
            "0 23:59:55\n0 00:00:00\n1 00:00:00\n1 00:00:05",
        ),
    ] {
        assert_eq!(text(&session, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn groups_of_windows_are_groups_of_times() {
    let session = session_with(&[0, 5, 12, 21, 22], TimeUnit::Second, None);
    for lengths in ["'10 seconds'", "'10 seconds', '5 seconds'"] {
        let sql = format!("SELECT window(ts, {lengths}) AS w, count(*) FROM t GROUP BY w");
        let plan = session.context().sql(&sql).await.unwrap().into_optimized_plan().unwrap();
        let plan = plan.display_indent().to_string();
        let aggregate = plan.lines().find(|line| line.contains("Aggregate:")).unwrap();
        assert!(aggregate.contains("start") && !aggregate.contains("window_of"), "{plan}");
        assert!(plan.contains("IS NOT NULL") || plan.contains("Unnest"), "{plan}");
    }
}

#[tokio::test]
async fn wrong_windows_are_refused_with_advice() {
    let session = session_with(&[0, 5], TimeUnit::Second, None);
    for (sql, expected) in [
        ("SELECT window(id, '10 seconds') FROM t", "window() needs a TIMESTAMP or a window, found Int64"),
        ("SELECT window(ts) FROM t", "not 1 arguments"),
        ("SELECT window() FROM t", "window() needs a time and a size such as '10 minutes'"),
        ("SELECT window(ts, '1 s', '1 s', '0', '1 s') FROM t", "not 5 arguments"),
        ("SELECT window(ts, ts) FROM t", "the size must be a constant such as '10 minutes'"),
        ("SELECT window(ts, '10 fortnights') FROM t", "the size 10 fortnights is not a length of time"),
        ("SELECT window(ts, '1 second', 5) FROM t", "the slide 5 is not a length of time"),
        ("SELECT window(ts, '0 seconds') FROM t", "the size must be greater than 0"),
        ("SELECT window(ts, '-5 seconds') FROM t", "the size must be greater than 0"),
        ("SELECT window(ts, '5 seconds', '0 seconds') FROM t", "the slide must be greater than 0"),
        ("SELECT window(ts, '5 seconds', '6 seconds') FROM t", "the slide must not be greater than the size"),
        ("SELECT window(ts, '5 seconds', '5 seconds', '5 seconds') FROM t", "the start must be nearer to 0"),
        ("SELECT window(ts, '5 seconds', '5 seconds', '-5 seconds') FROM t", "the start must be nearer to 0"),
        ("SELECT window(ts, INTERVAL '1' MONTH) FROM t", "the size has months"),
        ("SELECT window(ts, INTERVAL '1 nanosecond') FROM t", "whole microseconds"),
        ("SELECT window_time(ts) FROM t", "window_time() needs a window"),
        ("SELECT window_time(named_struct('a', 1)) FROM t", "window_time() needs a window"),
        (
            "SELECT * FROM t WHERE window(ts, '10 seconds', '5 seconds')['start'] > now()",
            "sliding windows cannot be used in WHERE or HAVING: they give several rows for one. Compute them in the SELECT list of a subquery",
        ),
        (
            "SELECT window(ts, '10 seconds', '5 seconds') AS a, window(ts, '10 seconds', '2 seconds') AS b FROM t",
            "several different sliding windows in one SELECT",
        ),
    ] {
        let error = match session.context().sql(sql).await {
            Ok(frame) => match frame.collect().await {
                Ok(rows) => panic!("{sql}: {rows:?}"),
                Err(error) => error,
            },
            Err(error) => error,
        };
        let error = tidemill::Error::from(error).to_string();
        assert!(error.contains(expected), "{sql}: {error}");
    }
}
