//! Starting a query: everything that can go wrong before its first batch goes wrong here.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use super::batch::{BatchRunner, PlannedBatch};
use super::execution::Execution;
use super::handle::{QueryShared, StreamingQuery};
use super::late_rows::{LateRows, MakeLateSink};
use super::listener::{QueryStarted, QueryTerminated};
use super::manager::{CheckpointLease, StreamingQueryManager};
use super::progress::iso_timestamp;
use super::settings::StateSettings;
use super::trigger::Trigger;
use crate::checkpoint::records::{
    ColumnDefinition, Metadata, OffsetsRecord, OperatorDefinition, QueryDefinition, SourceDefinition,
};
use crate::checkpoint::{Checkpoint, Recovered, Recovery, definition};
use crate::clock::Clock;
use crate::error::{Error, Result, StreamingQueryException};
use crate::id::IdGenerator;
use crate::plan::{StreamingPlan, bind, check, result_schema};
use crate::sink::{OutputMode, Sink};
use crate::source::{Source, SourceBatch, SourceContext, SourceProvider};
use crate::state::{StateOptions, StateStore};
use crate::storage::{Durability, Storage, StorageProvider};

/// A plan and the session it was made in.
#[derive(Debug, Clone)]
pub(crate) struct QueryPlan {
    pub(crate) logical: LogicalPlan,
    pub(crate) state: SessionState,
}

/// Makes the sink once the columns of the result are known.
pub(crate) type MakeSink<'a> = &'a (dyn Fn(SchemaRef) -> Result<Arc<dyn Sink>> + Send + Sync);

/// Everything a start needs.
pub(crate) struct StartRequest<'a> {
    pub(crate) plan: QueryPlan,
    pub(crate) make_sink: MakeSink<'a>,
    /// Where late rows go, if they are to be kept.
    pub(crate) make_late_sink: Option<MakeLateSink<'a>>,
    pub(crate) output_mode: OutputMode,
    pub(crate) trigger: Trigger,
    pub(crate) name: Option<String>,
    /// Where the checkpoint is; `None` only for sinks that do not outlive the process.
    pub(crate) checkpoint: Option<Url>,
    pub(crate) durability: Durability,
    pub(crate) min_batches_to_retain: u64,
    pub(crate) state: StateSettings,
    pub(crate) manager: StreamingQueryManager,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdGenerator>,
    pub(crate) storages: Arc<dyn StorageProvider>,
}

