//! What a query remembers, read from its checkpoint with the table function `state`.

mod kinds;

use std::fmt::Write;
use std::path::PathBuf;

use datafusion::arrow::util::display::array_value_to_string;
use tempfile::TempDir;
use tidemill::prelude::*;
use tidemill::sql::SqlOutcome;

/// A query over JSON files of `s (k, v, ts)`, which is started anew for each file.
struct Job {
    folder: TempDir,
    sql: String,
    mode: OutputMode,
    options: Vec<(&'static str, &'static str)>,
    files: usize,
}

impl Job {
    fn new(sql: &str, mode: OutputMode) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        Self { folder, sql: sql.to_string(), mode, options: vec![("statePartitions", "3")], files: 0 }
    }

    fn checkpoint(&self) -> PathBuf {
        self.folder.path().join("checkpoint")
    }

    fn writer(&self, frame: DataFrame) -> tidemill::DataStreamWriter {
        let writer =
            frame.write_stream().format("noop").output_mode(self.mode).trigger(Trigger::AvailableNow);
        let checkpoint = self.checkpoint().display().to_string();
        writer.option("checkpointLocation", checkpoint).options(self.options.iter().copied())
    }

    /// Starts the query, has it read one more file, and ends it. Times are in seconds.
    async fn run(&mut self, rows: &[(Option<&str>, i64, i64)]) {
        let session = Session::new();
        let table = self.table(&session, rows).await;
        session.context().register_table("s", table.into_view()).unwrap();
        let frame = session.context().sql(&self.sql).await.unwrap();
        self.writer(frame).start(None).await.unwrap().await_termination().await.unwrap();
    }

    /// The input, with one more file.
    async fn table(&mut self, session: &Session, rows: &[(Option<&str>, i64, i64)]) -> DataFrame {
        let mut text = String::new();
        for (k, v, second) in rows {
            let k = k.map_or("null".to_string(), |k| format!("\"{k}\""));
            let (minute, second) = (second / 60, second % 60);
            writeln!(text, "{{\"k\":{k},\"v\":{v},\"ts\":\"2026-01-01T00:{minute:02}:{second:02}\"}}")
                .unwrap();
        }
        crate::support::harness::put(&self.folder.path().join(format!("in/{}.json", self.files)), text);
        self.files += 1;
        let schema = tidemill::sql::SqlSession::new(session.clone());
        let schema = schema.schema("k VARCHAR, v BIGINT, ts TIMESTAMP").await.unwrap();
        let input = self.folder.path().join("in");
        let reader = session.read_stream().format("json").schema(schema).option("maxFilesPerTrigger", 1);
        reader.load(input).await.unwrap().with_watermark("ts", "10 seconds").unwrap()
    }

    /// The rows of a statement, in which `state(` stands for the function with this checkpoint, sorted.
    async fn select(&self, sql: &str) -> Vec<String> {
        self.try_select(sql).await.unwrap()
    }

    async fn try_select(&self, sql: &str) -> tidemill::Result<Vec<String>> {
        rows(&Session::new(), &self.statement(sql)).await
    }

    fn statement(&self, sql: &str) -> String {
        let call = format!("state('{}', ", self.checkpoint().display());
        sql.replace("state()", &format!("{})", call.trim_end_matches(", "))).replace("state(,", &call)
    }
}

/// The rows of the last statement of a script, sorted, one text per row.
async fn rows(session: &Session, sql: &str) -> tidemill::Result<Vec<String>> {
    let Some(SqlOutcome::Rows(frame)) = session.sql(sql).await?.pop() else { panic!("{sql}") };
    let mut found = Vec::new();
    for batch in frame.collect().await? {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
            found.push(
                values
                    .map(|value| if value.is_empty() { "-".into() } else { value })
                    .collect::<Vec<_>>()
                    .join(" "),
            );
        }
    }
    found.sort();
    Ok(found)
}

const SUMS: &str = "SELECT k, sum(v) AS total FROM s GROUP BY k";

