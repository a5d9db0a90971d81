//! Operators with state.

use std::fmt::Debug;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::internal_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::batch::Batch;
use super::codec::RowCodec;
use super::keyed_rows::{Gathered, KeyedRows};
use super::node::{Behaviour, Node};
use super::operator::{OperatorCounters, OperatorId};
use super::row_buffer::RowBuffer;
use crate::checkpoint::records::OperatorDefinition;
use crate::state::{RowBytes, StateTable, hash_key};

/// By what the rows of a table expire, and whether that is worth a batch without new rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expires {
    /// By the watermark, which is.
    ByWatermark,
    /// By the watermark, which is, and nothing is given for them then.
    Unseen,
    /// By the watermark, and what then happens may let others wait for it.
    WakingByWatermark,
    /// By the time of the batch, whenever there is one.
    ByBatchTime,
    /// By the time of the batch, which is.
    WakingByBatchTime,
}

impl Expires {
    /// Whether it is the time of the batch.
    pub(crate) fn is_by_batch_time(self) -> bool {
        matches!(self, Self::ByBatchTime | Self::WakingByBatchTime)
    }
}

/// What an operator does with the rows of one state partition; the same for all batches and partitions.
pub(crate) trait StatefulWork: Debug + Send + Sync {
    /// The name of the plan node.
    fn name(&self) -> &'static str;

    /// What `EXPLAIN` shows after the operator and its keys.
    fn describe(&self) -> String;

    /// The columns it gives.
    fn schema(&self) -> SchemaRef;

    /// The expressions it evaluates.
    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>>;

    /// What the state in each of its tables depends on; there is at least one.
    ///
    /// All that the state means something else without: a start with another one is refused. An implementation takes
    /// `self` apart field by field, so that a new one has to say on which side it is. What a checkpoint of an earlier
    /// version does not have is not compared; so every entry is always there, null or empty where there is nothing
    /// to say.
    fn definitions(&self) -> Vec<OperatorDefinition>;

    /// By what the rows of each of these tables expire.
    fn expires(&self) -> Vec<Expires> {
        vec![Expires::ByWatermark; self.definitions().len()]
    }

    /// Takes all rows of one state partition in `batch`, in their order, and adds to `results` what becomes of
    /// them.
    fn run(
        &self,
        rows: Gathered,
        tables: Tables<'_>,
        batch: &Batch,
        results: &mut RowBuffer,
    ) -> DataFusionResult<Counters>;
}

/// The tables of an operator in one state partition.
pub(crate) struct Tables<'a> {
    pub(crate) first: &'a mut (dyn StateTable + 'static),
    /// The second, if the operator has two.
    pub(crate) second: Option<&'a mut (dyn StateTable + 'static)>,
}

/// What an operator did in one state partition.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// To the first table.
    pub(crate) first: OperatorCounters,
    /// To the second, if there is one.
    pub(crate) second: OperatorCounters,
}

impl From<OperatorCounters> for Counters {
    fn from(first: OperatorCounters) -> Self {
        Self { first, second: OperatorCounters::default() }
    }
}

/// How the rows of one input are divided among the state partitions.
#[derive(Debug)]
pub(crate) struct Divided {
    /// Which rows belong together. Without keys, all do.
    pub(crate) keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The keys as bytes.
    pub(crate) codec: RowCodec,
}

impl Divided {
    pub(crate) fn new(schema: &Schema, keys: Vec<Arc<dyn PhysicalExpr>>) -> DataFusionResult<Self> {
        let fields = keys.iter().map(|key| key.return_field(schema)).collect::<DataFusionResult<Vec<_>>>()?;
        let codec = RowCodec::keys(fields.iter().map(AsRef::as_ref))?;
        Ok(Self { keys, codec })
    }

    /// Rows that came by the input `number` with their keys.
    pub(crate) fn keyed(&self, number: usize, rows: RecordBatch) -> DataFusionResult<KeyedRows> {
        let count = rows.num_rows();
        let columns = self
            .keys
            .iter()
            .map(|key| key.evaluate(&rows)?.into_array(count))
            .collect::<DataFusionResult<Vec<_>>>()?;
        let keys = self.codec.encode(&columns, count)?;
        let hashes = (0..count).map(|row| hash_key(keys.row(row))).collect();
        Ok(KeyedRows { input: number, rows, keys: Box::new(keys), hashes })
    }
}

/// The place of an operator with state in a plan. Nothing of it is executed there: the plan is cut at it, see
/// [`Stages`](super::stages::Stages).
#[derive(Debug)]
pub(crate) struct Stateful {
    pub(crate) operator: OperatorId,
    /// One for each of its inputs. Equal keys of different inputs are equal as bytes.
    pub(crate) inputs: Vec<Divided>,
    pub(crate) work: Arc<dyn StatefulWork>,
    /// How many tables of state it has. It is known by as many numbers, which follow one another.
    pub(crate) tables: usize,
    /// Whether what all state partitions give is one partition for what is above.
    pub(crate) gathers: bool,
}

/// An input, and the keys that it is divided by.
pub(crate) type KeyedInput = (Arc<dyn ExecutionPlan>, Vec<Arc<dyn PhysicalExpr>>);

impl Stateful {
    /// Does `work` on the rows of `input`, divided by `keys`.
    pub(crate) fn over(
        input: Arc<dyn ExecutionPlan>,
        operator: OperatorId,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        work: Arc<dyn StatefulWork>,
        gathers: bool,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Self::over_all(vec![(input, keys)], operator, work, gathers)
    }

    /// Does `work` on the rows of several inputs, each divided by its keys.
    pub(crate) fn over_all(
        inputs: Vec<KeyedInput>,
        operator: OperatorId,
        work: Arc<dyn StatefulWork>,
        gathers: bool,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let (mut plans, mut divided) = (Vec::with_capacity(inputs.len()), Vec::with_capacity(inputs.len()));
        for (plan, keys) in inputs {
            divided.push(Divided::new(&plan.schema(), keys)?);
            plans.push(plan);
        }
        let tables = work.definitions().len();
        Ok(Node::over_all(plans, Self { operator, inputs: divided, work, tables, gathers }))
    }
}

impl Behaviour for Stateful {
    fn name(&self) -> &'static str {
        self.work.name()
    }

    fn describe(&self) -> String {
        let keys = |input: &Divided| {
            let keys: Vec<String> = input.keys.iter().map(ToString::to_string).collect();
            format!(", keys=[{}]", keys.join(", "))
        };
        let keys: String = self.inputs.iter().map(keys).collect();
        format!("{}{keys}{}", self.operator, self.work.describe())
    }

    fn schema(&self) -> SchemaRef {
        self.work.schema()
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.inputs.iter().flat_map(|input| &input.keys).chain(self.work.expressions()).collect()
    }

    fn partitions(&self, _: usize) -> usize {
        if self.gathers { 1 } else { self.operator.state_partitions }
    }

    fn execute(
        self: &Arc<Self>,
        _: Option<&Arc<dyn ExecutionPlan>>,
        _: usize,
        _: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        internal_err!("{} was not cut out of the plan", self.work.name())
    }
}
