//! Directories that somebody removes while a query runs.

use std::fs;

use tidemill::Error;
use tidemill::prelude::*;

use crate::support::committed::commits;
use crate::support::harness::{Job, Place, cause, id_lines, session};

/// A running query that has done its first batch.
async fn running(place: &Place, job: &Job, session: &Session) -> StreamingQuery {
    place.put("in/0.json", id_lines([0]));
    let query = job.clone().trigger(Trigger::AtOnce).start(session).await.unwrap();
    query.process_all_available().await.unwrap();
    query
}

/// What came before is gone, and would be missing from a directory that is made anew: the query says so and ends, and
/// only who starts it again has it write on.
#[tokio::test]
async fn a_query_whose_output_is_removed_says_so_and_ends() {
    for leftover in [false, true] {
        let place = Place::new();
        if leftover {
            // What is there of a run that was killed.
            fs::create_dir_all(place.path("out/.tidemill")).unwrap();
            fs::write(place.path("out/.tidemill/of-another"), "").unwrap();
        }
        // A restart would not bring it back.
        let job = Job::new(&place).option("restartOnFailure", true);
        let session = session();
        let query = running(&place, &job, &session).await;
        assert_eq!(place.ids(), [0]);

        fs::remove_dir_all(place.path("out")).unwrap();
        place.put("in/1.json", id_lines([1]));
        let error = query.await_termination().await.unwrap_err();
        assert!(matches!(cause(&error), Error::OutputRemoved { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("/out/' was removed or moved while the query was running"), "{text}");
        assert!(text.contains("Put it back and start the query again"), "{text}");
        assert_eq!((query.restarts(), place.path("out").exists()), (0, false));
        assert_eq!(commits(&place.path("checkpoint")), [0]);

        job.run(&session).await.unwrap();
        assert_eq!(place.ids(), [1]);
    }
}

#[tokio::test]
async fn an_output_that_was_moved_and_is_put_back_goes_on_where_it_was() {
    let place = Place::new();
    let job = Job::new(&place).partition_by(&["id"]).sql("SELECT id, id AS v FROM input");
    let session = session();
    let query = running(&place, &job, &session).await;
    fs::rename(place.path("out"), place.path("elsewhere")).unwrap();
    place.put("in/1.json", id_lines([1]));
    let error = query.await_termination().await.unwrap_err();
    assert!(matches!(cause(&error), Error::OutputRemoved { .. }), "{error}");

    fs::rename(place.path("elsewhere"), place.path("out")).unwrap();
    job.run(&session).await.unwrap();
    let mut directories: Vec<String> = fs::read_dir(place.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    directories.sort();
    assert_eq!(directories, ["id=0", "id=1"]);
}

/// Files and directories within it are its owner's: nothing is needed of them.
#[tokio::test]
async fn what_is_within_the_output_may_be_removed() {
    let place = Place::new();
    let job = Job::new(&place).partition_by(&["id"]).sql("SELECT id, id AS v FROM input");
    let session = session();
    let query = running(&place, &job, &session).await;
    for entry in fs::read_dir(place.path("out")).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    place.put("in/1.json", id_lines([0, 1]));
    query.process_all_available().await.unwrap();
    query.stop(StopMode::Finish).await.unwrap();
    assert_eq!(place.path("out/id=0").read_dir().unwrap().count(), 1);
    assert_eq!(place.path("out/id=1").read_dir().unwrap().count(), 1);
}

#[tokio::test]
async fn a_query_whose_checkpoint_is_removed_says_so_and_ends() {
    let place = Place::new();
    let job = Job::new(&place).option("restartOnFailure", true);
    let session = session();
    let query = running(&place, &job, &session).await;
    fs::remove_dir_all(place.path("checkpoint")).unwrap();
    place.put("in/1.json", id_lines([1]));
    let error = query.await_termination().await.unwrap_err();
    assert!(matches!(cause(&error), Error::CheckpointDamaged { .. }), "{error}");
    assert!(error.to_string().contains("was deleted or moved while the query was running"), "{error}");
    assert_eq!((query.restarts(), place.ids()), (0, vec![0]));
}
