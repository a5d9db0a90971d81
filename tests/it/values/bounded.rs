//! Bounded tables of files give what a streaming query over the same files gives.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Float16Array, Float32Array, Float64Array, Int32Array, Int64Array};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::{EnabledStatistics, WriterProperties};
use datafusion::prelude::ParquetReadOptions;
use half::f16;
use tidemill::Session;
use tidemill::sql::{SqlOutcome, SqlSession};

use crate::support::harness::Place;

/// The rows of `select` over the table `t` of `definition`, or why there are none.
async fn rows(place: &Place, definition: &str, select: &str) -> Result<Vec<String>, String> {
    let sql = SqlSession::new(Session::new());
    let script = format!("CREATE EXTERNAL TABLE t {definition}; {select}").replace('$', &place.text(""));
    let mut outcomes = sql.run(&script).await.map_err(|error| error.to_string())?;
    let Some(SqlOutcome::Rows(frame)) = outcomes.pop() else { return Err("no rows".into()) };
    let batches = frame.collect().await.map_err(|error| tidemill::Error::from(error).to_string())?;
    Ok(sorted(&batches))
}

pub(super) fn sorted(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
            rows.push(values.collect::<Vec<_>>().join("|"));
        }
    }
    rows.sort();
    rows
}

#[tokio::test]
async fn numbers_are_exact_or_refused_and_fields_found_without_case() {
    let place = Place::new();
    place.put("in/a.json", "{\"a\":5.0,\"userId\":7}\n{\"a\":1e3,\"userId\":8}\n");
    let table = "(a INT, userid BIGINT) STORED AS JSON LOCATION '$/in/'";
    assert_eq!(rows(&place, table, "SELECT * FROM t").await.unwrap(), ["1000|8", "5|7"]);
    assert_eq!(rows(&place, table, "SELECT count(*) FROM t WHERE a > 5").await.unwrap(), ["1"]);
    place.put("in/b.json", "{\"a\":4.9,\"userId\":9}\n");
    let error = rows(&place, table, "SELECT * FROM t").await.unwrap_err();
    assert!(error.contains("b.json") && error.contains("4.9"), "{error}");
    let dropping = format!("{table} OPTIONS ('mode' 'DROPMALFORMED')");
    assert_eq!(rows(&place, &dropping, "SELECT sum(userid) FROM t").await.unwrap(), ["15"]);
}

/// A limit is for the rows that are left.
#[tokio::test]
async fn limits_and_options_of_values_hold_for_files_that_are_not_text() {
    let place = Place::new();
    let numbers = Int64Array::from(vec![1, i64::MAX, 2, i64::MAX, 3, 4, 5]);
    let column = RecordBatch::try_from_iter([("v", Arc::new(numbers) as ArrayRef)]).unwrap();
    std::fs::create_dir_all(place.path("in")).unwrap();
    super::write_parquet(&place.path("in/a.parquet"), &column);
    let table = "(v INT) STORED AS PARQUET LOCATION '$/in/' OPTIONS ('mode' 'DROPMALFORMED')";
    for select in
        ["SELECT * FROM t LIMIT 4", "SELECT * FROM t WHERE v > 0 LIMIT 4", "SELECT * FROM t OFFSET 1 LIMIT 4"]
    {
        assert_eq!(rows(&place, table, select).await.unwrap().len(), 4, "{select}");
    }
    let table = "(v TIMESTAMP(3)) STORED AS PARQUET LOCATION '$/in/' OPTIONS ('mode' 'DROPMALFORMED', 'epochUnit' 'seconds')";
    let first = rows(&place, table, "SELECT min(v) FROM t").await.unwrap();
    assert_eq!(first, ["1970-01-01T00:00:01"]);
}

