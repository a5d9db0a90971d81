//! `tidemill sql`: the shell.

mod commands;
mod complete;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use tidemill::sql::{Located, SqlOutcome, SqlSession, Statement};
use tidemill::{QueryTerminated, StreamingQueryListener};

use super::exit::Exit;
use super::job;
use super::monitor::Monitor;
use super::output::{PrintError, print, print_rows, print_table};
use super::signals::{Listen, Signals};
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
    let mut shell = Shell::new(Arc::clone(&sql), options)?;
    let message = format!("tidemill {}; \\? for help, \\q to leave\n", env!("CARGO_PKG_VERSION"));
    shell.print(&message)?;
    let mut editor = shell.editor()?;
    loop {
        shell.names.refresh(&sql).await;
        shell.failures.take().iter().for_each(|failure| shell.monitor.error(failure));
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

struct Shell {
    sql: Arc<SqlSession>,
    monitor: Arc<Monitor>,
    signals: Signals,
    failures: Arc<Failures>,
    names: Names,
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
        Ok(Self { sql, monitor, signals, failures, names: Names::default() })
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
        Ok(editor)
    }

    fn print(&self, text: &str) -> Result<(), Exit> {
        print(text, &self.monitor).map_err(|error| Exit::output(&error))
    }

    /// Runs the statements of a line. What goes wrong is told, and ends the line but not the shell.
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
            let running = run_statement(Arc::clone(&self.sql), statement, Arc::clone(&self.monitor));
            let ended = tokio::select! {
                ended = job::in_background(running) => Some(ended),
                () = self.signals.next() => None,
            };
            match ended {
                Some(Ok(done)) => self.print(&format!("{done} ({})\n", duration(started.elapsed())))?,
                Some(Err(PrintError::Query(error))) => {
                    self.monitor.error(&script.describe(&error, place));
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
        match commands::run(line, &self.sql).await {
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
    monitor: Arc<Monitor>,
) -> Result<String, PrintError> {
    match sql.execute(&statement).await.map_err(PrintError::Query)? {
        SqlOutcome::Done(message) => Ok(message),
        SqlOutcome::Rows(frame) => Ok(count(print_rows(frame, &monitor).await?, "row")),
        SqlOutcome::Table(batches) => {
            print_table(&batches, &monitor)?;
            Ok(count(batches.iter().map(|batch| batch.num_rows() as u64).sum(), "row"))
        }
        SqlOutcome::Query(started) => {
            let name = started.query.name().unwrap_or_default();
            Ok(format!("streaming query '{name}' started; SHOW STREAMING QUERIES tells how it is doing"))
        }
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
