//! Streams joined with bounded tables, which may change between batches: each batch sees them as
//! they are when it runs.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::DataType;
use datafusion::parquet::arrow::ArrowWriter;
use serde_json::json;
use tidemill::prelude::*;

use crate::support::harness::{Input, Job, Place, cause, put, schema, session};
use crate::support::oracle::{self, Row};
use crate::support::probe::Probe;

/// A Parquet file with the columns `k` and `v`.
fn parquet(rows: &[(i64, i64)]) -> Vec<u8> {
    let column = |pick: fn(&(i64, i64)) -> i64| {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(pick))) as ArrayRef
    };
    let batch = RecordBatch::try_from_iter([("k", column(|row| row.0)), ("v", column(|row| row.1))]).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn row(cells: &[(&str, i64)]) -> Row {
    cells.iter().map(|(name, value)| ((*name).to_string(), json!(value))).collect()
}

/// A stream `s(k, v)` of the given files, one per batch, and a bounded table `t(k, v)` in `static/`.
struct Setup {
    place: Place,
    session: Session,
    probe: Probe,
}

impl Setup {
    async fn new(stream: &[&[(i64, i64)]], table: &[(i64, i64)]) -> Self {
        let place = Place::new();
        for (index, rows) in stream.iter().enumerate() {
            place.put(&format!("in/{index}.parquet"), parquet(rows));
        }
        place.put("static/0.parquet", parquet(table));
        let session = session();
        let path = place.text("static");
        session.context().register_parquet("t", path, ParquetReadOptions::default()).await.unwrap();
        let probe = Probe::of(&session);
        Self { place, session, probe }
    }

    /// Changes files of the bounded table after each batch.
    fn after_batch(&self, change: impl Fn(u64, PathBuf) + Send + Sync + 'static) {
        let directory = self.place.path("static");
        self.probe.on_prepare(move |batch| {
            change(batch, directory.clone());
            Ok(())
        });
    }

    fn job(&self, sql: &str) -> Job {
        let columns = schema(&[("k", DataType::Int64), ("v", DataType::Int64)]);
        let input =
            Input::new("s", "parquet", self.place.text("in")).schema(columns).option("maxFilesPerTrigger", 1);
        Job::new(&self.place).inputs([input]).sql(sql).format("probe").out(None)
    }

    /// Runs the query, and compares what each batch gave.
    async fn check(&self, sql: &str, expected: &[Vec<Row>]) {
        self.job(sql).run(&self.session).await.unwrap();
        let batches = self.probe.batches();
        assert_eq!(batches.len(), expected.len(), "{sql}");
        for ((batch, found), expected) in batches.into_iter().zip(expected) {
            oracle::assert_same(found, expected.clone(), &format!("batch {batch} of {sql}"));
        }
    }
}

const INNER: &str = "SELECT s.k, s.v, t.v AS w FROM s JOIN t ON s.k = t.k";

#[tokio::test]
async fn every_batch_sees_the_table_as_it_is_then() {
    // The build side of the first batch, or a filter made of it, would lose the second batch's row.
    let setup = Setup::new(&[&[(1, 10)], &[(3, 30)], &[(1, 11), (3, 31)]], &[(1, 100)]).await;
    setup.after_batch(|batch, directory| match batch {
        0 => put(&directory.join("0.parquet"), parquet(&[(3, 300), (4, 400)])),
        _ => put(&directory.join("1.parquet"), parquet(&[(1, 101), (1, 102)])),
    });
    let joined = |k, v, w| row(&[("k", k), ("v", v), ("w", w)]);
    setup
        .check(
            INNER,
            &[
                vec![joined(1, 10, 100)],
                vec![joined(3, 30, 300)],
                vec![joined(1, 11, 101), joined(1, 11, 102), joined(3, 31, 300)],
            ],
        )
        .await;
}

#[tokio::test]
async fn a_table_may_lose_files_between_batches() {
    let setup = Setup::new(&[&[(1, 10)], &[(1, 11)]], &[(1, 100)]).await;
    setup.place.put("static/1.parquet", parquet(&[(1, 101)]));
    setup.after_batch(|_, directory| {
        let _ = std::fs::remove_file(directory.join("0.parquet"));
    });
    let joined = |v, w| row(&[("k", 1), ("v", v), ("w", w)]);
    setup.check(INNER, &[vec![joined(10, 100), joined(10, 101)], vec![joined(11, 101)]]).await;
}

