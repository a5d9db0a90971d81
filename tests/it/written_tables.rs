//! Tables that streaming queries write: what stands in them for every reader, and that a start needs none of it.

use std::path::{Path, PathBuf};

use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::parquet::basic::LogicalType;
use datafusion::parquet::file::reader::{FileReader, SerializedFileReader};
use tempfile::TempDir;
use tidemill::Session;
use tidemill::sql::{SqlOutcome, SqlSession};

use crate::support::harness::put;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, content: &str) {
        put(&self.0.path().join(name), content);
    }

    /// The files of `out`.
    fn written(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.0.path().join("out")).unwrap();
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.retain(|file| file.is_file());
        files.sort();
        files
    }

    fn text(&self) -> String {
        self.written().iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
    }

    /// Runs `script` in a session of its own, and its streaming queries to their ends; gives the rows of the last
    /// statement, if it has any.
    async fn run(&self, script: &str) -> tidemill::Result<String> {
        let sql = SqlSession::new(Session::new());
        let outcomes = sql.run(&script.replace('$', self.0.path().to_str().unwrap())).await?;
        for outcome in &outcomes {
            if let SqlOutcome::Query(started) = outcome {
                started.query.await_termination().await?;
            }
        }
        match outcomes.into_iter().next_back() {
            Some(SqlOutcome::Rows(frame)) => {
                Ok(pretty_format_batches(&frame.collect().await?).unwrap().to_string())
            }
            Some(SqlOutcome::Table(batches)) => Ok(pretty_format_batches(&batches).unwrap().to_string()),
            _ => Ok(String::new()),
        }
    }

    /// Inserts `select` over the columns `columns` of `in/` into `out/`.
    async fn write(&self, columns: &str, select: &str, format: &str) -> tidemill::Result<String> {
        self.run(&format!(
            "CREATE UNBOUNDED EXTERNAL TABLE i ({columns}) STORED AS JSON LOCATION '$/in/';
             CREATE EXTERNAL TABLE o STORED AS {format} LOCATION '$/out/';
             CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '$/cp' AS INSERT INTO o {select}"
        ))
        .await
    }
}

#[tokio::test]
async fn columns_of_csv_files_whose_texts_hold_line_breaks_are_inferred() {
    let folder = Folder::new();
    let line = |i: i64| format!("{{\"k\":\"new\\nline, \\\"{i}\\\"\",\"i\":{i}}}\n");
    folder.put("in/1.json", &(0..20_000).map(line).collect::<String>());
    folder.write("k VARCHAR, i BIGINT", "SELECT k, i FROM i", "CSV").await.unwrap();
    folder.put("in/2.json", &line(7));
    folder.write("k VARCHAR, i BIGINT", "SELECT k, i FROM i", "CSV").await.unwrap();
    let sums = folder.run("SELECT count(k), sum(i) FROM '$/out/'").await.unwrap();
    assert!(sums.contains("| 20001 ") && sums.contains("| 199990007 "), "{sums}");
}

/// What a query writes to is not its business: a stranger's file there is told of when it is read.
#[tokio::test]
async fn a_start_reads_nothing_of_what_was_written() {
    for format in ["CSV", "JSON", "PARQUET", "ARROW"] {
        let folder = Folder::new();
        folder.put("in/1.json", "{\"k\":\"a\"}\n");
        folder.write("k VARCHAR", "SELECT k FROM i", format).await.unwrap();
        let extension = folder.written()[0].extension().unwrap().to_str().unwrap().to_string();
        folder.put(&format!("out/aa.{extension}"), "\0garbage\"{,\n1,2,3\n");
        folder.put("in/2.json", "{\"k\":\"b\"}\n");
        folder.write("k VARCHAR", "SELECT k FROM i", format).await.unwrap();
        assert_eq!(folder.written().len(), 3, "{format}");
        let table = format!("CREATE EXTERNAL TABLE o STORED AS {format} LOCATION '$/out/'");
        let error = folder.run(&format!("{table}; SELECT * FROM o")).await.unwrap_err().to_string();
        let named = format!("aa.{extension}");
        assert!(error.contains(&named) || error.contains("Invalid Parquet file"), "{format}: {error}");
        std::fs::remove_file(folder.0.path().join(format!("out/aa.{extension}"))).unwrap();
        let rows = folder.run(&format!("{table}; SELECT k FROM o ORDER BY k")).await.unwrap();
        assert!(rows.contains("| a |\n| b |"), "{rows}");
        let columns = folder.run(&format!("{table}; SHOW COLUMNS FROM o")).await.unwrap();
        assert!(columns.contains("| k "), "{format}: {columns}");
    }
}

fn logical_types(file: &Path) -> Vec<Option<LogicalType>> {
    let reader = SerializedFileReader::new(std::fs::File::open(file).unwrap()).unwrap();
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    schema.columns().iter().map(|column| column.logical_type_ref().cloned()).collect()
}

