//! The groups of grouping sets without keys, which are there without any row.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int32Array, new_null_array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;

use super::partial::Partials;
use crate::exec::node::{Behaviour, Node};
use crate::functions::totals_of;

/// Adds to partial results those of grand totals without rows, as DataFusion does for grouping sets of its own. It is
/// needed where each set has its own copies of the rows: where there are no rows, nothing is copied.
#[derive(Debug)]
pub(crate) struct GrandTotals {
    totals: RecordBatch,
}

impl GrandTotals {
    /// `input`, which gives `partials`, with the grand totals that a key of these stands for; without such a key as
    /// it is.
    pub(crate) fn over(
        input: Arc<dyn ExecutionPlan>,
        partials: &Partials,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let keys = partials.key_schema.fields().iter();
        let Some((key, totals)) =
            keys.map(|key| totals_of(key)).enumerate().find(|(_, totals)| !totals.is_empty())
        else {
            return Ok(input);
        };
        let partial = input.downcast_ref::<AggregateExec>();
        let partial =
            partial.ok_or_else(|| internal_datafusion_err!("grand totals of what is no aggregation"))?;
        let groups = totals.len();
        let numbers: ArrayRef = Arc::new(Int32Array::from(totals));
        let keys = partials.key_schema.fields().iter().enumerate();
        let mut columns: Vec<ArrayRef> = keys
            .map(|(index, field)| match index == key {
                true => Arc::clone(&numbers),
                false => new_null_array(field.data_type(), groups),
            })
            .collect();
        columns.extend(partials.of_no_rows(groups, &partial.input_schema())?);
        let totals = RecordBatch::try_new(input.schema(), columns)?;
        Ok(Node::over(input, Self { totals }))
    }
}

impl Behaviour for GrandTotals {
    fn name(&self) -> &'static str {
        "GrandTotalsExec"
    }

    fn describe(&self) -> String {
        format!("totals={}", self.totals.num_rows())
    }

    fn schema(&self) -> SchemaRef {
        self.totals.schema()
    }

    fn execute(
        self: &Arc<Self>,
        input: Option<&Arc<dyn ExecutionPlan>>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let input = input.ok_or_else(|| internal_datafusion_err!("grand totals without an input"))?;
        let rows = input.execute(partition, context)?;
        if partition > 0 {
            return Ok(rows);
        }
        let totals = futures::stream::iter([Ok(self.totals.clone())]);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), totals.chain(rows))))
    }
}
