//! The first rows of each key.
//!
//! **State**: key: the key columns; subkey: the columns to sort by, in their order as bytes, then the batch and
//! the row's number in it; value: the row; expiry: when the key is final, if it ever is.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array, UInt64Array};
use datafusion::arrow::compute::{concat_batches, take};
use datafusion::arrow::datatypes::{Field, Int64Type, SchemaRef};
use datafusion::arrow::record_batch::RecordBatchOptions;
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::PhysicalExpr;

use super::batch::Batch;
use super::codec::RowCodec;
use super::groups::{ByGroup, Groups};
use super::keyed_rows::{Gathered, KeyedRows};
use super::operator::{OperatorCounters, columns, computed_by, event_time, window_times};
use super::row_buffer::RowBuffer;
use super::sort_column::{ARRIVAL, SortColumn, subkeys};
use super::stateful::{Counters, StatefulWork, Tables};
use crate::checkpoint::records::OperatorDefinition;
use crate::sink::OutputMode;
use crate::state::{ByteRows, NEVER, RowBytes, StateTable};

/// How rows are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ranking {
    /// One by one; of equal rows the one that came first is first.
    RowNumber,
    /// Equal rows have the rank of the first of them.
    Rank,
    /// The same, without gaps after them.
    DenseRank,
}

impl fmt::Display for Ranking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ranking::RowNumber => "row_number",
            Ranking::Rank => "rank",
            Ranking::DenseRank => "dense_rank",
        })
    }
}

/// Keeps the rows with the first ranks, and gives them as the output mode has it: those of keys that are
/// final, those whose rank has changed, or all.
#[derive(Debug)]
pub(crate) struct StatefulTopN {
    pub(crate) order: Vec<SortColumn>,
    pub(crate) rank: Ranking,
    pub(crate) limit: u64,
    pub(crate) keys: Vec<Arc<Field>>,
    pub(crate) values: RowCodec,
    pub(crate) input: SchemaRef,
    /// That of the input, and the rank.
    pub(crate) schema: SchemaRef,
    pub(crate) mode: OutputMode,
    /// When a key is final: Int64 over the input, in microseconds since the epoch.
    pub(crate) expiry: Option<Arc<dyn PhysicalExpr>>,
}

impl StatefulWork for StatefulTopN {
    fn name(&self) -> &'static str {
        "StatefulTopNExec"
    }

    fn describe(&self) -> String {
        let order: Vec<String> = self.order.iter().map(ToString::to_string).collect();
        let expiry = self.expiry.as_ref().map_or_else(String::new, |expiry| format!(", final={expiry}"));
        format!(", {}<={}, order=[{}], mode={}{expiry}", self.rank, self.limit, order.join(", "), self.mode)
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.order.iter().map(|order| &order.expr).chain(&self.expiry).collect()
    }

    fn definitions(&self) -> Vec<OperatorDefinition> {
        // The codec follows from the input, and the output mode is the query's.
        let Self { order, rank, limit, keys, values: _, input, schema: _, mode, expiry } = self;
        let expiry = expiry.as_ref().filter(|_| *mode == OutputMode::Append);
        // The computed keys and orders are among the columns.
        let stored = || input.fields().iter().map(AsRef::as_ref);
        let details = [
            ("keys".to_string(), columns(keys.iter().map(AsRef::as_ref))),
            ("columns".to_string(), columns(stored())),
            ("order".to_string(), order.iter().map(SortColumn::definition).collect()),
            ("rank".to_string(), rank.to_string().into()),
            ("limit".to_string(), (*limit).into()),
            ("definitions".to_string(), computed_by(stored())),
            ("windowTimes".to_string(), window_times(stored())),
            ("eventTime".to_string(), event_time(expiry)),
        ];
        vec![OperatorDefinition { name: "topN".into(), details: details.into() }]
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
            self.add(part?, table, batch, (results, &mut counters))?;
        }
        let mut finished = Finished::default();
        match (self.mode, batch.watermarks.finals(), &self.expiry) {
            (OutputMode::Complete, _, _) => {
                table.scan(&mut |key, subkey, value, _| finished.add(key, subkey, value))?;
            }
            (mode, Some(upto), Some(_)) => {
                let removed = &mut counters.removed;
                table.expire(upto, &mut |key, subkey, value, _| {
                    *removed += 1;
                    if mode == OutputMode::Append { finished.add(key, subkey, value) } else { Ok(()) }
                })?;
            }
            _ => {}
        }
        if self.mode == OutputMode::Append && batch.watermarks.nulls_final {
            counters.removed += finished.take_timeless(table)?;
        }
        finished.give(self, results)?;
        Ok(counters.into())
    }
}

