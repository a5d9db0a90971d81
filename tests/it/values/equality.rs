use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array};
use datafusion::arrow::record_batch::RecordBatch;
use tidemill::Session;
use tidemill::prelude::*;

use super::{batch, batch_in, lines, write_parquet};
use crate::support::harness::{Input, Job, Place, session};

const ROWS: &str = "(SELECT CAST(x AS DOUBLE) AS x, k FROM (VALUES ('-0.0', 1), ('0.0', 2), ('1.5', 3), ('NaN', 4), ('NaN', 5)) AS r(x, k))";

/// Every place where values are compared takes `0.0` for `-0.0`, and NaN for NaN.
#[tokio::test]
async fn zeros_are_one_value_in_every_place() {
    for (sql, expected) in [
        ("SELECT count(*) FROM (SELECT DISTINCT x FROM ROWS AS t)", "3"),
        ("SELECT count(*) FROM (SELECT DISTINCT [x], named_struct('x', x) FROM ROWS AS t)", "3"),
        ("SELECT count(*) FROM (SELECT DISTINCT ON (x) x, k FROM ROWS AS t)", "3"),
        ("SELECT count(*) FROM (SELECT x FROM ROWS AS t UNION SELECT -x FROM ROWS AS t WHERE x = 0)", "3"),
        ("SELECT count(*) FROM (SELECT x FROM ROWS AS t GROUP BY x)", "3"),
        ("SELECT count(*) FROM (SELECT [x] FROM ROWS AS t GROUP BY [x])", "3"),
        ("SELECT count(*) FROM (SELECT x FROM ROWS AS t GROUP BY ROLLUP (x))", "4"),
        ("SELECT count(DISTINCT x), count(DISTINCT [x]) FROM ROWS AS t", "3 3"),
        (
            "SELECT count(*) FROM (SELECT x FROM ROWS AS t WHERE k = 1 INTERSECT SELECT x FROM ROWS AS t WHERE k = 2)",
            "1",
        ),
        (
            "SELECT count(*) FROM (SELECT x FROM ROWS AS t WHERE k = 1 EXCEPT SELECT x FROM ROWS AS t WHERE k = 2)",
            "0",
        ),
        ("SELECT count(*) FROM ROWS AS a JOIN ROWS AS b ON a.x = b.x", "9"),
        ("SELECT count(*) FROM ROWS AS a JOIN ROWS AS b ON [a.x] = [b.x]", "9"),
        ("SELECT count(*) FROM ROWS AS a WHERE x IN (SELECT -x FROM ROWS AS b WHERE k = 2)", "2"),
        (
            "SELECT count(*) FROM ROWS AS a WHERE EXISTS (SELECT 1 FROM ROWS AS b WHERE b.x = a.x AND b.k = 1)",
            "2",
        ),
        ("SELECT count(*) FROM ROWS AS t WHERE x = 0", "2"),
        ("SELECT count(*) FROM ROWS AS t WHERE x IN (0.0, 7.0)", "2"),
        ("SELECT count(*) FROM ROWS AS t WHERE x < 0.0 OR x IS DISTINCT FROM x", "0"),
        ("SELECT count(*) FROM ROWS AS t WHERE x BETWEEN 0.0 AND 0.0", "2"),
        ("SELECT count(*) FROM ROWS AS t WHERE CASE x WHEN 0.0 THEN true ELSE false END", "2"),
        ("SELECT count(nullif(x, 0.0)) FROM ROWS AS t", "3"),
        (
            "SELECT max(n) FROM (SELECT count(*) OVER (PARTITION BY x) AS n, k FROM ROWS AS t WHERE k < 3)",
            "2",
        ),
        ("SELECT max(r) FROM (SELECT rank() OVER (ORDER BY x) AS r FROM ROWS AS t WHERE k < 3)", "1"),
        ("SELECT count(*) FROM ROWS AS t WHERE x > 1.0", "3"),
    ] {
        let sql = sql.replace("ROWS AS", &format!("{ROWS} AS"));
        assert_eq!(batch(&sql).await.unwrap(), [expected], "{sql}");
    }
}

/// Streams give what a batch gives, whatever the batches are.
#[tokio::test]
async fn streams_and_batches_agree_on_what_is_equal() {
    let floats = [0.0, -0.0, f64::NAN, -f64::NAN, 1.5, -0.0, f64::NAN, f64::INFINITY, 0.0];
    let rows = |from: usize, to: usize| {
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(from as i64..to as i64));
        let values: ArrayRef = Arc::new(Float64Array::from_iter_values(floats[from..to].iter().copied()));
        RecordBatch::try_from_iter([("k", keys), ("x", values)]).unwrap()
    };
    for sql in [
        "SELECT x FROM t GROUP BY x",
        "SELECT x, count(*), min(k) FROM t GROUP BY x",
        "SELECT [x] AS x, count(*) FROM t GROUP BY [x]",
        "SELECT named_struct('x', x) AS x, count(*) FROM t GROUP BY 1",
        "SELECT count(DISTINCT x) FROM t",
        "SELECT k % 2 AS p, count(DISTINCT x), count(DISTINCT [x]) FROM t GROUP BY 1",
        "SELECT x FROM (SELECT DISTINCT x FROM t)",
        "SELECT x FROM t UNION SELECT x + 0.0 FROM t",
        "SELECT k, x FROM t WHERE x IN (SELECT -x FROM b)",
        "SELECT t.k, b.x FROM t JOIN b ON t.x = b.x",
        "SELECT x FROM t INTERSECT SELECT x FROM b",
    ] {
        let expected = {
            let session = Session::new();
            session.context().register_batch("t", rows(0, floats.len())).unwrap();
            session.context().register_batch("b", rows(0, 3)).unwrap();
            let mut rows = batch_in(&session, sql).await.unwrap();
            rows.sort();
            rows
        };
        let place = Place::new();
        for file in 0..floats.len() {
            write_parquet(&place.path(&format!("in/{file}.parquet")), &rows(file, file + 1));
        }
        let session = session();
        session.context().register_batch("b", rows(0, 3)).unwrap();
        let input = Input::new("t", "parquet", place.text("in")).option("maxFilesPerTrigger", 1);
        let mode = if sql.contains("GROUP") || sql.contains("count") {
            OutputMode::Complete
        } else {
            OutputMode::Append
        };
        let job = Job::new(&place).inputs([input]).sql(sql).format("memory").name("out").out(None).mode(mode);
        job.run(&session).await.unwrap();
        let found = session.context().table("out").await.unwrap().collect().await.unwrap();
        let mut found = lines(&found);
        found.sort();
        assert_eq!(found, expected, "{sql}");
    }
}
