//! Conditions over subqueries, whose nulls DataFusion takes for false in places.

use tidemill::Session;
use tidemill::sql::{SqlOutcome, SqlSession};

use super::{batch, batch_in};
use crate::support::harness::Place;
use crate::support::oracle::visible;

/// The values of a list, some of which may be null.
type Values = &'static [Option<i64>];

const LISTS: [Values; 5] = [&[], &[Some(1)], &[Some(1), None], &[None], &[Some(2), Some(1), Some(1)]];

/// SQL's `value IN list`.
fn is_in(value: Option<i64>, list: Values) -> Option<bool> {
    match value {
        _ if list.is_empty() => Some(false),
        None => None,
        value if list.contains(&value) => Some(true),
        _ if list.contains(&None) => None,
        _ => Some(false),
    }
}

fn not(value: Option<bool>) -> Option<bool> {
    value.map(|value| !value)
}

fn or(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

fn table(values: Values) -> String {
    let text = |value: &Option<i64>| value.map_or("NULL".to_string(), |value| value.to_string());
    let rows = values.iter().map(|value| format!("(CAST({} AS BIGINT))", text(value)));
    let rows = rows.chain(["(99)".to_string()]).collect::<Vec<_>>().join(", ");
    format!("(SELECT k FROM (VALUES {rows}) AS l(k) WHERE k IS DISTINCT FROM 99)")
}

const ROWS: &str = "(VALUES (1, CAST(1 AS BIGINT)), (2, 2), (3, NULL), (4, 3)) AS s(i, k)";
const KEYS: [(i64, Option<i64>); 4] = [(1, Some(1)), (2, Some(2)), (3, None), (4, Some(3))];

/// Whether a row passes, of its number, its key and the list.
type Passes = fn(i64, Option<i64>, Values) -> Option<bool>;

/// Conditions, in which `$` is the list.
const CONDITIONS: [(&str, Passes); 12] = [
    ("k IN $", |_, k, list| is_in(k, list)),
    ("k NOT IN $", |_, k, list| not(is_in(k, list))),
    ("NOT (k IN $)", |_, k, list| not(is_in(k, list))),
    ("i > 3 OR k NOT IN $", |i, k, list| or(Some(i > 3), not(is_in(k, list)))),
    ("i > 3 OR k IN $", |i, k, list| or(Some(i > 3), is_in(k, list))),
    ("NOT (i > 3 OR k IN $)", |i, k, list| not(or(Some(i > 3), is_in(k, list)))),
    ("i < 3 AND k NOT IN $", |i, k, list| not(or(Some(i >= 3), is_in(k, list)))),
    ("(k IN $) IS NULL", |_, k, list| Some(is_in(k, list).is_none())),
    ("(k NOT IN $) IS NOT TRUE", |_, k, list| Some(is_in(k, list) != Some(false))),
    ("CASE WHEN k IN $ THEN i > 1 ELSE i > 2 END", |i, k, list| {
        Some(if is_in(k, list) == Some(true) { i > 1 } else { i > 2 })
    }),
    ("2 NOT IN $", |_, _, list| not(is_in(Some(2), list))),
    ("NULL NOT IN $", |_, _, list| not(is_in(None, list))),
];

#[tokio::test]
async fn conditions_over_subqueries_have_three_values() {
    let session = Session::new();
    for list in LISTS {
        for (condition, passes) in CONDITIONS {
            let condition = condition.replace('$', &table(list));
            let query = format!("SELECT i FROM {ROWS} WHERE {condition} ORDER BY i");
            let expected = KEYS.iter().filter(|(i, k)| passes(*i, *k, list) == Some(true));
            let expected: Vec<String> = expected.map(|(i, _)| i.to_string()).collect();
            assert_eq!(batch_in(&session, &query).await, Ok(expected), "{query}");
            // As a column of the result.
            let query = format!("SELECT i, {condition} AS x FROM {ROWS} ORDER BY i");
            let expected = KEYS.iter().map(|(i, k)| match passes(*i, *k, list) {
                Some(value) => format!("{i} {value}"),
                None => format!("{i} NULL"),
            });
            assert_eq!(batch_in(&session, &query).await, Ok(expected.collect()), "{query}");
        }
    }
}

/// The list of each row is another one.
#[tokio::test]
async fn so_have_correlated_ones() {
    let lists = "(VALUES (1, CAST(1 AS BIGINT)), (2, 1), (2, NULL), (4, 1)) AS l(i, k)";
    let list = |i| -> Values {
        match i {
            1 | 4 => &[Some(1)],
            2 => &[Some(1), None],
            _ => &[],
        }
    };
    for (condition, passes) in &CONDITIONS[..7] {
        let condition = condition.replace('$', &format!("(SELECT l.k FROM {lists} WHERE l.i = s.i)"));
        let query = format!("SELECT i FROM {ROWS} WHERE {condition} ORDER BY i");
        let expected = KEYS.iter().filter(|(i, k)| passes(*i, *k, list(*i)) == Some(true));
        let expected: Vec<String> = expected.map(|(i, _)| i.to_string()).collect();
        assert_eq!(batch(&query).await, Ok(expected), "{query}");
    }
    let floats = "(VALUES (CAST(0 AS DOUBLE)), (-CAST(0 AS DOUBLE)), (CAST(1 AS DOUBLE))) AS";
    let query = format!(
        "SELECT count(*) FROM {floats} x(f) WHERE x.f IN (SELECT y.f FROM {floats} y(f) WHERE y.f = x.f AND y.f < 1)"
    );
    assert_eq!(batch(&query).await.unwrap(), ["2"]);
    let exists = format!("EXISTS (SELECT 1 FROM {lists} WHERE l.i = s.i)");
    let query = format!("SELECT i, {exists} AS e, NOT {exists} AS n FROM {ROWS} ORDER BY i");
    let expected = ["1 true false", "2 true false", "3 false true", "4 true false"];
    assert_eq!(batch(&query).await.unwrap(), expected);
}

/// Only the pair that is compared may be null without saying no.
#[tokio::test]
async fn correlated_columns_that_are_null_match_nothing() {
    let place = Place::new();
    let rows =
        [(1, "null", "null"), (2, "1", "null"), (3, "null", "\"x\""), (4, "1", "\"y\""), (5, "2", "\"y\"")];
    let row = |(id, k, s): (i32, &str, &str)| {
        format!("{{\"id\":{id},\"k\":{k},\"s\":{s},\"t\":\"2024-01-01T00:00:10\"}}\n")
    };
    let rows: String = rows.into_iter().chain([(6, "null", "\"y\"")]).map(row).collect();
    place.put("a/0.json", rows);
    place.put("b/0.json", "{\"k\":1,\"s\":\"y\",\"t\":\"2024-01-01T00:00:12\"}\n");
    let columns = "k INT, s VARCHAR, t TIMESTAMP";
    let condition =
        "a.k NOT IN (SELECT b.k FROM b WHERE b.s = a.s AND b.t BETWEEN a.t AND a.t + INTERVAL '5 seconds')";
    let expected = ["1", "2", "3", "5"];
    let root = place.text("");
    let root = root.trim_end_matches('/');
    let bounded = format!(
        "CREATE EXTERNAL TABLE a (id INT, {columns}) STORED AS JSON LOCATION '{root}/a/';
         CREATE EXTERNAL TABLE b ({columns}) STORED AS JSON LOCATION '{root}/b/';
         SELECT id FROM a WHERE {condition} ORDER BY id"
    );
    let Some(SqlOutcome::Rows(frame)) = SqlSession::new(Session::new()).run(&bounded).await.unwrap().pop()
    else {
        panic!("no rows")
    };
    assert_eq!(super::lines(&frame.collect().await.unwrap()), expected);
    let streams = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE a (id INT, {columns}, WATERMARK FOR t AS t) STORED AS JSON LOCATION '{root}/a/';
         CREATE UNBOUNDED EXTERNAL TABLE b ({columns}, WATERMARK FOR t AS t) STORED AS JSON LOCATION '{root}/b/';
         CREATE EXTERNAL TABLE o STORED AS CSV LOCATION '{root}/o/' OPTIONS ('header' 'false');
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '{root}/cp' OPTIONS ('flushOnEnd' true)
             AS INSERT INTO o SELECT id FROM a WHERE {condition}"
    );
    for outcome in SqlSession::new(Session::new()).run(&streams).await.unwrap() {
        if let SqlOutcome::Query(started) = outcome {
            started.query.await_termination().await.unwrap();
        }
    }
    let files = visible(&place.path("o"));
    let text: String =
        files.iter().map(|file| std::fs::read_to_string(place.path("o").join(file)).unwrap()).collect();
    let mut found: Vec<&str> = text.lines().collect();
    found.sort_unstable();
    assert_eq!(found, expected);
}

