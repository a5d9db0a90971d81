//! The statements of a job, moved to where a test can feed them and see what they give, and where they
//! cannot touch anything that is real.

use std::path::{Path, PathBuf};

use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, ObjectNamePart, Statement as SqlStatement};
use tidemill::OutputMode;
use tidemill::sql::{CreateExternalTable, CreateStreamingQuery, Located, Statement};

/// Formats that a test gives rows in as they are; rows of all others are given as JSON.
pub(in crate::cli) const AS_WRITTEN: [&str; 3] = ["json", "csv", "text"];

/// Options about which files are read, when, and what becomes of them: a test's files are its own.
const ABOUT_FILES: [&str; 11] = [
    "cleansource",
    "compression",
    "filenamepattern",
    "maxfileage",
    "minfileage",
    "modifiedafter",
    "modifiedbefore",
    "path",
    "pathglobfilter",
    "sourcearchivedir",
    "startingfrom",
];

/// A table that rows can be given to.
#[derive(Debug)]
pub(super) struct Fed {
    pub(super) name: String,
    pub(super) directory: PathBuf,
    /// Of the files' names.
    pub(super) extension: String,
}

/// A job's statements as a test runs them.
#[derive(Debug, Default)]
pub(super) struct Stage {
    pub(super) statements: Vec<Located<Statement>>,
    pub(super) tables: Vec<Fed>,
    /// Names and modes of the streaming queries.
    pub(super) queries: Vec<(String, OutputMode)>,
}

impl Stage {
    /// `statements` with every place below `root`. `fed` are the names of the tables that the test gives
    /// rows to. An error is the place in the script and what is wrong there.
    pub(super) fn set(
        statements: Vec<Located<Statement>>,
        fed: &[String],
        root: &Path,
    ) -> Result<Self, ((u64, u64), String)> {
        let targets: Vec<String> = statements.iter().filter_map(target).collect();
        let mut stage = Self::default();
        for Located { value, line, column } in statements {
            let value = match value {
                Statement::CreateExternalTable(table) => {
                    let name = plain(&table.name);
                    let moved = if targets.contains(&name) {
                        Ok(as_target(*table))
                    } else if table.unbounded || fed.contains(&name) {
                        stage.feed(*table, name, root)
                    } else {
                        Ok(*table)
                    };
                    Statement::CreateExternalTable(Box::new(
                        moved.map_err(|reason| ((line, column), reason))?,
                    ))
                }
                Statement::CreateStreamingQuery(query) => {
                    let mode = query.plan.clauses.output_mode.unwrap_or(OutputMode::Append);
                    stage.queries.push((as_typed(&query.name), mode));
                    let query = in_place(*query, root);
                    Statement::CreateStreamingQuery(Box::new(query))
                }
                Statement::DataFusion(statement) if writes(&statement) => {
                    let reason = "a test does not run statements that write: it keeps off what is real";
                    return Err(((line, column), reason.into()));
                }
                other => other,
            };
            stage.statements.push(Located { value, line, column });
        }
        Ok(stage)
    }

    /// `table`, reading from a directory of the test's.
    fn feed(
        &mut self,
        mut table: CreateExternalTable,
        name: String,
        root: &Path,
    ) -> Result<CreateExternalTable, String> {
        if AS_WRITTEN.contains(&table.format.as_str()) {
            table.options.retain(|(option, _)| !ABOUT_FILES.contains(&option.to_lowercase().as_str()));
            table.options.iter_mut().for_each(|option| move_path(option, root));
        } else {
            if table.columns.is_empty() {
                return Err(format!(
                    "a test gives the rows of a table of {} as JSON, and needs its columns: \
                     CREATE UNBOUNDED EXTERNAL TABLE {} (name TYPE, …) …",
                    table.format.to_uppercase(),
                    table.name
                ));
            }
            table.format = "json".to_string();
            table.options.retain(|(option, _)| option.eq_ignore_ascii_case("watermarkIdleTimeout"));
        }
        let directory = root.join("in").join(self.tables.len().to_string());
        table.locations = vec![directory.display().to_string()];
        let extension = if table.format == "text" { "txt".to_string() } else { table.format.clone() };
        self.tables.push(Fed { name, directory, extension });
        Ok(table)
    }
}

/// The table that a statement writes to as a stream.
fn target(statement: &Located<Statement>) -> Option<String> {
    match &statement.value {
        Statement::CreateStreamingQuery(query) => Some(plain(&query.plan.insert.target)),
        _ => None,
    }
}

/// `table` in memory, where the test sees what arrives.
fn as_target(table: CreateExternalTable) -> CreateExternalTable {
    CreateExternalTable {
        name: apart(&plain(&table.name)).into(),
        format: "memory".to_string(),
        locations: Vec::new(),
        partitioned_by: Vec::new(),
        order: Vec::new(),
        options: Vec::new(),
        ..table
    }
}

fn in_place(mut query: CreateStreamingQuery, root: &Path) -> CreateStreamingQuery {
    let checkpoint = checkpoint_of(&as_typed(&query.name), root);
    query.plan.clauses.checkpoint = Some(checkpoint.display().to_string());
    query.plan.clauses.options.iter_mut().for_each(|option| move_path(option, root));
    query.plan.insert.target = apart(&plain(&query.plan.insert.target)).into();
    query.name = Ident::with_quote('"', format!("{}{TESTED}", as_typed(&query.name)));
    query
}

/// Where a test keeps the checkpoint of a query.
pub(super) fn checkpoint_of(query: &str, root: &Path) -> PathBuf {
    root.join("checkpoint").join(query)
}

/// Follows the name of a query: a table in memory has the name of the query that fills it, and must not come
/// in the place of another one.
pub(super) const TESTED: &str = " under test";

/// The name of the table that a query writes to in the place of `target`.
fn apart(target: &str) -> Ident {
    Ident::with_quote('"', format!("{target} in the test"))
}

/// Has an option that names a place name one of the test's.
fn move_path((option, value): &mut (String, String), root: &Path) {
    let name = option.to_lowercase();
    if ["path", "dir", "directory", "location"].iter().any(|end| name.ends_with(end)) {
        *value = root.join("other").join(name).display().to_string();
    }
}

fn writes(statement: &DataFusionStatement) -> bool {
    match statement {
        DataFusionStatement::CopyTo(_) => true,
        DataFusionStatement::Statement(statement) => matches!(
            statement.as_ref(),
            SqlStatement::Insert(_) | SqlStatement::Update { .. } | SqlStatement::Delete(_)
        ),
        _ => false,
    }
}

/// A name as it is written in a test: unquoted names in lower case.
pub(in crate::cli) fn plain(name: &ObjectName) -> String {
    let part = |part: &ObjectNamePart| part.as_ident().map_or_else(|| part.to_string(), as_typed);
    name.0.iter().map(part).collect::<Vec<_>>().join(".")
}

fn as_typed(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}
