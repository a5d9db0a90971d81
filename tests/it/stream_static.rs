//! Streams joined with bounded tables, which may change between batches: each batch sees them as
//! they are when it runs.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::DataType;
use datafusion::datasource::MemTable;
use datafusion::parquet::arrow::ArrowWriter;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStoreExt, PutPayload};
use serde_json::json;
use tidemill::prelude::*;

use crate::support::counting_store::CountingStore;
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
            place.put(&format!("in/{index:02}.parquet"), parquet(rows));
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

    /// The table `t` in an object store instead, as one file.
    async fn in_store(stream: &[&[(i64, i64)]], table: &[(i64, i64)]) -> (Self, CountingStore) {
        let setup = Self::new(stream, table).await;
        let store = CountingStore::default();
        store.put(&ObjectPath::from("t/0.parquet"), parquet(table).into()).await.unwrap();
        let context = setup.session.context();
        let url = url::Url::parse("memory://tables/").unwrap();
        context.register_object_store(&url, Arc::new(store.clone()));
        context.deregister_table("t").unwrap();
        let options = ParquetReadOptions::default();
        context.register_parquet("t", "memory://tables/t/", options).await.unwrap();
        (setup, store)
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

#[tokio::test]
async fn a_table_is_read_again_only_when_it_has_changed() {
    let files: Vec<[(i64, i64); 1]> = (0..10).map(|batch| [(1, batch)]).collect();
    let stream: Vec<&[(i64, i64)]> = files.iter().map(|rows| &rows[..]).collect();
    let queries = [
        INNER,
        "SELECT s.k, s.v, t.v AS w FROM s LEFT JOIN t ON s.k = t.k",
        "SELECT s.k, s.v, m.w FROM s JOIN (SELECT k, max(v) AS w FROM t GROUP BY k) m ON s.k = m.k",
        "SELECT k, v, (SELECT max(v) FROM t WHERE k < 2) AS w FROM s WHERE k IN (SELECT k FROM t)",
    ];
    for sql in queries {
        let (setup, store) = Setup::in_store(&stream, &[(1, 100), (2, 200)]).await;
        let counts = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (counter, changed) = (Arc::clone(&counts), store.clone());
        setup.probe.on_prepare(move |batch| {
            counter.lock().unwrap().push((changed.reads(), changed.lists()));
            if batch == 6 {
                // Of the same size.
                let content = PutPayload::from(parquet(&[(1, 101), (2, 200)]));
                let path = ObjectPath::from("t/0.parquet");
                futures::executor::block_on(changed.put(&path, content)).unwrap();
            }
            Ok(())
        });
        let expected: Vec<Vec<Row>> = (0..10)
            .map(|batch| vec![row(&[("k", 1), ("v", batch), ("w", if batch <= 6 { 100 } else { 101 })])])
            .collect();
        setup.check(sql, &expected).await;
        let counts = counts.lock().unwrap();
        for batch in (1..10).filter(|batch| *batch != 7) {
            assert_eq!(counts[batch].0, counts[batch - 1].0, "batch {batch} of {sql} reads: {counts:?}");
            assert_eq!(counts[batch].1, counts[batch - 1].1 + 1, "batch {batch} of {sql} lists: {counts:?}");
        }
        assert!(counts[7].0 > counts[6].0, "{sql}: {counts:?}");
    }
}

#[tokio::test]
async fn a_file_that_changes_without_a_trace_just_after_it_was_written() {
    // Same size, same inode, same time of change: as within one tick of a coarse clock.
    let setup = Setup::new(&[&[(1, 10)], &[(1, 11)], &[(1, 12)]], &[]).await;
    let now = std::time::SystemTime::now();
    let write = move |path: &std::path::Path, content: &str| {
        std::fs::write(path, content).unwrap();
        std::fs::File::options().write(true).open(path).unwrap().set_modified(now).unwrap();
    };
    let path = setup.place.path("static/t.csv");
    write(&path, "k,v\n1,100\n");
    let context = setup.session.context();
    context.deregister_table("t").unwrap();
    let options = CsvReadOptions::default();
    context.register_csv("t", path.to_str().unwrap(), options).await.unwrap();
    setup.probe.on_prepare(move |batch| {
        write(&path, &format!("k,v\n1,10{}\n", batch + 1));
        Ok(())
    });
    let joined = |v, w| vec![row(&[("k", 1), ("v", v), ("w", w)])];
    setup.check(INNER, &[joined(10, 100), joined(11, 101), joined(12, 102)]).await;
}

#[tokio::test]
async fn tables_in_memory_and_views_of_them() {
    let setup = Setup::new(&[&[(1, 10)], &[(1, 11)], &[(1, 12)]], &[]).await;
    let context = setup.session.context();
    context.deregister_table("t").unwrap();
    let batch = |rows: &[(i64, i64)]| {
        let column = |pick: fn(&(i64, i64)) -> i64| {
            Arc::new(Int64Array::from_iter_values(rows.iter().map(pick))) as ArrayRef
        };
        RecordBatch::try_from_iter([("k", column(|row| row.0)), ("v", column(|row| row.1))]).unwrap()
    };
    let table = MemTable::try_new(batch(&[]).schema(), vec![vec![batch(&[(1, 100)])]]).unwrap();
    let rows = Arc::clone(&table.batches[0]);
    context.register_table("base", Arc::new(table)).unwrap();
    context.sql("CREATE VIEW t AS SELECT k, v FROM base WHERE v > 0").await.unwrap();
    let later = batch(&[(1, 101), (1, -5)]);
    setup.probe.on_prepare(move |batch| {
        if batch == 1 {
            rows.try_write().unwrap().push(later.clone());
        }
        Ok(())
    });
    let joined = |v, w| row(&[("k", 1), ("v", v), ("w", w)]);
    setup
        .check(INNER, &[vec![joined(10, 100)], vec![joined(11, 100)], vec![joined(12, 100), joined(12, 101)]])
        .await;
}

#[tokio::test]
async fn stateful_queries_see_the_table_of_the_moment_and_keep_what_they_made_of_it() {
    let setup = Setup::new(&[&[(1, 10), (2, 20)], &[(1, 11), (3, 30)]], &[(1, 100), (2, 200)]).await;
    setup.after_batch(|_, directory| put(&directory.join("0.parquet"), parquet(&[(1, 1000), (3, 300)])));
    let job = setup
        .job("SELECT s.k, sum(t.v) AS total, count(*) AS n FROM s JOIN t ON s.k = t.k GROUP BY s.k")
        .mode(OutputMode::Update);
    job.run(&setup.session).await.unwrap();
    let found = |k, total, n| row(&[("k", k), ("total", total), ("n", n)]);
    oracle::assert_same(setup.probe.rows(0), vec![found(1, 100, 1), found(2, 200, 1)], "batch 0");
    oracle::assert_same(setup.probe.rows(1), vec![found(1, 1100, 2), found(3, 300, 1)], "batch 1");
}

#[tokio::test]
async fn two_uses_of_one_table_see_the_same_rows() {
    let setup = Setup::new(&[&[(1, 10)], &[(1, 11)]], &[(1, 100)]).await;
    setup.after_batch(|_, directory| put(&directory.join("1.parquet"), parquet(&[(1, 101)])));
    let found = |v, w, n| row(&[("v", v), ("w", w), ("n", n)]);
    setup
        .check(
            "SELECT s.v, t.v AS w, (SELECT count(*) FROM t) AS n FROM s JOIN t ON s.k = t.k \
             WHERE t.v >= (SELECT min(v) FROM t)",
            &[vec![found(10, 100, 1)], vec![found(11, 100, 2), found(11, 101, 2)]],
        )
        .await;
}

#[tokio::test]
async fn what_depends_on_more_than_the_table_is_not_kept() {
    let setup = Setup::new(&[&[(1, 10)], &[(1, 11)]], &[(1, 100)]).await;
    let sql =
        "SELECT s.v, r.x, r.at FROM s JOIN (SELECT k, random() AS x, now() AS at FROM t) r ON s.k = r.k";
    setup.after_batch(|_, _| std::thread::sleep(std::time::Duration::from_millis(5)));
    setup.job(sql).run(&setup.session).await.unwrap();
    let (first, second) = (&setup.probe.rows(0)[0], &setup.probe.rows(1)[0]);
    assert_ne!(first["x"], second["x"]);
    assert_ne!(first["at"], second["at"]);
}

#[tokio::test]
async fn the_rows_of_the_stream_pass_by_the_table() {
    let setup = Setup::new(&[&[(1, 10)]], &[(1, 100)]).await;
    let joins = [
        ("SELECT s.v FROM s JOIN t ON s.k = t.k", "HashJoinExec"),
        ("SELECT s.v FROM t JOIN s ON s.k = t.k", "HashJoinExec"),
        ("SELECT s.v, t.v FROM s LEFT JOIN t ON s.k = t.k", "HashJoinExec"),
        ("SELECT s.v FROM s WHERE k IN (SELECT k FROM t)", "HashJoinExec"),
        ("SELECT s.v FROM s WHERE NOT EXISTS (SELECT 1 FROM t WHERE t.k = s.k)", "HashJoinExec"),
        ("SELECT s.v FROM s JOIN t ON s.k < t.k", "NestedLoopJoinExec"),
        ("SELECT s.v, t.v FROM s CROSS JOIN t", "CrossJoinExec"),
    ];
    for (index, (sql, join)) in joins.into_iter().enumerate() {
        let checkpoint = setup.place.text(&format!("checkpoint{index}"));
        let job = setup.job(sql).option("checkpointLocation", checkpoint);
        let plan = job.run(&setup.session).await.unwrap().explain().to_string();
        let plan = plan.split("== Physical Plan ==").last().unwrap().to_string();
        let places = [join, "StaticTableExec", "StreamScanExec"].map(|operator| plan.find(operator));
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{sql}: {plan}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let setup = Setup::new(&[&[(1, 10)], &[(1, 11)]], &[(1, 100)]).await;
    setup.after_batch(|_, directory| put(&directory.join("0.parquet"), "this is not Parquet"));
    let error = setup.job(INNER).run(&setup.session).await.unwrap_err();
    assert!(error.to_string().contains("the bounded table t cannot be read"), "{error}");
    assert_eq!(setup.probe.batches().len(), 1);
}