#[tokio::test]
async fn columns_of_csv_files_are_those_that_their_headers_name() {
    let place = Place::new();
    place.put("in/a.csv", "b,a\n1,2\n");
    let table = "(a INT, b INT) STORED AS CSV LOCATION '$/in/' OPTIONS ('header' 'true')";
    assert_eq!(rows(&place, table, "SELECT a, b FROM t").await.unwrap(), ["2|1"]);
    place.put("other/a.csv", "x,y\n1,2\n");
    let other = "(a INT, b INT) STORED AS CSV LOCATION '$/other/' OPTIONS ('header' 'true')";
    let error = rows(&place, other, "SELECT a, b FROM t").await.unwrap_err();
    assert!(error.contains("a.csv"), "{error}");
    place.put("null/a.csv", "a,b\n1,N/A\n");
    let table = "(a INT, b INT) STORED AS CSV LOCATION '$/null/' OPTIONS ('nullValue' 'N/A')";
    assert_eq!(rows(&place, table, "SELECT a, b IS NULL FROM t").await.unwrap(), ["1|true"]);
}

#[tokio::test]
async fn declared_columns_of_parquet_files_are_found_without_case() {
    let place = Place::new();
    let sql = SqlSession::new(Session::new());
    let copy = format!(
        "COPY (SELECT 7 AS \"userId\", CAST(NULL AS INT) AS n) TO '{}' STORED AS PARQUET",
        place.text("in/a.parquet")
    );
    std::fs::create_dir_all(place.path("in")).unwrap();
    let mut outcomes = sql.run(&copy).await.unwrap();
    if let Some(SqlOutcome::Rows(frame)) = outcomes.pop() {
        frame.collect().await.unwrap();
    }
    let table = "(userid BIGINT) STORED AS PARQUET LOCATION '$/in/'";
    assert_eq!(rows(&place, table, "SELECT * FROM t WHERE userid = 7").await.unwrap(), ["7"]);
    let required = "(n INT NOT NULL) STORED AS PARQUET LOCATION '$/in/'";
    let error = rows(&place, required, "SELECT * FROM t").await.unwrap_err();
    assert!(error.contains("a.parquet"), "{error}");
    let inferred = "STORED AS PARQUET LOCATION '$/in/'";
    assert_eq!(rows(&place, inferred, "SELECT \"userId\" FROM t").await.unwrap(), ["7"]);
}

/// What was inserted is read back, also values that are in directory names, and null among them.
#[tokio::test]
async fn tables_can_be_inserted_into_and_read_back() {
    for (format, options) in [("JSON", ""), ("CSV", "OPTIONS ('header' 'true')"), ("PARQUET", "")] {
        let place = Place::new();
        std::fs::create_dir_all(place.path("out")).unwrap();
        let table = format!("(a INT, k VARCHAR) STORED AS {format} LOCATION '$/out/' {options}");
        let insert = "INSERT INTO t VALUES (1, 'x'), (2, 'y'); SELECT a, k FROM t";
        assert_eq!(rows(&place, &table, insert).await.unwrap_or_default(), ["1|x", "2|y"], "{format}");
    }
}

/// As in a streaming query over the same files.
#[tokio::test]
async fn directories_have_the_types_that_hold_their_values() {
    for (format, content) in [
        ("JSON", b"{\"id\":1}\n".to_vec()),
        ("PARQUET", {
            let rows = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef)])
                .unwrap();
            let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
            writer.write(&rows).unwrap();
            writer.into_inner().unwrap()
        }),
    ] {
        let place = Place::new();
        for directory in ["d=2024-02-29/n=7/t=x", "d=__HIVE_DEFAULT_PARTITION__/n=3000000000/t=7"] {
            place.put(&format!("in/{directory}/a.{}", format.to_lowercase()), &content);
        }
        let types = "SELECT DISTINCT arrow_typeof(d), arrow_typeof(n), arrow_typeof(t) FROM t";
        for definition in ["", "PARTITIONED BY (d, n, t)"] {
            let table = format!("STORED AS {format} {definition} LOCATION '$/in/'");
            assert_eq!(rows(&place, &table, types).await.unwrap(), ["Date32|Int64|Utf8"], "{table}");
            let select = "SELECT id, d, n, t FROM t WHERE n > 8 OR d > DATE '2024-01-01'";
            assert_eq!(
                rows(&place, &table, select).await.unwrap(),
                ["1|2024-02-29|7|x", "1||3000000000|7"],
                "{table}"
            );
        }
        let sql = SqlSession::new(Session::new());
        let select = format!("SELECT d, n, t FROM '{}' WHERE n = 7", place.text("in/"));
        let Some(SqlOutcome::Rows(frame)) = sql.run(&select).await.unwrap().pop() else { panic!() };
        assert_eq!(sorted(&frame.collect().await.unwrap()), ["2024-02-29|7|x"]);
    }
}

