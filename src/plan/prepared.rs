//! A query's plan, made once and run for every batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, displayable};
use serde_json::{Map, Value};

use super::barrier::{hold, release};
use super::batch_time::{BatchTime, use_batch_time};
use super::bind::bind;
use super::check::reads_bounded_tables;
use super::kept::KeptColumns;
use super::observations::with_observations;
use super::result_schema::{result_schema, with_types};
use super::scalar_subqueries::with_scalar_joins;
use super::session_state::streaming_state;
use super::stateful::{Rewritten, WatermarkDelay, rewrite, tables_of_columns};
use super::static_refresh::{Sessions, StaticTables};
use super::versions::with_read_fields;
use super::windows::{expand_windows, tag_again};
use crate::checkpoint::records::OperatorDefinition;
use crate::error::Result;
use crate::exec::late::LateFilter;
use crate::exec::node::Node;
use crate::exec::observe::Observation;
use crate::exec::report::TaskReport;
use crate::exec::run::BatchWidth;
use crate::exec::scan::StreamScan;
use crate::exec::stages::Stages;
use crate::exec::stateful::{Expires, Stateful};
use crate::exec::watermark::EventTimeWatermark;
use crate::exec::watermark_groups::carry_groups;
use crate::sink::{OutputMode, Sink, SinkDistribution};
use crate::source::{Moment, Source, SourceBatch, SourceProvider, SourceScan};

/// A checked, bound and optimised plan, with its physical plans.
///
/// Physical plans are cached across batches and reset before each. What the query reads from bounded
/// tables, which may change between batches, is brought up to date then.
#[derive(Debug)]
pub(crate) struct StreamingPlan {
    logical: LogicalPlan,
    small: PhysicalPlan,
    wide: PhysicalPlan,
    static_tables: StaticTables,
    /// Whether it reads bounded tables.
    reads_tables: bool,
    batch_time: BatchTime,
    sink: Arc<dyn Sink>,
    /// The columns that the sink was made for.
    schema: SchemaRef,
    /// Every scan of an unbounded table with its source's index, to judge a batch's size by.
    scans: Vec<(usize, Arc<dyn SourceScan>)>,
    /// The stateful operators, by number, and by what their rows expire.
    operators: Vec<OperatorDefinition>,
    expires: Vec<Expires>,
    watermarks: Vec<WatermarkDelay>,
    /// By watermark, the sources whose rows are in groups there.
    grouped: BTreeMap<usize, usize>,
    waits_for_watermark: bool,
    late_filters: Vec<(usize, SchemaRef)>,
    /// By number.
    observations: Vec<Arc<Observation>>,
}

/// How the results of a query are to come, as far as its plan depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResultShape {
    /// Which rows of the result a batch gives.
    pub(crate) mode: OutputMode,
    /// How many partitions the state of an operator has.
    pub(crate) state_partitions: usize,
    /// How long after their event time rows are remembered that nothing else lets be forgotten; microseconds.
    pub(crate) state_ttl: Option<i64>,
}

#[derive(Debug)]
struct PhysicalPlan {
    state: SessionState,
    /// The session as plans find it when they are executed; functions and formats are resolved in them.
    context: Arc<TaskContext>,
    /// `None` if the query has to be planned for each batch.
    cached: Option<Stages>,
}

impl PhysicalPlan {
    fn uncached(state: SessionState) -> Self {
        let context = Arc::new(TaskContext::new(
            None,
            state.session_id().to_string(),
            state.config().clone(),
            Default::default(),
            Default::default(),
            Default::default(),
            Default::default(),
            Arc::clone(state.runtime_env()),
        ));
        Self { state, context, cached: None }
    }
}

