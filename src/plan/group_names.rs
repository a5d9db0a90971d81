//! Keys of groups that have one name.
//!
//! A cast is called what it casts, so `GROUP BY CAST(x AS DATE), x` has two keys of one name. DataFusion's rule that
//! leaves out keys which follow from others puts both into a projection, where names must differ, and fails.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Aggregate, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// That rule, where no two keys have one name.
pub(crate) struct NamedKeys(Arc<dyn OptimizerRule + Send + Sync>);

impl NamedKeys {
    const NAME: &str = "eliminate_group_by_constant";

    /// `rules`, with this one in the place of DataFusion's.
    pub(crate) fn guarded(
        rules: &[Arc<dyn OptimizerRule + Send + Sync>],
    ) -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
        let guard = |rule: &Arc<dyn OptimizerRule + Send + Sync>| match rule.name() {
            Self::NAME => Arc::new(Self(Arc::clone(rule))) as _,
            _ => Arc::clone(rule),
        };
        rules.iter().map(guard).collect()
    }
}

impl fmt::Debug for NamedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedKeys").finish_non_exhaustive()
    }
}

impl OptimizerRule for NamedKeys {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> DataFusionResult<Transformed<LogicalPlan>> {
        match &plan {
            LogicalPlan::Aggregate(aggregate) if has_one_name_twice(aggregate) => Ok(Transformed::no(plan)),
            _ => self.0.rewrite(plan, config),
        }
    }
}

fn has_one_name_twice(aggregate: &Aggregate) -> bool {
    let mut names = HashSet::new();
    let mut all = aggregate.group_expr.iter().chain(&aggregate.aggr_expr);
    all.any(|expr| !names.insert(expr.schema_name().to_string()))
}
