//! The file sink and crashes: between any two steps, and around them.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tidemill::Error;
use tidemill::checkpoint::same_place;
use tidemill::sink::{OutputFormat, Sink, SinkBatch};
use uuid::Uuid;

use super::storage::{Crash, TestStorage};
use super::{Output, QUERY, batch, files, people, stage, visible, visible_ids, write};

const BATCHES: u64 = 2;

fn output() -> Output {
    Output::new(OutputFormat::Json, people(0..1).schema())
        .partition_by(&["name"])
        .option("maxRecordsPerFile", "2")
}

/// Several files in several directories, from two writers.
fn rows_of(batch_id: u64) -> std::ops::Range<i64> {
    let start = batch_id as i64 * 100;
    start..start + 7
}

/// What the engine remembers of committed batches.
#[derive(Default)]
struct Commits(Vec<Value>);

impl Commits {
    fn last(&self) -> Option<(u64, &Value)> {
        self.0.last().map(|prepared| (self.0.len() as u64 - 1, prepared))
    }

    fn rows(&self) -> Vec<i64> {
        (0..self.0.len() as u64).flat_map(rows_of).collect()
    }
}

/// A run of the query: recovers, then runs the batches that are left, until it is done or dies. After
/// its first batch, what earlier runs staged for that one can go too.
async fn run(sink: &dyn Sink, run_id: u128, commits: &mut Commits) -> Result<(), Error> {
    sink.recover(QUERY, commits.last()).await?;
    let first = commits.0.len() as u64;
    while (commits.0.len() as u64) < BATCHES {
        let batch = SinkBatch { run_id: Uuid::from_u128(run_id), ..batch(commits.0.len() as u64) };
        let rows = rows_of(batch.batch_id);
        let middle = rows.start + 4;
        let partitions = vec![
            vec![people(rows.start..middle), people(rows.start..rows.start)],
            vec![people(middle..rows.end)],
        ];
        commits.0.push(stage(sink, batch, partitions).await?);
        sink.publish(batch.batch_id, &commits.0[batch.batch_id as usize]).await?;
        if batch.batch_id == first {
            sink.recover(QUERY, commits.last()).await?;
        }
    }
    sink.close().await
}

/// After recovery, only rows of batches that may yet be committed are staged.
fn assert_only_later_batches_staged(root: &Path, commits: &Commits) {
    for name in visible(root, ".tmp") {
        let batch: u64 = name.split('-').nth(2).unwrap().parse().unwrap();
        assert!(batch >= commits.0.len() as u64, "{name} is left of {} committed batches", commits.0.len());
    }
}

/// The ids that readers see, whatever happened so far, must be committed, each once.
fn assert_only_committed(root: &Path, commits: &Commits) {
    let seen = visible_ids(root);
    let committed = commits.rows();
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "rows twice: {seen:?}");
    assert!(seen.iter().all(|id| committed.contains(id)), "{seen:?} shows more than {committed:?}");
}

#[tokio::test]
async fn a_crash_at_any_step_neither_loses_nor_repeats_rows() {
    let whole = tempfile::tempdir().unwrap();
    let storage = Arc::new(TestStorage::new(whole.path()));
    let sink = output().sink_on(storage.clone()).unwrap();
    run(&sink, 1, &mut Commits::default()).await.unwrap();
    let steps = storage.steps();
    assert!(steps > 50, "{steps}");

    for crash in (0..steps).flat_map(|step| [Crash::Before(step), Crash::After(step)]) {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let mut commits = Commits::default();
        let broken = output().sink_on(Arc::new(TestStorage::crashing(root, crash))).unwrap();
        assert!(run(&broken, 1, &mut commits).await.is_err(), "{crash:?}");
        assert_only_committed(root, &commits);

        let sink = output().sink(root);
        sink.recover(QUERY, commits.last()).await.unwrap();
        assert_eq!(visible_ids(root), commits.rows(), "{crash:?}");
        assert_only_later_batches_staged(root, &commits);

        run(&sink, 2, &mut commits).await.unwrap();
        assert_eq!(visible_ids(root), commits.rows(), "{crash:?}");
        assert_eq!(files(root).len(), files(whole.path()).len(), "{crash:?}");
        assert!(!root.join(".tidemill").exists(), "{crash:?}");
    }
}

#[tokio::test]
async fn a_crash_during_recovery_is_recovered_from() {
    for step in 0.. {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let mut commits = Commits::default();
        // Batch 0 is committed but not published, and batch 1 is half written.
        let sink = output().sink(root);
        commits.0.push(stage(&sink, batch(0), vec![vec![people(rows_of(0))]]).await.unwrap());
        stage(&sink, batch(1), vec![vec![people(rows_of(1))]]).await.unwrap();
        let broken = output().sink_on(Arc::new(TestStorage::crashing(root, Crash::After(step)))).unwrap();
        let done = broken.recover(QUERY, commits.last()).await.is_ok();
        assert_only_committed(root, &commits);
        sink.recover(QUERY, commits.last()).await.unwrap();
        assert_eq!(visible_ids(root), commits.rows());
        assert_only_later_batches_staged(root, &commits);
        assert_eq!(visible(root, ".tmp").len(), 6, "another run may be about to commit batch 1");
        if done {
            assert!(step > 5, "{step}");
            break;
        }
    }
}

