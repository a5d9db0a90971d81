//! `tidemill replay --emit-test`: a batch becomes a test, which needs nothing of where it comes from.

use super::Folder;

/// Makes the test of a batch and moves it away from what it was made of; gives its text, and how it ran there.
fn emitted(folder: &Folder, batch: &str) -> (String, String) {
    let (code, _, err) = folder.run(&[
        "replay",
        "cp",
        "--batch",
        batch,
        "--sql",
        "job.sql",
        "--emit-test",
        &format!("made/{batch}"),
    ]);
    assert_eq!(code, 0, "{err}");
    let elsewhere = Folder::new();
    let place = elsewhere.0.path().join("t");
    std::fs::rename(folder.0.path().join(format!("made/{batch}")), &place).unwrap();
    let file = format!("t/q-{batch}.test.sql");
    let text = std::fs::read_to_string(elsewhere.0.path().join(&file)).unwrap();
    let (code, out, err) = elsewhere.run(&["test", &file]);
    assert_eq!(code, 0, "{out}{err}\n{text}");
    (text, out)
}

fn below(text: &str, line: &str) -> Vec<String> {
    let rows = text.lines().skip_while(|found| *found != line).skip(1);
    rows.take_while(|row| !row.starts_with("--- ")).map(str::to_string).collect()
}

