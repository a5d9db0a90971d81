//! Percentiles of all parts of a group: DataFusion's accumulators take the first of several parts that
//! are merged at once, and forget the others.

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::FieldRef;
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions_aggregate::percentile_cont::PercentileCont;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl};

use super::replacement::{Accumulation, Accumulators, Build};

/// How `function` accumulates here, if it is one of DataFusion's that forget parts.
pub(super) fn build(function: &dyn AggregateUDFImpl) -> Option<Build> {
    function.is::<PercentileCont>().then_some(&OneByOne as Build)
}

#[derive(Debug)]
struct OneByOne;

impl Accumulation for OneByOne {
    fn state_fields(&self, _: &StateFieldsArgs) -> Option<Vec<FieldRef>> {
        None
    }

    fn accumulators(&self, args: &AccumulatorArgs) -> DataFusionResult<Accumulators> {
        internal_err!("{} accumulates as DataFusion's does", args.name)
    }

    fn wrap(&self, accumulator: Box<dyn Accumulator>, _: &AccumulatorArgs) -> Box<dyn Accumulator> {
        Box::new(MergedOneByOne(accumulator))
    }
}

#[derive(Debug)]
struct MergedOneByOne(Box<dyn Accumulator>);

impl Accumulator for MergedOneByOne {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        self.0.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        let rows = states.first().map_or(0, |column| column.len());
        for row in (0..rows).filter(|row| states.iter().all(|column| column.is_valid(*row))) {
            let state: Vec<ArrayRef> = states.iter().map(|column| column.slice(row, 1)).collect();
            self.0.merge_batch(&state)?;
        }
        Ok(())
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        self.0.state()
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        self.0.evaluate()
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        self.0.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.0.supports_retract_batch()
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}
