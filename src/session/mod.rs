//! Where everything comes together: a DataFusion session that can also stream.

mod environment;
mod event_time;
mod formats;
mod gap_fill;
mod guess;
mod observe;
mod path;
mod reader;
#[cfg(feature = "spark")]
mod spark;
mod state_function;
mod stores;
mod table_functions;
mod user_state;
mod writer;

use std::sync::{Arc, Weak};

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::datasource::file_format::arrow::ArrowFormatFactory;
use datafusion::datasource::file_format::parquet::ParquetFormatFactory;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{FunctionRegistry, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::AnalyzerRule;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};

pub use environment::Environment;
pub use event_time::{EventTime, IntoDelay};
pub use formats::{SinkFactory, SinkRequest, SourceFactory, SourceRequest};
pub use guess::guess_format;
pub use observe::Observe;
pub use path::IntoPath;
pub use reader::DataStreamReader;
pub use user_state::UserState;
pub use writer::DataStreamWriter;

use crate::error::{Error, Result};
use crate::functions::{JsonOperators, all_functions, json_functions, message_functions};
use crate::plan::{
    AggregatesOfStatistics, BatchEventTime, Corrections, NamedKeys, SetOperations, StreamTable, Subqueries,
    TimeZones, with_values,
};
use crate::query::{StoredState, StreamingQueryManager, pinned_definition, pinned_tables};
use crate::sink::file::{ArrowFiles, BoundedWrites};
use crate::source::file::{CheckedScans, KnownColumns, ParquetFiles};
use crate::storage::{Durability, Storage, resolve_location};
use formats::Formats;
use state_function::StateTableFunction;
use stores::Stores;
use table_functions::EventTimeTableFunctions;

/// A DataFusion [`SessionContext`] whose tables may be unbounded.
///
/// Clones are the same session. When the last one is dropped, its queries are stopped; the batch in
/// flight is given up and runs again at the next start.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidemill::Result<()> {
/// use tidemill::prelude::*;
///
/// let session = Session::new();
/// // Everything of DataFusion is there.
/// let rows = session.context().sql("SELECT 1 + 1").await?.collect().await?;
/// assert_eq!(rows[0].num_rows(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Session {
    context: SessionContext,
    inner: Arc<SessionInner>,
}

/// What all clones of a session, and the data frames made in it, share.
pub(crate) struct SessionInner {
    pub(crate) manager: StreamingQueryManager,
    pub(crate) environment: Environment,
    pub(crate) formats: Arc<Formats>,
}

impl Drop for SessionInner {
    fn drop(&mut self) {
        self.manager.abandon_all();
    }
}

/// How a data frame finds the session it was made in. Weak: a data frame must not keep the queries
/// of a dropped session running.
struct SessionLink(Weak<SessionInner>);

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.context.session_id()).finish_non_exhaustive()
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl From<SessionContext> for Session {
    /// Makes a session of a context, with its catalogs, functions, object stores and settings.
    fn from(context: SessionContext) -> Self {
        Self::with_environment(context, Environment::default())
    }
}

impl Session {
    /// A session with DataFusion's default settings, except that listings of directories are not
    /// cached: files that streaming queries write are seen by the next batch query. Object stores whose
    /// feature is on (`aws`, `gcp`, `azure`, `http`) are opened when they are named, with what the environment
    /// says of them.
    pub fn new() -> Self {
        Self::in_environment(Environment::default())
    }

    /// As [`Session::new`], with its own clock, ids and storages. For tests.
    pub fn in_environment(environment: Environment) -> Self {
        let stores = Arc::new(Stores::default());
        let mut runtime = RuntimeEnvBuilder::new().with_object_store_registry(stores);
        runtime.cache_manager.list_files_cache_limit = 0;
        let config = SessionConfig::new().with_information_schema(true);
        let context = match runtime.build_arc() {
            Ok(runtime) => SessionContext::new_with_config_rt(config, runtime),
            // Only a temporary directory that cannot be made fails here; DataFusion's own default
            // makes it later, when something has to be spilled.
            Err(_) => SessionContext::new_with_config(config),
        };
        Self::with_environment(context, environment)
    }

    /// A session of `context` with its own clock, ids and storages. For tests.
    pub fn with_environment(context: SessionContext, environment: Environment) -> Self {
        let inner = Arc::new(SessionInner {
            manager: StreamingQueryManager::default(),
            environment,
            formats: Arc::default(),
        });
        {
            let state = context.state_ref();
            let mut state = state.write();
            *state = with_values(&state);
        }
        let link = Arc::new(SessionLink(Arc::downgrade(&inner)));
        context.state_ref().write().config_mut().set_extension(link);
        context.state_ref().write().config_mut().set_extension(Arc::<KnownColumns>::default());
        for function in all_functions().into_iter().chain(json_functions()).chain(message_functions()) {
            context.register_udf(function.as_ref().clone());
        }
        add_rules(&context);
        // Fails only if DataFusion was built without SQL.
        if let Err(error) = context.clone().register_expr_planner(Arc::new(JsonOperators)) {
            tracing::warn!(%error, "the operators -> and ->> are not available");
        }
        // Fails only if DataFusion was built without SQL.
        if let Err(error) = context.register_relation_planner(Arc::new(EventTimeTableFunctions)) {
            tracing::warn!(%error, "TUMBLE, HOP and WITH_WATERMARK are not available");
        }
        let state = StateTableFunction::new(Arc::downgrade(&inner), context.runtime_env());
        if let Err(error) = context.register_relation_planner(Arc::new(state)) {
            tracing::warn!(%error, "the table function state is not available");
        }
        Self { context, inner }
    }

