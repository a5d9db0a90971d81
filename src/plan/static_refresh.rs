//! Keeping what a streaming plan reads from bounded tables up to date.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::TryStreamExt;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::static_tables::{CutPart, cut};
use super::static_version::TableVersion;
use crate::error::Result;
use crate::exec::static_scan::StaticContent;
use crate::exec::workers::panicked;
use crate::source::Moment;

/// How many bytes of memory the rows of one part may take, to be kept from batch to batch. What has
/// more is read again for each batch.
const MAX_KEPT_BYTES: usize = 64 << 20;

/// How often a batch waits for tables to stay the same while they are read.
const ATTEMPTS: usize = 5;

/// The parts of a plan that read only bounded tables. Each batch sees one version of them, which is
/// fixed before it runs.
pub(super) struct StaticTables {
    parts: Vec<CutPart>,
    /// Each table that a part reads, once.
    tables: Vec<Arc<dyn TableProvider>>,
    max_kept_bytes: usize,
    known: Mutex<Known>,
}

/// What the parts give at the moment.
#[derive(Default)]
struct Known {
    /// The version of each table that the parts were read from; empty before that.
    versions: Vec<TableVersion>,
    /// Whether there is more of a part than can be kept.
    too_large: Vec<bool>,
}

/// The sessions to plan in.
#[derive(Clone, Copy)]
pub(super) struct Sessions<'a> {
    /// With one partition, so that rows that are kept always come in the same order.
    pub(super) small: &'a SessionState,
    /// With all, for what is too large to be kept.
    pub(super) wide: &'a SessionState,
}

impl StaticTables {
    /// `plan`, which is optimised, with leaves in the place of the parts that read only bounded
    /// tables, and these parts. They are not read yet.
    pub(super) fn extract(plan: LogicalPlan) -> Result<(LogicalPlan, Self)> {
        Self::extract_up_to(plan, MAX_KEPT_BYTES)
    }

    fn extract_up_to(plan: LogicalPlan, max_kept_bytes: usize) -> Result<(LogicalPlan, Self)> {
        let (plan, parts) = cut(plan)?;
        let mut tables: Vec<Arc<dyn TableProvider>> = Vec::new();
        for table in parts.iter().flat_map(|part| &part.tables) {
            if position(&tables, table).is_none() {
                tables.push(Arc::clone(table));
            }
        }
        Ok((plan, Self { parts, tables, max_kept_bytes, known: Mutex::default() }))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Plans every part, to show errors that do not depend on what is in the tables.
    pub(super) async fn check(&self, session: &SessionState) -> Result<()> {
        for part in &self.parts {
            plan(part, session).await?;
        }
        Ok(())
    }

    /// Reads the parts whose tables may have changed since they were read, so that a plan that is
    /// reset afterwards gives what is in the tables now, at `moment`.
    pub(super) async fn refresh(&self, sessions: Sessions<'_>, moment: &Arc<Moment>) -> Result<()> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let mut known = self.known.lock().await;
        known.too_large.resize(self.parts.len(), false);
        // Taken out, so that a batch that fails here leaves everything to be read again.
        let mut before = std::mem::take(&mut known.versions);
        let mut now = self.versions(sessions.wide).await?;
        for attempt in 1..=ATTEMPTS {
            let read = self.read_changed(&before, &now, &mut known.too_large, (sessions, moment)).await;
            if matches!(read, Ok(false)) {
                break;
            }
            // Tables may have changed while they were read, and files may have vanished.
            let after = self.versions(sessions.wide).await?;
            let changed = now.iter().zip(&after).any(|(now, after)| now.differs(after));
            if !changed || attempt == ATTEMPTS {
                read?;
                break;
            }
            before = if read.is_ok() { now } else { Vec::new() };
            now = after;
        }
        known.versions = now;
        Ok(())
    }

    async fn versions(&self, session: &SessionState) -> Result<Vec<TableVersion>> {
        let mut versions = Vec::with_capacity(self.tables.len());
        for table in &self.tables {
            let version = TableVersion::of(table.as_ref(), session).await;
            versions.push(version.map_err(|error| self.blame(table, error))?);
        }
        Ok(versions)
    }

    /// `error` with the names of the tables it may be about.
    fn blame(&self, table: &Arc<dyn TableProvider>, error: DataFusionError) -> DataFusionError {
        match self.parts.iter().find(|part| position(&part.tables, table).is_some()) {
            Some(part) => part.part.blame(error),
            None => error,
        }
    }

    /// Reads the parts of which a table is not certainly what it was `before`. Gives whether there
    /// were any.
    async fn read_changed(
        &self,
        before: &[TableVersion],
        now: &[TableVersion],
        too_large: &mut [bool],
        (sessions, moment): (Sessions<'_>, &Arc<Moment>),
    ) -> Result<bool> {
        let mut any = false;
        for (part, too_large) in self.parts.iter().zip(too_large) {
            let mut tables = part.tables.iter().filter_map(|table| position(&self.tables, table));
            let same = !before.is_empty() && tables.all(|table| before[table].is_still(&now[table]));
            if same && !*too_large {
                continue;
            }
            any = true;
            // Gives its memory back before it takes new.
            part.part.clear();
            // What was too large and has not changed is not tried again.
            let kept = if same { None } else { self.read(part, sessions.small, moment).await? };
            *too_large = kept.is_none();
            part.part.set(match kept {
                Some((rows, memory)) => StaticContent::Rows(rows, memory),
                None => StaticContent::Plan(plan(part, sessions.wide).await?),
            });
        }
        Ok(any)
    }

    /// The rows of a part with their memory, unless they are too many.
    async fn read(
        &self,
        part: &CutPart,
        session: &SessionState,
        moment: &Arc<Moment>,
    ) -> Result<Option<(Vec<RecordBatch>, MemoryReservation)>> {
        let plan = plan(part, session).await?;
        let context = moment.context(&session.task_ctx());
        let memory = MemoryConsumer::new(format!("StaticTable[{}]", part.part.tables()))
            .register(&session.runtime_env().memory_pool);
        let (shared, limit) = (Arc::clone(&part.part), self.max_kept_bytes);
        let batch_size = session.config().batch_size();
        // In a task of its own, so that a panic of an operator does not end the query's loop.
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut rows = Vec::new();
            let mut stream = execute_stream(plan, context)?;
            while let Some(batch) = stream.try_next().await? {
                if batch.num_rows() == 0 {
                    continue;
                }
                let bytes = batch.get_array_memory_size();
                if memory.size() + bytes > limit || memory.try_grow(bytes).is_err() {
                    return Ok(None);
                }
                rows.push(shared.conform(batch)?);
            }
            let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
            if rows.len() > 1 && count <= batch_size {
                rows = vec![concat_batches(shared.schema(), &rows)?];
            }
            Ok(Some((rows, memory)))
        });
        match task.join_next().await {
            Some(Ok(read)) => Ok(read.map_err(|error| part.part.blame(error))?),
            Some(Err(error)) => Err(panicked(error)),
            None => Ok(None),
        }
    }
}