/// A stream asks bounded tables as a batch does.
#[tokio::test]
async fn streams_give_what_batches_give() {
    for (condition, passes) in CONDITIONS {
        let list: Values = &[Some(1), None];
        let place = Place::new();
        for (i, k) in KEYS {
            let k = k.map_or("null".to_string(), |k| k.to_string());
            place.put(&format!("in/{i}.json"), format!("{{\"i\":{i},\"k\":{k}}}\n"));
        }
        place.put("t.csv", "k,v\n1,1\n,2\n");
        let script = format!(
            "CREATE UNBOUNDED EXTERNAL TABLE s (i BIGINT, k BIGINT) STORED AS JSON LOCATION '$/in/';
             CREATE EXTERNAL TABLE t (k BIGINT, v BIGINT) STORED AS CSV LOCATION '$/t.csv';
             CREATE EXTERNAL TABLE o STORED AS JSON LOCATION '$/out/';
             CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '$/cp' AS
                 INSERT INTO o SELECT i FROM s WHERE {}",
            condition.replace('$', "(SELECT k FROM t)")
        );
        let sql = SqlSession::new(Session::new());
        for outcome in sql.run(&script.replace('$', place.text("").trim_end_matches('/'))).await.unwrap() {
            if let SqlOutcome::Query(started) = outcome {
                started.query.await_termination().await.unwrap();
            }
        }
        let files = if place.path("out").exists() { visible(&place.path("out")) } else { vec![] };
        let texts = files.iter().map(|file| std::fs::read_to_string(place.path("out").join(file)).unwrap());
        let texts: String = texts.collect();
        let mut rows: Vec<&str> = texts.lines().collect();
        rows.sort_unstable();
        let expected = KEYS.iter().filter(|(i, k)| passes(*i, *k, list) == Some(true));
        let expected: Vec<String> = expected.map(|(i, _)| format!("{{\"i\":{i}}}")).collect();
        assert_eq!(rows, expected, "{condition}");
    }
}

