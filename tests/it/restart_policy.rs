//! Queries that start again by themselves when they fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidemill::clock::{Clock, ManualClock};
use tidemill::prelude::*;
use tidemill::{Environment, Error};

use crate::support::committed::commits;
use crate::support::harness::{Job, Place, cause, eventually, id_lines, session_in};
use crate::support::probe::Probe;

/// A job over three files, one per batch, whose batch 1 fails `failures` times; and how often it has.
async fn run(
    place: &Place,
    failures: u64,
    options: &[(&str, &str)],
) -> (StreamingQuery, Probe, Arc<ManualClock>) {
    (0..3).for_each(|id| place.put(&format!("in/{id}.json"), id_lines([id])));
    let clock = Arc::new(ManualClock::new(0));
    let environment = Environment { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..Environment::default() };
    let session = session_in(1, environment);
    let probe = Probe::of(&session);
    let failed = AtomicU64::new(0);
    probe.on_prepare(move |batch| {
        if batch == 1 && failed.fetch_add(1, Ordering::SeqCst) < failures {
            return Err(Error::storage("write", "s3://bucket/key", "connection reset"));
        }
        Ok(())
    });
    let mut job = Job::new(place).format("probe").out(None).files_per_trigger(1);
    for (name, value) in options {
        job = job.option(name, value);
    }
    let query = job.start(&session).await.unwrap();
    // The session has to live as long as its query.
    let _ = query.await_termination().await;
    (query, probe, clock)
}

#[tokio::test]
async fn a_failure_that_passes_does_not_end_the_query() {
    let place = Place::new();
    let (query, probe, clock) = run(&place, 3, &[("restartOnFailure", "true")]).await;
    assert!(query.exception().is_none(), "{:?}", query.exception());
    assert_eq!((query.restarts(), commits(&place.path("checkpoint"))), (3, vec![0, 1, 2]));
    assert_eq!(probe.batches().values().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
    // One second, two and four.
    assert_eq!(clock.elapsed(), Duration::from_secs(7));
}

#[tokio::test]
async fn without_the_option_and_beyond_the_limit_it_does() {
    let place = Place::new();
    let (query, ..) = run(&place, 1, &[]).await;
    assert!(query.exception().is_some());
    assert_eq!((query.restarts(), commits(&place.path("checkpoint"))), (0, vec![0]));

    let place = Place::new();
    let options = [("restartOnFailure", "true"), ("restartLimit", "2"), ("restartBackoff", "1 minute")];
    let (query, _, clock) = run(&place, 3, &options).await;
    let error = query.await_termination().await.unwrap_err();
    assert!(matches!(cause(&error), Error::Storage { .. }), "{error}");
    assert!(error.to_string().ends_with("connection reset. It was restarted 2 times in a row"), "{error}");
    assert_eq!((query.restarts(), commits(&place.path("checkpoint"))), (2, vec![0]));
    assert_eq!(clock.elapsed(), Duration::from_secs(180));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_waits_for_its_restart_can_be_stopped() {
    let place = Place::new();
    place.put("in/0.json", id_lines([0]));
    let session = session_in(1, Environment::default());
    let probe = Probe::of(&session);
    probe.on_prepare(|_| Err(Error::Invalid("no".into())));
    let job = Job::new(&place).format("probe").out(None);
    let job = job.option("restartOnFailure", true).option("restartBackoff", "1 hour");
    let query = job.start(&session).await.unwrap();
    eventually(|| query.restarts() == 1).await;
    assert!(query.is_active());
    let error = query.stop(StopMode::Finish).await.unwrap_err();
    assert_eq!(cause(&error).to_string(), "no");
}
