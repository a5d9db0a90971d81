//! The error type of the whole crate.
//!
//! Each variant says what is wrong, where, and what to do about it. Errors cross DataFusion's
//! operators as [`DataFusionError::External`] and come back as the same variant, so that a bad
//! record found deep inside a scan still names its file, line and column at the top.

mod wording;

use std::fmt;
use std::sync::Arc;

use datafusion::error::DataFusionError;
use uuid::Uuid;

pub(crate) use wording::in_words;

/// `Result` with Tidemill's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, by what the user can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option that no component of the table, reader or writer knows.
    #[error("unknown option '{option}' for {context}{}", suggest(.suggestion.as_deref()))]
    UnknownOption {
        /// The option as the user wrote it.
        option: String,
        /// What it was given to, e.g. `the parquet sink`.
        context: String,
        /// The nearest known name, if one is near.
        suggestion: Option<String>,
    },

    /// A known option with a value that cannot be used.
    #[error("option '{option}' = '{value}' is not valid: {reason}")]
    InvalidOption {
        /// The option's documented name.
        option: String,
        /// The value as the user wrote it.
        value: String,
        /// What is wrong with it and what a good value looks like.
        reason: String,
    },

    /// The request cannot be carried out as it was put; says what to write instead.
    #[error("{0}")]
    Invalid(String),

    /// A query that cannot run incrementally; refused before it starts.
    #[error("{operator} cannot run as a streaming query: {reason}. {advice}")]
    UnsupportedQuery {
        /// The operator, in the plan's words.
        operator: String,
        /// Why it cannot be run incrementally.
        reason: String,
        /// The way out.
        advice: String,
    },

    /// A statement that does not parse or plan.
    #[error("{message}{}", at(*.line, *.column))]
    Sql {
        /// What is wrong.
        message: String,
        /// Line in the script, from 1; 0 when unknown.
        line: u64,
        /// Column in the line, from 1; 0 when unknown.
        column: u64,
    },

    /// A checkpoint file that is missing, truncated, changed or of another version.
    #[error("checkpoint file '{path}' is damaged: {reason}")]
    CheckpointDamaged {
        /// The file, below the checkpoint's root.
        path: String,
        /// What the check found, and what to do.
        reason: String,
    },

    /// Another process or query took over this checkpoint.
    #[error("another query is running on checkpoint '{checkpoint}': {reason}")]
    ConcurrentQuery {
        /// The checkpoint's root.
        checkpoint: String,
        /// How it showed.
        reason: String,
    },

    /// The query differs from the one that wrote the checkpoint in a way that cannot be resumed.
    #[error(
        "the query does not fit its checkpoint '{checkpoint}': {}. \
         Put the query back as it was, or start it with a new checkpoint",
        .differences.join("; ")
    )]
    QueryChanged {
        /// The checkpoint's root.
        checkpoint: String,
        /// One sentence per difference: what it was and what it is.
        differences: Vec<String>,
    },

    /// A record that does not fit the schema, in `FAILFAST` mode.
    #[error("malformed record in '{file}' at line {line}{}: {reason}", column_name(.column.as_deref()))]
    BadRecord {
        /// The file, as the source names it.
        file: String,
        /// Line of the file, from 1.
        line: u64,
        /// The column that does not parse, when it is known.
        column: Option<String>,
        /// What is wrong, with the offending text.
        reason: String,
    },

    /// An input file that cannot be read as what it was listed as.
    #[error("input file '{file}' cannot be read: {reason}")]
    InputFile {
        /// The file, as the source names it.
        file: String,
        /// Missing, changed, truncated, of another schema, …, and what to do.
        reason: String,
    },

    /// A storage operation that failed: disk full, permission, network.
    #[error("{operation} '{path}' failed: {source}")]
    Storage {
        /// What was tried: `write`, `sync`, `list`, …
        operation: &'static str,
        /// On which path or URL.
        path: String,
        /// The error of the disk or object store.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A directory that results were written to, which somebody has removed or moved since.
    #[error(
        "the output directory '{output}' was removed or moved while the query was running, and the results of earlier \
         batches with it. Put it back and start the query again, which then goes on where it was; or start it as things \
         are, and it makes the directory anew, for what comes from now on; or start it with a new checkpoint, for \
         everything once more"
    )]
    OutputRemoved {
        /// The directory's URL.
        output: String,
    },

    /// Stateful logic of the program's own that failed or panicked; see [`processor`](crate::processor).
    #[error("{processor} failed in {handler} for the key {key}: {source}")]
    Processor {
        /// The processor's type.
        processor: String,
        /// What was called.
        handler: &'static str,
        /// The columns of the key, with their values.
        key: String,
        /// What went wrong.
        #[source]
        source: Box<Error>,
    },

    /// A streaming query ended with an error.
    #[error(transparent)]
    StreamFailed(#[from] StreamingQueryException),

    /// An error of a source, sink or function of the program's own; see [`Error::other`].
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),

    /// DataFusion could not plan or execute.
    #[error("{}", in_words(.0))]
    DataFusion(DataFusionError),
}

