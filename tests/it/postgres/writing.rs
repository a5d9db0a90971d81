//! What is written, and what is refused.

use tidemill::checkpoint;
use tidemill::id::{IdGenerator, RandomIds};
use tidemill::prelude::*;
use tidemill::sql::{SqlOutcome, SqlSession};
use tidemill::storage::Durability;

use super::{Database, put};
use crate::support::harness::{Job, Place, Recorder, cause, id_lines, session};
use crate::support::outcome::{directory_url, disks};

#[tokio::test]
async fn updates_replace_rows_by_the_keys_of_the_result() {
    let Some(database) = Database::new("upsert") else { return };
    let place = Place::new();
    put(&place, 0..4);
    let sql = "SELECT id % 2 = 1 AS odd, count(*) AS n, sum(id) AS \"Total\" FROM input GROUP BY id % 2 = 1";
    let job = database.job(&place, "public.\"Counts\"").sql(sql).mode(OutputMode::Update);
    let job = job.files_per_trigger(1).option("createTable", true);
    job.run(&session()).await.unwrap();
    let rows = "SELECT odd, n, \"Total\" FROM public.\"Counts\" ORDER BY odd";
    assert_eq!(database.rows(rows), ["f|4|60", "t|4|64"]);
    put(&place, 4..6);
    job.run(&session()).await.unwrap();
    assert_eq!(database.rows(rows), ["f|6|150", "t|6|156"]);
    let batches = "SELECT table_name, batch_id, num_rows FROM tidemill_batches";
    assert_eq!(database.rows(batches), ["\"public\".\"Counts\"|5|2"]);

    // Without keys there is nothing to replace by, and without an index nobody would know what is there.
    let other = Place::new();
    put(&other, 0..1);
    let fails = async |job: Job| {
        let checkpoint = Place::new();
        let job = job.mode(OutputMode::Update).option("checkpointLocation", checkpoint.text("checkpoint"));
        cause(&job.start(&session()).await.unwrap_err()).to_string()
    };
    let error = fails(database.job(&other, "x").sql("SELECT count(*) AS n FROM input")).await;
    assert!(error.contains("the result of this query has no key"), "{error}");
    database.run("CREATE TABLE plain (id bigint, n bigint)");
    let counts = "SELECT id, count(*) AS n FROM input GROUP BY id";
    let error = fails(database.job(&other, "plain").sql(counts)).await;
    assert!(error.contains("CREATE UNIQUE INDEX ON \"plain\" (\"id\")"), "{error}");
}

/// What is two keys for the query must not be one row of the table.
#[tokio::test]
async fn keys_that_the_server_would_take_for_the_same_are_refused() {
    let Some(database) = Database::new("coarse_keys") else { return };
    database
        .run("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)");
    let ended = async |table: &str, key: &str| {
        let place = Place::new();
        put(&place, 0..2);
        let sql = format!("SELECT {key} AS k, count(*) AS n FROM input GROUP BY {key}");
        let job = database.job(&place, table).sql(&sql).mode(OutputMode::Update).option("createTable", true);
        job.run(&session()).await.map_err(|error| cause(&error).to_string())
    };
    let text = "concat('a', id)";
    for (table, of, reason) in [
        ("json", "jsonb", "texts that are the same JSON are one key"),
        ("ids", "uuid", "texts that are the same UUID are one key"),
        ("loosely", "text COLLATE loose", "texts that its collation does not tell apart are one key"),
    ] {
        database.run(&format!("CREATE TABLE {table} (k {of} UNIQUE, n bigint)"));
        let error = ended(table, text).await.unwrap_err();
        assert!(error.contains(reason), "{table}: {error}");
    }
    ended("texts", text).await.unwrap();
    // Times have nanoseconds here and microseconds there, which most are whole ones of.
    ended("whole", "to_timestamp_nanos(id * 1000)").await.unwrap();
    let error = ended("finer", "to_timestamp_nanos(id * 100)").await.unwrap_err();
    assert!(error.contains("two keys would become one. Group by date_trunc('microsecond'"), "{error}");
    assert_eq!(database.rows("SELECT count(*) FROM finer"), ["0"]);
}

