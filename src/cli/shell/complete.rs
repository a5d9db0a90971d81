//! Completion of keywords, names, options and paths.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustyline::completion::{Completer, Pair};
use rustyline::{Context, Helper, Highlighter, Hinter, Result, Validator};
use tidemill::sql::SqlSession;

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
/// Options of tables and queries.
const OPTIONS: [&str; 41] = [
    "badRecordsPath",
    "checkpointLocation",
    "cleanSource",
    "columnNameOfCorruptRecord",
    "compactAfter",
    "compression",
    "createTable",
    "durability",
    "fileNameOnly",
    "flushOnEnd",
    "format",
    "header",
    "host",
    "ignoreCorruptFiles",
    "ignoreMissingFiles",
    "includeMetadata",
    "lateRowsFormat",
    "lateRowsPath",
    "latestFirst",
    "maxBytesPerTrigger",
    "maxFileAge",
    "maxFilesPerTrigger",
    "maxRecordsPerFile",
    "minBatchesToRetain",
    "mode",
    "multiLine",
    "nullValue",
    "numRows",
    "pathGlobFilter",
    "port",
    "recursiveFileLookup",
    "retryTimeout",
    "rowsPerSecond",
    "sep",
    "sourceArchiveDir",
    "stateMemoryLimit",
    "statePartitions",
    "table",
    "targetFileSize",
    "truncate",
    "url",
];
/// With more tables than this, their columns are not looked at.
const MANY_TABLES: usize = 500;

/// The names that can be completed, as of the last statement.
#[derive(Clone, Default)]
pub(super) struct Names(Arc<ArcSwap<Known>>);

/// Names by what they are of.
#[derive(Default)]
struct Known {
    /// Of tables, columns and functions.
    all: BTreeSet<String>,
    tables: BTreeSet<String>,
    queries: BTreeSet<String>,
    settings: BTreeSet<String>,
}

impl Names {
    /// Looks up which tables, columns and functions there are.
    pub(super) async fn refresh(&self, sql: &SqlSession) {
        let mut names = BTreeSet::new();
        let mut known = Known::default();
        let tables = commands::tables(sql.session()).await;
        for listed in &tables {
            names.insert(listed.name.clone());
            known.tables.insert(listed.name.clone());
            if tables.len() <= MANY_TABLES {
                names.extend(listed.table.schema().fields().iter().map(|field| field.name().clone()));
            }
        }
        let state = sql.session().context().state();
        names.extend(state.scalar_functions().keys().cloned());
        names.extend(state.aggregate_functions().keys().cloned());
        names.extend(state.window_functions().keys().cloned());
        names.extend(state.table_functions().keys().cloned());
        known.all = names;
        let queries = sql.session().streams().active();
        known.queries = queries.iter().filter_map(|query| query.name().map(str::to_string)).collect();
        known.settings = state.config_options().entries().into_iter().map(|entry| entry.key).collect();
        self.0.store(Arc::new(known));
    }
}

/// What rustyline asks while a line is typed.
#[derive(Helper, Hinter, Highlighter, Validator)]
pub(super) struct ShellHelper {
    names: Names,
}

impl ShellHelper {
    pub(super) fn new(names: Names) -> Self {
        Self { names }
    }
}

impl Completer for ShellHelper {
    type Candidate = Pair;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> Result<(usize, Vec<Pair>)> {
        let line = line.get(..position).unwrap_or(line);
        let (start, candidates) = match quoted(line) {
            Some(start) if is_option(&line[..start]) => (start, options(&line[start..])),
            Some(start) => (start, paths(&line[start..])),
            None => candidates(line, &self.names.0.load()),
        };
        let pair = |text: String| Pair { display: text.clone(), replacement: text };
        Ok((start, candidates.into_iter().map(pair).collect()))
    }
}

/// Where what is typed of a text in quotes starts, or of the file of a command.
fn quoted(line: &str) -> Option<usize> {
    for command in ["\\i ", "\\o "] {
        if line.starts_with(command) {
            return Some(command.len());
        }
    }
    let is_open = line.matches('\'').count() % 2 == 1;
    line.rfind('\'').filter(|_| is_open).map(|quote| quote + 1)
}

/// Whether what comes after `before`, which ends with a quote, is the name of an option: the first text
/// after the bracket of OPTIONS or a comma in it.
fn is_option(before: &str) -> bool {
    let before = before.trim_end_matches('\'').trim_end();
    let upper = before.to_ascii_uppercase();
    let Some(options) = upper.rfind("OPTIONS") else { return false };
    let inside = before[options + "OPTIONS".len()..].trim_start();
    inside.starts_with('(') && !inside.contains(')') && inside.ends_with(['(', ','])
}

/// Options that start with `word`.
fn options(word: &str) -> Vec<String> {
    let lower = word.to_lowercase();
    let fitting = OPTIONS.iter().filter(|option| option.to_lowercase().starts_with(&lower));
    fitting.map(|option| format!("{option}' '")).collect()
}