impl StreamingPlan {
    /// Binds `plan`, whose unbounded tables are `providers`, to `sources`, optimises and plans it. Of rows it keeps what
    /// it reads, and what is `kept` already.
    pub(crate) async fn prepare(
        plan: LogicalPlan,
        session: &SessionState,
        providers: &[Arc<dyn SourceProvider>],
        sources: &[Arc<dyn Source>],
        sink: Arc<dyn Sink>,
        shape: ResultShape,
        kept: &KeptColumns,
    ) -> Result<Self> {
        let partitions = session.config().target_partitions();
        let wide = streaming_state(session, partitions, shape.state_partitions)?;
        let small = streaming_state(session, 1, shape.state_partitions)?;
        let schema = result_schema(&plan, session);
        let batch_time = BatchTime::default();
        let plan = use_batch_time(expand_windows(with_scalar_joins(plan)?.data)?, &batch_time)?;
        let bound = bind(kept.in_first_rows(plan)?, providers, sources)?;
        let optimized = |plan: LogicalPlan| -> Result<LogicalPlan> { Ok(optimize(&wide, &hold(plan)?)?) };
        let bound = with_read_fields(bound, &kept.versions(), optimized)?;
        let optimized = tag_again(release(optimized(bound.clone())?)?)?;
        let (optimized, observations) = with_observations(optimized, &bound, session)?;
        let Rewritten { plan: logical, watermarks, waits_for_watermark } =
            rewrite(optimized, shape.mode, shape.state_ttl, kept)?;
        let mut tables = tables_of_columns(&logical);
        let (logical, static_tables) = StaticTables::extract(logical)?;
        static_tables.check(&small).await?;
        // Such as those in a recursive query.
        let replan = reads_bounded_tables(&logical);
        let mut prepared = Self {
            reads_tables: replan || !static_tables.is_empty(),
            logical,
            small: PhysicalPlan::uncached(small),
            wide: PhysicalPlan::uncached(wide),
            static_tables,
            batch_time,
            sink,
            schema,
            scans: Vec::new(),
            operators: Vec::new(),
            expires: Vec::new(),
            watermarks,
            grouped: BTreeMap::new(),
            waits_for_watermark,
            late_filters: Vec::new(),
            observations,
        };
        // Planned even if it cannot be kept, so that an error shows before the query starts.
        let small = prepared.create(&prepared.small.state).await?;
        prepared.scans = scans_of(&small);
        prepared.grouped = grouped_watermarks_of(&small);
        let mut operators = operators_of(&small);
        operators.sort_by_key(|(operator, _)| *operator);
        for (operator, (definition, _)) in &mut operators {
            if let Some(tables) = tables.remove(operator) {
                definition.details.insert("tables".into(), tables);
            }
        }
        prepared.late_filters = late_filters_of(&small);
        (prepared.operators, prepared.expires) = operators.into_iter().map(|(_, table)| table).unzip();
        if !replan {
            prepared.wide.cached = Some(Stages::cut(prepared.create(&prepared.wide.state).await?)?);
            prepared.small.cached = Some(Stages::cut(small)?);
        }
        Ok(prepared)
    }

    /// What functions of the current time give in the next batch.
    pub(crate) fn batch_time(&self) -> &BatchTime {
        &self.batch_time
    }

    /// The stateful operators, by number.
    pub(crate) fn operators(&self) -> &[OperatorDefinition] {
        &self.operators
    }

    /// Those of the stateful operators whose rows expire in a way that `is`.
    pub(crate) fn expiring(&self, is: impl Fn(Expires) -> bool) -> Vec<usize> {
        (0..self.expires.len()).filter(|operator| is(self.expires[*operator])).collect()
    }

    /// The operators that leave late rows out, with the columns of these.
    pub(crate) fn late_filters(&self) -> &[(usize, SchemaRef)] {
        &self.late_filters
    }

    /// The watermarks, by number.
    pub(crate) fn watermarks(&self) -> &[WatermarkDelay] {
        &self.watermarks
    }

    /// The metrics of each observation, by its name, of the batch that `report` is of.
    ///
    /// # Errors
    /// If what was seen does not add up.
    pub(crate) fn observed(&self, report: &TaskReport) -> Result<BTreeMap<String, Map<String, Value>>> {
        let metrics = self.observations.iter().enumerate().map(|(number, observation)| {
            let partitions = report.observed.range((number, 0)..(number + 1, 0));
            Ok((observation.name.clone(), observation.metrics(partitions.map(|(_, seen)| seen))?))
        });
        metrics.collect()
    }

    /// The source whose groups a watermark watches, if it does.
    pub(crate) fn source_of_groups(&self, watermark: usize) -> Option<usize> {
        self.grouped.get(&watermark).copied()
    }

    /// Whether a watermark watches groups of `source`.
    pub(crate) fn watches_groups_of(&self, source: usize) -> bool {
        self.grouped.values().any(|grouped| *grouped == source)
    }

