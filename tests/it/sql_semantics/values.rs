//! Values that the libraries below get wrong.

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::array_value_to_string;

use super::{Place, SqlOutcome};

#[tokio::test]
async fn times_with_a_zone_are_instants() {
    let place = Place::new();
    let times = "CREATE OR REPLACE TABLE z AS SELECT
        arrow_cast('2024-07-01T00:00:00-06:00', 'Timestamp(Nanosecond, Some(\"America/Denver\"))') AS denver,
        arrow_cast('2024-07-01T08:00:00+02:00', 'Timestamp(Millisecond, Some(\"Europe/Berlin\"))') AS berlin,
        TIMESTAMP '2024-07-01T06:00:00' AS none";
    for condition in [
        "denver = '2024-07-01T06:00:00Z'::timestamptz",
        "denver = TIMESTAMP WITH TIME ZONE '2024-07-01T00:00:00-06:00'",
        "denver = '2024-07-01T06:00:00Z'",
        "denver = '2024-07-01T06:00:00'",
        "denver = berlin",
        "denver = none",
        "none = denver",
        "none >= denver AND none <= berlin",
        "denver BETWEEN none AND berlin",
        "denver BETWEEN '2024-07-01T05:59:59' AND '2024-07-01T06:00:01'",
        "denver IN (none)",
        "none IN (denver)",
        "none IS NOT DISTINCT FROM denver",
        "CASE denver WHEN none THEN true ELSE false END",
        "CASE WHEN true THEN none ELSE denver END = berlin",
        "coalesce(NULL, none, denver) = berlin",
        "coalesce(denver, none) = none",
        "nullif(denver, none) IS NULL",
        "denver - none = INTERVAL '0 seconds'",
    ] {
        assert_eq!(
            place.rows(&format!("{times}; SELECT count(*) FROM z WHERE {condition}")).await,
            ["1"],
            "{condition}"
        );
    }
    let joined = "SELECT count(*) FROM z a JOIN z b ON a.none = b.denver JOIN z c ON c.berlin = a.none";
    assert_eq!(place.rows(&format!("{times}; {joined}")).await, ["1"]);
    let united = "SELECT count(DISTINCT u) FROM (SELECT none AS u FROM z UNION ALL SELECT denver FROM z UNION ALL \
                  SELECT berlin FROM z)";
    assert_eq!(place.rows(&format!("{times}; {united}")).await, ["1"]);
}

#[tokio::test]
async fn times_without_a_zone_are_in_that_of_the_session() {
    let place = Place::new();
    place.run("SET datafusion.execution.time_zone = 'Asia/Tokyo'").await;
    let times = "CREATE TABLE z AS SELECT
        arrow_cast('2024-07-01T00:00:00-06:00', 'Timestamp(Nanosecond, Some(\"America/Denver\"))') AS denver,
        TIMESTAMP '2024-07-01T15:00:00' AS none";
    place.run(times).await;
    for condition in ["denver = none", "none = denver", "denver = '2024-07-01T15:00:00'", "none IN (denver)"]
    {
        assert_eq!(
            place.rows(&format!("SELECT count(*) FROM z WHERE {condition}")).await,
            ["1"],
            "{condition}"
        );
    }
    // The same where it is DataFusion's own to say.
    let elsewhere = "SELECT count(*) FROM z WHERE denver = '2024-07-01T15:00:00+09:00'";
    assert_eq!(place.rows(elsewhere).await, ["1"]);
}

