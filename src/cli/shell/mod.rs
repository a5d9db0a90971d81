//! `tidemill sql`: the shell.

mod commands;
mod complete;
mod console;
mod keys;
mod pager;
mod read;

use std::fs::File;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustyline::error::ReadlineError;
use tidemill::sql::{Located, SqlOutcome, SqlSession, Statement, is_complete};
use tidemill::{Error, QueryTerminated, StreamingQueryListener};

use super::exit::Exit;
use super::live::{self, Shown};
use super::monitor::Monitor;
use super::output::{Format, PrintError, Printed, Printer};
use super::queries::Queries;
use super::signals::{Listen, Signals};
use super::text::{Script, count, duration, number, to_stderr};
use super::{JobOptions, ProgressMode, http, job, pg, settings};
use commands::Command;
use console::{ShellConsole, Terminal};
use pager::Pager;
use read::Editing;

/// The most rows that are shown of a result, unless another number is asked for.
const SHOWN_ROWS: u64 = 40;
/// How long an interrupted statement may take to stop printing.
const STOPPING: Duration = Duration::from_secs(5);

/// Runs `command`, or a file, or what comes through a pipe, or asks for statements.
pub(super) async fn run(
    command: Option<String>,
    file: Option<String>,
    with_rc: bool,
    options: &JobOptions,
) -> Result<(), Exit> {
    match (command, file) {
        (Some(text), _) => job::run_statements(&Script { name: "-c".into(), text }, options).await,
        (None, Some(file)) => job::run_file(&file, options).await,
        (None, None) if !std::io::stdin().is_terminal() => job::run_stdin(options).await,
        (None, None) => interact(with_rc, options).await,
    }
}