    /// The DataFusion context: catalogs, functions, object stores, batch queries.
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    /// Begins to describe an unbounded table.
    pub fn read_stream(&self) -> DataStreamReader {
        DataStreamReader::new(self.clone())
    }

    /// The streaming queries of this session.
    pub fn streams(&self) -> &StreamingQueryManager {
        &self.inner.manager
    }

    /// Makes `format` readable with [`DataStreamReader::format`] and `STORED AS`. Replaces an
    /// earlier registration of the same name.
    pub fn register_source(&self, format: &str, factory: Arc<dyn SourceFactory>) {
        self.inner.formats.register_source(format, factory);
    }

    /// Makes `format` writable with [`DataStreamWriter::format`] and `STORED AS`. Replaces an
    /// earlier registration of the same name.
    pub fn register_sink(&self, format: &str, factory: Arc<dyn SinkFactory>) {
        self.inner.formats.register_sink(format, factory);
    }

    /// Whether a stream can be read from `format`.
    pub fn reads_format(&self, format: &str) -> bool {
        self.inner.formats.reads(format)
    }

    /// Whether a stream can be written to `format`.
    pub fn writes_format(&self, format: &str) -> bool {
        self.inner.formats.writes(format)
    }

    /// The unbounded tables that `plan` reads whose columns were inferred, and differ from those that
    /// the checkpoint at `checkpoint` pinned at the query's first start; each with the pinned columns.
    /// A query text is planned over these tables when the query is started again.
    ///
    /// # Errors
    /// If the checkpoint cannot be read.
    pub async fn pinned_tables(
        &self,
        plan: &LogicalPlan,
        checkpoint: &str,
    ) -> Result<Vec<(TableReference, Arc<dyn TableProvider>)>> {
        let url = resolve_location(checkpoint)?;
        let storage = self.open_storage(&url)?;
        let tables = pinned_tables(plan, storage.as_ref()).await?;
        let as_table = |provider| Arc::new(StreamTable::new(provider)) as Arc<dyn TableProvider>;
        Ok(tables.into_iter().map(|(name, provider)| (name, as_table(provider))).collect())
    }

    /// Has tables whose columns are not given take them from the checkpoint at `checkpoint`, if it has pinned
    /// columns for their place: then no file is opened to infer them again. Call it before the table is made.
    /// In SQL scripts and on the command line this happens by itself.
    ///
    /// # Errors
    /// If the checkpoint cannot be read.
    pub async fn use_columns_of(&self, checkpoint: &str) -> Result<()> {
        let url = resolve_location(checkpoint)?;
        let storage = self.open_storage(&url)?;
        let known = self.context().state_ref().read().config().get_extension::<KnownColumns>();
        if let (Some(known), Some(metadata)) = (known, pinned_definition(storage.as_ref()).await?) {
            known.add(storage.url(), &metadata.definition);
        }
        Ok(())
    }

    /// What the query with its checkpoint at `checkpoint` remembered after `batch`, or after the last
    /// batch that it has committed. The query may be running; it is not disturbed.
    ///
    /// In SQL the same is a table function, `state('checkpoint', operator, batch)`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not a checkpoint, has no state, or no longer has that batch.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tidemill::Result<()> {
    /// use datafusion::functions_aggregate::expr_fn::count;
    /// use tidemill::prelude::*;
    ///
    /// let folder = tempfile::tempdir().unwrap();
    /// let texts = folder.path().join("texts");
    /// std::fs::create_dir(&texts).unwrap();
    /// std::fs::write(texts.join("a.json"), "{\"word\":\"to\"}\n{\"word\":\"be\"}\n{\"word\":\"to\"}\n").unwrap();
    /// let session = Session::new();
    /// let words = session.read_stream().format("json").load(&texts).await?;
    /// let counts = words.aggregate(vec![col("word")], vec![count(lit(1)).alias("times")])?;
    /// let checkpoint = folder.path().join("checkpoint").display().to_string();
    /// let query = counts
    ///     .write_stream()
    ///     .format("noop")
    ///     .output_mode(OutputMode::Update)
    ///     .trigger(Trigger::AvailableNow)
    ///     .option("checkpointLocation", &checkpoint)
    ///     .start(None)
    ///     .await?;
    /// query.await_termination().await?;
    ///
    /// let state = session.stored_state(&checkpoint, None).await?;
    /// assert_eq!(state.batch_id(), 0);
    /// let groups = session.context().read_table(state.table(0)?)?;
    /// assert_eq!(groups.count().await?, 2);
    ///
    /// let sql = format!("SELECT word FROM state('{checkpoint}', 0) WHERE word < 'c'");
    /// assert_eq!(session.context().sql(&sql).await?.count().await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stored_state(&self, checkpoint: &str, batch: Option<u64>) -> Result<StoredState> {
        let storages = writer::storages(&self.inner, &self.context.runtime_env());
        state_function::open(storages.as_ref(), checkpoint, batch).await
    }

    /// Opens the directory at `url` as checkpoints are opened: a local one, or one on an object store of
    /// the session.
    ///
    /// # Errors
    /// If there is no object store for the URL.
    pub fn open_storage(&self, url: &url::Url) -> Result<Arc<dyn Storage>> {
        writer::storages(&self.inner, &self.context.runtime_env()).open(url, Durability::Process)
    }

    pub(crate) fn inner(&self) -> &Arc<SessionInner> {
        &self.inner
    }
}

