//! A crash, a torn write, and an error with and without effect, at every single storage call of
//! checkpoint and sink: after a restart, the output is that of an undisturbed run.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use futures::StreamExt;
use serde_json::json;

use crate::support::faults::{Call, Fault, Faults, Plan, Target};
use crate::support::harness::{Input, Job, Place, id_lines, schema, session_in};
use crate::support::oracle::{self, Kind, Row};
use crate::support::outcome::{Expected, disks, environment};

const COLUMNS: [(&str, Kind); 2] = [("id", Kind::Int), ("parity", Kind::Int)];

/// A query over the input of the first place, with its output and checkpoint in the second.
type MakeJob = Box<dyn Fn(&Place, &Place) -> Job>;

/// A query at some point of its life, what it will be asked to do, and what must come of it.
struct Scenario {
    /// Input that nobody changes, and output and checkpoint as they are before the accident.
    template: Place,
    expected: Expected,
    /// The query over the input of the first place, with its output and checkpoint in the second.
    job: MakeJob,
    /// The late rows, which go to files of their own.
    late: Vec<Row>,
}

/// Two sources of three files each, one file of each per batch; several files per batch come out.
fn two_sources() -> Scenario {
    let template = Place::new();
    let mut rows = Vec::new();
    for (table, first) in [("a", 0), ("b", 1000)] {
        for file in 0..3 {
            let ids: Vec<i64> = (0..4).map(|row| first + file * 10 + row).collect();
            rows.extend(ids.iter().map(|id| row_of(*id, table)));
            template.put(&format!("in/{table}/{file}.json"), id_lines(ids));
        }
    }
    let job = |template: &Place, place: &Place| {
        let input = |table: &str| {
            Input::new(table, "json", template.text(&format!("in/{table}")))
                .schema(schema(&[("id", DataType::Int64)]))
        };
        Job::new(place)
            .inputs([input("a"), input("b")])
            .sql(
                "SELECT id, id % 2 AS parity, 'a' AS origin FROM a \
                 UNION ALL SELECT id, id % 2, 'b' FROM b",
            )
            .format("json")
            .partition_by(&["parity"])
            .files_per_trigger(1)
    };
    let expected = Expected { format: "json", columns: &COLUMNS, rows, batches: Some(3) };
    Scenario { template, expected, job: Box::new(job), late: vec![] }
}

fn row_of(id: i64, origin: &str) -> Row {
    let cells = [("id", json!(id)), ("parity", json!(id % 2)), ("origin", json!(origin))];
    cells.map(|(name, value)| (name.to_string(), value)).into()
}

/// One source, shortly before old checkpoint files are merged: `done` batches ran undisturbed,
/// `left` are to come. Only the last of them give rows.
async fn before_maintenance(done: i64, left: i64) -> Scenario {
    let template = Place::new();
    let first = done - 1;
    let job = move |template: &Place, place: &Place| {
        Job::new(place)
            .inputs(Job::new(template).inputs)
            .sql(&format!("SELECT id FROM input WHERE id >= {first}"))
            .format("json")
            .files_per_trigger(1)
            .option("minBatchesToRetain", 2)
    };
    let put = |id: i64| template.put(&format!("in/{id:05}.json"), id_lines([id]));
    (0..done).for_each(put);
    job(&template, &template).run(&session_in(1, environment(disks()))).await.unwrap();
    (done..done + left).for_each(put);
    let rows = (first..done + left).map(|id| Row::from([("id".to_string(), json!(id))])).collect();
    let batches = Some(u64::try_from(done + left).unwrap());
    let expected = Expected { format: "json", columns: &COLUMNS, rows, batches };
    Scenario { template, expected, job: Box::new(job), late: vec![] }
}

/// One source, shortly before small files of output are merged: by then the checkpoint has forgotten their batches.
async fn before_merge() -> Scenario {
    let template = Place::new();
    let job = |template: &Place, place: &Place| {
        Job::new(place)
            .inputs(Job::new(template).inputs)
            .format("json")
            .files_per_trigger(1)
            .option("minBatchesToRetain", 2)
            .option("compactAfter", 3)
    };
    let put = |id: i64| template.put(&format!("in/{id:05}.json"), id_lines([id]));
    (0..9).for_each(put);
    job(&template, &template).run(&session_in(1, environment(disks()))).await.unwrap();
    (9..12).for_each(put);
    let rows = (0..12).map(|id| Row::from([("id".to_string(), json!(id))])).collect();
    let expected = Expected { format: "json", columns: &COLUMNS, rows, batches: Some(12) };
    Scenario { template, expected, job: Box::new(job), late: vec![] }
}