/// A unique index takes two nulls for different; the groups of a query are not.
#[tokio::test]
async fn keys_that_are_null_are_replaced_like_others() {
    let Some(database) = Database::new("null_keys") else { return };
    for (table, nulls) in [("apart", ""), ("same", "NULLS NOT DISTINCT")] {
        database.run(&format!(
            "CREATE TABLE {table} (a bigint, b text, n bigint, note text DEFAULT 'new');
             CREATE UNIQUE INDEX ON {table} (b, a) {nulls}"
        ));
        let place = Place::new();
        put(&place, 0..4);
        let sql = "SELECT nullif(id % 2, 0) AS a, CASE WHEN id % 10 = 1 THEN 'x' END AS b, count(*) AS n \
                   FROM input GROUP BY 1, 2";
        let job = database.job(&place, table).sql(sql).mode(OutputMode::Update).files_per_trigger(1);
        job.run(&session()).await.unwrap();
        let rows = database.rows(&format!("SELECT a, b, n FROM {table} ORDER BY a"));
        assert_eq!(rows, ["1|x|4", "null|null|4"], "{table}");
        // What is no column of the result stays, whatever the key is.
        database.run(&format!("UPDATE {table} SET note = 'mine'"));
        put(&place, 4..5);
        place.put("in/5.json", "{}\n");
        job.run(&session()).await.unwrap();
        let rows = database.rows(&format!("SELECT a, b, n, note FROM {table} ORDER BY a, n"));
        assert_eq!(rows, ["1|x|5|mine", "null|null|6|mine"], "{table}");
    }
}

#[tokio::test]
async fn complete_results_replace_all_rows() {
    let Some(database) = Database::new("complete") else { return };
    database.run("CREATE TABLE out (n bigint, id bigint); INSERT INTO out VALUES (7, 7)");
    let place = Place::new();
    put(&place, 0..3);
    let sql = "SELECT id % 10 AS id, count(*) AS n FROM input GROUP BY id % 10";
    let job = database.job(&place, "out").sql(sql).mode(OutputMode::Complete).files_per_trigger(2);
    job.run(&session()).await.unwrap();
    assert_eq!(database.rows("SELECT id, n FROM out ORDER BY id"), ["0|3", "1|3"]);
}

#[tokio::test]
async fn values_of_every_type_arrive_as_they_are() {
    let Some(database) = Database::new("types") else { return };
    let place = Place::new();
    place.put("in/0.json", id_lines([1, 2]));
    let sql = "SELECT id = 1 AS b, CAST(id AS SMALLINT) AS i2, CAST(-id AS INT) AS i4, id AS i8, \
               CAST(id AS FLOAT) / 4 AS f4, CAST(id AS DOUBLE) / 3 AS f8, \
               CAST(CAST(id AS DECIMAL(20, 5)) / 8 AS DECIMAL(30, 10)) AS d, \
               CASE WHEN id = 1 THEN 'ä \"x\"\\' END AS t, arrow_cast('abc', 'Binary') AS y, \
               DATE '1969-12-31' AS day, TIME '12:34:56.123456' AS clock, \
               TIMESTAMP '1969-12-31 23:59:59.999999999' AS ts, \
               arrow_cast(TIMESTAMP '1999-12-31T23:00:00', 'Timestamp(Nanosecond, Some(\"+00:00\"))') AS tz, \
               CAST(18446744073709551615 AS BIGINT UNSIGNED) AS u8, make_array(id, NULL, 5) AS l FROM input";
    database.job(&place, "out").sql(sql).option("createTable", true).run(&session()).await.unwrap();
    assert_eq!(
        database.rows("SELECT * FROM out ORDER BY i8"),
        [
            "t|1|-1|1|0.25|0.3333333333333333|0.1250000000|ä \"x\"\\|\\x616263|1969-12-31|12:34:56.123456|\
             1969-12-31 23:59:59.999999|1999-12-31 23:00:00+00|18446744073709551615|{1,NULL,5}",
            "f|2|-2|2|0.5|0.6666666666666666|0.2500000000|null|\\x616263|1969-12-31|12:34:56.123456|\
             1969-12-31 23:59:59.999999|1999-12-31 23:00:00+00|18446744073709551615|{2,NULL,5}",
        ]
    );

    // Into columns of other types that lose nothing.
    database.run(
        "CREATE TYPE mood AS ENUM ('odd', 'even'); CREATE DOMAIN small AS bigint CHECK (VALUE < 100);
         CREATE TABLE wide (id small, m mood, j jsonb, u uuid, d numeric, f double precision, note text DEFAULT 'n')",
    );
    let place = Place::new();
    place.put("in/0.json", id_lines([1, 2]));
    let sql = "SELECT CAST(id AS INT) AS id, CASE WHEN id = 1 THEN 'odd' ELSE 'even' END AS m, \
               to_json(make_array(id)) AS j, '00000000-0000-0000-0000-00000000000' || CAST(id AS VARCHAR) AS u, \
               CAST(id AS DECIMAL(10, 3)) AS d, CAST(0.5 AS FLOAT) AS f FROM input";
    database.job(&place, "wide").sql(sql).run(&session()).await.unwrap();
    assert_eq!(
        database.rows("SELECT *, j -> 0 FROM wide ORDER BY id"),
        [
            "1|odd|[1]|00000000-0000-0000-0000-000000000001|1.000|0.5|n|1",
            "2|even|[2]|00000000-0000-0000-0000-000000000002|2.000|0.5|n|2",
        ]
    );
}