/// A plan that reads a part, of one version of its tables.
async fn plan(part: &CutPart, session: &SessionState) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = session.query_planner().create_physical_plan(&part.plan, session).await;
    Ok(plan.map_err(|error| part.part.blame(error))?)
}

fn position(tables: &[Arc<dyn TableProvider>], wanted: &Arc<dyn TableProvider>) -> Option<usize> {
    tables.iter().position(|table| Arc::ptr_eq(table, wanted))
}

impl fmt::Debug for StaticTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticTables").field("parts", &self.parts).finish_non_exhaustive()
    }
}

/// The parts for `EXPLAIN`, each below a headline.
impl fmt::Display for StaticTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            write!(f, "\n== Static Table: {} ==\n{}\n", part.part, part.plan.display_indent())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Int64Array;
    use datafusion::datasource::MemTable;
    use datafusion::execution::memory_pool::MemoryPool;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::physical_plan::collect;
    use datafusion::physical_plan::execution_plan::reset_plan_states;
    use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};

    use super::*;
    use crate::plan::session_state::streaming_state;

    /// How many bytes may be kept in these tests, and how many the session has.
    const KEPT: usize = 4000;
    const POOL: usize = 1_000_000;

    fn context() -> SessionContext {
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(POOL, 1.0).build_arc().unwrap();
        SessionContext::new_with_config_rt(SessionConfig::new(), runtime)
    }

    fn rows(count: usize) -> RecordBatch {
        let column = Arc::new(Int64Array::from_iter_values(0..i64::try_from(count).unwrap())) as _;
        RecordBatch::try_from_iter([("a", column)]).unwrap()
    }

    /// One part, as a plan with a leaf for it.
    struct Part {
        tables: StaticTables,
        plan: Arc<dyn ExecutionPlan>,
        small: SessionState,
        wide: SessionState,
    }

    impl Part {
        async fn of(context: &SessionContext, sql: &str) -> Self {
            let state = context.state();
            let (small, wide) =
                (streaming_state(&state, 1, 1).unwrap(), streaming_state(&state, 3, 1).unwrap());
            let plan = context.sql(sql).await.unwrap().into_unoptimized_plan();
            let (plan, tables) = StaticTables::extract_up_to(wide.optimize(&plan).unwrap(), KEPT).unwrap();
            assert_eq!(tables.parts.len(), 1, "{}", plan.display_indent());
            let plan = wide.query_planner().create_physical_plan(&plan, &wide).await.unwrap();
            Self { tables, plan, small, wide }
        }

        async fn refresh(&self) -> Result<()> {
            let sessions = Sessions { small: &self.small, wide: &self.wide };
            self.tables.refresh(sessions, &Arc::default()).await
        }

        /// How many rows it gives, and whether they were kept.
        async fn read(&self) -> (usize, bool) {
            self.refresh().await.unwrap();
            let plan = reset_plan_states(Arc::clone(&self.plan)).unwrap();
            let found = collect(plan, self.wide.task_ctx()).await.unwrap();
            let content = self.tables.parts[0].part.content().unwrap();
            let kept = matches!(content.as_ref(), StaticContent::Rows(..));
            (found.iter().map(RecordBatch::num_rows).sum(), kept)
        }

        fn pool(&self) -> &Arc<dyn MemoryPool> {
            &self.small.runtime_env().memory_pool
        }
    }

    #[tokio::test]
    async fn rows_are_kept_while_they_are_few_and_there_is_memory() {
        let context = context();
        let table = MemTable::try_new(rows(0).schema(), vec![vec![rows(100)]]).unwrap();
        let batches = Arc::clone(&table.batches[0]);
        context.register_table("t", Arc::new(table)).unwrap();
        let part = Part::of(&context, "SELECT a + 1 AS a FROM t").await;
        assert_eq!(part.read().await, (100, true));
        assert!((800..KEPT).contains(&part.pool().reserved()));

        // Too many rows, for several batches, and fewer again.
        batches.write().await.push(rows(10_000));
        for _ in 0..3 {
            assert_eq!(part.read().await, (10_100, false));
            assert_eq!(part.pool().reserved(), 0);
        }
        batches.write().await.pop();
        assert_eq!(part.read().await, (100, true));

        // No memory left for what would be few enough.
        let others = MemoryConsumer::new("others").register(part.pool());
        others.grow(POOL - part.pool().reserved());
        batches.write().await.push(rows(1));
        assert_eq!(part.read().await, (101, false));
    }

    #[tokio::test]
    async fn rows_of_a_table_that_did_not_change_are_the_same_in_memory() {
        let context = context();
        let table = MemTable::try_new(rows(0).schema(), vec![vec![rows(10)], vec![rows(20)]]).unwrap();
        context.register_table("t", Arc::new(table)).unwrap();
        let part = Part::of(&context, "SELECT count(*) AS n FROM t WHERE a > 3").await;
        part.refresh().await.unwrap();
        let first = part.tables.parts[0].part.content().unwrap();
        part.refresh().await.unwrap();
        assert!(Arc::ptr_eq(&first, &part.tables.parts[0].part.content().unwrap()));
        // Replaced by equal rows, which nobody compares.
        context.sql("INSERT INTO t VALUES (7)").await.unwrap().collect().await.unwrap();
        part.refresh().await.unwrap();
        assert!(!Arc::ptr_eq(&first, &part.tables.parts[0].part.content().unwrap()));
    }

    #[tokio::test]
    async fn a_running_batch_keeps_the_rows_it_began_with() {
        let context = context();
        let table = MemTable::try_new(rows(0).schema(), vec![vec![rows(10)]]).unwrap();
        let batches = Arc::clone(&table.batches[0]);
        context.register_table("t", Arc::new(table)).unwrap();
        let part = Part::of(&context, "SELECT a FROM t").await;
        part.refresh().await.unwrap();
        let running = reset_plan_states(Arc::clone(&part.plan)).unwrap();
        batches.write().await.push(rows(5));
        assert_eq!(part.read().await, (15, true));
        let found = collect(running, part.wide.task_ctx()).await.unwrap();
        assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), 10);
    }

    #[tokio::test]
    async fn after_a_failure_everything_is_read_again() {
        let place = tempfile::tempdir().unwrap();
        let context = context();
        let path = place.path().join("t.parquet");
        let frame = context.read_batch(rows(10)).unwrap();
        let text = path.to_str().unwrap();
        frame.write_parquet(text, Default::default(), None).await.unwrap();
        context.register_parquet("t", text, ParquetReadOptions::default()).await.unwrap();
        let part = Part::of(&context, "SELECT a FROM t").await;
        assert_eq!(part.read().await, (10, true));
        let content = std::fs::read(&path).unwrap();
        std::fs::write(&path, "not Parquet").unwrap();
        for _ in 0..2 {
            let error = part.refresh().await.unwrap_err().to_string();
            assert!(error.contains("the bounded table t cannot be read"), "{error}");
        }
        std::fs::write(&path, content).unwrap();
        assert_eq!(part.read().await, (10, true));
    }

    #[tokio::test]
    async fn a_plan_without_bounded_tables_is_left_alone() {
        let state = context().state();
        for sql in ["SELECT 1 AS a", "SELECT a FROM (VALUES (1), (2)) v(a) WHERE a > 1"] {
            let plan = state.optimize(&state.create_logical_plan(sql).await.unwrap()).unwrap();
            let (cut, tables) = StaticTables::extract(plan.clone()).unwrap();
            assert_eq!((cut, tables.parts.len()), (plan, 0));
        }
    }
}
