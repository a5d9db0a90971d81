//! Handles, the manager of a session's queries, progress reports, and formats of one's own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::TableType;
use datafusion::physical_plan::ExecutionPlan;
use serde_json::{Value, json};
use tidemill::id::IdGenerator;
use tidemill::prelude::*;
use tidemill::{Environment, Error, StreamingQueryProgress};
use uuid::Uuid;

use crate::support::committed::commits;
use crate::support::harness::{
    Input, Job, Place, Recorder, cause, eventually, id_lines, schema, session, session_in,
};
use crate::support::oracle;
use crate::support::probe::Probe;

fn place_of(files: i64) -> Place {
    let place = Place::new();
    (0..files).for_each(|id| place.put(&format!("in/{id}.json"), id_lines([id])));
    place
}

#[tokio::test]
async fn names_are_unique_among_active_queries() {
    let (one, two) = (place_of(1), place_of(1));
    let session = session();
    let running = Job::new(&one).name("etl").trigger(Trigger::AtOnce).start(&session).await.unwrap();
    let error = Job::new(&two).name("etl").start(&session).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "a streaming query named 'etl' is active in this session already. Stop it first, or give this one \
         another name"
    );
    assert_eq!(session.streams().get_by_name("etl").map(|query| query.id()), Some(running.id()));
    running.stop(StopMode::Finish).await.unwrap();
    assert!(session.streams().get_by_name("etl").is_none());
    Job::new(&two).name("etl").run(&session).await.unwrap();
}

#[tokio::test]
async fn a_checkpoint_serves_one_query_at_a_time() {
    let place = place_of(1);
    let session = session();
    let running = Job::new(&place).trigger(Trigger::AtOnce).start(&session).await.unwrap();
    let error = Job::new(&place).start(&crate::support::harness::session()).await.unwrap_err();
    assert!(matches!(error, Error::ConcurrentQuery { .. }), "{error:?}");
    assert!(error.to_string().contains("a query of this process uses it"), "{error}");
    running.process_all_available().await.unwrap();
    running.stop(StopMode::Finish).await.unwrap();
    // Free as soon as the stop returns.
    Job::new(&place).run(&session).await.unwrap();
    assert_eq!(place.ids(), [0]);
}

#[tokio::test]
async fn a_start_that_fails_leaves_the_checkpoint_and_the_name_free() {
    let place = place_of(1);
    let session = session();
    let job = Job::new(&place).name("etl");
    for wrong in [
        job.clone().sql("SELECT count(*) FROM input"),
        job.clone().option("compresion", "zstd"),
        job.clone().format("excel"),
        job.clone().mode(OutputMode::Complete),
    ] {
        wrong.start(&session).await.unwrap_err();
    }
    assert!(session.streams().active().is_empty());
    assert!(!place.path("checkpoint").exists(), "a query that was refused left a checkpoint");
    job.run(&session).await.unwrap();
    assert_eq!(place.ids(), [0]);
}

#[tokio::test]
async fn ids_survive_restarts_and_run_ids_do_not() {
    let place = place_of(1);
    let session = session();
    let first = Job::new(&place).run(&session).await.unwrap();
    let second = Job::new(&place).run(&session).await.unwrap();
    assert_eq!(first.id(), second.id());
    assert_ne!(first.run_id(), second.run_id());
    assert!(session.streams().get(first.id()).is_none());
}

#[tokio::test]
async fn dropping_handles_does_not_stop_a_query_and_dropping_the_session_does() {
    let place = place_of(1);
    let session = session();
    let recorder = Recorder::of(&session);
    drop(Job::new(&place).trigger(Trigger::AtOnce).start(&session).await.unwrap());
    eventually(|| recorder.progress().len() == 1).await;
    place.put("in/1.json", id_lines([1]));
    eventually(|| recorder.progress().len() == 2).await;
    let handle = session.streams().active().remove(0);
    drop(session);
    handle.await_termination().await.unwrap();
    assert!(!handle.is_active());
    assert_eq!(place.ids(), [0, 1]);
}

