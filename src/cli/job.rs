//! Running a script and its streaming queries to the end.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tidemill::sql::{Located, SqlOutcome, SqlSession, StartedQuery, Statement};
use tidemill::{Error, StopMode};

use super::exit::{Exit, is_unread};
use super::live::{self, Shown};
use super::monitor::Monitor;
use super::output::{Format, PrintError, Printer};
use super::signals::{Listen, Signals};
use super::text::Script;
use super::{IfRunning, JobOptions, ProgressMode, settings};

/// `tidemill run FILE`
pub(super) async fn run_file(name: &str, options: &JobOptions) -> Result<(), Exit> {
    if name == "-" {
        return run_stdin(options).await;
    }
    let text = tokio::fs::read_to_string(name).await;
    let text = text.map_err(|error| Exit::usage(format!("cannot read '{name}': {error}")))?;
    // Some editors mark UTF-8 with an invisible character, which is no SQL.
    let text = text.trim_start_matches('\u{feff}').to_string();
    run_script(&Script { name: name.to_string(), text }, options).await
}

/// The script that comes through standard input.
pub(super) async fn run_stdin(options: &JobOptions) -> Result<(), Exit> {
    // Nothing else is going on yet that this could hold up.
    let text = std::io::read_to_string(std::io::stdin());
    let text = text.map_err(|error| Exit::usage(format!("cannot read standard input: {error}")))?;
    run_script(&Script { name: "standard input".into(), text }, options).await
}

/// Runs statements that were given to the shell.
pub(super) async fn run_statements(script: &Script, options: &JobOptions) -> Result<(), Exit> {
    run_all(script, options, true).await
}

/// Runs a script and waits for its streaming queries.
async fn run_script(script: &Script, options: &JobOptions) -> Result<(), Exit> {
    run_all(script, options, false).await
}

async fn run_all(script: &Script, options: &JobOptions, shows_live: bool) -> Result<(), Exit> {
    let sql = settings::session(options).await?;
    let mut job = Job::new(sql, options.progress, options.format)?;
    job.shows_live = shows_live;
    job.run(script).await?;
    job.finish().await
}

/// A session that statements run in, and the streaming queries that they have started.
pub(super) struct Job {
    sql: Arc<SqlSession>,
    monitor: Arc<Monitor>,
    printer: Printer,
    signals: Signals,
    queries: Vec<StartedQuery>,
    /// Whether a SELECT over an unbounded table shows its rows as they come, instead of being refused.
    shows_live: bool,
}

impl Job {
    pub(super) fn new(sql: Arc<SqlSession>, progress: ProgressMode, format: Format) -> Result<Self, Exit> {
        let monitor = Monitor::new(progress);
        let printer = Printer::new(Arc::clone(&monitor), format);
        sql.session().streams().add_listener(Arc::clone(&monitor) as _);
        let signals = Signals::install(Listen::InterruptAndTerminate)
            .map_err(|error| Exit::failed(format!("cannot listen to signals: {error}")))?;
        Ok(Self { sql, monitor, printer, signals, queries: Vec::new(), shows_live: false })
    }

    /// Runs the statements one after the other. If one fails, the queries that run are stopped.
    async fn run(&mut self, script: &Script) -> Result<(), Exit> {
        let statements = self
            .sql
            .parse(&script.text)
            .map_err(|error| Exit::of(&error, script.describe(&error, (1, 1))))?;
        self.sql.use_pinned_columns(&statements).await;
        let is_streaming =
            statements.iter().any(|statement| matches!(statement.value, Statement::CreateStreamingQuery(_)));
        for statement in statements {
            let place = (statement.line, statement.column);
            let running =
                run_statement(Arc::clone(&self.sql), statement, self.printer.clone(), self.shows_live);
            let ended = tokio::select! {
                ended = in_background(running) => ended,
                () = self.signals.next() => {
                    // A batch query that is cut short has not done what was asked for. A streaming query that
                    // has not begun goes on at its next start, as one that has.
                    self.stop_all().await?;
                    return if is_streaming { Ok(()) } else { Err(Exit::interrupted()) };
                }
            };
            match ended {
                Ok(Some(query)) => self.add(query),
                Ok(None) => {}
                Err(PrintError::Query(error)) if IfRunning::is_skipped(&error) => {
                    self.monitor.note(&error.to_string());
                }
                Err(error) => {
                    self.stop_all().await?;
                    return Err(match error {
                        PrintError::Query(error) => Exit::of(&error, script.describe(&error, place)),
                        PrintError::Output(error) => Exit::output(&error),
                    });
                }
            }
        }
        Ok(())
    }

