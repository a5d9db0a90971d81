//! Scans of DataFusion's whose files are looked over.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_expr::expressions::lit;
use datafusion::physical_expr_adapter::DefaultPhysicalExprAdapterFactory;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_datasource::PartitionedFile;

use super::decimals::CheckedDecimals;
use super::{CheckedFiles, texts_of};
use crate::source::file::digits::any_has_decimals;

/// Has the files looked over that tables of DataFusion's own read, such as those of
/// `SessionContext::read_parquet`, which asks no session for the format.
#[derive(Debug)]
pub(crate) struct CheckedScans {
    runtime: Arc<RuntimeEnv>,
}

impl CheckedScans {
    /// The rule's name.
    pub(crate) const NAME: &str = "checked_parquet_scans";

    /// For plans that run in `runtime`.
    pub(crate) fn new(runtime: Arc<RuntimeEnv>) -> Self {
        Self { runtime }
    }
}

impl PhysicalOptimizerRule for CheckedScans {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let check = |node: Arc<dyn ExecutionPlan>| {
            let checked = checked(&node, &self.runtime)?;
            let is_new = checked.is_some();
            let node = checked.unwrap_or(node);
            Ok(match with_decimals_checked(&node) {
                Some(checked) => Transformed::yes(checked),
                None if is_new => Transformed::yes(node),
                None => Transformed::no(node),
            })
        };
        plan.transform_up(check).data()
    }

    fn name(&self) -> &str {
        Self::NAME
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The same scan, of files that are looked over; `None` for what is no scan of Parquet files that DataFusion opens
/// itself.
pub(super) fn checked(
    plan: &Arc<dyn ExecutionPlan>,
    runtime: &RuntimeEnv,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let scan = plan.downcast_ref::<DataSourceExec>().and_then(|scan| scan.downcast_to_file_source());
    let Some((scan, parquet)): Option<(_, &ParquetSource)> = scan else { return Ok(None) };
    // What opens files says in no other way what it is.
    let is_own = |opens: &dyn std::fmt::Debug| {
        let name = format!("{opens:?}");
        ["CachedParquetFileReaderFactory", "DefaultParquetFileReaderFactory"]
            .iter()
            .any(|own| name.starts_with(own))
    };
    if parquet.parquet_file_reader_factory().is_some_and(|opens| !is_own(opens)) {
        return Ok(None);
    }
    let footers = runtime.cache_manager.get_file_metadata_cache();
    let files = CheckedFiles::new(runtime.object_store(&scan.object_store_url)?, Some(footers));
    let files = files.reading(texts_of(parquet.table_schema().file_schema()));
    let parquet = parquet.clone().with_parquet_file_reader_factory(Arc::new(files));
    let columns = Arc::clone(parquet.table_schema().table_schema());
    let groups = scan.file_groups.iter().map(|group| without_largest(group, &columns)).collect();
    let scan =
        FileScanConfigBuilder::from(scan.clone()).with_source(Arc::new(parquet)).with_file_groups(groups);
    Ok(Some(DataSourceExec::from_data_source(scan.build())))
}

/// The same scan, of files that are looked over, of whose decimals the digits are counted; `None` if it has none.
/// This comes last: what is said of the columns of a scan is said of plain ones.
fn with_decimals_checked(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let scan = plan.downcast_ref::<DataSourceExec>().and_then(|scan| scan.downcast_to_file_source());
    let (scan, parquet): (_, &ParquetSource) = scan?;
    // What makes columns says in no other way what it is.
    let is_own = |adapter: &dyn std::fmt::Debug| format!("{adapter:?}").starts_with("CheckedDecimals");
    let is_counted = scan.expr_adapter_factory.as_ref().is_some_and(|adapter| is_own(adapter));
    if is_counted || !any_has_decimals(parquet.table_schema().file_schema()) {
        return None;
    }
    let plain =
        scan.expr_adapter_factory.clone().unwrap_or_else(|| Arc::new(DefaultPhysicalExprAdapterFactory));
    let parquet = always_adapted(parquet.clone());
    let scan = FileScanConfigBuilder::from(scan.clone())
        .with_source(Arc::new(parquet))
        .with_expr_adapter(Some(Arc::new(CheckedDecimals::new(plain))));
    Some(DataSourceExec::from_data_source(scan.build()))
}

/// DataFusion makes no columns of the table of those of a file if they are the same and there is no filter.
pub(in crate::source::file) fn always_adapted(parquet: ParquetSource) -> ParquetSource {
    match parquet.filter() {
        Some(_) => parquet,
        None => parquet.with_predicate(lit(true)).with_pushdown_filters(false),
    }
}

/// `group` whose files do not say how large the largest floats are: NaN, which is left out, is larger.
fn without_largest(group: &FileGroup, columns: &Schema) -> FileGroup {
    let untold = |file: &PartitionedFile| {
        let mut file = file.clone();
        if let Some(known) = &mut file.statistics {
            let known = Arc::make_mut(known).column_statistics.iter_mut().zip(columns.fields());
            known.filter(|(_, column)| column.data_type().is_floating()).for_each(|(known, _)| {
                known.max_value = Precision::Absent;
            });
        }
        file
    };
    FileGroup::new(group.iter().map(untold).collect())
}
