//! The command line: what `tidemill --help` shows.
//!
//! Results go to standard output; progress, summaries and errors to standard error.

mod bad_records;
mod bad_records_form;
mod check;
mod checkpoint;
mod compact;
mod config;
mod describe;
mod emit_test;
mod etl;
mod exit;
mod history;
mod http;
mod job;
mod live;
mod manual;
mod monitor;
mod output;
mod pg;
mod queries;
mod replay;
mod rewind;
mod settings;
mod shell;
mod signals;
mod state;
mod subscription;
mod test;
mod text;
mod top;
#[cfg(feature = "opentelemetry")]
mod traces;
mod version;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tidemill::Trigger;
use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use exit::Exit;
use output::Format;
use replay::Shown;

/// Structured Streaming on Apache DataFusion: incremental, exactly-once queries over unbounded tables.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version = version::version(), max_term_width = 100)]
#[command(after_help = "TIDEMILL_LOG sets what is logged to standard error, e.g. TIDEMILL_LOG=info.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

impl Arguments {
    /// These and what the file says that they name.
    fn with_config(self) -> Result<Self, Exit> {
        let config = match &self.command {
            Command::Run { options, .. } | Command::Sql { options, .. } => options.config.as_deref(),
            _ => None,
        };
        match config {
            Some(file) => {
                let given: Vec<OsString> = std::env::args_os().collect();
                Ok(Self::parse_from(config::with_file(file, given)?))
            }
            None => Ok(self),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a script; its streaming queries run side by side until they end
    ///
    /// Ctrl-C or SIGTERM finishes the batch in flight and leaves; a second Ctrl-C leaves at once.
    /// Exit code: 0 if all ended well, 1 if a query failed, 2 for bad usage or SQL.
    #[command(args_override_self = true)]
    Run {
        /// The script, or - for standard input
        script: String,
        #[command(flatten)]
        options: JobOptions,
    },
    /// A shell, or with -c, -f or input from a pipe the same as `run`
    #[command(args_override_self = true)]
    Sql {
        /// Statements to run instead of asking for them
        #[arg(short = 'c', long = "command", value_name = "STATEMENTS", allow_hyphen_values = true)]
        command: Option<String>,
        /// A file of statements to run instead of asking for them
        #[arg(short = 'f', long = "file", value_name = "FILE", conflicts_with = "command")]
        file: Option<String>,
        /// Do not run ~/.tidemillrc (or the file that TIDEMILLRC names) first
        #[arg(long)]
        no_rc: bool,
        #[command(flatten)]
        options: JobOptions,
    },
    /// Move new files from INPUT to OUTPUT, once or for as long as you like
    #[command(alias = "elt")]
    Etl(Box<etl::EtlOptions>),
    /// Verify every invariant of a checkpoint; exit code 1 if one does not hold
    Check {
        /// The checkpoint's directory or URL
        checkpoint: String,
        /// How the report is printed
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Show what a checkpoint says of its query: sources, sink, batches, and what a start would do
    ///
    /// A running query is not disturbed. With --format csv: the batches alone; with json and ndjson: one object.
    Describe {
        /// The checkpoint's directory or URL
        checkpoint: String,
        /// How it is printed
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Look into a checkpoint, or get a query past a batch that cannot be run
    #[command(subcommand)]
    Checkpoint(checkpoint::CheckpointCommand),
    /// Merge small files of a directory into large ones, while others read it
    ///
    /// Each directory is replaced at once, so that whoever lists it sees the old files or the new ones. A program
    /// that has listed it before and opens a file after finds that it is gone, and has to list again. No query may
    /// write there meanwhile. Rows stay in the order of the files' names. Parquet, JSON, text and CSV files on local
    /// disks are merged. A checkpoint can no longer be rewound over batches whose files were merged.
    Compact {
        /// The directory
        directory: String,
        /// Files that are smaller are merged, up to this size
        #[arg(long, value_name = "SIZE", default_value = "128mb")]
        target_size: String,
        /// CSV files have no header
        #[arg(long)]
        no_header: bool,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Look at the records that a query has put aside (badRecordsPath), or feed them back
    #[command(subcommand)]
    BadRecords(bad_records::BadRecordsCommand),
    /// Run a batch of a checkpoint again and show what it gives, without changing anything
    ///
    /// The batch is read again from its recorded offsets, with the state from before it, by the streaming
    /// query of the script: the one that the checkpoint is of, or a changed one (filters and projections may
    /// be others, keys and aggregates may not). The input must still be there.
    Replay {
        /// The checkpoint's directory or URL
        checkpoint: String,
        /// The batch
        #[arg(long)]
        batch: u64,
        /// The script with the query
        #[arg(long, value_name = "FILE")]
        sql: String,
        /// Show how the rows differ from those that the batch has written: - was written, + is given now
        ///
        /// The query has to have written files, which are still where they were written.
        #[arg(long)]
        diff: bool,
        /// Write the batch out as a test, which `tidemill test` runs: the job, what the query remembered, the rows
        /// that it read, and what it gives for them, or why it fails
        #[arg(long, value_name = "DIR", conflicts_with = "diff")]
        emit_test: Option<String>,
        /// How rows are printed
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Show what a query remembers, as of a batch that its checkpoint still has
    ///
    /// Without --operator: how much every stateful operator remembers. With it: its rows, that is
    /// the columns of the key, those of the partial results, and until when a row is kept. A running
    /// query is not disturbed. In SQL the same is SELECT * FROM state('CHECKPOINT', OPERATOR, BATCH).
    State {
        /// The checkpoint's directory or URL
        checkpoint: String,
        /// Show the rows of this operator
        #[arg(long)]
        operator: Option<usize>,
        /// As of this batch instead of the last one
        #[arg(long)]
        batch: Option<u64>,
        /// Show what changed from after one batch to after another: - is gone, + is new
        #[arg(long, num_args = 2, value_names = ["FROM", "TO"], conflicts_with = "batch")]
        diff: Option<Vec<u64>>,
        /// How rows are printed
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Try jobs on rows that stand in a file beside what they should give
    ///
    /// Nothing that the job names is read or written: its tables are in a temporary folder, and the
    /// clock shows what the file says. Exit code 1 if anything is not as expected.
    Test {
        /// The files; see docs/testing.md for what stands in them
        #[arg(required = true, value_name = "FILE")]
        files: Vec<String>,
        /// Write what came into the files, where it is not what was expected
        #[arg(long)]
        update: bool,
    },
    /// Show the queries of a command that was started with --listen, a line each, kept up to date
    Top {
        /// The address that it listens on, such as 8080 or HOST:8080
        #[arg(value_name = "ADDR")]
        address: String,
        /// Show them once and leave; so it is if standard output is no terminal
        #[arg(long)]
        once: bool,
    },
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write those of all subcommands to a directory
    Man {
        /// The directory
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

/// How queries run and what is told about them.
#[derive(Debug, Args)]
struct JobOptions {
    /// A TOML file with options: trigger, progress, format, if-running, listen, pg, and a table [set]
    ///
    /// What is given on the command line goes before it.
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// Override every query's trigger: once, available-now, or a length of time such as '2 seconds'
    #[arg(long, value_parser = parse_trigger)]
    trigger: Option<Trigger>,
    /// A setting: `datafusion.…`, durability or minBatchesToRetain for all streaming queries, or sparkFunctions=true
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_pair)]
    settings: Vec<(String, String)>,
    /// How progress is told on standard error
    #[arg(long, value_enum, default_value_t = ProgressMode::Bar)]
    progress: ProgressMode,
    /// How results are printed on standard output
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// What to do if another process, started with this option too, runs the same query
    #[arg(long, value_enum)]
    if_running: Option<IfRunning>,
    /// Show the queries on a page, with metrics and an HTTP interface: 8080 (this machine alone) or HOST:8080
    ///
    /// The command then stays when a query that would go on for ever has failed, or was stopped on the page, so that it can
    /// be started again there. Where others can reach the address, stopping and restarting need the token in
    /// the environment variable TIDEMILL_TOKEN.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Let PostgreSQL's clients read the tables: 5432 (this machine alone) or HOST:5432
    ///
    /// Where others can reach the address, the password of all users is the token in the environment variable
    /// TIDEMILL_TOKEN.
    #[arg(long, value_name = "ADDR")]
    pg: Option<String>,
}

/// What a start does while the query runs elsewhere on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IfRunning {
    /// Begin; the other run ends (as without the option)
    Takeover,
    /// Begin when the other run has ended
    Wait,
    /// Leave, with exit code 0
    Skip,
}

impl IfRunning {
    const OPTION: &str = "ifRunning";

    /// The value of the query's option.
    fn name(self) -> &'static str {
        match self {
            IfRunning::Takeover => "takeover",
            IfRunning::Wait => "wait",
            IfRunning::Skip => "skip",
        }
    }

    /// Whether `error` is that a start left a running query alone, as it was asked to.
    fn is_skipped(error: &tidemill::Error) -> bool {
        matches!(error, tidemill::Error::ConcurrentQuery { reason, .. } if reason.contains("ifRunning = skip"))
    }
}

/// How progress is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProgressMode {
    /// A line per query that is kept up to date; a line per batch if standard error is no terminal
    Bar,
    /// One StreamingQueryProgress as JSON per line and batch
    Json,
    /// Not at all
    None,
}

/// What is logged to standard error.
const LOG: &str = "TIDEMILL_LOG";

/// A session with the formats of the command.
fn new_session() -> tidemill::Session {
    let session = tidemill::Session::new();
    #[cfg(feature = "kafka")]
    super::kafka::register(&session);
    session
}

fn parse_trigger(text: &str) -> Result<Trigger, String> {
    text.parse().map_err(|error| match error {
        tidemill::Error::InvalidOption { reason, .. } => reason,
        error => error.to_string(),
    })
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_string(), value.to_string())),
        _ => Err("expected key=value".to_string()),
    }
}

/// The stack of every thread, of which only what is used takes memory: expressions that are a thousand
/// operators deep are optimised and run on it.
const STACK: usize = 256 << 20;

/// Runs the command that the process's arguments ask for.
pub fn main() -> ExitCode {
    let arguments = match Arguments::parse().with_config() {
        Ok(arguments) => arguments,
        Err(exit) => return exit.report(),
    };
    #[cfg(feature = "opentelemetry")]
    let traces = match traces::Traces::from_environment() {
        Ok(traces) => traces,
        Err(exit) => return exit.report(),
    };
    let lines = match log_lines() {
        Ok(lines) => tracing_subscriber::registry().with(lines),
        Err(exit) => return exit.report(),
    };
    #[cfg(feature = "opentelemetry")]
    let lines = lines.with(traces.as_ref().map(traces::Traces::layer));
    lines.init();
    // State beyond memory is in many files. What cannot be had is not needed until an error says so.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    let runtime = match threads.enable_all().thread_stack_size(STACK).build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::failed(format!("cannot start: {error}")).report(),
    };
    // On a thread of the runtime: the process's first one has the stack that it has.
    let ended = runtime.block_on(async {
        match tokio::spawn(run(arguments.command)).await {
            Ok(ended) => ended,
            Err(error) => Err(Exit::failed(format!("this is a bug: {error}"))),
        }
    });
    // Without waiting for a thread that is stuck in a read or write.
    runtime.shutdown_background();
    #[cfg(feature = "opentelemetry")]
    traces.iter().for_each(traces::Traces::end);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report(),
    }
}

