//! What a sink has to keep.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::Value;
use uuid::Uuid;

use super::expect;
use super::rows::texts;
use crate::error::{Error, Result};
use crate::sink::{OutputMode, Sink, SinkBatch, SinkDistribution};

/// A sink that is to be tried, and a way to read what it shows.
#[async_trait]
pub trait SinkCase: Send + Sync {
    /// The sink for results of `schema` (`id BIGINT`, `name VARCHAR`), as each start of a query makes it: a new
    /// object that writes to the same place. For one that does not outlive the process
    /// ([`Sink::is_ephemeral`]), always the same.
    async fn sink(&self, schema: SchemaRef) -> Result<Arc<dyn Sink>>;

    /// All rows that readers see by now, in any order.
    async fn visible(&self) -> Result<Vec<RecordBatch>>;
}

/// Tries a sink whose place is empty, in append mode. Of one that shows a batch before it is published
/// ([`Sink::shows_only_published`]) is asked that a batch which comes again with the same rows is shown once.
///
/// # Errors
/// The first promise that it breaks, or an error that it gives where it may not.
pub async fn check_sink(case: &dyn SinkCase) -> Result<()> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
    ]));
    let sink = case.sink(Arc::clone(&schema)).await?;
    sink.check_output_mode(OutputMode::Append)?;
    let mut trial =
        Trial { case, schema, sink, query_id: Uuid::new_v4(), next: 0, last: None, rows: Vec::new() };
    trial.sink.recover(trial.query_id, None).await?;
    trial.sees("a new sink shows nothing").await?;
    trial.batches().await?;
    trial.gives_up().await?;
    if !trial.sink.is_ephemeral() {
        trial.dies().await?;
    }
    trial.sink.close().await?;
    trial.sees("what was published stays when the query ends").await
}

/// A query as the sink sees it.
struct Trial<'a> {
    case: &'a dyn SinkCase,
    schema: SchemaRef,
    sink: Arc<dyn Sink>,
    query_id: Uuid,
    next: u64,
    /// The last committed batch.
    last: Option<(u64, Value)>,
    /// What readers are to see.
    rows: Vec<RecordBatch>,
}

impl Trial<'_> {
    fn batch(&self) -> SinkBatch {
        SinkBatch {
            query_id: self.query_id,
            run_id: Uuid::new_v4(),
            batch_id: self.next,
            output_mode: OutputMode::Append,
        }
    }

    fn some(&self, first: i64, count: usize) -> Result<RecordBatch> {
        let ids: Vec<i64> = (first..).take(count).collect();
        let names = ids.iter().map(|id| (id % 3 != 0).then(|| format!("row {id} of batch {}", self.next)));
        let names = StringArray::from_iter(names);
        let columns = vec![Arc::new(Int64Array::from(ids)) as _, Arc::new(names) as _];
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    async fn sees(&self, promise: &str) -> Result<()> {
        expect(promise, &texts(&self.rows)?, &texts(&self.case.visible().await?)?)
    }

    /// Writes rows in some partitions, each in two pieces, and closes them; what the commit would say.
    async fn stage(&self, batch: SinkBatch, partitions: &[RecordBatch]) -> Result<Value> {
        let mut reports = Vec::new();
        let partitions = match self.sink.distribution() {
            SinkDistribution::Any => partitions.to_vec(),
            SinkDistribution::Single => vec![concat_batches(&self.schema, partitions)?],
        };
        for (partition, rows) in partitions.iter().enumerate() {
            let mut writer = self.sink.writer(batch, partition).await?;
            let half = rows.num_rows() / 2;
            writer.write(rows.slice(0, half)).await?;
            writer.write(rows.slice(half, rows.num_rows() - half)).await?;
            reports.push(writer.close().await?);
        }
        let prepared = self.sink.prepare(batch, reports).await?;
        // It goes through the commit record.
        serde_json::from_str(&prepared.to_string()).map_err(|error| Error::Invalid(error.to_string()))
    }

    fn commit(&mut self, prepared: Value, rows: Vec<RecordBatch>) {
        self.last = Some((self.next, prepared));
        self.rows.extend(rows);
        self.next += 1;
    }

    async fn publish(&self) -> Result<()> {
        match &self.last {
            Some((batch, prepared)) => self.sink.publish(*batch, prepared).await,
            None => Ok(()),
        }
    }

    /// As if the process had died: a new object, told what the checkpoint says.
    async fn restart(&mut self) -> Result<()> {
        self.sink = self.case.sink(Arc::clone(&self.schema)).await?;
        self.sink.recover(self.query_id, self.last.as_ref().map(|(batch, prepared)| (*batch, prepared))).await
    }

    /// Batches as they come when nothing goes wrong.
    async fn batches(&mut self) -> Result<()> {
        for sizes in [&[5_usize, 4][..], &[0, 3], &[0], &[1]] {
            let rows: Vec<RecordBatch> =
                (0..).zip(sizes).map(|(part, size)| self.some(part * 100, *size)).collect::<Result<_>>()?;
            let prepared = self.stage(self.batch(), &rows).await?;
            if self.sink.shows_only_published() {
                self.sees("nothing is shown before the batch is committed").await?;
            }
            let written: u64 = sizes.iter().map(|size| *size as u64).sum();
            let counted = prepared["numRows"].as_u64();
            expect("prepare says how many rows there are, in numRows", &Some(written), &counted)?;
            self.commit(prepared, rows);
            self.publish().await?;
            self.sees("a batch is shown when it is published").await?;
            self.publish().await?;
            self.sees("publishing a batch again changes nothing").await?;
        }
        Ok(())
    }

    /// Batches that fail before their commit.
    async fn gives_up(&mut self) -> Result<()> {
        let batch = self.batch();
        let mut writer = self.sink.writer(batch, 0).await?;
        writer.write(self.some(1000, 4)?).await?;
        drop(writer);
        self.sink.abort(batch).await?;
        self.sees("a writer that is dropped shows nothing").await?;
        let rows = vec![self.some(2000, 2)?];
        if self.sink.shows_only_published() {
            self.stage(batch, &[self.some(1000, 4)?]).await?;
            self.sink.abort(batch).await?;
            self.sink.abort(batch).await?;
            self.sees("a batch that is aborted shows nothing").await?;
        } else {
            // What is shown already comes again with the same rows.
            self.stage(batch, &rows).await?;
            self.sink.abort(batch).await?;
        }
        let prepared = self.stage(self.batch(), &rows).await?;
        self.commit(prepared, rows);
        self.publish().await?;
        self.sees("after an abort the same batch can be written again").await
    }

    /// The process dies wherever it can.
    async fn dies(&mut self) -> Result<()> {
        let batch = self.batch();
        let mut writer = self.sink.writer(batch, 0).await?;
        writer.write(self.some(3000, 4)?).await?;
        self.restart().await?;
        drop(writer);
        self.sees("what was being written when the process died is not shown").await?;
        let rows = vec![self.some(6000, 3)?, self.some(7000, 3)?];
        if self.sink.shows_only_published() {
            self.stage(self.batch(), &[self.some(4000, 3)?, self.some(5000, 3)?]).await?;
            self.restart().await?;
            self.sees("what was staged and not committed is not shown after a restart").await?;
        } else {
            self.stage(self.batch(), &rows).await?;
            self.restart().await?;
        }
        let prepared = self.stage(self.batch(), &rows).await?;
        self.commit(prepared, rows);
        self.restart().await?;
        self.sees("a batch that was committed and not published is shown after a restart").await?;
        self.restart().await?;
        self.publish().await?;
        self.sees("it is shown once, however many restarts there are").await
    }
}
