//! What users are told of columns that files bring, and what becomes of these.

use super::Folder;

/// Runs `etl` from `in` to JSON files in `out`, with these options of the source.
fn etl(folder: &Folder, options: &[&str]) -> (i32, String, String) {
    let mut arguments = vec!["etl", "in", "out", "--checkpoint", "ck", "--to", "json", "--progress", "none"];
    arguments.extend(["--option", "minFileAge=0s"]);
    options.iter().for_each(|option| arguments.extend(["--option", option]));
    folder.run(&arguments)
}

/// The rows of all files in `out`, sorted.
fn rows(folder: &Folder) -> Vec<String> {
    let files = crate::support::oracle::visible(&folder.0.path().join("out"));
    let read = |file| std::fs::read_to_string(folder.0.path().join("out").join(file)).unwrap();
    let mut rows: Vec<String> = files
        .into_iter()
        .flat_map(|file| read(file).lines().map(str::to_string).collect::<Vec<_>>())
        .collect();
    rows.sort();
    rows
}

/// A table in memory keeps its columns, and the query is not blind to others.
#[test]
fn a_memory_sink_takes_no_column_in_and_says_so() {
    let folder = Folder::new();
    folder.write(
        "m.sql",
        "CREATE UNBOUNDED EXTERNAL TABLE t STORED AS JSON LOCATION 'in/' OPTIONS ('minFileAge' '0s', 'schemaEvolution' \
         'addNewColumns');
         CREATE EXTERNAL TABLE m STORED AS MEMORY;
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'ck' AS INSERT INTO m SELECT * FROM t;",
    );
    folder.write("in/1.json", "{\"v\":1}\n");
    let (code, _, err) = folder.run(&["run", "m.sql", "--progress", "none"]);
    assert!(code == 0 && !err.contains("WARN"), "{err}");
    for number in 2..4 {
        folder.write(&format!("in/{number}.json"), &format!("{{\"v\":{number},\"n\":5}}\n"));
        let (code, out, err) = folder.run(&["run", "m.sql", "--progress", "json"]);
        assert_eq!(code, 0, "{err}");
        assert!(err.contains("a column that the table does not have, and that is not read: 'n'"), "{err}");
        assert!(err.contains("a table in memory, which keeps its columns"), "{err}");
        assert!(err.contains("\"newColumns\":\"1\"") || out.contains("\"newColumns\":\"1\""), "{err}{out}");
    }
}

/// The batch that brings a column is read again with it, and shown once.
#[test]
fn a_batch_that_brings_a_column_is_printed_once() {
    for format in ["json", "table"] {
        let folder = Folder::new();
        folder.write(
            "q.sql",
            &format!(
                "CREATE UNBOUNDED EXTERNAL TABLE t STORED AS JSON LOCATION 'in/' OPTIONS ('minFileAge' '0s', \
                 'schemaEvolution' 'addNewColumns');
                 CREATE EXTERNAL TABLE o STORED AS CONSOLE OPTIONS ('format' '{format}');
                 CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'ck' AS INSERT INTO o SELECT * FROM t;"
            ),
        );
        let run = || folder.run(&["run", "q.sql", "--progress", "none"]);
        folder.write("in/1.json", "{\"k\":\"a\",\"v\":17}\n");
        assert_eq!(run().0, 0);
        folder.write("in/2.json", "{\"k\":\"a\",\"v\":18,\"w\":19}\n");
        let (code, out, err) = run();
        assert_eq!(code, 0, "{err}");
        assert_eq!(out.matches("18").count(), 1, "{out}");
        assert_eq!(out.matches("19").count(), 1, "{out}");
    }
}

#[test]
fn what_was_told_is_not_told_again_when_a_column_is_taken_in() {
    let folder = Folder::new();
    for number in 1..7 {
        folder.write(&format!("in/{number}.json"), &format!("{{\"v\":1,\"n{number}\":1}}\n"));
        let file =
            std::fs::File::options().write(true).open(folder.0.path().join(format!("in/{number}.json")));
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000 + number);
        file.unwrap().set_modified(time).unwrap();
        if number == 1 {
            assert_eq!(etl(&folder, &[]).0, 0);
        }
    }
    let (code, _, err) = etl(&folder, &["schemaEvolution=addNewColumns", "maxFilesPerTrigger=1"]);
    assert_eq!(code, 0, "{err}");
    for number in 1..6 {
        assert_eq!(err.matches(&format!("has the column 'n{number}'")).count(), 1, "{number}: {err}");
    }
    let rows = rows(&folder);
    assert!(rows.len() == 6 && rows[5].contains("\"n6\":1"), "{rows:?}");
}

/// Columns that are given become more when they are given.
#[test]
fn advice_for_given_columns_can_be_followed() {
    let folder = Folder::new();
    let etl = |schema: &str, evolution: &str| {
        let option = format!("schemaEvolution={evolution}");
        let arguments = ["etl", "in", "out", "--checkpoint", "ck", "--to", "json", "--progress", "none"];
        folder.run(&[&arguments[..], &["--option", &option, "--schema", schema]].concat())
    };
    folder.write("in/1.json", "{\"k\":\"a\",\"n\":5}\n");
    let (code, _, err) = etl("k VARCHAR", "warn");
    assert!(
        code == 0
            && err.contains("'n'. To take new columns in, set schemaEvolution to addNewColumns and add"),
        "{err}"
    );
    folder.write("in/2.json", "{\"k\":\"b\",\"n\":6}\n");
    let (code, _, err) = etl("k VARCHAR", "addNewColumns");
    assert!(code == 0 && err.contains("'n'. Columns that are given are not added to by themselves"), "{err}");
    folder.write("in/3.json", "{\"k\":\"c\",\"n\":7}\n");
    let (code, _, err) = etl("k VARCHAR, n BIGINT", "addNewColumns");
    assert!(code == 0 && !err.contains("WARN"), "{err}");
    assert_eq!(rows(&folder), ["{\"k\":\"a\"}", "{\"k\":\"b\"}", "{\"k\":\"c\",\"n\":7}"]);
}

