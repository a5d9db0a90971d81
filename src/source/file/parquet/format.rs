//! The format as tables of DataFusion's know it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::{GetExt, Statistics};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::parquet::{ParquetFormat, ParquetFormatFactory};
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory};
use datafusion::datasource::physical_plan::parquet::metadata::{
    DFParquetMetadata, ordering_from_parquet_metadata,
};
use datafusion::datasource::physical_plan::{FileScanConfig, FileSinkConfig, FileSource};
use datafusion::error::Result;
use datafusion::parquet::file::metadata::PageIndexPolicy;
use datafusion::physical_expr::{LexOrdering, LexRequirement};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_datasource::TableSchema;
use datafusion_datasource::file_format::FileMeta;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};

use super::scans::checked;
use super::{CheckedFiles, panicked};

/// Page indexes are of use, and not needed.
const OPTIONAL: PageIndexPolicy = PageIndexPolicy::Optional;

/// DataFusion's Parquet files, looked over before they are read.
#[derive(Debug, Default)]
pub(crate) struct ParquetFiles(ParquetFormatFactory);

impl GetExt for ParquetFiles {
    fn get_ext(&self) -> String {
        self.0.get_ext()
    }
}

impl FileFormatFactory for ParquetFiles {
    fn create(&self, state: &dyn Session, options: &HashMap<String, String>) -> Result<Arc<dyn FileFormat>> {
        let format = self.0.create(state, options)?;
        Ok(match format.downcast_ref::<ParquetFormat>() {
            Some(parquet) => {
                Arc::new(CheckedFormat::new(ParquetFormat::default().with_options(parquet.options().clone())))
            }
            None => format,
        })
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        Arc::new(CheckedFormat::new(ParquetFormat::default()))
    }
}

#[derive(Debug)]
pub(in crate::source::file) struct CheckedFormat(ParquetFormat);

impl CheckedFormat {
    pub(in crate::source::file) fn new(format: ParquetFormat) -> Self {
        Self(format)
    }

    /// Files whose footers are kept where DataFusion finds them.
    fn checked(&self, state: &dyn Session, store: &Arc<dyn ObjectStore>) -> CheckedFiles {
        let cache = state.runtime_env().cache_manager.get_file_metadata_cache();
        CheckedFiles::new(Arc::clone(store), Some(cache))
    }

    fn hint(&self) -> Option<usize> {
        self.0.metadata_size_hint()
    }

    /// Reads what `files` say of themselves into the cache that DataFusion finds it in.
    async fn look_over(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        files: &[ObjectMeta],
    ) -> Result<()> {
        let checked = self.checked(state, store);
        let at_once = state.config_options().execution.meta_fetch_concurrency.get();
        let looks = files.iter().map(|file| checked.metadata(file, self.hint(), OPTIONAL).boxed());
        let looks: Vec<BoxFuture<'_, _>> = looks.collect();
        futures::stream::iter(looks)
            .buffered(at_once)
            .try_for_each(|_| futures::future::ready(Ok(())))
            .await?;
        Ok(())
    }
}

#[async_trait]
impl FileFormat for CheckedFormat {
    fn get_ext(&self) -> String {
        self.0.get_ext()
    }

    fn get_ext_with_compression(&self, compression: &FileCompressionType) -> Result<String> {
        self.0.get_ext_with_compression(compression)
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        self.0.compression_type()
    }

    async fn infer_schema(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Result<SchemaRef> {
        self.look_over(state, store, objects).await?;
        // The columns that Arrow has put beside those of Parquet may be damaged, which is found out by panicking.
        let inferred = AssertUnwindSafe(self.0.infer_schema(state, store, objects)).catch_unwind().await;
        inferred.unwrap_or_else(|panic| Err(panicked(panic.as_ref()).into()))
    }

    async fn infer_stats(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Statistics> {
        let metadata = self.checked(state, store).metadata(object, self.hint(), OPTIONAL).await?;
        DFParquetMetadata::statistics_from_parquet_metadata(&metadata, &schema)
    }

    async fn infer_ordering(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Option<LexOrdering>> {
        let metadata = self.checked(state, store).metadata(object, self.hint(), OPTIONAL).await?;
        ordering_from_parquet_metadata(&metadata, &schema)
    }

    async fn infer_stats_and_ordering(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<FileMeta> {
        let metadata = self.checked(state, store).metadata(object, self.hint(), OPTIONAL).await?;
        let statistics = DFParquetMetadata::statistics_from_parquet_metadata(&metadata, &schema)?;
        Ok(FileMeta::new(statistics).with_ordering(ordering_from_parquet_metadata(&metadata, &schema)?))
    }

    async fn create_physical_plan(
        &self,
        state: &dyn Session,
        config: FileScanConfig,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self.0.create_physical_plan(state, config).await?;
        Ok(checked(&plan, state.runtime_env())?.unwrap_or(plan))
    }

    async fn create_writer_physical_plan(
        &self,
        input: Arc<dyn ExecutionPlan>,
        state: &dyn Session,
        config: FileSinkConfig,
        order: Option<LexRequirement>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.0.create_writer_physical_plan(input, state, config, order).await
    }

    fn file_source(&self, table: TableSchema) -> Arc<dyn FileSource> {
        self.0.file_source(table)
    }
}
