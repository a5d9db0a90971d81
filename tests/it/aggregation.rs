//! Queries that remember, one of each kind, with results computed by hand.

mod accumulators;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::array_value_to_string;
use tidemill::prelude::*;
use tidemill::source::SourceProvider;
use tidemill::source::memory::MemoryStream;
use tidemill::{SourceFactory, SourceRequest};

struct FeedFactory(MemoryStream);

#[async_trait]
impl SourceFactory for FeedFactory {
    async fn create(&self, _: SourceRequest) -> tidemill::Result<Arc<dyn SourceProvider>> {
        Ok(Arc::new(self.0.clone()))
    }
}

/// Rows of the table `s (k VARCHAR, v BIGINT, ts TIMESTAMP)`; `ts` in seconds.
fn rows(values: &[(&str, i64, i64)]) -> RecordBatch {
    let seconds = values.iter().map(|(_, _, seconds)| seconds * 1_000_000);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("k", Arc::new(StringArray::from_iter_values(values.iter().map(|(k, _, _)| *k)))),
        ("v", Arc::new(Int64Array::from_iter_values(values.iter().map(|(_, v, _)| *v)))),
        ("ts", Arc::new(TimestampMicrosecondArray::from_iter_values(seconds))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// The three batches that all tests have: a watermark of 10 seconds makes (k 'a', v 1, 5 s) of the
/// third late, for 33 s were seen in the second.
const BATCHES: [&[(&str, i64, i64)]; 3] =
    [&[("a", 1, 1), ("b", 2, 2), ("a", 3, 12)], &[("a", 1, 5), ("c", 2, 33)], &[("a", 1, 5), ("c", 3, 55)]];

/// A query over `s`, into the table `out`.
struct Running {
    session: Session,
    stream: MemoryStream,
    query: StreamingQuery,
}

impl Running {
    async fn start(sql: &str, mode: OutputMode) -> Self {
        Self::with(sql, mode, &[]).await
    }

    async fn with(sql: &str, mode: OutputMode, options: &[(&str, &str)]) -> Self {
        let session = Session::new();
        let stream = MemoryStream::new(rows(&[]).schema());
        session.register_source("feed", Arc::new(FeedFactory(stream.clone())));
        let table = session.read_stream().format("feed").load(None).await.unwrap();
        let table = table.with_watermark("ts", "10 seconds").unwrap();
        session.context().register_table("s", table.into_view()).unwrap();
        let frame = session.context().sql(sql).await.unwrap();
        let writer = frame.write_stream().format("memory").query_name("out").output_mode(mode);
        let writer = writer.options(options.iter().copied());
        let query = writer.start(None).await.unwrap();
        Self { session, stream, query }
    }

    /// Adds rows and gives all that is in the sink then, sorted, one text per row.
    async fn add(&self, values: &[(&str, i64, i64)]) -> Vec<String> {
        self.stream.add_data(rows(values)).unwrap();
        self.query.process_all_available().await.unwrap();
        let batches = self.session.context().table("out").await.unwrap().collect().await.unwrap();
        let mut found = Vec::new();
        for batch in &batches {
            for row in 0..batch.num_rows() {
                let values = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
                found.push(values.collect::<Vec<_>>().join(" "));
            }
        }
        found.sort();
        found
    }
}

/// Runs `sql` over [`BATCHES`] and compares the sink after each of them.
async fn expect(sql: &str, mode: OutputMode, expected: [&[&str]; 3]) {
    let running = Running::start(sql, mode).await;
    for (batch, expected) in BATCHES.iter().zip(expected) {
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(running.add(batch).await, expected, "{sql}, {mode}, after {batch:?}");
    }
    running.query.stop(StopMode::Finish).await.unwrap();
}

#[tokio::test]
async fn update_gives_the_groups_that_a_batch_touched() {
    expect(
        "SELECT k, count(*), sum(v), avg(v) FROM s GROUP BY k",
        OutputMode::Update,
        [
            &["a 2 4 2.0", "b 1 2 2.0"],
            &["a 2 4 2.0", "b 1 2 2.0", "a 3 5 1.6666666666666667", "c 1 2 2.0"],
            &["a 2 4 2.0", "b 1 2 2.0", "a 3 5 1.6666666666666667", "c 1 2 2.0", "a 4 6 1.5", "c 2 5 2.5"],
        ],
    )
    .await;
}

/// A new group of nulls comes beside groups that are known.
#[tokio::test]
async fn a_group_without_values_has_no_sum() {
    let sums = "SELECT k, sum(nullif(v, 2)), max(nullif(v, 2)), avg(nullif(v, 2)) FROM s GROUP BY k";
    expect(
        sums,
        OutputMode::Complete,
        [
            &["a 4 3 2.0", "b   "],
            &["a 5 3 1.6666666666666667", "b   ", "c   "],
            &["a 6 3 1.5", "b   ", "c 3 3 3.0"],
        ],
    )
    .await;
    let none = "SELECT count(v), sum(v), avg(v), max(k) FROM s WHERE v > 2 AND k <> 'a'";
    expect(none, OutputMode::Complete, [&["0   "], &["0   "], &["1 3 3.0 c"]]).await;
}

/// The total of all windows has rows that come after their window.
#[tokio::test]
async fn totals_over_windows_lose_no_late_rows() {
    expect(
        "SELECT w, count(*) FROM (SELECT date_bin(INTERVAL '10 seconds', ts) AS w FROM s) GROUP BY ROLLUP (w)",
        OutputMode::Update,
        [
            &["1970-01-01T00:00:00 2", "1970-01-01T00:00:10 1", " 3"],
            &[
                "1970-01-01T00:00:00 2",
                "1970-01-01T00:00:10 1",
                " 3",
                "1970-01-01T00:00:00 3",
                "1970-01-01T00:00:30 1",
                " 5",
            ],
            &[
                "1970-01-01T00:00:00 2",
                "1970-01-01T00:00:10 1",
                " 3",
                "1970-01-01T00:00:00 3",
                "1970-01-01T00:00:30 1",
                " 5",
                "1970-01-01T00:00:00 4",
                "1970-01-01T00:00:50 1",
                " 7",
            ],
        ],
    )
    .await;
}

#[tokio::test]
async fn complete_gives_all_groups_and_what_is_above_is_batch_work() {
    expect(
        "SELECT k, count(*) AS n FROM s GROUP BY k ORDER BY n DESC, k LIMIT 2",
        OutputMode::Complete,
        [&["a 2", "b 1"], &["a 3", "b 1"], &["a 4", "c 2"]],
    )
    .await;
    expect(
        "SELECT n, count(*) FROM (SELECT k, count(*) AS n FROM s GROUP BY k) GROUP BY n",
        OutputMode::Complete,
        [&["1 1", "2 1"], &["1 2", "3 1"], &["1 1", "2 1", "4 1"]],
    )
    .await;
    expect(
        "SELECT k, grouping(k), count(*) FROM s GROUP BY ROLLUP(k)",
        OutputMode::Complete,
        [
            &["a 0 2", "b 0 1", " 1 3"],
            &["a 0 3", "b 0 1", "c 0 1", " 1 5"],
            &["a 0 4", "b 0 1", "c 0 2", " 1 7"],
        ],
    )
    .await;
}

#[tokio::test]
async fn append_gives_windows_when_they_are_final() {
    let expected: [&[&str]; 3] = [
        &[],
        &[
            "1970-01-01T00:00:00 a 2 1 [1, 1]",
            "1970-01-01T00:00:00 b 1 1 [2]",
            "1970-01-01T00:00:10 a 1 1 [3]",
        ],
        &[
            "1970-01-01T00:00:00 a 2 1 [1, 1]",
            "1970-01-01T00:00:00 b 1 1 [2]",
            "1970-01-01T00:00:10 a 1 1 [3]",
            "1970-01-01T00:00:30 c 1 1 [2]",
        ],
    ];
    for window in ["date_bin(INTERVAL '10 seconds', ts)", "window(ts, '10 seconds')['start']"] {
        let sql = format!(
            "SELECT w, k, count(*), count(DISTINCT v), array_agg(v) FROM (SELECT {window} AS w, k, v FROM s) \
             GROUP BY w, k"
        );
        expect(&sql, OutputMode::Append, expected).await;
    }
}

#[tokio::test]
async fn windows_of_windows_wait_for_one_another() {
    expect(
        "SELECT window(window_time(w), '20 seconds')['end'], sum(n) \
         FROM (SELECT window(ts, '10 seconds') AS w, count(*) AS n FROM s GROUP BY 1) GROUP BY 1",
        OutputMode::Append,
        [&[], &["1970-01-01T00:00:20 4"], &["1970-01-01T00:00:20 4", "1970-01-01T00:00:40 1"]],
    )
    .await;
}

#[tokio::test]
async fn distinct_values_are_counted_once() {
    expect(
        "SELECT count(*), count(DISTINCT k), sum(DISTINCT v) FILTER (WHERE v > 1) FROM s",
        OutputMode::Complete,
        [&["3 2 5"], &["5 3 5"], &["7 3 5"]],
    )
    .await;
    expect("SELECT DISTINCT k FROM s", OutputMode::Append, [&["a", "b"], &["a", "b", "c"], &["a", "b", "c"]])
        .await;
    expect(
        "SELECT DISTINCT k, extract(second FROM ts) FROM s",
        OutputMode::Append,
        [
            &["a 1", "a 12", "b 2"],
            &["a 1", "a 12", "b 2", "a 5", "c 33"],
            &["a 1", "a 12", "b 2", "a 5", "c 33", "c 55"],
        ],
    )
    .await;
}

#[tokio::test]
async fn functions_that_keep_every_value_keep_them_in_order() {
    expect(
        "SELECT k, array_agg(v), median(v), string_agg(k, '-') FROM s GROUP BY k",
        OutputMode::Update,
        [
            &["a [1, 3] 2.0 a-a", "b [2] 2.0 b"],
            &["a [1, 3] 2.0 a-a", "b [2] 2.0 b", "a [1, 3, 1] 1.0 a-a-a", "c [2] 2.0 c"],
            &[
                "a [1, 3] 2.0 a-a",
                "b [2] 2.0 b",
                "a [1, 3, 1] 1.0 a-a-a",
                "c [2] 2.0 c",
                "a [1, 3, 1, 1] 1.0 a-a-a-a",
                "c [2, 3] 2.5 c-c",
            ],
        ],
    )
    .await;
    expect(
        "SELECT k, array_agg(v ORDER BY v DESC) FROM s GROUP BY k",
        OutputMode::Complete,
        [
            &["a [3, 1]", "b [2]"],
            &["a [3, 1, 1]", "b [2]", "c [2]"],
            &["a [3, 1, 1, 1]", "b [2]", "c [3, 2]"],
        ],
    )
    .await;
    expect(
        "SELECT k, first_value(v), last_value(v) FROM s GROUP BY k",
        OutputMode::Complete,
        [&["a 1 3", "b 2 2"], &["a 1 1", "b 2 2", "c 2 2"], &["a 1 1", "b 2 2", "c 2 3"]],
    )
    .await;
}

#[tokio::test]
async fn a_limit_counts_over_the_life_of_the_query() {
    expect(
        "SELECT k, v FROM s LIMIT 3 OFFSET 1",
        OutputMode::Append,
        [&["b 2", "a 3"], &["b 2", "a 3", "a 1"], &["b 2", "a 3", "a 1"]],
    )
    .await;
}

#[tokio::test]
async fn the_progress_says_what_was_late_and_what_is_waited_for() {
    let sql = "SELECT date_bin(INTERVAL '10 seconds', ts) AS w, count(*) FROM s GROUP BY 1";
    let running = Running::start(sql, OutputMode::Append).await;
    running.add(BATCHES[0]).await;
    running.add(BATCHES[1]).await;
    running.add(BATCHES[2]).await;
    let late: u64 = running
        .query
        .recent_progress()
        .iter()
        .map(|progress| progress.state_operators[0]["numRowsDroppedByWatermark"].as_u64().unwrap())
        .sum();
    assert_eq!(late, 1);
    let last = running.query.last_progress().unwrap();
    assert_eq!(last.event_time["watermark"], "1970-01-01T00:00:45.000Z");
    assert_eq!(
        last.event_time["waiting"],
        "the watermark is at 1970-01-01T00:00:45.000Z; the next results are final when it reaches \
         1970-01-01T00:01:00.000Z, that is when an event time of 1970-01-01T00:01:10.000Z has been seen"
    );
    assert_eq!(last.state_operators[0]["numRowsTotal"], 1);
}

#[tokio::test]
async fn a_query_goes_on_when_memory_is_short() {
    let sql = "SELECT count(*), sum(n), sum(d) FROM (\
               SELECT v, count(*) AS n, count(DISTINCT k) AS d FROM s GROUP BY v)";
    let options = [("stateMemoryLimit", "1mb"), ("statePartitions", "3")];
    let running = Running::with(sql, OutputMode::Complete, &options).await;
    for batch in 0..4 {
        let values: Vec<(&str, i64, i64)> =
            (0..20_000).map(|row| (if row % 3 == 0 { "a" } else { "b" }, row + batch * 10_000, 1)).collect();
        let found = running.add(&values).await;
        // The second half of each batch has keys of its own; the first half comes again, every one with
        // the other letter unless it is a multiple of three that is moved by a multiple of three.
        let keys = 20_000 + batch * 10_000;
        let pairs: std::collections::BTreeSet<(i64, bool)> = (0..=batch)
            .flat_map(|batch| (0..20_000).map(move |row| (row + batch * 10_000, row % 3 == 0)))
            .collect();
        assert_eq!(found, [format!("{keys} {} {}", (batch + 1) * 20_000, pairs.len())]);
    }
    let operators = running.query.last_progress().unwrap().state_operators;
    let memory: u64 = operators.iter().map(|operator| operator["memoryUsedBytes"].as_u64().unwrap()).sum();
    let rows: u64 = operators.iter().map(|operator| operator["numRowsTotal"].as_u64().unwrap()).sum();
    assert!(rows > 100_000 && memory < 2_500_000, "{memory} bytes for {rows} rows");
}

/// An interval of nothing is no interval: a query without rows leaves the thread to others.
#[tokio::test]
async fn an_interval_of_nothing_starves_nobody() {
    for interval in [Duration::ZERO, Duration::from_micros(999)] {
        let session = Session::new();
        let stream = MemoryStream::new(rows(&[]).schema());
        session.register_source("feed", Arc::new(FeedFactory(stream.clone())));
        let frame = session.read_stream().format("feed").load(None).await.unwrap();
        let writer = frame.write_stream().format("noop").trigger(Trigger::ProcessingTime(interval));
        let query = writer.start(None).await.unwrap();
        stream.add_data(rows(&[("a", 1, 1)])).unwrap();
        query.process_all_available().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        query.stop(StopMode::Finish).await.unwrap();
        assert_eq!(query.last_progress().unwrap().num_input_rows, 1);
    }
}
