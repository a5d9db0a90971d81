//! Facts about event time and restarts that are known of Spark 4.3, one test each, and the edges of
//! watermarks.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use tidemill::prelude::*;
use tidemill::{Environment, OutputMode, StreamingQueryProgress};

use super::check::Checker;
use super::model::{Expr, Rel, SECOND, agg, bin, col};
use super::queries::{Spec, timed, untimed};
use super::rig::{Setting, World};
use super::values::{Row, Value};
use crate::support::harness::{Input, Job, Place, schema, session};
use crate::support::probe::Probe;

/// A row with a time, in microseconds.
fn at(time: impl Into<Option<i64>>) -> Row {
    let time = time.into().map_or(Value::Null, Value::Time);
    let text = Value::Text("a".into());
    vec![Value::Int(1), time, Value::Int(1), text, Value::Int(1), Value::Float(0.5), Value::Bool(true)]
}

fn seconds(times: &[i64]) -> Vec<Row> {
    times.iter().map(|time| at(time * SECOND)).collect()
}

/// Counts per ten seconds; the watermark is as far behind as said.
fn counts(mode: OutputMode, delay_seconds: i64) -> Spec {
    let rel = Rel::Stream(0).group(vec![(bin(10), "t")], vec![agg("count", "*")]);
    Spec { delays: Some(vec![delay_seconds * 1000, 0]), ..timed(rel, mode) }
}

/// A query that is checked by the interpreter, and whose batches are written out here as well.
struct Scene {
    world: World,
    checker: Checker,
    setting: Setting,
    running: Option<(Session, StreamingQuery)>,
}

impl Scene {
    async fn new(spec: Spec) -> Self {
        let checker = Checker::new(&spec);
        let mut scene = Self { world: World::new(spec), checker, setting: Setting::default(), running: None };
        scene.start().await;
        scene
    }

    async fn start(&mut self) {
        let started = self.world.start(Environment::default(), &self.setting).await;
        self.running = Some(started.unwrap());
    }

    async fn stop(&mut self) {
        let (session, query) = self.running.take().unwrap();
        query.stop(StopMode::Finish).await.unwrap();
        drop(session);
    }

    async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// Adds rows to the streams; gives the rows of each new batch as "second count".
    async fn add(&mut self, rows: [&[Row]; 2]) -> Vec<Vec<String>> {
        self.world.feed(&[rows[0].to_vec(), rows[1].to_vec()]);
        self.go_on().await
    }

    /// Lets the query do what there is to do.
    async fn go_on(&mut self) -> Vec<Vec<String>> {
        let (_, query) = self.running.as_ref().unwrap();
        query.process_all_available().await.unwrap();
        let before = self.checker.batches();
        self.checker.check_all(&self.world).unwrap();
        let published = self.world.sink.published();
        let batches = (before..self.checker.batches()).map(|batch| texts(&published[&batch].1));
        batches.collect()
    }

    /// Adds rows with these times, in seconds, to the first stream.
    async fn feed(&mut self, times: &[i64]) -> Vec<Vec<String>> {
        self.add([&seconds(times), &[]]).await
    }

    /// Rows dropped by the first operator in this run.
    fn late(&self) -> u64 {
        let (_, query) = self.running.as_ref().unwrap();
        let reports = query.recent_progress();
        reports.iter().map(|p| p.state_operators[0]["numRowsDroppedByWatermark"].as_u64().unwrap()).sum()
    }
}

fn texts(rows: &[Row]) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::Time(time) if time % SECOND == 0 => (time / SECOND).to_string(),
        Value::Time(time) | Value::Int(time) => time.to_string(),
        other => format!("{other:?}"),
    };
    let mut rows: Vec<String> =
        rows.iter().map(|row| row.iter().map(text).collect::<Vec<_>>().join(" ")).collect();
    rows.sort();
    rows
}

/// Batches of texts.
fn batches(batches: &[&[&str]]) -> Vec<Vec<String>> {
    batches.iter().map(|rows| rows.iter().map(|row| (*row).to_string()).collect()).collect()
}

