//! Columns that come to files while a query is alive (`schemaEvolution`).

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Float32Array, Int32Array, RecordBatch, StringArray};
use datafusion::arrow::ipc::writer::FileWriter;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::parquet::arrow::ArrowWriter;
use object_store::{ObjectStoreExt, PutPayload, path::Path};
use serde_json::{Value, json};
use tidemill::checkpoint::verify;
use tidemill::prelude::*;
use tidemill::storage::resolve_location;
use url::Url;

use crate::support::counting_store::CountingStore;
use crate::support::harness::{Input, Job, Place, session};
use crate::support::oracle::Row;

/// A script from the files in `in` to JSON.
fn script(place: &Place, format: &str, options: &str, query: &str) -> String {
    let (input, out, ck) = (place.text("in"), place.text("out"), place.text("ck"));
    format!(
        "CREATE UNBOUNDED EXTERNAL TABLE t STORED AS {format} LOCATION '{input}' OPTIONS ({options});
         CREATE EXTERNAL TABLE o STORED AS JSON LOCATION '{out}';
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '{ck}' AS INSERT INTO o {query};"
    )
}

async fn run(script: &str) -> tidemill::Result<()> {
    let session = session();
    let outcomes = session.sql(script).await?;
    for outcome in outcomes {
        if let tidemill::sql::SqlOutcome::Query(started) = outcome {
            started.query.await_termination().await?;
        }
    }
    Ok(())
}

/// The lines of all published JSON files, sorted.
fn lines(place: &Place) -> Vec<String> {
    let mut lines = Vec::new();
    for file in crate::support::oracle::visible(&place.path("out")) {
        let text = std::fs::read_to_string(place.path("out").join(file)).unwrap();
        lines.extend(text.lines().map(str::to_string));
    }
    lines.sort();
    lines
}

async fn check(place: &Place) {
    let url = resolve_location(&place.text("ck")).unwrap();
    let storage = session().open_storage(&url).unwrap();
    let report = verify(storage.as_ref()).await.unwrap();
    assert!(report.findings.is_empty(), "{report}");
}

const ADD: &str = "'schemaEvolution' 'addNewColumns', 'maxFilesPerTrigger' '1'";

#[tokio::test]
async fn new_columns_are_taken_in_with_the_rows_that_bring_them() {
    for (format, files) in [
        ("json", ["{\"a\":1}\n", "{\"a\":2,\"b\":\"x\"}\n", "{\"c\":1.5,\"a\":3}\n", "{\"a\":4}\n"]),
        ("csv", ["a\n1\n", "a,b\n2,x\n", "c,a\n1.5,3\n", "a\n4\n"]),
    ] {
        let place = Place::new();
        let script = script(&place, format, ADD, "SELECT * FROM t");
        place.put(&format!("in/0.{format}"), files[0]);
        run(&script).await.unwrap();
        for (number, file) in files.iter().enumerate().skip(1) {
            place.put(&format!("in/{number}.{format}"), file);
            run(&script).await.unwrap();
        }
        let expected = ["{\"a\":1}", "{\"a\":2,\"b\":\"x\"}", "{\"a\":3,\"c\":1.5}", "{\"a\":4}"];
        assert_eq!(lines(&place), expected, "{format}");
        check(&place).await;
    }
}

/// A view keeps the columns that it was made with; its table gets them all the same.
#[tokio::test]
async fn a_query_over_a_view_goes_on() {
    for (view, query, expected) in [
        ("SELECT * FROM t", "SELECT * FROM v", ["{\"a\":1}", "{\"a\":2}", "{\"a\":3}"]),
        ("SELECT a AS x FROM t", "SELECT * FROM v", ["{\"x\":1}", "{\"x\":2}", "{\"x\":3}"]),
    ] {
        let place = Place::new();
        let script = script(&place, "json", ADD, query);
        let script =
            script.replacen("CREATE EXTERNAL", &format!("CREATE VIEW v AS {view};\nCREATE EXTERNAL"), 1);
        place.put("in/0.json", "{\"a\":1}\n");
        run(&script).await.unwrap();
        place.put("in/1.json", "{\"a\":2,\"b\":\"x\"}\n");
        let ended = tokio::time::timeout(std::time::Duration::from_secs(60), run(&script)).await;
        ended.expect("it does not begin again for ever").unwrap();
        place.put("in/2.json", "{\"a\":3,\"b\":\"y\"}\n");
        run(&script).await.unwrap();
        let found = lines(&place);
        let found: Vec<&str> =
            found.iter().map(|line| line.split(",\"b\"").next().unwrap_or_default()).collect();
        let found: Vec<String> =
            found.iter().map(|line| format!("{}}}", line.trim_end_matches('}'))).collect();
        assert_eq!(found, expected, "{view}");
        check(&place).await;
    }
}

