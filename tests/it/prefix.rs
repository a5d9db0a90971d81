//! After every trigger, what a plain reader of the output directory sees is what the query gives
//! over exactly the files that the committed offsets name: for random rows, file boundaries,
//! limits, partition counts and restarts, and several formats in and out.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde_json::{Value, json};
use tidemill::prelude::*;
use tidemill::{Environment, StreamingQueryListener, StreamingQueryProgress};

use crate::support::committed::{commits, committed_files};
use crate::support::events::{COLUMNS, Event, encode, event, event_schema};
use crate::support::harness::{Input, Job, Place, Recorder, eventually, id_lines, session_in};
use crate::support::oracle::{self, Row};

const FORMATS: [&str; 4] = ["json", "csv", "parquet", "arrow"];
/// For lists, which CSV does not hold.
const NESTED: [&str; 3] = ["json", "parquet", "arrow"];

/// A query, and what it gives for one row of one of its tables.
struct Case {
    sql: &'static str,
    /// The tables, in the order in which the query names them.
    tables: &'static [&'static str],
    formats_in: &'static [&'static str],
    /// The directories of the input, and those of the output.
    partitioned_input: bool,
    partition_by: &'static [&'static str],
    oracle: fn(table: &str, row: &Row) -> Vec<Row>,
}

const PLAIN: Case = Case {
    sql: "",
    tables: &["a"],
    formats_in: &FORMATS,
    partitioned_input: false,
    partition_by: &[],
    oracle: |_, row| vec![row.clone()],
};

/// The columns of `row` with these names.
fn pick(row: &Row, names: &[&str]) -> Row {
    row.iter()
        .filter(|(name, _)| names.contains(&name.as_str()))
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect()
}

/// `row` with one more column.
fn with(mut row: Row, name: &str, value: Value) -> Row {
    row.insert(name.to_string(), value);
    row
}

fn amount(row: &Row) -> Option<i64> {
    row.get("amount").and_then(Value::as_i64)
}

#[test]
fn projection_and_filter() {
    check(Case {
        sql: "SELECT id, amount * 2 + 1 AS twice, kind FROM a WHERE amount > 0",
        oracle: |_, row| match amount(row) {
            Some(amount) if amount > 0 => {
                vec![with(pick(row, &["id", "kind"]), "twice", json!(amount * 2 + 1))]
            }
            _ => vec![],
        },
        ..PLAIN
    });
}

#[test]
fn everything_as_it_is() {
    check(Case {
        sql: "SELECT id, amount, kind, flag, ratio FROM a",
        oracle: |_, row| vec![pick(row, &["id", "amount", "kind", "flag", "ratio"])],
        ..PLAIN
    });
}

#[test]
fn three_valued_logic() {
    check(Case {
        sql: "SELECT id, flag, ratio FROM a WHERE flag AND ratio < 4 OR flag IS NULL",
        oracle: |_, row| {
            let flag = row.get("flag").and_then(Value::as_bool);
            let small = row.get("ratio").and_then(Value::as_f64).is_some_and(|ratio| ratio < 4.0);
            let kept = flag.is_none() || flag == Some(true) && small;
            if kept { vec![pick(row, &["id", "flag", "ratio"])] } else { vec![] }
        },
        ..PLAIN
    });
}

#[test]
fn case_expressions() {
    check(Case {
        sql: "SELECT id, CASE WHEN amount IS NULL THEN 'none' WHEN amount < 0 THEN 'debit' ELSE 'credit' END \
              AS side FROM a",
        oracle: |_, row| {
            let side = match amount(row) {
                None => "none",
                Some(amount) if amount < 0 => "debit",
                Some(_) => "credit",
            };
            vec![with(pick(row, &["id"]), "side", json!(side))]
        },
        ..PLAIN
    });
}

#[test]
fn regular_expressions() {
    check(Case {
        sql: "SELECT id, regexp_replace(kind, '[aeiou]', '*') AS kind FROM a WHERE kind ~ '^[a-m].*[^0-9]$'",
        oracle: |_, row| {
            let Some(kind) = row.get("kind").and_then(Value::as_str) else { return vec![] };
            let matches = kind.starts_with(|c| ('a'..='m').contains(&c))
                && !kind.ends_with(|c: char| c.is_ascii_digit());
            let replaced = match kind.find(['a', 'e', 'i', 'o', 'u']) {
                Some(at) => format!("{}*{}", &kind[..at], &kind[at + 1..]),
                None => kind.to_string(),
            };
            if matches { vec![with(pick(row, &["id"]), "kind", json!(replaced))] } else { vec![] }
        },
        ..PLAIN
    });
}