    /// The query that `starting` starts; `None` if it was left alone because it runs already, or because the
    /// process was asked to leave.
    pub(super) async fn unless_asked_to_leave(
        &mut self,
        starting: impl Future<Output = Result<StartedQuery, Exit>>,
    ) -> Result<Option<StartedQuery>, Exit> {
        tokio::select! {
            started = starting => match started {
                Err(exit) if exit.is_skipped() => {
                    self.monitor.note(exit.text());
                    Ok(None)
                }
                started => started.map(Some),
            },
            () = self.signals.next() => Ok(None),
        }
    }

    /// Waits for `query`, too, in [`Job::finish`].
    pub(super) fn add(&mut self, query: StartedQuery) {
        self.queries.push(query);
    }

    /// Waits until all queries have ended, or have been stopped by a signal; then says what they did.
    pub(super) async fn finish(&mut self) -> Result<(), Exit> {
        let failed = self.wait(false).await?;
        for query in &self.queries {
            self.monitor.note(&self.monitor.summary(query));
        }
        if failed { Err(Exit::failed_silently()) } else { Ok(()) }
    }

    /// Ends all queries after their batches in flight.
    async fn stop_all(&mut self) -> Result<(), Exit> {
        self.queries.iter().for_each(request_stop);
        self.wait(true).await.map(|_| ())
    }

    /// Waits until all queries have ended; gives whether one failed. A signal stops them, or if they
    /// are stopping already ends the wait.
    ///
    /// When one fails, those that would go on for ever are stopped, or nobody would notice.
    async fn wait(&mut self, mut stopping: bool) -> Result<bool, Exit> {
        let mut running: FuturesUnordered<_> =
            self.queries.iter().map(|started| started.query.await_termination()).collect();
        let mut failed = false;
        loop {
            tokio::select! {
                ended = running.next() => match ended {
                    None => {
                        self.monitor.finish();
                        return Ok(failed);
                    }
                    Some(Ok(())) => {}
                    Some(Err(Error::StreamFailed(failed))) if is_unread(&failed) => {}
                    Some(Err(error)) => {
                        self.monitor.error(&error.to_string());
                        failed = true;
                        self.queries.iter().filter(|started| !started.trigger.ends()).for_each(request_stop);
                    }
                },
                () = self.signals.next() => {
                    if stopping {
                        return Err(Exit::interrupted());
                    }
                    stopping = true;
                    self.monitor.note("finishing the batch in flight; Ctrl-C again leaves at once");
                    self.queries.iter().for_each(request_stop);
                }
            }
        }
    }
}

/// Has a query end after the batch in flight, without waiting for it.
fn request_stop(started: &StartedQuery) {
    let query = started.query.clone();
    // Whoever waits for its end learns of its error.
    tokio::spawn(async move { query.stop(StopMode::Finish).await });
}

/// Runs `work` as a task of its own, so that it does not hold up its caller however long it computes
/// without a pause. Dropping the returned future ends the task at its next pause.
pub(super) async fn in_background<T: Send + 'static>(
    work: impl Future<Output = Result<T, PrintError>> + Send + 'static,
) -> Result<T, PrintError> {
    let mut task = tokio::task::JoinSet::new();
    task.spawn(work);
    match task.join_next().await {
        Some(Ok(result)) => result,
        // It panicked, which is a bug.
        Some(Err(error)) => Err(DataFusionError::ExecutionJoin(Box::new(error)).into()),
        None => Err(DataFusionError::Internal("a task was lost".into()).into()),
    }
}

/// Runs one statement and prints its result; gives the streaming query that it started.
async fn run_statement(
    sql: Arc<SqlSession>,
    statement: Located<Statement>,
    printer: Printer,
    shows_live: bool,
) -> Result<Option<StartedQuery>, PrintError> {
    let outcome = match shows_live {
        true => match live::execute(&sql, &statement, &printer).await? {
            Shown::Outcome(outcome) => outcome,
            Shown::Live(_) => return Ok(None),
        },
        false => sql.execute(&statement).await?,
    };
    match outcome {
        SqlOutcome::Done(_) => Ok(None),
        SqlOutcome::Rows(frame) => printer.rows(frame).await.map(|_| None),
        SqlOutcome::Table(batches) => printer.batches(&batches).map(|_| None),
        SqlOutcome::Query(query) => Ok(Some(query)),
    }
}
