//! Aggregation that remembers its groups between batches.
//!
//! Below it, DataFusion aggregates the new rows partially, and an exchange brings the partial results
//! to the state partition of their group. A batch then costs one look-up per group that it touches,
//! not per group that there is.
//!
//! **State**: table of its operator; key: the group's key columns; value: the state columns of all
//! functions; subkey: empty, or the number of the batch for functions that keep every value
//! ([`StateLayout::Parts`](partial::StateLayout)); expiry: when the group is final, for groups that
//! ever are.

mod grand_totals;
mod partial;
mod work;

pub(crate) use self::grand_totals::GrandTotals;
pub(crate) use self::partial::Partials;
pub(crate) use self::work::StatefulAggregate;
