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