/// Checks, prepares and starts a query; returns when its first batch is about to run.
pub(crate) async fn start(request: StartRequest<'_>) -> Result<StreamingQuery> {
    request.manager.check_name(request.name.as_deref())?;
    check::check(&request.plan.logical, request.output_mode)?;
    let run_id = request.ids.next_id();
    let place = CheckpointPlace::choose(&request, run_id)?;
    let lease = CheckpointLease::take(place.url.as_str())?;
    let storage = request.storages.open(&place.url, place.durability)?;
    let known = Checkpoint::read_metadata(storage.as_ref()).await?;
    let (logical, providers) = pin_inferred_schemas(&request.plan.logical, known.as_ref())?;
    let sink = (request.make_sink)(result_schema(&logical, &request.plan.state))?;
    sink.check_output_mode(request.output_mode)?;
    let id = known.as_ref().map_or_else(|| request.ids.next_id(), |known| known.id);
    let state = &request.plan.state;
    let sources = create_sources(&providers, id, state, &request.clock)?;
    let shape = request.state.shape(request.output_mode, state);
    let plan = StreamingPlan::prepare(logical, state, &providers, &sources, Arc::clone(&sink), shape).await?;
    let current = define(&providers, sink.as_ref(), request.output_mode, plan.operators(), storage.as_ref());
    let late_rows = LateRows::of(&plan, request.make_late_sink)?;
    if let Some(known) = &known {
        definition::check_unchanged(storage.url(), &known.definition, &current)?;
    }

    let (checkpoint, recovered) = Checkpoint::open(Arc::clone(&storage), run_id).await?;
    if recovered.metadata.is_some() && known.is_none() {
        return Err(Error::ConcurrentQuery {
            checkpoint: storage.url().to_string(),
            reason: "it was created while this query was starting. Start it again".into(),
        });
    }
    let conf = request.state.pin(state, shape, recovered.decision.settings(), storage.url())?;
    if recovered.metadata.is_none() {
        let created_by = concat!("tidemill ", env!("CARGO_PKG_VERSION")).to_string();
        checkpoint.create_metadata(&Metadata { id, created_by, definition: current }).await?;
    }
    let last = recovered.last_commit.as_ref().map(|commit| (commit.batch_id, &commit.sink));
    sink.recover(id, last).await?;
    let late = recovered.last_commit.as_ref().map(|commit| (commit.batch_id, &commit.late));
    late_rows.recover(id, late).await?;
    let manifest = recovered.last_commit.as_ref().map_or(Value::Null, |commit| commit.state.clone());
    let options = StateOptions {
        operators: plan.operators().len(),
        partitions: shape.state_partitions,
        memory_limit: request.state.memory_limit,
        run_id,
    };
    let mut state_store = StateStore::open(Arc::clone(&storage), &manifest, options).await?;
    state_store.account_in(&request.plan.state.runtime_env().memory_pool)?;
    let resumed = resume(&sources, recovered).await?;
    let tracker = request.state.tracker(&conf, &plan, resumed.watermark_ms, request.clock.now_ms())?;

    let explain = plan.explain().await?;
    let shared = Arc::new(QueryShared::new(id, run_id, request.name.clone(), explain));
    let runner = BatchRunner {
        shared: Arc::clone(&shared),
        checkpoint: Arc::new(checkpoint),
        sources,
        plan,
        state: Arc::new(state_store),
        sink,
        late_rows,
        output_mode: request.output_mode,
    };
    let execution = Execution {
        runner,
        manager: request.manager.clone(),
        clock: Arc::clone(&request.clock),
        trigger: request.trigger,
        descriptions: providers.iter().map(|provider| provider.description()).collect(),
        conf,
        min_batches_to_retain: request.min_batches_to_retain,
        next_batch: resumed.next_batch,
        rerun: resumed.rerun,
        tracker,
        last_watermark_ms: resumed.last_watermark_ms,
        flush_on_end: request.state.flush_on_end,
        has_run: false,
        previous_trigger_ms: None,
        is_tidy: false,
        maintenance: None,
    };
    if let (Some(name), Some(table)) = (&request.name, execution.runner.sink.results()) {
        publish_table(&request.plan.state, name, table)?;
    }
    request.manager.register(&shared)?;
    request.manager.notify_started(&QueryStarted {
        id,
        run_id,
        name: request.name,
        timestamp: iso_timestamp(request.clock.now_ms()),
    });
    tokio::spawn(run_to_end(execution, place, lease));
    Ok(StreamingQuery { shared })
}

/// What a query would do, without starting it.
pub(crate) async fn explain(
    plan: QueryPlan,
    output_mode: OutputMode,
    state: &StateSettings,
    make_sink: MakeSink<'_>,
    clock: Arc<dyn Clock>,
) -> Result<String> {
    check::check(&plan.logical, output_mode)?;
    let providers = bind::sources_of(&plan.logical);
    let sink = make_sink(result_schema(&plan.logical, &plan.state))?;
    sink.check_output_mode(output_mode)?;
    let sources = create_sources(&providers, Uuid::nil(), &plan.state, &clock)?;
    let shape = state.shape(output_mode, &plan.state);
    StreamingPlan::prepare(plan.logical, &plan.state, &providers, &sources, sink, shape)
        .await?
        .explain()
        .await
}

