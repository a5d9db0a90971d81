//! First sightings.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBuilder};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::PhysicalExpr;
use futures::{StreamExt, TryStreamExt, stream};

use super::codec::RowCodec;
use super::epoch::Epoch;
use super::operator::{OperatorId, columns};
use super::unary::{Batches, PartitionWork};
use crate::checkpoint::records::OperatorDefinition;
use crate::state::{ByteRows, Found, NEVER, RowBytes, StateTable, hash_key};

/// What becomes of rows whose key was seen before.
#[derive(Debug)]
pub(crate) enum Repeated {
    /// They are left out and counted.
    Drop,
    /// All rows are given, with a column more that says whether the row is the first with its key.
    /// Rows for which the expression, if there is one, is not true are never the first, and are not
    /// remembered.
    Mark(Option<Arc<dyn PhysicalExpr>>),
}

/// Tells the first row with a key, of all batches, from the others.
///
/// **State**: key: the key columns; value: empty; expiry: when no row with that key can come any
/// more, if that is ever known.
#[derive(Debug)]
pub(crate) struct StatefulDeduplicate {
    pub(crate) operator: OperatorId,
    pub(crate) keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The columns of the key.
    pub(crate) key_schema: SchemaRef,
    pub(crate) codec: RowCodec,
    pub(crate) repeated: Repeated,
    /// When a key can be forgotten: Int64 over the input, in microseconds since the epoch; null for
    /// never. Of several rows with a key that of the first counts.
    pub(crate) expiry: Option<Arc<dyn PhysicalExpr>>,
    pub(crate) schema: SchemaRef,
}

impl PartitionWork for StatefulDeduplicate {
    fn name(&self) -> &'static str {
        match self.repeated {
            Repeated::Drop => "StatefulDeduplicateExec",
            Repeated::Mark(_) => "MarkDistinctExec",
        }
    }

    fn describe(&self) -> String {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        let expiry = self.expiry.as_ref().map_or_else(String::new, |expiry| format!(", final={expiry}"));
        format!("{}, keys=[{}]{expiry}", self.operator, keys.join(", "))
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        let filter = match &self.repeated {
            Repeated::Mark(filter) => filter.as_ref(),
            Repeated::Drop => None,
        };
        self.keys.iter().chain(&self.expiry).chain(filter).collect()
    }

    fn definition(&self) -> Option<(usize, OperatorDefinition)> {
        let name = match self.repeated {
            Repeated::Drop => "deduplicate",
            Repeated::Mark(_) => "distinct",
        };
        let keys = columns(self.key_schema.fields().iter().map(AsRef::as_ref));
        let details = [("keys".to_string(), keys)].into();
        Some((self.operator.id, OperatorDefinition { name: name.into(), details }))
    }

    fn run(self: Arc<Self>, partition: usize, rows: SendableRecordBatchStream, epoch: Arc<Epoch>) -> Batches {
        let work = Arc::clone(&self);
        let after = Arc::clone(&epoch);
        let passing = Arc::new(Mutex::new(ByteRows::default()));
        let passed = Arc::clone(&passing);
        let rows = rows.and_then(move |batch| {
            let mut table = epoch.state.table(self.operator.id, partition);
            let mut passing = passing.lock().unwrap_or_else(PoisonError::into_inner);
            std::future::ready(self.batch(batch, &mut *table, &epoch, &mut passing))
        });
        // Keys are forgotten when the batch is through: its own rows are judged by what was there.
        let forget = stream::once(async move {
            let passed = std::mem::take(&mut *passed.lock().unwrap_or_else(PoisonError::into_inner));
            work.forget(partition, &after, &passed)
        });
        rows.chain(forget.try_filter_map(|()| std::future::ready(Ok(None)))).boxed()
    }
}

impl StatefulDeduplicate {
    fn batch(
        &self,
        batch: RecordBatch,
        table: &mut dyn StateTable,
        epoch: &Epoch,
        passing: &mut ByteRows,
    ) -> DataFusionResult<RecordBatch> {
        let rows = batch.num_rows();
        let wanted = match &self.repeated {
            Repeated::Mark(Some(filter)) => Some(filter.evaluate(&batch)?.into_array(rows)?),
            _ => None,
        };
        let first = self.first(&batch, wanted.as_ref(), table, epoch, passing)?;
        match self.repeated {
            Repeated::Drop => {
                let kept = first.true_count();
                epoch.operators[self.operator.id].add_duplicates(rows - kept);
                match kept == rows {
                    true => Ok(batch),
                    false => Ok(filter_record_batch(&batch, &first)?),
                }
            }
            Repeated::Mark(_) => {
                let mut columns = batch.columns().to_vec();
                columns.push(Arc::new(first));
                Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
            }
        }
    }

