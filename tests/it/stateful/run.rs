//! Runs all queries in random batches, with restarts and crashes in between.

use tidemill::prelude::*;
use tidemill::{Environment, OutputMode};

use super::check::{Checker, compare};
use super::interpreter::Interpreter;
use super::model::{Frame, Kind, Rel, SECOND, WindowFunction, agg, bin, col};
use super::queries::{self, Spec, joined};
use super::rig::{Setting, World, batch_of, names_table};
use super::values::{Row, Value, rows_of};
use crate::support::faults::{Fault, Faults, Plan};
use crate::support::outcome::{disks, environment};
use crate::support::sim_disk::Dice;

/// A number from the environment, for long runs.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Random rows of both streams, whose times go up and down, and forward on the whole.
pub struct History {
    dice: Dice,
    next_id: i64,
    /// Seconds.
    base: i64,
    /// What `k` may be.
    pub keys: Vec<i64>,
}

impl History {
    pub fn new(seed: u64) -> Self {
        Self { dice: Dice(seed), next_id: 0, base: 100, keys: (0..5).collect() }
    }

    fn roll(&mut self, sides: usize) -> i64 {
        self.dice.roll(sides) as i64
    }

    /// One in `often` is null.
    fn or_null(&mut self, often: usize, value: Value) -> Value {
        if self.roll(often) == 0 { Value::Null } else { value }
    }

    fn row(&mut self) -> Row {
        self.next_id += 1;
        let fine = if self.roll(4) == 0 { self.roll(SECOND as usize) } else { 0 };
        let time = Value::Time((self.base - 15 + self.roll(22)) * SECOND + fine);
        let key = Value::Int(self.keys[self.dice.roll(self.keys.len())]);
        let name = Value::Text(["a", "b", "c", "d"][self.dice.roll(4)].into());
        let number = Value::Int(self.roll(12) - 3);
        let float = Value::Float((self.roll(64) - 20) as f64 / 4.0);
        let flag = Value::Bool(self.roll(2) == 0);
        vec![
            Value::Int(self.next_id),
            self.or_null(20, time),
            self.or_null(8, key),
            self.or_null(8, name),
            self.or_null(6, number),
            self.or_null(10, float),
            self.or_null(4, flag),
        ]
    }

    /// The next rows of both streams.
    pub fn next(&mut self) -> Vec<Vec<Row>> {
        self.base += self.roll(12);
        let lengths = [self.roll(11), self.roll(6)];
        lengths.map(|length| (0..length).map(|_| self.row()).collect()).to_vec()
    }
}

fn describe(spec: &Spec, seed: u64) -> String {
    format!("{} ({}, watermarks {:?}), seed {seed}", spec.rel.sql(), spec.mode, spec.delays)
}

/// Any setting; `wide` as in [`Setting`].
pub fn setting(dice: &mut Dice, wide: bool) -> Setting {
    Setting {
        partitions: [1, 2, 4][dice.roll(3)],
        state_partitions: [1, 2, 5][dice.roll(3)],
        batch_size: [8192, 1, 3][dice.roll(3)],
        memory_limit: [None, Some("1B"), Some("2KB")][dice.roll(3)],
        wide,
        trigger: Trigger::AtOnce,
    }
}

/// Runs a query over a random history. With `restarts`, it is stopped and started again now and then,
/// with another setting; `wide` lets it run in parallel.
async fn run(spec: &Spec, seed: u64, restarts: bool, wide: bool) -> Result<(), String> {
    let text = |error: tidemill::Error| error.to_string();
    let (mut dice, mut history) = (Dice(seed), History::new(seed));
    let mut world = World::new(spec.clone());
    let mut checker = Checker::new(spec);
    let mut chosen = setting(&mut dice, wide);
    let (mut session, mut query) = world.start(Environment::default(), &chosen).await.map_err(text)?;
    let mut late = 0;
    for _ in 0..3 + dice.roll(4) {
        world.feed(&history.next());
        if !spec.rel.is_ordered() && dice.roll(3) == 0 {
            // Both in one batch, or in two.
            world.feed(&history.next());
        }
        query.process_all_available().await.map_err(text)?;
        checker.check_all(&world)?;
        check_spilled(&chosen, &query)?;
        if let Some(progress) = query.last_progress()
            && let Some(expected) = checker.interpreter.remembered()
        {
            let rows = |operator: &serde_json::Value| operator["numRowsTotal"].as_u64();
            let found: Option<u64> = progress.state_operators.iter().map(rows).sum();
            if found != Some(expected as u64) {
                return Err(format!("numRowsTotal {found:?}, not {expected}, after {:?}", world.fed));
            }
        }
        if restarts && dice.roll(3) == 0 {
            let mode = if dice.roll(2) == 0 { StopMode::Finish } else { StopMode::Abandon };
            query.stop(mode).await.map_err(text)?;
            late += late_rows(&query);
            chosen = setting(&mut dice, wide);
            (session, query) = world.start(Environment::default(), &chosen).await.map_err(text)?;
        }
    }
    query.stop(StopMode::Finish).await.map_err(text)?;
    drop(session);
    late += late_rows(&query);
    match late == checker.interpreter.late() {
        true => Ok(()),
        false => Err(format!("{late} late rows, not {}, of {:?}", checker.interpreter.late(), world.fed)),
    }
}

