//! Aggregations.

use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable};

use super::{Flow, refuse};
use crate::error::Result;
use crate::exec::codec::RowCodec;
use crate::plan::group_key::{final_key, group_keys};
use crate::plan::sessions::session_key;
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
    let has_session = session_key(&aggregate.group_expr, aggregate.input.schema()).is_some();
    if has_session && mode == OutputMode::Update {
        return refuse(
            "a group by session_window, in output mode update",
            "a session that was given may be merged with another later, and would have to be taken back",
            "Use output mode append with a watermark, or complete",
        );
    }
    let only_keys = aggregate.aggr_expr.is_empty() && !sets && !has_session;
    let becomes_final = final_key(&aggregate.group_expr, aggregate.input.schema()).is_some();
    match mode {
        OutputMode::Complete => Ok(Flow::Whole),
        OutputMode::Append | OutputMode::Update if only_keys => Ok(Flow::Append),
        OutputMode::Update => Ok(Flow::Update),
        OutputMode::Append if becomes_final => Ok(Flow::Append),
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

/// Keys are kept as bytes.
fn check_keys(aggregate: &Aggregate) -> Result<()> {
    let clause = |key: &Expr| format!("GROUP BY {key}");
    check_types(group_keys(&aggregate.group_expr), aggregate.input.schema(), clause)
}

/// Fails if one of `keys` over rows of `schema` cannot be kept as bytes; `clause` says where it is used.
pub(super) fn check_types<'a>(
    keys: impl IntoIterator<Item = &'a Expr>,
    schema: &DFSchema,
    clause: impl Fn(&Expr) -> String,
) -> Result<()> {
    for key in keys {
        let data_type = key.get_type(schema)?;
        // DataFusion groups the rows of a batch by Arrow's row format, before they are kept in ours.
        let can_group = RowConverter::supports_fields(&[SortField::new(data_type.clone())]);
        if !can_group || !RowCodec::supports(&data_type) {
            return refuse(
                &format!("{} over an unbounded table", clause(key)),
                &format!("keys of type {data_type} cannot be kept in state"),
                "Use a part of it, or cast it to another type, e.g. VARCHAR",
            );
        }
    }
    Ok(())
}
