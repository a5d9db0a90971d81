//! What the files of a checkpoint say. Their bytes are described in `docs/checkpoint-format.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::types::ColumnType;

/// The checkpoint format this build writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// `metadata`: who the query is. Written once, at the first start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The query's id, which survives restarts.
    pub id: Uuid,
    /// `tidemill` and the version that wrote it; for people, never compared.
    pub created_by: String,
    /// Of a copy, where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_of: Option<CopyOf>,
    /// What must stay the same between restarts.
    pub definition: QueryDefinition,
}

/// Where a copy comes from, in [`Metadata::copy_of`]. It is a query of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CopyOf {
    /// The query that the checkpoint was copied from.
    pub id: Uuid,
    /// Whether no start of the copy has said yet where its results go: there is no `definition/1`.
    #[serde(skip)]
    pub is_new: bool,
}

/// The parts of a query that a restart must find unchanged, and is refused by name when it does not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryDefinition {
    /// The sources, in the order in which they appear in the plan.
    pub sources: Vec<SourceDefinition>,
    /// The sink.
    pub sink: SinkDefinition,
    /// `append`, `update` or `complete`.
    pub output_mode: String,
    /// The stateful operators, in plan order; empty for a stateless query.
    pub operators: Vec<OperatorDefinition>,
}

/// The entry among [`SourceDefinition::options`] that names the columns which directories `column=value` give, as a JSON
/// array. They stay when no such directory is there any more.
pub(crate) const PARTITIONS: &str = "partitions";

/// One source of a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceDefinition {
    /// `json`, `csv`, `rate`, …
    pub format: String,
    /// Where it reads from, if it reads from a place.
    pub location: Option<Location>,
    /// The columns it gives. A schema that was inferred at the first start is pinned by this.
    pub columns: Vec<ColumnDefinition>,
    /// Whether the columns were inferred rather than given by the user.
    pub inferred: bool,
    /// Options that change what rows mean, by lower-case name.
    pub options: BTreeMap<String, String>,
}

impl SourceDefinition {
    /// Of a copy whose first start says what it reads, as long as the columns are these.
    pub(crate) fn to_be_chosen() -> Self {
        Self {
            format: String::new(),
            location: None,
            columns: Vec::new(),
            inferred: false,
            options: BTreeMap::new(),
        }
    }

    /// Whether what was there at the first start says which columns there are.
    pub(crate) fn is_found(&self) -> bool {
        self.inferred || self.options.contains_key(PARTITIONS)
    }

    /// Whether directories give columns, or might have given some: whoever reads from a place goes on with those that it
    /// began with, also if that are none.
    pub(crate) fn has_directories(&self) -> bool {
        self.location.is_some()
    }

    /// Those of the columns that directories give.
    pub(crate) fn partitions(&self) -> Vec<String> {
        let recorded = self.options.get(PARTITIONS);
        recorded.and_then(|recorded| serde_json::from_str(recorded).ok()).unwrap_or_default()
    }

    /// Whether the first start of the copy says what it reads.
    pub(crate) fn is_to_be_chosen(&self) -> bool {
        self.format.is_empty()
    }
}

/// The sink of a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SinkDefinition {
    /// `parquet`, `console`, …
    pub format: String,
    /// Where it writes to, if it writes to a place.
    pub location: Option<Location>,
    /// The columns it was given; empty when the sink takes any and lets them change.
    pub columns: Vec<ColumnDefinition>,
    /// The columns that become directories.
    pub partition_by: Vec<String>,
    /// Options that a reader of what was written has to know, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// A stateful operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperatorDefinition {
    /// Its name in the plan.
    pub name: String,
    /// What its state depends on: keys, aggregates, state fields.
    pub details: BTreeMap<String, Value>,
}

/// A column's name, type and nullability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ColumnDefinition {
    /// The column's name.
    pub name: String,
    /// Its type.
    pub data_type: ColumnType,
    /// Whether it may hold nulls.
    pub nullable: bool,
}

/// A place, so recorded that a checkpoint can move together with it *or* away from it, and still
/// hold no absolute path: it is the same place if either way of reaching it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Location {
    /// The way from the checkpoint's root, e.g. `../../data/bids`; the whole URL on another store.
    pub path: String,
    /// The CRC32C of the absolute URL, 8 hex digits.
    pub fingerprint: String,
}

/// `offsets/<batch>`: everything that decides what the batch computes. Written before the batch
/// runs; a rerun uses exactly this.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OffsetsRecord {
    /// The batch, from 0, without gaps.
    pub batch_id: u64,
    /// What `now()` and its kin give in this batch; milliseconds since the epoch.
    pub batch_timestamp_ms: i64,
    /// The watermark that rows of this batch are judged by; 0 when there is none.
    pub batch_watermark_ms: i64,
    /// Settings that a rerun must use again, whatever the session says by then.
    pub conf: BTreeMap<String, String>,
    /// One entry per source, in the order of [`QueryDefinition::sources`].
    pub sources: Vec<SourceOffset>,
}