    /// Whether a watermark that advances is worth a batch without new rows.
    pub(crate) fn waits_for_watermark(&self) -> bool {
        self.waits_for_watermark
    }

    /// How many partitions reading `inputs`, one per source, is worth.
    pub(crate) fn width<'a>(&self, inputs: impl Iterator<Item = &'a SourceBatch>) -> BatchWidth {
        let inputs: Vec<_> = inputs.collect();
        let small = self.scans.iter().all(|(source, scan)| {
            let batch = inputs[*source];
            batch.is_empty() || scan.is_small(batch)
        });
        if small { BatchWidth::Small } else { BatchWidth::Wide }
    }

    /// The stages of one batch, on which nothing was executed yet, and the session they belong to.
    pub(crate) async fn for_batch(&self, width: BatchWidth) -> Result<(Stages, Arc<TaskContext>)> {
        let chosen = match width {
            BatchWidth::Small => &self.small,
            BatchWidth::Wide => &self.wide,
        };
        let sessions = Sessions { small: &self.small.state, wide: &self.wide.state };
        let mut session = Arc::clone(&chosen.context);
        if self.reads_tables {
            let moment = Arc::new(Moment::default());
            self.static_tables.refresh(sessions, &moment).await?;
            session = moment.context(&session);
        }
        let stages = match &chosen.cached {
            Some(stages) => stages.fresh()?,
            None => Stages::cut(self.create(&chosen.state).await?)?,
        };
        Ok((stages, session))
    }

    /// A physical plan, not cut yet.
    async fn create(&self, state: &SessionState) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = state.query_planner().create_physical_plan(&self.logical, state).await?;
        let plan = with_types(plan, &self.schema)?;
        let many = plan.output_partitioning().partition_count() > 1;
        let plan = carry_groups(plan)?;
        if many && self.sink.distribution() == SinkDistribution::Single {
            return Ok(Arc::new(CoalescePartitionsExec::new(plan)));
        }
        Ok(plan)
    }

    /// The logical and physical plan as text.
    pub(crate) async fn explain(&self) -> Result<String> {
        let physical = self.create(&self.wide.state).await?;
        Ok(format!(
            "== Optimized Logical Plan ==\n{}\n{}\n== Physical Plan ==\nsink={}\n{}",
            self.logical.display_indent(),
            self.static_tables,
            self.sink.description(),
            displayable(physical.as_ref()).indent(false),
        ))
    }
}

/// Every scan of an unbounded table with its source's index.
fn scans_of(plan: &Arc<dyn ExecutionPlan>) -> Vec<(usize, Arc<dyn SourceScan>)> {
    let own = Node::<StreamScan>::of(plan).map(|scan| (scan.source_index(), Arc::clone(scan.scan())));
    own.into_iter().chain(plan.children().into_iter().flat_map(scans_of)).collect()
}

fn grouped_watermarks_of(plan: &Arc<dyn ExecutionPlan>) -> BTreeMap<usize, usize> {
    let own = Node::<EventTimeWatermark>::of(plan);
    let own = own.and_then(|watermark| Some((watermark.index, watermark.groups_of?)));
    own.into_iter().chain(plan.children().into_iter().flat_map(grouped_watermarks_of)).collect()
}

fn operators_of(plan: &Arc<dyn ExecutionPlan>) -> Vec<(usize, (OperatorDefinition, Expires))> {
    let tables = |node: &Arc<Stateful>| {
        let tables = node.work.definitions().into_iter().zip(node.work.expires());
        (node.operator.id..).zip(tables).collect::<Vec<_>>()
    };
    let own = Node::<Stateful>::of(plan).map(tables);
    own.into_iter().flatten().chain(plan.children().into_iter().flat_map(operators_of)).collect()
}

fn late_filters_of(plan: &Arc<dyn ExecutionPlan>) -> Vec<(usize, SchemaRef)> {
    let own = Node::<LateFilter>::of(plan).map(|filter| (filter.operator, Arc::clone(&filter.schema)));
    own.into_iter().chain(plan.children().into_iter().flat_map(late_filters_of)).collect()
}

/// `plan`, optimised. Rules of DataFusion go down expressions without looking how much stack is left.
fn optimize(session: &SessionState, plan: &LogicalPlan) -> DataFusionResult<LogicalPlan> {
    const STACK: usize = 64 << 20;
    stacker::maybe_grow(STACK, STACK, || session.optimize(plan))
}
