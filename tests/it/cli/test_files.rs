//! `tidemill test`: jobs tried on rows that stand beside what they should give.

use super::Folder;

const JOB: &str = "CREATE UNBOUNDED EXTERNAL TABLE s (k VARCHAR, v BIGINT, ts TIMESTAMP, \
                   WATERMARK FOR ts AS ts - INTERVAL '0 seconds') STORED AS JSON LOCATION '/nowhere/in' \
                   OPTIONS ('cleanSource' 'delete', 'badRecordsPath' '/nowhere/bad', 'compression' 'gzip');\n\
                   CREATE EXTERNAL TABLE o STORED AS PARQUET LOCATION '/nowhere/out';\n";

fn row(k: &str, v: i64, second: u32) -> String {
    format!("{{\"k\":\"{k}\",\"v\":{v},\"ts\":\"2026-01-01T00:00:{second:02}\"}}\n")
}

fn query(mode: &str, select: &str) -> String {
    format!(
        "CREATE STREAMING QUERY q OUTPUT MODE {mode} CHECKPOINT LOCATION '/nowhere/c' AS INSERT INTO o {select};\n"
    )
}

/// Runs `text` as a test file; gives the exit code and both outputs.
fn test(text: &str) -> (i32, String, String) {
    let folder = Folder::new();
    folder.write("a.test.sql", text);
    folder.run(&["test", "a.test.sql"])
}

#[track_caller]
fn passes(text: &str) {
    let (code, out, err) = test(text);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.starts_with("a.test.sql: as expected ("), "{out}");
}

#[test]
fn windows_are_given_when_they_are_over_and_state_is_kept_between_the_runs() {
    let select = "SELECT window.start AS start, sum(v) AS v FROM s GROUP BY window(ts, '10 seconds')";
    let text = JOB.to_string()
        + &query("APPEND", &format!("SELECT start, v FROM ({select})"))
        + "--- input s\n"
        + &row("a", 1, 1)
        + "--- input s\n"
        + &row("a", 2, 9)
        + "--- output q\n--- input s\n"
        + &row("a", 4, 10)
        + "--- output q\nstart,v\n2026-01-01T00:00:00,3\n\n--- input s\n"
        + &row("a", 9, 3)
        + "--- output q\n-- It is too late.\n";
    passes(&text);
}

/// A query may be called as the table that it writes to, and as others.
#[test]
fn names_of_queries_and_tables_do_not_meet() {
    let head = JOB.replace("EXTERNAL TABLE o ", "EXTERNAL TABLE q ")
        + "CREATE STREAMING QUERY q AS INSERT INTO q SELECT k FROM s;\n";
    let steps = |k: &str| format!("--- input s\n{}--- output q\nk\n{k}\n", row(k, 1, 1));
    passes(&(head + &steps("a") + &steps("b")));
    let head = JOB.to_string() + "CREATE STREAMING QUERY s AS INSERT INTO o SELECT k FROM s;\n";
    let steps = |k: &str| format!("--- input s\n{}--- output s\nk\n{k}\n", row(k, 1, 1));
    passes(&(head + &steps("a") + &steps("b")));
}

#[test]
fn update_gives_what_changed_and_complete_everything() {
    let counts = "SELECT k, count(*) AS n FROM s GROUP BY k";
    let inputs = |last: &str| {
        format!(
            "--- input s\n{}{}--- output q\nk,n\nb,1\na,1\n--- input s\n{}--- output q\n{last}",
            row("a", 1, 1),
            row("b", 1, 1),
            row("a", 1, 1)
        )
    };
    passes(&(JOB.to_string() + &query("UPDATE", counts) + &inputs("k,n\na,2\n--- output q\nk,n\na,2\n")));
    // Moving the clock is a reason to look again; there is nothing new, and the whole result stays.
    let again = "k,n\na,2\nb,1\n--- time 2030-01-01\n--- output q\nk,n\na,2\nb,1\n";
    passes(&(JOB.to_string() + &query("COMPLETE", counts) + &inputs(again)));
}

#[test]
fn the_clock_shows_what_the_file_says() {
    let text = JOB.to_string()
        + &query("APPEND", "SELECT k, CAST(now() AS VARCHAR) AS at FROM s")
        + "--- input s\n"
        + &row("a", 1, 1)
        + "--- output q\nk,at\na,2000-01-01T00:00:00\n--- time '2026-11-29 10:00:00'\n--- input s\n"
        + &row("b", 1, 1)
        + "--- output q\nk,at\nb,2026-11-29T10:00:00\n";
    passes(&text);
}

