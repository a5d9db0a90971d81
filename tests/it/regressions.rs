//! Failures that other engines had, under the numbers of their reports.

use std::fs;

use datafusion::arrow::datatypes::DataType;
use tidemill::Error;
use tidemill::prelude::*;

use crate::support::committed::{commits, record};
use crate::support::faults::{Fault, Faults, Plan};
use crate::support::harness::{Input, Job, Place, cause, id_lines, schema, session, session_in};
use crate::support::oracle;
use crate::support::outcome::{disks, environment};
use crate::support::probe::Probe;

/// A checkpoint without its `metadata` file got a new query id, and sinks that tell repeated batches
/// by it wrote them again.
#[tokio::test]
async fn spark_55058_a_checkpoint_without_metadata_is_refused() {
    let place = Place::new();
    place.put("in/0.json", id_lines([0]));
    let job = Job::new(&place);
    let first = job.run(&session()).await.unwrap();
    let metadata = place.path("checkpoint/metadata");
    let whole = fs::read(&metadata).unwrap();
    fs::remove_file(&metadata).unwrap();
    for _ in 0..2 {
        let error = job.start(&session()).await.unwrap_err();
        assert!(matches!(&error, Error::CheckpointDamaged { path, .. } if path == "metadata"), "{error:?}");
        assert!(error.to_string().contains("new id"), "{error}");
        assert!(!metadata.exists());
    }
    // Whether all batches are committed or the last one is not.
    fs::remove_file(place.path("checkpoint/commits/0")).unwrap();
    let error = job.start(&session()).await.unwrap_err();
    assert!(matches!(&error, Error::CheckpointDamaged { path, .. } if path == "metadata"), "{error:?}");

    fs::write(&metadata, whole).unwrap();
    let again = job.start(&session()).await.unwrap();
    assert_eq!(again.id(), first.id());
    again.stop(StopMode::Finish).await.unwrap();
}

/// A file sink whose driver died after writing its files and before its log named them: readers of
/// the directory saw the rows twice after the restart.
#[tokio::test]
async fn spark_25331_a_crash_before_the_commit_leaves_no_row_twice() {
    let template = Place::new();
    (0..2).for_each(|id| template.put(&format!("in/{id}.json"), id_lines([id * 2, id * 2 + 1])));
    let undisturbed = Faults::new(None);
    let place = template.copy();
    Job::new(&place).run(&session_in(1, environment(undisturbed.provider(disks())))).await.unwrap();
    let calls = undisturbed.calls();
    let staged = calls.iter().position(|call| call.operation == "finish").unwrap();
    let published = calls.iter().position(|call| call.operation == "rename").unwrap();
    assert!(published > staged + 2, "{calls:#?}");

    // From the moment at which the rows are staged to that at which they are all visible.
    for (call, made) in calls.iter().enumerate().take(published + 1).skip(staged) {
        for fault in [Fault::DieBefore, Fault::DieAfter] {
            let place = template.copy();
            let faults = Faults::new(Some(Plan { call, fault }));
            Job::new(&place).run(&session_in(1, environment(faults.provider(disks())))).await.unwrap_err();
            let visible = place.ids();
            assert!(
                visible.is_empty() || visible == [0, 1, 2, 3],
                "{visible:?} after {fault:?} at call {call}"
            );
            Job::new(&place).run(&session()).await.unwrap();
            assert_eq!(place.ids(), [0, 1, 2, 3], "{fault:?} at call {call} ({made})");
        }
    }
}

/// A restart on a batch that has rows of only one of two file streams failed, or read them again.
#[tokio::test]
async fn spark_26629_a_rerun_of_a_batch_with_rows_of_one_of_two_streams() {
    let place = Place::new();
    let input = |table: &str| {
        Input::new(table, "json", place.text(&format!("in/{table}")))
            .schema(schema(&[("id", DataType::Int64)]))
    };
    let job = Job::new(&place)
        .inputs([input("a"), input("b")])
        .sql("SELECT id FROM a UNION ALL SELECT id FROM b")
        .format("probe")
        .out(None);
    let probe = Probe::default();
    let run = async |fails_in: Option<u64>| {
        let session = session();
        probe.register(&session);
        probe.on_prepare(move |batch| match fails_in {
            Some(fails_in) if fails_in == batch => Err(Error::Invalid("no".into())),
            _ => Ok(()),
        });
        job.run(&session).await
    };
    fs::create_dir_all(place.path("in/b")).unwrap();
    place.put("in/a/0.json", id_lines([0]));
    // The stream that has nothing is empty from the first batch on…
    let error = run(Some(0)).await.unwrap_err();
    assert_eq!(cause(&error).to_string(), "no");
    run(None).await.unwrap();
    // …and then it is the other one that has nothing new, first in a batch that fails.
    place.put("in/b/0.json", id_lines([10]));
    run(Some(1)).await.unwrap_err();
    run(None).await.unwrap();
    place.put("in/a/1.json", id_lines([1]));
    run(None).await.unwrap();

    let ids = |batch| crate::support::harness::ids(probe.rows(batch));
    assert_eq!([ids(0), ids(1), ids(2)], [[0], [10], [1]]);
    assert_eq!(commits(&place.path("checkpoint")), [0, 1, 2]);
    let offsets = record(&place.path("checkpoint/offsets/0"));
    assert!(offsets["sources"][1]["end"].is_null(), "a stream without data has no offset: {offsets}");
    assert_eq!(oracle::walk(&place.path("checkpoint/offsets")).len(), 3);
}
