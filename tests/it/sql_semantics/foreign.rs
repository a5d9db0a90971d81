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
async fn columns_are_found_in_any_case_if_one_is_meant() {
    let place = Place::new();
    place.put(
        "in/a.json",
        "{\"InvoiceNo\":7,\"u\":{\"userId\":3,\"deep\":{\"lineNo\":4}},\"arr\":[{\"itemId\":5}]}\n",
    );
    place.put("upper/a.json", "{\"Id\":1,\"Key\":2,\"L\":[4,5],\"St\":{\"Aa\":7}}\n");
    place.put("two/a.json", "{\"ab\":1,\"aB\":2,\"AB\":3}\n");
    for (select, expected) in [
        ("SELECT InvoiceNo FROM '$/in/'", vec!["7"]),
        ("SELECT INVOICENO, invoiceno + 1 AS next FROM '$/in/' WHERE InvoiceNo = 7", vec!["7 8"]),
        ("SELECT t.InvoiceNo FROM '$/in/' t GROUP BY t.invoiceNo ORDER BY invoiceno", vec!["7"]),
        ("SELECT max(InvoiceNo) AS m FROM '$/in/' HAVING max(invoiceNo) > 6", vec!["7"]),
        ("SELECT a.InvoiceNo FROM '$/in/' a JOIN '$/in/' b ON a.InvoiceNo = b.invoiceNo", vec!["7"]),
        ("SELECT x FROM (SELECT InvoiceNo AS x FROM '$/in/') WHERE X = 7", vec!["7"]),
        ("WITH c AS (SELECT InvoiceNo FROM '$/in/') SELECT invoiceNo FROM c", vec!["7"]),
        ("SELECT u.userId, u.USERID AS again, u.deep.lineNo FROM '$/in/'", vec!["3 3 4"]),
        ("SELECT arr[1].itemId, arr[1]['itemid'] AS again FROM '$/in/'", vec!["5 5"]),
        ("SELECT * EXCEPT (id, l, st) FROM '$/upper/'", vec!["2"]),
        ("SELECT * EXCLUDE (ID, \"Key\", l) FROM '$/upper/'", vec!["{Aa: 7}"]),
        ("SELECT x.Id FROM '$/upper/' x JOIN '$/upper/' y USING (key)", vec!["1"]),
        ("SELECT st.aa, c.st.AA AS again FROM '$/upper/' c", vec!["7 7"]),
        // An exact name goes before all others.
        ("SELECT AB, \"AB\" AS upper, \"aB\" AS mixed FROM '$/two/'", vec!["1 3 2"]),
        ("FROM '$/two/'", vec!["1 2 3"]),
        ("SELECT count(*) FROM (FROM '$/two/' UNION ALL FROM '$/two/')", vec!["2"]),
    ] {
        assert_eq!(place.rows(select).await, expected, "{select}");
    }
    let names = |select: &'static str| {
        let place = &place;
        async move {
            let SqlOutcome::Rows(frame) = place.run(select).await.swap_remove(0) else { panic!("{select}") };
            frame.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>()
        }
    };
    assert_eq!(names("SELECT InvoiceNo, u.userId FROM '$/in/'").await, ["InvoiceNo", "userId"]);
    let described = place.rows("DESCRIBE '$/in/a.json'").await;
    assert_eq!(described[0], "InvoiceNo Int64 YES");
    // Quotes say what is meant, and two may be meant.
    let error = place.try_run("SELECT \"invoiceNo\" FROM '$/in/'").await.unwrap_err().to_string();
    assert!(error.contains("No field named \"invoiceNo\""), "{error}");
    place.put("both/a.json", "{\"aB\":2,\"AB\":3}\n");
    let error = place.try_run("SELECT ab FROM '$/both/'").await.unwrap_err().to_string();
    assert!(error.contains("No field named ab"), "{error}");
    place
        .run(
            "CREATE UNBOUNDED EXTERNAL TABLE input STORED AS JSON LOCATION '$/in/';
             CREATE EXTERNAL TABLE o STORED AS JSON LOCATION '$/out/';
             CREATE STREAMING QUERY q TRIGGER ONCE CHECKPOINT LOCATION '$/cp' AS INSERT INTO o
             SELECT invoiceno, u.userId FROM input WHERE InvoiceNo > 0",
        )
        .await;
    assert_eq!(place.rows("SELECT invoiceNo, userId FROM o").await, ["7 3"]);
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
        (
            "SELECT * FROM t MATCH_RECOGNIZE (ORDER BY a PATTERN (A+) DEFINE A AS a > 1)",
            "transform_with_state",
        ),
        ("COPY INTO t FROM 'x'", "TRIGGER AVAILABLE NOW"),
        ("TERMINATE q", "STOP STREAMING QUERY q"),
        ("DROP STREAMING QUERY q", "STOP STREAMING QUERY q"),
        ("SHOW QUERIES", "SHOW STREAMING QUERIES"),
        ("EXECUTE STATEMENT SET BEGIN INSERT INTO a SELECT 1; END", "CREATE STREAMING QUERY"),
        ("SELECT explode([1])", "unnest(items)"),
        ("SELECT collect_list(1)", "array_agg(x)"),
        ("SELECT approx_count_distinct(1)", "approx_distinct(x)"),
        ("SELECT proctime()", "now(), the time of the batch"),
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
