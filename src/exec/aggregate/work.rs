//! What an aggregation does in one state partition.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, UInt64Array};
use datafusion::arrow::compute::take_arrays;
use datafusion::arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::PhysicalExpr;

use super::groups::{Grouped, Grouping};
use super::partial::{Partials, StateLayout};
use crate::checkpoint::records::OperatorDefinition;
use crate::error::Result;
use crate::exec::batch::Batch;
use crate::exec::exchange::KeyedRows;
use crate::exec::operator::columns;
use crate::exec::stateful::{StatefulWork, Worked};
use crate::sink::OutputMode;
use crate::state::{ByteRows, Found, NEVER, RowBytes, StateTable};

/// How many groups are looked up at a time: few enough to stay in the processor's cache.
const CHUNK: usize = 1024;

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

    fn definition(&self) -> OperatorDefinition {
        let details = [
            ("keys".to_string(), columns(self.partials.key_schema.fields().iter().map(AsRef::as_ref))),
            ("aggregates".to_string(), self.partials.definition().unwrap_or_default()),
        ];
        OperatorDefinition { name: "aggregate".into(), details: details.into() }
    }

    fn run(
        &self,
        rows: Vec<KeyedRows>,
        table: &mut dyn StateTable,
        batch: &Batch,
    ) -> DataFusionResult<Worked> {
        let mut grouping = Grouping::new(&self.partials)?;
        for KeyedRows { rows, .. } in rows {
            grouping.add(&rows)?;
        }
        let touched = grouping.finish()?;
        let mut worked = Worked::default();
        let results = &mut worked.rows;
        worked.counters.updated = touched.groups as u64;
        let mut at = 0;
        while at < touched.groups {
            let chunk = touched.slice(at, CHUNK.min(touched.groups - at));
            at += chunk.groups;
            match self.partials.layout {
                StateLayout::Whole => self.merge(&chunk, table, results)?,
                StateLayout::Parts => self.append(&chunk, batch.identity.batch_id, table, results)?,
            }
        }
        match self.mode {
            OutputMode::Append | OutputMode::Update => {
                if let (Some(upto), true) = (batch.watermarks.finals(), self.expiry.is_some()) {
                    worked.counters.removed = self.expire(table, upto, results)? as u64;
                }
                if self.mode == OutputMode::Append && batch.watermarks.nulls_final {
                    worked.counters.removed += self.expire_nulls(table, results)? as u64;
                }
            }
            OutputMode::Complete => self.scan(table, results)?,
        }
        Ok(worked)
    }
}

impl StatefulAggregate {
    /// Replaces the states of some groups by those with the new partial results. What was there
    /// comes first, for functions that care about order.
    fn merge(
        &self,
        touched: &Grouped,
        table: &mut dyn StateTable,
        results: &mut Vec<RecordBatch>,
    ) -> DataFusionResult<()> {
        let keys = self.partials.keys.encode(&touched.keys, touched.groups)?;
        let mut found = Found::default();
        table.get(&keys, None, &mut found)?;
        let states = if found.positions.is_empty() {
            touched.states.clone()
        } else {
            self.merge_found(touched, &found)?
        };
        let values = self.partials.states.encode(&states, touched.groups)?;
        let expiries = self.expiries(touched)?;
        table.put(&keys, None, &values, expiries.as_deref())?;
        if self.mode == OutputMode::Update {
            let all: Vec<usize> = (0..touched.groups).collect();
            let mut merged = self.partials.accumulators()?;
            merged.merge(&states, &all, touched.groups)?;
            let mut columns = touched.keys.clone();
            columns.extend(merged.results()?);
            results.push(self.output(columns, touched.groups)?);
        }
        Ok(())
    }

    /// The states of `touched`, put behind those that were found of some of them.
    fn merge_found(&self, touched: &Grouped, found: &Found) -> DataFusionResult<Vec<ArrayRef>> {
        // Accumulators take a group whose number is below the total for one that has had a value. So
        // the groups that are found have the first numbers, and the total is raised for the others.
        let known = found.positions.len();
        let mut numbers = vec![usize::MAX; touched.groups];
        for (number, position) in found.positions.iter().enumerate() {
            numbers[*position] = number;
        }
        let mut new = known..;
        for number in numbers.iter_mut().filter(|number| **number == usize::MAX) {
            *number = new.next().unwrap_or(touched.groups);
        }
        let first: Vec<usize> = (0..known).collect();
        let mut merged = self.partials.accumulators()?;
        merged.merge(&self.partials.states.decode_all(&found.values)?, &first, known)?;
        merged.merge(&touched.states, &numbers, touched.groups)?;
        let states = merged.states()?;
        if numbers.is_sorted() {
            return Ok(states);
        }
        let order = UInt64Array::from_iter_values(numbers.iter().map(|number| *number as u64));
        Ok(take_arrays(&states, &order, None)?)
    }

