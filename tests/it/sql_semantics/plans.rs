//! Queries whose plans need care: the same in a stream and at once.

use datafusion::arrow::util::pretty::pretty_format_batches;
use tidemill::sql::SqlOutcome;

use super::Place;

const COLUMNS: &str = "k INT, a BIGINT, f DOUBLE, d DECIMAL(10, 2), day DATE";

const LINES: &str = r#"{"k":1,"a":1,"f":0.30000000000000004,"d":1.50,"day":"2024-03-01"}
{"k":1,"a":2,"f":1e-20,"d":0.00,"day":"2024-02-29"}
{"k":2,"a":7,"f":"NaN","d":2.00,"day":"2024-02-28"}
{"k":null,"a":9,"f":1e300,"d":3.00,"day":null}
"#;

/// `select` over [`LINES`], in a stream and at once, beside a bounded table `b` of `k` 1, null and 3 with
/// `v` 10, 20 and 5.
async fn both(select: &str) -> Vec<String> {
    let place = Place::new();
    place.put("b.csv", "k,v\n1,10\n,20\n3,5\n");
    place
        .run("CREATE EXTERNAL TABLE b (k INT, v BIGINT) STORED AS CSV LOCATION '$/b.csv' OPTIONS ('format.has_header' 'true')")
        .await;
    place.both(COLUMNS, LINES, select).await
}

/// Below operators with state, a value that a subquery gives was needed before it was computed.
#[tokio::test]
async fn a_subquery_gives_its_value_to_all_stages() {
    for (select, expected) in [
        ("SELECT k, count(*) AS n FROM t WHERE a < (SELECT max(v) - 13 FROM b) GROUP BY k", &["1 2"][..]),
        ("SELECT DISTINCT k, (SELECT max(v) FROM b) AS m FROM t", &["1 20", "2 20", "20"][..]),
        ("SELECT DISTINCT ON (k) k, a FROM t WHERE a > (SELECT min(v) FROM b)", &["2 7", "9"][..]),
        ("SELECT k FROM t WHERE a < (SELECT max(v) FROM b) - 18 LIMIT 3", &["1"][..]),
        (
            "SELECT k + (SELECT count(*) FROM b) AS g, sum(a * (SELECT min(v) FROM b)) AS s, \
             count(*) FILTER (WHERE a > (SELECT min(v) FROM b)) AS n FROM t GROUP BY 1",
            &["4 15 0", "45 1", "5 35 1"][..],
        ),
        (
            "SELECT k, sum(a) AS s FROM t GROUP BY k HAVING sum(a) > (SELECT min(v) - (SELECT count(*) FROM b) FROM b)",
            &["1 3", "2 7", "9"][..],
        ),
        (
            "SELECT k, count(*) AS n FROM t WHERE a < (SELECT max(v) FROM b WHERE v < (SELECT max(v) FROM b)) GROUP BY k",
            &["1 2", "1", "2 1"][..],
        ),
        ("SELECT count(*) AS n FROM t WHERE a < (SELECT max(v) FROM b WHERE false)", &["0"][..]),
    ] {
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(both(select).await, expected, "{select}");
    }
}

/// A value is computed anew for every batch, and by a restarted query.
#[tokio::test]
async fn a_subquery_is_computed_for_each_batch() {
    let place = Place::new();
    place.put("in/1.json", "{\"k\":1}\n{\"k\":5}\n");
    place.put("b.csv", "3\n");
    let query = "CREATE OR REPLACE EXTERNAL TABLE r STORED AS MEMORY;
        CREATE STREAMING QUERY q OUTPUT MODE UPDATE TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '$/c'
        AS INSERT INTO r SELECT k, count(*) AS n FROM t WHERE k > (SELECT max(v) FROM b) GROUP BY k;
        SELECT * FROM r";
    let tables = "CREATE EXTERNAL TABLE b (v INT) STORED AS CSV LOCATION '$/b.csv' OPTIONS ('format.has_header' 'false');
        CREATE UNBOUNDED EXTERNAL TABLE t (k INT) STORED AS JSON LOCATION '$/in/' OPTIONS ('minFileAge' '0s');";
    assert_eq!(place.rows(&format!("{tables}{query}")).await, ["5 1"]);
    place.put("b.csv", "0\n");
    place.put("in/2.json", "{\"k\":1}\n{\"k\":5}\n");
    assert_eq!(place.rows(query).await, ["1 1", "5 2"]);
}