/// A condition without columns is not one on the rows below an aggregation.
#[tokio::test]
async fn having_asks_of_groups() {
    let rows = "(VALUES (1), (2)) AS t(k)";
    let never = format!("100 < (SELECT count(*) FROM {rows})");
    for query in [
        format!("SELECT count(*) AS n FROM {rows} HAVING {never}"),
        format!("SELECT k, count(*) AS n FROM {rows} GROUP BY ROLLUP (k) HAVING {never}"),
        format!("SELECT k FROM {rows} GROUP BY CUBE (k) HAVING {never}"),
        format!("SELECT n FROM (SELECT count(*) AS n FROM {rows}) AS q WHERE {never}"),
        format!("SELECT n FROM (SELECT count(*) AS n FROM {rows}) AS q CROSS JOIN {rows} WHERE {never}"),
        format!("SELECT n FROM (SELECT count(*) AS n FROM {rows} UNION ALL SELECT 1) AS q WHERE {never}"),
    ] {
        assert_eq!(batch(&query).await, Ok(vec![]), "{query}");
        let always = query.replace("100 <", "1 <");
        assert!(!batch(&always).await.unwrap().is_empty(), "{always}");
    }
}

/// What is known of a table without reading says nothing of an aggregate with FILTER.
#[tokio::test]
async fn filtered_aggregates_are_not_known_beforehand() {
    let place = Place::new();
    let session = Session::new();
    let file = place.text("t.parquet");
    let copy =
        format!("COPY (SELECT * FROM (VALUES (1, 10), (2, 20)) AS v(k, v)) TO '{file}' STORED AS PARQUET");
    batch_in(&session, &copy).await.unwrap();
    let table = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{file}'");
    batch_in(&session, &table).await.unwrap();
    for (query, expected) in [
        ("SELECT count(*), sum(m) FILTER (WHERE m > 1) FROM (SELECT count(*) AS m FROM t) AS z", "1 2"),
        ("SELECT count(*) FILTER (WHERE m > 100) FROM (SELECT count(*) AS m FROM t) AS z", "0"),
        ("SELECT max(v) FILTER (WHERE v < 20), count(*) FROM t", "10 2"),
    ] {
        assert_eq!(batch_in(&session, query).await.unwrap(), [expected], "{query}");
    }
}
