//! The logical nodes of a streaming plan after optimisation.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use datafusion::common::{DFSchemaRef, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::exec::over::{Manner, Reach};
use crate::exec::top_n::Ranking;
use crate::sink::OutputMode;

/// A watermark of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WatermarkDelay {
    /// The column's name.
    pub(crate) column: String,
    /// How far the watermark is behind the largest event time, in milliseconds.
    pub(crate) delay_ms: i64,
}

/// What a node does, with its expressions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Notes the event times. Expressions: the event time.
    Watermark { index: usize, delay_ms: i64 },
    /// Drops late rows. Expressions: when a row is final.
    LateFilter { operator: usize },
    /// Over an `Aggregate`. Expressions: when a group is final, over the group's keys, if ever.
    Aggregate { operator: usize, mode: OutputMode },
    /// Over an `Aggregate` by a session, which is this one of the keys. So many microseconds after its end a
    /// session is final, if ever. No expressions.
    Sessions { operator: usize, mode: OutputMode, session: usize, delay: Option<i64> },
    /// Drops all rows but the first of each key. Expressions: the `keys`, then when a key can be
    /// forgotten, if ever.
    Deduplicate { operator: usize, keys: usize, within_watermark: bool },
    /// Marks the first row of each key. Expressions: as for `Deduplicate`, then which rows count, if
    /// not all.
    MarkDistinct { operator: usize, keys: usize, expires: bool, forgets_nulls: bool },
    /// Keeps the rows with the first ranks of each key. Expressions: the `keys`, then what to sort by, each with
    /// whether descending and nulls first, then when a key is final, if ever.
    TopN {
        operator: usize,
        mode: OutputMode,
        keys: usize,
        order: Vec<(bool, bool)>,
        rank: Ranking,
        limit: u64,
    },
    /// Adds values of window functions. Expressions: the `keys`, then what to sort by, as for `TopN`, when a row's
    /// place is final, and the functions. Rows come so many microseconds after the watermark has passed their event
    /// time.
    Over {
        operator: usize,
        keys: usize,
        order: Vec<(bool, bool)>,
        functions: Vec<Manner>,
        reach: Reach,
        delay: i64,
    },
    /// A limit over the life of the query. No expressions.
    Limit { operator: usize, skip: u64, fetch: Option<u64> },
}

/// A node that only streaming plans have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StreamingNode {
    pub(super) kind: Kind,
    pub(super) expressions: Vec<Expr>,
    pub(super) input: LogicalPlan,
    pub(super) schema: DFSchemaRef,
}

impl StreamingNode {
    /// With the columns of its input.
    pub(super) fn over(input: LogicalPlan, kind: Kind, expressions: Vec<Expr>) -> LogicalPlan {
        let schema = DFSchemaRef::clone(input.schema());
        Self { kind, expressions, input, schema }.into_plan()
    }

    pub(super) fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: std::sync::Arc::new(self) })
    }

    /// Of a plan node, if it is one.
    pub(super) fn of(plan: &LogicalPlan) -> Option<&Self> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }
}

impl Hash for StreamingNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
        self.expressions.hash(state);
        self.input.hash(state);
    }
}

impl PartialOrd for StreamingNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for StreamingNode {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Watermark { .. } => "EventTimeWatermark",
            Kind::LateFilter { .. } => "LateFilter",
            Kind::Aggregate { .. } => "StatefulAggregate",
            Kind::Sessions { .. } => "StatefulSessions",
            Kind::Deduplicate { .. } => "StatefulDeduplicate",
            Kind::MarkDistinct { .. } => "MarkDistinct",
            Kind::TopN { .. } => "StatefulTopN",
            Kind::Over { .. } => "StatefulOver",
            Kind::Limit { .. } => "StatefulLimit",
        }
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        match self.kind {
            // Over the output of the input's input, and so not for others to look at.
            Kind::Aggregate { .. } => Vec::new(),
            _ => self.expressions.clone(),
        }
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |expressions: &[Expr]| expressions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "{}: ", self.name())?;
        match &self.kind {
            Kind::Watermark { delay_ms, .. } => {
                write!(f, "{}, delay={delay_ms} ms", list(&self.expressions))
            }
            Kind::LateFilter { operator } => {
                write!(f, "operator={operator}, final=[{}]", list(&self.expressions))
            }
            Kind::Aggregate { operator, mode } => {
                write!(f, "operator={operator}, mode={mode}, final=[{}]", list(&self.expressions))
            }
            Kind::Sessions { operator, mode, delay, .. } => {
                let delay = delay.map_or_else(|| "never".into(), |delay| format!("end+{delay}us"));
                write!(f, "operator={operator}, mode={mode}, final={delay}")
            }
            Kind::Deduplicate { operator, keys, .. } | Kind::MarkDistinct { operator, keys, .. } => {
                let (keys, rest) = self.expressions.split_at(*keys);
                write!(f, "operator={operator}, keys=[{}], final=[{}]", list(keys), list(rest))
            }
            Kind::TopN { operator, mode, keys, order, rank, limit } => {
                let (keys, rest) = self.expressions.split_at(*keys);
                let (order, rest) = rest.split_at(order.len());
                write!(f, "operator={operator}, mode={mode}, {rank}<={limit}, keys=[{}]", list(keys))?;
                write!(f, ", order=[{}], final=[{}]", list(order), list(rest))
            }
            Kind::Over { operator, keys, order, .. } => {
                let (keys, rest) = self.expressions.split_at(*keys);
                let (order, rest) = rest.split_at(order.len());
                let (expiry, functions) = rest.split_at(1);
                write!(f, "operator={operator}, functions=[{}], keys=[{}]", list(functions), list(keys))?;
                write!(f, ", order=[{}], final=[{}]", list(order), list(expiry))
            }
            Kind::Limit { operator, skip, fetch } => {
                let fetch = fetch.map_or_else(|| "None".into(), |fetch| fetch.to_string());
                write!(f, "operator={operator}, skip={skip}, fetch={fetch}")
            }
        }
    }

    fn with_exprs_and_inputs(
        &self,
        exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> DataFusionResult<Self> {
        let Some(input) = inputs.pop() else {
            return internal_err!("{} needs an input", self.name());
        };
        let expressions = match self.kind {
            Kind::Aggregate { .. } => self.expressions.clone(),
            _ => exprs,
        };
        Ok(Self { kind: self.kind.clone(), expressions, input, schema: DFSchemaRef::clone(&self.schema) })
    }
}
