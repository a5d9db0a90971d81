//! What an aggregation does in one state partition.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::PhysicalExpr;

use super::partial::{Partials, StateLayout};
use crate::checkpoint::records::OperatorDefinition;
use crate::error::Result;
use crate::exec::batch::Batch;
use crate::exec::groups::{Groups, Reordered};
use crate::exec::keyed_rows::{Gathered, KeyedRows};
use crate::exec::operator::{OperatorCounters, columns, computed_by, event_time, window_times};
use crate::exec::row_buffer::RowBuffer;
use crate::exec::stateful::{Counters, StatefulWork, Tables};
use crate::sink::OutputMode;
use crate::state::{ByteRows, Found, NEVER, RowBytes, StateTable};

/// How many rows a batch of results has.
const OUTPUT_ROWS: usize = 8192;

/// Merges the partial results of a batch, exchanged by the group's key, into the state, and gives
/// results as the output mode has it:
///
/// - append: groups that have become final, and forgets them;
/// - update: groups that the batch touched; forgets those that are final without a word;
/// - complete: all groups, and forgets none.
#[derive(Debug)]
pub(crate) struct StatefulAggregate {
    pub(crate) partials: Partials,
    /// The columns of the results.
    pub(crate) schema: SchemaRef,
    pub(crate) mode: OutputMode,
    /// When a group is final: Int64 over the key's columns, in microseconds since the epoch; null for
    /// a group that never is. `None` if none is.
    pub(crate) expiry: Option<Arc<dyn PhysicalExpr>>,
}

impl StatefulWork for StatefulAggregate {
    fn name(&self) -> &'static str {
        "StatefulAggregateExec"
    }

    fn describe(&self) -> String {
        let expiry = self.expiry.as_ref().map_or_else(String::new, |expiry| format!(", final={expiry}"));
        format!(", mode={}{expiry}", self.mode)
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.expiry.iter().collect()
    }

    fn definitions(&self) -> Vec<OperatorDefinition> {
        // The output mode is the query's.
        let Self { partials, schema: _, mode, expiry } = self;
        let keys = || partials.key_schema.fields().iter().map(AsRef::as_ref);
        // Only in this mode groups wait for it: in others they are as they are when nothing is forgotten.
        let expiry = expiry.as_ref().filter(|_| *mode == OutputMode::Append);
        let details = [
            ("keys".to_string(), columns(keys())),
            ("aggregates".to_string(), partials.definition().unwrap_or_default()),
            ("groupingSets".to_string(), partials.grouping_sets()),
            ("definitions".to_string(), computed_by(keys())),
            ("windowTimes".to_string(), window_times(keys())),
            ("eventTime".to_string(), event_time(expiry)),
        ];
        vec![OperatorDefinition { name: "aggregate".into(), details: details.into() }]
    }

    fn run(
        &self,
        rows: Gathered,
        tables: Tables<'_>,
        batch: &Batch,
        results: &mut RowBuffer,
    ) -> DataFusionResult<Counters> {
        let table = tables.first;
        let mut counters = OperatorCounters::default();
        for part in rows.in_parts() {
            let touched = self.touched(part?);
            counters.updated += touched.groups.len() as u64;
            match self.partials.layout {
                StateLayout::Whole => self.merge(touched, table, results)?,
                StateLayout::Parts => self.append(touched, batch.identity.batch_id, table, results)?,
            }
        }
        match self.mode {
            OutputMode::Append | OutputMode::Update => {
                if let (Some(upto), true) = (batch.watermarks.finals(), self.expiry.is_some()) {
                    counters.removed = self.expire(table, upto, results)? as u64;
                }
                if self.mode == OutputMode::Append && batch.watermarks.nulls_final {
                    counters.removed += self.expire_nulls(table, results)? as u64;
                }
            }
            OutputMode::Complete => self.scan(table, results)?,
        }
        Ok(counters.into())
    }
}

impl StatefulAggregate {
    /// The groups of the new partial results.
    fn touched(&self, parts: Vec<KeyedRows>) -> Touched {
        let mut groups = Groups::of_rows(parts.iter().map(|part| part.hashes.len()).sum());
        let width = self.partials.key_schema.fields().len();
        let parts = parts.into_iter().map(|KeyedRows { rows, keys, hashes, .. }| {
            let numbers = groups.add(&*keys, &hashes);
            (rows.columns()[width..].to_vec(), numbers)
        });
        Touched { parts: parts.collect(), groups }
    }

