//! A plan as a chain of stages.

use std::fmt::Debug;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use super::driven::Driven;
use super::node::{Behaviour, Node};
use super::observe::Observe;
use super::operator::OperatorId;
use super::report::{Finished, TaskReport};
use super::row_buffer::stream_of;
use super::scan::StreamScan;
use super::stateful::Stateful;
use super::task::Task;
use super::watermark::EventTimeWatermark;
use crate::error::{Error, Result};

/// A part of a plan without state inside: from sources, tables and what the stages below have given, up to a
/// stateful operator or to the sink.
#[derive(Debug)]
pub(crate) struct Stage {
    /// What gives its rows.
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    /// The operators whose results it reads.
    pub(crate) inputs: Vec<usize>,
}

/// A plan, cut below its stateful operators. Each stage is run to its end before those above it begin, so
/// that whatever these leave unread, no row is missing in any state.
#[derive(Debug)]
pub(crate) struct Stages {
    /// Subqueries that give one value, those in others before them. Their plans give no rows: they make the
    /// values known to the expressions of all stages and operators.
    pub(crate) subqueries: Vec<Stage>,
    /// For each stateful operator, by number, what gives each of its inputs. An operator's number is above
    /// those that it depends on.
    pub(crate) stateful: Vec<(Arc<Stateful>, Vec<Stage>)>,
    /// What gives the rows for the sink.
    pub(crate) last: Stage,
    /// What has to be read to its end: its name, and how many partitions it has.
    driven: Arc<[(String, usize)]>,
}

impl Stages {
    /// Cuts `plan`, which is optimised.
    pub(crate) fn cut(plan: Arc<dyn ExecutionPlan>) -> Result<Self> {
        let mut cutting = Cutting::default();
        let plan = plan.transform_up(|node| cutting.node(node)).data()?;
        let Cutting { subqueries, mut stateful, driven } = cutting;
        stateful.sort_by_key(|(operator, _)| operator.operator.id);
        let mut next = 0;
        for (operator, _) in &stateful {
            if operator.operator.id != next {
                return Err(Error::Invalid(
                    "the stateful operators are numbered with gaps, which is a bug".into(),
                ));
            }
            next += operator.tables;
        }
        Ok(Self { subqueries, stateful, last: Stage::of(plan), driven: driven.into() })
    }

    /// The same, with nothing executed yet.
    pub(crate) fn fresh(&self) -> Result<Self> {
        let stateful = self.stateful.iter().map(|(operator, stages)| {
            Ok((Arc::clone(operator), stages.iter().map(Stage::fresh).collect::<Result<_>>()?))
        });
        Ok(Self {
            subqueries: self.subqueries.iter().map(Stage::fresh).collect::<Result<_>>()?,
            stateful: stateful.collect::<Result<Vec<_>>>()?,
            last: self.last.fresh()?,
            driven: Arc::clone(&self.driven),
        })
    }

    /// What a batch has to work through.
    pub(crate) fn agenda(&self) -> Agenda {
        let operators = self.stateful.iter().map(|(operator, _)| operator.operator);
        Agenda { driven: Arc::clone(&self.driven), operators: operators.collect() }
    }
}

impl Stage {
    fn of(plan: Arc<dyn ExecutionPlan>) -> Self {
        fn collect(plan: &Arc<dyn ExecutionPlan>, inputs: &mut Vec<usize>) {
            inputs.extend(Node::<StageInput>::of(plan).map(|input| input.operator.id));
            plan.children().into_iter().for_each(|child| collect(child, inputs));
        }
        let mut inputs = Vec::new();
        collect(&plan, &mut inputs);
        Self { plan, inputs }
    }

    /// The same, with nothing executed yet.
    fn fresh(&self) -> Result<Self> {
        Ok(Self { plan: reset_plan_states(Arc::clone(&self.plan))?, inputs: self.inputs.clone() })
    }
}

/// Everything that a batch has to work through to its end.
#[derive(Debug)]
pub(crate) struct Agenda {
    driven: Arc<[(String, usize)]>,
    operators: Vec<OperatorId>,
}