/// Fails unless rows are on the local disk if and only if there is no memory for them.
fn check_spilled(setting: &Setting, query: &StreamingQuery) -> Result<(), String> {
    let Some(progress) = query.last_progress() else { return Ok(()) };
    for operator in &progress.state_operators {
        let rows = operator["numRowsTotal"].as_u64().unwrap();
        let disk = operator["customMetrics"]["localDiskBytes"].as_u64().unwrap();
        let is_right = match setting.memory_limit {
            None => disk == 0,
            Some("1B") => rows == 0 || disk > 0,
            Some(_) => true,
        };
        if !is_right {
            return Err(format!("{disk} bytes of {rows} rows are on the disk with {setting:?}"));
        }
    }
    Ok(())
}

fn late_rows(query: &StreamingQuery) -> u64 {
    let reports = query.recent_progress();
    let operators = reports.iter().flat_map(|progress| &progress.state_operators);
    operators.map(|operator| operator["numRowsDroppedByWatermark"].as_u64().unwrap()).sum()
}

/// Fails with what went wrong with the first queries.
fn report(total: usize, problems: Vec<String>) {
    let shown: Vec<&str> = problems.iter().take(20).map(String::as_str).collect();
    assert!(problems.is_empty(), "{} of {total} went wrong:\n{}", problems.len(), shown.join("\n\n"));
}

/// The queries that `STATEFUL_QUERY` names by a part of their text, or all.
fn specs() -> Vec<Spec> {
    let part = std::env::var("STATEFUL_QUERY").unwrap_or_default();
    queries::all().into_iter().filter(|spec| describe(spec, 0).contains(&part)).collect()
}

async fn run_all(first_seed: u64, restarts: bool, wide: bool) {
    let mut problems = Vec::new();
    let (specs, rounds) = (specs(), number("STATEFUL_ROUNDS", 1));
    for round in 0..rounds {
        for (index, spec) in specs.iter().enumerate() {
            let seed = first_seed + round * 1000 + index as u64;
            if let Err(problem) = run(spec, seed, restarts, wide).await {
                problems.push(format!("{}: {problem}", describe(spec, seed)));
            }
        }
    }
    report(specs.len(), problems);
}

#[tokio::test]
async fn every_query_gives_what_the_interpreter_gives_after_every_trigger() {
    assert!(queries::all().len() >= 200, "{}", queries::all().len());
    run_all(1, false, false).await;
}

#[tokio::test]
async fn every_query_goes_on_after_restarts_with_other_settings() {
    run_all(500_000, true, false).await;
}

#[tokio::test]
async fn every_query_gives_the_same_when_it_runs_in_parallel() {
    run_all(1_000_000, true, true).await;
}

/// The rows of both streams as bounded tables, in a session.
fn bounded(rows: &[Vec<Row>]) -> SessionContext {
    let session = Session::new();
    let context = session.context().clone();
    for (index, rows) in rows.iter().enumerate() {
        context.register_batch(format!("s{index}").as_str(), batch_of(rows)).unwrap();
    }
    context.register_batch("names", names_table()).unwrap();
    context
}

/// Queries whose result over bounded tables is defined by DataFusion, whatever the order of rows.
fn is_plain(rel: &Rel) -> bool {
    let waits = matches!(rel, Rel::Streams(join) if join.kind.waits().contains(&true));
    let other = waits
        || matches!(rel, Rel::Sessions(_))
        || matches!(rel, Rel::Within(..) | Rel::DistinctOn(..) | Rel::Limit(..));
    !other && rel.inputs().into_iter().all(is_plain)
}

#[tokio::test]
async fn the_interpreter_agrees_with_datafusion_when_all_rows_come_at_once() {
    let mut problems = Vec::new();
    let specs: Vec<Spec> = specs().into_iter().filter(|spec| is_plain(&spec.rel)).collect();
    for (index, spec) in specs.iter().enumerate() {
        let mut history = History::new(index as u64);
        let rows = (0..3).fold(vec![vec![], vec![]], |mut all: Vec<Vec<Row>>, _| {
            history.next().into_iter().zip(&mut all).for_each(|(rows, all)| all.extend(rows));
            all
        });
        let has_group = spec.rel.sql().contains("GROUP BY")
            || matches!(spec.rel, Rel::Group(_) | Rel::Top(_) | Rel::Over(_));
        let mode = if has_group { OutputMode::Complete } else { OutputMode::Append };
        let expected = Interpreter::new(&spec.rel, mode, None, false).batch(&rows);
        let frame = bounded(&rows).sql(&spec.rel.sql()).await.unwrap();
        let found = rows_of(&frame.collect().await.unwrap());
        if let Err(problem) = compare(spec, &found, &expected) {
            problems.push(format!("{}: {problem}", describe(spec, index as u64)));
        }
    }
    report(specs.len(), problems);
}

