//! The leaf of a streaming plan that gives what is read from bounded tables.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;

use super::node::Behaviour;
use crate::error::Error;

/// What a part of the plan that reads only bounded tables gives, as of one moment.
pub(crate) enum StaticContent {
    /// Its rows, with the memory that they take.
    Rows(Vec<RecordBatch>, MemoryReservation),
    /// The plan that reads them, for there are too many to be kept. It is executed only once.
    Plan(Arc<dyn ExecutionPlan>),
}

/// A part of a streaming plan that reads only bounded tables, and what it gives at the moment. All
/// plans of a query share it.
pub(crate) struct StaticPart {
    number: usize,
    tables: String,
    schema: SchemaRef,
    content: Mutex<Option<Arc<StaticContent>>>,
}

impl StaticPart {
    /// The part with this number, from 0, which reads `tables` and gives rows of `schema`.
    pub(crate) fn new(number: usize, tables: String, schema: SchemaRef) -> Self {
        Self { number, tables, schema, content: Mutex::new(None) }
    }

    /// The names of the tables that it reads.
    pub(crate) fn tables(&self) -> &str {
        &self.tables
    }

    /// What its rows look like.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Has plans that are reset from now on give `content`.
    pub(crate) fn set(&self, content: StaticContent) {
        *self.content.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(content));
    }

    /// Gives back the memory of what it gave until now.
    pub(crate) fn clear(&self) {
        *self.content.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What it gives at the moment, if that is known.
    pub(crate) fn content(&self) -> Option<Arc<StaticContent>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `batch` with the fields that the rest of the plan was planned with: those of a physical plan
    /// may differ in metadata, or in what may be null.
    pub(crate) fn conform(&self, batch: RecordBatch) -> DataFusionResult<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().to_vec();
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// `error` with the tables that could not be read.
    pub(crate) fn blame(&self, error: DataFusionError) -> DataFusionError {
        error.context(format!("the bounded table {} cannot be read", self.tables))
    }
}

impl fmt::Display for StaticPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "part={}, tables=[{}]", self.number, self.tables)
    }
}

impl fmt::Debug for StaticPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticPart({self})")
    }
}

/// Gives what its part gave when the plan was reset for the batch.
#[derive(Debug)]
pub(crate) struct StaticTable {
    part: Arc<StaticPart>,
    content: Option<Arc<StaticContent>>,
}

impl fmt::Debug for StaticContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows, memory) => write!(f, "{} batches, {} bytes", rows.len(), memory.size()),
            Self::Plan(_) => f.write_str("a plan"),
        }
    }
}

impl StaticTable {
    pub(crate) fn new(part: Arc<StaticPart>) -> Self {
        let content = part.content();
        Self { part, content }
    }
}

impl Behaviour for StaticTable {
    fn name(&self) -> &'static str {
        "StaticTableExec"
    }

    fn describe(&self) -> String {
        self.part.to_string()
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.part.schema)
    }

    fn partitions(&self, _: usize) -> usize {
        1
    }

    fn fresh(&self) -> Option<Self> {
        Some(Self::new(Arc::clone(&self.part)))
    }

    fn execute(
        self: &Arc<Self>,
        _: Option<&Arc<dyn ExecutionPlan>>,
        _: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let Some(content) = self.content.clone() else {
            let reason = format!("the bounded table {} was not read before the batch", self.part.tables);
            return Err(Error::Invalid(reason).into());
        };
        let schema = Arc::clone(&self.part.schema);
        let rows = match content.as_ref() {
            // The rows' memory stays accounted for as long as somebody may read them.
            StaticContent::Rows(..) => futures::stream::unfold((content, 0), |(content, index)| async move {
                let StaticContent::Rows(rows, _) = content.as_ref() else { return None };
                let batch = rows.get(index)?.clone();
                Some((Ok(batch), (content, index + 1)))
            })
            .boxed(),
            StaticContent::Plan(plan) => {
                let part = Arc::clone(&self.part);
                execute_stream(Arc::clone(plan), context)
                    .map_err(|error| self.part.blame(error))?
                    .map(move |batch| {
                        batch.and_then(|batch| part.conform(batch)).map_err(|error| part.blame(error))
                    })
                    .boxed()
            }
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}