#[tokio::test]
async fn state_is_a_table() {
    let mut job = Job::new(SUMS, OutputMode::Update);
    job.run(&[(Some("a"), 1, 0), (Some("b"), 2, 0), (None, 7, 0)]).await;
    assert_eq!(job.select("SELECT * FROM state()").await, ["0 aggregate 3 -"]);
    assert_eq!(job.select("SELECT * FROM state(, 0)").await, ["- 7 - -", "a 1 - -", "b 2 - -"]);

    // After restarts, with another number of partitions.
    job.options = vec![("statePartitions", "1")];
    job.run(&[(Some("a"), 10, 0), (Some("c"), 3, 0)]).await;
    let all = ["- 7 - -", "a 11 - -", "b 2 - -", "c 3 - -"];
    assert_eq!(job.select("SELECT * FROM state(, 0)").await, all);
    let newest = job.select("SELECT k, \"sum(s.v)[sum]\" FROM state(, 0) WHERE k > 'a'").await;
    assert_eq!(newest, ["b 2", "c 3"]);
    assert_eq!(job.select("SELECT count(*), sum(\"sum(s.v)[sum]\") FROM state(, 0)").await, ["4 23"]);

    let renamed = "SELECT name, total FROM state(, 0) AS t(name, total, carry, forgotten) WHERE total > 10";
    assert_eq!(job.select(renamed).await, ["a 11"]);

    // Any batch, by position and by name, and what differs between two.
    assert_eq!(job.select("SELECT * FROM state(, 0, 0)").await, ["- 7 - -", "a 1 - -", "b 2 - -"]);
    let named = "SELECT * FROM state(, batch => 0, operator => 0)";
    assert_eq!(job.select(named).await, ["- 7 - -", "a 1 - -", "b 2 - -"]);
    assert_eq!(job.select("SELECT rows FROM TABLE(state(, NULL, 0))").await, ["3"]);
    let changed = "SELECT n.k, n.\"sum(s.v)[sum]\" AS now, o.\"sum(s.v)[sum]\" AS before
                   FROM state(, 0, 1) n LEFT JOIN STATE(, 0, 0) AS o ON n.k = o.k
                   WHERE n.\"sum(s.v)[sum]\" IS DISTINCT FROM o.\"sum(s.v)[sum]\"";
    let changed = changed.replace("STATE(", "state(");
    assert_eq!(job.select(&changed).await, ["- 7 -", "a 11 1", "c 3 -"]);
    assert_eq!(job.select("SELECT k FROM state(, 0) ORDER BY k DESC NULLS LAST LIMIT 1").await, ["c"]);
    assert_eq!(job.select("SELECT 1 FROM state(, 0) LIMIT 2").await, ["1", "1"]);
}

/// A view, and a frame that is collected twice, show what is there when they are read.
#[tokio::test]
async fn state_is_read_anew_with_every_scan() {
    let mut job = Job::new(SUMS, OutputMode::Update);
    job.run(&[(Some("a"), 1, 0)]).await;
    let session = Session::new();
    session.sql(&job.statement("CREATE VIEW now AS SELECT k FROM state(, 0)")).await.unwrap();
    session.sql(&job.statement("CREATE VIEW first AS SELECT k FROM state(, 0, 0)")).await.unwrap();
    assert_eq!(rows(&session, "SELECT * FROM now").await.unwrap(), ["a"]);
    job.run(&[(Some("b"), 1, 0)]).await;
    assert_eq!(rows(&session, "SELECT * FROM now").await.unwrap(), ["a", "b"]);
    assert_eq!(rows(&session, "SELECT * FROM first").await.unwrap(), ["a"]);

    // Another query has taken the place.
    std::fs::remove_dir_all(job.checkpoint()).unwrap();
    job.sql = "SELECT k, v, count(*) FROM s GROUP BY k, v".into();
    job.run(&[]).await;
    let error = rows(&session, "SELECT * FROM now").await.unwrap_err().to_string();
    assert!(error.contains("has become the checkpoint of another query"), "{error}");
}

/// With rows in all buckets, some of which are read before the reader has had enough.
#[tokio::test]
async fn state_of_many_rows_is_read_part_by_part() {
    let mut job = Job::new("SELECT v, count(*) FROM s GROUP BY v", OutputMode::Update);
    let many: Vec<_> = (0..200_000).map(|v| (None, v, 0)).collect();
    job.run(&many).await;
    assert_eq!(
        job.select("SELECT count(*), count(DISTINCT v), sum(v) FROM state(, 0)").await,
        ["200000 200000 19999900000"]
    );
    assert_eq!(job.select("SELECT count(*) FROM (SELECT v FROM state(, 0) LIMIT 3)").await, ["3"]);
    let state = Session::new().stored_state(job.checkpoint().to_str().unwrap(), None).await.unwrap();
    assert!(state.bytes() > 200_000);
    let frame = Session::new().context().read_table(state.table(0).unwrap()).unwrap();
    let batches = frame.collect().await.unwrap();
    assert!(batches.len() > 20 && batches.iter().all(|batch| batch.num_rows() <= 8192), "{}", batches.len());
}

