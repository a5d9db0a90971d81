//! Each row once, wherever the engine or the server dies.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemill::arrow::array::RecordBatch;
use tidemill::arrow::datatypes::SchemaRef;
use tidemill::checkpoint::{copy, replan};
use tidemill::conformance::{SinkCase, check_sink};
use tidemill::id::{IdGenerator, RandomIds};
use tidemill::postgres::{PostgresSink, PostgresTable};
use tidemill::prelude::*;
use tidemill::sink::{Sink, SinkBatch};
use tidemill::storage::Durability;
use tidemill::{Options, Result, async_trait};
use uuid::Uuid;

use super::server::Server;
use super::{Database, put};
use crate::support::faults::{Fault, Faults, Plan, Target};
use crate::support::harness::{Job, Place, cause, eventually, id_lines, session, session_in};
use crate::support::outcome::{directory_url, disks, environment};
use crate::support::sim_disk::Dice;

struct Written<'a> {
    database: &'a Database<'a>,
    create: bool,
}

impl Written<'_> {
    fn options(&self) -> Options {
        let url = self.database.url();
        [
            ("url", url.as_str()),
            ("table", "rows"),
            ("createTable", if self.create { "true" } else { "false" }),
        ]
        .into_iter()
        .collect()
    }
}

#[async_trait]
impl SinkCase for Written<'_> {
    async fn sink(&self, schema: SchemaRef) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(PostgresSink::try_new(None, schema, vec![], OutputMode::Append, &self.options())?))
    }

    async fn visible(&self) -> Result<Vec<RecordBatch>> {
        let table = PostgresTable::open(None, None, &self.options()).await?;
        Ok(SessionContext::new().read_table(Arc::new(table))?.collect().await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sink_keeps_what_is_asked_of_sinks() {
    let Some(database) = Database::new("conformance") else { return };
    check_sink(&Written { database: &database, create: true }).await.unwrap();
}

/// A run that hangs in the middle of a batch, and has lost the checkpoint, does not hold up the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_hangs_is_cut_off() {
    let Some(database) = Database::new("zombie") else { return };
    database.run("CREATE TABLE rows (id bigint, name text)");
    let case = Written { database: &database, create: false };
    let rows = session().context().sql("SELECT 1 AS id, 'a' AS name").await.unwrap().collect().await.unwrap();
    let rows = rows[0].clone();
    let batch = |run| SinkBatch {
        query_id: Uuid::from_u128(1),
        run_id: Uuid::from_u128(run),
        batch_id: 0,
        output_mode: OutputMode::Append,
    };
    let hanging = case.sink(rows.schema()).await.unwrap();
    hanging.recover(batch(1).query_id, None).await.unwrap();
    let mut writer = hanging.writer(batch(1), 0).await.unwrap();
    writer.write(rows.clone()).await.unwrap();
    let copies =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND datname = current_database()";
    eventually(|| database.rows(copies) == ["1"]).await;

    let next = case.sink(rows.schema()).await.unwrap();
    next.recover(batch(2).query_id, None).await.unwrap();
    for (sink, mut writer) in [(&next, next.writer(batch(2), 0).await.unwrap()), (&hanging, writer)] {
        if Arc::ptr_eq(sink, &next) {
            writer.write(rows.clone()).await.unwrap();
        }
        // The one that comes second finds the batch there, and tries nothing in its place.
        let report = writer.close().await.unwrap();
        sink.prepare(batch(1), vec![report]).await.unwrap();
    }
    assert_eq!(database.rows("SELECT * FROM rows"), ["1|a"]);
}

#[tokio::test]
async fn appended_rows_come_once_wherever_the_checkpoint_fails() {
    let Some(database) = Database::new("append") else { return };
    database.run("CREATE TABLE out (id bigint NOT NULL, at timestamptz DEFAULT now(), run text)");
    let template = Place::new();
    put(&template, 0..2);
    let mut runs = 0;
    for fault in [Fault::DieBefore, Fault::ErrorAfter] {
        for call in 0.. {
            let place = template.copy_of(&["in"]);
            let table = format!("out_{runs}");
            database.run(&format!("CREATE TABLE {table} (LIKE out INCLUDING ALL)"));
            let job = database.job(&place, &table).files_per_trigger(1);
            let faults = Faults::new(Some(Plan { call, fault }));
            let broken = session_in(1, environment(faults.provider(disks())));
            let ended = job.run(&broken).await;
            let fired = faults.fired();
            if !fired {
                ended.unwrap();
            }
            job.run(&session()).await.unwrap();
            let rows = database.rows(&format!("SELECT id FROM {table} ORDER BY id"));
            assert_eq!(rows, ["0", "1", "10", "11"], "{fault:?} at call {call}");
            runs += 1;
            if !fired {
                break;
            }
        }
    }
    assert!(runs > 20, "{runs}");
}

/// A batch that is in the table and was let go would be written again under another number.
#[tokio::test]
async fn a_batch_that_is_in_the_table_cannot_be_let_go_without_a_word() {
    let Some(database) = Database::new("let_go") else { return };
    database.run("CREATE TABLE out (id bigint)");
    for done in [0, 1] {
        database.run("TRUNCATE out; DROP TABLE IF EXISTS tidemill_batches");
        let place = Place::new();
        let job = database.job(&place, "out").files_per_trigger(1);
        for file in 0..done {
            put(&place, file..file + 1);
            job.run(&session()).await.unwrap();
        }
        put(&place, done..done + 1);
        let faults = Faults::of(Target { kind: "create commits".into(), number: 0 }, Fault::DieBefore);
        job.run(&session_in(1, environment(faults.provider(disks())))).await.unwrap_err();
        assert!(faults.fired());
        let checkpoint =
            disks().open(&directory_url(&place.text("checkpoint")), Durability::Process).unwrap();
        replan(checkpoint, RandomIds.next_id()).await.unwrap().unwrap();
        let error = cause(&job.run(&session()).await.unwrap_err()).to_string();
        let rows = "SELECT id FROM out ORDER BY id";
        let both: Vec<String> =
            (0..done + 1).flat_map(|file| [10 * file, 10 * file + 1]).map(|id| id.to_string()).collect();
        assert!(error.contains("and then let go (tidemill checkpoint replan)"), "{error}");
        assert_eq!(database.rows(rows), both);
        // As the message says.
        database.run(&format!(
            "DELETE FROM out WHERE id >= {}; UPDATE tidemill_batches SET batch_id = {}",
            10 * done,
            done - 1
        ));
        job.run(&session()).await.unwrap();
        assert_eq!(database.rows(rows), both);
    }
}

/// Two queries with one id would pass over one another's batches.
#[tokio::test]
async fn a_copied_checkpoint_writes_to_a_table_of_its_own() {
    let Some(database) = Database::new("copied") else { return };
    let place = Place::new();
    put(&place, 0..1);
    let live = database.job(&place, "out").option("createTable", true).files_per_trigger(1);
    live.run(&session()).await.unwrap();
    let at = |name: &str| disks().open(&directory_url(&place.text(name)), Durability::Process).unwrap();
    copy(&*at("checkpoint"), &*at("copy")).await.unwrap();
    let trial =
        |table: &str| live.clone().option("checkpointLocation", place.text("copy")).option("table", table);
    place.put("in/1.json", id_lines([10]));
    let error = cause(&trial("out").run(&session()).await.unwrap_err()).to_string();
    assert!(error.contains("the query that it was copied from writes to the table \"out\""), "{error}");
    copy(&*at("checkpoint"), &*at("copy2")).await.unwrap();
    let trial =
        |table: &str| live.clone().option("checkpointLocation", place.text("copy2")).option("table", table);
    trial("trial").run(&session()).await.unwrap();
    place.put("in/2.json", id_lines([20]));
    live.run(&session()).await.unwrap();
    trial("trial").run(&session()).await.unwrap();
    let rows = |table: &str| database.rows(&format!("SELECT id FROM {table} ORDER BY id"));
    assert_eq!((rows("out"), rows("trial")), (ids(&[0, 1, 10, 20]), ids(&[10, 20])));
    let error = cause(&trial("third").run(&session()).await.unwrap_err()).to_string();
    assert!(error.contains("option 'table' of the sink was"), "{error}");
}

fn ids(ids: &[i64]) -> Vec<String> {
    ids.iter().map(i64::to_string).collect()
}

const FILES: i64 = 30;

/// Counts by key and plain rows, both into the database.
fn script(place: &Place, database: &Database<'_>) -> String {
    let url = database.url();
    format!(
        "CREATE UNBOUNDED EXTERNAL TABLE input (id BIGINT) STORED AS JSON LOCATION '{input}'
           OPTIONS ('maxFilesPerTrigger' '1');
         CREATE EXTERNAL TABLE plain STORED AS POSTGRES LOCATION '{url}' OPTIONS ('table' 'plain', 'createTable' 'true');
         CREATE EXTERNAL TABLE counts STORED AS POSTGRES LOCATION '{url}' OPTIONS ('table' 'counts', 'createTable' 'true');
         CREATE STREAMING QUERY rows CHECKPOINT LOCATION '{checkpoint}-rows' OPTIONS ('durability' 'process')
         AS INSERT INTO plain SELECT id FROM input;
         CREATE STREAMING QUERY counted OUTPUT MODE UPDATE CHECKPOINT LOCATION '{checkpoint}-counts'
           OPTIONS ('durability' 'process')
         AS INSERT INTO counts SELECT id % 7 AS k, count(*) AS n, sum(id) AS total FROM input GROUP BY 1;",
        input = place.text("in"),
        checkpoint = place.text("checkpoint"),
    )
}

fn binary(place: &Place) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.arg("run").arg(place.path("job.sql")).args(["--trigger", "available-now", "--progress", "none"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn check(database: &Database<'_>) {
    let sums = database.rows("SELECT count(*), count(DISTINCT id), sum(id) FROM plain");
    let all: Vec<i64> = (0..FILES).flat_map(|file| [10 * file, 10 * file + 1]).collect();
    assert_eq!(sums, [format!("{0}|{0}|{1}", all.len(), all.iter().sum::<i64>())]);
    let groups: Vec<String> = (0..7)
        .map(|k| {
            let of: Vec<&i64> = all.iter().filter(|id| *id % 7 == k).collect();
            format!("{k}|{}|{}", of.len(), of.into_iter().sum::<i64>())
        })
        .collect();
    assert_eq!(database.rows("SELECT k, n, total FROM counts ORDER BY k"), groups);
}

#[test]
fn a_binary_that_is_killed_all_the_time_loses_and_doubles_nothing() {
    let Some(database) = Database::new("kills") else { return };
    let place = Place::new();
    put(&place, 0..FILES);
    place.put("job.sql", script(&place, &database));
    let (mut kills, mut patience, mut dice) = (0, Duration::from_millis(20), Dice(7));
    loop {
        let mut process = binary(&place).spawn().unwrap();
        let until = Instant::now() + patience.mul_f64(0.5 + dice.roll(100) as f64 / 100.0);
        let ended = loop {
            match process.try_wait().unwrap() {
                None if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
                status => break status,
            }
        };
        match ended {
            Some(status) => {
                let stderr = std::io::read_to_string(process.stderr.take().unwrap()).unwrap();
                assert!(status.success(), "after {kills} kills: {stderr}");
                break;
            }
            None => {
                process.kill().unwrap();
                process.wait().unwrap();
                kills += 1;
                patience = patience.mul_f64(1.2);
            }
        }
    }
    check(&database);
    assert!(kills > 2, "{kills}");
}

/// The server dies as in a power cut and comes back, while the engine goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_is_waited_for() {
    let Some(server) = Server::start() else { return };
    let database = Database::on(&server, "shop");
    let place = Place::new();
    put(&place, 0..FILES);
    place.put("job.sql", script(&place, &database));
    let process = binary(&place).spawn().unwrap();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.come_back();
    }
    let output = process.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    check(&database);
}

#[tokio::test]
async fn a_connection_that_the_server_ends_is_made_anew() {
    let Some(database) = Database::new("reconnect") else { return };
    let place = Place::new();
    put(&place, 0..1);
    let session = session();
    let job: Job = database.job(&place, "out").option("createTable", true).trigger(Trigger::AtOnce);
    let query = job.start(&session).await.unwrap();
    query.process_all_available().await.unwrap();
    let others =
        "FROM pg_stat_activity WHERE application_name LIKE 'tidemill%' AND datname = current_database()";
    database.run(&format!("SELECT pg_terminate_backend(pid) {others}"));
    let others = &format!("SELECT count(*) {others}");
    eventually(|| database.rows(others) == ["0"]).await;
    place.put("in/1.json", id_lines([5]));
    query.process_all_available().await.unwrap();
    query.stop(StopMode::Finish).await.unwrap();
    let rows = database.rows("SELECT id FROM out ORDER BY id");
    assert_eq!(rows, ["0", "1", "5"]);
}