const WINDOW_COLUMNS: [(&str, Kind); 3] = [("w", Kind::Int), ("n", Kind::Int), ("d", Kind::Int)];

/// How a query with windows ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// What is not final by the watermark is made final.
    Flushed,
    /// With what the watermark makes final, in a batch without rows. Nothing comes after it.
    Open,
}

/// Windows of ten seconds over five files, one per batch, after `done` files with a window each.
async fn windows(done: i64, ending: Ending) -> Scenario {
    let template = Place::new();
    let job = move |template: &Place, place: &Place| {
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        let input = Input::new("input", "json", template.text("in"))
            .schema(schema(&[("v", DataType::Int64), ("ts", time)]))
            .watermark("ts", "5 seconds");
        Job::new(place)
            .inputs([input])
            .sql(
                "SELECT CAST(extract(epoch FROM w) AS BIGINT) AS w, n, d FROM (\
                     SELECT date_bin(INTERVAL '10 seconds', ts) AS w, count(*) AS n, count(DISTINCT v) AS d \
                     FROM input GROUP BY 1)",
            )
            .format("json")
            .files_per_trigger(1)
            .option("minBatchesToRetain", 2)
            .option("flushOnEnd", ending == Ending::Flushed)
            .option("lateRowsPath", place.text("late"))
            .option("lateRowsFormat", "json")
    };
    let mut windows: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    let mut put = |file: i64, rows: &[(i64, i64)]| {
        let mut lines = String::new();
        for (v, second) in rows {
            let (minute, second_of) = (second / 60, second % 60);
            let time = format!("1970-01-01T{:02}:{:02}:{second_of:02}", minute / 60, minute % 60);
            lines += &format!("{{\"v\":{v},\"ts\":\"{time}\"}}\n");
            windows.entry(second / 10 * 10).or_default().push(*v);
        }
        template.put(&format!("in/{file:05}.json"), lines);
    };
    (0..done).for_each(|file| put(file, &[(1, file * 20), (1, file * 20 + 1), (2, file * 20 + 3)]));
    let start = done * 20;
    if done > 0 {
        // Stopped where new files may still add to what is not final.
        let mut first = job(&template, &template);
        first = first.option("flushOnEnd", false);
        first.run(&session_in(1, environment(disks()))).await.unwrap();
    }
    put(done, &[(1, start), (1, start + 1), (2, start + 12)]);
    put(done + 1, &[(3, start + 13), (3, start + 8)]);
    put(done + 2, &[(1, start + 25), (2, start + 14)]);
    put(done + 3, &[(1, start + 47), (1, start + 44)]);
    put(done + 4, &[(1, start + 50), (9, start + 2)]);
    // The watermark of the batch before was 20 seconds after the start.
    let gone = windows.entry(start).or_default();
    gone.retain(|v| *v != 9);
    let late = vec![Row::from([("v".to_string(), json!(9))])];
    // One batch per file and, at each stop, one without rows.
    let watermark = start + 45;
    let batches = (ending == Ending::Open).then(|| (done + 5 + i64::from(done > 0) + 1) as u64);
    let rows = windows
        .into_iter()
        .filter(|(start, _)| ending == Ending::Flushed || start + 10 <= watermark)
        .map(|(start, values)| {
            let distinct: BTreeSet<i64> = values.iter().copied().collect();
            let cells = [("w", json!(start)), ("n", json!(values.len())), ("d", json!(distinct.len()))];
            Row::from(cells.map(|(name, value)| (name.to_string(), value)))
        })
        .collect();
    let expected = Expected { format: "json", columns: &WINDOW_COLUMNS, rows, batches };
    Scenario { template, expected, job: Box::new(job), late }
}

const TURN_COLUMNS: [(&str, Kind); 2] = [("w", Kind::Int), ("n", Kind::Int)];

