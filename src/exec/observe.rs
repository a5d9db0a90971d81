//! Computing metrics of the rows that go by.

use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::{ScalarValue, internal_datafusion_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Accumulator;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use futures::{StreamExt, stream};
use serde_json::{Map, Value};

use super::node::Behaviour;
use super::observed::Observed;
use super::task::Task;
use crate::error::Result;
use crate::text::json_of_values;

/// Metrics of the rows that pass a point of a plan.
#[derive(Debug)]
pub(crate) struct Observation {
    /// What they are called together.
    pub(crate) name: String,
    /// The columns that the functions are over.
    pub(crate) columns: SchemaRef,
    pub(crate) functions: Vec<ObservedFunction>,
    /// The results of the functions.
    pub(crate) results: SchemaRef,
    /// The metrics, over the results of the functions.
    pub(crate) metrics: Vec<(String, Arc<dyn PhysicalExpr>)>,
}

/// An aggregate function, and which rows it counts.
#[derive(Debug)]
pub(crate) struct ObservedFunction {
    pub(crate) function: Arc<AggregateFunctionExpr>,
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
}

impl ObservedFunction {
    fn see(&self, accumulator: &mut dyn Accumulator, rows: &RecordBatch) -> DataFusionResult<()> {
        let kept = match &self.filter {
            None => None,
            Some(filter) => {
                let counts = filter.evaluate(rows)?.into_array(rows.num_rows())?;
                Some(filter_record_batch(rows, as_boolean_array(&counts)?)?)
            }
        };
        let rows = kept.as_ref().unwrap_or(rows);
        let values = self.function.expressions().into_iter();
        let values = values.map(|value| value.evaluate(rows)?.into_array(rows.num_rows()));
        accumulator.update_batch(&values.collect::<DataFusionResult<Vec<_>>>()?)
    }
}

impl Observation {
    fn accumulators(&self) -> DataFusionResult<Vec<Box<dyn Accumulator>>> {
        self.functions.iter().map(|observed| observed.function.create_accumulator()).collect()
    }

    /// The metrics of all that the partitions have seen, in their order. One that cannot be computed of them, such
    /// as a quotient by the number of no rows, is null.
    ///
    /// # Errors
    /// If what was seen does not add up.
    pub(crate) fn metrics<'a>(
        &self,
        partitions: impl Iterator<Item = &'a Observed>,
    ) -> Result<Map<String, Value>> {
        let mut accumulators = self.accumulators()?;
        for seen in partitions {
            for (accumulator, state) in accumulators.iter_mut().zip(seen) {
                let state = state.iter().map(ScalarValue::to_array).collect::<DataFusionResult<Vec<_>>>()?;
                accumulator.merge_batch(&state)?;
            }
        }
        let results = accumulators.iter_mut().map(|accumulator| accumulator.evaluate()?.to_array());
        let results = results.collect::<DataFusionResult<Vec<_>>>()?;
        let results = RecordBatch::try_new(Arc::clone(&self.results), results)?;
        let metrics = self.metrics.iter().map(|(name, metric)| {
            let value = metric.evaluate(&results).and_then(|value| value.into_array(1));
            let value = value.map_err(Into::into).and_then(|value| json(name, &value));
            let value = value.unwrap_or_else(|error| {
                let observation = &self.name;
                tracing::warn!("the metric '{name}' of the observation '{observation}' is null: {error}");
                Value::Null
            });
            (name.clone(), value)
        });
        Ok(metrics.collect())
    }
}

/// The one value of `column` as JSON. Decimals are texts: as numbers of JSON they would lose digits.
fn json(name: &str, column: &ArrayRef) -> Result<Value> {
    let texts = json_of_values(name, column)?;
    let Some(text) = texts.iter().next().flatten() else { return Ok(Value::Null) };
    let is_decimal = matches!(
        column.data_type(),
        DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..)
    );
    if is_decimal {
        return Ok(Value::String(text.trim_matches('"').to_string()));
    }
    Ok(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_string())))
}

/// Passes rows on, and computes what is to be observed of them.
#[derive(Debug)]
pub(crate) struct Observe {
    /// Which of the query's observations it is, from 0.
    pub(crate) index: usize,
    pub(crate) observation: Arc<Observation>,
    /// What gives the columns of the observation.
    pub(crate) columns: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) schema: SchemaRef,
}

impl Observe {
    /// The same over rows that have further columns, behind those that they had: all of them are in `schema`.
    pub(crate) fn with_schema(&self, schema: SchemaRef) -> Self {
        let (observation, columns) = (Arc::clone(&self.observation), self.columns.clone());
        Self { index: self.index, observation, columns, schema }
    }

    /// The columns that are observed of `rows`.
    fn columns_of(&self, rows: &RecordBatch) -> DataFusionResult<RecordBatch> {
        let columns = self.columns.iter().map(|column| column.evaluate(rows)?.into_array(rows.num_rows()));
        let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.observation.columns), columns, &options)?)
    }
}

impl Behaviour for Observe {
    fn name(&self) -> &'static str {
        "ObserveExec"
    }

    fn describe(&self) -> String {
        let metrics: Vec<&str> = self.observation.metrics.iter().map(|(name, _)| name.as_str()).collect();
        format!("name={}, metrics=[{}]", self.observation.name, metrics.join(", "))
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.columns.iter().collect()
    }

    fn execute(
        self: &Arc<Self>,
        input: Option<&Arc<dyn ExecutionPlan>>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let input = input.ok_or_else(|| internal_datafusion_err!("a node without its input"))?;
        let observer = Observer {
            node: Arc::clone(self),
            partition,
            task: Task::of(&context)?,
            accumulators: self.observation.accumulators()?,
        };
        let rows = input.execute(partition, context)?;
        let rows = stream::try_unfold((rows, observer), |(mut rows, mut observer)| async move {
            match rows.next().await.transpose()? {
                Some(batch) => {
                    observer.see(&batch)?;
                    Ok(Some((batch, (rows, observer))))
                }
                None => {
                    observer.end()?;
                    Ok(None)
                }
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// What looks at the rows of one partition.
struct Observer {
    node: Arc<Observe>,
    partition: usize,
    task: Arc<Task>,
    accumulators: Vec<Box<dyn Accumulator>>,
}

impl Observer {
    fn see(&mut self, rows: &RecordBatch) -> DataFusionResult<()> {
        let rows = self.node.columns_of(rows)?;
        let mut functions = self.node.observation.functions.iter().zip(&mut self.accumulators);
        functions.try_for_each(|(function, accumulator)| function.see(accumulator.as_mut(), &rows))
    }

    /// Tells the task what was seen: all rows have passed.
    fn end(&mut self) -> DataFusionResult<()> {
        let states = self.accumulators.iter_mut().map(|accumulator| accumulator.state());
        let seen = states.collect::<DataFusionResult<Observed>>()?;
        self.task.add_observed(self.node.index, self.partition, seen);
        Ok(())
    }
}
