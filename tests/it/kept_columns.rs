//! Which columns state keeps of a table: those that the query reads, and no others. So a column that nothing reads may
//! come to the table, and costs nothing.

use std::collections::BTreeSet;

use datafusion::arrow::util::display::array_value_to_string;
use serde_json::Value;
use tidemill::sql::SqlOutcome;

use crate::support::harness::{Place, session};

/// A query that remembers rows of `t`, and what it gives for the rows of [`FIRST`], and then of [`SECOND`].
struct Case {
    mode: &'static str,
    query: &'static str,
    /// What each stateful operator keeps.
    kept: &'static [&'static str],
    /// Rows of the first run, and of the second; sorted.
    gives: [&'static [&'static str]; 2],
}

const CASES: &[Case] = &[
    Case {
        mode: "UPDATE",
        query: "SELECT DISTINCT ON (k) k, v FROM t ORDER BY k, v DESC",
        kept: &["k v"],
        gives: [&["a 2", "b 9"], &["a 3"]],
    },
    Case {
        mode: "UPDATE",
        query: "SELECT DISTINCT ON (k) v FROM (SELECT *, k || pad AS kk FROM t WHERE id > 0) ORDER BY k, v DESC",
        kept: &["k v"],
        gives: [&["2", "9"], &["3"]],
    },
    Case {
        mode: "UPDATE",
        query: "SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v DESC) AS r FROM t QUALIFY r <= 2",
        kept: &["k v"],
        gives: [&["a 2 1", "b 9 1"], &["a 2 2", "a 3 1", "b 8 2"]],
    },
    Case {
        mode: "UPDATE",
        query: "SELECT v FROM (SELECT *, rank() OVER (PARTITION BY k ORDER BY id) AS r FROM t) WHERE r <= 1 AND v < 5",
        kept: &["id k v"],
        gives: [&["2"], &[]],
    },
    Case {
        mode: "UPDATE",
        query: "SELECT r FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY v * 2) AS r FROM t) WHERE r <= 1",
        kept: &["k __rank_by"],
        gives: [&["1", "1"], &["1"]],
    },
    Case {
        mode: "UPDATE",
        query: "SELECT r FROM (SELECT *, row_number() OVER () AS r FROM t) WHERE r <= 3",
        kept: &[""],
        gives: [&["1", "2"], &["3"]],
    },
    Case {
        mode: "UPDATE",
        query: "SELECT v FROM t ORDER BY id LIMIT 3",
        kept: &["id v"],
        gives: [&["2", "9"], &["3"]],
    },
    Case {
        mode: "COMPLETE",
        query: "SELECT k, count(*) AS n FROM (SELECT DISTINCT ON (k) * FROM t ORDER BY k, v) GROUP BY k",
        kept: &["k v"],
        gives: [&["a 1", "b 1"], &["a 1", "b 1"]],
    },
    Case {
        mode: "APPEND",
        query: "SELECT a.id, b.v FROM t AS a JOIN t FOR SYSTEM_TIME AS OF a.ts AS b ON a.k = b.k",
        kept: &["__as_of_k0 __as_of_left __as_of_time __as_of_version(v) id", "last(v)"],
        gives: [&["1 2", "2 9"], &["3 3", "4 8"]],
    },
    Case {
        mode: "APPEND",
        query: "SELECT a.id, b.v + b.id AS s FROM t AS a LEFT JOIN t FOR SYSTEM_TIME AS OF a.ts AS b ON a.k = b.k AND a.id = b.id",
        kept: &["__as_of_k0 __as_of_k1 __as_of_left __as_of_time __as_of_version(id v) id", "last(id v)"],
        gives: [&["1 3", "2 11"], &["3 6", "4 12"]],
    },
    Case {
        mode: "APPEND",
        query: "SELECT a.id FROM t AS a JOIN t FOR SYSTEM_TIME AS OF a.ts AS b ON a.k = b.k",
        kept: &["__as_of_k0 __as_of_left __as_of_time __as_of_version(id) id", "last(id)"],
        gives: [&["1", "2"], &["3", "4"]],
    },
    Case {
        mode: "APPEND",
        query: "SELECT a.id, c.v FROM t AS a JOIN t FOR SYSTEM_TIME AS OF a.ts AS b ON a.k = b.k
                JOIN t FOR SYSTEM_TIME AS OF a.ts AS c ON b.id = c.id",
        kept: &[
            "__as_of_k0 __as_of_left __as_of_time __as_of_version(id) id",
            "last(id)",
            "__as_of_k0 __as_of_left __as_of_time __as_of_version(v) id",
            "last(v)",
        ],
        gives: [&["1 2", "2 9"], &["3 3", "4 8"]],
    },
];

