//! The `tidemill` command as users run it: the real binary, in folders of its own.

mod bad_records;
mod compact;
mod emitted_tests;
mod http;
mod new_columns;
mod pg;
mod places;
mod shell;
mod state;
mod test_files;
mod told;
#[cfg(feature = "opentelemetry")]
mod traces;
mod word_count;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A folder to run the command in.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With the quickstart of the repository.
    fn with_quickstart() -> Self {
        let folder = Self::new();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let script = std::fs::read_to_string(repository.join("sql/quickstart.sql")).unwrap();
        folder.write("sql/quickstart.sql", &script);
        for day in std::fs::read_dir(repository.join("examples/data/retail")).unwrap() {
            let day = day.unwrap();
            let text = std::fs::read_to_string(day.path()).unwrap();
            folder.write(&format!("examples/data/retail/{}", day.file_name().to_str().unwrap()), &text);
        }
        folder
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        crate::support::harness::put(&path, text);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(arguments).current_dir(self.0.path()).env_remove("TIDEMILL_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the command and gives its exit code, standard output and standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        ended(self.command(arguments).output().unwrap())
    }

    /// What a query over the files that the quickstart wrote gives, as one value.
    fn sales(&self, query: &str) -> String {
        let table = "CREATE EXTERNAL TABLE sales STORED AS PARQUET LOCATION 'out/quickstart/sales'";
        let (code, out, err) = self.run(&["sql", "-c", &format!("{table}; {query}")]);
        assert_eq!(code, 0, "{err}");
        out.lines().nth(3).unwrap().trim_matches(['|', ' ']).to_string()
    }
}

fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(!err.contains("panicked"), "{err}");
    (output.status.code().unwrap_or(-1), out, err)
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Waits for the end, but not for ever.
fn wait(mut child: Child) -> (i32, String, String) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the command did not end: {:?}", child.wait_with_output().unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    ended(child.wait_with_output().unwrap())
}

const FEED: &str = "CREATE UNBOUNDED EXTERNAL TABLE feed (id BIGINT, name VARCHAR) STORED AS JSON LOCATION 'in' \
                    OPTIONS ('maxFilesPerTrigger' '1');\n";

/// A script with one query from the JSON files in `in` to `out`.
fn copy_script(trigger: &str) -> String {
    format!(
        "{FEED}CREATE EXTERNAL TABLE sink STORED AS JSON LOCATION 'out';\n\
         CREATE STREAMING QUERY copy {trigger} CHECKPOINT LOCATION 'checkpoint' AS INSERT INTO sink SELECT * FROM feed;\n"
    )
}

#[test]
fn the_quickstart_runs_once_for_each_day() {
    let folder = Folder::with_quickstart();
    let run = || folder.run(&["run", "sql/quickstart.sql"]);
    let (code, out, err) = run();
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    let summary = err.lines().last().unwrap();
    assert!(summary.starts_with("quickstart: 7 batches, 8,052 rows in, 8,029 rows out, 7 files, "), "{err}");
    assert!(summary.ends_with("in out/quickstart/sales/"), "{err}");
    assert_eq!(err.lines().count(), 8, "one line per batch and the summary: {err}");
    assert_eq!(folder.sales("SELECT count(*) FROM sales"), "8029");
    assert_eq!(folder.sales("SELECT sum(line_total) FROM sales WHERE cancelled"), "-37892.630");

    let (code, _, err) = run();
    assert_eq!((code, err.as_str()), (0, "quickstart: nothing new, out/quickstart/sales/ is up to date\n"));
    assert_eq!(folder.sales("SELECT count(*) FROM sales"), "8029");

    folder.write(
        "examples/data/retail/2011-01-06.csv",
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n\
         999999,22776,\"CAKESTAND, 3 TIER\",2,2011-01-06 09:11:00,9.95,,France\n",
    );
    let (code, _, err) = run();
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("quickstart: 1 batch, 1 row in, 1 row out, 1 file, "), "{err}");
    assert_eq!(folder.sales("SELECT description FROM sales WHERE invoice = '999999'"), "CAKESTAND, 3 TIER");
    let (code, out, _) = folder.run(&["check", "checkpoint/quickstart"]);
    assert_eq!(code, 0);
    assert!(out.ends_with("8 committed batches: no problem found\n"), "{out}");
}

