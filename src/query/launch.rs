//! From a query that was asked for to one that runs: what is settled once, and what is read from the
//! checkpoint.

use std::sync::Arc;

use datafusion::arrow::datatypes::{FieldRef, Schema};
use datafusion::catalog::TableProvider;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use super::batch::BatchRunner;
use super::execution::Execution;
use super::handle::{QueryIdentity, QueryShared};
use super::input_limit::InputLimit;
use super::late_rows::LateRows;
use super::log::RunLog;
use super::pinned::{is_pinned, pin_inferred_schemas};
use super::places;
use super::request::{NamedTables, StartRequest};
use super::restart::RestartPolicy;
use super::resume::resume;
use super::timers::Timers;
use crate::checkpoint::records::{
    CommitRecord, Metadata, OperatorDefinition, QueryDefinition, SourceDefinition,
};
use crate::checkpoint::{Checkpoint, definition, planned, replan};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::exec::room::Space;
use crate::memory;
use crate::plan::{
    KeptColumns, ResultShape, StreamTable, StreamingPlan, bind, result_keys, result_schema, with_meanings,
};
use crate::sink::Sink;
use crate::source::{Source, SourceContext, SourceProvider, Told};
use crate::state::{StateOptions, StateStore};
use crate::storage::Storage;
use crate::text::visible;

/// A query that is about to run.
pub(super) struct Launch {
    request: Arc<StartRequest>,
    storage: Arc<dyn Storage>,
    run_id: Uuid,
    id: Uuid,
    /// Who the query is, as the checkpoint says it; `None` before its first start.
    known: Option<Metadata>,
    /// The plan as it was asked for, or made anew since.
    plan: LogicalPlan,
    /// With the columns that the checkpoint pinned.
    logical: LogicalPlan,
    providers: Vec<Arc<dyn SourceProvider>>,
    sink: Arc<dyn Sink>,
    /// What its handles share with it, from the first [`Launch::open`] on.
    shared: Option<Arc<QueryShared>>,
    /// What was told of since the start, which is forgotten with this.
    _told: Arc<Told>,
    /// Whether it has, and may have, other rules for malformed records than before.
    has_new_rules: bool,
}

impl Launch {
    /// Settles the columns, the sources and the sink, without taking the checkpoint over.
    pub(super) async fn prepare(
        request: Arc<StartRequest>,
        storage: Arc<dyn Storage>,
        run_id: Uuid,
    ) -> Result<Self> {
        let plan = request.plan.logical.clone();
        Self::prepare_plan(request, plan, storage, run_id).await
    }

    async fn prepare_plan(
        request: Arc<StartRequest>,
        plan: LogicalPlan,
        storage: Arc<dyn Storage>,
        run_id: Uuid,
    ) -> Result<Self> {
        let known = Checkpoint::read_metadata(storage.as_ref()).await?;
        let is_settled = |source: &SourceDefinition| source.is_found() || source.has_directories();
        let may_be_pinned = |known: &Metadata| known.definition.sources.iter().any(is_settled);
        let is_pinned = known.as_ref().is_some_and(may_be_pinned)
            && (request.is_replay || is_pinned(storage.as_ref()).await?);
        let pinned = known.as_ref().filter(|_| is_pinned);
        let (logical, providers) = pin_inferred_schemas(&plan, pinned)?;
        let keys = result_keys(&logical);
        let sink = (request.make_sink)(result_schema(&logical, &request.plan.state), keys)?;
        sink.check_output_mode(request.output_mode)?;
        places::check(&providers, sink.as_ref(), request.late_rows.as_ref(), storage.url())?;
        let id = known.as_ref().map_or_else(|| request.ids.next_id(), |known| known.id);
        let mut launch = Self {
            request,
            storage,
            run_id,
            id,
            known,
            plan,
            logical,
            providers,
            sink,
            shared: None,
            _told: Told::begin(id),
            has_new_rules: false,
        };
        launch.has_new_rules = launch.may_have_new_rules().await?;
        Ok(launch)
    }

    /// Where the checkpoint is, if it outlives the run.
    pub(super) fn checkpoint(&self) -> Option<&Url> {
        self.request.checkpoint.as_ref()
    }