#[tokio::test]
async fn a_frame_without_a_living_session_is_refused() {
    let place = place_of(1);
    let session = session();
    let frame = Job::new(&place).frame(&session).await.unwrap();
    drop(session);
    let error = frame.write_stream().format("noop").start(None).await.unwrap_err();
    assert!(error.to_string().contains("does not belong to a living tidemill Session"), "{error}");
}

#[tokio::test]
async fn any_termination_is_that_of_the_first_query_to_end() {
    let (quick, slow, bad) = (place_of(1), place_of(1), Place::new());
    bad.put("in/x.json", "{\"id\":\"none\"}\n");
    let session = session();
    let streams = session.streams().clone();
    assert!(!streams.await_any_termination_timeout(Duration::from_millis(5)).await.unwrap());
    let running = Job::new(&slow).trigger(Trigger::AtOnce).start(&session).await.unwrap();
    Job::new(&quick).start(&session).await.unwrap();
    streams.await_any_termination().await.unwrap();
    // It stays ended until it is forgotten.
    streams.await_any_termination().await.unwrap();
    streams.reset_terminated();
    assert!(!streams.await_any_termination_timeout(Duration::from_millis(5)).await.unwrap());

    let failing = Job::new(&bad).name("bad").start(&session).await.unwrap();
    let error = streams.await_any_termination().await.unwrap_err();
    assert!(matches!(&error, Error::StreamFailed(exception) if exception.id == failing.id()), "{error}");
    assert!(running.is_active());
    running.stop(StopMode::Finish).await.unwrap();
    streams.await_all_termination().await.unwrap();
}

#[tokio::test]
async fn all_termination_waits_for_every_query_and_fails_with_the_first_error() {
    let (one, two, bad) = (place_of(3), place_of(1), Place::new());
    bad.put("in/x.json", "{\"id\":\"none\"}\n");
    let session = session();
    Job::new(&one).files_per_trigger(1).start(&session).await.unwrap();
    Job::new(&two).start(&session).await.unwrap();
    session.streams().await_all_termination().await.unwrap();
    assert_eq!((one.ids(), two.ids()), (vec![0, 1, 2], vec![0]));

    let running = Job::new(&one).trigger(Trigger::AtOnce).start(&session).await.unwrap();
    Job::new(&bad).start(&session).await.unwrap();
    session.streams().await_all_termination().await.unwrap_err();
    running.stop(StopMode::Finish).await.unwrap();
}

#[tokio::test]
async fn an_exception_says_which_query_batch_and_record() {
    let place = place_of(1);
    let session = session();
    let job = Job::new(&place).files_per_trigger(1).name("etl");
    place.put("in/9.json", "{\"id\":7}\n{\"id\":\"seven\"}\n");
    let query = job.start(&session).await.unwrap();
    let error = query.await_termination().await.unwrap_err();
    let exception = query.exception().unwrap();
    assert_eq!((exception.id, exception.run_id), (query.id(), query.run_id()));
    assert_eq!((exception.name.as_deref(), exception.batch_id), (Some("etl"), Some(1)));
    let Error::BadRecord { file, line, .. } = cause(&error) else { panic!("{error:?}") };
    assert!(file.ends_with("in/9.json"), "{file}");
    assert_eq!(*line, 2);
    assert!(error.to_string().starts_with("streaming query 'etl' (id "), "{error}");
    assert!(query.status().message.starts_with("Terminated with exception: malformed record"));
    assert!(query.stop(StopMode::Finish).await.is_err());
    assert!(!query.is_active());
    assert_eq!(place.ids(), [0]);
    assert_eq!(commits(&place.path("checkpoint")), [0]);
}

