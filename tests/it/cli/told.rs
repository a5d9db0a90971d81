//! What users are told: summaries, logs, errors, descriptions of checkpoints.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::{Folder, signal, wait};

const WINDOWS: &str = "CREATE UNBOUNDED EXTERNAL TABLE hits (status INT, time TIMESTAMP, WATERMARK FOR time AS time - \
     INTERVAL '10' MINUTE) STORED AS JSON LOCATION 'in' OPTIONS ('maxFilesPerTrigger' '1', 'mode' 'DROPMALFORMED');
     CREATE EXTERNAL TABLE counts STORED AS JSON LOCATION 'out';
     CREATE STREAMING QUERY counts TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'ck' AS INSERT INTO counts
     SELECT window(h.time, '10 minutes') AS w, count(*) AS n FROM hits AS h GROUP BY 1;";

fn hits(folder: &Folder, name: &str, times: &[&str]) {
    let line = |time: &&str| format!("{{\"status\":200,\"time\":\"2026-11-21T{time}:00\"}}\n");
    folder.write(&format!("in/{name}"), &times.iter().map(line).collect::<String>());
}

#[test]
fn a_summary_says_what_was_left_out_and_what_is_waited_for() {
    let folder = Folder::new();
    hits(&folder, "1.json", &["12:01", "12:45"]);
    hits(&folder, "2.json", &["12:46"]);
    hits(&folder, "3.json", &["12:02", "12:03", "12:50"]);
    folder.write("in/4.json", "{\"status\":\"x\",\"time\":\"2026-11-21T12:51:00\"}\n");
    let file = |name: &str, seconds: u64| {
        let file = std::fs::File::options().write(true).open(folder.0.path().join("in").join(name)).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds))
            .unwrap();
    };
    (1..5).for_each(|number| file(&format!("{number}.json"), number));
    folder.write("job.sql", WINDOWS);
    let (code, _, err) = folder.run(&["run", "job.sql", "--progress", "none"]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("counts: left out: 2 late rows, 1 malformed row (late by the watermark"), "{err}");
    assert!(err.contains("counts: not final yet: "), "{err}");
    assert!(err.contains("when an event time of 2026-11-21T13:"), "{err}");
    assert!(err.contains("(or the option flushOnEnd is true)"), "{err}");
}

#[test]
fn a_summary_tells_malformed_records_that_are_kept_from_those_left_out() {
    let folder = Folder::new();
    folder.write("in/1.json", "{\"a\":1}\n{\"a\":\"x\"}\n{\"a\":\"y\"}\n");
    for (mode, told) in [
        ("PERMISSIVE", "etl: 2 malformed records kept with nulls"),
        ("DROPMALFORMED", "etl: left out: 2 malformed rows"),
    ] {
        let option = format!("mode={mode}");
        let (code, _, err) = folder.run(&[
            "etl",
            "in",
            mode,
            "--checkpoint",
            &format!("ck-{mode}"),
            "--schema",
            "a INT",
            "--option",
            &option,
            "--progress",
            "none",
        ]);
        assert_eq!(code, 0, "{err}");
        assert!(err.lines().any(|line| line == told), "{err}");
    }
}

#[test]
fn a_log_tells_a_healthy_life_in_a_few_lines() {
    let folder = Folder::new();
    hits(&folder, "1.json", &["12:01", "12:45"]);
    folder.write("job.sql", WINDOWS);
    let run = |log: &str| {
        let mut command = folder.command(&["run", "job.sql", "--progress", "none"]);
        super::ended(command.env("TIDEMILL_LOG", log).output().unwrap())
    };
    let (code, _, err) = run("info");
    assert_eq!(code, 0, "{err}");
    let logged: Vec<&str> = err.lines().filter(|line| line.contains(" INFO tidemill")).collect();
    assert_eq!(logged.len(), 3, "{err}");
    assert!(logged[0].contains("query 'counts' starts with batch 0: FileSource[file://"), "{err}");
    assert!(logged[0].contains("; checkpoint file://"), "{err}");
    assert!(logged[1].contains("query 'counts': batch 0, 2 rows in"), "{err}");
    assert!(logged[2].contains("query 'counts' ended: 2 batches up to 1, 2 rows in"), "{err}");
    let (code, _, err) = run("inof");
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("TIDEMILL_LOG = 'inof' is not valid: there is no level 'inof'"), "{err}");
}

