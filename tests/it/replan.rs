//! Letting a planned batch go that can never be run, and planning it anew.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use serde_json::json;
use tidemill::checkpoint::{BatchStatus, batches, planned, replan, verify};
use tidemill::id::{IdGenerator, RandomIds};
use tidemill::storage::{Durability, Storage};
use tidemill::{Error, Result};

use crate::support::committed::commits;
use crate::support::faults::{Fault, Faults, Plan};
use crate::support::harness::{Input, Job, Place, cause, id_lines, ids, schema, session, session_in};
use crate::support::oracle::Row;
use crate::support::outcome::{directory_url, disks, environment};
use crate::support::probe::Probe;

fn storage(place: &Place) -> Arc<dyn Storage> {
    disks().open(&directory_url(&place.text("checkpoint")), Durability::Process).unwrap()
}

async fn let_go(place: &Place) -> Option<u64> {
    replan(storage(place), RandomIds.next_id()).await.unwrap().map(|batch| batch.batch_id)
}

async fn statuses(place: &Place) -> Vec<BatchStatus> {
    batches(&*storage(place)).await.unwrap().into_iter().map(|batch| batch.status).collect()
}

/// Puts `in/<id>.json` in place, with one row.
fn put(place: &Place, id: i64) {
    place.put(&format!("in/{id:05}.json"), id_lines([id]));
}

/// A query whose batch `batch` is planned and has failed, with one file per batch and one more to come.
async fn stuck(batch: i64) -> (Place, Job) {
    let place = Place::new();
    (0..=batch).for_each(|id| put(&place, id));
    let job = Job::new(&place).files_per_trigger(1).option("minBatchesToRetain", 2);
    let (session, name) = (session(), place.path(&format!("in/{batch:05}.json")));
    let probe = Probe::of(&session);
    let last = u64::try_from(batch).unwrap();
    let spoil = move |now| {
        // Written again when it was planned and read, and before the batch is committed.
        if now == last {
            std::fs::write(&name, id_lines([1000 + batch, 2000 + batch])).unwrap();
        }
        if now == last { Err(Error::Invalid("no".into())) } else { Ok(()) }
    };
    probe.on_prepare(spoil);
    job.clone().format("probe").out(None).run(&session).await.unwrap_err();
    (place, job.format("probe").out(None))
}

