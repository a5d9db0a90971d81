//! A program that shows results page by page.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use tidemill::{Error, Result};

/// It leaves results alone that fit on the screen, and cuts long lines, along which one can move.
const LESS: &str = "less -SFX";

/// The command that the user wants to see pages with.
pub(super) fn usual() -> String {
    std::env::var("PAGER").ok().filter(|command| !command.trim().is_empty()).unwrap_or_else(|| LESS.into())
}

/// A pager that runs.
pub(super) struct Pager(Child);

impl Pager {
    /// Starts `command`, and gives what it reads from.
    pub(super) fn start(command: &str) -> Result<(Self, File)> {
        let failed = |reason: String| {
            Error::Invalid(format!("cannot start the pager '{command}': {reason}. \\pager does without it"))
        };
        let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
        let child = Command::new(shell).args([flag, command]).stdin(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| failed(error.to_string()))?;
        let input = child.stdin.take().ok_or_else(|| failed("it reads nothing".into()))?;
        #[cfg(unix)]
        let input = std::os::fd::OwnedFd::from(input);
        #[cfg(windows)]
        let input = std::os::windows::io::OwnedHandle::from(input);
        Ok((Self(child), File::from(input)))
    }

    /// Waits until the user has seen enough.
    pub(super) async fn wait(mut self) {
        // Whatever it has to say of itself it has said on the terminal.
        let _ = tokio::task::spawn_blocking(move || self.0.wait()).await;
    }
}