/// The lines of log on standard error.
fn log_lines() -> Result<impl Layer<Registry>, Exit> {
    let asked = std::env::var(LOG).unwrap_or_default();
    let invalid = |reason: &str| {
        Exit::usage(format!(
            "{LOG} = '{asked}' is not valid: {reason}; expected error, warn, info, debug, trace or off, or such \
             levels for parts, as in warn,tidemill=debug"
        ))
    };
    // A single word that is no level would be taken for the name of a part.
    let is_part = |word: &str| word.contains(['=', ':', '[']) || word.starts_with("tidemill");
    for word in asked.split(',').map(str::trim).filter(|word| !word.is_empty() && !is_part(word)) {
        let levels = ["error", "warn", "info", "debug", "trace", "off"];
        if !levels.iter().any(|level| level.eq_ignore_ascii_case(word)) && word.parse::<u8>().is_err() {
            return Err(invalid(&format!("there is no level '{word}'")));
        }
    }
    let filter = EnvFilter::builder().with_default_directive(Level::WARN.into());
    let filter = filter.parse(&asked).map_err(|error| invalid(&error.to_string()))?;
    // Failed queries are reported as errors of the command, not a second time as a log line.
    let is_news =
        filter_fn(|line| *line.level() != Level::ERROR || line.target() != "tidemill::query::start");
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    Ok(lines.with_filter(filter.and(is_news)))
}

