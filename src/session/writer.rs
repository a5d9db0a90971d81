//! Describing a streaming query.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::session_state::SessionState;
use datafusion::prelude::DataFrame;

use super::formats::SinkRequest;
use super::path::IntoPath;
use super::{SessionInner, link};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::query::{
    self, IfRunning, LateTarget, MakeLateSink, MakeSink, QueryPlan, StartRequest, StateSettings,
    StreamingQuery, Trigger,
};
use crate::sink::{ForeachBatchSink, OutputMode, Sink};
use crate::storage::{DefaultStorageProvider, Durability, StorageProvider, resolve_location};

/// How many offsets and commits a checkpoint keeps (Spark's `minBatchesToRetain`).
const MIN_BATCHES_TO_RETAIN: u64 = 100;

/// Describes a streaming query, with the names of Spark's `DataStreamWriter`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidemill::Result<()> {
/// use tidemill::prelude::*;
///
/// let folder = tempfile::tempdir().unwrap();
/// let path = |name: &str| folder.path().join(name).display().to_string();
/// std::fs::create_dir(path("in")).unwrap();
/// std::fs::write(path("in/a.json"), "{\"auction\":1,\"price\":1200}\n{\"auction\":2,\"price\":10}\n").unwrap();
///
/// let session = Session::new();
/// let bids = session.read_stream().format("json").load(path("in")).await?;
/// let query = bids
///     .filter(col("price").gt(lit(1000)))?
///     .write_stream()
///     .format("parquet")
///     .trigger(Trigger::AvailableNow)
///     .option("checkpointLocation", path("checkpoint"))
///     .query_name("etl")
///     .start(path("out"))
///     .await?;
/// query.await_termination().await?;
///
/// let dear = session.context().read_parquet(path("out"), Default::default()).await?;
/// assert_eq!(dear.count().await?, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a writer does nothing until start(…)"]
pub struct DataStreamWriter {
    frame: DataFrame,
    format: String,
    output_mode: Option<OutputMode>,
    trigger: Trigger,
    query_name: Option<String>,
    partition_by: Vec<String>,
    options: Options,
    /// In place of a sink of the format.
    foreach: Option<ForeachBatchSink>,
}

/// The options of the query itself, taken out of those that the sink sees.
struct QueryOptions {
    checkpoint: Option<String>,
    query_name: Option<String>,
    output_mode: OutputMode,
    durability: Durability,
    if_running: Option<IfRunning>,
    min_batches_to_retain: u64,
    state: StateSettings,
    /// Where late rows go, and in which format.
    late_rows: Option<LateTarget>,
}

impl DataStreamWriter {
    pub(crate) fn new(frame: DataFrame) -> Self {
        Self {
            frame,
            format: "parquet".into(),
            output_mode: None,
            trigger: Trigger::default(),
            query_name: None,
            partition_by: Vec::new(),
            options: Options::default(),
            foreach: None,
        }
    }

    /// The format: `parquet` (the default), `json`, `csv`, `text`, `arrow`, `console`, `memory`,
    /// `noop`, or one that was registered with [`Session::register_sink`](super::Session::register_sink).
    pub fn format(mut self, format: impl Into<String>) -> Self {
        self.format = format.into();
        self
    }

    /// Which rows of the result are written per batch; append by default.
    pub fn output_mode(mut self, mode: OutputMode) -> Self {
        self.output_mode = Some(mode);
        self
    }

    /// Gives the rows of each batch, with its number, to `function`, in place of a format: Spark's
    /// `foreachBatch`. See [`ForeachBatchSink`] for what happens after a crash.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tidemill::Result<()> {
    /// use tidemill::prelude::*;
    ///
    /// let session = Session::new();
    /// let numbers = session.read_stream().format("rate").option("rowsPerSecond", 1000).load(None).await?;
    /// let query = numbers
    ///     .write_stream()
    ///     .foreach_batch(|batch, rows| async move {
    ///         println!("batch {batch}: {} rows", rows.iter().map(|rows| rows.num_rows()).sum::<usize>());
    ///         Ok(())
    ///     })
    ///     .start(None)
    ///     .await?;
    /// query.stop(StopMode::Finish).await
    /// # }
    /// ```
    pub fn foreach_batch<F, D>(mut self, function: F) -> Self
    where
        F: Fn(u64, Vec<RecordBatch>) -> D + Send + Sync + 'static,
        D: Future<Output = Result<()>> + Send + 'static,
    {
        self.foreach = Some(ForeachBatchSink::new(function));
        self
    }

