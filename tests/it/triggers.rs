//! When batches run, with what, and how a query is ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill::clock::{Clock, ManualClock};
use tidemill::prelude::*;
use tidemill::{Environment, Error};

use crate::support::committed::{commits, files_of, numbers};
use crate::support::harness::{
    Event, Job, Place, Recorder, cause, eventually, id_lines, session, session_in,
};
use crate::support::probe::Probe;

/// A place with files `0.json` … of one row each, whose id is the file's number.
fn place_of(files: i64) -> Place {
    let place = Place::new();
    add_files(&place, 0..files);
    place
}

fn add_files(place: &Place, ids: std::ops::Range<i64>) {
    ids.for_each(|id| place.put(&format!("in/{id}.json"), id_lines([id])));
}

fn timestamps(recorder: &Recorder) -> Vec<String> {
    recorder.progress().into_iter().map(|progress| progress.timestamp).collect()
}

#[tokio::test]
async fn once_takes_everything_in_one_batch_whatever_the_limits() {
    let place = place_of(5);
    let job = Job::new(&place).files_per_trigger(2).trigger(Trigger::Once);
    let query = job.run(&session()).await.unwrap();
    assert_eq!(query.recent_progress().len(), 1);
    assert_eq!(query.last_progress().unwrap().num_input_rows, 5);
    assert_eq!(place.ids(), [0, 1, 2, 3, 4]);

    // Nothing new: no batch.
    assert!(job.run(&session()).await.unwrap().last_progress().is_none());
    assert_eq!(commits(&place.path("checkpoint")), [0]);
}

#[tokio::test]
async fn once_after_an_interrupted_batch_runs_that_batch_and_no_other() {
    let place = place_of(2);
    let job = Job::new(&place).format("probe").out(None).files_per_trigger(2);
    let first = session();
    let probe = Probe::of(&first);
    probe.on_prepare(|_| Err(Error::Invalid("no".into())));
    job.run(&first).await.unwrap_err();
    add_files(&place, 2..4);

    let second = session();
    Probe::of(&second);
    let query = job.trigger(Trigger::Once).run(&second).await.unwrap();
    assert_eq!(query.recent_progress().len(), 1);
    assert_eq!(query.last_progress().unwrap().num_input_rows, 2);
    assert_eq!(files_of(&place.path("checkpoint"), 0, 0), ["0.json", "1.json"]);
    assert_eq!(numbers(&place.path("checkpoint/offsets")), [0]);
}

#[tokio::test]
async fn available_now_takes_what_was_there_at_its_start_within_the_limits() {
    let place = Arc::new(place_of(5));
    let session = session();
    let probe = Probe::of(&session);
    let producer = Arc::clone(&place);
    probe.on_prepare(move |batch| {
        // Arrives while the query runs: for the next one.
        add_files(&producer, 100 + i64::try_from(batch).unwrap()..101 + i64::try_from(batch).unwrap());
        Ok(())
    });
    let job = Job::new(&place).format("probe").out(None).files_per_trigger(2);
    job.run(&session).await.unwrap();
    let sizes: Vec<usize> = probe.batches().values().map(Vec::len).collect();
    assert_eq!(sizes, [2, 2, 1]);
    assert_eq!(ids_of(&probe), [0, 1, 2, 3, 4]);

    job.run(&session).await.unwrap();
    assert_eq!(ids_of(&probe), [0, 1, 2, 3, 4, 100, 101, 102]);
}

fn ids_of(probe: &Probe) -> Vec<i64> {
    crate::support::harness::ids(probe.batches().into_values().flatten().collect())
}

