//! Which side of a join is kept in memory.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};

use crate::exec::node::Node;
use crate::exec::scan::StreamScan;

/// DataFusion's rule that chooses sides by their sizes, as far as they are known.
const JOIN_SELECTION: &str = "join_selection";

/// `rules` with one more, after the one that chooses sides by size: nothing is known of a batch's.
pub(super) fn with_static_build_sides(
    rules: &[Arc<dyn PhysicalOptimizerRule + Send + Sync>],
) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut all = Vec::with_capacity(rules.len() + 1);
    for rule in rules {
        all.push(Arc::clone(rule));
        if rule.name() == JOIN_SELECTION {
            all.push(Arc::new(StaticBuildSide));
        }
    }
    all
}

/// Collects the side that is the same for all batches, and lets the rows of the stream pass by it in
/// their order, in all partitions.
#[derive(Debug)]
struct StaticBuildSide;

impl PhysicalOptimizerRule for StaticBuildSide {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| Ok(swapped(&node)?.map_or_else(|| Transformed::no(node), Transformed::yes)))
            .data()
    }

    fn name(&self) -> &str {
        "tidemill_static_build_side"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// `node` with its sides swapped, if it is a join that would collect the rows of the stream.
fn swapped(node: &Arc<dyn ExecutionPlan>) -> DataFusionResult<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        // The sides of the others have meanings.
        let can = join.join_type().supports_swap() && !join.null_aware;
        if can && collects_stream(join.left(), join.right()) {
            return join.swap_inputs(PartitionMode::CollectLeft).map(Some);
        }
    } else if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        if join.join_type().supports_swap() && collects_stream(join.left(), join.right()) {
            return join.swap_inputs().map(Some);
        }
    } else if let Some(join) = node.downcast_ref::<CrossJoinExec>()
        && collects_stream(join.left(), join.right())
    {
        return join.swap_inputs().map(Some);
    }
    Ok(None)
}

fn collects_stream(left: &Arc<dyn ExecutionPlan>, right: &Arc<dyn ExecutionPlan>) -> bool {
    reads_stream(left) && !reads_stream(right)
}

fn reads_stream(plan: &Arc<dyn ExecutionPlan>) -> bool {
    Node::<StreamScan>::of(plan).is_some() || plan.children().into_iter().any(reads_stream)
}