#[test]
fn unnested_lists() {
    check(Case {
        sql: "SELECT id, unnest(tags) AS tag FROM a",
        formats_in: &NESTED,
        oracle: |_, row| {
            let tags = row.get("tags").and_then(Value::as_array).cloned().unwrap_or_default();
            tags.into_iter().map(|tag| with(pick(row, &["id"]), "tag", tag)).collect()
        },
        ..PLAIN
    });
}

#[test]
fn a_union_of_two_streams() {
    check(Case {
        sql: "SELECT id, 'a' AS origin FROM a WHERE amount > 0 UNION ALL SELECT id, 'b' FROM b",
        tables: &["a", "b"],
        oracle: |table, row| {
            if table == "a" && amount(row).is_none_or(|amount| amount <= 0) {
                return vec![];
            }
            vec![with(pick(row, &["id"]), "origin", json!(table))]
        },
        ..PLAIN
    });
}

#[test]
fn a_union_of_a_stream_with_itself() {
    check(Case {
        sql: "SELECT id, amount FROM a WHERE amount >= 0 UNION ALL SELECT id, -amount FROM a WHERE amount <= 0",
        oracle: |_, row| {
            let Some(amount) = amount(row) else { return vec![] };
            let with_amount = |amount: i64| with(pick(row, &["id"]), "amount", json!(amount));
            let up = (amount >= 0).then(|| with_amount(amount));
            up.into_iter().chain((amount <= 0).then(|| with_amount(-amount))).collect()
        },
        ..PLAIN
    });
}

#[test]
fn output_in_directories() {
    check(Case {
        sql: "SELECT id, amount, kind, flag FROM a",
        partition_by: &["kind", "flag"],
        oracle: |_, row| vec![pick(row, &["id", "amount", "kind", "flag"])],
        ..PLAIN
    });
}

