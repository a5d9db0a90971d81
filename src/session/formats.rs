//! Formats by name: what `format("…")` and `STORED AS …` can say.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::execution::session_state::SessionState;

use crate::error::{Error, Result};
use crate::options::{Options, nearest};
use crate::sink::console::ConsoleSink;
use crate::sink::file::{FileSink, OutputFormat};
use crate::sink::memory::MemorySink;
use crate::sink::noop::NoopSink;
use crate::sink::{OutputMode, Sink};
use crate::source::SourceProvider;
use crate::source::file::FileTable;
use crate::source::nexmark::NexmarkTable;
use crate::source::rate::RateTable;
use crate::source::rate_micro_batch::RateMicroBatchTable;
use crate::source::socket::SocketTable;
use crate::storage::{Durability, StorageProvider, resolve_location};

/// A table to read, as the user described it.
#[derive(Clone)]
pub struct SourceRequest {
    /// The format, lower case.
    pub format: String,
    /// The path or URL, as written.
    pub path: Option<String>,
    /// The columns, if they were given.
    pub schema: Option<SchemaRef>,
    /// Names of the columns that are directories (`PARTITIONED BY`); they are part of `schema`.
    pub partition_by: Vec<String>,
    /// All options.
    pub options: Options,
    /// The session: settings and object stores.
    pub state: SessionState,
}

/// Makes unbounded tables of one format. Fails on options it does not know.
#[async_trait]
pub trait SourceFactory: Send + Sync {
    /// The table that `request` describes.
    async fn create(&self, request: SourceRequest) -> Result<Arc<dyn SourceProvider>>;
}

/// A place to write to, as the user described it.
#[derive(Clone)]
pub struct SinkRequest {
    /// The format, lower case.
    pub format: String,
    /// The path or URL, as written.
    pub path: Option<String>,
    /// The columns of the query's result.
    pub schema: SchemaRef,
    /// The columns of the result that tell its rows apart, if the query says so: those that it groups by. In
    /// update mode a row replaces the one before it with the same values in them. Empty if they are not known.
    pub keys: Vec<String>,
    /// Which rows of the result it is given.
    pub output_mode: OutputMode,
    /// The columns that become directories.
    pub partition_by: Vec<String>,
    /// The options, without those of the query itself (`checkpointLocation`, …).
    pub options: Options,
    /// The query's name.
    pub query_name: Option<String>,
    /// The session: settings and object stores.
    pub state: SessionState,
    /// Opens the directories it writes to.
    pub storages: Arc<dyn StorageProvider>,
    /// What its writes have to survive.
    pub durability: Durability,
}

/// Makes sinks of one format. Fails on options it does not know. Making one writes nothing: it may
/// be made only to be explained.
pub trait SinkFactory: Send + Sync {
    /// The sink that `request` describes.
    fn create(&self, request: SinkRequest) -> Result<Arc<dyn Sink>>;
}

/// The formats of a session.
pub(crate) struct Formats {
    sources: RwLock<BTreeMap<String, Arc<dyn SourceFactory>>>,
    sinks: RwLock<BTreeMap<String, Arc<dyn SinkFactory>>>,
}

impl Default for Formats {
    fn default() -> Self {
        let formats = Self { sources: RwLock::default(), sinks: RwLock::default() };
        for format in FileTable::FORMATS {
            formats.register_source(format, Arc::new(FileSourceFactory));
        }
        formats.register_source(RateTable::FORMAT, Arc::new(RateFactory));
        for format in RateMicroBatchTable::FORMATS {
            formats.register_source(format, Arc::new(RateMicroBatchFactory));
        }
        formats.register_source(SocketTable::FORMAT, Arc::new(SocketFactory));
        formats.register_source(NexmarkTable::FORMAT, Arc::new(NexmarkFactory));
        for format in OutputFormat::ALL {
            formats.register_sink(format.name(), Arc::new(FileSinkFactory(format)));
        }
        formats.register_sink("console", Arc::new(ConsoleFactory));
        formats.register_sink("memory", Arc::new(MemoryFactory));
        formats.register_sink("noop", Arc::new(NoopFactory));
        #[cfg(feature = "postgres")]
        formats.register_sink(crate::postgres::FORMAT, Arc::new(PostgresFactory));
        formats
    }
}

