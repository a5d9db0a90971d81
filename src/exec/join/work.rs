//! What a join does in one state partition in one batch.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use datafusion::arrow::compute::{filter_record_batch, take_record_batch};
use datafusion::arrow::record_batch::RecordBatchOptions;
use datafusion::common::internal_err;
use datafusion::error::Result as DataFusionResult;

use super::pairs::Pairs;
use super::rows::{NewRows, SideRows};
use super::{Role, StatefulJoin};
use crate::exec::batch::Batch;
use crate::exec::groups::Groups;
use crate::exec::keyed_rows::{Gathered, KeyedRows};
use crate::exec::operator::OperatorCounters;
use crate::exec::row_buffer::RowBuffer;
use crate::exec::stateful::{Counters, Tables};
use crate::state::{ByteRows, NEVER, RowBytes, StateTable};

/// How many forgotten rows are given together.
const OUTPUT_ROWS: usize = 8192;

/// The work on one side in one partition.
pub(super) struct JoinWork<'a> {
    join: &'a StatefulJoin,
    /// 0 for the left, 1 for the right.
    side: usize,
    batch: &'a Batch,
    results: &'a mut RowBuffer,
    counters: &'a mut OperatorCounters,
}

impl<'a> JoinWork<'a> {
    pub(super) fn run(
        join: &'a StatefulJoin,
        rows: Gathered,
        tables: Tables<'_>,
        batch: &'a Batch,
        results: &mut RowBuffer,
    ) -> DataFusionResult<Counters> {
        let (first, Some(second)) = (tables.first, tables.second) else {
            return internal_err!("a join with one table");
        };
        let mut counters = Counters::default();
        for part in rows.in_parts() {
            Self::add(join, part?, (&mut *first, &mut *second), batch, (results, &mut counters))?;
        }
        let Counters { first: of_first, second: of_second } = &mut counters;
        JoinWork { join, side: 0, batch, results, counters: of_first }.forget(first)?;
        JoinWork { join, side: 1, batch, results, counters: of_second }.forget(second)?;
        Ok(counters)
    }

    /// Takes new rows of both sides, of keys that no others have.
    fn add(
        join: &StatefulJoin,
        rows: Vec<KeyedRows>,
        (first, second): (&mut dyn StateTable, &mut dyn StateTable),
        batch: &Batch,
        (results, counters): (&mut RowBuffer, &mut Counters),
    ) -> DataFusionResult<()> {
        let mut groups = Groups::of_rows(rows.iter().map(|keyed| keyed.hashes.len()).sum());
        let [mut left, mut right] = [NewRows::default(), NewRows::default()];
        for keyed in rows {
            let new = if keyed.input == 0 { &mut left } else { &mut right };
            new.add(&join.sides[keyed.input], join.nulls_equal, keyed, &mut groups)?;
        }
        let wanted = [right.touched(groups.len()), left.touched(groups.len())];
        let mut left = SideRows::load(&join.sides[0], left, &wanted[0], &groups, first)?;
        let mut right = SideRows::load(&join.sides[1], right, &wanted[1], &groups, second)?;
        Pairs::find(join, (&mut left, &mut right), groups.len(), results)?;
        let Counters { first: of_first, second: of_second } = counters;
        JoinWork { join, side: 0, batch, results, counters: of_first }.keep(&left, &groups, first)?;
        JoinWork { join, side: 1, batch, results, counters: of_second }.keep(&right, &groups, second)
    }

    /// Remembers what may still have a match.
    fn keep(mut self, rows: &SideRows, groups: &Groups, table: &mut dyn StateTable) -> DataFusionResult<()> {
        self.decide_by_match(rows, groups, table)?;
        self.remember(rows, groups, table)
    }

    fn role(&self) -> Role {
        self.join.sides[self.side].role
    }

    /// Whether a row that can be forgotten by then is to be forgotten in this batch.
    fn is_final(&self, expiry: i64) -> bool {
        expiry != NEVER && self.batch.watermarks.finals().is_some_and(|finals| expiry <= finals)
    }

    /// Those rows that this batch was the first to find a match for.
    fn decide_by_match(
        &mut self,
        rows: &SideRows,
        groups: &Groups,
        table: &mut dyn StateTable,
    ) -> DataFusionResult<()> {
        let stored = rows.stored.len();
        let newly = |row: &usize| rows.matched[*row] && !(*row < stored && rows.stored.matched[*row]);
        match self.role() {
            Role::Semi => self.give(&taken(rows, (0..rows.len()).filter(newly))?, true)?,
            Role::Mark => self.give(&taken(rows, (0..rows.len()).filter(newly))?, true)?,
            Role::Anti | Role::Outer => {}
            Role::Pairs | Role::Witness => return Ok(()),
        }
        let newly: Vec<usize> = (0..stored).filter(newly).collect();
        let keeps = |row: &usize| self.role() == Role::Outer && !self.is_final(rows.expiry(*row));
        let (kept, done): (Vec<usize>, Vec<usize>) = newly.into_iter().partition(keeps);
        if !done.is_empty() {
            let (keys, subkeys) = names(rows, groups, &done);
            table.remove(&keys, Some(&subkeys))?;
            self.counters.removed += done.len() as u64;
        }
        if !kept.is_empty() {
            let (keys, subkeys) = names(rows, groups, &kept);
            let expiries: Vec<i64> = kept.iter().map(|row| rows.expiry(*row)).collect();
            let side = &self.join.sides[self.side];
            let values = side.encode(&taken(rows, kept.iter().copied())?, vec![true; kept.len()])?;
            table.put(&keys, Some(&subkeys), &values, Some(&expiries))?;
            self.counters.updated += kept.len() as u64;
        }
        Ok(())
    }

