//! What the names of keys and aggregates mean, whatever tables are called.
//!
//! DataFusion names an expression by its text, which holds what its tables are called in the query:
//! `max(bids.price)` is `max(b.price)` once the table has an alias. A restart compares meanings, in which
//! a table is the number of its scan in the plan: `max(#0.price)`.

use std::collections::BTreeSet;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::{Expr, LogicalPlan};
use serde_json::{Value, json};

use super::origins::{CONDITION, GROUPING_KEY, Named, origins};
use crate::checkpoint::records::OperatorDefinition;

/// The field beside `name` that says what it means, if that is something else.
const MEANING: &str = "meaning";

/// `operators` of a query over `plan` with the meanings of their names.
pub(crate) fn with_meanings(
    mut operators: Vec<OperatorDefinition>,
    plan: &LogicalPlan,
) -> Vec<OperatorDefinition> {
    let tables = tables(plan);
    let aliases = aliases(plan);
    let origins = origins(plan);
    for operator in &mut operators {
        add_definitions(operator, &aliases);
        operator.details.values_mut().for_each(|detail| add_meanings(detail, &tables));
        add_origins(operator, &origins, &tables);
    }
    operators
}

/// Adds what the columns and functions of `operator` are computed from, where their names do not say it.
fn add_origins(operator: &mut OperatorDefinition, origins: &BTreeSet<Named>, tables: &[(String, usize)]) {
    const OF: [&str; 6] = ["keys", "columns", "order", "aggregates", "functions", "definitions"];
    let things = OF.into_iter().filter_map(|key| operator.details.get(key)?.as_array()).flatten();
    let names = things.filter_map(|thing| thing["name"].as_str());
    // A session is no key, and so only its definition says what it is called.
    let names = names.flat_map(|name| [name, name.split(": ").next().unwrap_or(name)]);
    let mut names: Vec<&str> = names.collect();
    // Their conditions are no columns.
    names.extend(operator.name.starts_with("join").then_some(CONDITION));
    let is_ours = |name: &&str| ["__key", "__set@", "__common_expr_"].iter().any(|ours| name.contains(ours));
    names.extend(names.iter().any(is_ours).then_some(GROUPING_KEY));
    let known = origins.iter().filter(|origin| names.contains(&origin.label.as_str()));
    let mut found: Vec<(String, String)> = known
        .map(|Named { label, name, meaning: from }| {
            (format!("{}: {from}", meaning(label, tables)), format!("{label}: {name}"))
        })
        .collect();
    // In an order that does not follow what tables are called.
    found.sort();
    found.dedup_by(|one, other| one.0 == other.0);
    let found = found.into_iter().map(|(meaning, name)| json!({"name": name, MEANING: meaning})).collect();
    operator.details.insert("origins".into(), found);
}

/// The aggregates and window functions of `plan` that a program has given other names, and what they are.
fn aliases(plan: &LogicalPlan) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    // The closure never fails, so neither does the walk.
    let _ = plan.apply_with_subqueries(|node| {
        let functions = match node {
            LogicalPlan::Aggregate(aggregate) => aggregate.aggr_expr.as_slice(),
            LogicalPlan::Window(window) => window.window_expr.as_slice(),
            _ => &[],
        };
        for function in functions {
            let (name, text) = (function.schema_name().to_string(), function.clone().unalias().to_string());
            let named = (name, text);
            if matches!(function, Expr::Alias(_)) && named.0 != named.1 && !found.contains(&named) {
                found.push(named);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// Adds what the functions of `operator` are whose names are `aliases` of them.
fn add_definitions(operator: &mut OperatorDefinition, aliases: &[(String, String)]) {
    let name = |function: &Value| function["name"].as_str().map(str::to_string);
    let functions = ["aggregates", "functions"].into_iter().filter_map(|key| operator.details.get(key));
    let names: Vec<String> = functions.filter_map(Value::as_array).flatten().filter_map(name).collect();
    let Some(Value::Array(definitions)) = operator.details.get_mut("definitions") else { return };
    let known = aliases.iter().filter(|(alias, _)| names.contains(alias));
    definitions.extend(known.map(|(alias, text)| json!({"name": format!("{alias}: {text}")})));
}

/// What tables are called in `plan`, longest names first, and the number of the first scan below.
fn tables(plan: &LogicalPlan) -> Vec<(String, usize)> {
    let mut found: Vec<(String, usize)> = Vec::new();
    let mut scans = 0;
    // The closure never fails, so neither does the walk, which is from the top down and left to right.
    let _ = plan.apply_with_subqueries(|node| {
        let name = match node {
            LogicalPlan::TableScan(scan) => {
                scans += 1;
                Some((&scan.table_name, scans - 1))
            }
            LogicalPlan::SubqueryAlias(alias) => Some((&alias.alias, scans)),
            _ => None,
        };
        if let Some((name, scan)) = name {
            for name in [name.to_string(), name.table().to_string()] {
                if found.iter().all(|(known, _)| *known != name) {
                    found.push((name, scan));
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    found
}

fn add_meanings(value: &mut Value, tables: &[(String, usize)]) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| add_meanings(value, tables)),
        Value::Object(fields) => {
            fields.values_mut().for_each(|value| add_meanings(value, tables));
            if let Some(Value::String(name)) = fields.get("name") {
                let meaning = meaning(name, tables);
                if meaning != *name {
                    fields.insert(MEANING.into(), meaning.into());
                }
            }
        }
        _ => {}
    }
}

/// `name` with the numbers of tables in place of what they are called, but for texts in quotes.
fn meaning(name: &str, tables: &[(String, usize)]) -> String {
    // All rows are counted, however that is written.
    let name = name.replace("count(*)", "count(Int64(1))");
    let mut text = String::with_capacity(name.len());
    let mut rest = name.as_str();
    let mut quote = None;
    let mut before = ' ';
    while let Some(next) = rest.chars().next() {
        let is_start = quote.is_none() && !before.is_alphanumeric() && !"_.\"".contains(before);
        let table = tables.iter().filter(|_| is_start).find_map(|(table, number)| {
            let after = rest.strip_prefix(table.as_str())?.strip_prefix('.')?;
            Some((after, number))
        });
        if let Some((after, number)) = table {
            text += &format!("#{number}.");
            rest = after;
            before = '.';
            continue;
        }
        match quote {
            Some(open) if open == next => quote = None,
            None if next == '"' || next == '\'' => quote = Some(next),
            _ => {}
        }
        text.push(next);
        before = next;
        rest = &rest[next.len_utf8()..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_numbers_but_in_quotes() {
        let tables = [("public.bids".to_string(), 0), ("bids".to_string(), 0), ("b".to_string(), 1)];
        for (name, expected) in [
            ("max(bids.price)", "max(#0.price)"),
            ("max(b.price + public.bids.b)", "max(#1.price + #0.b)"),
            ("price", "price"),
            ("sum(ab.price)", "sum(ab.price)"),
            ("count(*)", "count(Int64(1))"),
            ("window(bids.t,Utf8(\"bids.t\"))", "window(#0.t,Utf8(\"bids.t\"))"),
            ("max(bids.price)[max]", "max(#0.price)[max]"),
        ] {
            assert_eq!(meaning(name, &tables), expected);
        }
    }
}