/// Windows over two streams of which only one had rows in each run until now, and in the last ones. How
/// far the other one has come is known from the checkpoint alone.
async fn turns() -> Scenario {
    let template = Place::new();
    let job = |template: &Place, place: &Place| {
        let input = |table: &str| {
            let time = DataType::Timestamp(TimeUnit::Microsecond, None);
            Input::new(table, "json", template.text(&format!("in/{table}")))
                .schema(schema(&[("ts", time)]))
                .watermark("ts", "0 seconds")
        };
        Job::new(place)
            .inputs([input("a"), input("b")])
            .sql(
                "SELECT CAST(extract(epoch FROM w) AS BIGINT) AS w, n FROM (\
                     SELECT date_bin(INTERVAL '10 seconds', ts) AS w, count(*) AS n \
                     FROM (SELECT ts FROM a UNION ALL SELECT ts FROM b) GROUP BY 1)",
            )
            .format("json")
            .files_per_trigger(1)
    };
    let put = |table: &str, second: i64| {
        let line = format!("{{\"ts\":\"1970-01-01T00:00:{second:02}\"}}\n");
        template.put(&format!("in/{table}/{second:02}.json"), line);
    };
    for table in ["a", "b"] {
        std::fs::create_dir_all(template.path(&format!("in/{table}"))).unwrap();
    }
    put("a", 25);
    job(&template, &template).run(&session_in(1, environment(disks()))).await.unwrap();
    put("b", 12);
    job(&template, &template).run(&session_in(1, environment(disks()))).await.unwrap();
    // Only b moves the watermark: to 17, and to 24.
    put("b", 17);
    put("b", 24);
    let rows = [(10, 2)].map(|(w, n)| Row::from([("w".into(), json!(w)), ("n".into(), json!(n))])).into();
    // Each run but the first ends with a batch without rows.
    let expected = Expected { format: "json", columns: &TURN_COLUMNS, rows, batches: Some(6) };
    Scenario { template, expected, job: Box::new(job), late: vec![] }
}

/// The late rows of a query that shows them in `directory`.
fn late_rows(place: &Place, directory: &str) -> Vec<Row> {
    let directory = place.path(directory).join("operator=1");
    let mut rows = if directory.exists() { oracle::read_dir(&directory, "json", &[]) } else { vec![] };
    rows.iter_mut().for_each(|row| row.retain(|name, _| name == "v"));
    rows
}

/// What a query changes.
const STATE: [&str; 3] = ["out", "checkpoint", "late"];

impl Scenario {
    /// A place in the state before the accident.
    fn place(&self) -> Place {
        self.template.copy_of(&STATE)
    }

    /// Runs the query as a process in which `faults` happen. Whether it succeeds depends on them.
    async fn disturb(&self, place: &Place, faults: &Faults) -> bool {
        let session = session_in(1, environment(faults.provider(disks())));
        (self.job)(&self.template, place).run(&session).await.is_ok()
    }

    /// Runs the query twice on healthy storages, and checks what came of it.
    async fn heal(&self, place: &Place) -> Result<(), String> {
        for _ in 0..2 {
            let session = session_in(1, environment(disks()));
            (self.job)(&self.template, place).run(&session).await.map_err(|error| error.to_string())?;
        }
        let late = late_rows(place, "late");
        oracle::same(late, self.late.clone()).map_err(|problem| format!("late rows: {problem}"))?;
        let names = std::fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name());
        if let Some(left) = names.into_iter().find(|name| name.to_string_lossy().starts_with('.')) {
            return Err(format!("left behind beside the output: {}", left.display()));
        }
        self.expected.check(place).await
    }

    /// The storage calls of an undisturbed run.
    async fn census(&self) -> Vec<Call> {
        let (place, faults) = (self.place(), Faults::new(None));
        assert!(self.disturb(&place, &faults).await);
        self.heal(&place).await.unwrap();
        faults.calls()
    }

    /// The calls that come in every run. Old files are merged beside the batches, in more rounds or in
    /// fewer: how many calls of a kind there are may differ a little.
    async fn targets(&self) -> Vec<Target> {
        let mut most: Option<BTreeMap<String, usize>> = None;
        for _ in 0..3 {
            let mut counts = BTreeMap::new();
            for call in self.census().await {
                *counts.entry(call.kind()).or_default() += 1;
            }
            most = Some(match most {
                None => counts,
                Some(most) => most
                    .into_iter()
                    .filter_map(|(kind, count)| {
                        let other = counts.get(&kind)?;
                        Some((kind, count.min(*other)))
                    })
                    .collect(),
            });
        }
        let kinds = most.unwrap_or_default().into_iter();
        kinds
            .flat_map(|(kind, count)| (0..count).map(move |number| Target { kind: kind.clone(), number }))
            .collect()
    }

    /// Lets every call go wrong in every way.
    async fn check(&self) {
        for target in self.targets().await {
            for fault in Fault::ALL {
                self.check_at(&target, fault).await;
            }
        }
    }

    /// Lets one call go wrong.
    async fn check_at(&self, target: &Target, fault: Fault) {
        for _ in 0..50 {
            let (place, faults) = (self.place(), Faults::of(target.clone(), fault));
            let succeeded = self.disturb(&place, &faults).await;
            assert!(!(succeeded && faults.is_dead()), "{fault:?} at {target:?} went unnoticed");
            let shown = oracle::canonical(place.rows(self.expected.format, self.expected.columns));
            let once: BTreeSet<&String> = shown.iter().collect();
            assert_eq!(once.len(), shown.len(), "{fault:?} at {target:?} shows rows twice");
            if let Err(problem) = self.heal(&place).await {
                panic!("after {fault:?} at {target:?}: {problem}");
            }
            if faults.fired() {
                return;
            }
        }
        panic!("{target:?} does not come any more");
    }
}