#[tokio::test]
async fn what_no_column_takes_is_rescued() {
    let numbers = Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let row = RecordBatch::try_from_iter([("a", Arc::clone(&numbers)), ("b", numbers)]).unwrap();
    let place = Place::new();
    std::fs::create_dir_all(place.path("in")).unwrap();
    super::write_parquet(&place.path("in/a.parquet"), &row);
    for definition in ["(a BIGINT) STORED AS PARQUET", "STORED AS PARQUET"] {
        let table = format!("{definition} LOCATION '$/in/' OPTIONS ('schemaEvolution' 'rescue')");
        let rescued = rows(&place, &table, "SELECT a, _rescued_data IS NULL FROM t").await.unwrap();
        assert_eq!(rescued, [format!("1|{}", definition.starts_with("STORED"))], "{definition}");
    }
    let adding = "(a BIGINT) STORED AS PARQUET LOCATION '$/in/' OPTIONS ('schemaEvolution' 'addNewColumns')";
    let error = rows(&place, adding, "SELECT * FROM t").await.unwrap_err();
    assert!(error.contains("columns are added by streaming queries only"), "{error}");
}

/// As for streaming inserts. Files that are read may lack values all the same, which is told when they are read.
#[tokio::test]
async fn nulls_do_not_go_into_columns_that_are_not_null() {
    for (format, options) in
        [("JSON", ""), ("CSV", "OPTIONS ('header' 'true')"), ("PARQUET", ""), ("ARROW", "")]
    {
        for partitions in ["", "PARTITIONED BY (k)"] {
            let place = Place::new();
            std::fs::create_dir_all(place.path("out")).unwrap();
            let table = format!(
                "(a INT NOT NULL, b INT, k VARCHAR) STORED AS {format} {partitions} LOCATION '$/out/' {options}"
            );
            for (values, lacks) in [
                ("VALUES (1, 1, 'x'), (NULL, 2, 'y')", true),
                ("SELECT * FROM (VALUES (1, NULL, 'x')) AS v", false),
                ("(b, k) VALUES (1, 'x')", true),
            ] {
                let insert = format!("INSERT INTO t {values}; SELECT a, b IS NULL, k FROM t");
                let given = rows(&place, &table, &insert).await;
                match lacks {
                    false => assert_eq!(given.unwrap_or_default(), ["1|true|x"], "{format} {partitions}"),
                    true => {
                        let error = given.unwrap_err();
                        let expected = "column 'a' of the target is NOT NULL";
                        assert!(error.contains(expected), "{format} {partitions} {values}: {error}");
                    }
                }
            }
        }
    }
}

/// Options of the writer of a table say nothing to its reader.
#[tokio::test]
async fn options_of_the_writer_do_not_keep_a_table_from_being_read() {
    let place = Place::new();
    for (format, options) in [
        ("PARQUET", "'compression' 'zstd(3)', 'max_row_group_size' '1000', 'compression::a' 'snappy'"),
        ("ARROW", "'compression' 'zstd', 'maxRecordsPerFile' '5'"),
        (
            "JSON",
            "'compression' 'gzip', 'ignoreNullFields' 'false', 'existingOutput' 'error', 'compactAfter' '5'",
        ),
        ("CSV", "'compression' 'gzip', 'quoteAll' 'true', 'nullValue' 'x', 'header' 'true', 'sep' ';'"),
    ] {
        let table = format!("(a INT) STORED AS {format} LOCATION '$/{format}/' OPTIONS ({options})");
        assert_eq!(rows(&place, &table, "SELECT count(*) FROM t").await.unwrap(), ["0"], "{format}");
    }
    // A table of text is only written to.
    let text = "(a INT) STORED AS TEXT LOCATION '$/text/'";
    let error = rows(&place, text, "SELECT * FROM t").await.unwrap_err();
    assert!(error.contains("TEXT is only written to"), "{error}");
}