#[tokio::test]
async fn a_view_gives_what_its_select_gives() {
    let select =
        "SELECT k, f = 0.3 AS eq, f > 0.0 AS gt, coalesce(f, 0.5) AS c, d / 3 AS q FROM t WHERE k = 1";
    let direct = both(select).await;
    assert_eq!(direct, ["1 false true 0.30000000000000004 0.500000", "1 false true 1e-20 0.000000"]);
    let place = Place::new();
    place.put("in/a.json", LINES);
    let tables = format!("CREATE EXTERNAL TABLE t ({COLUMNS}) STORED AS JSON LOCATION '$/in/'; ");
    assert_eq!(place.rows(&format!("{tables} CREATE VIEW v AS {select}; SELECT * FROM v")).await, direct);
    assert_eq!(
        place.rows("CREATE VIEW w AS SELECT k FROM t WHERE f > 0.5; SELECT * FROM w").await,
        ["", "2"]
    );
}

#[tokio::test]
async fn a_literal_with_an_exponent_is_a_double_in_copy_too() {
    let place = Place::new();
    let rows = place
        .rows("COPY (SELECT median(length(s) * 1e0) AS m FROM (VALUES ('xx'), ('xxx')) AS v(s)) TO '$/o/' STORED AS PARQUET; SELECT * FROM '$/o/'")
        .await;
    assert_eq!(rows, ["2.5"]);
}

/// Decimals that meet doubles in a comparison become doubles, as in arithmetic.
#[tokio::test]
async fn decimals_are_compared_with_doubles_as_doubles() {
    assert_eq!(both("SELECT a FROM t WHERE f > d").await, ["2", "7", "9"]);
    assert_eq!(both("SELECT a FROM t WHERE f = d").await, [""; 0]);
    assert_eq!(both("SELECT a FROM t WHERE f IN (SELECT CAST(v AS DECIMAL(10, 2)) FROM b)").await, [""; 0]);
    assert_eq!(both("SELECT a FROM t WHERE d * 5 IN (SELECT CAST(v AS DOUBLE) FROM b)").await, ["7"]);
}

#[tokio::test]
async fn expressions_in_grouping_sets_keep_their_names() {
    assert_eq!(
        both("SELECT f > 0.25 AS g, count(*) AS n FROM t GROUP BY ROLLUP (f > 0.25)").await,
        ["4", "false 1", "true 3"]
    );
    assert_eq!(
        both("SELECT k, DATE '2024-01-01' AS d, count(*) AS n FROM t WHERE k = 2 GROUP BY ROLLUP (k, DATE '2024-01-01')").await,
        ["1", "2 1", "2 2024-01-01 1"]
    );
}

/// What the optimiser finds to have no rows gives none.
#[tokio::test]
async fn queries_without_rows_give_none() {
    assert_eq!(both("SELECT DISTINCT ON (k) k, a FROM t WHERE false").await, [""; 0]);
    assert_eq!(
        both("SELECT DISTINCT ON (k) k, a FROM t WHERE k IN (SELECT k FROM b WHERE false)").await,
        [""; 0]
    );
}

#[tokio::test]
async fn the_difference_of_dates_is_a_number_of_days() {
    assert_eq!(both("SELECT a, day - DATE '2024-02-01' AS n FROM t").await, ["1 29", "2 28", "7 27", "9"]);
    assert_eq!(both("SELECT DATE '2024-03-01' - DATE '2024-02-01' AS n FROM t WHERE a = 1").await, ["29"]);
    assert_eq!(both("SELECT a FROM t WHERE day - DATE '2024-02-01' > 28").await, ["1"]);
}