/// Adds our rules to those that make a plan say what it means. A context that has them keeps them.
fn add_rules(context: &SessionContext) {
    let state = context.state_ref();
    let mut state = state.write();
    let mut rules = state.analyzer().rules.clone();
    if rules.iter().any(|rule| rule.name() == TimeZones.name()) {
        return;
    }
    let coercion = rules.iter().position(|rule| rule.name() == "type_coercion").unwrap_or(rules.len());
    rules.insert(coercion, Arc::new(TimeZones));
    rules.insert(coercion, Arc::new(SetOperations));
    rules.insert(coercion, Arc::new(Subqueries));
    rules.push(Arc::new(BatchEventTime));
    rules.push(Arc::new(Corrections));
    // A state that makes its default catalog anew empties the one there is.
    let makes_catalog = state.config().options().catalog.create_default_catalog_and_schema;
    let config = state.config().clone().with_create_default_catalog_and_schema(false);
    *state = SessionStateBuilder::new_from_existing(state.clone())
        .with_session_id(state.session_id().to_string())
        .with_config(config)
        .with_analyzer_rules(rules)
        .with_optimizer_rules(NamedKeys::guarded(state.optimizers()))
        .with_physical_optimizer_rules(AggregatesOfStatistics::guarded(state.physical_optimizers()))
        .with_physical_optimizer_rule(Arc::new(BoundedWrites::default()))
        .with_physical_optimizer_rule(Arc::new(CheckedScans::new(Arc::clone(state.runtime_env()))))
        .build();
    state.config_mut().options_mut().catalog.create_default_catalog_and_schema = makes_catalog;
    let arrow = state.get_file_format_factory("arrow");
    if arrow.is_some_and(|factory| factory.is::<ArrowFormatFactory>())
        && let Err(error) = state.register_file_format(Arc::new(ArrowFiles::default()), true)
    {
        tracing::warn!(%error, "DataFusion writes Arrow files itself");
    }
    let parquet = state.get_file_format_factory("parquet");
    let is_plain = |factory: &ParquetFormatFactory| factory.options.is_none();
    if parquet.is_some_and(|factory| factory.downcast_ref().is_some_and(is_plain))
        && let Err(error) = state.register_file_format(Arc::new(ParquetFiles::default()), true)
    {
        tracing::warn!(%error, "DataFusion reads Parquet files itself");
    }
}

/// Reading streams from a DataFusion context that a [`Session`] was made of.
pub trait ReadStream {
    /// Begins to describe an unbounded table; fails if no [`Session`] was made of this context.
    fn read_stream(&self) -> Result<DataStreamReader>;
}

impl ReadStream for SessionContext {
    fn read_stream(&self) -> Result<DataStreamReader> {
        let inner = link(&self.copied_config())?;
        Ok(DataStreamReader::new(Session { context: self.clone(), inner }))
    }
}

/// Writing a data frame over unbounded tables.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidemill::Result<()> {
/// use tidemill::prelude::*;
///
/// let session = Session::new();
/// let bounded = session.context().sql("SELECT 1 AS a").await?;
/// let refused = bounded.write_stream().format("noop").start(None).await;
/// assert!(refused.unwrap_err().to_string().contains("without an unbounded table"));
/// # Ok(())
/// # }
/// ```
pub trait WriteStream {
    /// Begins to describe the query that writes this data frame's rows, as they come.
    fn write_stream(self) -> DataStreamWriter;
}

impl WriteStream for DataFrame {
    fn write_stream(self) -> DataStreamWriter {
        DataStreamWriter::new(self)
    }
}

/// The session that `config` belongs to.
pub(crate) fn link(config: &SessionConfig) -> Result<Arc<SessionInner>> {
    let no_session = || {
        Error::Invalid(
            "this data frame does not belong to a living tidemill Session. Make one with \
             Session::from(context), and keep it for as long as its queries are to run"
                .into(),
        )
    };
    config.get_extension::<SessionLink>().and_then(|link| link.0.upgrade()).ok_or_else(no_session)
}
