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
        (
            "price, CAST(bids.price AS VARCHAR), price::DOUBLE",
            vec!["price", "CAST(price AS VARCHAR)", "price::DOUBLE"],
        ),
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
async fn columns_that_are_called_as_values_of_sql_are_columns() {
    let place = Place::new();
    for word in ["user", "session_user", "current_user", "current_catalog", "current_date", "localtime"] {
        place.put(&format!("{word}/a.json"), &format!("{{\"{word}\":{{\"name\":\"n\"}},\"id\":1}}\n"));
        for (select, name) in [("i.#", word), ("upper(i.#.name)", "upper(#.name)")] {
            let select = format!("SELECT {select} FROM '$/#/' i WHERE i.# IS NOT NULL").replace('#', word);
            let outcome = place.run(&select).await.swap_remove(0);
            let SqlOutcome::Rows(frame) = outcome else { panic!("{outcome:?}") };
            assert_eq!(*frame.schema().field(0).name(), name.replace('#', word), "{select}");
        }
    }
    place.put("stream/a.json", "{\"user\":7,\"ad\":1}\n");
    place
        .run(
            "CREATE UNBOUNDED EXTERNAL TABLE input (\"user\" INT, ad INT) STORED AS JSON LOCATION '$/stream/';
             CREATE EXTERNAL TABLE o STORED AS PARQUET LOCATION '$/out/';",
        )
        .await;
    place
        .run(
            "CREATE STREAMING QUERY q TRIGGER ONCE CHECKPOINT LOCATION '$/cp' AS INSERT INTO o
             SELECT i.ad, i.user FROM input i",
        )
        .await;
    assert_eq!(place.rows("SELECT \"user\" FROM o").await, ["7"]);
    assert_eq!(place.rows("CREATE VIEW v AS SELECT i.user FROM o i; SELECT v.user FROM v").await, ["7"]);
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
        ("SELECT x FROM '$/upper/' c, UNNEST(c.l) AS u(x)", vec!["4", "5"]),
        ("SELECT x FROM '$/upper/' CROSS JOIN UNNEST(l) AS u(x)", vec!["4", "5"]),
        ("FROM '$/two/'", vec!["1 2 3"]),
        ("FROM '$/upper/' c SELECT Id WHERE c.id = 1", vec!["1"]),
        ("FROM '$/two/' WHERE ab > 1", vec![]),
        (
            "WITH c AS (FROM '$/upper/' WHERE Id = 1) FROM c JOIN c AS d USING (Id) SELECT c.\"Key\" ORDER BY 1",
            vec!["2"],
        ),
        ("WITH c AS (SELECT Id FROM '$/upper/') FROM c WHERE Id = 1 LIMIT 1", vec!["1"]),
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
    assert_eq!(described[0], "InvoiceNo BIGINT YES");
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
        ("SELECT * FROM read_files('x', format => 'json')", "read_json('…')"),
        ("SELECT * FROM json.`in`", "read_json('in')"),
        ("SELECT 1 FROM x.parquet", "FROM 'x.parquet'"),
        ("SELECT * FROM read_text('x.txt')", "header => false"),
        ("SET TIME ZONE 'Europe/Kyiv'", "SET datafusion.execution.time_zone = '…'"),
        (
            "SET datafusion.execution.batch_size = 'abc'",
            "batch_size cannot be 'abc': expected a whole number",
        ),
        ("SET datafusion.execution.batch_sise = 3", "there is no setting 'datafusion.execution.batch_sise'"),
        ("SET spark.sql.shuffle.partitions = 5", "there are no settings called 'spark.…'"),
        ("SELECT substr('abc')", "substr(text, 1)"),
        ("ALTER STREAMING QUERY q", "STOP STREAMING QUERY q and then CREATE STREAMING QUERY q"),
        ("CREATE INDEX i ON t (a)", "there are no indexes"),
        ("EXPLAIN PLAN FOR SELECT 1", "EXPLAIN SELECT …"),
        ("COPY (SELECT 1) TO 'x.parquet' (FORMAT parquet)", "STORED AS PARQUET"),
        ("COPY (SELECT 1) TO 'x.csv' (HEADER, DELIMITER ';')", "OPTIONS ('option' 'value')"),
        ("SELECT strftime(now(), '%Y')", "to_char(time, '%Y-%m-%d')"),
        ("SELECT group_concat('a')", "string_agg(text, ',')"),
        ("SELECT if(true, 1, 2)", "CASE WHEN"),
        ("SELECT date_format(now(), 'yyyy-MM-dd HH:mm:ss')", "write date_format(…, '%Y-%m-%d %H:%M:%S')"),
        ("SELECT date_trunc('minut', now())", "there are microsecond, millisecond, second, minute, hour"),
    ] {
        let error = place.error(statement).await;
        assert!(error.contains(words), "{statement}: {error}");
    }
    // Words of theirs that are names here.
    let names = "SELECT emit, changes, stream FROM (SELECT 1 AS emit, 2 AS changes, 3 AS stream) AS source";
    assert_eq!(place.rows(names).await, ["1 2 3"]);
    let pattern = "SELECT date_format(TIMESTAMP '2026-01-02T03:04:05', '%Y at %H') AS t";
    assert_eq!(place.rows(pattern).await, ["2026 at 03"]);
}