    /// Puts the new rows that may still have a match into the table, and gives those that have none and may
    /// not.
    fn remember(
        &mut self,
        rows: &SideRows,
        groups: &Groups,
        table: &mut dyn StateTable,
    ) -> DataFusionResult<()> {
        let side = &self.join.sides[self.side];
        let (mut kept, mut alone) = (Vec::new(), Vec::new());
        for row in rows.stored.len()..rows.len() {
            let matched = rows.matched[row];
            if matched && side.role.is_decided_by_a_match() {
                continue;
            }
            if rows.can_match(row) && !self.is_final(rows.expiry(row)) {
                kept.push(row);
            } else if !matched && side.role.waits() {
                alone.push(row);
            }
        }
        if !alone.is_empty() {
            self.give(&taken(rows, alone.into_iter())?, false)?;
        }
        if kept.is_empty() {
            return Ok(());
        }
        let matched = kept.iter().map(|row| rows.matched[*row]).collect();
        let all =
            if kept.len() == rows.len() { rows.rows.clone() } else { taken(rows, kept.iter().copied())? };
        let values = side.encode(&all, matched)?;
        let keys: ByteRows = kept.iter().map(|row| groups.keys.row(rows.group(*row))).collect();
        let subkeys = self.subkeys(kept.iter().map(|row| *row - rows.stored.len()));
        let expiries: Option<Vec<i64>> =
            side.expiry.is_some().then(|| kept.iter().map(|row| rows.expiry(*row)).collect());
        table.add(&keys, &subkeys, &values, expiries.as_deref())?;
        self.counters.updated += kept.len() as u64;
        Ok(())
    }

    /// Tell rows of this batch from all others with their keys, and come after those before them.
    fn subkeys(&self, rows: impl ExactSizeIterator<Item = usize>) -> ByteRows {
        let (batch, count) = (self.batch.identity.batch_id.to_be_bytes(), rows.len());
        let mut subkeys = Vec::with_capacity(count * (size_of::<u64>() + size_of::<u32>()));
        for row in rows {
            subkeys.extend_from_slice(&batch);
            subkeys.extend_from_slice(&(row as u32).to_be_bytes());
        }
        ByteRows::of_width(subkeys, size_of::<u64>() + size_of::<u32>(), count)
    }

    /// Forgets what nothing can match any more; gives it if it has had no match.
    fn forget(mut self, table: &mut dyn StateTable) -> DataFusionResult<()> {
        let side = &self.join.sides[self.side];
        let waits = side.role.waits();
        let (mut removed, mut values) = (0, ByteRows::default());
        if let (Some(upto), true) = (self.batch.watermarks.finals(), side.expiry.is_some()) {
            table.expire(upto, &mut |_, _, value, _| {
                removed += 1;
                if waits {
                    values.push(value);
                }
                Ok(())
            })?;
        }
        if waits && self.batch.watermarks.nulls_final {
            let (mut keys, mut subkeys) = (ByteRows::default(), ByteRows::default());
            table.scan(&mut |key, subkey, value, expiry| {
                if expiry.is_none_or(|expiry| expiry == NEVER) {
                    keys.push(key);
                    subkeys.push(subkey);
                    values.push(value);
                }
                Ok(())
            })?;
            table.remove(&keys, Some(&subkeys))?;
            removed += keys.len() as u64;
        }
        self.counters.removed += removed;
        for from in (0..values.len()).step_by(OUTPUT_ROWS) {
            let some = from..values.len().min(from + OUTPUT_ROWS);
            let some: ByteRows = some.map(|row| values.row(row)).collect();
            let (rows, matched) = side.decode(&some)?;
            let unmatched: BooleanArray = matched.into_iter().map(|matched| Some(!matched)).collect();
            self.give(&filter_record_batch(&rows, &unmatched)?, false)?;
        }
        Ok(())
    }

    /// Gives rows of this side that are decided: they have a match, or will never have one.
    fn give(&mut self, rows: &RecordBatch, matched: bool) -> DataFusionResult<()> {
        let count = rows.num_rows();
        if count == 0 {
            return Ok(());
        }
        let own = rows.columns().iter().cloned();
        let columns: Vec<ArrayRef> = match self.role() {
            Role::Outer => {
                let other = self.join.sides[1 - self.side].schema.fields().iter();
                let nulls = other.map(|field| new_null_array(field.data_type(), count));
                if self.side == 0 { own.chain(nulls).collect() } else { nulls.chain(own).collect() }
            }
            Role::Mark => {
                let mark = BooleanArray::from(vec![matched; count]);
                own.chain([Arc::new(mark) as ArrayRef]).collect()
            }
            _ => own.collect(),
        };
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let schema = Arc::clone(&self.join.schema);
        self.results.push(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }
}

/// Some of the rows.
fn taken(rows: &SideRows, which: impl Iterator<Item = usize>) -> DataFusionResult<RecordBatch> {
    let which: UInt32Array = which.map(|row| row as u32).collect::<Vec<_>>().into();
    Ok(take_record_batch(&rows.rows, &which)?)
}

/// The keys and subkeys of rows that are remembered.
fn names(rows: &SideRows, groups: &Groups, which: &[usize]) -> (ByteRows, ByteRows) {
    let keys = which.iter().map(|row| groups.keys.row(rows.group(*row))).collect();
    (keys, which.iter().map(|row| rows.stored.subkeys.row(*row)).collect())
}
