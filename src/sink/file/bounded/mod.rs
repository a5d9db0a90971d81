//! What batch queries write with `COPY … TO` and `INSERT INTO`: the values that streaming queries write,
//! and all files or none.
//!
//! DataFusion's own sinks put the text of an error in the place of a date that has no text, null in the
//! place of NaN, and 0 or an empty text in the place of null where it becomes a directory. And what they
//! have written when a query fails stays there and looks complete.

mod arrow;
mod directories;
mod staged;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::arrow::json;
use datafusion::common::config::ConfigOptions;
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{GetExt, exec_err};
use datafusion::datasource::file_format::csv::CsvSink;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonSink;
use datafusion::datasource::file_format::parquet::ParquetSink;
use datafusion::datasource::physical_plan::{FileSink, FileSinkConfig};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};
use datafusion_datasource::write::BatchSerializer;
use datafusion_datasource::write::demux::DemuxedStreamReceiver;
use datafusion_datasource::write::orchestration::spawn_writer_tasks_and_join;
use futures::StreamExt;
use object_store::ObjectStore;

use super::encode::{LineFormat, as_stored, stored_schema};
use arrow::ArrowSink;
use staged::StagedStore;

pub(crate) use arrow::ArrowFiles;

/// Puts sinks of ours in the place of those that DataFusion writes files with.
///
/// In the physical plan, because that is where all ways to write meet: statements, tables, and the methods
/// of data frames.
#[derive(Debug, Default)]
pub(crate) struct BoundedWrites {
    /// Whether JSON objects have fields that are null.
    pub explicit_nulls: bool,
    /// The columns of the table that is written to, if more is known of them than DataFusion knows.
    pub table: Option<SchemaRef>,
}

impl BoundedWrites {
    /// `plan`, writing as we do.
    pub(crate) fn apply(&self, plan: Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let sink = node.downcast_ref::<DataSinkExec>().map(|exec| self.sink(exec));
            let Some(sink) = sink.transpose()?.flatten() else { return Ok(Transformed::no(node)) };
            let exec = sink.exec.clone();
            let (input, order) = (Arc::clone(exec.input()), exec.sort_order().clone());
            Ok(Transformed::yes(Arc::new(DataSinkExec::new(input, Arc::new(sink), order)) as _))
        })
        .data()
    }

    /// Ours in the place of the sink of `exec`, if that writes files.
    fn sink(&self, exec: &DataSinkExec) -> DataFusionResult<Option<BoundedSink>> {
        let mut exec = exec.clone();
        if let Some(parquet) = exec.sink().downcast_ref::<ParquetSink>()
            && let Some(parquet) = with_stored_columns(parquet)?
        {
            exec = DataSinkExec::new(Arc::clone(exec.input()), Arc::new(parquet), exec.sort_order().clone());
        }
        let sink = exec.sink();
        let (config, writer) = if let Some(json) = sink.downcast_ref::<JsonSink>() {
            let options = json.writer_options();
            let builder = json::WriterBuilder::new().with_explicit_nulls(self.explicit_nulls);
            let format = LineFormat::Json(builder);
            (json.config(), Writer::Lines(format, options.compression, options.compression_level))
        } else if let Some(csv) = sink.downcast_ref::<CsvSink>() {
            let options = csv.writer_options();
            let builder = options.writer_options.clone();
            let format = LineFormat::Csv { header: builder.header(), builder };
            (csv.config(), Writer::Lines(format, options.compression, options.compression_level))
        } else if let Some(parquet) = sink.downcast_ref::<ParquetSink>() {
            (parquet.config(), Writer::Parquet)
        } else if let Some(arrow) = sink.downcast_ref::<ArrowSink>() {
            (arrow.config(), Writer::Arrow)
        } else {
            return Ok(None);
        };
        let mut config = config.clone();
        if let Writer::Lines(_, compression, _) = &writer {
            // What a table's files are compressed with, its own sink does not say.
            let extension = FileCompressionType::from(*compression).get_ext();
            if !config.file_extension.ends_with(&extension) {
                config.file_extension.push_str(&extension);
            }
        }
        let schema = self.schema(sink.schema(), &config);
        Ok(Some(BoundedSink { config, schema, writer, exec }))
    }

    /// The columns of the rows, with those nullable that may be null. DataFusion takes none of those that
    /// become directories for nullable.
    fn schema(&self, schema: &SchemaRef, config: &FileSinkConfig) -> SchemaRef {
        let fields = schema.fields().iter().map(|field| {
            if config.table_partition_cols.iter().all(|(name, _)| name != field.name()) {
                return Arc::clone(field);
            }
            let declared = self.table.as_ref().and_then(|table| table.field_with_name(field.name()).ok());
            let nullable = declared.is_none_or(Field::is_nullable);
            Arc::new(field.as_ref().clone().with_nullable(nullable))
        });
        let fields: Fields = fields.collect();
        Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
    }
}