async fn run(command: Command) -> Result<(), Exit> {
    match command {
        Command::Run { script, options } => job::run_file(&script, &options).await,
        Command::Sql { command, file, no_rc, options } => shell::run(command, file, !no_rc, &options).await,
        Command::Etl(options) => etl::run(&options).await,
        Command::Check { checkpoint, format } => check::run(&checkpoint, format).await,
        Command::BadRecords(command) => bad_records::run(&command).await,
        Command::Compact { directory, target_size, no_header, dry_run } => {
            let csv_header = !no_header;
            compact::run(&compact::Options { directory, target: target_size, csv_header, dry_run }).await
        }
        Command::Checkpoint(command) => checkpoint::run(&command).await,
        Command::Describe { checkpoint, format } => describe::run(&checkpoint, format).await,
        Command::Replay { checkpoint, batch, sql, diff, emit_test, format } => {
            let shown = match (emit_test, diff) {
                (Some(directory), _) => Shown::Test(directory),
                (None, true) => Shown::Differences,
                (None, false) => Shown::Rows(format),
            };
            replay::run(&checkpoint, batch, &sql, &shown).await
        }
        Command::State { checkpoint, operator, batch, diff, format } => match diff.as_deref() {
            Some([from, to]) => state::diff(&checkpoint, operator, (*from, *to), format).await,
            _ => state::run(&checkpoint, operator, batch, format).await,
        },
        Command::Test { files, update } => test::run(&files, update).await,
        Command::Top { address, once } => top::run(&address, once).await,
        Command::Completions { shell } => manual::completions(shell, Arguments::command()),
        Command::Man { directory } => manual::man(directory.as_deref(), Arguments::command()),
    }
}