impl Formats {
    pub(crate) fn register_source(&self, format: &str, factory: Arc<dyn SourceFactory>) {
        self.sources
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(format.to_ascii_lowercase(), factory);
    }

    pub(crate) fn register_sink(&self, format: &str, factory: Arc<dyn SinkFactory>) {
        self.sinks
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(format.to_ascii_lowercase(), factory);
    }

    pub(crate) fn source(&self, format: &str) -> Result<Arc<dyn SourceFactory>> {
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        find(&sources, format, "read as a stream")
    }

    pub(crate) fn sink(&self, format: &str) -> Result<Arc<dyn SinkFactory>> {
        let sinks = self.sinks.read().unwrap_or_else(PoisonError::into_inner);
        find(&sinks, format, "written to by a stream")
    }

    /// Whether streams can be read from `format`.
    pub(crate) fn reads(&self, format: &str) -> bool {
        self.source(format).is_ok()
    }

    /// Whether streams can be written to `format`.
    pub(crate) fn writes(&self, format: &str) -> bool {
        self.sink(format).is_ok()
    }
}

fn find<T: ?Sized>(known: &BTreeMap<String, Arc<T>>, format: &str, purpose: &str) -> Result<Arc<T>> {
    let format = format.to_ascii_lowercase();
    known.get(&format).map(Arc::clone).ok_or_else(|| {
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        let hint =
            nearest(&format, &names).map_or_else(|| ".".into(), |name| format!("; did you mean '{name}'?"));
        Error::Invalid(format!(
            "format '{format}' cannot be {purpose}{hint} Known formats: {}",
            names.join(", ")
        ))
    })
}

fn required_path(path: Option<&str>, format: &str, what: &str) -> Result<String> {
    path.filter(|path| !path.is_empty()).map(str::to_string).ok_or_else(|| {
        Error::Invalid(format!(
            "the {format} {what} needs a path: give one to load(…) or start(…), or in SQL with LOCATION '…'"
        ))
    })
}

struct FileSourceFactory;

#[async_trait]
impl SourceFactory for FileSourceFactory {
    async fn create(&self, request: SourceRequest) -> Result<Arc<dyn SourceProvider>> {
        let path = required_path(request.path.as_deref(), &request.format, "source")?;
        FileTable::resolve(
            &request.format,
            &path,
            request.schema,
            request.partition_by,
            request.options,
            &request.state,
        )
        .await
    }
}

/// A table whose columns cannot be chosen. Columns that the user gave all the same must be those it
/// has, but for `NOT NULL`.
fn with_fixed_columns(
    request: &SourceRequest,
    table: impl SourceProvider + 'static,
) -> Result<Arc<dyn SourceProvider>> {
    if !request.partition_by.is_empty() {
        return Err(Error::Invalid(format!(
            "the {} source reads no directories, so it has no partition columns ({}). Leave PARTITIONED BY out",
            table.format(),
            request.partition_by.join(", ")
        )));
    }
    let columns = table.schema();
    let is_same = |given: &SchemaRef| {
        given.fields().len() == columns.fields().len()
            && given.fields().iter().zip(columns.fields()).all(|(given, column)| {
                given.name() == column.name()
                    && DFSchema::datatype_is_logically_equal(given.data_type(), column.data_type())
            })
    };
    if request.schema.as_ref().is_some_and(|given| !is_same(given)) {
        let column = |column: &FieldRef| format!("{} {}", column.name(), column.data_type());
        return Err(Error::Invalid(format!(
            "the columns of the {} source cannot be chosen: they are ({}). Leave them out",
            table.format(),
            columns.fields().iter().map(column).collect::<Vec<_>>().join(", ")
        )));
    }
    Ok(Arc::new(table))
}