#[tokio::test]
async fn nothing_is_visible_before_publish_and_publish_can_be_repeated() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let sink = output().sink(root);
    let mut writer = sink.writer(batch(0), 0).await.unwrap();
    writer.write(people(0..4)).await.unwrap();
    assert_eq!(visible_ids(root), [0; 0]);
    let report = writer.close().await.unwrap();
    let prepared = sink.prepare(batch(0), vec![report]).await.unwrap();
    assert_eq!(visible_ids(root), [0; 0]);
    assert!(files(root).iter().all(|path| path.starts_with(".tidemill/") && path.ends_with(".tmp")));

    for _ in 0..2 {
        sink.publish(0, &prepared).await.unwrap();
        assert_eq!(visible_ids(root), [0, 1, 2, 3]);
    }
    sink.recover(QUERY, Some((0, &prepared))).await.unwrap();
    assert_eq!(visible_ids(root), [0, 1, 2, 3]);
}

#[tokio::test]
async fn output_that_was_moved_away_does_not_stop_the_query() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let sink = output().sink(root);
    let prepared = write(&sink, batch(0), vec![vec![people(0..4)]]).await;
    for path in visible(root, ".json") {
        std::fs::remove_file(root.join(path)).unwrap();
    }
    sink.recover(QUERY, Some((0, &prepared))).await.unwrap();
    assert_eq!(visible_ids(root), [0; 0]);
}

#[tokio::test]
async fn a_moved_directory_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let (old, new) = (root.path().join("old"), root.path().join("new"));
    let prepared = stage(&output().sink(&old), batch(0), vec![vec![people(0..4)]]).await.unwrap();
    std::fs::rename(&old, &new).unwrap();
    output().sink(&new).recover(QUERY, Some((0, &prepared))).await.unwrap();
    assert_eq!(visible_ids(&new), [0, 1, 2, 3]);
}

#[test]
fn the_definition_says_what_a_restart_must_find() {
    let root = tempfile::tempdir().unwrap();
    let definition = |base: &Path| {
        let sink = output().sink(&base.join("data/out"));
        let checkpoint = TestStorage::new(&base.join("checkpoint"));
        sink.definition(&checkpoint)
    };
    let here = definition(&root.path().join("here"));
    let location = here.location.clone().unwrap();
    assert_eq!(location.path, "../data/out");
    assert_eq!(
        (here.format.as_str(), here.partition_by.as_slice()),
        ("json", ["name".to_string()].as_slice())
    );
    let columns: Vec<_> =
        here.columns.iter().map(|column| (column.name.as_str(), column.data_type.to_string())).collect();
    assert_eq!(columns, [("id", "Int64".to_string()), ("name", "Utf8".to_string())]);
    let there = definition(&root.path().join("there"));
    assert!(same_place(&location, &there.location.unwrap()));
}

#[tokio::test]
async fn abort_removes_what_the_batch_staged_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let sink = output().sink(root);
    let kept = stage(&sink, batch(1), vec![vec![people(0..4)]]).await.unwrap();
    stage(&sink, batch(12), vec![vec![people(4..8)]]).await.unwrap();
    let mut open = sink.writer(batch(12), 1).await.unwrap();
    open.write(people(8..12)).await.unwrap();
    drop(open);
    sink.abort(batch(12)).await.unwrap();
    sink.publish(1, &kept).await.unwrap();
    assert_eq!(visible_ids(root), [0, 1, 2, 3]);
    sink.close().await.unwrap();
    assert!(!root.join(".tidemill").exists());
}

#[tokio::test]
async fn two_queries_in_one_directory_leave_each_other_alone() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let other = |batch_id| SinkBatch { query_id: Uuid::from_u128(0xbbbb_0002), ..batch(batch_id) };
    let (first, second) = (output().sink(root), output().sink(root));
    let mine = stage(&first, batch(0), vec![vec![people(0..4)]]).await.unwrap();
    let theirs = stage(&second, other(0), vec![vec![people(4..8)]]).await.unwrap();
    first.recover(QUERY, Some((0, &mine))).await.unwrap();
    assert_eq!(visible_ids(root), [0, 1, 2, 3]);
    first.abort(batch(1)).await.unwrap();
    first.close().await.unwrap();
    second.publish(0, &theirs).await.unwrap();
    assert_eq!(visible_ids(root), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn a_full_disk_is_an_error_with_the_path_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let sink = output().sink_on(Arc::new(TestStorage::with_room(root, 100))).unwrap();
    let error = stage(&sink, batch(0), vec![vec![people(0..50)]]).await.unwrap_err();
    assert!(matches!(&error, Error::Storage { path, .. } if path.starts_with(".tidemill/")), "{error}");
    sink.abort(batch(0)).await.unwrap();
    assert_eq!(files(root), [""; 0]);
}

#[tokio::test]
async fn a_damaged_commit_record_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let sink = output().sink(root.path());
    let mut prepared = stage(&sink, batch(0), vec![vec![people(0..1)]]).await.unwrap();
    prepared["files"][0]["to"] = "../stolen.json".into();
    let error = sink.publish(0, &prepared).await.unwrap_err();
    assert!(matches!(error, Error::CheckpointDamaged { .. }), "{error}");
    assert!(sink.recover(QUERY, Some((0, &prepared))).await.is_err());
    assert_eq!(visible(root.path(), ".tmp").len(), 1);
}