impl Agenda {
    /// Fails if by `report` a scan, watermark or state partition was not worked through to its end. A batch
    /// in which that happened may not be committed: its rows would be lost without a word.
    pub(crate) fn check(&self, report: &TaskReport) -> Result<()> {
        let rows = self.driven.iter().enumerate().flat_map(|(number, (name, partitions))| {
            (0..*partitions).map(move |partition| (name.as_str(), Finished::Rows { number, partition }))
        });
        let states = self.operators.iter().flat_map(|operator| {
            (0..operator.state_partitions)
                .map(|partition| ("operator", Finished::State { operator: operator.id, partition }))
        });
        let mut finished = report.finished.clone();
        finished.sort_unstable();
        for (name, expected) in rows.chain(states) {
            if finished.binary_search(&expected).is_err() {
                return Err(Error::Invalid(format!(
                    "the batch was not computed to its end, which is a bug: {name} did not finish ({expected:?}). \
                     Nothing of it was committed"
                )));
            }
        }
        Ok(())
    }
}

/// What was cut off so far.
#[derive(Default)]
struct Cutting {
    subqueries: Vec<Stage>,
    stateful: Vec<(Arc<Stateful>, Vec<Stage>)>,
    driven: Vec<(String, usize)>,
}

impl Cutting {
    fn node(
        &mut self,
        node: Arc<dyn ExecutionPlan>,
    ) -> DataFusionResult<Transformed<Arc<dyn ExecutionPlan>>> {
        if let Some((operator, inputs)) = Node::<Stateful>::parts(&node) {
            let leaf = StageInput {
                operator: operator.operator,
                schema: operator.schema(),
                partitions: operator.partitions(0),
            };
            let stages = inputs.iter().map(|input| Stage::of(Arc::clone(input))).collect();
            self.stateful.push((Arc::clone(operator), stages));
            return Ok(Transformed::yes(Node::leaf(leaf)));
        }
        if let Some(subqueries) = node.downcast_ref::<ScalarSubqueryExec>() {
            // DataFusion runs them before what is below the node, which here may be run long before it.
            let nothing = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
            let (links, values) = (subqueries.subqueries().to_vec(), subqueries.results().clone());
            self.subqueries.push(Stage::of(Arc::new(ScalarSubqueryExec::new(nothing, links, values))));
            return Ok(Transformed::yes(Arc::clone(subqueries.input())));
        }
        let is_driven = Node::<StreamScan>::of(&node).is_some()
            || Node::<EventTimeWatermark>::of(&node).is_some()
            || Node::<Observe>::of(&node).is_some();
        if !is_driven {
            return Ok(Transformed::no(node));
        }
        let number = self.driven.len();
        self.driven.push((node.name().into(), node.output_partitioning().partition_count()));
        Ok(Transformed::yes(Driven::over(node, number)))
    }
}

/// Gives what a stateful operator has given.
#[derive(Debug)]
pub(crate) struct StageInput {
    operator: OperatorId,
    schema: SchemaRef,
    /// One, which has the rows of all state partitions, or one for each.
    partitions: usize,
}

impl StageInput {
    /// The number of the operator.
    pub(crate) fn operator(&self) -> usize {
        self.operator.id
    }
}

impl Behaviour for StageInput {
    fn name(&self) -> &'static str {
        "StageInputExec"
    }

    fn describe(&self) -> String {
        self.operator.to_string()
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn partitions(&self, _: usize) -> usize {
        self.partitions
    }

    fn execute(
        self: &Arc<Self>,
        _: Option<&Arc<dyn ExecutionPlan>>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let task = Task::of(&context)?;
        let Some(results) = task.input(self.operator.id) else {
            return internal_err!("operator {} has given nothing yet", self.operator.id);
        };
        let which = if self.partitions == 1 { 0..results.len() } else { partition..partition + 1 };
        Ok(stream_of(&results[which], self.schema()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_in_which_anything_is_left_does_not_pass() {
        let operators = vec![OperatorId { id: 0, state_partitions: 2 }];
        let agenda = Agenda { driven: vec![("StreamScanExec".to_string(), 2)].into(), operators };
        let all = [
            Finished::State { operator: 0, partition: 1 },
            Finished::Rows { number: 0, partition: 1 },
            Finished::Rows { number: 0, partition: 0 },
            Finished::State { operator: 0, partition: 0 },
        ];
        let report =
            |finished: &[Finished]| TaskReport { finished: finished.to_vec(), ..TaskReport::default() };
        agenda.check(&report(&all)).unwrap();
        for left in 0..all.len() {
            let mut some = all.to_vec();
            some.remove(left);
            let error = agenda.check(&report(&some)).unwrap_err().to_string();
            assert!(error.contains("was not computed to its end"), "{error}");
        }
    }
}
