//! Queries that were run on Apache Spark (`record.py`, `recorded.json`) give the same here, batch by
//! batch: rows, watermark, rows that came too late and rows of state. Of joins of streams Tidemill may
//! remember fewer rows than Spark, and never more: it leaves out those that can have no match. Where it
//! differs otherwise, on purpose, the case (`cases.json`) says why, and what it gives instead.

mod accepted;
mod cases;
mod replay;

use std::collections::BTreeMap;

use serde_json::Value as Json;
use tidemill::Error;

use cases::{Batch, Case, Recorded};
use replay::Replayed;

const REWRITE: &str = "run record.py again";

/// What Tidemill should do: Spark's batches per step, or what the case says instead; or the operator
/// that makes it refuse the query.
fn expected(case: &Case, recorded: &Recorded) -> Result<Vec<Vec<Batch>>, String> {
    let other = case.instead.as_ref();
    if let Some(operator) = other.and_then(|other| other.refused.clone()) {
        return Err(operator);
    }
    let changed = other.map_or_else(BTreeMap::new, |other| other.steps.clone());
    let mut steps = recorded.steps.clone();
    if recorded.refused.is_some() || recorded.failed.is_some() {
        steps = vec![vec![]; case.steps.len()];
    }
    assert_eq!(steps.len(), case.steps.len(), "{}: {REWRITE}", case.name);
    for (step, batches) in changed {
        let same = comparable(case, &steps[step]) == comparable(case, &batches);
        assert!(!same, "{}: step {step} is no difference", case.name);
        steps[step] = batches;
    }
    Ok(steps)
}

/// What differs between found and expected, if anything.
fn difference(case: &Case, expected: &[Vec<Batch>], found: &Replayed) -> Option<String> {
    let text = |batches: &[Batch]| serde_json::to_string(batches).unwrap();
    let mut differences = Vec::new();
    for (step, (expected, batches)) in expected.iter().zip(&found.steps).enumerate() {
        if !agree(&comparable(case, expected), &comparable(case, batches), found.joins) {
            let (expected, found) = (text(expected), text(batches));
            differences.push(format!("  step {step}\n    expected {expected}\n    found    {found}"));
        }
    }
    (!differences.is_empty()).then(|| differences.join("\n"))
}

/// Whether batches are as expected; a query that joins streams may remember less.
fn agree(expected: &[Batch], found: &[Batch], joins: bool) -> bool {
    let remembers = |expected, found| if joins { found <= expected } else { found == expected };
    let same = |(expected, found): (&Batch, &Batch)| {
        remembers(expected.state, found.state) && Batch { state: found.state, ..expected.clone() } == *found
    };
    expected.len() == found.len() && expected.iter().zip(found).all(same)
}

/// The batches as what is compared of them.
fn comparable(case: &Case, batches: &[Batch]) -> Vec<Batch> {
    let comparable = |batch: &Batch| Batch {
        rows: if case.ordered { batch.rows.clone() } else { sorted(&batch.rows) },
        ..batch.clone()
    };
    batches.iter().map(comparable).collect()
}

fn sorted(rows: &[Json]) -> Vec<Json> {
    let mut rows = rows.to_vec();
    rows.sort_by_key(Json::to_string);
    rows
}

/// Runs a case; gives what is wrong with it.
async fn problem(case: &Case, recorded: &Recorded) -> Option<String> {
    match (replay::replay(case).await, expected(case, recorded)) {
        (Ok(found), Ok(expected)) => difference(case, &expected, &found),
        (Err(Error::UnsupportedQuery { operator, .. }), Err(expected)) if operator == expected => None,
        (Err(error), expected) => Some(format!("expected {expected:?}, but {error}")),
        (Ok(found), Err(expected)) => Some(format!("expected {expected}, found {:?}", found.steps)),
    }
}

#[tokio::test]
async fn recorded_runs_of_spark_are_repeated() {
    let (cases, recorded) = cases::load();
    let chosen = std::env::var("SPARK_CASE").unwrap_or_default();
    let mut problems = Vec::new();
    for case in cases.iter().filter(|case| case.name.contains(&chosen)) {
        let recorded = recorded.get(&case.name).unwrap_or_else(|| panic!("{}: {REWRITE}", case.name));
        if let Some(problem) = problem(case, recorded).await {
            problems.push(format!("{}:\n{problem}", case.name));
        }
    }
    assert!(problems.is_empty(), "{} of {} cases:\n{}", problems.len(), cases.len(), problems.join("\n"));
}