    pub(super) fn restart_policy(&self) -> Option<RestartPolicy> {
        self.request.restart.clone()
    }

    /// Takes the checkpoint over and takes up where it says. May be repeated when the execution that
    /// this gave has ended, to take up anew.
    pub(super) async fn open(&mut self) -> Result<Execution> {
        loop {
            if let Some(execution) = self.try_open().await? {
                return Ok(execution);
            }
            let (request, storage) = (Arc::clone(&self.request), Arc::clone(&self.storage));
            let shared = self.shared.take();
            let prepared = Self::prepare_plan(request, self.plan.clone(), storage, self.run_id).await?;
            *self = Self { shared, ..prepared };
        }
    }

    /// `None` if another run has created the checkpoint since [`Launch::prepare`], which decides who
    /// the query is.
    async fn try_open(&mut self) -> Result<Option<Execution>> {
        let request = Arc::clone(&self.request);
        let session = &request.plan.state;
        let sources = create_sources(&self.providers, self.id, session, &request.clock)?;
        let shape = request.state.shape(request.output_mode, session);
        // In a box, as all of planning: what it takes is much for a stack.
        let (plan, current) = Box::pin(self.planned(&sources)).await?;
        let make_late = &request.make_late_sink;
        let mut late_rows =
            LateRows::of(&plan, request.late_rows.as_ref(), make_late, self.storage.as_ref())?;
        let grown = self.known.as_ref().map(|known| self.grown(known, &current));
        let unchanged = match &grown {
            Some(grown) => definition::check_unchanged(self.storage.url(), grown, &current),
            None => Ok(()),
        };
        // Until a batch is committed, it may become another query.
        let is_another = unchanged.is_err()
            && !request.is_replay
            && !has_committed(self.known.as_ref(), self.storage.as_ref()).await?;
        if !is_another {
            unchanged?;
        }

        let (checkpoint, recovered) = Checkpoint::open(Arc::clone(&self.storage), self.run_id).await?;
        if recovered.metadata.is_some() && recovered.metadata != self.known {
            return Ok(None);
        }
        if is_another {
            // Unless another run has committed a batch meanwhile, there is nothing to hold on to.
            if recovered.last_commit.is_none() {
                checkpoint.start_over().await?;
            }
            return Ok(None);
        }
        let conf = request.state.pin(session, shape, recovered.decision.settings(), self.storage.url())?;
        if let (Some(known), Some(grown)) = (&mut self.known, grown)
            && (known.definition != grown || is_new_copy(known))
        {
            checkpoint.write_definition(&grown).await?;
            known.definition = grown;
            known.copy_of.iter_mut().for_each(|copy_of| copy_of.is_new = false);
        }
        if self.known.is_none() && !self.create(&checkpoint, current).await? {
            return Ok(None);
        }
        let last = recovered.last_commit.as_ref();
        self.sink.stage_in(&self.storage);
        self.sink.recover(self.id, last.and_then(CommitRecord::published)).await?;
        let late = last.map(|commit| (commit.batch_id, commit.late.as_slice()));
        late_rows.open_former(&plan, make_late, late.unwrap_or_default().1, self.storage.as_ref())?;
        late_rows.recover(self.id, late).await?;
        let manifest = last.map_or(Value::Null, |commit| commit.state.clone());
        let state = self.open_state(&manifest, &plan, shape).await?;
        let streams = last.map_or_else(Vec::new, |commit| commit.streams.clone());
        let resumed = resume(&sources, recovered).await?;
        let mut tracker = request.state.tracker(&conf, &plan)?;
        if request.trigger.ends() {
            tracker.wait_for_no_group();
        }
        tracker.resume(resumed.watermark_ms, &streams, request.clock.elapsed());
        // Rows without state only pass through, however many there are.
        let pool = session.runtime_env().memory_pool.as_ref();
        let input_limit = memory::for_input(pool).filter(|_| !state.is_empty()).map(InputLimit::new);
        let shared = self.share(&plan).await?;
        let descriptions: Vec<String> =
            self.providers.iter().map(|provider| provider.description()).collect();
        let place = format!("{} to {}", descriptions.join(", "), self.sink.description());
        let log = RunLog::start(&shared, self.storage.url().as_str(), &place, resumed.next_batch);
        let timers = Timers::of(&plan);
        let runner = BatchRunner {
            shared,
            checkpoint: Arc::new(checkpoint),
            sources,
            plan,
            state: Arc::new(state),
            sink: Arc::clone(&self.sink),
            late_rows: Arc::new(late_rows),
            space: Space::of(session.runtime_env()),
            output_mode: request.output_mode,
        };
        Ok(Some(Execution {
            runner,
            manager: request.manager.clone(),
            clock: Arc::clone(&request.clock),
            trigger: request.trigger.effective(),
            descriptions,
            conf,
            min_batches_to_retain: request.min_batches_to_retain,
            next_batch: resumed.next_batch,
            rerun: resumed.rerun,
            tracker,
            last_watermark_ms: resumed.last_watermark_ms,
            last_time_ms: resumed.last_time_ms,
            timers,
            ends: resumed.ends,
            reads: true,
            flush_on_end: request.state.flush_on_end,
            is_flushing: false,
            has_flushed: resumed.has_flushed,
            input_limit,
            previous_trigger_ms: None,
            is_tidy: false,
            maintenance: None,
            log,
        }))
    }

