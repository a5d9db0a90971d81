//! A limit over the life of a query.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::physical_plan::PhysicalExpr;

use super::batch::Batch;
use super::keyed_rows::{Gathered, KeyedRows};
use super::operator::OperatorCounters;
use super::row_buffer::RowBuffer;
use super::stateful::{Counters, StatefulWork, Tables};
use crate::checkpoint::records::OperatorDefinition;
use crate::error::Error;
use crate::state::{ByteRows, Found, RowBytes, StateTable};

/// Leaves out the first `skip` rows of all batches together, gives the next `fetch`, and leaves out
/// the rest.
///
/// **State**: one row, whose value is the number of rows that came, as long as it mattered; 8 bytes,
/// little-endian.
#[derive(Debug)]
pub(crate) struct StatefulLimit {
    pub(crate) skip: u64,
    /// `None` for an offset without a limit.
    pub(crate) fetch: Option<u64>,
    pub(crate) schema: SchemaRef,
}

impl StatefulWork for StatefulLimit {
    fn name(&self) -> &'static str {
        "StatefulLimitExec"
    }

    fn describe(&self) -> String {
        let fetch = self.fetch.map_or_else(|| "None".into(), |fetch| fetch.to_string());
        format!(", skip={}, fetch={fetch}", self.skip)
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        Vec::new()
    }

    fn definitions(&self) -> Vec<OperatorDefinition> {
        let Self { skip, fetch, schema: _ } = self;
        let details = [("skip".to_string(), (*skip).into()), ("fetch".to_string(), (*fetch).into())];
        vec![OperatorDefinition { name: "limit".into(), details: details.into() }]
    }

    fn run(
        &self,
        rows: Gathered,
        tables: Tables<'_>,
        _: &Batch,
        results: &mut RowBuffer,
    ) -> DataFusionResult<Counters> {
        let table = tables.first;
        let before = seen(table)?;
        let mut seen = before;
        let mut counters = OperatorCounters::default();
        for rows in rows.some_at_a_time() {
            let KeyedRows { rows, .. } = rows?;
            let count = rows.num_rows() as u64;
            let from = self.skip.saturating_sub(seen).min(count);
            let to = self.fetch.map_or(count, |_| self.end().saturating_sub(seen).min(count));
            if from < to {
                // Both are at most the number of rows of the batch.
                results.push(rows.slice(from as usize, (to - from) as usize))?;
            }
            seen = seen.saturating_add(count);
        }
        let seen = seen.min(self.end());
        if seen != before {
            let keys: ByteRows = [b""].into_iter().collect();
            let values: ByteRows = [seen.to_le_bytes()].into_iter().collect();
            table.put(&keys, None, &values, None)?;
            counters.updated = 1;
        }
        Ok(counters.into())
    }
}

impl StatefulLimit {
    /// How many rows have to be counted.
    fn end(&self) -> u64 {
        self.fetch.map_or(self.skip, |fetch| self.skip.saturating_add(fetch))
    }
}

/// How many rows came in earlier batches.
fn seen(table: &mut dyn StateTable) -> DataFusionResult<u64> {
    let keys: ByteRows = [b""].into_iter().collect();
    let mut found = Found::default();
    table.get(&keys, None, &mut found)?;
    if found.values.is_empty() {
        return Ok(0);
    }
    let bytes = found.values.row(0).try_into().map_err(|_| {
        DataFusionError::from(Error::Invalid("the state of a limit is not a number of 8 bytes".into()))
    })?;
    Ok(u64::from_le_bytes(bytes))
}
