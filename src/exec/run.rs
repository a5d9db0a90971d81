//! Running a batch: its stages, one after the other, each to its end.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::future::join;
use futures::{FutureExt, StreamExt};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::driven::settle;
use super::exchange::divide;
use super::keyed_rows::{DividedRows, Gathered, Keyed};
use super::measure::measure;
use super::measured::{Measurements, StatefulRun};
use super::node::Behaviour;
use super::operator::OperatorId;
use super::report::{Finished, LateRows, TaskReport};
use super::room::Space;
use super::row_buffer::{HeldRows, RowBuffer};
use super::stages::{Stage, Stages};
use super::stateful::{Counters, Stateful, Tables};
use super::task::{Results, Task};
use super::workers::{Stopped, Workers, panicked_with};
use crate::error::Result;
use crate::sink::{Sink, SinkBatch};
use crate::state::StateStore;

/// How many batches of rows are read before those before them are written.
const AHEAD: usize = 2;

/// How many partitions a batch is worth: fanning out costs more than a small batch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchWidth {
    /// One partition, run in one task.
    Small,
    /// All partitions of the session, each in a task of its own.
    Wide,
}

/// A batch that is to be computed: the local runner of its stages.
#[derive(Debug)]
pub(crate) struct BatchRun {
    pub(crate) batch: Arc<Batch>,
    /// Nothing was executed on them yet.
    pub(crate) stages: Stages,
    /// The session that they were planned in.
    pub(crate) session: Arc<TaskContext>,
    pub(crate) state: Arc<StateStore>,
    pub(crate) sink: Arc<dyn Sink>,
    /// Where rows wait for the next stage.
    pub(crate) space: Space,
}

impl BatchRun {
    /// Computes the batch: its rows are staged in the sink then, and the tables of state changed. As soon as these
    /// are, `keep` begins with the late rows, by operator, and goes on beside what is left; what it gives is given,
    /// too. `None` if the batch was given up because of `abandon`. However it ends, nobody is still working on it
    /// then.
    pub(crate) async fn run<T: Send + 'static, K: Future<Output = Result<T>> + Send + 'static>(
        self,
        width: BatchWidth,
        abandon: &CancellationToken,
        keep: impl FnOnce(LateRows) -> K + Send + 'static,
    ) -> Result<Option<(TaskReport, T)>> {
        let ran = match width {
            BatchWidth::Small => {
                // Without a task of its own, which costs as much as the batch; a panic of an operator must not
                // end the query's loop even so.
                let run = AssertUnwindSafe(self.stages(&Workers::Oneself, keep)).catch_unwind();
                tokio::select! {
                    biased;
                    () = abandon.cancelled() => Err(Stopped::Abandoned),
                    ran = run => ran.unwrap_or_else(|payload| Err(Stopped::Failed(panicked_with(payload.as_ref())))),
                }
            }
            BatchWidth::Wide => self.stages(&Workers::Tasks(abandon.clone()), keep).await,
        };
        match ran {
            Ok(done) => Ok(Some(done)),
            Err(Stopped::Abandoned) => Ok(None),
            Err(Stopped::Failed(error)) => Err(error),
        }
    }

