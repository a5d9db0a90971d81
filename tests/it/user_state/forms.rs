//! The simple forms, initial state, rows of Arrow as state, and what is refused.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};
use tidemill::Result;
use tidemill::prelude::*;
use tidemill::processor::{
    AnyRows, Call, GroupState, ProcessorTester, Rows, RowsState, StateVariables, Timestamp, ValueState,
};

use super::rig::{Row, Setting, Step, World, batch_of, input_schema};

#[derive(Debug, Deserialize)]
struct In {
    v: i64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Total {
    k: i64,
    total: i64,
}

fn schema() -> SchemaRef {
    let int = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![int("k"), int("total")]))
}

fn row(k: i64, v: i64) -> Row {
    Row { id: 0, k: Some(k), v, ts: None }
}

/// Starts the query that `make` makes, for what has come since.
async fn run(
    world: &World,
    mode: OutputMode,
    make: impl AsyncFn(&Session, DataFrame) -> Result<DataFrame>,
) -> Result<()> {
    let session = world.session(world.environment(), &Setting::default());
    let frame = world.frame(&session, &Setting::default()).await?;
    let frame = make(&session, frame).await?;
    let writer = frame.write_stream().format("capture").output_mode(mode).trigger(Trigger::AvailableNow);
    let writer = writer.option("checkpointLocation", world.checkpoint()).option("durability", "process");
    writer.start(None).await?.await_termination().await
}

/// The two numbers of each row of each batch, sorted.
fn given(world: &World) -> Vec<Vec<(i64, i64)>> {
    let published = world.sink.published();
    let batches = published.values().map(|(_, rows)| {
        let mut rows: Vec<(i64, i64)> =
            rows.iter().map(|row| (row[0].int().unwrap(), row[1].int().unwrap())).collect();
        rows.sort_unstable();
        rows
    });
    batches.collect()
}

#[tokio::test]
async fn a_function_of_groups_has_one_value_and_one_timeout() {
    let function = |k: &i64, rows: Rows<'_, In>, state: &mut GroupState<i64>| -> Result<Vec<Total>> {
        if state.has_timed_out() {
            let total = state.get().copied().unwrap_or(-1);
            state.remove();
            return Ok(vec![Total { k: -k, total }]);
        }
        let mut total = state.get().copied().unwrap_or(0);
        for row in rows {
            total += row?.v;
        }
        state.update(total);
        if *k < 3 {
            state.set_timeout_duration(Duration::from_secs(10));
        }
        Ok(vec![])
    };
    let mut world = World::new(TimeMode::ProcessingTime);
    let make = async |_: &Session, frame: DataFrame| {
        frame.flat_map_groups_with_state(
            &["k"],
            schema(),
            TimeMode::ProcessingTime,
            OutputMode::Append,
            function,
        )
    };
    for (rows, wait_ms) in [
        (vec![row(1, 1), row(2, 2), row(3, 3)], 0),
        (vec![row(1, 10)], 6_000),
        // The one of 2 was due at 10 seconds, that of 1 is at 16.
        (vec![row(3, 1)], 4_500),
        (vec![], 5_500),
        (vec![row(1, 7), row(2, 8)], 1_000),
        (vec![], 10_000),
    ] {
        world.feed(Step { rows, wait_ms });
        run(&world, OutputMode::Append, &make).await.unwrap();
    }
    assert_eq!(
        given(&world),
        [vec![], vec![], vec![(-2, 2)], vec![(-1, 11)], vec![], vec![(-2, 8), (-1, 7)]]
    );
}

#[tokio::test]
async fn a_function_that_gives_one_row_replaces_it() {
    let function = |k: &i64, rows: Rows<'_, In>, state: &mut GroupState<i64>| -> Result<Total> {
        let mut total = state.get().copied().unwrap_or(0);
        for row in rows {
            total += row?.v;
        }
        state.update(total);
        Ok(Total { k: *k, total })
    };
    let mut world = World::new(TimeMode::None);
    let make = async |_: &Session, frame: DataFrame| {
        frame.map_groups_with_state(&["k"], schema(), TimeMode::None, function)
    };
    for rows in [vec![row(1, 1), row(2, 2), row(1, 3)], vec![row(1, 10)]] {
        world.feed(Step { rows, wait_ms: 0 });
        run(&world, OutputMode::Update, &make).await.unwrap();
    }
    assert_eq!(given(&world), [vec![(1, 4), (2, 2)], vec![(1, 14)]]);
    let error = run(&world, OutputMode::Append, &make).await.unwrap_err().to_string();
    assert!(error.contains("a processor with OutputMode::Update"), "{error}");
}

/// Begins with the totals of an initial state.
struct Totals;

impl StatefulProcessor for Totals {
    type Key = i64;
    type Input = In;
    type Output = Total;
    type State = ValueState<i64>;