impl PhysicalOptimizerRule for BoundedWrites {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        self.apply(plan)
    }

    fn name(&self) -> &str {
        "tidemill_bounded_writes"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// `sink` for columns as Parquet's own types hold them; `None` if they are such already. Those that become
/// directories stay as they are.
fn with_stored_columns(sink: &ParquetSink) -> DataFusionResult<Option<ParquetSink>> {
    let mut config = sink.config().clone();
    let schema = Arc::clone(config.output_schema());
    let becomes_directory =
        |field: &Field| config.table_partition_cols.iter().any(|(name, _)| name == field.name());
    let stored = stored_schema(&schema)?;
    let fields = schema.fields().iter().zip(stored.fields());
    let fields = fields.map(|(field, stored)| if becomes_directory(field) { field } else { stored });
    let stored: SchemaRef =
        Arc::new(Schema::new_with_metadata(fields.cloned().collect::<Fields>(), schema.metadata().clone()));
    if stored == schema {
        return Ok(None);
    }
    config.output_schema = stored;
    // What the rows are sorted by stays unsaid.
    Ok(Some(ParquetSink::new(config, sink.parquet_options().clone())))
}

/// Who makes bytes of rows.
enum Writer {
    Lines(LineFormat, CompressionTypeVariant, Option<u32>),
    Parquet,
    Arrow,
}

/// Writes the files of a batch query.
struct BoundedSink {
    config: FileSinkConfig,
    schema: SchemaRef,
    writer: Writer,
    /// The sink that it stands for.
    exec: DataSinkExec,
}

impl fmt::Debug for BoundedSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedSink").field("instead", &self.exec.sink()).finish()
    }
}

impl DisplayAs for BoundedSink {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exec.sink().fmt_as(kind, f)
    }
}

impl BoundedSink {
    /// `rows` with the columns of the files.
    fn stored(&self, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let schema = Arc::clone(self.config.output_schema());
        let is_stored = |(a, b): (&FieldRef, &FieldRef)| a.data_type() == b.data_type();
        if rows.schema().fields().iter().zip(schema.fields()).all(is_stored) {
            return rows;
        }
        let of = Arc::clone(&schema);
        let stored = rows.map(move |rows| Ok(as_stored(&rows?, &of)?));
        Box::pin(RecordBatchStreamAdapter::new(schema, stored))
    }

    async fn write_files(
        &self,
        context: &Arc<TaskContext>,
        demux: SpawnedTask<DataFusionResult<()>>,
        files: DemuxedStreamReceiver,
        store: Arc<dyn ObjectStore>,
    ) -> DataFusionResult<u64> {
        match &self.writer {
            Writer::Lines(format, compression, level) => {
                let lines = Arc::new(Lines(format.clone()));
                let compression = (*compression).into();
                spawn_writer_tasks_and_join(context, lines, compression, *level, store, demux, files).await
            }
            Writer::Parquet => match self.exec.sink().downcast_ref::<ParquetSink>() {
                Some(sink) => sink.spawn_writer_tasks_and_join(context, demux, files, store).await,
                None => exec_err!("the sink is none of Parquet files"),
            },
            Writer::Arrow => match self.exec.sink().downcast_ref::<ArrowSink>() {
                Some(sink) => sink.spawn_writer_tasks_and_join(context, demux, files, store).await,
                None => exec_err!("the sink is none of Arrow files"),
            },
        }
    }
}

#[async_trait]
impl FileSink for BoundedSink {
    fn config(&self) -> &FileSinkConfig {
        &self.config
    }

    async fn spawn_writer_tasks_and_join(
        &self,
        context: &Arc<TaskContext>,
        demux: SpawnedTask<DataFusionResult<()>>,
        files: DemuxedStreamReceiver,
        store: Arc<dyn ObjectStore>,
    ) -> DataFusionResult<u64> {
        let staged = Arc::new(StagedStore::new(store));
        let written = self.write_files(context, demux, files, Arc::clone(&staged) as _).await;
        match written {
            Ok(rows) => {
                staged.publish().await?;
                Ok(rows)
            }
            Err(error) => {
                staged.abandon().await;
                Err(error)
            }
        }
    }
}

#[async_trait]
impl DataSink for BoundedSink {
    fn metrics(&self) -> Option<MetricsSet> {
        self.exec.sink().metrics()
    }

    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    async fn write_all(
        &self,
        rows: SendableRecordBatchStream,
        context: &Arc<TaskContext>,
    ) -> DataFusionResult<u64> {
        let rows = match &self.writer {
            Writer::Parquet => self.stored(rows),
            _ => rows,
        };
        if self.config.table_partition_cols.is_empty() {
            return FileSink::write_all(self, rows, context).await;
        }
        let store = context.runtime_env().object_store(&self.config.object_store_url)?;
        let (demux, files) = directories::divide(&self.config, rows, context);
        self.spawn_writer_tasks_and_join(context, demux, files, store).await
    }
}

/// Lines of one batch at a time.
struct Lines(LineFormat);

impl BatchSerializer for Lines {
    fn serialize(&self, rows: RecordBatch, initial: bool) -> DataFusionResult<Bytes> {
        let mut lines = Vec::with_capacity(32 * rows.num_rows());
        self.0.encode(&rows, initial, &mut lines)?;
        Ok(lines.into())
    }
}
