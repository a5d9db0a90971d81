//! Sinks: where results go.
//!
//! A sink works in two steps, so that a batch becomes visible exactly once: its writers *stage*
//! rows, and only after the commit record is durable does [`Sink::publish`] show them. A sink
//! that cannot stage (console) shows them while writing and says in its docs that a batch can
//! repeat after a crash.

mod columns;
pub mod console;
pub mod file;
pub mod foreach;
pub mod memory;
pub mod noop;
mod report;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use crate::checkpoint::records::SinkDefinition;
use crate::error::Result;
use crate::storage::Storage;

pub use console::{ConsoleSink, write_json_lines, write_json_lines_of_values};
pub use file::{FileSink, MessageEncoder, OutputFormat};
pub use foreach::ForeachWriter;
pub(crate) use foreach::OwnCode;
pub use memory::{MemorySink, MemoryTable};
pub use noop::NoopSink;

/// The directory of a checkpoint that is the sink's; see [`Sink::stage_in`].
pub const STAGED: &str = "staged";

/// Which rows of the result a sink is given per batch, with Spark's meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OutputMode {
    /// Rows that are final, each once.
    #[default]
    Append,
    /// Rows that changed.
    Update,
    /// The whole result.
    Complete,
}

impl OutputMode {
    /// `append`, `update` or `complete`.
    pub fn name(self) -> &'static str {
        match self {
            OutputMode::Append => "append",
            OutputMode::Update => "update",
            OutputMode::Complete => "complete",
        }
    }
}

impl std::fmt::Display for OutputMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for OutputMode {
    type Err = crate::error::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "append" => Ok(OutputMode::Append),
            "update" => Ok(OutputMode::Update),
            "complete" => Ok(OutputMode::Complete),
            _ => Err(crate::error::Error::option("outputMode", text, "expected append, update or complete")),
        }
    }
}

/// Which batch of which query is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkBatch {
    /// The query's id.
    pub query_id: Uuid,
    /// This run of the query; two runs never share staging names.
    pub run_id: Uuid,
    /// The batch.
    pub batch_id: u64,
    /// Which rows of the result this batch holds.
    pub output_mode: OutputMode,
}

/// How many writers a sink wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkDistribution {
    /// One writer per partition of the plan, in parallel.
    Any,
    /// One writer for all rows.
    Single,
}

/// Where a query's results go.
///
/// Per batch: `writer` (one per partition, concurrently), each writer's `close`, then `prepare`,
/// then — once the commit record is durable — `publish`. If anything fails before the commit
/// record, `abort` is called instead, and after a crash `recover` finds the same situation.
#[async_trait]
pub trait Sink: Debug + Send + Sync {
    /// For messages and `sink.description` of the progress, e.g. `FileSink[file:///out/etl]`.
    fn description(&self) -> String;

    /// The directory that rows are written to, if there is one.
    fn location(&self) -> Option<&Url> {
        None
    }

    /// What a restart must find unchanged. `checkpoint` is the root that locations are recorded
    /// relative to.
    fn definition(&self, checkpoint: &dyn Storage) -> SinkDefinition;

    /// Fails, with advice, if the sink cannot take results of `mode`.
    fn check_output_mode(&self, mode: OutputMode) -> Result<()>;

    /// How many writers it wants.
    fn distribution(&self) -> SinkDistribution {
        SinkDistribution::Any
    }

    /// Whether it may be used without a `checkpointLocation`: true for sinks that do not outlive
    /// the process.
    fn is_ephemeral(&self) -> bool {
        false
    }

    /// Whether nobody sees anything of a batch before [`Sink::publish`], so that a batch that failed may be
    /// planned anew, with other rows. A sink that shows a batch in [`Sink::prepare`] says no, and keeps the
    /// number of the batch with the rows: after a crash before the commit the same batch comes again.
    fn shows_only_published(&self) -> bool {
        false
    }

    /// The results as a table, for a sink that keeps them in memory. The session makes it queryable
    /// under the query's name.
    fn results(&self) -> Option<Arc<dyn TableProvider>> {
        None
    }

    /// Gives the sink a place of the query's own in its checkpoint, as durable as that is: files whose names begin
    /// with [`STAGED`] and a slash are the sink's. Called once, before anything else that a run does. For sinks that
    /// have nowhere else to stage rows.
    fn stage_in(&self, checkpoint: &Arc<dyn Storage>) {
        let _ = checkpoint;
    }

    /// Completes the publication of the last committed batch (its number and what `prepare` gave),
    /// and removes what interrupted runs have staged for batches up to that one and for no later
    /// one: another run that is still alive may be about to commit it. Called before the first batch
    /// of a run, and again after it, when what there was staged for it can go too. Idempotent.
    async fn recover(&self, query_id: Uuid, last: Option<(u64, &Value)>) -> Result<()>;

    /// Opens the writer of one partition.
    async fn writer(&self, batch: SinkBatch, partition: usize) -> Result<Box<dyn SinkWriter>>;

    /// All writers of the batch are closed and durable: what the commit record has to say so that
    /// `publish` can show them. `reports` come from the writers' `close`, in partition order.
    async fn prepare(&self, batch: SinkBatch, reports: Vec<Value>) -> Result<Value>;

    /// Shows the batch. `prepared` comes from the commit record. Idempotent, and durable when it
    /// returns.
    async fn publish(&self, batch_id: u64, prepared: &Value) -> Result<()>;

    /// Removes what the batch staged, as far as possible.
    async fn abort(&self, batch: SinkBatch) -> Result<()>;

    /// Whether there is something for [`Sink::maintain`] to do.
    fn is_maintained(&self) -> bool {
        false
    }

    /// Tidies up what batches before `oldest` have published, beside the next ones and after some of them: the checkpoint
    /// does not have those batches any more, so that none of them is ever gone back over. What does not work is only
    /// reported.
    async fn maintain(&self, query_id: Uuid, oldest: u64) {
        let _ = (query_id, oldest);
    }

    /// The run ends, and waits for [`Sink::maintain`]: it is to come to its end soon.
    fn end_maintenance(&self) {}

    /// The query has ended; tidies up what is not needed between runs.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// One partition's writer. Dropping it without `close` leaves only staged rows.
#[async_trait]
pub trait SinkWriter: Send {
    /// Takes the next rows.
    async fn write(&mut self, rows: RecordBatch) -> Result<()>;

    /// Makes the rows durable in the staging place; gives what `prepare` needs to know.
    async fn close(self: Box<Self>) -> Result<Value>;
}
