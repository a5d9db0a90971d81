//! `SELECT` over an unbounded table: its rows as they come, until enough were seen or Ctrl-C.

use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use tidemill::sql::{LiveQuery, Located, SqlOutcome, SqlSession, Statement};
use tidemill::{Error, OutputMode, StopMode, StreamingQuery, WriteStream};
use tokio::sync::mpsc;

use super::output::{PrintError, Printed, Printer};

/// Ends the query when its rows are no longer wanted.
struct Running(StreamingQuery);

impl Drop for Running {
    fn drop(&mut self) {
        let query = self.0.clone();
        // It keeps nothing that the batch in flight could matter to.
        tokio::spawn(async move { query.stop(StopMode::Abandon).await });
    }
}

/// Prints the rows of `query` batch by batch.
pub(super) async fn run(query: LiveQuery, printer: &Printer) -> Result<Printed, PrintError> {
    let mut printed = Printed::default();
    if query.limit == Some(0) {
        return Ok(printed);
    }
    let schema = Arc::clone(query.frame.schema().inner());
    let (sender, mut batches) = mpsc::channel::<Vec<RecordBatch>>(1);
    let writer = query.frame.write_stream().trigger(query.trigger).foreach_batch(move |rows, _| {
        let sender = sender.clone();
        async move {
            // Nobody wants them any more: the query is being stopped.
            let _ = sender.send(rows.collect().await?).await;
            Ok(())
        }
    });
    // Results as they are by now, or if they cannot be told, those that are final.
    let running = match writer.clone().output_mode(OutputMode::Update).start(None).await {
        Err(Error::UnsupportedQuery { .. }) => writer.output_mode(OutputMode::Append).start(None).await?,
        started => started?,
    };
    let running = Running(running);
    let mut table = printer.table(schema);
    loop {
        let rows = tokio::select! {
            // What was sent before the end is shown before it.
            biased;
            rows = batches.recv() => rows,
            ended = running.0.await_termination() => {
                ended?;
                batches.try_recv().ok()
            }
        };
        let Some(rows) = rows else { break };
        for rows in rows {
            let wanted = query.limit.map_or(u64::MAX, |limit| limit - printed.rows);
            let take = rows.num_rows().min(usize::try_from(wanted).unwrap_or(usize::MAX));
            printed.rows += take as u64;
            table.push(rows.slice(0, take))?;
        }
        table.flush()?;
        if query.limit.is_some_and(|limit| printed.rows >= limit) {
            break;
        }
    }
    table.finish()?;
    printed.shown = printed.rows;
    Ok(printed)
}

/// Whether `error` is that a statement would read rows that never end.
fn is_endless(error: &Error) -> bool {
    matches!(error, Error::UnsupportedQuery { reason, .. } if reason == "its rows never end")
}

/// What a statement has come to in a command that shows rows of unbounded tables, too.
pub(super) enum Shown {
    Outcome(SqlOutcome),
    Live(Printed),
}

/// Runs a statement, or shows its rows if they never end.
pub(super) async fn execute(
    sql: &SqlSession,
    statement: &Located<Statement>,
    printer: &Printer,
) -> Result<Shown, PrintError> {
    match sql.execute(statement).await {
        Ok(outcome) => Ok(Shown::Outcome(outcome)),
        Err(error) if is_endless(&error) => match sql.live_query(statement).await? {
            Some(query) => run(query, printer).await.map(Shown::Live),
            None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}
