//! A restart with another query: what gives state its meaning may not change, and every difference is named; what
//! does not may, and gives right results.

use std::collections::BTreeSet;

use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::functions_aggregate::expr_fn::{max, sum};
use datafusion::prelude::{col, lit};
use serde_json::Value;
use tidemill::prelude::*;
use tidemill::sql::SqlOutcome;

use crate::support::harness::{Place, session};

const ROWS: &str = r#"
{"id":1,"k":1,"s":"x","v":10,"t":"2024-01-01T00:00:01"}
{"id":2,"k":2,"s":"y","v":20,"t":"2024-01-01T00:00:03"}
{"id":3,"k":1,"s":"x","v":30,"t":"2024-01-01T00:00:14"}
"#;

/// The tables `a` and `b` over the same files, views of prices, and what is done with `query`.
fn script(place: &Place, mode: &str, query: &str, explain: bool) -> String {
    let input = place.text("in");
    let columns = "id INT, k INT, s VARCHAR, v INT, t TIMESTAMP, WATERMARK FOR t AS t - INTERVAL '5 seconds'";
    let table = |name: &str| {
        format!("CREATE UNBOUNDED EXTERNAL TABLE {name} ({columns}) STORED AS JSON LOCATION '{input}';")
    };
    let view =
        |name: &str, price: &str| format!("CREATE VIEW {name} AS SELECT k, t, {price} AS price FROM b;");
    let views =
        [("doubled", "v * 2"), ("again", "v * 2"), ("tripled", "v * 3"), ("named", "CAST(id AS BIGINT)")];
    let views = views.map(|(name, price)| view(name, price)).concat();
    let (tables, ck) = (format!("{}{}{views}", table("a"), table("b")), place.text("ck"));
    let sink = "CREATE EXTERNAL TABLE o STORED AS NOOP;";
    match explain {
        true => format!(
            "{tables}{sink}EXPLAIN STREAMING QUERY ON '{ck}' OUTPUT MODE {mode} AS INSERT INTO o {query};"
        ),
        false => format!(
            "{tables}{sink}CREATE STREAMING QUERY q OUTPUT MODE {mode} TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '{ck}' \
             AS INSERT INTO o {query};"
        ),
    }
}

async fn run(place: &Place, mode: &str, query: &str) -> tidemill::Result<()> {
    for outcome in session().sql(&script(place, mode, query, false)).await? {
        if let SqlOutcome::Query(started) = outcome {
            started.query.await_termination().await?;
        }
    }
    Ok(())
}

/// What `EXPLAIN STREAMING QUERY … ON` says of a start.
async fn explained(place: &Place, mode: &str, query: &str) -> String {
    let outcomes = session().sql(&script(place, mode, query, true)).await.unwrap();
    let Some(SqlOutcome::Table(batches)) = outcomes.into_iter().next_back() else {
        panic!("no plan: {query}")
    };
    pretty_format_batches(&batches).unwrap().to_string()
}

/// A query, and others.
struct Story {
    mode: &'static str,
    query: &'static str,
    /// What may not take its place, and what is said then.
    refused: &'static [(&'static str, &'static str)],
    /// What may.
    fine: &'static [&'static str],
}

