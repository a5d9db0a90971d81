//! First sightings.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanBuilder};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::PhysicalExpr;

use super::batch::Batch;
use super::keyed_rows::{Gathered, KeyedRows};
use super::operator::{OperatorCounters, columns, computed_by, window_times};
use super::row_buffer::RowBuffer;
use super::stateful::{Counters, Expires, StatefulWork, Tables};
use crate::checkpoint::records::OperatorDefinition;
use crate::state::{ByteRows, Found, NEVER, RowBytes, StateTable};

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
    /// The columns of the key.
    pub(crate) key_schema: SchemaRef,
    pub(crate) repeated: Repeated,
    /// When a key can be forgotten: Int64 over the input, in microseconds since the epoch; null for
    /// never. Of several rows with a key that of the first counts.
    pub(crate) expiry: Option<Arc<dyn PhysicalExpr>>,
    /// Whether a key is remembered for as long as the watermark is behind, whatever it is.
    pub(crate) within_watermark: bool,
    /// Whether keys without a time are forgotten when the groups without one are given
    /// ([`Watermarks::nulls_final`](super::event_time::Watermarks::nulls_final)): they belong to those.
    pub(crate) forgets_nulls: bool,
    pub(crate) schema: SchemaRef,
}

impl StatefulWork for StatefulDeduplicate {
    fn name(&self) -> &'static str {
        match self.repeated {
            Repeated::Drop => "StatefulDeduplicateExec",
            Repeated::Mark(_) => "MarkDistinctExec",
        }
    }

    fn describe(&self) -> String {
        self.expiry.as_ref().map_or_else(String::new, |expiry| format!(", final={expiry}"))
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        let filter = match &self.repeated {
            Repeated::Mark(filter) => filter.as_ref(),
            Repeated::Drop => None,
        };
        self.expiry.iter().chain(filter).collect()
    }

    fn definitions(&self) -> Vec<OperatorDefinition> {
        // That keys are forgotten with the groups without a time follows from the output mode, and the rows that a
        // mark is for are in the name of the aggregate above. Rows whose key is forgotten by its time are late.
        let Self { key_schema, repeated, expiry: _, within_watermark, forgets_nulls: _, schema: _ } = self;
        let name = match repeated {
            Repeated::Drop => "deduplicate",
            Repeated::Mark(_) => "distinct",
        };
        let keys = || key_schema.fields().iter().map(AsRef::as_ref);
        let details = [
            ("keys".to_string(), columns(keys())),
            ("definitions".to_string(), computed_by(keys())),
            ("windowTimes".to_string(), window_times(keys())),
            ("withinWatermark".to_string(), (*within_watermark).into()),
        ];
        vec![OperatorDefinition { name: name.into(), details: details.into() }]
    }

    fn expires(&self) -> Vec<Expires> {
        vec![Expires::Unseen]
    }

    fn run(
        &self,
        rows: Gathered,
        tables: Tables<'_>,
        batch: &Batch,
        results: &mut RowBuffer,
    ) -> DataFusionResult<Counters> {
        let table = tables.first;
        let finals = batch.watermarks.finals();
        let nulls_final = batch.watermarks.nulls_final && self.forgets_nulls;
        let mut work = Work { deduplicate: self, table, finals, nulls_final, passing: ByteRows::default() };
        let mut counters = OperatorCounters::default();
        for rows in rows.some_at_a_time() {
            results.push(work.rows(rows?, &mut counters)?)?;
        }
        // Keys are forgotten when the batch is through: its own rows are judged by what was there.
        counters.removed = work.forget()? as u64;
        Ok(counters.into())
    }
}

/// The work on one partition in one batch.
struct Work<'a> {
    deduplicate: &'a StatefulDeduplicate,
    table: &'a mut dyn StateTable,
    /// What is final in this batch.
    finals: Option<i64>,
    /// Whether keys without a time are, too.
    nulls_final: bool,
    /// The keys that were final already when they came; they are for this batch only.
    passing: ByteRows,
}

