//! Checkpoints of earlier releases, kept as they were written, go on with this one.
//!
//! `golden/<release>/<query>/` has what a query read, and its checkpoint. A new release adds its own with
//! `cargo test --test it golden -- --ignored`, and never changes those of others: where the state of an
//! aggregate, the bytes of a key or a file of the checkpoint has changed, these tests fail.

use std::path::{Path, PathBuf};

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::util::display::array_value_to_string;
use tidemill::prelude::*;
use tidemill::sql::{SqlOutcome, SqlSession};

const RELEASE: &str = "0.1";

const COLUMNS: &str = "k BIGINT, f DOUBLE, t VARCHAR, v BIGINT, ts TIMESTAMP";

const FIRST: &str = r#"
{"k":1,"f":0.5,"t":"a","v":1,"ts":"2026-01-01T00:00:01"}
{"k":2,"f":-0.0,"t":"b\u0000c","v":2,"ts":"2026-01-01T00:00:02"}
{"k":null,"f":null,"t":null,"v":null,"ts":"2026-01-01T00:00:03"}
{"k":1,"f":0.5,"t":"a","v":-7,"ts":"2026-01-01T00:00:04"}
{"k":-3,"f":1e300,"t":"","v":40,"ts":"2026-01-01T00:00:05"}
"#;

/// Of groups that are there, and of one that is not.
const SECOND: &str = r#"
{"k":1,"f":0.5,"t":"a","v":5,"ts":"2026-01-01T00:00:06"}
{"k":2,"f":0.0,"t":"b\u0000c","v":6,"ts":"2026-01-01T00:00:07"}
{"k":null,"f":null,"t":null,"v":8,"ts":"2026-01-01T00:00:08"}
{"k":9,"f":-1.5,"t":"new","v":9,"ts":"2026-01-01T00:00:09"}
"#;

/// Keys of every type that there is in SQL.
const KEYS: &str = "SELECT k, f, t, k > 1 AS boolean, CAST(k AS TINYINT) AS tiny, CAST(k AS SMALLINT) AS small, \
    CAST(k AS INT) AS int, arrow_cast(abs(k), 'UInt8') AS u8, arrow_cast(abs(k), 'UInt64') AS u64, \
    CAST(f AS REAL) AS f32, CAST(k AS DECIMAL(10, 2)) AS d128, CAST(k AS DECIMAL(60, 2)) AS d256, \
    arrow_cast(k, 'Decimal32(9, 2)') AS d32, arrow_cast(k, 'Decimal64(18, 2)') AS d64, \
    CAST(ts AS DATE) AS day, date_trunc('minute', ts) AS minute, \
    arrow_cast(date_trunc('minute', ts), 'Timestamp(Second, Some(\"Europe/Berlin\"))') AS zoned, \
    CAST(date_trunc('minute', ts) AS TIME) AS time, arrow_cast(k, 'Duration(Millisecond)') AS duration, \
    CAST(t AS BYTEA) AS bytes, arrow_cast(t, 'LargeUtf8') AS large, arrow_cast(t, 'Utf8View') AS view, \
    arrow_cast(t, 'Dictionary(Int32, Utf8)') AS dictionary, make_array(k, NULL, 1) AS list, \
    named_struct('a', k, 'b', t) AS struct, count(*) AS n \
    FROM s GROUP BY ALL";

/// Every aggregate whose state may be more than its value.
const AGGREGATES: &str = "SELECT k, count(v) AS n, sum(v) AS total, sum(f) AS real, avg(v) AS mean, min(t) AS low, \
    max(t) AS high, round(stddev(v), 6) AS deviation, round(var_pop(v), 6) AS variance, \
    round(covar_samp(v, k), 6) AS covariance, round(corr(v, k), 6) AS correlation, \
    round(regr_slope(v, k), 6) AS slope, bit_xor(v) AS bits, bool_and(v > 0) AS positive, \
    approx_distinct(v) AS about, approx_median(v) AS near, approx_percentile_cont(v, 0.9) AS high_v, \
    median(v) AS middle, array_agg(v ORDER BY ts) AS all, string_agg(t, ',' ORDER BY ts) AS texts, \
    first_value(t ORDER BY ts) AS first, last_value(t ORDER BY ts) AS last, nth_value(v, 2 ORDER BY ts) AS second, \
    count(DISTINCT v) AS different, avg(CAST(v - 1 AS DECIMAL(10, 2))) AS exact, min(ts) AS since, \
    max(make_array(v)) AS list FROM s GROUP BY k";

const WINDOWS: &str = "SELECT date_bin(INTERVAL '2 seconds', ts) AS start, count(*) AS n FROM s \
    GROUP BY date_bin(INTERVAL '2 seconds', ts)";

const QUERIES: [(&str, &str); 3] = [("keys", KEYS), ("aggregates", AGGREGATES), ("windows", WINDOWS)];

/// Queries in scripts, with their output mode. They keep rows of a table, of which one shows all columns and the others
/// few.
const SCRIPTS: [(&str, &str, &str); 4] = [
    ("first_rows", "COMPLETE", "SELECT DISTINCT ON (k) k, v FROM s ORDER BY k, ts DESC"),
    (
        "ranks",
        "COMPLETE",
        "SELECT k, v, n FROM (SELECT *, v || t AS vt, rank() OVER (PARTITION BY k ORDER BY v DESC) AS n FROM s) WHERE n <= 2",
    ),
    (
        "all_first_rows",
        "COMPLETE",
        "SELECT * FROM s QUALIFY row_number() OVER (PARTITION BY k ORDER BY ts DESC) = 1",
    ),
    (
        "versions",
        "APPEND",
        "SELECT a.k, a.v, b.v AS newest FROM s AS a LEFT JOIN s FOR SYSTEM_TIME AS OF a.ts AS b ON a.k = b.k",
    ),
];

