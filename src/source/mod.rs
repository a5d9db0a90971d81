//! Sources: unbounded tables that rows are appended to.
//!
//! A [`SourceProvider`] is a table as the user described it; each start of a query makes a
//! [`Source`] from it, which remembers how far this query has read. A source plans batches by
//! offsets and, for a planned scan, opens exactly the rows of one batch.

mod batch_number;
pub mod file;
mod generated;
pub mod memory;
#[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "what is shared is tables of a server"))]
mod moment;
pub mod nexmark;
mod offset;
pub mod rate;
pub mod rate_micro_batch;
pub mod socket;
mod told;
mod watermark_group;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::catalog::Session;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use futures::future::BoxFuture;
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

pub(crate) use batch_number::BatchNumber;
pub use batch_number::batch_number;
#[cfg(feature = "avro")]
pub use file::WriterSchemas;
pub use file::{
    BadMessage, BadMessageFiles, BadMessageWriter, BadMessages, MessageFormat, MessageReader, ReadMessages,
    retried_name,
};
pub(crate) use moment::Moment;
pub use offset::{OffsetSource, OffsetTable};
pub(crate) use told::Told;
pub use watermark_group::in_watermark_group;
pub(crate) use watermark_group::watermark_group;

use crate::checkpoint::records::{ColumnDefinition, SourceDefinition};
use crate::clock::Clock;
use crate::error::Result;
use crate::storage::Storage;
use crate::types;

/// An unbounded table, not yet read by any query. Immutable and shared by all queries over it.
pub trait SourceProvider: Debug + Send + Sync {
    /// The columns of the table.
    fn schema(&self) -> SchemaRef;

    /// Whether [`SourceProvider::schema`] was inferred from the data rather than given.
    fn schema_is_inferred(&self) -> bool;

    /// The same table with another schema: the one that a checkpoint pinned.
    fn with_schema(&self, schema: SchemaRef) -> Result<Arc<dyn SourceProvider>>;

    /// The same table with these of its columns given by its directories, as a checkpoint recorded them; `None` if they
    /// are so already, or the user has named others.
    fn with_partitions(&self, partitions: &[FieldRef]) -> Result<Option<Arc<dyn SourceProvider>>> {
        let _ = partitions;
        Ok(None)
    }

    /// Whether a restart may find more columns in the table than there were: nullable ones, that are null in
    /// the rows before.
    fn columns_may_grow(&self) -> bool {
        false
    }

    /// The format's name, lower case: `json`, `csv`, ….
    fn format(&self) -> &str;

    /// A short text for plans, messages and `sources[].description` of the progress, e.g.
    /// `FileSource[file:///data/bids]`.
    fn description(&self) -> String;

    /// Whether files that a query writes to `directory` would be in the table, or the table is in it.
    fn reads_at(&self, directory: &Url) -> bool {
        let _ = directory;
        false
    }

    /// What a restart must find unchanged. `checkpoint` is the root that locations are recorded
    /// relative to.
    fn definition(&self, checkpoint: &dyn Storage) -> SourceDefinition;

    /// A reader of the table for one run of one query.
    fn create(&self, context: SourceContext) -> Result<Arc<dyn Source>>;
}

/// What a source gets to know of the run it works for.
#[derive(Debug, Clone)]
pub struct SourceContext {
    /// The query's id, for names of files that the source writes (bad records, archives).
    pub query_id: uuid::Uuid,
    /// DataFusion's environment: object stores by URL.
    pub runtime: Arc<datafusion::execution::runtime_env::RuntimeEnv>,
    /// The session's clock, for sources whose rows depend on the time.
    pub clock: Arc<dyn Clock>,
}

/// The columns of `schema` as a checkpoint records them, for [`SourceProvider::definition`] and
/// [`Sink::definition`](crate::sink::Sink::definition).
pub fn columns_of(schema: &SchemaRef) -> Vec<ColumnDefinition> {
    types::columns(schema.fields())
}

/// How much a trigger lets a source take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// What the source's own limits (`maxFilesPerTrigger`, …) allow.
    Limited,
    /// The same, but a source without limits takes about so many bytes: the batch has to fit into memory.
    Within(u64),
    /// Everything that is there, whatever the limits say (`Trigger::Once`).
    Everything,
}

/// The new rows of one source in one batch: after `start`, up to and including `end`.
#[derive(Debug, Clone)]
pub struct SourceBatch {
    /// Where the previous batch ended; `null` before the first.
    pub start: Value,
    /// Where this batch ends. Equal to `start` if the source has nothing new.
    pub end: Value,
    /// What is to be remembered for good, see
    /// [`SourceOffset::entries`](crate::checkpoint::records::SourceOffset).
    pub entries: Vec<Box<RawValue>>,
}

impl SourceBatch {
    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// One run's reader of an unbounded table.
///
/// Calls come from one task, in this order: `restore` once, `prepare_available_now` at most once,
/// then per trigger `plan`, (scan and read), `check_read`, `commit`. `plan` may be followed by another `plan`
/// without anything between only if it gave an empty batch.
#[async_trait]
pub trait Source: Debug + Send + Sync {
    /// Takes up where earlier runs ended: `end` is the last planned end offset (`null` if none)
    /// and `entries` all that was ever remembered, oldest first, less what
    /// [`Source::forget`] let go.
    async fn restore(&self, end: Value, entries: Vec<Box<RawValue>>) -> Result<()>;

