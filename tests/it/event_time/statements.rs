//! Event time in SQL: watermarks of tables, table functions, `DISTINCT ON`.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::arrow::util::pretty::pretty_format_batches;
use tidemill::prelude::*;
use tidemill::source::memory::MemoryStream;
use tidemill::sql::{SqlOutcome, SqlSession};
use tidemill::{StreamTable, unbounded_tables};

/// A session with the bounded table `t` of times in seconds, of which one is null, and the unbounded
/// tables `bids`, with a watermark, and `plain`.
async fn sql_session() -> SqlSession {
    let sql = SqlSession::new(Session::new());
    let statements = "
        CREATE TABLE t AS SELECT column1 AS id, to_timestamp_seconds(column2) AS ts
            FROM (VALUES (1, -1), (2, 0), (3, 299), (4, 300), (5, 1000), (6, NULL));
        CREATE UNBOUNDED EXTERNAL TABLE bids (
            bidder BIGINT, price BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '10' MINUTE
        ) STORED AS JSON LOCATION '/tmp';
        CREATE EXTERNAL TABLE screen STORED AS NOOP";
    sql.run(statements).await.unwrap();
    let columns = vec![
        Field::new("bidder", DataType::Int64, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true),
    ];
    let plain = Arc::new(MemoryStream::new(Arc::new(Schema::new(columns))));
    sql.session().context().register_table("plain", Arc::new(StreamTable::new(plain))).unwrap();
    sql
}

async fn rows(sql: &SqlSession, query: &str) -> String {
    let outcome = sql.run(query).await.unwrap_or_else(|error| panic!("{query}: {error}")).pop();
    let Some(SqlOutcome::Rows(frame)) = outcome else { panic!("{query}: {outcome:?}") };
    let table = pretty_format_batches(&frame.collect().await.unwrap()).unwrap().to_string();
    let lines = table.lines().skip(3).filter(|line| line.starts_with('|'));
    lines
        .map(|line| line.replace('|', " ").split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n")
}

async fn plan(sql: &SqlSession, query: &str) -> String {
    let frame = sql.streaming_query(query, None).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    frame.logical_plan().display_indent().to_string()
}

#[tokio::test]
async fn tumble_and_hop_give_windows_as_columns() {
    let sql = sql_session().await;
    let tumbled = "1 1969-12-31T23:59:59 1969-12-31T23:55:00 1970-01-01T00:00:00 1969-12-31T23:59:59.999999\n\
                   2 1970-01-01T00:00:00 1970-01-01T00:00:00 1970-01-01T00:05:00 1970-01-01T00:04:59.999999\n\
                   3 1970-01-01T00:04:59 1970-01-01T00:00:00 1970-01-01T00:05:00 1970-01-01T00:04:59.999999\n\
                   4 1970-01-01T00:05:00 1970-01-01T00:05:00 1970-01-01T00:10:00 1970-01-01T00:09:59.999999\n\
                   5 1970-01-01T00:16:40 1970-01-01T00:15:00 1970-01-01T00:20:00 1970-01-01T00:19:59.999999";
    for call in [
        "TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '5' MINUTE)",
        "tumble(t, ts, '5 minutes')",
        "TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '5' MINUTES))",
        "TUMBLE(SIZE => INTERVAL '5 minutes', DATA => TABLE t, TIMECOL => DESCRIPTOR(ts))",
        "TUMBLE((SELECT * FROM t), DESCRIPTOR(ts), INTERVAL '5' MINUTE) AS w",
    ] {
        assert_eq!(rows(&sql, &format!("SELECT * FROM {call} ORDER BY id")).await, tumbled, "{call}");
    }
    let counts = "SELECT window_start, count(*), sum(t.id) FROM \
                  HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '5' MINUTE, INTERVAL '10' MINUTE, INTERVAL '1' MINUTE) \
                  GROUP BY window_start, window_end ORDER BY 1";
    assert_eq!(
        rows(&sql, counts).await,
        "1969-12-31T23:51:00 2 3\n1969-12-31T23:56:00 4 10\n1970-01-01T00:01:00 2 7\n1970-01-01T00:11:00 1 5\n\
         1970-01-01T00:16:00 1 5"
    );
    let own = "SELECT ts, count(*) FROM HOP(TABLE t, DESCRIPTOR(ts), '1 second', '3 seconds') \
               WHERE id = 1 GROUP BY ts";
    assert_eq!(rows(&sql, own).await, "1969-12-31T23:59:59 3");
}

#[tokio::test]
async fn wrong_calls_of_table_functions_say_what_to_write() {
    let sql = sql_session().await;
    for (from, expected) in [
        ("TUMBLE(TABLE t, DESCRIPTOR(id), INTERVAL '1' HOUR)", "window() needs a TIMESTAMP, found Int64"),
        ("TUMBLE(TABLE t, DESCRIPTOR(tx), INTERVAL '1' HOUR)", "No field named tx. Did you mean"),
        ("TUMBLE(TABLE t, DESCRIPTOR(ts, id), INTERVAL '1' HOUR)", "DESCRIPTOR names one column, the time"),
        ("TUMBLE(TABLE t, ts + 1, INTERVAL '1' HOUR)", "'ts + 1' is not a column; write DESCRIPTOR(column)"),
        (
            "TUMBLE(TABLE t, DESCRIPTOR(ts))",
            "no size is given; write TUMBLE(TABLE t, DESCRIPTOR(time), INTERVAL '10' MINUTE)",
        ),
        (
            "HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR)",
            "no size is given; write HOP(TABLE t, DESCRIPTOR(time), INTERVAL '5' MINUTE, INTERVAL '10' MINUTE)",
        ),
        (
            "HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '2' HOUR, INTERVAL '1' HOUR)",
            "the slide must not be greater than the size",
        ),
        ("TUMBLE(TABLE t)", "no time column is given"),
        ("TUMBLE(5, DESCRIPTOR(ts), INTERVAL '1' HOUR)", "'5' is not a table"),
        (
            "TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR, INTERVAL '1' HOUR, 5)",
            "the argument '5' is not expected here",
        ),
        ("TUMBLE(DATA => TABLE t, WIDTH => 5)", "the argument 'WIDTH => 5' is not expected here"),
        ("TUMBLE(TABLE nosuch, DESCRIPTOR(ts), INTERVAL '1' HOUR)", "table 'nosuch' not found"),
        ("WITH_WATERMARK(TABLE t, DESCRIPTOR(ts), INTERVAL '-1' HOUR)", "must not be negative"),
        ("WITH_WATERMARK(TABLE t, DESCRIPTOR(id), INTERVAL '1' HOUR)", "cannot be the event time"),
        ("WITH_WATERMARK(TABLE t, DESCRIPTOR(ts))", "no delay is given"),
    ] {
        let outcome = sql.run(&format!("SELECT * FROM {from}")).await.map(|_| "no error");
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(expected), "{from}: {error}");
    }
}