/// The largest value that a Parquet file tells leaves out NaN, and its filters of hashes tell 0.0 from -0.0.
#[tokio::test]
async fn what_files_tell_of_floats_hides_none() {
    let place = Place::new();
    let doubles = |values: &[f64]| Arc::new(Float64Array::from(values.to_vec())) as ArrayRef;
    let floats = |values: &[f64]| {
        Arc::new(values.iter().map(|v| Some(*v as f32)).collect::<Float32Array>()) as ArrayRef
    };
    let halves = |values: &[f64]| {
        Arc::new(values.iter().map(|v| Some(f16::from_f64(*v))).collect::<Float16Array>()) as ArrayRef
    };
    for (column, values) in [
        ("double", [doubles(&[1.5, f64::NAN]), doubles(&[-0.0, -0.0])]),
        ("float", [floats(&[1.5, f64::NAN]), floats(&[-0.0, -0.0])]),
        ("half", [halves(&[1.5, f64::NAN]), halves(&[-0.0, -0.0])]),
    ] {
        for (number, values) in values.into_iter().enumerate() {
            let rows = RecordBatch::try_from_iter([("v", values)]).unwrap();
            let properties = WriterProperties::builder().set_bloom_filter_enabled(true);
            let properties = properties.set_statistics_enabled(EnabledStatistics::Page).build();
            let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
            writer.write(&rows).unwrap();
            place.put(&format!("{column}/{number}.parquet"), writer.into_inner().unwrap());
        }
        let table = format!("STORED AS PARQUET LOCATION '$/{column}/'");
        let questions = [
            ("SELECT v FROM t WHERE v > 100", &["NaN"][..]),
            ("SELECT v FROM t WHERE NOT (v <= 2.5)", &["NaN"]),
            ("SELECT v FROM t WHERE v >= 1", &["1.5", "NaN"]),
            ("SELECT max(v) FROM t", &["NaN"]),
            ("SELECT count(DISTINCT v) FROM t", &["3"]),
            ("SELECT count(*) FROM t WHERE v = 0", &["2"]),
            ("SELECT v FROM t WHERE v < 1.6 AND v > 0", &["1.5"]),
        ];
        for (number, (select, expected)) in questions.into_iter().enumerate() {
            assert_eq!(rows(&place, &table, select).await.unwrap(), expected, "{column}: {select}");
            let context = Session::new().context().clone();
            let read = context.read_parquet(place.text(column), ParquetReadOptions::default()).await.unwrap();
            context.register_table("t", read.into_view()).unwrap();
            let read = context.sql(select).await.unwrap().collect().await.unwrap();
            assert_eq!(sorted(&read), expected, "{column}, read by a program: {select}");
            if select.starts_with("SELECT v") {
                let out = format!("{column}-{number}");
                let written = format!("STORED AS PARQUET LOCATION '$/{out}/'");
                let script = format!(
                    "CREATE UNBOUNDED EXTERNAL TABLE t {table}; CREATE EXTERNAL TABLE o (v DOUBLE) {written};
                     CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '$/{out}-cp' AS
                     INSERT INTO o {select};"
                );
                let outcomes =
                    SqlSession::new(Session::new()).run(&script.replace('$', &place.text(""))).await;
                for outcome in outcomes.unwrap() {
                    if let SqlOutcome::Query(started) = outcome {
                        started.query.await_termination().await.unwrap();
                    }
                }
                assert_eq!(
                    rows(&place, &written, "SELECT v FROM t").await.unwrap(),
                    expected,
                    "{out}: {select}"
                );
            }
        }
    }
}