const NOTHING: &[&str] = &[];

#[tokio::test]
async fn a_batch_takes_rows_that_its_own_watermark_has_passed_and_gives_them_at_its_end() {
    let place = Place::new();
    let put = |place: &Place, file: u64, seconds: &[i64]| {
        let line = |second: &i64| format!("{{\"ts\":\"1970-01-01T00:00:{second:02}\"}}\n");
        place.put(&format!("in/{file}.json"), seconds.iter().map(line).collect::<String>());
    };
    put(&place, 0, &[30]);
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let input = Input::new("input", "json", place.text("in"))
        .schema(schema(&[("ts", time)]))
        .watermark("ts", "10 seconds");
    let place = Arc::new(place);
    let session = session();
    let probe = Probe::of(&session);
    let feed = Arc::clone(&place);
    probe.on_prepare(move |batch| {
        match batch {
            // New rows come while the first batch runs, so that the next one has a watermark of 20 s, and
            // the one before it none.
            0 => put(&feed, 1, &[14, 19, 20]),
            1 => put(&feed, 2, &[19, 20, 21]),
            _ => {}
        }
        Ok(())
    });
    let job = Job::new(&place)
        .inputs([input])
        .sql("SELECT count(*) AS n FROM input GROUP BY date_bin(INTERVAL '10 seconds', ts)")
        .format("probe")
        .out(None)
        .trigger(Trigger::AtOnce);
    let query = job.start(&session).await.unwrap();
    query.process_all_available().await.unwrap();
    let reports = query.recent_progress();
    query.stop(StopMode::Finish).await.unwrap();
    let given: Vec<Vec<i64>> = probe
        .batches()
        .into_values()
        .map(|rows| rows.iter().map(|row| row["n"].as_i64().unwrap()).collect())
        .collect();
    assert_eq!(given, [vec![], vec![2], vec![]]);
    let late =
        |report: &StreamingQueryProgress| report.state_operators[0]["numRowsDroppedByWatermark"].as_u64();
    assert_eq!(reports.iter().map(late).collect::<Vec<_>>(), [Some(0), Some(0), Some(1)]);
}

impl Scene {
    /// For triggers that end by themselves.
    async fn go_on_to_the_end(&mut self) -> Vec<Vec<String>> {
        let (session, query) = self.running.take().unwrap();
        query.await_termination().await.unwrap();
        drop(session);
        let before = self.checker.batches();
        self.checker.check_all(&self.world).unwrap();
        let published = self.world.sink.published();
        (before..self.checker.batches()).map(|batch| texts(&published[&batch].1)).collect()
    }
}

#[tokio::test]
async fn once_gives_what_its_batch_has_made_final() {
    let mut scene = Scene::new(counts(OutputMode::Append, 0)).await;
    scene.stop().await;
    scene.setting.trigger = Trigger::Once;
    scene.world.feed(&[seconds(&[5, 25]), vec![]]);
    scene.start().await;
    assert_eq!(scene.go_on_to_the_end().await, batches(&[NOTHING, &["0 1"]]));
    for trigger in [Trigger::AvailableNow, Trigger::Once] {
        scene.setting.trigger = trigger;
        scene.start().await;
        assert_eq!(scene.go_on_to_the_end().await, batches(&[]));
    }
    scene.world.feed(&[seconds(&[26]), vec![]]);
    scene.start().await;
    assert_eq!(scene.go_on_to_the_end().await, batches(&[NOTHING, NOTHING]));
}

#[tokio::test]
async fn a_batch_without_rows_follows_when_the_watermark_moved_and_no_second_one_after_a_restart() {
    let mut scene = Scene::new(counts(OutputMode::Append, 0)).await;
    assert_eq!(scene.feed(&[5, 12]).await, batches(&[NOTHING, &["0 1"]]));
    assert_eq!(scene.feed(&[12]).await, batches(&[NOTHING]));
    scene.restart().await;
    assert_eq!(scene.go_on().await, batches(&[]));
    assert_eq!(scene.feed(&[20]).await, batches(&[NOTHING, &["10 2"]]));
}