    async fn stages<T, K: Future<Output = Result<T>>>(
        self,
        workers: &Workers,
        keep: impl FnOnce(LateRows) -> K,
    ) -> std::result::Result<(TaskReport, T), Stopped> {
        let Self { batch, stages, session, state, sink, space } = self;
        let agenda = stages.agenda();
        let mut report = TaskReport::default();
        let mut measurements = Measurements::default();
        for stage in stages.subqueries {
            let task = Running::new(Task::new(Arc::clone(&batch), BTreeMap::new(), space.clone()), &session);
            task.run(stage.plan, workers, drain).await?;
            report.absorb(task.task.close()?);
        }
        // By operator. What one gives is read by one stage, for a plan is a tree.
        let mut results: BTreeMap<usize, Results> = BTreeMap::new();
        let input_of = |stage: &Stage, results: &mut BTreeMap<usize, Results>| -> BTreeMap<usize, Results> {
            stage.inputs.iter().filter_map(|operator| results.remove_entry(operator)).collect()
        };
        for (operator, inputs) in stages.stateful {
            let (mut divided, all) = (Vec::new(), inputs.len());
            let mut measured = Vec::new();
            for (number, stage) in inputs.into_iter().enumerate() {
                let inputs = input_of(&stage, &mut results);
                let task = Running::new(Task::new(Arc::clone(&batch), inputs, space.clone()), &session);
                let many = stage.plan.output_partitioning().partition_count() * all;
                let read = |plan, partition, context| {
                    read(plan, partition, context, (Arc::clone(&operator), number, space.clone(), many))
                };
                divided.extend(task.run(stage.plan, workers, read).await?);
                measured.push(report.absorb(task.task.close()?));
            }
            let begun = Instant::now();
            let given = work(&operator, divided, (&batch, &state, &space), workers, &mut report).await?;
            if batch.measures {
                let rows = given.iter().map(HeldRows::count).sum();
                let description = format!("{}: {}", operator.name(), operator.describe());
                let run = StatefulRun { description, rows, took: begun.elapsed(), stages: measured };
                measurements.add(operator.operator.id, run);
            }
            results.insert(operator.operator.id, given);
        }
        // No state changes from here on, and no row is late.
        let keep = keep(std::mem::take(&mut report.late_rows));
        let inputs = input_of(&stages.last, &mut results);
        let task = Running::new(Task::new(Arc::clone(&batch), inputs, space), &session);
        let identity = batch.identity;
        // Where there are more partitions, they have something to do beside one another.
        let is_alone = stages.last.plan.output_partitioning().partition_count() == 1;
        let ahead = is_alone && matches!(workers, Workers::Tasks(_));
        let write =
            |plan, partition, context| write(plan, partition, context, (Arc::clone(&sink), identity, ahead));
        let (kept, written) = join(keep, task.run(stages.last.plan, workers, write)).await;
        report.sink = written?;
        let last = report.absorb(task.task.close()?);
        if batch.measures {
            report.plan = measurements.plan(last, &report.rows);
        }
        agenda.check(&report)?;
        Ok((report, kept?))
    }
}

/// A task that is being run.
struct Running {
    task: Arc<Task>,
    context: Arc<TaskContext>,
}

impl Running {
    fn new(task: Task, session: &TaskContext) -> Self {
        let task = Arc::new(task);
        let context = task.context(session);
        Self { task, context }
    }

    /// What `each` gives for the partitions of `plan`, in their order, when all that has to be read below
    /// has been.
    async fn run<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        workers: &Workers,
        each: impl Fn(Arc<dyn ExecutionPlan>, usize, Arc<TaskContext>) -> F,
    ) -> std::result::Result<Vec<T>, Stopped> {
        let partitions = plan.output_partitioning().partition_count();
        let parts: Vec<F> = (0..partitions)
            .map(|partition| each(Arc::clone(&plan), partition, Arc::clone(&self.context)))
            .collect();
        // What went wrong with a source may have come through operators that made another error of it, or none.
        let given = self.run_all(plan, parts, workers).await;
        match (given, self.task.take_failure()) {
            (Ok(_) | Err(Stopped::Failed(_)), Some(error)) => Err(Stopped::Failed(error)),
            (given, _) => given,
        }
    }

    async fn run_all<T: Send + 'static>(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        parts: Vec<impl Future<Output = Result<T>> + Send + 'static>,
        workers: &Workers,
    ) -> std::result::Result<Vec<T>, Stopped> {
        let given = workers.all(parts).await?;
        if self.task.batch.measures {
            self.task.add_measured(measure(&plan, &self.task.take_times()));
        }
        settle(plan, &self.task, &self.context, workers).await?;
        Ok(given)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What was let go is kept by the task, and keeps it.
        drop(self.task.close());
    }
}

