//! `tidemill replay`

use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast;
use tidemill::Session;
use tidemill::sql::{SqlOutcome, SqlSession, Statement};

use super::ProgressMode;
use super::exit::Exit;
use super::monitor::Monitor;
use super::output::{Format, Printer};
use super::text::Script;

/// Prints what the streaming query of the script `sql` gives for `batch` of `checkpoint`.
pub(super) async fn run(checkpoint: &str, batch: u64, sql: &str, format: Format) -> Result<(), Exit> {
    let text = tokio::fs::read_to_string(sql).await;
    let text = text.map_err(|error| Exit::usage(format!("cannot read '{sql}': {error}")))?;
    let script = Script { name: sql.to_string(), text: text.trim_start_matches('\u{feff}').to_string() };
    let session = SqlSession::new(Session::new()).replaying(checkpoint, batch);
    let statements =
        session.parse(&script.text).map_err(|error| Exit::of(&error, script.describe(&error, (1, 1))))?;
    let is_query = |statement: &Statement| matches!(statement, Statement::CreateStreamingQuery(_));
    let queries = statements.iter().filter(|statement| is_query(&statement.value)).count();
    if queries != 1 {
        return Err(Exit::usage(format!(
            "'{sql}' has {queries} streaming queries: leave only the one to replay in it"
        )));
    }
    for statement in statements.iter().filter(|statement| !writes(&statement.value)) {
        let place = (statement.line, statement.column);
        let outcome = session.execute(statement).await;
        let outcome = outcome.map_err(|error| Exit::of(&error, script.describe(&error, place)))?;
        if let (true, SqlOutcome::Table(rows)) = (is_query(&statement.value), outcome) {
            let printer = Printer::new(Monitor::new(ProgressMode::None), format);
            printer.batches(&rows)?;
        }
    }
    Ok(())
}

/// Whether a statement would change something outside the session.
fn writes(statement: &Statement) -> bool {
    match statement {
        Statement::DataFusion(statement) => match statement.as_ref() {
            DataFusionStatement::CopyTo(_) => true,
            DataFusionStatement::Statement(statement) => {
                matches!(statement.as_ref(), ast::Statement::Insert(_) | ast::Statement::Copy { .. })
            }
            _ => false,
        },
        _ => false,
    }
}
