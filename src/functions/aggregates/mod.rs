//! Aggregate functions in the place of DataFusion's: sums that say when they overflow, and functions
//! whose result does not depend on how the rows were divided into batches, nor on what was in a frame before.

mod average;
mod distinct;
mod extreme_structs;
mod extremes;
mod intervals;
mod moments;
mod moving;
mod other;
mod percentile;
mod replacement;
mod sum;
mod sum_result;
mod totals;

use std::sync::Arc;

use datafusion::functions_aggregate::average::Avg;
use datafusion::functions_aggregate::count::Count;
use datafusion::functions_aggregate::min_max::{Max, Min};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::AggregateUDF;

use replacement::Replacement;

/// What is used in the place of `function`, if that is one of DataFusion's that has to be replaced. Sums
/// that overflow are errors if `ansi_mode` is on, and wrap around if not; their state is the same.
///
/// Messages call it `name` instead of what its call is called when it runs.
pub(crate) fn replacement(
    function: &AggregateUDF,
    ansi_mode: bool,
    name: Option<String>,
) -> Option<Arc<AggregateUDF>> {
    let inner = function.inner();
    let build: replacement::Build = if inner.is::<Sum>() {
        if ansi_mode { &sum::CHECKED } else { &sum::WRAPPING }
    } else if inner.is::<Avg>() {
        &average::BUILD
    } else if inner.is::<Min>() {
        &extremes::MIN
    } else if inner.is::<Max>() {
        &extremes::MAX
    } else {
        moments::build(inner.as_ref()).or_else(|| percentile::build(inner.as_ref()))?
    };
    Some(Arc::new(AggregateUDF::new_from_impl(Replacement::new(function, build).called(name))))
}

/// What is used in the place of `function` over a frame that rows leave, which is another function only in how it
/// goes on then. `None` if it is right as it is.
pub(crate) fn moving(function: &AggregateUDF) -> Option<Arc<AggregateUDF>> {
    let inner = function.inner();
    let is_right = inner.is::<Replacement>() || inner.is::<Count>();
    (!is_right).then(|| Arc::new(AggregateUDF::new_from_impl(Replacement::new(function, &other::BUILD))))
}
