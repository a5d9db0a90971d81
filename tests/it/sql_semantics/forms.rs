//! Forms of SQL that other engines have: windows of groups, sessions and windows that grow as table functions, and the
//! elements of lists beside their rows.

use super::Place;

const TABLE: &str = "ts TIMESTAMP(6), k INT, n INT, WATERMARK FOR ts AS ts";
const LINES: &str = "{\"ts\":\"2024-01-01T00:00:05\",\"k\":1,\"n\":1}\n{\"ts\":\"2024-01-01T00:00:15\",\"k\":1,\"n\":2}\n\
                     {\"ts\":\"2024-01-01T00:00:16\",\"k\":2,\"n\":4}\n{\"ts\":\"2024-01-01T00:01:05\",\"k\":1,\"n\":8}\n";

/// The rows that a streaming query in append mode gives until its end.
async fn appended(place: &Place, select: &str) -> Vec<String> {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    place.put("appended/a.json", LINES);
    place
        .rows(&format!(
            "CREATE OR REPLACE UNBOUNDED EXTERNAL TABLE t ({TABLE}) STORED AS JSON LOCATION '$/appended/';
             CREATE EXTERNAL TABLE given{number} STORED AS MEMORY;
             CREATE STREAMING QUERY a{number} TRIGGER AVAILABLE NOW OPTIONS ('flushOnEnd' 'true') AS INSERT INTO given{number} {select};
             SELECT * FROM given{number}"
        ))
        .await
}

#[tokio::test]
async fn windows_of_groups_are_calls_of_functions_too() {
    let place = Place::new();
    for (select, rows) in [
        (
            "SELECT TUMBLE_START(ts, INTERVAL '1' MINUTE) AS s, tumble_end(ts, INTERVAL '1' MINUTE) AS e, sum(n) AS n \
             FROM t GROUP BY TUMBLE(ts, INTERVAL '1' MINUTE)",
            vec!["2024-01-01T00:00:00 2024-01-01T00:01:00 7", "2024-01-01T00:01:00 2024-01-01T00:02:00 8"],
        ),
        (
            "SELECT k, HOP_START(ts, INTERVAL '10' SECOND, INTERVAL '20' SECOND) AS s, count(*) AS c FROM t WHERE n < 4 \
             GROUP BY k, HOP(ts, INTERVAL '10' SECOND, INTERVAL '20' SECOND)",
            vec!["1 2023-12-31T23:59:50 1", "1 2024-01-01T00:00:00 2", "1 2024-01-01T00:00:10 1"],
        ),
        (
            "SELECT window_start AS s, window_end AS e, sum(n) AS n FROM CUMULATE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' \
             SECOND, INTERVAL '30' SECOND) GROUP BY window_start, window_end",
            vec![
                "2024-01-01T00:00:00 2024-01-01T00:00:10 1",
                "2024-01-01T00:00:00 2024-01-01T00:00:20 7",
                "2024-01-01T00:00:00 2024-01-01T00:00:30 7",
                "2024-01-01T00:01:00 2024-01-01T00:01:10 8",
                "2024-01-01T00:01:00 2024-01-01T00:01:20 8",
                "2024-01-01T00:01:00 2024-01-01T00:01:30 8",
            ],
        ),
    ] {
        assert_eq!(place.both(TABLE, LINES, select).await, rows, "{select}");
        assert_eq!(appended(&place, select).await, rows, "{select}");
    }
    let sessions = "SELECT k, session_window.start AS s, session_window.end AS e, sum(n) AS n FROM t \
                    GROUP BY k, session_window(ts, '15 seconds') HAVING session_window.start > TIMESTAMP '2024-01-01 00:00:05'";
    let expected =
        ["1 2024-01-01T00:01:05 2024-01-01T00:01:20 8", "2 2024-01-01T00:00:16 2024-01-01T00:00:31 4"];
    assert_eq!(appended(&place, sessions).await, expected);
    let column = "SELECT session_window['end'] AS e FROM (SELECT session_window FROM t GROUP BY session_window(ts, '15 seconds'))";
    assert_eq!(appended(&place, column).await, ["2024-01-01T00:00:31", "2024-01-01T00:01:20"]);
    let named = "SELECT tumble_start AS s FROM (SELECT TUMBLE_START(ts, INTERVAL '1' MINUTE) FROM t GROUP BY TUMBLE(ts, \
                 INTERVAL '1' MINUTE))";
    assert_eq!(place.both(TABLE, LINES, named).await, ["2024-01-01T00:00:00", "2024-01-01T00:01:00"]);
    let error = place
        .error("CREATE OR REPLACE EXTERNAL TABLE t (ts TIMESTAMP) STORED AS JSON LOCATION '$/appended/'; SELECT * FROM CUMULATE(TABLE t, DESCRIPTOR(ts), INTERVAL '7' SECOND, INTERVAL '10' SECOND)")
        .await;
    assert!(error.contains("to be a multiple of its step"), "{error}");
}

