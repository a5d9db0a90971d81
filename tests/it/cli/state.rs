//! `tidemill state`

use std::path::Path;

use super::Folder;

/// A folder in which the hourly revenue has been computed.
fn with_revenue() -> Folder {
    let folder = Folder::with_quickstart();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    folder.write("revenue.sql", &std::fs::read_to_string(repository.join("sql/revenue.sql")).unwrap());
    let (code, _, err) = folder.run(&["run", "revenue.sql", "--progress", "none"]);
    assert_eq!(code, 0, "{err}");
    folder
}

#[test]
fn state_shows_what_a_query_remembers() {
    let folder = with_revenue();
    let (code, out, err) = folder.run(&["state", "checkpoint/revenue_sql"]);
    assert_eq!(code, 0, "{err}");
    let line = out.lines().find(|line| line.contains("| aggregate |")).unwrap();
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    assert_eq!(cells[0], "0", "{out}");
    assert!(out.contains("after batch "), "{out}");

    let (code, rows, err) = folder.run(&["state", "checkpoint/revenue_sql", "--operator", "0"]);
    assert_eq!(code, 0, "{err}");
    for column in ["hour", "Country", "sum(", "expires"] {
        assert!(rows.lines().nth(1).unwrap().to_lowercase().contains(&column.to_lowercase()), "{rows}");
    }
    let shown = rows.lines().filter(|line| line.contains("| 2011-01-05T")).count();
    assert_eq!(shown.to_string(), cells[2], "the overview counts other rows than there are: {out}{rows}");
    assert!(shown > 0, "hours of the last day are still open");

    // In SQL it is the same.
    let select = "SELECT * FROM state('checkpoint/revenue_sql', 0)";
    assert_eq!(folder.run(&["sql", "-c", select]), (0, rows, String::new()));
    let select = "SELECT * FROM state('checkpoint/revenue_sql')";
    let (code, listed, err) = folder.run(&["sql", "-c", select]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with(&listed) && listed.contains("aggregate"), "{out}{listed}");

    // As the manual shows it.
    let select = "SELECT country, count(*) AS open_hours, min(hour) AS oldest
        FROM state('checkpoint/revenue_sql', 0) AS t(hour, country, revenue, carry, expires)
        GROUP BY country HAVING min(hour) >= '2011-01-05'";
    let (code, counted, err) = folder.run(&["sql", "-c", select]);
    assert_eq!(code, 0, "{err}");
    assert!(counted.contains("| United Kingdom |"), "{counted}");

    // As of the first batch, the hours of its own day are open: whichever file was oldest on this disk.
    let first = ["state", "checkpoint/revenue_sql", "--operator", "0", "--batch", "0"];
    let (code, rows, err) = folder.run(&first);
    assert_eq!(code, 0, "{err}");
    let days: std::collections::BTreeSet<&str> =
        rows.lines().filter_map(|line| line.strip_prefix("| 20")).map(|line| &line[..8]).collect();
    assert_eq!(days.len(), 1, "{rows}");
}

#[test]
fn state_says_what_there_is_if_there_is_no_such_thing() {
    let folder = with_revenue();
    let checkpoint = "checkpoint/revenue_sql";
    for (arguments, code, words) in [
        (vec!["state", checkpoint, "--operator", "7"], 2, "has no operator 7; it has 0 (aggregate)"),
        (vec!["state", checkpoint, "--batch", "999"], 2, "does not have batch 999; it has those from 0 to "),
        (vec!["state", "nowhere"], 2, "nowhere is not the checkpoint of a query"),
    ] {
        let (ended, _, err) = folder.run(&arguments);
        assert_eq!(ended, code, "{arguments:?}: {err}");
        assert!(err.contains(words), "{arguments:?}: {err}");
    }
    assert_eq!(folder.run(&["run", "sql/quickstart.sql", "--progress", "none"]).0, 0);
    let (code, _, err) = folder.run(&["state", "checkpoint/quickstart"]);
    assert_eq!(code, 2);
    assert!(err.contains("has no state: its query remembers no rows"), "{err}");
}