#[test]
fn errors_are_short_and_harmless() {
    let folder = Folder::new();
    let elements: Vec<String> =
        (0..50_000).map(|n| format!("{{\"a\":{n},\"b\":\"{}\"}}", "x".repeat(20))).collect();
    folder.write("array/1.json", &format!("[{}]", elements.join(",")));
    let (code, _, err) = folder.run(&["etl", "array", "out", "--checkpoint", "ck"]);
    assert_ne!(code, 0);
    assert!(err.len() < 3000 && err.contains("JSON array, set multiLine to true"), "{err}");

    folder.write("evil/1.csv", "a,\u{1b}[31mb\u{1b}]0;title\u{7}\n1,2\n");
    let (code, _, err) = folder.run(&[
        "etl",
        "evil",
        "out2",
        "--checkpoint",
        "ck2",
        "--schema",
        "x INT, y INT",
        "--progress",
        "none",
    ]);
    assert_eq!(code, 1);
    assert!(err.contains("\\u{1b}[31mb") && !err.contains('\u{1b}') && !err.contains('\u{7}'), "{err:?}");

    for (arguments, message) in [
        (vec!["etl", "nowhere", "out", "--checkpoint", "c"], "there is no directory or file 'nowhere'"),
        (vec!["etl", "array", "out", "--checkpoint", "c", "--from", "cvs"], "did you mean 'csv'?"),
        (
            vec!["etl", "s3://b/x", "out", "--checkpoint", "c"],
            "'s3://b' cannot be reached: this build of tidemill is without the feature 'aws'. Build it with --features aws\n",
        ),
        (
            vec!["etl", "hdfs://b/x", "out", "--checkpoint", "c"],
            "there is no object store for 'hdfs://b', where 'hdfs://b/x' is: there are file://, s3://",
        ),
        (
            vec!["etl", "array", "out", "--checkpoint", "c", "--schema", "s STRUCT<a LONG>"],
            "there is no type LONG; write BIGINT",
        ),
        (
            vec![
                "sql",
                "-c",
                "CREATE UNBOUNDED EXTERNAL TABLE t (a INT) STORED AS JSON LOCATION 's3://b/d/'",
            ],
            "--features aws",
        ),
        (
            vec![
                "sql",
                "-c",
                "CREATE UNBOUNDED EXTERNAL TABLE t STORED AS RATE; CREATE EXTERNAL TABLE c STORED AS CONSOLE; \
                 INSERT INTO c SELECT * FROM t",
            ],
            "Use CREATE STREAMING QUERY",
        ),
    ] {
        let (code, _, err) = folder.run(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {err}");
        assert!(err.contains(message), "{arguments:?}: {err}");
        assert!(!err.contains("bug report"), "{err}");
    }
}

#[test]
fn statements_may_start_with_a_comment() {
    let folder = Folder::new();
    let (code, out, err) = folder.run(&["sql", "-c", "-- one\nSELECT 1 AS one", "--format", "csv"]);
    assert_eq!((code, out.as_str()), (0, "one\n1\n"), "{err}");
}

#[test]
fn a_checkpoint_is_described() {
    let folder = Folder::new();
    hits(&folder, "1.json", &["12:01", "12:45"]);
    folder.write("job.sql", WINDOWS);
    assert_eq!(folder.run(&["run", "job.sql", "--progress", "none"]).0, 0);
    let (code, out, err) = folder.run(&["describe", "ck"]);
    assert_eq!(code, 0, "{err}");
    for words in [
        "source 0  json ",
        "status Int32, time Timestamp",
        "sink      json ",
        "mode      append",
        "operator 0  aggregate",
        "a start   goes on with batch 2: all before it are done",
        "2026-11-21T12:35:00.000Z",
        "state after batch 1: ",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    let (code, out, _) = folder.run(&["describe", "ck", "--format", "json"]);
    let described: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    assert_eq!(described["restart"]["action"], "goOn");
    assert_eq!(described["batches"][0]["committed"], true);
    assert_eq!(described["definition"]["sources"][0]["format"], "json");
    let (_, out, _) = folder.run(&["describe", "ck", "--format", "csv"]);
    assert!(out.starts_with("batch,planned,done,entries,rows_out,watermark,offset\n0,"), "{out}");
    assert_eq!(out.lines().count(), 3, "{out}");
    std::fs::remove_file(folder.0.path().join("ck/commits/1")).unwrap();
    let (_, out, _) = folder.run(&["describe", "ck"]);
    assert!(out.contains("a start   runs batch 1 again"), "{out}");
    let (code, _, err) = folder.run(&["describe", "in"]);
    assert_eq!(code, 2);
    assert!(err.contains("in is not the checkpoint of a query"), "{err}");

    let (code, out, _) = folder.run(&["check", "ck", "--format", "json"]);
    let checked: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &checked[0]["problems"]), (0, &Value::from(0)), "{out}");
    let (_, out, err) = folder.run(&["state", "ck", "--format", "ndjson"]);
    let state: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(state["name"], "aggregate", "{out}{err}");
}