#[test]
fn what_a_query_remembered_and_read_becomes_a_test() {
    let folder = Folder::new();
    folder.write(
        "job.sql",
        "--- what hosts do\n\
         CREATE UNBOUNDED EXTERNAL TABLE t (host VARCHAR, v BIGINT, ts TIMESTAMP, \
         WATERMARK FOR ts AS ts - INTERVAL '0 seconds') STORED AS JSON LOCATION 'in' \
         OPTIONS ('maxFilesPerTrigger' '1');\n\
         CREATE EXTERNAL TABLE o STORED AS NOOP;\n\
         CREATE STREAMING QUERY q OUTPUT MODE UPDATE TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'cp' AS \
         INSERT INTO o SELECT host, sum(v) AS v, max(now() > TIMESTAMP '2020-01-01') AS later FROM t GROUP BY host;",
    );
    for (file, host, v) in [(0, "a", 1), (1, "b", 2), (2, "a", 40)] {
        let row = format!("{{\"host\":\"{host}\",\"v\":{v},\"ts\":\"2026-01-01T00:00:0{file}\"}}\n");
        folder.write(&format!("in/{file}.json"), &row);
    }
    let (code, _, err) = folder.run(&["run", "job.sql"]);
    assert_eq!(code, 0, "{err}");

    let (text, out) = emitted(&folder, "2");
    assert!(out.ends_with("as expected (1 of 1)\n"), "{out}");
    assert_eq!(below(&text, "--- input t"), [r#"{"host":"a","v":40,"ts":"2026-01-01T00:00:02"}"#]);
    assert_eq!(below(&text, "--- output q"), [r#"{"host":"a","v":41,"later":true}"#]);
    assert!(text.contains("\n--- checkpoint q checkpoint\n"), "{text}");
    // Nothing was before the first.
    let (text, _) = emitted(&folder, "0");
    assert_eq!(below(&text, "--- output q"), [r#"{"host":"a","v":1,"later":true}"#]);
    assert!(!text.contains("--- checkpoint"), "{text}");

    // It is a test: another job does not meet it.
    let arguments = ["replay", "cp", "--batch", "2", "--sql", "job.sql", "--emit-test", "made/again"];
    let (code, _, err) = folder.run(&arguments);
    assert_eq!(code, 0, "{err}");
    let job = std::fs::read_to_string(folder.0.path().join("made/again/job.sql")).unwrap();
    folder.write(
        "made/again/job.sql",
        &job.replace("SELECT host, sum(v) AS v", "SELECT host, sum(v) + 1 AS v"),
    );
    let (code, out, _) = folder.run(&["test", "made/again/q-2.test.sql"]);
    assert!(code == 1 && out.contains("\"v\":42"), "{out}");

    let (code, _, err) = folder.run(&arguments);
    assert!(code == 2 && err.contains("'made/again' is not empty"), "{err}");
    let (code, _, err) = folder.run(&[&arguments[..], &["--diff"]].concat());
    assert!(code == 2 && err.contains("--diff"), "{err}");
}

/// What the watermark makes final comes with the batch after it, which a test runs as well.
#[test]
fn what_follows_from_a_batch_is_expected_too() {
    let folder = Folder::new();
    folder.write(
        "job.sql",
        "CREATE UNBOUNDED EXTERNAL TABLE t (v BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '0 seconds') \
         STORED AS JSON LOCATION 'in' OPTIONS ('maxFilesPerTrigger' '1');\n\
         CREATE EXTERNAL TABLE o STORED AS NOOP;\n\
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'cp' AS INSERT INTO o \
         SELECT window.start AS start, sum(v) AS v FROM t GROUP BY window(ts, '1 minute');",
    );
    for (file, minute) in [(0, 1), (1, 1), (2, 2)] {
        let row = format!("{{\"v\":{minute},\"ts\":\"2026-01-01T00:0{minute}:00\"}}\n");
        folder.write(&format!("in/{file}.json"), &row);
    }
    assert_eq!(folder.run(&["run", "job.sql"]).0, 0);
    let (text, _) = emitted(&folder, "2");
    assert_eq!(below(&text, "--- output q"), ["start,v", "2026-01-01T00:01:00,2"]);
}

/// Rows that are not written as a test has them, in directories, of two tables.
#[test]
fn rows_of_other_formats_become_json_and_files_stay_what_they_are() {
    let folder = Folder::new();
    folder.write(
        "made.sql",
        "CREATE UNBOUNDED EXTERNAL TABLE raw (id BIGINT, price DECIMAL(10, 2), day VARCHAR) STORED AS JSON LOCATION 'raw';\n\
         CREATE EXTERNAL TABLE p STORED AS PARQUET PARTITIONED BY (day) LOCATION 'p';\n\
         CREATE STREAMING QUERY m TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'cpm' AS INSERT INTO p SELECT * FROM raw;",
    );
    folder.write("raw/0.json", "{\"id\":1,\"price\":1.50,\"day\":\"a b\"}\n{\"id\":2,\"day\":\"c\"}\n");
    assert_eq!(folder.run(&["run", "made.sql"]).0, 0);
    folder.write("c/x=1/0.csv", "id;name\n1;\"a;b\"\n");
    folder.write(
        "job.sql",
        "CREATE UNBOUNDED EXTERNAL TABLE p (id BIGINT, price DECIMAL(10, 2), day VARCHAR) STORED AS PARQUET \
         PARTITIONED BY (day) LOCATION 'p';\n\
         CREATE UNBOUNDED EXTERNAL TABLE c (id BIGINT, name VARCHAR, x INT) STORED AS CSV PARTITIONED BY (x) LOCATION 'c' \
         OPTIONS ('header' 'true', 'sep' ';');\n\
         CREATE EXTERNAL TABLE o STORED AS NOOP;\n\
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'cp' AS INSERT INTO o \
         SELECT id, CAST(price AS VARCHAR) AS what, day FROM p UNION ALL SELECT id, name, CAST(x AS VARCHAR) FROM c;",
    );
    let (code, _, err) = folder.run(&["run", "job.sql"]);
    assert_eq!(code, 0, "{err}");
    let (text, _) = emitted(&folder, "0");
    assert_eq!(below(&text, "--- input p day=a b"), [r#"{"id":1,"price":1.50}"#]);
    assert_eq!(below(&text, "--- input p day=c"), [r#"{"id":2,"price":null}"#]);
    assert_eq!(below(&text, "--- input c x=1"), ["id;name", "1;\"a;b\""]);
    let mut rows = below(&text, "--- output q");
    rows.sort();
    let expected = [
        r#"{"id":1,"what":"1.50","day":"a b"}"#,
        r#"{"id":1,"what":"a;b","day":"1"}"#,
        r#"{"id":2,"what":null,"day":"c"}"#,
    ];
    assert_eq!(rows, expected);
}

#[test]
fn a_batch_that_fails_becomes_a_test_that_expects_it() {
    let folder = Folder::new();
    folder.write(
        "job.sql",
        "CREATE UNBOUNDED EXTERNAL TABLE t (v BIGINT) STORED AS JSON LOCATION 'in' OPTIONS ('maxFilesPerTrigger' '1');\n\
         CREATE EXTERNAL TABLE o STORED AS NOOP;\n\
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'cp' AS INSERT INTO o SELECT 10 / v AS x FROM t;",
    );
    folder.write("in/0.json", "{\"v\":5}\n");
    folder.write("in/1.json", "{\"v\":0}\n");
    assert_eq!(folder.run(&["run", "job.sql"]).0, 1);
    let (text, _) = emitted(&folder, "1");
    assert!(text.lines().last().unwrap().starts_with("--- error q: "), "{text}");
    assert!(text.contains("division by zero"), "{text}");
}
