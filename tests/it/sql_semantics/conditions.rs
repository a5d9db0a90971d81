//! Conditions over subqueries and rows, wherever they stand, and what keys and intervals are computed of.

use super::Place;

const COLUMNS: &str =
    "k VARCHAR, n BIGINT, ts TIMESTAMP, l BIGINT[], WATERMARK FOR ts AS ts - INTERVAL '1 second'";
const LINES: &str = "{\"k\":\"a\",\"n\":1,\"ts\":\"2024-01-31T00:00:00\",\"l\":[7,8]}\n{\"k\":\"b\",\"n\":2,\"ts\":\"2024-01-31T00:00:01\",\"l\":[9]}\n\
                     {\"k\":\"a\",\"n\":3,\"ts\":\"2024-01-31T00:00:02\",\"l\":[]}\n{\"k\":\"c\",\"ts\":\"2024-01-31T00:00:03\"}\n";

async fn each_gives(cases: &[(&str, &[&str])]) {
    let place = Place::new();
    for (select, expected) in cases {
        assert_eq!(place.both(COLUMNS, LINES, select).await, *expected, "{select}");
    }
}

/// A group, a window and a sort ask as a column does, with three values.
#[tokio::test]
async fn subqueries_are_conditions_of_groups() {
    each_gives(&[
        (
            "SELECT n IN (SELECT column1 FROM (VALUES (1), (3))) AS x, count(*) AS c FROM t GROUP BY 1",
            &["1", "false 1", "true 2"],
        ),
        (
            "SELECT count(*) AS c FROM t GROUP BY k NOT IN (SELECT column1 FROM (VALUES ('a'), ('z')))",
            &["2", "2"],
        ),
        (
            "SELECT k, count(*) FILTER (WHERE n IN (SELECT column1 FROM (VALUES (1), (9)))) AS c FROM t GROUP BY k",
            &["a 1", "b 0", "c 0"],
        ),
        (
            "SELECT k, sum(CASE WHEN EXISTS (SELECT 1 FROM (VALUES (1), (2)) AS v(x) WHERE x = n) THEN n ELSE 0 END) \
             AS s FROM t GROUP BY k",
            &["a 1", "b 2", "c 0"],
        ),
        (
            "SELECT k IN (SELECT column1 FROM (VALUES ('a'))) AS x, grouping(k IN (SELECT column1 FROM (VALUES ('a')))) AS g, \
             count(*) AS c FROM t GROUP BY ROLLUP (k IN (SELECT column1 FROM (VALUES ('a'))))",
            &["1 4", "false 0 2", "true 0 2"],
        ),
        ("SELECT k, k = ANY (SELECT column1 FROM (VALUES ('a'), ('b'))) AS x FROM t WHERE n > 0", &[
            "a true", "a true", "b true",
        ]),
    ])
    .await;
    let place = Place::new();
    place.put("in/a.json", LINES);
    let table = "CREATE EXTERNAL TABLE t (k VARCHAR, n BIGINT) STORED AS JSON LOCATION '$/in/'";
    let ranked = "SELECT k, n, row_number() OVER (PARTITION BY n IN (SELECT column1 FROM (VALUES (1), (2))) ORDER BY n) AS r \
                  FROM t WHERE n > 0 ORDER BY n IN (SELECT column1 FROM (VALUES (3))), n";
    assert_eq!(place.rows(&format!("{table}; {ranked}")).await, ["a 1 1", "a 3 1", "b 2 2"]);
}