/// Parquet has no seconds. Every reader finds times in the files all the same.
#[tokio::test]
async fn seconds_are_times_to_every_reader_of_parquet() {
    let folder = Folder::new();
    folder.put("in/1.json", "{\"t\":\"2026-07-20T20:17:00\"}\n{}\n");
    let select = "SELECT t, arrow_cast(t, 'Timestamp(Second, Some(\"+02:00\"))') AS z,
        arrow_cast(t, 'Time32(Second)') AS s, arrow_cast(arrow_cast(t, 'Date32'), 'Date64') AS d,
        named_struct('t', t) AS n, make_array(t) AS l FROM i";
    folder.write("t TIMESTAMP(0)", select, "PARQUET").await.unwrap();
    let types = logical_types(&folder.written()[0]);
    assert_eq!(types.len(), 6);
    assert!(types.iter().all(Option::is_some), "{types:?}");
    let rows = folder
        .run(
            "CREATE EXTERNAL TABLE o (t TIMESTAMP(0), d DATE) STORED AS PARQUET LOCATION '$/out/';
             SELECT t, d FROM o WHERE t IS NOT NULL",
        )
        .await
        .unwrap();
    assert!(rows.contains("| 2026-07-20T20:17:00 | 2026-07-20 |"), "{rows}");
    let rows =
        folder.run("SELECT t, n['t'] AS n, l[1] AS l, s FROM '$/out/' WHERE t IS NOT NULL").await.unwrap();
    assert_eq!(rows.matches("2026-07-20T20:17:00").count(), 3, "{rows}");
    assert!(rows.contains("20:17:00 |"), "{rows}");
}

/// So do they in what batch queries write.
#[tokio::test]
async fn seconds_of_batch_queries_are_times_to_every_reader_of_parquet() {
    let rows = "SELECT arrow_cast('2026-07-20T20:17:00', 'Timestamp(Second, None)') AS t,
        arrow_cast(arrow_cast('2026-07-20', 'Date32'), 'Date64') AS d, 1 AS p";
    for write in [
        format!("COPY ({rows}) TO '$/out/' STORED AS PARQUET"),
        format!("COPY ({rows}) TO '$/out/' STORED AS PARQUET PARTITIONED BY (p)"),
        format!(
            "CREATE EXTERNAL TABLE o (t TIMESTAMP(0), d DATE, p INT) STORED AS PARQUET LOCATION '$/out/';
             INSERT INTO o {rows}"
        ),
    ] {
        let folder = Folder::new();
        folder.run(&write).await.unwrap();
        let below = crate::support::oracle::visible(&folder.0.path().join("out"));
        let types = logical_types(&folder.0.path().join("out").join(&below[0]));
        assert!(types.iter().take(2).all(Option::is_some), "{write}: {types:?}");
        let read = folder.run("SELECT t, d, p FROM '$/out/'").await.unwrap();
        assert!(read.contains("| 2026-07-20T20:17:00 | 2026-07-20 | 1 |"), "{write}: {read}");
    }
    let folder = Folder::new();
    let interval = "COPY (SELECT INTERVAL '1' DAY AS x) TO '$/out/' STORED AS PARQUET";
    let error = folder.run(interval).await.unwrap_err().to_string();
    assert!(error.contains("column 'x'") && error.contains("Cast it in the query"), "{error}");
    assert!(!folder.0.path().join("out").exists());
}

#[tokio::test]
async fn what_parquet_cannot_hold_is_refused_before_the_start() {
    for select in ["arrow_cast(1, 'Duration(Second)')", "INTERVAL '1' DAY", "make_array(INTERVAL '1' DAY)"] {
        let folder = Folder::new();
        folder.put("in/1.json", "{\"t\":\"2026-07-20T20:17:00\"}\n");
        let select = format!("SELECT {select} AS x FROM i");
        let error = folder.write("t TIMESTAMP", &select, "PARQUET").await.unwrap_err().to_string();
        assert!(error.contains("column 'x'") && error.contains("Cast it in the query"), "{error}");
        assert!(!folder.0.path().join("cp").exists(), "{select}");
    }
}

/// Kolkata was 5:21:10 ahead once. An offset of hours and minutes would denote another instant.
#[tokio::test]
async fn times_in_local_mean_time_are_written_as_the_instants_that_they_are() {
    for format in ["JSON", "CSV"] {
        let folder = Folder::new();
        folder.put("in/1.json", "{\"t\":\"1900-01-01T01:02:30.5Z\"}\n{\"t\":\"2026-01-01T00:00:00Z\"}\n{}\n");
        let zone = "arrow_cast(t, 'Timestamp(Microsecond, Some(\"Asia/Kolkata\"))')";
        let select = format!("SELECT {zone} AS t, 1 AS n FROM i");
        folder.write("t TIMESTAMP WITH TIME ZONE", &select, format).await.unwrap();
        let text = folder.text();
        assert!(text.contains("1900-01-01T01:02:30.500Z"), "{text}");
        assert!(text.contains("2026-01-01T05:30:00+05:30"), "{text}");
        let rows = folder
            .run(&format!(
                "CREATE EXTERNAL TABLE o (t TIMESTAMP WITH TIME ZONE, n BIGINT) STORED AS {format} LOCATION '$/out/';
                 SELECT extract(epoch FROM t) AS e FROM o ORDER BY 1"
            ))
            .await
            .unwrap();
        assert!(rows.contains("-2208985049.5") && rows.contains("1767225600"), "{rows}");
    }
}
