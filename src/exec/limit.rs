//! A limit over the life of a query.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::PhysicalExpr;
use futures::{StreamExt, TryStreamExt, stream};

use super::epoch::Epoch;
use super::operator::OperatorId;
use super::unary::{Batches, PartitionWork};
use crate::checkpoint::records::OperatorDefinition;
use crate::error::Error;
use crate::state::{ByteRows, Found, RowBytes};

/// Leaves out the first `skip` rows of all batches together, gives the next `fetch`, and leaves out
/// the rest.
///
/// **State**: one row, whose value is the number of rows that came, as long as it mattered; 8 bytes,
/// little-endian.
#[derive(Debug)]
pub(crate) struct StatefulLimit {
    pub(crate) operator: OperatorId,
    pub(crate) skip: u64,
    /// `None` for an offset without a limit.
    pub(crate) fetch: Option<u64>,
    pub(crate) schema: SchemaRef,
}

impl PartitionWork for StatefulLimit {
    fn name(&self) -> &'static str {
        "StatefulLimitExec"
    }

    fn describe(&self) -> String {
        let fetch = self.fetch.map_or_else(|| "None".into(), |fetch| fetch.to_string());
        format!("{}, skip={}, fetch={fetch}", self.operator, self.skip)
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        Vec::new()
    }

    fn definition(&self) -> Option<(usize, OperatorDefinition)> {
        let details = [("skip".to_string(), self.skip.into()), ("fetch".to_string(), self.fetch.into())];
        Some((self.operator.id, OperatorDefinition { name: "limit".into(), details: details.into() }))
    }

    fn run(self: Arc<Self>, partition: usize, rows: SendableRecordBatchStream, epoch: Arc<Epoch>) -> Batches {
        let given = async move {
            let batches = self.limit(partition, rows, &epoch).await;
            batches.map(|batches| stream::iter(batches.into_iter().map(Ok)))
        };
        stream::once(given).try_flatten().boxed()
    }
}

impl StatefulLimit {
    /// How many rows have to be counted.
    fn end(&self) -> u64 {
        self.fetch.map_or(self.skip, |fetch| self.skip.saturating_add(fetch))
    }

    async fn limit(
        &self,
        partition: usize,
        mut rows: SendableRecordBatchStream,
        epoch: &Epoch,
    ) -> DataFusionResult<Vec<RecordBatch>> {
        let before = self.seen(partition, epoch)?;
        let mut seen = before;
        let mut given = Vec::new();
        while let Some(batch) = rows.next().await.transpose()? {
            let count = batch.num_rows() as u64;
            let from = self.skip.saturating_sub(seen).min(count);
            let to = self.fetch.map_or(count, |_| self.end().saturating_sub(seen).min(count));
            if from < to {
                // Both are at most the number of rows of the batch.
                given.push(batch.slice(from as usize, (to - from) as usize));
            }
            seen = seen.saturating_add(count);
        }
        let seen = seen.min(self.end());
        if seen != before {
            let keys: ByteRows = [b""].into_iter().collect();
            let values: ByteRows = [seen.to_le_bytes()].into_iter().collect();
            epoch.state.table(self.operator.id, partition).put(&keys, None, &values, None)?;
            epoch.operators[self.operator.id].add_updated(1);
        }
        Ok(given)
    }

    /// How many rows came in earlier batches.
    fn seen(&self, partition: usize, epoch: &Epoch) -> DataFusionResult<u64> {
        let keys: ByteRows = [b""].into_iter().collect();
        let mut found = Found::default();
        epoch.state.table(self.operator.id, partition).get(&keys, None, &mut found)?;
        if found.values.is_empty() {
            return Ok(0);
        }
        let bytes = found.values.row(0).try_into().map_err(|_| {
            DataFusionError::from(Error::Invalid("the state of a limit is not a number of 8 bytes".into()))
        })?;
        Ok(u64::from_le_bytes(bytes))
    }
}
