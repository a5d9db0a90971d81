//! Plans of all shapes: what is above, below and beside state may leave rows unread, ask for other rows in
//! another batch, or be of no rows at all. Whatever it is, no row may be missing from any result or state.
//!
//! A *core* gives rows of a stream, most with state; a *top* is what is made of them with bounded tables,
//! filters that depend on the time, limits and other streams. Every pair is run in every output mode that
//! accepts it, and compared after every step with the same query over all rows so far, planned without
//! the optimiser; and its state with that of the core alone.

mod examples;
mod plans;
mod reference;
mod run;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use tidemill::prelude::OutputMode;

use self::plans::{CORES, Core, Fed, TABLES, TOPS, Top, pairs};
use self::reference::Reference;
use self::run::{Outcome, Setting, run};

/// How many pairs are left out between two that are run, so that all are in some runs of the tests and each
/// run is quick. `TIDEMILL_SHAPES=all` runs all.
const STRIDE: usize = 23;

#[tokio::test]
async fn every_shape_gives_what_a_query_over_all_rows_gives() {
    let all = std::env::var("TIDEMILL_SHAPES").is_ok_and(|value| value == "all");
    let only = std::env::var("TIDEMILL_SHAPE").ok();
    let (mut controls, mut ran, mut problems) = (BTreeMap::new(), 0, Vec::new());
    for (index, (core, top, table, mode)) in pairs().enumerate() {
        let setting = Setting::of(index);
        let name = format!("{index}: {} {mode}, {setting:?}: {}", TABLES[table].0, top.over(core, "now()"));
        let chosen = match &only {
            Some(text) => name.contains(text.as_str()),
            None => all || index % STRIDE == 0,
        };
        if !chosen {
            continue;
        }
        match check(core, top, table, mode, setting, &mut controls).await {
            Ok(true) => ran += 1,
            Ok(false) => {}
            Err(problem) => problems.push(format!("{name}\n{problem}")),
        }
    }
    assert!(problems.is_empty(), "{} of {ran}:\n{}", problems.len(), problems.join("\n"));
    assert!(ran > 20 || only.is_some(), "only {ran} shapes were run");
}

/// Runs a shape and compares it; whether it is accepted.
async fn check(
    core: &'static Core,
    top: &'static Top,
    table: usize,
    mode: OutputMode,
    setting: Setting,
    controls: &mut BTreeMap<(&'static str, &'static str, usize), Outcome>,
) -> Result<bool, String> {
    let Some(found) = run(&top.over(core, "now()"), table, mode, setting).await? else { return Ok(false) };
    let key = (core.name, mode.name(), if core.reads_table { table } else { 0 });
    let control = match controls.entry(key) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(vacant) => {
            // Complete mode refuses what has no state; then there is none to compare.
            let control = run(core.sql, table, mode, Setting::plain()).await?;
            vacant.insert(control.unwrap_or_default())
        }
    };
    let mut given = Vec::new();
    for (step, fed) in Fed::steps(table).into_iter().enumerate() {
        if !found.ran[step] && !fed.new_rows(0).is_empty() {
            return Err(format!("step {step}: there was no batch for the new rows"));
        }
        if !found.ran[step] {
            // Nothing new for this query: what it gave last is of another time, and maybe another table.
            continue;
        }
        given.extend(found.rows[step].iter().cloned());
        let reference = Reference { core, top, fed: &fed, mode };
        let given = if mode == OutputMode::Complete { &found.last[step] } else { &given };
        reference
            .compare(&found.rows[step], given)
            .await
            .map_err(|problem| format!("step {step}: {problem}"))?;
        // To count distinct values is an operator of its own, which is not there if nobody asks for the number.
        let asked = if core.name == "values" && !top.reads_numbers() { 1 } else { usize::MAX };
        for (operator, alone) in control.state.get(step).into_iter().flatten().enumerate().take(asked) {
            let found = found.state[step].get(operator).map_or(&[][..], Vec::as_slice);
            let is_chosen = || top.chooses_keys() && is_state_of(found, &chosen(alone));
            if !is_state_of(found, alone) && !is_chosen() {
                return Err(format!(
                    "step {step}, state of operator {operator}:\n  found {found:?}\n  alone {alone:?}"
                ));
            }
        }
    }
    Ok(true)
}

/// Whether `found` is the state of a core that has `alone` when nothing is above it: the same rows, in which
/// aggregates that nothing above asks for may be missing. If those were of distinct values, what is left
/// has one row for each key.
fn is_state_of(found: &[String], alone: &[String]) -> bool {
    let is_part = |found: &String, alone: &String| {
        let mut values = alone.split(' ');
        found.split(' ').all(|value| values.any(|other| other == value))
    };
    let keys = |rows: &[String]| rows.iter().map(|row| key(row).to_string()).collect::<BTreeSet<_>>();
    match found.len() == alone.len() {
        true => found.iter().zip(alone).all(|(found, alone)| is_part(found, alone)),
        false => keys(alone).len() == found.len() && keys(found) == keys(alone),
    }
}

/// What a filter on the key, which may be below a state, leaves of it.
fn chosen(alone: &[String]) -> Vec<String> {
    alone.iter().filter(|row| key(row) > "a" && key(row) != "null").cloned().collect()
}

fn key(row: &str) -> &str {
    row.split(' ').next().unwrap_or_default()
}

#[test]
fn there_are_many_shapes() {
    assert!(CORES.len() * TOPS.len() > 200 && pairs().count() > 1000, "{}", pairs().count());
}