fn create_sources(
    providers: &[Arc<dyn SourceProvider>],
    query_id: Uuid,
    state: &SessionState,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<Arc<dyn Source>>> {
    let context =
        SourceContext { query_id, runtime: Arc::clone(state.runtime_env()), clock: Arc::clone(clock) };
    providers.iter().map(|provider| provider.create(context.clone())).collect()
}

/// Makes the results of a query that keeps them in memory queryable, in place of those of an earlier
/// run.
fn publish_table(state: &SessionState, name: &str, table: Arc<dyn TableProvider>) -> Result<()> {
    let reference = TableReference::bare(name);
    let schema = state.schema_for_ref(reference)?;
    schema.deregister_table(name)?;
    schema.register_table(name.to_string(), table)?;
    Ok(())
}

/// The task of a run: the loop, then what everybody is told about its end.
async fn run_to_end(mut execution: Execution, place: CheckpointPlace, lease: CheckpointLease) {
    let shared = Arc::clone(&execution.runner.shared);
    let manager = execution.manager.clone();
    // In a task of its own, so that a panic ends this query with an error and nothing else.
    let run = tokio::spawn(async move {
        let ended = execution.run().await;
        (ended, execution.current_batch())
    });
    let (ended, batch) = match run.await {
        Ok((ended, batch)) => (ended, Some(batch)),
        Err(error) => (Err(Error::Invalid(format!("the query panicked, which is a bug: {error}"))), None),
    };
    drop(place);
    let exception = ended.err().map(|cause| StreamingQueryException {
        id: shared.id,
        run_id: shared.run_id,
        name: shared.name.clone(),
        batch_id: batch,
        cause: Arc::new(cause),
    });
    if let Some(exception) = &exception {
        tracing::error!("{exception}");
    }
    // The checkpoint is free, and the query no longer active, before anybody learns of the end.
    drop(lease);
    manager.retire(&shared, || shared.end(exception.clone()));
    manager.notify_terminated(&QueryTerminated { id: shared.id, run_id: shared.run_id, exception });
}

/// Where a run keeps its checkpoint.
#[derive(Debug)]
struct CheckpointPlace {
    url: Url,
    durability: Durability,
    /// A directory of this run's own, removed at its end.
    temporary: Option<PathBuf>,
}

impl CheckpointPlace {
    fn choose(request: &StartRequest<'_>, run_id: Uuid) -> Result<Self> {
        if let Some(url) = &request.checkpoint {
            return Ok(Self { url: url.clone(), durability: request.durability, temporary: None });
        }
        let sink = (request.make_sink)(result_schema(&request.plan.logical, &request.plan.state))?;
        if !sink.is_ephemeral() {
            return Err(Error::Invalid(format!(
                "{} needs the option 'checkpointLocation' (in SQL: CHECKPOINT LOCATION '…'): a directory \
                 where the query remembers what it has done",
                sink.description()
            )));
        }
        let path = std::env::temp_dir().join(format!("tidemill-{run_id}"));
        let url = Url::from_directory_path(&path)
            .map_err(|()| Error::Invalid(format!("'{}' is not an absolute path", path.display())))?;
        Ok(Self { url, durability: Durability::Process, temporary: Some(path) })
    }
}

impl Drop for CheckpointPlace {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary
            && let Err(error) = std::fs::remove_dir_all(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "could not remove the temporary checkpoint");
        }
    }
}

/// What a restart must find unchanged, of the query as it is now.
fn define(
    providers: &[Arc<dyn SourceProvider>],
    sink: &dyn Sink,
    output_mode: OutputMode,
    operators: &[OperatorDefinition],
    checkpoint: &dyn Storage,
) -> QueryDefinition {
    QueryDefinition {
        sources: providers.iter().map(|provider| provider.definition(checkpoint)).collect(),
        sink: sink.definition(checkpoint),
        output_mode: output_mode.name().into(),
        operators: operators.to_vec(),
    }
}

/// The plan and its sources with every inferred schema replaced by the one the checkpoint pinned.
fn pin_inferred_schemas(
    plan: &LogicalPlan,
    known: Option<&Metadata>,
) -> Result<(LogicalPlan, Vec<Arc<dyn SourceProvider>>)> {
    let providers = bind::sources_of(plan);
    let Some(known) = known else {
        return Ok((plan.clone(), providers));
    };
    let pinned = providers
        .iter()
        .enumerate()
        .map(|(index, provider)| pin(provider, known.definition.sources.get(index)))
        .collect::<Result<Vec<_>>>()?;
    if pinned.iter().zip(&providers).all(|(pinned, provider)| Arc::ptr_eq(pinned, provider)) {
        return Ok((plan.clone(), providers));
    }
    match bind::pin_schemas(plan.clone(), &providers, &pinned) {
        Ok(plan) => Ok((plan, pinned)),
        Err(error) => Err(Error::Invalid(format!(
            "the query does not fit the columns that its checkpoint pinned when they were inferred at the \
             first start: {error}. To use columns that were added since, give the schema explicitly and \
             start with a new checkpointLocation"
        ))),
    }
}

