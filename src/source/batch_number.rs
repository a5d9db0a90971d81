//! Which batch a plan is executed for.

use datafusion::execution::TaskContext;

/// In the context of whatever is executed for a batch.
#[derive(Debug)]
pub(crate) struct BatchNumber(pub(crate) u64);

/// The number of the batch that a plan is executed for: the same again if the batch is run again, for names of what a
/// source writes beside its rows.
pub fn batch_number(context: &TaskContext) -> Option<u64> {
    context.session_config().get_extension::<BatchNumber>().map(|batch| batch.0)
}
