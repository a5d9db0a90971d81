//! Places that are not as they should be, and files whose records are not: what users are told, and what helps.

use super::Folder;

#[test]
fn a_place_where_there_is_nothing_is_named() {
    let folder = Folder::new();
    folder.write("in/1.json", "{\"a\":1}\n");
    std::fs::create_dir(folder.0.path().join("empty")).unwrap();
    for (number, (input, told)) in [
        ("empty", "there is no file in 'file:///"),
        ("in/*.jsn", "no file matches 'file:///"),
        ("in/{2,3}.json", "no file matches 'file:///"),
    ]
    .into_iter()
    .enumerate()
    {
        let (out, checkpoint) = (format!("out{number}"), format!("ck{number}"));
        let arguments =
            ["etl", input, &out, "--checkpoint", &checkpoint, "--from", "json", "--schema", "a INT"];
        for option in ["allowMissingPath=false", "allowMissingPath=true"] {
            let (code, _, err) = folder.run(&[&arguments[..], &["--option", option]].concat());
            assert_eq!(code, 0, "{err}");
            assert_eq!(err.matches(told).count(), usize::from(option.ends_with("false")), "{input}: {err}");
            assert!(err.ends_with(&format!("etl: nothing new, {out} is up to date\n")), "{err}");
        }
    }
    // Once something was read, that there is nothing is as it should be.
    let arguments =
        ["etl", "in", "o", "--checkpoint", "c", "--progress", "none", "--option", "cleanSource=delete"];
    let etl = || folder.run(&[&arguments[..], &["--option", "minFileAge=0s", "--from", "json"]].concat());
    assert_eq!(etl().0, 0);
    assert!(!folder.0.path().join("in/1.json").exists());
    let (code, _, err) = etl();
    assert!(code == 0 && !err.contains("WARN"), "{err}");
}

#[test]
fn tables_at_places_where_there_is_nothing_are_named() {
    let folder = Folder::new();
    folder.write("in/1.json", "{\"a\":1}\n");
    let table = "CREATE EXTERNAL TABLE dim (a INT, name VARCHAR) STORED AS CSV LOCATION 'dimensoins.csv';";
    let told = "table 'dim' has no rows: there are no csv files in 'dimensoins.csv'";
    let (code, _, err) = folder.run(&["sql", "-c", &format!("{table} SELECT * FROM dim")]);
    assert!(code == 0 && err.contains(told), "{err}");
    let (code, _, err) = folder.run(&[
        "sql",
        "-c",
        &format!(
            "{table} CREATE UNBOUNDED EXTERNAL TABLE t (a INT) STORED AS JSON LOCATION 'in/';
             CREATE EXTERNAL TABLE o STORED AS JSON LOCATION 'out/';
             CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'ck' AS INSERT INTO o
             SELECT t.a, d.name FROM t JOIN dim d ON t.a = d.a"
        ),
    ]);
    assert!(code == 0 && err.contains(told), "{err}");
}

#[test]
fn alternatives_in_patterns_are_read_by_tables_as_by_streams() {
    let folder = Folder::new();
    for number in 1..5 {
        folder.write(&format!("s/{number}.json"), &format!("{{\"a\":{number}}}\n"));
    }
    let (code, _, err) = folder.run(&[
        "sql",
        "-c",
        "COPY (SELECT 2 AS a) TO 'p/2.parquet'; COPY (SELECT 9 AS a) TO 'p/9.parquet'",
    ]);
    assert_eq!(code, 0, "{err}");
    for from in [
        "SELECT * FROM 's/{2,3}.json'",
        "SELECT * FROM read_json('s/{2,3}.json')",
        "CREATE EXTERNAL TABLE x STORED AS JSON LOCATION 's/{2,3}.json'; SELECT * FROM x",
        "CREATE EXTERNAL TABLE x (a INT) STORED AS JSON LOCATION 's/{2,3}.json'; SELECT * FROM x",
        "CREATE UNBOUNDED EXTERNAL TABLE x STORED AS JSON LOCATION 's/{2,3}.json'; SELECT * FROM x LIMIT 2",
        "SELECT * FROM 'p/{2,3}.parquet' UNION ALL SELECT 3",
    ] {
        let (code, out, err) = folder.run(&["sql", "--format", "csv", "-c", from]);
        assert_eq!(code, 0, "{from}: {err}");
        let mut rows: Vec<&str> = out.lines().skip(1).collect();
        rows.sort_unstable();
        assert_eq!(rows, ["2", "3"], "{from}");
    }
    let (code, _, err) = folder.run(&["sql", "-c", "SELECT * FROM 's/{8,9}.json'"]);
    assert!(code != 0 && err.contains("there are no json files in 's/{8,9}.json'"), "{err}");
}

/// What becomes of malformed records may be decided when one is met.
#[test]
fn advice_after_a_malformed_record_can_be_followed() {
    for (option, expected, kept) in [
        ("mode=DROPMALFORMED", "1 2 3 4", true),
        ("mode=PERMISSIVE", "1 2 3 4", true),
        ("badRecordsPath=bad", "1 2 3 4", true),
        ("mode=FAILFAST", "1", false),
    ] {
        let folder = Folder::new();
        let etl = |option: &str| {
            let arguments = ["etl", "in", "out", "--checkpoint", "ck", "--to", "json", "--progress", "none"];
            folder.run(&[&arguments[..], &["--option", "minFileAge=0s", "--option", option]].concat())
        };
        let ids = || {
            let (_, out, err) = folder.run(&[
                "sql",
                "--format",
                "csv",
                "-c",
                "SELECT a FROM 'out/' WHERE a IS NOT NULL ORDER BY a",
            ]);
            let ids: Vec<&str> = out.lines().skip(1).collect();
            (ids.join(" "), err)
        };
        folder.write("in/1.json", "{\"a\":1}\n");
        assert_eq!(etl("mode=FAILFAST").0, 0);
        folder.write("in/2.json", "{\"a\":2}\n{\"a\":\"x\"}\n{\"a\":3}\n");
        let (code, _, err) = etl("mode=FAILFAST");
        assert!(code == 1 && err.contains("2.json' at line 2, column 'a'"), "{err}");
        assert!(err.contains("Mend the record; or start the query with mode or badRecordsPath"), "{err}");
        let (code, _, err) = etl(option);
        assert_eq!(code == 0, kept, "{option}: {err}");
        folder.write("in/3.json", "{\"a\":4}\n");
        assert_eq!(etl(option).0 == 0, kept, "{option}");
        assert_eq!(ids().0, expected, "{option}: {}", ids().1);
        assert_eq!(folder.run(&["check", "ck"]).0, 0, "{option}");
    }
}