#[test]
fn rows_of_unbounded_tables_and_of_files_can_be_looked_at() {
    let folder = Folder::new();
    hits(&folder, "1.json", &["12:01", "12:45"]);
    hits(&folder, "2.json", &["12:50"]);
    let table =
        "CREATE UNBOUNDED EXTERNAL TABLE hits (status INT, time TIMESTAMP) STORED AS JSON LOCATION 'in';";
    let (code, out, err) =
        folder.run(&["sql", "--format", "csv", "-c", &format!("{table} SELECT status FROM hits LIMIT 2")]);
    assert_eq!((code, out.as_str()), (0, "status\n200\n200\n"), "{err}");
    let all = format!("{table} SELECT count(*) AS n FROM hits");
    let (code, out, err) = folder.run(&["sql", "--trigger", "available-now", "--format", "csv", "-c", &all]);
    assert_eq!((code, out.as_str()), (0, "n\n3\n"), "{err}");
    // Without an end Ctrl-C is one.
    let mut child = folder.command(&["sql", "-c", &format!("{table} SELECT * FROM hits")]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    signal(&child, "-INT");
    let out = child.stdout.take().map(std::io::read_to_string).unwrap().unwrap();
    assert_eq!(wait(child).0, 130);
    assert!(out.contains("2026-11-21T12:50:00"), "{out}");
    // A script is not the place for it.
    folder.write("look.sql", &format!("{table} SELECT * FROM hits"));
    let (code, _, err) = folder.run(&["run", "look.sql"]);
    assert_eq!(code, 2);
    assert!(err.contains("its rows never end"), "{err}");

    folder.write("a.tsv", "x\ty\n1\t2\n");
    folder.write("b.csv", "x;y\n3;4\n");
    for (query, expected) in [
        ("SELECT count(*) AS n FROM 'in/'", "n\n3\n"),
        ("SELECT count(*) AS n FROM 'in/*.json' AS h WHERE h.status = 200", "n\n3\n"),
        ("SELECT y FROM 'a.tsv'", "y\n2\n"),
        ("SELECT read_csv.x FROM read_csv('b.csv', sep => ';')", "x\n3\n"),
        ("SELECT count(*) AS n FROM read_json('in')", "n\n3\n"),
    ] {
        let (code, out, err) = folder.run(&["sql", "--format", "csv", "-c", query]);
        assert_eq!((code, out.as_str()), (0, expected), "{query}: {err}");
    }
    for source in ["(SELECT count(*) AS n FROM 'in/*.json')", "(SELECT count(*) AS n FROM read_json('in/'))"]
    {
        let copy = format!("COPY {source} TO 'copied.csv'; SELECT n FROM 'copied.csv'");
        let (code, out, err) = folder.run(&["sql", "--format", "csv", "-c", &copy]);
        assert_eq!(code, 0, "{copy}: {err}");
        assert!(out.ends_with("n\n3\n"), "{copy}: {out}");
        std::fs::remove_file(folder.0.path().join("copied.csv")).unwrap();
    }
    let copy = "COPY 'in/' TO 'all.csv'; SELECT count(*) AS n FROM 'all.csv'";
    let (code, out, err) = folder.run(&["sql", "--format", "csv", "-c", copy]);
    assert_eq!(code, 0, "{copy}: {err}");
    assert!(out.ends_with("n\n3\n"), "{copy}: {out}");
    for (query, message) in [
        ("COPY (SELECT * FROM 'nowhere/') TO 'x.csv'", "'nowhere/' cannot be read: No such file"),
        ("SELECT * FROM 'nowhere/'", "'nowhere/' cannot be read: No such file"),
        ("SELECT * FROM read_csv(5 + 5)", "expected read_csv('path', option => value, …)"),
        ("SELECT * FROM hist", "table 'hist' not found"),
    ] {
        let (code, _, err) = folder.run(&["sql", "-c", query]);
        assert_eq!(code, 2, "{query}");
        assert!(err.contains(message), "{query}: {err}");
    }
}

#[test]
fn columns_that_cannot_be_told_are_told_with_what_helps() {
    let folder = Folder::new();
    let bytes = |name: &str, content: &[u8]| std::fs::write(folder.0.path().join(name), content).unwrap();
    bytes("latin.csv", b"a,b\n1,M\xfcnchen\n");
    bytes("ragged.csv", b"a,b,c\n1,2,3\n4,5\n");
    bytes("plain.csv.gz", b"a,b\n1,2\n");
    for (query, message, remedy, rows) in [
        ("'latin.csv'", "it is not UTF-8", "encoding => 'ISO-8859-1'", "a,b\n1,München\n"),
        (
            "'ragged.csv'",
            "line 3 has 2 fields, and the first one has 3",
            "mode => 'DROPMALFORMED'",
            "a,b,c\n1,2,3\n",
        ),
        ("'plain.csv.gz'", "it cannot be decompressed", "compression => 'uncompressed'", "a,b\n1,2\n"),
    ] {
        let (code, _, err) = folder.run(&["sql", "-c", &format!("FROM {query}")]);
        assert_ne!(code, 0, "{query}");
        let option = remedy.split(' ').next().unwrap();
        assert!(err.contains(message) && err.contains(option), "{query}: {err}");
        let (code, out, err) =
            folder.run(&["sql", "--format", "csv", "-c", &format!("FROM read_csv({query}, {remedy})")]);
        assert_eq!((code, out.as_str()), (0, rows), "{query}: {err}");
    }
}

#[test]
fn codes_of_digits_are_no_numbers() {
    let folder = Folder::new();
    folder.write("in/a.csv", "plz,tel,id,n,x\n01067,0049123,1,0,0.5\n80331,123,02,10,2\n");
    let rows = "plz,tel,id,n,x\n01067,0049123,1,0,0.5\n80331,123,02,10,2.0\n";
    let (code, out, err) = folder.run(&["sql", "--format", "csv", "-c", "FROM 'in/a.csv'"]);
    assert_eq!((code, out.as_str()), (0, rows), "{err}");
    let (code, _, err) = folder.run(&["etl", "in", "out", "--checkpoint", "cp"]);
    assert_eq!(code, 0, "{err}");
    let query = "SELECT plz || tel || id AS codes, n + 1 AS next FROM 'out/' ORDER BY n";
    let (code, out, err) = folder.run(&["sql", "--format", "csv", "-c", query]);
    assert_eq!((code, out.as_str()), (0, "codes,next\n0106700491231,1\n8033112302,11\n"), "{err}");
}

#[test]
fn json_in_text_is_read() {
    let folder = Folder::new();
    let query = r#"SELECT j -> 'a' AS a, j ->> 'b' AS b, get_json_object(j, '$.c[1].d') AS d, to_json(named_struct('x', 1)) AS x
        FROM (VALUES ('{"a":{"k":1},"b":"t","c":[0,{"d":"deep"}]}'), ('no json'), (NULL)) AS v(j)"#;
    let (code, out, err) = folder.run(&["sql", "--format", "ndjson", "-c", query]);
    assert_eq!(code, 0, "{err}");
    let rows: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[0], serde_json::json!({"a": "{\"k\":1}", "b": "t", "d": "deep", "x": "{\"x\":1}"}));
    for row in &rows[1..] {
        assert_eq!(*row, serde_json::json!({"a": null, "b": null, "d": null, "x": "{\"x\":1}"}));
    }
}