#[tokio::test]
async fn rows_of_subqueries_are_compared_with_three_values() {
    each_gives(&[
        (
            "SELECT n, n <> ALL (SELECT column1 FROM (VALUES (1), (5))) AS x FROM t WHERE k <> 'b'",
            &["", "1 false", "3 true"],
        ),
        (
            "SELECT n, n < ANY (SELECT column1 FROM (VALUES (2), (NULL))) AS x FROM t",
            &["", "1 true", "2", "3"],
        ),
        (
            "SELECT n, n <= ALL (SELECT column1 FROM (VALUES (2), (3))) AS x FROM t",
            &["", "1 true", "2 true", "3 false"],
        ),
        (
            "SELECT n, n >= ALL (SELECT column1 FROM (VALUES (2), (NULL))) AS x FROM t",
            &["", "1 false", "2", "3"],
        ),
        (
            "SELECT n, n > ALL (SELECT column1 FROM (VALUES (2)) WHERE column1 > 9) AS x FROM t",
            &["1 true", "2 true", "3 true", "true"],
        ),
        (
            "SELECT n, n <> ANY (SELECT column1 FROM (VALUES (1), (1))) AS x FROM t",
            &["", "1 false", "2 true", "3 true"],
        ),
        (
            "SELECT n, n = ALL (SELECT column1 FROM (VALUES (1), (1))) AS x FROM t",
            &["", "1 true", "2 false", "3 false"],
        ),
        ("SELECT n FROM t WHERE n = ANY (SELECT column1 FROM (VALUES (1), (NULL)))", &["1"]),
        ("SELECT n FROM t WHERE n <> ALL (SELECT column1 FROM (VALUES (1), (2)))", &["3"]),
        ("SELECT n FROM t WHERE n <> ALL (SELECT column1 FROM (VALUES (1), (NULL)))", &[]),
    ])
    .await;
}

/// A null in a row makes unknown what its other values do not tell.
#[tokio::test]
async fn rows_are_compared_by_their_values() {
    const PAIRS: &str = "(VALUES ('a', 1), ('b', 5), ('c', NULL)) AS v(x, y)";
    let pairs = |select: &str| select.replace("PAIRS", PAIRS);
    let place = Place::new();
    for (select, expected) in [
        ("SELECT k, n FROM t WHERE (k, n) IN (('a', 1), ('b', 2), ('c', NULL))", vec!["a 1", "b 2"]),
        ("SELECT k, n FROM t WHERE (k, n) NOT IN (('a', 1), ('b', 5))", vec!["a 3", "b 2", "c"]),
        ("SELECT k, n FROM t WHERE (k, n) NOT IN (('a', 1), ('c', 2))", vec!["a 3", "b 2"]),
        ("SELECT k, n FROM t WHERE (k, n) = ('a', 3)", vec!["a 3"]),
        ("SELECT k, n FROM t WHERE (k, n) <> ('c', 3)", vec!["a 1", "a 3", "b 2"]),
        ("SELECT k, n FROM t WHERE (k, n) > ('a', 1)", vec!["a 3", "b 2", "c"]),
        ("SELECT k, n FROM t WHERE (k, n) <= ('b', 2)", vec!["a 1", "a 3", "b 2"]),
        ("SELECT (k, n) = ('a', 1) AS x FROM t WHERE k <> 'b'", vec!["false", "false", "true"]),
        ("SELECT k, n FROM t WHERE (k, n) IN (SELECT x, y FROM PAIRS)", vec!["a 1"]),
        ("SELECT k, n FROM t WHERE (k, n * 5) IN (SELECT x, y * 5 FROM PAIRS) AND n > 0", vec!["a 1"]),
        ("SELECT k, n FROM t WHERE (k, n) NOT IN (SELECT x, y FROM PAIRS)", vec!["a 3", "b 2"]),
        (
            "SELECT k, n FROM t WHERE NOT ((k, n) IN (SELECT x, y FROM PAIRS)) OR n = 1",
            vec!["a 1", "a 3", "b 2"],
        ),
        (
            "SELECT k, n FROM t WHERE (k, n) NOT IN (SELECT x, y FROM PAIRS WHERE y = 1)",
            vec!["a 3", "b 2", "c"],
        ),
    ] {
        assert_eq!(place.both(COLUMNS, LINES, &pairs(select)).await, expected, "{select}");
    }
    place.put("in/a.json", LINES);
    let table = "CREATE OR REPLACE EXTERNAL TABLE t (k VARCHAR, n BIGINT) STORED AS JSON LOCATION '$/in/'";
    let error =
        place.error(&format!("{table}; SELECT {} FROM t", pairs("(k, n) IN (SELECT x, y FROM PAIRS)"))).await;
    assert!(error.contains("WHERE and ON only"), "{error}");
}

