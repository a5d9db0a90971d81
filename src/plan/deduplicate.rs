//! The node that lets only the first row of each key pass.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{Column, DFSchemaRef, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use super::watermark::find_column;
use crate::error::{Error, Result};
use crate::functions::tag_of;

/// The rows of `input`, less those whose values in `columns` have been seen before.
#[derive(Debug, Clone)]
pub(crate) struct Deduplicate {
    input: LogicalPlan,
    columns: Vec<Column>,
    within_watermark: bool,
    /// With `within_watermark`: the event time, from which a key is remembered for a while.
    event_time: Option<Column>,
}

impl Deduplicate {
    /// Rows of `input` with different values in `columns`, or in all columns if that is empty.
    ///
    /// With `within_watermark` a key may be forgotten as soon as the watermark has passed the event
    /// time of its first row by the watermark's delay.
    ///
    /// # Errors
    /// If there is no such column, or no event time where one is needed.
    pub(crate) fn try_new(input: LogicalPlan, columns: &[&str], within_watermark: bool) -> Result<Self> {
        let schema = input.schema();
        let columns = match columns {
            [] => schema.columns(),
            names => names.iter().map(|name| find_column(schema, name)).collect::<Result<_>>()?,
        };
        let event_time = if within_watermark { Some(event_time(&input)?) } else { None };
        Ok(Self { input, columns, within_watermark, event_time })
    }

    /// Rows of `input` with different values in `columns`.
    pub(super) fn by(input: LogicalPlan, columns: Vec<Column>) -> Self {
        Self { input, columns, within_watermark: false, event_time: None }
    }

    /// What tells rows apart, in the order given.
    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Whether keys may be forgotten after the watermark's delay.
    pub(crate) fn within_watermark(&self) -> bool {
        self.within_watermark
    }

    /// Where the rows come from.
    pub(crate) fn input(&self) -> &LogicalPlan {
        &self.input
    }

    /// This node as a plan.
    pub(crate) fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The deduplication that `plan` is, if it is one.
    pub(crate) fn of(plan: &LogicalPlan) -> Option<&Deduplicate> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }

    fn identity(&self) -> (&[Column], bool, &Option<Column>, &LogicalPlan) {
        (&self.columns, self.within_watermark, &self.event_time, &self.input)
    }
}

/// The first event-time column of `input`.
fn event_time(input: &LogicalPlan) -> Result<Column> {
    let tagged = input.schema().iter().find(|(_, field)| tag_of(field).is_some());
    tagged.map(Column::from).ok_or_else(|| Error::UnsupportedQuery {
        operator: "drop_duplicates_within_watermark".into(),
        reason: "its input has no watermark, so that nothing says for how long a row is to be remembered"
            .into(),
        advice: "Declare one with with_watermark or WATERMARK FOR, and keep the event-time column in the \
                 rows"
            .into(),
    })
}

impl UserDefinedLogicalNodeCore for Deduplicate {
    fn name(&self) -> &str {
        "Deduplicate"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    /// The key's columns, then the event time if it is needed.
    fn expressions(&self) -> Vec<Expr> {
        self.columns.iter().chain(&self.event_time).cloned().map(Expr::Column).collect()
    }

    /// A filter on the key lets all rows of a key pass or none; any other could hide the first. Of two
    /// columns with one name, of different tables, one may be a key and the other not.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let others = self.schema().columns().into_iter().filter(|column| !self.columns.contains(column));
        others.map(|column| column.name).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let columns: Vec<&str> = self.columns.iter().map(Column::name).collect();
        write!(f, "Deduplicate: [{}]", columns.join(", "))?;
        if self.within_watermark { f.write_str(", within watermark") } else { Ok(()) }
    }

    fn with_exprs_and_inputs(
        &self,
        exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> DataFusionResult<Self> {
        let Some(input) = inputs.pop() else { return internal_err!("a deduplication needs an input") };
        let mut columns = Vec::with_capacity(exprs.len());
        for expr in exprs {
            let Expr::Column(column) = expr else {
                return internal_err!("a deduplication needs columns, found {expr}");
            };
            columns.push(column);
        }
        let event_time = if self.event_time.is_some() { columns.pop() } else { None };
        Ok(Self { input, columns, within_watermark: self.within_watermark, event_time })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

impl PartialEq for Deduplicate {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Deduplicate {}

impl Hash for Deduplicate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl PartialOrd for Deduplicate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.identity().partial_cmp(&other.identity())
    }
}
