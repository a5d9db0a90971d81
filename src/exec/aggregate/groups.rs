//! Partial results of a batch, gathered by group.

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::partial::{Accumulators, Partials};

/// Each group once, with its partial results.
pub(crate) struct Grouped {
    /// How many groups there are.
    pub(crate) groups: usize,
    /// The columns of their keys.
    pub(crate) keys: Vec<ArrayRef>,
    /// The columns of their states.
    pub(crate) states: Vec<ArrayRef>,
}

/// Gathers partial results by group, in the order in which the groups come.
pub(crate) struct Grouping<'a> {
    partials: &'a Partials,
    /// `None` for an aggregation without keys, which has one group.
    values: Option<Box<dyn GroupValues>>,
    accumulators: Accumulators<'a>,
    groups: usize,
    ids: Vec<usize>,
}

impl<'a> Grouping<'a> {
    pub(crate) fn new(partials: &'a Partials) -> DataFusionResult<Self> {
        let values = match partials.key_schema.fields().is_empty() {
            true => None,
            false => Some(new_group_values(partials.key_schema.clone(), &GroupOrdering::None)?),
        };
        Ok(Self { partials, values, accumulators: partials.accumulators()?, groups: 0, ids: Vec::new() })
    }

    /// Adds rows of key and state columns.
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> DataFusionResult<()> {
        let (keys, states) = batch.columns().split_at(self.partials.key_schema.fields().len());
        self.add_columns(keys, states, batch.num_rows())
    }

    /// Adds `rows` rows of key and state columns.
    pub(crate) fn add_columns(
        &mut self,
        keys: &[ArrayRef],
        states: &[ArrayRef],
        rows: usize,
    ) -> DataFusionResult<()> {
        if rows == 0 {
            return Ok(());
        }
        match &mut self.values {
            Some(values) => {
                values.intern(keys, &mut self.ids)?;
                self.groups = values.len();
            }
            None => {
                self.ids.clear();
                self.ids.resize(rows, 0);
                self.groups = 1;
            }
        }
        self.accumulators.merge(states, &self.ids, self.groups)
    }

    /// How many groups there are so far.
    pub(crate) fn groups(&self) -> usize {
        self.groups
    }

    /// The partial results of all groups.
    pub(crate) fn finish(mut self) -> DataFusionResult<Grouped> {
        if self.groups == 0 {
            // The ordered first_value and last_value have no state without groups, but an error.
            return Ok(Grouped { groups: 0, keys: Vec::new(), states: Vec::new() });
        }
        let keys = self.keys()?;
        Ok(Grouped { groups: self.groups, keys, states: self.accumulators.states()? })
    }

    /// The final results of all groups: the columns of their keys, then of their values.
    pub(crate) fn results(mut self) -> DataFusionResult<Vec<ArrayRef>> {
        let mut columns = self.keys()?;
        columns.extend(self.accumulators.results()?);
        Ok(columns)
    }

    fn keys(&mut self) -> DataFusionResult<Vec<ArrayRef>> {
        match &mut self.values {
            Some(values) if self.groups > 0 => values.emit(EmitTo::All),
            _ => Ok(Vec::new()),
        }
    }
}