/// Of a column that the view has.
#[tokio::test]
async fn a_query_over_a_view_takes_new_fields_in() {
    for (query, expected) in [
        ("SELECT s.x AS x FROM v", ["{\"x\":1}", "{\"x\":2}"]),
        ("SELECT s FROM v", ["{\"s\":{\"x\":1}}", "{\"s\":{\"x\":2,\"y\":5}}"]),
    ] {
        let place = Place::new();
        let script = script(&place, "json", ADD, query);
        let script =
            script.replacen("CREATE EXTERNAL", "CREATE VIEW v AS SELECT * FROM t;\nCREATE EXTERNAL", 1);
        place.put("in/0.json", "{\"s\":{\"x\":1}}\n");
        run(&script).await.unwrap();
        place.put("in/1.json", "{\"s\":{\"x\":2,\"y\":5}}\n");
        let ended = tokio::time::timeout(std::time::Duration::from_secs(60), run(&script)).await;
        ended.expect("it does not begin again for ever").unwrap();
        assert_eq!(lines(&place), expected, "{query}");
        check(&place).await;
    }
}

#[tokio::test]
async fn a_running_query_takes_new_columns_in() {
    let place = Place::new();
    place.put("in/0.json", "{\"a\":1}\n");
    let session = session();
    let text =
        script(&place, "json", ADD, "SELECT *, a + 1 AS next FROM t").replace("TRIGGER AVAILABLE NOW", "");
    let mut outcomes = session.sql(&text).await.unwrap();
    let Some(tidemill::sql::SqlOutcome::Query(started)) = outcomes.pop() else { panic!() };
    started.query.process_all_available().await.unwrap();
    place.put("in/1.json", "{\"a\":2}\n{\"b\":{\"c\":[1]},\"a\":3}\n");
    started.query.process_all_available().await.unwrap();
    started.query.stop(StopMode::Finish).await.unwrap();
    let expected = ["{\"a\":1,\"next\":2}", "{\"a\":2,\"next\":3}", "{\"a\":3,\"b\":{\"c\":[1]},\"next\":4}"];
    assert_eq!(lines(&place), expected);
    check(&place).await;
}

#[tokio::test]
async fn columns_far_down_in_the_first_files_are_taken_in_too() {
    let place = Place::new();
    let many: String = (0..3000).map(|a| format!("{{\"a\":{a}}}\n")).collect();
    place.put("in/0.json", format!("{many}{{\"a\":-1,\"late\":true}}\n"));
    run(&script(&place, "json", ADD, "SELECT * FROM t WHERE a < 0")).await.unwrap();
    assert_eq!(lines(&place), ["{\"a\":-1,\"late\":true}"]);
}

#[tokio::test]
async fn a_query_that_names_its_columns_goes_on_with_these() {
    let place = Place::new();
    place.put("in/0.json", "{\"a\":1}\n");
    let input = || Input::new("input", "json", place.text("in")).option("schemaEvolution", "addNewColumns");
    let job = || Job::new(&place).inputs([input()]).sql("SELECT a FROM input");
    job().run(&session()).await.unwrap();
    place.put("in/1.json", "{\"a\":2,\"b\":true}\n");
    job().run(&session()).await.unwrap();
    let row = |a: i64| Row::from([("a".to_string(), json!(a))]);
    assert_eq!(place.rows("parquet", &[]), vec![row(1), row(2)]);
}

#[tokio::test]
async fn a_column_that_would_change_what_is_remembered_is_refused_and_changes_nothing() {
    let place = Place::new();
    place.put("in/0.json", "{\"a\":1}\n");
    let with = |evolution: &str| {
        let options = format!("'schemaEvolution' '{evolution}'");
        script(&place, "json", &options, "SELECT DISTINCT * FROM t")
    };
    run(&with("addNewColumns")).await.unwrap();
    place.put("in/1.json", "{\"a\":1,\"b\":2}\n{\"a\":5}\n");
    let error = run(&with("addNewColumns")).await.unwrap_err().to_string();
    assert!(error.contains("new, 'b'") && error.contains("Set schemaEvolution to warn"), "{error}");
    run(&with("warn")).await.unwrap();
    assert_eq!(lines(&place), ["{\"a\":1}", "{\"a\":5}"]);
}