#[tokio::test]
async fn intervals_are_multiplied_and_divided() {
    each_gives(&[
        ("SELECT ts + 2 * INTERVAL '1 hour' AS x FROM t WHERE n = 1", &["2024-01-31T02:00:00"]),
        (
            "SELECT ts + n * INTERVAL '1' DAY AS x FROM t WHERE k <> 'b'",
            &["", "2024-02-01T00:00:00", "2024-02-03T00:00:02"],
        ),
        ("SELECT ts - INTERVAL '1 hour' * n AS x FROM t WHERE n = 2", &["2024-01-30T22:00:01"]),
        ("SELECT ts + INTERVAL '1 day' * 1.5 AS x FROM t WHERE n = 1", &["2024-02-01T12:00:00"]),
        ("SELECT ts + INTERVAL '1 month' / n AS x FROM t WHERE n = 2", &["2024-02-15T00:00:01"]),
        ("SELECT ts + 1.5e0 * (n * INTERVAL '10 minutes') AS x FROM t WHERE n = 2", &["2024-01-31T00:30:01"]),
        (
            "SELECT date_bin(3 * INTERVAL '1 second', ts) AS w, count(*) AS c FROM t GROUP BY 1",
            &["2024-01-31T00:00:00 3", "2024-01-31T00:00:03 1"],
        ),
    ])
    .await;
    let place = Place::new();
    let divided = place.error("SELECT INTERVAL '1 hour' / column1 FROM (VALUES (0))").await;
    assert!(divided.contains("division by zero in INTERVAL"), "{divided}");
    let large = place.error("SELECT INTERVAL '1 month' * column1 FROM (VALUES (9999999999))").await;
    assert!(large.contains("* 9999999999 is no interval that there is"), "{large}");
}

#[tokio::test]
async fn elements_of_lists_have_names_of_their_own() {
    each_gives(&[
        ("SELECT k, x FROM t, UNNEST(l) AS x", &["a 7", "a 8", "b 9"]),
        ("SELECT t.k, x.n, t.n AS m FROM t CROSS JOIN UNNEST(t.l) AS x(n)", &["a 7 1", "a 8 1", "b 9 2"]),
        (
            "SELECT t.k, l.k AS e FROM t LEFT JOIN UNNEST(t.l) AS l(k) ON true",
            &["a", "a 7", "a 8", "b 9", "c"],
        ),
        (
            "SELECT x.n, count(*) AS c FROM t, UNNEST(t.l) AS x(n) WHERE x.n + t.n > 8 GROUP BY x.n",
            &["8 1", "9 1"],
        ),
    ])
    .await;
}