    fn init(&self, variables: &mut StateVariables) -> Result<ValueState<i64>> {
        variables.value("total")
    }

    fn handle_input_rows(
        &self,
        total: &ValueState<i64>,
        rows: Rows<'_, In>,
        call: &mut Call<'_, Self>,
    ) -> Result<()> {
        let mut sum = total.get(call)?.unwrap_or(0);
        for row in rows {
            sum += row?.v;
        }
        total.update(call, &sum)?;
        let k = *call.key();
        call.emit(&Total { k, total: sum })
    }

    fn handle_initial_state(
        &self,
        total: &ValueState<i64>,
        rows: AnyRows<'_>,
        call: &mut Call<'_, Self>,
    ) -> Result<()> {
        for row in rows.typed::<Total>() {
            let known = total.get(call)?.unwrap_or(0);
            total.update(call, &(known + row?.total))?;
        }
        Ok(())
    }
}

fn initial(rows: &[(i64, i64)]) -> RecordBatch {
    let column = |of: fn(&(i64, i64)) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(of)))
    };
    RecordBatch::try_from_iter([("k", column(|row| row.0)), ("total", column(|row| row.1))]).unwrap()
}

#[tokio::test]
async fn an_initial_state_is_there_before_the_first_batch_and_never_again() {
    let mut world = World::new(TimeMode::None);
    let make = async |session: &Session, frame: DataFrame| {
        let known = session.context().read_batch(initial(&[(1, 100), (2, 200), (1, 1000)]))?;
        frame.transform_with_initial_state(
            &["k"],
            schema(),
            Totals,
            TimeMode::None,
            OutputMode::Append,
            known,
        )
    };
    for rows in [vec![row(1, 1), row(3, 3)], vec![row(1, 1), row(2, 2)]] {
        world.feed(Step { rows, wait_ms: 0 });
        run(&world, OutputMode::Append, &make).await.unwrap();
    }
    assert_eq!(given(&world), [vec![(1, 1101), (3, 3)], vec![(1, 1102), (2, 202)]]);
    let mut tester = ProcessorTester::new(Totals, input_schema(), &["k"], schema(), TimeMode::None).unwrap();
    tester.initial_state(initial(&[(1, 5)]));
    let batch = || batch_of(&[row(1, 1)]);
    tester.process_batches(vec![batch()]).unwrap();
    tester.process_batches(vec![batch()]).unwrap();
    assert_eq!(tester.inspect(&1, |total, state| total.get(state)).unwrap(), Some(7));
}

/// Keeps rows as they are, and gives them back with every third.
struct Keeps;

impl StatefulProcessor for Keeps {
    type Key = Option<i64>;
    type Input = ();
    type Output = ();
    type State = RowsState;

    fn init(&self, variables: &mut StateVariables) -> Result<RowsState> {
        variables.rows("rows", input_schema())
    }