    /// Writes who the query is. Whether it could: a run that this one took over from may have done so.
    async fn create(&mut self, checkpoint: &Checkpoint, definition: QueryDefinition) -> Result<bool> {
        let created_by = concat!("tidemill ", env!("CARGO_PKG_VERSION")).to_string();
        let metadata = Metadata { id: self.id, created_by, copy_of: None, definition };
        match checkpoint.create_metadata(&metadata).await {
            Err(Error::ConcurrentQuery { .. }) if checkpoint.check_owner().await.is_ok() => Ok(false),
            created => {
                created?;
                self.known = Some(metadata);
                Ok(true)
            }
        }
    }

    /// Takes in columns that the sources have found, per source: from now on the query is one with them.
    ///
    /// # Errors
    /// If it would be another query in more than that, which names the columns; nothing has changed then.
    pub(super) async fn widen(&mut self, new: &[Vec<FieldRef>], checkpoint: &Checkpoint) -> Result<()> {
        let names: Vec<_> = new.iter().flatten().map(|field| visible(field.name())).collect();
        let refused = |why: String| {
            Error::Invalid(format!(
                "files have columns that are new, '{}', and schemaEvolution is addNewColumns, but the query cannot \
                 take them in: {why}. Set schemaEvolution to warn to go on without them",
                names.join("', '")
            ))
        };
        let providers: Vec<Arc<dyn SourceProvider>> = self
            .providers
            .iter()
            .zip(new)
            .map(|(provider, new)| widened(provider, new))
            .collect::<Result<_>>()
            .map_err(|error| refused(error.to_string()))?;
        let plan = match &self.request.replan {
            Some(replan) => replan.0(self.named(&providers, new)).await,
            None => bind::pin_schemas(self.logical.clone(), &self.providers, &providers),
        };
        let mut plan = plan.map_err(|error| refused(error.to_string()))?;
        // A view has the columns that its table had when it was made, with the fields that they had.
        let found = bind::sources_of(&plan);
        let has = |(provider, new): (&Arc<dyn SourceProvider>, &Vec<FieldRef>)| {
            let schema = provider.schema();
            let is_there = |field: &FieldRef| {
                let known = schema.column_with_name(field.name());
                known.is_some_and(|(_, known)| known.data_type() == field.data_type())
            };
            new.iter().all(is_there)
        };
        if !found.iter().zip(new).all(has) {
            plan = bind::pin_schemas(plan, &found, &providers).map_err(|error| refused(error.to_string()))?;
        }
        self.providers = bind::sources_of(&plan);
        // The batch would be begun again for ever.
        if !self.providers.iter().zip(new).all(has) {
            return Err(refused("it does not read its tables with them".into()));
        }
        self.sink =
            (self.request.make_sink)(result_schema(&plan, &self.request.plan.state), result_keys(&plan))?;
        self.plan = plan.clone();
        self.logical = plan;
        let Some(known) = &self.known else { return Ok(()) };
        let current = self.current().await?;
        let grown = self.grown(known, &current);
        let differences = definition::differences(&grown, &current);
        if !differences.is_empty() {
            return Err(refused(differences.join("; ")));
        }
        checkpoint.write_definition(&grown).await?;
        tracing::info!("takes in columns that are new in its files: '{}'", names.join("', '"));
        self.known = Some(Metadata { definition: grown, ..known.clone() });
        Ok(())
    }