/// How far one source is read by the end of a batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceOffset {
    /// Where the batch starts, in the source's own form: recorded for the first batch, and otherwise the
    /// end of the batch before. `null` at the source's beginning.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub start: Value,
    /// The end offset, in the source's own form (the file source: `{"logOffset":3}`); `null` while
    /// the source has given nothing yet.
    pub end: Value,
    /// What the source must remember of this batch for good (the file source: the files). Empty if
    /// the source has nothing new in this batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<Box<RawValue>>,
    /// The parts of the stream that had more rows than the batch was to have, if the source has parts whose event
    /// times are watched apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<String>,
}

/// `commits/<batch>`: the batch is done. Written after every row of it is durable in the sink's
/// staging place and in the state; from then on the batch is never run again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommitRecord {
    /// The batch.
    pub batch_id: u64,
    /// The id of the query, in the record of the first batch: until that is there, another query may take the
    /// place of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_id: Option<Uuid>,
    /// The watermark for the next batch; 0 when there is none.
    pub next_batch_watermark_ms: i64,
    /// How far each stream has come whose watermark goes into it, in plan order; empty when there is
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamTime>,
    /// What the sink needs to publish the batch, again if need be (the file sink: its files).
    pub sink: Value,
    /// What the late rows of the batch need to be published, one entry per operator that leaves some
    /// out; empty if they are not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late: Vec<LateRecord>,
    /// Where the state of this version is; `null` for a stateless query.
    #[serde(default)]
    pub state: Value,
    /// Whether the query that this one is a copy of did the batch, whose sink is another: `sink` and `late` are
    /// left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub copied: bool,
    /// What counts in the place of the batch's plan, if the batch was let go without being run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub let_go: Option<LetGo>,
}

/// A batch that was planned and then let go: as if it had read nothing. In [`CommitRecord::let_go`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LetGo {
    /// The watermark of the batch before; 0 if there was none.
    pub batch_watermark_ms: i64,
    /// Where the sources were before it, one per source: the ends of the batch before, if there was one.
    pub ends: Vec<Value>,
}

impl CommitRecord {
    /// What the sink has to publish again if need be; `None` if that was never anything.
    pub(crate) fn published(&self) -> Option<(u64, &Value)> {
        let is_nothing = (self.copied || self.let_go.is_some()) && self.sink.is_null();
        (!is_nothing).then_some((self.batch_id, &self.sink))
    }
}

impl OffsetsRecord {
    /// What counts of this plan when its batch has that commit.
    pub(crate) fn committed_by(mut self, commit: &CommitRecord) -> Self {
        if let Some(let_go) = &commit.let_go {
            self.batch_watermark_ms = let_go.batch_watermark_ms;
            let ends = let_go.ends.iter().cloned();
            self.sources = ends
                .map(|end| SourceOffset { start: Value::Null, end, entries: Vec::new(), behind: Vec::new() })
                .collect();
        }
        self
    }
}

/// How far the event time of one stream has come, in [`CommitRecord::streams`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamTime {
    /// The event-time column.
    pub column: String,
    /// The greatest event time seen, in milliseconds since the epoch; `null` before the first.
    pub newest_ms: Option<i64>,
    /// For how long there had been no row, in milliseconds; 0 unless idle streams are left behind.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub idle_ms: i64,
    /// How far each part of the stream has come that its watermark waits for, if there are any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, GroupTime>,
}

/// How far the event time of a part of a stream has come, in [`StreamTime::groups`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GroupTime {
    /// The greatest event time seen, in milliseconds since the epoch; `null` before the first.
    pub newest_ms: Option<i64>,
    /// For how long there had been no row, in milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub idle_ms: i64,
    /// Whether there were rows that no batch has had.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub behind: bool,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// The late rows that one operator left out of a batch, in [`CommitRecord::late`]. They have a place of
/// their own, which a later start finds by this: its options may name another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LateRecord {
    /// The operator, in plan order.
    pub operator: usize,
    /// The format of their sink.
    pub format: String,
    /// Where that writes to, if it writes to a place.
    pub location: Option<Location>,
    /// What it needs to publish them, again if need be.
    pub sink: Value,
}

/// `fence/<generation>`: one start of the query. The highest generation owns the checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FenceRecord {
    /// The run that claimed the checkpoint.
    pub run_id: Uuid,
}

/// `history/<source>/<first>-<last>`: the entries of a source over a range of batches, merged in
/// the background so that neither a restart nor a purge depends on the number of batches.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HistoryRecord {
    /// The first batch covered.
    pub first_batch: u64,
    /// The last batch covered.
    pub last_batch: u64,
    /// The entries that still matter, oldest batch first.
    pub entries: Vec<Box<RawValue>>,
}

/// The later of two watermarks in milliseconds, of which 0 is none.
pub(crate) fn later(one_ms: i64, other_ms: i64) -> i64 {
    match (one_ms, other_ms) {
        (0, watermark_ms) | (watermark_ms, 0) => watermark_ms,
        (one_ms, other_ms) => one_ms.max(other_ms),
    }
}
