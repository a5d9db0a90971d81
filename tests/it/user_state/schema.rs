//! What may change between restarts, what fails, and what is seen of state from outside.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::util::pretty::pretty_format_batches;
use serde::{Deserialize, Serialize};
use tidemill::prelude::*;
use tidemill::processor::{Call, Rows, StateVariables};
use tidemill::{Error, Result};

use super::rig::{Row, Setting, Step, World};
use crate::support::committed::commits;
use crate::support::harness::cause;

/// Declares variables as it is told, and counts rows in the first.
#[derive(Clone)]
struct Declares(&'static [(&'static str, &'static str)]);

#[derive(Debug, Serialize, Deserialize)]
struct Count {
    n: i64,
}

#[derive(Debug, Deserialize)]
struct In {
    v: i64,
}

impl StatefulProcessor for Declares {
    type Key = i64;
    type Input = In;
    type Output = Count;
    type State = tidemill::processor::ValueState<i64>;

    fn init(&self, variables: &mut StateVariables) -> Result<Self::State> {
        let count = variables.value("count")?;
        for (name, kind) in self.0 {
            match *kind {
                "value" => {
                    let _ = variables.value::<i64>(name)?;
                }
                "record" => {
                    let _ = variables.value::<Count>(name)?;
                }
                "list" => {
                    let _ = variables.list::<i64>(name)?;
                }
                "map" => {
                    let _ = variables.map::<i64, i64>(name)?;
                }
                other => panic!("{other}"),
            }
        }
        Ok(count)
    }

    fn handle_input_rows(
        &self,
        count: &Self::State,
        rows: Rows<'_, In>,
        call: &mut Call<'_, Self>,
    ) -> Result<()> {
        let mut n = count.get(call)?.unwrap_or(0);
        for row in rows {
            match row?.v {
                13 => return Err(Error::Invalid("unlucky".into())),
                14 => panic!("fourteen"),
                _ => n += 1,
            }
        }
        count.update(call, &n)?;
        call.emit(&Count { n })
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

fn row(k: i64, v: i64) -> Row {
    Row { id: 0, k: Some(k), v, ts: None }
}

/// Feeds a row and runs the query.
async fn run(world: &mut World, processor: Declares, keys: &[&str], rows: Vec<Row>) -> Result<()> {
    world.feed(Step { rows, wait_ms: 1 });
    let session = world.session(world.environment(), &Setting::default());
    let frame = world.frame(&session, &Setting::default()).await?;
    let frame = frame.transform_with_state(keys, schema(), processor, world.mode, OutputMode::Append)?;
    let writer = frame.write_stream().format("capture").trigger(Trigger::AvailableNow);
    let writer = writer.option("checkpointLocation", world.checkpoint()).option("durability", "process");
    writer.start(None).await?.await_termination().await
}

fn counts(world: &World) -> Vec<i64> {
    let published = world.sink.published();
    published.values().flat_map(|(_, rows)| rows.iter().map(|row| row[0].int().unwrap())).collect()
}

#[tokio::test]
async fn state_variables_may_be_added_and_anything_else_is_refused_by_name() {
    let mut world = World::new(TimeMode::None);
    let first = Declares(&[("m", "map")]);
    run(&mut world, first.clone(), &["k"], vec![row(1, 1)]).await.unwrap();
    let more = Declares(&[("a", "list"), ("m", "map"), ("r", "record")]);
    run(&mut world, more.clone(), &["k"], vec![row(1, 1)]).await.unwrap();
    assert_eq!(counts(&world), [1, 2]);
    let of = "of stateful operator 0 (transformWithState)";
    let cases: [(Declares, &[&str], String); 5] = [
        (first, &["k"], format!("variable 'a' {of} is gone; variable 'r' {of} is gone")),
        (
            Declares(&[("a", "map"), ("m", "map"), ("r", "record")]),
            &["k"],
            format!(
                "the kind of variable 'a' {of} was list and is map; the type of variable 'a' {of} was i64 and is i64 => i64"
            ),
        ),
        (
            Declares(&[("a", "list"), ("m", "map"), ("r", "value")]),
            &["k"],
            format!("the type of variable 'r' {of} was {{n: i64}} and is i64"),
        ),
        (more.clone(), &["id"], format!("key 'k' (Int64) {of} is gone; key 'id' (Int64) {of} is new")),
        (more.clone(), &["k", "id"], format!("key 'id' (Int64) {of} is new")),
    ];
    for (processor, keys, expected) in cases {
        let error = run(&mut world, processor, keys, vec![]).await.unwrap_err();
        let Error::QueryChanged { differences, .. } = cause(&error) else { panic!("{error}") };
        let found: Vec<&String> = differences.iter().filter(|text| text.contains("operator 0")).collect();
        let found: Vec<&str> = found.into_iter().map(String::as_str).collect();
        assert_eq!(found.join("; "), expected);
    }
    world.mode = TimeMode::ProcessingTime;
    let error = run(&mut world, more.clone(), &["k"], vec![]).await.unwrap_err().to_string();
    assert!(
        error.contains(
            "the time mode of stateful operator 0 (transformWithState) was none and is processingTime"
        ),
        "{error}"
    );
    world.mode = TimeMode::None;
    run(&mut world, more, &["k"], vec![row(1, 1)]).await.unwrap();
    assert_eq!(counts(&world), [1, 2, 3]);
}

#[tokio::test]
async fn errors_and_panics_name_the_key_and_commit_nothing() {
    for (v, message) in [(13, "unlucky"), (14, "it panicked: fourteen")] {
        for wide in [false, true] {
            let mut world = World::new(TimeMode::None);
            run(&mut world, Declares(&[]), &["k"], vec![row(1, 1), row(2, 1)]).await.unwrap();
            world.feed(Step { rows: vec![row(1, 1), row(2, v), row(3, 1)], wait_ms: 1 });
            let setting = Setting { wide, ..Setting::default() };
            let session = world.session(world.environment(), &setting);
            let frame = world.frame(&session, &setting).await.unwrap();
            let frame = frame
                .transform_with_state(&["k"], schema(), Declares(&[]), TimeMode::None, OutputMode::Append)
                .unwrap();
            let writer = frame.write_stream().format("capture").trigger(Trigger::AvailableNow);
            let writer =
                writer.option("checkpointLocation", world.checkpoint()).option("durability", "process");
            let query = writer.start(None).await.unwrap();
            let error = query.await_termination().await.unwrap_err();
            let expected = format!("Declares failed in handle_input_rows for the key k = '2': {message}");
            assert_eq!(cause(&error).to_string(), expected);
            assert_eq!(commits(&world.folder.path().join("checkpoint")), [0]);
            assert_eq!(counts(&world), [1, 1]);
        }
    }
}

#[tokio::test]
async fn rows_that_cannot_be_read_or_do_not_fit_are_said() {
    #[derive(Debug, Serialize)]
    struct Wrong {
        m: i64,
    }
    struct Gives;
    impl StatefulProcessor for Gives {
        type Key = i64;
        type Input = In;
        type Output = Wrong;
        type State = ();
        fn init(&self, _: &mut StateVariables) -> Result<()> {
            Ok(())
        }
        fn handle_input_rows(&self, (): &(), _: Rows<'_, In>, call: &mut Call<'_, Self>) -> Result<()> {
            call.emit(&Wrong { m: 1 })
        }
    }
    let mut tester = tidemill::processor::ProcessorTester::new(
        Gives,
        super::rig::input_schema(),
        &["k"],
        schema(),
        TimeMode::None,
    )
    .unwrap();
    let error = tester.process_batches(vec![super::rig::batch_of(&[row(1, 1)])]).unwrap_err().to_string();
    assert!(error.contains("does not fit the output schema (n Int64)"), "{error}");
    assert!(error.contains("column 'm' missing from schema"), "{error}");
    let mut null = row(1, 1);
    null.k = None;
    let error = tester.process_batches(vec![super::rig::batch_of(&[null])]).unwrap_err().to_string();
    assert!(error.contains("for the key k = NULL: a row cannot be read as i64"), "{error}");
    assert!(error.contains("it is null"), "{error}");
}

#[tokio::test]
async fn state_is_seen_from_outside() {
    let mut world = World::new(TimeMode::ProcessingTime);
    let rows = [5, 4].map(|v| Row { id: v, k: Some(1), v, ts: None });
    world.feed(Step { rows: rows.into(), wait_ms: 0 });
    world.run(world.environment(), &Setting::default()).await.unwrap();
    let session = world.session(world.environment(), &Setting::default());
    let state = session.stored_state(&world.checkpoint(), None).await.unwrap();
    let overview = pretty_format_batches(&[state.operators().unwrap()]).unwrap().to_string();
    assert!(overview.contains("transformWithState") && overview.contains("timers"), "{overview}");
    let table = |operator| session.context().read_table(state.table(operator).unwrap()).unwrap();
    let rows = table(0).sort_by(vec![col("variable"), col("element")]).unwrap().collect().await.unwrap();
    let expected = [
        "+---+----------+---------+---------+---------------------+",
        "| k | variable | element | value   | expires             |",
        "+---+----------+---------+---------+---------------------+",
        "| 1 | list     | 0       | 5       |                     |",
        "| 1 | list     | 1       | 4       |                     |",
        "| 1 | map      | 1       | [1,\"x\"] | 1970-01-01T00:00:16 |",
        "| 1 | map      | 2       | [1,\"x\"] | 1970-01-01T00:00:16 |",
        "| 1 | recent   |         | {\"id\":4} | 1970-01-01T00:00:21 |",
        "| 1 | total    |         | 9       |                     |",
        "+---+----------+---------+---------+---------------------+",
    ];
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace('-', "");
    assert_eq!(plain(&pretty_format_batches(&rows).unwrap().to_string()), plain(&expected.join("\n")));
    let timers = table(1).collect().await.unwrap();
    let timers = pretty_format_batches(&timers).unwrap().to_string();
    assert!(timers.contains("| 1 | 1970-01-01T00:00:13 |"), "{timers}");
}