    /// When batches run; at once by default.
    pub fn trigger(mut self, trigger: Trigger) -> Self {
        self.trigger = trigger;
        self
    }

    /// A name, unique among the session's active queries.
    pub fn query_name(mut self, name: impl Into<String>) -> Self {
        self.query_name = Some(name.into());
        self
    }

    /// The columns that become directories (`country=DE/…`) instead of columns of the files.
    pub fn partition_by(mut self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.partition_by = columns.into_iter().map(Into::into).collect();
        self
    }

    /// Sets an option of the query (`checkpointLocation`, `durability`, `minBatchesToRetain`) or of
    /// its sink; `docs/options.md` lists them. Names are case-insensitive.
    pub fn option(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.options.set(name, value);
        self
    }

    /// Sets several options.
    pub fn options<K: Into<String>, V: ToString>(
        mut self,
        options: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        for (name, value) in options {
            self.options.set(name, value);
        }
        self
    }

    /// Starts the query and returns when its first batch is about to run. `path` is where the
    /// results go, or `None` for a sink that writes to no place.
    ///
    /// # Errors
    /// If the query cannot run incrementally, does not fit its checkpoint, uses a name or checkpoint
    /// that an active query uses, or anything about it is not valid. Errors of batches come through
    /// the [`StreamingQuery`].
    pub async fn start(self, path: impl IntoPath) -> Result<StreamingQuery> {
        query::start(self.request(path.into_path())?).await
    }

    /// What [`start`](Self::start) would do with the checkpoint, in words: where it would go on, or what it
    /// would refuse; `None` without a `checkpointLocation`. Changes nothing.
    ///
    /// # Errors
    /// As [`DataStreamWriter::start`], but for a checkpoint of another query.
    pub async fn explain_restart(self, path: impl IntoPath) -> Result<Option<String>> {
        query::explain_restart(self.request(path.into_path())?).await
    }

    fn request(mut self, path: Option<String>) -> Result<StartRequest> {
        let (state, plan) = self.frame.clone().into_parts();
        let session = link(state.config())?;
        let options = self.take_query_options()?;
        let storages = storages(&session, state.runtime_env());
        let checkpoint = options.checkpoint.as_deref().map(resolve_location).transpose()?;
        let make_sink = self.sink_maker(path, &options, &session, &storages, &state);
        let make_late_sink = Self::late_sink_maker(&options, &session, &storages, &state);
        Ok(StartRequest {
            plan: QueryPlan { logical: plan, state: state.clone() },
            make_sink,
            late_rows: options.late_rows.clone(),
            make_late_sink,
            output_mode: options.output_mode,
            trigger: self.trigger,
            name: options.query_name.clone(),
            checkpoint,
            durability: options.durability,
            if_running: options.if_running,
            min_batches_to_retain: options.min_batches_to_retain,
            state: options.state.clone(),
            manager: session.manager.clone(),
            clock: Arc::clone(&session.environment.clock),
            ids: Arc::clone(&session.environment.ids),
            storages: Arc::clone(&storages),
        })
    }

    /// The optimised logical plan and the physical plan of the query, without starting it.
    ///
    /// # Errors
    /// As [`DataStreamWriter::start`], but for what only the checkpoint or the other queries tell.
    pub async fn explain(mut self, path: impl IntoPath) -> Result<String> {
        let path = path.into_path();
        let (state, plan) = self.frame.clone().into_parts();
        let session = link(state.config())?;
        let options = self.take_query_options()?;
        let storages = storages(&session, state.runtime_env());
        let make_sink = self.sink_maker(path, &options, &session, &storages, &state);
        let plan = QueryPlan { logical: plan, state: state.clone() };
        let clock = Arc::clone(&session.environment.clock);
        query::explain(plan, options.output_mode, &options.state, make_sink, clock).await
    }