    fn handle_input_rows(
        &self,
        kept: &RowsState,
        rows: Rows<'_, ()>,
        call: &mut Call<'_, Self>,
    ) -> Result<()> {
        kept.append(call, &rows.to_batch()?)?;
        let all = kept.get(call)?;
        if all.num_rows() >= 3 {
            kept.clear(call)?;
            call.emit_batch(all)?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn rows_can_be_kept_and_given_as_columns() {
    let mut world = World::new(TimeMode::None);
    let make = async |_: &Session, frame: DataFrame| {
        frame.transform_with_state(&["k"], input_schema(), Keeps, TimeMode::None, OutputMode::Append)
    };
    let numbered = |id, k: Option<i64>| Row { id, k, v: id * 2, ts: Some(id) };
    for rows in
        [vec![numbered(1, Some(1)), numbered(2, None)], vec![numbered(3, Some(1)), numbered(4, Some(1))]]
    {
        world.feed(Step { rows, wait_ms: 0 });
        run(&world, OutputMode::Append, &make).await.unwrap();
    }
    let published = world.sink.published();
    let ids: Vec<Vec<i64>> =
        published.values().map(|(_, rows)| rows.iter().map(|row| row[0].int().unwrap()).collect()).collect();
    assert_eq!(ids, [vec![], vec![1, 3, 4]]);
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_the_query_starts() {
    let world = World::new(TimeMode::None);
    let session = world.session(world.environment(), &Setting::default());
    let frame = async || world.frame(&session, &Setting::default()).await.unwrap();
    let refused = |made: Result<DataFrame>| made.map(drop).unwrap_err().to_string();
    let (none, append) = (TimeMode::None, OutputMode::Append);
    let error = refused(frame().await.transform_with_state(&["kk"], schema(), Totals, none, append));
    assert!(error.contains("there is no column 'kk'; did you mean 'k'?"), "{error}");
    let event_time = TimeMode::EventTime;
    let error = refused(frame().await.transform_with_state(&["k"], schema(), Totals, event_time, append));
    assert!(error.contains("its input has no watermark"), "{error}");
    let bounded = session.context().read_batch(initial(&[(1, 1)])).unwrap();
    let error = refused(bounded.transform_with_state(&["k"], schema(), Totals, none, append));
    assert!(error.contains("run it with ProcessorTester"), "{error}");
    let stream = frame().await;
    let error =
        refused(frame().await.transform_with_initial_state(&["k"], schema(), Totals, none, append, stream));
    assert!(error.contains("an initial state reads an unbounded table"), "{error}");

    /// Declares a variable twice.
    struct Twice;
    impl StatefulProcessor for Twice {
        type Key = i64;
        type Input = ();
        type Output = ();
        type State = ();
        fn init(&self, variables: &mut StateVariables) -> Result<()> {
            variables.value::<i64>("x")?;
            variables.list::<i64>("x").map(drop)
        }
        fn handle_input_rows(&self, (): &(), _: Rows<'_, ()>, _: &mut Call<'_, Self>) -> Result<()> {
            Ok(())
        }
    }
    let error = refused(frame().await.transform_with_state(&["k"], schema(), Twice, none, append));
    assert!(error.contains("the state variable 'x' is declared twice"), "{error}");
    let update =
        frame().await.transform_with_state(&["k"], schema(), Totals, none, OutputMode::Update).unwrap();
    let summed =
        update.aggregate(vec![], vec![datafusion::functions_aggregate::expr_fn::sum(col("total"))]).unwrap();
    let ended = summed.write_stream().format("noop").output_mode(OutputMode::Update).start(None).await;
    assert!(ended.is_err());
}

/// What a processor gives is rows like any others: here they are filtered and counted.
#[tokio::test]
async fn queries_go_on_above_a_processor() {
    let mut world = World::new(TimeMode::None);
    let make = async |_: &Session, frame: DataFrame| {
        let totals = frame.filter(col("v").gt(lit(0_i64)))?.transform_with_state(
            &["k"],
            schema(),
            Totals,
            TimeMode::None,
            OutputMode::Append,
        )?;
        let counts = datafusion::functions_aggregate::expr_fn::sum(col("total"));
        Ok(totals.filter(col("total").gt(lit(5_i64)))?.aggregate(vec![col("k")], vec![counts])?)
    };
    for rows in [vec![row(1, 9), row(2, 2), row(1, -3)], vec![row(1, 1), row(2, 4)]] {
        world.feed(Step { rows, wait_ms: 0 });
        run(&world, OutputMode::Update, &make).await.unwrap();
    }
    assert_eq!(given(&world), [vec![(1, 9)], vec![(1, 19), (2, 6)]]);
}

/// Gives every row as it is, with its time.
struct Passes;

#[derive(Debug, Serialize, Deserialize)]
struct Timed {
    v: i64,
    ts: Option<Timestamp>,
}

impl StatefulProcessor for Passes {
    type Key = Option<i64>;
    type Input = Timed;
    type Output = Timed;
    type State = ();

    fn init(&self, _: &mut StateVariables) -> Result<()> {
        Ok(())
    }

    fn handle_input_rows(&self, (): &(), rows: Rows<'_, Timed>, call: &mut Call<'_, Self>) -> Result<()> {
        for row in rows {
            call.emit(&row?)?;
        }
        Ok(())
    }
}

/// The column with the name of the event time is the event time of what comes out.
#[tokio::test]
async fn windows_above_a_processor_are_given_once_they_are_final() {
    let mut world = World::new(TimeMode::EventTime);
    let make = async |_: &Session, frame: DataFrame| {
        let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let fields = vec![Field::new("v", DataType::Int64, false), Field::new("ts", time, true)];
        let output = Arc::new(Schema::new(fields));
        let mode = TimeMode::EventTime;
        let rows = frame.transform_with_state(&["k"], output, Passes, mode, OutputMode::Append)?;
        let total = datafusion::functions_aggregate::expr_fn::sum(col("v"));
        let windows =
            rows.aggregate(vec![window(col("ts"), "10 seconds").alias("w")], vec![total.alias("v")])?;
        Ok(windows.select_exprs(&["CAST(date_part('epoch', w['start']) AS BIGINT) AS start", "v"])?)
    };
    let at = |second: i64, v| Row { id: 0, k: Some(v % 2), v, ts: Some(second * 1_000_000) };
    for rows in [
        vec![at(101, 1), at(109, 2), at(112, 4)],
        vec![at(108, 8), at(117, 16)],
        vec![at(103, 32), at(127, 64)],
    ] {
        world.feed(Step { rows, wait_ms: 0 });
        run(&world, OutputMode::Append, &make).await.unwrap();
    }
    // The watermark is 5 seconds behind: the row of 103 is late, and windows end at 110, 120 and 130.
    let given: Vec<(i64, i64)> = given(&world).into_iter().flatten().collect();
    assert_eq!(given, [(100, 11), (110, 20)]);
}