/// What is compared or combined in a key need not be known to DataFusion.
#[tokio::test]
async fn any_key_sorts_the_rows_of_a_function() {
    let place = Place::new();
    place.put("in/a.json", LINES);
    let table =
        "CREATE OR REPLACE EXTERNAL TABLE t (k VARCHAR, n BIGINT, f DOUBLE) STORED AS JSON LOCATION '$/in/'";
    for (select, expected) in [
        ("row_number() OVER (PARTITION BY k ORDER BY CAST(n AS INT) > 2, n)", ["a 1", "a 2", "b 1", "c 1"]),
        ("row_number() OVER (PARTITION BY k ORDER BY length(k) > 2, n)", ["a 1", "a 2", "b 1", "c 1"]),
        (
            "row_number() OVER (PARTITION BY k ORDER BY k LIKE 'a%' AND n > 1, n)",
            ["a 1", "a 2", "b 1", "c 1"],
        ),
        ("rank() OVER (PARTITION BY length(k) > 2 ORDER BY k)", ["a 1", "a 1", "b 3", "c 4"]),
        (
            "count(*) OVER (PARTITION BY CASE WHEN n > 2 THEN 1 END > 0 ORDER BY k)",
            ["a 1", "a 1", "b 2", "c 3"],
        ),
        (
            "first_value(n) OVER (PARTITION BY k ORDER BY n % 2 = 0, abs(n) - 5 DESC)",
            ["a 3", "a 3", "b 2", "c"],
        ),
    ] {
        let found = place.rows(&format!("{table}; SELECT k, {select} AS r FROM t")).await;
        assert_eq!(found, expected, "{select}");
    }
    let joined =
        "SELECT string_agg(k, '' ORDER BY length(k) > 2, CAST(n AS INT) > 2, n DESC) AS s FROM t WHERE n > 0";
    assert_eq!(place.rows(&format!("{table}; {joined}")).await, ["baa"]);
    assert_eq!(
        place.both(COLUMNS, LINES, "SELECT k FROM t GROUP BY k HAVING CAST(max(n) AS INT) > 2").await,
        ["a"]
    );
}

/// `10 / n - 5` is another expression than `10 / (n - 1)`.
#[tokio::test]
async fn errors_keep_parentheses() {
    let place = Place::new();
    place.put("in/a.json", LINES);
    let table = "CREATE OR REPLACE EXTERNAL TABLE t (k VARCHAR, n BIGINT) STORED AS JSON LOCATION '$/in/'";
    for (expression, text) in
        [("10 / (n - 1)", "10 / (t.n - 1)"), ("10 / (n * (n - 1))", "10 / (t.n * (t.n - 1))")]
    {
        let error = place.error(&format!("{table}; SELECT {expression} AS x FROM t")).await;
        assert!(error.contains(text), "{expression}: {error}");
    }
}

#[tokio::test]
async fn versions_of_a_bounded_table_are_refused_by_that() {
    let place = Place::new();
    place.put("in/a.json", LINES);
    let error = place
        .error(
            "CREATE UNBOUNDED EXTERNAL TABLE t (k VARCHAR, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '1 second') STORED AS \
             JSON LOCATION '$/in/'; CREATE EXTERNAL TABLE p (k VARCHAR, ts TIMESTAMP) STORED AS JSON LOCATION '$/in/'; \
             CREATE EXTERNAL TABLE o STORED AS MEMORY; CREATE STREAMING QUERY q AS INSERT INTO o \
             SELECT t.k, p.ts FROM t JOIN p FOR SYSTEM_TIME AS OF t.ts ON t.k = p.k",
        )
        .await;
    assert!(error.contains("joins two unbounded tables, or two bounded ones"), "{error}");
}