#[tokio::test]
async fn sessions_are_windows_of_groups() {
    let place = Place::new();
    let rows = [
        "1 2024-01-01T00:00:05 2024-01-01T00:00:35 2",
        "1 2024-01-01T00:01:05 2024-01-01T00:01:25 1",
        "2 2024-01-01T00:00:16 2024-01-01T00:00:36 1",
    ];
    for select in [
        "SELECT k, SESSION_START(ts, INTERVAL '20' SECOND) AS s, SESSION_END(ts, INTERVAL '20' SECOND) AS e, count(*) AS c \
         FROM t GROUP BY k, SESSION(ts, INTERVAL '20' SECOND)",
        "SELECT k, window_start, window_end, count(*) AS c FROM SESSION(TABLE t, DESCRIPTOR(ts), INTERVAL '20' SECOND) \
         GROUP BY k, window_start, window_end",
        "SELECT x.k, x.window_start, window_end AS e, count(*) AS c FROM TABLE(SESSION(DATA => TABLE t, TIMECOL => \
         DESCRIPTOR(ts), GAP => INTERVAL '20' SECOND)) AS x GROUP BY 1, 2, 3 HAVING window_end > window_start",
        "SELECT k, window_start, window_end, count(*) AS c FROM TABLE(SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL \
         '20' SECOND)) GROUP BY k, window_start, window_end",
    ] {
        assert_eq!(appended(&place, select).await, rows, "{select}");
    }
    for select in [
        "SELECT n, count(*) FROM SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '20' SECOND) GROUP BY n, window_start",
        "SELECT * FROM SESSION(TABLE t, DESCRIPTOR(ts), INTERVAL '20' SECOND)",
        "SELECT k, count(*) FROM SESSION(TABLE t, DESCRIPTOR(ts), INTERVAL '20' SECOND) GROUP BY k",
    ] {
        let error = place.error(&format!("CREATE OR REPLACE EXTERNAL TABLE refused STORED AS MEMORY; CREATE STREAMING QUERY r AS INSERT INTO refused {select}")).await;
        assert!(error.contains("the rows of SESSION have no windows of their own"), "{error}");
    }
}

#[tokio::test]
async fn elements_of_lists_stand_beside_their_rows() {
    let place = Place::new();
    let table = "a INT, l INT[]";
    let lines = "{\"a\":1,\"l\":[10,20]}\n{\"a\":2,\"l\":[]}\n{\"a\":3,\"l\":null}\n{\"a\":4,\"l\":[30]}\n";
    for (select, rows) in [
        ("SELECT t.a, u.x FROM t, UNNEST(t.l) AS u(x)", vec!["1 10", "1 20", "4 30"]),
        ("SELECT t.a, u.x + 1 AS y FROM t CROSS JOIN UNNEST(t.l) AS u(x) WHERE x > 10", vec!["1 21", "4 31"]),
        ("SELECT s.a, x FROM t AS s JOIN UNNEST(s.l) AS u(x) ON x < 30", vec!["1 10", "1 20"]),
        ("SELECT a, x FROM t, LATERAL (SELECT unnest(t.l) AS x)", vec!["1 10", "1 20", "4 30"]),
        ("SELECT a, sum(x) AS s FROM t, UNNEST(t.l) AS u(x) GROUP BY a", vec!["1 30", "4 30"]),
    ] {
        assert_eq!(place.both(table, lines, select).await, rows, "{select}");
    }
}

