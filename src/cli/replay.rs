//! `tidemill replay`

use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast;
use tidemill::arrow::array::RecordBatch;
use tidemill::checkpoint::{Checkpoint, place_of};
use tidemill::prelude::WriteStream;
use tidemill::sql::{SqlOutcome, SqlSession, Statement};
use tidemill::storage::resolve_location;
use tidemill::{Error, Session, Trigger};

use super::ProgressMode;
use super::emit_test::Case;
use super::exit::Exit;
use super::monitor::Monitor;
use super::output::{Format, Printer};
use super::test::compare;
use super::text::Script;

/// What is shown of a batch that was run again.
#[derive(Debug)]
pub(super) enum Shown {
    /// What it gives.
    Rows(Format),
    /// How that differs from what it has written.
    Differences,
    /// All of it, as a test in this directory.
    Test(String),
}

/// Shows what the streaming query of the script `sql` gives for `batch` of `checkpoint`.
pub(super) async fn run(checkpoint: &str, batch: u64, sql: &str, shown: &Shown) -> Result<(), Exit> {
    let text = tokio::fs::read_to_string(sql).await;
    let text = text.map_err(|error| Exit::usage(format!("cannot read '{sql}': {error}")))?;
    let script = Script { name: sql.to_string(), text: text.trim_start_matches('\u{feff}').to_string() };
    let session = SqlSession::new(super::new_session()).replaying(checkpoint, batch);
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
        if let (Shown::Test(directory), true) = (shown, is_query(&statement.value)) {
            let case = Case {
                checkpoint,
                batch,
                job: &script.text,
                session: &session,
                statements: &statements,
                query: statement,
            };
            return match &outcome {
                Ok(SqlOutcome::Table(rows)) => case.emit(directory, Ok(rows.as_slice())).await,
                Err(Error::StreamFailed(failed)) => case.emit(directory, Err(failed.cause.as_ref())).await,
                Err(error) => Err(Exit::of(error, script.describe(error, place))),
                Ok(_) => Ok(()),
            };
        }
        let outcome = outcome.map_err(|error| Exit::of(&error, script.describe(&error, place)))?;
        if let (true, SqlOutcome::Table(rows)) = (is_query(&statement.value), outcome) {
            let printer = |format| Printer::new(Monitor::new(ProgressMode::None), format);
            match shown {
                Shown::Rows(format) => {
                    printer(*format).batches(&rows)?;
                }
                _ => {
                    let text = differences(checkpoint, batch, &rows).await?;
                    printer(Format::default()).text(&text).map_err(|error| Exit::output(&error))?;
                }
            }
        }
    }
    Ok(())
}

/// What is different between what `batch` has written and `rows`, a line each.
async fn differences(checkpoint: &str, batch: u64, rows: &[RecordBatch]) -> Result<String, Exit> {
    let written = written(checkpoint, batch, rows).await?;
    let text = compare::differences(&compare::lines(&written, true)?, &compare::lines(rows, true)?, false);
    let changed = text.lines().map(str::trim_start).filter(|line| line.starts_with(['-', '+']));
    let changed: String = changed.flat_map(|line| [line, "\n"]).collect();
    Ok(if changed.is_empty() {
        format!("batch {batch} gives the rows that it has written\n")
    } else {
        changed
    })
}

/// The rows of the files that `batch` has written, in the columns of `like`.
async fn written(checkpoint: &str, batch: u64, like: &[RecordBatch]) -> Result<Vec<RecordBatch>, Exit> {
    let session = Session::new();
    let url = resolve_location(checkpoint)?;
    let storage = session.open_storage(&url)?;
    let commit = Checkpoint::read_commit(storage.as_ref(), batch).await?;
    let metadata = Checkpoint::read_metadata(storage.as_ref()).await?;
    let (Some(commit), Some(metadata)) = (commit, metadata) else {
        return Err(Exit::failed(format!("batch {batch} was not committed, so it has written nothing")));
    };
    if commit.copied {
        return Err(Exit::usage(format!(
            "batch {batch} was done by the query that this checkpoint is a copy of: compare with the original"
        )));
    }
    let sink = metadata.definition.sink;
    let files = commit.sink["files"].as_array();
    let place = sink.location.as_ref().and_then(|place| place_of(place, &url));
    let (Some(files), Some(place)) = (files, place) else {
        return Err(Exit::usage(format!(
            "the query wrote to a sink of format {}, which does not say what it has of a batch: leave --diff out",
            sink.format
        )));
    };
    let Some(schema) = like.first().map(RecordBatch::schema).filter(|_| !files.is_empty()) else {
        return Ok(Vec::new());
    };
    let folder = tempfile::tempdir();
    let folder = folder.map_err(|error| Exit::failed(format!("there is no temporary directory: {error}")))?;
    let output = session.open_storage(&place)?;
    let copy = session.open_storage(&resolve_location(&folder.path().display().to_string())?)?;
    for name in files.iter().filter_map(|file| file["to"].as_str()) {
        match output.read(name).await? {
            Some(content) => {
                copy.create(name, content).await?;
            }
            None => {
                return Err(Exit::failed(format!("'{name}' of {place}, which batch {batch} wrote, is gone")));
            }
        }
    }
    let reader = session.read_stream().format(&sink.format).schema(schema).partition_by(sink.partition_by);
    let table = reader.options(sink.options).load(folder.path().display().to_string()).await?;
    let read = table.write_stream().format("memory").query_name("written").trigger(Trigger::AvailableNow);
    read.start(None).await?.await_termination().await?;
    let rows = session.context().table("written").await.map_err(Error::from)?.collect().await;
    Ok(rows.map_err(Error::from)?)
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
