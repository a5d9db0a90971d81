use datafusion::arrow::datatypes::{DataType, TimeUnit};
use serde_json::json;
use tidemill::prelude::*;

use crate::support::committed::commits;
use crate::support::harness::{Input, Job, Place, schema, session};

fn job(place: &Place) -> Job {
    let columns = [("ts", DataType::Timestamp(TimeUnit::Microsecond, None)), ("k", DataType::Int64)];
    let input =
        Input::new("t", "json", place.text("in")).schema(schema(&columns)).watermark("ts", "0 seconds");
    let sql = "SELECT date_trunc('minute', ts) AS m, sum(k) AS k FROM t GROUP BY date_trunc('minute', ts)";
    Job::new(place).inputs([input]).sql(sql).format("json").mode(OutputMode::Append)
}

/// The sums that a plain reader sees, by minute.
fn sums(place: &Place) -> Vec<(Option<String>, i64)> {
    let rows = place.rows("json", &[]).into_iter();
    let minute = |value: &serde_json::Value| value.as_str().unwrap().to_string();
    let mut sums: Vec<_> = rows.map(|row| (row.get("m").map(minute), row["k"].as_i64().unwrap())).collect();
    sums.sort();
    sums
}

/// A group without a time waits for no watermark: the end of a run that makes everything final gives it.
#[tokio::test]
async fn groups_without_a_time_come_at_the_end_of_a_run() {
    let place = Place::new();
    let row = |ts: Option<&str>, k: i64| json!({ "ts": ts, "k": k }).to_string() + "\n";
    place.put("in/1.json", row(Some("2024-01-01T00:00:10"), 1) + &row(None, 2) + &row(None, 3));
    let query = job(&place).run(&session()).await.unwrap();
    assert_eq!(sums(&place), []);
    assert_eq!(query.totals().rows_without_time, 2);
    assert_eq!(query.totals().flaws(), ["2 rows without an event time"]);
    assert_eq!(query.recent_progress()[0].event_time["rowsWithoutTime"], "2");
    let flushing = job(&place).option("flushOnEnd", true);
    flushing.run(&session()).await.unwrap();
    let first = [(None, 5), (Some("2024-01-01T00:00:00".to_string()), 1)];
    assert_eq!(sums(&place), first);
    flushing.run(&session()).await.unwrap();
    assert_eq!(sums(&place), first);
    place.put("in/2.json", row(None, 7));
    flushing.run(&session()).await.unwrap();
    assert_eq!(sums(&place), [first[0].clone(), (None, 7), first[1].clone()]);
}

/// What has no time stays in update mode, and is made final once.
#[tokio::test]
async fn a_run_without_new_rows_does_nothing_again() {
    let place = Place::new();
    place.put("in/1.json", "{\"k\":2}\n{\"ts\":\"2024-01-01T00:00:10\",\"k\":1}\n");
    let job = job(&place).mode(OutputMode::Update).format("noop").option("flushOnEnd", true);
    job.run(&session()).await.unwrap();
    let first = commits(&place.path("checkpoint"));
    for _ in 0..2 {
        job.run(&session()).await.unwrap();
        assert_eq!(commits(&place.path("checkpoint")), first);
    }
    place.put("in/2.json", "{\"k\":5}\n");
    job.run(&session()).await.unwrap();
    assert_eq!(commits(&place.path("checkpoint")).len(), first.len() + 2);
}

#[tokio::test]
async fn a_run_of_nothing_but_groups_without_a_time_gives_them() {
    let place = Place::new();
    place.put("in/1.json", "{\"k\":2}\n");
    job(&place).option("flushOnEnd", true).run(&session()).await.unwrap();
    assert_eq!(sums(&place), [(None, 2)]);
}

/// What was distinct in groups that were given counts again in those of the next run.
#[tokio::test]
async fn distinct_values_of_groups_without_a_time_are_counted_anew_by_the_next_run() {
    let place = Place::new();
    let rows =
        |values: &[i64]| values.iter().map(|k| json!({ "k": k }).to_string() + "\n").collect::<String>();
    let distinct = "SELECT date_trunc('minute', ts) AS m, count(DISTINCT k) AS k FROM t GROUP BY date_trunc('minute', ts)";
    let job = job(&place).sql(distinct).option("flushOnEnd", true);
    place.put("in/1.json", rows(&[1, 2, 2]));
    job.run(&session()).await.unwrap();
    assert_eq!(sums(&place), [(None, 2)]);
    place.put("in/2.json", rows(&[1, 2, 3]));
    job.run(&session()).await.unwrap();
    assert_eq!(sums(&place), [(None, 2), (None, 3)]);
}

/// The first rows of a key without a time are given as groups are.
#[tokio::test]
async fn first_rows_without_a_time_come_at_the_end_of_a_run() {
    for sql in [
        "SELECT m, k FROM (SELECT date_trunc('minute', ts) AS m, k, row_number() OVER (PARTITION BY date_trunc('minute', ts) \
         ORDER BY k DESC) AS n FROM t) WHERE n <= 1",
        "SELECT DISTINCT ON (date_trunc('minute', ts)) date_trunc('minute', ts) AS m, k FROM t ORDER BY 1, k DESC",
    ] {
        let place = Place::new();
        let row = |ts: Option<&str>, k: i64| json!({ "ts": ts, "k": k }).to_string() + "\n";
        place.put("in/1.json", row(Some("2024-01-01T00:00:10"), 1) + &row(None, 2) + &row(None, 3));
        let job = job(&place).sql(sql);
        job.run(&session()).await.unwrap();
        assert_eq!(sums(&place), [], "{sql}");
        let flushing = job.option("flushOnEnd", true);
        let first = [(None, 3), (Some("2024-01-01T00:00:00".to_string()), 1)];
        for _ in 0..2 {
            flushing.run(&session()).await.unwrap();
            assert_eq!(sums(&place), first, "{sql}");
        }
    }
}