/// The ranks of rows that are sorted by their subkeys.
struct Ranks<'a> {
    rank: Ranking,
    number: u64,
    current: u64,
    last: Option<&'a [u8]>,
}

impl<'a> Ranks<'a> {
    fn new(rank: Ranking) -> Self {
        Self { rank, number: 0, current: 0, last: None }
    }

    fn next(&mut self, subkey: &'a [u8]) -> u64 {
        let by = &subkey[..subkey.len().saturating_sub(ARRIVAL)];
        self.number += 1;
        if self.last != Some(by) || self.rank == Ranking::RowNumber {
            self.current = if self.rank == Ranking::DenseRank { self.current + 1 } else { self.number };
        }
        self.last = Some(by);
        self.current
    }
}

impl StatefulTopN {
    /// Brings the rows that are remembered up to date.
    fn add(
        &self,
        rows: Vec<KeyedRows>,
        table: &mut dyn StateTable,
        batch: &Batch,
        (results, counters): (&mut RowBuffer, &mut OperatorCounters),
    ) -> DataFusionResult<()> {
        let mut groups = Groups::of_rows(rows.iter().map(|keyed| keyed.hashes.len()).sum());
        let mut numbers = Vec::new();
        for keyed in &rows {
            numbers.extend(groups.add(&*keyed.keys, &keyed.hashes));
        }
        let new = concat_batches(&self.input, rows.iter().map(|keyed| &keyed.rows))?;
        let (mut subkeys, mut values) = (ByteRows::default(), ByteRows::default());
        // What is remembered of a key comes together.
        let mut remembered: Vec<Range<usize>> = vec![0..0; groups.len()];
        table.get_all(&groups.keys, &mut |group, subkey, value, _| {
            let rows = &mut remembered[group];
            if rows.end == 0 {
                *rows = subkeys.len()..subkeys.len();
            }
            rows.end += 1;
            subkeys.push(subkey);
            values.push(value);
            Ok(())
        })?;
        let stored = subkeys.len();
        self::subkeys(&[], &self.order, &new, batch)?.iter().for_each(|subkey| subkeys.push(subkey));
        let by_group = ByGroup::new(groups.len(), &numbers);
        let expiries = self.expiries(&new)?;
        let (mut gone, mut kept) = ((ByteRows::default(), ByteRows::default()), Vec::new());
        let (mut given, mut ranks_given) = (Vec::new(), Vec::new());
        let (mut rows, mut old) = (Vec::new(), Vec::new());
        for (group, remembered) in remembered.into_iter().enumerate() {
            let mut before = Ranks::new(self.rank);
            old.clear();
            old.extend(remembered.clone().map(|row| before.next(subkeys.row(row))));
            rows.clear();
            rows.extend(remembered.clone());
            rows.extend(by_group.of(group).iter().map(|row| stored + *row as usize));
            rows.sort_unstable_by_key(|row| (subkeys.row(*row), *row));
            let mut ranks = Ranks::new(self.rank);
            for row in rows.iter().copied() {
                let rank = ranks.next(subkeys.row(row));
                let is_new = row >= stored;
                if rank > self.limit {
                    if !is_new {
                        gone.0.push(groups.keys.row(group));
                        gone.1.push(subkeys.row(row));
                    }
                    continue;
                }
                if is_new {
                    kept.push((group, row));
                }
                if self.mode == OutputMode::Update && (is_new || old[row - remembered.start] != rank) {
                    given.push(row as u32);
                    ranks_given.push(rank);
                }
            }
        }
        table.remove(&gone.0, Some(&gone.1))?;
        counters.removed += gone.0.len() as u64;
        if !kept.is_empty() {
            let rows: UInt32Array =
                kept.iter().map(|(_, row)| (row - stored) as u32).collect::<Vec<_>>().into();
            let columns = new.columns().iter().map(|column| Ok(take(column, &rows, None)?));
            let columns = columns.collect::<DataFusionResult<Vec<ArrayRef>>>()?;
            let values = self.values.encode(&columns, kept.len())?;
            let names: ByteRows = kept.iter().map(|(group, _)| groups.keys.row(*group)).collect();
            let those: ByteRows = kept.iter().map(|(_, row)| subkeys.row(*row)).collect();
            let expiries: Option<Vec<i64>> =
                expiries.map(|expiries| kept.iter().map(|(_, row)| expiries[row - stored]).collect());
            table.add(&names, &those, &values, expiries.as_deref())?;
            counters.updated += kept.len() as u64;
        }
        if !given.is_empty() {
            let known = self.rows(self.values.decode_all(&values)?, stored)?;
            let all = concat_batches(&self.input, [&known, &new])?;
            let rows = UInt32Array::from(given);
            let columns = all.columns().iter().map(|column| Ok(take(column, &rows, None)?));
            self.give(columns.collect::<DataFusionResult<_>>()?, ranks_given, results)?;
        }
        Ok(())
    }

