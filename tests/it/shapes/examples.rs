//! The simplest of what once lost rows, each with the rows that it has to give.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::DataType;
use tidemill::Error;
use tidemill::prelude::*;

use super::run::{Outcome, Setting, run};
use crate::support::harness::{Input, Job, Place, Recorder, cause, id_lines, schema, session};
use crate::support::probe::Probe;

async fn given(sql: &str, table: usize, mode: OutputMode) -> Outcome {
    let setting = Setting { state_partitions: 4, restarts: false, ..Setting::plain() };
    run(sql, table, mode, setting).await.unwrap().unwrap_or_else(|| panic!("{sql} is refused"))
}

#[tokio::test]
async fn a_limit_keeps_no_row_from_the_state_below_it() {
    let sql = "SELECT k, count(*) FROM s GROUP BY k LIMIT 1";
    let found = given(sql, 0, OutputMode::Complete).await;
    assert!(found.last.iter().all(|rows| rows.len() == 1));
    assert_eq!(
        found.state[3][0],
        ["a 3 null", "b 2 null", "c 1 null", "d 1 null", "e 2 null", "null 2 null"]
    );
}

#[tokio::test]
async fn a_table_that_is_empty_in_one_batch_keeps_no_row_from_the_state_below_the_join() {
    let sql = "SELECT c.k, c.n FROM (SELECT k, count(*) AS n FROM s GROUP BY k) c JOIN t ON c.k = t.k";
    // The table is empty in the first step, has only null keys in the third, and b and c in the last.
    let found = given(sql, 4, OutputMode::Update).await;
    assert_eq!(found.rows, [vec![], vec!["a 3".to_string(), "a 3".into()], vec![], vec!["b 2".into()]]);
}

#[tokio::test]
async fn a_filter_on_the_time_is_applied_to_the_whole_result_in_every_batch() {
    let found =
        given("SELECT ts, count(*) FROM s GROUP BY ts HAVING ts <= now()", 0, OutputMode::Complete).await;
    let lengths: Vec<usize> = found.last.iter().map(Vec::len).collect();
    // The rows of the first step are of 1, 3, 4 and 6 seconds, and it is 3, 70 and 65 in the batches; the
    // third step has no rows for it, and thus no batch.
    assert_eq!(lengths, [2, 7, 7, 9]);
}

#[tokio::test]
async fn what_no_group_may_pass_no_row_of_a_global_aggregation_passes() {
    let sql = "SELECT count(*) AS n FROM s HAVING now() < TIMESTAMP '2024-01-01T00:00:30'";
    let found = given(sql, 0, OutputMode::Complete).await;
    assert_eq!(found.last, [vec!["4".to_string()], vec![], vec![], vec![]]);
}

/// The first row of each key is chosen before a filter on a column of the same name, of another table.
#[tokio::test]
async fn a_filter_above_distinct_on_hides_no_first_row() {
    let place = Place::new();
    place.put("in/0.json", "{\"id\":1,\"j\":7}\n");
    let session = session();
    let ints = |values: [i64; 2]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
    let table = RecordBatch::try_from_iter([("id", ints([3, 9])), ("j", ints([7, 7]))]).unwrap();
    session.context().register_batch("t", table).unwrap();
    let probe = Probe::of(&session);
    let columns = schema(&[("id", DataType::Int64), ("j", DataType::Int64)]);
    let job = Job::new(&place).inputs([Input::new("s", "json", place.text("in")).schema(columns)]);
    let job = job.format("probe").out(None).sql(
        "SELECT * FROM (SELECT DISTINCT ON (s.id) s.id AS sid, t.id AS tid FROM s JOIN t ON s.j = t.j) WHERE tid > 5",
    );
    job.run(&session).await.unwrap();
    assert_eq!(probe.rows(0), []);
}

/// What a source finds wrong is known as what it is, however many operators the error comes through.
#[tokio::test]
async fn a_malformed_record_is_the_same_error_whatever_is_above_it() {
    let groups = "SELECT id, count(*) AS n FROM input GROUP BY id";
    for sql in [
        "SELECT id FROM input".to_string(),
        groups.into(),
        format!("SELECT a.id FROM ({groups}) a JOIN ({groups}) b ON a.id = b.id"),
        "SELECT input.id, count(*) FROM input JOIN (VALUES (1)) t(id) ON input.id = t.id GROUP BY input.id"
            .into(),
        "SELECT id, count(*) FROM input WHERE id NOT IN (SELECT * FROM (VALUES (1))) GROUP BY id".into(),
    ] {
        let place = Place::new();
        place.put("in/0.json", "{\"id\":1}\n{\"id\":\"x\"}\n");
        let mut job = Job::new(&place).sql(&sql).format("noop").out(None);
        if sql.contains("count") {
            job = job.mode(OutputMode::Complete);
        }
        job.inputs[0] = job.inputs[0].clone().option("mode", "FAILFAST");
        let error = job.run(&session()).await.unwrap_err();
        assert!(matches!(cause(&error), Error::BadRecord { line: 2, .. }), "{sql}: {error}");
    }
}

/// Rows that nobody wants are read and counted all the same, and the operators report.
#[tokio::test]
async fn what_is_left_unread_is_in_the_progress() {
    let place = Place::new();
    (0..3).for_each(|file| place.put(&format!("in/{file}.json"), id_lines([file, file + 10])));
    let session = session();
    session.context().sql("CREATE TABLE t (id BIGINT)").await.unwrap();
    let recorder = Recorder::of(&session);
    let groups = "SELECT id, count(*) AS n FROM input GROUP BY id";
    for sql in [
        format!("SELECT g.id FROM ({groups}) g JOIN t ON g.id = t.id"),
        "SELECT g.id, count(*) FROM input g JOIN t ON g.id = t.id GROUP BY g.id".into(),
        format!("SELECT id FROM ({groups}) WHERE id IN (SELECT id FROM t)"),
    ] {
        let job = Job::new(&place).sql(&sql).format("noop").out(None).mode(OutputMode::Update);
        let name = format!("checkpoint{}", recorder.progress().len());
        let job = job.files_per_trigger(1).option("checkpointLocation", place.text(&name));
        job.run(&session).await.unwrap();
        let progress = recorder.progress();
        for batch in &progress[progress.len() - 3..] {
            assert_eq!((batch.num_input_rows, batch.state_operators.len()), (2, 1), "{sql}");
        }
    }
}
