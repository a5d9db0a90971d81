//! The node that says which column is the event time, and how late its rows may come.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::error::{Error, Result};
use crate::functions::{Finality, tag_of};
use crate::options::{duration_text, nearest};

/// The rows of `input`, of which those with event times no later than the greatest seen so far minus
/// `delay` may be ignored by what is above.
#[derive(Debug, Clone)]
pub(crate) struct Watermark {
    input: LogicalPlan,
    column: Column,
    delay: Duration,
    schema: DFSchemaRef,
}

impl Watermark {
    /// Declares `column` of `input` to be the event time.
    ///
    /// # Errors
    /// If there is no such column, if it holds no times, or if `input` has a watermark already.
    pub(crate) fn try_new(input: LogicalPlan, column: &str, delay: Duration) -> Result<Self> {
        let column = find_column(input.schema(), column)?;
        Self::on_column(input, column, delay)
    }

    /// The same for a column that has been found.
    pub(crate) fn on_column(input: LogicalPlan, column: Column, delay: Duration) -> Result<Self> {
        check_type(input.schema(), &column)?;
        if let Some(earlier) = watermarks(&input).first() {
            return Err(Error::Invalid(format!(
                "a watermark on '{}' is declared over rows that have one on '{}' already: a stream's \
                 watermark is declared once, at its source. Remove one of the two",
                column.name, earlier.column.name
            )));
        }
        Ok(Self::new(input, column, delay)?)
    }

    fn new(input: LogicalPlan, column: Column, delay: Duration) -> DataFusionResult<Self> {
        let schema = Arc::new(tagged(input.schema(), &column)?);
        Ok(Self { input, column, delay, schema })
    }

    /// The event-time column, of the input and of this node.
    pub(crate) fn column(&self) -> &Column {
        &self.column
    }

    /// How far the watermark stays behind the greatest event time.
    pub(crate) fn delay(&self) -> Duration {
        self.delay
    }

    /// Where the rows come from.
    pub(crate) fn input(&self) -> &LogicalPlan {
        &self.input
    }

    /// This node as a plan.
    pub(crate) fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The watermark that `plan` is, if it is one.
    pub(crate) fn of(plan: &LogicalPlan) -> Option<&Watermark> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }
}

/// The watermarks in `plan`, in plan order.
pub(crate) fn watermarks(plan: &LogicalPlan) -> Vec<Watermark> {
    let mut found = Vec::new();
    // The closure never fails, so neither does the walk.
    let _ = plan.apply(|node| {
        found.extend(Watermark::of(node).cloned());
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// Fails if `column` cannot be an event time.
fn check_type(schema: &DFSchema, column: &Column) -> Result<()> {
    let (_, field) = schema.qualified_field_from_column(column)?;
    match field.data_type() {
        DataType::Timestamp(_, _) => Ok(()),
        other => Err(Error::Invalid(format!(
            "column '{}' cannot be the event time: it is a {other}, not a TIMESTAMP. Make a column of \
             timestamps of it first, with CAST, to_timestamp or to_timestamp_millis",
            column.name
        ))),
    }
}

/// The column of `schema` that a user means by `name`.
pub(crate) fn find_column(schema: &DFSchema, name: &str) -> Result<Column> {
    let written = schema.iter().find(|(_, field)| field.name() == name).map(Column::from);
    let parsed = || {
        let column = Column::from_qualified_name(name);
        let (qualifier, field) = schema.qualified_field_from_column(&column).ok()?;
        Some(Column::from((qualifier, field)))
    };
    // As SQL folds it, if just one is meant.
    let in_any_case = || {
        let mut found = schema.iter().filter(|(_, field)| field.name().to_lowercase() == name);
        match (found.next(), found.next()) {
            (Some(column), None) => Some(Column::from(column)),
            _ => None,
        }
    };
    if let Some(column) = written.or_else(parsed).or_else(in_any_case) {
        return Ok(column);
    }
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let suggestion = match nearest(name, &names) {
        Some(near) => format!("; did you mean '{near}'?"),
        None => format!(". The columns are {}", names.join(", ")),
    };
    let nested = name.split_once('.').and_then(|(outer, _)| {
        let (_, field) = schema.iter().find(|(_, field)| field.name() == outer)?;
        matches!(field.data_type(), DataType::Struct(_)).then_some(outer)
    });
    Err(Error::Invalid(match nested {
        Some(outer) => {
            format!("'{name}' is inside column '{outer}': select it as a column of its own first")
        }
        None => format!("there is no column '{name}'{suggestion}"),
    }))
}

/// `schema` with `column` as its only event time.
fn tagged(schema: &DFSchema, column: &Column) -> DataFusionResult<DFSchema> {
    let event_time = schema.index_of_column(column)?;
    let fields = schema.iter().enumerate().map(|(index, (qualifier, field))| {
        let tag = match index == event_time {
            true => Finality::metadata(Some(&Finality::at_once())),
            false if tag_of(field).is_some() => Finality::metadata(None),
            false => HashMap::new(),
        };
        let mut metadata = field.metadata().clone();
        metadata.extend(tag);
        (qualifier.cloned(), Arc::new(field.as_ref().clone().with_metadata(metadata)))
    });
    let tagged = DFSchema::new_with_metadata(fields.collect(), schema.metadata().clone())?;
    tagged.with_functional_dependencies(schema.functional_dependencies().clone())
}

impl UserDefinedLogicalNodeCore for Watermark {
    fn name(&self) -> &str {
        "EventTimeWatermark"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![Expr::Column(self.column.clone())]
    }

    /// A filter on the event time must not hide from the watermark how far time has come.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        HashSet::from([self.column.name.clone()])
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "EventTimeWatermark: {}, {}", self.column.name, duration_text(self.delay))
    }

    fn with_exprs_and_inputs(
        &self,
        exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> DataFusionResult<Self> {
        let (Some(Expr::Column(column)), Some(input)) = (exprs.into_iter().next(), inputs.pop()) else {
            return internal_err!("a watermark needs a column and an input");
        };
        Self::new(input, column, self.delay)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

impl PartialEq for Watermark {
    fn eq(&self, other: &Self) -> bool {
        (&self.column, self.delay, &self.input) == (&other.column, other.delay, &other.input)
    }
}

impl Eq for Watermark {}

impl Hash for Watermark {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.column, self.delay, &self.input).hash(state);
    }
}

impl PartialOrd for Watermark {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (&self.column, self.delay, &self.input).partial_cmp(&(&other.column, other.delay, &other.input))
    }
}