    /// Whether malformed records are treated otherwise than before, and may be: they may to get a batch done that has
    /// failed, and of which nobody has seen anything.
    async fn may_have_new_rules(&self) -> Result<bool> {
        let Some(known) = self.known.as_ref().filter(|_| !self.request.is_replay) else { return Ok(false) };
        let current = self.sources_now();
        Ok(definition::has_other_rules(&known.definition.sources, &current)
            && self.sink.shows_only_published()
            && planned(self.storage.as_ref()).await?.is_some())
    }

    fn sources_now(&self) -> Vec<SourceDefinition> {
        let checkpoint = self.storage.as_ref();
        self.providers.iter().map(|provider| provider.definition(checkpoint)).collect()
    }

    /// Lets the batch go that is planned, so that what it was to read is planned anew.
    pub(super) async fn replan(&self) -> Result<()> {
        replan(Arc::clone(&self.storage), self.run_id).await.map(|_| ())
    }

    /// Those of `providers` that have `new` columns, as tables by the names that the query gives them.
    fn named(&self, providers: &[Arc<dyn SourceProvider>], new: &[Vec<FieldRef>]) -> NamedTables {
        let pairs = self.providers.iter().zip(providers).zip(new).filter(|(_, new)| !new.is_empty());
        pairs
            .flat_map(|((narrow, wide), _)| {
                let table = Arc::new(StreamTable::new(Arc::clone(wide))) as Arc<dyn TableProvider>;
                bind::names_of(&self.logical, narrow).into_iter().map(move |name| (name, Arc::clone(&table)))
            })
            .collect()
    }

    /// What the checkpoint knows, with the columns that may have come since; of a copy that has no sink yet, with
    /// that of this query, and with its sources if it has none.
    fn grown(&self, known: &Metadata, current: &QueryDefinition) -> QueryDefinition {
        let grow: Vec<bool> = self.providers.iter().map(|provider| provider.columns_may_grow()).collect();
        let mut grown = definition::grown(&known.definition, current, &grow);
        if self.has_new_rules {
            definition::take_rules(&mut grown, current);
        }
        if is_new_copy(known) {
            grown.sink = current.sink.clone();
            for (known, current) in grown.sources.iter_mut().zip(&current.sources) {
                if known.is_to_be_chosen() {
                    let columns = std::mem::take(&mut known.columns);
                    *known = SourceDefinition { columns, ..current.clone() };
                }
            }
        }
        grown
    }

    async fn open_state(
        &self,
        manifest: &Value,
        plan: &StreamingPlan,
        shape: ResultShape,
    ) -> Result<StateStore> {
        let runtime = self.request.plan.state.runtime_env();
        let memory_limit = self.request.state.memory_limit;
        let options = StateOptions {
            operators: plan.operators().len(),
            partitions: shape.state_partitions,
            memory_limit: memory_limit.or_else(|| memory::for_state(runtime.memory_pool.as_ref())),
            disk: Arc::clone(&runtime.disk_manager),
            run_id: self.run_id,
        };
        let mut state = StateStore::open(Arc::clone(&self.storage), manifest, options).await?;
        state.account_in(&runtime.memory_pool)?;
        if memory_limit.is_none() {
            state.share_with(self.request.manager.state_memory())?;
        }
        Ok(state)
    }

    /// What the handles of the query share with every execution of it.
    async fn share(&mut self, plan: &StreamingPlan) -> Result<Arc<QueryShared>> {
        if let Some(shared) = &self.shared {
            return Ok(Arc::clone(shared));
        }
        let explain = plan.explain().await?;
        let identity = QueryIdentity {
            id: self.id,
            run_id: self.run_id,
            name: self.request.name.clone(),
            checkpoint: self.storage.url().to_string(),
        };
        let shared = QueryShared::new(identity, explain, self.request.manager.measures_operators());
        Ok(Arc::clone(self.shared.insert(Arc::new(shared))))
    }

