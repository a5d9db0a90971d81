//! What was seen of the rows that are observed.

use std::collections::BTreeMap;

use datafusion::common::ScalarValue;

/// What a partition has seen: the state of each function.
pub(crate) type Observed = Vec<Vec<ScalarValue>>;

/// The same by observation and partition: in this order it is put together, so that a batch that is run again gives
/// the same metrics.
pub(crate) type ObservedPartitions = BTreeMap<(usize, usize), Observed>;