#[test]
fn a_diff_shows_what_a_batch_has_changed() {
    let folder = Folder::new();
    folder.write(
        "job.sql",
        "CREATE UNBOUNDED EXTERNAL TABLE input (k VARCHAR, v BIGINT) STORED AS JSON LOCATION 'in';\n\
         CREATE EXTERNAL TABLE out STORED AS NOOP;\n\
         CREATE STREAMING QUERY q OUTPUT MODE UPDATE TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'cp' \
         AS INSERT INTO out SELECT k, count(*) AS n FROM input GROUP BY k;\n",
    );
    for (file, rows) in [("0", "ab"), ("1", "bc"), ("2", "")] {
        let lines: String = rows.chars().map(|k| format!("{{\"k\":\"{k}\",\"v\":1}}\n")).collect();
        folder.write(&format!("in/{file}.json"), if lines.is_empty() { "\n" } else { &lines });
        let (code, _, err) = folder.run(&["run", "job.sql", "--progress", "none"]);
        assert_eq!(code, 0, "{err}");
    }
    let diff = |from: &str, to: &str| {
        let (code, out, err) = folder.run(&["state", "cp", "--diff", from, to, "--format", "csv"]);
        assert_eq!(code, 0, "{err}");
        let cells = |line: &str| line.split(',').take(3).collect::<Vec<_>>().join(",");
        out.lines().skip(1).map(cells).collect::<Vec<_>>()
    };
    assert_eq!(diff("0", "1"), ["-,b,1", "+,b,2", "+,c,1"]);
    assert_eq!(diff("1", "0"), ["+,b,1", "-,b,2", "-,c,1"]);
    assert!(diff("1", "1").is_empty());
    let (code, out, _) = folder.run(&["state", "cp", "--diff", "0", "1"]);
    assert!(code == 0 && out.starts_with("operator 0:\n") && out.contains("change"), "{out}");
    assert_eq!(folder.run(&["state", "cp", "--diff", "0", "9"]).0, 2, "there is no batch 9");
}

#[test]
fn a_diff_shows_equal_rows_as_often_as_there_are_more_of_them() {
    let folder = Folder::new();
    folder.write(
        "job.sql",
        "CREATE UNBOUNDED EXTERNAL TABLE input (k INT) STORED AS JSON LOCATION 'in';\n\
         CREATE EXTERNAL TABLE out STORED AS NOOP;\n\
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'cp' \
         AS INSERT INTO out SELECT x.k FROM input x JOIN input y ON x.k = y.k;\n",
    );
    for (file, rows) in ["{\"k\":1}\n{\"k\":2}\n", "{\"k\":2}\n{\"k\":2}\n{\"k\":3}\n"].iter().enumerate() {
        folder.write(&format!("in/{file}.json"), rows);
        assert_eq!(folder.run(&["run", "job.sql", "--progress", "none"]).0, 0);
    }
    let (code, out, err) =
        folder.run(&["state", "cp", "--operator", "0", "--diff", "0", "1", "--format", "csv"]);
    assert_eq!(code, 0, "{err}");
    let cells = |line: &str| line.split(',').take(2).collect::<Vec<_>>().join(",");
    assert_eq!(out.lines().skip(1).map(cells).collect::<Vec<_>>(), ["+,2", "+,2", "+,3"], "{out}");
}

