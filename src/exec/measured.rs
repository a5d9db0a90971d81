//! What the operators of a plan did in a batch, for people who want to know where its time goes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// What one operator of a query's plan did in the last batch. A plan is a list of them, each followed by those
/// that it reads from, one deeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct OperatorMetrics {
    /// How deep it stands in the plan; that of the result is 0.
    pub depth: usize,
    /// The operator, as `EXPLAIN` shows it.
    pub operator: String,
    /// The rows that it gave, if it counts them.
    pub output_rows: Option<u64>,
    /// How long it computed, all its partitions together, if it measures that.
    #[serde(rename = "elapsedComputeNs", serialize_with = "nanoseconds")]
    pub elapsed_compute: Option<Duration>,
}

fn nanoseconds<S: serde::Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)).serialize(to)
}

/// An operator of a stage that has run.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) metrics: OperatorMetrics,
    /// The source that it reads, if it is a scan of one.
    pub(crate) source: Option<usize>,
    /// The operator with state whose results it stands for.
    pub(crate) operator: Option<usize>,
}

/// What was measured of a batch so far.
#[derive(Debug, Default)]
pub(crate) struct Measurements {
    operators: BTreeMap<usize, StatefulRun>,
}

/// What an operator with state did.
#[derive(Debug)]
pub(crate) struct StatefulRun {
    pub(crate) description: String,
    /// What it gave.
    pub(crate) rows: u64,
    pub(crate) took: Duration,
    /// Its inputs.
    pub(crate) stages: Vec<Vec<Measured>>,
}

impl Measurements {
    /// Notes what the operator with state of this number did.
    pub(crate) fn add(&mut self, operator: usize, run: StatefulRun) {
        self.operators.insert(operator, run);
    }

    /// The whole plan, from the stage that gave the result down. `rows` are those that were read, by source.
    pub(crate) fn plan(mut self, last: Vec<Measured>, rows: &BTreeMap<usize, u64>) -> Vec<OperatorMetrics> {
        let mut plan = Vec::new();
        self.lay_out(last, 0, rows, &mut plan);
        plan
    }

    fn lay_out(
        &mut self,
        stage: Vec<Measured>,
        below: usize,
        rows: &BTreeMap<usize, u64>,
        plan: &mut Vec<OperatorMetrics>,
    ) {
        for Measured { mut metrics, source, operator } in stage {
            metrics.depth += below;
            if let Some(source) = source {
                metrics.output_rows = Some(rows.get(&source).copied().unwrap_or_default());
            }
            let Some(run) = operator.and_then(|operator| self.operators.remove(&operator)) else {
                plan.push(metrics);
                continue;
            };
            let depth = metrics.depth;
            plan.push(OperatorMetrics {
                depth,
                operator: run.description,
                output_rows: Some(run.rows),
                elapsed_compute: Some(run.took),
            });
            for stage in run.stages {
                self.lay_out(stage, depth + 1, rows, plan);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(depth: usize, operator: &str, source: Option<usize>, reads: Option<usize>) -> Measured {
        let metrics =
            OperatorMetrics { depth, operator: operator.into(), output_rows: None, elapsed_compute: None };
        Measured { metrics, source, operator: reads }
    }

    #[test]
    fn stages_are_laid_out_as_the_plan_that_they_were_cut_from() {
        let mut measurements = Measurements::default();
        let stages =
            vec![vec![measured(0, "left", Some(0), None)], vec![measured(0, "right", Some(1), None)]];
        let took = Duration::from_micros(7);
        measurements.add(0, StatefulRun { description: "join".into(), rows: 3, took, stages });
        let last = vec![measured(0, "filter", None, None), measured(1, "input", None, Some(0))];
        let plan = measurements.plan(last, &BTreeMap::from([(0, 10), (1, 20)]));
        let seen: Vec<_> =
            plan.iter().map(|node| (node.depth, node.operator.as_str(), node.output_rows)).collect();
        let expected =
            [(0, "filter", None), (1, "join", Some(3)), (2, "left", Some(10)), (2, "right", Some(20))];
        assert_eq!(seen, expected);
        let json = serde_json::to_value(&plan[1]).unwrap();
        assert_eq!(json["elapsedComputeNs"], 7000);
    }
}
