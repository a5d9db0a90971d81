//! Completion of keywords and names, and lines that go on until the semicolon.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustyline::completion::{Completer, Pair};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper, Highlighter, Hinter, Result};
use tidemill::sql::{SqlSession, is_complete};

use super::commands;

const KEYWORDS: [&str; 88] = [
    "ALL",
    "AND",
    "APPEND",
    "AS",
    "ASC",
    "AVAILABLE",
    "BETWEEN",
    "BIGINT",
    "BOOLEAN",
    "BY",
    "CASE",
    "CAST",
    "CHECKPOINT",
    "COMPLETE",
    "COPY",
    "CREATE",
    "CROSS",
    "CSV",
    "DATE",
    "DELETE",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "DOUBLE",
    "DROP",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "EXTERNAL",
    "FALSE",
    "FOR",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "IN",
    "INNER",
    "INSERT",
    "INT",
    "INTERSECT",
    "INTERVAL",
    "INTO",
    "IS",
    "JOIN",
    "JSON",
    "LEFT",
    "LIKE",
    "LIMIT",
    "LOCATION",
    "MODE",
    "NOT",
    "NOW",
    "NULL",
    "OFFSET",
    "ON",
    "ONCE",
    "OPTIONS",
    "OR",
    "ORDER",
    "OUTPUT",
    "PARQUET",
    "PARTITIONED",
    "PROCESSING",
    "QUERIES",
    "QUERY",
    "REPLACE",
    "RIGHT",
    "SELECT",
    "SET",
    "SHOW",
    "STOP",
    "STORED",
    "STREAMING",
    "TABLE",
    "TABLES",
    "THEN",
    "TIME",
    "TIMESTAMP",
    "TRIGGER",
    "TRUE",
    "UNBOUNDED",
    "UNION",
    "VALUES",
    "VARCHAR",
    "VIEW",
    "WATERMARK",
];
/// With more tables than this, their columns are not looked at.
const MANY_TABLES: usize = 500;

/// The names that can be completed, as of the last statement.
#[derive(Clone, Default)]
pub(super) struct Names(Arc<ArcSwap<BTreeSet<String>>>);

impl Names {
    /// Looks up which tables, columns and functions there are.
    pub(super) async fn refresh(&self, sql: &SqlSession) {
        let mut names = BTreeSet::new();
        let tables = commands::tables(sql.session()).await;
        for listed in &tables {
            names.insert(listed.name.clone());
            if tables.len() <= MANY_TABLES {
                names.extend(listed.table.schema().fields().iter().map(|field| field.name().clone()));
            }
        }
        let state = sql.session().context().state();
        names.extend(state.scalar_functions().keys().cloned());
        names.extend(state.aggregate_functions().keys().cloned());
        names.extend(state.window_functions().keys().cloned());
        names.extend(state.table_functions().keys().cloned());
        self.0.store(Arc::new(names));
    }
}

/// What rustyline asks while a line is typed.
#[derive(Helper, Hinter, Highlighter)]
pub(super) struct ShellHelper {
    names: Names,
}

impl ShellHelper {
    pub(super) fn new(names: Names) -> Self {
        Self { names }
    }
}

impl Validator for ShellHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> Result<ValidationResult> {
        let input = context.input();
        let is_command = input.trim_start().starts_with('\\');
        if is_command || input.trim().is_empty() || is_complete(input) {
            Ok(ValidationResult::Valid(None))
        } else {
            Ok(ValidationResult::Incomplete)
        }
    }
}

impl Completer for ShellHelper {
    type Candidate = Pair;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> Result<(usize, Vec<Pair>)> {
        let (start, candidates) = candidates(line.get(..position).unwrap_or(line), &self.names.0.load());
        let pair = |text: String| Pair { display: text.clone(), replacement: text };
        Ok((start, candidates.into_iter().map(pair).collect()))
    }
}

/// Where the word at the end of `text` starts, and what it may become.
fn candidates(text: &str, names: &BTreeSet<String>) -> (usize, Vec<String>) {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let start =
        text.char_indices().rev().take_while(|(_, c)| is_part(*c)).last().map_or(text.len(), |(i, _)| i);
    let word = &text[start..];
    if word.is_empty() {
        return (start, vec![]);
    }
    let lower = word.to_lowercase();
    let is_lower = !word.contains(char::is_uppercase);
    let matching = names.iter().filter(|name| name.to_lowercase().starts_with(&lower)).map(|name| {
        let is_plain = name.chars().all(|c| c == '_' || c.is_ascii_digit() || c.is_ascii_lowercase());
        if is_plain { name.clone() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
    });
    let keywords =
        KEYWORDS.iter().map(|keyword| if is_lower { keyword.to_lowercase() } else { (*keyword).to_string() });
    let keywords = keywords.filter(|keyword| keyword.to_lowercase().starts_with(&lower));
    let mut found: Vec<String> = matching.chain(keywords).collect();
    found.dedup();
    (start, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_completed_from_names_and_keywords() {
        let names: BTreeSet<String> = ["bids", "bidder", "Big Table", "sum"].map(String::from).into();
        let complete = |text| candidates(text, &names);
        assert_eq!(complete("select * from bid"), (14, vec!["bidder".into(), "bids".into()]));
        assert_eq!(complete("SEL"), (0, vec!["SELECT".into()]));
        assert_eq!(complete("create str"), (7, vec!["streaming".into()]));
        assert_eq!(
            complete("SELECT b.bi"),
            (9, vec!["\"Big Table\"".into(), "bidder".into(), "bids".into(), "bigint".into()])
        );
        assert_eq!(complete("SELECT "), (7, vec![]));
        assert_eq!(complete("é"), (0, vec![]));
    }

    #[test]
    fn keywords_are_sorted_and_unique() {
        assert!(KEYWORDS.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
