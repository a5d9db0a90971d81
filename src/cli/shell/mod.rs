//! `tidemill sql`: the shell.

mod commands;
mod complete;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor, ExternalPrinter};
use tidemill::sql::{Located, SqlOutcome, SqlSession, Statement};
use tidemill::{QueryTerminated, StreamingQueryListener};

use super::exit::Exit;
use super::job;
use super::monitor::Monitor;
use super::output::{PrintError, print, print_rows, print_table};
use super::signals::Signals;
use super::text::{Script, count, duration, to_stderr};
use super::{JobOptions, ProgressMode, settings};
use complete::{Names, ShellHelper};

type ShellEditor = Editor<ShellHelper, FileHistory>;

/// Runs `command`, or what comes through a pipe, or asks for statements.
pub(super) async fn run(command: Option<String>, options: &JobOptions) -> Result<(), Exit> {
    match command {
        Some(text) => job::run_script(&Script { name: "-c".into(), text }, options).await,
        None if !std::io::stdin().is_terminal() => job::run_stdin(options).await,
        None => interact(options).await,
    }
}

async fn interact(options: &JobOptions) -> Result<(), Exit> {
    let sql = settings::session(options).await?;
    let shell = Shell::new(&sql, options);
    let message = format!("tidemill {}; \\? for help, \\q to leave\n", env!("CARGO_PKG_VERSION"));
    shell.print(&message)?;
    let mut editor = shell.editor()?;
    loop {
        shell.names.refresh(&sql).await;
        let (returned, line) = read_line(editor).await?;
        editor = returned;
        match line {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                // Without a history the shell is as useful as before.
                let _ = editor.add_history_entry(line.as_str());
                if let Some(history) = history_file() {
                    let _ = editor.append_history(&history);
                }
                if line.trim_start().starts_with('\\') {
                    if !shell.command(line.trim()).await? {
                        break;
                    }
                } else {
                    shell.statements(&Script { name: "input".into(), text: line }).await?;
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(Exit::failed(format!("cannot read the terminal: {error}"))),
        }
    }
    shell.leave().await
}

/// Reads a line on a thread of its own: streaming queries go on meanwhile.
async fn read_line(mut editor: ShellEditor) -> Result<(ShellEditor, Result<String, ReadlineError>), Exit> {
    let reading = tokio::task::spawn_blocking(move || {
        let line = editor.readline("tidemill> ");
        (editor, line)
    });
    reading.await.map_err(|error| Exit::failed(format!("cannot read the terminal: {error}")))
}

struct Shell<'a> {
    sql: &'a SqlSession,
    monitor: Arc<Monitor>,
    names: Names,
}

impl<'a> Shell<'a> {
    fn new(sql: &'a SqlSession, options: &JobOptions) -> Self {
        let progress = match options.progress {
            // A bar would be drawn over what is being typed.
            ProgressMode::Bar => ProgressMode::None,
            other => other,
        };
        let monitor = Monitor::new(progress);
        sql.session().streams().add_listener(Arc::clone(&monitor) as _);
        Self { sql, monitor, names: Names::default() }
    }

