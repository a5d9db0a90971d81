//! Aggregate functions in the place of DataFusion's: sums that say when they overflow, and functions
//! whose result does not depend on how the rows were divided into batches.

mod average;
mod distinct;
mod extremes;
mod intervals;
mod moments;
mod percentile;
mod replacement;
mod sum;
mod sum_result;
mod totals;

use std::sync::Arc;

use datafusion::functions_aggregate::average::Avg;
use datafusion::functions_aggregate::min_max::{Max, Min};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::AggregateUDF;

use replacement::Replacement;

/// What is used in the place of `function`, if that is one of DataFusion's that has to be replaced. Sums
/// that overflow are errors if `ansi_mode` is on, and wrap around if not; their state is the same.
pub(crate) fn replacement(function: &AggregateUDF, ansi_mode: bool) -> Option<Arc<AggregateUDF>> {
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
    Some(Arc::new(AggregateUDF::new_from_impl(Replacement::new(function, build))))
}