#[tokio::test]
async fn the_progress_tells_what_the_batch_did() {
    let place = place_of(3);
    let session = session();
    let recorder = Recorder::of(&session);
    let job = Job::new(&place).files_per_trigger(2).sql("SELECT id FROM input WHERE id <> 1").name("etl");
    let query = job.run(&session).await.unwrap();
    assert_eq!(recorder.progress(), query.recent_progress());
    let reports: Vec<Value> = query
        .recent_progress()
        .iter()
        .map(|report| serde_json::from_str(&report.to_json()).unwrap())
        .collect();
    assert_eq!(reports.len(), 2);
    let first = &reports[0];
    assert_eq!(first["id"], json!(query.id()));
    assert_eq!(first["runId"], json!(query.run_id()));
    assert_eq!(
        (&first["name"], &first["batchId"], &first["numInputRows"]),
        (&json!("etl"), &json!(0), &json!(2))
    );
    assert!(first.get("inputRowsPerSecond").is_none() && reports[1]["inputRowsPerSecond"].is_number());
    let source = &first["sources"][0];
    assert_eq!((&source["startOffset"], &source["numInputRows"]), (&Value::Null, &json!(2)));
    assert_eq!(source["endOffset"], reports[1]["sources"][0]["startOffset"]);
    assert!(source["description"].as_str().unwrap().starts_with("FileSource["), "{source}");
    assert_eq!(first["sink"]["numOutputRows"], json!(1));
    assert!(first["sink"]["description"].as_str().unwrap().starts_with("FileSink["));
    let phases: Vec<&String> = first["durationMs"].as_object().unwrap().keys().collect();
    let expected = [
        "addBatch",
        "commitOffsets",
        "latestOffset",
        "publish",
        "queryPlanning",
        "triggerExecution",
        "walCommit",
    ];
    assert_eq!(phases, expected);
}

#[tokio::test]
async fn malformed_records_that_are_dropped_are_counted() {
    let place = Place::new();
    place.put("in/0.json", "{\"id\":1}\n{\"id\":\n{\"id\":\"x\"}\n{\"id\":2}\n");
    let session = session();
    let mut job = Job::new(&place);
    job.inputs[0].options.push(("mode".into(), "DROPMALFORMED".into()));
    let query = job.run(&session).await.unwrap();
    assert_eq!(place.ids(), [1, 2]);
    let progress = query.last_progress().unwrap();
    assert_eq!(progress.sources[0].metrics.get("numMalformedRows").map(String::as_str), Some("2"));
    assert_eq!(progress.sink.num_output_rows, 2);
}

#[tokio::test]
async fn only_the_newest_hundred_reports_are_kept() {
    let place = place_of(103);
    let session = session();
    Probe::of(&session);
    let query = Job::new(&place).format("probe").out(None).files_per_trigger(1).run(&session).await.unwrap();
    let batches: Vec<u64> = query.recent_progress().iter().map(|report| report.batch_id).collect();
    assert_eq!(batches, (3..103).collect::<Vec<_>>());
    let last = |report: Option<StreamingQueryProgress>| report.unwrap().batch_id;
    assert_eq!(last(query.last_progress()), 102);
}

#[tokio::test]
async fn await_termination_can_be_given_up() {
    let place = place_of(1);
    let session = session();
    let query = Job::new(&place).trigger(Trigger::AtOnce).start(&session).await.unwrap();
    assert!(!query.await_termination_timeout(Duration::from_millis(5)).await.unwrap());
    query.stop(StopMode::Finish).await.unwrap();
    assert!(query.await_termination_timeout(Duration::from_secs(60)).await.unwrap());
}

#[tokio::test]
async fn the_memory_sink_is_a_table_under_the_name_of_the_query() {
    let place = place_of(4);
    let session = session();
    let mut job = Job::new(&place).format("memory").out(None).name("results").files_per_trigger(3);
    job.options.clear();
    job.run(&session).await.unwrap();
    let rows =
        session.context().sql("SELECT id FROM results ORDER BY id").await.unwrap().collect().await.unwrap();
    let rows = rows.iter().flat_map(crate::support::oracle::rows_of).collect();
    assert_eq!(crate::support::harness::ids(rows), [0, 1, 2, 3]);
}

