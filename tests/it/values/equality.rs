use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::record_batch::RecordBatch;
use tidemill::Session;
use tidemill::prelude::*;

use super::{batch, batch_in, lines, write_parquet};
use crate::support::harness::{Input, Job, Place, schema, session};

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

/// Processors give NaN a sign, by which it came before all numbers.
#[tokio::test]
async fn a_computed_nan_is_larger_than_all_numbers() {
    let rows = "(SELECT k, x / 0e0 * 0e0 AS x FROM (VALUES (1, 1e0)) AS a(k, x) UNION ALL SELECT 2, 1e0 \
        UNION ALL SELECT 3, NULL) AS t";
    for (sql, expected) in [
        (
            "SELECT 0e0 / 0e0 > 1, 0e0 / 0e0 >= 1, 0e0 / 0e0 < 1, 0e0 / 0e0 <= 1",
            vec!["true true false false"],
        ),
        ("SELECT 1 < 0e0 / 0e0, 0e0 / 0e0 > CAST('Infinity' AS DOUBLE)", vec!["true true"]),
        ("SELECT 0e0 / 0e0 <= CAST('NaN' AS DOUBLE), 0e0 / 0e0 < CAST('NaN' AS DOUBLE)", vec!["true false"]),
        (
            "SELECT 0e0 / 0e0 BETWEEN 0 AND 1, 0e0 / 0e0 BETWEEN 1 AND CAST('NaN' AS DOUBLE)",
            vec!["false true"],
        ),
        ("SELECT greatest(0e0 / 0e0, 1e0), least(0e0 / 0e0, 1e0)", vec!["NaN 1.0"]),
        ("SELECT k FROM ROWS WHERE x > 0.5", vec!["1", "2"]),
        ("SELECT k FROM ROWS WHERE x > 1.5", vec!["1"]),
        ("SELECT k FROM ROWS WHERE x < 1.5", vec!["2"]),
        ("SELECT k FROM ROWS ORDER BY x", vec!["2", "1", "3"]),
        ("SELECT k FROM ROWS ORDER BY x DESC NULLS LAST LIMIT 1", vec!["1"]),
        ("SELECT k, rank() OVER (ORDER BY x) FROM ROWS ORDER BY k", vec!["1 2", "2 1", "3 3"]),
        ("SELECT avg(x) FROM ROWS HAVING 1.5e0 < avg(x)", vec!["NaN"]),
        ("SELECT a.k FROM ROWS AS a JOIN ROWS AS b ON a.x > b.x + 0.5", vec!["1"]),
    ] {
        let named = sql.replace("ROWS AS ", &format!("{} AS ", &rows[..rows.len() - 5]));
        let double = |value: &str| format!("CAST({value} AS DOUBLE)");
        let sql = named.replace("ROWS", rows).replace("1.5e0", &double("1.5"));
        let sql = sql.replace("1e0", &double("1")).replace("0e0", &double("0"));
        assert_eq!(batch(&sql).await.unwrap(), expected, "{sql}");
    }
}

#[tokio::test]
async fn truth_is_never_null() {
    let rows = "(VALUES (1, true), (2, false), (3, NULL)) AS t(k, b)";
    let query = format!(
        "SELECT k, b IS TRUE, b IS NOT TRUE, b IS FALSE, b IS NOT FALSE, b IS UNKNOWN, b IS NOT UNKNOWN FROM {rows} \
         ORDER BY k"
    );
    let expected = [
        "1 true false false true false true",
        "2 false true true false false true",
        "3 false true false true true false",
    ];
    assert_eq!(batch(&query).await.unwrap(), expected);
    let query = format!("SELECT DISTINCT (k > 1) IS TRUE AS g FROM {rows} ORDER BY g");
    assert_eq!(batch(&query).await.unwrap(), ["false", "true"]);
    let plain = Session::new();
    let table = format!("CREATE TABLE z AS SELECT b IS TRUE AS g FROM {rows}");
    batch_in(&plain, &table).await.unwrap();
    assert_eq!(
        batch_in(&plain, "SELECT g, count(*) FROM z GROUP BY g ORDER BY g").await.unwrap(),
        ["false 2", "true 1"]
    );
    // Above a join in a stream.
    let place = Place::new();
    place.put("in/1.json", "{\"k\":1,\"a\":1}\n{\"k\":2,\"a\":null}\n{\"k\":3,\"a\":5}\n");
    let session = session();
    batch_in(&session, "CREATE TABLE b AS SELECT * FROM (VALUES (1), (2), (3)) AS b(k)").await.unwrap();
    let columns = [("k", DataType::Int64), ("a", DataType::Int64)];
    let input = Input::new("t", "json", place.text("in")).schema(schema(&columns));
    let sql = "SELECT g, count(*) AS n FROM (SELECT (a > 1) IS TRUE AS g, k FROM t) AS z JOIN b ON z.k = b.k \
        GROUP BY g";
    let job = Job::new(&place).inputs([input]).sql(sql).format("memory").name("out").out(None);
    job.mode(OutputMode::Complete).run(&session).await.unwrap();
    assert_eq!(batch_in(&session, "SELECT * FROM out ORDER BY g").await.unwrap(), ["false 2", "true 1"]);
}
