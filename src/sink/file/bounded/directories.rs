//! Rows of batch queries to directories, as streaming queries name them.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{exec_datafusion_err, plan_datafusion_err};
use datafusion::datasource::physical_plan::FileSinkConfig;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion_datasource::write::demux::DemuxedStreamReceiver;
use futures::StreamExt;
use object_store::path::Path;
use tokio::sync::mpsc::{self, Sender, UnboundedSender};
use uuid::Uuid;

use super::super::partition::Splitter;

/// Divides `rows` among the files of their directories: the task that does it, and the files as they come.
pub(super) fn divide(
    config: &FileSinkConfig,
    mut rows: SendableRecordBatchStream,
    context: &Arc<TaskContext>,
) -> (SpawnedTask<Result<()>>, DemuxedStreamReceiver) {
    let (files, receiver) = mpsc::unbounded_channel();
    let config = config.clone();
    let buffered = context.session_config().options().execution.max_buffered_batches_per_output_file.get();
    let task = SpawnedTask::spawn(async move {
        let schema = rows.schema();
        let of_name = |name: &String| {
            schema
                .index_of(name)
                .map_err(|_| plan_datafusion_err!("there is no column '{name}' to partition by"))
        };
        let keys = config.table_partition_cols.iter().map(|(name, _)| of_name(name));
        let keys = keys.collect::<Result<Vec<usize>>>()?;
        let is_written = |index: &usize| config.keep_partition_by_columns || !keys.contains(index);
        let columns: Vec<usize> = (0..schema.fields().len()).filter(is_written).collect();
        let mut splitter = Splitter::new(Arc::new(schema.project(&keys)?));
        let mut directories = Directories { files, buffered, open: HashMap::new(), config };
        while let Some(batch) = rows.next().await.transpose()? {
            if batch.num_rows() == 0 {
                continue;
            }
            let values: Vec<_> = keys.iter().map(|key| Arc::clone(batch.column(*key))).collect();
            let at_once = splitter.push(&values, batch.project(&columns)?)?;
            if let Some((directory, rows)) = at_once {
                directories.send(directory, rows).await?;
            }
            if splitter.is_full(usize::MAX) {
                directories.drain(&mut splitter).await?;
            }
        }
        directories.drain(&mut splitter).await
    });
    (task, receiver)
}

/// The files that are open, one for each directory.
struct Directories {
    config: FileSinkConfig,
    files: UnboundedSender<(Path, mpsc::Receiver<RecordBatch>)>,
    /// How many batches may wait to be written.
    buffered: usize,
    open: HashMap<String, Sender<RecordBatch>>,
}

impl Directories {
    async fn drain(&mut self, splitter: &mut Splitter) -> Result<()> {
        let mut waiting = splitter.drain();
        while let Some((directory, rows)) = waiting.next()? {
            self.send(directory, rows).await?;
        }
        Ok(())
    }

    async fn send(&mut self, directory: String, rows: RecordBatch) -> Result<()> {
        // The writer says itself what went wrong.
        let stopped = |_| exec_datafusion_err!("the writer of a file has stopped");
        if !self.open.contains_key(&directory) {
            let (sender, receiver) = mpsc::channel(self.buffered);
            self.files.send((self.file(&directory)?, receiver)).map_err(|_| stopped(()))?;
            self.open.insert(directory.clone(), sender);
        }
        match self.open.get(&directory) {
            Some(sender) => sender.send(rows).await.map_err(|_| stopped(())),
            None => Err(stopped(())),
        }
    }

    /// A new file in `directory`.
    fn file(&self, directory: &str) -> Result<Path> {
        let base = self.config.table_paths.first();
        let base = base.ok_or_else(|| plan_datafusion_err!("there is nowhere to write to"))?.prefix();
        let name = format!("{}.{}", Uuid::new_v4().simple(), self.config.file_extension);
        // Escaped already.
        Ok(Path::parse(format!("{base}/{directory}/{name}"))?)
    }
}