/// What the calls do, without the parts of their paths that differ from batch to batch.
fn kinds(calls: &[Call]) -> BTreeSet<String> {
    calls.iter().map(Call::kind).collect()
}

#[tokio::test]
async fn the_census_knows_every_kind_of_call() {
    let mut found = kinds(&two_sources().census().await);
    found.extend(kinds(&before_maintenance(8, 4).await.census().await));
    found.extend(kinds(&before_maintenance(98, 3).await.census().await));
    // Old files of state are merged beside the batches: how far that comes before the end is not fixed.
    for _ in 0..20 {
        found.extend(kinds(&windows(14, Ending::Flushed).await.census().await));
        if found.contains("delete state") {
            break;
        }
    }
    for kind in [
        "list state",
        "create state",
        "read state",
        "delete state",
        "read metadata",
        "create metadata",
        "list fence",
        "create fence",
        "delete fence",
        "size fence",
        "list offsets",
        "create offsets",
        "read offsets",
        "delete offsets",
        "list commits",
        "create commits",
        "read commits",
        "delete commits",
        "list history",
        "create history",
        "read history",
        "delete history",
        "list .tidemill",
        "writer .tidemill",
        "write .tidemill",
        "finish .tidemill",
        "rename .tidemill",
        "remove_empty_dir .tidemill",
    ] {
        assert!(found.contains(kind), "no call '{kind}' among {found:#?}");
    }
}

#[tokio::test]
async fn any_call_may_go_wrong_with_two_sources() {
    two_sources().check().await;
}

#[tokio::test]
async fn any_call_may_go_wrong_while_the_first_files_are_merged() {
    before_maintenance(9, 2).await.check().await;
}

#[tokio::test]
async fn any_call_may_go_wrong_while_merged_files_are_merged_again() {
    before_maintenance(99, 2).await.check().await;
}

/// Whoever lists the output after an accident sees what was committed, each row once, merged or not.
#[tokio::test]
async fn any_call_may_go_wrong_while_files_of_output_are_merged() {
    let scenario = before_merge().await;
    let found = kinds(&scenario.census().await);
    for kind in ["directories", "files", "replace .tidemill", "remove", "settle"] {
        assert!(found.contains(kind), "no call '{kind}' among {found:#?}");
    }
    // The checkpoint's own calls go wrong elsewhere.
    let of_checkpoint = ["metadata", "fence", "offsets", "commits", "history", "state"];
    let is_of_output = |target: &Target| !of_checkpoint.iter().any(|name| target.kind.ends_with(name));
    let targets = scenario.targets().await.into_iter().filter(is_of_output);
    let cases: Vec<_> = targets.flat_map(|target| Fault::ALL.map(|fault| (target.clone(), fault))).collect();
    // A run that has merged files waits a moment for those who are listing them.
    let scenario = &scenario;
    let check = |(target, fault): (Target, Fault)| async move { scenario.check_at(&target, fault).await };
    futures::stream::iter(cases).for_each_concurrent(16, check).await;
}

#[tokio::test]
async fn any_call_may_go_wrong_with_state() {
    windows(0, Ending::Flushed).await.check().await;
}

/// Whatever was interrupted, the restart gives the windows that the watermark has made final, in as many
/// batches as an undisturbed run, although nothing new comes.
#[tokio::test]
async fn any_call_may_go_wrong_before_the_last_batch_without_rows() {
    windows(0, Ending::Open).await.check().await;
}

#[tokio::test]
async fn any_call_may_go_wrong_with_two_streams_that_take_turns() {
    turns().await.check().await;
}