#[tokio::test]
async fn a_batch_whose_file_has_changed_is_planned_anew() {
    for batch in [0_i64, 1, 3] {
        let (place, job) = stuck(batch).await;
        // It is the same at every start, which says what to do.
        for _ in 0..2 {
            let session = session();
            Probe::of(&session);
            let error = job.run(&session).await.unwrap_err();
            assert!(matches!(cause(&error), Error::InputFile { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(&format!("Batch {batch} is planned")), "{text}");
            assert!(text.contains("tidemill checkpoint replan '/"), "{text}");
        }
        let wanted = planned(&*storage(&place)).await.unwrap().unwrap();
        assert_eq!((wanted.batch_id, wanted.sources), (batch as u64, vec![("json".into(), 1)]));
        assert_eq!(statuses(&place).await.last(), Some(&BatchStatus::Planned));
        assert_eq!(let_go(&place).await, Some(batch as u64));
        assert_eq!(statuses(&place).await.last(), Some(&BatchStatus::LetGo));
        assert_eq!((planned(&*storage(&place)).await.unwrap(), let_go(&place).await), (None, None));

        put(&place, 500);
        let session = session();
        let probe = Probe::of(&session);
        job.run(&session).await.unwrap();
        let found = ids(probe.batches().into_values().flatten().collect());
        assert_eq!(found, [500, 1000 + batch, 2000 + batch], "{batch}");
        let report = verify(&*storage(&place)).await.unwrap();
        assert_eq!(report.findings, [], "{batch}");
    }
}

/// What was let go is nowhere: not in the history that files are merged into, nor in what is purged.
#[tokio::test]
async fn batches_that_were_let_go_are_forgotten_when_old_files_are_merged() {
    let place = Place::new();
    let job = Job::new(&place).format("probe").out(None).files_per_trigger(1).option("minBatchesToRetain", 1);
    let mut expected = Vec::new();
    let mut found: Vec<Row> = Vec::new();
    for round in 0..14_i64 {
        put(&place, round);
        let failing = session();
        Probe::of(&failing).on_prepare(|_| Err(Error::Invalid("no".into())));
        job.run(&failing).await.unwrap_err();
        let batch = let_go(&place).await;
        // Twice in a row, every third time.
        if round % 3 == 0 {
            job.run(&failing).await.unwrap_err();
            assert_eq!(let_go(&place).await, batch.map(|batch| batch + 1));
        }
        let healthy = session();
        let probe = Probe::of(&healthy);
        job.run(&healthy).await.unwrap();
        found.extend(probe.batches().into_values().flatten());
        expected.push(round);
    }
    assert_eq!(ids(found), expected);
    let report = verify(&*storage(&place)).await.unwrap();
    assert_eq!((report.findings, report.batches), (vec![], 14 * 2 + 5));
    // Old batches were purged.
    assert!(commits(&place.path("checkpoint")).first() > Some(&5));
}

/// A query with state and several watermarks goes on from the batch before as if nothing had been.
#[tokio::test]
async fn state_watermarks_and_windows_are_those_of_the_batch_before() {
    let place = Place::new();
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let input = Input::new("input", "json", place.text("in"))
        .schema(schema(&[("id", DataType::Int64), ("ts", time)]))
        .watermark("ts", "5 seconds");
    let job = Job::new(&place)
        .inputs([input])
        .sql(
            "SELECT CAST(extract(epoch FROM w) AS BIGINT) AS id, n FROM (\
                 SELECT date_bin(INTERVAL '10 seconds', ts) AS w, count(*) AS n FROM input GROUP BY 1)",
        )
        .format("json")
        .files_per_trigger(1);
    let put = |file: i64, seconds: &[i64]| {
        let line = |second| format!("{{\"id\":1,\"ts\":\"1970-01-01T00:00:{second:02}\"}}\n");
        place.put(&format!("in/{file}.json"), seconds.iter().map(line).collect::<String>());
    };
    put(0, &[1, 2, 11]);
    put(1, &[3, 18]);
    // The first two files, and the batch without rows after them.
    job.run(&session()).await.unwrap();
    let before = commits(&place.path("checkpoint"));
    put(2, &[12, 30]);
    // The batch is interrupted by a disk that fails before the commit.
    for call in 0.. {
        let faults = Faults::new(Some(Plan { call, fault: Fault::ErrorBefore }));
        let broken = session_in(1, environment(faults.provider(disks())));
        let ended = job.run(&broken).await;
        assert!(ended.is_err(), "no call between plan and commit");
        if planned(&*storage(&place)).await.unwrap().is_some() {
            break;
        }
    }
    assert_eq!(let_go(&place).await, before.last().map(|last| last + 1));
    put(3, &[13, 40]);
    job.run(&session()).await.unwrap();
    let row = |id: i64, n: i64| Row::from([("id".into(), json!(id)), ("n".into(), json!(n))]);
    let mut rows = place.rows("json", &[]);
    rows.sort_by_key(|row| row["id"].as_i64());
    // 0 to 10: 1, 2, 3. 10 to 20: 11, 18, 12, 13; late is 35 only after the last file. 30 is final.
    assert_eq!(rows, [row(0, 3), row(10, 4)]);
    assert_eq!(verify(&*storage(&place)).await.unwrap().findings, []);
}

/// A batch that was let go has the watermark of the one before, which its own had gone beyond.
#[tokio::test]
async fn a_watermark_that_has_moved_is_no_damage() {
    let place = Place::new();
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let input = Input::new("input", "json", place.text("in"))
        .schema(schema(&[("id", DataType::Int64), ("ts", time)]))
        .watermark("ts", "1 minute");
    let job = Job::new(&place)
        .inputs([input])
        .sql("SELECT date_trunc('hour', ts) AS w, count(*) AS n FROM input GROUP BY 1")
        .format("json")
        .files_per_trigger(1);
    for hour in 1..3 {
        place.put(&format!("in/{hour}.json"), format!("{{\"id\":1,\"ts\":\"2026-01-01T0{hour}:02:00\"}}\n"));
    }
    job.run(&session()).await.unwrap();
    for file in ["commits/1", "offsets/2", "commits/2"] {
        std::fs::remove_file(place.path("checkpoint").join(file)).unwrap();
    }
    assert_eq!(let_go(&place).await, Some(1));
    assert_eq!(verify(&*storage(&place)).await.unwrap().findings, []);
    job.run(&session()).await.unwrap();
    assert_eq!(verify(&*storage(&place)).await.unwrap().findings, []);
}

/// The command may be interrupted at any call, and be repeated: the batch is let go once, or not at all.
#[tokio::test]
async fn it_may_crash_anywhere() {
    let (template, job) = stuck(1).await;
    for fault in Fault::ALL {
        for call in 0.. {
            let place = template.copy_of(&["in", "checkpoint"]);
            let faults = Faults::new(Some(Plan { call, fault }));
            let url = directory_url(&place.text("checkpoint"));
            let broken = faults.provider(disks()).open(&url, Durability::Process).unwrap();
            let ended = replan(broken, RandomIds.next_id()).await;
            if !faults.fired() {
                assert!(call > 10 && ended.is_ok(), "{call} calls: {ended:?}");
                break;
            }
            let again = let_go(&place).await;
            assert!(again.is_none() || again == Some(1), "{again:?}");
            let mut job = job.clone();
            job.inputs[0].path = place.text("in");
            let job = job.option("checkpointLocation", place.text("checkpoint"));
            let session = session();
            let probe = Probe::of(&session);
            job.run(&session).await.unwrap();
            let found = ids(probe.batches().into_values().flatten().collect());
            assert_eq!(found, [1001, 2001], "after {fault:?} at call {call}");
            assert_eq!(verify(&*storage(&place)).await.unwrap().findings, []);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_still_at_work_cannot_commit_what_was_let_go() -> Result<()> {
    let place = Place::new();
    put(&place, 1);
    let session = session();
    let probe = Probe::of(&session);
    let checkpoint = storage(&place);
    let runtime = tokio::runtime::Handle::current();
    probe.on_prepare(move |_| {
        let checkpoint = Arc::clone(&checkpoint);
        let handle = runtime.clone();
        let work = move || handle.block_on(replan(checkpoint, RandomIds.next_id()));
        let done = std::thread::spawn(work).join().unwrap()?;
        assert_eq!(done.map(|batch| batch.batch_id), Some(0));
        Ok(())
    });
    let job = Job::new(&place).format("probe").out(None);
    let error = job.run(&session).await.unwrap_err();
    assert!(matches!(cause(&error), Error::ConcurrentQuery { .. }), "{error}");
    assert!(probe.batches().is_empty());

    probe.on_prepare(|_| Ok(()));
    job.run(&session).await?;
    assert_eq!(ids(probe.batches().into_values().flatten().collect()), [1]);
    Ok(())
}

#[tokio::test]
async fn what_is_no_checkpoint_is_said_so() {
    let place = Place::new();
    let error = replan(storage(&place), RandomIds.next_id()).await.unwrap_err().to_string();
    assert!(error.contains("is not the checkpoint of a query"), "{error}");
    assert!(planned(&*storage(&place)).await.is_err() && batches(&*storage(&place)).await.is_err());
    assert!(!place.path("checkpoint").exists());
}