    /// For each row, whether it is the first with its key; its key is remembered then.
    fn first(
        &self,
        batch: &RecordBatch,
        wanted: Option<&ArrayRef>,
        table: &mut dyn StateTable,
        epoch: &Epoch,
        passing: &mut ByteRows,
    ) -> DataFusionResult<BooleanArray> {
        let rows = batch.num_rows();
        let keys = self.keys(batch)?;
        let wanted = wanted.map(|wanted| wanted.as_boolean());
        let is_wanted = |row: usize| wanted.is_none_or(|wanted| wanted.is_valid(row) && wanted.value(row));
        let candidates = first_of_each(&keys, (0..rows).filter(|row| is_wanted(*row)));
        let names: ByteRows = candidates.iter().map(|row| keys.row(*row)).collect();
        let mut found = Found::default();
        table.get(&names, None, &mut found)?;

        let mut known = found.positions.iter().copied().peekable();
        let fresh: Vec<usize> = candidates
            .iter()
            .enumerate()
            .filter(|(position, _)| known.next_if_eq(position).is_none())
            .map(|(_, row)| *row)
            .collect();
        self.remember(batch, &keys, &fresh, table, (epoch.watermarks.finals(), passing))?;
        epoch.operators[self.operator.id].add_updated(fresh.len());

        let mut first = BooleanBuilder::with_capacity(rows);
        let mut fresh = fresh.into_iter().peekable();
        (0..rows).for_each(|row| first.append_value(fresh.next_if_eq(&row).is_some()));
        Ok(first.finish())
    }

    fn keys(&self, batch: &RecordBatch) -> DataFusionResult<ByteRows> {
        let columns = self
            .keys
            .iter()
            .map(|key| key.evaluate(batch)?.into_array(batch.num_rows()))
            .collect::<DataFusionResult<Vec<_>>>()?;
        self.codec.encode(&columns, batch.num_rows())
    }

    /// Remembers the keys of `rows`. Those that are final by the watermark of this batch already, given
    /// with the keys so far of which that holds, are for this batch only: a table takes no row that
    /// has expired.
    fn remember(
        &self,
        batch: &RecordBatch,
        keys: &dyn RowBytes,
        rows: &[usize],
        table: &mut dyn StateTable,
        (finals, passing): (Option<i64>, &mut ByteRows),
    ) -> DataFusionResult<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let expiries: Option<Vec<i64>> = match &self.expiry {
            None => None,
            Some(expiry) => {
                let times = expiry.evaluate(batch)?.into_array(batch.num_rows())?;
                let times = times.as_primitive::<Int64Type>();
                let mut time = |row: &usize| match times.is_valid(*row).then(|| times.value(*row)) {
                    Some(time) if Some(time) <= finals => {
                        passing.push(keys.row(*row));
                        NEVER
                    }
                    time => time.unwrap_or(NEVER),
                };
                Some(rows.iter().map(&mut time).collect())
            }
        };
        let names: ByteRows = rows.iter().map(|row| keys.row(*row)).collect();
        let values: ByteRows = std::iter::repeat_n(b"", rows.len()).collect();
        table.put(&names, None, &values, expiries.as_deref())?;
        Ok(())
    }

    fn forget(&self, partition: usize, epoch: &Epoch, passed: &ByteRows) -> DataFusionResult<()> {
        let (Some(upto), true) = (epoch.watermarks.finals(), self.expiry.is_some()) else {
            return Ok(());
        };
        let mut removed = passed.len();
        let mut table = epoch.state.table(self.operator.id, partition);
        if !passed.is_empty() {
            table.remove(passed, None)?;
        }
        table.expire(upto, &mut |_, _, _, _| {
            removed += 1;
            Ok(())
        })?;
        drop(table);
        epoch.operators[self.operator.id].add_removed(removed);
        Ok(())
    }
}

/// The first of the `rows` with each key, ascending.
fn first_of_each(keys: &dyn RowBytes, rows: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut seen: hashbrown::HashTable<usize> = hashbrown::HashTable::with_capacity(keys.len());
    let mut first = Vec::with_capacity(keys.len());
    for row in rows {
        let key = keys.row(row);
        let entry =
            seen.entry(hash_key(key), |other| keys.row(*other) == key, |other| hash_key(keys.row(*other)));
        if let hashbrown::hash_table::Entry::Vacant(vacant) = entry {
            vacant.insert(row);
            first.push(row);
        }
    }
    first
}