#[tokio::test]
async fn what_does_not_fit_is_said_before_anything_is_read() {
    let Some(database) = Database::new("misfits") else { return };
    database.run(
        "CREATE TABLE out (id text, other int NOT NULL, d numeric(10, 2), ts timestamp(3),
         twice bigint GENERATED ALWAYS AS (1) STORED, ds numeric(10, 2)[])",
    );
    let place = Place::new();
    put(&place, 0..1);
    let fails = async |job: Job| {
        let checkpoint = Place::new();
        let job = job.option("checkpointLocation", checkpoint.text("checkpoint"));
        let error = cause(&job.start(&session()).await.unwrap_err()).to_string();
        assert!(!checkpoint.path("checkpoint/offsets").exists(), "nothing was planned");
        error
    };
    let sql = "SELECT id, id AS more, CAST(id AS DECIMAL(10, 3)) AS d, TIMESTAMP '2020-01-01' AS ts, id AS twice, \
               make_array(CAST(id AS DECIMAL(10, 3))) AS ds FROM input";
    let error = fails(database.job(&place, "out").sql(sql)).await;
    for part in [
        "does not fit the result of the query: column \"id\" is text, and the result's is Int64, which goes into bigint",
        "it has no column \"more\"",
        "column \"d\" is numeric(10, 2), which keeps 2 decimals, and the result has 3",
        "column \"ds\" is numeric(10, 2), which keeps 2 decimals, and the result has 3",
        "column \"ts\" keeps 3 digits of a second",
        "column \"twice\" is computed by the server",
        "column \"other\" is NOT NULL without a default, and the result lacks it",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let error = fails(database.job(&place, "nowhere")).await;
    assert!(
        error.contains("there is no table \"nowhere\" in PostgreSQL: create it, or set the option"),
        "{error}"
    );
    let error = fails(Job::new(&place).format("postgres").out(None).option("table", "out")).await;
    assert!(error.contains("needs the option 'url'"), "{error}");
    let error = fails(database.job(&place, "out").option("tabel", "x")).await;
    assert!(error.contains("did you mean 'table'?"), "{error}");
    let error = fails(database.job(&place, "out").sql("SELECT named_struct('a', id) AS id FROM input")).await;
    assert!(error.contains("to_json(id)"), "{error}");
    let to =
        |url: String| Job::new(&place).format("postgres").out(None).option("table", "out").option("url", url);
    let error = fails(to(database.url().replace("misfits", "none"))).await;
    assert!(error.contains("connect to") && error.contains("\"none\" does not exist"), "{error}");
    let error = fails(to(database.url().replace("sesame", "simsalabim"))).await;
    assert!(error.contains("password authentication failed") && !error.contains("simsalabim"), "{error}");

    // What only a value shows, the server says.
    database.run("CREATE TABLE short (t varchar(2))");
    let sql = "SELECT 'abc' AS t FROM input";
    let error = database.job(&place, "short").sql(sql).run(&session()).await.unwrap_err().to_string();
    assert!(error.contains("value too long for type character varying(2)"), "{error}");
    assert_eq!(database.rows("SELECT count(*) FROM short"), ["0"]);
    // And what it would cut off without a word, the sink.
    let checkpoint = Place::new();
    let job = database.job(&place, "short").option("checkpointLocation", checkpoint.text("checkpoint"));
    let error = job.sql("SELECT 'ä   ' AS t FROM input").run(&session()).await.unwrap_err().to_string();
    assert!(error.contains("column 't' of PostgreSQL takes 2 characters, and 'ä   ' has more"), "{error}");
    let checkpoint = Place::new();
    let job = database.job(&place, "short").option("checkpointLocation", checkpoint.text("checkpoint"));
    job.sql("SELECT 'ä ' AS t FROM input WHERE id = 0").run(&session()).await.unwrap();
    assert_eq!(database.rows("SELECT concat('[', t, ']') FROM short"), ["[ä ]"]);
}