    fn take_query_options(&mut self) -> Result<QueryOptions> {
        let durability = match self.options.take("durability") {
            None => Durability::Disk,
            Some(value) if value.eq_ignore_ascii_case("disk") => Durability::Disk,
            Some(value) if value.eq_ignore_ascii_case("process") => Durability::Process,
            Some(value) => {
                return Err(Error::option(
                    "durability",
                    value,
                    "expected disk (survives a power cut) or process (survives a crash of the process)",
                ));
            }
        };
        let if_running = self.options.take(IfRunning::OPTION);
        let if_running = if_running.map(|text| IfRunning::parse(&text)).transpose()?;
        let min_batches_to_retain =
            self.options.positive("minBatchesToRetain")?.unwrap_or(MIN_BATCHES_TO_RETAIN);
        self.options.take("minBatchesToRetain");
        let output_mode = match (self.output_mode, self.options.take("outputMode")) {
            (Some(mode), _) => mode,
            (None, Some(text)) => text.parse()?,
            (None, None) => OutputMode::Append,
        };
        let named = self.options.take("queryName");
        Ok(QueryOptions {
            checkpoint: self.options.take("checkpointLocation"),
            query_name: self.query_name.clone().or(named),
            output_mode,
            durability,
            if_running,
            min_batches_to_retain,
            state: StateSettings::take(&mut self.options)?,
            late_rows: self.take_late_rows()?,
        })
    }

    fn take_late_rows(&mut self) -> Result<Option<LateTarget>> {
        let format = self.options.take("lateRowsFormat");
        match (self.options.take("lateRowsPath"), format) {
            (Some(path), format) => {
                Ok(Some(LateTarget { path, format: format.unwrap_or_else(|| "parquet".into()) }))
            }
            (None, None) => Ok(None),
            (None, Some(format)) => Err(Error::option(
                "lateRowsFormat",
                format,
                "it says nothing without the option 'lateRowsPath'",
            )),
        }
    }

    /// Makes the sinks for late rows: like the query's own.
    fn late_sink_maker(
        options: &QueryOptions,
        session: &Arc<SessionInner>,
        storages: &Arc<dyn StorageProvider>,
        state: &SessionState,
    ) -> MakeLateSink {
        let formats = Arc::clone(&session.formats);
        let request = blank_request(options, storages, state);
        Arc::new(move |format, path, schema| {
            let format = format.to_ascii_lowercase();
            let factory = formats.sink(&format)?;
            factory.create(SinkRequest { format, path: Some(path), schema, ..request.clone() })
        })
    }

    fn sink_maker(
        &self,
        path: Option<String>,
        options: &QueryOptions,
        session: &Arc<SessionInner>,
        storages: &Arc<dyn StorageProvider>,
        state: &SessionState,
    ) -> MakeSink {
        let formats = Arc::clone(&session.formats);
        let request = SinkRequest {
            format: self.format.to_ascii_lowercase(),
            path,
            partition_by: self.partition_by.clone(),
            options: self.options.clone(),
            query_name: options.query_name.clone(),
            ..blank_request(options, storages, state)
        };
        let foreach = self.foreach.clone();
        Arc::new(move |schema| {
            if let Some(sink) = &foreach {
                request.options.deny_unknown("a query with foreach_batch", &[])?;
                return Ok(Arc::new(sink.clone()) as Arc<dyn Sink>);
            }
            formats.sink(&request.format)?.create(SinkRequest { schema, ..request.clone() })
        })
    }
}

/// A request for a sink of the query, without what differs from sink to sink.
fn blank_request(
    options: &QueryOptions,
    storages: &Arc<dyn StorageProvider>,
    state: &SessionState,
) -> SinkRequest {
    SinkRequest {
        format: String::new(),
        path: None,
        // Known when the sink is made.
        schema: Arc::new(Schema::empty()),
        partition_by: Vec::new(),
        options: Options::default(),
        query_name: None,
        state: state.clone(),
        storages: Arc::clone(storages),
        durability: options.durability,
    }
}

pub(super) fn storages(
    session: &SessionInner,
    runtime: &Arc<datafusion::execution::runtime_env::RuntimeEnv>,
) -> Arc<dyn StorageProvider> {
    match &session.environment.storages {
        Some(storages) => Arc::clone(storages),
        None => Arc::new(DefaultStorageProvider::new(Arc::clone(runtime))),
    }
}
