//! Timers and times to live in running queries.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};
use tidemill::Result;
use tidemill::clock::Clock;
use tidemill::prelude::*;
use tidemill::processor::{Call, ProcessorTester, Rows, StateVariables, Timestamp, ValueState};

use super::rig::{Row, Setting, Step, World, input_schema};
use crate::stateful::values::Value;
use crate::support::harness::eventually;

/// Gives a row when nothing has come for a key for some time.
struct Silence {
    after: Duration,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Silent {
    k: i64,
    since: Timestamp,
    at: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
struct Tick {
    k: i64,
}

impl StatefulProcessor for Silence {
    type Key = i64;
    type Input = Tick;
    type Output = Silent;
    type State = ValueState<Timestamp>;

    fn init(&self, variables: &mut StateVariables) -> Result<ValueState<Timestamp>> {
        variables.value("last")
    }

    fn handle_input_rows(
        &self,
        last: &ValueState<Timestamp>,
        _: Rows<'_, Tick>,
        call: &mut Call<'_, Self>,
    ) -> Result<()> {
        if let Some(last) = last.get(call)? {
            call.delete_timer(last + self.after)?;
        }
        let now = call.processing_time();
        last.update(call, &now)?;
        call.register_timer(now + self.after)
    }

    fn handle_expired_timer(
        &self,
        last: &ValueState<Timestamp>,
        _: Timestamp,
        call: &mut Call<'_, Self>,
    ) -> Result<()> {
        let since = last.get(call)?.unwrap_or_default();
        last.clear(call);
        let (k, at) = (*call.key(), call.processing_time());
        call.emit(&Silent { k, since, at })
    }
}

fn silent_schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let fields = [("k", DataType::Int64), ("since", time.clone()), ("at", time)];
    Arc::new(Schema::new(fields.map(|(name, kind)| Field::new(name, kind, false)).to_vec()))
}

fn row(k: i64) -> Row {
    Row { id: k, k: Some(k), v: 0, ts: None }
}

/// A query that waits for rows runs a batch when a timer is due, at that time, and none before.
#[tokio::test]
async fn a_timer_wakes_a_query_to_which_nothing_comes() {
    let mut world = World::new(TimeMode::ProcessingTime);
    let session = world.session(world.environment(), &Setting::default());
    let frame = world.frame(&session, &Setting::default()).await.unwrap();
    let silence = Silence { after: Duration::from_millis(90_500) };
    let frame = frame
        .transform_with_state(&["k"], silent_schema(), silence, TimeMode::ProcessingTime, OutputMode::Append)
        .unwrap();
    world.feed(Step { rows: vec![row(1), row(2), row(1)], wait_ms: 0 });
    let start = world.clock.now_ms();
    let query = frame
        .write_stream()
        .format("capture")
        .option("checkpointLocation", world.checkpoint())
        .option("durability", "process")
        .start(None)
        .await
        .unwrap();
    // Waiting moves the clock on.
    eventually(|| world.sink.published().values().any(|(_, rows)| !rows.is_empty())).await;
    query.stop(StopMode::Finish).await.unwrap();
    let published = world.sink.published();
    let batches: Vec<usize> = published.values().map(|(_, rows)| rows.len()).collect();
    assert_eq!(batches, [0, 2]);
    let mut rows = published[&1].1.clone();
    rows.sort();
    let (since, at) = (Value::Time(start * 1000), Value::Time((start + 90_500) * 1000));
    let expected = [1, 2].map(|k| vec![Value::Int(k), since.clone(), at.clone()]);
    assert_eq!(rows, expected);
}

/// The time of a batch does not go back for those who have forgotten something by it.
#[tokio::test]
async fn a_clock_that_is_set_back_does_not_set_back_the_time_of_batches() {
    let mut world = World::new(TimeMode::ProcessingTime);
    world.feed(Step { rows: vec![row(1)], wait_ms: 50_000 });
    world.run(world.environment(), &Setting::default()).await.unwrap();
    world.clock.set(1_000);
    world.feed(Step { rows: vec![row(1)], wait_ms: 0 });
    world.run(world.environment(), &Setting::default()).await.unwrap();
    world.check("set back");
    assert_eq!(world.outputs().len(), 2);
}

/// With `flushOnEnd` timers of event time expire at the end, and those that they call for do not.
#[tokio::test]
async fn at_the_end_timers_of_event_time_expire_if_that_is_asked_for() {
    let mut world = World::new(TimeMode::EventTime);
    let at = |id, v, second: i64| Row { id, k: Some(1), v, ts: Some(second * 1_000_000) };
    world.feed(Step { rows: vec![at(1, 5, 100), at(2, 10, 101)], wait_ms: 0 });
    let session = world.session(world.environment(), &Setting::default());
    let frame = world.frame(&session, &Setting::default()).await.unwrap();
    let frame = world.transform(frame, OutputMode::Append).unwrap();
    let query = frame
        .write_stream()
        .format("capture")
        .trigger(Trigger::AvailableNow)
        .option("checkpointLocation", world.checkpoint())
        .option("durability", "process")
        .option("flushOnEnd", true)
        .start(None)
        .await
        .unwrap();
    query.await_termination().await.unwrap();
    let timers: Vec<i64> =
        world.outputs().into_iter().flatten().filter(|out| out.what == "timer").map(|out| out.a).collect();
    // 100 + 7 + 5 and 101 + 7 + 10 seconds, and what the first one calls for before the end, at 122, is beyond it.
    assert_eq!(timers, [112_000_000, 118_000_000]);
}

fn tester(mode: TimeMode) -> ProcessorTester<Silence> {
    let silence = Silence { after: Duration::from_secs(10) };
    ProcessorTester::new(silence, input_schema(), &["k"], silent_schema(), mode).unwrap()
}

#[test]
fn the_tester_lets_time_go_by() {
    let mut tester = tester(TimeMode::ProcessingTime);
    assert_eq!(tester.process(&[Tick { k: 1 }]).unwrap(), []);
    assert_eq!(tester.inspect(&1, |_, state| state.list_timers()).unwrap(), [Timestamp::from_millis(10_000)]);
    assert_eq!(tester.advance_time(Duration::from_secs(4)).unwrap(), []);
    assert_eq!(tester.process(&[Tick { k: 1 }]).unwrap(), []);
    assert_eq!(tester.advance_time(Duration::from_millis(9_999)).unwrap(), []);
    let since = Timestamp::from_millis(4_000);
    let expected = [Silent { k: 1, since, at: Timestamp::from_millis(14_000) }];
    assert_eq!(tester.advance_time(Duration::from_millis(1)).unwrap(), expected);
    assert!(!tester.inspect(&1, |last, state| Ok(last.exists(state))).unwrap());
    assert_eq!(tester.inspect(&1, |_, state| state.list_timers()).unwrap(), []);
}

#[test]
fn timers_that_make_no_sense_are_refused_with_the_key() {
    let error = tester(TimeMode::None).process(&[Tick { k: 7 }]).unwrap_err().to_string();
    assert!(
        error.starts_with("Silence failed in handle_input_rows for the key k = '7': a timer was"),
        "{error}"
    );
    assert!(error.contains("TimeMode::None"), "{error}");

    /// Registers a timer for the time that it is called at.
    struct ForEver;
    impl StatefulProcessor for ForEver {
        type Key = i64;
        type Input = Tick;
        type Output = Silent;
        type State = ();
        fn init(&self, _: &mut StateVariables) -> Result<()> {
            Ok(())
        }
        fn handle_input_rows(&self, (): &(), _: Rows<'_, Tick>, call: &mut Call<'_, Self>) -> Result<()> {
            call.register_timer(call.processing_time())
        }
        fn handle_expired_timer(&self, (): &(), time: Timestamp, call: &mut Call<'_, Self>) -> Result<()> {
            call.register_timer(time)
        }
    }
    let mode = TimeMode::ProcessingTime;
    let mut tester = ProcessorTester::new(ForEver, input_schema(), &["k"], silent_schema(), mode).unwrap();
    let error = tester.process(&[Tick { k: 7 }]).unwrap_err().to_string();
    assert!(error.contains("ForEver failed in handle_expired_timer for the key k = '7'"), "{error}");
    assert!(error.contains("which would go on for ever"), "{error}");
}