/// The optimiser computes a prepared statement's constants before rules have said what they mean.
#[tokio::test]
async fn a_prepared_statement_means_what_it_means_at_once() {
    let rows = "(VALUES (1), (NULL)) AS t(k)";
    for (select, values, expected) in [
        ("SELECT CAST('2024-02-29T23:30:00-05:00' AS DATE) AS d", "", "2024-02-29"),
        (
            &*format!("SELECT count(*) FROM (SELECT 1 AS a) AS s WHERE 6 NOT IN (SELECT k FROM {rows})"),
            "",
            "0",
        ),
        ("SELECT CAST($1 AS DATE) AS d, $2 + 1 AS n", "('2024-02-29T23:30:00-05:00', 41)", "2024-02-29 42"),
        (
            &*format!("SELECT count(*) FROM {rows} WHERE k = $1 OR $1 NOT IN (SELECT k FROM {rows})"),
            "(1)",
            "1",
        ),
    ] {
        let sql = tidemill::sql::SqlSession::new(tidemill::Session::new());
        let types = if values.contains(',') { " (VARCHAR, BIGINT)" } else { "" };
        let script = format!("PREPARE p{types} AS {select}; EXECUTE p{values}");
        let Some(SqlOutcome::Rows(frame)) = sql.run(&script).await.unwrap().pop() else { panic!("{script}") };
        let table = pretty_format_batches(&frame.collect().await.unwrap()).unwrap().to_string();
        let row = table.lines().nth(3).unwrap().replace('|', " ");
        assert_eq!(row.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{script}");
    }
}

#[tokio::test]
async fn prepared_statements_take_values_of_any_type() {
    let place = Place::new();
    let rows = "(1, DATE '2024-01-01', CAST(1.5 AS DECIMAL(10, 2))), (5, DATE '2024-02-01', 2.5), (9, DATE '2024-03-01', 99.9)";
    place
        .sql
        .run(&format!(
            "CREATE TABLE t AS SELECT * FROM (VALUES {rows}) AS t(a, d, x);
             PREPARE p (INT, DATE, DECIMAL(10, 2)) AS SELECT a, d, x FROM t WHERE a > $1 AND d >= $2 AND x < $3;
             PREPARE q AS SELECT sum(a) FILTER (WHERE a > $1) AS s FROM t;
             PREPARE r AS INSERT INTO t VALUES ($1, $2, $3)"
        ))
        .await
        .unwrap();
    assert_eq!(place.rows("EXECUTE p(1, DATE '2024-01-15', 50)").await, ["5 2024-02-01 2.50"]);
    let both = ["5 2024-02-01 2.50", "9 2024-03-01 99.90"];
    assert_eq!(place.rows("EXECUTE p(1, '2024-01-15', 500.25)").await, both);
    assert_eq!(place.rows("EXECUTE q(4)").await, ["14"]);
    place.rows("EXECUTE r(7, DATE '2024-07-07', 7.77)").await;
    assert_eq!(place.rows("EXECUTE q(4)").await, ["21"]);
}

/// What `USING` joins by is one column, also in `WHERE`.
#[tokio::test]
async fn the_column_of_using_is_the_left_tables() {
    assert_eq!(both("SELECT k, a, v FROM t JOIN b USING (k) WHERE k > 0 AND a < 2").await, ["1 1 10"]);
    assert_eq!(both("SELECT K, a, v FROM t AS x LEFT JOIN b USING (k) WHERE K IN (2)").await, ["2 7"]);
    let nested = "SELECT a FROM t JOIN b USING (k) WHERE k = 1 AND v IN (SELECT v FROM b WHERE k = 1)";
    assert_eq!(both(nested).await, ["1", "2"]);
    let place = Place::new();
    place.run("CREATE TABLE l AS SELECT 1 AS k; CREATE TABLE r AS SELECT 1 AS k, 2 AS v").await;
    let error = place.error("SELECT v FROM l NATURAL JOIN r WHERE k > 0").await;
    assert!(error.contains("several tables have it. Say whose it is, as in t.k"), "{error}");
    let struct_field = "SELECT k FROM l AS p WHERE EXISTS (SELECT 1 FROM r WHERE r.v = p.w.e)";
    let error = place
        .error(&struct_field.replace("FROM l AS p", "FROM (SELECT k, named_struct('e', 2) AS w FROM l) AS p"))
        .await;
    assert!(error.contains("give it a name there"), "{error}");
}

/// So that one who has a thousand columns knows which it was.
#[tokio::test]
async fn casts_that_fail_say_which_they_are() {
    for (select, told) in [
        (
            "SELECT CAST(s AS INT) AS x FROM t",
            "CAST(t.s AS INT): Cannot cast string 'x' to value of Int32 type",
        ),
        (
            "SELECT k FROM t WHERE CAST(f AS BIGINT) > 0",
            "CAST(t.f AS BIGINT): Can't cast value NaN to type Int64",
        ),
        ("SELECT CAST(k * 1000 AS SMALLINT) AS x FROM t", "CAST(t.k * 1000 AS SMALLINT): Can't cast value"),
    ] {
        let place = Place::new();
        place.put("in/a.json", "{\"k\":400,\"f\":\"NaN\",\"s\":\"x\"}\n");
        let table = |kind: &str| {
            format!(
                "CREATE {kind} EXTERNAL TABLE t (k BIGINT, f DOUBLE, s VARCHAR) STORED AS JSON LOCATION '$/in/';"
            )
        };
        let error = place.error(&format!("{} {select}", table(""))).await;
        assert!(error.contains(told) && error.contains("TRY_CAST"), "{error}");
        let place = Place { sql: tidemill::sql::SqlSession::new(tidemill::Session::new()), ..place };
        let query =
            "CREATE EXTERNAL TABLE o STORED AS NOOP; CREATE STREAMING QUERY q TRIGGER ONCE AS INSERT INTO o";
        let error = place.error(&format!("{} {query} {select}", table("UNBOUNDED"))).await;
        assert!(error.contains(told), "{error}");
    }
    let named = both(
        "SELECT * FROM (SELECT CAST(a AS INT), TRY_CAST(CAST(k AS VARCHAR) || 'x' AS INT) AS n FROM t WHERE a = 1) AS x(a, n)",
    );
    assert_eq!(named.await, ["1"]);
}

/// A cast is called what it casts.
#[tokio::test]
async fn functions_may_differ_by_casts_alone() {
    for (select, expected) in [
        (
            "SELECT k, sum(d) AS s, sum(CAST(d AS BIGINT)) AS i, sum(d::VARCHAR::DOUBLE) AS f FROM t WHERE k = 1 GROUP BY k",
            &["1 1.50 1 1.5"][..],
        ),
        (
            "SELECT k, count(DISTINCT CAST(d AS BIGINT)) AS i, count(DISTINCT d) AS d FROM t WHERE k = 1 GROUP BY k HAVING \
             count(DISTINCT CAST(d AS BIGINT)) > 0",
            &["1 2 2"],
        ),
        (
            "SELECT k, a FROM (SELECT k, a FROM t UNION ALL SELECT k, a FROM t) WHERE a = 9 AND 1 < (SELECT count(*) FROM (SELECT \
             sum(v) AS s, sum(CAST(v AS DOUBLE)) AS d FROM b UNION ALL SELECT sum(CAST(v AS DOUBLE)), sum(v) FROM b))",
            &["9", "9"],
        ),
    ] {
        assert_eq!(both(select).await, expected, "{select}");
    }
    // If this fails, DataFusion's names say which casts there are, and `sql/cast_names.rs` can go.
    let context = datafusion::prelude::SessionContext::new();
    let sql = "SELECT sum(x) AS a, sum(CAST(x AS DOUBLE)) AS b FROM (VALUES (1)) AS t(x)";
    assert!(context.sql(sql).await.is_err());
}

#[tokio::test]
async fn keys_may_be_casts_of_other_keys() {
    for (select, expected) in [
        (
            "SELECT CAST(a AS VARCHAR) AS t, a, count(*) AS n FROM t GROUP BY CAST(a AS VARCHAR), a",
            &["1 1 1", "2 2 1", "7 7 1", "9 9 1"][..],
        ),
        (
            "SELECT CAST(d AS BIGINT) AS i, d, max(a) AS m FROM t WHERE k = 1 GROUP BY d, CAST(d AS BIGINT)",
            &["0 0.00 2", "1 1.50 1"][..],
        ),
    ] {
        assert_eq!(both(select).await, expected, "{select}");
    }
    // If this fails, DataFusion's rule names what it projects, and `plan/group_names.rs` can go.
    let context = datafusion::prelude::SessionContext::new();
    let sql = "SELECT CAST(x AS VARCHAR) AS c, x FROM (VALUES (1)) AS t(x) GROUP BY CAST(x AS VARCHAR), x";
    let frame = context.sql(sql).await.unwrap();
    assert!(frame.collect().await.is_err());
}