#[test]
fn floats_that_are_no_numbers_are_printed_as_texts() {
    let folder = Folder::new();
    let query = "SELECT CAST('NaN' AS DOUBLE) AS x, 1e0 / 0 AS y, CAST(NULL AS DOUBLE) AS z";
    let row = serde_json::json!({"x": "NaN", "y": "Infinity", "z": null});
    let (code, out, err) = folder.run(&["sql", "--format", "ndjson", "-c", query]);
    assert_eq!((code, serde_json::from_str::<Value>(&out).unwrap()), (0, row.clone()), "{err}");
    let (_, out, _) = folder.run(&["sql", "--format", "json", "-c", query]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), serde_json::json!([row]));
}

#[test]
fn a_start_may_wait_for_a_running_query_or_leave_it_alone() {
    let folder = Folder::new();
    hits(&folder, "1.json", &["12:01"]);
    let arguments = ["etl", "in", "out", "--checkpoint", "ck", "--to", "json"];
    let start = |more: &[&str]| {
        let mut command = folder.command(&[&arguments[..], more].concat());
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let first = start(&["--trigger", "100ms", "--if-running", "skip"]);
    let written = || std::fs::read_dir(folder.0.path().join("out")).is_ok_and(|files| files.count() > 1);
    while !written() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let (code, _, err) = folder.run(&[&arguments[..], &["--if-running", "skip"]].concat());
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("this start leaves it alone"), "{err}");
    let mut waiting = start(&["--if-running", "wait"]);
    std::thread::sleep(Duration::from_millis(700));
    assert!(waiting.try_wait().unwrap().is_none(), "it did not wait");
    signal(&first, "-INT");
    assert_eq!(wait(first).0, 0);
    let (code, _, err) = wait(waiting);
    assert_eq!((code, err.as_str()), (0, "etl: nothing new, out is up to date\n"));
    let (code, _, err) = folder.run(&[&arguments[..], &["--if-running", "wiat"]].concat());
    assert_eq!(code, 2, "{err}");
}

