//! Arrow files, which DataFusion writes with a sink that nobody else can know.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use datafusion::arrow::ipc::{CompressionType, MetadataVersion};
use datafusion::catalog::Session;
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::common::runtime::{JoinSet, SpawnedTask};
use datafusion::common::{GetExt, Statistics, not_impl_err};
use datafusion::datasource::file_format::arrow::{ArrowFormat, ArrowFormatFactory};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory};
use datafusion::datasource::physical_plan::{FileScanConfig, FileSink, FileSinkConfig, FileSource};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::physical_expr::LexRequirement;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};
use datafusion_datasource::TableSchema;
use datafusion_datasource::write::demux::DemuxedStreamReceiver;
use datafusion_datasource::write::{ObjectWriterBuilder, get_writer_schema};
use object_store::{ObjectMeta, ObjectStore};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::super::encode::{FileEncoding, FormatEncoding};
use super::super::layout::{plain_rows, plain_schema};

/// DataFusion's Arrow files, written by [`ArrowSink`].
#[derive(Debug, Default)]
pub(crate) struct ArrowFiles(ArrowFormatFactory);

impl GetExt for ArrowFiles {
    fn get_ext(&self) -> String {
        self.0.get_ext()
    }
}

impl FileFormatFactory for ArrowFiles {
    fn create(&self, _: &dyn Session, _: &HashMap<String, String>) -> Result<Arc<dyn FileFormat>> {
        Ok(FileFormatFactory::default(self))
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        Arc::new(WrittenArrow(ArrowFormat))
    }
}

#[derive(Debug)]
struct WrittenArrow(ArrowFormat);

#[async_trait]
impl FileFormat for WrittenArrow {
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
        self.0.infer_schema(state, store, objects).await
    }

    async fn infer_stats(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Statistics> {
        self.0.infer_stats(state, store, schema, object).await
    }

    async fn create_physical_plan(
        &self,
        state: &dyn Session,
        config: FileScanConfig,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.0.create_physical_plan(state, config).await
    }

    async fn create_writer_physical_plan(
        &self,
        input: Arc<dyn ExecutionPlan>,
        _: &dyn Session,
        config: FileSinkConfig,
        order: Option<LexRequirement>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if config.insert_op != InsertOp::Append {
            return not_impl_err!("Arrow files are only added to a table, not replaced");
        }
        Ok(Arc::new(DataSinkExec::new(input, Arc::new(ArrowSink { config }), order)))
    }

    fn file_source(&self, schema: TableSchema) -> Arc<dyn FileSource> {
        self.0.file_source(schema)
    }
}

/// Writes Arrow IPC files as DataFusion does.
#[derive(Debug)]
pub(super) struct ArrowSink {
    config: FileSinkConfig,
}

impl DisplayAs for ArrowSink {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match kind {
            DisplayFormatType::TreeRender => {
                write!(f, "format: arrow\nfile={}", self.config.original_url)
            }
            _ => write!(f, "ArrowFileSink(file={})", self.config.original_url),
        }
    }
}

#[async_trait]
impl DataSink for ArrowSink {
    fn schema(&self) -> &SchemaRef {
        self.config.output_schema()
    }

    async fn write_all(&self, rows: SendableRecordBatchStream, context: &Arc<TaskContext>) -> Result<u64> {
        FileSink::write_all(self, rows, context).await
    }
}

#[async_trait]
impl FileSink for ArrowSink {
    fn config(&self) -> &FileSinkConfig {
        &self.config
    }

    async fn spawn_writer_tasks_and_join(
        &self,
        context: &Arc<TaskContext>,
        demux: SpawnedTask<Result<()>>,
        mut files: DemuxedStreamReceiver,
        store: Arc<dyn ObjectStore>,
    ) -> Result<u64> {
        let options = IpcWriteOptions::try_new(64, false, MetadataVersion::V5)?
            .try_with_compression(Some(CompressionType::LZ4_FRAME))?;
        let format = FormatEncoding::Arrow(options);
        // A file has one dictionary for a column, and rows come with one for each batch.
        let schema = plain_schema(&get_writer_schema(&self.config));
        let encoding = FileEncoding { schema: Arc::clone(&schema), format };
        let buffer = context.session_config().options().execution.objectstore_writer_buffer_size;
        let mut writers: JoinSet<Result<u64>> = JoinSet::new();
        while let Some((path, mut rows)) = files.recv().await {
            let mut encoder = encoding.encoder()?;
            let plain = FileCompressionType::from(CompressionTypeVariant::UNCOMPRESSED);
            let mut file = ObjectWriterBuilder::new(plain, &path, Arc::clone(&store))
                .with_buffer_size(Some(buffer))
                .build()?;
            let schema = Arc::clone(&schema);
            writers.spawn(async move {
                let mut count = 0;
                while let Some(batch) = rows.recv().await {
                    count += batch.num_rows() as u64;
                    encoder.write(&plain_rows(&batch, &schema)?)?;
                    write(&mut file, encoder.take()).await?;
                }
                write(&mut file, encoder.finish()?).await?;
                file.shutdown().await?;
                Ok(count)
            });
        }
        let mut count = 0;
        while let Some(written) = writers.join_next().await {
            count += written.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))??;
        }
        demux.join_unwind().await.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))??;
        Ok(count)
    }
}

async fn write(file: &mut (impl AsyncWrite + Unpin), chunks: Vec<Bytes>) -> Result<()> {
    for chunk in chunks {
        file.write_all(&chunk).await?;
    }
    Ok(())
}