    /// What would keep the query from going on with the checkpoint: one sentence per difference; `None` if
    /// there is no checkpoint yet.
    pub(super) async fn differences(&self) -> Result<Option<Vec<String>>> {
        let Some(known) = &self.known else { return Ok(None) };
        let current = self.current().await?;
        Ok(Some(definition::differences(&self.grown(known, &current), &current)))
    }

    /// What a restart must find unchanged, once it is planned.
    async fn current(&self) -> Result<QueryDefinition> {
        let session = &self.request.plan.state;
        let sources = create_sources(&self.providers, self.id, session, &self.request.clock)?;
        Ok(Box::pin(self.planned(&sources)).await?.1)
    }

    /// The query as it is run, and what a restart must find unchanged. What it keeps of rows are the columns that it
    /// reads; if the checkpoint has others, it may be that these are more.
    async fn planned(&self, sources: &[Arc<dyn Source>]) -> Result<(StreamingPlan, QueryDefinition)> {
        let (plan, current) = self.planned_with(sources, &KeptColumns::default()).await?;
        let Some(known) = &self.known else { return Ok((plan, current)) };
        let kept = KeptColumns::of(&known.definition.operators);
        let is_known = || definition::differences(&self.grown(known, &current), &current).is_empty();
        if kept.is_empty() || is_known() {
            return Ok((plan, current));
        }
        self.planned_with(sources, &kept).await
    }

    async fn planned_with(
        &self,
        sources: &[Arc<dyn Source>],
        kept: &KeptColumns,
    ) -> Result<(StreamingPlan, QueryDefinition)> {
        let request = &self.request;
        let session = &request.plan.state;
        let shape = request.state.shape(request.output_mode, session);
        let (logical, sink) = (self.logical.clone(), Arc::clone(&self.sink));
        let plan =
            Box::pin(StreamingPlan::prepare(logical, session, &self.providers, sources, sink, shape, kept))
                .await?;
        let current = self.define(plan.operators());
        Ok((plan, current))
    }

    /// What a restart must find unchanged, of the query as it is now.
    fn define(&self, operators: &[OperatorDefinition]) -> QueryDefinition {
        let checkpoint = self.storage.as_ref();
        QueryDefinition {
            sources: self.sources_now(),
            sink: self.sink.definition(checkpoint),
            output_mode: self.request.output_mode.name().into(),
            operators: with_meanings(operators.to_vec(), &self.logical),
        }
    }
}

/// Whether this is the first start of a copy, which says where its results go.
fn is_new_copy(known: &Metadata) -> bool {
    known.copy_of.as_ref().is_some_and(|copy_of| copy_of.is_new)
}

/// Whether a batch of the query was ever committed.
async fn has_committed(known: Option<&Metadata>, storage: &dyn Storage) -> Result<bool> {
    Ok(known.is_some() && !Checkpoint::committed_batches(storage).await?.is_empty())
}

/// The table with more columns, and with more fields in those that it has.
fn widened(provider: &Arc<dyn SourceProvider>, new: &[FieldRef]) -> Result<Arc<dyn SourceProvider>> {
    if new.is_empty() {
        return Ok(Arc::clone(provider));
    }
    let schema = provider.schema();
    let named = |fields: &[FieldRef], name: &str| fields.iter().find(|field| field.name() == name).cloned();
    let known = schema.fields().iter();
    let known = known.map(|field| named(new, field.name()).unwrap_or_else(|| Arc::clone(field)));
    let more = new.iter().filter(|field| named(schema.fields(), field.name()).is_none()).cloned();
    provider.with_schema(Arc::new(Schema::new(known.chain(more).collect::<Vec<_>>())))
}

pub(super) fn create_sources(
    providers: &[Arc<dyn SourceProvider>],
    query_id: Uuid,
    state: &SessionState,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<Arc<dyn Source>>> {
    let context =
        SourceContext { query_id, runtime: Arc::clone(state.runtime_env()), clock: Arc::clone(clock) };
    providers.iter().map(|provider| provider.create(context.clone())).collect()
}