#[tokio::test]
async fn given_columns_may_become_more() {
    let place = Place::new();
    place.put("in/0.json", "{\"a\":1,\"b\":7}\n");
    let with = |columns: &str, evolution: &str| {
        let options = format!("'schemaEvolution' '{evolution}'");
        let text = script(&place, "json", &options, "SELECT * FROM t");
        text.replace("TABLE t STORED", &format!("TABLE t ({columns}) STORED"))
    };
    run(&with("a BIGINT", "addNewColumns")).await.unwrap();
    place.put("in/1.json", "{\"a\":2,\"b\":8}\n");
    let refused = run(&with("a BIGINT, b BIGINT", "none")).await.unwrap_err().to_string();
    assert!(refused.contains("column 'b' (Int64) of source 0 is new"), "{refused}");
    run(&with("a BIGINT, b BIGINT", "addNewColumns")).await.unwrap();
    assert_eq!(lines(&place), ["{\"a\":1}", "{\"a\":2,\"b\":8}"]);
    check(&place).await;
}

fn parquet(rows: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
    bytes
}

fn arrow(rows: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = FileWriter::try_new(&mut bytes, &rows.schema()).unwrap();
    writer.write(rows).unwrap();
    writer.finish().unwrap();
    drop(writer);
    bytes
}

#[tokio::test]
async fn binary_files_bring_columns_and_wider_types() {
    for (format, encode) in [("parquet", parquet as fn(&RecordBatch) -> Vec<u8>), ("arrow", arrow)] {
        let column = |values: Vec<i32>| Arc::new(Int32Array::from(values)) as ArrayRef;
        let first = RecordBatch::try_from_iter([("a", column(vec![1]))]).unwrap();
        let texts = Arc::new(StringArray::from(vec![Some("x"), None])) as ArrayRef;
        let floats = Arc::new(Float32Array::from(vec![2.0, 3.0])) as ArrayRef;
        let second = RecordBatch::try_from_iter([("b", texts), ("a", floats)]).unwrap();
        let rescued = |place: &Place| {
            let url = Url::from_file_path(place.path(&format!("in/1.{format}"))).unwrap();
            json!({"a": 2, "_rescued_data": format!("{{\"b\":\"x\",\"_file_path\":\"{url}\"}}")})
        };
        let added = |_: &Place| json!({"a": 2, "b": "x"});
        for (evolution, expected) in
            [("addNewColumns", &added as &dyn Fn(&Place) -> Value), ("rescue", &rescued)]
        {
            let place = Place::new();
            let options = format!("'schemaEvolution' '{evolution}'");
            let script = script(&place, format, &options, "SELECT * FROM t");
            place.put(&format!("in/0.{format}"), encode(&first));
            run(&script).await.unwrap();
            place.put(&format!("in/1.{format}"), encode(&second));
            run(&script).await.unwrap();
            let found: Vec<Value> =
                lines(&place).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            for row in [json!({"a": 1}), json!({"a": 3}), expected(&place)] {
                assert!(found.contains(&row), "{format} {evolution}: {found:?} without {row}");
            }
            assert_eq!(found.len(), 3, "{found:?}");
        }
    }
}

#[tokio::test]
async fn what_no_column_takes_is_rescued_as_json() {
    for (format, first, second, kept) in [
        (
            "json",
            "{\"a\":1}\n",
            "{\"a\":2,\"b\":{\"c\":[1, null]},\"d \\\"e\\\"\":\"f\"}\n",
            "\"b\":{\"c\":[1, null]},\"d \\\"e\\\"\":\"f\"",
        ),
        ("csv", "a\n1\n", "b,a,\"d \"\"e\"\"\"\n7,2,f\n", "\"b\":\"7\",\"d \\\"e\\\"\":\"f\""),
    ] {
        let place = Place::new();
        place.put(&format!("in/0.{format}"), first);
        let with = |evolution: &str| {
            script(&place, format, &format!("'schemaEvolution' '{evolution}'"), "SELECT * FROM t")
        };
        // It may be asked for later, too.
        run(&with("warn")).await.unwrap();
        place.put(&format!("in/1.{format}"), second);
        run(&with("rescue")).await.unwrap();
        let url = Url::from_file_path(place.path(&format!("in/1.{format}"))).unwrap();
        let rescued = format!("{{{kept},\"_file_path\":\"{url}\"}}");
        let lines = lines(&place);
        assert_eq!(lines[0], "{\"a\":1}");
        let second: Value = serde_json::from_str(&lines[1]).unwrap();
        assert_eq!(second, json!({"a": 2, "_rescued_data": rescued}), "{format}");
        check(&place).await;
    }
}