#[test]
fn input_in_directories() {
    check(Case {
        sql: "SELECT id, country FROM a WHERE country <> 'FR'",
        partitioned_input: true,
        oracle: |_, row| match row.get("country").and_then(Value::as_str) {
            Some(country) if country != "FR" => vec![pick(row, &["id", "country"])],
            _ => vec![],
        },
        ..PLAIN
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_files_read_by_several_partitions_at_once() {
    let place = Place::new();
    let mut expected = Vec::new();
    for file in 0..150 {
        let ids = file * 10..file * 10 + 7;
        place.put(&format!("in/{file:03}.json"), id_lines(ids.clone()));
        expected.extend(ids.filter(|id| id % 4 != 0));
    }
    let session = session_in(4, Environment::default());
    let job = Job::new(&place).sql("SELECT id FROM input WHERE id % 4 <> 0").files_per_trigger(100);
    let query = job.run(&session).await.unwrap();
    assert_eq!(place.ids(), expected);
    let files: Vec<_> =
        query.recent_progress().into_iter().map(|batch| batch.sink.metrics["numFiles"].clone()).collect();
    assert_eq!(files, ["4", "1"], "a hundred files are worth four partitions, fifty are not");
}

#[tokio::test]
async fn the_memory_sink_holds_the_same() {
    let place = Place::new();
    let session = session_in(2, Environment::default());
    let job = Job::new(&place)
        .sql("SELECT id, id % 3 AS rest FROM input WHERE id % 5 <> 0")
        .format("memory")
        .out(None)
        .name("results")
        .trigger(Trigger::AtOnce)
        .files_per_trigger(1);
    let query = job.start(&session).await.unwrap();
    for round in 0..4 {
        (0..3).for_each(|file| {
            place.put(&format!("in/{round}-{file}.json"), id_lines(round * 9..round * 9 + 3 * file))
        });
        query.process_all_available().await.unwrap();
        let mut expected = Vec::new();
        for file in committed_files(&place.path("checkpoint"), 0) {
            let ids = oracle::read_file(&place.path("in"), &file, "json", &[])
                .into_iter()
                .map(|row| row["id"].as_i64().unwrap());
            let kept = ids.filter(|id| id % 5 != 0);
            expected.extend(kept.map(|id| with(with(Row::new(), "id", json!(id)), "rest", json!(id % 3))));
        }
        let found = session.context().table("results").await.unwrap().collect().await.unwrap();
        let found = found.iter().flat_map(oracle::rows_of).collect();
        oracle::assert_same(found, expected, &format!("round {round}"));
    }
    query.stop(StopMode::Finish).await.unwrap();
}

#[tokio::test]
async fn data_frames_give_the_same_as_sql() {
    let place = Place::new();
    let session = session_in(2, Environment::default());
    for table in ["a", "b"] {
        for file in 0..3 {
            place.put(&format!("in/{table}/{file}.json"), id_lines(file * 10..file * 10 + 5));
        }
    }
    let read = async |table: &str| {
        let reader = session.read_stream().format("json").option("maxFilesPerTrigger", 2);
        reader.load(place.path(&format!("in/{table}"))).await.unwrap()
    };
    let doubled =
        read("a").await.filter(col("id").gt(lit(2))).unwrap().with_column("id", col("id") * lit(2)).unwrap();
    let query = doubled
        .union(read("b").await)
        .unwrap()
        .with_column("odd", (col("id") % lit(2)).eq(lit(1)))
        .unwrap()
        .write_stream()
        .trigger(Trigger::AvailableNow)
        .option("checkpointLocation", place.text("checkpoint"))
        .partition_by(["odd"])
        .start(place.path("out"))
        .await
        .unwrap();
    query.await_termination().await.unwrap();
    let ids = || (0..3).flat_map(|file| file * 10..file * 10 + 5);
    let expected = ids().filter(|id| *id > 2).map(|id| id * 2).chain(ids());
    let row = |id: i64| with(with(Row::new(), "id", json!(id)), "odd", json!(id % 2 == 1));
    let found = place.rows("parquet", &[("odd", oracle::Kind::Bool)]);
    oracle::assert_same(found, expected.map(row).collect(), "output");
    assert_eq!(commits(&place.path("checkpoint")), [0, 1]);
}

/// How a run of the query ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// When everything that was there is done.
    AvailableNow,
    /// After one batch with everything.
    Once,
    /// Stopped when there is nothing more to do.
    Drained,
    /// Stopped in the middle of whatever it does after this many batches.
    Abandoned(usize),
}

/// One run of the query, and the files that appear before it.
#[derive(Debug, Clone)]
struct Run {
    files: Vec<Vec<Event>>,
    limit: Option<usize>,
    partitions: usize,
    end: End,
}

/// What happens, from the first file to the last.
#[derive(Debug, Clone)]
struct Scenario {
    formats_in: Vec<&'static str>,
    format_out: &'static str,
    runs: Vec<Run>,
}

fn scenario(case: &Case) -> impl Strategy<Value = Scenario> + use<> {
    let end = prop_oneof![
        Just(End::AvailableNow),
        Just(End::Once),
        Just(End::Drained),
        (0..3usize).prop_map(End::Abandoned),
    ];
    let files = prop::collection::vec(prop::collection::vec(event(), 0..5), 0..4);
    let limit = prop::option::of(1..3usize);
    let run = (files, limit, 1..4usize, end).prop_map(|(files, limit, partitions, end)| Run {
        files,
        limit,
        partitions,
        end,
    });
    let formats_in = prop::collection::vec(prop::sample::select(case.formats_in), case.tables.len());
    (formats_in, prop::sample::select(&FORMATS[..]), prop::collection::vec(run, 1..5))
        .prop_map(|(formats_in, format_out, runs)| Scenario { formats_in, format_out, runs })
}

/// Plays random scenarios of `case`.
fn check(case: Case) {
    let case: &'static Case = Box::leak(Box::new(case));
    let config = Config { cases: 12, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let played = runner.run(&scenario(case), |scenario| {
        runtime.block_on(play(case, &scenario)).map_err(TestCaseError::fail)
    });
    if let Err(error) = played {
        panic!("{}: {error}", case.sql);
    }
}

/// Runs the query as `scenario` says, checking after every trigger and at the end.
async fn play(case: &'static Case, scenario: &Scenario) -> Result<(), String> {
    let place = Arc::new(Place::new());
    let checker = Arc::new(Checker {
        case,
        place: Arc::clone(&place),
        formats_in: scenario.formats_in.clone(),
        format_out: scenario.format_out,
        failures: Mutex::default(),
        checks: AtomicUsize::new(0),
    });
    let mut files = 0;
    for run in &scenario.runs {
        for events in &run.files {
            let table = case.tables[files % case.tables.len()];
            let format = scenario.formats_in[files % case.tables.len()];
            let directory = if case.partitioned_input {
                ["country=DE/", "country=FR/", "country=%C3%96 X/"][files % 3]
            } else {
                ""
            };
            let first_id = i64::try_from(files).unwrap() * 100;
            place
                .put(&format!("in/{table}/{directory}{files:03}.{format}"), encode(format, first_id, events));
            files += 1;
        }
        execute(&job(case, scenario, &place, run.limit), run, &checker).await?;
    }
    let last = Run { files: vec![], limit: None, partitions: 2, end: End::AvailableNow };
    execute(&job(case, scenario, &place, None), &last, &checker).await?;

    checker.compare(&|table| oracle::visible(&place.path(&format!("in/{table}"))))?;
    let staged = oracle::hidden(&place.path("out"));
    if !staged.is_empty() {
        return Err(format!("left behind: {staged:?}"));
    }
    let batches = commits(&place.path("checkpoint")).len();
    if checker.checks.load(Ordering::SeqCst) < batches {
        return Err(format!("{batches} batches, but not as many checks"));
    }
    Ok(())
}

fn job(case: &Case, scenario: &Scenario, place: &Place, limit: Option<usize>) -> Job {
    let inputs = case.tables.iter().zip(&scenario.formats_in).map(|(table, format)| {
        let directory = place.path(&format!("in/{table}"));
        std::fs::create_dir_all(&directory).unwrap();
        let mut input = Input::new(table, format, directory.to_str().unwrap()).schema(event_schema(format));
        if case.partitioned_input {
            let mut fields = event_schema(format).fields().to_vec();
            fields.push(Arc::new(Field::new("country", DataType::Utf8, true)));
            input = input.schema(Arc::new(Schema::new(fields))).partition_by(&["country"]);
        }
        if *format == "csv" { input.option("header", true) } else { input }
    });
    let job = Job::new(place)
        .inputs(inputs)
        .sql(case.sql)
        .format(scenario.format_out)
        .partition_by(case.partition_by);
    let job = if scenario.format_out == "csv" { job.option("header", true) } else { job };
    match limit {
        Some(files) => job.files_per_trigger(files),
        None => job,
    }
}

/// Starts the query in a session of its own and ends it as `run` says.
async fn execute(job: &Job, run: &Run, checker: &Arc<Checker>) -> Result<(), String> {
    let session = session_in(run.partitions, Environment::default());
    session.streams().add_listener(Arc::clone(checker) as Arc<dyn StreamingQueryListener>);
    let recorder = Recorder::of(&session);
    let trigger = match run.end {
        End::AvailableNow => Trigger::AvailableNow,
        End::Once => Trigger::Once,
        End::Drained | End::Abandoned(_) => Trigger::AtOnce,
    };
    let text = |error: tidemill::Error| error.to_string();
    let query = job.clone().trigger(trigger).start(&session).await.map_err(text)?;
    match run.end {
        End::AvailableNow | End::Once => query.await_termination().await.map_err(text)?,
        End::Drained => {
            query.process_all_available().await.map_err(text)?;
            query.stop(StopMode::Finish).await.map_err(text)?;
        }
        End::Abandoned(batches) => {
            tokio::select! {
                () = eventually(|| recorder.progress().len() >= batches) => {}
                idle = query.process_all_available() => idle.map_err(text)?,
            }
            query.stop(StopMode::Abandon).await.map_err(text)?;
        }
    }
    match checker.failures.lock().unwrap().first() {
        Some(failure) => Err(failure.clone()),
        None => Ok(()),
    }
}

/// Compares output and oracle whenever a batch is done.
#[derive(Debug)]
struct Checker {
    case: &'static Case,
    place: Arc<Place>,
    formats_in: Vec<&'static str>,
    format_out: &'static str,
    failures: Mutex<Vec<String>>,
    checks: AtomicUsize,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.sql)
    }
}

impl Checker {
    /// What a plain reader of the output sees against the oracle over `files` of every table.
    fn compare(&self, files: &dyn Fn(&str) -> Vec<String>) -> Result<(), String> {
        let mut expected = Vec::new();
        for (table, format) in self.case.tables.iter().zip(&self.formats_in) {
            let root: PathBuf = self.place.path(&format!("in/{table}"));
            for file in files(table) {
                let rows = oracle::read_file(&root, &file, format, &COLUMNS);
                expected.extend(rows.iter().flat_map(|row| (self.case.oracle)(table, row)));
            }
        }
        oracle::same(self.place.rows(self.format_out, &COLUMNS), expected)
    }
}

impl StreamingQueryListener for Checker {
    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        let checkpoint = self.place.path("checkpoint");
        let source = |table: &str| self.case.tables.iter().position(|name| *name == table).unwrap();
        self.checks.fetch_add(1, Ordering::SeqCst);
        if let Err(difference) = self.compare(&|table| committed_files(&checkpoint, source(table))) {
            let failure = format!("after batch {}: {difference}", progress.batch_id);
            self.failures.lock().unwrap().push(failure);
        }
    }
}
