//! Names of columns without `AS`, and what other systems write.

use tidemill::sql::SqlOutcome;

use super::Place;

#[tokio::test]
async fn columns_without_a_name_are_called_what_is_written() {
    let place = Place::new();
    let table = "CREATE TABLE bids AS SELECT 1 AS price, 'b' AS bidder, named_struct('name', 'n') AS u;";
    for (select, names) in [
        ("max(bids.price), count(*)", vec!["max(price)", "count(*)"]),
        ("u.name, bids.u['name'] AS n", vec!["name", "n"]),
        ("u['name']", vec!["name"]),
        ("1, price + 1, CAST(price AS VARCHAR)", vec!["1", "price + 1", "price"]),
        ("CAST(CAST(bids.price AS INT) AS VARCHAR), (bidder)::VARCHAR", vec!["price", "bidder"]),
        ("bids.price, bidder", vec!["price", "bidder"]),
    ] {
        let outcome =
            place.run(&format!("{table} SELECT {select} FROM bids; DROP TABLE bids")).await.swap_remove(1);
        let SqlOutcome::Rows(frame) = outcome else { panic!("{outcome:?}") };
        let found: Vec<&String> = frame.schema().fields().iter().map(|field| field.name()).collect();
        assert_eq!(found, names, "{select}");
    }
    place.put("in/a.json", "{\"price\":1,\"bidder\":\"b\",\"u\":{\"name\":\"n\"}}\n");
    place
        .run(
            "CREATE UNBOUNDED EXTERNAL TABLE input (price INT, u STRUCT<name VARCHAR>) STORED AS JSON LOCATION '$/in/';
             CREATE EXTERNAL TABLE o STORED AS PARQUET LOCATION '$/out/';
             CREATE STREAMING QUERY q TRIGGER ONCE CHECKPOINT LOCATION '$/cp' AS INSERT INTO o
             SELECT u.name, price * 2, upper(input.u['name']) FROM input",
        )
        .await;
    let rows = place.rows("SELECT name, price_2, upper_u_name FROM o").await;
    assert_eq!(rows, ["n 2 N"]);
}

#[tokio::test]
async fn what_others_write_is_told_in_our_words() {
    let place = Place::new();
    for (statement, words) in [
        ("CREATE STREAMING TABLE s AS SELECT 1", "CREATE STREAMING QUERY fill_s"),
        ("CREATE OR REFRESH STREAMING TABLE s AS SELECT 1", "AS INSERT INTO s SELECT"),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1", "OUTPUT MODE COMPLETE AS INSERT INTO v"),
        ("CREATE STREAM s (a INT) WITH (kafka_topic = 'x')", "CREATE UNBOUNDED EXTERNAL TABLE s"),
        ("CREATE SOURCE s (a INT) WITH (connector = 'x')", "CREATE UNBOUNDED EXTERNAL TABLE s"),
        ("CREATE TABLE s (a INT) WITH ('connector' = 'filesystem')", "CREATE UNBOUNDED EXTERNAL TABLE s"),
        ("CREATE TABLE s (a INT) USING json LOCATION 'x'", "CREATE EXTERNAL TABLE s STORED AS JSON"),
        ("SELECT a, count(*) FROM t GROUP BY a EMIT CHANGES", "OUTPUT MODE UPDATE"),
        ("SELECT a FROM t WINDOW TUMBLING (SIZE 1 MINUTE) GROUP BY a", "GROUP BY window(time, '1 minute')"),
        ("SELECT a FROM t LATERAL VIEW explode(b) x AS c", "unnest"),
        ("INSERT OVERWRITE t SELECT 1", "OUTPUT MODE COMPLETE"),
        ("COPY INTO t FROM 'x'", "TRIGGER AVAILABLE NOW"),
        ("TERMINATE q", "STOP STREAMING QUERY q"),
        ("DROP STREAMING QUERY q", "STOP STREAMING QUERY q"),
        ("SHOW QUERIES", "SHOW STREAMING QUERIES"),
        ("EXECUTE STATEMENT SET BEGIN INSERT INTO a SELECT 1; END", "CREATE STREAMING QUERY"),
        ("SELECT explode([1])", "unnest(items)"),
        ("SELECT collect_list(1)", "array_agg(x)"),
        ("SELECT approx_count_distinct(1)", "approx_distinct(x)"),
        ("SELECT tumble_start(now(), INTERVAL '1' MINUTE)", "window.start"),
        ("SELECT proctime()", "now(), the time of the batch"),
        ("SELECT 1 GROUP BY session(now(), INTERVAL '1' MINUTE)", "window(time, '10 minutes')"),
        ("SELECT time_bucket(INTERVAL '1' MINUTE, now())", "date_bin(INTERVAL '1 minute', time)"),
        ("SELECT * FROM read_files('x')", "CREATE UNBOUNDED EXTERNAL TABLE"),
    ] {
        let error = place.error(statement).await;
        assert!(error.contains(words), "{statement}: {error}");
    }
    // Words of theirs that are names here.
    let names = "SELECT emit, changes, stream FROM (SELECT 1 AS emit, 2 AS changes, 3 AS stream) AS source";
    assert_eq!(place.rows(names).await, ["1 2 3"]);
}
