//! Bringing rows to the state partition of their key.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{ArrayRef, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::datatypes::Field;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PhysicalExpr,
    PlanProperties,
};
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;

use super::codec::RowCodec;
use crate::state::{RowBytes, hash_key, partition_of};

/// Gives output partition `p` all rows whose key belongs to state partition `p`.
///
/// The rows of a partition come in the order of the input partitions, and within those in their
/// order: a batch that is run again adds up floating-point numbers in the same order. That is why
/// this is not DataFusion's `RepartitionExec`. An operator with state sees all of its input before
/// it gives anything in most cases, so waiting for all inputs costs little.
#[derive(Debug)]
pub(crate) struct StateExchangeExec {
    input: Arc<dyn ExecutionPlan>,
    /// Without keys, all rows belong to one partition, the first.
    keys: Vec<Arc<dyn PhysicalExpr>>,
    properties: Arc<PlanProperties>,
    /// The exchange of this batch, begun by the first partition to be executed.
    exchanged: Mutex<Option<Exchanged>>,
}

/// Some rows of one state partition, and what their keys are.
pub(crate) struct KeyedRows {
    pub(crate) rows: RecordBatch,
    /// The key of each row as bytes.
    pub(crate) keys: Box<dyn RowBytes + Send>,
    /// The hash of each key, see [`hash_key`].
    pub(crate) hashes: Vec<u64>,
}

/// For each output partition, its rows.
type Partitions = Vec<Vec<RecordBatch>>;
type Exchanged = Shared<BoxFuture<'static, Result<Arc<Mutex<Partitions>>, Arc<DataFusionError>>>>;

impl StateExchangeExec {
    pub(crate) fn new(
        input: Arc<dyn ExecutionPlan>,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        partitions: usize,
    ) -> Self {
        let properties = properties(&input, partitions);
        Self { input, keys, properties, exchanged: Mutex::new(None) }
    }

    fn partitions(&self) -> usize {
        self.properties.output_partitioning().partition_count()
    }

    /// The exchange that all output partitions wait for.
    fn exchange(&self, context: &Arc<TaskContext>) -> DataFusionResult<Exchanged> {
        let mut exchanged = self.exchanged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exchanged) = exchanged.as_ref() {
            return Ok(exchanged.clone());
        }
        let inputs = (0..self.input.output_partitioning().partition_count())
            .map(|partition| {
                let splitter = Splitter::try_new(&self.keys, &self.input, self.partitions())?;
                Ok((splitter, self.input.execute(partition, Arc::clone(context))?))
            })
            .collect::<DataFusionResult<Vec<_>>>()?;
        let partitions = self.partitions();
        let future = async move { exchange(inputs, partitions).await.map_err(Arc::new) }.boxed().shared();
        *exchanged = Some(future.clone());
        Ok(future)
    }
}

fn properties(input: &Arc<dyn ExecutionPlan>, partitions: usize) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(input.schema()),
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Final,
        Boundedness::Bounded,
    ))
}

/// Reads all inputs, at the same time if there are several.
async fn exchange(
    mut inputs: Vec<(Splitter, SendableRecordBatchStream)>,
    partitions: usize,
) -> DataFusionResult<Arc<Mutex<Partitions>>> {
    let split = if inputs.len() == 1 {
        let (splitter, rows) = inputs.swap_remove(0);
        vec![split(splitter, rows, partitions).await?]
    } else {
        let mut tasks = JoinSet::new();
        for (index, (splitter, rows)) in inputs.into_iter().enumerate() {
            tasks.spawn(async move { (index, split(splitter, rows, partitions).await) });
        }
        let mut done = Vec::new();
        while let Some(finished) = tasks.join_next().await {
            let (index, rows) = finished.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))?;
            done.push((index, rows?));
        }
        done.sort_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, rows)| rows).collect()
    };
    let mut exchanged: Partitions = vec![Vec::new(); partitions];
    for rows in split {
        for (partition, rows) in exchanged.iter_mut().zip(rows) {
            partition.extend(rows);
        }
    }
    Ok(Arc::new(Mutex::new(exchanged)))
}