#[tokio::test]
async fn the_watermark_of_a_table_is_in_every_query_over_it() {
    let sql = sql_session().await;
    let watermark = "EventTimeWatermark: ts, 10 minutes";
    for query in [
        "SELECT price FROM bids",
        "SELECT b.price FROM bids b WHERE b.price > 5",
        "SELECT bids.price FROM bids JOIN t ON bids.bidder = t.id",
        "WITH x AS (SELECT * FROM bids) SELECT price FROM x",
        "SELECT window_start FROM TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '10' MINUTE)",
    ] {
        let plan = plan(&sql, query).await;
        assert_eq!(plan.matches(watermark).count(), 1, "{plan}");
        assert!(plan.contains("TableScan: bids"), "{plan}");
    }
    let frame = sql.streaming_query("SELECT * FROM bids b JOIN plain p ON b.bidder = p.bidder", None);
    let error = frame.await.unwrap_err().to_string();
    assert!(error.contains("two columns of the result"), "{error}");
    let frame = sql.session().context().table("bids").await.unwrap();
    assert_eq!(unbounded_tables(frame.logical_plan()), ["bids"]);
    assert_eq!(frame.schema().fields().len(), 3);
    let error = frame.with_watermark("ts", "1 minute").unwrap_err().to_string();
    assert!(error.contains("one on 'ts' already"), "{error}");

    let view = "CREATE VIEW v AS SELECT bidder, ts FROM bids WHERE price > 10";
    sql.run(view).await.unwrap();
    assert!(plan(&sql, "SELECT bidder FROM v").await.contains(watermark));
    let refused = sql.run("SELECT * FROM bids").await.unwrap_err().to_string();
    assert!(refused.starts_with("a batch statement over the unbounded table 'bids'"), "{refused}");
    let explained =
        sql.run("EXPLAIN STREAMING QUERY AS INSERT INTO screen SELECT bidder FROM bids").await.unwrap();
    let Some(SqlOutcome::Table(table)) = explained.first() else { panic!("{explained:?}") };
    let table = pretty_format_batches(table).unwrap().to_string();
    assert!(table.contains("EventTimeWatermark: bids.ts") && table.contains("TableScan: bids"), "{table}");
}