#[tokio::test]
async fn a_window_is_given_when_the_watermark_is_at_its_end() {
    let mut scene = Scene::new(counts(OutputMode::Append, 10)).await;
    assert_eq!(scene.feed(&[5]).await, batches(&[NOTHING]));
    // 19.999 s: the watermark is 9.999 s.
    let just = |micros: i64| [at(micros)];
    assert_eq!(scene.add([&just(19_999_000), &[]]).await, batches(&[NOTHING, NOTHING]));
    // Watermarks are whole milliseconds, rounded down.
    assert_eq!(scene.add([&just(19_999_999), &[]]).await, batches(&[NOTHING]));
    assert_eq!(scene.add([&just(20_000_000), &[]]).await, batches(&[NOTHING, &["0 1"]]));
    // The window's last microsecond is late, its end is not.
    scene.add([&[at(9_999_999), at(10_000_000)], &[]]).await;
    assert_eq!(scene.late(), 1);
}

#[tokio::test]
async fn rows_are_late_by_their_window_and_not_by_their_time() {
    let mut scene = Scene::new(counts(OutputMode::Append, 0)).await;
    assert_eq!(scene.feed(&[18]).await, batches(&[NOTHING, NOTHING]));
    assert_eq!(scene.feed(&[11, 9]).await, batches(&[NOTHING]));
    assert_eq!(scene.late(), 1);
    assert_eq!(scene.feed(&[20]).await, batches(&[NOTHING, &["10 2"]]));
}

#[tokio::test]
async fn equal_times_are_neither_late_before_nor_in_time_after() {
    let rel = Rel::Stream(0).group(vec![(col("ts"), "t")], vec![agg("count", "*")]);
    let mut scene = Scene::new(Spec { delays: Some(vec![0, 0]), ..timed(rel, OutputMode::Append) }).await;
    assert_eq!(scene.feed(&[7, 7, 7]).await, batches(&[NOTHING, &["7 3"]]));
    assert_eq!(scene.feed(&[7]).await, batches(&[NOTHING]));
    assert_eq!(scene.late(), 1);
    // A microsecond later is still before the next watermark.
    assert_eq!(scene.add([&[at(7_000_001)], &[]]).await, batches(&[NOTHING]));
    assert_eq!(scene.feed(&[8]).await, batches(&[NOTHING, &["7000001 1", "8 1"]]));
}

#[tokio::test]
async fn a_time_far_in_the_future_makes_everything_else_late() {
    let mut scene = Scene::new(counts(OutputMode::Append, 10)).await;
    let spike = 4_000_000_000;
    assert_eq!(scene.feed(&[5, spike]).await, batches(&[NOTHING, &["0 1"]]));
    assert_eq!(scene.feed(&[6, 1_000_000]).await, batches(&[NOTHING]));
    assert_eq!(scene.late(), 2);
}

#[tokio::test]
async fn rows_without_a_time_move_nothing_and_stay() {
    let mut scene = Scene::new(counts(OutputMode::Update, 0)).await;
    let no_times = [at(None), at(None)];
    assert_eq!(scene.add([&no_times, &[]]).await, batches(&[&["Null 2"]]));
    assert_eq!(scene.feed(&[15]).await, batches(&[&["10 1"], NOTHING]));
    assert_eq!(scene.add([&no_times, &[]]).await, batches(&[&["Null 4"]]));
    assert_eq!(scene.late(), 0);
    let windows = Rel::Stream(0).windowed(10, 10, 0).group(vec![(col("w"), "w")], vec![agg("count", "*")]);
    let mut scene = Scene::new(timed(windows, OutputMode::Update)).await;
    assert_eq!(scene.add([&no_times, &[]]).await, batches(&[NOTHING]));
}