/// Why a streaming query ended, as [`StreamingQuery::exception`](crate::StreamingQuery::exception)
/// and [`StreamingQuery::await_termination`](crate::StreamingQuery::await_termination) report it.
#[derive(Debug, Clone)]
pub struct StreamingQueryException {
    /// The query's id, which survives restarts.
    pub id: Uuid,
    /// The id of the run that failed.
    pub run_id: Uuid,
    /// The query's name, if it has one.
    pub name: Option<String>,
    /// The batch that was being planned or run, if one was.
    pub batch_id: Option<u64>,
    /// The error itself.
    pub cause: Arc<Error>,
    /// What can be done if the batch fails again at every start.
    pub advice: Option<String>,
}

impl fmt::Display for StreamingQueryException {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "streaming query '{name}' (id {}) failed", self.id)?,
            None => write!(f, "streaming query {} failed", self.id)?,
        }
        if let Some(batch) = self.batch_id {
            write!(f, " in batch {batch}")?;
        }
        write!(f, ": {}", self.cause)?;
        self.advice.iter().try_for_each(|advice| write!(f, ". {advice}"))
    }
}

impl std::error::Error for StreamingQueryException {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.cause.as_ref())
    }
}

impl Error {
    /// A storage error with its operation and path.
    pub fn storage(
        operation: &'static str,
        path: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Error::Storage { operation, path: path.into(), source: source.into() }
    }

    /// An error of something else, for sources, sinks and functions of a program's own.
    ///
    /// ```
    /// let error = tidemill::Error::other(std::io::Error::other("the cable is unplugged"));
    /// assert_eq!(error.to_string(), "the cable is unplugged");
    /// ```
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Other(error.into())
    }

    /// A damaged checkpoint file.
    pub fn damaged(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::CheckpointDamaged { path: path.into(), reason: reason.into() }
    }

    /// A value that does not fit its option.
    pub fn option(option: &str, value: impl fmt::Display, reason: impl Into<String>) -> Self {
        Error::InvalidOption { option: option.to_string(), value: value.to_string(), reason: reason.into() }
    }
}

impl Error {
    /// Whether it comes of what a batch is to read: of its files, their records, or how many there are.
    pub(crate) fn is_of_the_input(&self) -> bool {
        match self {
            Error::InputFile { .. } | Error::BadRecord { .. } => true,
            Error::DataFusion(error) => matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)),
            _ => false,
        }
    }
}

impl From<DataFusionError> for Error {
    /// Takes a Tidemill error back out of DataFusion's wrappers; anything else is kept whole.
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(inner) => match inner.downcast::<Error>() {
                Ok(error) => *error,
                Err(inner) => match inner.downcast::<DataFusionError>() {
                    Ok(error) => Error::from(*error),
                    Err(inner) => Error::DataFusion(DataFusionError::External(inner)),
                },
            },
            DataFusionError::Context(context, inner) => match Error::from(*inner) {
                Error::DataFusion(inner) => {
                    Error::DataFusion(DataFusionError::Context(context, Box::new(inner)))
                }
                error => error,
            },
            DataFusionError::ArrowError(inner, backtrace) => match *inner {
                datafusion::arrow::error::ArrowError::ExternalError(inner) => {
                    Error::from(DataFusionError::External(inner))
                }
                inner => Error::DataFusion(DataFusionError::ArrowError(Box::new(inner), backtrace)),
            },
            DataFusionError::Shared(inner) => match Arc::try_unwrap(inner) {
                Ok(inner) => Error::from(inner),
                Err(inner) => Error::DataFusion(DataFusionError::Shared(inner)),
            },
            other => Error::DataFusion(other),
        }
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        match error {
            Error::DataFusion(inner) => inner,
            error => DataFusionError::External(Box::new(error)),
        }
    }
}

impl From<datafusion::arrow::error::ArrowError> for Error {
    fn from(error: datafusion::arrow::error::ArrowError) -> Self {
        Error::from(DataFusionError::from(error))
    }
}

fn suggest(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |name| format!("; did you mean '{name}'?"))
}

fn at(line: u64, column: u64) -> String {
    if line == 0 { String::new() } else { format!(" at line {line}, column {column}") }
}

fn column_name(column: Option<&str>) -> String {
    column.map_or_else(String::new, |name| format!(", column '{name}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_datafusion() {
        let error = Error::BadRecord {
            file: "a.json".into(),
            line: 7,
            column: Some("price".into()),
            reason: "'x' is not a number".into(),
        };
        let wrapped = DataFusionError::from(error).context("while reading");
        let text = Error::from(wrapped).to_string();
        assert_eq!(text, "malformed record in 'a.json' at line 7, column 'price': 'x' is not a number");
    }
}
