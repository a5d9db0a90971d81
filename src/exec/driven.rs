//! Reading what must be read, whoever wants it.
//!
//! DataFusion lets go of an input as soon as it can give nothing more of it: a join whose other side is empty,
//! a limit that is reached. For a stream that would lose rows for good: those of a batch come once. So scans,
//! watermarks and observations are read to their end in any case, and if DataFusion does not do it, [`settle`] does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, RecordBatchStream};
use futures::{Stream, StreamExt};

use super::node::{Behaviour, Node};
use super::task::Task;
use super::workers::{Stopped, Workers};
use crate::error::Result;

/// Passes on what is below, every partition of which is read to its end in every batch.
#[derive(Debug)]
pub(crate) struct Driven {
    /// From 0, over all stages of a plan.
    number: usize,
    schema: SchemaRef,
}

impl Driven {
    /// `plan`, which is to be read to its end.
    pub(crate) fn over(plan: Arc<dyn ExecutionPlan>, number: usize) -> Arc<dyn ExecutionPlan> {
        let schema = plan.schema();
        Node::over(plan, Self { number, schema })
    }

    /// The number of `plan`, if it has to be read to its end.
    pub(crate) fn number(plan: &Arc<dyn ExecutionPlan>) -> Option<usize> {
        Node::<Self>::of(plan).map(|driven| driven.number)
    }
}

impl Behaviour for Driven {
    fn name(&self) -> &'static str {
        "DrivenExec"
    }

    fn describe(&self) -> String {
        format!("number={}", self.number)
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn execute(
        self: &Arc<Self>,
        input: Option<&Arc<dyn ExecutionPlan>>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let input = input.ok_or_else(|| internal_datafusion_err!("a node without its input"))?;
        let (number, task) = (self.number, Task::of(&context)?);
        match input.execute(partition, context) {
            Ok(rows) => Ok(DrivenStream::open(rows, number, partition, task)),
            Err(error) => Err(task.failed(number, partition, error)),
        }
    }
}

/// A partition on the way to its end. Where it is dropped before, the task takes the rest over.
struct DrivenStream {
    /// `None` when there is nothing more.
    rows: Option<SendableRecordBatchStream>,
    schema: SchemaRef,
    number: usize,
    partition: usize,
    task: Arc<Task>,
    /// How long it has computed, if that is to be noted.
    took: Option<Duration>,
}

impl DrivenStream {
    fn open(
        rows: SendableRecordBatchStream,
        number: usize,
        partition: usize,
        task: Arc<Task>,
    ) -> SendableRecordBatchStream {
        task.opened(number, partition);
        let took = task.batch.measures.then_some(Duration::ZERO);
        Box::pin(Self { schema: rows.schema(), rows: Some(rows), number, partition, task, took })
    }
}

impl Stream for DrivenStream {
    type Item = DataFusionResult<RecordBatch>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(rows) = &mut this.rows else { return Poll::Ready(None) };
        let polled = match this.took {
            None => rows.poll_next_unpin(context),
            Some(before) => {
                let begun = Instant::now();
                let polled = rows.poll_next_unpin(context);
                this.took = Some(before + begun.elapsed());
                polled
            }
        };
        match std::task::ready!(polled) {
            Some(Ok(batch)) => Poll::Ready(Some(Ok(batch))),
            Some(Err(error)) => {
                this.rows = None;
                Poll::Ready(Some(Err(this.task.failed(this.number, this.partition, error))))
            }
            None => {
                this.rows = None;
                if let Some(took) = this.took {
                    this.task.add_time(this.number, took);
                }
                this.task.ended(this.number, this.partition);
                Poll::Ready(None)
            }
        }
    }
}

impl RecordBatchStream for DrivenStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Drop for DrivenStream {
    fn drop(&mut self) {
        if let Some(rest) = self.rows.take() {
            self.task.dropped(self.number, self.partition, rest);
        }
    }
}

/// Reads to their ends all partitions in `plan` that have to be read, as far as they have not been. Nobody
/// else may hold the plan any more, or be going to read more of what it gave.
pub(crate) async fn settle(
    plan: Arc<dyn ExecutionPlan>,
    task: &Arc<Task>,
    context: &Arc<TaskContext>,
    workers: &Workers,
) -> std::result::Result<(), Stopped> {
    let mut nodes = Vec::new();
    collect(&plan, &mut nodes);
    if nodes.iter().all(|(node, number, _)| is_done(node, *number, task)) {
        return Ok(());
    }
    // Operators may keep what they began to read, so they go first. Then, from the top down, whatever
    // could keep the streams of a node is gone when its turn comes: the other ends of those that are still
    // open are with tasks that are being stopped, and these will let go of them.
    drop(plan);
    for (node, number, partitions) in nodes {
        let unopened = (0..partitions).filter(|partition| !task.was_opened(number, *partition));
        let readings: Vec<_> = unopened
            .map(|partition| {
                let (node, context) = (Arc::clone(&node), Arc::clone(context));
                async move { drain(node.execute(partition, context)?).await }
            })
            .collect();
        drop(node);
        workers.all(readings).await?;
        loop {
            let rests = task.rests(number, partitions).await;
            if rests.is_empty() {
                break;
            }
            let mut readings = Vec::with_capacity(rests.len());
            for (partition, rest) in rests {
                readings.push(drain(DrivenStream::open(rest, number, partition, Arc::clone(task))));
            }
            workers.all(readings).await?;
        }
    }
    Ok(())
}

async fn drain(mut rows: SendableRecordBatchStream) -> Result<()> {
    while rows.next().await.transpose()?.is_some() {}
    Ok(())
}

fn is_done(node: &Arc<dyn ExecutionPlan>, number: usize, task: &Task) -> bool {
    (0..node.output_partitioning().partition_count()).all(|partition| task.has_ended(number, partition))
}

/// Those that have to be read to their end, each before what is below it, with their numbers of partitions.
fn collect(plan: &Arc<dyn ExecutionPlan>, nodes: &mut Vec<(Arc<dyn ExecutionPlan>, usize, usize)>) {
    if let Some(number) = Driven::number(plan) {
        nodes.push((Arc::clone(plan), number, plan.output_partitioning().partition_count()));
    }
    plan.children().into_iter().for_each(|child| collect(child, nodes));
}