#[tokio::test]
async fn available_now_runs_an_interrupted_batch_first_and_as_it_was() {
    let place = place_of(3);
    let first = session();
    let probe = Probe::of(&first);
    probe.on_prepare(|batch| if batch == 1 { Err(Error::Invalid("no".into())) } else { Ok(()) });
    let job = Job::new(&place).format("probe").out(None).files_per_trigger(1);
    let error = job.run(&first).await.unwrap_err();
    assert_eq!(cause(&error).to_string(), "no");

    // Larger limits change nothing about the batch that was planned.
    let second = session();
    probe.on_prepare(|_| Ok(()));
    probe.register(&second);
    add_files(&place, 3..6);
    job.clone().files_per_trigger(10).run(&second).await.unwrap();
    let sizes: Vec<usize> = probe.batches().values().map(Vec::len).collect();
    assert_eq!(sizes, [1, 1, 4]);
    assert_eq!(ids_of(&probe), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn processing_time_is_aligned_to_the_epoch() {
    let place = place_of(4);
    let clock = Arc::new(ManualClock::new(479));
    let session =
        session_in(1, Environment { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..Environment::default() });
    let recorder = Recorder::of(&session);
    let job = Job::new(&place).files_per_trigger(1).trigger(Trigger::ProcessingTime(Duration::from_secs(2)));
    let query = job.start(&session).await.unwrap();
    query.process_all_available().await.unwrap();
    query.stop(StopMode::Finish).await.unwrap();
    assert_eq!(
        timestamps(&recorder),
        [
            "1970-01-01T00:00:00.479Z",
            "1970-01-01T00:00:02.000Z",
            "1970-01-01T00:00:04.000Z",
            "1970-01-01T00:00:06.000Z"
        ]
    );
}

/// Whichever way the machine's clock is set, and however far: the next trigger comes within an interval.
#[tokio::test]
async fn a_clock_that_is_set_stalls_no_trigger() {
    const HOUR_MS: i64 = 3_600_000;
    for jump_ms in [-HOUR_MS, HOUR_MS, -1, 1, -1_000 * HOUR_MS, i64::MIN, i64::MAX - 2 * HOUR_MS] {
        let place = place_of(6);
        let clock = Arc::new(ManualClock::new(HOUR_MS));
        let environment =
            Environment { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..Environment::default() };
        let session = session_in(1, environment);
        let probe = Probe::of(&session);
        let (set, moments) = (Arc::clone(&clock), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&moments);
        probe.on_prepare(move |batch| {
            seen.lock().unwrap().push(set.elapsed());
            // Once forth or back, and later the other way.
            match batch {
                1 => set.set(set.now_ms().saturating_add(jump_ms)),
                3 => set.set(HOUR_MS),
                _ => {}
            }
            Ok(())
        });
        let interval = Duration::from_secs(2);
        let job = Job::new(&place).format("probe").out(None).files_per_trigger(1);
        let query = job.trigger(Trigger::ProcessingTime(interval)).start(&session).await.unwrap();
        query.process_all_available().await.unwrap();
        query.stop(StopMode::Finish).await.unwrap();
        let moments = moments.lock().unwrap().clone();
        assert_eq!(moments.len(), 6);
        for pair in moments.windows(2) {
            assert!(pair[1] - pair[0] <= interval, "{jump_ms}: {moments:?}");
        }
    }
}

#[tokio::test]
async fn a_batch_that_overruns_is_followed_at_once_and_missed_ticks_are_not_made_up_for() {
    let place = place_of(4);
    let clock = Arc::new(ManualClock::new(0));
    let session =
        session_in(1, Environment { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..Environment::default() });
    let recorder = Recorder::of(&session);
    let probe = Probe::of(&session);
    probe.on_prepare(move |batch| {
        clock.advance(if batch == 1 { Duration::from_millis(5500) } else { Duration::ZERO });
        Ok(())
    });
    let job = Job::new(&place).format("probe").out(None).files_per_trigger(1);
    let query = job.trigger(Trigger::ProcessingTime(Duration::from_secs(2))).start(&session).await.unwrap();
    query.process_all_available().await.unwrap();
    query.stop(StopMode::Finish).await.unwrap();
    assert_eq!(
        timestamps(&recorder),
        [
            "1970-01-01T00:00:00.000Z",
            "1970-01-01T00:00:02.000Z",
            "1970-01-01T00:00:07.500Z",
            "1970-01-01T00:00:08.000Z"
        ]
    );
}

#[tokio::test]
async fn at_once_finds_files_that_come_while_it_runs() {
    let place = place_of(1);
    let session = session();
    let query = Job::new(&place).trigger(Trigger::AtOnce).start(&session).await.unwrap();
    for round in 1..4 {
        query.process_all_available().await.unwrap();
        assert_eq!(place.ids(), (0..round).collect::<Vec<_>>());
        add_files(&place, round..round + 1);
    }
    query.process_all_available().await.unwrap();
    assert_eq!(place.ids(), [0, 1, 2, 3]);
    assert!(query.is_active());
    query.stop(StopMode::Finish).await.unwrap();
    assert_eq!(query.status().message, "Stopped");
}

#[tokio::test]
async fn process_all_available_returns_when_the_query_ends() {
    let place = place_of(1);
    let session = session();
    let query = Job::new(&place).start(&session).await.unwrap();
    query.process_all_available().await.unwrap();
    query.await_termination().await.unwrap();
    query.process_all_available().await.unwrap();
    assert_eq!(place.ids(), [0]);
}

/// A probe whose batch 1 waits until a test lets it go; gives the gates "it has come" and "go".
fn gated(session: &Session) -> (Probe, Arc<AtomicU64>, std::sync::mpsc::Sender<()>) {
    let probe = Probe::of(session);
    let come = Arc::new(AtomicU64::new(0));
    let (go, wait) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let arrived = Arc::clone(&come);
    probe.on_prepare(move |batch| {
        arrived.store(batch, Ordering::SeqCst);
        if batch == 1 {
            // An error means that the test is over.
            let _ = wait.lock().unwrap().recv();
        }
        Ok(())
    });
    (probe, come, go)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn stop_finish_lets_the_batch_in_flight_commit_and_starts_no_other() {
    let place = place_of(5);
    let session = session();
    let (probe, come, go) = gated(&session);
    let job = Job::new(&place).format("probe").out(None).files_per_trigger(1).trigger(Trigger::AtOnce);
    let query = job.start(&session).await.unwrap();
    eventually(|| come.load(Ordering::SeqCst) == 1).await;
    let stopping = tokio::spawn({
        let query = query.clone();
        async move { query.stop(StopMode::Finish).await }
    });
    tokio::task::yield_now().await;
    assert!(query.is_active());
    go.send(()).unwrap();
    stopping.await.unwrap().unwrap();
    assert_eq!(ids_of(&probe), [0, 1]);
    assert_eq!(commits(&place.path("checkpoint")), [0, 1]);
}

#[tokio::test]
async fn stop_abandon_gives_the_batch_up_and_the_next_start_runs_it_again() {
    let place = place_of(3);
    let first = session();
    let probe = Probe::of(&first);
    // Its rows never get written, so there would be no end of it otherwise.
    probe.hold(Some(1));
    let job = Job::new(&place).format("probe").out(None).files_per_trigger(1).trigger(Trigger::AtOnce);
    let query = job.start(&first).await.unwrap();
    eventually(|| probe.is_held()).await;
    query.stop(StopMode::Abandon).await.unwrap();
    assert!(query.exception().is_none());
    assert_eq!(commits(&place.path("checkpoint")), [0]);
    assert_eq!(numbers(&place.path("checkpoint/offsets")), [0, 1]);

    let second = session();
    probe.hold(None);
    probe.register(&second);
    add_files(&place, 3..4);
    job.trigger(Trigger::AvailableNow).run(&second).await.unwrap();
    let sizes: Vec<usize> = probe.batches().values().map(Vec::len).collect();
    assert_eq!((sizes, ids_of(&probe)), (vec![1; 4], vec![0, 1, 2, 3]));
}

#[tokio::test]
async fn listeners_are_told_in_order() {
    let place = place_of(2);
    let session = session();
    let recorder = Recorder::of(&session);
    let removed = Arc::new(Recorder::default());
    let id =
        session.streams().add_listener(Arc::clone(&removed) as Arc<dyn tidemill::StreamingQueryListener>);
    session.streams().remove_listener(id);
    let job = Job::new(&place).files_per_trigger(1).name("told").trigger(Trigger::AtOnce);
    let query = job.start(&session).await.unwrap();
    assert!(matches!(recorder.events().first(), Some(Event::Started(_))), "told before start returns");
    query.process_all_available().await.unwrap();
    query.stop(StopMode::Finish).await.unwrap();
    eventually(|| matches!(recorder.events().last(), Some(Event::Terminated(_)))).await;

    let events = recorder.events();
    let kinds: Vec<&str> = events
        .iter()
        .map(|event| match event {
            Event::Started(_) => "started",
            Event::Progress(_) => "progress",
            Event::Idle(_) => "idle",
            Event::Terminated(_) => "terminated",
        })
        .collect();
    // Idle events are rare: one now, the next not before ten seconds are over.
    assert_eq!(kinds, ["started", "progress", "progress", "idle", "terminated"]);
    for event in &events {
        let (id, run_id) = match event {
            Event::Started(started) => {
                assert_eq!(started.name.as_deref(), Some("told"));
                (started.id, started.run_id)
            }
            Event::Progress(progress) => (progress.id, progress.run_id),
            Event::Idle(idle) => (idle.id, idle.run_id),
            Event::Terminated(terminated) => {
                assert!(terminated.exception.is_none());
                (terminated.id, terminated.run_id)
            }
        };
        assert_eq!((id, run_id), (query.id(), query.run_id()));
    }
    assert!(removed.events().is_empty());
}

#[tokio::test]
async fn a_listener_that_panics_harms_no_query() {
    #[derive(Debug)]
    struct Rude;
    impl tidemill::StreamingQueryListener for Rude {
        fn on_query_started(&self, _: &tidemill::QueryStarted) {
            panic!("rude");
        }
        fn on_query_progress(&self, _: &tidemill::StreamingQueryProgress) {
            panic!("rude");
        }
        fn on_query_idle(&self, _: &tidemill::QueryIdle) {
            panic!("rude");
        }
        fn on_query_terminated(&self, _: &tidemill::QueryTerminated) {
            panic!("rude");
        }
    }
    let place = place_of(1);
    let session = session();
    session.streams().add_listener(Arc::new(Rude));
    let recorder = Recorder::of(&session);
    let query = Job::new(&place).name("victim").run(&session).await.unwrap();
    assert_eq!((place.ids(), query.recent_progress().len()), (vec![0], 1));
    assert!(session.streams().active().is_empty());
    // The others are told as ever.
    let told = recorder.events();
    assert!(
        matches!(told.as_slice(), [Event::Started(_), Event::Progress(_), Event::Terminated(_)]),
        "{told:?}"
    );
    // The name and the checkpoint are free again.
    Job::new(&place).name("victim").run(&session).await.unwrap();
}

/// However many queries have ended, what is kept of them is whether one has failed, and how.
#[tokio::test]
async fn the_first_failure_since_the_last_reset_is_what_waiting_for_any_query_gives() {
    let session = session();
    let failing = Place::new();
    failing.put("in/0.json", "no json");
    let good = place_of(1);
    Job::new(&good).run(&session).await.unwrap();
    session.streams().await_any_termination().await.unwrap();
    let error = Job::new(&failing).run(&session).await.unwrap_err();
    Job::new(&good).run(&session).await.unwrap();
    let found = session.streams().await_any_termination().await.unwrap_err();
    assert_eq!(found.to_string(), error.to_string());
    session.streams().reset_terminated();
    let soon = Duration::from_millis(20);
    assert!(!session.streams().await_any_termination_timeout(soon).await.unwrap());
    Job::new(&good).run(&session).await.unwrap();
    session.streams().await_any_termination().await.unwrap();
}
