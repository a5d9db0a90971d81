//! All ways by which a file gets into a query give the rows that a stream of it gives, or refuse it as that does.

use tidemill::sql::{SqlOutcome, SqlSession};

use super::formats::{batch, ipc_file, ipc_stream};
use super::mutated::with_another_message;
use super::parquet_sizes::{rows_of, with_fewer_values};
use super::{Input, ab, expected};

/// A file that a reader which believes it gives other rows of, or fewer.
struct Bad {
    format: &'static str,
    name: &'static str,
    content: Vec<u8>,
    /// Files of the format say themselves what their columns are.
    has_columns: bool,
}

fn bad_files() -> Vec<Bad> {
    let batches: Vec<_> = (0..3).map(|index| batch(index * 10..index * 10 + 10)).collect();
    let binary = |format, name, content| Bad { format, name, content, has_columns: true };
    let text = |format, name, content: &str| Bad {
        format,
        name,
        content: content.as_bytes().to_vec(),
        has_columns: false,
    };
    vec![
        binary("parquet", "f.parquet", with_fewer_values()),
        binary("parquet", "f.parquet", super::with_many_lengths()),
        binary("arrow", "f.arrow", with_another_message(&ipc_file(&batches))),
        binary("arrow", "f.arrow", with_another_message(&ipc_stream(&batches))),
        text("json", "f.json", "{\"a\":1,\"b\":\"x\"}\n{\"a\":4.9,\"b\":\"y\"}\n"),
        text("json", "f.json", "{\"a\":1,\"b\":\"x\",}\n"),
        text("csv", "f.csv", "b,a\nx,1\ny,4.9\n"),
    ]
}

/// What a script gives whose last statement is a query.
async fn rows_after(script: &str) -> Result<Vec<String>, String> {
    let (before, query) = script.rsplit_once(';').unwrap_or(("", script));
    let sql = SqlSession::new(tidemill::Session::new());
    for outcome in sql.run(before).await.map_err(|error| error.to_string())? {
        if let SqlOutcome::Query(started) = outcome {
            started.query.await_termination().await.map_err(|error| error.to_string())?;
        }
    }
    let mut outcomes = sql.run(query).await.map_err(|error| error.to_string())?;
    let Some(SqlOutcome::Rows(frame)) = outcomes.pop() else { return Err("no rows".into()) };
    Ok(super::rows(&frame.collect().await.map_err(|error| error.to_string())?))
}

/// The scripts that read `name` in `$/in/`.
fn scripts(bad: &Bad) -> Vec<String> {
    let Bad { format, name, has_columns, .. } = bad;
    let options = if *format == "csv" { "OPTIONS ('header' 'true')" } else { "" };
    let stored = format!("STORED AS {format} LOCATION '$/in/{name}' {options}");
    let table = format!("CREATE EXTERNAL TABLE t (a BIGINT, b VARCHAR) {stored}");
    let mut scripts = vec![
        format!("{table}; SELECT * FROM t"),
        format!("{table}; SELECT b, a FROM t WHERE a IS NOT NULL"),
        format!(
            "CREATE EXTERNAL TABLE t (a BIGINT, b VARCHAR) STORED AS {format} LOCATION '$/in' {options}; SELECT * FROM t"
        ),
        format!(
            "CREATE EXTERNAL TABLE t (a BIGINT, b VARCHAR) STORED AS {format} LOCATION ('$/good/{name}', '$/in/{name}') \
             {options}; SELECT * FROM t"
        ),
        format!("{table}; CREATE VIEW v AS SELECT * FROM t; SELECT * FROM v"),
        format!("{table}; CREATE TABLE m AS SELECT * FROM t; SELECT * FROM m"),
        format!("{table}; COPY (SELECT a, b FROM t) TO '$/out.csv' STORED AS CSV; SELECT * FROM '$/out.csv'"),
        format!(
            "{table}; CREATE EXTERNAL TABLE o (a BIGINT, b VARCHAR) STORED AS JSON LOCATION '$/out/'; \
             INSERT INTO o SELECT a, b FROM t; SELECT * FROM o"
        ),
        format!(
            "{table}; CREATE UNBOUNDED EXTERNAL TABLE s (a BIGINT) STORED AS JSON LOCATION '$/keys/'; \
             CREATE EXTERNAL TABLE o (a BIGINT, b VARCHAR) STORED AS JSON LOCATION '$/joined/'; \
             CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '$/cp' AS \
             INSERT INTO o SELECT s.a, t.b FROM s JOIN t ON s.a = t.a; SELECT * FROM o"
        ),
    ];
    if *has_columns {
        scripts.extend([
            format!("CREATE EXTERNAL TABLE t {stored}; SELECT * FROM t"),
            format!("CREATE EXTERNAL TABLE t STORED AS {format} LOCATION ('$/good/{name}', '$/in/{name}'); SELECT * FROM t"),
            format!("SELECT * FROM read_{format}('$/in/{name}')"),
            format!("SELECT * FROM '$/in/{name}'"),
            format!("FROM '$/in/*.{format}'"),
            "SELECT * FROM '$/in/'".to_string(),
            format!("SELECT * FROM (SELECT * FROM '$/in/{name}') AS u WHERE a IN (SELECT a FROM '$/good/{name}')"),
        ]);
    }
    scripts
}

