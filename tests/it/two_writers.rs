//! Two runs of one query on one checkpoint, interleaved at every storage call: nothing is lost or
//! doubled, and the one that took the checkpoint over last goes on.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::json;
use tidemill::Error;
use tidemill::storage::{Durability, Storage, StorageProvider};
use url::Url;

use crate::support::faults::Faults;
use crate::support::harness::{Job, Place, cause, id_lines, session_in};
use crate::support::oracle::{self, Row};
use crate::support::outcome::{Expected, disks, environment};
use crate::support::sim_disk::Dice;

/// The machine's disks, where `checkpoint-2` is another name of `checkpoint`: within one process, a
/// checkpoint is refused to a second query by its name.
#[derive(Debug)]
struct TwoNames(Arc<dyn StorageProvider>);

impl StorageProvider for TwoNames {
    fn open(&self, url: &Url, durability: Durability) -> tidemill::Result<Arc<dyn Storage>> {
        let url = url.as_str().replace("/checkpoint-2", "/checkpoint");
        self.0.open(&Url::parse(&url).unwrap(), durability)
    }
}

/// One batch that is done, and some that are to come.
async fn template(left: i64) -> (Place, Expected) {
    let place = Place::new();
    place.put("in/0.json", id_lines([0]));
    job(&place, "checkpoint").run(&session_in(1, environment(disks()))).await.unwrap();
    (1..=left).for_each(|id| place.put(&format!("in/{id}.json"), id_lines([id])));
    let rows = (0..=left).map(|id| Row::from([("id".to_string(), json!(id))])).collect();
    (place, Expected { format: "json", columns: &[], rows, batches: Some(u64::try_from(left).unwrap() + 1) })
}

fn job(place: &Place, checkpoint: &str) -> Job {
    Job::new(place).format("json").option("checkpointLocation", place.text(checkpoint)).files_per_trigger(1)
}

/// A run as a process of its own, that may be held at one of its storage calls.
struct Writer {
    faults: Faults,
    run: tokio::task::JoinHandle<tidemill::Result<()>>,
}

impl Writer {
    fn start(place: &Place, checkpoint: &str, faults: Faults) -> Self {
        let storages = faults.provider(Arc::new(TwoNames(disks())));
        let job = job(place, checkpoint);
        let run = tokio::spawn(async move { job.run(&session_in(1, environment(storages))).await.map(drop) });
        Self { faults, run }
    }

    /// Returns when it is held, or has ended.
    async fn held_or_ended(&mut self) {
        let ended = async {
            while !self.run.is_finished() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = self.faults.held() => {}
            () = ended => {}
        }
    }

    /// Lets it go on, to its end.
    async fn finish(self) -> tidemill::Result<()> {
        self.faults.release();
        self.run.await.unwrap()
    }
}

/// Fails if `result` is any other error than that another run took over.
fn is_fenced(result: &tidemill::Result<()>) -> Result<bool, String> {
    match result {
        Ok(()) => Ok(false),
        Err(error) => match cause(error) {
            Error::ConcurrentQuery { .. } => Ok(true),
            other => Err(format!("failed with {other:?}")),
        },
    }
}

async fn heal(place: &Place, expected: &Expected) -> Result<(), String> {
    let session = session_in(1, environment(disks()));
    job(place, "checkpoint").run(&session).await.map_err(|error| error.to_string())?;
    expected.check(place).await
}

/// The number of storage calls of a run that nobody disturbs.
async fn calls(template: &Place) -> usize {
    let place = template.copy();
    let faults = Faults::new(None);
    Writer::start(&place, "checkpoint", faults.clone()).finish().await.unwrap();
    faults.calls().len()
}

#[tokio::test]
async fn a_run_that_slept_through_another_is_fenced() {
    let (template, expected) = template(2).await;
    let calls = calls(&template).await;
    let mut fenced = 0;
    for call in 0..calls {
        let place = template.copy();
        let mut older = Writer::start(&place, "checkpoint", Faults::holding_at(call));
        older.held_or_ended().await;
        Writer::start(&place, "checkpoint-2", Faults::new(None)).finish().await.unwrap_or_else(|error| {
            panic!("the newer run, with the older held at call {call} of {calls}: {error}")
        });
        let visible = place.rows("json", &[]);
        oracle::assert_same(visible, expected.rows.clone(), &format!("newer run, older held at call {call}"));

        let name = older.faults.calls().last().map(ToString::to_string).unwrap_or_default();
        let result = older.finish().await;
        let problem = |problem| panic!("older run, held at call {call} ({name}): {problem}");
        fenced += usize::from(is_fenced(&result).unwrap_or_else(problem));
        heal(&place, &expected)
            .await
            .unwrap_or_else(|problem| panic!("held at call {call} ({name}): {problem}"));
    }
    // Before it has claimed the checkpoint the older run is the newer one, and after its last
    // commit there is nothing left to be kept from.
    assert!(fenced > calls / 2, "only {fenced} of {calls} were fenced");
}