/// One run of a query that dies at a call, and its next lives. Gives the number of calls.
async fn crash(spec: &Spec, seed: u64, plan: Option<Plan>, again: Option<Plan>) -> Result<usize, String> {
    let mut history = History::new(seed);
    let mut world = World::new(spec.clone());
    let mut checker = Checker::new(spec);
    let mut plans = [plan, again].into_iter().flatten();
    let mut faults = Faults::new(plans.next());
    let mut calls = 0;
    for _ in 0..3 {
        world.feed(&history.next());
        let mut lives = 0;
        loop {
            let setting = Setting {
                state_partitions: 1 + lives % 3,
                trigger: Trigger::AvailableNow,
                ..Setting::default()
            };
            let ended = match world.start(environment(faults.provider(disks())), &setting).await {
                Ok((_session, query)) => query.await_termination().await.map(drop),
                Err(error) => Err(error),
            };
            calls = faults.calls().len();
            let Err(error) = ended else { break };
            lives += 1;
            if !faults.fired() || lives > 4 {
                return Err(format!("life {lives}: {error}"));
            }
            faults = Faults::new(plans.next());
        }
        checker.check_all(&world)?;
    }
    for (batch, attempts) in world.sink.attempts() {
        // Bit for bit, whatever the crash and the number of partitions.
        let sorted = |rows: &Vec<Row>| {
            let mut rows = rows.clone();
            rows.sort();
            rows
        };
        if attempts.iter().any(|rows| sorted(rows) != sorted(&attempts[0])) {
            return Err(format!("batch {batch} gave different rows when it was run again: {attempts:?}"));
        }
    }
    Ok(calls)
}

/// One of each kind of state.
fn to_crash() -> Vec<Spec> {
    let some = || vec![agg("count", "*"), agg("sum", "f"), agg("array_agg", "v"), agg("min", "name")];
    let distinct = vec![agg("count", "v").distinct(), agg("sum", "f"), agg("max", "v")];
    let stream = || Rel::Stream(0);
    let both = || [Rel::Stream(0), Rel::Stream(1)];
    vec![
        queries::timed(stream().group(vec![(bin(10), "t"), (col("k"), "k")], some()), OutputMode::Append),
        queries::untimed(stream().group(vec![(col("k"), "k")], some()), OutputMode::Update),
        queries::untimed(stream().group(vec![(col("name"), "name")], some()), OutputMode::Complete),
        queries::untimed(stream().group(vec![(col("k"), "k")], distinct.clone()), OutputMode::Update),
        queries::timed(Rel::Within(0, vec!["k".into()]), OutputMode::Append),
        queries::untimed(stream().distinct_on(&["k", "v"]), OutputMode::Append),
        queries::untimed(stream().limit(2, Some(9)), OutputMode::Append),
        queries::untimed(stream().group(vec![], distinct), OutputMode::Complete),
        queries::timed(joined(Kind::Full, both(), Some((5, 10))), OutputMode::Append),
        queries::timed(joined(Kind::Anti, both(), Some((3, 3))), OutputMode::Append),
        queries::untimed(joined(Kind::Semi, both(), None), OutputMode::Append),
        queries::untimed(
            queries::top(stream(), "row_number", &["k"], &[("v", true), ("id", false)], 2),
            OutputMode::Update,
        ),
        queries::timed(
            queries::sessions(stream(), Some(4), &["k"], vec![agg("count", "*"), agg("sum", "f")]),
            OutputMode::Append,
        ),
        queries::timed(
            queries::over(
                stream(),
                &["k"],
                &["ts", "id"],
                vec![
                    WindowFunction::Shift("lag", 2),
                    WindowFunction::Shift("lead", 1),
                    WindowFunction::Aggregate(agg("sum", "f"), Frame::Running),
                ],
            ),
            OutputMode::Append,
        ),
    ]
}

/// Lets every `every`th call go wrong, each in the next way, or each in every way.
async fn crash_all(every: u64, twice: bool) {
    let mut problems = Vec::new();
    let mut total = 0;
    for (index, spec) in to_crash().iter().enumerate() {
        let seed = 7 + index as u64;
        let calls = crash(spec, seed, None, None).await.unwrap();
        assert!(calls > 0);
        let all = (0..calls).flat_map(|call| Fault::ALL.map(|fault| Plan { call, fault }));
        for (number, plan) in all.enumerate().skip(index).step_by(every as usize) {
            total += 1;
            // The next life dies soon, too: while it recovers.
            let again = twice.then(|| Plan { call: number % 13, fault: Fault::ALL[number % 3] });
            if let Err(problem) = crash(spec, seed, Some(plan), again).await {
                problems.push(format!("{}, {plan:?}, {again:?}: {problem}", describe(spec, seed)));
            }
        }
    }
    assert!(total > 0);
    report(total, problems);
}

#[tokio::test]
async fn a_crash_at_any_storage_call_changes_no_result_not_even_by_a_bit() {
    crash_all(number("STATEFUL_CRASH_EVERY", 17), false).await;
}

#[tokio::test]
async fn a_crash_of_the_recovery_changes_nothing_either() {
    crash_all(number("STATEFUL_CRASH_EVERY", 17) * 2 + 1, true).await;
}