/// DataFusion's planner passes over some clauses without a word.
#[tokio::test]
async fn clauses_are_followed_or_refused() {
    let place = Place::new();
    for (select, expected) in [
        ("SELECT k, count(*) AS c FROM t GROUP BY k WITH ROLLUP", vec!["4", "a 2", "b 1", "c 1"]),
        ("SELECT k, count(*) AS c FROM t GROUP BY ROLLUP ((k, n))", vec!["4", "a 1", "a 1", "b 1", "c 1"]),
        (
            "SELECT k, count(*) AS c FROM t GROUP BY CUBE ((k, n), n % 1)",
            vec!["1", "3", "4", "a 1", "a 1", "a 1", "a 1", "b 1", "b 1", "c 1", "c 1"],
        ),
        ("SELECT k, count(*) AS c FROM t GROUP BY k WITH CUBE", vec!["4", "a 2", "b 1", "c 1"]),
        ("SELECT k, count(*) AS c FROM t GROUP BY k WITH TOTALS", vec!["4", "a 2", "b 1", "c 1"]),
        ("SELECT k, count(*) AS c FROM t GROUP BY 1 WITH ROLLUP", vec!["4", "a 2", "b 1", "c 1"]),
        (
            "SELECT k AS x, count(*) AS c FROM t GROUP BY GROUPING SETS ((1), ())",
            vec!["4", "a 2", "b 1", "c 1"],
        ),
        ("SELECT t.k FROM t SEMI JOIN (VALUES ('a')) AS v(x) ON t.k = v.x", vec!["a", "a"]),
        ("SELECT t.k FROM t ANTI JOIN (VALUES ('a')) AS v(x) ON t.k = v.x", vec!["b", "c"]),
        ("SELECT k FROM t WHERE k LIKE ANY ('a%', '%b')", vec!["a", "a", "b"]),
        ("SELECT k FROM t WHERE k NOT ILIKE ANY ('A%', '%b')", vec!["c"]),
        (
            "SELECT k FROM t WHERE k IN (SELECT column1 FROM (VALUES ('a')) UNION ALL SELECT 'b') OR n = 3",
            vec!["a", "a", "b"],
        ),
        ("SELECT k FROM t WHERE n IN (SELECT 1 UNION ALL SELECT 1) OR k = 'c'", vec!["a", "c"]),
    ] {
        assert_eq!(place.both(COLUMNS, LINES, select).await, expected, "{select}");
    }
    place.put("in/a.json", LINES);
    let table = "CREATE OR REPLACE EXTERNAL TABLE t (k VARCHAR, n BIGINT) STORED AS JSON LOCATION '$/in/'";
    for (select, expected) in [
        ("SELECT n FROM t ORDER BY n FETCH FIRST 2 ROWS ONLY", vec!["1", "2"]),
        ("SELECT n FROM t ORDER BY n OFFSET 1 ROWS FETCH NEXT ROW ONLY", vec!["2"]),
    ] {
        assert_eq!(place.rows(&format!("{table}; {select}")).await, expected, "{select}");
    }
    for (select, reason) in [
        (
            "SELECT count(*) FROM t TABLESAMPLE (10 PERCENT)",
            "TABLESAMPLE is not supported: write WHERE random()",
        ),
        ("SELECT count(*) FROM (SELECT * FROM t) AS z TABLESAMPLE (1 ROWS)", "TABLESAMPLE is not supported"),
        ("SELECT k FROM t CONNECT BY PRIOR k = n", "CONNECT BY is not supported: write WITH RECURSIVE"),
        ("SELECT k FROM t PREWHERE n > 1", "PREWHERE is not supported: write WHERE"),
        ("SELECT k FROM t PARTITION (p0)", "PARTITION behind a table is not supported"),
        ("SELECT k FROM t SETTINGS a = 1", "SETTINGS and FORMAT at the end of a query"),
        ("SELECT TOP 2 k FROM t", "TOP is not supported: write LIMIT"),
        ("SELECT k FROM t SORT BY k", "SORT BY is not supported"),
        ("SELECT n FROM t ORDER BY n FETCH FIRST 2 ROWS WITH TIES", "write QUALIFY rank()"),
        (
            "SELECT * FROM t PIVOT (sum(n) FOR k IN ('a', 'b'))",
            "PIVOT is not supported: write a column for each value",
        ),
        ("SELECT k COLLATE nocase FROM t", "COLLATE is not supported"),
        (
            "SELECT a.k FROM t AS a ASOF JOIN t AS b MATCH_CONDITION (a.n >= b.n) ON a.k = b.k",
            "FOR SYSTEM_TIME AS OF",
        ),
        ("SELECT k FROM t CROSS APPLY (SELECT 1) AS x", "CROSS JOIN LATERAL"),
        (
            "SELECT k, (SELECT column1 FROM (VALUES (1), (2)) WHERE column1 = t.n) AS x FROM t",
            "aggregate in it, as in (SELECT max(x) FROM …)",
        ),
    ] {
        let error = place.error(&format!("{table}; {select}")).await;
        assert!(error.contains(reason), "{select}: {error}");
    }
}
