//! Files of batch queries (`COPY`, `INSERT INTO`, the methods of data frames): the values that streaming
//! queries write, and all files or none.

use std::io::Read;

use datafusion::dataframe::DataFrameWriteOptions;
use tidemill::Session;
use tidemill::sql::{SqlOutcome, SqlSession};

use super::bounded::sorted;
use crate::support::harness::Place;
use crate::support::oracle::visible;

/// A date that has no text.
const NO_DATE: &str = "arrow_cast(2147483647, 'Date32')";
const FLOATS: &str = "(VALUES (1, CAST('NaN' AS DOUBLE)), (2, CAST('Infinity' AS DOUBLE)), \
    (3, CAST('-Infinity' AS DOUBLE)), (4, CAST(1.5 AS DOUBLE)), (5, NULL)) AS t(id, a)";

/// Runs `script`, in which `$` is the place.
async fn run(place: &Place, script: &str) -> Result<(), String> {
    let sql = SqlSession::new(Session::new());
    let outcomes = sql.run(&script.replace('$', &place.text(""))).await.map_err(|error| error.to_string())?;
    for outcome in outcomes {
        if let SqlOutcome::Rows(frame) = outcome {
            frame.collect().await.map_err(|error| tidemill::Error::from(error).to_string())?;
        }
    }
    Ok(())
}

/// The lines of all files below `out`, sorted, without headers.
fn lines(place: &Place) -> Vec<String> {
    let mut lines = Vec::new();
    for file in visible(&place.path("out")) {
        let text = std::fs::read_to_string(place.path("out").join(file)).unwrap();
        lines.extend(text.lines().filter(|line| *line != "id,a").map(str::to_string));
    }
    lines.sort();
    lines
}

#[tokio::test]
async fn what_has_no_text_is_an_error_and_leaves_no_file() {
    for format in ["JSON", "CSV"] {
        for statement in [
            format!("COPY (SELECT 1 AS id, {NO_DATE} AS a) TO '$/out/x.{format}' STORED AS {format}"),
            format!(
                "COPY (SELECT 1 AS id, {NO_DATE} AS a) TO '$/out/' STORED AS {format} PARTITIONED BY (id)"
            ),
            format!(
                "CREATE EXTERNAL TABLE t (id INT, a DATE) STORED AS {format} LOCATION '$/out/'; \
                 INSERT INTO t SELECT 1, {NO_DATE}"
            ),
        ] {
            let place = Place::new();
            let error = run(&place, &statement).await.expect_err(&statement);
            assert!(error.contains("column 'a'") && error.contains("row 1"), "{statement}: {error}");
            let found = if place.path("out").exists() { visible(&place.path("out")) } else { vec![] };
            assert!(found.is_empty(), "{statement}: {found:?}");
        }
    }
}

/// What was written when a query fails is no file, in any format; what was there before stays.
#[tokio::test]
async fn a_query_that_fails_leaves_what_was_there() {
    let rows = "(SELECT value AS id, CASE WHEN value < 200000 THEN 1 ELSE CAST(value AS TINYINT) END AS a \
        FROM generate_series(1, 200001))";
    for format in ["json", "csv", "parquet", "arrow"] {
        // Large files go out in parts.
        let parts = "SET datafusion.execution.objectstore_writer_buffer_size = 20000;";
        for (to, partitions, set) in [
            ("x.$f", "", ""),
            ("x.$f", "", parts),
            ("y/", "", parts),
            ("z/", "PARTITIONED BY (a)", ""),
            ("z/", "PARTITIONED BY (a)", parts),
        ] {
            let place = Place::new();
            std::fs::create_dir(place.path("out")).unwrap();
            place.put("out/x.$f".replace("$f", format).as_str(), "what was there");
            let to = to.replace("$f", format);
            let copy =
                format!("COPY {rows} TO '$/out/{to}' STORED AS {} {partitions}", format.to_uppercase());
            run(&place, &format!("{set} {copy}")).await.expect_err(&copy);
            assert_eq!(visible(&place.path("out")), [format!("x.{format}")], "{copy}");
            let kept = std::fs::read_to_string(place.path(&format!("out/x.{format}"))).unwrap();
            assert_eq!(kept, "what was there", "{copy}");
            // Nor hidden ones.
            let all: Vec<_> = walkdir::WalkDir::new(place.path("out")).into_iter().flatten().collect();
            assert_eq!(all.iter().filter(|entry| entry.file_type().is_file()).count(), 1, "{all:?}");
        }
    }
}