#[tokio::test]
async fn large_csv_files_are_read_in_parts_by_the_names_in_their_header() {
    let place = Place::new();
    place.put("in/0.csv", "a,b\n0,x\n");
    let rows: String = (1..40_000).map(|a| format!("new,x{a},{a}\n")).collect();
    place.put("in/1.csv", format!("c,b,a\n{rows}"));
    let session = Session::new();
    let config = "SET datafusion.execution.target_partitions = 4; SET datafusion.optimizer.repartition_file_min_size = 1000";
    session.sql(config).await.unwrap();
    let text = script(&place, "csv", "'multiLine' 'false'", "SELECT sum(a) AS s, count(b) AS n FROM t")
        .replace("STORED AS JSON", "STORED AS MEMORY")
        .replace(&format!(" LOCATION '{}'", place.text("out")), "")
        .replace("TRIGGER AVAILABLE NOW", "OUTPUT MODE COMPLETE TRIGGER AVAILABLE NOW")
        .replace(&format!(" CHECKPOINT LOCATION '{}'", place.text("ck")), "");
    let mut outcomes = session.sql(&text).await.unwrap();
    let Some(tidemill::sql::SqlOutcome::Query(started)) = outcomes.pop() else { panic!() };
    started.query.await_termination().await.unwrap();
    let found = session.context().sql("SELECT s, n FROM o").await.unwrap().collect().await.unwrap();
    let sum: i64 = (1..40_000).sum();
    let table = pretty_format_batches(&found).unwrap().to_string();
    assert!(table.contains(&format!("| {sum} | 40000 |")), "{table}");
}

#[tokio::test]
async fn a_start_on_thousands_of_known_files_opens_none() {
    const FILES: usize = 5000;
    let store = CountingStore::default();
    for file in 0..FILES {
        let path = Path::from(format!("in/{file}.json"));
        store.put(&path, PutPayload::from(format!("{{\"a\":{file}}}\n").into_bytes())).await.unwrap();
    }
    let place = Place::new();
    let text = script(&place, "json", "'minFileAge' '0 seconds'", "SELECT * FROM t")
        .replace(&place.text("in"), "mem://store/in/");
    let run = async || {
        let session = Session::new();
        let url = Url::parse("mem://store").unwrap();
        session.context().register_object_store(&url, Arc::new(store.clone()));
        let mut outcomes = session.sql(&text).await.unwrap();
        let Some(tidemill::sql::SqlOutcome::Query(started)) = outcomes.pop() else { panic!() };
        started.query.await_termination().await.unwrap();
    };
    run().await;
    assert_eq!(lines(&place).len(), FILES);
    let before = store.reads();
    run().await;
    assert_eq!(store.reads(), before);
    store.put(&Path::from("in/new.json"), PutPayload::from_static(b"{\"a\":-1}\n")).await.unwrap();
    run().await;
    assert_eq!((store.reads(), lines(&place).len()), (before + 1, FILES + 1));
}

#[tokio::test]
async fn json_in_text_is_read_with_types_in_streams() {
    let place = Place::new();
    let line = |payload: Value| json!({ "payload": payload.to_string() }).to_string() + "\n";
    place.put(
        "in/0.json",
        line(json!({"user": "ada", "n": "x", "tags": ["a", "b"]}))
            + &line(json!([1]))
            + &line(json!({"n": 7})),
    );
    let query = "SELECT p.user AS user, p.n AS n, p.tags[1] AS tag, to_json(p) AS back, payload ->> 'n' AS text
                 FROM (SELECT payload, from_json(payload, 'user STRING, n INT, tags ARRAY<STRING>') AS p FROM t)";
    run(&script(&place, "json", "'mode' 'FAILFAST'", query)).await.unwrap();
    let expected = [
        r#"{"back":"{\"n\":7}","n":7,"text":"7"}"#,
        r#"{"back":"{\"user\":\"ada\",\"tags\":[\"a\",\"b\"]}","tag":"a","text":"x","user":"ada"}"#,
        r#"{"back":"{}"}"#,
    ];
    let found: Vec<Value> = lines(&place).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for row in expected {
        assert!(found.contains(&serde_json::from_str(row).unwrap()), "{found:?} without {row}");
    }
    let error = session().query("SELECT from_json('{}', 'a WORD')").await.unwrap_err().to_string();
    assert!(error.contains("'WORD' is no type"), "{error}");
}