/// Beside what a batch gives that sees all rows.
#[tokio::test]
async fn window_functions_give_what_they_give_in_a_batch() {
    let place = Place::new();
    for select in [
        "SELECT k, n, lag(n) OVER (PARTITION BY k ORDER BY ts) AS before, lead(n, 1, -1) OVER (PARTITION BY k ORDER BY ts) AS after FROM t",
        "SELECT k, n, sum(n) OVER (PARTITION BY k ORDER BY ts) AS total, row_number() OVER (PARTITION BY k ORDER BY ts) AS i FROM t",
        "SELECT k, n, sum(n) OVER (ORDER BY ts RANGE BETWEEN INTERVAL '10 seconds' PRECEDING AND CURRENT ROW) AS near FROM t",
        "SELECT k, n, first_value(n) OVER w AS f, last_value(n) OVER w AS l, count(*) FILTER (WHERE n > 1) OVER w AS c \
         FROM t WINDOW w AS (PARTITION BY k ORDER BY ts)",
        "SELECT k, n, percent_rank() OVER (PARTITION BY date_trunc('minute', ts) ORDER BY n DESC) AS r FROM t",
        "SELECT n, max(m) OVER (ORDER BY ts ROWS 1 PRECEDING) AS mm FROM (SELECT ts, n, min(n) OVER (PARTITION BY k ORDER BY ts) AS m FROM t)",
        "SELECT k, n - lag(n, 1, 0) OVER (PARTITION BY k ORDER BY ts) AS step FROM t WHERE n <> 4",
    ] {
        place.put("w/a.json", LINES);
        let bounded = "CREATE OR REPLACE EXTERNAL TABLE t (ts TIMESTAMP(6), k INT, n INT) STORED AS JSON LOCATION '$/w/'";
        let batch = place.rows(&format!("{bounded}; {select}")).await;
        assert_eq!(appended(&place, select).await, batch, "{select}");
    }
}

#[tokio::test]
async fn gaps_are_filled_key_by_key() {
    let place = Place::new();
    for (select, rows) in [
        (
            "SELECT k, ts, n FROM GAP_FILL(TABLE t, DESCRIPTOR(ts), INTERVAL '20' SECOND, DESCRIPTOR(k))",
            vec![
                "1 2024-01-01T00:00:05 1",
                "1 2024-01-01T00:00:15 2",
                "1 2024-01-01T00:00:35",
                "1 2024-01-01T00:00:55",
                "1 2024-01-01T00:01:05 8",
                "2 2024-01-01T00:00:16 4",
            ],
        ),
        (
            "SELECT ts, k, n FROM GAP_FILL(TABLE t, DESCRIPTOR(ts), INTERVAL '30' SECOND, LOCF => DESCRIPTOR(n))",
            vec![
                "2024-01-01T00:00:05 1 1",
                "2024-01-01T00:00:15 1 2",
                "2024-01-01T00:00:16 2 4",
                "2024-01-01T00:00:46 4",
                "2024-01-01T00:01:05 1 8",
            ],
        ),
        (
            "SELECT w, k, c FROM GAP_FILL(TABLE (SELECT date_bin(INTERVAL '15 seconds', ts) AS w, k, count(*) AS c FROM t GROUP \
             BY 1, 2), DESCRIPTOR(w), INTERVAL '15' SECOND, DESCRIPTOR(k), DESCRIPTOR(c))",
            vec![
                "2024-01-01T00:00:00 1 1",
                "2024-01-01T00:00:15 1 1",
                "2024-01-01T00:00:15 2 1",
                "2024-01-01T00:00:30 1 1",
                "2024-01-01T00:00:45 1 1",
                "2024-01-01T00:01:00 1 1",
            ],
        ),
    ] {
        place.put("w/a.json", LINES);
        let bounded = "CREATE OR REPLACE EXTERNAL TABLE t (ts TIMESTAMP(6), k INT, n INT) STORED AS JSON LOCATION '$/w/'";
        assert_eq!(place.rows(&format!("{bounded}; {select}")).await, rows, "{select}");
        assert_eq!(appended(&place, select).await, rows, "{select}");
    }
}

