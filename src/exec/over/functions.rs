//! The functions, and their values for the rows of one key.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array};
use datafusion::arrow::compute::filter;
use datafusion::arrow::datatypes::Field;
use datafusion::common::{ScalarValue, internal_datafusion_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::Accumulator;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::window::{PlainAggregateWindowExpr, WindowExpr};
use datafusion::physical_plan::PhysicalExpr;

use crate::exec::top_n::Ranking;

/// How the values of a function are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Manner {
    /// From rows before and after, which are kept.
    Framed,
    /// An aggregate of all rows up to this one, with those that are equal by `ORDER BY` or not.
    Running { with_peers: bool },
    /// The number of rows, or of different rows, up to this one.
    Ranked(Ranking),
}

impl Manner {
    pub(super) fn counts_from_the_first(self) -> bool {
        self != Manner::Framed
    }
}

/// A window function.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) manner: Manner,
    pub(crate) expr: Arc<dyn WindowExpr>,
    /// Which rows a running aggregate counts. Others have theirs inside of `expr`.
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
}

impl Function {
    pub(super) fn name(&self) -> &str {
        self.expr.name()
    }

    fn aggregate(&self) -> DataFusionResult<&AggregateFunctionExpr> {
        let plain = self.expr.as_any().downcast_ref::<PlainAggregateWindowExpr>();
        let expr = plain.map(PlainAggregateWindowExpr::get_aggregate_expr);
        expr.ok_or_else(|| internal_datafusion_err!("{} is no running aggregate", self.name()))
    }

    /// What is remembered of a key.
    pub(super) fn state_fields(&self) -> DataFusionResult<Vec<Arc<Field>>> {
        match self.manner {
            Manner::Running { .. } => self.aggregate()?.state_fields(),
            Manner::Framed | Manner::Ranked(_) => Ok(Vec::new()),
        }
    }

    /// A running aggregate that goes on from `state`, if there is one.
    fn accumulator(&self, state: Option<&[ArrayRef]>) -> DataFusionResult<Box<dyn Accumulator>> {
        let mut accumulator = self.aggregate()?.create_accumulator()?;
        if let Some(state) = state {
            accumulator.merge_batch(state)?;
        }
        Ok(accumulator)
    }

    /// The arguments of a running aggregate, and which rows it counts.
    pub(super) fn arguments(&self, rows: &RecordBatch) -> DataFusionResult<Arguments> {
        if !matches!(self.manner, Manner::Running { .. }) {
            return Ok(Arguments::default());
        }
        let evaluate = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(rows)?.into_array(rows.num_rows());
        let columns = self.expr.expressions().iter().map(evaluate).collect::<DataFusionResult<Vec<_>>>()?;
        let counted = self.filter.as_ref().map(evaluate).transpose()?;
        Ok(Arguments { columns, counted: counted.map(|counted| counted.as_boolean().clone()) })
    }
}

#[derive(Default)]
pub(super) struct Arguments {
    columns: Vec<ArrayRef>,
    counted: Option<BooleanArray>,
}

impl Arguments {
    /// Those of some rows that are counted.
    fn of(&self, rows: &Range<usize>) -> DataFusionResult<Vec<ArrayRef>> {
        let sliced = self.columns.iter().map(|column| column.slice(rows.start, rows.len()));
        match &self.counted {
            None => Ok(sliced.collect()),
            Some(counted) => {
                let counted = counted.slice(rows.start, rows.len());
                sliced.map(|column| Ok(filter(&column, &counted)?)).collect()
            }
        }
    }
}

/// The rows of one key that are looked at, in their order.
pub(super) struct Sequence {
    /// Which rows these are of all.
    pub(super) rows: Range<usize>,
    /// Which of them are given.
    pub(super) given: Range<usize>,
    /// The given ones that are equal by `ORDER BY` together.
    pub(super) peers: Vec<Range<usize>>,
}

/// What is remembered of a key that counts from its first row on.
pub(super) struct Total {
    pub(super) rows: u64,
    pub(super) different: u64,
    /// The state columns of all running aggregates, one row each, if there were rows.
    pub(super) states: Option<Vec<ArrayRef>>,
}

