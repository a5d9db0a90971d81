//! Windows and the columns called after them.

use super::Place;

const TABLE: &str = "ts TIMESTAMP(6), n INT, WATERMARK FOR ts AS ts";
const LINES: &str = "{\"ts\":\"2024-01-01T00:00:05\",\"n\":1}\n{\"ts\":\"2024-01-01T00:00:15\",\"n\":2}\n\
                     {\"ts\":\"2024-01-01T00:01:05\",\"n\":4}\n";

#[tokio::test]
async fn the_column_window_is_that_of_the_group_or_of_the_table() {
    let place = Place::new();
    let inner = "SELECT window, count(*) AS n, max(ts) AS ts FROM t GROUP BY window(ts, '10 seconds')";
    for (select, rows) in [
        (
            "SELECT window.start AS s, count(*) AS n FROM t GROUP BY window(ts, '1 minute') UNION ALL \
             SELECT window.start, count(*) FROM t GROUP BY window(ts, '1 hour')",
            vec!["2024-01-01T00:00:00 2", "2024-01-01T00:00:00 3", "2024-01-01T00:01:00 1"],
        ),
        (
            "SELECT window.start AS s, n FROM (SELECT window(ts, '1 minute') AS window, count(*) AS n FROM t \
             GROUP BY window(ts, '1 minute'))",
            vec!["2024-01-01T00:00:00 2", "2024-01-01T00:01:00 1"],
        ),
        ("SELECT window(ts, '1 hour').start AS s, n FROM t WHERE n = 1", vec!["2024-01-01T00:00:00 1"]),
        (
            "SELECT window(ts, '1 minute') AS w, window.end AS e, sum(n) AS n FROM t GROUP BY 1 HAVING window.start > \
             TIMESTAMP '2024-01-01T00:00:00'",
            vec!["{start: 2024-01-01T00:01:00, end: 2024-01-01T00:02:00} 2024-01-01T00:02:00 4"],
        ),
        (
            "SELECT window.start AS s, n, count(*) AS c FROM t GROUP BY GROUPING SETS ((window(ts, '1 minute'), n), \
             (window(ts, '1 minute')))",
            vec![
                "2024-01-01T00:00:00 1 1",
                "2024-01-01T00:00:00 2",
                "2024-01-01T00:00:00 2 1",
                "2024-01-01T00:01:00 1",
                "2024-01-01T00:01:00 4 1",
            ],
        ),
    ] {
        assert_eq!(place.both(TABLE, LINES, select).await, rows, "{select}");
    }
    // Windows of windows, whose column has the same name: one row for each minute.
    for key in ["1", "window(window, '1 minute')", "m"] {
        let select =
            format!("SELECT window(window, '1 minute') AS m, sum(n) AS n FROM ({inner}) GROUP BY {key}");
        place.put("w/a.json", LINES);
        let table =
            "CREATE OR REPLACE EXTERNAL TABLE t (ts TIMESTAMP(6), n INT) STORED AS JSON LOCATION '$/w/'";
        let rows = place.rows(&format!("{table}; {select}")).await;
        let windows = [
            "{start: 2024-01-01T00:00:00, end: 2024-01-01T00:01:00} 2",
            "{start: 2024-01-01T00:01:00, end: 2024-01-01T00:02:00} 1",
        ];
        assert_eq!(rows, windows, "{key}");
        let other = select.replace("window(window,", "window(ts,");
        assert_eq!(place.rows(&format!("{table}; {other}")).await, windows, "{key}");
    }
    let files = place
        .rows(
            "COPY (SELECT window.start, max(n) FROM t GROUP BY window(ts, '1 minute')) TO '$/c.parquet'; \
               CREATE EXTERNAL TABLE c STORED AS PARQUET LOCATION '$/c.parquet'; \
               SELECT start, max_n, arrow_typeof(start) FROM c",
        )
        .await;
    assert_eq!(files, ["2024-01-01T00:00:00 2 Timestamp(µs)", "2024-01-01T00:01:00 4 Timestamp(µs)"]);
}

/// Also with a context's own SQL, whose text nobody reads before.
#[tokio::test]
async fn windows_of_windows_are_never_grouped_by_more() {
    let session = tidemill::Session::new();
    let inner = "SELECT window(ts, '10 seconds') AS window, count(*) AS n FROM (SELECT TIMESTAMP \
                 '2024-01-01T00:00:00' AS ts UNION ALL SELECT TIMESTAMP '2024-01-01T00:00:15') \
                 GROUP BY window(ts, '10 seconds')";
    let sql = format!("SELECT window(window, '1 minute') AS m, sum(n) FROM ({inner}) GROUP BY 1");
    assert_eq!(session.context().sql(&sql).await.unwrap().count().await.unwrap(), 1);
    let renamed = sql.replace("(window,", "(w,").replace("AS window", "AS w");
    assert_eq!(session.context().sql(&renamed).await.unwrap().count().await.unwrap(), 1);
}

#[tokio::test]
async fn table_functions_take_subqueries() {
    let place = Place::new();
    for call in [
        "TUMBLE(TABLE (SELECT ts, n FROM t WHERE n > 1), DESCRIPTOR(ts), INTERVAL '1' MINUTE)",
        "TABLE(TUMBLE(DATA => TABLE (SELECT ts, n FROM t WHERE n > 1), TIMECOL => DESCRIPTOR(ts), SIZE => INTERVAL '1' \
         MINUTE))",
        "HOP(TABLE (SELECT * FROM t WHERE n > 1), DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '1' MINUTE)",
    ] {
        let select = format!("SELECT window_start, sum(n) AS n FROM {call} GROUP BY window_start");
        let rows = place.both(TABLE, LINES, &select).await;
        assert_eq!(rows, ["2024-01-01T00:00:00 2", "2024-01-01T00:01:00 4"], "{call}");
    }
}

#[tokio::test]
async fn windows_of_processing_time_count_in_update_and_append_mode() {
    let place = Place::new();
    place.put("in/a.json", "{\"bidder\":1}\n{\"bidder\":1}\n{\"bidder\":2}\n");
    let tables = "CREATE UNBOUNDED EXTERNAL TABLE bids (bidder INT) STORED AS JSON LOCATION '$/in/';
                  CREATE EXTERNAL TABLE u STORED AS MEMORY; CREATE EXTERNAL TABLE a STORED AS MEMORY;";
    let select = |from: &str| {
        format!(
            "SELECT bidder, count(*) AS n, window_end > window_start AS ok FROM TUMBLE(TABLE (SELECT * FROM {from}), \
             DESCRIPTOR(at), INTERVAL '10' SECOND) GROUP BY bidder, window_start, window_end"
        )
    };
    let update = select("(SELECT *, now() AS at FROM bids)");
    let append = select("bids WATERMARK now() AS at DELAY OF INTERVAL '0' SECOND");
    let rows = place
        .rows(&format!(
            "{tables} CREATE STREAMING QUERY u1 OUTPUT MODE UPDATE TRIGGER AVAILABLE NOW AS INSERT INTO u {update};
             SELECT bidder, n, ok FROM u"
        ))
        .await;
    assert_eq!(rows, ["1 2 true", "2 1 true"]);
    let rows = place
        .rows(&format!(
            "CREATE STREAMING QUERY a1 TRIGGER AVAILABLE NOW OPTIONS ('flushOnEnd' 'true') AS INSERT INTO a {append};
             SELECT bidder, n, ok FROM a"
        ))
        .await;
    assert_eq!(rows, ["1 2 true", "2 1 true"]);
}
