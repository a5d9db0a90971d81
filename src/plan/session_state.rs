//! The session a streaming query is planned in: the user's, with everything pinned that a plan
//! cached across batches depends on.

use std::sync::Arc;

use datafusion::execution::SessionStateBuilder;
use datafusion::execution::cache::cache_manager::{CacheManager, CacheManagerConfig};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionState;

use super::stateful::StreamingQueryPlanner;
use super::static_joins::with_static_build_sides;
use crate::error::Result;

/// Rewrites `COUNT(DISTINCT x)` into two nested aggregations, the outer of which would count what
/// changed instead of what is new.
const SINGLE_DISTINCT_RULE: &str = "single_distinct_aggregation_to_group_by";

/// `state` for a query that runs with `partitions` partitions, and whose operators have
/// `state_partitions` partitions of state.
pub(crate) fn streaming_state(
    state: &SessionState,
    partitions: usize,
    state_partitions: usize,
) -> Result<SessionState> {
    // The catalogs are shared: a state that made its default catalog anew would empty the user's.
    let mut config = state
        .config()
        .clone()
        .with_target_partitions(partitions.max(1))
        .with_create_default_catalog_and_schema(false);
    let options = config.options_mut();
    // A scan keeps the filter that a join's build side of an earlier batch pushed into it. Setting
    // the master switch by its name switches off the others too; setting its field would not.
    options.set("datafusion.optimizer.enable_dynamic_filter_pushdown", "false")?;
    // Rows that go through DataFusion's exchanges come out in any order, and a batch that is run again
    // would add up floating-point numbers in another one.
    options.set("datafusion.optimizer.repartition_joins", "false")?;
    options.set("datafusion.optimizer.enable_round_robin_repartition", "false")?;
    // Joins that sort their inputs would give the rows of the stream in another order than they came in.
    options.set("datafusion.optimizer.prefer_hash_join", "true")?;
    options.set("datafusion.optimizer.enable_piecewise_merge_join", "false")?;
    // Batches are small beside what a batch engine reads: rows of which nearly each is a group of its own would all
    // have been put into groups before it is noticed that it is in vain.
    let probed = &mut options.execution.skip_partial_aggregation_probe_rows_threshold;
    *probed = (*probed).min(PROBED_ROWS);
    let rules = state
        .optimizers()
        .iter()
        .filter(|rule| rule.name() != SINGLE_DISTINCT_RULE)
        .map(Arc::clone)
        .collect();
    Ok(SessionStateBuilder::new_from_existing(state.clone())
        .with_config(config)
        .with_optimizer_rules(rules)
        .with_physical_optimizer_rules(with_static_build_sides(state.physical_optimizers()))
        .with_query_planner(Arc::new(StreamingQueryPlanner { state_partitions }))
        .with_runtime_env(uncached_runtime(state.runtime_env())?)
        .build())
}

/// After so many rows it is known whether it is worth it to aggregate before the exchange.
const PROBED_ROWS: usize = 16_384;

/// `runtime` without its cache of file listings, which would hide files that a bounded table gains
/// between two batches.
pub(crate) fn uncached_runtime(runtime: &Arc<RuntimeEnv>) -> Result<Arc<RuntimeEnv>> {
    let caches = CacheManagerConfig {
        list_files_cache_limit: 0,
        metadata_cache_limit: runtime.cache_manager.get_metadata_cache_limit(),
        ..CacheManagerConfig::default()
    };
    Ok(Arc::new(RuntimeEnv { cache_manager: CacheManager::try_new(&caches)?, ..runtime.as_ref().clone() }))
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    #[tokio::test]
    async fn the_users_session_keeps_its_tables_and_settings() {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(7));
        context.sql("CREATE TABLE t AS SELECT 1 AS a").await.unwrap();
        let streaming = streaming_state(&context.state(), 3, 3).unwrap();
        assert!(context.table_exist("t").unwrap());
        let before = context.state();
        assert_eq!(before.config().target_partitions(), 7);
        assert!(before.optimizers().iter().any(|rule| rule.name() == SINGLE_DISTINCT_RULE));

        let schema = streaming.schema_for_ref("t").unwrap();
        assert_eq!(schema.table_names(), ["t"]);
        assert_eq!(streaming.config().target_partitions(), 3);
        assert!(streaming.optimizers().iter().all(|rule| rule.name() != SINGLE_DISTINCT_RULE));
        let options = &streaming.config_options().optimizer;
        assert!(!options.enable_dynamic_filter_pushdown && !options.enable_join_dynamic_filter_pushdown);
        assert!(
            !options.enable_topk_dynamic_filter_pushdown && !options.enable_aggregate_dynamic_filter_pushdown
        );
    }
}