struct RateFactory;

#[async_trait]
impl SourceFactory for RateFactory {
    async fn create(&self, request: SourceRequest) -> Result<Arc<dyn SourceProvider>> {
        with_fixed_columns(&request, RateTable::try_new(&request.options)?)
    }
}

struct RateMicroBatchFactory;

#[async_trait]
impl SourceFactory for RateMicroBatchFactory {
    async fn create(&self, request: SourceRequest) -> Result<Arc<dyn SourceProvider>> {
        with_fixed_columns(&request, RateMicroBatchTable::try_new(&request.options)?)
    }
}

struct NexmarkFactory;

#[async_trait]
impl SourceFactory for NexmarkFactory {
    async fn create(&self, request: SourceRequest) -> Result<Arc<dyn SourceProvider>> {
        with_fixed_columns(&request, NexmarkTable::try_new(&request.options)?)
    }
}

struct SocketFactory;

#[async_trait]
impl SourceFactory for SocketFactory {
    async fn create(&self, request: SourceRequest) -> Result<Arc<dyn SourceProvider>> {
        with_fixed_columns(&request, SocketTable::try_new(&request.options)?)
    }
}

struct FileSinkFactory(OutputFormat);

impl SinkFactory for FileSinkFactory {
    fn create(&self, request: SinkRequest) -> Result<Arc<dyn Sink>> {
        let path = required_path(request.path.as_deref(), &request.format, "sink")?;
        let url = resolve_location(&path)?;
        let storage = request.storages.open(&url, request.durability)?;
        Ok(Arc::new(FileSink::try_new(
            self.0,
            url,
            storage,
            request.schema,
            request.partition_by,
            request.options,
            &request.state,
        )?))
    }
}

/// Fails if a sink without directories is asked for some.
fn no_partitions(request: &SinkRequest) -> Result<()> {
    if request.partition_by.is_empty() {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "the {} sink writes no directories, so it cannot be partitioned by ({}). Leave PARTITIONED BY out",
        request.format,
        request.partition_by.join(", ")
    )))
}

struct ConsoleFactory;

impl SinkFactory for ConsoleFactory {
    fn create(&self, request: SinkRequest) -> Result<Arc<dyn Sink>> {
        no_partitions(&request)?;
        Ok(Arc::new(ConsoleSink::try_new(request.schema, &request.options)?))
    }
}

struct MemoryFactory;

impl SinkFactory for MemoryFactory {
    fn create(&self, request: SinkRequest) -> Result<Arc<dyn Sink>> {
        no_partitions(&request)?;
        request.options.deny_unknown("the memory sink", &[])?;
        if request.query_name.is_none() {
            return Err(Error::Invalid(
                "the memory sink needs a query name, which becomes the name of its table: give one with \
                 query_name(…), or in SQL with CREATE STREAMING QUERY name"
                    .into(),
            ));
        }
        Ok(Arc::new(MemorySink::try_new(request.schema)?))
    }
}

#[cfg(feature = "postgres")]
struct PostgresFactory;

#[cfg(feature = "postgres")]
impl SinkFactory for PostgresFactory {
    fn create(&self, request: SinkRequest) -> Result<Arc<dyn Sink>> {
        no_partitions(&request)?;
        Ok(Arc::new(crate::postgres::PostgresSink::try_new(
            request.path.as_deref(),
            request.schema,
            request.keys,
            request.output_mode,
            &request.options,
        )?))
    }
}

struct NoopFactory;

impl SinkFactory for NoopFactory {
    fn create(&self, request: SinkRequest) -> Result<Arc<dyn Sink>> {
        no_partitions(&request)?;
        request.options.deny_unknown("the noop sink", &[])?;
        Ok(Arc::new(NoopSink))
    }
}