#[tokio::test]
async fn fields_of_null_structs_are_null() {
    let place = Place::new();
    let lines = "{\"id\":1,\"s\":{\"x\":1,\"y\":\"a\"}}\n{\"id\":2}\n{\"id\":3,\"s\":{\"x\":0,\"y\":\"\"}}\n";
    let columns = "id INT, s STRUCT<x INT, y VARCHAR>";
    for (select, rows) in [
        ("SELECT id, s.x, s.y IS NULL FROM t", ["1 1 false", "2 true", "3 0 false"]),
        (
            "SELECT id, get_field(nullif(s, named_struct('x', 1::INT, 'y', 'a')), 'x') IS NULL FROM t",
            ["1 true", "2 true", "3 false"],
        ),
        (
            "SELECT id, get_field(CASE WHEN id <> 1 THEN named_struct('x', id) END, 'x') IS NULL FROM t",
            ["1 true", "2 false", "3 false"],
        ),
        (
            "SELECT id, v.x IS NULL FROM (SELECT id, nullif(s, named_struct('x', 1::INT, 'y', 'a')) AS v FROM t)",
            ["1 true", "2 true", "3 false"],
        ),
    ] {
        assert_eq!(place.both(columns, lines, select).await, rows, "{select}");
    }
    let unnested = "SELECT * FROM (SELECT unnest(nullif(named_struct('x', column1), named_struct('x', 1))) \
                    FROM (VALUES (1), (2))) AS u (x) WHERE x IS NULL OR x = 2 ORDER BY x";
    assert_eq!(place.rows(unnested).await, ["", "2"]);
}

/// In DataFusion they fail a rule of the optimiser (`tests/it/values/upstream.rs`).
#[tokio::test]
async fn columns_may_be_renamed_beside_a_field_of_a_struct() {
    let place = Place::new();
    let lines = "{\"a\":1,\"b\":10,\"s\":{\"x\":\"p\"}}\n{\"a\":2,\"b\":20,\"s\":{\"x\":\"q\"}}\n";
    let columns = "a INT, b INT, s STRUCT<x VARCHAR>";
    for (select, rows) in [
        ("SELECT b, a, s['x'] AS x FROM (SELECT t.a AS b, t.b AS a, s FROM t) WHERE a > 10", vec!["2 20 q"]),
        ("SELECT a, c, u.s.x FROM (SELECT t.b AS a, t.a AS c, s FROM t) AS u WHERE a > 10", vec!["20 2 q"]),
        (
            "SELECT max(b) AS m, s['x'] AS a FROM (SELECT a AS b, b AS a, s FROM t) WHERE a > 0 GROUP BY s['x']",
            vec!["1 p", "2 q"],
        ),
        ("SELECT window, s['x'] AS x FROM (SELECT a AS window, s FROM t) WHERE window > 1", vec!["2 q"]),
        ("SELECT window.x, a FROM (SELECT s AS window, b AS a FROM t) WHERE window.x = 'q'", vec!["q 20"]),
    ] {
        assert_eq!(place.both(columns, lines, select).await, rows, "{select}");
    }
}

/// If this fails, DataFusion has mended it, and `functions/fields.rs` can go.
#[tokio::test]
async fn datafusion_still_gives_fields_of_null_structs() {
    let sql =
        "SELECT get_field(nullif(named_struct('x', column1), named_struct('x', 1)), 'x') FROM (VALUES (1))";
    let rows = datafusion::prelude::SessionContext::new().sql(sql).await.unwrap().collect().await.unwrap();
    assert_eq!(rows[0].column(0).null_count(), 0);
}

#[tokio::test]
async fn dates_of_texts_are_those_written_there() {
    let place = Place::new();
    let lines = "{\"d\":\"2024-01-01T23:30:00-06:00\"}\n{\"d\":\"2024-01-02 00:30:00+09:00\"}\n{\"d\":\"2024-01-03\"}\n";
    let dates = ["2024-01-01", "2024-01-02", "2024-01-03"];
    for expression in ["CAST(d AS DATE)", "d::date", "TRY_CAST(d AS DATE)", "to_date(d)"] {
        let found = place.both("d VARCHAR", lines, &format!("SELECT {expression} AS d FROM t")).await;
        assert_eq!(found, dates, "{expression}");
    }
    let compared = "SELECT DATE '2024-01-01' = '2024-01-01T23:30:00-06:00', DATE '2024-01-01T23:30:00-06:00'";
    assert_eq!(place.rows(compared).await, ["true 2024-01-01"]);
    assert_eq!(place.rows("SELECT TRY_CAST('2024-13-01T00:00:00-06:00' AS DATE) IS NULL").await, ["true"]);
    assert!(place.error("SELECT CAST('2024-13-01T00:00:00-06:00' AS DATE)").await.contains("2024-13-01"));
}

