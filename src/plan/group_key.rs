//! Which key of an aggregation says when its groups are final.

use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, GroupingSet};

use super::event_time::{EventTimeKey, event_time_key};

/// The keys of a group in the order of the result's columns.
pub(super) fn group_keys(group_expr: &[Expr]) -> Vec<&Expr> {
    match group_expr {
        [Expr::GroupingSet(sets)] => sets.distinct_expr(),
        keys => keys.iter().collect(),
    }
}

/// The first key that follows from the event time and that every group has, by its index among
/// [`group_keys`]. A row is late for all groups that it belongs to, or for none: with a key that is in
/// some grouping sets only, the totals of the others would lose rows.
pub(super) fn final_key(group_expr: &[Expr], input: &DFSchema) -> Option<(usize, EventTimeKey)> {
    let in_every_set = |key: &Expr| match group_expr {
        [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] => sets.iter().all(|set| set.contains(key)),
        // They have the empty set.
        [Expr::GroupingSet(GroupingSet::Rollup(_) | GroupingSet::Cube(_))] => false,
        _ => true,
    };
    let keys = group_keys(group_expr).into_iter().enumerate();
    keys.filter(|(_, key)| in_every_set(key))
        .find_map(|(index, key)| Some((index, event_time_key(key, input)?)))
}