#[test]
fn output_of_another_query_is_not_added_to_without_a_word() {
    let folder = Folder::new();
    hits(&folder, "1.json", &["12:01"]);
    let etl = |checkpoint: &str, more: &[&str]| {
        let arguments =
            ["etl", "in", "out", "--checkpoint", checkpoint, "--to", "json", "--partition-by", "status"];
        folder.run(&[&arguments[..], more].concat())
    };
    let (code, _, err) = etl("one", &[]);
    assert!(code == 0 && !err.contains("output of another query"), "{err}");
    let (code, _, err) = etl("two", &["--sink-option", "existingOutput=refuse"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("set existingOutput to allow"), "{err}");
    let (code, _, err) = etl("three", &[]);
    assert!(code == 0 && err.contains("holds output of another query"), "{err}");
    let (code, _, err) = etl("four", &["--sink-option", "existingOutput=allow"]);
    assert!(code == 0 && !err.contains("output of another query"), "{err}");
    let (code, _, err) = etl("one", &[]);
    assert!(code == 0 && !err.contains("output of another query"), "{err}");
}

#[test]
fn a_query_stays_the_same_under_other_names_of_its_tables() {
    let folder = Folder::new();
    hits(&folder, "1.json", &["12:01", "12:45"]);
    folder.write("job.sql", WINDOWS);
    let run = |from: &str, to: &str| {
        folder.write("changed.sql", &WINDOWS.replace(from, to));
        folder.run(&["run", "changed.sql", "--progress", "none"])
    };
    assert_eq!(run("", "").0, 0);
    for (from, to) in [
        (
            "window(h.time, '10 minutes') AS w, count(*) AS n FROM hits AS h",
            "window(time, '10 minutes') AS w, count(1) AS n FROM hits",
        ),
        ("FROM hits AS h", "FROM (SELECT * FROM hits) AS h"),
        ("hits", "strikes"),
    ] {
        let (code, _, err) = run(from, to);
        assert_eq!(code, 0, "{to}: {err}");
    }
    let (code, _, err) = run("count(*)", "sum(status)");
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("is gone") && err.contains("is new"), "{err}");

    let explained = |query: &str| {
        let tables = WINDOWS.split("CREATE STREAMING QUERY").next().unwrap();
        let statement = format!("{tables} EXPLAIN STREAMING QUERY ON 'ck' AS INSERT INTO counts {query}");
        folder.run(&["sql", "-c", &statement])
    };
    let (code, out, err) =
        explained("SELECT window(time, '10 minutes') AS w, count(*) AS n FROM hits GROUP BY 1");
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("it goes on with batch 2") && out.contains("its state is kept"), "{out}");
    let (_, out, _) =
        explained("SELECT window(time, '10 minutes') AS w, sum(status) AS n FROM hits GROUP BY 1");
    assert!(out.contains("refused, because it is another query"), "{out}");
}