/// The eight bytes of a bigint are a double, too, and the server takes them for whatever the column is now.
#[tokio::test]
async fn a_column_that_is_altered_while_the_query_runs_is_noticed() {
    let Some(database) = Database::new("altered") else { return };
    for (table, mode, sql) in [
        ("appended", OutputMode::Append, "SELECT id FROM input"),
        ("replaced", OutputMode::Complete, "SELECT id FROM input GROUP BY id"),
    ] {
        let place = Place::new();
        put(&place, 0..1);
        let job = database.job(&place, table).option("createTable", true).sql(sql).mode(mode);
        let session = session();
        let query = job.clone().trigger(Trigger::AtOnce).start(&session).await.unwrap();
        query.process_all_available().await.unwrap();
        database.run(&format!("ALTER TABLE {table} ALTER COLUMN id TYPE double precision"));
        put(&place, 1..2);
        let error = query.await_termination().await.unwrap_err().to_string();
        let told = "column \"id\" of the table";
        let types = "was bigint when the query began, and is double precision now: start the query again";
        assert!(error.contains(told) && error.contains(types), "{error}");
        let rows = format!("SELECT id FROM {table} ORDER BY id");
        assert_eq!(database.rows(&rows), ["0", "1"], "{table}");

        // Started again, it sees what the table is now.
        let error = job.run(&session).await.unwrap_err().to_string();
        assert!(error.contains("does not fit the result of the query"), "{error}");
        database.run(&format!("ALTER TABLE {table} ALTER COLUMN id TYPE bigint"));
        job.run(&session).await.unwrap();
        assert_eq!(database.rows(&rows), ["0", "1", "10", "11"], "{table}");
    }
}