#[tokio::test]
async fn a_row_is_joined_with_the_newest_version_up_to_its_time() {
    let place = Place::new();
    place.put(
        "rates/a.json",
        "{\"cur\":\"usd\",\"since\":\"2024-01-01T00:00:00\",\"rate\":10}\n{\"cur\":\"usd\",\"since\":\"2024-01-01T00:10:00\",\"rate\":12}\n\
         {\"cur\":\"yen\",\"since\":\"2024-01-01T00:05:00\",\"rate\":3}\n{\"cur\":null,\"since\":\"2024-01-01T00:00:00\",\"rate\":0}\n",
    );
    place.put(
        "orders/a.json",
        "{\"id\":1,\"cur\":\"usd\",\"at\":\"2024-01-01T00:09:59\"}\n{\"id\":2,\"cur\":\"usd\",\"at\":\"2024-01-01T00:10:00\"}\n\
         {\"id\":3,\"cur\":\"yen\",\"at\":\"2024-01-01T00:04:00\"}\n{\"id\":4,\"cur\":\"yen\",\"at\":\"2024-01-01T00:30:00\"}\n\
         {\"id\":5,\"cur\":null,\"at\":\"2024-01-01T00:30:00\"}\n",
    );
    let tables = |unbounded: &str, watermarks: [&str; 2]| {
        format!(
            "CREATE OR REPLACE {unbounded} EXTERNAL TABLE rates (cur VARCHAR, since TIMESTAMP(6), rate INT{}) STORED AS JSON
             LOCATION '$/rates/';
             CREATE OR REPLACE {unbounded} EXTERNAL TABLE orders (id INT, cur VARCHAR, at TIMESTAMP(6){}) STORED AS JSON
             LOCATION '$/orders/';",
            watermarks[0], watermarks[1]
        )
    };
    let streams = tables("UNBOUNDED", [", WATERMARK FOR since AS since", ", WATERMARK FOR at AS at"]);
    let bounded = tables("", ["", ""]);
    for (select, rows) in [
        (
            "SELECT o.id, r.rate, r.since FROM orders o JOIN rates FOR SYSTEM_TIME AS OF o.at AS r ON o.cur = r.cur",
            vec!["1 10 2024-01-01T00:00:00", "2 12 2024-01-01T00:10:00", "4 3 2024-01-01T00:05:00"],
        ),
        (
            "SELECT id, rates.rate FROM orders LEFT JOIN rates FOR SYSTEM_TIME AS OF orders.at ON rates.cur = orders.cur",
            vec!["1 10", "2 12", "3", "4 3", "5"],
        ),
        (
            "SELECT date_trunc('hour', o.at) AS h, sum(rate) AS s FROM orders o JOIN rates FOR SYSTEM_TIME AS OF o.at r \
             ON o.cur = r.cur GROUP BY 1",
            vec!["2024-01-01T00:00:00 25"],
        ),
    ] {
        assert_eq!(place.rows(&format!("{bounded} {select}")).await, rows, "{select}");
        let streamed = place
            .rows(&format!(
                "{streams} CREATE OR REPLACE EXTERNAL TABLE result STORED AS MEMORY;
                 CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW OPTIONS ('flushOnEnd' 'true') AS INSERT INTO result {select};
                 SELECT * FROM result"
            ))
            .await;
        assert_eq!(streamed, rows, "{select}");
    }
    for (select, reason) in [
        (
            "SELECT * FROM orders o JOIN rates FOR SYSTEM_TIME AS OF o.at r ON o.cur > r.cur",
            "joins by equal columns",
        ),
        ("SELECT * FROM rates FOR SYSTEM_TIME AS OF at", "is for the right table of a JOIN"),
        (
            "SELECT * FROM orders o FULL JOIN rates FOR SYSTEM_TIME AS OF o.at r ON o.cur = r.cur",
            "a Full join",
        ),
    ] {
        let error = place.error(&format!("{bounded} {select}")).await;
        assert!(error.contains(reason), "{error}");
    }
}

/// The first rows of a window come when it is final, long after their own times.
#[tokio::test]
async fn what_is_above_the_first_rows_of_a_window_does_not_take_them_for_late() {
    let place = Place::new();
    let first = |keys: &str, above: &str| {
        format!(
            "SELECT {above} FROM (SELECT *, row_number() OVER (PARTITION BY {keys} ORDER BY n DESC) AS r FROM (SELECT *, \
             window(ts, '1 minute') AS w FROM t)) WHERE r <= 2 GROUP BY 1"
        )
    };
    let grouped = "w.start AS s, count(*) AS c, sum(n) AS n";
    let rows = ["2024-01-01T00:00:00 2 6", "2024-01-01T00:01:00 1 8"];
    assert_eq!(appended(&place, &first("w", grouped)).await, rows);
    let of_seconds = first("w", "date_trunc('second', ts) AS s, count(*) AS c");
    let error = place
        .error(&format!(
            "CREATE OR REPLACE EXTERNAL TABLE o STORED AS MEMORY; CREATE STREAMING QUERY q AS INSERT INTO o {of_seconds}"
        ))
        .await;
    assert!(error.contains("no group is ever final"), "{error}");
    assert_eq!(
        appended(&place, "SELECT DISTINCT ON (date_trunc('minute', ts)) ts, n FROM t ORDER BY date_trunc('minute', ts), n DESC").await,
        ["2024-01-01T00:00:16 4", "2024-01-01T00:01:05 8"]
    );
}