/// The values of the functions for given rows, key by key.
pub(super) struct Values<'a> {
    functions: &'a [Function],
    arguments: Vec<Arguments>,
    all: &'a RecordBatch,
    columns: Vec<Column>,
}

enum Column {
    Parts(Vec<ArrayRef>),
    Scalars(Vec<ScalarValue>),
    Ranks(Vec<u64>),
}

impl<'a> Values<'a> {
    /// For rows among `all`.
    pub(super) fn new(functions: &'a [Function], all: &'a RecordBatch) -> DataFusionResult<Self> {
        let column = |function: &Function| match function.manner {
            Manner::Framed => Column::Parts(Vec::new()),
            Manner::Running { .. } => Column::Scalars(Vec::new()),
            Manner::Ranked(_) => Column::Ranks(Vec::new()),
        };
        let arguments =
            functions.iter().map(|function| function.arguments(all)).collect::<DataFusionResult<_>>()?;
        Ok(Self { functions, arguments, all, columns: functions.iter().map(column).collect() })
    }

    /// Adds the values of the given rows of a key, of which `total` is remembered; what is to be remembered then of
    /// the running aggregates.
    pub(super) fn add(&mut self, sequence: &Sequence, total: &Total) -> DataFusionResult<Vec<ScalarValue>> {
        let mut remembered = Vec::new();
        let mut states = total.states.as_deref();
        let of_key = self.all.slice(sequence.rows.start, sequence.rows.len());
        for (index, function) in self.functions.iter().enumerate() {
            match (&mut self.columns[index], function.manner) {
                (Column::Parts(parts), _) => {
                    let values = function.expr.evaluate(&of_key)?;
                    let first = sequence.given.start - sequence.rows.start;
                    parts.push(values.slice(first, sequence.given.len()));
                }
                (Column::Ranks(ranks), Manner::Ranked(ranking)) => rank(ranks, ranking, sequence, total),
                (Column::Scalars(values), Manner::Running { with_peers }) => {
                    let width = function.aggregate()?.state_fields()?.len();
                    let (own, others) = match states {
                        Some(states) => {
                            let (own, others) = states.split_at(width);
                            (Some(own), Some(others))
                        }
                        None => (None, None),
                    };
                    states = others;
                    let mut accumulator = function.accumulator(own)?;
                    let arguments = &self.arguments[index];
                    for peers in &sequence.peers {
                        if with_peers {
                            accumulator.update_batch(&arguments.of(peers)?)?;
                            let value = accumulator.evaluate()?;
                            values.extend(peers.clone().map(|_| value.clone()));
                        } else {
                            for row in peers.clone() {
                                accumulator.update_batch(&arguments.of(&(row..row + 1))?)?;
                                values.push(accumulator.evaluate()?);
                            }
                        }
                    }
                    remembered.extend(accumulator.state()?);
                }
                _ => return Err(internal_datafusion_err!("{} has no values", function.name())),
            }
        }
        Ok(remembered)
    }

    /// The values of all rows that were added, of which there is at least one.
    pub(super) fn finish(self) -> DataFusionResult<Vec<ArrayRef>> {
        let array = |column| match column {
            Column::Parts(parts) => {
                let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
                Ok(datafusion::arrow::compute::concat(&parts)?)
            }
            Column::Scalars(values) => ScalarValue::iter_to_array(values),
            Column::Ranks(ranks) => Ok(Arc::new(UInt64Array::from(ranks)) as ArrayRef),
        };
        self.columns.into_iter().map(array).collect()
    }
}

fn rank(ranks: &mut Vec<u64>, ranking: Ranking, sequence: &Sequence, total: &Total) {
    let number = |row: usize| total.rows + (row - sequence.given.start) as u64 + 1;
    for (index, peers) in sequence.peers.iter().enumerate() {
        ranks.extend(peers.clone().map(|row| match ranking {
            Ranking::RowNumber => number(row),
            Ranking::Rank => number(peers.start),
            Ranking::DenseRank => total.different + index as u64 + 1,
        }));
    }
}
