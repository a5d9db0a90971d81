//! `tidemill checkpoint`

use std::fmt::Write as _;
use std::sync::Arc;

use clap::Subcommand;
use datafusion::execution::runtime_env::RuntimeEnv;
use tidemill::checkpoint::{BatchStatus, BatchSummary, batches, planned, replan};
use tidemill::id::{IdGenerator, RandomIds};
use tidemill::storage::{DefaultStorageProvider, Durability, Storage, StorageProvider, resolve_location};

use super::ProgressMode;
use super::exit::Exit;
use super::monitor::Monitor;
use super::output::{Format, Printer};

#[derive(Debug, Subcommand)]
pub(super) enum CheckpointCommand {
    /// Show the batches that a checkpoint still has, oldest first
    List {
        /// The checkpoint's directory or URL
        checkpoint: String,
    },
    /// Let the batch go that is planned and cannot be run, so that the next start plans it anew
    ///
    /// A planned batch runs again at every start, exactly as it was planned, until it is done. If it
    /// never can be, because one of its files has changed or is gone, or because it needs more memory
    /// than there is, let it go: nothing of it was committed, so nothing is lost, and the next start
    /// looks again for what there is to read. A run of the query that is still at work is ended.
    Replan {
        /// The checkpoint's directory or URL
        checkpoint: String,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

pub(super) async fn run(command: &CheckpointCommand) -> Result<(), Exit> {
    let text = match command {
        CheckpointCommand::List { checkpoint } => {
            let found = batches(open(checkpoint)?.as_ref()).await?;
            if found.is_empty() { "no batches\n".to_string() } else { found.iter().map(line).collect() }
        }
        CheckpointCommand::Replan { checkpoint, dry_run: true } => {
            match planned(open(checkpoint)?.as_ref()).await? {
                None => nothing(),
                Some(batch) => format!("would let batch {} go: {}\n", batch.batch_id, what(&batch)),
            }
        }
        CheckpointCommand::Replan { checkpoint, dry_run: false } => {
            match replan(open(checkpoint)?, RandomIds.next_id()).await? {
                None => nothing(),
                Some(batch) => format!(
                    "let batch {} go: {}. The next start plans anew what there is to read\n",
                    batch.batch_id,
                    what(&batch)
                ),
            }
        }
    };
    let printer = Printer::new(Monitor::new(ProgressMode::None), Format::Table);
    printer.text(&text).map_err(|error| Exit::output(&error))
}

fn open(checkpoint: &str) -> Result<Arc<dyn Storage>, Exit> {
    let storages = DefaultStorageProvider::new(Arc::new(RuntimeEnv::default()));
    Ok(storages.open(&resolve_location(checkpoint)?, Durability::Disk)?)
}

fn nothing() -> String {
    "every planned batch is done: there is nothing to plan anew\n".to_string()
}

fn line(batch: &BatchSummary) -> String {
    let status = match batch.status {
        BatchStatus::Planned => "planned",
        BatchStatus::Committed => "committed",
        BatchStatus::LetGo => "let go",
    };
    let mut line = format!("{:>8}  {status:<9}  {}", batch.batch_id, what(batch));
    if batch.watermark_ms > 0 {
        let _ = write!(line, ", watermark {}", time(batch.watermark_ms));
    }
    line + "\n"
}

fn what(batch: &BatchSummary) -> String {
    let mut text = format!("planned at {}", time(batch.timestamp_ms));
    for (index, (format, entries)) in batch.sources.iter().enumerate() {
        let _ = match entries {
            0 => Ok(()),
            1 => write!(text, ", 1 file or entry of source {index} ({format})"),
            many => write!(text, ", {many} files or entries of source {index} ({format})"),
        };
    }
    text
}

fn time(ms: i64) -> String {
    match chrono::DateTime::from_timestamp_millis(ms) {
        Some(time) => time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        None => format!("{ms} ms"),
    }
}