#[tokio::test]
async fn types_of_others_are_told_in_our_words() {
    let place = Place::new();
    for (written, told) in [
        ("LONG", "there is no type LONG; write BIGINT"),
        ("byte", "there is no type byte; write TINYINT"),
        ("SHORT", "there is no type SHORT; write SMALLINT"),
        ("ARRAY<LONG>", "there is no type LONG; write BIGINT"),
        ("STRUCT<a BYTES>", "there is no type BYTES; write BYTEA"),
        ("MAP<STRING, UBIGINT>", "there is no type UBIGINT; write BIGINT UNSIGNED"),
        ("TIMESTAMP_LTZ", "write TIMESTAMP WITH TIME ZONE"),
        ("TIMESTAMP_NTZ", "write TIMESTAMP"),
        ("DATETIME", "write TIMESTAMP"),
        ("VARBINARY(20)", "write BYTEA"),
        ("UUID", "write VARCHAR"),
        ("JSONB", "text ->> 'name'"),
        ("ROW(a INT, b STRING)", "write STRUCT<name type, …>"),
        ("TIMESTAMP(2)", "0, 3, 6 or 9 digits"),
        ("BIGNIT", "there is no type BIGNIT; did you mean BIGINT?"),
        ("WHATEVER", "there is no type WHATEVER"),
    ] {
        for statement in [
            format!("CREATE EXTERNAL TABLE t (id INT, a {written}) STORED AS JSON LOCATION '$/in/'"),
            format!(
                "CREATE UNBOUNDED EXTERNAL TABLE t (id INT, a {written}) STORED AS JSON LOCATION '$/in/'"
            ),
            format!("SELECT CAST(x AS {written}) FROM (SELECT 1 AS x)"),
        ] {
            let error = place.error(&statement).await;
            assert!(error.contains(told) && !error.contains("not implemented"), "{statement}: {error}");
        }
    }
    // What people of other systems write that there is here.
    for written in [
        "STRING",
        "INTEGER",
        "TEXT",
        "VARCHAR(10)",
        "CHAR(3)",
        "BOOL",
        "INT8",
        "FLOAT8",
        "DOUBLE PRECISION",
        "TIMESTAMPTZ",
        "TIMESTAMP(3)",
        "ARRAY<STRING>",
        "INT[]",
        "STRUCT<a: INT, b ARRAY<STRUCT<c STRING>>>",
        "DECIMAL(38, 10)",
        "BYTEA",
    ] {
        place
            .run(&format!(
                "CREATE EXTERNAL TABLE t (a {written}) STORED AS JSON LOCATION '$/in/'; DROP TABLE t"
            ))
            .await;
    }
}

