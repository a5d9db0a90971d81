//! Running a plan for one batch.

use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::UInt64Type;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::TryStreamExt;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// Executes every partition of `plan`, whose root is a [`SinkExec`](super::sink::SinkExec), and
/// gives the writers' reports in partition order; `None` if it was given up because of `abandon`.
/// However it ends, none of the partitions is still running then.
pub(crate) async fn run_batch(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    abandon: &CancellationToken,
) -> Result<Option<Vec<Value>>> {
    let mut tasks = JoinSet::new();
    // Tasks of their own even if there is only one: they keep a panic of an operator from the
    // query's loop.
    for partition in 0..plan.output_partitioning().partition_count() {
        tasks.spawn(run_partition(Arc::clone(&plan), partition, Arc::clone(&context)));
    }
    let mut reports = Vec::with_capacity(tasks.len());
    loop {
        let finished = tokio::select! {
            biased;
            () = abandon.cancelled() => {
                tasks.shutdown().await;
                return Ok(None);
            }
            finished = tasks.join_next() => finished,
        };
        let Some(finished) = finished else { break };
        match finished.map_err(panicked).and_then(|found| found.map_err(Error::from)) {
            Ok(found) => reports.extend(found),
            Err(error) => {
                // Nobody may still be writing when the sink is told to remove what was staged.
                tasks.shutdown().await;
                return Err(error);
            }
        }
    }
    reports.sort_by_key(|(partition, _)| *partition);
    Ok(Some(reports.into_iter().map(|(_, report)| report).collect()))
}

async fn run_partition(
    plan: Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<TaskContext>,
) -> DataFusionResult<Vec<(u64, Value)>> {
    let batches: Vec<RecordBatch> = plan.execute(partition, context)?.try_collect().await?;
    let mut reports = Vec::with_capacity(1);
    for batch in &batches {
        let partitions = batch.column(0).as_primitive::<UInt64Type>();
        let texts = batch.column(1).as_string::<i32>();
        for row in 0..batch.num_rows() {
            let report = serde_json::from_str(texts.value(row))
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            reports.push((partitions.value(row), report));
        }
    }
    Ok(reports)
}

/// A panic inside an operator is a bug, but it must end the query, not the process.
pub(crate) fn panicked(error: tokio::task::JoinError) -> Error {
    match error.try_into_panic() {
        Ok(payload) => {
            let text = payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_string())
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "unknown cause".into());
            Error::Invalid(format!("an operator panicked, which is a bug: {text}"))
        }
        Err(error) => Error::Invalid(format!("the batch was cancelled: {error}")),
    }
}
