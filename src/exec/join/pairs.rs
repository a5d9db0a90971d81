//! Which rows of a batch match.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{filter, prep_null_mask_filter, take};
use datafusion::arrow::datatypes::UInt32Type;
use datafusion::arrow::record_batch::RecordBatchOptions;
use datafusion::error::Result as DataFusionResult;

use super::StatefulJoin;
use super::rows::SideRows;
use crate::exec::groups::ByGroup;
use crate::exec::row_buffer::RowBuffer;

/// How many pairs are looked at together.
const PAIRS: usize = 8192;

/// Finds the pairs of which at least one row is new.
pub(super) struct Pairs<'a> {
    join: &'a StatefulJoin,
    left: &'a mut SideRows,
    right: &'a mut SideRows,
    /// Pairs with equal keys that are still to be looked at.
    open: (Vec<u32>, Vec<u32>),
    results: &'a mut RowBuffer,
}

impl<'a> Pairs<'a> {
    /// Notes which rows of both sides have a match, and gives the pairs if the join has any.
    pub(super) fn find(
        join: &'a StatefulJoin,
        (left, right): (&'a mut SideRows, &'a mut SideRows),
        groups: usize,
        results: &'a mut RowBuffer,
    ) -> DataFusionResult<()> {
        let candidates = (0..right.len()).filter(|row| right.can_match(*row));
        let by_group = ByGroup::of_some(groups, candidates.map(|row| (row as u32, right.group(row))));
        let [of_left, of_right] =
            [&join.sides[0], &join.sides[1]].map(|side| side.role.is_decided_by_a_match());
        let mut pairs = Self { join, left, right, open: (Vec::new(), Vec::new()), results };
        for row in 0..pairs.left.len() {
            if !pairs.left.can_match(row) {
                continue;
            }
            let candidates = by_group.of(pairs.left.group(row));
            // What is remembered on both sides has met before.
            let from = match row < pairs.left.stored.len() {
                true => candidates.partition_point(|other| (*other as usize) < pairs.right.stored.len()),
                false => 0,
            };
            for other in &candidates[from..] {
                if of_left && pairs.left.matched[row] {
                    break;
                }
                if of_right && pairs.right.matched[*other as usize] {
                    continue;
                }
                pairs.open.0.push(row as u32);
                pairs.open.1.push(*other);
                if pairs.open.0.len() == PAIRS {
                    pairs.close()?;
                }
            }
        }
        pairs.close()
    }

    /// Looks at the open pairs.
    fn close(&mut self) -> DataFusionResult<()> {
        let (left, right) = (std::mem::take(&mut self.open.0), std::mem::take(&mut self.open.1));
        if left.is_empty() {
            return Ok(());
        }
        let (left, right) = self.matching(UInt32Array::from(left), UInt32Array::from(right))?;
        left.values().iter().for_each(|row| self.left.matched[*row as usize] = true);
        right.values().iter().for_each(|row| self.right.matched[*row as usize] = true);
        if self.join.sides.iter().all(|side| side.role.is_paired()) && !left.is_empty() {
            let mut columns = Vec::with_capacity(self.join.schema.fields().len());
            for (side, rows) in [(&*self.left, &left), (&*self.right, &right)] {
                for column in side.rows.columns() {
                    columns.push(take(column, rows, None)?);
                }
            }
            let options = RecordBatchOptions::new().with_row_count(Some(left.len()));
            let schema = Arc::clone(&self.join.schema);
            self.results.push(RecordBatch::try_new_with_options(schema, columns, &options)?)?;
        }
        Ok(())
    }

    /// Those of the pairs that fulfil the condition.
    fn matching(
        &self,
        left: UInt32Array,
        right: UInt32Array,
    ) -> DataFusionResult<(UInt32Array, UInt32Array)> {
        let Some(condition) = &self.join.condition else { return Ok((left, right)) };
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(condition.schema.fields().len());
        for (side, (rows, wanted)) in
            [(&*self.left, (&left, &condition.columns[0])), (&*self.right, (&right, &condition.columns[1]))]
        {
            for column in wanted {
                columns.push(take(side.rows.column(*column), rows, None)?);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(left.len()));
        let both = RecordBatch::try_new_with_options(Arc::clone(&condition.schema), columns, &options)?;
        let holds = condition.expr.evaluate(&both)?.into_array(left.len())?;
        let holds = true_only(holds.as_boolean());
        if holds.true_count() == left.len() {
            return Ok((left, right));
        }
        let some = |rows: &UInt32Array| -> DataFusionResult<UInt32Array> {
            Ok(filter(rows, &holds)?.as_primitive::<UInt32Type>().clone())
        };
        Ok((some(&left)?, some(&right)?))
    }
}

/// With false for null.
fn true_only(mask: &BooleanArray) -> BooleanArray {
    if mask.null_count() == 0 { mask.clone() } else { prep_null_mask_filter(mask) }
}