#[tokio::test]
async fn windows_go_on_from_named_ones() {
    let place = Place::new();
    for (select, rows) in [
        (
            "SELECT k, n, sum(n) OVER (x ORDER BY ts) AS s FROM t WINDOW x AS (PARTITION BY k)",
            ["1 1 1", "1 2 3", "1 8 11", "2 4 4"],
        ),
        (
            "SELECT k, n, min(n) OVER (Y ROWS 1 PRECEDING) AS s FROM t WINDOW x AS (PARTITION BY k), y AS (x ORDER BY ts)",
            ["1 1 1", "1 2 1", "1 8 2", "2 4 4"],
        ),
        (
            "SELECT k, n, sum(n) OVER x AS s FROM t WINDOW x AS (PARTITION BY k ORDER BY ts)",
            ["1 1 1", "1 2 3", "1 8 11", "2 4 4"],
        ),
    ] {
        assert_eq!(appended(&place, select).await, rows, "{select}");
        let values = "(VALUES (1, 1, 5), (1, 2, 15), (2, 4, 16), (1, 8, 65)) AS t(k, n, ts)";
        assert_eq!(place.rows(&select.replace("FROM t", &format!("FROM {values}"))).await, rows, "{select}");
    }
    for (select, reason) in [
        ("SELECT sum(n) OVER (z ORDER BY n) FROM (VALUES (1)) AS t(n)", "there is no window z"),
        (
            "SELECT sum(n) OVER (z ORDER BY n) FROM (VALUES (1)) AS t(n) WINDOW z AS (ORDER BY n)",
            "the window z has an ORDER BY",
        ),
        (
            "SELECT sum(n) OVER (z PARTITION BY n) FROM (VALUES (1)) AS t(n) WINDOW z AS (ORDER BY n)",
            "has its PARTITION BY",
        ),
    ] {
        let error = place.error(select).await;
        assert!(error.contains(reason), "{select}: {error}");
    }
}

#[tokio::test]
async fn rows_without_a_time_stay_what_they_are_beside_gaps() {
    let place = Place::new();
    let call = "GAP_FILL(TABLE a, DESCRIPTOR(t), '1 second', DESCRIPTOR(k))";
    place.put("gaps/a.json", "{\"id\":1,\"k\":1,\"t\":\"2024-01-01T00:00:01\"}\n{\"id\":2,\"k\":1}\n{\"id\":3,\"k\":1,\"t\":\"2024-01-01T00:00:03\"}\n");
    let columns = "id INT, k INT, t TIMESTAMP(6)";
    let rows = ["1 1 2024-01-01T00:00:01", "1 2024-01-01T00:00:02", "2 1", "3 1 2024-01-01T00:00:03"];
    let at_once = format!(
        "CREATE EXTERNAL TABLE a ({columns}) STORED AS JSON LOCATION '$/gaps/'; SELECT * FROM {call}"
    );
    assert_eq!(place.rows(&at_once).await, rows);
    let streamed = format!(
        "CREATE OR REPLACE UNBOUNDED EXTERNAL TABLE a ({columns}, WATERMARK FOR t AS t) STORED AS JSON LOCATION '$/gaps/';
         CREATE EXTERNAL TABLE o STORED AS MEMORY;
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW OPTIONS ('flushOnEnd' 'true') AS INSERT INTO o SELECT * FROM {call};
         SELECT * FROM o"
    );
    assert_eq!(place.rows(&streamed).await, rows);
}