    fn editor(&self) -> Result<ShellEditor, Exit> {
        let failed = |error: ReadlineError| Exit::failed(format!("cannot use the terminal: {error}"));
        let config = Config::builder().completion_type(CompletionType::List).build();
        let mut editor = ShellEditor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(ShellHelper::new(self.names.clone())));
        if let Some(history) = history_file() {
            // There is none before the first use.
            let _ = editor.load_history(&history);
        }
        let printer: Box<dyn ExternalPrinter + Send> =
            Box::new(editor.create_external_printer().map_err(failed)?);
        self.sql.session().streams().add_listener(Arc::new(FailureReporter { printer: Mutex::new(printer) }));
        Ok(editor)
    }

    fn print(&self, text: &str) -> Result<(), Exit> {
        print(text, &self.monitor).map_err(|error| Exit::output(&error))
    }

    /// Runs the statements of a line. What goes wrong is told, and ends the line but not the shell.
    async fn statements(&self, script: &Script) -> Result<(), Exit> {
        let statements = match self.sql.parse(&script.text) {
            Ok(statements) => statements,
            Err(error) => {
                self.monitor.error(&script.describe(&error, (1, 1)));
                return Ok(());
            }
        };
        let mut signals = interrupts()?;
        for statement in &statements {
            let started = Instant::now();
            let ended = tokio::select! {
                ended = run_statement(self.sql, statement, &self.monitor) => Some(ended),
                () = signals.next() => None,
            };
            match ended {
                Some(Ok(done)) => self.print(&format!("{done} ({})\n", duration(started.elapsed())))?,
                Some(Err(PrintError::Query(error))) => {
                    self.monitor.error(&script.describe(&error, (statement.line, statement.column)));
                    return Ok(());
                }
                Some(Err(PrintError::Output(error))) => return Err(Exit::output(&error)),
                None => {
                    self.monitor.error("interrupted");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Runs a command that starts with a backslash; gives whether the shell goes on.
    async fn command(&self, line: &str) -> Result<bool, Exit> {
        match commands::run(line, self.sql).await {
            Ok(commands::Answer::Leave) => return Ok(false),
            Ok(commands::Answer::Text(text)) => self.print(&text)?,
            Ok(commands::Answer::Table(batch)) => match print_table(&[batch], &self.monitor) {
                Ok(()) => {}
                Err(PrintError::Query(error)) => self.monitor.error(&error.to_string()),
                Err(PrintError::Output(error)) => return Err(Exit::output(&error)),
            },
            Err(error) => self.monitor.error(&error.to_string()),
        }
        Ok(true)
    }

    /// Ends the queries that run, each after its batch in flight.
    async fn leave(&self) -> Result<(), Exit> {
        let active = self.sql.session().streams().active();
        if active.is_empty() {
            return Ok(());
        }
        let mut signals = interrupts()?;
        to_stderr("finishing the batches in flight; Ctrl-C leaves at once");
        let stopping =
            futures::future::join_all(active.iter().map(|query| query.stop(tidemill::StopMode::Finish)));
        tokio::select! {
            // Failures have been told by the listener.
            _ = stopping => Ok(()),
            () = signals.next() => Err(Exit::interrupted()),
        }
    }
}

/// Ctrl-C from now on; what was pressed before is not meant for what comes.
fn interrupts() -> Result<Signals, Exit> {
    Signals::interrupts().map_err(|error| Exit::failed(format!("cannot listen to signals: {error}")))
}

/// Runs one statement, prints its result, and says what was done.
async fn run_statement(
    sql: &SqlSession,
    statement: &Located<Statement>,
    monitor: &Monitor,
) -> Result<String, PrintError> {
    match sql.execute(statement).await.map_err(PrintError::Query)? {
        SqlOutcome::Done(message) => Ok(message),
        SqlOutcome::Rows(frame) => Ok(count(print_rows(frame, monitor).await?, "row")),
        SqlOutcome::Table(batches) => {
            print_table(&batches, monitor)?;
            Ok(count(batches.iter().map(|batch| batch.num_rows() as u64).sum(), "row"))
        }
        SqlOutcome::Query(started) => {
            let name = started.query.name().unwrap_or_default();
            Ok(format!("streaming query '{name}' started; SHOW STREAMING QUERIES tells how it is doing"))
        }
    }
}

/// Tells of queries that fail while the user is typing.
struct FailureReporter {
    printer: Mutex<Box<dyn ExternalPrinter + Send>>,
}

impl std::fmt::Debug for FailureReporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FailureReporter")
    }
}

impl StreamingQueryListener for FailureReporter {
    fn on_query_terminated(&self, event: &QueryTerminated) {
        if let Some(exception) = &event.exception {
            let mut printer = self.printer.lock().unwrap_or_else(PoisonError::into_inner);
            if printer.print(format!("error: {exception}\n")).is_err() {
                to_stderr(&format!("error: {exception}"));
            }
        }
    }
}

/// `$XDG_STATE_HOME/tidemill/history`, or `~/.tidemill_history`.
fn history_file() -> Option<PathBuf> {
    let directory = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(state) = directory("XDG_STATE_HOME") {
        let folder = state.join("tidemill");
        std::fs::create_dir_all(&folder).ok()?;
        return Some(folder.join("history"));
    }
    let home = directory("HOME").or_else(|| directory("USERPROFILE"))?;
    Some(home.join(".tidemill_history"))
}