    fn expiries(&self, rows: &RecordBatch) -> DataFusionResult<Option<Vec<i64>>> {
        let Some(expiry) = &self.expiry else { return Ok(None) };
        let times = expiry.evaluate(rows)?.into_array(rows.num_rows())?;
        Ok(Some(times.as_primitive::<Int64Type>().iter().map(|time| time.unwrap_or(NEVER)).collect()))
    }

    fn rows(&self, columns: Vec<ArrayRef>, rows: usize) -> DataFusionResult<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.input), columns, &options)?)
    }

    fn give(
        &self,
        mut columns: Vec<ArrayRef>,
        ranks: Vec<u64>,
        results: &mut RowBuffer,
    ) -> DataFusionResult<()> {
        columns.push(Arc::new(UInt64Array::from(ranks)));
        results.push(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// Rows of keys that are given whole.
#[derive(Default)]
struct Finished {
    keys: ByteRows,
    subkeys: ByteRows,
    values: ByteRows,
}

impl Finished {
    fn add(&mut self, key: &[u8], subkey: &[u8], value: &[u8]) -> crate::error::Result<()> {
        self.keys.push(key);
        self.subkeys.push(subkey);
        self.values.push(value);
        Ok(())
    }

    /// Takes the rows of keys without a time, which no watermark makes final; gives how many.
    fn take_timeless(&mut self, table: &mut dyn StateTable) -> DataFusionResult<u64> {
        let (mut keys, mut subkeys) = (ByteRows::default(), ByteRows::default());
        table.scan(&mut |key, subkey, value, expiry| {
            if expiry.is_none_or(|expiry| expiry == NEVER) {
                keys.push(key);
                subkeys.push(subkey);
                self.add(key, subkey, value)?;
            }
            Ok(())
        })?;
        table.remove(&keys, Some(&subkeys))?;
        Ok(keys.len() as u64)
    }

    fn give(self, work: &StatefulTopN, results: &mut RowBuffer) -> DataFusionResult<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let mut order: Vec<usize> = (0..self.keys.len()).collect();
        order.sort_unstable_by_key(|row| (self.keys.row(*row), self.subkeys.row(*row)));
        let mut ranks = Vec::with_capacity(order.len());
        let mut counting = Ranks::new(work.rank);
        let mut last = None;
        for row in &order {
            let key = self.keys.row(*row);
            if last != Some(key) {
                counting = Ranks::new(work.rank);
                last = Some(key);
            }
            ranks.push(counting.next(self.subkeys.row(*row)));
        }
        let columns = work.values.decode(order.iter().map(|row| self.values.row(*row)))?;
        work.give(columns, ranks, results)
    }
}