    /// Adds the new partial results of some groups as rows of their own.
    fn append(
        &self,
        touched: &Grouped,
        batch_id: u64,
        table: &mut dyn StateTable,
        results: &mut Vec<RecordBatch>,
    ) -> DataFusionResult<()> {
        let keys = self.partials.keys.encode(&touched.keys, touched.groups)?;
        let part = batch_id.to_be_bytes();
        let subkeys: ByteRows = std::iter::repeat_n(part, touched.groups).collect();
        let values = self.partials.states.encode(&touched.states, touched.groups)?;
        let expiries = self.expiries(touched)?;
        table.put(&keys, Some(&subkeys), &values, expiries.as_deref())?;
        if self.mode == OutputMode::Update {
            let (mut parts, mut groups) = (ByteRows::default(), Vec::new());
            table.get_all(&keys, &mut |group, _, value, _| {
                parts.push(value);
                groups.push(group);
                Ok(())
            })?;
            let mut merged = self.partials.accumulators()?;
            let states = self.partials.states.decode_all(&parts)?;
            merged.merge(&states, &groups, touched.groups)?;
            let mut columns = touched.keys.clone();
            columns.extend(merged.results()?);
            results.push(self.output(columns, touched.groups)?);
        }
        Ok(())
    }

    /// Forgets the groups that are final at `upto`; in append mode, gives them. How many rows there
    /// were of them.
    fn expire(
        &self,
        table: &mut dyn StateTable,
        upto: i64,
        results: &mut Vec<RecordBatch>,
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
    fn expire_nulls(
        &self,
        table: &mut dyn StateTable,
        results: &mut Vec<RecordBatch>,
    ) -> DataFusionResult<usize> {
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
    fn scan(&self, table: &mut dyn StateTable, results: &mut Vec<RecordBatch>) -> DataFusionResult<()> {
        let mut all = FinalRows::default();
        table.scan(&mut |key, subkey, value, _| all.add(self, key, subkey, value, results))?;
        all.finish(self, results)
    }

    /// When each of the groups is final; `None` if none ever is.
    fn expiries(&self, touched: &Grouped) -> DataFusionResult<Option<Vec<i64>>> {
        let Some(expiry) = &self.expiry else { return Ok(None) };
        let keys = RecordBatch::try_new(Arc::clone(&self.partials.key_schema), touched.keys.clone())?;
        let times = expiry.evaluate(&keys)?.into_array(touched.groups)?;
        let times = times.as_primitive::<Int64Type>();
        Ok(Some(times.iter().map(|time| time.unwrap_or(NEVER)).collect()))
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
        results: &mut Vec<RecordBatch>,
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
    fn finish(&mut self, work: &StatefulAggregate, results: &mut Vec<RecordBatch>) -> DataFusionResult<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let columns = match work.partials.layout {
            StateLayout::Whole => {
                let rows = self.keys.len();
                let all: Vec<usize> = (0..rows).collect();
                let mut merged = work.partials.accumulators()?;
                merged.merge(&work.partials.states.decode_all(&self.values)?, &all, rows)?;
                let mut columns = work.partials.keys.decode_all(&self.keys)?;
                columns.extend(merged.results()?);
                (columns, rows)
            }
            StateLayout::Parts => self.gather(work)?,
        };
        results.push(work.output(columns.0, columns.1)?);
        self.keys.clear();
        self.subkeys.clear();
        self.values.clear();
        Ok(())
    }

    /// The results of groups whose rows are spread, in the order in which they were written.
    fn gather(&self, work: &StatefulAggregate) -> DataFusionResult<(Vec<ArrayRef>, usize)> {
        let mut order: Vec<usize> = (0..self.keys.len()).collect();
        order.sort_by_key(|row| (self.keys.row(*row), self.subkeys.row(*row)));
        let mut grouping = Grouping::new(&work.partials)?;
        for rows in order.chunks(OUTPUT_ROWS) {
            let keys = work.partials.keys.decode(rows.iter().map(|row| self.keys.row(*row)))?;
            let states = work.partials.states.decode(rows.iter().map(|row| self.values.row(*row)))?;
            grouping.add_columns(&keys, &states, rows.len())?;
        }
        let groups = grouping.groups();
        Ok((grouping.results()?, groups))
    }
}

impl Grouped {
    fn slice(&self, offset: usize, length: usize) -> Self {
        let slice =
            |columns: &[ArrayRef]| columns.iter().map(|column| column.slice(offset, length)).collect();
        Self { groups: length, keys: slice(&self.keys), states: slice(&self.states) }
    }
}