    /// Replaces the states of groups by those with the new partial results. What was there comes first, for
    /// functions that care about order.
    fn merge(
        &self,
        touched: Touched,
        table: &mut dyn StateTable,
        results: &mut RowBuffer,
    ) -> DataFusionResult<()> {
        let Touched { groups, mut parts } = touched;
        let mut found = Found::default();
        table.find(&groups.keys, &groups.hashes, &mut found)?;
        let order = known_first(&found.positions, groups.len());
        let mut numbers = vec![0; order.len()];
        order.iter().enumerate().for_each(|(number, group)| numbers[*group] = number);

        let mut merged = self.partials.accumulators()?;
        let known = found.positions.len();
        if known > 0 {
            let first: Vec<usize> = (0..known).collect();
            merged.merge(&self.partials.states.decode_all(&found.values)?, &first, known)?;
        }
        let mut total = known;
        for (states, groups) in &mut parts {
            groups.iter_mut().for_each(|group| *group = numbers[*group]);
            total = with_those_of(groups, total);
            merged.merge(states, groups, total)?;
        }
        let states = merged.states()?;

        let keys = Reordered { rows: &groups.keys, order: &order };
        let hashes: Vec<u64> = order.iter().map(|group| groups.hashes[*group]).collect();
        found.reorder(&order);
        let values = self.partials.states.encode(&states, order.len())?;
        let key_columns = self.key_columns(&keys)?;
        let expiries = self.expiries(&key_columns, order.len())?;
        table.replace(&keys, &hashes, &found, &values, expiries.as_deref())?;
        if self.mode == OutputMode::Update {
            let mut columns = key_columns;
            columns.extend(self.partials.results(&states, order.len())?);
            self.give(columns, order.len(), results)?;
        }
        Ok(())
    }

    /// Adds the new partial results of groups as rows of their own.
    fn append(
        &self,
        touched: Touched,
        batch_id: u64,
        table: &mut dyn StateTable,
        results: &mut RowBuffer,
    ) -> DataFusionResult<()> {
        let Touched { groups, parts } = touched;
        let mut merged = self.partials.accumulators()?;
        let mut total = 0;
        for (states, numbers) in &parts {
            total = with_those_of(numbers, total);
            merged.merge(states, numbers, total)?;
        }
        let (part, keys) = (batch_id.to_be_bytes(), &groups.keys);
        let subkeys: ByteRows = std::iter::repeat_n(part, groups.len()).collect();
        let values = self.partials.states.encode(&merged.states()?, groups.len())?;
        let key_columns = self.key_columns(keys)?;
        let expiries = self.expiries(&key_columns, groups.len())?;
        table.put(keys, Some(&subkeys), &values, expiries.as_deref())?;
        if self.mode == OutputMode::Update {
            let (mut parts, mut numbers) = (ByteRows::default(), Vec::new());
            table.get_all(keys, &mut |group, _, value, _| {
                parts.push(value);
                numbers.push(group);
                Ok(())
            })?;
            let mut merged = self.partials.accumulators()?;
            merged.merge(&self.partials.states.decode_all(&parts)?, &numbers, groups.len())?;
            let mut columns = key_columns;
            columns.extend(merged.results()?);
            self.give(columns, groups.len(), results)?;
        }
        Ok(())
    }

    /// The columns of keys, if anything is made of them.
    fn key_columns(&self, keys: &dyn RowBytes) -> DataFusionResult<Vec<ArrayRef>> {
        match self.expiry.is_some() || self.mode == OutputMode::Update {
            true => self.partials.keys.decode_all(keys),
            false => Ok(Vec::new()),
        }
    }

    /// Forgets the groups that are final at `upto`; in append mode, gives them. How many rows there
    /// were of them.
    fn expire(
        &self,
        table: &mut dyn StateTable,
        upto: i64,
        results: &mut RowBuffer,
    ) -> DataFusionResult<usize> {
        let mut removed = 0;
        if self.mode == OutputMode::Update {
            table.expire(upto, &mut |_, _, _, _| {
                removed += 1;
                Ok(())
            })?;
            return Ok(removed);
        }
        let mut finished = FinalRows::default();
        table.expire(upto, &mut |key, subkey, value, _| {
            removed += 1;
            finished.add(self, key, subkey, value, results)
        })?;
        finished.finish(self, results)?;
        Ok(removed)
    }

    /// Gives the groups that have no time to be final at, and forgets them. How many rows there were of
    /// them.
    fn expire_nulls(&self, table: &mut dyn StateTable, results: &mut RowBuffer) -> DataFusionResult<usize> {
        let (mut keys, mut subkeys) = (ByteRows::default(), ByteRows::default());
        let mut finished = FinalRows::default();
        table.scan(&mut |key, subkey, value, expiry| {
            if expiry.is_none_or(|expiry| expiry == NEVER) {
                keys.push(key);
                subkeys.push(subkey);
                finished.add(self, key, subkey, value, results)?;
            }
            Ok(())
        })?;
        finished.finish(self, results)?;
        table.remove(&keys, Some(&subkeys))?;
        Ok(keys.len())
    }