/// A file has one dictionary for a column, and every batch may come with another.
#[tokio::test]
async fn dictionaries_that_change_are_written_as_their_values() {
    for format in ["ARROW", "PARQUET"] {
        let place = Place::new();
        std::fs::create_dir(place.path("out")).unwrap();
        let script = format!(
            "SET datafusion.execution.batch_size = 2;
             COPY (SELECT value AS id, arrow_cast(concat('v', value), 'Dictionary(Int32, Utf8)') AS d,
                       [arrow_cast(concat('w', value), 'Dictionary(Int8, Utf8)')] AS l FROM generate_series(1, 9))
                 TO '$/out/x' STORED AS {format};
             CREATE EXTERNAL TABLE t (id BIGINT, d VARCHAR, l VARCHAR[]) STORED AS {format} LOCATION '$/out/x';
             SELECT id, d, l[1] FROM t ORDER BY id"
        );
        let sql = SqlSession::new(Session::new());
        let mut outcomes = sql.run(&script.replace('$', &place.text(""))).await.unwrap();
        let Some(SqlOutcome::Rows(frame)) = outcomes.pop() else { panic!("{format}: no rows") };
        let found = sorted(&frame.collect().await.unwrap());
        let expected: Vec<String> = (1..10).map(|id| format!("{id}|v{id}|w{id}")).collect();
        assert_eq!(found, expected, "{format}");
    }
}

/// However large the files are, and in whatever parts they go out.
#[tokio::test]
async fn large_files_are_whole() {
    for format in ["JSON", "CSV", "PARQUET", "ARROW"] {
        for (to, partitions) in [("x", ""), ("y/", ""), ("z/", "PARTITIONED BY (a)")] {
            let place = Place::new();
            std::fs::create_dir(place.path("out")).unwrap();
            let rows = "SELECT value AS id, value % 3 AS a FROM generate_series(1, 50000)";
            let set = "SET datafusion.execution.objectstore_writer_buffer_size = 20000;";
            let copy = format!("{set} COPY ({rows}) TO '$/out/{to}' STORED AS {format} {partitions}");
            run(&place, &copy).await.unwrap();
            let sql = SqlSession::new(Session::new());
            let read = format!(
                "CREATE EXTERNAL TABLE t (id BIGINT, a BIGINT) STORED AS {format} {partitions} LOCATION '$/out/{to}'; \
                 SELECT count(*), sum(id), sum(a), sum(id * a) FROM t"
            );
            let mut outcomes = sql.run(&read.replace('$', &place.text(""))).await.unwrap();
            let Some(SqlOutcome::Rows(frame)) = outcomes.pop() else { panic!("{read}") };
            let read = super::lines(&frame.collect().await.unwrap());
            assert_eq!(read, ["50000 1250025000 50001 1250058334"], "{format} {to}");
        }
    }
}

#[tokio::test]
async fn floats_that_are_no_numbers_look_as_in_spark() {
    let json = [
        r#"{"id":1,"a":"NaN"}"#,
        r#"{"id":2,"a":"Infinity"}"#,
        r#"{"id":3,"a":"-Infinity"}"#,
        r#"{"id":4,"a":1.5}"#,
        r#"{"id":5}"#,
    ];
    let csv = ["1,NaN", "2,Inf", "3,-Inf", "4,1.5", "5,"];
    for (format, expected) in [("JSON", json), ("CSV", csv)] {
        for statement in [
            format!("COPY (SELECT * FROM {FLOATS}) TO '$/out/x' STORED AS {format}"),
            format!(
                "CREATE EXTERNAL TABLE t (id BIGINT, a DOUBLE) STORED AS {format} LOCATION '$/out/'; \
                 INSERT INTO t SELECT * FROM {FLOATS}"
            ),
        ] {
            let place = Place::new();
            std::fs::create_dir(place.path("out")).unwrap();
            run(&place, &statement).await.unwrap();
            assert_eq!(lines(&place), expected, "{statement}");
        }
        let place = Place::new();
        let frame = Session::new().context().sql(&format!("SELECT * FROM {FLOATS}")).await.unwrap();
        let (path, options) = (place.text("out/"), DataFrameWriteOptions::new());
        match format {
            "JSON" => frame.write_json(&path, options, None).await.unwrap(),
            _ => frame.write_csv(&path, options, None).await.unwrap(),
        };
        assert_eq!(lines(&place), expected, "{format}");
    }
}