async fn interact(with_rc: bool, options: &JobOptions) -> Result<(), Exit> {
    let sql = settings::session(options).await?;
    let mut shell = Shell::new(Arc::clone(&sql), options)?;
    if let Some(address) = &options.listen {
        let (queries, _) = Queries::of(&sql);
        let url = http::listen(address, Arc::clone(&queries)).await?;
        queries.set_ready();
        to_stderr(&format!("the queries are shown at {url}"));
    }
    if let Some(address) = &options.pg {
        let address = pg::listen(address, Arc::clone(&sql)).await?;
        to_stderr(&format!("the tables can be read at postgres://{address}/tidemill"));
    }
    let message = format!("tidemill {}; help for help, quit to leave\n", env!("CARGO_PKG_VERSION"));
    shell.print(&message)?;
    let mut editing = Editing::new()?;
    if let Some(rc) = rc_file().filter(|_| with_rc)
        && let Ok(text) = std::fs::read_to_string(&rc)
    {
        shell.script(rc.display().to_string(), text).await?;
    }
    loop {
        editing.names().refresh(&sql).await;
        shell.failures.take().iter().for_each(|failure| shell.monitor.error(failure));
        match editing.statement(&shell.terminal).await? {
            Ok(text) if text.trim().is_empty() => {}
            Ok(text) => {
                if !shell.input(text).await? {
                    break;
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(Exit::failed(format!("cannot read the terminal: {error}"))),
        }
    }
    shell.leave().await
}

struct Shell {
    sql: Arc<SqlSession>,
    monitor: Arc<Monitor>,
    printer: Printer,
    terminal: Terminal,
    signals: Signals,
    failures: Arc<Failures>,
    tells_times: bool,
    /// What results are shown with.
    pager: Option<String>,
}

impl Shell {
    fn new(sql: Arc<SqlSession>, options: &JobOptions) -> Result<Self, Exit> {
        let progress = match options.progress {
            // A bar would be drawn over what is being typed.
            ProgressMode::Bar => ProgressMode::None,
            other => other,
        };
        let monitor = Monitor::new(progress);
        sql.session().streams().add_listener(Arc::clone(&monitor) as _);
        // SIGTERM ends a shell as it ends any program that waits for its user.
        let signals = Signals::install(Listen::Interrupt)
            .map_err(|error| Exit::failed(format!("cannot listen to signals: {error}")))?;
        let failures = Arc::new(Failures::default());
        sql.session().streams().add_listener(Arc::clone(&failures) as _);
        let terminal = Terminal::default();
        sql.session().register_sink("console", Arc::new(ShellConsole::new(terminal.clone())));
        let mut printer = Printer::new(Arc::clone(&monitor), options.format);
        printer.limit = Some(SHOWN_ROWS);
        Ok(Self { sql, monitor, printer, terminal, signals, failures, tells_times: true, pager: None })
    }

    fn print(&self, text: &str) -> Result<(), Exit> {
        Printer::new(Arc::clone(&self.monitor), Format::Table)
            .text(text)
            .map_err(|error| Exit::output(&error))
    }

    /// Runs what was typed; gives whether the shell goes on.
    async fn input(&mut self, text: String) -> Result<bool, Exit> {
        match commands::parse(&text) {
            Some(Command::Leave) => return Ok(false),
            Some(Command::Include(file)) => match std::fs::read_to_string(file) {
                Ok(included) => self.script(file.to_string(), included).await?,
                Err(error) => self.monitor.error(&format!("cannot read '{file}': {error}")),
            },
            Some(command) => match self.command(command, text.trim()).await {
                Ok(()) => {}
                Err(PrintError::Query(error)) => self.monitor.error(&error.to_string()),
                Err(PrintError::Output(error)) => self.cannot_print(&error)?,
            },
            None => self.statements(&Script { name: "input".into(), text }).await?,
        }
        Ok(true)
    }

    /// Runs a file of statements and commands, the latter on lines of their own.
    async fn script(&mut self, name: String, text: String) -> Result<(), Exit> {
        let mut statements = String::new();
        for line in text.lines() {
            let is_between = statements.trim().is_empty() || is_complete(&statements);
            match commands::parse(line).filter(|_| is_between) {
                Some(Command::Leave | Command::Include(_)) => {
                    self.monitor.error(&format!("'{}' cannot be in a file", line.trim()));
                }
                Some(command) => {
                    // Lines keep their numbers.
                    self.statements(&Script { name: name.clone(), text: statements.clone() }).await?;
                    statements = "\n".repeat(statements.lines().count());
                    match self.command(command, line.trim()).await {
                        Ok(()) => {}
                        Err(PrintError::Query(error)) => self.monitor.error(&error.to_string()),
                        Err(PrintError::Output(error)) => self.cannot_print(&error)?,
                    }
                    statements.push('\n');
                }
                None => {
                    statements += line;
                    statements.push('\n');
                }
            }
        }
        self.statements(&Script { name, text: statements }).await
    }

    /// Runs the statements of a text. What goes wrong is told, and ends the text but not the shell.
    async fn statements(&mut self, script: &Script) -> Result<(), Exit> {
        let statements = match self.sql.parse(&script.text) {
            Ok(statements) => statements,
            Err(error) => {
                self.monitor.error(&script.describe(&error, (1, 1)));
                return Ok(());
            }
        };
        self.signals.forget();
        for statement in statements {
            let (started, place) = (Instant::now(), (statement.line, statement.column));
            match self.interruptible(statement).await {
                Some(Ok(done)) if self.tells_times => {
                    self.print(&format!("{done} ({})\n", duration(started.elapsed())))?;
                }
                Some(Ok(done)) => self.print(&format!("{done}\n"))?,
                Some(Err(PrintError::Query(error))) => {
                    self.monitor.error(&script.describe(&error, place));
                    return Ok(());
                }
                Some(Err(PrintError::Output(error))) => {
                    self.cannot_print(&error)?;
                    return Ok(());
                }
                None => {
                    self.monitor.error("interrupted");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Tells that a result could not be written. Without standard output there is no shell, but without a file there is.
    fn cannot_print(&mut self, error: &std::io::Error) -> Result<(), Exit> {
        if self.printer.file.take().is_none() && self.pager.is_none() {
            return Err(Exit::output(error));
        }
        self.monitor
            .error(&format!("cannot write the result to its file: {error}. Results are shown here again"));
        Ok(())
    }

    /// Runs a statement, unless Ctrl-C ends it. When this returns nothing more is printed.
    async fn interruptible(&mut self, statement: Located<Statement>) -> Option<Result<String, PrintError>> {
        let mut printer = self.printer.clone();
        printer.stopped = Arc::default();
        let mut pager = None;
        if let Some(command) = self.pager.as_ref().filter(|_| printer.file.is_none()) {
            match Pager::start(command) {
                Ok((started, input)) => {
                    (pager, printer.file, printer.is_paged) = (Some(started), Some(Arc::new(input)), true);
                }
                Err(error) => return Some(Err(error.into())),
            }
        }
        let stopped = Arc::clone(&printer.stopped);
        let mut task = tokio::task::JoinSet::new();
        task.spawn(run_statement(Arc::clone(&self.sql), statement, printer));
        let result = tokio::select! {
            ended = task.join_next() => match ended {
                Some(Ok(result)) => Some(result),
                // It panicked, which is a bug.
                Some(Err(error)) => Some(Err(Error::Invalid(format!("this is a bug: {error}")).into())),
                None => None,
            },
            () = self.signals.next() => {
                stopped.store(true, Ordering::Relaxed);
                // What computes without a pause cannot be waited for.
                let _ = tokio::time::timeout(STOPPING, task.shutdown()).await;
                None
            }
        };
        if let Some(pager) = pager {
            pager.wait().await;
        }
        result
    }

    /// Runs a command that is none of SQL.
    async fn command(&mut self, command: Command<'_>, line: &str) -> Result<(), PrintError> {
        let tell = |text: &str| self.printer.text(text).map_err(PrintError::Output);
        match command {
            Command::Help => tell(commands::help()),
            Command::ListTables => {
                self.printer.batches(&[commands::list_tables(self.sql.session()).await?]).map(drop)
            }
            Command::Describe(table) => {
                let (columns, definition) = commands::describe(self.sql.session(), table).await?;
                self.printer.batches(&[columns])?;
                definition.map_or(Ok(()), |definition| tell(&format!("{definition}\n")))
            }
            Command::Function(name) => tell(&commands::function(&self.sql, name)?),
            Command::Output(file) => {
                let create = |name: &str| {
                    File::create(name)
                        .map_err(|error| Error::Invalid(format!("cannot write '{name}': {error}")))
                };
                self.printer.file = file.map(create).transpose()?.map(Arc::new);
                Ok(())
            }
            Command::Expanded(switch) => {
                self.printer.expanded = switch.unwrap_or(!self.printer.expanded);
                self.say(if self.printer.expanded { "a line per value" } else { "rows as tables" })
            }
            Command::Format(name) => match Format::from_str(name, true) {
                Ok(format) => {
                    self.printer.format = format;
                    Ok(())
                }
                Err(_) => Err(Error::Invalid(format!(
                    "unknown format '{name}'; expected table, json, csv or ndjson"
                ))
                .into()),
            },
            Command::Limit(rows) => {
                self.printer.limit = Some(rows).filter(|rows| *rows > 0);
                Ok(())
            }
            Command::Pager(program) => {
                self.pager = match (program, &self.pager) {
                    (Some(program), _) => Some(program.to_string()),
                    (None, None) => Some(pager::usual()),
                    (None, Some(_)) => None,
                };
                match &self.pager {
                    Some(program) => self.say(&format!("results go through '{program}'")),
                    None => self.say("results are not shown page by page"),
                }
            }
            Command::Timing(switch) => {
                self.tells_times = switch.unwrap_or(!self.tells_times);
                self.say(if self.tells_times { "times are told" } else { "times are not told" })
            }
            Command::Needs(name, what) => Err(Error::Invalid(format!("{name} needs {what}")).into()),
            Command::Leave | Command::Include(_) | Command::Unknown => Err(commands::unknown(line).into()),
        }
    }

    fn say(&self, text: &str) -> Result<(), PrintError> {
        let printer = Printer::new(Arc::clone(&self.monitor), Format::Table);
        printer.text(&format!("{text}\n")).map_err(PrintError::Output)
    }

    /// Ends the queries that run, each after its batch in flight.
    async fn leave(&mut self) -> Result<(), Exit> {
        let active = self.sql.session().streams().active();
        if active.is_empty() {
            return Ok(());
        }
        self.signals.forget();
        to_stderr("finishing the batches in flight; Ctrl-C leaves at once");
        let stopping =
            futures::future::join_all(active.iter().map(|query| query.stop(tidemill::StopMode::Finish)));
        tokio::select! {
            _ = stopping => {
                self.failures.take().iter().for_each(|failure| self.monitor.error(failure));
                Ok(())
            }
            () = self.signals.next() => Err(Exit::interrupted()),
        }
    }
}

/// Runs one statement, prints its result, and says what was done.
async fn run_statement(
    sql: Arc<SqlSession>,
    statement: Located<Statement>,
    printer: Printer,
) -> Result<String, PrintError> {
    let outcome = match live::execute(&sql, &statement, &printer).await? {
        Shown::Live(printed) => return Ok(rows(printed)),
        Shown::Outcome(outcome) => outcome,
    };
    match outcome {
        SqlOutcome::Done(message) => Ok(message),
        SqlOutcome::Rows(frame) => Ok(rows(printer.rows(frame).await?)),
        SqlOutcome::Table(batches) => Ok(rows(printer.batches(&batches)?)),
        SqlOutcome::Query(started) => {
            let name = started.query.name().unwrap_or_default();
            Ok(format!("streaming query '{name}' started; SHOW STREAMING QUERIES tells how it is doing"))
        }
    }
}

fn rows(printed: Printed) -> String {
    let rows = count(printed.rows, "row");
    match printed.shown == printed.rows {
        true => rows,
        false => format!("{rows}, {} shown; \\limit N shows more", number(printed.shown)),
    }
}

/// Remembers which queries have failed, to tell before the next prompt: text that came while the user
/// is typing would get mixed up with it.
#[derive(Debug, Default)]
struct Failures(Mutex<Vec<String>>);

impl Failures {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StreamingQueryListener for Failures {
    fn on_query_terminated(&self, event: &QueryTerminated) {
        if let Some(exception) = &event.exception {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(exception.to_string());
        }
    }
}

/// A file of the user's: `$TIDEMILLRC`, or `~/.tidemillrc`.
fn rc_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("TIDEMILLRC").or_else(|| Some(set("HOME").or_else(|| set("USERPROFILE"))?.join(".tidemillrc")))
}
