//! Functions that accumulate as they do, but for frames that rows leave.

use datafusion::arrow::datatypes::FieldRef;
use datafusion::common::internal_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};

use super::replacement::{Accumulation, Accumulators};

pub(super) static BUILD: AsItDoes = AsItDoes;

#[derive(Debug)]
pub(super) struct AsItDoes;

impl Accumulation for AsItDoes {
    fn state_fields(&self, _: &StateFieldsArgs) -> Option<Vec<FieldRef>> {
        None
    }

    fn accumulators(&self, args: &AccumulatorArgs) -> DataFusionResult<Accumulators> {
        internal_err!("{} accumulates as it does", args.name)
    }

    fn keeps_statistics(&self) -> bool {
        true
    }
}