    /// Fixes "now" for [`Trigger::AvailableNow`](crate::Trigger): later `plan` calls give what is
    /// there at this moment, in as many batches as the limits ask for, and then only empty ones.
    async fn prepare_available_now(&self) -> Result<()>;

    /// The next batch, which starts where the last one ended; empty if there is nothing new. The
    /// source counts the batch as taken as soon as this returns.
    async fn plan(&self, admission: Admission) -> Result<SourceBatch>;

    /// Whether there is something that [`Source::plan`] has not given only because it may not be complete
    /// yet, so that it is worth looking again soon.
    fn is_waiting(&self) -> bool {
        false
    }

    /// Completes when there may be something new: what wakes a query with the default trigger. `None`, as
    /// without this method, says that the source cannot tell; it is asked again and again then.
    ///
    /// It is called after a [`Source::plan`] that gave an empty batch, and
    /// - misses nothing: what has come since that `plan` began completes it at once, what comes later as
    ///   soon as it is there, and so does an error that the next `plan` is to give;
    /// - may complete for nothing, which costs one `plan`;
    /// - may be dropped before it completes and asked for again.
    ///
    /// `plan` stays the truth: it is called every now and then, whatever this says.
    fn arrivals(&self) -> Option<BoxFuture<'_, ()>> {
        None
    }

    /// Of the parts of the stream whose event times are watched apart
    /// ([`SourceScan::has_watermark_groups`]), those that have rows behind the batch that [`Source::plan`] gave last:
    /// nobody may take these for late because others are further. Sorted.
    fn groups_behind(&self) -> Vec<String> {
        Vec::new()
    }

    /// The newest offset the source knows of, for the progress; `null` if unknown.
    fn latest_offset(&self) -> Value;

    /// Prepares reading some columns of the table, planned once and used for every batch.
    /// `projection` lists column indices of the schema (`None` is all); `filters` may be used to
    /// skip rows but need not be: the plan above applies them again. `partitions` is the fixed
    /// number of output partitions.
    fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        partitions: usize,
    ) -> Result<Arc<dyn SourceScan>>;

    /// After `batch` was read, and before anything of it counts: fails if what was read is not what the batch is, which
    /// may only show afterwards. The batch is then run again at the next start.
    async fn check_read(&self, batch: &SourceBatch) -> Result<()> {
        let _ = batch;
        Ok(())
    }

    /// The batch is durable in the sink: the source may clean up after it. Must be idempotent; it
    /// is repeated for the last committed batch after a restart.
    async fn commit(&self, batch: &SourceBatch) -> Result<()>;

    /// Of `entries`, those that must still be remembered once `end` is planned (the file source
    /// lets go of files beyond `maxFileAge`). Pure.
    fn forget(&self, entries: Vec<Box<RawValue>>) -> Vec<Box<RawValue>> {
        entries
    }

    /// Counters of the batch that was just read, for `sources[].metrics` of the progress, e.g.
    /// `numMalformedRows`. Resets them.
    fn take_metrics(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// After `batch` was read: columns that its rows have and the table has not, if the table is to have them.
    /// The batch is then not committed, but read again with them.
    async fn new_columns(&self, batch: &SourceBatch) -> Result<Vec<FieldRef>> {
        let _ = batch;
        Ok(Vec::new())
    }

    /// After reading `batch` failed: whether what it was to read is not any more what it was when it was
    /// planned, so that only another plan can succeed.
    async fn is_outdated(&self, batch: &SourceBatch) -> bool {
        let _ = batch;
        false
    }

    /// After reading `batch` failed with `error`: the same error, or one that says more precisely
    /// which file and line is to blame.
    async fn diagnose(&self, batch: &SourceBatch, error: crate::error::Error) -> crate::error::Error {
        let _ = batch;
        error
    }
}

/// A planned scan of a source: fixed columns, filters and partition count.
pub trait SourceScan: Debug + Send + Sync {
    /// The columns it gives, after projection.
    fn schema(&self) -> SchemaRef;

    /// A plan that reads exactly the rows of `batch`, in at most the planned number of partitions.
    /// Executed once. Cost follows the batch, never the history.
    fn read(&self, batch: &SourceBatch, context: &TaskContext) -> Result<Arc<dyn ExecutionPlan>>;

    /// Whether `batch` is so small that one partition reads it best.
    fn is_small(&self, batch: &SourceBatch) -> bool {
        let _ = batch;
        false
    }

    /// Whether each batch of rows says to which part of the stream it belongs
    /// ([`in_watermark_group`]): one that has an order of its own, such as a partition of a topic. The watermark then
    /// waits for each of them, so that rows of a slow one are not late because others are further.
    fn has_watermark_groups(&self) -> bool {
        false
    }

    /// What `EXPLAIN` shows beside the source's description, e.g. pushed filters.
    fn details(&self) -> String {
        String::new()
    }
}