#[tokio::test]
async fn spark_declares_watermarks_in_queries() {
    let sql = sql_session().await;
    for (query, watermark) in [
        (
            "SELECT p.bidder FROM STREAM plain WATERMARK ts DELAY OF INTERVAL '10' MINUTES AS p",
            "EventTimeWatermark: ts, 10 minutes",
        ),
        (
            "SELECT plain.bidder, at FROM STREAM(plain) WATERMARK date_trunc('second', ts) AS at \
             DELAY OF INTERVAL '1 hour 30 seconds' WHERE bidder > 1",
            "EventTimeWatermark: at, 1 hour 30 seconds",
        ),
        (
            "SELECT bidder FROM WITH_WATERMARK(TABLE plain, DESCRIPTOR(ts), INTERVAL '2' MONTH)",
            "EventTimeWatermark: ts, 62 days",
        ),
    ] {
        let plan = plan(&sql, query).await;
        assert!(plan.contains(watermark), "{plan}");
    }
    // Nothing is late in a table that is all there.
    let counted = "SELECT count(*) FROM WITH_WATERMARK(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)";
    assert_eq!(rows(&sql, counted).await, "6");
}

#[tokio::test]
async fn wrong_watermarks_of_tables_are_refused() {
    let sql = sql_session().await;
    let create = |columns: &str| {
        format!("CREATE UNBOUNDED EXTERNAL TABLE x ({columns}) STORED AS JSON LOCATION '/tmp'")
    };
    for (columns, expected) in [
        (
            "id BIGINT, ts TIMESTAMP, WATERMARK FOR tss AS tss",
            "WATERMARK: there is no column 'tss'; did you mean 'ts'? at line 1, column 1",
        ),
        (
            "id BIGINT, WATERMARK FOR id AS id",
            "WATERMARK: column 'id' cannot be the event time: it is a Int64, not a TIMESTAMP. Make a column of \
             timestamps of it first, with CAST, to_timestamp or to_timestamp_millis at line 1, column 1",
        ),
        (
            "ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '-5' MINUTE",
            "'-5 MINUTE': a watermark cannot be ahead of the newest row: the delay must not be negative at line \
             1, column 70",
        ),
    ] {
        let error = sql.run(&create(columns)).await.unwrap_err().to_string();
        assert_eq!(error, expected);
    }
    sql.run(&create("ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '2' MONTH")).await.unwrap();
    assert!(plan(&sql, "SELECT ts FROM x").await.contains("EventTimeWatermark: ts, 62 days"));
}

#[tokio::test]
async fn the_window_of_a_group_is_a_column_as_in_spark() {
    let sql = sql_session().await;
    let expected = "1969-12-31T23:55:00 1970-01-01T00:00:00 1\n1970-01-01T00:00:00 1970-01-01T00:05:00 2\n\
                    1970-01-01T00:05:00 1970-01-01T00:10:00 1\n1970-01-01T00:15:00 1970-01-01T00:20:00 1";
    for query in [
        "SELECT window.start, window.end, count(*) AS n FROM t GROUP BY window(ts, '5 minutes') ORDER BY start",
        "SELECT window['start'], Window.END, count(*) FROM t GROUP BY window(ts, '5 minutes') ORDER BY window.start",
        "SELECT w.start, w.end, n FROM (SELECT window AS w, count(*) AS n FROM t GROUP BY window(ts, '5 minutes')) \
         ORDER BY 1",
        "SELECT window.start AS s, max(window.end) AS e, count(*) FROM t GROUP BY window(ts, '5 minutes') \
         HAVING window.start < now() ORDER BY s",
    ] {
        assert_eq!(rows(&sql, query).await, expected, "{query}");
    }
    let names = "SELECT window, window.start FROM t GROUP BY window(ts, '5 minutes')";
    let Some(SqlOutcome::Rows(frame)) = sql.run(names).await.unwrap().pop() else { panic!() };
    assert_eq!(frame.schema().field_names(), ["window", "start"]);
    let explained = rows(&sql, &format!("EXPLAIN {names}")).await;
    assert!(explained.contains("window_start"), "{explained}");
    // A column that is really called so.
    sql.run("CREATE TABLE x AS SELECT 5 AS window, 1 AS a").await.unwrap();
    assert_eq!(rows(&sql, "SELECT window, count(*) FROM x GROUP BY window").await, "5 1");
}