#[tokio::test]
async fn a_checkpoint_and_a_table_of_different_times_are_refused() {
    let Some(database) = Database::new("behind") else { return };
    database.run("CREATE TABLE out (id bigint)");
    let place = Place::new();
    put(&place, 0..4);
    let job = database.job(&place, "out").files_per_trigger(1);
    job.run(&session()).await.unwrap();
    let storage = disks().open(&directory_url(&place.text("checkpoint")), Durability::Process).unwrap();
    checkpoint::rewind(storage, RandomIds.next_id(), 1).await.unwrap();
    let error = cause(&job.start(&session()).await.unwrap_err()).to_string();
    assert!(error.contains("has batch 3 as the last one, and the checkpoint says batch 1"), "{error}");
    // As the message says.
    database.run("DELETE FROM out WHERE id >= 20; UPDATE tidemill_batches SET batch_id = 1");
    job.run(&session()).await.unwrap();
    let rows = || database.rows("SELECT count(*), count(DISTINCT id) FROM out");
    assert_eq!(rows(), ["8|8"]);

    // By one batch, too: it would come again with whatever there is then.
    let storage = disks().open(&directory_url(&place.text("checkpoint")), Durability::Process).unwrap();
    checkpoint::rewind(storage, RandomIds.next_id(), 2).await.unwrap();
    let error = cause(&job.start(&session()).await.unwrap_err()).to_string();
    assert!(error.contains("has batch 3 as the last one, and the checkpoint says batch 2"), "{error}");
    database.run("DELETE FROM out WHERE id >= 30; UPDATE tidemill_batches SET batch_id = 2");
    job.run(&session()).await.unwrap();
    assert_eq!(rows(), ["8|8"]);

    // A table that is behind, as another database's is.
    database.run("DELETE FROM out WHERE id >= 20; UPDATE tidemill_batches SET batch_id = 1");
    let error = cause(&job.start(&session()).await.unwrap_err()).to_string();
    assert!(error.contains("has batch 1 as the last one, and the checkpoint says batch 3"), "{error}");
    assert!(error.contains("restored from a copy, or is that of another database"), "{error}");
}

#[tokio::test]
async fn sql_alone_is_enough() {
    let Some(database) = Database::new("statements") else { return };
    let place = Place::new();
    put(&place, 0..2);
    let session = SqlSession::new(session());
    let script = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE input (id BIGINT) STORED AS JSON LOCATION '{}';
         CREATE EXTERNAL TABLE counts STORED AS POSTGRES LOCATION '{}' OPTIONS ('table' 'counts', 'createTable' 'true');
         CREATE STREAMING QUERY q OUTPUT MODE UPDATE TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '{}'
         AS INSERT INTO counts SELECT id % 10 AS digit, count(*) AS n FROM input GROUP BY 1;",
        place.text("in"),
        database.url(),
        place.text("checkpoint")
    );
    for outcome in session.run(&script).await.unwrap() {
        if let SqlOutcome::Query(started) = outcome {
            started.query.await_termination().await.unwrap();
        }
    }
    assert_eq!(database.rows("SELECT digit, n FROM counts ORDER BY digit"), ["0|2", "1|2"]);

    // The same table can be read, and what is shown of it has no password in it.
    let shown = async |sql: &str| match session.run(sql).await.unwrap().pop() {
        Some(SqlOutcome::Rows(frame)) => {
            let rows = frame.collect().await.unwrap();
            tidemill::arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string()
        }
        other => panic!("{other:?}"),
    };
    let rows = shown("SELECT sum(n) AS n FROM counts WHERE digit = 1;").await;
    assert!(rows.contains("| 2 |"), "{rows}");
    let definition = shown("SHOW CREATE TABLE counts;").await;
    assert!(definition.contains("tidemill:***@localhost") && !definition.contains("sesame"), "{definition}");
}