#[tokio::test]
async fn times_before_1970_are_never_late_by_a_watermark_before_1970() {
    let mut scene = Scene::new(counts(OutputMode::Append, 0)).await;
    assert_eq!(scene.feed(&[-100, -50]).await, batches(&[NOTHING]));
    assert_eq!(scene.feed(&[-100]).await, batches(&[NOTHING]));
    assert_eq!(scene.late(), 0);
    assert_eq!(scene.feed(&[1]).await, batches(&[NOTHING, &["-100 2", "-50 1"]]));
    assert_eq!(scene.feed(&[-100]).await, batches(&[NOTHING]));
    assert_eq!(scene.late(), 1);
}

fn two_streams(take_greatest: bool) -> Spec {
    let rows = Rel::Union(Box::new(Rel::Stream(0)), Box::new(Rel::Stream(1)));
    let rel = rows.group(vec![(bin(10), "t")], vec![agg("count", "*")]);
    Spec { delays: Some(vec![0, 0]), take_greatest, ..timed(rel, OutputMode::Append) }
}

#[tokio::test]
async fn of_several_streams_the_one_furthest_behind_counts() {
    let mut scene = Scene::new(two_streams(false)).await;
    assert_eq!(scene.add([&seconds(&[25]), &[]]).await, batches(&[NOTHING]));
    assert_eq!(scene.add([&[], &seconds(&[5])]).await, batches(&[NOTHING, NOTHING]));
    assert_eq!(scene.add([&[], &seconds(&[12])]).await, batches(&[NOTHING, &["0 1"]]));
    // A restart changes nothing: the first one has come to 25 s.
    scene.restart().await;
    assert_eq!(scene.add([&[], &seconds(&[9])]).await, batches(&[NOTHING]));
    assert_eq!(scene.late(), 1);
    assert_eq!(scene.add([&[], &seconds(&[22])]).await, batches(&[NOTHING, &["10 1"]]));
    scene.restart().await;
    assert_eq!(scene.add([&seconds(&[40]), &[]]).await, batches(&[NOTHING]));
    assert_eq!(scene.add([&[], &seconds(&[30])]).await, batches(&[NOTHING, &["20 2"]]));
}

#[tokio::test]
async fn or_the_one_furthest_ahead() {
    let mut scene = Scene::new(two_streams(true)).await;
    assert_eq!(scene.add([&seconds(&[25]), &seconds(&[5])]).await, batches(&[NOTHING, &["0 1"]]));
    assert_eq!(scene.add([&[], &seconds(&[5])]).await, batches(&[NOTHING]));
    assert_eq!(scene.late(), 1);
}

#[tokio::test]
async fn an_aggregation_of_everything_is_given_for_every_batch() {
    let rel = Rel::Stream(0).group(vec![], vec![agg("count", "*"), agg("sum", "v")]);
    let mut scene = Scene::new(untimed(rel, OutputMode::Update)).await;
    assert_eq!(scene.feed(&[]).await, batches(&[&["0 Null"]]));
    assert_eq!(scene.feed(&[1, 2]).await, batches(&[&["2 2"]]));
    // It does not go back to nothing, not after a restart with other partitions either.
    assert_eq!(scene.feed(&[]).await, batches(&[&["2 2"]]));
    scene.setting.state_partitions = 5;
    scene.restart().await;
    assert_eq!(scene.feed(&[]).await, batches(&[&["2 2"]]));
    assert_eq!(scene.feed(&[3]).await, batches(&[&["3 3"]]));
}

#[tokio::test]
async fn a_new_group_of_nulls_beside_known_groups_is_null() {
    let functions = ["sum", "min", "avg", "var_pop"].map(|function| agg(function, "v")).to_vec();
    let rel = Rel::Stream(0).group(vec![(col("k"), "k")], functions);
    let mut scene = Scene::new(untimed(rel, OutputMode::Update)).await;
    scene.setting.state_partitions = 1;
    scene.restart().await;
    scene.feed(&[1]).await;
    let mut unknown = at(0);
    (unknown[2], unknown[4]) = (Value::Int(2), Value::Null);
    let given = scene.add([&[at(0), unknown], &[]]).await;
    assert_eq!(given[0][1], "2 Null Null Null Null");
}

