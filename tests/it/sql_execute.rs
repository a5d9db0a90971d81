//! What statements do: tables, streaming queries, and refusals.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::util::pretty::pretty_format_batches;
use tempfile::TempDir;
use tidemill::source::SourceProvider;
use tidemill::source::memory::MemoryStream;
use tidemill::sql::{SqlOutcome, SqlSession};
use tidemill::{Error, Options, Session, SourceFactory, SourceRequest, StopMode, Trigger};

/// A session with a folder, whose unbounded tables `STORED AS FEED` are `feed`.
struct Fixture {
    sql: SqlSession,
    feed: MemoryStream,
    folder: TempDir,
}

struct FeedFactory(MemoryStream);

#[async_trait]
impl SourceFactory for FeedFactory {
    async fn create(&self, _: SourceRequest) -> tidemill::Result<Arc<dyn SourceProvider>> {
        Ok(Arc::new(self.0.clone()))
    }
}

fn rows(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("n{id}"))));
    let ids: ArrayRef = Arc::new(Int64Array::from(ids));
    RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("name", names, true)]).unwrap()
}

impl Fixture {
    /// With the unbounded table `feed (id BIGINT, name VARCHAR)`.
    async fn new() -> Self {
        let fixture = Self::with(SqlSession::new(Session::new()));
        fixture.run("CREATE UNBOUNDED EXTERNAL TABLE feed STORED AS FEED").await;
        fixture
    }