/// As in a stream over them.
#[tokio::test]
async fn columns_are_of_the_widest_type_that_files_have() {
    let place = Place::new();
    let numbers: [ArrayRef; 2] =
        [Arc::new(Int32Array::from(vec![7])), Arc::new(Int64Array::from(vec![1_099_511_627_776]))];
    for (name, column) in ["a", "b"].into_iter().zip(numbers) {
        let batch = RecordBatch::try_from_iter_with_nullable([("id", column, true)]).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        place.put(&format!("in/{name}.parquet"), writer.into_inner().unwrap());
    }
    let table = "STORED AS PARQUET LOCATION '$/in/'";
    assert_eq!(rows(&place, table, "SELECT id FROM t").await.unwrap(), ["1099511627776", "7"]);
    let read = format!("SELECT max(id) FROM read_parquet('{}/in/')", place.text(""));
    assert_eq!(rows(&place, table, &read).await.unwrap(), ["1099511627776"]);
}

/// Where a record begins is told by a line feed in lines of UTF-8 only, and not in documents.
#[tokio::test]
async fn files_are_read_in_parts_only_where_records_can_be_told() {
    let place = Place::new();
    let numbers = 0..400;
    // The first byte of the letter's second half is a line feed.
    let wide = |text: String| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
    let lines = |record: fn(u32) -> String| numbers.clone().map(record).collect::<Vec<_>>();
    let texts = lines(|n| format!("Ċetta {n}"));
    place.put("wide/a.csv", wide(texts.join("\n")));
    place.put("wide_json/a.json", wide(lines(|n| format!("{{\"s\":\"Ċetta {n}\"}}\n")).concat()));
    place.put("document/a.json", format!("[{}]", lines(|n| format!("{{\"s\":\"Ċetta {n}\"}}")).join(",\n")));
    place.put("quoted/a.csv", lines(|n| format!("\"Ċetta {n}\",\"x\ny\"\n")).concat());
    let packed = {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        std::io::Write::write_all(&mut packer, (texts.join("\n") + "\n").as_bytes()).unwrap();
        packer.finish().unwrap()
    };
    place.put("packed/a.csv.gz", packed);
    let settings = "SET datafusion.execution.target_partitions = 4; SET datafusion.optimizer.repartition_file_min_size = 1";
    let expected = sorted_texts(&texts);
    for (columns, directory, options) in [
        ("s VARCHAR", "CSV LOCATION '$/wide/'", "'encoding' 'UTF-16BE', 'header' 'false'"),
        ("s VARCHAR", "JSON LOCATION '$/wide_json/'", "'encoding' 'UTF-16BE'"),
        ("s VARCHAR", "JSON LOCATION '$/wide_json/'", "'encoding' 'UTF-16BE', 'mode' 'DROPMALFORMED'"),
        ("s VARCHAR", "JSON LOCATION '$/document/'", "'multiLine' 'true'"),
        ("s VARCHAR", "JSON LOCATION '$/document/'", "'multiLine' 'true', 'mode' 'DROPMALFORMED'"),
        ("s VARCHAR, x VARCHAR", "CSV LOCATION '$/quoted/'", "'header' 'false', 'multiLine' 'true'"),
        ("s VARCHAR", "CSV LOCATION '$/packed/'", "'header' 'false'"),
    ] {
        let table = format!("({columns}) STORED AS {directory} OPTIONS ({options}); {settings}");
        let found = rows(&place, &table, "SELECT s FROM t").await;
        assert_eq!(found.as_ref(), Ok(&expected), "{directory} {options}");
    }
}

fn sorted_texts(texts: &[String]) -> Vec<String> {
    let mut texts = texts.to_vec();
    texts.sort();
    texts
}