#[test]
fn a_new_column_is_told_of_by_its_name_and_once() {
    for (format, files) in [
        ("json", ["{\"a\":1}\n", "{\"a\":2,\"extra\":\"x\"}\n", "{\"extra\":\"y\",\"a\":3}\n"]),
        ("csv", ["a\n1\n", "a,extra\n2,x\n", "extra,a\ny,3\n"]),
    ] {
        let folder = Folder::new();
        let etl = |evolution: &str| {
            let option = format!("schemaEvolution={evolution}");
            let arguments = [
                "etl",
                "in",
                "out",
                "--checkpoint",
                "ck",
                "--to",
                "json",
                "--from",
                format,
                "--progress",
                "none",
            ];
            folder.run(&[&arguments[..], &["--option", "maxFilesPerTrigger=1", "--option", &option]].concat())
        };
        folder.write(&format!("in/0.{format}"), files[0]);
        let (code, _, err) = etl("warn");
        assert!(code == 0 && !err.contains("extra"), "{err}");
        folder.write(&format!("in/1.{format}"), files[1]);
        folder.write(&format!("in/2.{format}"), files[2]);
        let (code, _, err) = etl("warn");
        assert_eq!(code, 0, "{err}");
        assert_eq!(err.matches("'extra'").count(), 1, "{err}");
        assert!(err.contains("set schemaEvolution to addNewColumns"), "{err}");
        folder.write(&format!("in/3.{format}"), files[1]);
        let (code, _, err) = etl("none");
        assert!(code == 0 && !err.contains("extra"), "{err}");
        folder.write(&format!("in/4.{format}"), files[1]);
        let (code, _, err) = etl("addNewColumns");
        assert_eq!(code, 0, "{err}");
        let (_, out, err) = folder.run(&["sql", "-c", "SELECT sum(a) AS a, count(extra) AS e FROM 'out/'"]);
        assert!(out.contains("| 10 | 1 |"), "{out}{err}");
    }
}