#[tokio::test]
async fn no_way_leads_around_the_checks() {
    for bad in bad_files() {
        let input = Input::new();
        input.write(&format!("in/{}", bad.name), 1, &bad.content);
        input.write("keys/k", 1, "{\"a\":1}\n{\"a\":4}\n");
        let good = match bad.format {
            "parquet" => super::formats::parquet(&batch(0..2), 10),
            "arrow" => ipc_file(&[batch(0..2)]),
            "json" => super::json_lines(0..2).into_bytes(),
            _ => b"a,b\n0,row 0\n1,row 1\n".to_vec(),
        };
        input.write(&format!("good/{}", bad.name), 1, good);
        let options: &[(&str, &str)] = if bad.format == "csv" { &[("header", "true")] } else { &[] };
        let table = input.resolve(bad.format, "in", Some(ab()), options).await.unwrap();
        let refused = input.reader(&table).all().await.unwrap_err().to_string();
        assert!(refused.contains(bad.name), "{refused}");
        for script in scripts(&bad) {
            let given = rows_after(&script.replace("$/", &input.text(""))).await;
            let error = given.expect_err(&format!("{}: {script}", bad.format));
            assert!(!error.contains("no rows"), "{script}: {error}");
        }
    }
}

/// Several places give the rows of all of them, with the rules of the readers of streams.
#[tokio::test]
async fn several_places_are_read_as_one() {
    let input = Input::new();
    input.write("one/a.json", 1, "{\"a\":5.0,\"B\":\"x\"}\n");
    input.write("two/b.json", 1, "{\"a\":1e3,\"b\":\"y\",\"c\":true}\n");
    let places = format!("LOCATION ('{}', '{}')", input.text("one"), input.text("two"));
    let declared =
        format!("CREATE EXTERNAL TABLE t (a BIGINT, b VARCHAR) STORED AS JSON {places}; SELECT * FROM t");
    assert_eq!(rows_after(&declared).await.unwrap(), ["1000|y", "5|x"]);
    input.write("one/a.json", 1, "{\"a\":5,\"b\":\"x\"}\n");
    input.write("two/b.json", 1, "{\"a\":6,\"c\":true}\n");
    let told = format!("CREATE EXTERNAL TABLE t STORED AS JSON {places}; SELECT a, b, c FROM t");
    assert_eq!(rows_after(&told).await.unwrap(), ["5|x|-", "6|-|true"]);
    input.write("two/b.json", 1, "{\"a\":\"six\"}\n");
    let error = rows_after(&told).await.unwrap_err();
    assert!(error.contains("different columns"), "{error}");
}

/// DataFusion's own tables, in a context that a session was made of.
#[tokio::test]
async fn what_a_program_reads_with_datafusion_is_looked_over() {
    use datafusion::prelude::{ParquetReadOptions, SessionContext};
    let input = Input::new();
    input.write("f.parquet", 1, with_fewer_values());
    let file = input.text("f.parquet");
    let plain = SessionContext::new();
    let frame = plain.read_parquet(&file, ParquetReadOptions::default()).await.unwrap();
    let believed = frame.select_columns(&["a"]).unwrap().collect().await.map(|rows| super::rows(&rows).len());
    assert_eq!(believed.unwrap(), 59, "DataFusion has mended it");

    let session = tidemill::Session::new();
    let context = session.context();
    let frame = context.read_parquet(&file, ParquetReadOptions::default()).await.unwrap();
    let error = frame.collect().await.unwrap_err().to_string();
    assert!(error.contains("have 59 values, and its footer says 60"), "{error}");
    context.register_parquet("r", &file, ParquetReadOptions::default()).await.unwrap();
    context.sql(&format!("CREATE EXTERNAL TABLE e STORED AS PARQUET LOCATION '{file}'")).await.unwrap();
    for table in ["r", "e"] {
        let frame = context.sql(&format!("SELECT a, b FROM {table} WHERE a > -1")).await.unwrap();
        let error = frame.collect().await.unwrap_err().to_string();
        assert!(error.contains("have 59 values, and its footer says 60"), "{table}: {error}");
    }
    input.write("g.parquet", 1, super::formats::parquet(&batch(0..30), 10));
    let frame = context.read_parquet(input.text("g.parquet"), ParquetReadOptions::default()).await.unwrap();
    assert_eq!(super::rows(&frame.collect().await.unwrap()), expected(0..30));
    let queried = rows_of(format!("SELECT * FROM '{}'", input.text("g.parquet"))).await;
    assert_eq!(queried.unwrap(), expected(0..30));
}