#[tokio::test]
async fn results_have_the_type_that_the_sink_was_made_for() {
    let place = Place::new();
    for digits in ["2", "1 + 1"] {
        let select =
            format!("SELECT CAST(round(d, {digits}) AS VARCHAR) AS r, round(d, {digits}) AS n FROM t");
        let found = place.both("d DECIMAL(10, 3)", "{\"d\":1.254}\n{\"d\":2.5}\n", &select).await.len();
        assert_eq!(found, 2, "{digits}");
    }
}

/// Of rows that are there m and n times.
#[tokio::test]
async fn set_operations_count_copies() {
    let place = Place::new();
    let left =
        "(VALUES (1, 'a'), (1, 'a'), (1, 'a'), (2, 'b'), (NULL, NULL), (NULL, NULL), (4, 'd')) AS l(x, y)";
    let right = "(VALUES (1, 'a'), (1, 'a'), (NULL, NULL), (3, 'c'), (4, 'd'), (4, 'd')) AS r(x, y)";
    for (operation, expected) in [
        ("INTERSECT ALL", vec!["0", "1", "1", "4"]),
        ("EXCEPT ALL", vec!["0", "1", "2"]),
        ("INTERSECT", vec!["0", "1", "4"]),
        ("EXCEPT", vec!["2"]),
    ] {
        let both = format!("SELECT * FROM {left} {operation} SELECT * FROM {right}");
        let select = format!("SELECT coalesce(x, 0) FROM ({both}) ORDER BY 1");
        assert_eq!(place.rows(&select).await, expected, "{operation}");
        assert_eq!(place.rows(&both).await.len(), expected.len(), "{operation}");
        assert_eq!(bare(&select).await, expected, "{operation} in a context");
    }
    assert_eq!(place.rows("SELECT 1 UNION ALL SELECT 1").await, ["1", "1"]);
    // Other queries whose joins look the same once they are optimised.
    let exists = format!(
        "SELECT x FROM {left} WHERE EXISTS (SELECT 1 FROM {right} WHERE (r.x IS NOT DISTINCT FROM l.x) AND \
         (r.y IS NOT DISTINCT FROM l.y))"
    );
    assert_eq!(bare(&exists).await.len(), 6);
    // If this fails, DataFusion counts copies, and `plan/set_operations.rs` can go.
    let sql = "SELECT * FROM (VALUES (1), (1), (2)) EXCEPT ALL SELECT * FROM (VALUES (1))";
    let rows = datafusion::prelude::SessionContext::new().sql(sql).await.unwrap().count().await.unwrap();
    assert_eq!(rows, 1);
}

/// The values of the only column that the context of a session gives.
async fn bare(select: &str) -> Vec<String> {
    let frame = tidemill::Session::new().context().sql(select).await.unwrap();
    texts(&frame.collect().await.unwrap())
}

/// DataFusion takes the column of `USING` for the left side's.
#[tokio::test]
async fn the_column_of_a_join_is_never_null_where_one_side_has_it() {
    let place = Place::new();
    place.run("CREATE TABLE a AS SELECT 1 AS k, 2 AS v; CREATE TABLE b AS SELECT 3 AS k, 4 AS w").await;
    assert_eq!(place.rows("SELECT k FROM a LEFT JOIN b USING (k)").await, ["1"]);
    for (join, advice) in [
        ("a FULL JOIN b USING (k)", "select coalesce(a.k, b.k) AS k"),
        ("a RIGHT JOIN b USING (k)", "select b.k"),
        ("a NATURAL FULL JOIN b", "coalesce"),
        ("(a RIGHT OUTER JOIN b USING (k)) JOIN b AS c ON true", "b.k"),
    ] {
        for sql in [
            format!("SELECT * FROM {join}"),
            format!("SELECT 1 UNION ALL SELECT k FROM (SELECT * FROM {join})"),
        ] {
            let error = place.error(&sql).await;
            assert!(error.contains("would give null") && error.contains(advice), "{sql}: {error}");
        }
    }
}