    fn with(sql: SqlSession) -> Self {
        let feed = MemoryStream::new(rows([]).schema());
        sql.session().register_source("feed", Arc::new(FeedFactory(feed.clone())));
        Self { sql, feed, folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    /// Runs `script`, in which `$` stands for the folder.
    async fn try_run(&self, script: &str) -> tidemill::Result<Vec<SqlOutcome>> {
        self.sql.run(&script.replace('$', self.folder.path().to_str().unwrap())).await
    }

    async fn run(&self, script: &str) -> Vec<SqlOutcome> {
        self.try_run(script).await.unwrap_or_else(|error| panic!("{error}\nin: {script}"))
    }

    /// What the last statement of `script` gives: rows as a table, or what was done.
    async fn text(&self, script: &str) -> String {
        match self.run(script).await.pop() {
            Some(SqlOutcome::Done(message)) => message,
            Some(SqlOutcome::Rows(frame)) => table(&frame.collect().await.unwrap()),
            Some(SqlOutcome::Table(batches)) => table(&batches),
            other => panic!("{other:?}"),
        }
    }

    async fn error(&self, script: &str) -> String {
        match self.try_run(script).await {
            Ok(outcomes) => panic!("no error but {outcomes:?} in: {script}"),
            Err(error) => error.to_string().replace(self.folder.path().to_str().unwrap(), "$"),
        }
    }

    /// Runs the streaming queries of `script` to their ends.
    async fn to_end(&self, script: &str) {
        for outcome in self.run(script).await {
            if let SqlOutcome::Query(started) = outcome {
                started.query.await_termination().await.unwrap();
            }
        }
    }
}

/// The cells of a table, without its frame.
fn table(batches: &[RecordBatch]) -> String {
    let text = pretty_format_batches(batches).unwrap().to_string();
    let lines = text.lines().filter(|line| !line.starts_with('+'));
    lines
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>().join(" ").trim().to_string())
        .collect::<Vec<_>>()
        .join("\n")
}

const COPY: &str = "CREATE STREAMING QUERY copy TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '$/checkpoint' \
                    AS INSERT INTO sink SELECT * FROM STREAM feed WHERE id > 1";

#[tokio::test]
async fn a_sink_without_columns_is_a_table_once_it_is_written() {
    let fixture = Fixture::new().await;
    fixture.run("CREATE EXTERNAL TABLE sink STORED AS PARQUET LOCATION '$/out'").await;
    assert_eq!(
        fixture.error("SELECT * FROM sink").await,
        "table 'sink' has no columns yet: there are no parquet files in '$/out/'. Write to it with a streaming \
         query first, or give the columns in CREATE EXTERNAL TABLE at line 1, column 1"
    );
    fixture.feed.add_data(rows([1, 2, 3])).unwrap();
    fixture.to_end(COPY).await;
    assert_eq!(fixture.text("SELECT * FROM sink ORDER BY id").await, "id name\n2 n2\n3 n3");
    // What comes later is seen, also through a view.
    fixture.run("CREATE VIEW v AS SELECT count(*) AS n FROM sink").await;
    fixture.feed.add_data(rows([4])).unwrap();
    fixture.to_end(COPY).await;
    assert_eq!(fixture.text("SELECT count(*) AS n FROM sink").await, "n\n3");
    assert_eq!(fixture.text("SELECT n FROM v").await, "n\n3");
    assert_eq!(fixture.text("INSERT INTO sink VALUES (9, 'batch')").await, "count\n1");
    assert_eq!(fixture.text("SELECT n FROM v").await, "n\n4");
}

#[tokio::test]
async fn listings_that_datafusion_remembers_do_not_hide_new_files() {
    let context = datafusion::prelude::SessionContext::new();
    let fixture = Fixture::with(SqlSession::new(Session::from(context)));
    fixture.run("CREATE UNBOUNDED EXTERNAL TABLE feed STORED AS FEED").await;
    fixture.run("CREATE EXTERNAL TABLE sink STORED AS PARQUET LOCATION '$/out'").await;
    fixture.feed.add_data(rows([2])).unwrap();
    fixture.to_end(COPY).await;
    fixture.run("CREATE VIEW v AS SELECT count(*) AS n FROM sink").await;
    assert_eq!(fixture.text("SELECT n FROM v").await, "n\n1");
    fixture.feed.add_data(rows([3])).unwrap();
    fixture.to_end(COPY).await;
    assert_eq!(fixture.text("SELECT n FROM v").await, "n\n2");
}

#[tokio::test]
async fn rows_are_given_the_columns_of_the_target() {
    let fixture = Fixture::new().await;
    fixture.feed.add_data(rows([1, 2])).unwrap();
    fixture
        .to_end(
            "CREATE EXTERNAL TABLE sink (name VARCHAR, id INT NOT NULL, note VARCHAR) STORED AS CSV
                 LOCATION '$/out' OPTIONS ('header' 'true', 'sep' ';');
             CREATE STREAMING QUERY q TRIGGER ONCE CHECKPOINT LOCATION '$/checkpoint'
                 AS INSERT INTO sink (id, name) SELECT id * 10, name FROM feed",
        )
        .await;
    assert_eq!(fixture.text("SELECT * FROM sink ORDER BY id").await, "name id note\nn1 10\nn2 20");
    let file = std::fs::read_dir(fixture.path("out")).unwrap().map(|entry| entry.unwrap().path());
    let csv = file.filter(|path| path.is_file()).map(|path| std::fs::read_to_string(path).unwrap());
    assert!(csv.collect::<String>().contains("name;id;note\nn1;10;\n"));

    // Without declared columns, the names are those that are inserted.
    fixture
        .to_end(
            "CREATE EXTERNAL TABLE renamed STORED AS JSON LOCATION '$/renamed';
             CREATE STREAMING QUERY r TRIGGER ONCE CHECKPOINT LOCATION '$/checkpoint2'
                 AS INSERT INTO renamed (\"Number\", b) SELECT id, name FROM feed f",
        )
        .await;
    assert_eq!(fixture.text("SELECT * FROM renamed WHERE \"Number\" = 2").await, "Number b\n2 n2");
}

#[tokio::test]
async fn rows_that_do_not_fit_the_target_are_refused() {
    let fixture = Fixture::new().await;
    fixture
        .run("CREATE EXTERNAL TABLE sink (a INT NOT NULL, b VARCHAR) STORED AS CSV LOCATION '$/out'")
        .await;
    fixture.run("CREATE EXTERNAL TABLE any STORED AS NOOP").await;
    for (insert, message) in [
        ("sink SELECT id FROM feed", "the query gives 1 columns (id), but 2 are to be inserted (a, b)"),
        ("sink (b) SELECT name FROM feed", "column 'a' is NOT NULL and must be inserted"),
        ("sink (a, c) SELECT * FROM feed", "the table has no column 'c'"),
        (
            "sink (a, a) SELECT * FROM feed",
            "two columns of the result are called 'a': give one of them another name with AS",
        ),
        (
            "any SELECT x.id, y.id FROM feed x JOIN (SELECT column1 AS id FROM (VALUES (1))) y ON true",
            "two columns of the result are called 'id': give one of them another name with AS",
        ),
        (
            "sink SELECT [id], name FROM feed",
            "column 'a' cannot be inserted: Cannot automatically convert List(Int64) to Int32",
        ),
    ] {
        let error = fixture
            .error(&format!("\n  CREATE STREAMING QUERY q CHECKPOINT LOCATION '$/c' AS INSERT INTO {insert}"))
            .await;
        assert_eq!(error, format!("{message} at line 2, column 3"));
    }
}

#[tokio::test]
async fn targets_must_be_tables_that_can_be_written() {
    let fixture = Fixture::new().await;
    fixture.run("CREATE TABLE plain (id BIGINT); CREATE VIEW v AS SELECT 1").await;
    let error = |target: &'static str| {
        let script = format!("CREATE STREAMING QUERY q AS INSERT INTO {target} SELECT * FROM feed");
        let fixture = &fixture;
        async move { fixture.error(&script).await }
    };
    assert_eq!(
        error("sikn").await,
        "table 'sikn' does not exist (create it with CREATE EXTERNAL TABLE) at line 1, column 1"
    );
    fixture.run("CREATE EXTERNAL TABLE sink STORED AS NOOP; CREATE EXTERNAL TABLE a STORED AS CONSOLE").await;
    fixture.run("CREATE EXTERNAL TABLE old (a INT) STORED AS AVRO LOCATION '$/old'").await;
    assert_eq!(
        error("sikn").await,
        "table 'sikn' does not exist; did you mean 'sink'? (streaming queries can write to: a, old, sink) at line 1, column 1"
    );
    assert!(error("feed").await.starts_with("table 'feed' is unbounded: it is read from"));
    assert!(error("plain").await.starts_with("table 'plain' is not an external table"));
    assert!(error("v").await.starts_with("table 'v' is not an external table"));
    assert!(
        error("old").await.starts_with("table 'old' is stored as AVRO, which streaming queries cannot write")
    );
}

#[tokio::test]
async fn rows_that_never_end_are_only_for_streaming_queries() {
    let fixture = Fixture::new().await;
    fixture.run("CREATE TABLE plain (id BIGINT); CREATE VIEW v AS SELECT id FROM STREAM feed").await;
    for sql in [
        "SELECT * FROM feed",
        "SELECT * FROM v",
        "SELECT 1 WHERE EXISTS (SELECT * FROM feed)",
        "SELECT (SELECT max(id) FROM feed)",
        "WITH c AS (SELECT * FROM feed) SELECT count(*) FROM c",
        "SELECT * FROM plain UNION ALL SELECT id FROM feed",
        "INSERT INTO plain SELECT id FROM feed",
        "COPY (SELECT * FROM feed) TO '$/out.parquet'",
        "COPY feed TO '$/out.parquet'",
        "CREATE TABLE copied AS SELECT * FROM feed",
    ] {
        let error = fixture.error(sql).await;
        assert_eq!(
            error,
            "a batch statement over the unbounded table 'feed' cannot run as a streaming query: its rows never \
             end. Use CREATE STREAMING QUERY name AS INSERT INTO … SELECT …",
            "{sql}"
        );
    }
    let error = fixture.error("EXPLAIN SELECT * FROM feed").await;
    assert!(error.contains("use EXPLAIN STREAMING QUERY AS INSERT INTO"), "{error}");
    assert!(fixture.text("DESCRIBE feed").await.contains("id BIGINT YES"));
    assert!(!Path::new(&fixture.path("out.parquet")).exists());
}

#[tokio::test]
async fn queries_are_shown_and_stopped() {
    let fixture = Fixture::new().await;
    let header = "name status batch rows_in rows_out late rows/s state watermark";
    assert_eq!(fixture.text("SHOW STREAMING QUERIES").await, header);
    fixture.run("CREATE EXTERNAL TABLE sink STORED AS NOOP").await;
    fixture.feed.add_data(rows(0..5)).unwrap();
    let mut outcomes =
        fixture.run("CREATE STREAMING QUERY \"Q\" AS INSERT INTO sink SELECT * FROM feed").await;
    let Some(SqlOutcome::Query(started)) = outcomes.pop() else { panic!("{outcomes:?}") };
    started.query.process_all_available().await.unwrap();
    let shown = fixture.text("SHOW STREAMING QUERIES").await;
    assert!(shown.starts_with(&format!("{header}\nQ ")), "{shown}");
    assert!(shown.contains(" 0 5 5 0 "), "{shown}");
    assert_eq!(
        fixture.error("STOP STREAMING QUERY q").await,
        "there is no streaming query 'q' (running: Q) at line 1, column 1"
    );
    assert_eq!(fixture.text("STOP STREAMING QUERY \"Q\"").await, "streaming query 'Q' stopped");
    assert!(!started.query.is_active());
    assert!(fixture.text("SHOW STREAMING QUERIES").await.contains("Q stopped 0 5 5 "));
    assert_eq!(fixture.text("STOP STREAMING QUERY \"Q\"").await, "streaming query 'Q' has ended already");
}

#[tokio::test]
async fn plans_are_explained_and_refusals_too() {
    let fixture = Fixture::new().await;
    fixture.run("CREATE EXTERNAL TABLE sink STORED AS NOOP").await;
    let plan =
        fixture.text("EXPLAIN STREAMING QUERY AS INSERT INTO sink SELECT id FROM feed WHERE id > 5").await;
    assert!(plan.starts_with("plan_type plan\nplan == Optimized Logical Plan =="), "{plan}");
    assert!(plan.contains("id > Int64(5)") && plan.contains("Physical Plan"), "{plan}");
    let refused =
        fixture.text("EXPLAIN STREAMING QUERY q AS INSERT INTO sink SELECT count(*) FROM feed").await;
    assert!(refused.contains("logical_plan") && refused.contains("Aggregate"), "{refused}");
    assert!(
        refused.contains("refused an aggregation over an unbounded table, in output mode append cannot run"),
        "{refused}"
    );
    assert!(fixture.sql.session().streams().active().is_empty());
}

#[tokio::test]
async fn results_in_memory_are_read_under_the_name_of_the_target() {
    let fixture = Fixture::new().await;
    fixture
        .run("CREATE EXTERNAL TABLE results STORED AS MEMORY; CREATE EXTERNAL TABLE c STORED AS CONSOLE")
        .await;
    assert_eq!(
        fixture.error("SELECT * FROM results").await,
        "table 'results' holds nothing yet: no streaming query has inserted into it at line 1, column 1"
    );
    assert_eq!(
        fixture.error("SELECT * FROM c").await,
        "table 'c' cannot be read: CONSOLE is only written to, by streaming queries at line 1, column 1"
    );
    fixture.feed.add_data(rows([7])).unwrap();
    fixture.to_end("CREATE STREAMING QUERY q TRIGGER ONCE AS INSERT INTO results SELECT * FROM feed").await;
    assert_eq!(fixture.text("SELECT * FROM results").await, "id name\n7 n7");
    assert_eq!(fixture.text("SELECT * FROM q").await, "id name\n7 n7");
    // One query at a time, or nobody would know whose rows these are.
    fixture.run("CREATE STREAMING QUERY q AS INSERT INTO results SELECT * FROM feed").await;
    let error = fixture.error("CREATE STREAMING QUERY r AS INSERT INTO results SELECT * FROM feed").await;
    assert!(error.starts_with("table 'results' shows what the query 'q' keeps in memory"), "{error}");
    fixture.run("STOP STREAMING QUERY q").await;
    // A query called like its table is no trouble.
    fixture
        .to_end("CREATE STREAMING QUERY results TRIGGER ONCE AS INSERT INTO results SELECT id FROM feed")
        .await;
    assert_eq!(fixture.text("SELECT * FROM results").await, "id\n7");
}

#[tokio::test]
async fn tables_are_created_once_replaced_and_dropped() {
    let fixture = Fixture::new().await;
    assert_eq!(
        fixture.text("CREATE EXTERNAL TABLE Sink STORED AS PARQUET LOCATION '$/a'").await,
        "table 'sink' created"
    );
    assert_eq!(
        fixture.error("SELECT 1;\n CREATE EXTERNAL TABLE sink STORED AS NOOP").await,
        "table 'sink' exists already; use CREATE OR REPLACE or IF NOT EXISTS, or drop it first at line 2, column 2"
    );
    assert_eq!(
        fixture.text("CREATE EXTERNAL TABLE IF NOT EXISTS sink STORED AS NOOP").await,
        "table 'sink' exists already"
    );
    let shown = fixture.text("SHOW CREATE TABLE sink").await;
    assert!(shown.contains("CREATE EXTERNAL TABLE Sink STORED AS PARQUET LOCATION"), "{shown}");
    fixture.run("CREATE OR REPLACE EXTERNAL TABLE sink STORED AS NOOP").await;
    assert_eq!(fixture.text("DROP TABLE sink").await, "table 'sink' dropped");
    assert!(fixture.error("DROP TABLE sink").await.contains("doesn't exist"));
    assert_eq!(
        fixture.error("CREATE EXTERNAL TABLE x STORED AS PARKET").await,
        "format PARKET is not known; files are stored as PARQUET, JSON, CSV, ARROW, AVRO or TEXT at line 1, column 1"
    );
    assert_eq!(
        fixture.error("CREATE EXTERNAL TABLE x STORED AS PARQUET").await,
        "table 'x' needs LOCATION '…': PARQUET tables are made of files"
    );
    assert_eq!(
        fixture
            .error("CREATE EXTERNAL TABLE x (a INT) STORED AS CSV PARTITIONED BY (b) LOCATION '$/x'")
            .await,
        "PARTITIONED BY names the column 'b', which the table does not have at line 1, column 1"
    );
    assert_eq!(
        fixture
            .error("CREATE UNBOUNDED EXTERNAL TABLE x (id BIGINT, WATERMARK FOR ts AS ts) STORED AS FEED")
            .await,
        "WATERMARK: there is no column 'ts'. The columns are id, name at line 1, column 1"
    );
    assert_eq!(
        fixture
            .error("CREATE UNBOUNDED EXTERNAL TABLE x (id BIGINT, WATERMARK FOR id AS id) STORED AS FEED")
            .await,
        "WATERMARK: column 'id' cannot be the event time: it is a Int64, not a TIMESTAMP. Make a column of \
         timestamps of it first, with CAST, to_timestamp or to_timestamp_millis at line 1, column 1"
    );
}

#[tokio::test]
async fn errors_of_planning_point_into_the_script() {
    let fixture = Fixture::new().await;
    fixture.run("CREATE EXTERNAL TABLE sink STORED AS NOOP; CREATE TABLE dear_bids (price INT)").await;
    for (sql, message, line, column) in [
        ("SELECT 1;\nSELECT price,\n  pirce FROM dear_bids", "No field named pirce", 3, 3),
        (
            "SELECT 1;\n  SELECT * FROM dear_bdis",
            "table 'dear_bdis' not found; did you mean 'dear_bids'?",
            2,
            17,
        ),
        (
            "SELECT 1;\nCREATE STREAMING QUERY q\nAS INSERT INTO sink SELECT id,\n nam FROM feed",
            "No field named nam",
            4,
            2,
        ),
        ("SELECT nofunc(1)", "there is no function 'nofunc'", 1, 8),
    ] {
        let error = fixture.error(sql).await;
        assert!(
            error.starts_with(message) || error.to_lowercase().starts_with(&message.to_lowercase()),
            "{error}"
        );
        assert!(error.ends_with(&format!(" at line {line}, column {column}")), "{sql}: {error}");
    }
}

#[tokio::test]
async fn settings_of_the_session_apply_to_its_queries() {
    let options: Options = [("durability", "none")].into_iter().collect();
    let sql = SqlSession::new(Session::new()).with_trigger(Some(Trigger::AvailableNow)).with_options(options);
    let fixture = Fixture::with(sql);
    fixture
        .run("CREATE UNBOUNDED EXTERNAL TABLE feed STORED AS FEED; CREATE EXTERNAL TABLE sink STORED AS NOOP")
        .await;
    let start = "CREATE STREAMING QUERY q TRIGGER PROCESSING TIME '1 hour'";
    let error = fixture.error(&format!("{start} AS INSERT INTO sink SELECT * FROM feed")).await;
    assert!(error.contains("option 'durability' = 'none' is not valid"), "{error}");
    // The statement's own options come first, and the trigger is overridden: it ends.
    fixture
        .to_end(&format!("{start} OPTIONS ('durability' 'process') AS INSERT INTO sink SELECT * FROM feed"))
        .await;
    let error = fixture
        .error("CREATE STREAMING QUERY q CHECKPOINT LOCATION '$/c' OPTIONS ('CheckpointLocation' '$/d') AS INSERT INTO sink SELECT * FROM feed")
        .await;
    assert!(error.starts_with("the checkpoint is given twice"), "{error}");
}

#[tokio::test]
async fn scripts_that_do_not_parse_do_nothing() {
    let fixture = Fixture::new().await;
    let error = fixture.error("CREATE TABLE made (a INT); SELECT 1 +").await;
    assert!(error.ends_with("at line 1, column 38"), "{error}");
    assert!(fixture.error("SELECT * FROM made").await.contains("not found"));
    // The session's dialect counts.
    fixture.run("SET datafusion.sql_parser.dialect = 'mysql'").await;
    assert_eq!(fixture.text("SELECT \"a\" AS b").await, "b\na");
    assert_eq!(fixture.text("RESET datafusion.sql_parser.dialect").await, "done");
}

#[tokio::test]
async fn a_select_for_the_api_is_planned_like_one_of_a_statement() {
    let fixture = Fixture::new().await;
    let frame = fixture.sql.streaming_query("SELECT id AS n FROM feed", None).await.unwrap();
    assert_eq!(frame.schema().field_names(), ["n"]);
    for text in ["", "SELECT 1; SELECT 2", "CREATE TABLE t (a INT)", "SHOW STREAMING QUERIES"] {
        let error = fixture.sql.streaming_query(text, None).await.unwrap_err();
        assert!(matches!(error, Error::Sql { line: 1, .. }), "{error}");
    }
    let schema = fixture.sql.schema("a BIGINT, b VARCHAR NOT NULL").await.unwrap();
    let fields: Vec<String> =
        schema.fields().iter().map(|f| format!("{} {}", f.name(), f.is_nullable())).collect();
    assert_eq!(fields, ["a true", "b false"]);
    let started = fixture
        .run(
            "CREATE EXTERNAL TABLE sink STORED AS NOOP;\
         CREATE STREAMING QUERY q AS INSERT INTO sink SELECT * FROM feed",
        )
        .await;
    let Some(SqlOutcome::Query(started)) = started.into_iter().last() else { panic!() };
    started.query.stop(StopMode::Abandon).await.unwrap();
}

/// What a partitioned table was given comes back: as a table, and as a stream.
#[tokio::test]
async fn values_in_directory_names_are_read_back() {
    for (data_type, one, other) in [
        ("BIGINT", "-7", "9223372036854775807"),
        ("VARCHAR", "'a=b/c%d #?:[x] ü'", "'..'"),
        ("DATE", "DATE '2024-02-29'", "DATE '0001-01-01'"),
        ("TIMESTAMP", "TIMESTAMP '2024-02-29 10:00:00.5'", "TIMESTAMP '1969-12-31 23:59:59'"),
        ("DECIMAL(9, 2)", "CAST(12.5 AS DECIMAL(9, 2))", "CAST(-0.01 AS DECIMAL(9, 2))"),
        ("DOUBLE", "CAST('1e300' AS DOUBLE)", "CAST('-0.1' AS DOUBLE)"),
        ("BOOLEAN", "true", "false"),
    ] {
        let fixture = Fixture::new().await;
        fixture.feed.add_data(rows(1..4)).unwrap();
        let columns = format!("(id BIGINT, \"the: key\" {data_type})");
        let partitioned = "PARTITIONED BY (\"the: key\")";
        fixture
            .to_end(&format!(
                "CREATE EXTERNAL TABLE written {columns} STORED AS PARQUET {partitioned} LOCATION '$/out/';
                 CREATE STREAMING QUERY write TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '$/checkpoint' AS
                 INSERT INTO written
                 SELECT id, CASE id WHEN 1 THEN {one} WHEN 2 THEN {other} END AS \"the: key\" FROM feed"
            ))
            .await;
        let right = format!(
            "(id = 1 AND \"the: key\" = {one}) OR (id = 2 AND \"the: key\" = {other})
             OR (id = 3 AND \"the: key\" IS NULL)"
        );
        let found = fixture.text(&format!("SELECT count(*) AS n FROM written WHERE {right}")).await;
        assert_eq!(found, "n\n3", "{data_type}");
        let nulls = fixture.text("SELECT id FROM written WHERE \"the: key\" IS NULL").await;
        assert_eq!(nulls, "id\n3", "{data_type}");

        fixture
            .to_end(&format!(
                "CREATE UNBOUNDED EXTERNAL TABLE again {columns} STORED AS PARQUET {partitioned}
                 LOCATION '$/out/';
                 CREATE EXTERNAL TABLE kept {columns} STORED AS PARQUET LOCATION '$/kept/';
                 CREATE STREAMING QUERY keep TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '$/second' AS
                 INSERT INTO kept SELECT id, \"the: key\" FROM again"
            ))
            .await;
        let found = fixture.text(&format!("SELECT count(*) AS n FROM kept WHERE {right}")).await;
        assert_eq!(found, "n\n3", "{data_type} as a stream");
    }
}

#[tokio::test]
async fn described_types_are_those_that_create_table_takes() {
    let fixture = Fixture::new().await;
    let types = [
        "BOOLEAN",
        "TINYINT",
        "SMALLINT",
        "INT",
        "BIGINT",
        "TINYINT UNSIGNED",
        "SMALLINT UNSIGNED",
        "INT UNSIGNED",
        "BIGINT UNSIGNED",
        "FLOAT",
        "DOUBLE",
        "DECIMAL(10,2)",
        "VARCHAR",
        "BYTEA",
        "DATE",
        "TIME",
        "TIMESTAMP",
        "TIMESTAMP(0)",
        "TIMESTAMP(3)",
        "TIMESTAMP(6)",
        "TIMESTAMP WITH TIME ZONE",
        "INT[]",
        "VARCHAR[][]",
        "STRUCT<a INT, \"B c\" VARCHAR[]>",
        "MAP<VARCHAR, DOUBLE>",
    ];
    let columns = types.iter().enumerate().map(|(column, name)| format!("c{column} {name}"));
    let create = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE t ({}) STORED AS PARQUET LOCATION '$/in'",
        columns.collect::<Vec<_>>().join(", ")
    );
    std::fs::create_dir(fixture.folder.path().join("in")).unwrap();
    fixture.run(&create).await;
    let described = fixture.text("DESCRIBE t").await;
    let shown: Vec<&str> = described.lines().skip(1).collect();
    let expected: Vec<String> =
        types.iter().enumerate().map(|(column, name)| format!("c{column} {name} YES")).collect();
    assert_eq!(shown, expected);
}
