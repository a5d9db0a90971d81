//! Reading off a plan that has run what its operators did.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::physical_plan::{ExecutionPlan, displayable};

use super::driven::Driven;
use super::measured::{Measured, OperatorMetrics};
use super::node::Node;
use super::scan::StreamScan;
use super::stages::StageInput;

/// The operators of `plan`, which has run. `times` says how long the inputs that have to be read to their end
/// have computed, by number.
pub(crate) fn measure(plan: &Arc<dyn ExecutionPlan>, times: &BTreeMap<usize, Duration>) -> Vec<Measured> {
    fn collect(
        plan: &Arc<dyn ExecutionPlan>,
        depth: usize,
        (times, driven): (&BTreeMap<usize, Duration>, Option<usize>),
        found: &mut Vec<Measured>,
    ) {
        // It only watches what is below.
        if let Some(number) = Driven::number(plan) {
            for child in plan.children() {
                collect(child, depth, (times, Some(number)), found);
            }
            return;
        }
        let metrics = plan.metrics();
        let own = metrics.as_ref().and_then(|metrics| metrics.elapsed_compute());
        let source = Node::<StreamScan>::of(plan).map(|scan| scan.source_index());
        let of_input = driven.filter(|_| source.is_some()).and_then(|number| times.get(&number).copied());
        found.push(Measured {
            metrics: OperatorMetrics {
                depth,
                operator: displayable(plan.as_ref()).one_line().to_string().trim_end().to_string(),
                output_rows: metrics
                    .as_ref()
                    .and_then(|metrics| metrics.output_rows())
                    .map(|rows| rows as u64),
                elapsed_compute: own.map(|nanos| Duration::from_nanos(nanos as u64)).or(of_input),
            },
            source,
            operator: Node::<StageInput>::of(plan).map(|input| input.operator()),
        });
        for child in plan.children() {
            collect(child, depth + 1, (times, None), found);
        }
    }
    let mut found = Vec::new();
    collect(plan, 0, (times, None), &mut found);
    found
}