#[tokio::test]
async fn connections_are_encrypted_as_the_url_says() {
    let Some(database) = Database::new("tls") else { return };
    let certificate = database.server.certificate();
    if !certificate.exists() {
        eprintln!("skipped: the server has no certificate, for there is no openssl here");
        return;
    }
    database.run("CREATE TABLE out (id bigint, ssl boolean)");
    database.run(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           NEW.ssl := (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()); RETURN NEW; END $$;
         CREATE TRIGGER note BEFORE INSERT ON out FOR EACH ROW EXECUTE FUNCTION note()",
    );
    let authority = certificate.display().to_string();
    for (number, (mode, outcome)) in [
        ("sslmode=disable".to_string(), Ok("f")),
        ("sslmode=prefer".to_string(), Ok("t")),
        ("sslmode=require".to_string(), Ok("t")),
        (format!("sslmode=verify-full&sslrootcert={authority}"), Ok("t")),
        (format!("sslmode=verify-ca&sslrootcert={authority}"), Ok("t")),
        ("sslmode=verify-full".to_string(), Err("UnknownIssuer")),
        ("sslmode=verify-ca".to_string(), Err("it needs sslrootcert")),
    ]
    .into_iter()
    .enumerate()
    {
        let place = Place::new();
        place.put("in/0.json", id_lines([i64::try_from(number).unwrap()]));
        let url = format!("{}?{mode}", database.url());
        let ended = database.job(&place, "out").option("url", url).run(&session()).await;
        match (outcome, ended) {
            (Ok(ssl), Ok(_)) => {
                let rows = database.rows(&format!("SELECT ssl FROM out WHERE id = {number}"));
                assert_eq!(rows, [ssl], "{mode}");
            }
            (Err(reason), Err(error)) => {
                let error = cause(&error).to_string();
                assert!(
                    error.contains(reason) || error.contains("no certificates of authorities"),
                    "{mode}: {error}"
                );
            }
            (_, ended) => panic!("{mode}: {ended:?}"),
        }
    }
    // Another name than the certificate's.
    let elsewhere = database.url().replace("localhost", "127.0.0.1");
    for (mode, is_fine) in [("verify-ca", true), ("verify-full", false)] {
        let place = Place::new();
        place.put("in/0.json", id_lines([99]));
        let url = format!("{elsewhere}?sslmode={mode}&sslrootcert={authority}");
        let ended = database.job(&place, "out").option("url", url).run(&session()).await;
        assert_eq!(ended.is_ok(), is_fine, "{mode}: {ended:?}");
    }
}

/// Batches without rows leave the database alone.
#[tokio::test]
async fn what_was_written_is_counted() {
    let Some(database) = Database::new("counted") else { return };
    let place = Place::new();
    put(&place, 0..2);
    let session = session();
    let recorder = Recorder::of(&session);
    let sql = "SELECT id FROM input WHERE id < 10";
    let job = database.job(&place, "out").sql(sql).option("createTable", true).files_per_trigger(1);
    job.run(&session).await.unwrap();
    let rows: Vec<i64> = recorder.progress().iter().map(|progress| progress.sink.num_output_rows).collect();
    assert_eq!(rows, [2, 0]);
    let description = recorder.progress()[0].sink.description.clone();
    assert_eq!(description, "PostgresSink[localhost/counted/\"out\"]");
    assert_eq!(database.rows("SELECT batch_id FROM tidemill_batches"), ["0"]);
}

/// The example, and what `sql/page_views.sql` says of it.
#[test]
fn page_views_are_those_of_the_logs() {
    let Some(database) = Database::new("page_views") else { return };
    let place = Place::new();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = std::fs::read_to_string(root.join("sql/page_views.sql")).unwrap();
    let logs = root.join("examples/data/access_log");
    let mut job = script.clone();
    for (from, to) in [
        ("postgresql://localhost/shop", database.url().as_str()),
        ("examples/data/access_log", logs.to_str().unwrap()),
        ("checkpoint/page_views", &place.text("checkpoint")),
    ] {
        assert!(job.contains(from), "{from}");
        job = job.replace(from, to);
    }
    place.put("job.sql", job);
    for run in 0..2 {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidemill"));
        let output = command.arg("run").arg(place.path("job.sql")).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert!(output.status.success() && !told.contains("sesame"), "{told}");
        assert_eq!(run == 1, told.contains("nothing new"), "{told}");
    }
    // What the server itself makes of the lines.
    let mut lines = String::new();
    for file in std::fs::read_dir(logs).unwrap() {
        lines += &std::fs::read_to_string(file.unwrap().path()).unwrap();
    }
    let lines: Vec<String> = lines.lines().map(|line| format!("('{}')", line.replace('\'', "''"))).collect();
    database.run(&format!("CREATE TABLE lines (line text); INSERT INTO lines VALUES {}", lines.join(", ")));
    let expected = database.rows(
        "SELECT split_part(split_part(line, '\"', 2), ' ', 2) AS path,
           date_trunc('hour', to_timestamp(substring(line FROM '\\[([^ ]+) '), 'DD/Mon/YYYY:HH24:MI:SS')::timestamp),
           count(*), count(*) FILTER (WHERE split_part(split_part(line, '\"', 3), ' ', 2)::int >= 400)
         FROM lines WHERE line LIKE '%[%] \"% % %\" ___ %' GROUP BY 1, 2 ORDER BY 1, 2",
    );
    assert!(expected.len() > 10);
    let found = database.rows("SELECT path, hour::timestamp, views, errors FROM page_views ORDER BY 1, 2");
    let order = |mut rows: Vec<String>| {
        rows.sort();
        rows
    };
    assert_eq!(order(found), order(expected));
}