#[tokio::test]
async fn update_forgets_final_groups_without_a_word_and_complete_forgets_nothing() {
    let mut scene = Scene::new(counts(OutputMode::Update, 0)).await;
    assert_eq!(scene.feed(&[5]).await, batches(&[&["0 1"], NOTHING]));
    assert_eq!(scene.feed(&[25]).await, batches(&[&["20 1"], NOTHING]));
    assert_eq!(scene.feed(&[5]).await, batches(&[NOTHING]));
    assert_eq!(scene.late(), 1);
    let mut scene = Scene::new(counts(OutputMode::Complete, 0)).await;
    assert_eq!(scene.feed(&[5]).await, batches(&[&["0 1"]]));
    assert_eq!(scene.feed(&[25]).await, batches(&[&["0 1", "20 1"]]));
    assert_eq!(scene.feed(&[5]).await, batches(&[&["0 2", "20 1"]]));
    assert_eq!(scene.late(), 0);
}

#[tokio::test]
async fn duplicates_are_forgotten_when_their_time_is_final() {
    let spec = |rel| Spec { delays: Some(vec![10_000, 0]), ..timed(rel, OutputMode::Append) };
    let total = |scene: &Scene| {
        let (_, query) = scene.running.as_ref().unwrap();
        query.last_progress().unwrap().state_operators[0]["numRowsTotal"].as_u64().unwrap()
    };
    let mut scene = Scene::new(spec(Rel::Stream(0).distinct_on(&["ts"]))).await;
    let given = scene.feed(&[12, 12, 13]).await;
    assert_eq!((given[0].len(), total(&scene)), (2, 2));
    assert_eq!(scene.feed(&[12]).await[0].len(), 0);
    // 23 s: both are forgotten, and what is that old is late.
    assert_eq!(scene.feed(&[33]).await[0].len(), 1);
    assert_eq!(total(&scene), 1);
    assert_eq!(scene.feed(&[12, 23]).await[0].len(), 0);
    assert_eq!(scene.late(), 2);
    // Within the watermark: a key is known until ten seconds after its first row.
    let mut scene = Scene::new(spec(Rel::Within(0, vec!["k".into()]))).await;
    assert_eq!(scene.feed(&[12, 15]).await[0].len(), 1);
    assert_eq!(scene.feed(&[31]).await[0].len(), 0);
    assert_eq!(total(&scene), 1);
    assert_eq!(scene.feed(&[32]).await[0].len(), 0);
    assert_eq!(total(&scene), 0);
    assert_eq!(scene.feed(&[33]).await[0].len(), 1);
}

#[tokio::test]
async fn windows_of_windows_wait_for_each_other() {
    let inner = Rel::Stream(0).windowed(5, 5, 0).group(vec![(col("w"), "w")], vec![agg("count", "*")]);
    let time = Expr::WindowTime(Box::new(col("w")));
    let outer = inner.project(vec![(time, "at"), (col("a0"), "a0")]).windowed_by(col("at"), 10, 10, 0).group(
        vec![(Expr::Part(Box::new(col("w")), "start"), "t")],
        vec![agg("sum", "a0"), agg("count", "*")],
    );
    let mut scene = Scene::new(Spec { delays: Some(vec![0, 0]), ..timed(outer, OutputMode::Append) }).await;
    assert_eq!(scene.feed(&[1, 2, 6]).await, batches(&[NOTHING, NOTHING]));
    assert_eq!(scene.feed(&[7, 8]).await, batches(&[NOTHING, NOTHING]));
    // Both operators give what is final in one batch.
    assert_eq!(scene.feed(&[10]).await, batches(&[NOTHING, &["0 5 2"]]));
    assert_eq!(scene.feed(&[4]).await, batches(&[NOTHING]));
    assert_eq!(scene.late(), 1);
}
