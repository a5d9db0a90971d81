//! How the process ends.

use std::io;
use std::process::ExitCode;

use tidemill::{Error, StreamingQueryException};

use super::IfRunning;
use super::text::presentable;

/// An end that is not simply success.
#[derive(Debug)]
pub(super) struct Exit {
    code: u8,
    /// Whether a running query was left alone, as was asked for.
    skipped: bool,
    /// What to say on standard error, if it was not said yet.
    error: Option<String>,
}

impl Exit {
    /// Something went wrong while running.
    pub(super) fn failed(error: impl Into<String>) -> Self {
        Self { code: 1, skipped: false, error: Some(error.into()) }
    }

    /// Failed, and that has been told.
    pub(super) fn failed_silently() -> Self {
        Self { code: 1, skipped: false, error: None }
    }

    /// The arguments or the SQL are wrong.
    pub(super) fn usage(error: impl Into<String>) -> Self {
        Self { code: 2, skipped: false, error: Some(error.into()) }
    }

    /// `error`, told as `text`.
    pub(super) fn of(error: &Error, text: String) -> Self {
        if is_usage(error) { Self::usage(text) } else { Self::failed(text) }
    }

    /// Ctrl-C before the end.
    pub(super) fn interrupted() -> Self {
        Self { code: 130, skipped: false, error: None }
    }

    /// Standard output cannot be written to. If nobody reads it any more that is no error: `| head`.
    pub(super) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self { code: 0, skipped: false, error: None },
            _ => Self::failed(format!("cannot write to standard output: {error}")),
        }
    }

    /// Whether a running query was left alone, as was asked for.
    pub(super) fn is_skipped(&self) -> bool {
        self.skipped
    }

    /// What is to be said.
    pub(super) fn text(&self) -> &str {
        self.error.as_deref().unwrap_or_default()
    }

    /// Says what is to be said.
    pub(super) fn report(self) -> ExitCode {
        if let Some(error) = self.error {
            super::text::to_stderr(&format!("error: {}", presentable(&error)));
        }
        ExitCode::from(self.code)
    }
}

impl From<Error> for Exit {
    fn from(error: Error) -> Self {
        Self { skipped: IfRunning::is_skipped(&error), ..Self::of(&error, error.to_string()) }
    }
}

/// Whether a query ended because nobody reads standard output any more, which is no failure.
pub(super) fn is_unread(exception: &StreamingQueryException) -> bool {
    match exception.cause.as_ref() {
        Error::Storage { path, source, .. } if path == "the console" => {
            source.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        }
        _ => false,
    }
}

/// Whether `error` is about what was asked for, rather than about what happened.
fn is_usage(error: &Error) -> bool {
    matches!(
        error,
        Error::Sql { .. }
            | Error::UnknownOption { .. }
            | Error::InvalidOption { .. }
            | Error::Invalid(_)
            | Error::UnsupportedQuery { .. }
            | Error::QueryChanged { .. }
    )
}