/// Null is a directory of its own, never 0 nor an empty text, and every value is read back.
#[tokio::test]
async fn values_that_become_directories_are_read_back() {
    let rows = "(VALUES (1, 'x', 7, DATE '2024-02-29', true), (2, NULL, NULL, NULL, NULL), \
        (3, 'a/b=c%d', 0, DATE '1970-01-01', false)) AS t(id, k, n, d, b)";
    let expected = "1 x 7 2024-02-29 true|2 NULL NULL NULL NULL|3 a/b=c%d 0 1970-01-01 false";
    for format in ["JSON", "CSV", "PARQUET", "ARROW"] {
        let columns = "(id BIGINT, k VARCHAR, n BIGINT, d DATE, b BOOLEAN)";
        let table = format!(
            "CREATE EXTERNAL TABLE t {columns} STORED AS {format} PARTITIONED BY (k, n, d, b) LOCATION '$/out/'"
        );
        for statement in [
            format!("COPY (SELECT * FROM {rows}) TO '$/out/' STORED AS {format} PARTITIONED BY (k, n, d, b)"),
            format!("{table}; INSERT INTO t SELECT * FROM {rows}"),
        ] {
            let place = Place::new();
            std::fs::create_dir(place.path("out")).unwrap();
            run(&place, &statement).await.unwrap();
            let sql = SqlSession::new(Session::new());
            let read = format!("{table}; SELECT * FROM t ORDER BY id").replace('$', &place.text(""));
            let Some(SqlOutcome::Rows(frame)) = sql.run(&read).await.unwrap().pop() else { panic!() };
            let read = super::lines(&frame.collect().await.unwrap()).join("|");
            assert_eq!(read, expected, "{statement}");
            let names = visible(&place.path("out"));
            let null = "k=__HIVE_DEFAULT_PARTITION__/n=__HIVE_DEFAULT_PARTITION__";
            assert!(names.iter().any(|name| name.starts_with(null)), "{names:?}");
            assert!(names.iter().any(|name| name.starts_with("k=a%2Fb%3Dc%25d/n=0/")), "{names:?}");
        }
    }
}

/// A directory of such a name is read as null.
#[tokio::test]
async fn values_that_stand_for_null_in_directories_are_refused() {
    for value in ["", "__HIVE_DEFAULT_PARTITION__"] {
        let place = Place::new();
        let rows = format!("(VALUES (1, 'x'), (2, '{value}')) AS t(id, k)");
        let copy = format!("COPY (SELECT * FROM {rows}) TO '$/out/' STORED AS JSON PARTITIONED BY (k)");
        let error = run(&place, &copy).await.unwrap_err();
        assert!(error.contains(&format!("column 'k' has the value '{value}'")), "{error}");
        assert!(visible(&place.path("out")).is_empty());
        let null = copy.replace("SELECT *", &format!("SELECT id, nullif(k, '{value}') AS k"));
        run(&place, &null).await.unwrap();
        assert!(
            visible(&place.path("out")).iter().any(|name| name.starts_with("k=__HIVE_DEFAULT_PARTITION__/"))
        );
    }
}

#[tokio::test]
async fn options_of_a_table_hold_for_plain_inserts() {
    let insert = "INSERT INTO t VALUES (1, 'x y'), (2, NULL)";
    for (format, options, expected) in [
        ("JSON", "'ignoreNullFields' 'false'", ["{\"id\":1,\"a\":\"x y\"}", "{\"id\":2,\"a\":null}"]),
        ("CSV", "'quoteAll' 'true', 'header' 'false'", ["\"1\",\"x y\"", "\"2\",\"\""]),
        ("CSV", "'nullValue' 'N/A', 'sep' ';', 'header' 'false'", ["1;x y", "2;N/A"]),
    ] {
        let place = Place::new();
        std::fs::create_dir(place.path("out")).unwrap();
        let table = format!(
            "CREATE EXTERNAL TABLE t (id INT, a VARCHAR) STORED AS {format} LOCATION '$/out/' OPTIONS ({options})"
        );
        run(&place, &format!("{table}; {insert}")).await.unwrap();
        assert_eq!(lines(&place), expected, "{options}");
    }
    let place = Place::new();
    std::fs::create_dir(place.path("out")).unwrap();
    let table = "CREATE EXTERNAL TABLE t (id INT, a VARCHAR) STORED AS JSON LOCATION '$/out/' OPTIONS \
        ('compression' 'gzip')";
    run(&place, &format!("{table}; {insert}")).await.unwrap();
    let names = visible(&place.path("out"));
    let file = std::fs::File::open(place.path("out").join(&names[0])).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    assert_eq!(text, "{\"id\":1,\"a\":\"x y\"}\n{\"id\":2}\n");
    assert!(names[0].ends_with(".gz"), "{names:?}");
}
