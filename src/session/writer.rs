//! Describing a streaming query.

use std::sync::{Arc, PoisonError};

use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::session_state::SessionState;
use datafusion::prelude::DataFrame;

use super::formats::SinkRequest;
use super::path::IntoPath;
use super::{SessionInner, link};
use crate::checkpoint::{stage_replay, stage_source};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::query::{
    self, IfRunning, LateTarget, MakeLateSink, MakeSink, QueryPlan, Replan, RestartPolicy, StartRequest,
    StateSettings, StreamingQuery, Trigger,
};
use crate::sink::{ForeachWriter, OutputMode, OwnCode};
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
    code: Option<OwnCode>,
    /// How the data frame is made anew of its text.
    replan: Option<Replan>,
}

/// The options of the query itself, taken out of those that the sink sees.
struct QueryOptions {
    checkpoint: Option<String>,
    query_name: Option<String>,
    output_mode: OutputMode,
    durability: Durability,
    if_running: Option<IfRunning>,
    restart: Option<RestartPolicy>,
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
            code: None,
            replan: None,
        }
    }

    /// `replan` makes the plan of the data frame anew when its tables have got more columns.
    pub(crate) fn replanned_by(self, replan: Replan) -> Self {
        Self { replan: Some(replan), ..self }
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

    /// Gives each batch, with its number, to `function`, in place of a format: Spark's `foreachBatch`.
    ///
    /// The batch is an ordinary DataFrame of the query's session over rows that are kept until the function is
    /// done: it may be used several times, and nothing is computed again. The function is called once per
    /// batch, also for one without rows, and before the batch is committed. An error or a panic of it fails the
    /// query. After that, and after a crash before the commit, it is called again with the same rows and
    /// number; who needs each batch once keeps the number with what it writes.
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
    ///     .foreach_batch(|rows, batch| async move {
    ///         let even = rows.clone().filter((col("value") % lit(2)).eq(lit(0)))?.count().await?;
    ///         println!("batch {batch}: {} rows, {even} of them even", rows.count().await?);
    ///         Ok(())
    ///     })
    ///     .start(None)
    ///     .await?;
    /// query.stop(StopMode::Finish).await
    /// # }
    /// ```
    pub fn foreach_batch<F, D>(mut self, function: F) -> Self
    where
        F: Fn(DataFrame, u64) -> D + Send + Sync + 'static,
        D: Future<Output = Result<()>> + Send + 'static,
    {
        self.code = Some(OwnCode::batch(function));
        self
    }

    /// Gives the rows of each partition of each batch to a writer that `make` makes, in place of a format:
    /// Spark's `foreach`. [`ForeachWriter`] says what is called when.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tidemill::Result<()> {
    /// use tidemill::prelude::*;
    /// use tidemill::{Error, Result, sink::ForeachWriter};
    ///
    /// #[derive(Default)]
    /// struct Print {
    ///     rows: usize,
    /// }
    ///
    /// #[async_trait::async_trait]
    /// impl ForeachWriter for Print {
    ///     async fn open(&mut self, partition: usize, epoch: u64) -> Result<bool> {
    ///         println!("partition {partition} of batch {epoch}");
    ///         Ok(true)
    ///     }
    ///
    ///     async fn process(&mut self, rows: &RecordBatch) -> Result<()> {
    ///         self.rows += rows.num_rows();
    ///         Ok(())
    ///     }
    ///
    ///     async fn close(&mut self, error: Option<&Error>) -> Result<()> {
    ///         println!("{} rows, error: {error:?}", self.rows);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let session = Session::new();
    /// let numbers = session.read_stream().format("rate").option("rowsPerSecond", 1000).load(None).await?;
    /// let query = numbers.write_stream().foreach(Print::default).start(None).await?;
    /// query.stop(StopMode::Finish).await
    /// # }
    /// ```
    pub fn foreach<W: ForeachWriter + 'static>(
        mut self,
        make: impl Fn() -> W + Send + Sync + 'static,
    ) -> Self {
        self.code = Some(OwnCode::partition(make));
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
    pub async fn start(mut self, path: impl IntoPath) -> Result<StreamingQuery> {
        let options = self.take_query_options()?;
        query::start(self.request(path.into_path(), options)?).await
    }

    /// What [`start`](Self::start) would do with the checkpoint, in words: where it would go on, or what it
    /// would refuse; `None` without a `checkpointLocation`. Changes nothing.
    ///
    /// # Errors
    /// As [`DataStreamWriter::start`], but for a checkpoint of another query.
    pub async fn explain_restart(mut self, path: impl IntoPath) -> Result<Option<String>> {
        let options = self.take_query_options()?;
        query::explain_restart(self.request(path.into_path(), options)?).await
    }

    /// Runs a batch of the checkpoint again, with the offsets that it had and with the state from before it, and
    /// gives the rows that this query has for it. Nothing is changed, neither in the checkpoint nor in the sink:
    /// to find out what a batch has given, or what another query would have. The input must still be there.
    ///
    /// # Errors
    /// If the files of the batch or of the one before it are not there any more, if the query does not fit
    /// the checkpoint (filters and projections may be others, keys and aggregates may not), or if the batch fails.
    pub async fn replay(self, checkpoint: &str, batch: u64) -> Result<Vec<RecordBatch>> {
        self.run_again(checkpoint, batch, None).await
    }

    /// As [`replay`](Self::replay), but of a query that only reads one of the tables of the checkpoint's: the source
    /// of this number, in the order of its plan. It gives the rows that the batch read of it.
    ///
    /// # Errors
    /// As [`replay`](Self::replay).
    pub async fn replay_source(
        self,
        checkpoint: &str,
        batch: u64,
        source: usize,
    ) -> Result<Vec<RecordBatch>> {
        self.run_again(checkpoint, batch, Some(source)).await
    }

    async fn run_again(
        mut self,
        checkpoint: &str,
        batch: u64,
        source: Option<usize>,
    ) -> Result<Vec<RecordBatch>> {
        let (state, _) = self.frame.clone().into_parts();
        let storages = storages(link(state.config())?.as_ref(), state.runtime_env());
        let directory = tempfile::Builder::new().prefix("tidemill-replay").tempdir();
        let directory =
            directory.map_err(|error| Error::storage("create", "a temporary directory", error))?;
        let place = directory.path().display().to_string();
        let [from, to] = [checkpoint, place.as_str()]
            .map(|place| storages.open(&resolve_location(place)?, Durability::Process));
        let (code, kept) = OwnCode::keep(batch);
        match source {
            None => stage_replay(&*from?, &*to?, batch, code.definition()).await?,
            Some(source) => stage_source(&*from?, &*to?, (batch, source), code.definition()).await?,
        }
        let mut options = self.take_query_options()?;
        options.checkpoint = Some(place);
        options.durability = Durability::Process;
        (options.late_rows, options.if_running, options.restart, options.query_name) =
            (None, None, None, None);
        // What is left is the sink's.
        self = Self { code: Some(code), options: Options::default(), partition_by: Vec::new(), ..self };
        let request = self.trigger(Trigger::Once).request(None, options)?;
        let query = query::start(StartRequest { is_replay: true, ..request }).await?;
        let ended = query.await_termination().await;
        let rows = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (rows, ended) {
            (Some(rows), _) => Ok(rows),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(Error::Invalid(format!("batch {batch} was not run again"))),
        }
    }

    fn request(self, path: Option<String>, options: QueryOptions) -> Result<StartRequest> {
        let (state, plan) = self.frame.clone().into_parts();
        let session = link(state.config())?;
        let storages = storages(&session, state.runtime_env());
        let checkpoint = options.checkpoint.as_deref().map(resolve_location).transpose()?;
        let make_sink = self.sink_maker(path, &options, &session, &storages, &state);
        let make_late_sink = Self::late_sink_maker(&options, &session, &storages, &state);
        Ok(StartRequest {
            plan: QueryPlan { logical: plan, state: state.clone() },
            replan: self.replan.clone(),
            make_sink,
            late_rows: options.late_rows.clone(),
            make_late_sink,
            output_mode: options.output_mode,
            is_replay: false,
            trigger: self.trigger,
            name: options.query_name.clone(),
            checkpoint,
            durability: options.durability,
            if_running: options.if_running,
            restart: options.restart.clone(),
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
            restart: RestartPolicy::take(&mut self.options)?,
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
        let request =
            SinkRequest { output_mode: OutputMode::Append, ..blank_request(options, storages, state) };
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
        let code = self.code.clone();
        Arc::new(move |schema, keys| {
            let Some(code) = &code else {
                return formats.sink(&request.format)?.create(SinkRequest {
                    schema,
                    keys,
                    ..request.clone()
                });
            };
            let context = format!("a query with {}", code.name());
            request.options.deny_unknown(&context, &[])?;
            if !request.partition_by.is_empty() {
                return Err(Error::Invalid(format!("{context} has no directories to partition by")));
            }
            Ok(code.sink(schema, request.state.clone()))
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
        keys: Vec::new(),
        output_mode: options.output_mode,
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