/// Paths that start with `typed`; directories end with a slash.
fn paths(typed: &str) -> Vec<String> {
    let (directory, name) = match typed.rfind('/') {
        Some(slash) => typed.split_at(slash + 1),
        None => ("", typed),
    };
    let Ok(entries) = std::fs::read_dir(if directory.is_empty() { "." } else { directory }) else {
        return vec![];
    };
    let mut found: Vec<String> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let file = entry.file_name().into_string().ok()?;
            let is_wanted = file.starts_with(name) && (name.starts_with('.') || !file.starts_with('.'));
            let slash = if entry.path().is_dir() { "/" } else { "" };
            is_wanted.then(|| format!("{directory}{file}{slash}"))
        })
        .collect();
    found.sort();
    found
}

/// Where the word at the end of `text` starts, and what it may become, if one kind of names alone can stand there.
fn of_one_kind(text: &str, known: &Known) -> Option<(usize, Vec<String>)> {
    const FORMATS: [&str; 4] = ["csv", "json", "ndjson", "table"];
    let start = text.rfind(char::is_whitespace)? + 1;
    let (before, word) = text.split_at(start);
    let words: Vec<String> = before.split_whitespace().map(str::to_ascii_uppercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let fitting = |names: &mut dyn Iterator<Item = &str>| -> Vec<String> {
        names.filter(|name| name.starts_with(word)).map(str::to_string).collect()
    };
    let found = match words.as_slice() {
        ["\\FORMAT"] => fitting(&mut FORMATS.into_iter()),
        ["\\D"] => fitting(&mut known.tables.iter().map(String::as_str)),
        ["STOP", "STREAMING", "QUERY"] => fitting(&mut known.queries.iter().map(String::as_str)),
        ["SET"] => fitting(&mut known.settings.iter().map(String::as_str)),
        ["\\PAGER" | "\\X" | "\\TIMING" | "\\LIMIT"] => Vec::new(),
        _ => return None,
    };
    Some((start, found))
}

/// Where the word at the end of `text` starts, and what it may become.
fn candidates(text: &str, known: &Known) -> (usize, Vec<String>) {
    if text.starts_with('\\') && !text.contains(' ') {
        let fitting = commands::NAMES.iter().filter(|name| name.starts_with(text));
        return (0, fitting.map(ToString::to_string).collect());
    }
    if let Some(found) = of_one_kind(text, known) {
        return found;
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let start =
        text.char_indices().rev().take_while(|(_, c)| is_part(*c)).last().map_or(text.len(), |(i, _)| i);
    let word = &text[start..];
    if word.is_empty() {
        return (start, vec![]);
    }
    let lower = word.to_lowercase();
    let is_lower = !word.contains(char::is_uppercase);
    let matching = known.all.iter().filter(|name| name.to_lowercase().starts_with(&lower)).map(|name| {
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
        let known = Known { all: names, ..Known::default() };
        let complete = |text| candidates(text, &known);
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
    fn where_one_kind_of_names_can_stand_others_are_not_offered() {
        let set = |names: &[&str]| -> BTreeSet<String> { names.iter().map(ToString::to_string).collect() };
        let known = Known {
            all: set(&["tan", "ticks", "levenshtein", "json_get", "word"]),
            tables: set(&["ticks"]),
            queries: set(&["words", "other"]),
            settings: set(&["datafusion.execution.batch_size", "datafusion.execution.time_zone"]),
        };
        for (text, start, expected) in [
            ("\\d t", 3, &["ticks"][..]),
            ("\\pager le", 7, &[]),
            ("\\format ", 8, &["csv", "json", "ndjson", "table"]),
            ("\\format j", 8, &["json"]),
            ("stop streaming query wo", 21, &["words"]),
            ("SET datafusion.execution.b", 4, &["datafusion.execution.batch_size"]),
        ] {
            let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
            assert_eq!(candidates(text, &known), (start, expected), "{text}");
        }
        assert!(candidates("SELECT t", &known).1.contains(&"tan".to_string()));
    }

    #[test]
    fn options_and_paths_are_completed_in_quotes() {
        let statement = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'Car";
        let start = quoted(statement).unwrap();
        assert_eq!(&statement[start..], "Car");
        assert!(!is_option(&statement[..start]));
        assert_eq!(paths("Cargo.t"), ["Cargo.toml"]);
        assert_eq!(paths("src/cli/sh"), ["src/cli/shell/"]);
        for (statement, option) in [
            ("CREATE EXTERNAL TABLE t STORED AS CSV OPTIONS ('hea", true),
            ("… OPTIONS ('header' 'true', 'nu", true),
            ("… OPTIONS ('header' 'tr", false),
            ("… OPTIONS ('header' 'true') x 'tr", false),
        ] {
            assert_eq!(is_option(&statement[..quoted(statement).unwrap()]), option, "{statement}");
        }
        assert_eq!(options("maxf"), ["maxFileAge' '", "maxFilesPerTrigger' '"]);
        assert_eq!(quoted("SELECT 'a' FROM b"), None);
        assert_eq!(quoted("\\i sql/q"), Some(3));
        let (start, found) = candidates("\\ti", &Known::default());
        assert_eq!((start, found), (0, vec!["\\timing".to_string()]));
    }

    #[test]
    fn options_are_those_of_the_documentation() {
        let documentation = include_str!("../../../docs/options.md");
        for option in OPTIONS {
            assert!(documentation.contains(&format!("`{option}`")), "{option}");
        }
    }

    #[test]
    fn keywords_are_sorted_and_unique() {
        assert!(KEYWORDS.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
