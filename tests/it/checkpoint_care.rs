//! Going back to a batch, and copying a checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use tidemill::checkpoint::{
    Checkpoint, Copied, RemoveOutput, UndoneBatch, back_up, copy, copying, replan, rewind, rewind_with,
    rewinding, verify,
};
use tidemill::id::{IdGenerator, RandomIds};
use tidemill::prelude::*;
use tidemill::storage::{Durability, Storage};

use crate::support::committed::{commits, numbers};
use crate::support::faults::{Fault, Faults, Plan, Target};
use crate::support::harness::{Input, Job, Place, eventually, id_lines, ids, schema, session, session_in};
use crate::support::oracle::{self, Row};
use crate::support::outcome::{directory_url, disks, environment};
use crate::support::probe::Probe;

fn storage_at(path: &str) -> Arc<dyn Storage> {
    disks().open(&directory_url(path), Durability::Process).unwrap()
}

fn storage(place: &Place) -> Arc<dyn Storage> {
    storage_at(&place.text("checkpoint"))
}

/// A running count of ids by their last digit, one file per batch.
fn job(place: &Place) -> Job {
    let input = Input::new("input", "json", place.text("in")).schema(schema(&[("id", DataType::Int64)]));
    Job::new(place)
        .inputs([input])
        .sql("SELECT id % 10 AS id, count(*) AS n, sum(id) AS total FROM input GROUP BY id % 10")
        .mode(OutputMode::Update)
        .format("probe")
        .out(None)
        .option("minBatchesToRetain", 12)
        .files_per_trigger(1)
}

fn put(place: &Place, files: std::ops::Range<i64>) {
    files.for_each(|id| place.put(&format!("in/{id:05}.json"), id_lines([id, 3 * id, id + 7])));
}

/// What each batch gave.
async fn run(job: &Job) -> BTreeMap<u64, Vec<Row>> {
    let session = session();
    let probe = Probe::of(&session);
    job.run(&session).await.unwrap();
    let sorted = |mut rows: Vec<Row>| {
        rows.sort_by_key(|row| row["id"].as_i64());
        rows
    };
    probe.batches().into_iter().map(|(batch, rows)| (batch, sorted(rows))).collect()
}

/// A place with 57 batches, and what they gave.
async fn worked() -> (Place, BTreeMap<u64, Vec<Row>>) {
    let place = Place::new();
    put(&place, 0..57);
    let batches = run(&job(&place)).await;
    assert_eq!(batches.len(), 57);
    (place, batches)
}

fn at(job: Job, place: &Place) -> Job {
    let mut job = job;
    job.inputs[0].path = place.text("in");
    job.option("checkpointLocation", place.text("checkpoint"))
}

#[tokio::test]
async fn every_batch_whose_files_are_there_can_be_gone_back_to() {
    let (template, batches) = worked().await;
    let kept = commits(&template.path("checkpoint"));
    assert_eq!(kept.last(), Some(&56));
    assert!(kept[0] > 30 && kept[0] <= 44, "{kept:?}");
    let mut gone_back = Vec::new();
    for to in kept.iter().copied() {
        let place = template.copy_of(&["in", "checkpoint"]);
        let plan = rewinding(&*storage(&place), to).await;
        let Ok(plan) = plan else {
            // Only where a segment of the history and the files of batches do not meet.
            let error = plan.unwrap_err().to_string();
            assert!(
                error.contains("The oldest that can be is batch") && (to + 1) / 10 * 10 < kept[0],
                "{error}"
            );
            rewind(storage(&place), RandomIds.next_id(), to).await.unwrap_err();
            assert_eq!(run(&at(job(&place), &place)).await.len(), 0);
            continue;
        };
        let undone: Vec<u64> = plan.undone.iter().map(|batch| batch.batch_id).collect();
        assert_eq!(undone, (to + 1..57).collect::<Vec<_>>());
        assert_eq!(commits(&place.path("checkpoint")), kept, "a dry run changes nothing");
        rewind(storage(&place), RandomIds.next_id(), to).await.unwrap();
        assert_eq!(commits(&place.path("checkpoint")).last(), Some(&to));
        assert_eq!(numbers(&place.path("checkpoint/offsets")).last(), Some(&to));
        assert_eq!(verify(&*storage(&place)).await.unwrap().findings, [], "{to}");
        // New files come after the old ones.
        put(&place, 57..59);
        let again = run(&at(job(&place), &place)).await;
        for batch in to + 1..57 {
            assert_eq!(again.get(&batch), batches.get(&batch), "batch {batch} after going back to {to}");
        }
        assert_eq!(again.keys().copied().collect::<Vec<_>>(), (to + 1..59).collect::<Vec<_>>());
        assert_eq!(verify(&*storage(&place)).await.unwrap().findings, [], "{to}");
        gone_back.push(to);
    }
    assert!(gone_back.len() >= 8, "{gone_back:?}");
}

