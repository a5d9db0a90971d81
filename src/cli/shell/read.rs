//! Reading statements from the terminal.

use std::path::PathBuf;
use std::sync::Arc;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Cmd, CompletionType, Config, Editor};
use tidemill::sql::is_complete;

use super::super::exit::Exit;
use super::commands;
use super::complete::{Names, ShellHelper};
use super::console::Terminal;
use super::keys::{self, Keys};

type ShellEditor = Editor<ShellHelper, FileHistory>;

const PROMPT: &str = "tidemill> ";
/// Before the further lines of a statement.
const CONTINUED: &str = "       -> ";

/// The editor of lines, with its history.
pub(super) struct Editing {
    /// Away while a line is read.
    editor: Option<ShellEditor>,
    names: Names,
    keys: Arc<Keys>,
    /// Whether the editor prints above the line for others.
    prints_above: bool,
}

impl Editing {
    pub(super) fn new() -> Result<Self, Exit> {
        let failed = |error: ReadlineError| Exit::failed(format!("cannot use the terminal: {error}"));
        // Before the editor looks at what it reads from.
        let keys = Arc::new(Keys::one_at_a_time());
        let config = Config::builder().completion_type(CompletionType::List).build();
        let mut editor = ShellEditor::with_config(config).map_err(failed)?;
        let names = Names::default();
        editor.bind_sequence(keys::DRAWS, Cmd::Repaint);
        editor.set_helper(Some(ShellHelper::new(names.clone())));
        if let Some(history) = history_file() {
            // There is none before the first use.
            let _ = editor.load_history(&history);
        }
        Ok(Self { editor: Some(editor), names, keys, prints_above: false })
    }

    /// The names that can be completed.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Reads a statement, which may span lines, or a command.
    pub(super) async fn statement(
        &mut self,
        terminal: &Terminal,
    ) -> Result<Result<String, ReadlineError>, Exit> {
        let mut text = String::new();
        loop {
            let prompt = if text.is_empty() { PROMPT } else { CONTINUED };
            match self.line(prompt, terminal).await? {
                Ok(line) => text += &line,
                Err(error) => return Ok(Err(error)),
            }
            if text.trim().is_empty() || commands::parse(&text).is_some() || is_complete(&text) {
                self.remember(&text);
                return Ok(Ok(text));
            }
            text.push('\n');
        }
    }

    /// Reads a line on a thread of its own: streaming queries go on meanwhile.
    async fn line(
        &mut self,
        prompt: &'static str,
        terminal: &Terminal,
    ) -> Result<Result<String, ReadlineError>, Exit> {
        let failed = |error: String| Exit::failed(format!("cannot read the terminal: {error}"));
        let Some(mut editor) = self.editor.take() else { return Err(failed("it is in use".into())) };
        // Not before somebody prints.
        if terminal.is_printed_to() && !self.prints_above {
            if let Ok(printer) = editor.create_external_printer() {
                terminal.print_above_with(printer);
            }
            self.prints_above = true;
        }
        terminal.set_typing(true);
        let keys = Arc::clone(&self.keys);
        let reading = tokio::task::spawn_blocking(move || {
            let line = keys.brought_during(|| editor.readline(prompt));
            (editor, line)
        });
        let read = tokio::select! {
            read = reading => read,
            () = self.keys.kept_after_stops() => return Err(failed("it cannot be set".into())),
        };
        terminal.set_typing(false);
        let (editor, line) = read.map_err(|error| failed(error.to_string()))?;
        self.editor = Some(editor);
        Ok(line)
    }

    /// Without a history the shell is as useful as before.
    fn remember(&mut self, text: &str) {
        let Some(editor) = self.editor.as_mut().filter(|_| !text.trim().is_empty()) else { return };
        let _ = editor.add_history_entry(text);
        if let Some(history) = history_file() {
            let _ = editor.append_history(&history);
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