/// Rows, the second and the last of each file with `pad` in a column that nothing reads.
fn rows(first: bool, pad: &str) -> String {
    let row = |id: u32, k: &str, v: u32| {
        format!(
            "{{\"id\":{id},\"k\":\"{k}\",\"v\":{v},\"ts\":\"2024-01-01T00:00:{id:02}\",\"pad\":\"{pad}{id}\"}}\n"
        )
    };
    match first {
        true => row(1, "a", 2) + &row(2, "b", 9),
        false => row(3, "a", 3) + &row(4, "b", 8),
    }
}

const COLUMNS: &str = "id INT, k VARCHAR, v INT, ts TIMESTAMP, pad VARCHAR";

/// What a run of `case` over the files that are new gives, sorted.
async fn run(place: &Place, case: &Case, columns: &str, evolution: &str) -> tidemill::Result<Vec<String>> {
    run_query(place, (case.mode, case.query), columns, evolution).await
}

async fn run_query(
    place: &Place,
    (mode, query): (&str, &str),
    columns: &str,
    evolution: &str,
) -> tidemill::Result<Vec<String>> {
    let (input, ck) = (place.text("in"), place.text("ck"));
    let script = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE t ({columns}, WATERMARK FOR ts AS ts) STORED AS JSON LOCATION '{input}'
         OPTIONS ('schemaEvolution' '{evolution}');
         CREATE EXTERNAL TABLE o STORED AS MEMORY;
         CREATE STREAMING QUERY q OUTPUT MODE {mode} TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '{ck}' AS INSERT INTO o {query};"
    );
    let session = session();
    for outcome in session.sql(&script).await? {
        if let SqlOutcome::Query(started) = outcome {
            started.query.await_termination().await?;
        }
    }
    let mut found = Vec::new();
    for batch in session.context().table("o").await?.collect().await? {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
            found.push(values.collect::<Vec<_>>().join(" "));
        }
    }
    found.sort();
    Ok(found)
}

/// What the stateful operators in the checkpoint of `place` keep, as its newest definition says.
fn kept(place: &Place) -> Vec<String> {
    let text = std::fs::read_to_string(place.path("ck/metadata")).unwrap();
    let metadata = text.lines().find_map(|line| serde_json::from_str::<Value>(line).ok()).unwrap();
    let found = metadata.pointer("/query/operators").or_else(|| metadata.pointer("/definition/operators"));
    let Some(Value::Array(operators)) = found else { panic!("no operators in {metadata}") };
    operators.iter().map(|operator| columns_of(&operator["details"]["columns"])).collect()
}

