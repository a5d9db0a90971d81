//! What sinks tell the query layer about a batch.

use serde_json::{Value, json};

/// `{"numRows": …}` with the sum over the writers' reports of the same form: what
/// [`Sink::prepare`](super::Sink::prepare) gives at least, and what the progress shows as
/// `sink.numOutputRows`.
pub(super) fn total_rows(reports: &[Value]) -> Value {
    let rows: u64 = reports.iter().filter_map(|report| report["numRows"].as_u64()).sum();
    json!({ "numRows": rows })
}