#[test]
fn a_new_field_within_a_column_is_told_of_by_its_path() {
    let folder = Folder::new();
    let etl =
        || folder.run(&["etl", "in", "out", "--checkpoint", "ck", "--to", "json", "--progress", "none"]);
    folder.write("in/0.json", "{\"user\":{\"id\":1},\"items\":[{\"x\":1}]}\n");
    assert_eq!(etl().0, 0);
    for number in 1..3 {
        let row = "{\"user\":{\"id\":2,\"more\":{}},\"items\":[{\"x\":1,\"y\":2}]}\n";
        folder.write(&format!("in/{number}.json"), &row.repeat(2));
    }
    let (code, _, err) = etl();
    assert_eq!(code, 0, "{err}");
    assert_eq!(err.matches("'items.y', 'user.more'").count(), 1, "{err}");
}

#[test]
fn a_separator_that_nobody_has_said_is_told() {
    let folder = Folder::new();
    folder.write("in/a.csv", "id;name\n1;x\n2;y\n");
    let etl =
        || folder.run(&["etl", "in", "out", "--checkpoint", "ck", "--to", "json", "--progress", "none"]);
    let (code, _, err) = etl();
    assert!(code == 0 && err.contains("seem to be separated by ';'"), "{err}");
    folder.write("in/b.csv", "id;name\n3;z\n");
    let (code, _, err) = etl();
    // It is in the checkpoint.
    assert!(code == 0 && !err.contains("separated"), "{err}");
    let (_, out, err) = folder.run(&["sql", "-c", "SELECT sum(id) AS s, max(name) AS n FROM 'out/'"]);
    assert!(out.contains("| 6 | z |"), "{out}{err}");
}

#[test]
fn a_csv_file_that_is_not_like_the_others_is_named() {
    let folder = Folder::new();
    folder.write("mix/1.csv", "a;b\n1;2\n");
    folder.write("mix/2.csv", "a,b\n3,4\n");
    let first = std::fs::File::options().write(true).open(folder.0.path().join("mix/1.csv")).unwrap();
    first.set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).unwrap();
    let (code, _, err) =
        folder.run(&["etl", "mix", "out", "--checkpoint", "ck", "--option", "minFileAge=0s"]);
    let told =
        "2.csv' cannot be read: its fields seem to be separated by ',', and those of other files by ';'";
    assert!(code == 1 && err.contains(told), "{err}");
    folder.write("in/1.json", "{\"a\":1}\n");
    let (code, _, err) = folder.run(&["etl", "in", "out", "--checkpoint", "ck", "--from", "csv"]);
    assert!(code == 1 && err.contains("its first line is a JSON object rather than a header"), "{err}");
}

#[test]
fn options_come_from_a_file_and_the_command_line_goes_before_it() {
    let folder = Folder::new();
    folder.write("a.toml", "format = 'csv'\n[set]\nsparkFunctions = true\n");
    let (code, out, err) = folder.run(&["sql", "--config", "a.toml", "-c", "SELECT hex(255) AS digits"]);
    assert_eq!((code, out.as_str()), (0, "digits\nFF\n"), "{err}");
    let given = ["sql", "--config", "a.toml", "--format", "ndjson", "-c", "SELECT hex(255) AS digits"];
    assert_eq!(folder.run(&given).1, "{\"digits\":\"FF\"}\n");
    folder.write("b.toml", "fromat = 'csv'\n");
    let (code, _, err) = folder.run(&["sql", "--config", "b.toml", "-c", "SELECT 1"]);
    assert_eq!(code, 2);
    assert!(err.starts_with("error: b.toml: there is no option 'fromat'; did you mean 'format'?"), "{err}");
}

