//! Running a script and its streaming queries to the end.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tidemill::StopMode;
use tidemill::sql::{Located, SqlOutcome, SqlSession, StartedQuery, Statement};
use tokio::sync::mpsc::UnboundedReceiver;

use super::exit::{Exit, is_unread};
use super::live::{self, Shown};
use super::monitor::Monitor;
use super::output::{Format, PrintError, Printer};
use super::queries::Queries;
use super::signals::{Listen, Signals};
use super::text::Script;
use super::{IfRunning, JobOptions, ProgressMode, http, pg, settings};

/// `tidemill run FILE`
pub(super) async fn run_file(name: &str, options: &JobOptions) -> Result<(), Exit> {
    if name == "-" {
        return run_stdin(options).await;
    }
    let text = tokio::fs::read_to_string(name).await;
    let text = text.map_err(|error| Exit::usage(format!("cannot read '{name}': {error}")))?;
    run_script(&Script { name: name.to_string(), text: without_mark(&text) }, options).await
}

/// The script that comes through standard input.
pub(super) async fn run_stdin(options: &JobOptions) -> Result<(), Exit> {
    // Nothing else is going on yet that this could hold up.
    let text = std::io::read_to_string(std::io::stdin());
    let text = text.map_err(|error| Exit::usage(format!("cannot read standard input: {error}")))?;
    run_script(&Script { name: "standard input".into(), text: without_mark(&text) }, options).await
}

/// Some editors mark UTF-8 with an invisible character, which is no SQL.
fn without_mark(text: &str) -> String {
    text.trim_start_matches('\u{feff}').to_string()
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
    if let Some(address) = &options.listen {
        job.listen(address).await?;
    }
    if let Some(address) = &options.pg {
        let address = pg::listen(address, Arc::clone(&job.sql)).await?;
        job.monitor.note(&format!("the tables can be read at postgres://{address}/tidemill"));
    }
    job.run(script).await?;
    job.set_ready();
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
    /// Those who look on from outside, if there are any.
    watched: Option<Watched>,
}

/// The queries as others see them, and those that they start again.
struct Watched {
    queries: Arc<Queries>,
    restarts: UnboundedReceiver<StartedQuery>,
}

impl Job {
    pub(super) fn new(sql: Arc<SqlSession>, progress: ProgressMode, format: Format) -> Result<Self, Exit> {
        let monitor = Monitor::new(progress);
        let printer = Printer::new(Arc::clone(&monitor), format);
        sql.session().streams().add_listener(Arc::clone(&monitor) as _);
        let signals = Signals::install(Listen::InterruptAndTerminate)
            .map_err(|error| Exit::failed(format!("cannot listen to signals: {error}")))?;
        Ok(Self { sql, monitor, printer, signals, queries: Vec::new(), shows_live: false, watched: None })
    }

    /// Shows the queries to others at `address`.
    async fn listen(&mut self, address: &str) -> Result<(), Exit> {
        let (queries, restarts) = Queries::of(&self.sql);
        let url = http::listen(address, Arc::clone(&queries)).await?;
        self.monitor.note(&format!("the queries are shown at {url}"));
        self.watched = Some(Watched { queries, restarts });
        Ok(())
    }

    fn set_ready(&self) {
        self.watched.iter().for_each(|watched| watched.queries.set_ready());
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
    /// When one fails, those that would go on for ever are stopped, or nobody would notice. Where somebody looks
    /// on, they go on, and the one that failed can be started again.
    async fn wait(&mut self, mut stopping: bool) -> Result<bool, Exit> {
        let mut running: FuturesUnordered<_> = self.queries.iter().cloned().map(ended).collect();
        loop {
            let stays = !stopping && self.watched.as_ref().is_some_and(|watched| watched.queries.keeps_any());
            if running.is_empty() && !stays {
                self.monitor.finish();
                return Ok(self.queries.iter().any(has_failed));
            }
            let event = tokio::select! {
                Some((query, result)) = running.next() => Event::Ended(query, result),
                query = next_restart(&mut self.watched) => Event::Restarted(query),
                () = self.signals.next() => Event::Signal,
            };
            match event {
                Event::Ended(query, Err(error)) if has_failed(&query) => {
                    self.monitor.error(&error.to_string());
                    self.failed(&query, stopping);
                }
                Event::Ended(..) => {}
                Event::Restarted(query) => {
                    running.push(ended(query.clone()));
                    self.queries.retain(|known| known.query.name() != query.query.name());
                    self.queries.push(query);
                }
                Event::Signal if stopping => return Err(Exit::interrupted()),
                Event::Signal => {
                    stopping = true;
                    self.monitor.note("finishing the batch in flight; Ctrl-C again leaves at once");
                    self.queries.iter().for_each(request_stop);
                }
            }
        }
    }

    /// Does what follows from the failure of `query`.
    fn failed(&self, query: &StartedQuery, stopping: bool) {
        match (&self.watched, query.query.name()) {
            (Some(watched), Some(name)) if !stopping && !query.trigger.ends() => {
                // Unless it has been started again since.
                if watched.queries.is_newest(query) {
                    watched.queries.hold(name);
                }
            }
            (Some(_), _) => {}
            (None, _) => {
                self.queries.iter().filter(|started| !started.trigger.ends()).for_each(request_stop);
            }
        }
    }
}

/// What a command that runs queries waits for.
enum Event {
    Ended(StartedQuery, tidemill::Result<()>),
    Restarted(StartedQuery),
    Signal,
}

/// The query and how it ended, when it has.
async fn ended(query: StartedQuery) -> (StartedQuery, tidemill::Result<()>) {
    let result = query.query.await_termination().await;
    (query, result)
}

/// The next query that somebody starts again.
async fn next_restart(watched: &mut Option<Watched>) -> StartedQuery {
    if let Some(watched) = watched
        && let Some(query) = watched.restarts.recv().await
    {
        return query;
    }
    std::future::pending().await
}

/// Whether the run has failed. That nobody reads what it prints is no failure.
fn has_failed(query: &StartedQuery) -> bool {
    query.query.exception().is_some_and(|exception| !is_unread(&exception))
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