    /// Gives all groups.
    fn scan(&self, table: &mut dyn StateTable, results: &mut RowBuffer) -> DataFusionResult<()> {
        let mut all = FinalRows::default();
        table.scan(&mut |key, subkey, value, _| all.add(self, key, subkey, value, results))?;
        all.finish(self, results)
    }

    /// When each of the groups with these keys is final; `None` if none ever is.
    fn expiries(&self, keys: &[ArrayRef], groups: usize) -> DataFusionResult<Option<Vec<i64>>> {
        let Some(expiry) = &self.expiry else { return Ok(None) };
        let keys = RecordBatch::try_new(Arc::clone(&self.partials.key_schema), keys.to_vec())?;
        let times = expiry.evaluate(&keys)?.into_array(groups)?;
        let times = times.as_primitive::<Int64Type>();
        Ok(Some(times.iter().map(|time| time.unwrap_or(NEVER)).collect()))
    }

    /// Gives results in batches of moderate size.
    fn give(&self, columns: Vec<ArrayRef>, rows: usize, results: &mut RowBuffer) -> DataFusionResult<()> {
        let all = self.output(columns, rows)?;
        let starts = (0..rows).step_by(OUTPUT_ROWS);
        starts
            .map(|start| all.slice(start, OUTPUT_ROWS.min(rows - start)))
            .try_for_each(|rows| results.push(rows))
    }

    fn output(&self, columns: Vec<ArrayRef>, rows: usize) -> DataFusionResult<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

/// Rows of state that make up results.
#[derive(Default)]
struct FinalRows {
    keys: ByteRows,
    subkeys: ByteRows,
    values: ByteRows,
}

impl FinalRows {
    fn add(
        &mut self,
        work: &StatefulAggregate,
        key: &[u8],
        subkey: &[u8],
        value: &[u8],
        results: &mut RowBuffer,
    ) -> Result<()> {
        self.keys.push(key);
        self.values.push(value);
        match work.partials.layout {
            // Each row is a group.
            StateLayout::Whole if self.keys.len() == OUTPUT_ROWS => self.finish(work, results)?,
            StateLayout::Whole => {}
            // The rows of a group may be anywhere.
            StateLayout::Parts => self.subkeys.push(subkey),
        }
        Ok(())
    }

    /// Gives the results of the rows that were added, and forgets them.
    fn finish(&mut self, work: &StatefulAggregate, results: &mut RowBuffer) -> DataFusionResult<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let columns = match work.partials.layout {
            StateLayout::Whole => {
                let rows = self.keys.len();
                let states = work.partials.states.decode_all(&self.values)?;
                let mut columns = work.partials.keys.decode_all(&self.keys)?;
                columns.extend(work.partials.results(&states, rows)?);
                (columns, rows)
            }
            StateLayout::Parts => self.gather(work)?,
        };
        results.push(work.output(columns.0, columns.1)?)?;
        self.keys.clear();
        self.subkeys.clear();
        self.values.clear();
        Ok(())
    }

    /// The results of groups whose rows are spread, in the order in which they were written.
    fn gather(&self, work: &StatefulAggregate) -> DataFusionResult<(Vec<ArrayRef>, usize)> {
        let mut order: Vec<usize> = (0..self.keys.len()).collect();
        order.sort_by_key(|row| (self.keys.row(*row), self.subkeys.row(*row)));
        let mut keys: Vec<&[u8]> = Vec::new();
        let mut merged = work.partials.accumulators()?;
        for rows in order.chunks(OUTPUT_ROWS) {
            let mut groups = Vec::with_capacity(rows.len());
            for row in rows {
                let key = self.keys.row(*row);
                if keys.last() != Some(&key) {
                    keys.push(key);
                }
                groups.push(keys.len() - 1);
            }
            let states = work.partials.states.decode(rows.iter().map(|row| self.values.row(*row)))?;
            merged.merge(&states, &groups, keys.len())?;
        }
        let groups = keys.len();
        let mut columns = work.partials.keys.decode(keys)?;
        columns.extend(merged.results()?);
        Ok((columns, groups))
    }
}

/// The new partial results of a batch.
struct Touched {
    groups: Groups,
    /// Columns of states, and the group of each row.
    parts: Vec<(Vec<ArrayRef>, Vec<usize>)>,
}

/// How many groups there are with those of another part: new ones have the next numbers.
fn with_those_of(part: &[usize], total: usize) -> usize {
    part.iter().max().map_or(total, |last| total.max(last + 1))
}

/// All `groups`, beginning with those that are `known`, which are ascending: accumulators take a group whose
/// number is below the total for one that has had a value, and the total is raised for the others.
fn known_first(known: &[usize], groups: usize) -> Vec<usize> {
    let mut order = Vec::with_capacity(groups);
    order.extend_from_slice(known);
    let mut rest = known.iter().copied().peekable();
    order.extend((0..groups).filter(|group| rest.next_if_eq(group).is_none()));
    order
}
