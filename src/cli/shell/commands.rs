//! The shell's commands that are not SQL.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::logical_expr::{Documentation, TableType};
use tidemill::sql::SqlSession;
use tidemill::{Error, Result, Session, StreamTable, nearest, sql_type_name};

const HELP: &str = "\
Statements end with a semicolon and may span lines. Ctrl-C interrupts a statement.

  \\d, \\dt      list tables
  \\d TABLE     list the columns of a table, and how it was made
  \\h FUNCTION  what a function does
  \\i FILE      run the statements of a file
  \\o [FILE]    write results to a file; without one to the terminal again
  \\x           a line per value, or a table again; also on, off
  \\format F    table, json, csv or ndjson
  \\limit N     show at most N rows of a result on the terminal; 0 for all
  \\pager [P]   show results page by page with the program P ($PAGER, or less), or no longer
  \\timing      tell how long statements take, or no longer; also on, off
  \\q           leave, as quit and exit; streaming queries finish their batch in flight
  \\?           this help, as help

  SELECT … FROM 'dir/*.parquet'       look into files; read_csv('a.csv', sep => ';') has options
  CREATE UNBOUNDED EXTERNAL TABLE …   an input of streaming queries
  SELECT … FROM unbounded [LIMIT n]   its rows as they come, until Ctrl-C
  CREATE EXTERNAL TABLE …             a batch table, and where streaming queries write to
  CREATE STREAMING QUERY …            start a query in the background
  SHOW STREAMING QUERIES;  STOP STREAMING QUERY name;  EXPLAIN STREAMING QUERY AS INSERT INTO …
";

/// Words that mean a command without a backslash, as in other shells.
const WORDS: [(&str, &str); 5] =
    [("help", "\\?"), ("quit", "\\q"), ("exit", "\\q"), (".help", "\\?"), (".quit", "\\q")];

/// What the commands are, for completion.
pub(super) const NAMES: [&str; 12] =
    ["\\?", "\\d", "\\dt", "\\format", "\\h", "\\i", "\\limit", "\\o", "\\pager", "\\q", "\\timing", "\\x"];

