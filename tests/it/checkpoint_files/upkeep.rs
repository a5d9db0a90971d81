//! What a trigger costs, and that neither files nor work grow with the number of batches.

use object_store::memory::InMemory;
use serde_json::value::RawValue;
use tidemill::Result;
use tidemill::checkpoint::{Checkpoint, Recovery};
use uuid::Uuid;

use super::{Run, SharedJournal, commit, metadata, offsets, raw, storage, verify_finds_nothing};
use crate::support::faults::Faults;

fn keep(_source: usize, entries: Vec<Box<RawValue>>) -> Vec<Box<RawValue>> {
    entries
}

#[tokio::test]
async fn a_trigger_makes_five_calls() -> Result<()> {
    let faults = Faults::new(None);
    let store = InMemory::new();
    let (checkpoint, _) = Checkpoint::open(faults.storage(storage(&store)?), Uuid::from_u128(1)).await?;
    checkpoint.create_metadata(&metadata()).await?;
    checkpoint.maintain(100, &keep).await?;
    for batch in 0..50 {
        let before = faults.calls().len();
        checkpoint.write_offsets(&offsets(1, batch)).await?;
        checkpoint.write_commit(&commit(1, batch)).await?;
        checkpoint.maintain(4, &keep).await?;
        let calls: Vec<String> = faults.calls()[before..].iter().map(ToString::to_string).collect();
        let plan = format!("create offsets/{batch}");
        let done = format!("create commits/{batch}");
        let (trigger, upkeep) = calls.split_at(5);
        assert_eq!(trigger, ["size fence/1", &plan, "size fence/1", &done, "size fence/1"]);
        assert_eq!(upkeep.is_empty(), batch % 10 != 9, "{upkeep:?}");
    }
    Ok(())
}

#[tokio::test]
async fn upkeep_does_not_grow() -> Result<()> {
    let (store, journal) = (InMemory::new(), SharedJournal::default());
    let faults = Faults::new(None);
    Run::new(1, 500, 20, &journal).go(faults.storage(storage(&store)?)).await?;
    let early = faults.calls().len();
    let storage = storage(&store)?;
    let faults = Faults::new(None);
    Run::new(2, 1_000, 20, &journal).go(faults.storage(std::sync::Arc::clone(&storage))).await?;
    let late = faults.calls().len();
    assert!(late < early + early / 10, "500 batches took {early} calls, the next 500 took {late}");

    let mut files = Vec::new();
    for dir in ["offsets", "commits", "history/0", "history/1", "fence", ""] {
        let listed = storage.list(dir).await?.into_iter().map(|file| file.path);
        files.push(listed.collect::<Vec<_>>());
    }
    assert_eq!(files.iter().map(Vec::len).collect::<Vec<_>>(), [20, 20, 1, 1, 1, 1], "{files:?}");
    assert_eq!(files[2], ["history/0/0-999"]);
    verify_finds_nothing(&*storage, "after 1000 batches").await
}

/// Retains batches that were asked for, however few there are beyond.
#[tokio::test]
async fn the_last_batches_are_retained() -> Result<()> {
    let (store, journal) = (InMemory::new(), SharedJournal::default());
    for (run, batches) in [(1, 50), (2, 99), (3, 120), (4, 130)] {
        Run::new(run, batches, 100, &journal).go(storage(&store)?).await?;
        let kept = storage(&store)?.list("commits").await?.len() as u64;
        assert_eq!(kept, batches.min(100), "of {batches}");
    }
    Ok(())
}

/// Segments beyond the limit are not rewritten, until their source has forgotten enough.
#[tokio::test]
async fn large_segments_shrink_when_their_source_forgets() -> Result<()> {
    const PER_BATCH: u64 = 700;
    let (store, faults) = (InMemory::new(), Faults::new(None));
    let open = async |run| Checkpoint::open(faults.storage(storage(&store)?), Uuid::from_u128(run)).await;
    let (checkpoint, _) = open(1).await?;
    checkpoint.create_metadata(&metadata()).await?;
    let plan = |batch: u64| {
        let mut plan = offsets(1, batch);
        plan.sources[0].entries =
            (0..PER_BATCH).map(|file| raw((batch * PER_BATCH + file).to_string())).collect();
        plan
    };
    for batch in 0..110 {
        checkpoint.write_offsets(&plan(batch)).await?;
        checkpoint.write_commit(&commit(1, batch)).await?;
        checkpoint.maintain(10, &keep).await?;
    }
    let segments = async || storage(&store)?.list("history/0").await.map(|files| files.len());
    assert_eq!(segments().await?, 11);
    assert_eq!(storage(&store)?.list("history/1").await?.len(), 2);

    // A start that finds nothing to forget reads one segment to see that, once.
    let (checkpoint, recovered) = open(2).await?;
    assert_eq!(recovered.history[0].len() as u64, 110 * PER_BATCH);
    let before = faults.calls().len();
    checkpoint.maintain(10, &keep).await?;
    checkpoint.maintain(10, &keep).await?;
    let calls: Vec<String> = faults.calls()[before..].iter().map(ToString::to_string).collect();
    assert_eq!(calls, ["size fence/2", "read history/0/0-9"]);

    // One that forgets the first half merges the rest.
    let (checkpoint, _) = open(3).await?;
    let young = |entry: &RawValue| entry.get().parse::<u64>().is_ok_and(|file| file >= 50 * PER_BATCH);
    let forget = |source: usize, mut entries: Vec<Box<RawValue>>| {
        entries.retain(|entry| source == 1 || young(entry));
        entries
    };
    checkpoint.maintain(10, &forget).await?;
    assert_eq!(segments().await?, 2);
    let (_, recovered) = open(4).await?;
    assert_eq!(recovered.history[0].len() as u64, 60 * PER_BATCH);
    assert!(matches!(recovered.decision, Recovery::Next { batch_id: 110, .. }));
    verify_finds_nothing(&*storage(&store)?, "after forgetting").await
}