fn kept(query: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(RELEASE).join(query)
}

async fn table(session: &Session, folder: &Path) -> DataFrame {
    let schema = SqlSession::new(session.clone()).schema(COLUMNS).await.unwrap();
    let reader = session.read_stream().format("json").schema(schema);
    reader.load(folder.join("in")).await.unwrap().with_watermark("ts", "10 seconds").unwrap()
}

/// Runs the query over all of its input that is new; the rows of the result, sorted.
async fn run(folder: &Path, sql: &str) -> Vec<String> {
    let session = Session::new();
    let table = table(&session, folder).await;
    session.context().register_table("s", table.into_view()).unwrap();
    let frame = session.context().sql(sql).await.unwrap();
    let writer = frame
        .write_stream()
        .format("memory")
        .query_name("result")
        .output_mode(OutputMode::Complete)
        .trigger(Trigger::AvailableNow)
        .option("checkpointLocation", folder.join("checkpoint").display().to_string());
    writer.start(None).await.unwrap().await_termination().await.unwrap();
    rows(session.context().table("result").await.unwrap()).await
}

/// What the query gives over a table of all of its input.
async fn batch(folder: &Path, sql: &str) -> Vec<String> {
    let session = Session::new();
    let schema = SqlSession::new(session.clone()).schema(COLUMNS).await.unwrap();
    let options = datafusion::prelude::JsonReadOptions::default().schema(&schema);
    let input = folder.join("in").display().to_string();
    session.context().register_json("s", input, options).await.unwrap();
    rows(session.context().sql(sql).await.unwrap()).await
}

async fn rows(frame: DataFrame) -> Vec<String> {
    let mut found = Vec::new();
    for batch in frame.collect().await.unwrap() {
        for row in 0..batch.num_rows() {
            let value = |column: &ArrayRef| array_value_to_string(column, row).unwrap();
            let values: Vec<String> = batch.columns().iter().map(value).collect();
            found.push(values.join(" | "));
        }
    }
    found.sort();
    found
}

/// What `script` gives by its last statement, once the queries in it have ended.
async fn run_script(script: &str) -> Vec<String> {
    let sql = SqlSession::new(Session::new());
    let mut outcomes = sql.run(script).await.unwrap();
    for outcome in &outcomes {
        if let SqlOutcome::Query(started) = outcome {
            started.query.await_termination().await.unwrap();
        }
    }
    let Some(SqlOutcome::Rows(frame)) = outcomes.pop() else { panic!("no rows: {script}") };
    rows(frame).await
}

/// As [`run`], in a script.
async fn run_in_script(folder: &Path, mode: &str, sql: &str) -> Vec<String> {
    let place = folder.display();
    let script = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE s ({COLUMNS}, WATERMARK FOR ts AS ts) STORED AS JSON LOCATION '{place}/in/';
         CREATE EXTERNAL TABLE result STORED AS MEMORY;
         CREATE STREAMING QUERY q OUTPUT MODE {mode} TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '{place}/checkpoint'
         AS INSERT INTO result {sql};
         SELECT * FROM result"
    );
    run_script(&script).await
}

/// As [`batch`], in a script.
async fn batch_in_script(folder: &Path, sql: &str) -> Vec<String> {
    let place = folder.display();
    run_script(&format!("CREATE EXTERNAL TABLE s ({COLUMNS}) STORED AS JSON LOCATION '{place}/in/'; {sql}"))
        .await
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

#[tokio::test]
async fn checkpoints_of_earlier_releases_go_on() {
    for (name, sql) in QUERIES {
        let folder = tempfile::tempdir().unwrap();
        copy(&kept(name), folder.path());
        crate::support::harness::put(&folder.path().join("in/1.json"), SECOND.trim_start());
        assert_eq!(run(folder.path(), sql).await, batch(folder.path(), sql).await, "{name}");
        // It went on, and did not begin anew.
        assert!(folder.path().join("checkpoint/offsets/1").exists(), "{name}");
    }
}

/// Earlier versions kept columns that nothing reads.
#[tokio::test]
async fn checkpoints_of_earlier_releases_go_on_in_scripts() {
    for (name, mode, sql) in SCRIPTS {
        let folder = tempfile::tempdir().unwrap();
        copy(&kept(name), folder.path());
        let batches = || std::fs::read_dir(folder.path().join("checkpoint/offsets")).unwrap().count();
        let (done, before) = (batches(), batch_in_script(folder.path(), sql).await);
        crate::support::harness::put(&folder.path().join("in/1.json"), SECOND.trim_start());
        let mut expected = batch_in_script(folder.path(), sql).await;
        if mode == "APPEND" {
            // The others were given.
            for row in before {
                expected.remove(expected.iter().position(|found| *found == row).unwrap());
            }
        }
        assert_eq!(run_in_script(folder.path(), mode, sql).await, expected, "{name}");
        assert!(batches() > done, "{name}");
    }
}

#[tokio::test]
#[ignore = "writes what the other test reads: once for each release"]
async fn write_the_checkpoints_of_this_release() {
    let begin = |name: &str| {
        let folder = kept(name);
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(folder.join("in")).unwrap();
        crate::support::harness::put(&folder.join("in/0.json"), FIRST.trim_start());
        folder
    };
    for (name, sql) in QUERIES {
        run(&begin(name), sql).await;
    }
    for (name, mode, sql) in SCRIPTS {
        run_in_script(&begin(name), mode, sql).await;
    }
}
