//! The shell's commands that are not SQL.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::logical_expr::TableType;
use tidemill::sql::SqlSession;
use tidemill::{Error, Result, Session, StreamTable};

const HELP: &str = "\
Statements end with a semicolon and may span lines. Ctrl-C interrupts a statement.

  \\d         list tables
  \\d TABLE   list the columns of a table
  \\q         leave; streaming queries finish their batch in flight
  \\?         this help

  CREATE UNBOUNDED EXTERNAL TABLE …   an input of streaming queries
  CREATE EXTERNAL TABLE …             a batch table, and where streaming queries write to
  CREATE STREAMING QUERY …            start a query in the background
  SHOW STREAMING QUERIES;  STOP STREAMING QUERY name;  EXPLAIN STREAMING QUERY AS INSERT INTO …
";

/// What a command has come to.
pub(super) enum Answer {
    Text(String),
    Table(RecordBatch),
    Leave,
}

/// Runs the command in `line`, which starts with a backslash.
pub(super) async fn run(line: &str, sql: &SqlSession) -> Result<Answer> {
    let mut words = line.trim_end_matches(';').split_whitespace();
    match (words.next(), words.next()) {
        (Some("\\q" | "\\quit"), None) => Ok(Answer::Leave),
        (Some("\\?" | "\\h" | "\\help"), None) => Ok(Answer::Text(HELP.to_string())),
        (Some("\\d"), None) => list_tables(sql.session()).await.map(Answer::Table),
        (Some("\\d"), Some(table)) => describe(sql.session(), table).await.map(Answer::Table),
        _ => Err(Error::Invalid(format!("unknown command '{line}'; \\? lists the commands"))),
    }
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

async fn list_tables(session: &Session) -> Result<RecordBatch> {
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

async fn describe(session: &Session, name: &str) -> Result<RecordBatch> {
    let table = session.context().table_provider(TableReference::from(name)).await?;
    let schema = table.schema();
    let text = |of: fn(&datafusion::arrow::datatypes::Field) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(schema.fields().iter().map(|field| of(field))))
    };
    let columns: [(&str, ArrayRef); 3] = [
        ("column", text(|field| field.name().clone())),
        ("type", text(|field| field.data_type().to_string())),
        ("nullable", text(|field| if field.is_nullable() { "yes".into() } else { "no".into() })),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}
