//! What a start is told of its checkpoint.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::records::{CommitRecord, Metadata, OffsetsRecord};

/// What [`Checkpoint::open`](super::Checkpoint::open) found.
#[derive(Debug)]
pub struct Recovered {
    /// Who the query is; `None` at its first start.
    pub metadata: Option<Metadata>,
    /// How to go on.
    pub decision: Recovery,
    /// Per source, everything it has to remember, oldest first, the batch to rerun included. As
    /// many as [`Metadata`] has sources.
    pub history: Vec<Vec<Box<RawValue>>>,
    /// The commit of the last committed batch.
    pub last_commit: Option<CommitRecord>,
}

/// How a start goes on.
#[derive(Debug)]
pub enum Recovery {
    /// No batch was ever planned.
    Fresh,
    /// Plan the next batch.
    Next {
        /// Its number.
        batch_id: u64,
        /// What the last batch read.
        last_offsets: OffsetsRecord,
        /// The commit of the last batch.
        last_commit: CommitRecord,
    },
    /// Run a batch that was planned but not committed, exactly as it was planned.
    Rerun {
        /// Its plan.
        offsets: OffsetsRecord,
        /// The batch before it, whose ends are this one's starts; `None` for the first batch.
        previous: Option<OffsetsRecord>,
    },
}

impl Recovery {
    /// The settings that the last planned batch recorded; `None` if there was none.
    pub fn settings(&self) -> Option<&BTreeMap<String, String>> {
        match self {
            Recovery::Fresh => None,
            Recovery::Next { last_offsets, .. } => Some(&last_offsets.conf),
            Recovery::Rerun { offsets, .. } => Some(&offsets.conf),
        }
    }
}