#[tokio::test]
async fn state_of_a_running_query_can_be_read() {
    let mut job = Job::new(SUMS, OutputMode::Update);
    let session = Session::new();
    let table = job.table(&session, &[(Some("a"), 1, 0)]).await;
    session.context().register_table("s", table.into_view()).unwrap();
    let frame = session.context().sql(SUMS).await.unwrap();
    let query = job.writer(frame).trigger(Trigger::ProcessingTime(std::time::Duration::ZERO));
    let query = query.start(None).await.unwrap();
    query.process_all_available().await.unwrap();
    let sums = job.statement("SELECT k, \"sum(s.v)[sum]\" FROM state(, 0)");
    // In the session of the query, in another one, and without a script.
    assert_eq!(rows(&session, &sums).await.unwrap(), ["a 1"]);
    for number in 2..20 {
        job.table(&session, &[(Some("a"), 1, 0)]).await;
        query.process_all_available().await.unwrap();
        assert_eq!(job.select(&sums).await, [format!("a {number}")]);
    }
    assert_eq!(session.context().sql(&sums).await.unwrap().count().await.unwrap(), 1);
    query.stop(StopMode::Finish).await.unwrap();
    assert_eq!(rows(&session, &sums).await.unwrap(), ["a 19"]);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let mut job = Job::new(SUMS, OutputMode::Update);
    job.options.extend([("minBatchesToRetain", "2"), ("durability", "process")]);
    for _ in 1..120 {
        job.table(&Session::new(), &[(Some("a"), 1, 0)]).await;
    }
    job.run(&[(Some("a"), 1, 0)]).await;
    let place = job.checkpoint().display().to_string();
    let kept: Vec<u64> = std::fs::read_dir(job.checkpoint().join("commits"))
        .unwrap()
        .map(|file| file.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let (first, last) = (*kept.iter().min().unwrap(), *kept.iter().max().unwrap());
    assert!(first > 0 && last == 119, "{kept:?}");
    let usage =
        "write state('checkpoint'), state('checkpoint', operator) or state('checkpoint', operator, batch)";
    for (call, message) in [
        (
            "state('nowhere')".into(),
            "nowhere is not the checkpoint of a query at line 2, column 6".to_string(),
        ),
        (format!("state('{place}', 1)"), format!("{place} has no operator 1; it has 0 (aggregate)")),
        (
            format!("state('{place}', 0, 0)"),
            format!("{place} does not have batch 0; it has those from {first} to {last}"),
        ),
        (
            format!("state('{place}', 0, 120)"),
            format!("{place} does not have batch 120; it has those from {first} to {last}"),
        ),
        (format!("state('{place}', -1)"), format!("the operator -1 is not a number from 0; {usage}")),
        (format!("state('{place}', 0, 'x')"), format!("the batch x is not a number from 0; {usage}")),
        (format!("state('{place}', column1)"), format!("'column1' is not a constant; {usage}")),
        ("state()".into(), format!("the place of a checkpoint is expected; {usage}")),
        ("state(1)".into(), format!("the place of a checkpoint is expected; {usage}")),
        (format!("state('{place}', 0, 119, 7)"), format!("the argument '7' is not expected here; {usage}")),
        (
            format!("state('{place}', run => 7)"),
            format!("the argument 'run => 7' is not expected here; {usage}"),
        ),
    ] {
        let error = rows(&Session::new(), &format!("SELECT *\nFROM {call}")).await.unwrap_err();
        assert!(matches!(error, tidemill::Error::Sql { .. }), "{call}: {error:?}");
        assert!(error.to_string().contains(&message), "{call}: {error}");
    }

    let mut stateless = Job::new("SELECT k FROM s", OutputMode::Append);
    stateless.run(&[(Some("a"), 1, 0)]).await;
    let error = stateless.try_select("SELECT * FROM state()").await.unwrap_err().to_string();
    assert!(error.contains("has no state: its query remembers no rows"), "{error}");
    let commits = job.checkpoint().join("commits");
    std::fs::remove_dir_all(commits).unwrap();
    let error = job.try_select("SELECT * FROM state()").await.unwrap_err().to_string();
    assert!(error.contains("has no state yet: no batch has been committed"), "{error}");
}

#[tokio::test]
async fn damage_is_told_as_damage() {
    let mut job = Job::new(SUMS, OutputMode::Update);
    job.run(&[(Some("a"), 1, 0)]).await;
    for file in std::fs::read_dir(job.checkpoint().join("state")).unwrap() {
        std::fs::write(file.unwrap().path(), "rubbish").unwrap();
    }
    let error = job.try_select("SELECT * FROM state(, 0)").await.unwrap_err();
    assert!(matches!(error, tidemill::Error::CheckpointDamaged { .. }), "{error:?}");
    assert_eq!(job.select("SELECT rows FROM state()").await, ["1"]);
    std::fs::write(job.checkpoint().join("commits/0"), "rubbish").unwrap();
    let error = job.try_select("SELECT * FROM state()").await.unwrap_err();
    assert!(matches!(error, tidemill::Error::CheckpointDamaged { .. }), "{error:?}");
}