/// Does an operator's work on all of its state partitions.
async fn work(
    operator: &Arc<Stateful>,
    divided: Vec<DividedRows>,
    (batch, state, space): (&Arc<Batch>, &Arc<StateStore>, &Space),
    workers: &Workers,
    report: &mut TaskReport,
) -> std::result::Result<Results, Stopped> {
    let OperatorId { id, state_partitions: partitions } = operator.operator;
    report.exchanged += divided.iter().map(|divided| divided.bytes).sum::<u64>();
    report.lacked_room |= divided.iter().any(|divided| divided.moved.is_some());
    let keyed: Keyed = {
        let operator = Arc::clone(operator);
        Arc::new(move |input: usize, rows| operator.inputs[input].keyed(input, rows))
    };
    let rows = Gathered::of(divided, partitions, space.for_work(partitions), &keyed);
    let parts = rows.into_iter().enumerate().map(|(partition, rows)| {
        let (operator, batch, state) = (Arc::clone(operator), Arc::clone(batch), Arc::clone(state));
        let mut results = RowBuffer::new(space, partitions);
        move || {
            let mut first = state.table(id, partition);
            let mut second = (operator.tables > 1).then(|| state.table(id + 1, partition));
            let second = second.as_deref_mut();
            let tables = Tables { first: &mut *first, second };
            let counters = operator.work.run(rows, tables, &batch, &mut results)?;
            Ok((results.finish()?, counters))
        }
    });
    let tables =
        (id..id + operator.tables).flat_map(|table| (0..partitions).map(move |partition| (table, partition)));
    let may_wait = tables.into_iter().any(|(table, partition)| state.table(table, partition).may_wait());
    let mut results = Vec::with_capacity(partitions);
    for (partition, (rows, Counters { first, second })) in
        workers.all_blocking(may_wait, parts).await?.into_iter().enumerate()
    {
        report.operators.entry(id).or_default().add(&first);
        if operator.tables > 1 {
            report.operators.entry(id + 1).or_default().add(&second);
        }
        report.finished.push(Finished::State { operator: id, partition });
        report.lacked_room |= rows.were_moved();
        results.push(rows);
    }
    Ok(results.into())
}

/// Runs what gives no rows.
async fn drain(plan: Arc<dyn ExecutionPlan>, partition: usize, context: Arc<TaskContext>) -> Result<()> {
    let mut rows = plan.execute(partition, context)?;
    while rows.next().await.transpose()?.is_some() {}
    Ok(())
}

/// Divides the rows of a partition of an operator's input, which have a share of the room for `many`, among its
/// state partitions.
async fn read(
    plan: Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<TaskContext>,
    (operator, input, space, many): (Arc<Stateful>, usize, Space, usize),
) -> Result<DividedRows> {
    divide((operator, input), plan.execute(partition, context)?, space, many).await
}

/// Writes a partition with a writer of the sink; gives what its `close` gave. One that is read `ahead` is read by a
/// task of its own, so that it is decoded while what came before is encoded.
async fn write(
    plan: Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<TaskContext>,
    (sink, batch, ahead): (Arc<dyn Sink>, SinkBatch, bool),
) -> Result<Value> {
    let mut rows = if ahead {
        let mut reading = RecordBatchReceiverStream::builder(plan.schema(), AHEAD);
        let (read, mut rows) = (reading.tx(), plan.execute(partition, context)?);
        reading.spawn(async move {
            while let Some(batch) = rows.next().await {
                // If nobody wants it, there is nothing more to do.
                if read.send(batch).await.is_err() {
                    break;
                }
            }
            Ok(())
        });
        reading.build()
    } else {
        plan.execute(partition, context)?
    };
    let mut writer = sink.writer(batch, partition).await?;
    while let Some(batch) = rows.next().await.transpose()? {
        if batch.num_rows() > 0 {
            writer.write(batch).await?;
        }
    }
    writer.close().await
}
