//! From a batch plan to one that remembers.
//!
//! DataFusion optimises a query as if its tables were bounded; then [`rewrite`] puts operators with
//! state in the place of those that would have to see all rows at once, and [`planner`] plans these.
//! No rule of the optimiser ever sees them.

mod aggregate;
mod bounds;
mod join;
mod node;
mod planner;
mod recorded_order;
mod rewrite;
mod tables;
mod transform;

pub(crate) use node::WatermarkDelay;
pub(crate) use planner::StreamingQueryPlanner;
pub(crate) use rewrite::{Rewritten, rewrite};
pub(crate) use tables::tables_of_columns;
