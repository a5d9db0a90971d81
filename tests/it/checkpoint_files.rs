//! The files of a checkpoint through crashes, power cuts, two writers and damage.

mod crashes;
mod damage;
mod format;
mod upkeep;
mod writers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::memory::InMemory;
use serde_json::json;
use serde_json::value::RawValue;
use tidemill::Result;
use tidemill::checkpoint::records::{
    CommitRecord, Metadata, OffsetsRecord, QueryDefinition, SinkDefinition, SourceDefinition, SourceOffset,
};
use tidemill::checkpoint::{Checkpoint, Recovered, Recovery, verify};
use tidemill::storage::{ObjectStorage, Storage};
use url::Url;
use uuid::Uuid;

const SOURCES: usize = 2;

fn storage(store: &InMemory) -> Result<Arc<dyn Storage>> {
    let url = match Url::parse("memory:///checkpoint/") {
        Ok(url) => url,
        Err(error) => panic!("{error}"),
    };
    // A clone of the store is the same store.
    Ok(Arc::new(ObjectStorage::new(Arc::new(store.clone()), &url)?))
}

fn metadata() -> Metadata {
    let source = SourceDefinition {
        format: "json".into(),
        location: None,
        columns: Vec::new(),
        inferred: false,
        options: BTreeMap::new(),
    };
    let sink = SinkDefinition {
        format: "noop".into(),
        location: None,
        columns: Vec::new(),
        partition_by: Vec::new(),
        options: Default::default(),
    };
    let definition = QueryDefinition {
        sources: vec![source; SOURCES],
        sink,
        output_mode: "append".into(),
        operators: Vec::new(),
    };
    Metadata { id: Uuid::from_u128(7), created_by: "tidemill test".into(), copy_of: None, definition }
}

fn raw(text: String) -> Box<RawValue> {
    match RawValue::from_string(text) {
        Ok(raw) => raw,
        Err(error) => panic!("{error}"),
    }
}

/// What a source remembers of a batch; the same whoever plans it.
fn entries(source: usize, batch: u64) -> Vec<Box<RawValue>> {
    match (source, batch % 3) {
        (0, _) => (0..2).map(|file| raw(format!(r#"{{"file":"{batch}-{file}"}}"#))).collect(),
        (_, 0) => vec![raw(batch.to_string())],
        _ => Vec::new(),
    }
}

/// A plan that shows which run made it.
fn offsets(run: u128, batch: u64) -> OffsetsRecord {
    let source = |source, end| SourceOffset {
        start: serde_json::Value::Null,
        end,
        entries: entries(source, batch),
        behind: Vec::new(),
    };
    OffsetsRecord {
        batch_id: batch,
        batch_timestamp_ms: 1_000 + batch as i64,
        batch_watermark_ms: batch as i64 * 10,
        conf: BTreeMap::from([("plannedBy".to_string(), run.to_string())]),
        sources: vec![source(0, json!({ "logOffset": batch })), source(1, json!(batch / 3))],
    }
}

/// A commit that shows which run made it.
fn commit(run: u128, batch: u64) -> CommitRecord {
    CommitRecord {
        batch_id: batch,
        query_id: None,
        next_batch_watermark_ms: batch as i64 * 10 + 10,
        streams: vec![],
        sink: json!({ "committedBy": run.to_string() }),
        late: vec![],
        state: json!(null),
        copied: false,
        let_go: None,
    }
}

/// What the runs on one checkpoint were told, over all of their lives.
#[derive(Debug, Default, Clone)]
struct Journal {
    planned: BTreeSet<u64>,
    plans_tried: BTreeSet<u64>,
    /// Which runs were told that they committed the batch.
    committed: BTreeMap<u64, BTreeSet<u128>>,
    commits_tried: BTreeSet<u64>,
}

#[derive(Debug, Default, Clone)]
struct SharedJournal(Arc<Mutex<Journal>>);

impl SharedJournal {
    fn write(&self) -> MutexGuard<'_, Journal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An independent copy, for one of several continuations.
    fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.write().clone())))
    }

    fn has_one_commit_per_batch(&self) {
        let journal = self.write();
        let twice = journal.committed.iter().find(|(_, runs)| runs.len() > 1);
        assert_eq!(twice, None, "two runs committed the same batch");
    }
}

