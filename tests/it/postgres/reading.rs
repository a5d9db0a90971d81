//! Tables of PostgreSQL as bounded tables, compared with what `psql` prints of them.

use std::sync::Arc;

use tidemill::Options;
use tidemill::arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill::postgres::PostgresTable;
use tidemill::prelude::*;
use tidemill::sql::{SqlOutcome, SqlSession};

use super::{Database, put};
use crate::support::harness::{Job, Place, id_lines, session};

impl Database<'_> {
    async fn open(&self, session: &Session, table: &str) {
        let url = self.url();
        let options: Options = [("url", url.as_str()), ("table", table)].into_iter().collect();
        let read = PostgresTable::open(None, None, &options).await.unwrap();
        session.context().register_table(table, Arc::new(read)).unwrap();
    }
}

/// The rows as `psql` prints them.
fn lines(rows: &[RecordBatch]) -> Vec<String> {
    let options =
        FormatOptions::default().with_null("null").with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"));
    let options = options.with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f+00"));
    let mut lines = Vec::new();
    for rows in rows {
        let columns: Vec<ArrayFormatter<'_>> =
            rows.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        for row in 0..rows.num_rows() {
            lines.push(
                columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|"),
            );
        }
    }
    lines
}

async fn read(session: &Session, sql: &str) -> Vec<String> {
    lines(&session.context().sql(sql).await.unwrap().collect().await.unwrap())
}