/// What a command asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    Help,
    Leave,
    ListTables,
    Describe(&'a str),
    Function(&'a str),
    Include(&'a str),
    Output(Option<&'a str>),
    /// Whether it is to be so; without it, the other way than it is.
    Expanded(Option<bool>),
    Format(&'a str),
    Limit(u64),
    Pager(Option<&'a str>),
    Timing(Option<bool>),
    /// A command that there is, and what it needs.
    Needs(&'static str, &'static str),
    Unknown,
}

/// The command in `line`, if it is none of SQL.
pub(super) fn parse(line: &str) -> Option<Command<'_>> {
    let line = line.trim().trim_end_matches(';').trim_end();
    let word = WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(line));
    let line = word.map_or(line, |(_, command)| command);
    if !line.starts_with('\\') {
        return None;
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = Some(rest.trim().trim_matches('\'')).filter(|rest| !rest.is_empty());
    Some(match (name, argument) {
        ("\\q" | "\\quit", None) => Command::Leave,
        ("\\?" | "\\h" | "\\help", None) => Command::Help,
        ("\\d" | "\\dt", None) => Command::ListTables,
        ("\\d", Some(table)) => Command::Describe(table),
        ("\\h" | "\\df", Some(function)) => Command::Function(function),
        ("\\i", Some(file)) => Command::Include(file),
        ("\\o", file) => Command::Output(file),
        ("\\x", None) => Command::Expanded(None),
        ("\\x", Some(switch)) => is_on(switch)
            .map_or(Command::Needs("\\x", "on, off or nothing"), |on| Command::Expanded(Some(on))),
        ("\\format", Some(format)) => Command::Format(format),
        ("\\limit", rows) => rows.and_then(|rows| rows.replace('_', "").parse().ok()).map_or(
            Command::Needs("\\limit", "a number of rows, as in \\limit 100; 0 shows all"),
            Command::Limit,
        ),
        ("\\format", None) => Command::Needs("\\format", "one of table, json, csv and ndjson"),
        ("\\i", None) => Command::Needs("\\i", "the name of a file with statements"),
        ("\\pager", program) => Command::Pager(program),
        ("\\timing", None) => Command::Timing(None),
        ("\\timing", Some(switch)) => is_on(switch)
            .map_or(Command::Needs("\\timing", "on, off or nothing"), |on| Command::Timing(Some(on))),
        _ => Command::Unknown,
    })
}

fn is_on(switch: &str) -> Option<bool> {
    match switch.to_ascii_lowercase().as_str() {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

pub(super) fn help() -> &'static str {
    HELP
}

pub(super) fn unknown(line: &str) -> Error {
    let name = line.split_whitespace().next().unwrap_or(line);
    let hint = nearest(name, &NAMES).filter(|near| *near != name);
    let hint = hint.map_or_else(String::new, |near| format!("; did you mean {near}"));
    Error::Invalid(format!("unknown command '{line}'{hint}. \\? lists the commands"))
}

/// A table of the session.
pub(super) struct Listed {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) table: Arc<dyn TableProvider>,
}

/// All tables of all catalogs but the information schema.
pub(super) async fn tables(session: &Session) -> Vec<Listed> {
    let context = session.context();
    let mut listed = Vec::new();
    for catalog in context.catalog_names() {
        let Some(catalog) = context.catalog(&catalog) else { continue };
        for schema_name in catalog.schema_names() {
            let Some(schema) = catalog.schema(&schema_name).filter(|_| schema_name != "information_schema")
            else {
                continue;
            };
            let mut names = schema.table_names();
            names.sort();
            for name in names {
                // One that cannot be loaded is not listed; using it tells why.
                if let Ok(Some(table)) = schema.table(&name).await {
                    listed.push(Listed { schema: schema_name.clone(), name, table });
                }
            }
        }
    }
    listed
}

pub(super) async fn list_tables(session: &Session) -> Result<RecordBatch> {
    let tables = tables(session).await;
    let kind = |table: &Listed| match table.table.table_type() {
        _ if table.table.is::<StreamTable>() => "unbounded table",
        TableType::View => "view",
        _ => "table",
    };
    let columns: [(&str, ArrayRef); 3] = [
        ("schema", Arc::new(StringArray::from_iter_values(tables.iter().map(|table| &table.schema)))),
        ("name", Arc::new(StringArray::from_iter_values(tables.iter().map(|table| &table.name)))),
        ("kind", Arc::new(StringArray::from_iter_values(tables.iter().map(kind)))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// The columns of a table, and the statement that made it, if that is known.
pub(super) async fn describe(session: &Session, name: &str) -> Result<(RecordBatch, Option<String>)> {
    let table = session.context().table_provider(TableReference::from(name)).await?;
    let schema = table.schema();
    let text = |of: fn(&datafusion::arrow::datatypes::Field) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(schema.fields().iter().map(|field| of(field))))
    };
    let columns: [(&str, ArrayRef); 3] = [
        ("column", text(|field| field.name().clone())),
        ("type", text(|field| sql_type_name(field.data_type()))),
        ("nullable", text(|field| if field.is_nullable() { "yes".into() } else { "no".into() })),
    ];
    let definition = table.get_table_definition().map(str::to_string);
    Ok((RecordBatch::try_from_iter(columns)?, definition))
}

/// What a function does.
pub(super) fn function(sql: &SqlSession, name: &str) -> Result<String> {
    let state = sql.session().context().state();
    let name = name.trim_end_matches("()").to_ascii_lowercase();
    let scalar = state.scalar_functions().get(&name).map(|function| function.documentation());
    let aggregate = || state.aggregate_functions().get(&name).map(|function| function.documentation());
    let window = || state.window_functions().get(&name).map(|function| function.documentation());
    match scalar.or_else(aggregate).or_else(window) {
        Some(Some(documentation)) => Ok(in_words(documentation)),
        Some(None) => Ok(format!("{name} is a function; nothing more is written about it here\n")),
        None => {
            let names = state.scalar_functions().keys().chain(state.aggregate_functions().keys());
            let names: Vec<&str> = names.chain(state.window_functions().keys()).map(String::as_str).collect();
            let hint =
                nearest(&name, &names).map_or_else(String::new, |near| format!("; did you mean '{near}'?"));
            Err(Error::Invalid(format!("there is no function '{name}'{hint}")))
        }
    }
}

fn in_words(documentation: &Documentation) -> String {
    let mut text =
        format!("{}\n  {}\n", documentation.syntax_example.trim(), documentation.description.trim());
    for (argument, meaning) in documentation.arguments.iter().flatten() {
        text += &format!("  {argument}: {}\n", meaning.trim());
    }
    if let Some(example) = &documentation.sql_example {
        let lines = example.lines().filter(|line| !line.trim_start().starts_with("```"));
        text += &lines.map(|line| format!("  {line}\n")).collect::<String>();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_words_of_other_shells_too() {
        for (line, command) in [
            ("help", Command::Help),
            ("QUIT;", Command::Leave),
            ("exit", Command::Leave),
            ("\\q", Command::Leave),
            ("\\d bids;", Command::Describe("bids")),
            ("\\dt", Command::ListTables),
            ("\\i 'my job.sql'", Command::Include("my job.sql")),
            ("\\o", Command::Output(None)),
            ("\\o a.csv", Command::Output(Some("a.csv"))),
            ("\\limit 5", Command::Limit(5)),
            ("\\limit 1_000", Command::Limit(1000)),
            ("\\timing on", Command::Timing(Some(true))),
            ("\\x OFF", Command::Expanded(Some(false))),
            ("\\x maybe", Command::Needs("\\x", "on, off or nothing")),
            ("\\l", Command::Unknown),
        ] {
            assert_eq!(parse(line), Some(command), "{line}");
        }
        assert_eq!(parse("select 1"), None);
        assert_eq!(parse("help me"), None);
        assert!(unknown("\\timeing").to_string().contains("did you mean \\timing. \\? lists"));
    }
}