#[tokio::test]
async fn a_copied_checkpoint_knows_the_new_columns() {
    let place = Place::new();
    place.put("in/0.json", "{\"a\":1}\n");
    let script = |checkpoint: &str| {
        script(&place, "json", ADD, "SELECT * FROM t").replace(&place.text("ck"), &place.text(checkpoint))
    };
    run(&script("ck")).await.unwrap();
    place.put("in/1.json", "{\"a\":2,\"b\":\"x\"}\n");
    run(&script("ck")).await.unwrap();
    let open = |name: &str| session().open_storage(&resolve_location(&place.text(name)).unwrap()).unwrap();
    tidemill::checkpoint::copy(open("ck").as_ref(), open("copied").as_ref()).await.unwrap();
    place.put("in/2.json", "{\"a\":3,\"b\":\"y\"}\n");
    run(&script("copied")).await.unwrap();
    assert_eq!(lines(&place), ["{\"a\":1}", "{\"a\":2,\"b\":\"x\"}", "{\"a\":3,\"b\":\"y\"}"]);
    assert!(verify(open("copied").as_ref()).await.unwrap().findings.is_empty());
}

#[tokio::test]
async fn fields_within_columns_are_taken_in_too() {
    let place = Place::new();
    let script = script(&place, "json", ADD, "SELECT * FROM t WHERE a < 10");
    let files = [
        "{\"a\":1,\"s\":{\"x\":1}}\n",
        "{\"a\":2,\"s\":{\"x\":2,\"y\":\"n\"},\"l\":[{\"p\":1}]}\n",
        "{\"a\":3,\"S\":{\"z\":{\"q\":true}},\"l\":[{\"p\":2,\"r\":[3]}, null]}\n{\"a\":4}\n",
        "{\"a\":5,\"s\":{\"z\":{\"q\":null,\"deep\":{\"er\":1.5}}}}\n",
        "{\"a\":6,\"s\":{\"Y\":\"text\"}}\n",
    ];
    for (number, file) in files.iter().enumerate() {
        place.put(&format!("in/{number}.json"), file);
        run(&script).await.unwrap();
    }
    let expected = [
        r#"{"a":1,"s":{"x":1}}"#,
        r#"{"a":2,"s":{"x":2,"y":"n"},"l":[{"p":1}]}"#,
        r#"{"a":3,"s":{"z":{"q":true}},"l":[{"p":2,"r":[3]},null]}"#,
        r#"{"a":4}"#,
        r#"{"a":5,"s":{"z":{"deep":{"er":1.5}}}}"#,
        r#"{"a":6,"s":{"y":"text"}}"#,
    ];
    assert_eq!(lines(&place), expected);
    check(&place).await;
    // What was taken in stays.
    place.put("in/9.json", "{\"a\":9,\"s\":{\"y\":\"t\",\"new\":1}}\n");
    run(&script.replace("addNewColumns", "warn")).await.unwrap();
    assert_eq!(lines(&place)[6], r#"{"a":9,"s":{"y":"t"}}"#);
}

/// `a`, and `s` with the fields of the given names, each `row` itself; with `x` null in the last row.
fn with_fields(rows: std::ops::Range<i32>, names: &[&str]) -> RecordBatch {
    let values = |name: &str| {
        let last = rows.end - 1;
        let value = |row: i32| (name == "x" || row != last).then_some(row);
        Arc::new(rows.clone().map(value).collect::<Int32Array>()) as ArrayRef
    };
    let fields = names.iter().map(|name| {
        (
            Arc::new(datafusion::arrow::datatypes::Field::new(*name, values(name).data_type().clone(), true)),
            values(name),
        )
    });
    let s = Arc::new(datafusion::arrow::array::StructArray::from(fields.collect::<Vec<_>>())) as ArrayRef;
    RecordBatch::try_from_iter_with_nullable([("a", values("x"), true), ("s", s, true)]).unwrap()
}

#[tokio::test]
async fn binary_files_bring_fields_within_columns() {
    for (format, encode) in [("parquet", parquet as fn(&RecordBatch) -> Vec<u8>), ("arrow", arrow)] {
        for evolution in ["addNewColumns", "rescue", "warn"] {
            let place = Place::new();
            let options = format!("'schemaEvolution' '{evolution}'");
            let script = script(&place, format, &options, "SELECT * FROM t");
            place.put(&format!("in/0.{format}"), encode(&with_fields(0..1, &["x"])));
            run(&script).await.unwrap();
            place.put(&format!("in/1.{format}"), encode(&with_fields(1..3, &["y", "x"])));
            run(&script).await.unwrap();
            let url = Url::from_file_path(place.path(&format!("in/1.{format}"))).unwrap();
            let of_second = match evolution {
                "addNewColumns" => json!({"a": 1, "s": {"x": 1, "y": 1}}),
                "warn" => json!({"a": 1, "s": {"x": 1}}),
                _ => {
                    let rescued = format!("{{\"s\":{{\"y\":1,\"x\":1}},\"_file_path\":\"{url}\"}}");
                    json!({"a": 1, "s": {"x": 1}, "_rescued_data": rescued})
                }
            };
            let found: Vec<Value> =
                lines(&place).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            for row in [json!({"a": 0, "s": {"x": 0}}), of_second, json!({"a": 2, "s": {"x": 2}})] {
                assert!(found.contains(&row), "{format} {evolution}: {found:?} without {row}");
            }
            assert_eq!(found.len(), 3, "{found:?}");
            check(&place).await;
        }
    }
}

#[tokio::test]
async fn fields_that_nothing_takes_are_rescued_with_what_is_around_them() {
    let place = Place::new();
    place.put("in/0.json", "{\"a\":1,\"s\":{\"x\":{\"y\":1}},\"l\":[{\"p\":1}]}\n");
    let with = |query: &str| script(&place, "json", "'schemaEvolution' 'rescue'", query);
    run(&with("SELECT * FROM t")).await.unwrap();
    place.put(
        "in/1.json",
        "{\"a\":2,\"s\":{\"x\":{\"y\":2,\"z\":3}},\"l\":[{\"p\":2},{\"q\":4}]}\n{\"a\":3,\"s\":{\"x\":null},\"b\":1}\n",
    );
    run(&with("SELECT * FROM t")).await.unwrap();
    let url = Url::from_file_path(place.path("in/1.json")).unwrap();
    let rescued = |text: &str| format!("{{{text},\"_file_path\":\"{url}\"}}");
    let found: Vec<Value> = lines(&place).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let around = "\"s\":{\"x\":{\"y\":2,\"z\":3}},\"l\":[{\"p\":2},{\"q\":4}]";
    assert_eq!(found[1]["_rescued_data"], rescued(around));
    assert_eq!(found[2]["_rescued_data"], rescued("\"b\":1"));
    // Whether or not the column itself is asked for.
    let other = Place::new();
    other.put("in/0.json", "{\"a\":1,\"s\":{\"x\":1}}\n");
    let with = |query: &str| self::script(&other, "json", "'schemaEvolution' 'rescue'", query);
    run(&with("SELECT a, _rescued_data FROM t")).await.unwrap();
    other.put("in/1.json", "{\"a\":2,\"s\":{\"x\":1,\"y\":2}}\n");
    run(&with("SELECT a, _rescued_data FROM t")).await.unwrap();
    assert!(lines(&other)[1].contains(r#"\"s\":{\"x\":1,\"y\":2}"#), "{:?}", lines(&other));
}

#[tokio::test]
async fn a_field_that_would_change_what_is_remembered_is_refused() {
    let place = Place::new();
    place.put("in/0.json", "{\"a\":1,\"s\":{\"x\":1}}\n");
    let script = script(&place, "json", "'schemaEvolution' 'addNewColumns'", "SELECT DISTINCT s FROM t");
    run(&script).await.unwrap();
    place.put("in/1.json", "{\"a\":2,\"s\":{\"x\":1,\"y\":2}}\n");
    let error = run(&script).await.unwrap_err().to_string();
    assert!(error.contains("Set schemaEvolution to warn"), "{error}");
    run(&script.replace("addNewColumns", "warn")).await.unwrap();
    assert_eq!(lines(&place), [r#"{"s":{"x":1}}"#]);
}
