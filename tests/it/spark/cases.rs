//! The files `cases.json` and `recorded.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// A query and what happens to it. It reads the streams `(k STRING, v BIGINT, ts TIMESTAMP)` that it
/// names, and may join the table `t (k STRING, c BIGINT)`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// The fact that it shows.
    #[allow(dead_code, reason = "for readers of the file")]
    pub says: String,
    /// The delay of each stream's watermark, if it has one.
    pub streams: BTreeMap<String, Option<String>>,
    #[serde(default)]
    pub views: BTreeMap<String, View>,
    pub mode: String,
    /// Of several watermarks.
    pub policy: Option<String>,
    /// Whether the order of rows counts.
    #[serde(default)]
    pub ordered: bool,
    /// For both engines, or `spark` and `tidemill`.
    pub sql: Option<String>,
    #[allow(dead_code, reason = "for record.py")]
    pub spark: Option<String>,
    pub tidemill: Option<String>,
    pub steps: Vec<Step>,
    pub instead: Option<Instead>,
}

/// A query by SQL, or a table with deduplications that SQL has no words for. Views are made in the
/// order of their names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    pub sql: Option<String>,
    pub of: Option<String>,
    pub drop_duplicates: Option<Vec<String>>,
    pub within_watermark: Option<Vec<String>>,
}

/// New rows per stream.
pub type Added = BTreeMap<String, Vec<(Option<String>, Option<i64>, Option<f64>)>>;

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Step {
    /// `"restart"`.
    Command(String),
    /// The query is stopped, and runs with this trigger to its end.
    Triggered { trigger: String, add: Added },
    /// Rows that come while the query runs.
    Added(Added),
}

/// How Tidemill differs on purpose.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instead {
    #[allow(dead_code, reason = "for readers of the file")]
    pub why: String,
    /// What it gives in these steps.
    #[serde(default)]
    pub steps: BTreeMap<usize, Vec<Batch>>,
    /// The operator for which it refuses the query.
    pub refused: Option<String>,
}

/// A batch, as recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Whether there was new input.
    pub input: bool,
    pub rows: Vec<Json>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Json>,
    /// Rows dropped as late by all operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<u64>,
    /// Rows remembered by all operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<u64>,
}

/// What Spark did: the batches of each step.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    #[serde(default)]
    pub steps: Vec<Vec<Batch>>,
    /// Before the query started.
    pub refused: Option<String>,
    /// In the step after the recorded ones.
    pub failed: Option<String>,
}

#[derive(Deserialize)]
struct Recording {
    #[serde(rename = "spark")]
    _version: String,
    cases: BTreeMap<String, Recorded>,
}

/// A file of this folder.
pub fn read(name: &str) -> String {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/spark").join(name);
    fs::read_to_string(&place).unwrap_or_else(|error| panic!("{}: {error}", place.display()))
}

/// All cases, and what was recorded of them.
pub fn load() -> (Vec<Case>, BTreeMap<String, Recorded>) {
    let cases: Vec<Case> = serde_json::from_str(&read("cases.json")).unwrap();
    let recording: Recording = serde_json::from_str(&read("recorded.json")).unwrap();
    (cases, recording.cases)
}