#[tokio::test]
async fn sliding_windows_may_be_in_grouping_sets_and_selected() {
    let place = Place::new();
    let select = "SELECT w['start'] AS s, k, c FROM (SELECT window(ts, '20 seconds', '10 seconds') AS w, k, count(*) AS c FROM t \
                  WHERE n < 4 GROUP BY window(ts, '20 seconds', '10 seconds'), ROLLUP (k)) AS z";
    let rows = [
        "2023-12-31T23:59:50 1",
        "2023-12-31T23:59:50 1 1",
        "2024-01-01T00:00:00 1 2",
        "2024-01-01T00:00:00 2",
        "2024-01-01T00:00:10 1",
        "2024-01-01T00:00:10 1 1",
    ];
    assert_eq!(place.both(TABLE, LINES, select).await, rows);
    assert_eq!(appended(&place, select).await, rows);
}

#[tokio::test]
async fn functions_in_several_orders_may_be_within_one_computed_time() {
    let place = Place::new();
    for (select, rows) in [
        (
            "SELECT n, rank() OVER (PARTITION BY date_trunc('minute', ts) ORDER BY n) AS a, rank() OVER (PARTITION BY \
             date_trunc('minute', ts) ORDER BY n DESC) AS b FROM t",
            ["1 1 3", "2 2 2", "4 3 1", "8 1 1"],
        ),
        (
            "SELECT n, rank() OVER (PARTITION BY window(ts, '1 minute') ORDER BY n) AS a, count(*) OVER (PARTITION BY \
             window(ts, '1 minute'), k ORDER BY n DESC) AS b FROM t",
            ["1 1 2", "2 2 1", "4 3 1", "8 1 1"],
        ),
        (
            "SELECT n, count(*) OVER (PARTITION BY k ORDER BY date_trunc('minute', ts), n) AS a, count(*) OVER (PARTITION BY k \
             ORDER BY date_trunc('minute', ts), n DESC) AS b FROM t",
            ["1 1 2", "2 2 1", "4 1 1", "8 3 3"],
        ),
    ] {
        assert_eq!(appended(&place, select).await, rows, "{select}");
    }
}

#[tokio::test]
async fn gaps_are_filled_by_steps_that_go_on() {
    let place = Place::new();
    for (call, reason) in [
        (
            "GAP_FILL(TABLE t, DESCRIPTOR(ts), INTERVAL '-1' SECOND, DESCRIPTOR(k))",
            "must be greater than 0, not INTERVAL '-1' SECOND",
        ),
        ("GAP_FILL(TABLE t, DESCRIPTOR(ts), INTERVAL '0' SECOND)", "must be greater than 0"),
        ("GAP_FILL(TABLE t, DESCRIPTOR(ts), INTERVAL '1 month -30 days')", "must be greater than 0"),
        (
            "GAP_FILL(TABLE t, DESCRIPTOR(ts), n)",
            "is to be a length of time such as INTERVAL '1' MINUTE, not n",
        ),
        (
            "GAP_FILL(TABLE t, DESCRIPTOR(k), INTERVAL '1' SECOND)",
            "is to be a TIMESTAMP or a DATE, and 't.k' is Int32",
        ),
    ] {
        place.put("appended/a.json", LINES);
        let error = place
            .error(&format!(
                "CREATE OR REPLACE UNBOUNDED EXTERNAL TABLE t ({TABLE}) STORED AS JSON LOCATION '$/appended/'; SELECT * FROM {call}"
            ))
            .await;
        assert!(error.contains(reason), "{call}: {error}");
    }
}

#[tokio::test]
async fn an_offset_of_cumulated_windows_may_be_as_long_as_these() {
    let place = Place::new();
    let select = "SELECT window_start AS s, window_end AS e, sum(n) AS n FROM CUMULATE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND, \
                  INTERVAL '40' SECOND, INTERVAL '25' SECOND) WHERE n < 4 GROUP BY window_start, window_end";
    let start = "2023-12-31T23:59:45";
    assert_eq!(
        appended(&place, select).await,
        [format!("{start} 2024-01-01T00:00:15 1"), format!("{start} 2024-01-01T00:00:25 3")]
    );
}

