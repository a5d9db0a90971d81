//! Aggregations.

use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, GroupingSet};

use super::{Flow, refuse};
use crate::error::Result;
use crate::plan::event_time::event_time_key;
use crate::sink::OutputMode;

/// How the rows of an aggregation come.
pub(super) fn check(aggregate: &Aggregate, input: Flow, mode: OutputMode) -> Result<Flow> {
    if input == Flow::Update {
        return refuse(
            "an aggregation over an aggregation, in output mode update",
            "a row of the lower one that was counted may change, and would have to be taken out again",
            "Use output mode complete, or append with a watermark",
        );
    }
    check_keys(aggregate)?;
    let sets = aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_)));
    // A group without functions is known for good when its first row is there.
    let only_keys = aggregate.aggr_expr.is_empty() && !sets;
    match mode {
        OutputMode::Complete => Ok(Flow::Whole),
        OutputMode::Append | OutputMode::Update if only_keys => Ok(Flow::Append),
        OutputMode::Update => Ok(Flow::Update),
        OutputMode::Append if becomes_final(aggregate) => Ok(Flow::Append),
        OutputMode::Append => refuse(
            "an aggregation over an unbounded table, in output mode append",
            "no group is ever final: no key of it, or not of every grouping set, follows from the event time of \
             a watermark",
            "Define a watermark (with_watermark, or WATERMARK FOR in CREATE UNBOUNDED EXTERNAL TABLE) and group \
             by window(…), date_bin(…), date_trunc(…) or the event time itself; or use output mode update or \
             complete",
        ),
    }
}

/// Whether every group becomes final as the watermark advances: the same event-time key is in every
/// grouping set.
fn becomes_final(aggregate: &Aggregate) -> bool {
    let schema = aggregate.input.schema();
    let is_key = |expr: &Expr| event_time_key(expr, schema).is_some();
    match aggregate.group_expr.as_slice() {
        [Expr::GroupingSet(sets)] => {
            let Some(key) = sets.distinct_expr().into_iter().find(|expr| is_key(expr)) else { return false };
            match sets {
                GroupingSet::GroupingSets(sets) => sets.iter().all(|set| set.contains(key)),
                // They have the empty set.
                GroupingSet::Rollup(_) | GroupingSet::Cube(_) => false,
            }
        }
        keys => keys.iter().any(is_key),
    }
}

/// Keys are kept as bytes.
fn check_keys(aggregate: &Aggregate) -> Result<()> {
    let keys = aggregate.group_expr.iter().flat_map(|expr| match expr {
        Expr::GroupingSet(sets) => sets.distinct_expr(),
        expr => vec![expr],
    });
    for key in keys {
        let data_type = key.get_type(aggregate.input.schema())?;
        if !RowConverter::supports_fields(&[SortField::new(data_type.clone())]) {
            return refuse(
                &format!("GROUP BY {key} over an unbounded table"),
                &format!("keys of type {data_type} cannot be kept in state"),
                "Group by a part of it, or cast it to another type, e.g. VARCHAR",
            );
        }
    }
    Ok(())
}