#[test]
fn rows_of_other_formats_are_json_and_bounded_tables_and_directories_can_be_given() {
    let text = "CREATE UNBOUNDED EXTERNAL TABLE lines (value VARCHAR) STORED AS SOCKET OPTIONS ('host' 'h', 'port' '1');\n\
                CREATE UNBOUNDED EXTERNAL TABLE p (v BIGINT, day VARCHAR) STORED AS PARQUET PARTITIONED BY (day) \
                LOCATION '/nowhere/p';\n\
                CREATE EXTERNAL TABLE names (k VARCHAR, name VARCHAR) STORED AS CSV LOCATION '/nowhere/names' \
                OPTIONS ('format.has_header' 'true');\n\
                CREATE EXTERNAL TABLE a STORED AS CONSOLE;\nCREATE EXTERNAL TABLE b STORED AS JSON LOCATION '/nowhere/b';\n\
                CREATE STREAMING QUERY first AS INSERT INTO a SELECT name FROM lines JOIN names ON k = value;\n\
                CREATE STREAMING QUERY second AS INSERT INTO b SELECT v, day FROM p;\n\
                --- input names\nk,name\nx,Xaver\n--- input lines\n{\"value\":\"x\"}\n{\"value\":\"y\"}\n\
                --- input p day=1\n{\"v\":7}\n--- output first\nname\nXaver\n--- output second\n{\"day\": \"1\", \"v\": 7}\n";
    passes(text);
}

#[test]
fn what_is_not_as_expected_is_shown_and_can_be_taken_over() {
    let folder = Folder::new();
    let head = JOB.to_string() + &query("APPEND", "SELECT k, v FROM s") + "--- input s\n" + &row("a", 1, 1);
    folder.write("a.test.sql", &format!("{head}--- output q\n-- One row.\nk,v\nb,1\n\n--- error q: x\n"));
    let (code, out, err) = folder.run(&["test", "a.test.sql"]);
    assert_eq!((code, err.as_str()), (1, ""));
    let line = head.lines().count() + 1;
    let shown = format!(
        "a.test.sql:{line}: q gave other rows (- expected, + given)\n    k,v\n  - b,1\n  + a,1\n\
         a.test.sql:{}: q was expected to fail, and did not\n\
         a.test.sql: FAILED (2 of 2 are not as expected)\n",
        line + 5
    );
    assert_eq!(out, shown);

    folder.write("a.test.sql", &format!("{head}--- output q\n-- One row.\nk,v\nb,1\n\n"));
    let (code, out, _) = folder.run(&["test", "--update", "a.test.sql"]);
    assert_eq!((code, out.as_str()), (0, "a.test.sql: updated (1 of 1 changed)\n"));
    let text = std::fs::read_to_string(folder.0.path().join("a.test.sql")).unwrap();
    assert_eq!(text, format!("{head}--- output q\n-- One row.\nk,v\na,1\n\n"));
    assert_eq!(folder.run(&["test", "a.test.sql"]).0, 0);
}

#[test]
fn failures_can_be_expected() {
    let failing = JOB.to_string()
        + &query("APPEND", "SELECT CAST(k AS BIGINT) AS k FROM s")
        + "--- input s\n"
        + &row("a", 1, 1)
        + "--- error q: 'a'\n";
    passes(&failing);
    let refused = JOB.to_string() + &query("APPEND", "SELECT count(*) FROM s") + "--- error q: append\n";
    passes(&refused);
    let (code, out, _) = test(&failing.replace("--- error q: 'a'", "--- output q"));
    assert!(code == 1 && out.contains("q failed: "), "{out}");
}

#[test]
fn mistakes_in_the_file_are_told_with_their_place() {
    let query = query("APPEND", "SELECT k FROM s");
    for (text, said) in [
        (format!("{JOB}{query}--- input t\n--- output q\n"), "there is no external table 't'; there are: s"),
        (format!("{JOB}{query}--- output p\n"), "there is no streaming query 'p'; there are: q"),
        (format!("{JOB}{query}--- outputs p\n"), "a.test.sql:4: '--- outputs p' is not known"),
        (format!("{JOB}{query}"), "nothing is expected"),
        (format!("--- job gone.sql\n{JOB}{query}--- output q\n"), "a.test.sql:1: cannot read 'gone.sql'"),
        (
            format!("{JOB}INSERT INTO o VALUES (1);\n{query}--- output q\n"),
            "does not run statements that write",
        ),
        (format!("{JOB}SELEC 1;\n{query}--- output q\n"), "a.test.sql:3:1"),
    ] {
        let (code, out, err) = test(&text);
        assert!(code == 2 && err.contains(said), "{code} {out}{err}");
    }
}