/// What tells the rows of a result apart that is not a column that is grouped by.
#[tokio::test]
async fn windows_first_rows_and_sets_are_updated_by_their_keys() {
    let Some(database) = Database::new("more_keys") else { return };
    let place = Place::new();
    for (file, rows) in [
        (0, [("a", 5, "00:10"), ("b", 3, "00:20"), ("a", 5, "01:10")]),
        (1, [("a", 1, "00:50"), ("b", 3, "01:20"), ("a", 7, "01:30")]),
    ] {
        let line = |(k, v, at): (&str, i32, &str)| {
            format!("{{\"k\":\"{k}\",\"v\":{v},\"t\":\"2024-01-01T00:{at}\"}}\n")
        };
        place.put(&format!("in/{file}.json"), rows.map(line).concat());
    }
    let run = async |table: &str, select: &str| {
        let script = format!(
            "CREATE UNBOUNDED EXTERNAL TABLE i (k VARCHAR, v BIGINT, t TIMESTAMP, WATERMARK FOR t AS t - INTERVAL '1' HOUR)
               STORED AS JSON LOCATION '{}' OPTIONS ('maxFilesPerTrigger' '1');
             CREATE EXTERNAL TABLE o STORED AS POSTGRES LOCATION '{}' OPTIONS ('table' '{table}', 'createTable' 'true');
             CREATE STREAMING QUERY w OUTPUT MODE UPDATE TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '{}'
             AS INSERT INTO o {select};",
            place.text("in"),
            database.url(),
            place.text(&format!("checkpoint_{table}")),
        );
        for outcome in SqlSession::new(session()).run(&script).await? {
            if let SqlOutcome::Query(started) = outcome {
                started.query.await_termination().await?;
            }
        }
        Ok::<_, tidemill::Error>(database.rows(&format!("SELECT * FROM {table} ORDER BY 1, 2, 3")))
    };
    let select = "SELECT window.start AS s, window.end AS e, k, count(*) AS n FROM i GROUP BY window(t, '1 minute'), k";
    let (first, second) =
        ("2024-01-01 00:00:00|2024-01-01 00:01:00", "2024-01-01 00:01:00|2024-01-01 00:02:00");
    let expected = [(first, "a|2"), (first, "b|1"), (second, "a|2"), (second, "b|1")];
    assert_eq!(
        run("windows", select).await.unwrap(),
        expected.map(|(window, rest)| format!("{window}|{rest}"))
    );
    let select = "SELECT k, n, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v, t) AS n FROM i) \
                  WHERE n <= 2";
    assert_eq!(run("firsts", select).await.unwrap(), ["a|1|1", "a|2|5", "b|1|3", "b|2|3"]);
    assert_eq!(
        run("sets", "SELECT DISTINCT k, v, 0 AS z FROM i").await.unwrap(),
        ["a|1|0", "a|5|0", "a|7|0", "b|3|0"]
    );

    let error =
        run("w", "SELECT window, count(*) AS n FROM i GROUP BY window(t, '1 minute')").await.unwrap_err();
    assert!(
        error.to_string().contains("is a window, for which PostgreSQL has no type: write its bounds"),
        "{error}"
    );
    let error = run("u", "SELECT k, unnest([1, 2]) AS u, count(*) AS n FROM i GROUP BY k").await.unwrap_err();
    assert!(error.to_string().contains("the result of this query has no key"), "{error}");
}