#[tokio::test]
async fn numbers_about_a_table_are_those_of_the_moment() {
    // Answered from the statistics of the files when planned once.
    let setup = Setup::new(&[&[(1, 10)], &[(2, 20)]], &[(1, 100), (2, 200)]).await;
    setup.after_batch(|_, directory| put(&directory.join("1.parquet"), parquet(&[(5, 500)])));
    let found = |k, rows, last| row(&[("k", k), ("n", rows), ("last", last)]);
    setup
        .check(
            "SELECT k, (SELECT count(*) FROM t) AS n, (SELECT max(k) FROM t) AS last FROM s",
            &[vec![found(1, 2, 2)], vec![found(2, 3, 5)]],
        )
        .await;
}

#[tokio::test]
async fn outer_semi_and_anti_joins() {
    let stream: &[&[(i64, i64)]] = &[&[(1, 10), (2, 20)], &[(1, 11), (2, 21)]];
    let k_v = |k, v| row(&[("k", k), ("v", v)]);
    let k_v_w = |k, v, w| row(&[("k", k), ("v", v), ("w", w)]);
    let cases: [(&str, [Vec<Row>; 2]); 8] = [
        (
            "SELECT s.k, s.v, t.v AS w FROM s LEFT JOIN t ON s.k = t.k",
            [vec![k_v_w(1, 10, 100), k_v(2, 20)], vec![k_v(1, 11), k_v_w(2, 21, 200)]],
        ),
        (
            "SELECT s.k, s.v, t.v AS w FROM t RIGHT JOIN s ON s.k = t.k",
            [vec![k_v_w(1, 10, 100), k_v(2, 20)], vec![k_v(1, 11), k_v_w(2, 21, 200)]],
        ),
        ("SELECT * FROM s WHERE k IN (SELECT k FROM t)", [vec![k_v(1, 10)], vec![k_v(2, 21)]]),
        ("SELECT * FROM s WHERE k NOT IN (SELECT k FROM t)", [vec![k_v(2, 20)], vec![k_v(1, 11)]]),
        (
            "SELECT * FROM s WHERE NOT EXISTS (SELECT 1 FROM t WHERE t.k = s.k AND t.v > 50)",
            [vec![k_v(2, 20)], vec![k_v(1, 11)]],
        ),
        (
            "SELECT * FROM s WHERE v = 20 OR k IN (SELECT k FROM t)",
            [vec![k_v(1, 10), k_v(2, 20)], vec![k_v(2, 21)]],
        ),
        (
            "SELECT s.k, s.v, t.v AS w FROM s CROSS JOIN t WHERE s.v * 10 >= t.v",
            [vec![k_v_w(1, 10, 100), k_v_w(2, 20, 100)], vec![k_v_w(2, 21, 200)]],
        ),
        (
            "SELECT s.k, s.v, t.v AS w FROM s LEFT JOIN t ON s.k = t.k AND s.v < 20",
            [vec![k_v_w(1, 10, 100), k_v(2, 20)], vec![k_v(1, 11), k_v(2, 21)]],
        ),
    ];
    for (sql, expected) in cases {
        let setup = Setup::new(stream, &[(1, 100)]).await;
        setup.after_batch(|_, directory| put(&directory.join("0.parquet"), parquet(&[(2, 200)])));
        setup.check(sql, &expected).await;
    }
}

#[tokio::test]
async fn a_stream_may_be_joined_with_what_a_batch_query_makes_of_a_table() {
    let setup = Setup::new(&[&[(1, 10)], &[(1, 11)]], &[(1, 100), (1, 101)]).await;
    setup.after_batch(|_, directory| put(&directory.join("1.parquet"), parquet(&[(1, 102)])));
    let total = |v, total| row(&[("v", v), ("total", total)]);
    setup
        .check(
            "SELECT s.v, sums.total FROM s JOIN (SELECT k, sum(v) AS total FROM t GROUP BY k ORDER BY k LIMIT 9) sums \
             ON s.k = sums.k",
            &[vec![total(10, 201)], vec![total(11, 303)]],
        )
        .await;
}

#[tokio::test]
async fn a_batch_is_rerun_with_the_table_as_it_is_then() {
    let setup = Setup::new(&[&[(1, 10)]], &[(1, 100)]).await;
    setup.probe.on_prepare(|_| Err(tidemill::Error::Invalid("no".into())));
    let error = setup.job(INNER).run(&setup.session).await.unwrap_err();
    assert_eq!(cause(&error).to_string(), "no");
    setup.place.put("static/0.parquet", parquet(&[(1, 200)]));
    setup.probe.on_prepare(|_| Ok(()));
    setup.check(INNER, &[vec![row(&[("k", 1), ("v", 10), ("w", 200)])]]).await;
}