#[tokio::test]
async fn maps_are_read_and_written() {
    let place = Place::new();
    place.put("in/a.json", "{\"id\":1,\"tags\":{\"a\":1,\"b\":2}}\n{\"id\":2,\"tags\":{}}\n{\"id\":3}\n");
    let columns = "id INT, tags MAP<STRING, BIGINT>";
    place
        .run(&format!(
            "CREATE UNBOUNDED EXTERNAL TABLE input ({columns}) STORED AS JSON LOCATION '$/in/';
             CREATE EXTERNAL TABLE o ({columns}) STORED AS PARQUET LOCATION '$/out/';
             CREATE STREAMING QUERY q TRIGGER ONCE CHECKPOINT LOCATION '$/cp' AS INSERT INTO o SELECT * FROM input"
        ))
        .await;
    assert_eq!(place.rows("SELECT id, tags FROM o").await, ["1 {a: 1, b: 2}", "2 {}", "3"]);
    assert_eq!(place.rows("SELECT tags['b'] FROM o WHERE id = 1").await, ["2"]);
    place
        .run(&format!(
            "CREATE UNBOUNDED EXTERNAL TABLE again ({columns}) STORED AS PARQUET LOCATION '$/out/';
             CREATE EXTERNAL TABLE lines ({columns}) STORED AS JSON LOCATION '$/lines/';
             CREATE STREAMING QUERY r TRIGGER ONCE CHECKPOINT LOCATION '$/cp2' AS INSERT INTO lines SELECT * FROM again"
        ))
        .await;
    assert_eq!(place.rows("SELECT id, tags FROM lines").await, ["1 {a: 1, b: 2}", "2 {}", "3"]);
}