#[test]
fn packages_get_manual_pages_and_completions_and_the_version_tells_features() {
    let folder = Folder::new();
    let (code, out, _) = folder.run(&["completions", "bash"]);
    assert!(code == 0 && out.contains("complete -F _tidemill"), "{out}");
    let (code, out, _) = folder.run(&["man"]);
    assert!(code == 0 && out.contains(".TH tidemill 1"), "{out}");
    assert_eq!(folder.run(&["man", "pages"]).0, 0);
    assert!(folder.0.path().join("pages/tidemill-run.1").is_file());
    let (code, out, _) = folder.run(&["--version"]);
    assert!(code == 0 && out.starts_with("tidemill 0.1.0 (") && out.contains("avro"), "{out}");
}

/// What happened to files of the last batch is told with the next one, and not by every start that finds nothing to do.
#[test]
fn a_start_that_finds_nothing_to_do_is_quiet() {
    let folder = Folder::new();
    hits(&folder, "1.json", &["12:01"]);
    let etl = || {
        let (code, _, err) =
            folder.run(&["etl", "in", "out", "--checkpoint", "cp", "--to", "json", "--progress", "none"]);
        assert_eq!(code, 0, "{err}");
        err
    };
    etl();
    std::fs::remove_dir_all(folder.0.path().join("out")).unwrap();
    for _ in 0..2 {
        let told = etl();
        assert!(told.contains("nothing new") && !told.contains("WARN"), "{told}");
    }
    hits(&folder, "2.json", &["12:02"]);
    let told = etl();
    assert!(told.contains("are not where they were published"), "{told}");
    assert!(!etl().contains("WARN"));
}

#[test]
fn etl_takes_options_of_the_query() {
    let folder = Folder::new();
    hits(&folder, "1.json", &["12:01"]);
    let etl = |option: &str| {
        folder.run(&["etl", "in", "out", "--checkpoint", "cp", "--to", "json", "--query-option", option])
    };
    let (code, _, err) = etl("flushOnEnd=perhaps");
    assert!(code == 2 && err.contains("flushOnEnd"), "{err}");
    let (code, _, err) = etl("flushOnEnds=true");
    assert!(code == 2 && err.contains("flushOnEnds"), "{err}");
    let (code, _, err) = etl("minBatchesToRetain=3");
    assert_eq!(code, 0, "{err}");
}

/// Excel writes and wants a first line that says what separates the fields.
#[test]
fn csv_files_that_say_how_they_are_separated_are_read_so() {
    let folder = Folder::new();
    folder.write("in/a.csv", "\u{feff}sep=;\r\nid;name\r\n1;a,b\r\n2;c\r\n");
    folder.write("in/b.csv", "id;name\n3;d\n");
    let select = |more: &str, what: &str| {
        let script = format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'in' {more}; {what}");
        let (code, out, err) = folder.run(&["sql", "--format", "csv", "-c", &script]);
        assert_eq!(code, 0, "{err}");
        assert!(!err.contains("WARN"), "{err}");
        out
    };
    let rows = "SELECT id, name FROM t ORDER BY id";
    let expected = "id,name\n1,\"a,b\"\n2,c\n3,d\n";
    assert_eq!(select("", rows), expected);
    assert_eq!(select("OPTIONS ('sep' ';', 'header' 'true')", rows), expected);
    folder.write("in/b.csv", "3;d\n");
    folder.write("in/a.csv", "sep=;\n1;a,b\n2;c\n");
    let rows = "SELECT column_1, column_2 FROM t ORDER BY 1";
    let found = select("OPTIONS ('sep' ';', 'header' 'false')", rows);
    assert_eq!(found, "column_1,column_2\n1,\"a,b\"\n2,c\n3,d\n");
    // Lines are counted as an editor counts them.
    folder.write("in/a.csv", "sep=;\nid;name\nx;y\n");
    std::fs::remove_file(folder.0.path().join("in/b.csv")).unwrap();
    let script = "CREATE EXTERNAL TABLE t (id INT, name VARCHAR) STORED AS CSV LOCATION 'in' OPTIONS ('sep' ';', 'header' 'true'); FROM t";
    let (code, _, err) = folder.run(&["sql", "-c", script]);
    assert!(code != 0 && err.contains("line 3"), "{err}");
}