/// NaN, of whatever sign, comes after all numbers, and `-0.0` is `0.0`: where rows are limited, ranked or given in order
/// to an aggregate as where they are sorted, in batches and in streams.
#[tokio::test]
async fn there_is_one_order_of_floats() {
    let place = Place::new();
    let lines = "{\"k\":\"a\",\"f\":0.0}\n{\"k\":\"b\",\"f\":-0.0}\n{\"k\":\"c\",\"f\":0.0}\n{\"k\":\"d\",\"f\":-0.0}\n\
                 {\"k\":\"e\",\"f\":\"NaN\"}\n{\"k\":\"f\",\"f\":-7.5}\n";
    place.put("in/a.json", lines);
    // `-f` turns the sign of NaN over.
    for (number, (mode, select, expected)) in [
        (
            "COMPLETE",
            "SELECT k FROM (SELECT k, max(f) AS f FROM t GROUP BY k) ORDER BY f, k LIMIT 2 OFFSET 1",
            "a b",
        ),
        (
            "COMPLETE",
            "SELECT k FROM (SELECT k, -max(f) AS f FROM t GROUP BY k) ORDER BY f, k LIMIT 2 OFFSET 4",
            "f e",
        ),
        (
            "COMPLETE",
            "SELECT k FROM (SELECT k, -max(f) AS f FROM t GROUP BY k) ORDER BY f DESC, k LIMIT 2",
            "e f",
        ),
        ("UPDATE", "SELECT k FROM t ORDER BY -f, k LIMIT 4", "a b c d"),
        ("UPDATE", "SELECT k FROM t QUALIFY rank() OVER (ORDER BY f DESC) <= 2 ORDER BY k", "a b c d e"),
        ("UPDATE", "SELECT k FROM t QUALIFY row_number() OVER (ORDER BY -f DESC) = 1", "e"),
        ("UPDATE", "SELECT string_agg(k, '' ORDER BY -f, k) AS k FROM t", "abcdfe"),
        ("UPDATE", "SELECT first_value(k ORDER BY -f DESC) AS k FROM t", "e"),
    ]
    .into_iter()
    .enumerate()
    {
        let place_of = "STORED AS JSON LOCATION '$/in/'";
        let batch = place
            .run(&format!("CREATE OR REPLACE EXTERNAL TABLE t (k VARCHAR, f DOUBLE) {place_of}; {select}"))
            .await
            .pop();
        let Some(SqlOutcome::Rows(frame)) = batch else { panic!("no rows: {select}") };
        let batch = texts(&frame.collect().await.unwrap());
        let mut expected: Vec<&str> = expected.split(' ').collect();
        assert_eq!(batch.join(" "), expected.join(" "), "at once: {select}");
        let unordered =
            if mode == "UPDATE" { select.replace(" <= 2 ORDER BY k", " <= 2") } else { select.into() };
        let streamed = place
            .rows(&format!(
                "CREATE OR REPLACE UNBOUNDED EXTERNAL TABLE t (k VARCHAR, f DOUBLE) {place_of};
                 CREATE EXTERNAL TABLE r{number} STORED AS MEMORY;
                 CREATE STREAMING QUERY q{number} OUTPUT MODE {mode} TRIGGER ONCE AS INSERT INTO r{number} {unordered};
                 SELECT k FROM r{number}"
            ))
            .await;
        expected.sort_unstable();
        assert_eq!(streamed, expected, "streamed: {select}");
    }
}