/// One run of a query: opens the checkpoint, checks what it finds, and works until `batches`
/// batches are committed.
#[derive(Debug, Clone)]
struct Run {
    id: u128,
    batches: u64,
    retain: u64,
    journal: SharedJournal,
}

impl Run {
    fn new(id: u128, batches: u64, retain: u64, journal: &SharedJournal) -> Self {
        Self { id, batches, retain, journal: journal.clone() }
    }

    async fn go(self, storage: Arc<dyn Storage>) -> Result<()> {
        let promised = self.journal.write().clone();
        let (checkpoint, recovered) = Checkpoint::open(storage, Uuid::from_u128(self.id)).await?;
        self.check(&recovered, &promised);
        if recovered.metadata.is_none() {
            checkpoint.create_metadata(&metadata()).await?;
        }
        let next = match recovered.decision {
            Recovery::Fresh => 0,
            Recovery::Next { batch_id, .. } => batch_id,
            Recovery::Rerun { offsets, .. } => {
                self.commit(&checkpoint, offsets.batch_id).await?;
                offsets.batch_id + 1
            }
        };
        checkpoint.maintain(self.retain, &|_, entries| entries).await?;
        for batch in next..self.batches {
            self.journal.write().plans_tried.insert(batch);
            checkpoint.write_offsets(&offsets(self.id, batch)).await?;
            self.journal.write().planned.insert(batch);
            self.commit(&checkpoint, batch).await?;
            checkpoint.maintain(self.retain, &|_, entries| entries).await?;
        }
        Ok(())
    }

    async fn commit(&self, checkpoint: &Checkpoint, batch: u64) -> Result<()> {
        self.journal.write().commits_tried.insert(batch);
        checkpoint.write_commit(&commit(self.id, batch)).await?;
        self.journal.write().committed.entry(batch).or_default().insert(self.id);
        Ok(())
    }

    /// What was promised before the start must be there, and nothing that nobody tried.
    fn check(&self, recovered: &Recovered, promised: &Journal) {
        let journal = self.journal.write();
        let (planned, committed) = match &recovered.decision {
            Recovery::Fresh => (None, None),
            Recovery::Next { batch_id, last_offsets, last_commit } => {
                assert_eq!(*batch_id, last_offsets.batch_id + 1);
                assert_eq!(Some(last_commit), recovered.last_commit.as_ref());
                (Some(last_offsets), Some(last_offsets.batch_id))
            }
            Recovery::Rerun { offsets, previous } => {
                let before = previous.as_ref().map(|previous| previous.batch_id);
                assert_eq!(before, offsets.batch_id.checked_sub(1));
                (Some(offsets), before)
            }
        };
        assert_eq!(recovered.last_commit.as_ref().map(|commit| commit.batch_id), committed);
        assert!(committed >= promised.committed.keys().last().copied(), "a commit was lost");
        assert!(committed <= journal.commits_tried.last().copied(), "a commit came from nowhere");
        let batch = planned.map(|offsets| offsets.batch_id);
        assert!(batch >= promised.planned.last().copied(), "a plan was lost");
        assert!(batch <= journal.plans_tried.last().copied(), "a plan came from nowhere");

        if let Some(planned) = planned {
            let run = planned.conf.get("plannedBy").and_then(|run| run.parse().ok()).unwrap_or_default();
            assert_eq!(format!("{planned:?}"), format!("{:?}", offsets(run, planned.batch_id)));
        }
        if recovered.metadata.is_some() {
            for source in 0..SOURCES {
                let all = (0..batch.map_or(0, |batch| batch + 1)).flat_map(|batch| entries(source, batch));
                let all: Vec<String> = all.map(|entry| entry.get().to_string()).collect();
                let found: Vec<&str> = recovered.history[source].iter().map(|entry| entry.get()).collect();
                assert_eq!(found, all, "the history of source {source}");
            }
        }
    }
}

/// A checkpoint with some batches, and the journal of how it came to be.
async fn checkpoint_with(batches: u64, retain: u64) -> Result<(InMemory, SharedJournal)> {
    let store = InMemory::new();
    let journal = SharedJournal::default();
    Run::new(1, batches, retain, &journal).go(storage(&store)?).await?;
    Ok((store, journal))
}

async fn verify_finds_nothing(storage: &dyn Storage, when: &str) -> Result<()> {
    let report = verify(storage).await?;
    assert!(report.findings.is_empty(), "{when}: {report}");
    Ok(())
}