const STORIES: &[Story] = &[
    Story {
        mode: "APPEND",
        query: "SELECT window_start, window_end, count(*) AS n FROM TUMBLE(TABLE a, DESCRIPTOR(t), INTERVAL '10' SECOND) GROUP BY \
                window_start, window_end",
        refused: &[
            (
                "SELECT window_start, window_end, count(*) AS n FROM TUMBLE(TABLE a, DESCRIPTOR(t), INTERVAL '20' SECOND) GROUP BY \
                 window_start, window_end",
                "definition 'window_end: windows of 20000000us by a.t' of stateful operator 0 (aggregate) is new",
            ),
            (
                "SELECT window_start, window_end, count(*) AS n FROM TUMBLE(TABLE a, DESCRIPTOR(t), INTERVAL '10' SECOND, INTERVAL \
                 '3' SECOND) GROUP BY window_start, window_end",
                "definition 'window_end: windows of 10000000us from 3000000us by a.t'",
            ),
            (
                "SELECT window_start, window_end, count(*) AS n FROM CUMULATE(TABLE a, DESCRIPTOR(t), INTERVAL '5' SECOND, INTERVAL \
                 '10' SECOND) GROUP BY window_start, window_end",
                "definition 'window_end: windows of 10000000us by a.t in steps of 5000000us'",
            ),
            (
                "SELECT window_start, window_end, count(*) AS n FROM HOP(TABLE a, DESCRIPTOR(t), INTERVAL '5' SECOND, INTERVAL '10' \
                 SECOND) GROUP BY window_start, window_end",
                "definition 'window_end: windows of 10000000us every 5000000us by a.t'",
            ),
        ],
        fine: &[
            "SELECT window_start, window_end, count(*) AS n FROM TUMBLE(TABLE a, DESCRIPTOR(t), '10 seconds') GROUP BY window_start, \
             window_end",
            "SELECT window_start, window_end, 1 + count(*) AS n FROM TUMBLE(TABLE a, DESCRIPTOR(t), INTERVAL '10' SECOND) WHERE v > 0 \
             GROUP BY window_start, window_end",
        ],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT window_end, count(*) AS n FROM TUMBLE(TABLE a, DESCRIPTOR(t), INTERVAL '10' SECOND) GROUP BY window_end",
        refused: &[(
            "SELECT window_end, count(*) AS n FROM TUMBLE(TABLE a, DESCRIPTOR(t), INTERVAL '5' SECOND) GROUP BY window_end",
            "definition 'window_end: windows of 10000000us by a.t' of stateful operator 0 (aggregate) is gone",
        )],
        fine: &[],
    },
    Story {
        mode: "APPEND",
        query: "SELECT window_start, window_end, count(*) AS n FROM HOP(TABLE a, DESCRIPTOR(t), INTERVAL '2' SECOND, INTERVAL '10' \
                SECOND) GROUP BY window_start, window_end",
        refused: &[
            (
                "SELECT window_start, window_end, count(*) AS n FROM HOP(TABLE a, DESCRIPTOR(t), INTERVAL '5' SECOND, INTERVAL '10' \
                 SECOND) GROUP BY window_start, window_end",
                "windows of 10000000us every 5000000us",
            ),
            (
                "SELECT window_start, window_end, count(*) AS n FROM HOP(TABLE a, DESCRIPTOR(t), INTERVAL '2' SECOND, INTERVAL '8' \
                 SECOND) GROUP BY window_start, window_end",
                "windows of 8000000us every 2000000us",
            ),
        ],
        fine: &[],
    },
    Story {
        mode: "APPEND",
        query: "SELECT window_start, window_end, count(*) AS n FROM CUMULATE(TABLE a, DESCRIPTOR(t), INTERVAL '2' SECOND, INTERVAL '10' \
                SECOND) GROUP BY window_start, window_end",
        refused: &[
            (
                "SELECT window_start, window_end, count(*) AS n FROM CUMULATE(TABLE a, DESCRIPTOR(t), INTERVAL '5' SECOND, INTERVAL \
                 '10' SECOND) GROUP BY window_start, window_end",
                "windows of 10000000us by a.t in steps of 5000000us",
            ),
            (
                "SELECT window_start, window_end, count(*) AS n FROM CUMULATE(TABLE a, DESCRIPTOR(t), INTERVAL '2' SECOND, INTERVAL \
                 '10' SECOND, INTERVAL '1' SECOND) GROUP BY window_start, window_end",
                "from 1000000us by a.t in steps of 2000000us",
            ),
            (
                "SELECT window_start, window_end, count(*) AS n FROM CUMULATE(TABLE a, DESCRIPTOR(t), INTERVAL '2' SECOND, INTERVAL \
                 '20' SECOND) GROUP BY window_start, window_end",
                "windows of 20000000us by a.t in steps of 2000000us",
            ),
        ],
        fine: &[],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT k, window(t, '10 seconds') AS w, count(*) AS n FROM a GROUP BY k, window(t, '10 seconds')",
        refused: &[(
            "SELECT k, window(t + INTERVAL '3 seconds', '10 seconds') AS w, count(*) AS n FROM a \
             GROUP BY k, window(t + INTERVAL '3 seconds', '10 seconds')",
            "window time 'window_start: a.t' of stateful operator 0 (aggregate) is gone",
        )],
        fine: &[
            "SELECT k, window(x.t, '10 seconds') AS w, count(*) AS n FROM a x GROUP BY k, window(x.t, '10 seconds')",
        ],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT w, count(*) AS n FROM (SELECT window(t, '10 seconds', '5 seconds')['start'] AS w FROM a) GROUP BY w",
        refused: &[(
            "SELECT w, count(*) AS n FROM (SELECT window(t + INTERVAL '3 seconds', '10 seconds', '5 seconds')['start'] AS w FROM a) \
             GROUP BY w",
            "a.t",
        )],
        fine: &[],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT window_start, count(*) AS n FROM TUMBLE(TABLE (SELECT *, t + INTERVAL '3 seconds' AS u FROM a), \
                DESCRIPTOR(t), INTERVAL '10' SECOND) GROUP BY window_start",
        refused: &[(
            "SELECT window_start, count(*) AS n FROM TUMBLE(TABLE (SELECT *, t + INTERVAL '3 seconds' AS u FROM a), \
             DESCRIPTOR(u), INTERVAL '10' SECOND) GROUP BY window_start",
            "window time",
        )],
        fine: &[],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT e, count(*) AS n FROM (SELECT w['end'] AS e FROM (SELECT window(t, '10 seconds') AS w FROM a)) GROUP BY e",
        refused: &[
            (
                "SELECT e, count(*) AS n FROM (SELECT w['end'] AS e FROM (SELECT window(t, '5 seconds') AS w FROM a)) GROUP BY e",
                "definition 'e: windows of 10000000us by a.t' of stateful operator 0 (aggregate) is gone",
            ),
            (
                "SELECT e, count(*) AS n FROM (SELECT w['end'] AS e FROM (SELECT window(t, '10 seconds', '5 seconds') AS w FROM a)) \
                 GROUP BY e",
                "definition 'e: windows of 10000000us every 5000000us by a.t'",
            ),
        ],
        fine: &[],
    },
    Story {
        mode: "APPEND",
        query: "SELECT w, count(*) AS n FROM (SELECT window(t, '10 seconds') AS w FROM a) GROUP BY w",
        refused: &[(
            "SELECT w, count(*) AS n FROM (SELECT window(t, '5 seconds') AS w FROM a) GROUP BY w",
            "windows of 5000000us by a.t' of stateful operator 0 (aggregate) is new",
        )],
        fine: &[
            "SELECT w, count(*) AS n FROM (SELECT window(x.t, INTERVAL '10' SECOND) AS w FROM a x) GROUP BY w",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT m, count(*) AS n FROM (SELECT date_trunc('minute', t) AS m FROM a) GROUP BY m",
        refused: &[(
            "SELECT m, count(*) AS n FROM (SELECT date_trunc('hour', t) AS m FROM a) GROUP BY m",
            "definition 'm: date_trunc(Utf8(\"minute\"), a.t)' of stateful operator 0 (aggregate) is gone",
        )],
        fine: &[
            "SELECT m, count(*) AS n FROM (SELECT date_trunc('minute', x.t) AS m FROM a x WHERE v > 1) GROUP BY m",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT k, session_window(t, '4 seconds') AS w, count(*) AS n FROM a GROUP BY k, session_window(t, '4 seconds')",
        refused: &[(
            "SELECT k, session_window(t, '1 second') AS w, count(*) AS n FROM a GROUP BY k, session_window(t, '1 second')",
            "definition 'session_window: sessions of a.t with gaps of 4000000us' of stateful operator 0 (sessions) is gone",
        )],
        fine: &[
            "SELECT k, session_window(t, INTERVAL '4' SECOND) AS w, count(*) AS n FROM a GROUP BY k, session_window(t, INTERVAL '4' \
             SECOND)",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT window_start, window_end, count(*) AS n FROM SESSION(TABLE a, DESCRIPTOR(t), CASE WHEN k = 1 THEN '1 second' ELSE \
                '9 seconds' END) GROUP BY window_start, window_end",
        refused: &[
            (
                "SELECT window_start, window_end, count(*) AS n FROM SESSION(TABLE a, DESCRIPTOR(t), CASE WHEN k = 2 THEN '1 second' \
                 ELSE '9 seconds' END) GROUP BY window_start, window_end",
                "with gaps of CASE WHEN",
            ),
            (
                "SELECT window_start, window_end, count(*) AS n FROM SESSION(TABLE a, DESCRIPTOR(t), INTERVAL '1' SECOND) GROUP BY \
                 window_start, window_end",
                "with gaps of 1000000us' of stateful operator 0 (sessions) is new",
            ),
        ],
        fine: &[],
    },
    Story {
        mode: "COMPLETE",
        query: "SELECT k, s, count(*) AS n FROM a GROUP BY ROLLUP (k, s)",
        refused: &[
            (
                "SELECT k, s, count(*) AS n FROM a GROUP BY CUBE (k, s)",
                "grouping set '(s)' of stateful operator 0 (aggregate) is new",
            ),
            (
                "SELECT k, s, count(*) AS n FROM a GROUP BY GROUPING SETS ((k, s), (k))",
                "grouping set '()' of stateful operator 0 (aggregate) is gone",
            ),
            ("SELECT k, s, count(*) AS n FROM a GROUP BY k, s", "key '__grouping_id'"),
        ],
        fine: &["SELECT k, s, count(*) AS n FROM a GROUP BY GROUPING SETS ((), (k), (k, s))"],
    },
    Story {
        mode: "COMPLETE",
        query: "SELECT k, s, count(DISTINCT v) AS n FROM a GROUP BY ROLLUP (k, s)",
        refused: &[(
            "SELECT k, s, count(DISTINCT v) AS n FROM a GROUP BY CUBE (k, s)",
            "definition 'grouping sets (a.k, a.s), (a.k), ()' of stateful operator 0 (distinct) is gone",
        )],
        fine: &["SELECT k, s, count(DISTINCT v) AS n FROM a x GROUP BY ROLLUP (k, s)"],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT k, sum(v) FILTER (WHERE id > 0) AS n, count(DISTINCT s) AS d FROM a GROUP BY k",
        refused: &[
            (
                "SELECT k, sum(v) FILTER (WHERE id > 1) AS n, count(DISTINCT s) AS d FROM a GROUP BY k",
                "is gone",
            ),
            (
                "SELECT k, sum(id) FILTER (WHERE id > 0) AS n, count(DISTINCT s) AS d FROM a GROUP BY k",
                "is gone",
            ),
            (
                "SELECT k, max(v) FILTER (WHERE id > 0) AS n, count(DISTINCT s) AS d FROM a GROUP BY k",
                "is gone",
            ),
            (
                "SELECT k, sum(v) FILTER (WHERE id > 0) AS n, count(DISTINCT v) AS d FROM a GROUP BY k",
                "key 's' (Utf8View) of stateful operator 0 (distinct) is gone",
            ),
            (
                "SELECT k, sum(v) FILTER (WHERE id > 0) AS n, count(DISTINCT s) FILTER (WHERE id > 1) AS d FROM a GROUP BY k",
                "count(DISTINCT a.s) FILTER (WHERE",
            ),
        ],
        fine: &[
            "SELECT k, sum(v) FILTER (WHERE id > 0) * 2 AS n, count(DISTINCT s) AS d FROM a x WHERE id < 99 GROUP BY k",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT a.id, b.v FROM a JOIN b ON a.k = b.k AND b.t BETWEEN a.t AND a.t + INTERVAL '5' SECOND",
        refused: &[
            (
                "SELECT a.id, b.v FROM a JOIN b ON a.k = b.k AND b.t BETWEEN a.t AND a.t + INTERVAL '9' SECOND",
                "condition",
            ),
            (
                "SELECT a.id, b.v FROM a JOIN b ON a.v = b.v AND b.t BETWEEN a.t AND a.t + INTERVAL '5' SECOND",
                "key 'v' (Int32) of stateful operator 0 (joinLeft) is new",
            ),
            (
                "SELECT a.id, b.v FROM a LEFT JOIN b ON a.k = b.k AND b.t BETWEEN a.t AND a.t + INTERVAL '5' SECOND",
                "the join type of stateful operator 0 (joinLeft) was Inner and is Left",
            ),
            (
                "SELECT a.id, b.v FROM a JOIN b ON a.k IS NOT DISTINCT FROM b.k AND b.t BETWEEN a.t AND a.t + INTERVAL '5' SECOND",
                "stateful operator 0 (joinLeft)",
            ),
            (
                "SELECT a.id, a.s, b.v FROM a JOIN b ON a.k = b.k AND b.t BETWEEN a.t AND a.t + INTERVAL '5' SECOND",
                "column 's' (Utf8View) of stateful operator 0 (joinLeft) is new",
            ),
        ],
        fine: &[
            "SELECT a.id + 1 AS id, b.v FROM a JOIN b ON a.k = b.k AND b.t BETWEEN a.t AND a.t + INTERVAL '5' SECOND WHERE a.id > 0",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT x.id, y.v FROM TUMBLE(TABLE a, DESCRIPTOR(t), INTERVAL '10' SECOND) x JOIN TUMBLE(TABLE b, DESCRIPTOR(t), INTERVAL \
                '10' SECOND) y ON x.window_end = y.window_end AND x.k = y.k",
        refused: &[(
            "SELECT x.id, y.v FROM TUMBLE(TABLE a, DESCRIPTOR(t), INTERVAL '5' SECOND) x JOIN TUMBLE(TABLE b, DESCRIPTOR(t), INTERVAL \
             '5' SECOND) y ON x.window_end = y.window_end AND x.k = y.k",
            "definition 'window_end: windows of 5000000us by a.t' of stateful operator 0 (joinLeft) is new",
        )],
        fine: &[],
    },
    Story {
        mode: "APPEND",
        query: "SELECT id, sum(v) OVER (PARTITION BY k ORDER BY t ROWS 2 PRECEDING) AS n, count(v) FILTER (WHERE id > 0) OVER (PARTITION BY \
                k ORDER BY t) AS c, first_value(s) IGNORE NULLS OVER (PARTITION BY k ORDER BY t) AS f FROM a",
        refused: &[
            (
                "SELECT id, sum(v) OVER (PARTITION BY k ORDER BY t ROWS 3 PRECEDING) AS n, count(v) FILTER (WHERE id > 0) OVER \
                 (PARTITION BY k ORDER BY t) AS c, first_value(s) IGNORE NULLS OVER (PARTITION BY k ORDER BY t) AS f FROM a",
                "is gone",
            ),
            (
                "SELECT id, max(v) OVER (PARTITION BY k ORDER BY t ROWS 2 PRECEDING) AS n, count(v) FILTER (WHERE id > 0) OVER \
                 (PARTITION BY k ORDER BY t) AS c, first_value(s) IGNORE NULLS OVER (PARTITION BY k ORDER BY t) AS f FROM a",
                "is gone",
            ),
            (
                "SELECT id, sum(v) OVER (PARTITION BY k ORDER BY t ROWS 2 PRECEDING) AS n, count(v) FILTER (WHERE id > 1) OVER \
                 (PARTITION BY k ORDER BY t) AS c, first_value(s) IGNORE NULLS OVER (PARTITION BY k ORDER BY t) AS f FROM a",
                "is gone",
            ),
            (
                "SELECT id, sum(v) OVER (PARTITION BY k ORDER BY t ROWS 2 PRECEDING) AS n, count(v) FILTER (WHERE id > 0) OVER \
                 (PARTITION BY k ORDER BY t) AS c, first_value(s) OVER (PARTITION BY k ORDER BY t) AS f FROM a",
                "is gone",
            ),
            (
                "SELECT id, sum(v) OVER (PARTITION BY s ORDER BY t ROWS 2 PRECEDING) AS n, count(v) FILTER (WHERE id > 0) OVER \
                 (PARTITION BY s ORDER BY t) AS c, first_value(s) IGNORE NULLS OVER (PARTITION BY s ORDER BY t) AS f FROM a",
                "key 's' (Utf8View) of stateful operator 0 (over) is new",
            ),
            (
                "SELECT id, sum(v) OVER (PARTITION BY k ORDER BY t, id ROWS 2 PRECEDING) AS n, count(v) FILTER (WHERE id > 0) OVER \
                 (PARTITION BY k ORDER BY t, id) AS c, first_value(s) IGNORE NULLS OVER (PARTITION BY k ORDER BY t, id) AS f FROM a",
                "order 'id' of stateful operator 0 (over) is new",
            ),
        ],
        fine: &[
            "SELECT id, 1 + sum(v) OVER (PARTITION BY k ORDER BY t ROWS 2 PRECEDING) AS n, count(v) FILTER (WHERE id > 0) OVER (PARTITION \
             BY k ORDER BY t) AS c, first_value(s) IGNORE NULLS OVER (PARTITION BY k ORDER BY t) AS f FROM a WHERE id < 99",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT id, rank() OVER (PARTITION BY date_trunc('minute', t) ORDER BY v) AS n FROM a",
        refused: &[(
            "SELECT id, rank() OVER (PARTITION BY date_trunc('hour', t) ORDER BY v) AS n FROM a",
            "stateful operator 0 (over)",
        )],
        fine: &[],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT k, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k % 2 ORDER BY v + 1 DESC) AS n FROM a) WHERE n <= 2",
        refused: &[
            (
                "SELECT k, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k % 2 ORDER BY v + 1 DESC) AS n FROM a) WHERE n <= 3",
                "the limit of stateful operator 0 (topN) was 2 and is 3",
            ),
            (
                "SELECT k, v FROM (SELECT k, v, rank() OVER (PARTITION BY k % 2 ORDER BY v + 1 DESC) AS n FROM a) WHERE n <= 2",
                "the rank of stateful operator 0 (topN) was row_number and is rank",
            ),
            (
                "SELECT k, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k % 2 ORDER BY v + 1) AS n FROM a) WHERE n <= 2",
                "the descending of order",
            ),
            (
                "SELECT k, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k % 3 ORDER BY v + 1 DESC) AS n FROM a) WHERE n <= 2",
                "definition 'a.k % Int64(2)' of stateful operator 0 (topN) is gone",
            ),
            (
                "SELECT k, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k % 2 ORDER BY v + 2 DESC) AS n FROM a) WHERE n <= 2",
                "definition 'a.v + Int64(1)' of stateful operator 0 (topN) is gone",
            ),
        ],
        fine: &[
            "SELECT k, v + 1 AS v FROM (SELECT k, v, row_number() OVER (PARTITION BY k % 2 ORDER BY v + 1 DESC) AS n FROM a x) WHERE n <= 2",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT DISTINCT ON (k % 2) id FROM a",
        refused: &[(
            "SELECT DISTINCT ON (k % 3) id FROM a",
            "definition 'a.k % Int64(2)' of stateful operator 0 (deduplicate) is gone",
        )],
        fine: &["SELECT DISTINCT ON (k % 2) id + 1 AS id FROM a"],
    },
    Story {
        mode: "APPEND",
        query: "SELECT DISTINCT k FROM a",
        refused: &[(
            "SELECT DISTINCT v FROM a",
            "key 'v' (Int32) of stateful operator 0 (deduplicate) is new",
        )],
        fine: &["SELECT DISTINCT k FROM a WHERE v > 10"],
    },
    Story {
        mode: "APPEND",
        query: "SELECT a.id, v.v FROM a JOIN b FOR SYSTEM_TIME AS OF a.t AS v ON a.k = v.k",
        refused: &[
            (
                "SELECT a.id, v.v FROM a JOIN b FOR SYSTEM_TIME AS OF a.t AS v ON a.v = v.v",
                "definition 'a.k = v.k' of stateful operator 0 (over) is gone",
            ),
            (
                "SELECT a.id, v.v FROM a LEFT JOIN b FOR SYSTEM_TIME AS OF a.t AS v ON a.v = v.k",
                "definition 'a.v = v.k'",
            ),
            (
                "SELECT a.v AS own, v.v FROM a JOIN b FOR SYSTEM_TIME AS OF a.t AS v ON a.k = v.k",
                "column 'v' (Int32) of stateful operator 0 (over) is new",
            ),
            (
                "SELECT a.id, v.s AS v FROM a JOIN b FOR SYSTEM_TIME AS OF a.t AS v ON a.k = v.k",
                "column '__as_of_version' of stateful operator 0 (over) was Struct(v: Int32) and is Struct(v: Int32, s: ",
            ),
        ],
        fine: &[
            "SELECT a.id, v.v + 1 AS v FROM a JOIN b FOR SYSTEM_TIME AS OF a.t AS v ON a.k = v.k WHERE v.v > 0",
            "SELECT c.id, d.v FROM a AS c JOIN b FOR SYSTEM_TIME AS OF c.t AS d ON c.k = d.k",
        ],
    },
    // What is read no more is kept all the same.
    Story {
        mode: "APPEND",
        query: "SELECT a.id, v.v + v.id AS v FROM a LEFT JOIN b FOR SYSTEM_TIME AS OF a.t AS v ON a.k = v.k",
        refused: &[],
        fine: &[
            "SELECT a.id, v.v FROM a LEFT JOIN b FOR SYSTEM_TIME AS OF a.t AS v ON a.k = v.k",
            "SELECT a.id, v.id AS v FROM a LEFT JOIN b FOR SYSTEM_TIME AS OF a.t AS v ON a.k = v.k",
        ],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT DISTINCT ON (k) k, v + id AS n FROM a ORDER BY k, t DESC",
        refused: &[
            ("SELECT DISTINCT ON (k) k, v + id + length(s) AS n FROM a ORDER BY k, t DESC", "column 's' ("),
            (
                "SELECT DISTINCT ON (k) k, v + id AS n FROM (SELECT id, k, v + 1 AS v, t FROM a) a ORDER BY k, t DESC",
                "origin 'v: a.v + Int64(1)' of stateful operator 0 (topN) is new",
            ),
        ],
        fine: &[
            "SELECT DISTINCT ON (k) k, v AS n FROM a ORDER BY k, t DESC",
            "SELECT DISTINCT ON (k) k, 1 AS n FROM a WHERE s <> 'q' ORDER BY k, t DESC",
            "SELECT DISTINCT ON (k) k, v + id AS n FROM (SELECT t, s || 'x' AS x, k, v, id FROM a) a ORDER BY k, t DESC",
            "SELECT k, id - v AS n FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY t DESC) AS r FROM a) WHERE r = 1",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT a.id, v.v FROM (SELECT id, k, t, t AS u FROM a) AS a JOIN b FOR SYSTEM_TIME AS OF a.t AS v ON a.k = v.k",
        refused: &[(
            "SELECT a.id, v.v FROM (SELECT id, k, t, t AS u FROM a) AS a JOIN b FOR SYSTEM_TIME AS OF a.u AS v ON a.k = v.k",
            "definition 'v.t as of a.u' of stateful operator 0 (over) is new",
        )],
        fine: &[],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT k, m + INTERVAL '1' HOUR AS h, count(*) AS n FROM (SELECT k, date_trunc('minute', t) AS m FROM a) GROUP BY ROLLUP \
                (k, m + INTERVAL '1' HOUR) HAVING grouping(m + INTERVAL '1' HOUR) = 0",
        refused: &[(
            "SELECT k, m + INTERVAL '1' HOUR AS h, count(*) AS n FROM (SELECT k, date_trunc('hour', t) AS m FROM a) GROUP BY ROLLUP (k, \
             m + INTERVAL '1' HOUR) HAVING grouping(m + INTERVAL '1' HOUR) = 0",
            "date_trunc(Utf8(\"hour\"), a.t)' of stateful operator 0 (aggregate) is new",
        )],
        fine: &[
            "SELECT k, m + INTERVAL '1' HOUR AS h, count(*) + 1 AS n FROM (SELECT k, date_trunc('minute', t) AS m FROM a x) GROUP BY \
             ROLLUP (k, m + INTERVAL '1' HOUR)",
        ],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT k, m, count(*) AS n FROM (SELECT k, date_trunc('minute', t) AS m FROM a) GROUP BY GROUPING SETS ((k, m), (m))",
        refused: &[(
            "SELECT k, m, count(*) AS n FROM (SELECT k, date_trunc('hour', t) AS m FROM a) GROUP BY GROUPING SETS ((k, m), (m))",
            "definition 'm: date_trunc(Utf8(\"hour\"), a.t)' of stateful operator 0 (aggregate) is new",
        )],
        fine: &[],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT k, window(t, '10 seconds') AS w, count(*) AS n FROM a GROUP BY GROUPING SETS ((k, window(t, '10 seconds')), \
                (window(t, '10 seconds')))",
        refused: &[(
            "SELECT k, window(t, '5 seconds') AS w, count(*) AS n FROM a GROUP BY GROUPING SETS ((k, window(t, '5 seconds')), \
             (window(t, '5 seconds')))",
            "5",
        )],
        fine: &[],
    },
    Story {
        mode: "COMPLETE",
        query: "SELECT k, count(*) AS n FROM (SELECT * FROM a LIMIT 5) GROUP BY k",
        refused: &[(
            "SELECT k, count(*) AS n FROM (SELECT * FROM a LIMIT 6) GROUP BY k",
            "the fetch of stateful operator 0 (limit) was 5 and is 6",
        )],
        fine: &[],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT k, sum(v) AS n, count(DISTINCT s) AS d FROM a GROUP BY k",
        refused: &[
            (
                "SELECT k, sum(CAST(CAST(v AS TINYINT) AS INT)) AS n, count(DISTINCT s) AS d FROM a GROUP BY k",
                "origin 'sum(a.v): sum(CAST(a.v AS Int8))' of stateful operator 1 (aggregate) is new",
            ),
            (
                "SELECT k, sum(v) AS n, count(DISTINCT s) AS d FROM (SELECT k, v, upper(s) AS s FROM a) a GROUP BY k",
                "origin 's: upper(a.s)' of stateful operator 0 (distinct) is new",
            ),
            (
                "SELECT k, sum(v) AS n, count(DISTINCT s) AS d FROM (SELECT id AS k, v, s FROM a) a GROUP BY k",
                "origin 'k: a.id' of stateful operator 1 (aggregate) is new",
            ),
            (
                "SELECT CAST(CAST(k AS TINYINT) AS INT) AS k, sum(v) AS n, count(DISTINCT s) AS d FROM a GROUP BY CAST(CAST(k AS TINYINT) \
                 AS INT)",
                "origin 'a.k: CAST(a.k AS Int8)' of stateful operator 1 (aggregate) is new",
            ),
        ],
        fine: &[
            "SELECT k, sum(CAST(v AS BIGINT)) AS n, count(DISTINCT s) AS d FROM a GROUP BY k",
            "SELECT k, sum(v) AS n, count(DISTINCT s) AS d FROM (SELECT k, v, s, id + 1 AS more FROM a WHERE id < 9) a GROUP BY k",
        ],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT k, sum(m) AS n FROM (SELECT k, (SELECT max(column1) FROM (VALUES (1, 9))) AS m FROM a) GROUP BY k",
        refused: &[(
            "SELECT k, sum(m) AS n FROM (SELECT k, (SELECT max(column2) FROM (VALUES (1, 9))) AS m FROM a) GROUP BY k",
            "origin 'sum(m): sum((max(column1)))' of stateful operator 0 (aggregate) is gone",
        )],
        fine: &[
            "SELECT k, sum(m) AS n FROM (SELECT k, (SELECT max(column1) FROM (VALUES (2, 9))) AS m FROM a x) GROUP BY k",
        ],
    },
    Story {
        mode: "COMPLETE",
        query: "SELECT k, v, id, count(DISTINCT s) AS n FROM a GROUP BY CUBE((k, v), id)",
        refused: &[
            (
                "SELECT k, v, id, count(DISTINCT s) AS n FROM a GROUP BY CUBE(k, (v, id))",
                "stateful operator 0 (distinct)",
            ),
            (
                "SELECT k, v, id, count(DISTINCT s) AS n FROM (SELECT v AS k, k AS v, id, s FROM a) a GROUP BY CUBE((k, v), id)",
                "origin 'grouping key: a.v' of stateful operator",
            ),
        ],
        fine: &[
            "SELECT k, v, id, count(DISTINCT s) + 1 AS n FROM a WHERE id < 99 GROUP BY CUBE((k, v), id)",
            "SELECT k, v, id, count(DISTINCT s) AS n FROM (SELECT s, v, id, t, k FROM a) a GROUP BY CUBE((k, v), id)",
        ],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT k, sum(y) AS n FROM (SELECT k * 2 AS k, v + 1 AS y FROM a) GROUP BY k",
        refused: &[(
            "SELECT k, sum(y) AS n FROM (SELECT k * 2 AS k, v + 2 AS y FROM a) GROUP BY k",
            "origin 'sum(y): sum(a.v + Int64(1))' of stateful operator 0 (aggregate) is gone",
        )],
        fine: &[
            "SELECT k, sum(y) + 1 AS n FROM (SELECT x.k * 2 AS k, x.v + 1 AS y, x.v + 2 AS z FROM a x) GROUP BY k",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT DISTINCT k, v FROM a",
        refused: &[(
            "SELECT DISTINCT k, id AS v FROM a",
            "origin 'v: a.id' of stateful operator 0 (deduplicate) is new",
        )],
        fine: &["SELECT DISTINCT k, CAST(v AS INT) AS v FROM a x WHERE id < 99"],
    },
    Story {
        mode: "APPEND",
        query: "SELECT id FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k AND b.t BETWEEN a.t AND a.t + INTERVAL '5' SECOND)",
        refused: &[(
            "SELECT id FROM a WHERE EXISTS (SELECT 1 FROM (SELECT v AS k, t FROM b) b WHERE b.k = a.k AND b.t BETWEEN a.t AND a.t + \
             INTERVAL '5' SECOND)",
            "origin 'k: b.v' of stateful operator",
        )],
        fine: &[
            "SELECT id FROM a x WHERE EXISTS (SELECT 1 FROM b y WHERE y.k = x.k AND y.t BETWEEN x.t AND x.t + INTERVAL '5' SECOND)",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT a.id, b.v FROM a JOIN (SELECT k, v, t FROM b) b ON a.k = b.k AND b.t BETWEEN a.t AND a.t + INTERVAL '5' SECOND",
        refused: &[(
            "SELECT a.id, b.v FROM a JOIN (SELECT id AS k, v, t FROM b) b ON a.k = b.k AND b.t BETWEEN a.t AND a.t + INTERVAL '5' SECOND",
            "origin 'k: b.id' of stateful operator",
        )],
        fine: &[
            "SELECT a.id, b.v FROM a JOIN b ON a.k = b.k AND b.t BETWEEN a.t AND a.t + INTERVAL '5' SECOND",
            "SELECT a.id, b.v FROM (SELECT t, id, k FROM a) a JOIN (SELECT t, v, k FROM b) b ON a.k = b.k AND b.t BETWEEN a.t AND a.t + \
             INTERVAL '5' SECOND",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT a.id, b.v FROM a LEFT JOIN b ON a.k = b.k AND b.t BETWEEN a.t - INTERVAL '5' SECOND AND a.t AND b.v > 1",
        refused: &[(
            "SELECT a.id, b.v FROM a LEFT JOIN b ON a.k = b.k AND b.t BETWEEN a.t - INTERVAL '5' SECOND AND a.t AND b.v > 2",
            "origin 'condition: b.v > Int64(1)' of stateful operator 0 (joinLeft) is gone",
        )],
        fine: &[
            "SELECT x.id, y.v + 1 AS v FROM a x LEFT JOIN b y ON x.k = y.k AND y.t BETWEEN x.t - INTERVAL '5' SECOND AND x.t AND y.v > 1 \
             WHERE x.id < 99",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT k, count(*) AS n FROM (SELECT k, t, CASE WHEN k = 1 THEN '1 second' ELSE '8 seconds' END AS g FROM a) \
                GROUP BY k, session_window(t, g)",
        refused: &[(
            "SELECT k, count(*) AS n FROM (SELECT k, t, CASE WHEN k = 1 THEN '1 second' ELSE '9 seconds' END AS g FROM a) \
             GROUP BY k, session_window(t, g)",
            "origin 'session_window: sessions of a.t with gaps of CASE",
        )],
        fine: &[],
    },
    // Two tables with columns of the same names.
    Story {
        mode: "UPDATE",
        query: "SELECT a.v, count(*) AS n FROM a JOIN b ON a.k = b.k GROUP BY a.v",
        refused: &[(
            "SELECT b.v, count(*) AS n FROM a JOIN b ON a.k = b.k GROUP BY b.v",
            "table 'key: v of b' of stateful operator 2 (aggregate) is new",
        )],
        fine: &["SELECT y.v, count(*) AS n FROM a y JOIN b x ON y.k = x.k GROUP BY y.v HAVING count(*) < 99"],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT v, count(*) AS n FROM (SELECT p.v, p.id FROM a p JOIN a q ON p.k = q.k) GROUP BY v",
        refused: &[(
            "SELECT v, count(*) AS n FROM (SELECT q.v, p.id FROM a p JOIN a q ON p.k = q.k) GROUP BY v",
            "table 'key: v of a (2)' of stateful operator 2 (aggregate) is new",
        )],
        fine: &["SELECT v, count(*) AS n FROM (SELECT x.v, y.id FROM a x JOIN a y ON x.k = y.k) GROUP BY v"],
    },
    Story {
        mode: "UPDATE",
        query: "SELECT a.k, a.id, b.id AS other, row_number() OVER (PARTITION BY a.k ORDER BY a.v DESC) AS r \
                FROM a JOIN b ON a.k = b.k QUALIFY r <= 2",
        refused: &[
            (
                "SELECT a.k, a.id, b.id AS other, row_number() OVER (PARTITION BY a.k ORDER BY b.v DESC) AS r \
                 FROM a JOIN b ON a.k = b.k QUALIFY r <= 2",
                "table 'order: v of b' of stateful operator 2 (topN) is new",
            ),
            (
                "SELECT a.k, b.id, a.id AS other, row_number() OVER (PARTITION BY b.k ORDER BY a.v DESC) AS r \
                 FROM a JOIN b ON a.k = b.k QUALIFY r <= 2",
                "table 'key: k of b' of stateful operator 2 (topN) is new",
            ),
        ],
        fine: &[
            "SELECT y.k, y.id, x.id + 1 AS other, row_number() OVER (PARTITION BY y.k ORDER BY y.v DESC) AS r \
                 FROM a y JOIN b x ON y.k = x.k QUALIFY r <= 2",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT c.v AS x, d.v AS y FROM (SELECT a.k, a.v, a.t FROM a JOIN b ON a.k = b.k AND a.v <> b.v) c JOIN b d ON c.k = d.k",
        refused: &[(
            "SELECT c.v AS x, d.v AS y FROM (SELECT a.k, b.v, a.t FROM a JOIN b ON a.k = b.k AND a.v <> b.v) c JOIN b d ON c.k = d.k",
            "table 'v of b (1)' of stateful operator 2 (joinLeft) is new",
        )],
        fine: &[
            "SELECT c.v AS x, d.v AS y FROM (SELECT p.k, p.v, p.t FROM a p JOIN b q ON p.k = q.k AND p.v <> q.v) c JOIN b d ON c.k = d.k",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT a.v AS x, lead(a.id) OVER (PARTITION BY a.k ORDER BY a.t) AS y FROM a JOIN b ON a.k = b.k AND a.t = b.t",
        refused: &[(
            "SELECT b.v AS x, lead(a.id) OVER (PARTITION BY a.k ORDER BY a.t) AS y FROM a JOIN b ON a.k = b.k AND a.t = b.t",
            "table 'v of b' of stateful operator 2 (over) is new",
        )],
        fine: &[
            "SELECT p.v AS x, lead(p.id) OVER (PARTITION BY p.k ORDER BY p.t) AS y FROM a p JOIN b q ON p.k = q.k AND p.t = q.t",
        ],
    },
    Story {
        mode: "APPEND",
        query: "SELECT a.id, p.price FROM a JOIN doubled FOR SYSTEM_TIME AS OF a.t AS p ON a.k = p.k",
        refused: &[
            (
                "SELECT a.id, p.price FROM a JOIN tripled FOR SYSTEM_TIME AS OF a.t AS p ON a.k = p.k",
                "table 'price: v of b * Int64(3)' of stateful operator 0 (over) is new",
            ),
            (
                "SELECT a.id, p.price FROM a JOIN named FOR SYSTEM_TIME AS OF a.t AS p ON a.k = p.k",
                "table 'price: id of b' of stateful operator 0 (over) is new",
            ),
        ],
        fine: &[
            "SELECT x.id, y.price + 1 AS price FROM a x JOIN again FOR SYSTEM_TIME AS OF x.t AS y ON x.k = y.k",
        ],
    },
];

/// The operators in the definition that the checkpoint of `place` has.
fn operators(place: &Place) -> Vec<String> {
    let text = std::fs::read_to_string(place.path("ck/metadata")).unwrap();
    let metadata = text.lines().find_map(|line| serde_json::from_str::<Value>(line).ok()).unwrap();
    let found = metadata.pointer("/query/operators").or_else(|| metadata.pointer("/definition/operators"));
    let Some(Value::Array(operators)) = found else { panic!("no operators in {metadata}") };
    operators.iter().map(|operator| operator["name"].as_str().unwrap().to_string()).collect()
}

#[tokio::test]
async fn what_gives_state_its_meaning_may_not_change() {
    let (mut seen, mut wrong) = (BTreeSet::new(), Vec::new());
    for story in STORIES {
        let place = Place::new();
        place.put("in/0.json", ROWS.trim_start());
        run(&place, story.mode, story.query).await.unwrap_or_else(|error| panic!("{}: {error}", story.query));
        seen.extend(operators(&place));
        for (query, expected) in story.refused {
            match run(&place, story.mode, query).await {
                Ok(()) => wrong.push(format!("accepted: {query}")),
                Err(error) if !error.to_string().contains(expected) => {
                    wrong.push(format!("{query}:\n  expected: {expected}\n  found: {error}"));
                }
                Err(_) => {}
            }
            let text = explained(&place, story.mode, query).await;
            if !text.contains("refused, because it is another query") || !text.contains(expected) {
                wrong.push(format!("EXPLAIN of {query}: {text}"));
            }
        }
        for query in [story.query].iter().chain(story.fine) {
            if let Err(error) = run(&place, story.mode, query).await {
                wrong.push(format!("refused: {query}: {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A new operator has its stories here; those of a program's own are in `user_state`.
    let all = [
        "aggregate",
        "deduplicate",
        "distinct",
        "joinLeft",
        "joinRight",
        "limit",
        "over",
        "overTotals",
        "sessions",
        "topN",
    ];
    assert_eq!(seen, all.map(str::to_string).into());
}

/// The step is of the rows between, which are made when the row behind them is there.
#[tokio::test]
async fn gaps_are_filled_by_the_step_of_the_run() {
    let place = Place::new();
    let at = |second: u32| format!("{{\"id\":{second},\"t\":\"2024-01-01T00:00:{second:02}\"}}\n");
    let gaps = |step: &str| {
        let (input, out, ck) = (place.text("in"), place.text("out"), place.text("ck"));
        format!(
            "CREATE UNBOUNDED EXTERNAL TABLE a (id INT, t TIMESTAMP, WATERMARK FOR t AS t) STORED AS JSON LOCATION '{input}';
             CREATE EXTERNAL TABLE o STORED AS JSON LOCATION '{out}';
             CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '{ck}' AS INSERT INTO o
             SELECT id, date_part('second', t) AS s FROM GAP_FILL(TABLE a, DESCRIPTOR(t), INTERVAL '{step}' SECOND);"
        )
    };
    for (number, (step, seconds)) in [("2", [0, 4]), ("3", [10, 11])].into_iter().enumerate() {
        place.put(&format!("in/{number}.json"), seconds.map(at).concat());
        for outcome in session().sql(&gaps(step)).await.unwrap() {
            if let SqlOutcome::Query(started) = outcome {
                started.query.await_termination().await.unwrap();
            }
        }
    }
    let mut seconds: Vec<i64> =
        place.rows("json", &[]).iter().map(|row| row["s"].as_f64().unwrap() as i64).collect();
    seconds.sort_unstable();
    assert_eq!(seconds, [0, 2, 4, 7, 10]);
}

/// Programs may call functions what they like.
#[tokio::test]
async fn functions_that_have_other_names_are_known_by_what_they_are() {
    let place = Place::new();
    place.put("in/0.json", ROWS.trim_start());
    let start = async |function: datafusion::logical_expr::Expr, within: bool| {
        let session = session();
        let schema = crate::support::harness::schema(&[
            ("k", datafusion::arrow::datatypes::DataType::Int64),
            ("v", datafusion::arrow::datatypes::DataType::Int64),
            (
                "t",
                datafusion::arrow::datatypes::DataType::Timestamp(
                    datafusion::arrow::datatypes::TimeUnit::Microsecond,
                    None,
                ),
            ),
        ]);
        let rows = session.read_stream().format("json").schema(schema).load(place.text("in")).await.unwrap();
        let rows = rows.with_watermark("t", "5 seconds").unwrap();
        let rows = match within {
            true => rows.drop_duplicates_within_watermark(&["k", "v"]).unwrap(),
            false => rows.drop_duplicates(&["k", "v"]).unwrap(),
        };
        let counted = rows.aggregate(vec![col("k")], vec![function.alias("n")]).unwrap();
        let writer = counted.write_stream().format("noop").output_mode(OutputMode::Update);
        let writer = writer.trigger(Trigger::AvailableNow).option("checkpointLocation", place.text("ck"));
        writer.start(None).await?.await_termination().await
    };
    start(sum(col("v")), true).await.unwrap();
    for (function, within, expected) in [
        (sum(col("k")), true, "definition 'n: sum(?table?.k)' of stateful operator 1 (aggregate) is new"),
        (max(col("v")), true, "stateful operator 1 (aggregate)"),
        (sum(col("v") + lit(1)), true, "stateful operator 1 (aggregate)"),
        (
            sum(col("v")),
            false,
            "the within watermark of stateful operator 0 (deduplicate) was true and is false",
        ),
    ] {
        let error = start(function, within).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    start(sum(col("v")), true).await.unwrap();
}

/// Columns may be given that were inferred, and the other way about: Arrow has several layouts of text, and state has one.
#[tokio::test]
async fn layouts_of_text_are_one_type() {
    const GIVEN: &str = "(k VARCHAR, v BIGINT)";
    for columns in [["", GIVEN], [GIVEN, ""]] {
        let place = Place::new();
        for (number, columns) in columns.into_iter().enumerate() {
            place.put(&format!("in/{number}.json"), format!("{{\"k\":\"a\",\"v\":{number}}}\n"));
            let (input, ck) = (place.text("in"), place.text("ck"));
            let script = format!(
                "CREATE UNBOUNDED EXTERNAL TABLE t {columns} STORED AS JSON LOCATION '{input}';
                 CREATE EXTERNAL TABLE o STORED AS MEMORY;
                 CREATE STREAMING QUERY q OUTPUT MODE COMPLETE TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '{ck}' AS INSERT INTO o
                 SELECT k, max(k) AS m, count(DISTINCT k) AS d, sum(v) AS s, count(*) AS n FROM t GROUP BY k;"
            );
            let session = session();
            for outcome in session.sql(&script).await.unwrap() {
                if let SqlOutcome::Query(started) = outcome {
                    started.query.await_termination().await.unwrap();
                }
            }
            let found = session.context().table("o").await.unwrap().collect().await.unwrap();
            let found = pretty_format_batches(&found).unwrap().to_string();
            let (sum, count) = (number, number + 1);
            assert!(found.contains(&format!("| a | a | 1 | {sum} | {count} |")), "{found}");
        }
    }
}