/// Where first ranks are taken of a whole result, the keys that they are of are equal as elsewhere.
#[tokio::test]
async fn first_ranks_of_groups_are_by_equal_floats() {
    let place = Place::new();
    let lines = "{\"k\":\"a\",\"f\":0.0}\n{\"k\":\"b\",\"f\":-0.0}\n{\"k\":\"c\",\"f\":1.5}\n{\"k\":\"d\",\"f\":-0.0}\n";
    place.put("in/a.json", lines);
    let groups = "(SELECT k, max(f) AS f FROM t GROUP BY k)";
    for (number, (select, expected)) in [
        (format!("SELECT k FROM {groups} QUALIFY row_number() OVER (PARTITION BY f ORDER BY k) = 1"), "a c"),
        (format!("SELECT k FROM {groups} QUALIFY row_number() OVER (PARTITION BY [f] ORDER BY k) <= 2"), "a b c"),
        (
            format!("SELECT k FROM {groups} QUALIFY rank() OVER (PARTITION BY named_struct('f', f) ORDER BY k) = 3"),
            "d",
        ),
        (format!("SELECT DISTINCT ON (f) k FROM {groups} ORDER BY f, k DESC"), "c d"),
        (format!("SELECT DISTINCT ON ([f]) k FROM {groups} ORDER BY [f], k DESC"), "c d"),
        (format!("SELECT max(k) AS k FROM {groups} GROUP BY f"), "c d"),
        (format!("SELECT CAST(count(DISTINCT f) AS VARCHAR) AS k FROM {groups}"), "2"),
        (
            format!("SELECT k FROM (SELECT k, count(*) OVER (PARTITION BY f) AS n FROM {groups}) WHERE n = 3"),
            "a b d",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let streamed = place
            .rows(&format!(
                "CREATE OR REPLACE UNBOUNDED EXTERNAL TABLE t (k VARCHAR, f DOUBLE) STORED AS JSON LOCATION '$/in/';
                 CREATE EXTERNAL TABLE r{number} STORED AS MEMORY;
                 CREATE STREAMING QUERY q{number} OUTPUT MODE COMPLETE TRIGGER ONCE AS INSERT INTO r{number} {select};
                 SELECT k FROM r{number}"
            ))
            .await;
        assert_eq!(streamed.join(" "), expected, "{select}");
    }
}

/// The texts in the first column.
fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let of = |batch: &RecordBatch| {
        let column = batch.column(0).clone();
        (0..batch.num_rows()).map(move |row| array_value_to_string(&column, row).unwrap())
    };
    batches.iter().flat_map(of).collect()
}

#[tokio::test]
async fn like_takes_any_escape() {
    let place = Place::new();
    let table = "(VALUES ('a_b'), ('axb'), ('a/b'), ('a%b'), ('a\\b')) AS t(v)";
    for (pattern, found) in [
        ("'a/_b' ESCAPE '/'", vec!["a_b"]),
        ("'a/%b' ESCAPE '/'", vec!["a%b"]),
        ("'a//b' ESCAPE '/'", vec!["a/b"]),
        ("'a\\_b' ESCAPE '\\'", vec!["a_b"]),
        ("'a\\b' ESCAPE '/'", vec!["a\\b"]),
        ("'A!_B' ESCAPE '!'", vec![]),
        ("concat('a', '!_', '%') ESCAPE '!'", vec!["a_b"]),
    ] {
        let rows = place.rows(&format!("SELECT v FROM {table} WHERE v LIKE {pattern}")).await;
        assert_eq!(rows, found, "{pattern}");
    }
    let rows = place.rows(&format!("SELECT v FROM {table} WHERE v ILIKE 'A!_B' ESCAPE '!'")).await;
    assert_eq!(rows, ["a_b"]);
}