/// Whatever the order in which they are written: the rows of one that looks ahead are not in the order of time any more.
#[tokio::test]
async fn a_function_that_looks_ahead_may_stand_beside_others() {
    let place = Place::new();
    for select in [
        "SELECT n, count(*) OVER (PARTITION BY k ORDER BY ts) AS c, lead(n) OVER (PARTITION BY k ORDER BY ts, n) AS l FROM t",
        "SELECT n, count(*) OVER (PARTITION BY k ORDER BY ts, n) AS c, lead(n) OVER (PARTITION BY k ORDER BY ts) AS l FROM t",
    ] {
        assert_eq!(appended(&place, select).await, rows_of_batch(&place, select).await, "{select}");
    }
}

/// The rows over a bounded table.
async fn rows_of_batch(place: &Place, select: &str) -> Vec<String> {
    place.put("appended/a.json", LINES);
    let columns = TABLE.split(", WATERMARK").next().unwrap();
    place
        .rows(&format!(
            "CREATE OR REPLACE EXTERNAL TABLE t ({columns}) STORED AS JSON LOCATION '$/appended/'; {select}"
        ))
        .await
}

#[tokio::test]
async fn values_that_are_not_null_are_looked_for_in_the_frame() {
    let place = Place::new();
    for function in ["first_value", "last_value"] {
        let select = format!(
            "SELECT n, {function}(CASE WHEN n <> 2 THEN n END) IGNORE NULLS OVER (PARTITION BY k ORDER BY ts ROWS 1 PRECEDING) AS x \
             FROM t"
        );
        assert_eq!(appended(&place, &select).await, rows_of_batch(&place, &select).await, "{select}");
    }
    for (function, reason) in [
        (
            "nth_value(n, 1) OVER (PARTITION BY k ORDER BY ts ROWS UNBOUNDED PRECEDING)",
            "keep the first of them for good",
        ),
        ("lag(n, 1, k) OVER (PARTITION BY k ORDER BY ts)", "which is no constant"),
        ("lag(n) IGNORE NULLS OVER (PARTITION BY k ORDER BY ts)", "may look to any row"),
        ("sum(n) OVER (PARTITION BY k ORDER BY window(ts, '10 seconds'))", "'time_window(t.ts"),
    ] {
        let error = place
            .error(&format!(
                "CREATE OR REPLACE UNBOUNDED EXTERNAL TABLE t ({TABLE}) STORED AS JSON LOCATION '$/appended/'; CREATE OR REPLACE \
                 EXTERNAL TABLE o STORED AS MEMORY; CREATE STREAMING QUERY q AS INSERT INTO o SELECT {function} AS x FROM t"
            ))
            .await;
        assert!(error.contains(reason), "{function}: {error}");
    }
}

#[tokio::test]
async fn distinct_values_of_grouping_sets_know_their_set() {
    let place = Place::new();
    let select = "SELECT k, s, grouping(k) AS a, grouping(k, s) AS b, count(DISTINCT n % 2) AS d, sum(n) AS n FROM (SELECT k, n > 2 AS s, n \
                  FROM t) GROUP BY CUBE (k, s)";
    assert_eq!(place.both(TABLE, LINES, select).await.len(), 8);
}

/// As many rows of a key are kept as have such ranks: 2 is below 2.5, and not below 2.
#[tokio::test]
async fn ranks_may_be_compared_with_any_number() {
    let place = Place::new();
    let lines: String = (0..5).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let ranked = "SELECT n FROM (SELECT n, row_number() OVER (ORDER BY n) AS r FROM t)";
    for (condition, rows) in [
        ("r < 2.5", 2),
        ("r < 2.0", 1),
        ("r <= 2.5", 2),
        ("2.9e0 > r", 2),
        ("r < 1.5", 1),
        ("r < 1", 0),
        ("r < 0.5", 0),
        ("r BETWEEN 2 AND 3.7", 2),
        ("CAST(r AS DOUBLE) <= 3.1", 3),
    ] {
        let found = place.both("n INT", &lines, &format!("{ranked} WHERE {condition}")).await;
        assert_eq!(found.len(), rows, "{condition}");
    }
    place.put("in/a.json", &lines);
    let text = format!(
        "CREATE OR REPLACE UNBOUNDED EXTERNAL TABLE t (n INT) STORED AS JSON LOCATION '$/in/';
         CREATE EXTERNAL TABLE r STORED AS MEMORY;
         CREATE STREAMING QUERY q OUTPUT MODE UPDATE TRIGGER ONCE AS INSERT INTO r {ranked} WHERE CAST(r AS VARCHAR) < '2'"
    );
    place.error(&text).await;
}