#[test]
fn a_batch_can_be_replayed_with_its_query_and_with_a_changed_one() {
    let folder = Folder::new();
    let script = |select: &str, filter: &str| {
        format!(
            "CREATE UNBOUNDED EXTERNAL TABLE input (k VARCHAR, v BIGINT) STORED AS JSON LOCATION 'in';\n\
             CREATE EXTERNAL TABLE o STORED AS JSON LOCATION 'out';\n\
             CREATE EXTERNAL TABLE n STORED AS NOOP;\n\
             CREATE STREAMING QUERY q OUTPUT MODE UPDATE TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'cp' \
             AS INSERT INTO n SELECT {select} FROM input WHERE {filter} GROUP BY k;\n"
        )
    };
    folder.write("job.sql", &script("k, count(*) AS n, sum(v) AS v", "v > 0"));
    for (file, rows) in
        [("0", [("a", 1), ("b", 2)]), ("1", [("b", 3), ("c", 4)]), ("2", [("a", 5), ("b", 6)])]
    {
        let lines = rows.map(|(k, v)| format!("{{\"k\":\"{k}\",\"v\":{v}}}\n")).concat();
        folder.write(&format!("in/{file}.json"), &lines);
        let (code, _, err) = folder.run(&["run", "job.sql", "--progress", "none"]);
        assert_eq!(code, 0, "{err}");
    }
    let files = || {
        let listed = std::process::Command::new("find").arg(folder.0.path().join("cp")).output().unwrap();
        String::from_utf8(listed.stdout).unwrap()
    };
    let before = files();
    let replay = |batch: &str| {
        let (code, out, err) =
            folder.run(&["replay", "cp", "--batch", batch, "--sql", "job.sql", "--format", "csv"]);
        assert_eq!(code, 0, "{err}");
        let mut rows: Vec<String> = out.lines().skip(1).map(ToString::to_string).collect();
        rows.sort();
        rows
    };
    assert_eq!(replay("0"), ["a,1,1", "b,1,2"]);
    assert_eq!(replay("1"), ["b,2,5", "c,1,4"]);
    assert_eq!(replay("2"), ["a,2,6", "b,3,11"]);
    folder.write("job.sql", &script("k, count(*) AS n, sum(v) AS v", "v > 5"));
    assert_eq!(replay("2"), ["b,3,11"]);
    assert_eq!(files(), before);
    let (code, _, err) = folder.run(&["replay", "cp", "--batch", "3", "--sql", "job.sql"]);
    assert!(code != 0 && err.contains("the files of batch 3 are not there"), "{err}");
    folder.write("job.sql", &script("k, max(v) AS n, sum(v) AS v", "v > 0"));
    for batch in ["0", "1"] {
        let (code, _, err) = folder.run(&["replay", "cp", "--batch", batch, "--sql", "job.sql"]);
        assert!(code != 0 && err.contains("does not fit its checkpoint"), "{batch}: {err}");
    }
}

#[test]
fn a_replayed_batch_can_be_compared_with_what_it_has_written() {
    for (format, partitioned) in
        [("JSON", ""), ("PARQUET", "PARTITIONED BY (k)"), ("CSV", "PARTITIONED BY (k)")]
    {
        let folder = Folder::new();
        let script = |select: &str| {
            format!(
                "CREATE UNBOUNDED EXTERNAL TABLE input (k VARCHAR, v BIGINT) STORED AS JSON LOCATION 'in' OPTIONS \
                 ('maxFilesPerTrigger' '1');
                 CREATE EXTERNAL TABLE o STORED AS {format} {partitioned} LOCATION 'out';
                 CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'cp' AS INSERT INTO o {select};"
            )
        };
        folder.write("job.sql", &script("SELECT v, k FROM input"));
        folder.write("in/0.json", "{\"k\":\"a\",\"v\":1}\n{\"k\":\"b\",\"v\":2}\n");
        folder.write("in/1.json", "{\"k\":\"a\",\"v\":3}\n");
        let (code, _, err) = folder.run(&["run", "job.sql", "--progress", "none"]);
        assert_eq!(code, 0, "{err}");
        let diff = |batch: &str| {
            let (code, out, err) =
                folder.run(&["replay", "cp", "--batch", batch, "--sql", "job.sql", "--diff"]);
            assert_eq!(code, 0, "{err}");
            out
        };
        assert_eq!(diff("0"), "batch 0 gives the rows that it has written\n", "{format}");
        folder.write("job.sql", &script("SELECT v * 10 AS v, k FROM input WHERE v <> 3"));
        let changed = diff("0");
        let mut lines: Vec<&str> = changed.lines().collect();
        lines.sort();
        let row = |sign: &str, k: &str, v: i64| format!("{sign} {{\"k\":\"{k}\",\"v\":{v}}}");
        assert_eq!(
            lines,
            [row("+", "a", 10), row("+", "b", 20), row("-", "a", 1), row("-", "b", 2)],
            "{format}"
        );
    }
}