#[tokio::test]
async fn values_of_every_type_are_read_as_they_are() {
    let Some(database) = Database::new("read_types") else { return };
    database.run(
        "CREATE TYPE mood AS ENUM ('glad'); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN small AS smallint;
         CREATE TABLE t (n int, i2 smallint, i4 integer, i8 bigint, f4 real, f8 double precision, d numeric(10, 3),
           free numeric, t text, v varchar(9), c char(3), j jsonb, u uuid, day date, clock time, ts timestamp,
           tz timestamptz, m mood, dom small, l int[], p pair, ip inet, \"Odd \"\"Name\" text);
         INSERT INTO t VALUES (1, -5, 70000, 5000000000, 0.25, 0.1, -12.345, 1e30, 'ä', 'v', 'c', '{\"a\": 1}',
           '00000000-0000-0000-0000-000000000001', '1969-12-31', '12:34:56.123456', '1969-12-31 23:59:59.999999',
           '2024-02-29 12:00:00+02', 'glad', 3, '{1,NULL}', '(1,x)', '10.0.0.1', 'odd');
         INSERT INTO t (n) VALUES (2);
         ALTER TABLE t ADD b boolean; UPDATE t SET b = true WHERE n = 1",
    );
    let session = session();
    database.open(&session, "t").await;
    let found = read(&session, "SELECT * FROM t ORDER BY n").await;
    let as_json = "n, i2, i4, i8, f4, f8, d, free, t, v, c::text, j, u, day, clock, ts, tz, m, dom, to_json(l), \
                   to_json(p), ip::text, \"Odd \"\"Name\", CASE WHEN b THEN 'true' END";
    let expected = database.rows(&format!("SELECT {as_json} FROM t ORDER BY n"));
    assert_eq!(found, expected);
    assert_eq!(read(&session, "SELECT count(*) FROM t").await, ["2"]);

    database.run("INSERT INTO t (n, ts) VALUES (3, 'infinity')");
    let error =
        session.context().sql("SELECT ts FROM t").await.unwrap().collect().await.unwrap_err().to_string();
    assert!(error.contains("column \"ts\"") && error.contains("'infinity'"), "{error}");
}

#[tokio::test]
async fn conditions_columns_and_limits_are_left_to_the_server() {
    let Some(database) = Database::new("pushed") else { return };
    database.run(
        "CREATE TABLE t (id int, name text, day date, x double precision);
         INSERT INTO t SELECT i, CASE WHEN i % 3 <> 0 THEN 'n' || i % 5 END, DATE '2024-01-01' + i, i / 4.0
         FROM generate_series(1, 40) AS i",
    );
    let session = session();
    database.open(&session, "t").await;
    for (condition, pushed) in [
        ("id > 30 AND name = 'n2'", r#"WHERE ("id" > (30)) AND ("name" = 'n2')"#),
        ("30 > id AND name IS NULL", r#"WHERE ("id" < (30)) AND ("name" IS NULL)"#),
        ("day BETWEEN DATE '2024-01-05' AND DATE '2024-01-09'", "DATE '2024-01-05'"),
        ("id IN (3, 5, 7) OR NOT name <> 'n1'", "OR"),
        ("name > 'n3'", "FROM \"t\", "),
        ("x < 3.0 AND id <> 2", r#"WHERE ("id" <> (2))"#),
        ("length(name) = 2 AND id = 4", r#"WHERE ("id" = (4))"#),
    ] {
        let sql = format!("SELECT id FROM t WHERE {condition}");
        let plan = read(&session, &format!("EXPLAIN {sql}")).await.join("\n");
        let scan = format!("{}, ", plan.split("PostgresScan: ").nth(1).unwrap().lines().next().unwrap());
        assert!(scan.contains(pushed), "{condition}: {scan}");
        let mut found = read(&session, &sql).await;
        found.sort();
        let mut expected = database.rows(&sql);
        expected.sort();
        assert_eq!(found, expected, "{condition}");
    }
    let plan = read(&session, "EXPLAIN SELECT day FROM t WHERE id > 3 LIMIT 2").await.join("\n");
    assert!(plan.contains(r#"PostgresScan: SELECT "day" FROM "t" WHERE ("id" > (3)) LIMIT 2"#), "{plan}");
    assert_eq!(read(&session, "SELECT id FROM t WHERE id > 3 LIMIT 2").await.len(), 2);
}

/// Many rows, in several batches, in declared types.
#[tokio::test]
async fn a_large_table_is_read_in_pieces_and_in_the_types_that_are_declared() {
    let Some(database) = Database::new("large") else { return };
    database.run("CREATE TABLE t (id int, d numeric); INSERT INTO t SELECT i, i / 8.0 FROM generate_series(1, 30000) AS i");
    let session = SqlSession::new(session());
    let run = async |sql: &str| match session.run(sql).await.unwrap().pop() {
        Some(SqlOutcome::Rows(frame)) => lines(&frame.collect().await.unwrap()),
        _ => vec![],
    };
    run(&format!(
        "CREATE EXTERNAL TABLE t (id BIGINT, d DECIMAL(20, 3)) STORED AS POSTGRES LOCATION '{}' OPTIONS ('table' 't')",
        database.url()
    ))
    .await;
    let sums = run("SELECT count(*), sum(id), sum(d), arrow_typeof(min(d)) FROM t;").await;
    assert_eq!(sums, ["30000|450015000|56251875.000|Decimal128(20, 3)"]);
}

#[tokio::test]
async fn streams_are_joined_with_what_is_in_the_table_now() {
    let Some(database) = Database::new("joined") else { return };
    database.run(
        "CREATE TABLE names (id bigint PRIMARY KEY, name text); INSERT INTO names VALUES (0, 'a'), (1, 'b')",
    );
    let place = Place::new();
    put(&place, 0..2);
    let script = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE input (id BIGINT) STORED AS JSON LOCATION '{}';
         CREATE EXTERNAL TABLE names STORED AS POSTGRES LOCATION '{url}' OPTIONS ('table' 'names');
         CREATE EXTERNAL TABLE named STORED AS POSTGRES LOCATION '{url}' OPTIONS ('table' 'named', 'createTable' 'true');
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '{}'
         AS INSERT INTO named SELECT i.id, n.name FROM input i LEFT JOIN names n ON i.id = n.id;",
        place.text("in"),
        place.text("checkpoint"),
        url = database.url(),
    );
    let run = async || {
        // A session of its own each time: a process that starts anew.
        for outcome in SqlSession::new(session()).run(&script).await.unwrap() {
            if let SqlOutcome::Query(started) = outcome {
                started.query.await_termination().await.unwrap();
            }
        }
    };
    run().await;
    let rows = || database.rows("SELECT id, name FROM named ORDER BY id");
    assert_eq!(rows(), ["0|a", "1|b", "10|null", "11|null"]);
    database.run("INSERT INTO names VALUES (20, 'c')");
    place.put("in/2.json", id_lines([20]));
    run().await;
    assert_eq!(rows(), ["0|a", "1|b", "10|null", "11|null", "20|c"]);
}

/// Two scans of a batch, while the table changes all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_sees_one_version_of_a_server() {
    let Some(database) = Database::new("versions") else { return };
    database.run(
        "CREATE TABLE p (k bigint PRIMARY KEY, x bigint); CREATE TABLE q (k bigint PRIMARY KEY, x bigint);
         INSERT INTO p SELECT k, 0 FROM generate_series(0, 500) AS k; INSERT INTO q SELECT * FROM p;
         CREATE TABLE stop (k int);
         CREATE PROCEDURE bump() LANGUAGE plpgsql AS $$ BEGIN
           WHILE NOT EXISTS (SELECT FROM stop) LOOP
             UPDATE p SET x = x + 1 WHERE k < 40; UPDATE q SET x = x + 1 WHERE k < 40; COMMIT;
           END LOOP; END $$",
    );
    let place = Place::new();
    place.put("in/00.json", id_lines(0..40));
    let session = session();
    database.open(&session, "p").await;
    database.open(&session, "q").await;
    let sql = "SELECT i.id, a.x AS ax, b.x AS bx, q.x AS qx FROM input i JOIN p a ON i.id = a.k JOIN p b ON i.id = b.k
               JOIN q ON i.id = q.k";
    let job = database.job(&place, "seen").sql(sql).option("createTable", true).files_per_trigger(1);
    std::thread::scope(|scope| {
        scope.spawn(|| database.run("CALL bump()"));
        for file in 1..30 {
            place.put(&format!("in/{file:02}.json"), id_lines(0..40));
        }
        let ran =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(job.run(&session)));
        database.run("INSERT INTO stop VALUES (1)");
        ran.unwrap();
    });
    let seen =
        "SELECT count(*), count(*) FILTER (WHERE ax <> bx OR ax <> qx), count(DISTINCT ax) > 1 FROM seen";
    assert_eq!(database.rows(seen), ["1200|0|t"]);
    // Nothing is held beyond the batch.
    let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND datname = current_database()";
    crate::support::harness::eventually(|| database.rows(open) == ["0"]).await;
}

/// A type of as many bytes would be taken for the one before.
#[tokio::test]
async fn a_column_that_is_altered_between_two_batches_is_named() {
    let Some(database) = Database::new("altered_names") else { return };
    database.run(
        "CREATE TABLE names (id bigint PRIMARY KEY, x int, d numeric(10, 2)); INSERT INTO names VALUES (0, 8, 1.25), (10, 9, 2)",
    );
    for (alter, was, is) in [
        (
            "ALTER TABLE names ALTER x TYPE real",
            "column \"x\"",
            "was integer when the query began, and is real now",
        ),
        (
            "ALTER TABLE names ALTER d TYPE numeric(10, 3); UPDATE names SET d = 1.125",
            "column \"d\"",
            "1.125",
        ),
    ] {
        let place = Place::new();
        put(&place, 0..1);
        let session = session();
        database.open(&session, "names").await;
        let sql = "SELECT i.id, CAST(n.x AS BIGINT) AS x, CAST(n.d AS VARCHAR) AS d FROM input i JOIN names n ON i.id = n.id";
        let job = Job::new(&place).sql(sql).trigger(Trigger::AtOnce);
        let query = job.start(&session).await.unwrap();
        query.process_all_available().await.unwrap();
        database.run(alter);
        place.put("in/1.json", id_lines([10]));
        let error = query.process_all_available().await.unwrap_err().to_string();
        assert!(error.contains(was) && error.contains(is), "{error}");
        assert_eq!(place.ids(), [0]);
    }
}