/// What is wrong is told in words of SQL, and not in those of the program that plans it.
#[tokio::test]
async fn errors_are_in_words_of_sql() {
    let place = Place::new();
    place.put("in/a.json", "{\"id\":1,\"l\":[1,2],\"s\":\"x\"}\n");
    place.put("bad/a.parquet", "this is no Parquet file");
    place.put("notes.txt", "hello\n");
    std::fs::create_dir(place.folder.path().join("empty")).unwrap();
    for (statement, told) in [
        (
            "SELECT id FROM '$/in/' WHERE unnest(l) = 1",
            "unnest() gives several rows for one, and cannot stand in WHERE",
        ),
        ("SELECT count(unnest(l)) FROM '$/in/'", "cannot stand in GROUP BY or an aggregate function"),
        ("SELECT id FROM '$/in/' ORDER BY unnest(l)", "cannot stand in ORDER BY"),
        ("SELECT sum(id) OVER (ORDER BY unnest(l)) FROM '$/in/'", "cannot stand in a window function (OVER)"),
        ("SELECT * FROM UNNEST([1]) WITH ORDINALITY", "unnest(range(1, array_length(items) + 1))"),
        (
            "SELECT id FROM '$/in/' t LEFT JOIN UNNEST(t.l) AS u(x) ON x > 1",
            "write ON true, and WHERE behind it",
        ),
        ("SELECT * FROM '$/in/' WHERE row_number() OVER () = 1", "write QUALIFY"),
        ("SELECT row_number() FROM '$/in/'", "write row_number(…) OVER (PARTITION BY"),
        ("SELECT lag(id) FROM '$/in/'", "write lag(…) OVER (PARTITION BY"),
        ("SELECT nosuch(id) FROM '$/in/'", "there is no function 'nosuch'"),
        ("SELECT uper(s) FROM '$/in/'", "there is no function 'uper'; did you mean 'upper'?"),
        ("SELECT sum(s) FROM '$/in/'", "no function takes these arguments: sum(Utf8"),
        (
            "SELECT sum(id, id) FROM '$/in/'",
            "no function takes these arguments: sum(Int64, Int64); there are sum(Decimal), ",
        ),
        ("SELECT abs(s) FROM '$/in/'", "no function takes these arguments: abs(Utf8"),
        ("SELECT array_length(id) FROM '$/in/'", "there are array_length(array), array_length(array, index)"),
        ("SELECT max(id), s FROM '$/in/'", "is neither in GROUP BY nor in an aggregate function"),
        ("SELECT s + 1 FROM '$/in/'", " + Int64: CAST one side"),
        ("SELECT * FROM nosuch", "table 'nosuch' not found"),
        ("SELECT id FROM '$/in/' a JOIN '$/in/' b ON true", "Say whose it is, as in t.id"),
        (
            "CREATE TABLE t (a INT); INSERT INTO t VALUES ('x')",
            "Cannot cast string 'x' to value of Int32 type",
        ),
        ("SELECT DATE '2024-13-01'", "Cannot cast string '2024-13-01' to value of Date32 type"),
        ("SELECT 1 / 0", "division by zero in 1 / 0"),
        ("COPY (SELECT 1) TO '$/x.foo'", "no format of files has the extension 'foo'"),
        ("SHOW TABLES LIKE 'x'", "FROM information_schema.tables WHERE table_name LIKE"),
        ("SET nosuch = 1", "there is no setting 'nosuch': SHOW ALL lists them"),
        ("PRAGMA table_info('t')", "DESCRIBE t"),
        ("SUMMARIZE t", "approx_distinct(c) FROM t"),
        ("ALTER TABLE t ADD COLUMN x INT", "DROP TABLE t and CREATE it anew"),
        ("VACUUM", "tidemill compact DIRECTORY"),
        ("GRANT ALL ON t TO x", "there is no statement GRANT ALL ON … here"),
        (
            "SELECT * FROM '$/bad/a.parquet'",
            "bad/a.parquet' cannot be read: it is not what parquet files are",
        ),
        ("SELECT * FROM '$/empty/'", "there are no files in '"),
        ("SELECT * FROM '$/nope.parquet'", "nope.parquet' cannot be read: No such file or directory"),
        ("SELECT * FROM '$/notes.txt'", "CREATE UNBOUNDED EXTERNAL TABLE t STORED AS TEXT"),
    ] {
        let error = place.error(statement).await;
        assert!(error.contains(told), "{statement}: {error}");
        for raw in [
            "caused by",
            "Execution error",
            "Arrow error",
            "Internal error",
            "not implemented",
            "bug report",
            "datafusion",
        ] {
            assert!(!error.contains(raw), "{statement}: {error}");
        }
    }
}

#[tokio::test]
async fn rows_without_elements_are_kept_by_left_joins() {
    let place = Place::new();
    place.put(
        "in/a.json",
        "{\"id\":1,\"l\":[1,2]}\n{\"id\":2,\"l\":[]}\n{\"id\":3}\n{\"id\":4,\"l\":[null]}\n",
    );
    let select = "SELECT t.id, u.x FROM input t LEFT JOIN UNNEST(t.l) AS u(x) ON true";
    let table = "CREATE EXTERNAL TABLE input (id INT, l ARRAY<INT>) STORED AS JSON LOCATION '$/in/';";
    let expected = ["1 1", "1 2", "2", "3", "4"];
    assert_eq!(place.rows(&format!("{table} {select}")).await, expected);
    let inner = "SELECT t.id, u.x FROM input t JOIN UNNEST(t.l) AS u(x) ON true";
    assert_eq!(place.rows(inner).await, ["1 1", "1 2", "4"]);
    place
        .run(&format!(
            "DROP TABLE input; CREATE UNBOUNDED EXTERNAL TABLE input (id INT, l ARRAY<INT>) STORED AS JSON LOCATION '$/in/';
             CREATE EXTERNAL TABLE o STORED AS PARQUET LOCATION '$/out/';
             CREATE STREAMING QUERY q TRIGGER ONCE CHECKPOINT LOCATION '$/cp' AS INSERT INTO o {select}"
        ))
        .await;
    assert_eq!(place.rows("SELECT * FROM o").await, expected);
}