#[test]
fn a_name_that_differs_in_case_alone_is_told_of_and_rescued() {
    for (evolution, told) in [("warn", true), ("addNewColumns", true), ("rescue", false)] {
        let folder = Folder::new();
        let option = format!("schemaEvolution={evolution}");
        folder.write("in/1.json", "{\"a\":1,\"s\":{\"x\":1}}\n");
        assert_eq!(etl(&folder, &[&option]).0, 0);
        let lines =
            "{\"a\":2,\"A\":5,\"s\":{\"x\":2}}\n{\"a\":3,\"A\":{\"deep\":[1,2]},\"s\":{\"X\":4,\"x\":3}}\n";
        folder.write("in/2.json", &format!("{lines}{{\"A\":4,\"s\":{{\"x\":4}},\"\":6}}\n"));
        let (code, _, err) = etl(&folder, &[&option]);
        assert_eq!(code, 0, "{err}");
        let name = "have columns that the table does not have, and that are not read: '', 'A', 's.X'. A column whose name \
                    differs from another one in the case of letters alone, or is empty, never comes to the table";
        assert_eq!(err.contains(name), told, "{evolution}: {err}");
        let rows = rows(&folder);
        for (row, rescued) in [
            ("{\"a\":2,\"s\":{\"x\":2}", "{\\\"A\\\":5,"),
            (
                "{\"a\":3,\"s\":{\"x\":3}",
                "{\\\"A\\\":{\\\"deep\\\":[1,2]},\\\"s\\\":{\\\"X\\\":4,\\\"x\\\":3},",
            ),
            ("{\"a\":4,\"s\":{\"x\":4}", "{\\\"\\\":6,"),
        ] {
            let found = rows.iter().find(|found| found.starts_with(row)).unwrap();
            assert_eq!(found.contains(rescued), !told, "{evolution}: {found}");
        }
    }
}

/// Data names columns, and must not write lines of logs.
#[test]
fn names_cannot_end_lines_of_logs_nor_reach_the_terminal() {
    let folder = Folder::new();
    folder.write("in/1.json", "{\"a\":1}\n");
    assert_eq!(etl(&folder, &[]).0, 0);
    folder.write("in/2.json", "{\"a\":2,\"b\\n2026 ERROR x\":3,\"c\\r\\u0085d\\u202ee\\u001b[31m\":1}\n");
    let (code, _, err) = etl(&folder, &[]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(err.lines().filter(|line| !line.starts_with("etl: ")).count(), 1, "{err}");
    assert!(err.contains("'b\\n2026 ERROR x', 'c\\r\\u{85}d\\u{202e}e\\u{1b}[31m'"), "{err}");
    let (code, out, err) = folder.run(&[
        "sql",
        "-c",
        "CREATE UNBOUNDED EXTERNAL TABLE t STORED AS JSON LOCATION 'in/2.json'; CREATE EXTERNAL TABLE c STORED AS CONSOLE; \
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW AS INSERT INTO c SELECT * FROM t",
    ]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("c\\r\\u{85}d\\u{202e}e\\e[31m") && !out.contains('\u{1b}'), "{out}");
}

/// Directories that come later are no other query.
#[test]
fn columns_of_directories_that_come_later_are_told_of_and_left_out() {
    for (schema, first, deeper) in [
        ("", "1.json", "d=2/2.json"),
        ("a BIGINT", "1.json", "d=2/2.json"),
        ("", "d=1/1.json", "d=2/e=5/2.json"),
    ] {
        let folder = Folder::new();
        let run = |option: &str| {
            let mut options =
                vec!["etl", "in", "out", "--checkpoint", "ck", "--to", "json", "--progress", "none"];
            options.extend(["--option", "minFileAge=0s", "--option", option]);
            if !schema.is_empty() {
                options.extend(["--schema", schema]);
            }
            folder.run(&options)
        };
        folder.write(&format!("in/{first}"), "{\"a\":1}\n");
        let (code, _, err) = run("mode=FAILFAST");
        assert!(code == 0 && !err.contains("WARN"), "{err}");
        folder.write(&format!("in/{deeper}"), "{\"a\":2}\n");
        let (code, _, err) = run("mode=FAILFAST");
        assert_eq!(code, 0, "{schema}: {err}");
        let name = if deeper.contains("e=") { "'e'" } else { "'d'" };
        let told = format!(
            "lie in directories that name a column that the table does not have, and that is not read: {name}"
        );
        assert!(err.contains(&told) && err.contains("start it with a new checkpoint"), "{err}");
        for option in ["schemaEvolution=addNewColumns", "schemaEvolution=none", "recursiveFileLookup=true"] {
            let name = format!("in/{}", deeper.replace("2.json", &format!("{}.json", option.len())));
            folder.write(&name, "{\"a\":3}\n");
            let (code, _, err) = run(option);
            assert_eq!(code, 0, "{option}: {err}");
            assert_eq!(err.contains("WARN"), option.ends_with("addNewColumns"), "{option}: {err}");
        }
        assert_eq!(rows(&folder).len(), 5, "{:?}", rows(&folder));
    }
}
