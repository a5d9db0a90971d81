//! The node that has the rows of each key go through a processor of the program's own.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::{
    Column, DFSchema, DFSchemaRef, Dependency, FunctionalDependence, FunctionalDependencies, internal_err,
};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, ExprSchemable, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use super::bind::reads_stream;
use super::watermark::find_column;
use crate::error::{Error, Result};
use crate::exec::processor::{AnyProcessor, TimeMode};
use crate::functions::{Finality, tag_of};
use crate::sink::OutputMode;

/// What a processor gives for the rows of `input`.
#[derive(Clone)]
pub(crate) struct Transform {
    pub(crate) input: LogicalPlan,
    /// What is known of keys before the first batch.
    pub(crate) initial: Option<LogicalPlan>,
    pub(crate) keys: Vec<Column>,
    /// The same columns of `initial`.
    pub(crate) initial_keys: Vec<Column>,
    pub(crate) processor: Arc<dyn AnyProcessor>,
    pub(crate) time_mode: TimeMode,
    /// Whether the rows that are given are new ones, or take the place of those with the same key.
    pub(crate) output_mode: OutputMode,
    /// The number of the operator, once there is one.
    pub(crate) operator: Option<usize>,
    /// How long after the watermark has passed their event time rows may come, in microseconds.
    pub(crate) delay: i64,
    schema: DFSchemaRef,
}

/// What a program says of it.
pub(crate) struct TransformRequest<'a> {
    pub(crate) keys: &'a [&'a str],
    pub(crate) schema: SchemaRef,
    pub(crate) processor: Arc<dyn AnyProcessor>,
    pub(crate) time_mode: TimeMode,
    pub(crate) output_mode: OutputMode,
}

impl Transform {
    /// Over `input`, which is unbounded.
    ///
    /// # Errors
    /// If there is no such key, if there is no watermark where one is needed, or if `initial` does not fit.
    pub(crate) fn try_new(
        input: LogicalPlan,
        initial: Option<LogicalPlan>,
        request: TransformRequest<'_>,
    ) -> Result<Self> {
        let TransformRequest { keys: names, schema, processor, time_mode, output_mode } = request;
        if !reads_stream(&input) {
            return Err(Error::Invalid(
                "a processor with state is for unbounded tables, and this query reads none; in a test run it with \
                 ProcessorTester"
                    .into(),
            ));
        }
        if output_mode == OutputMode::Complete {
            return Err(Error::Invalid(
                "a processor gives new rows (OutputMode::Append) or new values of rows (OutputMode::Update), not all \
                 rows with every batch"
                    .into(),
            ));
        }
        let find = |plan: &LogicalPlan| -> Result<Vec<Column>> {
            names.iter().map(|name| find_column(plan.schema(), name)).collect()
        };
        let keys = find(&input)?;
        if time_mode == TimeMode::EventTime && event_time(&input).is_none() {
            return Err(Error::UnsupportedQuery {
                operator: "a processor with TimeMode::EventTime".into(),
                reason: "its input has no watermark, which its timers would go by".into(),
                advice: "Declare one with with_watermark or WATERMARK FOR, and keep the event-time column in the rows"
                    .into(),
            });
        }
        let initial_keys = initial.as_ref().map(find).transpose()?.unwrap_or_default();
        if let Some(initial) = &initial {
            check_initial(initial, &initial_keys, &input, &keys)?;
        }
        let schema = with_event_time(&schema, event_time(&input).as_ref());
        let schema = Arc::new(output_schema(&schema, &keys, output_mode)?);
        let operator = None;
        Ok(Self {
            input,
            initial,
            keys,
            initial_keys,
            processor,
            time_mode,
            output_mode,
            operator,
            delay: 0,
            schema,
        })
    }

    /// This node as a plan.
    pub(crate) fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The one that `plan` is, if it is one.
    pub(crate) fn of(plan: &LogicalPlan) -> Option<&Transform> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }

    /// The same as an operator with a number, over the same rows without late ones.
    pub(crate) fn as_operator(&self, input: LogicalPlan, operator: usize, delay: i64) -> Self {
        Self { input, operator: Some(operator), delay, ..self.clone() }
    }

    /// The columns it gives.
    pub(crate) fn schema_ref(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn identity(&self) -> (&LogicalPlan, &Option<LogicalPlan>, &[Column], &[Column], TimeMode, OutputMode) {
        (&self.input, &self.initial, &self.keys, &self.initial_keys, self.time_mode, self.output_mode)
    }
}