#[tokio::test]
async fn any_call_may_go_wrong_while_state_is_merged_and_purged() {
    windows(14, Ending::Flushed).await.check().await;
}

/// Late rows whose batch was committed are published where they were staged, whatever the next start
/// says of late rows.
#[tokio::test]
async fn late_rows_of_the_last_batch_are_published_whatever_the_restart_says() {
    // The number of the batch with the late row.
    const BATCH: u64 = 4;
    let scenario = windows(0, Ending::Flushed).await;
    let census = scenario.census().await;
    let mut seen = BTreeSet::new();
    for (call, name) in census.iter().enumerate() {
        for fault in Fault::ALL {
            let (place, faults) = (scenario.place(), Faults::new(Some(Plan { call, fault })));
            scenario.disturb(&place, &faults).await;
            let commits = std::fs::read_dir(place.path("checkpoint/commits")).into_iter().flatten();
            let numbers = commits.filter_map(|file| file.unwrap().file_name().to_str()?.parse::<u64>().ok());
            let is_committed = numbers.max() >= Some(BATCH);
            let is_visible = !late_rows(&place, "late").is_empty();
            seen.insert((is_committed, is_visible));
            for elsewhere in [false, true] {
                let place = place.copy_of(&STATE);
                let mut job = (scenario.job)(&scenario.template, &place);
                job.options.retain(|(name, _)| !name.starts_with("lateRows"));
                if elsewhere {
                    job = job.option("lateRowsPath", place.text("moved")).option("lateRowsFormat", "json");
                }
                job.run(&session_in(1, environment(disks()))).await.unwrap();
                let what = format!("after {fault:?} at call {call} ({name}), elsewhere: {elsewhere}");
                let (kept, moved) = (late_rows(&place, "late"), late_rows(&place, "moved"));
                assert_eq!(kept, if is_committed { scenario.late.clone() } else { vec![] }, "{what}");
                let is_moved = elsewhere && !is_committed;
                assert_eq!(moved, if is_moved { scenario.late.clone() } else { vec![] }, "{what}");
            }
        }
    }
    // Not yet committed, committed and not yet visible, visible.
    assert_eq!(seen, BTreeSet::from([(false, false), (true, false), (true, true)]));
}

#[tokio::test]
async fn the_restart_may_crash_too() {
    crash_twice(two_sources(), (3, 5)).await;
}

#[tokio::test]
async fn the_restart_may_crash_with_state_too() {
    crash_twice(windows(0, Ending::Flushed).await, (5, 7)).await;
}

#[tokio::test]
async fn the_restart_may_crash_while_state_is_merged_and_purged_too() {
    crash_twice(windows(14, Ending::Flushed).await, (7, 15)).await;
}

/// Crashes at one call in `step`, and again at one call in `again` of the restart, each time a little
/// further. `CRASH_ALL_PAIRS=1` takes all pairs.
async fn crash_twice(scenario: Scenario, (step, again): (usize, usize)) {
    let is_whole = std::env::var("CRASH_ALL_PAIRS").is_ok_and(|text| text == "1");
    let (step, again) = if is_whole { (1, 1) } else { (step, again) };
    let calls = scenario.census().await.len();
    let (mut pairs, mut problems) = (0, Vec::new());
    for (round, first) in (0..calls).step_by(step).enumerate() {
        let (place, fault) = (scenario.place(), Fault::ALL[round % 5]);
        let once = Faults::new(Some(Plan { call: first, fault }));
        scenario.disturb(&place, &once).await;
        for (number, second) in (round % again..).step_by(again).enumerate() {
            let place = place.copy_of(&STATE);
            let plan = Plan { call: second, fault: Fault::ALL[(round + number) % 5] };
            let twice = Faults::new(Some(plan));
            scenario.disturb(&place, &twice).await;
            if !twice.fired() {
                break;
            }
            pairs += 1;
            if let Err(problem) = scenario.heal(&place).await {
                let at = |faults: &Faults, call: usize| faults.calls()[call].to_string();
                let (first, second) = (at(&once, first), at(&twice, second));
                problems.push(format!("after {fault:?} at {first}, {:?} at {second}: {problem}", plan.fault));
            }
        }
    }
    println!("{pairs} pairs of crashes over {calls} calls");
    assert!(pairs >= 100, "{pairs}");
    let shown = problems.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(problems.is_empty(), "{} of {pairs} pairs went wrong:\n{shown}", problems.len());
}