#[tokio::test]
async fn explain_shows_the_plan_of_a_query_that_is_not_started() {
    let place = place_of(1);
    let session = session();
    let input = Input::new("input", "json", place.text("in"))
        .schema(schema(&[("id", DataType::Int64), ("unused", DataType::Utf8)]));
    let job = Job::new(&place).inputs([input]).sql("SELECT id FROM input WHERE id > 3");
    let text =
        job.frame(&session).await.unwrap().write_stream().explain(place.text("out").as_str()).await.unwrap();
    assert!(text.contains("StreamScanExec: source=FileSource[") && text.contains("columns=[id]"), "{text}");
    assert!(!place.path("checkpoint").exists());
    let query = job.start(&session).await.unwrap();
    assert!(query.explain().contains("sink=FileSink["), "{}", query.explain());
    query.await_termination().await.unwrap();
}

#[tokio::test]
async fn a_batch_query_over_a_stream_is_refused_with_advice() {
    let place = place_of(1);
    let session = session();
    let frame = Job::new(&place).frame(&session).await.unwrap();
    let error = Error::from(frame.collect().await.unwrap_err());
    assert!(matches!(error, Error::UnsupportedQuery { .. }), "{error:?}");
    assert!(error.to_string().contains("its rows never end"), "{error}");
}

/// A bounded table that is gone when it is to be read.
#[derive(Debug)]
struct Vanished;

#[async_trait]
impl TableProvider for Vanished {
    fn schema(&self) -> SchemaRef {
        schema(&[("id", DataType::Int64)])
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn datafusion::catalog::Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::Execution("it has vanished".into()))
    }
}

/// Remembers the ids that it has given.
#[derive(Debug, Default)]
struct Ids(Mutex<Vec<Uuid>>);

impl IdGenerator for Ids {
    fn next_id(&self) -> Uuid {
        let id = Uuid::new_v4();
        self.0.lock().unwrap().push(id);
        id
    }
}

#[tokio::test]
async fn temporary_checkpoints_are_removed_however_a_query_ends() {
    let place = place_of(1);
    let ids = Arc::new(Ids::default());
    let session = session_in(
        1,
        Environment { ids: Arc::clone(&ids) as Arc<dyn IdGenerator>, ..Environment::default() },
    );
    session.context().register_table("vanished", Arc::new(Vanished)).unwrap();
    let mut job = Job::new(&place).format("noop").out(None);
    job.options.clear();
    job.run(&session).await.unwrap();
    let error = job
        .clone()
        .sql("SELECT input.id FROM input JOIN vanished ON input.id = vanished.id")
        .start(&session)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("it has vanished"), "{error}");
    place.put("in/1.json", "no JSON");
    job.run(&session).await.unwrap_err();

    let ids = ids.0.lock().unwrap().clone();
    assert!(ids.len() >= 5, "a run id each, and query ids: {ids:?}");
    for id in ids {
        assert!(!std::env::temp_dir().join(format!("tidemill-{id}")).exists(), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_fails_leaves_nothing_staged() {
    let place = Place::new();
    for file in 0..6 {
        place.put(&format!("in/{file}.json"), id_lines((0..20_000).map(|row| file * 100_000 + row)));
    }
    let bad = format!("{}{{\"id\":true}}\n", id_lines(0..10_000));
    place.put("in/9.json", bad);
    let error = Job::new(&place).run(&session_in(4, Environment::default())).await.unwrap_err();
    assert!(matches!(cause(&error), Error::BadRecord { line: 10_001, .. }), "{error}");
    assert_eq!(oracle::walk(&place.path("out")), Vec::<String>::new());
}
