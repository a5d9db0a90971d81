//! Aggregates that are known without reading.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;

/// DataFusion's rule for plans without `FILTER`. In the place of an aggregate with one it gives what is known of
/// the next aggregate below (apache/datafusion, `aggregate_statistics.rs`, `take_optimizable`).
#[derive(Debug)]
pub(crate) struct AggregatesOfStatistics(Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl AggregatesOfStatistics {
    const NAME: &str = "aggregate_statistics";

    /// `rules`, with this one in the place of DataFusion's.
    pub(crate) fn guarded(
        rules: &[Arc<dyn PhysicalOptimizerRule + Send + Sync>],
    ) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
        let guard = |rule: &Arc<dyn PhysicalOptimizerRule + Send + Sync>| match rule.name() {
            Self::NAME => Arc::new(Self(Arc::clone(rule))) as _,
            _ => Arc::clone(rule),
        };
        rules.iter().map(guard).collect()
    }
}

impl PhysicalOptimizerRule for AggregatesOfStatistics {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        if has_filters(&plan)? { Ok(plan) } else { self.0.optimize(plan, config) }
    }

    fn name(&self) -> &str {
        Self::NAME
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

fn has_filters(plan: &Arc<dyn ExecutionPlan>) -> DataFusionResult<bool> {
    let mut found = false;
    plan.apply(|node| {
        let aggregate = node.downcast_ref::<AggregateExec>();
        found |= aggregate.is_some_and(|aggregate| aggregate.filter_expr().iter().any(Option::is_some));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