#[tokio::test]
async fn going_back_twice_is_as_going_back_at_once() {
    let (place, batches) = worked().await;
    for to in [55, 52, 50] {
        rewind(storage(&place), RandomIds.next_id(), to).await.unwrap();
        let nothing = rewinding(&*storage(&place), to).await.unwrap();
        assert_eq!(nothing.undone, []);
    }
    let again = run(&job(&place)).await;
    assert!(again.iter().all(|(batch, rows)| batches.get(batch) == Some(rows)));
    assert_eq!(again.keys().copied().collect::<Vec<_>>(), (51..57).collect::<Vec<_>>());
}

/// The command may be interrupted at any call. What it leaves can be started, and it can be repeated.
#[tokio::test]
async fn going_back_may_crash_anywhere() {
    let (template, batches) = worked().await;
    for fault in Fault::ALL {
        for call in 0.. {
            let place = template.copy_of(&["in", "checkpoint"]);
            let faults = Faults::new(Some(Plan { call, fault }));
            let url = directory_url(&place.text("checkpoint"));
            let broken = faults.provider(disks()).open(&url, Durability::Process).unwrap();
            let ended = rewind(broken, RandomIds.next_id(), 50).await;
            if !faults.fired() {
                assert!(call > 10 && ended.is_ok(), "{call} calls: {ended:?}");
                break;
            }
            assert_eq!(verify(&*storage(&place)).await.unwrap().findings, [], "{fault:?} at call {call}");
            rewind(storage(&place), RandomIds.next_id(), 50).await.unwrap();
            let again = run(&at(job(&place), &place)).await;
            assert!(again.iter().all(|(batch, rows)| batches.get(batch) == Some(rows)));
            assert_eq!(again.len(), 6, "{fault:?} at call {call}");
        }
    }
}

/// The files of a sink.
struct Files(std::path::PathBuf);

#[async_trait::async_trait]
impl RemoveOutput for Files {
    async fn remove(&self, batch: &UndoneBatch) -> tidemill::Result<()> {
        for file in batch.sink.iter().flat_map(|sink| sink["files"].as_array().unwrap()) {
            std::fs::remove_file(self.0.join(file["to"].as_str().unwrap())).unwrap();
        }
        Ok(())
    }
}