#[tokio::test]
async fn two_runs_that_hold_each_other_up_lose_and_double_nothing() {
    let (template, expected) = template(1).await;
    hold_each_other_up(&template, &expected).await;
}

/// Only one of them can say who the query is.
#[tokio::test]
async fn two_first_runs_that_hold_each_other_up_lose_and_double_nothing() {
    let template = Place::new();
    template.put("in/0.json", id_lines([0]));
    let rows = vec![Row::from([("id".to_string(), json!(0))])];
    hold_each_other_up(&template, &Expected { format: "json", columns: &[], rows, batches: Some(1) }).await;
}

async fn hold_each_other_up(template: &Place, expected: &Expected) {
    let calls = calls(template).await;
    for older_call in 0..calls {
        for newer_call in 0..calls {
            let place = template.copy();
            let mut older = Writer::start(&place, "checkpoint", Faults::holding_at(older_call));
            older.held_or_ended().await;
            let mut newer = Writer::start(&place, "checkpoint-2", Faults::holding_at(newer_call));
            newer.held_or_ended().await;
            let at =
                |writer: &Writer| writer.faults.calls().last().map(ToString::to_string).unwrap_or_default();
            let at = format!(
                "older held at {older_call} ({}), newer at {newer_call} ({})",
                at(&older),
                at(&newer)
            );
            let (older, newer) = (older.finish().await, newer.finish().await);
            let fenced = [("older", &older), ("newer", &newer)].map(|(who, result)| {
                is_fenced(result).unwrap_or_else(|problem| panic!("{at}: {who} {problem}"))
            });
            assert_ne!(fenced, [true, true], "{at}: neither went on");
            heal(&place, expected).await.unwrap_or_else(|problem| panic!("{at}: {problem}"));
        }
    }
}

fn binary(script: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.arg("run").arg(script).args(["--trigger", "available-now", "--progress", "none"]);
    command.stderr(Stdio::piped()).spawn().unwrap()
}

/// Whether the process ended well, or failed because of the other one.
fn ended_well(process: Child) -> bool {
    let ended = process.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    let fenced = ended.status.code() == Some(1) && stderr.contains("another query is running on checkpoint");
    assert!(ended.status.success() || fenced, "{}: {stderr}", ended.status);
    ended.status.success()
}

fn signal(process: &Child, name: &str) {
    let id = process.id().to_string();
    assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
}

/// Twenty files, a batch each.
fn place_for_processes() -> Place {
    let place = Place::new();
    (0..20).for_each(|id| place.put(&format!("in/{id:02}.json"), id_lines([id])));
    let sql = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE input (id BIGINT) STORED AS JSON LOCATION '{}' OPTIONS ('maxFilesPerTrigger' '1');
         CREATE EXTERNAL TABLE output STORED AS PARQUET LOCATION '{}';
         CREATE STREAMING QUERY etl CHECKPOINT LOCATION '{}' AS INSERT INTO output SELECT id FROM input;",
        place.text("in"),
        place.text("out"),
        place.text("checkpoint"),
    );
    place.put("job.sql", sql);
    place
}

#[test]
fn processes_that_are_started_together_lose_and_double_nothing() {
    for _ in 0..5 {
        let place = place_for_processes();
        let both = [binary(&place.path("job.sql")), binary(&place.path("job.sql"))];
        assert_ne!(both.map(ended_well), [false, false], "neither went on");
        assert!(ended_well(binary(&place.path("job.sql"))));
        assert_eq!(place.ids(), (0..20).collect::<Vec<_>>());
    }
}

#[test]
fn a_process_that_was_stopped_for_a_while_loses_and_doubles_nothing() {
    let mut dice = Dice(7);
    for _ in 0..8 {
        let place = place_for_processes();
        let stopped = binary(&place.path("job.sql"));
        std::thread::sleep(std::time::Duration::from_millis(20 + dice.roll(150) as u64));
        signal(&stopped, "STOP");
        assert!(ended_well(binary(&place.path("job.sql"))));
        assert_eq!(place.ids(), (0..20).collect::<Vec<_>>());
        signal(&stopped, "CONT");
        ended_well(stopped);
        assert!(ended_well(binary(&place.path("job.sql"))));
        assert_eq!(place.ids(), (0..20).collect::<Vec<_>>());
        assert_eq!(oracle::hidden(&place.path("out")), Vec::<String>::new());
    }
}