async fn split(
    splitter: Splitter,
    mut rows: SendableRecordBatchStream,
    partitions: usize,
) -> DataFusionResult<Partitions> {
    let mut split: Partitions = vec![Vec::new(); partitions];
    while let Some(batch) = rows.next().await.transpose()? {
        if batch.num_rows() > 0 {
            splitter.split(batch, &mut split)?;
        }
    }
    Ok(split)
}

/// Divides batches by the keys of their rows.
struct Splitter {
    keys: Vec<Arc<dyn PhysicalExpr>>,
    codec: RowCodec,
}

impl Splitter {
    fn try_new(
        keys: &[Arc<dyn PhysicalExpr>],
        input: &Arc<dyn ExecutionPlan>,
        partitions: usize,
    ) -> DataFusionResult<Self> {
        let keys = if partitions == 1 { Vec::new() } else { keys.to_vec() };
        let schema = input.schema();
        let fields = keys
            .iter()
            .map(|key| Ok(Field::new("", key.data_type(&schema)?, true)))
            .collect::<DataFusionResult<Vec<_>>>()?;
        Ok(Self { keys, codec: RowCodec::keys(&fields)? })
    }

    fn split(&self, batch: RecordBatch, into: &mut Partitions) -> DataFusionResult<()> {
        if self.keys.is_empty() {
            into[0].push(batch);
            return Ok(());
        }
        let columns = self
            .keys
            .iter()
            .map(|key| key.evaluate(&batch)?.into_array(batch.num_rows()))
            .collect::<DataFusionResult<Vec<ArrayRef>>>()?;
        let rows = self.codec.encode(&columns, batch.num_rows())?;
        let mut indices: Vec<Vec<u32>> = vec![Vec::new(); into.len()];
        for (index, row) in (0u32..).zip(rows.iter()) {
            indices[partition_of(hash_key(row), into.len())].push(index);
        }
        for (partition, indices) in into.iter_mut().zip(indices) {
            if indices.len() == batch.num_rows() {
                partition.push(batch.clone());
            } else if !indices.is_empty() {
                partition.push(take_record_batch(&batch, &UInt32Array::from(indices))?);
            }
        }
        Ok(())
    }
}

impl DisplayAs for StateExchangeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        write!(f, "StateExchangeExec: keys=[{}], partitions={}", keys.join(", "), self.partitions())
    }
}

impl ExecutionPlan for StateExchangeExec {
    fn name(&self) -> &str {
        "StateExchangeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        self.keys.iter().try_fold(TreeNodeRecursion::Continue, |_, key| f(key))
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let input = children.swap_remove(0);
        let properties = match options.children_properties {
            ChildrenPropertiesMode::Keep => Arc::clone(&self.properties),
            ChildrenPropertiesMode::Recompute => properties(&input, self.partitions()),
        };
        Ok(Arc::new(Self { input, keys: self.keys.clone(), properties, exchanged: Mutex::new(None) }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let exchanged = self.exchange(&context)?;
        let is_parallel = self.partitions() > 1 && self.input.output_partitioning().partition_count() > 1;
        let rows = async move {
            let partitions = exchanged.await.map_err(DataFusionError::Shared)?;
            // Whoever comes first wakes the next one, which then stands where a thread keeps what it does next,
            // and other threads look for no work. Another task in that place frees it for them.
            if is_parallel {
                let _ = tokio::spawn(std::future::ready(())).await;
            }
            let mut partitions = partitions.lock().unwrap_or_else(PoisonError::into_inner);
            let rows = std::mem::take(&mut partitions[partition]);
            Ok::<_, DataFusionError>(stream::iter(rows.into_iter().map(Ok)))
        };
        let rows = stream::once(rows).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.input.schema(), rows)))
    }
}
