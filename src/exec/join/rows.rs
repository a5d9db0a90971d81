//! The rows of one side of a join that a batch is about.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::arrow::record_batch::RecordBatchOptions;
use datafusion::error::Result as DataFusionResult;

use super::{JoinSide, Role};
use crate::exec::groups::Groups;
use crate::exec::keyed_rows::KeyedRows;
use crate::state::{ByteRows, NEVER, RowBytes, StateTable};

/// The expiry of a row that nothing can match.
const HOPELESS: i64 = i64::MIN;

/// The rows that a batch has brought to one side.
#[derive(Debug, Default)]
pub(super) struct NewRows {
    batches: Vec<RecordBatch>,
    /// Which rows have the same key, by the number of the key in this batch.
    pub(super) groups: Vec<usize>,
    /// Whether anything can match them at all.
    pub(super) can_match: Vec<bool>,
    /// When they can be forgotten.
    pub(super) expiries: Vec<i64>,
}

impl NewRows {
    pub(super) fn add(
        &mut self,
        side: &JoinSide,
        nulls_equal: bool,
        keyed: KeyedRows,
        groups: &mut Groups,
    ) -> DataFusionResult<()> {
        let KeyedRows { rows, keys, hashes, .. } = keyed;
        let (from, count) = (self.groups.len(), rows.num_rows());
        self.groups.extend(groups.add(&*keys, &hashes));
        self.can_match.resize(from + count, true);
        if !nulls_equal {
            for key in &side.keys {
                let values = key.evaluate(&rows)?.into_array(count)?;
                let Some(nulls) = values.logical_nulls() else { continue };
                let can_match = self.can_match[from..].iter_mut().zip(nulls.iter());
                can_match.for_each(|(can_match, is_valid)| *can_match &= is_valid);
            }
        }
        match &side.expiry {
            None => self.expiries.resize(from + count, NEVER),
            Some(expiry) => {
                let times = expiry.evaluate(&rows)?.into_array(count)?;
                let times = times.as_primitive::<Int64Type>().iter();
                self.expiries.extend(times.map(|time| time.unwrap_or(NEVER)));
                let can_match = self.can_match[from..].iter_mut().zip(&self.expiries[from..]);
                can_match.for_each(|(can_match, expiry)| *can_match &= *expiry != HOPELESS);
            }
        }
        self.batches.push(rows);
        Ok(())
    }

    /// The groups of rows that may have a match, each once.
    pub(super) fn touched(&self, groups: usize) -> Vec<usize> {
        let mut is_touched = vec![false; groups];
        let mut touched = Vec::new();
        for (group, _) in self.groups.iter().zip(&self.can_match).filter(|(_, can_match)| **can_match) {
            if !std::mem::replace(&mut is_touched[*group], true) {
                touched.push(*group);
            }
        }
        touched
    }
}

/// The rows of one side that a batch is about: those that are remembered with the keys that are new on the
/// other side, then the new ones.
#[derive(Debug)]
pub(super) struct SideRows {
    pub(super) rows: RecordBatch,
    pub(super) stored: Stored,
    /// The new ones, whose columns are in `rows`.
    pub(super) new: NewRows,
    /// Whether each has had a match, in this batch or before.
    pub(super) matched: Vec<bool>,
}

/// Rows that are remembered.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) groups: Vec<usize>,
    pub(super) subkeys: ByteRows,
    pub(super) expiries: Vec<i64>,
    /// Whether each had had a match before this batch.
    pub(super) matched: Vec<bool>,
}

impl Stored {
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }
}

impl SideRows {
    /// `new`, with what `table` remembers of the keys of the groups `wanted`.
    pub(super) fn load(
        side: &JoinSide,
        mut new: NewRows,
        wanted: &[usize],
        groups: &Groups,
        table: &mut dyn StateTable,
    ) -> DataFusionResult<Self> {
        let mut stored = Stored::default();
        let mut batches = Vec::with_capacity(new.batches.len() + 1);
        if !wanted.is_empty() && !table.is_empty() {
            let keys: ByteRows = wanted.iter().map(|group| groups.keys.row(*group)).collect();
            let mut values = ByteRows::default();
            table.get_all(&keys, &mut |position, subkey, value, expiry| {
                stored.groups.push(wanted[position]);
                stored.subkeys.push(subkey);
                stored.expiries.push(expiry.unwrap_or(NEVER));
                values.push(value);
                Ok(())
            })?;
            if !values.is_empty() {
                let (rows, matched) = side.decode(&values)?;
                batches.push(rows);
                stored.matched = matched;
            }
        }
        batches.append(&mut new.batches);
        let rows = match batches.as_slice() {
            [only] => only.clone(),
            batches => concat_batches(&side.schema, batches)?,
        };
        let mut matched = stored.matched.clone();
        matched.resize(rows.num_rows(), false);
        Ok(Self { rows, stored, new, matched })
    }

    pub(super) fn len(&self) -> usize {
        self.matched.len()
    }

    /// Whether anything can match the row.
    pub(super) fn can_match(&self, row: usize) -> bool {
        row.checked_sub(self.stored.len()).is_none_or(|new| self.new.can_match[new])
    }

    /// The group of the row.
    pub(super) fn group(&self, row: usize) -> usize {
        match row.checked_sub(self.stored.len()) {
            None => self.stored.groups[row],
            Some(new) => self.new.groups[new],
        }
    }

    /// When the row can be forgotten.
    pub(super) fn expiry(&self, row: usize) -> i64 {
        match row.checked_sub(self.stored.len()) {
            None => self.stored.expiries[row],
            Some(new) => self.new.expiries[new],
        }
    }
}

impl JoinSide {
    /// Rows as they are remembered, with whether they have had a match.
    pub(super) fn encode(&self, rows: &RecordBatch, matched: Vec<bool>) -> DataFusionResult<ByteRows> {
        let mut columns = Vec::with_capacity(rows.num_columns() + 1);
        if self.role == Role::Outer {
            columns.push(Arc::new(BooleanArray::from(matched)) as _);
        }
        columns.extend(rows.columns().iter().cloned());
        self.codec.encode(&columns, rows.num_rows())
    }

    /// The rows that were remembered, and whether each has had a match.
    pub(super) fn decode(&self, values: &ByteRows) -> DataFusionResult<(RecordBatch, Vec<bool>)> {
        let mut columns = self.codec.decode_all(values)?;
        let matched = match self.role {
            Role::Outer => {
                columns.remove(0).as_boolean().iter().map(|matched| matched == Some(true)).collect()
            }
            // Those that have had one are forgotten, or it does not matter.
            _ => vec![false; values.len()],
        };
        let options = RecordBatchOptions::new().with_row_count(Some(values.len()));
        Ok((RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?, matched))
    }
}