/// What the sink has of a batch goes when the batch is planned and not done, so that nothing is lost or there twice.
#[tokio::test]
async fn output_is_removed_with_its_batches() {
    let template = Place::new();
    (0..6).for_each(|id| template.put(&format!("in/{id}.json"), id_lines([id])));
    Job::new(&template).files_per_trigger(1).run(&session()).await.unwrap();
    for fault in Fault::ALL {
        for call in 0.. {
            let place = template.copy_of(&["in", "checkpoint", "out"]);
            let faults = Faults::new(Some(Plan { call, fault }));
            let url = directory_url(&place.text("checkpoint"));
            let broken = faults.provider(disks()).open(&url, Durability::Process).unwrap();
            let ended = rewind_with(broken, RandomIds.next_id(), 1, &Files(place.path("out"))).await;
            let done = Job::new(&place).files_per_trigger(1).run(&session()).await;
            done.unwrap_or_else(|error| panic!("{fault:?} at call {call}: {error}"));
            assert_eq!(place.ids(), (0..6).collect::<Vec<_>>(), "{fault:?} at call {call}");
            if !faults.fired() {
                assert!(call > 10 && ended.is_ok(), "{call} calls: {ended:?}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn what_cannot_be_gone_back_to_is_said() {
    let (place, _) = worked().await;
    let error = rewinding(&*storage(&place), 3).await.unwrap_err().to_string();
    assert!(error.contains("batch 3 is not among the batches that are done"), "{error}");
    assert!(error.contains("to 56 are"), "{error}");
    let error = rewinding(&*storage(&place), 57).await.unwrap_err().to_string();
    assert!(error.contains("batch 57 is not among"), "{error}");
    let empty = Place::new();
    let error = rewind(storage(&empty), RandomIds.next_id(), 0).await.unwrap_err().to_string();
    assert!(error.contains("is not the checkpoint of a query"), "{error}");
    assert!(!empty.path("checkpoint").exists());
}

#[tokio::test]
async fn a_copy_goes_on_as_the_original_does_and_can_be_gone_back_in() {
    let (place, _) = worked().await;
    let planned = copying(&*storage(&place)).await.unwrap();
    assert!(!place.path("copy").exists());
    let done = copy(&*storage(&place), &*storage_at(&place.text("copy"))).await.unwrap();
    assert_eq!((done.clone(), done.last_batch), (planned, Some(56)));
    assert_eq!(verify(&*storage_at(&place.text("copy"))).await.unwrap().findings, []);
    put(&place, 57..60);
    let original = run(&job(&place)).await;
    let copied = run(&job(&place).option("checkpointLocation", place.text("copy"))).await;
    assert_eq!((original.len(), &copied), (3, &original));

    copy(&*storage(&place), &*storage_at(&place.text("second"))).await.unwrap();
    rewind(storage_at(&place.text("second")), RandomIds.next_id(), 56).await.unwrap();
    assert_eq!(run(&job(&place).option("checkpointLocation", place.text("second"))).await, original);

    let error = copy(&*storage(&place), &*storage_at(&place.text("copy"))).await.unwrap_err().to_string();
    assert!(error.contains("there is a checkpoint in"), "{error}");
    let error = copy(&*storage(&place), &*storage(&place)).await.unwrap_err().to_string();
    assert!(error.contains("cannot be copied to where it is"), "{error}");
}

#[tokio::test]
async fn a_copy_is_a_query_of_its_own_and_its_first_start_names_its_place() {
    let place = Place::new();
    place.put("in/0.json", id_lines([0, 1]));
    let original = Job::new(&place).files_per_trigger(1).option("minBatchesToRetain", 12);
    let live = original.run(&session()).await.unwrap();
    let to = |name: &str| storage_at(&place.text(name));
    copy(&*storage(&place), &*to("copy")).await.unwrap();
    copy(&*to("copy"), &*to("second")).await.unwrap();
    place.put("in/1.json", id_lines([2]));

    let at = |checkpoint: &str, out: &str| {
        original.clone().option("checkpointLocation", place.text(checkpoint)).out(Some(place.text(out)))
    };
    let ids_in = |out: &str| ids(oracle::read_dir(&place.path(out), "parquet", &[]));
    let trial = at("copy", "trial").run(&session()).await.unwrap();
    let second = at("second", "lines").format("json").run(&session()).await.unwrap();
    original.run(&session()).await.unwrap();
    assert_eq!((place.ids(), ids_in("trial")), (vec![0, 1, 2], vec![2]));
    assert_eq!(ids(oracle::read_dir(&place.path("lines"), "json", &[])), [2]);
    assert!(live.id() != trial.id() && trial.id() != second.id() && live.id() != second.id());
    let copy_of = async |name: &str| {
        Checkpoint::read_metadata(&*to(name)).await.unwrap().unwrap().copy_of.map(|origin| origin.id)
    };
    assert_eq!(
        (copy_of("copy").await, copy_of("second").await),
        (
            Some(live.id()),
            Some({
                let copied = Checkpoint::read_metadata(&*to("copy")).await.unwrap().unwrap();
                copied.id
            })
        )
    );

    // From now on the place is compared.
    let error = at("copy", "elsewhere").run(&session()).await.unwrap_err().to_string();
    assert!(error.contains("the location of the sink was '../trial' and is '../elsewhere'"), "{error}");
    // What the original's sink has is not the copy's.
    let back = rewinding(&*to("copy"), 0).await.unwrap();
    assert_eq!(back.undone.len(), 1);
    rewind(to("copy"), RandomIds.next_id(), 0).await.unwrap();
    std::fs::remove_dir_all(place.path("trial")).unwrap();
    at("copy", "trial").run(&session()).await.unwrap();
    assert_eq!((ids_in("trial"), place.ids()), (vec![2], vec![0, 1, 2]));
    for name in ["copy", "second"] {
        assert_eq!(verify(&*to(name)).await.unwrap().findings, [], "{name}");
    }
}

/// A copy that is cut off in its first batch is new no more, and one whose first batch is let go has still nothing.
#[tokio::test]
async fn a_copy_whose_first_batch_does_not_come_through_keeps_its_place() {
    let place = Place::new();
    place.put("in/0.json", id_lines([0]));
    let original = Job::new(&place).files_per_trigger(1);
    original.run(&session()).await.unwrap();
    copy(&*storage(&place), &*storage_at(&place.text("copy"))).await.unwrap();
    place.put("in/1.json", id_lines([1]));
    let at = |out: &str| {
        original.clone().option("checkpointLocation", place.text("copy")).out(Some(place.text(out)))
    };
    let faults = Faults::of(Target { kind: "create commits".into(), number: 0 }, Fault::DieBefore);
    at("trial").run(&session_in(1, environment(faults.provider(disks())))).await.unwrap_err();
    assert!(faults.fired());
    replan(storage_at(&place.text("copy")), RandomIds.next_id()).await.unwrap().unwrap();
    let error = at("other").run(&session()).await.unwrap_err().to_string();
    assert!(error.contains("the location of the sink was '../trial'"), "{error}");
    at("trial").run(&session()).await.unwrap();
    assert_eq!(ids(oracle::read_dir(&place.path("trial"), "parquet", &[])), [1]);
    assert_eq!(place.ids(), [0]);
}

#[tokio::test]
async fn a_backup_is_the_same_query() {
    let place = Place::new();
    place.put("in/0.json", id_lines([0, 1]));
    let live = Job::new(&place).run(&session()).await.unwrap();
    back_up(&*storage(&place), &*storage_at(&place.text("backup"))).await.unwrap();
    place.put("in/1.json", id_lines([2]));
    let job = Job::new(&place).option("checkpointLocation", place.text("backup"));
    assert_eq!(job.run(&session()).await.unwrap().id(), live.id());
    assert_eq!(place.ids(), [0, 1, 2]);
    let error = job.out(Some(place.text("elsewhere"))).run(&session()).await.unwrap_err().to_string();
    assert!(error.contains("the location of the sink was"), "{error}");
}

/// A copy is of one moment, however busy the query is.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_can_be_copied_while_its_query_runs() {
    let place = Place::new();
    put(&place, 0..80);
    let session = session();
    let probe = Probe::of(&session);
    let query = job(&place).trigger(Trigger::AtOnce).start(&session).await.unwrap();
    let mut copies: Vec<Copied> = Vec::new();
    // Of which the last are made when batches are purged.
    for done in [0, 5, 20, 45, 60] {
        eventually(|| probe.batches().len() > done).await;
        let to = place.text(&format!("copy{}", copies.len()));
        copies.push(copy(&*storage(&place), &*storage_at(&to)).await.unwrap());
    }
    query.process_all_available().await.unwrap();
    query.stop(StopMode::Finish).await.unwrap();
    let all = probe.batches();
    for (number, done) in copies.iter().enumerate() {
        let checkpoint = place.text(&format!("copy{number}"));
        assert_eq!(verify(&*storage_at(&checkpoint)).await.unwrap().findings, []);
        let rest = run(&job(&place).option("checkpointLocation", checkpoint)).await;
        let first = done.last_batch.map_or(0, |last| last + 1);
        assert_eq!(rest.keys().copied().collect::<Vec<_>>(), (first..80).collect::<Vec<_>>());
        let groups = |rows: &[Row]| ids(rows.to_vec());
        assert!(rest.iter().all(|(batch, rows)| groups(rows) == groups(&all[batch])));
    }
}
