//! What a query remembers, read from its checkpoint, beside the query.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringArray, TimestampMicrosecondArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::streaming::PartitionStream;
use tokio::sync::mpsc::Sender;

use super::state_columns::StateColumns;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::records::OperatorDefinition;
use crate::error::{Error, Result};
use crate::state::{Manifest, read_state};
use crate::storage::Storage;

/// What the stateful operators of a query remembered after one committed batch.
///
/// A running query is not disturbed. The state of a batch can be read for as long as the checkpoint
/// has its commit record (`minBatchesToRetain`).
#[derive(Debug, Clone)]
pub struct StoredState {
    storage: Arc<dyn Storage>,
    /// As the user wrote it.
    checkpoint: String,
    operators: Vec<OperatorDefinition>,
    batch_id: u64,
    manifest: Manifest,
}

impl StoredState {
    /// Reads what there is as of `batch`, or the last committed one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no checkpoint, no state, or not that batch.
    pub(crate) async fn open(
        storage: Arc<dyn Storage>,
        checkpoint: &str,
        batch: Option<u64>,
    ) -> Result<Self> {
        let Some(metadata) = Checkpoint::read_metadata(storage.as_ref()).await? else {
            return Err(Error::Invalid(format!("{checkpoint} is not the checkpoint of a query")));
        };
        let operators = metadata.definition.operators;
        if operators.is_empty() {
            return Err(Error::Invalid(format!("{checkpoint} has no state: its query remembers no rows")));
        }
        let batches = Checkpoint::committed_batches(storage.as_ref()).await?;
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
            return Err(Error::Invalid(format!(
                "{checkpoint} has no state yet: no batch has been committed"
            )));
        };
        let batch_id = batch.unwrap_or(*last);
        let Some(commit) = Checkpoint::read_commit(storage.as_ref(), batch_id).await? else {
            return Err(Error::Invalid(format!(
                "{checkpoint} does not have batch {batch_id}; it has those from {first} to {last}"
            )));
        };
        let manifest = Manifest::from_record(&commit.state)?;
        Ok(Self { storage, checkpoint: checkpoint.to_string(), operators, batch_id, manifest })
    }

    /// The batch.
    pub fn batch_id(&self) -> u64 {
        self.batch_id
    }

    /// How many files hold the state.
    pub fn files(&self) -> usize {
        self.manifest.segments.len()
    }

    /// How long these files are together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.manifest.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The operators, a row each: `operator` is the number, from 0; `name`; `rows`, how many it has;
    /// `expired_up_to`, up to when rows have expired and are gone, null if none ever have.
    ///
    /// # Errors
    /// None that could be helped.
    pub fn operators(&self) -> Result<RecordBatch> {
        let known = |number: usize| self.manifest.operators.get(number);
        let numbers = 0..self.operators.len();
        let rows = numbers.clone().map(|number| known(number).map_or(0, |state| state.rows));
        let expired = numbers.clone().map(|number| known(number).and_then(|state| state.expired));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from_iter_values(numbers.map(|number| number as u64))),
            Arc::new(StringArray::from_iter_values(self.operators.iter().map(|known| &known.name))),
            Arc::new(UInt64Array::from_iter_values(rows)),
            Arc::new(expired.collect::<TimestampMicrosecondArray>()),
        ];
        Ok(RecordBatch::try_new(overview_schema(), columns)?)
    }

    /// The rows that an operator, counted from 0, remembers, as a table: the columns of its key, those
    /// of the value (for an aggregation the partial results, for a limit `rows_seen`), and `expires`,
    /// when the watermark makes it forget the row, null for never. In no particular order.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such operator.
    pub fn table(&self, operator: usize) -> Result<Arc<dyn TableProvider>> {
        self.as_table(Some(operator), Some(self.batch_id))
    }

    /// How many of the first columns of an operator's table are the key.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such operator.
    pub fn key_columns(&self, operator: usize) -> Result<usize> {
        Ok(self.columns(operator)?.key_columns())
    }

    /// The rows of `operator`, or the list of operators, as a table that is read anew, as of `batch` or
    /// the last one, whenever it is scanned.
    pub(crate) fn as_table(
        &self,
        operator: Option<usize>,
        batch: Option<u64>,
    ) -> Result<Arc<dyn TableProvider>> {
        let schema = match operator {
            None => overview_schema(),
            Some(number) => Arc::clone(self.columns(number)?.schema()),
        };
        let rows = StateRowsOf {
            storage: Arc::clone(&self.storage),
            checkpoint: self.checkpoint.clone(),
            operator,
            batch,
            schema: Arc::clone(&schema),
        };
        Ok(Arc::new(StreamingTable::try_new(schema, vec![Arc::new(rows)])?))
    }

    fn columns(&self, operator: usize) -> Result<StateColumns> {
        let Some(definition) = self.operators.get(operator) else {
            let there = self.operators.iter().enumerate();
            let there: Vec<String> =
                there.map(|(number, known)| format!("{number} ({})", known.name)).collect();
            return Err(Error::Invalid(format!(
                "{} has no operator {operator}; it has {}",
                self.checkpoint,
                there.join(", ")
            )));
        };
        StateColumns::of(definition)
    }

    /// Sends the rows of `operator`, whose columns are to be those of `schema`.
    async fn send_rows(
        &self,
        operator: usize,
        schema: &SchemaRef,
        to: Sender<datafusion::error::Result<RecordBatch>>,
    ) -> Result<()> {
        let columns = Arc::new(self.columns(operator)?);
        if columns.schema() != schema {
            return Err(Error::Invalid(format!(
                "{} has become the checkpoint of another query since this statement was planned",
                self.checkpoint
            )));
        }
        read_state(&self.storage, &self.manifest, operator, |rows| {
            let (columns, to) = (Arc::clone(&columns), to.clone());
            async move {
                for batch in columns.decode(&rows) {
                    if to.send(Ok(batch?)).await.is_err() {
                        return Err(Error::Invalid("nobody reads the rows any more".into()));
                    }
                }
                Ok(())
            }
        })
        .await
    }
}

fn overview_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("operator", DataType::UInt64, false),
        Field::new("name", DataType::Utf8, false),
        Field::new("rows", DataType::UInt64, false),
        Field::new("expired_up_to", DataType::Timestamp(TimeUnit::Microsecond, None), true),
    ]))
}

/// What a table of state scans.
#[derive(Debug)]
struct StateRowsOf {
    storage: Arc<dyn Storage>,
    checkpoint: String,
    operator: Option<usize>,
    batch: Option<u64>,
    schema: SchemaRef,
}

impl PartitionStream for StateRowsOf {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        // Some rows are read ahead of those that are asked for, and no more.
        let mut stream = RecordBatchReceiverStream::builder(Arc::clone(&self.schema), 1);
        let to = stream.tx();
        let (storage, checkpoint) = (Arc::clone(&self.storage), self.checkpoint.clone());
        let (operator, batch, schema) = (self.operator, self.batch, Arc::clone(&self.schema));
        stream.spawn(async move {
            let state = StoredState::open(storage, &checkpoint, batch).await?;
            match operator {
                Some(operator) => state.send_rows(operator, &schema, to).await?,
                None => {
                    // That nobody reads it any more is no error.
                    let _ = to.send(Ok(state.operators()?)).await;
                }
            }
            Ok(())
        });
        stream.build()
    }
}
