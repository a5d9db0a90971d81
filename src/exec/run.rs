//! Running a batch: its stages, one after the other, each to its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::{FutureExt, StreamExt};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::driven::settle;
use super::exchange::{divide, nothing};
use super::keyed_rows::Partitions;
use super::report::{Finished, TaskReport};
use super::stages::{Stage, Stages};
use super::stateful::{Stateful, Tables, Worked};
use super::task::{Results, Task};
use super::workers::{Stopped, Workers};
use crate::error::{Error, Result};
use crate::sink::{Sink, SinkBatch};
use crate::state::StateStore;

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
}

impl BatchRun {
    /// Computes the batch: its rows are staged in the sink then, and the tables of state changed. `None` if
    /// it was given up because of `abandon`. However it ends, nobody is still working on it then.
    pub(crate) async fn run(
        self,
        width: BatchWidth,
        abandon: &CancellationToken,
    ) -> Result<Option<TaskReport>> {
        let tasks = Workers::Tasks(abandon.clone());
        let ran = match width {
            // In a task of its own even so: it keeps a panic of an operator from the query's loop.
            BatchWidth::Small => {
                let run = async move {
                    match self.stages(&Workers::Oneself).await {
                        Ok(report) => Ok(Some(report)),
                        Err(Stopped::Failed(error)) => Err(error),
                        Err(Stopped::Abandoned) => Ok(None),
                    }
                };
                tasks.all([run.boxed()]).await.map(|reports| reports.into_iter().next().flatten())
            }
            BatchWidth::Wide => self.stages(&tasks).await.map(Some),
        };
        match ran {
            Ok(report) => Ok(report),
            Err(Stopped::Abandoned) => Ok(None),
            Err(Stopped::Failed(error)) => Err(error),
        }
    }

    async fn stages(self, workers: &Workers) -> std::result::Result<TaskReport, Stopped> {
        let Self { batch, stages, session, state, sink } = self;
        let agenda = stages.agenda();
        let mut report = TaskReport::default();
        for stage in stages.subqueries {
            let task = Running::new(Task::new(Arc::clone(&batch), BTreeMap::new()), &session);
            task.run(stage.plan, workers, drain).await?;
            report.absorb(task.task.close());
        }
        // By operator. What one gives is read by one stage, for a plan is a tree.
        let mut results: BTreeMap<usize, Results> = BTreeMap::new();
        let input_of = |stage: &Stage, results: &mut BTreeMap<usize, Results>| -> BTreeMap<usize, Results> {
            stage.inputs.iter().filter_map(|operator| results.remove_entry(operator)).collect()
        };
        for (operator, inputs) in stages.stateful {
            let mut rows = nothing(operator.operator.state_partitions);
            for (number, stage) in inputs.into_iter().enumerate() {
                let task =
                    Running::new(Task::new(Arc::clone(&batch), input_of(&stage, &mut results)), &session);
                let read = |plan, partition, context| {
                    read(plan, partition, context, (Arc::clone(&operator), number))
                };
                let divided: Vec<Partitions> = task.run(stage.plan, workers, read).await?;
                report.absorb(task.task.close());
                // The rows of the first partition come first: a batch that is run again adds up
                // floating-point numbers in the same order.
                for divided in divided {
                    rows.iter_mut().zip(divided).for_each(|(rows, more)| rows.extend(more));
                }
            }
            let given = work(&operator, rows, (&batch, &state), workers, &mut report).await?;
            results.insert(operator.operator.id, given);
        }
        let task =
            Running::new(Task::new(Arc::clone(&batch), input_of(&stages.last, &mut results)), &session);
        let identity = batch.identity;
        let write = |plan, partition, context| write(plan, partition, context, (Arc::clone(&sink), identity));
        report.sink = task.run(stages.last.plan, workers, write).await?;
        report.absorb(task.task.close());
        agenda.check(&report)?;
        Ok(report)
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
        settle(plan, &self.task, &self.context, workers).await?;
        Ok(given)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What was let go is kept by the task, and keeps it.
        self.task.close();
    }
}

/// Does an operator's work on all of its state partitions.
async fn work(
    operator: &Arc<Stateful>,
    rows: Partitions,
    (batch, state): (&Arc<Batch>, &Arc<StateStore>),
    workers: &Workers,
    report: &mut TaskReport,
) -> std::result::Result<Results, Stopped> {
    let id = operator.operator.id;
    let parts = rows.into_iter().enumerate().map(|(partition, rows)| {
        let (operator, batch, state) = (Arc::clone(operator), Arc::clone(batch), Arc::clone(state));
        move || {
            let mut first = state.table(id, partition);
            let mut second = (operator.tables > 1).then(|| state.table(id + 1, partition));
            let second = second.as_deref_mut();
            operator.work.run(rows, Tables { first: &mut *first, second }, &batch).map_err(Error::from)
        }
    });
    let mut results = Results::new();
    let given = workers.all_blocking(parts).await?;
    for (partition, Worked { rows, counters, second }) in given.into_iter().enumerate() {
        report.operators.entry(id).or_default().add(&counters);
        if operator.tables > 1 {
            report.operators.entry(id + 1).or_default().add(&second);
        }
        report.finished.push(Finished::State { operator: id, partition });
        results.push(rows);
    }
    Ok(results)
}

/// Runs what gives no rows.
async fn drain(plan: Arc<dyn ExecutionPlan>, partition: usize, context: Arc<TaskContext>) -> Result<()> {
    let mut rows = plan.execute(partition, context)?;
    while rows.next().await.transpose()?.is_some() {}
    Ok(())
}

/// Divides the rows of a partition of an operator's input among its state partitions.
async fn read(
    plan: Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<TaskContext>,
    (operator, input): (Arc<Stateful>, usize),
) -> Result<Partitions> {
    let rows = plan.execute(partition, context)?;
    Ok(divide(input, &operator.inputs[input], operator.operator.state_partitions, rows).await?)
}

/// Writes a partition with a writer of the sink; gives what its `close` gave.
async fn write(
    plan: Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<TaskContext>,
    (sink, batch): (Arc<dyn Sink>, SinkBatch),
) -> Result<Value> {
    let mut rows = plan.execute(partition, context)?;
    let mut writer = sink.writer(batch, partition).await?;
    while let Some(batch) = rows.next().await.transpose()? {
        if batch.num_rows() > 0 {
            writer.write(batch).await?;
        }
    }
    writer.close().await
}