fn columns_of(columns: &Value) -> String {
    let fields = |column: &Value| -> Vec<String> {
        let parts = column.pointer("/dataType/Struct").and_then(Value::as_array).into_iter().flatten();
        parts.map(|part| part["name"].as_str().unwrap().to_string()).collect()
    };
    let text = |column: &Value| match (column["name"].as_str().unwrap(), fields(column)) {
        (name, fields) if name.starts_with("last_value") => format!("last({})", fields.join(" ")),
        ("__as_of_version", fields) => format!("__as_of_version({})", fields.join(" ")),
        (name, _) => name.to_string(),
    };
    // Of totals, how many rows there were, and whether there is a last one.
    let is_of_rows = |text: &String| !["rows", "different_rows", "last()"].contains(&text.as_str());
    let texts = columns.as_array().unwrap().iter().map(text).filter(is_of_rows);
    let texts: BTreeSet<String> = texts.collect();
    texts.into_iter().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn what_nothing_reads_is_not_kept() {
    let mut wrong = Vec::new();
    for case in CASES {
        let place = Place::new();
        let mut gives = Vec::new();
        for first in [true, false] {
            place.put(&format!("in/{first}.json"), rows(first, ""));
            gives.push(run(&place, case, COLUMNS, "none").await.unwrap());
        }
        let mut expected: Vec<String> = case.kept.iter().map(|columns| columns.to_string()).collect();
        for columns in &mut expected {
            let mut names: Vec<&str> = columns.split_whitespace().collect();
            if !columns.contains('(') {
                names.sort_unstable();
                *columns = names.join(" ");
            }
        }
        if gives != case.gives || kept(&place) != expected {
            wrong.push(format!("{}:\n  {gives:?}, {:?}", case.query, kept(&place)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The size of all files of state.
fn state_bytes(place: &Place) -> u64 {
    let files = std::fs::read_dir(place.path("ck/state")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn columns_that_nothing_reads_cost_no_state() {
    for case in CASES {
        let bytes = async |pad: &str| {
            let place = Place::new();
            place.put("in/0.json", rows(true, pad));
            run(&place, case, COLUMNS, "none").await.unwrap();
            state_bytes(&place)
        };
        let narrow = bytes("").await;
        assert!(narrow > 0, "{}", case.query);
        assert_eq!(bytes(&"0123456789abcdef".repeat(1000)).await, narrow, "{}", case.query);
    }
}

/// A column comes by a file, by the option `rescue`, or by being declared: to the front, between others, or behind them.
#[tokio::test]
async fn columns_that_nothing_reads_may_come() {
    let declared = [
        "other INT, id INT, k VARCHAR, v INT, ts TIMESTAMP, pad VARCHAR",
        "id INT, k VARCHAR, other INT, v INT, ts TIMESTAMP, pad VARCHAR, last INT",
    ];
    let ways = [(COLUMNS, "addNewColumns"), (COLUMNS, "rescue")];
    let mut wrong = Vec::new();
    for case in CASES {
        for (columns, evolution) in ways.into_iter().chain(declared.map(|columns| (columns, "addNewColumns")))
        {
            let place = Place::new();
            place.put("in/0.json", rows(true, ""));
            let first = run(&place, case, COLUMNS, "addNewColumns").await.unwrap();
            place.put("in/1.json", rows(false, "").replace("\"ts\"", "\"other\":5,\"new\":6,\"ts\""));
            // A version that is found by a column of another one is known by all that is in that: some may not come.
            let is_chained = case.query.matches("FOR SYSTEM_TIME").count() > 1;
            match run(&place, case, columns, evolution).await {
                Err(error) if is_chained && error.to_string().contains("does not fit its checkpoint") => {}
                Ok(second) if [first.as_slice(), &second] == case.gives => {}
                Ok(second) => wrong.push(format!("{} {evolution}: {first:?} {second:?}", case.query)),
                Err(error) => wrong.push(format!("{} {evolution}: {error}", case.query)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is shown is read.
#[tokio::test]
async fn columns_that_are_shown_are_kept_and_may_not_come() {
    let query = ("UPDATE", "SELECT * FROM t QUALIFY row_number() OVER (PARTITION BY k ORDER BY v DESC) = 1");
    let place = Place::new();
    place.put("in/0.json", rows(true, ""));
    run_query(&place, query, COLUMNS, "addNewColumns").await.unwrap();
    assert_eq!(kept(&place), ["id k pad ts v"]);
    place.put("in/1.json", rows(false, "").replace("\"ts\"", "\"other\":5,\"ts\""));
    let more = "other INT, id INT, k VARCHAR, v INT, ts TIMESTAMP, pad VARCHAR";
    let error = run_query(&place, query, more, "none").await.unwrap_err().to_string();
    assert!(error.contains("of stateful operator 0 (topN) is new"), "{error}");
    run_query(&place, query, COLUMNS, "warn").await.unwrap();
}

/// What state has in one order is found there by a query that gives it in another.
#[tokio::test]
async fn columns_in_another_order_are_those_that_are_kept() {
    type Story = (&'static str, fn([&str; 2]) -> String, [&'static [&'static str]; 2]);
    let stories: [Story; 4] = [
        (
            "UPDATE",
            |[a, _]| {
                format!(
                    "SELECT id, v, row_number() OVER (PARTITION BY k ORDER BY ts DESC) AS r FROM {a} QUALIFY r <= 2"
                )
            },
            [&["1 2 1", "2 9 1"], &["1 2 2", "2 9 2", "3 3 1", "4 8 1"]],
        ),
        (
            "APPEND",
            |[a, b]| {
                format!(
                    "SELECT a.id, a.v, b.id AS i, b.v AS w FROM {a} JOIN {b} ON a.k = b.k AND b.id > a.id"
                )
            },
            [&[], &["1 2 3 3", "2 9 4 8"]],
        ),
        (
            "APPEND",
            |[a, b]| {
                format!(
                    "SELECT a.id, a.v, b.id AS i, b.v AS w FROM {a} LEFT JOIN {b} ON a.k = b.k AND b.ts BETWEEN a.ts + \
                     INTERVAL '1 second' AND a.ts + INTERVAL '2 seconds'"
                )
            },
            [&[], &["1 2 3 3", "2 9 4 8"]],
        ),
        (
            "APPEND",
            |[a, _]| {
                format!(
                    "SELECT id, v, lag(v) OVER (PARTITION BY k ORDER BY ts) AS p, lag(id) OVER (PARTITION BY k ORDER BY ts) AS q FROM {a}"
                )
            },
            [&["1 2  ", "2 9  "], &["3 3 2 1", "4 8 9 2"]],
        ),
    ];
    let orders = [
        ["(SELECT id, v, k, ts FROM t) AS a", "(SELECT v, id, k, ts FROM t) AS b"],
        ["(SELECT ts, k, v, id FROM t) AS a", "(SELECT k, id, ts, v FROM t) AS b"],
    ];
    for (mode, query, gives) in stories {
        let place = Place::new();
        for (number, (tables, first)) in orders.into_iter().zip([true, false]).enumerate() {
            place.put(&format!("in/{number}.json"), rows(first, ""));
            let query = query(tables);
            let found = run_query(&place, (mode, &query), COLUMNS, "none").await;
            let found = found.unwrap_or_else(|error| panic!("{query}: {error}"));
            assert_eq!(found, gives[number], "{query}");
        }
    }
}
