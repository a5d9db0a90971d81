//! What sums are made into, be they of numbers or of intervals.

use datafusion::arrow::datatypes::DataType;
use datafusion::error::DataFusionError;

use crate::functions::checked::overflow;

/// What is made of a sum.
#[derive(Debug, Clone)]
pub(super) struct SumResult {
    /// The call, for messages.
    pub(super) name: String,
    pub(super) data_type: DataType,
    pub(super) wraps: bool,
}

impl SumResult {
    pub(super) fn too_large(&self) -> DataFusionError {
        overflow(&self.name, &self.data_type, "the sum is too large")
    }
}
