//! Which queries of the matrix Spark accepts (`record_matrix.py`), and why Tidemill differs.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::cases::read;
use crate::matrix::{MATRIX, MODES};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Matrix {
    /// Why cells differ, by name.
    reasons: BTreeMap<String, String>,
    queries: Vec<Query>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    /// As in the matrix.
    sql: String,
    /// For Spark, where it has another dialect; null where it has no words for it.
    #[serde(default, rename = "spark")]
    _spark: Option<String>,
    /// The reason for each mode in which one of the two refuses it and the other does not.
    #[serde(default)]
    differs: BTreeMap<String, String>,
}

/// Per query: what Spark said in append, update and complete mode.
type Recorded = BTreeMap<String, [String; 3]>;

#[test]
fn what_spark_refuses_is_refused_or_there_is_a_reason() {
    let matrix: Matrix = serde_json::from_str(&read("matrix.json")).unwrap();
    let recorded: Recorded = serde_json::from_str(&read("recorded_matrix.json")).unwrap();
    let mut problems = Vec::new();
    let (mut cells, mut differing) = (0, 0);
    for (sql, expected) in MATRIX {
        let Some(query) = matrix.queries.iter().find(|query| query.sql == *sql) else {
            problems.push(format!("{sql}: not in matrix.json"));
            continue;
        };
        let Some(found) = recorded.get(*sql) else { continue };
        for ((mode, expected), found) in MODES.iter().zip(expected).zip(found) {
            cells += 1;
            let differs = expected.is_ok() != (found == "ok");
            differing += usize::from(differs);
            match query.differs.get(&mode.to_string()) {
                Some(reason) if differs && matrix.reasons.contains_key(reason) => {}
                None if !differs => {}
                reason => problems.push(format!("{sql} | {mode} | {expected:?} | {found} | {reason:?}")),
            }
        }
    }
    assert!(problems.is_empty(), "{} cells, {differing} differ:\n{}", cells, problems.join("\n"));
}