#[test]
fn errors_say_where_and_set_the_exit_code() {
    let folder = Folder::new();
    folder.write("bad.sql", "SELECT 1;\n  SELECT 2 FORM t;\n");
    assert_eq!(
        folder.run(&["run", "bad.sql"]),
        (
            2,
            String::new(),
            "error: bad.sql:2:17: expected the end of the statement, found 't'\n      SELECT 2 FORM t;\n                    ^\n"
                .into(),
        )
    );
    // An invisible mark at the start is no error.
    folder.write("marked.sql", "\u{feff}SELECT 1;");
    assert_eq!(folder.run(&["run", "marked.sql"]).0, 0);
    // What goes wrong while running is not bad SQL.
    assert_eq!(folder.run(&["sql", "-c", "SELECT 1 / (column1 - 1) FROM (VALUES (1))"]).0, 1);
    folder.write("unplanned.sql", "SELECT 1 AS one;\nSELECT a,\n       nope FROM (VALUES (1)) t(a);\n");
    let (code, out, err) = folder.run(&["run", "unplanned.sql"]);
    assert_eq!(code, 2);
    assert!(out.contains("| one |"), "the first statement has run: {out}");
    assert!(err.starts_with("error: unplanned.sql:3:8: No field named nope."), "{err}");
    assert!(err.ends_with("\n           nope FROM (VALUES (1)) t(a);\n           ^\n"), "{err}");

    folder.write("option.sql", "CREATE UNBOUNDED EXTERNAL TABLE t (a INT)\nSTORED AS JSON LOCATION 'in' OPTIONS ('maxFilesPerTriger' '1')");
    let (code, _, err) = folder.run(&["run", "option.sql"]);
    assert_eq!(code, 2);
    assert!(err.contains("option.sql:1:1: unknown option 'maxFilesPerTriger'"), "{err}");
    assert!(err.contains("did you mean 'maxFilesPerTrigger'?"), "{err}");

    for (arguments, message) in [
        (vec!["run", "missing.sql"], "error: cannot read 'missing.sql'"),
        (vec!["run"], "Usage: tidemill run"),
        (vec!["run", "bad.sql", "--trigger", "avialable-now"], "did you mean 'available-now'?"),
        (vec!["run", "bad.sql", "--set", "x"], "expected key=value"),
        (
            vec!["run", "bad.sql", "--set", "datafusion.execution.batchsize=1"],
            "error: unknown option 'datafusion.execution.batchsize' for --set; did you mean 'datafusion.execution.batch_size'?",
        ),
        (
            vec!["run", "bad.sql", "--set", "datafusion.execution.batch_size=many"],
            "error: option 'datafusion.execution.batch_size' = 'many' is not valid",
        ),
        (vec!["sql", "-c", "SELECT * FROM missing"], "error: -c:1:15: table 'missing' not found"),
        (vec!["sail"], "unrecognized subcommand 'sail'"),
    ] {
        let (code, _, err) = folder.run(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {err}");
        assert!(err.contains(message), "{arguments:?}: {err}");
    }
}

#[test]
fn a_query_that_fails_is_exit_code_1_and_ends_those_that_would_not() {
    let folder = Folder::new();
    folder.write("in/a.json", "{\"id\":1,\"name\":\"a\"}\n{\"id\":\"x\"}\n");
    folder.write("other/a.json", "{\"id\":1}\n");
    folder.write(
        "job.sql",
        &format!(
            "{FEED}CREATE UNBOUNDED EXTERNAL TABLE other (id BIGINT) STORED AS JSON LOCATION 'other';
             CREATE EXTERNAL TABLE sink STORED AS NOOP;
             CREATE STREAMING QUERY endless AS INSERT INTO sink SELECT * FROM other;
             CREATE STREAMING QUERY broken AS INSERT INTO sink SELECT * FROM feed;"
        ),
    );
    let (code, _, err) = wait(folder.command(&["run", "job.sql"]).spawn().unwrap());
    assert_eq!(code, 1, "{err}");
    let errors: Vec<&str> = err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{err}");
    assert!(errors[0].contains("streaming query 'broken'") && errors[0].contains("in batch 0"), "{err}");
    assert!(errors[0].contains("in/a.json' at line 2, column 'id'"), "{err}");
    assert!(err.contains("\nbroken: failed, nothing was written to sink"), "{err}");
    assert!(err.contains("\nendless: ") && !err.contains("endless: failed"), "{err}");
}

#[test]
fn progress_as_json_is_one_object_per_line() {
    let folder = Folder::with_quickstart();
    let (code, _, err) = folder.run(&["run", "sql/quickstart.sql", "--progress", "json"]);
    assert_eq!(code, 0, "{err}");
    let progress: Vec<Value> = err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let batches: Vec<u64> = progress.iter().map(|line| line["batchId"].as_u64().unwrap()).collect();
    assert_eq!(batches, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(progress.iter().map(|line| line["numInputRows"].as_u64().unwrap()).sum::<u64>(), 8052);
    assert!(progress.iter().all(|line| line["name"] == "quickstart"));

    let (code, out, err) = folder.run(&["run", "sql/quickstart.sql", "--progress", "none"]);
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert_eq!(err.lines().count(), 1, "only the summary: {err}");
}

#[test]
fn sigterm_finishes_the_batch_and_leaves() {
    let folder = Folder::new();
    for file in 0..3 {
        folder.write(&format!("in/{file}.json"), &format!("{{\"id\":{file},\"name\":\"n\"}}\n"));
    }
    folder.write("job.sql", &copy_script(""));
    for name in ["-TERM", "-INT"] {
        let mut child = folder.command(&["run", "job.sql", "--progress", "json"]).spawn().unwrap();
        let mut progress = BufReader::new(child.stderr.take().unwrap());
        if name == "-TERM" {
            let mut line = String::new();
            progress.read_line(&mut line).unwrap();
            assert!(line.contains("\"batchId\":0"), "{line}");
        } else {
            // Up to date already: the signal comes while it waits.
            std::thread::sleep(Duration::from_millis(500));
        }
        signal(&child, name);
        let (code, _, _) = wait(child);
        assert_eq!(code, 0, "{name}");
    }
    let (code, _, err) = folder.run(&["run", "job.sql", "--trigger", "available-now"]);
    assert_eq!(code, 0, "the trigger of the script is overridden: {err}");
    let (_, out, _) = folder.run(&[
        "sql",
        "-c",
        "CREATE EXTERNAL TABLE o STORED AS JSON LOCATION 'out'; SELECT count(*), count(DISTINCT id) FROM o",
    ]);
    assert_eq!(out.lines().nth(3).unwrap().split_whitespace().collect::<String>(), "|3|3|", "{out}");
    let (code, out, _) = folder.run(&["check", "checkpoint"]);
    assert_eq!(code, 0, "{out}");
}

#[test]
fn statements_come_from_the_command_line_or_a_pipe() {
    let folder = Folder::new();
    let statements = "CREATE TABLE t AS VALUES (1, 'é'), (2, NULL); SELECT * FROM t ORDER BY column1; SELECT 1 WHERE false";
    let expected = "\
+---------+---------+
| column1 | column2 |
+---------+---------+
| 1       | é       |
| 2       | NULL    |
+---------+---------+
+---+
| 1 |
+---+
+---+
";
    assert_eq!(folder.run(&["sql", "-c", statements]), (0, expected.into(), String::new()));
    for arguments in [["sql"].as_slice(), &["run", "-"]] {
        let mut child = folder.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(statements.as_bytes()).unwrap();
        assert_eq!(wait(child), (0, expected.into(), String::new()));
    }
    let mut child = folder.command(&["sql"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\xef\xbb\xbfSELECT 1;\n SELCT 2").unwrap();
    let (code, _, err) = wait(child);
    assert_eq!(code, 2);
    assert!(
        err.starts_with(
            "error: standard input:2:2: expected an SQL statement, found 'SELCT'; did you mean SELECT?"
        ),
        "{err}"
    );

    // Streaming queries are waited for.
    folder.write("in/a.json", "{\"id\":1,\"name\":\"a\"}\n");
    let (code, _, err) = folder.run(&["sql", "-c", &copy_script("TRIGGER AVAILABLE NOW")]);
    assert_eq!(code, 0);
    assert!(err.contains("copy: 1 batch, 1 row in, 1 row out, 1 file, "), "{err}");
    let (code, out, _) =
        folder.run(&["sql", "-c", &format!("{FEED} EXPLAIN STREAMING QUERY AS INSERT INTO s SELECT 1")]);
    assert_eq!((code, out.as_str()), (2, ""));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = Folder::new();
    for n in 0..20 {
        folder.write(
            &format!("in/{n}.json"),
            &"{\"id\":1,\"name\":\"some text to fill the pipe with\"}\n".repeat(2000),
        );
    }
    let console = format!(
        "{FEED}CREATE EXTERNAL TABLE c STORED AS CONSOLE OPTIONS ('format' 'json');
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW AS INSERT INTO c SELECT * FROM feed;"
    );
    for statements in ["SELECT * FROM generate_series(1, 1000000)", &console] {
        let mut child = folder.command(&["sql", "--progress", "none", "-c", statements]).spawn().unwrap();
        let mut first = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let (code, _, err) = wait(child);
        assert_eq!(code, 0, "{err}");
        assert!(!err.contains("error"), "{err}");
    }
}

#[test]
fn etl_needs_no_script() {
    let folder = Folder::new();
    folder.write("in/day=1/a.json", "{\"id\":1,\"name\":\"a\"}\n{\"id\":2,\"name\":\"b\"}\n");
    let etl = |more: &[&str]| {
        let arguments: Vec<&str> =
            ["etl", "in", "out", "--checkpoint", "checkpoint"].iter().chain(more).copied().collect();
        folder.run(&arguments)
    };
    let query = [
        "--query",
        "SELECT id * 10 AS id, day FROM input WHERE name <> 'a'",
        "--to",
        "csv",
        "--sink-option",
        "header=true",
    ];
    let (code, _, err) = etl(&query);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("etl: 1 batch, 2 rows in, 1 row out, 1 file, "), "{err}");
    let (code, _, err) = etl(&query);
    assert_eq!((code, err.as_str()), (0, "etl: nothing new, out is up to date\n"));
    // A new file with a new column: what was inferred at first stays.
    folder.write("in/day=2/b.json", "{\"id\":3,\"name\":\"c\",\"new\":true}\n");
    let (code, _, err) = etl(&query);
    assert_eq!(code, 0, "{err}");
    let mut written: Vec<String> = std::fs::read_dir(folder.0.path().join("out"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    written.sort();
    assert_eq!(written, ["id,day\n20,1\n", "id,day\n30,2\n"]);

    let (code, _, err) = etl(&["--to", "csv"]);
    assert_eq!(code, 2, "another query on the same checkpoint: {err}");
    for (arguments, message) in [
        (vec!["--schema", "id BIGNT"], "error: --schema:1:"),
        (vec!["--query", "SELECT nam FROM input"], "error: --query:1:8: No field named nam."),
        (vec!["--query", "DROP TABLE input"], "error: --query:1:1: expected one query such as SELECT …"),
        (vec!["--from", "jsn"], "did you mean 'json'?"),
        (vec!["--option", "maxFiles=1"], "unknown option 'maxFiles'"),
    ] {
        let (code, _, err) = etl(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {err}");
        assert!(err.contains(message), "{arguments:?}: {err}");
    }
    let (code, _, err) = folder.run(&["etl", "nowhere", "out", "--checkpoint", "c"]);
    assert_eq!(code, 2);
    assert!(err.starts_with("error: there is no directory or file 'nowhere'"), "{err}");
    // With columns given, and a start before there is anything to read.
    std::fs::create_dir(folder.0.path().join("empty")).unwrap();
    let given = [
        "etl",
        "empty",
        "typed",
        "--checkpoint",
        "c",
        "--from",
        "csv",
        "--schema",
        "a BIGINT, \"B\" VARCHAR",
        "--partition-by",
        "a",
    ];
    let (code, out, err) = folder.run(&given);
    assert!(code == 0 && out.is_empty(), "{out}{err}");
    assert!(err.contains("there is no file in 'file:///"), "{err}");
    assert!(err.ends_with("etl: nothing new, typed is up to date\n"), "{err}");
    folder.write("empty/x.csv", "a,B\n7,x\n");
    assert_eq!(folder.run(&given).0, 0);
    assert!(folder.0.path().join("typed/a=7").is_dir());
}

#[test]
fn columns_that_were_inferred_stay_when_their_files_are_gone() {
    let folder = Folder::new();
    folder.write("in/a.json", "{\"id\":1,\"name\":\"a\"}\n");
    folder.write(
        "job.sql",
        "CREATE UNBOUNDED EXTERNAL TABLE feed STORED AS JSON LOCATION 'in';
         CREATE EXTERNAL TABLE sink STORED AS JSON LOCATION 'out' OPTIONS ('ignoreNullFields' 'false');
         CREATE STREAMING QUERY q TRIGGER ONCE CHECKPOINT LOCATION 'checkpoint'
             AS INSERT INTO sink SELECT f.*, upper(f.name) AS upper FROM feed AS f;",
    );
    let run = || folder.run(&["run", "job.sql", "--progress", "none"]);
    assert_eq!(run().0, 0);
    std::fs::remove_file(folder.0.path().join("in/a.json")).unwrap();
    // What can be inferred now has a column more and one less, without which the query has no plan.
    folder.write("in/b.json", "{\"id\":2,\"new\":true}\n");
    let (code, _, err) = run();
    assert_eq!(code, 0, "{err}");
    let (_, out, _) = folder.run(&[
        "sql",
        "-c",
        "CREATE EXTERNAL TABLE o STORED AS JSON LOCATION 'out'; SELECT id, name, upper FROM o ORDER BY id; DESCRIBE o",
    ]);
    assert!(out.contains("| 1  | a    | A     |\n| 2  | NULL | NULL  |"), "{out}");
    assert!(!out.contains("new"), "{out}");
}

#[test]
fn a_format_that_was_told_by_files_stays_when_they_are_gone() {
    let folder = Folder::new();
    folder.write("in/a.json", "{\"id\":1}\n");
    let run = || {
        let clean = ["--option", "cleanSource=delete", "--option", "minFileAge=0s"];
        folder.run(&[&["etl", "in", "out", "--checkpoint", "checkpoint"], &clean[..]].concat())
    };
    assert_eq!(run().0, 0);
    let (code, _, err) = run();
    assert!(code == 0 && err.contains("nothing new"), "{err}");
    let (code, _, err) = folder.run(&["etl", "in", "out", "--checkpoint", "other"]);
    assert!(code == 2 && err.contains("its format cannot be told"), "{err}");
}

/// What the directories were at the first start: they may say something else when files were cleaned up.
#[test]
fn columns_of_directories_stay_when_the_directories_are_gone() {
    for (schema, clean) in [("", "delete"), ("id BIGINT", "delete"), ("id BIGINT, p VARCHAR", "off")] {
        let folder = Folder::new();
        let run = || {
            let clean = format!("cleanSource={clean}");
            let mut args =
                vec!["etl", "in", "out", "--from", "json", "--checkpoint", "checkpoint", "--option", &clean];
            if !schema.is_empty() {
                args.extend(["--schema", schema]);
            }
            let (code, _, err) = folder.run(&[&args[..], &["--option", "minFileAge=0s"]].concat());
            assert_eq!(code, 0, "'{schema}': {err}");
        };
        folder.write("in/p=1/a.json", "{\"id\":1}\n");
        folder.write("in/p=x/a.json", "{\"id\":2}\n");
        run();
        for directory in ["p=1", "p=x"] {
            std::fs::remove_dir_all(folder.0.path().join("in").join(directory)).unwrap();
        }
        run();
        for (id, directory) in [(3, "p=1"), (4, "p=x"), (5, "p=2024-01-01")] {
            folder.write(&format!("in/{directory}/{id}.json"), &format!("{{\"id\":{id}}}\n"));
            run();
        }
        let (_, out, _) =
            folder.run(&["sql", "--format", "csv", "-c", "SELECT id, p FROM 'out/' ORDER BY id"]);
        assert_eq!(out, "id,p\n1,1\n2,x\n3,1\n4,x\n5,2024-01-01\n", "'{schema}'");
    }
}

#[test]
fn the_first_example_of_the_documentation_runs() {
    let folder = Folder::new();
    let document =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sql.md")).unwrap();
    let script = document.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    folder.write("hello.sql", script);
    let mut child = folder.command(&["run", "hello.sql", "--progress", "none"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let row = lines.find(|line| line.as_ref().unwrap().contains("| 0 ")).unwrap().unwrap();
    assert_eq!(row.split_whitespace().collect::<String>(), "|0|true|");
    signal(&child, "-TERM");
    // Reads on, so that the last batch can be printed.
    assert!(lines.all(|line| line.is_ok()));
    assert_eq!(wait(child).0, 0);
}

#[test]
fn a_batch_whose_file_was_mended_is_planned_anew_by_itself() {
    let folder = Folder::new();
    folder.write("in/a.json", "{\"id\":1}\n{\"id\":\n");
    folder.write("in/b.json", "{\"id\":7}\n");
    let run =
        || folder.run(&["etl", "in", "out", "--checkpoint", "cp", "--to", "json", "--progress", "none"]);
    let options = ["etl", "in", "out", "--checkpoint", "cp", "--to", "json", "--schema", "id BIGINT"];
    let (code, _, err) = folder.run(&options);
    assert!(code == 1 && err.contains("a.json' at line 2"), "{err}");
    folder.write("in/a.json", "{\"id\":1}\n{\"id\":2}\n");
    let (code, _, err) = folder.run(&options);
    assert!(code == 0 && err.contains("it changed since it was listed"), "{err}");
    assert!(err.contains("Nothing of the batch has been shown, so it is planned anew"), "{err}");
    assert!(!err.contains("what they hold now is not read"), "it is read: {err}");
    let (code, _, err) = run();
    assert_eq!(code, 0, "{err}");
    let (_, out, err) = folder.run(&["sql", "-c", "SELECT sum(id) AS s, count(*) AS n FROM 'out/'"]);
    assert!(out.contains("| 10 | 3 |"), "{out}{err}");
}

#[test]
fn a_batch_that_cannot_be_run_is_let_go_by_the_command_that_the_error_names() {
    let folder = Folder::new();
    folder.write("in/a.json", "{\"id\":1}\n{\"id\":\n");
    folder.write(
        "job.sql",
        "CREATE UNBOUNDED EXTERNAL TABLE s (id BIGINT) STORED AS JSON LOCATION 'in/';
         CREATE EXTERNAL TABLE o STORED AS JSON LOCATION 'out/';
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'cp/' AS INSERT INTO o SELECT id FROM s;",
    );
    let run = || folder.run(&["run", "job.sql", "--progress", "none"]);
    let command = |arguments: &[&str]| folder.run(&[&["checkpoint"], arguments].concat());
    assert_eq!(command(&["replan", "cp"]).0, 2, "there is no checkpoint yet");
    let (code, _, err) = run();
    assert!(
        code == 1 && err.contains("a.json' at line 2") && err.contains("tidemill checkpoint replan '"),
        "{err}"
    );
    let (code, out, _) = command(&["list", "cp"]);
    assert_eq!(code, 0);
    assert!(
        out.contains("0  planned    planned at 20") && out.contains("1 file or entry of source 0 (json)"),
        "{out}"
    );
    let (code, out, err) = command(&["list", "cp", "--format", "csv"]);
    assert_eq!(code, 0, "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "batch,status,planned_at,watermark,entries");
    assert!(lines[1].starts_with("0,planned,20") && lines[1].ends_with("Z,,1"), "{out}");
    for _ in 0..2 {
        let (code, out, _) = command(&["replan", "cp", "--dry-run"]);
        assert!(code == 0 && out.starts_with("would let batch 0 go: planned at 20"), "{out}");
    }
    let (code, out, _) = command(&["replan", "cp"]);
    assert!(code == 0 && out.starts_with("let batch 0 go: "), "{out}");
    let (code, out, _) = command(&["replan", "cp"]);
    assert!(code == 0 && out.contains("there is nothing to plan anew"), "{out}");
    folder.write("in/a.json", "{\"id\":1}\n{\"id\":2}\n");
    assert_eq!(run().0, 0);
    let (_, out, _) = command(&["list", "cp"]);
    let states: Vec<_> = out.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(states, ["let", "committed"], "{out}");
    let (_, out, _) = folder.run(&[
        "sql",
        "-c",
        "CREATE EXTERNAL TABLE o STORED AS JSON LOCATION 'out'; SELECT sum(id) FROM o",
    ]);
    assert!(out.contains("| 3 "), "{out}");
    assert_eq!(folder.run(&["check", "cp"]).0, 0);
}

#[test]
fn a_checkpoint_can_be_gone_back_in_and_copied() {
    let folder = Folder::new();
    folder.write("job.sql", &copy_script("TRIGGER AVAILABLE NOW"));
    for file in ["a", "b", "c"] {
        folder.write(&format!("in/{file}.json"), &format!("{{\"id\":1,\"name\":\"{file}\"}}\n"));
        assert_eq!(folder.run(&["run", "job.sql"]).0, 0);
    }
    let names = || {
        let table = "CREATE EXTERNAL TABLE o STORED AS JSON LOCATION 'out'";
        let query = "SELECT string_agg(name, ' ' ORDER BY name) FROM o";
        let (_, out, _) = folder.run(&["sql", "--format", "csv", "-c", &format!("{table}; {query}")]);
        out.lines().nth(1).unwrap_or_default().to_string()
    };
    assert_eq!(names(), "a b c");
    let command = |arguments: &[&str]| folder.run(&[&["checkpoint"], arguments].concat());
    let (code, out, err) = command(&["copy", "checkpoint", "copy", "--dry-run"]);
    assert!(
        code == 0 && out.starts_with("would copy ") && out.contains("batch 2 is the last one"),
        "{out}{err}"
    );
    let (code, out, err) = command(&["copy", "checkpoint", "copy"]);
    assert!(code == 0 && out.starts_with("copied "), "{out}{err}");
    assert_eq!(folder.run(&["check", "copy"]).0, 0);
    let (code, _, err) = command(&["copy", "checkpoint", "copy"]);
    assert!(code == 1 || code == 2, "{err}");
    assert!(err.contains("there is a checkpoint in"), "{err}");

    let (code, out, err) = command(&["rewind", "checkpoint", "--to", "0", "--dry-run"]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.starts_with(
            "would go back to batch 0: the batches 1 to 2 would be done again. The sink (json in file:///"
        ),
        "{out}"
    );
    assert!(out.contains("has 2 rows of that already, in 2 files"), "{out}");
    // What was cleaned up cannot be read again.
    let (input, aside) = (folder.0.path().join("in/c.json"), folder.0.path().join("c.json"));
    std::fs::rename(&input, &aside).unwrap();
    let (code, _, err) = command(&["rewind", "checkpoint", "--to", "0", "--remove-output"]);
    assert!(
        code == 1 && err.contains("1 input file that later batches have read is not there any more"),
        "{err}"
    );
    assert!(err.contains("'c.json' of batch 2 in file:///"), "{err}");
    assert_eq!(names(), "a b c");
    std::fs::rename(&aside, &input).unwrap();
    let (code, out, err) = command(&["rewind", "checkpoint", "--to", "0", "--remove-output"]);
    assert!(code == 0 && out.starts_with("went back to batch 0: the next start does"), "{out}{err}");
    assert!(out.ends_with("These files were removed\n"), "{out}");
    assert_eq!(names(), "a");
    assert_eq!(folder.run(&["run", "job.sql"]).0, 0);
    assert_eq!(names(), "a b c");
    let (_, out, _) = command(&["rewind", "checkpoint", "--to", "2"]);
    assert!(out.starts_with("batch 2 is the last one"), "{out}");
    let (code, _, err) = command(&["rewind", "checkpoint", "--to", "7"]);
    assert!(code != 0 && err.contains("batch 7 is not among the batches that are done"), "{err}");
    assert_eq!(folder.run(&["check", "checkpoint"]).0, 0);
}

#[test]
fn check_finds_damage() {
    let folder = Folder::new();
    folder.write("in/a.json", "{\"id\":1,\"name\":\"a\"}\n");
    folder.write("job.sql", &copy_script("TRIGGER ONCE"));
    assert_eq!(folder.run(&["run", "job.sql"]).0, 0);
    let (code, out, _) = folder.run(&["check", "checkpoint"]);
    assert_eq!((code, out.contains("no problem found")), (0, true), "{out}");
    folder.write("checkpoint/commits/0", "rubbish");
    let (code, out, _) = folder.run(&["check", "checkpoint"]);
    assert_eq!(code, 1);
    assert!(out.contains("1 problem found\n  commits/0: "), "{out}");
    let (code, out, _) = folder.run(&["check", "nowhere"]);
    assert_eq!((code, out.as_str()), (1, "nowhere: there is no checkpoint here\n"));
    let (code, _, err) = folder.run(&["run", "job.sql"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("checkpoint file 'commits/0' is damaged"), "{err}");
}

#[test]
fn settings_reach_datafusion_and_the_queries() {
    let folder = Folder::new();
    folder.write("in/a.json", "{\"id\":1,\"name\":\"a\"}\n");
    let shown = "SHOW datafusion.execution.batch_size";
    let (code, out, _) = folder.run(&["sql", "--set", "datafusion.execution.batch_size=123", "-c", shown]);
    assert_eq!((code, out.contains("| 123 ")), (0, true), "{out}");
    folder.write("job.sql", &copy_script("TRIGGER ONCE"));
    let (code, _, err) = folder.run(&["run", "job.sql", "--set", "durability=prcess"]);
    assert_eq!(code, 2);
    assert!(err.contains("option 'durability' = 'prcess' is not valid"), "{err}");
    assert_eq!(folder.run(&["run", "job.sql", "--set", "Durability=process"]).0, 0);
}
