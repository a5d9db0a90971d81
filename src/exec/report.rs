//! What a task has to say when it is done.

use std::collections::BTreeMap;

use serde_json::Value;

use super::event_time::EventTimeSummary;
use super::measured::{Measured, OperatorMetrics};
use super::observed::ObservedPartitions;
use super::operator::OperatorCounters;
use super::row_buffer::HeldRows;

/// Late rows, by operator.
pub(crate) type LateRows = BTreeMap<usize, Vec<HeldRows>>;

/// What became of a batch, or of one of its stages.
#[derive(Debug, Default)]
pub(crate) struct TaskReport {
    /// How many rows were read, by source index.
    pub(crate) rows: BTreeMap<usize, u64>,
    /// What was seen of the event time, by watermark.
    pub(crate) event_times: BTreeMap<usize, EventTimeSummary>,
    /// The newest event times of the groups of a stream, in milliseconds, by watermark.
    pub(crate) group_times: BTreeMap<usize, BTreeMap<String, i64>>,
    /// How many rows had no event time, by watermark.
    pub(crate) untimed: BTreeMap<usize, u64>,
    /// What was seen of the rows that are observed.
    pub(crate) observed: ObservedPartitions,
    /// What each stateful operator did.
    pub(crate) operators: BTreeMap<usize, OperatorCounters>,
    /// The late rows of each operator, if they are kept.
    pub(crate) late_rows: LateRows,
    /// What has been worked through to its end.
    pub(crate) finished: Vec<Finished>,
    /// How many bytes of rows went through exchanges.
    pub(crate) exchanged: u64,
    /// Whether rows had to be moved to the disk on their way.
    pub(crate) lacked_room: bool,
    /// What the sink's writers gave when they were closed, by partition.
    pub(crate) sink: Vec<Value>,
    /// What the operators of the stage did, if that is to be noted.
    pub(crate) measured: Vec<Measured>,
    /// What those of all stages did.
    pub(crate) plan: Vec<OperatorMetrics>,
}

/// Something that a batch has to work through to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Finished {
    /// A partition of a scan or watermark, by its number in the plan.
    Rows { number: usize, partition: usize },
    /// A state partition of an operator.
    State { operator: usize, partition: usize },
}

impl TaskReport {
    /// Adds the newest event times of groups, in milliseconds, that passed a watermark.
    pub(crate) fn add_group_times(&mut self, watermark: usize, newest_ms: BTreeMap<String, i64>) {
        let known = self.group_times.entry(watermark).or_default();
        for (group, newest_ms) in newest_ms {
            let known = known.entry(group).or_insert(newest_ms);
            *known = newest_ms.max(*known);
        }
    }

    /// Adds what another task has to say; gives what the operators of its stage did.
    pub(crate) fn absorb(&mut self, other: TaskReport) -> Vec<Measured> {
        for (source, rows) in other.rows {
            *self.rows.entry(source).or_default() += rows;
        }
        for (watermark, seen) in other.event_times {
            let known = self.event_times.entry(watermark).or_default();
            *known = known.and(seen);
        }
        for (watermark, newest_ms) in other.group_times {
            self.add_group_times(watermark, newest_ms);
        }
        for (watermark, rows) in other.untimed {
            *self.untimed.entry(watermark).or_default() += rows;
        }
        self.observed.extend(other.observed);
        for (operator, counters) in other.operators {
            self.operators.entry(operator).or_default().add(&counters);
        }
        for (operator, rows) in other.late_rows {
            self.late_rows.entry(operator).or_default().extend(rows);
        }
        self.exchanged += other.exchanged;
        self.lacked_room |= other.lacked_room;
        self.finished.extend(other.finished);
        self.sink.extend(other.sink);
        other.measured
    }
}