impl Work<'_> {
    fn rows(&mut self, keyed: KeyedRows, counters: &mut OperatorCounters) -> DataFusionResult<RecordBatch> {
        let rows = keyed.rows.num_rows();
        let wanted = match &self.deduplicate.repeated {
            Repeated::Mark(Some(filter)) => Some(filter.evaluate(&keyed.rows)?.into_array(rows)?),
            _ => None,
        };
        let fresh = self.fresh(&keyed, wanted.as_ref())?;
        counters.updated += fresh.len() as u64;
        let mut first = BooleanBuilder::with_capacity(rows);
        let mut next = fresh.iter().copied().peekable();
        (0..rows).for_each(|row| first.append_value(next.next_if_eq(&row).is_some()));
        let first = first.finish();
        match self.deduplicate.repeated {
            Repeated::Drop => {
                counters.duplicates += (rows - fresh.len()) as u64;
                match fresh.len() == rows {
                    true => Ok(keyed.rows),
                    false => Ok(filter_record_batch(&keyed.rows, &first)?),
                }
            }
            Repeated::Mark(_) => {
                let mut columns = keyed.rows.columns().to_vec();
                columns.push(Arc::new(first));
                Ok(RecordBatch::try_new(Arc::clone(&self.deduplicate.schema), columns)?)
            }
        }
    }

    /// The rows that are the first with their key; the keys are remembered then.
    fn fresh(&mut self, keyed: &KeyedRows, wanted: Option<&ArrayRef>) -> DataFusionResult<Vec<usize>> {
        let wanted = wanted.map(|wanted| wanted.as_boolean());
        let is_wanted = |row: &usize| wanted.is_none_or(|wanted| wanted.is_valid(*row) && wanted.value(*row));
        let candidates = first_of_each(keyed, (0..keyed.rows.num_rows()).filter(is_wanted));
        let of_candidates = Keys::of(keyed, &candidates);
        let mut found = Found::default();
        self.table.find(&of_candidates.keys, &of_candidates.hashes, &mut found)?;
        let mut known = found.positions.iter().copied().peekable();
        let new: Vec<usize> =
            (0..candidates.len()).filter(|position| known.next_if_eq(position).is_none()).collect();
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let fresh: Vec<usize> = new.iter().map(|position| candidates[*position]).collect();
        found.reorder(&new);
        let of_fresh = if new.len() == candidates.len() { of_candidates } else { Keys::of(keyed, &fresh) };
        self.remember(keyed, &fresh, &of_fresh, &found)?;
        Ok(fresh)
    }

    /// Remembers the `keys` of `rows`, which were `found` not to be there. Those that are final by the watermark of
    /// this batch already are for this batch only: a table takes no row that has expired.
    fn remember(
        &mut self,
        keyed: &KeyedRows,
        rows: &[usize],
        Keys { keys, hashes }: &Keys,
        found: &Found,
    ) -> DataFusionResult<()> {
        let expiries: Option<Vec<i64>> = match &self.deduplicate.expiry {
            None => None,
            Some(expiry) => {
                let times = expiry.evaluate(&keyed.rows)?.into_array(keyed.rows.num_rows())?;
                let times = times.as_primitive::<Int64Type>();
                let mut time = |row: &usize| match times.is_valid(*row).then(|| times.value(*row)) {
                    Some(time) if Some(time) <= self.finals => {
                        self.passing.push(keyed.keys.row(*row));
                        NEVER
                    }
                    time => time.unwrap_or(NEVER),
                };
                Some(rows.iter().map(&mut time).collect())
            }
        };
        let values = ByteRows::of_width(Vec::new(), 0, rows.len());
        self.table.replace(keys, hashes, found, &values, expiries.as_deref())?;
        Ok(())
    }

    /// Forgets the keys that are final in this batch; how many there were.
    fn forget(self) -> DataFusionResult<usize> {
        if self.deduplicate.expiry.is_none() {
            return Ok(0);
        }
        let mut removed = self.passing.len();
        if !self.passing.is_empty() {
            self.table.remove(&self.passing, None)?;
        }
        if let Some(upto) = self.finals {
            self.table.expire(upto, &mut |_, _, _, _| {
                removed += 1;
                Ok(())
            })?;
        }
        if self.nulls_final {
            let mut keys = ByteRows::default();
            self.table.scan(&mut |key, _, _, expiry| {
                if expiry.is_none_or(|expiry| expiry == NEVER) {
                    keys.push(key);
                }
                Ok(())
            })?;
            self.table.remove(&keys, None)?;
            removed += keys.len();
        }
        Ok(removed)
    }
}

/// The keys of some rows, with their hashes.
struct Keys {
    keys: ByteRows,
    hashes: Vec<u64>,
}

impl Keys {
    fn of(keyed: &KeyedRows, rows: &[usize]) -> Self {
        Self {
            keys: rows.iter().map(|row| keyed.keys.row(*row)).collect(),
            hashes: rows.iter().map(|row| keyed.hashes[*row]).collect(),
        }
    }
}

/// The first of the `rows` with each key, ascending.
fn first_of_each(keyed: &KeyedRows, rows: impl Iterator<Item = usize>) -> Vec<usize> {
    let KeyedRows { keys, hashes, .. } = keyed;
    let mut seen: hashbrown::HashTable<usize> = hashbrown::HashTable::with_capacity(keys.len());
    let mut first = Vec::with_capacity(keys.len());
    for row in rows {
        let key = keys.row(row);
        let entry = seen.entry(hashes[row], |other| keys.row(*other) == key, |other| hashes[*other]);
        if let hashbrown::hash_table::Entry::Vacant(vacant) = entry {
            vacant.insert(row);
            first.push(row);
        }
    }
    first
}