/// The first event-time column of `input`.
pub(super) fn event_time(input: &LogicalPlan) -> Option<Column> {
    input.schema().iter().find(|(_, field)| tag_of(field).is_some()).map(Column::from)
}

fn check_initial(
    initial: &LogicalPlan,
    initial_keys: &[Column],
    input: &LogicalPlan,
    keys: &[Column],
) -> Result<()> {
    if reads_stream(initial) {
        return Err(Error::Invalid(
            "an initial state reads an unbounded table, which has no end; read bounded ones".into(),
        ));
    }
    for (of_initial, key) in initial_keys.iter().zip(keys) {
        let found = Expr::Column(of_initial.clone()).get_type(initial.schema())?;
        let expected = Expr::Column(key.clone()).get_type(input.schema())?;
        if found != expected {
            return Err(Error::Invalid(format!(
                "the key '{}' of the initial state is {found}, and that of the rows {expected}; cast one of them",
                key.name
            )));
        }
    }
    Ok(())
}

/// `schema`, whose column with the name of the input's event time is the event time of what is given. Rows that
/// are given with a time that the watermark has passed are late for what is above, as any others.
fn with_event_time(schema: &SchemaRef, event_time: Option<&Column>) -> SchemaRef {
    let field = |field: &FieldRef| {
        let is_time = matches!(field.data_type(), DataType::Timestamp(..));
        if !is_time || event_time.is_none_or(|column| column.name != *field.name()) {
            return Arc::clone(field);
        }
        let mut metadata = field.metadata().clone();
        metadata.extend(Finality::metadata(Some(&Finality::at_once())));
        Arc::new(field.as_ref().clone().with_metadata(metadata))
    };
    let fields: Vec<FieldRef> = schema.fields().iter().map(field).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The columns that are given. In update mode those of the key tell rows apart, if all of them are there.
fn output_schema(schema: &SchemaRef, keys: &[Column], mode: OutputMode) -> Result<DFSchema> {
    let columns = DFSchema::try_from(schema.as_ref().clone())?;
    let places: Option<Vec<usize>> = keys.iter().map(|key| schema.index_of(&key.name).ok()).collect();
    let Some(places) = places.filter(|places| mode == OutputMode::Update && !places.is_empty()) else {
        return Ok(columns);
    };
    let all = (0..schema.fields().len()).collect();
    let one_each = FunctionalDependence::new(places, all, true).with_mode(Dependency::Single);
    Ok(columns.with_functional_dependencies(FunctionalDependencies::new(vec![one_each]))?)
}

impl fmt::Debug for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transform").field("processor", &self.processor.name()).finish_non_exhaustive()
    }
}

impl PartialEq for Transform {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity() && Arc::ptr_eq(&self.processor, &other.processor)
    }
}

impl Eq for Transform {}

impl Hash for Transform {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.input, &self.initial, &self.keys, &self.initial_keys, self.time_mode).hash(state);
    }
}

impl PartialOrd for Transform {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for Transform {
    fn name(&self) -> &str {
        "TransformWithState"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        std::iter::once(&self.input).chain(&self.initial).collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    /// None: the columns of the key are those of one input or the other, and all columns are needed.
    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.keys.iter().map(Column::name).collect();
        let (name, mode) = (self.processor.name(), self.time_mode.name());
        write!(f, "TransformWithState: {name}, keys=[{}], timeMode={mode}", keys.join(", "))?;
        if self.initial.is_some() { f.write_str(", with initial state") } else { Ok(()) }
    }

    /// A processor may read any column.
    fn necessary_children_exprs(&self, _: &[usize]) -> Option<Vec<Vec<usize>>> {
        let all = |plan: &LogicalPlan| (0..plan.schema().fields().len()).collect();
        Some(self.inputs().into_iter().map(all).collect())
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        let mut inputs = inputs.into_iter();
        let Some(input) = inputs.next() else { return internal_err!("a processor needs an input") };
        let initial = inputs.next();
        if initial.is_some() != self.initial.is_some() {
            return internal_err!("the initial state of a processor was lost");
        }
        Ok(Self { input, initial, ..self.clone() })
    }
}