/// The unbounded tables that `plan` reads whose inferred columns are not those that the checkpoint
/// in `storage` pinned, each with the pinned columns. A text that says `SELECT *` has to be planned
/// over these.
pub(crate) async fn pinned_tables(
    plan: &LogicalPlan,
    storage: &dyn Storage,
) -> Result<Vec<(TableReference, Arc<dyn SourceProvider>)>> {
    let Some(known) = Checkpoint::read_metadata(storage).await? else {
        return Ok(Vec::new());
    };
    let mut tables = Vec::new();
    for (index, provider) in bind::sources_of(plan).iter().enumerate() {
        let pinned = pin(provider, known.definition.sources.get(index))?;
        if !Arc::ptr_eq(&pinned, provider) {
            tables.extend(bind::names_of(plan, provider).into_iter().map(|name| (name, Arc::clone(&pinned))));
        }
    }
    Ok(tables)
}

fn pin(
    provider: &Arc<dyn SourceProvider>,
    known: Option<&SourceDefinition>,
) -> Result<Arc<dyn SourceProvider>> {
    let Some(known) = known else { return Ok(Arc::clone(provider)) };
    if !provider.schema_is_inferred() || !known.inferred {
        return Ok(Arc::clone(provider));
    }
    let schema = schema_of(&known.columns)?;
    if *provider.schema() == *schema {
        return Ok(Arc::clone(provider));
    }
    provider.with_schema(schema)
}

/// The Arrow schema that recorded columns describe.
pub(crate) fn schema_of(columns: &[ColumnDefinition]) -> Result<SchemaRef> {
    let fields = columns
        .iter()
        .map(|column| {
            let data_type: DataType = column.data_type.parse().map_err(|error| {
                Error::damaged(
                    "metadata",
                    format!("column '{}' has the unknown type '{}': {error}", column.name, column.data_type),
                )
            })?;
            Ok(Field::new(&column.name, data_type, column.nullable))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

/// Where a run takes up.
struct Resumed {
    next_batch: u64,
    rerun: Option<PlannedBatch>,
    /// The watermark for the next batch to plan.
    watermark_ms: i64,
    /// The watermark of the last batch that was planned.
    last_watermark_ms: i64,
}

/// Puts the sources where the checkpoint says they are.
async fn resume(sources: &[Arc<dyn Source>], recovered: Recovered) -> Result<Resumed> {
    let mut last = Vec::new();
    let mut last_watermark_ms = 0;
    let mut watermark_ms = 0;
    let (next_batch, ends, rerun) = match recovered.decision {
        Recovery::Fresh => (0, vec![Value::Null; sources.len()], None),
        Recovery::Next { batch_id, last_offsets, last_commit } => {
            last = inputs_of(&last_offsets, vec![Value::Null; sources.len()]);
            last_watermark_ms = last_offsets.batch_watermark_ms;
            watermark_ms = last_watermark_ms.max(last_commit.next_batch_watermark_ms);
            (batch_id, ends_of(&last_offsets), None)
        }
        Recovery::Rerun { offsets, previous } => {
            let starts = previous.as_ref().map_or_else(|| vec![Value::Null; sources.len()], ends_of);
            let late_ms = previous.as_ref().map_or(0, |previous| previous.batch_watermark_ms);
            watermark_ms = offsets.batch_watermark_ms;
            last_watermark_ms = late_ms;
            let rerun = PlannedBatch { inputs: inputs_of(&offsets, starts), record: offsets, late_ms };
            (rerun.record.batch_id, ends_of(&rerun.record), Some(rerun))
        }
    };
    let mut history = recovered.history.into_iter();
    for (source, end) in sources.iter().zip(&ends) {
        source.restore(end.clone(), history.next().unwrap_or_default()).await?;
    }
    if rerun.is_none() {
        // Its clean-up may have been cut off after the commit.
        for (source, batch) in sources.iter().zip(last).filter(|(_, batch)| !batch.entries.is_empty()) {
            source.commit(&batch).await?;
        }
    }
    Ok(Resumed { next_batch, rerun, watermark_ms, last_watermark_ms })
}

fn ends_of(record: &OffsetsRecord) -> Vec<Value> {
    record.sources.iter().map(|source| source.end.clone()).collect()
}

fn inputs_of(record: &OffsetsRecord, starts: Vec<Value>) -> Vec<SourceBatch> {
    record
        .sources
        .iter()
        .zip(starts)
        .map(|(source, start)| SourceBatch {
            start,
            end: source.end.clone(),
            entries: source.entries.clone(),
        })
        .collect()
}
