//! `tidemill checkpoint`

use std::fmt::Write as _;
use std::sync::Arc;

use clap::Subcommand;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use datafusion::execution::runtime_env::RuntimeEnv;
use tidemill::Error;
use tidemill::checkpoint::{
    BatchStatus, BatchSummary, Copied, back_up, batches, copy, copying, planned, replan,
};
use tidemill::id::{IdGenerator, RandomIds};
use tidemill::storage::{DefaultStorageProvider, Durability, Storage, StorageProvider, resolve_location};

use super::ProgressMode;
use super::exit::Exit;
use super::monitor::Monitor;
use super::output::{Format, Printer};
use super::rewind;

#[derive(Debug, Subcommand)]
pub(super) enum CheckpointCommand {
    /// Show the batches that a checkpoint still has, oldest first
    List {
        /// The checkpoint's directory or URL
        checkpoint: String,
        /// How they are printed; without it, as a line per batch
        #[arg(long, value_enum)]
        format: Option<Format>,
    },
    /// Let the batch go that is planned and cannot be run, so that the next start plans it anew
    ///
    /// A planned batch runs again at every start, exactly as it was planned, until it is done. If it
    /// never can be, because one of its files has changed or is gone, or because it needs more memory
    /// than there is, let it go: nothing of it was committed, so nothing is lost, and the next start
    /// looks again for what there is to read. A run of the query that is still at work is ended. A sink of your own
    /// may have rows of the batch already: foreach and foreach_batch get them again, under another number.
    Replan {
        /// The checkpoint's directory or URL
        checkpoint: String,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Go back to a batch, so that everything after it is done again
    ///
    /// The next start goes on after that batch, with the state and the positions in the sources that the
    /// query had then. What it gives for the batches after it is written again: the command says what the
    /// sink has of them already. The input must still be there. Batches whose files were merged (tidemill compact)
    /// cannot be gone back over. A run of the query that is still at work is ended.
    Rewind {
        /// The checkpoint's directory or URL
        checkpoint: String,
        /// The batch that is to be the last one
        #[arg(long, value_name = "BATCH")]
        to: u64,
        /// Remove the files that a file sink has of the batches after it
        #[arg(long)]
        remove_output: bool,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Copy a checkpoint, also while its query runs
    ///
    /// The copy is of one moment between two batches, and a query of its own, so that both may run: it goes on
    /// from that moment, with the same state. Its first start says where its results go, which should not be
    /// where those of the original go: name another directory, table or topic in the script.
    Copy {
        /// The checkpoint's directory or URL
        checkpoint: String,
        /// The directory or URL of the copy
        to: String,
        /// Keep the id of the query: the copy is there to take the place of the original
        ///
        /// Sinks tell queries apart by their ids. So only one of the two may run.
        #[arg(long)]
        backup: bool,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

pub(super) async fn run(command: &CheckpointCommand) -> Result<(), Exit> {
    let printer = |format| Printer::new(Monitor::new(ProgressMode::None), format);
    let text = match command {
        CheckpointCommand::List { checkpoint, format: Some(format) } => {
            let found = batches(open(checkpoint)?.as_ref()).await?;
            printer(*format).batches(&[table(&found)?])?;
            return Ok(());
        }
        CheckpointCommand::List { checkpoint, format: None } => {
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
        CheckpointCommand::Rewind { checkpoint, to, remove_output, dry_run } => {
            rewind::run(open(checkpoint)?, *to, *remove_output, *dry_run).await?
        }
        CheckpointCommand::Copy { checkpoint, to: _, backup: _, dry_run: true } => {
            copied("would copy", &copying(open(checkpoint)?.as_ref()).await?)
        }
        CheckpointCommand::Copy { checkpoint, to, backup: true, dry_run: false } => {
            copied("copied", &back_up(open(checkpoint)?.as_ref(), open(to)?.as_ref()).await?)
                + "The copy is the same query: only one of the two may run\n"
        }
        CheckpointCommand::Copy { checkpoint, to, backup: false, dry_run: false } => {
            copied("copied", &copy(open(checkpoint)?.as_ref(), open(to)?.as_ref()).await?)
                + "The copy is a query of its own: its first start says where its results go\n"
        }
    };
    printer(Format::Table).text(&text).map_err(|error| Exit::output(&error))
}

fn open(checkpoint: &str) -> Result<Arc<dyn Storage>, Exit> {
    let storages = DefaultStorageProvider::new(Arc::new(RuntimeEnv::default()));
    Ok(storages.open(&resolve_location(checkpoint)?, Durability::Disk)?)
}

fn copied(verb: &str, copied: &Copied) -> String {
    let Copied { last_batch, files, bytes } = copied;
    let done =
        last_batch.map_or("no batch is done".into(), |last| format!("batch {last} is the last one done"));
    format!("{verb} {files} files, {bytes} bytes: {done}\n")
}

fn nothing() -> String {
    "every planned batch is done: there is nothing to plan anew\n".to_string()
}

/// A row per batch.
fn table(batches: &[BatchSummary]) -> Result<RecordBatch, Error> {
    let text = |of: &dyn Fn(&BatchSummary) -> Option<String>| -> ArrayRef {
        Arc::new(batches.iter().map(of).collect::<StringArray>())
    };
    let number = |of: &dyn Fn(&BatchSummary) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(batches.iter().map(of)))
    };
    let entries = |batch: &BatchSummary| batch.sources.iter().map(|(_, entries)| *entries as u64).sum();
    let columns: [(&str, ArrayRef); 5] = [
        ("batch", number(&|batch| batch.batch_id)),
        ("status", text(&|batch| Some(status(batch).into()))),
        ("planned_at", text(&|batch| Some(time(batch.timestamp_ms)))),
        ("watermark", text(&|batch| (batch.watermark_ms != 0).then(|| time(batch.watermark_ms)))),
        ("entries", number(&entries)),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))?)
}

fn status(batch: &BatchSummary) -> &'static str {
    match batch.status {
        BatchStatus::Planned => "planned",
        BatchStatus::Committed => "committed",
        BatchStatus::LetGo => "let go",
    }
}

fn line(batch: &BatchSummary) -> String {
    let mut line = format!("{:>8}  {:<9}  {}", batch.batch_id, status(batch), what(batch));
    if batch.watermark_ms != 0 {
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
